"""A model as ONNX operators: features, layers, calibration; used by :mod:`softmaxnet.onnx_export`.

Every function here restates one of the package's in operators, in the same order of arithmetic: numbers of
``features/numbers.py`` (in float64, as there), slots of ``features/categories.py``, parts of ``features/dates.py``, the
layers of ``network.py`` and the map of ``calibration.py`` in the model's own number type.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.calibration import Calibration
from softmaxnet.errors import UsageError
from softmaxnet.features.categories import CategoryColumn
from softmaxnet.features.dates import DAY, MINUTE, MINUTES, MONTHS, N_PARTS, WEEKDAYS
from softmaxnet.features.matrix import PixelMatrix, SparseMatrix
from softmaxnet.features.numbers import FARTHEST, PLAIN_LIMIT, NumberBlock
from softmaxnet.features.table import NUMERIC, TableParts, block_sources
from softmaxnet.model import SoftmaxModel
from softmaxnet.network import NetworkSpec

__all__ = ["Graph", "add_answers", "encoded_network", "input_name", "whole_network"]

Floats: TypeAlias = npt.NDArray[Any]

DATE_OPSET = 20
"""The first operator set with operators that take texts apart."""
ML_OPSET = 3
LABEL, PROBABILITIES = "label", "probabilities"
ISO_DATE = r"\d{4}-\d{2}-\d{2}([T ]\d{2}(:\d{2}(:\d{2}(\.\d{1,6})?)?)?(Z|[+-]\d{2}:\d{2})?)?"


@dataclass
class Graph:
    """Operators that are added one after the other; names stand for their outputs.

    Attributes
    ----------
    onnx : the module
    opset : int
    taken : set of str
        Names that outputs of operators must not have.
    """

    onnx: Any
    opset: int
    taken: set[str]
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, tuple[np.dtype[Any] | None, tuple[int | None, ...]]] = field(default_factory=dict)

    def _new_name(self, stem: str) -> str:
        number = len(self.nodes) + len(self.constants)
        while f"{stem}_{number}" in self.taken:
            number += 1
        self.taken.add(f"{stem}_{number}")
        return f"{stem}_{number}"

    def input(self, name: str, dtype: Any, shape: tuple[int | None, ...]) -> str:
        """Add an input; ``dtype`` None is texts."""
        self.inputs[name] = (None if dtype is None else np.dtype(dtype), shape)
        return name

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Add an array, or texts where ``dtype`` is None and they are."""
        array = np.asarray(value) if dtype is None else np.asarray(value, dtype)
        if array.dtype.kind in "UO":
            array = array.astype(object)
        name = self._new_name("constant")
        self.constants[name] = self.onnx.numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator and return the name of its first output."""
        name = self._new_name(kind.lower())
        outputs = [name, self._new_name("unused")] if kind == "StringSplit" else [name]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, outputs, domain=domain, **attributes))
        return name

    def cast(self, x: str, dtype: Any) -> str:
        """Add a change of type."""
        return self.op("Cast", x, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reduce(self, kind: str, x: str, axis: int, *, keepdims: bool = True) -> str:
        """Add a sum, mean or maximum along one axis, whose operators took the axis in another way before set 18."""
        if self.opset >= 18 or kind == "ReduceSum":
            return self.op(kind, x, self.constant([axis], np.int64), keepdims=int(keepdims))
        return self.op(kind, x, axes=[axis], keepdims=int(keepdims))

    def concat(self, parts: list[str], axis: int = 1) -> str:
        """Put arrays side by side."""
        return parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=axis)

    def take(self, x: str, places: npt.NDArray[np.int64], width: int) -> str:
        """Take some columns of an array that has ``width`` of them."""
        if np.array_equal(places, np.arange(width)):
            return x
        return self.op("Gather", x, self.constant(places, np.int64), axis=1)

    def prune(self, outputs: tuple[str, ...]) -> None:
        """Drop operators, constants and inputs that no output depends on."""
        needed = set(outputs)
        kept = []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                needed |= set(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}
        self.inputs = {name: about for name, about in self.inputs.items() if name in needed}


def input_name(column: str) -> str:
    """Return the name of a column's input: its own, unless an output is called so."""
    return f"{column}_input" if column in (LABEL, PROBABILITIES) else column


