"""The output layer of all members for one batch, as a plan says: in chunks of rows or in tiles of classes (torch)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from softmaxnet.head_tiles import ClassBlock, RowSums, TiledHead, row_losses

if TYPE_CHECKING:
    from torch import Tensor

    from softmaxnet.head_plan import HeadPlan

__all__ = ["HeadPass", "Update"]

Update = Callable[[int, int, int, "Tensor", "Tensor"], None]
"""Called with (member, start, stop, dW, db): the complete gradient of one tile of classes, to be used at once."""


class HeadPass:
    """Loss of a batch, its gradient at the layer's inputs, and that of the weights as the plan has it.

    Parameters
    ----------
    weight : Tensor of shape (n_members, n_classes, width), read at each call
    bias : Tensor of shape (n_members, n_classes)
    plan : HeadPlan
        Of the kind "rows" or "classes".
    output, label_smoothing : as :func:`softmaxnet.head.loss_and_gradient`
    gradient : (dW, db), Tensors of the shapes of weight and bias
        Where "rows" leaves the gradient of the weights; "classes" hands it out tile by tile and needs none.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        plan: HeadPlan,
        *,
        output: str = "softmax",
        label_smoothing: float = 0.0,
        gradient: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.plan, self.gradient = plan, gradient
        self.output, self.smoothing, self.n_classes = output, label_smoothing, int(weight.shape[1])
        self._heads: list[TiledHead] = []
        for member in range(weight.shape[0]):
            block = ClassBlock(weight[member], bias[member], 0, self.n_classes)
            head = TiledHead(
                block,
                plan.n_rows,
                plan.n_classes,
                keep=plan.kind == "rows",
                output=output,
                label_smoothing=label_smoothing,
                buffers=self._heads[0] if self._heads else None,
            )
            self._heads.append(head)

    def __call__(
        self, x: Tensor, target: Tensor, weight: Tensor, d_x: Tensor | None, update: Update | None = None
    ) -> Tensor:
        """Return the loss [nats times weight], float64, and fill ``d_x``; change nothing where it is not finite.

        Parameters
        ----------
        x : Tensor of shape (n_members, n_rows, width)
        target : Tensor of shape (n_rows,), int64; or (n_rows, n_classes), probabilities
        weight : Tensor of shape (n_rows,) or (n_members, n_rows)
        d_x : Tensor of the shape of x, overwritten. None where there is no layer below that learns
        update : callable, needed where the plan is of the kind "classes"
        """
        weight = weight.expand(len(self._heads), -1)
        if d_x is not None:
            d_x.zero_()
        if self.plan.kind == "rows":
            return self._in_rows(x, target, weight, d_x)
        assert update is not None
        return self._in_classes(x, target, weight, d_x, update)

    def _in_rows(self, x: Tensor, target: Tensor, weight: Tensor, d_x: Tensor | None) -> Tensor:
        import torch

        assert self.gradient is not None
        d_weight, d_bias = self.gradient
        d_weight.zero_()
        d_bias.zero_()
        loss = weight.new_zeros((), dtype=torch.float64)
        for member, head in enumerate(self._heads):
            for start in range(0, x.shape[1], self.plan.n_rows):
                part = slice(start, start + self.plan.n_rows)
                d_part = None if d_x is None else d_x[member, part]
                rows = x[member, part], target[part]
                sums = head.first_pass(*rows)
                loss += self._loss(sums, weight[member, part])
                head.add_gradient(*rows, weight[member, part], sums, d_part, d_weight[member], d_bias[member])
        return loss

    def _in_classes(self, x: Tensor, target: Tensor, weight: Tensor, d_x: Tensor | None, update: Update) -> Tensor:
        import torch

        passes = [head.first_pass(x[member], target) for member, head in enumerate(self._heads)]
        loss = weight.new_zeros((), dtype=torch.float64)
        for sums, row_weight in zip(passes, weight, strict=True):
            loss += self._loss(sums, row_weight)
        if not torch.isfinite(loss):
            return loss
        for member, head in enumerate(self._heads):

            def visit(start: int, stop: int, d_weight: Tensor, d_bias: Tensor, member: int = member) -> None:
                update(member, start, stop, d_weight, d_bias)

            d_member = None if d_x is None else d_x[member]
            head.second_pass(x[member], target, weight[member], passes[member], d_member, visit)
        return loss

    def _loss(self, sums: RowSums, weight: Tensor) -> Tensor:
        return (weight * row_losses(sums, self.smoothing, self.n_classes)).sum()
