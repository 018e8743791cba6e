"""Evaluating a generator as SF2F's released code does; ``evaluate.py`` is the paper's protocol.

It hears the first segments of 1.25 s of each person's utterances, without overlap, at most 20.
Without fuser it generates a face from each, and compares the mean of their embeddings with the mean
of the person's real faces'. With fuser it generates one face from all. Neither mean is normalised.
Recall is over the people 0 to 99, 100 to 199 and 200 to 299. The scores are of one picture of each
person: without fuser from a random crop of 1 to 1.5 s, with fuser the same picture as above.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hqvox.trainer.data import Split
from hqvox.trainer.evaluate import (
    Condition,
    Evaluation,
    OnProgress,
    Protocol,
    Result,
    Speaker,
    check_filters,
    classified_faces,
    fuse,
    real_embeddings,
    real_scores,
)
from hqvox.trainer.metric_networks import MetricNetworks, Pictures
from hqvox.trainer.metrics import (
    GALLERY_SIZE,
    SCORE_SPLITS,
    Score,
    cosine,
    fid,
    inception_scores,
    l1,
    recall_in_galleries,
)
from hqvox.trainer.speech_input import WINDOW_FRAMES, Normaliser
from models.sf2f.colour import to_unit
from models.sf2f.generator import Generator

SEGMENTS = 20
"""Segments of a person, at most."""
CROP_FRAMES = (100, 150)
"""Shortest and longest crop of the pictures that are scored without fuser."""
GALLERIES = ((0, 100), (100, 200), (200, 300))
"""People of each gallery, by their position in :func:`released_order`."""
INCEPTION_SPLITS = 3
"""Of the Inception Score; the pictures stay in order."""
EACH = Condition(f"≤ {SEGMENTS} × 1.25 s", (WINDOW_FRAMES, WINDOW_FRAMES))
ALL = Condition(EACH.length, EACH.frames, fused=True)


def released_conditions(number: int, generator: Generator) -> list[Condition]:
    """The conditions of a table: with the fuser where there is one, and but in 5 and 7 without."""
    if generator.fuser is None:
        return [EACH]
    return [ALL] if number in (5, 7) else [EACH, ALL]


def released_order(split: Split) -> list[int]:
    """Positions of a split's people in the order of the released code: vox1, vox2; by folder."""
    table = split.data.release.identities()
    columns = ["identity_id", "subset_folder", "folder", "name"]
    keys = {
        row["identity_id"]: (row["subset_folder"] or "vox1", row["folder"] or row["name"])
        for row in table.select(columns).to_pylist()
    }
    return sorted(range(len(split)), key=lambda person: keys[split.identity_ids[person]])


