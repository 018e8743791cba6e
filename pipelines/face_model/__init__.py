"""The statistical face model behind pose: shape, landmark errors, and their fits."""
