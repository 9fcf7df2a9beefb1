"""A ledger against what was really billed. Beside `reporting`; the command line alone uses it."""
