"""What the text of an option may be: each function reads one kind of value, or says which texts are accepted."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable
from typing import Any

__all__ = [
    "auto_or",
    "bad_rows",
    "byte_count",
    "choice",
    "class_weights",
    "columns",
    "counting",
    "host_name",
    "integer",
    "layer_sizes",
    "none_or",
    "number",
    "output_layer",
    "port",
    "positive",
    "proportion",
    "reader_setting",
    "seconds",
    "seed",
    "share",
    "word",
]


def _refuse(text: str, accepted: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"must be {accepted}. Got {text!r} instead")


def number(text: str) -> float:
    """Return a finite number."""
    try:
        value = float(text)
    except ValueError:
        raise _refuse(text, "a number") from None
    if not math.isfinite(value):
        raise _refuse(text, "a finite number")
    return value


def integer(text: str) -> int:
    """Return a whole number."""
    try:
        return int(text)
    except ValueError:
        raise _refuse(text, "a whole number") from None


def seed(text: str) -> int:
    """Return a seed of NumPy's RandomState."""
    value = integer(text)
    if not 0 <= value < 2**32:
        raise _refuse(text, "a whole number from 0 to 4294967295")
    return value


def auto_or(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser that also takes ``auto``."""

    def read(text: str) -> Any:
        if text == "auto":
            return text
        try:
            return parse(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(str(error).replace("must be ", "must be 'auto' or ", 1)) from None

    return read


def none_or(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser that also takes ``none``, Python's None."""

    def read(text: str) -> Any:
        try:
            return None if text == "none" else parse(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error} or 'none'") from None

    return read


def choice(*accepted: str) -> Callable[[str], str | None]:
    """Return a parser of one of a few words; ``none`` is Python's None."""

    def read(text: str) -> str | None:
        if text not in accepted:
            raise _refuse(text, "one of " + ", ".join(accepted))
        return None if text == "none" else text

    return read


def word(*accepted: str) -> Callable[[str], str]:
    """Return a parser of one of a few words, ``none`` among them a word like any other."""

    def read(text: str) -> str:
        if text not in accepted:
            raise _refuse(text, "one of " + ", ".join(accepted))
        return text

    return read


def output_layer(text: str) -> str:
    """Return the kind of the output layer; a file given by mistake is answered with ``-o``."""
    if text in ("softmax", "sigmoid"):
        return text
    raise argparse.ArgumentTypeError(
        f"must be softmax or sigmoid. Got {text!r} instead; the model file is named with -o"
    )


def layer_sizes(text: str) -> tuple[int, ...] | str:
    """Return widths: ``256,128``, ``none`` for no hidden layer, ``auto``.

    Examples
    --------
    >>> layer_sizes("256,128"), layer_sizes("none")
    ((256, 128), ())
    """
    if text == "auto":
        return text
    if text == "none":
        return ()
    parts = text.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() and int(part) > 0 for part in parts):
        raise _refuse(text, "widths such as 256,128, or 'none', or 'auto'")
    return tuple(int(part) for part in parts)


def columns(text: str) -> list[str]:
    """Return names separated by commas; one that holds a comma is quoted, as in a CSV file.

    Examples
    --------
    >>> columns('age,"income, net"')
    ['age', 'income, net']
    """
    try:
        names = next(csv.reader([text], strict=True), [])
    except csv.Error:
        names = []
    if not all(names) or not names:
        raise _refuse(text, "names separated by commas, those with a comma or a quote in double quotes")
    return names


def class_weights(text: str) -> dict[str, float] | str | None:
    """Return ``balanced``, None for ``none``, or a weight for each label named: ``yes=5,no=1``.

    Examples
    --------
    >>> class_weights("yes=5,no=1")
    {'yes': 5.0, 'no': 1.0}
    """
    if text in ("balanced", "none"):
        return None if text == "none" else text
    weights: dict[str, float] = {}
    for part in columns(text):
        label, equals, value = part.rpartition("=")
        if not equals:
            raise _refuse(text, "'balanced', 'none' or LABEL=WEIGHT,...")
        if label in weights:
            raise _refuse(text, f"one weight for each label, and {label!r} has two")
        weights[label] = number(value)
    return weights


def bad_rows(text: str) -> str | int:
    """Return what is done with rows that cannot be read: ``fail``, ``skip``, or how many may be skipped."""
    if text in ("fail", "skip"):
        return text
    if text.isascii() and text.isdigit():
        return int(text)
    raise _refuse(text, "'fail', 'skip' or the number of rows that may be skipped")


def reader_setting(text: str) -> list[tuple[str, str | list[str]]]:
    """Return one setting of the reader of text files, as a list of one.

    Examples
    --------
    >>> reader_setting("encoding=latin-1"), reader_setting("missing=,-")
    ([('encoding', 'latin-1')], [('missing', ['', '-'])])
    """
    name, equals, value = text.partition("=")
    if not equals or name not in ("encoding", "delimiter", "quote", "decimal", "missing"):
        raise _refuse(text, "NAME=VALUE with the name encoding, delimiter, quote, decimal or missing")
    return [(name, value.split(",") if name == "missing" else value)]


def share(text: str) -> float:
    """Return a number between 0 and 1, both excluded."""
    value = number(text)
    if not 0 < value < 1:
        raise _refuse(text, "a number in (0, 1)")
    return value


def proportion(text: str) -> float:
    """Return a number from 0 to 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise _refuse(text, "a number in [0, 1]")
    return value


def counting(text: str) -> int:
    """Return a whole number of at least 0."""
    value = integer(text)
    if value < 0:
        raise _refuse(text, "a whole number of at least 0")
    return value


def seconds(text: str) -> float:
    """Return a number of seconds of at least 0."""
    value = number(text)
    if value < 0:
        raise _refuse(text, "a number of seconds")
    return value


def byte_count(text: str) -> int:
    """Return a number of bytes, also with KiB, MiB or GiB.

    Examples
    --------
    >>> byte_count("8MiB"), byte_count("65536")
    (8388608, 65536)
    """
    for unit, size in (("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30), ("", 1)):
        digits = text.removesuffix(unit).strip()
        if text.endswith(unit) and digits.isascii() and digits.isdigit() and int(digits) > 0:
            return int(digits) * size
    raise _refuse(text, "a number of bytes such as 65536, 64KiB or 8MiB")


def port(text: str) -> int:
    """Return the number of a port; 0 stands for one that is free."""
    value = integer(text)
    if not 0 <= value < 2**16:
        raise _refuse(text, "a whole number from 0 to 65535")
    return value


def host_name(text: str) -> list[str]:
    """Return one name of a host, as a list of one."""
    if not text or any(char in "/@, " for char in text):
        raise _refuse(text, "a name such as models.example.org, without a port")
    return [text]


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    value = integer(text)
    if value < 1:
        raise _refuse(text, "a whole number of at least 1")
    return value
