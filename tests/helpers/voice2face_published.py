"""voice2face as its authors released it, restated: tensors by its own names, plain mathematics.

In elementary tensor operations in float64, with nothing of ``models`` in it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tests.helpers.sf2f_published import Maker, State, norm
from tests.helpers.speech_references import speech_reference, voice2face_log_mel

VOICE = (64, 256, 384, 576, 864)
FACE = (64, 1024, 512, 256, 128, 64)


def voice_embedding(seed: int = 0) -> State:
    """A ``voice_embedding.pth``."""
    make = Maker(seed)
    for layer, (before, after) in enumerate(pairwise(VOICE)):
        make.weight(f"model.{3 * layer}.weight", after, before, 3, fan_in=before * 3)
        make.norm(f"model.{3 * layer + 1}", after)
    make.weight("model.12.weight", 64, 864, 3, fan_in=864 * 3)
    make.bias("model.12.bias", 64)
    return make.state


def generator(seed: int = 1) -> State:
    """A ``generator.pth``."""
    make = Maker(seed)
    for index, (before, after) in enumerate(pairwise(FACE)):
        make.weight(f"model.{2 * index}.weight", before, after, 4, 4, fan_in=4 * before)
        make.bias(f"model.{2 * index}.bias", after)
    make.weight("model.10.weight", 64, 3, 1, 1, fan_in=64)
    make.bias("model.10.bias", 3)
    return make.state


def embed(state: State, log_mel: torch.Tensor) -> torch.Tensor:
    """Log-mels (n, 64, t), normalised, to embeddings (n, 64) of length 1."""
    state, x = {k: v.double() for k, v in state.items()}, log_mel.double()
    for layer in range(4):
        x = F.conv1d(x, state[f"model.{3 * layer}.weight"], stride=2, padding=1)
        x = norm(x, state, f"model.{3 * layer + 1}").clamp(min=0.0)
    x = F.conv1d(x, state["model.12.weight"], state["model.12.bias"], stride=2, padding=1)
    mean = x.sum(dim=2) / x.shape[2]
    return mean / mean.pow(2).sum(dim=1, keepdim=True).sqrt()


def decode(state: State, embedding: torch.Tensor) -> torch.Tensor:
    """Embeddings (n, 64) to pictures (n, 3, 64, 64), -1 to 1 and beyond."""
    state, x = {k: v.double() for k, v in state.items()}, embedding.double()[:, :, None, None]
    for index in range(5):
        stride, padding = (1, 0) if index == 0 else (2, 1)
        weight, bias = state[f"model.{2 * index}.weight"], state[f"model.{2 * index}.bias"]
        x = F.conv_transpose2d(x, weight, bias, stride, padding).clamp(min=0.0)
    picture = torch.einsum("nchw,cd->ndhw", x, state["model.10.weight"][:, :, 0, 0])
    return picture + state["model.10.bias"][None, :, None, None]


def hear(samples: NDArray[np.int16]) -> torch.Tensor:
    """16 kHz samples to its input (1, 64, t): speech, log-mel, normalised, 10 s at least."""
    log_mel = voice2face_log_mel(speech_reference(samples, 2, 320, 2))
    log_mel = (log_mel - log_mel.mean(axis=0)) / log_mel.std(axis=0)
    if len(log_mel) < 1000:
        log_mel = np.concatenate([log_mel] * (1000 // len(log_mel) + 1))[:1000]
    return torch.from_numpy(log_mel.T[None].copy())
