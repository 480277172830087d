"""Cells of Arrow columns -> NumPy arrays, whatever type the column came in."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from softmaxnet.errors import DataError
from softmaxnet.features.columns import Cells, table_name
from softmaxnet.features.quantiles import Floats

Column: TypeAlias = Any
"""A pyarrow Array or ChunkedArray (pyarrow has no type stubs)."""

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(?i:inf|infinity|nan)$"
"""What a text must look like to be read as a number, spaces around it aside."""
_NUMBER = re.compile(NUMBER, re.ASCII)
TRUE, FALSE = frozenset({"true", "1", "1.0"}), frozenset({"false", "0", "0.0"})
TEXT_HINT = "Missing values are written as empty cells."


@dataclass(frozen=True)
class Coded:
    """A column of texts as codes into its distinct values.

    Attributes
    ----------
    codes : int64 (n_rows,)
        Index into ``values``, -1 where the cell is missing or blank.
    values : tuple of str
        Distinct, in Unicode normal form C, without spaces around them.
    """

    codes: NDArray[np.int64]
    values: tuple[str, ...]


def whole(column: Column) -> Column:
    """Return the column as one Arrow array."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        if pa.types.is_dictionary(column.type):
            column = column.unify_dictionaries()
        joined = column.combine_chunks()
        return pa.concat_arrays(joined.chunks) if isinstance(joined, pa.ChunkedArray) else joined
    return column


def is_text(kind: Any) -> bool:
    """Say whether an Arrow type is text of any layout."""
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_number(kind: Any) -> bool:
    """Say whether an Arrow type counts or measures."""
    from pyarrow import types

    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_duration(kind)
        or types.is_time(kind)
    )


def is_date(kind: Any) -> bool:
    """Say whether an Arrow type is a date or a point in time."""
    from pyarrow import types

    return bool(types.is_date(kind) or types.is_timestamp(kind))


def decoded(array: Column) -> Column:
    """Return a dictionary-encoded array as its values; others as they are."""
    from pyarrow import types

    return array.dictionary_decode() if types.is_dictionary(array.type) else array


def missing_share(array: Column, weights: Floats | None) -> float:
    """Return the weighted share of null cells."""
    if not array.null_count:
        return 0.0
    null = array.is_null().to_numpy(zero_copy_only=False)
    return float(null.mean()) if weights is None else float(weights[null].sum() / weights.sum())


def read_numbers(column: Column, name: str, cells: Cells) -> Floats:
    """Return a column as float64 with NaN where it is missing.

    Texts are parsed, and those that do not parse reported. Durations and times of day are seconds.
    """
    if isinstance(column, np.ndarray):
        return np.asarray(column, dtype=np.float64)
    import pyarrow as pa
    from pyarrow import types

    array = decoded(whole(column))
    kind = array.type
    if types.is_null(kind):
        return np.full(len(array), np.nan)
    if is_text(kind):
        return parse_numbers(array, name, cells)
    if types.is_duration(kind) or types.is_time(kind):
        per_second = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[kind.unit]
        ticks = array.cast(pa.int32() if types.is_time32(kind) else pa.int64())
        return _floats(ticks) / per_second
    if is_number(kind) or types.is_boolean(kind):
        return _floats(array)
    raise DataError(f"{table_name(name)} holds {kind}; expected numbers as in training", column=name)


def _floats(array: Column) -> Floats:
    import pyarrow as pa

    values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64)


class Strays(NamedTuple):
    """Cells of a column that are no numbers: how many, of how many values, and the first one with its row."""

    n_strays: int
    n_values: int
    word: str
    row: int


def numbers_or_missing(column: Column) -> tuple[Column, Strays | None]:
    """Return a column with cells that are no numbers as missing ones, and what they were; None where there were none.

    Examples
    --------
    >>> import pyarrow as pa
    >>> numbers_or_missing(pa.array(["1", "n.a.", None]))[1]
    Strays(n_strays=1, n_values=2, word='n.a.', row=1)
    """
    import pyarrow.compute as pc

    array = decoded(whole(column))
    if not is_text(array.type):
        return column, None
    trimmed = _blank_to_null(pc.utf8_trim_whitespace(array))
    stray = pc.fill_null(pc.invert(pc.match_substring_regex(trimmed, NUMBER)), False)
    count = int(pc.sum(stray).as_py() or 0)
    if not count:
        return column, None
    row = int(pc.index(stray, True).as_py())
    strays = Strays(count, len(trimmed) - trimmed.null_count, str(trimmed[row]), row)
    return pc.if_else(stray, None, trimmed), strays


