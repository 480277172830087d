"""SoftmaxClassifier: inputs and labels as they come, determinism, weights, calibration, scikit-learn's conventions."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import sklearn
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info

torch = pytest.importorskip("torch")

from softmaxnet import load_model
from softmaxnet.errors import DataError, SoftmaxError, TrainingDivergedError, UsageError
from softmaxnet.estimator import SoftmaxClassifier

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])
FRAME = pd.DataFrame(X, columns=list("abcd")).assign(size=np.where(X[:, 0] > 5.8, "large", "small"))


def quick(**given) -> SoftmaxClassifier:
    """Return a classifier that takes a moment: one small network, few epochs."""
    settings = {"hidden_layer_sizes": (8,), "n_members": 1, "max_epochs": 4, "random_state": 0} | given
    return SoftmaxClassifier(**settings)


def regression(**given) -> SoftmaxClassifier:
    """Return softmax regression on the numbers as they are, uncalibrated."""
    settings = {"features": "raw", "calibration": None, "early_stopping": False} | given
    return SoftmaxClassifier((), **settings)


def weights_of(clf: SoftmaxClassifier) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients and intercepts of softmax regression."""
    return clf.model_.params["layers.0.weight"][0], clf.model_.params["layers.0.bias"][0]


def same_bits(a: SoftmaxClassifier, b: SoftmaxClassifier) -> bool:
    """Whether two fitted classifiers have the same parameters to the last bit."""
    names = a.model_.params.keys()
    return names == b.model_.params.keys() and all(
        np.array_equal(a.model_.params[n], b.model_.params[n]) for n in names
    )


# --- determinism ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"dropout": 0.3, "n_members": 3}, {"hidden_layer_sizes": (), "max_epochs": 200}])
def test_same_seed_same_bits_and_the_same_file(tmp_path, given):
    """Two fits of one seed on one thread have the same parameters to the last bit, and their files the same bytes."""
    first, second = (quick(**given).fit(FRAME, NAMES[Y]) for _ in range(2))
    assert same_bits(first, second)
    first.save(tmp_path / "a.safetensors")
    second.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_another_seed_is_another_network():
    """The seed decides on weights, order and split."""
    assert not same_bits(quick(random_state=0).fit(X, Y), quick(random_state=1).fit(X, Y))


def test_random_state_may_be_a_generator():
    """A RandomState gives what its next integer gives, and a second fit goes on with the one after it."""
    state = np.random.RandomState(7)
    clf = quick(random_state=state)
    first = clf.fit(X, Y).predict_proba(X)
    assert not np.array_equal(first, clf.fit(X, Y).predict_proba(X))
    again = quick(random_state=np.random.RandomState(7)).fit(X, Y)
    assert np.array_equal(first, again.predict_proba(X))


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_global_changes(broken):
    """Threads, both global random states and the default type are as before a fit, also after one that fails."""

    def look():
        pools = sorted((pool["filepath"], pool["num_threads"]) for pool in threadpool_info())
        random = np.random.get_state()[1].tolist()  # noqa: NPY002
        return pools, random, torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype()

    def fail(line):
        raise RuntimeError("from the callback")

    before = look()
    if broken:
        with pytest.raises(RuntimeError, match="from the callback"):
            quick(n_jobs=2).fit(X, Y, on_epoch=fail)
    else:
        quick(n_jobs=2, dropout=0.2).fit(X, Y)
    assert look() == before


def test_fit_does_not_touch_its_input():
    """Read-only arrays are enough, and a frame comes out as it went in."""
    frozen = X.copy()
    frozen.flags.writeable = False
    labels = Y.copy()
    labels.flags.writeable = False
    quick().fit(frozen, labels, sample_weight=np.broadcast_to(1.0, 150))
    frame = FRAME.copy()
    quick().fit(frame, Y)
    pd.testing.assert_frame_equal(frame, FRAME)


# --- weights ----------------------------------------------------------------------------------------------------


INPUTS = {
    "numbers": lambda rng: rng.normal(size=(36, 3)),
    "frame": lambda rng: pd.DataFrame(
        {
            "number": np.where(rng.random(36) < 0.2, np.nan, rng.normal(size=36)),
            "category": rng.choice(["x", "y", "z"], 36),
        }
    ),
    "sparse": lambda rng: scipy.sparse.random(36, 6, 0.3, "csr", rng=rng),
    "text": lambda rng: np.array([" ".join(rng.choice(["good", "bad", "film", "nice"], 3)) for _ in range(36)]),
}


@pytest.mark.parametrize("kind", sorted(INPUTS))
@pytest.mark.parametrize("given", [{"hidden_layer_sizes": ()}, {"hidden_layer_sizes": (8,), "max_epochs": 4}])
def test_weight_k_is_k_copies(kind, given):
    """On little data a row of weight k is k copies of it, a row of weight 0 none, in any order, to the last bit."""
    rng = np.random.default_rng(0)
    rows, labels = INPUTS[kind](rng), np.arange(36) % 2
    weight = rng.integers(0, 4, 36)
    copies = np.repeat(np.arange(36), weight)
    expected = SoftmaxClassifier(random_state=0, **given).fit(rows, labels, weight).predict_proba(rows)
    for order in (copies, rng.permutation(copies)):
        taken = rows.iloc[order].reset_index(drop=True) if kind == "frame" else rows[order]
        got = SoftmaxClassifier(random_state=0, **given).fit(taken, labels[order]).predict_proba(rows)
        assert np.array_equal(got, expected)


def test_default_recipe_treats_weights_as_copies():
    """The whole default recipe on tiny data, race of regression and network included, has that property too."""
    rng = np.random.default_rng(1)
    rows, labels = rng.normal(size=(30, 3)), np.arange(30) % 3
    weight = rng.integers(0, 3, 30)
    copies = rng.permutation(np.repeat(np.arange(30), weight))
    a = SoftmaxClassifier(random_state=0, max_epochs=5).fit(rows, labels, weight)
    b = SoftmaxClassifier(random_state=0, max_epochs=5).fit(rows[copies], labels[copies])
    assert np.array_equal(a.predict_proba(rows), b.predict_proba(rows))


@pytest.mark.parametrize("weights", [np.ones(150), [1] * 150, pd.Series(np.ones(150), index=range(7, 157)), 1.0])
def test_weights_of_one_are_no_weights(weights):
    """Ones as an array, a list, a Series or a number are the same as None."""
    assert same_bits(quick().fit(X, Y, sample_weight=weights), quick().fit(X, Y))


