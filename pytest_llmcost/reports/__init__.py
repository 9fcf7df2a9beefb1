"""A ledger as text for people."""