@dataclass
class ReleasedEvaluator:
    """Measures generators on one split. Raises HqvoxError for a split without people."""

    split: Split
    normaliser: Normaliser
    networks: MetricNetworks
    px: int
    """Side of the pictures."""
    seed: int = 0
    """Of the crops, and of how pictures are dealt to the splits of the VGGFace Score."""

    def __post_init__(self) -> None:
        """Order the people, and embed their real faces."""
        self._speaker = Speaker(self.split, self.normaliser, Protocol(seed=self.seed))
        self._people = released_order(self.split)
        spoken = self.split.data.release.speech().select(["video", "utterance"]).to_pylist()
        self._files = [f"{row['video'] or '0'}_{row['utterance']}.pickle" for row in spoken]
        self._truth: NDArray[np.float64] | None = None
        if self.networks.embed is not None:
            truth = real_embeddings(self.split, self.px, self.networks, renormalise=False)
            self._truth = truth[self._people]

    def segments(self, person: int) -> torch.Tensor:
        """The first segments of a person of the split: (w, filters, 125), normalised.

        Utterances come in the order of the names of that code's files. Those that are shorter are
        passed over; where all are, the longest is padded.
        """
        rows = sorted(self.split.utterances_of[person].tolist(), key=self._files.__getitem__)
        frames = self.split.data.utterances.frames
        enough = [row for row in rows if frames[row] >= WINDOW_FRAMES]
        pieces: list[torch.Tensor] = []
        for row in enough or [max(rows, key=lambda row: int(frames[row]))]:
            end = int(frames[row])
            pieces.append(self._speaker.cut(row, 0, end, WINDOW_FRAMES, WINDOW_FRAMES))
            if sum(map(len, pieces)) >= SEGMENTS:
                break
        return torch.cat(pieces)[:SEGMENTS]

    def measure(
        self,
        generator: Generator,
        condition: Condition,
        *,
        with_fid: bool = False,
        on_progress: OnProgress = lambda done, total: None,
    ) -> dict[str, list[float]]:
        """Metrics by name; of the scores one value for each split of theirs."""
        queries, scored = [], []
        for done, (pictures, one) in enumerate(self._faces(generator, condition), 1):
            if self.networks.embed is not None:
                queries.append(self.networks.embed(pictures).astype(np.float64).mean(axis=0))
            scored.append(one)
            on_progress(done, len(self._people))
        figures: dict[str, list[float]] = {}
        if self._truth is not None:
            means = np.stack(queries)
            figures["cosine"] = [cosine(means, self._truth)]
            figures["l1"] = [l1(means, self._truth)]
            for k, recall in recall_in_galleries(means, self._truth, GALLERIES).items():
                figures[f"recall_{k}"] = [recall]
        # Their pictures are bytes when they are scored.
        return figures | self._scores((torch.cat(scored) * 255).floor() / 255, with_fid)

    def _faces(
        self, generator: Generator, condition: Condition
    ) -> Iterator[tuple[Pictures, Pictures]]:
        """Of each person the pictures that are embedded, and the one that is scored."""
        device = next(generator.parameters()).device
        for position, person in enumerate(self._people):
            segments = self.segments(person).to(device)
            with torch.inference_mode():
                if condition.fused:
                    faces = self._decoded(generator, fuse(generator, [segments]))
                    yield faces, faces
                else:
                    crop = self._crop(position, person).to(device)
                    faces = self._decoded(generator, generator.embed(segments))
                    yield faces, self._decoded(generator, generator.embed(crop))

    def _decoded(self, generator: Generator, embedding: torch.Tensor) -> Pictures:
        return to_unit(generator.decode(embedding)[-1], clamped=True).cpu()

    def _crop(self, position: int, person: int) -> torch.Tensor:
        """A random crop of 1 to 1.5 s of a random utterance, as one window."""
        rng = np.random.default_rng([self.seed, position])
        length = int(rng.integers(*CROP_FRAMES, endpoint=True))
        row = int(rng.choice(self.split.utterances_of[person]))
        frames = int(self.split.data.utterances.frames[row])
        start = int(rng.integers(max(frames - length, 0), endpoint=True))
        return self._speaker.cut(row, start, min(start + length, frames), length)

    def _scores(self, pictures: Pictures, with_fid: bool) -> dict[str, list[float]]:
        networks, figures = self.networks, dict[str, list[float]]()
        if networks.classify is not None and len(pictures) >= SCORE_SPLITS:
            figures["vfs"] = list(inception_scores(networks.classify(pictures), seed=self.seed))
        if networks.inception is not None and len(pictures) >= INCEPTION_SPLITS:
            given, features = networks.inception(pictures)
            figures["inception"] = list(inception_scores(given, INCEPTION_SPLITS, seed=None))
            if with_fid:
                figures["fid"] = [fid(features, networks.inception(self._one_face_each())[1])]
        return figures

    def _one_face_each(self) -> Pictures:
        """A random real face of each person, 0 to 1."""
        rng = np.random.default_rng([self.seed, len(self._people)])
        rows = [int(rng.choice(self.split.faces_of[person])) for person in self._people]
        return torch.from_numpy(np.asarray(self.split.data.faces[self.px][rows])).float() / 255.0


def evaluate_as_released(
    generator: Generator,
    normaliser: Normaliser,
    split: Split,
    conditions: Sequence[Condition],
    networks: MetricNetworks,
    seed: int = 0,
    *,
    with_fid: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> Evaluation:
    """As ``evaluate.evaluate``, by the released code's protocol; one pass, so no deviations."""
    px = generator.spec.resolutions[-1]
    evaluator = ReleasedEvaluator(split, normaliser, networks, px, seed)
    check_filters(generator, split)
    results = []
    for condition in conditions:
        figures = evaluator.measure(
            generator, condition, with_fid=with_fid, on_progress=on_progress
        )
        results.append(Result(condition, {n: Score.of(values) for n, values in figures.items()}))
    faces = classified_faces(split, px, networks)
    real = real_scores(faces, [len(rows) for rows in split.faces_of], 1, seed)
    return Evaluation(results, len(split), min(GALLERY_SIZE, len(split)), real)
