"""Which rows are held out: class shares, lonely classes, groups, fractions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softmaxnet.data.split import stratified_folds, stratified_holdout

label_arrays = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(lambda v: np.array(v, dtype=np.int64))
fractions = st.sampled_from([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 1 / 3, 0.5, 0.7, 0.95])


@given(label_arrays, fractions, st.integers(0, 2**31))
def test_holdout_takes_of_each_class_its_share(labels, fraction, seed):
    """Each class loses its share to within one row, but for classes that would be left without any."""
    held_out = stratified_holdout(labels, fraction, seed)
    counts = np.bincount(labels)
    taken = np.bincount(labels[held_out], minlength=len(counts))
    for count, number in zip(counts, taken, strict=True):
        if count > 1:
            assert abs(number - fraction * count) <= 1 or number == count - 1
        assert number == 0 or number < count
    assert abs(held_out.sum() - fraction * len(labels)) <= 1 + len(counts)


def test_holdout_meets_the_fraction_on_many_rows():
    """15 % or 30 % of 1,000 rows of three classes is 15 % or 30 % of each, as near as rows go."""
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    for fraction in (0.1, 0.15, 0.3, 0.001):
        held_out = stratified_holdout(labels, fraction, 0)
        assert held_out.sum() == pytest.approx(1000 * fraction, abs=1)
        assert np.bincount(labels[held_out], minlength=3) == pytest.approx(fraction * np.array([500, 300, 200]), abs=1)


@given(label_arrays, fractions, st.integers(0, 2**31))
def test_the_only_row_of_a_class_is_never_held_out(labels, fraction, seed):
    """A class with one row keeps it, in a holdout and in folds, and every class that is there is trained on."""
    held_out = stratified_holdout(labels, fraction, seed)
    folds = stratified_folds(labels, 5, seed)
    lonely = np.bincount(labels)[labels] == 1
    assert not held_out[lonely].any()
    assert (folds[lonely] == -1).all()
    assert (folds[~lonely] >= 0).all()
    assert set(labels[~held_out]) == set(labels)


@given(label_arrays, st.integers(2, 7), st.integers(0, 2**31))
def test_folds_are_of_equal_size_and_even_in_every_class(labels, n_folds, seed):
    """Folds are as equal as rows go over all rows and within every class."""
    folds = stratified_folds(labels, n_folds, seed)
    assert set(folds) <= set(range(-1, n_folds))
    for label in np.unique(labels):
        inside = folds[(labels == label) & (folds >= 0)]
        sizes = np.bincount(inside, minlength=n_folds)
        assert sizes.max() - sizes.min() <= 1
    if (folds >= 0).all():
        sizes = np.bincount(folds, minlength=n_folds)
        assert sizes.max() - sizes.min() <= 1


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60),
    fractions,
    st.integers(0, 2**31),
)
def test_groups_stay_on_one_side(pairs, fraction, seed):
    """No group is both held out and trained on, in two folds, or the only one of a class and held out."""
    labels, groups = (np.array(v, dtype=np.int64) for v in zip(*pairs, strict=True))
    held_out = stratified_holdout(labels, fraction, seed, groups)
    folds = stratified_folds(labels, 4, seed, groups)
    for group in np.unique(groups):
        assert len(set(held_out[groups == group])) == 1
        assert len(set(folds[groups == group])) == 1
    for fold in np.unique(folds[folds >= 0]):
        assert set(labels[folds != fold]) == set(labels)
    assert set(labels[~held_out]) == set(labels)


def test_groups_may_be_strings():
    """Groups are any values that can be told apart."""
    labels = np.tile([0, 1], 20)
    groups = np.repeat([f"g{i}" for i in range(10)], 4)
    numbers = np.repeat(np.arange(10), 4)
    assert np.array_equal(stratified_holdout(labels, 0.2, 3, groups), stratified_holdout(labels, 0.2, 3, numbers))
    assert stratified_holdout(labels, 0.2, 3, groups).sum() == 8


def test_split_is_a_pure_function_of_labels_and_seed():
    """The same seed gives the same split, another seed another one."""
    labels = np.random.default_rng(0).integers(0, 3, 200)
    first = stratified_holdout(labels, 0.1, 7)
    assert np.array_equal(first, stratified_holdout(labels, 0.1, 7))
    assert not np.array_equal(first, stratified_holdout(labels, 0.1, 8))
    assert not np.array_equal(stratified_folds(labels, 5, 7), stratified_folds(labels, 5, 8))


def test_every_row_of_a_class_has_the_same_chance():
    """Over many seeds each row of a class is held out about equally often."""
    labels = np.repeat([0, 1], [30, 10])
    often = np.mean([stratified_holdout(labels, 0.2, seed) for seed in range(2000)], axis=0)
    assert often == pytest.approx(0.2, abs=0.05)
