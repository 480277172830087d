"""Tests of softmaxnet.model: the path from rows to probabilities, without any training."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import softmaxnet.memory
import softmaxnet.model
from softmaxnet.calibration import Calibration
from softmaxnet.errors import DataError, ResourceError, UsageError
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.model import SoftmaxModel, top_classes
from softmaxnet.network import NetworkSpec, forward, parameter_shapes
from softmaxnet.softmax import log_softmax, softmax


def make_model(
    X: Any,
    classes: Any,
    *,
    hidden: tuple[int, ...] = (16,),
    features: str = "auto",
    dtype: str = "float32",
    seed: int = 0,
    calibration: Calibration | None = None,
    **spec: Any,
) -> SoftmaxModel:
    """Return a model with random parameters for rows like X."""
    rng = np.random.default_rng(seed)
    encoder = FeatureEncoder.fit(X, features=features)
    shape = NetworkSpec(encoder.n_dense, encoder.n_sparse, len(classes), hidden, **spec)
    params = {name: rng.normal(size=size).astype(dtype) for name, size in parameter_shapes(shape).items()}
    return SoftmaxModel(encoder, shape, params, calibration or Calibration(), np.asarray(classes))


def make_table(n_rows: int = 60) -> pa.Table:
    """Return a table with a column of each kind."""
    rng = np.random.default_rng(1)
    return pa.table(
        {
            "age": rng.normal(40, 10, n_rows),
            "city": [("Rome", "Oslo", "Bonn")[i % 3] for i in range(n_rows)],
            "note": [f"the parcel number {i} has not come yet, where is it" for i in range(n_rows)],
        }
    )


@pytest.fixture(scope="module")
def numbers() -> np.ndarray:
    """Return 500 rows of 5 numbers."""
    return np.random.default_rng(2).normal(size=(500, 5))


@pytest.fixture(scope="module")
def model(numbers: np.ndarray) -> SoftmaxModel:
    """Return a model of 3 members over numbers."""
    return make_model(numbers, ["a", "b", "c", "d"], n_members=3, calibration=Calibration("temperature", 0.7))


def test_worked_example() -> None:
    """Logits 1.6, 3.1, 0.5 come out as 17 %, 77 % and 6 %."""
    spec = NetworkSpec(3, 0, 3)
    params = {"layers.0.weight": np.eye(3)[None], "layers.0.bias": np.zeros((1, 3))}
    encoder = FeatureEncoder.fit(np.eye(3), features="raw")
    model = SoftmaxModel(encoder, spec, params, Calibration(), np.array(["x", "y", "z"]))
    X = np.array([[1.6, 3.1, 0.5]])
    np.testing.assert_allclose(model.predict_proba(X), [[0.17198205, 0.77077009, 0.05724785]], atol=5e-9)
    assert model.decision_function(X).tolist() == X.tolist()
    assert model.predict(X).tolist() == ["y"]


def test_is_encoder_forward_calibration_softmax(model: SoftmaxModel, numbers: np.ndarray) -> None:
    """The probabilities are the softmax of the calibrated forward pass of the encoded rows."""
    dense = model.encoder.transform(numbers, dtype=np.float64).dense
    params = {name: array.astype(np.float64) for name, array in model.params.items()}
    logits = 0.7 * forward(model.spec, params, dense)
    np.testing.assert_allclose(model.decision_function(numbers), logits, rtol=1e-12)
    np.testing.assert_allclose(model.predict_log_proba(numbers), log_softmax(logits), rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(numbers), softmax(logits), rtol=1e-12)


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_rows_sum_to_one(numbers: np.ndarray, n_members: int, output: str) -> None:
    """Rows of probabilities sum to 1 up to the rounding of float64, also where logits are float32."""
    model = make_model(numbers, range(50), hidden=(2000,), n_members=n_members, output=output)
    assert model.dtype == np.float32
    proba = model.predict_proba(numbers)
    assert proba.dtype == np.float64
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, rtol=0, atol=1e-14)


def test_log_probabilities_do_not_underflow(numbers: np.ndarray) -> None:
    """A class far below the others has a finite log-probability where its probability is 0."""
    model = make_model(numbers, [0, 1], hidden=(), calibration=Calibration("temperature", 1e4))
    log_proba = model.predict_log_proba(numbers)
    assert np.isfinite(log_proba).all()
    assert log_proba.min() < -1000
    assert model.predict_proba(numbers).min() == 0.0


def test_precision_rule(numbers: np.ndarray) -> None:
    """Small networks and float64 parameters compute in float64, large float32 ones as they are, uncopied."""
    small = make_model(numbers, [0, 1])
    large = make_model(numbers, [0, 1], hidden=(400, 400))
    double = make_model(numbers, [0, 1], hidden=(400, 400), dtype="float64")
    assert [model.decision_function(numbers).dtype for model in (small, large, double)] == ["f8", "f4", "f8"]
    assert large._prepared["layers.1.weight"].base is large.params["layers.1.weight"].base


@pytest.mark.parametrize("step", [1, 7, 499, 500])
def test_whole_equals_batches(model: SoftmaxModel, numbers: np.ndarray, step: int) -> None:
    """Rows give the same probabilities alone, in batches and all at once."""
    parts = [model.predict_proba(numbers[i : i + step]) for i in range(0, len(numbers), step)]
    np.testing.assert_allclose(np.concatenate(parts), model.predict_proba(numbers), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["matrix", "sparse", "table"])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A budget of a few rows gives what one chunk gives, for each sort of input."""
    table = make_table()
    X = {
        "matrix": np.random.default_rng(3).normal(size=(60, 4)),
        "sparse": scipy.sparse.csr_array(np.random.default_rng(4).binomial(1, 0.1, size=(60, 100)) * 1.0),
        "table": table,
    }[kind]
    model = make_model(X, ["a", "b", "c"])
    whole = [model.predict_proba(X), model.predict_log_proba(X), *model.predict_topk(X, 2)]
    monkeypatch.setattr(softmaxnet.model, "MOST_CHUNK_ROWS", 7)
    cut = copy.deepcopy(model)
    assert cut._chunk_rows == 7
    found = [cut.predict_proba(X), cut.predict_log_proba(X), *cut.predict_topk(X, 2)]
    for a, b in zip(whole, found, strict=True):
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        else:
            assert a.tolist() == b.tolist()
    assert cut.predict(X).tolist() == model.predict(X).tolist()


