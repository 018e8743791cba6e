"""The report of a build: one HTML file that holds everything it shows."""

from __future__ import annotations

import base64
import inspect
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import jinja2
import numpy as np
from markupsafe import Markup

import hqvox
from hqvox.config.build import BuildConfig
from hqvox.imaging.codec import decode
from hqvox.imaging.drawing import draw_box, draw_outline
from hqvox.imaging.pictures import KEPT, REFUSED, encode_jpeg, fitted
from hqvox.imaging.views import aligned_crop, face_view, mask_of, masked_crop, upright_photo
from hqvox.release.read import Release
from hqvox.release.stats import PAPER, release_stats, table_1
from hqvox.report.charts import histogram, read_values
from hqvox.report.crawl import read_crawl
from hqvox.report.examples import ExampleSample, choose_examples
from hqvox.report.funnel import FunnelStep, funnel, left_out
from hqvox.report.release_charts import release_charts
from hqvox.report.truth import TruthRow
from hqvox.runner.build import photos_gone, plan_build
from hqvox.runner.lookup import joined_rows
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import (
    BY_NAME,
    MEASURES,
    RESTS_ON,
    Measure,
    all_bounds,
    counted,
    limit_text,
    value_of,
    value_text,
    within,
)
from hqvox.workspace.tables import Row
from models.protocols import Photo
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES, STAGES

PICTURE_HEIGHT_PX = 200
GENERATED_PX = 128
GALLERY_IDENTITIES = 36
"""Identities of a release that the gallery shows."""
OnStep = Callable[[str], None]


@dataclass(frozen=True)
class GeneratedPerson:
    """A person: a real face, and faces generated from their voice."""

    name: str
    stranger: bool
    """Whether the person was not in the training data."""
    real: Photo
    generated: Sequence[tuple[str, Photo]]
    """Pairs (length of speech in words, RGB face)."""


@dataclass(frozen=True)
class GeneratedFaces:
    """Faces that a trained model generated from voices."""

    recipe: str
    steps: int
    trained_on: int
    """People."""
    people: Sequence[GeneratedPerson]


@dataclass(frozen=True)
class Caption:
    """A measure below an example."""

    label: str
    value: str
    limit: str
    good: bool | None


@dataclass(frozen=True)
class Figure:
    """An example: its picture as a data URL ("" where there is none) and its caption."""

    picture: str
    name: str
    path: str
    file: str
    lines: list[Caption]


@dataclass
class ExampleGroup:
    """The examples of one verdict."""

    reason: str | None
    count: int
    figures: list[Figure]

    @property
    def pictured(self) -> bool:
        """Whether any of them has a picture."""
        return any(figure.picture for figure in self.figures)

    @property
    def form(self) -> str:
        """``pairs`` where each picture is two side by side, else ``single``."""
        return "pairs" if self.reason == "duplicate" else "single"


@dataclass
class StageView:
    """The report's section on one stage."""

    name: str
    does: str
    step: FunnelStep
    enabled: bool
    limits: list[str]
    charts: list[Markup] = field(default_factory=list)
    groups: list[ExampleGroup] = field(default_factory=list)


def render_report(
    workspace: Workspace,
    release: Release | None,
    on_step: OnStep = lambda what: None,
    title: str = "",
    truth: Sequence[TruthRow] = (),
    generated: GeneratedFaces | None = None,
) -> str:
    """The whole report as HTML.

    ``on_step`` is called with the name of each section; ``title``: default is the last part of the
    workspace's url; ``truth``: of phantoms, known defects beside the build's verdicts;
    ``generated``: faces of a model that was trained on the release.
    """
    config = workspace.config()
    store = ModelStore()
    on_step("counting")
    steps = funnel(workspace)
    names = {row["identity_id"]: row["name"] for row in workspace.identities().to_pylist()}
    bounds = all_bounds(config, store)
    views = {
        stage.name: StageView(
            name=stage.name,
            does=(inspect.getdoc(stage) or "").split("\n\n")[0].replace("\n", " "),
            step=step,
            enabled=getattr(config, stage.name).enabled,
            limits=_limit_lines(stage.name, bounds),
        )
        for stage, step in zip(STAGES, steps, strict=True)
    }
    on_step("histograms")
    for measure in MEASURES:
        if not measure.chart:
            continue
        chart = histogram(read_values(workspace, measure), bounds.get(measure.name))
        if chart is not None:
            views[measure.stage].charts.append(Markup(chart))
    on_step("examples")
    for group in choose_examples(workspace):
        if group.reason is None and not _captions(group):
            continue  # nothing was measured on what the stage kept
        figures = [_figure(workspace, row, group, names, bounds) for row in group.rows]
        views[group.stage].groups.append(ExampleGroup(group.reason, group.count, figures))
    on_step("released faces")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hqvox.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["counted"] = counted
    return environment.get_template("report.html.j2").render(
        title=title or workspace.url.rstrip("/").rsplit("/", 1)[-1],
        version=hqvox.__version__,
        recipe=config.recipe,
        notes=_notes(workspace, config, store),
        steps=steps,
        views=[view for view in views.values() if view.step.entered],
        identities=len(names),
        release=_release_view(workspace, release),
        truth=truth,
        generated=generated,
        generated_pictures=_generated_view(generated),
        crawl=read_crawl(workspace),
        timing=_timing_view(read_timing(workspace)),
    )


