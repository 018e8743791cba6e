"""Training our own bundled weights."""
