"""The app's pages: each has ``render(context)``."""
