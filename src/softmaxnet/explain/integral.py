"""Integrated gradients: the contributions of the inputs along a line through a network.

::

    c_j = (x_j - b_j) * integral_0^1 d logit / d x_j (b + t (x - b)) dt

The gradient is the closed form of ``network.input_gradient``; the integral is taken by Gauss-Legendre quadrature on
pieces of the line, which are halved until the contributions add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from softmaxnet.calibration import Calibration
from softmaxnet.network import NetworkSpec, forward, input_gradient

__all__ = ["Integral", "Line", "full_rows", "integrate"]

Floats: TypeAlias = npt.NDArray[Any]

NODES = 8
"""Gauss-Legendre nodes of one piece of the line: exact for polynomials of degree 15."""
BATCH_ELEMENTS = 2**22
"""Numbers in the widest array of one batch of nodes."""


def full_rows(values: Floats) -> csr_array | None:
    """Return sparse rows that store every entry, zeros included; None without columns."""
    n_rows, n_columns = values.shape
    if not n_columns:
        return None
    indices = np.tile(np.arange(n_columns), n_rows)
    return csr_array((values.reshape(-1), indices, np.arange(n_rows + 1) * n_columns), shape=values.shape)


@dataclass(frozen=True, eq=False)
class Line:
    """The line from ``start`` to ``end`` through the inputs of a network, and the sum of logits that is followed.

    The inputs are the dense ones, the row's own sparse ones (``active``) and one for each column of the baseline's.
    """

    spec: NetworkSpec
    params: Mapping[str, Floats]
    calibration: Calibration
    weights: Floats
    start: Floats
    end: Floats
    active: npt.NDArray[Any]

    @property
    def is_linear(self) -> bool:
        """Whether the gradient is the same everywhere."""
        spec = self.spec
        flat = not spec.hidden_layer_sizes or spec.activation == "identity"
        return flat and spec.n_members == 1 and spec.output == "softmax" and not spec.embedding_size

    def _points(self, t: Floats) -> Iterator[tuple[slice, Floats, csr_array | None]]:
        """Yield points of the line as dense rows and sparse rows, a batch at a time."""
        spec = self.spec
        first = spec.n_members * spec.layer_sizes[1]
        embedded = spec.n_dense * max(spec.n_frequencies, 1 + spec.embedding_size)
        widest = max(embedded, spec.n_members * max(spec.layer_sizes[1:]), spec.n_sparse + first)
        step = max(1, BATCH_ELEMENTS // widest)
        for first_point in range(0, t.size, step):
            part = slice(first_point, first_point + step)
            points = self.start + t[part, None].astype(self.start.dtype) * (self.end - self.start)
            yield part, points[:, : spec.n_dense], full_rows(points[:, spec.n_dense :])

    def values(self, t: Floats) -> npt.NDArray[np.float64]:
        """Return the weighted sum of calibrated logits at points of the line, (n_points,)."""
        found = np.empty(t.size)
        for part, dense, sparse in self._points(t):
            logits = self.calibration.transform(forward(self.spec, self.params, dense, sparse))
            found[part] = logits @ self.weights
        return found

    def gradients(self, t: Floats) -> Floats:
        """Return its gradient at every input, (n_points, n_inputs)."""
        spec = self.spec
        found = np.empty((t.size, self.start.size), self.start.dtype)
        weights = _before_calibration(self.calibration, self.weights)
        for part, dense, sparse in self._points(t):
            d_logits = np.broadcast_to(weights, (dense.shape[0], spec.n_classes))
            d_dense, d_sparse = input_gradient(spec, self.params, dense, sparse, d_logits=d_logits)
            found[part, : spec.n_dense] = d_dense
            if d_sparse is not None:
                found[part, spec.n_dense :] = d_sparse.data.reshape(d_dense.shape[0], -1)
        return found


def _before_calibration(calibration: Calibration, weights: Floats) -> Floats:
    """Return the weights of the uncalibrated logits: every calibration is linear but for a constant.

    Examples
    --------
    >>> _before_calibration(Calibration("temperature", 0.5), np.array([1.0, -1.0]))
    array([ 0.5, -0.5])
    """
    if calibration.matrix is None:
        return weights * calibration.inverse_temperature
    mixed = weights @ calibration.matrix.astype(weights.dtype)
    return np.asarray((mixed - mixed.mean()) * calibration.inverse_temperature)


@dataclass(frozen=True)
class Integral:
    """Contributions of the inputs of a line, and how far their sum was off."""

    parts: npt.NDArray[np.float64]
    first: float
    last: float
    error: float
    n_nodes: int


@dataclass(eq=False)
class _Pieces:
    """Pieces of the line, each with the logits at its ends, its contributions and the error of their sum."""

    low: Floats
    high: Floats
    at_low: Floats
    at_high: Floats
    parts: Floats = field(init=False)
    error: Floats = field(init=False)

    def integrate(self, line: Line, order: int) -> None:
        """Compute contributions and errors by Gauss-Legendre quadrature."""
        nodes, weights = np.polynomial.legendre.leggauss(order)
        half = (self.high - self.low) / 2
        t = (self.low + half)[:, None] + half[:, None] * nodes
        gradients = line.gradients(t.reshape(-1)).reshape(t.shape[0], order, -1)
        mean = np.einsum("pqj,pq->pj", gradients, half[:, None] * weights)
        self.parts = mean.astype(np.float64) * (line.end - line.start)
        self.error = np.abs(self.parts.sum(axis=1) - (self.at_high - self.at_low))

    def take(self, keep: npt.NDArray[np.bool_]) -> _Pieces:
        """Return some of the pieces."""
        some = _Pieces(self.low[keep], self.high[keep], self.at_low[keep], self.at_high[keep])
        some.parts, some.error = self.parts[keep], self.error[keep]
        return some

    def halves(self, line: Line) -> _Pieces:
        """Return both halves of every piece, not yet integrated."""
        middle = (self.low + self.high) / 2
        at_middle = line.values(middle)
        ends = ((self.low, middle), (middle, self.high), (self.at_low, at_middle), (at_middle, self.at_high))
        return _Pieces(*(np.concatenate(pair) for pair in ends))

    def joined(self, other: _Pieces) -> _Pieces:
        """Return these pieces and others."""
        names = ("low", "high", "at_low", "at_high", "parts", "error")
        both = [np.concatenate([getattr(self, name), getattr(other, name)]) for name in names]
        pieces = _Pieces(*both[:4])
        pieces.parts, pieces.error = both[4:]
        return pieces


def integrate(line: Line, tolerance: float, max_nodes: int) -> Integral:
    """Halve the pieces with the largest errors until all errors together are below the tolerance.

    A piece's error is what its own contributions miss of its own difference of logits, so that errors of opposite sign
    cannot hide each other. Smooth networks need a piece or two; each kink of a ReLU network is closed in on.
    """
    order = 1 if line.is_linear else NODES
    first, last = line.values(np.array([0.0, 1.0])).tolist()
    rounding = 100 * float(np.finfo(line.start.dtype).eps) * (1 + abs(first) + abs(last))
    limit = max(tolerance * abs(last - first), rounding)
    pieces = _Pieces(*(np.array([value]) for value in (0.0, 1.0, first, last)))
    pieces.integrate(line, order)
    n_nodes = order
    while pieces.error.sum() > limit:
        ascending = np.argsort(pieces.error, kind="stable")
        settled = ascending[np.cumsum(pieces.error[ascending]) <= limit / 2]
        split = np.ones(pieces.error.size, dtype=bool)
        split[settled] = False
        if n_nodes + 2 * order * int(split.sum()) > max_nodes:
            break
        halves = pieces.take(split).halves(line)
        halves.integrate(line, order)
        n_nodes += order * halves.low.size
        pieces = pieces.take(~split).joined(halves)
    parts = pieces.parts.sum(axis=0)
    rest = (last - first) - float(parts.sum())
    size = np.abs(parts)
    if size.any():
        parts = parts + rest * (size / size.sum())
    return Integral(parts, first, last, abs(rest), n_nodes)
