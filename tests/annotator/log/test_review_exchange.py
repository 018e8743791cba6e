"""Decisions out of one workspace and into another, and what changed since they were made."""

from __future__ import annotations

import io
import json
import shutil
import threading
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from annotator.candidates.candidates import Candidates
from annotator.log.access import Actor
from annotator.log.decisions import DROP_REASONS, Decision, Entry, FaceRef
from annotator.log.exchange import export_lines, import_entries, parse_lines
from annotator.log.store import Store, open_store
from annotator.server.opened import Opened
from annotator.work.changes import changes_since, for_another_look
from hqvox.cli.review_exchange import register
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace
from hqvox.workspace.takedowns import Takedown, Takedowns
from pipelines.chain import STAGE_NAMES
from tests.helpers.synthetic_build import commit, make_build

ADA, BO, LEA = Actor("ada"), Actor("bo"), Actor("lea", "lead")
NAMES = ("Ada Lovelace", "Bedřich Ω", "Few Faces", "Nobody", "<script>alert(1)</script>")
NOON = datetime(2024, 5, 1, 12, 0, 0, 123456, UTC)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build that keeps ten faces of id0, id1 and id4."""
    folder = tmp_path_factory.mktemp("exchange")
    make_build(folder / "w", folder / "photos", NAMES, photos_per_identity=20)
    return folder / "w"


@pytest.fixture
def build(finished: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(finished, tmp_path / "w"))


@pytest.fixture
def other(finished: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(finished, tmp_path / "other"))


def shown(workspace: Workspace, identity_id: str) -> tuple[FaceRef, ...]:
    return tuple(face.ref for face in Candidates(workspace).faces(identity_id))


def choose(
    workspace: Workspace, store: Store, identity_id: str, numbers: tuple[int, ...], who: Actor = ADA
) -> Entry:
    faces = shown(workspace, identity_id)
    decision = Decision(
        identity_id,
        "chosen",
        tuple(faces[n] for n in numbers),
        faces,
        comment="line\nand \u2028 more",
        seconds=9.5,
        fingerprint=Candidates(workspace).fingerprint(identity_id),
    )
    return store.append(decision, key=uuid.uuid4().hex, actor=who)


def reviewed(workspace: Workspace) -> Store:
    """A review with a choice, one that was taken back, and a drop."""
    store = Store.open(workspace.storage.path("reviews.sqlite"), clock=lambda: NOON)
    choose(workspace, store, "id0", (0, 2, 1))
    entry = choose(workspace, store, "id1", (0, 1, 2), BO)
    store.undo(entry.seq, key="back", actor=BO)
    drop = Decision("id4", "dropped", shown=shown(workspace, "id4"), reason="wrong_person")
    store.append(drop, key="drop", actor=BO)
    return store


def test_a_log_comes_out_and_goes_in_as_it_was(build: Workspace, other: Workspace) -> None:
    store = reviewed(build)
    lines = list(export_lines(store))
    there = open_store(other)
    other_first = choose(other, there, "id1", (3, 4, 5), LEA)  # numbers differ from now on
    done = import_entries(other, there, parse_lines(lines, "x"))
    assert (done.added, done.known, done.unknown, done.taken_down) == (4, 0, {}, 0)
    assert done.identity_ids == {"id0", "id1", "id4"}
    mine, theirs = store.entries(), there.entries(after=other_first.seq)
    assert [(e.key, e.time, e.role) for e in mine] == [(e.key, e.time, e.role) for e in theirs]
    assert theirs[0].time == NOON
    for a, b in zip(mine, theirs, strict=True):
        for name in ("identity_id", "kind", "faces", "shown", "reason", "comment", "annotator"):
            assert getattr(a.decision, name) == getattr(b.decision, name)
    assert theirs[2].decision.undoes == theirs[1].seq != mine[1].seq
    assert there.state()["id1"].holds == other_first_of(there)
    before = there.entries()
    again = import_entries(other, there, parse_lines(lines, "x"))
    assert (again.added, again.known) == (0, 4)
    assert there.entries() == before


def other_first_of(store: Store) -> Entry:
    (entry,) = store.entries(limit=1, shown=False)
    return entry


def test_into_a_build_made_anew_it_is_the_same_review(build: Workspace, other: Workspace) -> None:
    store = reviewed(build)
    there = open_store(other)
    import_entries(other, there, parse_lines(export_lines(store), "x"))
    here = {i: (v.status, v.holds and v.holds.key) for i, v in store.state().items()}
    assert here == {i: (v.status, v.holds and v.holds.key) for i, v in there.state().items()}
    assert changes_since(there, Candidates(other)) == []
    assert list(export_lines(there)) == list(export_lines(store))


def test_what_is_not_here_is_left_out_and_named(build: Workspace, tmp_path: Path) -> None:
    lines = list(export_lines(reviewed(build)))
    smaller = make_build(tmp_path / "s", tmp_path / "photos", NAMES[:1], 20)
    done = import_entries(smaller, open_store(smaller), parse_lines(lines, "x"))
    assert (done.added, done.unknown) == (1, {"id1": 2, "id4": 1})


def test_what_was_taken_down_does_not_come_back(build: Workspace, other: Workspace) -> None:
    store = reviewed(build)
    first = store.entries()[0].decision
    lines = list(export_lines(store))
    takedowns = [Takedown("identity", "id4"), Takedown("photo", first.faces[0].photo_id)]
    Takedowns.read(other).add(other, takedowns)
    there = open_store(other)
    done = import_entries(other, there, parse_lines(lines, "x"))
    assert (done.added, done.taken_down) == (2, 2)  # a choice of three needs all three
    text = "".join(export_lines(there))
    assert first.faces[0].photo_id not in text
    assert "id4" not in {entry.decision.identity_id for entry in there.entries()}
    more = choose(build, store, "id0", (0, 1, 2, 3))
    done = import_entries(other, there, parse_lines(export_lines(store), "x"))
    (taken,) = [entry for entry in there.entries() if entry.key == more.key]
    assert len(taken.decision.faces) == 3  # of four, three are enough
    assert first.faces[0] not in taken.decision.shown


FACES = st.builds(
    FaceRef,
    photo_id=st.integers(0, 2**256 - 1).map(lambda n: f"{n:064x}"),
    face=st.integers(0, 30),
    box_xyxy=st.tuples(*[st.floats(-1e6, 1e6, allow_nan=False)] * 4),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    faces = tuple(draw(st.lists(FACES, min_size=3, max_size=7, unique_by=lambda face: face.key)))
    common: dict[str, Any] = {
        "identity_id": draw(TEXT.filter(bool)),
        "comment": draw(TEXT),
        "annotator": "ada",
        "seconds": draw(st.floats(0, 1e5)),
        "fingerprint": draw(TEXT),
    }
    if draw(st.booleans()):
        decision = Decision(kind="chosen", faces=faces, shown=faces, **common)
    else:
        common["comment"] += "x"  # the reason "other" needs one
        reason = draw(st.sampled_from(sorted(DROP_REASONS)))
        decision = Decision(kind="dropped", reason=reason, shown=faces, **common)
    time = draw(st.datetimes(timezones=st.just(UTC)))
    role = draw(st.sampled_from(["annotator", "lead"]))
    seq, key = draw(st.integers(1, 10**9)), draw(TEXT.filter(bool))
    return Entry(seq, time, decision, key, role, draw(st.booleans()), draw(st.booleans()))


class Log:
    """A store that only gives out."""

    def __init__(self, *held: Entry) -> None:
        self.held = held

    def entries(self) -> tuple[Entry, ...]:
        return self.held


@settings(max_examples=60, deadline=None)
@given(entries())
def test_any_entry_survives_the_journey(entry: Entry) -> None:
    lines = "\n".join(export_lines(Log(entry)))  # type: ignore[arg-type]
    assert parse_lines(lines.split("\n"), "x") == [entry]


def broken(**changes: Any) -> str:
    face = {"photo": "a" * 64, "face": 0, "box": [0, 0, 1, 1]}
    record = {
        "format": 1, "seq": 1, "key": "k", "time": "2024-05-01T12:00:00+00:00",
        "role": "annotator", "settles": False, "anew": False,
        "identity_id": "id0", "kind": "chosen",
        "reason": None, "comment": "", "annotator": "ada", "seconds": 1.0, "fingerprint": "",
        "undoes": None, "shown": [],
        "faces": [face | {"face": n} for n in range(3)],
    } | changes  # fmt: skip
    return json.dumps({k: v for k, v in record.items() if v is not ...})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no entry of a review"),
        ("[]", "no entry of a review"),
        ("[" * 100_000, "no entry of a review"),
        (broken(key=...), "no entry of a review"),
        (broken(key=3), "no entry of a review"),
        (broken(seq=True), "no entry of a review"),
        (broken(time="yesterday"), "no entry of a review"),
        (broken(time="2024-05-01T12:00:00"), "no entry of a review"),
        (broken(time="0001-01-01T00:00:00+23:00"), "no entry of a review"),
        (broken(faces=[{"photo": "a" * 64, "face": 0, "box": [10**400, 0, 1, 1]}]), "no entry of"),
        (broken(key="\ud800"), "should have 1 to 200 characters"),
        (broken(role="king"), "no entry of a review"),
        (broken(settles=1), "no entry of a review"),
        (broken(anew=...), "no entry of a review"),
        (broken(comment=None), "no entry of a review"),
        (broken(faces=[{"photo": "a" * 64}]), "no entry of a review"),
        (broken(format=2), "format 2 is not one that this hqvox reads"),
        (broken(kind="eaten"), "'eaten' is none of"),
        (broken(annotator=""), "a reviewer needs a name"),
        (broken(faces=[{"photo": "../x", "face": 0, "box": [0, 0, 1, 1]}]), "SHA-256"),
        (broken(kind="dropped", faces=[], reason="mood"), "no reason to drop"),
    ],
    ids=lambda value: None if len(str(value)) > 60 or "{" in str(value) else str(value)[:20],
)
def test_a_line_that_makes_no_sense_is_named(line: str, message: str) -> None:
    parse_lines([broken(seq=1), broken(seq=2)], "file")
    with pytest.raises(HqvoxError, match=f"^file, line 3: .*{message}"):
        parse_lines([broken(seq=1), "", line], "file")


@pytest.mark.parametrize("undoes", [1, 3], ids=["somebody_elses", "an_undoing"])
def test_what_takes_back_something_else_is_refused(undoes: int) -> None:
    back = {"kind": "undone", "faces": [], "identity_id": "id1"}
    lines = [broken(seq=1), broken(seq=2, identity_id="id1"), broken(seq=3, undoes=2, **back)]
    with pytest.raises(HqvoxError, match="line 4: entry 4 cannot undo"):
        parse_lines([*lines, broken(seq=4, undoes=undoes, **back)], "file")


def test_lines_in_another_order_are_refused() -> None:
    with pytest.raises(HqvoxError, match="line 2: entry 1 comes after 2; keep the lines in the or"):
        parse_lines([broken(seq=2), broken(seq=1)], "file")


# What changed since --------------------------------------------------------------------------


def rebuild(workspace: Workspace, shard: str, change: Any) -> None:
    """Write a shard's tables anew, changed by ``change(tables)``."""
    tables = {}
    for stage in STAGE_NAMES:
        table = workspace.read_stage(stage, shard)
        assert table is not None
        tables[stage] = table.to_pylist()
    change(tables)
    alive = {(r["candidate"], r["face"]) for r in tables["segment"] if r["reason"] is None}
    tables["quality"] = [r for r in tables["quality"] if (r["candidate"], r["face"]) in alive]
    commit(workspace, workspace.config(), shard, tables)


