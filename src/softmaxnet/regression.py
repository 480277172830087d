r"""Softmax regression on many dense rows: its objective in one pass, and coordinates in which it is round.

The objective as a function of ``theta`` (K, d + 1), the intercepts in its last column, is::

    F(theta) = sum_i w_i loss_i / sum_i w_i  +  weight_decay / 2 |W|^2

Its Hessian's block for class k is ``H_k = sum_i w_i p_ik (1 - p_ik) x_i x_i^T / sum_i w_i + weight_decay I``, with a 1
at the end of ``x_i`` and no penalty there. With ``H_k = L_k L_k^T`` and ``theta_k = origin_k + L_k^{-T} v_k`` the
blocks become identities in v, and a quasi-Newton method that needs hundreds of passes in theta needs a few tens in v.
Inputs need no centring: the intercept is one of the coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.batches import Rows
from softmaxnet.head import loss_and_gradient

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from softmaxnet.parameters import Parameters

    Floats = NDArray[np.float64]

__all__ = ["Coordinates", "DenseRegression"]

CHUNK_ROWS = 1024
"""Rows that are read at once: what the gradient needs of them is then still in the cache."""
MOST_COLUMNS = 2048
"""Of more columns the blocks cost more than they save."""
MOST_BLOCK_ENTRIES = 50_000_000
"""Entries of all classes' blocks; beyond that the classes share one."""
FIRST_CURVATURE = 0.02
"""Stands for ``p (1 - p)`` before anything is fitted: its size near the end, for most rows are decided by then."""
RIDGE = 1e-6
VECTOR = 16
"""float32 numbers of the widest instructions: with a multiple of them products and softmax are twice as fast."""
LEAST_PADDED = 9
"""Fewer classes are quicker as they are."""


