"""The measures of the stages, as people see them, and the limits on them.

The table of a stage (:data:`hqvox.workspace.tables.TABLES`) declares its measures, its section
(:mod:`hqvox.config.build`) the limits on them. Verdicts, captions, what-if, import and the report
read only these two.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import models.embedding
import models.emotion
from hqvox.config.build import STAGE_SECTIONS, BuildConfig
from hqvox.config.section import Limit, StageSection
from hqvox.workspace.tables import TABLES, Computed, Row, Shown
from models.errors import ModelError
from models.store import ModelStore


@dataclass(frozen=True, kw_only=True)
class Measure(Shown):
    """A number that a stage computes of a photo or face, with its limit if there is one."""

    stage: str
    name: str
    of: tuple[str, ...]
    """The columns that it comes from, or ``column.key`` for a value of a map."""
    how: str
    """How it is computed from them, see :class:`hqvox.workspace.tables.Computed`."""
    limit: Limit | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it comes from."""
        return tuple(dict.fromkeys(part.split(".")[0] for part in self.of))

    @property
    def setting(self) -> str | None:
        """The key of hqvox.yaml that holds its limit, such as ``pose.max_yaw_deg``."""
        key = self.limit.setting if self.limit else None
        return None if key is None else f"{self.stage}.{key}"


def _measures(stage: str) -> Iterator[Measure]:
    limits = {limit.measure: limit for limit in STAGE_SECTIONS[stage].limits}
    for name, column in TABLES.get(stage, {}).items():
        if column.shown is None:
            continue
        of = column.of if isinstance(column, Computed) else (name,)
        how = column.how if isinstance(column, Computed) else "sum"
        limit = limits.pop(name, None)
        yield Measure(**vars(column.shown), stage=stage, name=name, of=of, how=how, limit=limit)
    assert not limits, f"{stage}: limits on {', '.join(limits)}, which its table does not show"


MEASURES = tuple(measure for stage in STAGE_SECTIONS for measure in _measures(stage))
"""Every measure, in the order of the stages."""

BY_NAME = {measure.name: measure for measure in MEASURES}

RESTS_ON: dict[str, tuple[str, ...]] = {}
"""By reason, the measures that decide it and whose limits can be set."""
for _measure in MEASURES:
    if _measure.limit is not None and _measure.setting is not None:
        for _reason in (_measure.limit.reason, *_measure.limit.also):
            RESTS_ON[_reason] = (*RESTS_ON.get(_reason, ()), _measure.name)


# Values ------------------------------------------------------------------------------------------


def value_of(row: Row, name: str) -> float | None:
    """The measure of a row; None if its stage was not reached or could not measure."""
    measure = BY_NAME[name]
    parts = [_part(row, part) for part in measure.of]
    if None in parts:
        return None
    if measure.how == "angle":
        return float(np.degrees(np.arccos(np.prod(np.cos(np.radians(parts))))))
    if measure.how == "lead":
        column, _, key = measure.of[0].partition(".")
        rest = [value for name, value in dict(row[column]).items() if name != key]
        return float(parts[0] - max(rest))
    return float(reduce(operator.mul if measure.how == "product" else operator.add, parts))


def _part(row: Row, part: str) -> Any:
    column, _, key = part.partition(".")
    value = row.get(column)
    return dict(value)[key] if key and value is not None else value


def values_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """The measure of every row of a table, float64, null where there is none."""
    measure = BY_NAME[name]
    parts = [_column_part(table, part) for part in measure.of]
    if measure.how == "angle":
        cosines = [pc.cos(pc.multiply(part, math.pi / 180)) for part in parts]
        return pc.multiply(pc.acos(reduce(pc.multiply, cosines)), 180 / math.pi)
    if measure.how == "lead":
        column, _, key = measure.of[0].partition(".")
        names = {name for chunk in table[column].chunks for name in chunk.keys.to_pylist()}
        rest = [_column_part(table, f"{column}.{name}") for name in sorted(names - {key})]
        return pc.subtract(parts[0], pc.max_element_wise(*rest)) if rest else parts[0]
    return reduce(pc.multiply if measure.how == "product" else pc.add, parts)


def _column_part(table: pa.Table, part: str) -> pa.ChunkedArray:
    column, _, key = part.partition(".")
    values = pc.map_lookup(table[column], pa.scalar(key), "first") if key else table[column]
    return values.cast(pa.float64())


