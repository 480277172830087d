"""Little data: rows in canonical order, equal ones merged, and the time that a fit of them may take."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.features.encoded import Encoded
from softmaxnet.fitted import Examples
from softmaxnet.recipe import SMALL_ROWS, Plan

if TYPE_CHECKING:
    import scipy.sparse
    from numpy.typing import NDArray

__all__ = [
    "Clock",
    "OutOfTime",
    "canonical",
    "copies_to_deal",
    "merged_where_few",
]

LOOKED_AT = 4096
"""Of many rows, to see whether there are few distinct ones."""


class OutOfTime(Exception):
    """The time for a search is over."""


class Clock:
    """The time that a fit on little data may take, of which a search may use four fifths."""

    def __init__(self, max_seconds: float | None) -> None:
        self.max_seconds = max_seconds
        self.started = time.monotonic()

    def left(self, share: float = 1.0) -> float | None:
        """Return the seconds that are left of a share of all; None for no limit."""
        if self.max_seconds is None:
            return None
        return max(share * self.max_seconds - (time.monotonic() - self.started), 0.0)

    def left_for_search(self) -> float | None:
        """Return the seconds that a search may still take, or raise where there are none."""
        left = self.left(0.8)
        if left == 0:
            raise OutOfTime
        return left

    def has_time_for(self, share: float) -> bool:
        """Whether as much time is left as a share of what has gone by."""
        left = self.left()
        return left is None or left > share * (time.monotonic() - self.started)

    def is_out(self) -> bool:
        """Whether no time is left."""
        return self.left() == 0

    def rest_of(self, plan: Plan, share: float = 1.0) -> Plan:
        """Return the plan with a share of what is left of its time, a millisecond at least, in which a step is made."""
        left = self.left()
        return plan if left is None else replace(plan, max_seconds=max(share * left, 1e-3))


def canonical(examples: Examples) -> Examples:
    """Return the rows in sorted order, equal ones merged into one that has their weight.

    A row of weight 2 and the same row twice are then one and the same input, and so is any order of the rows: what is
    fitted does not depend on how the data was written down, to the last bit.
    """
    encoded = examples.encoded
    dense = np.asarray(encoded.dense, dtype=np.float64) * encoded.dense_scale
    keys = [dense]
    if encoded.sparse is not None:
        keys.append(_row_ranks(encoded.sparse)[:, None])
    if examples.groups is not None:
        keys.append(np.unique(examples.groups, return_inverse=True)[1][:, None].astype(np.float64))
    keys.append(examples.target[:, None].astype(np.float64))
    _, first, inverse = np.unique(np.hstack(keys) + 0.0, axis=0, return_index=True, return_inverse=True)
    weight = np.bincount(inverse.ravel(), weights=examples.weight).astype(np.float64)
    merged = examples.take(first)
    return replace(merged, encoded=Encoded(dense[first], 1.0, merged.encoded.sparse), weight=weight)


def merged_where_few(examples: Examples) -> Examples:
    """Return many rows of few distinct values as those few, with summed weights; any others as they are.

    A million rows of three distinct values tell no more than three rows for each class with the weights of all.
    """
    dense, n_rows = examples.encoded.dense, len(examples)
    plain = examples.target.ndim == 1 and examples.groups is None and examples.encoded.sparse is None
    if n_rows <= SMALL_ROWS or not plain:
        return examples
    some = np.linspace(0, n_rows - 1, LOOKED_AT).astype(np.int64)
    if len(np.unique(_as_bytes(dense[some]))) > SMALL_ROWS // 2:
        return examples
    _, inverse = np.unique(_as_bytes(dense), return_inverse=True)
    n_classes = int(examples.target.max()) + 1
    cells, rows, cell = np.unique(inverse * n_classes + examples.target, return_index=True, return_inverse=True)
    if len(cells) > SMALL_ROWS:
        return examples
    return replace(examples.take(rows), weight=np.bincount(cell, weights=examples.weight).astype(np.float64))


def _as_bytes(dense: NDArray[Any]) -> NDArray[np.void]:
    """Return each row as one value that can be compared and sorted."""
    rows = np.ascontiguousarray(dense + dense.dtype.type(0))  # -0.0 is 0.0
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


def copies_to_deal(examples: Examples, n_folds: int) -> NDArray[np.int64]:
    """Return into how many parts each of the canonical rows is to be cut for cross-validation.

    A row stands for all copies of itself. Where the same inputs have other labels too, to hold all copies of one label
    out would leave the others without any counterpart: the copies are dealt to the folds, as they would be if they were
    rows of their own. Elsewhere to hold out all copies is the stricter test.
    """
    keys = [examples.encoded.dense]
    if examples.encoded.sparse is not None:
        keys.append(_row_ranks(examples.encoded.sparse)[:, None])
    _, inputs = np.unique(np.hstack(keys), axis=0, return_inverse=True)
    inputs = inputs.ravel()
    contradicted = np.bincount(inputs)[inputs] > 1
    copies = np.clip(np.floor(examples.weight + 1e-9), 1, n_folds).astype(np.int64)
    return np.where(contradicted & (examples.groups is None), copies, 1)


def _row_ranks(block: scipy.sparse.csr_array) -> NDArray[np.float64]:
    """Return a number for each row of a sparse block, the same for equal rows, in the order of their bytes."""
    data = block.data + 0.0  # -0.0 is 0.0
    bounds = list(zip(block.indptr[:-1], block.indptr[1:], strict=True))
    rows = [block.indices[i:j].tobytes() + data[i:j].tobytes() for i, j in bounds]
    rank = {row: float(i) for i, row in enumerate(sorted(set(rows)))}
    return np.array([rank[row] for row in rows])
