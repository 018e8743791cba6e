"""The whole speech-to-face network: encoder, fuser, decoder; and freezing parts of it."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.avp_gan import AvpDecoder
from models.errors import ModelError
from models.sf2f.decoders import GatedDecoder, UpsamplingDecoder
from models.sf2f.encoders import build_encoder, build_fuser
from models.sf2f.precision import at_least_float32
from models.sf2f.spec import GeneratorSpec
from models.voice2face import DeconvolutionDecoder


class NoDecoder(nn.Module):
    """In place of a decoder, where there is a voice encoder alone."""

    def forward(self, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Raise ModelError."""
        raise ModelError(
            "this is a voice encoder without a face decoder; train a generator with it, by --set "
            "stage1.encoder_weights"
        )


class Generator(nn.Module):
    """Speech to a face. Parts: ``encoder``, ``fuser`` (or None), ``decoder``; ``spec``."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = build_encoder(spec.encoder, spec.n_filters, spec.embedding_dim, spec.width)
        self.fuser = None if spec.fuser is None else build_fuser(spec.fuser, spec.embedding_dim)
        self.decoder = _decoder(spec)

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Map normalised log-mels (n, n_filters, t), 10 ms a frame, to embeddings (n, dim).

        L2-normalised float32, also under autocast. In training, encoders with noise add it and
        normalise again.
        """
        pooled = at_least_float32(self.encoder(log_mel)).mean(dim=2)
        embedding = F.normalize(pooled, dim=1)  # v / max(|v|, 1e-12), as section 4
        if self.training and self.encoder.noise:
            noise = torch.randn_like(embedding) * self.encoder.noise
            embedding = F.normalize(embedding + noise, dim=1)
        return embedding

    def fuse(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Fuse the embeddings of windows: (n, w, dim) to (n, dim).

        ``mask``: bool (n, w), True for a window, False for padding. Raises ModelError where the
        generator has no fuser or a row has no window.
        """
        if self.fuser is None:
            raise ModelError("this generator has no fuser; train stage 2, or average its pictures")
        if not torch.compiler.is_compiling() and not bool(mask.any(dim=1).all()):
            raise ModelError("a row without any window cannot be fused; give it at least one")
        fused: torch.Tensor = self.fuser(embeddings, mask)
        return fused

    def decode(self, embedding: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map embeddings (n, dim) to pictures (n, 3, px, px), one per resolution, low to high.

        RGB, ImageNet-normalised, unbounded: ``models.sf2f.colour.to_unit`` makes them 0 to 1.
        """
        pictures: tuple[torch.Tensor, ...] = self.decoder(embedding)
        return pictures

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map normalised log-mels (n, n_filters, t) to pictures, without fusing."""
        return self.decode(self.embed(log_mel))


def build_generator(spec: GeneratorSpec) -> Generator:
    """Make a generator with PyTorch's own random initialisation, as the released code has it."""
    return Generator(spec)


def _decoder(spec: GeneratorSpec) -> nn.Module:
    if spec.decoder == "upsampling":
        return UpsamplingDecoder(spec.embedding_dim, spec.resolutions, spec.width)
    if spec.decoder == "upsampling_released":
        return GatedDecoder(spec.embedding_dim, spec.resolutions, spec.width)
    if spec.decoder == "none":
        return NoDecoder()
    if spec.decoder == "avp_gan":
        return AvpDecoder(spec.embedding_dim, spec.width, spec.attention)
    return DeconvolutionDecoder(
        spec.embedding_dim, spec.resolutions[0], spec.width, signed=spec.decoder == "cmu"
    )


M = TypeVar("M", bound=nn.Module)


def freeze(module: M) -> M:
    """Freeze a module: no gradients for its parameters, and batch norm's statistics do not change.

    It stays in evaluation mode even when a parent's ``.train()`` is called, which would update the
    statistics again. Gradients still pass through it to what comes before.
    """
    module.requires_grad_(False)
    for child in module.modules():
        child.eval()
        child.train = _stay_frozen.__get__(child)  # type: ignore[method-assign]
    return module


def freeze_norms(module: M) -> M:
    """Freeze the statistics of a module's batch norms; their scales and shifts stay trainable.

    They stay in evaluation mode even when a parent's ``.train()`` is called.
    """
    for child in module.modules():
        if isinstance(child, _BatchNorm):
            child.eval()
            child.train = _stay_frozen.__get__(child)  # type: ignore[method-assign]
    return module


def _stay_frozen(self: nn.Module, mode: bool = True) -> nn.Module:
    """Replaces ``train``: stay in evaluation mode, whatever ``mode`` is."""
    return self
