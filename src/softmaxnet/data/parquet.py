"""Parquet files and folders -> a table; types are those of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from softmaxnet.data.columns import concatenated
from softmaxnet.data.opening import stored_bytes
from softmaxnet.data.table import TableRows
from softmaxnet.errors import DataError, ResourceError

__all__ = ["find_parquet", "read_parquet", "read_parquet_folder"]


def find_parquet(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder and those below it, in the order of their paths."""
    found = [*folder.rglob("*.parquet"), *folder.rglob("*.pq")]
    hidden = ("_", ".")
    return sorted(
        path
        for path in found
        if path.is_file() and not any(name.startswith(hidden) for name in path.relative_to(folder).parts)
    )


def read_parquet(data: bytes, source: str) -> TableRows:
    """Return the rows of one Parquet file.

    Raises
    ------
    DataError
        For a damaged file, one without rows, or duplicate column names.
    """
    import pyarrow as pa
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(pa.BufferReader(data))
        table.validate(full=True)  # strings that are not UTF-8 would fail later, and far from here
    except (pa.ArrowMemoryError, MemoryError):
        raise ResourceError(f"not enough memory to read {len(data):,} bytes", file=source) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"a damaged Parquet file: {str(error).splitlines()[0]}", file=source) from None
    names = table.column_names
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two columns are named {twice!r}; names must differ", file=source, column=twice)
    if table.num_rows == 0:
        raise DataError("the file has no rows", file=source)
    return _rows(table.replace_schema_metadata(None), source)


def read_parquet_folder(folder: Path) -> TableRows:
    """Return the rows of all Parquet files of a folder; ``key=value`` in a path is a column of strings."""
    parts = []
    for path in find_parquet(folder):
        part = read_parquet(stored_bytes(path), str(path))
        parts.append(_rows(_with_partition(part.table, path.relative_to(folder)), str(path)))
    return concatenated(parts)


def _rows(table: Any, source: str) -> TableRows:
    n = table.num_rows
    return TableRows(table, np.arange(n), None, n, {"format": "parquet"}, ((source, n),))


def _with_partition(table: Any, path: Path) -> Any:
    import pyarrow as pa

    for name in path.parts[:-1]:
        key, equals, value = name.partition("=")
        if equals and key and key not in table.column_names:
            cell = None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
            table = table.append_column(key, pa.array([cell] * table.num_rows, pa.string()))
    return table
