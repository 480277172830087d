"""Rows of named columns -> a Dataset: target, weights and groups are set apart and checked, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softmaxnet.data.dataset import BadRow, BadRowLog, Dataset
from softmaxnet.data.labels import column_labels
from softmaxnet.data.opening import nearest
from softmaxnet.data.table import TableRows
from softmaxnet.errors import DataError, UsageError

__all__ = ["Roles", "concatenated", "dataset_from_rows"]


@dataclass(frozen=True)
class Roles:
    """Which columns are no inputs.

    Parameters
    ----------
    target, weights, group : str or None
    need_target : bool
        False when only inputs are needed: each of these columns may then be absent.
    """

    target: str | None = None
    weights: str | None = None
    group: str | None = None
    need_target: bool = True


def dataset_from_rows(rows: TableRows, source: str, roles: Roles, log: BadRowLog) -> Dataset:
    """Return rows as a data set without the columns that have a role.

    Raises
    ------
    DataError
        For a column that is not there, or, by the log, for rows with a missing label or an impossible weight.
    UsageError
        Where a target is needed and none was named, or one column has two roles.
    """
    table = rows.table
    _require(table.column_names, roles, rows.parts[0][0])
    y = _labels(rows, roles.target)
    groups = _labels(rows, roles.group)
    sample_weight, not_numbers = _weights(table, roles.weights)
    faults: list[tuple[int, str, str, str | None]] = []
    if roles.need_target:
        faults += _missing(table, roles.target, "the label is missing", _label_hint(rows))
        faults += _missing(table, roles.group, "the group is missing", None)
    faults += not_numbers
    keep = _report(faults, rows, log)
    inputs = table.drop_columns(
        [name for name in (roles.target, roles.weights, roles.group) if name in _set(table)]
    )
    if inputs.num_columns == 0:
        raise DataError("there is no column left to learn from", file=source)
    parts, lines = rows.parts, rows.lines
    if keep is not None:
        inputs = inputs.filter(keep)
        y, groups, sample_weight, lines = (
            a if a is None else a[keep] for a in (y, groups, sample_weight, lines)
        )
        ends = np.cumsum([0, *(n for _, n in parts)])
        parts = tuple((name, int(keep[ends[i] : ends[i + 1]].sum())) for i, (name, _) in enumerate(parts))
        if not inputs.num_rows:
            raise DataError("no row is left: all are bad", file=source)
    return Dataset(
        X=inputs,
        y=y,
        sample_weight=sample_weight,
        groups=groups,
        source=source,
        row_lines=lines,
        bad_rows=log.sorted(),
        reader=rows.reader,
        parts=parts,
    )


def concatenated(parts: Sequence[TableRows]) -> TableRows:
    """Return the rows of several files as one; the columns are matched by name.

    Raises
    ------
    DataError
        Where a file lacks a column of the first one, has another one, or has it in an unlike type.
    """
    import pyarrow as pa

    first = parts[0]
    if len(parts) == 1:
        return first
    names = first.table.column_names
    for part in parts[1:]:
        extra = [name for name in part.table.column_names if name not in set(names)]
        lacking = [name for name in names if name not in _set(part.table)]
        if extra or lacking:
            what = f"lacks the column {lacking[0]!r}" if lacking else f"has the column {extra[0]!r} too"
            raise DataError(
                f"the file {what}; all files must have the columns of {first.parts[0][0]}",
                file=part.parts[0][0],
                column=(lacking or extra)[0],
            )
    try:
        table = pa.concat_tables([part.table.select(names) for part in parts], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"the files do not fit together: {error}", file=parts[-1].parts[0][0]) from None
    offsets = np.cumsum([0, *(part.n_found for part in parts)])
    lines = [part.lines for part in parts if part.lines is not None]
    return TableRows(
        table=table,
        rows=np.concatenate([part.rows + offset for part, offset in zip(parts, offsets[:-1], strict=True)]),
        lines=np.concatenate(lines) if len(lines) == len(parts) else None,
        n_found=int(offsets[-1]),
        reader=first.reader,
        parts=tuple(file for part in parts for file in part.parts),
    )


def _set(table: Any) -> set[str]:
    return set(table.column_names)


def _require(names: list[str], roles: Roles, file: str) -> None:
    """Raise where a column with a role is not there."""
    given = [name for name in (roles.target, roles.weights, roles.group) if name is not None]
    if len(set(given)) < len(given):
        raise UsageError(f"target, weights and group must be different columns. Got {', '.join(given)}.")
    if not roles.need_target:
        return
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    if roles.target is None:
        raise UsageError(
            "the target column must be named, it holds the labels (--target COL)",
            file=file,
            hint=f"The columns are: {shown}.",
        )
    for role, name in (("target", roles.target), ("weights", roles.weights), ("group", roles.group)):
        if name is not None and name not in set(names):
            hint = f"{nearest(name, names)} The columns are: {shown}.".lstrip()
            raise DataError(f"there is no column {name!r} ({role})", file=file, column=name, hint=hint)


def _labels(rows: TableRows, name: str | None) -> np.ndarray | None:
    if name is None or name not in _set(rows.table):
        return None
    try:
        return column_labels(rows.table.column(name), text=rows.reader.get("format") == "csv")
    except DataError as error:
        raise DataError(error.message, file=rows.parts[0][0], column=name, hint=error.hint) from None


Fault = tuple[int, str, str, str | None]  # row of the table, column, message, hint


def _label_hint(rows: TableRows) -> str:
    remedy = "Remove such rows, or skip them (--on-bad-row skip)."
    tokens = rows.reader.get("missing")
    if isinstance(tokens, list):
        shown = ", ".join(token for token in tokens if token)
        return f"An empty cell and {shown} mean missing. {remedy}"
    return remedy


def _missing(table: Any, name: str | None, message: str, hint: str | None) -> list[Fault]:
    if name is None or name not in _set(table):
        return []
    column = table.column(name)
    if not column.null_count and not str(column.type).startswith(("double", "float", "halffloat")):
        return []
    nulls = np.flatnonzero(column.is_null(nan_is_null=True).to_numpy())
    return [(row, name, message, hint) for row in nulls.tolist()]


def _weights(table: Any, name: str | None) -> tuple[np.ndarray | None, list[Fault]]:
    """Return the weights, NaN where a cell is none, and the rows at fault."""
    if name is None or name not in _set(table):
        return None, []
    cells = table.column(name).to_pylist()
    weights = np.array([_number(cell) for cell in cells], dtype=np.float64)
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    weights[bad] = np.nan
    message = "the weight {!r} is not a finite number of at least 0"
    return weights, [(row, name, message.format(cells[row]), None) for row in bad.tolist()]


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return float("nan")


def _report(faults: list[Fault], rows: TableRows, log: BadRowLog) -> np.ndarray | None:
    """Log each row at fault once; return the mask of rows to keep, or None for all."""
    if not faults:
        return None
    known = {bad.row for bad in log.rows}  # kept with nulls, so that its label is missing too
    keep = np.ones(len(rows.rows), dtype=bool)
    ends = np.cumsum([n for _, n in rows.parts])
    for row, column, message, hint in sorted(faults, key=lambda fault: fault[0]):
        number = int(rows.rows[row])
        if number in known:
            continue
        known.add(number)
        line = int(rows.lines[row]) if rows.lines is not None else None
        file = rows.parts[int(np.searchsorted(ends, row, side="right"))][0]
        log.add(BadRow(number, line, column, message, file), hint=hint)
        keep[row] = False
    return None if log.keeps or keep.all() else keep
