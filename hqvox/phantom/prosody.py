"""What a phantom says and how: phonemes, a random sequence of them, and the control tracks.

Syllables make words, words make phrases, and pauses separate phrases. Smoothing the tracks blends
the targets of neighbouring sounds, as coarticulation does. A track has one value per millisecond.

Formants are those of a vocal tract of ``REFERENCE_CM`` and scale with its length. Vowels lie near
the averages that Hillenbrand et al. (1995) measured on men. Targets of consonants are loci: the
frequencies that the formants head for while the tongue makes the sound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from hqvox.phantom.identity import VoiceIdentity

F64 = NDArray[np.float64]

REFERENCE_CM = 17.0
"""Length of the vocal tract for which formants are given."""


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
"""Symbol of a pause in an utterance's phonemes."""

_CODAS = tuple(s for s in CONSONANTS if s not in ("w", "j", "h"))
_ONSETS = tuple(s for s in CONSONANTS if s != "ŋ")
_NEUTRAL = (500.0, 1500.0, 2500.0)
_ORAL_ZERO_HZ = 270.0
"""Where the nasal pole and zero meet, and so cancel, in sounds that are not nasal."""


@dataclass(frozen=True)
class Sound:
    """One phoneme of an utterance: its symbol, or ``PAUSE``, from ``start_s`` to ``end_s``."""

    symbol: str
    start_s: float
    end_s: float
    stressed: bool = False


@dataclass(frozen=True)
class Tracks:
    """Control tracks of the synthesis; each (milliseconds,), formants (milliseconds, 3).

    Formants are for the reference tract; amplitudes are relative to a vowel's; ``semitones`` are
    relative to the voice's mean pitch.
    """

    formants_hz: F64
    nasal_zero_hz: F64
    noise_hz: F64
    noise_width_hz: F64
    voicing: F64
    aspiration: F64
    frication: F64
    semitones: F64


def compose(voice: VoiceIdentity, seconds: float, rng: np.random.Generator) -> list[Sound]:
    """Return a random sequence of sounds that lasts ``seconds``, with pauses at both ends.

    Sounds last whole milliseconds. The last one is shortened, or the pause lengthened, so that the
    sum is exact.
    """
    total = round(seconds * 1000)
    sounds: list[tuple[str, int, bool]] = [(PAUSE, int(rng.integers(60, 200)), False)]
    tail = int(rng.integers(80, 200))
    while sum(ms for _, ms, _ in sounds) < total - tail:
        phrase = _phrase(voice, rng)
        sounds += phrase
        sounds.append((PAUSE, int(rng.integers(130, 380) / voice.rate), False))
    out: list[Sound] = []
    at = 0
    for symbol, ms, stressed in sounds:
        end = min(at + ms, total - tail)
        if end - at >= 30:
            out.append(Sound(symbol, at / 1000, end / 1000, stressed))
            at = end
        if at >= total - tail:
            break
    if out[-1].symbol == PAUSE:
        at = round(out.pop().start_s * 1000)
    return [*out, Sound(PAUSE, at / 1000, total / 1000)]


def _phrase(voice: VoiceIdentity, rng: np.random.Generator) -> list[tuple[str, int, bool]]:
    words = int(rng.integers(2, 6))
    out: list[tuple[str, int, bool]] = []
    for word in range(words):
        syllables = int(rng.choice((1, 2, 3), p=(0.45, 0.4, 0.15)))
        accent = int(rng.integers(syllables))
        for syllable in range(syllables):
            stressed = syllable == accent
            symbols = [str(rng.choice(_ONSETS))] if rng.random() < 0.85 else []
            if symbols and PHONEMES[symbols[0]].kind == "stop" and rng.random() < 0.2:
                symbols.append(str(rng.choice(("l", "r", "w"))))
            vowel = str(rng.choice(VOWELS))
            if not stressed and rng.random() < 0.35:
                vowel = "ə"
            symbols.append(vowel)
            if rng.random() < 0.4:
                symbols.append(str(rng.choice(_CODAS)))
            final = word == words - 1 and syllable == syllables - 1
            stretch = (1.2 if stressed else 0.9) * (1.35 if final else 1.0) / voice.rate
            for symbol in symbols:
                length = PHONEMES[symbol].length_ms * stretch * float(rng.uniform(0.85, 1.2))
                out.append((symbol, max(30, round(length)), stressed))
    return out


