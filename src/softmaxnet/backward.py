"""The network's loss and its closed-form gradient at every parameter, into one flat buffer (torch).

Forward, for layer i with the scaled parameters ``W = s_w theta_w`` and ``b = s_b theta_b``::

    z_i = x_i W_i + b_i          x_{i+1} = dropout(f(z_i))

Backward, from ``d_last = weight (p - q)`` of the head::

    dtheta_w = s_w x_i^T d_i     dtheta_b = s_b sum_rows d_i     d_{i-1} = (s_w d_i theta_w^T) * mask * f'(z_{i-1})

The scales are the parametrisation: with ``s_w = 1 / sqrt(inputs)`` and weights drawn from N(0, 1) one learning rate
suits layers of every width (the neural tangent parametrisation); with all of them 1 it is PyTorch's. They cost nothing,
for the matrix product takes them as its alpha and beta. Buffers are made once, for the largest batch; a step allocates
next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.head import loss_and_gradient
from softmaxnet.network import NetworkSpec, parameter_shapes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BackwardPass", "Parameters", "ScaledSpec", "SparseBatch", "drop_tokens"]


@dataclass(frozen=True)
class ScaledSpec:
    """A network and the factor between each of its stored parameters and the number that the forward pass uses."""

    network: NetworkSpec
    scales: Mapping[str, float] = field(default_factory=dict)

    def scale(self, name: str) -> float:
        """Return the factor of one parameter; 1 where none is given."""
        return self.scales.get(name, 1.0)


class Parameters:
    """All parameters of a network in one flat tensor, with a view for each name.

    Weights come first and everything that is never decayed (biases, embedding) after them, so that weight decay is one
    operation on a prefix. The sparse block's table stands apart: a batch touches few of its rows.

    Attributes
    ----------
    flat : Tensor of shape (n_parameters,)
    n_decayed : int
        Length of the prefix that weight decay applies to.
    views : dict of str to Tensor
    table : Tensor of shape (n_sparse, n_members * first layer) or None
    """

    def __init__(self, spec: ScaledSpec, *, dtype: Any, device: Any = "cpu") -> None:
        import torch

        shapes = parameter_shapes(spec.network)
        table = shapes.pop("sparse.weight", None)
        order = sorted(shapes, key=lambda name: not _is_decayed(name))  # stable: file order within each half
        sizes = {name: math.prod(shapes[name]) for name in order}
        self.spec = spec
        self.flat = torch.zeros(sum(sizes.values()), dtype=dtype, device=device)
        self.n_decayed = sum(size for name, size in sizes.items() if _is_decayed(name))
        self._layout = {name: shapes[name] for name in order}
        self.views = self.views_of(self.flat)
        self.table = None if table is None else torch.zeros(table, dtype=dtype, device=device)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the views, which a pickle would cut off from the flat tensor."""
        return {name: value for name, value in vars(self).items() if name != "views"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.views = self.views_of(self.flat)

    def views_of(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the views by name of another flat tensor of the same length."""
        views, start = {}, 0
        for name, shape in self._layout.items():
            stop = start + math.prod(shape)
            views[name] = flat[start:stop].view(shape)
            start = stop
        return views

    def effective(self, flat: Tensor | None = None, table: Tensor | None = None) -> dict[str, Tensor]:
        """Return the parameters as the forward pass of ``network.py`` takes them, scales multiplied in."""
        views = self.views if flat is None else self.views_of(flat)
        table = self.table if table is None else table
        out = {name: view * self.spec.scale(name) for name, view in views.items()}
        if table is not None:
            out["sparse.weight"] = table * self.spec.scale("sparse.weight")
        return out

    def initialise(self, rng: np.random.Generator, gain: float = 1.0, zero_head: bool = True) -> None:
        """Draw new weights: N(0, gain^2 / inputs) as the forward pass sees them; biases 0, the last layer 0 if asked.

        The sparse table is drawn as if a row had one active input, so that a category level weighs as much as a number.
        """
        import torch

        network = self.spec.network
        last = f"layers.{network.n_layers - 1}.weight"
        for name, view in self.views.items():
            if name.endswith(".bias") or (name == last and zero_head and network.n_layers > 1):
                view.zero_()
                continue
            draw = rng.standard_normal(tuple(view.shape))
            if name == "embedding.phase":
                draw = rng.uniform(-np.pi, np.pi, tuple(view.shape))
            elif name == "embedding.frequency":
                draw *= 0.1
            elif name == "embedding.weight":
                draw /= math.sqrt(network.n_frequencies)
            else:
                draw *= gain / math.sqrt(max(view.shape[1], 1))
            view.copy_(torch.from_numpy(draw / self.spec.scale(name)))
        if network.n_layers == 1:
            self.views["layers.0.weight"].zero_()
        if self.table is not None:
            draw32 = rng.standard_normal(tuple(self.table.shape), dtype=np.float32)
            width = max(network.n_inputs, 1)
            factor = 0.0 if network.n_layers == 1 else gain / math.sqrt(width) / self.spec.scale("sparse.weight")
            self.table.copy_(torch.from_numpy(draw32)).mul_(factor)


def _is_decayed(name: str) -> bool:
    return name.startswith("layers.") and name.endswith(".weight")


@dataclass
class SparseBatch:
    """The rows of a sparse block as three tensors (CSR), with their transpose for the gradient made on demand."""

    offsets: Tensor  # (n_rows + 1,), int64
    indices: Tensor  # (n_nonzero,), int64
    values: Tensor  # (n_nonzero,), floating


@dataclass
class TableGradient:
    """The gradient at the touched rows of the sparse table."""

    rows: Tensor  # (n_touched,), int64, ascending
    values: Tensor  # (n_touched, n_members * first layer)


class BackwardPass:
    """Loss and gradient of one network for batches of up to ``max_rows`` rows.

    Parameters
    ----------
    parameters : Parameters
        Read at each call; ``compute`` may give another flat tensor of the same layout (a bfloat16 copy).
    max_rows : int
    dropout : float in [0, 1)
        Share of each hidden layer's outputs set to 0, drawn for the whole batch from (seed, step).
    label_smoothing : float
    compute_dtype : torch dtype of the matrix products; sums, the softmax and the gradients are in the parameters' dtype
    """

    def __init__(
        self,
        parameters: Parameters,
        max_rows: int,
        *,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        compute_dtype: Any = None,
    ) -> None:
        import torch

        self.parameters = parameters
        self.spec = parameters.spec.network
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        dtype, device = parameters.flat.dtype, parameters.flat.device
        self.dtype = compute_dtype or dtype
        self.gradient = torch.zeros_like(parameters.flat)
        self.gradient_views = parameters.views_of(self.gradient)
        self.table_gradient: TableGradient | None = None
        self.mixed = self.dtype != dtype
        self._flat16 = parameters.flat.to(self.dtype) if self.mixed else parameters.flat
        self._views = parameters.views_of(self._flat16) if self.mixed else parameters.views
        members = self.spec.n_members
        sizes = self.spec.layer_sizes
        self._z = [torch.empty(members, max_rows, h, dtype=self.dtype, device=device) for h in sizes[1:]]
        self._x = [torch.empty_like(z) for z in self._z[:-1]]
        self._d = [torch.empty_like(z) for z in self._z[:-1]]
        self._logits = torch.empty_like(self._z[-1], dtype=dtype)
        self._embedding = _Embedding(self.spec, max_rows, self.dtype, device) if self.spec.embedding_size else None

    def __call__(
        self,
        dense: Tensor,
        target: Tensor,
        weight: Tensor,
        sparse: SparseBatch | None = None,
        mask_key: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """Return the loss of a batch [nats times weight] and leave its gradient in ``gradient``.

        Parameters
        ----------
        dense : Tensor of shape (n_rows, n_dense), of the compute dtype
        target, weight : as :func:`softmaxnet.head.loss_and_gradient`
        sparse : SparseBatch, optional
        mask_key : (seed, step)
            What the dropout masks are a pure function of.
        """
        if self.mixed:
            self._flat16.copy_(self.parameters.flat)
        n = dense.shape[0]
        x0 = self._embedding.forward(self, dense) if self._embedding else dense
        inputs, masks = self._forward(x0, sparse, n, mask_key)
        logits = self._logits[:, :n]
        if self.mixed:
            logits.copy_(self._z[-1][:, :n])
        else:
            logits = self._z[-1][:, :n]
        loss = loss_and_gradient(
            logits, target, weight, output=self.spec.output, label_smoothing=self.label_smoothing
        )
        delta = self._z[-1][:, :n]
        if self.mixed:
            delta.copy_(logits)
        self._backward(inputs, masks, delta, sparse, n)
        return loss

    def _forward(
        self, x0: Tensor, sparse: SparseBatch | None, n: int, key: tuple[int, int]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Fill ``_z`` and return the inputs of each layer with the dropout masks after each hidden one."""
        spec, scale = self.spec, self.parameters.spec.scale
        x = x0.expand(spec.n_members, -1, -1)
        inputs = [x]
        masks: list[Tensor | None] = []
        hidden = sum(spec.hidden_layer_sizes) * spec.n_members * n
        pool = _mask_pool(self.dropout, hidden, key, x0.device) if self.dropout else None
        for i in range(spec.n_layers):
            z = self._z[i][:, :n]
            _affine(
                x,
                self._views[f"layers.{i}.weight"],
                self._views[f"layers.{i}.bias"],
                scale(f"layers.{i}.weight"),
                scale(f"layers.{i}.bias"),
                z,
            )
            if i == 0 and sparse is not None:
                self._add_sparse(z, sparse)
            if i == spec.n_layers - 1:
                break
            x = self._x[i][:, :n]
            _activate(spec.activation, z, x)
            mask = None
            if pool is not None:
                count = x.numel()
                keep, pool = pool[:count].view(x.shape), pool[count:]
                mask = keep.to(self.dtype).mul_(_keep_scale(self.dropout))
                x.mul_(mask)
            masks.append(mask)
            inputs.append(x)
        return inputs, masks

    def _backward(
        self,
        inputs: list[Tensor],
        masks: list[Tensor | None],
        delta: Tensor,
        sparse: SparseBatch | None,
        n: int,
    ) -> None:
        """Fill ``gradient`` from the gradient at the logits, last layer first."""
        import torch

        spec, scale = self.spec, self.parameters.spec.scale
        for i in reversed(range(spec.n_layers)):
            name = f"layers.{i}"
            _weight_gradient(
                inputs[i], delta, scale(f"{name}.weight"), self.gradient_views[f"{name}.weight"]
            )
            bias = self.gradient_views[f"{name}.bias"]
            if delta.dtype == bias.dtype:
                torch.sum(delta, 1, out=bias)
            else:
                bias.copy_(delta.sum(1, dtype=bias.dtype))
            if scale(f"{name}.bias") != 1.0:
                bias.mul_(scale(f"{name}.bias"))
            if i == 0:
                break
            below = self._d[i - 1][:, :n]
            _input_gradient(delta, self._views[f"{name}.weight"], scale(f"{name}.weight"), below)
            mask = masks[i - 1]
            if mask is not None:
                below.mul_(mask)
            delta = _activation_gradient(spec.activation, below, self._z[i - 1][:, :n], inputs[i], mask)
        if sparse is not None:
            self.table_gradient = self._sparse_gradient(delta, sparse)
        if self._embedding:
            self._embedding.backward(self, delta)

    def _add_sparse(self, z: Tensor, sparse: SparseBatch) -> None:
        import torch

        table = self.parameters.table
        assert table is not None
        wide = torch.nn.functional.embedding_bag(
            sparse.indices,
            table,
            sparse.offsets,
            mode="sum",
            per_sample_weights=sparse.values,
            include_last_offset=True,
        )
        wide = wide.view(z.shape[1], z.shape[0], z.shape[2]).transpose(0, 1)
        z.add_(wide, alpha=self.parameters.spec.scale("sparse.weight"))

    def _sparse_gradient(self, delta: Tensor, sparse: SparseBatch) -> TableGradient:
        """Return ``S^T delta`` at the columns of S that the batch has, without a dense S."""
        import scipy.sparse
        import torch

        n = delta.shape[1]
        flat = delta.transpose(0, 1).reshape(n, -1)
        rows, local = torch.unique(sparse.indices, return_inverse=True)
        # SciPy's CSR times dense adds whole rows with vector instructions and allocates one result.
        matrix = scipy.sparse.csr_array(
            (sparse.values.cpu().numpy(), local.cpu().numpy(), sparse.offsets.cpu().numpy()),
            shape=(n, len(rows)),
        )
        dtype = self.parameters.flat.dtype
        product = torch.from_numpy(matrix.T @ flat.to(dtype).cpu().numpy()).to(delta.device)
        return TableGradient(rows, product.mul_(self.parameters.spec.scale("sparse.weight")))


class _Embedding:
    """Forward and backward of the periodic embedding, with the waves kept as (n_dense, n_rows, n_frequencies)."""

    def __init__(self, spec: NetworkSpec, max_rows: int, dtype: Any, device: Any) -> None:
        import torch

        shape = (spec.n_dense, max_rows, spec.n_frequencies)
        self.waves = torch.empty(shape, dtype=dtype, device=device)
        self.cosine = torch.empty_like(self.waves)
        self.output = torch.empty(max_rows, spec.n_inputs, dtype=dtype, device=device)
        self.dense: Tensor | None = None

    def forward(self, owner: BackwardPass, dense: Tensor) -> Tensor:
        import torch

        spec, scale, views = owner.spec, owner.parameters.spec.scale, owner._views
        n = dense.shape[0]
        self.dense = dense
        waves, cosine = self.waves[:, :n], self.cosine[:, :n]
        frequency = views["embedding.frequency"] * (2 * np.pi * scale("embedding.frequency"))
        phase = views["embedding.phase"] * scale("embedding.phase")
        torch.mul(dense.T.unsqueeze(-1), frequency.unsqueeze(1), out=waves)
        waves.add_(phase.unsqueeze(1))
        torch.cos(waves, out=cosine)
        mixed = torch.bmm(cosine, views["embedding.weight"]).mul_(scale("embedding.weight"))
        out = self.output[:n]
        out[:, : spec.n_dense] = dense
        out[:, spec.n_dense :].view(n, spec.n_dense, -1).copy_(mixed.transpose(0, 1))
        return out

    def backward(self, owner: BackwardPass, delta: Tensor) -> None:
        """Fill the embedding's gradients from the gradient at the first layer's outputs."""
        import torch

        spec, scale, views = owner.spec, owner.parameters.spec.scale, owner._views
        n = delta.shape[1]
        assert self.dense is not None
        weight = views["layers.0.weight"][:, spec.n_dense :]
        at_input = torch.bmm(delta, weight.transpose(1, 2)).sum(0).mul_(scale("layers.0.weight"))
        at_mixed = at_input.view(n, spec.n_dense, -1).transpose(0, 1)  # (n_dense, n, E)
        waves, cosine = self.waves[:, :n], self.cosine[:, :n]
        grads = owner.gradient_views
        grads["embedding.weight"].copy_(torch.bmm(cosine.transpose(1, 2), at_mixed)).mul_(
            scale("embedding.weight")
        )
        at_waves = torch.bmm(at_mixed, views["embedding.weight"].transpose(1, 2)).mul_(-scale("embedding.weight"))
        at_waves.mul_(waves.sin_())
        grads["embedding.phase"].copy_(at_waves.sum(1)).mul_(scale("embedding.phase"))
        at_waves.mul_(self.dense.T.unsqueeze(-1))
        grads["embedding.frequency"].copy_(at_waves.sum(1)).mul_(2 * np.pi * scale("embedding.frequency"))


def _affine(x: Tensor, weight: Tensor, bias: Tensor, s_w: float, s_b: float, out: Tensor) -> None:
    """``out = s_w x W + s_b b`` for every member; one member goes as a plain matrix product, which BLAS does faster."""
    import torch

    if out.shape[0] == 1:
        torch.addmm(bias[0], x[0], weight[0], beta=s_b, alpha=s_w, out=out[0])
    else:
        torch.baddbmm(bias.unsqueeze(1), x, weight, beta=s_b, alpha=s_w, out=out)


def _weight_gradient(x: Tensor, delta: Tensor, s_w: float, out: Tensor) -> None:
    import torch

    if x.dtype != out.dtype:  # bfloat16 products; the sum over rows is float32 inside the kernel
        out.copy_(torch.bmm(x.transpose(1, 2), delta)).mul_(s_w)
    elif out.shape[0] == 1:
        torch.addmm(out[0], x[0].T, delta[0], beta=0, alpha=s_w, out=out[0])
    else:
        torch.baddbmm(out, x.transpose(1, 2), delta, beta=0, alpha=s_w, out=out)


def _input_gradient(delta: Tensor, weight: Tensor, s_w: float, out: Tensor) -> None:
    import torch

    if out.shape[0] == 1:
        torch.addmm(out[0], delta[0], weight[0].T, beta=0, alpha=s_w, out=out[0])
    else:
        torch.baddbmm(out, delta, weight.transpose(1, 2), beta=0, alpha=s_w, out=out)


def _activate(name: str, z: Tensor, out: Tensor) -> None:
    """``out = f(z)`` by the library's own vector kernels."""
    import torch

    aten = torch.ops.aten
    if name == "relu":
        torch.clamp(z, min=0, out=out)
    elif name == "gelu":
        aten.gelu.out(z, approximate="tanh", out=out)
    elif name == "identity":
        out.copy_(z)
    else:
        kernels: dict[str, Any] = {
            "sigmoid": torch.sigmoid,
            "tanh": torch.tanh,
            "silu": aten.silu.out,
            "mish": aten.mish.out,
        }
        kernels[name](z, out=out)


def _activation_gradient(name: str, grad: Tensor, z: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``grad * f'(z)``, in place where the library has the kernel."""
    import torch

    aten: Any = torch.ops.aten
    if name == "identity":
        return grad
    out: Tensor
    if name == "relu":
        out = aten.threshold_backward.grad_input(grad, z, 0, grad_input=grad)
    elif name == "gelu":
        out = aten.gelu_backward.grad_input(grad, z, approximate="tanh", grad_input=grad)
    elif name == "silu":
        out = aten.silu_backward.grad_input(grad, z, grad_input=grad)
    elif name == "mish":
        out = aten.mish_backward(grad, z)
    else:
        # The outputs say it for these two; where dropout has hidden outputs they are made again from z.
        y = x if mask is None else (torch.sigmoid(z) if name == "sigmoid" else torch.tanh(z))
        kernel = aten.sigmoid_backward if name == "sigmoid" else aten.tanh_backward
        out = kernel.grad_input(grad, y, grad_input=grad)
    return out


def drop_tokens(sparse: SparseBatch, rate: float, key: tuple[int, int]) -> SparseBatch:
    """Return the batch without a random share of its entries, the others scaled up for it: dropout at the input."""
    import torch

    keep = _mask_pool(rate, sparse.values.numel(), (key[0] + 1, key[1]), sparse.values.device)
    before = torch.zeros(keep.numel() + 1, dtype=torch.int64, device=keep.device)
    torch.cumsum(keep, 0, out=before[1:])
    return SparseBatch(before[sparse.offsets], sparse.indices[keep], sparse.values[keep] * _keep_scale(rate))


def _keep_level(dropout: float) -> int:
    return round((1 - dropout) * 256)


def _keep_scale(dropout: float) -> float:
    # Of the rate as it is drawn, in 256ths, so that the expected output is exact.
    return 256 / max(_keep_level(dropout), 1)


def _mask_pool(dropout: float, count: int, key: tuple[int, int], device: Any) -> Tensor:
    """Return ``count`` draws of keep (True) or drop, a pure function of (seed, step).

    Counter-based bytes (Philox, Salmon et al. 2011): any step's masks are had without those before it, and a byte a
    unit is twenty times cheaper than a Bernoulli draw a unit.
    """
    import torch

    raw = np.random.Philox(key=key[0], counter=[0, 0, key[1], 0]).random_raw(-(-count // 8))
    return (torch.from_numpy(raw.view(np.uint8)[:count]).to(device)) < _keep_level(dropout)
