"""Requests of the code under test, as they pass through its HTTP library."""
