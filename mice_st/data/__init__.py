"""Collections, files, first stages."""
