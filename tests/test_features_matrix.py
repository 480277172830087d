"""Matrices without names: pixels, truth values, sparse matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from softmaxnet.errors import DataError
from softmaxnet.features import BadCell, FeatureEncoder


@pytest.fixture
def pictures(rng):
    """Return 20 pictures of 5 x 5 bytes with a black border."""
    X = np.zeros((20, 5, 5), dtype=np.uint8)
    X[:, 1:4, 1:4] = rng.integers(0, 256, (20, 3, 3))
    X[0, 2, 2] = 255
    return X.reshape(20, 25)


def test_pixels_stay_bytes_and_keep_their_shape(pictures):
    """A wide uint8 matrix is passed on untouched, constant pixels included, to be multiplied by 1/255."""
    encoded = FeatureEncoder.fit(pictures).transform(pictures)
    assert encoded.dense.dtype == np.uint8
    np.testing.assert_array_equal(encoded.dense, pictures)
    assert encoded.dense_scale == 1 / 255


def test_pixels_of_few_grey_levels_are_divided_by_the_largest(pictures):
    """Pictures of 16 grey levels reach 1, not 16/255."""
    assert FeatureEncoder.fit(pictures // 16).transform(pictures).dense_scale == 1 / 15


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_pixels_may_come_in_any_number_type(pictures, dtype):
    """The same pictures as floats or integers are the same bytes; values between bytes become floats."""
    encoder = FeatureEncoder.fit(pictures)
    encoded = encoder.transform(pictures.astype(dtype))
    assert encoded.dense.dtype == np.uint8
    np.testing.assert_array_equal(encoded.dense, pictures)
    halves = encoder.transform(pictures + 0.5)
    np.testing.assert_array_equal(halves.dense, (pictures + 0.5).astype(np.float32))
    assert halves.dense_scale == encoded.dense_scale


def test_missing_and_infinite_pixels(pictures):
    """A missing pixel is 0; an infinite one is an error with its place."""
    encoder = FeatureEncoder.fit(pictures)
    X = pictures.astype(float)
    X[3, 7] = np.nan
    assert encoder.transform(X).dense[3, 7] == 0
    X[4, 8] = np.inf
    with pytest.raises(DataError, match="column 8, row 4"):
        encoder.transform(X)


def test_raw_bytes_are_as_they_are(pictures):
    """features='raw' on a uint8 matrix: the values themselves, at scale 1."""
    encoded = FeatureEncoder.fit(pictures, features="raw").transform(pictures)
    assert (encoded.dense.dtype, encoded.dense_scale) == (np.uint8, 1.0)


def test_a_narrow_uint8_matrix_is_numbers():
    """Few byte columns are measurements, scaled one by one."""
    X = np.arange(40, dtype=np.uint8).reshape(20, 2)
    assert FeatureEncoder.fit(X).transform(X).dense.dtype == np.float32


def test_truth_values_are_zero_and_one():
    """A bool matrix becomes zeros and ones."""
    X = np.array([[True, False], [False, False], [True, True]])
    encoder = FeatureEncoder.fit(X)
    np.testing.assert_array_equal(encoder.transform(X).dense, X)
    assert [column.kind for column in encoder.columns] == ["boolean", "boolean"]


def test_sparse_values_up_to_one_pass_through(rng):
    """TF-IDF-like values are as they are; a column that was zero in all of training stays out."""
    X = csr_array(rng.random((30, 100)) * (rng.random((30, 100)) < 0.1))
    X = csr_array(X.toarray() * (np.arange(100) != 5))
    encoder = FeatureEncoder.fit(X)
    encoded = encoder.transform(X)
    assert (encoder.n_dense, encoder.n_sparse) == (0, 100)
    assert (encoded.sparse.dtype, encoded.sparse.indices.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(encoded.sparse.toarray(), X.toarray().astype(np.float32))
    new = csr_array(np.ones((1, 100)))
    assert encoder.transform(new).sparse.nnz == np.count_nonzero(X.sum(axis=0))
    assert encoder.columns[5].becomes == "nothing: zero in all of training"


def test_sparse_counts_are_divided_by_the_columns_largest(rng):
    """Where values are beyond 1 every column's largest size becomes 1; features='raw' leaves them."""
    X = csr_array(rng.integers(0, 9, (30, 100)) * (rng.random((30, 100)) < 0.3))
    assert abs(FeatureEncoder.fit(X).transform(X).sparse).max() == 1
    np.testing.assert_array_equal(FeatureEncoder.fit(X, features="raw").transform(X).sparse.toarray(), X.toarray())


