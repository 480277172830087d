"""Whatever the user has in memory -> X: a matrix, a sparse matrix or an Arrow table."""

from __future__ import annotations

import decimal
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from softmaxnet.errors import DataError

__all__ = [
    "as_input",
    "column_names",
    "from_records",
    "n_columns",
    "n_rows",
    "table_from_columns",
    "take_rows",
]

TEXT_COLUMN = "text"


def as_input(X: Any) -> Any:
    """Return X as one of the three types that the rest of the package knows.

    ======================================================  ================================================
    given                                                   becomes
    ======================================================  ================================================
    pandas, polars, modin, duckdb, pyarrow frame            ``pyarrow.Table``; None, NaN of pandas, NA -> null
    mapping of name to values; list of mappings             ``pyarrow.Table``
    list, Series or 1-D array of str                        ``pyarrow.Table`` with the one column ``text``
    2-D array-like of numbers or bools                      ``numpy.ndarray`` (float64 unless it has a dtype)
    2-D array-like of strings or of mixed things            ``pyarrow.Table`` with columns ``x0``, ``x1``, ...
    uint8 images (n, h, w) or (n, h, w, 1 or 3 or 4)        ``numpy.ndarray`` (n, h * w * channels), uint8
    torch tensor                                            as the array of its values
    SciPy sparse array or matrix of any format              ``scipy.sparse.csr_array``, floating
    ======================================================  ================================================

    Raises
    ------
    DataError
        For what is none of these: a 1-D array of numbers, ragged rows, complex numbers, duplicate names.

    Examples
    --------
    >>> as_input([[1, 2], [3, None]])
    array([[ 1.,  2.],
           [ 3., nan]])
    >>> as_input(["a text", "another"]).column_names
    ['text']
    """
    if _is_arrow(X):
        return _from_arrow(X)
    if _is_sparse(X):
        return _from_sparse(X)
    if type(X).__module__.partition(".")[0] == "torch" and hasattr(X, "detach"):
        return _from_array(_from_torch(X))
    if isinstance(X, Mapping):
        return table_from_columns(X)
    if not isinstance(X, (np.ndarray, list, tuple, str)):
        frame = _from_frame(X)
        if frame is not None:
            return frame
    if isinstance(X, (list, tuple)) and len(X) and all(isinstance(row, Mapping) for row in X):
        return from_records(X)
    return _from_array(X)


def n_rows(X: Any) -> int:
    """Return the number of rows of an X."""
    return int(X.shape[0])


def n_columns(X: Any) -> int:
    """Return the number of columns of an X."""
    return int(X.shape[1])


def column_names(X: Any) -> list[str] | None:
    """Return the names of the columns, or None for a matrix, which has none."""
    return list(X.column_names) if _is_arrow(X) else None


def take_rows(X: Any, rows: Any) -> Any:
    """Return some rows of an X: by a slice, by integers or by a mask of bools.

    Examples
    --------
    >>> take_rows(as_input({"a": [1, 2, 3]}), np.array([2, 0])).to_pydict()
    {'a': [3, 1]}
    """
    if not _is_arrow(X):
        return X[rows]
    import pyarrow as pa

    if isinstance(rows, slice):
        start, stop, step = rows.indices(X.num_rows)
        if step == 1:
            return X.slice(start, max(stop - start, 0))
        rows = np.arange(start, stop, step)
    rows = np.asarray(rows)
    if rows.dtype == np.bool_:
        rows = np.flatnonzero(rows)
    rows = rows.astype(np.int64, copy=False)
    return _large_strings(X).take(pa.array(np.where(rows < 0, rows + X.num_rows, rows)))


def from_records(records: Iterable[Mapping[str, object]]) -> Any:
    """Return rows given as mappings as a table; a name that a row lacks is missing there.

    Examples
    --------
    >>> from_records([{"a": 1, "b": "x"}, {"a": 2.5}]).to_pydict()
    {'a': [1.0, 2.5], 'b': ['x', None]}
    """
    rows = list(records)
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row))
    return table_from_columns({name: [row.get(name) for row in rows] for name in names}, n_rows=len(rows))


def table_from_columns(columns: Mapping[Any, Any], *, n_rows: int | None = None) -> Any:
    """Return named columns of plain values as an Arrow table; names become strings."""
    return _table([(name, arrow_column(values, str(name))) for name, values in columns.items()], n_rows)


