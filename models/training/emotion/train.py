"""Train ``hqvox_neutral`` on labelled photographs.

    python -m models.training.emotion.train --data DIR --out FILE.safetensors

Identities are split by a hash of their name (``models.training.emotion.data``). The test identities
are not read. Deterministic: the same data, seed and library versions give the same weights.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from models.emotion.neutral_net import (
    CLASSES,
    METADATA_FORMAT,
    HqvoxNeutral,
    NeutralNet,
    aligned_grey,
    normalised_landmarks,
)
from models.errors import ModelError
from models.protocols import EmotionClassifier
from models.training.emotion.augment import MARGIN, augment
from models.training.emotion.data import LabelledFaces, in_split, load_faces, read_photo
from models.training.emotion.metrics import lowest_threshold, recall_at

TARGET_PRECISION = 0.90
"""The neutral threshold is the lowest that reaches this precision on the validation identities."""


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run."""

    epochs: int = 26
    batch: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    bootstrap: float = 0.4
    """Final weight of the network's running mean prediction in the target of each face, which
    corrects wrong labels (Reed et al. 2015, "Training deep neural networks on noisy labels with
    bootstrapping"; running mean as in Laine and Aila 2017)."""
    bootstrap_momentum: float = 0.8
    branch_dropout: float = 0.15
    """Probability that a face's landmarks are replaced by the mean shape, so pixels count."""
    ema_decay: float = 0.998
    seed: int = 0


@dataclass(frozen=True)
class Examples:
    """Training faces.

    ``grey``: uint8 (n, side, side), with a margin; ``points``: normalised landmarks, float32
    (n, 68, 2); ``label``: int64 (n,), indices into ``CLASSES``.
    """

    grey: NDArray[np.uint8]
    points: NDArray[np.float32]
    label: NDArray[np.int64]


def class_index(expressions: NDArray[np.str_]) -> NDArray[np.int64]:
    """Return indices into ``CLASSES``: neutral, happiness, and every other expression."""
    known = {name: i for i, name in enumerate(CLASSES)}
    return np.array([known.get(str(e), known["other"]) for e in expressions], np.int64)


def cut_examples(data: Path, faces: LabelledFaces) -> Examples:
    """Cut every face once, with the margin that augmentation needs."""
    grey = [
        aligned_grey(read_photo(data / "images" / str(image)), points, MARGIN)
        for image, points in zip(faces.image, faces.landmarks_xy, strict=True)
    ]
    points = np.stack([normalised_landmarks(p) for p in faces.landmarks_xy])
    return Examples(np.stack(grey), points, class_index(faces.expression))


def fit(
    examples: Examples,
    recipe: Recipe,
    after_epoch: Callable[[int, float, NeutralNet], None] = lambda epoch, loss, network: None,
) -> NeutralNet:
    """Train a network; return the exponential moving average of its weights.

    ``after_epoch`` is called with the epoch from 1, its mean loss, and the averaged network.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    network = NeutralNet().train()
    average = copy.deepcopy(network).eval()
    n = len(examples.label)
    steps = max(n // recipe.batch, 1)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps, pct_start=0.15
    )
    labels = F.one_hot(torch.from_numpy(examples.label), len(CLASSES)).float()
    labels = labels * (1 - recipe.label_smoothing) + recipe.label_smoothing / len(CLASSES)
    running = labels.clone()
    mean_shape = examples.points.mean(axis=0)
    done = 0
    for epoch in range(1, recipe.epochs + 1):
        # Labels count in full during the first half of the epochs, then less and less.
        trust_self = recipe.bootstrap * max(0.0, 2 * epoch / recipe.epochs - 1)
        order = rng.permutation(n)[: steps * recipe.batch]
        losses = []
        for chosen in np.array_split(order, steps):
            values = torch.from_numpy(
                np.stack(
                    [
                        augment(
                            examples.grey[i],
                            mean_shape
                            if rng.random() < recipe.branch_dropout
                            else examples.points[i],
                            rng,
                        )
                        for i in chosen
                    ]
                )
            )
            logits = network(values)
            rows = torch.from_numpy(chosen)
            target = (1 - trust_self) * labels[rows] + trust_self * running[rows]
            loss = F.cross_entropy(logits, target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            keep = recipe.bootstrap_momentum
            running[rows] = keep * running[rows] + (1 - keep) * logits.detach().softmax(dim=1)
            done += 1
            _follow(average, network, min(recipe.ema_decay, (1 + done) / (10 + done)))
            losses.append(float(loss.detach()))
        after_epoch(epoch, float(np.mean(losses)), average)
    return average


def _follow(average: NeutralNet, network: NeutralNet, decay: float) -> None:
    """Move every averaged weight and statistic towards the network's."""
    with torch.no_grad():
        latest = network.state_dict()
        for key, kept in average.state_dict().items():
            if kept.is_floating_point():
                kept.lerp_(latest[key], 1 - decay)
            else:
                kept.copy_(latest[key])


