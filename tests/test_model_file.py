"""Tests of softmaxnet.model_file, of its container softmaxnet.tensor_file and of softmaxnet.golden."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import softmaxnet
from softmaxnet.calibration import Calibration
from softmaxnet.errors import ModelFileError, ResourceError, SoftmaxError, UsageError
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.model import SoftmaxModel
from softmaxnet.model_file import (
    FORMAT_VERSION,
    _decode_classes,
    _encode_classes,
    inspect_model,
    load_model,
    model_bytes,
    save_model,
    verify_model,
)
from softmaxnet.network import NetworkSpec, parameter_shapes
from softmaxnet.tensor_file import _depth, strict_json

GOLDEN = Path(__file__).parent / "golden"
DOCS = Path(__file__).parent.parent / "docs"


def make_model(X: Any, classes: Any, *, features: str = "auto", dtype: str = "float32", **spec: Any) -> SoftmaxModel:
    """Return a model with random parameters for rows like X."""
    rng = np.random.default_rng(0)
    encoder = FeatureEncoder.fit(X, features=features)
    hidden = spec.pop("hidden", (6,))
    shape = NetworkSpec(encoder.n_dense, encoder.n_sparse, len(classes), hidden, **spec)
    params = {name: rng.normal(size=size).astype(dtype) for name, size in parameter_shapes(shape).items()}
    return SoftmaxModel(encoder, shape, params, Calibration("temperature", 0.8), np.asarray(classes))


def numbers(n_rows: int = 80, n_columns: int = 4) -> np.ndarray:
    """Return rows of numbers, some missing."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n_rows, n_columns))
    X[rng.random(X.shape) < 0.1] = np.nan
    return X


def table(n_rows: int = 60) -> pa.Table:
    """Return a table with a column of each kind."""
    return pa.table(
        {
            "age": [float(20 + i % 50) if i % 9 else None for i in range(n_rows)],
            "city": [("Rome", "Oslo", "Köln", None)[i % 4] for i in range(n_rows)],
            "member": [i % 3 == 0 for i in range(n_rows)],
            "since": [f"20{10 + i % 9}-0{1 + i % 9}-11" for i in range(n_rows)],
            "note": [f"the parcel {i} has not come, where is it" for i in range(n_rows)],
        }
    )


def cases() -> dict[str, tuple[Any, SoftmaxModel]]:
    """Return rows and a model for each form of input and each sort of network."""
    X = numbers()
    pixels = np.random.default_rng(2).integers(0, 256, size=(30, 64), dtype=np.uint8)
    sparse = scipy.sparse.random_array((90, 300), density=0.05, format="csr", rng=np.random.default_rng(3))
    matrix = Calibration("matrix", 1.1, np.eye(3) * 0.9, np.array([0.1, 0.0, -0.1]))
    embedding = {"n_members": 3, "n_frequencies": 4, "embedding_size": 2}
    numeric = make_model(X, [3, 5, 8])
    return {
        "numbers": (X, replace(numeric, calibration=matrix, settings={"seed": 0}, reader={"format": "csv"})),
        "float64": (X, make_model(X, ["a", "b"], dtype="float64", activation="gelu")),
        "regression": (X, make_model(X, [False, True], hidden=())),
        "raw": (np.nan_to_num(X), make_model(np.nan_to_num(X), [0.5, 1.5], features="raw", output="sigmoid")),
        "pixels": (pixels, make_model(pixels, ["é", "", 'z\n,"'], n_members=2)),
        "sparse": (sparse, make_model(sparse, np.array(["x", "y"], dtype=object))),
        "table": (table(), make_model(table(), ["no", "yes"], **embedding)),
        "sets": (X, numeric.calibrate_sets(X, np.resize([3, 5, 8], len(X)), per_class=True)),
        "many classes": (X, make_model(X, range(1500))),
    }


CASES = cases()


@pytest.fixture(scope="module")
def small() -> bytes:
    """Return a model file of about 4 KB."""
    return (GOLDEN / "matrix-v1.safetensors").read_bytes()


# taking files apart and putting them together again, with a right digest


