"""The user's labels <-> integers 0..K-1, with the type of the labels kept.

Labels are all integers, all floats, all bools or all strings: ``1``, ``1.0``, ``True`` and ``"1"`` are four
different labels, and a mixture of them is refused rather than guessed at.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from softmaxnet.data.dataset import Dataset
from softmaxnet.errors import DataError

__all__ = [
    "AMOUNTS_MIN_CLASSES",
    "are_amounts",
    "column_labels",
    "encode_labels",
    "is_missing_label",
    "label_array",
    "labels_of",
    "lookup_labels",
]

_CANONICAL_INTEGER = r"^(0|-?[1-9][0-9]*)$"
_canonical = re.compile(_CANONICAL_INTEGER, re.ASCII)
_decimal = re.compile(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?\s*", re.ASCII)
AMOUNTS_MIN_CLASSES = 20
"""Up to so many different decimal numbers may well be classes: ratings, sizes, versions."""


def encode_labels(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's class number and the sorted classes.

    Parameters
    ----------
    y : array-like of shape (n_rows,)
        Integers, floats, bools or strings, of one kind; from NumPy, a list, pandas, polars or Arrow.

    Returns
    -------
    labels : numpy.ndarray of shape (n_rows,), int64, in 0..K-1
    classes : numpy.ndarray of shape (K,)
        Sorted; int64, float64, bool or strings. ``classes[labels]`` are the given labels.

    Raises
    ------
    DataError
        For a missing label (with its row), a mixture of types, or labels of another type.

    Examples
    --------
    >>> labels, classes = encode_labels(["cat", "ant", "cat"])
    >>> labels.tolist(), classes.tolist()
    ([1, 0, 1], ['ant', 'cat'])
    """
    return _factorise(label_array(y))


def lookup_labels(y: Any, classes: np.ndarray) -> np.ndarray:
    """Return each row's class number among known classes, -1 for a label that is not among them.

    Labels that were read from another kind of file still match: ``"3"`` and ``3.0`` match the class 3 (not
    ``"03"``), 3 matches the class ``"3"``, ``"true"`` matches the class True. A missing label is -1.

    Parameters
    ----------
    y : array-like of shape (n_rows,)
    classes : numpy.ndarray of shape (K,), sorted

    Returns
    -------
    numpy.ndarray of shape (n_rows,), int64, in -1..K-1

    Examples
    --------
    >>> lookup_labels(["3", "03", 5, None], np.array([3, 4, 5])).tolist()
    [0, -1, 2, -1]
    """
    array = _one_dimension(y)
    if array.dtype.kind in "iu" and classes.dtype.kind in "iu":
        return _search(array, classes)
    kind = _kind_of_array(classes)
    number = {_class_key(label, kind): i for i, label in enumerate(classes.tolist())}
    codes, uniques = _codes(array)
    found = [_number_of(label, kind, number) for label in uniques]
    return np.asarray(np.array([*found, -1], dtype=np.int64)[codes])


def labels_of(dataset: Dataset) -> np.ndarray:
    """Return the labels of a data set that must have them all.

    Raises
    ------
    DataError
        Where there are none, or with file and line where one is missing.
    """
    if dataset.y is None:
        raise DataError("the data have no labels; name the target column", file=dataset.source)
    missing = np.flatnonzero(is_missing_label(dataset.y))
    if len(missing):
        file, line = dataset.place(int(missing[0]))
        raise DataError(
            f"the label is missing in {len(missing)} of {len(dataset.y)} rows, first in row {missing[0] + 1}",
            file=file,
            line=line,
            hint="Remove such rows, or skip them (--on-bad-row skip).",
        )
    return dataset.y


def are_amounts(classes: Sequence[object]) -> bool:
    """Whether distinct labels look like measured amounts: more than 20, all decimal numbers, not all of them whole.

    Parameters
    ----------
    classes : sequence of length K, distinct

    Examples
    --------
    >>> are_amounts([f"{0.37 * i:.2f}" for i in range(100)]), are_amounts([0.5, 1.0, 1.5, 2.0])
    (True, False)
    >>> are_amounts([f"{i}.0" for i in range(100)]), are_amounts([f"A{i}.5" for i in range(100)])
    (False, False)
    """
    if len(classes) <= AMOUNTS_MIN_CLASSES:
        return False
    fraction = False
    for label in classes:
        if isinstance(label, str):
            if not _decimal.fullmatch(label):
                return False
            value = float(label.replace(",", "."))
        elif isinstance(label, float):
            value = label
        else:
            return False
        fraction = fraction or (math.isfinite(value) and value != math.floor(value))
    return fraction


