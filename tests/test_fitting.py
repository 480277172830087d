"""From encoded rows and a plan to a trained, calibrated network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, load_iris

torch = pytest.importorskip("torch")

from softmaxnet.data.split import stratified_holdout
from softmaxnet.features.encoded import Encoded
from softmaxnet.fitted import Examples, state_of
from softmaxnet.fitting import fit_network, operations_per_step
from softmaxnet.little_data import canonical
from softmaxnet.network import forward
from softmaxnet.recipe import DEFAULTS, DataShape, resolve
from softmaxnet.softmax import cross_entropy, log_softmax


def make_examples(X, target, weight=None, sparse=None, groups=None) -> Examples:
    """Return rows whose features are the numbers as they are."""
    weight = np.ones(len(target)) if weight is None else np.asarray(weight, dtype=float)
    return Examples(Encoded(np.ascontiguousarray(X), 1.0, sparse), np.asarray(target), weight, groups)


def make_plan(examples: Examples, n_classes: int, has_validation: bool = False, **given):
    """Return the recipe's plan for rows, with settings given."""
    sparse = examples.encoded.sparse
    shape = DataShape(
        len(examples),
        examples.encoded.dense.shape[1],
        0 if sparse is None else sparse.shape[1],
        n_classes,
        active=0.0 if sparse is None else sparse.nnz / len(examples),
        has_validation=has_validation,
        soft_targets=examples.target.ndim == 2,
    )
    return resolve(shape, DEFAULTS | given)


@pytest.fixture(scope="module")
def iris() -> Examples:
    """Return iris, standardised."""
    X, labels = load_iris(return_X_y=True)
    return make_examples((X - X.mean(0)) / X.std(0), labels)


@pytest.fixture(scope="module")
def digits() -> Examples:
    """Return digits, more rows than count as little data."""
    X, labels = load_digits(return_X_y=True)
    return make_examples(X / 16, labels)


def logits_of(fitted, examples: Examples):
    """Return the calibrated logits of a fit."""
    raw = forward(fitted.spec, fitted.params, examples.encoded.dense, examples.encoded.sparse)
    return fitted.calibration.transform(raw)


def same_params(a, b) -> bool:
    """Whether two fits have the same parameters to the last bit."""
    return all(np.array_equal(a.params[name], b.params[name]) for name in a.params)


# --- equal rows are one row of their weight ---------------------------------------------------------------------


@given(st.integers(0, 2**31))
@settings(max_examples=25)
def test_canonical_rows_do_not_depend_on_how_the_data_were_written(seed):
    """Copies or weights, in any order, with -0.0 or 0.0: the same rows, to the last bit, with the same weights."""
    rng = np.random.default_rng(seed)
    n = 12
    X = rng.integers(-1, 2, (n, 2)).astype(float)
    block = scipy.sparse.csr_array(rng.integers(0, 2, (n, 5)).astype(float))
    labels, groups, weight = rng.integers(0, 2, n), rng.integers(0, 2, n), rng.integers(1, 4, n)
    copies = rng.permutation(np.repeat(np.arange(n), weight))
    first = canonical(make_examples(X, labels, weight, block, groups))
    negative_zeros = np.where(X == 0, -0.0, X)
    second = canonical(make_examples(negative_zeros[copies], labels[copies], None, block[copies], groups[copies]))
    assert np.array_equal(first.encoded.dense, second.encoded.dense)
    assert np.array_equal(first.encoded.sparse.toarray(), second.encoded.sparse.toarray())
    assert np.array_equal(first.target, second.target)
    assert np.array_equal(first.groups, second.groups)
    assert np.array_equal(first.weight, second.weight)
    assert first.weight.sum() == weight.sum()
    whole = np.hstack([first.encoded.dense, first.encoded.sparse.toarray(), np.c_[first.target, first.groups]])
    assert len(np.unique(whole, axis=0)) == len(first)


def test_canonical_pixels_become_their_values():
    """Bytes with a scale come out as float64 values with the scale 1."""
    examples = Examples(Encoded(np.array([[0, 255]], np.uint8), 1 / 255, None), np.array([1]), np.ones(1))
    rows = canonical(examples)
    assert rows.encoded.dense.dtype == np.float64
    assert rows.encoded.dense_scale == 1.0
    assert rows.encoded.dense.tolist() == [[0.0, 1.0]]


