"""Why this probability: a logit split into the contributions of the inputs.

A row stands at the end of a straight line from a *baseline*, in the space of the encoded inputs. The difference of a
logit between the two ends is the integral of its gradient along the line, and the gradient has a part for each input::

    logit(x) - logit(b) = sum_j c_j,     c_j = (x_j - b_j) * integral_0^1 d logit / d x_j (b + t (x - b)) dt

(integrated gradients; Sundararajan, Taly and Yan 2017, arXiv:1703.01365, section 3). Without hidden layers the
gradient is the weight ``w_j``, and ``c_j = w_j (x_j - b_j)`` exactly. The logits are those of
``model.decision_function``: members combined, calibrated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from softmaxnet.calibration import Calibration
from softmaxnet.data.frames import as_input, column_names, from_records
from softmaxnet.data.labels import lookup_labels
from softmaxnet.errors import DataError, UsageError
from softmaxnet.features import ngrams
from softmaxnet.features.arrow import canonical_text
from softmaxnet.features.encoded import Encoded
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.matrix import NumberMatrix, PixelMatrix
from softmaxnet.features.numbers import PLAIN_LIMIT, NumberBlock, curve_in_place
from softmaxnet.features.table import TableParts
from softmaxnet.features.text import TextColumn
from softmaxnet.importance import ColumnImportance, Importances, model_of, permutation_importance
from softmaxnet.model import SoftmaxModel
from softmaxnet.network import NetworkSpec, forward, input_gradient
from softmaxnet.softmax import log_softmax

__all__ = ["ColumnImportance", "Explanation", "Importances", "Word", "explain", "permutation_importance"]

Floats: TypeAlias = npt.NDArray[Any]

RUNNER_UP = "runner-up"
"""Stands for the most probable class other than the target, where no class is called so."""
NODES = 8
"""Gauss-Legendre nodes of one piece of the line: exact for polynomials of degree 15."""
DOUBLE_PRECISION_PARAMETERS = 5_000_000
"""Networks of at most this many parameters, the sparse block's apart, are explained in float64."""
BATCH_ELEMENTS = 2**22
"""Numbers in the widest array of one batch of nodes."""


