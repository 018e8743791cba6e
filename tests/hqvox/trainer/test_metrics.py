"""Every metric against a few plain lines that do the same the long way."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from hqvox.trainer.metrics import (
    KS,
    Score,
    chance,
    cosine,
    fid,
    ground_truth,
    inception_scores,
    l1,
    normalised,
    ranks,
    recall_at_k,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_similarity_is_the_mean_over_rows(rng):
    u, v = rng.standard_normal((2, 20, 7))
    cosines = [
        np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)) for a, b in zip(u, v, strict=True)
    ]
    assert cosine(u, v) == pytest.approx(np.mean(cosines))
    sums = [sum(abs(x - y) for x, y in zip(*pair, strict=True)) for pair in zip(u, v, strict=True)]
    assert l1(u, v) == pytest.approx(np.mean(sums))
    assert cosine(u, 3 * u) == pytest.approx(1.0)
    assert l1(u, u) == 0.0


def test_l1_of_unit_embeddings_is_on_the_scale_of_the_paper(rng):
    """Two independent unit vectors of 512 numbers are 25.5 apart: the paper's worst is 26.45."""
    u, v = normalised(rng.standard_normal((2, 200, 512)))
    assert l1(u, v) == pytest.approx(512 * 2 / np.sqrt(np.pi * 512), rel=0.01)


def test_ground_truth_is_the_normalised_mean_of_normalised_faces(rng):
    faces = rng.standard_normal((7, 5)) * rng.uniform(1, 9, (7, 1))
    identity = [2, 0, 0, 1, 2, 2, 1]
    truth = ground_truth(faces, identity, 3)
    for i in range(3):
        own = [
            f / np.linalg.norm(f) for f, label in zip(faces, identity, strict=True) if label == i
        ]
        mean = np.mean(own, axis=0)
        np.testing.assert_allclose(truth[i], mean / np.linalg.norm(mean))
    with pytest.raises(ValueError, match="2 of 3 identities"):
        ground_truth(faces[:5], [0, 0, 2, 2, 0], 3)


def test_recall_is_counted_by_hand(rng):
    gallery = np.eye(4)
    queries = np.array([[4, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1], [1, 0, 0, 9]])
    identity = [0, 1, 3, 3]
    assert ranks(queries, identity, gallery).tolist() == [0, 1, 3, 0]
    found = recall_at_k(queries, identity, gallery, ks=(1, 2, 3, 4))
    assert found == pytest.approx({1: 50.0, 2: 75.0, 3: 75.0, 4: 100.0})


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 8), st.integers(2, 8), st.integers(0, 10_000))
def test_recall_is_the_mean_over_every_gallery(count, size, seed):
    rng = np.random.default_rng(seed)
    gallery = rng.standard_normal((count, 3))
    identity = rng.integers(0, count, 6)
    queries = gallery[identity] + rng.standard_normal((6, 3))
    exact = recall_at_k(queries, identity, gallery, ks=(1, 2), gallery_size=size)
    cosines = normalised(queries) @ normalised(gallery).T
    for k in (1, 2):
        hits = []
        for query, own in zip(cosines, identity, strict=True):
            others = [i for i in range(count) if i != own]
            galleries = [{own, *c} for c in combinations(others, min(size, count) - 1)]
            found = [own in sorted(g, key=lambda i: -query[i])[:k] for g in galleries]
            hits.append(np.mean(found))
        assert exact[k] == pytest.approx(100 * np.mean(hits))


def test_queries_that_say_nothing_are_at_chance(rng):
    gallery = rng.standard_normal((378, 16))
    identity = np.repeat(np.arange(378), 20)
    found = recall_at_k(rng.standard_normal((len(identity), 16)), identity, gallery)
    for k in KS:
        # Deviation of a mean over 7,560 queries; they share a gallery, so be generous.
        assert found[k] == pytest.approx(chance(k, 378), abs=5 * np.sqrt(100 * k / 7560))
    assert [chance(k, 378) for k in KS] == [1.0, 2.0, 5.0, 10.0]
    assert chance(10, 40) == 25.0
    assert chance(10, 8) == 100.0


def test_the_same_for_everybody_finds_no_more_than_chance(rng):
    gallery = rng.standard_normal((50, 4))
    constant = np.tile(rng.standard_normal(4), (50, 1))
    found = recall_at_k(constant, np.arange(50), gallery)
    assert found == pytest.approx({k: 100 * k / 50 for k in KS})
    # Galleries of one embedding only, and embeddings that are not numbers, find nobody.
    assert recall_at_k(constant, np.arange(50), constant)[10] == 0.0
    assert recall_at_k(constant * np.nan, np.arange(50), gallery)[10] == 0.0


def test_inception_score_by_the_definition(rng):
    logits = rng.standard_normal((23, 6)) * 3
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    [score] = inception_scores(p, splits=1)
    marginal = p.mean(axis=0)
    divergences = [sum(a * np.log(a / b) for a, b in zip(row, marginal, strict=True)) for row in p]
    assert score == pytest.approx(np.exp(np.mean(divergences)))
    assert len(inception_scores(p)) == 5
    assert inception_scores(p, seed=4).tolist() == inception_scores(p, seed=4).tolist()


def test_inception_score_at_its_ends():
    same = np.tile([0.2, 0.3, 0.5, 0.0], (40, 1))
    np.testing.assert_allclose(inception_scores(same), 1.0)
    sure = np.eye(8)[np.repeat(np.arange(8), 50)]
    np.testing.assert_allclose(inception_scores(sure, splits=1), 8.0)
    with pytest.raises(ValueError, match="3 pictures for 5 splits"):
        inception_scores(same[:3])


@pytest.mark.parametrize(("n", "m"), [(40, 60), (4, 60), (5, 6)])
def test_fid_against_the_matrix_root(rng, n, m):
    a, b = rng.standard_normal((n, 8)) * 2, rng.standard_normal((m, 8)) + 0.5
    c1, c2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The root of a singular product is not unique, its trace is; a little ridge finds it.
    ridge = 1e-10 * np.eye(8)
    root = sqrtm((c1 + ridge) @ (c2 + ridge)).real
    apart = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    assert fid(a, b) == pytest.approx(apart + np.trace(c1 + c2 - 2 * root), rel=1e-3)
    assert fid(a, a) == pytest.approx(0.0, abs=1e-9)


def test_deviation_is_the_populations():
    assert Score.of([1.0, 3.0]) == Score(2.0, 1.0)
