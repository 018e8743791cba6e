"""Pretraining a voice encoder: `hqvox train voice-embedding` recognises the speakers of train.

The same data, loop, log and checkpoints as for faces; other are the step and what is measured on
val, whose people the encoder has never heard.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hqvox.trainer import losses
from hqvox.trainer.batches import Batch, FusedBatch
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import Split
from hqvox.trainer.distributed import ProcessGroup
from hqvox.trainer.metrics import equal_error_rate, identification
from hqvox.trainer.speech_input import Normaliser, check_front_end
from hqvox.trainer.speed import Speed, autocast, begin_step, compiled
from hqvox.trainer.state import SPEAKERS, State, parameters_of
from models.sf2f.generator import Generator

MOST_CLIPS = 10
"""Utterances of a person that are compared."""
MOST_FRAMES = 800
"""Frames of an utterance that are heard, from its start: 8 s, the longest training crop."""


class SpeakerStep:
    """One iteration: encoder and classifier together. A call with a batch updates both."""

    names = ("total", "accuracy")
    """Names of what is returned: the loss, and the share of the batch that is recognised."""

    def __init__(
        self, state: State, config: TrainConfig, speed: Speed, group: ProcessGroup
    ) -> None:
        self._speed, self._group = speed, group
        self._clip_norm = config.optimiser.clip_norm
        self._embed = compiled(state.generator.embed, speed, lengths_vary=True)
        self._classify = compiled(state.critics[SPEAKERS], speed)
        self._optimisers = [state.optimisers["generator"], state.optimisers[SPEAKERS]]

    def __call__(self, batch: Batch | FusedBatch) -> torch.Tensor:
        """Do one iteration; return the values of :attr:`names`, float32, detached."""
        assert isinstance(batch, Batch)
        begin_step(self._speed)
        with autocast(self._speed, self._group.device):
            logits = self._classify(self._embed(batch.log_mel))
            loss = losses.classifier(logits, batch.identity)
        loss.backward()
        for adam in self._optimisers:
            parameters = parameters_of(adam)
            self._group.average_gradients(parameters)
            if self._clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm)
            adam.step()
            adam.zero_grad(set_to_none=True)
        right = (logits.detach().argmax(dim=1) == batch.identity).float().mean()
        return torch.stack([loss.detach(), right])


def speaker_figures(generator: Generator, split: Split, normaliser: Normaliser) -> dict[str, float]:
    """How well an encoder, in evaluation mode, tells the people of a split apart by their clips.

    ``accuracy``: share of clips (%) whose person is the nearest, by cosine with the mean of the
    person's other clips. ``eer``: equal error rate (%) over all pairs of clips. Raises HqvoxError
    for a split with another front end's log-mels.
    """
    embeddings, people = clip_embeddings(generator, split, normaliser)
    return {
        "accuracy": identification(embeddings, people),
        "eer": equal_error_rate(embeddings, people),
    }


def clip_embeddings(
    generator: Generator, split: Split, normaliser: Normaliser
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embeddings (clips, d) of a split's utterances, and each clip's person."""
    check_front_end(split.data, normaliser.front_end)
    device = next(generator.parameters()).device
    rows, people = [], []
    with torch.inference_mode():
        for person, utterances in enumerate(split.utterances_of):
            for utterance in utterances[:MOST_CLIPS].tolist():
                whole = normaliser.whole(split.data.log_mel(utterance))[..., :MOST_FRAMES]
                rows.append(generator.embed(whole.to(device)).float().cpu().numpy()[0])
                people.append(person)
    return np.stack(rows), np.array(people, np.int64)
