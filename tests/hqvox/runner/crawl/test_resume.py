"""Never twice: what was fetched stays fetched, whatever is changed, cut short or taken down."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import multiprocessing
import random
import shutil
import signal
import tarfile
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from hqvox.runner.crawl import shard as crawl_shard
from hqvox.runner.crawl import spool
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from hqvox.workspace.storage import PendingFile
from hqvox.workspace.takedowns import Takedown, Takedowns, url_digest
from tests.helpers.crawl_site import (
    QUICK,
    Request,
    Site,
    answer,
    build,
    in_turn,
    make,
    picture,
    reasons,
    rows,
    write_urls,
)

COUNT = 12


def photos(site: Site, count: int = COUNT) -> list[tuple[str, str]]:
    """Routes for that many photos, and their urls, of three identities."""
    site.routes |= {f"/{n}": answer(200, picture(n)) for n in range(count)}
    return [("abc"[n % 3], site.url(f"/{n}")) for n in range(count)]


def check_pixels(workspace: Workspace) -> None:
    """Every kept row's bytes are where the table says, and what they were."""
    for row in rows(workspace):
        if row["reason"] is None:
            number = int(row["url"].rsplit("/", 1)[1])
            assert workspace.pixels("photo", row) == picture(number)
    for shard in workspace.shards():
        with tarfile.open(workspace.storage.path(f"stages/download/{shard}.tar")) as tar:
            assert len(tar.getnames()) == len(set(tar.getnames()))


def test_a_second_build_asks_for_nothing(tmp_path: Path) -> None:
    with Site() as site:
        workspace = make(tmp_path / "w", photos(site), allow_hosts=[site.host])
        build(workspace)
        assert not build(workspace).jobs
        # Forced to run again, it finds everything by its url, and finds nothing to change.
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "w" / "stages").rglob("*.*")}
        assert build(workspace, start="discover").jobs
    assert site.asked() == {f"/{n}": 1 for n in range(COUNT)}
    assert {p: p.stat().st_mtime_ns for p in before} == before
    check_pixels(workspace)
    assert workspace.storage.names("crawl") == []


def test_urls_that_are_added_are_fetched_and_no_others(tmp_path: Path) -> None:
    with Site() as site:
        urls = photos(site)
        workspace = make(tmp_path / "w", urls[:7], allow_hosts=[site.host])
        build(workspace)
        write_urls(tmp_path / "w.csv", [*urls[7:], *urls[:7]])
        build(workspace)
        build(workspace, target="discover", start="discover")
        build(workspace, start="discover")
    assert site.asked() == {f"/{n}": 1 for n in range(COUNT)}
    assert len(rows(workspace)) == COUNT
    check_pixels(workspace)


def test_limits_that_change_judge_what_is_there(tmp_path: Path) -> None:
    with Site({"/99": answer(200, picture(99, side=200))}) as site:
        urls = [*photos(site, 3), ("a", site.url("/99"))]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        build(workspace)
        build(workspace, settings=("download.max_pixels=20000",))
        assert reasons(workspace) == {"/0": None, "/1": None, "/2": None, "/99": "too_large"}
        assert site.asked()["/99"] == 1
        build(workspace)
    assert set(reasons(workspace).values()) == {None}
    assert site.asked() == {"/0": 1, "/1": 1, "/2": 1, "/99": 2}  # its bytes had been let go


def test_retry_failed_asks_only_for_what_can_pass(tmp_path: Path) -> None:
    with Site() as site:
        urls = photos(site, 2) + [("a", site.url(f"/{name}")) for name in ("gone", "down", "html")]
        site.routes |= {"/gone": answer(404), "/html": answer(200, b"<html>")}
        site.routes["/down"] = in_turn(*[answer(500)] * 3, answer(200, picture(0)))
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        build(workspace)
        assert reasons(workspace)["/down"] == "http_server_error"
        assert not build(workspace).jobs
        build(workspace, retry_failed=True)
    assert reasons(workspace) == {
        "/0": None,
        "/1": None,
        "/gone": "http_client_error",
        "/down": None,
        "/html": "not_an_image",
    }
    assert site.asked() == {"/0": 1, "/1": 1, "/gone": 1, "/html": 1, "/down": 4}


