"""Why a photo or an identity ended where it did: numbers against limits, and a picture."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image, ImageDraw

from hqvox.config.build import BuildConfig
from hqvox.errors import HqvoxError
from hqvox.imaging.composite import composite_on_white
from hqvox.imaging.drawing import draw_box, draw_doubt, draw_landmarks, draw_outline, draw_pose
from hqvox.imaging.pictures import (
    GREY,
    INK,
    KEPT,
    PAPER,
    REFUSED,
    SheetRow,
    Tile,
    clip_text,
    contact_sheet,
    fitted,
    font,
)
from hqvox.imaging.views import aligned_crop, face_view, mask_of, masked_crop, upright_photo
from hqvox.runner.lookup import Key, joined_rows, shard_keys, table_keys
from hqvox.workspace.layout import Workspace
from hqvox.workspace.measures import MEASURES, Measure, all_bounds, value_of
from hqvox.workspace.tables import Row
from models.protocols import Photo
from models.store import ModelStore
from pipelines.chain import STAGE_NAMES

MAX_NAMED = 4
"""Of several photos that a text could mean, how many are named."""
KEPT_VERDICT, NOT_REACHED = "kept", "not reached"
"""Verdicts of a stage that are no reasons."""


@dataclass(frozen=True)
class Subject:
    """What a user asked about: an identity, or one of its photos."""

    identity: Row
    candidate: int | None
    """None: the identity as a whole."""


def find_subject(workspace: Workspace, text: str) -> Subject:
    """The identity (by id or name) or photo (by url, file name, file, or SHA-256) that is meant.

    Raises HqvoxError where there is none, or several.
    """
    identities = workspace.identities().to_pylist()
    for field in ("identity_id", "name"):
        same = [row for row in identities if row[field] == text]
        if len(same) > 1:
            ids = ", ".join(row["identity_id"] for row in same[:MAX_NAMED])
            raise HqvoxError(f"{len(same)} identities are named {text}: use an id ({ids})")
        if same:
            return Subject(same[0], None)
    by_id = {row["identity_id"]: row for row in identities}
    matches = _photos(workspace, text)
    if not matches:
        raise HqvoxError(
            f"{text!r} is no identity (id or name) and no photo (path, url, SHA-256 or its first 6 "
            f"digits or more) of {workspace.url}; `hqvox explain {workspace.url} IDENTITY` lists "
            "an identity's photos"
        )
    if len(matches) > 1:
        named = ", ".join(unquote(url) for url, _ in matches[:MAX_NAMED])
        more = ", …" if len(matches) > MAX_NAMED else ""
        raise HqvoxError(f"{text!r} matches {len(matches)} photos ({named}{more}): name one")
    key = matches[0][1]
    return Subject(by_id[key[0]], key[1])


def _photos(workspace: Workspace, text: str) -> list[tuple[str, Key]]:
    """Url and key of every photo that the text could mean; the closest kind of match only."""
    path = Path(text)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
    except OSError:
        digest = None  # a file that cannot be read is still known by its name
    prefix = text.lower() if re.fullmatch(r"[0-9a-fA-F]{6,64}", text) else None
    kinds: tuple[list[tuple[str, Key]], ...] = ([], [], [], [])
    for shard in workspace.shards():
        found = workspace.read_stage("discover", shard, ["url"])
        if found is None:
            continue
        loaded = workspace.read_stage("download", shard, ["photo_id"])
        hashes: Mapping[Key, str | None] = (
            {}
            if loaded is None
            else dict(zip(table_keys(loaded), loaded["photo_id"].to_pylist(), strict=True))
        )
        for key, url in zip(table_keys(found), found["url"].to_pylist(), strict=True):
            plain = unquote(url)
            photo_id = hashes.get(key) or ""
            if text in (url, plain):
                kinds[0].append((url, key))
            elif f"/{text}".endswith(f"/{plain}"):
                kinds[1].append((url, key))
            elif (digest is not None and photo_id == digest) or f"/{plain}".endswith(f"/{text}"):
                kinds[2].append((url, key))
            elif prefix is not None and photo_id.startswith(prefix):
                kinds[3].append((url, key))
    return next((kind for kind in kinds if kind), [])


def photo_rows(workspace: Workspace, subject: Subject) -> list[Row]:
    """Everything the build knows of a photo: one row per face, or one where it has none."""
    return [
        row
        for row in identity_rows(workspace, subject.identity)
        if row["candidate"] == subject.candidate
    ]


def identity_rows(workspace: Workspace, identity: Row) -> list[Row]:
    """Everything the build knows of an identity's photos: one row per photo, or per face of it."""
    shard, identity_id = identity["shard"], identity["identity_id"]
    keys = [key for key in shard_keys(workspace, shard) if key[0] == identity_id]
    return joined_rows(workspace, shard, keys)


