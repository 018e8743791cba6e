"""Every file of a workspace has one owner, which knows how to erase takedowns from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from annotator.candidates.index import open_index
from annotator.log.access import TokenFile
from annotator.log.store import claim, open_store
from hqvox.cli.app import app
from hqvox.exchange.workspace import LINKS
from hqvox.release.write import write_release
from hqvox.speech.build import plan_speech, run_speech, sources
from hqvox.takedown.owners import OWNERS
from hqvox.workspace.layout import PURGING, Workspace
from hqvox.workspace.storage import Storage
from hqvox.workspace.takedowns import Takedown, Takedowns
from pipelines.discover.budget import Budget
from pipelines.discover.paged import KeptPages, ResultPage
from tests.helpers.crawled import crawling
from tests.helpers.owned import assert_owned, owners_of
from tests.helpers.sounds import babble, put, sound_file
from tests.helpers.synthetic_build import make_build


def crawl_and_kill(root: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A crawl that was killed before it committed its shard, after one that was not."""
    with crawling(root, monkeypatch) as crawled:
        crawled.build()
        workspace = crawled.workspace
        crawled.build_until_killed()
    row = workspace.identities().to_pylist()[0]
    KeptPages(workspace.storage, "brave", row, {}).put({}, "Ada", ResultPage())
    Budget(workspace.storage, "brave", 10).take()
    workspace.mark_failed("00000", {"error": "x"})
    workspace.storage.write(PURGING, b"")
    Takedowns().add(workspace, [Takedown("host", "example.org")])
    return workspace


def build_and_review(root: Path) -> Workspace:
    """A build with speech, decisions, a release and a report."""
    workspace = make_build(root / "w", root / "photos")
    put(root, "audio/Ada Lovelace/v/1.wav", sound_file(babble(2.5, 1)))
    config, places = workspace.config(), sources(workspace, [root / "audio"], (), False)
    run_speech(workspace, config, plan_speech(workspace, config.speech, places), places, workers=0)
    store = open_store(workspace)
    with store.database.writing() as connection:
        claim(connection, workspace, "as a server's database does")
    store.close()
    TokenFile(workspace).add("lea", "lead")
    open_index(workspace)
    workspace.storage.write("references/id0.jpg", b"picture")
    write_release(workspace, "v1", config, auto=True, split="seed:0", speech=False)
    result = CliRunner().invoke(app, ["report", workspace.url, "--out", str(root / "w/it.html")])
    assert result.exit_code == 0, result.output
    (root / "w" / LINKS / "vox1/Ada").mkdir(parents=True)
    (root / "w" / LINKS / "vox1/Ada/1.jpg").symlink_to("/nowhere/1.jpg")
    return workspace


def test_every_file_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = assert_owned(crawl_and_kill(tmp_path / "crawl", monkeypatch))
    seen |= assert_owned(build_and_review(tmp_path / "build"))
    # The two have files of every kind, so an owner that names files nobody writes is noticed too.
    assert seen == {owner.name for owner in OWNERS if owner.files}


def test_a_file_without_an_owner_is_noticed(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos", names=("Ada Lovelace",))
    workspace.storage.write("thumbnails/ada.jpg", b"picture")
    assert owners_of(workspace)["thumbnails/ada.jpg"] == []
    with pytest.raises(AssertionError, match=r"thumbnails/ada\.jpg"):
        assert_owned(workspace)


def test_every_file_that_the_docs_list_has_an_owner() -> None:
    text = (Path(__file__).parents[3] / "docs/architecture.md").read_text("utf-8")
    listing = text.partition("## A workspace on disk")[2].split("```")[1]
    names = [line.strip().split("   ")[0] for line in listing.splitlines() if line.strip()]
    names = [name for line in names for name in line.removeprefix("<workspace>/").split("  ")]
    assert "attempts/<shard>.parquet" in names
    for name in names:
        if not name.endswith("/"):  # what is in a folder is tested with files
            for one in expanded(name):
                assert len([owner for owner in OWNERS if owner.claims(one)]) == 1, one


def expanded(name: str) -> list[str]:
    """The names that one with alternatives in braces stands for."""
    head, brace, rest = name.partition("{")
    if not brace:
        return [name]
    choices, _, tail = rest.partition("}")
    return [f"{head}{choice}{tail}" for choice in choices.split(",")]


def test_names_and_order_of_owners() -> None:
    names = [owner.name for owner in OWNERS]
    assert len(set(names)) == len(names)
    erasing = [owner.name for owner in OWNERS if owner.erase is not None]
    # What a purge that was killed has to finish follows from the tables.
    assert erasing[-3:] == ["stages", "index of urls", "identities"]


def test_leftovers_beside_any_owners_files_go(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    names = ["stages/pose/.00000.parquet.7.tmp", ".hqvox.yaml.7.tmp", "runs/r1/.log.jsonl.7.tmp"]
    for name in (*names, "stages/pose/00000.parquet"):
        storage.write(name, b"picture")
    for owner in OWNERS:
        owner.remove_leftovers(Workspace(tmp_path))
    left = [f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*") if f.is_file()]
    assert left == ["stages/pose/00000.parquet"]
