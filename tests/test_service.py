"""The service without sockets: every kind of request, what it answers, and every way that a request can be wrong."""

from __future__ import annotations

import base64
import io
import json
import struct
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softmaxnet import SoftmaxClassifier, load_model
from softmaxnet.errors import DataError, ModelFileError, SoftmaxError, UsageError
from softmaxnet.protocol_v2 import DATATYPES, infer, model_metadata
from softmaxnet.request_rows import RowsError
from softmaxnet.service import DeadlineError, Limits, Service

QUICK = {"hidden_layer_sizes": (), "solver": "lbfgs", "weight_decay": 0.01, "random_state": 0}
SECRET = "s3cr3t-cell"


def people(n: int = 300) -> tuple[pd.DataFrame, np.ndarray]:
    """Return rows of every kind, and labels of which one is markup."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 80, n).astype(float),
            "city": rng.choice(["oslo", "paris", "rome"], n),
            "smoker": rng.random(n) < 0.4,
            "seen": pd.date_range("2020-01-01", periods=n).strftime("%Y-%m-%d"),
            "always": 1.0,
        }
    )
    frame.loc[::10, "age"] = np.nan
    labels = np.where((frame["age"].fillna(40) > 50) | (frame["city"] == "oslo"), "<b>yes</b>", "no")
    return frame, labels


@pytest.fixture(scope="module")
def table() -> Service:
    """Return a table of every kind of column."""
    frame, labels = people()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the column that never changes
        model = SoftmaxClassifier(**QUICK, conformal_fraction=0.3).fit(frame, labels).model_
    return Service(model, "people")


@pytest.fixture(scope="module")
def matrix() -> Service:
    """Return a matrix of three numbers."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    return Service(SoftmaxClassifier(**QUICK).fit(X, X.argmax(axis=1)).model_, "numbers")


@pytest.fixture(scope="module")
def texts() -> Service:
    """Return short texts."""
    words = ["good nice fine great", "bad awful poor sad", "good great day", "sad awful day"] * 20
    model = SoftmaxClassifier(**QUICK).fit(words, ["up", "down", "up", "down"] * 20).model_
    return Service(model, "texts")


@pytest.fixture(scope="module")
def pictures() -> Service:
    """Return small drawings of one stroke."""
    rng = np.random.default_rng(0)
    X = np.zeros((120, 8, 8), dtype=np.uint8)
    y = np.arange(120) % 2
    for row, label in enumerate(y):
        at = 2 + rng.integers(0, 4)
        X[row, :, at] = 255 * (label == 0)
        X[row, at, :] = np.maximum(X[row, at, :], 255 * (label == 1))
    return Service(SoftmaxClassifier(**QUICK).fit(X, y).model_, "strokes")


ROW = {"age": 31, "city": "oslo", "smoker": True, "seen": "2021-05-06"}
ARRAY = [31, "oslo", True, "2021-05-06"]
CSV = b"age,city,smoker,seen\n31,oslo,true,2021-05-06\n"


def expected(service: Service, row: dict) -> list[float]:
    """Return the probabilities that the model gives without the service."""
    frame = pd.DataFrame([row | {"always": None}])
    return service.model.predict_proba(frame)[0].tolist()