# --- what is returned ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """A word of a text and what it contributed.

    Attributes
    ----------
    column : str
    text : str
        What stands between two white spaces, as it was written; empty for what the baseline's texts contribute.
    start, end : int or None
        ``cell[start:end]`` is the word; None where the cell's characters cannot be told apart so.
    contribution : float, in nats
        Of its own tokens, of the runs of characters in it, and half of each pair of words that it is in.
    """

    column: str
    text: str
    start: int | None
    end: int | None
    contribution: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """One row's logit as a sum: ``logit = baseline_logit + contributions.sum()``, exact up to rounding.

    Attributes
    ----------
    row : int
        Its place among the rows given.
    label, versus : a class, or None
        The class in question, and the one that it is compared with: ``logit`` is then the difference of their logits.
    predicted : a class
        The most probable one.
    probability : float
        Of ``label``.
    logit, baseline_logit : float, in nats
        At the row and at the baseline.
    names : tuple of str, (n_features_in,)
    values : tuple, (n_features_in,)
        The row's cells as they were given; None is a missing one.
    contributions : float64 (n_features_in,), in nats
        Positive ones speak for ``label``.
    words : tuple of Word
        Of every text column; those of one column sum to its contribution.
    method : "exact" or "integrated gradients"
    n_nodes : int
        Points on the line where the gradient was taken.
    completeness_error : float, in nats
        By how much the integral missed the difference of the logits, before that rest was spread over the
        contributions in proportion to their size.
    image_shape : tuple of int or None
        ``(height, width)`` or ``(height, width, channels)`` of a row that is a picture.
    """

    row: int
    label: Any
    versus: Any
    predicted: Any
    probability: float
    logit: float
    baseline_logit: float
    names: tuple[str, ...]
    values: tuple[Any, ...]
    contributions: npt.NDArray[np.float64]
    words: tuple[Word, ...]
    method: str
    n_nodes: int
    completeness_error: float
    image_shape: tuple[int, ...] | None = None

    def top(self, n: int | None = None) -> list[tuple[str, Any, float]]:
        """Return ``(name, value, contribution)`` of the n largest contributions, those that are not 0."""
        size = np.abs(self.contributions)
        order = [int(j) for j in np.argsort(-size, kind="stable")[: size.size if n is None else n] if size[j] > 0]
        return [(self.names[j], self.values[j], float(self.contributions[j])) for j in order]

    def picture(self, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.float64]:
        """Return the contribution of every pixel, (height, width); the channels of a pixel are summed.

        Parameters
        ----------
        shape : (height, width) or (height, width, channels), optional
            By default the shape that the training pictures had, where the model knows it, or a square.

        Raises
        ------
        UsageError
            Where the row has another number of inputs.
        """
        shape = shape or self.image_shape or _square(self.contributions.size)
        if shape is None or math.prod(shape) != self.contributions.size or len(shape) not in (2, 3):
            raise UsageError(
                f"{self.contributions.size} inputs are not a picture of shape {shape}.",
                hint="Give picture(shape=(height, width)).",
            )
        pixels = self.contributions.reshape(shape)
        return pixels if len(shape) == 2 else pixels.sum(axis=2)

    def to_dict(self, n: int | None = None) -> dict[str, Any]:
        """Return plain data for JSON: the n largest contributions, the words and, of a picture, all pixels."""
        rows = [{"name": name, "value": _plain(value), "contribution": part} for name, value, part in self.top(n)]
        return {
            "row": self.row,
            "label": _plain(self.label),
            "versus": _plain(self.versus),
            "predicted": _plain(self.predicted),
            "probability": self.probability,
            "logit": self.logit,
            "baseline_logit": self.baseline_logit,
            "contributions": rows,
            "words": [dict(vars(word)) for word in self.words],
            "picture": None if self.image_shape is None else self.picture().tolist(),
            "method": self.method,
            "n_nodes": self.n_nodes,
            "completeness_error": self.completeness_error,
        }


def _plain(value: Any) -> Any:
    """Return a cell or a label as JSON has it.

    Examples
    --------
    >>> import datetime
    >>> [_plain(value) for value in (np.int64(3), float("nan"), datetime.date(2024, 2, 29), None)]
    [3, None, '2024-02-29', None]
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _square(n: int) -> tuple[int, ...] | None:
    side = math.isqrt(n)
    return (side, side) if side * side == n else None


# --- explaining rows ----------------------------------------------------------------------------------------


