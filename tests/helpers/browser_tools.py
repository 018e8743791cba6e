"""The review UI as people have it: a server in a process of its own, and a real browser."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import annotator

APP = Path(annotator.__file__).with_name("app.py")
START_SECONDS = 90
WAIT_MS = 20_000
GRACE_SECONDS = 0.45
"""After a person appears, for how long Enter is not heard; a little more than in keys.js."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`hqvox review` in a process of its own."""

    def __init__(self, workspace: Path | str, *options: str, streamlit: bool = False) -> None:
        """``streamlit``: start it with `streamlit run` instead."""
        self.workspace, self.options, self.streamlit = str(workspace), options, streamlit
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Server:
        port = str(self.port)
        if self.streamlit:
            command = [sys.executable, "-m", "streamlit", "run", str(APP)]
            command += ["--server.port", port, "--server.headless", "true", "--", self.workspace]
        else:
            command = [sys.executable, "-m", "hqvox.cli.app", "review", self.workspace]
            command += ["--no-browser", "--port", port]
        command += self.options
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=5):
                    return self
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"the server did not start: {self.stop()}")

    def stop(self, kill: bool = False) -> str:
        """End it, gently or not; what it had printed."""
        if self.process is None:
            return ""
        process, self.process = self.process, None
        process.kill() if kill else process.terminate()
        try:
            printed, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
        return printed


def environment() -> dict[str, str]:
    """This one, without what would lead a server elsewhere."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("STREAMLIT_", "HQVOX_REVIEW"))}
    return own | {"no_proxy": "127.0.0.1,localhost", "NO_COLOR": "1"}


@contextmanager
def running(workspace: Path | str, *options: str) -> Iterator[Server]:
    server = Server(workspace, *options)
    try:
        yield server.start()
    finally:
        server.stop()


def launch_chromium() -> Iterator[Any]:
    """A browser of Playwright's, from the Chromium that is installed; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("Chromium is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Reviewer:
    """Somebody at the review page."""

    def __init__(self, chromium: Any, url: str, token: str = "", **context: Any) -> None:
        self.context = chromium.new_context(
            **{"viewport": {"width": 1280, "height": 800}, **context}
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.alerts: list[str] = []
        self.page.on("dialog", self._dialog)
        self.elsewhere: list[str] = []
        self.page.on("request", lambda request: self._request(request.url, url))
        self.page.goto(f"{url}/#token={token}" if token else url)

    def _dialog(self, dialog: Any) -> None:
        self.alerts.append(dialog.message)
        dialog.dismiss()

    def _request(self, wanted: str, url: str) -> None:
        if not wanted.startswith((url, url.replace("http", "ws"), "data:", "blob:")):
            self.elsewhere.append(wanted)

    def close(self) -> None:
        self.context.close()

    # What is on the screen ---------------------------------------------------------------------

    def shown(self, before: str | None = None) -> Reviewer:
        """Wait until a person (another than ``before``) is there with all pictures."""
        self.page.wait_for_function(
            """before => {
                for (const host of document.querySelectorAll("*")) {
                    const review = host.shadowRoot?.querySelector(".review");
                    if (review) return !review.hidden && review.dataset.shown
                        && review.dataset.shown !== before;
                }
                return false;
            }""",
            arg=before,
            polling=20,
        )
        time.sleep(GRACE_SECONDS)
        return self

    def screen(self) -> str:
        """Which screen it is: another for every person, the same after a reload."""
        return str(self.page.locator(".review").get_attribute("data-shown"))

    def name(self) -> str:
        return str(self.page.locator(".review .name").inner_text())

    def identity_id(self) -> str:
        return str(self.page.locator(".review .about").inner_text()).split(" · ")[0]

    def taken(self) -> list[int]:
        """Numbers of the faces that are taken, from 0, in their order."""
        return list(
            self.page.locator(".grid").evaluate(
                """grid => [...grid.children]
                    .map((tile, n) => [Number(tile.querySelector(".order").textContent), n])
                    .filter(([order]) => order).sort((a, b) => a[0] - b[0]).map(([, n]) => n)"""
            )
        )

    def columns(self) -> int:
        """Of the grid."""
        return int(
            self.page.locator(".grid").evaluate(
                """grid => [...grid.children]
                    .filter(tile => tile.offsetTop === grid.firstChild.offsetTop).length"""
            )
        )

    def message(self) -> str:
        return str(self.page.locator(".review .message").inner_text())

    def counter(self) -> str:
        return re.sub(r"\s+", " ", self.page.locator(".review .counter").inner_text())

    # What they do ------------------------------------------------------------------------------

    def press(self, *keys: str) -> Reviewer:
        for key in keys:
            self.page.keyboard.press(key)
        return self

    def on(self, *keys: str) -> Reviewer:
        """Press keys, the last of which leads to another person."""
        before = self.screen()
        return self.press(*keys).shown(before)

    def click(self, *numbers: int) -> Reviewer:
        for number in numbers:
            self.page.locator(".tile").nth(number).click()
        return self

    def button(self, do: str) -> Any:
        return self.page.locator(f".review [data-do={do}]")


@dataclass
class Team:
    """A running review that people sign in to."""

    server: Server
    workspace: Path
    add: Callable[[str, str], str]
    """Makes a token: name and role in, token out."""
    join: Callable[..., Reviewer]
    """Signs somebody new in; see :func:`team`."""