def test_chunk_rows_follow_the_widest_layer() -> None:
    """The byte budget counts members, the embedding and the classes."""
    X = np.random.default_rng(5).normal(size=(20, 10))
    for spec in ({"hidden": (5000,), "n_members": 4}, {"n_frequencies": 2000, "embedding_size": 2}):
        model = make_model(X, [0, 1], **spec)
        assert model._chunk_rows == 16 * 2**20 // (20_000 * model.dtype.itemsize)


def test_warns_once_of_extra_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are found by name, extra ones are warned of once, not once for each chunk."""
    table = make_table()
    model = make_model(table, [0, 1])
    monkeypatch.setattr(softmaxnet.model, "MOST_CHUNK_ROWS", 10)
    shuffled = table.select(["note", "age", "city"]).append_column("extra", pa.array(range(60)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = copy.deepcopy(model).predict_proba(shuffled)
    assert len(caught) == 1
    assert "'extra'" in str(caught[0].message)
    np.testing.assert_allclose(found, model.predict_proba(table), atol=1e-12)


def test_errors_name_the_row_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that cannot be read is reported with its row in X, not in a chunk of it."""
    table = make_table()
    model = make_model(table, [0, 1])
    ages = [str(age) for age in table["age"].to_pylist()]
    ages[43] = "forty"
    bad_table = table.set_column(0, "age", pa.array(ages))
    monkeypatch.setattr(softmaxnet.model, "MOST_CHUNK_ROWS", 10)
    with pytest.raises(DataError, match="row 43: 'forty'"):
        copy.deepcopy(model).predict(bad_table)
    cells: list[Any] = []
    rows = sum(len(logits) for _, logits in copy.deepcopy(model).iter_logits(bad_table, bad=cells))
    assert rows == 60
    assert [cell.row for cell in cells] == [43]
    assert "row 43: " in cells[0].message


def test_counts_unseen_categories() -> None:
    """Levels that training did not see are counted by column over all chunks."""
    table = make_table()
    model = make_model(table, [0, 1])
    other = table.set_column(1, "city", pa.array(["Lima"] * 5 + ["Rome"] * 55))
    counts: dict[str, int] = {}
    assert sum(len(logits) for _, logits in model.iter_logits(other, counts=counts)) == 60
    assert counts == {"city": 5}