def test_class_weight_is_a_weight_for_each_row():
    """A dict multiplies the rows of a class; "balanced" gives all classes the same total."""
    labels = np.r_[Y[:110], Y[110:]]
    keep = np.r_[0:50, 50:70, 100:140]
    rows, labels = X[keep], Y[keep]
    by_dict = quick(class_weight={0: 1.0, 1: 4.0, 2: 2.0}).fit(rows, labels)
    by_row = quick().fit(rows, labels, sample_weight=np.array([1.0, 4.0, 2.0])[labels])
    assert same_bits(by_dict, by_row)
    balanced = quick(class_weight="balanced").fit(rows, labels)
    by_row = quick().fit(rows, labels, sample_weight=(110 / (3 * np.array([50, 20, 40])))[labels])
    np.testing.assert_allclose(balanced.predict_proba(X), by_row.predict_proba(X), atol=1e-9)


def test_class_weight_by_name_and_of_some_classes():
    """Names are those of y; a class that is not named has the weight 1."""
    a = quick(class_weight={"virginica": 3.0}).fit(X, NAMES[Y])
    b = quick(class_weight={2: 3.0}).fit(X, Y)
    assert np.array_equal(a.predict_proba(X), b.predict_proba(X))


@pytest.mark.parametrize(
    ("weights", "message"),
    [({9: 1.0}, "the class 9"), ({0: -1.0}, ">= 0"), ({0: math.nan}, "finite"), ({0: "heavy"}, "'heavy'")],
)
def test_bad_class_weights_are_refused(weights, message):
    """Unknown classes, negative and other non-numbers are UsageErrors that name the class."""
    with pytest.raises(UsageError, match=message):
        quick(class_weight=weights).fit(X, Y)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros(150), "(?i)weight.*zero"),
        (-np.ones(150), "(?i)negative"),
        (np.full(150, np.nan), "NaN"),
        (np.ones(3), "shape"),
    ],
)
def test_bad_sample_weights_are_refused(weights, message):
    """All zero, negative, NaN or of another length: a DataError that says which."""
    with pytest.raises(DataError, match=message):
        quick().fit(X, Y, sample_weight=weights)


# --- the optimum of softmax regression --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iris", "digits"])
@pytest.mark.parametrize("weight_decay", [1e-2, 1e-3])
def test_softmax_regression_is_logistic_regression(name, weight_decay):
    """Objective to 1e-8 and coefficients to 1e-4 of LogisticRegression with C = 1 / (n wd); gradient below 1e-8."""
    rows, labels = (X / 8, Y) if name == "iris" else load_digits(return_X_y=True)
    rows = rows / rows.max()
    n = len(rows)
    W, b = weights_of(regression(weight_decay=weight_decay).fit(rows, labels))
    reference = LogisticRegression(C=1 / (n * weight_decay), tol=1e-10, max_iter=20_000).fit(rows, labels)

    def objective(W, b):
        log_proba = log_softmax(rows @ W + b, axis=1)
        return -log_proba[np.arange(n), labels].mean() + 0.5 * weight_decay * (W**2).sum()

    assert objective(W, b) == pytest.approx(objective(reference.coef_.T, reference.intercept_), abs=1e-8)
    np.testing.assert_allclose(W, reference.coef_.T, atol=1e-4)
    error = np.exp(log_softmax(rows @ W + b, axis=1)) - np.eye(len(b))[labels]
    assert abs(rows.T @ error / n + weight_decay * W).max() < 1e-8
    assert abs(error.mean(0)).max() < 1e-8


def test_soft_labels_that_are_one_hot_are_labels():
    """fit_soft on one-hot rows ends at the optimum of fit on the labels."""
    a = regression(weight_decay=1e-2).fit(X, Y)
    b = regression(weight_decay=1e-2).fit_soft(X, np.eye(3)[Y])
    np.testing.assert_allclose(weights_of(a)[0], weights_of(b)[0], atol=1e-5)
    assert a.history_[-1]["loss"] == pytest.approx(b.history_[-1]["loss"], abs=1e-10)
    assert b.classes_.tolist() == [0, 1, 2]


def test_soft_labels_and_smoothing_are_one_thing():
    """label_smoothing=a has the optimum of the soft labels (1 - a) q + a / K, whose mean it predicts."""
    a = regression(weight_decay=1e-2, label_smoothing=0.3).fit(X, Y)
    b = regression(weight_decay=1e-2).fit_soft(X, 0.7 * np.eye(3)[Y] + 0.1)
    np.testing.assert_allclose(weights_of(a)[0], weights_of(b)[0], atol=1e-5)
    np.testing.assert_allclose(b.predict_proba(X).mean(0), [1 / 3] * 3, atol=1e-8)


def test_soft_labels_are_learnt():
    """Networks learn from rows of probabilities, on little data and on more, weights included."""
    rows, labels = load_digits(return_X_y=True)
    soft = 0.9 * np.eye(10)[labels] + 0.01
    clf = quick(hidden_layer_sizes=(32,), max_epochs=12).fit_soft(rows, soft)
    assert clf.score(rows, labels) > 0.85
    assert clf.metrics_["n_held_out"] > 0
    small = quick(max_epochs=30).fit_soft(X, 0.9 * np.eye(3)[Y] + 1 / 30, sample_weight=np.ones(150))
    assert small.score(X, Y) > 0.8


@pytest.mark.parametrize(
    "target",
    [np.full((150, 3), 0.5), np.full((150, 1), 1.0), np.full((149, 3), 1 / 3), np.array([[2.0, -1, 0]] * 150), Y],
)
def test_rows_that_are_no_distributions_are_refused(target):
    """Sums other than 1, negative numbers, one class or another length are DataErrors that say target_proba."""
    with pytest.raises(DataError, match="target_proba"):
        quick().fit_soft(X, target)


# --- validation, early stopping, interruption -------------------------------------------------------------------


def test_the_users_validation_set_is_used():
    """Its rows alone are validated, none are held out of X, and the history has their log loss."""
    clf = quick(calibration=None).fit(X[::2], NAMES[Y[::2]], X_val=X[1::2], y_val=NAMES[Y[1::2]])
    assert clf.metrics_["n_held_out"] == 75
    assert all(line["validation_log_loss"] > 0 for line in clf.history_)
    log_proba = clf.predict_log_proba(X[1::2])
    assert clf.metrics_["log_loss"] == pytest.approx(-log_proba[np.arange(75), Y[1::2]].mean(), rel=1e-5)
    assert clf.metrics_["accuracy"] == pytest.approx(clf.score(X[1::2], NAMES[Y[1::2]]))
    other = quick(calibration=None, max_epochs=1).fit(X[::2], NAMES[Y[::2]], X_val=X[:9], y_val=NAMES[Y[:9]])
    assert other.history_[0]["loss"] == clf.history_[0]["loss"]


