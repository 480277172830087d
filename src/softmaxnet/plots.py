"""Pictures of how good probabilities are. Matplotlib is loaded when one is drawn, and its global state is not used."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.data.atomic import atomic_output
from softmaxnet.metrics import ReliabilityCurve, proportion_interval, reliability_bins, reliability_curve

if TYPE_CHECKING:
    from softmaxnet.softmax import Array

__all__ = ["reliability_diagram", "save_reliability_diagram"]

MIN_ROWS = 5
"""Under the kernel, for the curve to be drawn there."""
BLUE, ORANGE, GREY = "#1f5fa8", "#c8501e", "#777777"


def reliability_diagram(
    confidence: Array, correct: Array, *, title: str = "Reliability of the most probable class"
) -> Any:
    """Return a figure of how often rows of each confidence were right.

    Above, accuracy against confidence: as a smooth curve with its bootstrap band where at least five rows lie within
    its bandwidth, and as 15 points of equally many rows with Wilson's intervals; on the diagonal probabilities mean
    what they say. Below, how many rows have which confidence, on a logarithmic scale.

    Parameters
    ----------
    confidence : array of shape (n_samples,), in [0, 1]
        The highest probability of each row.
    correct : bool array of shape (n_samples,)
        Whether the class with that probability was the right one.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> len(reliability_diagram(np.full(100, 0.8), np.arange(100) % 10 < 6).axes)
    2
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 6.8), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    curve = reliability_curve(confidence, correct)
    above.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color=GREY, label="what it says is what happens")
    _draw_curve(above, curve)
    _draw_bins(above, reliability_bins(confidence, correct))
    above.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), ylabel="share that is right")
    above.set_title(f"{title}\n{curve.n_rows:,} rows, calibration error {curve.calibration_error:.3f}", fontsize=10)
    above.legend(loc="upper left", frameon=False, fontsize=9)
    above.grid(alpha=0.25)
    below.hist(np.asarray(confidence), bins=np.linspace(0, 1, 51), color=ORANGE, alpha=0.8, log=True)
    below.set(xlabel="confidence: probability of the most probable class", ylabel="rows", ylim=(0.5, None))
    return figure


def _draw_curve(axes: Any, curve: ReliabilityCurve) -> None:
    """Draw the curve where there are rows enough for one."""
    within = curve.density * curve.bandwidth * np.sqrt(2 * np.pi) * curve.n_rows  # rows under the kernel
    accuracy, low, high = (
        np.where(within >= MIN_ROWS, values, np.nan) for values in (curve.accuracy, curve.low, curve.high)
    )
    axes.fill_between(curve.confidence, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 % band")
    axes.plot(curve.confidence, accuracy, color=BLUE, linewidth=2, label="accuracy")


def _draw_bins(axes: Any, bins: list[dict[str, float]]) -> None:
    x, y = ([row[name] for row in bins] for name in ("confidence", "accuracy"))
    bounds = [proportion_interval(row["accuracy"], row["n_rows"]) for row in bins]
    reach = [
        [max(value - low, 0.0) for value, (low, _) in zip(y, bounds, strict=True)],
        [max(high - value, 0.0) for value, (_, high) in zip(y, bounds, strict=True)],
    ]
    axes.errorbar(
        x, y, yerr=reach, fmt="o", markersize=4, linewidth=1, color=ORANGE, label="equally many rows, 95 % interval"
    )


def save_reliability_diagram(
    path: str | os.PathLike[str],
    confidence: Array,
    correct: Array,
    *,
    title: str = "Reliability of the most probable class",
    force: bool = True,
) -> None:
    """Write a reliability diagram as a PNG file, whole or not at all; the same rows give the same file.

    Parameters
    ----------
    path : str or path
    confidence : array of shape (n_samples,), in [0, 1]
        The highest probability of each row.
    correct : bool array of shape (n_samples,)
    title : str
    force : bool
        Whether a file that is there may be replaced.

    Raises
    ------
    UsageError, ResourceError
        As :func:`softmaxnet.data.atomic.atomic_output`.
    """
    picture = io.BytesIO()
    figure = reliability_diagram(confidence, correct, title=title)
    figure.savefig(picture, format="png", dpi=130, metadata={"Software": None})
    with atomic_output(os.fspath(path), force=force) as file:
        file.write(picture.getvalue())
