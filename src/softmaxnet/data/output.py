"""Columns of results -> CSV, JSON lines or Parquet, whole into a file or plainly to the standard output."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from softmaxnet.data.atomic import atomic_output
from softmaxnet.errors import DataError, UsageError

__all__ = ["Format", "output_format", "write_columns"]

Format = Literal["csv", "jsonl", "parquet"]
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_CHUNK = 65_536  # rows that are formatted at a time


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
    kind = output_format(path, format)
    table = _table(columns)
    write = {"csv": _write_csv, "jsonl": _write_jsonl, "parquet": _write_parquet}[kind]
    if str(path) == "-":
        with _stdout(kind) as file:
            write(table, file)
        return
    with atomic_output(path, force=force) as file:
        write(table, file)


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
def _stdout(kind: Format) -> Iterator[BinaryIO]:
    """Yield the bytes of the standard output; text goes through it where it has none (in a notebook)."""
    buffer = getattr(sys.stdout, "buffer", None)
    if kind == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal; name a file with -o")
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


def _write_csv(table: Any, file: BinaryIO) -> None:
    file.write((",".join(map(_csv_cell, table.column_names)) + "\n").encode("utf-8"))
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


def _write_parquet(table: Any, file: BinaryIO) -> None:
    import pyarrow.parquet

    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    file.write(sink.getbuffer())
