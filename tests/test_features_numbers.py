"""Numbers: weighted quantiles, scales, missing and extreme values, blocks in common units, bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.datasets import load_digits

from softmaxnet.errors import DataError, UsageError
from softmaxnet.features import BadCell, FeatureEncoder
from softmaxnet.features.numbers import bin_edges, robust_spread
from softmaxnet.features.quantiles import check_weights, quantiles, weighted_quantiles

ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=False, width=64)
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)
PROBABILITIES = np.array([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9, 1.0])


def same_state(a, b):
    """Say whether two encoders are the same plain data, bit for bit."""
    (meta_a, tensors_a), (meta_b, tensors_b) = a.to_state(), b.to_state()
    assert meta_a == meta_b
    assert tensors_a.keys() == tensors_b.keys()
    for name, tensor in tensors_a.items():
        np.testing.assert_array_equal(tensor, tensors_b[name], err_msg=name)


@given(st.lists(st.tuples(FINITE, st.integers(1, 4)), min_size=1, max_size=40))
def test_weight_k_is_k_copies_in_quantiles(rows):
    """A quantile with whole weights equals, to the last bit, that of the rows repeated."""
    rows = sorted(rows)
    values, weights = np.array([v for v, _ in rows]), np.array([w for _, w in rows], dtype=np.float64)
    ours = weighted_quantiles(values, np.cumsum(weights), PROBABILITIES)
    np.testing.assert_array_equal(ours, quantiles(np.repeat(values, weights.astype(int)), PROBABILITIES))


def test_quantiles_are_numpys_averaged_inverted_cdf(rng):
    """Without weights the quantiles are NumPy's method of that name."""
    x = np.sort(rng.normal(size=37))
    expected = np.quantile(x, PROBABILITIES, method="averaged_inverted_cdf")
    np.testing.assert_allclose(quantiles(x, PROBABILITIES), expected, rtol=1e-15)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=ANY_FLOAT), st.data())
def test_weight_k_is_k_copies_in_the_encoder(X, data):
    """An encoder fitted with whole weights, zeros among them, equals one fitted on copies."""
    weights = data.draw(arrays(np.int64, X.shape[0], elements=st.integers(0, 3)))
    weights[0] = 1
    fitted = FeatureEncoder.fit(X, sample_weight=weights, n_bins=4)
    same_state(fitted, FeatureEncoder.fit(np.repeat(X, weights, axis=0), n_bins=4))


def test_weights_that_are_proportions_count_as_rows():
    """Weights that add up to 1 are as good as weights around 1: only proportions matter."""
    X = np.array([[1.0], [2.0], [3.0], [10.0]])
    a = FeatureEncoder.fit(X, sample_weight=[0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(check_weights([0.1, 0.2, 0.3, 0.4], 4), [0.4, 0.8, 1.2, 1.6])
    assert a.transform(X).dense.shape == (4, 1)


@pytest.mark.parametrize("weights", [[1.0, -1.0], [np.nan, 1.0], [0.0, 0.0], [1.0]])
def test_weights_that_cannot_be_are_refused(weights):
    """Negative, missing, all-zero weights and weights of another length are errors."""
    with pytest.raises(DataError, match="sample_weight"):
        FeatureEncoder.fit(np.ones((2, 1)), sample_weight=weights)


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 30), st.just(3)), elements=ANY_FLOAT),
    arrays(np.float64, (5, 3), elements=ANY_FLOAT),
    st.sampled_from([0, 8]),
)
def test_any_finite_or_missing_numbers_become_finite_numbers(train, test, n_bins):
    """From 0 to 100 % missing, 1e308, denormals: what comes out is finite and bounded, unseen rows too."""
    encoder = FeatureEncoder.fit(train, n_bins=n_bins)
    for X in (train, test):
        dense = encoder.transform(X).dense
        assert dense.shape == (X.shape[0], encoder.n_dense)
        assert np.isfinite(dense).all()
        assert np.abs(dense).max(initial=0) <= 3


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_missing_values_at_any_share_are_imputed_and_flagged(rng, share):
    """A missing cell is 0, the median after centring, and its indicator is 1."""
    X = rng.normal(size=(400, 2))
    gone = rng.random(400) < share
    X[gone, 0] = np.nan
    encoder = FeatureEncoder.fit(X)
    dense = encoder.transform(X).dense
    assert encoder.n_dense == 2 + gone.any()
    assert (dense[gone, 0] == 0).all()
    if gone.any():
        np.testing.assert_array_equal(dense[:, 2], gone)
    assert encoder.columns[0].share_missing == pytest.approx(gone.mean())


