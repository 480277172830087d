"""The periodic embedding of numbers in a step: forward, and the gradients of its parameters (torch)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from softmaxnet.parameters import Parameters

__all__ = ["EmbeddingPass"]


class EmbeddingPass:
    """Forward and backward of the periodic embedding, with the waves kept as (n_dense, n_rows, n_frequencies)."""

    def __init__(
        self,
        parameters: Parameters,
        views: dict[str, Tensor],
        gradient_views: dict[str, Tensor],
        max_rows: int,
    ) -> None:
        import torch

        spec = parameters.spec.network
        self.spec, self.scale, self.views, self.gradient_views = spec, parameters.scale, views, gradient_views
        dtype, device = views["layers.0.weight"].dtype, parameters.flat.device
        shape = (spec.n_dense, max_rows, spec.n_frequencies)
        self.waves = torch.empty(shape, dtype=dtype, device=device)
        self.cosine = torch.empty_like(self.waves)
        self.output = torch.empty(max_rows, spec.n_inputs, dtype=dtype, device=device)
        self.dense: Tensor | None = None

    def forward(self, dense: Tensor) -> Tensor:
        """Return the inputs of the first layer, (n_rows, n_inputs)."""
        import torch

        spec, scale, views = self.spec, self.scale, self.views
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

    def backward(self, delta: Tensor) -> None:
        """Fill the embedding's gradients from the gradient at the first layer's outputs, (n_members, n_rows, width)."""
        import torch

        spec, scale, views = self.spec, self.scale, self.views
        n = delta.shape[1]
        assert self.dense is not None
        weight = views["layers.0.weight"][:, spec.n_dense :]
        at_input = torch.bmm(delta, weight.transpose(1, 2)).sum(0).mul_(scale("layers.0.weight"))
        at_mixed = at_input.view(n, spec.n_dense, -1).transpose(0, 1)  # (n_dense, n, E)
        waves, cosine = self.waves[:, :n], self.cosine[:, :n]
        grads = self.gradient_views
        grads["embedding.weight"].copy_(torch.bmm(cosine.transpose(1, 2), at_mixed)).mul_(
            scale("embedding.weight")
        )
        at_waves = torch.bmm(at_mixed, views["embedding.weight"].transpose(1, 2)).mul_(-scale("embedding.weight"))
        at_waves.mul_(waves.sin_())
        grads["embedding.phase"].copy_(at_waves.sum(1)).mul_(scale("embedding.phase"))
        at_waves.mul_(self.dense.T.unsqueeze(-1))
        grads["embedding.frequency"].copy_(at_waves.sum(1)).mul_(2 * np.pi * scale("embedding.frequency"))
