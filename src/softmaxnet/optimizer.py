"""One update: Adam on the flat parameters, Adagrad on the touched rows of the sparse table, and their running average.

=====================  ==========================================================================================
parameters             update
=====================  ==========================================================================================
flat, dense gradient   Adam with decoupled weight decay (Kingma and Ba 2015; Loshchilov and Hutter 2019), fused
head by class          the same, tile by tile as the gradients come, with the factor of its scale on the rate
sparse table           Adagrad (Duchi et al. 2011) on the rows that the batch has; others are not even read
average                ``a <- a + (1 - b_t)(theta - a)`` with ``1 - b_t = 1 - (1 - 1/t)^(g+1)``: a weight of t^g for
                       step t, so the window is always the same share of the run so far (Karras et al. 2024, 3.1)
=====================  ==========================================================================================
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from softmaxnet.backward import TableGradient
    from softmaxnet.parameters import Parameters

__all__ = ["Optimizer", "learning_rate_factor"]

ADAM_EPSILON = 1e-8
ADAGRAD_EPSILON = 1e-10


def learning_rate_factor(step: int, n_steps: int, warmup_steps: int, schedule: str) -> float:
    """Return the factor on the learning rate at a step, counted from 0.

    ``"constant"`` is 1 throughout; ``"cosine"`` rises linearly over the warm-up and then falls as
    ``(1 + cos(pi t)) / 2`` to 0 at the end (Loshchilov and Hutter 2017); ``"flat"`` stays at 1 after the warm-up
    (the running average takes the place of the fall).

    Examples
    --------
    >>> [round(learning_rate_factor(s, 100, 10, "cosine"), 3) for s in (0, 9, 55, 99)]
    [0.1, 1.0, 0.5, 0.0]
    """
    if schedule == "constant":
        return 1.0
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "flat":
        return 1.0
    t = (step - warmup_steps) / max(n_steps - warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(t, 1.0)))


class Optimizer:
    """State of one run: moments, the table's sums of squares, the running average, the number of steps taken.

    Parameters
    ----------
    parameters : Parameters
    betas : (float, float)
    weight_decay : float
        Decoupled: ``theta <- theta - rate * weight_decay * theta`` for weights, never for biases or the embedding.
    average_power : float or None
        g above; None keeps no average and :meth:`averaged` is the parameters themselves.
    table_rate : float
        Adagrad's rate relative to the one given to :meth:`step`.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        average_power: float | None = None,
        table_rate: float = 1.0,
    ) -> None:
        import torch

        self.parameters = parameters
        self.betas = betas
        self.weight_decay = weight_decay
        self.average_power = average_power
        self.table_rate = table_rate
        flat = parameters.flat
        self.first = torch.zeros_like(flat)
        self.second = torch.zeros_like(flat)
        self.count = torch.zeros((), dtype=torch.float32, device=flat.device)
        self.n_steps = 0
        self.average = None if average_power is None else flat.clone()
        table = parameters.table
        self.table_squares = None if table is None else torch.zeros_like(table)

    def step(self, rate: float, gradient: Tensor, table_gradient: TableGradient | None) -> None:
        """Apply one update with the learning rate ``rate``.

        A gradient of ``n_body`` numbers is of all parameters but a head by class, whose update has been made by
        :meth:`update_classes`.
        """
        parameters = self.parameters
        if self.weight_decay:
            parameters.flat[: parameters.n_decayed].mul_(1 - rate * self.weight_decay)
        self.n_steps += 1
        self.count.fill_(self.n_steps)  # the fused kernel reads the count and leaves counting to its caller
        theta, first, second = parameters.flat, self.first, self.second
        if parameters.by_class:
            theta, first, second = (numbers[: parameters.n_body] for numbers in (theta, first, second))
        self._adam(rate, 1.0, theta, gradient[: len(theta)], first, second, self.count)
        if parameters.by_class and gradient.numel() > parameters.n_body:
            d_weight, d_bias = parameters.head_of(gradient)
            for member in range(d_weight.shape[0]):
                self._update_head(rate, member, 0, d_weight.shape[1], d_weight[member], d_bias[member], self.count)
        if table_gradient is not None:
            self._step_table(rate * self.table_rate, table_gradient)
        if self.average is not None and self.average_power is not None:
            share = 1 - (1 - 1 / self.n_steps) ** (self.average_power + 1)
            self.average.lerp_(parameters.flat, share)

    def update_classes(
        self, rate: float, member: int, start: int, stop: int, d_weight: Tensor, d_bias: Tensor
    ) -> None:
        """Update some classes of a head by class; :meth:`step` with the same rate, for all else, follows.

        Parameters
        ----------
        rate : float
        member, start, stop : int
            Which weights: rows ``start..stop`` of the member's.
        d_weight : Tensor of shape (stop - start, width)
        d_bias : Tensor of shape (stop - start,)
        """
        self._update_head(rate, member, start, stop, d_weight, d_bias, self.count + 1)

    def _update_head(
        self, rate: float, member: int, start: int, stop: int, d_weight: Tensor, d_bias: Tensor, count: Tensor
    ) -> None:
        parameters = self.parameters
        for place, gradient in enumerate((d_weight, d_bias)):
            state = (parameters.flat, self.first, self.second)
            theta, first, second = (parameters.head_of(flat)[place][member, start:stop] for flat in state)
            if self.weight_decay and place == 0:
                theta.mul_(1 - rate * self.weight_decay)
            factor = parameters.spec.scale(parameters.head_names[place])
            self._adam(rate, factor, theta, gradient, first, second, count)

    def _adam(
        self, rate: float, factor: float, theta: Tensor, gradient: Tensor, first: Tensor, second: Tensor, count: Tensor
    ) -> None:
        """Update contiguous parameters that are ``factor`` times what the update is of.

        With ``W = s theta`` the gradient at theta is s times that at W: ``dW = s m / (sqrt(v) + epsilon / s)`` of the
        moments m and v of the gradient at W.
        """
        import torch

        torch._fused_adam_(
            [theta],
            [gradient],
            [first],
            [second],
            [],
            [count],
            lr=rate * factor,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=ADAM_EPSILON / factor,
            amsgrad=False,
            maximize=False,
        )

    def _step_table(self, rate: float, gradient: TableGradient) -> None:
        table, squares = self.parameters.table, self.table_squares
        assert table is not None
        assert squares is not None
        rows, g = gradient.rows, gradient.values
        total = squares.index_select(0, rows).addcmul_(g, g)
        squares.index_copy_(0, rows, total)
        table.index_add_(0, rows, g.div_(total.add_(ADAGRAD_EPSILON).sqrt_()), alpha=-rate)

    def averaged(self) -> Tensor:
        """Return the flat parameters to validate and to keep: the running average, or the present ones."""
        return self.parameters.flat if self.average is None else self.average