def test_refresh_asks_whether_photos_changed(tmp_path: Path) -> None:
    now = {"/same": picture(1), "/new": picture(2), "/gone": picture(3), "/ill": picture(4)}
    conditional: dict[str, str | None] = {}

    async def serve(request: Request, writer: asyncio.StreamWriter) -> None:
        tag = f'"{hash(now.get(request.path, b""))}"'
        if request.number:
            conditional[request.path] = request.headers.get("if-none-match")
        if request.path not in now:
            writer.write(answer(410))
        elif request.path == "/ill" and request.number:
            writer.write(answer(503))
        elif request.headers.get("if-none-match") == tag:
            writer.write(answer(304))
        else:
            writer.write(answer(200, now[request.path], f"ETag: {tag}"))

    with Site(dict.fromkeys(now, serve)) as site:
        urls = [("a", site.url(path)) for path in now]
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        build(workspace)
        assert set(reasons(workspace).values()) == {None}
        first = {row["url"]: row for row in rows(workspace)}
        now["/new"] = picture(5)
        del now["/gone"]
        build(workspace, refresh=True)
        found = {row["url"]: row for row in rows(workspace)}
    assert all(conditional.values())
    assert reasons(workspace) == {
        "/same": None, "/new": None, "/gone": "http_client_error", "/ill": None,
    }  # fmt: skip
    same, new, ill = (site.url(path) for path in ("/same", "/new", "/ill"))
    assert found[same]["photo_id"] == first[same]["photo_id"]
    assert found[new]["photo_id"] != first[new]["photo_id"]
    assert found[ill]["photo_id"] == first[ill]["photo_id"]  # it may be there again tomorrow
    assert workspace.pixels("photo", found[same]) == picture(1)
    assert workspace.pixels("photo", found[ill]) == picture(4)
    with tarfile.open(workspace.storage.path("stages/download/00000.tar")) as tar:
        assert len(tar.getnames()) == 3


def test_a_refresh_that_changes_nothing_leaves_what_follows_up_to_date(tmp_path: Path) -> None:
    async def serve(request: Request, writer: asyncio.StreamWriter) -> None:
        known = "if-modified-since" in request.headers
        date = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT"
        writer.write(answer(304) if known else answer(200, picture(), date))

    with Site({"/1": serve}) as site:
        workspace = make(tmp_path / "w", [("a", site.url("/1"))], allow_hosts=[site.host])
        build(workspace, target="duplicates")
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "w" / "stages").rglob("*.*")}
        build(workspace, target="duplicates", refresh=True)
    assert site.asked() == {"/1": 2}
    assert {p: p.stat().st_mtime_ns for p in before} == before


def with_place() -> bytes:
    """A photograph with GPS fields."""
    fields = Image.Exif()
    fields.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.25), 29: "2026:01:02"})
    sink = io.BytesIO()
    Image.open(io.BytesIO(picture())).save(sink, "JPEG", exif=fields.tobytes())
    return sink.getvalue()


def test_a_photograph_is_stored_without_its_place_unless_asked_for(tmp_path: Path) -> None:
    data = with_place()
    with Site({"/1": answer(200, data)}) as site:
        for name, keep in (("w", False), ("kept", True)):
            workspace = make(
                tmp_path / name,
                [("a", site.url("/1"))],
                allow_hosts=[site.host],
                keep_location=keep,
            )
            build(workspace)
            (row,) = rows(workspace)
            stored = workspace.pixels("photo", row)
            assert (stored == data) is keep
            assert (b"2026:01:02" in stored) is keep
            assert hashlib.sha256(stored).hexdigest() == row["photo_id"]

        # Who asks for a takedown has the photograph as it was published.
        published = Takedown("photo", hashlib.sha256(data).hexdigest())
        workspace = Workspace(tmp_path / "w")
        Takedowns().add(workspace, [published])
        build(workspace, refresh=True)
    assert reasons(workspace) == {"/1": "taken_down"}


