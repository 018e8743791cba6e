"""The funnel counts photos, then faces."""

from __future__ import annotations

from pathlib import Path

from hqvox.report.funnel import funnel, left_out
from tests.helpers.synthetic_build import make_build


def test_funnel_counts_photos_then_faces_by_reason(tmp_path: Path) -> None:
    steps = {s.stage: s for s in funnel(make_build(tmp_path / "w", tmp_path / "photos"))}
    assert (steps["discover"].entered, steps["discover"].kept) == (30, 30)
    assert steps["download"].refused == {"not_an_image": 2}
    found = steps["landmarks"]
    # 26 photos, of which 2 show nobody and 2 show two people
    assert (found.unit_in, found.entered, found.unit_out, found.kept) == ("photo", 26, "face", 26)
    assert found.refused == {"no_face": 2}
    assert steps["pose"].refused == {"turned_away": 2, "tilted": 2}
    assert steps["pose"].kept_share == 20 / 24
    assert steps["quality"].kept == 10
    assert steps["quality"].identities == 3


def test_funnel_of_an_unbuilt_workspace_is_empty(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos")
    for stage in ("pose", "lighting"):
        for shard in workspace.shards():
            workspace.storage.remove(workspace.table_name(stage, shard))
    steps = {s.stage: s for s in funnel(workspace)}
    assert steps["pupils"].kept == 24
    # Tables after a missing one belong to an older build: they are not counted.
    assert (steps["quality"].entered, steps["quality"].shards) == (0, 0)


def test_what_a_limit_left_out_is_counted_over_all_shards(tmp_path: Path) -> None:
    workspace = make_build(tmp_path / "w", tmp_path / "photos")
    assert left_out(workspace) == ""
    for shard in workspace.shards():
        record, table = (
            workspace.committed("discover", shard),
            workspace.read_stage("discover", shard),
        )
        assert record is not None
        assert table is not None
        workspace.write_stage("discover", shard, table, {**record, "left_out": 1500})
    total = 1500 * len(workspace.shards())
    assert left_out(workspace).startswith(f"discover.limit left out {total:,} photographs of your")
