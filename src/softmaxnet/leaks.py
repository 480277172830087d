"""A column that alone gives the target away: single columns are tried as predictors of rows held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softmaxnet.data.frames import take_rows
from softmaxnet.errors import DataError
from softmaxnet.features.encoded import Encoded
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.quantiles import Floats

__all__ = ["Leak", "SampledColumn", "find_leaks"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_ERROR = 0.03
"""A suspect makes at most this share of the errors that always saying the most frequent class makes."""
NEARLY_NONE = 0.005
"""A suspect with at most this share is taken out of the columns that another suspect is compared with."""
MIN_ROWS = 50
JUDGE_ROWS = 2000
"""Rows with which the other columns are judged: half to learn from, half held out."""
JUDGE_CELLS = 10_000_000
MAX_COMPARED = 8
"""Suspects that are compared with the other columns, those with the fewest errors."""
RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class SampledColumn:
    """A column of the sample as numbers.

    Attributes
    ----------
    index : int
        Its place in the table.
    values : float64 (n_rows,)
        Numbers, with NaN where missing, or the codes of categories.
    ordered : bool
        Whether values near each other mean something alike; False for codes.
    """

    index: int
    values: Floats
    ordered: bool


@dataclass(frozen=True)
class Leak:
    """A column that predicts the target far better than all others together.

    Attributes
    ----------
    index : int
    accuracy : float
        Share of held-out rows that the column alone has right.
    accuracy_without : float or None
        Share that the other columns together have right; None for a copy, which is not compared.
    is_copy : bool
        Every value goes with one class and every class with one value.
    n_values : int
        Different values in the rows that were looked at.
    """

    index: int
    accuracy: float
    accuracy_without: float | None
    is_copy: bool
    n_values: int


def find_leaks(
    columns: Sequence[SampledColumn],
    labels: Ints,
    n_classes: int,
    without: Callable[[list[int]], Any],
    groups: Ints | None = None,
) -> list[Leak]:
    """Return the columns that give the target away.

    A column is a leak where it is a copy of the target, or where all of this holds:

    1. *It is a suspect.* The rows are cut in two halves (whole groups, where there are groups), and each half
       is predicted from the other by this column alone: the majority class of the same value; for numbers, of
       the nearest value. Categories that the other half does not have are passed over, if they are fewer than
       half of the rows. It makes at most 3 % of the errors of always saying the most frequent class, 2 K
       errors apart (a number in class order errs at each of its K borders, whatever the number of rows).
    2. *The others do not know it.* All other columns together, by ridge regression on their encoding with a
       linear and a radial kernel, whichever is better, err at least three times as often, and more often by
       four standard errors. Suspects that make nearly no errors are left out of the others, up to a fifth of
       the columns, so that two leaks do not excuse each other.

    A feature that is only strong, such as the length of an iris petal, fails both.

    Parameters
    ----------
    columns : sequence of SampledColumn
    labels : int64 (n_rows,), in 0..n_classes-1
    n_classes : int
    without : callable
        Given column indices, returns X of the sample without these columns, or None where none is left.
    groups : int64 (n_rows,), optional
        Rows of one group are on one side of every cut.
    """
    if len(labels) < MIN_ROWS // 2 or np.ptp(labels) == 0:
        return []
    half = _halves(len(labels), groups)
    tried = {column.index: _tried(column, labels, half, n_classes) for column in columns}
    copies = {column.index for column in columns if _is_copy(column, labels)}
    suspects = [index for index, one in tried.items() if index not in copies and one.errs_at_most(MAX_ERROR, 2)]
    clean = [index for index in suspects if tried[index].errs_at_most(NEARLY_NONE, 1)]
    if len(clean) > max(2, len(columns) // 5):
        clean = []
    n_values = {c.index: np.unique(c.values).size for c in columns if c.index in (*suspects, *copies)}
    found = [Leak(index, tried[index].accuracy, None, True, n_values[index]) for index in copies]
    if len(labels) >= MIN_ROWS:
        for index in sorted(suspects, key=lambda i: (-tried[i].accuracy, i))[:MAX_COMPARED]:
            others = _without_it(tried[index], labels, half, without(sorted({index, *clean, *copies})))
            if others is not None:
                found.append(Leak(index, tried[index].accuracy, others, False, n_values[index]))
    return sorted(found, key=lambda leak: leak.index)


class _Tried(NamedTuple):
    """One column as a predictor of the rows held out."""

    wrong: Bools  # (n_rows,)
    judged: Bools  # (n_rows,): the value is known from the other half, or is near one
    base: float  # share of errors of always saying the most frequent class
    n_classes: int

    @property
    def accuracy(self) -> float:
        """Share of judged rows that are right."""
        return 1 - int(self.wrong[self.judged].sum()) / max(1, int(self.judged.sum()))

    def errs_at_most(self, share: float, per_class: int) -> bool:
        """Say whether errors are within a share of those without any column, and so many for each class."""
        n = int(self.judged.sum())
        apart = min(per_class * self.n_classes, per_class * n // 20)
        return n >= len(self.wrong) // 2 and int(self.wrong[self.judged].sum()) <= share * self.base * n + apart


def _halves(n_rows: int, groups: Ints | None) -> Bools:
    """Return which rows are in the first half."""
    generator = np.random.Generator(np.random.Philox(key=0, counter=[0, 0, 0, 5]))
    if groups is None:
        return np.asarray(generator.permutation(n_rows) % 2 == 0)
    _, unit = np.unique(groups, return_inverse=True)
    return np.asarray((generator.permutation(int(unit.max()) + 1) % 2 == 0)[unit])


def _is_copy(column: SampledColumn, labels: Ints) -> bool:
    """Say whether values and classes are one to one, with two rows of each on average at least."""
    values = column.values
    if np.isnan(values).any():
        return False
    head = min(len(values), 200)
    if np.unique(values[:head]).size > np.unique(labels[:head]).size:
        return False
    levels, codes = np.unique(values, return_inverse=True)
    present = np.unique(labels).size
    pairs = np.unique(codes * (int(labels.max()) + 1) + labels).size
    return bool(levels.size == present == pairs and len(values) >= max(20, 2 * present))


def _tried(column: SampledColumn, labels: Ints, half: Bools, n_classes: int) -> _Tried:
    """Predict each half by the other half's majority by value."""
    wrong, judged = np.zeros((2, len(labels)), dtype=bool)
    for side in (half, ~half):
        if side.any() and not side.all():
            known = column.values[side], labels[side]
            predicted = _majority_of_value(*known, column.values[~side], n_classes, ordered=column.ordered)
            wrong[~side], judged[~side] = predicted != labels[~side], predicted >= 0
    counts = np.bincount(labels[judged], minlength=1)
    return _Tried(wrong, judged, float(1 - counts.max() / max(1, counts.sum())), n_classes)