def test_canonical_keeps_wide_sparse_blocks_sparse():
    """A block of ten million columns is sorted without being written out."""
    block = scipy.sparse.csr_array(([1.0, 2.0, 1.0], [5, 9_999_999, 5], [0, 1, 2, 3]), shape=(3, 10_000_000))
    rows = canonical(make_examples(np.zeros((3, 0)), [0, 0, 0], None, block))
    assert sorted(rows.weight.tolist()) == [1.0, 2.0]


def test_taking_rows_takes_of_every_part(iris):
    """Features, sparse block, targets, weights and groups of the rows that are taken, in their order."""
    block = scipy.sparse.random(150, 6, 0.3, "csr")
    examples = make_examples(iris.encoded.dense, iris.target, np.arange(150), block, np.arange(150) % 7)
    rows = np.array([5, 3, 3])
    part = examples.take(rows)
    assert len(part) == 3
    assert np.array_equal(part.encoded.dense, examples.encoded.dense[rows])
    assert np.array_equal(part.encoded.sparse.toarray(), block.toarray()[rows])
    assert part.weight.tolist() == [5, 3, 3]
    assert part.groups.tolist() == [5, 3, 3]


# --- what is held out -------------------------------------------------------------------------------------------


def test_held_out_rows_are_not_trained_on(digits):
    """Other features of the rows that are held out change the parameters after an epoch by no bit."""
    plan = make_plan(digits, 10, hidden_layer_sizes=(16,), n_members=1, max_epochs=1)
    held_out = stratified_holdout(digits.target, plan.validation_fraction, 3)
    changed = digits.encoded.dense.copy()
    changed[held_out] += 5.0
    a = fit_network(digits, 10, plan, seed=3)
    b = fit_network(make_examples(changed, digits.target), 10, plan, seed=3)
    assert a.metrics["n_held_out"] == held_out.sum()
    assert same_params(a, b)
    changed = digits.encoded.dense.copy()
    changed[~held_out] += 5.0
    assert not same_params(a, fit_network(make_examples(changed, digits.target), 10, plan, seed=3))


def test_the_users_validation_rows_leave_all_others_to_training(digits):
    """With validation rows of the user every example is trained on, and the metrics are those of the user's rows."""
    held_out = np.arange(len(digits)) % 5 == 0
    training, validation = digits.take(~held_out), digits.take(held_out)
    plan = make_plan(training, 10, True, hidden_layer_sizes=(16,), n_members=2, max_epochs=3, calibration=None)
    fitted = fit_network(training, 10, plan, seed=0, validation=validation)
    assert fitted.metrics["n_held_out"] == held_out.sum()
    z = logits_of(fitted, validation)
    assert fitted.metrics["log_loss"] == pytest.approx(cross_entropy(z, validation.target), rel=1e-4)
    assert fitted.metrics["accuracy"] == pytest.approx(np.mean(z.argmax(1) == validation.target))
    alone = fit_network(training, 10, replace(plan, validation="none"), seed=0)
    assert alone.metrics["n_held_out"] == 0
    assert alone.history[0]["loss"] == fitted.history[0]["loss"]


def test_little_data_is_validated_whole(iris):
    """In folds every row but lonely ones is validated by members that did not see it."""
    distinct = len(canonical(iris))
    plan = make_plan(iris, 3, hidden_layer_sizes=(8,), max_epochs=4)
    assert plan.validation == "folds"
    fitted = fit_network(iris, 3, plan, seed=0)
    assert fitted.metrics["n_held_out"] == distinct
    assert fitted.spec.n_members == plan.n_members
    assert all("validation_log_loss" in line for line in fitted.history)


def test_classes_of_one_row_are_trained_on(iris):
    """Classes with a row each are learnt and not validated; where every class is one, nothing is held out."""
    X = np.vstack([iris.encoded.dense, [[9.0, 9, 9, 9], [-9.0, 9, -9, 9]]])
    labels = np.r_[iris.target, 3, 4]
    examples = make_examples(X, labels)
    for given_ in ({"hidden_layer_sizes": (16,), "max_epochs": 60}, {"hidden_layer_sizes": ()}):
        fitted = fit_network(examples, 5, make_plan(examples, 5, **given_), seed=0)
        assert fitted.metrics["n_held_out"] == len(canonical(iris))
        assert logits_of(fitted, examples).argmax(1)[-2:].tolist() == [3, 4]
    few = make_examples(np.eye(4), np.arange(4))
    fitted = fit_network(few, 4, make_plan(few, 4), seed=0)
    assert fitted.metrics == {"log_loss": None, "accuracy": None, "n_held_out": 0}
    assert logits_of(fitted, few).argmax(1).tolist() == [0, 1, 2, 3]