def _limit_lines(stage: str, bounds: dict[str, float]) -> list[str]:
    return [
        f"{m.label} {limit_text(m, bounds[m.name])}"
        for m in MEASURES
        if m.stage == stage and m.name in bounds and m.setting is not None
    ]


def _notes(workspace: Workspace, config: BuildConfig, store: ModelStore) -> list[str]:
    notes = []
    gone = photos_gone(workspace, config)
    jobs = [] if gone else plan_build(workspace, config, store)
    if gone:
        notes.append(gone)
    if jobs:
        notes.append(
            f"{len(jobs)} of {len(workspace.shards())} shards are not up to date "
            f"({jobs[0].why}): the report shows the last build. "
            f"Run hqvox build {workspace.url}."
        )
    if line := left_out(workspace):
        notes.append(f"{line}.")
    failures = workspace.failures()
    if failures:
        notes.append(f"{len(failures)} shards failed: {', '.join(sorted(failures)[:8])}.")
    return notes


# Examples ----------------------------------------------------------------------------------------


def _figure(
    workspace: Workspace,
    row: Row,
    group: ExampleSample,
    names: dict[str, str],
    bounds: dict[str, float],
) -> Figure:
    lines = []
    for measure in _captions(group):
        value, bound = value_of(row, measure.name), bounds.get(measure.name)
        if value is not None:
            good = within(measure, value, bound)
            if group.reason is None and measure.limit is not None and measure.limit.rule:
                good = None  # one of several ways to pass
            lines.append(
                Caption(measure.label, value_text(measure, value), limit_text(measure, bound), good)
            )
    if group.reason == "duplicate":
        lines.append(Caption("left refused, right", f"photo {row['duplicate_of']}", "", None))
    picture = _example_picture(workspace, row, group)
    return Figure(
        picture=_data_url(picture) if picture is not None else "",
        name=names[row["identity_id"]],
        path=unquote(row["url"]),
        file=unquote(row["url"]).rsplit("/", 1)[-1],
        lines=lines,
    )


def _captions(group: ExampleSample) -> list[Measure]:
    """The numbers named below the examples of a verdict."""
    if group.reason is not None:
        return [BY_NAME[name] for name in RESTS_ON.get(group.reason, ())]
    return [m for m in MEASURES if m.stage == group.stage and m.caption]


def _example_picture(workspace: Workspace, row: Row, group: ExampleSample) -> Photo | None:
    stage = group.stage
    position = STAGE_NAMES.index(stage)
    if stage == "duplicates" and row["duplicate_of"] is not None:
        return _pair(workspace, row)
    if position <= STAGE_NAMES.index("pupils"):
        return _whole_photo(workspace, row, refused=group.reason is not None)
    if position < STAGE_NAMES.index("align"):
        return face_view(workspace, row, draw=stage == "pose")
    if position > STAGE_NAMES.index("segment"):
        return masked_crop(workspace, row)
    crop = aligned_crop(workspace, row)
    if stage == "segment" and crop is not None:
        alpha = mask_of(workspace, row)
        crop = fitted(crop, 2 * PICTURE_HEIGHT_PX, 2 * PICTURE_HEIGHT_PX)
        if alpha is not None:
            draw_outline(crop, fitted(alpha, *crop.shape[1::-1]), width=3)
    return crop