# --- from inputs to logits ----------------------------------------------------------------------------------


def whole_network(graph: Graph, model: SoftmaxModel, input_dtype: Any) -> str:
    """Add everything from raw columns to the uncalibrated logits.

    Raises
    ------
    UsageError
        Where a column is a text, or a date and the operator set is too old, or where no column counts.
    """
    encoder, spec, dtype = model.encoder, model.spec, model.dtype
    parts = encoder.parts
    if isinstance(parts, TableParts):
        dense, first = _table(graph, parts, model, input_dtype)
    else:
        x = graph.cast(graph.input("X", input_dtype, (None, encoder.n_features_in)), np.float64)
        dense, first = None, []
        if isinstance(parts, SparseMatrix):
            first = [_sparse_matrix(graph, parts, model, x)]
        elif isinstance(parts, PixelMatrix):
            dense = _pixels(graph, parts, x, dtype)
        elif parts.block.n_out:
            dense = graph.cast(_numbers(graph, parts.block, x), dtype)
    if dense is None and not first:
        raise UsageError(
            "no column of this model varied in training: its probabilities are constants, there is nothing to export."
        )
    return _layers(graph, spec, model.params, dtype, dense, first)


def encoded_network(graph: Graph, model: SoftmaxModel) -> str:
    """Add everything from encoded rows to the uncalibrated logits.

    The inputs are ``dense`` (N, n_dense) and, of the sparse block, ``sparse_indices`` and ``sparse_values`` (N, longest
    row); shorter rows are filled up with entries of value 0.
    """
    spec, dtype = model.spec, model.dtype
    dense = graph.input("dense", dtype, (None, spec.n_dense)) if spec.n_dense else None
    first = []
    if spec.n_sparse:
        indices = graph.input("sparse_indices", np.int64, (None, None))
        values = graph.input("sparse_values", dtype, (None, None))
        table = graph.constant(model.params["sparse.weight"], dtype)
        weighted = graph.op(
            "Mul", graph.op("Gather", table, indices), graph.op("Unsqueeze", values, graph.constant([2], np.int64))
        )
        first = [graph.reduce("ReduceSum", weighted, 1, keepdims=False)]
    return _layers(graph, spec, model.params, dtype, dense, first)


def add_answers(graph: Graph, model: SoftmaxModel, logits: str) -> None:
    """Add calibration, ``probabilities`` (float32) and ``label``."""
    logits = _calibrated(graph, model.calibration, logits, model.dtype, model.n_classes)
    proba = graph.op("Softmax", logits, axis=-1)
    helper = graph.onnx.helper
    to = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
    graph.nodes.append(helper.make_node("Cast", [proba], [PROBABILITIES], to=to))
    classes = model.classes.tolist() if model.classes.dtype.kind in "UO" else model.classes
    winner = graph.op("ArgMax", logits, axis=1, keepdims=0)  # of no rows, onnxruntime gets axis -1 wrong
    graph.nodes.append(helper.make_node("Gather", [graph.constant(classes), winner], [LABEL], axis=0))


# --- columns of a table -------------------------------------------------------------------------------------


