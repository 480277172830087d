r"""Texts -> hashed words, word pairs and runs of characters, all rows at once; see ``docs/features.md``.

A text is put in Unicode normal form C, lower-cased and split at white space into pieces. Tokens are

- the words of each piece (``\w+``, at most 64 characters),
- pairs of words that follow each other in the text,
- the runs of 3, 4 and 5 characters of each piece with one space before and after it.

A token is known only by its 32-bit hash: FNV-1a over Unicode code points in 64 bits, then a finaliser.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
Ints = NDArray[np.int64]
AnyInt = TypeVar("AnyInt", np.int64, np.uint32)

FNV_OFFSET, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
WORD_TAG, PAIR_TAG = 0x110001, 0x110002
"""First units, no code points, so that kinds of tokens do not meet; runs of n begin with GRAM_TAG + n."""
GRAM_TAG = 0x110010
GRAM_SIZES = (3, 4, 5)
LONGEST_WORD = 64
WORD = re.compile(r"\w+")


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a list of texts as (row, id) pairs.

    Attributes
    ----------
    hashes : uint32 (n_distinct,), ascending
    rows : int64 (n_tokens,)
        The text of each token, ascending.
    ids : int64 (n_tokens,)
        Its place in ``hashes``.
    """

    hashes: NDArray[np.uint32]
    rows: Ints
    ids: Ints


def prepare(text: str) -> str:
    r"""Return a text in normal form C and lower case.

    Examples
    --------
    >>> prepare("CAFE\u0301")
    'café'
    """
    return (
        text.lower()
        if text.isascii()
        else unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    )


def absorb(state: U64, units: U64) -> U64:
    """Return FNV-1a states after one more unit each: ``(state xor unit) * prime`` modulo 2^64."""
    return (state ^ units) * np.uint64(FNV_PRIME)


