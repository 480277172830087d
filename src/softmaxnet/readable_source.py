"""A table that is streamed, without the rows that hold a cell which cannot be learned from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxnet.data.blocks import dataset_blocks
from softmaxnet.data.dataset import BadRow
from softmaxnet.data.row_cache import MAX_BAD_ROWS, CountingLog
from softmaxnet.data.table_source import TableSource
from softmaxnet.errors import DataError
from softmaxnet.features.columns import BadCell
from softmaxnet.features.unreadable import unreadable_cells

__all__ = ["readable_source"]

HINT = "To leave such rows out: --on-bad-row skip."


def readable_source(source: TableSource, kinds: Mapping[str, str] | None = None) -> TableSource:
    """Return the source without rows with an infinite number or, in a column told to be one of dates, no date.

    One pass over the columns that can hold such cells: those of floating-point numbers and of told dates.

    Parameters
    ----------
    source : TableSource
    kinds : mapping of column name to kind, optional
        As the user told them.

    Raises
    ------
    DataError
        For one row more than the source's ``on_bad_row`` allows, with its line.
    """
    names = _at_risk(source, kinds or {})
    gone: dict[int, NDArray[np.bool_]] = {}
    found: list[BadCell] = []
    first = n_bad = 0
    for group, size in enumerate(source.rows.sizes.tolist()):
        if not names:
            break
        cells = unreadable_cells(source.rows.read(group, names), kinds, texts=False)
        rows = {cell.row: cell for cell in reversed(cells) if source.counts_row(group, cell.row)}
        if rows:
            gone[group] = np.zeros(size, dtype=bool)
            gone[group][list(rows)] = True
            n_bad += len(rows)
            found += [_moved(rows[row], first) for row in sorted(rows)][: MAX_BAD_ROWS - len(found)]
        first += size
    if not gone:
        return source
    log = CountingLog(source.on_bad_row)
    log.rows, log.n = list(source.bad_rows), source.n_bad_rows
    for bad in _described(source, found):
        log.add(bad, hint=HINT)
    total = source.n_bad_rows + n_bad
    if log.limit is not None and total > log.limit:
        raise DataError(f"{total:,} rows cannot be read; at most {log.limit:,} may be skipped", file=source.name)
    kept = source.without(gone)
    return replace(kept, n_bad_rows=total, bad_rows=log.sorted()[:MAX_BAD_ROWS])


def _at_risk(source: TableSource, kinds: Mapping[str, str]) -> list[str]:
    """Return the columns that can hold cells which cannot be learned from."""
    import pyarrow as pa

    return [
        name
        for name in source.columns
        if kinds.get(name) == "date"
        or (kinds.get(name) in (None, "number") and pa.types.is_floating(source.rows.schema.field(name).type))
    ]


def _moved(cell: BadCell, by: int) -> BadCell:
    """Return a cell that is counted from the first row of all."""
    message = cell.message.replace(f", row {cell.row}: ", f", row {cell.row + by}: ", 1)
    return cell._replace(row=cell.row + by, message=message)


def _described(source: TableSource, cells: list[BadCell]) -> list[BadRow]:
    """Return bad rows with their file and line, where these can be found."""
    places = _places(source, [cell.row for cell in cells])
    bad = []
    for cell in cells:
        file, line = places.get(cell.row, (source.name, None))
        message = cell.message if line is None else cell.message.replace(f", row {cell.row}: ", ": ", 1)
        bad.append(BadRow(cell.row, line, cell.column, message, file))
    return bad


def _places(source: TableSource, rows: list[int]) -> dict[int, tuple[str, int | None]]:
    """Return file and line of rows of a converted file, counted without those that were left out."""
    if source.reader.get("format") == "parquet" or not source.in_file_order:
        return {}
    known = source.roles
    roles: dict[str, Any] = {"target": known.target, "weights": known.weights, "group": known.group}
    found: dict[int, tuple[str, int | None]] = {}
    before = 0
    blocks = dataset_blocks(source.name, reader=source.reader, on_bad_row="skip", **roles)
    with contextlib.closing(blocks):
        for block in blocks:
            end = before + block.data.n_rows
            found |= {row: block.data.place(row - before) for row in rows if before <= row < end}
            before = end
            if len(found) == len(rows):
                break
    return found
