"""Evaluating a generator on one part of a release, as the paper does (section 5, appendix E.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.trainer.data import Part
from hqvox.trainer.judges import Judges, Pictures
from hqvox.trainer.metrics import (
    GALLERY_SIZE,
    SPLITS,
    Score,
    cosine,
    fid,
    ground_truth,
    inception_scores,
    l1,
    recall_at_k,
)
from hqvox.trainer.protocol import FUSED, SHORT, Condition, Protocol
from hqvox.trainer.speech_input import WINDOW_FRAMES, Normaliser, windows
from models.sf2f.colour import to_unit
from models.sf2f.generator import Generator

GENERATED_AT_ONCE = 64
MIN_SCORED = SPLITS
QUICK = Protocol(runs=1, crops=4)
"""How a training run measures itself on the way."""

OnProgress = Callable[[int, int], None]
"""Told how many batches of crops are through, and of how many."""


@dataclass(frozen=True)
class Result:
    """What was measured under one condition: by name, the mean over runs and its deviation.

    Names: ``cosine``, ``l1``, ``recall_1`` … ``recall_10`` (%), ``vfs``, ``inception``, ``fid``.
    Deviations are those of the runs; of ``vfs`` and ``inception`` those over all splits of all
    runs. What could not be measured is not there.
    """

    condition: Condition
    scores: dict[str, Score]


@dataclass(frozen=True)
class Evaluation:
    """A generator's results on a part."""

    results: list[Result]
    identities: int
    gallery: int
    """Identities in a gallery."""
    real: dict[str, Score] = field(default_factory=dict)
    """``vfs`` and ``inception`` of the real faces (table 2), where they could be had."""


class Speaker:
    """Speech of a part's people, cropped by a protocol and made a generator's input."""

    def __init__(self, part: Part, normaliser: Normaliser, protocol: Protocol) -> None:
        """Raises HqvoxError for a part without people."""
        if not len(part):
            raise HqvoxError(
                f"{part.data.release.url}: nobody in {part.split}; name another --split, or "
                "release with another split"
            )
        self.part, self.normaliser, self.protocol = part, normaliser, protocol
        table = part.data.utterances
        self._frames = [table.frames[rows].tolist() for rows in part.utterances_of]
        per_utterance = normaliser.kind == "utterance"
        self._moments = part.data.utterance_moments if per_utterance else None

    def windows(
        self, person: int, condition: Condition, run: int, crop: int, length: int | None = None
    ) -> torch.Tensor:
        """One crop of a person as windows (w, filters, frames), normalised.

        ``length``: of a window, frames, the fuser's; None: the crop as one. Speech shorter than
        wanted is padded with zeros, as in training.
        """
        frames = self._frames[person]
        piece = self.protocol.crop(frames, condition, run, crop, person)
        row = int(self.part.utterances_of[person][piece.utterance])
        log_mel = self.part.data.log_mel(row)[piece.start : piece.stop].astype(np.float32)
        if self._moments is not None:
            mean, std = self._moments[row]
            log_mel = (log_mel - mean) / std
        if length is None:
            length = self.protocol.length(condition, run, crop)
        found = torch.from_numpy(windows(log_mel, length))
        return found if self._moments is not None else self.normaliser.scaled(found)


def generate(
    generator: Generator,
    speaker: Speaker,
    condition: Condition,
    run: int,
    crop: int,
    first: int | None = None,
) -> Pictures:
    """One crop's picture of every person, (people, 3, px, px), 0 to 1, highest resolution.

    ``first``: only of so many people.
    """
    device = next(generator.parameters()).device
    pictures = []
    people = range(len(speaker.part))[:first]
    with torch.inference_mode():
        for start in range(0, len(people), GENERATED_AT_ONCE):
            batch = people[start : start + GENERATED_AT_ONCE]
            if condition.fused:
                given = [speaker.windows(i, condition, run, crop, WINDOW_FRAMES) for i in batch]
                embedding = fuse(generator, [windows.to(device) for windows in given])
            else:
                whole = [speaker.windows(i, condition, run, crop) for i in batch]
                embedding = generator.embed(torch.cat(whole).to(device))
            pictures.append(to_unit(generator.decode(embedding)[-1], clamped=True).cpu())
    return torch.cat(pictures)


def fuse(generator: Generator, speeches: Sequence[torch.Tensor]) -> torch.Tensor:
    """One embedding for each speech, (n, dim), of its windows (w, filters, frames).

    By the generator's fuser; without one, by the mean of the windows' embeddings, normalised.
    """
    counts = [len(speech) for speech in speeches]
    parts = generator.embed(torch.cat(list(speeches))).split(counts)
    if generator.fuser is None:
        means = torch.stack([part.mean(dim=0) for part in parts])
        return torch.nn.functional.normalize(means, dim=1)
    padded = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    there = torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]
    return generator.fuse(padded, there.to(padded.device))


