"""Training and evaluating the neutral-face network."""
