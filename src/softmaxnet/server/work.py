"""Where answers are computed: small ones on the event loop, others in a few threads, none for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

from softmaxnet.server.problem import Problem

__all__ = ["Workroom"]

T = TypeVar("T")

WAITING_PER_THREAD = 4
"""Pieces of work that may wait for each thread: who waited longer would rather have been told to come back."""


class Workroom:
    """A few threads with a short queue.

    Parameters
    ----------
    threads : int
    seconds : float
        That a piece of work may take, its time in the queue included.
    """

    def __init__(self, threads: int, seconds: float) -> None:
        self.seconds = seconds
        self.room = threads * (1 + WAITING_PER_THREAD)
        self.busy = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="softmaxnet")

    async def run(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """Return what ``work(expired)`` returns, computed in a thread.

        Raises
        ------
        Problem
            503 where the queue is full; 504 where the time is over. The thread is asked to stop through ``expired``,
            and its place is taken until it does.
        """
        if self.busy >= self.room:
            raise Problem(503, "all threads are busy; try again", headers=((b"retry-after", b"1"),))
        over = Event()
        self.busy += 1
        loop = asyncio.get_running_loop()
        future = self._pool.submit(work, over.is_set)
        future.add_done_callback(lambda _: self._leave(loop))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.seconds)
        except TimeoutError:
            raise Problem(504, f"the answer took longer than {self.seconds:g} seconds") from None
        finally:
            over.set()

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._left)

    def _left(self) -> None:
        self.busy -= 1

    def close(self) -> None:
        """Let no more work begin."""
        self._pool.shutdown(wait=False, cancel_futures=True)
