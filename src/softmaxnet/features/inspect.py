"""What kind a table's column is, from its Arrow type and its cells; every rule is in ``docs/features.md``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softmaxnet.errors import DataError
from softmaxnet.features.arrow import (
    Coded,
    Column,
    code_numbers,
    is_date,
    is_number,
    is_text,
    read_booleans,
    read_coded,
    read_numbers,
    try_numbers,
    whole,
)
from softmaxnet.features.categories import enough, level_counts
from softmaxnet.features.columns import Cells, Kind, table_name
from softmaxnet.features.dates import read_dates, try_dates
from softmaxnet.features.quantiles import Floats

TEXT_MIN_WORDS = 3.0
TEXT_MIN_DISTINCT_SHARE = 0.5
TEXT_MIN_DISTINCT = 1000
NAME_MIN_WORDS = 1.5
CODE_MAX_LEVELS, JAGGED_MAX_LEVELS, CODE_MIN_ROWS = 12, 32, 10
LEVELS_MIN_ROWS = 1000
SPIKED_MIN_HUMPS, SPIKED_SHARE, SPIKED_SHARE_BESIDE_ONE = 3, 1 / 2, 1 / 3
STRANGERS_MIN_ROWS, STRANGERS_DIFFER, STRANGERS_TOGETHER = 20, 1.2, 1 / 4


@dataclass(frozen=True)
class Inspected:
    """A training column that was read: its kind, why it is dropped, and its cells in the form of that kind.

    Attributes
    ----------
    kind : Kind
    reason : str
        Why it is dropped; empty otherwise.
    values : float64 (n_rows,) or (n_rows, 8) or None
        Numbers, truth values or date parts.
    coded : Coded or None
        Categories or texts; also of numbers that are codes.
    """

    kind: Kind
    reason: str = ""
    values: Floats | None = None
    coded: Coded | None = None


def inspect_column(
    column: Column, name: str, weights: Floats | None, wanted: Kind | None, *, alone: bool
) -> Inspected:
    """Return the column's kind, or the kind that the user wants, with its cells read."""
    array = whole(column)
    if wanted == "drop":
        return Inspected("drop", "dropped as asked for")
    if wanted is not None:
        return _read_as(array, name, wanted)
    import pyarrow as pa

    kind = array.type
    if array.null_count == len(array):
        return Inspected("drop", "no value in training")
    if pa.types.is_boolean(kind):
        return _read_as(array, name, "boolean")
    if is_number(kind):
        return _number(array, read_numbers(array, name, Cells()), weights)
    if is_date(kind):
        return _read_as(array, name, "date")
    if pa.types.is_dictionary(kind):
        return _read_as(array, name, "category")
    if is_text(kind):
        return _text(array, name, weights, alone=alone)
    raise DataError(
        f"{table_name(name)} holds {kind}, which is not a kind of feature; "
        "accepted are numbers, truth values, texts, categories, dates and times",
        column=name,
        hint="Drop it, or spread it over columns of those kinds.",
    )


def _read_as(array: Column, name: str, kind: Kind) -> Inspected:
    """Read a column as a kind that is settled."""
    if kind == "boolean":
        return Inspected(kind, values=read_booleans(array, name, Cells()))
    if kind == "number":
        return Inspected(kind, values=read_numbers(array, name, Cells()))
    if kind == "date":
        return Inspected(kind, values=read_dates(array, name, Cells()))
    return Inspected(kind, coded=read_coded(array, name))


def _number(array: Column, values: Floats, weights: Floats | None) -> Inspected:
    """Return a number column; those that look like codes, or come in spikes, are coded as well."""
    coded = integer_codes(array, values, weights)
    if coded is None and _repeats_values(values):
        known = np.isfinite(values)
        levels, inverse = np.unique(values[known], return_inverse=True)
        counts = np.bincount(inverse, weights=None if weights is None else weights[known])
        is_whole = bool((levels == np.floor(levels)).all())
        if has_spikes(counts) or (is_whole and are_strangers(counts)):
            coded = code_numbers(values)
    return Inspected("number", values=values, coded=coded)


def _repeats_values(values: Floats) -> bool:
    """Whether numbers come again so often that it is worth while to count each of them."""
    head = values[:2000][np.isfinite(values[:2000])]
    return 0 < 2 * np.unique(head).size <= head.size


