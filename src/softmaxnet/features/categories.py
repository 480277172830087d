"""Categories: one slot for each level that is common enough, one for all others, one for missing cells.

A row of a column is its slot: a one in the dense block (few slots) or an active index of the sparse block
(many slots), where a level is a row of the first weight matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxnet.errors import ModelFileError
from softmaxnet.features import state
from softmaxnet.features.arrow import Coded
from softmaxnet.features.quantiles import Floats

DENSE_MAX_SLOTS = 32
"""A column with at most this many slots goes to the dense block ..."""
DENSE_MAX_TOTAL = 1024
"""... until all such columns together have this many; then the widest go to the sparse block."""
MIN_COUNT = 3.0
"""Rows that a level needs for a slot of its own; fewer where there are fewer than 150 rows."""


@dataclass(frozen=True, eq=False)
class CategoryColumn:
    """One column of categories.

    Attributes
    ----------
    source : int
        The column of the table.
    levels : tuple of str, sorted
        Levels with a slot of their own: slot i is level i.
    has_other : bool
        Whether training pooled rare levels: the next slot is for them, and for levels never seen. Without
        it a level never seen is all zeros, as a slot that no training row used would be noise.
    has_missing : bool
        Whether cells were missing in training: the last slot. Without it a missing cell is treated as a
        level never seen.
    """

    source: int
    levels: tuple[str, ...]
    has_other: bool
    has_missing: bool

    @property
    def n_slots(self) -> int:
        """Slots of the column."""
        return len(self.levels) + self.has_other + self.has_missing

    @cached_property
    def _slot_of(self) -> dict[str, int]:
        return {level: slot for slot, level in enumerate(self.levels)}

    def slots(self, coded: Coded) -> tuple[NDArray[np.int64], int]:
        """Return the slot of every row, -1 for all zeros, and how many rows have a level without a slot."""
        other = len(self.levels) if self.has_other else -1
        table = np.empty(len(coded.values) + 1, dtype=np.int64)
        table[:-1] = [self._slot_of.get(value, -2) for value in coded.values]
        table[-1] = len(self.levels) + self.has_other if self.has_missing else other
        slots = table[coded.codes]
        unseen = slots == -2
        n_unseen = int(np.count_nonzero(unseen))
        if n_unseen:
            slots[unseen] = other
        return slots, n_unseen

    def labels(self) -> list[str]:
        """Return the name of every slot."""
        return [*self.levels, *(["(other)"] * self.has_other), *(["(missing)"] * self.has_missing)]


def level_counts(coded: Coded, weights: Floats | None) -> tuple[Floats, float]:
    """Return the weighted rows of every distinct value and of missing cells."""
    counts = np.bincount(coded.codes + 1, weights=weights, minlength=len(coded.values) + 1).astype(np.float64)
    return counts[1:], float(counts[0])


def enough(total: float) -> float:
    """Return the rows that a level needs for a slot: 3, and fewer where all rows are fewer than 150.

    Examples
    --------
    >>> enough(40.0), enough(100.0), enough(1e6)
    (0.8, 2.0, 3.0)
    """
    return min(MIN_COUNT, total / 50)


def fit_category(source: int, coded: Coded, weights: Floats | None) -> CategoryColumn:
    """Choose the slots of a column."""
    counts, missing = level_counts(coded, weights)
    keep = counts >= enough(float(counts.sum()) + missing)
    keep &= counts > 0
    levels = sorted(value for value, kept in zip(coded.values, keep, strict=True) if kept)
    return CategoryColumn(source, tuple(levels), bool((counts[~keep] > 0).any()), missing > 0)


def place_columns(columns: Sequence[CategoryColumn]) -> list[bool]:
    """Say which columns go to the dense block: the narrow ones, until that block is full.

    Examples
    --------
    >>> wide = CategoryColumn(0, tuple(map(str, range(40))), False, False)
    >>> place_columns([wide, CategoryColumn(1, ("a", "b"), False, False)])
    [False, True]
    """
    dense = [False] * len(columns)
    used = 0
    for index in sorted(range(len(columns)), key=lambda i: (columns[i].n_slots, i)):
        used += columns[index].n_slots
        dense[index] = columns[index].n_slots <= DENSE_MAX_SLOTS and used <= DENSE_MAX_TOTAL
    return dense


def categories_to_state(columns: Sequence[CategoryColumn], dense: Sequence[bool]) -> state.Tensors:
    """Return all category columns as tensors."""
    data, offsets = state.pack_strings([level for column in columns for level in column.levels])
    rows = [
        (column.source, len(column.levels), column.has_other, column.has_missing, is_dense)
        for column, is_dense in zip(columns, dense, strict=True)
    ]
    return {
        f"{state.PREFIX}category.columns": np.array(rows, dtype=np.int64).reshape(-1),
        f"{state.PREFIX}category.level_bytes": data,
        f"{state.PREFIX}category.level_offsets": offsets,
    }


def categories_from_state(
    tensors: Mapping[str, NDArray[Any]], n_columns: int
) -> tuple[list[CategoryColumn], list[bool]]:
    """Return what ``categories_to_state`` wrote, checked; ``n_columns`` is the width of the table."""
    flat = state.tensor(tensors, "category.columns", np.int64)
    if flat.size % 5:
        raise ModelFileError("tensor 'features.category.columns' must have 5 numbers for each column")
    rows = flat.reshape(-1, 5)
    state.indices_below(rows[:, 0], n_columns, "category.columns")
    state.indices_below(rows[:, 2:], 2, "category.columns")
    levels = state.unpack_strings(
        state.tensor(tensors, "category.level_bytes", np.uint8),
        state.tensor(tensors, "category.level_offsets", np.int64),
    )
    ends = np.cumsum(rows[:, 1], dtype=np.int64)
    if (rows[:, 1] < 0).any() or (ends[-1] if ends.size else 0) != len(levels):
        raise ModelFileError("the numbers of category levels do not add up to the levels in the model file")
    columns: list[CategoryColumn] = []
    for (source, count, other, missing, _), end in zip(rows.tolist(), ends.tolist(), strict=True):
        own = levels[end - count : end]
        if any(a >= b for a, b in pairwise(own)):
            raise ModelFileError("the category levels in the model file must be sorted and distinct")
        columns.append(CategoryColumn(source, tuple(own), bool(other), bool(missing)))
    return columns, [bool(value) for value in rows[:, 4]]
