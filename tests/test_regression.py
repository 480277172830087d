"""Softmax regression on many rows: one pass, round coordinates, and where the descent stops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.datasets import load_digits

torch = pytest.importorskip("torch")

import softmaxnet.full_batch
import softmaxnet.regression
from softmaxnet.batches import Rows
from softmaxnet.errors import TrainingDivergedError
from softmaxnet.full_batch import FIRST_ITERATIONS, _Objective, minimise, remaining_gain
from softmaxnet.network import NetworkSpec
from softmaxnet.parameters import Parameters, scaled_spec
from softmaxnet.regression import Coordinates, DenseRegression, sample

WEIGHT_DECAY = 1e-4
GAP = 1e-5


def digits(dtype=torch.float64, scale: float = 1.0) -> Rows:
    """Return 1,797 pictures of 64 numbers with labels and weights."""
    X, labels = load_digits(return_X_y=True)
    weight = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 1.5, len(X)))
    dense = torch.from_numpy(X / 16 / scale).to(dtype)
    return Rows(dense, torch.from_numpy(labels.astype(np.int64)), weight / weight.mean(), scale=scale)


def parameters_of(rows: Rows, n_classes: int = 10, output: str = "softmax") -> Parameters:
    """Return the zeros that softmax regression begins with."""
    spec = NetworkSpec(rows.dense.shape[1], 0, n_classes, output=output)
    return Parameters(scaled_spec(spec, "standard"), dtype=torch.float64)


def regression_of(rows: Rows, output: str = "softmax", smoothing: float = 0.0) -> DenseRegression:
    """Return the objective over rows."""
    settings = {"weight_decay": WEIGHT_DECAY, "label_smoothing": smoothing, "dtype": torch.float64}
    return DenseRegression(rows, 10, output=output, **settings)


def some_theta(rows: Rows) -> np.ndarray:
    """Return a point away from the origin."""
    return np.random.default_rng(1).normal(size=(10, rows.dense.shape[1] + 1)) * 0.3


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_pass_gives_the_objective_of_the_general_way(monkeypatch, output, smoothing):
    """Objective and gradient are those of the network's own backward pass to 1e-12, whatever the chunks."""
    monkeypatch.setattr(softmaxnet.regression, "CHUNK_ROWS", 100)
    rows = digits()
    theta = some_theta(rows)
    loss, gradient = regression_of(rows, output, smoothing)(theta)
    general = _Objective(parameters_of(rows, output=output), rows, WEIGHT_DECAY, smoothing, None)
    vector = np.concatenate([theta[:, :-1].T.ravel(), theta[:, -1]])
    expected, slope = general(vector)
    assert loss == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(np.concatenate([gradient[:, :-1].T.ravel(), gradient[:, -1]]), slope, atol=1e-12)


def test_bytes_are_the_numbers_they_stand_for():
    """Bytes with a scale give the objective, the gradient and the coordinates of the scaled numbers."""
    floats = digits()
    as_bytes = Rows((floats.dense * 16).to(torch.uint8), floats.target, floats.weight, scale=1 / 16)
    theta = some_theta(floats)
    one, other = regression_of(floats), regression_of(as_bytes)
    assert one(theta)[0] == pytest.approx(other(theta)[0], abs=1e-13)
    np.testing.assert_allclose(one(theta)[1], other(theta)[1], atol=1e-13)
    v = np.random.default_rng(2).normal(size=theta.shape)
    np.testing.assert_allclose(Coordinates.at(theta, one).theta(v), Coordinates.at(theta, other).theta(v), atol=1e-9)


def test_coordinates_make_each_class_round():
    """``A^T H A`` is the identity for every class where all rows are looked at, H being the Hessian's block."""
    n = 260  # four for each column: all of them are looked at
    rows = digits()
    rows = Rows(rows.dense[:n], rows.target[:n], rows.weight[:n])
    theta = some_theta(rows)
    factors = Coordinates.at(theta, regression_of(rows)).factors.numpy()
    X = np.hstack([rows.dense.numpy(), np.ones((n, 1))])
    proba, weight = softmax(X @ theta.T, axis=1), rows.weight.numpy() / rows.weight.numpy().sum()
    penalty = np.diag([WEIGHT_DECAY] * 64 + [0.0])
    for k in range(10):
        hessian = (X.T * (weight * proba[:, k] * (1 - proba[:, k]))) @ X + penalty
        np.testing.assert_allclose(factors[k].T @ hessian @ factors[k], np.eye(65), atol=1e-3)  # the ridge is 1e-6


