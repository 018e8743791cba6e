"""Fine-tuning GFPGAN on a release's faces: one process, one device.

A run's folder: ``config.yaml``, ``log.jsonl``, ``checkpoints/last.pt`` (everything, for resuming)
and ``checkpoints/enhancer.pth`` (the averaged generator alone, as GFPGAN is published). What a step
does depends on the seed and its number only, so a resumed run goes the same way.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.trainer import runs
from hqvox.trainer.checkpoint import save
from hqvox.trainer.data import TrainingData
from hqvox.trainer.enhancement import losses
from hqvox.trainer.enhancement.config import EnhancementConfig, as_yaml
from hqvox.trainer.enhancement.degrade import degrade
from hqvox.trainer.enhancement.losses import FFHQ_PARTS, part_of
from hqvox.trainer.features import load_features
from hqvox.trainer.packing import OnProgress
from hqvox.workspace.storage import Storage, disk_error
from models.enhancement.critics import (
    VGG_TAPS,
    PartCritic,
    VggFeatures,
    WholeFaceCritic,
    load_vgg,
)
from models.enhancement.gfpgan import (
    KEY,
    from_ffhq,
    load_network,
    published,
    restore,
    side_of,
    to_ffhq,
)
from models.errors import ModelError
from models.inference import pick_device
from models.store import ModelStore
from models.weight_files import read_torch_file

ENHANCER = "enhancer.pth"
"""The file in ``checkpoints/`` that ``--enhancer`` takes."""
LOG = "log.jsonl"
KIND = "hqvox.enhancement"
MEASURED_FACES = 16
"""Faces on which the reconstruction loss is measured before and after."""
MAY_CHANGE = ("iterations", "log_every", "save_every")
"""Settings that may change when a run is resumed: none of them changes what a step does."""


@dataclass(frozen=True)
class Teachers:
    """The frozen networks of the losses; None where the loss is off."""

    vgg: VggFeatures | None
    identity: Callable[[torch.Tensor], torch.Tensor] | None
    """Embeddings (n, d) of RGB (n, 3, px, px), 0 to 1, in HQ-VoxCeleb's geometry."""


@dataclass(frozen=True)
class FineTuned:
    """How a fine-tuning ended."""

    step: int
    before: float
    """Reconstruction loss (equation 7, weighted) of the generator that training began with."""
    after: float
    """The same of the averaged generator, on the same bad copies of the same faces."""
    faces: int
    """Faces it was measured on, of val, or of train where val has nobody."""
    enhancer: Path


