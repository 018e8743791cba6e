"""``gfpgan_v1_4``: GFPGAN, AVP-GAN's image enhancement module (its section 3.3).

Wang et al. 2021, "Towards real-world blind face restoration with generative facial prior". The
architecture is the "clean" one of the package ``spandrel``; its sizes are read from the tensors,
so a narrower network of the same names loads too. Files hold the generator only, as
``params_ema``.

GFPGAN has learnt faces in the geometry of FFHQ, whose eyes are not quite where ours are. A fixed
box takes pictures there, and another one back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.errors import ModelError
from models.geometry import ALIGNED_LEFT_EYE, ALIGNED_RIGHT_EYE, IPD_PER_SIDE
from models.inference import fill_batch, pick_device
from models.resampling import Box, cut_box
from models.store import ModelStore
from models.weight_files import fill, read_torch_file

NAME = "gfpgan_v1_4"
KEY = "params_ema"
"""Key of the generator's tensors in a file, as published."""
FFHQ_IPD_PER_SIDE = 0.246
"""Distance of the eyes in the FFHQ template, as a fraction of the side."""
FFHQ_EYES = (0.5, 0.469)
"""Middle between the eyes in the FFHQ template, as fractions of width and height."""
CPU_BATCH, GPU_BATCH = 1, 16
"""Pictures that are enhanced at a time; at 512 px more than one do not fit a CPU's caches."""


def _ffhq_box() -> Box:
    """FFHQ's picture as a box in HQ-VoxCeleb's."""
    side = IPD_PER_SIDE / FFHQ_IPD_PER_SIDE
    left = (ALIGNED_LEFT_EYE[0] + ALIGNED_RIGHT_EYE[0]) / 2 - FFHQ_EYES[0] * side
    top = ALIGNED_LEFT_EYE[1] - FFHQ_EYES[1] * side
    return left, top, left + side, top + side


def _inverse(box: Box) -> Box:
    """The whole picture as a box in the picture that ``box`` cuts out."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return -left / width, -top / height, (1 - left) / width, (1 - top) / height


FFHQ_BOX = _ffhq_box()
OUR_BOX = _inverse(FFHQ_BOX)


def to_ffhq(pictures: torch.Tensor, side_px: int) -> torch.Tensor:
    """Pictures (n, 3, px, px) in HQ-VoxCeleb's geometry to (n, 3, side, side) in FFHQ's."""
    return cut_box(pictures, FFHQ_BOX, side_px)


def from_ffhq(pictures: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`to_ffhq`; the outermost 1 to 2 % repeat the border."""
    return cut_box(pictures, OUR_BOX, pictures.shape[-1])


def restore(network: nn.Module, pictures: torch.Tensor, stored_noise: bool = True) -> torch.Tensor:
    """What the network makes of RGB (n, 3, side, side), 0 to 1, in FFHQ's geometry.

    Same shape; values may lie outside 0 to 1. ``stored_noise``: one picture always gives one
    result; False, as in training: new noise each time.
    """
    restored: torch.Tensor = network(
        pictures * 2 - 1, return_rgb=False, randomize_noise=not stored_noise
    )[0]
    return restored * 0.5 + 0.5


