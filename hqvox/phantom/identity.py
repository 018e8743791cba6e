"""Identity of a phantom: the traits of face and voice that are constant over photos and recordings.

Every trait is a number, so that a voice can depend on the traits of a face (``person.py``). Lengths
are millimetres on an adult head whose pupils are about 63 mm apart. Ratios are relative to the
average adult.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HAIR_STYLES = ("cropped", "short", "swept", "fringe", "bob", "long", "curly", "tied", "bald")
BEARDS = ("none", "stubble", "moustache", "goatee", "full")

# sRGB, 0 to 1: anchors of a palette that is walked continuously from fair to dark.
_SKIN = np.array(
    [(0.94, 0.78, 0.69), (0.88, 0.69, 0.57), (0.78, 0.57, 0.43), (0.62, 0.42, 0.29),
     (0.36, 0.22, 0.145)]
)  # fmt: skip
_IRIS = np.array(
    [(0.20, 0.12, 0.07), (0.33, 0.21, 0.11), (0.38, 0.34, 0.20), (0.36, 0.45, 0.40),
     (0.34, 0.46, 0.58)]
)  # fmt: skip
_HAIR = np.array(
    [(0.045, 0.038, 0.035), (0.14, 0.085, 0.055), (0.27, 0.16, 0.09), (0.45, 0.21, 0.10),
     (0.62, 0.45, 0.25), (0.78, 0.66, 0.45)]
)  # fmt: skip
_GREY = np.array((0.66, 0.65, 0.64))
_LIMIT = 2.0


class FaceSpread(NamedTuple):
    """Distribution of a trait: centre + ``by_masculinity`` · m + ``by_tone`` · t + sd · deviate.

    m is masculinity − ½, t the skin's tone (0 fair to 1 dark) − ½. The deviate is standard normal,
    clipped at ±2. The sum is clipped to ``low`` and ``high``.
    """

    centre: float
    by_masculinity: float
    by_tone: float
    sd: float
    low: float = -np.inf
    high: float = np.inf

    def value(self, m: float, t: float, deviate: float) -> float:
        """Return the trait."""
        centre = self.centre + self.by_masculinity * m + self.by_tone * t
        value = centre + self.sd * float(np.clip(deviate, -_LIMIT, _LIMIT))
        return float(np.clip(value, self.low, self.high))

    def deviate(self, value: float, m: float) -> float:
        """Return the deviate behind a value, in standard deviations over all skin tones."""
        centre = self.centre + self.by_masculinity * m
        return (value - centre) / float(np.hypot(self.sd, self.by_tone / np.sqrt(12)))


FACE_SPREADS = {
    "face_width": FaceSpread(1.0, 0.03, 0.0, 0.045),
    "face_height": FaceSpread(1.0, 0.03, 0.0, 0.035),
    "cranium_height": FaceSpread(1.0, 0.0, 0.0, 0.035),
    "jaw_width": FaceSpread(1.0, 0.1, 0.0, 0.08),
    "chin_width": FaceSpread(1.0, 0.18, 0.0, 0.17),
    "chin_mm": FaceSpread(0.0, 3.0, 0.0, 3.6),
    "cheekbone_mm": FaceSpread(2.0, -1.5, 0.0, 2.0),
    "fullness_mm": FaceSpread(0.5, 0.0, 0.0, 2.6),
    "brow_ridge_mm": FaceSpread(2.0, 4.0, 0.0, 1.2),
    "ipd_mm": FaceSpread(63.0, 1.5, 0.0, 3.2),
    "eye_width": FaceSpread(1.0, 0.0, 0.0, 0.06),
    "eye_opening": FaceSpread(1.0, -0.12, 0.0, 0.13),
    "eye_tilt_mm": FaceSpread(0.2, -0.6, 0.0, 1.5),
    "eye_depth_mm": FaceSpread(0.0, 1.5, 0.0, 1.3),
    "lid_crease_mm": FaceSpread(2.2, -1.0, 0.0, 1.0, 0.4, 4.5),
    "brow_height_mm": FaceSpread(0.0, -2.0, 0.0, 1.0),
    "brow_thickness_mm": FaceSpread(6.4, 3.6, 0.0, 1.9, 2.8, 11.0),
    "brow_tilt_mm": FaceSpread(0.0, 0.8, 0.0, 1.4),
    "brow_arch_mm": FaceSpread(0.5, -1.2, 0.0, 0.8),
    "brow_density": FaceSpread(0.8, 0.15, 0.0, 0.15, 0.4, 1.0),
    "nose_width": FaceSpread(1.0, 0.06, 0.16, 0.14),
    "nose_bridge": FaceSpread(1.0, 0.1, 0.0, 0.16),
    "nose_projection": FaceSpread(1.0, 0.06, 0.0, 0.05),
    "nose_length_mm": FaceSpread(0.0, 0.0, 0.0, 0.5),
    "nose_hump_mm": FaceSpread(0.3, 0.0, 0.0, 1.1),
    "mouth_width": FaceSpread(1.0, 0.04, 0.0, 0.11),
    "mouth_height_mm": FaceSpread(0.0, 0.0, 0.0, 0.6),
    "upper_lip": FaceSpread(1.0, -0.25, 0.3, 0.32, 0.45, 1.8),
    "lower_lip": FaceSpread(1.0, -0.12, 0.3, 0.24, 0.5, 1.7),
    "lip_redness": FaceSpread(0.45, -0.6, 0.0, 0.15, 0.08, 1.0),
}
"""Traits of the face's shape, in the order of sampling, which is that of the fields."""


