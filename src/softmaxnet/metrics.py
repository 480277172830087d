"""How good probabilities are: proper losses, accuracy, calibration errors beside those of chance, curves.

``log_loss`` and ``brier_score`` are proper: only the true probabilities minimise them. A calibration error
alone is not (constant base rates have none), and every estimate of one is above 0 for a perfect model as
well, the more so the fewer the rows: :func:`calibration_error_null` says how much.

Rows of labels are integers ``0..n_classes-1``; a class that the labels lack is no special case. Where there
are no rows the answer is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import DataError, UsageError
from softmaxnet.softmax import Array, checked_labels, checked_logits, checked_weight

__all__ = [
    "ReliabilityCurve",
    "RowScores",
    "accuracy",
    "balanced_accuracy",
    "binned_calibration_error",
    "bootstrap_interval",
    "brier_score",
    "calibration_error_null",
    "classwise_calibration_error",
    "evaluate_log_proba",
    "evaluate_rows",
    "log_loss",
    "mean_interval",
    "proportion_interval",
    "reliability_bins",
    "reliability_curve",
    "score_rows",
    "set_coverage",
    "smooth_calibration_error",
    "top_k_accuracy",
]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

UNSEEN = -1
"""The label of a row whose class the model never saw."""

_N_CELLS = 4096  # of the unit interval; a bandwidth below 1/4096 is no longer resolved, and reads as 0
_CHUNK_ELEMENTS = 2**20


# --- losses and accuracies ----------------------------------------------------------------------------------


def log_loss(log_proba: Array, labels: Array, *, sample_weight: Array | None = None) -> float:
    """Return the mean negative log-probability of the labels.

    ``-sum_i w_i ln p_{i,y_i} / sum_i w_i``; taken from log-probabilities, so that nothing is clipped.

    Parameters
    ----------
    log_proba : array of shape (n_samples, n_classes), in nats
    labels : integer array of shape (n_samples,)
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    float, in nats
        Infinite where a label has probability 0; NaN without rows.

    Raises
    ------
    DataError
        Labels out of range, shapes that differ, weights that cannot be.

    References
    ----------
    Good (1952), "Rational decisions", J. R. Stat. Soc. B 14.

    Examples
    --------
    >>> votes = np.log([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    >>> round(log_loss(votes, [2, 1, 0]), 7)
    1.3783889
    """
    log_proba, labels, weight = _checked(log_proba, labels, sample_weight)
    return _mean(-_at(log_proba, labels), weight)


def brier_score(proba: Array, labels: Array, *, sample_weight: Array | None = None) -> float:
    """Return the mean squared distance between the probabilities and the labels as 0 and 1.

    ``mean_i sum_k (p_ik - [k = y_i])^2``, from 0 to 2: Brier's own form, for two classes twice the form that
    looks at one of them only.

    Parameters
    ----------
    proba : array of shape (n_samples, n_classes)
    labels : integer array of shape (n_samples,)
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    float
        NaN without rows.

    References
    ----------
    Brier (1950), "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78.

    Examples
    --------
    >>> round(brier_score([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]], [2, 1, 0]), 4)
    0.8067
    """
    proba, labels, weight = _checked(proba, labels, sample_weight)
    squares = np.einsum("nk,nk->n", proba, proba, dtype=np.float64)
    return _mean(squares - 2 * _at(proba, labels) + 1, weight)


def accuracy(scores: Array, labels: Array, *, sample_weight: Array | None = None) -> float:
    """Return the share of rows whose highest score is the label's; of equal scores the first counts.

    Parameters
    ----------
    scores : array of shape (n_samples, n_classes)
        Logits, log-probabilities or probabilities: only their order matters.
    labels : integer array of shape (n_samples,)
    sample_weight : array of shape (n_samples,), optional

    Examples
    --------
    >>> round(accuracy([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]], [2, 1, 0]), 4)
    0.6667
    """
    return top_k_accuracy(scores, labels, 1, sample_weight=sample_weight)


def top_k_accuracy(scores: Array, labels: Array, k: int, *, sample_weight: Array | None = None) -> float:
    """Return the share of rows whose label is among the ``k`` highest scores; of equal ones the first count.

    Examples
    --------
    >>> top_k_accuracy([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]], [2, 1, 1], 2)
    1.0
    """
    if k < 1:
        raise UsageError(f"k must be a whole number from 1. Got {k!r} instead")
    scores, labels, weight = _checked(scores, labels, sample_weight)
    return _mean(_rank(scores, labels) < k, weight)


def balanced_accuracy(scores: Array, labels: Array, *, sample_weight: Array | None = None) -> float:
    """Return the mean, over the classes that occur, of the share of their rows that are right.

    Examples
    --------
    >>> balanced_accuracy([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]], [0, 0, 0, 1])
    0.5
    """
    scores, labels, weight = _checked(scores, labels, sample_weight)
    return _balanced(_rank(scores, labels) == 0, labels, weight)


def _balanced(correct: Bools, labels: Ints, weight: Floats) -> float:
    if not weight.any():
        return float("nan")
    total = np.bincount(labels, weights=weight)
    right = np.bincount(labels, weights=weight * correct)
    return float(np.mean(right[total > 0] / total[total > 0]))


# --- how sure these are -------------------------------------------------------------------------------------


def mean_interval(
    values: Array, *, sample_weight: Array | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Return the normal interval of a mean: ``mean -+ z sqrt(sum_i w_i^2 (v_i - mean)^2) / sum_i w_i``.

    Parameters
    ----------
    values : array of shape (n_samples,), for instance the losses of the rows
    sample_weight : array of shape (n_samples,), optional
    level : float in (0, 1)

    Returns
    -------
    low, high : float
        NaN without rows, the whole line with one.

    Examples
    --------
    >>> low, high = mean_interval([0.0, 1.0] * 50)
    >>> round(low, 3), round(high, 3)
    (0.402, 0.598)
    """
    values = np.asarray(values, dtype=np.float64)
    weight = _vector_weight(values, sample_weight)
    n = int((weight > 0).sum())
    if n < 2:
        return (float("nan"), float("nan")) if n == 0 else (-float("inf"), float("inf"))
    mean = _mean(values, weight)
    half = _normal_quantile(level) * float(np.sqrt(weight**2 @ (values - mean) ** 2)) / float(weight.sum())
    return mean - half, mean + half


