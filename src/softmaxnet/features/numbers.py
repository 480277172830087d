"""Numbers: centred, divided by a robust scale, smoothly clipped; missing ones imputed and flagged.

``z = (x - median) / scale`` and the network gets ``z / sqrt(1 + (z / 3)^2)``, which is z near 0 and never
beyond +-3 (Holzmueller, Grinsztajn and Steinwart 2024, arXiv 2407.04491, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxnet.errors import ModelFileError
from softmaxnet.features import state
from softmaxnet.features.columns import Cells
from softmaxnet.features.pictures import picture_shape
from softmaxnet.features.quantiles import LARGEST, Floats, quantiles, weighted_quantiles

CURVED, PLAIN, RAW = 0, 1, 2
"""Treatments: centred, scaled and clipped; as it is (already of size 1); as it is, whatever its size."""

SMALLEST_SCALE = 1e-300
"""Keeps quotients of denormal numbers defined."""
FARTHEST = 1e6
"""Scaled numbers are kept within this before the curve: the curve is 3 there to 11 digits."""
PLAIN_LIMIT = 100.0
"""Scaled numbers without a curve are kept within this."""
BY_SIZE = -1
"""As a number of bins: as many as :func:`bins_for` says."""
BINNED_COLUMNS = 128
BIN_INPUTS = 320
"""Bins of all columns together, about."""
SHARED_MIN_COLUMNS = 16
CHUNK_CELLS = 65536
"""Cells per step: the temporary arrays stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What training showed of every column of a block, arrays of shape (n_columns,)."""

    low: Floats
    high: Floats
    quartiles: Floats
    """(n_columns, 3): lower quartile, median, upper quartile."""
    spread: Floats
    n_distinct: NDArray[np.int64]
    share_missing: Floats
    edges: tuple[Floats, ...]
    """Bin edges, empty where no bins were asked for."""


@dataclass(frozen=True, eq=False)
class NumberBlock:
    """A block of number columns -> scaled values, then missing indicators, then piecewise-linear bins.

    Attributes
    ----------
    n_in : int
        Columns of the block.
    n_curved, n_plain : int
        How many scaled values are curved, then how many are bounded only; the rest is as it was.
    take : int64 (n_values,)
        The column that each scaled value comes from.
    center, scale, fill : float64 (n_values,)
        value = curve((x - center) / scale); ``fill`` stands in for a missing one, before the curve.
    flagged : int64 (n_flagged,)
        Columns with a missing indicator.
    bin_column, bin_low, bin_width, bin_fill : (n_bins,)
        bin = min(max((x - low) / width, 0), 1), and ``bin_fill`` where x is missing.
    """

    n_in: int
    n_curved: int
    n_plain: int
    take: NDArray[np.int64]
    center: Floats
    scale: Floats
    fill: Floats
    flagged: NDArray[np.int64]
    bin_column: NDArray[np.int64]
    bin_low: Floats
    bin_width: Floats
    bin_fill: Floats

    @property
    def n_values(self) -> int:
        """Scaled values."""
        return int(self.take.size)

    @property
    def n_raw(self) -> int:
        """Scaled values that are the numbers as they are."""
        return self.n_values - self.n_curved - self.n_plain

    @property
    def n_out(self) -> int:
        """Columns of the dense block that this block fills."""
        return int(self.take.size + self.flagged.size + self.bin_column.size)

    @cached_property
    def is_in_order(self) -> bool:
        """Whether the scaled values are all columns in their order."""
        return bool(np.array_equal(self.take, np.arange(self.n_in)))

    def sources(self) -> NDArray[np.int64]:
        """Return, for every output, the column of the block that it comes from."""
        return np.concatenate([self.take, self.flagged, self.bin_column])

    def fill_into(
        self, values: NDArray[Any], out: NDArray[Any], cells: Cells, name_of: Callable[[int], str]
    ) -> None:
        """Encode ``values`` (n_rows, n_in) into ``out`` (n_rows, n_out), a few rows at a time."""
        rows = max(1, CHUNK_CELLS // max(1, self.n_in, self.n_out))
        for start in range(0, values.shape[0], rows):
            chunk = np.array(values[start : start + rows], dtype=np.float64)
            missing = self._missing(chunk, start, cells, name_of)
            self._fill_chunk(chunk, missing, out[start : start + rows])

    def _missing(
        self, chunk: Floats, first_row: int, cells: Cells, name_of: Callable[[int], str]
    ) -> NDArray[np.bool_] | None:
        """Return where values are missing (None: nowhere); infinite ones are reported and then missing."""
        if math.isfinite(np.vdot(chunk, chunk)) or np.isfinite(chunk).all():
            return None
        for row, column in zip(*np.nonzero(np.isinf(chunk)), strict=True):
            cells.report(first_row + int(row), name_of(int(column)), *infinite(float(chunk[row, column])))
            chunk[row, column] = np.nan
        missing = np.isnan(chunk)
        raw = np.zeros(self.n_in, dtype=bool)
        raw[self.take[self.n_curved + self.n_plain :]] = True
        for row, column in zip(*np.nonzero(missing & raw), strict=True):
            message = "a value is missing, and features='raw' takes numbers as they are."
            cells.report(
                first_row + int(row), name_of(int(column)), message, "Fill it, or use features='auto'."
            )
        return missing

    def _fill_chunk(self, chunk: Floats, missing: NDArray[np.bool_] | None, out: NDArray[Any]) -> None:
        a, b, k, f = self.n_curved, self.n_plain, self.n_values, self.flagged.size
        with np.errstate(over="ignore"):
            # the chunk is a copy, to be written to where bins do not read it again
            whole = self.is_in_order and not self.bin_column.size
            value = chunk if whole else np.take(chunk, self.take, axis=1)
            if a + b:
                value[:, : a + b] -= self.center[: a + b]
                value[:, : a + b] /= self.scale[: a + b]
            if missing is not None:
                np.copyto(value, self.fill, where=missing[:, self.take])
            if a:
                curve_in_place(value[:, :a])
            if b:
                np.clip(value[:, a : a + b], -PLAIN_LIMIT, PLAIN_LIMIT, out=value[:, a : a + b])
            out[:, :k] = value
            if f:
                out[:, k : k + f] = 0 if missing is None else missing[:, self.flagged]
            if self.bin_column.size:
                part = np.take(chunk, self.bin_column, axis=1)
                part -= self.bin_low
                part /= self.bin_width
                np.clip(part, 0.0, 1.0, out=part)
                if missing is not None:
                    np.copyto(part, self.bin_fill, where=missing[:, self.bin_column])
                out[:, k + f :] = part

    def to_state(self) -> tuple[state.Meta, state.Tensors]:
        """Return the block as plain data."""
        names = (
            "take",
            "center",
            "scale",
            "fill",
            "flagged",
            "bin_column",
            "bin_low",
            "bin_width",
            "bin_fill",
        )
        tensors = {f"{state.PREFIX}number.{name}": getattr(self, name) for name in names}
        return {"n_in": self.n_in, "n_curved": self.n_curved, "n_plain": self.n_plain}, tensors

    @classmethod
    def from_state(cls, meta: Mapping[str, object], tensors: Mapping[str, NDArray[Any]]) -> NumberBlock:
        """Return the block that ``to_state`` wrote, after checking it."""
        n_in = state.integer(meta, "n_in")
        take = state.tensor(tensors, "number.take", np.int64)
        state.indices_below(take, n_in, "number.take")
        flagged = state.tensor(tensors, "number.flagged", np.int64)
        state.indices_below(flagged, n_in, "number.flagged", increasing=True)
        column = state.tensor(tensors, "number.bin_column", np.int64)
        state.indices_below(column, n_in, "number.bin_column")
        n_curved = state.integer(meta, "n_curved", 0, take.size)
        n_plain = state.integer(meta, "n_plain", 0, take.size - n_curved)
        floats = {
            name: state.tensor(tensors, f"number.{name}", np.float64, size)
            for name, size in (
                *((name, take.size) for name in ("center", "scale", "fill")),
                *((name, column.size) for name in ("bin_low", "bin_width", "bin_fill")),
            )
        }
        if (floats["scale"] < SMALLEST_SCALE).any() or (floats["bin_width"] < SMALLEST_SCALE).any():
            raise ModelFileError("the model file has a scale of a number column that is not positive")
        return cls(n_in, n_curved, n_plain, take, flagged=flagged, bin_column=column, **floats)


def curve_in_place(z: Floats) -> None:
    """Replace z by ``z / sqrt(1 + (z / 3)^2)``, also for z as large as infinity.

    Examples
    --------
    >>> z = np.array([0.0, 1.0, -4.0, np.inf])
    >>> curve_in_place(z)
    >>> z.round(6)
    array([ 0.      ,  0.948683, -2.4     ,  3.      ])
    """
    np.clip(z, -FARTHEST, FARTHEST, out=z)
    root = z * z
    root /= 9.0
    root += 1.0
    np.sqrt(root, out=root)
    z /= root


def infinite(value: float) -> tuple[str, str]:
    """Return the message and the hint for an infinite number."""
    return f"{value} is not a finite number.", "Missing values are written as NaN or as empty cells."


def fit_numbers(
    values: NDArray[Any],
    weights: Floats | None,
    cells: Cells,
    name_of: Callable[[int], str],
    *,
    treatment: NDArray[np.uint8] | None = None,
    may_flag: NDArray[np.bool_] | None = None,
    n_bins: int = 0,
) -> tuple[NumberBlock, Statistics]:
    """Choose center, scale, indicators and bins of every column of ``values`` (n_rows, n_columns).

    Parameters
    ----------
    values : array, any numeric dtype; NaN = missing
    weights : array (n_rows,), positive, or None
    treatment : uint8 (n_columns,), ``CURVED``, ``PLAIN`` or ``RAW``; all curved by default
    may_flag : bool (n_columns,), columns that get an indicator where values are missing; all by default
    n_bins : int, most piecewise-linear bins for each curved column

    Returns
    -------
    block : NumberBlock
    statistics : Statistics
    """
    m = values.shape[1]
    if treatment is None:
        treatment = np.zeros(m, dtype=np.uint8)
    if n_bins == BY_SIZE:
        n_bins = bins_for(len(values), int((treatment == CURVED).sum()))
    seen = column_statistics(values, weights, cells, name_of, np.where(treatment == CURVED, n_bins, 0))
    varies = seen.n_distinct > 1
    median = np.where(seen.n_distinct > 0, seen.quartiles[:, 1], 0.0)
    center = np.where(treatment == CURVED, median, 0.0)
    scale = np.where(treatment == CURVED, seen.spread, 1.0)
    common = shared_scale(seen, varies & (treatment == CURVED))
    if common is not None:
        center = np.where(treatment == CURVED, 0.0, center)
        scale = np.where(treatment == CURVED, common, scale)
        treatment = np.where(treatment == CURVED, PLAIN, treatment)
    # A picture keeps its constant pixels and so its shape.
    whole = common is not None and picture_shape(np.nan_to_num(values)) is not None
    kept = np.full(m, True) if whole else varies | (treatment == RAW)
    take = np.concatenate([np.flatnonzero((treatment == t) & kept) for t in (0, 1, 2)])
    fill = np.where(varies, (median - center) / scale, 0.0)
    flagged = (seen.share_missing > 0) & (seen.n_distinct > 0) & (treatment != RAW)
    if may_flag is not None:
        flagged &= may_flag
    bins = _bins(() if whole else seen.edges, median)
    block = NumberBlock(
        m,
        int(((treatment == CURVED) & kept).sum()),
        int(((treatment == PLAIN) & kept).sum()),
        take,
        center[take],
        scale[take],
        fill[take],
        np.flatnonzero(flagged),
        *bins,
    )
    return block, seen


def bins_for(n_rows: int, n_columns: int) -> int:
    """Return how many bins each number is worth: the more columns there are, the fewer.

    Few rows cannot fill many, and hundreds of columns would make the first layer most of the work.

    Examples
    --------
    >>> bins_for(300, 10), bins_for(5000, 10), bins_for(5000, 36), bins_for(5000, 200)
    (8, 16, 8, 0)
    """
    if n_columns > BINNED_COLUMNS:
        return 0
    most = 8 if n_rows <= 1000 else 16
    return max(min(most, BIN_INPUTS // max(n_columns, 1)), 4)


def shared_scale(seen: Statistics, numbers: NDArray[np.bool_]) -> float | None:
    """Return the one scale of columns in common units with many zeros (pictures, counts), or None.

    The rule: at least 16 columns that vary, none with a negative value, at least half reaching 0.9 of the
    largest value of all, and at least a third with a lower quartile of 0. A robust scale of each column
    would blow up the picture's corners.
    """
    if numbers.sum() < SHARED_MIN_COLUMNS or seen.low[numbers].min() < 0:
        return None
    largest = float(seen.high[numbers].max())
    reach = float((seen.high[numbers] >= 0.9 * largest).mean())
    zeros = float((seen.quartiles[numbers, 0] == 0).mean())
    return max(largest, SMALLEST_SCALE) if reach >= 1 / 2 and zeros >= 1 / 3 else None


def column_statistics(
    values: NDArray[Any],
    weights: Floats | None,
    cells: Cells,
    name_of: Callable[[int], str],
    n_bins: NDArray[np.integer],
) -> Statistics:
    """Sort every column once and read off all that is needed; integer weights count as copies, exactly."""
    m = values.shape[1]
    low, high, spread, share = np.zeros(m), np.zeros(m), np.ones(m), np.zeros(m)
    quartiles, distinct = np.zeros((m, 3)), np.zeros(m, dtype=np.int64)
    edges: list[Floats] = []
    for first in range(0, m, 16):  # columns of a row-major matrix are read 16 at a time, a cache line
        part = np.array(values[:, first : first + 16].T, order="C")
        part = part if part.dtype in (np.float32, np.float64) else part.astype(np.float64)
        for j, column in enumerate(part, start=first):
            ordered, cumulative, share[j] = _ordered(column, weights, cells, name_of(j))
            edges.append(np.empty(0))
            if not ordered.size:
                continue
            low[j], high[j] = ordered[0], ordered[-1]
            fresh = np.concatenate([[True], ordered[1:] != ordered[:-1]])
            distinct[j] = np.count_nonzero(fresh)
            quartiles[j] = _quantiles(ordered, cumulative, [0.25, 0.5, 0.75])
            if distinct[j] > 1:
                spread[j] = robust_spread(ordered, cumulative, quartiles[j])
                if n_bins[j]:
                    edges[j] = bin_edges(ordered, cumulative, ordered[fresh], int(n_bins[j]))
    return Statistics(low, high, quartiles, spread, distinct, share, tuple(edges))


def _ordered(
    column: NDArray[np.floating], weights: Floats | None, cells: Cells, name: str
) -> tuple[NDArray[np.floating], Floats | None, float]:
    """Return the known values in order, their cumulative weights, and the share of weight that is missing."""
    known = np.isfinite(column)
    share = 0.0
    if not known.all():
        for row in np.flatnonzero(np.isinf(column)):
            cells.report(int(row), name, *infinite(float(column[row])))
        total = column.size if weights is None else float(weights.sum())
        column = column[known]
        weights = None if weights is None else weights[known]
        rest = column.size if weights is None else float(weights.sum())
        share = (total - rest) / total
    if weights is None:
        return np.sort(column), None, share
    order = np.argsort(column, kind="stable")
    return column[order], np.cumsum(weights[order]), share


def _quantiles(ordered: NDArray[np.floating], cumulative: Floats | None, q: Any) -> Floats:
    return quantiles(ordered, q) if cumulative is None else weighted_quantiles(ordered, cumulative, q)


def robust_spread(ordered: NDArray[np.floating], cumulative: Floats | None, quartiles: Floats) -> float:
    """Return the distance between the quartiles, or a distance of the other values where that is 0.

    Where it is 0: the median distance of all other values from the median. It serves columns that are
    mostly one value, such as amounts that are mostly zero: half of the other values are then within 1 of
    the centre.

    Examples
    --------
    >>> x = np.array([0.0] * 12 + [10.0, 20.0, 90.0])
    >>> robust_spread(x, None, quantiles(x, [0.25, 0.5, 0.75]))
    20.0
    """
    with np.errstate(over="ignore"):
        spread = float(quartiles[2] - quartiles[0])
        if spread == 0:
            other = ordered != quartiles[1]
            distance = np.abs(ordered[other].astype(np.float64) - quartiles[1])
            order = np.argsort(distance, kind="stable")
            if cumulative is not None:
                weights = np.diff(cumulative, prepend=0.0)[other]
                cumulative = np.cumsum(weights[order])
            spread = float(_quantiles(distance[order], cumulative, [0.5])[0])
    return min(max(spread, SMALLEST_SCALE), LARGEST)


def bin_edges(
    ordered: NDArray[np.floating], cumulative: Floats | None, distinct: NDArray[np.floating], n_bins: int
) -> Floats:
    """Return the edges of at most ``n_bins`` bins: quantiles of rows and of distinct values, united.

    Rows put edges where the data are dense, distinct values where they are not (Gorishniy, Rubachev and
    Babenko 2022, arXiv 2203.05556, section 3.2, takes rows only).

    Examples
    --------
    >>> x = np.array([0.0] * 12 + [1.0, 2.0, 3.0, 4.0])
    >>> bin_edges(x, None, np.unique(x), 4)
    array([0., 2., 4.])
    """
    half = max(1, n_bins // 2)
    rows = _quantiles(ordered, cumulative, np.arange(half + 1) / half)
    values = quantiles(distinct, np.arange(n_bins - half + 1) / max(1, n_bins - half))
    return np.unique(np.concatenate([rows, values]))


def _bins(edges: tuple[Floats, ...], median: Floats) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    """Return column, lower edge, width and the value at the column's median of all bins."""
    sizes = np.array([max(0, edge.size - 1) for edge in edges], dtype=np.int64)
    column = np.repeat(np.arange(sizes.size), sizes)
    low = np.concatenate([np.empty(0), *(edge[:-1] for edge in edges)])
    high = np.concatenate([np.empty(0), *(edge[1:] for edge in edges)])
    with np.errstate(over="ignore"):
        width = np.clip(high - low, SMALLEST_SCALE, LARGEST)
        at_median = np.clip((median[column] - low) / width, 0.0, 1.0)
    return column, low, width, at_median
