"""Columns of results -> CSV, JSON lines or Parquet, in pieces; whole into a file or plainly to the standard output."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from softmaxnet.data.atomic import atomic_output, is_device
from softmaxnet.errors import DataError, UsageError

__all__ = ["ColumnWriter", "Format", "column_writer", "output_format", "write_columns"]

Format = Literal["csv", "jsonl", "parquet"]
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_CHUNK = 65_536  # rows that are formatted at a time
_SPOOL_BYTES = 32 << 20  # of what goes to the standard output, until it is known that it is whole


def output_format(path: str | Path, told: str | None = None) -> Format:
    """Return the format to write: the one told, else by the ending of the name, else CSV.

    Examples
    --------
    >>> output_format("out.jsonl"), output_format("-"), output_format("out.csv", "parquet")
    ('jsonl', 'csv', 'parquet')
    """
    if told is None:
        return _FORMATS.get(Path(path).suffix.lower(), "csv")
    for name in _FORMATS.values():
        if told == name:
            return name
    raise UsageError(f"the format must be csv, jsonl or parquet. Got {told!r}.")


def write_columns(
    path: str | Path, columns: Mapping[str, Any], *, format: str | None = None, force: bool = False
) -> None:
    """Write columns of equal length.

    Parameters
    ----------
    path : str or Path
        ``"-"`` is the standard output. A file is written whole or not at all.
    columns : mapping of str to array-like
        NumPy arrays, Arrow arrays or lists; None and NaN are missing: an empty cell, ``null``.
    format : {"csv", "jsonl", "parquet"}, optional
        By default by the ending of the path's name, else CSV. CSV is UTF-8, comma, LF line ends; a string is
        quoted where it must be, and where it is empty. Floats have the digits that give the same float back.
    force : bool
        Whether a file that is there may be replaced.

    Raises
    ------
    UsageError, ResourceError
        As `softmaxnet.data.atomic.atomic_output`.

    Examples
    --------
    >>> write_columns("-", {"label": ["a", None], "probability": np.array([0.5, np.nan])})
    label,probability
    a,0.5
    ,
    """
    with column_writer(path, format=format, force=force) as writer:
        writer.write(columns)


class ColumnWriter:
    """Rows, written piece by piece; all pieces have the columns and the types of the first one. See ``column_writer``.

    Parameters
    ----------
    file : binary file that can be truncated
    kind : {"csv", "jsonl", "parquet"}
    """

    def __init__(self, file: BinaryIO, kind: Format) -> None:
        self.file, self.kind = file, kind
        self.schema: Any = None
        self._parquet: Any = None

    def write(self, columns: Mapping[str, Any]) -> None:
        """Write the next rows, as ``write_columns`` takes them."""
        table = _table(columns)
        if self.schema is None:
            self.schema = table.schema
            self._begin()
        table = table.cast(self.schema)
        if self.kind == "parquet":
            self._parquet.write_table(table)
        elif self.kind == "csv":
            _write_csv_rows(table, self.file)
        else:
            _write_jsonl(table, self.file)

    def restart(self) -> None:
        """Forget what was written: the next piece is the first one."""
        self.close()
        self.schema = self._parquet = None
        self.file.seek(0)
        self.file.truncate()

    def close(self) -> None:
        """Write what ends a file of this kind."""
        if self._parquet is not None:
            self._parquet.close()
            self._parquet = None

    def _begin(self) -> None:
        if self.kind == "csv":
            self.file.write((",".join(map(_csv_cell, self.schema.names)) + "\n").encode("utf-8"))
        elif self.kind == "parquet":
            import pyarrow.parquet

            self._parquet = pyarrow.parquet.ParquetWriter(self.file, self.schema)


@contextlib.contextmanager
def column_writer(
    path: str | Path, *, format: str | None = None, force: bool = False
) -> Iterator[ColumnWriter]:
    """Open a writer of rows in pieces, for a ``with`` block; parameters and errors are those of ``write_columns``.

    Where the block ends with an error nothing is written, neither to a file nor to the standard output: what goes
    there is kept until the end, on disk where it is much.

    Examples
    --------
    >>> with column_writer("-") as writer:
    ...     writer.write({"label": ["a", "b"]})
    ...     writer.write({"label": ["c"]})
    label
    a
    b
    c
    """
    kind = output_format(path, format)
    if str(path) != "-" and not is_device(path):
        with atomic_output(path, force=force) as file:
            writer = ColumnWriter(file, kind)
            yield writer
            writer.close()
        return
    if str(path) == "-" and kind == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal; name a file with -o")
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as held:
        writer = ColumnWriter(cast(BinaryIO, held), kind)
        yield writer
        writer.close()
        held.seek(0)
        with _stdout() if str(path) == "-" else atomic_output(path, force=force) as file:
            shutil.copyfileobj(held, file)


def _table(columns: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    arrays = {}
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.dtype.kind == "U":
            values = values.tolist()
        try:
            arrays[name] = (
                values if isinstance(values, pa.ChunkedArray) else pa.array(values, from_pandas=True)
            )
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            arrays[name] = pa.array([None if value is None else str(value) for value in values])
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) > 1:
        raise DataError(f"columns of different lengths: {sorted(lengths)}")
    return pa.table(arrays)


@contextlib.contextmanager
def _stdout() -> Iterator[BinaryIO]:
    """Yield the bytes of the standard output; text goes through it where it has none (in a notebook)."""
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        held = io.BytesIO()
        yield held
        sys.stdout.write(held.getvalue().decode("utf-8"))
        return
    sys.stdout.flush()
    yield buffer
    buffer.flush()


def _batches(table: Any) -> Iterator[list[list[Any]]]:
    for start in range(0, table.num_rows, _CHUNK):
        part = table.slice(start, _CHUNK)
        yield [_cells(column) for column in part.columns]


def _cells(column: Any) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_float32(column.type):  # 0.1 as float32 is written 0.1, not 0.10000000149011612
        values = column.to_numpy()
        return [None if math.isnan(v) else _Short(str(v)) for v in values]
    return list(column.to_pylist())


class _Short(float):
    """A float with the text that is shortest in its own precision."""

    def __new__(cls, text: str) -> _Short:
        made = super().__new__(cls, text)
        made.text = text
        return made

    text: str

    def __repr__(self) -> str:
        return self.text


def _write_csv_rows(table: Any, file: BinaryIO) -> None:
    for columns in _batches(table):
        rows = zip(*(map(_csv_cell, column) for column in columns), strict=True)
        file.write("".join(",".join(row) + "\n" for row in rows).encode("utf-8"))


_NEEDS_QUOTES = re.compile(r'[",\r\n]|^$|^\s|\s$').search


def _csv_cell(value: Any) -> str:
    # Python's csv module writes an empty string as a missing cell, and before 3.13 a lone CR without quotes
    if isinstance(value, str):
        return '"' + value.replace('"', '""') + '"' if _NEEDS_QUOTES(value) else value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _write_jsonl(table: Any, file: BinaryIO) -> None:
    names = table.column_names
    for columns in _batches(table):
        rows = (dict(zip(names, map(_json_cell, row), strict=True)) for row in zip(*columns, strict=True))
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8"))


def _json_cell(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, bool, int, float, list, dict)):
        return value
    return str(value)
