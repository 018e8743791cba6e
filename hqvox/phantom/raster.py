"""Rasterisation of grids of points: a z-buffer filled by splatting, exact to a fraction of a cell.

Each grid is refined until neighbouring samples lie less than two pixels apart. Every sample that
faces the camera writes to the four pixels around it, and the nearest sample wins. The grid
coordinate at a pixel's centre follows from that of the sample by the local derivative of the
projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[Any]  # float32, which OpenCV's type stubs cannot promise
_SPACING_PX = 1.8
_DEPTH_STEPS_PER_MM = 256
_INDEX_BITS = 26


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks straight at the head.

    ``px_per_mm``: scale at the depth of the head's origin; ``centre_xy``: projection of the origin,
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
    """The visible surface at each pixel.

    ``part``: int32 (h, w), index of the grid seen, −1 for none; ``column``, ``row``: float32
    (h, w), grid coordinates there; ``depth``: float32 (h, w), mm towards the camera.
    """

    part: NDArray[np.int32]
    column: F32
    row: F32
    depth: F32


def rasterise(
    projected: list[F32],
    shape: tuple[int, int],
    keep: list[F32 | None],
    backs: bool = False,
) -> Layer:
    """Return the nearest surface at each pixel.

    ``projected``: per grid, float32 (rows, columns, 3) of pixel x, y and depth; ``keep``: per
    grid None or float32 (rows, columns), where below 0.5 the grid has a hole; ``backs``:
    draw what faces away from the camera instead of what faces it.
    """
    height, width = shape
    buffer = np.zeros(height * width, dtype=np.int64)
    samples: list[_Samples] = []
    offset = 1
    for grid, hole in zip(projected, keep, strict=True):
        sample = _sample(grid, hole, height, width, backs)
        count = len(sample.depth)
        code = np.clip((sample.depth + 2000) * _DEPTH_STEPS_PER_MM, 0, 2**30).astype(np.int64)
        code = (code << _INDEX_BITS) | np.arange(offset, offset + count, dtype=np.int64)
        left = np.floor(sample.x).astype(np.int32)
        top = np.floor(sample.y).astype(np.int32)
        for dy in (0, 1):
            for dx in (0, 1):
                column, row = left + dx, top + dy
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                np.maximum.at(buffer, (row * width + column)[inside], code[inside])
        samples.append(sample)
        offset += count
    return _resolve(buffer, samples, height, width)


@dataclass(frozen=True)
class _Samples:
    """Points of one grid that the camera may see, each (n,), and how the grid projects.

    ``slopes``: float32 (rows, columns, 4), d(x, y)/d column and d(x, y)/d row; ``fine``: samples
    per cell along columns and rows.
    """

    x: F32
    y: F32
    depth: F32
    column: F32
    row: F32
    slopes: F32
    fine: tuple[int, int]


def _sample(grid: F32, hole: F32 | None, height: int, width: int, backs: bool) -> _Samples:
    flat = grid[..., :2]
    by_column = cv2.Sobel(flat, cv2.CV_32F, 1, 0, ksize=1, scale=0.5)
    by_row = cv2.Sobel(flat, cv2.CV_32F, 0, 1, ksize=1, scale=0.5)
    slopes = np.concatenate([by_column, by_row], axis=2)
    facing = slopes[..., 0] * slopes[..., 3] - slopes[..., 1] * slopes[..., 2]
    visible = np.clip(facing * (-4 if backs else 4), -1, 1)
    if hole is not None:
        visible = np.minimum(visible, 2 * hole - 1)
    x, y = grid[..., 0], grid[..., 1]
    margin = 12
    near = (x > -margin) & (x < width + margin) & (y > -margin) & (y < height + margin)
    near = cv2.dilate((near & (visible > 0)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    rows, columns = np.flatnonzero(near.any(axis=1)), np.flatnonzero(near.any(axis=0))
    if len(rows) == 0:
        none = np.zeros(0, np.float32)
        return _Samples(none, none, none, none, none, slopes, (1, 1))
    r0, r1, c0, c1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    steps = np.abs(slopes[r0:r1, c0:c1][near[r0:r1, c0:c1]])
    wide = np.quantile(steps, 0.997, axis=0)
    fx = int(np.clip(np.ceil(max(wide[0], wide[1]) / _SPACING_PX), 1, 24))
    fy = int(np.clip(np.ceil(max(wide[2], wide[3]) / _SPACING_PX), 1, 24))
    part = np.concatenate([grid, visible[..., None]], axis=2)[r0:r1, c0:c1]
    size = ((c1 - c0) * fx, (r1 - r0) * fy)
    if fx > 1 or fy > 1:
        part = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
    px, py = part[..., 0], part[..., 1]
    seen = (part[..., 3] > 0) & (px > -2) & (px < width + 1) & (py > -2) & (py < height + 1)
    index = np.flatnonzero(seen)
    row, column = np.divmod(index, size[0])
    picked = part.reshape(-1, 4)[index]
    return _Samples(
        picked[:, 0],
        picked[:, 1],
        picked[:, 2],
        ((column + 0.5) / fx - 0.5 + c0).astype(np.float32),
        ((row + 0.5) / fy - 0.5 + r0).astype(np.float32),
        slopes,
        (fx, fy),
    )


def _resolve(buffer: NDArray[np.int64], samples: list[_Samples], height: int, width: int) -> Layer:
    part = np.full(height * width, -1, dtype=np.int32)
    column = np.zeros(height * width, dtype=np.float32)
    row = np.zeros(height * width, dtype=np.float32)
    depth = np.full(height * width, -np.inf, dtype=np.float32)
    pixel = np.flatnonzero(buffer).astype(np.int32)
    which = (buffer[pixel] & ((1 << _INDEX_BITS) - 1)).astype(np.int32) - 1
    pixel_y, pixel_x = np.divmod(pixel, np.int32(width))
    pixel_x, pixel_y = pixel_x.astype(np.float32), pixel_y.astype(np.float32)
    first = 0
    for number, sample in enumerate(samples):
        count = len(sample.depth)
        mine = (which >= first) & (which < first + count)
        at, i = pixel[mine], which[mine] - first
        c, r = sample.column[i], sample.row[i]
        dx, dy = pixel_x[mine] - sample.x[i], pixel_y[mine] - sample.y[i]
        xc, yc, xr, yr = sample_texture(sample.slopes, c, r, 1).T
        det = xc * yr - xr * yc
        det = np.where(np.abs(det) < 1e-3, 1e-3, det)
        most_c, most_r = np.float32(0.75 / sample.fine[0]), np.float32(0.75 / sample.fine[1])
        part[at] = number
        column[at] = c + np.clip((dx * yr - dy * xr) / det, -most_c, most_c)
        row[at] = r + np.clip((dy * xc - dx * yc) / det, -most_r, most_r)
        depth[at] = sample.depth[i]
        first += count
    shape = (height, width)
    return Layer(
        part.reshape(shape), column.reshape(shape), row.reshape(shape), depth.reshape(shape)
    )


def sample_texture(texture: F32, column: F32, row: F32, texels: float) -> F32:
    """Sample a texture (h, w, channels) at grid coordinates (n,) bilinearly; (n, channels).

    ``texels``: of the texture per grid cell.
    """
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
