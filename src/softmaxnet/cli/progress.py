"""How far a long command is: a bar with the time left on a terminal, else a line every few seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from softmaxnet.cli.terminal import PLAIN_SECONDS, Terminal, duration

__all__ = ["Progress", "RowProgress", "byte_text"]

BAR_SECONDS = 0.2
"""Between two updates of a bar of rows."""


class _Display:
    """What a ``with`` block shows; the bar of the library rich, where somebody would see one, ends with it."""

    def __init__(self, terminal: Terminal, clock: Callable[[], float]) -> None:
        self.terminal, self.clock = terminal, clock
        self.started = self.shown = clock()
        self.bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def show_bar(self, columns: Callable[[Any], tuple[Any, ...]], total: int | None) -> None:
        """Start a bar; none where nobody would see it, the terminal is dumb or rich is not installed.

        Parameters
        ----------
        columns : callable
            Given ``rich.progress``; a column may show ``{task.fields[text]}``.
        total : int or None
        """
        is_seen = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb"
        if self.terminal.quiet or not is_seen:
            return
        try:
            import rich.progress
            from rich.console import Console
        except ImportError:
            return
        self.bar = rich.progress.Progress(
            *columns(rich.progress), console=Console(stderr=True), redirect_stdout=False, transient=True
        )
        self.bar.add_task("", total=total, text="")
        self.bar.start()


class Progress(_Display):
    """Epochs as they come: a bar with the time left on a terminal, else a line every few seconds.

    Parameters
    ----------
    terminal : Terminal
    clock : function that returns seconds
    """

    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(terminal, clock)
        self.max_epochs: int | None = None
        self.max_seconds: float | None = None

    def begin(self, max_epochs: int | None, max_seconds: float | None) -> None:
        """Say how long training may take; the bar appears."""
        self.max_epochs, self.max_seconds = max_epochs, max_seconds
        self.started = self.shown = self.clock()
        of = "/{task.total:.0f}" if max_epochs else ""
        self.show_bar(
            lambda rich: (
                rich.TextColumn("epoch {task.completed:.0f}" + of),
                rich.BarColumn(bar_width=20),
                rich.TimeElapsedColumn(),
                rich.TextColumn("at most"),
                rich.TimeRemainingColumn(),
                rich.TextColumn("left  {task.fields[text]}"),
            ),
            max_epochs,
        )

    def epoch(self, line: Mapping[str, float]) -> None:
        """Show one line of the history."""
        if "most_epochs" in line and line["most_epochs"] != self.max_epochs:  # of several networks in turn
            self.max_epochs = int(line["most_epochs"])
            self.started = self.clock() - line["seconds"]
        if self.bar is not None:
            done = int(line["epoch"])
            self.bar.update(self.bar.task_ids[0], completed=done, total=self.max_epochs, text=self._scores(line))
            return
        now = self.clock()
        if now - self.shown >= PLAIN_SECONDS:
            self.shown = now
            count = f"epoch {int(line['epoch'])}" + (f"/{self.max_epochs}" if self.max_epochs else "")
            self.terminal.say(f"{count}  {self._scores(line)}  {self._left(line, now)}".rstrip())

    def _scores(self, line: Mapping[str, float]) -> str:
        text = f"loss {line['loss']:.4f}" if "loss" in line else ""
        if "validation_log_loss" in line:
            text += f"  held-out log loss {line['validation_log_loss']:.4f}"
        if "validation_accuracy" in line:
            text += f"  accuracy {line['validation_accuracy']:.4f}"
        return text.strip()

    def _left(self, line: Mapping[str, float], now: float) -> str:
        """Return the time left if every epoch that is allowed is run."""
        left = []
        if self.max_epochs:
            done = max(int(line["epoch"]), 1)
            left.append((now - self.started) / done * max(self.max_epochs - done, 0))
        if self.max_seconds:
            left.append(max(self.max_seconds - (now - self.started), 0.0))
        return f"at most {duration(min(left))} left" if left else ""


class RowProgress(_Display):
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
        super().__init__(terminal, clock)
        self.what, self.unit = what, unit
        self.begun_at: int | None = None
        self.note = ""
        self.most = ""

    def __call__(self, done: int, total: int) -> None:
        """Show that so much of all is done; what was done when it is first called took no time of ours."""
        now = self.clock()
        if self.begun_at is None:
            self.begun_at, self.started, self.shown = done, now, now
            self.show_bar(
                lambda rich: (
                    rich.BarColumn(bar_width=20),
                    rich.TextColumn("{task.fields[text]}", markup=False),
                ),
                None,
            )
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