def is_missing_label(y: np.ndarray) -> np.ndarray:
    """Return a mask of the labels that are None or NaN."""
    if y.dtype.kind == "f":
        return np.asarray(np.isnan(y))
    if y.dtype != object:
        return np.zeros(len(y), dtype=bool)
    return np.fromiter((_is_missing(value) for value in y), dtype=bool, count=len(y))


def label_array(y: Any) -> np.ndarray:
    """Return labels as a 1-D array of int64, float64, bool or strings (``<U`` or object, as given).

    Raises
    ------
    DataError
        As `encode_labels`.
    """
    array = _one_dimension(y)
    kind = array.dtype.kind
    if kind == "b" or kind == "U":
        return array
    if kind in "iu":
        if kind == "u" and len(array) and array.max() > np.iinfo(np.int64).max:
            raise DataError(f"the label {array.max()} does not fit in 64 bits")
        return array.astype(np.int64, copy=False)
    if kind == "f":
        _refuse(np.flatnonzero(~np.isfinite(array)), array)
        return array.astype(np.float64, copy=False)
    if kind == "S":
        return np.char.decode(array, "utf-8")
    if kind != "O":
        raise DataError(f"labels must be integers, floats, bools or strings. Got the dtype {array.dtype}.")
    return _object_labels(array)


def column_labels(column: Any, *, text: bool) -> np.ndarray:
    """Return a table's target column as labels, None or NaN where one is missing.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
    text : bool
        The column is from a text file, where types are not marked: labels that are all canonical integers
        ("3", "-1", not "03") are int64.

    Examples
    --------
    >>> import pyarrow as pa
    >>> column_labels(pa.chunked_array([["3", "-1"]]), text=True)
    array([ 3, -1])
    >>> column_labels(pa.chunked_array([["3", "03"]]), text=True).tolist()
    ['3', '03']
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if text and column.null_count < len(column) and _all_canonical(column.drop_null()):
        with contextlib.suppress(pa.ArrowInvalid):  # integers beyond 64 bits stay strings
            column = column.cast(pa.int64())
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_temporal(kind):
        column = column.cast(pa.string())
    elif pa.types.is_nested(kind) or pa.types.is_binary(kind):
        raise DataError(f"labels must be integers, floats, bools or strings; the column is {kind}")
    if pa.types.is_floating(column.type):
        return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy())
    if column.null_count or pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _to_objects(column)
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy()).astype(np.int64, copy=False)
    return np.asarray(column.to_numpy())


def _to_objects(column: Any) -> np.ndarray:
    """Return an Arrow column as objects; equal strings are one object, which is quick for few classes."""
    encoded = column.combine_chunks().dictionary_encode()
    values = np.empty(len(encoded.dictionary) + 1, dtype=object)
    values[:-1] = encoded.dictionary.to_pylist()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return np.asarray(values[codes])


def _all_canonical(column: Any) -> bool:
    import pyarrow.compute as pc

    return bool(pc.all(pc.match_substring_regex(column.unique(), _CANONICAL_INTEGER)).as_py())


# One array of one kind


def _one_dimension(y: Any) -> np.ndarray:
    if isinstance(y, (list, tuple)):
        # NumPy would make strings of [1, "a"] and numbers of [True, 2]
        array = np.empty(len(y), dtype=object)
        array[:] = [value.item() if isinstance(value, np.generic) else value for value in y]
        return array
    array = np.asarray(y.to_numpy() if hasattr(y, "to_numpy") else y)
    if array.ndim != 1:
        raise DataError(f"labels must have 1 dimension, one label a row. Got the shape {array.shape}.")
    return array


def _object_labels(array: np.ndarray) -> np.ndarray:
    kinds = {type(value) for value in array}
    if kinds <= {str, np.str_}:
        return array
    _refuse(np.flatnonzero(is_missing_label(array)), array)
    if kinds <= {bool, np.bool_}:
        return array.astype(np.bool_)
    if not any(issubclass(kind, (str, bytes, bool, np.bool_)) for kind in kinds):
        if all(issubclass(kind, (int, np.integer)) for kind in kinds):
            try:
                return array.astype(np.int64)
            except OverflowError:
                raise DataError("a label does not fit in 64 bits; give such labels as strings") from None
        if all(issubclass(kind, (int, float, np.number)) for kind in kinds):
            return label_array(array.astype(np.float64))
    names = ", ".join(sorted({kind.__name__ for kind in kinds}))
    raise DataError(
        f"labels must be all integers, all floats, all bools or all strings. Got these types: {names}.",
        hint="Convert them, for example y.astype(str).",
    )


def _refuse(rows: np.ndarray, array: np.ndarray) -> None:
    if len(rows):
        value = array[rows[0]]
        what = "is missing" if _is_missing(value) else f"is {value}"
        raise DataError(
            f"the label in row {rows[0]} (counted from 0) {what}; {len(rows)} of {len(array)} rows are so. "
            "Input y contains NaN or infinity.",
            hint="Remove these rows.",
        )


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


def _factorise(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and sorted classes of a `label_array`."""
    if array.dtype == object or array.dtype.kind == "U":
        codes, uniques = _codes(array)
        classes = np.empty(len(uniques), dtype=object)
        classes[:] = uniques
        order = np.argsort(classes, kind="stable")
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return rank[codes] if len(codes) else codes, classes[order].astype(array.dtype, copy=False)
    if array.dtype == np.int64 and len(array):
        low, high = int(array.min()), int(array.max())
        if high - low < 4 * len(array) + 1024:  # a table of all values in the range is quicker than sorting
            shifted = array - low
            present = np.zeros(high - low + 1, dtype=bool)
            present[shifted] = True
            return (np.cumsum(present) - 1)[shifted], np.flatnonzero(present) + low
    classes, labels = np.unique(array, return_inverse=True)
    return labels.astype(np.int64, copy=False), classes