def test_the_formula():
    """Numbers are z = (x - median) / IQR, then z / sqrt(1 + (z / 3)^2): 1..9 has 5, and 3 and 7."""
    X = np.arange(1.0, 10.0)[:, None]
    z = (X - 5) / 4
    np.testing.assert_allclose(
        FeatureEncoder.fit(X).transform(X, dtype=np.float64).dense, z / np.sqrt(1 + (z / 3) ** 2), rtol=1e-15
    )


def test_a_column_that_is_mostly_zero_is_not_squashed():
    """Where the quartiles agree, the scale is the median distance of the other values."""
    gain = np.concatenate([np.zeros(92), [3000.0, 5000, 7000, 7000, 8000, 9000, 15000, 99999]])
    assert robust_spread(gain, None, quantiles(gain, [0.25, 0.5, 0.75])) == 7500.0
    dense = FeatureEncoder.fit(gain[:, None]).transform(gain[:, None]).dense[:, 0]
    assert (dense[:92] == 0).all()
    assert (dense[96:] > 0.9).all()
    assert (np.diff(dense[92:]) >= 0).all()


def test_constant_and_empty_columns_are_dropped_and_say_so():
    """A column that never varied gives nothing, unless where it was missing says something."""
    nan = np.nan
    X = np.array([[7.0, nan, 7.0, 0.0], [7.0, nan, nan, 1.0], [7.0, nan, 7.0, 2.0]])
    encoder = FeatureEncoder.fit(X)
    assert [column.becomes for column in encoder.columns] == [
        "nothing: constant in training",
        "nothing: no value in training",
        "1 missing indicator",
        "1 scaled number",
    ]
    assert encoder.describe()[3] == {
        "name": "column 3",
        "kind": "number",
        "share_missing": 0.0,
        "n_distinct": 3,
        "becomes": "1 scaled number",
    }
    np.testing.assert_array_equal(encoder.dense_sources(), [3, 2])


def test_nothing_that_varies_gives_one_column_of_zeros():
    """A network always has an input: with constant columns only it is 0."""
    encoder = FeatureEncoder.fit(np.ones((3, 2)))
    np.testing.assert_array_equal(encoder.transform(np.ones((2, 2))).dense, [[0], [0]])
    assert encoder.dense_sources().tolist() == [-1]


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_numbers_are_errors_with_their_place(value):
    """Only NaN is missing: an infinite number is an error that names row and column."""
    X = np.arange(6.0).reshape(3, 2)
    bad = X.copy()
    bad[2, 1] = value
    with pytest.raises(DataError, match=r"column 1, row 2: -?inf is not a finite number"):
        FeatureEncoder.fit(bad)
    encoder = FeatureEncoder.fit(X)
    with pytest.raises(DataError, match="column 1, row 2") as caught:
        encoder.transform(bad)
    assert caught.value.row == 2
    cells: list[BadCell] = []
    dense = encoder.transform(bad, bad=cells).dense
    assert [(cell.row, cell.column) for cell in cells] == [(2, "1")]
    assert dense[2, 1] == 0


def test_missing_at_predict_only_is_imputed():
    """A NaN in a column that had none in training is the median, without an indicator."""
    encoder = FeatureEncoder.fit(np.arange(9.0)[:, None])
    np.testing.assert_array_equal(encoder.transform(np.array([[np.nan], [4.0]])).dense, [[0], [0]])


@pytest.mark.parametrize("n_bins", [0, 6])
def test_all_rows_at_once_equal_rows_in_batches(rng, n_bins):
    """A row's encoding does not depend on its neighbours, bit for bit, float32 and float64."""
    X = rng.normal(size=(5000, 7)) * 10.0 ** rng.integers(-5, 5, 7)
    X[rng.random(X.shape) < 0.1] = np.nan
    encoder = FeatureEncoder.fit(X, n_bins=n_bins)
    for dtype in (np.float32, np.float64):
        whole = encoder.transform(X, dtype=dtype).dense
        assert whole.dtype == dtype
        assert whole.flags.c_contiguous
        parts = [encoder.transform(X[i : i + 37], dtype=dtype).dense for i in range(0, 5000, 37)]
        np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_layout_and_dtype_of_the_input_do_not_matter(rng):
    """Columns first or rows first, float32 or float64 of the same values: the same bits."""
    X = rng.normal(size=(300, 5)).astype(np.float32)
    encoder = FeatureEncoder.fit(X)
    expected = encoder.transform(X).dense
    for other in (np.asfortranarray(X), X.astype(np.float64), X[:, ::-1][:, ::-1]):
        same_state(encoder, FeatureEncoder.fit(other))
        np.testing.assert_array_equal(encoder.transform(other).dense, expected)