def _pair(workspace: Workspace, row: Row) -> Photo | None:
    """The refused duplicate and, to its right, the photo that was kept."""
    key = (row["identity_id"], row["duplicate_of"], None)
    twin = joined_rows(workspace, row["shard"], [key])[0]
    pictures = [upright_photo(workspace, r, 640) for r in (row, twin)]
    shown = [fitted(p, 400, PICTURE_HEIGHT_PX) for p in pictures if p is not None]
    if not shown:
        return None
    height = min(p.shape[0] for p in shown)
    gap = np.full((height, 6, 3), 255, np.uint8)
    parts = [fitted(p, 10_000, height) for p in shown]
    joined = [parts[0]] + [x for p in parts[1:] for x in (gap, p)]
    return np.concatenate(joined, axis=1)


def _whole_photo(workspace: Workspace, row: Row, refused: bool) -> Photo | None:
    photo = upright_photo(workspace, row, 1280)
    if photo is None:
        return None
    shown = fitted(photo, 2 * PICTURE_HEIGHT_PX, PICTURE_HEIGHT_PX)
    if row["box_xyxy"] is not None:
        draw_box(shown, row, shown.shape[1] / row["width_px"], REFUSED if refused else KEPT)
    return shown


def _data_url(picture: Photo, height_px: int = PICTURE_HEIGHT_PX) -> str:
    small = fitted(picture, 2 * height_px, height_px)
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(small, 80)).decode()


@dataclass
class Timing:
    """Sums over all recorded runs, in seconds of one worker's time."""

    runs: int = 0
    wall_seconds: float = 0.0
    photos: int = 0
    faces: int = 0
    """Of runs of versions that counted them."""
    stages: Counter[str] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    """Time for reading, decoding, encoding and writing pictures."""


def read_timing(workspace: Workspace) -> Timing:
    """Add up ``runs/*/timings.json``. A run that was killed has none."""
    timing = Timing()
    for run in workspace.storage.names("runs"):
        name = f"runs/{run}/timings.json"
        if not workspace.storage.exists(name):
            continue
        record = json.loads(workspace.storage.read(name))
        timing.runs += 1
        timing.wall_seconds += record["wall_seconds"]
        timing.photos += record["photos"]
        timing.faces += record.get("faces", 0)
        timing.stages.update(record["stages"])
        timing.pixels.update(record["pixels"])
    return timing


# Release and time --------------------------------------------------------------------------------


def _release_view(workspace: Workspace, release: Release | None) -> dict[str, Any] | None:
    if release is None:
        return None
    people = release.identities().to_pylist()
    faces: dict[str, list[str]] = {}
    for row in release.manifest(["identity_id", "masked_file"]).to_pylist():
        faces.setdefault(row["identity_id"], []).append(row["masked_file"])
    shown = people[:GALLERY_IDENTITIES]
    stats = release_stats(release)
    return {
        "name": release.name,
        "info": release.info(),
        "identities": len(people),
        "images": sum(len(files) for files in faces.values()),
        "gallery": [
            (row, [_data_url(_decoded(release, f), 160) for f in faces[row["identity_id"]]])
            for row in shown
        ],
        "parts": [part.part for part in stats],
        "ours": table_1(stats),
        "papers": table_1(PAPER),
        **release_charts(release),
    }


def _generated_view(
    generated: GeneratedFaces | None,
) -> list[tuple[GeneratedPerson, str, list[tuple[str, str]]]]:
    """Each person with their pictures as data URLs."""
    return [
        (
            person,
            _data_url(person.real, GENERATED_PX),
            [(label, _data_url(picture, GENERATED_PX)) for label, picture in person.generated],
        )
        for person in (generated.people if generated is not None else ())
    ]


def _decoded(release: Release, file: str) -> Photo:
    return decode(release.read(file))


def _timing_view(timing: Timing) -> dict[str, Any] | None:
    if not timing.runs:
        return None
    parts = [(name, seconds, "stage") for name, seconds in timing.stages.items()]
    parts += [(f"{name} pictures", seconds, "pixels") for name, seconds in timing.pixels.items()]
    total = sum(seconds for _, seconds, _ in parts)
    return {
        "runs": timing.runs,
        "wall_seconds": timing.wall_seconds,
        "rate": timing.photos / timing.wall_seconds if timing.wall_seconds else 0.0,
        "photos": counted(timing.photos, "photo"),
        "faces": counted(timing.faces, "face") if timing.faces else "",
        "parts": parts,
        "total": total,
        "most": max((seconds for _, seconds, _ in parts), default=0.0),
    }
