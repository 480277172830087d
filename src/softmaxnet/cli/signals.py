"""Ctrl-C and SIGTERM: what can be saved is saved, and the exit code says which of them came."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """While active, SIGTERM raises ``KeyboardInterrupt`` as Ctrl-C does, and which signal came is kept.

    A signal that was ignored stays ignored, and in other threads than the main one, where Python allows no
    handlers, nothing changes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._held = False
        self._closed = False
        self._before: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """0, or 128 and the number of the signal: 130 interrupted, 143 terminated."""
        return 0 if self.received is None else 128 + self.received

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.getsignal(number)
                if before is not signal.SIG_IGN and before is not None:
                    self._before[number] = before
                    signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._closed:
            before = self._before[number]
            if number == signal.SIGTERM and callable(before):
                before(number, frame)
            return
        self.received = self.received or number
        if not self._held:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise ``KeyboardInterrupt`` where a signal has come and something, such as an import, has swallowed it."""
        if self.received is not None:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Take no notice of signals from now on: the process is about to end, and has something to say before.

        A handler for SIGTERM that was there before is told of them.
        """
        self._closed = True

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let a short piece of work, such as writing the model, come to its end first."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
