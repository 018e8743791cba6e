"""Evaluating a generator on one split of a release (paper, section 5 and appendix E.2).

The paper cuts ten crops of a given length from each identity's speech, evaluates, and does so ten
times. Every model gets the same crops: they depend on the seed, the run, the crop's number and its
length, never on the model. ``metrics.py`` has the metrics themselves, ``metric_networks.py`` the
networks they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.trainer.data import Split
from hqvox.trainer.metric_networks import MetricNetworks, Pictures
from hqvox.trainer.metrics import (
    GALLERY_SIZE,
    SCORE_SPLITS,
    Score,
    cosine,
    fid,
    ground_truth,
    inception_scores,
    l1,
    recall_at_k,
    spread,
)
from hqvox.trainer.speech_input import (
    STRIDE_FRAMES,
    WINDOW_FRAMES,
    Normaliser,
    check_front_end,
    windows,
)
from models.sf2f.colour import to_unit
from models.sf2f.generator import Generator

FRAMES_PER_SECOND = 100


@dataclass(frozen=True)
class Condition:
    """The speech that a model is evaluated on.

    ``length``: as the paper writes it. ``frames``: shortest and longest crop, 100 a second; one
    length is chosen for each run and crop. ``fused``: the fuser joins windows of 1.25 s; else the
    encoder sees the crop as a whole.
    """

    length: str
    frames: tuple[int, int]
    fused: bool = False


SHORT = Condition("1.25 s", (125, 125))
LONG = Condition("5 s", (500, 500))
FUSED = Condition("5 s", (500, 500), fused=True)
LENGTHS = (
    Condition("0.5 - 1 s", (50, 100)),
    Condition("1 - 1.5 s", (100, 150)),
    Condition("1.5 - 3 s", (150, 300)),
    Condition("3 - 6 s", (300, 600)),
    Condition("6 - 10 s", (600, 1000)),
)
"""The conditions of table 4."""


class SpeechCrop(NamedTuple):
    """A crop of an identity's utterance number ``utterance``: frames [start, stop)."""

    utterance: int
    start: int
    stop: int


@dataclass(frozen=True)
class Protocol:
    """``runs`` evaluations of ``crops`` crops of each identity's speech, chosen by ``seed``."""

    runs: int = 10
    crops: int = 10
    seed: int = 0

    def length(self, condition: Condition, run: int, crop: int) -> int:
        """Frames of a crop; the same for every identity, so that the crops make one batch."""
        low, high = condition.frames
        return int(self._rng(condition, run, crop, 0).integers(low, high + 1))

    def crop(
        self, frames: Sequence[int], condition: Condition, run: int, crop: int, identity: int
    ) -> SpeechCrop:
        """A crop of one identity's speech. ``frames``: lengths of its utterances, at least one.

        From an utterance that is long enough, each with the same probability, at a uniform
        position. Where none is, the longest as a whole, which is then shorter than asked for.
        """
        wanted = self.length(condition, run, crop)
        rng = self._rng(condition, run, crop, 1 + identity)
        enough = [i for i, count in enumerate(frames) if count >= wanted]
        if not enough:
            longest = int(np.argmax(frames))
            return SpeechCrop(longest, 0, int(frames[longest]))
        chosen = enough[int(rng.integers(len(enough)))]
        start = int(rng.integers(int(frames[chosen]) - wanted + 1))
        return SpeechCrop(chosen, start, start + wanted)

    def _rng(self, condition: Condition, run: int, crop: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *condition.frames, run, crop, stream])


GENERATED_AT_ONCE = 64
"""People whose faces are generated in one batch."""
MIN_SCORED = SCORE_SPLITS
"""Pictures that a VGGFace or Inception Score needs at least."""
QUICK = Protocol(runs=1, crops=4)
"""The protocol of a training run's own evaluations."""

OnProgress = Callable[[int, int], None]
"""Called with how many batches of crops are done, and of how many."""


@dataclass(frozen=True)
class Result:
    """Metrics under one condition: by name, mean and deviation over runs.

    Names: ``cosine``, ``l1``, ``recall_1`` … ``recall_10`` (%), ``vfs``, ``inception``, ``fid``.
    The deviations of ``vfs`` and ``inception`` are over all score splits of all runs. Metrics that
    could not be computed are left out.
    """

    condition: Condition
    scores: dict[str, Score]


@dataclass(frozen=True)
class Evaluation:
    """A generator's results on one split of a release."""

    results: list[Result]
    identities: int
    gallery: int
    """Number of identities in a gallery."""
    real: dict[str, Score] = field(default_factory=dict)
    """``vfs`` and ``inception`` of the real faces (table 2), where they could be computed."""


