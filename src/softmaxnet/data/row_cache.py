"""Rows that were read once and are read again every epoch: a folder with one Parquet file made for streaming.

A delimited file is converted once; a file in the order of its labels, or with row groups too large for a window, is
shuffled once. The name of the folder is a digest of all that its content depends on, and it is moved to its place
when it is whole, so that a folder that is there can be used.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from softmaxnet.data.columns import Roles, _label_hint, _missing, _report, _require, _weights
from softmaxnet.data.dataset import BadRow, BadRowLog, OnBadRow
from softmaxnet.data.delimited_blocks import delimited_blocks
from softmaxnet.data.table import TableRows
from softmaxnet.errors import DataError, ResourceError

__all__ = [
    "GROUP_BYTES",
    "GROUP_ROWS",
    "Cached",
    "CountingLog",
    "cache_key",
    "convert_delimited",
    "default_cache_folder",
    "shuffle_rows",
]

VERSION = 1
GROUP_ROWS, GROUP_BYTES = 1 << 16, 8 << 20
"""A row group has at most so many rows, and about so many bytes when decoded."""
STALE_SECONDS = 24 * 3600
"""A temporary folder that nobody has written to for so long was left by a process that was killed."""
MAX_BAD_ROWS = 1000
"""Bad rows that are described in the cache; all are counted."""
MAX_PARTS = 256

Say = Callable[[str], None]
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Cached:
    """A cache that is whole.

    Attributes
    ----------
    folder : Path
    n_rows : int
    n_bad_rows : int
    bad_rows : tuple of BadRow
        The first of them.
    reader : dict
        Settings of the file that was read.
    """

    folder: Path
    n_rows: int
    n_bad_rows: int = 0
    bad_rows: tuple[BadRow, ...] = ()
    reader: dict[str, object] = field(default_factory=dict)

    @property
    def parquet(self) -> Path:
        """The file of rows."""
        return self.folder / "rows.parquet"


def default_cache_folder() -> Path:
    """Return where caches go: ``$SOFTMAXNET_CACHE``, or the system's place for caches of a user."""
    told = os.environ.get("SOFTMAXNET_CACHE")
    if told:
        return Path(told).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "softmaxnet"


def cache_key(paths: Sequence[Path], settings: Mapping[str, object]) -> str:
    """Return a name for what files and settings give: it changes with path, size and time of any of the files."""
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    text = json.dumps([VERSION, stats, settings], sort_keys=True)
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in paths[0].name)[:60]
    return f"{stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class CountingLog(BadRowLog):
    """A log that describes the first bad rows and counts all of them, where any number may be skipped."""

    def __init__(self, on_bad_row: OnBadRow = "fail") -> None:
        super().__init__(on_bad_row)
        self.n = 0

    def add(self, bad: BadRow, *, hint: str | None = None) -> None:
        """Record one bad row, or raise DataError when no more are allowed."""
        if self.limit is not None or len(self.rows) < MAX_BAD_ROWS:
            super().add(bad, hint=hint)
        self.n += 1


# The folder