def place(workspace: Workspace, identity_id: str, number: int) -> int:
    return int(Candidates(workspace).faces(identity_id)[number].row["candidate"])


def refuse(tables: dict[str, list[dict[str, Any]]], stage: str, reason: str, at: int) -> None:
    later = STAGE_NAMES[STAGE_NAMES.index(stage) + 1 :]
    for row in tables[stage]:
        if row["candidate"] == at:
            row["reason"] = reason
    for name in later:
        tables[name] = [row for row in tables[name] if row["candidate"] != at]


def test_a_face_refused_now_and_one_that_is_gone_are_told_apart(build: Workspace) -> None:
    store = reviewed(build)
    turned, gone, copy = (place(build, "id0", n) for n in (0, 1, 2))

    def change(tables: dict[str, list[dict[str, Any]]]) -> None:
        refuse(tables, "pose", "turned_away", turned)
        refuse(tables, "duplicates", "duplicate", copy)
        for name in STAGE_NAMES:
            tables[name] = [row for row in tables[name] if row["candidate"] != gone]

    rebuild(build, "00000", change)
    (found,) = changes_since(store, Candidates(build))
    assert (found.identity_id, found.annotator, found.kind) == ("id0", "ada", "chosen")
    assert (found.gone, found.refused) == (1, {"duplicate": 1, "turned_away": 1})
    assert found.words == (
        "1 chosen face is gone; 1 chosen now refused: duplicate; 1 chosen now refused: turned_away"
    )
    assert for_another_look(store, Candidates(build)) == {"id0": found.seq}
    assert changes_since(store, Candidates(build), {"id1"}) == []


