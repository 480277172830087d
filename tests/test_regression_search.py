"""Softmax regression on little data that may leave inputs out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from softmaxnet import SoftmaxClassifier
from softmaxnet.batches import Rows
from softmaxnet.features.encoded import Encoded
from softmaxnet.fitted import Examples
from softmaxnet.full_batch import minimise
from softmaxnet.network import NetworkSpec
from softmaxnet.parameters import Parameters, scaled_spec
from softmaxnet.recipe import DEFAULTS, DataShape, resolve
from softmaxnet.regression_search import minimise_selecting
from softmaxnet.row_space import RowSpace
from softmaxnet.whole_fit import fit_full_batch, regression_plan


def few_of_many(n: int, seed: int, width: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return three classes that five columns of many decide."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, width))
    logits = 2.0 * np.c_[X[:, 0] + X[:, 1], X[:, 2] - X[:, 0], X[:, 3] + X[:, 4]]
    return X, (logits + rng.gumbel(size=logits.shape)).argmax(1)


def parameters_of(width: int, n_classes: int) -> Parameters:
    """Return softmax regression of that shape at its beginning."""
    return Parameters(scaled_spec(NetworkSpec(width, 0, n_classes), "standard"), dtype=torch.float64)


def rows_of(X: np.ndarray, y: np.ndarray) -> Rows:
    """Return rows of weight 1."""
    return Rows(torch.from_numpy(X), torch.from_numpy(y), torch.ones(len(y), dtype=torch.float64))


def test_a_table_of_hundreds_of_columns_of_which_five_matter_is_read_as_such():
    """By default, on 200 rows: nearer to the true log loss than half of what the best ridge regression is above it."""
    X, y = few_of_many(200, 0)
    clf = SoftmaxClassifier(random_state=0).fit(X, y)
    assert any("few of many inputs" in words for words in clf.model_.settings["mixture"])
    new, labels = few_of_many(4000, 1)
    losses = [
        log_loss(labels, LogisticRegression(C=C, max_iter=2000).fit(X, y).predict_proba(new)) for C in (1, 0.1, 0.01)
    ]
    truth = log_loss(labels, LogisticRegression(max_iter=2000).fit(new[:, :5], labels).predict_proba(new[:, :5]))
    assert log_loss(labels, clf.predict_proba(new)) - truth < (min(losses) - truth) / 2


def test_inputs_that_fit_noise_are_left_out():
    """The weights of the five columns stay, nearly all others are below a hundredth of the largest."""
    X, y = few_of_many(400, 2, width=100)
    parameters = parameters_of(100, 3)
    minimise_selecting(parameters, rows_of(X, y), weight_decay=1.0)
    sizes = parameters.views["layers.0.weight"].square().sum((0, 2)).sqrt().numpy()
    kept = np.flatnonzero(sizes > 0.01 * sizes.max())
    assert set(range(5)) <= set(kept.tolist())
    assert len(kept) < 20


def test_without_a_penalty_it_is_the_same_minimum():
    """On many rows of few columns no scale of the inputs matters: the objectives agree to 1e-8."""
    X, y = few_of_many(2000, 3, width=6)
    found = [
        way(parameters_of(6, 3), rows_of(X, y), weight_decay=0.0).objective for way in (minimise, minimise_selecting)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-8)


@pytest.mark.parametrize("n_sparse", [0, 90])
def test_in_coordinates_of_the_rows_softmax_regression_is_the_same(n_sparse):
    """More inputs than rows, dense and sparse, bytes with a scale: weights and logits agree with the direct fit's."""
    import scipy.sparse

    rng = np.random.default_rng(5)
    X, y = rng.integers(0, 256, size=(40, 60)).astype(np.uint8), rng.integers(3, size=40)
    sparse = scipy.sparse.random_array((40, n_sparse), density=0.2, format="csr", rng=rng) if n_sparse else None
    examples = Examples(Encoded(X, 1 / 255, sparse), y, rng.uniform(0.5, 2, 40))
    plan = regression_plan(resolve(DataShape(40, 60, n_sparse, 3), DEFAULTS), 0.01)
    direct = fit_full_batch(examples, 3, plan, None)
    space = RowSpace.of(examples)
    own = fit_full_batch(space.rows, 3, plan, None)
    for name, weights in space.weights(own.params["layers.0.weight"][0]).items():
        np.testing.assert_allclose(weights, direct.params[name], atol=1e-6)
    np.testing.assert_allclose(own.params["layers.0.bias"], direct.params["layers.0.bias"], atol=1e-6)


def test_rows_that_are_no_fewer_than_inputs_stay_as_they_are():
    """There is nothing to gain."""
    assert RowSpace.of(Examples(Encoded(np.ones((7, 7)), 1.0, None), np.zeros(7, np.int64), np.ones(7))) is None


def test_columns_that_say_nothing_leave_the_prior():
    """Labels that no column has to do with: not above the prior's log loss by more than a twentieth."""
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(150, 200)), rng.integers(3, size=150)
    clf = SoftmaxClassifier(random_state=0).fit(X, y)
    new, labels = rng.normal(size=(2000, 200)), rng.integers(3, size=2000)
    assert log_loss(labels, clf.predict_proba(new)) < 1.05 * np.log(3)
