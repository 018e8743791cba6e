"""Progress of a build where there is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hqvox.runner import progress
from hqvox.runner.progress import Display
from hqvox.runner.worker import Crawling
from hqvox.runner.worker import Progress as IdentityDone
from pipelines.chain import Tallies, Tally


def crawling(waiting: int, seconds: float) -> Crawling:
    return Crawling(100, waiting, 100 - waiting, 0, {}, 5_000, 0, 100 - waiting, seconds)


def test_a_line_is_not_repeated_while_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    out = io.StringIO()
    with Display(Console(file=out), ("discover", "download"), 3) as display:
        for now in range(0, 50, 2):
            display(crawling(90, now))
        assert len(out.getvalue().splitlines()) == 1
        for now in range(50, 120, 2):
            display(crawling(90, now))
        assert len(out.getvalue().splitlines()) == 2  # it is still at work
        now = 140.0
        display(crawling(80, now))
        assert len(out.getvalue().splitlines()) == 3


def test_photos_and_faces_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    out = io.StringIO()
    with Display(Console(file=out), ("landmarks",), 2) as display:
        now = 10.0
        display(IdentityDone("00000", "a", Tallies({"landmarks": Tally()}, photos=1, faces=2)))
    assert out.getvalue() == "1/2 identities, 1 photo, 2 faces, 0.1 photos/s\n"