def test_validation_weights_count():
    """Validation rows of weight 0 are not validated; weights weigh the log loss."""
    weight = (np.arange(75) % 3 > 0) * 2.0
    a = quick().fit(X[::2], Y[::2], X_val=X[1::2], y_val=Y[1::2], sample_weight_val=weight)
    kept = np.flatnonzero(weight) * 2 + 1
    b = quick().fit(X[::2], Y[::2], X_val=X[kept], y_val=Y[kept])
    assert a.metrics_["n_held_out"] == b.metrics_["n_held_out"] == 50
    assert same_bits(a, b)


def test_validation_labels_that_y_lacks_are_left_out():
    """Rows of classes that are not trained cannot be scored: they are left out, and all of them is an error."""
    clf = quick().fit(X[:100], Y[:100], X_val=X[::5], y_val=Y[::5])
    assert clf.metrics_["n_held_out"] == (Y[::5] < 2).sum()
    with pytest.raises(DataError, match="y_val"):
        quick().fit(X[:100], Y[:100], X_val=X[100:], y_val=Y[100:])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"X_val": X[:9]}, UsageError, "y_val"),
        ({"y_val": Y[:9]}, UsageError, "X_val"),
        ({"sample_weight_val": np.ones(9)}, UsageError, "X_val"),
        ({"X_val": X[:9], "y_val": Y[:8]}, DataError, "inconsistent"),
        ({"X_val": X[:9, :3], "y_val": Y[:9]}, DataError, "3 features"),
        ({"X_val": X[:9], "y_val": np.r_[Y[:8], np.nan]}, DataError, "NaN"),
        ({"X_val": X[:9], "y_val": Y[:9], "sample_weight_val": -np.ones(9)}, DataError, "(?i)negative"),
    ],
)
def test_bad_validation_sets_are_refused(given, error, message):
    """Half a validation set, another length, other columns, missing labels and negative weights are errors."""
    with pytest.raises(error, match=message):
        quick().fit(X, Y, **given)


def test_early_stopping_keeps_the_best_epoch():
    """The kept weights have the least validation log loss of the history, and training stopped after the patience."""
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    clf = quick(
        hidden_layer_sizes=(32,), max_epochs=300, n_iter_no_change=6, dropout=0.0, calibration="temperature"
    ).fit(rows[:30], labels[:30], X_val=rows[30:], y_val=labels[30:])
    losses = [line["validation_log_loss"] for line in clf.history_]
    assert clf.stopped_by_ == "early_stopping"
    assert len(losses) == int(np.argmin(losses)) + 1 + 6 == clf.n_iter_ < 300
    assert clf.metrics_["log_loss"] == pytest.approx(min(losses), rel=1e-4)


def test_without_early_stopping_nothing_is_held_out():
    """early_stopping=False trains on every row for every epoch, and there are no held-out metrics."""
    clf = quick(early_stopping=False).fit(X, Y)
    assert clf.metrics_ == {"log_loss": None, "accuracy": None, "n_held_out": 0}
    assert (clf.n_iter_, clf.stopped_by_, clf.temperature_) == (4, "max_epochs", 1.0)


def test_max_seconds_ends_training():
    """The run ends after the epoch in which the time was up, with a fitted model."""
    clf = quick(max_epochs=1000, max_seconds=1e-9).fit(X, Y)
    assert (clf.stopped_by_, clf.n_iter_) == ("max_seconds", 1)
    assert clf.predict(X).shape == (150,)


def test_interrupt_returns_the_best_so_far():
    """Ctrl-C in an epoch warns, and fit returns a fitted classifier."""

    def on_epoch(line):
        if line["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted"):
        clf = quick(max_epochs=50).fit(X, Y, on_epoch=on_epoch)
    assert (clf.stopped_by_, clf.n_iter_) == ("interrupt", 3)
    np.testing.assert_allclose(clf.predict_proba(X).sum(1), 1)


