"""How many threads a training takes beside other work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hqvox.trainer import speed
from hqvox.trainer.speed import Speed, cgroup_quota, free_cores, set_up


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine of so many cores, with its load and the cores that are at work."""

    def make(cores: int, load: float, busy: float, quota: float | None = None) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
        monkeypatch.setattr(speed, "_busy_cores", lambda: busy)
        monkeypatch.setattr(speed, "cgroup_quota", lambda: quota)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)

    return make


@pytest.mark.parametrize(
    ("cores", "load", "busy", "quota", "expected"),
    [
        (8, 0.1, 0.2, None, (8, 8)),
        (8, 5.0, 5.2, None, (8, 3)),
        (8, 7.9, 0.3, None, (8, 8)),  # a run was just stopped
        (8, 0.3, 6.0, None, (8, 8)),  # busy for a moment
        (2, 4.0, 2.0, None, (2, 1)),
        (64, 20.0, 20.0, 4.0, (4, 4)),
        (8, 0.0, 0.0, 0.5, (1, 1)),
    ],
)
def test_cores_count_as_busy_by_load_and_by_a_look(
    machine, cores: int, load: float, busy: float, quota: float | None, expected: tuple[int, int]
) -> None:
    machine(cores, load, busy, quota)
    assert free_cores() == expected


def test_threads_are_chosen_and_said(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    before, cpu = torch.get_num_threads(), torch.device("cpu")
    try:
        machine(8, 5.0, 5.0)
        assert set_up(Speed(), cpu).startswith("on cpu, 3 threads: 3 of 8 cores free")
        assert torch.get_num_threads() == 3
        assert set_up(Speed(), cpu, threads=2) == "on cpu, 2 threads (speed.threads)"
        assert torch.get_num_threads() == 2
        machine(8, 0.0, 0.0)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
        assert set_up(Speed(), cpu).startswith("on cpu, 2 threads: 8 of 8 cores free")
    finally:
        torch.set_num_threads(before)


def test_this_machine_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SAMPLE_SECONDS", 0.05)
    usable, free = free_cores()
    assert 1 <= free <= usable <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n", "cpu.max": "max 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.5),
        ("0::/of/the/host\n", {"cpu.max": "400000 100000\n"}, 4.0),  # in a container
        (
            "4:cpu,cpuacct:/x\n1:memory:/x\n",
            {"cpu/x/cpu.cfs_quota_us": "200000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
            2.0,
        ),
        (
            "4:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        ("0::/\n", {}, None),
    ],
)
def test_quota_of_a_cgroup(
    tmp_path: Path, membership: str, files: dict[str, str], expected: float | None
) -> None:
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    assert cgroup_quota(tmp_path / "membership", tmp_path / "fs") == expected
    assert cgroup_quota(tmp_path / "nowhere", tmp_path / "fs") is None
