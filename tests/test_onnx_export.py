"""ONNX files against the models that they come from: fed as a user would, run by onnxruntime."""

from __future__ import annotations

import datetime
import json
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
from sklearn.datasets import load_digits, load_iris

from softmaxnet import onnx_export
from softmaxnet.calibration import Calibration
from softmaxnet.errors import ResourceError, SoftmaxError, UsageError
from softmaxnet.estimator import SoftmaxClassifier
from softmaxnet.features.columns import Cells
from softmaxnet.features.dates import read_dates
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.model import SoftmaxModel
from softmaxnet.network import ACTIVATIONS, NetworkSpec, parameter_shapes
from softmaxnet.onnx_export import export_onnx, onnx_inputs
from softmaxnet.onnx_graph import Graph, _date_parts

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

NUMPY = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(string)": object, "tensor(int64)": np.int64}


def fit(X, y, kinds=None, **settings) -> SoftmaxModel:
    """Return a model fitted in a moment."""
    return SoftmaxClassifier(random_state=0, **({"max_epochs": 5} | settings)).fit(X, y, kinds=kinds).model_


def run(path: Path, feed) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and the probabilities that onnxruntime gives."""
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["label", "probabilities"]
    return tuple(session.run(None, feed))


def feed_frame(path: Path, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return a frame as a user feeds it who knows the session only: numbers as they are, texts with "" for missing."""
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {}
    for about in session.get_inputs():
        assert about.shape == [None, 1]
        column = frame[about.name]
        texts = about.type == "tensor(string)"
        values = column.astype(object).where(column.notna(), "" if texts else np.nan)
        values = values.map(str) if texts else values
        feed[about.name] = values.to_numpy().astype(NUMPY[about.type])[:, None]
    return feed


def check(model: SoftmaxModel, path: Path, X, feed) -> None:
    """Check labels and probabilities against the model's own."""
    label, proba = run(path, feed)
    assert proba.dtype == np.float32
    np.testing.assert_allclose(proba, model.predict_proba(X), atol=1e-5)
    assert label.tolist() == model.predict(X).tolist()


