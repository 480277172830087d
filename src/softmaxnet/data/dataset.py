"""What a reader gives back: the rows, their labels, and an account of every row that could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from softmaxnet.errors import DataError, UsageError

__all__ = ["BadRow", "BadRowLog", "Dataset", "OnBadRow"]

OnBadRow = Literal["fail", "skip", "keep"] | int


@dataclass(frozen=True)
class BadRow:
    """One row that could not be used.

    Parameters
    ----------
    row : int
        0-based position among the data rows as they are in the file, bad ones included. With
        ``on_bad_row="keep"`` this is the row of ``X``.
    line : int or None
        1-based physical line in the file; the header of a CSV file is line 1.
    column : str or None
        The column at fault, where it is one column.
    message : str
        What was found and what is accepted.
    file : str or None
        The file, which differs from ``Dataset.source`` for a folder or a glob.
    """

    row: int
    line: int | None
    column: str | None
    message: str
    file: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Rows read from a file, folder or pipe.

    Parameters
    ----------
    X : numpy.ndarray (n_rows, n_features), scipy.sparse.csr_array or pyarrow.Table
        The inputs, without the target, weight and group columns.
    y : numpy.ndarray of shape (n_rows,) or None
        Labels as the file has them (int64, float64, bool or object of str; None or NaN = missing).
    sample_weight : numpy.ndarray of shape (n_rows,), float64, or None
    groups : numpy.ndarray of shape (n_rows,), int64 or object of str, or None
    source : str
        The path, for messages.
    row_lines : numpy.ndarray of shape (n_rows,), int64, or None
        1-based line in the file at which each row starts, where that is known.
    bad_rows : tuple of BadRow
        Rows that were skipped or kept empty.
    reader : dict
        Plain JSON data from which the same kind of file can be read again: format, delimiter, encoding, ...
    parts : tuple of (str, int)
        The files in order, each with its number of rows in ``X``; one entry for one file.
    """

    X: Any
    y: np.ndarray | None
    sample_weight: np.ndarray | None = None
    groups: np.ndarray | None = None
    source: str = ""
    row_lines: np.ndarray | None = None
    bad_rows: tuple[BadRow, ...] = ()
    reader: dict[str, object] = field(default_factory=dict)
    parts: tuple[tuple[str, int], ...] = ()

    @property
    def n_rows(self) -> int:
        """Number of rows of X."""
        return int(self.X.shape[0])

    def place(self, row: int) -> tuple[str, int | None]:
        """Return the file and the 1-based line of one row of X, for a message.

        Examples
        --------
        >>> data = Dataset(np.zeros((3, 1)), None, source="d/*.csv", row_lines=np.array([2, 3, 2]),
        ...                parts=(("d/a.csv", 2), ("d/b.csv", 1)))
        >>> data.place(2)
        ('d/b.csv', 2)
        """
        line = None if self.row_lines is None else int(self.row_lines[row])
        end = 0
        for name, n_rows in self.parts:
            end += n_rows
            if row < end:
                return name, line
        return self.source, line


class BadRowLog:
    """Decide what happens at a bad row, and keep the account.

    ``"fail"`` raises at the first, ``"skip"`` drops every one, an int drops that many and raises at the next,
    ``"keep"`` leaves every one in its place with nulls.
    """

    def __init__(self, on_bad_row: OnBadRow = "fail") -> None:
        known = on_bad_row in ("fail", "skip", "keep")
        count = isinstance(on_bad_row, int) and not isinstance(on_bad_row, bool) and on_bad_row >= 0
        if not (known or count):
            raise UsageError(
                f"on_bad_row must be 'fail', 'skip', 'keep' or a number of rows to skip. Got {on_bad_row!r}."
            )
        self.keeps = on_bad_row == "keep"
        self.limit: int | None = None
        if on_bad_row == "fail":
            self.limit = 0
        elif isinstance(on_bad_row, int):
            self.limit = on_bad_row
        self.rows: list[BadRow] = []
        self.offset = 0  # rows of the files before the one that is being read

    def add(self, bad: BadRow, *, hint: str | None = None) -> None:
        """Record one bad row, counted within its file, or raise DataError when no more are allowed."""
        if self.limit is not None and len(self.rows) >= self.limit:
            message = bad.message
            if self.limit:
                message = f"{message} (bad row number {self.limit + 1}; at most {self.limit} may be skipped)"
            raise DataError(message, file=bad.file, line=bad.line, column=bad.column, hint=hint)
        self.rows.append(replace(bad, row=bad.row + self.offset))

    def sorted(self) -> tuple[BadRow, ...]:
        """Return the account in the order of the rows."""
        return tuple(sorted(self.rows, key=lambda bad: bad.row))


def reader_settings(reader: Mapping[str, object] | None, allowed: Mapping[str, type]) -> dict[str, Any]:
    """Return the settings of ``reader`` that a format knows, checked for their type; others are left out.

    A model keeps the settings of the file that it was fitted on; another kind of file may be read later,
    so that settings of other formats are no error.

    Examples
    --------
    >>> reader_settings({"format": "csv", "delimiter": ";", "image_shape": [28, 28]}, {"delimiter": str})
    {'delimiter': ';'}
    """
    found: dict[str, Any] = {}
    for name, value in (reader or {}).items():
        if name not in allowed or value is None:
            continue
        if not isinstance(value, allowed[name]):
            kind = "a string" if allowed[name] is str else "a list"
            raise UsageError(f"The reader setting {name!r} must be {kind}. Got {value!r}.")
        found[name] = value
    return found
