"""What an annotator does, and what it leads to, without a browser; and what browsers may send."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotator.candidates.candidates import Candidates
from annotator.log.access import AccessRemovedError, Actor, Role, TokenFile
from annotator.log.decisions import StoreAwayError
from annotator.log.store import Store
from annotator.work.desk import Desk
from annotator.work.packs import FIRST_FACES, piece_now, pieces
from annotator.work.queue import Queue, QueueItem
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace
from tests.helpers.small_review import FACES, make_review

ADA = Actor("ada")
NAMES = ("Ada", "Bo", "Few Faces", "Nobody", "Cy", "Di")


@pytest.fixture(scope="module")
def candidates(tmp_path_factory: pytest.TempPathFactory) -> Candidates:
    return Candidates(Workspace.open(make_review(tmp_path_factory.mktemp("desk"), NAMES)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "reviews.sqlite")


def desk(store: Store, candidates: Candidates, actor: Actor = ADA, **review: Any) -> Desk:
    config = candidates.workspace.config().review
    config = config.model_copy(update={"second_fraction": 0.0, **review})
    items = [QueueItem(p.identity_id, p.candidates, p.certainty) for p in candidates.identities]
    return Desk(store, Queue(store, items, config), candidates, actor)


def act(at: Desk, do: str, key: str, **more: Any) -> None:
    name = None if at.screen is None else at.screen.name
    at.handle({"do": do, "key": key, "screen": name, **more})


def test_what_comes_after_the_page_was_left_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # Streamlit has forgotten the component's state by then, and calls its callback all the same.
    from annotator.screens import review

    monkeypatch.setattr(review, "renewed", lambda page: page)
    monkeypatch.setattr(review.st, "session_state", state := {})
    review._act(SimpleNamespace())
    assert state == {}


def test_people_come_one_after_another_until_none_is_left(
    store: Store, candidates: Candidates
) -> None:
    at, seen = desk(store, candidates), []
    while at.screen is not None:
        upcoming = at.upcoming()
        seen.append(at.screen.person.identity_id)
        act(at, "accept", f"key {len(seen)}", faces=list(at.screen.taken), seconds=1.5)
        assert (at.screen and at.screen.person.identity_id) == upcoming
    assert sorted(seen) == ["id0", "id1", "id4", "id5"]
    assert at.decided == 4
    [last] = store.entries(newest_first=True, limit=1)
    act(at, "undo", "stale", entry=last.seq - 1)
    assert "Nothing was taken back" in at.message
    assert at.screen is None
    act(at, "undo", "key 9", entry=last.seq)
    assert at.screen is not None
    assert at.screen.person.identity_id == seen[-1]
    assert at.decided == 3


def test_the_same_key_counts_once(store: Store, candidates: Candidates) -> None:
    at = desk(store, candidates)
    assert at.screen is not None
    first = at.screen
    sent = {"do": "accept", "key": "k", "screen": first.name, "faces": [0, 1, 2]}
    at.handle(sent)
    at.handle(sent)
    # In another session, as after a restart of the server: it was written, only not answered.
    again = desk(store, candidates)
    again.handle(sent)
    assert again.message == ""
    assert [entry.key for entry in store.entries()] == ["k"]
    assert again.screen is not None
    assert again.screen.person.identity_id != first.person.identity_id


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ({"do": "accept", "faces": [0, 1]}, "2 faces chosen"),
        ({"do": "accept", "faces": [0, 1, FACES]}, "not on the screen"),
        ({"do": "accept", "faces": [0, 1, -1]}, "not on the screen"),
        ({"do": "accept", "faces": [0, 1, True]}, "not on the screen"),
        ({"do": "accept", "faces": "012"}, "0 faces"),
        ({"do": "drop", "reason": "no reason"}, "is no reason to drop"),
        ({"do": "drop", "reason": "other"}, "needs a comment"),
        ({"do": "drop", "reason": "other", "comment": "x" * 2001}, "2,000 at most"),
        ({"do": "accept", "faces": [0, 1, 2], "screen": "another"}, "nothing was saved"),
    ],
    ids=["few", "beyond", "negative", "bool", "text", "reason", "other", "long", "screen"],
)
def test_what_will_not_do_is_refused_in_words(
    store: Store, candidates: Candidates, sent: dict[str, Any], why: str
) -> None:
    at = desk(store, candidates)
    assert at.screen is not None
    before = at.screen
    at.handle({"key": "k", "screen": before.name, **sent})
    assert why in at.message
    assert at.refused
    assert at.answered == "k"
    assert at.screen == before
    assert store.entries() == []


def signed_in(tokens: TokenFile, name: str, role: Role) -> Actor:
    """Somebody in a session that began by a token."""
    token = tokens.add(name, role)
    return Actor(name, role, confirm=lambda: tokens.check(token))


@pytest.mark.parametrize(
    "sent",
    [{"do": "accept", "faces": [0, 1, 2]}, {"do": "drop", "reason": "poor_quality"},
     {"do": "skip"}, {"do": "undo"}],
    ids=["accept", "drop", "skip", "undo"],
)  # fmt: skip
def test_a_removed_token_does_nothing_more(
    store: Store, candidates: Candidates, tmp_path: Path, sent: dict[str, Any]
) -> None:
    tokens = TokenFile(Workspace(tmp_path))
    at = desk(store, candidates, signed_in(tokens, "ada", "annotator"))
    act(at, "accept", "first", faces=[0, 1, 2])
    before, entries = at.screen, store.entries()
    assert len(entries) == 1
    tokens.remove("ada")
    act(at, sent["do"], "second", **{k: v for k, v in sent.items() if k != "do"})
    assert at.message == "Your access was removed; nothing was saved."
    assert at.refused
    assert at.screen == before
    assert store.entries() == entries
    assert at.queue.counts().leased == 1


def test_the_store_asks_for_the_rights_itself(
    store: Store, candidates: Candidates, tmp_path: Path
) -> None:
    tokens = TokenFile(Workspace(tmp_path))
    lead = signed_in(tokens, "lea", "lead")
    at = desk(store, candidates)
    act(at, "accept", "first", faces=[0, 1, 2])
    (entry,) = store.entries()
    other = replace(entry.decision, identity_id="id5", annotator="lea")
    tokens.remove("lea")
    tokens.add("lea", "annotator")  # with another token
    for write in (
        lambda: store.undo(entry.seq, key="undo", actor=lead),
        lambda: store.append(other, key="other", actor=lead),
    ):
        with pytest.raises(AccessRemovedError, match="nothing was saved"):
            write()
    demoted = replace(lead, confirm=lambda: Actor("lea", "annotator"))
    with pytest.raises(AccessRemovedError, match="Your role has changed"):
        store.undo(entry.seq, key="undo", actor=demoted)
    assert store.entries() == [entry]


def test_annotators_are_told_no_paths(
    store: Store, candidates: Candidates, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise HqvoxError("/srv/data/work/reviews.sqlite: no space left")

    monkeypatch.setattr(store, "append", fail)
    at = desk(store, candidates)
    act(at, "accept", "first", faces=[0, 1, 2])
    assert at.message == "reviews.sqlite: no space left"
    assert "/srv/data/work/reviews.sqlite" in caplog.text


def test_two_tabs_of_one_person_are_one_opinion(store: Store, candidates: Candidates) -> None:
    one, two = desk(store, candidates), desk(store, candidates)
    assert one.screen is not None
    assert two.screen is not None
    name = one.screen.person.name
    assert two.screen.name == one.screen.name
    act(one, "accept", "first", faces=[0, 1, 2])
    act(two, "accept", "second", faces=[3, 4, 5])
    assert two.refused
    assert f"You decided on {name} in another tab or window; this answer was not sa" in two.message
    assert [entry.key for entry in store.entries()] == ["first"]
    assert two.screen.name == one.screen.name  # both have the next
    act(one, "drop", "third", reason="poor_quality")
    act(two, "alive", "beat")
    assert "in another tab or window; here is the next" in two.message
    act(two, "accept", "fourth", faces=[3, 4, 5])
    assert [entry.key for entry in store.entries()] == ["first", "third", "fourth"]
    # What was skipped in one is not decided on in the other.
    act(one, "alive", "beat")
    assert one.screen == two.screen
    act(one, "skip", "fifth")
    act(two, "accept", "sixth", faces=[0, 1, 2])
    assert two.refused
    assert len(store.entries()) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sent=st.fixed_dictionaries(
        {"key": JSON, "do": JSON | st.sampled_from(["accept", "drop", "look", "alive", "more"])},
        optional=dict.fromkeys(("faces", "reason", "comment", "seconds", "face", "kind"), JSON),
    )
)
def test_nothing_that_a_browser_sends_breaks_it(
    store: Store, candidates: Candidates, sent: dict[str, Any]
) -> None:
    at = desk(store, candidates)
    assert at.screen is not None
    at.handle({**sent, "screen": at.screen.name})
    assert at.screen is not None


def test_a_decision_that_the_build_left_behind_comes_again(
    store: Store, candidates: Candidates
) -> None:
    at = desk(store, candidates)
    assert at.screen is not None
    first = at.screen.person.identity_id
    while at.screen is not None:
        act(at, "accept", at.screen.name, faces=[0, 1, 2])
    [entry] = store.entries(identity_ids=[first])
    at.queue.again = {first: entry.seq}
    act(at, "alive", "beat")
    assert at.screen is not None
    assert at.screen.person.identity_id == first
    assert at.screen.taken == (0, 1, 2)


def test_pieces_hold_every_face_once(candidates: Candidates) -> None:
    for person in candidates.identities:
        parts = pieces(candidates, person.identity_id)
        covered = [n for part in parts for n in range(part.first, part.last)]
        assert covered == list(range(person.candidates))
        assert parts[0].last == min(FIRST_FACES, person.candidates)
        data = piece_now(candidates, parts[0])
        length = int.from_bytes(data[:4])
        assert data[4 + length :].count(b"\xff\xd8\xff") == parts[0].last


class Away:
    """Moves a store's file away within the block."""

    def __init__(self, store: Store) -> None:
        self.place = Path(store.database.where)
        self.elsewhere = self.place.with_suffix(".away")

    def __enter__(self) -> None:
        self.place.rename(self.elsewhere)

    def __exit__(self, *_: object) -> None:
        self.elsewhere.rename(self.place)


