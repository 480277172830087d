"""A table in row groups that gives its rows in windows, in an order that is settled before the first one is read.

::

    RowGroups --label pass--> TableSource --epoch plan--> windows, one of them read ahead
                                   |
                                   +--> a sample, rows to hold out
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from softmaxnet.data.columns import Roles
from softmaxnet.data.dataset import BadRow, OnBadRow
from softmaxnet.data.label_pass import StreamedLabels, plain
from softmaxnet.data.read_ahead import in_thread, one_ahead
from softmaxnet.data.row_cache import (
    GROUP_BYTES,
    GROUP_ROWS,
    all_numbers,
)
from softmaxnet.data.row_groups import RowGroups
from softmaxnet.data.row_hash import hash_rows
from softmaxnet.data.window_plan import (
    COLUMN_BATCHES,
    Window,
    epoch_windows,
    stream_memory,
    window_order,
)
from softmaxnet.errors import DataError

__all__ = ["STREAM_BYTES", "KeptRows", "StreamedRows", "TableSource", "all_rows"]

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
class KeptRows:
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
    def of(cls, sizes: Ints, masks: Mapping[int, NDArray[np.bool_]]) -> KeptRows:
        """Return it for row groups of ``sizes`` rows, of which those with a mask keep the rows of the mask."""
        return cls(sizes, {}).changed(masks)

    def changed(self, masks: Mapping[int, NDArray[np.bool_]]) -> KeptRows:
        """Return it with other masks for some row groups."""
        sizes = self.sizes.copy()
        for group, mask in masks.items():
            sizes[group] = np.count_nonzero(mask)
        return KeptRows(sizes, self.bits | {group: np.packbits(mask) for group, mask in masks.items()})


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
    kept: KeptRows
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
        out = replace(self, kept=KeptRows.of(np.zeros_like(self.sizes), held))
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


def all_rows(source: TableSource) -> Iterator[Any]:
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
