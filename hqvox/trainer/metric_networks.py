"""The networks that the metrics are computed with, and which of them are missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.trainer.features import OTHER_NETWORK, load_features
from models.embedding import load_classifier
from models.embedding.inception_v3 import InceptionV3
from models.enhancement.gfpgan import FaceEnhancer
from models.errors import ModelError
from models.inference import fill_batch
from models.store import ModelStore

Pictures = torch.Tensor
"""RGB (n, 3, px, px), 0 to 1, faces in HQ-VoxCeleb's geometry."""

PAPERS_EMBEDDING = "facenet_vggface2"
"""The paper measures cosine, L1 and recall with FaceNet."""
ARCFACE = "arcface_r50"
"""AVP-GAN measures cosine with ArcFace (equation 15)."""
EMBEDDINGS = (PAPERS_EMBEDDING, ARCFACE, OTHER_NETWORK)
CLASSIFIER, INCEPTION = "vggface2_resnet50", "inception_v3"
ENHANCED_AT_ONCE = 64
"""Pictures that are enhanced, then measured, at a time."""
CPU_BATCH, GPU_BATCH = 8, 64
"""Pictures that are embedded at a time."""


@dataclass
class MetricNetworks:
    """Functions of pictures that the metrics need; None where a network's weights are missing.

    ``embed``: pictures to L2-normalised embeddings (n, d); ``embedding`` names the network.
    ``classify``: to probabilities (n, 8631) of VGGFace2's identities, for the VGGFace Score.
    ``inception``: to probabilities (n, 1000) of ImageNet's classes, for the Inception Score, and
    features (n, 2048), for FID.
    """

    embed: Callable[[Pictures], NDArray[np.float32]] | None = None
    embedding: str = PAPERS_EMBEDDING
    classify: Callable[[Pictures], NDArray[np.float32]] | None = None
    inception: Callable[[Pictures], tuple[NDArray[np.float32], NDArray[np.float32]]] | None = None
    missing: dict[str, str] = field(default_factory=dict)
    """Metrics that cannot be computed; for each, why and the remedy, in one line."""


def load_metric_networks(
    store: ModelStore,
    embedding: str = PAPERS_EMBEDDING,
    device: str = "cpu",
    scores: bool = True,
) -> MetricNetworks:
    """Load every network whose weights are on this machine; nothing is downloaded.

    ``embedding``: one of :data:`EMBEDDINGS`; ``scores``: also the networks of the VGGFace and
    Inception Scores. Raises HqvoxError or ModelError for another embedding, a missing device and
    damaged weights.
    """
    if embedding not in EMBEDDINGS:
        raise HqvoxError(f"no embedding {embedding!r}; there are {', '.join(EMBEDDINGS)}")
    networks = MetricNetworks(embedding=embedding)
    if store.present(embedding):
        faces = load_features(embedding, device, store)
        networks.embed = batched(lambda pictures: faces.features(pictures)[1], device)
    else:
        hint = "" if embedding == OTHER_NETWORK else f", or --embedding {OTHER_NETWORK}"
        networks.missing["similarity and retrieval"] = _absent(embedding) + hint
    if not scores:
        return networks
    if store.present(CLASSIFIER):
        networks.classify = load_classifier(store, device)
    else:
        networks.missing["VFS"] = _absent(CLASSIFIER)
    if store.present(INCEPTION):
        networks.inception = InceptionV3(store.path(INCEPTION), device)
    else:
        networks.missing["IS and FID"] = _absent(INCEPTION)
    return networks


def enhanced_first(networks: MetricNetworks, enhance: FaceEnhancer) -> MetricNetworks:
    """The same networks, which see pictures after they are enhanced.

    A few pictures at a time: those of 512 px of a whole evaluation would not fit into memory.
    """

    def after(network: Callable[[Pictures], Any] | None) -> Callable[[Pictures], Any] | None:
        if network is None:
            return None

        def run(pictures: Pictures) -> Any:
            parts = [network(enhance(some)) for some in pictures.split(ENHANCED_AT_ONCE)]
            if isinstance(parts[0], tuple):
                return tuple(np.concatenate(rows) for rows in zip(*parts, strict=True))
            return np.concatenate(parts)

        return run

    return replace(
        networks,
        embed=after(networks.embed),
        classify=after(networks.classify),
        inception=after(networks.inception),
    )


def _absent(name: str) -> str:
    return f"weights '{name}' are missing: hqvox models pull {name}"


def batched(
    network: Callable[[Pictures], torch.Tensor], device: torch.device | str
) -> Callable[[Pictures], NDArray[np.float32]]:
    """``network`` over pictures, a batch of constant size at a time, without gradients.

    A face's row does not depend on the other faces of its batch; see ``models.inference``.
    """
    size = CPU_BATCH if torch.device(device).type == "cpu" else GPU_BATCH

    def run(pictures: Pictures) -> NDArray[np.float32]:
        rows = []
        with torch.inference_mode():
            for batch in pictures.split(size):
                filled = fill_batch(batch.to(device), size)
                rows.append(network(filled)[: len(batch)].float().cpu().numpy())
        if not rows:
            raise ModelError("no pictures to embed")
        return np.concatenate(rows)

    return run
