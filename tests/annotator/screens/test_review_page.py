"""The review page in a real browser: by keyboard and mouse, alone and together."""

from __future__ import annotations

import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from annotator.candidates.candidates import Candidates
from annotator.log.access import Actor, TokenFile
from annotator.log.decisions import DROP_REASONS, Decision, Entry
from annotator.log.schema import LEASES
from annotator.log.store import Store, open_store
from annotator.work.queue import Queue, QueueItem
from hqvox.cli.app import main
from hqvox.workspace.layout import Workspace
from tests.helpers.browser_tools import (
    WAIT_MS,
    WAIT_SECONDS,
    Reviewer,
    Server,
    Team,
    expect,
    running,
    select_row,
    wait_for,
)
from tests.helpers.small_review import FACES, make_review


def store_of(workspace: Path) -> Store:
    return open_store(Workspace.open(workspace))


def said(workspace: Path, name: str | None = None) -> list[Entry]:
    store = store_of(workspace)
    try:
        return store.entries(annotator=name)
    finally:
        store.close()


def my_name(who: Reviewer) -> str:
    who.page.get_by_test_id("stExpandSidebarButton").click()
    sidebar = who.page.get_by_test_id("stSidebar").get_by_test_id("stText")
    expect(sidebar).to_contain_text(re.compile("annotator|lead"))
    return str(sidebar.inner_text()).split("\n")[0]


def numbers(entry: Entry) -> list[int]:
    shown = [face.key for face in entry.decision.shown]
    return [shown.index(face.key) for face in entry.decision.faces]


def test_a_session_by_keyboard(team: Team) -> None:
    who = team.join().shown()
    who.has_taken(0, 1, 2, 3, 4, 5, 6)  # the machine's own pick
    expect(who.counter()).to_have_text("7 of 3–7 taken ✓")
    first = who.identity_id()
    who.press("1", "2", "3", "4", "5", "Enter")
    expect(who.message()).to_have_text(
        "Not saved: take 1 more face, or drop the person (X). At least 3 are needed."
    )
    who.press("ArrowLeft", "ArrowDown", "Space")  # from the fifth to the fourth, and a row down
    chosen = [5, 6, 3 + who.columns()]
    who.has_taken(*chosen)
    who.press("ArrowDown", "c")
    who.page.keyboard.type("x and Enter do nothing here: ?")
    assert who.press("Enter").name()  # back to the faces, not on
    second = who.on("Enter").identity_id()
    assert second != first
    assert who.on("x", "3").identity_id() not in (first, second)
    name = my_name(who)
    one, two = said(team.workspace, name)
    assert (one.decision.identity_id, numbers(one)) == (first, chosen)
    assert one.decision.comment == "x and Enter do nothing here: ?"
    assert len(one.decision.shown) == FACES
    assert 0.4 < one.decision.seconds < 60
    assert (two.decision.identity_id, two.decision.kind, two.decision.reason) == (
        second, "dropped", "poor_quality",
    )  # fmt: skip


def test_an_undo_goes_back_to_the_person(team: Team) -> None:
    who = team.join().shown()
    first = who.identity_id()
    who.on("1", "Enter")
    assert who.on("u").identity_id() == first
    expect(who.message()).to_contain_text("decide again")
    who.has_taken(1, 2, 3, 4, 5, 6)  # as they were decided
    who.on("x", "1")
    kinds = [(e.decision.identity_id, e.decision.kind) for e in said(team.workspace, my_name(who))]
    assert kinds == [(first, "chosen"), (first, "undone"), (first, "dropped")]


def test_a_reload_in_mid_work_loses_nothing(team: Team) -> None:
    who = team.join().shown()
    before = who.identity_id(), who.screen()
    who.press("2", "4", "c")
    who.page.keyboard.type("half a thought")
    who.page.reload()
    who.shown()
    assert (who.identity_id(), who.screen()) == before
    who.has_taken(0, 2, 4, 5, 6)
    expect(who.page.locator(".comment input")).to_have_value("half a thought")


def test_another_reason_is_written_as_a_comment(team: Team) -> None:
    who = team.join().shown()
    who.press("x", str(list(DROP_REASONS).index("other") + 1))
    expect(who.message()).to_contain_text("say in the comment what it is")
    comment = who.page.locator(".comment input")
    expect(comment).to_be_focused()
    who.page.keyboard.type("sunglasses")
    who.press("Enter").on("x", str(list(DROP_REASONS).index("other") + 1))
    (entry,) = said(team.workspace, my_name(who))
    assert (entry.decision.reason, entry.decision.comment) == ("other", "sunglasses")


