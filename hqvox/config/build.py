"""The configuration of a build: every threshold with its unit, default, range and source.

``hqvox.yaml`` is one :class:`BuildConfig`. Each stage has one section, of the stage's name, which
also declares the stage's limits. Sources: "paper" is Speech Fusion to Face, §3 and appendix B.1;
"house" is our own choice.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hqvox.config.discover import DiscoverConfig
from hqvox.config.policy import PolicyConfig
from hqvox.config.review import ReviewConfig
from hqvox.config.section import Limit, Section, StageSection


class DownloadConfig(StageSection):
    """Fetching bytes, and what is refused before decoding. The limits hold for local files too."""

    limits: ClassVar[tuple[Limit, ...]] = (
        Limit("photo_bytes", "too_large", at_most="max_bytes"),
        Limit("pixels", "too_large", at_most="max_pixels"),
    )

    max_bytes: int = Field(50_000_000, ge=1_000, description="largest file, bytes (house)")
    max_pixels: int = Field(
        100_000_000, ge=10_000, le=500_000_000, description="most pixels, from the header (house)"
    )
    contact: str = Field(
        "", description="e-mail address or page of who crawls, sent to every server; required"
    )
    robots: bool = Field(True, description="keep to robots.txt (RFC 9309)")
    opt_out: list[Literal["noai", "noimageai", "noindex", "noimageindex"]] = Field(
        ["noai", "noimageai", "noindex", "noimageindex"],
        description="X-Robots-Tag values that refuse a photo",
    )
    keep_location: bool = Field(
        False, description="false: photos fetched from now on are stored without GPS fields (house)"
    )
    allow_hosts: list[str] = Field(
        [], description="host or host:port that may have a private address, e.g. 127.0.0.1:8000"
    )
    connections: int = Field(64, ge=1, le=1024, description="at once, over all hosts (house)")
    host_connections: int = Field(2, ge=1, le=256, description="at once to one host (house)")
    host_requests_per_second: float = Field(
        4.0, gt=0, le=10_000, description="to one host; a longer Crawl-delay counts (house)"
    )
    share_pace: bool = Field(
        False, description="names at one address share pace and connections, as one host (house)"
    )
    memory_mb: int = Field(
        256, ge=16, le=65536, description="bodies in flight, MB; one photo may exceed it (house)"
    )
    connect_seconds: float = Field(10.0, gt=0, le=600, description="to connect (house)")
    read_seconds: float = Field(20.0, gt=0, le=600, description="between two reads (house)")
    total_seconds: float = Field(300.0, gt=0, le=86_400, description="for one photo (house)")
    slowest_bytes_per_second: int = Field(
        2_000, ge=0, le=10**9, description="slowest transfer, once slow_seconds have passed (house)"
    )
    slow_seconds: float = Field(10.0, ge=0, le=600, description="before the rate counts (house)")
    stop_after_mb: int | None = Field(
        None, ge=1, description="photos fetched in one build, MB, after which the crawl stops"
    )
    stop_after_hours: float | None = Field(
        None, gt=0, description="time after which the crawl of one build stops"
    )
    redirects: int = Field(5, ge=0, le=50, description="followed for one photo (house)")
    retries: int = Field(
        4, ge=0, le=100, description="after a transient failure, for one photo (house)"
    )
    backoff_seconds: float = Field(
        1.0, ge=0, le=600, description="before the first retry; doubles, with jitter (house)"
    )
    longest_backoff_seconds: float = Field(
        60.0, ge=0, le=3600, description="longest pause of our own choice (house)"
    )
    longest_retry_after_seconds: float = Field(
        600.0, ge=0, le=86_400, description="longest Retry-After that is waited for (house)"
    )
    host_patience_seconds: float = Field(
        180.0, ge=0, le=86_400, description="how long a host may answer nothing (house)"
    )

    @field_validator("allow_hosts")
    @classmethod
    def _are_hosts(cls, hosts: list[str]) -> list[str]:
        for host in hosts:
            if not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s/@:?#\[\]]+)(:[0-9]{1,5})?", host):
                raise ValueError(f"host or host:port, IPv6 in brackets: {host!r} is neither")
        return hosts


class DecodeConfig(Section):
    """How photos are turned into pixels, for every stage that looks at them."""

    working_side_px: int = Field(
        1280,
        ge=256,
        le=8192,
        description="photos are reduced to this longer side to detect (house)",
    )


class DuplicatesConfig(StageSection):
    """Near-duplicates within an identity; the largest stays."""

    max_distance_bits: int = Field(
        6, ge=0, le=32, description="perceptual hashes at most this far apart are one photo (house)"
    )


class LandmarksConfig(StageSection):
    """Faces and their 68 points."""

    limits: ClassVar[tuple[Limit, ...]] = (Limit("faces_in_photo", "no_face", at_least=1),)

    network: Literal["dlib68", "fan"] = Field("dlib68", description="paper names none; see recipe")
    detector: Literal["blazeface", "blazeface_back", "s3fd", "retinaface", "yunet"] = Field(
        "s3fd", description="detector in front of fan; dlib68 brings its own"
    )


class PupilsConfig(StageSection):
    """Distance of the pupils."""

    limits: ClassVar[tuple[Limit, ...]] = (
        Limit("ipd_px", "pupils_too_close", at_least="min_ipd_px"),
    )

    min_ipd_px: float = Field(30.0, ge=0, le=1000, description="px of the original (paper: 30)")


class PoseConfig(StageSection):
    """How far the face is turned away from the image plane."""

    limits: ClassVar[tuple[Limit, ...]] = (
        Limit(
            "yaw_deg",
            "turned_away",
            at_most="max_yaw_deg",
            unless=("decide_by", "asymmetry", "plane"),
        ),
        Limit(
            "asymmetry",
            "turned_away",
            at_most="max_asymmetry",
            unless=("decide_by", "angles", "plane"),
        ),
        Limit(
            "plane_deg",
            "turned_away",
            at_most="max_plane_deg",
            unless=("decide_by", "both", "angles", "asymmetry"),
        ),
        Limit(
            "pitch_deg",
            "tilted",
            at_most="max_pitch_deg",
            unless=("decide_by", "asymmetry", "plane"),
        ),
    )

    max_yaw_deg: float = Field(5.0, ge=0, le=90, description="degrees (paper: 5)")
    max_pitch_deg: float = Field(5.0, ge=0, le=90, description="degrees (paper: 5)")
    max_asymmetry: float = Field(
        0.06,
        ge=0,
        le=1,
        description="mirrored landmarks' distance, fraction of eye distance (house: 98 % of 1,542 "
        "faces in news photographs with yaw within 5 degrees lie below)",
    )
    max_plane_deg: float = Field(
        5.0, ge=0, le=180, description="degrees between face and image plane (paper: 5)"
    )
    decide_by: Literal["both", "angles", "asymmetry", "plane"] = Field(
        "both",
        description="what must pass: yaw and pitch, asymmetry, both; plane: the angle between the "
        "planes (paper: left/right landmarks; 5 degrees between the planes)",
    )


class LightingConfig(StageSection):
    """Proxies for 'uniform, no noticeable shadow, no sharp change of illumination' (paper)."""

    limits: ClassVar[tuple[Limit, ...]] = (
        Limit("overexposed_fraction", "over_exposed", at_most="max_overexposed_fraction"),
        Limit("underexposed_fraction", "under_exposed", at_most="max_underexposed_fraction"),
        Limit("light_ratio", "uneven_light", at_most="max_light_ratio"),
        Limit("light_gradient", "uneven_light", at_most="max_light_gradient"),
    )

    max_light_ratio: float = Field(
        2.0, ge=1, le=20, description="brighter over darker side: one photographic stop (house)"
    )
    max_light_gradient: float = Field(
        14.0, ge=0, le=100, description="steep slopes on the skin, per face width (house)"
    )
    max_overexposed_fraction: float = Field(
        0.1, ge=0, le=1, description="share of the skin at L* 97 or above (house)"
    )
    max_underexposed_fraction: float = Field(
        0.5, ge=0, le=1, description="share of the skin at L* 20 or below (house)"
    )


class EmotionConfig(StageSection):
    """Neutral faces, a slight smile allowed."""

    limits: ClassVar[tuple[Limit, ...]] = (
        Limit("neutral", "not_neutral", at_least="min_neutral", rule="or smile"),
        Limit(
            "neutral_lead",
            "not_neutral",
            at_least="min_neutral_lead",
            rule="or smile",
            unless=("min_neutral_lead", None),
        ),
        Limit("neutral_or_happy", "not_neutral", at_least="min_neutral_or_smile", rule="smile"),
        Limit("happiness", "not_neutral", at_most="max_smile_happiness", rule="smile"),
        Limit("mouth_opening", "not_neutral", at_most="max_smile_opening", rule="smile"),
        Limit("mouth_width", "not_neutral", at_most="max_smile_width", rule="smile"),
    )

    network: Literal["hqvox_neutral", "mini_xception_fer2013"] = Field(
        "hqvox_neutral", description="paper: the FER2013 mini-XCEPTION"
    )
    min_neutral: float | None = Field(
        None, ge=0, le=1, description="probability of neutral; null: the network's own threshold"
    )
    min_neutral_lead: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="probability of neutral less that of the next expression; null: no limit; 0: "
        "neutral is the most probable (paper, as we read it)",
    )
    min_neutral_or_smile: float = Field(
        0.9, ge=0, le=1, description="slight smile: neutral plus happiness at least this (house)"
    )
    max_smile_opening: float = Field(
        0.05, ge=0, le=1, description="slight smile: inner lip gap over mouth width (house)"
    )
    max_smile_width: float = Field(
        0.92, ge=0, le=2, description="slight smile: mouth width over eye distance (house)"
    )
    max_smile_happiness: float = Field(
        0.95, ge=0, le=1, description="slight smile: happiness at most this (house)"
    )


class IdentityConfig(StageSection):
    """Whether a face is the identity it was found for."""

    limits: ClassVar[tuple[Limit, ...]] = (
        Limit(
            "core_similarity",
            "someone_else",
            at_least="min_similarity",
            rule="core",
            also=("no_majority",),
        ),
    )

    network: Literal["dlib_resnet", "facenet_vggface2"] = Field(
        "dlib_resnet", description="face embedding (house)"
    )
    min_similarity: float | None = Field(
        None, ge=-1, le=1, description="cosine to the core; null: the network's own threshold"
    )


class AlignConfig(StageSection):
    """The crop of the released dataset: both eye centres at fixed fractions of it."""

    limits: ClassVar[tuple[Limit, ...]] = (
        Limit("outside_fraction", "out_of_frame", at_most="max_outside_fraction"),
    )

    max_outside_fraction: float = Field(
        0.15, ge=0, le=1, description="share of the crop outside the photo (house)"
    )


class SegmentConfig(StageSection):
    """The person, cut out on white."""

    limits: ClassVar[tuple[Limit, ...]] = (
        Limit("face_coverage", "not_segmented", at_least="min_face_coverage"),
        Limit("edge_confidence", "not_segmented", at_least="min_edge_confidence"),
    )

    network: Literal["pspnet_portrait", "pspnet_voc"] = Field(
        "pspnet_portrait", description="paper: PSPNet on VOC 2012"
    )
    min_face_coverage: float = Field(
        0.95, ge=0, le=1, description="share of the face's hull inside the raw mask (house)"
    )
    min_edge_confidence: float = Field(
        0.5,
        ge=0,
        le=1,
        description="see column; below, most masks of press photographs keep background (house)",
    )


class QualityConfig(StageSection):
    """The composite that ranks an identity's faces; refuses nobody."""