def png(pixels: np.ndarray) -> bytes:
    """Return pixels as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# --- rows of every form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["objects", "arrays", "columns", "csv", "tensors"])
def test_every_form_of_the_same_row_gives_the_model_s_own_probabilities(table, form):
    """JSON by name, by position, by column, CSV and tensors are one thing."""
    if form == "csv":
        answer = table.predict_csv(CSV, {})
    elif form == "tensors":
        request = {
            "inputs": [
                {"name": "age", "datatype": "FP64", "shape": [1], "data": [31]},
                {"name": "city", "datatype": "BYTES", "shape": [1, 1], "data": ["oslo"]},
                {"name": "smoker", "datatype": "BOOL", "shape": [1], "data": [True]},
                {"name": "seen", "datatype": "BYTES", "shape": [1], "data": ["2021-05-06"]},
            ]
        }
        buffers, length, n_rows = infer(table, json.dumps(request).encode())
        assert (length, n_rows) == (None, 1)
        found = {output["name"]: output["data"] for output in json.loads(buffers[0])["outputs"]}
        assert found["probabilities"] == expected(table, ROW)
        return
    else:
        request = {
            "objects": {"rows": [ROW]},
            "arrays": {"rows": [ARRAY]},
            "columns": {"columns": {name: [value] for name, value in ROW.items()}},
        }[form]
        answer = table.predict(request)
    assert answer["predictions"][0]["probabilities"] == expected(table, ROW)


def test_null_is_a_missing_value(table):
    """JSON's null, an empty cell of CSV and NaN are the same."""
    row = ROW | {"age": None, "city": None}
    answer = table.predict({"rows": [row]})
    assert answer["predictions"][0]["probabilities"] == expected(table, row)


def test_rows_keep_their_order_and_their_number(table):
    """One prediction for each row, in order."""
    rows = [ROW | {"age": age} for age in (20, 70, 45)]
    found = [one["probabilities"] for one in table.predict({"rows": rows})["predictions"]]
    # A product of three rows may round otherwise than one of a single row.
    assert found == [pytest.approx(expected(table, row), rel=1e-12) for row in rows]


def test_a_matrix_takes_arrays_of_numbers_and_its_labels_stay_numbers(matrix):
    """Rows without names; class 2 is 2, not "2"."""
    answer = matrix.predict({"rows": [[0, 0.5, 3], [None, 1.5, -1]]})
    assert [one["label"] for one in answer["predictions"]] == [2, 1]
    assert answer["classes"] == [0, 1, 2]


def test_texts(texts):
    """A model of one text column takes an array of texts."""
    answer = texts.predict({"texts": ["a great day", "awful", None]})
    assert [one["label"] for one in answer["predictions"][:2]] == ["up", "down"]
    assert texts.schema["kind"] == "text"


def test_categories_that_were_never_seen_are_counted(table):
    """They are predicted, and said."""
    assert table.predict({"rows": [ROW | {"city": "lima"}, ROW]})["unseen"] == {"city": 1}


def test_fields_that_the_model_does_not_know_are_warned_of(table):
    """An extra field changes nothing, and the answer says that it was ignored; known roles are no mistake."""
    answer = table.predict({"rows": [ROW | {"colour": SECRET, "always": 3}]})
    assert answer["warnings"] == ["fields that the model does not use are ignored: 'colour'"]
    assert SECRET not in json.dumps(answer)


def test_a_missing_column_is_named_with_what_was_meant(table):
    """A field whose name is nearly right gets a hint."""
    row = {name: value for name, value in ROW.items() if name != "smoker"} | {"Smoker": True}
    with pytest.raises(DataError, match=r"'smoker'.*did you mean"):
        table.predict({"rows": [row]})


# --- what can be asked for --------------------------------------------------------------------------------------


def test_options_add_to_the_answer(table):
    """Top classes, logits before and after calibration, and a set, each only where asked for."""
    plain = table.predict({"rows": [ROW]})["predictions"][0]
    assert set(plain) == {"label", "probability", "probabilities"}
    answer = table.predict({"rows": [ROW], "top": 1, "logits": True, "coverage": 0.8, "probabilities": False})
    one = answer["predictions"][0]
    assert one["top"] == [{"label": plain["label"], "probability": plain["probability"]}]
    assert "probabilities" not in one
    assert plain["label"] in one["set"]
    assert np.allclose(np.array(one["logits"]) * answer["temperature"], one["raw_logits"])
    shifted = np.exp(np.array(one["logits"]) - max(one["logits"]))
    assert np.allclose(shifted / shifted.sum(), plain["probabilities"])


