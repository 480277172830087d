"""Full-batch L-BFGS against scikit-learn's LogisticRegression, and how it stops."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import approx_fprime
from scipy.special import log_softmax
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression

torch = pytest.importorskip("torch")

import softmaxnet.full_batch
from softmaxnet.batches import Rows
from softmaxnet.errors import TrainingDivergedError
from softmaxnet.full_batch import _Objective, minimise
from softmaxnet.network import NetworkSpec
from softmaxnet.parameters import Parameters, scaled_spec


def make_rows(X, labels, weight=None, sparse=None) -> Rows:
    """Return float64 rows."""
    weight = np.ones(len(labels)) if weight is None else weight
    return Rows(
        torch.from_numpy(np.ascontiguousarray(X, dtype=np.float64)),
        torch.from_numpy(np.asarray(labels)),
        torch.from_numpy(weight),
        sparse=sparse,
    )


def make_parameters(spec: NetworkSpec, seed: int = 0) -> Parameters:
    """Return initialised float64 parameters."""
    parameters = Parameters(scaled_spec(spec, "standard"), dtype=torch.float64)
    parameters.initialise(np.random.default_rng(seed))
    return parameters


def objective(X, labels, weight, W, b, weight_decay: float) -> float:
    """Return mean cross-entropy plus half the weight decay times the squared weights, biases free."""
    log_proba = log_softmax(X @ W + b, axis=1)
    loss = -np.average(log_proba[np.arange(len(labels)), labels], weights=weight)
    return float(loss + 0.5 * weight_decay * (W**2).sum())


def iris_or_digits(name: str):
    """Return numbers in 0 to 1 with labels: 150 rows of 4, or 500 rows of 64."""
    X, labels = load_iris(return_X_y=True) if name == "iris" else load_digits(return_X_y=True)
    return X[:500] / X[:500].max(), labels[:500]


@pytest.mark.parametrize("name", ["iris", "digits"])
@pytest.mark.parametrize("weight_decay", [0.1, 1e-3])
def test_softmax_regression_is_logistic_regression(name, weight_decay):
    """The objective is LogisticRegression's with C = 1 / (n wd) to 1e-8, its coefficients to 1e-4, biases centred."""
    X, labels = iris_or_digits(name)
    n, k = len(X), len(np.unique(labels))
    parameters = make_parameters(NetworkSpec(X.shape[1], 0, k))
    found = minimise(parameters, make_rows(X, labels), weight_decay=weight_decay)
    reference = LogisticRegression(C=1 / (n * weight_decay), tol=1e-10, max_iter=20_000).fit(X, labels)
    ones = np.ones(n)
    theirs = objective(X, labels, ones, reference.coef_.T, reference.intercept_, weight_decay)
    W, b = parameters.views["layers.0.weight"][0].numpy(), parameters.views["layers.0.bias"][0].numpy()
    assert found.objective == pytest.approx(objective(X, labels, ones, W, b, weight_decay), abs=1e-12)
    assert found.objective == pytest.approx(theirs, abs=1e-8)
    np.testing.assert_allclose(W, reference.coef_.T, atol=1e-4)
    np.testing.assert_allclose(b - b.mean(), reference.intercept_ - reference.intercept_.mean(), atol=1e-4)
    assert found.gradient_norm < 1e-8
    assert found.stopped_by == "converged"
    assert found.converged


def test_weighted_rows_are_copies():
    """Rows of weight k and k copies of them have the same minimum, and weights of another unit do not change it."""
    X, labels = iris_or_digits("iris")
    weight = np.random.default_rng(0).integers(1, 4, len(X)).astype(float)
    copies = np.repeat(np.arange(len(X)), weight.astype(int))
    found = []
    for rows in (make_rows(X, labels, weight), make_rows(X[copies], labels[copies]), make_rows(X, labels, 9 * weight)):
        parameters = make_parameters(NetworkSpec(4, 0, 3))
        minimise(parameters, rows, weight_decay=0.01)
        found.append(parameters.views["layers.0.weight"].numpy().copy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)


