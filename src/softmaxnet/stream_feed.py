"""Batches from rows that are read and encoded while those before them are trained on.

::

    TableSource.slices --encoded in the thread that reads--> Rows --cut at the bounds of batches--> training

Batches do not end where slices do: what is left of a slice is put in front of the next one, so that an epoch has the
same batches whatever the size of the slices is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from softmaxnet.batches import Batch, Rows, batch_of
from softmaxnet.communicator import ALONE, Communicator
from softmaxnet.data.table_source import StreamedRows, TableSource

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StreamFeed"]

OnRows = Callable[[int, int], None]


@dataclass
class _Reading:
    """Where an epoch has been read to, so that the next round goes on without opening anything again."""

    epoch: int
    slices: Generator[Rows, None, None]
    first: int
    """The epoch's number of the first row held."""
    held: Rows | None = None

    @property
    def end(self) -> int:
        """The epoch's number of the first row that is not read yet."""
        return self.first + (0 if self.held is None else len(self.held))


class StreamFeed:
    """A :class:`softmaxnet.batches.Feed` of rows that need not fit in memory.

    Parameters
    ----------
    source : TableSource
    encode : callable
        Makes :class:`softmaxnet.batches.Rows` of streamed rows; called in the thread that reads.
    seed : int
        Of the order of rows.
    slice_rows : int
        Rows that are encoded at a time.
    on_rows : callable, optional
        Told the epoch and the rows of it that were handed over, batch by batch.
    communicator : Communicator, optional
        The processes that train together: each reads all rows and hands over its part of every batch.
    """

    picture = columns = None

    def __init__(
        self,
        source: TableSource,
        encode: Callable[[StreamedRows], Rows],
        *,
        seed: int,
        slice_rows: int,
        on_rows: OnRows | None = None,
        communicator: Communicator = ALONE,
    ) -> None:
        self.source, self.encode, self.seed, self.slice_rows = source, encode, seed, slice_rows
        self.on_rows, self.communicator = on_rows, communicator
        self.n_rows = source.n_rows
        self._reading: _Reading | None = None

    def batches(self, epoch: int, bounds: Sequence[tuple[int, int]], buffer: Tensor) -> Generator[Batch, None, None]:
        """Yield the batches of a part of an epoch; the part after it is read on meanwhile, until ``close``."""
        finished = False
        try:
            for start, stop in bounds:
                rows, first = self._rows_from(epoch, start, stop)
                part, share = slice(start - first, stop - first), 1 / (stop - start)
                yield batch_of(rows, part, buffer, share=share, communicator=self.communicator)
                if self.on_rows is not None:
                    self.on_rows(epoch, stop)
            finished = True
        finally:
            if not finished or (bounds and bounds[-1][1] == self.n_rows):
                self.close()

    def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.slices.close()
        self._reading = None

    def _rows_from(self, epoch: int, start: int, stop: int) -> tuple[Rows, int]:
        """Return rows of which those from ``start`` to ``stop`` are some, and the epoch's number of the first."""
        reading = self._reading
        if reading is None or reading.epoch != epoch or not reading.first <= start <= reading.end:
            self.close()
            slices = self.source.slices(self.seed, epoch, self.encode, first_row=start, slice_rows=self.slice_rows)
            reading = self._reading = _Reading(epoch, slices, start)
        while reading.end < stop:
            coming = next(reading.slices)
            if reading.held is None or reading.end <= start:
                reading.first, reading.held = reading.end, coming
            else:
                reading.held = _joined(reading.held.take(slice(start - reading.first, None)), coming)
                reading.first = start
            del coming
        assert reading.held is not None
        return reading.held, reading.first


def _joined(rows: Rows, others: Rows) -> Rows:
    """Return rows and, after them, others."""
    import torch
    from scipy.sparse import vstack

    sparse: Any = rows.sparse
    if sparse is not None:
        sparse = vstack([rows.sparse, others.sparse], format="csr")
    return replace(
        rows,
        dense=torch.cat([rows.dense, others.dense]),
        target=torch.cat([rows.target, others.target]),
        weight=torch.cat([rows.weight, others.weight]),
        sparse=sparse,
    )
