"""Accuracy against confidence."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.data.atomic import atomic_output
from softmaxnet.data.labels import lookup_labels
from softmaxnet.errors import UsageError
from softmaxnet.metrics import ReliabilityCurve, proportion_interval, reliability_bins, reliability_curve
from softmaxnet.plots.inputs import BLUE, GREY, ORANGE, labelled, new_axes, predictions_of

if TYPE_CHECKING:
    from softmaxnet.logit_arguments import Array

__all__ = ["ReliabilityDisplay", "reliability_diagram", "save_reliability_diagram"]


@dataclass
class ReliabilityDisplay:
    """How often rows of each confidence were right: a smooth curve with its band, and bins with their intervals.

    Made by :meth:`from_estimator` and :meth:`from_predictions`.

    Attributes
    ----------
    curve : ReliabilityCurve
    bins : list of dict
        As :func:`softmaxnet.metrics.reliability_bins` has them.
    name : str
        Of the curve in the legend, and in the title.
    ax_, figure_, line_ :
        What was drawn last.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> proba = [[0.2, 0.8]] * 1000
    >>> display = ReliabilityDisplay.from_predictions(["no", "yes", "yes", "yes", "yes"] * 200, proba, ax=ax)
    >>> round(display.curve.calibration_error, 3), display.ax_ is ax
    (0.0, True)
    """

    curve: ReliabilityCurve
    bins: list[dict[str, float]]
    name: str = ""
    ax_: Any = field(default=None, repr=False)
    figure_: Any = field(default=None, repr=False)
    line_: Any = field(default=None, repr=False)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, sample_weight: Array | None = None, **settings: Any
    ) -> ReliabilityDisplay:
        """Predict rows and draw; settings are those of :meth:`from_predictions`."""
        proba, classes = predictions_of(estimator, X)
        settings.setdefault("name", type(estimator).__name__)
        return cls.from_predictions(y, proba, classes=classes, sample_weight=sample_weight, **settings)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_proba: Any,
        *,
        classes: Any = None,
        pos_label: Any = None,
        sample_weight: Array | None = None,
        n_bins: int = 15,
        name: str = "",
        ax: Any = None,
    ) -> ReliabilityDisplay:
        """Draw how labels compare with probabilities.

        Parameters
        ----------
        y_true : labels, (n_samples,)
        y_proba : array of shape (n_samples, n_classes), or (n_samples,) for the second of two classes
        classes : labels in the order of the columns, optional
            By default the sorted values of ``y_true``.
        pos_label : a class, optional
            Only that class, against all others. By default the most probable class of each row.
        sample_weight : array of shape (n_samples,), optional
        n_bins : int
        name : str
        ax : matplotlib axes, optional
            By default a new figure of pyplot.

        Raises
        ------
        DataError
            Where shapes do not fit together.
        UsageError
            Where ``pos_label`` is not a class.
        """
        labels, proba, classes = labelled(y_true, y_proba, classes)
        if pos_label is None:
            known = labels >= 0
            confidence, correct = proba.max(axis=1)[known], (proba.argmax(axis=1) == labels)[known]
            sample_weight = None if sample_weight is None else np.asarray(sample_weight)[known]
        else:
            place = int(lookup_labels([pos_label], classes)[0])
            if place < 0:
                raise UsageError(f"pos_label {pos_label!r} is not one of the classes.")
            confidence, correct = proba[:, place], labels == place
        confidence = np.minimum(confidence, 1.0)
        curve = reliability_curve(confidence, correct, sample_weight=sample_weight)
        bins = reliability_bins(confidence, correct, sample_weight=sample_weight, n_bins=n_bins)
        return cls(curve, bins, name).plot(ax=ax)

    def plot(
        self, ax: Any = None, *, name: str | None = None, color: str = BLUE, show_bins: bool = True
    ) -> ReliabilityDisplay:
        """Draw; several displays may share their axes."""
        ax = new_axes(ax)
        curve, name = self.curve.where_known(), self.name if name is None else name
        if not any(line.get_label() == "what it says is what happens" for line in ax.lines):
            ax.plot([0, 1], [0, 1], "--", linewidth=1, color=GREY, label="what it says is what happens")
        ax.fill_between(curve.confidence, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
        label = f"{name or 'accuracy'} (calibration error {curve.calibration_error:.3f})"
        (self.line_,) = ax.plot(curve.confidence, curve.accuracy, color=color, linewidth=2, label=label)
        if show_bins:
            _draw_bins(ax, self.bins, color)
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="confidence", ylabel="share that is right")
        ax.legend(loc="upper left", frameon=False, fontsize=9)
        ax.grid(alpha=0.25)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _draw_bins(axes: Any, bins: list[dict[str, float]], color: str = ORANGE, label: str | None = None) -> None:
    x, y = ([row[name] for row in bins] for name in ("confidence", "accuracy"))
    bounds = [proportion_interval(row["accuracy"], row["n_rows"]) for row in bins]
    reach = [
        [max(value - low, 0.0) for value, (low, _) in zip(y, bounds, strict=True)],
        [max(high - value, 0.0) for value, (_, high) in zip(y, bounds, strict=True)],
    ]
    axes.errorbar(x, y, yerr=reach, fmt="o", markersize=4, linewidth=1, color=color, label=label)


def reliability_diagram(
    confidence: Array, correct: Array, *, title: str = "Reliability of the most probable class"
) -> Any:
    """Return a figure of how often rows of each confidence were right.

    Above, accuracy against confidence: as a smooth curve with its bootstrap band where at least five rows lie within
    its bandwidth, and as 15 points of equally many rows with Wilson's intervals; on the diagonal probabilities mean
    what they say. Below, how many rows have which confidence, on a logarithmic scale. Matplotlib's global state is not
    used.

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
    known = curve.where_known()
    above.plot([0, 1], [0, 1], linestyle="--", linewidth=1, color=GREY, label="what it says is what happens")
    above.fill_between(known.confidence, known.low, known.high, color=BLUE, alpha=0.2, linewidth=0, label="95 % band")
    above.plot(known.confidence, known.accuracy, color=BLUE, linewidth=2, label="accuracy")
    _draw_bins(above, reliability_bins(confidence, correct), label="equally many rows, 95 % interval")
    above.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), ylabel="share that is right")
    above.set_title(f"{title}\n{curve.n_rows:,} rows, calibration error {curve.calibration_error:.3f}", fontsize=10)
    above.legend(loc="upper left", frameon=False, fontsize=9)
    above.grid(alpha=0.25)
    below.hist(np.asarray(confidence), bins=np.linspace(0, 1, 51), color=ORANGE, alpha=0.8, log=True)
    below.set(xlabel="confidence: probability of the most probable class", ylabel="rows", ylim=(0.5, None))
    return figure


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
