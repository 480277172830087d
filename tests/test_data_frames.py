"""Whatever is in memory becomes one of three types, and rows of it can be taken."""

from __future__ import annotations

import datetime
import decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse

from softmaxnet.data.frames import as_input, column_names, from_records, n_columns, n_rows, take_rows
from softmaxnet.errors import DataError


def test_pandas_dtypes() -> None:
    """Each pandas dtype has its Arrow type, every kind of missing is null, the index means nothing."""
    frame = pd.DataFrame(
        {
            "int": [1, 2],
            "float": [1.5, np.nan],
            "bool": [True, False],
            "text": ["x", None],
            "time": pd.to_datetime(["2024-01-01", None]),
            "category": pd.Categorical(["u", None]),
            "Int64": pd.array([1, pd.NA], dtype="Int64"),
            "boolean": pd.array([True, None], dtype="boolean"),
            "arrow": pd.array(["q", None], dtype="string[pyarrow]"),
            "sparse": pd.arrays.SparseArray([0, 1.0]),
            "period": pd.period_range("2020-01-01", periods=2),
            "decimal": [decimal.Decimal("1.5"), None],
            3: [1, 2],
        }
    )
    frame["mixed"] = pd.Series([1, "z"], dtype=object)
    frame["numbers"] = pd.Series([1, 2.5], dtype=object)
    frame.index = pd.Index([7, 7])
    table = as_input(frame)
    assert table.to_pydict() == {
        "int": [1, 2],
        "float": [1.5, None],
        "bool": [True, False],
        "text": ["x", None],
        "time": [datetime.datetime(2024, 1, 1), None],
        "category": ["u", None],
        "Int64": [1, None],
        "boolean": [True, None],
        "arrow": ["q", None],
        "sparse": [0.0, 1.0],
        "period": ["2020-01-01", "2020-01-02"],
        "decimal": [1.5, None],
        "3": [1, 2],
        "mixed": ["1", "z"],
        "numbers": [1.0, 2.5],
    }
    assert pa.types.is_dictionary(table["category"].type)
    assert pa.types.is_timestamp(table["time"].type)
    assert table["bool"].type == pa.bool_()


@pytest.mark.parametrize("names", [["a", "a"], ["1", 1]])
def test_duplicate_names(names: list[object]) -> None:
    """Two columns of one name are refused with the name."""
    with pytest.raises(DataError, match=f"two columns are named '{names[0]}'"):
        as_input(pd.DataFrame([[1, 2]], columns=names))
    with pytest.raises(DataError, match="two columns are named"):
        as_input(pa.Table.from_arrays([pa.array([1]), pa.array([1])], names=["a", "a"]))


def test_other_frames() -> None:
    """Polars (eager and lazy), Arrow tables, batches, mappings and records are tables."""
    expected = {"a": [1, None], "b": ["x", "y"]}
    frames = [
        pl.DataFrame(expected),
        pl.LazyFrame(expected),
        pa.table(expected),
        pa.record_batch(expected),
        expected,
        [{"a": 1, "b": "x"}, {"b": "y"}],
    ]
    for frame in frames:
        assert as_input(frame).to_pydict() == expected
    table = pa.table(expected)
    assert as_input(table) is table


@pytest.mark.parametrize(
    "texts",
    [
        ["a", "b"],
        np.array(["a", "b"]),
        np.array([b"a", b"b"]),
        np.array(["a", "b"], dtype=object),
        pd.Series(["a", "b"]),
        pd.Series(["a", "b"], dtype="category"),
        pl.Series(["a", "b"]),
        pa.array(["a", "b"]),
        pa.chunked_array([["a"], ["b"]]),
    ],
    ids=lambda texts: f"{type(texts).__module__}-{getattr(texts, 'dtype', '')}",
)
def test_texts(texts: object) -> None:
    """Strings of one dimension are a table with the column ``text``."""
    assert as_input(texts).to_pydict() == {"text": ["a", "b"]}


def test_texts_may_be_missing_or_odd() -> None:
    """None stays missing; a lone surrogate, which no UTF-8 can hold, becomes U+FFFD."""
    assert as_input(["a", None]).to_pydict() == {"text": ["a", None]}
    assert as_input(["\ud800", ""]).to_pydict() == {"text": ["\ufffd", ""]}


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ([[1, 2], [3, 4]], np.float64),
        ([[1.5, 2], [3, None]], np.float64),
        ([[True, False]], np.bool_),
        (np.zeros((2, 3), np.float32), np.float32),
        (np.zeros((2, 3), np.int16), np.int16),
        (np.zeros((2, 3), np.uint8), np.uint8),
        (np.zeros((2, 3), bool), np.bool_),
        (np.zeros((2, 3), np.float16), np.float32),
        (np.zeros((2, 3), ">f8"), np.float64),
        (np.array([[1, None], [2.5, True]], dtype=object), np.float64),
        (np.ma.masked_array([[1, 2]], mask=[[0, 1]]), np.float64),
    ],
)
def test_matrices(given: object, dtype: type) -> None:
    """Numbers of two dimensions are a matrix in native byte order that keeps a numeric dtype."""
    X = as_input(given)
    assert isinstance(X, np.ndarray)
    assert X.dtype == dtype
    assert X.dtype.isnative
    assert X.ndim == 2


