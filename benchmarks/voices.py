"""Accuracy of phantom voices against their ground truth, and the speed of synthesis.

    python benchmarks/voices.py                   60 voices, and the traits of 240
    python benchmarks/voices.py --voices 20 --persons 0

The measures (``hqvox/phantom/hearing.py``, the WebRTC VAD) do not use the synthesis.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import webrtcvad
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hqvox.phantom.hearing import (
    formants_by_lpc,
    pitch_by_autocorrelation,
    verification,
    voice_embedding,
)
from hqvox.phantom.identity import VoiceIdentity
from hqvox.phantom.person import TRAITS, Person
from hqvox.phantom.prosody import PAUSE, PHONEMES
from hqvox.phantom.voices import FRAME_S, RATE_HZ, Recording, Utterance, speak

UTTERANCES, SECONDS = 4, 6.0
_VAD_S = 0.03


@dataclass(frozen=True)
class Spoken:
    """Utterances, whose voices they are, and the processor time that each took, seconds."""

    utterances: list[Utterance]
    people: NDArray[np.int64]
    cost_s: NDArray[np.float64]


def speak_all(voices: int, seed: int, recorded: bool) -> Spoken:
    """Let ``voices`` speak, ``recorded`` each time in another place, or into a close microphone."""
    utterances, people, cost = [], [], []
    for i in range(voices):
        rng = np.random.default_rng([seed, i])
        voice = VoiceIdentity.sample(rng)
        for _ in range(UTTERANCES):
            start = time.process_time()
            place = Recording.sample(rng) if recorded else None
            utterances.append(speak(voice, SECONDS, rng, place))
            cost.append(time.process_time() - start)
            people.append(i)
    return Spoken(utterances, np.array(people), np.array(cost))


def vowel_times(utterance: Utterance) -> NDArray[np.float64]:
    """Middles of the steady vowels, seconds."""
    return np.array(
        [
            (s.start_s + s.end_s) / 2
            for s in utterance.sounds
            if s.symbol != PAUSE
            and PHONEMES[s.symbol].kind == "vowel"
            and PHONEMES[s.symbol].glide_hz is None
            and s.end_s - s.start_s >= 0.06
        ]
    )


def voiced_shares(utterance: Utterance) -> tuple[float, float]:
    """Share of the VAD's frames called speech, of those within speech and within pauses."""
    vad = webrtcvad.Vad(1)
    length = round(_VAD_S * RATE_HZ)
    frames = utterance.samples[: len(utterance.samples) // length * length].reshape(-1, length)
    speech = np.array([vad.is_speech(frame.tobytes(), RATE_HZ) for frame in frames])
    starts = np.arange(len(frames)) * _VAD_S
    quiet = np.zeros(len(frames), dtype=bool)
    said = np.ones(len(frames), dtype=bool)
    for sound in utterance.sounds:
        if sound.symbol == PAUSE:
            quiet |= (starts >= sound.start_s) & (starts + _VAD_S <= sound.end_s)
            said &= (starts + _VAD_S <= sound.start_s) | (starts >= sound.end_s)
    return float(speech[said].mean()), float(speech[quiet].mean())


def told_apart(spoken: Spoken) -> str:
    """AUC and equal error rate of same against other voices."""
    embeddings = np.stack([voice_embedding(u.samples) for u in spoken.utterances])
    auc, equal = verification(embeddings, spoken.people)
    return f"{auc:.3f}, {equal:.1%}"


def report(spoken: Spoken, close: Spoken) -> Table:
    """Lay the figures out beside what is asked of them."""
    pitch_error, formant_error, shares = [], [], []
    for utterance in spoken.utterances:
        times = vowel_times(utterance)
        frames = np.minimum((times / FRAME_S).astype(int), len(utterance.pitch_hz) - 1)
        pitch = pitch_by_autocorrelation(utterance.samples, times)
        pitch_error.append(np.abs(pitch / utterance.pitch_hz[frames] - 1))
        found = formants_by_lpc(utterance.samples, times)
        formant_error.append(np.abs(found / utterance.formants_hz[frames] - 1))
        shares.append(voiced_shares(utterance))
    off = np.concatenate(pitch_error)
    formants = np.nanmedian(np.concatenate(formant_error), axis=0)
    speech, pauses = np.mean(shares, axis=0)
    table = Table("measure", "phantom voices", "asked")
    table.add_row("speed, of one core", f"{SECONDS / np.median(spoken.cost_s):.0f} × real time",
                  "≥ 20")  # fmt: skip
    table.add_row("pitch error in vowels, median", f"{np.nanmedian(off):.2%}", "≤ 3 %")
    table.add_row("… share beyond 10 %, or none found", f"{1 - np.mean(off < 0.1):.1%}", "")
    for k, error in enumerate(formants):
        table.add_row(f"F{k + 1} error in vowels, median", f"{error:.1%}", "≤ 10 %")
    table.add_row("VAD calls speech, of frames within speech", f"{speech:.1%}", "≥ 90 %")
    table.add_row("… of frames within pauses", f"{pauses:.1%}", "")
    table.add_row("same or another voice, AUC and equal error rate", told_apart(spoken), "> 0.5")
    table.add_row("… close microphones", told_apart(close), "> 0.5")
    return table


def hear(persons: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Speak three utterances each; return what is heard (n, features) and the traits (n, k)."""
    heard, traits = [], []
    times = np.arange(0.2, SECONDS - 0.2, 0.04)
    for i in range(persons):
        person = Person.sample(np.random.default_rng([seed, i]))
        rng = np.random.default_rng([seed, i, 1])
        said = [speak(person.voice, SECONDS, rng, Recording.sample(rng)).samples for _ in range(3)]
        pitch = [np.nanmedian(np.log(pitch_by_autocorrelation(x, times))) for x in said]
        looks = np.column_stack([[voice_embedding(x) for x in said], pitch])
        heard.append(looks.mean(axis=0))
        traits.append(person.voice_traits)
    return np.array(heard), np.array(traits)


def told(heard: NDArray[np.float64], traits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each trait's variance that ridge regression tells of persons it has not seen.

    Eight folds; the ridge is 10 on standardised features, not tuned.
    """
    x = np.column_stack([(heard - heard.mean(axis=0)) / heard.std(axis=0), np.ones(len(heard))])
    guess = np.zeros_like(traits)
    for fold in range(8):
        out = np.arange(len(x)) % 8 == fold
        gram = x[~out].T @ x[~out] + 10 * np.eye(x.shape[1])
        guess[out] = x[out] @ np.linalg.solve(gram, x[~out].T @ traits[~out])
    left = ((traits - guess) ** 2).sum(axis=0)
    return np.asarray(1 - left / ((traits - traits.mean(axis=0)) ** 2).sum(axis=0))


def trait_report(persons: int, seed: int) -> Table:
    """Lay out how well each trait is heard."""
    table = Table("trait", "moves in the voice", "moves in the face", "heard, R²")
    for trait, share in zip(TRAITS, told(*hear(persons, seed)), strict=True):
        voice = ", ".join(trait.voice) or "what differs between the sexes"
        face = ", ".join(trait.face) or {"age": "age_years"}.get(trait.name, "masculinity")
        table.add_row(trait.name, voice, face, f"{share:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--voices", type=int, default=60, help="voices to draw, at least 2")
    parser.add_argument(
        "--persons", type=int, default=240, help="persons for the traits' table; 0: leave it out"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    spoken, close = (speak_all(arguments.voices, arguments.seed, place) for place in (True, False))
    console = Console()
    console.print(report(spoken, close))
    if arguments.persons:
        console.print(trait_report(arguments.persons, arguments.seed))


if __name__ == "__main__":
    main()
