"""Explaining rows: which logit, the line to integrate along, and from encoded inputs back to columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from softmaxnet.data.frames import column_names
from softmaxnet.data.labels import lookup_labels
from softmaxnet.errors import DataError, UsageError
from softmaxnet.explain.baseline import Setting, as_rows
from softmaxnet.explain.explanation import Explanation, square
from softmaxnet.explain.integral import Integral, Line, integrate
from softmaxnet.explain.words import words_of_row
from softmaxnet.features.encoded import Encoded
from softmaxnet.features.matrix import PixelMatrix
from softmaxnet.importance import FittedModel, model_of
from softmaxnet.softmax import log_softmax

__all__ = ["explain", "image_shape"]

Floats: TypeAlias = npt.NDArray[Any]

RUNNER_UP = "runner-up"
"""Stands for the most probable class other than the target, where no class is called so."""


def explain(
    model: Any,
    rows: Any,
    target: Any = None,
    *,
    versus: Any = None,
    baseline: Any = None,
    tolerance: float = 5e-4,
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

    >>> from softmaxnet.calibration import Calibration
    >>> from softmaxnet.features.encoder import FeatureEncoder
    >>> from softmaxnet.model import SoftmaxModel
    >>> from softmaxnet.network import NetworkSpec
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
    X = as_rows(model, rows)
    wanted = None if target is None else _class_of(model, target)
    other = None if versus is None or _is_runner_up(model, versus) else _class_of(model, versus)
    setting = Setting.of(model, baseline)
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
        integral = integrate(line, tolerance, max_nodes)
        proba = float(np.exp(log_softmax(logits.astype(np.float64))[j]))
        about = (_label(model, j), None if k is None else _label(model, k), _label(model, top), proba)
        explained.append(_explanation(setting, X, row, about, line, integral))
    return explained


def _class_of(model: FittedModel, label: Any) -> int:
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


def _is_runner_up(model: FittedModel, versus: Any) -> bool:
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


def _label(model: FittedModel, index: int) -> Any:
    label = model.classes[index]
    return label.item() if isinstance(label, np.generic) else label


def _encoded_rows(encoded: Encoded, dtype: np.dtype[Any]) -> Iterator[tuple[Floats, csr_array | None]]:
    """Yield every row's dense inputs, (n_dense,), and its row of the sparse block."""
    for row in range(encoded.n_rows):
        dense = encoded.dense[row].astype(dtype) * dtype.type(encoded.dense_scale)
        yield dense, None if encoded.sparse is None else encoded.sparse[[row], :].astype(dtype)


def _explanation(
    setting: Setting, X: Any, row: int, about: tuple[Any, Any, Any, float], line: Line, integral: Integral
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
        words=tuple(words_of_row(model.encoder, values, line.active, own, columns)),
        method="exact" if line.is_linear else "integrated gradients",
        n_nodes=integral.n_nodes,
        completeness_error=integral.error,
        image_shape=image_shape(model),
    )


def _cells(model: FittedModel, X: Any, row: int) -> tuple[Any, ...]:
    """Return the cells of a row in the order of training, as plain values."""
    names = column_names(X)
    if names is not None:
        order = model.feature_names_in or names
        return tuple(X.column(name)[row].as_py() for name in order)
    cells = X[[row], :].toarray()[0] if hasattr(X, "toarray") else X[row]
    return tuple(None if value != value else value for value in cells.tolist())


def image_shape(model: FittedModel) -> tuple[int, ...] | None:
    """Return the shape of the model's pictures, where its rows are pictures."""
    told = model.reader.get("image_shape")
    if isinstance(told, list | tuple) and math.prod(told) == model.n_features_in:
        return tuple(told)
    return square(model.n_features_in) if isinstance(model.encoder.parts, PixelMatrix) else None
