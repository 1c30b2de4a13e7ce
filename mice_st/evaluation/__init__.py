"""Measuring how well a model ranks."""
