"""Pictures of how far a run is: generated faces beside real ones."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hqvox.trainer.data import Part
from hqvox.trainer.distributed import Team
from hqvox.trainer.speech_input import WINDOW_FRAMES, Normaliser
from models.sf2f.colour import to_unit
from models.sf2f.generator import Generator

PEOPLE = 8
"""Rows of the grid, at most."""
WINDOWS = 20
"""Most windows of an utterance that are fused."""
GAP_PX = 4
QUALITY = 95


def sample_grid(
    generator: Generator, part: Part, normaliser: Normaliser, team: Team, fused: bool
) -> NDArray[np.uint8]:
    """The first people of a part, a row each: a real face, then generated ones.

    Returns RGB uint8 (h, w, 3).
    The face and the utterance are the person's first. ``fused``: of all its windows in one, else of
    its first 1.25 s. All resolutions stand side by side at the size of the highest. The generator
    is left in the mode that it was in.
    """
    data, mode = part.data, generator.training
    px = generator.spec.resolutions[-1]
    rows = []
    generator.eval()
    try:
        for own, said in list(zip(part.faces_of, part.utterances_of, strict=True))[:PEOPLE]:
            windows = normaliser.windows(data.log_mel(int(said[0])), WINDOW_FRAMES)[:WINDOWS]
            with torch.inference_mode():
                embeddings = generator.embed(windows.to(team.device))
                if fused:
                    there = torch.ones(1, len(embeddings), dtype=torch.bool, device=team.device)
                    embedding = generator.fuse(embeddings[None], there)
                else:
                    embedding = embeddings[:1]
                pictures = generator.decode(embedding)
            made = [(to_unit(p.float(), clamped=True)[0] * 255).round().cpu() for p in pictures]
            real = data.faces[px][own[0]]
            rows.append([real, *(p.numpy().astype(np.uint8) for p in made)])
    finally:
        generator.train(mode)
    return _grid([[np.moveaxis(cell, 0, -1) for cell in row] for row in rows], px)


def encode(grid: NDArray[np.uint8]) -> bytes:
    """A grid as JPEG."""
    bgr = np.ascontiguousarray(grid[..., ::-1])
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()


def _grid(rows: list[list[NDArray[np.uint8]]], px: int) -> NDArray[np.uint8]:
    """Cells (h, w, 3) at a side of ``px``, on white."""
    side = px + GAP_PX
    grid = np.full((len(rows) * side - GAP_PX, len(rows[0]) * side - GAP_PX, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            scale = px // len(cell)
            shown = cell.repeat(scale, axis=0).repeat(scale, axis=1)
            grid[y * side : y * side + px, x * side : x * side + px] = shown
    return grid
