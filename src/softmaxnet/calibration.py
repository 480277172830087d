"""Calibration: logits -> logits, so that of the cases called 77 % about 77 % are right.

Three maps, from simple to rich, each fitted by minimising the log loss of held-out rows:

* ``none``: the logits as they are;
* ``temperature``: ``z -> b z`` with one inverse temperature ``b = 1 / T > 0``. The order of the classes never
  changes.
* ``matrix``: structured matrix scaling, ``z -> M (b z - mean) + c``, whose penalties draw ``M`` to the
  identity and ``c`` to 0, that is to temperature scaling. The order of the classes can change.

``method="auto"`` lets them race by cross-validation, and a richer map has to win by more than the standard
error of its gain. None of the three gives a class the probability 0, also not a class that no held-out row
belongs to: ``b`` is finite and the intercepts are penalised, so a surprise costs a finite number of nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import DataError, ModelFileError, UsageError
from softmaxnet.logit_arguments import Array, checked_labels, checked_logits, checked_weight
from softmaxnet.means import standard_error, weighted_mean
from softmaxnet.softmax import cross_entropy, cross_entropy_gradient

__all__ = [
    "Calibration",
    "best_inverse_temperature",
    "fit_calibration",
    "fit_temperature",
    "fixed_folds",
    "held_out_log_loss_after_temperature",
    "log_loss_parts",
]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]

METHODS = ("none", "temperature", "matrix")

_PRIOR_ROWS = 0.5  # what the prior of the inverse temperature weighs, in rows
_BLOCK_ELEMENTS = 2**16  # half a megabyte of float64: a block and its exponentials stay in the cache
_N_FOLDS = 5
_MATRIX_MAX_CLASSES = 100
_MATRIX_MIN_ROWS = 300
_MATRIX_MIN_ROWS_PER_CLASS = 20
_MATRIX_MAX_WORK = 10**8  # rows x classes^2 of one evaluation; more rows are sampled down to it


# --- the map ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Calibration:
    """A map from logits to logits; the identity by default; immutable plain data.

    Parameters
    ----------
    method : "none", "temperature" or "matrix"
    inverse_temperature : float, > 0
        ``b = 1 / T``; the logits are multiplied by it.
    matrix : array of shape (n_classes, n_classes), for "matrix" only
    intercept : array of shape (n_classes,), in nats, for "matrix" only

    Examples
    --------
    >>> print(Calibration("temperature", 0.5).transform(np.array([1.6, 3.1, 0.5])))
    [0.8  1.55 0.25]
    """

    method: str = "none"
    inverse_temperature: float = 1.0
    matrix: Floats | None = None
    intercept: Floats | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"calibration method must be one of {', '.join(METHODS)}. Got {self.method!r} instead"
            )
        if not (np.isfinite(self.inverse_temperature) and self.inverse_temperature > 0):
            raise UsageError(
                f"inverse_temperature must be finite and positive. Got {self.inverse_temperature!r} instead"
            )
        if (self.method == "matrix") != (self.matrix is not None and self.intercept is not None):
            raise UsageError("the method 'matrix', and only that one, has a matrix and an intercept")
        if self.method == "none" and self.inverse_temperature != 1.0:
            raise UsageError("the method 'none' has the inverse temperature 1")
        object.__setattr__(self, "inverse_temperature", float(self.inverse_temperature))
        if self.matrix is not None and self.intercept is not None:
            object.__setattr__(self, "matrix", _constant(self.matrix))
            object.__setattr__(self, "intercept", _constant(self.intercept))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Calibration):
            return NotImplemented
        return (
            (self.method, self.inverse_temperature) == (other.method, other.inverse_temperature)
            and _same(self.matrix, other.matrix)
            and _same(self.intercept, other.intercept)
        )

    def __hash__(self) -> int:
        return hash((self.method, self.inverse_temperature))

    @property
    def temperature(self) -> float:
        """``T = 1 / b``: above 1 where the logits were too sure of themselves."""
        return 1.0 / self.inverse_temperature

    def sharpened(self, factor: float) -> Calibration:
        """Return the map of the logits times a factor: ``b`` becomes ``factor b``.

        Examples
        --------
        >>> Calibration("temperature", 0.5).sharpened(1.5).inverse_temperature
        0.75
        """
        if factor == 1.0:
            return self
        method = "temperature" if self.method == "none" else self.method
        return replace(self, method=method, inverse_temperature=factor * self.inverse_temperature)

    def transform(self, logits: Array) -> Array:
        """Return calibrated logits.

        ``z``, ``b z`` or ``M (b z - mean_k b z_k) + c``. For the matrix, a class with the logit ``-inf``
        keeps it, and takes no part in the mean nor in the others' sums.

        Parameters
        ----------
        logits : array of shape (..., n_classes), float32 or float64
            NumPy arrays; for "none" and "temperature" torch tensors as well.

        Returns
        -------
        array of the same shape and dtype

        Raises
        ------
        DataError
            Where the matrix was fitted for another number of classes.
        """
        if self.method == "none":
            return logits
        if self.matrix is None or self.intercept is None:
            return logits * self.inverse_temperature
        _, logits = checked_logits(logits)
        if logits.shape[-1] != self.intercept.shape[0]:
            raise DataError(
                f"logits have {logits.shape[-1]} classes, but the calibration was fitted for "
                f"{self.intercept.shape[0]}"
            )
        possible = logits > -np.inf
        centred = _centred(logits, possible, self.inverse_temperature)
        mixed = centred @ self.matrix.T.astype(logits.dtype) + self.intercept.astype(logits.dtype)
        return np.where(possible, mixed, -np.inf).astype(logits.dtype, copy=False)

    def to_state(self) -> tuple[dict[str, object], dict[str, Floats]]:
        """Return JSON-able settings and tensors, named ``calibration.*``.

        Examples
        --------
        >>> Calibration("temperature", 0.5).to_state()
        ({'inverse_temperature': 0.5, 'method': 'temperature'}, {})
        """
        meta: dict[str, object] = {"inverse_temperature": self.inverse_temperature, "method": self.method}
        if self.matrix is None or self.intercept is None:
            return meta, {}
        return meta, {"calibration.matrix": self.matrix, "calibration.intercept": self.intercept}

    @classmethod
    def from_state(
        cls, meta: Mapping[str, object], tensors: Mapping[str, Any], *, n_classes: int | None = None
    ) -> Calibration:
        """Return the calibration that :meth:`to_state` described.

        Parameters
        ----------
        meta : mapping with "method" and "inverse_temperature"
        tensors : mapping with "calibration.matrix" and "calibration.intercept" for the matrix; others are
        ignored n_classes : int, optional
            Where given, a matrix of any other size is refused.

        Raises
        ------
        ModelFileError
            Where anything is missing, of another type or shape, or not finite.
        """
        if not isinstance(meta, Mapping) or set(meta) != {"method", "inverse_temperature"}:
            raise ModelFileError("calibration: expected exactly 'method' and 'inverse_temperature'")
        method, beta = meta["method"], meta["inverse_temperature"]
        if not isinstance(method, str) or method not in METHODS:
            raise ModelFileError(f"calibration: {method!r} is not one of the methods {', '.join(METHODS)}")
        if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0.0 < beta < float("inf"):
            raise ModelFileError(f"calibration: inverse_temperature {beta!r} is not a positive number")
        if method != "matrix":
            if method == "none" and beta != 1.0:
                raise ModelFileError(f"calibration: 'none' has inverse_temperature 1, not {beta!r}")
            return cls(method, float(beta))
        intercept = _tensor(tensors, "calibration.intercept", (n_classes,))
        k = intercept.shape[0]
        return cls(method, float(beta), _tensor(tensors, "calibration.matrix", (k, k)), intercept)


def _constant(values: Floats) -> Floats:
    copy = np.array(values, dtype=np.float64)
    copy.flags.writeable = False
    return copy


def _same(a: Floats | None, b: Floats | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _tensor(tensors: Mapping[str, Any], name: str, shape: tuple[int | None, ...]) -> Floats:
    value = tensors.get(name)
    if not isinstance(value, np.ndarray) or value.dtype not in (np.float32, np.float64):
        raise ModelFileError(
            f"calibration: the tensor {name!r} is missing or holds no floating-point numbers"
        )
    if value.ndim != len(shape) or any(
        want is not None and want != got for want, got in zip(shape, value.shape, strict=True)
    ):
        raise ModelFileError(f"calibration: the tensor {name!r} has shape {value.shape}, expected {shape}")
    if not np.isfinite(value).all():
        raise ModelFileError(f"calibration: the tensor {name!r} holds numbers that are not finite")
    return value


def _centred(logits: Floats, possible: npt.NDArray[np.bool_], beta: float) -> Floats:
    """Return ``b z`` less its mean over the possible classes, and 0 for the others."""
    scaled = np.where(possible, logits, 0.0) * beta
    count = np.maximum(possible.sum(axis=-1, keepdims=True), 1)
    centred: Floats = np.where(possible, scaled - scaled.sum(axis=-1, keepdims=True) / count, 0.0)
    return centred.astype(logits.dtype, copy=False)


# --- temperature --------------------------------------------------------------------------------------------


def fit_temperature(logits: Array, labels: Array, sample_weight: Array | None = None) -> float:
    """Return the inverse temperature ``b = 1 / T`` of the least log loss on these rows, with a weak prior.

    ::

        J(b) = sum_i w_i [ln sum_k exp(b z_ik) - b z_{i,y_i}] / sum_i w_i  +  R(b) / n
        R(b) = 1/2 s(b) (b - 1 - ln b),   s(b) = 1 for b < 1, else mean_i w_i (max_k z_ik - mean_k z_ik)

    Both parts are convex, so ``J'(b) = 0`` has one root and SciPy's ``brentq`` finds it, in ``ln b``, from a
    bracket grown around ``b = 1``. The prior ``R`` weighs half a row: for large ``b`` it grows as the loss of
    half a row whose label is drawn at random (so ``n`` rows that are all right do not send ``b`` to infinity,
    but to a stated error of about ``(1 - 1 / n_classes) / (2 n)``), and for small ``b`` as ``-1/2 ln b``,
    which keeps ``b`` above 0 where the logits say the opposite of the truth. As ``R(1) = 0`` is its minimum,
    the log loss at the result is *never* above the one at ``b = 1``. ``n`` is the effective number of rows,
    ``(sum w)^2 / sum w^2``.

    Parameters
    ----------
    logits : array of shape (n_samples, n_classes)
        Of any scale. ``-inf`` is a class of probability 0; a row whose own label is one has an infinite loss
        at any temperature and is left out.
    labels : integer array of shape (n_samples,), values in 0..n_classes-1
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    float
        Positive and finite; exactly 1.0 where the rows carry no information about it (no rows, constant
        logits).

    Raises
    ------
    DataError
        Labels or weights as in :func:`softmaxnet.softmax.cross_entropy`; logits that are NaN, ``+inf`` or
        ``-inf`` throughout a row (with its number).

    References
    ----------
    Guo, Pleiss, Sun, Weinberger (2017), "On calibration of modern neural networks", arXiv:1706.04599; Berta,
    Holzmüller, Jordan, Bach (2025), arXiv:2501.19195, for the search by the sign of the derivative.

    Examples
    --------
    Three of four rows that were called 88 % (odds of e^2) are right; 75 % are odds of 3 = e^(b 2):

    >>> logits = np.array([[0.0, 2.0]] * 4000)
    >>> labels = np.array([1, 1, 1, 0] * 1000)
    >>> round(fit_temperature(logits, labels), 3), round(float(np.log(3)) / 2, 3)
    (0.549, 0.549)
    """
    return _fit(_prepare(logits, labels, sample_weight, np.float64), tolerance=1e-9)


def held_out_log_loss_after_temperature(
    logits: Array, labels: Array, sample_weight: Array | None = None
) -> tuple[float, float]:
    """Return the mean log loss of these rows at their best temperature, and its inverse, as fast as can be.

    ``(L(b), b)`` with ``b`` as in :func:`fit_temperature`, to 1e-4 of itself, which is 1e-8 of the loss: this
    is what training compares epochs by. ``float32`` logits are computed in ``float32`` with sums in
    ``float64``.

    Parameters, errors and references are those of :func:`fit_temperature`.

    Returns
    -------
    loss : float, in nats; infinite where a label has the logit ``-inf``
    inverse_temperature : float

    Examples
    --------
    >>> logits, labels = np.array([[0.0, 2.0]] * 4000), np.array([1, 1, 1, 0] * 1000)
    >>> loss, beta = held_out_log_loss_after_temperature(logits, labels)
    >>> round(loss, 4), round(float(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)), 4)
    (0.5623, 0.5623)
    """
    rows = _prepare(logits, labels, sample_weight, None)
    beta = _fit(rows, tolerance=1e-4)
    return (float("inf") if rows.impossible else _loss_and_slope(rows, beta)[0]), beta


@dataclass(frozen=True)
class _Rows:
    """Held-out rows, ready for many evaluations: logits less the highest of their row, in blocks."""

    blocks: tuple[tuple[Floats, Floats, Floats], ...]  # (n_classes, n) logits; (n,) at the label; (n,) weight
    n_effective: float
    spread: float  # what a label drawn at random costs, per unit of inverse temperature
    impossible: bool  # a row has a label whose logit is -inf


def _prepare(logits: Array, labels: Array, sample_weight: Array | None, dtype: Any) -> _Rows:
    logits, labels, weight = _checked(logits, labels, sample_weight)
    highest = logits.max(axis=1, keepdims=True)
    at_label = np.take_along_axis(logits, labels[:, None], axis=1) - highest
    used = (weight > 0) & (at_label[:, 0] > -np.inf)
    impossible = bool(np.any((weight > 0) & ~used))
    if not used.all():
        logits, highest, at_label, weight = logits[used], highest[used], at_label[used], weight[used]
    n, n_classes = logits.shape
    dtype = logits.dtype if dtype is None else dtype
    weight = weight / weight.sum() if n else weight
    step = max(256, _BLOCK_ELEMENTS // n_classes)
    blocks, spread = [], 0.0
    for start in range(0, n, step):
        part = slice(start, start + step)
        # C order of the transpose: sums over the classes then run along long rows
        shifted = np.ascontiguousarray((logits[part].astype(dtype) - highest[part].astype(dtype)).T)
        possible = shifted > -np.inf
        if not possible.all():
            # a finite stand-in: its exponential is 0 and 0 times it is 0, where -inf would give NaN
            spread += _mean_spread(np.where(possible, shifted, 0.0), possible, weight[part])
            shifted[~possible] = np.finfo(dtype).min / 4
        else:
            spread += float(weight[part] @ -shifted.mean(axis=0, dtype=np.float64))
        blocks.append((shifted, at_label[part, 0].astype(dtype), weight[part]))
    n_effective = 1.0 / float(weight @ weight) if n else 0.0
    return _Rows(tuple(blocks), n_effective, spread, impossible)


def _mean_spread(shifted: Floats, possible: npt.NDArray[np.bool_], weight: Floats) -> float:
    return float(weight @ (-shifted.sum(axis=0, dtype=np.float64) / possible.sum(axis=0)))


def _checked(logits: Array, labels: Array, sample_weight: Array | None) -> tuple[Floats, Ints, Floats]:
    xp, logits = checked_logits(logits)
    if xp is not np:
        logits = logits.detach().cpu().numpy()
    if logits.ndim != 2:
        raise DataError(f"logits have shape {logits.shape}, but must have shape (n_samples, n_classes)")
    labels = checked_labels(np, labels, logits)
    weight = checked_weight(np, logits, sample_weight, None)
    # the weights are normalised in float64, however short the logits are
    weight = np.ones(len(logits)) if weight is None else np.asarray(weight, dtype=np.float64)
    bad = ~(np.isfinite(logits.max(axis=1)))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(f"row {row}: the logits are NaN, +inf or all -inf: they have no distribution")
    return logits, labels, weight


def _loss_and_slope(rows: _Rows, beta: float) -> tuple[float, float]:
    """Return the mean log loss at ``beta`` and its derivative by ``beta``, ``mean(sum_k p_k z_k - z_y)``."""
    loss = slope = 0.0
    with np.errstate(over="ignore", under="ignore"):
        for shifted, at_label, weight in rows.blocks:
            exps = np.exp(shifted * shifted.dtype.type(beta))
            total = exps.sum(axis=0)
            mean = np.einsum("kn,kn->n", exps, shifted) / total
            loss += float(weight @ (np.log(total, dtype=np.float64) - beta * at_label.astype(np.float64)))
            slope += float(weight @ (mean.astype(np.float64) - at_label))
    return loss, slope


def _fit(rows: _Rows, tolerance: float) -> float:
    return best_inverse_temperature(
        lambda beta: _loss_and_slope(rows, beta)[1], rows.n_effective, rows.spread, tolerance
    )


def best_inverse_temperature(
    slope: Callable[[float], float], n_effective: float, spread: float, tolerance: float
) -> float:
    """Return the root of the slope of the log loss by ``b`` plus the prior's: see :func:`fit_temperature`.

    Parameters
    ----------
    slope : callable
        The derivative of the mean log loss at an inverse temperature.
    n_effective : float
        ``(sum w)^2 / sum w^2``; with 0 rows the result is 1.
    spread : float
        ``mean_i w_i (max_k z_ik - mean_k z_ik)``.
    tolerance : float
        Of ``ln b``.

    Examples
    --------
    Of one logit of 2 nats that is right in 3 of 4 rows, the slope is ``2 sigmoid(2 b) - 1.5``:

    >>> best_inverse_temperature(lambda b: 2 / (1 + np.exp(-2 * b)) - 1.5, 1e9, 1.0, 1e-9).__round__(4)
    0.5493
    """
    from scipy.optimize import brentq  # late: a calibrated model predicts without SciPy

    if n_effective == 0.0:
        return 1.0

    def derivative(log_beta: float) -> float:
        beta = float(np.exp(log_beta))
        stiffness = 1.0 if beta < 1.0 else spread
        return slope(beta) + _PRIOR_ROWS * stiffness * (1.0 - 1.0 / beta) / n_effective

    at_one = derivative(0.0)
    if at_one == 0.0:
        return 1.0
    step = -np.sign(at_one)
    inner, outer = 0.0, step
    while np.sign(derivative(outer)) == np.sign(at_one):
        inner, outer = outer, outer * 2.0
        if abs(outer) > 600.0:  # exp would leave float64; logits of scale 1e-250 carry no information
            return 1.0
    return float(np.exp(brentq(derivative, min(inner, outer), max(inner, outer), xtol=tolerance, rtol=1e-12)))


# --- structured matrix scaling ------------------------------------------------------------------------------


def _fit_matrix(logits: Floats, labels: Ints, weight: Floats) -> Calibration:
    """Return ``z -> M x + c`` with ``x`` the centred logits after temperature scaling, fitted by L-BFGS.

    ``mean_i w_i CE(M x_i + c, y_i) + (K / n) [|c|^2 + |diag(M - I)|^2 + (K - 1) |offdiag(M)|^2]``: the
    penalties of Berta, Holzmüller, Jordan, Bach (2025), arXiv:2511.03685. At ``M = I, c = 0`` it is
    temperature scaling, from which the search starts, so that the log loss of these rows is never above that
    one's.
    """
    from scipy.optimize import minimize

    logits, labels, weight = _sample_rows(logits, labels, weight)
    k = logits.shape[1]
    beta = fit_temperature(logits, labels, weight)
    possible = logits > -np.inf
    inputs = _centred(logits, possible, beta)
    relative = weight / weight.max()  # whose squares are not all lost to underflow
    n_effective = relative.sum() ** 2 / (relative @ relative)
    penalty = np.full((k, k), k * (k - 1) / n_effective)
    np.fill_diagonal(penalty, k / n_effective)

    def objective(parameters: Floats) -> tuple[float, Floats]:
        shift, intercept = parameters[: k * k].reshape(k, k), parameters[k * k :]
        scaled = np.where(possible, inputs + inputs @ shift.T + intercept, -np.inf)
        loss = float(cross_entropy(scaled, labels, sample_weight=weight))
        error = cross_entropy_gradient(scaled, labels, sample_weight=weight)
        loss += float((penalty * shift**2).sum() + k / n_effective * (intercept @ intercept))
        gradient = (error.T @ inputs + 2 * penalty * shift).ravel()
        return loss, np.concatenate([gradient, error.sum(axis=0) + 2 * k / n_effective * intercept])

    result = minimize(
        objective, np.zeros(k * k + k), jac=True, method="L-BFGS-B", options={"maxiter": 200, "gtol": 1e-6}
    )
    shift, intercept = result.x[: k * k].reshape(k, k), result.x[k * k :]
    return Calibration("matrix", beta, np.eye(k) + shift, intercept)


def _sample_rows(logits: Floats, labels: Ints, weight: Floats) -> tuple[Floats, Ints, Floats]:
    """Return at most as many rows as one evaluation of the matrix may cost, always the same ones."""
    n, k = logits.shape
    limit = max(_MATRIX_MAX_WORK // k**2, _MATRIX_MIN_ROWS)
    if n <= limit:
        return logits, labels, weight
    rows = np.sort(np.random.default_rng(0).choice(n, limit, replace=False))
    return logits[rows], labels[rows], weight[rows]


# --- the race -----------------------------------------------------------------------------------------------


def fit_calibration(
    logits: Array, labels: Array, sample_weight: Array | None = None, method: str | None = "auto"
) -> Calibration:
    """Return the calibration fitted to held-out rows.

    With ``method="auto"`` the candidates race by 5-fold cross-validated log loss on the rows given (folds
    stratified by label, always the same ones): first "none", then "temperature", then, for at most 100
    classes and at least max(300, 20 n_classes) rows, "matrix". A richer one takes the lead only where it
    gains; the matrix only where its mean gain is above the standard error of that gain. The winner is fitted
    to all rows. With fewer than 10 rows it is "none".

    Parameters
    ----------
    logits : array of shape (n_samples, n_classes)
        Of rows that took no part in the training.
    labels : integer array of shape (n_samples,), values in 0..n_classes-1
    sample_weight : array of shape (n_samples,), optional
    method : "auto", "temperature", "matrix", "none" or None
        None is "none".

    Returns
    -------
    Calibration

    Raises
    ------
    DataError
        As :func:`fit_temperature`.
    UsageError
        A method that does not exist.

    References
    ----------
    Guo et al. (2017), arXiv:1706.04599; Berta, Holzmüller, Jordan, Bach (2025), arXiv:2511.03685.

    Examples
    --------
    >>> logits = np.array([[0.0, 2.0]] * 4000)
    >>> fit_calibration(logits, np.array([1, 1, 1, 0] * 1000)).method
    'temperature'
    """
    if method not in (*METHODS, "auto", None):
        raise UsageError(
            f"calibration must be 'auto', 'temperature', 'matrix' or None. Got {method!r} instead"
        )
    logits, labels, weight = _possible_rows(*_checked(logits, labels, sample_weight))
    if method == "auto":
        method = _race(logits, labels, weight)
    return _fit_method(method or "none", logits, labels, weight)


def _fit_method(method: str, logits: Floats, labels: Ints, weight: Floats) -> Calibration:
    if method == "none" or len(logits) == 0:
        return Calibration()
    if method == "matrix":
        return _fit_matrix(logits, labels, weight)
    return Calibration("temperature", fit_temperature(logits, labels, weight))


def _race(logits: Floats, labels: Ints, weight: Floats) -> str:
    """Return the method with the lowest cross-validated log loss; the matrix must win by a standard error."""
    n, n_classes = logits.shape
    if n < 2 * _N_FOLDS or n_classes == 1:
        return "none"
    folds = fixed_folds(labels)
    leader, leader_loss = "none", cross_entropy(logits, labels, reduction="none")
    for method in METHODS[1:]:
        if method == "matrix" and (
            n_classes > _MATRIX_MAX_CLASSES
            or n < max(_MATRIX_MIN_ROWS, _MATRIX_MIN_ROWS_PER_CLASS * n_classes)
        ):
            continue
        loss = _cross_validated_loss(method, folds, logits, labels, weight)
        gain = leader_loss - loss
        # One parameter can hardly overfit, and training has chosen its epoch for the loss after temperature; the
        # matrix has K^2 of them.
        if weighted_mean(gain, weight) > (standard_error(gain, weight) if method == "matrix" else 0.0):
            leader, leader_loss = method, loss
    return leader


def _cross_validated_loss(method: str, folds: Ints, logits: Floats, labels: Ints, weight: Floats) -> Floats:
    """Return the log loss of every row under the calibration fitted to the other folds."""
    loss = np.empty(len(logits))
    for fold in range(_N_FOLDS):
        held = folds == fold
        fitted = _fit_method(method, logits[~held], labels[~held], weight[~held])
        loss[held] = cross_entropy(fitted.transform(logits[held]), labels[held], reduction="none")
    return loss


def fixed_folds(labels: Ints) -> Ints:
    """Return the fold of every row: rows in a fixed random order, dealt out class by class."""
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[order] = np.arange(len(labels)) % _N_FOLDS
    return folds


def log_loss_parts(logits: Array, labels: Array, sample_weight: Array | None = None) -> dict[str, float]:
    """Return the log loss split into what a temperature can mend and what it cannot.

    ``log loss = refinement + calibration``, where the refinement is the log loss after the best temperature,
    fitted by 5-fold cross-validation on these rows, so that it is not flattered by the fit. The calibration
    part is therefore about 0 for calibrated logits, and can be a little below it.

    Parameters
    ----------
    logits : array of shape (n_samples, n_classes)
    labels : integer array of shape (n_samples,), values in 0..n_classes-1
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    dict
        "log_loss", "refinement" and "calibration", in nats. NaN with fewer than 10 rows; rows whose label is
        impossible are left out.

    Raises
    ------
    DataError
        As :func:`fit_temperature`.

    References
    ----------
    Berta, Holzmüller, Jordan, Bach (2025), "Rethinking early stopping: refine, then calibrate",
    arXiv:2501.19195.

    Examples
    --------
    >>> logits, labels = np.array([[0.0, 2.0]] * 4000), np.array([1, 1, 1, 0] * 1000)
    >>> {name: round(value, 3) for name, value in log_loss_parts(logits, labels).items()}
    {'log_loss': 0.627, 'refinement': 0.562, 'calibration': 0.065}
    """
    logits, labels, weight = _possible_rows(*_checked(logits, labels, sample_weight))
    if len(logits) < 2 * _N_FOLDS:
        return dict.fromkeys(("log_loss", "refinement", "calibration"), float("nan"))
    loss = float(cross_entropy(logits, labels, sample_weight=weight))
    held_out = _cross_validated_loss("temperature", fixed_folds(labels), logits, labels, weight)
    refinement = float(weight @ held_out / weight.sum())
    return {"log_loss": loss, "refinement": refinement, "calibration": loss - refinement}


def _possible_rows(logits: Floats, labels: Ints, weight: Floats) -> tuple[Floats, Ints, Floats]:
    """Return, in float64, the rows that count: of positive weight, with a label that is not impossible."""
    logits = logits.astype(np.float64, copy=False)
    used = (weight > 0) & (np.take_along_axis(logits, labels[:, None], axis=1)[:, 0] > -np.inf)
    return logits[used], labels[used], weight[used]
