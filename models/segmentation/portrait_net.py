"""The portrait PSPNet: its network, and its weight file.

A pyramid scene parsing network (Zhao et al., CVPR 2017) as ``segmentation_models_pytorch`` builds
it, on the first two residual groups of ResNet-18, so that features stay at an eighth of the input.
Two channels beside the colours give every pixel its place in the crop: aligned crops have the
head at one place, and the network need not find it first.
"""

from __future__ import annotations

from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from models.errors import ModelError

STRIDE = 8
FORMAT = "hqvox pspnet_portrait 1"
COLOUR_MEAN = 0.5
COLOUR_STD = 0.25


class PortraitNet(nn.Module):
    """PSPNet over colours and coordinates; RGB 0 to 1 in, person logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.pspnet = smp.PSPNet(
            "resnet18",
            encoder_weights=None,
            encoder_depth=3,
            psp_out_channels=128,
            psp_dropout=0.2,
            in_channels=5,
            classes=1,
            upsampling=STRIDE,
        )
        # Groups beyond that depth are never run; their 10 million weights need not be shipped.
        self.pspnet.encoder.layer3 = nn.Identity()
        self.pspnet.encoder.layer4 = nn.Identity()

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return logits (n, 1, side, side) of RGB pictures (n, 3, side, side) in 0 to 1.

        ``side`` is a multiple of 8.
        """
        n, _, height, width = rgb.shape
        colours = (rgb - COLOUR_MEAN) / COLOUR_STD
        ys = torch.linspace(-1, 1, height, device=rgb.device, dtype=rgb.dtype)
        xs = torch.linspace(-1, 1, width, device=rgb.device, dtype=rgb.dtype)
        place = torch.stack(torch.meshgrid(ys, xs, indexing="ij")).expand(n, 2, height, width)
        logits: torch.Tensor = self.pspnet(torch.cat([colours, place], dim=1))
        return logits


def _stored(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def save_network(network: PortraitNet, path: Path) -> None:
    """Write the weights as safetensors: float16, batch-norm statistics float32."""
    tensors = {
        key: value.float() if "running_" in key else value.half()
        for key, value in _stored(network.state_dict()).items()
    }
    save_file({k: v.contiguous() for k, v in tensors.items()}, path, metadata={"format": FORMAT})


def load_network(path: Path) -> PortraitNet:
    """Return the network with the weights of ``path``, float32, in evaluation mode.

    Raises ModelError where the file is no safetensors file, or a tensor is missing, unknown or of
    another shape.
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
    missing = sorted(wanted.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - wanted.keys())
    wrong = [k for k in wanted.keys() & tensors.keys() if wanted[k].shape != tensors[k].shape]
    if missing or unknown or wrong:
        raise ModelError(
            f"{path}: not the weights of pspnet_portrait: "
            + "; ".join(
                f"{len(names)} {what} ({', '.join(sorted(names)[:3])})"
                for what, names in (
                    ("missing", missing),
                    ("unknown", unknown),
                    ("of another shape", wrong),
                )
                if names
            )
        )
    network.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    return network.eval()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
