"""Weighted means of rows and how sure these are: what every metric is made of.

A row of weight ``w`` counts ``w`` times; only the proportions of the weights matter. Where there are no rows the answer
is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import DataError, UsageError
from softmaxnet.logit_arguments import Array, checked_labels, checked_logits, checked_weight

__all__ = [
    "bootstrap_interval",
    "checked_scores",
    "mean_interval",
    "proportion_interval",
    "standard_error",
    "vector_weight",
    "weighted_mean",
]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]


def vector_weight(rows: npt.NDArray[Any], sample_weight: Array | None) -> Floats:
    """Return the weight of every row as float64, 1 where none are given.

    Raises
    ------
    DataError
        For weights of another number, negative ones and ones that are not finite.
    """
    if sample_weight is None:
        return np.ones(len(rows))
    # as logits of one class: the same checks, the same words
    weight = checked_weight(np, np.zeros((len(rows), 1)), sample_weight, None)
    return np.asarray(weight, dtype=np.float64)


def weighted_mean(values: npt.NDArray[Any], weight: Floats) -> float:
    """Return ``sum_i w_i v_i / sum_i w_i``; NaN where nothing weighs anything.

    Examples
    --------
    >>> weighted_mean(np.array([1.0, np.inf, 4.0]), np.array([2.0, 0.0, 1.0]))  # a row of weight 0 does not count
    2.0
    """
    if not weight.any():
        return float("nan")
    used = weight > 0
    return float(weight[used] @ values[used].astype(np.float64)) / float(weight.sum())


def checked_scores(scores: Array, labels: Array, sample_weight: Array | None) -> tuple[Floats, Ints, Floats]:
    """Return scores (n_samples, n_classes), labels and weights as NumPy arrays that fit together.

    Raises
    ------
    DataError
        For labels out of range, shapes that differ, weights that cannot be.
    """
    xp, scores = checked_logits(scores)
    if xp is not np:
        scores = scores.detach().cpu().numpy()
    if scores.ndim != 2:
        raise DataError(f"an array of shape (n_samples, n_classes) is needed, but its shape is {scores.shape}")
    labels = checked_labels(np, labels, scores)
    return scores, labels, vector_weight(labels, sample_weight)


def standard_error(values: Floats, weight: Floats) -> float:
    """Return the standard error of a weighted mean: ``sqrt(sum_i w_i^2 (v_i - mean)^2) / sum_i w_i``.

    Examples
    --------
    >>> round(standard_error(np.array([1.0, 3.0]), np.ones(2)), 4)
    0.7071
    """
    return float(np.sqrt(weight**2 @ (values - weighted_mean(values, weight)) ** 2)) / float(weight.sum())


def mean_interval(values: Array, *, sample_weight: Array | None = None, level: float = 0.95) -> tuple[float, float]:
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
    weight = vector_weight(values, sample_weight)
    n = int((weight > 0).sum())
    if n < 2:
        return (float("nan"), float("nan")) if n == 0 else (-float("inf"), float("inf"))
    mean = weighted_mean(values, weight)
    half = _normal_quantile(level) * standard_error(values, weight)
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
