"""Random hands at the review page; and that the judge of them sees every kind of fault."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from annotator.log.decisions import Decision, Entry, FaceRef
from tests.helpers.browser_tools import environment
from tests.helpers.review_judge import FAULTS, Judge, Press

ROOT = Path(__file__).parents[3]
SHOWN = tuple(FaceRef(f"{n:064x}", 0, (0.0, 0.0, 9.0, 9.0)) for n in range(8))
PRESS = Press("chosen", "ada", looked=1.0, faces=(0, 1, 2), taken=True)
DROP = Press("dropped", "bo", looked=1.0, digit=1, taken=True)
UNDO = Press("undone", "bo", looked=0.1, taken=True)


def entry(seq: int, who: str, kind: str = "chosen", undoes: int | None = None) -> Entry:
    decision = Decision(
        who,
        kind,
        SHOWN[:3] if kind == "chosen" else (),
        SHOWN if kind != "undone" else (),
        reason="wrong_person" if kind == "dropped" else None,
        undoes=undoes,
    )
    return Entry(seq, datetime.fromtimestamp(1000 + seq, UTC), decision, f"key {seq}", "annotator")


CHOSEN, DROPPED, UNDONE = entry(1, "ada"), entry(2, "bo", "dropped"), entry(3, "bo", "undone", 2)


@pytest.mark.parametrize(
    ("presses", "entries", "removed", "fault"),
    [
        ([PRESS, DROP, UNDO], [CHOSEN, DROPPED, UNDONE], None, None),
        ([PRESS, replace(PRESS, certain=False)], [CHOSEN], None, None),
        ([replace(PRESS, certain=False), PRESS], [CHOSEN], None, None),
        ([replace(PRESS, taken=False)], [], None, None),
        ([PRESS], [CHOSEN], 1001.5, None),
        ([PRESS, DROP], [DROPPED], None, "lost"),
        ([PRESS], [CHOSEN, entry(2, "ada")], None, "doubled"),
        ([PRESS, PRESS], [CHOSEN, entry(2, "ada")], None, "doubled"),
        ([replace(PRESS, looked=0.1)], [CHOSEN], None, "unseen"),
        ([], [CHOSEN], None, "unseen"),
        ([PRESS], [CHOSEN], 1000.5, "unauthorised"),
        ([replace(PRESS, faces=(0, 1, 3), taken=False)], [CHOSEN], None, "wrong"),
        ([replace(PRESS, comment="dark", taken=False)], [CHOSEN], None, "wrong"),
        ([replace(DROP, digit=2, taken=False)], [DROPPED], None, "wrong"),
    ],
)
def test_the_judge_sees_every_fault(
    presses: list[Press], entries: list[Entry], removed: float | None, fault: str | None
) -> None:
    judge = Judge()
    judge.check(presses, entries, removed)
    assert dict(judge.counts) == ({} if fault is None else {fault: 1})
    assert fault is None or fault in FAULTS


@pytest.mark.slow(seconds=60)
def test_random_hands_leave_no_fault_in_the_log() -> None:
    pytest.importorskip("playwright.sync_api")
    if not any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        pytest.skip("Chromium is not installed")
    done = subprocess.run(
        [sys.executable, "benchmarks/review_fuzz.py", "--sequences", "15", "--seed", "1"],
        cwd=ROOT, env=environment() | {"PYTHONPATH": str(ROOT)}, timeout=900, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
