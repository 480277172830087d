"""From the contributions of hashed n-grams to those of the words that a person wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.explain.explanation import Word
from softmaxnet.features import ngrams
from softmaxnet.features.arrow import canonical_text
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.table import TableParts
from softmaxnet.features.text import TextColumn

__all__ = ["words_of_row"]

Floats: TypeAlias = npt.NDArray[Any]


def words_of_row(
    encoder: FeatureEncoder, values: tuple[Any, ...], active: npt.NDArray[Any], own: Floats, columns: Floats
) -> Iterator[Word]:
    """Yield the words of every text column of a row; those of one column sum to its contribution."""
    parts = encoder.parts
    if not isinstance(parts, TableParts):
        return
    wide = zip(parts.categories, parts.dense, strict=True)
    first = sum(column.n_slots for column, is_dense in wide if not is_dense)
    for text in parts.texts:
        inside = (active >= first) & (active < first + text.n_tokens)
        name = parts.names[text.source]
        words = _words(text, values[text.source], active[inside] - first, own[inside], name)
        yield from words
        rest = float(columns[text.source]) - sum(word.contribution for word in words)
        if abs(rest) > 1e-9:
            yield Word(name, "", None, None, rest)
        first += text.n_tokens


def _words(text: TextColumn, cell: Any, places: npt.NDArray[Any], own: Floats, name: str) -> list[Word]:
    """Return the words of one cell with the contributions of its tokens, shared out among their occurrences."""
    if cell is None or not canonical_text(cell):
        return []
    pieces = ngrams.prepare(canonical_text(cell)).split()
    hashes, left, right = _occurrences(pieces)
    place = np.searchsorted(text.hashes, hashes)
    place[place == text.n_tokens] = 0
    known = text.hashes[place] == hashes if text.n_tokens else np.zeros(place.size, dtype=bool)
    of_place = np.zeros(text.n_tokens)
    of_place[places] = own
    counts = np.bincount(place[known], minlength=text.n_tokens)
    half = of_place[place[known]] / counts[place[known]] / 2
    found = np.bincount(np.concatenate([left[known], right[known]]), np.concatenate([half, half]), len(pieces))
    written = [(match.group(), *match.span()) for match in re.finditer(r"\S+", str(cell))]
    if len(written) != len(pieces):  # a cell whose white space changes with its normal form
        return [Word(name, piece, None, None, float(c)) for piece, c in zip(pieces, found, strict=True)]
    return [Word(name, *span, float(c)) for span, c in zip(written, found, strict=True)]


def _occurrences(
    pieces: list[str],
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the hash of every token of a text, as often as it occurs, and the one or two pieces that it spans.

    Examples
    --------
    >>> hashes, left, right = _occurrences(["a", "b"])     # words a and b, runs ' a ' and ' b ', the pair
    >>> left.tolist(), right.tolist()
    ([0, 1, 0, 1, 0], [0, 1, 0, 1, 1])
    """
    gram_hashes, gram_owner = ngrams._grams(pieces)
    states, word_owner = ngrams._words(pieces)
    words = np.arange(states.size)
    pair_hashes, _ = ngrams._pairs(states, words, np.zeros(states.size, dtype=np.int64))
    hashes = np.concatenate([gram_hashes, ngrams.finish(states), pair_hashes])
    left = np.concatenate([gram_owner, word_owner, word_owner[:-1]])
    right = np.concatenate([gram_owner, word_owner, word_owner[1:]])
    return hashes, left, right
