"""Encoded rows as tensors, and the batches that an epoch takes them in.

::

    Rows --order of the epoch--> a window, gathered once --> batches as views of it --> (moved pictures)
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from softmaxnet.communicator import ALONE, Communicator
from softmaxnet.data.epoch_plan import epoch_order

if TYPE_CHECKING:
    import scipy.sparse
    from torch import Tensor

__all__ = ["Batch", "Columns", "Feed", "MemoryFeed", "Rows", "SparseBatch", "batch_of", "shifted", "window_batches"]


Batch: TypeAlias = "tuple[Tensor, SparseBatch | None, Tensor, Tensor]"
"""(dense, sparse, target, weight), as ``BackwardPass`` takes them."""

WINDOW_BYTES = 64 << 20


@dataclass
class SparseBatch:
    """The rows of a sparse block as three tensors (CSR), with their transpose for the gradient made on demand."""

    offsets: Tensor  # (n_rows + 1,), int64
    indices: Tensor  # (n_nonzero,), int64
    values: Tensor  # (n_nonzero,), floating
    first_entry: int = 0  # entries of the whole batch before these, where other processes have other rows of it


class Columns(NamedTuple):
    """Which column of a table each input comes from: ``of_input``, int64 (n_dense,), from 0 to ``n_columns`` - 1."""

    of_input: Tensor
    n_columns: int


@dataclass
class Rows:
    """Encoded training rows as tensors.

    Attributes
    ----------
    dense : Tensor of shape (n_rows, n_dense), floating or uint8; the value of an input is ``dense * scale``
    scale : float
    sparse : scipy.sparse.csr_array of shape (n_rows, n_sparse), or None
    target : Tensor of shape (n_rows,), int64; or (n_rows, n_classes), rows of probabilities
    weight : Tensor of shape (n_rows,), mean 1, so that a step's size does not depend on the unit of the weights
    fold : Tensor of shape (n_rows,), int64, or None
        The part of the rows that a row belongs to; -1 for rows that every member trains on.
    member_fold : Tensor of shape (n_members,), int64, or None
        The part that each member does not train on and is validated by.
    picture : (height, width, channels) or None
        The shape of a row of pixels.
    columns : Columns or None
        The column of the table that each dense input comes from, to drop some of them.
    """

    dense: Tensor
    target: Tensor
    weight: Tensor
    scale: float = 1.0
    sparse: scipy.sparse.csr_array | None = None
    fold: Tensor | None = None
    member_fold: Tensor | None = None
    picture: tuple[int, int, int] | None = None
    columns: Columns | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.dense.shape[0])

    def take(self, which: slice | np.ndarray) -> Rows:
        """Return some of the rows: views of them for a slice, where they are not sparse."""
        import torch

        if isinstance(which, slice):

            def chosen(tensor: Tensor) -> Tensor:
                return tensor[which]

        else:
            place = torch.from_numpy(which).to(self.dense.device)

            def chosen(tensor: Tensor) -> Tensor:
                return tensor.index_select(0, place)  # copies whole rows: several times faster than tensor[place]

        return replace(
            self,
            dense=chosen(self.dense),
            target=chosen(self.target),
            weight=chosen(self.weight),
            sparse=None if self.sparse is None else self.sparse[which],
            fold=None if self.fold is None else chosen(self.fold),
        )


class Feed(Protocol):
    """Where the batches of an epoch come from."""

    @property
    def n_rows(self) -> int:
        """Rows of an epoch."""

    @property
    def picture(self) -> tuple[int, int, int] | None:
        """The shape of a row of pixels."""

    @property
    def columns(self) -> Columns | None:
        """The column of the table that each dense input comes from."""

    def batches(self, epoch: int, bounds: Sequence[tuple[int, int]], buffer: Tensor) -> Generator[Batch, None, None]:
        """Yield the rows (start, stop) of an epoch's order for each of ``bounds``, which ascend; see ``batch_of``.

        Of several processes each yields its part of every batch.
        """


@dataclass(frozen=True)
class MemoryFeed:
    """Rows in memory, gathered in the order of the epoch, a window at a time."""

    rows: Rows
    seed: int
    communicator: Communicator = ALONE

    @property
    def n_rows(self) -> int:
        """Rows of an epoch."""
        return len(self.rows)

    @property
    def picture(self) -> tuple[int, int, int] | None:
        """The shape of a row of pixels."""
        return self.rows.picture

    @property
    def columns(self) -> Columns | None:
        """The column of the table that each dense input comes from."""
        return self.rows.columns

    def batches(self, epoch: int, bounds: Sequence[tuple[int, int]], buffer: Tensor) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch."""
        dense = self.rows.dense
        order = epoch_order(self.seed, epoch, len(self.rows))
        row_bytes = max(dense.shape[1] * dense.element_size(), 1)
        per_window = max(WINDOW_BYTES // (row_bytes * max(stop - start for start, stop in bounds)), 1)
        for first in range(0, len(bounds), per_window):
            window = list(bounds[first : first + per_window])
            yield from window_batches(self.rows, order, window, buffer, communicator=self.communicator)


def window_batches(
    rows: Rows,
    order: np.ndarray | None,
    window: list[tuple[int, int]],
    buffer: Tensor,
    *,
    divisor: float | None = None,
    communicator: Communicator = ALONE,
) -> Iterator[tuple[Tensor, SparseBatch | None, Tensor, Tensor]]:
    """Gather the rows of a window once and yield its batches as views: (dense, sparse, target, weight).

    Weights come divided by ``divisor``, by default the rows of a batch, so that a step follows the mean loss; rows come
    in the given order, or as they are. Of several processes each gets its part of every batch.
    """
    start, stop = window[0][0], window[-1][1]
    gathered = rows.take(slice(start, stop) if order is None else order[start:stop])
    share = 1 / divisor if divisor is not None else len(window) / (stop - start)
    gathered.weight = gathered.weight * share
    for lower, upper in window:
        yield batch_of(gathered, slice(lower - start, upper - start), buffer, communicator=communicator)


def batch_of(
    rows: Rows, part: slice, buffer: Tensor, *, share: float = 1.0, communicator: Communicator = ALONE
) -> Batch:
    """Return some rows as a batch, in views where nothing has to be converted, their weights times ``share``.

    Of several processes each gets its part of the batch.
    """
    first = part.start
    if communicator.size > 1:
        mine = communicator.part(part.stop - first)
        part = slice(first + mine.start, first + mine.stop)
    x = rows.dense[part]
    if x.dtype != buffer.dtype or rows.scale != 1.0:
        x = buffer[: part.stop - part.start].copy_(x)
        if rows.scale != 1.0:
            x.mul_(rows.scale)
    w = rows.weight[part]
    if share != 1.0:
        w = w * share
    if rows.fold is not None and rows.member_fold is not None:
        w = _member_weights(w, rows.fold[part], rows.member_fold)
    sparse = None if rows.sparse is None else _sparse_batch(rows.sparse, first, part, rows.weight.dtype)
    return x, sparse, rows.target[part], w


def shifted(dense: Tensor, picture: tuple[int, int, int], most: int, key: tuple[int, int]) -> Tensor:
    """Return a batch of pictures moved by one random number of rows and of columns; what moves in is 0.

    A picture of a thing is still of that thing a pixel further on. One shift a batch costs a copy, and over an epoch
    all shifts occur.
    """
    import torch

    height, width, channels = picture
    generator = np.random.Generator(np.random.Philox(key=key[0], counter=[0, 0, key[1], 4]))
    down, right = (int(v) for v in generator.integers(-most, most + 1, 2))
    if not down and not right:
        return dense
    source = dense.view(-1, height, width, channels)
    moved = torch.zeros_like(source)
    to_rows, from_rows = _overlap(down, height)
    to_columns, from_columns = _overlap(right, width)
    moved[:, to_rows, to_columns] = source[:, from_rows, from_columns]
    return moved.view(dense.shape)


def _overlap(by: int, size: int) -> tuple[slice, slice]:
    """Return where a line of a size goes and comes from when moved by some places."""
    return slice(max(by, 0), size + min(by, 0)), slice(max(-by, 0), size - max(by, 0))


def _member_weights(weight: Tensor, fold: Tensor, member_fold: Tensor) -> Tensor:
    """Return a weight for each member and row: 0 where the member holds the row out."""
    return weight * (fold.unsqueeze(0) != member_fold.unsqueeze(1))


def _sparse_batch(sparse: scipy.sparse.csr_array, first: int, part: slice, dtype: Any) -> SparseBatch:
    """Return some rows of a block, of a batch that begins at the row ``first``."""
    import torch

    offsets = sparse.indptr[part.start : part.stop + 1].astype(np.int64)
    span = slice(int(offsets[0]), int(offsets[-1]))
    return SparseBatch(
        torch.from_numpy(offsets - offsets[0]),
        torch.from_numpy(sparse.indices[span].astype(np.int64)),
        torch.from_numpy(sparse.data[span]).to(dtype),
        int(offsets[0]) - int(sparse.indptr[first]),
    )
