"""After a purge of any kind, in any state of a build, no byte of what was taken down is left."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import hqvox.runner.crawl.spool
from annotator.candidates.candidates import Candidates
from annotator.log.access import Actor
from annotator.log.decisions import Decision
from annotator.log.store import open_store
from hqvox.cli.app import app
from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.release.write import write_release
from hqvox.runner.crawl.spool import Spool
from hqvox.takedown.purge import PurgePlan, plan_purge, run_purge
from hqvox.trainer.packing import ReleaseCache
from hqvox.workspace.layout import Workspace
from hqvox.workspace.outputs import read_outputs, register_output, workspace_of
from hqvox.workspace.tables import Row, stage_schema
from hqvox.workspace.takedowns import Takedown, Takedowns, url_digest
from pipelines.chain import COLUMNS_OF
from tests.helpers.crawled import PICTURES, Crawled, crawling
from tests.helpers.synthetic_build import make_build, pack_voices
from tests.helpers.traces import traces

KINDS = ("photo", "url", "page", "host", "identity")
STATES = ("built", "reviewed", "released", "exported", "trained")
ADA, PAGE_HOST = "id0", "pages.example"
TARGET = 4
"""Candidate of Ada's that a photograph or its url names; every stage kept it."""


@dataclass(frozen=True)
class Named:
    """What is taken down, and what must not be found afterwards."""

    takedown: Takedown
    needles: list[bytes]


def purge(workspace: Workspace, *asked: Takedown) -> PurgePlan:
    with workspace.lock(purging=True):
        plan = plan_purge(workspace, asked, near_copies=False)
        run_purge(workspace, plan)
    return plan


# Crawls that were killed -------------------------------------------------------------------------


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crawled]:
    """A first crawl, killed before it committed anything. Pages are of another host than photos."""
    with crawling(tmp_path, monkeypatch) as crawled:
        listed = tmp_path / "urls.csv"
        own_page = f"{crawled.site.url}/people/"
        assert own_page in listed.read_text()
        listed.write_text(listed.read_text().replace(own_page, f"http://{PAGE_HOST}/people/"))
        crawled.build_until_killed()
        assert crawled.workspace.storage.names("stages/download") == []
        yield crawled


def named_of_crawl(crawled: Crawled, kind: str) -> Named:
    base = crawled.site.url
    count = 1 if kind in ("photo", "url") else PICTURES
    paths = [f"photos/Ada/{number:03d}.jpg" for number in range(count)]
    files = [(crawled.site.world / path).read_bytes() for path in paths]
    hashes = [hashlib.sha256(data).hexdigest() for data in files]
    page = f"http://{PAGE_HOST}/people/Ada.html"
    takedown = {
        "photo": Takedown("photo", hashes[0]),
        "url": Takedown("url", url_digest(f"{base}/{paths[0]}")),
        "page": Takedown("url", url_digest(page)),
        "host": Takedown("host", PAGE_HOST),
        "identity": Takedown("identity", "Ada"),
    }[kind]
    addresses = [f"{base}/{path}" for path in paths] + ([page] if count > 1 else [])
    return Named(takedown, [*files, *(text.encode() for text in (*hashes, *addresses))])


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_crawl_that_was_killed(killed: Crawled, kind: str) -> None:
    root, named = Path(killed.workspace.url), named_of_crawl(killed, kind)
    assert traces(root, named.needles)
    plan = purge(killed.workspace, named.takedown)
    assert plan.spooled or kind == "identity"
    assert traces(root, named.needles) == []
    # The next crawl keeps to it; its list of candidates is the user's, and names the address.
    killed.build()
    pixels = [needle for needle in named.needles if not needle.startswith(b"http")]
    assert traces(root, pixels) == []
    rows = [row for row in killed.rows() if row["identity_id"] == "Ada"]
    reasons = [row["reason"] for row in rows if row["reason"] == "taken_down"]
    # Ada's decoy is on her page, too.
    expected = {"photo": 1, "url": 1, "page": PICTURES + 1, "host": PICTURES + 1, "identity": 0}
    assert len(reasons) == expected[kind]


@pytest.mark.parametrize("kind", ["photo", "page"])
def test_a_takedown_copied_from_elsewhere_keeps_bytes_out_of_the_commit(
    killed: Crawled, kind: str
) -> None:
    """Without a purge, the crawl itself must drop what it fetched before it was killed."""
    root, named = Path(killed.workspace.url), named_of_crawl(killed, kind)
    Takedowns().add(killed.workspace, [named.takedown])
    killed.build()
    pixels = [needle for needle in named.needles if not needle.startswith(b"http")]
    assert traces(root, pixels) == []


