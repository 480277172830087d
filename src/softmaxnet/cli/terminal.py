"""What a person or a script reads: messages on standard error, results on standard output."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TextIO

from softmaxnet.errors import ResourceError

__all__ = ["Progress", "Terminal", "aligned", "counted", "plain_json"]

PLAIN_SECONDS = 5.0
"""Between two lines of progress where standard error is no terminal."""


class Terminal:
    """The two streams of a command.

    Parameters
    ----------
    json : bool
        The result is one JSON object, and nothing else goes to standard output.
    quiet : bool
        Of the messages only warnings and errors are shown.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self.told: set[str] = set()
        self.is_muted = False
        self.speaker = ""

    def mute(self, speaker: str) -> None:
        """Say nothing any more but why the command failed, under the name of a speaker: another process speaks."""
        self.json, self.quiet, self.is_muted, self.speaker = False, True, True, speaker

    def say(self, text: str) -> None:
        """Show a message."""
        if not self.quiet:
            _write(sys.stderr, text)

    def warn(self, text: str) -> None:
        """Show a warning, as one line and once."""
        text = one_line(text)
        if text not in self.told and not self.is_muted:
            self.told.add(text)
            _write(sys.stderr, f"softmaxnet: warning: {text}")

    def note(self, text: str) -> None:
        """Show what is worth knowing and no reason to worry, as one line."""
        self.say(f"softmaxnet: note: {one_line(text)}")

    def fail(self, text: str) -> None:
        """Show why a command failed, as one line."""
        _write(sys.stderr, f"softmaxnet: error: {self.speaker}{one_line(text)}")

    def answer(self, text: str, result: Mapping[str, object]) -> None:
        """Print the result: the text, or the object where JSON was asked for."""
        if self.is_muted:
            return
        require_stdout()
        if not self.json:
            _write(sys.stdout, text)
            return
        print_json(result)

    def progress(self) -> Progress:
        """Return a display of the epochs, for a ``with`` block."""
        return Progress(self)


def require_stdout() -> None:
    """Raise where there is no standard output to print on."""
    if sys.stdout is None or sys.stdout.closed:
        raise ResourceError("the standard output is closed")


def print_json(result: Mapping[str, object]) -> None:
    """Print one JSON object in UTF-8, whatever the locale."""
    text = json.dumps(plain_json(result), ensure_ascii=False, allow_nan=False, indent=2) + "\n"
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    buffer.write(text.encode("utf-8", "backslashreplace"))
    buffer.flush()


def plain_json(value: Any) -> Any:
    """Return a value as JSON has it: NaN and infinity as null, NumPy's numbers as numbers.

    Examples
    --------
    >>> plain_json({"loss": float("nan"), "sizes": (64, 64)})
    {'loss': None, 'sizes': [64, 64]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if hasattr(value, "tolist"):
        return plain_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def one_line(text: str) -> str:
    r"""Return a text without line ends or other control characters.

    Examples
    --------
    >>> one_line("two\n  lines")
    'two lines'
    """
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in joined)


def aligned(rows: Sequence[Sequence[object]], *, indent: str = "", widest: int = 60) -> str:
    """Return rows of cells as columns of equal width, the last one free.

    Examples
    --------
    >>> print(aligned([("age", "number"), ("occupation", "category")]))
    age         number
    occupation  category
    """
    texts = [[shortened(one_line(str(cell)), widest) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)][:-1] if texts else []
    lines = []
    for row in texts:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append(indent + "  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def shortened(text: str, length: int) -> str:
    """Return a text of at most so many characters, its end marked where it was cut."""
    return text if len(text) <= length else text[: length - 3] + "..."


def _write(stream: TextIO | None, text: str) -> None:
    """Write a line; characters that the stream's encoding lacks are escaped."""
    if stream is None or stream.closed:
        return
    encoding = stream.encoding or "utf-8"
    line = (text + "\n").encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(line)
        stream.flush()
    except OSError:
        if stream is not sys.stderr:
            raise  # nobody is there to be told that nobody is there


class Progress:
    """Epochs as they come: a bar with the time left on a terminal, else a line every few seconds.

    Parameters
    ----------
    terminal : Terminal
    clock : function that returns seconds
    """

    def __init__(self, terminal: Terminal, clock: Callable[[], float] = time.monotonic) -> None:
        self.terminal = terminal
        self.clock = clock
        self.started = self.shown = clock()
        self.max_epochs: int | None = None
        self.max_seconds: float | None = None
        self.bar: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begin(self, max_epochs: int | None, max_seconds: float | None) -> None:
        """Say how long training may take; the bar appears."""
        self.max_epochs, self.max_seconds = max_epochs, max_seconds
        self.started = self.shown = self.clock()
        if not self.terminal.quiet and sys.stderr is not None and sys.stderr.isatty():
            self.bar = _rich_bar(max_epochs)

    def epoch(self, line: Mapping[str, float]) -> None:
        """Show one line of the history."""
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=int(line["epoch"]), scores=self._scores(line))
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


def counted(number: int, noun: str) -> str:
    """Return a number of things as a person says it.

    Examples
    --------
    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """Return seconds as a person says them.

    Examples
    --------
    >>> duration(7.4), duration(75), duration(7260)
    ('7 s', '1 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _rich_bar(max_epochs: int | None) -> Any:
    """Return a started bar of the library rich, or None where it is not installed or the terminal is dumb."""
    if os.environ.get("TERM", "") == "dumb":
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError:
        return None
    bar = Progress(
        TextColumn("epoch {task.completed:.0f}/{task.total:.0f}" if max_epochs else "epoch {task.completed:.0f}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("at most"),
        TimeRemainingColumn(),
        TextColumn("left  {task.fields[scores]}"),
        console=Console(stderr=True),
        redirect_stdout=False,
        transient=True,
    )
    bar.add_task("fit", total=max_epochs, scores="")
    bar.start()
    return bar