def test_gradient_is_that_of_the_objective_by_differences(monkeypatch):
    """Objective and gradient agree by finite differences: two layers, members, a sparse table, smoothing, chunks."""
    monkeypatch.setattr(softmaxnet.full_batch, "CHUNK_ROWS", 7)
    rng = np.random.default_rng(0)
    sparse = scipy.sparse.random(20, 5, 0.4, "csr", rng=rng)
    rows = make_rows(rng.normal(size=(20, 3)), np.arange(20) % 3, rng.uniform(0.5, 2, 20), sparse)
    parameters = make_parameters(NetworkSpec(3, 5, 3, (4,), "tanh", 2))
    function = _Objective(parameters, rows, 0.1, 0.2, None)
    at = rng.normal(size=function.vector().shape) * 0.5
    expected = approx_fprime(at, lambda v: function(v)[0], 1e-7)
    np.testing.assert_allclose(function(at)[1], expected, atol=1e-5)


def test_chunks_change_nothing(monkeypatch):
    """Looked at in chunks of 64 rows or whole, the objective and the minimum are the same to 1e-9."""
    X, labels = iris_or_digits("digits")
    found = []
    for size in (64, 8192):
        monkeypatch.setattr(softmaxnet.full_batch, "CHUNK_ROWS", size)
        parameters = make_parameters(NetworkSpec(64, 0, 10))
        found.append(minimise(parameters, make_rows(X, labels), weight_decay=0.01).objective)
    assert found[0] == pytest.approx(found[1], abs=1e-12)


def test_single_precision_products_reach_the_same_objective():
    """With float32 products the objective is within 1e-6 of that in float64."""
    X, labels = iris_or_digits("digits")
    exact, quick = make_parameters(NetworkSpec(64, 0, 10)), make_parameters(NetworkSpec(64, 0, 10))
    rows = make_rows(X, labels)
    expected = minimise(exact, rows, weight_decay=0.01).objective
    narrow = Rows(rows.dense.float(), rows.target, rows.weight.float())
    minimise(quick, narrow, weight_decay=0.01, tolerance=1e-6, compute_dtype=torch.float32)
    assert quick.flat.dtype == torch.float64
    W, b = quick.views["layers.0.weight"][0].numpy(), quick.views["layers.0.bias"][0].numpy()
    assert objective(X, labels, np.ones(len(X)), W, b, 0.01) == pytest.approx(expected, abs=1e-6)


def test_label_smoothing_is_that_of_soft_targets():
    """Smoothed labels have the minimum of the soft targets (1 - a) q + a / K."""
    X, labels = iris_or_digits("iris")
    smoothed, soft = make_parameters(NetworkSpec(4, 0, 3)), make_parameters(NetworkSpec(4, 0, 3))
    first = minimise(smoothed, make_rows(X, labels), weight_decay=1e-3, label_smoothing=0.3)
    target = 0.7 * np.eye(3)[labels] + 0.1
    second = minimise(soft, make_rows(X, target), weight_decay=1e-3)
    assert first.objective == pytest.approx(second.objective, abs=1e-12)
    torch.testing.assert_close(smoothed.flat, soft.flat, rtol=0, atol=1e-6)


def test_sparse_rows_have_the_minimum_of_dense_ones():
    """Softmax regression on a sparse block is that on the same numbers dense, the table decayed as weights are."""
    X, labels = iris_or_digits("digits")
    dense, sparse = make_parameters(NetworkSpec(64, 0, 10)), make_parameters(NetworkSpec(0, 64, 10))
    first = minimise(dense, make_rows(X, labels), weight_decay=0.01)
    rows = make_rows(np.zeros((len(X), 0)), labels, sparse=scipy.sparse.csr_array(X))
    second = minimise(sparse, rows, weight_decay=0.01)
    assert first.objective == pytest.approx(second.objective, abs=1e-10)
    torch.testing.assert_close(sparse.table, dense.views["layers.0.weight"][0], rtol=0, atol=1e-6)


