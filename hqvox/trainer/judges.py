"""The networks that judge generated faces, and which of them are missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.trainer.features import OTHER_NETWORK, load_features
from models.embedding import load_classifier
from models.embedding.inception_v3 import InceptionV3
from models.errors import ModelError
from models.store import ModelStore

Pictures = torch.Tensor
"""RGB (n, 3, px, px), 0 to 1, faces in HQ-VoxCeleb's geometry."""

PAPERS_EMBEDDING = "facenet_vggface2"
EMBEDDINGS = (PAPERS_EMBEDDING, OTHER_NETWORK)
CLASSIFIER, INCEPTION = "vggface2_resnet50", "inception_v3"
CPU_BATCH, GPU_BATCH = 8, 64
"""Pictures that are embedded at once."""


@dataclass
class Judges:
    """What measures pictures; None where its weights are not there.

    ``embed``: pictures to L2-normalised embeddings (n, d), ``embedding`` its name. ``classify``: to
    probabilities of VGGFace2's identities, for the VGGFace Score. ``inception``: to probabilities
    of ImageNet's classes, for the Inception Score, and features, for FID.
    """

    embed: Callable[[Pictures], NDArray[np.float32]] | None = None
    embedding: str = PAPERS_EMBEDDING
    classify: Callable[[Pictures], NDArray[np.float32]] | None = None
    inception: Callable[[Pictures], tuple[NDArray[np.float32], NDArray[np.float32]]] | None = None
    missing: dict[str, str] = field(default_factory=dict)
    """What cannot be measured, and for each why and what to do, in a line."""


def load_judges(
    store: ModelStore,
    embedding: str = PAPERS_EMBEDDING,
    device: str = "cpu",
    scores: bool = True,
) -> Judges:
    """Every judge whose weights are on this machine; nothing is downloaded.

    ``embedding``: one of :data:`EMBEDDINGS`; ``scores``: also those of the VGGFace and Inception
    Scores. Raises HqvoxError or ModelError for another embedding, a device that does not exist, and
    weights that are damaged.
    """
    if embedding not in EMBEDDINGS:
        raise HqvoxError(f"no embedding {embedding!r}; there are {', '.join(EMBEDDINGS)}")
    judges = Judges(embedding=embedding)
    if store.present(embedding):
        network = load_features(embedding, device, store)
        judges.embed = batched(lambda pictures: network.features(pictures)[1], device)
    else:
        hint = "" if embedding == OTHER_NETWORK else f", or --embedding {OTHER_NETWORK}"
        judges.missing["similarity and retrieval"] = _absent(embedding) + hint
    if not scores:
        return judges
    if store.present(CLASSIFIER):
        judges.classify = load_classifier(store, device)
    else:
        judges.missing["VFS"] = _absent(CLASSIFIER)
    if store.present(INCEPTION):
        judges.inception = InceptionV3(store.path(INCEPTION), device)
    else:
        judges.missing["IS and FID"] = _absent(INCEPTION)
    return judges


def _absent(name: str) -> str:
    return f"weights '{name}' are missing: hqvox models pull {name}"


def batched(
    network: Callable[[Pictures], torch.Tensor], device: torch.device | str
) -> Callable[[Pictures], NDArray[np.float32]]:
    """``network`` run over pictures a batch at a time, without gradient.

    All batches have one size, the last filled up: networks round differently for others, and a
    face must be judged alike whatever stands beside it.
    """
    size = CPU_BATCH if torch.device(device).type == "cpu" else GPU_BATCH

    def run(pictures: Pictures) -> NDArray[np.float32]:
        rows = []
        with torch.inference_mode():
            for batch in pictures.split(size):
                filled = torch.zeros(size, *batch.shape[1:], device=device)
                filled[: len(batch)] = batch.to(device)
                rows.append(network(filled)[: len(batch)].float().cpu().numpy())
        if not rows:
            raise ModelError("no pictures to embed")
        return np.concatenate(rows)

    return run
