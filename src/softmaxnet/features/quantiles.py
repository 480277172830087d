"""Weighted quantiles in which a row of weight k counts exactly as k copies of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmaxnet.errors import DataError

Floats = NDArray[np.float64]

LARGEST = float(np.finfo(np.float64).max)


def check_weights(sample_weight: ArrayLike | None, n_rows: int) -> Floats | None:
    """Return float64 weights that can stand for counts of rows, or None where every row counts once.

    Whole-numbered weights are kept: weight 3 is three copies. Other weights are multiplied by ``n /
    sum(w)`` (n rows of positive weight), since only their proportions mean anything and thresholds such as
    "at least 3 rows" speak of rows.

    Examples
    --------
    >>> check_weights([2, 0, 1], 3)
    array([2., 0., 1.])
    >>> check_weights([0.25, 0.0, 0.75], 3)
    array([0.5, 0. , 1.5])
    """
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (n_rows,):
        raise DataError(f"sample_weight has shape {weights.shape}; expected one number per row, ({n_rows},)")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise DataError("sample_weight has negative, missing or infinite values; weights are finite and >= 0")
    if not (weights > 0).any():
        raise DataError("every sample_weight is zero; at least one row must count")
    if (weights == 1.0).all():
        return None
    if (weights == np.floor(weights)).all():
        return weights
    weights = weights / weights.max()  # so that the sum cannot overflow
    return np.asarray(weights * (np.count_nonzero(weights) / weights.sum()), dtype=np.float64)


def midpoint(low: NDArray[np.floating], high: NDArray[np.floating]) -> Floats:
    """Return (low + high) / 2 without overflow, and exactly ``low`` where both are equal."""
    a, b = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return np.where(a == b, a, a / 2 + b / 2)


def quantiles(ordered: NDArray[np.floating], probabilities: ArrayLike) -> Floats:
    """Quantiles along the last axis of sorted values: the averaged inverse of the distribution function.

    With n values and t = q n: ``Q(q) = (x_(i) + x_(j)) / 2``, i = ceil(t), and j = i + 1 where t is a whole
    number, else i (both kept in 1..n). ``weighted_quantiles`` is the same with weights; Hyndman and Fan
    (1996), definition 2.

    Parameters
    ----------
    ordered : array of shape (..., n), ascending along the last axis
    probabilities : array of shape (p,), in [0, 1]

    Returns
    -------
    array of shape (..., p), float64

    Examples
    --------
    >>> quantiles(np.array([1.0, 2.0, 4.0, 8.0]), [0.25, 0.5, 0.6])
    array([1.5, 3. , 4. ])
    """
    n = ordered.shape[-1]
    target = np.asarray(probabilities, dtype=np.float64) * n
    first = np.maximum(np.ceil(target).astype(np.int64) - 1, 0)
    second = np.minimum(first + ((target == np.ceil(target)) & (target > 0)), n - 1)
    return midpoint(ordered[..., first], ordered[..., second])


def weighted_quantiles(ordered: NDArray[np.floating], cumulative: Floats, probabilities: ArrayLike) -> Floats:
    """Quantiles of sorted values with weights; whole weights are copies to the last bit.

    With t = q W, W the sum of all weights: i is the first row whose cumulative weight is >= t, and the
    value is averaged with the next one where they are equal.

    Parameters
    ----------
    ordered : array of shape (n,), ascending, of positive weights
    cumulative : array of shape (n,), the running sum of those weights
    probabilities : array of shape (p,), in [0, 1]

    Returns
    -------
    array of shape (p,), float64

    Examples
    --------
    >>> weighted_quantiles(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 4.0]), [0.5, 0.75])
    array([2., 3.])
    >>> quantiles(np.array([1.0, 2.0, 2.0, 4.0]), [0.5, 0.75])
    array([2., 3.])
    """
    last = ordered.shape[0] - 1
    target = np.asarray(probabilities, dtype=np.float64) * cumulative[-1]
    first = np.minimum(np.searchsorted(cumulative, target, side="left"), last)
    second = np.minimum(first + (cumulative[first] == target), last)
    return midpoint(ordered[first], ordered[second])
