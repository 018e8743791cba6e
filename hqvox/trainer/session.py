"""One sitting of a training run: what it works with, and what it writes into the run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from hqvox.errors import HqvoxError
from hqvox.release.read import Release
from hqvox.trainer import checkpoint, runs, samples
from hqvox.trainer.batches import BatchSource, check_part
from hqvox.trainer.config import TrainConfig
from hqvox.trainer.data import TrainingData
from hqvox.trainer.distributed import Team
from hqvox.trainer.evaluate import quick_metrics, real_embeddings
from hqvox.trainer.feature_cache import RealFeatures
from hqvox.trainer.features import FeatureNetwork, load_features
from hqvox.trainer.judges import Judges, load_judges
from hqvox.trainer.log import RunLog
from hqvox.trainer.resume import check_people, check_resume, describe_release, refuse_taken
from hqvox.trainer.speed import Speed, resolve, set_up
from hqvox.trainer.state import State, build_state, enter_stage_2, start_from
from hqvox.workspace.storage import Storage
from models.store import ModelStore

SAMPLES = "samples"


class Session:
    """See the module. Use as a context manager: it records how the sitting ended."""

    def __init__(
        self,
        config: TrainConfig,
        out: Path,
        team: Team,
        data: TrainingData,
        state: State,
        speed: Speed,
        on_note: Callable[[str], None],
    ) -> None:
        self.config, self.out, self.team = config, out, team
        self.state, self.speed, self._on_note = state, speed, on_note
        part = data.part("train")
        self.source = BatchSource(part, config, device=team.device, rank=team.rank, world=team.size)
        self.network: FeatureNetwork | None = None
        self.real_features: list[RealFeatures] = []
        if config.loss.perceptual.weight:
            self.network = load_features(config.loss.perceptual.network, team.device)
            self.real_features = [
                RealFeatures(
                    self.network,
                    part,
                    px,
                    device=team.device,
                    cached=config.speed.cache_features,
                    mirrored=config.data.flip,
                )
                for px in config.model.resolutions
            ]
        self.steps = config.stage1.iterations + config.stage2.iterations
        self.terms: list[torch.Tensor] = []
        """Of the steps that :meth:`check_terms` has not seen."""
        self._unseen = data.part("val")
        """Who the run is measured on: never people of test, as the best checkpoints are chosen."""
        if not len(self._unseen):
            self._unseen = part
            on_note(
                f"{data.release.url}: nobody in val; the run is measured on people of train, which "
                "says nothing of strangers"
            )
        self._identities, self._release = part.identity_ids, describe_release(data.release)
        self._log: RunLog | None = None
        if team.leader:
            # Last of all: what is refused before must leave the folder as it was.
            Storage(out / runs.CHECKPOINTS).remove_leftovers("")
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            Storage(out).write(runs.CONFIG, text.encode())
            self._log = RunLog(out, state.step, on_note)
            self._info: dict[str, Any] = {
                "recipe": config.recipe,
                "release": self._release,
                "steps": self.steps,
            }
            before = runs.read_info(out)["sessions"] if (out / runs.INFO).exists() else []
            self._info["sessions"] = before
            self._sitting = runs.sitting(team.device_name, team.size, speed.describe(), state.step)
            self._info["sessions"].append(self._sitting)
            runs.write_info(out, self._info)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self.source.close()
        if self._log is None:
            return
        self._log.__exit__()
        done = self.state.step == self.steps
        self._sitting["state"] = "failed" if kind else "finished" if done else "stopped"
        if kind is not None:
            self._sitting["error"] = f"{kind.__name__}: {error}"
        self._sitting |= {"ended": runs.now(), "to_step": self.state.step}
        runs.write_info(self.out, self._info)

    def check_terms(self, names: Sequence[str]) -> None:
        """Take in the terms of the last steps, means over the processes.

        Raises HqvoxError at the first step with one that is not finite: with the step, the terms
        and the checkpoint from before.
        """
        if not self.terms:
            return
        new = self.team.mean(torch.stack(self.terms)).tolist()
        first = self.state.step - len(new) + 1
        self.terms.clear()
        for step, values in enumerate(new, first):
            terms = torch.tensor(values)
            if not bool(torch.isfinite(terms).all()):
                shown = ", ".join(f"{n} {v:.4g}" for n, v in zip(names, values, strict=True))
                raise HqvoxError(
                    f"step {step}: a loss is not finite ({shown}); stopped. {self._last_good()}; "
                    "a smaller optimiser.learning_rate, or speed.bfloat16=false, may help"
                )
        self.state.pending += new

    def _last_good(self) -> str:
        last = self.out / runs.CHECKPOINTS / runs.LAST
        if not last.is_file():
            return "There is no checkpoint yet"
        return f"The last good checkpoint is {last}, of step {checkpoint.read(last)['step']}"

    def log_terms(self, names: Sequence[str], speed: Mapping[str, float]) -> dict[str, float]:
        """Write the means of the terms since the line before; return them by name."""
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
        """Write a grid of generated faces beside real ones."""
        if self._log is None:
            return
        step, fused = self.state.step, self.state.stage == 2
        grid = samples.sample_grid(
            self.state.generator, self._unseen, self.source.normaliser, self.team, fused
        )
        Storage(self.out / SAMPLES).write(f"{step}.jpg", samples.encode(grid))
        self._log.picture(step, grid)

    def evaluate(self) -> tuple[dict[str, float], list[str]]:
        """Measure the generator on the people of val: figures, and which are the best yet.

        In stage 2 of fused speech; its figures stand apart as ``fused_…``.
        """
        if self._log is None:
            return {}, []
        began, state = time.perf_counter(), self.state
        fused = state.stage == 2
        figures = quick_metrics(
            state.generator.eval(),
            self._unseen,
            judges=self._judges,
            normaliser=self.source.normaliser,
            fused=fused,
            truth=self._truth,
            seed=self.config.seed,
        )
        state.generator.train()
        best = []
        for figure in runs.HIGHER_IS_BETTER:
            name = f"fused_{figure}" if fused else figure
            if figure in figures and runs.better(figure, figures[figure], state.best.get(name)):
                state.best[name] = figures[figure]
                best.append(name)
        self._log.evaluate(state.stage, state.step, figures, best, time.perf_counter() - began)
        return figures, best

    @cached_property
    def _judges(self) -> Judges:
        network = self.config.loss.perceptual.network
        judges = load_judges(ModelStore(), network, str(self.team.device))
        judges.inception = None  # no checkpoint is kept by it
        for what, why in judges.missing.items():
            if not what.startswith("IS"):
                self._on_note(f"{what} will not be measured: {why}")
        return judges

    @cached_property
    def _truth(self) -> NDArray[np.float64] | None:
        if self._judges.embed is None:
            return None
        return real_embeddings(self._unseen, self.config.model.resolutions[-1], self._judges)

    def save(self, best: Sequence[str]) -> None:
        """Write ``last.pt``, and the same as the best checkpoint of the figures named."""
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
    team: Team,
    resume: bool,
    start: Path | None,
    on_note: Callable[[str], None],
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Session:
    """Make everything ready for a run's first step, or for the one after ``last.pt``.

    Raises HqvoxError where ``out`` holds something else, the release lacks what training needs, or
    a checkpoint does not fit.
    """
    last = out / runs.CHECKPOINTS / runs.LAST
    found = resume and last.is_file()
    content = checkpoint.read(last, [checkpoint.TRAINING], checkpoint.CONTENT) if found else None
    if content is not None:
        check_resume(content, config, last)
    elif team.leader:
        refuse_taken(out, resume)
    if config.stage1.iterations == 0 and start is None and content is None:
        raise HqvoxError(
            "stage1.iterations=0: stage 2 needs a trained encoder and decoder; name a checkpoint "
            "that has them with --from"
        )
    speed = resolve(config.speed, team.device)
    set_up(speed, team.device, config.speed.threads)
    with team.leader_first():
        data = TrainingData.open(
            release,
            config.model.resolutions,
            pictures=config.data.pictures,
            on_progress=on_progress if team.leader else None,
        )
    part = data.part("train")
    check_part(part, config)
    state = build_state(config, len(part), speed, team)
    if content is not None:
        check_people(content, part.identity_ids, release)
        if content["stage"] == 2:
            enter_stage_2(state, config, speed)
        try:
            state.restore(content)
        except HqvoxError as error:
            raise HqvoxError(f"{last}: {error}") from None
    elif start is not None:
        start_from(state, checkpoint.read(start, needs=("spec", "generator")), start)
    return Session(config, out, team, data, state, speed, on_note)
