"""The review UI as people have it: a server in a process of its own, and a real browser."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

import annotator

APP = Path(annotator.__file__).with_name("app.py")
WAIT_SECONDS = 120
"""How long any condition is waited for: a busy machine is slow, not wrong."""
WAIT_MS = 60_000
"""The same for what a page shows."""
PORTS = 20_000, 32_000
"""Below those that the system gives to outgoing connections, which could take one in between."""

ENTRANCES: dict[str, str] = {}
"""The address with the token that each server printed which nobody signs in to."""


def free_port() -> int:
    while True:
        port = random.SystemRandom().randrange(*PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def wait_for(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """Ask until ``condition`` gives something true; that. Fails naming ``what`` it waited for."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}; the last answer was {answer!r}")
        time.sleep(0.05)
    return answer


def expect(locator: Any) -> Any:
    """Playwright's assertions on a locator or a page; they wait until they hold."""
    from playwright.sync_api import expect

    expect.set_options(timeout=WAIT_MS)
    return expect(locator)


def settled(page: Any) -> Any:
    """Wait until Streamlit has run the script and shows all of it; the page."""
    app = page.get_by_test_id("stApp")
    expect(app).to_have_attribute("data-test-script-state", "notRunning")
    expect(app).to_have_attribute("data-test-connection-state", "CONNECTED")
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
    return page


def select_row(page: Any, number: int) -> None:
    """Choose a row of the table, which is drawn on a canvas."""
    settled(page)
    table = page.get_by_test_id("stDataFrame")
    chosen = table.locator(f'[role=row][aria-selected=true][aria-rowindex="{number + 2}"]')
    table.click(position={"x": 16, "y": 35 * (number + 1) + 17})
    expect(chosen).to_have_count(1)


class Server:
    """`hqvox review` in a process of its own."""

    def __init__(self, workspace: Path | str, *options: str, streamlit: bool = False) -> None:
        """``streamlit``: start it with `streamlit run` instead."""
        self.workspace, self.options, self.streamlit = str(workspace), options, streamlit
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.output: IO[bytes] | None = None

    def start(self) -> Server:
        port = str(self.port)
        if self.streamlit:
            command = [sys.executable, "-m", "streamlit", "run", str(APP)]
            command += ["--server.port", port, "--server.headless", "true", "--", self.workspace]
        else:
            command = [sys.executable, "-m", "hqvox.cli.app", "review", self.workspace]
            command += ["--no-browser", "--port", port]
        command += self.options
        # Not a pipe: one that nobody reads would fill up.
        self.output = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdout=self.output, stderr=subprocess.STDOUT, env=environment()
        )
        try:
            wait_for(self._answers, f"the server at {self.url}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.stop()}") from None
        if self.process.poll() is not None:
            raise AssertionError(f"the server did not start: {self.stop()}")
        printed = re.search(rf"{self.url}/\?token=[\w-]+", self.printed())
        if printed:
            ENTRANCES[self.url] = printed.group()
        return self

    def printed(self) -> str:
        """What it has printed until now."""
        assert self.output is not None
        return os.pread(self.output.fileno(), 1 << 20, 0).decode()

    def _answers(self) -> bool:
        """Whether it is there, or has ended."""
        if self.process is None or self.process.poll() is not None:
            return True
        try:
            with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=5):
                return True
        except OSError:
            return False

    def stop(self, kill: bool = False) -> str:
        """End it, gently or not; what it had printed."""
        if self.process is None or self.output is None:
            return ""
        process, self.process = self.process, None
        process.kill() if kill else process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with self.output as output:
            output.seek(0)
            return output.read().decode()


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
        self.errors: list[str] = []
        """Exceptions of scripts on the page."""
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.blocked: list[str] = []
        """What the Content-Security-Policy kept the page from."""
        self.page.on("console", lambda message: self._console(message.text))
        self.elsewhere: list[str] = []
        self.page.on("request", lambda request: self._request(request.url, url))
        self.sent: list[bytes] = []
        """What the page sent to the server."""
        self.page.on("websocket", lambda socket: socket.on("framesent", self._sent))
        self.page.goto(f"{url}/#token={token}" if token else ENTRANCES.get(url, url))

    def _dialog(self, dialog: Any) -> None:
        self.alerts.append(dialog.message)
        dialog.dismiss()

    def _console(self, text: str) -> None:
        if "Content Security Policy" in text:
            self.blocked.append(text)

    def _sent(self, message: str | bytes) -> None:
        self.sent.append(message if isinstance(message, bytes) else message.encode())

    def _request(self, wanted: str, url: str) -> None:
        if not wanted.startswith((url, url.replace("http", "ws"), "data:", "blob:")):
            self.elsewhere.append(wanted)

    def close(self) -> None:
        self.context.close()

    def leave(self) -> None:
        """Go, once nothing is left on the server that would still take a lease for them."""
        if self.page.get_by_test_id("stApp").count():  # else they were signed out
            self.at_rest()
        self.close()

    # What is on the screen ---------------------------------------------------------------------

    def shown(self, before: str | None = None) -> Reviewer:
        """Wait until a person (another than ``before``) is there, and every key is heard."""
        other = "" if before is None else f':not([data-ready="{before}"])'
        self.page.locator(f".review[data-ready]:not([hidden]){other}").wait_for()
        return self

    def at_rest(self) -> Reviewer:
        """Wait until the server has answered everything, and no picture is on its way."""
        expect(self.page.locator(".root[data-busy]")).to_have_count(0)
        settled(self.page)
        return self

    def screen(self) -> str:
        """Which screen it is: another for every person, the same after a reload."""
        return str(self.page.locator(".review").get_attribute("data-ready"))

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

    def has_taken(self, *faces: int) -> Reviewer:
        """Wait until these faces are taken, in this order."""
        try:
            wait_for(lambda: self.taken() == list(faces), f"faces {faces} to be taken")
        except AssertionError as error:
            raise AssertionError(f"{error}; taken are {self.taken()}") from None
        return self

    def message(self) -> Any:
        return self.page.locator(".review .message")

    def counter(self) -> Any:
        return self.page.locator(".review .counter")

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