class FaceEnhancer:
    """Enhances generated faces; ``name`` says by which weights."""

    def __init__(self, network: nn.Module, name: str = NAME, device: str | None = "cpu") -> None:
        """Put ``network`` on ``device``, frozen. Raises ModelError where the device is missing.

        ``device``: see :func:`models.inference.pick_device`.
        """
        self.name = name
        self.network = network.eval().requires_grad_(False).to(pick_device(device))
        self.side_px = side_of(network)
        """Side of the enhanced pictures; 512 as published."""
        self._device = next(network.parameters()).device
        self._batch = CPU_BATCH if self._device.type == "cpu" else GPU_BATCH

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Enhance RGB (n, 3, px, px), 0 to 1, in HQ-VoxCeleb's geometry, of any side.

        Returns (n, 3, side, side) in the same geometry, 0 to 1, on the device of ``pictures``.
        Pictures are enhanced a batch of constant size at a time, so on the CPU a picture's result
        does not depend on the others.
        """
        enhanced = []
        with torch.inference_mode():
            for some in pictures.split(self._batch):
                given = to_ffhq(fill_batch(some.to(self._device), self._batch), self.side_px)
                restored = restore(self.network, given).clamp(0, 1)
                enhanced.append(from_ffhq(restored)[: len(some)].clamp(0, 1).to(pictures.device))
        if not enhanced:
            raise ModelError("no pictures to enhance")
        return torch.cat(enhanced)


def load_enhancer(
    where: Path | None = None, device: str | None = "cpu", store: ModelStore | None = None
) -> FaceEnhancer:
    """The published GFPGAN, or that of a file of the same names; nothing is downloaded.

    Raises ModelError, in one line: weights missing (with the command that gets them), not
    GFPGAN's, ``spandrel`` not installed, or a device that cannot be used.
    """
    path = published(store or ModelStore()) if where is None else where
    return FaceEnhancer(load_network(path), NAME if where is None else where.stem, device)


def published(store: ModelStore) -> Path:
    """The published checkpoint. Raises ModelError with the command that gets it."""
    if not store.present(NAME):
        raise ModelError(f"weights '{NAME}' are missing: run `hqvox models pull {NAME}`")
    return store.path(NAME)


def load_network(path: Path) -> nn.Module:
    """GFPGAN with the weights of a file, on the CPU.

    Raises ModelError where the file is not GFPGAN's clean generator by names and shapes, and where
    ``spandrel`` is not installed.
    """
    content = read_torch_file(path)
    tensors = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(tensors, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in tensors.values()
    ):
        raise ModelError(f"{path} is not GFPGAN's generator: lacks {KEY}; fetch the file again")
    network = build_network(**_sizes(tensors, path))
    fill(network, tensors, path, "GFPGAN's clean generator")
    return network


def build_network(
    *, out_size: int = 512, num_style_feat: int = 512, num_mlp: int = 8,
    narrow: float = 1.0, channel_multiplier: float = 2.0,
) -> nn.Module:  # fmt: skip
    """GFPGAN with random weights; sizes by default as published (86 million parameters).

    Raises ModelError where ``spandrel`` is not installed.
    """
    try:
        from spandrel.architectures.GFPGAN import GFPGAN
    except ImportError as error:
        raise ModelError(f"GFPGAN needs spandrel: pip install 'hqvox[enhance]' ({error})") from None
    network: nn.Module = GFPGAN(
        out_size=out_size,
        num_style_feat=num_style_feat,
        num_mlp=num_mlp,
        narrow=narrow,
        channel_multiplier=channel_multiplier,
        input_is_latent=True,
        different_w=True,
        sft_half=True,
    )
    return network


def side_of(network: nn.Module) -> int:
    """Side of a GFPGAN's pictures, px."""
    return 2 ** (len(network.toRGB) + 2)  # type: ignore[arg-type]


def _sizes(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """The arguments of :func:`build_network` that fit the tensors."""
    style = "stylegan_decoder.style_mlp.{}.weight"
    levels = sum(bool(re.fullmatch(r"toRGB\.\d+\.weight", name)) for name in tensors)
    mlp = [name for name in tensors if re.fullmatch(style.format(r"\d+"), name)]
    try:
        smallest = tensors["stylegan_decoder.constant_input.weight"].shape[1]
        sizes = {
            "out_size": 2 ** (levels + 2),
            "num_style_feat": tensors[style.format(1)].shape[1],
            "num_mlp": len(mlp),
            "narrow": smallest / 512,
        }
        # 64 px and above have a width of their own: the decoder's convolution after 64 px.
        at_64 = "stylegan_decoder.style_convs.6.modulated_conv.weight"
        if levels >= 4:
            sizes["channel_multiplier"] = 2 * tensors[at_64].shape[1] / smallest
    except (KeyError, IndexError) as error:
        raise ModelError(
            f"{path} is not GFPGAN's clean generator: lacks {error}; fetch the file again"
        ) from None
    if not 1 <= levels <= 8:
        raise ModelError(f"{path} is not GFPGAN's clean generator: {levels} resolutions")
    return sizes
