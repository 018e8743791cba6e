"""Measure emotion classifiers on people that ``hqvox_neutral`` was not trained on.

    python -m models.training.emotion.evaluate --data DIR [--network NAME …]

Prints precision and recall of "neutral" for each network on the same faces: those of the test
identities in which dlib detects a face.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.emotion import WEIGHTS, NeutralClassifier, load
from models.errors import ModelError
from models.protocols import EmotionClassifier
from models.training.emotion.data import LabelledFaces, load_faces, read_photo
from models.training.emotion.metrics import curve, interval, precision_recall, recall_at

CHUNK = 256
TABLE_RECALLS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def probabilities(
    data: Path, faces: LabelledFaces, classifier: EmotionClassifier
) -> NDArray[np.float32]:
    """Return the classifier's probabilities for every face, (n, classes)."""
    batches = []
    for start in range(0, len(faces), CHUNK):
        batch = range(start, min(start + CHUNK, len(faces)))
        crops = [
            classifier.crop(
                read_photo(data / "images" / str(faces.image[i])),
                faces.box_xyxy[i],
                faces.landmarks_xy[i],
            )
            for i in batch
        ]
        batches.append(classifier(crops))
    return np.concatenate(batches)


def describe(
    classifier: NeutralClassifier, probability: NDArray[np.float32], faces: LabelledFaces
) -> str:
    """Return the report of one network as text."""
    positive = faces.expression == "neutral"
    column = classifier.classes.index("neutral")
    scores = probability[:, column]
    decisions = {
        f"P(neutral) >= {classifier.neutral_threshold:.3f} (default)": (
            scores >= classifier.neutral_threshold
        ),
        "neutral has the highest probability": probability.argmax(axis=1) == column,
    }
    lines = [f"{classifier.name}", f"  {'decision':44s} faces  neutral  precision  recall"]
    groups = {"": np.ones(len(faces), bool), ", grey": ~faces.colour, ", colour": faces.colour}
    for decision, accepted in decisions.items():
        for group, members in groups.items():
            if not members.any():
                continue
            precision, recall = precision_recall(accepted[members], positive[members])
            lines.append(
                f"  {decision + group:44s} {members.sum():5d}  {positive[members].sum():7d}"
                f"  {precision:9.3f}  {recall:6.3f}"
            )
    low_high = interval(next(iter(decisions.values())), positive, faces.identity)
    lines.append(
        "  95 % intervals of the default over identities: precision {:.3f} to {:.3f}, "
        "recall {:.3f} to {:.3f}".format(*low_high.ravel())
    )
    for precision in (0.857, 0.90, 0.95):
        recall = recall_at(scores, positive, precision)
        lines.append(f"  recall at precision {precision:.3f}: {recall:.3f}")
    lines.append("  taken for neutral at the default threshold, by the label:")
    for expression in sorted(set(faces.expression)):
        members = faces.expression == expression
        taken = int((scores[members] >= classifier.neutral_threshold).sum())
        lines.append(f"  {expression:12s} {taken:4d} of {members.sum():4d}")
    thresholds, precisions, recalls = curve(scores, positive)
    lines.append("  recall  precision  threshold")
    for recall in TABLE_RECALLS:
        at = int(np.searchsorted(recalls, recall))
        if at < len(recalls):
            lines.append(f"  {recalls[at]:6.3f}  {precisions[at]:9.3f}  {thresholds[at]:9.3f}")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure emotion classifiers.")
    parser.add_argument("--data", type=Path, required=True, help="folder of images/, labels.csv")
    parser.add_argument("--network", nargs="+", choices=sorted(WEIGHTS), help="default: all here")
    parser.add_argument("--weights", type=Path, help="hqvox_neutral's weights, if not the shipped")
    parser.add_argument("--split", choices=("test", "val", "train"), default="test")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the same as in training")
    parser.add_argument("--faces", type=Path, help="cache of detected faces (.npz)")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads")
    args = parser.parse_args()

    from models.emotion.neutral_net import HqvoxNeutral
    from models.landmarks import load as load_landmarker
    from models.store import ModelStore

    torch.set_num_threads(args.threads)
    try:
        store = ModelStore()
        classifiers: list[NeutralClassifier] = []
        for name in args.network or sorted(WEIGHTS):
            if args.weights and name == HqvoxNeutral.name:
                classifiers.append(HqvoxNeutral.from_file(args.weights))
            elif args.network or all(store.present(file) for file in WEIGHTS[name]):
                classifiers.append(load(name, store))
            else:
                print(f"{name}: weights not here, not measured; hqvox models pull {name}")
        landmarker = load_landmarker("dlib68", store)
        faces = load_faces(args.data, landmarker, args.faces, (args.split,), args.seed)
        print(f"{len(faces)} faces of {len(set(faces.identity))} {args.split} identities")
        for classifier in classifiers:
            print(describe(classifier, probabilities(args.data, faces, classifier), faces))
    except ModelError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
