"""What a person or a script reads: messages on standard error, results on standard output."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from softmaxnet.errors import ResourceError

__all__ = ["Terminal", "aligned", "counted", "plain_json"]

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