@dataclass(frozen=True)
class StageResult:
    """What a stage measured of a face (or of a photo, before faces are known), and its verdict."""

    stage: str
    verdict: str
    """``kept``, the reason why it was refused, or :data:`NOT_REACHED`."""
    enabled: bool
    """Whether the stage refuses anything; else it only measures."""
    measured: tuple[tuple[Measure, float, float | None], ...]
    """Each measure with its value and, if it has a limit, the bound."""


def stage_results(row: Row, config: BuildConfig, store: ModelStore) -> list[StageResult]:
    """What every stage found of a row, in the order of the stages."""
    bounds = all_bounds(config, store)
    reached = STAGE_NAMES.index(row["stage"]) if row["stage"] else -1
    results = []
    for number, stage in enumerate(STAGE_NAMES):
        enabled = bool(getattr(config, stage).enabled)
        if number > reached:
            results.append(StageResult(stage, NOT_REACHED, enabled, ()))
            continue
        values = [(m, value_of(row, m.name)) for m in MEASURES if m.stage == stage]
        measured = [(m, value, bounds.get(m.name)) for m, value in values if value is not None]
        reason = row["reason"] if number == reached else None
        results.append(StageResult(stage, reason or KEPT_VERDICT, enabled, tuple(measured)))
    return results


def ended(row: Row) -> str:
    """Where a row ended, in words."""
    if row["reason"]:
        return f"{row['stage']}: {row['reason']}"
    if row["stage"] == STAGE_NAMES[-1]:
        return KEPT_VERDICT
    return f"kept so far, up to {row['stage']}" if row["stage"] else "not built yet"


def file_name(row: Row) -> str:
    """Where a photo is, below its identity's folder; of a web address, the last part."""
    if "://" in row["url"]:
        return unquote(urlsplit(row["url"]).path).rsplit("/", 1)[-1] or row["url"]
    return unquote(row["url"]).split("/", 1)[-1]


def title_of(subject: Subject, rows: Sequence[Row]) -> str:
    """What a subject is, for a heading. ``rows``: its own."""
    identity = subject.identity
    if subject.candidate is not None:
        return f"{identity['name']}: {file_name(rows[0])}"
    also = [] if identity["identity_id"] == identity["name"] else [identity["identity_id"]]
    return f"{identity['name']} ({', '.join([*also, identity['subset']])})"


def subject_rows(workspace: Workspace, subject: Subject) -> list[Row]:
    """:func:`photo_rows` of a photo, :func:`identity_rows` of an identity."""
    if subject.candidate is None:
        return identity_rows(workspace, subject.identity)
    return photo_rows(workspace, subject)


# Pictures ----------------------------------------------------------------------------------------


def subject_picture(
    workspace: Workspace, subject: Subject, rows: Sequence[Row]
) -> Image.Image | None:
    """The picture of a photo or an identity; None for a photo without pixels. ``rows``: its own."""
    title = title_of(subject, rows)
    if subject.candidate is not None:
        return photo_picture(workspace, rows, title)
    kept = sum(ended(row) == KEPT_VERDICT for row in rows)
    return identity_picture(workspace, rows, f"{title}: {kept} kept of {len(rows)}")


