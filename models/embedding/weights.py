"""Weight files into networks: read without running code, checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from models.errors import ModelError
from models.torch_file import read_torch_file


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Read a torch file of named tensors without running code from it.

    Raises ModelError where the file is damaged, holds anything but tensors by name, or would need
    code to be run.
    """
    content = read_torch_file(path)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise ModelError(f"{path}: holds something else than tensors by name; fetch it again")
    return content


def fill(network: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path, what: str) -> None:
    """Give ``network`` the tensors of ``path``, all of them, after names and shapes are checked.

    ``num_batches_tracked`` counters, which inference does not use, may be there or not. Raises
    ModelError naming the first few names that are missing, too many, misshapen or not finite.
    """
    wanted = network.state_dict()
    given = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    needed = {k: v for k, v in wanted.items() if not k.endswith("num_batches_tracked")}
    _refuse(path, what, "lacks", sorted(needed.keys() - given.keys()))
    _refuse(path, what, "has unknown", sorted(given.keys() - needed.keys()))
    misshapen = [
        f"{k} {tuple(given[k].shape)} instead of {tuple(v.shape)}"
        for k, v in needed.items()
        if given[k].shape != v.shape
    ]
    _refuse(path, what, "has misshapen", misshapen)
    broken = [
        k for k, v in given.items() if not v.is_floating_point() or not bool(v.isfinite().all())
    ]
    _refuse(path, what, "has numbers that are not finite floats in", broken)
    network.load_state_dict({k: v.float() for k, v in given.items()}, strict=False)


def _refuse(path: Path, what: str, fault: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        raise ModelError(f"{path} is not {what}: {fault} {shown}; fetch the file again")