def test_explanations_add_up(table):
    """The contributions and the baseline make the difference of two logits."""
    answer = table.predict({"rows": [ROW, ROW], "explain": {"label": "no", "versus": "<b>yes</b>"}})
    for row, one in enumerate(answer["predictions"]):
        why = one["explanation"]
        total = why["baseline_logit"] + sum(part["contribution"] for part in why["contributions"])
        assert (why["row"], why["label"], why["versus"]) == (row, "no", "<b>yes</b>")
        assert total == pytest.approx(why["logit"], abs=1e-9)


def test_pictures_are_seen_as_in_training(pictures):
    """A PNG of the model's size is taken as it is; one of another size is brought to it; base64 is the same."""
    small = np.zeros((8, 8), dtype=np.uint8)
    small[:, 3] = 255
    answer = pictures.predict_image(png(small), {"seen": True})
    assert answer["predictions"][0]["seen"] == small.tolist()
    assert answer["predictions"][0]["label"] == 0
    text = "data:image/png;base64," + base64.b64encode(png(np.kron(small, np.ones((9, 9), np.uint8)))).decode()
    answer = pictures.predict({"images": [text], "drawing": False, "seen": True})
    assert answer["predictions"][0]["seen"] == small.tolist()
    assert pictures.schema["image"]["height"] == 8


def test_the_schema_has_what_a_form_needs(table):
    """Columns that are used with kind, levels and range, an example that can be asked, classes, coverages."""
    schema = table.schema
    kinds = {column["name"]: column["kind"] for column in schema["columns"]}
    assert kinds == {"age": "number", "city": "category", "smoker": "boolean", "seen": "date"}
    assert schema["columns"][1]["levels"] == ["oslo", "paris", "rome"]
    assert schema["classes"] == ["<b>yes</b>", "no"]
    assert 0.8 in schema["sets"]["coverages"]
    assert table.predict({"rows": [schema["example"]], "coverage": schema["sets"]["highest"]})["predictions"]
    json.dumps(schema, allow_nan=False)


# --- what is refused --------------------------------------------------------------------------------------------

