"""What is not MICE yet becomes MICE."""
