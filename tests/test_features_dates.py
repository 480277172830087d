"""Dates: what they become, the notations that are read, and those that are not."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from softmaxnet.errors import DataError
from softmaxnet.features import BadCell, FeatureEncoder
from softmaxnet.features.columns import Cells
from softmaxnet.features.dates import read_dates

DAYS = [date(1969, 12, 31), date(1970, 1, 1), date(2000, 2, 29), date(2024, 12, 30), date(1600, 7, 4)]


def parts(values, kind=None):
    """Return the eight numbers of each value of an Arrow column."""
    return read_dates(pa.array(values, kind), "d", Cells())


def test_parts_agree_with_the_calendar():
    """Elapsed days, year, month, weekday: as Python's own calendar says, before 1970 too."""
    found = parts(DAYS)
    for row, day in zip(found, DAYS, strict=True):
        assert row[0] == (day - date(1970, 1, 1)).days
        assert row[1] == day.year
        month, weekday = 2 * np.pi * (day.month - 1) / 12, 2 * np.pi * day.weekday() / 7
        np.testing.assert_allclose(
            row[2:6], [np.sin(month), np.cos(month), np.sin(weekday), np.cos(weekday)], atol=1e-15
        )
        np.testing.assert_allclose(row[6:], [0, 1], atol=1e-15)


def test_times_are_points_on_the_day():
    """06:00 is a quarter of a turn, 18:30 three quarters and a bit; days count with their fraction."""
    found = parts(["2000-01-01T06:00", "2000-01-01 18:30:59"])
    np.testing.assert_allclose(found[0, 6:], [1, 0], atol=1e-15)
    angle = 2 * np.pi * (18 * 60 + 30) / 1440
    np.testing.assert_allclose(found[1, 6:], [np.sin(angle), np.cos(angle)], atol=1e-15)
    assert found[0, 0] == 10957.25


@pytest.mark.parametrize(
    ("dotted", "iso"),
    [
        ("4.3.2020", "2020-03-04"),
        ("04.03.2020 1:06", "2020-03-04 01:06"),
        ("31.12.1969 23:59:58", "1969-12-31T23:59:58"),
    ],
)
def test_day_month_and_year_with_full_stops(dotted, iso):
    """31.12.2023 has the day first wherever it is written; a time may follow."""
    np.testing.assert_array_equal(parts([dotted]), parts([iso]))


@pytest.mark.parametrize("text", ["31.2.2020", "1.13.2020", "1.2.20", "1.2.2020 25:00", "1.2.2020T"])
def test_texts_with_full_stops_that_are_no_dates(text):
    """Days that no calendar has, years of two digits and half a time are refused."""
    with pytest.raises(DataError, match="is not a date or time"):
        parts([text])


@pytest.mark.parametrize(
    "text",
    [
        "2020-03-04T03:06:07+02:00",
        "2020-03-04 01:06:07Z",
        "2020-03-04T01:06:07",
        " 2020-03-04T01:06:07.000000 ",
    ],
)
def test_notations_of_one_moment(text):
    """Zones are taken to UTC; a blank or a T may be before the time; fractions of seconds may follow."""
    moment = datetime(2020, 3, 4, 1, 6, 7, tzinfo=UTC)
    np.testing.assert_array_equal(
        parts([text, "2020-01-01"])[0], parts([moment], pa.timestamp("us", "UTC"))[0]
    )


def test_arrow_types_of_one_day_agree():
    """date32, date64 and timestamps of every unit and zone give the same parts as the ISO text."""
    stamps = [datetime(2001, 2, 3, 4, 5), None]
    expected = parts(["2001-02-03T04:05", None])
    for unit in ("s", "ms", "us", "ns"):
        np.testing.assert_array_equal(parts(stamps, pa.timestamp(unit)), expected)
    days = parts(["2001-02-03", None])
    for kind in (pa.date32(), pa.date64()):
        np.testing.assert_array_equal(parts([date(2001, 2, 3), None], kind), days)


def test_a_column_of_dates_becomes_numbers():
    """Parts that vary are kept: a missing date is one indicator, days alone have no time of day."""
    start = date(2020, 1, 1)
    days = [start + timedelta(days=17 * i) for i in range(60)]
    encoder = FeatureEncoder.fit(pa.table({"d": pa.array([*days, None]), "x": range(61)}))
    assert encoder.columns[0].becomes == "2 scaled numbers, 4 numbers, 1 missing indicator"
    dense = encoder.transform(pa.table({"d": pa.array([None, date(9999, 1, 1)]), "x": [0, 1]})).dense
    assert np.isfinite(dense).all()
    assert np.abs(dense).max() <= 3


def test_texts_that_are_no_dates_at_predict():
    """A cell that is no ISO date is an error with column and row, or collected and then missing."""
    train = pa.table({"d": ["2020-01-01", "2020-06-01", None], "x": [1, 2, 3]})
    encoder = FeatureEncoder.fit(train)
    test = pa.table({"d": ["2020-01-01", "01/02/2020"], "x": [1, 2]})
    with pytest.raises(DataError, match="column 'd', row 1: '01/02/2020' is not a date or time"):
        encoder.transform(test)
    cells: list[BadCell] = []
    missing = encoder.transform(pa.table({"d": ["2020-01-01", None], "x": [1, 2]})).dense
    np.testing.assert_array_equal(encoder.transform(test, bad=cells).dense, missing)
    assert [cell.row for cell in cells] == [1]
    with pytest.raises(DataError, match="column 'd' holds int64; expected dates"):
        encoder.transform(pa.table({"d": [1, 2], "x": [1, 2]}))


def test_a_date_where_training_had_numbers():
    """A column of dates where numbers are expected is an error that names it."""
    encoder = FeatureEncoder.fit(pa.table({"x": [1, 2, 3]}))
    with pytest.raises(DataError, match="column 'x' holds date32"):
        encoder.transform(pa.table({"x": [date(2020, 1, 1)]}))
