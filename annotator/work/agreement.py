"""Agreement of two annotators who decided on the same identities independently.

**Overlap** (Jaccard): of an identity, the faces that both chose over those that either chose; 1
where both dropped it. The mean over identities.

**Cohen's kappa** per face: every face that both saw is an item, chosen or not chosen by each (of a
dropped identity none is). With the observed share of agreement p_o and the one that chance would
give, p_e = p_1·p_2 + (1 − p_1)(1 − p_2), where p_i is the share that annotator i chose:

    kappa = (p_o − p_e) / (1 − p_e)

1 is full agreement, 0 what chance gives. (J. Cohen, "A coefficient of agreement for nominal
scales", Educational and Psychological Measurement 20, 1960.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from annotator.log.decisions import Entry
from annotator.log.fold import overlap
from annotator.log.store import Store

Pair = tuple[Entry, Entry]
"""Two opinions on one identity."""


@dataclass(frozen=True)
class Agreement:
    """Of some doubly reviewed identities."""

    identities: int
    faces: int
    """That both annotators of an identity saw."""
    kappa: float
    """-1 to 1; NaN where there are no faces, or where both chose all, or none, of them."""
    observed: float
    """Share of faces on which both decided the same, 0 to 1; NaN without faces."""
    overlap: float
    """Mean over identities, 0 to 1; NaN without identities."""
    same_kind: float
    """Share of identities that both dropped or both chose from, 0 to 1; NaN without."""


def cohen_kappa(first: ArrayLike, second: ArrayLike) -> float:
    """Cohen's kappa of two annotators' yes or no on the same items, (n,) booleans.

    NaN without items, and where chance alone gives full agreement. Raises ValueError where the
    shapes differ.
    """
    one, two = np.asarray(first, bool), np.asarray(second, bool)
    if one.shape != two.shape or one.ndim != 1:
        raise ValueError(f"shapes {one.shape} and {two.shape}: should be one length")
    if not one.size:
        return float("nan")
    p_1, p_2 = one.mean(), two.mean()
    expected = p_1 * p_2 + (1 - p_1) * (1 - p_2)
    if expected == 1:
        return float("nan")
    return float(((one == two).mean() - expected) / (1 - expected))


def choices(pair: Pair) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Chosen or not by each, (n,), of the faces that both saw, in the first one's order."""
    first, second = (entry.decision for entry in pair)
    seen = {face.key for face in second.shown}
    both = [face.key for face in first.shown if face.key in seen]
    one, two = ({face.key for face in decision.faces} for decision in (first, second))
    return (
        np.array([key in one for key in both], bool),
        np.array([key in two for key in both], bool),
    )


def agreement(pairs: Sequence[Pair]) -> Agreement:
    """Agreement over identities; the faces of all are taken together for kappa."""
    pairs_of_choices = [choices(pair) for pair in pairs]
    one = np.concatenate([first for first, _ in pairs_of_choices] or [np.zeros(0, bool)])
    two = np.concatenate([second for _, second in pairs_of_choices] or [np.zeros(0, bool)])
    return Agreement(
        identities=len(pairs),
        faces=len(one),
        kappa=cohen_kappa(one, two),
        observed=_mean(one == two),
        overlap=_mean(overlap(*pair) for pair in pairs),
        same_kind=_mean(a.decision.kind == b.decision.kind for a, b in pairs),
    )


def by_annotators(pairs: Iterable[Pair]) -> dict[tuple[str, str], Agreement]:
    """Agreement of each two annotators, by their names in order."""
    of: dict[tuple[str, str], list[Pair]] = {}
    for one, two in pairs:
        if two.decision.annotator < one.decision.annotator:
            one, two = two, one
        of.setdefault((one.decision.annotator, two.decision.annotator), []).append((one, two))
    return {names: agreement(of[names]) for names in sorted(of)}


def double_reviews(store: Store) -> list[Pair]:
    """The first two opinions that stand on each identity that has two; settlements are none."""
    twice = {v.identity_id: v.opinions[:2] for v in store.state().values() if len(v.opinions) > 1}
    if not twice:
        return []
    whole = {entry.seq: entry for entry in store.entries(identity_ids=list(twice))}
    return [
        (whole[one.seq], whole[two.seq])
        for one, two in twice.values()
        if one.seq in whole and two.seq in whole
    ]


def _mean(values: Iterable[float]) -> float:
    array = np.fromiter(values, float)
    return float(array.mean()) if array.size else float("nan")
