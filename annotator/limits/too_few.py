"""Identities with too few candidates for people to look at, and what would have saved them.

For the engineer. What is stored settles which faces a single limit refused; whether the stages
after it would have kept them was never measured, so every figure here is "at most".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from annotator.candidates.candidates import IdentitySummary
from annotator.limits.explore import KEPT, STAGES, Verdicts, read_verdicts
from annotator.limits.what_if import as_built, keeps, settable_bounds, setting_of, value_for
from hqvox.config.build import BuildConfig
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import BY_NAME
from models.store import ModelStore

NEAREST = 3
"""How many nearest misses are shown of an identity."""
STEPS = (0.1, 0.25, 0.5)
"""How far a limit is moved to see how many that saves, as shares of the limit."""

OnProgress = Callable[[str, int, int], None]
"""Told the stage that is read, how many are done, and of how many."""


@dataclass(frozen=True)
class NearMiss:
    """A face (or photograph) that failed a single limit."""

    candidate: int
    face: int | None
    measure: str
    value: float
    limit: float
    miss: float
    """How far the limit would have to move to let it pass, as a share of the limit."""


@dataclass
class TooFew:
    """An identity with too few candidates."""

    identity_id: str
    name: str
    candidates: int
    missing: int
    """How many candidates more it needs."""
    reasons: dict[str, int] = field(default_factory=dict)
    """What refused how many of its photographs and faces, most first."""
    nearest: list[NearMiss] = field(default_factory=list)
    """Those that missed a single limit by least."""
    saved_by: dict[str, float] = field(default_factory=dict)
    """Settings of which one alone could save it, and the value that each would need."""


@dataclass(frozen=True)
class Remedy:
    """What moving one setting alone could do."""

    setting: str
    measure: str
    limit: float
    steps: tuple[tuple[float, int], ...]
    """Values of the setting, the limit moved by each of :data:`STEPS`, and how many identities
    that would save at most."""
    saved: int
    """Identities that could be saved however far it is moved."""


@dataclass(frozen=True)
class Lost:
    """All identities with too few candidates, and what could be done."""

    identities: list[TooFew]
    """Fewest missing first."""
    remedies: list[Remedy]
    """The one that could save most by a quarter of its limit first."""


def too_few(
    workspace: Workspace,
    config: BuildConfig,
    people: Sequence[IdentitySummary],
    store: ModelStore | None = None,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> Lost:
    """Look into identities with too few candidates. Raises HqvoxError where a table is damaged.

    ``people``: those of the workspace with fewer than ``release.min_faces``; see
    :meth:`annotator.candidates.candidates.Candidates.too_few`. Reads every stage's table once. A
    face counts for a setting where it failed that limit of its stage and no other; an identity
    where so many of its faces do that it would have enough. Limits are those that the tables were
    made with.
    """
    store = store or ModelStore()
    least = config.release.min_faces
    identities = {
        p.identity_id: TooFew(p.identity_id, p.name, p.candidates, least - p.candidates)
        for p in people
    }
    refused: dict[str, Counter[str]] = {identity_id: Counter() for identity_id in identities}
    misses: dict[str, list[NearMiss]] = {identity_id: [] for identity_id in identities}
    bounds: dict[str, float] = {}
    for number, stage in enumerate(STAGES):
        on_progress(stage, number, len(STAGES))
        verdicts = read_verdicts(workspace, stage)
        ours = np.isin(
            verdicts.identity,
            [i for i, name in enumerate(verdicts.identity_ids) if name in identities],
        )
        out = np.flatnonzero(ours & (verdicts.reason != KEPT))
        for row in out.tolist():
            who = verdicts.identity_ids[verdicts.identity[row]]
            refused[who][verdicts.reasons[verdicts.reason[row]]] += 1
        of_stage = settable_bounds(stage, as_built(config, verdicts), store)
        bounds |= of_stage
        for name, bound in of_stage.items():
            for row in _missed_alone(verdicts, of_stage, name, ours):
                who = verdicts.identity_ids[verdicts.identity[row]]
                misses[who].append(_near_miss(verdicts, int(row), name, bound))
    on_progress(STAGES[-1], len(STAGES), len(STAGES))
    for who, lost in identities.items():
        lost.reasons = dict(sorted(refused[who].items(), key=lambda item: (-item[1], item[0])))
        own_misses = sorted(misses[who], key=lambda miss: miss.miss)
        lost.nearest = _each_once(own_misses)[:NEAREST]
        for name in {miss.measure for miss in own_misses}:
            same = [miss for miss in own_misses if miss.measure == name]
            if len(same) >= lost.missing:
                lost.saved_by[setting_of(name)] = _lets_in(same[lost.missing - 1])
    order = sorted(identities.values(), key=lambda lost: (lost.missing, lost.identity_id))
    return Lost(order, _remedies(identities, misses, bounds))


def _missed_alone(
    verdicts: Verdicts, bounds: Mapping[str, float], name: str, ours: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Rows that this limit of the stage refused, and no other would."""
    others = {key: bound for key, bound in bounds.items() if key != name}
    limit = BY_NAME[name].limit
    assert limit is not None
    codes = [code for code, reason in enumerate(verdicts.reasons) if reason == limit.reason]
    refused = ours & np.isin(verdicts.reason, codes)
    return np.flatnonzero(refused & ~keeps(verdicts, bounds) & keeps(verdicts, others))


def _near_miss(verdicts: Verdicts, row: int, name: str, bound: float) -> NearMiss:
    value = float(verdicts.values[name][row])
    size = abs(value) if BY_NAME[name].signed else value
    face = int(verdicts.face[row])
    return NearMiss(
        candidate=int(verdicts.candidate[row]),
        face=None if face < 0 else face,
        measure=name,
        value=value,
        limit=bound,
        miss=abs(size - bound) / max(abs(bound), 1e-9),
    )


def _lets_in(miss: NearMiss) -> float:
    """The setting's value that lets the face pass, rounded to that side."""
    measure = BY_NAME[miss.measure]
    size = abs(miss.value) if measure.signed else miss.value
    step = 10.0**measure.digits
    rounded = math.ceil(size * step) if size > miss.limit else math.floor(size * step)
    return float(value_for(setting_of(miss.measure), rounded / step))


def _each_once(misses: Sequence[NearMiss]) -> list[NearMiss]:
    """The nearest miss of each face: an expression may have missed several limits' alternatives."""
    first: dict[tuple[int, int | None], NearMiss] = {}
    for miss in misses:
        first.setdefault((miss.candidate, miss.face), miss)
    return list(first.values())


def _remedies(
    identities: Mapping[str, TooFew],
    misses: Mapping[str, Sequence[NearMiss]],
    bounds: Mapping[str, float],
) -> list[Remedy]:
    remedies = []
    for name, bound in bounds.items():
        needed = []
        for who, lost in identities.items():
            own_misses = sorted(miss.miss for miss in misses[who] if miss.measure == name)
            if len(own_misses) >= lost.missing:
                needed.append(own_misses[lost.missing - 1])
        if not needed:
            continue
        limit = BY_NAME[name].limit
        assert limit is not None
        setting, sign = setting_of(name), 1 if limit.upper else -1
        steps = tuple(
            (
                float(value_for(setting, bound * (1 + sign * share))),
                sum(miss <= share + 1e-9 for miss in needed),
            )
            for share in STEPS
        )
        remedies.append(Remedy(setting, name, bound, steps, len(needed)))
    return sorted(remedies, key=lambda r: ([-r.steps[1][1], -r.steps[2][1], -r.saved], r.setting))
