"""Agreement of two annotators, against figures worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from annotator.log.decisions import Decision
from annotator.log.store import Store
from annotator.work.agreement import agreement, by_annotators, cohen_kappa, double_reviews
from annotator.work.queue import Queue
from hqvox.config.review import ReviewConfig
from tests.helpers.review_tools import (
    ANNA,
    BERT,
    CARL,
    FACES,
    LEAD,
    chosen,
    decide,
    dropped,
    logged,
    people,
)


def test_kappa_of_the_textbook() -> None:
    # 20 both yes, 5 only the first, 10 only the second, 15 both no: p_o 0.7, p_e 0.5, kappa 0.4
    counts = [(True, True, 20), (True, False, 5), (False, True, 10), (False, False, 15)]
    one = np.repeat([a for a, _, _ in counts], [n for _, _, n in counts])
    two = np.repeat([b for _, b, _ in counts], [n for _, _, n in counts])
    assert cohen_kappa(one, two) == pytest.approx(0.4)


def test_kappa_where_it_is_not_defined() -> None:
    assert math.isnan(cohen_kappa([], []))
    assert math.isnan(cohen_kappa([True, True], [True, True]))
    assert cohen_kappa([True, False], [True, False]) == 1
    assert cohen_kappa([True, False], [False, True]) == -1
    assert cohen_kappa([True, True], [True, False]) == 0
    with pytest.raises(ValueError, match="one length"):
        cohen_kappa([True], [True, False])


def test_over_identities() -> None:
    shown = FACES[:6]
    one = Decision("id1", "chosen", FACES[:4], shown)
    two = Decision("id1", "chosen", FACES[2:6], FACES[:8])  # saw two faces more
    pairs = [
        (logged(1, ANNA, one), logged(2, BERT, two)),
        (logged(3, BERT, dropped("id2")), logged(4, ANNA, dropped("id2"))),
    ]
    found = agreement(pairs)
    assert (found.identities, found.faces) == (2, 16)
    assert found.observed == 12 / 16
    assert found.overlap == pytest.approx((2 / 6 + 1) / 2)
    assert found.same_kind == 1
    p_o, p_e = 12 / 16, (4 / 16) ** 2 + (12 / 16) ** 2
    assert found.kappa == pytest.approx((p_o - p_e) / (1 - p_e))
    assert by_annotators(pairs) == {("Anna", "Bert"): found}


def test_of_nothing() -> None:
    found = agreement([])
    assert (found.identities, found.faces) == (0, 0)
    assert all(math.isnan(v) for v in (found.kappa, found.observed, found.overlap, found.same_kind))
    assert by_annotators([]) == {}


def test_only_opinions_are_compared(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "reviews.sqlite")
    assert double_reviews(store) == []
    queue = Queue(store, people(3), ReviewConfig(second_fraction=1.0))
    for who in (ANNA, BERT):
        for name, first in (("id000", 0), ("id001", 6 if who == BERT else 0)):
            assert queue.lease(who, name) is not None
            decide(store, who, chosen(name, first))
    decide(store, CARL, chosen("id002"))
    assert decide(store, LEAD, chosen("id001")).settles
    pairs = double_reviews(store)
    assert [(a.seq, b.seq) for a, b in pairs] == [(1, 3), (2, 4)]
    assert all(entry.decision.shown == FACES for pair in pairs for entry in pair)
    assert agreement(pairs).overlap == 0.5
