"""Precision and recall of one class, as pure array code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def curve(
    scores: NDArray[np.floating], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return descending thresholds with the precision and recall of ``score >= threshold``.

    ``scores`` and ``positive`` are (n,). Equal scores share one entry.
    """
    values, hits, total = _counts(scores, positive)
    return values, hits / total, hits / max(int(positive.sum()), 1)


def _counts(
    scores: NDArray[np.floating], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    order = np.argsort(-scores, kind="stable")
    ranked = np.asarray(scores, np.float64)[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    return ranked[last], np.cumsum(positive[order])[last], np.flatnonzero(last) + 1


def recall_at(scores: NDArray[np.floating], positive: NDArray[np.bool_], precision: float) -> float:
    """Return the highest recall that any threshold reaches at no less than ``precision``."""
    _, precisions, recalls = curve(scores, positive)
    return float(recalls[precisions >= precision].max(initial=0.0))


def lowest_threshold(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], precision: float
) -> float:
    """Return the lowest threshold that has at least ``precision``, halfway to the next score.

    If none has it, return the threshold of highest precision.
    """
    thresholds, precisions, _ = curve(scores, positive)
    enough = np.flatnonzero(precisions >= precision)
    at = int(enough[-1]) if len(enough) else int(np.argmax(precisions))
    below = thresholds[at + 1] if at + 1 < len(thresholds) else thresholds[at]
    return float((thresholds[at] + below) / 2)


def precision_recall(
    accepted: NDArray[np.bool_], positive: NDArray[np.bool_]
) -> tuple[float, float]:
    """Return precision (nan if nothing is accepted) and recall of decisions (n,)."""
    hits = int((accepted & positive).sum())
    precision = hits / int(accepted.sum()) if accepted.any() else float("nan")
    return precision, hits / max(int(positive.sum()), 1)


def interval(
    accepted: NDArray[np.bool_],
    positive: NDArray[np.bool_],
    identity: NDArray[np.str_],
    resamples: int = 1000,
) -> NDArray[np.float64]:
    """Return 95 % intervals [[precision low, high], [recall low, high]], shape (2, 2).

    Bootstrap over identities, because faces of one person are correlated. The seed is fixed, so the
    same input gives the same interval.
    """
    _, person = np.unique(identity, return_inverse=True)
    people = int(person.max()) + 1
    hits, predicted, actual = (
        np.bincount(person, weights=values, minlength=people)
        for values in (accepted & positive, accepted, positive)
    )
    rng = np.random.default_rng(0)
    weight = rng.multinomial(people, np.full(people, 1 / people), size=resamples)
    hit = weight @ hits
    shares = np.stack(
        [hit / np.maximum(weight @ predicted, 1), hit / np.maximum(weight @ actual, 1)]
    )
    return np.quantile(shares, [0.025, 0.975], axis=1).T
