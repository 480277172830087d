"""SoftmaxClassifier's settings in use: going on, early stopping, time, calibration, weights beyond reason, warnings."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits, load_iris

from softmaxnet import SoftmaxClassifier
from softmaxnet.findings import DataWarning

X, Y = load_iris(return_X_y=True)
DIGITS, DIGIT = load_digits(return_X_y=True)
CONSTANT = {"early_stopping": False, "learning_rate_schedule": "constant", "random_state": 0, "n_jobs": 1}


def same_bits(a, b) -> bool:
    """Return whether two models have the same weights."""
    return all(np.array_equal(a.model_.params[name], b.model_.params[name]) for name in a.model_.params)


@pytest.mark.parametrize(
    "given",
    [{}, {"solver": "adam", "hidden_layer_sizes": ()}, {"hidden_layer_sizes": (16,), "dropout": 0.2, "n_members": 2}],
    ids=["auto", "regression", "two members with dropout"],
)
@pytest.mark.parametrize("n_rows", [200, 1100])
def test_n_and_m_epochs_are_n_plus_m_epochs(given, n_rows):
    """Going on at a constant rate without early stopping: 2 then 3 epochs have the bits of 5, on little data too."""
    rows, labels = DIGITS[:n_rows], DIGIT[:n_rows]
    whole = SoftmaxClassifier(max_epochs=5, **CONSTANT, **given).fit(rows, labels)
    parts = SoftmaxClassifier(max_epochs=2, warm_start=True, **CONSTANT, **given).fit(rows, labels)
    parts.set_params(max_epochs=3).fit(rows, labels)
    assert same_bits(whole, parts)
    assert parts.n_iter_ == 5


def test_a_new_schedule_starts_from_the_present_weights():
    """Going on with early stopping begins where the fit before it ended: its first epoch is better."""
    clf = SoftmaxClassifier(warm_start=True, random_state=0, max_epochs=4).fit(DIGITS[:1100], DIGIT[:1100])
    before = clf.history_[0]["validation_log_loss"]
    clf.fit(DIGITS[:1100], DIGIT[:1100])
    assert clf.history_[0]["validation_log_loss"] < before
    assert clf.n_iter_ == 8


@pytest.mark.parametrize("n_rows", [200, 1100])
def test_regression_by_lbfgs_goes_on_to_the_same_optimum(n_rows):
    """Under warm_start L-BFGS starts at the present weights, so that a second fit has nothing left to do."""
    given = {"hidden_layer_sizes": (), "weight_decay": 0.01, "early_stopping": False}
    rows, labels = DIGITS[:n_rows], DIGIT[:n_rows]
    clf = SoftmaxClassifier(warm_start=True, **given).fit(rows, labels)
    proba, n_iter = clf.predict_proba(rows), clf.n_iter_
    clf.fit(rows, labels)
    assert clf.n_iter_ - n_iter < n_iter / 5
    np.testing.assert_allclose(clf.predict_proba(rows), proba, atol=1e-6)


def test_partial_fit_has_a_column_for_a_class_that_has_not_come_yet():
    """Classes that were announced have a probability, above 0, before their first row."""
    clf = SoftmaxClassifier(random_state=0).partial_fit(X[:100], Y[:100], classes=[0, 1, 2])
    proba = clf.predict_proba(X[100:])
    assert proba.shape == (50, 3)
    assert (proba[:, 2] > 0).all()


def test_class_weight_shifts_probabilities_as_copies_of_rows_do():
    """class_weight={1: 3} is the fit on data with every row of class 1 three times."""
    given = {"hidden_layer_sizes": (), "weight_decay": 0.01, "early_stopping": False}
    a = SoftmaxClassifier(class_weight={1: 3}, **given).fit(X, Y)
    copies = np.repeat(np.arange(150), np.where(Y == 1, 3, 1))
    b = SoftmaxClassifier(**given).fit(X[copies], Y[copies])
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=1e-6)


def test_rows_of_validation_stop_nothing_without_early_stopping():
    """X_val with early_stopping=False scores and calibrates; all epochs are trained, and the last weights kept."""
    given = {"early_stopping": False, "max_epochs": 12, "n_iter_no_change": 1, "random_state": 0}
    alone = SoftmaxClassifier(**given).fit(DIGITS[:1100], DIGIT[:1100])
    clf = SoftmaxClassifier(**given).fit(DIGITS[:1100], DIGIT[:1100], X_val=DIGITS[1100:], y_val=DIGIT[1100:])
    assert clf.n_iter_ == 12
    assert clf.stopped_by_ == "max_epochs"
    assert same_bits(alone, clf)
    assert clf.metrics_["n_held_out"] == len(DIGITS) - 1100


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"early_stopping": False, "max_epochs": 2}, "needs held-out rows, and there were none"),
        ({"output": "sigmoid", "hidden_layer_sizes": (4,), "max_epochs": 2}, "is for output='softmax'"),
    ],
    ids=["no rows", "sigmoid"],
)
def test_a_calibration_that_cannot_be_is_a_warning(given, text):
    """calibration="temperature" with nothing to fit it to is not passed over in silence."""
    with pytest.warns(UserWarning, match=f"calibration='temperature' {text}"):
        SoftmaxClassifier(calibration="temperature", random_state=0, **given).fit(X, Y)


def test_lbfgs_tells_every_iteration():
    """on_epoch is called after each iteration of L-BFGS, and the history has the same lines, the loss falling."""
    lines: list[dict[str, float]] = []
    clf = SoftmaxClassifier(hidden_layer_sizes=(), weight_decay=0.01).fit(X, Y, on_epoch=lines.append)
    assert [line["epoch"] for line in lines] == list(range(1, clf.n_iter_ + 1))
    assert clf.history_[: len(lines)] == lines
    losses = [line["loss"] for line in lines]
    assert losses == sorted(losses, reverse=True)


def test_the_time_limit_holds_for_the_search_on_little_data():
    """max_seconds ends the cross-validation too: a model is there, and a warning says what was left out."""
    started = time.monotonic()
    with pytest.warns(UserWarning, match=r"max_seconds=0\.001 was over: softmax regression without"):
        clf = SoftmaxClassifier(max_seconds=0.001, random_state=0).fit(X, Y)
    assert clf.stopped_by_ == "max_seconds"
    assert time.monotonic() - started < 60
    assert np.isfinite(clf.predict_log_proba(X)).all()


@pytest.mark.parametrize("size", [1e300, 1e-300, 1e-310])
def test_weights_of_any_size_are_the_same_where_all_are_equal(size):
    """Only proportions mean anything once weights are beyond reason; nothing overflows."""
    a, b = (
        SoftmaxClassifier(hidden_layer_sizes=(), random_state=0).fit(X, Y, sample_weight=np.full(150, weight))
        for weight in (size, size / 2)
    )
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), atol=1e-9)
    assert a.score(X, Y) > 0.9


def test_one_weight_that_outweighs_all_others_is_no_overflow():
    """A row of weight 1e300 among rows of weight 1 gives finite probabilities and no warning from NumPy."""
    weight = np.ones(150)
    weight[0] = 1e300
    clf = SoftmaxClassifier(hidden_layer_sizes=(), random_state=0).fit(X, Y, sample_weight=weight)
    assert np.isfinite(clf.predict_log_proba(X)).all()


def test_constant_features_warn_and_give_the_shares():
    """No column has anything to learn from: the shares of the classes, and a warning that says it."""
    with pytest.warns(DataWarning, match="no column has anything to learn from"):
        clf = SoftmaxClassifier(random_state=0).fit(np.ones((100, 3)), np.arange(100) % 4 == 0)
    np.testing.assert_allclose(clf.predict_proba(np.ones((1, 3))), [[0.75, 0.25]], atol=1e-6)


def test_a_stray_word_in_a_column_of_numbers_warns():
    """A frame's column of numbers with one word is a category, and kinds takes the word as missing."""
    frame = pd.DataFrame({"income": [str(1000 * i) for i in range(60)], "age": range(60)})
    frame.loc[7, "income"] = "n.a."
    labels = np.arange(60) % 2
    settings = {"hidden_layer_sizes": (), "weight_decay": 0.1, "early_stopping": False}
    with pytest.warns(DataWarning, match=r"'income': 59 of 60 values read as numbers, 'n\.a\.' \(row 7 "):
        SoftmaxClassifier(**settings).fit(frame, labels)
    with pytest.warns(DataWarning, match="1 of 60 values, first 'n.a.'"):
        clf = SoftmaxClassifier(**settings).fit(frame, labels, kinds={"income": "number"})
    assert clf.model_.encoder.columns[0].kind == "number"


def test_amounts_as_labels():
    """Floats with fractions are refused in scikit-learn's words; decimals in strings are a warning."""
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        SoftmaxClassifier().fit(X, X[:, 0] + 0.01)
    labels = [f"{0.5 + i % 30}" for i in range(150)]
    with pytest.warns(DataWarning, match="looks like the target of a regression"):
        SoftmaxClassifier(hidden_layer_sizes=(), weight_decay=0.1, early_stopping=False).fit(X, labels)


def test_ordinary_data_warn_of_nothing():
    """No warning for numbers, categories of codes with letters, and few classes."""
    codes = ["250.01", "V58", "401", "E909", "427.31", "I10", "K21", "300.4"]
    frame = pd.DataFrame({"x": X[:, 0], "code": [codes[i % 8] for i in range(150)], "floor": [*"123G45"] * 25})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SoftmaxClassifier(hidden_layer_sizes=(), weight_decay=0.1, early_stopping=False).fit(frame, Y)