def try_numbers(array: Column) -> Floats | None:
    """Return texts as numbers where all that are not missing parse, and one is not missing; else None."""
    import pyarrow as pa
    import pyarrow.compute as pc

    head = (text.strip() for text in array[:100].to_pylist() if text is not None)
    if array.null_count == len(array) or not all(_NUMBER.match(text) for text in head if text):
        return None  # a look at the first cells spares the attempt to parse all of a column of words
    try:
        return _floats(_blank_to_null(pc.utf8_trim_whitespace(array)).cast(pa.float64()))
    except pa.ArrowInvalid:
        return None


def _blank_to_null(trimmed: Column) -> Column:
    import pyarrow as pa
    import pyarrow.compute as pc

    blank = pc.equal(trimmed, pa.scalar("", trimmed.type))
    return pc.if_else(blank, pa.scalar(None, trimmed.type), trimmed) if pc.any(blank).as_py() else trimmed


def parse_numbers(array: Column, name: str, cells: Cells) -> Floats:
    """Return texts as numbers; those that do not parse are reported and then missing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = _blank_to_null(pc.utf8_trim_whitespace(array))
    try:
        return _floats(trimmed.cast(pa.float64()))
    except pa.ArrowInvalid:
        good = pc.match_substring_regex(trimmed, NUMBER)
        for row in np.flatnonzero(~pc.fill_null(good, True).to_numpy(zero_copy_only=False)):
            cells.report(
                int(row), table_name(name), f"{shown(array[int(row)].as_py())} is not a number.", TEXT_HINT
            )
        return _floats(pc.if_else(good, trimmed, pa.scalar(None, trimmed.type)).cast(pa.float64()))


def shown(text: str, limit: int = 40) -> str:
    """Return a cell's text for a message: quoted, and cut where it is long."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def read_booleans(column: Column, name: str, cells: Cells) -> Floats:
    """Return a column of truth values as 0, 1 and NaN; numbers and the words true and false are read too."""
    array = decoded(whole(column))
    if not is_text(array.type):
        return read_numbers(array, name, cells)
    coded = read_coded(array, name)
    table = np.full(len(coded.values) + 1, np.nan)
    for index, value in enumerate(coded.values):
        word = value.lower()
        if word in TRUE or word in FALSE:
            table[index] = float(word in TRUE)
            continue
        for row in np.flatnonzero(coded.codes == index):
            cells.report(int(row), table_name(name), f"{shown(value)} is neither true nor false.", TEXT_HINT)
    return table[coded.codes]


def read_coded(column: Column, name: str) -> Coded:
    """Return a column as codes of its distinct texts; 3 reads as ``"3"``, a truth value as ``"true"``."""
    import pyarrow as pa
    from pyarrow import types

    array = whole(column)
    if types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    if not types.is_dictionary(array.type):
        try:
            array = array.dictionary_encode()
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            message = f"{table_name(name)} holds {array.type}, which has no categories or texts"
            raise DataError(message, column=name) from error
    codes = array.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    return _unified(np.asarray(codes, dtype=np.int64), array.dictionary.to_pylist())


def _unified(codes: NDArray[np.int64], raw: list[object]) -> Coded:
    """Normalise distinct values and join those that become equal; blank ones become missing."""
    place: dict[str, int] = {}
    lut = np.full(len(raw) + 1, -1, dtype=np.int64)
    for index, value in enumerate(raw):
        text = "" if value is None else canonical_text(value)
        if text:
            lut[index] = place.setdefault(text, len(place))
    same = len(place) == len(raw)
    return Coded(codes if same else lut[codes], tuple(place))


def canonical_text(value: object) -> str:
    r"""Return a value as the text that names its category: Unicode normal form C without spaces around it.

    Examples
    --------
    >>> [canonical_text(value) for value in (" cafe\u0301", 3, 3.0, 2.5, True)]
    ['café', '3', '3', '2.5', 'true']
    """
    if isinstance(value, str):
        text = value.strip()
        return text if text.isascii() else unicodedata.normalize("NFC", text)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def code_numbers(values: Floats) -> Coded:
    """Return numbers as codes of their distinct values, named as ``canonical_text`` does.

    Fractions have the name of their float32, so that a price is the same level whether it comes as text, as float32 or
    out of a sum.

    Examples
    --------
    >>> code_numbers(np.array([2.22, np.float32(2.22), 2.2199999999999998, 3.0])).values
    ('2.22', '3')
    """
    import pyarrow as pa

    with np.errstate(invalid="ignore"):
        fractions = np.isfinite(values) & (values != np.floor(values))
    if fractions.any():
        rounded, places = np.unique(values[fractions].astype(np.float32), return_inverse=True)
        values = values.copy()
        values[fractions] = rounded.astype("U32").astype(np.float64)[places]
    return read_coded(pa.array(values, from_pandas=True), "")
