"""The review UI: people pick 3 to 7 faces of every identity."""