class Speaker:
    """The speech of a split's people, cropped by a protocol, as a generator's input."""

    def __init__(self, split: Split, normaliser: Normaliser, protocol: Protocol) -> None:
        """Raises HqvoxError for a split without people, or with another front end's log-mels."""
        check_front_end(split.data, normaliser.front_end)
        if not len(split):
            raise HqvoxError(
                f"{split.data.release.url}: nobody in {split.name}; name another --split, or "
                "release with another split"
            )
        self.split, self.normaliser, self.protocol = split, normaliser, protocol
        table = split.data.utterances
        self._frames = [table.frames[rows].tolist() for rows in split.utterances_of]
        per_utterance = normaliser.kind == "utterance"
        self._moments = split.data.utterance_moments if per_utterance else None

    def windows(
        self, person: int, condition: Condition, run: int, crop: int, length: int | None = None
    ) -> torch.Tensor:
        """One crop of a person as windows (w, filters, frames), normalised.

        ``length``: frames of the fuser's windows; None: the crop as one window. Speech that is too
        short is padded with zeros, as in training.
        """
        frames = self._frames[person]
        crop_ = self.protocol.crop(frames, condition, run, crop, person)
        row = int(self.split.utterances_of[person][crop_.utterance])
        wanted = self.protocol.length(condition, run, crop)
        if length is None:
            length = wanted
        return self.cut(row, crop_.start, crop_.stop, length, least=wanted)

    def cut(
        self,
        row: int,
        start: int,
        stop: int,
        length: int,
        stride: int = STRIDE_FRAMES,
        least: int = 0,
    ) -> torch.Tensor:
        """Frames [start, stop) of the utterance ``row`` of the data, as :meth:`windows` has them.

        ``stride``: frames between windows; ``least``: frames that shorter speech is repeated to,
        where the normaliser repeats.
        """
        log_mel = self.split.data.log_mel(row)[start:stop].astype(np.float32)
        if self._moments is not None:
            mean, std = self._moments[row]
            log_mel = (log_mel - mean) / std
        log_mel = self.normaliser.filled(log_mel, least)
        tensor = torch.from_numpy(windows(log_mel, length, stride))
        return tensor if self._moments is not None else self.normaliser.scaled(tensor)


def generate(
    generator: Generator,
    speaker: Speaker,
    condition: Condition,
    run: int,
    crop: int,
    first: int | None = None,
) -> Pictures:
    """Generate every person's face from one crop: (people, 3, px, px), 0 to 1, highest resolution.

    ``first``: only for so many people.
    """
    device = next(generator.parameters()).device
    pictures = []
    people = range(len(speaker.split))[:first]
    with torch.inference_mode():
        for start in range(0, len(people), GENERATED_AT_ONCE):
            batch = people[start : start + GENERATED_AT_ONCE]
            if condition.fused:
                speeches = [speaker.windows(i, condition, run, crop, WINDOW_FRAMES) for i in batch]
                embedding = fuse(generator, [windows.to(device) for windows in speeches])
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
    embeddings = generator.embed(torch.cat(list(speeches))).split(counts)
    if generator.fuser is None:
        means = torch.stack([windows.mean(dim=0) for windows in embeddings])
        return torch.nn.functional.normalize(means, dim=1)
    padded = torch.nn.utils.rnn.pad_sequence(list(embeddings), batch_first=True)
    mask = torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]
    return generator.fuse(padded, mask.to(padded.device))


