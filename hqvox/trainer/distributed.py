"""Several processes training one model: started by torchrun, equal to one within rounding.

Every process holds the whole model and takes its slice of each global batch. Gradients are averaged
by hand after each backward pass rather than by wrapping networks in DistributedDataParallel: an
iteration runs several networks through each other's losses, which the wrapper is not made for.
Batch norm takes its statistics over the global batch, as in one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from hqvox.errors import HqvoxError


@dataclass(frozen=True)
class Team:
    """The processes of one training run, seen from one of them."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leader(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """What it computes on, for people."""
        gpu = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if gpu else str(self.device)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = _flatten_dense_tensors(gradients)  # one message instead of one per parameter
        dist.all_reduce(flat)
        flat /= self.size
        torch._foreach_copy_(gradients, _unflatten_dense_tensors(flat, gradients))

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the processes; waits for all of them."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size

    def any(self, flag: bool) -> bool:
        """Whether any process says so; waits for all of them."""
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def synchronise(self, network: nn.Module) -> nn.Module:
        """Make batch norms take their statistics over all processes; alike in one process."""
        if self.size == 1:
            return network
        if self.device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return _convert(network)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leader goes through the block, then the others: what it wrote is there for them."""
        if self.size > 1 and not self.leader:
            dist.barrier()
        yield
        if self.size > 1 and self.leader:
            dist.barrier()


@contextmanager
def join(device: str | None = None) -> Iterator[Team]:
    """Take a place among the processes that torchrun started, or work alone.

    ``device``: ``cpu``, ``cuda``, ``cuda:1``; None: a GPU where there is one. Raises HqvoxError
    where the device is missing.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield Team(chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Team(chosen, rank, size)
    finally:
        dist.destroy_process_group()


def pick_device(name: str | None, local_rank: int = 0) -> torch.device:
    """The device to train on. Raises HqvoxError where it is unknown or not there."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise HqvoxError(f"--device {name}: unknown; write cpu, cuda, or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise HqvoxError(f"--device {name}: training runs on cpu or cuda")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = local_rank if device.index is None else device.index
        if index >= count:
            raise HqvoxError(
                f"--device {name}: this machine has {count} GPUs that torch can use; "
                "name another one, or cpu"
            )
        return torch.device("cuda", index)
    return device


class GlobalBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes, in plain torch: for CPUs, where torch's
    ``SyncBatchNorm`` does not run. All processes have batches of the same size.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Any shape (n, channels, ...) will do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, ...) to the same shape."""
        if not self.training:
            return super().forward(x)
        size = dist.get_world_size()
        others = [0, *range(2, x.ndim)]
        shape = (1, -1, *(1,) * (x.ndim - 2))
        mean = all_reduce(x.mean(others)) / size
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().mean(others)) / size
        if self.track_running_stats and self.running_mean is not None:
            count = x.numel() / x.shape[1] * size
            momentum = self.momentum or 0.1
            with torch.no_grad():
                assert self.running_var is not None
                assert self.num_batches_tracked is not None
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), momentum)
                self.num_batches_tracked += 1
        x = centred * torch.rsqrt(variance + self.eps).view(shape)
        return x if self.weight is None else x * self.weight.view(shape) + self.bias.view(shape)


def _convert(network: nn.Module) -> nn.Module:
    """The network with every batch norm replaced by a global one that has its state."""
    if isinstance(network, _BatchNorm):
        norm = GlobalBatchNorm(
            network.num_features,
            network.eps,
            network.momentum,
            network.affine,
            network.track_running_stats,
        )
        norm.load_state_dict(network.state_dict())
        return norm.train(network.training)
    for name, child in network.named_children():
        setattr(network, name, _convert(child))
    return network
