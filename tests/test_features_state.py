"""A fitted encoder as plain data: the round trip is exact, and whatever does not fit is refused."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from scipy.sparse import csr_array

from softmaxnet.errors import ModelFileError
from softmaxnet.features import FeatureEncoder
from softmaxnet.features.state import pack_strings, unpack_strings


def table(rng, n=120):
    """Return a table with every kind of column."""
    gap = rng.random(n) < 0.2
    return pa.table(
        {
            "x": pa.array(rng.normal(size=n), mask=gap),
            "k": rng.integers(0, 5, n),
            "c": pa.array([["a", "b", "c\u00e9"][i] for i in rng.integers(0, 3, n)], mask=gap),
            "wide": [f"v{i}" for i in rng.integers(0, 40, n)],
            "b": rng.random(n) < 0.5,
            "d": rng.integers(0, 9999, n).astype("M8[D]"),
            "t": [" ".join(f"w{j}" for j in rng.integers(0, 30, 5)) for _ in range(n)],
            "id": [f"r{i}" for i in range(n)],
        }
    )


def inputs(rng):
    """Return an X of every form."""
    return {
        "table": table(rng),
        "numbers": np.where(rng.random((50, 4)) < 0.1, np.nan, rng.normal(size=(50, 4))),
        "pixels": rng.integers(0, 256, (9, 30)).astype(np.uint8),
        "sparse": csr_array(rng.integers(0, 3, (20, 70)) * 1.0),
        "texts": pa.table({"text": ["one two", "three", "two one"]}),
    }


FORMS = ["table", "numbers", "pixels", "sparse", "texts"]


def through_a_file(encoder):
    """Return the encoder read back from JSON and safetensors."""
    meta, tensors = encoder.to_state()
    text = json.dumps(meta, allow_nan=False)
    return FeatureEncoder.from_state(json.loads(text), load(save(tensors)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("features", ["auto", "raw"])
def test_round_trip_is_exact(form, features, rng):
    """JSON and safetensors and back: the same bits out, the same description."""
    X = inputs(rng)[form]
    if features == "raw" and form in ("table", "numbers"):
        X = X.drop_columns(["x"]) if form == "table" else np.nan_to_num(X)
    encoder = FeatureEncoder.fit(X, features=features, n_bins=4)
    for again in (through_a_file(encoder), pickle.loads(pickle.dumps(encoder)), copy.deepcopy(encoder)):
        a, b = encoder.transform(X), again.transform(X)
        assert a.dense.dtype == b.dense.dtype
        np.testing.assert_array_equal(a.dense, b.dense)
        assert a.dense_scale == b.dense_scale
        if a.sparse is not None:
            np.testing.assert_array_equal(a.sparse.toarray(), b.sparse.toarray())
        assert again.describe() == encoder.describe()
        assert (again.n_dense, again.n_sparse, again.n_curved) == (
            encoder.n_dense,
            encoder.n_sparse,
            encoder.n_curved,
        )


@pytest.mark.parametrize("form", FORMS)
def test_the_state_is_plain(form, rng):
    """Metadata is JSON with finite numbers; tensors are 1-D, their names begin with ``features.``."""
    meta, tensors = FeatureEncoder.fit(inputs(rng)[form]).to_state()
    assert json.loads(json.dumps(meta, allow_nan=False)) == meta
    assert all(name.startswith("features.") and tensor.ndim == 1 for name, tensor in tensors.items())


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_or_misshapen_tensor_is_refused(form, rng):
    """Each tensor left out, longer, of another type or not finite is a ModelFileError and nothing else."""
    meta, tensors = FeatureEncoder.fit(inputs(rng)[form], n_bins=4).to_state()
    for name, tensor in tensors.items():
        broken = [
            {key: value for key, value in tensors.items() if key != name},
            tensors | {name: tensor.astype(np.int16)},
            tensors | {name: tensor.reshape(-1, 1)},
        ]
        if name != "features.sparse.scale" or tensor.size:
            broken.append(
                tensors
                | {name: np.concatenate([tensor, tensor[-1:] if tensor.size else [1]]).astype(tensor.dtype)}
            )
        if tensor.dtype.kind == "f" and tensor.size:
            broken.append(tensors | {name: np.full_like(tensor, np.nan)})
        for state in broken:
            with pytest.raises(ModelFileError):
                FeatureEncoder.from_state(meta, state)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_numbers_are_refused_or_harmless(data):
    """Any one number of any tensor changed: refused, or an encoder that still encodes to numbers."""
    rng = np.random.default_rng(0)
    X = table(rng, 60)
    meta, tensors = FeatureEncoder.fit(X, n_bins=4).to_state()
    name = data.draw(st.sampled_from(sorted(name for name, tensor in tensors.items() if tensor.size)))
    tensor = tensors[name].copy()
    place = data.draw(st.integers(0, tensor.size - 1))
    limits = np.iinfo(tensor.dtype) if tensor.dtype.kind in "iu" else None
    new = data.draw(st.integers(int(limits.min), int(limits.max)) if limits else st.floats(width=32))
    tensor[place] = new
    try:
        encoder = FeatureEncoder.from_state(meta, tensors | {name: tensor})
    except ModelFileError:
        return
    encoded = encoder.transform(X)
    assert encoded.dense.shape == (60, encoder.n_dense)
    assert not np.isnan(encoded.dense).any()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_features_in", 0),
        ("n_features_in", True),
        ("n_features_in", "8"),
        ("n_features_in", 10**12),
        ("feature_names_in", None),
        ("feature_names_in", ["a"]),
        ("feature_names_in", ["a"] * 8),
        ("feature_names_in", [1] * 8),
        ("parts", None),
        ("parts", {"form": "os.system"}),
        ("parts", {"form": "numbers", "block": {}}),
        ("reasons", {"x": "y"}),
        ("reasons", {"99": "y"}),
        ("reasons", {"1": 3}),
        ("reasons", None),
    ],
)
def test_metadata_that_cannot_be_is_refused(key, value, rng):
    """Metadata of a wrong type, size or name is a ModelFileError and nothing else."""
    meta, tensors = FeatureEncoder.fit(table(rng)).to_state()
    with pytest.raises(ModelFileError):
        FeatureEncoder.from_state(meta | {key: value}, tensors)
    with pytest.raises(ModelFileError):
        FeatureEncoder.from_state({k: v for k, v in meta.items() if k != key} | {key: object()}, tensors)


@given(st.lists(st.text()))
def test_packed_strings_come_back(values):
    """Any list of texts survives as bytes and offsets."""
    assert unpack_strings(*pack_strings(values)) == values


def test_lying_offsets_are_refused():
    """Offsets that do not fit their bytes, or split a character, are refused."""
    data, offsets = pack_strings(["\u00e9", "b"])
    for bad in ([0, 1, 3], [0, 3], [1, 2, 3], [0, 4, 3], [0, 2, 4], []):
        if bad == [0, 3]:
            continue
        with pytest.raises(ModelFileError):
            unpack_strings(data, np.array(bad, dtype=np.int64))
    assert offsets.tolist() == [0, 2, 3]
