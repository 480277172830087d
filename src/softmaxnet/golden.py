"""Golden rows: inputs made from a model's schema and its answers, so that any reader can check itself.

No training row is among them: numbers are centres and multiples of scales, categories are known and unknown
levels, texts are fixed phrases and the class names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import DataError, ModelFileError
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.matrix import NumberMatrix, PixelMatrix, SparseMatrix
from softmaxnet.features.table import TableParts, block_sources
from softmaxnet.model import SoftmaxModel, top_classes
from softmaxnet.softmax import log_softmax, logsumexp

__all__ = ["Golden", "check_golden", "make_golden"]

Tensors: TypeAlias = dict[str, npt.NDArray[Any]]

MOST_CLASSES = 1000
"""With more classes the answers are the most probable ones and the log-sum-exp."""
TOP = 10
TOLERANCE = 1e-5
"""Of a log-probability, relative to the largest one of its row where that is beyond 1 nat."""
SPARSE_ENTRIES = 50
UNKNOWN_LEVEL = "a level that was not in training"
DATES = ("2000-02-29", "1969-12-31T23:59:59", "2024-07-01 12:30", None)
TEXTS = ("", "How do I change my order?", "Grüße, 東京! 12.50 €", "not good, not bad", None)


@dataclass(frozen=True)
class Golden:
    """Rows and the answers that a model gave.

    Attributes
    ----------
    form : "table", "dense" or "sparse"
    cells : list of list of (str or None)
        Rows of a table, in the order of the columns; empty for a matrix.
    tensors : dict
        ``golden.*``: the rows of a matrix, and the answers.
    """

    form: str
    cells: list[list[str | None]]
    tensors: Tensors

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.tensors["golden.log_proba"].shape[0])

    def to_state(self) -> tuple[dict[str, object], Tensors]:
        """Return JSON data and tensors named ``golden.*``."""
        return {"form": self.form, "cells": self.cells}, self.tensors

    @classmethod
    def from_state(
        cls, meta: object, tensors: Mapping[str, npt.NDArray[Any]], *, n_features: int, n_classes: int
    ) -> Golden:
        """Return what :meth:`to_state` wrote; ``ModelFileError`` where anything in it does not fit."""
        if not isinstance(meta, dict) or set(meta) != {"form", "cells"}:
            raise ModelFileError("golden: expected exactly 'form' and 'cells'")
        form, cells = meta["form"], meta["cells"]
        log_proba = _tensor(tensors, "golden.log_proba", np.float64, 2)
        n_rows, width = log_proba.shape
        names = ["golden.log_proba"]
        if n_classes > MOST_CLASSES:
            labels = _tensor(tensors, "golden.labels", np.int64, 2, (n_rows, TOP))
            if labels.size and (labels.min() < 0 or labels.max() >= n_classes):
                raise ModelFileError("golden: a label is not that of a class")
            _tensor(tensors, "golden.log_sum_exp", np.float64, 1, (n_rows,))
            names += ["golden.labels", "golden.log_sum_exp"]
        if width != (TOP if n_classes > MOST_CLASSES else n_classes):
            raise ModelFileError(f"golden: the log-probabilities have {width} columns for {n_classes} classes")
        names += _check_rows(form, cells, tensors, n_rows, n_features)
        return cls(form, cells, {name: tensors[name] for name in names})

    def rows(self, encoder: FeatureEncoder) -> Any:
        """Return the rows as an X."""
        if self.form == "table":
            import pyarrow as pa

            names = encoder.feature_names_in or ()
            columns = [pa.array([row[index] for row in self.cells], pa.string()) for index in range(len(names))]
            return pa.Table.from_arrays(columns, names=list(names))
        if self.form == "dense":
            X = self.tensors["golden.X"]
            return np.where(self.tensors["golden.missing"], np.nan, X) if "golden.missing" in self.tensors else X
        from scipy.sparse import csr_array

        parts = (self.tensors[f"golden.{name}"] for name in ("values", "indices", "indptr"))
        return csr_array(tuple(parts), shape=(self.n_rows, encoder.n_features_in))


def make_golden(model: SoftmaxModel) -> Golden:
    """Return golden rows of a model with its answers; the same model gives the same ones."""
    parts = model.encoder.parts
    cells: list[list[str | None]] = []
    tensors: Tensors = {}
    if isinstance(parts, TableParts):
        form, cells = "table", _table_cells(parts, model.classes)
        n_rows = len(cells)
    elif isinstance(parts, SparseMatrix):
        form, tensors = "sparse", _sparse_rows(parts)
        n_rows = tensors["golden.indptr"].size - 1
    else:
        form, tensors = "dense", _pixel_rows(parts) if isinstance(parts, PixelMatrix) else _number_rows(parts)
        n_rows = tensors["golden.X"].shape[0]
    unanswered = Golden(form, cells, tensors | {"golden.log_proba": np.empty((n_rows, 0))})
    try:
        logits = model.decision_function(unanswered.rows(model.encoder)).astype(np.float64)
    except DataError:  # rows that this network cannot take: a model is saved all the same
        empty = {name: array[:0] for name, array in tensors.items()}
        if form == "sparse":
            empty["golden.indptr"] = np.zeros(1, np.int64)
        form, cells, tensors = form, [], empty
        logits = np.empty((0, model.n_classes))
    return Golden(form, cells, tensors | _answers(logits))


def check_golden(model: SoftmaxModel, golden: Golden) -> float:
    """Compute the golden rows again and return the largest error, of which ``TOLERANCE`` is accepted.

    Raises
    ------
    ModelFileError
        Where an answer differs by more.
    """
    if golden.n_rows == 0:
        return 0.0
    try:
        logits = model.decision_function(golden.rows(model.encoder)).astype(np.float64)
    except DataError as error:
        raise ModelFileError(f"its golden rows cannot be read: {error}") from None
    expected, found = golden.tensors["golden.log_proba"], log_softmax(logits)
    if "golden.labels" in golden.tensors:
        found = np.take_along_axis(found, golden.tensors["golden.labels"], axis=1)
        expected = np.column_stack([expected, golden.tensors["golden.log_sum_exp"]])
        found = np.column_stack([found, logsumexp(logits)])
    size = np.maximum(1.0, np.abs(expected).max(axis=1))
    errors = np.abs(found - expected).max(axis=1) / size
    worst = int(errors.argmax())
    if not errors[worst] <= TOLERANCE:
        raise ModelFileError(
            f"golden row {worst} gives other probabilities than where the model was made: "
            f"a difference of {errors[worst]:.2g} nats, {TOLERANCE:g} is accepted.",
            hint="This installation computes wrongly, or the features of the package have changed.",
        )
    return float(errors[worst])


def _answers(logits: npt.NDArray[np.float64]) -> Tensors:
    log_proba = log_softmax(logits) if logits.size else logits
    if logits.shape[1] <= MOST_CLASSES:
        return {"golden.log_proba": log_proba}
    top, _ = top_classes(log_proba, TOP)
    return {
        "golden.labels": top,
        "golden.log_proba": np.take_along_axis(log_proba, top, axis=1),
        "golden.log_sum_exp": logsumexp(logits) if logits.size else np.empty(0),
    }


# --- making rows --------------------------------------------------------------------------------------------


def _n_rows(n_columns: int) -> int:
    """Return how many rows to make: few where they are wide."""
    return 8 if n_columns <= 1024 else 2


def _multiples(n_rows: int, n_columns: int) -> npt.NDArray[np.float64]:
    """Return by how many scales each number is off its centre: all 0, then all 1, then a mixture."""
    steps = np.array([0.0, 1.0, -1.0, 0.5, -3.0, 2.0, -0.25])
    rows, columns = np.arange(n_rows)[:, None], np.arange(n_columns)[None, :]
    mixed = steps[(rows * 3 + columns * (1 + rows % 3)) % steps.size]
    return np.where(rows < 2, rows.astype(np.float64), mixed)


def _number_rows(parts: NumberMatrix) -> Tensors:
    block = parts.block
    center, scale = np.zeros(block.n_in), np.ones(block.n_in)
    center[block.take], scale[block.take] = block.center, block.scale
    multiples = _multiples(_n_rows(block.n_in), block.n_in)
    with np.errstate(over="ignore"):
        X = np.nan_to_num(center + multiples * scale)
    tensors = {"golden.X": X}
    if not block.n_raw:
        missing = np.zeros(X.shape, dtype=bool)
        missing[-1, ::3] = True
        tensors = {"golden.X": np.where(missing, 0.0, X), "golden.missing": missing}
    return tensors


def _pixel_rows(parts: PixelMatrix) -> Tensors:
    n_rows, largest = _n_rows(parts.n_in), min(255, round(1 / parts.dense_scale))
    rows, columns = np.arange(n_rows)[:, None], np.arange(parts.n_in)[None, :]
    waves = (columns * (2 * rows + 1) + 7 * rows) % (largest + 1)  # whole numbers: the same on every machine
    return {"golden.X": np.where(rows < 2, rows * largest, waves).astype(np.uint8)}


def _sparse_rows(parts: SparseMatrix) -> Tensors:
    n_columns, n_rows = parts.n_sparse, 6
    count = min(SPARSE_ENTRIES, n_columns)
    starts = np.arange(n_rows)[:, None] * 7
    indices = np.sort((starts + np.arange(count)[None, :] * (n_columns // count)) % n_columns, axis=1)
    size = 1 / np.where(parts.scale[indices] > 0, parts.scale[indices], 1.0)
    values = np.nan_to_num(size * _multiples(n_rows, count))
    return {
        "golden.indptr": np.arange(n_rows + 1, dtype=np.int64) * count,
        "golden.indices": indices.reshape(-1).astype(np.int64),
        "golden.values": values.reshape(-1),
    }


def _table_cells(parts: TableParts, classes: npt.NDArray[Any]) -> list[list[str | None]]:
    """Return rows of cells as a CSV file would have them; None is a missing one."""
    n_rows = _n_rows(len(parts.names))
    choices = [_choices(parts, index, classes) for index in range(len(parts.names))]
    return [
        [column[(row * (1 + index % 3) + index) % len(column)] for index, column in enumerate(choices)]
        for row in range(n_rows)
    ]


def _choices(parts: TableParts, index: int, classes: npt.NDArray[Any]) -> tuple[str | None, ...]:
    """Return the cells that one column of a table takes in turn."""
    kind = parts.kinds[index]
    if kind == "number":
        return _number_choices(parts, index)
    if kind == "boolean":
        return ("true", "false", None)
    if kind == "category":
        levels = next((column.levels for column in parts.categories if column.source == index), ())
        known = dict.fromkeys((*levels[:1], *levels[-1:], *levels[len(levels) // 2 :][:1]))
        return (*known, UNKNOWN_LEVEL, None)
    if kind == "text":
        return (*(str(label).replace("_", " ") for label in classes[:3]), *TEXTS)
    return DATES if kind == "date" else (None,)


def _number_choices(parts: TableParts, index: int) -> tuple[str | None, ...]:
    block = parts.block
    place = int(np.searchsorted(block_sources(parts.kinds), index))
    at = np.flatnonzero(block.take == place)
    center, scale = (float(block.center[at[0]]), float(block.scale[at[0]])) if at.size else (0.0, 1.0)
    with np.errstate(over="ignore"):
        values = np.nan_to_num(center + np.array([0.0, 1.0, -1.0, 0.5, -3.0]) * scale)
    return (*map(repr, values.tolist()), *(() if block.n_raw else (None,)))


# --- reading back -------------------------------------------------------------------------------------------


def _tensor(
    tensors: Mapping[str, npt.NDArray[Any]],
    name: str,
    dtype: npt.DTypeLike,
    n_dimensions: int,
    shape: tuple[int, ...] | None = None,
) -> npt.NDArray[Any]:
    array = tensors.get(name)
    if array is None or array.dtype != dtype or array.ndim != n_dimensions or shape not in (None, array.shape):
        given = "is missing" if array is None else f"has dtype {array.dtype} and shape {array.shape}"
        wanted = f"{np.dtype(dtype)} of shape {shape}" if shape else f"{np.dtype(dtype)}, {n_dimensions}-dimensional"
        raise ModelFileError(f"tensor {name!r} {given}; expected {wanted}")
    return array


def _check_rows(
    form: object, cells: object, tensors: Mapping[str, npt.NDArray[Any]], n_rows: int, n_features: int
) -> list[str]:
    """Check the rows of a form and return the names of their tensors."""
    if not isinstance(cells, list) or (form != "table" and cells):
        raise ModelFileError("golden: 'cells' must be a list, empty for a matrix")
    if form == "table":
        if len(cells) != n_rows or not all(_is_row(row, n_features) for row in cells):
            raise ModelFileError(f"golden: 'cells' must be {n_rows} lists of {n_features} texts or nulls")
        return []
    if form == "dense":
        X = tensors.get("golden.X")
        pixels = X is not None and X.dtype == np.uint8
        _tensor(tensors, "golden.X", np.uint8 if pixels else np.float64, 2, (n_rows, n_features))
        if "golden.missing" not in tensors:
            return ["golden.X"]
        _tensor(tensors, "golden.missing", np.bool_, 2, (n_rows, n_features))
        return ["golden.X", "golden.missing"]
    if form != "sparse":
        raise ModelFileError("golden: the form must be 'table', 'dense' or 'sparse'")
    indptr = _tensor(tensors, "golden.indptr", np.int64, 1, (n_rows + 1,))
    indices = _tensor(tensors, "golden.indices", np.int64, 1)
    _tensor(tensors, "golden.values", np.float64, 1, indices.shape)
    ascending = indptr[0] == 0 and indptr[-1] == indices.size and not (np.diff(indptr) < 0).any()
    if not ascending or (indices.size and (indices.min() < 0 or indices.max() >= n_features)):
        raise ModelFileError("golden: the sparse rows do not fit their entries")
    return ["golden.indptr", "golden.indices", "golden.values"]


def _is_row(row: object, n_features: int) -> bool:
    return (
        isinstance(row, list) and len(row) == n_features and all(cell is None or isinstance(cell, str) for cell in row)
    )
