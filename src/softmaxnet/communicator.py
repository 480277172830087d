"""Five collective operations, alone or over torch.distributed: the only file that knows ranks.

====================  ===================================================  ===================================
operation             what every rank has afterwards                       bytes that a rank sends, n each, P ranks
====================  ===================================================  ===================================
``all_reduce``        the sum (or the largest) of all ranks' tensors       ``2 (P - 1) / P n``
``broadcast``         the tensor of one rank                               ``(P - 1) / P n`` on average
``all_gather``        the rows of every rank, one rank after another       ``(P - 1) n``
``reduce_scatter``    its own part of the rows of the sum                  ``(P - 1) / P n``
``barrier``           the knowledge that every rank has come so far        none
====================  ===================================================  ===================================

The bytes are those of a ring, which is what gloo and NCCL use for tensors of any size; :attr:`Communicator.sent` adds
them up. Small Python data goes as JSON in a tensor of bytes, never as a pickle. Tensors are exchanged in the middle of
training, where every rank comes at nearly the same time: a rank that is silent for :data:`STEP_SECONDS` is lost. Small
data and barriers are waited for as long as reading a large file may take.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from softmaxnet import errors
from softmaxnet.errors import DataError, ResourceError, SoftmaxError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["ALONE", "Alone", "Communicator", "Grouped", "ProcessLostError", "bytes_sent"]

STEP_SECONDS = 45.0
"""Within which every rank must come to the exchange of a tensor [s]."""
CALM_SECONDS = 1800.0
"""Within which every rank must come to the exchange of small data, or to a barrier [s]."""
STORE_SECONDS = 3.0
"""How long the other ranks are given to say what went wrong [s]."""


class ProcessLostError(ResourceError):
    """Another process of the same fit has ended, or has been silent for too long."""


def bytes_sent(operation: str, n_bytes: int, size: int) -> float:
    """Return the bytes that each of ``size`` ranks sends on average for a tensor of ``n_bytes`` on each of them.

    Examples
    --------
    >>> bytes_sent("all_reduce", 1000, 2), bytes_sent("all_gather", 1000, 4), bytes_sent("reduce_scatter", 1000, 4)
    (1000.0, 3000.0, 750.0)
    """
    share = {"all_reduce": 2 / size, "broadcast": 1 / size, "all_gather": 1.0, "reduce_scatter": 1 / size}
    return share[operation] * (size - 1) * n_bytes


class Communicator(ABC):
    """The ranks of one fit, as one of them sees them.

    Attributes
    ----------
    rank, size : int
        Which one this is, from 0, and of how many.
    local_rank : int
        Which one of those on this machine.
    interrupts : int
        Signals that have come while they were held, to be told to the other ranks.
    sent : Counter
        The bytes that this rank has sent, by the name of the operation.
    """

    rank = 0
    size = 1
    local_rank = 0
    interrupts = 0

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()

    # --- the five operations -----------------------------------------------------------------------------------

    @abstractmethod
    def all_reduce(self, tensor: Tensor, *, largest: bool = False) -> None:
        """Replace the tensor by the sum over all ranks, or by the largest of each entry; the same bits everywhere."""

    @abstractmethod
    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """Replace the tensor by that of rank ``root``."""

    @abstractmethod
    def all_gather(self, tensor: Tensor, counts: list[int] | None = None) -> Tensor:
        """Return the rows of every rank, one rank after another.

        Parameters
        ----------
        tensor : Tensor of shape (n_rows, ...)
        counts : list of int, optional
            The number of rows of each rank, where it is known; it is exchanged otherwise.
        """

    @abstractmethod
    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        """Return the rows :meth:`part` of the sum over all ranks."""

    @abstractmethod
    def barrier(self) -> None:
        """Return once every rank has come here."""

    @abstractmethod
    def gather_json(self, value: object) -> list[Any]:
        """Return the small plain data of every rank, in their order."""

    # --- what follows from them --------------------------------------------------------------------------------

    @property
    def is_root(self) -> bool:
        """Whether this is the rank that writes files and speaks to people."""
        return self.rank == 0

    def part(self, n_rows: int) -> slice:
        """Return which of ``n_rows`` rows are this rank's.

        Examples
        --------
        >>> Alone().part(10)
        slice(0, 10, None)
        """
        return slice(n_rows * self.rank // self.size, n_rows * (self.rank + 1) // self.size)

    def all_gather_array(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the rows of every rank's array, one rank after another."""
        if self.size == 1:
            return array
        import torch

        return self.all_gather(torch.from_numpy(array)).numpy()

    def broadcast_json(self, value: object = None) -> Any:
        """Return the small plain data of rank 0."""
        return self.gather_json(value if self.is_root else None)[0]

    def agree(self, value: Mapping[str, object], what: str, hint: str | None = None) -> None:
        """Return where every rank has the same plain data; otherwise raise the same error on every rank.

        Parameters
        ----------
        value : mapping of name to plain data
        what : str
            What the processes were given, for the message: "rows", "settings".
        hint : str, optional

        Raises
        ------
        DataError
            With the name of the first thing that differs, and its value on both ranks.
        """
        if self.size == 1:
            return
        every = self.gather_json(dict(value))
        for rank, other in enumerate(every):
            for name in {**every[0], **other}:
                mine, theirs = every[0].get(name), other.get(name)
                if mine != theirs:
                    raise DataError(
                        f"the processes were given different {what}: {name} "
                        f"{_shown_pair(mine, theirs, rank)}",
                        hint=hint,
                    )