def test_digits_share_one_scale():
    """Columns in common units with many zeros (handwritten digits) are all divided by 16; the picture stays whole."""
    X = load_digits().data
    encoder = FeatureEncoder.fit(X)
    np.testing.assert_array_equal(encoder.transform(X).dense, (X / 16).astype(np.float32))
    assert encoder.n_curved == 0
    assert encoder.columns[1].becomes == "1 number"


def test_columns_of_their_own_units_do_not_share_a_scale(rng):
    """Columns that do not reach a common largest value, or seldom are zero, are scaled one by one."""
    amounts = np.abs(rng.normal(size=(200, 20))) * np.arange(1, 21)
    grades = rng.integers(0, 16, (500, 16)).astype(float)
    for X in (amounts, grades):
        assert FeatureEncoder.fit(X).n_curved == X.shape[1]


def test_bins_are_where_the_rows_and_where_the_values_are():
    """Half of the edges are row quantiles, half quantiles of distinct values; a bin rises from 0 to 1."""
    x = np.concatenate([np.zeros(90), np.arange(1.0, 11.0)])
    np.testing.assert_array_equal(bin_edges(x, None, np.unique(x), 4), [0, 5, 10])
    dense = (
        FeatureEncoder.fit(x[:, None], n_bins=4)
        .transform(np.array([[-1.0], [2.5], [7.5], [99.0], [np.nan]]))
        .dense
    )
    np.testing.assert_array_equal(dense[:, 1:], [[0, 0], [0.5, 0], [1, 0.5], [1, 1], [0, 0]])


def test_raw_numbers_are_as_they_are():
    """features='raw' changes nothing, keeps constant columns, and refuses missing and too large numbers."""
    X = np.array([[1e6, 5.0], [-3.0, 5.0]])
    encoder = FeatureEncoder.fit(X, features="raw")
    np.testing.assert_array_equal(encoder.transform(X).dense, X)
    with pytest.raises(DataError, match=r"column 1, row 0: a value is missing.*features='auto'"):
        encoder.transform(np.array([[1.0, np.nan]]))
    with pytest.raises(DataError, match="column 0, row 0: a value is missing"):
        FeatureEncoder.fit(np.array([[np.nan], [1.0]]), features="raw")
    huge = np.array([[1e300, 1.0]])
    assert encoder.transform(huge, dtype=np.float64).dense[0, 0] == 1e300
    with pytest.raises(DataError, match="column 0, row 0: 1e\\+300 is too large for float32"):
        encoder.transform(huge)


def test_parameters_that_cannot_be_are_refused():
    """Unknown features, negative bins, kinds for a matrix without names, no rows, another width."""
    X = np.ones((2, 2))
    with pytest.raises(UsageError, match="'auto' or 'raw'"):
        FeatureEncoder.fit(X, features="scaled")
    with pytest.raises(UsageError, match="n_bins"):
        FeatureEncoder.fit(X, n_bins=-2)
    with pytest.raises(UsageError, match="no column names"):
        FeatureEncoder.fit(X, kinds={"a": "number"})
    with pytest.raises(DataError, match="0 rows"):
        FeatureEncoder.fit(np.ones((0, 2)))
    with pytest.raises(DataError, match="3 columns; the model was trained with 2"):
        FeatureEncoder.fit(X).transform(np.ones((2, 3)))


def test_no_rows_and_one_row_can_be_encoded():
    """A batch may be empty or a single row."""
    encoder = FeatureEncoder.fit(np.arange(8.0).reshape(4, 2))
    assert encoder.transform(np.empty((0, 2))).dense.shape == (0, 2)
    assert encoder.transform(np.ones((1, 2))).n_rows == 1


def test_a_matrix_never_imports_pyarrow():
    """Numbers without names need NumPy and SciPy only: pyarrow is not loaded."""
    import subprocess
    import sys

    code = (
        "import sys, numpy as np; from softmaxnet.features import FeatureEncoder as F\n"
        "X = np.arange(8.).reshape(4, 2); F.from_state(*F.fit(X).to_state()).transform(X)\n"
        "print(sorted({'pyarrow', 'torch', 'sklearn'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