class DenseRegression:
    """Objective and gradient of softmax regression over all rows.

    Parameters
    ----------
    rows : Rows
        Without a sparse block; float32, float64 or uint8 numbers, which stay what they are until they are needed.
    n_classes : int
    weight_decay, label_smoothing : float
    output : {"softmax", "sigmoid"}
    dtype : torch dtype
        Of the products; sums over chunks of 1,024 rows are float64.
    """

    def __init__(
        self,
        rows: Rows,
        n_classes: int,
        *,
        weight_decay: float,
        label_smoothing: float = 0.0,
        output: str = "softmax",
        dtype: Any,
    ) -> None:
        import torch

        self.rows, self.n_classes, self.weight_decay = rows, n_classes, weight_decay
        self.label_smoothing, self.output, self.dtype = label_smoothing, output, dtype
        self.total_weight = float(rows.weight.double().sum())
        self.n_passes = 0
        most = min(len(rows), CHUNK_ROWS)
        n_columns = rows.dense.shape[1]
        # Classes without a name and with a logit of -inf have no probability, no loss and no gradient.
        plain = output == "softmax" and not label_smoothing and rows.target.ndim == 1
        self._is_padded = plain and n_classes >= LEAST_PADDED
        width = -(-n_classes // VECTOR) * VECTOR if self._is_padded else n_classes
        self._input = None if rows.dense.dtype == dtype else torch.empty(most, n_columns, dtype=dtype)
        self._logits = torch.empty(most, width, dtype=dtype)
        self._weight = torch.zeros(width, n_columns, dtype=dtype)
        self._bias = torch.full((width,), -math.inf, dtype=dtype)
        self._product = torch.empty((n_columns, width) if self._is_padded else (width, n_columns), dtype=dtype)

    @staticmethod
    def fits(parameters: Parameters, rows: Rows) -> bool:
        """Return whether a network on some rows is softmax regression of few enough dense columns."""
        spec = parameters.spec.network
        return (
            rows.sparse is None
            and spec.n_layers == 1
            and spec.n_members == 1
            and not spec.embedding_size
            and not parameters.spec.scales
            and rows.fold is None
            and 0 < spec.n_dense <= MOST_COLUMNS
        )

    def some(self, chosen: Tensor) -> DenseRegression:
        """Return the same objective over some of the rows."""
        rows = self.rows
        part = Rows(rows.dense[chosen], rows.target[chosen], rows.weight[chosen], scale=rows.scale)
        return DenseRegression(
            part,
            self.n_classes,
            weight_decay=self.weight_decay,
            label_smoothing=self.label_smoothing,
            output=self.output,
            dtype=self.dtype,
        )

    def __call__(self, theta: Floats) -> tuple[float, Floats]:
        """Return the objective [nats] and its gradient, (K, d + 1)."""
        import torch

        loss, gradient, n_classes = 0.0, np.zeros_like(theta), self.n_classes
        for part, x, z in self._chunks(theta):
            loss += float(
                loss_and_gradient(
                    z.unsqueeze(0),
                    self.rows.target[part],
                    self.rows.weight[part].to(self.dtype),
                    output=self.output,
                    label_smoothing=self.label_smoothing,
                )
            )
            # Of few or an odd number of classes the product with the classes first is twice as fast.
            if self._is_padded:
                gradient[:, :-1] += torch.mm(x.T, z, out=self._product).T[:n_classes].numpy()
            else:
                gradient[:, :-1] += torch.mm(z.T, x, out=self._product).numpy()
            gradient[:, -1] += z.sum(0, dtype=torch.float64)[:n_classes].numpy()
        self.n_passes += 1
        gradient[:, :-1] *= self.rows.scale
        gradient /= self.total_weight
        weights = theta[:, :-1]
        gradient[:, :-1] += self.weight_decay * weights
        return loss / self.total_weight + 0.5 * self.weight_decay * float((weights**2).sum()), gradient

    def probabilities(self, theta: Floats) -> Tensor:
        """Return the probabilities of all rows, (n, K); with the sigmoid, each class's own."""
        import torch

        out = torch.empty(len(self.rows), self.n_classes, dtype=self.dtype)
        for part, _, z in self._chunks(theta):
            out[part] = z.sigmoid_() if self.output == "sigmoid" else torch.softmax(z, 1)[:, : self.n_classes]
        return out

    def _chunks(self, theta: Floats) -> Any:
        """Yield slices of the rows with their inputs, not yet scaled, and their logits."""
        import torch

        # The scale of the inputs goes into the weights: there are fewer of them.
        self._weight[: self.n_classes] = torch.from_numpy(theta[:, :-1] * self.rows.scale)
        self._bias[: self.n_classes] = torch.from_numpy(theta[:, -1])
        for start in range(0, len(self.rows), CHUNK_ROWS):
            part = slice(start, min(start + CHUNK_ROWS, len(self.rows)))
            x = self.rows.dense[part]
            if self._input is not None:
                x = self._input[: len(x)].copy_(x)
            yield part, x, torch.addmm(self._bias, x, self._weight.T, out=self._logits[: len(x)])


@dataclass(frozen=True)
class Coordinates:
    """``theta_k = origin_k + A_k v_k``: coordinates in which the objective is nearly round.

    Attributes
    ----------
    origin : array (K, d + 1)
    factors : Tensor (K or 1, d + 1, d + 1)
        ``A_k``; one for all classes where there is one.
    """

    origin: Floats
    factors: Tensor

    def theta(self, v: Floats) -> Floats:
        """Return the parameters at a point."""
        return self.origin + self._times(v, transposed=False)

    def gradient(self, gradient: Floats) -> Floats:
        """Return the gradient at v, ``A_k^T g_k``, from the one at the parameters."""
        return self._times(gradient, transposed=True)

    def _times(self, v: Floats, *, transposed: bool) -> Floats:
        import torch

        factors = self.factors.transpose(1, 2) if transposed else self.factors
        rows = torch.from_numpy(np.ascontiguousarray(v)).to(factors.dtype)
        if len(factors) == 1:
            return torch.mm(rows, factors[0].T).double().numpy()
        # One by one: a batched product with vectors is four times slower.
        return torch.stack([torch.mv(*pair) for pair in zip(factors, rows, strict=True)]).double().numpy()

    @classmethod
    def before_fitting(cls, origin: Floats, regression: DenseRegression) -> Coordinates:
        """Return those of the inputs' second moments, the same for all classes."""
        chosen = sample(len(regression.rows), 10 * origin.shape[1])
        total = float(regression.rows.weight[chosen].sum()) or regression.total_weight
        weight = regression.rows.weight * (FIRST_CURVATURE / total)
        block = _second_moments(regression, chosen, weight)
        return cls(origin, _inverse_roots(block.unsqueeze(0), regression.weight_decay))

    @classmethod
    def at(cls, theta: Floats, regression: DenseRegression) -> Coordinates:
        """Return those of the Hessian's blocks at ``theta``, which becomes the origin.

        Of each class the ``n / 2K`` rows that it is least decided about are looked at, at least four for each column:
        they have most of ``p (1 - p)``. The others' second moments are taken to be like those of all rows.
        """
        import torch

        proba = regression.probabilities(theta)
        n, n_classes = proba.shape
        size = regression.rows.dense.shape[1] + 1
        weight = regression.rows.weight.to(proba.dtype) / regression.total_weight
        curvature = proba.mul_(1 - proba).mul_(weight.unsqueeze(1))
        if n_classes * size**2 > MOST_BLOCK_ENTRIES:
            block = _second_moments(regression, None, curvature.mean(1))
            return cls(theta, _inverse_roots(block.unsqueeze(0), regression.weight_decay))
        count = min(n, max(n // (2 * n_classes), 4 * size))
        blocks = torch.empty(n_classes, size, size, dtype=proba.dtype)
        rest = curvature.sum(0)
        for k in range(n_classes):
            most, chosen = curvature[:, k].topk(count)
            rest[k] -= most.sum()
            blocks[k] = _second_moments(regression, chosen.sort().values, curvature[:, k])
        if count < n:
            common = _second_moments(regression, sample(n, 10 * size), weight)
            blocks += rest.clamp(min=0)[:, None, None] * common / common[-1, -1]
        return cls(theta, _inverse_roots(blocks, regression.weight_decay))


def sample(n_rows: int, count: int) -> Tensor:
    """Return ``count`` of the rows' numbers in ascending order, the same in every run; all where there are fewer."""
    import torch

    if count >= n_rows:
        return torch.arange(n_rows)
    order = np.random.Generator(np.random.Philox(key=0)).permutation(n_rows)[:count]
    return torch.from_numpy(np.sort(order))


def _second_moments(regression: DenseRegression, chosen: Tensor | None, weight: Tensor) -> Tensor:
    """Return ``sum_i weight_i (x_i, 1) (x_i, 1)^T`` over the chosen rows."""
    import torch

    rows = regression.rows
    n_columns = rows.dense.shape[1]
    block = torch.zeros(n_columns + 1, n_columns + 1, dtype=regression.dtype)
    n = len(rows) if chosen is None else len(chosen)
    for start in range(0, n, 8 * CHUNK_ROWS):
        part: Any = slice(start, min(start + 8 * CHUNK_ROWS, n))
        part = part if chosen is None else chosen[part]
        root = weight[part].to(regression.dtype).sqrt().unsqueeze(1)
        x = rows.dense[part].to(regression.dtype) * (root * rows.scale)
        block[:-1, :-1].addmm_(x.T, x)
        block[-1, :-1] += torch.mv(x.T, root[:, 0])
        block[-1, -1] += root.square().sum()
    block[:-1, -1] = block[-1, :-1]
    return block


def _inverse_roots(blocks: Tensor, weight_decay: float) -> Tensor:
    """Return ``L^{-T}`` of each block with the penalty, ``L L^T``; a ridge where rounding leaves no such L.

    Of numbers too large for their squares identities: the descent will say so.
    """
    import torch

    identity = torch.eye(blocks.shape[1], dtype=blocks.dtype).expand_as(blocks)
    if not torch.isfinite(blocks).all():
        return identity

    diagonal = blocks.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True).clamp(min=torch.finfo(blocks.dtype).tiny)
    diagonal[:, :-1] += weight_decay
    ridge = RIDGE
    while True:
        diagonal += ridge * mean
        lower, failed = torch.linalg.cholesky_ex(blocks)
        if not failed.any() or ridge > 1:
            break
        ridge *= 10
    inverse: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
    return inverse.transpose(1, 2).contiguous()
