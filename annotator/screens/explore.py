"""Explore: look a limit over by the pictures on either side of it, for whoever sets the limits."""

from __future__ import annotations

import numpy as np
import streamlit as st

from annotator.limits import explore, what_if
from annotator.limits.explore import Verdicts
from annotator.limits.verdict_pictures import Pictures
from annotator.screens.charts import histogram_chart
from annotator.screens.explore_gallery import LET_IN, SHUT_OUT, Judged, gallery
from annotator.screens.explore_too_few import too_few
from annotator.screens.look import plain, plain_tables, problem
from annotator.screens.session import Context
from hqvox.config.build import BuildConfig
from hqvox.config.section import StageSection
from hqvox.errors import HqvoxError
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import RESTS_ON, Measure
from models.store import ModelStore


@st.cache_resource(max_entries=24, show_spinner="Reading verdicts …")
def _verdicts(root: str, stage: str, stamp: object) -> Verdicts:
    return explore.read_verdicts(Workspace(root), stage)


@st.cache_resource(max_entries=2, show_spinner=False)
def _pictures(root: str, stamps: object) -> Pictures:
    return Pictures(Workspace(root))


@st.cache_resource(max_entries=24, show_spinner="Loading the network's own limit …")
def _bounds(stage: str, settings: str) -> dict[str, float]:
    return what_if.settable_bounds(stage, BuildConfig.model_validate_json(settings), ModelStore())


def render(context: Context) -> None:
    """Show the page."""
    plain_tables()
    try:
        stages = explore.built_stages(context.workspace)
        if not stages:
            st.info("Nothing is built here yet: run `hqvox build` on this workspace first.")
            return
        view = st.segmented_control(
            "View",
            ["Limits", "Too few candidates"],
            default="Limits",
            required=True,
            label_visibility="collapsed",
            key="explore_view",
        )
        if view == "Limits":
            _explore(context, stages)
        else:
            too_few(context)
    except HqvoxError as error:
        st.error(problem(error))


def _explore(context: Context, stages: list[str]) -> None:
    workspace = context.workspace
    left, right = st.columns(2)
    start = stages.index("pose") if "pose" in stages else 0
    stage = left.selectbox("Stage", stages, index=start, key="explore_stage")
    stamps = {name: explore.stamp(workspace, name) for name in stages}
    verdicts = _verdicts(workspace.url, stage, stamps[stage])
    measures = explore.measures_of(stage)
    measure = None
    if measures:
        measure = right.selectbox(
            "Measurement", measures, format_func=lambda m: m.label, key=f"explore_{stage}"
        )
    else:
        right.text_input("Measurement", "this stage measures nothing", disabled=True)
    if not len(verdicts):
        st.info(f"No photograph came as far as {stage}.")
        return
    final = _verdicts(workspace.url, stages[-1], stamps[stages[-1]])
    pictures = _pictures(workspace.url, tuple(stamps.values()))
    judged = None if measure is None else _judge(context, verdicts, final, measure)
    gallery(verdicts, measure, judged, pictures)


def _judge(
    context: Context, verdicts: Verdicts, final: Verdicts, measure: Measure
) -> Judged | None:
    """The histogram, with a slider and what it leads to where the measurement has a limit."""
    config = context.workspace.config()
    built = what_if.as_built(config, verdicts)
    name = measure.name
    bounds = {}
    if measure.setting is not None:
        bounds = _bounds(verdicts.stage, built.model_dump_json(include={verdicts.stage}))
    left, right = st.columns([3, 2], gap="medium")
    if name not in bounds:
        with left:
            _chart(verdicts, measure, [], [])
        with right:
            _no_limit(verdicts, measure, getattr(built, verdicts.stage))
        return None
    assert measure.limit is not None
    enabled = getattr(built, verdicts.stage).enabled
    values = np.abs(verdicts.values[name]) if measure.signed else verdicts.values[name]
    stops = what_if.slide(name, bounds[name], *explore.span(values))
    key = f"explore_limit_{name}_{stops.bound:g}"
    sign = "at most" if measure.limit.upper else "at least"
    with left:
        chart = st.container()
        bound = st.slider(
            f"Limit: {measure.label} {'(its size) ' if measure.signed else ''}{sign}",
            min_value=stops.low,
            max_value=stops.high,
            value=stops.bound,
            step=stops.step,
            format=f"%.{measure.digits}f{measure.unit.replace('%', '%%')}",
            key=key,
        )
        with chart:
            _chart(verdicts, measure, [stops.bound], [bound] if bound != stops.bound else [])
    changed = what_if.change(verdicts, bounds, {**bounds, name: bound}, name, enabled)
    least = context.config.release.min_faces
    effect = what_if.effect(verdicts, final, changed, name, bounds[name], least)
    with right:
        _numbers(verdicts, changed, effect, least)
        _lines(context, what_if.setting_of(name), bound, enabled)
    lines = what_if.in_words(verdicts, final, changed, effect, enabled)
    with left:
        st.caption("  \n".join(map(plain, [*_since(config, built, verdicts, name), *lines])))
    return Judged(changed, bound)