def proportion_interval(share: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share of ``n`` rows, which stays inside [0, 1] and is honest at 0 and 1.

    References
    ----------
    Wilson (1927), J. Am. Stat. Assoc. 22.

    Examples
    --------
    >>> low, high = proportion_interval(1.0, 100)
    >>> round(low, 4), high
    (0.963, 1.0)
    """
    if not n > 0:
        return float("nan"), float("nan")
    z2 = _normal_quantile(level) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = float(np.sqrt(z2 * (share * (1 - share) + z2 / (4 * n)) / n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: Array,
    level: float = 0.95,
    n_resamples: int = 200,
    random_state: int = 0,
) -> tuple[float, float]:
    """Return the percentile interval of a statistic of rows drawn again, with replacement.

    For a calibration error, which a resample can only raise, it is an interval of what such a sample reads;
    compare with :func:`calibration_error_null`, not with 0.

    Parameters
    ----------
    statistic : function of the arrays
    *arrays : arrays with one entry a row
    level : float in (0, 1)
    n_resamples, random_state : int

    References
    ----------
    Efron (1979), "Bootstrap methods", Ann. Stat. 7.

    Examples
    --------
    >>> low, high = bootstrap_interval(lambda v: float(v.mean()), np.arange(100.0))
    >>> bool(low < 49.5 < high)
    True
    """
    rows = [np.asarray(array) for array in arrays]
    n = len(rows[0])
    if n == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(random_state)
    draws = (rng.integers(0, n, n) for _ in range(n_resamples))
    values = [statistic(*(array[draw] for array in rows)) for draw in draws]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _normal_quantile(level: float) -> float:
    from statistics import NormalDist

    if not 0 < level < 1:
        raise UsageError(f"level must be a number in (0, 1). Got {level!r} instead")
    return NormalDist().inv_cdf((1 + level) / 2)


# --- calibration errors -------------------------------------------------------------------------------------


def smooth_calibration_error(
    confidence: Array, correct: Array, *, sample_weight: Array | None = None
) -> float:
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
        error(place, ((rng.random(len(confidence)) < confidence) - confidence) * weight)
        for _ in range(n_resamples)
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
    proba, labels, weight = _checked(proba, labels, sample_weight)
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

    ``accuracy(t) = sum_i w_i K_s(t, c_i) y_i / sum_i w_i K_s(t, c_i)`` with the reflected Gaussian and the
    bandwidth ``s`` of :func:`smooth_calibration_error` (at least 0.01), so that the mean distance from the
    diagonal is about that error. The band is that of rows drawn again, at the same bandwidth.

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
    width = max(error, 0.01)
    at, cell = _cell(grid), _cell(confidence)
    density, values = _smoothed_accuracy(cell, correct, weight, width, at)
    rng = np.random.default_rng(random_state)
    drawn = []
    for _ in range(n_resamples):
        counts = np.bincount(rng.integers(0, len(weight), len(weight)), minlength=len(weight))
        drawn.append(_smoothed_accuracy(cell, correct, weight * counts, width, at)[1])
    low, high = _band(np.array(drawn).reshape(-1, n_points), level)
    return ReliabilityCurve(grid, values, low, high, density, width, error, int((weight > 0).sum()))


def _smoothed_accuracy(
    cell: Ints, correct: Floats, weight: Floats, width: float, at: Ints
) -> tuple[Floats, Floats]:
    """Return the density of the confidences and the accuracy, at the given cells."""
    from scipy.fft import dct, idct

    if not weight.any():
        return np.zeros(len(at)), np.full(len(at), np.nan)
    share = weight / weight.sum()
    decay = np.exp(-0.5 * (np.pi * np.arange(_N_CELLS) * width) ** 2)
    mass, right = (
        idct(dct(np.bincount(cell, weights=values, minlength=_N_CELLS)) * decay)[at]
        for values in (share, share * correct)
    )
    density = np.maximum(mass * _N_CELLS, 0.0)
    # with less than a twentieth of a row within a bandwidth there is nothing to say
    known = density * width * len(weight) > 0.05
    with np.errstate(invalid="ignore", divide="ignore"):
        return density, np.where(known, np.clip(right / mass, 0, 1), np.nan)


def _band(drawn: Floats, level: float) -> tuple[Floats, Floats]:
    """Return quantiles over the resamples, NaN at points that fewer than half of them reach."""
    low, high = np.full(drawn.shape[1], np.nan), np.full(drawn.shape[1], np.nan)
    if len(drawn):
        reached = np.isfinite(drawn).mean(axis=0) >= 0.5
        low[reached] = np.nanquantile(drawn[:, reached], (1 - level) / 2, axis=0)
        high[reached] = np.nanquantile(drawn[:, reached], (1 + level) / 2, axis=0)
    return low, high


# --- everything at once -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowScores:
    """What the metrics need to know of each row: a few numbers, however many classes there are.

    All arrays have shape (n_samples,). For a row whose label the model never saw (-1), ``log_proba`` and
    ``distance`` are NaN and ``rank`` is the number of classes.
    """

    labels: Ints
    log_proba: Floats  # of the label, in nats
    distance: Floats  # sum_k (p_k - y_k)^2
    confidence: Floats  # the highest probability
    rank: Ints  # of the label, 0 for the highest

    @property
    def correct(self) -> Bools:
        """Whether the label has the highest probability."""
        correct: Bools = self.rank == 0
        return correct

    @classmethod
    def concatenate(cls, parts: Sequence[RowScores]) -> RowScores:
        """Return the rows of all parts, in order."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def score_rows(log_proba: Array, labels: Array) -> RowScores:
    """Return the :class:`RowScores` of one chunk of rows, for :func:`evaluate_rows`.

    Parameters
    ----------
    log_proba : array of shape (n_samples, n_classes), in nats
    labels : integer array of shape (n_samples,)
        In 0..n_classes-1, or -1 for a class that the model never saw.

    Examples
    --------
    >>> scores = score_rows(np.log([[0.3, 0.3, 0.4], [0.1, 0.2, 0.7]]), [2, -1])
    >>> print(scores.confidence, scores.rank)
    [0.4 0.7] [0 3]
    """
    labels = np.asarray(labels)
    unseen = labels == UNSEEN
    log_proba, known, _ = _checked(log_proba, np.where(unseen, 0, labels), None)
    n, n_classes = log_proba.shape
    step = max(1, _CHUNK_ELEMENTS // n_classes)
    squares, highest, rank = np.empty(n), np.empty(n), np.empty(n, dtype=np.int64)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        proba = np.exp(log_proba[rows])
        squares[rows] = np.einsum("nk,nk->n", proba, proba, dtype=np.float64)
        highest[rows] = proba.max(axis=1)
        rank[rows] = _rank(log_proba[rows], known[rows])
    of_label = _at(log_proba, known)
    distance = squares - 2 * np.exp(of_label) + 1
    return RowScores(
        labels=np.where(unseen, UNSEEN, known),
        log_proba=np.where(unseen, np.nan, of_label),
        distance=np.where(unseen, np.nan, np.maximum(distance, 0.0)),
        # a float32 softmax may sum to a little more than 1
        confidence=np.minimum(highest, 1.0),
        rank=np.where(unseen, n_classes, rank),
    )


def evaluate_rows(
    scores: RowScores,
    n_classes: int,
    *,
    sample_weight: Array | None = None,
    n_unseen: int = 0,
    n_resamples: int = 0,
) -> dict[str, Any]:
    """Return all metrics of scored rows, as plain numbers.

    Rows whose label the model never saw are wrong in the accuracies; they are left out of the log loss, the
    Brier score, the balanced accuracy and the calibration errors, which no prediction over the known classes
    could improve.

    Parameters
    ----------
    scores : RowScores
    n_classes : int
    sample_weight : array of shape (n_samples,), optional
    n_unseen : int
        Further rows with unseen labels that are not among the rows; each weighs what the mean row does.
    n_resamples : int
        Where above 0, intervals and null values of the calibration errors are added, from that many
        resamples.

    Returns
    -------
    dict
        ``log_loss`` (nats), ``accuracy``, ``balanced_accuracy``, ``brier``, ``calibration_error`` (smooth, of
        the highest probability), ``binned_calibration_error`` (15 bins of equal mass), ``n_rows``,
        ``n_unseen``; with more than 5 classes ``top_5_accuracy``; ``log_loss_interval`` and
        ``accuracy_interval`` (95 %). With ``n_resamples`` ``calibration_error_interval``,
        ``calibration_error_null``, ``binned_calibration_error_null``. None where there are no rows to tell.

    Examples
    --------
    >>> votes = np.log([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    >>> result = evaluate_rows(score_rows(votes, [2, 1, 0]), 3)
    >>> round(result["log_loss"], 7), round(result["accuracy"], 4), result["n_rows"], result["n_unseen"]
    (1.3783889, 0.6667, 3, 0)
    """
    weight = _vector_weight(scores.confidence, sample_weight)
    seen = scores.labels != UNSEEN
    known = weight[seen]
    losses, confidence, correct = -scores.log_proba[seen], scores.confidence[seen], scores.correct[seen]
    absent = n_unseen * (float(weight.mean()) if len(weight) else 1.0)
    total = float(weight.sum()) + absent
    right = float(weight @ scores.correct) / total if total else float("nan")
    n_effective = total**2 / (float(weight @ weight) + absent**2 / max(n_unseen, 1)) if total else 0.0
    pairs = {"sample_weight": known}
    result: dict[str, Any] = {
        "log_loss": _mean(losses, known),
        "accuracy": right,
        "balanced_accuracy": _balanced(correct, scores.labels[seen], known),
        "brier": _mean(scores.distance[seen], known),
        "calibration_error": smooth_calibration_error(confidence, correct, **pairs),
        "binned_calibration_error": binned_calibration_error(confidence, correct, **pairs),
        "n_rows": len(weight) + n_unseen,
        "n_unseen": int((~seen).sum()) + n_unseen,
        "log_loss_interval": mean_interval(losses, sample_weight=known),
        "accuracy_interval": proportion_interval(right, n_effective),
    }
    if n_classes > 5:
        result["top_5_accuracy"] = float(weight @ (scores.rank < 5)) / total if total else float("nan")
    if n_resamples:
        result["calibration_error_interval"] = bootstrap_interval(
            lambda c, y, w: smooth_calibration_error(c, y, sample_weight=w),
            confidence,
            correct,
            known,
            n_resamples=n_resamples,
        )
        for name, n_bins in (("calibration_error_null", None), ("binned_calibration_error_null", 15)):
            result[name] = calibration_error_null(confidence, n_bins=n_bins, n_resamples=n_resamples, **pairs)
    return {name: _plain(value) for name, value in result.items()}


def evaluate_log_proba(
    log_proba: Array,
    labels: Array,
    n_unseen: int = 0,
    *,
    sample_weight: Array | None = None,
    n_resamples: int = 0,
) -> dict[str, Any]:
    """Return all metrics of log-probabilities: :func:`score_rows`, then :func:`evaluate_rows`.

    Parameters
    ----------
    log_proba : array of shape (n_samples, n_classes), in nats
    labels : integer array of shape (n_samples,)
        In 0..n_classes-1, or -1 for a class that the model never saw.
    n_unseen, sample_weight, n_resamples :
        As in :func:`evaluate_rows`.

    Raises
    ------
    DataError
        Labels below -1 or too high (with the row), shapes that differ, weights that cannot be.

    Examples
    --------
    >>> votes = np.log([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    >>> result = evaluate_log_proba(votes, [2, 1, -1])  # a class that the model never saw
    >>> round(result["log_loss"], 8), round(result["accuracy"], 4), result["n_unseen"]
    (0.91629073, 0.6667, 1)
    """
    scores = score_rows(log_proba, labels)
    return evaluate_rows(
        scores,
        int(np.shape(log_proba)[-1]),
        sample_weight=sample_weight,
        n_unseen=n_unseen,
        n_resamples=n_resamples,
    )


def set_coverage(
    sets: Array, labels: Array, *, sample_weight: Array | None = None, level: float = 0.95
) -> dict[str, Any]:
    """Return how often prediction sets hold the label, and how large they are.

    Parameters
    ----------
    sets : bool array of shape (n_samples, n_classes)
    labels : integer array of shape (n_samples,); -1 is covered by no set
    sample_weight : array of shape (n_samples,), optional
    level : float in (0, 1)
        Of the interval of the coverage.

    Returns
    -------
    dict
        ``coverage``, ``coverage_interval``, ``mean_size``, ``sizes`` (rows with 0, 1, 2, ... classes),
        ``class_coverage`` (one a class, None for a class without rows), ``n_rows``.

    Examples
    --------
    >>> result = set_coverage([[True, False], [True, True], [False, True]], [0, 1, 0])
    >>> round(result["coverage"], 4), result["sizes"], result["class_coverage"]
    (0.6667, [0, 2, 1], [0.5, 1.0])
    """
    sets, labels = np.asarray(sets, dtype=bool), np.asarray(labels)
    unseen = labels == UNSEEN
    known = checked_labels(np, np.where(unseen, 0, labels), sets)
    weight = _vector_weight(known, sample_weight)
    covered = np.take_along_axis(sets, known[:, None], axis=1)[:, 0] & ~unseen
    sizes = sets.sum(axis=1)
    coverage = _mean(covered, weight)
    n_effective = float(weight.sum()) ** 2 / float(weight @ weight) if weight.any() else 0.0
    per_class = [_mean(covered[rows], weight[rows]) for rows in (labels == k for k in range(sets.shape[1]))]
    return {
        "coverage": _plain(coverage),
        "coverage_interval": _plain(proportion_interval(coverage, n_effective, level=level)),
        "mean_size": _plain(_mean(sizes, weight)),
        "sizes": np.bincount(sizes, minlength=1).tolist(),
        "class_coverage": [_plain(value) for value in per_class],
        "n_rows": len(labels),
    }


# --- checks and means ---------------------------------------------------------------------------------------


def _checked(scores: Array, labels: Array, sample_weight: Array | None) -> tuple[Floats, Ints, Floats]:
    xp, scores = checked_logits(scores)
    if xp is not np:
        scores = scores.detach().cpu().numpy()
    if scores.ndim != 2:
        raise DataError(
            f"an array of shape (n_samples, n_classes) is needed, but its shape is {scores.shape}"
        )
    labels = checked_labels(np, labels, scores)
    return scores, labels, _vector_weight(labels, sample_weight)


def _checked_pairs(
    confidence: Array, correct: Array, sample_weight: Array | None
) -> tuple[Floats, Floats, Floats]:
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
    return np.minimum(confidence, 1.0), correct, _vector_weight(confidence, sample_weight)


def _vector_weight(rows: npt.NDArray[Any], sample_weight: Array | None) -> Floats:
    if sample_weight is None:
        return np.ones(len(rows))
    # as logits of one class: the same checks, the same words
    weight = checked_weight(np, np.zeros((len(rows), 1)), sample_weight, None)
    return np.asarray(weight, dtype=np.float64)


def _at(scores: Floats, labels: Ints) -> Floats:
    return np.take_along_axis(scores, labels[:, None], axis=1)[:, 0].astype(np.float64)


def _rank(scores: Floats, labels: Ints) -> Ints:
    """Return how many classes come before the label: higher scores, and equal ones of a lower number."""
    of_label = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    rank: Ints = np.count_nonzero((scores > of_label) | ((scores == of_label) & before), axis=1)
    return rank


def _mean(values: npt.NDArray[Any], weight: Floats) -> float:
    if not weight.any():
        return float("nan")
    used = weight > 0
    return float(weight[used] @ values[used].astype(np.float64)) / float(weight.sum())


def _plain(value: Any) -> Any:
    """Return JSON-able data: NaN, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
