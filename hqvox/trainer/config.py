"""The configuration of a training run: every number with its unit, range, default and source.

The weights of the losses are :class:`L1Config`, :class:`GanConfig`, :class:`ClassifierConfig` and
:class:`PerceptualConfig` (table 13), set in a recipe or with ``--set loss.l1.weight=5``.

Sources: "paper" is Speech Fusion to Face, §4, §5, appendices C to E and table 13; "code" is the
code that its authors released; "cmu" is voice2face as its authors released it; "avp_gan" is the
AVP-GAN paper, §3 and §4; "house" is our own choice. Recipes are files of values for this, see
:mod:`hqvox.trainer.recipes`.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hqvox.config.section import Section
from models.errors import ModelError
from models.sf2f.spec import GeneratorSpec

_SPEC = fields(GeneratorSpec)


def _number(value: Any) -> Any:
    """YAML reads ``5e-4`` as text (it needs ``5.0e-4``); read it as a number."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value):
        return float(value)
    return value


def _whole(value: Any) -> Any:
    """As :func:`_number`, and ``1e5`` as a whole number."""
    number = _number(value)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Real = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_whole)]
Switch = Literal[True, False, "auto"]


class ModelConfig(Section):
    """The networks; the generator's part is ``models.sf2f``'s ``GeneratorSpec``."""

    encoder: Literal["inception", "plain", "inception_released", "plain_released", "cmu"] = Field(
        "inception", description="voice encoder (paper: inception, table 9; baseline: plain)"
    )
    decoder: Literal[
        "upsampling", "deconvolution", "upsampling_released", "cmu", "avp_gan", "none"
    ] = Field(
        "upsampling",
        description="face decoder (paper: upsampling, table 10; baseline: other); none: for "
        "task=speakers",
    )
    fuser: Literal["attention", "attention_released"] | None = Field(
        "attention", description="embedding fuser of stage 2 (paper, section 4); null: none"
    )
    resolutions: Annotated[tuple[Literal[64, 128], ...], BeforeValidator(_pair)] = Field(
        (64,), min_length=1, max_length=2, description="sides of the pictures, px: [64], [128] or "
        "[64, 128] (paper, figure 8)",
    )  # fmt: skip
    n_filters: Literal[40, 64] = Field(
        40, description="mel filters of the input (code: 40; cmu: 64); the release must have them"
    )
    embedding_dim: Whole = Field(
        512, ge=8, le=2048, description="of the voice embedding (paper: 512; cmu: 64)"
    )
    discriminators: Literal[
        "sf2f", "sf2f_released", "voice2face", "cmu", "avp_gan", "avp_gan_shared"
    ] = Field(
        "sf2f", description="sf2f: table 11, per resolution; sf2f_released: those of SF2F's code, "
        "per resolution; else D_real and D_id on one trunk, as voice2face in SF2F's code, or by "
        "its authors (cmu); avp_gan: AVP-GAN's, each with its own trunk, or on one "
        "(avp_gan_shared)",
    )  # fmt: skip
    attention: bool = Field(
        False, description="CBAM in AVP-GAN's generator and discriminators (avp_gan: yes)"
    )
    width: Real = Field(
        1.0, gt=0, le=4, description="factor of every network's channels (paper: 1; tiny: less)"
    )

    @model_validator(mode="after")
    def _rise(self) -> ModelConfig:
        if list(self.resolutions) != sorted(set(self.resolutions)):
            raise ValueError(f"model.resolutions must rise, not {list(self.resolutions)}")
        try:
            self.spec()
        except ModelError as error:
            raise ValueError(str(error)) from None
        return self

    def spec(self) -> GeneratorSpec:
        """The generator's description."""
        return GeneratorSpec(**{field.name: getattr(self, field.name) for field in _SPEC})


class L1Config(Section):
    """Pixel loss: mean absolute difference of ImageNet-normalised pictures."""

    weight: Real = Field(10.0, ge=0, description="lambda 1 (paper, table 13: 10); 0: off")


class GanConfig(Section):
    """Adversarial loss: -log D_real of a generated picture, the non-saturating form."""

    weight: Real = Field(1.0, ge=0, description="lambda 2 (paper, table 13: 1); 0: off")