def save(network: NeutralNet, threshold: float, source: str, out: Path) -> None:
    """Write float16 weights with the threshold and its source as metadata."""
    state: dict[str, Tensor] = {
        key: value.half().contiguous()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    metadata = {"format": METADATA_FORMAT, "neutral_threshold": f"{threshold:.4f}"}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, out, metadata=metadata | {"threshold_source": source})


def cut_crops(
    data: Path, faces: LabelledFaces, classifier: EmotionClassifier
) -> list[NDArray[np.float32]]:
    """Cut the classifier's input for every face."""
    return [
        classifier.crop(read_photo(data / "images" / str(image)), box, points)
        for image, box, points in zip(faces.image, faces.box_xyxy, faces.landmarks_xy, strict=True)
    ]


def train(data: Path, faces: LabelledFaces, out: Path, recipe: Recipe) -> float:
    """Train, choose the threshold on the validation identities, write both; return it."""
    splits = {name: in_split(faces, name, recipe.seed) for name in ("train", "val")}
    print(", ".join(f"{name}: {len(split)} faces" for name, split in splits.items()), flush=True)
    classifier = HqvoxNeutral(NeutralNet())
    held_out = cut_crops(data, splits["val"], classifier)
    neutral = splits["val"].expression == "neutral"

    def neutral_scores(network: NeutralNet) -> NDArray[np.float32]:
        return HqvoxNeutral(network)(held_out)[:, CLASSES.index("neutral")]

    def report(epoch: int, loss: float, network: NeutralNet) -> None:
        recall = recall_at(neutral_scores(network), neutral, TARGET_PRECISION)
        print(
            f"epoch {epoch}/{recipe.epochs}: loss {loss:.4f}, validation recall of neutral "
            f"at precision {TARGET_PRECISION}: {recall:.3f}",
            flush=True,
        )

    network = fit(cut_examples(data, splits["train"]), recipe, report)
    threshold = lowest_threshold(neutral_scores(network), neutral, TARGET_PRECISION)
    source = f"lowest with precision {TARGET_PRECISION} on {len(neutral)} validation faces"
    save(network, threshold, source, out)
    return threshold


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train hqvox_neutral.")
    parser.add_argument("--data", type=Path, required=True, help="folder of images/, labels.csv")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads")
    parser.add_argument("--faces", type=Path, help="cache of detected faces (.npz)")
    args = parser.parse_args()
    if args.epochs < 1 or args.threads < 1:
        parser.error("--epochs and --threads must be at least 1")

    from models.landmarks import load
    from models.store import ModelStore

    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    try:
        landmarker = load("dlib68", ModelStore())
        faces = load_faces(args.data, landmarker, args.faces, ("train", "val"), args.seed)
        recipe = Recipe(epochs=args.epochs, seed=args.seed)
        threshold = train(args.data, faces, args.out, recipe)
    except ModelError as error:
        sys.exit(f"error: {error}")
    print(f"{args.out}: neutral_threshold {threshold:.4f}")


if __name__ == "__main__":
    main()
