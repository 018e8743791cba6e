"""What the review page does with fast hands, any letters, other keyboards, and a store away."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from annotator.log.decisions import Entry
from annotator.log.store import Store, open_store
from hqvox.workspace.layout import Workspace
from tests.helpers.browser_tools import Reviewer, Team, expect
from tests.helpers.small_review import IDS

SCREENS = os.environ.get("HQVOX_SCREENS")
"""Folder for pictures of the page, where somebody wants to see them."""
PICTURES = (
    """grid => [...grid.children].map(tile => tile.querySelector("img")?.naturalWidth ?? 0)"""
)


@pytest.fixture
def store(team: Team) -> Iterator[Store]:
    store = open_store(Workspace.open(team.workspace))
    yield store
    store.close()


def picture(who: Reviewer, name: str) -> None:
    """Keep the page as people see it."""
    if SCREENS:
        who.page.screenshot(path=Path(SCREENS) / f"{name}.png")


def saved(store: Store) -> list[tuple[str, str]]:
    """Identity and kind of every entry, in order."""
    return [(entry.decision.identity_id, entry.decision.kind) for entry in entries(store)]


def entries(store: Store) -> list[Entry]:
    return store.entries(shown=False)


def test_identities_may_have_any_letters(team: Team, store: Store) -> None:
    odd = {name for name in IDS if not name.startswith("id")}
    who: Reviewer = team.join()
    expected = []
    while odd - {name for name, _ in expected}:
        who.shown()
        assert min(who.page.locator(".grid").evaluate(PICTURES)) > 0
        # The page shows a run of spaces as one.
        shown = who.page.locator(".review .about").text_content().split(" · ")[0]
        expected.append((shown, "chosen"))
        who.on("Enter")
    assert saved(store) == expected


KEYS = """keys => {
    for (const {key, code, shiftKey} of keys)
        document.body.dispatchEvent(
            new KeyboardEvent("keydown", {key, code, shiftKey, bubbles: true, cancelable: true}));
}"""


def keys(who: Reviewer, *pressed: tuple[str, str]) -> Reviewer:
    """Press keys of another keyboard: what is on each, and where it is."""
    who.page.evaluate(KEYS, [{"key": key, "code": code} for key, code in pressed])
    return who


def state(who: Reviewer) -> str:
    return str(who.page.locator(".review").get_attribute("data-state"))


def test_fast_hands_decide_on_nobody_unseen(team: Team, store: Store) -> None:
    who = team.join().shown()
    first = who.identity_id()
    before = who.screen()
    # As fast as they can come, and again once the next person is there but was not looked at.
    who.page.evaluate(
        """() => {
            const press = key => document.body.dispatchEvent(
                new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
            const review = [...document.querySelectorAll("*")]
                .map(one => one.shadowRoot?.querySelector(".review")).find(Boolean);
            const name = () => review.querySelector(".about").textContent;
            const was = name();
            for (const key of ["Enter", "Enter", "x", "1"]) press(key);
            const watch = setInterval(() => {
                if (name() === was) return;
                clearInterval(watch);
                for (const key of ["Enter", "x", "3", "1", "s", "u", "Enter"]) press(key);
                globalThis.pressed = name();
            }, 1);
        }"""
    )
    who.shown(before).at_rest()
    assert saved(store) == [(first, "chosen")]
    assert who.page.evaluate("globalThis.pressed").startswith(who.identity_id())
    who.has_taken(0, 1, 2, 3, 4, 5, 6)
    expect(who.page.locator("dialog[open]")).to_have_count(0)


def test_nothing_is_decided_while_a_picture_is_missing(team: Team, store: Store) -> None:
    who = team.join().shown()
    first = who.identity_id()
    image = who.page.locator(".tile img").nth(9)
    image.evaluate("image => { globalThis.kept = image; image.parentNode.replaceChildren(); }")
    who.press("Enter")
    expect(who.message()).to_contain_text("Not all pictures of this person are here yet")
    who.page.locator(".tile .picture").nth(9).evaluate("place => place.append(globalThis.kept)")
    assert state(who) == "unlocked"
    who.on("Enter")
    assert saved(store) == [(first, "chosen")]


def test_a_comment_written_while_an_answer_is_pending_is_kept(team: Team, store: Store) -> None:
    who = team.join().shown()
    first, before, name = who.identity_id(), who.screen(), who.name()
    comment = who.page.locator(".comment input")
    who.press("Enter", "c")
    who.page.keyboard.type("s x1 too dark")
    expect(who.message()).to_contain_text("Enter leaves the comment and goes on")
    assert (who.identity_id(), comment.input_value()) == (first, "s x1 too dark")
    picture(who, "review-comment")
    who.page.keyboard.type(", u")
    who.press("Enter").shown(before)
    expect(who.message()).to_contain_text(f"The comment on {name} came after")
    expect(comment).to_have_value("")
    assert saved(store) == [(first, "chosen")]
    who.on("u")
    assert who.identity_id() == first
    expect(comment).to_have_value("s x1 too dark, u")
    who.on("Enter")
    assert entries(store)[-1].decision.comment == "s x1 too dark, u"
    assert saved(store) == [(first, "chosen"), (first, "undone"), (first, "chosen")]


def test_keys_count_by_their_place_on_other_keyboards(team: Team, store: Store) -> None:
    who = team.join().shown()
    first = who.identity_id()
    keys(who, ("&", "Digit1"), ("é", "Digit2"), ("à", "Digit0")).has_taken(2, 3, 4, 5, 6, 9)
    keys(who, ("ё", "Backquote"), ("ж", "Semicolon"), ("ö", "Semicolon")).has_taken(
        2, 3, 4, 5, 6, 9
    )
    keys(who, ("я", "KeyZ"))
    expect(who.page.locator("dialog.look[open]")).to_have_count(1)
    keys(who, ("щ", "KeyO"))
    expect(who.page.locator("dialog.look .original, dialog.look.original")).to_have_count(1)
    keys(who, ("щ", "KeyO"))
    expect(who.page.locator("dialog.look[open]")).to_have_count(0)
    keys(who, ("a", "KeyQ"), ("q", "KeyA"))  # AZERTY: the letter counts, where there is one
    assert who.identity_id() == first
    before = who.screen()
    keys(who, ("ч", "KeyX"))
    expect(who.page.locator("dialog.reasons[open]")).to_have_count(1)
    keys(who, ("é", "Digit2"))
    who.shown(before)
    assert saved(store) == [(first, "dropped")]
    before = who.screen()
    keys(who, ("г", "KeyU"))
    assert who.shown(before).identity_id() == first
    before = who.screen()
    keys(who, ("ы", "KeyS"))
    assert who.shown(before).identity_id() != first
    keys(who, ("с", "KeyC"))
    expect(who.page.locator(".comment input")).to_be_focused()


def test_a_store_that_is_away_keeps_the_decision_waiting(
    team: Team, store: Store, tmp_path: Path
) -> None:
    who = team.join().shown().at_rest()
    first, before = who.identity_id(), who.screen()
    unsaved = who.page.locator(".unsaved")
    expect(unsaved).to_be_hidden()
    place = team.workspace / "reviews.sqlite"
    place.rename(tmp_path / "elsewhere")
    who.press("Enter")
    expect(unsaved).to_contain_text("Not saved yet: the database cannot be reached.")
    assert (state(who), who.identity_id()) == ("sent", first)
    picture(who, "review-away")
    page = who.page.get_by_test_id("stMain").inner_text()
    for word in ("sqlite", "Streamlit", "Error", str(team.workspace), "Cloud"):
        assert word not in page
    who.page.reload()  # nobody is shown, and it says why
    expect(unsaved).to_contain_text("the database cannot be reached")
    (tmp_path / "elsewhere").rename(place)
    who.shown()
    expect(unsaved).to_be_hidden()
    assert (who.identity_id(), saved(store)) == (first, [])
    place.rename(tmp_path / "elsewhere")
    who.press("Enter")
    expect(unsaved).to_contain_text("Not saved yet")
    (tmp_path / "elsewhere").rename(place)
    who.shown(before)
    expect(unsaved).to_be_hidden()
    expect(who.message()).to_have_text("")
    assert saved(store) == [(first, "chosen")]
    assert who.errors == []


def test_a_store_that_is_locked_is_said_to_be_slow(team: Team, store: Store) -> None:
    who = team.join().shown().at_rest()
    first, before = who.identity_id(), who.screen()
    with closing(sqlite3.connect(team.workspace / "reviews.sqlite")) as raw:
        raw.isolation_level = None
        raw.execute("BEGIN IMMEDIATE")
        who.press("Enter")
        expect(who.page.locator(".unsaved")).to_contain_text("Not saved yet: the server has not")
        raw.execute("ROLLBACK")
    who.shown(before)
    expect(who.page.locator(".unsaved")).to_be_hidden()
    assert saved(store) == [(first, "chosen")]
    assert who.errors == []


THIRD_PICTURE_FAILS = """(() => {
    const decode = HTMLImageElement.prototype.decode, seen = [];
    HTMLImageElement.prototype.decode = function () {
        if (!seen.includes(this)) seen.push(this);
        return seen[2] === this ? Promise.reject(new Error("damaged")) : decode.call(this);
    };
})()"""


def test_a_face_whose_picture_cannot_be_read_is_not_taken(team: Team, store: Store) -> None:
    who = team.join().shown().at_rest()
    who.page.add_init_script(THIRD_PICTURE_FAILS)
    who.page.reload()
    who.shown().has_taken(0, 1, 3, 4, 5, 6)
    who.press("3")
    expect(who.message()).to_contain_text("cannot be read")
    picture(who, "review-unreadable")
    who.on("Enter")
    [entry] = store.entries()
    shown = [face.key for face in entry.decision.shown]
    assert [shown.index(face.key) for face in entry.decision.faces] == [0, 1, 3, 4, 5, 6]
