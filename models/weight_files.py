"""Weight files: read without running code from them, checked, and put into networks."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from models.errors import ModelError


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


def read_torch_file(path: Path) -> object:
    """Return what a torch file holds: tensors and plain values, nested as they were saved.

    Raises ModelError where the file cannot be read, is damaged, or where code would have to run
    to read it; then the message names the object in question.
    """
    try:
        with warnings.catch_warnings():  # of pickle protocols: the reader says itself what it lacks
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise ModelError(f"{path}: not a torch weight file; fetch it again") from error
        raise ModelError(
            f"{path}: not a torch weight file: it holds {named[1]}, which is neither tensor nor "
            "plain value and would run code when read; save the tensors alone"
        ) from error
    except Exception as error:  # torch raises a dozen kinds for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: not a torch weight file ({reason}); fetch it again") from error
