"""Explore, Progress and History in a real browser."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annotator.candidates.candidates import Candidates
from annotator.limits.explore import read_verdicts
from annotator.log.access import Actor
from annotator.log.store import Decision, Store, open_store
from annotator.work.history import COLUMNS
from hqvox.workspace.layout import Workspace
from tests.helpers.browser_tools import Reviewer, Team, expect, select_row, settled, wait_for

SCREENS = os.environ.get("HQVOX_SCREENS")
"""Folder for pictures of the pages, where somebody wants to see them."""
PEOPLE = 23
"""Of the workspace's 25: the third has two candidates, the fourth no photographs."""


def opened(person: Reviewer, page: str) -> Any:
    person.shown().page.get_by_role("link", name=page).click()
    return person.page


def picture(page: Any, name: str) -> None:
    """Keep the page as people see it, wide and on a tablet."""
    if SCREENS:
        for width in (1280, 820):
            page.set_viewport_size({"width": width, "height": 1000})
            settled(page).screenshot(path=Path(SCREENS) / f"{name}-{width}.png")


def metric(page: Any, label: str) -> Any:
    """The number under a label."""
    return page.get_by_test_id("stMetric").filter(has_text=label).get_by_test_id("stMetricValue")


@pytest.fixture
def store(team: Team) -> Iterator[Store]:
    store = open_store(Workspace.open(team.workspace))
    yield store
    store.close()


def decide(team: Team, store: Store, name: str, *identities: str, comment: str = "") -> None:
    """What an annotator of that name said of some people, without the page."""
    candidates = Candidates(Workspace.open(team.workspace))
    for identity_id in identities:
        refs = tuple(face.ref for face in candidates.faces(identity_id))
        decision = Decision(
            identity_id, "chosen", refs[:4], refs, comment=comment, seconds=20.0, annotator=name
        )
        store.append(decision, key=str(uuid.uuid4()), actor=Actor(name))


def test_a_limit_is_moved_and_its_line_copied(team: Team) -> None:
    page = opened(team.join("lead"), "Explore")
    page.get_by_text("Around the limit").wait_for()
    expect(page.get_by_text("Nobody changes sides at pose.")).to_be_visible()
    page.locator(".hq-gallery img").nth(23).wait_for()
    settled(page)

    page.get_by_role("combobox", name=re.compile("^Stage|Selected")).first.click()
    page.get_by_role("option", name="pupils").click()
    thumb = page.get_by_role("slider", name=re.compile("pupil distance at least"))
    settled(page)
    value = float(thumb.input_value())
    assert value == 30.0
    while value < 37.5:
        thumb.press("PageUp")
        value = other_value(thumb, value)
    verdicts = read_verdicts(Workspace.open(team.workspace), "pupils")
    ipd_px = verdicts.values["ipd_px"][verdicts.with_reason(None)]
    shut_out = int((ipd_px < value).sum())
    assert shut_out > PEOPLE  # the first photograph of everybody has 36 px
    page.get_by_text(f"Certain: {shut_out} faces would be refused at pupils").wait_for()
    expect(metric(page, "Newly shut out")).to_have_text(str(shut_out))
    expect(page.get_by_text(f"pupils: {{min_ipd_px: {value}}}")).to_be_visible()
    expect(page.get_by_text(f"--set pupils.min_ipd_px={value}")).to_be_visible()
    page.get_by_text(f"Newly shut out ({shut_out})").click()
    page.get_by_text("those nearest to the present limit first").wait_for()
    page.locator(".hq-gallery figure.kept").nth(min(shut_out, 24) - 1).wait_for()
    picture(page, "explore")


def other_value(thumb: Any, before: float) -> float:
    """A slider's value, once it is another; the page takes a moment to follow a key."""
    values = (float(thumb.input_value()) for _ in itertools.count())
    wait_for(lambda: next(values) != before, f"the slider to leave {before}")
    return float(thumb.input_value())


def test_pictures_by_verdict(team: Team) -> None:
    person = team.join("lead")
    page = opened(person, "Explore")
    show_turned_away(page)
    page.locator(".hq-gallery figure.refused").first.wait_for()
    expect(page.locator(".hq-gallery figcaption").first).to_contain_text("turned_away")
    expect(page.get_by_text("<script>alert(1)</script>").first).to_be_visible()
    assert person.alerts == []
    assert person.elsewhere == []


def show_turned_away(page: Any) -> None:
    page.get_by_text("All, by verdict").click()
    verdict = page.get_by_role("combobox", name=re.compile("Verdict|kept")).last
    verdict.wait_for()
    settled(page)  # a run of the script that ends now would shut the list again
    verdict.click()
    page.get_by_role("option", name=re.compile("turned_away")).click()


