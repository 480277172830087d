"""The encoder: whatever X is, into the two blocks that the network reads."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from softmaxnet.errors import DataError, ModelFileError, UsageError
from softmaxnet.features import state
from softmaxnet.features.arrow import numbers_or_missing
from softmaxnet.features.columns import (
    KINDS,
    BadCell,
    Cells,
    ColumnSpec,
    Kind,
    align_names,
    check_kinds,
    matrix_name,
    table_name,
)
from softmaxnet.features.encoded import Encoded, is_sparse
from softmaxnet.features.matrix import (
    DENSE_MAX_COLUMNS,
    NumberMatrix,
    PixelMatrix,
    SparseMatrix,
    fit_matrix,
    fit_sparse,
)
from softmaxnet.features.picture_style import PictureStyle, measure_style
from softmaxnet.features.pictures import picture_shape
from softmaxnet.features.quantiles import Floats, check_weights
from softmaxnet.features.table import TableParts, block_sources, fit_table, kind_codes

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_array

__all__ = ["Encoded", "FeatureEncoder"]

Parts: TypeAlias = NumberMatrix | PixelMatrix | SparseMatrix | TableParts

PICTURES_LOOKED_AT = 512
UNCOUNTED = -1
"""Stands for a number of distinct values that was not counted."""


@dataclass(frozen=True, eq=False)
class FeatureEncoder:
    """Columns -> a dense block and a sparse block. Made by ``FeatureEncoder.fit``; see ``docs/features.md``.

    Attributes
    ----------
    n_features_in : int
    feature_names_in : tuple of str, or None for a matrix
    parts : the fitted parts
    kind_codes, share_missing, n_distinct : arrays (n_features_in,)
    reasons : dict of column number -> why it was dropped
    pictures : what the rows have in common where they are square pictures, or None
    told : columns that the user said are numbers: a cell of them that is none counts as missing

    Examples
    --------
    >>> X = np.array([[0.0, 7.0], [1.0, 7.0], [2.0, 7.0], [np.nan, 7.0]])
    >>> encoder = FeatureEncoder.fit(X)
    >>> encoder.transform(X).dense.round(4)
    array([[-0.4932,  0.    ],
           [ 0.    ,  0.    ],
           [ 0.4932,  0.    ],
           [ 0.    ,  1.    ]], dtype=float32)
    >>> [column.becomes for column in encoder.columns]
    ['1 scaled number, 1 missing indicator', 'nothing: constant in training']
    """

    n_features_in: int
    feature_names_in: tuple[str, ...] | None
    parts: Parts
    kind_codes: NDArray[np.uint8]
    share_missing: Floats
    n_distinct: NDArray[np.int64]
    reasons: Mapping[int, str]
    pictures: PictureStyle | None = None
    told: tuple[int, ...] = ()

    @property
    def n_dense(self) -> int:
        """Columns of the dense block."""
        return self.parts.n_dense

    @property
    def n_sparse(self) -> int:
        """Columns of the sparse block."""
        return self.parts.n_sparse

    @property
    def n_curved(self) -> int:
        """Leading dense columns that are scaled and curved numbers: those that a numeric embedding is for."""
        parts = self.parts
        return parts.block.n_curved if isinstance(parts, NumberMatrix | TableParts) else 0

    @property
    def bins(self) -> slice | None:
        """The columns of the dense block that are piecewise-linear bins; None where there are none."""
        block = self.parts.block if isinstance(self.parts, NumberMatrix | TableParts) else None
        if block is None or not block.bin_column.size:
            return None
        return slice(block.n_out - block.bin_column.size, block.n_out)

    def without_bins(self) -> FeatureEncoder:
        """Return the encoder without the piecewise-linear bins."""
        parts = self.parts
        if self.bins is None or not isinstance(parts, NumberMatrix | TableParts):
            return self
        none: Floats = np.empty(0)
        column = np.empty(0, dtype=np.int64)
        block = replace(parts.block, bin_column=column, bin_low=none, bin_width=none, bin_fill=none)
        return replace(self, parts=replace(parts, block=block))

    @classmethod
    def fit(
        cls,
        X: NDArray[Any] | csr_array | pa.Table,
        *,
        features: str = "auto",
        sample_weight: ArrayLike | None = None,
        kinds: Mapping[str, str] | None = None,
        n_bins: int | None = None,
    ) -> FeatureEncoder:
        """Look at training rows and settle what every column becomes.

        Parameters
        ----------
        X : array (n_rows, n_columns), csr_array or pyarrow.Table
        features : "auto", or "raw" for numbers as they are
        sample_weight : array (n_rows,), optional
            A row of weight k counts as k copies, to the last bit for whole numbers; rows of weight 0 do not
            count.
        kinds : mapping of column name -> "number", "category", "text", "date" or "drop", optional
            In a column that is said to be one of numbers, here and later, cells that are none count as missing.
        n_bins : int, optional
            Piecewise-linear bins beside each scaled number; 0 for none, -1 for as many as rows and columns are worth.
            Left out, 16 in tables of 1,000 rows and more that have categories too, whose numbers (ages, amounts) tend
            to matter in steps; 0 elsewhere.

        Raises
        ------
        DataError
            For cells that cannot be read, naming row and column, and for X without rows or columns.
        UsageError
            For unknown ``features``, kinds or names.
        """
        if features not in ("auto", "raw"):
            raise UsageError(f"features must be 'auto' or 'raw'. Got {features!r} instead")
        if n_bins is not None and n_bins < -1:
            raise UsageError(f"n_bins must be a whole number >= 0, or -1. Got {n_bins!r} instead")
        n_rows, n_columns = X.shape
        if n_rows == 0 or n_columns == 0:
            raise DataError(f"X has {n_rows} rows and {n_columns} columns; at least one of each is needed")
        weights = check_weights(sample_weight, n_rows)
        if weights is not None and not weights.all():
            X = _take_rows(X, weights > 0)
            weights = weights[weights > 0]
        raw = features == "raw"
        if isinstance(X, np.ndarray) or is_sparse(X):
            check_kinds(kinds, None)
            return _fit_matrix(X, weights, raw=raw, n_bins=n_bins or 0)
        return _fit_table(X, weights, kinds, raw=raw, n_bins=n_bins)

    def transform(
        self,
        X: NDArray[Any] | csr_array | pa.Table,
        *,
        dtype: DTypeLike = np.float32,
        counts: dict[str, int] | None = None,
        bad: list[BadCell] | None = None,
    ) -> Encoded:
        """Encode rows; a row's encoding does not depend on the rows beside it, to the last bit.

        Parameters
        ----------
        X : array, csr_array or pyarrow.Table
            Columns are found by name in a table (extra ones warned of), by position in a matrix.
        dtype : float32 or float64
        counts : dict, optional
            Collects for each column how many cells have a category without a slot of its own: never seen,
            or too rare.
        bad : list, optional
            Collects cells that cannot be read, which then count as missing; without it the first one is
            raised.

        Raises
        ------
        DataError
            Naming row and column of a cell that cannot be read, or the columns that are missing.
        """
        cells = Cells(bad)
        parts = self.parts
        if isinstance(parts, TableParts):
            return parts.transform(self._columns_of(X, counts), dtype, counts, cells)
        matrix = self._matrix_of(X, cells)
        if isinstance(parts, SparseMatrix):
            from scipy.sparse import csr_array

            return parts.transform(csr_array(matrix), dtype, cells)
        return parts.transform(matrix.toarray() if is_sparse(matrix) else matrix, dtype, cells)

    def _columns_of(self, X: Any, counts: dict[str, int] | None) -> list[Any]:
        """Return the columns of X in the order of training, without words in those that were told to be numbers."""
        names = self.feature_names_in or ()
        if isinstance(X, np.ndarray) or is_sparse(X):
            self._check_width(X.shape[1])
            return self._columns_of_matrix(X.toarray() if is_sparse(X) else X)
        order, extra = align_names(X.column_names, names)
        if extra:
            shown = ", ".join(repr(name) for name in extra[:10])
            warnings.warn(f"columns that were not there in training are ignored: {shown}", stacklevel=3)
        columns = [X.column(index) for index in order]
        for index in self.told:
            columns[index], strays = numbers_or_missing(columns[index])
            if strays is not None and counts is not None:
                name = f"{names[index]} (no numbers)"
                counts[name] = counts.get(name, 0) + strays.n_strays
        return columns

    def _columns_of_matrix(self, X: NDArray[Any]) -> list[Any]:
        """Return the columns of a matrix; floats that are read as numbers spare the way through Arrow."""
        kinds = self.parts.kinds if isinstance(self.parts, TableParts) else ()
        if X.dtype == np.float64 and set(kinds) <= {"number", "drop"}:
            return [X[:, index] for index in range(len(kinds))]
        import pyarrow as pa

        return [pa.array(X[:, index], from_pandas=True) for index in range(X.shape[1])]

    def _matrix_of(self, X: Any, cells: Cells) -> Any:
        """Return X as a matrix of as many columns as in training; a table's columns are taken by position."""
        self._check_width(X.shape[1])
        if isinstance(X, np.ndarray) or is_sparse(X):
            return X
        from softmaxnet.features.arrow import read_numbers

        columns = zip(X.columns, X.column_names, strict=True)
        return np.stack([read_numbers(column, name, cells) for column, name in columns], axis=1)

    def _check_width(self, n_columns: int) -> None:
        if n_columns != self.n_features_in:
            plural = "" if n_columns == 1 else "s"
            raise DataError(f"X has {n_columns} column{plural}; the model was trained with {self.n_features_in}")

    @cached_property
    def columns(self) -> tuple[ColumnSpec, ...]:
        """What every input column was found to be, and what it becomes."""
        becomes = self._becomes()
        rows = zip(self.kind_codes, self.share_missing, self.n_distinct, becomes, strict=True)
        return tuple(
            ColumnSpec(
                self.feature_names_in[index] if self.feature_names_in else matrix_name(index),
                KINDS[kind],
                float(share),
                None if distinct == UNCOUNTED else int(distinct),
                text,
            )
            for index, (kind, share, distinct, text) in enumerate(rows)
        )

    def _becomes(self) -> list[str]:
        """Return in words what every column becomes."""
        n = self.n_features_in
        if isinstance(self.parts, PixelMatrix):
            return [f"1 pixel, divided by {round(1 / self.parts.dense_scale)}"] * n
        if isinstance(self.parts, SparseMatrix):
            return [
                "1 sparse number" if scale > 0 else "nothing: zero in all of training"
                for scale in self.parts.scale
            ]
        made = self._made()
        texts: list[str] = []
        for index in range(n):
            items = [f"{count} {word}" + ("s" if count > 1 else "") for word, count in made[index].items()]
            empty = self.reasons.get(
                index, "no value in training" if self.n_distinct[index] == 0 else "constant in training"
            )
            texts.append(", ".join(items) or f"nothing: {empty}")
        return texts

    def _made(self) -> list[dict[str, int]]:
        """Return for every column how many outputs of each sort it has."""
        made: list[dict[str, int]] = [{} for _ in range(self.n_features_in)]

        def add(source: int, word: str, count: int = 1) -> None:
            made[source][word] = made[source].get(word, 0) + count

        parts = self.parts
        if isinstance(parts, NumberMatrix | TableParts):
            block = parts.block
            own = np.arange(block.n_in) if isinstance(parts, NumberMatrix) else block_sources(parts.kinds)
            for position, place in enumerate(block.take):
                add(own[place], "scaled number" if position < block.n_curved else "number")
            for place in block.flagged:
                add(own[place], "missing indicator")
            for place in block.bin_column:
                add(own[place], "bin")
        if isinstance(parts, TableParts):
            for column, dense in zip(parts.categories, parts.dense, strict=True):
                add(column.source, "dense level" if dense else "sparse level", column.n_slots)
            for text in parts.texts:
                add(text.source, "sparse token", text.n_tokens)
        return made

    def describe(self) -> list[dict[str, object]]:
        """Return a row for each column: name, kind, share_missing, n_distinct, becomes."""
        return [
            {
                "name": column.name,
                "kind": column.kind,
                "share_missing": column.share_missing,
                "n_distinct": column.n_distinct,
                "becomes": column.becomes,
            }
            for column in self.columns
        ]

    def dense_sources(self) -> NDArray[np.int64]:
        """Return the input column of every dense column, (n_dense,); -1 for a column that stands for none."""
        return self.parts.dense_sources()

    def sparse_sources(self) -> NDArray[np.int64]:
        """Return the input column of every sparse column, (n_sparse,)."""
        return self.parts.sparse_sources()

    def to_state(self) -> tuple[state.Meta, state.Tensors]:
        """Return the encoder as JSON data and tensors whose names begin with ``features.``."""
        parts, tensors = self.parts.to_state()
        meta: state.Meta = {
            "n_features_in": self.n_features_in,
            "feature_names_in": None if self.feature_names_in is None else list(self.feature_names_in),
            "parts": parts,
            "reasons": {str(index): reason for index, reason in self.reasons.items()},
        }
        if self.pictures is not None:
            meta["pictures"] = self.pictures.to_state()
        if self.told:
            meta["told_numbers"] = list(self.told)
        tensors[f"{state.PREFIX}column.kind"] = self.kind_codes
        tensors[f"{state.PREFIX}column.share_missing"] = self.share_missing
        tensors[f"{state.PREFIX}column.n_distinct"] = self.n_distinct
        return meta, tensors

    @classmethod
    def from_state(cls, meta: Mapping[str, object], tensors: Mapping[str, NDArray[Any]]) -> FeatureEncoder:
        """Return the encoder that ``to_state`` wrote; ``ModelFileError`` where anything does not fit."""
        n = state.integer(meta, "n_features_in", 1)
        names = None if meta.get("feature_names_in") is None else state.strings(meta, "feature_names_in")
        codes = state.tensor(tensors, "column.kind", np.uint8, n)
        state.indices_below(codes, len(KINDS), "column.kind")
        reasons: dict[int, str] = {}
        for key, reason in state.mapping(meta, "reasons").items():
            if not key.isascii() or not key.isdigit() or int(key) >= n or not isinstance(reason, str):
                raise ModelFileError(
                    "the reasons of dropped columns in the model file do not fit its columns"
                )
            reasons[int(key)] = reason
        return cls(
            n,
            names,
            _parts_from_state(
                state.mapping(meta, "parts"), tensors, names, n, tuple(KINDS[code] for code in codes)
            ),
            codes,
            state.tensor(tensors, "column.share_missing", np.float64, n),
            state.tensor(tensors, "column.n_distinct", np.int64, n),
            reasons,
            PictureStyle.from_state(state.mapping(meta, "pictures"), n) if "pictures" in meta else None,
            _told_from_state(meta, names, codes),
        )


