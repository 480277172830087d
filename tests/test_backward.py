"""The closed-form gradients against automatic differentiation, for every layer, loss, weighting and batch shape."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse

torch = pytest.importorskip("torch")

from softmaxnet.backward import BackwardPass
from softmaxnet.batches import SparseBatch
from softmaxnet.dropout import hidden_masks
from softmaxnet.network import ACTIVATIONS, NetworkSpec, member_logits
from softmaxnet.parameters import Parameters, ScaledSpec


def make_parameters(spec: NetworkSpec, seed: int = 0, scaled: bool = True) -> Parameters:
    """Return float64 parameters with every entry drawn, the last layer and the biases too."""
    rng = np.random.default_rng(seed)
    names = ["sparse.weight", *(f"layers.{i}.{part}" for i in range(spec.n_layers) for part in ("weight", "bias"))]
    names += ["embedding.frequency", "embedding.phase", "embedding.weight"]
    scales = {name: float(rng.uniform(0.3, 2)) for name in names} if scaled else {}
    parameters = Parameters(ScaledSpec(spec, scales), dtype=torch.float64)
    parameters.flat.copy_(torch.from_numpy(rng.normal(size=parameters.flat.shape)))
    if parameters.table is not None:
        parameters.table.copy_(torch.from_numpy(rng.normal(size=tuple(parameters.table.shape))))
    return parameters


def make_batch(spec: NetworkSpec, n: int, seed: int = 1):
    """Return a dense block, a sparse block as both libraries take it, labels and weights for each member."""
    rng = np.random.default_rng(seed)
    dense = torch.from_numpy(rng.normal(size=(n, spec.n_dense)))
    labels = torch.from_numpy(rng.integers(0, spec.n_classes, n))
    weight = torch.from_numpy(rng.uniform(0, 2, (spec.n_members, n)))
    if not spec.n_sparse:
        return dense, None, None, labels, weight
    csr = scipy.sparse.random(n, spec.n_sparse, 0.3, "csr", rng=rng)
    batch = SparseBatch(
        torch.from_numpy(csr.indptr.astype(np.int64)),
        torch.from_numpy(csr.indices.astype(np.int64)),
        torch.from_numpy(csr.data),
    )
    return dense, batch, torch.from_numpy(csr.toarray()), labels, weight


def oracle(spec: NetworkSpec, parameters: Parameters, dense, sparse, target, weight, smoothing: float):
    """Return loss and gradients by torch.autograd of the forward pass in network.py."""
    flat = parameters.flat.clone().requires_grad_()
    table = None if parameters.table is None else parameters.table.clone().requires_grad_()
    logits = member_logits(spec, parameters.effective(flat, table), dense, sparse)
    q = torch.nn.functional.one_hot(target, spec.n_classes).double() if target.ndim == 1 else target
    q = (1 - smoothing) * q + smoothing / spec.n_classes
    if spec.output == "softmax":
        rows = -(q * torch.log_softmax(logits, -1)).sum(-1)
    else:
        rows = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, q.expand_as(logits), reduction="none"
        ).sum(-1)
    loss = (weight * rows).sum()
    loss.backward()
    return loss.detach(), flat.grad, None if table is None else table.grad


def assert_same(spec: NetworkSpec, n: int = 7, *, soft: bool = False, smoothing: float = 0.0, row_weight: bool = False):
    """Compare loss and every gradient with the oracle's, to 1e-9."""
    parameters = make_parameters(spec)
    dense, batch, sparse, target, weight = make_batch(spec, n)
    if soft:
        target = torch.softmax(torch.from_numpy(np.random.default_rng(2).normal(size=(n, spec.n_classes))), -1)
    if row_weight:
        weight = weight[0]
    expected, flat, table = oracle(spec, parameters, dense, sparse, target, weight, smoothing)
    step = BackwardPass(parameters, n + 3, label_smoothing=smoothing)
    loss = step(dense, target, weight, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(step.gradient, flat, rtol=1e-9, atol=1e-9)
    if table is not None:
        got = torch.zeros_like(table)
        got[step.table_gradient.rows] = step.table_gradient.values
        torch.testing.assert_close(got, table, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize(("members", "hidden"), [(1, (5,)), (1, (6, 4)), (3, (5, 4)), (2, ())])
def test_gradient_equals_autograd_for_every_activation_and_depth(activation, members, hidden):
    """The flat gradient is autograd's to 1e-9 for every activation, depth and number of members."""
    assert_same(NetworkSpec(4, 0, 3, hidden, activation, members))


@pytest.mark.parametrize(("embedding", "n_sparse"), list(itertools.product((0, 3), (0, 11))))
@pytest.mark.parametrize("members", [1, 2])
def test_gradient_equals_autograd_for_every_input_block(embedding, n_sparse, members):
    """The embedding's gradients and those of the sparse table's touched rows are autograd's."""
    frequencies = 6 * bool(embedding)
    assert_same(NetworkSpec(4, n_sparse, 3, (5,), "tanh", members, "softmax", frequencies, embedding))


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("row_weight", [False, True])
def test_gradient_equals_autograd_for_every_loss_and_weighting(output, soft, smoothing, row_weight):
    """Both outputs, labels and soft targets, smoothing, weights by row and by member agree with autograd."""
    spec = NetworkSpec(4, 0, 3, (5,), "gelu", 2, output)
    assert_same(spec, soft=soft, smoothing=smoothing, row_weight=row_weight)


@pytest.mark.parametrize("n", [1, 2, 13])
@pytest.mark.parametrize("n_classes", [1, 2, 20])
def test_gradient_equals_autograd_for_every_batch_shape(n, n_classes):
    """One row or many, one class or many: the same agreement."""
    assert_same(NetworkSpec(4, 0, n_classes, (5,), "silu"), n)


def test_dropout_masks_are_a_pure_function_of_seed_and_step():
    """The same (seed, step) gives the same gradient, another step another, and rate 0 is no dropout."""
    spec = NetworkSpec(4, 0, 3, (50, 50), "relu", 2)
    parameters = make_parameters(spec)
    dense, _, _, labels, weight = make_batch(spec, 9)
    step = BackwardPass(parameters, 9, dropout=0.4)
    first = step(dense, labels, weight, mask_key=(5, 7)), step.gradient.clone()
    other = step(dense, labels, weight, mask_key=(5, 8)), step.gradient.clone()
    again = step(dense, labels, weight, mask_key=(5, 7)), step.gradient.clone()
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_dropout_gradient_is_the_derivative_of_the_masked_loss(activation):
    """With the masks of one (seed, step) held, the gradient is the finite difference of the loss."""
    spec = NetworkSpec(3, 0, 3, (6, 5), activation)
    parameters = make_parameters(spec, scaled=False)
    dense, _, _, labels, weight = make_batch(spec, 8)
    step = BackwardPass(parameters, 8, dropout=0.3)
    step(dense, labels, weight, mask_key=(1, 1))
    gradient = step.gradient.clone()
    direction = torch.from_numpy(np.random.default_rng(3).normal(size=gradient.shape))
    h = 1e-6
    start = parameters.flat.clone()
    losses = []
    for sign in (1, -1):
        parameters.flat.copy_(start + sign * h * direction)
        losses.append(step(dense, labels, weight, mask_key=(1, 1)).item())
    assert (losses[0] - losses[1]) / (2 * h) == pytest.approx((gradient @ direction).item(), rel=1e-5)


def test_dropout_keeps_the_expected_output():
    """Outputs that stay are scaled up by exactly what the drawn rate takes away."""
    masks = hidden_masks(0.15, NetworkSpec(3, 0, 2, (500, 300)), 500, (0, 0), None, torch.zeros(1)).double()
    assert masks.shape == (400_000,)
    assert masks.mean().item() == pytest.approx(1.0, abs=0.003)
    assert (masks > 0).double().mean().item() == pytest.approx(0.85, abs=0.004)
