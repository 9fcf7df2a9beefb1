"""What tokens cost: dated rates and the rules of the bill; knows no responses, tests or HTTP."""