# Limits ------------------------------------------------------------------------------------------


def section_bounds(
    section: StageSection, network_bound: Callable[[str], float | None]
) -> dict[str, float]:
    """The bounds of a section's limits, by measure.

    ``network_bound``: the network's threshold for a setting that is null. Where it is None, not
    known, the measure has no bound.
    """
    bounds: dict[str, float] = {}
    for limit in section.limits:
        if not limit.applies(section):
            continue
        bound = limit.bound(section)
        if bound is None and limit.setting is not None:
            bound = network_bound(limit.setting)
        if bound is not None:
            bounds[limit.measure] = bound
    return bounds


def stage_bounds(stage: str, config: BuildConfig, store: ModelStore) -> dict[str, float]:
    """The bounds of a stage's limits, from the configuration or else from its network.

    A network's bound is missing if its weights are not on this machine.
    """
    section: StageSection = getattr(config, stage)
    return section_bounds(section, lambda setting: _network_bound(stage, section, store))


def all_bounds(config: BuildConfig, store: ModelStore) -> dict[str, float]:
    """The bounds of every stage's limits; see :func:`stage_bounds`."""
    bounds: dict[str, float] = {}
    for stage in STAGE_SECTIONS:
        bounds |= stage_bounds(stage, config, store)
    return bounds


def _network_bound(stage: str, section: Any, store: ModelStore) -> float | None:
    if stage == "emotion" and _present(models.emotion.WEIGHTS[section.network], store):
        return models.emotion.load(section.network, store).neutral_threshold
    if stage == "identity" and _present(models.embedding.WEIGHTS[section.network], store):
        return models.embedding.load(section.network, store).same_person_cosine
    return None


def _present(weights: tuple[str, ...], store: ModelStore) -> bool:
    try:
        return all(store.present(name) for name in weights)
    except ModelError:
        return False  # the threshold of damaged weights is unknown, like that of missing ones


def broken(
    limits: Sequence[Limit], bounds: Mapping[str, float], values: Mapping[str, Any]
) -> dict[str, Any]:
    """For every reason, in the order of the limits, whether its limits are broken.

    ``values``: by measure, floats; or arrays with NaN for what was not measured, and then the
    results are arrays of bools. A value that was not measured, or has no bound, breaks no limit.
    """
    rules: dict[str, dict[str, Any]] = {}
    for limit in limits:
        by_rule = rules.setdefault(limit.reason, {})
        beyond = _beyond(BY_NAME[limit.measure], values.get(limit.measure), bounds)
        by_rule[limit.rule] = by_rule.get(limit.rule, False) | beyond
    return {reason: reduce(operator.and_, by_rule.values()) for reason, by_rule in rules.items()}


def _beyond(measure: Measure, value: Any, bounds: Mapping[str, float]) -> Any:
    if value is None or measure.name not in bounds:
        return False
    assert measure.limit is not None
    size = abs(value) if measure.signed else value
    bound = bounds[measure.name]
    return size > bound if measure.limit.upper else size < bound


def verdict(section: StageSection, bounds: Mapping[str, float], row: Row) -> str | None:
    """Reason of the first limit that a row breaks, or None."""
    values = {limit.measure: value_of(row, limit.measure) for limit in section.limits}
    reasons = broken(section.limits, bounds, values)
    return next((reason for reason, is_broken in reasons.items() if is_broken), None)


# Words -------------------------------------------------------------------------------------------


def value_text(measure: Measure, value: float | None) -> str:
    """The value with its unit; an en dash for None."""
    if value is None:
        return "–"
    sign = "+" if measure.signed else ""
    return f"{value:{sign},.{measure.digits}f}{measure.unit}"


def limit_text(measure: Measure, bound: float | None) -> str:
    """``≤ 5.0°``; empty for None."""
    if bound is None:
        return ""
    assert measure.limit is not None
    sign = "≤" if measure.limit.upper else "≥"
    text = f"{sign} {bound:,.{measure.digits}f}{measure.unit}"
    return f"{text} ({measure.limit.rule})" if measure.limit.rule else text


def within(measure: Measure, value: float | None, bound: float | None) -> bool | None:
    """Whether the value is within the bound; None if one of them is missing."""
    if value is None or bound is None:
        return None
    return not _beyond(measure, value, {measure.name: bound})


def counted(count: int, noun: str) -> str:
    """``1 photo``, ``1,200 photos``, ``2 identities``."""
    if count != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun}"
