"""Running stages fused, with stages made for the purpose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from hqvox.config.section import StageSection
from hqvox.errors import HqvoxError
from hqvox.workspace.shards import ShardReader, ShardWriter
from hqvox.workspace.storage import Storage
from hqvox.workspace.tables import Row
from pipelines.chain import BATCH_PHOTOS, STAGES, Chain, Tallies, check
from pipelines.pixels import ChainPixels
from pipelines.stage import Pixels, Stage

SOME_PHOTOS = 2 * BATCH_PHOTOS + 3


def config(enabled: bool = True) -> StageSection:
    return StageSection(enabled=enabled)


class Fetch(Stage):
    """Stores five bytes per photo."""

    name = "download"
    reads = ()
    writes = ("photo_id", "photo_offset", "photo_bytes")
    reasons = ()
    failures = ("not_found",)
    version = 1

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        for row in rows:
            row |= {"photo_id": f"{row['candidate']:064d}"}
            if row["candidate"] % 7 == 3:
                row |= {"reason": "not_found", "photo_offset": None, "photo_bytes": None}
            else:
                pixels.keep_photo(row, b"photo")
        return list(rows)


class Judge(Stage):
    """Refuses all but the three first rows of an identity, knowing all of them."""

    name = "duplicates"
    reads = ("photo_id",)
    writes = ("phash",)
    reasons = ("duplicate",)
    compares = True
    version = 1

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        for row in rows:
            row["phash"] = row["candidate"]
        return list(rows)

    def compare(self, rows: Sequence[Row]) -> None:
        for row in rows[SOME_PHOTOS // 2 :]:
            row["reason"] = "duplicate"


class Split(Stage):
    """Two faces per photo."""

    name = "landmarks"
    reads = ("phash",)
    writes = ("face_score",)
    reasons = ()
    version = 1
    batches: ClassVar[list[list[int]]] = []

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        self.batches.append([row["candidate"] for row in rows])
        return [{**row, "face": face, "face_score": 1 / 3} for row in rows for face in (0, 1)]


class Measure(Stage):
    """Reads what was stored, and refuses every other face."""

    name = "pupils"
    reads = ("face_score", "photo_offset")
    writes = ("ipd_px",)
    reasons = ("pupils_too_close",)
    version = 1

    def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
        for row in rows:
            # float32(1/3) only if the value went through its Arrow type.
            row["ipd_px"] = row["face_score"] * 3 + row["candidate"]
            if row["face"]:
                row["reason"] = "pupils_too_close"
        return list(rows)


def stages(enabled: bool = True) -> list[Stage]:
    kinds: list[Any] = [Fetch, Judge, Split, Measure]
    return [kind(config(enabled), None) for kind in kinds]


def candidates() -> list[Row]:
    return [{"identity_id": "a", "candidate": n, "face": None} for n in range(SOME_PHOTOS)]


def run(folder: Path, chain: Chain, rows: list[Row], seen: list[Tallies] | None = None) -> dict:
    storage = Storage(folder)
    writers = {}
    if any(stage.name == "download" for stage in chain.stages):
        writers["photo"] = ShardWriter(storage, "photo.tar")
    pixels = ChainPixels(lambda kind: ShardReader(storage, f"{kind}.tar"), writers, 1280, 1)
    tables = chain.run(
        [("a", rows)], pixels, lambda _, tallies: (seen if seen is not None else []).append(tallies)
    )
    for writer in writers.values():
        writer.commit()
    return tables


def test_fused_equals_one_by_one(tmp_path: Path) -> None:
    Split.batches.clear()
    fused = run(tmp_path / "fused", Chain(stages()), candidates())
    batches, Split.batches = Split.batches, []
    rows = candidates()
    for stage in stages():
        table = run(tmp_path / "single", Chain([stage]), rows)[stage.name]
        assert table.equals(fused[stage.name]), stage.name
        before = {(r["candidate"], r["face"]): r for r in rows}
        rows = []
        for row in table.to_pylist():
            upstream = before.get((row["candidate"], row["face"])) or before[row["candidate"], None]
            if row["reason"] is None:
                rows.append({**upstream, **row})
    assert batches == Split.batches
    assert Storage(tmp_path / "fused").read("photo.tar") == Storage(tmp_path / "single").read(
        "photo.tar"
    )


def test_rejected_rows_stop_and_stay_in_their_stage(tmp_path: Path) -> None:
    seen: list[Tallies] = []
    tables = run(tmp_path, Chain(stages()), candidates(), seen)
    assert tables["download"].num_rows == SOME_PHOTOS
    lost = sum(n % 7 == 3 for n in range(SOME_PHOTOS))
    kept = SOME_PHOTOS // 2
    assert tables["duplicates"].num_rows == SOME_PHOTOS - lost
    assert tables["landmarks"].num_rows == tables["pupils"].num_rows == 2 * kept
    tally = seen[0].stages
    assert tally["download"].rejected == {"not_found": lost}
    assert tally["pupils"].rejected == {"pupils_too_close": kept}
    assert (tally["pupils"].entered, tally["pupils"].kept) == (2 * kept, kept)
    # Photos go into landmarks and faces come out.
    assert (tally["landmarks"].entered, tally["landmarks"].kept) == (kept, 2 * kept)
    assert (seen[0].photos, seen[0].faces) == (SOME_PHOTOS, 2 * kept)


def test_a_stage_switched_off_measures_and_refuses_nobody_but_failures(tmp_path: Path) -> None:
    tables = run(tmp_path, Chain(stages(enabled=False)), candidates())
    lost = sum(n % 7 == 3 for n in range(SOME_PHOTOS))
    assert tables["download"]["reason"].null_count == SOME_PHOTOS - lost
    assert tables["duplicates"]["reason"].null_count == SOME_PHOTOS - lost
    assert tables["pupils"]["reason"].null_count == 2 * (SOME_PHOTOS - lost)
    assert tables["pupils"]["ipd_px"].null_count == 0


def test_values_are_those_a_table_read_back_would_give(tmp_path: Path) -> None:
    table = run(tmp_path, Chain(stages()), candidates()[:1])["pupils"]
    expected = float(np.float32(float(np.float32(1 / 3)) * 3))
    assert table["ipd_px"][0].as_py() == expected
    assert table.schema.field("ipd_px").type == pa.float32()


def test_a_column_that_nothing_writes_names_both_stages() -> None:
    check(list(STAGES))
    with pytest.raises(HqvoxError, match=r"duplicates reads column photo_id.*download writes it"):
        check([Judge, Fetch])
    with pytest.raises(HqvoxError, match=r"duplicates reads column photo_id.*nothing does"):
        check([Judge])


def test_a_reason_that_was_not_declared_is_a_defect(tmp_path: Path) -> None:
    class Wrong(Fetch):
        def measure(self, rows: Sequence[Row], pixels: Pixels) -> list[Row]:
            return [{**row, "reason": "surprise"} for row in rows]

    with pytest.raises(AssertionError, match="surprise"):
        run(tmp_path, Chain([Wrong(config(), None)]), candidates())


def test_the_photo_cache_stays_within_its_limit(tmp_path: Path) -> None:
    pixels = ChainPixels(lambda kind: ShardReader(Storage(tmp_path), kind), {}, 64, 1)
    for number in range(3):
        pixels._batch[str(number)] = np.zeros((400, 500, 3), np.uint8)  # 0.6 MB each
    pixels.end_batch()
    assert list(pixels._cached) == ["0"]
    pixels.begin_identity()
    assert not pixels._cached