def arrow_column(values: Any, name: str) -> Any:
    """Return one column as an Arrow array: of the type that its values share, else of strings.

    Integers beside floats become floats; any other mixture becomes strings. None, NaN and NA are missing.

    Examples
    --------
    >>> arrow_column([1, "a", None, True], "c").to_pylist()
    ['1', 'a', None, 'true']
    """
    import pyarrow as pa

    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise DataError(
            f"column {name!r} is a {type(values).__name__}; a list of values is needed", column=name
        )
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise DataError(f"column {name!r} has {values.ndim} dimensions; a column has one", column=name)
    if isinstance(values, np.ndarray) and values.dtype.kind in "US":
        values = [_decoded(value) for value in values.tolist()]
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        array = None
    if array is None or pa.types.is_decimal(array.type):
        array = _mixed_column(values, name)
    elif isinstance(array.type, pa.BaseExtensionType):
        array = pa.array([None if _is_missing(value) else str(value) for value in values], pa.string())
    elif pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        array = pa.array([None if value is None else _decoded(value) for value in array.to_pylist()])
    return array


def _mixed_column(values: Any, name: str) -> Any:
    """Return values of several types: floats where all are numbers, else strings."""
    import pyarrow as pa

    cells = [None if _is_missing(value) else value for value in values]
    numeric = (int, float, decimal.Decimal, np.integer, np.floating)
    if all(cell is None or (isinstance(cell, numeric) and not isinstance(cell, bool)) for cell in cells):
        return pa.array([None if cell is None else float(cell) for cell in cells], pa.float64())
    return pa.array([None if cell is None else _cell_text(cell, name) for cell in cells], pa.string())


def _cell_text(cell: Any, name: str) -> str:
    if isinstance(cell, (bool, np.bool_)):
        return "true" if cell else "false"
    if isinstance(cell, (list, dict, tuple, set, np.ndarray, complex)):
        raise DataError(
            f"a cell holds a {type(cell).__name__}; a cell is a string, a number, a bool or a date",
            column=name,
        )
    return _unicode(_decoded(cell) if isinstance(cell, bytes) else str(cell))