def test_groups_stay_together():
    """Groups are held out whole; groups of another length or with a missing one are refused."""
    clf = quick().fit(X, Y, groups=np.arange(150) // 5)
    assert clf.metrics_["n_held_out"] % 5 == 0
    named = quick().fit(X, Y, groups=[f"g{i // 5:03d}" for i in range(150)])
    assert same_bits(clf, named)
    for groups in (np.arange(15), np.where(np.arange(150) == 3, np.nan, 1.0), [None] + ["a"] * 149):
        with pytest.raises(DataError, match="groups"):
            quick().fit(X, Y, groups=groups)


@pytest.mark.parametrize("seed", range(3))
def test_uncommon_fractions_hold_out_their_share_of_every_class(seed):
    """validation_fraction=0.15 of 1,500 rows holds out 225 of them, of each of three equal classes 75."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], 500)
    rows = rng.normal(size=(1500, 2)) + labels[:, None]
    clf = quick(validation_fraction=0.15, max_epochs=1, random_state=seed).fit(rows, labels)
    assert clf.metrics_["n_held_out"] == 225


# --- numbers that overflow --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the loss was not finite")
@pytest.mark.filterwarnings("ignore:L-BFGS stopped")
@pytest.mark.parametrize("rate", ["auto", 1e6, 1e39])
@pytest.mark.parametrize("value", [1e20, 1e38, 1e300])
@pytest.mark.parametrize("hidden", [(), (8,)])
def test_weights_are_always_finite(rate, value, hidden):
    """Whatever the numbers and the rate, fit ends with finite weights or a TrainingDivergedError of exit code 5."""
    rows = X.copy()
    rows[5, 1] = value
    clf = quick(hidden_layer_sizes=hidden, learning_rate=rate, features="raw", precision="float32")
    failure = None
    try:
        clf.fit(rows, Y)
    except TrainingDivergedError as error:
        failure = error
    if failure is not None:
        assert failure.exit_code == 5
        assert "features='auto'" in str(failure)
    else:
        assert all(np.isfinite(array).all() for array in clf.model_.params.values())
        assert all(math.isfinite(number) for line in clf.history_ for number in line.values())


def test_divergence_warns_before_it_raises():
    """Three smaller rates are tried, each with a warning, before the error names them."""
    with (
        pytest.warns(UserWarning, match="not finite in epoch 1: back to its start, learning rate") as caught,
        pytest.raises(TrainingDivergedError, match="learning rates from"),
    ):
        quick(learning_rate=1e39, precision="float32", early_stopping=False).fit(X, Y)
    assert len(caught) == 3


def test_features_auto_bounds_every_number():
    """With scaled features a cell of 1e300 neither warns nor spoils the rest."""
    rows = X.copy()
    rows[5, 1] = 1e300
    clf = quick(max_epochs=30).fit(rows, Y)
    assert clf.score(X, Y) > 0.85


# --- probabilities ----------------------------------------------------------------------------------------------


def test_probabilities_are_consistent():
    """Softmax of the logits, exp of the log-probabilities, argmax and classes say the same."""
    clf = quick(n_members=3).fit(X, NAMES[Y])
    z, p, log_p = clf.decision_function(X), clf.predict_proba(X), clf.predict_log_proba(X)
    assert z.shape == p.shape == log_p.shape == (150, 3)
    np.testing.assert_allclose(np.exp(log_softmax(z, axis=1)), p, rtol=1e-12)
    np.testing.assert_allclose(np.exp(log_p), p, rtol=1e-12)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-14)
    assert np.array_equal(clf.predict(X), clf.classes_[p.argmax(1)])


def test_decision_function_of_two_classes_is_one_number():
    """For two classes it is the difference of the logits, the logarithm of the odds, of shape (n,)."""
    clf = quick().fit(X, Y > 0)
    z, p = clf.decision_function(X), clf.predict_proba(X)
    assert z.shape == (150,)
    np.testing.assert_allclose(z, np.log(p[:, 1] / p[:, 0]), atol=1e-8)
    assert np.array_equal(clf.predict(X), z > 0)


def test_log_probabilities_never_underflow():
    """Rows far away have log-probabilities of -1e6 and beyond, and never -inf, where the probabilities are 0."""
    clf = regression().fit(X, Y)
    log_p, p = clf.predict_log_proba(X * 1e9), clf.predict_proba(X * 1e9)
    assert np.isfinite(log_p).all()
    assert log_p.min() < -1e6
    assert p.min() == 0.0


def test_temperature_never_changes_a_prediction():
    """With a temperature every argmax and the order of every row's classes are those without one."""
    plain, warm = (quick(n_members=2, calibration=c).fit(X, Y) for c in (None, "temperature"))
    assert plain.temperature_ == 1.0
    assert warm.temperature_ != 1.0
    assert same_bits(plain, warm)
    assert np.array_equal(plain.predict(X), warm.predict(X))
    np.testing.assert_allclose(plain.decision_function(X), warm.decision_function(X) * warm.temperature_, rtol=1e-9)
    assert warm.metrics_["log_loss"] <= plain.metrics_["log_loss"]


def test_sigmoid_output_gives_independent_confidences():
    """The decision function is ln of K confidences, at most 0; the probabilities are those divided by their sum."""
    for given in ({}, {"n_members": 3}, {"hidden_layer_sizes": (), "max_epochs": 1000}):
        clf = quick(output="sigmoid", **{"max_epochs": 40} | given).fit(X, Y)
        confidence, p = np.exp(clf.decision_function(X)), clf.predict_proba(X)
        assert confidence.max() <= 1
        np.testing.assert_allclose(p, confidence / confidence.sum(1, keepdims=True), rtol=1e-9)
        np.testing.assert_allclose(p.sum(1), 1)
        assert clf.score(X, Y) > 0.8


def test_top_classes_are_those_of_the_probabilities():
    """predict_topk sorts labels by probability, highest first; more than K is K."""
    clf = quick().fit(X, NAMES[Y])
    labels, chances = clf.predict_topk(X, k=2)
    p = clf.predict_proba(X)
    order = np.argsort(-p, axis=1)[:, :2]
    assert np.array_equal(labels, clf.classes_[order])
    np.testing.assert_allclose(chances, np.take_along_axis(p, order, 1))
    assert clf.predict_topk(X, k=99)[0].shape == (150, 3)
    with pytest.raises(UsageError, match="k must be"):
        clf.predict_topk(X, k=0)


def test_prediction_sets_need_calibration():
    """Without it predict_set names the three ways to have it; after calibrate_sets it covers the truth."""
    clf = quick(max_epochs=20).fit(X[::2], NAMES[Y[::2]])
    with pytest.raises(UsageError) as caught:
        clf.predict_set(X)
    for way in ("calibrate_sets", "softmaxnet calibrate", "conformal_fraction"):
        assert way in str(caught.value)
    assert clf.calibrate_sets(X[1::4], NAMES[Y[1::4]]) is clf
    sets = clf.predict_set(X[3::4], coverage=0.9)
    assert len(sets) == len(X[3::4])
    assert np.mean([label in found for label, found in zip(NAMES[Y[3::4]], sets, strict=True)]) > 0.75


@pytest.mark.parametrize("kind", ["array", "frame", "named frame", "sparse", "text", "objects"])
def test_conformal_fraction_prepares_sets_for_any_input(kind):
    """A share of the rows is kept out for sets, of whatever kind the input is, without a warning."""
    text = [f"word{label} filler{i % 7}" for i, label in enumerate(Y)]
    rows = {
        "array": X,
        "frame": pd.DataFrame(X),
        "named frame": FRAME,
        "sparse": scipy.sparse.csr_array(X),
        "text": text,
        "objects": FRAME.to_numpy(object),
    }[kind]
    clf = quick(conformal_fraction=0.3, max_epochs=10).fit(rows, NAMES[Y])
    sets = clf.predict_set(rows, coverage=0.8)
    assert len(sets) == 150
    assert all(set(found) <= set(NAMES) for found in sets)


def test_conformal_rows_are_kept_out_of_training():
    """The rows for sets are not validated either: what is left is held out at its own share."""
    clf = quick(conformal_fraction=0.2).fit(X, Y, groups=np.arange(150))
    assert clf.metrics_["n_held_out"] < 40
    assert same_bits(clf, quick(conformal_fraction=0.2).fit(X, Y, groups=np.arange(150)))


def test_small_networks_predict_in_batches_what_they_predict_whole():
    """Whole, row by row and in batches, probabilities agree to 1e-7."""
    for clf in (quick(n_members=4).fit(X, Y), regression().fit(X, Y), quick().fit(FRAME, Y)):
        rows = FRAME if hasattr(clf, "feature_names_in_") else X
        whole = clf.predict_proba(rows)
        for size in (1, 7, 64):
            parts = [clf.predict_proba(rows[i : i + size]) for i in range(0, 150, size)]
            np.testing.assert_allclose(np.vstack(parts), whole, atol=1e-7)


# --- inputs -----------------------------------------------------------------------------------------------------


TEXTS = ["a good film", "a bad film", "really nice and good", "awful and bad"] * 15
OPINIONS = np.array(["pro", "contra"] * 30)


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        np.array,
        lambda t: np.array(t, dtype=object),
        pd.Series,
        pl.Series,
        lambda t: pd.Series(t, dtype=object),
        lambda t: pd.DataFrame({"text": t}),
    ],
    ids=["list", "tuple", "array", "objects", "pandas", "polars", "pandas object", "frame"],
)
def test_texts_as_they_come(convert):
    """Lists, arrays and Series of strings are texts; all give the same probabilities."""
    clf = quick().fit(convert(TEXTS), OPINIONS)
    p = clf.predict_proba(convert(TEXTS))
    np.testing.assert_allclose(p, quick().fit(TEXTS, OPINIONS).predict_proba(TEXTS), atol=1e-12)


