"""Errors as people in the browser see them."""

from __future__ import annotations

import re

_PLACE = re.compile(
    r"""
    (?<![\w.])                      # not in the middle of a word, as in 3/7
    (?:[a-z][a-z0-9+.-]*:/)?        # s3://, postgresql://user:password@
    /+
    (?:[^\s/:'"`,;()<>]+(?::[^\s/'"`,;()<>]+)?/+)*   # folders; a host may have a port
    (?=[^\s/:'"`,;()<>])            # what is left: the last name
    """,
    re.VERBOSE | re.IGNORECASE,
)


def without_paths(text: str) -> str:
    """The text with only the last name of every absolute path and address.

    Where a server keeps its files, or its database, is nothing to tell an annotator.
    """
    return _PLACE.sub("", text)
