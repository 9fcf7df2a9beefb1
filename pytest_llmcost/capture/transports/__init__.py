"""The HTTP libraries and recorders that requests pass through."""
