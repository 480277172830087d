"""Tables with named columns: each column goes to the part that its kind asks for, the parts side by side.

The dense block is the number block (numbers, truth values, parts of dates) and then the narrow categories;
the sparse block is the wide categories and then the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from softmaxnet.errors import ModelFileError
from softmaxnet.features import state
from softmaxnet.features.arrow import Coded, Column, code_numbers, read_booleans, read_coded, read_numbers
from softmaxnet.features.categories import (
    CategoryColumn,
    categories_from_state,
    categories_to_state,
    fit_category,
    place_columns,
)
from softmaxnet.features.columns import KINDS, Cells, Kind, table_name
from softmaxnet.features.dates import N_PARTS, PARTS, TREATMENTS, read_dates
from softmaxnet.features.encoded import Encoded, narrow
from softmaxnet.features.inspect import Inspected, inspect_column
from softmaxnet.features.numbers import CURVED, PLAIN, RAW, NumberBlock, Statistics, fit_numbers
from softmaxnet.features.quantiles import Floats
from softmaxnet.features.text import TextColumn, fit_text, texts_from_state, texts_to_state

if TYPE_CHECKING:
    from scipy.sparse import csr_array

NUMERIC: tuple[Kind, ...] = ("number", "boolean", "date")


@dataclass(frozen=True, eq=False)
class TableParts:
    """The parts of a fitted table.

    Attributes
    ----------
    names, kinds : tuple, one for each column
    block : NumberBlock
        Over one column for each number and truth value and eight for each date, in the table's order.
    categories : tuple of CategoryColumn
    dense : tuple of bool
        Whether each category column goes to the dense block.
    texts : tuple of TextColumn
    """

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    block: NumberBlock
    categories: tuple[CategoryColumn, ...]
    dense: tuple[bool, ...]
    texts: tuple[TextColumn, ...]
    form = "table"

    @property
    def _n_encoded(self) -> int:
        narrow = zip(self.categories, self.dense, strict=True)
        return self.block.n_out + sum(column.n_slots for column, dense in narrow if dense)

    @property
    def n_dense(self) -> int:
        """Columns of the dense block; one of zeros where nothing else is left."""
        return self._n_encoded or int(self.n_sparse == 0)

    @property
    def n_sparse(self) -> int:
        """Columns of the sparse block."""
        wide = (
            column.n_slots for column, dense in zip(self.categories, self.dense, strict=True) if not dense
        )
        return sum(wide) + sum(column.n_tokens for column in self.texts)

    def transform(
        self, columns: Sequence[Column], dtype: DTypeLike, counts: dict[str, int] | None, cells: Cells
    ) -> Encoded:
        """Encode columns that are in the order of ``names``."""
        n_rows = len(columns[0])
        values = self._read_numeric(columns, n_rows, cells)
        out = np.zeros((n_rows, self.n_dense), dtype=dtype)
        sources = block_sources(self.kinds)
        self.block.fill_into(
            values.T, out[:, : self.block.n_out], cells, lambda j: table_name(self.names[sources[j]])
        )
        wide: list[tuple[NDArray[np.int64], int]] = []
        offset = self.block.n_out
        for column, dense in zip(self.categories, self.dense, strict=True):
            slots, n_unseen = column.slots(self._read_levels(columns, column.source, values))
            if counts is not None and n_unseen:
                name = self.names[column.source]
                counts[name] = counts.get(name, 0) + n_unseen
            if dense:
                rows = np.flatnonzero(slots >= 0)
                out[rows, offset + slots[rows]] = 1
                offset += column.n_slots
            else:
                wide.append((slots, column.n_slots))
        return Encoded(out, 1.0, self._sparse(columns, wide, n_rows, dtype))

    def _read_numeric(self, columns: Sequence[Column], n_rows: int, cells: Cells) -> Floats:
        """Return the number block's input, (n_columns, n_rows): a row for each column."""
        values = np.empty((self.block.n_in, n_rows))
        at = 0
        for index, kind in enumerate(self.kinds):
            if kind not in NUMERIC:
                continue
            found = read_numeric(columns[index], self.names[index], kind, cells)
            values[at : at + found.shape[0]] = found
            at += found.shape[0]
        return values

    def _read_levels(self, columns: Sequence[Column], source: int, values: Floats) -> Coded:
        """Return a column's cells as levels; numbers were read already."""
        if self.kinds[source] == "number":
            return code_numbers(values[int(np.searchsorted(block_sources(self.kinds), source))])
        return read_coded(columns[source], self.names[source])

    def _sparse(
        self,
        columns: Sequence[Column],
        wide: Sequence[tuple[NDArray[np.int64], int]],
        n_rows: int,
        dtype: DTypeLike,
    ) -> csr_array | None:
        if not self.n_sparse and not self.texts:
            return None  # and no table of numbers and narrow categories loads SciPy
        from scipy.sparse import csr_array, hstack

        parts = [one_index(wide, n_rows)] if wide else []
        parts += [
            column.transform(read_coded(columns[column.source], self.names[column.source]))
            for column in self.texts
        ]
        if not self.n_sparse:
            return None
        joined = parts[0] if len(parts) == 1 else csr_array(hstack(parts, format="csr"))
        return narrow(joined, dtype)

    def dense_sources(self) -> NDArray[np.int64]:
        """Return the input column of every dense column; -1 for none."""
        own = block_sources(self.kinds)[self.block.sources()]
        slots = [
            np.full(c.n_slots, c.source)
            for c, dense in zip(self.categories, self.dense, strict=True)
            if dense
        ]
        sources = np.concatenate([own, *slots])
        return sources if sources.size else np.full(self.n_dense, -1)

    def sparse_sources(self) -> NDArray[np.int64]:
        """Return the input column of every sparse column."""
        slots = [
            np.full(c.n_slots, c.source)
            for c, dense in zip(self.categories, self.dense, strict=True)
            if not dense
        ]
        tokens = [np.full(column.n_tokens, column.source) for column in self.texts]
        return np.concatenate([np.empty(0, dtype=np.int64), *slots, *tokens])

    def to_state(self) -> tuple[state.Meta, state.Tensors]:
        """Return it as plain data; names and kinds are the encoder's."""
        meta, tensors = self.block.to_state()
        tensors |= categories_to_state(self.categories, self.dense)
        tensors |= texts_to_state(self.texts)
        return {"form": self.form, "block": meta}, tensors

    @classmethod
    def from_state(
        cls,
        meta: Mapping[str, object],
        tensors: Mapping[str, NDArray[Any]],
        names: tuple[str, ...],
        kinds: tuple[Kind, ...],
    ) -> TableParts:
        """Return what ``to_state`` wrote, after checking that the parts fit the columns."""
        block = NumberBlock.from_state(state.mapping(meta, "block"), tensors)
        categories, dense = categories_from_state(tensors, len(names))
        texts = texts_from_state(tensors, len(names))
        if block.n_in != block_sources(kinds).size:
            raise ModelFileError(
                f"the number block has {block.n_in} columns, which does not fit the table's kinds"
            )
        if any(kinds[c.source] not in ("category", "number") for c in categories):
            raise ModelFileError("a category column of the model file is of another kind in its schema")
        if any(kinds[c.source] != "text" for c in texts):
            raise ModelFileError("a text column of the model file is of another kind in its schema")
        return cls(names, kinds, block, tuple(categories), tuple(dense), tuple(texts))


