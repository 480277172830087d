"""Coverage against the size of sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from softmaxnet.plots.inputs import BLUE, ORANGE, labelled, new_axes, predictions_of

__all__ = ["CoverageDisplay"]


@dataclass
class CoverageDisplay:
    """How often sets of classes hold the label, against how large they are.

    Attributes
    ----------
    size, coverage : arrays
        Of the sets of all classes above a threshold, for every threshold that matters on these rows; the most probable
        class is in every set.
    top_k : array of shape (k,)
        Coverage of the 1, 2, ... most probable classes.
    stated : list of (coverage asked for, coverage, mean size)
        Of the sets that the model was prepared for, where it was.
    ax_, figure_, line_ :
        What was drawn last.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> y, proba = ["a", "b", "b"], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]
    >>> display = CoverageDisplay.from_predictions(y, proba, ax=Figure().subplots())
    >>> print(display.top_k.round(2), display.size.round(2)[-1], display.coverage[-1])
    [0.67 1.  ] 1.33 1.0
    """

    size: npt.NDArray[np.float64]
    coverage: npt.NDArray[np.float64]
    top_k: npt.NDArray[np.float64]
    stated: list[tuple[float, float, float]] = field(default_factory=list)
    name: str = ""
    ax_: Any = field(default=None, repr=False)
    figure_: Any = field(default=None, repr=False)
    line_: Any = field(default=None, repr=False)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, coverages: Sequence[float] = (0.8, 0.9, 0.95), **settings: Any
    ) -> CoverageDisplay:
        """Predict rows and draw; where the model was prepared for sets, also these at the given coverages."""
        proba, classes = predictions_of(estimator, X)
        sets = getattr(getattr(estimator, "model_", estimator), "conformal", None)
        settings.setdefault("name", type(estimator).__name__)
        return cls.from_predictions(y, proba, classes=classes, sets=sets, coverages=coverages, **settings)

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_proba: Any,
        *,
        classes: Any = None,
        sets: Any = None,
        coverages: Sequence[float] = (0.8, 0.9, 0.95),
        name: str = "",
        ax: Any = None,
    ) -> CoverageDisplay:
        """Draw coverage against size.

        Parameters
        ----------
        y_true : labels, (n_samples,)
        y_proba : array of shape (n_samples, n_classes)
        classes : labels in the order of the columns, optional
        sets : PredictionSets, optional
            Fitted to other rows; drawn as points at ``coverages``.
        coverages : sequence of float
        name : str
        ax : matplotlib axes, optional
        """
        labels, proba, classes = labelled(y_true, y_proba, classes)
        n, k = proba.shape
        own = np.where(labels >= 0, proba[np.arange(n), np.maximum(labels, 0)], -1.0)
        rank = np.where(labels >= 0, (proba > own[:, None]).sum(axis=1), k)
        top_k = np.array([(rank < place).mean() for place in range(1, k + 1)])
        known = own[own >= 0]
        thresholds = np.unique(np.quantile(known, np.linspace(0, 1, 201)))[::-1] if known.size else known
        largest = proba.max(axis=1)
        size = np.array([np.maximum((proba >= low).sum(axis=1), 1).mean() for low in thresholds])
        held = np.array([((own >= low) | (own == largest)).mean() for low in thresholds])
        stated = [] if sets is None else [_prepared(sets, proba, labels, asked) for asked in coverages]
        return cls(size, held, top_k, stated, name).plot(ax=ax)

    def plot(self, ax: Any = None, *, name: str | None = None, color: str = BLUE) -> CoverageDisplay:
        """Draw; several displays may share their axes."""
        ax = new_axes(ax)
        label = (self.name if name is None else name) or "all classes above a threshold"
        (self.line_,) = ax.plot(self.size, self.coverage, color=color, linewidth=2, label=label)
        last = max(float(self.size.max(initial=1.0)), 2.0)
        shown = np.arange(1, min(len(self.top_k), int(np.ceil(last))) + 1)
        ax.plot(shown, self.top_k[: len(shown)], ":o", markersize=3, color=ORANGE, label="the k most probable")
        for asked, held, size in self.stated:
            ax.plot([size], [held], "D", color=ORANGE, markersize=6)
            ax.annotate(f"{asked:.0%}", (size, held), xytext=(7, -9), textcoords="offset points", fontsize=9)
        if last > 8:
            ax.set_xscale("log")
        ax.set(xlabel="classes in the set, on average", ylabel="sets that hold the label")
        ax.legend(loc="lower right", frameon=False, fontsize=9)
        ax.grid(alpha=0.25)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _prepared(
    sets: Any, proba: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], asked: float
) -> tuple[float, float, float]:
    """Return the coverage asked for, the coverage and the mean size of prepared sets."""
    members = sets.predict(proba, asked)
    held = np.take_along_axis(members, np.maximum(labels, 0)[:, None], axis=1)[:, 0] & (labels >= 0)
    return asked, float(held.mean()), float(members.sum(axis=1).mean())
