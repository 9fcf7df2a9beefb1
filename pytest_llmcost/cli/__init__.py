"""The command `llmcost`."""
