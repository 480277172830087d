r"""The network forward: encoded features to logits, on NumPy or torch arrays.

::

    dense (n, d) --[embedding]--> (n, d + d E) --\
                                                  >-- first layer -- activation -- ... -- last layer --> (M, n, K)
    sparse (n, s) --------------------------------/

Every weight has a leading member axis M: members are independent networks that share the input (and its embedding),
computed as one batched product. :func:`forward` averages their probabilities and returns the logits of that average.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from softmaxnet.softmax import log_sigmoid, log_softmax, sigmoid

__all__ = [
    "ACTIVATIONS",
    "NetworkSpec",
    "combine_members",
    "forward",
    "head_inputs",
    "input_gradient",
    "member_logits",
    "parameter_shapes",
]

Array = Any  # a NumPy array or a torch tensor


@dataclass(frozen=True)
class NetworkSpec:
    """The shape of a network: everything that a forward pass needs besides the numbers.

    Attributes
    ----------
    n_dense, n_sparse : int
        Columns of the dense and of the sparse block.
    n_classes : int
        K, the number of logits.
    hidden_layer_sizes : tuple of int
        Units of each hidden layer, of each member; ``()`` is softmax regression.
    activation : str
        A key of :data:`ACTIVATIONS`.
    n_members : int
        M, independent networks averaged as probabilities.
    output : {"softmax", "sigmoid"}
    n_frequencies, embedding_size : int
        Periodic embedding of each dense input: ``cos(2 pi x f + phase)`` for ``n_frequencies`` learned frequencies,
        mixed linearly to ``embedding_size`` numbers that stand beside the input itself. 0 is no embedding.
    """

    n_dense: int
    n_sparse: int
    n_classes: int
    hidden_layer_sizes: tuple[int, ...] = ()
    activation: str = "relu"
    n_members: int = 1
    output: str = "softmax"
    n_frequencies: int = 0
    embedding_size: int = 0

    @property
    def n_inputs(self) -> int:
        """Dense inputs of the first layer, embedding included."""
        return self.n_dense * (1 + self.embedding_size)

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Inputs of the first layer, units of each hidden layer, classes."""
        return (self.n_inputs, *self.hidden_layer_sizes, self.n_classes)

    @property
    def n_layers(self) -> int:
        """Layers with weights, the output layer included."""
        return len(self.hidden_layer_sizes) + 1


def parameter_shapes(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    """Return the name and the shape of every parameter, in the order in which a file holds them.

    Examples
    --------
    >>> parameter_shapes(NetworkSpec(4, 0, 3))
    {'layers.0.weight': (1, 4, 3), 'layers.0.bias': (1, 3)}
    """
    shapes: dict[str, tuple[int, ...]] = {}
    if spec.embedding_size:
        shapes["embedding.frequency"] = (spec.n_dense, spec.n_frequencies)
        shapes["embedding.phase"] = (spec.n_dense, spec.n_frequencies)
        shapes["embedding.weight"] = (spec.n_dense, spec.n_frequencies, spec.embedding_size)
    if spec.n_sparse:
        shapes["sparse.weight"] = (spec.n_sparse, spec.n_members * spec.layer_sizes[1])
    sizes = spec.layer_sizes
    for i in range(spec.n_layers):
        shapes[f"layers.{i}.weight"] = (spec.n_members, sizes[i], sizes[i + 1])
        shapes[f"layers.{i}.bias"] = (spec.n_members, sizes[i + 1])
    return shapes


def _is_torch(array: Array) -> bool:
    return type(array).__module__.startswith("torch")


def _xp(array: Array) -> Any:
    """Return the library of an array: numpy, or torch where the array is a tensor."""
    if _is_torch(array):
        import torch

        return torch
    return np


def _sigmoid(z: Array) -> Array:
    # 1 / (1 + e^-z) through tanh: no overflow on either side, one transcendental.
    return 0.5 * _xp(z).tanh(0.5 * z) + 0.5


def _relu(z: Array) -> Array:
    return z.clamp(min=0) if _is_torch(z) else np.maximum(z, 0)


def _gelu(z: Array) -> Array:
    return 0.5 * z * (1 + _xp(z).tanh(0.7978845608028654 * (z + 0.044715 * z * z * z)))


def _silu(z: Array) -> Array:
    return z * _sigmoid(z)


def _mish(z: Array) -> Array:
    # tanh(ln(1 + e)) = e (e + 2) / (e (e + 2) + 2) with e = exp(z); above 20 it is 1 to the last bit of a float64.
    e = _xp(z).exp(z.clamp(max=20.0) if _is_torch(z) else np.minimum(z, 20.0))
    n = e * (e + 2)
    return z * (n / (n + 2))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "sigmoid": _sigmoid,
    "relu": _relu,
    "tanh": lambda z: _xp(z).tanh(z),
    "gelu": _gelu,
    "silu": _silu,
    "mish": _mish,
}
"""Activations by name.

``gelu`` is its tanh form (Hendrycks and Gimpel 2016), ``mish`` is z tanh(ln(1 + e^z)) (Misra 2019).
"""


def embed(spec: NetworkSpec, params: Mapping[str, Array], dense: Array) -> Array:
    """Return the dense inputs beside their periodic embedding, of shape (n_rows, n_inputs).

    ``[x_j | sum_f cos(2 pi x_j frequency_jf + phase_jf) weight_jf.]``: the PBLD embedding of Holzmueller et al.,
    "Better by default" (2024), section 3, without its bias, which the next layer's makes superfluous.
    """
    if not spec.embedding_size:
        return dense
    xp = _xp(dense)
    waves = dense[:, :, None] * (2 * np.pi * params["embedding.frequency"]) + params["embedding.phase"]
    mixed = xp.matmul(xp.cos(waves).swapaxes(0, 1), params["embedding.weight"]).swapaxes(0, 1)
    flat = mixed.reshape(dense.shape[0], spec.n_dense * spec.embedding_size)
    return xp.concatenate((dense, flat), 1)


def member_logits(spec: NetworkSpec, params: Mapping[str, Array], dense: Array, sparse: Array | None = None) -> Array:
    """Return the logits of every member.

    Parameters
    ----------
    spec : NetworkSpec
    params : mapping of str to array, shapes as :func:`parameter_shapes` says
    dense : array of shape (n_rows, n_dense), floating
    sparse : scipy.sparse.csr_array (with NumPy parameters) or torch sparse CSR tensor, (n_rows, n_sparse), optional

    Returns
    -------
    array of shape (n_members, n_rows, n_classes)

    Examples
    --------
    >>> spec = NetworkSpec(2, 0, 3)
    >>> params = {"layers.0.weight": np.array([[[1.0, 0, 2], [0, 1, 2]]]), "layers.0.bias": np.zeros((1, 3))}
    >>> member_logits(spec, params, np.array([[1.0, 2.0]]))
    array([[[1., 2., 6.]]])
    """
    return deque(_layer_outputs(spec, params, dense, sparse), maxlen=1)[0]  # earlier layers are let go of


def head_inputs(spec: NetworkSpec, params: Mapping[str, Array], dense: Array, sparse: Array | None = None) -> Array:
    """Return what the last layer multiplies its weights with, (n_members or 1, n_rows, width); arguments as above.

    The last layer itself is not computed. Without hidden layers the sparse block is part of the logits, not of this.

    Examples
    --------
    >>> spec = NetworkSpec(2, 0, 3, (1,), "relu")
    >>> params = {"layers.0.weight": np.array([[[1.0], [-2.0]]]), "layers.0.bias": np.zeros((1, 1))}
    >>> head_inputs(spec, params, np.array([[5.0, 2.0], [1.0, 1.0]]))
    array([[[1.],
            [0.]]])
    """
    if spec.n_layers == 1:
        return embed(spec, params, dense)[None]
    below = islice(_layer_outputs(spec, params, dense, sparse), spec.n_layers - 1)
    return ACTIVATIONS[spec.activation](deque(below, maxlen=1)[0])


def _layer_outputs(
    spec: NetworkSpec, params: Mapping[str, Array], dense: Array, sparse: Array | None
) -> Iterator[Array]:
    """Yield every layer's sums ``x_i W_i + b_i`` before its activation, the last one being the logits."""
    x = embed(spec, params, dense)
    activate = ACTIVATIONS[spec.activation]
    for i in range(spec.n_layers):
        z = x @ params[f"layers.{i}.weight"]
        z += params[f"layers.{i}.bias"][:, None, :]
        if i == 0 and sparse is not None and spec.n_sparse:
            wide = sparse @ params["sparse.weight"]
            z += wide.reshape(wide.shape[0], spec.n_members, -1).swapaxes(0, 1)
        yield z
        if i < spec.n_layers - 1:
            x = activate(z)


def combine_members(spec: NetworkSpec, logits: Array) -> Array:
    """Return the logits of the members' average probability, of shape (n_rows, n_classes).

    ``logsumexp_m(log_softmax(z_m)) - ln M``; the softmax of it is the mean of the members' softmaxes. One member's
    logits stay as they are. With ``output="sigmoid"`` it is ``ln mean_m sigmoid(z_m)``, whose exponentials are the K
    independent confidences and whose softmax is the confidences divided by their sum.

    Examples
    --------
    >>> spec = NetworkSpec(2, 0, 2, n_members=2)
    >>> z = combine_members(spec, np.log([[[0.9, 0.1]], [[0.5, 0.5]]]))
    >>> np.exp(z).round(3)
    array([[0.7, 0.3]])
    """
    if spec.output == "sigmoid":
        logits = log_sigmoid(logits)
    elif spec.n_members == 1:
        return logits[0]
    else:
        logits = log_softmax(logits)
    if spec.n_members == 1:
        return logits[0]
    xp = _xp(logits)
    top = xp.amax(logits, 0)
    return top + xp.log(xp.exp(logits - top).mean(0))


def forward(spec: NetworkSpec, params: Mapping[str, Array], dense: Array, sparse: Array | None = None) -> Array:
    """Return the logits of the whole network, of shape (n_rows, n_classes); arguments as :func:`member_logits`."""
    plain = spec.n_members == 1 and spec.output == "softmax" and not spec.embedding_size
    if plain and type(dense) is np.ndarray:
        return _one_network(spec, params, dense, sparse)
    return combine_members(spec, member_logits(spec, params, dense, sparse))


def _one_network(spec: NetworkSpec, params: Mapping[str, Array], x: Array, sparse: Array | None) -> Array:
    """Return the logits of a single network, as ``forward`` does: no member axis, activations in place (NumPy)."""
    last = len(spec.hidden_layer_sizes)
    for i in range(last + 1):
        z = x @ params[f"layers.{i}.weight"][0]
        z += params[f"layers.{i}.bias"][0]
        if i == 0 and sparse is not None and spec.n_sparse:
            z += sparse @ params["sparse.weight"]
        if i < last:
            x = np.maximum(z, 0, out=z) if spec.activation == "relu" else ACTIVATIONS[spec.activation](z)
    return z


# --- the gradient at the input (NumPy) ----------------------------------------------------------------------


def _gelu_derivative(z: Array) -> Array:
    t = np.tanh(0.7978845608028654 * (z + 0.044715 * z * z * z))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * z * z)


def _silu_derivative(z: Array) -> Array:
    s = _sigmoid(z)
    return s + z * s * (1 - s)


def _mish_derivative(z: Array) -> Array:
    # with t = tanh(softplus(z)): d t / d z = (1 - t^2) sigmoid(z)
    e = np.exp(np.minimum(z, 20.0))
    n = e * (e + 2)
    t = n / (n + 2)
    return t + z * (1 - t * t) * _sigmoid(z)


_DERIVATIVES: dict[str, Callable[[Array], Array]] = {
    "identity": np.ones_like,
    "sigmoid": lambda z: _sigmoid(z) * _sigmoid(-z),
    "relu": lambda z: (z > 0).astype(z.dtype),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "gelu": _gelu_derivative,
    "silu": _silu_derivative,
    "mish": _mish_derivative,
}


def input_gradient(
    spec: NetworkSpec,
    params: Mapping[str, Array],
    dense: Array,
    sparse: Array | None = None,
    *,
    d_logits: Array,
) -> tuple[Array, Array | None]:
    """Return the gradient of a weighted sum of a row's logits at its inputs, in closed form (NumPy).

    ``g_ij = sum_k d_logits_ik  d forward(x)_ik / d x_ij``, layer by layer from the logits back::

        d_last = gradient of combine_members          d_{i-1} = (d_i W_i^T) * f'(z_{i-1})
        g      = sum over the members of d_0 W_0^T    (and through the embedding's cosines)

    Parameters
    ----------
    spec, params, dense, sparse : as :func:`member_logits`, NumPy arrays and a ``csr_array``
    d_logits : array of shape (n_rows, n_classes)
        The weight of every logit: a one for the class in question gives the gradient of its logit.

    Returns
    -------
    dense gradient : array of shape (n_rows, n_dense)
    sparse gradient : csr_array of the stored entries of ``sparse``, zeros among them included, or None
        The gradient at all n_sparse inputs could be too large to hold; store a zero where it is wanted.

    Examples
    --------
    >>> spec = NetworkSpec(2, 0, 3)
    >>> params = {"layers.0.weight": np.array([[[1.0, 0, 2], [0, 1, 3]]]), "layers.0.bias": np.zeros((1, 3))}
    >>> input_gradient(spec, params, np.array([[1.0, 2.0]]), d_logits=np.array([[0.0, 0.0, 1.0]]))
    (array([[2., 3.]]), None)
    """
    outputs = list(_layer_outputs(spec, params, dense, sparse))
    d = _combine_gradient(spec, outputs[-1], d_logits)
    derivative = _DERIVATIVES[spec.activation]
    for i in range(spec.n_layers - 1, 0, -1):
        d = (d @ params[f"layers.{i}.weight"].swapaxes(1, 2)) * derivative(outputs[i - 1])
    d_inputs = (d @ params["layers.0.weight"].swapaxes(1, 2)).sum(axis=0)
    d_dense = _embedding_gradient(spec, params, dense, d_inputs)
    if sparse is None or not spec.n_sparse:
        return d_dense, None
    return d_dense, _sparse_gradient(params["sparse.weight"], sparse, d.swapaxes(0, 1).reshape(sparse.shape[0], -1))


def _sparse_gradient(weight: Array, sparse: Array, d_first: Array) -> Array:
    """Return ``weight_j . d_first_i`` at the stored entries (i, j), a block of entries at a time."""
    found = sparse.copy()
    rows = np.repeat(np.arange(sparse.shape[0]), np.diff(sparse.indptr))
    found.data = np.empty(sparse.nnz, dtype=d_first.dtype)
    step = max(1, 2**20 // weight.shape[1])
    for start in range(0, sparse.nnz, step):
        part = slice(start, start + step)
        found.data[part] = np.einsum("ij,ij->i", weight[sparse.indices[part]], d_first[rows[part]])
    return found


def _combine_gradient(spec: NetworkSpec, logits: Array, d_combined: Array) -> Array:
    """Return the gradient at every member's logits, (M, n_rows, n_classes), from that at the combined ones.

    With ``r_mk`` the share of member m in the mean probability of class k: ``r_m v - p_m sum_k r_mk v_k`` for the
    softmax, ``r_m (1 - s_m) v`` for the sigmoid.
    """
    if spec.n_members == 1 and spec.output == "softmax":
        return d_combined[None]
    log_proba = log_sigmoid(logits) if spec.output == "sigmoid" else log_softmax(logits)
    share = np.exp(log_proba - log_proba.max(axis=0))
    share /= share.sum(axis=0)
    own = share * d_combined
    if spec.output == "sigmoid":
        return own * sigmoid(-logits)
    return own - np.exp(log_proba) * own.sum(axis=-1, keepdims=True)


def _embedding_gradient(spec: NetworkSpec, params: Mapping[str, Array], dense: Array, d_inputs: Array) -> Array:
    """Return the gradient at the dense inputs from that at the first layer's inputs (see :func:`embed`)."""
    if not spec.embedding_size:
        return d_inputs
    d_mixed = d_inputs[:, spec.n_dense :].reshape(-1, spec.n_dense, spec.embedding_size)
    angular = 2 * np.pi * params["embedding.frequency"]
    waves = dense[:, :, None] * angular + params["embedding.phase"]
    d_cosines = np.einsum("nje,jfe->njf", d_mixed, params["embedding.weight"])
    return d_inputs[:, : spec.n_dense] - (np.sin(waves) * angular * d_cosines).sum(axis=2)
