"""The course of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softmaxnet.errors import DataError
from softmaxnet.history import history_rows
from softmaxnet.plots.inputs import BLUE, ORANGE, new_axes

__all__ = ["TrainingCurveDisplay"]


@dataclass
class TrainingCurveDisplay:
    """The losses by epoch, with the epoch that was kept.

    Attributes
    ----------
    history : list of dict
        A line for each epoch: "epoch", "loss" and, where rows were held out, "validation_log_loss".
    ax_, figure_ :
        What was drawn last.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> lines = [{"epoch": 1, "loss": 2.0, "validation_log_loss": 1.0}, {"epoch": 2, "loss": 1.0}]
    >>> TrainingCurveDisplay.from_history(lines, ax=Figure().subplots()).best_epoch
    1
    """

    history: list[dict[str, float]]
    ax_: Any = field(default=None, repr=False)
    figure_: Any = field(default=None, repr=False)

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> TrainingCurveDisplay:
        """Draw the history of a fitted estimator, or that which a loaded model has from its file."""
        lines = getattr(estimator, "history_", None)
        if lines is None:
            lines = history_rows(getattr(estimator, "metrics", {}).get("history"))
        return cls.from_history(lines, ax=ax)

    @classmethod
    def from_history(cls, history: Sequence[Any], *, ax: Any = None) -> TrainingCurveDisplay:
        """Draw lines such as ``clf.history_`` has.

        Raises
        ------
        DataError
            Where no line has an epoch and a loss.
        """
        lines = [dict(line) for line in history if "epoch" in line and "loss" in line]
        if not lines:
            raise DataError("there is no history to draw: the model was fitted at once, or by an older version")
        return cls(lines).plot(ax=ax)

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the lowest held-out log loss; None where nothing was held out."""
        scored = [line for line in self.history if "validation_log_loss" in line]
        return int(min(scored, key=lambda line: line["validation_log_loss"])["epoch"]) if scored else None

    def plot(self, ax: Any = None) -> TrainingCurveDisplay:
        """Draw."""
        ax = new_axes(ax)
        ax.plot(*self._column("loss"), ":", color=ORANGE, label="loss of the training rows")
        epochs, losses = self._column("validation_log_loss")
        if losses:
            ax.plot(epochs, losses, color=BLUE, linewidth=2, label="log loss of the rows held out")
            best = int(np.argmin(losses))
            ax.plot([epochs[best]], [losses[best]], "o", color=BLUE, label=f"kept: epoch {epochs[best]:g}")
        ax.set(xlabel="epoch", ylabel="nats")
        ax.legend(frameon=False, fontsize=9)
        ax.grid(alpha=0.25)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _column(self, name: str) -> tuple[list[float], list[float]]:
        lines = [line for line in self.history if name in line]
        return [line["epoch"] for line in lines], [line[name] for line in lines]
