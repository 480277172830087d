"""A 64-bit hash of every row's content, the same wherever the row is: finds rows that are there twice."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["hash_rows"]

Hashes = NDArray[np.uint64]

_CHUNK_ROWS = 1 << 16
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MISSING = np.uint64(0xD6E8FEB86659FD93)
_HEAD = 1000
_LONG = 256  # bytes of a text that are hashed along with those of the others; beyond them, text by text


def hash_rows(X: Any, columns: Sequence[int] | None = None) -> Hashes:
    """Return a hash for each row that depends on its cells alone: numbers by value, texts by their characters.

    Equal rows have equal hashes in any two tables with the same columns in the same order, whatever number
    type a column has (3 and 3.0 are equal; 3 and "3" are not). Two rows that differ have the same hash with a
    probability near 2^-64. Missing cells are equal to each other.

    Parameters
    ----------
    X : ndarray (n_rows, n_columns), csr_array or pyarrow.Table
    columns : sequence of int, optional
        Columns to look at; all of them by default.

    Returns
    -------
    uint64 array (n_rows,)

    Examples
    --------
    >>> hashes = hash_rows(np.array([[1.0, np.nan], [0.0, 2.0], [1.0, np.nan]]))
    >>> bool(hashes[0] == hashes[2]), bool(hashes[0] == hashes[1])
    (True, False)
    >>> bool((hash_rows(np.array([[1, 2]])) == hash_rows(np.array([[1.0, 2.0]]))).all())
    True
    """
    if hasattr(X, "column_names"):
        chosen = range(X.num_columns) if columns is None else columns
        state = np.zeros(X.num_rows, dtype=np.uint64)
        for column in chosen:
            _absorb(state, _hash_column(X.column(column)))
        return _finished(state)
    if hasattr(X, "indptr"):
        return _hash_sparse(X if columns is None else X[:, list(columns)].tocsr())
    if X.dtype == np.uint8 and columns is None:
        return _hash_bytes(X)
    state = np.zeros(X.shape[0], dtype=np.uint64)
    for first in range(0, len(state), _CHUNK_ROWS):
        chunk = X[first : first + _CHUNK_ROWS]
        for column in range(X.shape[1]) if columns is None else columns:
            _absorb(state[first : first + _CHUNK_ROWS], _hash_numbers(chunk[:, column]))
    return _finished(state)


def _absorb(state: Hashes, cells: Hashes) -> None:
    """Mix one column's cells into the hashes of the columns before it, in place."""
    state ^= cells
    state *= _FACTOR
    state ^= state >> np.uint64(29)


def _finished(state: Hashes) -> Hashes:
    state ^= state >> np.uint64(32)
    state *= _FACTOR
    state ^= state >> np.uint64(32)
    return state


def _hash_numbers(values: NDArray[Any]) -> Hashes:
    """Return the bits of numbers as float64; -0 is 0, every NaN is a missing cell."""
    floats = values.astype(np.float64)
    floats += 0.0
    bits = floats.view(np.uint64)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
        big = np.abs(floats) >= 2.0**53  # beyond it neighbours have the same float64
        bits[big] ^= values[big].astype(np.uint64) * _FACTOR
    if values.dtype.kind == "f":
        bits[np.isnan(floats)] = _MISSING
    return bits


def _hash_column(column: Any) -> Hashes:
    """Return the hash of every cell of an Arrow column."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if types.is_boolean(kind):
        column, kind = column.cast(pa.uint8()), pa.uint8()
    if types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        column = column.cast(width)
    elif types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not types.is_integer(kind) and not types.is_floating(kind):
        return _hash_texts(column)
    missing = column.is_null().to_numpy() if column.null_count else None
    plain = column if missing is None else column.fill_null(0)
    bits = _hash_numbers(np.asarray(plain.to_numpy()))
    if missing is not None:
        bits[missing] = _MISSING
    return bits


def _hash_texts(column: Any) -> Hashes:
    """Return the hash of every text: of repeated ones once, where there are many."""
    import pyarrow as pa

    texts = column.cast(pa.large_string()).combine_chunks()
    head = texts[:_HEAD]
    if len(texts) > _HEAD and len(head.unique()) < _HEAD // 2:
        encoded = texts.dictionary_encode()
        table = np.append(_hash_strings(encoded.dictionary), _MISSING)
        return np.asarray(table[encoded.indices.fill_null(len(table) - 1).to_numpy(zero_copy_only=False)])
    hashes = _hash_strings(texts)
    if texts.null_count:
        hashes[texts.is_null().to_numpy(zero_copy_only=False)] = _MISSING
    return hashes


def _hash_strings(texts: Any) -> Hashes:
    """Return the hash of every text of an Arrow array of large strings, eight bytes of all of them at a time."""
    if not len(texts):
        return np.empty(0, dtype=np.uint64)
    offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1, 8 * texts.offset)
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    padded = np.concatenate([data, np.zeros(8, dtype=np.uint8)])
    words = np.lib.stride_tricks.as_strided(padded[:8].view(np.uint64), (padded.size - 7,), (1,))
    begin, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    state = lengths.astype(np.uint64)
    active = np.flatnonzero(lengths > 0)
    for step in range(_LONG // 8):
        if not active.size:
            break
        word = words[begin[active] + 8 * step]
        beyond = np.maximum(8 * (step + 1) - lengths[active], 0)  # bytes of the word that are the next text's
        word = _first_bytes(word, beyond)
        part = state[active]
        _absorb(part, word)
        state[active] = part
        active = active[lengths[active] > 8 * (step + 1)]
    for row in active.tolist():
        rest = data[begin[row] + _LONG : begin[row] + lengths[row]]
        state[row] ^= np.uint64(int.from_bytes(hashlib.blake2b(rest.tobytes(), digest_size=8).digest(), "little"))
    return _finished(state)


def _first_bytes(words: Hashes, n_cut: NDArray[np.int64]) -> Hashes:
    """Return 8-byte words with their last ``n_cut`` bytes in memory as zeros."""
    bits = (8 * n_cut).astype(np.uint64)
    if sys.byteorder == "little":
        return (words << bits) >> bits
    return (words >> bits) << bits


def _hash_sparse(X: Any) -> Hashes:
    """Return the hash of every row of a sparse matrix: the sum over its entries that are not zero."""
    terms = (X.indices.astype(np.uint64) + np.uint64(1)) * _FACTOR
    terms ^= terms >> np.uint64(31)
    _absorb(terms, _hash_numbers(X.data))
    terms = _finished(terms)
    terms[X.data == 0] = 0
    sums = np.concatenate([[np.uint64(0)], np.cumsum(terms, dtype=np.uint64)])
    return np.asarray(sums[X.indptr[1:]] - sums[X.indptr[:-1]], dtype=np.uint64)


def _hash_bytes(X: NDArray[np.uint8]) -> Hashes:
    """Return the hash of every row of pixels, eight of them at a time."""
    state = np.zeros(X.shape[0], dtype=np.uint64)
    whole = X.shape[1] // 8 * 8
    for first in range(0, len(state), _CHUNK_ROWS):
        chunk, part = X[first : first + _CHUNK_ROWS], state[first : first + _CHUNK_ROWS]
        words = np.ascontiguousarray(chunk[:, :whole]).view(np.uint64)
        for column in range(words.shape[1]):
            _absorb(part, words[:, column])
        for column in range(whole, X.shape[1]):
            _absorb(part, chunk[:, column].astype(np.uint64))
    return _finished(state)
