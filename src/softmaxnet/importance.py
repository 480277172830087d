"""Which columns a model lives on: how much worse it predicts where one column's cells are shuffled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from softmaxnet.calibration import Calibration
from softmaxnet.data.frames import as_input, take_rows
from softmaxnet.data.labels import lookup_labels
from softmaxnet.errors import DataError, UsageError
from softmaxnet.features.encoded import Encoded
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.metrics import mean_interval
from softmaxnet.network import NetworkSpec, forward
from softmaxnet.softmax import cross_entropy

__all__ = ["ColumnImportance", "FittedModel", "Importances", "model_of", "permutation_importance"]

Floats: TypeAlias = npt.NDArray[Any]

BATCH_ELEMENTS = 2**22
"""Numbers in the widest array of one batch of rows."""


class FittedModel(Protocol):
    """What is needed of a :class:`softmaxnet.model.SoftmaxModel`, which lies above this module."""

    @property
    def encoder(self) -> FeatureEncoder:
        """What turns rows into inputs of the network."""
        ...

    @property
    def spec(self) -> NetworkSpec:
        """The shape of the network."""
        ...

    @property
    def params(self) -> Mapping[str, Floats]:
        """Its weights and biases."""
        ...

    @property
    def calibration(self) -> Calibration:
        """Logits to logits."""
        ...

    @property
    def classes(self) -> npt.NDArray[Any]:
        """The labels, (n_classes,)."""
        ...

    @property
    def reader(self) -> dict[str, object]:
        """How the training file was read."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the network computes in."""
        ...

    @property
    def n_classes(self) -> int:
        """K."""
        ...

    @property
    def n_features_in(self) -> int:
        """The number of columns."""
        ...

    @property
    def feature_names_in(self) -> tuple[str, ...] | None:
        """Their names; None for a matrix without names."""
        ...


@dataclass(frozen=True)
class ColumnImportance:
    """How much the log loss rises where one column is shuffled, with its interval; in nats."""

    name: str
    log_loss_increase: float
    low: float
    high: float
    accuracy_decrease: float


@dataclass(frozen=True)
class Importances:
    """Permutation importance of every column, most important first.

    Attributes
    ----------
    columns : tuple of ColumnImportance
    log_loss, accuracy : float
        Of the rows as they are.
    n_rows, n_repeats : int
    n_unseen : int
        Rows left out because the model never saw their label.
    level : float
        Of the intervals.
    """

    columns: tuple[ColumnImportance, ...]
    log_loss: float
    accuracy: float
    n_rows: int
    n_repeats: int
    n_unseen: int
    level: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return vars(self) | {"columns": [dict(vars(column)) for column in self.columns]}


def permutation_importance(
    model: Any,
    X: Any,
    y: Any,
    *,
    sample_weight: npt.ArrayLike | None = None,
    n_repeats: int = 5,
    max_rows: int = 10_000,
    columns: Sequence[str] | None = None,
    level: float = 0.95,
    random_state: int = 0,
) -> Importances:
    """Return by how much the log loss of held-out rows rises where one column's cells are shuffled among the rows.

    The rise of a row is the mean over ``n_repeats`` shuffles, and the interval is the normal one of the mean rise over
    rows. A column that says the same as another one looks unimportant, as the other is still there.

    Parameters
    ----------
    model : SoftmaxModel, or an estimator that has one as ``model_``
    X, y : rows that the model was not trained on, and their labels
    sample_weight : array of shape (n_rows,), optional
    n_repeats : int
    max_rows : int
        Of more rows so many are drawn at random; their number is in the result.
    columns : sequence of str, optional
        Only these; named ``"column 3"`` in a matrix without names.
    level : float in (0, 1)
        Of the intervals.
    random_state : int

    Returns
    -------
    Importances

    Raises
    ------
    UsageError
        For unknown columns or settings that cannot be.
    DataError
        For rows that the model cannot read, and where no row has a label that the model knows.

    References
    ----------
    Breiman (2001), "Random forests", section 10; Fisher, Rudin, Dominici (2019), arXiv:1801.01489.

    Examples
    --------
    >>> from softmaxnet.model import SoftmaxModel
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> encoder = FeatureEncoder.fit(X, features="raw")
    >>> params = {"layers.0.weight": np.array([[[0.0, 9.0], [0, 0]]]), "layers.0.bias": np.zeros((1, 2))}
    >>> model = SoftmaxModel(encoder, NetworkSpec(2, 0, 2), params, Calibration(), np.array([0, 1]))
    >>> found = permutation_importance(model, X, (X[:, 0] > 0).astype(int))
    >>> [(column.name, column.low > 0) for column in found.columns]
    [('column 0', True), ('column 1', False)]
    """
    model = model_of(model)
    if n_repeats < 1 or max_rows < 2 or not 0 < level < 1:
        raise UsageError(
            "n_repeats must be at least 1, max_rows at least 2 and level in (0, 1). "
            f"Got {n_repeats!r}, {max_rows!r} and {level!r} instead."
        )
    rng = np.random.default_rng(random_state)
    X, labels, weight, n_unseen = _scored_rows(as_input(X), y, sample_weight, model.classes, max_rows, rng)
    encoded = model.encoder.transform(X, dtype=model.dtype)
    score = _Scorer(model, labels)
    losses, right = score(encoded.dense, encoded)
    blocks = _source_blocks(model.encoder, columns)
    found = []
    for name, dense_at, sparse_at in blocks:
        rise, fall = np.zeros(labels.size), np.zeros(labels.size)
        for _ in range(n_repeats):
            order = rng.permutation(labels.size)
            shuffled = _shuffled(encoded, order, dense_at, sparse_at)
            if shuffled is encoded:
                continue
            new_losses, new_right = score(shuffled.dense, shuffled)
            rise += (new_losses - losses) / n_repeats
            fall += (right - new_right) / n_repeats
        low, high = mean_interval(rise, sample_weight=weight, level=level)
        mean = float(np.average(rise, weights=weight))
        found.append(ColumnImportance(name, mean, low, high, float(np.average(fall, weights=weight))))
    found.sort(key=lambda column: -column.log_loss_increase)
    log_loss, accuracy = (float(np.average(values, weights=weight)) for values in (losses, right))
    return Importances(tuple(found), log_loss, accuracy, labels.size, n_repeats, n_unseen, level)