def make_frame(n: int = 300, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a frame with every kind of column that ONNX can compute, with missing cells, and labels."""
    rng = np.random.default_rng(seed)
    city = rng.choice(["Rome", "Oslo", "Bonn", "Köln"], n, p=[0.4, 0.3, 0.2, 0.1])
    age = rng.normal(40, 12, n)
    frame = pd.DataFrame(
        {
            "age (years)": np.where(rng.random(n) < 0.1, np.nan, age),
            "city": np.where(rng.random(n) < 0.1, None, city),
            "rooms": rng.integers(1, 6, n),
            "floor": np.where(rng.random(n) < 0.1, np.nan, rng.integers(0, 5, n)),
            "owner": rng.random(n) < 0.5,
            "since": pd.to_datetime("2015-01-01") + pd.to_timedelta(rng.integers(0, 3000, n) * 3600 * 7, unit="s"),
            "until": np.where(rng.random(n) < 0.2, None, [f"20{k % 90 + 10}-03-0{k % 9 + 1}" for k in range(n)]),
            "street": [f"street{k:02d}" for k in rng.integers(0, 60, n)],
            "constant": 1.0,
            "empty": None,
        }
    )
    score = (np.nan_to_num(age) > 40) + (city == "Rome") + frame["owner"] + (frame["rooms"] > 3)
    return frame, np.array(["low", "mid", "high"])[np.digitize(score + rng.normal(0, 0.3, n), [1.0, 2.5])]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Return a frame, a model of it and its ONNX file."""
    frame, y = make_frame()
    model = fit(frame, y)
    path = tmp_path_factory.mktemp("onnx") / "mixed.onnx"
    return frame, model, path, export_onnx(model, path)


def test_iris(tmp_path) -> None:
    """A matrix of numbers: one float input X, int64 labels, missing numbers as NaN."""
    X, y = load_iris(return_X_y=True)
    X[::7, 1] = np.nan
    model = fit(X, y)
    report = export_onnx(model, tmp_path / "m.onnx")
    assert report.inputs == {"X": ("float", (None, 4))}
    assert report.max_difference <= 1e-5
    assert report.opset == 18
    check(model, tmp_path / "m.onnx", X, {"X": X.astype(np.float32)})
    label, _ = run(tmp_path / "m.onnx", {"X": X[:0].astype(np.float32)})
    assert label.shape == (0,)
    assert label.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_digits(tmp_path, dtype) -> None:
    """Pictures, as bytes and as numbers, through a network of several members."""
    X, y = load_digits(return_X_y=True)
    X = X.astype(dtype)
    model = fit(X, y)
    assert model.spec.n_members > 1
    export_onnx(model, tmp_path / "m.onnx")
    check(model, tmp_path / "m.onnx", X, {"X": X.astype(np.float32)})
    odd = X[:5] + np.float64(0.25)
    odd[0, 10] = np.nan
    check(model, tmp_path / "m.onnx", odd, {"X": odd.astype(np.float32)})


def test_mixed_frame(mixed) -> None:
    """Numbers, codes, truth values, dates and categories with missing cells, fed from the frame by input types."""
    frame, model, path, report = mixed
    kinds = {name: kind for name, (kind, _) in report.inputs.items()}
    assert list(kinds) == [name for name in frame.columns if name not in ("constant", "empty")]
    assert report.left_out == ("constant", "empty")
    assert kinds["city"] == kinds["since"] == kinds["street"] == "string"
    assert kinds["age (years)"] == kinds["owner"] == "float"
    assert report.opset == 20
    check(model, path, frame, feed_frame(path, frame))
    other, _ = make_frame(200, seed=1)
    other.loc[:5, "city"] = "Atlantis"
    other.loc[3:9, "rooms"] = 77
    other.loc[5:15, "street"] = ""
    check(model, path, other.replace({"street": {"": None}}), feed_frame(path, other))


def test_onnx_inputs_feed_the_file(mixed) -> None:
    """onnx_inputs makes of any X what the file takes, columns in any order."""
    frame, model, path, report = mixed
    feed = onnx_inputs(model, frame[frame.columns[::-1]])
    assert list(feed) == list(report.inputs)
    check(model, path, frame, feed)


def test_categories_in_other_forms(mixed) -> None:
    """One blank on either side, another normal form and a blank text mean what they mean to the model."""
    frame, model, path, _ = mixed
    rows = frame.head(5).copy()
    rows["city"] = [" Rome", "Oslo ", unicodedata.normalize("NFD", "Köln"), " ", "Köln"]
    feed = feed_frame(path, rows)
    assert feed["city"][2, 0] != "Köln"
    check(model, path, rows, feed)


def test_classes_of_every_kind(tmp_path) -> None:
    """Labels come back as the user's: texts, whole numbers, floats, truth values, objects."""
    X, y = load_iris(return_X_y=True)
    two = X[y < 2], y[y < 2]
    for labels in (np.array(["no", "ja"]), np.array([-5, 7]), np.array([False, True])):
        model = fit(two[0], labels[two[1]], hidden_layer_sizes=())
        export_onnx(model, tmp_path / "m.onnx")
        check(model, tmp_path / "m.onnx", two[0], {"X": two[0].astype(np.float32)})
    for classes in (np.array(["<b>", "é"], dtype=object), np.array([0.5, 2.5])):
        named = replace(model, classes=classes)
        export_onnx(named, tmp_path / "m.onnx")
        check(named, tmp_path / "m.onnx", two[0], {"X": two[0].astype(np.float32)})


def test_columns_named_as_the_outputs(tmp_path) -> None:
    """A column called "label" gets the input "label_input": an output is called so already."""
    X, y = load_iris(return_X_y=True)
    frame = pd.DataFrame(X, columns=["label", "probabilities", "X", "add_1"])
    model = fit(frame, y)
    report = export_onnx(model, tmp_path / "m.onnx")
    assert list(report.inputs) == ["label_input", "probabilities_input", "X", "add_1"]
    check(model, tmp_path / "m.onnx", frame, onnx_inputs(model, frame))


def random_model(X, n_classes: int = 4, *, calibration=None, hidden=(6,), kinds=None, **spec) -> SoftmaxModel:
    """Return a model with random float64 parameters."""
    rng = np.random.default_rng(0)
    encoder = FeatureEncoder.fit(X, kinds=kinds)
    shape = NetworkSpec(encoder.n_dense, encoder.n_sparse, n_classes, hidden, **spec)
    params = {name: rng.normal(0, 0.5, size=size) for name, size in parameter_shapes(shape).items()}
    return SoftmaxModel(encoder, shape, params, calibration or Calibration(), np.arange(n_classes))


NETWORKS = {
    "regression": {"hidden": ()},
    "members": {"n_members": 3},
    "sigmoid": {"output": "sigmoid"},
    "sigmoid members": {"output": "sigmoid", "n_members": 2},
    "embedding": {"n_frequencies": 3, "embedding_size": 2, "n_members": 2},
    "temperature": {"calibration": Calibration("temperature", 0.4)},
    "matrix": {"calibration": Calibration("matrix", 0.4, np.arange(16.0).reshape(4, 4) % 5, np.arange(4.0))},
    **{activation: {"activation": activation, "hidden": (6, 5)} for activation in sorted(ACTIVATIONS)},
}


@pytest.mark.parametrize("opset", [13, 18, 22])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=list(NETWORKS))
def test_every_network(tmp_path, network, opset) -> None:
    """Every activation, kind of output and calibration, in old and new operator sets, computed in float64."""
    frame, _ = make_frame(200)
    table = pa.table({name: pa.array(frame[name], from_pandas=True) for name in ("age (years)", "street", "rooms")})
    model = random_model(table, **network)
    assert model.dtype == np.float64
    assert model.spec.n_sparse
    report = export_onnx(model, tmp_path / "m.onnx", opset=opset)
    assert report.max_difference < 2e-6
    assert report.opset == opset