def test_however_many_changed_a_shard_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hqvox.workspace.identities.shard_size", lambda identities: identities)
    build = make_build(tmp_path / "w", tmp_path / "photos", NAMES, photos_per_identity=20)
    store = reviewed(build)
    choose(build, store, "id1", (0, 1, 2))
    turned = {place(build, name, 0) for name in ("id0", "id1")}

    def change(tables: dict[str, list[dict[str, Any]]]) -> None:
        for candidate in turned:
            refuse(tables, "pose", "turned_away", candidate)

    rebuild(build, "00000", change)
    candidates, read = Candidates(build), Counter[tuple[str, str]]()
    plain = Workspace.read_stage

    def counted(self: Workspace, stage: str, shard: str, *columns: Any) -> Any:
        read[stage, shard] += 1
        return plain(self, stage, shard, *columns)

    monkeypatch.setattr(Workspace, "read_stage", counted)
    changes = changes_since(store, candidates)
    assert [one.identity_id for one in changes] == ["id0", "id1"]
    assert all(one.refused.keys() == {"turned_away"} for one in changes)
    assert set(read.values()) == {1}


def test_newcomers_count_where_they_are_better(build: Workspace) -> None:
    best = place(build, "id0", 0)
    whole = {stage: build.read_stage(stage, "00000") for stage in STAGE_NAMES}

    def without(tables: dict[str, list[dict[str, Any]]]) -> None:
        refuse(tables, "pose", "turned_away", best)

    rebuild(build, "00000", without)
    store = open_store(build)
    entry = choose(build, store, "id0", (0, 1, 2))
    worse = choose(build, store, "id1", (0, 1, 2))
    assert changes_since(store, Candidates(build)) == []

    def restore(tables: dict[str, list[dict[str, Any]]]) -> None:
        tables.update({stage: table.to_pylist() for stage, table in whole.items()})

    rebuild(build, "00000", restore)
    (found,) = changes_since(store, Candidates(build))
    assert (found.seq, found.better, found.gone) == (entry.seq, 1, 0)
    assert found.words == "1 better newcomer"
    # A new decision on what is there now settles it.
    choose(build, store, "id0", (0, 1, 2))
    assert changes_since(store, Candidates(build)) == []
    # A newcomer that is worse than what was chosen is none to look at.
    last = place(build, "id1", 9)
    seen = store.entries(worse.seq - 1, limit=1)[0].decision
    assert len(seen.shown) == 10
    rebuild(build, "00001", lambda tables: refuse(tables, "pose", "turned_away", last))
    assert changes_since(store, Candidates(build)) == []


