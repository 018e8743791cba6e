"""Symmetric form of a covariance of the 68 points, which has half as many numbers.

A face and its mirror image are equally likely. So combinations of coordinates that stay the same in
the mirror are uncorrelated with those that change their sign, and the covariance (136, 136) is two
blocks of about half its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.geometry import MIRRORED

Floats = NDArray[np.float64]


def mirror_parts() -> tuple[Floats, Floats]:
    """Orthonormal rows over the 136 coordinates (x and y of each point in turn).

    First the combinations that stay the same in the mirror, then those that change their sign.
    """
    mirror = np.zeros((136, 136))
    mirror[range(0, 136, 2), 2 * MIRRORED] = -1
    mirror[range(1, 136, 2), 2 * MIRRORED + 1] = 1
    parts: tuple[list[Floats], list[Floats]] = ([], [])
    for i, unit in enumerate(np.eye(136)):
        other = int(np.abs(mirror[i]).argmax())
        for sign, part in zip((1, -1), parts, strict=True):
            row = unit + sign * mirror[i]
            if i <= other and row.any():
                part.append(row / np.linalg.norm(row))
    return np.array(parts[0]), np.array(parts[1])


def triangles(covariance: Floats) -> tuple[Floats, Floats]:
    """Lower triangles, row by row, of the two blocks of a covariance (136, 136)."""
    same, opposite = (rows @ covariance @ rows.T for rows in mirror_parts())
    return same[np.tril_indices(len(same))], opposite[np.tril_indices(len(opposite))]


def from_triangles(same: Sequence[float], opposite: Sequence[float]) -> Floats:
    """Return the covariance (136, 136) whose triangles :func:`triangles` gives."""
    total = np.zeros((136, 136))
    for numbers, rows in zip((same, opposite), mirror_parts(), strict=True):
        lower = np.zeros((len(rows), len(rows)))
        lower[np.tril_indices(len(rows))] = numbers
        total += rows.T @ (lower + np.tril(lower, -1).T) @ rows
    return total