@pytest.mark.parametrize("shared", [False, True])
def test_gradient_in_coordinates_is_the_chain_rule(monkeypatch, shared):
    """The slope of the objective along a direction of v is the gradient's product with it, also with one block."""
    if shared:
        monkeypatch.setattr(softmaxnet.regression, "MOST_BLOCK_ENTRIES", 0)
    rows = digits()
    regression = regression_of(rows)
    coordinates = Coordinates.at(some_theta(rows), regression)
    assert len(coordinates.factors) == (1 if shared else 10)
    v, along = np.random.default_rng(3).normal(size=(2, 10, 65)) * 0.1
    step = 1e-6

    def objective(t: float) -> float:
        return regression(coordinates.theta(v + t * along))[0]

    slope = (objective(step) - objective(-step)) / (2 * step)
    gradient = coordinates.gradient(regression(coordinates.theta(v))[1])
    assert float((gradient * along).sum()) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_ends_within_the_gap_of_the_minimum_and_sooner(output):
    """The objective is within the gap asked for, in at most a third of the evaluations of plain L-BFGS."""
    rows = digits()
    exact = minimise(parameters_of(rows, output=output), rows, weight_decay=WEIGHT_DECAY, max_iter=5000)
    parameters = parameters_of(rows, output=output)
    quick = minimise(parameters, rows, weight_decay=WEIGHT_DECAY, gap=GAP)
    assert quick.stopped_by == "converged"
    assert 0 <= quick.objective - exact.objective <= 2 * GAP * exact.objective
    assert 3 * quick.n_evaluations <= exact.n_evaluations
    if output == "softmax":
        W, b = parameters.views["layers.0.weight"][0].numpy(), parameters.views["layers.0.bias"][0].numpy()
        log_proba = log_softmax(rows.dense.numpy() @ W + b, axis=1)[np.arange(len(rows)), rows.target.numpy()]
        loss = -np.average(log_proba, weights=rows.weight.numpy()) + WEIGHT_DECAY / 2 * (W**2).sum()
        assert quick.objective == pytest.approx(loss, abs=1e-10)


def test_a_part_of_the_rows_comes_first(monkeypatch):
    """A new fit begins on a quarter of the rows; one that goes on does not, and has little left to do."""
    sizes: list[int] = []
    call = DenseRegression.__call__

    def counted(self, theta):
        sizes.append(len(self.rows))
        return call(self, theta)

    monkeypatch.setattr(DenseRegression, "__call__", counted)
    rows = digits()
    many = Rows(rows.dense.repeat(2, 1), rows.target.repeat(2), rows.weight.repeat(2))
    parameters = parameters_of(many)
    first = minimise(parameters, many, weight_decay=WEIGHT_DECAY, gap=GAP)
    assert set(sizes) == {898, 3594}
    assert FIRST_ITERATIONS <= sizes.count(898) <= 2 * FIRST_ITERATIONS
    sizes.clear()
    again = minimise(parameters, many, weight_decay=WEIGHT_DECAY, gap=GAP)
    assert set(sizes) == {3594}
    assert again.objective <= first.objective
    assert first.objective - again.objective < 2 * GAP * first.objective


def test_single_precision_ends_at_the_same_objective():
    """float32 rows and products give an objective within 1e-5 of that of float64."""
    exact = minimise(parameters_of(digits()), digits(), weight_decay=WEIGHT_DECAY, gap=1e-6)
    rows = digits(torch.float32)
    rows.weight = rows.weight.float()
    quick = minimise(parameters_of(rows), rows, weight_decay=WEIGHT_DECAY, gap=GAP, compute_dtype=torch.float32)
    assert quick.objective == pytest.approx(exact.objective, abs=1e-5)


