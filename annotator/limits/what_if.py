"""What another limit would change: who changes sides, and what that does to the candidates.

The stage's limits are applied to whole columns by the function that gives a row its verdict
(:func:`hqvox.workspace.measures.broken`). The stored tables settle who changes sides at this stage,
and which candidates a stricter limit loses. They do not settle what a more lenient limit gains:
rows that were refused here were never measured by the stages after it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from annotator.limits.explore import KEPT, STAGES, Rows, Verdicts
from hqvox.config.build import STAGE_SECTIONS, BuildConfig
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import CONFIG, Workspace
from hqvox.workspace.measures import BY_NAME, broken, stage_bounds
from models.store import ModelStore

COMPARABLE = 500
"""Of the faces that a stage kept, how many nearest to the limit the estimate looks at."""
LEAST_COMPARABLE = 20
"""With fewer faces than that nothing is estimated."""

Mask = NDArray[np.bool_]


def as_built(config: BuildConfig, verdicts: Verdicts) -> BuildConfig:
    """The configuration with the stage's section that its tables were built with.

    Keys that this version does not know are left out; keys that the tables' version did not know
    have their defaults.
    """
    known = type(getattr(config, verdicts.stage))
    section = {k: v for k, v in verdicts.built_with.items() if k in known.model_fields}
    try:
        return config.model_copy(update={verdicts.stage: known.model_validate(section)})
    except ValueError:
        return config


def settable_bounds(stage: str, config: BuildConfig, store: ModelStore) -> dict[str, float]:
    """The bounds of the stage's limits that can be set, by measure.

    Empty if one of them is the network's and its weights are not on this machine.
    """
    bounds = stage_bounds(stage, config, store)
    section = getattr(config, stage)
    limits = [limit for limit in section.limits if limit.setting and limit.applies(section)]
    known = all(limit.measure in bounds for limit in limits)
    return {limit.measure: bounds[limit.measure] for limit in limits} if known else {}


def keeps(verdicts: Verdicts, bounds: Mapping[str, float]) -> Mask:
    """Rows (n,) that the stage's limits keep with these bounds; what was not measured passes."""
    refused = np.zeros(len(verdicts), bool)
    limits = STAGE_SECTIONS[verdicts.stage].limits
    for is_broken in broken(limits, bounds, verdicts.values).values():
        refused |= is_broken
    return ~refused


@dataclass(frozen=True)
class Change:
    """Rows that change sides, those nearest to the old limit first."""

    let_in: Rows
    shut_out: Rows


def change(
    verdicts: Verdicts,
    old: Mapping[str, float],
    new: Mapping[str, float],
    name: str,
    enabled: bool = True,
) -> Change:
    """Who changes sides when the ``old`` bounds, those of the tables, become ``new``.

    Only rows whose stored verdict is what ``old`` says: a row refused for something that no limit
    decides (a damaged photo, an identity without a majority) stays where it is. Rows are ordered
    by the distance of the measure ``name`` from its bound. Not ``enabled``: the tables were built
    with the stage switched off, and the change switches it on.
    """
    after = keeps(verdicts, new)
    before = keeps(verdicts, old) if enabled else np.ones(len(verdicts), bool)
    by_limit = {limit.reason for limit in STAGE_SECTIONS[verdicts.stage].limits}
    codes = [i for i, reason in enumerate(verdicts.reasons) if reason in by_limit]
    refused = np.isin(verdicts.reason, codes)
    let_in = np.flatnonzero(refused & ~before & after)
    shut_out = np.flatnonzero((verdicts.reason == KEPT) & before & ~after)
    return Change(*(_nearest_first(verdicts, rows, name, old[name]) for rows in (let_in, shut_out)))


def _nearest_first(verdicts: Verdicts, rows: Rows, name: str, bound: float) -> Rows:
    return rows[np.argsort(_distance(verdicts, name, bound)[rows], kind="stable")]


def _distance(verdicts: Verdicts, name: str, bound: float) -> NDArray[np.float64]:
    values = verdicts.values[name]
    return np.abs((np.abs(values) if BY_NAME[name].signed else values) - bound)


