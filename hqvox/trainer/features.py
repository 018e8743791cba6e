"""Features of faces that the perceptual loss compares: differentiable, of generated pictures too.

The same networks that embed faces for the build, fed from aligned pictures by fixed boxes instead
of landmarks, which a generated face does not have yet.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hqvox.errors import HqvoxError
from models.embedding.dlib_resnet import INPUT_PX, UNITS, DlibFaceNetwork, read_network
from models.embedding.facenet import ConvUnit, InceptionResnetV1, face_input, load_network
from models.errors import ModelError
from models.store import ModelStore

Features = tuple[list[torch.Tensor], torch.Tensor]
"""Maps (n, c, h, w), shallow to deep, and the L2-normalised embedding (n, dim)."""
OTHER_NETWORK = "dlib_resnet"
"""What there always is: its weights come inside a package."""
DLIB_BOX = (0.165, 0.273, 0.841, 0.949)
"""Left, top, right, bottom of dlib's face chip within the aligned picture, as fractions of its
side: the mean of 35 press photographs, made square; each edge deviates by 0.011 to 0.025."""


class FeatureNetwork(Protocol):
    """A frozen face network whose features have gradients to the picture."""

    name: str
    dim: int
    """Of the embedding."""

    def features(self, unit_pictures: torch.Tensor) -> Features:
        """Three maps and the embedding of RGB (n, 3, px, px), 0 to 1, in HQ-VoxCeleb's geometry.

        Values outside 0 to 1, which generators give, are taken as they are.
        """
        ...


class FaceNetFeatures:
    """FaceNet's, after its three residual groups, as SF2F's perceptual loss takes them."""

    name = "facenet_vggface2"

    def __init__(self, network: InceptionResnetV1, device: torch.device | str = "cpu") -> None:
        """``network``: with its weights; its batch norms are folded into its convolutions."""
        self.network = _folded(network.eval()).requires_grad_(False).to(device)
        self.dim = network.last_linear.out_features

    def features(self, unit_pictures: torch.Tensor) -> Features:
        """Return maps (n, 256 | 896 | 1792, h, w) and the embedding (n, 512)."""
        *maps, embedding = self.network.features(face_input(unit_pictures))
        return maps, embedding


class DlibFeatures:
    """dlib's face ResNet's, after the levels of 64, 128 and 256 channels."""

    name = "dlib_resnet"

    def __init__(self, network: DlibFaceNetwork, device: torch.device | str = "cpu") -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.dim = network.fc.out_features
        ends = [sum(count for _, count, _ in UNITS[: level + 1]) for level in range(len(UNITS))]
        self._maps_after = ends[1:4]

    def features(self, unit_pictures: torch.Tensor) -> Features:
        """Return maps (n, 64 | 128 | 256, h, w) and the embedding (n, 128)."""
        return self.of_chips(dlib_input(unit_pictures))

    def of_chips(self, chips: torch.Tensor) -> Features:
        """As :meth:`features`, of RGB chips (n, 3, 150, 150), 0 to 255."""
        network = self.network
        x = F.max_pool2d(F.relu(network.conv((chips - network.mean) / 256.0)), 3, stride=2)
        maps = []
        for done, unit in enumerate(network.units, 1):
            x = unit(x)
            if done in self._maps_after:
                maps.append(x)
        return maps, F.normalize(network.fc(x.mean(dim=(2, 3))).float(), dim=1)


def _folded(network: InceptionResnetV1) -> InceptionResnetV1:
    """The network without batch norms after convolutions: a pass over memory less for each."""
    for unit in [module for module in network.modules() if isinstance(module, ConvUnit)]:
        unit.conv = fuse_conv_bn_eval(unit.conv, unit.bn)
        unit.bn = nn.Identity()  # type: ignore[assignment]
    return network


def dlib_input(unit_pictures: torch.Tensor) -> torch.Tensor:
    """Make dlib's input of aligned pictures, differentiably: (n, 3, 150, 150), 0 to 255.

    ``unit_pictures``: RGB (n, 3, px, px), 0 to 1. Bilinear, by one matrix along each axis, which
    is the same on every device and has gradients without atomic sums.
    """
    left, top, right, bottom = DLIB_BOX
    height, width = unit_pictures.shape[-2:]
    rows = _resampling(height, top, bottom, unit_pictures.device)
    columns = _resampling(width, left, right, unit_pictures.device)
    with torch.autocast(unit_pictures.device.type, enabled=False):
        return (rows @ (unit_pictures.float() * 255.0)) @ columns.T


@cache
def _resampling(side: int, low: float, high: float, device: torch.device) -> torch.Tensor:
    """Bilinear weights (150, side) from a side's pixels to those of a chip from low to high."""
    with torch.inference_mode(False):  # They stay, and are differentiated through later.
        return _bilinear(side, low, high, device)


def _bilinear(side: int, low: float, high: float, device: torch.device) -> torch.Tensor:
    centres = low + (high - low) * (torch.arange(INPUT_PX, device=device) + 0.5) / INPUT_PX
    at = (centres * side - 0.5).clamp(0, side - 1)
    pixels = torch.arange(side, device=device)
    return (1 - (at[:, None] - pixels).abs()).clamp(min=0)


def load_features(
    name: str, device: torch.device | str = "cpu", store: ModelStore | None = None
) -> FeatureNetwork:
    """The network of the perceptual loss, frozen, on a device.

    Raises HqvoxError where its weights cannot be had, naming what gets them and what else will do.
    """
    store = store or ModelStore()
    try:
        path = store.path(name)
        if name == DlibFeatures.name:
            return DlibFeatures(read_network(path), device)
        return FaceNetFeatures(load_network(path), device)
    except ModelError as error:
        other = (
            f", or take another network with --set loss.perceptual.network={OTHER_NETWORK}"
            if name != OTHER_NETWORK
            else ""
        )
        pull = f"hqvox models pull {name}"
        remedy = "" if pull in str(error) else f"; run `{pull}`"
        raise HqvoxError(f"the perceptual loss needs {name}: {error}{remedy}{other}") from None
