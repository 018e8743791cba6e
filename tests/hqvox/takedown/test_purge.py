"""Purging a finished workspace: what goes, what stays, and a kill at any moment."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

import hqvox.workspace.identities
import hqvox.workspace.takedowns
from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.release.write import write_release
from hqvox.runner.build import plan_build
from hqvox.runner.erasure import ShardEraser
from hqvox.takedown.purge import PurgePlan, plan_purge, run_purge
from hqvox.workspace.layout import PURGING, Workspace
from hqvox.workspace.storage import PendingFile, Storage
from hqvox.workspace.tables import Row
from hqvox.workspace.takedowns import FILE, Takedown, Takedowns
from models.store import ModelStore
from tests.helpers.synthetic_build import make_build

ADA, BED = "id0", "id1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build whose identities lie two in a shard. Not to be written to."""
    root = tmp_path_factory.mktemp("purge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hqvox.workspace.identities, "shard_size", lambda count: 2)
        workspace = make_build(root / "w", root / "photos")
    workspace.mark_failed("00000", {"error": f"{ADA}: secret-file.jpg", "trace": "secret-file.jpg"})
    lines = [
        {"event": "identity", "identity": ADA, "shard": "00000"},
        {"event": "identity", "identity": BED, "shard": "00000"},
        {"event": "failed", "shard": "00000", "error": "x", "trace": "secret-file.jpg"},
    ]
    log = "\n".join([*map(json.dumps, lines), ""])
    workspace.storage.write("runs/r1/log.jsonl", log.encode())
    workspace.storage.write("report.html", b"<img>")
    workspace.storage.write("releases/.half.tmp/face.jpg", b"secret-file")
    return root / "w"


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(finished, tmp_path / "w")
    return Workspace.open(tmp_path / "w")


def purge(workspace: Workspace, *asked: Takedown) -> PurgePlan:
    with workspace.lock(purging=True):
        plan = plan_purge(workspace, asked, near_copies=False)
        run_purge(workspace, plan)
    return plan


def rows_of(workspace: Workspace, stage: str, shard: str = "00000") -> list[Row]:
    table = workspace.read_stage(stage, shard)
    return [] if table is None else [row | {"shard": shard} for row in table.to_pylist()]


def photo(workspace: Workspace, identity: str, candidate: int) -> str:
    return next(
        row["photo_id"]
        for row in rows_of(workspace, "download")
        if (row["identity_id"], row["candidate"]) == (identity, candidate)
    )


def check_pixels(workspace: Workspace) -> None:
    """Every row that is left points at its own bytes, in a tar that tar programs read."""
    for shard in workspace.shards():
        rows = [r for r in rows_of(workspace, "download", shard) if r["photo_offset"] is not None]
        for row in rows:
            data = workspace.pixels("photo", row)
            assert hashlib.sha256(data).hexdigest() == row["photo_id"]
        tar = workspace.storage.path(workspace.tar_name("download", shard))
        if rows:
            with tarfile.open(tar) as members:
                assert {row["photo_id"] for row in rows} <= set(members.getnames())


def files_of(root: Path) -> dict[str, bytes]:
    files = (file for file in root.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def test_photo_goes_from_every_stage_and_the_rest_stays(workspace: Workspace) -> None:
    before = {stage: rows_of(workspace, stage) for stage in ("discover", "download")}
    tar = Path(workspace.storage.path(workspace.tar_name("download", "00000")))
    sha, size = photo(workspace, ADA, 4), tar.stat().st_size
    data = workspace.pixels("photo", next(r for r in before["download"] if r["photo_id"] == sha))
    untouched = files_of(Path(workspace.url) / "stages/quality")["00001.parquet"]
    plan = purge(workspace, Takedown("photo", sha, "asked"))
    assert (plan.photos, plan.candidates, plan.identities) == ({sha}, 1, [])
    for stage, rows in before.items():
        left = [row for row in rows if (row["identity_id"], row["candidate"]) != (ADA, 4)]
        assert rows_of(workspace, stage) == left
    check_pixels(workspace)
    assert data not in tar.read_bytes()
    assert sha.encode() not in tar.read_bytes()
    assert tar.stat().st_size == size
    # What was made from photographs is made again for the touched shard, and for no other.
    for stage in ("duplicates", "landmarks", "align", "segment", "quality"):
        assert workspace.committed(stage, "00000") is None
    assert not workspace.storage.exists("stages/align/00000.tar")
    assert files_of(Path(workspace.url) / "stages/quality")["00001.parquet"] == untouched
    tasks = plan_build(workspace, workspace.config(), ModelStore())
    assert [(task.shard, task.stages[0]) for task in tasks] == [("00000", "duplicates")]
    takedowns = Takedowns.read(workspace)
    assert takedowns.covers_photo(sha)
    assert takedowns.entries[0].reason == "asked"
    assert not takedowns.covers_url(
        f"{before['discover'][4]['url']}"
    )  # another file may stand there


def test_bytes_that_another_row_uses_stay(workspace: Workspace) -> None:
    for stage in ("discover", "download"):
        table, record = workspace.read_stage(stage, "00000"), workspace.committed(stage, "00000")
        assert table is not None
        assert record is not None
        rows = table.to_pylist()
        twin = {c: rows[0][c] for c in ("photo_id", "photo_offset", "photo_bytes") if c in rows[0]}
        rows = [row | (twin if row["identity_id"] == BED else {}) for row in rows]
        workspace.write_stage(stage, "00000", table.from_pylist(rows, table.schema), record)
    eraser = ShardEraser(workspace, "00000")
    eraser.erase([rows_of(workspace, "download")[0]], {})
    check_pixels(workspace)
    plan = plan_purge(workspace, [Takedown("photo", photo(workspace, BED, 0))])
    assert plan.candidates == sum(r["identity_id"] == BED for r in rows_of(workspace, "discover"))


def test_identity_goes_with_name_logs_and_copies_elsewhere(workspace: Workspace) -> None:
    shared = photo(workspace, ADA, 0)
    table, record = (
        workspace.read_stage("download", "00000"),
        workspace.committed("download", "00000"),
    )
    assert table is not None
    assert record is not None
    copy = next(row for row in table.to_pylist() if row["photo_id"] == shared)
    same = {name: copy[name] for name in ("photo_id", "photo_offset", "photo_bytes")}
    rows = [
        row | (same if (row["identity_id"], row["candidate"]) == (BED, 7) else {})
        for row in table.to_pylist()
    ]
    workspace.write_stage("download", "00000", table.from_pylist(rows, table.schema), record)
    plan = purge(workspace, Takedown("identity", ADA))
    assert plan.identities == [ADA]
    assert len(workspace.identities()) == 3
    for stage in ("discover", "download"):
        keys = {(row["identity_id"], row["candidate"]) for row in rows_of(workspace, stage)}
        assert keys
        assert ADA not in {identity for identity, _ in keys}
        assert (BED, 7) not in keys
    check_pixels(workspace)
    # What is left of the shard is up to date as before: nothing is discovered or fetched again.
    tasks = plan_build(workspace, workspace.config(), ModelStore())
    assert [(task.shard, task.stages[0]) for task in tasks] == [("00000", "duplicates")]
    everything = b"".join(files_of(Path(workspace.url)).values())
    for trace in (b"Lovelace", b"secret-file"):
        assert trace not in everything
    log = workspace.storage.read("runs/r1/log.jsonl").decode().splitlines()
    assert [json.loads(line).get("identity") for line in log] == [BED, None]
    assert not workspace.storage.exists("report.html")
    assert workspace.failures() == {}
    assert not workspace.storage.exists("releases/.half.tmp")


def test_shard_without_identities_leaves_no_file(workspace: Workspace) -> None:
    purge(workspace, Takedown("identity", ADA), Takedown("identity", BED))
    assert list(workspace.shards()) == ["00001"]
    assert not [name for name in files_of(Path(workspace.url)) if "00000" in name]
    assert plan_build(workspace, workspace.config(), ModelStore()) == []


def near(workspace: Workspace) -> tuple[str, str]:
    """The photographs of candidates 4 and 12, whose hashes differ in one bit."""
    return photo(workspace, ADA, 4), photo(workspace, ADA, 12)


def test_near_copies_go_with_a_photo_unless_exact(workspace: Workspace) -> None:
    one, other = near(workspace)
    narrow = workspace.config().model_copy(
        update={
            "duplicates": workspace.config().duplicates.model_copy(update={"max_distance_bits": 1})
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "config", lambda self: narrow)
        plan = plan_purge(workspace, [Takedown("photo", one)])
        exact = plan_purge(workspace, [Takedown("photo", one)], near_copies=False)
    assert {one, other} <= plan.photos
    assert plan.near_copies == len(plan.photos) - 1
    assert exact.photos == {one}
    assert exact.near_copies == 0


def test_nothing_found_is_noted_for_later_crawls(workspace: Workspace) -> None:
    before = files_of(Path(workspace.url) / "stages")
    plan = purge(workspace, Takedown("host", "example.org"))
    assert plan.shards == []
    assert Takedowns.read(workspace).covers_url("https://a.example.org/x")
    assert files_of(Path(workspace.url) / "stages") == before


def test_unknown_identity_is_one_clear_line(workspace: Workspace) -> None:
    with pytest.raises(HqvoxError, match="no identity 'id7'; give its id"):
        plan_purge(workspace, [Takedown("identity", "id7")])
    assert not workspace.storage.exists(FILE)


def test_damaged_shard_goes_as_a_whole(workspace: Workspace) -> None:
    name = workspace.table_name("download", "00000")
    workspace.storage.write(name, b"PAR1 no more")
    plan = purge(workspace, Takedown("host", "example.org"))
    assert [find.shard for find in plan.shards if find.unreadable] == ["00000"]
    assert not [name for name in files_of(Path(workspace.url) / "stages") if "00000" in name]
    tasks = plan_build(workspace, workspace.config(), ModelStore())
    assert [task.stages[0] for task in tasks] == ["discover"]


def test_damaged_tar_goes_with_its_shard(workspace: Workspace) -> None:
    sha = photo(workspace, ADA, 4)
    name = workspace.tar_name("download", "00000")
    workspace.storage.write(name, b"x" * 3000)
    purge(workspace, Takedown("photo", sha))
    assert not [name for name in files_of(Path(workspace.url) / "stages") if "00000" in name]


def test_interrupted_purge_keeps_everything_else_out(workspace: Workspace) -> None:
    workspace.storage.write(PURGING, b"")
    with pytest.raises(HqvoxError, match="finish it with `hqvox purge"), workspace.lock():
        pass
    purge(workspace)
    with workspace.lock():
        pass


def test_releases_that_show_it_are_named_by_their_files(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos")
    write_release(workspace, "v1", workspace.config(), auto=True)
    before = files_of(tmp_path / "w/releases")
    row = Release(workspace, "v1").manifest().to_pylist()[0]
    plan = purge(workspace, Takedown("photo", row["photo_id"]))
    tables = ["contact_sheets/001.jpg", "manifest.parquet", "LICENSES.csv", "SHA256SUMS"]
    assert plan.released == {"v1": [row["masked_file"], row["origin_file"], *tables]}
    # Who was left out is named in release.json only.
    assert purge(workspace, Takedown("identity", "id2")).released["v1"][-1] == "release.json"
    assert files_of(tmp_path / "w/releases") == before


SALT = "0123456789abcdef" * 2
"""The same in every purge, so that their bytes can be compared."""


@pytest.fixture(autouse=True)
def same_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hqvox.workspace.takedowns, "new_salt", lambda: SALT)


def asked_of(workspace: Workspace) -> list[Takedown]:
    return [Takedown("identity", ADA), Takedown("photo", photo(workspace, BED, 0))]


class KilledError(BaseException):
    """Stands for SIGKILL within this process."""


def die_before(step: int, die: Callable[[], object], patch: pytest.MonkeyPatch) -> None:
    """Die before the given change of a file; fsync, slow and of no matter to a kill, is left out.

    Once dead, nothing is tidied up.
    """
    left = [step]

    def counted(change: Callable) -> Callable:
        def call(*args: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                die()
            return change(*args)

        return call

    def tidy(pending: PendingFile) -> None:
        pending.file.close()
        if left[0] >= 0:
            pending.temporary.unlink(missing_ok=True)

    patch.setattr(os, "fsync", lambda handle: None)
    patch.setattr(PendingFile, "commit", counted(PendingFile.commit))
    patch.setattr(PendingFile, "discard", tidy)
    patch.setattr(Storage, "remove", counted(Storage.remove))


def purge_until_killed(root: str, asked: list[Takedown], step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hqvox.workspace.takedowns, "new_salt", lambda: SALT)
        die_before(step, lambda: os.kill(os.getpid(), signal.SIGKILL), patch)
        purge(Workspace.open(root), *asked)


def finish(root: Path, asked: list[Takedown], whole: dict[str, bytes]) -> None:
    """Look at what a kill left, finish it, and compare it with the purge that nothing disturbed."""
    workspace = Workspace.open(root)
    check_pixels_of_the_others(workspace)
    if workspace.storage.exists(FILE):
        with pytest.raises(HqvoxError, match="finish it"), workspace.lock():
            pass
        purge(workspace)  # what to finish follows from the takedowns
    else:
        purge(workspace, *asked)
    assert files_of(root) == whole


@pytest.fixture
def whole(finished: Path, tmp_path: Path) -> tuple[list[Takedown], dict[str, bytes]]:
    """What to take down, and the files of a workspace in which that was done undisturbed."""
    root = tmp_path / "whole"
    shutil.copytree(finished, root)
    asked = asked_of(Workspace.open(root))
    purge(Workspace.open(root), *asked)
    return asked, files_of(root)


def test_cut_short_before_any_change_and_run_again_ends_the_same(
    finished: Path, tmp_path: Path, whole: tuple[list[Takedown], dict[str, bytes]]
) -> None:
    def die() -> None:
        raise KilledError

    asked, files = whole
    for step in range(200):
        root = tmp_path / f"killed{step}"
        shutil.copytree(finished, root)
        try:
            with pytest.MonkeyPatch.context() as patch:
                die_before(step, die, patch)
                purge(Workspace.open(root), *asked)
        except KilledError:
            finish(root, asked, files)
            shutil.rmtree(root)
        else:
            break
    assert 20 < step < 199


@pytest.mark.slow
def test_killed_for_real_and_run_again_ends_the_same(
    finished: Path, tmp_path: Path, whole: tuple[list[Takedown], dict[str, bytes]]
) -> None:
    asked, files = whole
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hqvox.takedown.purge"])
    for step in (2, 13, 20):
        root = tmp_path / f"killed{step}"
        shutil.copytree(finished, root)
        process = context.Process(target=purge_until_killed, args=(str(root), asked, step))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        finish(root, asked, files)


def check_pixels_of_the_others(workspace: Workspace) -> None:
    """Between any two changes, rows that stay point at their own bytes."""
    takedowns = Takedowns.read(workspace)
    for row in rows_of(workspace, "download"):
        going = takedowns.covers_identity(row["identity_id"]) or takedowns.covers_photo(
            row["photo_id"]
        )
        if row["photo_offset"] is not None and not going:
            data = workspace.pixels("photo", row)
            assert hashlib.sha256(data).hexdigest() == row["photo_id"]