def test_missing_numbers_are_nan() -> None:
    """None and masked cells of a matrix are NaN."""
    assert np.isnan(as_input([[1.0, None]])[0, 1])
    assert np.isnan(as_input(np.ma.masked_array([[1, 2]], mask=[[0, 1]]))[0, 1])


def test_a_matrix_is_not_copied() -> None:
    """A float array goes through as it is."""
    X = np.zeros((3, 2))
    assert np.shares_memory(as_input(X), X)


def test_mixed_rows_are_a_table() -> None:
    """Columns of unlike things are named x0, x1, ...; each has its own type."""
    table = as_input([[1, "a", True], [2, None, False]])
    assert table.to_pydict() == {"x0": [1, 2], "x1": ["a", None], "x2": [True, False]}
    assert as_input(np.array([["a", "1"]])).to_pydict() == {"x0": ["a"], "x1": ["1"]}


def test_images() -> None:
    """Arrays of uint8 images are flattened in C order; other arrays of 3 dimensions are refused."""
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert as_input(images).tolist() == images.reshape(2, 12).tolist()
    assert as_input(np.zeros((2, 3, 4, 3), np.uint8)).shape == (2, 36)
    with pytest.raises(DataError, match="2 dimensions"):
        as_input(np.zeros((2, 3, 4)))


@pytest.mark.parametrize("form", ["coo", "csc", "dok", "lil", "csr", "bsr", "dia"])
def test_sparse(form: str) -> None:
    """Any SciPy format, array or matrix, is a floating csr_array."""
    for make in (scipy.sparse.coo_matrix, scipy.sparse.coo_array):
        X = as_input(make(np.eye(3, dtype=np.int64)).asformat(form))
        assert isinstance(X, scipy.sparse.csr_array)
        assert X.dtype == np.float64
        assert X.toarray().tolist() == np.eye(3).tolist()
    assert as_input(scipy.sparse.eye_array(3, dtype=np.float32)).dtype == np.float32


def test_torch() -> None:
    """A tensor is the array of its values, also one that a gradient is wanted for."""
    torch = pytest.importorskip("torch")
    assert as_input(torch.ones(2, 3, requires_grad=True)).tolist() == [[1, 1, 1]] * 2
    assert as_input(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == np.float32
    assert as_input(torch.ones(2, 3, 4, dtype=torch.uint8)).shape == (2, 12)
    with pytest.raises(DataError, match="layout"):
        as_input(torch.eye(2).to_sparse())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1, 2], "Expected 2D array, got 1D array instead"),
        (np.zeros(3), "Reshape your data"),
        (pd.Series([1, 2]), "Reshape your data"),
        ([], "Expected 2D array"),
        ([[1], [1, 2]], "rows of equal length"),
        (np.zeros((1, 1), complex), "Complex data not supported"),
        (scipy.sparse.csr_array(np.eye(2, dtype=complex)), "Complex data not supported"),
        ("a text", "one string"),
        (None, "X is a NoneType"),
        ({1, 2}, "X is a set"),
        ({"a": 1}, "a list of values is needed"),
        ({"a": [1], "b": [1, 2]}, "different numbers of rows"),
        ([["a", [1]]], "rows of equal length|holds a list"),
    ],
)
def test_what_is_refused(given: object, words: str) -> None:
    """Other things are a DataError that says what was given."""
    with pytest.raises(DataError, match=words):
        as_input(given)


@pytest.mark.parametrize(
    "rows", [slice(1, 3), slice(None, None, -1), np.array([2, 0, -1]), [True, False, True, True]]
)
def test_rows_can_be_taken(rows: object) -> None:
    """A slice, integers or a mask take the same rows of each type."""
    matrix = np.arange(8.0).reshape(4, 2)
    expected = matrix[rows].tolist()  # type: ignore[index]
    table = as_input(pd.DataFrame(matrix, columns=["a", "b"]))
    sparse = as_input(scipy.sparse.csr_array(matrix))
    assert take_rows(matrix, rows).tolist() == expected
    assert take_rows(sparse, rows).toarray().tolist() == expected
    assert [list(row.values()) for row in take_rows(table, rows).to_pylist()] == expected


def test_shapes_and_names() -> None:
    """The helpers answer for each of the three types."""
    for X in (np.zeros((3, 2)), scipy.sparse.csr_array((3, 2)), pa.table({"a": [1, 2, 3], "b": [1, 2, 3]})):
        assert (n_rows(X), n_columns(X)) == (3, 2)
    assert column_names(pa.table({"a": [1]})) == ["a"]
    assert column_names(np.zeros((1, 1))) is None


def test_records() -> None:
    """Records keep the order of first appearance; nested cells are refused."""
    assert from_records([{"b": 1}, {"a": "x", "b": None}]).to_pydict() == {"b": [1, None], "a": [None, "x"]}
    with pytest.raises(DataError, match="holds a list"):
        from_records([{"a": 1}, {"a": [1]}])