def _majority_of_value(values: Floats, labels: Ints, asked: Floats, n_classes: int, *, ordered: bool) -> Ints:
    """Return the most frequent class among rows of the same value, or else of the nearest one; -1 for none.

    Examples
    --------
    >>> values, labels = np.array([1.0, 1.0, 5.0, np.nan]), np.array([0, 0, 1, 2])
    >>> _majority_of_value(values, labels, np.array([1.0, 4.0, np.nan]), 3, ordered=True)
    array([0, 1, 2])
    >>> _majority_of_value(values, labels, np.array([1.0, 4.0, np.nan]), 3, ordered=False)
    array([ 0, -1,  2])
    """
    levels, codes = np.unique(values, return_inverse=True)  # NaN is the last level, once
    key, counts = np.unique(codes * n_classes + labels, return_counts=True)
    order = np.lexsort((counts, key // n_classes))
    last = np.flatnonzero(np.diff(key[order] // n_classes, append=-1))
    majority = key[order[last]] % n_classes
    above = np.minimum(np.searchsorted(levels, asked), levels.size - 1)
    same = (levels[above] == asked) | (np.isnan(levels[above]) & np.isnan(asked))
    if not ordered:
        return np.where(same, majority[above], -1)
    below = np.maximum(above - 1, 0)
    with np.errstate(invalid="ignore"):  # a comparison with NaN is False: a NaN above gives way
        nearer = np.abs(levels[above] - asked) <= np.abs(asked - levels[below])
    predicted = majority[np.where(same | nearer, above, below)]
    return np.where(np.isnan(asked) & ~same, -1, predicted)


# What the other columns know


def _without_it(tried: _Tried, labels: Ints, half: Bools, X: Any) -> float | None:
    """Return the accuracy of the other columns, X, if they err clearly more often on the same rows."""
    if X is None:
        return None
    n_judged = min(JUDGE_ROWS, max(200, JUDGE_CELLS // X.shape[1]))
    # every so many rows rather than the first ones: the rows may be in the order of the classes
    first, second = (_spread(np.flatnonzero(side & tried.judged), n_judged // 2) for side in (half, ~half))
    if not len(first) or not len(second):
        return None
    errors_others = errors_own = 0
    for known, asked in ((first, second), (second, first)):
        try:
            predicted = _kernel_ridge(X, labels, known, asked)
        except DataError:  # cells that cannot be read, which the encoder reports with their rows
            return None
        errors_others += int((predicted != labels[asked]).sum())
        errors_own += int(tried.wrong[asked].sum())
    n, more = len(first) + len(second), errors_others - errors_own
    clearly = more >= 4 * np.sqrt(errors_others + errors_own) and more >= 0.01 * tried.base * n
    return float(1 - errors_others / n) if clearly and errors_others >= 3 * errors_own else None


def _spread(rows: Ints, n: int) -> Ints:
    """Return at most n of the rows, evenly spread."""
    return rows if len(rows) <= n else rows[np.arange(n) * len(rows) // n]


def _kernel_ridge(X: Any, labels: Ints, known: Ints, asked: Ints) -> Ints:
    """Return the classes that ridge regression predicts, with the kernel that is better on the rows asked.

    The kernel that is better on the rows asked is a choice in favour of the columns: this is to
    acquit, not to score.
    """
    encoder = FeatureEncoder.fit(take_rows(X, known))
    parts = [encoder.transform(take_rows(X, rows), dtype=np.float64, bad=[]) for rows in (known, asked)]
    own, cross = _products(parts[0], parts[0]), _products(parts[1], parts[0])
    squares, lengths = _squares(parts[0]), _squares(parts[1])
    near = np.maximum(squares[:, None] + squares - 2 * own, 0)
    far = np.maximum(lengths[:, None] + squares - 2 * cross, 0)
    scale = 2.0 / (float(np.median(near)) or 1.0)
    kernels = ((own + 1.0, cross + 1.0), (np.exp(-scale * near), np.exp(-scale * far)))
    targets = (labels[known][:, None] == np.unique(labels[known])).astype(np.float64)
    candidates = []
    for kernel, towards in kernels:
        kernel[np.diag_indices_from(kernel)] += RIDGE * float(np.trace(kernel)) / len(known)
        scores = towards @ np.linalg.solve(kernel, targets)
        candidates.append(np.unique(labels[known])[scores.argmax(axis=1)])
    return max(candidates, key=lambda predicted: int((predicted == labels[asked]).sum()))


def _products(a: Encoded, b: Encoded) -> Floats:
    """Return the inner products of the rows of two encoded batches."""
    dense = (a.dense * a.dense_scale) @ (b.dense * b.dense_scale).T
    if a.sparse is not None and b.sparse is not None:
        dense = dense + (a.sparse @ b.sparse.T).toarray()
    return np.asarray(dense, dtype=np.float64)


def _squares(part: Encoded) -> Floats:
    """Return the inner product of every encoded row with itself."""
    total = np.square(part.dense * part.dense_scale).sum(axis=1)
    if part.sparse is not None:
        total = total + part.sparse.multiply(part.sparse).sum(axis=1)
    return np.asarray(total, dtype=np.float64)