def read_numeric(column: Column, name: str, kind: Kind, cells: Cells) -> Floats:
    """Return a number, truth value or date column as rows of the number block's input."""
    if kind == "date":
        return read_dates(column, name, cells).T
    read = read_booleans if kind == "boolean" else read_numbers
    return read(column, name, cells)[None, :]


def block_sources(kinds: Sequence[Kind]) -> NDArray[np.int64]:
    """Return the table's column of every column of the number block.

    Examples
    --------
    >>> block_sources(("number", "text", "date")).tolist()
    [0, 2, 2, 2, 2, 2, 2, 2, 2]
    """
    widths = [(kind in NUMERIC) * (N_PARTS if kind == "date" else 1) for kind in kinds]
    return np.repeat(np.arange(len(kinds)), widths)


def one_index(wide: Sequence[tuple[NDArray[np.int64], int]], n_rows: int) -> csr_array:
    """Return indicators of wide categories side by side, a one at each row's slot of each column.

    Examples
    --------
    >>> one_index([(np.array([1, -1]), 2), (np.array([0, 2]), 3)], 2).toarray()
    array([[0., 1., 1., 0., 0.],
           [0., 0., 0., 0., 1.]])
    """
    from scipy.sparse import csr_array

    widths = np.array([width for _, width in wide], dtype=np.int64)
    slots = np.stack([slots for slots, _ in wide], axis=1)
    used = slots >= 0
    indices = (slots + (np.cumsum(widths) - widths))[used]
    pointers = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return csr_array((np.ones(indices.size), indices, pointers), shape=(n_rows, int(widths.sum())))


