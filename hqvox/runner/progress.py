"""Progress of a build: on a terminal a bar and a line per stage, else plain lines."""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from hqvox.runner.worker import Crawling, Event
from hqvox.runner.worker import Progress as IdentityDone
from hqvox.workspace.measures import counted

PLAIN_EVERY_SECONDS = 5.0
"""Without a terminal, a line at most this often."""
UNCHANGED_EVERY_SECONDS = 60.0
"""The same where nothing was done since the last line."""


class Display:
    """Shows the events of a build. Use as a context manager."""

    def __init__(self, console: Console, stages: tuple[str, ...], identities: int) -> None:
        self.console = console
        self.stages = stages
        self.identities = identities
        self.done = 0
        self.photos = self.faces = 0
        self.entered: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.crawling: Crawling | None = None
        self.started = time.monotonic()
        self._last_line = self.started
        self._last_done: tuple[int, ...] = ()
        self._bar = Progress(
            TextColumn("[bold]identities"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("", total=identities, rate="")
        self._live = (
            Live(self._picture(), console=console, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Display:
        if self._live:
            self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.__exit__(None, None, None)

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Crawling):
            self.crawling = event
            self._show()
        if not isinstance(event, IdentityDone):
            return
        if self.stages[-1] in event.tallies.stages:  # crawled identities are reported twice
            self.done += 1
            self.photos += event.tallies.photos
            self.faces += event.tallies.faces
        for name, tally in event.tallies.stages.items():
            self.entered[name] += tally.entered
            self.kept[name] += tally.kept
            self.refused[name] += tally.rejected.total()
        rate = self.photos / max(time.monotonic() - self.started, 1e-9)
        self._bar.update(self._task, completed=self.done, rate=f"{rate:.1f} photos/s")
        self._show()

    def _show(self) -> None:
        if self._live:
            self._live.update(self._picture())
        elif time.monotonic() - self._last_line >= (
            PLAIN_EVERY_SECONDS if self._done() != self._last_done else UNCHANGED_EVERY_SECONDS
        ):
            self._last_done = self._done()
            self._last_line = time.monotonic()
            if self.crawling is not None:
                self.console.print(crawl_line(self.crawling), highlight=False, soft_wrap=True)
            if self.crawling is None or self.done:
                rate = self.photos / max(time.monotonic() - self.started, 1e-9)
                self.console.print(
                    f"{self.done}/{self.identities} identities, {counted(self.photos, 'photo')}, "
                    f"{counted(self.faces, 'face')}, {rate:.1f} photos/s",
                    highlight=False,
                )

    def _done(self) -> tuple[int, ...]:
        """What a line without a terminal says, but for the rates."""
        crawl = self.crawling
        return (self.done, self.photos, self.faces) + (
            (crawl.urls, crawl.waiting, crawl.requests) if crawl is not None else ()
        )

    def _picture(self) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("stage")
        for title in ("in", "kept", "refused"):
            table.add_column(title, justify="right")
        for name in self.stages:
            counts = (self.entered[name], self.kept[name], self.refused[name])
            table.add_row(name, *map(str, counts))
        parts: list[RenderableType] = [table, self._bar]
        if self.crawling is not None:
            parts.insert(0, Text(crawl_line(self.crawling)))
        return Group(*parts)


def crawl_line(crawling: Crawling) -> str:
    """The state of a crawl, in one line."""
    done = crawling.urls - crawling.waiting
    rate = done / max(crawling.seconds, 1e-9)
    fetched = crawling.fetched + crawling.unchanged
    parts = [
        f"crawl: {done}/{crawling.urls} urls",
        f"{rate:.1f}/s",
        f"{crawling.bytes / 1e6:.1f} MB",
        f"{100 * fetched / max(done, 1):.0f} % had",
    ]
    worst = sorted(crawling.failed.items(), key=lambda item: (-item[1], item[0]))
    if worst:
        parts.append("failed: " + ", ".join(f"{reason} {count}" for reason, count in worst))
    if crawling.hosts_waiting:
        parts.append(f"{crawling.hosts_waiting} hosts waiting")
    if crawling.waiting and rate > 0:
        left = int(crawling.waiting / rate)
        parts.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left of these")
    if crawling.problem:
        parts.append(crawling.problem)
    return ", ".join(parts)