BAD = {
    "no-object": [1, 2],
    "nothing": {},
    "two-kinds": {"rows": [ROW], "texts": ["a"]},
    "unknown-option": {"rows": [ROW], "colour": 1},
    "top-0": {"rows": [ROW], "top": 0},
    "top-true": {"rows": [ROW], "top": True},
    "coverage-1": {"rows": [ROW], "coverage": 1},
    "coverage-text": {"rows": [ROW], "coverage": "0.9"},
    "logits-1": {"rows": [ROW], "logits": 1},
    "explain-label": {"rows": [ROW], "explain": {"label": SECRET}},
    "explain-unknown": {"rows": [ROW], "explain": {"why": 1}},
    "rows-object": {"rows": ROW},
    "rows-empty": {"rows": []},
    "rows-scalars": {"rows": [1]},
    "rows-mixed": {"rows": [ROW, ARRAY]},
    "rows-short": {"rows": [ARRAY[:-1]]},
    "columns-uneven": {"columns": {name: [1] for name in ROW} | {"age": []}},
    "columns-array": {"columns": [1]},
    "texts-of-a-table": {"texts": ["a"]},
    "images-of-a-table": {"images": ["aGk="]},
    "number-is-text": {"rows": [ROW | {"age": SECRET}]},
    "number-is-true": {"rows": [ROW | {"age": True}]},
    "number-is-huge": {"rows": [ROW | {"age": 10**400}]},
    "boolean-is-text": {"rows": [ROW | {"smoker": SECRET}]},
    "date-is-text": {"rows": [ROW | {"seen": SECRET}]},
    "cell-is-array": {"rows": [ROW | {"city": [SECRET]}]},
    "cell-is-object": {"rows": [ROW | {"city": {"a": SECRET}}]},
    "too-many-rows": {"rows": [ROW] * 10_001},
    "too-many-explained": {"rows": [ROW] * 17, "explain": True},
    "seen-without-picture": {"rows": [ROW], "seen": True},
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_an_error_that_repeats_no_value(table, name):
    """Each is refused as one of our errors, whose text holds nothing that the cells held."""
    with pytest.raises((UsageError, DataError)) as caught:
        table.predict(BAD[name])
    assert SECRET not in str(caught.value)
    assert SECRET not in json.dumps(getattr(caught.value, "errors", []))


def test_every_cell_at_fault_is_listed(table):
    """Row, column and reason of each, not only of the first."""
    rows = [ROW, ROW | {"age": "x"}, ROW | {"seen": "x", "smoker": "x"}]
    with pytest.raises(RowsError) as caught:
        table.predict({"rows": rows})
    places = {(error["row"], error["column"], error["message"]) for error in caught.value.errors}
    assert places == {
        (1, "age", "not a finite number"),
        (2, "seen", "not an ISO 8601 date or time"),
        (2, "smoker", "neither true nor false"),
    }


def test_faults_of_a_csv_text_have_their_line(table):
    """Rows count from 0, lines from the header."""
    with pytest.raises(RowsError) as caught:
        table.predict_csv(CSV + b"x,oslo,true,2021-05-06\n", {})
    assert caught.value.errors == [{"row": 1, "column": "age", "message": "not a finite number", "line": 3}]
    with pytest.raises(RowsError, match="line 3: expected 4 cells"):
        table.predict_csv(CSV + b"x,oslo\n", {})


@pytest.mark.parametrize("rows", [[[1, 2]], [[1, 2, 3, 4]], [[1, [2], 3]], ["abc"], [[1, "2", 3]], [[1, 2, 3], [1]]])
def test_a_matrix_refuses_rows_that_are_not_its_numbers(matrix, rows):
    """Too few, too many, nested, texts, ragged."""
    with pytest.raises(DataError):
        matrix.predict({"rows": rows})


@pytest.mark.parametrize("name", ["gif", "text", "cut", "large", "base64", "blank"])
def test_a_bad_picture_is_refused(pictures, name):
    """Another format, a damaged file, too many pixels, no base64, nothing drawn."""
    good = png(np.full((30, 30), 255, dtype=np.uint8))
    if name == "base64":
        with pytest.raises(RowsError):
            pictures.predict({"images": ["not base64!"]})
        return
    data = {
        "gif": b"GIF89a....",
        "text": b"<svg onload='alert(1)'>",
        "cut": good[:40],
        "large": png(np.zeros((2001, 2000), dtype=np.uint8)),
        "blank": good,
    }[name]
    with pytest.raises(RowsError):
        pictures.predict_image(data, {})


def test_answers_have_a_largest_size(table):
    """Rows x classes beyond the limit are refused, and the error says what to ask instead."""
    service = Service(table.model, "people", Limits(answer_numbers=10))
    with pytest.raises(RowsError, match="at most 5 rows"):
        service.predict({"rows": [ROW] * 6})
    assert len(service.predict({"rows": [ROW] * 6, "probabilities": False})["predictions"]) == 6


def test_work_stops_where_the_answer_is_no_longer_wanted(table):
    """``expired`` is asked between pieces of work."""
    with pytest.raises(DeadlineError):
        table.predict({"rows": [ROW]}, expired=lambda: True)


def test_sets_without_calibration_are_refused(matrix):
    """The error says how a model is prepared for them."""
    with pytest.raises(UsageError, match="calibrate --sets"):
        matrix.predict({"rows": [[1, 2, 3]], "coverage": 0.9})


# --- protocol v2 ------------------------------------------------------------------------------------------------


def binary_request(values: np.ndarray, **extra: object) -> tuple[bytes, int]:
    """Return a request whose tensor follows the JSON, and the length of the JSON."""
    raw = values.tobytes()
    datatype = {"float32": "FP32", "float64": "FP64", "int64": "INT64", "uint8": "UINT8", "float16": "FP16"}
    tensor = {
        "name": "input",
        "datatype": datatype[values.dtype.name],
        "shape": list(values.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor], **extra}).encode()
    return head + raw, len(head)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8"])
