"""The paper's metrics as pure array functions (SF2F section 5 and appendix E.2).

Embeddings are rows, (n, d). ``evaluate.py`` makes them of generated and real pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import svdvals
from scipy.stats import hypergeom

F64 = NDArray[np.float64]

KS = (1, 2, 5, 10)
"""The k of the paper's Recall@k."""
GALLERY_SIZE = 100
"""Identities in a gallery, as in the released code: chance is 1 % at R@1 and 10 % at R@10."""
SCORE_SPLITS = 5
"""Number of subsets over which a score's deviation is taken, as in the released code."""
_EPSILON = 1e-12
"""Below this length a vector is not scaled to 1 (E.2 names it ε, section 4 gives the value)."""


def normalised(rows: ArrayLike) -> F64:
    """Rows (n, d) scaled to length 1; a zero row stays zero."""
    values = np.asarray(rows, dtype=np.float64)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return values / np.maximum(length, _EPSILON)


def ground_truth(
    embeddings: ArrayLike, identity: ArrayLike, n_identities: int, renormalise: bool = True
) -> F64:
    """Each identity's embedding: the mean of its faces' normalised ones, normalised (E.2).

    ``renormalise``: False leaves the mean as it is, shorter than 1 (released code).
    ``embeddings``: (faces, d); ``identity``: (faces,), 0 to n_identities - 1, each of which has a
    face. Returns (n_identities, d). Raises ValueError for an identity without a face.
    """
    rows, label = normalised(embeddings), np.asarray(identity, dtype=np.int64)
    counts = np.bincount(label, minlength=n_identities)
    if len(counts) != n_identities or not counts.all():
        raise ValueError(f"faces of {np.count_nonzero(counts)} of {n_identities} identities")
    total = np.zeros((n_identities, rows.shape[1]))
    np.add.at(total, label, rows)
    means = total / counts[:, None]
    return normalised(means) if renormalise else means


def cosine(queries: ArrayLike, targets: ArrayLike) -> float:
    """Mean cosine, -1 to 1, between the rows of both, (n, d) each."""
    return float((normalised(queries) * normalised(targets)).sum(axis=1).mean())


def cosine_to_one_face(queries: ArrayLike, means: ArrayLike) -> float:
    """Mean cosine between a query and one real face (AVP-GAN, equation 15), -1 to 1.

    ``means``: (n, d), for each query the mean of its identity's normalised embeddings, not
    normalised again. The product with it is the exact mean over all of the identity's faces, not
    over one that was chosen at random.
    """
    return float((normalised(queries) * np.asarray(means, np.float64)).sum(axis=1).mean())


def l1(queries: ArrayLike, targets: ArrayLike) -> float:
    """Mean over rows of the sum over dimensions of ``|u − u′|``.

    The tables' figures (18 to 26 for 512 dimensions of unit length) are sums, not means.
    """
    difference = np.asarray(queries, dtype=np.float64) - np.asarray(targets, dtype=np.float64)
    return float(np.abs(difference).sum(axis=1).mean())


def ranks(queries: ArrayLike, identity: ArrayLike, gallery: ArrayLike) -> NDArray[np.int64]:
    """How many identities of the gallery come before a query's own, by cosine, (n,).

    ``queries``: (n, d); ``identity``: (n,), rows of ``gallery``, (identities, d). Ties with
    the query's own and NaN count as before it, so a generator that gives everybody the same face
    gains nothing.
    """
    label = np.asarray(identity, dtype=np.int64)
    similarity = normalised(queries) @ normalised(gallery).T
    each = np.arange(len(label))
    mine = similarity[each, label][:, None]
    before = ~(similarity < mine)
    before[each, label] = False
    return before.sum(axis=1)


