"""What differs between two releases: who, which photographs, on which side, by which settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hqvox.release.read import Release


@dataclass(frozen=True)
class Comparison:
    """Ours against another release."""

    rows: list[tuple[str, int, int, int]]
    """What is counted; how many are in both, only in ours, only in the other."""
    moved: list[tuple[str, str, str]]
    """Identity id, its part in ours, its part in the other, where they differ."""
    settings: list[tuple[str, Any, Any]]
    """Setting, its value in ours and in the other, where they differ."""


def compare(ours: Release, other: Release) -> Comparison:
    """Compare by identity id, by the photographs' SHA-256, and by the audio's."""
    mine, theirs = _parts(ours), _parts(other)
    photos = [set(r.manifest(["photo_id"])["photo_id"].to_pylist()) for r in (ours, other)]
    rows = [
        _overlap("identities", set(mine), set(theirs)),
        _overlap("photographs", *photos),
    ]
    if ours.has_speech and other.has_speech:
        voices = [set(r.speech()["sha256"].to_pylist()) for r in (ours, other)]
        rows.append(_overlap("utterances", *voices))
    return Comparison(
        rows,
        [(i, mine[i], theirs[i]) for i in mine if i in theirs and mine[i] != theirs[i]],
        _differing(ours.info(), other.info()),
    )


def _parts(release: Release) -> dict[str, str]:
    table = release.identities()
    return dict(zip(table["identity_id"].to_pylist(), table["split"].to_pylist(), strict=True))


def _overlap(what: str, ours: set[Any], other: set[Any]) -> tuple[str, int, int, int]:
    return what, len(ours & other), len(ours - other), len(other - ours)


def _differing(ours: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    mine, theirs = (_flat({k: i.get(k) for k in _TOLD}) for i in (ours, other))
    keys = list(dict.fromkeys([*mine, *theirs]))
    return [(k, mine.get(k), theirs.get(k)) for k in keys if mine.get(k) != theirs.get(k)]


_TOLD = ("hqvox", "split", "selection", "weights", "config")


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat
