"""The forward pass and its gradient at the input, against a hand-written reference and torch.autograd."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse

from softmaxnet.network import (
    ACTIVATIONS,
    NetworkSpec,
    combine_members,
    forward,
    input_gradient,
    member_logits,
    parameter_shapes,
)
from softmaxnet.softmax import softmax

torch = pytest.importorskip("torch")

BASE = NetworkSpec(3, 0, 4, (5,), "tanh")
SPECS = {
    "regression": replace(BASE, hidden_layer_sizes=()),
    "one hidden layer": BASE,
    "two hidden layers": replace(BASE, hidden_layer_sizes=(6, 5), activation="gelu"),
    "members": replace(BASE, n_members=3, activation="silu"),
    "sparse": replace(BASE, n_sparse=7),
    "sparse only": replace(BASE, n_dense=0, n_sparse=7, hidden_layer_sizes=()),
    "sparse members": replace(BASE, n_sparse=7, n_members=2, activation="mish"),
    "embedding": replace(BASE, n_frequencies=4, embedding_size=2),
    "embedding members": replace(BASE, n_frequencies=2, embedding_size=3, n_members=2, n_sparse=4),
    "sigmoid": replace(BASE, output="sigmoid", hidden_layer_sizes=()),
    "sigmoid members": replace(BASE, output="sigmoid", n_members=3),
}
EVERY_SPEC = pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
EVERY_ACTIVATION = pytest.mark.parametrize("activation", sorted(ACTIVATIONS))


def make(spec: NetworkSpec, n_rows: int = 6, seed: int = 0):
    """Return random parameters, a dense block and a sparse block or None, all float64."""
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(size=shape) for name, shape in parameter_shapes(spec).items()}
    sparse = scipy.sparse.random_array((n_rows, spec.n_sparse), density=0.4, format="csr", rng=rng)
    return params, rng.normal(size=(n_rows, spec.n_dense)), sparse if spec.n_sparse else None


def as_torch(params, dense, sparse):
    """Return the same as tensors."""
    tensors = {name: torch.from_numpy(value) for name, value in params.items()}
    wide = None if sparse is None else torch.from_numpy(sparse.toarray())
    return tensors, torch.from_numpy(dense), wide


def reference_member(spec: NetworkSpec, params, m: int, x: np.ndarray, wide: np.ndarray | None) -> np.ndarray:
    """Return the logits of one member for one row, number by number, from the definitions."""
    activations = {
        "identity": lambda z: z,
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "relu": lambda z: max(z, 0.0),
        "tanh": np.tanh,
        "gelu": lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
        "silu": lambda z: z / (1 + np.exp(-z)),
        "mish": lambda z: z * np.tanh(np.log1p(np.exp(z))),
    }
    inputs = list(x)
    for j, e in itertools.product(range(spec.n_dense), range(spec.embedding_size)):
        frequency, phase = params["embedding.frequency"][j], params["embedding.phase"][j]
        waves = [np.cos(2 * np.pi * f * x[j] + p) for f, p in zip(frequency, phase, strict=True)]
        inputs.append(sum(wave * params["embedding.weight"][j, f, e] for f, wave in enumerate(waves)))
    for i in range(spec.n_layers):
        weight, bias = params[f"layers.{i}.weight"][m], params[f"layers.{i}.bias"][m]
        outputs = []
        for unit in range(bias.size):
            z = bias[unit] + sum(inputs[j] * weight[j, unit] for j in range(len(inputs)))
            if i == 0 and wide is not None:
                z += sum(value * params["sparse.weight"][s, m * bias.size + unit] for s, value in enumerate(wide))
            outputs.append(activations[spec.activation](z) if i < spec.n_layers - 1 else z)
        inputs = outputs
    return np.array(inputs)


@EVERY_SPEC
def test_member_logits_are_the_definitions(spec: NetworkSpec) -> None:
    """Every member's logits are those of the formulas written out number by number."""
    params, dense, sparse = make(spec, 3)
    found = member_logits(spec, params, dense, sparse)
    wide = None if sparse is None else sparse.toarray()
    for m, row in itertools.product(range(spec.n_members), range(3)):
        expected = reference_member(spec, params, m, dense[row], None if wide is None else wide[row])
        np.testing.assert_allclose(found[m, row], expected, rtol=1e-12, atol=1e-12)


@EVERY_ACTIVATION
def test_activations_are_their_definitions(activation: str) -> None:
    """Every activation is its textbook formula, and finite and quiet for huge inputs."""
    spec = replace(BASE, activation=activation, n_dense=1, hidden_layer_sizes=(1,), n_classes=1)
    one = {name: np.ones(shape) for name, shape in parameter_shapes(spec).items()} | {"layers.0.bias": np.zeros((1, 1))}
    for z in (-30.0, -3.0, -0.1, 0.0, 0.7, 4.0, 25.0):
        found = member_logits(spec, one, np.array([[z]]))[0, 0]
        np.testing.assert_allclose(found, reference_member(spec, one, 0, np.array([z]), None), rtol=1e-9, atol=1e-12)
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(ACTIVATIONS[activation](np.array([-900.0, 900.0]))).all()


@EVERY_SPEC
def test_torch_and_numpy_agree(spec: NetworkSpec) -> None:
    """The one text of the forward pass gives the same logits with both libraries."""
    params, dense, sparse = make(spec)
    found = forward(spec, *as_torch(params, dense, sparse)).numpy()
    np.testing.assert_allclose(found, forward(spec, params, dense, sparse), rtol=1e-12, atol=1e-12)


def test_combine_members_worked_values() -> None:
    """Probabilities .9 .1 and .5 .5 combine to .7 .3, as logits whose exponentials sum to 1."""
    z = combine_members(replace(BASE, n_members=2), np.log([[[0.9, 0.1]], [[0.5, 0.5]]]))
    np.testing.assert_allclose(np.exp(z), [[0.7, 0.3]], rtol=1e-15)


def test_combine_members_averages_probabilities() -> None:
    """The softmax of the combined logits is the mean of the members' softmaxes, also far apart."""
    z = np.random.default_rng(3).normal(size=(4, 5, 3)) * 30
    combined = combine_members(replace(BASE, n_members=4), z)
    np.testing.assert_allclose(softmax(combined), softmax(z).mean(axis=0), rtol=1e-12)
    extreme = combine_members(replace(BASE, n_members=2), np.array([[[1e4, 0.0]], [[1e4, 0.0]]]))
    np.testing.assert_allclose(extreme, [[0.0, -1e4]])


def test_one_member_keeps_its_logits() -> None:
    """One member's logits are not shifted: softmax regression says w x + b."""
    z = np.array([[[1.6, 3.1, 0.5]]])
    np.testing.assert_array_equal(combine_members(BASE, z), z[0])


def test_sigmoid_output_gives_log_confidences() -> None:
    """With output="sigmoid" the logits are ln s(z): s(1.6) = 0.83201839 and so on, averaged over members."""
    spec = replace(BASE, output="sigmoid")
    one = np.exp(combine_members(spec, np.array([[[1.6, 3.1, 0.5]]])))
    np.testing.assert_allclose(one, [[0.83201839, 0.95689275, 0.62245933]], atol=5e-9)
    two = combine_members(replace(spec, n_members=2), np.log([[[0.25 / 0.75]], [[0.75 / 0.25]]]))
    np.testing.assert_allclose(np.exp(two), [[0.5]], rtol=1e-14)


def autograd(spec: NetworkSpec, params, dense, sparse, d_logits):
    """Return the gradients at both blocks by automatic differentiation, the sparse one dense."""
    tensors, x, wide = as_torch(params, dense, sparse)
    leaves = [leaf.requires_grad_() for leaf in (x, wide) if leaf is not None and leaf.numel()]
    total = (forward(spec, tensors, x, wide) * torch.from_numpy(d_logits)).sum()
    found = torch.autograd.grad(total, leaves)
    by_leaf = {id(leaf): gradient.numpy() for leaf, gradient in zip(leaves, found, strict=True)}
    return by_leaf.get(id(x), np.zeros_like(dense)), by_leaf.get(id(wide))


@EVERY_ACTIVATION
@EVERY_SPEC
def test_input_gradient_is_autograd(spec: NetworkSpec, activation: str) -> None:
    """The closed form at dense and sparse inputs is torch's gradient, for every activation and kind of network."""
    spec = replace(spec, activation=activation)
    params, dense, sparse = make(spec)
    d_logits = np.random.default_rng(5).normal(size=(dense.shape[0], spec.n_classes))
    d_dense, d_sparse = input_gradient(spec, params, dense, sparse, d_logits=d_logits)
    expected, wide = autograd(spec, params, dense, sparse, d_logits)
    np.testing.assert_allclose(d_dense, expected, rtol=1e-9, atol=1e-11)
    if sparse is None:
        assert d_sparse is None
    else:
        rows, columns = sparse.nonzero()
        np.testing.assert_allclose(d_sparse.toarray()[rows, columns], wide[rows, columns], rtol=1e-9, atol=1e-11)


def test_input_gradient_at_stored_zeros() -> None:
    """A zero that is stored in the sparse block gets its gradient, and the block given is left alone."""
    spec = SPECS["sparse"]
    params, dense, _ = make(spec, 2)
    values = np.zeros(14)
    full = scipy.sparse.csr_array((values, np.tile(np.arange(7), 2), np.array([0, 7, 14])), shape=(2, 7))
    d_logits = np.eye(4)[[1, 3]]
    found = input_gradient(spec, params, dense, full, d_logits=d_logits)[1]
    _, expected = autograd(spec, params, dense, full, d_logits)
    np.testing.assert_allclose(found.data.reshape(2, 7), expected, rtol=1e-10)
    assert not full.data.any()


@EVERY_ACTIVATION
def test_input_gradient_is_finite_far_out(activation: str) -> None:
    """Saturated units have a gradient of 0 or 1, without overflow or NaN."""
    spec = replace(BASE, activation=activation)
    params, dense, _ = make(spec, 4)
    with np.errstate(all="raise", under="ignore"):
        found, _ = input_gradient(spec, params, dense * 1e4, d_logits=np.ones((4, 4)))
    assert np.isfinite(found).all()


def test_input_gradient_where_members_disagree() -> None:
    """Members that are certain of different classes have finite gradients: nothing underflows to 0 / 0."""
    spec = SPECS["members"]
    params, dense, _ = make(spec, 4)
    params["layers.1.weight"] *= 1e4
    found, _ = input_gradient(spec, params, dense, d_logits=np.ones((4, 4)))
    assert np.isfinite(found).all()