def test_groups_are_held_out_whole(digits):
    """A held-out group is whole: other features of it change nothing after an epoch."""
    groups = np.arange(len(digits)) // 30
    examples = make_examples(digits.encoded.dense, digits.target, groups=groups)
    plan = make_plan(examples, 10, hidden_layer_sizes=(8,), n_members=1, max_epochs=1)
    held_out = stratified_holdout(digits.target, plan.validation_fraction, 0, groups)
    assert 0.03 < held_out.mean() < 0.2
    changed = digits.encoded.dense.copy()
    changed[held_out] = 1.0
    a = fit_network(examples, 10, plan, seed=0)
    assert same_params(a, fit_network(make_examples(changed, digits.target, groups=groups), 10, plan, seed=0))


# --- solvers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("n_rows", [150, 1797])
def test_penalty_is_on_the_weights_themselves(iris, digits, n_rows, early_stopping):
    """Under L-BFGS the objective is mean loss + weight_decay / 2 |W|^2 on every path: its gradient ends at 0."""
    examples = iris if n_rows == 150 else digits
    n_classes = int(examples.target.max()) + 1
    plan = make_plan(
        examples, n_classes, hidden_layer_sizes=(), weight_decay=0.01, early_stopping=early_stopping, calibration=None
    )
    fitted = fit_network(examples, n_classes, plan, seed=0)
    assert (fitted.stopped_by, fitted.plan.weight_decay) == ("converged", 0.01)
    X, q, W = examples.encoded.dense, np.eye(n_classes)[examples.target], fitted.params["layers.0.weight"][0]
    p = np.exp(log_softmax(X @ W + fitted.params["layers.0.bias"][0]))
    assert abs(X.T @ (p - q) / n_rows + 0.01 * W).max() < 1e-8


@pytest.mark.parametrize("case", ["no early stopping", "user's validation", "soft targets"])
def test_softmax_regression_is_always_penalised(iris, case):
    """Where nothing is there to choose a penalty by, it is 1 / n: separable classes do not send weights to infinity."""
    q = np.eye(3)[iris.target]
    examples = make_examples(iris.encoded.dense, q) if case == "soft targets" else iris
    validation = iris.take(np.arange(0, 150, 3)) if case == "user's validation" else None
    plan = make_plan(
        examples, 3, validation is not None, hidden_layer_sizes=(), early_stopping=case != "no early stopping"
    )
    fitted = fit_network(examples, 3, plan, seed=0, validation=validation)
    assert fitted.plan.weight_decay == pytest.approx(1 / 150)
    assert abs(fitted.params["layers.0.weight"]).max() < 10


def test_hidden_layers_under_lbfgs_stay(iris):
    """L-BFGS with hidden layers trains those layers, on little data too."""
    plan = make_plan(iris, 3, hidden_layer_sizes=(5,), solver="lbfgs", weight_decay=0.01, max_epochs=5000)
    fitted = fit_network(iris, 3, plan, seed=0)
    assert fitted.spec.hidden_layer_sizes == (5,)
    assert fitted.stopped_by == "converged"
    assert np.mean(logits_of(fitted, iris).argmax(1) == iris.target) > 0.95


def test_soft_targets_that_are_one_hot_are_labels(iris):
    """Softmax regression on one-hot rows ends where it ends on labels."""
    given_ = {"hidden_layer_sizes": (), "weight_decay": 0.01, "early_stopping": False}
    hot = make_examples(iris.encoded.dense, np.eye(3)[iris.target])
    a = fit_network(iris, 3, make_plan(iris, 3, **given_), seed=0)
    b = fit_network(hot, 3, make_plan(hot, 3, **given_), seed=0)
    np.testing.assert_allclose(a.params["layers.0.weight"], b.params["layers.0.weight"], atol=1e-6)
    assert a.history[0]["loss"] == pytest.approx(b.history[0]["loss"], abs=1e-10)


def test_smoothing_is_smoothing_in_every_fold_too(iris):
    """The temperature is found on logits of the same smoothing, so that smoothed probabilities come out calibrated."""
    plan = make_plan(iris, 3, hidden_layer_sizes=(), label_smoothing=0.4)
    fitted = fit_network(iris, 3, plan, seed=0)
    plain = fit_network(iris, 3, replace(plan, calibration=None), seed=0)
    loss, uncalibrated = (cross_entropy(logits_of(f, iris), iris.target) for f in (fitted, plain))
    assert loss < 0.9 * uncalibrated
    assert loss < 1.1 * fitted.metrics["log_loss"]