def test_where_all_that_was_shown_is_gone_what_is_there_is_new(build: Workspace) -> None:
    store = open_store(build)
    other = tuple(FaceRef(f"{n:064x}", 0, (0.0, 0.0, 9.0, 9.0)) for n in range(3))
    store.append(Decision("id0", "chosen", other, other), key="k", actor=ADA)
    (found,) = changes_since(store, Candidates(build))
    assert (found.gone, found.better) == (3, 7)
    store.append(Decision("id1", "chosen", other), key="l", actor=ADA)  # not told what it saw
    (found,) = changes_since(store, Candidates(build), {"id1"})
    assert (found.gone, found.better) == (3, 0)


def test_of_two_who_agree_the_later_saw_what_is_new(build: Workspace) -> None:
    best = place(build, "id0", 0)
    whole = {stage: build.read_stage(stage, "00000") for stage in STAGE_NAMES}
    rebuild(build, "00000", lambda tables: refuse(tables, "pose", "turned_away", best))
    store = open_store(build)
    first = choose(build, store, "id0", (0, 1, 2))
    rebuild(
        build, "00000", lambda tables: tables.update({s: t.to_pylist() for s, t in whole.items()})
    )
    assert for_another_look(store, Candidates(build)) == {"id0": first.seq}
    second = Decision("id0", "chosen", first.decision.faces, shown(build, "id0"), annotator="bo")
    (later,) = store.adopt([Entry(9, NOON, second, "second")])
    assert changes_since(store, Candidates(build)) == []
    gone = place(build, "id0", 1)  # the first that both chose
    rebuild(build, "00000", lambda tables: refuse(tables, "pose", "turned_away", gone))
    (change,) = changes_since(store, Candidates(build))
    assert (change.seq, change.latest) == (first.seq, later.seq)
    assert for_another_look(store, Candidates(build)) == {"id0": later.seq}