def _unicode(text: str) -> str:
    """Return text that UTF-8 can hold: lone surrogates become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _decoded(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and math.isnan(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number, np.bool_, decimal.Decimal)) or _is_missing(value)


def _table(columns: Sequence[tuple[Any, Any]], n_rows: int | None = None) -> Any:
    import pyarrow as pa

    names = [_unicode(str(name)) for name, _ in columns]
    _refuse_duplicates(names)
    lengths = {len(array) for _, array in columns}
    if len(lengths) > 1:
        sizes = ", ".join(f"{name!r} {len(array)}" for name, (_, array) in zip(names, columns, strict=True))
        raise DataError(f"the columns have different numbers of rows: {sizes}")
    if not columns and n_rows:
        return pa.table({"": pa.nulls(n_rows)}).select([])
    return pa.Table.from_arrays([array for _, array in columns], names=names)


def _refuse_duplicates(names: Sequence[str]) -> None:
    if len(set(names)) == len(names):
        return
    seen: set[str] = set()
    twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
    raise DataError(f"two columns are named {twice!r}; names must differ", column=twice)


# Arrow, sparse, torch


def _is_arrow(X: Any) -> bool:
    pa = sys.modules.get("pyarrow")
    return pa is not None and isinstance(X, (pa.Table, pa.RecordBatch))


def _from_arrow(X: Any) -> Any:
    import pyarrow as pa

    _refuse_duplicates(X.schema.names)
    return pa.Table.from_batches([X]) if isinstance(X, pa.RecordBatch) else X


def _large_strings(table: Any) -> Any:
    """Widen 32-bit string offsets where gathered rows could pass 2 GiB (Arrow's take would fail)."""
    import pyarrow as pa

    if table.nbytes < 2**30:
        return table
    wide = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    schema = pa.schema([pa.field(f.name, wide.get(f.type, f.type)) for f in table.schema])
    return table.cast(schema)


def _is_sparse(X: Any) -> bool:
    return hasattr(X, "tocsr") and hasattr(X, "nnz")


def _from_sparse(X: Any) -> Any:
    import scipy.sparse

    if X.dtype.kind == "c":
        raise DataError("Complex data not supported: X has complex numbers; give real numbers")
    matrix = scipy.sparse.csr_array(X)
    if matrix.ndim != 2:
        raise DataError(f"a sparse X must have 2 dimensions; it has {matrix.ndim}")
    return matrix if matrix.dtype in (np.float32, np.float64) else matrix.astype(np.float64)


def _from_torch(X: Any) -> np.ndarray:
    if str(X.layout) != "torch.strided":
        raise DataError(
            f"a torch tensor of layout {X.layout} is not accepted; give it dense, or a SciPy matrix"
        )
    values = X.detach().cpu()
    if str(values.dtype) == "torch.bfloat16":
        values = values.float()
    return np.asarray(values.numpy())


# Data frames of other libraries


def _from_frame(X: Any) -> Any | None:
    """Return a frame or a Series of another library as a table; None for what is neither."""
    import narwhals as nw

    try:
        native = nw.from_native(X, pass_through=True, allow_series=True)
    except nw.exceptions.DuplicateError:
        _refuse_duplicates([str(name) for name in X.columns])
        raise
    if isinstance(native, nw.LazyFrame):
        native = native.collect("pyarrow")
    if isinstance(native, nw.Series):
        return _from_series(native)
    if isinstance(native, nw.DataFrame):
        if native.implementation.is_pandas_like():
            return _from_pandas(X)
        return _from_arrow(native.to_arrow())
    if hasattr(X, "__arrow_c_stream__"):
        import pyarrow as pa

        return _from_arrow(pa.table(X))
    return None


def _from_pandas(frame: Any) -> Any:
    names = [str(name) for name in frame.columns]
    _refuse_duplicates(names)
    columns = [(name, _pandas_column(frame.iloc[:, i], name)) for i, name in enumerate(names)]
    return _table(columns, len(frame))


def _pandas_column(series: Any, name: str) -> Any:
    # pyarrow knows nothing of pandas' sparse columns
    return arrow_column(np.asarray(series) if hasattr(series, "sparse") else series, name)


def _from_series(series: Any) -> Any:
    """Return a Series of strings as a table with one text column; numbers are refused as for 1-D arrays."""
    import pyarrow as pa

    native = series.to_native()
    array = (
        _pandas_column(native, TEXT_COLUMN) if series.implementation.is_pandas_like() else series.to_arrow()
    )
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _table([(TEXT_COLUMN, array.cast(pa.string()) if kind is not array.type else array)])
    if pa.types.is_null(kind):
        return _table([(TEXT_COLUMN, array.cast(pa.string()))])
    raise _one_dimension(len(array))


def _one_dimension(n: int) -> DataError:
    return DataError(
        f"Expected 2D array, got 1D array instead: X has {n} numbers and no columns.",
        hint="Reshape your data using X.reshape(-1, 1) for one column or X.reshape(1, -1) for one row.",
    )


# Arrays and lists


def _from_array(X: Any) -> Any:
    array = _as_array(X)
    if array.ndim == 3 and array.dtype == np.uint8:
        return array.reshape(array.shape[0], -1)
    if array.ndim == 4 and array.dtype == np.uint8 and array.shape[3] in (1, 3, 4):
        return array.reshape(array.shape[0], -1)
    if array.ndim == 1 and _all_text(array):
        return table_from_columns({TEXT_COLUMN: array})
    if array.ndim == 1:
        raise _one_dimension(len(array))
    if array.ndim == 0:
        raise DataError(
            f"X is a {type(X).__name__}; give a data frame, an array of 2 dimensions or a list of texts"
        )
    if array.ndim != 2:
        raise DataError(
            f"X must have 2 dimensions, rows and columns; it has {array.ndim} (shape {array.shape}).",
            hint="Images are accepted as uint8 of shape (n, height, width).",
        )
    if array.dtype.kind == "c":
        raise DataError("Complex data not supported: X has complex numbers; give real numbers")
    if array.dtype.kind in "fiub":
        return _plain_numbers(array)
    return _from_objects(array)


def _as_array(X: Any) -> np.ndarray:
    if isinstance(X, np.ma.MaskedArray):
        X = np.ma.filled(X.astype(np.float64), np.nan)
    if isinstance(X, np.ndarray):
        return np.asarray(X)
    if isinstance(X, (str, bytes)):
        raise DataError("X is one string; give a list of texts, or read a file with the command line")
    try:
        array = np.asarray(X)
        if array.dtype.kind in "US" and array.ndim == 2:
            array = np.asarray(X, dtype=object)  # [[1, "a"]]: the 1 is a number and stays one
        elif isinstance(X, (list, tuple)) and array.dtype == np.int64:
            array = array.astype(np.float64)  # written out, 1 and 1.0 mean the same
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"X cannot be read as rows of equal length: {error}") from None
    return array


def _plain_numbers(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and array.dtype not in (np.float32, np.float64):
        return array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _all_text(array: np.ndarray) -> bool:
    if array.dtype.kind in "US":
        return True
    if array.dtype != object or len(array) == 0:
        return False
    return any(isinstance(cell, str) for cell in array) and all(
        isinstance(cell, str) or _is_missing(cell) for cell in array
    )


def _from_objects(array: np.ndarray) -> Any:
    """Return a 2-D array of objects as floats where all are numbers, else as a table x0, x1, ..."""
    if array.dtype == object and all(map(_is_number, array.ravel())):
        cells = [math.nan if _is_missing(cell) else float(cell) for cell in array.ravel()]
        return np.array(cells, dtype=np.float64).reshape(array.shape)
    return table_from_columns({f"x{i}": array[:, i] for i in range(array.shape[1])}, n_rows=array.shape[0])
