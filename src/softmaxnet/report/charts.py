"""The charts of a report: reliability, the worst classes, coverage against set size, the course of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.metrics import ReliabilityCurve, proportion_interval
from softmaxnet.report.rows import COVERAGES, N_CELLS
from softmaxnet.report.svg import Chart

__all__ = [
    "ClassPanel",
    "class_panels",
    "coverage_chart",
    "percent",
    "reliability_chart",
    "training_chart",
]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]

STRIP = 64
"""Height of the histogram under a reliability diagram."""
LEAST_ROWS = 10
"""Rows of a point in a class's panel."""
MOST_RANKS = 50


def percent(share: float, digits: int = 0) -> str:
    r"""Return a share as a percentage.

    Examples
    --------
    >>> percent(0.5), percent(0.9876, 1)
    ('50\xa0%', '98.8\xa0%')
    """
    return f"{share * 100:.{digits}f}\N{NO-BREAK SPACE}%"


# --- reliability --------------------------------------------------------------------------------------------


def reliability_chart(
    curve: ReliabilityCurve, bins: Sequence[Mapping[str, float]], confidence: Floats, *, binary: bool
) -> str:
    """Return accuracy against confidence as a curve with its band, bins as points, and how many rows are where."""
    low = 0.5 if binary else 0.0
    chart = Chart(
        "Reliability diagram: the share that is right against the confidence",
        (low, 1.0), (low if binary else 0.0, 1.0), 480, 400 + STRIP, (12, 24, 50 + STRIP, 64),
    )  # fmt: skip
    if binary and any(row["accuracy"] < 0.5 for row in bins):
        chart = Chart(chart.label, (0.5, 1.0), (0.0, 1.0), 480, 400 + STRIP, (12, 24, 50 + STRIP, 64))
    chart.axes("", "share that is right", x_format=percent, y_format=percent)
    chart.line([low, 1.0], [low, 1.0], "diagonal")
    known, inside = curve.where_known(), curve.confidence >= low
    chart.band(known.confidence[inside], known.low[inside], known.high[inside], "band")
    chart.line(known.confidence[inside], known.accuracy[inside], "curve")
    for row in bins:
        bounds = proportion_interval(row["accuracy"], row["n_rows"])
        chart.whisker(row["confidence"], *bounds, "whisker")
        title = (
            f"{row['n_rows']:,} rows: confidence {percent(row['confidence'], 1)}, "
            f"right {percent(row['accuracy'], 1)} (95 % interval {percent(bounds[0], 1)} to {percent(bounds[1], 1)})"
        )
        chart.dot(row["confidence"], row["accuracy"], 3.2, "point", title)
    _histogram(chart, confidence, low)
    return chart.render()


def _histogram(chart: Chart, confidence: Floats, low: float) -> None:
    """Draw how many rows have which confidence, below the axis, logarithmically."""
    counts, edges = np.histogram(confidence, bins=40, range=(low, 1.0))
    floor, top = chart.height - 34, chart.height - 50 - STRIP + 26
    highest = math.log10(max(int(counts.max(initial=1)), 1) + 1)
    for count, left, right in zip(counts.tolist(), edges, edges[1:], strict=False):
        if not count:
            continue
        height = (floor - top) * math.log10(count + 1) / highest
        x = chart.to_x(left) + 0.5
        chart.add(
            f'<rect class="bar" x="{x:.1f}" y="{floor - height:.1f}" width="{chart.to_x(right) - x - 0.5:.1f}" '
            f'height="{height:.1f}"><title>{count:,} rows from {percent(left, 1)} to {percent(right, 1)}</title></rect>'
        )
    middle = (chart.to_x(low) + chart.to_x(1.0)) / 2
    chart.add(f'<path class="frame" d="M{chart.to_x(low):.1f},{floor}H{chart.to_x(1.0):.1f}"/>')
    chart.add(
        f'<text class="axis" x="{middle:.0f}" y="{chart.height - 10}" text-anchor="middle">'
        "confidence (bars: rows, logarithmic)</text>"
    )


# --- the worst classes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassPanel:
    """One class against the others.

    Attributes
    ----------
    label : int
    n_rows : int
        Rows of that class.
    expected : float
        How many the probabilities add up to.
    excess : float
        Rows by which its cells are off, beyond what a calibrated model's would be by chance.
    svg : str
    """

    label: int
    n_rows: int
    expected: float
    excess: float
    svg: str


def class_panels(cells: Any, n_panels: int) -> list[ClassPanel]:
    """Return the classes whose probabilities are farthest from what happened, the worst first.

    A class's distance is ``sum_b |hits_b - sum of p|`` over cells of its probability, less the mean that a calibrated
    model's would have by chance, ``sum_b sqrt(2 / pi sum of p (1 - p))``.
    """
    gap = np.abs(cells.hits - cells.proba).sum(axis=1)
    chance = np.sqrt(cells.variance * 2 / np.pi).sum(axis=1)
    excess = gap - chance
    order = np.argsort(-excess, kind="stable")[: 1 if len(excess) == 2 else n_panels]
    if len(excess) == 2:  # the other one is its mirror image
        order = np.array([1])
    return [
        ClassPanel(
            int(k), int(cells.hits[k].sum()), float(cells.proba[k].sum()), float(excess[k]), _class_svg(cells, int(k))
        )
        for k in order
        if cells.rows[k].any()
    ]


def classwise_error(cells: Any) -> tuple[Floats, Floats]:
    """Return the calibration error of every class in 20 equal cells, and what chance alone gives on average."""
    n = max(float(cells.rows[0].sum()), 1.0)
    gap = np.abs(cells.hits - cells.proba).sum(axis=1) / n
    return gap, np.sqrt(cells.variance * 2 / np.pi).sum(axis=1) / n


def _class_svg(cells: Any, k: int) -> str:
    chart = Chart("Reliability of one class", (0.0, 1.0), (0.0, 1.0), 220, 190, (8, 22, 26, 48))
    chart.axes("", "", x_format=percent, y_format=percent, n_x=2, n_y=2)
    chart.line([0, 1], [0, 1], "diagonal")
    points = _merged(cells.rows[k], cells.proba[k], cells.hits[k])
    most = max(row[0] for row in points)
    chart.line([row[1] for row in points], [row[2] for row in points], "thin")
    for n, said, happened in points:
        low, high = proportion_interval(happened, n)
        chart.whisker(said, low, high, "whisker")
        title = f"{n:,.0f} rows: said {percent(said, 1)}, happened {percent(happened, 1)}"
        chart.dot(said, happened, 2.2 + 2.5 * math.sqrt(n / most), "point", title)
    return chart.render()


def _merged(rows: Floats, proba: Floats, hits: Floats) -> list[tuple[float, float, float]]:
    """Return rows, mean probability and share of hits of neighbouring cells, merged until each has enough rows."""
    found, n, p, h = [], 0.0, 0.0, 0.0
    for cell in range(N_CELLS):
        n, p, h = n + rows[cell], p + proba[cell], h + hits[cell]
        if n >= LEAST_ROWS and rows[cell + 1 :].sum() >= LEAST_ROWS:
            found.append((n, p / n, h / n))
            n = p = h = 0.0
    return [*found, (n, p / n, h / n)] if n else found


# --- sets ---------------------------------------------------------------------------------------------------


