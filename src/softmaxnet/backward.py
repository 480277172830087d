"""The network's loss and its closed-form gradient at every parameter, into one flat buffer (torch).

Forward, for layer i with the scaled parameters ``W = s_w theta_w`` and ``b = s_b theta_b``::

    z_i = x_i W_i + b_i          x_{i+1} = dropout(f(z_i))

Backward, from ``d_last = weight (p - q)`` of the head::

    dtheta_w = s_w x_i^T d_i     dtheta_b = s_b sum_rows d_i     d_{i-1} = (s_w d_i theta_w^T) * mask * f'(z_{i-1})

The scales are those of the parametrisation (``parameters.py``). They cost nothing, for the matrix product takes them as
its alpha and beta. Buffers are made once, for the largest batch; a step allocates next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from softmaxnet.batches import SparseBatch
from softmaxnet.communicator import Communicator
from softmaxnet.dropout import Part, hidden_masks
from softmaxnet.embedding_pass import EmbeddingPass
from softmaxnet.head import loss_and_gradient
from softmaxnet.head_kernel import TorchHead, faster_head
from softmaxnet.head_pass import HeadPass, Update
from softmaxnet.head_plan import HeadPlan
from softmaxnet.head_shards import ShardedHead
from softmaxnet.layer_pass import LayerPass, of_one
from softmaxnet.parameters import Parameters

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BackwardPass", "TableGradient"]

MESSAGES = 3
"""Numbers that are exchanged together with the gradient."""
MOST_SIZES = 16
"""Numbers of rows for which the views of a batch are kept."""


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
        Read at each call; where the products are bfloat16, by way of a copy.
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
        self._head = None if head is None else self._head_pass(head, max_rows, communicator)
        self._buffers = self._room(max_rows, dtype, device)
        self._layers: dict[int, list[LayerPass]] = {}
        self._embedding = None
        if self.spec.embedding_size:
            self._embedding = EmbeddingPass(parameters, self._views, self.gradient_views, max_rows)

    def _room(self, max_rows: int, dtype: Any, device: Any) -> dict[str, list[Tensor]]:
        """Return the buffers for the largest batch, (n_members, max_rows, width) each, by what they are for."""
        import torch

        def empty(width: int, dtype: Any) -> Tensor:
            return torch.empty(self.spec.n_members, max_rows, width, dtype=dtype, device=device)

        *hidden, n_classes = self.spec.layer_sizes[1:]
        out = {name: [empty(width, self.dtype) for width in hidden] for name in ("z", "x", "d_x")}
        if self._head is not None:
            return out | {"at_head": [empty(width, dtype) for width in hidden[-1:]]}
        out["z"].append(empty(n_classes, self.dtype))
        return out | {"logits": [empty(n_classes, dtype) if self.mixed else out["z"][-1]]}

    def _layers_of(self, n: int) -> list[LayerPass]:
        """Return the layers that batches of ``n`` rows go through, without a head by class; made once for each n."""
        if n in self._layers:
            return self._layers[n]
        if len(self._layers) > MOST_SIZES:
            self._layers.clear()
        z, x, d_x = ([of_one(whole[:, :n]) for whole in self._buffers[name]] for name in ("z", "x", "d_x"))
        layers = []
        for i, outputs in enumerate(z):
            weight, bias = f"layers.{i}.weight", f"layers.{i}.bias"
            layers.append(
                LayerPass(
                    self.spec.activation,
                    of_one(self._views[weight]),
                    of_one(self._views[bias]),
                    self.parameters.scale(weight),
                    self.parameters.scale(bias),
                    of_one(self.gradient_views[weight]),
                    of_one(self.gradient_views[bias]),
                    outputs,
                    x[i] if i < len(x) else None,
                    d_x[i] if i < len(x) else None,
                )
            )
        self._layers[n] = layers
        return layers

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
        layers = self._layers_of(n)
        inputs, masks = self._forward(layers, dense, sparse, (mask_key, part))
        if self._head is not None:
            return self._through_head(layers, inputs, masks, target, weight, sparse, update)
        logits, delta = self._buffers["logits"][0][:, :n], layers[-1].z
        if self.mixed:
            logits.copy_(delta)
        loss = loss_and_gradient(logits, target, weight, output=self.spec.output, label_smoothing=self.label_smoothing)
        if self.mixed:
            delta.copy_(of_one(logits))
        self._backward(layers, inputs, masks, delta, sparse)
        return loss

    @property
    def _body(self) -> Tensor:
        """The parameters that the layers below a head by class read; all of them where it is dense."""
        return self.parameters.flat[: self.parameters.n_body]

    @property
    def shards(self) -> ShardedHead | None:
        """The output layer where its classes are spread over processes."""
        return self._head if isinstance(self._head, ShardedHead) else None

    @property
    def head_kernel(self) -> str:
        """Whose code takes batches through the output layer: "own", or "torch"."""
        return "torch" if isinstance(self._head, TorchHead) else "own"

    def _head_pass(
        self, plan: HeadPlan, n_rows: int, communicator: Communicator | None
    ) -> HeadPass | TorchHead | ShardedHead:
        parameters = self.parameters
        if communicator is not None:
            return ShardedHead(
                *parameters.head_of(parameters.flat),
                plan,
                communicator,
                output=self.spec.output,
                label_smoothing=self.label_smoothing,
            )
        weights = parameters.head_of(parameters.flat)
        own = HeadPass(
            *weights,
            plan,
            output=self.spec.output,
            label_smoothing=self.label_smoothing,
            gradient=parameters.head_of(self.gradient) if plan.kind == "rows" else None,
        )
        return faster_head(own, *weights, n_rows)

    def _through_head(
        self,
        layers: list[LayerPass],
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
        last = self._every_member(inputs[-1])
        at_head = self._buffers["at_head"][0][:, : last.shape[1]] if layers else None
        loss = self._head(last.to(self.gradient.dtype), target, weight, at_head, update)
        if at_head is None or not torch.isfinite(loss):
            return loss
        below = layers[-1].d_x
        assert below is not None
        below.copy_(of_one(at_head))
        self._backward(layers, inputs, masks, self._through_activation(layers[-1], below, masks[-1]), sparse)
        return loss

    def _forward(
        self,
        layers: list[LayerPass],
        dense: Tensor,
        sparse: SparseBatch | None,
        drawn: tuple[tuple[int, int], Part | None],
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Fill the layers and return the inputs of each, with the dropout masks after each hidden one."""
        spec, n = self.spec, dense.shape[0]
        x = self._embedding.forward(dense) if self._embedding else dense
        if spec.n_members > 1:
            x = x.expand(spec.n_members, -1, -1)
        inputs = [x]
        masks: list[Tensor | None] = []
        pool = hidden_masks(self.dropout, spec, n, *drawn, like=x) if self.dropout else None
        for i, layer in enumerate(layers):
            layer.forward(x)
            if i == 0 and sparse is not None:
                self._add_sparse(self._every_member(layer.z), sparse)
            if layer.x is None:
                break
            x = layer.x
            layer.activate(x)
            mask = None
            if pool is not None:
                mask, pool = pool[: x.numel()].view(x.shape), pool[x.numel() :]
                x.mul_(mask)
            masks.append(mask)
            inputs.append(x)
        return inputs, masks

    def _backward(
        self,
        layers: list[LayerPass],
        inputs: list[Tensor],
        masks: list[Tensor | None],
        delta: Tensor,
        sparse: SparseBatch | None,
    ) -> None:
        """Fill ``gradient`` of the layers from the gradient at the outputs of the last of them."""
        for i in reversed(range(len(layers))):
            layers[i].parameter_gradient(inputs[i], delta)
            if i == 0:
                break
            below = layers[i - 1].d_x
            assert below is not None
            layers[i].input_gradient(delta, below)
            delta = self._through_activation(layers[i - 1], below, masks[i - 1])
        if sparse is not None:
            self.table_gradient = self._sparse_gradient(self._every_member(delta), sparse)
        if self._embedding:
            self._embedding.backward(self._every_member(delta))

    def _through_activation(self, layer: LayerPass, below: Tensor, mask: Tensor | None) -> Tensor:
        """Turn the gradient at what the next layer takes into that at this layer's outputs."""
        if mask is not None:
            below.mul_(mask)
        return layer.activation_gradient(below, mask)

    def _every_member(self, tensor: Tensor) -> Tensor:
        """Return (n_members, n_rows, width) of what has no members where there is one."""
        return tensor if tensor.ndim == 3 else tensor.unsqueeze(0)

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
