"""Takes the pictures of the review UI that the docs show, in the installed Chromium.

    python docs/images/review.py WORKSPACE [FOLDER]

WORKSPACE is that of `hqvox demo`. Decisions go to a file that is thrown away. docs/images/make.sh
calls it.
"""

from __future__ import annotations

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
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from annotator.candidates.candidates import Candidates
from annotator.log.access import Actor
from annotator.log.store import Decision, Store
from annotator.work.queue import Queue, QueueItem
from hqvox.workspace.layout import Workspace

WIDTH, HEIGHT = 1280, 800
SETTLE_SECONDS = 1.5
"""For transitions, charts and what is loaded late."""


def main() -> None:
    """Take them all."""
    workspace = Path(sys.argv[1])
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parent)
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    path = next((name for name in found if name), None)
    if path is None:
        sys.exit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        store = f"{temporary}/reviews.sqlite"
        disagree(workspace, store)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        with server(workspace, store) as url:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto(url)
            page.locator(".review[data-shown]").wait_for()
            save(page, folder / "review-dispute.jpg")
            page.keyboard.press("a")
            page.keyboard.press("Enter")
            time.sleep(SETTLE_SECONDS)
            save(page, folder / "review.jpg")
            for key, name in (("o", "original"), ("?", "keys"), ("x", "drop")):
                page.keyboard.press(key)
                save(page, folder / f"review-{name}.jpg")
                page.keyboard.press("Escape")
            tablet = browser.new_page(
                viewport={"width": 820, "height": 1100}, has_touch=True, color_scheme="dark"
            )
            tablet.goto(url)
            tablet.locator(".review[data-shown]").wait_for()
            save(tablet, folder / "review-tablet.jpg")
        browser.close()


def disagree(workspace: Path, store_path: str) -> None:
    """Have two annotators decide differently on the first person, for a lead to settle."""
    opened = Workspace.open(workspace)
    candidates, store = Candidates(opened), Store.open(store_path)
    person = max(candidates.identities, key=lambda one: one.candidates)
    faces = [face.ref for face in candidates.faces(person.identity_id)]
    config = opened.config().review.model_copy(update={"second_fraction": 1.0})
    queue = Queue(store, [QueueItem(person.identity_id, len(faces), 0.5)], config)
    build = candidates.fingerprint(person.identity_id)
    for name, chosen in (("first", faces[:4]), ("second", faces[-3:])):
        queue.lease(Actor(name), person.identity_id)
        decision = Decision(
            person.identity_id, "chosen", tuple(chosen), tuple(faces), fingerprint=build
        )
        store.append(decision, key=name, actor=Actor(name))
    store.close()


@contextmanager
def server(workspace: Path, store: str) -> Iterator[str]:
    """`hqvox review`: its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "hqvox.cli.app", "review", str(workspace), "--as", "ada"]
    process = subprocess.Popen(
        [*command, "--no-browser", "--port", str(port)],
        env=os.environ | {"HQVOX_REVIEW_STORE": store},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = next(word for line in process.stdout for word in line.split() if "?token=" in word)
    try:
        while process.poll() is None:
            try:
                health = f"http://127.0.0.1:{port}/_stcore/health"
                urllib.request.urlopen(health, timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def save(page: Page, file: Path) -> None:
    """The page as it is, as JPEG."""
    time.sleep(SETTLE_SECONDS)
    whole = file.with_suffix(".png")
    page.screenshot(path=whole)
    Image.open(whole).convert("RGB").save(file, quality=85, optimize=True)
    whole.unlink()


if __name__ == "__main__":
    main()
