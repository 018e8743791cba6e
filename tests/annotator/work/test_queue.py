"""Who is given which identity, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from annotator.log.access import Actor
from annotator.log.store import LeaseLostError, Store
from annotator.work.queue import Counts, Queue, QueueItem, is_second
from hqvox.config.review import ReviewConfig
from hqvox.errors import HqvoxError
from tests.helpers.review_tools import (
    ANNA,
    BERT,
    CARL,
    LEAD,
    Clock,
    chosen,
    decide,
    dropped,
    logged,
    people,
    undo,
)

Make = Callable[..., Queue]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Store:
    return Store.open(tmp_path / "reviews.sqlite", clock=clock)


@pytest.fixture
def queue_of(store: Store) -> Make:
    """A queue of so many people; nobody is reviewed twice unless told."""

    def make(number: int, **settings: object) -> Queue:
        config = ReviewConfig(**({"second_fraction": 0.0, "lease_seconds": 60.0} | settings))
        return Queue(store, people(number), config)

    return make


def given(queue: Queue, actor: Actor, **asked: object) -> str | None:
    lease = queue.next(actor, **asked)
    return None if lease is None else lease.identity_id


def work_through(queue: Queue, actor: Actor, **asked: object) -> list[str]:
    """Decide on all that there is for somebody; what it was."""
    done = []
    while (name := given(queue, actor, **asked)) is not None:
        assert name not in done, f"{name} was given twice"
        decide(queue.store, actor, dropped(name))
        done.append(name)
    return done


def test_policies(store: Store) -> None:
    items = [QueueItem("a", 5, 0.5), QueueItem("b", 9, 0.7), QueueItem("c", 9, 0.1)]
    queue = Queue(store, items, ReviewConfig(second_fraction=0.0))
    order = [given(queue, ANNA)]
    assert order == ["b"]  # the configured one: most candidates, then by id
    assert given(queue, BERT, policy="least_certain") == "c"
    with pytest.raises(HqvoxError, match="no policy; use one of most_candidates"):
        queue.next(CARL, policy="best")


def test_the_random_order_is_the_seeds(queue_of: Make, tmp_path: Path) -> None:
    orders = []
    for number, seed in enumerate((1, 1, 2)):
        fresh = Store.open(tmp_path / f"{number}.sqlite")
        queue = Queue(fresh, people(30), ReviewConfig(second_fraction=0.0, seed=seed))
        orders.append(work_through(queue, ANNA, policy="random"))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == [item.identity_id for item in people(30)]
    assert orders[0] != sorted(orders[0])


def test_nobody_gets_what_another_holds(queue_of: Make) -> None:
    queue = queue_of(3)
    assert [given(queue, who) for who in (ANNA, BERT, CARL)] == ["id000", "id001", "id002"]
    assert [given(queue, who) for who in (ANNA, BERT, CARL)] == ["id000", "id001", "id002"]
    assert queue.next(LEAD) is None


def test_the_one_after_is_held_ahead_and_comes_next(queue_of: Make) -> None:
    queue = queue_of(5)
    assert queue.peek(ANNA) == "id000"
    first = queue.next(ANNA, reserve=True)
    assert first is not None
    assert queue.peek(ANNA) == "id001"
    assert given(queue, BERT) == "id002"
    ahead = queue.reserve_next(ANNA)
    assert ahead is not None
    assert ahead.identity_id == "id001"
    decide(queue.store, ANNA, dropped("id000"))
    assert given(queue, ANNA) == "id001"
    assert queue.peek(ANNA) == "id003"
    assert queue.counts().leased == 2


def test_what_expired_is_anybodys_until_taken_and_then_no_more(
    queue_of: Make, clock: Clock
) -> None:
    queue = queue_of(2)
    lease = queue.next(ANNA)
    assert lease is not None
    clock.forward(59)
    assert given(queue, BERT) == "id001"
    clock.forward(1)  # the lease ends
    assert queue.lease(CARL, "id000") is not None
    with pytest.raises(LeaseLostError, match="Carl works on it now"):
        decide(queue.store, ANNA, dropped("id000"))
    assert queue.renew(lease) is None
    decide(queue.store, CARL, dropped("id000"))
    with pytest.raises(LeaseLostError, match="somebody else decided on it meanwhile"):
        decide(queue.store, ANNA, dropped("id000"))
    assert len(queue.store.entries()) == 1


def test_a_decision_after_the_lease_is_taken_if_nobody_took_the_identity(
    queue_of: Make, clock: Clock
) -> None:
    queue = queue_of(2, second_fraction=1.0)
    assert given(queue, ANNA) == "id000"
    clock.forward(3600)
    decide(queue.store, ANNA, chosen("id000"))
    assert given(queue, BERT) == "id000"
    clock.forward(3600)
    decide(queue.store, BERT, chosen("id000"))  # as the second opinion, which it was held for
    assert len(queue.store.state()["id000"].opinions) == 2


def test_renewing_holds_the_one_ahead_too(queue_of: Make, clock: Clock) -> None:
    queue = queue_of(3)
    lease = queue.next(ANNA, reserve=True)
    assert lease is not None
    clock.forward(50)
    renewed = queue.renew(lease)
    assert renewed is not None
    assert (renewed.expires - lease.expires).total_seconds() == 50
    clock.forward(50)
    assert given(queue, BERT) == "id002"
    assert queue.counts().leased == 3
    clock.forward(11)
    assert queue.counts().leased == 1
    assert queue.renew(renewed) is not None  # nobody took it
    assert queue.counts().leased == 3


def test_giving_back_and_skipping(queue_of: Make) -> None:
    queue = queue_of(3)

    def skip() -> str:
        lease = queue.next(ANNA)
        assert lease is not None
        queue.skip(lease)
        return lease.identity_id

    lease = queue.next(ANNA)
    assert lease is not None
    queue.release(lease)
    queue.release(lease)
    assert given(queue, BERT) == "id000"
    assert [skip() for _ in range(5)] == ["id001", "id002", "id001", "id002", "id001"]
    assert given(queue, CARL) == "id001"  # skipped by Anna alone
    assert given(queue, ANNA, skip=["id002"]) is None


def test_a_lost_lease_can_neither_skip_nor_release(queue_of: Make, clock: Clock) -> None:
    queue = queue_of(1)
    lease = queue.next(ANNA)
    assert lease is not None
    clock.forward(60)
    assert given(queue, BERT) == "id000"
    queue.skip(lease)
    queue.release(lease)
    assert queue.counts().leased == 1
    assert given(queue, BERT) == "id000"


def test_after_undoing_the_same_identity_is_first_again(queue_of: Make) -> None:
    queue = queue_of(6)
    queue.next(ANNA, reserve=True)
    decide(queue.store, ANNA, dropped("id000"))
    assert given(queue, ANNA, reserve=True) == "id001"
    undo(queue.store, ANNA, 1)
    assert queue.lease(ANNA, "id000") is not None
    assert given(queue, ANNA) == "id000"
    assert queue.peek(ANNA) == "id001"
    assert queue.counts().leased == 2
    assert queue.lease(BERT, "id000") is None


def test_ones_own_decision_can_be_made_anew_and_no_other(queue_of: Make) -> None:
    queue = queue_of(3)
    decide(queue.store, ANNA, dropped("id000"))
    assert queue.lease(BERT, "id000") is None
    assert queue.lease(LEAD, "id000") is None
    assert queue.lease(ANNA, "nobody") is None
    assert queue.lease(ANNA, "id000") is not None
    decide(queue.store, ANNA, chosen("id000"))
    assert queue.store.state()["id000"].status == "chosen"


def test_a_fraction_goes_to_a_second_annotator_and_never_to_the_first(queue_of: Make) -> None:
    queue = queue_of(40, second_fraction=0.3)
    twice = [name for name in queue.items if is_second(0, 0.3, name)]
    assert 3 < len(twice) < 25
    assert work_through(queue, ANNA) == list(queue.items)
    assert queue.counts() == Counts(40, 0, len(twice), 0, 40 - len(twice), 0)
    assert work_through(queue, ANNA) == []
    assert work_through(queue, BERT) == twice
    assert work_through(queue, CARL) == []
    assert queue.counts().done == 40


def test_the_fraction_is_kept_to() -> None:
    names = [f"id{n:05d}" for n in range(7363)]
    assert abs(sum(is_second(7, 0.1, name) for name in names) / len(names) - 0.1) < 0.02
    assert not any(is_second(7, 0.0, name) for name in names)
    assert all(is_second(7, 1.0, name) for name in names)


def test_disputes_go_to_leads_and_to_them_first(queue_of: Make) -> None:
    queue = queue_of(3, second_fraction=1.0)
    for who, first in ((ANNA, 0), (BERT, 6)):
        assert given(queue, who) == "id000"
        decide(queue.store, who, chosen("id000", first))
    assert queue.disputes() == ["id000"]
    assert queue.lease(CARL, "id000") is None
    assert given(queue, CARL) == "id001"
    lease = queue.next(LEAD)
    assert lease is not None
    assert (lease.identity_id, lease.dispute) == ("id000", True)
    with pytest.raises(LeaseLostError, match="Lena works on it"):
        decide(queue.store, ANNA, chosen("id000", 6))
    decide(queue.store, LEAD, chosen("id000", 2))
    assert queue.counts() == Counts(3, 2, 0, 0, 1, 1)
    assert given(queue, LEAD) == "id002"
    again = queue.lease(LEAD, "id000")  # a lead may think again
    assert again is not None
    assert again.dispute


def test_a_lead_settles_disputes_between_others_first(queue_of: Make) -> None:
    queue = queue_of(2, second_fraction=1.0)
    for name, one, two in (("id000", ANNA, LEAD), ("id001", ANNA, BERT)):
        for number, who in enumerate((one, two)):
            assert queue.lease(who, name) is not None
            decide(queue.store, who, chosen(name, 6 * number))
    assert not any(entry.settles for entry in queue.store.entries())
    assert work_through(queue, LEAD) == ["id001", "id000"]


def test_what_changed_comes_up_again_until_decided_anew(queue_of: Make) -> None:
    queue = queue_of(2, second_fraction=1.0)
    for who in (ANNA, BERT):
        work_through(queue, who)
    assert queue.counts().done == 2
    queue.again = {"id000": 1}  # there is a newer opinion than that
    assert queue.counts().done == 2
    queue.again = {"id000": 3}
    assert queue.counts() == Counts(2, 1, 0, 0, 1, 0)
    assert given(queue, CARL) == "id000"
    decide(queue.store, CARL, chosen("id000"))
    assert queue.store.state()["id000"].status == "chosen"  # and not disputed by what was
    assert queue.counts().second == 1
    assert given(queue, ANNA) == "id000"
    decide(queue.store, ANNA, chosen("id000"))
    assert queue.counts().done == 2


def test_what_a_lead_settled_and_then_changed_goes_to_a_lead(queue_of: Make) -> None:
    queue = queue_of(1, second_fraction=1.0)
    for who, first in ((ANNA, 0), (BERT, 6)):
        assert given(queue, who) == "id000"
        decide(queue.store, who, chosen("id000", first))
    settled = decide(queue.store, LEAD, chosen("id000", 2))
    queue.again = {"id000": settled.seq}
    assert queue.next(CARL) is None
    assert given(queue, LEAD) == "id000"
    assert decide(queue.store, LEAD, dropped("id000")).settles
    assert queue.counts().done == 1


def test_identities_that_are_no_longer_there_are_let_go(store: Store) -> None:
    config = ReviewConfig(second_fraction=0.0)
    before = Queue(store, people(3), config)
    assert given(before, ANNA) == "id000"
    after = Queue(store, people(3)[1:], config)
    assert given(after, ANNA) == "id001"
    assert after.counts() == Counts(2, 2, 0, 0, 0, 1)


@pytest.mark.slow
def test_next_is_quick_at_full_size(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "reviews.sqlite")
    queue = Queue(store, people(7363), ReviewConfig(second_fraction=0.5))
    names = list(queue.items)
    store.adopt([logged(n + 1, ANNA, dropped(name)) for n, name in enumerate(names[:7000])])
    work = [name for name in names[:7000] if not is_second(0, 0.5, name)]
    assert len(work) > 3000
    seconds = []
    for who in (Actor(f"a{n}") for n in range(40)):
        start = time.perf_counter()
        assert queue.next(who, reserve=True) is not None
        seconds.append(time.perf_counter() - start)
    # The median: this machine may be busy with other things.
    assert sorted(seconds)[len(seconds) // 2] < 0.020