def around(verdicts: Verdicts, name: str, bound: float) -> Rows:
    """The rows that have the measure, on either side of the bound, the nearest first."""
    known = np.flatnonzero(~np.isnan(verdicts.values[name]))
    return known[np.argsort(_distance(verdicts, name, bound)[known], kind="stable")]


@dataclass(frozen=True)
class Effect:
    """What a change does to candidates and identities.

    ``candidates``: faces that every stage keeps now; ``lost`` of them are shut out. ``ready``:
    identities with enough candidates now; ``ready_at_least``: without those lost and none let in;
    ``ready_at_most``: with every photograph let in becoming a candidate. ``pass_rate``: share of
    comparable rows that became candidates, 0 to 1, None where there are too few of them.
    """

    candidates: int
    lost: int
    ready: int
    ready_at_least: int
    ready_at_most: int
    pass_rate: float | None


def effect(
    verdicts: Verdicts, final: Verdicts, changed: Change, name: str, bound: float, min_faces: int
) -> Effect:
    """See :class:`Effect`. ``final``: the last stage that was built; ``bound``: the old one."""
    by_photo = verdicts.unit == "photographs"
    ended = final.photo_keys() if by_photo else final.face_keys()
    ended_kept = final.reason == KEPT
    own = verdicts.photo_keys() if by_photo else verdicts.face_keys()
    lost = ended_kept & np.isin(ended, own[changed.shut_out])
    staying = ended_kept & ~lost
    people = len(verdicts.identity_ids)

    def ready(*parts: tuple[NDArray[np.int64], NDArray[np.int32]]) -> int:
        photos = np.concatenate([photo for photo, _ in parts])
        identities = np.concatenate([identity for _, identity in parts])
        _, first = np.unique(photos, return_index=True)
        return int((np.bincount(identities[first], minlength=people) >= min_faces).sum())

    def of(rows: Mask) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        return final.photo_keys()[rows], final.identity[rows]

    let_in = verdicts.photo_keys()[changed.let_in], verdicts.identity[changed.let_in]
    return Effect(
        candidates=int(ended_kept.sum()),
        lost=int(lost.sum()),
        ready=ready(of(ended_kept)),
        ready_at_least=ready(of(staying)),
        ready_at_most=ready(of(staying), let_in),
        pass_rate=_pass_rate(verdicts, np.isin(own, ended[ended_kept]), name, bound),
    )


def _pass_rate(verdicts: Verdicts, ended_kept: Mask, name: str, bound: float) -> float | None:
    kept = np.flatnonzero((verdicts.reason == KEPT) & ~np.isnan(verdicts.values[name]))
    near = _nearest_first(verdicts, kept, name, bound)[:COMPARABLE]
    return float(ended_kept[near].mean()) if len(near) >= LEAST_COMPARABLE else None


# In sentences -------------------------------------------------------------------------------------


def in_words(
    verdicts: Verdicts, final: Verdicts, changed: Change, effect: Effect, enabled: bool = True
) -> list[str]:
    """A change and its effect in sentences: what is certain, and what only a build can tell."""
    stage, unit = verdicts.stage, verdicts.unit
    after = STAGES[STAGES.index(stage) + 1 : STAGES.index(final.stage) + 1]
    sentences = [] if enabled else [f"{stage} was switched off: it measured, and refused nobody."]
    shut, let = len(changed.shut_out), len(changed.let_in)
    if not shut + let:
        sentences.append(f"Nobody changes sides at {stage}.")
    if shut:
        sentences.append(
            f"Certain: {shut:,} {unit} would be refused at {stage}; {effect.lost:,} of the "
            f"{effect.candidates:,} candidates are among them."
        )
    if let:
        sentences.append(f"Certain: {let:,} {unit} would pass every limit of {stage}.")
        if after:
            sentences.append(
                f"Not known: whether they pass {_and(after)}. Those stages never saw them; a build "
                "measures them there."
            )
        if effect.pass_rate is not None and after:
            sentences.append(
                f"An estimate: of the kept {unit} nearest to the limit {effect.pass_rate:.0%} "
                f"became candidates; at that rate about {let * effect.pass_rate:,.0f} would."
            )
    compares = [name for name in ("duplicates", "identity") if name in (stage, *after)]
    if shut + let and compares:
        sentences.append(
            f"A build also compares each person's photographs again at {_and(compares)}, which can "
            f"move others of that person."
            + (" Similarities are to the core as it is now." if stage == "identity" else "")
        )
    if final.shards_read < (shards := len(set(verdicts.shards))):
        sentences.append(
            f"{final.shards_read:,} of {shards:,} shards are built up to {final.stage}; "
            "candidates of the others are not counted."
        )
    return sentences


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# The slider, and the line for hqvox.yaml -----------------------------------------------------