@pytest.mark.parametrize("form", [dict, list, tuple])
def test_accepts_plain_python(form: type) -> None:
    """Mappings of columns, lists of mappings and lists of rows are read as the table that they mean."""
    table = make_table(20)
    model = make_model(table, [0, 1])
    expected = model.predict_proba(table)
    if form is dict:
        given: Any = table.to_pydict()
    elif form is list:
        given = table.to_pylist()
    else:
        model = make_model(np.arange(40.0).reshape(20, 2), [0, 1])
        given = tuple((float(2 * i), float(2 * i + 1)) for i in range(20))
        expected = model.predict_proba(np.arange(40.0).reshape(20, 2))
    np.testing.assert_allclose(model.predict_proba(given), expected, atol=1e-12)


def test_no_rows(model: SoftmaxModel) -> None:
    """No rows in are no rows out, with the right shapes."""
    X = np.empty((0, 5))
    assert model.predict_proba(X).shape == (0, 4)
    assert model.predict(X).shape == (0,)
    labels, proba = model.predict_topk(X, 2)
    assert labels.shape == proba.shape == (0, 2)


def test_wrong_width_is_refused(model: SoftmaxModel) -> None:
    """Another number of columns is a DataError that names both."""
    with pytest.raises(DataError, match=r"6 columns.*5"):
        model.predict_proba(np.zeros((2, 6)))


def test_too_large_numbers_are_refused() -> None:
    """Raw numbers whose logits overflow are refused with their row; never a NaN comes out."""
    X = np.ones((5, 2))
    X[:, 1] = np.arange(5)
    model = make_model(X, [0, 1], hidden=(), features="raw")
    X[3] = 1.7e308
    params = {name: array * 1000 for name, array in model.params.items()}
    with pytest.raises(DataError, match=r"row 3: .*too large"):
        replace(model, params=params).predict_proba(X)


def test_pixels_keep_their_scale() -> None:
    """Bytes and the same pixels as floats give the same probabilities."""
    pixels = np.random.default_rng(6).integers(0, 256, size=(30, 64), dtype=np.uint8)
    model = make_model(pixels, range(3))
    np.testing.assert_allclose(
        model.predict_proba(pixels), model.predict_proba(pixels.astype(np.float64)), atol=1e-12
    )


# top k


@given(
    logits=hnp.arrays(
        np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(-3, 3)
    ),
    k=st.integers(1, 9),
)
@settings(deadline=None)
def test_top_is_a_stable_sort(logits: np.ndarray, k: int) -> None:
    """The k highest classes are the first k of a stable descending sort, also among equals."""
    k = min(k, logits.shape[1])
    top, proba = top_classes(logits, k)
    np.testing.assert_array_equal(top, np.argsort(-logits, axis=1, kind="stable")[:, :k])
    np.testing.assert_allclose(
        proba, np.take_along_axis(softmax(logits.astype(np.float64)), top, axis=1), atol=1e-12
    )


def test_topk_agrees_with_the_rest(model: SoftmaxModel, numbers: np.ndarray) -> None:
    """The first of the top k is the prediction, and more than K is K."""
    labels, proba = model.predict_topk(numbers, 99)
    assert labels.shape == (500, 4)
    assert labels[:, 0].tolist() == model.predict(numbers).tolist()
    np.testing.assert_allclose(np.sort(model.predict_proba(numbers), axis=1)[:, ::-1], proba, atol=1e-14)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "3"])
def test_topk_refuses_what_is_no_number(model: SoftmaxModel, k: Any) -> None:
    """K must be a whole number of at least 1."""
    with pytest.raises(UsageError, match="k must be"):
        model.predict_topk(np.zeros((1, 5)), k)


def test_too_large_a_result_is_refused(monkeypatch: pytest.MonkeyPatch, numbers: np.ndarray) -> None:
    """An array beyond half of the free memory is refused with its bytes and the way out, which works."""
    model = make_model(numbers, range(1000), hidden=())
    monkeypatch.setattr(softmaxnet.memory, "UNCHECKED_BYTES", 1000)
    monkeypatch.setattr(softmaxnet.memory, "available_bytes", lambda: 7_999_999)
    monkeypatch.setattr(softmaxnet.model, "MOST_CHUNK_ROWS", 100)
    with pytest.raises(ResourceError, match=r"500 rows x 1,000 classes takes 4,000,000 bytes.*predict_topk"):
        model.predict_proba(numbers)
    assert model.predict_topk(numbers, 3)[0].shape == (500, 3)


def test_available_bytes_is_plausible() -> None:
    """The free memory is known here, positive and not a whole number of petabytes."""
    free = softmaxnet.memory.available_bytes()
    assert free is None or 2**20 < free < 2**50


