"""JSON lines -> a table: one object a line, with the exact line of every fault."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from softmaxnet.data.csv_scan import scan_records
from softmaxnet.data.dataset import BadRow, BadRowLog
from softmaxnet.data.frames import from_records
from softmaxnet.data.opening import is_utf8
from softmaxnet.data.table import TableRows
from softmaxnet.errors import DataError

__all__ = ["read_jsonlines"]

MAX_LINE_BYTES = 64 << 20


def read_jsonlines(data: bytes, source: str, log: BadRowLog) -> TableRows:
    """Return the rows of a text with one JSON object a line.

    A name that an object lacks is missing there, as null is. Blank lines at the end mean nothing; one between
    rows is a bad row. Arrow reads files that are plain; Python reads the others line by line, which is slower
    and knows where the fault is. Both give a column the type that all its values share, else strings.

    Raises
    ------
    DataError
        With file and line.
    """
    data = data.removeprefix(b"\xef\xbb\xbf")
    lines = scan_records(data, 0, quote=False)
    n = len(lines)
    blank = lines.start == lines.stop
    while n and (blank[n - 1] or not data[lines.start[n - 1] : lines.stop[n - 1]].strip()):
        n -= 1
    if n == 0:
        raise DataError("the file is empty; one JSON object a line is expected", file=source)
    table = _quick(data, n) if is_utf8(data) and not blank[:n].any() else None
    rows = np.arange(n)
    if table is None:
        table, rows = _careful(data, lines.start[:n].tolist(), lines.stop[:n].tolist(), source, log)
    if table.num_columns == 0:
        raise DataError("the objects have no names: {}", file=source, line=1)
    return TableRows(table, rows, lines.line[rows], n, {"format": "jsonl"}, ((source, len(rows)),))


def _quick(data: bytes, n_lines: int) -> Any | None:
    """Return the table as Arrow reads it, or None where that is not one row of plain values a line."""
    import pyarrow as pa
    import pyarrow.json

    options = pyarrow.json.ReadOptions(block_size=min(max(len(data), 1 << 20), 1 << 30))
    try:
        table = pyarrow.json.read_json(pa.BufferReader(data), read_options=options)
        order = table.column_names
        times = [field.name for field in table.schema if pa.types.is_temporal(field.type)]
        if times:  # Arrow guesses that "2024-01-01" is a time; a JSON string stays a string
            schema = pa.schema([(name, pa.string()) for name in times])
            parse = pyarrow.json.ParseOptions(explicit_schema=schema)
            table = pyarrow.json.read_json(pa.BufferReader(data), read_options=options, parse_options=parse)
            table = table.select(order)
    except (pa.ArrowException, OSError, ValueError):
        return None
    plain = not any(pa.types.is_nested(field.type) for field in table.schema)
    return table if plain and table.num_rows == n_lines else None


def _careful(
    data: bytes, starts: list[int], stops: list[int], source: str, log: BadRowLog
) -> tuple[Any, np.ndarray]:
    """Return the table and the rows it has, parsed line by line."""
    records: list[dict[str, object]] = []
    rows: list[int] = []
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        try:
            records.append(_record(data[start:stop]))
        except _BadLine as bad:
            log.add(BadRow(row, row + 1, bad.column, str(bad), source))
            if not log.keeps:
                continue
            records.append({})
        rows.append(row)
    if not rows:
        raise DataError("no line can be read", file=source, line=1)
    try:
        return from_records(records), np.array(rows, dtype=np.int64)
    except DataError as error:
        raise DataError(error.message, file=source, column=error.column, hint=error.hint) from None


class _BadLine(Exception):
    def __init__(self, message: str, column: str | None = None) -> None:
        super().__init__(message)
        self.column = column


def _record(line: bytes) -> dict[str, object]:
    """Return the object of one line, or raise _BadLine saying what is wrong with it."""
    if len(line) > MAX_LINE_BYTES:
        raise _BadLine(f"the line has {len(line):,} bytes; at most {MAX_LINE_BYTES:,} are accepted")
    if not line.strip():
        raise _BadLine("a blank line where a JSON object is expected")
    try:
        record = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise _BadLine(
            f"not UTF-8: byte 0x{line[error.start]:02X} at byte {error.start + 1} of the line"
        ) from None
    except json.JSONDecodeError as error:
        raise _BadLine(f"not JSON: {error.msg} at character {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise _BadLine(f"not JSON that can be read: {error}") from None
    if not isinstance(record, dict):
        raise _BadLine(f'a JSON object such as {{"age": 31}} is expected, found {_name_of(record)}')
    for name, value in record.items():
        if isinstance(value, (dict, list)):
            raise _BadLine(
                f"{name!r} holds {_name_of(value)}; a cell is a string, a number, true, false or null", name
            )
    return record


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _BadLine(f"{twice!r} is there twice", twice)
    return record


def _name_of(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a bool", type(None): "null"}
    return kinds.get(type(value), "a number")
