"""The maths of the output layer against exact values, other libraries and its own laws."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from softmaxnet import softmax as sm
from softmaxnet.errors import DataError, UsageError

# Golden values, from mpmath with 40 digits:
#   from mpmath import mp, mpf, exp, log, diff; mp.dps = 40
#   z = [mpf("1.6"), mpf("3.1"), mpf("0.5")]; S = sum(map(exp, z)); p = [exp(a) / S for a in z]
#   per_class(z) = -(log(p[1]) + log(1 - p[0]) + log(1 - p[2])) / 3, and its mp.diff for the gradient
#   binary = -(log(1 - s[0]) + log(s[1]) + log(1 - s[2])) with s = 1 / (1 + exp(-z))
LOGITS = np.array([1.6, 3.1, 0.5])
PROBA = [0.171982054275568135, 0.770770092941101563, 0.0572478527833303013]
LOG_PROBA = [-1.7603651432191841, -0.2603651432191841, -2.8603651432191841]
LOG_COMPLEMENT = [-0.188720451251514286, -1.47302981810375329, -0.0589518652364316904]
SIGMOID = [0.832018385133924482, 0.956892745058913877, 0.622459331201854565]
PER_CLASS = 0.169345819902376692
PER_CLASS_GRADIENT = [0.111173546340116022, -0.145375259008997384, 0.034201712668881362]
BINARY = 2.80204169300701937

# The three-row table of votes: outputs, and the class that was right.
VOTES = np.log([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
VOTE_LABELS = np.array([2, 1, 0])

ELEMENTWISE = (sm.softmax, sm.log_softmax, sm.log_complement_softmax, sm.sigmoid, sm.log_sigmoid)


@pytest.fixture(name="rows")
def _rows() -> dict[str, np.ndarray]:
    """7 rows of 5 classes with labels, targets and weights."""
    rng = np.random.default_rng(3)
    return {
        "logits": rng.normal(size=(7, 5)) * 3,
        "labels": rng.integers(0, 5, 7),
        "targets": rng.dirichlet(np.ones(5), 7),
        "sample_weight": rng.uniform(size=7),
        "class_weight": rng.uniform(size=5),
    }


# --- exact values -------------------------------------------------------------------------------------------


def test_probabilities_of_the_worked_example_are_exact() -> None:
    """Logits 1.6, 3.1, 0.5 give 17 %, 77 %, 6 %, to 15 digits."""
    assert_allclose(sm.softmax(LOGITS), PROBA, rtol=1e-15)
    assert_allclose(sm.softmax(LOGITS), [0.17198205, 0.77077009, 0.05724785], atol=5e-9)
    assert_allclose(sm.log_softmax(LOGITS), LOG_PROBA, rtol=1e-15)
    assert_allclose(sm.log_complement_softmax(LOGITS), LOG_COMPLEMENT, rtol=1e-15)
    assert_allclose(sm.logsumexp(LOGITS), 3.3603651432191841, rtol=1e-15)
    assert_allclose(sm.sigmoid(LOGITS), SIGMOID, rtol=1e-15)


def test_losses_of_the_worked_example_are_exact() -> None:
    """Each of the losses of the worked example, label 1, has its mpmath value."""
    target = [[0.0, 1.0, 0.0]]
    assert_allclose(sm.cross_entropy([LOGITS], [1]), -LOG_PROBA[1], rtol=1e-15)
    assert_allclose(sm.soft_cross_entropy([LOGITS], target), -LOG_PROBA[1], rtol=1e-15)
    assert_allclose(sm.per_class_cross_entropy([LOGITS], [1]), PER_CLASS, rtol=1e-15)
    assert_allclose(sm.per_class_cross_entropy_gradient([LOGITS], [1])[0], PER_CLASS_GRADIENT, rtol=1e-13)
    assert_allclose(sm.binary_cross_entropy([LOGITS], target), BINARY, rtol=1e-15)
    assert_allclose(sm.squared_error([LOGITS], target), (1.6**2 + 2.1**2 + 0.5**2) / 2, rtol=1e-15)


def test_table_of_votes() -> None:
    """The votes cost -ln .4, -ln .4, -ln .1, on average 1.3783889 nats, and 2 of 3 are right."""
    losses = sm.cross_entropy(VOTES, VOTE_LABELS, reduction="none")
    assert_allclose(losses, [-np.log(0.4), -np.log(0.4), -np.log(0.1)], rtol=1e-14)
    assert_allclose(sm.cross_entropy(VOTES, VOTE_LABELS), 1.3783889, atol=5e-8)
    assert (VOTES.argmax(1) == VOTE_LABELS).mean() == 2 / 3


def test_per_class_form_is_not_the_log_of_the_label() -> None:
    """For three classes the per-class form is not -ln s_y: .543, .543, 1.243 beside .916, .916, 2.303."""
    # -(ln .4 + ln .7 + ln .7) / 3 twice and -(ln .1 + ln .8 + ln .3) / 3
    expected = [-np.log(0.4 * 0.7 * 0.7) / 3, -np.log(0.4 * 0.7 * 0.7) / 3, -np.log(0.1 * 0.8 * 0.3) / 3]
    per_class = sm.per_class_cross_entropy(VOTES, VOTE_LABELS, reduction="none")
    assert_allclose(per_class, expected, rtol=1e-14)
    assert np.all(per_class < sm.cross_entropy(VOTES, VOTE_LABELS, reduction="none"))


def test_per_class_form_of_two_classes_is_the_log_of_the_label() -> None:
    """For two classes the two forms are one."""
    logits = np.array([[0.3, -1.2], [5.0, 2.0]])
    for function, other in (
        (sm.per_class_cross_entropy, sm.cross_entropy),
        (sm.per_class_cross_entropy_gradient, sm.cross_entropy_gradient),
    ):
        assert_allclose(function(logits, [0, 1]), other(logits, [0, 1]), rtol=1e-14)


def test_matching_losses_have_the_gradient_prediction_minus_target() -> None:
    """Softmax, sigmoid and linear outputs with matching losses have the gradients p - y, p - y, z - y."""
    target = np.array([[0.0, 1.0, 0.0]])
    assert_allclose(sm.cross_entropy_gradient([LOGITS], [1])[0], PROBA - target[0], rtol=1e-14)
    assert_allclose(sm.soft_cross_entropy_gradient([LOGITS], target)[0], PROBA - target[0], rtol=1e-14)
    assert_allclose(sm.binary_cross_entropy_gradient([LOGITS], target)[0], SIGMOID - target[0], rtol=1e-14)
    assert_allclose(sm.squared_error_gradient([LOGITS], target)[0], LOGITS - target[0], rtol=1e-14)


# --- other libraries as oracles -----------------------------------------------------------------------------


def test_agrees_with_scipy(rows: dict[str, np.ndarray]) -> None:
    """Values are scipy.special's wherever scipy has the function."""
    logits = rows["logits"]
    assert_allclose(sm.softmax(logits), scipy.special.softmax(logits, axis=1), rtol=1e-13)
    # ours keeps the digits of a logarithm near 0, where scipy rounds to 1e-16 of the sum
    assert_allclose(sm.log_softmax(logits), scipy.special.log_softmax(logits, axis=1), rtol=1e-13, atol=1e-15)
    assert_allclose(sm.logsumexp(logits), scipy.special.logsumexp(logits, axis=1), rtol=1e-13)
    assert_allclose(sm.sigmoid(logits), scipy.special.expit(logits), rtol=1e-13)
    assert_allclose(sm.log_sigmoid(logits), scipy.special.log_expit(logits), rtol=1e-13)