def recall_at_k(
    queries: ArrayLike,
    identity: ArrayLike,
    gallery: ArrayLike,
    ks: Sequence[int] = KS,
    gallery_size: int = GALLERY_SIZE,
) -> dict[int, float]:
    """Recall@k in per cent: how often a query finds its identity among the k most similar.

    Arguments as for ``ranks``. A gallery holds the query's own identity and ``gallery_size`` - 1
    of the others; the result is the exact mean over all such galleries, not over a random sample
    of them. With r of the N - 1 others before its own, a query's identity is among the first k of a
    gallery where at most k - 1 of these r are in it: a hypergeometric probability. With fewer
    identities than ``gallery_size`` the gallery is all of them; see ``chance``.
    """
    before = ranks(queries, identity, gallery)
    count = len(np.asarray(gallery))
    size = min(gallery_size, count)
    # Population, those before, others in the gallery.
    return {k: 100.0 * float(hypergeom.cdf(k - 1, count - 1, before, size - 1).mean()) for k in ks}


def recall_in_galleries(
    queries: ArrayLike,
    gallery: ArrayLike,
    galleries: Sequence[tuple[int, int]],
    ks: Sequence[int] = KS,
) -> dict[int, float]:
    """Recall@k in per cent, averaged over fixed galleries of consecutive people (released code).

    ``queries``, ``gallery``: (people, d), row i of both is of person i. ``galleries``: first person
    and the one after the last; those without people are left out.
    """
    rows, targets = np.asarray(queries, np.float64), np.asarray(gallery, np.float64)
    parts = [slice(*edges) for edges in galleries if edges[0] < len(targets)]
    before = [ranks(rows[p], np.arange(len(targets[p])), targets[p]) for p in parts]
    return {k: 100.0 * float(np.mean([(each < k).mean() for each in before])) for k in ks}


def chance(k: int, n_identities: int, gallery_size: int = GALLERY_SIZE) -> float:
    """Recall@k in per cent of random guesses."""
    return 100.0 * min(1.0, k / min(gallery_size, n_identities))


@dataclass(frozen=True)
class Score:
    """A mean and its standard deviation (of the population, as the papers' code has it)."""

    mean: float
    deviation: float

    @staticmethod
    def of(values: ArrayLike) -> Score:
        """Mean and deviation of some numbers."""
        numbers = np.asarray(values, dtype=np.float64)
        return Score(float(numbers.mean()), float(numbers.std()))


def spread(pictures: ArrayLike) -> float:
    """Mean distance of two pictures of a set: the root mean square over pixels and channels.

    ``pictures``: (n, …), two or more. Raises ValueError for fewer.
    """
    rows = np.asarray(pictures, dtype=np.float64)
    rows = rows.reshape(len(rows), -1)
    if len(rows) < 2:
        raise ValueError("a distance needs two pictures")
    squares = (rows**2).sum(axis=1)
    products = rows @ rows.T
    first, second = np.triu_indices(len(rows), 1)
    apart = squares[first] + squares[second] - 2 * products[first, second]
    return float(np.sqrt(np.maximum(apart, 0.0) / rows.shape[1]).mean())


def identification(embeddings: ArrayLike, people: ArrayLike) -> float:
    """Share of clips (%) that are nearest to their own person, by cosine.

    ``embeddings``: (clips, d); ``people``: (clips,), 0, 1, …, each with a clip. A person is the
    mean of the normalised clips, without the clip in question. Clips of people with one clip only
    are no queries; NaN where there is no query. Ties count as wrong.
    """
    rows, label = normalised(embeddings), np.asarray(people, dtype=np.int64)
    count = int(label.max()) + 1
    sums = np.zeros((count, rows.shape[1]))
    np.add.at(sums, label, rows)
    similarity = rows @ normalised(sums).T
    each = np.arange(len(rows))
    similarity[each, label] = (rows * normalised(sums[label] - rows)).sum(axis=1)
    mine = similarity[each, label].copy()
    similarity[each, label] = -np.inf
    asked = np.bincount(label)[label] > 1
    return 100.0 * float((similarity.max(axis=1) < mine)[asked].mean()) if asked.any() else np.nan