def test_binary_tensors_in_and_out(matrix, dtype):
    """Raw numbers of any datatype; the outputs come back raw, and say how long they are."""
    X = np.array([[1, 2, 3], [3, 2, 1]], dtype=dtype)
    body, length = binary_request(X, parameters={"binary_data_output": True}, id="seven")
    buffers, head, n_rows = infer(matrix, body, length)
    answer = json.loads(b"".join(buffers)[:head])
    assert (answer["id"], n_rows) == ("seven", 2)
    sizes = {output["name"]: output["parameters"]["binary_data_size"] for output in answer["outputs"]}
    proba = np.frombuffer(buffers[1], np.float64).reshape(2, 3)
    assert sizes["probabilities"] == proba.nbytes
    assert np.array_equal(proba, matrix.model.predict_proba(X.astype(np.float64)))


def test_classification_lists_the_most_probable_classes(matrix):
    """Triton's extension: value, index and label of the k best."""
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3], "data": [[0, 0, 9]]}
    outputs = [{"name": "probabilities", "parameters": {"classification": 2}}]
    buffers, _, _ = infer(matrix, json.dumps({"inputs": [tensor], "outputs": outputs}).encode())
    found = json.loads(buffers[0])["outputs"][0]
    assert found["shape"] == [1, 2]
    assert found["data"][0].split(":")[1:] == ["2", "2"]


def test_metadata_names_every_tensor(table, matrix):
    """One tensor for a matrix, one for each column of a table."""
    assert [tensor["name"] for tensor in model_metadata(matrix)["inputs"]] == ["input"]
    assert [tensor["datatype"] for tensor in model_metadata(table)["inputs"]] == ["FP64", "BYTES", "BOOL", "BYTES"]


TENSOR = {"name": "input", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
BAD_TENSORS = {
    "no-inputs": {},
    "inputs-object": {"inputs": TENSOR},
    "shape-is-not-data": {"inputs": [TENSOR | {"shape": [2, 3]}]},
    "shape-negative": {"inputs": [TENSOR | {"shape": [-1, 3]}]},
    "shape-huge": {"inputs": [TENSOR | {"shape": [2**31, 2**31]}]},
    "shape-text": {"inputs": [TENSOR | {"shape": "3"}]},
    "datatype": {"inputs": [TENSOR | {"datatype": "fp32"}]},
    "texts-for-numbers": {"inputs": [TENSOR | {"data": ["a", "b", "c"]}]},
    "bytes-for-numbers": {"inputs": [TENSOR | {"datatype": "BYTES", "data": ["a", "b", "c"]}]},
    "int-out-of-range": {"inputs": [TENSOR | {"datatype": "INT8", "data": [1, 2, 300]}]},
    "data-object": {"inputs": [TENSOR | {"data": {}}]},
    "data-mixed": {"inputs": [TENSOR | {"data": [[1], 2, 3]}]},
    "twice": {"inputs": [TENSOR, TENSOR]},
    "other-name": {"inputs": [TENSOR | {"name": "inputs"}]},
    "no-such-output": {"inputs": [TENSOR], "outputs": [{"name": "colour"}]},
    "output-twice": {"inputs": [TENSOR], "outputs": [{"name": "label"}, {"name": "label"}]},
    "classes-of-labels": {"inputs": [TENSOR], "outputs": [{"name": "label", "parameters": {"classification": 1}}]},
    "id-number": {"inputs": [TENSOR], "id": 3},
    "size-beyond-the-body": {"inputs": [TENSOR | {"parameters": {"binary_data_size": 12}}]},
    "no-rows": {"inputs": [TENSOR | {"shape": [0, 3], "data": []}]},
    "coverage": {"inputs": [TENSOR], "parameters": {"coverage": 2}},
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_a_bad_inference_request_is_refused(matrix, name):
    """Each is one of our errors, and nothing is allocated by a shape that lies."""
    with pytest.raises((UsageError, DataError)):
        infer(matrix, json.dumps(BAD_TENSORS[name]).encode())


@pytest.mark.parametrize("length", [-1, 10, 10**6, 2**40])
def test_a_header_length_that_lies_is_refused(matrix, length):
    """Beyond the body, and within its JSON."""
    with pytest.raises(UsageError):
        infer(matrix, json.dumps({"inputs": [TENSOR]}).encode(), length)


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<I", 5) + b"ab",
        struct.pack("<I", 2**32 - 1) + b"ab",
        b"\x01",
        struct.pack("<I", 1) + b"a" + b"left over",
        struct.pack("<I", 1) + b"\xff",
    ],
    ids=["too-long", "far-too-long", "no-length", "left-over", "not-utf-8"],
)
def test_texts_whose_lengths_lie_are_refused(texts, raw):
    """A length of BYTES that is beyond the tensor never reads on."""
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises((UsageError, DataError)):
        infer(texts, head + raw, len(head))


