"""Ledgers beside what Anthropic has billed."""
