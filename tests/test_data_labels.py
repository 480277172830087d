"""Labels become numbers and keep their type."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softmaxnet.data.labels import column_labels, encode_labels, is_missing_label, lookup_labels
from softmaxnet.errors import DataError

TEXT = st.text(max_size=4)


@pytest.mark.parametrize(
    ("y", "classes", "dtype"),
    [
        ([3, 1, 3], [1, 3], np.int64),
        (np.array([3, 1], dtype=np.uint8), [1, 3], np.int64),
        ([3.0, 1.5], [1.5, 3.0], np.float64),
        ([True, False, True], [False, True], np.bool_),
        (["b", "a", "10", "9"], ["10", "9", "a", "b"], object),
        (np.array(["b", "a"]), ["a", "b"], np.dtype("<U1")),
        (["", "nan", "a,b", "c\nd", "\U0001f600"], ["", "a,b", "c\nd", "nan", "\U0001f600"], object),
        (pd.Series(["b", "a"]), ["a", "b"], object),
        (pd.Series([2, 1], dtype="Int64"), [1, 2], np.int64),
        (pd.Series(["b", "a"], dtype="category"), ["a", "b"], object),
        (pd.Categorical([2, 1]), [1, 2], np.int64),
        (pl.Series(["b", "a"]), ["a", "b"], object),
        (pa.chunked_array([["b"], ["a"]]), ["a", "b"], object),
        (np.array([1, 2.5], dtype=object), [1.0, 2.5], np.float64),
        ([-(2**62), 2**62], [-(2**62), 2**62], np.int64),
    ],
)
def test_types_are_kept(y: object, classes: list[object], dtype: object) -> None:
    """Classes are sorted, of the labels' own type, and give the labels back."""
    labels, found = encode_labels(y)
    assert found.tolist() == classes
    assert found.dtype == dtype
    assert labels.dtype == np.int64
    given = y.to_pylist() if isinstance(y, pa.ChunkedArray) else list(y)  # type: ignore[call-overload]
    assert found[labels].tolist() == given


def test_one_true_and_text_are_different() -> None:
    """The same signs as integer, float, bool and string are four kinds of classes."""
    kinds = [encode_labels(y)[1].dtype.kind for y in ([1, 0], [1.0, 0.0], [True, False], ["1", "0"])]
    assert kinds == ["i", "f", "b", "O"]


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([1, "a"], "int, str"),
        ([True, 1], "bool, int"),
        ([1.5, "a"], "float, str"),
        (["a", None], "row 1 .* is missing"),
        ([1.0, float("nan")], "row 1 .* is missing"),
        (np.array([1.0, np.inf]), "row 1 .* is inf"),
        (pd.Series(["a", pd.NA], dtype="string"), "row 1 .* is missing"),
        (np.array([["a"], ["b"]]), "1 dimension"),
        ([datetime.date(2024, 1, 1)], "date"),
        (np.array(["2024-01-01"], dtype="M8[D]"), "datetime64"),
        ([1j], "complex"),
        ([2**70], "64 bits"),
        (np.array([2**63], dtype=np.uint64), "64 bits"),
    ],
)
def test_what_is_refused(y: object, words: str) -> None:
    """Mixtures, missing labels and other types are DataErrors that say what was found."""
    with pytest.raises(DataError, match=words):
        encode_labels(y)


@given(st.lists(TEXT, min_size=1, max_size=30))
def test_strings_are_ranked_as_numpy_does(y: list[str]) -> None:
    """Any strings, lone surrogates included: sorted by code point, each label found again."""
    labels, classes = encode_labels(y)
    expected, inverse = np.unique(np.array(y, dtype=object), return_inverse=True)
    assert classes.tolist() == expected.tolist()
    assert labels.tolist() == inverse.tolist()
    assert lookup_labels(y, classes).tolist() == labels.tolist()


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5), min_size=1, max_size=30))
def test_integers_are_ranked_as_numpy_does(y: list[int]) -> None:
    """Any integers of 64 bits, dense or far apart."""
    labels, classes = encode_labels(y)
    expected, inverse = np.unique(np.array(y, dtype=np.int64), return_inverse=True)
    assert (classes.tolist(), labels.tolist()) == (expected.tolist(), inverse.tolist())
    assert lookup_labels(y, classes).tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("y", "classes", "expected"),
    [
        (["3", "03", "4", "x", None], np.array([3, 4]), [0, -1, 1, -1, -1]),
        ([3.0, 3.5, float("nan")], np.array([3, 4]), [0, -1, -1]),
        ([True, 3], np.array([1, 3]), [-1, 1]),
        (np.array([5, 3, -9]), np.array([3, 4]), [-1, 0, -1]),
        ([3, 4, 5], np.array(["3", "4"]), [0, 1, -1]),
        ([3.0, 2.5], np.array(["2.5", "3"], dtype=object), [1, 0]),
        ([True, False], np.array(["False", "True"]), [1, 0]),
        (["true", "False", "1"], np.array([False, True]), [1, 0, -1]),
        ([1, "2.5", "x"], np.array([1.0, 2.5]), [0, 1, -1]),
        (["b", "zz", None, ""], np.array(["", "a", "b"], dtype=object), [2, -1, -1, 0]),
        (pd.Series(["b", pd.NA], dtype="string"), np.array(["a", "b"]), [1, -1]),
        (["9" * 5000], np.array([3]), [-1]),
        ([], np.array([3]), []),
        ([1], np.array([], dtype=np.int64), [-1]),
    ],
)
def test_lookup(y: object, classes: np.ndarray, expected: list[int]) -> None:
    """Labels are found across types where they are written the same; what is not there is -1."""
    found = lookup_labels(y, classes)
    assert found.dtype == np.int64
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("column", "expected", "dtype"),
    [
        (pa.array(["a", None]), ["a", None], object),
        (pa.array([1, 2], pa.int8()), [1, 2], np.int64),
        (pa.array([1, None]), [1, None], object),
        (pa.array([True, False]), [True, False], np.bool_),
        (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"], object),
        (pa.array([decimal.Decimal("1.5")]), [1.5], np.float64),
        (pa.array([datetime.date(2024, 1, 2)]), ["2024-01-02"], object),
        (pa.array(["3", "4"]), ["3", "4"], object),
    ],
)
def test_typed_columns(column: pa.Array, expected: list[object], dtype: object) -> None:
    """Labels of a typed file keep their type; integers written as text stay text there."""
    y = column_labels(pa.chunked_array([column]), text=False)
    assert y.tolist() == expected
    assert y.dtype == dtype
    with pytest.raises(DataError, match="the column is list"):
        column_labels(pa.chunked_array([[[1]]]), text=False)


def test_missing_labels_are_seen() -> None:
    """None, NaN and NA are missing; an empty string is a label."""
    assert is_missing_label(np.array([None, float("nan"), pd.NA, "", "nan", 0], dtype=object)).tolist() == (
        [True] * 3 + [False] * 3
    )
    assert is_missing_label(np.array([1.0, np.nan])).tolist() == [False, True]
    assert not is_missing_label(np.array([1, 2])).any()


def test_a_million_labels() -> None:
    """A million strings of 100,000 classes are encoded and looked up exactly."""
    numbers = np.random.default_rng(0).integers(0, 100_000, 1_000_000)
    y = numbers.astype(str).astype(object)
    labels, classes = encode_labels(y)
    assert np.array_equal(classes[labels], y)
    assert np.array_equal(lookup_labels(y, classes), labels)
