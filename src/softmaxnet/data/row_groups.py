"""The row groups of one or more Parquet files, read one at a time: what a stream of rows is made of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from softmaxnet.errors import DataError, ResourceError

__all__ = ["RowGroups", "open_row_groups"]

Ints = NDArray[np.int64]

_MEASURED_ROWS = 2048
_BUFFER_BYTES = 1 << 18


@dataclass(frozen=True)
class RowGroups:
    """Row groups of files with the same columns, numbered through.

    Attributes
    ----------
    paths : tuple of Path
    constants : tuple of mapping, one for each file
        Columns that a folder's name gives (``year=2024``): one text for all rows, or None.
    file : int64 (n_groups,)
        The file of every row group.
    place : int64 (n_groups,)
        Its number in that file.
    sizes : int64 (n_groups,)
        Its rows.
    stored : int64 (n_groups,)
        Its bytes before compression, as the footer has them.
    schema : pyarrow.Schema
        Names and types that all files have in common.
    """

    paths: tuple[Path, ...]
    constants: tuple[dict[str, str | None], ...]
    file: Ints
    place: Ints
    sizes: Ints
    stored: Ints
    schema: Any

    def __len__(self) -> int:
        """Return the number of row groups."""
        return len(self.sizes)

    @property
    def n_rows(self) -> int:
        """Rows of all row groups."""
        return int(self.sizes.sum())

    @cached_property
    def _footers(self) -> dict[int, Any]:
        return {}

    def _file(self, number: int, buffer_bytes: int = 0) -> Any:
        """Return an open file; its footer is read once. Without a buffer a column of a row group is read at once."""
        import pyarrow.parquet as pq

        file = pq.ParquetFile(
            self.paths[number],
            metadata=self._footers.get(number),
            pre_buffer=False,
            buffer_size=buffer_bytes,
        )
        self._footers[number] = file.metadata
        return file

    def read(self, group: int, columns: Sequence[str], *, check: bool = False) -> Any:
        """Return some columns of one row group as a table.

        Parameters
        ----------
        group : int
        columns : sequence of str
        check : bool
            Whether texts are checked to be UTF-8.
        """
        return self.read_many([group], columns, check=check)

    def read_many(self, groups: Sequence[int], columns: Sequence[str], *, check: bool = False) -> Any:
        """Return some columns of several row groups, one after the other, as a table."""
        import pyarrow as pa

        tables = []
        number = -1
        file: Any = None
        for group in groups:
            if self.file[group] != number:
                if file is not None:
                    file.close()
                number = int(self.file[group])
                file = None
            with _said_of(self.paths[number]):
                file = file or self._file(number)
                wanted = [name for name in columns if name not in self.constants[number]]
                table = file.read_row_group(int(self.place[group]), columns=wanted, use_threads=False)
                if check:
                    table.validate(full=True)
                tables.append(self._fitted(table, number, columns, int(self.sizes[group])))
        if file is not None:
            file.close()
        return pa.concat_tables(tables)

    def batches(self, group: int, n_rows: int) -> Iterator[Any]:
        """Yield all columns of a row group as tables of at most ``n_rows`` rows: one too large for memory."""
        import pyarrow as pa

        number = int(self.file[group])
        columns = self.schema.names
        wanted = [name for name in columns if name not in self.constants[number]]
        with _said_of(self.paths[number]), self._file(number, _BUFFER_BYTES) as file:
            place = [int(self.place[group])]
            for batch in file.iter_batches(n_rows, row_groups=place, columns=wanted, use_threads=False):
                yield self._fitted(pa.Table.from_batches([batch]), number, columns, batch.num_rows)

    def _fitted(self, table: Any, number: int, columns: Sequence[str], n_rows: int) -> Any:
        """Return a table with the columns that folders give, in the types that all files have in common."""
        import pyarrow as pa

        table = table.replace_schema_metadata(None)
        for name, text in self.constants[number].items():
            if name in columns:
                column = pa.array([text], pa.string()).take(pa.array(np.zeros(n_rows, dtype=np.int32)))
                table = table.append_column(name, column) if table.num_columns else pa.table({name: column})
        return table.select(list(columns)).cast(pa.schema([self.schema.field(name) for name in columns]))

    def bytes_per_row(self) -> float:
        """Return the bytes of a decoded row, on average, in the row group where rows are largest.

        The first rows of three row groups are decoded; the others are judged by their stored size, those of
        half the largest number of rows or more.
        """
        stored = self.stored / np.maximum(self.sizes, 1)
        widest = float(stored[self.sizes * 2 >= self.sizes.max()].max())
        found = [1.0]
        for group in {0, len(self) // 2, len(self) - 1}:
            first = next(self.batches(group, _MEASURED_ROWS), None)
            if first is not None and first.num_rows:
                per_row = first.combine_chunks().nbytes / first.num_rows
                found.append(per_row * max(1.0, widest / float(stored[group])))
        return max(found)


@contextlib.contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Turn Arrow's errors about a file into errors that name it."""
    import pyarrow as pa

    try:
        yield
    except (DataError, ResourceError):
        raise
    except (pa.ArrowMemoryError, MemoryError) as error:
        raise ResourceError(f"not enough memory: {error}", file=str(path)) from None
    except (PermissionError, FileNotFoundError) as error:
        raise ResourceError(f"cannot be read: {error.strerror or error}", file=str(path)) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"a damaged Parquet file: {text}", file=str(path)) from None


