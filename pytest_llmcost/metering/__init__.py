"""Where tokens come from: payloads, counts, captured traffic. Imports `pricing` and below."""
