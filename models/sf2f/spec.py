"""The description of a generator: plain values, so that a checkpoint can store them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from models.errors import ModelError

ENCODERS = ("inception", "plain", "inception_released", "plain_released", "cmu")
DECODERS = ("upsampling", "deconvolution", "upsampling_released", "cmu", "avp_gan", "none")
FUSERS = ("attention", "attention_released")
RESOLUTIONS = ((64,), (128,), (64, 128))
MULTI_RESOLUTION = ("upsampling", "upsampling_released")
"""Decoders that can generate 64 and 128 px at once."""


@dataclass(frozen=True)
class GeneratorSpec:
    """All that is needed to build a generator. Raises ModelError where there is no such network.

    ``encoder``: ``inception`` (table 9), ``plain`` (the baseline's 1-D CNN), ``inception_released``
    (four inception modules and a convolution), ``plain_released`` and ``cmu`` (the 1-D CNN with
    noise of 0.05 on the embedding in training). ``decoder``: ``upsampling`` (table 10),
    ``deconvolution`` (the baseline's), ``upsampling_released`` (gated units), ``cmu``
    (``deconvolution`` that works in -1 to 1), ``avp_gan`` (``cmu`` with spectral normalisation, and
    with CBAM where ``attention`` is on; 64 px), ``none`` (a voice encoder alone). ``resolutions``:
    sides of the pictures in pixels, low to high. ``fuser``: ``attention`` (section 4),
    ``attention_released``, or none. ``n_filters``: mel filters of the input. ``width``: multiplier
    of all inner channels.
    """

    encoder: str = "inception"
    decoder: str = "upsampling"
    resolutions: tuple[int, ...] = (64,)
    fuser: str | None = None
    n_filters: int = 40
    embedding_dim: int = 512
    width: float = 1.0
    attention: bool = False

    def __post_init__(self) -> None:
        """Raise ModelError where there is no such network."""
        _one_of("encoder", self.encoder, ENCODERS)
        _one_of("decoder", self.decoder, DECODERS)
        if self.fuser is not None:
            _one_of("fuser", self.fuser, FUSERS)
        _one_of("resolutions", self.resolutions, RESOLUTIONS)
        if len(self.resolutions) > 1 and self.decoder not in MULTI_RESOLUTION:
            raise ModelError(
                f"decoder '{self.decoder}' gives one resolution, not {self.resolutions}; "
                f"take one, or the decoder {' or '.join(MULTI_RESOLUTION)}"
            )
        if self.decoder == "avp_gan" and self.resolutions != (64,):
            raise ModelError(f"decoder 'avp_gan' gives 64 px, not {self.resolutions}")
        if self.attention and self.decoder != "avp_gan":
            raise ModelError(
                f"decoder '{self.decoder}' has no attention; set attention to false, or take the "
                "decoder avp_gan"
            )
        _whole("n_filters", self.n_filters, 1, 1)
        _whole("embedding_dim", self.embedding_dim, 8, 8)
        ok = isinstance(self.width, int | float) and not isinstance(self.width, bool)
        if not (ok and 0 < self.width <= 4):
            raise ModelError(f"width is {self.width!r}; it must lie above 0 and at most at 4")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as a checkpoint stores them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GeneratorSpec:
        """Read what ``as_dict`` returned; tuples may be lists. Raises ModelError."""
        if not isinstance(values, Mapping):
            raise ModelError(f"a generator's description is a mapping, not {values!r}")
        known = [field.name for field in fields(cls)]
        unknown = [str(key) for key in values if key not in known]
        if unknown:
            raise ModelError(
                f"unknown in a generator's description: {', '.join(unknown)}; known are "
                f"{', '.join(known)}; written by a newer hqvox?"
            )
        plain = dict(values)
        if isinstance(plain.get("resolutions"), list):
            plain["resolutions"] = tuple(plain["resolutions"])
        return cls(**plain)


def scaled(channels: int, width: float) -> int:
    """Return ``channels`` times ``width``, rounded to a multiple of 8, at least 8.

    Unchanged where ``width`` is 1, so that these are the paper's own numbers.
    """
    if width == 1.0:
        return channels
    return max(8, 8 * round(channels * width / 8))


def _one_of(what: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        names = ", ".join(str(name) for name in known)
        raise ModelError(f"{what} {value!r} is not known; there are {names}")


def _whole(what: str, value: object, least: int, step: int) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool)
    if not (ok and value >= least and value % step == 0):  # type: ignore[operator]
        multiple = f", a multiple of {step}" if step > 1 else ""
        raise ModelError(
            f"{what} is {value!r}; it must be a whole number from {least} on{multiple}"
        )