def _table(graph: Graph, parts: TableParts, model: SoftmaxModel, input_dtype: Any) -> tuple[str | None, list[str]]:
    """Add the features of a table; return the dense block, and what wide categories add to the first layer."""
    if parts.texts:
        name = parts.names[parts.texts[0].source]
        raise UsageError(
            f"column {name!r} is text: ONNX has no operators for its hashed n-grams, so that the whole model cannot be "
            "exported.",
            column=name,
            hint="Export the network alone (part='network', --part network) and encode rows with onnx_inputs, "
            "or in another language after docs/features.md.",
        )
    dtype = model.dtype
    numeric = _numeric_columns(graph, parts, input_dtype)
    sources = block_sources(parts.kinds)
    dense = []
    if parts.block.n_out:
        used = np.unique(parts.block.sources())
        x = graph.concat([numeric[int(place)] for place in used])
        dense.append(graph.cast(_numbers(graph, _over(parts.block, used), x), dtype))
    first: list[str] = []
    offset = 0
    for column, is_dense in zip(parts.categories, parts.dense, strict=True):
        if parts.kinds[column.source] == "number":
            x = numeric[int(np.searchsorted(sources, column.source))]
            slots, row = _code_slots(graph, column, x, dtype), None
        else:
            row = _slot(graph, column, graph.input(input_name(parts.names[column.source]), None, (None, 1)))
            slots = graph.cast(graph.op("Equal", row, graph.constant(np.arange(column.n_slots)[None])), dtype)
        if is_dense:
            dense.append(slots)
        else:
            weight = np.asarray(model.params["sparse.weight"][offset : offset + column.n_slots], dtype)
            first.append(_wide(graph, weight, slots, row))
            offset += column.n_slots
    return graph.concat(dense) if dense else None, first


def _numeric_columns(graph: Graph, parts: TableParts, input_dtype: Any) -> dict[int, str]:
    """Add inputs of numbers, truth values and dates; return, by column of the number block, float64 (N, 1)."""
    found: dict[int, str] = {}
    used = set(parts.block.sources().tolist())
    coded = {column.source for column in parts.categories}
    for index, kind in enumerate(parts.kinds):
        if kind not in NUMERIC:
            continue
        first = int(np.searchsorted(block_sources(parts.kinds), index))
        name = input_name(parts.names[index])
        if kind == "date" and used & set(range(first, first + N_PARTS)):
            _require_dates(graph, parts.names[index])
            found |= dict(enumerate(_date_parts(graph, graph.input(name, None, (None, 1))), first))
        elif kind != "date" and (first in used or index in coded):
            found[first] = graph.cast(graph.input(name, input_dtype, (None, 1)), np.float64)
    return found


def _over(block: NumberBlock, used: npt.NDArray[np.int64]) -> NumberBlock:
    """Return a number block that takes only its used columns."""
    places = {name: np.searchsorted(used, getattr(block, name)) for name in ("take", "flagged", "bin_column")}
    return replace(block, n_in=used.size, **places)


def _numbers(graph: Graph, block: NumberBlock, x: str) -> str:
    """Add scaled values, missing indicators and bins of float64 columns (N, n_in)."""
    a, b, k = block.n_curved, block.n_plain, block.n_values
    outputs = []
    for start, stop, treat in ((0, a, _curved), (a, a + b, _bounded), (a + b, k, None)):
        if start == stop:
            continue
        value = graph.take(x, block.take[start:stop], block.n_in)
        if treat is not None:
            missing = graph.op("IsNaN", value)
            value = graph.op("Sub", value, graph.constant(block.center[start:stop]))
            value = graph.op("Div", value, graph.constant(block.scale[start:stop]))
            value = treat(graph, graph.op("Where", missing, graph.constant(block.fill[start:stop]), value))
        outputs.append(value)
    if block.flagged.size:
        outputs.append(graph.cast(graph.op("IsNaN", graph.take(x, block.flagged, block.n_in)), np.float64))
    if block.bin_column.size:
        value = graph.take(x, block.bin_column, block.n_in)
        missing = graph.op("IsNaN", value)
        value = graph.op("Sub", value, graph.constant(block.bin_low))
        value = graph.op("Div", value, graph.constant(block.bin_width))
        value = graph.op("Clip", value, graph.constant(0.0), graph.constant(1.0))
        outputs.append(graph.op("Where", missing, graph.constant(block.bin_fill), value))
    return graph.concat(outputs)


