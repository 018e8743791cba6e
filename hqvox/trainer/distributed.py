"""Training one model by several processes, started by torchrun; equal to one within rounding.

Every process has the whole model and takes its slice of each global batch. Gradients are averaged
explicitly after each backward pass; DistributedDataParallel is not made for an iteration in which
several networks run through each other's losses. Batch norm takes its statistics over the global
batch, as in one process.
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

from models.inference import pick_device


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one training run, as one of them sees them."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leader(self) -> bool:
        """Whether this process writes files and shows progress: rank 0."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """The device's name, to be shown."""
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
        """Whether ``flag`` is true in any process; waits for all of them."""
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def synchronise(self, network: nn.Module) -> nn.Module:
        """Make batch norms take their statistics over all processes; unchanged with only one."""
        if self.size == 1:
            return network
        if self.device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return _convert(network)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run the block in the leader first, then in the others, which find what it wrote."""
        if self.size > 1 and not self.leader:
            dist.barrier()
        yield
        if self.size > 1 and self.leader:
            dist.barrier()


@contextmanager
def join(device: str | None = None) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, or run as the only one.

    ``device``: see :func:`models.inference.pick_device`. Raises ModelError where it is missing.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", 0)))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield ProcessGroup(chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(chosen, rank, size)
    finally:
        dist.destroy_process_group()


class GlobalBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes, in plain torch: torch's ``SyncBatchNorm`` does
    not run on CPUs. All processes have batches of the same size.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Accept any shape (n, channels, ...)."""

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
    """Replace every batch norm of the network by a global one with the same state."""
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
