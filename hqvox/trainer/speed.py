"""The fast paths of a training step, each switched by name, and what they default to on a device.

========================  =====================================================================
``speed.bfloat16``        networks under autocast to bfloat16; weights, losses and Adam stay float32
``speed.tf32``            float32 products of a GPU rounded to TF32
``speed.channels_last``   pictures and kernels stored with their channels last
``speed.compile``         networks through ``torch.compile``
``speed.cuda_graphs``     compiled networks replayed as CUDA graphs; needs ``speed.compile``
``speed.fused_adam``      each Adam as one pass over the weights
========================  =====================================================================

The plain path is float32, eager, with all of them off. ``tests/hqvox/trainer/test_step.py`` holds
each path that runs on a CPU to the plain one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from hqvox.errors import HqvoxError
from hqvox.workspace.measures import counted

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Speed:
    """Which fast paths a run takes on its device; all off is the plain path."""

    bfloat16: bool = False
    tf32: bool = False
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    fused_adam: bool = False

    def describe(self) -> str:
        """The names of those taken, or ``plain``."""
        return ", ".join(name for name, on in asdict(self).items() if on) or "plain"


ON_CPU = Speed(channels_last=True, fused_adam=True)
"""What ``auto`` means on a CPU: what is faster on every one. One with bfloat16 arithmetic takes
that too: a step is 1.2 times (a tiny recipe) to 1.7 times (sf2f-64 with FaceNet) as fast."""
ON_CUDA = Speed(bfloat16=True, tf32=True, channels_last=True, compile=True, fused_adam=True)


def resolve(section: Any, device: torch.device) -> Speed:
    """The paths to take: ``section`` (``config.speed``) with ``auto`` answered for the device.

    Raises HqvoxError for what the device cannot do.
    """
    auto = ON_CUDA if device.type == "cuda" else replace(ON_CPU, bfloat16=cpu_has_bfloat16())
    chosen = {}
    for field in fields(Speed):
        value = getattr(section, field.name)
        chosen[field.name] = getattr(auto, field.name) if value == "auto" else bool(value)
    speed = Speed(**chosen)
    if device.type not in ("cpu", "cuda"):
        raise HqvoxError(f"--device {device}: training runs on cpu or cuda")
    if device.type != "cuda":
        for name in ("tf32", "cuda_graphs"):
            if getattr(speed, name):
                raise HqvoxError(f"speed.{name} needs a GPU; leave it at auto, or set it to false")
    if speed.cuda_graphs and not speed.compile:
        raise HqvoxError("speed.cuda_graphs replays compiled networks; set speed.compile=true too")
    return speed


def cpu_has_bfloat16() -> bool:
    """Whether the processor has bfloat16 arithmetic; others convert, which costs time."""
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public name for it
    return bool(asked and asked())


SAMPLE_SECONDS = 0.5
"""How long the machine is watched to see how busy it is."""


def set_up(speed: Speed, device: torch.device, threads: int | None = None) -> str:
    """Set up the whole process: threads of a CPU, TF32 and autotuning of a GPU.

    ``threads``: of the CPU; None: as many as there are free cores. Returns in words what was
    chosen.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if speed.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = speed.tf32
        torch.backends.cudnn.benchmark = True
        return f"on {device}"
    if threads is not None:
        torch.set_num_threads(threads)
        return f"on {device}, {counted(threads, 'thread')} (speed.threads)"
    usable, free = free_cores()
    threads = max(1, free // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    torch.set_num_threads(threads)
    return (
        f"on {device}, {counted(threads, 'thread')}: {free} of {counted(usable, 'core')} free "
        "(speed.threads sets another number)"
    )


def free_cores() -> tuple[int, int]:
    """How many cores this process may use, and how many of them are free, at least 1.

    The first follows from the CPU affinity and the cgroup's quota. A core counts as busy where
    both the load average of the last minute and a short look at the machine say so: the load of a
    run that was just stopped, and what another process does for a moment, do not count. Threads
    that share a core wait for each other at every layer, and a step then takes many times as long.
    """
    usable = len(os.sched_getaffinity(0))
    quota = cgroup_quota()
    if quota is not None:
        usable = max(1, min(usable, int(quota)))
    busy = min(os.getloadavg()[0], _busy_cores())
    free = (os.cpu_count() or usable) - busy
    return usable, max(1, min(usable, round(free)))


def _busy_cores() -> float:
    """Cores that were at work in the last half second, of the whole machine."""
    before = _cpu_seconds()
    time.sleep(SAMPLE_SECONDS)
    passed = [now - then for now, then in zip(_cpu_seconds(), before, strict=True)]
    idle = passed[3] + passed[4]  # idle, and waiting for a disk
    return (os.cpu_count() or 1) * (1 - idle / max(sum(passed), 1e-9))


def _cpu_seconds() -> list[int]:
    """Ticks by what all cores did: user, nice, system, idle, waiting for a disk, interrupts."""
    with open("/proc/stat") as file:
        return [int(word) for word in file.readline().split()[1:8]]


def cgroup_quota(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """Cores' worth of time that this process's cgroup may use; None: no limit."""
    quotas = []
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            folder = root / "cpu" if controllers else root
            # In a container the path may be the host's; then the limit is at the root.
            parts = [part for part in path.split("/") if part]
            for depth in range(len(parts) + 1):
                quotas.append(_quota(folder.joinpath(*parts[:depth])))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(folder: Path) -> float | None:
    with suppress(OSError, ValueError):  # "max": no limit
        most, period = (folder / "cpu.max").read_text().split()
        return int(most) / int(period)
    with suppress(OSError, ValueError):
        files = (folder / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
        used, of = (int(file.read_text()) for file in files)
        return used / of if used > 0 else None
    return None


def autocast(speed: Speed, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which networks run."""
    if not speed.bfloat16:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def place(network: M, speed: Speed, device: torch.device) -> M:
    """Move a network to the device, its kernels stored as the paths want them."""
    layout = torch.channels_last if speed.channels_last else torch.contiguous_format
    network.to(device)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return network


def compiled(
    function: Callable[..., Any], speed: Speed, lengths_vary: bool = False
) -> Callable[..., Any]:
    """The function through ``torch.compile`` where that path is on, else unchanged.

    ``lengths_vary``: its input's length changes from step to step. It is then compiled once for
    all lengths, and not replayed as a CUDA graph, since each length would need its own.
    """
    if not speed.compile:
        return function
    if lengths_vary:
        return torch.compile(function, dynamic=True)
    return torch.compile(function, mode="reduce-overhead" if speed.cuda_graphs else "default")


def begin_step(speed: Speed) -> None:
    """Tell CUDA graphs that the last step's results are not needed any more."""
    if speed.cuda_graphs:
        torch.compiler.cudagraph_mark_step_begin()


def make_adam(parameters: Iterable[nn.Parameter], optimiser: Any, speed: Speed) -> torch.optim.Adam:
    """Adam with a run's settings (``config.optimiser``)."""
    return torch.optim.Adam(
        list(parameters),
        lr=optimiser.learning_rate,
        betas=tuple(optimiser.betas),
        eps=optimiser.eps,
        fused=speed.fused_adam,
    )
