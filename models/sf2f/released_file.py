"""Files of the released SF2F code's ``train.py``, read without running code from them.

It saves a dict: ``model_state`` (the generator), ``model_kwargs`` (how it was made), ``counters``,
and optimisers, discriminators, losses and pictures, which are skipped here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.errors import ModelError
from models.torch_file import read_torch_file


class _Skipped:
    """Stands for a NumPy value that is not read: takes whatever it is made of, keeps nothing."""

    def __init__(self, *made_of: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _skipped_dict(*made_of: object) -> OrderedDict[Any, Any]:
    """Stands for a ``defaultdict``, whose items are then set one by one."""
    return OrderedDict()


class _Factory:
    """Stands for a ``defaultdict``'s factory; never called."""


_STAND_INS: list[Any] = [
    (_skipped_dict, "collections.defaultdict"),
    (_Factory, "builtins.list"),
    *(
        (_Skipped, name)
        for name in (
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray.scalar",
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray._reconstruct",
            "numpy.ndarray",
            "numpy.dtype",
        )
    ),
]
"""What ``train.py`` saves beside tensors and plain values: losses and scores. None of it runs."""


def read_file(path: Path) -> Mapping[Any, Any]:
    """Return the dict that a file holds: what ``train.py`` saves, or a bare state dict.

    NumPy's numbers and arrays are stood in for, not read. Raises ModelError where the file cannot
    be read or would need code to be run.
    """
    with torch.serialization.safe_globals(_STAND_INS):
        content = read_torch_file(path)
    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: holds something else than a checkpoint; name a file of train.py")
    return content
