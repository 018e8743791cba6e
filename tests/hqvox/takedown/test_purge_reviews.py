"""A purge reaches what people said: decisions, the index of candidates, reference photographs."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

import annotator.log.database
from annotator.candidates.candidates import Candidates
from annotator.candidates.index import INDEX
from annotator.log.access import Actor
from annotator.log.decisions import Decision, FaceRef
from annotator.log.store import Store, open_store
from hqvox.cli.app import app
from hqvox.errors import HqvoxError
from hqvox.takedown.purge import plan_purge, run_purge
from hqvox.workspace.layout import PURGING, Workspace
from hqvox.workspace.takedowns import Takedown
from tests.helpers.synthetic_build import make_build

ADA = Actor("ada")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("purge-reviews")
    make_build(root / "w", root / "photos", photos_per_identity=20)
    return root / "w"


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Workspace:
    """Ada decided on id0 (the best four faces) and id1 (the best three)."""
    found = Workspace.open(shutil.copytree(finished, tmp_path / "w"))
    store = open_store(found)
    for identity_id, count in (("id0", 4), ("id1", 3)):
        shown = faces(found, identity_id)
        decision = Decision(identity_id, "chosen", shown[:count], shown, comment="of her")
        store.append(decision, key=identity_id, actor=ADA)
    store.close()
    for name in ("id0", "id1"):
        found.storage.write(f"references/{name}.jpg", b"picture")
    assert found.storage.exists(INDEX)
    return found


def faces(workspace: Workspace, identity_id: str) -> tuple[FaceRef, ...]:
    return tuple(face.ref for face in Candidates(workspace).faces(identity_id))


def purge(workspace: Workspace, *asked: Takedown) -> None:
    with workspace.lock(purging=True):
        run_purge(workspace, plan_purge(workspace, asked, near_copies=False))


def bytes_of(workspace: Workspace) -> bytes:
    """Everything that the store's files hold."""
    return b"".join(f.read_bytes() for f in Path(workspace.url).glob("reviews.sqlite*"))


def test_a_persons_decisions_and_pictures_go(workspace: Workspace) -> None:
    mine = faces(workspace, "id0")[0].photo_id.encode()
    assert mine in bytes_of(workspace)
    purge(workspace, Takedown("identity", "id0"))
    store = open_store(workspace)
    assert [entry.decision.identity_id for entry in store.entries()] == ["id1"]
    assert set(store.state()) == {"id1"}
    store.close()
    assert mine not in bytes_of(workspace)
    assert not workspace.storage.exists(INDEX)
    assert workspace.storage.names("references") == ["id1.jpg"]


def test_a_photograph_goes_out_of_the_decisions(workspace: Workspace) -> None:
    first, second = faces(workspace, "id0"), faces(workspace, "id1")
    purge(
        workspace,
        Takedown("photo", first[1].photo_id),
        Takedown("photo", second[1].photo_id),
    )
    store = open_store(workspace)
    (entry,) = store.entries()  # id1 has too few faces left, and comes up again
    assert entry.decision.faces == (first[0], first[2], first[3])
    assert first[1] not in entry.decision.shown
    store.close()
    assert first[1].photo_id.encode() not in bytes_of(workspace)


def test_without_the_stores_package_a_purge_is_not_finished(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "annotator.log.store", None)
        with pytest.raises(HqvoxError, match=r"pip install 'hqvox\[review\]'.*hqvox purge"):
            purge(workspace, Takedown("identity", "id0"))
        assert workspace.storage.exists(PURGING)
    purge(workspace)
    assert not workspace.storage.exists(PURGING)
    store = open_store(workspace)
    assert set(store.state()) == {"id1"}
    store.close()


def test_a_reader_keeps_erased_bytes_only_until_the_purge_is_run_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotator.log.database, "BUSY_SECONDS", 0.2)
    mine = faces(workspace, "id0")[0].photo_id.encode()
    file = Path(workspace.url) / "reviews.sqlite"
    store = open_store(workspace)  # a review UI, so that closing the purge's keeps the -wal file
    with closing(sqlite3.connect(file)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM review_log").fetchall()
        with pytest.raises(HqvoxError, match="close the review UI and run the same command again"):
            purge(workspace, Takedown("identity", "id0"))
        assert mine in bytes_of(workspace)
    purge(workspace)
    assert mine not in bytes_of(workspace)
    store.close()


def test_without_a_review_none_is_made(finished: Path, tmp_path: Path) -> None:
    found = Workspace.open(shutil.copytree(finished, tmp_path / "w"))
    purge(found, Takedown("identity", "id0"))
    assert not found.storage.exists("reviews.sqlite")


def test_a_database_elsewhere_is_reached_too(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere.sqlite"
    shutil.move(str(Path(workspace.url) / "reviews.sqlite"), elsewhere)
    monkeypatch.setenv("HQVOX_REVIEW_STORE", str(elsewhere))
    purge(workspace, Takedown("identity", "id0"))
    store = Store.open(elsewhere)
    assert set(store.state()) == {"id1"}
    store.close()


def test_the_command_tells_of_exports(workspace: Workspace) -> None:
    command = ("purge", workspace.url, "--identity", "id0", "--yes")
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "files of `hqvox review export` stay" in result.output
