"""The Open Inference Protocol, version 2, with its binary tensor extension: bytes -> bytes, without sockets.

A request is JSON, or JSON followed by the raw bytes of its tensors; the header ``Inference-Header-Content-Length``
then says where the JSON ends. A matrix model has one tensor ``input`` of shape [rows, columns]; a table has a tensor
for each column, of shape [rows] or [rows, 1]. Raw numbers are little-endian, row by row; a text is its length in four
bytes and its UTF-8.

Source: github.com/kserve/open-inference-protocol, and Triton's extensions "binary tensor data" and "classification".
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxnet.errors import ModelFileError, UsageError
from softmaxnet.request_rows import InputRows, RowsError
from softmaxnet.service import Answers, Service, _never
from softmaxnet.tensor_file import strict_json

__all__ = ["DATATYPES", "infer", "model_metadata", "server_metadata"]

DATATYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
"""The datatypes of the protocol that have a size, beside BYTES."""
COLUMN_DATATYPES = {"number": "FP64", "boolean": "BOOL"}
INPUT = "input"
VERSION = "1"
EXTENSIONS = ["binary_tensor_data", "classification"]
DEFAULT_COVERAGE = 0.9


@dataclass(frozen=True)
class Wanted:
    """An output that a request asks for."""

    name: str
    binary: bool
    classes: int = 0


# --- what there is --------------------------------------------------------------------------------------------


def server_metadata() -> dict[str, object]:
    """Return the answer to ``GET /v2``."""
    import softmaxnet

    return {"name": "softmaxnet", "version": softmaxnet.__version__, "extensions": EXTENSIONS}


def model_metadata(service: Service) -> dict[str, object]:
    """Return the answer to ``GET /v2/models/NAME``: the tensors that the model takes and gives."""
    model = service.model
    if service.rows.is_table:
        inputs = [
            {"name": name, "datatype": COLUMN_DATATYPES.get(kind, "BYTES"), "shape": [-1]}
            for name, kind in service.rows.kinds.items()
        ]
    else:
        datatype = "UINT8" if type(model.encoder.parts).__name__ == "PixelMatrix" else "FP32"
        inputs = [{"name": INPUT, "datatype": datatype, "shape": [-1, model.n_features_in]}]
    outputs = [
        {"name": "probabilities", "datatype": "FP64", "shape": [-1, model.n_classes]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "label_index", "datatype": "INT64", "shape": [-1]},
    ]
    if model.conformal is not None:
        outputs.append({"name": "prediction_set", "datatype": "BYTES", "shape": [-1]})
    return {
        "name": service.name,
        "versions": [VERSION],
        "platform": "softmaxnet",
        "inputs": inputs,
        "outputs": outputs,
    }


# --- inference ------------------------------------------------------------------------------------------------


def infer(
    service: Service, body: bytes, header_length: int | None = None, expired: Callable[[], bool] = _never
) -> tuple[list[bytes], int | None, int]:
    """Answer an inference request.

    Parameters
    ----------
    service : Service
    body : bytes
    header_length : int, optional
        The value of ``Inference-Header-Content-Length``: the bytes of JSON at the beginning; all of them by default.
    expired : function
        As of :meth:`Service.predict`.

    Returns
    -------
    buffers : list of bytes
        The answer, to be sent one after the other.
    header_length : int or None
        The bytes of JSON at its beginning where tensors follow.
    n_rows : int

    Raises
    ------
    UsageError
        For a request that is not well formed.
    DataError
        For rows that the model cannot take.

    Examples
    --------
    >>> from softmaxnet.calibration import Calibration
    >>> from softmaxnet.features.encoder import FeatureEncoder
    >>> from softmaxnet.model import SoftmaxModel
    >>> from softmaxnet.network import NetworkSpec
    >>> encoder = FeatureEncoder.fit(np.eye(3), features="raw")
    >>> params = {"layers.0.weight": np.eye(3)[None], "layers.0.bias": np.zeros((1, 3))}
    >>> model = SoftmaxModel(encoder, NetworkSpec(3, 0, 3), params, Calibration(), np.array(["cat", "cow", "dog"]))
    >>> tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3], "data": [1.6, 3.1, 0.5]}
    >>> request = {"inputs": [tensor], "outputs": [{"name": "label"}]}
    >>> buffers, _, _ = infer(Service(model, "animals"), json.dumps(request).encode())
    >>> json.loads(b"".join(buffers))["outputs"]
    [{'name': 'label', 'datatype': 'BYTES', 'shape': [1], 'data': ['cow']}]
    """
    request, rest = _parts(body, header_length)
    parameters = _parameters(request.get("parameters"))
    rows = _rows(service, _tensors(request.get("inputs"), rest))
    wanted = _wanted(service, request.get("outputs"), parameters)
    everything = any(one.name in ("probabilities", "prediction_set") for one in wanted)
    found = service.compute(rows, everything=everything, expired=expired)
    outputs: list[dict[str, object]] = []
    buffers: list[bytes] = []
    for one in wanted:
        datatype, values = _output(service, found, one, parameters)
        outputs.append(_described(one, datatype, values, buffers))
    answer: dict[str, object] = {"model_name": service.name, "model_version": VERSION, "outputs": outputs}
    if "id" in request:
        answer["id"] = request["id"]
    head = json.dumps(answer, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    return [head, *buffers], len(head) if buffers else None, rows.n_rows


def _parts(body: bytes, header_length: int | None) -> tuple[dict[str, Any], memoryview]:
    """Return the JSON of a request and the bytes behind it."""
    if header_length is None:
        header_length = len(body)
    if not 0 <= header_length <= len(body):
        raise UsageError(f"Inference-Header-Content-Length is {header_length}; the body has {len(body)} bytes")
    try:
        request = strict_json(body[:header_length], "the request")
    except ModelFileError as error:
        raise UsageError(error.message) from None
    if not isinstance(request, dict):
        raise UsageError("a request must be an object with 'inputs'")
    if not isinstance(request.get("id", ""), str):
        raise UsageError("'id' must be a text")
    return request, memoryview(body)[header_length:]


def _parameters(told: object) -> Mapping[str, object]:
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise UsageError("'parameters' must be an object")
    coverage = told.get("coverage", DEFAULT_COVERAGE)
    if type(coverage) not in (int, float) or not 0 < coverage < 1:
        raise UsageError("the parameter 'coverage' must be a number in (0, 1)")
    if type(told.get("binary_data_output", False)) is not bool:
        raise UsageError("the parameter 'binary_data_output' must be true or false")
    return told


# --- inputs ---------------------------------------------------------------------------------------------------


def _tensors(given: object, rest: memoryview) -> dict[str, NDArray[Any]]:
    """Return the input tensors by name; of BYTES they hold str and None."""
    if not isinstance(given, list) or not given or not all(isinstance(tensor, dict) for tensor in given):
        raise UsageError("'inputs' must be an array of tensors")
    tensors: dict[str, NDArray[Any]] = {}
    place = 0
    for tensor in given:
        name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
        if not isinstance(name, str) or name in tensors:
            raise UsageError("every tensor must have a 'name' of its own")
        if not isinstance(datatype, str) or (datatype != "BYTES" and datatype not in DATATYPES):
            raise UsageError(f"tensor {name[:40]!r}: 'datatype' must be one of BYTES, {', '.join(DATATYPES)}")
        if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 2**31 for size in shape):
            raise UsageError(f"tensor {name[:40]!r}: 'shape' must be an array of sizes")
        parameters = tensor.get("parameters") or {}
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        n = math.prod(shape)
        if size is None:
            tensors[name] = _from_json(tensor.get("data"), datatype, n, name).reshape(shape)
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - place or "data" in tensor:
            raise UsageError(f"tensor {name[:40]!r}: 'binary_data_size' does not fit the bytes behind the JSON")
        tensors[name] = _from_bytes(rest[place : place + size], datatype, n, name).reshape(shape)
        place += size
    if place != len(rest):
        raise UsageError(f"{len(rest) - place} bytes behind the JSON belong to no tensor")
    return tensors


def _from_bytes(data: memoryview, datatype: str, n: int, name: str) -> NDArray[Any]:
    """Return n numbers or texts of the binary extension."""
    if datatype != "BYTES":
        dtype = DATATYPES[datatype]
        if len(data) != n * dtype.itemsize:
            raise UsageError(
                f"tensor {name[:40]!r}: {len(data)} bytes; its shape and datatype make {n * dtype.itemsize}"
            )
        if datatype == "BOOL":
            return np.asarray(np.frombuffer(data, np.uint8) != 0)
        numbers: NDArray[Any] = np.frombuffer(data, dtype)
        return numbers
    if n > len(data) // 4:
        raise UsageError(f"tensor {name[:40]!r}: {len(data)} bytes are too few for {n} texts")
    texts = np.empty(n, dtype=object)
    place = 0
    for index in range(n):
        begin = place + 4
        end = begin + (struct.unpack_from("<I", data, place)[0] if begin <= len(data) else len(data))
        if end > len(data):
            raise UsageError(f"tensor {name[:40]!r}: the length of text {index} is beyond its bytes")
        try:
            texts[index] = str(data[begin:end], "utf-8")
        except UnicodeDecodeError:
            raise RowsError(f"tensor {name[:40]!r}: text {index} is not UTF-8", []) from None
        place = end
    if place != len(data):
        raise UsageError(f"tensor {name[:40]!r}: {len(data) - place} bytes are left over")
    return texts


def _from_json(data: object, datatype: str, n: int, name: str) -> NDArray[Any]:
    """Return n values of JSON; null is a missing value of BYTES and of floats."""
    if not isinstance(data, list):
        raise UsageError(f"tensor {name[:40]!r}: 'data' must be an array")
    flat = _flat(data)
    if len(flat) != n:
        raise UsageError(f"tensor {name[:40]!r}: {len(flat)} values; its shape makes {n}")
    accepted: set[type] = {bool} if datatype == "BOOL" else {str} if datatype == "BYTES" else {int}
    if datatype.startswith("FP"):
        accepted.add(float)
    if datatype in ("BYTES", "FP16", "FP32", "FP64"):
        accepted.add(type(None))
    found = set(map(type, flat))
    if not found <= accepted:
        raise UsageError(f"tensor {name[:40]!r}: a value is not of the datatype {datatype}")
    if datatype == "BYTES":
        texts = np.empty(n, dtype=object)
        texts[:] = flat
        return texts
    try:  # in float64, so that decimal fractions keep the digits that they were written with
        return np.array(flat, dtype=np.float64 if datatype.startswith("FP") else DATATYPES[datatype])
    except (OverflowError, ValueError):
        raise UsageError(f"tensor {name[:40]!r}: a value is out of the range of {datatype}") from None


def _flat(data: list[Any]) -> list[Any]:
    """Return nested arrays as one."""
    while data and isinstance(data[0], list):
        if not all(isinstance(part, list) for part in data):
            raise UsageError("'data' mixes values and arrays")
        data = [value for part in data for value in part]
    return data


def _rows(service: Service, tensors: dict[str, NDArray[Any]]) -> InputRows:
    """Return the rows that the tensors hold."""
    reader = service.rows
    if not reader.is_table or (list(tensors) == [INPUT] and INPUT not in reader.kinds):
        return _matrix(service, tensors)
    n_rows: int | None = None
    columns: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if tensor.ndim not in (1, 2) or (tensor.ndim == 2 and tensor.shape[1] != 1):
            raise RowsError(f"tensor {name[:40]!r} has the shape {list(tensor.shape)}; a column is [rows]", [])
        if n_rows not in (None, tensor.shape[0]):
            raise RowsError("the tensors have different numbers of rows", [])
        n_rows = tensor.shape[0]
        columns[name] = tensor.reshape(-1)
    return reader.from_arrays(columns, n_rows or 0)


def _matrix(service: Service, tensors: dict[str, NDArray[Any]]) -> InputRows:
    reader = service.rows
    if list(tensors) != [INPUT]:
        raise RowsError(f"the model takes one tensor, {INPUT!r}; see GET /v2/models/{service.name}", [])
    X = tensors[INPUT]
    if X.dtype == object:
        raise RowsError(f"the tensor {INPUT!r} holds texts; the model takes numbers", [])
    return reader.from_matrix(X)


# --- outputs --------------------------------------------------------------------------------------------------


def _wanted(service: Service, given: object, parameters: Mapping[str, object]) -> list[Wanted]:
    """Return the outputs that a request asks for; all by default."""
    names = ["probabilities", "label", "label_index"]
    names += ["prediction_set"] if service.model.conformal is not None else []
    binary = parameters.get("binary_data_output") is True
    if given is None or given == []:
        return [Wanted(name, binary) for name in names]
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise UsageError("'outputs' must be an array of objects with a 'name'")
    wanted = []
    for one in given:
        name, told = one.get("name"), one.get("parameters") or {}
        if name not in names:
            raise UsageError(f"there is no such output; there are {', '.join(names)}")
        if not isinstance(told, dict) or type(told.get("binary_data", binary)) is not bool:
            raise UsageError("the parameter 'binary_data' of an output must be true or false")
        classes = told.get("classification", 0)
        if type(classes) is not int or classes < 0 or (classes and name != "probabilities"):
            raise UsageError("'classification' is a number of classes, for the output 'probabilities'")
        wanted.append(Wanted(name, told.get("binary_data", binary), classes))
    if len({one.name for one in wanted}) != len(wanted):
        raise UsageError("an output is asked for twice")
    return wanted


def _output(
    service: Service, found: Answers, one: Wanted, parameters: Mapping[str, object]
) -> tuple[str, NDArray[Any]]:
    """Return the datatype and the values of an output."""
    if one.name == "label_index":
        return "INT64", found.winners.astype(np.int64)
    if one.name == "label":
        labels = service.labels
        return "BYTES", _texts([_label_text(labels[winner]) for winner in found.winners.tolist()])
    assert found.proba is not None
    if one.name == "prediction_set":
        coverage: Any = parameters.get("coverage", DEFAULT_COVERAGE)
        sets = service.sets(found.proba, float(coverage))
        return "BYTES", _texts([json.dumps(labels, ensure_ascii=False) for labels in sets])
    if not one.classes:
        return "FP64", found.proba
    assert found.logits is not None
    order = np.argsort(-found.logits, axis=1, kind="stable")[:, : one.classes]
    texts = [
        [f"{chances[j]:.6f}:{j}:{_label_text(service.labels[j])}" for j in places]
        for chances, places in zip(found.proba.tolist(), order.tolist(), strict=True)
    ]
    return "BYTES", _texts([text for row in texts for text in row]).reshape(order.shape)


def _described(one: Wanted, datatype: str, values: NDArray[Any], buffers: list[bytes]) -> dict[str, object]:
    """Return an output as JSON has it; its values follow there or in a buffer."""
    about: dict[str, object] = {"name": one.name, "datatype": datatype, "shape": list(values.shape)}
    if not one.binary:
        return about | {"data": values.reshape(-1).tolist()}
    if datatype == "BYTES":
        texts = [text.encode("utf-8", "replace") for text in values.reshape(-1).tolist()]
        raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    else:
        raw = values.astype(DATATYPES[datatype], copy=False).tobytes()
    buffers.append(raw)
    return about | {"parameters": {"binary_data_size": len(raw)}}


def _label_text(label: object) -> str:
    return label if isinstance(label, str) else json.dumps(label)


def _texts(texts: list[str]) -> NDArray[Any]:
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array
