"""Random hands at the review page: what they decided is in the log, and nothing else.

    python benchmarks/review_fuzz.py --sequences 100 [--seed 0] [--show]

A server, a browser and a small workspace on this machine. A sequence is 10 to 20 events: keys, keys
pressed two and three times, pauses, comments, reloads, and now and then a store that is moved away,
a server that is killed, or a token that is removed. A script in the page notes at every key what is
on the screen, and for how long all of its pictures have been there; it does not ask the page's own
code. After each sequence the log is compared with these notes (`tests/helpers/review_judge.py`).
Faults are decisions lost, doubled, made on somebody unseen or without access, or with other faces
than those on the screen. Exit status 1 where there is any.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from playwright.sync_api import TimeoutError
from rich.console import Console
from rich.table import Table

from annotator.log.access import TokenFile
from annotator.log.store import open_store
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests are not installed
from tests.helpers.browser_tools import Reviewer, Server, launch_chromium, wait_for
from tests.helpers.review_judge import FAULTS, Judge, Press
from tests.helpers.small_review import make_review

SCREENS = os.environ.get("HQVOX_SCREENS")
"""Folder for pictures of pages that are stuck, where somebody wants to see them."""
PAUSES = (0, 0, 0, 0.01, 0.03, 0.08, 0.15, 0.4, 0.5)
"""After an event, s."""
FEWEST_LEFT = 8
"""People who are not decided on; with fewer the log is erased and all begins again."""
RECORDER = """(() => {
  const fuzz = (globalThis.fuzz = { presses: [] });
  let review = null, root = null, screen = null, since = null;
  const find = () => {
    if (review?.isConnected) return review;
    for (const host of document.querySelectorAll("*"))
      if (host.shadowRoot?.querySelector(".review")) {
        root = host.shadowRoot;
        return (review = root.querySelector(".review"));
      }
    return (review = root = null);
  };
  const whole = () => {
    const tiles = [...review.querySelectorAll(".tile")];
    return tiles.length > 0 && tiles.every(tile => {
      const image = tile.querySelector("img");
      return image && image.complete && image.naturalWidth > 0;
    });
  };
  const look = () => {
    if (!find() || review.hidden) { screen = since = null; return; }
    const now = review.querySelector(".grid").firstChild;  // another for each screen
    if (now !== screen || !whole()) { screen = now; since = null; }
    if (since === null && whole()) since = performance.now();
  };
  const frame = () => { look(); requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
  addEventListener("keydown", event => {
    look();
    if (event.repeat || !root) return;
    const typing = root.activeElement?.tagName === "INPUT";
    const dialog = root.querySelector("dialog[open]")?.className ?? "";
    const digit = /^[0-9]$/.test(event.key) ? (Number(event.key) + 9) % 10 : null;
    const reason = digit !== null && root.querySelectorAll(".reasons .reason")[digit];
    let kind = "";
    if (typing) kind = "";
    else if (dialog === "reasons") kind = reason ? "dropped" : "";
    else if (dialog) kind = "";
    else if (event.key === "Enter") kind = "chosen";
    else if (event.key === "u") kind = "undone";
    if (!kind || (kind !== "undone" && !screen)) return;
    const order = [...review.querySelectorAll(".tile")]
      .map((tile, n) => [Number(tile.querySelector(".order").textContent), n])
      .filter(([place]) => place).sort((a, b) => a[0] - b[0]).map(([, n]) => n);
    const press = {
      kind, digit: kind === "dropped" ? digit : null, faces: kind === "chosen" ? order : [],
      who: review.querySelector(".about").textContent.split(" · ")[0],
      looked: since === null ? -1 : (performance.now() - since) / 1000,
      comment: review.querySelector(".comment input").value,
      before: review.dataset.state,
    };
    fuzz.presses.push(press);
    const at = screen;
    // The page calls this after it has done something for a key.
    event.stopPropagation = () => {
      Event.prototype.stopPropagation.call(event);
      press.taken = press.before !== "sent" && review.dataset.state === "sent";
      press.screen = at;
    };
  }, true);
  fuzz.take = () => {  // refused: the same person is here once more, and nothing is on its way
    const pending = find() && review.dataset.state === "sent";
    const presses = fuzz.presses.map(({ screen: at, ...press }) => ({
      ...press,
      refused: press.taken && at === screen && !pending,
      pending: press.taken && at === screen && Boolean(pending),
    }));
    fuzz.presses = [];
    return presses;
  };
})()"""

RESTED = """() => {
  for (const host of document.querySelectorAll("*")) {
    const root = host.shadowRoot?.querySelector(".root");
    if (!root) continue;
    const review = root.querySelector(".review"), end = root.querySelector(".end");
    return root.querySelector(".unsaved").hidden && !root.hasAttribute("data-busy")
      && ((!review.hidden && review.dataset.state === "unlocked") || !end.hidden);
  }
  return false;
}"""


STATE = """() => {
  for (const host of document.querySelectorAll("*")) {
    const root = host.shadowRoot?.querySelector(".root");
    if (root) return JSON.stringify({
      ...root.querySelector(".review").dataset, busy: root.hasAttribute("data-busy"),
      unsaved: root.querySelector(".unsaved").textContent,
      focus: host.shadowRoot.activeElement?.tagName,
    });
  }
  return "no review";
}"""


class Hands:
    """One annotator after another at one server, and what came of it."""

    def __init__(self, chromium: Any, server: Server, seed: int, show: bool) -> None:
        self.chromium, self.server, self.show = chromium, server, show
        self.random = random.Random(seed)
        self.workspace = Workspace.open(server.workspace)
        self.store = open_store(self.workspace)
        self.tokens = TokenFile(self.workspace)
        self.people = [row["identity_id"] for row in self.workspace.identities().to_pylist()]
        self.counts: Counter[str] = Counter()
        self.notes: list[str] = []
        self.number = 0
        self.joins()

    # Who is there ------------------------------------------------------------------------------

    def joins(self) -> None:
        """Somebody new signs in, on a page of their own; nobody has decided on anything yet."""
        wait_for(self.erased, "the server to leave the log alone")
        self.number += 1
        self.name = f"hand {self.number}"
        token = self.tokens.add(self.name, "annotator")
        self.who = Reviewer(self.chromium, "about:blank")
        self.page = self.who.page
        self.page.add_init_script(RECORDER)
        self.page.goto(f"{self.server.url}/#token={token}")
        self.who.shown()
        self.seen, self.judge, self.removed = self.store.last_seq(), Judge(), None
        self.presses: list[Press] = []
        self.rests()

    def leaves(self) -> None:
        self.counts.update(self.judge.counts)
        self.notes += self.judge.notes
        self.counts["errors"] += len(self.who.errors)
        self.notes += self.who.errors
        self.who.close()

    def rests(self) -> bool:
        """Wait until the page has nothing left to send; whether it came to that."""
        try:
            self.page.wait_for_function(RESTED, polling=20)
        except TimeoutError:
            text = self.page.get_by_test_id("stMain").inner_text()
            states = self.page.evaluate(STATE)
            self.judge.counts["stuck"] += 1
            self.judge.notes.append(f"stuck: {states}: {' / '.join(text.split(chr(10)))[:600]}")
            if SCREENS:
                self.page.screenshot(path=Path(SCREENS) / f"stuck-{self.name}.png")
            return False
        return True

    # A sequence --------------------------------------------------------------------------------

    def sequence(self, number: int) -> None:
        before, events = len(self.judge.notes), []
        if self.left() < FEWEST_LEFT:
            self.leaves()
            self.joins()
        for _ in range(self.random.randint(10, 20)):
            events.append(self.event())
            time.sleep(self.random.choice(PAUSES))
        for _ in range(2):
            self.page.keyboard.press("Escape")  # out of the comment, out of a dialog
        rested = self.rests() if self.removed is None else False
        if self.removed is not None:
            time.sleep(0.5)
        self.collects(rested)
        entries = [e for e in self.store.entries(self.seen) if e.decision.annotator == self.name]
        self.judge.check(self.presses, entries, self.removed)
        self.presses, self.seen = [], self.store.last_seq()
        self.counts["sequences"] += 1
        self.counts["events"] += len(events)
        for entry in entries:
            self.counts["undone" if entry.decision.kind == "undone" else "decisions"] += 1
        if self.show or len(self.judge.notes) > before:
            print(number, self.name, *events, sep=" | ")
            print(*self.judge.notes[before:], sep="\n")
        if not rested:
            self.leaves()
            self.joins()

    def left(self) -> int:
        return len(self.people) - len(self.store.state())

    def erased(self) -> bool:
        """Erase all decisions and leases; False where somebody reads the log."""
        try:
            self.store.forget(self.people)
        except HqvoxError:
            return False
        return True

    def event(self) -> str:
        weights = {
            self.enter: 30, self.drop: 9, self.digit: 12, self.moves: 8, self.undo: 10,
            self.skip: 4, self.comment: 8, self.dialog: 5, self.reload: 2, self.store_away: 3,
            self.kill: 0.4, self.remove: 0.4,
        }  # fmt: skip
        if self.removed is not None:
            for rare in (self.reload, self.store_away, self.kill, self.remove):
                weights[rare] = 0
        (chosen,) = self.random.choices(list(weights), list(weights.values()))
        return chosen()

    def keys(self, *keys: str) -> str:
        for key in keys:
            self.page.keyboard.press(key)
        return "".join(keys)

    def enter(self) -> str:
        return self.keys(*["Enter"] * self.random.choice((1, 1, 2, 3)))

    def drop(self) -> str:
        return self.keys("x", str(self.random.randint(1, 5)))

    def digit(self) -> str:
        return self.keys(str(self.random.randint(0, 9)))

    def moves(self) -> str:
        return self.keys(self.random.choice(("ArrowLeft", "ArrowRight", "ArrowDown")), " ")

    def undo(self) -> str:
        return self.keys(*["u"] * self.random.choice((1, 1, 2)))

    def skip(self) -> str:
        return self.keys("s")

    def comment(self) -> str:
        words = self.random.choice(("sux1", "x2 dark", "s", "u u u 1"))
        return self.keys("c", *words, *self.random.choice(((), ("Enter",), ("Enter", "Enter"))))

    def dialog(self) -> str:
        return self.keys(self.random.choice("zo?"), self.random.choice(("Escape", "ArrowRight")))

    def reload(self) -> str:
        self.collects(rested=False)
        self.page.reload()
        self.counts["reloads"] += 1
        return "reload"

    def store_away(self) -> str:
        """Move the store away, press on, and bring it back."""
        place = Path(self.server.workspace) / "reviews.sqlite"
        place.rename(place.with_suffix(".away"))
        pressed = [self.enter()]
        time.sleep(self.random.choice((0.1, 0.4)))
        pressed.append(self.random.choice((self.enter, self.undo, self.drop, self.comment))())
        time.sleep(self.random.choice((0.1, 0.6)))
        place.with_suffix(".away").rename(place)
        self.counts["store away"] += 1
        return f"store away({', '.join(pressed)})"

    def kill(self) -> str:
        pressed = self.enter()
        self.server.stop(kill=True)
        self.enter()
        self.server.start()
        self.counts["server killed"] += 1
        return f"killed({pressed})"

    def remove(self) -> str:
        pressed = self.enter() if self.random.random() < 0.5 else ""
        self.collects(rested=False)
        self.tokens.remove(self.name)
        self.removed = time.time()
        self.counts["access removed"] += 1
        return f"removed({pressed})"

    def collects(self, rested: bool) -> None:
        """Take over what the page noted; what is on its way may or may not come to the log."""
        for press in self.page.evaluate("fuzz.take()"):
            taken = press.pop("taken", False) and not press["refused"]
            # Without access nothing may be saved any more.
            certain = self.removed is None and (rested or not press["pending"])
            self.presses.append(
                Press(
                    kind=press["kind"], who=press["who"], looked=press["looked"],
                    faces=tuple(press["faces"]), comment=press["comment"], digit=press["digit"],
                    taken=taken, certain=certain,
                )
            )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print every sequence")
    asked = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_review(Path(folder))
        with (workspace / "hqvox.yaml").open("a") as file:
            file.write("review: {second_fraction: 0.0}\n")
        TokenFile(Workspace.open(workspace)).add("nobody", "annotator")
        server = Server(workspace, "--sign-in")
        browsers = launch_chromium()
        try:
            server.start()
            hands = Hands(next(browsers), server, asked.seed, asked.show)
            for number in range(asked.sequences):
                hands.sequence(number)
            hands.leaves()
        finally:
            browsers.close()
            server.stop()
    report(hands, asked, time.monotonic() - started)
    return int(any(hands.counts[kind] for kind in (*FAULTS, "stuck", "errors")))


def report(hands: Hands, asked: argparse.Namespace, seconds: float) -> None:
    table = Table(title=f"review_fuzz, seed {asked.seed}, {seconds:.0f} s", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    for kind in ("sequences", "events", "decisions", "undone", "reloads", "store away",
                 "server killed", "access removed", *FAULTS, "stuck", "errors"):  # fmt: skip
        table.add_row(kind, f"{hands.counts[kind]:,}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