@dataclass(frozen=True)
class FaceIdentity:
    """Traits of one person's face.

    ``masculinity`` (0 to 1) and ``age_years`` shift the distributions of others in sampling.
    Ratios are near 1, ``*_mm`` are lengths or offsets, colours are sRGB triples in 0 to 1,
    ``texture_seed`` determines moles, blotches and strands.
    """

    masculinity: float
    age_years: float
    # skull and jaw
    face_width: float
    face_height: float
    cranium_height: float
    jaw_width: float
    chin_width: float
    chin_mm: float
    cheekbone_mm: float
    fullness_mm: float
    brow_ridge_mm: float
    # eyes and brows
    ipd_mm: float
    eye_width: float
    eye_opening: float
    eye_tilt_mm: float
    eye_depth_mm: float
    lid_crease_mm: float
    brow_height_mm: float
    brow_thickness_mm: float
    brow_tilt_mm: float
    brow_arch_mm: float
    brow_density: float
    # nose and mouth
    nose_width: float
    nose_bridge: float
    nose_projection: float
    nose_length_mm: float
    nose_hump_mm: float
    mouth_width: float
    mouth_height_mm: float
    upper_lip: float
    lower_lip: float
    lip_redness: float
    # surface
    skin_rgb: tuple[float, float, float]
    iris_rgb: tuple[float, float, float]
    hair_rgb: tuple[float, float, float]
    blush: float
    freckles: float
    wrinkles: float
    # hair
    hair_style: str
    hairline_mm: float
    hair_volume_mm: float
    hair_part: float
    hair_length_mm: float
    beard: str
    texture_seed: int

    @staticmethod
    def sample(
        rng: np.random.Generator,
        masculinity: float | None = None,
        age_years: float | None = None,
        deviates: Mapping[str, float] | None = None,
    ) -> FaceIdentity:
        """Sample a person; the same generator state gives the same person.

        ``masculinity`` (0 to 1, male above ½), ``age_years`` and ``deviates`` (standard normal, by
        name in ``FACE_SPREADS``) replace sampled values. Raises ValueError for an unknown name.
        """

        def spread(centre: float, sd: float) -> float:
            return centre + sd * float(np.clip(rng.normal(), -_LIMIT, _LIMIT))

        male = float(rng.random() < 0.5)
        drawn = float(np.clip(spread(0.12 + 0.76 * male, 0.15), 0, 1))
        if masculinity is None:
            masculinity = drawn
        else:
            male = float(masculinity > 0.5)
        age = float(rng.uniform(22, 68))
        age = age if age_years is None else age_years
        m = masculinity - 0.5
        tone = float(rng.random())
        skin = _walk(_SKIN, tone) * (1 + rng.normal(0, 0.03, 3))
        darkness = np.clip(tone + rng.normal(0, 0.2), 0, 1)
        iris = _walk(_IRIS, 1 - min(1.0, 0.15 + 1.6 * darkness) if rng.random() < 0.8 else 0.2)
        hair = _walk(_HAIR, float(np.clip((0.75 - darkness) * rng.uniform(0.3, 1.5), 0, 1)))
        grey = float(np.clip((age - 42) / 30 + rng.normal(0, 0.25), 0, 1)) if age > 42 else 0.0
        grey *= 0.4 + 0.6 * male
        hair = hair * (1 - 0.85 * grey) + _GREY * 0.85 * grey
        if male:
            style = str(rng.choice(HAIR_STYLES, p=_STYLE_P_MALE))
            beard = str(rng.choice(BEARDS, p=(0.42, 0.18, 0.12, 0.12, 0.16)))
        else:
            style = str(rng.choice(HAIR_STYLES, p=_STYLE_P_FEMALE))
            beard = "none"
        given = deviates or {}
        unknown = set(given) - set(FACE_SPREADS)
        if unknown:
            raise ValueError(f"no trait {', '.join(sorted(unknown))}; there are {[*FACE_SPREADS]}")
        normal = {name: float(rng.normal()) for name in FACE_SPREADS} | dict(given)
        shape = {n: s.value(m, tone - 0.5, normal[n]) for n, s in FACE_SPREADS.items()}
        return FaceIdentity(
            masculinity=masculinity,
            age_years=age,
            **shape,
            skin_rgb=_colour(skin),
            iris_rgb=_colour(iris),
            hair_rgb=_colour(hair),
            blush=float(rng.uniform(0.1, 1.0)),
            freckles=float(max(0.0, rng.normal(-0.3, 0.5)) * (1 - tone)),
            wrinkles=float(np.clip((age - 32) / 36 + rng.normal(0, 0.12), 0, 1)),
            hair_style=style,
            hairline_mm=spread(-72.0, 5.0),
            hair_volume_mm=float(np.clip(spread(14.0, 4.0), 6, 24)),
            hair_part=float(rng.uniform(-1, 1)),
            hair_length_mm=float(rng.uniform(120, 200)),
            beard=beard,
            texture_seed=int(rng.integers(2**31)),
        )

    def traits(self) -> dict[str, float]:
        """Return the shape and surface traits that are plain numbers, by name."""
        skip = {"texture_seed"}
        return {
            f.name: float(getattr(self, f.name))
            for f in fields(self)
            if f.type == "float" and f.name not in skip
        }

    def trait_vector(self) -> NDArray[np.float64]:
        """Return ``traits`` as a vector, float64 (n,), in the order of the class's fields."""
        return np.array(list(self.traits().values()))


