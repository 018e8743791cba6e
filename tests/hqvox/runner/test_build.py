"""Whole builds on a small phantom world: same bytes however they are run, cut or resumed."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from hqvox.errors import HqvoxError
from hqvox.phantom.world import make_world
from hqvox.release.write import write_release
from hqvox.runner.build import BuildResult, plan_build, run_build
from hqvox.runner.plan import digest
from hqvox.workspace import identities
from hqvox.workspace.layout import Workspace
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES, Stages

KILLS = 30
PIXEL_STAGES = ("download", "align", "segment")


def make(root: Path, photos: Path, **sections: object) -> Workspace:
    values = {"format": 1, "discover": {"photos": str(photos)}, **sections}
    rows = identities.read_folders(photos)
    return Workspace.create(str(root), yaml.safe_dump(values), identities.to_table(rows))


def build(
    workspace: Workspace, workers: int = 0, settings: tuple[str, ...] = (), **which: object
) -> BuildResult:
    config = workspace.config(settings)
    with workspace.lock():
        jobs = plan_build(workspace, config, ModelStore(), **which)  # type: ignore[arg-type]
        return run_build(workspace, config, jobs, workers=workers)


def release(workspace: Workspace) -> None:
    write_release(workspace, "first", workspace.config(), auto=True)


def files(root: Path) -> dict[str, str]:
    """Hash of every file of tables, pixels and releases."""
    found = {}
    for folder in ("stages", "releases"):
        for path in sorted((root / folder).rglob("*")):
            if path.is_file():
                found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def undisturbed(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build and release. Not to be written to."""
    root = tmp_path_factory.mktemp("undisturbed") / "w"
    workspace = make(root, small_world)
    assert not build(workspace).failed
    release(workspace)
    return root


def test_every_stage_and_the_release_are_there(undisturbed: Path) -> None:
    found = files(undisturbed)
    for stage in STAGE_NAMES:
        tables = [name for name in found if name.startswith(f"stages/{stage}/")]
        assert len(tables) == 4 * (2 if stage in PIXEL_STAGES else 1), stage
    assert any(name.startswith("releases/first/custom/masked_faces/") for name in found)
    assert not plan_build(
        Workspace.open(undisturbed), Workspace.open(undisturbed).config(), ModelStore()
    )


def test_stage_by_stage_gives_the_same_bytes(
    small_world: Path, undisturbed: Path, tmp_path: Path
) -> None:
    workspace = make(tmp_path / "w", small_world)
    for stage in STAGE_NAMES:
        result = build(workspace, only=stage)
        assert all(job.stages == (stage,) for job in result.jobs)
    release(workspace)
    assert files(tmp_path / "w") == files(undisturbed)


@pytest.mark.slow
def test_many_workers_give_the_same_bytes(
    small_world: Path, undisturbed: Path, tmp_path: Path
) -> None:
    workspace = make(tmp_path / "w", small_world)
    assert not build(workspace, workers=2).failed
    release(workspace)
    assert files(tmp_path / "w") == files(undisturbed)


@pytest.mark.slow(seconds=100)
def test_killed_at_random_moments_a_rerun_gives_the_same_bytes(tmp_path: Path) -> None:
    moments = random.Random(0)
    world = tmp_path / "world"
    make_world(world, seed=4, identities=3, photos_per_identity=5)
    undisturbed = make(tmp_path / "undisturbed", world / "photos")
    assert not build(undisturbed).failed
    release(undisturbed)
    expected = files(tmp_path / "undisturbed")
    kills = builds = 0

    root = tmp_path / "0"
    make(root, world / "photos")
    assert build_and_release_until(root, 0) == -signal.SIGKILL  # the fork server is there now
    started = time.monotonic()
    assert build_and_release_until(root, None) == 0
    whole = time.monotonic() - started
    assert files(root) == expected
    while kills < KILLS:
        builds += 1
        root = tmp_path / str(builds)
        make(root, world / "photos")
        # A few kills into each build, spread over its whole length, then one that may finish.
        for _ in range(5):
            kills += build_and_release_until(root, moments.uniform(0, whole)) == -signal.SIGKILL
        assert build_and_release_until(root, None) == 0
        assert files(root) == expected
        assert not list(root.rglob("*.tmp"))
        shutil.rmtree(root)


def build_and_release(root: str) -> None:
    """What the process to be killed does."""
    workspace = Workspace.open(root)
    build(workspace)
    if not (Path(root) / "releases/first").exists():
        release(workspace)


