"""The output layer tile by tile of its classes: loss, gradients, and never all logits at once (torch).

One pass over the classes learns, for each row, the log-sum-exp of its logits and the logit of its label: that is the
loss, and whether it is finite is known before anything is changed. A second pass has for each tile of classes::

    S = softmax of the tile alone          r = w exp(lse of the tile - lse of all)        so that  w p = r S
    dW = S^T (r x) - sum over the rows of the tile's labels of w x          db, dx alike

The target's part never passes through a rounded p - 1: it is added by itself, at the labels' places. In *chunks of
rows* the tiles of a chunk are kept from the first pass to the second; in *tiles of classes* they are computed again,
and each tile's gradient is complete after one visit, so that the optimizer can use it up before the next.

A block need not hold all classes: the sums of two blocks add up (:meth:`RowSums.merge`), and so do their parts of the
gradient at the rows, whether they lie in one process or in many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softmaxnet.head import log_sum_exp_

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ClassBlock", "RowSums", "TiledHead", "Visit", "row_losses"]

Visit = Callable[[int, int, "Tensor", "Tensor"], None]
"""Called with (start, stop, dW, db) of each tile in turn; the buffers are used again afterwards."""


@dataclass(frozen=True)
class ClassBlock:
    """Weights of consecutive classes.

    Attributes
    ----------
    weight : Tensor of shape (n_held, width), a row a class
    bias : Tensor of shape (n_held,)
    first : int
        The class of the first row.
    n_classes : int
        K, of all blocks together: what label smoothing spreads over.
    """

    weight: Tensor
    bias: Tensor
    first: int
    n_classes: int

    def __len__(self) -> int:
        """Return the number of classes held."""
        return int(self.weight.shape[0])


@dataclass
class RowSums:
    """What a pass over some classes learns of each row, in float64.

    Attributes
    ----------
    log_sum_exp : Tensor of shape (n_rows,)
        ``ln sum_k exp(z_k)``; for sigmoid outputs ``sum_k softplus(z_k)``.
    at_target : Tensor of shape (n_rows,)
        ``sum_k q_k z_k``: the logit of the label, 0 where these classes do not have it.
    total : Tensor of shape (n_rows,)
        ``sum_k z_k``, for label smoothing.
    """

    log_sum_exp: Tensor
    at_target: Tensor
    total: Tensor

    def merge(self, other: RowSums, output: str = "softmax") -> RowSums:
        """Return the sums over the classes of both."""
        import torch

        add = torch.add if output == "sigmoid" else torch.logaddexp
        return RowSums(
            add(self.log_sum_exp, other.log_sum_exp), self.at_target + other.at_target, self.total + other.total
        )


def row_losses(sums: RowSums, smoothing: float, n_classes: int) -> Tensor:
    """Return the loss of each row [nats] from the sums over all classes, float64.

    ``lse - (1 - a) z_y - a mean_k z_k``
    """
    losses = sums.log_sum_exp - (1 - smoothing) * sums.at_target
    return losses.sub_(sums.total, alpha=smoothing / n_classes) if smoothing else losses


class TiledHead:
    """The output layer over one block of classes, for batches of up to ``max_rows`` rows.

    Parameters
    ----------
    block : ClassBlock
    max_rows : int
    tile : int
        Classes at a time.
    keep : bool
        Keep the first pass's tiles for the second (rows x classes of memory) in place of computing them again.
    output : {"softmax", "sigmoid"}
    label_smoothing : float in [0, 1)
    buffers : TiledHead, optional
        One of the same sizes that this one takes turns with.

    Examples
    --------
    >>> import torch
    >>> block = ClassBlock(torch.tensor([[1.6], [3.1], [0.5]]).double(), torch.zeros(3).double(), 0, 3)
    >>> head = TiledHead(block, max_rows=1, tile=2)
    >>> x, y, w = torch.ones(1, 1).double(), torch.tensor([1]), torch.ones(1).double()
    >>> sums = head.first_pass(x, y)
    >>> round(row_losses(sums, 0.0, 3).item(), 6)
    0.260365
    >>> visit = lambda start, stop, d_weight, d_bias: print(start, stop, d_bias.numpy().round(6))
    >>> head.second_pass(x, y, w, sums, torch.zeros(1, 1).double(), visit)
    0 2 [ 0.171982 -0.22923 ]
    2 3 [0.057248]
    """

    def __init__(
        self,
        block: ClassBlock,
        max_rows: int,
        tile: int,
        *,
        keep: bool = False,
        output: str = "softmax",
        label_smoothing: float = 0.0,
        buffers: TiledHead | None = None,
    ) -> None:
        import torch

        self.block, self.tile, self.keep = block, max(min(tile, len(block)), 1), keep
        self.output, self.smoothing = output, label_smoothing
        width = block.weight.shape[1]
        like: dict[str, Any] = {"dtype": block.weight.dtype, "device": block.weight.device}
        if buffers is None:
            self._logits = torch.empty(max_rows * (len(block) if keep else self.tile), **like)
            self._weight = torch.empty(0 if keep else self.tile, width, **like)
            self._bias = torch.empty(0 if keep else self.tile, **like)
            self._x = torch.empty(max_rows, width, **like)
            self._part = torch.empty(max_rows, width, **like)
        else:
            self._logits, self._weight, self._bias = buffers._logits, buffers._weight, buffers._bias
            self._x, self._part = buffers._x, buffers._part
        self._log_sums: list[Tensor] = []

    def tiles(self) -> Iterator[tuple[int, int]]:
        """Yield the bounds of the tiles, counted from the block's first class."""
        for start in range(0, len(self.block), self.tile):
            yield start, min(start + self.tile, len(self.block))

    def logits(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Return the logits of one tile, a contiguous view of the buffer."""
        import torch

        n = x.shape[0]
        begin = n * start if self.keep else 0
        z = self._logits[begin : begin + n * (stop - start)].view(n, stop - start)
        torch.addmm(self.block.bias[start:stop], x, self.block.weight[start:stop].T, out=z)
        return z

    def first_pass(self, x: Tensor, target: Tensor) -> RowSums:
        """Return the sums over the block's classes.

        Parameters
        ----------
        x : Tensor of shape (n_rows, width)
        target : Tensor of shape (n_rows,), int64 labels among all K classes; or (n_rows, n_held), probabilities
        """
        import torch

        block = self.block
        at_target = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        weight_sum = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        running: Tensor | None = None
        self._log_sums = []
        for start, stop in self.tiles():
            z = self.logits(x, start, stop)
            at_target += self._at_target(z, target, start, stop)
            if self.smoothing:
                weight_sum += block.weight[start:stop].sum(0, dtype=torch.float64)
            part = self._log_sum(z)
            if self.output == "sigmoid":
                running = part if running is None else running + part
            else:
                running = part if running is None else torch.logaddexp(running, part)
            self._log_sums.append(part)
        total = x.double() @ weight_sum + block.bias.sum(dtype=torch.float64) if self.smoothing else at_target
        assert running is not None
        return RowSums(running, at_target, total)

    def _log_sum(self, z: Tensor) -> Tensor:
        """Return what a tile adds to ``log_sum_exp`` and turn its logits into S."""
        import torch

        if self.output != "sigmoid":
            return log_sum_exp_(z)
        part = torch.nn.functional.softplus(z).sum(1, dtype=torch.float64)
        z.sigmoid_()
        return part

    def _at_target(self, z: Tensor, target: Tensor, start: int, stop: int) -> Tensor:
        """Return ``sum_k q_k z_k`` over a tile; labels are looked up, 0 where another tile has them."""
        import torch

        if target.ndim == 2:
            return (z * target[:, start:stop]).sum(1, dtype=torch.float64)
        local = target - (self.block.first + start)
        inside = (local >= 0) & (local < stop - start)
        at_label = z.gather(1, local.clamp_(0, stop - start - 1).unsqueeze(1)).squeeze(1)
        return torch.where(inside, at_label.double(), 0.0)

    def second_pass(
        self, x: Tensor, target: Tensor, weight: Tensor, sums: RowSums, d_x: Tensor | None, visit: Visit
    ) -> None:
        """Add this block's part to the gradient at the rows and hand out that of each tile's weights.

        Parameters
        ----------
        x, target : as in :meth:`first_pass`, which must have been called with them last
        weight : Tensor of shape (n_rows,)
        sums : RowSums
            Over all classes, those of other blocks included.
        d_x : Tensor of shape (n_rows, width); added to; None where no layer below learns
        visit : callable of (start, stop, dW, db)
            May change the weights of that tile: they are not read again.
        """
        targets = _Targets(self, x, target, weight)
        for index, (start, stop) in enumerate(self.tiles()):
            d_weight, d_bias = self._weight[: stop - start], self._bias[: stop - start]
            proba, factor = self._proba(x, weight, sums, index, start, stop)
            self._products(proba, factor, x, start, stop, d_x, d_weight, d_bias, 0)
            targets.subtract(start, stop, d_x, d_weight, d_bias)
            visit(start, stop, d_weight, d_bias)

    def add_gradient(
        self,
        x: Tensor,
        target: Tensor,
        weight: Tensor,
        sums: RowSums,
        d_x: Tensor | None,
        d_weight: Tensor,
        d_bias: Tensor,
    ) -> None:
        """Add to all three gradients, of which those of the weights exist whole; arguments as :meth:`second_pass`."""
        targets = _Targets(self, x, target, weight)
        for index, (start, stop) in enumerate(self.tiles()):
            proba, factor = self._proba(x, weight, sums, index, start, stop)
            tile = d_weight[start:stop], d_bias[start:stop]
            self._products(proba, factor, x, start, stop, d_x, *tile, 1)
            targets.subtract(start, stop, d_x, *tile)

    def _proba(
        self, x: Tensor, weight: Tensor, sums: RowSums, index: int, start: int, stop: int
    ) -> tuple[Tensor, Tensor]:
        """Return S and r of a tile, the product of which are the weighted probabilities."""
        import torch

        n = x.shape[0]
        if self.keep:
            proba = self._logits[n * start : n * stop].view(n, stop - start)
        else:
            proba = self.logits(x, start, stop)
            if self.output == "sigmoid":
                proba.sigmoid_()
            else:
                torch.softmax(proba, 1, out=proba)
        if self.output == "sigmoid":
            return proba, weight
        share = (self._log_sums[index] - sums.log_sum_exp).exp_()
        return proba, share.mul_(weight).to(weight.dtype)

    def _products(
        self,
        proba: Tensor,
        factor: Tensor,
        x: Tensor,
        start: int,
        stop: int,
        d_x: Tensor | None,
        d_weight: Tensor,
        d_bias: Tensor,
        beta: int,
    ) -> None:
        import torch

        n = x.shape[0]
        scaled = torch.mul(x, factor.unsqueeze(1), out=self._x[:n])
        torch.addmm(d_weight, proba.T, scaled, beta=beta, out=d_weight)
        torch.addmv(d_bias, proba.T, factor, beta=beta, out=d_bias)
        if d_x is not None:
            part = torch.mm(proba, self.block.weight[start:stop], out=self._part[:n])
            d_x.addcmul_(part, factor.unsqueeze(1))


class _Targets:
    """The target's part of the gradients, ``-w q``, tile by tile."""

    def __init__(self, head: TiledHead, x: Tensor, target: Tensor, weight: Tensor) -> None:
        import torch

        self.block, self.x, self.target = head.block, x, target
        self.weight = weight * (1 - head.smoothing)
        self.even = weight * (head.smoothing / head.block.n_classes) if head.smoothing else None
        if self.even is not None:
            self.even_weight, self.even_bias = torch.mv(x.T, self.even), self.even.sum()

    def subtract(self, start: int, stop: int, d_x: Tensor | None, d_weight: Tensor, d_bias: Tensor) -> None:
        """Take the part of one tile away from the gradients."""
        import torch

        tile = self.block.weight[start:stop]
        if self.even is not None:
            d_weight.sub_(self.even_weight)
            d_bias.sub_(self.even_bias)
            if d_x is not None:
                d_x.addr_(self.even, tile.sum(0), alpha=-1)
        if self.target.ndim == 2:
            q = self.target[:, start:stop] * self.weight.unsqueeze(1)
            d_weight.addmm_(q.T, self.x, alpha=-1)
            d_bias.sub_(q.sum(0))
            if d_x is not None:
                d_x.addmm_(q, tile, alpha=-1)
            return
        local = self.target - (self.block.first + start)
        rows = torch.nonzero((local >= 0) & (local < stop - start)).flatten()
        if not rows.numel():
            return
        local, weight = local.index_select(0, rows), self.weight.index_select(0, rows)
        d_weight.index_add_(0, local, self.x.index_select(0, rows) * weight.unsqueeze(1), alpha=-1)
        d_bias.index_add_(0, local, weight, alpha=-1)
        if d_x is not None:
            d_x.index_add_(0, rows, tile.index_select(0, local) * weight.unsqueeze(1), alpha=-1)