# cropped, short, swept, fringe, bob, long, curly, tied, bald
_STYLE_P_MALE = (0.2, 0.26, 0.2, 0.08, 0.0, 0.04, 0.1, 0.0, 0.12)
_STYLE_P_FEMALE = (0.03, 0.04, 0.05, 0.1, 0.26, 0.3, 0.08, 0.14, 0.0)


def _walk(anchors: NDArray[np.float64], where: float) -> NDArray[np.float64]:
    """Return the colour at fraction ``where`` of a palette of (n, 3) anchors."""
    at = float(np.clip(where, 0, 1)) * (len(anchors) - 1)
    return np.array([np.interp(at, np.arange(len(anchors)), anchors[:, c]) for c in range(3)])


def _colour(rgb: NDArray[np.float64]) -> tuple[float, float, float]:
    r, g, b = np.clip(rgb, 0.02, 0.98)
    return (float(r), float(g), float(b))


class VoiceSpread(NamedTuple):
    """Distribution of a trait: centre + ``by_masculinity`` · m + sd · deviate, within limits.

    m is masculinity − ½. The deviate is standard normal, clipped at ±2. If ``log``, the sum is over
    natural logarithms, while ``centre``, ``low`` and ``high`` are plain values.
    """

    centre: float
    by_masculinity: float
    sd: float
    low: float
    high: float
    log: bool = False

    def value(self, masculinity: float, deviate: float) -> float:
        """Return the trait for a masculinity (0 to 1) and a deviate."""
        centre = np.log(self.centre) if self.log else self.centre
        value = centre + self.by_masculinity * (masculinity - 0.5)
        value += self.sd * np.clip(deviate, -2, 2)
        return float(np.clip(np.exp(value) if self.log else value, self.low, self.high))


