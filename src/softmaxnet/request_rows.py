"""Rows of a request -> what a model's encoder reads: JSON rows, JSON columns, texts, CSV.

A cell of JSON is a text, a number, true, false or null. What is wrong with rows is said by row and column, and never by
repeating what they hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxnet.errors import DataError, UsageError
from softmaxnet.features.columns import BadCell, align_names
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.table import TableParts

__all__ = ["InputRows", "RowReader", "RowsError"]

MOST_ERRORS = 100
"""Faults of a request that are listed; the rest is counted."""
MOST_NAMES, LONGEST_NAME = 5, 40
CELL_TYPES = frozenset({str, int, float, bool, type(None)})
NUMBER_TYPES = CELL_TYPES - {bool}
FLOAT_TYPES = NUMBER_TYPES - {str}
FAULTS = {
    "number": "not a finite number",
    "boolean": "neither true nor false",
    "date": "not an ISO 8601 date or time",
}


class RowsError(DataError):
    """Rows that cannot be read.

    Parameters
    ----------
    message : str
        One sentence.
    errors : list of dict
        ``row`` (from 0), ``column`` and ``message`` of each cell at fault, at most 100 of them.
    """

    def __init__(self, message: str, errors: list[dict[str, object]]) -> None:
        super().__init__(message)
        self.errors = errors


@dataclass(frozen=True, eq=False)
class InputRows:
    """Rows as the encoder reads them.

    Attributes
    ----------
    X : array (n_rows, n_columns) or pyarrow.Table
    lines : int64 (n_rows,) or None
        The line of each row in the file that it came from.
    warnings : list of str
    seen : uint8 (n_rows, n_pixels) or None
        Of pictures, the pixels that the model is given.
    """

    X: Any
    lines: NDArray[np.int64] | None = None
    warnings: list[str] = field(default_factory=list)
    seen: NDArray[Any] | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.X.shape[0])


@dataclass(frozen=True, eq=False)
class RowReader:
    """Reads the rows of one model.

    Parameters
    ----------
    encoder : FeatureEncoder
    reader : mapping
        How the training file was read (``SoftmaxModel.reader``).
    max_rows : int

    Examples
    --------
    >>> encoder = FeatureEncoder.fit(np.eye(3), features="raw")
    >>> RowReader(encoder, {}, 10).from_rows([[1, 2, None]]).X
    array([[ 1.,  2., nan]])
    """

    encoder: FeatureEncoder
    reader: Mapping[str, object]
    max_rows: int

    @cached_property
    def is_table(self) -> bool:
        """Whether rows have named columns."""
        return isinstance(self.encoder.parts, TableParts)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """The kind of every column that the model uses, by its name, in the order of training."""
        columns = self.encoder.columns
        if not self.is_table:
            return {column.name: "number" for column in columns}
        return {c.name: c.kind for c in columns if c.kind != "drop" and not c.becomes.startswith("nothing")}

    @cached_property
    def unused(self) -> tuple[str, ...]:
        """Columns that the encoder wants to see and does nothing with."""
        return tuple(c.name for c in self.encoder.columns if c.name not in self.kinds) if self.is_table else ()

    @cached_property
    def is_text(self) -> bool:
        """Whether a row is one text."""
        return self.is_table and list(self.kinds.values()) == ["text"]

    @cached_property
    def _known(self) -> frozenset[str]:
        """Names that may come and are no mistake: those of training, the target and the like."""
        roles = (self.reader.get(name) for name in ("target", "weights", "group"))
        dropped = self.reader.get("drop")
        return frozenset(
            (*self.kinds, *self.unused, *(role for role in roles if isinstance(role, str)))
            + (tuple(map(str, dropped)) if isinstance(dropped, list) else ())
        )

    # --- what a request may hold --------------------------------------------------------------------------

    def from_rows(self, rows: object) -> InputRows:
        """Return rows given as a list of objects (by name) or of arrays (in the order of the columns)."""
        if not isinstance(rows, list):
            raise UsageError("'rows' must be an array of rows")
        self._check_count(len(rows))
        if not self.is_table:
            return InputRows(self._matrix(rows))
        first = type(rows[0])
        if first not in (dict, list):
            raise UsageError('a row must be an object such as {"age": 31}, or an array in the order of the columns')
        other = next((place for place, row in enumerate(rows) if type(row) is not first), None)
        if other is not None:
            raise UsageError(f"row {other} and row 0 are not of one kind: all rows must be objects, or all arrays")
        if first is dict:
            return self._from_objects(rows)
        width = len(self.kinds)
        uneven = next((place for place, row in enumerate(rows) if len(row) != width), None)
        if uneven is not None:
            raise RowsError(f"row {uneven} has {len(rows[uneven])} cells; the model has {width} columns", [])
        return self.from_columns({name: [row[j] for row in rows] for j, name in enumerate(self.kinds)})

    def from_columns(self, columns: object) -> InputRows:
        """Return rows given as an object of columns, each an array with a cell for every row."""
        if not isinstance(columns, Mapping) or not all(isinstance(cells, list) for cells in columns.values()):
            raise UsageError("'columns' must be an object of arrays, one for each column")
        sizes = {len(cells) for cells in columns.values()}
        if len(sizes) > 1:
            raise RowsError("the columns have different numbers of cells", [])
        n_rows = sizes.pop() if sizes else 0
        self._check_count(n_rows)
        if not self.is_table:
            return InputRows(self._matrix([list(row) for row in zip(*self._ordered(columns), strict=True)]))
        self._check_names(columns)
        return InputRows(self._table(columns, n_rows), warnings=self._ignored(columns))

    def from_texts(self, texts: object) -> InputRows:
        """Return the rows of a model of texts, given as an array of texts."""
        if not self.is_text:
            raise UsageError("'texts' is for models whose only column is a text; give 'rows'")
        if not isinstance(texts, list):
            raise UsageError("'texts' must be an array of texts")
        self._check_count(len(texts))
        return self.from_columns({next(iter(self.kinds)): texts})

    def from_csv(self, data: bytes) -> InputRows:
        """Return the rows of a CSV text with a header, read as the training file was."""
        from softmaxnet.data.dataset import BadRowLog
        from softmaxnet.data.delimited import read_delimited

        settings = self.reader if self.reader.get("format") == "csv" else None
        try:
            rows = read_delimited(data, "<csv>", BadRowLog("fail"), reader=settings)
        except DataError as error:
            place = "" if error.line is None else f"line {error.line}: "
            raise RowsError(place + error.message, []) from None
        table = rows.table
        self._check_count(table.num_rows)
        warnings: list[str] = []
        if self.is_table:
            names = table.column_names
            self._check_names(names)
            warnings = self._ignored(names)
            table = self._arranged({name: table.column(name) for name in self.kinds}, table.num_rows)
        elif table.num_columns != self.encoder.n_features_in:
            roles = [name for name in table.column_names if name in self._known]
            table = table.drop_columns(roles)
            if table.num_columns != self.encoder.n_features_in:
                raise RowsError(f"{table.num_columns} columns; the model has {self.encoder.n_features_in}", [])
        return InputRows(table, lines=rows.lines, warnings=warnings)

    def from_matrix(self, X: NDArray[Any]) -> InputRows:
        """Return rows given as a matrix of numbers, or as pictures of more dimensions, in the order of the columns."""
        if X.ndim < 2 or math.prod(X.shape[1:]) != (len(self.kinds) if self.is_table else self.encoder.n_features_in):
            width = len(self.kinds) if self.is_table else self.encoder.n_features_in
            raise RowsError(f"rows of the shape {list(X.shape[1:])}; expected [{width}]", [])
        self._check_count(X.shape[0])
        X = X.reshape(X.shape[0], -1)
        if self.is_table:
            return self.from_arrays({name: X[:, place] for place, name in enumerate(self.kinds)}, X.shape[0])
        return InputRows(X if X.dtype == np.uint8 else X.astype(np.float64))

    def from_arrays(self, columns: Mapping[str, NDArray[Any]], n_rows: int) -> InputRows:
        """Return rows given as an array for each column, of numbers, truth values or texts."""
        from softmaxnet.data.frames import arrow_column

        self._check_count(n_rows)
        self._check_names(columns)
        made = {name: arrow_column(np.ascontiguousarray(columns[name]), name) for name in self.kinds}
        return InputRows(self._arranged(made, n_rows), warnings=self._ignored(columns))

    # --- checks -------------------------------------------------------------------------------------------

    def faults(self, cells: Sequence[BadCell], rows: InputRows) -> RowsError:
        """Return the error for cells that the encoder could not read."""
        errors: list[dict[str, object]] = []
        for cell in cells[:MOST_ERRORS]:
            name = cell.column if self.is_table or cell.column.startswith("column") else f"column {cell.column}"
            missing = "a value is missing" in cell.message
            message = (
                "a value is missing; this model takes none"
                if missing
                else FAULTS.get(self.kinds.get(name, "number"), "cannot be read")
            )
            place: dict[str, object] = {"row": cell.row, "column": name, "message": message}
            if rows.lines is not None:
                place["line"] = int(rows.lines[cell.row])
            errors.append(place)
        first = errors[0]
        more = "" if len(cells) == 1 else f", and {len(cells) - 1:,} more"
        return RowsError(f"row {first['row']}, column {first['column']!r}: {first['message']}{more}", errors)

    def _check_count(self, n_rows: int) -> None:
        if n_rows == 0:
            raise RowsError("there are no rows", [])
        if n_rows > self.max_rows:
            raise RowsError(f"{n_rows:,} rows; at most {self.max_rows:,} are taken in one request", [])

    def _check_names(self, given: Any) -> None:
        """Raise for columns that are missing, with what was probably meant."""
        if all(name in given for name in self.kinds):
            return
        shown = list(dict.fromkeys(_short(name) for name in given))
        align_names(shown, list(self.kinds))
        raise RowsError("columns that were there in training are missing", [])

    def _ignored(self, given: Any) -> list[str]:
        """Return a warning of names that the model does not know."""
        extra = [name for name in given if name not in self._known]
        if not extra:
            return []
        shown = ", ".join(repr(_short(name)) for name in extra[:MOST_NAMES])
        more = f" and {len(extra) - MOST_NAMES:,} more" if len(extra) > MOST_NAMES else ""
        return [f"fields that the model does not use are ignored: {shown}{more}"]

    def _from_objects(self, rows: list[dict[str, object]]) -> InputRows:
        names: dict[str, None] = {}
        for row in rows:
            names.update(dict.fromkeys(row))
        self._check_names(names)
        X = self._number_matrix([[row.get(name) for name in self.kinds] for row in rows]) if self._is_numeric else None
        if X is None:
            X = self._table({name: [row.get(name) for row in rows] for name in self.kinds}, len(rows))
        return InputRows(X, warnings=self._ignored(names))

    @cached_property
    def _is_numeric(self) -> bool:
        """Whether every column is a number: rows then need no table."""
        return self.is_table and set(self.kinds.values()) == {"number"}

    @cached_property
    def _places(self) -> list[int]:
        """Where the columns that are used stand among those of training."""
        return [(self.encoder.feature_names_in or ()).index(name) for name in self.kinds]

    def _number_matrix(self, rows: list[list[Any]]) -> NDArray[Any] | None:
        """Return rows of numbers and nulls in the order of training; None where there is anything else."""
        if any(not FLOAT_TYPES.issuperset(map(type, row)) for row in rows):
            return None
        X = np.full((len(rows), self.encoder.n_features_in), np.nan)
        try:
            X[:, self._places] = np.array(rows, dtype=np.float64)
        except OverflowError:
            raise RowsError("a number is too large for a float64", []) from None
        return X

    # --- to arrays ----------------------------------------------------------------------------------------

    def _table(self, columns: Mapping[str, list[object]], n_rows: int) -> Any:
        """Return columns of plain cells as a table in the order of training."""
        from softmaxnet.data.frames import arrow_column

        made = {}
        for name, kind in self.kinds.items():
            cells = columns[name]
            found = set(map(type, cells))
            if not found <= (NUMBER_TYPES if kind == "number" else CELL_TYPES):
                raise _wrong_types(name, kind, cells)
            try:
                made[name] = arrow_column(cells, name)
            except OverflowError:
                raise RowsError(f"column {name!r}: a number is too large for a float64", []) from None
        return self._arranged(made, n_rows)

    def _arranged(self, columns: Mapping[str, Any], n_rows: int) -> Any:
        """Return Arrow columns in the order of training, with nulls where the model uses none."""
        import pyarrow as pa

        names = self.encoder.feature_names_in or ()
        nothing = pa.nulls(n_rows, pa.string()) if self.unused else None
        text = pa.string()
        ordered = [columns.get(name, nothing) for name in names]
        ordered = [column.cast(text) if pa.types.is_null(column.type) else column for column in ordered]
        return pa.Table.from_arrays(ordered, names=list(names))

    def _ordered(self, columns: Mapping[str, list[object]]) -> list[list[object]]:
        self._check_names(columns)
        return [columns[name] for name in self.kinds]

    def _matrix(self, rows: list[Any]) -> NDArray[Any]:
        """Return rows of numbers as a matrix; null is NaN."""
        width = self.encoder.n_features_in
        try:
            array = np.array(rows)
        except ValueError:
            raise self._uneven(rows, width) from None
        if array.dtype.kind in "fiu" and array.shape == (len(rows), width):
            return array.astype(np.float64)
        if array.ndim != 2 or array.shape[1] != width or not all(type(row) is list for row in rows):
            raise self._uneven(rows, width)
        wrong = [
            {"row": i, "column": f"column {j}", "message": FAULTS["number"]}
            for i, row in enumerate(rows)
            for j, cell in enumerate(row)
            if type(cell) not in (int, float, type(None))
        ]
        if wrong:
            raise RowsError(f"row {wrong[0]['row']}, {wrong[0]['column']}: {FAULTS['number']}", wrong[:MOST_ERRORS])
        try:
            return np.array(rows, dtype=np.float64)
        except OverflowError:
            raise RowsError("a number is too large for a float64", []) from None

    @staticmethod
    def _uneven(rows: list[Any], width: int) -> RowsError:
        for place, row in enumerate(rows):
            if type(row) is not list or len(row) != width:
                found = f"{len(row)} numbers" if type(row) is list else "no array"
                return RowsError(f"row {place} is {found}; expected an array of {width} numbers", [])
        return RowsError("a cell is a number or null, and no array", [])


def _wrong_types(name: str, kind: str, cells: list[object]) -> RowsError:
    accepted = NUMBER_TYPES if kind == "number" else CELL_TYPES
    message = FAULTS["number"] if kind == "number" else "a cell is a text, a number, true, false or null"
    errors: list[dict[str, object]] = [
        {"row": row, "column": name, "message": message} for row, cell in enumerate(cells) if type(cell) not in accepted
    ]
    return RowsError(f"row {errors[0]['row']}, column {name!r}: {message}", errors[:MOST_ERRORS])


def _short(name: object) -> str:
    text = str(name)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 3] + "..."
