"""Softmax regression on little data that may leave inputs out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from softmaxnet import SoftmaxClassifier
from softmaxnet.batches import Rows
from softmaxnet.full_batch import minimise
from softmaxnet.network import NetworkSpec
from softmaxnet.parameters import Parameters, scaled_spec
from softmaxnet.regression_search import minimise_selecting


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


def test_columns_that_say_nothing_leave_the_prior():
    """Labels that no column has to do with: not above the prior's log loss by more than a twentieth."""
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(150, 200)), rng.integers(3, size=150)
    clf = SoftmaxClassifier(random_state=0).fit(X, y)
    new, labels = rng.normal(size=(2000, 200)), rng.integers(3, size=2000)
    assert log_loss(labels, clf.predict_proba(new)) < 1.05 * np.log(3)