def coverage_chart(
    curve: tuple[Floats, Floats], ranks: Ints, n_classes: int, prepared: Any
) -> tuple[str, list[dict[str, float]]]:
    """Return coverage against the mean size of sets: by threshold, of fixed size, and those that were prepared.

    Also returns a row for each coverage of the prepared sets.
    """
    sizes, covered = curve
    rows = prepared_rows(prepared)
    fixed = [(k, float((ranks < k).mean())) for k in range(1, min(n_classes, MOST_RANKS) + 1)]
    enough = np.flatnonzero(covered >= min(0.995, covered.max()))
    largest = max([1.5, float(sizes[enough[0]]) * 1.3 if enough.size else 1.5, *(row["size"] * 1.1 for row in rows)])
    largest = min(largest, float(n_classes)) if n_classes > 2 else 2.0
    lowest = math.floor(min(fixed[0][1], *(row["coverage"] for row in rows), 0.95) * 20) / 20
    chart = Chart(
        "Coverage against the mean size of prediction sets", (1.0, max(largest, 1.01)), (lowest, 1.0), 480, 330,
        (12, 24, 46, 64), log_x=largest > 8,
    )  # fmt: skip
    chart.axes("classes in the set, on average", "sets that hold the label", x_format=_plain, y_format=percent)
    inside = sizes <= largest
    chart.line(sizes[inside], covered[inside], "curve")
    few = [(k, share) for k, share in fixed if k <= largest]
    chart.line([k for k, _ in few], [share for _, share in few], "other")
    for k, share in few[:20]:
        chart.dot(k, share, 2.6, "other-point", f"the {k} most probable: {percent(share, 1)}")
    for row in rows:
        title = f"asked {percent(row['stated'])}: holds {percent(row['coverage'], 1)}, {row['size']:.2f} classes"
        chart.dot(row["size"], row["coverage"], 5.0, "target", title)
        chart.add(
            f'<text class="label" x="{chart.to_x(row["size"]) + 9:.1f}" y="{chart.to_y(row["coverage"]) + 12:.1f}">'
            f"{percent(row['stated'])}</text>"
        )
    return chart.render(), rows


def prepared_rows(prepared: Any) -> list[dict[str, float]]:
    """Return coverage with its interval, mean size and shares of the sets that the model was prepared for."""
    if prepared is None or not prepared.rows:
        return []
    rows = []
    for stated in COVERAGES:
        if stated not in prepared.covered:
            continue
        share, sizes = prepared.covered[stated] / prepared.rows, prepared.sizes[stated]
        low, high = proportion_interval(share, prepared.rows)
        counted = prepared.class_rows >= LEAST_ROWS
        of_class = prepared.of_class[stated][counted] / prepared.class_rows[counted]
        worst = int(np.flatnonzero(counted)[of_class.argmin()]) if of_class.size else -1
        rows.append(
            {
                "stated": stated,
                "coverage": share,
                "low": low,
                "high": high,
                "size": float(sizes @ np.arange(sizes.size) / prepared.rows),
                "single": float(sizes[1] / prepared.rows),
                "worst": worst,
                "worst_coverage": float(of_class.min()) if of_class.size else math.nan,
            }
        )
    return rows


def _plain(value: float) -> str:
    return f"{value:g}"


# --- training -----------------------------------------------------------------------------------------------


def training_chart(history: Sequence[Mapping[str, float]]) -> str:
    """Return the losses by epoch, with the epoch that was kept."""
    epochs = [line["epoch"] for line in history]
    columns = {name: [line.get(name, math.nan) for line in history] for name in ("loss", "validation_log_loss")}
    values = np.array([value for column in columns.values() for value in column])
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    log = low > 0 and high / low > 20
    room = (high - low) * 0.05 or 0.1
    bounds = (low / 1.1, high * 1.1) if log else (max(0.0, low - room) if low >= 0 else low - room, high + room)
    chart = Chart(
        "Loss by epoch", (min(epochs), max(max(epochs), min(epochs) + 1)), bounds, 480, 300, (12, 24, 46, 64), log_y=log
    )
    chart.axes("epoch", "loss in nats", x_format=_plain, y_format=lambda value: f"{value:.3g}")
    chart.line(epochs, columns["loss"], "other")
    chart.line(epochs, columns["validation_log_loss"], "curve")
    held_out = np.array(columns["validation_log_loss"])
    if np.isfinite(held_out).any():
        best = int(np.nanargmin(held_out))
        title = f"epoch {epochs[best]:g}: held-out log loss {held_out[best]:.4f}"
        chart.dot(epochs[best], held_out[best], 4.5, "target", title)
    return chart.render()
