"""Latency of the review UI at VoxCeleb's size, measured in a browser.

    python benchmarks/review_workspace.py big
    python benchmarks/review.py big/work [--people 60] [--think-seconds 1] [--annotators 1]

Cold start is the time from `hqvox review` in a new process until all pictures of the first person
are decoded on the page, in an open browser without a cache of the page. The disk's cache is warm,
as after an earlier run. Then an annotator reviews with the keyboard, looking at each person for the
given time. `next` is the time from the key to the frame with all pictures of the next person, by
the browser's clock (User Timing, ``hqvox:next``). Several annotators work at once, each with a page
of their own. Decisions go to a copy of the store.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from playwright.async_api import Browser, Page, async_playwright
from rich.console import Console
from rich.table import Table

from annotator.log.access import Actor, TokenFile
from annotator.server.opened import Opened
from annotator.work.desk import Desk
from hqvox.workspace.layout import Workspace

SHOWN = """before => {
    for (const host of document.querySelectorAll("*")) {
        const review = host.shadowRoot?.querySelector(".review");
        if (review) return !review.hidden && review.dataset.shown
            && review.dataset.shown !== before && review.dataset.shown;
    }
    return false;
}"""
GRACE_SECONDS = 0.4
"""Enter is not heard sooner after a person appears."""
TIMEOUT_MS = 120_000
IN_PROCESS = 200
"""Decisions that are timed without browser and server."""


@dataclass
class Measured:
    """Seconds, but for the memory in bytes."""

    listening: float = 0.0
    first_screen: float = 0.0
    next_person: list[float] = field(default_factory=list)
    durable: list[float] = field(default_factory=list)
    memory: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--people", type=int, default=60, help="that each annotator decides on")
    parser.add_argument("--think-seconds", type=float, default=1.0, help="for each of them")
    parser.add_argument("--annotators", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HQVOX_REVIEW_STORE"] = f"{folder}/reviews.sqlite"
        measured = asyncio.run(in_browsers(asked))
        os.environ["HQVOX_REVIEW_STORE"] = f"{folder}/alone.sqlite"
        measured.durable = without_browser(asked.workspace)
    report(asked, measured)


async def in_browsers(asked: argparse.Namespace) -> Measured:
    """A session of every annotator, all at once, in a browser."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    path = next((name for name in found if name), None)
    if path is None:
        sys.exit("Chromium is not installed")
    measured = Measured()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        with named(asked) as tokens, server(asked, measured) as (url, process, started):
            pages = [await opened(browser, f"{url}/#token={tokens[0]}" if tokens[0] else url)]
            measured.first_screen = time.perf_counter() - started
            pages += [await opened(browser, f"{url}/#token={token}") for token in tokens[1:]]
            done = await asyncio.gather(*(session(page, asked) for page in pages))
            measured.next_person = [seconds for one in done for seconds in one]
            measured.memory = peak_bytes(process.pid)
        await browser.close()
    return measured


@contextmanager
def named(asked: argparse.Namespace) -> Iterator[list[str]]:
    """Tokens of the annotators, where there are several; taken away again at the end."""
    if asked.annotators == 1:
        yield [""]
        return
    tokens = TokenFile(Workspace.open(asked.workspace))
    names = [f"benchmark {number}" for number in range(asked.annotators)]
    try:
        yield [tokens.add(name, "annotator") for name in names]
    finally:
        for name in set(names) & set(tokens.names()):
            tokens.remove(name)


@contextmanager
def server(
    asked: argparse.Namespace, measured: Measured
) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """`hqvox review`: its address, process, and when it was started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "hqvox.cli.app", "review", str(asked.workspace)]
    command += ["--no-browser", "--port", str(port)]
    command += ["--sign-in"] if asked.annotators > 1 else []
    url = f"http://127.0.0.1:{port}"
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.01)
        if process.poll() is not None:
            sys.exit(f"`hqvox review {asked.workspace}` did not start; it said why above")
        measured.listening = time.perf_counter() - started
        yield url, process, started
    finally:
        process.terminate()
        process.wait()


async def opened(browser: Browser, url: str) -> Page:
    """A page of its own, which shows the first person."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    page = await context.new_page()
    await page.goto(url, wait_until="commit")
    await page.wait_for_function(SHOWN, arg=None, timeout=TIMEOUT_MS)
    return page


async def session(page: Page, asked: argparse.Namespace) -> list[float]:
    """Accept one person after another; seconds until the next is shown."""
    review = page.locator(".review")
    for _ in range(asked.people):
        before = await review.get_attribute("data-shown")
        await asyncio.sleep(max(asked.think_seconds, GRACE_SECONDS))
        await page.keyboard.press("Enter")
        await page.wait_for_function(SHOWN, arg=before, polling=50, timeout=TIMEOUT_MS)
    durations = await page.evaluate(
        "performance.getEntriesByName('hqvox:next').map(entry => entry.duration)"
    )
    return [ms / 1000 for ms in durations]


def without_browser(workspace: Path) -> list[float]:
    """Seconds of every decision, from the desk's hand to the disk."""
    parts = Opened(str(workspace)).parts()
    desk = Desk(parts.store, parts.queue, parts.candidates, Actor("benchmark", "annotator"))
    seconds: list[float] = []
    append = parts.store.append

    def timed(*args: object, **named: object) -> object:
        started = time.perf_counter()
        entry = append(*args, **named)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - started)
        return entry

    parts.store.append = timed  # type: ignore[method-assign,assignment]
    for number in range(IN_PROCESS):
        if desk.screen is None:
            break
        taken = list(desk.screen.taken)
        act = {"do": "accept", "key": str(number), "screen": desk.screen.name, "faces": taken}
        desk.handle(act)
    parts.store.close()
    return seconds


def peak_bytes(pid: int) -> int:
    """Most memory that a process has held, bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def report(asked: argparse.Namespace, measured: Measured) -> None:
    """The table, beside what is aimed at."""
    table = Table(title=f"{asked.workspace}, {asked.annotators} at once", title_justify="left")
    for column in ("", "measured", "aim"):
        table.add_column(column, justify="left" if not column else "right")

    def row(what: str, value: float, unit: str, aim: float | None) -> None:
        shown = "" if aim is None else f"≤ {aim:g} {unit} {'✓' if value <= aim else '✗'}"
        table.add_row(what, f"{value:,.3g} {unit}", shown)

    row("command to listening", measured.listening, "s", None)
    row("command to first screen", measured.first_screen, "s", 2)
    for name, seconds, aim in (
        ("next person", measured.next_person, 300.0),
        ("decision on the disk", measured.durable, 50.0),
    ):
        ms = 1000 * np.array(seconds)
        row(f"{name}, median of {len(ms):,}", float(np.median(ms)), "ms", None)
        row(f"{name}, 95th percentile", float(np.percentile(ms, 95)), "ms", aim)
    row("memory of the server, most", measured.memory / 1e6, "MB", 1000)
    Console().print(table)


if __name__ == "__main__":
    main()