def test_inputs_far_from_zero_end_at_the_same_objective():
    """In float32, columns whose mean is thirty times their spread end within the gap of the minimum as well."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 20))
    labels = (X @ rng.normal(size=(20, 5)) + rng.gumbel(size=(4000, 5))).argmax(1)
    found = []
    for offset in (0.0, 30.0):
        rows = Rows(torch.from_numpy(X + offset).float(), torch.from_numpy(labels), torch.ones(4000))
        settings = {"weight_decay": WEIGHT_DECAY, "compute_dtype": torch.float32, "gap": GAP}
        found.append(minimise(parameters_of(rows, 5), rows, **settings))
    assert all(result.converged for result in found)
    assert found[1].objective == pytest.approx(found[0].objective, rel=1e-3)


def test_columns_that_are_copies_of_others_are_no_obstacle():
    """Without a penalty, with equal and constant columns, the descent still ends well below where it began."""
    rows = digits()
    rows.dense = torch.cat([rows.dense, rows.dense[:, :20]], dim=1)
    found = minimise(parameters_of(rows), rows, weight_decay=0.0, gap=1e-3, max_iter=200)
    assert found.objective < 0.05


def test_numbers_that_overflow_are_an_error():
    """Numbers whose squares are infinite end in a TrainingDivergedError, not in a search without end."""
    rows = digits()
    rows.dense = rows.dense * 1e200
    with pytest.raises(TrainingDivergedError, match="features='auto'"):
        minimise(parameters_of(rows), rows, weight_decay=WEIGHT_DECAY, gap=GAP)


def test_interrupt_on_the_part_keeps_what_there_is(monkeypatch):
    """Ctrl-C while only a part of the rows is looked at warns, and leaves better weights than none."""
    call, count = DenseRegression.__call__, iter(range(1000))

    def interrupting(self, theta):
        if next(count) == 5:
            raise KeyboardInterrupt
        return call(self, theta)

    monkeypatch.setattr(DenseRegression, "__call__", interrupting)
    rows = digits()
    parameters = parameters_of(rows)
    with pytest.warns(UserWarning, match="interrupted"):
        found = minimise(parameters, rows, weight_decay=WEIGHT_DECAY, gap=GAP)
    assert found.stopped_by == "interrupt"
    assert parameters.flat.abs().max() > 0


def test_samples_are_the_same_in_every_run():
    """Some of the rows' numbers, ascending, each once; all of them where no fewer are wanted."""
    chosen = sample(1000, 100)
    assert torch.equal(chosen, sample(1000, 100))
    assert len(set(chosen.tolist())) == 100
    assert torch.equal(sample(5, 9), torch.arange(5))


def test_remaining_gain_of_a_geometric_fall_is_its_last_window_and_all_after():
    """For losses 1 + r^i the estimate is r^(n - window), an upper bound of what is left; too few losses say nothing."""
    losses = [1 + 0.7**i for i in range(12)]
    assert remaining_gain(losses, 3) == pytest.approx(0.7 ** (11 - 3))
    assert remaining_gain(losses[:6], 3) == np.inf
    assert remaining_gain([1.0] * 7, 3) == 0.0


def test_held_out_rows_give_metrics_and_all_rows_the_weights():
    """On more than 1,000 rows a tenth calibrates; the weights are those of the minimum over all rows."""
    from softmaxnet import SoftmaxClassifier

    X, labels = load_digits(return_X_y=True)
    given = {"hidden_layer_sizes": (), "weight_decay": 0.01, "random_state": 0}
    found = SoftmaxClassifier(**given).fit(X, labels)
    exact = SoftmaxClassifier(early_stopping=False, calibration=None, **given).fit(X, labels)
    assert found.metrics_["n_held_out"] == 180
    assert found.metrics_["accuracy"] > 0.9
    assert found.temperature_ != 1.0
    for name, value in exact.model_.params.items():
        np.testing.assert_allclose(found.model_.params[name], value, atol=1e-4)
    assert [line["epoch"] for line in found.history_] == list(range(1, len(found.history_) + 1))
