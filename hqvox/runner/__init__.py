"""Bringing a workspace up to date: what is missing or stale, who does it, how it shows."""
