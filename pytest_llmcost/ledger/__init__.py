"""Who spent what in a run, and the file that holds it.

It knows owners, calls and the budgets of several tests, and must know neither pytest, nor a rate
card (but for its notes), nor how anything is shown.
"""