def test_sparse_matrices_have_no_missing_values():
    """NaN or infinity in a sparse matrix is an error with its place, or a collected cell."""
    X = np.zeros((3, 70))
    X[:, 4] = 1
    encoder = FeatureEncoder.fit(csr_array(X))
    X[2, 4] = np.nan
    with pytest.raises(DataError, match="column 4, row 2: nan is not a finite number"):
        encoder.transform(csr_array(X))
    cells: list[BadCell] = []
    encoder.transform(csr_array(X), bad=cells)
    assert [(cell.row, cell.column) for cell in cells] == [(2, "4")]
    with pytest.raises(DataError, match="column 4, row 2"):
        FeatureEncoder.fit(csr_array(X))


def test_a_narrow_sparse_matrix_is_a_dense_one(rng):
    """Up to 64 columns the sparse form saves nothing: the same encoding as of the dense matrix."""
    X = rng.normal(size=(20, 8)) * (rng.random((20, 8)) < 0.5)
    a, b = FeatureEncoder.fit(X), FeatureEncoder.fit(csr_array(X))
    np.testing.assert_array_equal(a.transform(csr_array(X)).dense, b.transform(X).dense)


def test_dense_and_sparse_inputs_are_exchangeable(rng):
    """An encoder fitted on a sparse matrix takes the dense one, and rows in batches are the same bits."""
    X = rng.integers(0, 5, (40, 80)) * 1.0
    encoder = FeatureEncoder.fit(csr_array(X))
    whole = encoder.transform(X).sparse
    parts = [encoder.transform(csr_array(X[i : i + 7])).sparse.toarray() for i in range(0, 40, 7)]
    np.testing.assert_array_equal(whole.toarray(), np.concatenate(parts))


def test_duplicate_entries_of_a_sparse_matrix_add_up():
    """Entries of one cell are added, and the caller's matrix is left alone."""
    X = csr_array((np.array([1.0, 2.0]), np.array([3, 3]), np.array([0, 2])), shape=(1, 70))
    encoder = FeatureEncoder.fit(X, features="raw")
    assert encoder.transform(X).sparse.toarray()[0, 3] == 3
    assert X.nnz == 2


def test_a_table_can_be_read_by_a_model_of_a_matrix():
    """Columns of a table are taken by position where training had no names."""
    import pyarrow as pa

    X = np.arange(8.0).reshape(4, 2)
    encoder = FeatureEncoder.fit(X)
    table = pa.table({"a": ["0", "2", "4", "6"], "b": [1, 3, 5, 7]})
    np.testing.assert_array_equal(encoder.transform(table).dense, encoder.transform(X).dense)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_raw_numbers_are_not_copied(rng, dtype):
    """Numbers that stay as they are share the caller's memory, which nobody can write to through them."""
    X = rng.random((5, 3)).astype(dtype)
    encoded = FeatureEncoder.fit(X, features="raw").transform(X, dtype=dtype)
    assert np.shares_memory(encoded.dense, X)
    assert not encoded.dense.flags.writeable
    assert X.flags.writeable


def test_raw_numbers_are_the_same_by_either_way(rng):
    """Contiguous or not, narrower or wider than the network's type, the encoded numbers are the same."""
    X = rng.random((6, 4)).astype(np.float32)
    encoder = FeatureEncoder.fit(X, features="raw")
    for given in (X, np.asfortranarray(X), X.astype(np.float64), np.repeat(X, 2, axis=1)[:, ::2]):
        for dtype in (np.float32, np.float64):
            np.testing.assert_array_equal(encoder.transform(given, dtype=dtype).dense, X.astype(dtype))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_raw_numbers_must_be_finite(rng, bad):
    """A missing or infinite number among raw ones is named, also where nothing else is looked at."""
    X = rng.random((5, 3)).astype(np.float32)
    encoder = FeatureEncoder.fit(X, features="raw")
    X[3, 1] = bad
    with pytest.raises(DataError, match="column 1, row 3"):
        encoder.transform(X)


def test_raw_numbers_whose_squares_overflow_are_fine():
    """Numbers near the end of float32 pass as they are."""
    X = np.array([[1e30, 2.0], [3.0, -3e38]], dtype=np.float32)
    np.testing.assert_array_equal(FeatureEncoder.fit(X, features="raw").transform(X).dense, X)
