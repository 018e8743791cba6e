"""The one exception that the model layer raises at its users."""


class ModelError(Exception):
    """A model or weight file cannot be used; the message is one line: what, where, what to do."""