MIXED_TABLE_BINS = 16
BINNED_ROWS = 1000
"""Numbers of tables that have categories too get piecewise-linear bins from this many rows on (benchmarks/NOTES.md)."""


def fit_table(
    columns: Sequence[Column],
    names: tuple[str, ...],
    weights: Floats | None,
    wanted: Mapping[str, Kind],
    *,
    raw: bool,
    n_bins: int | None,
) -> tuple[TableParts, list[Inspected], Statistics]:
    """Inspect every column and fit the part of its kind."""
    found = [
        inspect_column(column, name, weights, wanted.get(name), alone=len(names) == 1)
        for column, name in zip(columns, names, strict=True)
    ]
    kinds = tuple(column.kind for column in found)
    sources = block_sources(kinds)
    if n_bins is None:
        mixed = "category" in kinds and len(columns[0]) >= BINNED_ROWS
        n_bins = MIXED_TABLE_BINS if mixed and not raw else 0
    block, seen = _fit_block(found, names, weights, raw=raw, n_bins=n_bins)
    common = block.n_plain > 0 and not block.n_curved
    kept = [_category(index, column, weights, codes=not raw and not common) for index, column in enumerate(found)]
    categories = [column for column in kept if column is not None and column.n_slots > 1]
    texts = [
        fit_text(index, column.coded, weights)
        for index, column in enumerate(found)
        if column.kind == "text" and column.coded is not None
    ]
    dense = place_columns(categories)
    parts = TableParts(names, kinds, block, tuple(categories), tuple(dense), tuple(texts))
    if raw and (seen.share_missing[[kinds[j] == "number" for j in sources]] > 0).any():
        parts.transform(columns, np.float64, None, Cells())  # reports the first missing cell
    return parts, found, seen


def _category(index: int, column: Inspected, weights: Floats | None, *, codes: bool) -> CategoryColumn | None:
    """Return the slots of a category, or of a number that may be a code, or None.

    Numbers in common units, such as pixels, are no codes.
    """
    if column.coded is None or (column.kind != "category" and not (codes and column.kind == "number")):
        return None
    return fit_category(index, column.coded, weights)


def _fit_block(
    found: Sequence[Inspected], names: Sequence[str], weights: Floats | None, *, raw: bool, n_bins: int
) -> tuple[NumberBlock, Statistics]:
    """Fit the block of all numbers, truth values and parts of dates."""
    rows: list[Floats] = []
    treatment: list[int] = []
    may_flag: list[bool] = []
    labels: list[str] = []
    for column, name in zip(found, names, strict=True):
        if column.values is None:
            continue
        if column.kind == "date":
            rows += list(column.values.T)
            treatment += TREATMENTS
            may_flag += [part == PARTS[0] for part in PARTS]
            labels += [name] * N_PARTS
        else:
            rows.append(column.values)
            treatment.append(PLAIN if column.kind == "boolean" else RAW if raw else CURVED)
            may_flag.append(True)
            labels.append(name)
    n_rows = rows[0].size if rows else 0
    return fit_numbers(
        np.array(rows).reshape(len(rows), n_rows).T,
        weights,
        Cells(),
        lambda j: table_name(labels[j]),
        treatment=np.array(treatment, dtype=np.uint8),
        may_flag=np.array(may_flag, dtype=bool),
        n_bins=n_bins,
    )


def kind_codes(kinds: Sequence[Kind]) -> NDArray[np.uint8]:
    """Return kinds as their places in ``KINDS``."""
    return np.array([KINDS.index(kind) for kind in kinds], dtype=np.uint8)
