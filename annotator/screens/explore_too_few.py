"""People with too few candidates: they do not reach annotators, and what would have saved them."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from annotator.limits import explore
from annotator.limits.too_few import STEPS, Lost, TooFew
from annotator.limits.too_few import too_few as look_into
from annotator.limits.verdict_pictures import Pictures, VerdictPicture, gallery_html
from annotator.limits.what_if import value_for, yaml_line
from annotator.screens.session import Context
from hqvox.config.build import BuildConfig
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import BY_NAME, value_text

TILE_PX = 220


@st.cache_resource(max_entries=2, show_spinner="Looking into what was refused …")
def _lost(root: str, settings: str, stamps: object, _context: Context) -> Lost:
    config = BuildConfig.model_validate_json(settings)
    return look_into(Workspace(root), config, _context.candidates.too_few())


@st.cache_resource(max_entries=1, show_spinner=False)
def _pictures(root: str, stamps: object) -> Pictures:
    return Pictures(Workspace(root))


def too_few(context: Context) -> None:
    """Show what one setting alone could save, and each person's nearest misses."""
    root, config = context.workspace.url, context.workspace.config()
    least = config.release.min_faces
    stamps = tuple(explore.stamp(context.workspace, stage) for stage in explore.STAGES)
    lost = _lost(root, config.model_dump_json(), stamps, context)
    if not lost.identities:
        st.success(f"Everybody who was built has {least} candidates or more.")
        return
    st.caption(
        f"{len(lost.identities):,} people have fewer than {least} candidates and do not reach "
        "annotators. What one limit alone refused is known; whether the stages after it would keep "
        "it was never measured, so every number of people saved is the most that can be."
    )
    if lost.remedies:
        st.subheader("What one setting alone could save", anchor=False)
        _remedies(lost)
    st.subheader("Who, and why", anchor=False)
    _people(lost.identities, _pictures(root, stamps))


def _remedies(lost: Lost) -> None:
    rows = [
        {
            "setting": remedy.setting,
            "limit": remedy.limit,
            **{
                f"moved by {share:.0%}": f"{saved:,} (at {value_for(remedy.setting, value):.3g})"
                for share, (value, saved) in zip(STEPS, remedy.steps, strict=True)
            },
            "however far": remedy.saved,
        }
        for remedy in lost.remedies
    ]
    st.dataframe(rows, hide_index=True, alt="People saved at most, by setting and how far it moves")


def _people(people: Sequence[TooFew], pictures: Pictures) -> None:
    rows = [
        {
            "name": person.name,
            "identity": person.identity_id,
            "candidates": person.candidates,
            "refused for": ", ".join(f"{n} {reason}" for reason, n in person.reasons.items()),
            "saved by": ", ".join(f"{key} {value:g}" for key, value in person.saved_by.items()),
        }
        for person in people
    ]
    event = st.dataframe(
        rows,
        hide_index=True,
        height=min(38 + 35 * len(rows), 320),
        on_select="rerun",
        selection_mode="single-row",
        key="explore_too_few",
        column_config={"refused for": st.column_config.TextColumn(width="large")},
        alt="People with too few candidates",
    )
    chosen = event["selection"]["rows"]
    if not chosen or chosen[0] >= len(people):
        st.caption("Choose a row to see the nearest misses.")
        return
    person = people[chosen[0]]
    if not person.nearest:
        st.caption("None of the refused photographs missed a single limit.")
        return
    shown = []
    for miss in person.nearest:
        measure = BY_NAME[miss.measure]
        face = -1 if miss.face is None else miss.face
        place = pictures.place(person.identity_id, miss.candidate, face)
        limit = value_text(measure, miss.limit).removeprefix("+")
        lines = [
            f"{measure.label} {value_text(measure, miss.value)}",
            f"limit {limit}, missed by {miss.miss:.0%}",
            f"photo {miss.candidate}",
        ]
        shown.append(VerdictPicture(pictures.tile(place, measure.stage, TILE_PX), lines, "refused"))
    st.html(gallery_html(shown))
    for setting, value in person.saved_by.items():
        st.code(yaml_line(setting, value), "yaml", wrap_lines=True)
