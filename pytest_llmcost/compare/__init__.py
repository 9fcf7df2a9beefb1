"""A run against itself or an earlier run under a change: of prompts, prices, model or cache.

It takes ledgers, a rate card and a date, and must not know where they come from or how the
result is shown.
"""