def test_agrees_with_sklearn_log_loss(rows: dict[str, np.ndarray]) -> None:
    """The mean cross-entropy is sklearn.metrics.log_loss of the probabilities, with and without weights."""
    from sklearn.metrics import log_loss

    logits, labels, weight = rows["logits"], rows["labels"], rows["sample_weight"]
    for kwargs in ({}, {"sample_weight": weight}):
        expected = log_loss(labels, scipy.special.softmax(logits, axis=1), labels=range(5), **kwargs)
        assert_allclose(sm.cross_entropy(logits, labels, **kwargs), expected, rtol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "weights", [(), ("sample_weight",), ("class_weight",), ("sample_weight", "class_weight")]
)
def test_gradients_are_those_of_autograd(
    rows: dict[str, np.ndarray], weights: tuple[str, ...], smoothing: float, reduction: str
) -> None:
    """Every closed-form gradient is what torch.autograd finds for the loss, in float64."""
    torch = pytest.importorskip("torch")
    kwargs: dict = {name: rows[name] for name in weights}
    pairs = [
        (sm.cross_entropy, sm.cross_entropy_gradient, rows["labels"], {"label_smoothing": smoothing}),
        (
            sm.soft_cross_entropy,
            sm.soft_cross_entropy_gradient,
            rows["targets"],
            {"label_smoothing": smoothing},
        ),
    ]
    if "class_weight" not in weights and not smoothing:
        pairs += [
            (sm.per_class_cross_entropy, sm.per_class_cross_entropy_gradient, rows["labels"], {}),
            (sm.binary_cross_entropy, sm.binary_cross_entropy_gradient, rows["targets"], {}),
            (sm.squared_error, sm.squared_error_gradient, rows["targets"], {}),
        ]
    for loss, gradient, target, more in pairs:
        logits = torch.tensor(rows["logits"], requires_grad=True)
        value = loss(logits, torch.tensor(target), reduction=reduction, **kwargs, **more)
        (expected,) = torch.autograd.grad(value, logits)
        closed = gradient(rows["logits"], target, reduction=reduction, **kwargs, **more)
        assert_allclose(closed, expected.numpy(), rtol=1e-12, atol=1e-15, err_msg=loss.__name__)


