"""Cells that no encoder could read: infinite numbers, and texts in a column that the user says is one of dates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from softmaxnet.features.arrow import decoded, is_text, numbers_or_missing, try_numbers, whole
from softmaxnet.features.columns import BadCell, Cells, table_name
from softmaxnet.features.dates import read_dates
from softmaxnet.features.numbers import infinite
from softmaxnet.features.quantiles import Floats

__all__ = ["unreadable_cells"]


def unreadable_cells(X: Any, kinds: Mapping[str, str] | None = None, *, texts: bool = True) -> list[BadCell]:
    """Return the cells of an Arrow table that cannot be learned from, column by column.

    Parameters
    ----------
    X : pyarrow.Table
    kinds : mapping of column name to kind, optional
        As the user told them.
    texts : bool
        Whether columns of texts that are all numbers are looked at as well.

    Examples
    --------
    >>> import pyarrow as pa
    >>> unreadable_cells(pa.table({"a": [1.0, float("inf"), None], "b": ["x", "inf", "y"]}))
    [BadCell(row=1, column='a', message="column 'a', row 1: inf is not a finite number. Missing values are written \
as NaN or as empty cells.")]
    """
    found: list[BadCell] = []
    cells = Cells(found)
    for name, column in zip(X.column_names, X.columns, strict=True):
        wanted = (kinds or {}).get(name)
        if wanted == "date":
            read_dates(column, name, cells)
        if wanted not in (None, "number"):
            continue
        values = _numbers(column, told=wanted == "number", texts=texts)
        if values is None:
            continue
        for row in np.flatnonzero(np.isinf(values)):
            message, hint = infinite(float(values[row]))
            cells.report(int(row), table_name(name), message, hint)
    return found


def _numbers(column: Any, *, told: bool, texts: bool) -> Floats | None:
    """Return a column as numbers where it is one of numbers that may be infinite."""
    import pyarrow as pa

    array = decoded(whole(column))
    if pa.types.is_floating(array.type):
        return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False))
    if not is_text(array.type) or not (texts or told):
        return None
    return try_numbers(whole(numbers_or_missing(array)[0]) if told else array)
