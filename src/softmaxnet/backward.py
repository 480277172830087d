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
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softmaxnet.communicator import Communicator
from softmaxnet.head import loss_and_gradient
from softmaxnet.head_pass import HeadPass, Update
from softmaxnet.head_plan import HeadPlan, keeps_copies
from softmaxnet.head_shards import ShardedHead
from softmaxnet.network import NetworkSpec, parameter_shapes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "BackwardPass",
    "Parameters",
    "Part",
    "ScaledSpec",
    "SparseBatch",
    "TableGradient",
    "drop_tokens",
    "scaled_spec",
]

MESSAGES = 3
"""Numbers that are exchanged together with the gradient."""


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
    head : HeadPlan or None
        How steps go through the output layer; None where it is dense.
    by_class : bool
        There is such a plan: the output layer comes last, its weights with a row for each class (the view by name is
        the transpose), and as the forward pass takes them: its scale is a factor on its learning rate instead, so that
        a fitted model can share the memory.
    n_body : int
        Numbers before the output layer where it is by class, all of them otherwise.
    """

    def __init__(self, spec: ScaledSpec, *, dtype: Any, device: Any = "cpu", head: HeadPlan | None = None) -> None:
        import torch

        self.head = None if head is None or head.kind == "dense" else head
        self.by_class = by_class = self.head is not None
        shapes = parameter_shapes(spec.network)
        table = shapes.pop("sparse.weight", None)
        self.head_names = tuple(f"layers.{spec.network.n_layers - 1}.{part}" for part in ("weight", "bias"))
        last = self.head_names if by_class else ()
        # stable: file order within each part
        order = sorted(shapes, key=lambda name: (name in last, not _is_decayed(name)))
        sizes = {name: math.prod(shapes[name]) for name in order}
        self.spec = spec
        self.flat = torch.zeros(sum(sizes.values()), dtype=dtype, device=device)
        self.n_body = sum(size for name, size in sizes.items() if name not in last)
        self.n_decayed = sum(size for name, size in sizes.items() if _is_decayed(name) and name not in last)
        self._layout = {name: shapes[name] for name in order}
        self.views = self.views_of(self.flat)
        self.table = None if table is None else torch.zeros(table, dtype=dtype, device=device)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the views, which a pickle would cut off from the flat tensor."""
        return {name: value for name, value in vars(self).items() if name != "views"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.views = self.views_of(self.flat)

    def detach(self) -> None:
        """Go on in memory of its own: what shares the present numbers keeps them."""
        self.flat = self.flat.clone()
        self.views = self.views_of(self.flat)

    def views_of(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the views by name of another flat tensor of the same layout, or of its first ``n_body`` numbers."""
        views, start = {}, 0
        for name, shape in self._layout.items():
            stop = start + math.prod(shape)
            if stop > flat.numel():
                break
            if self.by_class and name == self.head_names[0]:
                views[name] = flat[start:stop].view(shape[0], shape[2], shape[1]).transpose(1, 2)
            else:
                views[name] = flat[start:stop].view(shape)
            start = stop
        return views

    def head_of(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output layer of a flat tensor: (n_members, n_classes, width) and (n_members, n_classes)."""
        weight, bias = (self.views_of(flat)[name] for name in self.head_names)
        return weight.transpose(1, 2), bias

    def scale(self, name: str) -> float:
        """Return the factor between a stored parameter and the number that the forward pass uses."""
        return 1.0 if self.by_class and name in self.head_names else self.spec.scale(name)

    @property
    def keeps_copies(self) -> bool:
        """Whether the weights are small enough to be copied: see :func:`softmaxnet.head_plan.keeps_copies`."""
        network = self.spec.network
        width = network.layer_sizes[-2]
        return not self.by_class or keeps_copies(
            width, network.n_classes, n_members=network.n_members, itemsize=self.flat.element_size()
        )

    def effective(self, flat: Tensor | None = None, table: Tensor | None = None) -> dict[str, Tensor]:
        """Return the parameters as the forward pass of ``network.py`` takes them, scales multiplied in.

        Those with a scale of 1 are views.
        """
        views = self.views if flat is None else self.views_of(flat)
        table = self.table if table is None else table
        scales = {name: self.scale(name) for name in views}
        out = {name: view if scales[name] == 1.0 else view * scales[name] for name, view in views.items()}
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
            if name == last and self.by_class:
                _draw_by_class(rng, view, gain / math.sqrt(max(view.shape[1], 1)))
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


def _draw_by_class(rng: np.random.Generator, weight: Tensor, factor: float) -> None:
    """Fill the weights of an output layer with a row for each class, a block of classes at a time."""
    import torch

    for rows in weight.transpose(1, 2):
        for part in rows.split(max(2**20 // rows.shape[1], 1)):
            draw = rng.standard_normal(tuple(part.shape), dtype=np.float32)
            part.copy_(torch.from_numpy(draw)).mul_(factor)


def _is_decayed(name: str) -> bool:
    return name.startswith("layers.") and name.endswith(".weight")


@dataclass
class SparseBatch:
    """The rows of a sparse block as three tensors (CSR), with their transpose for the gradient made on demand."""

    offsets: Tensor  # (n_rows + 1,), int64
    indices: Tensor  # (n_nonzero,), int64
    values: Tensor  # (n_nonzero,), floating
    first_entry: int = 0  # entries of the whole batch before these, where other processes have other rows of it


class Part(NamedTuple):
    """Which rows of a whole batch of ``n_rows`` these are: what is drawn for it is drawn as if all were here."""

    first_row: int
    n_rows: int


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

    Attributes
    ----------
    gradient : Tensor of shape (n_parameters,)
        Or (n_body,) where the plan goes by classes: the rest never exists whole.
    communicator : Communicator, optional
        The processes that the classes of an output layer by class are spread over.
    """

    def __init__(
        self,
        parameters: Parameters,
        max_rows: int,
        *,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        compute_dtype: Any = None,
        communicator: Communicator | None = None,
    ) -> None:
        import torch

        self.parameters = parameters
        self.spec = parameters.spec.network
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        head = None if parameters.head is None else parameters.head.for_rows(max_rows)
        if communicator is not None and head is not None:
            head = replace(head, kind="classes", n_rows=max_rows * communicator.size)
        dtype, device = parameters.flat.dtype, parameters.flat.device
        self.dtype = compute_dtype or dtype
        # With room behind the gradient for what processes tell each other in the same breath.
        n_gradient = parameters.n_body if head is not None and head.kind == "classes" else parameters.flat.numel()
        self.exchanged = parameters.flat.new_zeros(n_gradient + MESSAGES)
        self.gradient = self.exchanged[:n_gradient]
        self.gradient_views = parameters.views_of(self.gradient)
        self.table_gradient: TableGradient | None = None
        self.mixed = self.dtype != dtype
        self._flat16 = self._body.to(self.dtype) if self.mixed else parameters.flat
        self._views = parameters.views_of(self._flat16) if self.mixed else parameters.views
        members = self.spec.n_members
        sizes = self.spec.layer_sizes
        own = sizes[1:] if head is None else sizes[1:-1]
        self._z = [torch.empty(members, max_rows, h, dtype=self.dtype, device=device) for h in own]
        hidden = self._z[: self.spec.n_layers - 1]
        self._x = [torch.empty_like(z) for z in hidden]
        self._d = [torch.empty_like(z) for z in hidden]
        self._head = None if head is None else self._head_pass(head, communicator)
        if head is None:
            self._logits = torch.empty_like(self._z[-1], dtype=dtype)
        else:
            self._at_head = torch.empty(members, max_rows, sizes[-2], dtype=dtype, device=device)
        self._embedding = _Embedding(self.spec, max_rows, self.dtype, device) if self.spec.embedding_size else None

    def __call__(
        self,
        dense: Tensor,
        target: Tensor,
        weight: Tensor,
        sparse: SparseBatch | None = None,
        mask_key: tuple[int, int] = (0, 0),
        part: Part | None = None,
        update: Update | None = None,
    ) -> Tensor:
        """Return the loss of a batch [nats times weight] and leave its gradient in ``gradient``.

        Parameters
        ----------
        dense : Tensor of shape (n_rows, n_dense), of the compute dtype
        target, weight : as :func:`softmaxnet.head.loss_and_gradient`
        sparse : SparseBatch, optional
        mask_key : (seed, step)
            What the dropout masks are a pure function of.
        part : Part, optional
            Where the rows are some of a larger batch.
        update : callable, needed where the head goes by classes
            Given each tile's gradient to use up; not called, and ``gradient`` left as it was, where the loss is not
            finite.
        """
        if self.mixed:
            self._flat16.copy_(self._body)
        n = dense.shape[0]
        x0 = self._embedding.forward(self, dense) if self._embedding else dense
        inputs, masks = self._forward(x0, sparse, n, mask_key, part)
        if self._head is not None:
            return self._through_head(inputs, masks, target, weight, sparse, update)
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
        self._backward(inputs, masks, delta, sparse, n, self.spec.n_layers)
        return loss

    @property
    def _body(self) -> Tensor:
        """The parameters that the layers below a head by class read; all of them where it is dense."""
        return self.parameters.flat[: self.parameters.n_body]

    @property
    def shards(self) -> ShardedHead | None:
        """The output layer where its classes are spread over processes."""
        return self._head if isinstance(self._head, ShardedHead) else None

    def _head_pass(self, plan: HeadPlan, communicator: Communicator | None) -> HeadPass | ShardedHead:
        parameters = self.parameters
        if communicator is not None:
            return ShardedHead(
                *parameters.head_of(parameters.flat),
                plan,
                communicator,
                output=self.spec.output,
                label_smoothing=self.label_smoothing,
            )
        return HeadPass(
            *parameters.head_of(parameters.flat),
            plan,
            output=self.spec.output,
            label_smoothing=self.label_smoothing,
            gradient=parameters.head_of(self.gradient) if plan.kind == "rows" else None,
        )

    def _through_head(
        self,
        inputs: list[Tensor],
        masks: list[Tensor | None],
        target: Tensor,
        weight: Tensor,
        sparse: SparseBatch | None,
        update: Update | None,
    ) -> Tensor:
        """Return the loss by way of a head by class, and fill ``gradient`` where that is finite."""
        import torch

        assert self._head is not None
        n = inputs[-1].shape[1]
        at_head = self._at_head[:, :n]
        loss = self._head(inputs[-1].to(at_head.dtype), target, weight, at_head, update)
        if not torch.isfinite(loss) or self.spec.n_layers == 1:
            return loss
        below = self._d[-1][:, :n].copy_(at_head)
        mask = masks[-1]
        if mask is not None:
            below.mul_(mask)
        delta = _activation_gradient(self.spec.activation, below, self._z[-1][:, :n], inputs[-1], mask)
        self._backward(inputs, masks, delta, sparse, n, self.spec.n_layers - 1)
        return loss

    def _forward(
        self, x0: Tensor, sparse: SparseBatch | None, n: int, key: tuple[int, int], part: Part | None
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Fill ``_z`` and return the inputs of each layer with the dropout masks after each hidden one."""
        spec, scale = self.spec, self.parameters.scale
        x = x0.expand(spec.n_members, -1, -1)
        inputs = [x]
        masks: list[Tensor | None] = []
        pool = _hidden_masks(self.dropout, spec, n, key, part, x0.device) if self.dropout else None
        for i in range(len(self._z)):
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
        n_layers: int,
    ) -> None:
        """Fill ``gradient`` of the first layers from the gradient at the outputs of the last of them."""
        import torch

        spec, scale = self.spec, self.parameters.scale
        for i in reversed(range(n_layers)):
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

        spec, scale, views = owner.spec, owner.parameters.scale, owner._views
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

        spec, scale, views = owner.spec, owner.parameters.scale, owner._views
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

    keep = _mask_pool(rate, sparse.values.numel(), (key[0] + 1, key[1]), sparse.values.device, sparse.first_entry)
    before = torch.zeros(keep.numel() + 1, dtype=torch.int64, device=keep.device)
    torch.cumsum(keep, 0, out=before[1:])
    return SparseBatch(before[sparse.offsets], sparse.indices[keep], sparse.values[keep] * _keep_scale(rate))


def _keep_level(dropout: float) -> int:
    return round((1 - dropout) * 256)


def _keep_scale(dropout: float) -> float:
    # Of the rate as it is drawn, in 256ths, so that the expected output is exact.
    return 256 / max(_keep_level(dropout), 1)


def _mask_pool(dropout: float, count: int, key: tuple[int, int], device: Any, first: int = 0) -> Tensor:
    """Return ``count`` draws of keep (True) or drop, a pure function of (seed, step), from the draw ``first`` on.

    Counter-based bytes (Philox, Salmon et al. 2011): any step's masks are had without those before it, any part of
    them without the rest, and a byte a unit is twenty times cheaper than a Bernoulli draw a unit.
    """
    import torch

    block, skipped = divmod(first, 32)  # a count of the counter is four words of eight bytes
    raw = np.random.Philox(key=key[0], counter=[block, 0, key[1], 0]).random_raw(-(-(skipped + count) // 8))
    drawn = raw.view(np.uint8)[skipped : skipped + count]
    return (torch.from_numpy(drawn).to(device)) < _keep_level(dropout)


def _hidden_masks(
    dropout: float, spec: NetworkSpec, n: int, key: tuple[int, int], part: Part | None, device: Any
) -> Tensor:
    """Return the draws for all hidden units of ``n`` rows: layer by layer, member by member, row by row."""
    import torch

    if part is None:
        return _mask_pool(dropout, sum(spec.hidden_layer_sizes) * spec.n_members * n, key, device)
    pieces, first = [], 0
    for size in spec.hidden_layer_sizes:
        for _ in range(spec.n_members):
            pieces.append(_mask_pool(dropout, n * size, key, device, first + part.first_row * size))
            first += part.n_rows * size
    return torch.cat(pieces)


def scaled_spec(spec: NetworkSpec, parametrization: str) -> ScaledSpec:
    """Return the scales of a parametrisation: ``"ntk"`` (a rate for every width) or ``"standard"`` (PyTorch's)."""
    if parametrization == "standard":
        return ScaledSpec(spec)
    scales = {}
    for i, inputs in enumerate(spec.layer_sizes[:-1]):
        scales[f"layers.{i}.weight"] = 1 / math.sqrt(max(inputs, 1))
        scales[f"layers.{i}.bias"] = 0.1
    for name in ("frequency", "phase", "weight"):
        scales[f"embedding.{name}"] = 0.1
    return ScaledSpec(spec, scales)