def test_agrees_with_torch_cross_entropy(rows: dict[str, np.ndarray]) -> None:
    """Without smoothing, class weights mean what they mean in torch; smoothing alone is torch's as well."""
    torch = pytest.importorskip("torch")
    z, y, c = (torch.tensor(rows[name]) for name in ("logits", "labels", "class_weight"))
    expected = torch.nn.functional.cross_entropy(z, y, weight=c)
    assert_allclose(
        sm.cross_entropy(rows["logits"], rows["labels"], class_weight=c.numpy()), expected, rtol=1e-13
    )
    expected = torch.nn.functional.cross_entropy(z, y, label_smoothing=0.2)
    assert_allclose(
        sm.cross_entropy(rows["logits"], rows["labels"], label_smoothing=0.2), expected, rtol=1e-13
    )


def test_gradients_are_finite_differences(rows: dict[str, np.ndarray]) -> None:
    """The gradients are the central differences of the losses, without any other library."""
    logits, labels = rows["logits"], rows["labels"]
    step = 1e-5
    for loss, gradient in (
        (sm.cross_entropy, sm.cross_entropy_gradient),
        (sm.per_class_cross_entropy, sm.per_class_cross_entropy_gradient),
    ):
        numeric = np.empty_like(logits)
        for index in np.ndindex(*logits.shape):
            up, down = logits.copy(), logits.copy()
            up[index] += step
            down[index] -= step
            numeric[index] = (loss(up, labels) - loss(down, labels)) / (2 * step)
        assert_allclose(gradient(logits, labels), numeric, atol=1e-9)


def test_jacobian_is_the_derivative_of_the_softmax(rows: dict[str, np.ndarray]) -> None:
    """The Jacobian is autograd's, its rows sum to 0, and the product never needs it."""
    torch = pytest.importorskip("torch")
    logits = rows["logits"][0]
    jacobian = sm.softmax_jacobian(logits)
    expected = torch.autograd.functional.jacobian(lambda z: torch.softmax(z, -1), torch.tensor(logits))
    assert_allclose(jacobian, expected, atol=1e-15)
    assert_allclose(jacobian.sum(axis=1), 0, atol=1e-16)
    vector = np.arange(5.0)
    assert_allclose(sm.softmax_jacobian_product(logits, vector), jacobian @ vector, atol=1e-15)
    assert sm.softmax_jacobian(rows["logits"]).shape == (7, 5, 5)


# --- laws ---------------------------------------------------------------------------------------------------

_matrices = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
    elements=st.floats(-700, 700, width=32),
)


@settings(deadline=None, max_examples=60)
@given(logits=_matrices, shift=st.floats(-100, 100))
def test_shift_invariance(logits: np.ndarray, shift: float) -> None:
    """A number added to all logits of a row changes no probability, and moves the log-sum-exp by it."""
    assert_allclose(sm.softmax(logits + shift), sm.softmax(logits), rtol=1e-10, atol=1e-300)
    assert_allclose(sm.logsumexp(logits + shift), sm.logsumexp(logits) + shift, rtol=1e-12, atol=1e-11)


@settings(deadline=None, max_examples=60)
@given(logits=_matrices, seed=st.integers(0, 2**16))
def test_permutation_of_the_classes(logits: np.ndarray, seed: int) -> None:
    """Reordered classes give reordered probabilities and gradients, and the same loss."""
    rng = np.random.default_rng(seed)
    n, k = logits.shape
    order, labels = rng.permutation(k), rng.integers(0, k, n)
    new_labels = np.argsort(order)[labels]
    assert_allclose(sm.softmax(logits[:, order]), sm.softmax(logits)[:, order], rtol=1e-12, atol=1e-300)
    for loss, gradient in (
        (sm.cross_entropy, sm.cross_entropy_gradient),
        (sm.per_class_cross_entropy, sm.per_class_cross_entropy_gradient),
    ):
        assert_allclose(loss(logits[:, order], new_labels), loss(logits, labels), rtol=1e-12, atol=1e-300)
        moved = gradient(logits[:, order], new_labels)
        assert_allclose(moved, gradient(logits, labels)[:, order], rtol=1e-9, atol=1e-13)


@settings(deadline=None, max_examples=60)
@given(logits=_matrices)
def test_probabilities_form_a_distribution(logits: np.ndarray) -> None:
    """Rows sum to 1, nothing is negative, and the logarithms are those of p and of 1 - p."""
    proba = sm.softmax(logits)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-14)
    assert proba.min() >= 0
    assert_allclose(np.exp(sm.log_softmax(logits)), proba, rtol=1e-11, atol=1e-300)
    assert_allclose(np.exp(sm.log_complement_softmax(logits)), 1 - proba, atol=1e-14)


@settings(deadline=None, max_examples=60)
@given(z=st.floats(-700, 700))
def test_two_classes_are_the_sigmoid(z: float) -> None:
    """The softmax of (z, 0) is (sigmoid(z), sigmoid(-z)), and so are the logarithms."""
    assert_allclose(sm.softmax([z, 0.0]), [sm.sigmoid(z), sm.sigmoid(-z)], rtol=1e-13)
    assert_allclose(
        sm.log_softmax([z, 0.0]), [sm.log_sigmoid(z), sm.log_sigmoid(-z)], rtol=1e-13, atol=1e-306
    )


