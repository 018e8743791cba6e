"""Workspaces filled by the search APIs through the commands; quotas, kills, and plans."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hqvox.cli.app import main
from hqvox.cli.common import console
from hqvox.config.file import merge
from hqvox.workspace.layout import Workspace
from hqvox.workspace.tables import COLUMNS
from pipelines.discover.stage import DiscoverStage
from tests.helpers.discover_tools import APIS, CONTACT, KEYS, api_settings
from tests.helpers.fake_apis import Asked, FakeApis, Reply, google_error

PEOPLE = ["Ada_Lovelace", "Štefan_Füle", "周杰倫"]
Run = Callable[..., tuple[int, str, str]]


def run_hqvox(arguments: list[str]) -> int:
    """A command line in this process; its exit code."""
    sys.argv = ["hqvox", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def hq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line; return exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(console, "_width", 200)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = run_hqvox([str(a) for a in arguments])
        return (code, *capsys.readouterr())

    return run


def people(folder: Path, names: list[str] = PEOPLE) -> Path:
    file = folder / "people.csv"
    lines = ["id,name,gender", *(f"id{n},{name},f" for n, name in enumerate(names))]
    file.write_text("\n".join(lines), "utf-8")
    return file


def configure(root: Path, url: str, **discover: Any) -> None:
    """Point a workspace at the local server."""
    file = root / "hqvox.yaml"
    values = yaml.safe_load(file.read_text())
    api = discover.pop("api", {})
    values = merge(values, {"discover": merge(api_settings(url, **api), discover)})
    values = merge(values, {"download": {"contact": CONTACT}})
    file.write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")


def table(root: Path) -> list[dict[str, Any]]:
    workspace = Workspace.open(root)
    rows: list[dict[str, Any]] = []
    for shard in workspace.shards():
        found = workspace.read_stage("discover", shard)
        rows += [] if found is None else found.to_pylist()
    return rows


def no_key_anywhere(root: Path, *texts: str) -> None:
    written = [p.read_bytes() for p in root.rglob("*") if p.is_file()]
    assert written
    for key in KEYS.values():
        assert not [data for data in written if key.encode() in data]
        assert not [text for text in texts if key in text]


@pytest.mark.parametrize("source", APIS)
def test_every_api_fills_a_workspace(hq: Run, apis: FakeApis, tmp_path: Path, source: str) -> None:
    apis.results = 60
    apis.items = {
        "Q5": {"name": "Ada Lovelace", "claims": {"P31": ["Q5"], "P18": ["A.jpg"], "P373": ["A"]}}
    }
    apis.categories = {"A": 70}
    work = tmp_path / "work"
    code, out, _ = hq("init", work, "--identities", people(tmp_path), "--source", source)
    assert code == 0
    assert "before you crawl, set download.contact" in out
    configure(work, apis.url, limit=40)
    code, out, err = hq("build", work, "--stage", "discover", "--workers", "0")
    assert code == 0, err
    rows = table(work)
    assert Counter(row["identity_id"] for row in rows) == {"id0": 40, "id1": 40, "id2": 40}
    assert {row["source"] for row in rows} == {source}
    for identity in ("id0", "id1", "id2"):
        own = [row for row in rows if row["identity_id"] == identity]
        assert [row["candidate"] for row in own] == [*range(40)]
        assert len({row["url"] for row in own}) == 40
    assert all(row["page_url"] and row["title"] and row["stated_width_px"] for row in rows)
    if source in ("wikimedia", "openverse"):
        assert all(row["licence"] and row["licence_url"] and row["author"] for row in rows)
    assert not any(asked.headers["User-Agent"].find(CONTACT) < 0 for asked in apis.asked)
    asked = len(apis.asked)
    code, more, _ = hq("build", work, "--stage", "discover")
    assert "up to date" in more
    assert len(apis.asked) == asked
    no_key_anywhere(work, out, err)


def test_an_identity_that_nobody_knows_is_a_line_in_status(
    hq: Run, apis: FakeApis, tmp_path: Path
) -> None:
    apis.fault = lambda number, asked: (
        None if "Lovelace" in asked.parameters["q"] else Reply({"results": [], "page_count": 0})
    )
    work = tmp_path / "work"
    hq("init", work, "--identities", people(tmp_path), "--source", "openverse")
    configure(work, apis.url)
    code, out, _ = hq("build", work, "--stage", "discover", "--workers", "0")
    assert code == 0
    assert "identities without photos: Štefan_Füle, 周杰倫" in out
    assert "identities without photos: Štefan_Füle, 周杰倫" in hq("status", work)[1]


def test_a_spent_quota_is_one_line_and_a_rerun_asks_for_what_is_missing(
    hq: Run, apis: FakeApis, tmp_path: Path
) -> None:
    apis.results = 25
    work = tmp_path / "work"
    hq("init", work, "--identities", people(tmp_path), "--source", "google")
    configure(
        work,
        apis.url,
        queries=["{name} face"],
        api={"daily_requests": 5, "requests_per_second": 5.0},
    )
    code, out, err = hq("build", work, "--stage", "discover", "--workers", "0")
    assert code != 0
    assert "2 of 3 shards wait: quota of google spent (5 of 5 today); run again after" in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    first = [asked.what for asked in apis.asked]
    assert len(first) == 5
    done = {row["identity_id"] for row in table(work)}
    assert done == {"id0"}  # three pages; what others were answered meanwhile is kept for later
    code, out, err = hq("build", work, "--stage", "discover", "--workers", "0")
    assert code != 0
    assert len(apis.asked) == 5
    assert "shards 00001, 00002 failed: quota of google spent" in hq("status", work)[1]
    text = (work / "hqvox.yaml").read_text()
    (work / "hqvox.yaml").write_text(text.replace("daily_requests: 5", "daily_requests: 500"))
    code, out, err = hq("build", work, "--stage", "discover", "--workers", "0")
    assert code == 0, err
    assert len(table(work)) == 75
    assert len(apis.asked) == 9
    assert len({asked.what for asked in apis.asked}) == 9
    no_key_anywhere(work, out, err)


def test_a_refused_key_says_so_without_the_key(hq: Run, apis: FakeApis, tmp_path: Path) -> None:
    key = KEYS["HQVOX_GOOGLE_KEY"]
    body = google_error(403, f"The key {key} may not be used here: {key}.", "forbidden")
    apis.fault = lambda number, asked: Reply(body, 403)
    work = tmp_path / "work"
    hq("init", work, "--identities", people(tmp_path), "--source", "google")
    configure(work, apis.url)
    code, out, err = hq("build", work, "--stage", "discover", "--workers", "0")
    assert code == 1
    assert "google refuses us: 403 (The key *** may not be used here: ***.)" in err
    assert "check HQVOX_GOOGLE_KEY" in err
    assert err.count("\n") == 1
    no_key_anywhere(work, out, err)


def kept_pages(root: Path) -> int:
    return sum(p.read_text().count("\n") for p in root.glob("discover/google/*/*.jsonl"))


def build_in_child(root: str, width: int) -> None:
    """What the process to be killed does."""
    os.environ.update(KEYS)  # the fork server may have been started by a test without them
    console._width = width
    os._exit(run_hqvox(["build", root, "--stage", "discover", "--workers", "0"]))


@pytest.mark.slow
def test_killed_in_mid_paging_no_page_is_asked_for_twice(
    hq: Run, apis: FakeApis, tmp_path: Path
) -> None:
    """Killed again and again, each time a little further; what was answered is not asked again."""
    apis.results = 60
    work = tmp_path / "work"
    hq("init", work, "--identities", people(tmp_path), "--source", "google")
    hq("init", tmp_path / "calm", "--identities", people(tmp_path), "--source", "google")
    configure(tmp_path / "calm", apis.url)
    assert hq("build", tmp_path / "calm", "--stage", "discover", "--workers", "0")[0] == 0
    needed = Counter(asked.what for asked in apis.asked)
    assert set(needed.values()) == {1}
    configure(work, apis.url)
    apis.asked.clear()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hqvox.cli.app"])
    kills = 0
    for stop_at in (3, 11, 24, 40):
        hold = {"at": stop_at}

        def fault(number: int, asked: Asked, hold: dict[str, int] = hold) -> Reply | None:
            # What was asked before is answered, and waited for on disk; this never comes.
            return Reply({"items": []}, slow_seconds=60.0) if number >= hold["at"] else None

        apis.fault = fault
        child = context.Process(target=build_in_child, args=(str(work), 200))
        child.start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and child.is_alive():
            time.sleep(0.02)
            if len(apis.asked) >= stop_at and kept_pages(work) == stop_at - 1:
                break
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        del apis.asked[stop_at - 1 :]  # those that were never answered
    assert kills == 4
    apis.fault = lambda number, asked: None
    assert hq("build", work, "--stage", "discover", "--workers", "0")[0] == 0
    assert Counter(asked.what for asked in apis.asked) == needed
    assert table(work) == table(tmp_path / "calm")


def test_urls_from_the_command_line(hq: Run, tmp_path: Path) -> None:
    file = tmp_path / "urls.csv"
    file.write_text(
        "identity_id,url,licence\nAda_Lovelace,https://a.example/1.jpg,CC0\n"
        "Ada_Lovelace,https://a.example/1.jpg#again,CC0\nid1,https://a.example/2.jpg,\n",
        "utf-8",
    )
    work = tmp_path / "work"
    assert hq("init", work, "--identities", people(tmp_path), "--urls", file)[0] == 0
    settings = yaml.safe_load((work / "hqvox.yaml").read_text())["discover"]
    assert settings == {"sources": ["urls"], "urls": {"file": str(file.resolve())}}
    code, out, err = hq("build", work, "--stage", "download", "--dry-run")
    assert code == 0, err
    assert "3 identities in 3 shards to look for, up to 300 photographs each" in out
    assert "urls: 3 photographs for 2 of 3 identities in" in out
    assert "missing: download.contact" in out
    set_contact = ("--set", f"download.contact={CONTACT}")
    hq("build", work, "--stage", "discover", "--workers", "0", *set_contact)
    rows = table(work)
    assert [(r["identity_id"], r["url"], r["licence"]) for r in rows] == [
        ("id0", "https://a.example/1.jpg", "CC0"),
        ("id1", "https://a.example/2.jpg", None),
    ]
    file.write_text(file.read_text() + "id2,https://a.example/3.jpg,\n")
    code, out, _ = hq("build", work, "--stage", "discover", "--dry-run")
    assert "│ 1 " in out  # only the third identity's shard is stale
    assert "1 identity in 1 shard to look for" in out


def test_identities_can_come_from_the_urls_alone(hq: Run, tmp_path: Path) -> None:
    file = tmp_path / "urls.jsonl"
    file.write_text('{"identity_id": "b", "url": "https://a.example/1"}\n' * 2, "utf-8")
    code, out, _ = hq("init", tmp_path / "work", "--urls", file)
    assert code == 0
    assert "work: 1 identity" in out
    assert Workspace.open(tmp_path / "work").identities()["name"].to_pylist() == ["b"]


def test_a_dry_run_names_what_is_missing_and_asks_nobody(
    hq: Run, apis: FakeApis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in KEYS:
        monkeypatch.delenv(variable)
    work = tmp_path / "work"
    sources = ("--source", "wikimedia", "--source", "google", "--source", "brave")
    hq("init", work, "--identities", people(tmp_path), *sources)
    configure(work, apis.url)
    code, out, _ = hq("build", work, "--dry-run")
    assert code == 0
    assert "google: 9 requests or more" in out
    assert "missing: google: set the environment variable HQVOX_GOOGLE_KEY" in out
    assert "missing: brave: set the environment variable HQVOX_BRAVE_KEY" in out
    assert "missing: download.contact" not in out
    code, _, err = hq("build", work, "--stage", "discover", "--workers", "0")
    assert code == 1
    assert "set the environment variable HQVOX_GOOGLE_KEY" in err
    assert not apis.asked
    assert not (work / "discover").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('discover.queries=["{nmae} face"]', "there is no 'nmae'"),
        ('discover.queries=["face"]', "names neither {name} nor {id}"),
        ('discover.queries=["{name!r}"]', "plain fields like {name}"),
        ('discover.queries=["{name"]', "is none"),
        ("discover.queries=[]", "at least one query"),
        ("discover.brave.queries=['{age} {name}']", "there is no 'age'"),
        ("discover.sources=[urls, urls]", "names each source once"),
        ("discover.sources=[]", "at least 1 item"),
        ("discover.sources=[bing]", "'folder', 'urls', 'wikimedia', 'openverse', 'google'"),
        ("discover.google.base_url=ftp://x", "an address like https://host"),
        ("discover.google.base_url=https://user:pass@host", "without user name"),
        ("discover.google.requests_per_second=0", "greater than 0"),
        ("discover.source=folder", "did you mean discover.sources"),
    ],
)
def test_settings_that_will_not_do_are_one_line(hq: Run, setting: str, message: str) -> None:
    code, _, err = hq("config", "show", "--set", setting)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1


def test_every_column_is_described() -> None:
    assert set(DiscoverStage.writes) <= set(COLUMNS)