def tracks(voice: VoiceIdentity, sounds: list[Sound], rng: np.random.Generator) -> Tracks:
    """Return the control tracks of ``sounds`` in this voice."""
    n = round(sounds[-1].end_s * 1000)
    formants = np.tile(np.array(_NEUTRAL), (n, 1))
    zero, noise, width = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    voicing, aspiration, frication = np.zeros(n), np.zeros(n), np.zeros(n)
    accent = _accent(voice)
    for number, sound in enumerate(sounds):
        a, b = round(sound.start_s * 1000), round(sound.end_s * 1000)
        if sound.symbol == PAUSE:
            # the tongue holds its position for half the pause, then takes that of the next sound
            follows = sounds[number + 1 : number + 2]
            if number:
                formants[a : (a + b) // 2] = formants[a - 1]
            if follows:
                formants[(a + b) // 2 : b] = _target(voice, PHONEMES[follows[0].symbol], accent)
            continue
        phoneme = PHONEMES[sound.symbol]
        formants[a:b] = _target(voice, phoneme, accent)
        if phoneme.glide_hz is not None:
            end = _spread(voice, np.array(phoneme.glide_hz)) * accent[phoneme.symbol]
            go = np.clip(np.linspace(-0.3, 1.2, b - a), 0, 1)[:, None]
            formants[a:b] += go * (end - formants[a:b])
        if phoneme.nasal_zero_hz:
            zero[a:b] = phoneme.nasal_zero_hz
        if phoneme.frication:
            noise[a:b] = (
                voice.sibilance * phoneme.noise_hz if phoneme.sibilant else phoneme.noise_hz
            )
            width[a:b] = phoneme.noise_width_hz
        _excite(phoneme, a, b, sound.stressed, voicing, aspiration, frication)
    smooth = 16 / voice.rate
    return Tracks(
        formants_hz=np.exp(gaussian_filter1d(np.log(formants), smooth, axis=0, mode="nearest")),
        nasal_zero_hz=gaussian_filter1d(_nasal(voice, zero, voicing), 10, mode="nearest"),
        noise_hz=_hold(noise, 4000.0),
        noise_width_hz=_hold(width, 2000.0),
        voicing=gaussian_filter1d(voicing, 6),
        aspiration=gaussian_filter1d(aspiration, 6),
        frication=gaussian_filter1d(frication, 2.5),
        semitones=_intonation(voice, sounds, n, rng),
    )


def _excite(
    phoneme: Phoneme, a: int, b: int, stressed: bool, voicing: F64, aspiration: F64, frication: F64
) -> None:
    """Write the amplitudes of one sound from millisecond ``a`` to ``b``, in place."""
    if not phoneme.closure_ms:
        loud = 1.0 if stressed or phoneme.kind != "vowel" else 0.8
        voicing[a:b] = phoneme.voicing * loud
        aspiration[a:b] = phoneme.aspiration
        edge = np.minimum(np.arange(b - a) + 1, np.arange(b - a, 0, -1))
        frication[a:b] = phoneme.frication * np.clip(edge / 20, 0, 1)
        return
    share = phoneme.closure_ms / (phoneme.closure_ms + phoneme.onset_ms)
    release = a + round((b - a) * share)
    voicing[a:release] = phoneme.voicing
    burst = min(b, release + 12)
    frication[release:burst] = phoneme.frication * 1.6
    aspiration[burst:b] = phoneme.aspiration


def _target(voice: VoiceIdentity, phoneme: Phoneme, accent: dict[str, F64]) -> F64:
    if phoneme.kind != "vowel":
        return np.array(phoneme.formants_hz)
    return _spread(voice, np.array(phoneme.formants_hz)) * accent[phoneme.symbol]


def _spread(voice: VoiceIdentity, formants: F64) -> F64:
    """Scale a vowel's distance from the neutral vowel by the speaker's vowel space."""
    middle = np.array(_NEUTRAL)
    return np.asarray(middle * (formants / middle) ** voice.vowel_space)


def _accent(voice: VoiceIdentity) -> dict[str, F64]:
    """Return the speaker's accent: factors of F1 to F3 for each vowel."""
    rng = np.random.default_rng(voice.accent_seed)
    return {s: np.exp(rng.normal(0, (0.03, 0.03, 0.02))) for s in VOWELS}


def _nasal(voice: VoiceIdentity, zero: F64, voicing: F64) -> F64:
    """Return the nasal zero, Hz: a nasal's own, else off its pole by the voice's nasality."""
    oral = _ORAL_ZERO_HZ * (1 + voice.nasality * (voicing > 0.6))
    return np.where(np.isnan(zero), oral, zero)


def _hold(values: F64, default: float) -> F64:
    """Fill the gaps of a track with the next value, so that filters are set before the noise."""
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return np.full(len(values), default)
    following = np.minimum(np.searchsorted(known, np.arange(len(values))), len(known) - 1)
    return values[known[following]]


def _intonation(voice: VoiceIdentity, sounds: list[Sound], n: int, rng: np.random.Generator) -> F64:
    """Declination over each phrase, a peak on stressed vowels, a fall or rise at the end."""
    t = np.arange(n)
    line = np.zeros(n)
    size = voice.range_st
    at = 0
    while at < len(sounds):
        if sounds[at].symbol == PAUSE:
            at += 1
            continue
        last = at
        while last + 1 < len(sounds) and sounds[last + 1].symbol != PAUSE:
            last += 1
        a, b = round(sounds[at].start_s * 1000), round(sounds[last].end_s * 1000)
        inside = (t >= a - 50) & (t < b + 50)
        through = np.clip((t - a) / (b - a), 0, 1)
        phrase = size * (0.35 - 0.7 * through)
        for sound in sounds[at : last + 1]:
            if sound.stressed and PHONEMES[sound.symbol].kind == "vowel":
                peak = 1000 * (0.6 * sound.start_s + 0.4 * sound.end_s)
                height = size * float(rng.uniform(0.2, 0.9))
                phrase = phrase + height * np.exp(-0.5 * ((t - peak) / 75) ** 2)
        end = 0.9 if rng.random() < 0.2 else -0.6
        phrase = phrase + end * size * np.exp(-0.5 * ((t - b) / 110) ** 2)
        line[inside] = phrase[inside]
        at = last + 1
    voiced = np.zeros(n, dtype=bool)
    for sound in sounds:
        if sound.symbol != PAUSE and PHONEMES[sound.symbol].voicing > 0.3:
            voiced[round(sound.start_s * 1000) : round(sound.end_s * 1000)] = True
    if voiced.any():
        line -= line[voiced].mean()
    flutter = gaussian_filter1d(rng.standard_normal(n), 40) * 0.15 * np.sqrt(2 * 40 * np.pi**0.5)
    return np.asarray(gaussian_filter1d(line, 15, mode="nearest") + flutter)
