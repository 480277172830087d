"""Decisions by expected cost: worked numbers, forms of the costs, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from softmaxnet import SoftmaxClassifier
from softmaxnet.decisions import CostMatrix, expected_costs
from softmaxnet.errors import UsageError

CLASSES = np.array(["ham", "spam"])
COSTS = [[0.0, 5.0, 1.0], [1.0, 0.0, 1.0]]


@pytest.fixture(scope="module")
def clf():
    """Softmax regression on two clouds that overlap."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)
    X = rng.normal(size=(120, 2)) + y[:, None]
    return SoftmaxClassifier(hidden_layer_sizes=(), weight_decay=0.01, random_state=0).fit(X, CLASSES[y])


def test_the_worked_numbers():
    """Outputs .172, .771, .057 and a tenfold cost of missing class 3: .7708 + .5725, .1720 + .5725, .9428."""
    p = [[0.17198205, 0.77077009, 0.05724785]]
    found = expected_costs(p, [[0, 1, 1], [1, 0, 1], [10, 10, 0]])
    np.testing.assert_allclose(found, [[1.34324859, 0.74446055, 0.94275214]], atol=1e-8)


def test_chow_abstains_where_no_class_is_sure():
    """With errors at 1 and abstention at d, it is chosen where the largest probability is below 1 - d (Chow 1970)."""
    costs = CostMatrix.of(np.hstack([1 - np.eye(3), np.full((3, 1), 0.3)]), np.arange(3))
    p = np.array([[0.71, 0.2, 0.09], [0.69, 0.2, 0.11], [0.34, 0.33, 0.33]])
    best, cost = costs.decide(p)
    assert costs.decisions[best].tolist() == [0, "abstain", "abstain"]
    np.testing.assert_allclose(cost, [0.29, 0.3, 0.3])


def test_costs_of_zero_and_one_decide_as_predict_does(clf, rng):
    """The most probable class has the lowest expected cost where all errors cost the same."""
    X = rng.normal(size=(50, 2))
    decisions, cost = clf.decide(X, 1 - np.eye(2))
    np.testing.assert_array_equal(decisions, clf.predict(X))
    np.testing.assert_allclose(cost, 1 - clf.predict_proba(X).max(1), atol=1e-12)


@given(
    arrays(np.float64, (7, 3), elements=st.floats(0.01, 1)),
    arrays(np.float64, (3, 4), elements=st.floats(-100, 100)),
)
def test_no_other_decision_is_cheaper(weights, costs):
    """What is chosen has the smallest expected cost of all columns."""
    proba = weights / weights.sum(1, keepdims=True)
    best, cost = CostMatrix.of(costs, np.arange(3), list("abcd")).decide(proba)
    expected = expected_costs(proba, costs)
    np.testing.assert_allclose(cost, expected.min(1), atol=1e-12)
    np.testing.assert_allclose(expected[np.arange(7), best], cost, atol=1e-12)


@pytest.mark.parametrize(
    "costs",
    [
        {"spam": {"ham": 1, "spam": 0, "ask": 1}, "ham": {"ham": 0, "spam": 5, "ask": 1}},
        pd.DataFrame(COSTS, index=["ham", "spam"], columns=["ham", "spam", "ask"]),
        pd.DataFrame(COSTS[::-1], index=["spam", "ham"], columns=["ham", "spam", "ask"]),
    ],
    ids=["mapping", "frame", "frame in another order"],
)
def test_costs_by_name(costs, clf):
    """A mapping and a data frame are matched by name, in any order."""
    X = [[0.5, 0.5], [3.0, 3.0], [-3.0, -3.0]]
    expected, cost = clf.decide(X, COSTS, ["ham", "spam", "ask"])
    found, found_cost = clf.decide(X, costs)
    assert found.tolist() == expected.tolist()
    np.testing.assert_array_equal(found_cost, cost)


def test_estimator_and_model_agree(clf):
    """The estimator's decide is the model's."""
    X = np.array([[0.2, 0.1], [2.0, 1.5]])
    for ours, its in zip(clf.decide(X, COSTS), clf.model_.decide(X, COSTS), strict=True):
        np.testing.assert_array_equal(ours, its)


def test_decisions_keep_the_type_of_the_labels():
    """Integers stay integers where every decision is a class."""
    assert CostMatrix.of(1 - np.eye(2), np.array([3, 7])).decisions.dtype == np.int64
    assert CostMatrix.of({"3": {"7": 1, "3": 0}, "7": {"7": 0, "3": 1}}, np.array([3, 7])).decisions.tolist() == [7, 3]


@pytest.mark.parametrize(
    ("costs", "decisions", "text"),
    [
        ([[0, 1]], None, r"must have the shape \(2, n_decisions\).*Got the shape \(1, 2\)"),
        ([0, 1], None, r"Got the shape \(2,\)"),
        ([[0, 1, 1, 1], [1, 0, 1, 1]], None, "4 columns for 2 classes; say what they stand for"),
        ([[0, 1], [1, np.nan]], None, "must be finite. Got nan in row 1, column 1"),
        ([["a", 1], [1, 0]], None, "must be numbers"),
        (COSTS, ["ham", "spam"], "must be 3 different names"),
        (COSTS, ["ham", "spam", "ham"], "must be 3 different names"),
        ({"ham": {"ham": 0}}, None, "none for the true class 'spam'"),
        ({"ham": {"ham": 0}, "spam": {"spam": 0}}, None, "has a cost for some true classes only"),
        ({"ham": {"ham": 0}, "eggs": {"ham": 0}}, None, "'eggs' is no class of the model"),
        ({"ham": 1, "spam": 2}, None, "must be a mapping of decisions to numbers"),
        ({"ham": {"a": 0}, "spam": {"a": 0}}, ["a"], "named by the costs themselves"),
    ],
    ids=[f"case-{number}" for number in range(12)],
)
def test_costs_that_do_not_fit_are_refused(costs, decisions, text):
    """Wrong shapes, unknown and missing classes, and costs that are no numbers say what is expected."""
    with pytest.raises(UsageError, match=text):
        CostMatrix.of(costs, CLASSES, decisions)
