"""One pure renderer per format; each sees only the ledger. Imports `budgeting` and below."""