def open_row_groups(paths: Sequence[Path], folder: Path | None = None) -> RowGroups:
    """Return the row groups of Parquet files, after looking at their footers alone.

    Parameters
    ----------
    paths : sequence of Path
    folder : Path, optional
        The folder that was asked for: ``key=value`` in the paths below it are columns.

    Raises
    ------
    DataError
        For a damaged file, one without rows in all of them, other columns than in the first, unlike types.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas: list[Any] = []
    constants: list[dict[str, str | None]] = []
    file: list[int] = []
    place: list[int] = []
    sizes: list[int] = []
    stored: list[int] = []
    for number, path in enumerate(paths):
        with _said_of(path):
            footer = pq.read_metadata(path)
            schema = footer.schema.to_arrow_schema().remove_metadata()
        given = _partition(path.relative_to(folder)) if folder is not None else {}
        constants.append({key: text for key, text in given.items() if key not in schema.names})
        for key in constants[-1]:
            schema = schema.append(pa.field(key, pa.string()))
        schemas.append(schema)
        _check_names(schema.names, schemas[0].names, path, paths[0])
        file += [number] * footer.num_row_groups
        place += range(footer.num_row_groups)
        sizes += [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
        stored += [footer.row_group(i).total_byte_size for i in range(footer.num_row_groups)]
    if not sum(sizes):
        raise DataError("the file has no rows", file=str(folder or paths[0]))
    schemas = [pa.schema([schema.field(name) for name in schemas[0].names]) for schema in schemas]
    try:
        common = pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"the files do not fit together: {error}", file=str(folder or paths[-1])) from None
    numbers = [np.array(values, dtype=np.int64) for values in (file, place, sizes, stored)]
    return RowGroups(tuple(paths), tuple(constants), numbers[0], numbers[1], numbers[2], numbers[3], common)


def _check_names(names: list[str], expected: list[str], path: Path, first: Path) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"two columns are named {twice!r}; names must differ", file=str(path), column=twice)
    lacking = [name for name in expected if name not in set(names)]
    extra = [name for name in names if name not in set(expected)]
    if lacking or extra:
        what = f"lacks the column {lacking[0]!r}" if lacking else f"has the column {extra[0]!r} too"
        raise DataError(
            f"the file {what}; all files must have the columns of {first}",
            file=str(path),
            column=(lacking or extra)[0],
        )


def _partition(path: Path) -> dict[str, str | None]:
    """Return the columns that the folders of a path give.

    Examples
    --------
    >>> _partition(Path("year=2024/month=__HIVE_DEFAULT_PARTITION__/part-0.parquet"))
    {'year': '2024', 'month': None}
    """
    found: dict[str, str | None] = {}
    for name in path.parts[:-1]:
        key, equals, value = name.partition("=")
        if equals and key:
            found.setdefault(key, None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value))
    return found