def _chart(verdicts: Verdicts, measure: Measure, now: list[float], new: list[float]) -> None:
    def both(bounds: list[float]) -> list[float]:
        return [s * b for b in bounds for s in (-1.0, 1.0)] if measure.signed else bounds

    low, high = explore.span(verdicts.values[measure.name], both([*now, *new]))
    margin = (high - low) * 0.03
    edges = np.linspace(low - margin, high + margin, explore.BINS + 1)
    resting = [reason for reason, names in RESTS_ON.items() if measure.name in names]
    bars = explore.histogram(verdicts, measure.name, resting, edges)
    unit = measure.unit.strip()
    label = f"{measure.label}, {unit}" if unit else measure.label
    st.altair_chart(
        histogram_chart(bars, label, both(now), both(new)),
        alt=f"Histogram of {measure.label} of all {verdicts.unit} at {verdicts.stage}, by verdict",
    )


def _no_limit(verdicts: Verdicts, measure: Measure, section: StageSection) -> None:
    if measure.limit is not None and not measure.limit.applies(section):
        st.caption(f"The limit on {measure.label} ({measure.setting}) does not apply here.")
    elif measure.setting is not None:
        st.info(
            f"{measure.label} is judged by the limit that the network brings, and its weights are "
            "not on this machine: `hqvox models pull` gets them."
        )
    else:
        st.caption(f"No limit rests on {measure.label}; it is here to be looked at.")
    for reason, count in verdicts.counts().items():
        st.text(f"{count:,} {reason or 'kept'}")


def _numbers(
    verdicts: Verdicts, changed: what_if.Change, effect: what_if.Effect, least: int
) -> None:
    first, second = st.columns(2)
    first.metric(LET_IN, f"{len(changed.let_in):,}", border=True)
    second.metric(SHUT_OUT, f"{len(changed.shut_out):,}", border=True)
    third, fourth = st.columns(2)
    lost = f"-{effect.lost:,}" if effect.lost else None
    third.metric("Candidates", f"{effect.candidates:,}", lost, border=True, height="stretch")
    now, low, high = effect.ready, effect.ready_at_least, effect.ready_at_most
    after = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    fourth.metric(
        "People ready",
        f"{now:,}",
        None if low == high == now else f"then {after}",
        delta_color="off",
        delta_arrow="off",
        border=True,
        height="stretch",
        help=f"People with {least} candidates or more, now and with the other limit: those that "
        "stay for certain, up to those that would be if all who are let in became candidates.",
    )


def _lines(context: Context, setting: str, bound: float, enabled: bool) -> None:
    section, key = setting.split(".")
    has_section, written = what_if.written_in(context.workspace, setting)
    value = what_if.value_for(setting, bound)
    if has_section:
        place = f"the line {key}" if written is not None else f"the section {section}"
        st.caption(plain(f"hqvox.yaml has {place} already: put this value there."))
    st.code(what_if.yaml_line(setting, bound, switch_on=not enabled), "yaml", wrap_lines=True)
    st.code(f"--set {setting}={value!r}", "bash", wrap_lines=True)
    with st.popover("What a build would redo", type="tertiary"):
        st.code(what_if.command(context.workspace, setting, bound), "bash", wrap_lines=True)


def _since(config: BuildConfig, built: BuildConfig, verdicts: Verdicts, name: str) -> list[str]:
    """What to know of the tables before their limit is taken for the present one."""
    lines = []
    section, key = what_if.setting_of(name).split(".")
    then, now = (getattr(getattr(c, section), key) for c in (built, config))
    if then != now:
        lines.append(
            f"These verdicts were made with {key} {then}; hqvox.yaml says {now} now, which is not "
            "built yet."
        )
    if verdicts.sections > 1:
        lines.append(
            f"Shards were built with {verdicts.sections} different configurations of "
            f"{verdicts.stage}; what most were built with is taken for all."
        )
    return lines