def test_texts_are_learnt():
    """The recipe's own settings tell two opinions apart."""
    words = ["film", "plot", "cast", "music", "light", "story", "end", "start", "joke", "scene"]
    texts = [f"a {opinion} {a} and a {opinion} {b}" for a in words for b in words for opinion in ("good", "bad")]
    opinions = np.array(["pro", "contra"] * 100)
    clf = SoftmaxClassifier(random_state=0, max_epochs=10).fit(texts[:150], opinions[:150])
    assert clf.score(texts[150:], opinions[150:]) == 1.0
    assert clf.metrics_["log_loss"] < 0.2


def test_a_missing_text_is_a_row():
    """None among texts is a text that says nothing, in training and in predicting."""
    clf = quick().fit([*TEXTS, None, None], [*OPINIONS, "pro", "contra"])
    assert clf.predict_proba([None, "good"]).shape == (2, 2)


FRAMES = {
    "pandas": lambda f: f,
    "pandas category": lambda f: f.astype({"size": "category"}),
    "pandas string": lambda f: f.astype({"size": "string"}),
    "polars": pl.from_pandas,
    "polars lazy": lambda f: pl.from_pandas(f).lazy(),
    "arrow": pa.Table.from_pandas,
    "arrow batch": lambda f: pa.RecordBatch.from_pandas(f),
    "mapping": lambda f: f.to_dict("list"),
    "records": lambda f: f.to_dict("records"),
}


@pytest.mark.parametrize("kind", sorted(FRAMES))
def test_frames_as_they_come(kind):
    """Frames of every library, a mapping of columns and a list of records are one and the same input."""
    given = FRAMES[kind](FRAME)
    clf = quick().fit(given, Y)
    assert clf.n_features_in_ == 5
    assert clf.feature_names_in_.tolist() == ["a", "b", "c", "d", "size"]
    assert np.array_equal(clf.predict_proba(given), quick().fit(FRAME, Y).predict_proba(FRAME))


@pytest.mark.parametrize("make", [lambda f: f.to_numpy(object), lambda f: f.to_numpy(object).tolist()])
def test_rows_of_mixed_cells(make):
    """An object array and a list of rows with strings among their cells are a table without names."""
    clf = quick().fit(make(FRAME), Y)
    assert not hasattr(clf, "feature_names_in_")
    assert clf.n_features_in_ == 5
    assert clf.score(make(FRAME), Y) > 0.7


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "lil", "dok"])
def test_sparse_matrices_of_any_format(format):
    """Sparse arrays and matrices of every format give the same model, and dense rows can be predicted with it."""
    rows = scipy.sparse.csr_array(np.where(X > 2, X, 0))
    expected = quick().fit(rows, Y)
    for given in (rows.asformat(format), scipy.sparse.csr_matrix(rows).asformat(format)):
        clf = quick().fit(given, Y)
        assert np.array_equal(clf.predict_proba(given), expected.predict_proba(rows))
    np.testing.assert_allclose(expected.predict_proba(rows.toarray()), expected.predict_proba(rows), atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "longdouble", "int8", "int64", "uint8", "bool", "object"])
def test_matrices_of_any_type(dtype):
    """Numbers of every type, and lists of them, are a matrix."""
    rows = (X > 3).astype(dtype) if dtype == "bool" else np.round(X * 10).astype(dtype)
    clf = quick().fit(rows, Y)
    assert clf.predict(rows).shape == (150,)
    assert np.isfinite(clf.predict_proba(rows.tolist())).all()


def test_images_of_bytes():
    """uint8 images of shape (n, h, w) or (n, h, w, channels) are rows of pixels."""
    images = np.random.default_rng(0).integers(0, 256, (60, 5, 4, 3)).astype(np.uint8)
    labels = np.arange(60) % 2
    images[labels == 1] //= 4
    for given in (images, images[..., 0]):
        clf = quick(max_epochs=20).fit(given, labels)
        assert clf.n_features_in_ == given[0].size
        assert clf.score(given, labels) > 0.9
        np.testing.assert_array_equal(clf.predict(given), clf.predict(given.reshape(60, -1)))


def test_floats_of_three_dimensions_are_refused():
    """Only bytes are images: other arrays of three dimensions raise scikit-learn's message."""
    with pytest.raises(DataError, match="dim 3"):
        quick().fit(np.zeros((10, 2, 2)), np.arange(10) % 2)


def test_torch_tensors_are_arrays():
    """Tensors, of bfloat16 too, are read as the arrays of their values."""
    clf = quick().fit(torch.from_numpy(X), torch.from_numpy(Y))
    assert np.array_equal(clf.predict(torch.from_numpy(X)), clf.predict(X))
    quick().fit(torch.from_numpy(X).bfloat16(), Y)


def test_missing_numbers_are_taken():
    """NaN in X is a missing value, in training and in predicting, also a whole column of them."""
    rows = X.copy()
    rows[::7, 2] = np.nan
    clf = quick(max_epochs=20).fit(rows, Y)
    assert clf.score(rows, Y) > 0.8
    empty = np.c_[X, np.full(150, np.nan)]
    assert quick().fit(empty, Y).predict_proba(np.full((2, 5), np.nan)).shape == (2, 3)


@pytest.mark.parametrize("where", ["array", "frame", "sparse"])
@pytest.mark.parametrize("call", ["fit", "predict", "partial_fit"])
def test_infinite_numbers_are_refused_with_their_place(where, call):
    """An infinite number is a DataError that says so and, outside of sparse matrices, where."""
    rows = X.copy()
    rows[3, 1] = np.inf
    make = {"array": np.asarray, "frame": pd.DataFrame, "sparse": scipy.sparse.csr_array}[where]
    clf = quick().fit(make(X), Y)
    with pytest.raises(DataError, match=r"(?i)infinity|finite") as caught:
        clf.predict(make(rows)) if call == "predict" else getattr(clf, call)(make(rows), Y)
    assert where == "sparse" or "row 3" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (X[:, 0], Y, "Reshape your data"),
        (X * 1j, Y, "Complex data not supported"),
        (X[:0], Y[:0], "0 sample"),
        (FRAME.iloc[:0], Y[:0], "0 sample"),
        (X[:, :0], Y, "0 feature"),
        (pd.DataFrame(X, columns=list("abca")), Y, "'a'"),
        (X, Y[:-1], "inconsistent numbers of samples"),
        (X, None, "requires y"),
        (X, np.zeros(150), "class"),
        (X, np.r_[np.nan, Y[1:]], "NaN"),
        (X, np.r_[np.inf, Y[1:]], "infinity"),
        (X, np.where(Y == 0, None, Y), "missing"),
        (X, X[:, 0] * np.pi, "continuous"),
        (X, np.c_[Y, Y], "1d array"),
        (X, np.array(["a", 1, 2.5], dtype=object)[Y], "types"),
    ],
)
def test_data_that_cannot_be_used_is_refused(rows, labels, message):
    """Shapes, types and labels that cannot be are DataErrors, which are ValueErrors, of exit code 3."""
    with pytest.raises(DataError, match=message) as caught:
        quick().fit(rows, labels)
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == 3