def explain(
    model: Any,
    rows: Any,
    target: Any = None,
    *,
    versus: Any = None,
    baseline: Any = None,
    tolerance: float = 1e-3,
    max_nodes: int = 20_000,
) -> list[Explanation]:
    """Split a logit of every row into the contributions of its columns, words or pixels.

    ``logit(x) = logit(b) + sum_j c_j``; see the top of this module. Several encoded inputs of one column (a number and
    its indicator of missing values, the levels of a category, the tokens of a text) are summed.

    Parameters
    ----------
    model : SoftmaxModel, or an estimator that has one as ``model_``
    rows : anything that :func:`softmaxnet.data.frames.as_input` accepts
        A single row may be a mapping, a Series, a text or an array of one dimension.
    target : a class, optional
        By default each row's own most probable class.
    versus : a class or "runner-up", optional
        Explain the difference between the target's logit and this class's. A single logit says how much speaks for a
        class; only a difference says why it is this class *rather than* that one. "runner-up" is the most probable
        other class.
    baseline : rows as for ``rows``, optional
        What to compare with: the mean of these rows' encoded inputs. By default a row that says nothing: numbers, truth
        values and dates at their training medians, categories at the average of their levels, no words, a black
        picture, an empty sparse row.
    tolerance : float
        The line is cut into pieces, of eight Gauss-Legendre nodes each, until the completeness error is below this
        share of the difference of the logits.
    max_nodes : int
        Where this many nodes do not suffice, the best integral is returned; ``completeness_error`` tells.

    Returns
    -------
    list of Explanation, one for each row

    Raises
    ------
    UsageError
        For a target or a versus that is not a class, or the same one twice.
    DataError
        For rows that the model cannot read.

    References
    ----------
    Sundararajan, Taly, Yan (2017), "Axiomatic attribution for deep networks", arXiv:1703.01365.

    Examples
    --------
    Softmax regression with logits x_0 + 2 x_1 and 3 x_2: of the first, 2 times 5 comes from column 1.

    >>> encoder = FeatureEncoder.fit(np.eye(3), features="raw")
    >>> params = {"layers.0.weight": np.array([[[1.0, 0], [2, 0], [0, 3]]]), "layers.0.bias": np.zeros((1, 2))}
    >>> model = SoftmaxModel(encoder, NetworkSpec(3, 0, 2), params, Calibration(), np.array(["a", "b"]))
    >>> found = explain(model, np.array([4.0, 5.0, 1.0]))[0]
    >>> found.label, found.logit, found.contributions.tolist(), found.method
    ('a', 14.0, [4.0, 10.0, 0.0], 'exact')
    >>> explain(model, np.array([4.0, 5.0, 1.0]), versus="b")[0].contributions.tolist()
    [4.0, 10.0, -3.0]
    """
    model = model_of(model)
    X = _as_rows(model, rows)
    wanted = None if target is None else _class_of(model, target)
    other = None if versus is None or _is_runner_up(model, versus) else _class_of(model, versus)
    setting = _Setting.of(model, baseline)
    encoded = model.encoder.transform(X, dtype=np.float64)
    explained: list[Explanation] = []
    for row, (dense, sparse) in enumerate(_encoded_rows(encoded, setting.dtype)):
        logits = setting.logits(dense, sparse)
        top = int(logits.argmax())
        j = top if wanted is None else wanted
        k = other if versus is None or other is not None else _runner_up(logits, j)
        if j == k:
            raise UsageError(f"target and versus are both {_label(model, j)!r}; they must be two classes.")
        line = setting.line(dense, sparse, _contrast(model.n_classes, j, k))
        integral = _integrate(line, tolerance, max_nodes)
        proba = float(np.exp(log_softmax(logits.astype(np.float64))[j]))
        about = (_label(model, j), None if k is None else _label(model, k), _label(model, top), proba)
        explained.append(_explanation(setting, X, row, about, line, integral))
    return explained


def _as_rows(model: SoftmaxModel, rows: Any) -> Any:
    """Return rows as an X; a single row may come as a mapping, a Series, a text or an array of one dimension."""
    if isinstance(rows, str):
        return as_input([rows])
    if isinstance(rows, Mapping) and not any(_is_column(value) for value in rows.values()):
        return from_records([rows])
    if getattr(rows, "ndim", None) == 1:
        known = set(model.feature_names_in or ())
        if hasattr(rows, "to_dict") and known <= set(map(str, getattr(rows, "index", ()))):
            return from_records([{str(name): value for name, value in rows.to_dict().items()}])
        if isinstance(rows, np.ndarray) and rows.dtype.kind in "fiub":
            return rows[None, :]
    return as_input(rows)


def _is_column(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | bytes)


def _class_of(model: SoftmaxModel, label: Any) -> int:
    """Return the place of a class."""
    try:
        place = int(lookup_labels([label], model.classes)[0])
    except DataError:
        place = -1
    if place < 0:
        shown = ", ".join(repr(known) for known in model.classes[:10].tolist())
        more = ", ..." if model.n_classes > 10 else ""
        raise UsageError(f"{label!r} is not a class of this model.", hint=f"Its classes are {shown}{more}.")
    return place


def _is_runner_up(model: SoftmaxModel, versus: Any) -> bool:
    named = model.classes.dtype.kind in "UO" and RUNNER_UP in model.classes.tolist()
    return isinstance(versus, str) and versus == RUNNER_UP and not named


def _runner_up(logits: Floats, target: int) -> int:
    others = logits.astype(np.float64)
    others[target] = -np.inf
    return int(others.argmax())


def _contrast(n_classes: int, j: int, k: int | None) -> Floats:
    """Return the weights of the logits whose weighted sum is explained."""
    weights = np.zeros(n_classes)
    weights[j] = 1.0
    if k is not None:
        weights[k] = -1.0
    return weights


def _label(model: SoftmaxModel, index: int) -> Any:
    label = model.classes[index]
    return label.item() if isinstance(label, np.generic) else label


