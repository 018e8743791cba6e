"""From grids of points to pixels: a z-buffer filled by splatting, exact to a fraction of a cell.

Each grid is refined until neighbouring samples lie about one pixel and a half apart, every sample
that faces the camera marks the four pixels around it, the nearest wins, and the grid coordinate at
each pixel's centre follows from the sample's by the local derivative of the projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
_SPACING_PX = 1.5
_DEPTH_STEPS_PER_MM = 256
_INDEX_BITS = 26


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks straight at the head.

    ``px_per_mm``: scale at the depth of the head's origin; ``centre_xy``: where the origin lands,
    pixels; ``distance_mm``: from the origin to the pinhole.
    """

    px_per_mm: float
    centre_xy: tuple[float, float]
    distance_mm: float

    def project(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Map camera-frame points (..., 3), mm, to pixels and depth (..., 3)."""
        scale = self.px_per_mm / (1 - points[..., 2] / self.distance_mm)
        return np.stack(
            [
                self.centre_xy[0] + points[..., 0] * scale,
                self.centre_xy[1] + points[..., 1] * scale,
                points[..., 2],
            ],
            axis=-1,
        )


@dataclass(frozen=True)
class Layer:
    """What is visible at each pixel.

    ``part``: int32 (h, w), index of the grid seen, −1 for none; ``column``, ``row``: float32
    (h, w), grid coordinates there; ``depth``: float32 (h, w), mm towards the camera.
    """

    part: NDArray[np.int32]
    column: F32
    row: F32
    depth: F32


def rasterise(projected: list[F32], shape: tuple[int, int], keep: list[F32 | None]) -> Layer:
    """Return the nearest surface at each pixel.

    ``projected``: per grid, float32 (rows, columns, 3) of pixel x, y and depth; ``keep``: per
    grid None or float32 (rows, columns), where below 0.5 the grid has a hole.
    """
    height, width = shape
    buffer = np.zeros(height * width, dtype=np.int64)
    samples: list[tuple[F32, ...]] = []
    offset = 1
    for grid, hole in zip(projected, keep, strict=True):
        sample = _samples(grid, hole, height, width)
        x, y, depth = sample[0], sample[1], sample[2]
        code = np.clip((depth + 2000) * _DEPTH_STEPS_PER_MM, 0, 2**30).astype(np.int64)
        code = (code << _INDEX_BITS) | np.arange(offset, offset + len(x), dtype=np.int64)
        left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        for dy in (0, 1):
            for dx in (0, 1):
                column, row = left + dx, top + dy
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                np.maximum.at(buffer, (row * width + column)[inside], code[inside])
        samples.append(sample)
        offset += len(x)
    return _resolve(buffer, samples, height, width)


def _samples(grid: F32, hole: F32 | None, height: int, width: int) -> tuple[F32, ...]:
    """Return the samples that face the camera inside the picture.

    x, y, depth, column, row and the four derivatives of (x, y) by (column, row), each (n,).
    """
    rows, columns = grid.shape[:2]
    step_x = np.abs(np.diff(grid[..., :2], axis=1)).max(axis=2)
    step_y = np.abs(np.diff(grid[..., :2], axis=0)).max(axis=2)
    fx = int(np.clip(np.ceil(np.quantile(step_x[::3, ::3], 0.97) / _SPACING_PX), 1, 24))
    fy = int(np.clip(np.ceil(np.quantile(step_y[::3, ::3], 0.97) / _SPACING_PX), 1, 24))
    size = (columns * fx, rows * fy)
    fine = grid if fx == fy == 1 else cv2.resize(grid, size, interpolation=cv2.INTER_LINEAR)
    by_column = cv2.Sobel(fine[..., :2], cv2.CV_32F, 1, 0, ksize=1, scale=0.5 * fx)
    by_row = cv2.Sobel(fine[..., :2], cv2.CV_32F, 0, 1, ksize=1, scale=0.5 * fy)
    facing = by_column[..., 0] * by_row[..., 1] - by_column[..., 1] * by_row[..., 0]
    x, y = fine[..., 0], fine[..., 1]
    seen = (facing > 0) & (x > -2) & (x < width + 1) & (y > -2) & (y < height + 1)
    if hole is not None:
        seen &= cv2.resize(hole, size, interpolation=cv2.INTER_LINEAR) > 0.5
    index = np.flatnonzero(seen)
    row, column = np.divmod(index, size[0])
    picked = fine.reshape(-1, 3)[index]
    d_column = by_column.reshape(-1, 2)[index]
    d_row = by_row.reshape(-1, 2)[index]
    return (
        picked[:, 0],
        picked[:, 1],
        picked[:, 2],
        ((column + 0.5) / fx - 0.5).astype(np.float32),
        ((row + 0.5) / fy - 0.5).astype(np.float32),
        d_column[:, 0],
        d_column[:, 1],
        d_row[:, 0],
        d_row[:, 1],
        np.full(len(index), 0.75 / fx, np.float32),
        np.full(len(index), 0.75 / fy, np.float32),
    )


def _resolve(
    buffer: NDArray[np.int64], samples: list[tuple[F32, ...]], height: int, width: int
) -> Layer:
    part = np.full(height * width, -1, dtype=np.int32)
    column = np.zeros(height * width, dtype=np.float32)
    row = np.zeros(height * width, dtype=np.float32)
    depth = np.full(height * width, -np.inf, dtype=np.float32)
    pixel = np.flatnonzero(buffer)
    which = (buffer[pixel] & ((1 << _INDEX_BITS) - 1)) - 1
    first = 0
    for number, sample in enumerate(samples):
        count = len(sample[0])
        mine = (which >= first) & (which < first + count)
        at, i = pixel[mine], which[mine] - first
        x, y, z, c, r, xc, yc, xr, yr, max_c, max_r = (value[i] for value in sample)
        dx, dy = at % width - x, at // width - y
        det = np.maximum(xc * yr - xr * yc, 1e-3)
        part[at] = number
        column[at] = c + np.clip((dx * yr - dy * xr) / det, -max_c, max_c)
        row[at] = r + np.clip((dy * xc - dx * yc) / det, -max_r, max_r)
        depth[at] = z
        first += count
    shape = (height, width)
    return Layer(part.reshape(shape), column.reshape(shape), row.reshape(shape),
                 depth.reshape(shape))  # fmt: skip


def sample_texture(texture: F32, column: F32, row: F32, texels: float) -> F32:
    """Look a texture (h, w, channels) up at grid coordinates (n,), returning (n, channels)."""
    n = len(column)
    if n == 0:
        return np.zeros((0, texture.shape[2]), np.float32)
    width = 512
    padded = -(-n // width) * width
    maps = np.zeros((2, padded), np.float32)
    maps[0, :n] = (column + 0.5) * texels - 0.5
    maps[1, :n] = (row + 0.5) * texels - 0.5
    out = cv2.remap(
        texture,
        maps[0].reshape(-1, width),
        maps[1].reshape(-1, width),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(out.reshape(padded, -1)[:n], dtype=np.float32)