def _curved(graph: Graph, z: str) -> str:
    """Add ``z / sqrt(1 + z^2 / 9)``."""
    z = graph.op("Clip", z, graph.constant(-FARTHEST), graph.constant(FARTHEST))
    ninth = graph.op("Div", graph.op("Mul", z, z), graph.constant(9.0))
    return graph.op("Div", z, graph.op("Sqrt", graph.op("Add", ninth, graph.constant(1.0))))


def _bounded(graph: Graph, z: str) -> str:
    return graph.op("Clip", z, graph.constant(-PLAIN_LIMIT), graph.constant(PLAIN_LIMIT))


def _slot(graph: Graph, column: CategoryColumn, text: str) -> str:
    """Add the slot of a category's text, int64 (N, 1); ``n_slots`` stands for all zeros.

    A level is known with and without one blank on either side and in both canonical normal forms: ONNX has no operator
    that strips or normalises.
    """
    none = column.n_slots
    other = len(column.levels) if column.has_other else none
    slots = dict.fromkeys(("", " ", "  "), column.n_slots - 1 if column.has_missing else other)
    for slot, level in enumerate(column.levels):
        for form in {level, unicodedata.normalize("NFD", level)}:
            slots |= dict.fromkeys((form, f" {form}", f"{form} ", f" {form} "), slot)
    keys = [key.encode("utf-8", "surrogatepass") for key in slots]
    return graph.op(
        "LabelEncoder",
        text,
        domain="ai.onnx.ml",
        keys_strings=keys,
        values_int64s=list(slots.values()),
        default_int64=other,
    )


def _code_slots(graph: Graph, column: CategoryColumn, x: str, dtype: Any) -> str:
    """Add the slots of a number that may be a code, one-hot (N, n_slots)."""
    levels = np.array([float(level) for level in column.levels]).reshape(1, -1)
    value = x
    if (levels != np.floor(levels)).any():  # fractions are compared as float32
        levels = levels.astype(np.float32).astype(np.float64)
        value = graph.cast(graph.cast(x, np.float32), np.float64)
    slots = [graph.cast(graph.op("Equal", value, graph.constant(levels)), dtype)]
    missing = graph.cast(graph.op("IsNaN", x), dtype)
    if column.has_other:
        rest = graph.op("Sub", graph.constant(1.0, dtype), graph.reduce("ReduceSum", slots[0], 1))
        slots.append(graph.op("Sub", rest, missing) if column.has_missing else rest)
    if column.has_missing:
        slots.append(missing)
    return graph.concat(slots)


def _wide(graph: Graph, weight: Floats, slots: str, row: str | None) -> str:
    """Add what a wide category adds to the first layer: the weights of its slot, or nothing."""
    if row is None:
        return graph.op("MatMul", slots, graph.constant(weight))
    table = graph.constant(np.concatenate([weight, np.zeros((1, weight.shape[1]), weight.dtype)]))
    return graph.op("Gather", table, graph.op("Squeeze", row, graph.constant([1], np.int64)))


# --- matrices -----------------------------------------------------------------------------------------------


def _pixels(graph: Graph, parts: PixelMatrix, x: str, dtype: Any) -> str:
    """Add pixels: missing ones 0, times the scale."""
    x = graph.op("Where", graph.op("IsNaN", x), graph.constant(0.0), x)
    x = graph.op("Clip", x, graph.constant(-1e30), graph.constant(1e30))
    return graph.op("Mul", graph.cast(x, dtype), graph.constant(parts.dense_scale, dtype))


def _sparse_matrix(graph: Graph, parts: SparseMatrix, model: SoftmaxModel, x: str) -> str:
    """Add what the columns of a sparse matrix, given dense, add to the first layer."""
    limit = float(np.finfo(np.float32).max)
    scaled = graph.op("Mul", x, graph.constant(parts.scale))
    bounded = graph.op("Clip", scaled, graph.constant(-limit), graph.constant(limit))
    weight = graph.constant(model.params["sparse.weight"], model.dtype)
    return graph.op("MatMul", graph.cast(bounded, model.dtype), weight)


# --- dates --------------------------------------------------------------------------------------------------