def finish(state: U64) -> NDArray[np.uint32]:
    """Return the 32-bit hashes of states.

    ``h ^= h >> 33; h *= 0xFF51AFD7ED558CCD; h ^= h >> 33`` modulo 2^64, and of that the low 32 bits.

    Examples
    --------
    >>> finish(absorb(begin(WORD_TAG, 1), np.array([97], dtype=np.uint64)))   # the word "a"
    array([3781753045], dtype=uint32)
    """
    state = (state ^ (state >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return ((state ^ (state >> np.uint64(33))) & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def distinct(keys: NDArray[AnyInt]) -> NDArray[AnyInt]:
    """Return different keys in ascending order; ``numpy.unique`` hashes, which is slow on regular keys.

    Examples
    --------
    >>> distinct(np.array([3, 1, 3]))
    array([1, 3])
    """
    ordered = np.sort(keys)
    fresh = np.ones(ordered.size, dtype=bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return np.asarray(ordered[fresh], dtype=keys.dtype)


def begin(tag: int, size: int) -> U64:
    """Return ``size`` states that have absorbed the tag of a kind of token."""
    start = np.full(size, FNV_OFFSET, dtype=np.uint64)
    return absorb(start, np.full(size, tag, dtype=np.uint64))


def tokenise(texts: Sequence[str]) -> Tokens:
    """Return the tokens of every text, each as often as it occurs.

    Examples
    --------
    >>> tokens = tokenise(["a b", "", "A b"])
    >>> np.bincount(tokens.rows, minlength=3).tolist()     # 2 words, 1 pair, ' a ' and ' b '
    [5, 0, 5]
    """
    split = [prepare(text).split() for text in texts]
    place: dict[str, int] = {}
    of_piece = np.fromiter(
        (place.setdefault(piece, len(place)) for piece in chain.from_iterable(split)), dtype=np.int64
    )
    rows = np.repeat(np.arange(len(split)), [len(pieces) for pieces in split])
    pieces = list(place)
    gram_hashes, gram_owner = _grams(pieces)
    word_states, word_owner = _words(pieces)
    hashes, gram_ids, word_ids = _joined(gram_hashes, finish(word_states))
    grams = _gather(of_piece, rows, _by_owner(gram_owner, len(pieces)))
    words = _gather(of_piece, rows, _by_owner(word_owner, len(pieces)))
    pair_hashes, pair_rows = _pairs(word_states, *words)
    return _tokens(
        [hashes, pair_hashes],
        [words[1], pair_rows, grams[1]],
        [word_ids[words[0]], np.arange(pair_hashes.size) + hashes.size, gram_ids[grams[0]]],
    )


def _joined(
    gram_hashes: NDArray[np.uint32], word_hashes: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], Ints, Ints]:
    """Return the distinct hashes of both, and where each one's is."""
    hashes, inverse = np.unique(np.concatenate([gram_hashes, word_hashes]), return_inverse=True)
    return hashes, inverse[: gram_hashes.size], inverse[gram_hashes.size :]


def _tokens(hashes: list[NDArray[np.uint32]], rows: list[Ints], ids: list[Ints]) -> Tokens:
    """Join the kinds of tokens, with one id for each distinct hash and the rows in order."""
    distinct, inverse = np.unique(np.concatenate(hashes), return_inverse=True)
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    return Tokens(distinct, row[order], inverse[np.concatenate(ids)][order])


def _by_owner(owner: Ints, n: int) -> Ints:
    """Return where the items of each of n owners begin (and the last end); ``owner`` is ascending."""
    return np.searchsorted(owner, np.arange(n + 1))


def _gather(pieces: Ints, rows: Ints, starts: Ints) -> tuple[Ints, Ints]:
    """Return the items of each piece of a sequence, one after the other, and the row of each item."""
    counts = starts[pieces + 1] - starts[pieces]
    ends = np.cumsum(counts)
    total = int(ends[-1]) if ends.size else 0
    within = np.arange(total) - np.repeat(ends - counts, counts)
    return np.repeat(starts[pieces], counts) + within, np.repeat(rows, counts)


def _code_points(texts: list[str]) -> tuple[U64, Ints]:
    """Return the code points of all texts, one after the other, and the length of each text."""
    joined = "".join(texts).encode("utf-32-le", "surrogatepass")
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    return np.frombuffer(joined, dtype="<u4").astype(np.uint64), lengths


def _grams(pieces: list[str]) -> tuple[NDArray[np.uint32], Ints]:
    """Return the hashes of the character runs of every piece, and the piece of each, ascending."""
    points, lengths = _code_points([f" {piece} " for piece in pieces])
    owner = np.repeat(np.arange(len(pieces)), lengths)
    hashes, owners = [], []
    for size in GRAM_SIZES:
        first = np.flatnonzero(owner[: max(0, owner.size - size + 1)] == owner[size - 1 :])
        state = begin(GRAM_TAG + size, first.size)
        for step in range(size):
            state = absorb(state, points[first + step])
        hashes.append(finish(state))
        owners.append(owner[first])
    order = np.argsort(np.concatenate(owners), kind="stable")
    return np.concatenate(hashes)[order], np.concatenate(owners)[order]


def _words(pieces: list[str]) -> tuple[U64, Ints]:
    """Return the hash states of the words of every piece, and the piece of each, ascending."""
    found = [WORD.findall(piece) for piece in pieces]
    words = list(chain.from_iterable(found))
    owner = np.repeat(np.arange(len(pieces)), [len(own) for own in found])
    points, lengths = _code_points(words)
    starts = np.cumsum(lengths) - lengths
    keep = lengths <= LONGEST_WORD
    starts, lengths, owner = starts[keep], lengths[keep], owner[keep]
    state = begin(WORD_TAG, lengths.size)
    for step in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > step)
        state[longer] = absorb(state[longer], points[starts[longer] + step])
    return state, owner


def _pairs(states: U64, words: Ints, rows: Ints) -> tuple[NDArray[np.uint32], Ints]:
    """Return the hashes of words that follow each other in a row, and their rows."""
    follows = np.flatnonzero(rows[1:] == rows[:-1])
    state = begin(PAIR_TAG, follows.size)
    state = absorb(state, states[words[follows]])
    state = absorb(state, states[words[follows + 1]])
    return finish(state), rows[follows]
