"""The verdicts of the stages, written out by hand: what the declared limits must come to."""

from __future__ import annotations

from hqvox.config.build import EmotionConfig, LightingConfig, PoseConfig


def pose_verdict(
    yaw_deg: float, pitch_deg: float, asymmetry: float, config: PoseConfig
) -> str | None:
    by_angles = config.decide_by in ("both", "angles")
    by_asymmetry = config.decide_by in ("both", "asymmetry")
    if by_angles and abs(yaw_deg) > config.max_yaw_deg:
        return "turned_away"
    if by_asymmetry and asymmetry > config.max_asymmetry:
        return "turned_away"
    if by_angles and abs(pitch_deg) > config.max_pitch_deg:
        return "tilted"
    return None


def light_verdict(
    ratio: float, gradient: float, overexposed: float, underexposed: float, config: LightingConfig
) -> str | None:
    if overexposed > config.max_overexposed_fraction:
        return "over_exposed"
    if underexposed > config.max_underexposed_fraction:
        return "under_exposed"
    if ratio > config.max_light_ratio:
        return "uneven_light"
    if gradient > config.max_light_gradient:
        return "uneven_light"
    return None


def emotion_verdict(
    neutral: float,
    happiness: float,
    opening: float,
    width: float,
    min_neutral: float,
    config: EmotionConfig,
) -> str | None:
    if neutral >= min_neutral:
        return None
    slight_smile = (
        neutral + happiness >= config.min_neutral_or_smile
        and happiness <= config.max_smile_happiness
        and opening <= config.max_smile_opening
        and width <= config.max_smile_width
    )
    return None if slight_smile else "not_neutral"