class ClassifierConfig(Section):
    """Auxiliary classifier loss: cross-entropy of D_id on generated pictures.

    With ``model.discriminators=sf2f_released`` D_id has a real/fake head too. Its adversarial loss
    has the same weight (code).
    """

    weight: Real = Field(0.05, ge=0, description="lambda 3 (paper, table 13: 0.05); 0: off")


class PerceptualConfig(Section):
    """Perceptual loss: L1 between a face network's features of generated and real pictures."""

    weight: Real = Field(100.0, ge=0, description="lambda 4 (paper, table 13: 100); 0: off")
    network: Literal["facenet_vggface2", "dlib_resnet"] = Field(
        "facenet_vggface2", description="whose features (paper: FaceNet); recorded in the run"
    )
    level_weights: Annotated[tuple[Real, Real, Real, Real], BeforeValidator(_pair)] = Field(
        (1 / 16, 1 / 8, 1 / 4, 1.0), description="of the three maps and the embedding (code)"
    )
    clamp: bool = Field(
        False,
        description="clamp generated pictures to 0 to 255 first, so that no gradient comes from "
        "values outside (paper: nothing; code: yes)",
    )

    @model_validator(mode="after")
    def _weights(self) -> PerceptualConfig:
        if min(self.level_weights) < 0 or not sum(self.level_weights):
            raise ValueError("loss.perceptual.level_weights must be 0 or more, and not all 0")
        return self


class LossConfig(Section):
    """The generator's losses and their weights; weight 0 switches one off (paper, table 7)."""

    l1: L1Config = L1Config()
    gan: GanConfig = GanConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    perceptual: PerceptualConfig = PerceptualConfig()

    @model_validator(mode="after")
    def _something(self) -> LossConfig:
        if not any(getattr(self, name).weight for name in type(self).model_fields):
            raise ValueError("every loss has weight 0: nothing to train; give one a weight")
        return self


class ScheduleConfig(Section):
    """The learning rate over the steps of stage 1: constant, or falling from a step to the end.

    At step s, counted from 0, with b = ``begin`` and e = ``every``, the progress is
    p = floor((s - b) / e) / ((``stage1.iterations`` - b) / e), at least 0. The rate falls from
    ``optimiser.learning_rate`` to ``end_rate`` with p (linear), or with (1 - cos(pi p)) / 2
    (cosine).
    """

    kind: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="(paper: one rate; code: linear)"
    )
    begin: Whole | None = Field(
        None,
        ge=0,
        le=10**8,
        description="step of stage 1 from which the rate falls; null: five sixths of "
        "stage1.iterations (code: epoch 10,000 of 12,000)",
    )
    every: Whole = Field(
        1, ge=1, le=10**6, description="steps between changes of the rate (code: an epoch)"
    )
    end_rate: Real = Field(5e-7, ge=0, le=1, description="rate at the end of stage 1 (code: 5e-7)")
    classifiers: bool = Field(
        True,
        description="whether the rate of identity classifiers falls too, and of critics that hold "
        "one (code: no)",
    )
    freeze_norms: bool = Field(
        False,
        description="from `begin` on, the generator's batch norms keep their statistics, and its "
        "Adam starts again (code: yes)",
    )


class OptimiserConfig(Section):
    """Adam; the generator and each discriminator have their own."""

    first: Literal["generator", "critics"] = Field(
        "generator",
        description="who takes the first step of an iteration (code: generator; cmu, avp_gan: "
        "discriminator, classifier, then generator)",
    )
    learning_rate: Real = Field(5e-4, gt=0, le=1, description="(paper, table 13: 5e-4)")
    betas: Annotated[tuple[Real, Real], BeforeValidator(_pair)] = Field(
        (0.9, 0.98), description="(paper, table 13: 0.9, 0.98)"
    )
    eps: Real = Field(1e-8, gt=0, le=1, description="added to the denominator (torch's default)")
    clip_norm: Real | None = Field(
        None, gt=0, description="longest gradient of the generator, L2; null: no clipping (paper)"
    )
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="after")
    def _fractions(self) -> OptimiserConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimiser.betas must be from 0 to below 1, not {list(self.betas)}")
        falls = self.schedule.kind != "constant"
        if falls and self.schedule.end_rate > self.learning_rate:
            raise ValueError(
                f"optimiser.schedule.end_rate {self.schedule.end_rate:g} is above "
                f"optimiser.learning_rate {self.learning_rate:g}; the rate can only fall"
            )
        return self


