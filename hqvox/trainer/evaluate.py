"""Evaluating a generator on one split of a release (paper, section 5 and appendix E.2).

The paper cuts ten crops of a given length from each identity's speech, evaluates, and does so ten
times. Every model gets the same crops: they depend on the seed, the run, the crop's number and its
length, never on the model. ``metrics.py`` has the metrics themselves, ``metric_networks.py`` the
networks they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.trainer.data import Split
from hqvox.trainer.metric_networks import MetricNetworks, Pictures, enhanced_first
from hqvox.trainer.metrics import (
    GALLERY_SIZE,
    SCORE_SPLITS,
    Score,
    cosine,
    cosine_to_one_face,
    fid,
    ground_truth,
    inception_scores,
    l1,
    normalised,
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
from models.enhancement.gfpgan import FaceEnhancer
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
SECONDS = tuple(Condition(f"{s} s", (100 * s, 100 * s)) for s in (2, 4, 6, 8))
"""The conditions of AVP-GAN's table 4 and figure 6."""


class SpeechCrop(NamedTuple):
    """A crop of an identity's utterance number ``utterance``: frames [start, stop)."""

    utterance: int
    start: int
    stop: int


@dataclass(frozen=True)
class Protocol:
    """``runs`` evaluations of ``crops`` crops of each identity's speech, chosen by ``seed``.

    Appendix E.2 can be read in two ways. Each run has crops of its own; or, with ``crop_once``, the
    crops are cut once and every run evaluates the same ones, so that only how pictures are dealt to
    the splits of a score differs.
    """

    runs: int = 10
    crops: int = 10
    seed: int = 0
    crop_once: bool = False

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
"""People that a VGGFace or Inception Score needs at least: a pass has one picture of each."""
QUICK = Protocol(runs=1, crops=4)
"""The protocol of a training run's own evaluations."""

OnProgress = Callable[[int, int], None]
"""Called with how many batches of crops are done, and of how many."""


