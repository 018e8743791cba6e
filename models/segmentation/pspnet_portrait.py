"""``pspnet_portrait``: person masks of aligned crops by our own small PSPNet, bundled.

A pyramid scene parsing network (Zhao et al., CVPR 2017) as ``segmentation_models_pytorch`` builds
it, on EfficientNet-Lite0 (Tan and Le, ICML 2019) up to its fifth stage, the last two dilated so
that features stay at an eighth of the input.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.errors import ModelError
from models.inference import MaskRunner
from models.protocols import Photo

STRIDE = 8
FORMAT = "hqvox pspnet_portrait 2"
COLOUR_MEAN = 0.5
COLOUR_STD = 0.5
STAGES = 5
"""Stages of the encoder that are run; a PSPNet uses only the last features."""
NORM_EPSILON = 1e-3
"""EfficientNet-Lite's own, which its ImageNet weights need."""


class PortraitNet(nn.Module):
    """PSPNet on EfficientNet-Lite0; RGB 0 to 1 in, person logits out."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # The library announces that this encoder will be renamed.
            warnings.filterwarnings("ignore", message="`timm-` encoders are deprecated")
            self.pspnet = smp.PSPNet(
                "timm-tf_efficientnet_lite0",
                encoder_weights=None,
                encoder_depth=4,
                output_stride=STRIDE,
                psp_out_channels=128,
                psp_dropout=0.2,
                classes=1,
                upsampling=1,
            )
        # Sides are 8 k + 1, see forward.
        self.pspnet.requires_divisible_input_shape = False
        encoder = self.pspnet.encoder
        # Later stages are never run; their 2.5 million weights are not shipped.
        for stage in range(STAGES, len(encoder.blocks)):
            encoder.blocks[stage] = nn.Identity()
        encoder.conv_head, encoder.bn2 = nn.Identity(), nn.Identity()
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = NORM_EPSILON

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 1, side, side) of RGB pictures (n, 3, side, side) in 0 to 1.

        ``side`` is 8 k + 1: every halving then keeps the outermost pixels, so features lie on a
        grid from corner to corner, the same for a picture and its mirror image.
        """
        logits = self.pspnet((rgb - COLOUR_MEAN) / COLOUR_STD)
        return nn.functional.interpolate(logits, rgb.shape[2:], mode="bilinear", align_corners=True)

    def start_from_imagenet(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take the encoder's weights from ``tensors``, by timm's names.

        Raises ModelError where a tensor is missing, unknown or of another shape.
        """
        encoder = self.pspnet.encoder
        check_tensors(tensors, _stored(encoder.state_dict()), "not EfficientNet-Lite0's weights")
        encoder.load_state_dict(tensors, strict=False)

    def early_layers(self) -> list[nn.Module]:
        """Return the encoder's layers at a half and a quarter of the input's resolution."""
        encoder = self.pspnet.encoder
        return [encoder.conv_stem, encoder.bn1, encoder.blocks[0], encoder.blocks[1]]


def _stored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def check_tensors(
    tensors: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], what: str
) -> None:
    """Raise ModelError, starting with ``what``, where names or shapes differ from ``wanted``."""
    problems = {
        "missing": wanted.keys() - tensors.keys(),
        "unknown": tensors.keys() - wanted.keys(),
        "of another shape": {
            k for k in wanted.keys() & tensors.keys() if wanted[k].shape != tensors[k].shape
        },
    }
    if any(problems.values()):
        raise ModelError(
            f"{what}: "
            + "; ".join(
                f"{len(names)} {problem} ({', '.join(sorted(names)[:3])})"
                for problem, names in problems.items()
                if names
            )
        )


def save_network(network: PortraitNet, path: Path) -> None:
    """Write the weights as safetensors: float16, batch-norm statistics float32."""
    tensors = {
        key: value.float() if "running_" in key else value.half()
        for key, value in _stored(network.state_dict()).items()
    }
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"format": FORMAT})


def load_network(path: Path) -> PortraitNet:
    """Return the network with the weights of ``path``, float32, in evaluation mode.

    Raises ModelError where the file is no safetensors file, or a tensor is missing, unknown, of
    another shape or not finite.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: not a readable safetensors file ({_one_line(error)}); "
            "fetch it again with `hqvox models pull pspnet_portrait`"
        ) from None
    network = PortraitNet()
    wanted = _stored(network.state_dict())
    check_tensors(tensors, wanted, f"{path}: not the weights of pspnet_portrait")
    for name, tensor in tensors.items():
        if not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise ModelError(f"{path}: tensor {name} holds values that are not finite floats")
    network.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    return network.eval()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


NETWORK_SIDE = 193
"""The network sees every crop at this size, 8 k + 1; chosen on the validation photographs."""


class PortraitMasker:
    """Person probability in crops whose eyes are where HQ-VoxCeleb has them.

    The network's logits for the crop and its mirror image are averaged.
    """

    name = "pspnet_portrait"
    input_px = 256

    def __init__(self, weights: Path, device: str = "cpu", fast: bool = False) -> None:
        """Load ``weights``; ``fast`` runs bfloat16 and channels-last (meant for CUDA)."""
        self._run = MaskRunner(load_network(weights), device, fast, channels_last=True)

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return person probability, float32 (n, 256, 256), 0 to 1, for square RGB crops."""
        return self._run(crops, self.input_px, self._probability)

    @staticmethod
    def _probability(network: nn.Module, rgb: torch.Tensor) -> torch.Tensor:
        size = (NETWORK_SIDE, NETWORK_SIDE)
        small = nn.functional.interpolate(rgb, size, mode="bilinear", antialias=True)
        logits = (network(small) + network(small.flip(3)).flip(3)) / 2
        whole = nn.functional.interpolate(logits.float(), rgb.shape[2:], mode="bilinear")
        return whole[:, 0].sigmoid()
