"""Pictures of how good probabilities are, for notebooks, with scikit-learn's conventions for displays.

``ReliabilityDisplay.from_estimator(model, X, y)`` and ``.from_predictions(y, proba, classes=...)`` compute and draw.
The display that they return has ``ax_`` and ``figure_``, and ``plot(ax=...)`` draws it again. An estimator is whatever
has ``predict_proba`` and ``classes_`` (or ``classes``, as a model read from a file has).

Matplotlib is loaded when a picture is drawn; pyplot only where no axes are given. It comes with
``pip install softmaxnet[plot]``.
"""

from __future__ import annotations

from softmaxnet.plots.confusion import ConfusionDisplay
from softmaxnet.plots.reliability import ReliabilityDisplay, reliability_diagram, save_reliability_diagram
from softmaxnet.plots.sets import CoverageDisplay
from softmaxnet.plots.training import TrainingCurveDisplay

__all__ = [
    "ConfusionDisplay",
    "CoverageDisplay",
    "ReliabilityDisplay",
    "TrainingCurveDisplay",
    "reliability_diagram",
    "save_reliability_diagram",
]
