"""Reading while what was read before is in use: one thread, little of it in memory."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

__all__ = ["in_thread", "one_ahead"]

Item = TypeVar("Item")
Made = TypeVar("Made")


def one_ahead(plan: Sequence[Item], load: Callable[[Item], Made]) -> Iterator[Made]:
    """Yield what is loaded for each item of a plan; one is loaded while the one before it is in use, never two."""
    if not plan:
        return

    with ThreadPoolExecutor(1, thread_name_prefix="softmaxnet-read") as pool:
        coming = [pool.submit(load, plan[0])]
        for number in range(len(plan)):
            # two are in memory, not three: nothing here holds one that was given away
            rows = coming.pop().result()
            coming += [pool.submit(load, window) for window in plan[number + 1 : number + 2]]
            yield rows
            del rows


class _End(NamedTuple):
    """The last thing that a thread hands over: nothing, or what stopped it."""

    error: BaseException | None


def in_thread(make: Callable[[], Iterator[Made]]) -> Generator[Made, None, None]:
    """Yield what an iterator yields that runs in a thread of its own; it is stopped when it is not asked any more."""
    handed: queue.Queue[Made | _End] = queue.Queue(2)
    stopped = threading.Event()

    def hand_over(item: Made | _End) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                handed.put(item, timeout=0.05)
                return True
        return False

    def run() -> None:
        try:
            for item in make():
                if not hand_over(item):
                    return
            hand_over(_End(None))
        except BaseException as error:
            hand_over(_End(error))

    thread = threading.Thread(target=run, name="softmaxnet-read", daemon=True)
    thread.start()
    try:
        while True:
            item = handed.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
            del item
    finally:
        stopped.set()
        thread.join()