def test_the_page_is_left_in_mid_work(team: Team) -> None:
    who = team.join("lead").shown().at_rest()
    person = who.identity_id()
    # The key comes after the link, while the review is still on the screen. If it were sent now,
    # Streamlit could show the review again, or an empty page.
    who.sent.clear()
    tab(who, "Explore").evaluate(
        """link => {
            link.click();
            document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "z", bubbles: true}));
        }"""
    )
    expect(who.page.get_by_text("Around the limit")).to_be_visible()
    assert not [message for message in who.sent if b"zoom" in message]
    tab(who, "Review").click()
    assert who.shown().identity_id() == person
    before = who.screen()
    who.button("accept").click()
    assert who.shown(before).identity_id() != person


@pytest.mark.slow
def test_a_session_by_mouse(team: Team) -> None:
    who = team.join().shown()
    first = who.identity_id()
    who.click(0, 1, 2, 3, 4, 8)
    who.has_taken(5, 6, 8)
    who.page.locator(".comment input").fill("by mouse")
    before = who.screen()
    who.button("accept").click()
    who.shown(before)
    who.button("zoom").click()
    dialog = who.page.locator("dialog.look")
    expect(dialog.locator("img")).to_be_visible()
    dialog.locator("[data-look=next]").click()
    expect(dialog.locator(".title")).to_contain_text("Face 2 of")
    dialog.locator("[data-look=toggle]").click()
    dialog.locator("[data-look=original]").click()
    expect(dialog.locator("svg rect")).to_have_count(1)
    expect(dialog.locator("svg circle")).to_have_count(68)
    dialog.locator("[data-close]").click()
    who.has_taken(0, 2, 3, 4, 5, 6)
    before, second = who.screen(), who.identity_id()
    who.button("skip").click()
    who.shown(before)
    assert who.identity_id() != second
    before = who.screen()
    who.button("drop").click()
    who.page.locator("dialog.reasons .reason").nth(1).click()
    who.shown(before)
    one, two = said(team.workspace, my_name(who))
    assert (one.decision.identity_id, numbers(one), one.decision.comment) == (
        first, [5, 6, 8], "by mouse",
    )  # fmt: skip
    assert two.decision.reason == "wrong_person"


@pytest.mark.slow
def test_two_side_by_side_never_get_the_same_person(team: Team) -> None:
    one, two = team.join().shown(), team.join().shown()
    seen = [one.identity_id(), two.identity_id()]
    for who in (one, two, two, one):
        seen.append(who.on("Enter").identity_id())
    assert len(set(seen)) == len(seen)


@pytest.mark.slow
def test_a_double_enter_counts_once(team: Team) -> None:
    who = team.join().shown()
    before = who.screen()
    who.press("Enter", "Enter").page.keyboard.down("Enter")
    who.page.keyboard.down("Enter")  # held: repeats
    who.page.keyboard.up("Enter")
    who.shown(before).at_rest()
    assert len(said(team.workspace, my_name(who))) == 1


@pytest.mark.slow
def test_a_lease_that_expired_and_went_to_another(team: Team) -> None:
    who = team.join().shown()
    lost = who.identity_id()
    workspace = Workspace.open(team.workspace)
    store, candidates = open_store(workspace), Candidates(workspace)
    items = [QueueItem(p.identity_id, p.candidates, p.certainty) for p in candidates.identities]
    queue = Queue(store, items, workspace.config().review)
    with store.transaction() as transaction:
        transaction.connection.execute(
            sa.update(LEASES).where(LEASES.c.identity_id == lost).values(expires_us=0)
        )
    assert queue.lease(Actor("the other"), lost) is not None
    store.close()
    before = who.screen()
    who.press("Enter").shown(before)
    expect(who.message()).to_contain_text("went to somebody else")
    assert who.identity_id() != lost
    assert said(team.workspace, my_name(who)) == []


@pytest.mark.slow
def test_names_and_comments_are_text(team: Team) -> None:
    who = team.join().shown()
    found = None
    for _ in range(30):
        if who.name().startswith("<"):
            found = who.name()
            break
        who.on("s")
    assert found == "<script>alert(1)</script>"
    who.press("c")
    who.page.keyboard.type("<img src=x onerror=alert(2)>")
    who.press("Enter").on("Enter")
    who.on("u")
    expect(who.message()).to_contain_text("<script>alert(1)</script>")
    expect(who.page.locator(".comment input")).to_have_value("<img src=x onerror=alert(2)>")
    who.at_rest()
    assert who.alerts == []
    assert who.elsewhere == []  # nothing is fetched from other servers