def _codes(array: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """Return for each row the number of its value among the distinct ones (in any order), -1 for missing."""
    import pyarrow as pa

    if array.dtype == object or array.dtype.kind == "U":
        try:
            column = pa.array(array, from_pandas=True)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            column = None  # several types, or lone surrogates
        if column is not None and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            encoded = column.dictionary_encode()
            codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            return codes.astype(np.int64), encoded.dictionary.to_pylist()
        return _slow_codes(array.tolist())
    if array.dtype.kind == "f":
        values, codes = np.unique(array, return_inverse=True, equal_nan=True)
        if len(values) and np.isnan(values[-1]):
            codes = np.where(codes == len(values) - 1, -1, codes)
            values = values[:-1]
        return codes.astype(np.int64), values.tolist()
    values, codes = np.unique(array, return_inverse=True)
    return codes.astype(np.int64), values.tolist()


def _slow_codes(cells: list[Any]) -> tuple[np.ndarray, list[Any]]:
    codes = np.empty(len(cells), dtype=np.int64)
    seen: dict[tuple[type, Any], int] = {}
    for i, cell in enumerate(cells):
        codes[i] = -1 if _is_missing(cell) else seen.setdefault((type(cell), cell), len(seen))
    return codes, [value for _, value in seen]


# Matching


def _search(array: np.ndarray, classes: np.ndarray) -> np.ndarray:
    if not len(classes):
        return np.full(len(array), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(classes, array), len(classes) - 1)
    return np.where(classes[at] == array, at, -1).astype(np.int64)


def _kind_of_array(classes: np.ndarray) -> str:
    return {"b": "bool", "i": "int", "u": "int", "f": "float"}.get(classes.dtype.kind, "str")


def _class_key(label: Any, kind: str) -> Any:
    return label if kind != "str" else str(label)


def _number_of(label: Any, kind: str, number: dict[Any, int]) -> int:
    """Return the number of the class that a label names, across types; -1 for none."""
    if isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace")
    if isinstance(label, bool):
        names = {"bool": (label,), "str": (str(label), str(label).lower())}.get(kind, ())
    else:
        names = {"int": _as_int, "float": _as_float, "bool": _as_bool, "str": _as_text}[kind](label)
    return next((number[name] for name in names if name in number), -1)


def _as_int(label: Any) -> tuple[Any, ...]:
    if isinstance(label, str):
        return (int(label),) if len(label) < 20 and _canonical.match(label) else ()
    if isinstance(label, float):
        return (int(label),) if label.is_integer() else ()
    return (label,) if isinstance(label, int) else ()


def _as_float(label: Any) -> tuple[Any, ...]:
    try:
        return (float(label),)
    except (TypeError, ValueError, OverflowError):
        return ()


def _as_bool(label: Any) -> tuple[Any, ...]:
    return {"true": (True,), "false": (False,)}.get(label.lower(), ()) if isinstance(label, str) else ()


def _as_text(label: Any) -> tuple[Any, ...]:
    if isinstance(label, float) and label.is_integer():
        return (str(int(label)), str(label))
    return (str(label),)
