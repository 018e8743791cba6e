"""Generated faces beside real ones, to look at: a run's sample grid and an evaluation's gallery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hqvox.imaging.pictures import SheetRow, Tile, contact_sheet
from hqvox.trainer.checkpoint import Loaded
from hqvox.trainer.data import Split
from hqvox.trainer.distributed import ProcessGroup
from hqvox.trainer.evaluate import Condition, Protocol, Speaker, generate
from hqvox.trainer.generate import to_photos
from hqvox.trainer.speech_input import WINDOW_FRAMES, Normaliser
from models.enhancement.gfpgan import FaceEnhancer
from models.sf2f.colour import from_unit, to_unit
from models.sf2f.generator import Generator

GRID_PEOPLE, GALLERY_PEOPLE = 8, 12
"""People shown, at most."""
FIGURE_9_EACH = 7
"""Men, and women, in figure 9 of AVP-GAN."""
MAX_WINDOWS = 38
"""Windows of an utterance that are fused, at most: 25 s, as in training."""
GAP_PX = 4
JPEG_QUALITY = 95


def sample_grid(
    generator: Generator, split: Split, normaliser: Normaliser, group: ProcessGroup, fused: bool
) -> NDArray[np.uint8]:
    """The first people of a split, a row each: a real face, then generated ones.

    Face and utterance are the person's first. ``fused``: the face is generated from all windows of
    the utterance, else from its first 1.25 s. All resolutions are shown at the size of the highest.
    The generator keeps its training or evaluation mode. Returns RGB uint8 (h, w, 3).
    """
    data, mode = split.data, generator.training
    px = generator.spec.resolutions[-1]
    rows = []
    generator.eval()
    try:
        for person in range(min(GRID_PEOPLE, len(split))):
            log_mel = data.log_mel(int(split.utterances_of[person][0]))
            windows = normaliser.windows(log_mel, WINDOW_FRAMES)[:MAX_WINDOWS]
            with torch.inference_mode():
                embeddings = generator.embed(windows.to(group.device))
                if fused:
                    mask = torch.ones(1, len(embeddings), dtype=torch.bool, device=group.device)
                    embedding = generator.fuse(embeddings[None], mask)
                else:
                    embedding = embeddings[:1]
                pictures = generator.decode(embedding)
            generated = [
                (to_unit(p.float(), clamped=True)[0] * 255).round().cpu() for p in pictures
            ]
            real = data.faces[px][split.faces_of[person][0]]
            rows.append([real, *(p.numpy().astype(np.uint8) for p in generated)])
    finally:
        generator.train(mode)
    return _grid([[np.moveaxis(cell, 0, -1) for cell in row] for row in rows], px)


def encode(grid: NDArray[np.uint8]) -> bytes:
    """A grid, RGB uint8 (h, w, 3), as JPEG."""
    bgr = np.ascontiguousarray(grid[..., ::-1])
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()


def _grid(rows: list[list[NDArray[np.uint8]]], px: int) -> NDArray[np.uint8]:
    """Cells (h, w, 3), enlarged to a side of ``px``, on white."""
    side = px + GAP_PX
    grid = np.full((len(rows) * side - GAP_PX, len(rows[0]) * side - GAP_PX, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            scale = px // len(cell)
            shown = cell.repeat(scale, axis=0).repeat(scale, axis=1)
            grid[y * side : y * side + px, x * side : x * side + px] = shown
    return grid


class Shown(NamedTuple):
    """A checkpoint in a gallery."""

    label: str
    loaded: Loaded
    normaliser: Normaliser
    conditions: Sequence[Condition]
    split: Split
    """The same people as the gallery's, with the log-mels that the checkpoint reads."""
    enhance: FaceEnhancer | None = None


def gallery(
    split: Split,
    shown: Sequence[Shown],
    protocol: Protocol,
    side_px: int = 128,
    people: Sequence[int] | None = None,
) -> Image.Image:
    """People of a split: a real face, then each checkpoint's under each condition.

    ``people``: positions in the split; by default the first. Crops of speech are those of the
    evaluation's first run.
    """
    if people is None:
        people = range(min(GALLERY_PEOPLE, len(split)))
    rows: list[list[Tile]] = []
    for person in people:
        row = int(split.faces_of[person][0])
        px = max(split.data.faces)
        rows.append([Tile(split.data.faces[px][row].transpose(1, 2, 0), ["real", split.name])])
    who = [split.identity_ids[person] for person in people]
    for label, loaded, normaliser, conditions, home, enhance in shown:
        speaker = Speaker(home, normaliser, protocol)
        at = [home.identity_ids.index(one) for one in who]
        for condition in conditions:
            units = generate(loaded.generator, speaker, condition, 0, 0, max(at) + 1)
            photos = to_photos(from_unit(units[at]), enhance)
            heard = condition.length + (", fused" if condition.fused else "")
            for tiles, photo in zip(rows, photos, strict=True):
                tiles.append(Tile(photo, [heard, label]))
    named = [SheetRow(split.person_names[i], tiles) for i, tiles in zip(people, rows, strict=True)]
    title = f"{split.data.release.name}, {split.name}: real faces, and faces generated from speech"
    return contact_sheet(named, max(len(tiles) for tiles in rows), side_px, title)


def figures_of_avp_gan(
    split: Split, shown: Sequence[Shown], protocol: Protocol
) -> dict[str, Image.Image]:
    """Figures 6 to 9 of AVP-GAN, by name, as far as there is something to show.

    ``shown``: checkpoints with the conditions of its table 4; an enhanced one after the same one
    as it is. 6: each length of speech. 7: as generated, and enhanced. 8: several checkpoints. 9:
    seven men and seven women, where the release says who is one, else the first 14 people.
    """
    final = [one for one in shown if one.enhance] or list(shown)
    longest = [one._replace(conditions=one.conditions[-1:]) for one in final]
    figures = {"figure-6": gallery(split, final, protocol)}
    if any(one.enhance for one in shown):
        pairs = [one._replace(conditions=one.conditions[-1:]) for one in shown]
        figures["figure-7"] = gallery(split, pairs, protocol)
    if len(longest) > 1:
        figures["figure-8"] = gallery(split, longest, protocol)
    table = split.data.release.identities().select(["identity_id", "gender"])
    gender = dict(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    people: list[int] = []
    for sex in ("m", "f"):
        same = [n for n, who in enumerate(split.identity_ids) if gender[who] == sex]
        people += same[:FIGURE_9_EACH]
    people = people or list(range(min(2 * FIGURE_9_EACH, len(split))))
    figures["figure-9"] = gallery(split, longest[-1:], protocol, people=people)
    return figures