@dataclass(frozen=True)
class Slide:
    """Ends and step of a slider: ``bound`` is on a step, and all steps are allowed values."""

    low: float
    high: float
    step: float
    bound: float


def slide(name: str, bound: float, low: float, high: float) -> Slide:
    """A slider over the span of the values (of their size, where the limit holds for that)."""
    setting = setting_of(name)
    least, most = _allowed(setting)
    low, high = max(min(low, bound), least), min(max(high, bound), most)
    step = 10.0 ** -BY_NAME[name].digits
    while (high - low) / step > 1000:
        step *= 10
    below = max(0, math.ceil((bound - low) / step - 1e-9))
    above = max(0, math.ceil((high - bound) / step - 1e-9))
    while bound - below * step < least - 1e-9:
        below -= 1
    while bound + above * step > most + 1e-9:
        above -= 1
    if below + above == 0:
        raise HqvoxError(f"{setting}: {bound:g} is the only value that it can have")
    return Slide(_tidy(bound - below * step), _tidy(bound + above * step), step, _tidy(bound))


def setting_of(name: str) -> str:
    """The key of hqvox.yaml that holds the limit of a measure that has one."""
    setting = BY_NAME[name].setting
    assert setting is not None, name
    return setting


def _allowed(setting: str) -> tuple[float, float]:
    """Lowest and highest value that the setting takes."""
    section, key = setting.split(".")
    field = type(getattr(BuildConfig(), section)).model_fields[key]
    ends: dict[str, float] = {}
    for rule in field.metadata:
        ends |= {end: getattr(rule, end) for end in ("ge", "le") if hasattr(rule, end)}
    return ends.get("ge", -math.inf), ends.get("le", math.inf)


def _tidy(value: float) -> float:
    return round(value, 9) + 0.0  # no digits from rounding errors, no minus zero


def value_for(setting: str, value: float) -> int | float:
    """The value as hqvox.yaml takes it: within the range, an integer if the setting is one."""
    section, key = setting.split(".")
    whole = type(getattr(BuildConfig(), section)).model_fields[key].annotation is int
    least, most = _allowed(setting)
    value = _tidy(min(max(value, least), most))
    return round(value) if whole else value


def yaml_line(setting: str, value: float, switch_on: bool = False) -> str:
    """``pose: {max_yaw_deg: 8.0}``; ``switch_on``: the stage as well."""
    section, key = setting.split(".")
    on = "enabled: true, " if switch_on else ""
    return f"{section}: {{{on}{key}: {value_for(setting, value)!r}}}"


def command(workspace: Workspace, setting: str, value: float) -> str:
    """The command that lists what a build with the new limit would run again."""
    return (
        f"hqvox build {shlex.quote(workspace.url)} "
        f"--set {setting}={value_for(setting, value)!r} --dry-run"
    )


def written_in(workspace: Workspace, setting: str) -> tuple[bool, Any]:
    """Whether hqvox.yaml has the setting's section, and the value that it gives the setting."""
    section, key = setting.split(".")
    try:
        written = yaml.safe_load(workspace.storage.read(CONFIG)) or {}
    except yaml.YAMLError as error:
        raise HqvoxError(f"{CONFIG}: no YAML ({error}); mend the file") from None
    values = written.get(section)
    return isinstance(values, dict), values.get(key) if isinstance(values, dict) else None
