"""What tokens cost: usage in, an itemised bill out. Imports only `errors`."""