def _require_dates(graph: Graph, name: str) -> None:
    if graph.opset < DATE_OPSET:
        raise UsageError(
            f"column {name!r} holds dates, which ONNX reads from opset {DATE_OPSET} on; opset is {graph.opset}.",
            column=name,
            hint=f"Leave opset out, or give {DATE_OPSET} or more.",
        )


def _date_parts(graph: Graph, text: str) -> list[str]:
    """Add the eight numbers of ISO 8601 dates (``date_parts``), each float64 (N, 1), NaN where the text is empty."""
    integer = _Integers(graph)
    missing = graph.op("Equal", text, graph.constant([[""]]))
    ticks = _ticks(graph, integer, graph.op("Where", missing, graph.constant([["1970-01-01"]]), text))
    in_day = integer("Mod", ticks, DAY)
    days = integer("Div", integer("Sub", ticks, in_day), DAY)
    year, month = _civil(integer, days)
    found = [graph.op("Div", graph.cast(ticks, np.float64), graph.constant(float(DAY))), graph.cast(year, np.float64)]
    weekday = integer("Mod", integer("Add", days, 3), 7)
    for place, circle in ((month, MONTHS), (weekday, WEEKDAYS), (integer("Div", in_day, MINUTE), MINUTES)):
        found += [graph.op("Gather", graph.constant(circle[:, side].copy()), place) for side in (0, 1)]
    nothing = graph.constant([[np.nan]])
    return [graph.op("Where", missing, nothing, part) for part in found]


@dataclass(frozen=True)
class _Integers:
    """Operators on int64 arrays and whole numbers."""

    graph: Graph

    def __call__(self, kind: str, a: str, b: str | int) -> str:
        """Add an operator; Div rounds towards 0, Mod is never negative."""
        return self.graph.op(kind, a, self.graph.constant(b, np.int64) if isinstance(b, int) else b)

    def sum(self, *terms: tuple[str, int]) -> str:
        """Add a sum of arrays times whole numbers."""
        products = [a if factor == 1 else self("Mul", a, factor) for a, factor in terms]
        total = products[0]
        for product in products[1:]:
            total = self("Add", total, product)
        return total


def _ticks(graph: Graph, integer: _Integers, text: str) -> str:
    """Add the microseconds since 1970-01-01 (UTC) of ISO 8601 texts, int64 (N, 1); any other text fails as it runs."""
    good = graph.op("RegexFullMatch", text, pattern=ISO_DATE)
    text = graph.op("Where", good, text, graph.constant([["no date"]]))
    year, month, rest = _fields(graph, text, "-", 2)
    day, after_t = _cut(graph, rest, "T")
    day, after_blank = _cut(graph, day, " ")
    clock, _ = _cut(graph, graph.op("StringConcat", after_t, after_blank), "Z")
    clock, ahead = _cut(graph, clock, "+")
    clock, behind = _cut(graph, clock, "-")
    days = _days(integer, *(graph.cast(part, np.int64) for part in (year, month, day)))
    terms = [(_clock(graph, integer, part), sign) for part, sign in ((clock, 1), (ahead, -1), (behind, 1))]
    return integer.sum((days, DAY), *terms)


def _fields(graph: Graph, text: str, separator: str, n_splits: int) -> list[str]:
    """Add the first three parts of texts that have as many, each (N, 1)."""
    parts = graph.op("StringSplit", text, delimiter=separator, maxsplit=n_splits)
    return [graph.op("Gather", parts, graph.constant(index, np.int64), axis=2) for index in range(3)]


def _cut(graph: Graph, text: str, separator: str) -> tuple[str, str]:
    """Add what is before the first separator, and what is between it and the next; empty where there is none."""
    double = graph.op("StringConcat", text, graph.constant([[separator * 2]]))
    parts = graph.op("StringSplit", double, delimiter=separator)
    before, after = (graph.op("Gather", parts, graph.constant(index, np.int64), axis=2) for index in (0, 1))
    return before, after