def test_bytes_that_the_journal_does_not_name_yet_go(killed: Crawled) -> None:
    """Killed between the photograph's bytes and their line in the journal."""
    data = b"a photograph that nothing names" * 100
    spool = Spool(killed.workspace, "00000", {})
    before = dict(spool.rows)
    spool.store(hashlib.sha256(data).hexdigest(), data)
    spool.close()
    purge(killed.workspace, Takedown("host", "elsewhere.example"))
    assert traces(Path(killed.workspace.url), [data]) == []
    spool = Spool(killed.workspace, "00000", {})
    assert spool.rows == before
    spool.close()


def test_bytes_that_an_older_version_committed_without_a_row_go(killed: Crawled) -> None:
    root, named = Path(killed.workspace.url), named_of_crawl(killed, "page")
    Takedowns().add(killed.workspace, [named.takedown])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hqvox.runner.crawl.spool, "_blank", lambda handle, places: None)
        killed.build()
    photographs = [needle for needle in named.needles if not needle.startswith(b"http")]
    assert traces(root, photographs)
    purge(killed.workspace)
    assert traces(root, photographs) == []
    for row in killed.rows():
        if row["reason"] is None:
            data = killed.workspace.pixels("photo", row | {"shard": "00000"})
            assert hashlib.sha256(data).hexdigest() == row["photo_id"]


# Builds ------------------------------------------------------------------------------------------


def give_addresses(workspace: Workspace) -> None:
    """Have the photographs of a build look crawled: each with its url, a page for each person."""
    for shard in workspace.shards():
        for stage in ("discover", "download"):
            table, record = workspace.read_stage(stage, shard), workspace.committed(stage, shard)
            assert table is not None
            assert record is not None
            rows = [row | addresses(row, stage) for row in table.to_pylist()]
            schema = stage_schema(COLUMNS_OF[stage])
            workspace.write_stage(stage, shard, pa.Table.from_pylist(rows, schema), record)