def evaluate(
    generator: Generator,
    normaliser: Normaliser,
    split: Split,
    conditions: Sequence[Condition],
    networks: MetricNetworks,
    protocol: Protocol | None = None,
    *,
    with_fid: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Evaluation:
    """Measure a generator, in evaluation mode and on its device, under each condition.

    The same arguments give the same figures, on one kind of device. Raises HqvoxError for a split
    without people, and where the release has not the generator's mel filters.
    """
    protocol = protocol or Protocol()
    speaker = Speaker(split, normaliser, protocol)
    check_filters(generator, split)
    px = generator.spec.resolutions[-1]
    truth = real_embeddings(split, px, networks) if networks.embed else None
    real = real_scores(split, px, networks)
    features = None
    if with_fid and networks.inception:
        features = np.concatenate([networks.inception(p)[1] for p, _ in real_faces(split, px)])
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
            runs.append(_measure(crops, truth, networks, protocol.seed + run, features))
        scores = {name: Score.of([v for run in runs for v in run[name]]) for name in runs[0]}
        results.append(Result(condition, scores))
    return Evaluation(results, len(split), min(GALLERY_SIZE, len(split)), real)


def check_filters(generator: Generator, split: Split) -> None:
    """Raise HqvoxError where the release has not the generator's mel filters."""
    has, needs = split.data.n_filters, generator.spec.n_filters
    if has != needs:
        raise HqvoxError(
            f"{split.data.release.url}: its voices have {has} mel filters, the checkpoint needs "
            f"{needs}; run `hqvox speech WORKSPACE --set speech.n_filters={needs}`, then release "
            "under a new name"
        )


def _measure(
    crops: Sequence[Pictures],
    truth: NDArray[np.float64] | None,
    networks: MetricNetworks,
    seed: int,
    real_features: NDArray[np.float32] | None = None,
) -> dict[str, list[float]]:
    """Metrics of one run. ``crops``: for each crop, everybody's pictures, in order."""
    pictures = torch.cat(list(crops))
    figures: dict[str, list[float]] = {}
    if networks.embed is not None and truth is not None:
        queries = networks.embed(pictures)
        identity = np.tile(np.arange(len(truth)), len(crops))
        figures["cosine"] = [cosine(queries, truth[identity])]
        figures["l1"] = [l1(queries, truth[identity])]
        for k, recall in recall_at_k(queries, identity, truth).items():
            figures[f"recall_{k}"] = [recall]
    figures |= {name: list(scores) for name, scores in _scores(pictures, networks, seed).items()}
    if real_features is not None and networks.inception is not None:
        figures["fid"] = [fid(networks.inception(pictures)[1], real_features)]
    return figures


def _scores(
    pictures: Pictures, networks: MetricNetworks, seed: int
) -> dict[str, NDArray[np.float64]]:
    """VGGFace and Inception Score of each score split; none for too few pictures."""
    scores = {}
    if networks.classify is not None and len(pictures) >= MIN_SCORED:
        scores["vfs"] = inception_scores(networks.classify(pictures), seed=seed)
    if networks.inception is not None and len(pictures) >= MIN_SCORED:
        scores["inception"] = inception_scores(networks.inception(pictures)[0], seed=seed)
    return scores


def real_faces(split: Split, px: int, at_once: int = 256) -> Iterator[tuple[Pictures, list[int]]]:
    """All faces of a split as pictures (n, 3, px, px), 0 to 1, with their person's position."""
    rows = np.concatenate(split.faces_of)
    people = np.repeat(np.arange(len(split)), [len(rows) for rows in split.faces_of])
    for start in range(0, len(rows), at_once):
        faces = np.asarray(split.data.faces[px][rows[start : start + at_once]])
        yield torch.from_numpy(faces).float() / 255.0, people[start : start + at_once].tolist()


def real_embeddings(
    split: Split, px: int, networks: MetricNetworks, renormalise: bool = True
) -> NDArray[np.float64]:
    """The ground truth (people, d): each person's mean embedding over real faces of side ``px``.

    ``renormalise``: see :func:`~hqvox.trainer.metrics.ground_truth`.
    """
    assert networks.embed is not None, networks.missing
    embeddings, people = [], []
    for pictures, owners in real_faces(split, px):
        embeddings.append(networks.embed(pictures))
        people += owners
    return ground_truth(np.concatenate(embeddings), people, len(split), renormalise)


def real_scores(split: Split, px: int, networks: MetricNetworks) -> dict[str, Score]:
    """VGGFace and Inception Score of a split's real faces, as in table 2."""
    if networks.classify is None and networks.inception is None:
        return {}
    pictures = torch.cat([p for p, _ in real_faces(split, px)])
    return {name: Score.of(values) for name, values in _scores(pictures, networks, 0).items()}


def quick_metrics(
    generator: Generator,
    split: Split,
    *,
    networks: MetricNetworks,
    normaliser: Normaliser,
    fused: bool,
    frames: int = SHORT.frames[0],
    truth: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Metrics of a generator in training, to choose its best checkpoint: few crops, one run.

    On crops of ``frames``, or ``fused`` on 5 s. ``truth``: the result of :func:`real_embeddings`,
    computed here where it is None. Keys as of :class:`Result`, for the ``networks`` that are there,
    and ``diversity``. The generator is in evaluation mode. Uses no random numbers of torch.
    """
    protocol = Protocol(QUICK.runs, QUICK.crops, seed)
    speaker = Speaker(split, normaliser, protocol)
    condition = FUSED if fused else Condition(f"{frames / 100:g} s", (frames, frames))
    if truth is None and networks.embed is not None:
        truth = real_embeddings(split, generator.spec.resolutions[-1], networks)
    crops = [generate(generator, speaker, condition, 0, crop) for crop in range(protocol.crops)]
    figures = _measure(crops, truth, networks, seed)
    means = {name: float(np.mean(values)) for name, values in figures.items()}
    if len(split) > 1:
        means["diversity"] = diversity(crops[0], split)
    return means


def diversity(pictures: Pictures, split: Split) -> float:
    """How far faces generated for different people are apart, relative to their real faces.

    Mean distance (:func:`~hqvox.trainer.metrics.spread`) of ``pictures``, (people, 3, px, px) of 0
    to 1, over that of the first real face of each. 0: everybody gets the same face, as where an
    adversarial training has collapsed.
    """
    px = pictures.shape[-1]
    real = np.stack([split.data.faces[px][rows[0]] for rows in split.faces_of]) / 255.0
    return spread(pictures.numpy()) / spread(real)
