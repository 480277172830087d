"""The output layer's loss and its gradient at the logits, in place, on torch tensors.

The gradient is always *prediction minus target*, times the weight of the row:

=========  =========================================  ======================
output     loss of a row [nats]                       gradient at the logits
=========  =========================================  ======================
softmax    ``-sum_k q_k log_softmax(z)_k``            ``softmax(z) - q``
sigmoid    ``-sum_k q_k ln s_k + (1-q_k) ln(1-s_k)``  ``sigmoid(z) - q``
=========  =========================================  ======================

with q the one-hot label, smoothed or soft. Labels stay integers: no array of one-hot rows is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["log_sum_exp_", "loss_and_gradient"]


def loss_and_gradient(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    *,
    output: str = "softmax",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the weighted sum of the rows' losses and turn the logits into its gradient, in place.

    ``L = sum_mi w_mi loss(z_mi, q_i)`` and ``dL/dz_mi = w_mi (p_mi - q_i)``.

    Parameters
    ----------
    logits : Tensor of shape (n_members, n_rows, n_classes), float32 or float64; overwritten with the gradient
    target : Tensor of shape (n_rows,), int64 labels; or (n_rows, n_classes), rows of probabilities
    weight : Tensor of shape (n_rows,) or (n_members, n_rows)
    output : {"softmax", "sigmoid"}
    label_smoothing : float in [0, 1)
        The target becomes ``(1 - a) q + a / K``.

    Returns
    -------
    Tensor of shape (), float64, nats

    References
    ----------
    Bridle (1990); Bishop, PRML (2006), equations 4.108 and 4.109.

    Examples
    --------
    >>> import torch
    >>> z = torch.tensor([[[1.6, 3.1, 0.5]]], dtype=torch.float64)
    >>> loss = loss_and_gradient(z, torch.tensor([1]), torch.ones(1, dtype=torch.float64))
    >>> round(loss.item(), 6), [round(v, 6) for v in z[0, 0].tolist()]
    (0.260365, [0.171982, -0.22923, 0.057248])
    """
    if weight.ndim == 1:
        weight = weight.expand(logits.shape[0], -1)
    if output == "sigmoid":
        return _sigmoid_head(logits, target, weight, label_smoothing)
    return _softmax_head(logits, target, weight, label_smoothing)


def _softmax_head(z: Tensor, target: Tensor, weight: Tensor, smoothing: float) -> Tensor:
    import torch

    n_classes = z.shape[-1]
    if target.ndim == 1:
        index = target.expand(z.shape[0], -1).unsqueeze(-1)
        torch.log_softmax(z, -1, out=z)
        at_target = z.gather(-1, index).squeeze(-1)
        if smoothing:
            at_target = (1 - smoothing) * at_target + smoothing * z.mean(-1)
        loss = (weight * at_target).sum(dtype=torch.float64).neg_()
        column = weight.unsqueeze(-1)
        z.exp_().mul_(column)
        # The correction enters after the product with the weight, never through a rounded p - 1.
        z.scatter_add_(-1, index, column.mul(smoothing - 1))
        if smoothing:
            z.sub_((smoothing / n_classes) * weight.unsqueeze(-1))
        return loss
    q = target if not smoothing else (1 - smoothing) * target + smoothing / n_classes
    # 0 * -inf is 0 here: a class without target mass does not enter the loss.
    at_target = torch.where(q > 0, q * z, torch.zeros((), dtype=z.dtype)).sum(-1, dtype=torch.float64)
    loss = (weight * (log_sum_exp_(z) * q.sum(-1, dtype=torch.float64) - at_target)).sum()
    z.sub_(q).mul_(weight.unsqueeze(-1))
    return loss


def log_sum_exp_(z: Tensor) -> Tensor:
    """Turn each row into its softmax in place and return its log-sum-exp, float64.

    The library's softmax is one vectorised pass, several times faster than exponential, sum and division; the highest
    probability, ``exp(max - lse)``, says what the log-sum-exp was. It is never below 1 / K.

    Examples
    --------
    >>> import torch
    >>> z = torch.tensor([[1.6, 3.1, 0.5]])
    >>> round(log_sum_exp_(z).item(), 6), [round(p, 4) for p in z[0].tolist()]
    (3.360365, [0.172, 0.7708, 0.0572])
    """
    import torch

    top = z.amax(-1).double()
    torch.softmax(z, -1, out=z)
    return top.sub_(z.amax(-1).double().log_())


def _sigmoid_head(z: Tensor, target: Tensor, weight: Tensor, smoothing: float) -> Tensor:
    import torch

    n_classes = z.shape[-1]
    # softplus(z) - q z is -[q ln s + (1 - q) ln(1 - s)]; added up in float64, large numbers may cancel.
    losses = torch.nn.functional.softplus(z).sum(-1, dtype=torch.float64)
    if target.ndim == 1:
        index = target.expand(z.shape[0], -1).unsqueeze(-1)
        losses.sub_(z.gather(-1, index).squeeze(-1), alpha=1 - smoothing)
    else:
        losses.sub_((target * z).sum(-1, dtype=torch.float64), alpha=1 - smoothing)
    if smoothing:
        losses.sub_(z.sum(-1, dtype=torch.float64), alpha=smoothing / n_classes)
    z.sigmoid_()
    if smoothing:
        z.sub_(smoothing / n_classes)
    if target.ndim == 2:
        z.sub_(target, alpha=1 - smoothing)
    z.mul_(weight.unsqueeze(-1))
    if target.ndim == 1:
        z.scatter_add_(-1, index, (-(1 - smoothing) * weight).unsqueeze(-1))
    return (weight * losses).sum()
