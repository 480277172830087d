"""Whether probabilities mean what they say: calibration errors beside those of chance, and reliability curves.

A calibration error alone says little: constant base rates have none, and every estimate of one is above 0 for a perfect
model as well, the more so the fewer the rows. :func:`calibration_error_null` says how much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import DataError, UsageError
from softmaxnet.logit_arguments import Array
from softmaxnet.means import checked_scores, vector_weight

__all__ = [
    "ReliabilityCurve",
    "binned_calibration_error",
    "calibration_error_null",
    "classwise_calibration_error",
    "reliability_bins",
    "reliability_curve",
    "smooth_calibration_error",
]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]

_N_CELLS = 4096  # of the unit interval; a bandwidth below 1/4096 is no longer resolved, and reads as 0


# --- calibration errors -------------------------------------------------------------------------------------


def smooth_calibration_error(confidence: Array, correct: Array, *, sample_weight: Array | None = None) -> float:
    """Return the smooth calibration error (smECE): no bins, and a bandwidth that the data choose.

    ::

        smECE_s = integral_0^1 | mean_i K_s(t, c_i) (y_i - c_i) | dt,     smECE = the s with smECE_s = s

    with ``c`` the confidences, ``y`` whether these were right, and ``K_s`` the Gaussian of width ``s``
    reflected at 0 and 1. ``smECE_s`` falls with ``s``, so there is one such ``s``. Computed on 4,096 cells:
    reflection makes the kernel diagonal in cosines, so a width costs one cosine transform.

    Parameters
    ----------
    confidence : array of shape (n_samples,), in [0, 1]
        For more than two classes the highest probability of each row.
    correct : bool array of shape (n_samples,)
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    float in [0, 1]
        NaN without rows.

    References
    ----------
    Błasiok, Nakkiran (2024), "Smooth ECE: principled reliability diagrams via kernel smoothing", ICLR,
    arXiv:2309.12236, definitions 1 and 2.

    Examples
    --------
    >>> confidence = np.full(1000, 0.8)
    >>> correct = np.arange(1000) % 10 < 6  # 60 % are right, not 80 %
    >>> round(smooth_calibration_error(confidence, correct), 3)
    0.2
    """
    confidence, correct, weight = _checked_pairs(confidence, correct, sample_weight)
    if not weight.any():
        return float("nan")
    return _smooth_error(_cell(confidence), (correct - confidence) * weight / weight.sum())


def _cell(confidence: Floats) -> Ints:
    return np.minimum((confidence * _N_CELLS).astype(np.int64), _N_CELLS - 1)


def _smooth_error(cell: Ints, residual: Floats) -> float:
    """Return the fixed point of ``s -> smECE_s``, of residuals that carry their weights."""
    from scipy.fft import dct, idct
    from scipy.optimize import brentq

    coefficients = dct(np.bincount(cell, weights=residual, minlength=_N_CELLS))
    decay = -0.5 * (np.pi * np.arange(_N_CELLS)) ** 2

    def excess(width: float) -> float:
        return float(np.abs(idct(coefficients * np.exp(decay * width**2))).sum()) - width

    # below the width of a cell the residuals of neighbours no longer mix: that reads as calibrated
    if excess(1.0 / _N_CELLS) <= 0:
        return min(excess(0.0), 1.0 / _N_CELLS)
    return float(brentq(excess, 1.0 / _N_CELLS, 1.0, xtol=1e-9)) if excess(1.0) < 0 else 1.0


def binned_calibration_error(
    confidence: Array, correct: Array, *, n_bins: int = 15, sample_weight: Array | None = None
) -> float:
    """Return the expected calibration error (ECE) with bins of equal mass.

    ``sum_b | sum_{i in b} w_i (y_i - c_i) | / sum_i w_i``. Equal confidences are never split between bins, a
    confidence of exactly 1 is in the last one, and there may be fewer bins than asked for.

    Parameters
    ----------
    confidence : array of shape (n_samples,), in [0, 1]
    correct : bool array of shape (n_samples,)
    n_bins : int
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    float in [0, 1]
        NaN without rows. Never 0 by calibration alone: see :func:`calibration_error_null`.

    References
    ----------
    Naeini, Cooper, Hauskrecht (2015), AAAI; Nguyen, O'Connor (2015), arXiv:1508.05154, for bins of equal
    mass.

    Examples
    --------
    >>> round(binned_calibration_error(np.full(1000, 0.8), np.arange(1000) % 10 < 6), 3)
    0.2
    """
    confidence, correct, weight = _checked_pairs(confidence, correct, sample_weight)
    if not weight.any():
        return float("nan")
    return _binned_error(_bins(confidence, weight, n_bins), (correct - confidence) * weight / weight.sum())


def _binned_error(bins: Ints, residual: Floats) -> float:
    return float(np.abs(np.bincount(bins, weights=residual)).sum())


def _bins(confidence: Floats, weight: Floats, n_bins: int) -> Ints:
    """Return the bin of every row: that of the middle of the mass of all rows with its confidence."""
    if n_bins < 1:
        raise UsageError(f"n_bins must be a whole number from 1. Got {n_bins!r} instead")
    _, group = np.unique(confidence, return_inverse=True)
    mass = np.bincount(group, weights=weight)
    middle = np.cumsum(mass) - mass / 2
    bins: Ints = np.minimum((middle / mass.sum() * n_bins).astype(np.int64), n_bins - 1)[group]
    return bins


def reliability_bins(
    confidence: Array, correct: Array, *, n_bins: int = 15, sample_weight: Array | None = None
) -> list[dict[str, float]]:
    """Return a row for each bin of :func:`binned_calibration_error` that holds any rows.

    Returns
    -------
    list of dict
        "confidence" and "accuracy" (means), "weight" (sum), "n_rows", in order of confidence.

    Examples
    --------
    >>> reliability_bins([0.5, 0.5, 1.0, 1.0], [1, 0, 1, 1], n_bins=2)[1]
    {'confidence': 1.0, 'accuracy': 1.0, 'weight': 2.0, 'n_rows': 2}
    """
    confidence, correct, weight = _checked_pairs(confidence, correct, sample_weight)
    if not weight.any():
        return []
    bins = _bins(confidence, weight, n_bins)
    mass = np.bincount(bins, weights=weight)
    used = np.flatnonzero(mass)
    columns = (
        np.bincount(bins, weights=weight * confidence)[used] / mass[used],
        np.bincount(bins, weights=weight * correct)[used] / mass[used],
        mass[used],
        np.bincount(bins)[used],
    )
    names = ("confidence", "accuracy", "weight", "n_rows")
    return [dict(zip(names, (x.item() for x in row), strict=True)) for row in zip(*columns, strict=True)]


def calibration_error_null(
    confidence: Array,
    *,
    n_bins: int | None = 15,
    sample_weight: Array | None = None,
    n_resamples: int = 200,
    level: float = 0.95,
    random_state: int = 0,
) -> dict[str, float]:
    """Return what a perfectly calibrated model with these confidences would read as its calibration error.

    The labels are drawn anew, each row right with the probability of its confidence, and the error is
    computed again. An error inside the interval is no evidence of miscalibration.

    Parameters
    ----------
    confidence : array of shape (n_samples,), in [0, 1]
    n_bins : int or None
        Of :func:`binned_calibration_error`; None for :func:`smooth_calibration_error`.
    sample_weight : array of shape (n_samples,), optional
    n_resamples, random_state : int
    level : float in (0, 1)

    Returns
    -------
    dict with "median", "low" and "high"
        NaN without rows.

    References
    ----------
    Bröcker, Smith (2007), "Increasing the reliability of reliability diagrams", Weather and Forecasting 22.

    Examples
    --------
    >>> null = calibration_error_null(np.linspace(0.005, 0.995, 100), n_resamples=500)
    >>> round(null["median"], 2)
    0.12
    """
    confidence, _, weight = _checked_pairs(confidence, np.zeros(np.shape(confidence)), sample_weight)
    if not weight.any():
        return dict.fromkeys(("median", "low", "high"), float("nan"))
    weight = weight / weight.sum()
    place = _cell(confidence) if n_bins is None else _bins(confidence, weight, n_bins)
    error: Callable[[Ints, Floats], float] = _smooth_error if n_bins is None else _binned_error
    rng = np.random.default_rng(random_state)
    values = [
        error(place, ((rng.random(len(confidence)) < confidence) - confidence) * weight) for _ in range(n_resamples)
    ]
    low, median, high = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return {"median": float(median), "low": float(low), "high": float(high)}


def classwise_calibration_error(
    proba: Array, labels: Array, *, n_bins: int = 15, sample_weight: Array | None = None
) -> Floats:
    """Return the binned calibration error of every class taken against the others.

    Entry ``k`` is :func:`binned_calibration_error` of ``p_k`` and ``[y = k]``; its mean is the classwise ECE.

    Parameters
    ----------
    proba : array of shape (n_samples, n_classes)
    labels : integer array of shape (n_samples,)

    Returns
    -------
    array of shape (n_classes,)
        NaN without rows.

    References
    ----------
    Kull et al. (2019), "Beyond temperature scaling", NeurIPS, arXiv:1910.12656, section 2.

    Examples
    --------
    >>> print(classwise_calibration_error([[0.8, 0.2]] * 10, [0] * 6 + [1] * 4).round(3))
    [0.2 0.2]
    """
    proba, labels, weight = checked_scores(proba, labels, sample_weight)
    return np.array(
        [
            binned_calibration_error(proba[:, k], labels == k, n_bins=n_bins, sample_weight=weight)
            for k in range(proba.shape[1])
        ]
    )


# --- the reliability curve ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReliabilityCurve:
    """How often rows of each confidence were right, smoothed, with a bootstrap band.

    All arrays have shape (n_points,); the accuracies are NaN where there are practically no rows.
    """

    confidence: Floats
    accuracy: Floats
    low: Floats
    high: Floats
    density: Floats
    bandwidth: float
    calibration_error: float
    n_rows: int

    def where_known(self, n_rows: float = 5.0) -> ReliabilityCurve:
        """Return the curve with accuracy and band only where about ``n_rows`` rows or more lie within its bandwidth.

        Examples
        --------
        >>> curve = reliability_curve(np.full(1000, 0.8), np.arange(1000) % 10 < 6).where_known()
        >>> [bool(np.isfinite(curve.accuracy[at])) for at in (0, 160)]  # at 0 and at 0.8
        [False, True]
        """
        known = self.density * self.bandwidth * np.sqrt(2 * np.pi) * self.n_rows >= n_rows
        accuracy, low, high = (np.where(known, values, np.nan) for values in (self.accuracy, self.low, self.high))
        return replace(self, accuracy=accuracy, low=low, high=high)


def reliability_curve(
    confidence: Array,
    correct: Array,
    *,
    sample_weight: Array | None = None,
    n_points: int = 201,
    level: float = 0.95,
    n_resamples: int = 200,
    random_state: int = 0,
) -> ReliabilityCurve:
    """Return accuracy as a smooth function of confidence, to be drawn against the diagonal.

    ``accuracy(t) = t + sum_i w_i K_s(t, c_i) (y_i - c_i) / sum_i w_i K_s(t, c_i)`` with the reflected Gaussian of
    :func:`smooth_calibration_error`, so that a calibrated model's curve is the diagonal at any bandwidth and the mean
    distance from it is about that error. The bandwidth ``s`` is that error, but at least ``0.16 n^(-1/5)`` and 0.01:
    less would draw noise. The band is that of rows drawn again, at the same bandwidth.

    Parameters
    ----------
    confidence : array of shape (n_samples,), in [0, 1]
    correct : bool array of shape (n_samples,)
    sample_weight : array of shape (n_samples,), optional
    n_points : int
        Points between 0 and 1.
    level : float in (0, 1)
    n_resamples, random_state : int

    References
    ----------
    Błasiok, Nakkiran (2024), arXiv:2309.12236, section 3.

    Examples
    --------
    >>> curve = reliability_curve(np.full(1000, 0.8), np.arange(1000) % 10 < 6)
    >>> round(float(curve.accuracy[160]), 3), float(curve.confidence[160])
    (0.6, 0.8)
    """
    confidence, correct, weight = _checked_pairs(confidence, correct, sample_weight)
    grid = np.linspace(0, 1, n_points)
    if not weight.any():
        nothing = np.full(n_points, np.nan)
        return ReliabilityCurve(grid, nothing, nothing, nothing, nothing, float("nan"), float("nan"), 0)
    error = _smooth_error(_cell(confidence), (correct - confidence) * weight / weight.sum())
    width = max(error, 0.01, 0.16 * float((weight > 0).sum()) ** -0.2)
    cell, residual = _cell(confidence), correct - confidence
    density, values = _smoothed_accuracy(cell, residual, weight, width, grid)
    rng = np.random.default_rng(random_state)
    drawn = []
    for _ in range(n_resamples):
        counts = np.bincount(rng.integers(0, len(weight), len(weight)), minlength=len(weight))
        drawn.append(_smoothed_accuracy(cell, residual, weight * counts, width, grid)[1])
    low, high = _band(np.array(drawn).reshape(-1, n_points), level)
    return ReliabilityCurve(grid, values, low, high, density, width, error, int((weight > 0).sum()))


def _smoothed_accuracy(
    cell: Ints, residual: Floats, weight: Floats, width: float, grid: Floats
) -> tuple[Floats, Floats]:
    """Return the density of the confidences and the accuracy, at the points of a grid."""
    from scipy.fft import dct, idct

    at = _cell(grid)
    if not weight.any():
        return np.zeros(len(at)), np.full(len(at), np.nan)
    share = weight / weight.sum()
    decay = np.exp(-0.5 * (np.pi * np.arange(_N_CELLS) * width) ** 2)
    mass, gap = (
        idct(dct(np.bincount(cell, weights=values, minlength=_N_CELLS)) * decay)[at]
        for values in (share, share * residual)
    )
    density = np.maximum(mass * _N_CELLS, 0.0)
    # with less than a twentieth of a row within a bandwidth there is nothing to say
    known = density * width * len(weight) > 0.05
    with np.errstate(invalid="ignore", divide="ignore"):
        return density, np.where(known, np.clip(grid + gap / mass, 0, 1), np.nan)


def _band(drawn: Floats, level: float) -> tuple[Floats, Floats]:
    """Return quantiles over the resamples, NaN at points that fewer than half of them reach."""
    low, high = np.full(drawn.shape[1], np.nan), np.full(drawn.shape[1], np.nan)
    if len(drawn):
        reached = np.isfinite(drawn).mean(axis=0) >= 0.5
        low[reached] = np.nanquantile(drawn[:, reached], (1 - level) / 2, axis=0)
        high[reached] = np.nanquantile(drawn[:, reached], (1 + level) / 2, axis=0)
    return low, high


# --- checks --------------------------------------------------------------------------------------------------


def _checked_pairs(confidence: Array, correct: Array, sample_weight: Array | None) -> tuple[Floats, Floats, Floats]:
    confidence = np.asarray(confidence, dtype=np.float64)
    correct = np.asarray(correct, dtype=np.float64)
    if confidence.ndim != 1 or correct.shape != confidence.shape:
        raise DataError(
            f"confidence and correct must be of one shape (n_samples,), but are of {confidence.shape} "
            f"and {correct.shape}"
        )
    bad = ~((confidence >= 0) & (confidence <= 1 + 1e-6))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(f"row {row}: the confidence {confidence[row]:g} is not in [0, 1]")
    return np.minimum(confidence, 1.0), correct, vector_weight(confidence, sample_weight)
