"""One dense layer in a step: its buffers for a number of rows, and its products and activation into them (torch).

Views are made once for each number of rows: of a small network the overhead of making them anew would be a third of a
step. One member goes as plain matrices, which BLAS multiplies faster than a batch of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LayerPass", "of_one"]


def of_one(tensor: Tensor) -> Tensor:
    """Return the member's own tensor where there is one member, all members' otherwise."""
    return tensor[0] if tensor.shape[0] == 1 else tensor


@dataclass(frozen=True, slots=True)
class LayerPass:
    """The tensors of one layer: (n_rows, width) with one member, (n_members, n_rows, width) with more.

    Attributes
    ----------
    weight, bias : Tensor
        As stored; a number of the forward pass is ``weight_scale`` or ``bias_scale`` times it.
    d_weight, d_bias : Tensor
        Where the gradients go, of a dtype with no fewer bits.
    z : Tensor
        The layer's outputs; its gradient in the last layer.
    x : Tensor or None
        What the next layer takes, ``f(z)``; None after the last one.
    d_x : Tensor or None
        The gradient there.
    """

    activation: str
    weight: Tensor
    bias: Tensor
    weight_scale: float
    bias_scale: float
    d_weight: Tensor
    d_bias: Tensor
    z: Tensor
    x: Tensor | None
    d_x: Tensor | None

    def forward(self, x: Tensor) -> None:
        """Fill ``z = s_w x W + s_b b``."""
        import torch

        bias, beta, alpha = self.bias, self.bias_scale, self.weight_scale
        if self.z.ndim == 2:
            torch.addmm(bias, x, self.weight, beta=beta, alpha=alpha, out=self.z)
        else:
            torch.baddbmm(bias.unsqueeze(1), x, self.weight, beta=beta, alpha=alpha, out=self.z)

    def parameter_gradient(self, x: Tensor, delta: Tensor) -> None:
        """Fill ``d_weight = s_w x^T delta`` and ``d_bias = s_b sum_rows delta``."""
        import torch

        inputs, out, scale = x.transpose(-2, -1), self.d_weight, self.weight_scale
        if x.dtype != out.dtype:  # bfloat16 products; the sum over rows is float32 inside the kernel
            out.copy_(torch.mm(inputs, delta) if out.ndim == 2 else torch.bmm(inputs, delta))
            if scale != 1.0:
                out.mul_(scale)
            self.d_bias.copy_(delta.sum(-2, dtype=out.dtype))
        else:
            _product(inputs, delta, scale, out)
            torch.sum(delta, -2, out=self.d_bias)
        if self.bias_scale != 1.0:
            self.d_bias.mul_(self.bias_scale)

    def input_gradient(self, delta: Tensor, out: Tensor) -> None:
        """Fill ``out = s_w delta W^T``, the gradient at the layer's inputs."""
        _product(delta, self.weight.transpose(-2, -1), self.weight_scale, out)

    def activate(self, out: Tensor) -> None:
        """Fill ``out = f(z)`` by the library's own vector kernels."""
        import torch

        aten, name, z = torch.ops.aten, self.activation, self.z
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

    def activation_gradient(self, grad: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``grad * f'(z)``, in place where the library has the kernel.

        Parameters
        ----------
        grad : Tensor
            Overwritten.
        mask : Tensor or None
            What ``x`` has been multiplied with since it was ``f(z)``.
        """
        import torch

        aten: Any = torch.ops.aten
        name, z = self.activation, self.z
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
            y = self.x if mask is None else (torch.sigmoid(z) if name == "sigmoid" else torch.tanh(z))
            kernel = aten.sigmoid_backward if name == "sigmoid" else aten.tanh_backward
            out = kernel.grad_input(grad, y, grad_input=grad)
        return out


def _product(a: Tensor, b: Tensor, scale: float, out: Tensor) -> None:
    """Fill ``out = scale a b``."""
    import torch

    if out.ndim == 2:
        if scale == 1.0:
            torch.mm(a, b, out=out)
        else:
            torch.addmm(out, a, b, beta=0, alpha=scale, out=out)
    else:
        torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)