def build_and_release_until(root: Path, kill_after: float | None) -> int | None:
    """Build and release in a process of its own, killed after that many seconds; how it ended.

    The process comes from a server that has only imported: a plain fork would take over the state
    of thread pools without their threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hqvox.runner.worker", "hqvox.release.write"])
    child = context.Process(target=build_and_release, args=(str(root),))
    child.start()
    child.join(kill_after)
    if child.is_alive():
        child.kill()
    child.join()
    return child.exitcode


def test_a_threshold_redoes_only_what_follows_and_says_why(
    undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "w"
    shutil.copytree(undisturbed, root)
    workspace = Workspace.open(root)
    before = {p: p.stat().st_mtime_ns for p in (root / "stages").rglob("*.*")}
    setting = ("pupils.min_ipd_px=40",)
    plan = plan_build(workspace, workspace.config(setting), ModelStore())
    assert {job.stages[0] for job in plan} == {"pupils"}
    assert {job.why for job in plan} == {"min_ipd_px 30.0 → 40.0"}
    build(workspace, settings=setting)
    redone = {p.parent.name for p, mtime in before.items() if p.stat().st_mtime_ns != mtime}
    assert redone == set(STAGE_NAMES[STAGE_NAMES.index("pupils") :])


def test_photos_that_come_or_go_make_only_their_shard_stale(
    small_world: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(small_world, photos)
    workspace = make(tmp_path / "w", photos)
    build(workspace, target="download")
    folder = next(p for p in sorted(photos.iterdir()) if p.is_dir())
    (folder / "new.jpg").write_bytes(b"not a picture")
    plan = plan_build(workspace, workspace.config(), ModelStore(), target="download")
    assert [(job.stages[0], job.why) for job in plan] == [("discover", "photos changed")]


def test_touched_or_copied_photos_make_nothing_stale(
    small_world: Path, undisturbed: Path, tmp_path: Path
) -> None:
    root, photos = tmp_path / "w", tmp_path / "photos"
    shutil.copytree(undisturbed, root)
    shutil.copytree(small_world, photos, copy_function=shutil.copy)  # with new times and inodes
    for path in photos.rglob("*"):
        os.utime(path, (1, 1))
    workspace = Workspace.open(root)
    config = workspace.config((f"discover.photos={photos}",))
    assert not plan_build(workspace, config, ModelStore())


def test_tables_do_not_hold_the_times_of_files(
    small_world: Path, undisturbed: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(small_world, photos)
    for path in photos.rglob("*"):
        os.utime(path, (1, 1))
    build(make(tmp_path / "w", photos), target="download")
    before = files(undisturbed)
    tables = files(tmp_path / "w")
    assert len(tables) == 12
    assert {name: before[name] for name in tables} == tables


def test_a_build_of_an_earlier_version_is_up_to_date_while_times_are(
    small_world: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(small_world, photos)
    workspace = make(tmp_path / "w", photos)
    build(workspace, target="download")
    config = workspace.config()
    discover = Stages(config, ModelStore(), workspace.storage).discover
    for shard, rows in workspace.shards().items():
        listings = discover.listings(rows, by_time=True)
        upstream = ""
        for stage in ("discover", "download"):
            record = workspace.committed(stage, shard)
            table = workspace.read_stage(stage, shard)
            assert record is not None
            assert table is not None
            if stage == "discover":
                record["parts"]["input"] = digest(
                    [
                        [row["identity_id"], row["folder"], listing]
                        for row, listing in zip(rows, listings, strict=True)
                    ]
                )
            record["hash"] = upstream = digest([upstream, record["parts"]])
            workspace.write_stage(stage, shard, table, record)
    assert not plan_build(workspace, config, ModelStore(), target="download")
    jobs = plan_build(workspace, config, ModelStore(), target="duplicates")
    assert {job.stages for job in jobs} == {("duplicates",)}
    assert not build(workspace, target="duplicates").failed
    assert not plan_build(workspace, config, ModelStore(), target="duplicates")
    os.utime(next(photos.rglob("*.*")), (1, 1))
    jobs = plan_build(workspace, config, ModelStore(), target="duplicates")
    assert [(job.stages[0], job.why) for job in jobs] == [("discover", "photos changed")]
    assert not build(workspace, target="duplicates").failed
    os.utime(next(photos.rglob("*.*")), (2, 2))
    assert not plan_build(workspace, config, ModelStore(), target="duplicates")


def test_only_refuses_to_touch_what_is_before_it(small_world: Path, tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", small_world)
    with pytest.raises(HqvoxError, match=r"--only align: stage discover before it must run first"):
        build(workspace, only="align")
    with pytest.raises(HqvoxError, match=r"unknown stage 'algin'; the stages are"):
        build(workspace, target="algin")


def test_a_second_build_is_refused_while_one_runs(small_world: Path, tmp_path: Path) -> None:
    workspace = make(tmp_path / "w", small_world)
    with (
        workspace.lock(),
        pytest.raises(HqvoxError, match=f"another build is running here .process {os.getpid()}"),
    ):
        build(Workspace.open(tmp_path / "w"))


def test_a_full_disk_stops_and_a_rerun_goes_on(
    small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make(tmp_path / "w", small_world)
    sync, calls = os.fsync, iter(range(1000))

    def full(descriptor: int) -> None:
        if next(calls) > 20:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HqvoxError, match="the disk is full; free some space"):
        build(workspace, target="download")
    monkeypatch.undo()
    build(workspace, target="download")
    whole = make(tmp_path / "whole", small_world)
    build(whole, target="download")
    assert files(tmp_path / "w") == files(tmp_path / "whole")


def test_a_damaged_table_is_built_again(undisturbed: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    shutil.copytree(undisturbed, root)
    table = sorted((root / "stages/quality").iterdir())[0]
    table.write_bytes(table.read_bytes()[:100])
    workspace = Workspace.open(root)
    result = build(workspace)
    assert [job.stages for job in result.jobs] == [("quality",)]
    assert files(root) == files(undisturbed)


def test_missing_pixels_are_built_again(undisturbed: Path, tmp_path: Path) -> None:
    root = tmp_path / "w"
    shutil.copytree(undisturbed, root)
    sorted((root / "stages/segment").glob("*.tar"))[0].unlink()
    assert [job.stages[0] for job in build(Workspace.open(root)).jobs] == ["segment"]
    assert files(root) == files(undisturbed)


def test_a_table_damaged_inside_is_one_line_with_the_remedy(
    undisturbed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "w"
    shutil.copytree(undisturbed, root)
    table = sorted((root / "stages/quality").iterdir())[0]
    data = table.read_bytes()
    table.write_bytes(data[:4] + bytes(100) + data[104:])
    workspace = Workspace.open(root)
    with pytest.raises(HqvoxError, match=r"(?s)quality/\d+\.parquet: cannot be read .* delete it"):
        workspace.read_stage("quality", table.stem)
    table.unlink()
    build(workspace)
    assert files(root) == files(undisturbed)


def test_what_follows_a_retried_stage_is_stale_even_if_the_retry_stops_there(
    small_world: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(small_world, photos)
    folder = next(p for p in sorted(photos.iterdir()) if p.is_dir())
    (folder / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    workspace = make(tmp_path / "w", photos)
    build(workspace, target="duplicates")
    retried = build(workspace, target="download", retry_failed=True)
    assert [job.stages for job in retried.jobs] == [("download",)]
    plan = plan_build(workspace, workspace.config(), ModelStore(), target="duplicates")
    assert [(task.shard, task.stages[0]) for task in plan] == [
        (retried.jobs[0].shard, "duplicates")
    ]


def test_a_workspace_on_object_storage_gives_the_same_tables(
    small_world: Path, undisturbed: Path, tmp_path: Path
) -> None:
    rows = identities.read_folders(small_world)
    values = {"format": 1, "discover": {"photos": str(small_world)}}
    url = f"memory://{tmp_path.name}"
    workspace = Workspace.create(url, yaml.safe_dump(values), identities.to_table(rows))
    build(workspace, target="download")
    name = workspace.table_name("download", "00000")
    assert workspace.storage.read(name) == (undisturbed / name).read_bytes()
    again = pytest.raises(HqvoxError, match=f"another build is running here .process {os.getpid()}")
    with workspace.lock(), again:
        build(Workspace.open(url))


def test_the_next_command_removes_what_a_killed_worker_left(
    small_world: Path, tmp_path: Path
) -> None:
    workspace = make(tmp_path / "w", small_world)
    child = os.fork()
    if child == 0:
        workspace.storage.begin("stages/download/00000.tar").file.write(b"half")
        os._exit(9)
    os.waitpid(child, 0)
    left = list((tmp_path / "w/stages/download").iterdir())
    assert len(left) == 1
    with workspace.lock():
        assert not left[0].exists()
