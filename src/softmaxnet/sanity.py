"""What is so plainly amiss that every fit says so: labels that are amounts, number columns with a stray word.

It costs next to nothing, and is said in Python as a ``DataWarning`` and on the command line with file and line.
``precheck`` looks longer and finds more.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softmaxnet.data.frames import column_names
from softmaxnet.data.labels import AMOUNTS_MIN_CLASSES, are_amounts
from softmaxnet.features.arrow import NUMBER, decoded, is_text, numbers_or_missing, whole
from softmaxnet.features.columns import table_name
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.findings import Finding

__all__ = ["Stray", "glance", "stray_words"]

STRAY_SHARE = 0.8
"""A column of texts of which at least this share are numbers was meant to be one of numbers."""
MIN_DISTINCT_NUMBERS = 13
"""With fewer different numbers a word among them may well be a level like the others ("1", "2", "3", "G")."""
MAX_WORDS, AMOUNT_SHARE = 5, 0.3
"""More words than this are no strays but codes (diagnoses: "250.01", "V58"), unless so many of the numbers differ."""
LOOKED_AT = 200
"""Cells that are looked at first; a column of words is then passed over."""
SLASH_DATE = r"^\s*\d{1,2}/\d{1,2}/(\d{4}|\d{2})(\s.*)?$"
SHOWN = 3

Place = Callable[[int], str]


class Stray(NamedTuple):
    """A column that would be one of numbers but for a few words.

    Attributes
    ----------
    column : str
    n_numbers, n_values : int
        Cells that are numbers, and cells that are not missing.
    words : tuple of str
        The words, the most frequent first, a few of them.
    row : int
        The first row with one, from 0.
    """

    column: str
    n_numbers: int
    n_values: int
    words: tuple[str, ...]
    row: int


def glance(
    X: Any,
    labels: NDArray[np.integer],
    classes: Sequence[object],
    encoder: FeatureEncoder,
    place: Place | None = None,
) -> list[Finding]:
    """Return what is plainly amiss.

    Parameters
    ----------
    X : ndarray, csr_array or pyarrow.Table
    labels : integers (n_rows,), in 0..K-1
    classes : sequence of length K
    encoder : FeatureEncoder
        Fitted on X.
    place : callable, optional
        From a row to what it is called; "row 7 (counted from 0)" by default.

    Examples
    --------
    >>> X = np.ones((4, 2))
    >>> [finding.kind for finding in glance(X, np.array([0, 1, 0, 1]), ["no", "yes"], FeatureEncoder.fit(X))]
    ['nothing_to_learn']
    """
    found = _label_findings(len(labels), classes)
    kinds = {column.name: column.kind for column in encoder.columns}
    named = place or (lambda row: f"row {row} (counted from 0)")
    found += [_stray_finding(stray, kinds[stray.column], named) for stray in stray_words(X, encoder)]
    found += _told_findings(X, encoder, named)
    found += _slash_dates(X, encoder)
    if all(column.becomes.startswith("nothing") for column in encoder.columns):
        found.append(_nothing_to_learn(encoder))
    return found


def _label_findings(n_rows: int, classes: Sequence[object]) -> list[Finding]:
    n_classes = len(classes)
    detail = {"n_classes": n_classes, "n_rows": n_rows}
    if are_amounts(classes):
        shown = ", ".join(repr(label) for label in classes[:SHOWN])
        message = (
            f"the {n_classes:,} different labels are decimal numbers ({shown}, ...), which looks like the target of a "
            "regression: each would be a class of its own, unrelated to the next. Cut amounts into a few classes first."
        )
        return [Finding("amounts", None, message, detail=detail)]
    if n_classes > AMOUNTS_MIN_CLASSES and n_classes > n_rows / 2:
        message = (
            f"there are {n_classes:,} classes in {n_rows:,} rows, fewer than two rows a class: little can be learned "
            "of any. Is the target the right column? Join classes, or cut amounts into a few classes."
        )
        return [Finding("many_classes", None, message, detail=detail)]
    return []


def stray_words(X: Any, encoder: FeatureEncoder) -> list[Stray]:
    """Return the columns of texts that would be numbers but for a few words, and were taken for something else."""
    if column_names(X) is None or not hasattr(X, "column"):
        return []
    asked = encoder.told
    taken = {
        column.name
        for index, column in enumerate(encoder.columns)
        if index not in asked and column.kind in ("category", "text", "drop")
    }
    found = (_stray(name, X.column(name)) for name in X.column_names if name in taken)
    return [stray for stray in found if stray is not None]


def _stray(name: str, column: Any) -> Stray | None:
    import pyarrow.compute as pc

    array = decoded(whole(column))
    if not is_text(array.type):
        return None
    trimmed = pc.utf8_trim_whitespace(array[:LOOKED_AT].drop_null())
    if not len(trimmed) or pc.sum(_are_numbers(trimmed)).as_py() < STRAY_SHARE / 2 * len(trimmed):
        return None
    trimmed = pc.utf8_trim_whitespace(array)
    values = pc.if_else(pc.equal(trimmed, ""), None, trimmed)
    numbers = _are_numbers(values)  # null where missing
    n_values, n_numbers = len(values) - values.null_count, int(pc.sum(numbers).as_py() or 0)
    if n_numbers == n_values or n_numbers < STRAY_SHARE * n_values:
        return None
    strays = pc.equal(numbers, False)
    n_distinct = len(pc.unique(values.filter(numbers)))
    counts = pc.value_counts(values.filter(strays)).to_pylist()
    if n_distinct < MIN_DISTINCT_NUMBERS or (len(counts) > MAX_WORDS and n_distinct < AMOUNT_SHARE * n_numbers):
        return None
    words = sorted(counts, key=lambda entry: -int(entry["counts"]))
    row = int(pc.index(strays, True).as_py())
    return Stray(name, n_numbers, n_values, tuple(str(entry["values"]) for entry in words[:SHOWN]), row)


def _are_numbers(texts: Any) -> Any:
    import pyarrow.compute as pc

    return pc.match_substring_regex(texts, NUMBER)


def _stray_finding(stray: Stray, kind: str, place: Place) -> Finding:
    where = place(stray.row)
    n_words = stray.n_values - stray.n_numbers
    words = ", ".join(repr(word) for word in stray.words) + (", ..." if n_words > len(stray.words) == SHOWN else "")
    does = "does not" if n_words == 1 else f"{n_words:,} do not"
    becomes = "is left out" if kind == "drop" else f"becomes {'text' if kind == 'text' else 'a category'}"
    message = (
        f"{table_name(stray.column)}: {stray.n_numbers:,} of {stray.n_values:,} values read as numbers, {words} "
        f"({'' if n_words == 1 else 'first '}{where}) {does}; it {becomes}. To take the rest as missing, say that it "
        f"is one of numbers: --number {shlex.quote(stray.column)} (in Python "
        f"kinds={{{stray.column!r}: 'number'}})."
    )
    detail = {
        "n_numbers": stray.n_numbers,
        "n_values": stray.n_values,
        "words": list(stray.words),
        "row": stray.row,
    }
    return Finding("stray_words", stray.column, message, detail=detail)


def _told_findings(X: Any, encoder: FeatureEncoder, place: Place) -> list[Finding]:
    """Return how many cells count as missing in the columns that were told to be numbers."""
    found = []
    for index in encoder.told:
        name = encoder.columns[index].name
        strays = numbers_or_missing(X.column(name))[1]
        if strays is not None:
            message = (
                f"{table_name(name)}: taken as missing, as asked for, since not numbers: {strays.n_strays:,} of "
                f"{strays.n_values:,} values, first {strays.word!r} ({place(strays.row)})."
            )
            detail = {"n_words": strays.n_strays, "n_values": strays.n_values, "row": strays.row}
            found.append(Finding("words_as_missing", name, message, detail=detail))
    return found


def _slash_dates(X: Any, encoder: FeatureEncoder) -> list[Finding]:
    """Return the columns whose first values all look like dates with slashes, which are taken for categories."""
    import pyarrow.compute as pc

    if column_names(X) is None or not hasattr(X, "column"):
        return []
    found = []
    for column in encoder.columns:
        array = decoded(whole(X.column(column.name)[:LOOKED_AT])) if column.kind in ("category", "drop") else None
        if array is None or not is_text(array.type):
            continue
        head = array.drop_null()
        if len(head) and pc.all(pc.match_substring_regex(head, SLASH_DATE)).as_py():
            message = (
                f"{table_name(column.name)} holds what looks like dates ({head[0].as_py()!r}); with slashes, whether "
                "day or month comes first is not known, and they are not read as dates. Write them as 2023-12-31 "
                "or 31.12.2023."
            )
            found.append(Finding("slash_dates", column.name, message, detail={"example": head[0].as_py()}))
    return found


def _nothing_to_learn(encoder: FeatureEncoder) -> Finding:
    columns = encoder.columns
    reasons = sorted({column.becomes.removeprefix("nothing: ") for column in columns})
    which = "the only column" if len(columns) == 1 else f"each of the {len(columns):,} columns"
    message = (
        f"no column has anything to learn from: {which} is left out ({', '.join(reasons)}). Every row will get the "
        "shares of the classes as its probabilities."
    )
    return Finding("nothing_to_learn", None, message, detail={"n_columns": len(columns), "reasons": reasons})
