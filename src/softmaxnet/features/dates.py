"""Dates and times: elapsed days, the year, and month, weekday and time of day as points on a circle."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxnet.errors import DataError
from softmaxnet.features.arrow import TEXT_HINT, Column, decoded, is_date, is_text, shown, whole
from softmaxnet.features.columns import Cells, table_name
from softmaxnet.features.numbers import CURVED, PLAIN
from softmaxnet.features.quantiles import Floats

DOTTED = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?:[ T](\d{1,2}:\d{2}(?::\d{2})?))?", re.ASCII)
"""A day, a month and a year with full stops between, as in 31.12.2023, and the time of day."""
PARTS = (
    "elapsed days",
    "year",
    "month sin",
    "month cos",
    "weekday sin",
    "weekday cos",
    "time sin",
    "time cos",
)
N_PARTS = len(PARTS)
TREATMENTS = (CURVED, CURVED, PLAIN, PLAIN, PLAIN, PLAIN, PLAIN, PLAIN)

MINUTE, DAY = 60_000_000, 86_400_000_000
"""In microseconds."""


def _circle(steps: int) -> Floats:
    """Return sine and cosine of every step of a full turn, (steps, 2), the same bits in any batch."""
    angles = [2 * math.pi * step / steps for step in range(steps)]
    return np.array([[math.sin(angle), math.cos(angle)] for angle in angles])


MONTHS, WEEKDAYS, MINUTES = _circle(12), _circle(7), _circle(1440)


def date_parts(microseconds: NDArray[np.int64], known: NDArray[np.bool_]) -> Floats:
    """Return the eight numbers of every point in time, (n_rows, 8), NaN where it is missing.

    Examples
    --------
    >>> monday = np.array([4 * 86_400_000_000 + 6 * 3_600_000_000])   # 1970-01-05 06:00
    >>> date_parts(monday, np.array([True])).round(3).tolist()
    [[4.25, 1970.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0]]
    """
    out = np.full((microseconds.size, N_PARTS), np.nan)
    ticks = microseconds[known]
    days = ticks // DAY
    dates = days.astype("datetime64[D]")
    months = dates.astype("datetime64[M]").astype(np.int64)
    found = np.empty((ticks.size, N_PARTS))
    found[:, 0] = ticks / DAY
    found[:, 1] = months // 12 + 1970
    found[:, 2:4] = MONTHS[months % 12]
    found[:, 4:6] = WEEKDAYS[(days + 3) % 7]
    found[:, 6:8] = MINUTES[(ticks % DAY) // MINUTE]
    out[known] = found
    return out


def read_dates(column: Column, name: str, cells: Cells) -> Floats:
    """Return the date parts of a column of dates, of points in time (in UTC), or of texts that are dates."""
    import pyarrow as pa

    array = decoded(whole(column))
    if is_text(array.type):
        return _parse_dates(array, name, cells)
    if pa.types.is_null(array.type):
        return np.full((len(array), N_PARTS), np.nan)
    if not is_date(array.type):
        raise DataError(f"{table_name(name)} holds {array.type}; expected dates as in training", column=name)
    try:
        return _parts_of(array.cast(pa.timestamp("us"), safe=False))
    except pa.ArrowInvalid as error:
        raise DataError(f"{table_name(name)} has dates out of range: {error}", column=name) from error


def _parts_of(stamps: Any) -> Floats:
    import pyarrow as pa

    known = stamps.is_valid().to_numpy(zero_copy_only=False)
    ticks = stamps.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return date_parts(ticks, known)


def try_dates(array: Column) -> Floats | None:
    """Return the date parts of texts where every non-missing one is a date or time, else None."""
    import pyarrow as pa
    import pyarrow.compute as pc

    first = next(
        (value for value in array[: min(len(array), 10_000)].to_pylist() if value and value.strip()), None
    )
    if first is None or parse_date(first) is None:
        return None
    trimmed = pc.utf8_trim_whitespace(array)
    try:
        return _parts_of(trimmed.cast(pa.timestamp("us")))
    except pa.ArrowInvalid:
        bad: list[Any] = []
        parts = _parse_dates(array, "", Cells(bad), stop=True)
        return None if bad else parts


def _parse_dates(array: Column, name: str, cells: Cells, *, stop: bool = False) -> Floats:
    """Parse each distinct text once; report those that do not parse (with ``stop``, the first one only)."""
    import pyarrow as pa

    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    texts = array.dictionary.to_pylist()
    codes = np.asarray(array.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False))
    ticks = np.zeros(len(texts) + 1, dtype=np.int64)
    known = np.zeros(len(texts) + 1, dtype=bool)
    for index, text in enumerate(texts):
        if not text.strip():
            continue
        tick = parse_date(text)
        if tick is not None:
            ticks[index], known[index] = tick, True
            continue
        for row in np.flatnonzero(codes == index):
            why = f"{shown(text)} is not a date or time (such as 2023-12-31 or 31.12.2023)."
            cells.report(int(row), table_name(name), why, TEXT_HINT)
            if stop:
                return np.empty((0, N_PARTS))
    return date_parts(ticks[codes], known[codes])


def parse_date(text: str) -> int | None:
    """Return a date or time as microseconds since 1970-01-01 (UTC where it names a zone), or None.

    ISO 8601, or the day first with full stops between, which is one thing wherever it is written; with slashes it
    is the month first in some places, and not read.

    Examples
    --------
    >>> parse_date("1970-01-02"), parse_date("1970-01-01T01:00+01:00"), parse_date("02/01/1970")
    (86400000000, 0, None)
    >>> parse_date("2.1.1970"), parse_date("01.01.1970 00:01")
    (86400000000, 60000000)
    """
    text = text.strip()
    dotted = DOTTED.fullmatch(text)
    if dotted is not None:
        day, month, year, time = dotted.groups()
        text = f"{year}-{month:0>2}-{day:0>2}" + (f"T{time if time[1] != ':' else '0' + time}" if time else "")
    if len(text) < 10 or text[4] != "-" or text[7] != "-":
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds
