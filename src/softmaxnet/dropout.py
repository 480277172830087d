"""Dropout of hidden units, columns and tokens: pure functions of (seed, step), on any number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from softmaxnet.batches import Columns, SparseBatch
from softmaxnet.network import NetworkSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Part", "drop_columns", "drop_tokens", "hidden_masks"]


class Part(NamedTuple):
    """Which rows of a whole batch of ``n_rows`` these are: what is drawn for it is drawn as if all were here."""

    first_row: int
    n_rows: int


def drop_columns(
    dense: Tensor, columns: Columns, rate: float, key: tuple[int, int], part: Part | None = None
) -> Tensor:
    """Return the batch with a random share of each row's columns set to 0, the others scaled up for it.

    A column goes with all that it was made into (its scaled number, bins and indicators, or its levels), so that the
    network learns to do without it: what one column says of the class, it has to find in others as well.
    """
    import torch

    n = dense.shape[0]
    first = 0 if part is None else part.first_row * columns.n_columns
    drawn = _draws(n * columns.n_columns, (key[0] + 2, key[1]), dense.device, first)
    kept = torch.empty(n, columns.n_columns, dtype=dense.dtype, device=dense.device)
    torch.lt(drawn.view(n, columns.n_columns), _keep_level(rate), out=kept).mul_(_keep_scale(rate))
    return kept.index_select(1, columns.of_input).mul_(dense)


def drop_tokens(sparse: SparseBatch, rate: float, key: tuple[int, int]) -> SparseBatch:
    """Return the batch without a random share of its entries, the others scaled up for it: dropout at the input."""
    import torch

    drawn = _draws(sparse.values.numel(), (key[0] + 1, key[1]), sparse.values.device, sparse.first_entry)
    keep = drawn < _keep_level(rate)
    before = torch.zeros(keep.numel() + 1, dtype=torch.int64, device=keep.device)
    torch.cumsum(keep, 0, out=before[1:])
    return SparseBatch(before[sparse.offsets], sparse.indices[keep], sparse.values[keep] * _keep_scale(rate))


def hidden_masks(
    dropout: float, spec: NetworkSpec, n: int, key: tuple[int, int], part: Part | None, like: Tensor
) -> Tensor:
    """Return what to multiply all hidden units of ``n`` rows with: layer by layer, member by member, row by row.

    Of the dtype and on the device of ``like``: 0, or what makes up for those.
    """
    import torch

    device = like.device
    if part is None:
        drawn = _draws(sum(spec.hidden_layer_sizes) * spec.n_members * n, key, device)
    else:
        pieces, first = [], 0
        for size in spec.hidden_layer_sizes:
            for _ in range(spec.n_members):
                pieces.append(_draws(n * size, key, device, first + part.first_row * size))
                first += part.n_rows * size
        drawn = torch.cat(pieces)
    # Into numbers at once: to compare and to convert truth values afterwards would take ten times as long.
    masks = torch.empty(len(drawn), dtype=like.dtype, device=device)
    return torch.lt(drawn, _keep_level(dropout), out=masks).mul_(_keep_scale(dropout))


def _keep_scale(dropout: float) -> float:
    """Return the factor on what is kept: of the rate as drawn, in 256ths, so that the expected output is exact."""
    return 256 / max(_keep_level(dropout), 1)


def _keep_level(dropout: float) -> int:
    return min(round((1 - dropout) * 256), 255)  # of a byte; the least rate is 1 / 256


def _draws(count: int, key: tuple[int, int], device: Any, first: int = 0) -> Tensor:
    """Return ``count`` random bytes, a pure function of (seed, step), from the draw ``first`` on.

    Counter-based (Philox, Salmon et al. 2011): any step's are had without those before it, any part of them without the
    rest, and a byte a unit is twenty times cheaper than a Bernoulli draw a unit.
    """
    import torch

    block, skipped = divmod(first, 32)  # a count of the counter is four words of eight bytes
    raw = np.random.Philox(key=key[0], counter=[block, 0, key[1], 0]).random_raw(-(-(skipped + count) // 8))
    return torch.from_numpy(raw.view(np.uint8)[skipped : skipped + count]).to(device)
