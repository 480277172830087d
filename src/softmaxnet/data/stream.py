"""Opening a table of more rows than memory: Parquet as it is, delimited text by way of a cache, shuffled where needed.

::

    CSV --once--> cache --+
                          +--> RowGroups --label pass--> TableSource --epoch plan--> windows, one of them read ahead
    Parquet --------------+
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from softmaxnet.data.columns import Roles, _require
from softmaxnet.data.dataset import OnBadRow
from softmaxnet.data.label_pass import label_pass
from softmaxnet.data.opening import nearest, require_exists, what_it_is
from softmaxnet.data.parquet import find_parquet
from softmaxnet.data.row_cache import (
    CountingLog,
    OnProgress,
    Say,
    cache_key,
    convert_delimited,
    default_cache_folder,
    find_cached,
    shuffle_rows,
)
from softmaxnet.data.row_groups import RowGroups, open_row_groups
from softmaxnet.data.table_source import STREAM_BYTES, KeptRows, TableSource, all_rows
from softmaxnet.data.window_plan import window_rows_within
from softmaxnet.errors import DataError, ResourceError, UsageError

__all__ = ["open_source", "streamable_files"]


def open_source(
    path: str | Path,
    *,
    target: str,
    weights: str | None = None,
    group: str | None = None,
    drop: Sequence[str] = (),
    text: Sequence[str] = (),
    reader: Mapping[str, object] | None = None,
    on_bad_row: OnBadRow = "fail",
    stream_bytes: int = STREAM_BYTES,
    cache: Path | None = None,
    shuffle: bool = True,
    say: Say | None = None,
    on_progress: OnProgress | None = None,
) -> TableSource:
    """Open a table that need not fit in memory: Parquet as it is, delimited text by way of a cache.

    Parameters
    ----------
    path : str or Path
        A Parquet file or a folder of them, a CSV or TSV file (also compressed), or a pattern of either.
    target, weights, group : str
        Columns that are no inputs.
    drop : sequence of str
        Columns that are not read.
    text : sequence of str
        Columns of a delimited file that stay as they are written, because they are read as categories, texts
        or dates.
    reader : mapping, optional
    on_bad_row : "fail", "skip" or int
    stream_bytes : int
        Rows that windows may hold, in bytes; a row group is the least.
    cache : Path, optional
        Where converted and shuffled rows are kept; ``default_cache_folder()`` otherwise.
    shuffle : bool
        Whether a table in the order of its labels, or of too large row groups, is shuffled once.
    say : callable, optional
        Told where rows are converted to.
    on_progress : callable, optional
        Told what is done, and what is to be done in all, of converting and of shuffling.

    Raises
    ------
    DataError
        For what cannot be read, with file and line or row.
    UsageError
        For settings that cannot be.
    ResourceError
        For a cache that cannot be written.
    """
    if on_bad_row == "keep":
        raise UsageError("rows that cannot be read cannot be learned from; on_bad_row is 'fail', 'skip' or a number")
    roles = Roles(target, weights, group)
    folder = default_cache_folder() if cache is None else cache
    log = CountingLog(on_bad_row)
    try:
        where = Path(os.path.expanduser(path))
        found = streamable_files(where)
        if found is None:
            raise DataError(
                "what is read in windows is CSV, TSV or Parquet",
                file=str(path),
                hint="Convert it to Parquet, for example with pyarrow or polars.",
            )
        paths, kind, below = found
        settings: dict[str, object] = {"format": "parquet"}
        if kind == "text":
            converted = convert_delimited(
                paths,
                roles,
                log,
                folder,
                reader=reader,
                text=frozenset(text),
                say=say,
                on_progress=on_progress,
            )
            rows, settings = open_row_groups([converted.parquet]), converted.reader
        else:
            rows = open_row_groups(paths, below)
        source = _source(str(path), rows, roles, drop, log, stream_bytes, settings)
        source = replace(source, on_bad_row=on_bad_row)
        if not shuffle or not source.why_shuffle:
            return source
        return _shuffled(source, paths, folder, stream_bytes, say, on_progress)
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(f"cannot be read: {error.strerror or error}", file=str(path)) from error


def streamable_files(where: Path) -> tuple[list[Path], str, Path | None] | None:
    """Return the files of a path that can be read in pieces, what they are, and the folder they are below.

    They are ``"parquet"`` or ``"text"``; None for what is neither.

    Raises
    ------
    DataError
        Where there is nothing at the path, or files of several kinds.
    """
    if glob.has_magic(str(where)) and not os.path.lexists(where):
        paths = [Path(name) for name in sorted(glob.glob(str(where), recursive=True)) if Path(name).is_file()]
        if not paths:
            raise DataError("no file matches the pattern", file=str(where))
        kinds = {_kind(path) for path in paths}
        if len(kinds) > 1:
            raise DataError("the files that match are not of one kind", file=str(where))
        kind = kinds.pop()
        return (paths, kind, None) if kind else None
    require_exists(where)
    if where.is_dir():
        found = find_parquet(where)
        return (found, "parquet", where) if found else None
    kind = _kind(where)
    return ([where], kind, None) if kind else None


def _kind(path: Path) -> str:
    """Return "parquet", "text" for delimited text, or nothing for another kind of file."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"\x1f\x8b"):
        with gzip.open(path) as packed, contextlib.suppress(OSError, EOFError, zlib.error):
            head = packed.read(4096)
    names = [suffix.lower() for suffix in path.suffixes]
    kind = what_it_is(head)
    misnamed = names[-1:] == [".npz"] or (names[-1:] == [".parquet"] and kind != "parquet")
    if misnamed or ".jsonl" in names or ".ndjson" in names:
        return ""
    return kind if kind in ("parquet", "text") else ""