def test_weights_have_no_unit(digits):
    """Weights times a power of two are the same weights, to the last bit."""
    weight = np.random.default_rng(0).uniform(0.5, 2, len(digits))
    plan = make_plan(digits, 10, hidden_layer_sizes=(8,), n_members=1, max_epochs=2)
    fits = [
        fit_network(make_examples(digits.encoded.dense, digits.target, c * weight), 10, plan, seed=0)
        for c in (1.0, 1024.0)
    ]
    assert same_params(*fits)
    assert fits[0].metrics == fits[1].metrics


def test_time_and_interrupts_end_a_full_batch_fit_too(digits):
    """max_seconds ends L-BFGS with the best so far, and the fit says so."""
    plan = make_plan(digits, 10, hidden_layer_sizes=(), max_seconds=1e-9)
    fitted = fit_network(digits, 10, plan, seed=0)
    assert fitted.stopped_by == "max_seconds"
    assert fitted.history[-1]["loss"] < np.log(10)


# --- calibration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_", [{"hidden_layer_sizes": ()}, {"hidden_layer_sizes": (16,), "max_epochs": 8}])
def test_temperature_lowers_the_held_out_log_loss_and_keeps_every_argmax(iris, given_):
    """The calibrated held-out log loss is at most the uncalibrated one, and no prediction changes."""
    fits = {
        method: fit_network(iris, 3, make_plan(iris, 3, calibration=method, **given_), seed=0)
        for method in (None, "temperature")
    }
    assert same_params(fits[None], fits["temperature"])
    assert fits[None].calibration.temperature == 1.0
    assert fits["temperature"].metrics["log_loss"] <= fits[None].metrics["log_loss"]
    assert fits["temperature"].metrics["accuracy"] == fits[None].metrics["accuracy"]
    z = [logits_of(fitted, iris) for fitted in fits.values()]
    assert np.array_equal(z[0].argmax(1), z[1].argmax(1))


def test_soft_targets_and_sigmoid_outputs_are_not_calibrated(digits):
    """Neither rows of probabilities nor independent confidences get a temperature."""
    soft = make_examples(digits.encoded.dense, 0.9 * np.eye(10)[digits.target] + 0.01)
    for examples, more in ((soft, {}), (digits, {"output": "sigmoid"})):
        plan = make_plan(examples, 10, hidden_layer_sizes=(8,), n_members=1, max_epochs=3, **more)
        fitted = fit_network(examples, 10, plan, seed=0)
        assert fitted.calibration.method == "none"
        assert fitted.metrics["n_held_out"] > 0
        assert np.isfinite(fitted.metrics["log_loss"])


# --- going on ---------------------------------------------------------------------------------------------------


def test_going_on_takes_the_epochs_that_are_left(digits):
    """Two fits of two and three epochs with the state handed on are one of five, to the last bit."""
    given_ = {"hidden_layer_sizes": (8,), "early_stopping": False, "learning_rate_schedule": "constant"}
    plan = make_plan(digits, 10, max_epochs=5, **given_)
    whole = fit_network(digits, 10, plan, seed=4)
    part = fit_network(digits, 10, replace(plan, max_epochs=2), seed=4)
    rest = fit_network(digits, 10, replace(plan, max_epochs=3), seed=99, state=part.state)
    assert same_params(whole, rest)
    assert (rest.n_iter, len(rest.history)) == (5, 3)


def test_a_state_made_of_a_fit_computes_what_the_fit_does(digits):
    """Parameters that go back into a state, through the scales of its parametrisation, are the same network."""
    block = scipy.sparse.random(len(digits), 7, 0.3, "csr", rng=np.random.default_rng(0), dtype=np.float32)
    examples = make_examples(digits.encoded.dense, digits.target, sparse=block)
    plan = make_plan(examples, 10, hidden_layer_sizes=(8,), max_epochs=2)
    fitted = fit_network(examples, 10, plan, seed=0)
    state = state_of(fitted.spec, fitted.params, plan, 0)
    for name, value in state.parameters.effective().items():
        np.testing.assert_allclose(value.numpy(), fitted.params[name], rtol=1e-6)


def test_operations_count_six_for_each_weight_and_row(iris):
    """A batch of 32 rows through 4-8-3 with two members is 6 * 32 * 2 * (32 + 24) operations."""
    plan = make_plan(iris, 3, hidden_layer_sizes=(8,), n_members=2, batch_size=32)
    assert operations_per_step(iris, 3, plan) == 6 * 32 * 2 * (4 * 8 + 8 * 3)
