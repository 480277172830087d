"""What a row is compared with: the baseline, and the line from it to the row through a network made small for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from softmaxnet.data.frames import as_input, from_records
from softmaxnet.errors import DataError
from softmaxnet.explain.integral import Line, full_rows
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.matrix import NumberMatrix
from softmaxnet.features.numbers import PLAIN_LIMIT, NumberBlock, curve_in_place
from softmaxnet.features.table import TableParts
from softmaxnet.importance import FittedModel
from softmaxnet.network import NetworkSpec, forward

__all__ = ["Setting", "as_rows"]

Floats: TypeAlias = npt.NDArray[Any]

DOUBLE_PRECISION_PARAMETERS = 5_000_000
"""Networks of at most this many parameters, the sparse block's apart, are explained in float64."""


def as_rows(model: FittedModel, rows: Any) -> Any:
    """Return rows as an X; a single row may come as a mapping, a Series, a text or an array of one dimension."""
    if isinstance(rows, str):
        return as_input([rows])
    if isinstance(rows, Mapping) and not any(_is_column(value) for value in rows.values()):
        return from_records([rows])
    if getattr(rows, "ndim", None) == 1:
        known = set(model.feature_names_in or ())
        if hasattr(rows, "to_dict") and known <= set(map(str, getattr(rows, "index", ()))):
            return from_records([{str(name): value for name, value in rows.to_dict().items()}])
        if isinstance(rows, np.ndarray) and rows.dtype.kind in "fiub":
            return rows[None, :]
    return as_input(rows)


def _is_column(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | bytes)


@dataclass(frozen=True, eq=False)
class Setting:
    """A model and a baseline, ready for many rows.

    Attributes
    ----------
    params : the layers' parameters in ``dtype``, without the sparse block's
    table : (n_sparse, n_members * first layer) or None
    dense : (n_dense,), the baseline's dense inputs
    mix_sources : (n_mixed,)
        Columns that the baseline has sparse inputs of.
    mix_rows : (n_mixed, n_members * first layer)
        What they add to the first layer.
    """

    model: FittedModel
    dtype: np.dtype[Any]
    params: Mapping[str, Floats]
    table: Floats | None
    dense: Floats
    mix_sources: npt.NDArray[np.int64]
    mix_rows: Floats
    dense_sources: npt.NDArray[np.int64]
    sparse_sources: npt.NDArray[np.int64]

    @classmethod
    def of(cls, model: FittedModel, baseline: Any) -> Setting:
        """Prepare a model and the baseline that the user gave, or the one that says nothing."""
        layers = {name: value for name, value in model.params.items() if name != "sparse.weight"}
        small = sum(value.size for value in layers.values()) <= DOUBLE_PRECISION_PARAMETERS
        dtype = np.dtype(np.float64) if small else model.dtype
        encoder, table = model.encoder, model.params.get("sparse.weight")
        if baseline is None:
            dense, mix = _neutral_dense(encoder), _neutral_sparse(encoder)
        else:
            encoded = encoder.transform(as_rows(model, baseline), dtype=np.float64)
            if not encoded.n_rows:
                raise DataError("the baseline has no rows; at least one is needed")
            dense = encoded.dense.mean(axis=0, dtype=np.float64) * encoded.dense_scale
            mix = np.zeros(0) if encoded.sparse is None else encoded.sparse.mean(axis=0)
        sources, at = encoder.sparse_sources(), np.flatnonzero(mix)
        mixed = np.unique(sources[at])
        rows = np.zeros((mixed.size, 0), dtype)
        if table is not None:
            entries = (mix[at].astype(table.dtype), (np.searchsorted(mixed, sources[at]), at))
            rows = (csr_array(entries, shape=(mixed.size, mix.size)) @ table).astype(dtype)
        params = {name: np.asarray(value, dtype) for name, value in layers.items()}
        return cls(model, dtype, params, table, dense.astype(dtype), mixed, rows, encoder.dense_sources(), sources)

    def logits(self, dense: Floats, sparse: csr_array | None) -> Floats:
        """Return the calibrated logits of one row, (n_classes,)."""
        spec, params = self._local(np.empty(0, np.int64) if sparse is None else sparse.indices)
        block = full_rows(self._values(sparse)[None, :])
        raw = forward(spec, params, dense[None, :], block)
        return np.asarray(self.model.calibration.transform(raw)[0])

    def line(self, dense: Floats, sparse: csr_array | None, weights: Floats) -> Line:
        """Return the line from the baseline to one row, of a weighted sum of the logits."""
        active = np.empty(0, np.int64) if sparse is None else sparse.indices
        spec, params = self._local(active)
        end = np.concatenate([dense, self._values(sparse)])
        start = np.concatenate([self.dense, np.zeros(active.size), np.ones(self.mix_sources.size)]).astype(self.dtype)
        return Line(spec, params, self.model.calibration, weights.astype(self.dtype), start, end, active)

    def _values(self, sparse: csr_array | None) -> Floats:
        own = np.empty(0, self.dtype) if sparse is None else sparse.data
        return np.concatenate([own, np.zeros(self.mix_sources.size, self.dtype)])

    def _local(self, active: npt.NDArray[Any]) -> tuple[NetworkSpec, Mapping[str, Floats]]:
        """Return the network over the sparse inputs of one row, and one for each column of the baseline's."""
        spec = replace(self.model.spec, n_sparse=active.size + self.mix_sources.size)
        if self.table is None:
            return spec, self.params
        own = self.table[active].astype(self.dtype)
        return spec, {**self.params, "sparse.weight": np.concatenate([own, self.mix_rows])}


def _neutral_dense(encoder: FeatureEncoder) -> Floats:
    """Return the dense inputs of a row that says nothing."""
    parts = encoder.parts
    dense = np.zeros(encoder.n_dense)
    if isinstance(parts, NumberMatrix | TableParts):
        dense[: parts.block.n_out] = _neutral_numbers(parts.block)
    if isinstance(parts, TableParts):
        at = parts.block.n_out
        for column, is_dense in zip(parts.categories, parts.dense, strict=True):
            if is_dense:
                dense[at : at + column.n_slots] = _neutral_slots(len(column.levels), column.n_slots)
                at += column.n_slots
    return dense


def _neutral_numbers(block: NumberBlock) -> Floats:
    """Return a number block's output for missing values, without the indicators that they are missing."""
    values = block.fill.copy()
    curve_in_place(values[: block.n_curved])
    bounded = slice(block.n_curved, block.n_curved + block.n_plain)
    values[bounded] = np.clip(values[bounded], -PLAIN_LIMIT, PLAIN_LIMIT)
    return np.concatenate([values, np.zeros(block.flagged.size), block.bin_fill])


def _neutral_slots(n_levels: int, n_slots: int) -> Floats:
    """Return the average of a category's levels; of all its slots where it has no levels."""
    slots = np.zeros(n_slots)
    slots[: n_levels or n_slots] = 1 / (n_levels or n_slots)
    return slots


def _neutral_sparse(encoder: FeatureEncoder) -> Floats:
    """Return the sparse inputs of a row that says nothing: averages of wide categories, no words."""
    mix = np.zeros(encoder.n_sparse)
    if isinstance(encoder.parts, TableParts):
        at = 0
        for column, is_dense in zip(encoder.parts.categories, encoder.parts.dense, strict=True):
            if not is_dense:
                mix[at : at + column.n_slots] = _neutral_slots(len(column.levels), column.n_slots)
                at += column.n_slots
    return mix
