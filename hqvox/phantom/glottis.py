"""The voice's source: glottal pulses of the Liljencrants-Fant model, and breath.

One cycle of the glottal flow's derivative is E(t) = e^(αt) sin(ωt) up to the moment of main
excitation ``te``, then an exponential return to zero. Its shape follows one number, Rd, from
pressed (0.4) to lax (2.6), by the regressions of Fant (1995), "The LF-model revisited".
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.signal import resample_poly

F64 = NDArray[np.float64]
F32 = NDArray[Any]  # float32

RD_RANGE = (0.4, 2.6)
"""Shapes that Fant's regressions hold for."""
_SHAPES, _PHASES = 45, 2048
_OVERSAMPLING = 2


def lf_cycle(rd: float, phases: int = _PHASES) -> F64:
    """Return one cycle of the flow's derivative, float64 (phases,), main excitation −1.

    ``rd`` within ``RD_RANGE``. The cycle's sum is 0: the flow returns to where it began.
    """
    tp, te, ta = lf_times(rd)
    omega = np.pi / tp
    rest = 1.0 - te
    # the return phase meets zero at the cycle's end
    eps = brentq(lambda e: e * ta - 1 + np.exp(-e * rest), 1e-6, 1e5)
    fall = np.exp(-eps * rest)
    returned = -((1 - fall) / eps - rest * fall) / (eps * ta)

    def opened(alpha: float) -> float:
        """Flow at ``te`` for an excitation of −1 there."""
        scale = -1 / np.sin(omega * te)
        whole = alpha * np.sin(omega * te) - omega * np.cos(omega * te)
        return scale * (whole + omega * np.exp(-alpha * te)) / (alpha**2 + omega**2)

    alpha = brentq(lambda a: opened(a) + returned, -60.0, 400.0)
    t = (np.arange(phases) + 0.5) / phases
    growth = -np.exp(alpha * (t - te)) * np.sin(omega * t) / np.sin(omega * te)
    back = -(np.exp(-eps * (t - te)) - fall) / (eps * ta)
    cycle = np.where(t <= te, growth, back)
    return np.asarray(cycle - cycle.mean())


def lf_times(rd: float) -> tuple[float, float, float]:
    """Return (tp, te, ta) as fractions of the cycle: flow's peak, excitation, return time."""
    ra = (-1 + 4.8 * rd) / 100
    rk = (22.4 + 11.8 * rd) / 100
    rg = rk / (4 * (0.11 * rd / (0.5 + 1.2 * rk) - ra))
    tp = 1 / (2 * rg)
    return tp, tp * (1 + rk), max(ra, 0.003)


def open_quotient(rd: float) -> float:
    """Return the share of the cycle during which the glottis is open, return time included."""
    _, te, ta = lf_times(rd)
    return te + ta


@cache
def _tables() -> tuple[F32, F32]:
    """Return derivative and flow, float32 (shapes, phases + 1) each; the flow peaks at 1."""
    derivative = np.stack([lf_cycle(rd) for rd in np.linspace(*RD_RANGE, _SHAPES)])
    flow = np.cumsum(derivative, axis=1)
    flow -= flow.min(axis=1, keepdims=True)
    flow /= flow.max(axis=1, keepdims=True)
    wrapped = [np.hstack([table, table[:, :1]]).astype(np.float32) for table in (derivative, flow)]
    return wrapped[0], wrapped[1]


def glottal_source(
    pitch_hz: F64,
    rd: F64,
    jitter: float,
    shimmer: float,
    rate_hz: int,
    step: int,
    rng: np.random.Generator,
) -> tuple[F64, F64]:
    """Return the flow's derivative and the opening, each float64 (frames · step,).

    ``pitch_hz``, ``rd``: (frames,), one value every ``step`` samples, pitch everywhere positive;
    ``jitter``, ``shimmer``: standard deviation of a cycle's length and strength, as a fraction.
    The opening is 0 to 1 and modulates breath.
    """
    fine = _OVERSAMPLING
    n = len(pitch_hz) * step * fine
    at = np.arange(n) / (step * fine)
    frames = np.arange(len(pitch_hz)) + 0.5
    nominal = np.cumsum(np.interp(at, frames, pitch_hz)) / (rate_hz * fine)
    count = int(nominal[-1]) + 3
    lengths = 1 + jitter * np.clip(rng.standard_normal(count), -3, 3)
    strengths = 1 + shimmer * np.clip(rng.standard_normal(count), -3, 3)
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    ends *= max(1.0, (nominal[-1] + 1) / ends[-1])  # a short draw must still reach the end
    cycles = np.interp(nominal, ends, np.arange(count + 1))
    cycle = cycles.astype(np.int64)
    starts = np.interp(ends[:-1], nominal, at)
    share = (np.interp(starts, frames, rd) - RD_RANGE[0]) / (RD_RANGE[1] - RD_RANGE[0])
    shape = np.clip(np.rint(share * (_SHAPES - 1)), 0, _SHAPES - 1).astype(np.int64)
    phase = (cycles - cycle) * _PHASES
    low = phase.astype(np.int64)
    part = (phase - low).astype(np.float32)
    index = shape[cycle] * (_PHASES + 1) + low
    derivative, flow = (table.ravel() for table in _tables())
    pulses = derivative[index] * (1 - part) + derivative[index + 1] * part
    pulses = pulses * strengths[cycle].astype(np.float32)
    opening = flow[index[::fine]]
    return np.asarray(resample_poly(pulses, 1, fine), np.float64), opening.astype(np.float64)
