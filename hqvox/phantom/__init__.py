"""Phantoms: synthetic people whose every answer is known."""
