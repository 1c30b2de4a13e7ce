"""Models on the Hub: what goes there, the card, the push, and the verification of what lies there."""