def disagree(folder: Path) -> str:
    """Have two annotators choose different faces of a person, which only a lead can settle."""
    workspace = Workspace.open(folder)
    store, candidates = open_store(workspace), Candidates(workspace)
    disputed = candidates.identities[-1].identity_id
    faces = [face.ref for face in candidates.faces(disputed)]
    twice = workspace.config().review.model_copy(update={"second_fraction": 1.0})
    queue = Queue(store, [QueueItem(disputed, len(faces), 0.5)], twice)
    build = candidates.fingerprint(disputed)
    for name, chosen in (("first eye", faces[:3]), ("second eye", faces[7:11])):
        decision = Decision(disputed, "chosen", tuple(chosen), tuple(faces), fingerprint=build)
        assert queue.lease(Actor(name), disputed) is not None
        store.append(decision, key=name, actor=Actor(name))
    store.close()
    return disputed


@pytest.mark.slow
def test_a_lead_settles_what_two_disagree_on(team: Team) -> None:
    disputed = disagree(team.workspace)
    store = store_of(team.workspace)
    assert store.state()[disputed].status == "disputed"
    lead = team.join("lead").shown()
    assert lead.identity_id() == disputed
    picks = lead.page.locator(".picks")
    expect(picks).to_contain_text("A took")
    expect(picks).to_contain_text("B took")
    expect(picks).not_to_contain_text("eye")  # blind
    lead.has_taken()
    lead.press("b")
    expected = wait_for(lead.taken, "B's faces to be taken")
    assert expected in ([0, 1, 2], [7, 8, 9, 10])
    lead.on("Enter")
    outcome = store.state()[disputed]
    assert outcome.status == "chosen"
    assert outcome.settlement is not None
    assert numbers(store.entries(identity_ids=[disputed])[-1]) == expected
    store.close()


REMOVED = "Your access was removed; nothing was saved."


def test_a_removed_token_saves_nothing(team: Team) -> None:
    who = team.join().shown()
    name = my_name(who)
    who.on("Enter").at_rest()
    assert len(said(team.workspace, name)) == 1
    tokens = TokenFile(Workspace.open(team.workspace))
    tokens.remove(name)
    who.press("Enter")
    who.page.get_by_text(REMOVED).wait_for()
    expect(who.page.locator(".review")).to_have_count(0)
    expect(tab(who, "Review")).to_have_count(0)
    assert len(said(team.workspace, name)) == 1
    who.page.reload()  # and is taken for nobody else
    who.page.get_by_label("Your token").wait_for()
    tokens.add(name, "lead")  # another token of the same name
    who.page.reload()
    who.page.get_by_label("Your token").wait_for()


def test_a_removed_lead_settles_and_undoes_nothing(team: Team) -> None:
    disputed = disagree(team.workspace)
    lead = team.join("lead").shown().at_rest()
    assert lead.identity_id() == disputed
    name = my_name(lead)
    lead.press("b")
    wait_for(lead.taken, "B's faces to be taken")
    second = lead.context.new_page()  # signed in by the same cookie
    second.set_default_timeout(WAIT_MS)
    second.goto(f"{team.server.url}/history")
    second.wait_for_timeout(8000)
    second.get_by_text("2 of 2 entries").wait_for()
    select_row(second, 0)
    second.get_by_role("button", name="Take back").wait_for()
    TokenFile(Workspace.open(team.workspace)).remove(name)
    second.get_by_role("button", name="Take back").click()
    second.get_by_text(REMOVED).wait_for()
    lead.press("Enter")
    lead.page.get_by_text(REMOVED).wait_for()
    assert [entry.key for entry in said(team.workspace)] == ["first eye", "second eye"]
    store = store_of(team.workspace)
    assert store.state()[disputed].status == "disputed"
    store.close()


