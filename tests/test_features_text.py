"""Texts: the hashing specification, counts and weights, odd inputs."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softmaxnet.features import FeatureEncoder
from softmaxnet.features import text as text_module
from softmaxnet.features.ngrams import tokenise


def fnv(tag, units):
    """FNV-1a in 64 bits over a tag and further units, as docs/features.md has it."""
    state = 0xCBF29CE484222325
    for unit in (tag, *units):
        state = ((state ^ unit) * 0x100000001B3) % 2**64
    return state


def low_bits(state):
    """The finaliser of docs/features.md."""
    state ^= state >> 33
    state = state * 0xFF51AFD7ED558CCD % 2**64
    return (state ^ state >> 33) & 0xFFFFFFFF


def tokens_of(text):
    """The tokens of a text, written from docs/features.md one at a time, in plain Python."""
    pieces = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower()).split()
    words = [w for piece in pieces for w in re.findall(r"\w+", piece) if len(w) <= 64]
    states = [fnv(0x110001, map(ord, word)) for word in words]
    found = Counter(map(low_bits, states))
    found.update(low_bits(fnv(0x110002, pair)) for pair in pairwise(states))
    for piece in pieces:
        points = [ord(c) for c in f" {piece} "]
        for n in (3, 4, 5):
            found.update(low_bits(fnv(0x110010 + n, points[i : i + n])) for i in range(len(points) - n + 1))
    return found


def encoder_of(texts, **options):
    """Return an encoder of one column of texts."""
    return FeatureEncoder.fit(pa.table({"text": texts}), **options)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=5))
def test_tokens_are_those_of_the_specification(texts):
    """All rows at once give exactly the tokens of the one-at-a-time reading of the page."""
    tokens = tokenise(texts)
    for row, text in enumerate(texts):
        own = Counter(tokens.hashes[tokens.ids[tokens.rows == row]].tolist())
        assert own == tokens_of(text)


def test_golden_hashes():
    """Hashes never change between versions: values from the plain-Python reading of the page above."""
    expected = {"a": [303170066, 3781753045]}
    for text, hashes in expected.items():
        assert sorted(tokens_of(text)) == sorted(hashes)
        assert tokenise([text]).hashes.tolist() == sorted(hashes)


def test_values_are_log_counts_times_damped_rarity():
    """Values are (1 + ln count) * sqrt(1 + ln((1 + n) / (1 + rows))), divided by the length."""
    texts = ["red red wine", "white wine", "Red", ""]
    encoder = encoder_of(texts)
    column = encoder.parts.texts[0]
    rows = [tokens_of(text) for text in texts]
    dense = encoder.transform(pa.table({"text": texts}), dtype=np.float64).sparse.toarray()
    for row, tokens in zip(dense, rows, strict=True):
        expected = np.zeros(column.n_tokens)
        for token, count in tokens.items():
            with_it = sum(token in other for other in rows)
            weight = float(np.float32(math.sqrt(1 + math.log(5 / (1 + with_it)))))
            expected[np.searchsorted(column.hashes, token)] = (1 + math.log(count)) * weight
        length = np.linalg.norm(expected)
        np.testing.assert_allclose(row, expected / length if length else expected, rtol=1e-12)


def test_every_row_has_length_one_or_is_empty():
    """Rows have Euclidean length 1; texts without a known token are all zeros and keep their place."""
    encoder = encoder_of(["good film", "bad film", "so so", "fine"])
    test = ["good", "", None, "\u6771\u4eac", "film film film", " \t\n"]
    block = encoder.transform(pa.table({"text": pa.array(test, pa.string())})).sparse
    lengths = np.sqrt((block.toarray() ** 2).sum(axis=1))
    np.testing.assert_allclose(lengths, [1, 0, 0, 0, 1, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("caf\u00e9 ol\u00e9", "cafe\u0301 ole\u0301"),
        ("Stra\u00dfe", "STRA\u1e9eE"),
        ("a  b\tc\n", "a b c"),
        ("ISTANBUL", "istanbul"),
    ],
)
def test_texts_that_are_the_same(a, b):
    """Composed and combining accents, capitals and white space make no difference."""
    assert tokens_of(a) == tokens_of(b)
    x, y = tokenise([a]), tokenise([b])
    np.testing.assert_array_equal(x.hashes, y.hashes)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "word " * 200_000,
        "\u200b\u200d\ufeff",
        "\u0634\u0643\u0631\u0627 \u202eabc",
        "\U0001f600" * 5,
        "\x00\x01",
        "a" * 65,
    ],
)
def test_odd_texts_are_a_row_like_any_other(text):
    """A megabyte in one line, zero-width and right-to-left characters, emoji, controls: one finite row."""
    encoder = encoder_of(["some text here", "other text there", "x" * 70])
    block = encoder.transform(pa.table({"text": [text, "text"]})).sparse
    assert block.shape[0] == 2
    assert np.isfinite(block.data).all()


def test_tokens_of_a_single_row_have_no_place_in_large_data(monkeypatch):
    """From 2,000 rows on a token needs two rows; with fewer rows one is enough; a cap keeps the commonest."""
    texts = [f"common{i % 7} words" for i in range(1999)]
    few = encoder_of([*texts[:50], "unique"]).parts.texts[0]
    many = encoder_of([*texts, "unique"]).parts.texts[0]
    assert set(tokens_of("unique")) <= set(few.hashes.tolist())
    assert not set(many.hashes.tolist()) & {low_bits(fnv(0x110001, map(ord, "unique")))}
    monkeypatch.setattr(text_module, "MAX_TOKENS", 5)
    capped = encoder_of([*texts, "unique"]).parts.texts[0]
    assert set(capped.hashes.tolist()) <= set(tokens_of("common words"))


def test_batches_chunks_and_weights_make_no_difference(monkeypatch, rng):
    """Any split of the rows or of the work gives the same bits; a row of weight 2 is two rows."""
    texts = [" ".join(f"w{j}" for j in rng.integers(0, 50, 5)) for _ in range(200)]
    weights = rng.integers(0, 3, 200)
    encoder = encoder_of(texts, sample_weight=weights)
    whole = encoder.transform(pa.table({"text": texts})).sparse
    monkeypatch.setattr(text_module, "CHUNK_CHARACTERS", 100)
    again = encoder_of(np.repeat(texts, weights).tolist())
    for name, tensor in encoder.to_state()[1].items():
        np.testing.assert_array_equal(tensor, again.to_state()[1][name])
    parts = [again.transform(pa.table({"text": texts[i : i + 9]})).sparse.toarray() for i in range(0, 200, 9)]
    np.testing.assert_array_equal(whole.toarray(), np.concatenate(parts))
    assert whole.indices.dtype == np.int32
    assert whole.has_sorted_indices


def test_texts_without_any_token():
    """Only blank texts in training: no sparse block, one dense column of zeros, nothing fails."""
    encoder = encoder_of(["", " ", ""])
    encoded = encoder.transform(pa.table({"text": ["a", "b"]}))
    assert encoded.sparse is None
    assert encoded.dense.tolist() == [[0], [0]]


def test_two_columns_of_texts_have_their_own_tokens():
    """The same words in two columns are different inputs."""
    texts = [f"some words about thing {i}" for i in range(20)]
    encoder = FeatureEncoder.fit(pa.table({"a": texts, "b": texts[::-1]}))
    a, b = (column.n_tokens for column in encoder.parts.texts)
    assert encoder.n_sparse == a + b
    block = encoder.transform(pa.table({"a": texts[:1], "b": [""]})).sparse
    assert block.indices.max() < a