def _told_from_state(
    meta: Mapping[str, object], names: tuple[str, ...] | None, codes: NDArray[np.uint8]
) -> tuple[int, ...]:
    """Return the columns that were told to be numbers; they are columns of numbers, and have names."""
    told = meta.get("told_numbers", [])
    fits = isinstance(told, list) and (names is not None or not told)
    for index in told if isinstance(told, list) else ():
        fits = fits and type(index) is int and 0 <= index < len(codes) and KINDS[codes[index]] in ("number", "drop")
    if not fits:
        raise ModelFileError("the columns told to be numbers in the model file do not fit its columns")
    return tuple(told) if isinstance(told, list) else ()


def _parts_from_state(
    meta: Mapping[str, object],
    tensors: Mapping[str, NDArray[Any]],
    names: tuple[str, ...] | None,
    n_columns: int,
    kinds: tuple[Kind, ...],
) -> Parts:
    """Return the parts of the form that the model file names, checked to be as wide as the encoder."""
    form = meta.get("form")
    parts: Parts
    if form == TableParts.form:
        if names is None or len(names) != n_columns or len(set(names)) != n_columns:
            raise ModelFileError("the column names in the model file do not fit its number of columns")
        return TableParts.from_state(meta, tensors, names, kinds)
    if names is not None:
        raise ModelFileError("the model file has column names for a matrix without names")
    if form == NumberMatrix.form:
        parts = NumberMatrix.from_state(meta, tensors)
        width = parts.block.n_in
    elif form == PixelMatrix.form:
        parts = PixelMatrix.from_state(meta, tensors)
        width = parts.n_in
    elif form == SparseMatrix.form:
        parts = SparseMatrix.from_state(meta, tensors)
        width = parts.n_sparse
    else:
        raise ModelFileError(f"the model file's features have the unknown form {form!r}")
    if width != n_columns:
        raise ModelFileError(f"the model file's features have {width} columns; its schema has {n_columns}")
    return parts


