"""Plot of an utterance: waveform, voice activity, log-mel.

python -m hqvox.speech.picture VOICE.wav OUT.jpg
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqvox.speech.decode import decode
from hqvox.speech.log_mel import FRAMES_PER_SECOND, SAMPLE_RATE_HZ, log_mel
from hqvox.speech.vad import SF2F, speech_frames, voiced_frames

BLUE, GREEN, GREY = "#1f5a94", "#2e9c6a", "#9aa3ad"


def draw_utterance(samples: NDArray[np.int16], n_filters: int = 40, title: str = "") -> Image.Image:
    """Plot 16 kHz mono samples: waveform, voiced and kept frames, log-mel of the kept frames.

    Returns an RGB picture, 1200 px wide.
    """
    voiced = voiced_frames(samples)
    kept = speech_frames(voiced)
    spoken = (
        samples[: len(kept) * SF2F.frame_samples].reshape(-1, SF2F.frame_samples)[kept].reshape(-1)
    )
    energies = log_mel(spoken, n_filters)
    seconds = len(samples) / SAMPLE_RATE_HZ
    figure, (wave, activity, mel) = plt.subplots(
        3, 1, figsize=(12, 6.2), height_ratios=(3, 0.9, 4), constrained_layout=True
    )
    wave.plot(np.arange(len(samples)) / SAMPLE_RATE_HZ, samples / 32768, color=BLUE, lw=0.4)
    wave.set(xlim=(0, seconds), ylabel="amplitude", title=title)
    starts = np.arange(len(voiced)) * SF2F.frame_samples / SAMPLE_RATE_HZ
    width = SF2F.frame_samples / SAMPLE_RATE_HZ
    activity.bar(starts[voiced], 1, width, 1.1, align="edge", color=GREY)
    activity.bar(starts[kept], 1, width, 0, align="edge", color=GREEN)
    activity.set(xlim=(0, seconds), ylim=(0, 2.1), xlabel="seconds")
    activity.set_yticks([0.5, 1.6], ["kept", "voiced"])
    extent = (0.0, len(energies) / FRAMES_PER_SECOND, 0.0, float(n_filters))
    image = mel.imshow(energies.T, aspect="auto", origin="lower", extent=extent, cmap="magma")
    mel.set(xlabel="seconds of what is kept", ylabel="mel filter")
    figure.colorbar(image, ax=mel, label="ln energy", pad=0.01)
    sink = io.BytesIO()
    figure.savefig(sink, dpi=100)
    plt.close(figure)
    return Image.open(sink).convert("RGB")


def main() -> None:
    """Command line: one audio file in, one picture out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("voice", type=Path, help="an audio file of any kind")
    parser.add_argument("out", type=Path, help="the picture, .jpg or .png")
    parser.add_argument("--filters", type=int, default=40, help="mel filters, 40 or 64")
    parser.add_argument("--title", default="", help="shown above")
    args = parser.parse_args()
    picture = draw_utterance(decode(args.voice.read_bytes()).samples, args.filters, args.title)
    picture.save(args.out, quality=85)


if __name__ == "__main__":
    main()