def test_what_could_not_be_saved_is_not_answered_until_it_is(
    store: Store, candidates: Candidates
) -> None:
    at = desk(store, candidates)
    assert at.screen is not None
    sent = {"do": "accept", "key": "k", "screen": at.screen.name, "faces": [0, 1, 2]}
    with Away(store):
        at.handle(sent)
        at.handle(sent)
        # After a restart meanwhile: what its annotator holds is not known yet.
        later = desk(store, candidates)
        assert (later.screen, later.away) == (None, 1)
    assert (at.answered, at.away, at.message, at.decided) == ("", 2, "", 0)
    assert not list(Path(store.database.where).parent.glob("*.sqlite.*"))
    later.handle(sent)
    assert (later.answered, later.away, later.message) == ("k", 0, "")
    at.handle(sent)
    assert (at.answered, at.away, at.message, at.decided) == ("k", 0, "", 1)
    assert [entry.key for entry in store.entries()] == ["k"]


def test_an_undo_that_was_interrupted_undoes_nothing_else(
    store: Store, candidates: Candidates, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = desk(store, candidates)
    for key in ("one", "two"):
        assert at.screen is not None
        act(at, "accept", key, faces=[0, 1, 2])
    two = store.entries()[-1]
    with monkeypatch.context() as patch:
        with Away(store):
            act(at, "undo", "u", entry=two.seq)
        assert at.answered == "two"

        def away(*_: object) -> None:
            raise StoreAwayError("gone")

        patch.setattr(at.queue, "lease", away)
        act(at, "undo", "u", entry=two.seq)  # undone, but what follows fails
        assert at.answered == "two"
    act(at, "undo", "u", entry=two.seq)
    assert at.answered == "u"
    assert at.screen is not None
    assert at.screen.person.identity_id == two.decision.identity_id
    assert [entry.decision.undoes for entry in store.entries()] == [None, None, two.seq]


def test_a_screen_with_other_faces_has_another_name(store: Store, candidates: Candidates) -> None:
    at = desk(store, candidates)
    assert at.screen is not None
    assert desk(store, candidates).screen.name == at.screen.name  # type: ignore[union-attr]
    fewer = replace(at.screen, faces=at.screen.faces[1:])
    assert fewer.name != at.screen.name