def test_float32_networks(tmp_path) -> None:
    """A network above 100,000 parameters computes in float32, in the file as in the model."""
    X = np.random.default_rng(0).normal(size=(50, 4))
    model = random_model(X, hidden=(400, 300), n_members=1)
    model = replace(model, params={name: (value / 10).astype(np.float32) for name, value in model.params.items()})
    assert model.dtype == np.float32
    export_onnx(model, tmp_path / "m.onnx")
    types = {value.data_type for value in onnx.load(tmp_path / "m.onnx").graph.initializer if len(value.dims) == 2}
    assert types == {onnx.TensorProto.FLOAT}
    check(model, tmp_path / "m.onnx", X, {"X": X.astype(np.float32)})


def test_bins_and_raw_features(tmp_path) -> None:
    """Piecewise-linear bins, raw numbers and raw bytes are computed as well."""
    X = np.random.default_rng(0).normal(size=(80, 3))
    X[::9, 0] = np.nan
    plain = X[:, 1:]
    for rows, encoder in (
        (X, FeatureEncoder.fit(X, n_bins=4)),
        (plain, FeatureEncoder.fit(plain, features="raw")),
        (X > 0, FeatureEncoder.fit(X > 0)),
        ((X > 0).astype(np.uint8), FeatureEncoder.fit((X > 0).astype(np.uint8), features="raw")),
    ):
        spec = NetworkSpec(encoder.n_dense, 0, 3)
        params = {"layers.0.weight": np.ones((1, encoder.n_dense, 3)) * [1, 2, -3], "layers.0.bias": np.zeros((1, 3))}
        model = SoftmaxModel(encoder, spec, params, Calibration(), np.arange(3))
        export_onnx(model, tmp_path / "m.onnx")
        check(model, tmp_path / "m.onnx", rows, {"X": rows.astype(np.float32)})


def test_sparse_matrix(tmp_path) -> None:
    """The columns of a wide sparse matrix come as one dense X."""
    X = scipy.sparse.random_array((100, 90), density=0.1, format="csr", rng=np.random.default_rng(0)) * 3
    model = random_model(scipy.sparse.csr_array(X), hidden=())
    report = export_onnx(model, tmp_path / "m.onnx")
    assert report.inputs == {"X": ("float", (None, 90))}
    check(model, tmp_path / "m.onnx", X, {"X": X.toarray().astype(np.float32)})


def test_numbers_that_need_float64(tmp_path) -> None:
    """Where float32 would lose the digits that matter, inputs are double, and asking for float32 is refused."""
    X = 1e7 + np.random.default_rng(0).normal(size=(200, 2)) * 3
    y = (X[:, 0] > 1e7).astype(int)
    model = fit(X, y, hidden_layer_sizes=())
    report = export_onnx(model, tmp_path / "m.onnx")
    assert report.inputs == {"X": ("double", (None, 2))}
    check(model, tmp_path / "m.onnx", X, {"X": X})
    (tmp_path / "m.onnx").unlink()
    with pytest.raises(SoftmaxError, match=r"differ by .* 1e-05 is accepted\. With input_dtype='float32', try"):
        export_onnx(model, tmp_path / "m.onnx", input_dtype="float32")
    assert not (tmp_path / "m.onnx").exists()
    frame = pd.DataFrame(X, columns=["a", "b"])
    assert export_onnx(fit(frame, y), tmp_path / "t.onnx").inputs["a"] == ("double", (None, 1))
    check(fit(frame, y), tmp_path / "t.onnx", frame, {"a": X[:, :1], "b": X[:, 1:]})