def addresses(row: Row, stage: str) -> Row:
    person, number = row["identity_id"], row["candidate"]
    host = f"{person}.photos.example"
    url = f"https://{host}/{number:03d}.jpg"
    if stage == "discover":
        page = f"https://{PAGE_HOST if person == ADA else 'others.example'}/{person}.html"
        return {"url": url, "page_url": page, "title": f"{person}, photo {number:03d}"}
    return {"requested_url": url, "final_url": f"{url}?size=full", "host": host}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of people with addresses. Not to be written to."""
    root = tmp_path_factory.mktemp("built")
    workspace = make_build(root / "w", root / "photos")
    give_addresses(workspace)
    pack_voices(workspace, {ADA: 2, "id1": 1, "id2": 2})
    return root / "w"


@pytest.fixture
def state(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Workspace:
    """The build in the state that the test asks for, each further than the one before."""
    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path / "cache"))
    workspace = Workspace.open(shutil.copytree(built, tmp_path / "w"))
    reached = STATES.index(request.param)
    if reached >= STATES.index("reviewed"):
        store = open_store(workspace)
        for identity_id in (ADA, "id1"):
            refs = tuple(face.ref for face in Candidates(workspace).faces(identity_id))
            decision = Decision(identity_id, "chosen", refs[:3], refs, comment="of her")
            store.append(decision, key=identity_id, actor=Actor("lea"))
        store.close()
        workspace.storage.write(f"references/{ADA}.jpg", b"this is Ada")
    if reached >= STATES.index("released"):
        write_release(workspace, "v1", workspace.config(), auto=True, split="seed:0", workers=1)
    if reached >= STATES.index("exported"):
        command("export", workspace.url, "v1", str(tmp_path / "exported"), "--to", "folders")
        command("report", workspace.url, "v1", "--out", str(tmp_path / "report.html"))
    if reached >= STATES.index("trained"):
        cache = ReleaseCache(Release(workspace, "v1"))
        files = cache.release.manifest(["masked_file"])["masked_file"].to_pylist()
        cache.pictures(files, "masked", (16,), None)
        register_output(workspace, "training run", tmp_path / "run", "v1")
    return workspace


def command(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def named_of_build(workspace: Workspace, kind: str) -> Named:
    rows: list[Row] = []
    pixels: list[bytes] = []
    for shard in workspace.shards():
        columns = {stage: COLUMNS_OF[stage] for stage in ("discover", "download", "align")}
        rows += [
            row | {"shard": shard}
            for row in workspace.kept_rows(shard, ["discover", "download"], columns)
        ]
    chosen = [
        row
        for row in rows
        if row["identity_id"] == ADA
        and (kind not in ("photo", "url") or row["candidate"] == TARGET)
    ]
    pixels = [workspace.pixels("photo", row) for row in chosen]
    one = next(row for row in chosen if row["candidate"] == TARGET)
    takedown = {
        "photo": Takedown("photo", one["photo_id"]),
        "url": Takedown("url", url_digest(one["url"])),
        "page": Takedown("url", url_digest(one["page_url"])),
        "host": Takedown("host", PAGE_HOST),
        "identity": Takedown("identity", ADA),
    }[kind]
    texts = {row[name] for row in chosen for name in ("photo_id", "url", "final_url")}
    if kind not in ("photo", "url"):
        texts |= {PAGE_HOST}
    if kind == "identity":
        texts |= {"Ada Lovelace", "this is Ada", f'"{ADA}"'}
    return Named(takedown, [*pixels, *(text.encode() for text in sorted(texts))])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", STATES, indirect=True)
def test_of_a_build(
    state: Workspace, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root, named = tmp_path / "w", named_of_build(state, kind)
    assert traces(root, named.needles)
    before = files_of(root / "releases")
    plan = purge(state, named.takedown)
    assert traces(root, named.needles, but=["releases/v1"]) == []
    assert not list((tmp_path / "cache").rglob("*.npy"))
    # What a release holds does not change: it is named, and so is what was made from it.
    assert files_of(root / "releases") == before
    assert set(plan.released) == ({"v1"} if before else set())
    if before:
        check_named(state, named, kind, plan.released["v1"])
    expected = {
        "exported": {"export": "exported", "report": "report.html"},
        "trained": {"export": "exported", "report": "report.html", "training run": "run"},
    }.get(request.node.callspec.params["state"], {})
    assert {output.kind: Path(output.path).name for output in plan.outputs} == expected


def check_named(workspace: Workspace, named: Named, kind: str, files: list[str]) -> None:
    release = Release(workspace, "v1")
    folder = Path(workspace.url) / "releases/v1"
    assert len(set(files)) == len(files)
    assert all((folder / file).is_file() for file in files)
    holding = {trace.split(": b")[0] for trace in traces(folder, named.needles)}
    faces = [
        row
        for row in release.manifest().to_pylist()
        if row["identity_id"] == ADA
        and (kind not in ("photo", "url") or row["candidate"] == TARGET)
    ]
    assert faces
    holding |= {row[name] for row in faces for name in ("masked_file", "origin_file")}
    holding |= {"contact_sheets/001.jpg", "SHA256SUMS"}
    if kind == "identity":
        speech = [row for row in release.speech().to_pylist() if row["identity_id"] == ADA]
        holding |= {row["file"] for row in speech} | {"split.json", "speech/index.parquet"}
        assert speech
    assert holding <= set(files)
    pictures = [file for file in files if "_faces/" in file]
    assert len(pictures) == 2 * len(faces)  # and nobody else's


def files_of(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("state", ["trained"], indirect=True)
def test_the_command_names_what_it_cannot_reach(state: Workspace, tmp_path: Path) -> None:
    lines = command("purge", state.url, "--identity", ADA, "--yes").splitlines()
    export = next(line for line in lines if line.startswith("export of release v1"))
    assert f"{tmp_path}/exported: it has the same pictures, names and voices" in export
    run = next(line for line in lines if line.startswith("training run of release v1"))
    assert "checkpoints name the people of train" in run
    assert run.endswith("look where it went")  # nothing is at its place
    assert next(line for line in lines if line.startswith("report of release v1"))


def test_a_place_is_registered_once_and_a_damaged_register_is_one_line(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos", names=("Ada Lovelace",))
    for _ in range(2):
        assert register_output(workspace, "export", tmp_path / "there", "v1") is None
    assert len(read_outputs(workspace)) == 1
    assert register_output(None, "export", tmp_path / "there", "v1") is None
    workspace.storage.write("outputs.jsonl", b"{")
    note = register_output(workspace, "export", tmp_path / "there", "v1")
    assert note is not None
    assert "not in the register" in note
    with pytest.raises(HqvoxError, match=r"outputs\.jsonl:1: not a line of the register"):
        read_outputs(workspace)


def test_the_workspace_of_a_release_is_found_by_its_folder(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos")
    write_release(workspace, "v1", workspace.config(), auto=True, split="seed:0", workers=1)
    for release in (Release(workspace, "v1"), Release(f"{tmp_path}/w/releases/v1/")):
        found = workspace_of(release.storage)
        assert found is not None
        assert Path(found.url) == tmp_path / "w"
    elsewhere = shutil.copytree(tmp_path / "w/releases/v1", tmp_path / "releases/v1")
    assert workspace_of(Release(elsewhere).storage) is None
