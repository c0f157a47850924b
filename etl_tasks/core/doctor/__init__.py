"""What ``doctor`` makes of what it finds. Pure: the facts are arguments, the verdicts come back."""