VOICE_SPREADS = {
    "pitch_hz": VoiceSpread(150.0, -0.72, 0.13, 70.0, 320.0, log=True),
    "tract_cm": VoiceSpread(15.6, 3.0, 0.7, 12.5, 19.0),
    "rd": VoiceSpread(1.1, -0.3, 0.3, 0.5, 2.2),
    "tilt_db": VoiceSpread(3.0, 0.0, 3.0, -3.0, 9.0),
    "jitter": VoiceSpread(0.007, 0.0, 0.35, 0.002, 0.02, log=True),
    "shimmer": VoiceSpread(0.05, 0.0, 0.35, 0.015, 0.15, log=True),
    "breath": VoiceSpread(0.05, -0.3, 0.6, 0.008, 0.25, log=True),
    "nasality": VoiceSpread(0.25, 0.0, 0.14, 0.0, 0.6),
    "vowel_space": VoiceSpread(1.0, 0.0, 0.13, 0.65, 1.3),
    "sibilance": VoiceSpread(1.0, -0.12, 0.11, 0.7, 1.3),
    "rate": VoiceSpread(1.0, 0.0, 0.12, 0.7, 1.35),
    "range_st": VoiceSpread(3.6, -0.8, 1.1, 1.0, 7.0),
}
"""Traits of a voice, in the order of sampling."""


@dataclass(frozen=True)
class VoiceIdentity:
    """Traits of one person's voice.

    ``pitch_hz``: mean pitch (geometric); ``tract_cm``: length of the vocal tract, which scales all
    formants; ``rd``: shape of the glottal pulse, from pressed 0.5 to lax 2.2; ``tilt_db``: further
    loss of pulses and breath at 4 kHz; ``jitter``, ``shimmer``: standard deviation of a cycle's
    length and strength, as a fraction; ``breath``: noise at the glottis relative to the voice;
    ``nasality``: distance of the nasal zero from its pole in vowels, 0 to 0.6; ``vowel_space``:
    spread of the vowels about the neutral one, 1 usual; ``sibilance``: factor on the frequencies of
    s and sh; ``rate``: of speaking, 1 usual; ``range_st``: liveliness of the pitch, semitones;
    ``accent_seed``: determines small shifts of each vowel.
    """

    pitch_hz: float
    tract_cm: float
    rd: float
    tilt_db: float
    jitter: float
    shimmer: float
    breath: float
    nasality: float
    vowel_space: float
    sibilance: float
    rate: float
    range_st: float
    accent_seed: int

    @staticmethod
    def sample(
        rng: np.random.Generator,
        masculinity: float | None = None,
        deviates: Mapping[str, float] | None = None,
    ) -> VoiceIdentity:
        """Sample a voice; the same generator state gives the same voice.

        ``masculinity``: 0 to 1, sampled if None; ``deviates``: standard normal, by name in
        ``VOICE_SPREADS``, replace sampled ones without changing the others. Raises ValueError for
        an unknown name.
        """
        drawn = 0.12 + 0.76 * float(rng.random() < 0.5) + 0.1 * float(rng.normal())
        m = float(np.clip(drawn, 0, 1)) if masculinity is None else masculinity
        normal = {name: float(rng.normal()) for name in VOICE_SPREADS} | dict(deviates or {})
        unknown = set(normal) - set(VOICE_SPREADS)
        if unknown:
            raise ValueError(
                f"no trait {', '.join(sorted(unknown))}; there are {list(VOICE_SPREADS)}"
            )
        values = {name: spread.value(m, normal[name]) for name, spread in VOICE_SPREADS.items()}
        return VoiceIdentity(**values, accent_seed=int(rng.integers(2**31)))

    def traits(self) -> dict[str, float]:
        """Return the traits that are plain numbers, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "accent_seed"}
