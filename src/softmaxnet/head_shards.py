"""The output layer with its classes spread over processes: its weights and their gradient never travel.

Every process has the same weights before the first step, goes on with those of its own classes, and lets the others'
grow old until :meth:`ShardedHead.share` brings everything together at the end of an epoch. A step of N rows, on the way
from the layers below, which every process computes for its own rows::

    rows, labels, weights of all processes    all_gather                         N rows of D numbers
    log-sum-exp of the logits of its classes  all_reduce, the largest            N numbers
    sums relative to it, target's logit       all_reduce                         3 N numbers
    gradient at the rows                      all_reduce, and its part of it     N rows of D numbers

All is exact, the same as with all classes in one process, and the weights of K classes are neither sent nor is their
gradient: an advantage as soon as K exceeds about 3 N / 2. The update is made where the gradient is, tile by tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from softmaxnet.communicator import Communicator, bytes_sent
from softmaxnet.errors import UsageError
from softmaxnet.head_tiles import ClassBlock, RowSums, TiledHead, row_losses

if TYPE_CHECKING:
    from torch import Tensor

    from softmaxnet.head_pass import Update
    from softmaxnet.head_plan import HeadPlan

__all__ = ["ShardedHead", "moves_fewer_bytes", "shard_bytes"]

SUMS = 3
"""Numbers of a row that are added up: sum of exponentials, logit of the target, sum of the logits."""


def shard_bytes(n_rows: int, width: int, size: int, *, n_members: int = 1, itemsize: int = 4) -> float:
    """Return the bytes that each of ``size`` processes sends for the output layer in a step of ``n_rows`` rows.

    ``(P - 1) / P N (M (D + 1) b + 8)`` for rows, weights and labels, ``2 (P - 1) / P N M (8 + 24 + D b)`` for the sums
    over classes, which are float64, and the gradient at the rows (not sent where there are no hidden layers).

    Examples
    --------
    >>> round(shard_bytes(8192, 256, 8) / 1e6), round(bytes_sent("all_reduce", 4 * 1_000_000 * 257, 8) / 1e6)
    (23, 1799)
    """
    gathered = n_members * (width + 1) * itemsize + 8
    reduced = n_members * (8 + 8 * SUMS + width * itemsize)
    return bytes_sent("all_gather", n_rows * gathered, size) / size + bytes_sent("all_reduce", n_rows * reduced, size)


def moves_fewer_bytes(
    n_rows: int, width: int, n_classes: int, size: int, *, n_members: int = 1, itemsize: int = 4
) -> bool:
    """Return whether spreading the classes sends less than summing the gradient of the output layer.

    Examples
    --------
    >>> moves_fewer_bytes(1024, 128, 1000, 4), moves_fewer_bytes(1024, 128, 100_000, 4)
    (False, True)
    """
    gradient = bytes_sent("all_reduce", n_members * n_classes * (width + 1) * itemsize, size)
    return shard_bytes(n_rows, width, size, n_members=n_members, itemsize=itemsize) < gradient


class ShardedHead:
    """What :class:`softmaxnet.head_pass.HeadPass` is in one process, with this process's share of the classes.

    Parameters
    ----------
    weight : Tensor of shape (n_members, n_classes, width), of which the rows of this share are kept up to date
    bias : Tensor of shape (n_members, n_classes)
    plan : HeadPlan
        Whose tiles of classes are taken.
    communicator : Communicator
    output, label_smoothing : as :func:`softmaxnet.head.loss_and_gradient`

    Attributes
    ----------
    n_rows : int
        Rows of the coming batch, all processes together.

    Raises
    ------
    UsageError
        Where there are more processes than classes.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        plan: HeadPlan,
        communicator: Communicator,
        *,
        output: str = "softmax",
        label_smoothing: float = 0.0,
    ) -> None:
        n_classes = int(weight.shape[1])
        if communicator.size > n_classes:
            raise UsageError(f"{communicator.size} processes cannot share the {n_classes} classes of the output layer")
        self.communicator, self.n_rows = communicator, plan.n_rows
        self.output, self.smoothing, self.n_classes = output, label_smoothing, n_classes
        self.part = communicator.part(n_classes)
        self._heads: list[TiledHead] = []
        for member in range(weight.shape[0]):
            block = ClassBlock(weight[member, self.part], bias[member, self.part], self.part.start, n_classes)
            self._heads.append(
                TiledHead(
                    block,
                    plan.n_rows,
                    plan.n_classes,
                    output=output,
                    label_smoothing=label_smoothing,
                    buffers=self._heads[0] if self._heads else None,
                )
            )

    def __call__(
        self, x: Tensor, target: Tensor, weight: Tensor, d_x: Tensor | None, update: Update | None = None
    ) -> Tensor:
        """Return the loss of this process's rows, and fill ``d_x``; change nothing where any loss is not finite.

        Parameters
        ----------
        x : Tensor of shape (n_members, n_rows of this process, width)
        target : Tensor of shape (n_rows of this process,), int64
        weight : Tensor of shape (n_rows of this process,) or (n_members, n_rows of this process)
        d_x : Tensor of the shape of x, overwritten. None where there is no layer below that learns: it is not sent
        update : callable
            Given (member, start, stop, dW, db) of each tile of this process's classes.

        Returns
        -------
        Tensor of shape (), float64
            Not finite on every process where it is not on one.
        """
        import torch

        assert update is not None
        if target.ndim != 1:
            raise UsageError("soft labels cannot be trained with classes spread over processes; use fewer processes")
        all_x, labels, weights = self._gathered(x, target, weight.expand(len(self._heads), -1))
        sums = self._sums([head.first_pass(all_x[m], labels) for m, head in enumerate(self._heads)])
        losses = torch.stack([row_losses(found, self.smoothing, self.n_classes) for found in sums]) * weights
        if not torch.isfinite(total := losses.sum()):
            return total
        gradient = None if d_x is None else torch.zeros_like(all_x)
        for member, head in enumerate(self._heads):

            def visit(start: int, stop: int, d_weight: Tensor, d_bias: Tensor, member: int = member) -> None:
                update(member, self.part.start + start, self.part.start + stop, d_weight, d_bias)

            d_member = None if gradient is None else gradient[member]
            head.second_pass(all_x[member], labels, weights[member], sums[member], d_member, visit)
        mine = self.communicator.part(self.n_rows)
        if d_x is not None and gradient is not None:
            self.communicator.all_reduce(gradient)
            d_x.copy_(gradient[:, mine])
        return losses[:, mine].sum()

    def _gathered(self, x: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rows of all processes with their labels and weights."""
        size, gather = self.communicator.size, self.communicator.all_gather
        counts = [self.n_rows * (rank + 1) // size - self.n_rows * rank // size for rank in range(size)]
        all_x = gather(x.transpose(0, 1).contiguous(), counts).transpose(0, 1).contiguous()
        return all_x, gather(target, counts), gather(weight.T.contiguous(), counts).T.contiguous()

    def _sums(self, found: list[RowSums]) -> list[RowSums]:
        """Return the sums over the classes of all processes."""
        import torch

        log_sums = torch.stack([sums.log_sum_exp for sums in found])
        top = log_sums.clone()
        if self.output != "sigmoid":
            self.communicator.all_reduce(top, largest=True)
            log_sums = (log_sums - top).exp_()
        others = [torch.stack([getattr(sums, name) for sums in found]) for name in ("at_target", "total")]
        added = torch.stack([log_sums, *others])
        self.communicator.all_reduce(added)
        log_sums = added[0] if self.output == "sigmoid" else top + added[0].log()
        return [RowSums(*parts) for parts in zip(log_sums, added[1], added[2], strict=True)]

    def share(self, *heads: tuple[Tensor, Tensor]) -> None:
        """Bring together what each process has of its own classes.

        Parameters
        ----------
        heads : (weight, bias), of the shapes that they have here
            The weights themselves, and what else is kept of each of them.
        """
        size = self.communicator.size
        for weight, bias in heads:
            for member in range(weight.shape[0]):
                for rank in range(size):
                    part = slice(self.n_classes * rank // size, self.n_classes * (rank + 1) // size)
                    self.communicator.broadcast(weight[member, part], rank)
                    self.communicator.broadcast(bias[member, part], rank)