def integer_codes(array: Column, values: Floats, weights: Floats | None) -> Coded | None:
    """Return the levels of whole numbers that may be codes rather than amounts, or None.

    They may be where the column has 3 to 12 different values, or up to 32 whose counts rise and fall at least
    three times along the number line (amounts have one hump, codes have any shape), each in 10 rows on
    average. Texts must be written as whole numbers ("3", not "3.0"); a float column must have missing
    values, as frames turn whole numbers with gaps into floats.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    head = values[:2000]
    if np.unique(head[np.isfinite(head)]).size > JAGGED_MAX_LEVELS:
        return None
    if is_text(array.type):
        if pc.any(pc.match_substring_regex(array, "[.eE]")).as_py():
            return None
    elif not (pa.types.is_integer(array.type) or (pa.types.is_floating(array.type) and array.null_count)):
        return None
    known = np.isfinite(values)
    levels, inverse = np.unique(values[known], return_inverse=True)
    if not 3 <= levels.size <= JAGGED_MAX_LEVELS or (levels != np.floor(levels)).any():
        return None
    counts = np.bincount(inverse, weights=None if weights is None else weights[known])
    if counts.sum() < CODE_MIN_ROWS * levels.size:
        return None
    return code_numbers(values) if levels.size <= CODE_MAX_LEVELS or humps(counts) >= 3 else None


def has_spikes(counts: NDArray[np.floating | np.integer]) -> bool:
    """Return whether numbers, given how often each one comes, are the same few of many again and again.

    Such are price points, gains, fees and doses. What they mean changes from one to the next, which neither a line nor
    bins can follow. The rule: in 1,000 rows or more, three values or more are humps, and on humps lie half of the rows
    outside the most common value, or a third where that one (zero, say) has half of all rows.

    Examples
    --------
    >>> has_spikes(np.array([5, 400, 3, 2, 300, 6, 5, 500, 1, 1, 1, 1, 1])), has_spikes(np.full(130, 10))
    (True, False)
    """
    total = float(counts.sum())
    if counts.size <= CODE_MAX_LEVELS or total < LEVELS_MIN_ROWS:
        return False
    mode = int(counts.argmax())
    spikes = stands_out(counts)
    n_humps = int(spikes.sum())
    spikes[mode] = False
    share = SPIKED_SHARE_BESIDE_ONE if counts[mode] >= total / 2 else SPIKED_SHARE
    return n_humps >= SPIKED_MIN_HUMPS and bool(counts[spikes].sum() >= share * (total - counts[mode]))


def are_strangers(counts: NDArray[np.floating | np.integer]) -> bool:
    """Return whether numbers that are neighbours have nothing to do with each other, given how often each one comes.

    So it is with the numbers of schools, customers and types; amounts are about as frequent as the next ones. The rule:
    20 rows or more for each value; counts of neighbours that do not rise and fall together (correlation up to 1/4), and
    differ by more than chance: ``(a - b)^2 / (a + b)``, which has the median .45 by chance, has one of 1.2 or more.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> are_strangers(rng.integers(20, 150, 80)), are_strangers(rng.poisson(80, 80))
    (True, False)
    """
    counts = counts[counts > 0]
    total = float(counts.sum())
    if counts.size <= CODE_MAX_LEVELS or total < max(LEVELS_MIN_ROWS, STRANGERS_MIN_ROWS * counts.size):
        return False
    one, other = np.asarray(counts[:-1], dtype=np.float64), np.asarray(counts[1:], dtype=np.float64)
    differences = (one - other) ** 2 / (one + other)
    one, other = one - one.mean(), other - other.mean()
    together = float(one @ other) / max(float(np.sqrt((one @ one) * (other @ other))), 1e-300)
    return bool(np.median(differences) >= STRANGERS_DIFFER) and together <= STRANGERS_TOGETHER


def stands_out(counts: NDArray[np.floating | np.integer]) -> NDArray[np.bool_]:
    """Return which counts are above both their neighbours by three standard errors, ``3 sqrt(count)``."""
    padded = np.concatenate([[0.0], np.asarray(counts, dtype=np.float64), [0.0]])
    own = padded[1:-1]
    neighbour = np.maximum(padded[:-2], padded[2:])
    above: NDArray[np.bool_] = own - neighbour > 3 * np.sqrt(own)
    return above


def humps(counts: NDArray[np.floating | np.integer]) -> int:
    """Return how many counts stand out from both neighbours by three standard errors.

    Examples
    --------
    >>> humps(np.array([900, 100, 700, 100, 500, 400])), humps(np.array([100, 900, 500, 80, 2]))
    (3, 1)
    """
    return int(stands_out(counts).sum())


def _text(array: Column, name: str, weights: Floats | None, *, alone: bool) -> Inspected:
    """Return what a column of texts is: numbers, dates, texts, categories or row identifiers."""
    values = try_numbers(array)
    if values is not None and np.isnan(values).all():
        return Inspected("drop", "no value in training")
    if values is not None:
        return _number(array, values, weights)
    parts = try_dates(array)
    if parts is not None:
        return Inspected("date", values=parts)
    coded = read_coded(array, name)
    if not coded.values:
        return Inspected("text", coded=coded) if alone else Inspected("drop", "no value in training")
    kind = "text" if alone else text_kind(coded, weights)
    return Inspected(kind, "looks like a row identifier" if kind == "drop" else "", coded=coded)


def text_kind(coded: Coded, weights: Floats | None) -> Kind:
    """Return whether texts are ``"text"``, ``"category"``, or identifiers of rows to ``"drop"``.

    Text: on average 3 words or more, and at least half of the rows (or 1,000 values) differ. Else, where
    levels that are common enough for a slot cover less than half of the rows: text if there are 1.5 words
    or more (names), an identifier if they cover less than a tenth. All else is a category.
    """
    counts, missing = level_counts(coded, weights)
    known = float(counts.sum())
    present = counts > 0
    n_distinct = int(np.count_nonzero(present))
    words = float(np.mean([len(v.split()) for v, here in zip(coded.values, present, strict=True) if here]))
    many = n_distinct / known >= TEXT_MIN_DISTINCT_SHARE or n_distinct >= TEXT_MIN_DISTINCT
    if words >= TEXT_MIN_WORDS and many:
        return "text"
    covered = float(counts[counts >= enough(known + missing)].sum()) / known
    if covered < 0.5 and words >= NAME_MIN_WORDS:
        return "text"
    return "drop" if covered < 0.1 else "category"
