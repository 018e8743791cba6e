"""What a build shows while it runs: on a terminal a bar and a line per stage, else plain lines."""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hqvox.runner.local import Event
from hqvox.runner.worker import Progress as IdentityDone

PLAIN_EVERY_SECONDS = 5.0
"""Without a terminal, a line at most this often."""


class Display:
    """Shows the events of a build. Use as a context manager."""

    def __init__(self, console: Console, stages: tuple[str, ...], identities: int) -> None:
        self.console = console
        self.stages = stages
        self.identities = identities
        self.done = 0
        self.photos = 0
        self.entered: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.started = time.monotonic()
        self._last_line = self.started
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
        """Take in an event."""
        if not isinstance(event, IdentityDone):
            return
        self.done += 1
        self.photos += event.tallies.photos
        for name, tally in event.tallies.stages.items():
            self.entered[name] += tally.entered
            self.refused[name] += tally.rejected.total()
        rate = self.photos / max(time.monotonic() - self.started, 1e-9)
        self._bar.update(self._task, completed=self.done, rate=f"{rate:.1f} photos/s")
        if self._live:
            self._live.update(self._picture())
        elif time.monotonic() - self._last_line >= PLAIN_EVERY_SECONDS:
            self._last_line = time.monotonic()
            self.console.print(
                f"{self.done}/{self.identities} identities, {self.photos} photos, "
                f"{rate:.1f} photos/s"
            )

    def _picture(self) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("stage")
        for title in ("in", "kept", "refused"):
            table.add_column(title, justify="right")
        for name in self.stages:
            entered, refused = self.entered[name], self.refused[name]
            table.add_row(name, str(entered), str(entered - refused), str(refused))
        return Group(table, self._bar)