class FineTuner:
    """Generator, its average, four discriminators and their optimisers."""

    def __init__(
        self,
        network: nn.Module,
        config: EnhancementConfig,
        teachers: Teachers,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.teachers, self.device = config, teachers, torch.device(device)
        self.side_px = side_of(network)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            critics: dict[str, nn.Module] = {
                "face": WholeFaceCritic(self.side_px, config.critic_width)
            }
            critics |= {name: PartCritic(config.critic_width) for name in FFHQ_PARTS}
        self.network = network.to(self.device).train()
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.critics = nn.ModuleDict(critics).to(self.device)
        self.step_number = 0
        rate = config.learning_rate
        # The penalty comes every so many steps only; StyleGAN2 slows its Adam down to match.
        lazy = config.r1_every / (config.r1_every + 1) if config.r1_weight else 1.0
        self.optimisers = {
            "generator": torch.optim.Adam(
                self.network.parameters(), rate, betas=config.generator_betas
            ),
            "face": torch.optim.Adam(
                self.critics["face"].parameters(),
                rate * lazy,
                betas=(config.generator_betas[0] ** lazy, config.generator_betas[1] ** lazy),
            ),
        } | {
            name: torch.optim.Adam(self.critics[name].parameters(), rate, betas=config.local_betas)
            for name in FFHQ_PARTS
        }

    def step(self, real: torch.Tensor, bad: torch.Tensor) -> dict[str, torch.Tensor]:
        """One iteration; returns the unweighted terms, scalars.

        ``real``, ``bad``: RGB (n, 3, side, side), 0 to 1, in FFHQ's geometry.
        """
        torch.manual_seed(_seed(self.config.seed, self.step_number))
        real, bad = real.to(self.device), bad.to(self.device)
        self.critics.requires_grad_(False)
        restored = restore(self.network, bad, stored_noise=False)
        terms = self._generator_terms(restored, real)
        weights = self.config.loss.model_dump()
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        self._update("generator", total)
        self._average()
        self.critics.requires_grad_(True)
        terms |= {"total": total} | self._train_critics(restored.detach() * 2 - 1, real * 2 - 1)
        self.step_number += 1
        return {name: term.detach() for name, term in terms.items()}

    def reconstruction(self, network: nn.Module, real: torch.Tensor, bad: torch.Tensor) -> float:
        """Equation 7, weighted, of one face (1, 3, side, side), with the stored noise."""
        with torch.no_grad():
            restored, real = restore(network, bad.to(self.device)), real.to(self.device)
            terms = self._reconstruction_terms(restored, real)
            weights = self.config.loss.model_dump()
            return float(sum(weights[name] * float(term) for name, term in terms.items()))

    def _reconstruction_terms(
        self, restored: torch.Tensor, real: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        terms = {"l1": losses.l1(restored * 2, real * 2)}
        if self.teachers.vgg is not None:
            with torch.no_grad():
                wanted = self.teachers.vgg(real)
            terms["perceptual"] = losses.weighted_l1(
                self.teachers.vgg(restored), wanted, list(VGG_TAPS.values())
            )
        return terms

    def _generator_terms(
        self, restored: torch.Tensor, real: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        weights = self.config.loss
        terms = self._reconstruction_terms(restored, real)
        if weights.adversarial:
            terms["adversarial"] = losses.generator_adversarial(
                self.critics["face"](restored * 2 - 1)
            )
        if weights.local or weights.style:
            fooled, styles = [], []
            for name in FFHQ_PARTS:
                logits, maps = self.critics[name](part_of(restored * 2 - 1, name))
                with torch.no_grad():
                    _, wanted = self.critics[name](part_of(real * 2 - 1, name))
                fooled.append(losses.generator_adversarial(logits))
                styles.append(losses.style(maps, wanted))
            terms |= {"local": torch.stack(fooled).sum(), "style": torch.stack(styles).sum()}
        if self.teachers.identity is not None:
            with torch.no_grad():
                who = self.teachers.identity(from_ffhq(real))
            terms["identity"] = losses.l1(self.teachers.identity(from_ffhq(restored)), who)
        return terms

    def _train_critics(self, restored: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """Update the discriminators that a loss uses; pictures -1 to 1."""
        config, terms = self.config, {}
        if config.loss.adversarial:
            face = self.critics["face"]
            loss = losses.critic_adversarial(face(real), face(restored))
            terms["D_face"] = loss
            if config.r1_weight and self.step_number % config.r1_every == 0:
                pictures = real.clone().requires_grad_(True)
                penalty = losses.r1_penalty(face(pictures), pictures)
                loss = loss + config.r1_weight / 2 * config.r1_every * penalty
            self._update("face", loss)
        if config.loss.local or config.loss.style:
            for name in FFHQ_PARTS:
                critic = self.critics[name]
                loss = losses.critic_adversarial(
                    critic(part_of(real, name))[0], critic(part_of(restored, name))[0]
                )
                terms[f"D_{name}"] = loss
                self._update(name, loss)
        return terms

    def _update(self, name: str, loss: torch.Tensor) -> None:
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def _average(self) -> None:
        decay = self.config.average_decay
        with torch.no_grad():
            for kept, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
                kept.lerp_(now, 1 - decay)

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs; tensors and plain values."""
        return {
            "kind": KIND,
            "step": self.step_number,
            "config": json.loads(self.config.model_dump_json()),
            KEY: self.average.state_dict(),
            "params": self.network.state_dict(),
            "critics": self.critics.state_dict(),
            "optimisers": {name: one.state_dict() for name, one in self.optimisers.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.step_number = int(state["step"])
        self.average.load_state_dict(state[KEY])
        self.network.load_state_dict(state["params"])
        self.critics.load_state_dict(state["critics"])
        for name, one in self.optimisers.items():
            one.load_state_dict(state["optimisers"][name])


def fine_tune(
    config: EnhancementConfig,
    release: Release,
    out: Path,
    *,
    start: Path | None = None,
    resume: bool = False,
    device: str | None = None,
    store: ModelStore | None = None,
    cache_dir: Path | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    on_progress: OnProgress | None = None,
) -> FineTuned:
    """Fine-tune GFPGAN on a release's training faces, into the folder ``out``.

    ``start``: a checkpoint to begin with; by default the published one. ``resume``: go on after the
    last checkpoint in ``out``. Raises HqvoxError or ModelError, in one line: weights missing, a
    folder that is taken, settings that differ from the resumed run's, a loss that is not finite.
    """
    store, chosen = store or ModelStore(), pick_device(device)
    last = out / runs.CHECKPOINTS / runs.LAST
    state = _read(last, config) if resume and last.is_file() else None
    teachers = load_teachers(config, store, chosen)
    network = load_network(start or (last if state else published(store)))
    tuner = FineTuner(network, config, teachers, chosen)
    with runs.hold(out):
        faces = Faces(release, config, tuner.side_px, cache_dir, on_progress)
        first = _measure(tuner, tuner.average, faces) if state is None else float(state["before"])
        if state is not None:
            tuner.load_state(state)
            on_note(f"goes on after step {tuner.step_number}")
        Storage(out).write(runs.CONFIG, as_yaml(config).encode())
        _log(out, {"step": tuner.step_number, "reconstruction": first}, fresh=state is None)
        sums: dict[str, float] = {}
        while tuner.step_number < config.iterations:
            terms = tuner.step(*faces.batch(tuner.step_number))
            at = tuner.step_number
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            if not np.isfinite(sums["total"]):
                raise HqvoxError(
                    f"step {at}: the loss is not finite; go on from the last checkpoint with "
                    "--resume, or begin again with a lower learning_rate"
                )
            if at % config.log_every == 0 or at == config.iterations:
                since = at % config.log_every or config.log_every
                means = {name: value / since for name, value in sums.items()}
                _log(out, {"step": at, "terms": means})
                on_note(f"step {at}: " + " ".join(f"{n} {v:.4g}" for n, v in means.items()))
                sums = {}
            if on_progress is not None:
                on_progress("steps", at, config.iterations)
            if at % config.save_every == 0 and at < config.iterations:
                _save(out, tuner, first)
        _save(out, tuner, first)
        after = _measure(tuner, tuner.average, faces)
        _log(out, {"step": tuner.step_number, "reconstruction": after})
    enhancer = out / runs.CHECKPOINTS / ENHANCER
    return FineTuned(tuner.step_number, first, after, len(faces.measured), enhancer)


class Faces:
    """A release's faces at the network's side, made bad on demand."""

    def __init__(
        self,
        release: Release,
        config: EnhancementConfig,
        side_px: int,
        cache_dir: Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Raises HqvoxError for a release without faces in train."""
        data = TrainingData.open(
            release,
            (side_px,),
            pictures=config.pictures,
            cache_dir=cache_dir,
            on_progress=on_progress or (lambda what, done, total: None),
        )
        self._config, self._side_px, self._pictures = config, side_px, data.faces[side_px]
        self.rows = _rows(data.split("train").faces_of)
        self.measured = (_rows(data.split("val").faces_of) or self.rows)[:MEASURED_FACES]
        if not self.rows:
            raise HqvoxError(f"{release.url}: no faces in train; release with another split")

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Faces of a step, in FFHQ's geometry, and bad copies: (n, 3, side, side), 0 to 1."""
        config = self._config
        rng = np.random.default_rng([config.seed, step])
        rows = rng.choice(self.rows, config.batch_size)
        mirrored = rng.random(len(rows)) < 0.5 if config.flip else np.zeros(len(rows), bool)
        return self._pairs(rows, mirrored, rng)

    def measured_pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The faces that are measured, one at a time, always with the same bad copies."""
        for row in self.measured:
            rng = np.random.default_rng([self._config.seed, 1, int(row)])
            yield self._pairs([row], np.zeros(1, bool), rng)

    def _pairs(
        self, rows: Iterable[int], mirrored: np.ndarray, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = np.stack([self._pictures[row] for row in rows])
        pixels[mirrored] = pixels[mirrored][..., ::-1]
        real = to_ffhq(torch.from_numpy(pixels).float() / 255, self._side_px)
        bad = [degrade(one.permute(1, 2, 0).numpy(), self._config.degradation, rng) for one in real]
        return real, torch.from_numpy(np.stack(bad)).permute(0, 3, 1, 2).contiguous()


def load_teachers(
    config: EnhancementConfig, store: ModelStore, device: torch.device | str
) -> Teachers:
    """The networks of the losses that are on. Raises ModelError naming what is missing."""
    vgg = identity = None
    if config.loss.perceptual:
        vgg = load_vgg(_present(store, "vgg19", "--set loss.perceptual=0")).to(device)
    if config.loss.identity:
        name = config.identity_network
        _present(store, name, "--set identity_network=dlib_resnet")
        network = load_features(name, device, store)

        def identity(pictures: torch.Tensor) -> torch.Tensor:
            return network.features(pictures)[1]

    return Teachers(vgg, identity)


def _present(store: ModelStore, name: str, otherwise: str) -> Path:
    if not store.present(name):
        raise ModelError(
            f"weights '{name}' are missing: run `hqvox models pull {name}`, or do without by "
            f"{otherwise}"
        )
    return store.path(name)


def _rows(faces_of: Sequence[np.ndarray]) -> list[int]:
    return [int(row) for rows in faces_of for row in rows]


def _measure(tuner: FineTuner, network: nn.Module, faces: Faces) -> float:
    return float(np.mean([tuner.reconstruction(network, *p) for p in faces.measured_pairs()]))


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _save(out: Path, tuner: FineTuner, before: float) -> None:
    folder = out / runs.CHECKPOINTS
    state = tuner.state() | {"before": before}
    save(folder / ENHANCER, {KEY: state[KEY]})
    save(folder / runs.LAST, state)


def _read(last: Path, config: EnhancementConfig) -> dict[str, Any]:
    """A run's last checkpoint, whose settings are the same but for how long and how often."""
    try:
        state = read_torch_file(last)
    except ModelError as error:
        raise HqvoxError(str(error)) from None
    if not isinstance(state, dict) or state.get("kind") != KIND:
        raise HqvoxError(f"{last}: no checkpoint of `hqvox train-enhancer`; name another --out")
    mine = json.loads(config.model_dump_json())
    changed = [n for n in mine if n not in MAY_CHANGE and state["config"].get(n) != mine[n]]
    if changed:
        raise HqvoxError(
            f"{last}: the run has another {', '.join(changed)}; resume it with the same settings, "
            "or begin in a new folder"
        )
    return state


def _log(out: Path, line: dict[str, Any], fresh: bool = False) -> None:
    try:
        with (out / LOG).open("w" if fresh else "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
    except OSError as error:
        raise disk_error(error, str(out / LOG)) from None
