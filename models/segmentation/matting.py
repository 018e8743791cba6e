"""Alpha of the uncertain pixels of a mask, from the picture: closed-form matting.

Levin, Lischinski, Weiss: A Closed-Form Solution to Natural Image Matting (2008). In every window
of 3 × 3 pixels alpha is taken as a linear function of colour, and what that leaves unexplained over
all windows is least. Only the unknown pixels of the trimap are solved for, so the equations are few
and a direct solver is fast and gives the same bits every time.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

PERSON_ABOVE = 0.9
BACKGROUND_BELOW = 0.25
"""Probabilities beyond which a pixel is taken as certain; those between are solved for. Not
symmetric: the network learned from loose masks, and its 0.5 lies some pixels outside the person."""
_COLOUR_VARIANCE = 1e-4
"""Added to the variance of colours (0 to 1) in a window, so that noise is not taken for hair."""
_PULL = 0.01
"""Weight of the network's probability against the windows, which decides where they do not."""
_REACH = np.ones((3, 3), np.uint8)


def matte(picture: Map, probability: Map) -> Map:
    """Alpha of a picture whose mask is known by probability: certain pixels 0 or 1, others solved.

    ``picture`` (h, w, 3) RGB and ``probability`` (h, w), both 0 to 1 and at least 3 px a side.
    Returns alpha (h, w), float32, 0 to 1.
    """
    unknown = (probability > BACKGROUND_BELOW) & (probability < PERSON_ABOVE)
    alpha = np.where(unknown, probability, probability > 0.5).astype(np.float32)
    window, affinity = _windows(picture, unknown)
    if not len(window):
        return alpha
    flat = unknown.reshape(-1)
    number = np.cumsum(flat) - 1
    count = int(flat.sum())
    rows, columns = np.repeat(window, 9, axis=1).reshape(-1), np.tile(window, (1, 9)).reshape(-1)
    values = affinity.reshape(-1)
    inner = flat[rows] & flat[columns]
    matrix = sparse.coo_matrix(
        (values[inner], (number[rows[inner]], number[columns[inner]])), shape=(count, count)
    )
    edge = flat[rows] & ~flat[columns]
    known = alpha.reshape(-1)
    right = _PULL * known[flat].astype(np.float64) - np.bincount(
        number[rows[edge]], weights=values[edge] * known[columns[edge]], minlength=count
    )
    # Symmetric and positive definite: no pivoting, and an ordering made for such matrices.
    solver = splu(
        sparse.csc_matrix(matrix + _PULL * sparse.eye_array(count)),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    alpha.reshape(-1)[flat] = np.clip(solver.solve(right), 0, 1)
    return alpha


def _windows(picture: Map, unknown: Mask) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Windows with an unknown pixel: their pixels' numbers (n, 9), and matrices (n, 9, 9).

    The matrix of a window is ``1 - (1 + d_i · C⁻¹ · d_j) / 9`` on and ``- (…) / 9`` off its
    diagonal, with ``d`` the colours less their mean and ``C`` their covariance (Levin et al.,
    equation 12).
    """
    width = unknown.shape[1]
    middle = cv2.dilate(unknown.astype(np.uint8), _REACH)
    middle[[0, -1]] = 0
    middle[:, [0, -1]] = 0
    y, x = np.nonzero(middle)
    step = np.array([dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    window = (y * width + x)[:, None] + step
    colour = picture.reshape(-1, 3)[window].astype(np.float64)
    offset = colour - colour.mean(axis=1, keepdims=True)
    covariance = offset.transpose(0, 2, 1) @ offset / 9 + _COLOUR_VARIANCE / 9 * np.eye(3)
    affinity = np.eye(9) - (1 + offset @ np.linalg.inv(covariance) @ offset.transpose(0, 2, 1)) / 9
    return window, affinity