def model_of(model: Any) -> Any:
    """Return a model, or that of a fitted estimator."""
    found = getattr(model, "model_", model)
    if not all(hasattr(found, name) for name in ("encoder", "spec", "params", "calibration", "classes")):
        raise UsageError(
            f"a SoftmaxModel or a fitted SoftmaxClassifier is needed. Got a {type(model).__name__} instead."
        )
    return found


def _scored_rows(
    X: Any, y: Any, sample_weight: Any, classes: npt.NDArray[Any], max_rows: int, rng: np.random.Generator
) -> tuple[Any, npt.NDArray[np.int64], Floats, int]:
    """Return at most ``max_rows`` rows of known labels, these labels, their weights, and how many are unknown."""
    labels = lookup_labels(y, classes)
    if X.shape[0] != labels.size:
        raise DataError(f"X has {X.shape[0]} rows and y has {labels.size}; there must be a label for each row")
    weight = np.ones(labels.size) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != labels.shape or not np.isfinite(weight).all() or (weight < 0).any():
        raise DataError(f"sample_weight must be {labels.size} finite numbers that are not negative")
    used = np.flatnonzero((labels >= 0) & (weight > 0))
    if used.size < 2:
        raise DataError("fewer than two rows have a label that the model knows and a positive weight")
    if used.size > max_rows:
        used = np.sort(rng.choice(used, max_rows, replace=False))
    return take_rows(X, used), labels[used], weight[used], int((labels < 0).sum())


@dataclass(frozen=True, eq=False)
class _Scorer:
    """Log losses and hits of encoded rows with known labels."""

    model: FittedModel
    labels: npt.NDArray[np.int64]

    def __call__(self, dense: Floats, encoded: Encoded) -> tuple[Floats, Floats]:
        """Return every row's log loss and whether its most probable class is right."""
        model = self.model
        dtype = model.dtype
        losses, right = np.empty(self.labels.size), np.empty(self.labels.size)
        params = {name: np.asarray(value, dtype) for name, value in model.params.items()}
        step = max(1, BATCH_ELEMENTS // (model.spec.n_members * max(model.spec.layer_sizes)))
        for start in range(0, self.labels.size, step):
            part = slice(start, start + step)
            block = dense[part].astype(dtype) * dtype.type(encoded.dense_scale)
            sparse = None if encoded.sparse is None else encoded.sparse[part]
            logits = model.calibration.transform(forward(model.spec, params, block, sparse)).astype(np.float64)
            losses[part] = cross_entropy(logits, self.labels[part], reduction="none")
            right[part] = logits.argmax(axis=1) == self.labels[part]
        return losses, right


def _source_blocks(
    encoder: FeatureEncoder, columns: Sequence[str] | None
) -> list[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """Return name, dense inputs and sparse inputs (a mask) of every column, or of those wanted."""
    names = [column.name for column in encoder.columns]
    unknown = sorted(set(columns or ()) - set(names))
    if unknown:
        raise UsageError(f"there is no column {unknown[0]!r}.", hint=f"The columns are {names[:10]}.")
    dense, sparse = encoder.dense_sources(), encoder.sparse_sources()
    wanted = range(len(names)) if columns is None else [names.index(name) for name in columns]
    return [(names[index], np.flatnonzero(dense == index), sparse == index) for index in wanted]


def _shuffled(
    encoded: Encoded, order: npt.NDArray[np.int64], dense_at: npt.NDArray[np.int64], sparse_at: npt.NDArray[np.bool_]
) -> Encoded:
    """Return rows with one column's inputs from other rows; the same object where that changes nothing."""
    dense, sparse = encoded.dense, encoded.sparse
    own = dense[:, dense_at]
    moves_dense = bool((own != own[:1]).any())
    moves_sparse = sparse is not None and bool(sparse_at[sparse.indices].any())
    if not moves_dense and not moves_sparse:
        return encoded
    if moves_dense:
        dense = dense.copy()
        dense[:, dense_at] = own[order]
    if sparse is not None and moves_sparse:
        of_column = sparse.copy()
        of_column.data = np.where(sparse_at[sparse.indices], sparse.data, 0)
        sparse = csr_array(sparse - of_column + of_column[order])
    return replace(encoded, dense=dense, sparse=sparse)
