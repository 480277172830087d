"""One pass over the columns with a role: the classes, how they are spread over the file, and which rows count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxnet.data.columns import Roles
from softmaxnet.data.dataset import BadRow
from softmaxnet.data.labels import column_labels, encode_labels
from softmaxnet.data.row_cache import CountingLog
from softmaxnet.data.row_groups import RowGroups
from softmaxnet.data.window_plan import label_entropy, label_mixing
from softmaxnet.errors import DataError

__all__ = ["StreamedLabels", "label_pass", "plain"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class StreamedLabels:
    """What a pass over the columns with a role has found.

    Attributes
    ----------
    classes : array (K,), sorted
    counts : int64 (K,)
        Rows of every class.
    weights : float64 (K,)
        The sum of their weights; ``counts`` where rows have none.
    values : pyarrow.Array
        The distinct cells of the target column.
    numbers : int64
        The class of each of them.
    mixing : float
        How much alike the labels of row groups are; see ``label_mixing``.
    """

    classes: NDArray[Any]
    counts: Ints
    weights: NDArray[np.float64]
    values: Any
    numbers: Ints
    mixing: float


def plain(column: Any) -> Any:
    """Return a dictionary-encoded column as its values."""
    import pyarrow as pa

    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def label_pass(
    rows: RowGroups, roles: Roles, log: CountingLog, *, text: bool
) -> tuple[StreamedLabels, dict[int, NDArray[np.bool_]]]:
    """Read target, weights and groups once: the classes, how they are spread, and which rows count."""
    import pyarrow as pa

    assert roles.target is not None
    place: dict[object, int] = {}
    counts: list[int] = []
    weights: list[float] = []
    usable: dict[int, NDArray[np.bool_]] = {}
    group_rows, entropies = np.zeros((2, len(rows)))
    names = [name for name in (roles.target, roles.weights, roles.group) if name is not None]
    kind = rows.schema.field(roles.target).type
    before = 0
    for group in range(len(rows)):
        table = rows.read(group, names)
        good = _usable_rows(table, roles, log, before, str(rows.paths[rows.file[group]]))
        before += table.num_rows
        if good is not None:
            usable[group] = good
            table = table.filter(good)
        found = plain(table.column(roles.target)).value_counts()
        some = found.field("counts").to_numpy()
        if len(some):
            group_rows[group], entropies[group] = some.sum(), label_entropy(some)
        for value, count in zip(found.field("values").to_pylist(), some.tolist(), strict=True):
            number = place.setdefault(value, len(place))
            if number == len(counts):
                counts.append(0)
                weights.append(0.0)
            counts[number] += count
        if roles.weights is not None:
            for value, weight in _weight_of_values(table, roles).items():
                weights[place[value]] += weight
    if not place:
        raise DataError("no row is left: all are bad", file=str(rows.paths[0]))
    values = pa.array(list(place), kind.value_type if pa.types.is_dictionary(kind) else kind)
    try:
        numbers, classes = encode_labels(column_labels(pa.chunked_array([values]), text=text))
    except DataError as error:
        raise DataError(error.message, file=str(rows.paths[0]), column=roles.target, hint=error.hint) from None
    per_class = np.bincount(numbers, weights=counts, minlength=len(classes)).astype(np.int64)
    totals: NDArray[Any] = per_class.astype(np.float64)
    if roles.weights is not None:
        totals = np.bincount(numbers, weights=weights, minlength=len(classes))
    mixing = label_mixing(per_class, group_rows, entropies)
    return StreamedLabels(classes, per_class, totals, values, numbers, mixing), usable


def _weight_of_values(table: Any, roles: Roles) -> dict[object, float]:
    """Return the sum of the weights of the rows with each cell of the target column."""
    import pyarrow as pa

    cells, weights = plain(table.column(roles.target)), table.column(roles.weights).cast(pa.float64())
    sums = pa.table({"y": cells, "w": weights}).group_by("y", use_threads=False).aggregate([("w", "sum")])
    return dict(zip(sums.column("y").to_pylist(), sums.column("w_sum").to_pylist(), strict=True))


def _usable_rows(table: Any, roles: Roles, log: CountingLog, before: int, file: str) -> NDArray[np.bool_] | None:
    """Return which rows have a label, a group and a weight that can be, None for all; others are reported."""
    import pyarrow as pa

    good = np.ones(table.num_rows, dtype=bool)
    faults: list[tuple[int, str, str]] = []
    for role, what in ((roles.target, "label"), (roles.group, "group")):
        if role is not None:
            missing = table.column(role).is_null(nan_is_null=True).to_numpy()
            good &= ~missing
            faults += [(row, role, f"the {what} is missing") for row in np.flatnonzero(missing).tolist()]
    if roles.weights is not None:
        try:
            weights = table.column(roles.weights).cast(pa.float64()).to_numpy()
        except pa.ArrowException as error:
            raise DataError(f"weights must be numbers: {error}", file=file, column=roles.weights) from None
        bad = ~(np.isfinite(weights) & (weights >= 0))
        good &= ~bad
        message = "the weight {} is not a finite number of at least 0"
        faults += [(row, roles.weights, message.format(weights[row])) for row in np.flatnonzero(bad).tolist()]
    told: set[int] = set()
    for row, column, message in sorted(faults):
        if row not in told:
            told.add(row)
            log.add(BadRow(before + row, None, column, f"{message} in row {before + row}, counted from 0", file))
    return None if good.all() else good