def _shown_pair(first: object, other: object, rank: int) -> str:
    """Return how two values differ, in words; of two lists of names what one of them lacks."""
    if isinstance(first, list) and isinstance(other, list):
        lacks = [str(item) for item in first if item not in other][:5]
        has = [str(item) for item in other if item not in first][:5]
        parts = [f"lacks {', '.join(lacks)}"] * bool(lacks) + [f"has {', '.join(has)} besides"] * bool(has)
        return f"of process {rank} {' and '.join(parts) or 'is in another order'}, compared with that of process 0"
    if isinstance(first, str) and len(first) == 64:  # a digest tells a person nothing
        return f"of process {rank} differ from those of process 0"
    return f"is {first!r} on process 0 and {other!r} on process {rank}"


class Alone(Communicator):
    """One process: every operation is there already.

    Examples
    --------
    >>> Alone().gather_json({"rows": 3}), Alone().size
    ([{'rows': 3}], 1)
    """

    def all_reduce(self, tensor: Tensor, *, largest: bool = False) -> None:
        """Leave the tensor as it is."""

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """Leave the tensor as it is."""

    def all_gather(self, tensor: Tensor, counts: list[int] | None = None) -> Tensor:
        """Return the tensor."""
        return tensor

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        """Return the tensor."""
        return tensor

    def barrier(self) -> None:
        """Return."""

    def gather_json(self, value: object) -> list[Any]:
        """Return the value alone."""
        return [value]


ALONE = Alone()
"""What stands for other processes where there are none."""