def photo_picture(workspace: Workspace, rows: Sequence[Row], title: str) -> Image.Image | None:
    """The photo with everything measured drawn in, and each face's crops; None without pixels."""
    photo = upright_photo(workspace, rows[0])
    if photo is None:
        return None
    shown = fitted(photo, 760, 620)
    scale = shown.shape[1] / photo.shape[1]
    for row in rows:
        if row["box_xyxy"] is None:
            continue
        draw_box(shown, row, scale, REFUSED if row["reason"] else KEPT)
        draw_landmarks(shown, row, scale)
        if row["yaw_deg"] is not None:
            draw_pose(shown, row, scale)
    panels: list[tuple[Photo, str]] = []
    for row in rows:
        crop, alpha = aligned_crop(workspace, row), mask_of(workspace, row)
        number = f"face {row['face']}: " if len(rows) > 1 else ""
        if crop is not None:
            outlined = fitted(crop, 300, 300)
            if alpha is not None:
                draw_doubt(outlined, fitted(alpha, 300, 300))
                draw_outline(outlined, fitted(alpha, 300, 300), width=1)
            panels.append((outlined, f"{number}aligned, mask outlined, doubt in yellow"))
        if crop is not None and alpha is not None:
            masked = fitted(composite_on_white(crop, alpha), 300, 300)
            panels.append((masked, f"{number}masked"))
    return _compose(shown, panels, title, "; ".join(ended(row) for row in rows))


def _compose(
    photo: Photo, panels: Sequence[tuple[Photo, str]], title: str, verdict: str
) -> Image.Image:
    gap, head, caption = 16, 60, 22
    height, width = photo.shape[:2]
    columns = -(-len(panels) // 2)
    step = 300 + caption
    total = (gap + width + gap + columns * (300 + gap), head + max(height, 2 * step) + gap)
    page = Image.new("RGB", total if panels else (total[0], head + height + gap), PAPER)
    draw = ImageDraw.Draw(page)
    room = page.width - 2 * gap
    draw.text((gap, 12), clip_text(title, room, 16, True), INK, font(16, True))
    draw.text((gap, 34), clip_text(verdict, room, 13), GREY, font(13))
    page.paste(Image.fromarray(photo), (gap, head))
    for number, (panel, text) in enumerate(panels):
        x, y = 2 * gap + width + number // 2 * (300 + gap), head + number % 2 * step
        page.paste(Image.fromarray(np.ascontiguousarray(panel)), (x, y))
        draw.rectangle((x, y, x + 299, y + 299), outline=(222, 226, 230))
        draw.text((x, y + 303), clip_text(text, 300, 12), GREY, font(12))
    return page


def identity_picture(workspace: Workspace, rows: Sequence[Row], title: str) -> Image.Image:
    """All photos of an identity, those kept first, each with where it ended."""
    kept = [row for row in rows if not row["reason"]]
    kept.sort(key=lambda row: -(row["quality"] or 0))
    refused = [row for row in rows if row["reason"]]
    refused.sort(key=lambda row: (STAGE_NAMES.index(row["stage"]), row["reason"]))
    groups = [
        SheetRow(f"kept: {len(kept)}", [_tile(workspace, row) for row in kept]),
        SheetRow(f"refused: {len(refused)}", [_tile(workspace, row) for row in refused]),
    ]
    return contact_sheet([g for g in groups if g.tiles], columns=8, side_px=128, title=title)


def _tile(workspace: Workspace, row: Row) -> Tile:
    picture = masked_crop(workspace, row)
    if picture is None:
        picture = aligned_crop(workspace, row)
    if picture is None:
        picture = face_view(workspace, row)
    name = unquote(row["url"]).rsplit("/", 1)[-1]
    verdict = f"quality {row['quality']:.2f}" if row["quality"] is not None else row["reason"]
    return Tile(picture, [name, verdict or ended(row)], REFUSED if row["reason"] else KEPT)