def test_what_was_taken_down_is_neither_asked_for_nor_kept(tmp_path: Path) -> None:
    with Site() as site:
        urls = photos(site)
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host])
        Takedowns.read(workspace).add(
            workspace,
            [
                Takedown("url", url_digest(site.url("/0"))),
                Takedown("identity", "b"),
                Takedown("photo", hashlib.sha256(picture(3)).hexdigest()),
            ],
        )
        build(workspace)
    asked = {f"/{n}" for n in range(COUNT) if n % 3 != 1} - {"/0"}
    assert site.asked().keys() == asked
    found = reasons(workspace)
    assert found["/0"] == found["/3"] == "taken_down"
    gone = next(row for row in rows(workspace) if row["url"] == site.url("/3"))
    assert (gone["photo_id"], gone["final_url"], gone["photo_offset"]) == (None, None, None)
    held = b"".join(p.read_bytes() for p in (tmp_path / "w" / "stages" / "download").glob("*.tar"))
    assert picture(3) not in held
    assert picture(6) in held


def test_the_pool_takes_shards_as_they_are_crawled(tmp_path: Path) -> None:
    with Site() as site:
        workspace = make(tmp_path / "w", photos(site), allow_hosts=[site.host])
        result = build(workspace, workers=2, target="duplicates")
        assert not result.failed
        assert result.photos == COUNT
        assert not build(workspace, target="duplicates").jobs
    for shard in workspace.shards():
        table = workspace.read_stage("duplicates", shard, ["reason"])
        assert table is not None
        assert len(table) == COUNT // 3


class Killed(BaseException):
    """Stands for SIGKILL, at an exact place."""