def test_pages_are_reached_by_reload_and_link(team: Team) -> None:
    who = team.join("lead").shown()
    history = re.compile(r"decided yet|entries$")
    pages = {"progress": "people done", "history": history, "explore": "Around the limit"}
    for page, text in pages.items():
        who.page.goto(f"{team.server.url}/{page}")
        who.page.get_by_text(text).first.wait_for()
        who.page.reload()
        who.page.get_by_text(text).first.wait_for()
        expect(who.page).to_have_url(f"{team.server.url}/{page}")
        expect(who.page.locator(".review")).to_have_count(0)
    # The address that somebody is sent may name a page too.
    who.page.get_by_test_id("stExpandSidebarButton").click()
    who.page.get_by_role("link", name="Sign out").click()
    who.page.get_by_label("Your token").wait_for()
    token = team.add("by link", "lead")
    who.page.goto(f"{team.server.url}/history#token={token}")
    who.page.get_by_text(history).first.wait_for()
    expect(who.page).to_have_url(f"{team.server.url}/history")
    who.page.goto(team.server.url)
    who.shown()


def tab(who: Reviewer, name: str) -> Any:
    return who.page.get_by_test_id("stTopNavLink").filter(has_text=name)


@pytest.mark.slow
def test_roles_and_tokens(team: Team, chromium: Any) -> None:
    expect(tab(team.join("lead").shown(), "Explore")).to_be_visible()
    annotator = team.join("annotator").shown()
    expect(tab(annotator, "History")).to_be_visible()
    expect(tab(annotator, "Explore")).to_have_count(0)
    annotator.page.goto(f"{team.server.url}/explore")
    annotator.shown()  # what is not theirs is not there: they are led to the review
    stranger = Reviewer(chromium, team.server.url, "hqv_wrong")
    stranger.page.get_by_text("This token is not known here").wait_for()
    expect(stranger.page.locator(".review")).to_have_count(0)
    stranger.page.get_by_label("Your token").fill(team.add("late comer", "annotator"))
    stranger.page.get_by_role("button", name="Sign in").click()
    stranger.shown()
    expect(stranger.page).not_to_have_url(re.compile("token"))
    stranger.page.reload()
    stranger.shown()  # the tab remembers
    stranger.close()


@pytest.mark.slow
def test_nothing_outside_the_workspace_can_be_read(team: Team) -> None:
    team.join().shown()
    for path in (
        "/app/static/hqvox.yaml", "/app/static/../hqvox.yaml", "/media/../../../etc/passwd",
        "/static/../../../../../etc/passwd", "/component/hqvox_review/../../app.py",
        "/_stcore/bidi-components/hqvox_review/../../../etc/passwd", "/hqvox.yaml",
        "/media/review-tokens.json", "/%2e%2e/%2e%2e/etc/passwd",
    ):  # fmt: skip
        try:
            with urllib.request.urlopen(team.server.url + path, timeout=WAIT_SECONDS) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            body = error.read()
        assert b"root:" not in body, path
        assert b"discover:" not in body, path
        assert b"sha256" not in body, path


@pytest.mark.slow
def test_the_machine_itself_needs_the_printed_address(
    chromium: Any, copy_review: Callable[[Path], Path], tmp_path: Path
) -> None:
    with running(copy_review(tmp_path), "--as", "ada") as server:
        stranger = chromium.new_context().new_page()
        for path in ("", "/history", "/?token=guessed"):
            stranger.goto(f"{server.url}{path}")
            stranger.get_by_label("Your token").wait_for()
        # The page of another program on this machine, in the browser that is signed in.
        who = Reviewer(chromium, server.url).shown()
        expect(who.page).to_have_url(f"{server.url}/")  # the token has left the address
        other = who.context.new_page()
        other.route("http://127.0.0.1:9/", lambda route: route.fulfill(body="another program"))
        other.goto("http://127.0.0.1:9/")
        opened = other.evaluate(
            """url => new Promise(done => {
                const socket = new WebSocket(url, ["streamlit"]);
                socket.onopen = () => done(true);
                socket.onerror = () => done(false);
            })""",
            f"{server.url.replace('http', 'ws')}/_stcore/stream",
        )
        assert opened is False
        other.close()
        first = who.identity_id()
        who.page.reload()
        assert who.shown().identity_id() == first
        second = who.context.new_page()
        second.goto(server.url)
        second.locator(".review[data-ready]:not([hidden])").wait_for()
        # Ends with both pages open. No limit of 2 s here: the machine may be busy.
        process = server.process
        assert process is not None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=WAIT_SECONDS) == 0
        assert "Traceback" not in server.printed()