def _source(
    name: str,
    rows: RowGroups,
    roles: Roles,
    drop: Sequence[str],
    log: CountingLog,
    stream_bytes: int,
    reader: dict[str, object],
) -> TableSource:
    """Return the source of some row groups, after a pass over the columns with a role."""
    names = rows.schema.names
    _require(names, roles, name)
    for column in drop:
        if column not in names:
            raise UsageError(f"there is no column {column!r} to drop.", column=column, hint=nearest(column, names))
    known = {roles.target, roles.weights, roles.group, *drop}
    columns = tuple(column for column in names if column not in known)
    if not columns:
        raise DataError("there is no column left to learn from", file=name)
    labels, masks = label_pass(rows, roles, log, text=reader.get("format") == "csv")
    kept = KeptRows.of(rows.sizes, masks)
    per_row = rows.bytes_per_row()
    window_rows = window_rows_within(stream_bytes, per_row, int(rows.sizes.max()))
    bad = log.sorted()
    return TableSource(
        name, rows, roles, columns, labels, kept, window_rows, per_row, reader, log.n, bad, tuple(drop)
    )


def _shuffled(
    source: TableSource,
    paths: list[Path],
    folder: Path,
    stream_bytes: int,
    say: Say | None,
    on_progress: OnProgress | None,
) -> TableSource:
    """Return the source with its rows in random order, from a cache that is made where it is not there."""
    roles = source.roles
    settings: dict[str, object] = {
        "shuffled": True,
        "roles": [roles.target, roles.weights, roles.group],
        "columns": list(source.columns),
        "schema": str(source.rows.schema),
        "reader": source.reader,
    }
    target = folder / cache_key(paths, settings)
    cached = find_cached(target)
    if cached is None:
        if say is not None:
            say(f"{source.name}: {source.why_shuffle}; shuffling it once to {target}")
        n_bytes = int(source.n_rows * source.bytes_per_row)
        part_bytes = max(stream_bytes // 4, 1 << 20)
        tables = all_rows(source)
        cached = shuffle_rows(tables, source.n_rows, n_bytes, target, part_bytes=part_bytes, on_progress=on_progress)
    elif say is not None:
        say(f"using {target}, shuffled before")
    rows = open_row_groups([cached.parquet])
    log = CountingLog()
    shuffled = _source(source.name, rows, roles, (), log, stream_bytes, source.reader)
    return replace(
        shuffled,
        n_bad_rows=source.n_bad_rows,
        bad_rows=source.bad_rows,
        dropped=source.dropped,
        on_bad_row=source.on_bad_row,
        in_file_order=False,
    )