@dataclass(frozen=True)
class Result:
    """Metrics under one condition: by name, mean and deviation over runs.

    Names: ``cosine``, ``cosine_face`` (to one face instead of the mean of all), ``l1``,
    ``recall_1`` … ``recall_10`` (%), ``vfs``, ``inception``, ``fid``.
    ``vfs`` and ``inception`` are of one pass over the people, a picture of each; mean and deviation
    are over the score splits of all passes of all runs. Metrics that could not be computed are left
    out.
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
    """``vfs`` and ``inception`` of as many real faces, where they could be computed."""


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
    enhance: FaceEnhancer | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Evaluation:
    """Measure a generator, in evaluation mode and on its device, under each condition.

    ``enhance``: what enhances generated pictures first; real ones stay as they are.
    The same arguments give the same figures, on one kind of device. Raises HqvoxError for a split
    without people, and where the release has not the generator's mel filters.
    """
    protocol = protocol or Protocol()
    speaker = Speaker(split, normaliser, protocol)
    check_filters(generator, split)
    px = generator.spec.resolutions[-1]
    means = real_embeddings(split, px, networks, renormalise=False) if networks.embed else None
    truth = None if means is None else normalised(means)
    measuring = networks if enhance is None else enhanced_first(networks, enhance)
    faces = classified_faces(split, px, networks)
    real = real_scores(faces, [len(r) for r in split.faces_of], protocol.crops, protocol.seed)
    features = faces.features if with_fid and networks.inception else None
    cut = 1 if protocol.crop_once else protocol.runs
    done, total = 0, len(conditions) * cut * protocol.crops
    results = []
    for condition in conditions:
        runs: list[dict[str, list[float]]] = []
        for run in range(protocol.runs):
            if run < cut:
                crops = []
                for crop in range(protocol.crops):
                    crops.append(generate(generator, speaker, condition, run, crop))
                    done += 1
                    on_progress(done, total)
            seed = protocol.seed + run
            runs.append(_measure(crops, truth, measuring, seed, features, means))
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
    means: NDArray[np.float64] | None = None,
) -> dict[str, list[float]]:
    """Metrics of one run. ``crops``: for each crop, everybody's pictures, in order.

    ``means``: as ``truth``, not normalised; for ``cosine_face``.
    """
    figures: dict[str, list[float]] = {}
    if networks.embed is not None and truth is not None:
        queries = networks.embed(torch.cat(list(crops)))
        identity = np.tile(np.arange(len(truth)), len(crops))
        if means is not None:
            figures["cosine_face"] = [cosine_to_one_face(queries, means[identity])]
        figures["cosine"] = [cosine(queries, truth[identity])]
        figures["l1"] = [l1(queries, truth[identity])]
        for k, recall in recall_at_k(queries, identity, truth).items():
            figures[f"recall_{k}"] = [recall]
    features = []
    for crop, pictures in enumerate(crops):
        given = classified(pictures, networks)
        for name, scores in score_splits(given.probabilities, [seed, crop]).items():
            figures.setdefault(name, []).extend(scores)
        features.append(given.features)
    if real_features is not None and networks.inception is not None:
        figures["fid"] = [fid(np.concatenate(features), real_features)]
    return figures


class Classified(NamedTuple):
    """What the networks of the scores say of pictures; ``features`` are empty without Inception."""

    probabilities: dict[str, NDArray[np.float32]]
    """(n, classes) for each score, ``vfs`` and ``inception``, whose network is there."""
    features: NDArray[np.float32]
    """(n, 2048)."""


def classified(pictures: Pictures, networks: MetricNetworks) -> Classified:
    """Let the networks of the VGGFace and Inception Scores see pictures."""
    probabilities, features = {}, np.empty((0, 0), np.float32)
    if networks.classify is not None:
        probabilities["vfs"] = networks.classify(pictures)
    if networks.inception is not None:
        probabilities["inception"], features = networks.inception(pictures)
    return Classified(probabilities, features)


def score_splits(
    probabilities: Mapping[str, NDArray[np.float32]], seed: int | Sequence[int]
) -> dict[str, NDArray[np.float64]]:
    """VGGFace and Inception Score of each score split; none for too few pictures."""
    return {
        name: inception_scores(rows, seed=seed)
        for name, rows in probabilities.items()
        if len(rows) >= MIN_SCORED
    }


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


def real_scores(
    faces: Classified, counts: Sequence[int], passes: int, seed: int = 0
) -> dict[str, Score]:
    """VGGFace and Inception Score of real faces, on as many as are generated from a crop.

    ``faces``: person by person, as of :func:`classified_faces`; ``counts``: faces of each person.
    In each of ``passes`` passes one face of each person, chosen by ``seed``, because a score grows
    with the number of pictures. Mean and deviation are over the score splits of all passes.
    """
    ends = np.cumsum(counts)
    scores: dict[str, list[float]] = {}
    for number in range(passes):
        rng = np.random.default_rng([seed, len(counts), number])
        chosen = ends - 1 - rng.integers(counts)
        of_pass = {name: rows[chosen] for name, rows in faces.probabilities.items()}
        for name, values in score_splits(of_pass, [seed, number]).items():
            scores.setdefault(name, []).extend(values)
    return {name: Score.of(values) for name, values in scores.items()}


def classified_faces(split: Split, px: int, networks: MetricNetworks) -> Classified:
    """What the networks of the scores say of all real faces of a split, person by person."""
    if networks.classify is None and networks.inception is None:
        return Classified({}, np.empty((0, 0), np.float32))  # no picture need be read
    return joined(classified(pictures, networks) for pictures, _ in real_faces(split, px))


def joined(parts: Iterable[Classified]) -> Classified:
    """The parts, of which there is one or more, as one."""
    every = list(parts)
    names = every[0].probabilities
    probabilities = {n: np.concatenate([p.probabilities[n] for p in every]) for n in names}
    return Classified(probabilities, np.concatenate([p.features for p in every]))


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