def _clock(graph: Graph, integer: _Integers, text: str) -> str:
    """Add the microseconds of ``hh[:mm[:ss[.ffffff]]]``, 0 where it is empty."""
    text = graph.op("StringConcat", graph.constant([["0"]]), text)
    text = graph.op("StringConcat", text, graph.constant([[":0:0"]]))
    hours, minutes, seconds = _fields(graph, text, ":", 3)
    ticks = graph.op("Round", graph.op("Mul", graph.cast(seconds, np.float64), graph.constant(1e6)))
    whole = integer.sum((graph.cast(hours, np.int64), 60), (graph.cast(minutes, np.int64), 1))
    return integer.sum((whole, MINUTE), (graph.cast(ticks, np.int64), 1))


def _days(integer: _Integers, year: str, month: str, day: str) -> str:
    """Add the days since 1970-01-01 of a date of the Gregorian calendar.

    Years are counted from March, so that the leap day is the last one; 400 of them have 146,097 days. (Hinnant 2013,
    "chrono-compatible low-level date algorithms".)
    """
    from_march = integer("Mod", integer("Add", month, 9), 12)
    year = integer("Sub", year, integer("Div", from_march, 10))
    of_year = integer("Div", integer("Add", integer("Mul", from_march, 153), 2), 5)
    leaps = [(integer("Div", year, 4), 1), (integer("Div", year, 100), -1), (integer("Div", year, 400), 1)]
    return integer("Sub", integer.sum((year, 365), *leaps, (of_year, 1), (day, 1)), 719_469)


def _civil(integer: _Integers, days: str) -> tuple[str, str]:
    """Add the year and the month (from 0) of days since 1970-01-01, the inverse of ``_days``."""
    since_0 = integer("Add", days, 719_468)
    era = integer("Div", since_0, 146_097)
    of_era = integer("Mod", since_0, 146_097)
    leaps = [(integer("Div", of_era, length), sign) for length, sign in ((1460, -1), (36_524, 1), (146_096, -1))]
    year_of_era = integer("Div", integer.sum((of_era, 1), *leaps), 365)
    before = [(integer("Div", year_of_era, 4), -1), (integer("Div", year_of_era, 100), 1)]
    of_year = integer.sum((of_era, 1), (year_of_era, -365), *before)
    from_march = integer("Div", integer("Add", integer("Mul", of_year, 5), 2), 153)
    year = integer.sum((era, 400), (year_of_era, 1), (integer("Div", from_march, 10), 1))
    return year, integer("Mod", integer("Add", from_march, 2), 12)


# --- the network --------------------------------------------------------------------------------------------


def _layers(
    graph: Graph, spec: NetworkSpec, params: Mapping[str, Floats], dtype: Any, dense: str | None, first: list[str]
) -> str:
    """Add the layers and the members' average; ``first`` are terms of the first layer's sums, (N, M * units)."""
    alone = spec.n_members == 1
    x = None if dense is None else _embedded(graph, spec, params, dtype, dense)
    z = ""
    for i in range(spec.n_layers):
        weight, bias = (np.asarray(params[f"layers.{i}.{name}"], dtype) for name in ("weight", "bias"))
        terms = [] if x is None else [graph.op("MatMul", x, graph.constant(weight[0] if alone else weight))]
        if i == 0:
            terms += [_by_member(graph, spec, term) for term in first]
        z = graph.constant(bias[0] if alone else bias[:, None, :])
        for term in terms:
            z = graph.op("Add", term, z)
        x = _activated(graph, spec.activation, z, dtype) if i < spec.n_layers - 1 else z
    return _combined(graph, spec, z, dtype)


def _by_member(graph: Graph, spec: NetworkSpec, term: str) -> str:
    """Turn (N, M * units) into (M, N, units), or leave it for one member."""
    if spec.n_members == 1:
        return term
    split = graph.op("Reshape", term, graph.constant([-1, spec.n_members, spec.layer_sizes[1]], np.int64))
    return graph.op("Transpose", split, perm=[1, 0, 2])