class Grouped(Communicator):
    """The ranks of an initialised torch.distributed, in process groups of their own that :meth:`close` ends.

    Made by every rank at the same time. Its groups have short timeouts and are closed by a rank that fails, which the
    others notice at once; the default group stays as it is.

    Parameters
    ----------
    name : str
        The same on every rank, and of no other communicator of the same default group.
    local_rank : int
    step_seconds, calm_seconds : float
        :data:`STEP_SECONDS`, :data:`CALM_SECONDS`.
    """

    def __init__(
        self,
        name: str,
        *,
        local_rank: int = 0,
        step_seconds: float = STEP_SECONDS,
        calm_seconds: float = CALM_SECONDS,
    ) -> None:
        import torch.distributed as dist

        super().__init__()
        self.rank, self.size, self.local_rank = dist.get_rank(), dist.get_world_size(), local_rank
        self._name, self._store = f"softmaxnet/{name}", _default_store()
        self._hosts: list[str] = []
        # gloo whatever the default group is: its operations end with an error when a process does, NCCL's wait.
        with self._watched():
            self._calm = dist.new_group(backend="gloo", timeout=timedelta(seconds=calm_seconds))
            self._steps = dist.new_group(backend="gloo", timeout=timedelta(seconds=step_seconds))
        self._is_open = True
        self._hosts = self.gather_json(socket.gethostname())

    def all_reduce(self, tensor: Tensor, *, largest: bool = False) -> None:
        """Replace the tensor by the sum over all ranks, or by the largest of each entry; the same bits everywhere."""
        import torch.distributed as dist

        operation = dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM
        with self._watched():
            dist.all_reduce(tensor, operation, group=self._steps)
        self._count("all_reduce", tensor)

    def broadcast(self, tensor: Tensor, root: int = 0) -> None:
        """Replace the tensor by that of rank ``root``."""
        import torch.distributed as dist

        with self._watched():
            dist.broadcast(tensor, root, group=self._steps)
        self._count("broadcast", tensor)

    def all_gather(self, tensor: Tensor, counts: list[int] | None = None) -> Tensor:
        """Return the rows of every rank, one rank after another."""
        import torch

        if counts is None:
            counts = self._gathered(torch.tensor([len(tensor)]), self._steps).tolist()
        most = max(counts)
        if len(tensor) < most:  # every rank sends as many rows
            tensor = torch.cat([tensor, tensor.new_zeros(most - len(tensor), *tensor.shape[1:])])
        gathered = self._gathered(tensor.contiguous(), self._steps)
        if min(counts) == most:
            return gathered
        return torch.cat([gathered[i * most : i * most + count] for i, count in enumerate(counts)])

    def reduce_scatter(self, tensor: Tensor) -> Tensor:
        """Return the rows :meth:`part` of the sum over all ranks."""
        import torch.distributed as dist

        # gloo's own reduce_scatter is an all_reduce underneath, and wants parts of equal size.
        with self._watched():
            dist.all_reduce(tensor, group=self._steps)
        self._count("all_reduce", tensor)
        return tensor[self.part(len(tensor))]

    def barrier(self) -> None:
        """Return once every rank has come here."""
        self.gather_json(None)

    def gather_json(self, value: object) -> list[Any]:
        """Return the small plain data of every rank, in their order."""
        import torch

        text = json.dumps(value, separators=(",", ":")).encode("utf-8")
        lengths = self._gathered(torch.tensor([len(text)]), self._calm).tolist()
        most = max(lengths)
        padded = torch.frombuffer(bytearray(text.ljust(most)), dtype=torch.uint8)
        gathered = self._gathered(padded, self._calm).numpy().tobytes()
        return [json.loads(gathered[i * most : i * most + length]) for i, length in enumerate(lengths)]

    def _gathered(self, tensor: Tensor, group: Any) -> Tensor:
        """Return the rows of every rank, which has as many as every other."""
        import torch
        import torch.distributed as dist

        parts = list(torch.empty(self.size, *tensor.shape, dtype=tensor.dtype, device=tensor.device))
        with self._watched():
            dist.all_gather(parts, tensor, group=group)
        self._count("all_gather", tensor)
        return torch.cat(parts)

    def _count(self, operation: str, tensor: Tensor) -> None:
        self.sent[operation] += round(bytes_sent(operation, tensor.numel() * tensor.element_size(), self.size))

    # --- when a rank fails -------------------------------------------------------------------------------------

    def close(self, error: BaseException | None = None) -> bool:
        """End the groups; with an error tell it to the other ranks, whose operations end with it.

        Returns
        -------
        bool
            Whether rank 0 knows of the error, so that a person is told once.
        """
        import torch.distributed as dist

        told = getattr(error, "is_told", False)
        if error is not None and not hasattr(error, "is_told"):  # it is this rank's own
            self._post(f"failed/{self.rank}", _as_plain(error))
            told = not self.is_root and self._read("failed/0", STORE_SECONDS) == _as_plain(error)
        if self._is_open:
            self._is_open = False
            for group in (self._steps, self._calm):
                with contextlib.suppress(Exception):  # it may have ended already, with the process that was lost
                    dist.destroy_process_group(group)
            del self._steps, self._calm
        return bool(told)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Say what happened where an operation fails because another rank did."""
        try:
            yield
        except RuntimeError as error:
            self._explain(error)

    def _explain(self, error: RuntimeError) -> NoReturn:
        """Raise what another rank has failed with, or else that it was lost."""
        for rank in range(self.size):
            plain = None if rank == self.rank else self._read(f"failed/{rank}", 0.0)
            if plain is not None:
                raise self._told(_from_plain(plain, rank)) from error
        self._post(f"left/{self.rank}", {})
        lost = self._lost_ranks()
        named = ", ".join(f"{rank} of {self.size}{self._host(rank)}" for rank in lost[:5])
        which = f"process {named}" if lost else f"one of the {self.size} processes"
        reason = re.sub(r"^\[[^\]]*\] ", "", str(error).splitlines()[0].split(". This is")[0])
        failure = ProcessLostError(
            f"{which} was lost: it has ended or does not answer ({reason.strip()})",
            hint="A fit that keeps checkpoints goes on from the newest one with resume, on any number of processes.",
        )
        raise self._told(failure, by_root=bool(lost) and 0 not in lost) from error

    def _told(self, error: SoftmaxError, *, by_root: bool = True) -> SoftmaxError:
        """Mark an error as one that comes from elsewhere, and whether rank 0 has it as well and tells it."""
        error.is_told = by_root and not self.is_root  # type: ignore[attr-defined]
        return error

    def _lost_ranks(self) -> list[int]:
        """Return the ranks that say nothing while the others leave."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        if len(others) == 1:
            return others
        deadline = time.monotonic() + STORE_SECONDS
        while others and time.monotonic() < deadline:
            others = [rank for rank in others if self._read(f"left/{rank}", 0.0) is None]
            if len(others) <= 1:
                break
            time.sleep(0.1)
        return others if len(others) < self.size - 1 else []  # the store may have gone with its process

    def _host(self, rank: int) -> str:
        return f" (host {self._hosts[rank]})" if len(set(self._hosts)) > 1 else ""

    def _post(self, key: str, value: Mapping[str, object]) -> None:
        _within(STORE_SECONDS, lambda: self._store.set(f"{self._name}/{key}", json.dumps(value)))

    def _read(self, key: str, seconds: float) -> dict[str, Any] | None:
        """Return what another rank has posted, within some seconds; None where it has not."""
        full, deadline = f"{self._name}/{key}", time.monotonic() + seconds
        while True:
            text = _within(STORE_SECONDS, lambda: self._store.get(full) if self._store.check([full]) else None)
            if text is not None:
                value: dict[str, Any] = json.loads(text)
                return value
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)


def _default_store() -> Any:
    """Return the store of the default group, in which the ranks have found each other."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def _within(seconds: float, work: Callable[[], Any]) -> Any:
    """Return what some work returns; None where it fails or takes longer, for its peer may be gone."""
    out: list[Any] = [None]

    def run() -> None:
        with contextlib.suppress(Exception):
            out[0] = work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return out[0]


def _as_plain(error: BaseException) -> dict[str, Any]:
    """Return an error as plain data."""
    if isinstance(error, SoftmaxError):
        return error.to_dict()
    if isinstance(error, KeyboardInterrupt):
        return UsageError("it was interrupted").to_dict() | {"code": "ProcessLostError"}
    return SoftmaxError(f"{type(error).__name__}: {error}").to_dict()


def _from_plain(plain: Mapping[str, Any], rank: int) -> SoftmaxError:
    """Return the error of another rank, of the same class."""
    known = {name: getattr(errors, name) for name in errors.__all__} | {"ProcessLostError": ProcessLostError}
    kind = known.get(plain["code"], SoftmaxError)
    about = {name: plain[name] for name in ("file", "line", "column", "hint")}
    error: SoftmaxError = kind(f"process {rank}: {plain['message']}", **about)
    return error
