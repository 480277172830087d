"""More rows than memory: a table on disk that gives its rows in windows, in an order that is settled beforehand.

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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from softmaxnet.data.columns import Roles, _require
from softmaxnet.data.dataset import BadRow, OnBadRow
from softmaxnet.data.label_pass import StreamedLabels, label_pass, plain
from softmaxnet.data.opening import nearest, require_exists, what_it_is
from softmaxnet.data.parquet import find_parquet
from softmaxnet.data.read_ahead import in_thread, one_ahead
from softmaxnet.data.row_cache import (
    GROUP_BYTES,
    GROUP_ROWS,
    CountingLog,
    OnProgress,
    Say,
    all_numbers,
    cache_key,
    convert_delimited,
    default_cache_folder,
    find_cached,
    shuffle_rows,
)
from softmaxnet.data.row_groups import RowGroups, open_row_groups
from softmaxnet.data.row_hash import hash_rows
from softmaxnet.data.window_plan import (
    COLUMN_BATCHES,
    Window,
    epoch_windows,
    stream_memory,
    window_order,
    window_rows_within,
)
from softmaxnet.errors import DataError, ResourceError, UsageError

__all__ = ["STREAM_BYTES", "StreamedRows", "TableSource", "open_source", "streamable_files"]

Ints = NDArray[np.int64]
Prepared = TypeVar("Prepared")

STREAM_BYTES = 192 << 20
"""Bytes of rows that a stream may hold, before they are encoded."""
SLICE_ROWS = 1 << 15
WELL_MIXED = 0.9
"""Row groups whose labels are less alike than this are shuffled once."""


class StreamedRows(NamedTuple):
    """Rows that are in memory.

    Attributes
    ----------
    X : pyarrow.Table
        The inputs.
    y : int64 (n_rows,)
        Class numbers, in 0..K-1.
    sample_weight : float64 (n_rows,) or None
    first_row : int
        Rows of the epoch before these.
    """

    X: Any
    y: Ints
    sample_weight: NDArray[np.float64] | None
    first_row: int


@dataclass(frozen=True)
class _Kept:
    """Which rows count; the others have no label, or are held out.

    Attributes
    ----------
    sizes : int64 (n_groups,)
        Rows that count, of every row group.
    bits : dict of row group -> uint8
        One bit for each row, for row groups of which not all rows count.
    """

    sizes: Ints
    bits: dict[int, NDArray[np.uint8]]

    @classmethod
    def of(cls, sizes: Ints, masks: Mapping[int, NDArray[np.bool_]]) -> _Kept:
        """Return it for row groups of ``sizes`` rows, of which those with a mask keep the rows of the mask."""
        return cls(sizes, {}).changed(masks)

    def changed(self, masks: Mapping[int, NDArray[np.bool_]]) -> _Kept:
        """Return it with other masks for some row groups."""
        sizes = self.sizes.copy()
        for group, mask in masks.items():
            sizes[group] = np.count_nonzero(mask)
        return _Kept(sizes, self.bits | {group: np.packbits(mask) for group, mask in masks.items()})


@dataclass(frozen=True)
class TableSource:
    """Rows of one or more files, never all of them in memory. Made by ``open_source``.

    Attributes
    ----------
    name : str
        The path that was asked for, for messages.
    rows : RowGroups
    roles : Roles
    columns : tuple of str
        The inputs.
    labels : what is known of the target
    kept : which rows count
    window_rows : int
    bytes_per_row : float
        Of decoded rows.
    reader : dict
        Settings with which the same kind of file can be read again.
    n_bad_rows : int
        Rows that were left out.
    bad_rows : tuple of BadRow
        The first 1,000 of them.
    dropped : tuple of str
        Columns that are left out on purpose.
    on_bad_row : "fail", "skip" or int
    in_file_order : bool
        Whether row groups have the rows in the order of the file, rows that were left out aside.
    """

    name: str
    rows: RowGroups
    roles: Roles
    columns: tuple[str, ...]
    labels: StreamedLabels
    kept: _Kept
    window_rows: int
    bytes_per_row: float
    reader: dict[str, object]
    n_bad_rows: int = 0
    bad_rows: tuple[BadRow, ...] = ()
    dropped: tuple[str, ...] = ()
    on_bad_row: OnBadRow = "fail"
    in_file_order: bool = True

    @property
    def classes(self) -> NDArray[Any]:
        """The user's labels, sorted."""
        return self.labels.classes

    @property
    def class_counts(self) -> Ints:
        """Rows of every class."""
        return self.labels.counts

    @property
    def class_weights(self) -> NDArray[np.float64]:
        """The sum of the weights of the rows of every class; its rows where they have none."""
        return self.labels.weights

    @property
    def sizes(self) -> Ints:
        """Rows that count, of every row group."""
        return self.kept.sizes

    @property
    def n_rows(self) -> int:
        """Rows that count."""
        return int(self.sizes.sum())

    @property
    def memory_bytes(self) -> int:
        """Bytes of rows that ``windows`` holds at most; see ``stream_memory``."""
        return stream_memory(self.window_rows, self.bytes_per_row, int(self.rows.sizes.max()))

    @property
    def about(self) -> dict[str, object]:
        """How the files were read and which columns were no inputs, as a model keeps it."""
        roles = {"target": self.roles.target, "weights": self.roles.weights, "group": self.roles.group}
        told = {name: column for name, column in roles.items() if column is not None}
        return {**self.reader, **told, **({"drop": list(self.dropped)} if self.dropped else {})}

    @property
    def why_shuffle(self) -> str:
        """Why the rows should be shuffled once before they are streamed; nothing where they should not."""
        largest = int(self.rows.sizes.max())
        if largest > self.window_rows / 2 and largest * self.bytes_per_row > GROUP_BYTES * 2:
            size = largest * self.bytes_per_row / 2**20
            return f"it has row groups of {largest:,} rows ({size:,.0f} MiB), too large to be mixed"
        if self.labels.mixing < WELL_MIXED and self.n_rows > self.window_rows:
            return "its rows are in the order of their labels"
        return ""

    def plan(self, seed: int, epoch: int) -> list[Window]:
        """Return the windows of an epoch; the same on any machine and for any number of processes."""
        return epoch_windows(seed, epoch, self.sizes.tolist(), self.window_rows)

    @overload
    def windows(self, seed: int, epoch: int, start: int = 0) -> Iterator[StreamedRows]: ...

    @overload
    def windows(
        self, seed: int, epoch: int, start: int = 0, *, prepare: Callable[[StreamedRows], Prepared]
    ) -> Iterator[Prepared]: ...

    def windows(
        self, seed: int, epoch: int, start: int = 0, *, prepare: Callable[[StreamedRows], Any] | None = None
    ) -> Iterator[Any]:
        """Yield the rows of an epoch, every one once, window by window; the next one is read meanwhile.

        Parameters
        ----------
        seed, epoch : int
        start : int
            The window to begin with; those before it are not read.
        prepare : callable, optional
            What is made of the rows in the thread that reads them, to be yielded in their place.

        Raises
        ------
        DataError
            For a file that turns out to be damaged.
        """
        plan = self.plan(seed, epoch)[start:]
        return one_ahead(plan, _with(prepare, lambda window: self._load(window, window_order(seed, epoch, window))))

    def slices(
        self,
        seed: int,
        epoch: int,
        prepare: Callable[[StreamedRows], Prepared],
        *,
        first_row: int = 0,
        slice_rows: int = SLICE_ROWS,
    ) -> Generator[Prepared, None, None]:
        """Yield what is made of the rows of an epoch, in the order of ``windows``, a slice of a window at a time.

        One thread reads windows and prepares slices while those before are trained on: at most three of them
        wait. Encoding a slice costs less than encoding a window, whose memory the system would have to find
        and clear each time.

        Parameters
        ----------
        seed, epoch : int
        prepare : callable
            Given ``StreamedRows``, whose ``first_row`` says where in the epoch they are.
        first_row : int
            Where in the epoch to begin; windows that end before it are not read.
        slice_rows : int
            Rows of a slice; the last one of a window has fewer.
        """

        def made() -> Iterator[Prepared]:
            for window in self.plan(seed, epoch):
                skip = max(0, first_row - window.first_row)
                if skip >= window.n_rows:
                    continue
                rows = self._load(window, window_order(seed, epoch, window))
                for low in range(skip, window.n_rows, slice_rows):
                    yield prepare(_sliced(rows, low, slice_rows))
                del rows  # before the next window is read

        return in_thread(made)

    def in_order(self, *, prepare: Callable[[StreamedRows], Any] | None = None) -> Iterator[Any]:
        """Yield all rows in the order of the files, a few row groups at a time; the next ones are read meanwhile.

        ``prepare`` is as for ``windows``.
        """
        plan: list[Window] = []
        first = 0
        for group, size in enumerate(self.sizes.tolist()):
            last = plan[-1] if plan else None
            if last is not None and last.n_rows + size <= max(self.window_rows, size):
                plan[-1] = replace(last, groups=(*last.groups, group), n_rows=last.n_rows + size)
            elif size:
                plan.append(Window(len(plan), (group,), first, size))
            first += size
        return one_ahead(plan, _with(prepare, lambda window: self._load(window, np.arange(window.n_rows))))

    def sample(self, n: int, seed: int = 0, *, reads_as: Sequence[Callable[[Any], bool]] | None = None) -> StreamedRows:
        """Return rows drawn at random, in the order of the files, after one pass over all of them.

        A rule that looks at the sample must not come out otherwise than on all rows: for each column of texts
        and each test of ``reads_as`` that all of its sampled cells pass, the sample gets a row with a cell
        that does not, where the source has one. The sample is then larger than n by such rows.

        Parameters
        ----------
        n : int
            All rows are returned where there are not more.
        seed : int
        reads_as : sequence of callable, optional
            Each says whether all cells of an Arrow array of texts read as something; whether as numbers, by
            default.
        """
        chosen = _drawn(self.n_rows, n, seed, 9)
        tests = (all_numbers,) if reads_as is None else tuple(reads_as)
        return _Sampling(self, tests).collect(chosen)

    def hold_out(self, fraction: float, seed: int = 0, *, max_rows: int = 100_000) -> tuple[TableSource, StreamedRows]:
        """Return the source without some rows, and those rows, in memory, for validation.

        Rows are drawn at random, whole groups where there is a group column; every class keeps a row.

        Parameters
        ----------
        fraction : float in (0, 1)
        seed : int
        max_rows : int
            Not more than these, about.

        Raises
        ------
        DataError
            Where no row can be held out, or none would be left.
        """
        share = min(fraction, max_rows / self.n_rows)
        held = _held_out(self, share, seed)
        n_held = sum(int(np.count_nonzero(mask)) for mask in held.values())
        if not 0 < n_held < self.n_rows:
            what = "the groups" if self.roles.group else "the rows"
            raise DataError(
                f"{what} cannot be split for validation: {n_held:,} of {self.n_rows:,} rows", file=self.name
            )
        out = replace(self, kept=_Kept.of(np.zeros_like(self.sizes), held))
        rows = _Sampling(out, ()).collect(np.arange(n_held))
        left = {group: _usable(self, group) & ~mask for group, mask in held.items()}
        n_classes = len(self.classes)
        counts = self.class_counts - np.bincount(rows.y, minlength=n_classes)
        weights = self.labels.weights - np.bincount(rows.y, weights=rows.sample_weight, minlength=n_classes)
        labels = replace(self.labels, counts=counts, weights=np.maximum(weights, 0.0))
        return replace(self, kept=self.kept.changed(left), labels=labels), rows

    def counts_row(self, group: int, row: int) -> bool:
        """Return whether a row of a row group counts."""
        bits = self.kept.bits.get(group)
        return bits is None or bool(bits[row >> 3] >> (7 - (row & 7)) & 1)

    def without(self, gone: Mapping[int, NDArray[np.bool_]]) -> TableSource:
        """Return the source without some rows: a mask of all rows, for row groups that lose some."""
        counts, weights = self.labels.counts.copy(), self.labels.weights.copy()
        left: dict[int, NDArray[np.bool_]] = {}
        for group, mask in gone.items():
            usable = _usable(self, group)
            y, w = _targets(self, self.rows.read(group, _role_columns(self.roles)).filter(usable & mask))
            counts -= np.bincount(y, minlength=len(counts))
            weights -= np.bincount(y, weights=w, minlength=len(counts))
            left[group] = usable & ~mask
        labels = replace(self.labels, counts=counts, weights=np.maximum(weights, 0.0))
        return replace(self, kept=self.kept.changed(left), labels=labels)

    def _load(self, window: Window, order: Ints) -> StreamedRows:
        """Read the rows of a window, in the order that is given."""
        import pyarrow as pa

        kept = _places(self, window.groups)
        places = pa.array(order if kept is None else kept[order])
        roles = self.rows.read_many(window.groups, _role_columns(self.roles))
        y, weights = _targets(self, roles.take(places))
        step = max(1, -(-len(self.columns) // COLUMN_BATCHES))
        columns: list[Any] = []
        for first in range(0, len(self.columns), step):
            table = self.rows.read_many(window.groups, self.columns[first : first + step])
            for name in table.column_names:
                columns.append(table.column(name).combine_chunks().take(places))
                table = table.drop_columns([name])
        return StreamedRows(pa.table(columns, names=list(self.columns)), y, weights, window.first_row)


def _usable(source: TableSource, group: int) -> NDArray[np.bool_]:
    """Return which rows of a row group count."""
    n = int(source.rows.sizes[group])
    bits = source.kept.bits.get(group)
    return np.ones(n, dtype=bool) if bits is None else np.unpackbits(bits, count=n).view(np.bool_)


def _places(source: TableSource, groups: Sequence[int]) -> Ints | None:
    """Return the places of rows that count among all rows of the row groups, None where all count."""
    if not any(group in source.kept.bits for group in groups):
        return None
    return np.flatnonzero(np.concatenate([_usable(source, group) for group in groups]))


def _role_columns(roles: Roles) -> list[str]:
    return [name for name in (roles.target, roles.weights) if name is not None]


def _targets(source: TableSource, table: Any) -> tuple[Ints, NDArray[np.float64] | None]:
    """Return the class numbers and the weights of rows that count."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = plain(table.column(source.roles.target))
    place = pc.index_in(column, value_set=source.labels.values).to_numpy()
    if source.roles.weights is None:
        return source.labels.numbers[place], None
    weights = table.column(source.roles.weights).cast(pa.float64()).to_numpy()
    return source.labels.numbers[place], np.asarray(weights, dtype=np.float64)


def _with(
    prepare: Callable[[StreamedRows], Any] | None, load: Callable[[Window], StreamedRows]
) -> Callable[[Window], Any]:
    """Return what loads a window and makes of it what is asked for."""
    return load if prepare is None else lambda window: prepare(load(window))


def _sliced(rows: StreamedRows, low: int, n: int) -> StreamedRows:
    weights = None if rows.sample_weight is None else rows.sample_weight[low : low + n]
    return StreamedRows(rows.X.slice(low, n), rows.y[low : low + n], weights, rows.first_row + low)


def _drawn(n_rows: int, n: int, seed: int, purpose: int) -> Ints:
    """Return n different numbers below ``n_rows``, ascending."""
    if n >= n_rows:
        return np.arange(n_rows)
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, purpose]))
    return np.sort(generator.choice(n_rows, n, replace=False, shuffle=False))


# Sampling


class _Sampling:
    """One pass that collects chosen rows, and rows that show what a column of texts is not."""

    def __init__(self, source: TableSource, tests: Sequence[Callable[[Any], bool]]) -> None:
        import pyarrow as pa

        self.source, self.tests = source, tests
        schema = source.rows.schema
        self.texts = [
            name
            for name in source.columns
            if pa.types.is_string(schema.field(name).type) or pa.types.is_large_string(schema.field(name).type)
        ]
        self.passed = {(name, test): True for name in self.texts for test in range(len(tests))}
        self.witness: dict[tuple[str, int], tuple[int, int]] = {}

    def collect(self, chosen: Ints) -> StreamedRows:
        """Return the chosen rows (counted among those that count, ascending) and the witnesses."""
        source = self.source
        ends = np.cumsum(source.sizes)
        columns = [*source.columns, *_role_columns(source.roles)]
        parts: list[Any] = []
        for group in range(len(source.rows)):
            low, high = np.searchsorted(chosen, [ends[group] - source.sizes[group], ends[group]])
            wanted = columns if high > low else [name for name in self.texts if self._is_open(name)]
            if not wanted or not source.sizes[group]:
                continue
            table = source.rows.read(group, wanted, check=True)
            kept = _places(source, [group])
            table = table if kept is None else table.take(kept)
            if high > low:
                parts.append(table.take(chosen[low:high] - (ends[group] - source.sizes[group])).combine_chunks())
            self._look(table, parts[-1] if high > low else None, group)
        parts += self._witnesses(columns)
        return self._joined(parts)

    def _is_open(self, name: str) -> bool:
        """Say whether a test has passed in the sample and has no witness against it."""
        return any(self.passed[name, test] and (name, test) not in self.witness for test in range(len(self.tests)))

    def _look(self, table: Any, sampled: Any | None, group: int) -> None:
        """Note which tests the sampled cells fail, and the first row of this group that fails others."""
        for name in self.texts:
            for number, test in enumerate(self.tests):
                key = (name, number)
                if not self.passed[key] or (key in self.witness and sampled is None):
                    continue
                if sampled is not None and not _passes(test, sampled.column(name)):
                    self.passed[key] = False
                elif key not in self.witness and not _passes(test, table.column(name)):
                    self.witness[key] = (group, _first_failing(test, table.column(name)))

    def _witnesses(self, columns: list[str]) -> list[Any]:
        rows = sorted({place for key, place in self.witness.items() if self.passed[key]})
        parts = []
        for group, row in rows:
            kept = _places(self.source, [group])
            place = row if kept is None else int(kept[row])
            parts.append(self.source.rows.read(group, columns).slice(place, 1).combine_chunks())
        return parts

    def _joined(self, parts: list[Any]) -> StreamedRows:
        import pyarrow as pa

        table = pa.concat_tables(parts).combine_chunks()
        y, weights = _targets(self.source, table)
        return StreamedRows(table.select(list(self.source.columns)), y, weights, 0)


def _passes(test: Callable[[Any], bool], column: Any) -> bool:
    return column.null_count == len(column) or test(column)


def _first_failing(test: Callable[[Any], bool], column: Any) -> int:
    """Return the first row at which a test fails, by halving."""
    low, high = 0, len(column)  # rows before low pass together; those before high do not
    while high - low > 1:
        middle = (low + high) // 2
        if _passes(test, column.slice(low, middle - low)):
            low = middle
        else:
            high = middle
    return low


def _held_out(source: TableSource, share: float, seed: int) -> dict[int, NDArray[np.bool_]]:
    """Return, for row groups that have some, which rows are held out."""
    held: dict[int, NDArray[np.bool_]] = {}
    if source.roles.group is None:
        chosen = _drawn(source.n_rows, max(1, round(share * source.n_rows)), seed, 10)
        ends = np.cumsum(source.sizes)
        for group in range(len(source.rows)):
            low, high = np.searchsorted(chosen, [ends[group] - source.sizes[group], ends[group]])
            if high > low:
                kept = np.flatnonzero(_usable(source, group))
                mask = np.zeros(int(source.rows.sizes[group]), dtype=bool)
                mask[kept[chosen[low:high] - (ends[group] - source.sizes[group])]] = True
                held[group] = mask
    else:
        salt = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, 10])).integers(2**63)
        for group in range(len(source.rows)):
            hashes = hash_rows(source.rows.read(group, [source.roles.group])) ^ np.uint64(salt)
            hashes *= np.uint64(0x9E3779B97F4A7C15)
            mask = (hashes >> np.uint64(11)) < np.uint64(share * 2.0**53)
            mask &= _usable(source, group)
            if mask.any():
                held[group] = mask
    _return_last_rows(source, held)
    return held


def _return_last_rows(source: TableSource, held: dict[int, NDArray[np.bool_]]) -> None:
    """Give a row back to every class of which all are held out, or all rows of that row's group."""
    assert source.roles.target is not None
    n_classes = len(source.classes)
    counts = np.zeros(n_classes, dtype=np.int64)
    first: dict[int, tuple[int, int]] = {}
    for group, mask in held.items():
        table = source.rows.read(group, _role_columns(source.roles)).filter(mask)
        y, _ = _targets(source, table)
        counts += np.bincount(y, minlength=n_classes)
        for label, place in zip(*np.unique(y, return_index=True), strict=True):
            first.setdefault(int(label), (group, int(np.flatnonzero(mask)[place])))
    for label in np.flatnonzero((counts > 0) & (counts == source.labels.counts)).tolist():
        group, row = first[label]
        if source.roles.group is None:
            held[group][row] = False
        else:
            _return_group(source, held, group, row)


def _return_group(source: TableSource, held: dict[int, NDArray[np.bool_]], group: int, row: int) -> None:
    assert source.roles.group is not None
    mine = hash_rows(source.rows.read(group, [source.roles.group]))[row]
    for other, mask in held.items():
        mask &= hash_rows(source.rows.read(other, [source.roles.group])) != mine


# Opening


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
    kept = _Kept.of(rows.sizes, masks)
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
        tables = _all_rows(source)
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


def _all_rows(source: TableSource) -> Iterator[Any]:
    """Yield the rows that count, with all columns that are used, in tables of a few MiB."""
    names = [name for name in source.rows.schema.names if name in {*source.columns, source.roles.target}]
    names += [name for name in (source.roles.weights, source.roles.group) if name is not None]
    n = int(np.clip(GROUP_BYTES / source.bytes_per_row, 256, GROUP_ROWS))
    for group in range(len(source.rows)):
        usable, first = _usable(source, group), 0
        for table in source.rows.batches(group, n):
            mask = usable[first : first + table.num_rows]
            first += table.num_rows
            yield table.select(names).filter(mask)
