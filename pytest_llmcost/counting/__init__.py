"""How many tokens a prompt has, counted for free."""
