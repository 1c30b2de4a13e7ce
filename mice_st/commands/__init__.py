"""The command ``mice-st``."""