def evaluate(
    generator: Generator,
    normaliser: Normaliser,
    part: Part,
    conditions: Sequence[Condition],
    judges: Judges,
    protocol: Protocol | None = None,
    *,
    with_fid: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Evaluation:
    """Measure a generator, in evaluation mode and on its device, under each condition.

    The same arguments give the same figures, on one kind of device. Raises HqvoxError for a part
    without people, or voices of other filters than the generator's.
    """
    protocol = protocol or Protocol()
    speaker = Speaker(part, normaliser, protocol)
    check_filters(generator, part)
    px = generator.spec.resolutions[-1]
    truth = real_embeddings(part, px, judges) if judges.embed else None
    real = real_scores(part, px, judges)
    features = None
    if with_fid and judges.inception:
        features = np.concatenate([judges.inception(p)[1] for p, _ in real_faces(part, px)])
    done, total = 0, len(conditions) * protocol.runs * protocol.crops
    results = []
    for condition in conditions:
        runs: list[dict[str, list[float]]] = []
        for run in range(protocol.runs):
            crops = []
            for crop in range(protocol.crops):
                crops.append(generate(generator, speaker, condition, run, crop))
                done += 1
                on_progress(done, total)
            runs.append(_measure(crops, truth, judges, protocol.seed + run, features))
        scores = {name: Score.of([v for run in runs for v in run[name]]) for name in runs[0]}
        results.append(Result(condition, scores))
    return Evaluation(results, len(part), min(GALLERY_SIZE, len(part)), real)


def check_filters(generator: Generator, part: Part) -> None:
    """Raise HqvoxError where the release's voices are not what the generator listens to."""
    has, needs = part.data.n_filters, generator.spec.n_filters
    if has != needs:
        raise HqvoxError(
            f"{part.data.release.url}: its voices have {has} mel filters, the checkpoint needs "
            f"{needs}; run `hqvox speech WORKSPACE --set speech.n_filters={needs}`, then release "
            "under a new name"
        )


def _measure(
    crops: Sequence[Pictures],
    truth: NDArray[np.float64] | None,
    judges: Judges,
    seed: int,
    real_features: NDArray[np.float32] | None = None,
) -> dict[str, list[float]]:
    """Figures of one run; ``crops``: per crop the pictures of everybody, in order."""
    pictures = torch.cat(list(crops))
    found: dict[str, list[float]] = {}
    if judges.embed is not None and truth is not None:
        queries = judges.embed(pictures)
        identity = np.tile(np.arange(len(truth)), len(crops))
        found["cosine"] = [cosine(queries, truth[identity])]
        found["l1"] = [l1(queries, truth[identity])]
        for k, recall in recall_at_k(queries, identity, truth).items():
            found[f"recall_{k}"] = [recall]
    found |= {name: list(scores) for name, scores in _scores(pictures, judges, seed).items()}
    if real_features is not None and judges.inception is not None:
        found["fid"] = [fid(judges.inception(pictures)[1], real_features)]
    return found


def _scores(pictures: Pictures, judges: Judges, seed: int) -> dict[str, NDArray[np.float64]]:
    """VGGFace and Inception Score of each split; none where there are too few pictures."""
    found = {}
    if judges.classify is not None and len(pictures) >= MIN_SCORED:
        found["vfs"] = inception_scores(judges.classify(pictures), seed=seed)
    if judges.inception is not None and len(pictures) >= MIN_SCORED:
        found["inception"] = inception_scores(judges.inception(pictures)[0], seed=seed)
    return found


def real_faces(part: Part, px: int, at_once: int = 256) -> Iterator[tuple[Pictures, list[int]]]:
    """All faces of a part as pictures (n, 3, px, px), 0 to 1, with their person's position."""
    rows = np.concatenate(part.faces_of)
    people = np.repeat(np.arange(len(part)), [len(own) for own in part.faces_of])
    for start in range(0, len(rows), at_once):
        faces = np.asarray(part.data.faces[px][rows[start : start + at_once]])
        yield torch.from_numpy(faces).float() / 255.0, people[start : start + at_once].tolist()


def real_embeddings(part: Part, px: int, judges: Judges) -> NDArray[np.float64]:
    """The ground truth (people, d): each person's mean embedding over real faces of that size."""
    assert judges.embed is not None, judges.missing
    embeddings, people = [], []
    for pictures, owners in real_faces(part, px):
        embeddings.append(judges.embed(pictures))
        people += owners
    return ground_truth(np.concatenate(embeddings), people, len(part))


def real_scores(part: Part, px: int, judges: Judges) -> dict[str, Score]:
    """VGGFace and Inception Score of a part's real faces, as in table 2."""
    if judges.classify is None and judges.inception is None:
        return {}
    pictures = torch.cat([p for p, _ in real_faces(part, px)])
    return {name: Score.of(values) for name, values in _scores(pictures, judges, 0).items()}


def quick_metrics(
    generator: Generator,
    part: Part,
    *,
    judges: Judges,
    normaliser: Normaliser,
    fused: bool,
    truth: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Figures of a generator in training, to tell its best checkpoint: few crops, one run.

    On 1.25 s, or ``fused`` on 5 s. ``truth``: what ``real_embeddings`` gave, made here where it is
    not at hand. Keys as of ``Result``, for those of ``judges`` that are there. The generator is in
    evaluation mode. Draws nothing from torch's generators.
    """
    protocol = Protocol(QUICK.runs, QUICK.crops, seed)
    speaker = Speaker(part, normaliser, protocol)
    condition = FUSED if fused else SHORT
    if truth is None and judges.embed is not None:
        truth = real_embeddings(part, generator.spec.resolutions[-1], judges)
    crops = [generate(generator, speaker, condition, 0, crop) for crop in range(protocol.crops)]
    figures = _measure(crops, truth, judges, seed)
    return {name: float(np.mean(values)) for name, values in figures.items()}
