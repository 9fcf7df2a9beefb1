"""Compare a run's ledger with the usage and cost that Anthropic reports for the organisation.

Only `cli/reconcile.py` may import this room. It must not know pytest, budgets or recordings.
"""
