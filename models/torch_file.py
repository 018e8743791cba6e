"""Reading files that torch wrote, without running code from them."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import torch

from models.errors import ModelError


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
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise ModelError(f"{path}: not a torch weight file; fetch it again") from error
        raise ModelError(
            f"{path}: not a torch weight file: it holds {found[1]}, which is neither tensor nor "
            "plain value and would run code when read; save the tensors alone"
        ) from error
    except Exception as error:  # torch raises a dozen kinds for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path}: not a torch weight file ({reason}); fetch it again") from error