def equal_error_rate(embeddings: ArrayLike, people: ArrayLike) -> float:
    """The rate (%) at which as many pairs of one person are refused as of two are accepted.

    Over all pairs of clips, by cosine; arguments as for ``identification``. NaN without pairs of
    both kinds. Between two thresholds the rates are interpolated.
    """
    rows, label = normalised(embeddings), np.asarray(people, dtype=np.int64)
    first, second = np.triu_indices(len(rows), 1)
    scores, same = (rows @ rows.T)[first, second], label[first] == label[second]
    if not same.any() or same.all():
        return float("nan")
    order = np.argsort(scores, kind="stable")
    values, same = scores[order], same[order]
    # Thresholds between values; equal ones are accepted or refused together.
    ends = np.flatnonzero(np.append(values[1:] != values[:-1], True))
    refused = np.concatenate([[0], np.cumsum(same)[ends]]) / same.sum()
    accepted = 1 - np.concatenate([[0], np.cumsum(~same)[ends]]) / (~same).sum()
    after = int(np.argmax(refused >= accepted))
    gap_before, gap_after = (accepted - refused)[[after - 1, after]]
    share = gap_before / (gap_before - gap_after)
    return 100.0 * float(refused[after - 1] + share * (refused[after] - refused[after - 1]))


def inception_scores(
    probabilities: ArrayLike, splits: int = SCORE_SPLITS, seed: int | Sequence[int] | None = 0
) -> F64:
    """exp of the mean KL divergence of p(y|x) from p(y), of each split, (splits,).

    With VGGFace2's classifier it is the VGGFace Score, with Inception v3 the Inception Score
    (Salimans et al. 2016). ``probabilities``: (n, classes), rows summing to 1. Pictures are dealt
    to the splits at random by ``seed``, so that no split holds few people many times, or in order
    where it is None; n that is no multiple of ``splits`` leaves parts that differ by one. Raises
    ValueError for fewer pictures than splits.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    if len(rows) < splits:
        raise ValueError(f"{len(rows)} pictures for {splits} splits")
    count = len(rows)
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    edges = [i * count // splits for i in range(splits + 1)]
    scores = []
    for first, end in pairwise(edges):
        subset = order[first:end]
        given, marginal = rows[subset], rows[subset].mean(axis=0)
        # 0 log 0 is 0; where the marginal is 0, so is every row.
        log_ratio = np.log(np.where(given > 0, given, 1.0)) - np.log(
            np.where(marginal > 0, marginal, 1.0)
        )
        scores.append(np.exp((given * log_ratio).sum(axis=1).mean()))
    return np.array(scores)


def fid(generated: ArrayLike, real: ArrayLike) -> float:
    """Fréchet distance between two sets of features, (n, d) and (m, d) (Heusel et al. 2017).

    ``|μ₁ − μ₂|² + tr(C₁ + C₂ − 2 (C₁C₂)^½)``. With centred features X₁ and X₂, over √(n − 1) and
    √(m − 1), the last trace is the sum of the singular values of X₁X₂ᵀ: exact also where there are
    fewer pictures than dimensions, and no matrix root is taken. Raises ValueError for fewer than
    two pictures on a side.
    """
    sides = [np.asarray(rows, dtype=np.float64) for rows in (generated, real)]
    if min(len(rows) for rows in sides) < 2:
        raise ValueError("FID needs two pictures on each side")
    means = [rows.mean(axis=0) for rows in sides]
    centred = [
        (rows - mean) / np.sqrt(len(rows) - 1) for rows, mean in zip(sides, means, strict=True)
    ]
    first, second = (_no_taller(x) for x in centred)
    cross = svdvals(first @ second.T).sum()
    apart = ((means[0] - means[1]) ** 2).sum()
    return float(apart + (first**2).sum() + (second**2).sum() - 2.0 * cross)


def _no_taller(rows: F64) -> F64:
    """At most d rows with the same covariance: a triangular factor where there are more."""
    return rows if rows.shape[0] <= rows.shape[1] else np.asarray(np.linalg.qr(rows, mode="r"))
