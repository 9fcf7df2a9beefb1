"""What tokens cost: the rate card and the rules of the bill."""
