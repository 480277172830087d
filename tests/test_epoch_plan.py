"""The order of rows and the bounds of batches."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from softmaxnet.data.epoch_plan import batch_bounds, epoch_order


@given(st.integers(0, 2**31), st.integers(0, 1000), st.integers(0, 300))
def test_an_epoch_visits_every_row_exactly_once(seed, epoch, n_rows):
    """The order of an epoch is a permutation of the rows."""
    assert np.array_equal(np.sort(epoch_order(seed, epoch, n_rows)), np.arange(n_rows))


def test_order_is_a_pure_function_of_seed_and_epoch():
    """The same (seed, epoch) gives the same order whatever came before; another seed or epoch another order."""
    first = epoch_order(5, 3, 100)
    epoch_order(5, 2, 100)
    assert np.array_equal(first, epoch_order(5, 3, 100))
    assert not np.array_equal(first, epoch_order(5, 4, 100))
    assert not np.array_equal(first, epoch_order(6, 3, 100))


def test_order_of_a_known_seed():
    """The order is the same on every machine: Philox with key 0 and counter (0, 0, epoch, 1)."""
    expected = np.random.Generator(np.random.Philox(key=0, counter=[0, 0, 2, 1])).permutation(10)
    assert np.array_equal(epoch_order(0, 2, 10), expected)


def test_orders_of_epochs_are_independent():
    """Over many epochs each row stands in each place about equally often."""
    places = np.zeros((5, 5))
    for epoch in range(5000):
        places[np.arange(5), epoch_order(0, epoch, 5)] += 1
    assert abs(places / 5000 - 0.2).max() < 0.03


@given(st.integers(1, 5000), st.integers(1, 600))
def test_batches_cover_the_rows_in_near_equal_sizes(n_rows, batch_size):
    """Bounds join up from 0 to n, no batch is larger than asked for, sizes differ by one row at most, none is empty."""
    bounds = batch_bounds(n_rows, batch_size)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == n_rows
    assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) <= batch_size
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert len(bounds) == -(-n_rows // batch_size)