@pytest.mark.slow
def test_a_server_that_is_ended_loses_nothing(
    chromium: Any, copy_review: Callable[[Path], Path], tmp_path: Path
) -> None:
    workspace = copy_review(tmp_path)
    with running(workspace, "--as", "ada") as server:
        people = [Reviewer(chromium, server.url).shown() for _ in range(2)]
        acknowledged = people[0].identity_id()
        people[0].on("Enter")
        sent = people[0].identity_id()
        people[0].press("Enter")  # it ends while this is on its way
        process = server.process
        assert process is not None
        process.terminate()
        assert process.wait(timeout=WAIT_SECONDS) == 0
        server.stop()
        saved = {entry.decision.identity_id for entry in said(workspace)}
        assert acknowledged in saved
        assert saved <= {acknowledged, sent}
        server.start()
        wait_for(
            lambda: {e.decision.identity_id for e in said(workspace)} == {acknowledged, sent},
            "the browser to send again what was not acknowledged",
        )
        assert len(said(workspace)) == 2
        for person in people:
            person.close()


@pytest.mark.slow
def test_streamlits_dialog_does_not_cover_what_is_not_saved(
    chromium: Any, copy_review: Callable[[Path], Path], tmp_path: Path
) -> None:
    with running(copy_review(tmp_path), "--as", "ada") as server:
        who = Reviewer(chromium, server.url).shown()
        server.stop()
        who.press("Enter")
        unsaved = who.page.locator(".unsaved")
        expect(unsaved).to_contain_text("Not saved yet")
        dialog = who.page.get_by_test_id("stDialog")
        expect(dialog).to_have_css("background-color", "rgba(0, 0, 0, 0)")
        above, below = unsaved.bounding_box(), dialog.locator("> div").bounding_box()
        assert above is not None
        assert below is not None
        assert above["y"] + above["height"] <= below["y"]
        who.close()


@pytest.mark.slow
def test_a_server_that_dies_loses_nothing(
    chromium: Any, copy_review: Callable[[Path], Path], tmp_path: Path
) -> None:
    workspace = copy_review(tmp_path)
    with running(workspace, "--as", "ada") as server:
        who = Reviewer(chromium, server.url).shown()
        first = who.identity_id()
        second = who.on("Enter").identity_id()
        who.press("1", "2")
        server.stop(kill=True)
        server.start()
        who.page.reload()
        who.shown()
        assert who.has_taken(2, 3, 4, 5, 6).identity_id() == second
        who.on("Enter")
        who.close()
        decided = [(e.decision.identity_id, e.decision.annotator) for e in said(workspace)]
        assert decided == [(first, "ada"), (second, "ada")]


@pytest.mark.slow
def test_it_works_on_a_tablet(team: Team) -> None:
    for width, height in ((768, 1024), (1024, 768)):
        who = team.join(viewport={"width": width, "height": height}, has_touch=True, is_mobile=True)
        who.shown()
        sizes = who.page.locator(".review button:visible").evaluate_all(
            """all => all.map(one => one.getBoundingClientRect())
                .map(box => [box.width, box.height])"""
        )
        assert min(min(size) for size in sizes) >= 44
        wide = who.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
        who.page.locator(".tile").nth(1).tap()
        who.has_taken(0, 2, 3, 4, 5, 6)
        before = who.screen()
        who.button("accept").tap()
        who.shown(before)


@pytest.mark.slow
def test_streamlit_starts_it_too_and_keeps_the_rule(
    chromium: Any, copy_review: Callable[[Path], Path], tmp_path: Path
) -> None:
    workspace = copy_review(tmp_path)
    server = Server(workspace, "--sign-in", streamlit=True)
    try:
        server.start()
        page = chromium.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(f"{server.url}/explore")
        page.get_by_text("hqvox review token add").wait_for()
        token = TokenFile(Workspace.open(workspace)).add("ada", "lead")
        who = Reviewer(chromium, server.url, token).shown()
        who.has_taken(0, 1, 2, 3, 4, 5, 6)
        TokenFile(Workspace.open(workspace)).remove("ada")
    finally:
        server.stop()


@pytest.mark.slow
def test_what_cannot_be_reviewed_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = make_review(tmp_path, names=("Ada", "Bedřich", "Few"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssertionError, match="no workspace here") as failure:
        Server(tmp_path / "empty").start()
    assert "Traceback" not in str(failure.value)
    # The same without a process for each.
    monkeypatch.setattr("annotator.server.serve.serve", lambda *_: pytest.fail("it is served"))
    for options, said_line in (
        (["--sign-in"], "hqvox review token add"),
        (["--address", "0.0.0.0"], "hqvox review token add"),
        (["--as", " "], "a reviewer needs a name"),
    ):
        command = ["hqvox", "review", str(workspace), "--no-browser", *options]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit):
            main()
        (line,) = capsys.readouterr().err.splitlines()
        assert said_line in line
