"""Opt-out headers: ``X-Robots-Tag: noai``, or scoped, ``X-Robots-Tag: hqvox: noimageindex``."""

from __future__ import annotations

from collections.abc import Collection, Iterable

_VALUED = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
"""Directives with a value of their own, so that what stands before the colon is no user agent."""
_MEANS = {"none": ("noindex",)}


def opted_out(headers: Iterable[str], agent: str, refusing: Collection[str]) -> str | None:
    """The first directive of X-Robots-Tag ``headers`` that is in ``refusing`` and meant for us.

    A user agent before a colon scopes what follows it in the same header; ``agent`` is our own
    name. Google's description of the header: developers.google.com/search/docs, "Robots meta tag".
    """
    for header in headers:
        ours = True
        for part in header.lower().split(","):
            name, colon, rest = part.strip().partition(":")
            directive = part.strip()
            if colon and name.strip() not in _VALUED:
                ours = name.strip() in (agent.lower(), "*")
                directive = rest.strip()
            for meant in (directive, *_MEANS.get(directive, ())):
                if ours and meant in refusing:
                    return meant
    return None
