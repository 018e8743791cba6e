"""The exception that networks and their weights raise for users."""


class ModelError(Exception):
    """A model or weight file cannot be used; the message is one line: what, where, what to do."""