@pytest.mark.parametrize("after", range(3, 18))
def test_cut_anywhere_a_rerun_fetches_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The commit of a shard is cut before its ``after``-th change to the disk."""
    with Site() as site:
        urls = photos(site, 4)
        one = [("a", url) for _, url in urls]
        workspace = make(tmp_path / "w", one[:3], allow_hosts=[site.host])
        build(workspace)
        write_urls(tmp_path / "w.csv", one)
        steps = iter(range(100))

        def cut(module: object, name: str) -> None:
            real = getattr(module, name)

            def wrapper(*arguments: object, **named: object) -> object:
                step = next(steps)
                if step >= after:
                    raise Killed
                return real(*arguments, **named)

            monkeypatch.setattr(module, name, wrapper)

        cut(crawl_shard, "withdraw")
        cut(crawl_shard, "write_candidates")
        cut(spool.Spool, "commit_tar")
        cut(spool.Spool, "remove")
        cut(spool.Spool, "note")
        cut(Workspace, "write_stage")
        cut(PendingFile, "commit")
        with contextlib.suppress(Killed):
            build(workspace)
        monkeypatch.undo()
        assert next(steps) > after, "nothing was cut: the commit has fewer steps"
        build(workspace)
    asked = site.asked()
    # Only the photo in hand at the cut may have been asked for again.
    assert {path: asked[path] for path in ("/0", "/1", "/2")} == {"/0": 1, "/1": 1, "/2": 1}
    assert asked["/3"] <= 2
    assert set(reasons(workspace).values()) == {None}
    check_pixels(workspace)


def test_a_journal_that_the_disk_did_not_bear_out_is_not_believed(tmp_path: Path) -> None:
    with Site() as site:
        workspace = make(tmp_path / "w", [("a", url) for _, url in photos(site)])
        held = spool.Spool(workspace, "00000", {"robots": True})
        blank = dict.fromkeys(crawl_shard.DownloadStage.writes)
        for number in range(3):
            data = picture(number)
            offset, size = held.store(f"{number:064x}", data)
            place = {"photo_id": f"{number:064x}", "photo_offset": offset, "photo_bytes": size}
            held.note(f"u{number}", {**blank, **place, "reason": None}, [])
        held.close()
        journal = tmp_path / "w/crawl/00000.jsonl"
        journal.write_bytes(journal.read_bytes()[:-20])
        again = spool.Spool(workspace, "00000", {"robots": False})
        again.close()
    assert again.rows == {}  # names are no hashes of the bytes here
    assert (tmp_path / "w/crawl/00000.tar").stat().st_size == 0
    (line,) = journal.read_text().splitlines()
    assert json.loads(line)["settings"] == {"robots": True}


@pytest.mark.slow
def test_killed_at_random_moments_a_rerun_fetches_nothing_that_it_had(tmp_path: Path) -> None:
    count, in_flight = 60, 4
    chance = random.Random(0)

    async def steady(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(answer(200, picture(int(request.path[1:]))))

    with Site() as site:
        urls = photos(site, count)
        site.routes |= {f"/{n}": steady for n in range(count)}
        workspace = make(tmp_path / "w", urls, allow_hosts=[site.host], host_connections=in_flight)
        kills = 0
        for _ in range(100):
            asked = site.asked().total()
            code = build_until(tmp_path / "w", site, asked + chance.randint(1, 15))
            if code == 0:
                break
            assert code == -signal.SIGKILL
            kills += 1
        assert kills >= 4
        total = site.asked().total()
        build(workspace)
        assert site.asked().total() == total
    assert total <= count + kills * in_flight  # only what was in flight at a kill
    assert set(reasons(workspace).values()) == {None}
    check_pixels(workspace)


def build_in_process(root: str) -> None:
    """What the process to be killed does."""
    build(Workspace.open(root))


def build_until(root: Path, site: Site, requests: int) -> int | None:
    """Build in a process of its own, killed once the site had that many requests; how it ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crawl_site"])
    child = context.Process(target=build_in_process, args=(str(root),))
    child.start()
    while child.is_alive() and site.asked().total() < requests:
        time.sleep(0.005)
    if child.is_alive():
        time.sleep(random.Random(requests).uniform(0, 0.03))
        child.kill()
    child.join()
    return child.exitcode


def test_a_mixed_build_reads_files_and_fetches_urls(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    (folder / "1.jpg").write_bytes(picture(1))
    (folder / "2.jpg").write_bytes(b"no picture")
    with Site() as site:
        workspace = make(tmp_path / "w", [("a", site.url("/0"))], allow_hosts=[site.host])
        photos(site)
        people = workspace.identities().to_pylist()
        assert people[0]["folder"] is None
        shutil.rmtree(tmp_path / "w")
        (tmp_path / "w-people.csv").write_text("id,name,folder\na,a,a\n")
        workspace = make_mixed(tmp_path, site)
        build(workspace)
    found = {row["url"]: row["reason"] for row in rows(workspace)}
    assert found == {"a/1.jpg": None, "a/2.jpg": "not_an_image", site.url("/0"): None}
    for row in rows(workspace):
        if row["url"] == "a/1.jpg":
            assert workspace.pixels("photo", row) == picture(1)


def make_mixed(tmp_path: Path, site: Site) -> Workspace:
    values = {
        "format": 1,
        "discover": {
            "sources": ["folder", "urls"],
            "photos": str(tmp_path / "photos"),
            "urls": {"file": str(tmp_path / "w.csv")},
        },
        "download": {**QUICK, "allow_hosts": [site.host]},
    }
    people = identities.read_csv(tmp_path / "w-people.csv")
    return Workspace.create(
        str(tmp_path / "w"), yaml.safe_dump(values), identities.to_table(people)
    )
