"""Logits of a network tile by tile of its classes, and the most probable classes: no row ever has all its logits.

For a row, with the tiles' logits coming one after the other::

    c' = max(c, max z)        s' = s exp(c - c') + sum exp(z - c')        lse = c + ln s

and the k highest logits so far are kept beside it. The result is exact: every logit is computed, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from softmaxnet.network import NetworkSpec
from softmaxnet.softmax import log_sigmoid

__all__ = ["TopClasses", "class_logits", "tile_width"]

Array = Any  # a NumPy array or a torch tensor
TILE_BYTES = 8 * 2**20


def tile_width(spec: NetworkSpec, n_rows: int, itemsize: int) -> int:
    """Return how many classes' logits of these rows take 8 MiB, but at least 256.

    Examples
    --------
    >>> tile_width(NetworkSpec(128, 0, 1_000_000), 256, 4)
    8192
    """
    return min(spec.n_classes, max(TILE_BYTES // (spec.n_members * max(n_rows, 1) * itemsize), 256))


def class_logits(
    spec: NetworkSpec, weight: Array, bias: Array, x: Array, tile: int | None = None
) -> Iterator[tuple[int, Array]]:
    """Yield ``(first class, logits of shape (n_rows, tile))``, the columns of :func:`softmaxnet.network.forward`.

    Several members' probabilities are averaged: their log-sum-exps are found in a pass before.

    Parameters
    ----------
    spec : NetworkSpec
    weight : array of shape (n_members, width, n_classes), of the last layer
    bias : array of shape (n_members, n_classes)
    x : array of shape (n_members or 1, n_rows, width)
        What :func:`softmaxnet.network.head_inputs` returns.
    tile : int, optional
        Classes at a time; by default as :func:`tile_width` says.

    Examples
    --------
    >>> weight, bias = np.array([[[1.0, 0, 2], [0, 1, 2]]]), np.zeros((1, 3))
    >>> for start, logits in class_logits(NetworkSpec(2, 0, 3), weight, bias, np.array([[[1.0, 2.0]]]), tile=2):
    ...     print(start, logits)
    0 [[1. 2.]]
    2 [[6.]]
    """
    tile = tile or tile_width(spec, x.shape[1], x.dtype.itemsize)

    def members(start: int) -> Array:
        z = x @ weight[:, :, start : start + tile]
        z += bias[:, None, start : start + tile]
        return z

    starts = range(0, spec.n_classes, tile)
    combine = _combination(spec, members, starts)
    for start in starts:
        yield start, combine(members(start))


def _combination(spec: NetworkSpec, members: Callable[[int], Array], starts: range) -> Callable[[Array], Array]:
    """Return what makes one tile's logits of its members': ``logsumexp_m(log p_m) - ln M``."""
    if spec.output == "sigmoid":
        if spec.n_members == 1:
            return lambda z: log_sigmoid(z)[0]
        return lambda z: _log_mean_exp(log_sigmoid(z))
    if spec.n_members == 1:
        return lambda z: z[0]
    total: Array = None
    for start in starts:
        part = _log_sum_exp(members(start), -1)
        total = part if total is None else _log_sum_exp(_xp(part).stack((total, part)), 0)
    return lambda z: _log_mean_exp(z - total[..., None])


def _xp(array: Array) -> Any:
    if type(array).__module__.startswith("torch"):
        import torch

        return torch
    return np


def _log_sum_exp(z: Array, axis: int) -> Array:
    xp = _xp(z)
    top = xp.amax(z, axis)
    return top + xp.log(xp.exp(z - xp.expand_dims(top, axis) if xp is np else z - top.unsqueeze(axis)).sum(axis))


def _log_mean_exp(z: Array) -> Array:
    """Return the logarithm of the mean over the members, the first axis."""
    return _log_sum_exp(z, 0) - float(np.log(z.shape[0]))


class TopClasses:
    """The k highest logits of each row and the log-sum-exp of all, from tiles (NumPy).

    Parameters
    ----------
    n_rows, k : int

    Examples
    --------
    >>> top = TopClasses(1, 2)
    >>> top.add(0, np.array([[1.6, 3.1]]))
    >>> top.add(2, np.array([[0.5]]))
    >>> labels, proba = top.result()
    >>> labels, proba.round(4)
    (array([[1, 0]]), array([[0.7708, 0.172 ]]))
    """

    def __init__(self, n_rows: int, k: int) -> None:
        self.labels = np.full((n_rows, k), np.iinfo(np.int64).max)
        self.logits = np.full((n_rows, k), -np.inf)
        self.highest = np.full(n_rows, -np.inf)
        self.sum = np.zeros(n_rows)

    def add(self, first: int, logits: npt.NDArray[Any]) -> None:
        """Take in the logits of one tile, whose first class is ``first``."""
        highest = logits.max(axis=1)
        self._keep(first, logits, highest)
        top = np.maximum(self.highest, highest)
        with np.errstate(invalid="ignore"):
            self.sum *= np.exp(self.highest - top)
        shifted = np.subtract(logits, top[:, None], dtype=logits.dtype)
        self.sum += np.exp(shifted, out=shifted).sum(axis=1, dtype=np.float64)
        self.highest = top

    def _keep(self, first: int, logits: npt.NDArray[Any], highest: npt.NDArray[Any]) -> None:
        """Merge what is higher than a row's k-th; of equals the earlier class stays."""
        k = self.labels.shape[1]
        for row in np.flatnonzero(highest > self.logits[:, -1]):
            better = np.flatnonzero(logits[row] > self.logits[row, -1])
            if len(better) > 4 * k:  # few of them can stay
                values = logits[row, better]
                at_least = np.partition(values, len(values) - k)[len(values) - k]
                better = better[values >= at_least]
            values = np.concatenate([self.logits[row], logits[row, better].astype(np.float64)])
            labels = np.concatenate([self.labels[row], better + first])
            order = np.lexsort((labels, -values))[:k]
            self.logits[row], self.labels[row] = values[order], labels[order]

    def result(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the classes, most probable first, and their probabilities."""
        return self.labels, np.exp(self.logits - self.log_sum_exp()[:, None])

    def log_sum_exp(self) -> npt.NDArray[np.float64]:
        """Return the log-sum-exp of all logits of each row."""
        return np.asarray(self.highest + np.log(self.sum))