def find_cached(folder: Path) -> Cached | None:
    """Return the cache in a folder, None where there is none."""
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        bad = tuple(BadRow(**row) for row in about["bad_rows"])
        cached = Cached(folder, about["n_rows"], about["n_bad_rows"], bad, about["reader"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return cached if cached.parquet.is_file() else None


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Make a temporary folder beside ``target`` that takes its place when the block ends without an error."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        prefix = f".{target.name}.{_host()}.{os.getpid()}."
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=target.parent))
    except OSError as error:
        raise ResourceError(
            f"the folder for converted rows cannot be written to: {error.strerror or error}",
            file=str(target.parent),
            hint="Name another one: SOFTMAXNET_CACHE.",
        ) from error
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        if find_cached(target) is None:
            shutil.rmtree(target, ignore_errors=True)
            try:
                temporary.rename(target)
            except OSError:
                if find_cached(target) is None:  # else another process has made the same one meanwhile
                    raise
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        size = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file())
        raise ResourceError(
            f"rows cannot be converted ({size:,} bytes so far): {error.strerror or error}",
            file=str(target),
            hint="Name a folder with more space: SOFTMAXNET_CACHE.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _host() -> str:
    """Return a name for this machine that fits into a file name."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _remove_stale(target: Path) -> None:
    """Remove what processes that were killed have left of the same cache."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        with contextlib.suppress(OSError):  # it may be moved to its place meanwhile
            newest = max(file.stat().st_mtime for file in [left, *left.rglob("*")])
            if time.time() - newest > STALE_SECONDS or _is_dead(left.name.split(".")[-4:-2]):
                shutil.rmtree(left, ignore_errors=True)


def _is_dead(maker: list[str]) -> bool:
    """Say whether the process that made a temporary folder, by machine and number, is known to be gone."""
    if os.name != "posix" or len(maker) != 2 or maker[0] != _host() or not maker[1].isdigit():
        return False
    try:
        os.kill(int(maker[1]), 0)  # sends nothing; asks whether there is such a process
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


class _GroupWriter:
    """Write tables of any size as row groups of even size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: Any = None
        self.held: list[Any] = []
        self.n_held = self.n_rows = 0
        self.group_rows = GROUP_ROWS

    def add(self, table: Any) -> None:
        """Take rows on; full row groups are written."""
        if not table.num_rows:
            return
        if self.writer is None:
            self._begin(table)
        self.held.append(table)
        self.n_held += table.num_rows
        if self.n_held >= self.group_rows:
            self._write(whole=False)

    def _begin(self, table: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        per_row = max(1.0, table.nbytes / table.num_rows)
        self.group_rows = int(np.clip(GROUP_BYTES / per_row, 256, GROUP_ROWS))
        texts = [f.name for f in table.schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        self.writer = pq.ParquetWriter(
            self.path,
            table.schema,
            compression="zstd",
            use_dictionary=texts,  # numbers rarely repeat
            write_statistics=False,
        )

    def _write(self, *, whole: bool) -> None:
        import pyarrow as pa

        table = pa.concat_tables(self.held)
        n = table.num_rows if whole else table.num_rows // self.group_rows * self.group_rows
        if n and self.writer is not None:
            self.writer.write_table(table.slice(0, n), row_group_size=self.group_rows)
        self.held, self.n_held = [table.slice(n)], table.num_rows - n
        self.n_rows += n

    def close(self) -> int:
        """Write what is held, end the file, and return its number of rows."""
        if self.held:
            self._write(whole=True)
        self.abandon()
        return self.n_rows

    def abandon(self) -> None:
        """Close the file as it is."""
        if self.writer is not None:
            self.writer.close()
        self.writer, self.held = None, []


# Delimited files


def convert_delimited(
    paths: Sequence[Path],
    roles: Roles,
    log: CountingLog,
    folder: Path,
    *,
    reader: Mapping[str, object] | None = None,
    text: frozenset[str] = frozenset(),
    say: Say | None = None,
    on_progress: OnProgress | None = None,
) -> Cached:
    """Return delimited files as a cache: from the last time, or converted now, in memory for a few blocks.

    A column becomes integers where all of its cells in all files are written as integers are (``3``, ``-1``;
    not ``03``), and floats where all are numbers and one has a fraction: what the encoder makes of them is
    the same as of the texts. Target and groups stay texts, as do the columns named in ``text``. What is
    missing is what the reader of delimited files says.

    Parameters
    ----------
    paths : sequence of Path
        With the same columns, each with its own header.
    roles : Roles
        Rows without a label, or with an impossible weight, are bad rows.
    log : BadRowLog
        What happens at bad rows; ``"keep"`` has no meaning here.
    folder : Path
        Where caches are.
    reader : mapping, optional
    text : set of str
    say, on_progress : callable, optional
        Told where the cache is; told bytes read, and bytes in all.

    Raises
    ------
    DataError
        At a bad row that is too many, with its line, also where the cache is from the last time.
    ResourceError
        Where the folder cannot be written to.
    """
    settings: dict[str, object] = {
        "roles": [roles.target, roles.weights, roles.group],
        "reader": dict(reader or {}),
        "text": sorted(text),
    }
    target = folder / cache_key(paths, settings)
    cached = find_cached(target)
    if cached is not None:
        _repeat_bad_rows(cached, log)
        if say is not None:
            say(f"using {target}, converted before")
        return cached
    if say is not None:
        say(f"converting {paths[0] if len(paths) == 1 else f'{len(paths)} files'} once to {target}")
    job = _Conversion(paths, roles, dict(reader or {}), text, on_progress)
    with _new_folder(target) as temporary:
        if not job.run(temporary / "rows.parquet", log):
            job.run(temporary / "rows.parquet", BadRowLog("skip"))
        about = {
            "n_rows": job.n_rows,
            "n_bad_rows": log.n,
            "bad_rows": [vars(bad) for bad in log.sorted()[:MAX_BAD_ROWS]],
            "reader": job.settings,
        }
        (temporary / "about.json").write_text(json.dumps(about), encoding="utf-8")
    return Cached(target, job.n_rows, log.n, log.sorted()[:MAX_BAD_ROWS], job.settings)


def _repeat_bad_rows(cached: Cached, log: CountingLog) -> None:
    """Report the bad rows of the last time, so that what is too many now is an error now."""
    for bad in cached.bad_rows:
        log.offset = 0
        log.add(bad)
    if log.limit is not None and cached.n_bad_rows > log.limit:
        message = f"{cached.n_bad_rows:,} rows cannot be read; at most {log.limit:,} may be skipped"
        raise DataError(message, file=cached.bad_rows[0].file if cached.bad_rows else None)
    log.n = cached.n_bad_rows


class _Conversion:
    """Blocks of text -> row groups with types; a type that later rows refute is corrected in a second run."""

    def __init__(
        self,
        paths: Sequence[Path],
        roles: Roles,
        reader: dict[str, object],
        text: frozenset[str],
        on_progress: OnProgress | None,
    ) -> None:
        self.paths, self.roles, self.reader, self.on_progress = paths, roles, reader, on_progress
        self.text = text | {name for name in (roles.target, roles.group) if name is not None}
        self.types: dict[str, str] = {}  # of every column: "integer", "number" or "text"
        self.fractions: set[str] = set()
        self.n_rows = 0
        self.settings: dict[str, object] = {}

    def run(self, path: Path, log: BadRowLog) -> bool:
        """Write the file; False where a type turned out wrong, and the next run will be right."""
        writer = _GroupWriter(path)
        written = True
        try:
            for table in self._tables(log):
                if not self.types and table.num_rows:
                    self._guess(table)
                typed, fits = self._typed(table) if table.num_rows else (table, True)
                if written and not fits:
                    written = False
                    writer.abandon()
                if written:
                    writer.add(typed)
            self.n_rows = writer.close() if written else 0
        finally:
            writer.abandon()
        if written and not self.n_rows:
            raise DataError("no row is left: all are bad", file=str(self.paths[0]))
        if not written:
            kinds = self.types.items()
            self.types = {n: "text" if t == "number" and n not in self.fractions else t for n, t in kinds}
        return written

    def _tables(self, log: BadRowLog) -> Iterator[Any]:
        """Yield the good rows of all files, block by block, with the columns of the first one."""
        total = sum(path.stat().st_size for path in self.paths)
        before = 0
        names: list[str] | None = None
        for path in self.paths:
            base = log.offset
            suffixes = [suffix.lower() for suffix in path.suffixes]

            def told(n_bytes: int, before: int = before) -> None:
                if self.on_progress is not None:
                    self.on_progress(before + n_bytes, total)

            tabs = ".tsv" in suffixes or ".tab" in suffixes
            for block in delimited_blocks(path, log, reader=self.reader, tabs=tabs, on_bytes=told):
                if names is None:
                    names = block.table.column_names
                    _require(names, self.roles, str(path))
                    if set(names) <= {self.roles.target, self.roles.weights, self.roles.group}:
                        raise DataError("there is no column left to learn from", file=str(path))
                if set(block.table.column_names) != set(names):
                    self._other_columns(block.table.column_names, names, path)
                self.settings = self.settings or block.reader
                yield good_rows(block, self.roles, log, base).table.select(names)
            before += path.stat().st_size

    def _other_columns(self, given: list[str], names: list[str], path: Path) -> None:
        lacking = [name for name in names if name not in given]
        extra = [name for name in given if name not in names]
        what = f"lacks the column {lacking[0]!r}" if lacking else f"has the column {extra[0]!r} too"
        raise DataError(
            f"the file {what}; all files must have the columns of {self.paths[0]}",
            file=str(path),
            column=(lacking or extra)[0],
        )

    def _guess(self, table: Any) -> None:
        """Settle the types that the first rows suggest."""
        for name in table.column_names:
            self.types[name] = "text" if name in self.text else _type_of(table.column(name))
        for name in [name for name, kind in self.types.items() if kind == "number"]:
            if not _has_fraction(table.column(name)):
                self.types[name] = "text"

    def _typed(self, table: Any) -> tuple[Any, bool]:
        """Return a block in the settled types, and whether all fit; types are corrected where they do not."""
        import pyarrow as pa

        columns, fits = [], True
        for name in table.column_names:
            column, kind = table.column(name), self.types[name]
            typed = column
            if kind == "integer":
                typed = _integers(column)
                kind = "integer" if typed is not None else "number"
            if kind == "number":
                typed = _numbers(column)
                kind = "number" if typed is not None else "text"
                if typed is not None and name not in self.fractions and _has_fraction(column):
                    self.fractions.add(name)
            fits &= kind == self.types[name]
            self.types[name] = kind
            columns.append(typed)
        return (pa.table(columns, names=table.column_names) if fits else None), fits


def good_rows(block: TableRows, roles: Roles, log: BadRowLog, base: int = 0) -> TableRows:
    """Return the rows of a block with a label, a group and a weight that can be; others are reported.

    ``base`` are the rows of the files before.
    """
    table = block.table
    faults = _missing(table, roles.target, "the label is missing", _label_hint(block))
    faults += _missing(table, roles.group, "the group is missing", None)
    faults += _weights(table, roles.weights)[1]
    offset, log.offset = log.offset, 0
    keep = _report(faults, replace(block, rows=block.rows + base), log)
    log.offset = offset
    if keep is None:
        return block
    good = table.filter(keep)
    lines = None if block.lines is None else block.lines[keep]
    return replace(block, table=good, rows=block.rows[keep], lines=lines, parts=((block.parts[0][0], good.num_rows),))


def _type_of(column: Any) -> str:
    if column.null_count == len(column):
        return "text"
    if _integers(column) is not None:
        return "integer"
    return "number" if _numbers(column) is not None else "text"


def _integers(column: Any) -> Any | None:
    """Return texts as integers if every one is written as an integer is, else None."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        values = column.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    same = pc.all(pc.equal(values.cast(pa.string()), column)).as_py()
    return values if same is not False else None


def _numbers(column: Any) -> Any | None:
    """Return texts as floats if every one is a number, white space around it aside, else None."""
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(column)
    blank = pc.equal(trimmed, "")
    if pc.any(blank).as_py():
        trimmed = pc.if_else(blank, pa.scalar(None, pa.string()), trimmed)
    try:
        return trimmed.cast(pa.float64())
    except pa.ArrowInvalid:
        return None


def all_numbers(column: Any) -> bool:
    """Say whether every text of a column is a number, white space around it and missing ones aside."""
    return _numbers(column) is not None


def _has_fraction(column: Any) -> bool:
    """Say whether some number of a column of texts is finite and not whole."""
    values = _numbers(column)
    if values is None:
        return False
    numbers = values.drop_null().to_numpy()
    finite = numbers[np.isfinite(numbers)]
    return bool((finite != np.floor(finite)).any())


# Shuffling once


def shuffle_rows(
    tables: Iterable[Any],
    n_rows: int,
    n_bytes: int,
    target: Path,
    *,
    part_bytes: int,
    seed: int = 0,
    reader: Mapping[str, object] | None = None,
    on_progress: OnProgress | None = None,
) -> Cached:
    """Write rows in random order as a cache, in memory for a few of ``part_bytes``.

    Every row goes to a part at random; each part, which fits in memory, is then put in random order and
    written after the one before: any order of all rows is as probable as any other. The parts are files
    beside the result and take as much space for the time.

    Parameters
    ----------
    tables : iterable of pyarrow.Table
        All rows, in order, in tables that fit in memory.
    n_rows, n_bytes : int
        Of all of them, decoded; ``n_bytes`` may be an estimate.
    target : Path
        The folder of the cache.
    part_bytes : int
    seed : int
    reader : mapping, optional
    on_progress : callable, optional
        Told rows written, both times, and rows in all, twice.
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, 11]))
    n_parts = int(np.clip(-(-n_bytes // part_bytes), 1, MAX_PARTS))
    done = 0
    with _new_folder(target) as temporary:
        parts = _Parts(temporary, n_parts)
        try:
            for table in tables:
                parts.add(table, generator.integers(0, n_parts, table.num_rows))
                done += table.num_rows
                if on_progress is not None:
                    on_progress(done, 2 * n_rows)
        finally:
            parts.close()
        writer = _GroupWriter(temporary / "rows.parquet")
        try:
            for part in range(n_parts):
                table = parts.take(part, generator)
                if table is not None:
                    writer.add(table)
                    done += table.num_rows
                if on_progress is not None:
                    on_progress(done, 2 * n_rows)
            written = writer.close()
        finally:
            writer.abandon()
        about = {"n_rows": written, "n_bad_rows": 0, "bad_rows": [], "reader": dict(reader or {})}
        (temporary / "about.json").write_text(json.dumps(about), encoding="utf-8")
    return Cached(target, written, reader=dict(reader or {}))


class _Parts:
    """Files of rows that are written side by side and read one after the other."""

    def __init__(self, folder: Path, n: int) -> None:
        self.paths = [folder / f"part-{i}.arrow" for i in range(n)]
        self.writers: list[Any] = [None] * n

    def add(self, table: Any, part: Any) -> None:
        """Write the rows of a table to their parts."""
        import pyarrow as pa
        from pyarrow import ipc

        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part, minlength=len(self.paths)))
        sorted_rows = table.combine_chunks().take(pa.array(order))
        for number, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if stop == start:
                continue
            if self.writers[number] is None:
                options = ipc.IpcWriteOptions(compression="lz4", use_threads=False)
                self.writers[number] = ipc.new_stream(str(self.paths[number]), table.schema, options=options)
            self.writers[number].write_table(sorted_rows.slice(start, stop - start))

    def close(self) -> None:
        """End all files."""
        for writer in self.writers:
            if writer is not None:
                writer.close()

    def take(self, number: int, generator: np.random.Generator) -> Any | None:
        """Return one part in random order, and remove its file."""
        import pyarrow as pa
        from pyarrow import ipc

        if self.writers[number] is None:
            return None
        with pa.OSFile(str(self.paths[number])) as file:
            table = ipc.open_stream(file).read_all()
        self.paths[number].unlink()
        columns = [column.combine_chunks() for column in table.columns]
        order = pa.array(generator.permutation(table.num_rows))
        return pa.table([column.take(order) for column in columns], names=table.column_names)