def test_texts(tmp_path) -> None:
    """A text column is refused with what to do instead; the network alone takes its encoded tokens."""
    texts = [f"{word} please do it now {k}" for k, word in enumerate(["buy", "sell"] * 40)]
    frame = pd.DataFrame({"note": texts, "n": np.arange(80.0)})
    model = fit(frame, [0, 1] * 40, {"note": "text"})
    with pytest.raises(UsageError, match=r"column 'note' is text: .*part='network'"):
        export_onnx(model, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
    report = export_onnx(model, tmp_path / "m.onnx", part="network")
    assert list(report.inputs) == ["dense", "sparse_indices", "sparse_values"]
    check(model, tmp_path / "m.onnx", frame, onnx_inputs(model, frame, part="network"))
    alone = fit(texts, [0, 1] * 40)
    assert list(export_onnx(alone, tmp_path / "t.onnx", part="network").inputs) == ["sparse_indices", "sparse_values"]
    check(alone, tmp_path / "t.onnx", ["", texts[0]], onnx_inputs(alone, ["", texts[0]], part="network"))


def test_network_alone_of_pixels(tmp_path) -> None:
    """The network alone takes scaled pixels."""
    X = np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)
    model = random_model(X)
    export_onnx(model, tmp_path / "m.onnx", part="network")
    check(model, tmp_path / "m.onnx", X, {"dense": X / 255})


MOMENTS = (
    "2000-02-29", "1999-12-31", "1969-12-31T23:59:59", "1970-01-01", "2024-07-01 12:30", "1600-03-01", "0001-01-01",
    "9999-12-31T23:59:59.999999", "1900-02-28T23:59:59Z", "2100-03-01T00:00:00-11:30", "2024-01-01T00:30:00+01:00",
    "2023-12-31 23:30:15.25", "2024-05-05T07", "",
)  # fmt: skip


def date_session():
    """Return a session that computes the eight numbers of dates."""
    graph = Graph(onnx, 20, {"text"})
    parts = graph.concat(_date_parts(graph, graph.input("text", None, (None, 1))))
    helper = onnx.helper
    inputs = [helper.make_tensor_value_info("text", onnx.TensorProto.STRING, [None, 1])]
    outputs = [helper.make_tensor_value_info(parts, onnx.TensorProto.DOUBLE, [None, 8])]
    body = helper.make_graph(graph.nodes, "dates", inputs, outputs, list(graph.constants.values()))
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)])
    proto.ir_version = 9
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    return runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_dates_are_read_exactly() -> None:
    """Dates, times, fractions and zones give the encoder's eight numbers, to the last bit."""
    rng = np.random.default_rng(0)
    ticks = rng.integers(-62_135_596_800, 253_402_300_799, 2000)
    texts = [*MOMENTS, *(str(np.datetime64(int(tick), "s")) for tick in ticks)]
    texts += [str(datetime.date(1999, 1, 1) + datetime.timedelta(days)) for days in range(1500)]
    expected = read_dates(pa.array(texts), "d", Cells())
    session = date_session()
    found = session.run(None, {"text": np.array(texts, dtype=object)[:, None]})[0]
    np.testing.assert_array_equal(found, expected)
    for text in MOMENTS:  # one at a time, as other rows may lend their fields
        alone = session.run(None, {"text": np.array([[text]], dtype=object)})[0]
        np.testing.assert_array_equal(alone, read_dates(pa.array([text]), "d", Cells()))


@pytest.mark.parametrize("text", ["02/01/1970", "2024-1-1", "yesterday", "2024-01-01T12:00+0100", "2024-01-01x"])
def test_what_is_no_date_fails(text: str) -> None:
    """A text that is no date stops the run instead of giving some date, as it does in Python."""
    with pytest.raises(Exception, match=r"ONNXRuntimeError"):
        date_session().run(None, {"text": np.array([[text]], dtype=object)})


def test_dates_need_opset_20(tmp_path) -> None:
    """Dates in an older operator set are refused with the reason."""
    frame, y = make_frame(80)
    model = fit(frame[["since", "rooms"]], y)
    with pytest.raises(UsageError, match=r"'since' holds dates, which ONNX reads from opset 20 on; opset is 18"):
        export_onnx(model, tmp_path / "m.onnx", opset=18)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_package(tmp_path, monkeypatch, package) -> None:
    """Without the extra the error names what to install."""
    X, _ = load_iris(return_X_y=True)
    model = random_model(X)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ResourceError, match=rf"{package} is not installed.* pip install 'softmaxnet\[onnx\]'"):
        export_onnx(model, tmp_path / "m.onnx")


