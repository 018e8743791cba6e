"""The configuration of `hqvox train-enhancer`: every number with its unit, default and source.

Sources: "avp_gan" is the AVP-GAN paper, equations 7 to 10; "gfpgan" is GFPGAN's released training
configuration, which is taken where that paper is silent; "house" is our own choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from hqvox.config.explain import explain
from hqvox.config.file import parse_settings
from hqvox.config.section import Section
from hqvox.errors import HqvoxError
from hqvox.trainer.config import Real, Whole

WHERE = "train-enhancer"


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Range = Annotated[tuple[Real, Real], BeforeValidator(_pair)]


class EnhancementLossConfig(Section):
    """Weights of the generator's losses; 0 switches one off."""

    l1: Real = Field(0.1, ge=0, description="pixel loss, equation 7 (avp_gan: 0.1)")
    perceptual: Real = Field(1.0, ge=0, description="VGG-19's features, equation 7 (avp_gan: 1)")
    adversarial: Real = Field(0.1, ge=0, description="whole face, equation 8 (avp_gan: 0.1)")
    local: Real = Field(1.0, ge=0, description="eyes and mouth, equation 9 (avp_gan: 1)")
    style: Real = Field(200.0, ge=0, description="Gram matrices, equation 9 (avp_gan: 200)")
    identity: Real = Field(10.0, ge=0, description="face network, equation 10 (avp_gan: 10)")

    @model_validator(mode="after")
    def _something(self) -> EnhancementLossConfig:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("every loss has weight 0: nothing to train; give one a weight")
        return self


class DegradationConfig(Section):
    """How sharp faces are made bad: blur, downscaling, noise, JPEG; each range uniform."""

    blur_sigma: Range = Field(
        (0.1, 10.0), description="of the blur, px at a side of 512 (gfpgan: 0.1 to 10)"
    )
    downscale: Range = Field((0.8, 8.0), description="factor (gfpgan: 0.8 to 8)")
    noise: Range = Field((0.0, 20.0), description="deviation, of 0 to 255 (gfpgan: 0 to 20)")
    jpeg_quality: Range = Field((60.0, 100.0), description="(gfpgan: 60 to 100)")

    @model_validator(mode="after")
    def _rise(self) -> DegradationConfig:
        least = {"blur_sigma": 0.01, "downscale": 0.1, "noise": 0.0, "jpeg_quality": 1.0}
        for name, low_limit in least.items():
            low, high = getattr(self, name)
            most = 100.0 if name == "jpeg_quality" else 1000.0
            if not low_limit <= low <= high <= most:
                raise ValueError(
                    f"degradation.{name} must rise from at least {low_limit:g} to at most "
                    f"{most:g}, not {low:g}, {high:g}"
                )
        return self


class EnhancementConfig(Section):
    """A fine-tuning of GFPGAN."""

    loss: EnhancementLossConfig = EnhancementLossConfig()
    degradation: DegradationConfig = DegradationConfig()
    identity_network: Literal["arcface_r50", "facenet_vggface2", "dlib_resnet"] = Field(
        "arcface_r50", description="of the identity loss (avp_gan: ArcFace)"
    )
    iterations: Whole = Field(
        10_000, ge=1, le=10**8, description="(avp_gan: nothing; gfpgan: 800,000 from the start; "
        "house)",
    )  # fmt: skip
    batch_size: Whole = Field(12, ge=1, le=4096, description="(gfpgan: 3 on each of 4 GPUs)")
    learning_rate: Real = Field(2e-3, gt=0, le=1, description="of all networks (gfpgan: 2e-3)")
    generator_betas: Range = Field(
        (0.0, 0.99), description="Adam; also of the whole face's discriminator (gfpgan: 0, 0.99)"
    )
    local_betas: Range = Field(
        (0.9, 0.99), description="Adam of the eyes' and mouth's discriminators (gfpgan)"
    )
    r1_weight: Real = Field(10.0, ge=0, description="gradient penalty on real faces (gfpgan: 10)")
    r1_every: Whole = Field(16, ge=1, description="steps between penalties (gfpgan: 16)")
    average_decay: Real = Field(
        0.5 ** (32 / 10_000), ge=0, lt=1, description="of the averaged generator, which is what is "
        "kept (gfpgan: 0.5 ** (32 / 10000))",
    )  # fmt: skip
    critic_width: Real = Field(
        1.0, gt=0, le=4, description="factor of the discriminators' channels (gfpgan: 1)"
    )
    pictures: Literal["masked", "origin"] = Field(
        "masked", description="on white, or with their background (house: as generators learn)"
    )
    flip: bool = Field(True, description="mirror half of the faces (gfpgan: yes)")
    log_every: Whole = Field(10, ge=1, description="line of log.jsonl, steps (house)")
    save_every: Whole = Field(1000, ge=1, description="checkpoint, steps (house)")
    seed: Whole = Field(0, ge=0, le=2**31, description="of everything random (house)")

    @model_validator(mode="after")
    def _fractions(self) -> EnhancementConfig:
        for name in ("generator_betas", "local_betas"):
            betas = getattr(self, name)
            if not all(0 <= beta < 1 for beta in betas):
                raise ValueError(f"{name} must be from 0 to below 1, not {list(betas)}")
        return self


def enhancement_config(settings: Sequence[str] = ()) -> EnhancementConfig:
    """The defaults with ``--set`` values over them. Raises HqvoxError, one line."""
    over = parse_settings(settings)
    try:
        return EnhancementConfig.model_validate(over)
    except ValidationError as error:
        hint = "hqvox/trainer/enhancement/config.py names every key with its unit"
        first = error.errors()[0]
        raise HqvoxError(explain(first, EnhancementConfig, WHERE, None, over, hint)) from None


def as_yaml(config: EnhancementConfig) -> str:
    """The configuration as YAML, every key with its description, and so its source, beside it."""
    lines: list[str] = []
    for name, field in EnhancementConfig.model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Section):
            lines.append(f"{name}:")
            lines += [
                f"  {key}: {_plain(getattr(value, key))}  # {inner.description}"
                for key, inner in type(value).model_fields.items()
            ]
        else:
            lines.append(f"{name}: {_plain(value)}  # {field.description}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    shown = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(shown, default_flow_style=True).removesuffix("...\n").strip()
