"""Labels that may be one label written in two ways: "cours" beside "course", "Yes" beside "yes "."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SimilarLabels", "similar_labels"]

MIN_SLIP_LENGTH = 5
"""A label shorter than this has too many neighbours that are words of their own (cat, bat; imap, nmap)."""
MAX_SLIP_SHARE = 0.05
"""A slip of the pen has at most this share of the rows of the label that was meant."""
MAX_SLIP_CHARACTERS = 10_000_000
"""Slips are looked for where the index of labels with one character left out has at most so many characters."""

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
_SEPARATORS = re.compile(r"(?<=[^\W_])[-_\s]+(?=[^\W_])")


class SimilarLabels(NamedTuple):
    """Two classes that may be one.

    Attributes
    ----------
    rare, frequent : int
        Their numbers; ``rare`` has no more rows than ``frequent``.
    reason : str
        In what they differ.
    """

    rare: int
    frequent: int
    reason: str


def similar_labels(classes: Sequence[object], counts: NDArray[np.integer]) -> list[SimilarLabels]:
    """Return the pairs of labels that may mean the same, the rarest first; each label with one other at most.

    Only texts are compared. Two labels are similar

    1. where they differ in white space around them alone, at any length and any number of rows;
    2. where both are numbers of one value (``"1"``, ``"01"``, ``"1.0"``);
    3. where they have at least two letters or digits and differ in case, accents, width of characters, or in
       what separates their words (space, hyphen, underscore) alone;
    4. where one has at most 5 % of the rows of the other, both have at least 5 characters, and one slip of the
       pen makes one of the other: a letter too many, too few or another one, or two neighbours swapped. The
       characters that differ must be letters: ``D68`` and ``D69``, ``step 1`` and ``step 2`` are codes.

    Parameters
    ----------
    classes : sequence of length K, distinct
    counts : integer array (K,)
        Rows of every class.

    Examples
    --------
    >>> similar_labels(["cours", "course", "faculty", "Faculty "], np.array([4, 930, 500, 8]))
    [SimilarLabels(rare=0, frequent=1, reason='a letter'), SimilarLabels(rare=3, frequent=2, reason='case')]
    >>> similar_labels(["A", "B", "a", "D68", "D69"], np.array([9, 9, 9, 9, 9]))
    []
    """
    texts = {index: label for index, label in enumerate(classes) if isinstance(label, str)}
    pairs = {pair.rare: pair for pair in _written_differently(texts, counts)}
    for pair in _slips(texts, counts):
        pairs.setdefault(pair.rare, pair)
    return sorted(pairs.values(), key=lambda pair: (int(counts[pair.rare]), pair.rare))


def _written_differently(texts: dict[int, str], counts: NDArray[np.integer]) -> Iterator[SimilarLabels]:
    """Yield every label that equals a more frequent one once both are written plainly."""
    alike: dict[object, list[int]] = {}
    for index, text in texts.items():
        alike.setdefault(_plain(text), []).append(index)
    for group in alike.values():
        if len(group) > 1:
            most = max(group, key=lambda index: (int(counts[index]), -index))
            for index in group:
                if index != most:
                    yield SimilarLabels(index, most, _difference(texts[index], texts[most]))


def _plain(text: str) -> object:
    """Return what is left of a label when case, accents, separators and spaces are taken away.

    Examples
    --------
    >>> _plain(" Caf\u00e9-au_lait"), _plain("-1.0"), _plain("a "), _plain("C++")
    ('cafe au lait', -1.0, 'a', 'C++')
    """
    stripped = " ".join(text.split())
    if len(stripped) < 300 and _NUMBER.fullmatch(stripped) and math.isfinite(float(stripped)):
        return float(stripped)
    if sum(character.isalnum() for character in stripped) < 2:
        return stripped
    apart = unicodedata.normalize("NFKD", stripped)
    bare = "".join(character for character in apart if not unicodedata.combining(character))
    return _SEPARATORS.sub(" ", bare).casefold()


def _difference(a: str, b: str) -> str:
    """Return in one word how two labels differ that are plainly the same."""
    if " ".join(a.split()) == " ".join(b.split()):
        return "white space"
    if _NUMBER.fullmatch(a.strip()) and _NUMBER.fullmatch(b.strip()):
        return "the same number"
    if a.strip().casefold() == b.strip().casefold():
        return "case"
    if _SEPARATORS.sub(" ", a.strip()).casefold() == _SEPARATORS.sub(" ", b.strip()).casefold():
        return "separators"
    return "accents"


def _slips(texts: dict[int, str], counts: NDArray[np.integer]) -> Iterator[SimilarLabels]:
    """Yield every rare label that is one slip away from a frequent one, with the most frequent of those.

    Two texts are one slip apart only if leaving one character out of one of them, or of both, makes them equal
    (or they swap neighbours): an index of the labels with one character left out finds all of them.
    """
    long = {index: text.strip() for index, text in texts.items() if len(text.strip()) >= MIN_SLIP_LENGTH}
    if sum(len(text) ** 2 for text in long.values()) > MAX_SLIP_CHARACTERS:
        return
    most = int(max((counts[index] for index in long), default=0))
    rare = [index for index in long if counts[index] <= MAX_SLIP_SHARE * most]
    if not rare:
        return
    near: dict[str, list[int]] = {}
    for index, text in long.items():
        for variant in {text, *_shortened(text)}:
            near.setdefault(variant, []).append(index)
    for index in rare:
        found = {other for variant in (long[index], *_shortened(long[index])) for other in near[variant]}
        found |= {other for variant in _swapped(long[index]) for other in near.get(variant, ())}
        fits = [
            other
            for other in found
            if counts[index] <= MAX_SLIP_SHARE * counts[other] and _one_slip(long[index], long[other])
        ]
        if fits:
            meant = max(fits, key=lambda other: (int(counts[other]), -other))
            yield SimilarLabels(index, meant, "a letter")


def _shortened(text: str) -> set[str]:
    return {text[:i] + text[i + 1 :] for i in range(len(text))}


def _swapped(text: str) -> set[str]:
    return {text[:i] + text[i + 1] + text[i] + text[i + 2 :] for i in range(len(text) - 1)}


def _one_slip(a: str, b: str) -> bool:
    """Say whether one letter more, less or other, or two letters swapped, is all that differs.

    Examples
    --------
    >>> _one_slip("cours", "course"), _one_slip("corse", "course"), _one_slip("coruse", "course")
    (True, True, True)
    >>> _one_slip("class 1", "class 2"), _one_slip("train", "drain"), _one_slip("cours", "course x")
    (False, True, False)
    """
    shortest = min(len(a), len(b))
    head = next((i for i in range(shortest) if a[i] != b[i]), shortest)
    tail = next((i for i in range(shortest - head) if a[-1 - i] != b[-1 - i]), shortest - head)
    middle = a[head : len(a) - tail], b[head : len(b) - tail]
    if not all(character.isalpha() for part in middle for character in part):
        return False
    lengths = sorted(map(len, middle))
    return lengths in ([0, 1], [1, 1]) or (lengths == [2, 2] and middle[0] == middle[1][::-1])
