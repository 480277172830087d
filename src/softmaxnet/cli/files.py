"""What the commands share about files: where an output may go, the columns a model wants, the place of a fault."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmaxnet.errors import DataError, ResourceError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from softmaxnet.data.dataset import BadRow, Dataset
    from softmaxnet.features.columns import BadCell

__all__ = [
    "bad_cell_text",
    "bad_row_text",
    "checked_output",
    "decimal_remedy",
    "feature_columns",
    "known_columns",
    "located",
    "moved_cell",
    "require_data",
    "role",
]

COMMA_NUMBER = re.compile(r"'[+-]?[\d.]*,\d+' is not a number")
ROLES = ("target", "weights", "group")


def checked_output(path: str, *, force: bool, inputs: Iterable[str] = ()) -> Path:
    """Return the path of an output after trying, before any work, whether it can be written.

    Raises
    ------
    UsageError
        Where it exists and ``force`` is not given, is a folder, or is one of the inputs.
    ResourceError
        Where its folder does not exist or cannot be written to.
    """
    from softmaxnet.data.atomic import check_output, is_device

    for other in inputs:
        if other != "-" and os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
            raise UsageError("the output is one of the inputs; give it another name.", file=path)
    checked = check_output(path, force=force)
    if is_device(checked):
        return checked
    try:
        with tempfile.TemporaryFile(dir=Path(os.path.realpath(checked)).parent):
            pass
    except OSError as error:
        raise ResourceError(f"cannot be written: {error.strerror or error}", file=path) from None
    return checked


def require_data(path: str | None) -> None:
    """Raise where data are to come from a keyboard, which is never what was meant."""
    if path == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("no data: name a file, or pipe rows into the command.")


def role(reader: dict[str, object], name: str) -> str | None:
    """Return the column that had a role (target, weights, group) in the fit, if the model knows one."""
    value = reader.get(name)
    return value if isinstance(value, str) else None


def feature_columns(X: Any, names: tuple[str, ...] | None, reader: dict[str, object]) -> Any:
    """Return a table without the columns that the fit left out on purpose: target, weights, group and dropped ones."""
    if names is None or not hasattr(X, "column_names"):
        return X
    left_out = {role(reader, name) for name in ROLES}
    dropped = reader.get("drop")
    left_out |= set(dropped) if isinstance(dropped, list) else set()
    return X.drop_columns([name for name in X.column_names if name in left_out and name not in names])


def known_columns(X: Any, names: tuple[str, ...] | None) -> Any:
    """Return a table with the model's columns alone, where it has all of them."""
    if names is None or not hasattr(X, "select") or not set(X.column_names) >= set(names):
        return X
    return X.select(list(names))


def located(error: DataError, data: Dataset, rows: np.ndarray | None = None) -> DataError:
    """Return an error about a row of X as one about a line of its file.

    Parameters
    ----------
    error : DataError
        With an attribute ``row`` where it is about one.
    data : Dataset
    rows : integer array, optional
        The row of ``data`` behind each row that the error counts; all of them in order by default.
    """
    if error.file is not None or hasattr(error, "is_told"):  # by another process, of its own rows
        return error
    row = getattr(error, "row", None)
    message, line, file = error.message, None, data.source
    if isinstance(row, int):
        file, line = data.place(row if rows is None else int(rows[row]))
        if line is not None:
            message = message.replace(f", row {row}: ", ": ", 1)
    return type(error)(message, file=file, line=line, column=error.column, hint=error.hint)


def decimal_remedy(errors: Collection[str], data: Dataset) -> str:
    """Return what helps where most of the cells that cannot be read are numbers with a decimal comma, or nothing."""
    commas = sum(bool(COMMA_NUMBER.search(text)) for text in errors)
    if not commas or 2 * commas < len(errors) or data.reader.get("decimal") == ",":
        return ""
    return "Numbers have a decimal comma here and had none in training: --reader decimal=, reads them."


def bad_row_text(bad: BadRow) -> str:
    """Return what the ``error`` column says of a row that could not be read."""
    place = f"line {bad.line}: " if bad.line is not None else ""
    return place + (f"column {bad.column!r}: " if bad.column is not None else "") + bad.message


def moved_cell(cell: BadCell, by: int) -> BadCell:
    """Return a cell that was counted from another row on."""
    text = cell.message.replace(f", row {cell.row}: ", f", row {cell.row + by}: ", 1)
    return cell._replace(row=cell.row + by, message=text)


def bad_cell_text(cell: BadCell, data: Dataset) -> str:
    """Return what the ``error`` column says of a cell that could not be read."""
    line = data.place(cell.row)[1]
    if line is None:
        return cell.message
    return f"line {line}: " + cell.message.replace(f", row {cell.row}: ", ": ", 1)
