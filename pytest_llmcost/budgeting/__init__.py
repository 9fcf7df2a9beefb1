"""Who spent what, and was it allowed. Imports `metering` and below."""
