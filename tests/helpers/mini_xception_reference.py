"""Make ``mini_xception_reference.json``: what Keras itself answers, to hold our network against.

    python tests/helpers/mini_xception_reference.py fer2013_mini_XCEPTION.102-0.66.hdf5

Needs TensorFlow, which nothing else here does: run it in an environment of its own. The stored
file was made with TensorFlow 2.21.0, Keras 3.15.1, ``load_model`` on the published file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

REFERENCE = Path(__file__).with_suffix(".json")


def inputs() -> np.ndarray:
    """Eight pictures, float32 (8, 64, 64) in −1…1: waves of growing frequency, and a checker."""
    y, x = np.mgrid[0:64, 0:64] / 63.0
    waves = [np.sin((k + 2) * 3 * x + k) * np.cos((k + 1) * 2 * y) for k in range(6)]
    busy = np.sin(37 * x * y + 23 * x**3) * np.cos(41 * y**2)
    checker = np.where((np.arange(64)[:, None] // 3 + np.arange(64) // 5) % 2, 0.9, -0.8)
    return np.stack([*waves, busy, checker]).astype(np.float32)


def main() -> None:
    """Run Keras and write its probabilities."""
    import tensorflow as tf

    network = tf.keras.models.load_model(sys.argv[1], compile=False)
    answers = network.predict(inputs()[..., None], verbose=0)
    made_with = {"tensorflow": tf.__version__, "keras": tf.keras.__version__}
    text = json.dumps(
        made_with | {"probabilities": answers.astype(np.float64).round(7).tolist()}, indent=1
    )
    REFERENCE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
