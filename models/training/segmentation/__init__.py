"""Training and evaluating the person-mask network."""