def test_iterations_that_run_out_warn():
    """Too few iterations give the best point so far, a warning that says what to raise, and that reason."""
    X, labels = iris_or_digits("digits")
    parameters = make_parameters(NetworkSpec(64, 0, 10))
    with pytest.warns(UserWarning, match="after 3 iterations .* raise max_epochs"):
        found = minimise(parameters, make_rows(X, labels), weight_decay=1e-4, max_iter=3)
    assert (found.n_iter, found.stopped_by, found.converged) == (3, "max_epochs", False)


def test_one_fit_of_a_search_does_not_warn():
    """Where only one of many fits ends early nobody is told."""
    X, labels = iris_or_digits("digits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = minimise(
            make_parameters(NetworkSpec(64, 0, 10)), make_rows(X, labels), weight_decay=1e-4, max_iter=3, final=False
        )
    assert not found.converged


def test_max_seconds_stops():
    """Time that is up ends it after an iteration."""
    X, labels = iris_or_digits("digits")
    parameters = make_parameters(NetworkSpec(64, 0, 10))
    found = minimise(parameters, make_rows(X, labels), weight_decay=1e-4, max_seconds=1e-9)
    assert (found.n_iter, found.stopped_by) == (1, "max_seconds")
    assert found.objective < np.log(10)


def interrupting(monkeypatch, n_evaluations: int) -> None:
    """Let Ctrl-C come in an evaluation."""
    evaluate, count = _Objective.__call__, iter(range(1000))

    def call(self, vector):
        if next(count) == n_evaluations:
            raise KeyboardInterrupt
        return evaluate(self, vector)

    monkeypatch.setattr(_Objective, "__call__", call)


def test_interrupt_keeps_the_best_so_far(monkeypatch):
    """Ctrl-C warns and leaves the point of the lowest objective seen."""
    X, labels = iris_or_digits("digits")
    parameters, rows = make_parameters(NetworkSpec(64, 0, 10)), make_rows(X, labels)
    interrupting(monkeypatch, 8)
    with pytest.warns(UserWarning, match="interrupted"):
        found = minimise(parameters, rows, weight_decay=1e-4)
    monkeypatch.undo()
    assert (found.stopped_by, found.n_evaluations) == ("interrupt", 8)
    value = _Objective(parameters, rows, 1e-4, 0.0, None)(parameters.flat.numpy().copy())[0]
    assert value == pytest.approx(found.objective, abs=1e-12)
    assert found.objective < np.log(10)


def test_interrupt_ends_a_search(monkeypatch):
    """Ctrl-C goes through where a fit is one of many."""
    X, labels = iris_or_digits("digits")
    interrupting(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        minimise(make_parameters(NetworkSpec(64, 0, 10)), make_rows(X, labels), weight_decay=1e-4, final=False)


def test_numbers_that_overflow_are_an_error():
    """An objective that is not finite is a TrainingDivergedError with the exit code 5, and says what to do."""
    X, labels = iris_or_digits("iris")
    rows = make_rows(X * 1e308, labels)
    with pytest.raises(TrainingDivergedError, match="features='auto'") as caught:
        minimise(make_parameters(NetworkSpec(4, 0, 3)), rows, weight_decay=0.1)
    assert caught.value.exit_code == 5


def test_a_point_without_descent_warns():
    """One number of 1e30 among small ones leaves L-BFGS where it began, and that is said."""
    X, labels = iris_or_digits("iris")
    X = X.copy()
    X[5, 1] = 1e30
    with pytest.warns(UserWarning, match="huge numbers among the features"):
        found = minimise(make_parameters(NetworkSpec(4, 0, 3)), make_rows(X, labels), weight_decay=0.1)
    assert found.stopped_by == "no_descent"


def test_small_network_descends_to_a_stationary_point():
    """A network with a hidden layer ends at a gradient of 1e-6 or less too, below softmax regression."""
    X, labels = iris_or_digits("iris")
    linear = minimise(make_parameters(NetworkSpec(4, 0, 3)), make_rows(X, labels), weight_decay=1e-3)
    network = make_parameters(NetworkSpec(4, 0, 3, (6,), "tanh"))
    found = minimise(network, make_rows(X, labels), weight_decay=1e-3, max_iter=3000)
    assert found.gradient_norm <= 1e-6
    assert found.objective < linear.objective
