"""Texts: hashed n-grams with log counts and damped inverse document frequencies, each row of length 1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softmaxnet.errors import ModelFileError
from softmaxnet.features import state
from softmaxnet.features.arrow import Coded
from softmaxnet.features.categories import level_counts
from softmaxnet.features.ngrams import Ints, Tokens, distinct, tokenise
from softmaxnet.features.quantiles import Floats

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CHUNK_CHARACTERS = 1 << 20
"""Characters that are tokenised at a time: bounds the memory, changes no result."""
SMALL = 2000.0
"""With fewer rows than this a token needs one row to get a place, else two."""
MAX_TOKENS = 1 << 18
"""Places at most: the tokens in the most rows."""


@dataclass(frozen=True, eq=False)
class TextColumn:
    """One column of texts.

    A token's value in a row is ``(1 + ln count) * weight`` divided by the row's length (the root of the sum
    of squares over the tokens that have a place), with ``weight = sqrt(1 + ln((1 + n) / (1 + rows with the
    token)))``.

    Attributes
    ----------
    source : int
        The column of the table.
    hashes : uint32 (n_tokens,), ascending
        Tokens with a place: place i is ``hashes[i]``.
    weights : float32 (n_tokens,)
    """

    source: int
    hashes: NDArray[np.uint32]
    weights: NDArray[np.float32]

    @property
    def n_tokens(self) -> int:
        """Columns of the sparse block."""
        return int(self.hashes.size)

    def transform(self, coded: Coded) -> csr_array:
        """Return (n_rows, n_tokens), float64, sorted indices; a text without known tokens is all zeros."""
        from scipy.sparse import csr_array

        parts = [self._transform(tokens, n) for tokens, n in chunks(coded.values)]
        pointers = np.concatenate([[0], *(counts for _, _, counts in parts), [0]]).cumsum()
        places = np.concatenate([np.empty(0, np.int32), *(place for place, _, _ in parts)])
        values = np.concatenate([np.empty(0), *(value for _, value, _ in parts)])
        of_value = csr_array((values, places, pointers), shape=(len(coded.values) + 1, self.n_tokens))
        return of_value[np.where(coded.codes < 0, len(coded.values), coded.codes)]

    def _transform(self, tokens: Tokens, n_texts: int) -> tuple[NDArray[np.int32], Floats, Ints]:
        """Return places, values and the number of places of every text."""
        place = np.searchsorted(self.hashes, tokens.hashes)
        place[place == self.n_tokens] = 0
        known = self.hashes[place] == tokens.hashes if self.n_tokens else np.zeros(place.size, dtype=bool)
        kept = known[tokens.ids]
        keys = tokens.rows[kept] * self.n_tokens + place[tokens.ids[kept]]
        keys, counts = np.unique(keys, return_counts=True)
        rows, places = keys // max(1, self.n_tokens), keys % max(1, self.n_tokens)
        values = log_counts(counts) * self.weights[places]
        length = np.sqrt(np.bincount(rows, weights=values * values, minlength=n_texts))
        return places.astype(np.int32), values / length[rows], np.bincount(rows, minlength=n_texts)


def log_counts(counts: Ints) -> Floats:
    """Return 1 + ln(count), from a table, so that every machine and every batch has the same bits.

    Examples
    --------
    >>> log_counts(np.array([1, 2])).round(6)
    array([1.      , 1.693147])
    """
    table = np.zeros(int(counts.max(initial=0)) + 1)
    occur = np.flatnonzero(np.bincount(counts))
    table[occur] = [1.0 + math.log(count) for count in occur.tolist()]
    return table[counts]


def chunks(texts: Sequence[str]) -> Iterator[tuple[Tokens, int]]:
    """Tokenise texts a few at a time; yields the tokens and the number of texts that they are from."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= CHUNK_CHARACTERS:
            yield tokenise(batch), len(batch)
            batch, size = [], 0
    if batch:
        yield tokenise(batch), len(batch)


def fit_text(source: int, coded: Coded, weights: Floats | None) -> TextColumn:
    """Choose the tokens with a place and their weights."""
    of_text, _ = level_counts(coded, weights)
    total = float(coded.codes.size if weights is None else weights.sum())
    hashes, rows_with = _document_counts(coded.values, of_text)
    keep = rows_with >= (1.0 if total < SMALL else 2.0)
    keep &= rows_with > 0
    hashes, rows_with = hashes[keep], rows_with[keep]
    if hashes.size > MAX_TOKENS:
        most = np.sort(np.lexsort((hashes, -rows_with))[:MAX_TOKENS])
        hashes, rows_with = hashes[most], rows_with[most]
    counts, inverse = np.unique(rows_with, return_inverse=True)
    rarity = [max(0.0, math.log((1.0 + total) / (1.0 + count))) for count in counts.tolist()]
    return TextColumn(source, hashes, np.sqrt(1.0 + np.array(rarity))[inverse].astype(np.float32))


def _document_counts(texts: Sequence[str], of_text: Floats) -> tuple[NDArray[np.uint32], Floats]:
    """Return every token's hash, ascending, and the weighted number of rows that have it."""
    hashes = np.empty(0, dtype=np.uint32)
    counts = np.empty(0)
    first = 0
    for tokens, n_texts in chunks(texts):
        key = distinct(tokens.ids * n_texts + tokens.rows)
        own = np.bincount(
            key // n_texts, weights=of_text[first + key % n_texts], minlength=tokens.hashes.size
        )
        hashes, inverse = np.unique(np.concatenate([hashes, tokens.hashes]), return_inverse=True)
        counts = np.asarray(np.bincount(inverse, np.concatenate([counts, own]), hashes.size), np.float64)
        first += n_texts
    return hashes, counts


def texts_to_state(columns: Sequence[TextColumn]) -> state.Tensors:
    """Return all text columns as tensors."""
    tensors: state.Tensors = {
        f"{state.PREFIX}text.columns": np.array([column.source for column in columns], dtype=np.int64)
    }
    for index, column in enumerate(columns):
        tensors[f"{state.PREFIX}text.{index}.hashes"] = column.hashes
        tensors[f"{state.PREFIX}text.{index}.weights"] = column.weights
    return tensors


def texts_from_state(tensors: Mapping[str, NDArray[Any]], n_columns: int) -> list[TextColumn]:
    """Return what ``texts_to_state`` wrote, after checking it; ``n_columns`` is the width of the table."""
    sources = state.tensor(tensors, "text.columns", np.int64)
    state.indices_below(sources, n_columns, "text.columns", increasing=True)
    columns: list[TextColumn] = []
    for index, source in enumerate(sources.tolist()):
        hashes = state.tensor(tensors, f"text.{index}.hashes", np.uint32)
        weights = state.tensor(tensors, f"text.{index}.weights", np.float32, hashes.size)
        state.indices_below(hashes, 2**32, f"text.{index}.hashes", increasing=True)
        if not (weights > 0).all():
            raise ModelFileError(f"tensor 'features.text.{index}.weights' must be positive")
        columns.append(TextColumn(source, hashes, weights))
    return columns
