"""What a column is: its kind, what it becomes, and the cells that could not be read."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, NamedTuple

from softmaxnet.errors import DataError, UsageError

Kind = Literal["number", "boolean", "category", "text", "date", "drop"]

KINDS: tuple[Kind, ...] = ("number", "boolean", "category", "text", "date", "drop")
CHOICES: tuple[Kind, ...] = ("number", "category", "text", "date", "drop")
"""The kinds that a user may ask for."""


@dataclass(frozen=True)
class ColumnSpec:
    """One input column as it was found in training.

    Attributes
    ----------
    name : str
        The column's name; ``"column 3"`` (counting from 0) in a matrix without names.
    kind : str
        ``"number"``, ``"boolean"``, ``"category"``, ``"text"``, ``"date"`` or ``"drop"``.
    share_missing : float
        Weighted share of rows without a value.
    n_distinct : int or None
        Different values seen; None where they were not counted (pixels, sparse matrices).
    becomes : str
        In words, what the network gets.
    """

    name: str
    kind: Kind
    share_missing: float
    n_distinct: int | None
    becomes: str


class BadCell(NamedTuple):
    """A cell that could not be read: its row (from 0), its column's name (or number, as text) and why."""

    row: int
    column: str
    message: str


class Cells:
    """Where unreadable cells go: raised at once, or collected so that their rows get an error each."""

    def __init__(self, bad: list[BadCell] | None = None) -> None:
        self.bad = bad

    def report(self, row: int, column: str, message: str, hint: str | None = None) -> None:
        """Raise ``DataError`` for the cell (its attribute ``row`` says where), or collect it.

        Examples
        --------
        >>> Cells().report(17, "column 'age'", "'n/a' is not a number.")
        Traceback (most recent call last):
        softmaxnet.errors.DataError: column 'age', row 17: 'n/a' is not a number.
        """
        text = f"{column}, row {row}: {message}"
        if self.bad is None:
            error = DataError(text, column=_bare(column), hint=hint)
            vars(error)["row"] = row
            raise error
        self.bad.append(BadCell(row, _bare(column), text if hint is None else f"{text} {hint}"))


def matrix_name(index: int) -> str:
    """Return what a column without a name is called in messages."""
    return f"column {index}"


def table_name(name: str) -> str:
    """Return what a named column is called in messages."""
    return f"column {name!r}"


def _bare(label: str) -> str:
    """Return the name of a column that ``matrix_name`` or ``table_name`` made a label of."""
    name = label.removeprefix("column ")
    return name if name.isdigit() else str(literal_eval(name))


def nearest(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that was most likely meant: another case first, then the most similar.

    Examples
    --------
    >>> nearest("age", ["Age", "Wage"])
    'Age'
    >>> nearest("incme", ["Age", "income"])
    'income'
    """
    folded = name.strip().casefold()
    for candidate in known:
        if candidate.strip().casefold() == folded:
            return candidate
    close = get_close_matches(name, known, n=1, cutoff=0.75)
    return close[0] if close else None


def align_names(given: Sequence[str], expected: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return where every expected column is among the given ones, and the names that are not needed.

    Raises
    ------
    DataError
        Naming every missing column, with what was probably meant, and every name that occurs twice.

    Examples
    --------
    >>> align_names(["b", "a", "c"], ["a", "b"])
    ([1, 0], ['c'])
    """
    place = {name: index for index, name in enumerate(given)}
    if len(place) != len(given):
        twice = sorted({name for name in given if given.count(name) > 1})
        raise DataError(f"column name{'s' if len(twice) > 1 else ''} {_quoted(twice)} occur more than once")
    wanted = set(expected)
    missing = [name for name in expected if name not in place]
    extra = [name for name in given if name not in wanted]
    if missing:
        near = [(nearest(name, extra), name) for name in missing[:3]]
        hints = [f"The data has {found!r}: did you mean {name!r}?" for found, name in near if found]
        plural = "columns that were there in training are" if len(missing) > 1 else "a column of training is"
        raise DataError(
            f"{plural} missing: {_quoted(missing)}.",
            column=missing[0],
            hint=" ".join(hints) or f"The data has {_quoted(given)}.",
        )
    return [place[name] for name in expected], extra


def check_kinds(kinds: Mapping[str, str] | None, names: Sequence[str] | None) -> dict[str, Kind]:
    """Return the kinds that the user asked for after checking every name and every kind.

    Examples
    --------
    >>> check_kinds({"zip": "category"}, ["zip", "age"])
    {'zip': 'category'}
    """
    if not kinds:
        return {}
    if names is None:
        raise UsageError(
            "kinds of columns were given, but X has no column names; give a data frame or a table"
        )
    checked: dict[str, Kind] = {}
    for name, kind in kinds.items():
        if name not in names:
            near = nearest(name, names)
            hint = f"Did you mean {near!r}?" if near else f"The columns are {_quoted(names)}."
            raise UsageError(f"there is no column {name!r} to be read as {kind!r}.", column=name, hint=hint)
        for choice in CHOICES:
            if kind == choice:
                checked[name] = choice
                break
        else:
            raise UsageError(
                f"column {name!r} cannot be of kind {kind!r}; the kinds are {_quoted(CHOICES)}", column=name
            )
    return checked


def _quoted(names: Sequence[str], limit: int = 10) -> str:
    """Return names for a message: the first ones quoted, the rest counted."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
