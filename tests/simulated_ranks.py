"""Many ranks in one process: the product's own code, over a transport that counts every byte.

Each rank is a thread. What it sends to the next rank of the ring goes through a queue, as a message of bytes, so that
the bytes counted are those that a ring of machines would send. For tests and benchmarks.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from softmaxnet.communicator import Communicator

TIMEOUT = 60.0


class Ring:
    """The queues of the ring, a barrier, and one board for small data."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.queues = [queue.Queue() for _ in range(size)]
        self.gate = threading.Barrier(size)
        self.board: list[str] = [""] * size


class Simulated(Communicator):
    """One rank of a :class:`Ring`; ``sent`` counts the bytes of the messages that it has put into a queue."""

    def __init__(self, ring: Ring, rank: int) -> None:
        super().__init__()
        self.ring, self.rank, self.size = ring, rank, ring.size

    def _pass_on(self, operation: str, message: np.ndarray) -> np.ndarray:
        """Send to the next rank and return what the rank before has sent."""
        self.sent[operation] += message.nbytes
        self.ring.queues[(self.rank + 1) % self.size].put(message.tobytes())
        return self._next(message.dtype)

    def _next(self, dtype: np.dtype) -> np.ndarray:
        """Return what the rank before has sent."""
        data = self.ring.queues[self.rank].get(timeout=TIMEOUT)
        if data is None:
            raise threading.BrokenBarrierError
        return np.frombuffer(data, dtype=dtype)

    def _round(self, operation: str, pieces: list[np.ndarray], *, first: int, add: bool, largest: bool) -> None:
        """Pass P - 1 pieces on around the ring, adding up or replacing."""
        for step in range(self.size - 1):
            out, into = (first - step) % self.size, (first - step - 1) % self.size
            came = self._pass_on(operation, pieces[out])
            if add:
                pieces[into][:] = np.maximum(pieces[into], came) if largest else pieces[into] + came
            else:
                pieces[into][:] = came

    def all_reduce(self, tensor: torch.Tensor, *, largest: bool = False) -> None:
        """Reduce and scatter, then gather: each piece is summed on one rank, so that all have the same bits."""
        pieces = np.array_split(tensor.numpy().reshape(-1), self.size)
        self._round("all_reduce", pieces, first=self.rank, add=True, largest=largest)
        self._round("all_reduce", pieces, first=self.rank + 1, add=False, largest=False)

    def broadcast(self, tensor: torch.Tensor, root: int = 0) -> None:
        """Pass the root's tensor on to the next rank until all have it."""
        flat = tensor.numpy().reshape(-1)
        if self.rank != root:
            flat[:] = self._next(flat.dtype)
        if (self.rank + 1) % self.size != root:
            self.sent["broadcast"] += flat.nbytes
            self.ring.queues[(self.rank + 1) % self.size].put(flat.tobytes())

    def all_gather(self, tensor: torch.Tensor, counts: list[int] | None = None) -> torch.Tensor:
        """Pass every rank's rows around the ring."""
        if counts is None:
            counts = self.all_gather(torch.tensor([len(tensor)]), [1] * self.size).tolist()
        most = max(counts)
        blocks = [np.zeros((most, *tensor.shape[1:]), dtype=tensor.numpy().dtype) for _ in range(self.size)]
        blocks[self.rank][: len(tensor)] = tensor.numpy()
        flat = [block.reshape(-1) for block in blocks]
        self._round("all_gather", flat, first=self.rank, add=False, largest=False)
        return torch.cat([torch.from_numpy(block[:count]) for block, count in zip(blocks, counts, strict=True)])

    def reduce_scatter(self, tensor: torch.Tensor) -> torch.Tensor:
        """Pass sums of pieces around the ring until each rank has its own."""
        whole = tensor.numpy()
        parts = [whole[len(whole) * r // self.size : len(whole) * (r + 1) // self.size] for r in range(self.size)]
        flat = [part.reshape(-1) for part in parts]
        self._round("reduce_scatter", flat, first=self.rank - 1, add=True, largest=False)
        return torch.from_numpy(parts[self.rank])

    def barrier(self) -> None:
        """Wait for all threads."""
        self.ring.gate.wait(TIMEOUT)

    def gather_json(self, value: object) -> list[Any]:
        """Post a text on the board and read all of them."""
        self.ring.board[self.rank] = json.dumps(value)
        self.barrier()
        values = [json.loads(text) for text in self.ring.board]
        self.barrier()
        return values


def on_ranks(size: int, work: Callable[[Simulated], Any]) -> list[Any]:
    """Return what some work returns on each of ``size`` ranks at the same time; raise the first error of any."""
    ring = Ring(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(Simulated(ring, rank))
        except threading.BrokenBarrierError:  # another rank has failed
            pass
        except BaseException as error:
            errors.append(error)
            ring.gate.abort()
            for waiting in ring.queues:
                waiting.put(None)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