class SpeechConfig(Section):
    """From audio files to log-mels."""

    front_end: Literal["sf2f", "voice2face"] = Field(
        "sf2f",
        description="log-mel and voice activity as in the released code of SF2F or of voice2face; "
        "voice2face sets n_filters 64 and vad_aggressiveness 2 where they are not set",
    )
    n_filters: Literal[40, 64] = Field(
        40, description="mel filters (SF2F's code: 40, 0 to 8 kHz; voice2face: 64, 20 to 7,200 Hz)"
    )
    vad: bool = Field(True, description="WebRTC voice activity detection; false: keep all of it")
    vad_aggressiveness: int = Field(
        1, ge=0, le=3, description="of the VAD, 3 keeps least (SF2F's code: 1; voice2face: 2)"
    )
    min_seconds: float = Field(
        1.0, ge=0.025, le=60, description="least speech left, s: the shortest training crop (house)"
    )
    max_seconds: float = Field(
        600.0, ge=1, le=36_000, description="longest file, s (house; VoxCeleb's longest: 220)"
    )
    max_bytes: int = Field(200_000_000, ge=1_000, description="largest file, bytes (house)")
    min_peak_dbfs: float = Field(
        -60.0, ge=-96, le=0, description="quieter files count as silent, dB full scale (house)"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_front_end(cls, values: Any) -> Any:
        """The front end's own numbers, where they are not set."""
        if isinstance(values, dict) and values.get("front_end") == "voice2face":
            return {"n_filters": 64, "vad_aggressiveness": 2} | values
        return values

    @field_validator("n_filters")
    @classmethod
    def _filters_of_front_end(cls, count: int, info: ValidationInfo) -> int:
        if info.data.get("front_end") == "voice2face" and count != 64:
            raise ValueError("the voice2face front end has 64 filters; set speech.n_filters=64")
        return count


class RunnerConfig(Section):
    """How work is cut up; none of it changes a result."""

    cache_mb: int = Field(256, ge=0, le=65536, description="decoded photos kept per worker, MB")
    max_deaths: int = Field(3, ge=1, le=100, description="worker deaths before a shard is failed")
    ray_cpus: float = Field(1.0, gt=0, le=256, description="CPUs a worker asks of a Ray cluster")
    ray_gpus: float = Field(0.0, ge=0, le=16, description="GPUs a worker asks of a Ray cluster")
    ray_wait_seconds: float = Field(
        60.0,
        ge=1,
        le=86_400,
        description="for a Ray cluster to answer, to start a worker, and to end one (house)",
    )


class ReleaseConfig(Section):
    """What is released (paper: 3 to 7 best per identity)."""

    min_faces: int = Field(3, ge=1, le=100, description="identities with fewer are dropped (paper)")
    max_faces: int = Field(7, ge=1, le=300, description="most faces per identity (paper)")
    min_mask_certainty: float = Field(
        0.55,
        ge=0,
        le=1,
        description="--auto leaves out faces whose mask certainty is below (house: so are all 13 "
        "of 104 masks with an IoU below 0.9)",
    )
    jpeg_quality: int = Field(95, ge=50, le=100, description="of the released JPEGs (house)")
    on_leak: Literal["drop", "refuse"] = Field(
        "drop",
        description="a photo on two sides of the split: drop the evaluation side's face, or refuse "
        "to release (house)",
    )
    max_photo_distance_bits: int = Field(
        4, ge=0, le=32, description="photos with hashes this near are one, across sides (house)"
    )
    min_face_similarity: float = Field(
        0.98, ge=0, le=1, description="faces with this cosine are one picture, across sides (house)"
    )
    purpose: str = Field("", description="what the dataset is made for, printed in its datasheet")
    contact: str = Field(
        "", description="e-mail address or page for takedown requests, printed in the datasheet"
    )


class BuildConfig(Section):
    """hqvox.yaml as a whole. The stages' sections stand in the order in which the stages run."""

    format: Literal[1] = Field(1, description="version of the workspace's layout")
    recipe: str = Field(
        "bundled", description="named defaults: bundled, paper, paper-exact or small"
    )
    discover: DiscoverConfig = DiscoverConfig()
    download: DownloadConfig = DownloadConfig()
    policy: PolicyConfig = PolicyConfig()
    decode: DecodeConfig = DecodeConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    landmarks: LandmarksConfig = LandmarksConfig()
    pupils: PupilsConfig = PupilsConfig()
    pose: PoseConfig = PoseConfig()
    lighting: LightingConfig = LightingConfig()
    emotion: EmotionConfig = EmotionConfig()
    identity: IdentityConfig = IdentityConfig()
    align: AlignConfig = AlignConfig()
    segment: SegmentConfig = SegmentConfig()
    quality: QualityConfig = QualityConfig()
    speech: SpeechConfig = SpeechConfig()
    runner: RunnerConfig = RunnerConfig()
    review: ReviewConfig = ReviewConfig()
    release: ReleaseConfig = ReleaseConfig()


STAGE_SECTIONS: dict[str, type[StageSection]] = {
    name: field.annotation
    for name, field in BuildConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, StageSection)
}
"""The section of every stage, by the stage's name, in the order in which a photo meets them."""