@pytest.mark.slow  # networks are loaded for limits of their own
def test_people_with_too_few_candidates(team: Team) -> None:
    page = opened(team.join("lead"), "Explore")
    page.get_by_text("Too few candidates").click()
    page.get_by_text("2 people have fewer than 3 candidates").wait_for(timeout=180_000)
    picture(page, "too-few")


def test_annotators_have_no_explore_page(team: Team) -> None:
    page = team.join("annotator").shown().page
    expect(page.get_by_role("link", name="History")).to_be_visible()
    expect(page.get_by_role("link", name="Explore")).to_have_count(0)


def test_progress_counts_what_was_done(team: Team, store: Store) -> None:
    decide(team, store, "Ada", "id0", "id1")
    decide(team, store, "Bob", "id4")
    page = opened(team.join("lead"), "Progress")
    page.get_by_text(f"3 of {PEOPLE} people done").wait_for()
    expect(metric(page, "People left")).to_have_text(str(PEOPLE - 3))
    expect(metric(page, "Decisions an hour")).to_have_text("180")
    expect(metric(page, "Work left")).to_have_text("7 min")  # 20 of 20 s
    expect(page.get_by_text("Nobody is reviewed twice")).to_be_visible()
    page.locator("canvas").first.wait_for()
    picture(page, "progress")


def test_a_decision_is_found_and_taken_back(team: Team, store: Store) -> None:
    decide(team, store, "Ada", "id0", comment="<b>blurred</b>")
    decide(team, store, "Bob", "id1")
    person = team.join("lead")
    page = opened(person, "History")
    page.get_by_text("2 of 2 entries").wait_for()
    page.get_by_label("Person or text").fill("blurred")
    page.get_by_label("Person or text").press("Enter")
    page.get_by_text("1 of 2 entries").wait_for()
    select_row(page, 0)
    page.get_by_text("<b>blurred</b>", exact=True).last.wait_for()
    expect(page.locator(".hq-gallery figure.kept")).to_have_count(4)
    # Streamlit's own download of a table would let formulas through.
    expect(page.get_by_test_id("stElementToolbar").locator("visible=true")).to_have_count(0)
    picture(page, "history")
    page.get_by_role("button", name="Take back").click()
    page.get_by_text("of 3 entries").wait_for()
    assert "id0" not in store.state()
    assert store.state()["id1"].status == "chosen"
    undone = store.entries()[-1]
    assert (undone.decision.kind, undone.role) == ("undone", "lead")
    assert person.alerts == []


def test_annotators_see_their_own_decisions_only(team: Team, store: Store) -> None:
    decide(team, store, "Ada", "id0")
    page = opened(team.join("annotator"), "History")
    page.get_by_text("Nothing has been decided yet.").wait_for()
    expect(page.get_by_text("those of others are seen by a lead")).to_be_visible()


def test_the_spreadsheet(team: Team, store: Store) -> None:
    decide(team, store, "Ada", "id0", comment="=1+1")
    decide(team, store, "Bob", "id1")
    page = opened(team.join("lead"), "History")
    page.get_by_text("2 of 2 entries").wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as CSV").click()
    text = Path(download.value.path()).read_text("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(rows[0]) == COLUMNS
    assert [row["name"] for row in rows] == ["<script>alert(1)</script>", "Ada Lovelace"]
    assert [row["comment"] for row in rows] == ["", "'=1+1"]


@pytest.mark.slow
def test_names_and_comments_are_text_on_every_page(team: Team, store: Store) -> None:
    name, comment = "<script>alert(1)</script>", "<img src=x onerror=alert(1)>"
    everyone = Candidates(Workspace.open(team.workspace)).identities
    hostile = next(person.identity_id for person in everyone if person.name == name)
    decide(team, store, "<b>Ada</b>", hostile, comment=comment)
    person = team.join("lead")

    page = opened(person, "History")
    page.get_by_text("1 of 1 entries").wait_for()
    select_row(page, 0)
    page.get_by_text(comment, exact=True).last.wait_for()
    assert markup(page) == 0

    page.get_by_role("link", name="Progress").click()
    page.get_by_text(f"1 of {PEOPLE} people done").wait_for()
    page.locator("canvas").first.wait_for()
    assert markup(page) == 0

    page.get_by_role("link", name="Explore").click()
    show_turned_away(page)
    page.get_by_text(name).first.wait_for()
    assert markup(page) == 0

    page.get_by_role("link", name="Review").click()
    person.shown()
    assert markup(page) == 0
    assert person.alerts == []
    assert person.elsewhere == []
    assert person.blocked == []


def markup(page: Any) -> int:
    """Elements that a browser made of what is text, once all is there."""
    settled(page)
    return int(
        page.locator("script", has_text="alert(1)").count() + page.locator("img[onerror]").count()
    )
