"""The whole model as an ONNX file: raw columns in, ``label`` and ``probabilities`` out; see ``docs/onnx.md``.

The graph of :mod:`softmaxnet.onnx_graph` computes what :class:`~softmaxnet.model.SoftmaxModel` does, in the same order
and the same number type. onnxruntime runs it beside the model before it is written: a file that answers otherwise never
comes to be.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, random_array

import softmaxnet
from softmaxnet.data.atomic import atomic_output, check_output
from softmaxnet.data.frames import as_input
from softmaxnet.errors import DataError, ResourceError, SoftmaxError, UsageError
from softmaxnet.features.arrow import decoded, is_text, read_coded, whole
from softmaxnet.features.columns import Cells
from softmaxnet.features.dates import DOTTED, parse_date
from softmaxnet.features.matrix import PixelMatrix, SparseMatrix
from softmaxnet.features.table import TableParts, block_sources, read_numeric
from softmaxnet.golden import make_golden
from softmaxnet.importance import model_of
from softmaxnet.model import SoftmaxModel
from softmaxnet.onnx_graph import (
    DATE_OPSET,
    LABEL,
    ML_OPSET,
    PROBABILITIES,
    Graph,
    add_answers,
    encoded_network,
    input_name,
    whole_network,
)

__all__ = ["OnnxReport", "export_onnx", "onnx_inputs"]

Feed: TypeAlias = dict[str, npt.NDArray[Any]]

OPSET, LEAST_OPSET = 18, 13
TOLERANCE = 1e-5
"""Of a probability."""
ROUNDING = 1e-6
"""By how much float32 inputs may move a probability; beyond it they are float64."""
N_RANDOM_ROWS = 200
MOST_BYTES = 2**31 - 2**20
"""Protocol buffers end at 2 GiB."""


@dataclass(frozen=True)
class OnnxReport:
    """What was exported.

    Attributes
    ----------
    path : str
    opset : int
    inputs : dict of name to (type, shape)
        In ONNX's words, such as ``("float", (None, 1))``.
    left_out : tuple of str
        Columns that the model makes nothing of, and that are no inputs.
    n_rows : int
        Rows on which onnxruntime and the model were compared.
    max_difference : float
        The largest difference of a probability on them.
    n_bytes : int
        Of the file.
    """

    path: str
    opset: int
    inputs: dict[str, tuple[str, tuple[int | None, ...]]]
    left_out: tuple[str, ...]
    n_rows: int
    max_difference: float
    n_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        inputs = {name: {"type": kind, "shape": list(shape)} for name, (kind, shape) in self.inputs.items()}
        return asdict(self) | {"inputs": inputs, "left_out": list(self.left_out)}


def export_onnx(
    model: Any,
    path: str | os.PathLike[str],
    *,
    opset: int | None = None,
    part: str = "model",
    input_dtype: str = "auto",
    force: bool = True,
) -> OnnxReport:
    """Write a model as an ONNX file, after onnxruntime has given the same probabilities.

    Parameters
    ----------
    model : SoftmaxModel, or an estimator that has one as ``model_``
    path : str or path
    opset : int, optional
        Of the default operator set, 13 or more; 18 where none is given, 20 where a column holds dates.
    part : "model" or "network"
        "network" leaves the features out: the inputs are then what ``onnx_inputs(model, X, part="network")`` makes of
        rows. It is the way for columns of text, whose hashed n-grams ONNX has no operators for.
    input_dtype : "auto", "float32" or "float64"
        Of number columns. "auto" is float32, and float64 where rounding to float32 would move a probability by more
        than 1e-6, as it does for a column of which only the last of many digits vary.
    force : bool
        Whether a file that is there may be replaced.

    Returns
    -------
    OnnxReport

    Raises
    ------
    UsageError
        Where ``onnx`` or ``onnxruntime`` is missing, a column cannot be computed by ONNX's operators, the operator set
        is too old or too new, the graph would pass 2 GiB, or the file is there and ``force`` is False.
    SoftmaxError
        Where a probability differs by more than 1e-5 from the model's; nothing is written.
    """
    model = model_of(model)
    if part not in ("model", "network") or input_dtype not in ("auto", "float32", "float64"):
        raise UsageError(
            "part must be 'model' or 'network', and input_dtype 'auto', 'float32' or 'float64'. "
            f"Got {part!r} and {input_dtype!r} instead."
        )
    check_output(os.fspath(path), force=force)
    onnx, runtime = _import("onnx"), _import("onnxruntime")
    graph = Graph(onnx, _opset(onnx, model, opset, part), _names(model))
    rows = _parity_rows(model)
    if part == "network":
        dtype = model.dtype.name
        logits = encoded_network(graph, model)
    else:
        dtype = _input_dtype(model, rows) if input_dtype == "auto" else input_dtype
        logits = whole_network(graph, model, dtype)
    add_answers(graph, model, logits)
    content = _serialised(graph, model)
    session = _session(runtime, content, graph.opset)
    difference = _largest_difference(model, session, rows, part, dtype)
    if not difference <= TOLERANCE:
        raise SoftmaxError(
            f"not exported: onnxruntime {runtime.__version__} gives probabilities that differ by {difference:.2g} from "
            f"the model's, {TOLERANCE:g} is accepted.",
            hint="With input_dtype='float32', try 'float64'; otherwise this is an error of the export: report it.",
        )
    with atomic_output(os.fspath(path), force=force) as file:
        file.write(content)
    return OnnxReport(
        path=os.fspath(path),
        opset=graph.opset,
        inputs={name: _described(*about) for name, about in graph.inputs.items()},
        left_out=_left_out(model) if part == "model" else (),
        n_rows=sum(X.shape[0] for X in rows),
        max_difference=difference,
        n_bytes=len(content),
    )


def onnx_inputs(model: Any, X: Any, *, part: str = "model", input_dtype: str = "float32") -> Feed:
    """Return rows as an exported model takes them: a dictionary for ``InferenceSession.run``.

    Parameters
    ----------
    model : SoftmaxModel, or an estimator that has one as ``model_``
    X : anything that :func:`softmaxnet.data.frames.as_input` accepts
    part : "model" or "network"
        As the model was exported.
    input_dtype : "float32" or "float64"
        Of number columns, as :class:`OnnxReport` names it ("float" is float32, "double" float64).

    Returns
    -------
    dict of str to array
        For "model": of a matrix ``X`` (n_rows, n_features_in); of a table every column as (n_rows, 1): numbers and
        truth values with NaN for missing ones, categories and dates as texts with "" for missing ones. For "network":
        ``dense`` and, where the network has a sparse block, ``sparse_indices`` and ``sparse_values``.

    Examples
    --------
    >>> from softmaxnet.calibration import Calibration
    >>> from softmaxnet.features.encoder import FeatureEncoder
    >>> from softmaxnet.network import NetworkSpec
    >>> table = as_input({"age": ["31", "22", None], "city": ["Oslo", " Rome", None]})
    >>> encoder = FeatureEncoder.fit(table)
    >>> params = {"layers.0.weight": np.zeros((1, encoder.n_dense, 2)), "layers.0.bias": np.zeros((1, 2))}
    >>> model = SoftmaxModel(encoder, NetworkSpec(encoder.n_dense, 0, 2), params, Calibration(), np.array([0, 1]))
    >>> for name, column in onnx_inputs(model, table).items():
    ...     print(name, column.dtype, column.tolist())
    age float32 [[31.0], [22.0], [nan]]
    city object [['Oslo'], ['Rome'], ['']]
    """
    model = model_of(model)
    X, parts = as_input(X), model.encoder.parts
    if part == "network":
        return _encoded_inputs(model, X)
    if isinstance(parts, TableParts):
        used = set(_columns(model))
        columns = zip(parts.names, parts.kinds, model.encoder._columns_of(X, None), strict=True)
        return {
            input_name(name): _column(column, name, kind, input_dtype)[:, None]
            for name, kind, column in columns
            if name in used
        }
    matrix = model.encoder._matrix_of(X, Cells())
    return {"X": (matrix.toarray() if isinstance(matrix, csr_array) else matrix).astype(input_dtype)}


def _column(column: Any, name: str, kind: Any, dtype: str) -> npt.NDArray[Any]:
    """Return a column of a table as numbers or as texts, (n_rows,)."""
    import pyarrow as pa

    if kind in ("number", "boolean"):
        return np.asarray(read_numeric(column, name, kind, Cells())[0], dtype=dtype)
    if kind == "date":
        array = decoded(whole(column))
        if not is_text(array.type):
            array = array.cast(pa.timestamp("us"), safe=False).cast(pa.string())
        return np.array([_iso_date((text or "").strip()) for text in array.to_pylist()], dtype=object)
    coded = read_coded(column, name)
    return np.array([*coded.values, ""], dtype=object)[coded.codes]


def _iso_date(text: str) -> str:
    """Return a date with full stops as ISO 8601 has it, which is what ONNX can read; other texts as they are.

    Examples
    --------
    >>> _iso_date("29.2.2024"), _iso_date("2024-02-29T12:30Z")
    ('2024-02-29T00:00:00.000000', '2024-02-29T12:30Z')
    """
    ticks = parse_date(text) if DOTTED.fullmatch(text) else None
    return text if ticks is None else str(np.datetime64(ticks, "us"))


def _encoded_inputs(model: SoftmaxModel, X: Any) -> Feed:
    """Return encoded rows, those of the sparse block filled up with entries of value 0."""
    dtype = model.dtype
    encoded = model.encoder.transform(X, dtype=dtype)
    feed: Feed = {}
    if model.spec.n_dense:
        feed["dense"] = encoded.dense.astype(dtype) * dtype.type(encoded.dense_scale)
    if encoded.sparse is not None:
        sparse = encoded.sparse
        lengths = np.diff(sparse.indptr)
        feed["sparse_indices"] = np.zeros((encoded.n_rows, int(lengths.max(initial=1))), dtype=np.int64)
        feed["sparse_values"] = np.zeros(feed["sparse_indices"].shape, dtype)
        rows = np.repeat(np.arange(encoded.n_rows), lengths)
        places = np.arange(sparse.nnz) - np.repeat(sparse.indptr[:-1], lengths)
        feed["sparse_indices"][rows, places] = sparse.indices
        feed["sparse_values"][rows, places] = sparse.data
    return feed


# --- the file -----------------------------------------------------------------------------------------------


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ResourceError(
            f"{name} is not installed, which export to ONNX needs.", hint="Install it: pip install 'softmaxnet[onnx]'."
        ) from None


def _opset(onnx: Any, model: SoftmaxModel, opset: int | None, part: str) -> int:
    parts = model.encoder.parts
    dates = part == "model" and isinstance(parts, TableParts) and "date" in parts.kinds
    newest = int(onnx.defs.onnx_opset_version())
    chosen = opset if opset is not None else DATE_OPSET if dates else OPSET
    if isinstance(chosen, bool) or not isinstance(chosen, int) or not LEAST_OPSET <= chosen <= newest:
        raise UsageError(
            f"opset must be a whole number from {LEAST_OPSET} to {newest}, the newest that onnx {onnx.__version__} "
            f"knows. Got {opset!r} instead."
        )
    return chosen


def _columns(model: SoftmaxModel) -> list[str]:
    """Return the columns of a table that the model makes something of; for a matrix, none."""
    parts = model.encoder.parts
    if not isinstance(parts, TableParts):
        return []
    used = set(block_sources(parts.kinds)[parts.block.sources()].tolist())
    used |= {column.source for column in parts.categories} | {column.source for column in parts.texts}
    return [name for index, name in enumerate(parts.names) if index in used]


def _left_out(model: SoftmaxModel) -> tuple[str, ...]:
    """Return the columns of a table that are no inputs."""
    used = set(_columns(model))
    return tuple(name for name in model.feature_names_in or () if name not in used)


def _names(model: SoftmaxModel) -> set[str]:
    """Return the names that inputs and outputs have."""
    inputs = {input_name(name) for name in _columns(model)}
    return inputs | {LABEL, PROBABILITIES, "X", "dense", "sparse_indices", "sparse_values"}


def _serialised(graph: Graph, model: SoftmaxModel) -> bytes:
    """Return the file's bytes; the same model gives the same ones."""
    onnx = graph.onnx
    graph.prune((LABEL, PROBABILITIES))
    order = {input_name(name): index for index, name in enumerate(_columns(model))}
    graph.inputs = dict(sorted(graph.inputs.items(), key=lambda item: order.get(item[0], 0)))
    n_bytes = sum(value.ByteSize() for value in graph.constants.values())
    if n_bytes > MOST_BYTES:
        raise UsageError(
            f"the model's {n_bytes:,} bytes do not fit into one ONNX file, which ends at 2 GiB.",
            hint="Serve the model file itself: softmaxnet serve.",
        )
    helper = onnx.helper
    inputs = [helper.make_tensor_value_info(n, _type(onnx, dtype), shape) for n, (dtype, shape) in graph.inputs.items()]
    kind = model.classes.dtype.kind
    label = _type(onnx, None if kind in "UO" else model.classes.dtype)
    outputs = [
        helper.make_tensor_value_info(LABEL, label, [None]),
        helper.make_tensor_value_info(PROBABILITIES, onnx.TensorProto.FLOAT, [None, model.n_classes]),
    ]
    body = helper.make_graph(graph.nodes, "softmaxnet", inputs, outputs, list(graph.constants.values()))
    opsets = [helper.make_opsetid("", graph.opset), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    proto = helper.make_model(
        body, opset_imports=opsets, producer_name="softmaxnet", producer_version=softmaxnet.__version__
    )
    proto.ir_version = helper.find_min_ir_version_for(opsets)
    helper.set_model_props(proto, {"missing_values": "NaN in numbers, the empty string in texts"})
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _type(onnx: Any, dtype: Any) -> int:
    """Return ONNX's number of a type; None is texts."""
    found: int = onnx.TensorProto.STRING if dtype is None else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return found


def _described(dtype: Any, shape: tuple[int | None, ...]) -> tuple[str, tuple[int | None, ...]]:
    """Return an input's type and shape in ONNX's words.

    Examples
    --------
    >>> _described(np.dtype(np.float32), (None, 1)), _described(None, (None, 1))
    (('float', (None, 1)), ('string', (None, 1)))
    """
    words = {"float32": "float", "float64": "double", "int64": "int64"}
    return "string" if dtype is None else words[dtype.name], shape


# --- the parity check ---------------------------------------------------------------------------------------


def _session(runtime: Any, content: bytes, opset: int) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base
        raise UsageError(
            f"onnxruntime {runtime.__version__} does not load the graph of opset {opset}: {str(error)[:200]}",
            hint=f"Give a lower opset, such as {OPSET}.",
        ) from None


def _largest_difference(model: SoftmaxModel, session: Any, rows: Sequence[Any], part: str, dtype: str) -> float:
    """Return the largest difference of a probability on some rows; infinite where a label is another one."""
    largest = 0.0
    for X in rows:
        expected = model.predict_proba(X)
        label, proba = session.run([LABEL, PROBABILITIES], onnx_inputs(model, X, part=part, input_dtype=dtype))
        largest = max(largest, float(np.abs(proba - expected).max(initial=0.0)))
        places = np.searchsorted(model.classes.astype(label.dtype), label)
        own = np.take_along_axis(expected, np.minimum(places, model.n_classes - 1)[:, None], axis=1)[:, 0]
        if not np.array_equal(model.classes[places].astype(label.dtype), label):
            return float("inf")
        if (expected.max(axis=1) - own > TOLERANCE).any():  # classes as probable as each other may change places
            return float("inf")
    return largest


def _input_dtype(model: SoftmaxModel, rows: Sequence[Any]) -> str:
    """Return "float32" where rounding the rows' numbers to it hardly moves a probability, else "float64"."""
    for X in rows:
        moved = np.abs(model.predict_proba(X) - model.predict_proba(_rounded(model, X)))
        if moved.max(initial=0.0) > ROUNDING:
            return "float64"
    return "float32"


def _rounded(model: SoftmaxModel, X: Any) -> Any:
    """Return rows with their numbers rounded to float32."""
    with np.errstate(over="ignore"):
        feed = onnx_inputs(model, X, input_dtype="float32")
    if "X" in feed and not isinstance(model.encoder.parts, TableParts):
        wide = feed["X"].astype(np.float64)
        return csr_array(wide) if isinstance(model.encoder.parts, SparseMatrix) else wide
    rounded = X
    for name in _columns(model):
        values = feed[input_name(name)][:, 0]
        if values.dtype == np.float32:
            import pyarrow as pa

            place = rounded.column_names.index(name)
            rounded = rounded.set_column(place, name, pa.array(values.astype(np.float64), from_pandas=True))
    return rounded


def _parity_rows(model: SoftmaxModel) -> list[Any]:
    """Return rows to compare on: the golden rows, and random ones made from the schema; always the same ones."""
    golden = make_golden(model)
    rng = np.random.default_rng(0)
    random = [_random_rows(model, rng)]
    try:
        model.predict_proba(random[0])
    except DataError:  # numbers as they are may be too large for a network
        random = []
    return [*([golden.rows(model.encoder)] if golden.n_rows else []), *random]


def _random_rows(model: SoftmaxModel, rng: np.random.Generator) -> Any:
    parts, n = model.encoder.parts, N_RANDOM_ROWS
    if isinstance(parts, TableParts):
        return _random_table(parts, rng)
    if isinstance(parts, PixelMatrix):
        return rng.integers(0, min(255, round(1 / parts.dense_scale)) + 1, (n, parts.n_in)).astype(np.uint8)
    if isinstance(parts, SparseMatrix):
        density = min(1.0, 50 / parts.n_sparse)
        some = random_array((n, parts.n_sparse), density=density, format="csr", rng=rng)
        some.data /= np.where(parts.scale > 0, parts.scale, 1.0)[some.indices]
        return csr_array(some)
    return _random_numbers(parts.block, rng).T


def _random_numbers(block: Any, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return numbers around the centres of a block's columns, (n_in, n_rows), some of them missing."""
    center, scale = np.zeros((block.n_in, 1)), np.ones((block.n_in, 1))
    center[block.take, 0], scale[block.take, 0] = block.center, block.scale
    with np.errstate(over="ignore"):
        values = np.nan_to_num(center + scale * rng.normal(0, 1.5, (block.n_in, N_RANDOM_ROWS)))
    if not block.n_raw:
        values[rng.random(values.shape) < 0.1] = np.nan
    return values


def _random_table(parts: TableParts, rng: np.random.Generator) -> Any:
    """Return a table of random cells of every column's kind."""
    import pyarrow as pa

    n, sources = N_RANDOM_ROWS, block_sources(parts.kinds)
    numbers = _random_numbers(parts.block, rng)
    levels = {column.source: column.levels for column in parts.categories}
    columns: list[Any] = []
    for index, kind in enumerate(parts.kinds):
        first = int(np.searchsorted(sources, index))
        if kind == "number":
            codes = [float(level) for level in levels.get(index, ())]
            own = np.where(rng.random(n) < 0.5, rng.choice(codes, n), numbers[first]) if codes else numbers[first]
            columns.append(pa.array(own, from_pandas=True))
        elif kind == "boolean":
            columns.append(pa.array([(True, False, None)[k] for k in rng.integers(0, 2 + (not parts.block.n_raw), n)]))
        elif kind == "date":
            columns.append(pa.array(_random_dates(numbers[first], rng)))
        elif kind == "category":
            some = [*levels.get(index, ()), "a level that was not in training", None]
            columns.append(pa.array([some[k] for k in rng.integers(0, len(some), n)], pa.string()))
        else:
            columns.append(pa.array([f"text {k}" for k in range(n)]))
    return pa.Table.from_arrays(columns, names=list(parts.names))


def _random_dates(days: npt.NDArray[np.float64], rng: np.random.Generator) -> list[str | None]:
    """Return points in time at the given days since 1970-01-01, in the forms that ISO 8601 has for them.

    Examples
    --------
    >>> _random_dates(np.array([0.5, np.nan]), np.random.default_rng(0))
    ['1970-01-01T12:00:00+02:00', None]
    """
    zones = ("", "Z", "+02:00", "-03:30")
    found: list[str | None] = []
    for day in np.clip(days, -700_000, 2_900_000):
        if np.isnan(day):
            found.append(None)
            continue
        moment = str(np.datetime64(0, "s") + np.timedelta64(int(day * 86_400), "s"))
        form = int(rng.integers(0, 3))
        plain = (moment[:10], moment.replace("T", " ")[:16], moment)[form]
        found.append(plain + (zones[int(rng.integers(0, 4))] if form else ""))
    return found
