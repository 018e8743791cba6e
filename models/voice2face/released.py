"""The voice network that voice2face's authors pretrained for speaker recognition."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from models.embedding.weights import fill, read_checkpoint
from models.errors import ModelError
from models.sf2f.encoders import Encoder, PlainModule
from models.sf2f.released_names import plain_encoder

THEIRS = "model"
"""Prefix of the tensors in ``voice_embedding.pth`` of
github.com/cmu-mlsp/reconstructing_faces_from_voices: a bare state dict."""


def load_voice_encoder(encoder: Encoder, path: Path) -> None:
    """Fill a plain voice encoder from the authors' file, or from one by our own names.

    Raises ModelError where the file cannot be read, does not fit, or the encoder is no plain one.
    """
    if not all(isinstance(layer, PlainModule) for layer in encoder.layers[:4]):
        raise ModelError(
            f"{path}: these are weights for a plain voice encoder; set model.encoder to cmu, plain "
            "or plain_released"
        )
    tensors = read_checkpoint(path)
    fill(encoder, _renamed(tensors), path, "a voice encoder of this size")


def _renamed(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Put the authors' tensors under our names; others stay as they are, for ``fill`` to judge."""
    if f"{THEIRS}.0.weight" not in tensors:
        return tensors
    ours = {theirs: name.removeprefix("encoder.") for name, (theirs,) in plain_encoder(THEIRS)}
    return {ours.get(name, name): tensor for name, tensor in tensors.items()}
