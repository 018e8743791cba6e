"""Restoring generated faces: GFPGAN, and the networks that its fine-tuning needs."""
