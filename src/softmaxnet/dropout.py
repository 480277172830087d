"""Dropout of hidden units and of tokens: draws that are a pure function of (seed, step), on any number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softmaxnet.batches import SparseBatch
from softmaxnet.network import NetworkSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Part", "drop_tokens", "hidden_masks", "keep_scale"]


class Part(NamedTuple):
    """Which rows of a whole batch of ``n_rows`` these are: what is drawn for it is drawn as if all were here."""

    first_row: int
    n_rows: int


def drop_tokens(sparse: SparseBatch, rate: float, key: tuple[int, int]) -> SparseBatch:
    """Return the batch without a random share of its entries, the others scaled up for it: dropout at the input."""
    import torch

    keep = _mask_pool(rate, sparse.values.numel(), (key[0] + 1, key[1]), sparse.values.device, sparse.first_entry)
    before = torch.zeros(keep.numel() + 1, dtype=torch.int64, device=keep.device)
    torch.cumsum(keep, 0, out=before[1:])
    return SparseBatch(before[sparse.offsets], sparse.indices[keep], sparse.values[keep] * keep_scale(rate))


def _keep_level(dropout: float) -> int:
    return round((1 - dropout) * 256)


def keep_scale(dropout: float) -> float:
    """Return the factor on what is kept: of the rate as drawn, in 256ths, so that the expected output is exact."""
    return 256 / max(_keep_level(dropout), 1)


def _mask_pool(dropout: float, count: int, key: tuple[int, int], device: Any, first: int = 0) -> Tensor:
    """Return ``count`` draws of keep (True) or drop, a pure function of (seed, step), from the draw ``first`` on.

    Counter-based bytes (Philox, Salmon et al. 2011): any step's masks are had without those before it, any part of
    them without the rest, and a byte a unit is twenty times cheaper than a Bernoulli draw a unit.
    """
    import torch

    block, skipped = divmod(first, 32)  # a count of the counter is four words of eight bytes
    raw = np.random.Philox(key=key[0], counter=[block, 0, key[1], 0]).random_raw(-(-(skipped + count) // 8))
    drawn = raw.view(np.uint8)[skipped : skipped + count]
    return (torch.from_numpy(drawn).to(device)) < _keep_level(dropout)


def hidden_masks(
    dropout: float, spec: NetworkSpec, n: int, key: tuple[int, int], part: Part | None, device: Any
) -> Tensor:
    """Return the draws for all hidden units of ``n`` rows: layer by layer, member by member, row by row."""
    import torch

    if part is None:
        return _mask_pool(dropout, sum(spec.hidden_layer_sizes) * spec.n_members * n, key, device)
    pieces, first = [], 0
    for size in spec.hidden_layer_sizes:
        for _ in range(spec.n_members):
            pieces.append(_mask_pool(dropout, n * size, key, device, first + part.first_row * size))
            first += part.n_rows * size
    return torch.cat(pieces)