def take_apart(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return the header, the description in it, and the bytes of the tensors."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["softmaxnet"]), data[8 + length :]


def put_together(header: Any, text: Any, data: bytes) -> bytes:
    """Return a file whose digest is right, whatever else is wrong; texts are taken as they are."""
    if not isinstance(text, str):
        text = json.dumps(text)
    if isinstance(header, dict):
        header["__metadata__"]["softmaxnet"] = text
        header = json.dumps(header)
    raw = header.encode()
    digest = re.search(r'"digest": ?\\?"([0-9a-f]{64})', text)
    blank = raw.replace(digest[1].encode(), b"0" * 64) if digest else raw
    found = hashlib.sha256(len(raw).to_bytes(8, "little") + blank + data).hexdigest().encode()
    raw = raw.replace(digest[1].encode(), found) if digest else raw
    return len(raw).to_bytes(8, "little") + raw + data


def forged(data: bytes, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> bytes:
    """Return a file whose header and description were changed, with a right digest."""
    header, text, tensors = take_apart(data)
    change(header, text)
    return put_together(header, text, tensors)


def adding(name: str, entry: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Return a change that sets one entry of the header."""
    return lambda header, _: header.update({name: entry})


def refused(data: bytes) -> str:
    """Return the message of the ModelFileError that a file gives, which may take little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError) as caught:
            load_model(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20 + 30 * len(data)
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message
    return message


# round trips


@pytest.mark.parametrize("case", CASES)
def test_round_trip_is_bit_identical(case: str) -> None:
    """A loaded model gives the same bits, has the same fields and is saved as the same bytes."""
    X, model = CASES[case]
    data = model_bytes(model)
    loaded = load_model(data, verify=True)
    np.testing.assert_array_equal(loaded.decision_function(X), model.decision_function(X))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert loaded.classes.dtype == model.classes.dtype
    assert loaded.classes.tolist() == model.classes.tolist()
    assert (loaded.spec, loaded.calibration) == (model.spec, model.calibration)
    assert (loaded.settings, loaded.reader) == (model.settings, model.reader)
    assert model_bytes(loaded) == data
    if model.conformal is not None:
        sets = zip(loaded.predict_set(X, 0.5), model.predict_set(X, 0.5), strict=True)
        assert all(a.tolist() == b.tolist() for a, b in sets)


@pytest.mark.parametrize("case", CASES)
def test_other_readers_open_it(case: str) -> None:
    """The safetensors library reads the same tensors, each aligned to its elements, and one metadata key."""
    import safetensors

    data = model_bytes(CASES[case][1])
    found = dict(safetensors.deserialize(data))
    header, _, _ = take_apart(data)
    assert set(header.pop("__metadata__")) == {"softmaxnet"}
    assert set(found) == set(header)
    start = 8 + int.from_bytes(data[:8], "little")
    sizes = {"F64": 8, "I64": 8, "F32": 4, "U32": 4, "I32": 4, "U8": 1, "BOOL": 1}
    for entry in header.values():
        assert (start + entry["data_offsets"][0]) % sizes[entry["dtype"]] == 0


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    """Two saves differ in no bit; the digest is the file's SHA-256 with its own digits as zeros."""
    _, model = CASES["table"]
    digests = [save_model(model, tmp_path / name) for name in ("a", "b")]
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes() == model_bytes(model)
    assert digests[0] == digests[1]
    assert data.count(digests[0].encode()) == 1
    assert hashlib.sha256(data.replace(digests[0].encode(), b"0" * 64)).hexdigest() == digests[0]


def test_the_description_is_canonical() -> None:
    """The JSON text has sorted keys, no white space and nothing that changes from day to day."""
    header, text, _ = take_apart(model_bytes(CASES["table"][1]))
    raw = header["__metadata__"]["softmaxnet"]
    assert raw == json.dumps(text, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert text["created_by"] == {"package": "softmaxnet", "version": softmaxnet.__version__}


def test_saves_what_a_fit_may_leave(tmp_path: Path) -> None:
    """Settings and metrics of NumPy types are saved as plain data, NaN as null, paths as text."""
    _, model = CASES["numbers"]
    values: dict[str, object] = {
        "a": (1, np.float32(0.5)),
        "b": np.nan,
        "c": np.arange(2),
        "d": Path("x"),
        "e": {1: np.True_},
    }
    loaded = load_model(model_bytes(replace(model, settings=values)))
    assert loaded.settings == {"a": [1, 0.5], "b": None, "c": [0, 1], "d": "x", "e": {"1": True}}
    with pytest.raises(UsageError, match="cannot hold a object"):
        save_model(replace(model, metrics={"x": object()}), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_never_saves_what_is_not_finite(tmp_path: Path) -> None:
    """A NaN among the parameters stops the save, and the old file stays."""
    _, model = CASES["numbers"]
    save_model(model, tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    bad = {name: np.where(array == array.max(), np.nan, array) for name, array in model.params.items()}
    with pytest.raises(SoftmaxError):
        save_model(replace(model, params=bad), tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_force(tmp_path: Path) -> None:
    """Without force a file that is there is kept."""
    _, model = CASES["numbers"]
    save_model(model, tmp_path / "m", force=False)
    with pytest.raises(UsageError, match="exists"):
        save_model(model, tmp_path / "m", force=False)
    save_model(model, tmp_path / "m")


@pytest.mark.parametrize("form", ["path", "str", "bytes", "file", "stream"])
def test_sources(tmp_path: Path, form: str) -> None:
    """A model is read from a path, from bytes, from an open file and from a stream that cannot seek."""
    X, model = CASES["numbers"]
    path = tmp_path / "m.safetensors"
    save_model(model, path)

    class Stream(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return path.read_bytes()

    with open(path, "rb") as file:
        source: Any = {
            "path": path,
            "str": str(path),
            "bytes": path.read_bytes(),
            "file": file,
            "stream": Stream(),
        }[form]
        loaded = load_model(source)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


def test_other_sources_are_refused() -> None:
    """What is neither a path nor bytes nor a file is a UsageError."""
    with pytest.raises(UsageError, match="Got int"):
        load_model(3)  # type: ignore[arg-type]


def test_loaded_arrays_are_constant() -> None:
    """Nothing of a loaded model can be written to."""
    model = load_model(model_bytes(CASES["numbers"][1]))
    for array in (*model.params.values(), model.classes):
        assert not array.flags.writeable


def test_loading_takes_the_size_of_the_file_once(tmp_path: Path) -> None:
    """The peak of memory while a file is loaded is below twice its size."""
    X = np.nan_to_num(numbers(50, 300))
    save_model(make_model(X, range(10), hidden=(3000, 1000)), tmp_path / "m")
    n_bytes = (tmp_path / "m").stat().st_size
    assert n_bytes > 10_000_000
    tracemalloc.start()
    try:
        model = load_model(tmp_path / "m")
        model.predict_proba(X[:1])
        assert tracemalloc.get_traced_memory()[1] < 1.5 * n_bytes
    finally:
        tracemalloc.stop()


# class labels


@given(st.lists(st.text(max_size=20), min_size=1, max_size=20, unique=True), st.booleans())
@settings(deadline=None)
def test_any_names_come_back(names: list[str], as_object: bool) -> None:
    """Class names of any characters come back equal, NULs and empty ones too."""
    classes = np.empty(len(names), dtype=object)
    classes[:] = names
    if not as_object and not any(name.endswith("\0") for name in names):
        classes = classes.astype(str)
    meta, tensors = _encode_classes(classes)
    found = _decode_classes(str(meta["kind"]), tensors)
    assert found.dtype == classes.dtype
    assert found.tolist() == names


def test_one_long_name_does_not_widen_all() -> None:
    """A name of 100,000 characters beside 10,000 short ones does not take 4 GB."""
    names = [str(i) for i in range(10_000)] + ["x" * 100_000]
    meta, tensors = _encode_classes(np.array(names, dtype=object))
    found = _decode_classes("str", tensors)
    assert found.dtype == object
    assert (meta["count"], found.tolist()) == (10_001, names)


@pytest.mark.parametrize("labels", [np.array([1 + 2j]), np.array([1, "a"], dtype=object), np.array([b"x"])])
def test_other_labels_are_refused(labels: np.ndarray) -> None:
    """Labels that are neither numbers nor bools nor strings cannot be saved."""
    with pytest.raises(UsageError, match="class labels"):
        _encode_classes(labels)


# golden rows


@pytest.mark.parametrize("case", CASES)
def test_verify_reports(case: str) -> None:
    """Golden rows are there for each form of input and are reproduced."""
    report = verify_model(model_bytes(CASES[case][1]))
    assert report["golden_rows"] >= 6  # type: ignore[operator]
    assert report["max_error"] == 0.0
    json.dumps(report)


def test_golden_rows_come_from_the_schema() -> None:
    """They have unknown levels, missing cells and texts, but no training text."""
    _, text, _ = take_apart(model_bytes(CASES["table"][1]))
    cells = [cell for row in text["golden"]["cells"] for cell in row]
    assert None in cells
    assert "Rome" in cells
    assert "a level that was not in training" in cells
    assert not any(cell and "parcel" in cell for cell in cells)


@pytest.mark.parametrize("case", ["numbers", "many classes"])
def test_verify_finds_another_answer(case: str) -> None:
    """A file whose weights were changed and whose digest was made right is found by its golden rows."""
    data = model_bytes(CASES[case][1])
    header, text, tensors = take_apart(data)
    begin, _ = header["layers.0.bias"]["data_offsets"]
    value = np.frombuffer(tensors[begin : begin + 4], np.float32) + np.float32(0.1)
    wrong = put_together(header, text, tensors[:begin] + value.tobytes() + tensors[begin + 4 :])
    load_model(wrong)
    for check in (verify_model, lambda data: load_model(data, verify=True)):
        with pytest.raises(ModelFileError, match="golden row"):
            check(wrong)


# inspecting


def test_inspect() -> None:
    """Inspecting says what the file is in plain data, classes shortened to 100."""
    found = inspect_model(model_bytes(CASES["table"][1]))
    assert [column["kind"] for column in found["columns"]] == [
        "number",
        "category",
        "boolean",
        "date",
        "text",
    ]  # type: ignore[union-attr, index]
    assert (found["n_classes"], found["classes"]) == (2, ["no", "yes"])
    json.dumps(found)
    found = inspect_model(model_bytes(CASES["many classes"][1]))
    assert len(found["classes"]) == 100  # type: ignore[arg-type]
    assert found["layers"] == [8, 6, 1500]


def test_inspect_reads_no_weights() -> None:
    """A damaged weight does not stop inspecting."""
    header, text, tensors = take_apart(model_bytes(CASES["numbers"][1]))
    begin, end = header["layers.0.weight"]["data_offsets"]
    broken = tensors[:begin] + b"\xff" * (end - begin) + tensors[end:]
    assert inspect_model(put_together(header, text, broken))["n_classes"] == 3


# damage


def test_every_flip_in_the_header_is_found(small: bytes) -> None:
    """No bit of the length and the header can change unnoticed: each byte flipped in each of two ways."""
    length = 8 + int.from_bytes(small[:8], "little")
    for place in range(length):
        for mask in (1 << place % 8, 0xFF):
            broken = bytearray(small)
            broken[place] ^= mask
            with pytest.raises(ModelFileError):
                load_model(bytes(broken))


def test_flips_in_the_body_are_found(small: bytes) -> None:
    """2,000 single bits flipped at random in the tensors are each found."""
    length = 8 + int.from_bytes(small[:8], "little")
    rng = np.random.default_rng(4)
    for place, bit in zip(rng.integers(length, len(small), 2000), rng.integers(0, 8, 2000), strict=True):
        broken = bytearray(small)
        broken[place] ^= 1 << bit
        with pytest.raises(ModelFileError):
            load_model(bytes(broken))


def test_every_truncation_is_found(small: bytes) -> None:
    """A file cut at any per cent of its length, or with anything behind it, is refused."""
    for percent in range(100):
        with pytest.raises(ModelFileError):
            load_model(small[: len(small) * percent // 100])
    for tail in (b"\0", b"\0" * 8, small):
        with pytest.raises(ModelFileError):
            load_model(small + tail)


def test_messages_of_damage(small: bytes) -> None:
    """A cut file and a flipped bit are named as what they are."""
    assert "cut short" in refused(small[:1000])
    flipped = bytearray(small)
    flipped[-1] ^= 1
    assert "damaged: its SHA-256" in refused(bytes(flipped))
    assert "the tensors have" in refused(small[:-1])


# foreign files


def foreign_files() -> dict[str, tuple[bytes, str]]:
    """Return files that are taken for models, and what their message names."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    array = io.BytesIO()
    np.save(array, np.arange(3))
    return {
        **{
            f"pickle {p}": (pickle.dumps({"model": [1.5] * 9}, protocol=p), "a pickle (never opened)") for p in range(6)
        },
        "zip": (zipped.getvalue(), "a zip archive"),
        "gzip": (b"\x1f\x8b\x08" + bytes(40), "a compressed file"),
        "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file"),
        "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(40), "an ONNX model"),
        "npy": (array.getvalue(), "a NumPy array"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        "csv": (b"age,city\n31,Rome\n" * 9, "a text file"),
        "json": (b'{"model": "softmax", "weights": [1, 2, 3]}', "JSON text"),
        "html": (b"<!doctype html><title>404</title> not found", "HTML or XML text"),
        "empty": (b"", "the file is empty"),
        "zeros": (bytes(500), "its first bytes are not"),
        "three bytes": (b"\x01\x02\x03", "its first bytes are not"),
    }


@pytest.mark.parametrize("name", foreign_files())
def test_foreign_files_are_named(tmp_path: Path, name: str) -> None:
    """A file of another format is named by its first bytes, with its path, whatever its name ends in."""
    data, what = foreign_files()[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    for reader in (load_model, verify_model, inspect_model):
        with pytest.raises(ModelFileError) as caught:
            reader(path)
        assert str(caught.value).startswith(f"{path}: not a softmaxnet model: ")
        assert what in str(caught.value)
        assert caught.value.exit_code == 4


def test_other_safetensors_are_named() -> None:
    """A safetensors file of another program is named as that."""
    from safetensors.numpy import save

    assert "another program" in refused(save({"w": np.zeros(3)}))
    assert "another program" in refused(save({"w": np.zeros(3)}, {"format": "pt"}))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    """No such file, a folder and an impossible name are bad model files: exit code 4."""
    for path in (tmp_path / "none", tmp_path, "a\0b"):
        with pytest.raises(ModelFileError) as caught:
            load_model(path)
        assert caught.value.exit_code == 4
        assert str(path) in str(caught.value)
    with pytest.raises(ModelFileError, match="no such file"):
        load_model(tmp_path / "none")
    with pytest.raises(ModelFileError, match="a folder"):
        load_model(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A named pipe is refused without being opened."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        load_model(tmp_path / "pipe")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_permission(tmp_path: Path) -> None:
    """A file without read permission gives a ResourceError."""
    path = tmp_path / "m"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(ResourceError, match="cannot be read"):
        load_model(path)


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    """Pickles under a model's name are refused without one call of the unpickler; seen by an audit hook."""
    for protocol in range(6):
        (tmp_path / f"{protocol}.safetensors").write_bytes(pickle.dumps(Path("x"), protocol=protocol))
    program = """
import sys
from pathlib import Path
from softmaxnet.errors import ModelFileError
from softmaxnet.model_file import inspect_model, load_model, verify_model
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith("pickle") else None)
for path in sorted(Path(sys.argv[1]).iterdir()):
    for reader in (load_model, verify_model, inspect_model):
        try:
            reader(path)
        except ModelFileError as error:
            assert "a pickle (never opened)" in str(error), error
        else:
            raise SystemExit("was opened")
print(seen)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_loading_imports_no_engine(tmp_path: Path) -> None:
    """Load, verify, predict and inspect work where torch and scikit-learn cannot be imported."""
    save_model(CASES["numbers"][1], tmp_path / "m.safetensors")
    program = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "sklearn", "pandas", "matplotlib"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import numpy as np
from softmaxnet.model_file import inspect_model, load_model, verify_model
model = load_model(sys.argv[1], verify=True)
print(model.predict_proba(np.zeros((2, 4))).shape, verify_model(sys.argv[1])["golden_rows"])
inspect_model(sys.argv[1])
print(sorted({"torch", "sklearn"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", program, tmp_path / "m.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["(2, 3) 8", "[]"], done.stderr


# hostile files


def test_hostile_lengths(small: bytes) -> None:
    """Header lengths beyond the file, beyond the cap or beyond any memory are refused at once."""
    for length in (0, 1, len(small), 2**31, 2**40, 2**63, 2**64 - 1):
        assert refused(length.to_bytes(8, "little") + small[8:])
    long = b"{" + b" " * (17 * 2**20)
    assert "at most 16,777,216" in refused(len(long).to_bytes(8, "little") + long)


HOSTILE_TENSORS: dict[str, Any] = {
    "overflow": {"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 0]},
    "large": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
    "negative size": {"dtype": "F32", "shape": [-1, -4], "data_offsets": [0, 16]},
    "negative place": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]},
    "reversed": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]},
    "three offsets": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16, 32]},
    "float sizes": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]},
    "truth values": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
    "text": {"dtype": "F32", "shape": "4", "data_offsets": [0, 16]},
    "unknown dtype": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]},
    "dtype no text": {"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]},
    "other key": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], "code": "x"},
    "no shape": {"dtype": "F32", "data_offsets": [0, 16]},
    "many dimensions": {"dtype": "F32", "shape": [1] * 99, "data_offsets": [0, 4]},
    "null": None,
    "list": [],
}


@pytest.mark.parametrize("name", HOSTILE_TENSORS)
def test_hostile_tensors(small: bytes, name: str) -> None:
    """A tensor whose type, shape or place is impossible is refused, in place of one and beside the others."""
    for replaced in ("layers.0.weight", "one more"):
        assert refused(forged(small, adding(replaced, HOSTILE_TENSORS[name])))


def test_tensor_set_is_exact(small: bytes) -> None:
    """A missing tensor, one too many, one of another dtype or shape, each is named."""

    def rename(old: str, new: str) -> bytes:
        return forged(small, lambda header, _: header.update({new: header.pop(old)}))

    assert "'layers.0.bias' is missing" in refused(rename("layers.0.bias", "layers.0.bia"))
    assert "classes.values" in refused(rename("classes.values", "x"))
    for name in ("conformal.scores", "golden.log_proba", "features.number.take"):
        assert refused(rename(name, "x"))
    for name in ("more", "features.more", "layers.9.weight", "classes.offsets"):
        extra = {"dtype": "U8", "shape": [0], "data_offsets": [len(take_apart(small)[2])] * 2}
        assert "does not explain" in refused(forged(small, adding(name, extra)))


def test_holes_and_overlaps(small: bytes) -> None:
    """Tensors have to fill the data exactly, one after the other."""

    def move(header: dict[str, Any], _: dict[str, Any]) -> None:
        other = header["layers.0.bias"]["data_offsets"]
        entry = header["layers.1.weight"]
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        entry["data_offsets"] = [other[0], other[0] + size]

    assert "expected" in refused(forged(small, move))
    header, text, data = take_apart(small)
    assert "follow the header" in refused(put_together(header, text, data + bytes(8)))


HOSTILE_DESCRIPTIONS: dict[str, Any] = {
    "classes beyond": ("classes", {"kind": "int", "count": 10**9}),
    "classes of no kind": ("classes", {"kind": "pickle", "count": 3}),
    "kind no text": ("classes", {"kind": ["int"], "count": 3}),
    "count no number": ("classes", {"kind": "int", "count": 3.0}),
    "network empty": ("network", {}),
    "calibration null": ("calibration", None),
    "calibration zero": ("calibration", {"method": "temperature", "inverse_temperature": 0}),
    "conformal odd": ("conformal", {"method": "lac"}),
    "golden odd": ("golden", {"form": "table", "cells": []}),
    "golden null": ("golden", None),
    "features empty": ("features", {}),
    "features list": ("features", []),
    "digest short": ("digest", "abc"),
    "digest number": ("digest", 5),
    "format": ("format", "keras"),
    "version text": ("format_version", "1"),
    "version zero": ("format_version", 0),
    "version true": ("format_version", True),
    "another key": ("__class__", "os.system"),
    "metrics list": ("metrics", []),
}


@pytest.mark.parametrize("name", HOSTILE_DESCRIPTIONS)
def test_hostile_descriptions(small: bytes, name: str) -> None:
    """A description with an odd value anywhere is refused."""
    key, value = HOSTILE_DESCRIPTIONS[name]
    assert refused(forged(small, lambda _, text: text.update({key: value})))
    if key in take_apart(small)[1]:
        assert refused(forged(small, lambda _, text: text.pop(key)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_classes", 10**9),
        ("n_classes", 0),
        ("n_dense", -1),
        ("n_dense", 2**62),
        ("n_sparse", 7),
        ("n_members", 0),
        ("n_members", 2**31 - 1),
        ("hidden_layer_sizes", [6]),
        ("hidden_layer_sizes", [0]),
        ("hidden_layer_sizes", [5] * 10_000),
        ("hidden_layer_sizes", "65"),
        ("activation", "eval"),
        ("activation", ["relu"]),
        ("output", "linear"),
        ("output", []),
        ("n_frequencies", 3),
        ("embedding_size", True),
    ],
)
def test_hostile_networks(small: bytes, key: str, value: Any) -> None:
    """A network whose sizes do not fit the tensors is refused before anything of its size exists."""
    assert refused(forged(small, lambda _, text: text["network"].update({key: value})))


def test_values_are_checked(small: bytes) -> None:
    """Weights that are not finite and labels that do not ascend are refused, with a right digest."""
    header, text, data = take_apart(small)

    def with_values(name: str, values: np.ndarray) -> bytes:
        begin, end = header[name]["data_offsets"]
        raw = values.tobytes()
        assert len(raw) == end - begin
        return put_together(header, text, data[:begin] + raw + data[end:])

    shape = header["layers.0.bias"]["shape"]
    for value in (np.nan, np.inf, -np.inf):
        weights = np.zeros(shape, np.float32)
        weights[-1, -1] = value
        assert "not finite" in refused(with_values("layers.0.bias", weights))
    assert "not ascending" in refused(with_values("classes.values", np.array([0, 7, 7])))


@pytest.mark.parametrize(
    "offsets", [[0, 4, 1, 6], [1, 2, 3, 6], [0, 1, 2, 5], [0, -(2**63), 2, 6], [0, 1, 2**62, 6], [0, 3, 3, 6]]
)
def test_offsets_are_checked(offsets: list[int]) -> None:
    """Offsets of class names have to ascend from 0 to the end, and names have to differ and to be UTF-8."""
    data = model_bytes(make_model(numbers(), ["aé", "b", "cd"]))
    header, text, tensors = take_apart(data)
    begin, end = header["classes.offsets"]["data_offsets"]
    wrong = tensors[:begin] + np.array(offsets, dtype=np.int64).tobytes() + tensors[end:]
    if offsets == [0, 3, 3, 6]:  # "", where no other name is empty: nothing wrong with it
        assert load_model(put_together(header, text, wrong)).classes.tolist() == ["aé", "", "bcd"]
    else:
        assert refused(put_together(header, text, wrong))
    begin, end = header["classes.bytes"]["data_offsets"]
    assert "UTF-8" in refused(put_together(header, text, tensors[:begin] + b"\xff" * 6 + tensors[end:]))


def test_hostile_json(small: bytes) -> None:
    """Duplicate keys, NaN, huge numbers, deep nesting and broken UTF-8 are refused."""
    header, text, data = take_apart(small)
    inner = json.dumps(text)
    for odd in (
        inner[:-1] + ', "digest": "0"}',
        inner.replace('"metrics": {', '"metrics": {"x": 1, "x": 2, '),
        inner.replace('"metrics": {', '"metrics": {"x": NaN, '),
        inner.replace('"metrics": {', '"metrics": {"x": 1e999, '),
        inner.replace('"metrics": {', '"metrics": {"x": ' + "9" * 5000 + ", "),
        inner.replace('"metrics": {', '"metrics": {"x": ' + "[" * 40 + "]" * 40 + ", "),
        inner.replace('"metrics": {', '"metrics": {"x": ' + "[" * 100_000 + "]" * 100_000 + ", "),
        inner.replace('"metrics": {', '"metrics": {"x": "\\ud800", '),
        inner[:-1],
        "[]",
        "null",
        "",
    ):
        assert refused(put_together(header, odd, data))
    outer = json.dumps(header)
    for odd in (
        outer[:-1] + ', "layers.0.bias": {}}',
        outer[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "{" + '"a":{' * 100_000 + "}" * 100_001,
        outer.replace('{"softmaxnet"', '{"other": "x", "softmaxnet"'),
        outer.replace('"shape"', '"shape": [1], "shape"', 1),
    ):
        assert refused(put_together(odd, inner, data))
    raw = outer.encode().replace(b"layers.0.bias", b"layers.0.\xff\xfeas")
    assert "UTF-8" in refused(len(raw).to_bytes(8, "little") + raw + data) or "JSON" in refused(raw)


def test_too_many_tensors(small: bytes) -> None:
    """A header of 100,000 tensors is refused before it is parsed."""

    def add(header: dict[str, Any], _: dict[str, Any]) -> None:
        entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
        header.update({f"t{i}": entry for i in range(100_000)})

    assert "more than 4096" in refused(forged(small, add))


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_are_refused(data: bytes) -> None:
    """Bytes of any content give a ModelFileError and nothing else."""
    for candidate in (
        data,
        len(data).to_bytes(8, "little") + data,
        (len(data) + 1).to_bytes(8, "little") + b"{" + data,
    ):
        with pytest.raises(ModelFileError):
            load_model(candidate)


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_change_of_the_description_is_a_model_or_refused(data: st.DataObject) -> None:
    """A value replaced anywhere, with a right digest, gives a model or a ModelFileError."""
    source = (GOLDEN / data.draw(st.sampled_from(["matrix-v1.safetensors", "table-v1.safetensors"]))).read_bytes()
    header, text, tensors = take_apart(source)
    value = data.draw(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**65), 2**65),
            st.floats(),
            st.text(max_size=5),
            st.just([]),
            st.just({}),
        )
    )
    node: Any = data.draw(st.sampled_from([header, text]))
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    if key in ("__metadata__", "digest"):
        return
    node[key] = value
    try:
        model = load_model(put_together(header, text, tensors))
    except ModelFileError:
        return
    assert model.n_classes in (2, 3)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
        max_leaves=20,
    )
)
@settings(deadline=None)
def test_strict_json_reads_json(value: Any) -> None:
    """Everything that JSON can say is read as json.loads reads it."""
    raw = json.dumps(value, ensure_ascii=False).encode("utf-8")
    assert strict_json(raw, "it") == json.loads(raw)


JSON_TEXT = st.text(st.sampled_from('\\"[]{}a'), max_size=6)


def depth_of(value: Any) -> int:
    """Return how deep a value is nested, by recursion."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)


@given(st.recursive(JSON_TEXT, lambda s: st.lists(s) | st.dictionaries(JSON_TEXT, s), max_leaves=20))
@settings(deadline=None)
def test_depth_is_counted_without_parsing(value: Any) -> None:
    """Quotes, backslashes and brackets inside of strings do not mislead the count of the depth."""
    assert _depth(json.dumps(value).encode()) == depth_of(value)
    assert _depth(json.dumps(json.dumps(value)).encode()) == 0


@pytest.mark.parametrize("unit", [b'\\"x', b'"', b"\\", b"[", b'{"a":'])
def test_depth_takes_one_pass(unit: bytes) -> None:
    """Ten million bytes of any trick, in and out of a string, are counted with little memory."""
    for raw in (unit * (10**7 // len(unit)), b'{"' + unit * (10**7 // len(unit))):
        tracemalloc.start()
        try:
            _depth(raw)
            assert tracemalloc.get_traced_memory()[1] < 5 * 10**7
        finally:
            tracemalloc.stop()


# versions


def test_newer_version(small: bytes) -> None:
    """A file of a newer format says who wrote it, which format it has and what to do."""

    def newer(header: dict[str, Any], text: dict[str, Any]) -> None:
        text.update({"format_version": 999, "created_by": {"package": "softmaxnet", "version": "9.1"}, "new": [1]})

    expected = f"written by softmaxnet 9.1, format 999; this version reads up to {FORMAT_VERSION}: upgrade"
    assert refused(forged(small, newer)) == expected


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
@pytest.mark.parametrize("name", ["matrix", "table"])
def test_files_of_every_version_give_what_they_gave(version: int, name: str) -> None:
    """A golden file of each format version loads, verifies and gives its probabilities to 1e-6."""
    path = GOLDEN / f"{name}-v{version}.safetensors"
    assert path.stat().st_size < 50_000
    expected = json.loads((GOLDEN / f"expected-v{version}.json").read_text(encoding="utf-8"))[name]
    model = load_model(path, verify=True)
    X = np.array(expected["X"], dtype=np.float64) if name == "matrix" else expected["X"]
    assert model.classes.tolist() == expected["classes"]
    np.testing.assert_allclose(model.predict_proba(X), expected["proba"], rtol=0, atol=1e-6)


def test_the_current_version_is_written_as_before() -> None:
    """What this version writes has the description and the tensors of the committed golden file."""
    for name in ("matrix", "table"):
        data = (GOLDEN / f"{name}-v{FORMAT_VERSION}.safetensors").read_bytes()
        before, after = take_apart(data), take_apart(model_bytes(load_model(data)))
        for text in (before[1], after[1]):
            text.pop("digest")
            text.pop("created_by")
        assert before[1] == after[1]
        assert {k: v for k, v in before[0].items() if k[0] != "_"} == {k: v for k, v in after[0].items() if k[0] != "_"}


# documentation


def test_the_reader_in_the_documentation() -> None:
    """The short reader printed in docs/model-file.md gives the probabilities of the package."""
    text = (DOCS / "model-file.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(blocks[0], names)
    for case in ("numbers", "float64", "regression", "raw", "sets", "many classes"):
        X, model = CASES[case]
        found, classes = names["predict_proba"](names["read"](model_bytes(model)), X)
        np.testing.assert_allclose(found, model.predict_proba(X), rtol=0, atol=1e-9)
        assert classes == model.classes.tolist()
    X = np.array(json.loads((GOLDEN / "expected-v1.json").read_text())["matrix"]["X"], dtype=float)
    data = (GOLDEN / "matrix-v1.safetensors").read_bytes()
    found, _ = names["predict_proba"](names["read"](data), X)
    np.testing.assert_allclose(found, load_model(data).predict_proba(X), rtol=0, atol=1e-9)


def test_the_documentation_names_everything(small: bytes) -> None:
    """Every key of the description and every tensor outside of the features is in docs/model-file.md."""
    text = (DOCS / "model-file.md").read_text(encoding="utf-8")
    for data in (small, *(model_bytes(model) for _, model in CASES.values())):
        header, description, _ = take_apart(data)
        names = [*description, *description["network"], *description["golden"], *description["classes"]]
        names += [name for name in header if not name.startswith(("features.", "__", "layers."))]
        assert not [name for name in names if f"`{name}`" not in text]
