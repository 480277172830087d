"""One update against PyTorch's AdamW, the schedules, the running average and the table's Adagrad in closed form."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from softmaxnet.backward import TableGradient
from softmaxnet.network import NetworkSpec
from softmaxnet.optimizer import ADAGRAD_EPSILON, Optimizer, learning_rate_factor
from softmaxnet.parameters import Parameters, ScaledSpec


def make_parameters(dtype=torch.float64, n_sparse: int = 0, seed: int = 0) -> Parameters:
    """Return the parameters of a small network, every entry drawn."""
    parameters = Parameters(ScaledSpec(NetworkSpec(4, n_sparse, 3, (5,), "tanh")), dtype=dtype)
    rng = np.random.default_rng(seed)
    parameters.flat.copy_(torch.from_numpy(rng.normal(size=parameters.flat.shape)))
    if parameters.table is not None:
        parameters.table.copy_(torch.from_numpy(rng.normal(size=tuple(parameters.table.shape))))
    return parameters


def gradients(parameters: Parameters, n_steps: int, seed: int = 1):
    """Return the same gradients for every optimizer that is compared."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.normal(size=parameters.flat.shape)).to(parameters.flat.dtype) for _ in range(n_steps)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("n_steps", [1, 20])
def test_steps_are_those_of_torch_adamw(dtype, tolerance, n_steps):
    """Given the same gradients the parameters are torch.optim.AdamW's, weight decay on the weights alone."""
    ours = make_parameters(dtype)
    weights = ours.flat[: ours.n_decayed].clone().requires_grad_()
    rest = ours.flat[ours.n_decayed :].clone().requires_grad_()
    theirs = torch.optim.AdamW(
        [{"params": [weights], "weight_decay": 0.3}, {"params": [rest], "weight_decay": 0.0}],
        lr=0.05,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    optimizer = Optimizer(ours, betas=(0.9, 0.95), weight_decay=0.3)
    for gradient in gradients(ours, n_steps):
        weights.grad, rest.grad = gradient[: ours.n_decayed].clone(), gradient[ours.n_decayed :].clone()
        theirs.step()
        optimizer.step(0.05, gradient, None)
    assert optimizer.n_steps == n_steps
    expected = torch.cat([weights.detach(), rest.detach()])
    torch.testing.assert_close(ours.flat, expected, rtol=tolerance, atol=tolerance)


def test_biases_and_embedding_are_never_decayed():
    """The decayed prefix is exactly the layers' weights."""
    spec = NetworkSpec(4, 6, 3, (5,), "tanh", 2, n_frequencies=3, embedding_size=2)
    parameters = Parameters(ScaledSpec(spec), dtype=torch.float64)
    parameters.flat.fill_(1.0)
    optimizer = Optimizer(parameters, weight_decay=0.5)
    optimizer.step(0.1, torch.zeros_like(parameters.flat), None)
    for name, view in parameters.views.items():
        decayed = name in ("layers.0.weight", "layers.1.weight")
        assert torch.allclose(view, torch.full_like(view, 1 - 0.1 * 0.5 if decayed else 1.0), rtol=1e-15), name


def test_gradient_is_left_as_it_is():
    """A step reads the gradient and does not write to it."""
    parameters = make_parameters()
    gradient = gradients(parameters, 1)[0]
    before = gradient.clone()
    Optimizer(parameters, weight_decay=0.1, average_power=3.0).step(0.1, gradient, None)
    assert torch.equal(gradient, before)


@pytest.mark.parametrize("power", [0.0, 1.0, 10.0])
def test_running_average_is_its_closed_form(power):
    """After t steps the average is sum_s theta_s (s^(g+1) - (s-1)^(g+1)) / t^(g+1): about s^g for step s.

    The update a += (1 - (1 - 1/s)^(g+1)) (theta_s - a) leaves step s with the weight
    (1 - ((s-1)/s)^(g+1)) prod_{u>s} ((u-1)/u)^(g+1), which telescopes to that.
    """
    parameters = make_parameters()
    optimizer = Optimizer(parameters, average_power=power)
    visited = []
    for gradient in gradients(parameters, 12):
        optimizer.step(0.1, gradient, None)
        visited.append(parameters.flat.clone())
    s = np.arange(1, 13)
    weight = (s ** (power + 1) - (s - 1) ** (power + 1)) / 12 ** (power + 1)
    assert weight.sum() == pytest.approx(1)
    expected = sum(w * theta for w, theta in zip(weight, visited, strict=True))
    torch.testing.assert_close(optimizer.averaged(), expected, rtol=1e-12, atol=1e-12)


def test_average_with_power_zero_is_the_plain_mean():
    """A power of 0 weighs every step alike, and without a power the average is the parameters themselves."""
    parameters = make_parameters()
    optimizer = Optimizer(parameters, average_power=0.0)
    visited = []
    for gradient in gradients(parameters, 5):
        optimizer.step(0.1, gradient, None)
        visited.append(parameters.flat.clone())
    torch.testing.assert_close(optimizer.averaged(), torch.stack(visited).mean(0), rtol=1e-12, atol=1e-12)
    assert Optimizer(parameters).averaged() is parameters.flat


def sparse_gradients(parameters: Parameters, n_steps: int):
    """Return gradients at a few rows of the table for each step."""
    rng = np.random.default_rng(2)
    n, width = parameters.table.shape
    out = []
    for _ in range(n_steps):
        rows = np.sort(rng.choice(n - 3, 4, replace=False))  # the last three rows are never touched
        out.append((torch.from_numpy(rows), torch.from_numpy(rng.normal(size=(4, width)))))
    return out


def test_table_rows_follow_a_dense_adagrad():
    """The touched rows are those of Adagrad on a dense gradient with zeros elsewhere, and no other row changes."""
    parameters = make_parameters(n_sparse=12)
    start = parameters.table.clone()
    optimizer = Optimizer(parameters, weight_decay=0.3, table_rate=7.0)
    expected, squares = start.clone(), torch.zeros_like(start)
    touched = set()
    for rows, values in sparse_gradients(parameters, 9):
        optimizer.step(0.01, torch.zeros_like(parameters.flat), TableGradient(rows, values.clone()))
        dense = torch.zeros_like(start)
        dense[rows] = values
        squares += dense * dense
        expected -= 0.07 * dense / (squares + ADAGRAD_EPSILON).sqrt()
        touched |= set(rows.tolist())
    torch.testing.assert_close(parameters.table, expected, rtol=1e-12, atol=1e-12)
    untouched = [i for i in range(12) if i not in touched]
    assert len(untouched) >= 3
    assert torch.equal(parameters.table[untouched], start[untouched])


def test_adagrad_is_that_of_torch():
    """torch.optim.Adagrad on the dense gradient makes the same table (its epsilon stands outside of the root)."""
    parameters = make_parameters(n_sparse=12)
    reference = parameters.table.clone().requires_grad_()
    theirs = torch.optim.Adagrad([reference], lr=0.05, eps=0.0, initial_accumulator_value=ADAGRAD_EPSILON)
    optimizer = Optimizer(parameters)
    for rows, values in sparse_gradients(parameters, 9):
        reference.grad = torch.zeros_like(reference)
        reference.grad[rows] = values
        theirs.step()
        optimizer.step(0.05, torch.zeros_like(parameters.flat), TableGradient(rows, values.clone()))
    torch.testing.assert_close(parameters.table, reference.detach(), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 500), st.integers(0, 50), st.sampled_from(["constant", "flat", "cosine"]))
def test_learning_rate_factor_is_a_share_that_rises_and_then_does_not(n_steps, warmup, schedule):
    """Every factor is in [0, 1]; it rises to 1 over the warm-up and does not rise after it."""
    warmup = min(warmup, n_steps)
    factors = [learning_rate_factor(step, n_steps, warmup, schedule) for step in range(n_steps)]
    assert all(0 <= f <= 1 for f in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    if warmup and n_steps > warmup:
        assert factors[warmup - 1] == 1
        assert factors[warmup] == 1


def test_learning_rate_schedules_in_closed_form():
    """Constant is 1 without a warm-up; flat is 1 after it; cosine is (1 + cos(pi t)) / 2 after it."""
    assert [learning_rate_factor(s, 100, 10, "constant") for s in (0, 5, 99)] == [1, 1, 1]
    assert [learning_rate_factor(s, 100, 10, "flat") for s in (0, 4, 9, 10, 99)] == [0.1, 0.5, 1, 1, 1]
    for step in (10, 33, 77, 99):
        expected = (1 + math.cos(math.pi * (step - 10) / 90)) / 2
        assert learning_rate_factor(step, 100, 10, "cosine") == pytest.approx(expected, rel=1e-14)
    assert learning_rate_factor(150, 100, 10, "cosine") == 0


def test_optimizer_goes_on_after_a_pickle():
    """A pickled optimizer with its parameters takes the same steps as the one that stayed."""
    parameters = make_parameters(n_sparse=12)
    optimizer = Optimizer(parameters, betas=(0.9, 0.95), weight_decay=0.1, average_power=2.0)
    steps = list(zip(gradients(parameters, 6), sparse_gradients(parameters, 6), strict=True))
    for gradient, (rows, values) in steps[:3]:
        optimizer.step(0.1, gradient, TableGradient(rows, values.clone()))
    copy = pickle.loads(pickle.dumps(optimizer))
    for gradient, (rows, values) in steps[3:]:
        optimizer.step(0.1, gradient, TableGradient(rows, values.clone()))
        copy.step(0.1, gradient, TableGradient(rows, values.clone()))
    assert torch.equal(copy.parameters.flat, parameters.flat)
    assert torch.equal(copy.parameters.table, parameters.table)
    assert torch.equal(copy.averaged(), optimizer.averaged())
    for name, view in copy.parameters.views.items():
        assert torch.equal(view, parameters.views[name]), name