def _encoded_rows(encoded: Encoded, dtype: np.dtype[Any]) -> Iterator[tuple[Floats, csr_array | None]]:
    """Yield every row's dense inputs, (n_dense,), and its row of the sparse block."""
    for row in range(encoded.n_rows):
        dense = encoded.dense[row].astype(dtype) * dtype.type(encoded.dense_scale)
        yield dense, None if encoded.sparse is None else encoded.sparse[[row], :].astype(dtype)


# --- the baseline -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Setting:
    """A model and a baseline, ready for many rows.

    Attributes
    ----------
    params : the layers' parameters in ``dtype``, without the sparse block's
    table : (n_sparse, n_members * first layer) or None
    dense : (n_dense,), the baseline's dense inputs
    mix_sources : (n_mixed,)
        Columns that the baseline has sparse inputs of.
    mix_rows : (n_mixed, n_members * first layer)
        What they add to the first layer.
    """

    model: SoftmaxModel
    dtype: np.dtype[Any]
    params: Mapping[str, Floats]
    table: Floats | None
    dense: Floats
    mix_sources: npt.NDArray[np.int64]
    mix_rows: Floats
    dense_sources: npt.NDArray[np.int64]
    sparse_sources: npt.NDArray[np.int64]

    @classmethod
    def of(cls, model: SoftmaxModel, baseline: Any) -> _Setting:
        """Prepare a model and the baseline that the user gave, or the one that says nothing."""
        layers = {name: value for name, value in model.params.items() if name != "sparse.weight"}
        small = sum(value.size for value in layers.values()) <= DOUBLE_PRECISION_PARAMETERS
        dtype = np.dtype(np.float64) if small else model.dtype
        encoder, table = model.encoder, model.params.get("sparse.weight")
        if baseline is None:
            dense, mix = _neutral_dense(encoder), _neutral_sparse(encoder)
        else:
            encoded = encoder.transform(_as_rows(model, baseline), dtype=np.float64)
            if not encoded.n_rows:
                raise DataError("the baseline has no rows; at least one is needed")
            dense = encoded.dense.mean(axis=0, dtype=np.float64) * encoded.dense_scale
            mix = np.zeros(0) if encoded.sparse is None else encoded.sparse.mean(axis=0)
        sources, at = encoder.sparse_sources(), np.flatnonzero(mix)
        mixed = np.unique(sources[at])
        rows = np.zeros((mixed.size, 0), dtype)
        if table is not None:
            entries = (mix[at].astype(table.dtype), (np.searchsorted(mixed, sources[at]), at))
            rows = (csr_array(entries, shape=(mixed.size, mix.size)) @ table).astype(dtype)
        params = {name: np.asarray(value, dtype) for name, value in layers.items()}
        return cls(model, dtype, params, table, dense.astype(dtype), mixed, rows, encoder.dense_sources(), sources)

    def logits(self, dense: Floats, sparse: csr_array | None) -> Floats:
        """Return the calibrated logits of one row, (n_classes,)."""
        spec, params = self._local(np.empty(0, np.int64) if sparse is None else sparse.indices)
        block = _full_rows(self._values(sparse)[None, :])
        raw = forward(spec, params, dense[None, :], block)
        return np.asarray(self.model.calibration.transform(raw)[0])

    def line(self, dense: Floats, sparse: csr_array | None, weights: Floats) -> _Line:
        """Return the line from the baseline to one row, of a weighted sum of the logits."""
        active = np.empty(0, np.int64) if sparse is None else sparse.indices
        spec, params = self._local(active)
        end = np.concatenate([dense, self._values(sparse)])
        start = np.concatenate([self.dense, np.zeros(active.size), np.ones(self.mix_sources.size)]).astype(self.dtype)
        return _Line(spec, params, self.model.calibration, weights.astype(self.dtype), start, end, active)

    def _values(self, sparse: csr_array | None) -> Floats:
        own = np.empty(0, self.dtype) if sparse is None else sparse.data
        return np.concatenate([own, np.zeros(self.mix_sources.size, self.dtype)])

    def _local(self, active: npt.NDArray[Any]) -> tuple[NetworkSpec, Mapping[str, Floats]]:
        """Return the network over the sparse inputs of one row, and one for each column of the baseline's."""
        spec = replace(self.model.spec, n_sparse=active.size + self.mix_sources.size)
        if self.table is None:
            return spec, self.params
        own = self.table[active].astype(self.dtype)
        return spec, {**self.params, "sparse.weight": np.concatenate([own, self.mix_rows])}


