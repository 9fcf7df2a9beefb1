"""Budgets and what became of them."""
