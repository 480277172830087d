"""The output layer in chunks of rows by PyTorch's own fused kernel, on accelerators where a probe finds it faster.

The one choice that a clock makes: which of two ways is faster on a device is not to be told from shapes. Both compute
the same sums in another order, so that the choice changes a fit by rounding only; it is among the model's settings,
``head_kernel``. Kernels that leave small probabilities out, or add up gradients in half precision (Cut Cross-Entropy as
it is packaged does), are not in question.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from softmaxnet.head_pass import HeadPass, Update

__all__ = ["TorchHead", "faster_head"]

PROBED_DEVICES = ("cuda",)
"""On a CPU the chunks of ``head_pass`` are never slower than the kernel (benchmarks/head.py)."""
PROBES = 3


class TorchHead:
    """:class:`softmaxnet.head_pass.HeadPass` by ``torch.nn.functional.linear_cross_entropy``, called alike.

    What the kernel cannot do (soft targets) goes the way of ``own``.

    Parameters
    ----------
    own : HeadPass
        Of the kind "rows".
    weight : Tensor of shape (n_members, n_classes, width), read at each call
    bias : Tensor of shape (n_members, n_classes)
    """

    def __init__(self, own: HeadPass, weight: Tensor, bias: Tensor) -> None:
        self.own, self.weight, self.bias = own, weight, bias

    @staticmethod
    def does(own: HeadPass) -> bool:
        """Say whether the kernel is there and computes the same loss, within the memory of the plan."""
        import torch

        there = hasattr(torch.nn, "LinearCrossEntropyOptions")  # from PyTorch 2.13 on
        if not there or own.gradient is None or own.output != "softmax" or own.smoothing:
            return False
        second = sum(part.numel() * part.element_size() for part in own.gradient)  # it hands out a gradient of its own
        return own.plan.n_bytes + second <= own.plan.budget

    def __call__(
        self, x: Tensor, target: Tensor, weight: Tensor, d_x: Tensor | None, update: Update | None = None
    ) -> Tensor:
        """Return the loss [nats times weight], float64; as :meth:`softmaxnet.head_pass.HeadPass.__call__`."""
        import torch

        if target.ndim > 1:
            return self.own(x, target, weight, d_x, update)
        weight = weight.expand(len(x), -1)
        loss = weight.new_zeros((), dtype=torch.float64)
        for member in range(len(x)):
            loss += self._one(member, x[member], target, weight[member], None if d_x is None else d_x[member])
        return loss

    def _one(self, member: int, x: Tensor, target: Tensor, weight: Tensor, d_x: Tensor | None) -> Tensor:
        """Return the loss of one member and write its gradients."""
        import torch

        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=self.own.plan.n_rows, chunking_method=None)
        # Steps are taken without the bookkeeping for derivatives, and what they make cannot enter it: hence the copies.
        with torch.inference_mode(False), torch.enable_grad():
            inputs = x.clone().requires_grad_(d_x is not None)
            learned = [part[member].detach().requires_grad_() for part in (self.weight, self.bias)]
            losses = torch.nn.functional.linear_cross_entropy(
                inputs, learned[0], target.clone(), linear_bias=learned[1], reduction="none", options=options
            )
            wanted = [*learned, inputs] if d_x is not None else learned
            found = torch.autograd.grad(losses, wanted, weight.clone())
        assert self.own.gradient is not None
        places = [part[member] for part in self.own.gradient] + ([] if d_x is None else [d_x])
        for place, gradient in zip(places, found, strict=True):
            place.copy_(gradient)
        return (weight * losses.detach().double()).sum()


def faster_head(own: HeadPass, weight: Tensor, bias: Tensor, n_rows: int) -> HeadPass | TorchHead:
    """Return whichever way takes a batch of ``n_rows`` rows through the output layer in less time.

    Parameters
    ----------
    own, weight, bias : as :class:`TorchHead`
    n_rows : int
    """
    import torch

    if weight.device.type not in PROBED_DEVICES or not TorchHead.does(own):
        return own
    x = torch.zeros(weight.shape[0], n_rows, weight.shape[2], dtype=weight.dtype, device=weight.device)
    target = torch.arange(n_rows, device=weight.device) % weight.shape[1]
    row_weight = torch.full((n_rows,), 1 / n_rows, dtype=weight.dtype, device=weight.device)
    kernel = TorchHead(own, weight, bias)
    return kernel if _seconds(kernel, x, target, row_weight) < _seconds(own, x, target, row_weight) else own


def _seconds(head: HeadPass | TorchHead, x: Tensor, target: Tensor, weight: Tensor) -> float:
    """Return what a batch takes: the least of three timings, after one that is not counted."""
    import torch

    d_x, taken = torch.empty_like(x), []
    for _ in range(1 + PROBES):
        torch.cuda.synchronize(x.device)
        start = time.perf_counter()
        head(x, target, weight, d_x)
        torch.cuda.synchronize(x.device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
