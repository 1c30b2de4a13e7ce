"""Taking models apart and measuring them."""