# prediction sets


def test_sets_need_calibration(model: SoftmaxModel, numbers: np.ndarray) -> None:
    """Without calibration rows the error names the three ways to get sets."""
    with pytest.raises(UsageError, match=r"calibrate_sets.*softmaxnet calibrate --sets.*conformal_fraction"):
        model.predict_set(numbers)


def test_sets_cover(model: SoftmaxModel) -> None:
    """Sets hold the labels of new rows about as often as asked, most probable label first."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=(4000, 5))
    proba = model.predict_proba(X)
    labels = (rng.random((4000, 1)) > proba.cumsum(axis=1)).sum(axis=1).clip(max=3)
    y = model.classes[labels]
    ready = model.calibrate_sets(X[:2000], y[:2000])
    assert model.conformal is None
    sets = ready.predict_set(X[2000:], coverage=0.8)
    covered = np.mean([label in found for label, found in zip(y[2000:], sets, strict=True)])
    assert 0.77 < covered < 0.83  # 3 standard errors of 2,000 + 2,000 rows are .038
    assert all(found[0] == first for found, first in zip(sets, model.predict(X[2000:]), strict=True))


def test_sets_refuse_unknown_labels(model: SoftmaxModel, numbers: np.ndarray) -> None:
    """A calibration label that is no class is named with its row."""
    with pytest.raises(DataError, match="row 1: 'e' is not a class"):
        model.calibrate_sets(numbers[:3], ["a", "e", "b"])


# the object


def test_is_immutable(model: SoftmaxModel) -> None:
    """Neither fields nor arrays of a model can be changed, and the caller's arrays stay writeable."""
    with pytest.raises(AttributeError):
        model.classes = np.arange(4)  # type: ignore[misc]
    for array in (*model.params.values(), model.classes):
        with pytest.raises(ValueError):
            array[...] = array[0]
    mine = {name: np.array(array) for name, array in model.params.items()}
    replace(model, params=mine)
    assert all(array.flags.writeable for array in mine.values())


def test_refuses_what_does_not_fit(model: SoftmaxModel) -> None:
    """Missing or misshapen parameters and a wrong number of classes are refused at once."""
    with pytest.raises(UsageError, match="names and shapes"):
        replace(model, params={})
    with pytest.raises(UsageError, match="names and shapes"):
        replace(model, params={**model.params, "extra": np.zeros(1)})
    with pytest.raises(UsageError, match="class"):
        replace(model, classes=np.arange(3))


def test_copies_and_pickles(model: SoftmaxModel, numbers: np.ndarray) -> None:
    """A copied or pickled model gives the same bits; what is derived is not carried along."""
    expected = model.predict_proba(numbers)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert "_prepared" not in vars(other)
        np.testing.assert_array_equal(other.predict_proba(numbers), expected)


def test_many_threads(model: SoftmaxModel, numbers: np.ndarray) -> None:
    """Threads that share a fresh model get the answers of one thread."""
    expected = model.predict_proba(numbers)
    fresh = copy.deepcopy(model)
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            if not np.array_equal(fresh.predict_proba(numbers), expected):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_summary(model: SoftmaxModel) -> None:
    """The summary names classes, sizes, members and the temperature."""
    text = replace(model, metrics={"log_loss": 0.25}).summary()
    for part in (
        "4: a, b, c, d",
        "5 columns",
        "16 (relu), 3 members",
        "temperature 1.429",
        "log_loss     0.2500",
    ):
        assert part in text


def test_a_matrix_needs_no_frame_library() -> None:
    """Predicting on a matrix imports neither pyarrow nor narwhals, torch, sklearn or pandas."""
    program = """
import sys
import numpy as np
from softmaxnet.calibration import Calibration
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.model import SoftmaxModel
from softmaxnet.network import NetworkSpec
for dtype in ("f4", "f8", "u1"):
    X = np.arange(12).reshape(4, 3).astype(dtype)
    encoder = FeatureEncoder.fit(X)
    params = {"layers.0.weight": np.ones((1, encoder.n_dense, 2)), "layers.0.bias": np.ones((1, 2))}
    model = SoftmaxModel(encoder, NetworkSpec(encoder.n_dense, 0, 2), params, Calibration(), np.arange(2))
    model.predict_proba(X), model.predict(X), model.predict_topk(X, 1)
print(sorted({"torch", "sklearn", "pyarrow", "narwhals", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