def test_one_class_left_by_the_weights_is_refused():
    """Rows of weight zero leave first; one class left is an error with the word class and the label."""
    with pytest.raises(DataError, match=r"one class only \('virginica'\)"):
        quick().fit(X, NAMES[Y], sample_weight=(Y == 2).astype(float))


# --- labels -----------------------------------------------------------------------------------------------------


LABELS = {
    "strings": NAMES[Y],
    "objects": NAMES.astype(object)[Y],
    "list": NAMES[Y].tolist(),
    "integers": Y,
    "negative": Y - 5,
    "int8": Y.astype(np.int8),
    "uint64": Y.astype(np.uint64),
    "floats": Y + 1.0,
    "bools": Y > 0,
    "series": pd.Series(NAMES[Y], index=np.arange(150) + 7),
    "category": pd.Series(NAMES[Y], dtype="category"),
    "nullable": pd.Series(Y, dtype="Int64"),
    "polars": pl.Series(NAMES[Y].tolist()),
    "arrow": pa.array(NAMES[Y].tolist()),
    "arrow chunks": pa.chunked_array([NAMES[Y[:75]].tolist(), NAMES[Y[75:]].tolist()]),
}


@pytest.mark.parametrize("kind", sorted(LABELS))
def test_labels_of_every_type(kind):
    """Labels of every type come back as they were: classes_ sorted, predictions of their kind, the same model."""
    labels = LABELS[kind]
    clf = quick().fit(X, labels)
    plain = np.asarray(labels)
    assert clf.classes_.tolist() == sorted(set(plain.tolist()))
    predicted = clf.predict(X)
    assert predicted.dtype.kind == clf.classes_.dtype.kind
    assert set(predicted.tolist()) <= set(plain.tolist())
    codes = np.searchsorted(clf.classes_, plain)
    assert np.array_equal(clf.predict_proba(X), quick().fit(X, codes).predict_proba(X))


def test_a_column_of_labels_warns_as_scikit_learn_does():
    """A y of shape (n, 1) is ravelled with scikit-learn's warning."""
    with pytest.warns(sklearn.exceptions.DataConversionWarning):
        clf = quick().fit(X, Y[:, None])
    assert same_bits(clf, quick().fit(X, Y))


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda f: f, pl.from_pandas, pa.Table.from_pandas], ids=["pandas", "polars", "arrow"])
@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function", "predict_topk"])
def test_other_names_raise_scikit_learns_messages(make, method):
    """Reordered, unknown and missing columns raise exactly what scikit-learn's own estimators raise."""
    numbers = FRAME[list("abcd")]
    clf, reference = quick().fit(make(numbers), Y), LogisticRegression(max_iter=500).fit(numbers, Y)
    renamed, wider = numbers.rename(columns={"a": "z"}), numbers.assign(e=1.0)
    for other in (numbers[list("badc")], renamed, numbers[list("abc")], wider):
        with pytest.raises(ValueError) as expected:
            reference.predict(other)
        with pytest.raises(DataError) as caught:
            getattr(clf, method)(make(other))
        assert str(caught.value) == str(expected.value)


def test_arrays_for_frames_and_frames_for_arrays_warn():
    """Without names after names, or the other way round, scikit-learn's warning is given and columns go by position."""
    numbers = FRAME[list("abcd")]
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        a = quick().fit(numbers, Y).predict_proba(X)
    with pytest.warns(UserWarning, match="was fitted without feature names"):
        b = quick().fit(X, Y).predict_proba(numbers)
    np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba", "decision_function"])
def test_another_number_of_features_is_refused(method):
    """Every method says how many features there are and how many it expects."""
    with pytest.raises(DataError, match="X has 3 features, but SoftmaxClassifier is expecting 4 features as input"):
        getattr(quick().fit(X, Y), method)(X[:, :3])


def test_names_are_forgotten_by_a_fit_without_names():
    """feature_names_in_ is that of the last fit."""
    clf = quick().fit(FRAME, Y)
    assert not hasattr(clf.fit(X, Y), "feature_names_in_")
    assert clf.n_features_in_ == 4


@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_topk", "predict_set", "save", "score"])
def test_unfitted_says_so(method):
    """Before fit every method raises scikit-learn's NotFittedError, one of our errors too."""
    with pytest.raises(NotFittedError, match="not fitted yet") as caught:
        getattr(SoftmaxClassifier(), method)(*([X, Y] if method == "score" else [X]))
    assert isinstance(caught.value, SoftmaxError)


