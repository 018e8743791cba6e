"""``inception_v3``: the ImageNet classifier of the Inception Score and of FID.

Szegedy et al. 2015, with the weights that torchvision publishes; they are Google's, carried over.
Scores by other ports of Inception differ in the second digit, and FIDs are on another scale than
those by the TensorFlow graph of 2015: compare only what one network measured.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torchvision.models.inception import Inception3

from models.inference import on_device
from models.weight_files import fill, read_checkpoint

INPUT_PX = 299
CLASSES = 1000
FEATURE_DIM = 2048


class InceptionV3:
    """Probabilities of ImageNet's classes, and the features before them."""

    name = "inception_v3"
    classes = CLASSES

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        """Read torchvision's file; ModelError where it is another or the device is missing."""
        network = Inception3(num_classes=CLASSES, aux_logits=True, init_weights=False)
        fill(network, read_checkpoint(weights), weights, "torchvision's Inception v3")
        self._classify = network.fc
        network.fc = torch.nn.Identity()
        self._network = on_device(network, device)
        self._classify = on_device(self._classify, device)
        self._device = device

    def __call__(
        self, pictures: torch.Tensor, batch_size: int = 32
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return probabilities (n, 1000), rows summing to 1, and features (n, 2048).

        ``pictures``: RGB (n, 3, h, w), 0 to 1; resized bilinearly to 299 × 299 and scaled to -1…1,
        as the published Inception Score codes for torch do.
        """
        probabilities, features = [], []
        with torch.inference_mode():
            for batch in pictures.split(batch_size):
                x = batch.to(self._device).float()
                x = F.interpolate(x, (INPUT_PX, INPUT_PX), mode="bilinear", align_corners=False)
                rows = self._network(x * 2.0 - 1.0)
                features.append(rows.cpu().numpy())
                probabilities.append(self._classify(rows).softmax(dim=1).cpu().numpy())
        if not probabilities:
            return np.zeros((0, CLASSES), np.float32), np.zeros((0, FEATURE_DIM), np.float32)
        return np.concatenate(probabilities), np.concatenate(features)