@settings(deadline=None, max_examples=40)
@given(logits=_matrices, seed=st.integers(0, 2**16))
def test_numpy_and_torch_agree(logits: np.ndarray, seed: int) -> None:
    """Every function gives the same numbers, dtype and shape for a torch tensor as for a NumPy array."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    n, k = logits.shape
    labels, targets = rng.integers(0, k, n), rng.dirichlet(np.ones(k), n)
    weights = {"sample_weight": rng.uniform(0.1, 1, n)}
    calls = [(function, ()) for function in (*ELEMENTWISE, sm.logsumexp, sm.softmax_jacobian)]
    calls += [(f, (labels,)) for f in (sm.cross_entropy, sm.cross_entropy_gradient)]
    calls += [(f, (labels,)) for f in (sm.per_class_cross_entropy, sm.per_class_cross_entropy_gradient)]
    calls += [(f, (targets,)) for f in (sm.soft_cross_entropy, sm.soft_cross_entropy_gradient)]
    calls += [(f, (targets,)) for f in (sm.binary_cross_entropy, sm.binary_cross_entropy_gradient)]
    calls += [(f, (targets,)) for f in (sm.squared_error, sm.squared_error_gradient)]
    for function, more in calls:
        kwargs = weights if more else {}
        ours = function(logits, *more, **kwargs)
        theirs = function(torch.tensor(logits), *map(torch.tensor, more), **kwargs)
        assert isinstance(theirs, torch.Tensor)
        assert_allclose(theirs.numpy(), ours, rtol=1e-9, atol=1e-13, err_msg=function.__name__)


# --- edges --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits_stay_exact(dtype: type, size: float) -> None:
    """Logits of +-10,000 and +-1e30 neither overflow nor underflow, in either dtype."""
    logits = np.array([[size, 0, -size], [-size, -size, -size], [size, size, -size]], dtype)
    assert_allclose(sm.softmax(logits), [[1, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0]], rtol=1e-6)
    assert_allclose(
        sm.cross_entropy(logits, [2, 0, 0], reduction="none"), [2 * size, np.log(3), np.log(2)], rtol=1e-6
    )
    assert_array_equal(sm.cross_entropy_gradient(logits[:1], [2]), np.array([[1, 0, -1]], dtype))
    assert_allclose(sm.logsumexp(logits), logits.max(1) + np.log([1, 3, 2]), rtol=1e-6)
    assert np.isfinite(sm.per_class_cross_entropy_gradient(logits, [2, 0, 0])).all()
    assert_allclose(sm.per_class_cross_entropy(logits[:1], [1]), 2 * size / 3, rtol=1e-6)


def test_tiny_losses_are_not_rounded_to_nothing() -> None:
    """A row that is right with probability 1 - e^-60 costs e^-60 nats, which log(p) would call 0."""
    assert_allclose(sm.cross_entropy([[60.0, 0.0]], [0]), np.exp(-60), rtol=1e-14)
    assert_allclose(sm.log_complement_softmax([60.0, 0.0])[0], -60 - np.log1p(np.exp(-60)), rtol=1e-15)


def test_dtypes() -> None:
    """float32 and float64 are kept, whole numbers become float64, half precision float32."""
    torch = pytest.importorskip("torch")
    for function in (*ELEMENTWISE, sm.logsumexp):
        for given_dtype, dtype in (("f4", "f4"), ("f8", "f8"), ("i4", "f8"), ("?", "f8"), ("f2", "f4")):
            assert function(np.ones((2, 3), given_dtype)).dtype == dtype
        assert function(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32
        assert function(torch.ones(2, 3, dtype=torch.int32)).dtype == torch.float64
    assert sm.cross_entropy(np.ones((2, 3), "f4"), [0, 1], sample_weight=np.ones(2)).dtype == np.float32
    assert sm.cross_entropy_gradient(np.ones((2, 3), "f4"), [0, 1], label_smoothing=0.1).dtype == np.float32


def test_impossible_class() -> None:
    """A logit of -inf is probability 0: no cost where its target is 0, infinite where it is the label."""
    logits = np.array([[0.0, -np.inf, 0.0]])
    assert_array_equal(sm.softmax(logits), [[0.5, 0, 0.5]])
    assert_array_equal(sm.log_softmax(logits)[0, 1], -np.inf)
    assert_allclose(sm.log_complement_softmax(logits), [[np.log(0.5), 0, np.log(0.5)]])
    assert_allclose(sm.cross_entropy(logits, [0]), np.log(2))
    assert_allclose(sm.soft_cross_entropy(logits, [[0.5, 0, 0.5]]), np.log(2))
    assert_allclose(sm.per_class_cross_entropy(logits, [0]), 2 * np.log(2) / 3)
    assert_allclose(sm.per_class_cross_entropy_gradient(logits, [0]), [[-1 / 3, 0, 1 / 3]])
    assert sm.cross_entropy(logits, [1]) == np.inf
    assert_array_equal(sm.cross_entropy_gradient(logits, [1]), [[0.5, -1, 0.5]])
    assert_allclose(sm.binary_cross_entropy([[-np.inf, np.inf, 0.0]], [[0, 1, 0]]), np.log(2))


@pytest.mark.parametrize("row", [[-np.inf, -np.inf], [np.inf, 1.0], [np.inf, np.inf], [np.nan, 1.0]])
def test_row_without_a_distribution_is_nan(row: list[float]) -> None:
    """A row that is all -inf, or holds +inf or NaN, is NaN throughout, silently, and only that row."""
    logits = np.array([row, [0.0, 0.0]])
    for function in (sm.softmax, sm.log_softmax):
        assert np.isnan(function(logits)[0]).all(), function.__name__
        assert_allclose(function(logits)[1], function(np.zeros(2)))
    assert np.isnan(sm.cross_entropy(logits, [1, 0], reduction="none")[0])
    assert np.isnan(sm.cross_entropy_gradient(logits, [1, 0])[0]).all()
    expected = -np.inf if row[0] == -np.inf else row[0]
    assert_array_equal(sm.logsumexp(logits)[0], expected)


def test_one_class_is_certain() -> None:
    """With one class the probability is 1 and every loss and gradient is 0."""
    logits = np.array([[3.0], [-4.0]])
    assert_array_equal(sm.softmax(logits), np.ones((2, 1)))
    for loss in (sm.cross_entropy, sm.per_class_cross_entropy):
        assert loss(logits, [0, 0]) == 0
    for gradient in (sm.cross_entropy_gradient, sm.per_class_cross_entropy_gradient):
        assert_array_equal(gradient(logits, [0, 0]), np.zeros((2, 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_million_classes(dtype: type) -> None:
    """A million equal logits give 1e-6 each and cost ln 1e6, in float32 as well."""
    logits = np.full((1, 10**6), 5, dtype)
    assert_allclose(sm.softmax(logits)[0, [0, -1]], 1e-6, rtol=1e-6)
    assert_allclose(sm.cross_entropy(logits, [999_999]), np.log(1e6), rtol=1e-6)
    assert_allclose(sm.cross_entropy_gradient(logits, [7]).sum(), 0, atol=1e-5)


def test_rows_of_weight_zero_do_not_count() -> None:
    """A row of weight 0 changes nothing, even if its loss is infinite or NaN."""
    logits = np.array([[0.0, 1.0], [0.0, -np.inf], [np.nan, 0.0]])
    weight = [2.0, 0.0, 0.0]
    assert_allclose(sm.cross_entropy(logits, [0, 1, 0], sample_weight=weight), np.log1p(np.e))
    gradient = sm.cross_entropy_gradient(logits, [0, 1, 0], sample_weight=weight)
    assert_allclose(gradient[0], sm.cross_entropy_gradient(logits[:1], [0])[0])
    assert_array_equal(gradient[1:], np.zeros((2, 2)))


def test_weights_multiply_and_normalise(rows: dict[str, np.ndarray]) -> None:
    """A row's weight is its own times its class's; the mean divides by their sum, smoothing or not."""
    losses = sm.cross_entropy(rows["logits"], rows["labels"], label_smoothing=0.1, reduction="none")
    weight = rows["sample_weight"] * rows["class_weight"][rows["labels"]]
    kwargs = {
        "sample_weight": rows["sample_weight"],
        "class_weight": rows["class_weight"],
        "label_smoothing": 0.1,
    }
    mean = sm.cross_entropy(rows["logits"], rows["labels"], **kwargs)
    assert_allclose(mean, (weight * losses).sum() / weight.sum(), rtol=1e-14)
    each = sm.cross_entropy(rows["logits"], rows["labels"], reduction="none", **kwargs)
    assert_allclose(each, weight * losses, rtol=1e-14)
    one_hot = sm.one_hot(rows["labels"], 5)
    assert_allclose(sm.soft_cross_entropy(rows["logits"], one_hot, **kwargs), mean, rtol=1e-14)


def test_leading_axes(rows: dict[str, np.ndarray]) -> None:
    """Any number of leading axes will do: members x rows x classes gives members x rows of losses."""
    logits = np.stack([rows["logits"], 2 * rows["logits"]])
    labels = np.stack([rows["labels"]] * 2)
    losses = sm.cross_entropy(logits, labels, reduction="none")
    assert losses.shape == (2, 7)
    assert_allclose(losses[1], sm.cross_entropy(logits[1], labels[1], reduction="none"))
    assert sm.cross_entropy_gradient(logits, labels).shape == (2, 7, 5)


def test_no_rows() -> None:
    """No rows are no error for probabilities, sums and gradients of sums; they have no mean."""
    empty = np.empty((0, 3))
    assert sm.softmax(empty).shape == (0, 3)
    assert sm.cross_entropy(empty, np.empty(0, int), reduction="sum") == 0
    for function in (sm.cross_entropy, sm.cross_entropy_gradient):
        with pytest.raises(DataError, match="no rows"):
            function(empty, np.empty(0, int))


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_torch", [False, True])
@pytest.mark.parametrize(
    ("logits", "labels", "kwargs", "message"),
    [
        (np.zeros((3, 2)), [0, 2, 1], {}, "row 1: label 2 is not one of the classes 0..1"),
        (np.zeros((3, 2)), [0, 1, -1], {}, "row 2: label -1"),
        (np.zeros((3, 2)), [0, 1], {}, "labels have shape"),
        (np.zeros((3, 2)), [0.0, 1.0, 1.0], {}, "whole numbers"),
        (np.zeros((2, 0)), [0, 0], {}, "at least one class"),
        (np.zeros(()), 0, {}, "last axis"),
        (np.zeros((2, 2)), [0, 1], {"sample_weight": [1.0, -1.0]}, "row 1: sample_weight is -1"),
        (np.zeros((2, 2)), [0, 1], {"sample_weight": [np.nan, 1.0]}, "row 0: sample_weight is nan"),
        (np.zeros((2, 2)), [0, 1], {"sample_weight": [1.0, np.inf]}, "row 1: sample_weight is inf"),
        (np.zeros((2, 2)), [0, 1], {"sample_weight": [0.0, 0.0]}, "all rows are 0"),
        (np.zeros((2, 2)), [0, 1], {"sample_weight": [1.0]}, "sample_weight has shape"),
        (np.zeros((2, 2)), [0, 0], {"class_weight": [0.0, 1.0]}, "all rows are 0"),
        (np.zeros((2, 2)), [0, 1], {"class_weight": [1.0, -2.0]}, "class 1: class_weight is -2"),
        (np.zeros((2, 2)), [0, 1], {"class_weight": [1.0]}, "one weight for each of the 2 classes"),
    ],
)
def test_bad_labels_and_weights(
    logits: np.ndarray, labels: object, kwargs: dict, message: str, as_torch: bool
) -> None:
    """Labels, shapes and weights that cannot be are named with their row, in loss and gradient alike."""
    if as_torch:
        torch = pytest.importorskip("torch")
        logits, labels = torch.tensor(logits), torch.tensor(labels)
    for function in (sm.cross_entropy, sm.cross_entropy_gradient):
        with pytest.raises(DataError, match=message):
            function(logits, labels, **kwargs)


def test_bad_targets_and_options() -> None:
    """Targets that are no distribution, text, unknown reductions and smoothings are refused."""
    logits = np.zeros((2, 2))
    with pytest.raises(DataError, match=r"row 1: the target probabilities sum to 0\.9,"):
        sm.soft_cross_entropy(logits, [[0.5, 0.5], [0.5, 0.4]])
    with pytest.raises(DataError, match=r"row 0: target_proba must lie in \[0, 1\]"):
        sm.soft_cross_entropy(logits, [[1.5, -0.5], [0.5, 0.5]])
    with pytest.raises(DataError, match="row 1: targets must lie"):
        sm.binary_cross_entropy(logits, [[0.5, 0.5], [0.5, np.nan]])
    with pytest.raises(DataError, match="shape"):
        sm.squared_error(logits, [[1.0, 2.0]])
    with pytest.raises(DataError, match="must be numbers"):
        sm.softmax(["a", "b"])
    with pytest.raises(UsageError, match="label_smoothing"):
        sm.cross_entropy(logits, [0, 1], label_smoothing=1.5)
    with pytest.raises(UsageError, match="reduction"):
        sm.cross_entropy(logits, [0, 1], reduction="median")
    with pytest.raises(UsageError, match="reduction"):
        sm.cross_entropy_gradient(logits, [0, 1], reduction="none")


def test_inputs_are_left_alone(rows: dict[str, np.ndarray]) -> None:
    """No function writes into what it was given."""
    before = {name: value.copy() for name, value in rows.items()}
    sm.cross_entropy_gradient(rows["logits"], rows["labels"], sample_weight=rows["sample_weight"])
    sm.per_class_cross_entropy_gradient(rows["logits"], rows["labels"])
    sm.log_complement_softmax(rows["logits"])
    for name, value in rows.items():
        assert_array_equal(value, before[name])


def test_import_is_light() -> None:
    """Importing the module loads neither torch nor scipy nor scikit-learn."""
    code = (
        "import sys, softmaxnet.softmax;print([m for m in ('torch', 'scipy', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_number_of_the_page_is_true() -> None:
    """The code blocks of docs/maths.md, run from top to bottom, print what the page says they print."""
    page = Path(__file__).parents[1] / "docs" / "maths.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    test = doctest.DocTestParser().get_doctest("".join(blocks), {}, page.name, page.name, 0)
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with np.printoptions():
        runner.run(test, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)
    assert len(test.examples) > 40
