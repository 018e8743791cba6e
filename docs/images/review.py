"""Takes the pictures of the review UI that the docs show, in the installed Chromium.

    python docs/images/review.py WORKSPACE [FOLDER]

WORKSPACE is that of `hqvox demo`. Decisions and tokens go to a copy that is thrown away.
docs/images/make.sh calls it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console

from annotator.candidates.candidates import Candidates
from annotator.log.access import Actor, TokenFile
from annotator.log.store import Decision, Store
from annotator.work.queue import Queue, QueueItem
from hqvox.demo.review import add_references
from hqvox.workspace.layout import Workspace

PHONE, DESKTOP = (390, 844), (1280, 800)
TOUCH = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}
SIZES: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "390": (PHONE, TOUCH),
    "768": ((768, 1024), TOUCH | {"device_scale_factor": 1, "color_scheme": "dark"}),
    "1280": (DESKTOP, {}),
    "1920": ((1920, 1080), {}),
    "3840": ((3840, 2160), {}),
    # A window of 1280 x 800 has half as many of the units that pages are laid out in.
    "zoomed": ((640, 400), {"device_scale_factor": 2}),
}
"""Windows: width and height in CSS pixels, and what else the browser says of itself."""
SETTLE_SECONDS = 1.5
"""For transitions, charts and what is loaded late."""
WAIT_MS = 60_000
WIDEST_PX = 1920
"""Of a picture in the docs: a wider one is made smaller."""
MOST_BYTES = 300_000


def main() -> None:
    """Take them all."""
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else Path(__file__).parent)
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    path = next((name for name in found if name), None)
    if path is None:
        sys.exit("Chromium is not installed")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        workspace = copied(Path(sys.argv[1]), Path(temporary))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        first_minutes(browser, workspace, folder)
        (workspace / "reviews.sqlite").unlink()
        screens(browser, workspace, folder)
        browser.close()


def copied(workspace: Path, folder: Path) -> Path:
    """A copy of the demo's workspace, with a reference photograph of everybody."""
    demo = folder / "demo"
    shutil.copytree(workspace, demo / "workspace", ignore=shutil.ignore_patterns("review*"))
    shutil.copy(workspace.parent / "demo.json", demo)
    add_references(demo, Console(quiet=True))
    return demo / "workspace"


def first_minutes(browser: Browser, workspace: Path, folder: Path) -> None:
    """What a new annotator does first, as docs/review.md tells it."""
    opened = Workspace.open(workspace)
    token = TokenFile(opened).add("ada", "annotator")
    Store.open(str(workspace / "reviews.sqlite")).close()
    with server(workspace, "--sign-in") as url:
        page = window(browser, DESKTOP)
        page.goto(url)
        save(page, folder / "review-first-sign-in.jpg")
        page.locator("#token").fill(token)
        page.locator("button[type=submit]").click()
        ready(page)
        save(page, folder / "review-first-person.jpg")
        press(page, "4", "8")
        save(page, folder / "review-first-choice.jpg")
        on(page, "Enter")
        press(page, "x")
        save(page, folder / "review-drop.jpg")
        on(page, "5")
        on(page, "u")
        save(page, folder / "review-first-undo.jpg")
        press(page, "c")
        page.keyboard.type("light from the left in most of them")
        save(page, folder / "review-first-comment.jpg")
        press(page, "Enter")
        on(page, "Enter")
        end = page.locator(".end:not([hidden])")
        while not end.count():
            before = shown(page)
            page.keyboard.press("Enter")
            page.locator(f".end:not([hidden]), {another(before)}").first.wait_for()
        save(page, folder / "review-first-end.jpg")
        page.close()


def screens(browser: Browser, workspace: Path, folder: Path) -> None:
    """The review in windows of every size, and what else the docs show."""
    disagree(workspace)
    with server(workspace, "--as", "lea") as url:
        page = window(browser, DESKTOP)
        page.goto(url)
        ready(page)
        save(page, folder / "review-dispute.jpg")
        press(page, "a")
        on(page, "Enter")
        save(page, folder / "review.jpg")
        for key, name in (("o", "original"), ("?", "keys")):
            page.keyboard.press(key)
            save(page, folder / f"review-{name}.jpg")
            page.keyboard.press("Escape")
        page.close()
        for name, (size, more) in SIZES.items():
            page = window(browser, size, **more)
            page.goto(url)
            ready(page)
            save(page, folder / f"review-{name}.jpg")
            page.close()


def window(browser: Browser, size: tuple[int, int], **context: Any) -> Page:
    """A page of that size, in a browser where nobody is signed in."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, **context)
    page.set_default_timeout(WAIT_MS)
    return page


def ready(page: Page, before: str = "") -> None:
    """Wait until a person is shown, another than ``before``, and every key counts."""
    page.locator(another(before)).wait_for()


def another(before: str) -> str:
    """Selector of a review that is ready, with another screen than ``before``."""
    return f".review[data-ready]:not([hidden]):not([data-ready='{before}'])"


def shown(page: Page) -> str:
    """Which screen is shown."""
    return str(page.locator(".review").get_attribute("data-ready"))


def press(page: Page, *keys: str) -> None:
    """Press keys that lead to nobody else."""
    for key in keys:
        page.keyboard.press(key)


def on(page: Page, key: str) -> None:
    """Press a key that leads to another person."""
    before = shown(page)
    page.keyboard.press(key)
    ready(page, before)


def disagree(workspace: Path) -> None:
    """Have two annotators decide differently on the first person, for a lead to settle."""
    opened = Workspace.open(workspace)
    candidates, store = Candidates(opened), Store.open(str(workspace / "reviews.sqlite"))
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
def server(workspace: Path, *options: str) -> Iterator[str]:
    """`hqvox review`: its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "hqvox.cli.app", "review", str(workspace), *options]
    process = subprocess.Popen(
        [*command, "--no-browser", "--port", str(port)],
        env={name: value for name, value in os.environ.items() if name != "HQVOX_REVIEW_STORE"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    here = f"http://127.0.0.1:{port}"
    try:
        words = (word for line in process.stdout for word in line.split())
        yield next(word for word in words if word.startswith(here))
    finally:
        process.terminate()
        process.wait()


def save(page: Page, file: Path) -> None:
    """The page as it is, as JPEG."""
    time.sleep(SETTLE_SECONDS)
    whole = file.with_suffix(".png")
    page.screenshot(path=whole)
    picture = Image.open(whole).convert("RGB")
    picture.thumbnail((WIDEST_PX, WIDEST_PX), Image.Resampling.LANCZOS)
    picture.save(file, quality=85, optimize=True)
    whole.unlink()
    if file.stat().st_size > MOST_BYTES:
        sys.exit(f"{file}: more than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    main()
