"""What is allowed, and whether it was kept.

It knows limits and amounts, and must not know tests, rows or files: it judges what it is given.
"""