def test_a_dropped_identity_comes_up_again_with_new_candidates(build: Workspace) -> None:
    whole = {stage: build.read_stage(stage, "00004") for stage in STAGE_NAMES}
    gone = place(build, "id4", 9)
    rebuild(build, "00004", lambda tables: refuse(tables, "pose", "tilted", gone))
    store = reviewed(build)
    assert changes_since(store, Candidates(build)) == []
    rebuild(
        build, "00004", lambda tables: tables.update({s: t.to_pylist() for s, t in whole.items()})
    )
    (found,) = changes_since(store, Candidates(build))
    assert (found.identity_id, found.kind, found.better) == ("id4", "dropped", 1)
    assert found.words == "1 new candidate"


def test_of_a_shard_that_is_not_built_nothing_is_said(build: Workspace) -> None:
    store = reviewed(build)
    build.storage.remove(build.table_name("quality", "00000"))
    assert changes_since(store, Candidates(build)) == []


# The commands --------------------------------------------------------------------------------


def run(*args: str, stdin: str | None = None) -> str:
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, args, env={"COLUMNS": "200"}, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_commands_move_a_review_and_say_how_it_stands(
    build: Workspace, other: Workspace, tmp_path: Path
) -> None:
    reviewed(build).close()
    file = tmp_path / "decisions.jsonl"
    assert "4 entries" in run("export", build.url, str(file))
    assert file.read_text("utf-8") == run("export", build.url)
    first = place(other, "id0", 0)
    rebuild(other, "00000", lambda tables: refuse(tables, "pose", "tilted", first))
    said = run("import", other.url, str(file))
    assert "4 entries added, 0 were here already" in said
    assert "for another look: 1" in said
    assert "1 chosen now refused: tilted" in said
    assert "0 entries added, 4 were here already" in run(
        "import", other.url, "-", stdin=file.read_text("utf-8")
    )
    said = run("status", other.url)
    assert "1 with faces chosen, 1 dropped" in said
    assert "2 have fewer than 3 candidates and reach nobody" in said
    assert "1 chosen now refused: tilted" in said
    assert "1 of 3 identities are done" in said  # id1 was taken back, id0 comes up again
    rows = [line.replace("│", "").split() for line in said.splitlines() if line.startswith("│")]
    # decisions, chosen, dropped, settled, taken back, per hour, median, hours
    assert ["ada", "1", "1", "0", "0", "0", "379", "9.5", "0.00"] in rows
    assert ["bo", "1", "0", "1", "0", "1", "379", "9.5", "0.00"] in rows
    few = run("too-few", other.url)
    assert "2 identities have fewer than 3 candidates" in few
    assert "no photographs" in few


def test_a_damaged_table_is_one_line_and_the_review_goes_on(
    build: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    store = reviewed(build)
    first = place(build, "id0", 0)
    rebuild(build, "00000", lambda tables: refuse(tables, "pose", "tilted", first))
    damaged = Path(build.storage.path(build.table_name("duplicates", "00000")))
    damaged.write_bytes(damaged.read_bytes()[:100])
    before = set(threading.enumerate())
    parts = Opened(build.url).parts()
    for thread in set(threading.enumerate()) - before:
        if thread.name == "changes":
            thread.join(60)
    (record,) = (one for one in caplog.records if one.name == "annotator.server.opened")
    said = record.getMessage()
    assert str(damaged) in said
    assert "cannot be read" in said
    assert "\n" not in said
    assert parts.queue.next(ADA) is not None
    store.close()
    parts.store.close()


def test_status_makes_no_store(build: Workspace) -> None:
    assert "0 of 3 identities are done, left: 3" in run("status", build.url)
    assert run("export", build.url) == ""
    assert not list(Path(build.url).glob("reviews.sqlite*"))


def test_bad_files_are_named(build: Workspace, tmp_path: Path) -> None:
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"a": "é"}'.encode("latin-1"))
    for file, message in (
        (tmp_path / "missing", "cannot be read"),
        (tmp_path, "cannot be read"),
        (latin, "no text in UTF-8"),
    ):
        with pytest.raises(HqvoxError, match=message):
            run("import", build.url, str(file))
    with pytest.raises(HqvoxError):
        run("export", build.url, str(latin / "below"))


def test_export_writes_nothing_but_lines(build: Workspace) -> None:
    reviewed(build).close()
    lines = io.StringIO(run("export", build.url)).readlines()
    assert [json.loads(line)["kind"] for line in lines] == [
        "chosen", "chosen", "undone", "dropped"
    ]  # fmt: skip