def _embedded(graph: Graph, spec: NetworkSpec, params: Mapping[str, Floats], dtype: Any, dense: str) -> str:
    """Add the periodic embedding beside the dense inputs."""
    if not spec.embedding_size:
        return dense
    angular = np.asarray(2 * np.pi * params["embedding.frequency"], dtype)
    waves = graph.op("Mul", graph.op("Unsqueeze", dense, graph.constant([2], np.int64)), graph.constant(angular))
    cosines = graph.op("Cos", graph.op("Add", waves, graph.constant(params["embedding.phase"], dtype)))
    by_input = graph.op("Transpose", cosines, perm=[1, 0, 2])
    mixed = graph.op("MatMul", by_input, graph.constant(params["embedding.weight"], dtype))
    shape = graph.constant([-1, spec.n_dense * spec.embedding_size], np.int64)
    return graph.concat([dense, graph.op("Reshape", graph.op("Transpose", mixed, perm=[1, 0, 2]), shape)])


def _activated(graph: Graph, activation: str, z: str, dtype: Any) -> str:
    """Add an activation of ``network.ACTIVATIONS``."""

    def number(value: float) -> str:
        return graph.constant(value, dtype)

    def gelu() -> str:
        cube = graph.op("Mul", graph.op("Mul", z, z), z)
        inner = graph.op("Add", z, graph.op("Mul", cube, number(0.044715)))
        t = graph.op("Tanh", graph.op("Mul", inner, number(0.7978845608028654)))
        return graph.op("Mul", graph.op("Mul", z, number(0.5)), graph.op("Add", t, number(1.0)))

    def mish() -> str:
        e = graph.op("Exp", graph.op("Min", z, number(20.0)))
        n = graph.op("Mul", e, graph.op("Add", e, number(2.0)))
        return graph.op("Mul", z, graph.op("Div", n, graph.op("Add", n, number(2.0))))

    simple: dict[str, Callable[[], str]] = {
        "identity": lambda: z,
        "sigmoid": lambda: graph.op("Sigmoid", z),
        "relu": lambda: graph.op("Relu", z),
        "tanh": lambda: graph.op("Tanh", z),
        "silu": lambda: graph.op("Mul", z, graph.op("Sigmoid", z)),
        "gelu": gelu,
        "mish": mish,
    }
    return simple[activation]()


def _combined(graph: Graph, spec: NetworkSpec, z: str, dtype: Any) -> str:
    """Add the logits of the members' average probability (``combine_members``)."""
    if spec.output == "sigmoid":
        # ln sigmoid(z) = min(z, 0) - ln(1 + exp(-|z|))
        small = graph.op("Exp", graph.op("Neg", graph.op("Abs", z)))
        log1p = graph.op("Log", graph.op("Add", small, graph.constant(1.0, dtype)))
        z = graph.op("Sub", graph.op("Min", z, graph.constant(0.0, dtype)), log1p)
    elif spec.n_members > 1:
        z = graph.op("LogSoftmax", z, axis=-1)
    if spec.n_members == 1:
        return z
    top = graph.reduce("ReduceMax", z, 0)
    mean = graph.reduce("ReduceMean", graph.op("Exp", graph.op("Sub", z, top)), 0)
    return graph.op("Squeeze", graph.op("Add", top, graph.op("Log", mean)), graph.constant([0], np.int64))


def _calibrated(graph: Graph, calibration: Calibration, z: str, dtype: Any, n_classes: int) -> str:
    """Add ``b z``, or ``M (b z - mean) + c`` as one product."""
    if calibration.matrix is None or calibration.intercept is None:
        factor = calibration.inverse_temperature
        return z if factor == 1.0 else graph.op("Mul", z, graph.constant(factor, dtype))
    centring = np.eye(n_classes) - 1 / n_classes
    product = (calibration.matrix @ centring).T * calibration.inverse_temperature
    mixed = graph.op("MatMul", z, graph.constant(product, dtype))
    return graph.op("Add", mixed, graph.constant(calibration.intercept, dtype))
