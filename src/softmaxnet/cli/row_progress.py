"""How far a long pass over rows is: rows or bytes a second, and the time left."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from softmaxnet.cli.terminal import PLAIN_SECONDS, Terminal, duration

__all__ = ["RowProgress", "byte_text"]

BAR_SECONDS = 0.2
"""Between two updates of a bar."""


class RowProgress:
    """A bar on a terminal, else a line every few seconds; nothing for what is done before the first of them.

    Parameters
    ----------
    terminal : Terminal
    what : str
        What is being done, such as ``"predicting"``.
    unit : {"rows", "bytes"}
    clock : function that returns seconds
    """

    def __init__(
        self, terminal: Terminal, what: str, unit: str = "rows", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.terminal, self.what, self.unit, self.clock = terminal, what, unit, clock
        self.started = self.shown = clock()
        self.begun_at: int | None = None
        self.note = ""
        self.most = ""
        self.bar: Any = None

    def __enter__(self) -> RowProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Show that so much of all is done; what was done when it is first called took no time of ours."""
        now = self.clock()
        if self.begun_at is None:
            self.begun_at, self.started, self.shown = done, now, now
            self.bar = None if self.terminal.quiet else _rich_bar()
        if now - self.shown < (PLAIN_SECONDS if self.bar is None else BAR_SECONDS) and done < total:
            return
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done, total=total, text=self.text(done, total, now))
        elif now - self.shown >= PLAIN_SECONDS:
            self.terminal.say(self.text(done, total, now))
        self.shown = now

    def note_rows(self, n_rows: int) -> None:
        """Show how many rows were read, and how many a second, where what is counted are bytes."""
        passed = self.clock() - self.started
        if self.unit == "bytes" and n_rows and passed > 0:
            self.note = f"({n_rows:,} rows, {n_rows / passed:,.0f} rows/s)"

    def text(self, done: int, total: int, now: float) -> str:
        """Return it in words: what, how much of how much, how fast, how long still."""
        say = byte_text if self.unit == "bytes" else "{:,}".format
        of = "" if self.unit == "bytes" else " rows"
        parts = [f"{self.what}: {say(done)} of {say(total)}{of}"]
        passed = now - self.started
        if passed > 0 and done > (self.begun_at or 0):
            rate = (done - (self.begun_at or 0)) / passed
            parts.append(f"{say(int(rate))}{of}/s")
            parts.append(f"{self.most}{duration(max(total - done, 0) / rate)} left")
        return ", ".join(parts) + (f"  {self.note}" if self.note else "")


def byte_text(n: float) -> str:
    """Return bytes as a person says them.

    Examples
    --------
    >>> byte_text(900), byte_text(1536 << 20), byte_text(85 << 20)
    ('900 B', '1.5 GiB', '85.0 MiB')
    """
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} B"


def _rich_bar() -> Any:
    """Return a started bar of the library rich; None where nobody would see it or it is not installed."""
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM", "") == "dumb":
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:
        return None
    bar = Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(stderr=True),
        redirect_stdout=False,
        transient=True,
    )
    bar.add_task("", total=None, text="")
    bar.start()
    return bar
