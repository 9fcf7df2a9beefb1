"""What a run spent, and the files that hold it."""