def _full_rows(values: Floats) -> csr_array | None:
    """Return sparse rows that store every entry, zeros included; None without columns."""
    n_rows, n_columns = values.shape
    if not n_columns:
        return None
    indices = np.tile(np.arange(n_columns), n_rows)
    return csr_array((values.reshape(-1), indices, np.arange(n_rows + 1) * n_columns), shape=values.shape)


def _neutral_dense(encoder: FeatureEncoder) -> Floats:
    """Return the dense inputs of a row that says nothing."""
    parts = encoder.parts
    dense = np.zeros(encoder.n_dense)
    if isinstance(parts, NumberMatrix | TableParts):
        dense[: parts.block.n_out] = _neutral_numbers(parts.block)
    if isinstance(parts, TableParts):
        at = parts.block.n_out
        for column, is_dense in zip(parts.categories, parts.dense, strict=True):
            if is_dense:
                dense[at : at + column.n_slots] = _neutral_slots(len(column.levels), column.n_slots)
                at += column.n_slots
    return dense


def _neutral_numbers(block: NumberBlock) -> Floats:
    """Return a number block's output for missing values, without the indicators that they are missing."""
    values = block.fill.copy()
    curve_in_place(values[: block.n_curved])
    bounded = slice(block.n_curved, block.n_curved + block.n_plain)
    values[bounded] = np.clip(values[bounded], -PLAIN_LIMIT, PLAIN_LIMIT)
    return np.concatenate([values, np.zeros(block.flagged.size), block.bin_fill])


def _neutral_slots(n_levels: int, n_slots: int) -> Floats:
    """Return the average of a category's levels; of all its slots where it has no levels."""
    slots = np.zeros(n_slots)
    slots[: n_levels or n_slots] = 1 / (n_levels or n_slots)
    return slots


def _neutral_sparse(encoder: FeatureEncoder) -> Floats:
    """Return the sparse inputs of a row that says nothing: averages of wide categories, no words."""
    mix = np.zeros(encoder.n_sparse)
    if isinstance(encoder.parts, TableParts):
        at = 0
        for column, is_dense in zip(encoder.parts.categories, encoder.parts.dense, strict=True):
            if not is_dense:
                mix[at : at + column.n_slots] = _neutral_slots(len(column.levels), column.n_slots)
                at += column.n_slots
    return mix


# --- the integral -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Line:
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
            yield part, points[:, : spec.n_dense], _full_rows(points[:, spec.n_dense :])

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
class _Integral:
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

    def integrate(self, line: _Line, order: int) -> None:
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

    def halves(self, line: _Line) -> _Pieces:
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


def _integrate(line: _Line, tolerance: float, max_nodes: int) -> _Integral:
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
    return _Integral(parts, first, last, abs(rest), n_nodes)


# --- from encoded inputs to columns, words and pixels -------------------------------------------------------


def _explanation(
    setting: _Setting, X: Any, row: int, about: tuple[Any, Any, Any, float], line: _Line, integral: _Integral
) -> Explanation:
    """Sum the contributions of encoded inputs by column and by word."""
    model, n_dense = setting.model, line.spec.n_dense
    own, mixed = np.split(integral.parts[n_dense:], [line.active.size])
    sources = [setting.dense_sources, setting.sparse_sources[line.active], setting.mix_sources]
    parts = [integral.parts[:n_dense], own, mixed]
    source, part = np.concatenate(sources), np.concatenate(parts)
    known = source >= 0
    columns = np.bincount(source[known], part[known], model.n_features_in).astype(np.float64)
    values = _cells(model, X, row)
    label, versus, predicted, proba = about
    return Explanation(
        row=row,
        label=label,
        versus=versus,
        predicted=predicted,
        probability=proba,
        logit=integral.last,
        baseline_logit=integral.first,
        names=tuple(column.name for column in model.encoder.columns),
        values=values,
        contributions=columns,
        words=tuple(_words_of_row(model.encoder, values, line.active, own, columns)),
        method="exact" if line.is_linear else "integrated gradients",
        n_nodes=integral.n_nodes,
        completeness_error=integral.error,
        image_shape=_image_shape(model),
    )


