"""A run beside another run, another model or another cache state."""