def test_bad_settings(tmp_path) -> None:
    """Settings that cannot be, a file that is there and a model without features are refused."""
    X, _ = load_iris(return_X_y=True)
    model = random_model(X)
    for opset in (12, 99, "18", True):
        with pytest.raises(UsageError, match="opset must be a whole number from 13 to"):
            export_onnx(model, tmp_path / "m.onnx", opset=opset)
    with pytest.raises(UsageError, match="part must be"):
        export_onnx(model, tmp_path / "m.onnx", part="half")
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match="the output exists"):
        export_onnx(model, tmp_path / "m.onnx", force=False)
    assert (tmp_path / "m.onnx").read_bytes() == b"x"
    constant = random_model(np.ones((5, 2)))
    with pytest.raises(UsageError, match="no column of this model varied"):
        export_onnx(constant, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="a SoftmaxModel or a fitted SoftmaxClassifier is needed"):
        export_onnx("m.safetensors", tmp_path / "m.onnx")


def test_a_wrong_graph_is_not_written(tmp_path, monkeypatch) -> None:
    """Where onnxruntime's answers differ, nothing is written and an old file stays."""
    X, _ = load_iris(return_X_y=True)
    model = random_model(X, calibration=Calibration("temperature", 0.5))
    (tmp_path / "m.onnx").write_bytes(b"old")

    def uncalibrated(graph, calibration, z, dtype, n_classes):
        return z

    monkeypatch.setattr("softmaxnet.onnx_graph._calibrated", uncalibrated)
    with pytest.raises(SoftmaxError, match="not exported: onnxruntime"):
        export_onnx(model, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == b"old"


def test_the_same_model_gives_the_same_file(mixed, tmp_path) -> None:
    """Two exports are the same bytes; the file names its maker and no inputs that it does not use."""
    _, model, path, report = mixed
    again = export_onnx(model, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    assert again.n_bytes == path.stat().st_size
    proto = onnx.load(path)
    assert proto.producer_name == "softmaxnet"
    assert {opset.domain: opset.version for opset in proto.opset_import} == {"": 20, "ai.onnx.ml": 3}
    used = {name for node in proto.graph.node for name in node.input}
    assert {value.name for value in (*proto.graph.input, *proto.graph.initializer)} <= used
    assert "ZipMap" not in {node.op_type for node in proto.graph.node}
    json.dumps(report.to_dict(), allow_nan=False)


def test_more_than_fits(tmp_path, monkeypatch) -> None:
    """A graph above protobuf's limit is refused before it is made."""
    X, _ = load_iris(return_X_y=True)
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 100)
    with pytest.raises(UsageError, match=r"bytes do not fit into one ONNX file"):
        export_onnx(random_model(X), tmp_path / "m.onnx")


def test_a_large_table_with_categories_has_its_bins_in_the_graph(tmp_path) -> None:
    """From 1,000 rows on the numbers beside categories have 16 bins each, in Python and in the graph."""
    frame, y = make_frame(1200)
    frame = frame.drop(columns=["since", "until"])
    model = fit(frame, y, max_epochs=2)
    assert model.encoder.parts.block.bin_column.size >= 16
    export_onnx(model, tmp_path / "m.onnx")
    other, _ = make_frame(300, seed=2)
    check(model, tmp_path / "m.onnx", other.drop(columns=["since", "until"]), feed_frame(tmp_path / "m.onnx", other))


def test_dates_with_full_stops_are_rewritten(tmp_path) -> None:
    """onnx_inputs writes 29.2.2024 as the graph can read it; as it stands the graph refuses it."""
    days = [f"{k % 28 + 1}.{k % 12 + 1}.{2000 + k % 20}" for k in range(200)]
    table = pa.table({"day": days, "x": np.arange(200.0)})
    model = fit(table, (np.arange(200) % 28 > 14).astype(int))
    export_onnx(model, tmp_path / "m.onnx")
    check(model, tmp_path / "m.onnx", table, onnx_inputs(model, table))
    raw = onnx_inputs(model, table) | {"day": np.array(days, dtype=object)[:, None]}
    with pytest.raises(Exception, match=r"."):
        run(tmp_path / "m.onnx", raw)
