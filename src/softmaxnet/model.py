"""A fitted model: features, layers, calibration and class labels, immutable, on NumPy alone.

::

    X --FeatureEncoder--> dense, sparse --forward--> logits --Calibration--> logits --softmax--> proba

Rows pass through in chunks under a byte budget, so that the activations of a million rows never exist at
once, and no array of rows x classes is built but the one that was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.calibration import Calibration
from softmaxnet.class_tiles import TopClasses, class_logits
from softmaxnet.conformal import PredictionSets, fit_sets
from softmaxnet.decisions import CostMatrix
from softmaxnet.errors import DataError, UsageError
from softmaxnet.features.columns import BadCell
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.memory import allocate_result
from softmaxnet.network import NetworkSpec, forward, head_inputs, parameter_shapes
from softmaxnet.softmax import log_softmax

if TYPE_CHECKING:
    from softmaxnet.explain import Explanation

__all__ = ["SoftmaxModel", "top_classes"]

Floats: TypeAlias = npt.NDArray[Any]

ACTIVATION_BYTES = 16 * 2**20
"""Bytes that the widest layer of one chunk of rows may take."""
MATRIX_SHARE = 8
"""Of a matrix, whose rows cost nothing to cut, so many times fewer: they stay in the cache from layer to layer."""
MOST_CHUNK_ROWS = 32_768
MOST_WHOLE_CLASSES = 16_384
"""With more classes than this the most probable ones are found without the logits of all of them in memory."""
TILED_ROWS = 512
DOUBLE_PRECISION_PARAMETERS = 100_000
"""Networks of at most this many parameters compute in float64: the time goes elsewhere."""


@dataclass(frozen=True, eq=False)
class SoftmaxModel:
    """Features, layers, calibration and class labels: everything that turns rows into probabilities.

    A model is immutable and may be used from many threads at once. It computes in float64 where its network
    has at most 100,000 parameters or where they are float64, and in float32 otherwise; probabilities and
    log-probabilities are float64 in either case.

    Parameters
    ----------
    encoder : FeatureEncoder
    spec : NetworkSpec
    params : mapping of str to float32 or float64 array
        Names and shapes as :func:`softmaxnet.network.parameter_shapes` says.
    calibration : Calibration
    classes : array of shape (n_classes,)
        The user's labels, sorted: int64, float64, bool or str.
    settings : dict
        The resolved parameters of the fit, plain data. Like the next three: for reading only.
    metrics : dict
        What was measured on held-out rows, plain data.
    reader : dict
        How the training file was read, plain data.
    conformal : PredictionSets or None
        What :meth:`predict_set` needs; made by :meth:`calibrate_sets`.

    Examples
    --------
    >>> from softmaxnet.features.encoder import FeatureEncoder
    >>> encoder = FeatureEncoder.fit(np.eye(3), features="raw")
    >>> params = {"layers.0.weight": np.eye(3)[None], "layers.0.bias": np.zeros((1, 3))}
    >>> classes = np.array(["cat", "cow", "dog"])
    >>> model = SoftmaxModel(encoder, NetworkSpec(3, 0, 3), params, Calibration(), classes)
    >>> print(model.predict_proba(np.array([[1.6, 3.1, 0.5]])).round(8))
    [[0.17198205 0.77077009 0.05724785]]
    >>> model.predict(np.array([[1.6, 3.1, 0.5]]))
    array(['cow'], dtype='<U3')
    """

    encoder: FeatureEncoder
    spec: NetworkSpec
    params: Mapping[str, Floats]
    calibration: Calibration
    classes: npt.NDArray[Any]
    settings: dict[str, object] = field(default_factory=dict)
    metrics: dict[str, object] = field(default_factory=dict)
    reader: dict[str, object] = field(default_factory=dict)
    conformal: PredictionSets | None = None

    def __post_init__(self) -> None:
        shapes = parameter_shapes(self.spec)
        params = {name: _constant(self.params[name]) for name in shapes if name in self.params}
        found = {name: array.shape for name, array in params.items()}
        if found != shapes or len(self.params) != len(shapes):
            raise UsageError(f"the parameters must have the names and shapes {shapes}. Got {found} instead.")
        classes = _constant(self.classes)
        sizes = (self.encoder.n_dense, self.encoder.n_sparse, *classes.shape)
        if sizes != (self.spec.n_dense, self.spec.n_sparse, self.spec.n_classes):
            raise UsageError(
                f"encoder and classes have the sizes {sizes}; the network has dense, sparse and class "
                f"sizes {(self.spec.n_dense, self.spec.n_sparse, self.spec.n_classes)}"
            )
        object.__setattr__(self, "params", params)
        object.__setattr__(self, "classes", classes)

    def __getstate__(self) -> dict[str, object]:
        """Return the fields without what is derived from them."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    def __repr__(self) -> str:
        return f"<SoftmaxModel: {self.n_features_in} features, {self.n_classes} classes>"

    @property
    def n_classes(self) -> int:
        """K, the number of classes."""
        return self.spec.n_classes

    @property
    def n_features_in(self) -> int:
        """The number of input columns."""
        return self.encoder.n_features_in

    @property
    def feature_names_in(self) -> tuple[str, ...] | None:
        """The names of the input columns; None for a matrix without names."""
        return self.encoder.feature_names_in

    @cached_property
    def n_parameters(self) -> int:
        """The number of weights and biases."""
        return sum(array.size for array in self.params.values())

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """What the network computes in: float64 where it is small or was fitted in float64, else float32."""
        double = any(array.dtype == np.float64 for array in self.params.values())
        small = self.n_parameters <= DOUBLE_PRECISION_PARAMETERS
        return np.dtype(np.float64 if double or small else np.float32)

    @cached_property
    def _prepared(self) -> dict[str, Floats]:
        """The parameters in the dtype of the computation; float32 ones of a large network are not copied."""
        return {name: _for_products(array, self.dtype) for name, array in self.params.items()}

    @cached_property
    def _is_tiled(self) -> bool:
        """Whether logits are computed tile by tile of the classes: many classes, each by itself once calibrated."""
        own_inputs = self.spec.n_layers == 1 and self.spec.n_sparse > 0
        return self.n_classes > MOST_WHOLE_CLASSES and self.calibration.method != "matrix" and not own_inputs

    @cached_property
    def _chunk_rows(self) -> int:
        spec = self.spec
        # the embedding is shared by the members, the layers are not
        embedded = max(spec.n_dense * spec.n_frequencies, spec.n_inputs)
        widest = max(embedded, spec.n_members * max(spec.layer_sizes[1:]))
        return max(1, min(MOST_CHUNK_ROWS, ACTIVATION_BYTES // (widest * self.dtype.itemsize)))

    def _rows_at_once(self, X: Any) -> int:
        return max(1, self._chunk_rows // MATRIX_SHARE) if type(X) is np.ndarray else self._chunk_rows

    def iter_logits(
        self, X: Any, *, counts: dict[str, int] | None = None, bad: list[BadCell] | None = None
    ) -> Iterator[tuple[int, Floats]]:
        """Yield ``(first row, calibrated logits)`` for one chunk of rows after the other.

        Parameters
        ----------
        X : anything that :func:`softmaxnet.data.frames.as_input` accepts
        counts : dict, optional
            Collects how many values of each column were never seen in training, such as ``{"city": 3}``.
        bad : list, optional
            Collects the cells that cannot be read (:class:`softmaxnet.features.BadCell`), whose rows are then
            to be ignored; without it the first such cell raises.

        Yields
        ------
        tuple of int and array of shape (n_rows_of_chunk, n_classes)
            At least one, also for no rows.

        Raises
        ------
        DataError
            Where columns are missing, cells cannot be read or numbers are too large for the network.
        """
        X = _rows(X)
        n_rows, step = X.shape[0], self._rows_at_once(X)
        if n_rows <= step:
            yield 0, self._logits(X, 0, counts, bad)
            return
        for start in range(0, n_rows, step):
            yield start, self._logits(_slice(X, start, min(start + step, n_rows)), start, counts, bad)
            if start == 0 and self.feature_names_in is not None and hasattr(X, "select"):
                X = X.select(list(self.feature_names_in))  # the first chunk has warned of the other columns

    def decision_function(self, X: Any) -> Floats:
        """Return the logits after calibration, of which :meth:`predict_proba` is the softmax.

        With several members they are ``logsumexp_m(log_softmax(z_m)) - ln M``.

        Returns
        -------
        array of shape (n_rows, n_classes), of the dtype :attr:`dtype`, in nats
        """
        return self._collect(X, lambda logits: logits, self.dtype)

    def predict_log_proba(self, X: Any) -> Floats:
        """Return the natural logarithms of the probabilities; they never underflow.

        ``ln p_j = z_j - ln sum_k exp(z_k)``

        Returns
        -------
        array of shape (n_rows, n_classes), float64, in nats
        """
        return self._collect(X, lambda logits: log_softmax(logits.astype(np.float64)), np.dtype(np.float64))

    def predict_proba(self, X: Any) -> Floats:
        """Return the probability of every class.

        ``p_j = exp(z_j) / sum_k exp(z_k)``

        Returns
        -------
        array of shape (n_rows, n_classes), float64
            Rows sum to 1 up to the rounding of float64.

        Raises
        ------
        ResourceError
            Where the array would take more than half of the free memory; :meth:`predict_topk` needs none.
        """
        return self._collect(X, _softmax_rows, np.dtype(np.float64))

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the most probable label of every row; of equally probable ones the first.

        Returns
        -------
        array of shape (n_rows,), of the dtype of :attr:`classes`
        """
        if self._is_tiled:
            winners = np.concatenate([top[:, 0] for _, top, _ in self.iter_top(X, 1)])
        else:
            winners = np.concatenate([logits.argmax(axis=1) for _, logits in self.iter_logits(X)])
        labels: npt.NDArray[Any] = self.classes[winners]
        return labels

    def explain(self, rows: Any, target: Any = None, **settings: Any) -> list[Explanation]:
        """Return why these rows got their probabilities: a logit as a sum of what every column contributed.

        Parameters
        ----------
        rows : one row (a mapping, a text, a vector) or several
        target : a class, optional
            By default each row's most probable one.
        **settings :
            ``versus``, ``baseline``, ``tolerance`` and ``max_nodes`` of :func:`softmaxnet.explain.explain`.

        Returns
        -------
        list of Explanation, one for each row
        """
        from softmaxnet.explain import explain

        return explain(self, rows, target, **settings)

    def predict_topk(self, X: Any, k: int = 5) -> tuple[npt.NDArray[Any], Floats]:
        """Return the k most probable labels of every row, most probable first, and their probabilities.

        Exact at any number of classes: every logit is computed, and the probabilities are those of
        :meth:`predict_proba`. Among equals the earlier class comes first.

        Parameters
        ----------
        X : anything that :func:`softmaxnet.data.frames.as_input` accepts
        k : int, at least 1
            More than there are classes means all of them.

        Returns
        -------
        labels : array of shape (n_rows, min(k, n_classes))
        probabilities : array of the same shape, float64
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise UsageError(f"k must be a whole number of at least 1. Got {k!r} instead.")
        _, top, proba = zip(*self.iter_top(X, int(k)), strict=True)
        return self.classes[np.concatenate(top)], np.concatenate(proba)

    def iter_top(
        self, X: Any, k: int, *, counts: dict[str, int] | None = None, bad: list[BadCell] | None = None
    ) -> Iterator[tuple[int, npt.NDArray[np.int64], Floats]]:
        """Yield ``(first row, class numbers, probabilities)`` of the k most probable classes, chunk by chunk of rows.

        With many classes their logits come tile by tile, with a running log-sum-exp, so that no row ever has all of
        them in memory: exact, in bounded memory, at any number of classes. Arguments as :meth:`iter_logits`.
        """
        count = min(k, self.n_classes)
        if not self._is_tiled:
            for start, logits in self.iter_logits(X, counts=counts, bad=bad):
                yield start, *top_classes(logits, count)
            return
        X = _rows(X)
        n_rows = X.shape[0]
        for start in range(0, max(n_rows, 1), TILED_ROWS):
            chunk = X if n_rows <= TILED_ROWS else _slice(X, start, min(start + TILED_ROWS, n_rows))
            yield start, *self._top(chunk, start, count, counts, bad)
            if start == 0 and self.feature_names_in is not None and hasattr(X, "select"):
                X = X.select(list(self.feature_names_in))  # the first chunk has warned of the other columns

    def _top(
        self, X: Any, first_row: int, k: int, counts: dict[str, int] | None, bad: list[BadCell] | None
    ) -> tuple[npt.NDArray[np.int64], Floats]:
        """Return the classes of the k highest logits of one chunk and their probabilities, by tiles of the classes."""
        dense, sparse = self._encoded(X, first_row, counts, bad)
        last = f"layers.{self.spec.n_layers - 1}"
        head = self._prepared[f"{last}.weight"], self._prepared[f"{last}.bias"]
        top = TopClasses(dense.shape[0], k)
        with np.errstate(all="ignore"):  # what overflows is found below, with its row
            x = head_inputs(self.spec, self._prepared, dense, sparse)
            for start, logits in class_logits(self.spec, *head, x):
                top.add(start, self.calibration.transform(logits))
            finite = np.isfinite(top.log_sum_exp())
        if not finite.all():
            _refuse_overflow(np.where(finite, 0.0, np.inf)[:, None], first_row)
        return top.result()

    def predict_set(self, X: Any, coverage: float = 0.9, *, allow_empty: bool = False) -> list[npt.NDArray[Any]]:
        """Return for every row the labels that together hold the true one with the given probability.

        Parameters
        ----------
        X : anything that :func:`softmaxnet.data.frames.as_input` accepts
        coverage : float in (0, 1)
        allow_empty : bool
            By default the most probable label is in every set, so that a model that is right more often than
            ``coverage`` covers more than was asked for. True leaves it out where the guarantee does without it.

        Returns
        -------
        list of arrays, one a row, most probable label first

        Raises
        ------
        UsageError
            Where the model has not been prepared for sets, or the coverage is not in (0, 1).
        DataError
            Where there were too few calibration rows for this coverage.
        """
        if self.conformal is None:
            raise UsageError(
                "this model was not prepared for prediction sets.",
                hint="Call calibrate_sets(X_cal, y_cal), run `softmaxnet calibrate --sets` on held-out rows, "
                "or fit with conformal_fraction=0.1.",
            )
        sets: list[npt.NDArray[Any]] = []
        for _, logits in self.iter_logits(X):
            proba = _softmax_rows(logits)
            for members, chances in zip(
                self.conformal.predict(proba, coverage, allow_empty=allow_empty), proba, strict=True
            ):
                inside = np.flatnonzero(members)
                sets.append(self.classes[inside[np.argsort(-chances[inside], kind="stable")]])
        return sets

    def decide(
        self, X: Any, costs: Any, decisions: Sequence[Any] | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        """Return for every row the decision with the lowest expected cost, and that cost.

        Decision d is expected to cost ``sum_k p_k costs[k, d]`` (Elkan 2001, equation 1).

        Parameters
        ----------
        X : anything that :func:`softmaxnet.data.frames.as_input` accepts
        costs : array-like of shape (n_classes, n_decisions), mapping, data frame or CostMatrix
            What each decision costs for each true class, in the order of :attr:`classes`, or by name:
            ``{true class: {decision: cost}}``. With one column more than classes, the last one is to abstain.
        decisions : sequence, optional
            What the columns of an array stand for, where they are not the classes.

        Returns
        -------
        decisions : array of shape (n_rows,)
            Labels; ``"abstain"``, or whatever ``decisions`` says, among them.
        expected_cost : float64 array of shape (n_rows,)
            In the unit of the costs.

        Raises
        ------
        UsageError
            Where the costs do not fit the classes.
        """
        matrix = CostMatrix.of(costs, self.classes, decisions)
        parts = [matrix.decide(_softmax_rows(logits)) for _, logits in self.iter_logits(X)]
        return matrix.decisions[np.concatenate([best for best, _ in parts])], np.concatenate([c for _, c in parts])

    def calibrate_sets(self, X: Any, y: Any, *, method: str = "lac", per_class: bool = False) -> SoftmaxModel:
        """Return this model prepared for :meth:`predict_set` with rows that were used for nothing else.

        Parameters
        ----------
        X, y :
            Calibration rows and their labels, not those of the fit.
        method : "lac", "aps" or "raps"
        per_class : bool
            Whether the coverage is to hold within each class. See :func:`softmaxnet.conformal.fit_sets`.

        Raises
        ------
        DataError
            Where a label is not a class of the model.
        """
        from softmaxnet.data.labels import lookup_labels

        labels = lookup_labels(y, self.classes)
        if (labels < 0).any():
            row = int(np.flatnonzero(labels < 0)[0])
            raise DataError(
                f"row {row}: {np.asarray(y, dtype=object)[row]!r} is not a class of this model "
                f"({int((labels < 0).sum())} such rows of {labels.size}).",
                hint="Leave those rows out: the coverage then speaks of the known classes.",
            )
        sets = fit_sets(self.predict_proba(X), labels, method=method, per_class=per_class)
        return replace(self, conformal=sets)

    def summary(self) -> str:
        """Return a few lines on what the model is."""
        spec = self.spec
        hidden = " x ".join(map(str, spec.hidden_layer_sizes)) or "none"
        names = ", ".join(str(label) for label in self.classes[:5])
        members = f", {spec.n_members} members" if spec.n_members > 1 else ""
        lines = [
            f"classes      {self.n_classes}: {names}{', ...' if self.n_classes > 5 else ''}",
            f"features     {self.n_features_in} columns -> {spec.n_dense} dense, {spec.n_sparse} sparse",
            f"hidden       {hidden}{f' ({spec.activation})' if spec.hidden_layer_sizes else ''}{members}",
            f"parameters   {self.n_parameters:,}, computed in {self.dtype}",
            f"calibration  {self.calibration.method}, temperature {self.calibration.temperature:.4g}",
            f"sets         {'yes' if self.conformal is not None else 'no'}",
        ]
        numbers = [(name, value) for name, value in self.metrics.items() if isinstance(value, float)]
        lines += [f"{name:<12} {value:.4f}" for name, value in numbers]
        return "\n".join(lines)

    def _logits(self, X: Any, first_row: int, counts: dict[str, int] | None, bad: list[BadCell] | None) -> Floats:
        """Return the calibrated logits of one chunk."""
        dense, sparse = self._encoded(X, first_row, counts, bad)
        with np.errstate(all="ignore"):  # what overflows is found below, with its row
            raw = forward(self.spec, self._prepared, dense, sparse)
            logits: Floats = self.calibration.transform(raw)
            finite = math.isfinite(np.vdot(logits, logits))  # squares may overflow: that is looked at below
        if not finite:
            _refuse_overflow(logits, first_row)
        return logits

    def _encoded(
        self, X: Any, first_row: int, counts: dict[str, int] | None, bad: list[BadCell] | None
    ) -> tuple[Floats, Any]:
        """Return the dense block of one chunk, scaled, and its sparse one."""
        dtype = self.dtype
        known = len(bad) if bad is not None else 0
        try:
            encoded = self.encoder.transform(X, dtype=dtype, counts=counts, bad=bad)
        except DataError as error:
            raise _moved_error(error, first_row) from None
        if bad is not None and first_row:
            bad[known:] = [_moved_cell(cell, first_row) for cell in bad[known:]]
        dense = encoded.dense
        if encoded.dense_scale != 1.0 or dense.dtype != dtype:
            dense = np.multiply(dense, dtype.type(encoded.dense_scale), dtype=dtype)
        return dense, encoded.sparse

    def _collect(self, X: Any, of: Callable[[Floats], Floats], dtype: np.dtype[Any]) -> Floats:
        """Return ``of(logits)`` of all rows as one array of shape (n_rows, n_classes)."""
        X = _rows(X)
        n_rows = X.shape[0]
        if n_rows <= self._rows_at_once(X):
            return of(self._logits(X, 0, None, None))
        out = allocate_result((n_rows, self.n_classes), dtype)
        for start, logits in self.iter_logits(X):
            out[start : start + logits.shape[0]] = of(logits)
        return out


def _rows(X: Any) -> Any:
    """Return X as one of the three input types; a plain matrix passes without importing frame libraries."""
    if type(X) is np.ndarray and X.ndim == 2 and X.dtype.char in "fdB":
        return X
    from softmaxnet.data.frames import as_input

    return as_input(X)


def _slice(X: Any, start: int, stop: int) -> Any:
    return X.slice(start, stop - start) if hasattr(X, "column_names") else X[start:stop]


def _moved_cell(cell: BadCell, first_row: int) -> BadCell:
    """Count the row of a bad cell from the first row of all chunks."""
    return cell._replace(row=cell.row + first_row, message=_moved_text(cell.message, cell.row, first_row))


def _moved_error(error: DataError, first_row: int) -> DataError:
    """Count the row that an error names from the first row of all chunks."""
    row = getattr(error, "row", None)
    if isinstance(row, int) and first_row:
        error.message = _moved_text(error.message, row, first_row)
        error.args = (error.message,)
        vars(error)["row"] = row + first_row
    return error


def _moved_text(message: str, row: int, first_row: int) -> str:
    """Return the message of a cell with its row counted from the first row of all chunks.

    Examples
    --------
    >>> _moved_text("column 'age', row 7: 'x' is not a number.", 7, 1000)
    "column 'age', row 1007: 'x' is not a number."
    """
    return message.replace(f", row {row}: ", f", row {row + first_row}: ", 1)


def _for_products(array: Floats, dtype: np.dtype[Any]) -> Floats:
    """Return an array as BLAS takes it, in the dtype: a transposed one is no reason for a copy."""
    if array.dtype == dtype and array.ndim > 1 and array.swapaxes(-1, -2).flags.c_contiguous:
        return array
    return np.ascontiguousarray(array, dtype)


def _constant(array: Any) -> npt.NDArray[Any]:
    """Return a view that cannot be written to."""
    view: npt.NDArray[Any] = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _softmax_rows(logits: Floats) -> Floats:
    """Return the softmax of finite logits in float64.

    The formula of :func:`softmaxnet.softmax.softmax` without its care for infinite logits, which a model
    refuses: for a single row that care would take longer than a small network.
    """
    proba = logits.astype(np.float64)
    proba -= np.maximum.reduce(proba, axis=1, keepdims=True)
    np.exp(proba, out=proba)
    proba /= np.add.reduce(proba, axis=1, keepdims=True)
    return proba


def top_classes(logits: Floats, k: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the classes of the k highest logits of every row, in order, and their probabilities.

    Examples
    --------
    >>> top, proba = top_classes(np.array([[1.6, 3.1, 0.5]]), 2)
    >>> print(top, proba.round(4))
    [[1 0]] [[0.7708 0.172 ]]
    """
    n_classes = logits.shape[1]
    if k < n_classes:
        top = np.argpartition(logits, n_classes - k, axis=1)[:, n_classes - k :]
        lowest = np.take_along_axis(logits, top, axis=1).min(axis=1, keepdims=True, initial=np.inf)
        for row in np.flatnonzero((logits >= lowest).sum(axis=1) > k):  # equals at the border: the first ones
            top[row] = np.argsort(-logits[row], kind="stable")[:k]
        top.sort(axis=1)
    else:
        top = np.broadcast_to(np.arange(n_classes), logits.shape)
    order = np.argsort(-np.take_along_axis(logits, top, axis=1), axis=1, kind="stable")
    top = np.take_along_axis(top, order, axis=1)
    return top, np.take_along_axis(_softmax_rows(logits), top, axis=1)


def _refuse_overflow(logits: Floats, first_row: int) -> None:
    """Raise for the first row whose logits are not finite; do nothing where only their sum was not."""
    rows = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if rows.size:
        raise DataError(
            f"row {first_row + int(rows[0])}: its numbers are too large for this network.",
            hint="Check the units of that row, or fit with features='auto', which bounds every number.",
        )
