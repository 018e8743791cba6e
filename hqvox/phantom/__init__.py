"""Phantoms: synthetic people, faces and voices, rendered with ground truth."""
