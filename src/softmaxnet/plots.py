"""Pictures of how good probabilities are. Matplotlib is loaded when one is drawn, and its global state is not used."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.data.atomic import atomic_output
from softmaxnet.metrics import ReliabilityCurve, reliability_curve

if TYPE_CHECKING:
    from softmaxnet.softmax import Array

__all__ = ["reliability_diagram", "save_reliability_diagram"]

BLUE, ORANGE, GREY = "#1f5fa8", "#c8501e", "#777777"


def reliability_diagram(curve: ReliabilityCurve, *, title: str = "Reliability of the most probable class") -> Any:
    """Return a figure of how often rows of each confidence were right.

    Above, accuracy against confidence with its band, and the diagonal on which probabilities mean what they say;
    below, how many rows have which confidence.

    Parameters
    ----------
    curve : ReliabilityCurve
        From :func:`softmaxnet.metrics.reliability_curve`.
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> curve = reliability_curve(np.full(100, 0.8), np.arange(100) % 10 < 6)
    >>> len(reliability_diagram(curve).axes)
    2
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    above.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color=GREY, label="what they say is what they are")
    above.fill_between(curve.confidence, curve.low, curve.high, color=BLUE, alpha=0.2, linewidth=0, label="95 % band")
    above.plot(curve.confidence, curve.accuracy, color=BLUE, linewidth=2, label="accuracy")
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right", aspect="equal")
    above.set_title(f"{title}\n{curve.n_rows:,} rows, calibration error {curve.calibration_error:.3f}", fontsize=10)
    above.legend(loc="upper left", frameon=False, fontsize=9)
    above.grid(alpha=0.25)
    below.fill_between(curve.confidence, np.nan_to_num(curve.density), color=ORANGE, alpha=0.7, linewidth=0)
    below.set(xlabel="confidence: probability of the most probable class", ylabel="rows", yticks=[])
    return figure


def save_reliability_diagram(
    path: str | os.PathLike[str],
    confidence: Array,
    correct: Array,
    *,
    title: str = "Reliability of the most probable class",
    force: bool = True,
) -> ReliabilityCurve:
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

    Returns
    -------
    ReliabilityCurve

    Raises
    ------
    UsageError, ResourceError
        As :func:`softmaxnet.data.atomic.atomic_output`.
    """
    curve = reliability_curve(confidence, correct)
    picture = io.BytesIO()
    reliability_diagram(curve, title=title).savefig(picture, format="png", dpi=130, metadata={"Software": None})
    with atomic_output(os.fspath(path), force=force) as file:
        file.write(picture.getvalue())
    return curve
