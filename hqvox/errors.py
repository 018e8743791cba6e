"""The one exception that commands turn into a line for the user."""


class HqvoxError(Exception):
    """Something the user can mend; the message is one line: what, where, what to do."""