class Stage1Config(Section):
    """Voice encoder and face decoder, on short crops."""

    iterations: Whole = Field(120_000, ge=0, le=10**8, description="(paper: 120,000); 0: skip")
    batch_size: Whole = Field(256, ge=1, le=65_536, description="of all processes (paper: 256)")
    crop_frames: Annotated[tuple[Whole, Whole], BeforeValidator(_pair)] = Field(
        (100, 150), description="shortest, longest crop, frames of 10 ms (paper: 1 to 1.5 s)"
    )
    freeze_encoder: bool = Field(
        False,
        description="the voice encoder is not trained (cmu, avp_gan: yes); its weights come from "
        "stage1.encoder_weights or --from",
    )
    encoder_weights: str | None = Field(
        None,
        description="voice encoder, pretrained for speaker recognition, which is then frozen: the "
        "checkpoint of a run of `hqvox train voice-embedding`, or cmu's file",
    )

    @model_validator(mode="after")
    def _order(self) -> Stage1Config:
        low, high = self.crop_frames
        if not 32 <= low <= high <= 10_000:
            raise ValueError(
                f"stage1.crop_frames must rise from at least 32 to at most 10000, not {low}, {high}"
            )
        return self


class Stage2Config(Section):
    """The embedding fuser, on long speech; encoder and decoder frozen, batch norm too."""

    iterations: Whole = Field(360, ge=0, le=10**8, description="(paper: 360); 0: skip")
    batch_size: Whole = Field(256, ge=1, le=65_536, description="of all processes (paper: 256)")
    learning_rate: Real | None = Field(
        None, gt=0, le=1, description="null: optimiser.learning_rate (paper; code: 1e-4)"
    )
    restart_critics: bool = Field(
        False, description="whether the critics' Adams start again too (paper: nothing; code: yes)"
    )
    seconds: Annotated[tuple[Real, Real] | None, BeforeValidator(_pair)] = Field(
        (6.0, 25.0),
        description="least, most speech of an identity, s (paper: 6 to 25); null: each utterance "
        "from a random frame to its end, until there are max_windows (code)",
    )
    window_frames: Whole = Field(
        125, ge=32, le=10_000, description="of a window, frames of 10 ms (paper: 1.25 s)"
    )
    stride_frames: Whole = Field(
        63, ge=1, le=10_000, description="between windows, frames (paper: 50 % overlap; code: 125)"
    )
    max_windows: Whole = Field(
        38, ge=1, le=1000, description="most of an identity (paper: 25 s have 38; code: 20)"
    )

    @model_validator(mode="after")
    def _order(self) -> Stage2Config:
        low, high = self.seconds or (1, 1)
        if not 0 < low <= high <= 3600:
            raise ValueError(f"stage2.seconds must rise from above 0 to 3600, not {low}, {high}")
        return self


class DataConfig(Section):
    """Which pictures, and how pictures and voices are prepared."""

    front_end: Literal["sf2f", "voice2face"] = Field(
        "sf2f", description="of the log-mels (speech.front_end); the release must have it"
    )
    draw: Literal["people", "apart"] = Field(
        "people",
        description="people: a voice and a face of one person (code); apart: voices and faces "
        "independently, each file once an epoch (cmu; AVP-GAN, algorithm 1)",
    )

    pictures: Literal["masked", "origin"] = Field(
        "masked", description="on white, or with their background (paper: void, white)"
    )
    normalise: Literal["sf2f", "release", "utterance"] = Field(
        "sf2f",
        description="log-mel: (x - 10.9915) / 3.1661 (code), the release's own mean and deviation, "
        "or per utterance and filter (cmu)",
    )
    short: Literal["pad", "repeat"] = Field(
        "pad", description="utterances shorter than a crop: padded with zeros (code), or repeated; "
        "those shorter than 10 s are then repeated up to that (cmu)",
    )  # fmt: skip
    flip: bool = Field(False, description="mirror half of the pictures (paper: no; cmu: yes)")
    resize: Literal["area", "bilinear"] = Field(
        "area",
        description="area: averaged over areas, each resolution from the original (paper: "
        "nothing); bilinear: PIL's, and a lower resolution is every second pixel of the higher "
        "(code)",
    )
    drop_last: bool = Field(
        False,
        description="leave out the last people of an epoch who do not fill a batch, others in each "
        "epoch (paper: nothing; code: yes)",
    )