def test_all_datatypes_have_the_size_of_their_name():
    """FP32 has 32 bits, and so on."""
    assert all(name == "BOOL" or name.endswith(str(8 * dtype.itemsize)) for name, dtype in DATATYPES.items())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ROW, "x"]), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["rows", "columns", "texts", "images", "top", "logits", "explain", "coverage", "seen"]),
        JSON,
        max_size=3,
    )
)
def test_any_json_is_answered_or_refused(table, request_):
    """No request of JSON raises anything but our errors."""
    try:
        answer = table.predict(request_)
    except SoftmaxError:
        return
    json.dumps(answer, allow_nan=False)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.none() | st.integers(-2, 70), JSON)
def test_any_bytes_are_inferred_or_refused(matrix, tail, length, value):
    """No bytes raise anything but our errors."""
    for body in (tail, json.dumps({"inputs": [TENSOR | {"data": value}]}).encode() + tail):
        try:
            infer(matrix, body, length)
        except SoftmaxError:
            continue


# --- files ------------------------------------------------------------------------------------------------------


def test_a_model_file_is_verified_before_it_is_served(matrix, tmp_path, monkeypatch):
    """Golden rows that come out otherwise are an error, not a service."""
    from softmaxnet import save_model
    from softmaxnet.model import SoftmaxModel

    path = tmp_path / "numbers.safetensors"
    digest = save_model(matrix.model, path)
    opened = Service.open(path)
    assert (opened.name, opened.digest) == ("numbers", digest)
    true = SoftmaxModel.decision_function
    monkeypatch.setattr(SoftmaxModel, "decision_function", lambda self, X: true(self, X)[:, ::-1])
    with pytest.raises(ModelFileError, match="golden row"):
        Service.open(path)


def test_a_file_that_is_no_model_is_said_so(tmp_path):
    """No such file, a folder, something else."""
    (tmp_path / "x.safetensors").write_bytes(b"x" * 100)
    for path in (tmp_path / "none.safetensors", tmp_path, tmp_path / "x.safetensors"):
        with pytest.raises(ModelFileError):
            Service.open(path)


def test_serving_loads_neither_torch_nor_scikit_learn(table, tmp_path):
    """A process that opens a model and answers every kind of request stays without the libraries of training."""
    from softmaxnet import save_model

    path = tmp_path / "people.safetensors"
    save_model(table.model, path)
    assert load_model(path).n_classes == 2
    program = (
        "import sys, json\n"
        "from softmaxnet.server.app import Front\n"
        "from softmaxnet.server.settings import Settings\n"
        "from softmaxnet.service import Service\n"
        f"service = Service.open({str(path)!r}); Front(service, Settings('x'))\n"
        f"service.predict({{'rows': [{ROW!r}], 'explain': True, 'coverage': 0.8}})\n"
        f"service.predict_csv({CSV!r}, {{}})\n"
        "print(*(name for name in sys.modules if name in ('torch', 'sklearn', 'matplotlib')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == []
