"""Training and evaluation of the neutral-face network."""