class CadenceConfig(Section):
    """How often a run reports, in steps. A stage's last step is always saved and evaluated."""

    log_every: Whole = Field(10, ge=1, description="line of log.jsonl and TensorBoard (house)")
    samples_every: Whole = Field(1000, ge=1, description="grid of generated faces (house)")
    checkpoint_every: Whole = Field(1000, ge=1, description="checkpoints/last.pt (house)")
    evaluate_every: Whole = Field(5000, ge=1, description="metrics, best checkpoints (house)")


class EvaluationConfig(Section):
    """How the model is measured, in training and by ``hqvox evaluate``."""

    reading: Literal["paper", "released"] = Field(
        "paper", description="paper: appendix E.2; released: as SF2F's code (docs/fidelity.md)"
    )


class SpeedConfig(Section):
    """What makes training fast; ``auto`` switches on what helps on the device."""

    bfloat16: Switch = Field("auto", description="autocast; results within a stated tolerance")
    tf32: Switch = Field("auto", description="float32 products in TF32 on the GPU")
    channels_last: Switch = Field("auto", description="memory layout of pictures")
    compile: Switch = Field("auto", description="torch.compile")
    cuda_graphs: Switch = Field("auto", description="replay the step as a CUDA graph")
    fused_adam: Switch = Field("auto", description="Adam in one kernel")
    data_on_device: Switch = Field(
        "auto",
        description="all faces and voices of train in its memory; auto: on a GPU, if they fit",
    )
    cache_features: Switch = Field(
        "auto", description="keep the real faces' features; auto: where they fit"
    )
    threads: Whole | None = Field(
        None, ge=1, le=1024, description="of the CPU; null: as many as there are free cores"
    )


class TrainConfig(Section):
    """A whole training run."""

    recipe: str = Field("sf2f-64", description="name of the recipe that it comes from")
    task: Literal["faces", "speakers"] = Field(
        "faces",
        description="faces: speech to face; speakers: the voice encoder alone, to recognise "
        "speakers (cmu, avp_gan: its pretraining)",
    )
    seed: Whole = Field(0, ge=0, lt=2**63, description="of the weights and the sampler")
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    stage1: Stage1Config = Stage1Config()
    stage2: Stage2Config = Stage2Config()
    data: DataConfig = DataConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cadence: CadenceConfig = CadenceConfig()
    speed: SpeedConfig = SpeedConfig()

    @model_validator(mode="after")
    def _agree(self) -> TrainConfig:
        if not self.stage1.iterations + self.stage2.iterations:
            raise ValueError("stage1.iterations and stage2.iterations are both 0: nothing to train")
        begin = self.optimiser.schedule.begin
        if begin is not None and begin > self.stage1.iterations > 0:
            raise ValueError(
                f"optimiser.schedule.begin is {begin}, after the last of {self.stage1.iterations} "
                "iterations of stage 1; set it to null, or lower"
            )
        if (self.task == "speakers") != (self.model.decoder == "none"):
            raise ValueError(
                f"task={self.task} and model.decoder={self.model.decoder} do not fit: a voice "
                "encoder without decoder is for task=speakers, and that for nothing else"
            )
        if self.task == "speakers":
            others = [
                name for name in ("l1", "gan", "perceptual") if getattr(self.loss, name).weight
            ]
            if others or self.stage2.iterations:
                raise ValueError(
                    "task=speakers has the loss classifier and stage 1 only; set "
                    + " ".join(f"loss.{name}.weight=0" for name in others)
                    + " stage2.iterations=0"
                )
        if self.data.draw == "apart":
            pairs = [name for name in ("l1", "perceptual") if getattr(self.loss, name).weight]
            if pairs:
                raise ValueError(
                    "data.draw=apart: a face is not that of the voice, and "
                    f"{' and '.join(pairs)} compare them; set "
                    + " and ".join(f"loss.{name}.weight=0" for name in pairs)
                )
            if self.stage2.iterations:
                raise ValueError("data.draw=apart is for stage 1 only; set stage2.iterations=0")
        if self.model.fuser is None and self.stage2.iterations:
            raise ValueError(
                "stage 2 trains the fuser, and model.fuser is null; set stage2.iterations=0"
            )
        return self
