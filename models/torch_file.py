"""Reading files that torch wrote, without running code from them."""

from __future__ import annotations

from pathlib import Path

import torch

from models.errors import ModelError


def read_torch_file(path: Path) -> object:
    """Return what a torch file holds: tensors and plain values, nested as they were saved.

    Raises ModelError where the file is damaged, or where code would have to run to read it.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: not a torch weight file ({reason}); fetch it again") from error
