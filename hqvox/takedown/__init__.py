"""Taking photographs and people down: what is erased, and where."""