def _cells(model: SoftmaxModel, X: Any, row: int) -> tuple[Any, ...]:
    """Return the cells of a row in the order of training, as plain values."""
    names = column_names(X)
    if names is not None:
        order = model.feature_names_in or names
        return tuple(X.column(name)[row].as_py() for name in order)
    cells = X[[row], :].toarray()[0] if hasattr(X, "toarray") else X[row]
    return tuple(None if value != value else value for value in cells.tolist())


def _image_shape(model: SoftmaxModel) -> tuple[int, ...] | None:
    """Return the shape of the model's pictures, where its rows are pictures."""
    told = model.reader.get("image_shape")
    if isinstance(told, list | tuple) and math.prod(told) == model.n_features_in:
        return tuple(told)
    return _square(model.n_features_in) if isinstance(model.encoder.parts, PixelMatrix) else None


def _words_of_row(
    encoder: FeatureEncoder, values: tuple[Any, ...], active: npt.NDArray[Any], own: Floats, columns: Floats
) -> Iterator[Word]:
    """Yield the words of every text column of a row; those of one column sum to its contribution."""
    parts = encoder.parts
    if not isinstance(parts, TableParts):
        return
    wide = zip(parts.categories, parts.dense, strict=True)
    first = sum(column.n_slots for column, is_dense in wide if not is_dense)
    for text in parts.texts:
        inside = (active >= first) & (active < first + text.n_tokens)
        name = parts.names[text.source]
        words = _words(text, values[text.source], active[inside] - first, own[inside], name)
        yield from words
        rest = float(columns[text.source]) - sum(word.contribution for word in words)
        if abs(rest) > 1e-9:
            yield Word(name, "", None, None, rest)
        first += text.n_tokens


def _words(text: TextColumn, cell: Any, places: npt.NDArray[Any], own: Floats, name: str) -> list[Word]:
    """Return the words of one cell with the contributions of its tokens, shared out among their occurrences."""
    if cell is None or not canonical_text(cell):
        return []
    pieces = ngrams.prepare(canonical_text(cell)).split()
    hashes, left, right = _occurrences(pieces)
    place = np.searchsorted(text.hashes, hashes)
    place[place == text.n_tokens] = 0
    known = text.hashes[place] == hashes if text.n_tokens else np.zeros(place.size, dtype=bool)
    of_place = np.zeros(text.n_tokens)
    of_place[places] = own
    counts = np.bincount(place[known], minlength=text.n_tokens)
    half = of_place[place[known]] / counts[place[known]] / 2
    found = np.bincount(np.concatenate([left[known], right[known]]), np.concatenate([half, half]), len(pieces))
    written = [(match.group(), *match.span()) for match in re.finditer(r"\S+", str(cell))]
    if len(written) != len(pieces):  # a cell whose white space changes with its normal form
        return [Word(name, piece, None, None, float(c)) for piece, c in zip(pieces, found, strict=True)]
    return [Word(name, *span, float(c)) for span, c in zip(written, found, strict=True)]


def _occurrences(
    pieces: list[str],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the hash of every token of a text, as often as it occurs, and the one or two pieces that it spans.

    Examples
    --------
    >>> hashes, left, right = _occurrences(["a", "b"])     # words a and b, runs ' a ' and ' b ', the pair
    >>> left.tolist(), right.tolist()
    ([0, 1, 0, 1, 0], [0, 1, 0, 1, 1])
    """
    gram_hashes, gram_owner = ngrams._grams(pieces)
    states, word_owner = ngrams._words(pieces)
    words = np.arange(states.size)
    pair_hashes, _ = ngrams._pairs(states, words, np.zeros(states.size, dtype=np.int64))
    hashes = np.concatenate([gram_hashes, ngrams.finish(states), pair_hashes])
    left = np.concatenate([gram_owner, word_owner, word_owner[:-1]])
    right = np.concatenate([gram_owner, word_owner, word_owner[1:]])
    return hashes, left, right
