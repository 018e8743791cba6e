"""2DFAN-4: 68 landmarks from heatmaps, for all faces of a batch at once.

A. Bulat and G. Tzimiropoulos, "How far are we from solving the 2D & 3D face alignment problem?",
ICCV 2017, as the ``face-alignment`` package runs it. The package feeds its network face by face;
here it runs once for the faces of all photos of a batch, and the heatmaps are read with arrays.
The results are the package's, rounding to whole pixels included.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from face_alignment.models.fan import FAN
from face_alignment.utils import CENTER_Y_OFFSET, SCALE_FACTOR, crop, flip
from numpy.typing import NDArray

from models.errors import ModelError
from models.inference import on_device
from models.landmarks.detectors import Boxes, Detector
from models.protocols import Faces, Photo
from models.weight_files import fill, read_checkpoint

Precision = Literal["float32", "bfloat16"]

CROP_PX = 256
HEATMAP_PX = 64
MIN_BOX_PX = 4


class Fan:
    """A face detector followed by 2DFAN-4."""

    def __init__(
        self,
        name: str,
        weights: Path,
        detector: Detector,
        device: str = "cpu",
        precision: Precision = "float32",
        batch_size: int | None = None,
    ) -> None:
        """Load the network from ``weights`` (a torch file of its tensors by name).

        ``batch_size``: faces per pass, each seen twice (as it is and mirrored); by default 32 on a
        GPU and 1 on the CPU, where more are no faster and one face at a time gives the same bits
        whatever else there is. Raises ModelError where the file is not a 2DFAN-4 or the device or
        precision is not available.
        """
        if precision not in ("float32", "bfloat16"):
            raise ModelError(f"precision '{precision}' is unknown; use float32 or bfloat16")
        network = FAN(4)
        fill(network, read_checkpoint(weights), weights, "a 2DFAN-4")
        self.name = name
        self._bfloat16 = precision == "bfloat16"
        layout = torch.channels_last if self._bfloat16 else torch.contiguous_format
        self._network = on_device(network, device).to(memory_format=layout)
        self._device = torch.device(device)
        self._detector = detector
        self._batch_size = batch_size or (1 if self._device.type == "cpu" else 32)

    def __call__(self, photos: Sequence[Photo]) -> list[Faces]:
        """Return the faces of each photo, in the photos' own pixel coordinates."""
        per_photo = [
            _best_first(_croppable(boxes, photo))
            for boxes, photo in zip(self._detector(photos), photos, strict=True)
        ]
        boxes = np.concatenate(per_photo) if per_photo else np.zeros((0, 5))
        owners = [photo for photo, faces in zip(photos, per_photo, strict=True) for _ in faces]
        landmarks = self.landmarks(owners, boxes[:, :4])
        ends = np.cumsum([len(faces) for faces in per_photo])[:-1]
        return [
            Faces(
                boxes_xyxy=faces[:, :4].astype(np.float32),
                scores=faces[:, 4].astype(np.float32),
                landmarks_xy=points,
            )
            for faces, points in zip(
                per_photo, np.split(landmarks, ends) if per_photo else [], strict=True
            )
        ]

    def landmarks(
        self, photos: Sequence[Photo], boxes_xyxy: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """Return landmarks (n, 68, 2) of n faces: ``photos[i]`` has the box ``boxes_xyxy[i]``."""
        centres, scales = crop_frames(boxes_xyxy, self._detector.reference_scale)
        points = [np.zeros((0, 68, 2), np.float32)]
        for start in range(0, len(photos), self._batch_size):
            part = slice(start, start + self._batch_size)
            crops = np.stack(
                [
                    crop(photo, centre, float(scale), CROP_PX)
                    for photo, centre, scale in zip(
                        photos[part], centres[part], scales[part], strict=True
                    )
                ]
            )
            points.append(decode(self.heatmaps(crops), centres[part], scales[part]))
        return np.concatenate(points)

    def heatmaps(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return heatmaps (n, 68, 64, 64) of RGB crops (n, 256, 256, 3), mirrored ones added."""
        pixels = torch.from_numpy(crops).to(self._device).permute(0, 3, 1, 2).float() / 255.0
        both = torch.cat([pixels, flip(pixels)])
        if self._bfloat16:
            both = both.contiguous(memory_format=torch.channels_last)
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16),
        ):
            straight, mirrored = self._network(both)[-1].float().chunk(2)
            summed = straight + flip(mirrored, is_label=True)
        return np.asarray(summed.cpu().numpy(), np.float32)


def crop_frames(
    boxes_xyxy: NDArray[np.floating], reference_scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centre (n, 2) and scale (n,) of FAN's crops, 200 · scale pixels wide, of boxes."""
    boxes = np.asarray(boxes_xyxy, np.float64)
    size = boxes[:, 2:] - boxes[:, :2]
    centres = boxes[:, 2:] - size / 2
    centres[:, 1] -= size[:, 1] * CENTER_Y_OFFSET
    return centres, size.sum(axis=1) / reference_scale


def decode(
    heatmaps: NDArray[np.float32], centres: NDArray[np.floating], scales: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Read landmarks (n, 68, 2), in whole photo pixels, off heatmaps (n, 68, 64, 64).

    The highest cell, moved by a quarter of a cell towards its higher neighbours, and back through
    the crop's frame, cut to whole pixels as the package does.
    """
    n, points = heatmaps.shape[:2]
    flat = heatmaps.reshape(n, points, -1)
    best = flat.argmax(axis=-1)
    y, x = np.divmod(best, HEATMAP_PX)
    inside = (x > 0) & (x < HEATMAP_PX - 1) & (y > 0) & (y < HEATMAP_PX - 1)

    def towards_higher(step: int) -> NDArray[np.float64]:
        reach = np.where(inside, step, 0)
        after, before = (
            np.take_along_axis(flat, (best + way * reach)[..., None], axis=-1)[..., 0]
            for way in (1, -1)
        )
        return 0.25 * np.sign(after - before)

    cells = np.stack([x + towards_higher(1), y + towards_higher(HEATMAP_PX)], axis=-1) + 0.5
    width = SCALE_FACTOR * np.asarray(scales, np.float64)[:, None, None]
    photo = cells * (width / HEATMAP_PX) + np.asarray(centres, np.float64)[:, None] - width / 2
    return np.trunc(photo).astype(np.float32)


def _croppable(boxes: Boxes, photo: Photo) -> Boxes:
    """Drop boxes that no crop can be cut for: tiny ones, and those centred outside the photo."""
    centres = (boxes[:, :2] + boxes[:, 2:4]) / 2
    within = ((centres >= 0) & (centres < photo.shape[1::-1])).all(axis=1)
    return boxes[within & (boxes[:, 2:4] - boxes[:, :2] >= MIN_BOX_PX).all(axis=1)]


def _best_first(boxes: Boxes) -> Boxes:
    return boxes[np.argsort(-boxes[:, 4], kind="stable")]
