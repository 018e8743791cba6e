"""The sounds that phantoms speak: what each asks of source, tract and tongue.

Formants are for a tract of ``REFERENCE_CM`` and scale with its length. Vowels stand near the
averages that Hillenbrand et al. (1995) measured on men; consonants' targets are where formants head
for (loci) while the tongue makes the sound.
"""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE_CM = 17.0


@dataclass(frozen=True)
class Phoneme:
    """One sound.

    ``formants_hz``: targets of F1 to F3; ``glide_hz``: those it ends on, if others; ``length_ms``
    at an average rate; ``voicing``: strength of the pulses, 1 in a vowel; ``aspiration``,
    ``frication``: strength of noise at the glottis, and at a constriction, relative to a vowel's;
    ``noise_hz``, ``noise_width_hz``: where the constriction's noise lies; ``nasal_zero_hz``: dip of
    a nasal's spectrum; ``closure_ms``, ``onset_ms``: a stop's silence, and from its burst to the
    voice's onset.
    """

    symbol: str
    kind: str
    formants_hz: tuple[float, float, float]
    length_ms: float
    voicing: float = 1.0
    aspiration: float = 0.0
    frication: float = 0.0
    noise_hz: float = 0.0
    noise_width_hz: float = 0.0
    nasal_zero_hz: float = 0.0
    closure_ms: float = 0.0
    onset_ms: float = 0.0
    glide_hz: tuple[float, float, float] | None = None
    sibilant: bool = False


def _vowels() -> list[Phoneme]:
    plain = {
        "i": (330, 2300, 3000, 95), "ɪ": (430, 2020, 2680, 70), "e": (480, 2080, 2680, 100),
        "ɛ": (580, 1800, 2600, 80), "æ": (620, 1900, 2600, 110), "ɑ": (760, 1310, 2520, 110),
        "ɔ": (650, 1000, 2540, 110), "o": (500, 910, 2460, 100), "ʊ": (470, 1120, 2430, 70),
        "u": (370, 980, 2340, 95), "ʌ": (620, 1200, 2550, 75), "ɝ": (480, 1370, 1710, 100),
        "ə": (500, 1480, 2500, 50),
    }  # fmt: skip
    gliding = {
        "aɪ": ((740, 1350, 2520), (400, 2050, 2700), 140), "eɪ": ((500, 1900, 2600),
        (370, 2250, 2900), 125), "aʊ": ((740, 1400, 2520), (460, 1000, 2400), 140),
        "oʊ": ((540, 1050, 2450), (400, 850, 2350), 125), "ɔɪ": ((600, 950, 2500),
        (400, 2000, 2700), 140),
    }  # fmt: skip
    sounds = [Phoneme(s, "vowel", (a, b, c), ms) for s, (a, b, c, ms) in plain.items()]
    sounds += [Phoneme(s, "vowel", a, ms, glide_hz=b) for s, (a, b, ms) in gliding.items()]
    return sounds


def _consonants() -> list[Phoneme]:
    sounds = [
        Phoneme(s, "nasal", (450, f2, f3), 65, 0.4, nasal_zero_hz=zero)
        for s, f2, f3, zero in (
            ("m", 1000, 2250, 850), ("n", 1550, 2600, 1450), ("ŋ", 1950, 2500, 2400))
    ]  # fmt: skip
    sounds += [
        Phoneme(s, "liquid", f, ms, 0.6)
        for s, f, ms in (
            ("l", (370, 1080, 2620), 60), ("r", (360, 1180, 1620), 60), ("w", (310, 700, 2250), 60),
            ("j", (290, 2230, 2950), 60))
    ]  # fmt: skip
    # place of the constriction: F2 and F3 loci, noise's middle, width and strength
    fricatives = {
        "f": (1000, 2250, 5200, 7000, 0.10), "θ": (1450, 2550, 6200, 6000, 0.09),
        "s": (1700, 2600, 5600, 1900, 0.45), "ʃ": (1950, 2550, 3300, 1300, 0.50),
    }  # fmt: skip
    voiced = {"f": "v", "θ": "ð", "s": "z", "ʃ": "ʒ"}
    for s, (f2, f3, middle, width, strength) in fricatives.items():
        hiss = s in "sʃ"
        sounds.append(
            Phoneme(s, "fricative", (330, f2, f3), 100, 0.0, 0.03, strength, middle, width,
                    sibilant=hiss)
        )  # fmt: skip
        sounds.append(
            Phoneme(voiced[s], "voiced fricative", (300, f2, f3), 65, 0.35, 0.0, 0.45 * strength,
                    middle, width, sibilant=hiss)
        )  # fmt: skip
    sounds.append(Phoneme("h", "fricative", (500, 1500, 2500), 60, 0.05, 0.8))
    # F2 and F3 loci, burst's middle, width and strength, onset when voiceless and voiced
    stops = {
        "pb": (900, 2200, 1100, 1800, 0.25, 45, 8), "td": (1750, 2650, 4400, 2600, 0.6, 55, 12),
        "kg": (1900, 2250, 2000, 900, 0.55, 60, 18),
    }  # fmt: skip
    for pair, (f2, f3, middle, width, strength, late, early) in stops.items():
        sounds.append(
            Phoneme(pair[0], "stop", (300, f2, f3), 60 + late, 0.0, 0.35, strength, middle, width,
                    closure_ms=60, onset_ms=late)
        )  # fmt: skip
        sounds.append(
            Phoneme(pair[1], "voiced stop", (260, f2, f3), 50 + early, 0.18, 0.1, 0.7 * strength,
                    middle, width, closure_ms=50, onset_ms=early)
        )  # fmt: skip
    return sounds


PHONEMES: dict[str, Phoneme] = {p.symbol: p for p in [*_vowels(), *_consonants()]}
"""Every sound by its IPA symbol."""
VOWELS = tuple(s for s, p in PHONEMES.items() if p.kind == "vowel")
CONSONANTS = tuple(s for s, p in PHONEMES.items() if p.kind != "vowel")
PAUSE = "_"
"""Stands in an utterance's phonemes where nothing is said."""
