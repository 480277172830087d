"""Matrices without column names: numbers, pixels, or a sparse matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from softmaxnet.errors import DataError
from softmaxnet.features import state
from softmaxnet.features.columns import Cells, matrix_name
from softmaxnet.features.encoded import Encoded, narrow
from softmaxnet.features.numbers import CURVED, PLAIN, RAW, NumberBlock, Statistics, fit_numbers, infinite
from softmaxnet.features.quantiles import Floats

if TYPE_CHECKING:
    from scipy.sparse import csr_array

PIXELS_MIN_COLUMNS = 17
"""A uint8 matrix with at least this many columns is pictures."""
DENSE_MAX_COLUMNS = 64
"""A sparse matrix with at most this many columns is treated as a dense one."""


@dataclass(frozen=True, eq=False)
class NumberMatrix:
    """Every column is a number."""

    block: NumberBlock
    form = "numbers"
    n_sparse = 0

    @property
    def n_dense(self) -> int:
        """Columns of the dense block; one of zeros where nothing varied in training."""
        return max(1, self.block.n_out)

    @cached_property
    def _is_identity(self) -> bool:
        """Whether every column is taken as it is and where it is."""
        block = self.block
        return block.n_raw == block.n_out == block.n_in and block.is_in_order

    def transform(self, X: NDArray[Any], dtype: DTypeLike, cells: Cells) -> Encoded:
        """Encode X (n_rows, n_in); numbers that stay as they are are not copied, and not to be written to."""
        if self._is_identity and X.dtype.kind == "f" and X.flags.c_contiguous and are_surely_finite(X):
            wanted = np.dtype(dtype)
            if X.dtype == wanted:
                out = X.view()
                out.flags.writeable = False
                return Encoded(out, 1.0, None)
            if X.itemsize < wanted.itemsize:
                return Encoded(X.astype(wanted), 1.0, None)
        make = np.empty if self.block.n_out else np.zeros
        out = make((X.shape[0], self.n_dense), dtype=dtype)
        self.block.fill_into(X, out[:, : self.block.n_out], cells, matrix_name)
        if self.block.n_raw:
            _check_fits(X, out, cells)
        return Encoded(out, 1.0, None)

    def dense_sources(self) -> NDArray[np.int64]:
        """Return the input column of every dense column; -1 for none."""
        return self.block.sources() if self.block.n_out else np.array([-1])

    def sparse_sources(self) -> NDArray[np.int64]:
        """Return the input column of every sparse column: there are none."""
        return np.empty(0, dtype=np.int64)

    def to_state(self) -> tuple[state.Meta, state.Tensors]:
        """Return it as plain data."""
        meta, tensors = self.block.to_state()
        return {"form": self.form, "block": meta}, tensors

    @classmethod
    def from_state(cls, meta: Mapping[str, object], tensors: Mapping[str, NDArray[Any]]) -> NumberMatrix:
        """Return what ``to_state`` wrote."""
        return cls(NumberBlock.from_state(state.mapping(meta, "block"), tensors))


def are_surely_finite(X: NDArray[np.floating]) -> bool:
    """Return whether all numbers are finite; False also where only their squares are not.

    One dot product, which reads them once and writes nothing.

    Examples
    --------
    >>> are_surely_finite(np.ones((2, 3))), are_surely_finite(np.array([[1.0, np.nan]]))
    (True, False)
    """
    return math.isfinite(np.vdot(X, X))


def _check_fits(X: NDArray[Any], out: NDArray[Any], cells: Cells) -> None:
    """Report numbers that are finite in X and infinite in the network's number type."""
    if np.isfinite(out).all():
        return
    for row, column in zip(*np.nonzero(np.isinf(out)), strict=True):
        message = (
            f"{X[row, column]} is too large for {out.dtype}, and features='raw' takes numbers as they are."
        )
        cells.report(
            int(row), matrix_name(int(column)), message, "Use features='auto' or precision='float64'."
        )
        out[row, column] = 0.0


@dataclass(frozen=True, eq=False)
class PixelMatrix:
    """Pictures as bytes: as they are, with one scale; constant pixels stay, so a picture keeps its shape."""

    n_in: int
    dense_scale: float
    form = "pixels"
    n_sparse = 0

    @property
    def n_dense(self) -> int:
        """Columns of the dense block."""
        return self.n_in

    def transform(self, X: NDArray[Any], dtype: DTypeLike, cells: Cells) -> Encoded:
        """Return bytes as they are; other numbers as bytes where all of them are, else as floats."""
        if X.dtype == np.uint8:
            return Encoded(np.ascontiguousarray(X), self.dense_scale, None)
        values = np.array(X, dtype=np.float64)
        if not np.isfinite(values).all():
            for row, column in zip(*np.nonzero(np.isinf(values)), strict=True):
                cells.report(int(row), matrix_name(int(column)), *infinite(float(values[row, column])))
            values[~np.isfinite(values)] = 0.0
        as_bytes = np.clip(values, 0, 255).astype(np.uint8)
        if (as_bytes == values).all():
            return Encoded(as_bytes, self.dense_scale, None)
        np.clip(values, -1e30, 1e30, out=values)
        return Encoded(values.astype(dtype), self.dense_scale, None)

    def dense_sources(self) -> NDArray[np.int64]:
        """Return the input column of every dense column."""
        return np.arange(self.n_in)

    def sparse_sources(self) -> NDArray[np.int64]:
        """Return the input column of every sparse column: there are none."""
        return np.empty(0, dtype=np.int64)

    def to_state(self) -> tuple[state.Meta, state.Tensors]:
        """Return it as plain data."""
        return {"form": self.form, "n_in": self.n_in, "dense_scale": self.dense_scale}, {}

    @classmethod
    def from_state(cls, meta: Mapping[str, object], tensors: Mapping[str, NDArray[Any]]) -> PixelMatrix:
        """Return what ``to_state`` wrote."""
        return cls(state.integer(meta, "n_in", 1), state.number(meta, "dense_scale", 1e-3, 1.0))