def _take_rows(X: Any, keep: NDArray[np.bool_]) -> Any:
    """Return the rows of X that are to be kept."""
    return X[keep] if isinstance(X, np.ndarray) or is_sparse(X) else X.filter(keep)


def _fit_matrix(X: Any, weights: Floats | None, *, raw: bool, n_bins: int) -> FeatureEncoder:
    n = X.shape[1]
    kinds = np.full(n, KINDS.index("boolean" if X.dtype == np.bool_ else "number"), dtype=np.uint8)
    share, distinct = np.zeros(n), np.full(n, UNCOUNTED, dtype=np.int64)
    if is_sparse(X) and n > DENSE_MAX_COLUMNS:
        return FeatureEncoder(n, None, fit_sparse(X, Cells(), raw=raw), kinds, share, distinct, {})
    dense = X.toarray() if is_sparse(X) else X
    parts, seen = fit_matrix(dense, weights, Cells(), raw=raw, n_bins=n_bins)
    if seen is not None:
        share, distinct = seen.share_missing, seen.n_distinct
    some = np.nan_to_num(dense[:: max(len(dense) // PICTURES_LOOKED_AT, 1)][:PICTURES_LOOKED_AT] + 0)
    shape = picture_shape(some)
    style = None if shape is None else measure_style(some, shape)
    return FeatureEncoder(n, None, parts, kinds, share, distinct, {}, style)


def _fit_table(
    X: Any, weights: Floats | None, kinds: Mapping[str, str] | None, *, raw: bool, n_bins: int | None
) -> FeatureEncoder:
    names = tuple(X.column_names)
    align_names(names, names)  # refuses names that occur twice
    wanted = check_kinds(kinds, names)
    told = tuple(index for index, name in enumerate(names) if wanted.get(name) == "number")
    parts, found, seen = fit_table(_told_numbers(X, told), names, weights, wanted, raw=raw, n_bins=n_bins)
    share, distinct = np.ones(len(names)), np.zeros(len(names), dtype=np.int64)
    sources = block_sources(parts.kinds)
    share[sources[::-1]], distinct[sources[::-1]] = seen.share_missing[::-1], seen.n_distinct[::-1]
    for index, column in enumerate(found):
        if column.coded is not None and column.kind != "number":
            codes = column.coded.codes
            gone = codes < 0
            share[index] = gone.mean() if weights is None else weights[gone].sum() / weights.sum()
            distinct[index] = np.unique(codes[~gone]).size
    reasons = {index: column.reason for index, column in enumerate(found) if column.reason}
    return FeatureEncoder(len(names), names, parts, kind_codes(parts.kinds), share, distinct, reasons, told=told)


def _told_numbers(X: Any, told: tuple[int, ...]) -> list[Any]:
    """Return the columns, with words in those that were told to be numbers as missing values."""
    columns = list(X.columns)
    for index in told:
        columns[index], strays = numbers_or_missing(columns[index])
        if strays is not None and strays.n_strays == strays.n_values:
            name = X.column_names[index]
            raise DataError(
                f"{table_name(name)} is to be one of numbers, and none of its {strays.n_values:,} values is one, such "
                f"as {strays.word!r}",
                column=name,
            )
    return columns
