"""Runs of near copies: found where rows come in them, held out whole, and nowhere else."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softmaxnet import SoftmaxClassifier
from softmaxnet.metrics import log_loss
from softmaxnet.row_runs import find_runs

N_CLASSES = 3


def people(n_people: int, n_each: int, seed: int, *, n_inputs: int = 8, noise: float = 0.2):
    """Return (rows, labels, person): people one after the other, who differ as much as the classes do."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(N_CLASSES, n_inputs))
    person = np.repeat(np.arange(n_people), n_each)
    labels = np.tile(np.arange(n_each) % N_CLASSES, n_people)
    habits = rng.normal(size=(n_people, n_inputs))
    return centres[labels] + habits[person] + noise * rng.normal(size=(len(person), n_inputs)), labels, person


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 30), st.integers(15, 60), st.integers(0, 2**31))
def test_the_runs_of_people_are_found_to_the_row(n_people, n_each, seed):
    """Eight people or more with fifteen rows or more each: nine in ten rows are in the run of their person."""
    rows, labels, person = people(n_people, n_each, seed, noise=0.1)
    runs = find_runs(rows, labels)
    assert runs is not None
    pairs = np.unique(np.stack([runs.of_row, person]), axis=1, return_counts=True)[1]
    assert abs(len(runs) - n_people) <= 2
    assert np.sort(pairs)[-n_people:].sum() >= 0.9 * len(person)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_shuffled_rows_have_none(seed):
    """The same people in any order, and rows that have no people at all."""
    rows, labels, _ = people(12, 30, seed)
    order = np.random.default_rng(seed).permutation(len(rows))
    assert find_runs(rows[order], labels[order]) is None
    assert find_runs(np.random.default_rng(seed).normal(size=rows.shape), labels) is None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["sorted", "by place", "in time", "copies"]))
def test_an_order_of_another_kind_is_none(seed, kind):
    """Rows sorted by a number, by place and year, by the time they carry; rows with copies next to them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(N_CLASSES, size=600)
    if kind == "sorted":
        rows = rng.normal(size=(600, 4))
        rows = rows[rows[:, 0].argsort()]
    elif kind == "by place":
        rows = np.c_[np.arange(600) // 60, np.arange(600) // 20 % 3, rng.normal(size=(600, 3)) / 10]
    elif kind == "in time":
        rows = np.c_[np.linspace(-1, 1, 600), rng.normal(size=(600, 1)) / 10]
    else:
        rows, labels = rng.normal(size=(200, 4)).repeat(3, axis=0), labels[:200].repeat(3)
    assert find_runs(rows, labels) is None


@pytest.mark.parametrize(("n_people", "n_each"), [(12, 800), (20, 3000)])
def test_long_runs_are_found_too(n_people, n_each):
    """Thousands of rows of one person, of which the nearest may be anywhere among them: every cut is within 64 rows."""
    rows, labels, person = people(n_people, n_each, 0)
    runs = find_runs(rows, labels)
    assert runs is not None
    assert len(runs) == n_people
    assert np.mean(runs.of_row == person) >= 1 - 64 * n_people / len(person)


@pytest.mark.parametrize("sizes", [[60] * 5, [200] + [40] * 6])
def test_few_runs_and_one_of_many_rows_are_none(sizes):
    """Five people are too few to hold some out, and one who has more than a quarter of the rows is too much."""
    rows, labels, person = people(len(sizes), max(sizes), 0)
    kept = np.concatenate([np.flatnonzero(person == i)[:size] for i, size in enumerate(sizes)])
    assert find_runs(rows[kept], labels[kept]) is None


def test_large_numbers_of_little_spread_are_told_apart():
    """A million added to every number changes nothing."""
    rows, labels, _ = people(12, 30, 0)
    expected, found = find_runs(rows, labels), find_runs(rows + 1e6, labels)
    assert expected is not None
    assert found is not None
    assert np.array_equal(found.of_row, expected.of_row)


def test_classes_one_after_the_other_are_no_runs():
    """A file sorted by its labels, as many are."""
    rows, labels, _ = people(12, 30, 0)
    order = np.random.default_rng(0).permutation(len(rows))
    by_class = order[np.argsort(labels[order], kind="stable")]
    assert find_runs(rows[by_class], labels[by_class]) is None


@pytest.mark.parametrize("n_rows", [0, 1, 5, 17, 18])
def test_few_rows_and_no_columns_are_none(n_rows):
    """Nothing is asked of what is too little to tell."""
    assert find_runs(np.zeros((n_rows, 3)), np.zeros(n_rows, dtype=np.int64)) is None
    assert find_runs(np.zeros((n_rows, 0)), np.zeros(n_rows, dtype=np.int64)) is None


def test_probabilities_for_new_people_are_better_and_the_promise_is_kept():
    """A fit on people in runs says so, and its held-out log loss is nearer to that of new people than row by row."""
    X, y, person = people(60, 15, 1)
    X_new, y_new, _ = people(40, 30, 2)
    clf = SoftmaxClassifier(random_state=0, max_epochs=60)
    with pytest.warns(UserWarning, match="60 runs that they come in are held out whole"):
        whole = clf.fit(X, y)
    assert whole.model_.metrics["n_runs"] == 60
    found = [log_loss(whole.predict_log_proba(X_new), y_new), whole.metrics_["log_loss"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_row = clf.fit(X, y, groups=range(len(X)))
        same = SoftmaxClassifier(random_state=0, max_epochs=60).fit(X, y, groups=person)
    by_row_found = [log_loss(by_row.predict_log_proba(X_new), y_new), by_row.metrics_["log_loss"]]
    assert found[0] < by_row_found[0]
    assert abs(found[0] - found[1]) < abs(by_row_found[0] - by_row_found[1])
    np.testing.assert_allclose(same.metrics_["log_loss"], found[1], rtol=0.1)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_prediction_sets_hold_for_new_people(early_stopping):
    """What is set aside for prediction sets is whole runs as well: nine in ten new people's rows are covered."""
    X, y, _ = people(40, 20, 3)
    X_new, y_new, _ = people(60, 20, 4)
    clf = SoftmaxClassifier(random_state=0, max_epochs=40, conformal_fraction=0.3, early_stopping=early_stopping)
    with pytest.warns(UserWarning, match="held out whole"):
        clf.fit(X, y)
    sets = clf.predict_set(X_new, coverage=0.9)
    covered = np.mean([label in found for label, found in zip(y_new, sets, strict=True)])
    assert covered >= 0.85


def test_rows_of_one_group_are_not_calibrated_and_that_is_said():
    """Nothing can be held out of one group."""
    X, y, _ = people(4, 30, 1)
    with pytest.warns(UserWarning, match="all rows are of one group"):
        clf = SoftmaxClassifier(random_state=0, max_epochs=2).fit(X, y, groups=np.zeros(len(X)))
    assert clf.metrics_["n_held_out"] == 0


def test_where_nothing_is_held_out_nothing_is_said():
    """Without early stopping, or with the user's own validation rows."""
    X, y, _ = people(16, 30, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # L-BFGS says that two epochs are few
        warnings.filterwarnings("error", message="rows stand next to near copies")
        SoftmaxClassifier(random_state=0, max_epochs=2, early_stopping=False, calibration=None).fit(X, y)
        SoftmaxClassifier(random_state=0, max_epochs=2, solver="lbfgs", hidden_layer_sizes=(4,)).fit(X, y)
        SoftmaxClassifier(random_state=0, max_epochs=2).fit(X[:450], y[:450], X_val=X[450:], y_val=y[450:])
