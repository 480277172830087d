"""What processes that train together tell each other: one sum of gradients a step, and when to stop.

Every process has the same weights, goes through the same order of rows, and takes its part of each batch::

    gradient of its rows, weighted for the whole batch  --one all_reduce-->  gradient of the batch  -->  the same update

Weights of rows come divided by what the whole batch is divided by, so that the sum over processes needs no division of
its own. The loss, and whether somebody was interrupted or is out of time, travel behind the gradient in the same
message: all processes see the same numbers, and go on or stop after the same step. The gradient of the sparse table
travels as the rows that the batch has touched.

    bytes sent by each of P processes in a step, with n parameters of b bytes,
    and at most r rows, of width w, of the table touched by one process
    2 (P - 1) / P (n + 3) b  +  (P - 1) (8 + r (8 + w b))          the second part only where there is a table
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from softmaxnet.backward import MESSAGES, BackwardPass, TableGradient
from softmaxnet.communicator import Communicator, bytes_sent
from softmaxnet.dropout import Part
from softmaxnet.errors import UsageError
from softmaxnet.head_shards import moves_fewer_bytes
from softmaxnet.parameters import Parameters

if TYPE_CHECKING:
    from torch import Tensor

    from softmaxnet.optimizer import Optimizer

__all__ = ["Exchange", "holding_signals", "noting_interrupts", "spreads_classes", "step_bytes"]


def step_bytes(n_parameters: int, size: int, *, itemsize: int = 4, table_rows: int = 0, table_width: int = 0) -> float:
    """Return the bytes that each of ``size`` processes sends in a step.

    Parameters
    ----------
    n_parameters : int
        Without the sparse table.
    size : int
    itemsize : int
        Bytes of a number: 4 for float32.
    table_rows : int
        Rows of the table that a process's part of the batch touches, the most of any.
    table_width : int

    Examples
    --------
    >>> step_bytes(1000, 2), step_bytes(1000, 2, table_rows=10, table_width=16)
    (4012.0, 4740.0)
    """
    total = bytes_sent("all_reduce", (n_parameters + MESSAGES) * itemsize, size)
    if table_width:
        total += bytes_sent("all_gather", 8 + table_rows * (8 + table_width * itemsize), size)
    return total


class Exchange:
    """The steps of one process, made those of all.

    Parameters
    ----------
    communicator : Communicator
    backward : BackwardPass
        Whose gradient is summed, in place.
    smallest : int
        Rows of the smallest batch.

    Attributes
    ----------
    is_late : bool
        Whether any process was out of time at the last step.
    is_kept : bool
        Whether the first process keeps checkpoints, which hold the optimizer's state of all classes.

    Raises
    ------
    UsageError
        Where there are more processes than rows in a batch.
    """

    def __init__(self, communicator: Communicator, backward: BackwardPass, smallest: int) -> None:
        if communicator.size > smallest:
            raise UsageError(
                f"{communicator.size} processes cannot share batches of {smallest} rows: each needs a row at least",
                hint="Give a larger batch_size or use fewer processes.",
            )
        self.communicator, self.backward = communicator, backward
        self.is_late = self.is_kept = False

    def part(self, start: int, stop: int) -> Part:
        """Return which rows of the coming batch are this process's."""
        if self.backward.shards is not None:
            self.backward.shards.n_rows = stop - start
        return Part(self.communicator.part(stop - start).start, stop - start)

    def sum(self, loss: Tensor, is_late: bool = False) -> Tensor:
        """Sum loss and gradients over all processes, in place, and return the loss.

        Raises
        ------
        KeyboardInterrupt
            On every process, where any was interrupted.
        """
        exchanged = self.backward.exchanged
        messages = exchanged[-MESSAGES:]
        messages[0] = loss
        messages[1] = float(self.communicator.interrupts > 0)
        messages[2] = float(is_late)
        self.communicator.all_reduce(exchanged)
        if self.backward.table_gradient is not None:
            self.backward.table_gradient = self._table_sum(self.backward.table_gradient)
        _, interrupted, late = messages.tolist()
        self.is_late = late > 0
        if interrupted > 0:
            self.communicator.interrupts = 0
            raise KeyboardInterrupt
        return messages[0]

    def share_head(self, optimizer: Optimizer) -> None:
        """Bring the output layer together, where its classes are spread over processes."""
        shards, parameters = self.backward.shards, self.backward.parameters
        if shards is None:
            return
        kept = [parameters.flat, *([] if optimizer.average is None else [optimizer.average])]
        kept += [optimizer.first, optimizer.second] if self.is_kept else []
        shards.share(*(parameters.head_of(flat) for flat in kept))

    def _table_sum(self, gradient: TableGradient) -> TableGradient:
        """Return the sum of all processes' gradients, at the rows that any of them has."""
        import torch

        counts = self.communicator.all_gather(torch.tensor([len(gradient.rows)]), [1] * self.communicator.size)
        places = self.communicator.all_gather(gradient.rows, counts.tolist())
        values = self.communicator.all_gather(gradient.values, counts.tolist())
        rows, local = torch.unique(places, return_inverse=True)
        return TableGradient(rows, values.new_zeros(len(rows), values.shape[1]).index_add_(0, local, values))


def spreads_classes(
    parameters: Parameters, bounds: Sequence[tuple[int, int]], communicator: Communicator
) -> bool:
    """Return whether the classes are to be spread: where the layer goes by class and less is sent that way.

    Where not even the gradient of the layer exists whole, there is no other way.
    """
    head, network = parameters.head, parameters.spec.network
    if communicator.size == 1 or head is None:
        return False
    n_rows = max(stop - start for start, stop in bounds)
    return head.kind == "classes" or moves_fewer_bytes(
        n_rows,
        network.layer_sizes[-2],
        network.n_classes,
        communicator.size,
        n_members=network.n_members,
        itemsize=parameters.flat.element_size(),
    )


def noting_interrupts(
    on_epoch: Callable[[dict[str, float]], None] | None, communicator: Communicator
) -> Callable[[dict[str, float]], None] | None:
    """Return a callback whose ``KeyboardInterrupt`` ends the training of all processes, and not of this one alone."""
    if on_epoch is None or communicator.size == 1:
        return on_epoch

    def noting(line: dict[str, float]) -> None:
        try:
            on_epoch(line)
        except KeyboardInterrupt:
            communicator.interrupts += 1

    return noting


@contextmanager
def holding_signals(communicator: Communicator) -> Iterator[None]:
    """Note Ctrl-C and SIGTERM for the next :meth:`Exchange.sum`, in place of ending one process in mid-step.

    Afterwards signals are delivered to the handlers that were there, unless an error is under way already; where they
    have ended the training they end nothing else.
    """
    if communicator.size == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        communicator.interrupts += 1

    before: dict[int, Any] = {}
    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        handler = signal.getsignal(number)
        if callable(handler):  # neither ignored nor the system's own
            before[number] = handler
            signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    has_ended = communicator.interrupts == 0
    for number in came:
        with contextlib.suppress(*[KeyboardInterrupt] * has_ended):
            before[number](number, None)
