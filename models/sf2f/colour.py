"""Pictures as the networks see them: RGB, normalised by ImageNet's mean and deviation."""

from __future__ import annotations

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_unit(pictures: torch.Tensor, clamped: bool = False) -> torch.Tensor:
    """Return ImageNet-normalised RGB (n, 3, h, w) on the scale of 0 to 1.

    A generator has no activation at its end: values may lie outside, unless ``clamped``.
    Differentiable; clamped, it has no gradient outside.
    """
    unit = pictures * _channels(IMAGENET_STD, pictures) + _channels(IMAGENET_MEAN, pictures)
    return unit.clamp(0.0, 1.0) if clamped else unit


def from_unit(pictures: torch.Tensor) -> torch.Tensor:
    """Return RGB (n, 3, h, w) of 0 to 1 ImageNet-normalised; the inverse of ``to_unit``."""
    return (pictures - _channels(IMAGENET_MEAN, pictures)) / _channels(IMAGENET_STD, pictures)


def from_signed(pictures: torch.Tensor) -> torch.Tensor:
    """Return RGB (n, 3, h, w) of -1 to 1, as voice2face's authors scale it, normalised."""
    return from_unit(pictures * 0.5 + 0.5)


def _channels(values: tuple[float, float, float], like: torch.Tensor) -> torch.Tensor:
    return _constant(values, like.dtype, like.device)


_CONSTANTS: dict[tuple[tuple[float, ...], torch.dtype, torch.device], torch.Tensor] = {}


@torch.compiler.assume_constant_result
def _constant(
    values: tuple[float, float, float], dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return (3, 1, 1), made once: a copy at every call would make the GPU wait.

    Never an inference tensor, as a later caller may need gradients.
    """
    key = (values, dtype, device)
    if key not in _CONSTANTS:
        with torch.inference_mode(False):
            _CONSTANTS[key] = torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1)
    return _CONSTANTS[key]
