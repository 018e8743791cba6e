"""Speaker recognition: what a voice encoder is pretrained by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

SCALE = 16.0
"""Of the cosines, so that the softmax can come near to 1."""


class SpeakerClassifier(nn.Module):
    """Cosines of embeddings with a direction for each speaker, scaled.

    Embeddings are L2-normalised where faces are generated of them, so their directions are what
    is trained. Neither paper says how the voice network was pretrained; this is our choice.
    """

    def __init__(self, dim: int, n_identities: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(n_identities, dim) / dim**0.5)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Map L2-normalised embeddings (n, dim) to logits (n, n_identities)."""
        return SCALE * F.linear(embedding, F.normalize(self.directions, dim=1))
