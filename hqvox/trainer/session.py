"""One session of a training run: its inputs, and what it writes into the run's folder.

A run has several sessions if it is stopped and resumed. :func:`open_session` first checks what the
run may resume from: its folder, the checkpoint's configuration, and the data.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import ValidationError

from hqvox.errors import HqvoxError
from hqvox.release.layout import CHECKSUMS
from hqvox.release.read import Release
from hqvox.trainer import checkpoint, runs, samples
from hqvox.trainer.batches import BatchSource, check_split
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import TrainingData
from hqvox.trainer.distributed import ProcessGroup
from hqvox.trainer.evaluate import quick_metrics, real_embeddings
from hqvox.trainer.evaluate_released import ALL, EACH, ReleasedEvaluator
from hqvox.trainer.features import FeatureNetwork, RealFeatures, load_features
from hqvox.trainer.log import TrainLog
from hqvox.trainer.metric_networks import MetricNetworks, load_metric_networks
from hqvox.trainer.schedule import decay_begin
from hqvox.trainer.speakers import speaker_figures
from hqvox.trainer.speed import Speed, resolve, set_up
from hqvox.trainer.state import State, begin_decay, build_state, enter_stage_2, start_from
from hqvox.workspace.storage import Storage
from models.sf2f.generator import Generator
from models.store import ModelStore

SAMPLES = "samples"


class Session:
    """See the module. Use as a context manager: it records how the session ended."""

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        group: ProcessGroup,
        data: TrainingData,
        state: State,
        speed: Speed,
        on_note: Callable[[str], None],
    ) -> None:
        self.config, self.out, self.group = config, out, group
        self.state, self.speed, self._on_note = state, speed, on_note
        split = data.split("train")
        self.source = BatchSource(
            split, config, device=group.device, rank=group.rank, world=group.size
        )
        self.network: FeatureNetwork | None = None
        self.real_features: list[RealFeatures] = []
        if config.loss.perceptual.weight:
            self.network = load_features(config.loss.perceptual.network, group.device)
            self.real_features = [
                RealFeatures(
                    self.network,
                    split,
                    px,
                    device=group.device,
                    cached=config.speed.cache_features,
                    mirrored=config.data.flip,
                )
                for px in config.model.resolutions
            ]
        self.steps = config.stage1.iterations + config.stage2.iterations
        self.terms: list[torch.Tensor] = []
        """Terms of the steps since the last :meth:`check_terms`."""
        self._unseen = data.split("val")
        """Who the run is measured on; not test, as this chooses the best checkpoints."""
        if not len(self._unseen):
            self._unseen = split
            on_note(
                f"{data.release.url}: nobody in val; the run is measured on people of train, which "
                "says nothing about strangers"
            )
        self._identities, self._release = split.identity_ids, describe_release(data.release)
        self._log: TrainLog | None = None
        if group.leader:
            # Last of all, so that a refused run leaves the folder as it was.
            Storage(out / runs.CHECKPOINTS).remove_leftovers("")
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            Storage(out).write(runs.CONFIG, text.encode())
            self._log = TrainLog(out, state.step, on_note)
            self._info: dict[str, Any] = {
                "recipe": config.recipe,
                "release": self._release,
                "steps": self.steps,
            }
            before = runs.read_info(out)["sessions"] if (out / runs.INFO).exists() else []
            self._info["sessions"] = before
            self._session_info = runs.session_info(
                group.device_name, group.size, speed.describe(), state.step
            )
            self._info["sessions"].append(self._session_info)
            runs.write_info(out, self._info)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self.source.close()
        if self._log is None:
            return
        self._log.__exit__()
        done = self.state.step == self.steps
        self._session_info["state"] = "failed" if kind else "finished" if done else "stopped"
        if kind is not None:
            self._session_info["error"] = f"{kind.__name__}: {error}"
        self._session_info |= {"ended": runs.now(), "to_step": self.state.step}
        runs.write_info(self.out, self._info)

    def check_terms(self, names: Sequence[str]) -> None:
        """Average the terms of the last steps over the processes, and check that they are finite.

        Raises HqvoxError otherwise, with the first such step, its terms and the last checkpoint.
        """
        if not self.terms:
            return
        new = self.group.mean(torch.stack(self.terms)).tolist()
        first = self.state.step - len(new) + 1
        self.terms.clear()
        for step, values in enumerate(new, first):
            terms = torch.tensor(values)
            if not bool(torch.isfinite(terms).all()):
                shown = ", ".join(f"{n} {v:.4g}" for n, v in zip(names, values, strict=True))
                raise HqvoxError(
                    f"step {step}: a loss is not finite ({shown}); stopped. "
                    f"{self._last_checkpoint()}; a smaller optimiser.learning_rate, or "
                    "speed.bfloat16=false, may help"
                )
        self.state.pending += new

    def _last_checkpoint(self) -> str:
        last = self.out / runs.CHECKPOINTS / runs.LAST
        if not last.is_file():
            return "There is no checkpoint yet"
        return f"The last good checkpoint is {last}, of step {checkpoint.read(last)['step']}"

    def log_terms(self, names: Sequence[str], speed: Mapping[str, float]) -> dict[str, float]:
        """Write the means of the terms since the last line of the log; return them by name."""
        pending = self.state.pending
        means = {
            name: sum(values) / len(values)
            for name, values in zip(names, zip(*pending, strict=True), strict=True)
        }
        self.state.pending = []
        if self._log is not None:
            self._log.train(self.state.stage, self.state.step, means, speed)
        return means

    def show_samples(self) -> None:
        """Write the sample grid of this step, where faces are generated."""
        if self._log is None or self.config.task == "speakers":
            return
        step, fused = self.state.step, self.state.stage == 2
        grid = samples.sample_grid(
            self.state.generator, self._unseen, self.source.normaliser, self.group, fused
        )
        Storage(self.out / SAMPLES).write(f"{step}.jpg", samples.encode(grid))
        self._log.picture(step, grid)

    def evaluate(self) -> tuple[dict[str, float], list[str]]:
        """Measure the generator on the people of val: metrics, and which are the best so far.

        In stage 2 on fused speech; those best values are kept apart, as ``fused_…``.
        """
        if self._log is None:
            return {}, []
        began, state = time.perf_counter(), self.state
        fused = state.stage == 2
        figures = self._measure(state.generator.eval(), fused)
        state.generator.train()
        best = []
        for figure in runs.HIGHER_IS_BETTER:
            name = f"fused_{figure}" if fused else figure
            if figure in figures and runs.better(figure, figures[figure], state.best.get(name)):
                state.best[name] = figures[figure]
                best.append(name)
        self._log.evaluate(state.stage, state.step, figures, best, time.perf_counter() - began)
        return figures, best

    def _measure(self, generator: Generator, fused: bool) -> dict[str, float]:
        if self.config.task == "speakers":
            return speaker_figures(generator, self._unseen, self.source.normaliser)
        if self.config.evaluation.reading == "released":
            figures = self._released.measure(generator, ALL if fused else EACH)
            return {name: sum(values) / len(values) for name, values in figures.items()}
        return quick_metrics(
            generator,
            self._unseen,
            networks=self._metric_networks,
            normaliser=self.source.normaliser,
            fused=fused,
            # The middle of what it is trained on; 1.25 s in SF2F.
            frames=sum(self.config.stage1.crop_frames) // 2,
            truth=self._truth,
            seed=self.config.seed,
        )

    @cached_property
    def _released(self) -> ReleasedEvaluator:
        return ReleasedEvaluator(
            self._unseen,
            self.source.normaliser,
            self._metric_networks,
            self.config.model.resolutions[-1],
            self.config.seed,
        )

    @cached_property
    def _metric_networks(self) -> MetricNetworks:
        network = self.config.loss.perceptual.network
        networks = load_metric_networks(ModelStore(), network, str(self.group.device))
        networks.inception = None  # no best checkpoint is kept for it
        for what, why in networks.missing.items():
            if not what.startswith("IS"):
                self._on_note(f"{what} will not be measured: {why}")
        return networks

    @cached_property
    def _truth(self) -> NDArray[np.float64] | None:
        if self._metric_networks.embed is None:
            return None
        return real_embeddings(
            self._unseen, self.config.model.resolutions[-1], self._metric_networks
        )

    def save(self, best: Sequence[str]) -> None:
        """Write ``last.pt``, and the same as the best checkpoint of each metric in ``best``."""
        if self._log is None:
            return
        self._log.flush()
        content = {
            "kind": checkpoint.TRAINING,
            "recipe": self.config.recipe,
            "config": self.config.model_dump(mode="json"),
            "release": self._release,
            "identities": list(self._identities),
            "features": None if self.network is None else self.network.name,
            "normalise": self.source.normaliser.as_dict(),
            **self.state.content(),
        }
        folder = self.out / runs.CHECKPOINTS
        checkpoint.save(folder / runs.LAST, content, [f"best_{name}.pt" for name in best])


def open_session(
    config: TrainConfig,
    release: Release,
    out: Path,
    group: ProcessGroup,
    resume: bool,
    start: Path | None,
    on_note: Callable[[str], None],
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Session:
    """Prepare a run's first step, or the one after ``last.pt`` where that is resumed.

    ``start``: a checkpoint whose weights a new run starts from. Raises HqvoxError where ``out``
    holds something else, the release lacks what training needs, or a checkpoint does not fit.
    """
    last = out / runs.CHECKPOINTS / runs.LAST
    content = None
    if resume and last.is_file():
        content = checkpoint.read(last, [checkpoint.TRAINING], checkpoint.CONTENT)
    if content is not None:
        check_resume(content, config, last)
    elif group.leader:
        refuse_taken(out, resume)
    if config.stage1.iterations == 0 and start is None and content is None:
        raise HqvoxError(
            "stage1.iterations=0: stage 2 needs a trained encoder and decoder; name a checkpoint "
            "that has them with --from"
        )
    speed = resolve(config.speed, group.device)
    chosen = set_up(speed, group.device, config.speed.threads)
    with group.leader_first():
        data = TrainingData.open(
            release,
            config.model.resolutions,
            pictures=config.data.pictures,
            resize=config.data.resize,
            on_progress=on_progress if group.leader else None,
        )
    split = data.split("train")
    check_split(split, config)
    follow = content is not None or start is not None
    state = build_state(config, len(split), speed, group, weights_follow=follow)
    if content is not None:
        check_people(content, split.identity_ids, release)
        if content["stage"] == 2:
            enter_stage_2(state, config, speed)
        elif content["step"] > decay_begin(config):
            begin_decay(state, config, speed)
        try:
            state.restore(content)
        except HqvoxError as error:
            raise HqvoxError(f"{last}: {error}") from None
    elif start is not None:
        start_from(state, checkpoint.read(start, needs=("spec", "generator")), start)
    session = Session(config, out, group, data, state, speed, on_note)
    on_note(f"training {config.recipe} {chosen}")
    return session


EXTENDABLE = ("stage1.iterations", "stage2.iterations", "cadence.", "speed.")
"""Settings that may change when a run is resumed: none of them changes what a step does."""
SHOWN = 4
"""Changed settings that an error names; the others are counted."""


def refuse_taken(out: Path, resume: bool) -> None:
    """Raise HqvoxError where a folder holds anything but a run that is to be resumed."""
    if out.is_file():
        raise HqvoxError(f"{out}: is a file, not a folder; name a new folder")
    names = {entry.name for entry in out.iterdir()} - {runs.LOCK} if out.is_dir() else set()
    ours = bool(names & {runs.INFO, runs.CONFIG})
    if ours and not resume:
        raise HqvoxError(
            f"{out}: already holds a run; continue it with --resume, or name a new folder"
        )
    if names and not ours:
        raise HqvoxError(f"{out}: not empty, and no run of `hqvox train`; name a new folder")


def check_resume(content: Mapping[str, Any], config: TrainConfig, last: Path) -> None:
    """Raise HqvoxError where a run cannot resume from a checkpoint with this configuration.

    A run can only be extended: another recipe or other settings make another run.
    """
    if content["recipe"] != config.recipe:
        raise HqvoxError(
            f"{last}: a checkpoint of recipe {content['recipe']}, not {config.recipe}; name that "
            "recipe, or another --out"
        )
    stored = _stored_config(content, last)
    before, now = flat(stored.model_dump(mode="json")), flat(config.model_dump(mode="json"))
    changed = [
        f"{key} {before.get(key)} not {now.get(key)}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key) and not key.startswith(EXTENDABLE)
    ]
    if changed:
        rest = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise HqvoxError(
            f"{last}: started with other settings: {', '.join(changed[:SHOWN])}{rest}; leave them "
            "as they were, or start a new run with another --out and --from this checkpoint"
        )
    first, step = before["stage1.iterations"], content["step"]
    if content["stage"] == 2 and now["stage1.iterations"] != first:
        raise HqvoxError(
            f"{last}: stage 2 has begun, so stage1.iterations stays {first}; start a new run "
            "with another --out and --from this checkpoint"
        )
    schedule, begin = stored.optimiser.schedule, min(decay_begin(stored), decay_begin(config))
    falls = schedule.kind != "constant" or schedule.freeze_norms
    if falls and step > begin and now["stage1.iterations"] != first:
        raise HqvoxError(
            f"{last}: {step} iterations are done, and optimiser.schedule changes them from step "
            f"{begin} on, so stage1.iterations stays {first}; start a new run with another --out "
            "and --from this checkpoint"
        )
    limit = now["stage1.iterations"] + (now["stage2.iterations"] if content["stage"] == 2 else 0)
    if step > limit:
        raise HqvoxError(
            f"{last}: {step} iterations are done, more than the {limit} asked for; a run "
            "can only be extended"
        )


def _stored_config(content: Mapping[str, Any], last: Path) -> TrainConfig:
    """A checkpoint's configuration; keys that its version did not have get their defaults.

    Raises HqvoxError where it has keys or values that this version does not.
    """
    try:
        return TrainConfig.model_validate(content["config"])
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise HqvoxError(
            f"{last}: its setting {key} is not one of this hqvox; resume with the version that "
            "began the run, or start a new run with another --out and --from this checkpoint"
        ) from None


def check_people(content: Mapping[str, Any], ids: Sequence[str], release: Release) -> None:
    """Raise HqvoxError where a checkpoint was trained on another release or other people."""
    now, before = describe_release(release), content["release"]
    if before["checksum"] != now["checksum"] or list(content["identities"]) != list(ids):
        raise HqvoxError(
            f"{release.url}: not the release that this run was started with ({before['url']}); "
            "name that one as --data, or start a new run with another --out"
        )


def describe_release(release: Release) -> dict[str, str]:
    """A release as stored in runs and checkpoints: ``name``, ``url``, ``checksum`` (SHA256SUMS)."""
    checksum = hashlib.sha256(release.read(CHECKSUMS)).hexdigest()
    return {"name": release.name, "url": release.url, "checksum": checksum}


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings as ``{"loss.l1.weight": 10, …}``."""
    settings: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        settings |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return settings
