"""``facenet_vggface2``: FaceNet embeddings of faces in HQ-VoxCeleb's geometry.

For the build (an embedder of photos) and for training (a differentiable network and its input
from generated pictures, as SF2F's released code makes it). The weights are MIT-licensed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from models.embedding.inception_resnet_v1 import EMBEDDING_DIM, InceptionResnetV1
from models.embedding.inference import BatchRunner, Precision, warp_crop
from models.embedding.weights import fill, read_checkpoint
from models.geometry import aligned_transform, eye_centres
from models.protocols import Photo

INPUT_PX = 140
FACE_BOX = (0.235, 0.195, 0.765, 0.915)
"""Left, top, right, bottom of the face within the aligned picture, as fractions of its side: the
average VGGFace2 box (SF2F's released code)."""


def face_input(pictures: torch.Tensor) -> torch.Tensor:
    """Make FaceNet's input of aligned pictures, differentiably, as SF2F's released code does.

    ``pictures``: RGB (n, 3, h, w), 0 to 1, faces in HQ-VoxCeleb's geometry. Returns the face box
    (edges rounded down, both included), standardised as (x - 127.5) / 128 on the scale of 0 to
    255, resized bilinearly with aligned corners to (n, 3, 140, 140).
    """
    height, width = pictures.shape[-2:]
    left, top, right, bottom = FACE_BOX
    rows = slice(int(top * height), int(bottom * height) + 1)
    columns = slice(int(left * width), int(right * width) + 1)
    face = (pictures[..., rows, columns] * 255.0 - 127.5) / 128.0
    return F.interpolate(face, size=(INPUT_PX, INPUT_PX), mode="bilinear", align_corners=True)


def load_network(path: Path) -> InceptionResnetV1:
    """Return the network with the published weights, in evaluation mode, on the CPU.

    Raises ModelError where the file is not the VGGFace2 checkpoint by names and shapes.
    """
    network = InceptionResnetV1()
    fill(network, read_checkpoint(path), path, "FaceNet's VGGFace2 checkpoint")
    return network.eval()


class FaceNet:
    """512-d embedding, L2-normalised; a ``FaceEmbedder``."""

    name = "facenet_vggface2"
    dim = EMBEDDING_DIM
    same_person_cosine = 0.6
    """Not measured here, since the weights cannot be had offline: the cosine distance of 0.40 that
    the deepface package uses for FaceNet. Measure with ``benchmarks/identity.py --network``."""

    def __init__(
        self, weights: Path, device: str = "cpu", precision: Precision = "float32"
    ) -> None:
        """Read the published checkpoint; ModelError where it is not that or the device is not."""
        self._network = load_network(weights)
        self._run = BatchRunner(self._network, device, precision)

    def crop(self, photo: Photo, landmarks_xy: NDArray[np.float32]) -> Photo:
        """Cut the face box of the aligned picture, RGB uint8 (140, 140, 3), black outside.

        Landmarks (68, 2) in photo pixels. The same box as ``face_input``, straight from the photo
        so that the photo's resolution is kept.
        """
        matrix, side = aligned_transform(eye_centres(landmarks_xy))
        left, top, right, bottom = (side * edge - 0.5 for edge in FACE_BOX)
        # Corner pixel centres of the crop on the box's corner pixel centres: aligned corners.
        scale = np.diag([(INPUT_PX - 1) / (right - left), (INPUT_PX - 1) / (bottom - top)])
        to_crop = scale @ (matrix - np.array([[0.0, 0.0, left], [0.0, 0.0, top]]))
        return warp_crop(photo, to_crop, (INPUT_PX, INPUT_PX))

    def __call__(self, crops: Sequence[Photo]) -> NDArray[np.float32]:
        """Return embeddings float32 (n, 512) of crops made by ``crop``."""
        if not len(crops):
            return np.zeros((0, self.dim), np.float32)
        return self._run(crops, lambda x: self._network((x - 127.5) / 128.0), INPUT_PX)
