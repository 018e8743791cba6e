"""`hqvox export --to huggingface --push`: to a stand-in for the Hub on this machine."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from hqvox.cli.app import app
from tests.helpers.tiny_release import make_tiny_release


class HubStub(BaseHTTPRequestHandler):
    """The four requests of an upload; remembers what came."""

    tokens: ClassVar[set[str | None]] = set()
    created: ClassVar[list[dict[str, Any]]] = []
    files: ClassVar[dict[str, bytes]] = {}
    refuse = False

    def do_GET(self) -> None:
        self._answer(404, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.tokens.add(self.headers.get("Authorization"))
        where = f"http://{self.headers['Host']}/datasets/me/faces"
        if self.refuse:
            self._answer(403, {"error": "You do not have the rights to create a dataset"})
        elif self.path == "/api/repos/create":
            self.created.append(json.loads(body))
            self._answer(200, {"url": where})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in asked
            ]
            self._answer(200, {"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                record = json.loads(line)
                if record["key"] == "file":
                    value = record["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            done = {"commitUrl": f"{where}/commit/1", "commitOid": "1" * 40, "success": True}
            self._answer(200, done)
        else:
            self._answer(200, {})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    """Address of a stand-in for the Hub."""
    HubStub.tokens.clear()
    HubStub.created.clear()
    HubStub.files.clear()
    HubStub.refuse = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubStub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def export(tmp_path: Path, hub: str) -> subprocess.CompletedProcess[str]:
    make_tiny_release(tmp_path / "v1", train=2, val=1, test=1)
    # A process of its own: the library reads these variables when it is imported.
    env = {"HF_ENDPOINT": hub, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "hqvox.cli.app", "export", str(tmp_path / "v1")]
    command += [str(tmp_path / "out"), "--to", "huggingface", "--push", "me/faces"]
    return subprocess.run(
        command,
        env={**os.environ, **env, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_an_export_is_uploaded_as_a_private_dataset(tmp_path: Path, hub: str) -> None:
    done = export(tmp_path, hub)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{hub}/datasets/me/faces"
    assert HubStub.tokens == {"Bearer hf_test"}
    made = HubStub.created[0]
    assert (made["organization"], made["name"], made["type"]) == ("me", "faces", "dataset")
    assert made.get("private") or made.get("visibility") == "private"
    out = tmp_path / "out"
    written = {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}
    assert HubStub.files == written
    assert "README.md" in written


def test_a_refusal_is_one_line_and_the_export_stays(tmp_path: Path, hub: str) -> None:
    HubStub.refuse = True
    done = export(tmp_path, hub)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert "me/faces: not uploaded" in line
    assert f"hf upload me/faces {tmp_path / 'out'} --repo-type dataset" in line
    assert (tmp_path / "out" / "README.md").is_file()


def test_without_the_library_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_release(tmp_path / "v1", train=2, val=1, test=1)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    words = ["export", str(tmp_path / "v1"), str(tmp_path / "out"), "--to", "huggingface"]
    done = CliRunner().invoke(app, [*words, "--push", "me/faces"])
    assert "pip install 'hqvox[huggingface]'" in str(done.exception)
    assert not (tmp_path / "out").exists()
