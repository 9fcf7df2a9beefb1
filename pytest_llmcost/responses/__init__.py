"""What a response says it used: how answers arrive and are recorded; knows no price or date."""