# --- parameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_layer_sizes", 8),
        ("hidden_layer_sizes", (0,)),
        ("hidden_layer_sizes", (2.5,)),
        ("hidden_layer_sizes", (True,)),
        ("activation", "step"),
        ("output", "linear"),
        ("n_members", 0),
        ("dropout", 1.0),
        ("solver", "sgd"),
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("weight_decay", -1),
        ("batch_size", 2.5),
        ("max_epochs", 0),
        ("early_stopping", "no"),
        ("validation_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("n_iter_no_change", 0),
        ("features", "scaled"),
        ("learning_rate_schedule", "step"),
        ("class_weight", "even"),
        ("label_smoothing", 1.0),
        ("calibration", "isotonic"),
        ("conformal_fraction", 1.0),
        ("max_seconds", 0),
        ("precision", "float16"),
        ("device", 3),
        ("n_jobs", 0),
        ("n_jobs", 1.5),
        ("random_state", "seed"),
        ("warm_start", "yes"),
        ("verbose", "loud"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_soft"])
def test_bad_parameters_are_refused_in_scikit_learns_words(name, value, method):
    """A value that cannot be is a UsageError, worded as scikit-learn's, when fit is called and not before."""
    clf = SoftmaxClassifier(**{name: value})
    with pytest.raises(UsageError, match=f"The '{name}' parameter of SoftmaxClassifier must be") as caught:
        getattr(clf, method)(X, np.eye(3)[Y] if method == "fit_soft" else Y)
    assert caught.value.exit_code == 2


def test_every_parameter_has_an_effect_on_the_network():
    """Layers, activation, members, output, precision and the rest arrive in the model and its settings."""
    given = {
        "hidden_layer_sizes": [7, 5],
        "activation": "gelu",
        "n_members": 2,
        "dropout": 0.2,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "batch_size": 20,
        "max_epochs": 2,
        "n_iter_no_change": 7,
        "learning_rate_schedule": "cosine",
        "label_smoothing": 0.05,
        "calibration": None,
        "precision": "float32",
        "solver": "adam",
    }
    clf = SoftmaxClassifier(**given).fit(X, Y)
    settings = clf.model_.settings
    assert {name: settings[name] for name in given} == given
    spec = clf.model_.spec
    assert (spec.hidden_layer_sizes, spec.activation, spec.n_members) == ((7, 5), "gelu", 2)
    assert clf.model_.params["layers.0.weight"].dtype == np.float32


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("hidden", [(), (3,), (64, 64)])
@pytest.mark.filterwarnings("ignore:L-BFGS stopped")
def test_layers_that_are_asked_for_are_what_is_trained(solver, hidden):
    """No recipe replaces explicit layers by others, whatever the solver, on two rows or on 150."""
    for rows in (slice(None), [0, 60]):
        clf = SoftmaxClassifier(hidden, solver=solver, n_members=1, max_epochs=2).fit(X[rows], Y[rows])
        assert clf.model_.spec.hidden_layer_sizes == hidden


def test_verbose_prints_lines_and_silence_is_the_default(capfd):
    """verbose=0 prints nothing; verbose=1 a line for each epoch on standard error, with the time left."""
    quick().fit(X, Y)
    SoftmaxClassifier((), random_state=0).fit(X, Y)
    assert capfd.readouterr() == ("", "")
    seen = []
    quick(verbose=1).fit(X, Y, on_epoch=seen.append)
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == len(seen) == 4
    assert "epoch 1/4" in err
    assert "left" in err


# --- going on ---------------------------------------------------------------------------------------------------


def test_partial_fit_learns_batch_by_batch():
    """Batches are learnt one after the other; the features of the first call stay."""
    rows, labels = load_digits(return_X_y=True)
    clf = quick(hidden_layer_sizes=(32,))
    for epoch in range(3):
        for start in range(0, 1500, 100):
            clf.partial_fit(rows[start : start + 100], labels[start : start + 100], classes=np.arange(10))
            if epoch == start == 0:
                encoder, first = clf.model_.encoder, clf.score(rows[1500:], labels[1500:])
    assert clf.model_.encoder is encoder
    assert clf.score(rows[1500:], labels[1500:]) > first + 0.3
    assert (clf.temperature_, clf.n_iter_) == (1.0, 45)


def test_partial_fit_needs_its_classes():
    """The first call names every class; others, unseen labels and no classes at all are refused."""
    with pytest.raises(UsageError, match="classes must be passed on the first call to partial_fit"):
        quick().partial_fit(X, Y)
    clf = quick().partial_fit(X[:60], NAMES[Y[:60]], classes=NAMES)
    assert clf.classes_.tolist() == sorted(NAMES)
    with pytest.raises(DataError, match="label that classes does not have"):
        clf.partial_fit(X[:2], ["setosa", "rosa"])
    with pytest.raises(UsageError, match="not the same as"):
        clf.partial_fit(X[:2], NAMES[Y[:2]], classes=["setosa", "rosa"])
    with pytest.raises(DataError, match="features"):
        clf.partial_fit(X[:2, :3], NAMES[Y[:2]])
    clf.partial_fit(X[:1], NAMES[Y[:1]])


def test_partial_fit_is_deterministic_and_forgotten_by_fit():
    """The same batches give the same bits; a fit afterwards begins anew."""
    a, b = (quick().partial_fit(X, Y, classes=[0, 1, 2]).partial_fit(X[::2], Y[::2]) for _ in range(2))
    assert same_bits(a, b)
    assert same_bits(a.fit(X, Y), quick().fit(X, Y))


@pytest.mark.parametrize("given", [{}, {"hidden_layer_sizes": (), "max_epochs": 500}, {"n_members": 3}])
def test_partial_fit_goes_on_after_fit(given):
    """After fit the same network goes on from its weights, with its features and its calibration."""
    clf = quick(**{"max_epochs": 30} | given).fit(X, Y)
    before, temperature, spec, encoder = clf.predict_proba(X), clf.temperature_, clf.model_.spec, clf.model_.encoder
    clf.partial_fit(X[:20], Y[:20])
    after = clf.predict_proba(X)
    assert (clf.model_.spec, clf.model_.encoder) == (spec, encoder)
    assert clf.temperature_ == temperature
    assert 0 < abs(after - before).max() < 0.5
    assert clf.score(X, Y) > 0.75


@pytest.mark.parametrize("copied", [lambda c: pickle.loads(pickle.dumps(c)), copy.deepcopy])
@pytest.mark.parametrize("how", ["partial_fit", "warm_start"])
def test_a_copy_goes_on_as_the_original_does(copied, how):
    """A pickled or copied classifier that can go on does so to the same bits."""
    clf = quick(warm_start=how == "warm_start")
    go_on = clf.fit if how == "warm_start" else clf.partial_fit
    go_on(FRAME, Y, **{} if how == "warm_start" else {"classes": [0, 1, 2]})
    twin = copied(clf)
    for _ in range(2):
        go_on(FRAME, Y)
        twin.fit(FRAME, Y) if how == "warm_start" else twin.partial_fit(FRAME, Y)
    assert same_bits(clf, twin)
    assert clf.n_iter_ == twin.n_iter_


@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_warm_start_goes_on_to_the_same_bits(kind):
    """With a constant rate and nothing held out, n and then m epochs are n + m, to the last bit."""
    rows, labels = (X, Y) if kind == "numbers" else (TEXTS, OPINIONS)
    given = {"learning_rate_schedule": "constant", "early_stopping": False, "dropout": 0.2}
    whole = quick(max_epochs=7, **given).fit(rows, labels)
    parts = quick(max_epochs=3, warm_start=True, **given).fit(rows, labels)
    parts.set_params(max_epochs=4).fit(rows, labels)
    assert same_bits(whole, parts)
    assert (parts.n_iter_, len(parts.history_)) == (7, 4)


def test_warm_start_goes_on_with_other_rows():
    """Rows may be others, more than count as little data too; the features are those of the first fit."""
    rows, labels = load_digits(return_X_y=True)
    clf = quick(warm_start=True).fit(rows[:500], labels[:500])
    encoder = clf.model_.encoder
    clf.fit(rows, labels)
    assert clf.model_.encoder is encoder
    assert clf.n_iter_ == 8


def test_warm_start_refuses_what_would_be_another_network():
    """Other classes or explicit other layers cannot go on: a UsageError says so; "auto" takes what is there."""
    clf = quick(warm_start=True).fit(X, Y)
    with pytest.raises(UsageError, match=r"warm_start.*classes"):
        clf.fit(X[:100], Y[:100])
    with pytest.raises(UsageError, match=r"warm_start.*hidden_layer_sizes is \(8,\)"):
        clf.set_params(hidden_layer_sizes=(9,)).fit(X, Y)
    assert clf.set_params(hidden_layer_sizes="auto", n_members="auto").fit(X, Y).model_.spec.hidden_layer_sizes == (8,)


def test_fit_begins_anew_without_warm_start():
    """A second fit has nothing of the first."""
    clf = quick().fit(FRAME, NAMES[Y])
    assert same_bits(clf.fit(X, Y), quick().fit(X, Y))
    assert clf.classes_.tolist() == [0, 1, 2]


# --- scikit-learn's tools ---------------------------------------------------------------------------------------


def test_pipeline_search_and_cross_validation():
    """Pipeline, GridSearchCV, cross_val_predict and CalibratedClassifierCV take it as any classifier."""
    pipeline = make_pipeline(StandardScaler(), quick(max_epochs=20)).fit(X, Y)
    assert pipeline.score(X, Y) > 0.8
    grid = {"dropout": [0.0, 0.2], "activation": ["relu", "tanh"]}
    search = GridSearchCV(quick(), grid, cv=2, scoring="neg_log_loss")
    assert set(search.fit(X, Y).best_params_) == {"dropout", "activation"}
    assert cross_val_predict(quick(), FRAME, NAMES[Y], cv=3, method="predict_proba").shape == (150, 3)
    calibrated = CalibratedClassifierCV(quick(), cv=2, method="sigmoid").fit(X, Y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(1), 1)


def test_metadata_is_routed():
    """sample_weight, X_val and y_val reach fit through a pipeline, X_val transformed on its way."""
    with sklearn.config_context(enable_metadata_routing=True):
        clf = quick().set_fit_request(sample_weight=True, X_val=True, y_val=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = Pipeline([("scale", scaler), ("classify", clf)], transform_input=["X_val"])
        weight = np.linspace(0.5, 1.5, 100)
        pipeline.fit(X[:100], Y[:100], sample_weight=weight, X_val=X[::5], y_val=Y[::5])
        scale = StandardScaler().fit(X[:100]).transform
        expected = quick().fit(scale(X[:100]), Y[:100], weight, X_val=scale(X[::5]), y_val=Y[::5])
        assert same_bits(pipeline[-1], expected)
        clf = quick().set_fit_request(groups=True, sample_weight=True).set_score_request(sample_weight=True)
        params = {"groups": np.arange(150) // 5, "sample_weight": np.ones(150)}
        assert len(cross_validate(clf, X, Y, cv=GroupKFold(3), params=params)["test_score"]) == 3


def test_clone_has_parameters_and_nothing_fitted():
    """A clone has the constructor's parameters as they were given, and no weights, after warm starts either."""
    clf = quick(warm_start=True, class_weight={0: 2.0}, hidden_layer_sizes=[8]).fit(X, Y)
    twin = clone(clf)
    assert twin.get_params() == clf.get_params()
    assert vars(twin).keys() == twin.get_params().keys()


@pytest.mark.parametrize("given", [{}, {"conformal_fraction": 0.2, "n_members": 2}])
def test_pickle_joblib_and_read_only_maps_predict_the_same(tmp_path, given):
    """Pickled, copied and loaded from a read-only memory map, a classifier predicts the same bits."""
    clf = quick(**given).fit(FRAME, NAMES[Y])
    expected = clf.predict_proba(FRAME)
    joblib.dump(clf, tmp_path / "clf.joblib")
    for twin in (
        pickle.loads(pickle.dumps(clf)),
        copy.deepcopy(clf),
        joblib.load(tmp_path / "clf.joblib"),
        joblib.load(tmp_path / "clf.joblib", mmap_mode="r"),
    ):
        assert np.array_equal(twin.predict_proba(FRAME), expected)
        assert repr(twin) == repr(clf)


def test_stream_goes_on_from_a_read_only_map(tmp_path):
    """A classifier in the middle of a stream, loaded from a read-only memory map, goes on to the same bits."""
    clf = quick().partial_fit(X, Y, classes=[0, 1, 2])
    joblib.dump(clf, tmp_path / "clf.joblib")
    twin = joblib.load(tmp_path / "clf.joblib", mmap_mode="r")
    assert same_bits(clf.partial_fit(X, Y), twin.partial_fit(X, Y))


@pytest.mark.parametrize("kind", ["numbers", "frame", "sparse", "text"])
def test_the_saved_model_predicts_the_same_without_torch(tmp_path, kind):
    """What load_model reads in a process without torch and scikit-learn predicts the classifier's probabilities."""
    rows = {"numbers": X, "frame": FRAME, "sparse": scipy.sparse.csr_array(X), "text": TEXTS}[kind]
    labels = OPINIONS if kind == "text" else NAMES[Y]
    clf = quick().fit(rows, labels)
    path = tmp_path / "model.safetensors"
    clf.save(path)
    expected = clf.predict_proba(rows)
    assert np.array_equal(load_model(path).predict_proba(rows), expected)
    (tmp_path / "rows.pickle").write_bytes(pickle.dumps(pa.Table.from_pandas(rows) if kind == "frame" else rows))
    code = (
        "import sys, pickle, numpy as np\n"
        "sys.modules['torch'] = sys.modules['sklearn'] = None\n"
        "from softmaxnet import load_model\n"
        f"model = load_model({str(path)!r})\n"
        f"rows = pickle.load(open({str(tmp_path / 'rows.pickle')!r}, 'rb'))\n"
        f"np.save({str(tmp_path / 'proba.npy')!r}, model.predict_proba(rows))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert np.array_equal(np.load(tmp_path / "proba.npy"), expected)


def test_html_and_text_representations():
    """The repr shows what was given; the HTML form exists for a fitted classifier."""
    assert repr(SoftmaxClassifier((5,), dropout=0.1)) == "SoftmaxClassifier(dropout=0.1, hidden_layer_sizes=(5,))"
    assert "SoftmaxClassifier" in quick().fit(X, Y)._repr_html_()