@dataclass(frozen=True, eq=False)
class SparseMatrix:
    """A sparse matrix passes through; columns that were zero in all of training are left out."""

    scale: Floats
    form = "sparse"
    n_dense = 0

    @property
    def n_sparse(self) -> int:
        """Columns of the sparse block."""
        return int(self.scale.size)

    def transform(self, X: csr_array, dtype: DTypeLike, cells: Cells) -> Encoded:
        """Return X with every column multiplied by its scale."""
        from scipy.sparse import csr_array

        X = canonical(X)
        data = np.array(X.data, dtype=np.float64)
        _check_finite(X, data, cells)
        with np.errstate(over="ignore"):
            data *= self.scale[X.indices]
        limit = float(np.finfo(np.float32).max)
        bounded = np.clip(data, -limit, limit)
        scaled = narrow(csr_array((bounded, X.indices, X.indptr), shape=X.shape), dtype)
        if not scaled.data.all():
            scaled.eliminate_zeros()
        return Encoded(np.empty((X.shape[0], 0), dtype=dtype), 1.0, scaled)

    def dense_sources(self) -> NDArray[np.int64]:
        """Return the input column of every dense column: there are none."""
        return np.empty(0, dtype=np.int64)

    def sparse_sources(self) -> NDArray[np.int64]:
        """Return the input column of every sparse column."""
        return np.arange(self.n_sparse)

    def to_state(self) -> tuple[state.Meta, state.Tensors]:
        """Return it as plain data."""
        return {"form": self.form}, {f"{state.PREFIX}sparse.scale": self.scale}

    @classmethod
    def from_state(cls, meta: Mapping[str, object], tensors: Mapping[str, NDArray[Any]]) -> SparseMatrix:
        """Return what ``to_state`` wrote."""
        return cls(state.tensor(tensors, "sparse.scale", np.float64))


def canonical(X: csr_array) -> csr_array:
    """Return X with sorted indices and without duplicate entries; the caller's matrix is left alone."""
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    return X


def _check_finite(X: csr_array, data: Floats, cells: Cells) -> None:
    """Report entries that are not finite numbers: a sparse matrix has zeros, no missing values."""
    if np.isfinite(data).all():
        return
    at = np.flatnonzero(~np.isfinite(data))
    rows = np.searchsorted(X.indptr, at, side="right") - 1
    for place, row in zip(at, rows, strict=True):
        message = f"{data[place]} is not a finite number; a sparse matrix cannot have missing values."
        cells.report(int(row), matrix_name(int(X.indices[place])), message)
        data[place] = 0.0


def fit_matrix(
    X: NDArray[Any], weights: Floats | None, cells: Cells, *, raw: bool, n_bins: int
) -> tuple[NumberMatrix | PixelMatrix, Statistics | None]:
    """Choose how an unnamed dense matrix is encoded; there are no statistics of pixels."""
    if X.dtype == np.uint8 and (raw or X.shape[1] >= PIXELS_MIN_COLUMNS):
        return PixelMatrix(X.shape[1], 1.0 if raw else pixel_scale(int(X.max(initial=0)))), None
    choice = RAW if raw else PLAIN if X.dtype == np.bool_ else CURVED
    treatment = np.full(X.shape[1], choice, dtype=np.uint8)
    block, seen = fit_numbers(X, weights, cells, matrix_name, treatment=treatment, n_bins=n_bins)
    if raw and (seen.share_missing > 0).any():
        NumberMatrix(block).transform(X, np.float64, cells)  # reports the first missing cell
    return NumberMatrix(block), seen


def pixel_scale(largest: int) -> float:
    """Return 1/255, or 1 over the largest value where all are below 128, as in pictures of 16 grey levels.

    Examples
    --------
    >>> pixel_scale(254) == 1 / 255, pixel_scale(16)
    (True, 0.0625)
    """
    return 1 / 255 if largest >= 128 else 1 / max(1, largest)


def fit_sparse(X: csr_array, cells: Cells, *, raw: bool) -> SparseMatrix:
    """Choose the scale of every column of a sparse matrix.

    As it is where no value is beyond 1 (TF-IDF, indicators) or with ``raw``; else 1 over the column's
    largest size.
    """
    X = canonical(X)
    data = np.array(X.data, dtype=np.float64)
    _check_finite(X, data, cells)
    if X.shape[0] == 0:
        raise DataError("X has no rows")
    largest = np.zeros(X.shape[1])
    np.maximum.at(largest, X.indices, np.abs(data))
    scale = np.ones(X.shape[1])
    if not raw and largest.max(initial=0.0) > 1.0:
        scale = 1.0 / np.maximum(largest, 1e-300)
    return SparseMatrix(np.where(largest > 0, scale, 0.0))
