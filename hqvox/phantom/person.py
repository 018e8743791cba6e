"""Phantom persons: a voice and a face sampled jointly, with a known dependence.

A person has nine traits (``TRAITS``), each twice: v in the voice and f in the face, both standard
normal, with

    f = shared · v + √(1 − shared²) · e,   e standard normal, all traits independent.

So the correlation of v and f is ``shared`` for each trait. No model can explain more than
``shared``² of the variance of a face trait from the voice. With ``shared`` = 0 voice and face are
independent; with 1 the voice determines the face's traits.

The voice is a function of v: each trait sets the deviates of its parameters, all of which are
audible. The face depends on f: dimorphism and age through their own distributions; every other
trait moves a group of n shape parameters together, along the unit vector u of its signs. The rest
of the group's variation is private to the face:

    deviates = amplitude · f · u + private · (d − (u·d) u),   d standard normal (n,),
    amplitude² = n − private² · (n − 1), so that every deviate keeps the variance 1.

With ``private`` = 1 faces have the distribution of ``FaceIdentity.sample``, and a trait is one of n
directions of its group; with 0 it determines its group. Skin, hair, iris, moles, the rest of the
shape, and in the voice rate, liveliness and accent, belong to no trait and are independent.
Deviates are clipped at ±2 when they become parameters; these figures ignore that small loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from hqvox.phantom.identity import FACE_SPREADS, FaceIdentity, VoiceIdentity

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Trait:
    """One shared trait: the voice's and the face's parameters that follow it, with signs.

    ``voice``: names in ``VOICE_SPREADS``, ``face``: in ``FACE_SPREADS``.
    """

    name: str
    voice: dict[str, int]
    face: dict[str, int]

    @property
    def direction(self) -> F64:
        """Unit vector of the face's signs, (n,)."""
        signs = np.array(list(self.face.values()), dtype=np.float64)
        return signs / np.sqrt(len(signs))


TRAITS = (
    # these two act through masculinity, and age_years
    Trait("dimorphism", {}, {}),
    Trait("age", {"jitter": 1, "shimmer": 1, "tilt_db": 1}, {}),
    Trait("size", {"tract_cm": 1}, {"face_width": 1, "face_height": 1, "jaw_width": 1}),
    Trait("brow", {"pitch_hz": -1}, {"brow_thickness_mm": 1, "brow_ridge_mm": 1,
                                     "eye_depth_mm": 1, "brow_height_mm": -1}),
    Trait("build", {"rd": 1}, {"fullness_mm": 1, "cheekbone_mm": -1}),
    Trait("eyes", {"breath": 1}, {"eye_tilt_mm": 1, "ipd_mm": 1, "eye_width": 1,
                                  "eye_opening": 1}),
    Trait("nose", {"nasality": 1}, {"nose_width": 1, "nose_bridge": 1, "nose_hump_mm": 1}),
    Trait("mouth", {"vowel_space": 1}, {"mouth_width": 1, "upper_lip": 1, "lower_lip": 1}),
    Trait("chin", {"sibilance": -1}, {"chin_mm": 1, "chin_width": 1}),
)  # fmt: skip
"""Dimorphism sets pitch, tract length and every other parameter that differs between the sexes; in
faces it sets ``masculinity``, on which others depend."""

_AGES = (22.0, 68.0)


@dataclass(frozen=True)
class Person:
    """A voice, a face, and the traits (len(TRAITS),) that each of them was made from."""

    voice: VoiceIdentity
    face: FaceIdentity
    voice_traits: F64
    face_traits: F64

    @staticmethod
    def sample(rng: np.random.Generator, shared: float = 1.0, private: float = 1.0) -> Person:
        """Sample a person; the module's docstring defines ``shared`` and ``private``, 0 to 1.

        The voice, and what is private to the face, depends on neither.
        """
        _check("shared", shared)
        _check("private", private)
        streams = rng.spawn(3)
        v, e = streams[0].standard_normal((2, len(TRAITS)))
        f = shared * v + np.sqrt(1 - shared**2) * e
        return Person(_voice(v, streams[1]), _face(f, private, streams[2]), v, f)


def voice_for(face: FaceIdentity, rng: np.random.Generator, shared: float = 1.0) -> VoiceIdentity:
    """Sample a voice for a given face from the same joint distribution."""
    _check("shared", shared)
    streams = rng.spawn(2)
    e = streams[0].standard_normal(len(TRAITS))
    # v given f: the model is symmetric
    return _voice(shared * face_traits(face) + np.sqrt(1 - shared**2) * e, streams[1])


def face_traits(face: FaceIdentity) -> F64:
    """Return the traits of a face sampled by ``FaceIdentity.sample``, (len(TRAITS),).

    For a face sampled with ``private`` below 1 it returns amplitude · f. Both are exact up to
    clipping and up to the effect of the skin's tone on nose and lips.
    """
    m = face.masculinity - 0.5
    out = [_masculinity_deviate(face.masculinity), _age_deviate(face.age_years)]
    for trait in TRAITS[2:]:
        deviates = [FACE_SPREADS[n].deviate(getattr(face, n), m) for n in trait.face]
        out.append(float(trait.direction @ np.array(deviates)))
    return np.array(out)


def explained(shared: float, private: float = 1.0) -> dict[str, float]:
    """Return the share of each shape deviate's variance that the voice explains, 0 to 1, by name.

    Names of ``FACE_SPREADS`` that belong to no trait have 0.
    """
    _check("shared", shared)
    _check("private", private)
    out = dict.fromkeys(FACE_SPREADS, 0.0)
    for trait in TRAITS:
        n = len(trait.face)
        for name in trait.face:
            out[name] = shared**2 * (n - private**2 * (n - 1)) / n
    return out


def _check(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, not {value}")


def _voice(v: F64, rng: np.random.Generator) -> VoiceIdentity:
    deviates = {
        name: sign * float(value)
        for trait, value in zip(TRAITS, v, strict=True)
        for name, sign in trait.voice.items()
    }
    return VoiceIdentity.sample(rng, _masculinity(float(v[0])), deviates)


def _face(f: F64, private: float, rng: np.random.Generator) -> FaceIdentity:
    deviates: dict[str, float] = {}
    for trait, value in zip(TRAITS[2:], f[2:], strict=True):
        u, n = trait.direction, len(trait.face)
        d = rng.standard_normal(n)
        amplitude = np.sqrt(n - private**2 * (n - 1))
        moved = amplitude * value * u + private * (d - (u @ d) * u)
        deviates |= dict(zip(trait.face, moved.tolist(), strict=True))
    low, high = _AGES
    age = low + (high - low) * float(ndtr(f[1]))
    return FaceIdentity.sample(rng, _masculinity(float(f[0])), age, deviates)


def _masculinity(deviate: float) -> float:
    """Map a normal deviate to the two-component mixture of ``FaceIdentity.sample``."""
    share = float(ndtr(deviate))
    male = float(share > 0.5)
    within = float(np.clip(ndtri(2 * share - male), -2, 2))
    return float(np.clip(0.12 + 0.76 * male + 0.15 * within, 0, 1))


def _masculinity_deviate(masculinity: float) -> float:
    male = float(masculinity > 0.5)
    within = float(ndtr((masculinity - 0.12 - 0.76 * male) / 0.15))
    return float(ndtri(np.clip((within + male) / 2, 1e-4, 1 - 1e-4)))


def _age_deviate(age_years: float) -> float:
    low, high = _AGES
    return float(ndtri(np.clip((age_years - low) / (high - low), 1e-4, 1 - 1e-4)))
