"""What displays are made of: axes to draw in, labels and probabilities that fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from softmaxnet.data.labels import lookup_labels
from softmaxnet.errors import DataError, ResourceError, UsageError

__all__ = ["BLUE", "GREY", "ORANGE", "labelled", "new_axes", "predictions_of"]

BLUE, ORANGE, GREY = "#1f5fa8", "#c8501e", "#777777"


def new_axes(ax: Any) -> Any:
    """Return the axes to draw in; new ones of pyplot, as a notebook shows them, where none are given."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ResourceError(
            "matplotlib is not installed, which drawing needs.", hint="Install it: pip install 'softmaxnet[plot]'."
        ) from None
    return plt.subplots(layout="constrained")[1]


def predictions_of(estimator: Any, X: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any]]:
    """Return probabilities and classes of a fitted estimator or a model."""
    classes = getattr(estimator, "classes_", getattr(estimator, "classes", None))
    if classes is None or not hasattr(estimator, "predict_proba"):
        raise UsageError(
            f"a fitted classifier with predict_proba and classes_ is needed. Got a {type(estimator).__name__} instead."
        )
    return np.asarray(estimator.predict_proba(X), dtype=np.float64), np.asarray(classes)


def labelled(
    y_true: Any, y_proba: Any, classes: Any
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[Any]]:
    """Return labels 0..K-1 (-1 for one that is no class), probabilities (n, K) and the classes."""
    proba = np.asarray(y_proba, dtype=np.float64)
    if proba.ndim == 1:  # as scikit-learn has it for two classes: the probability of the second
        proba = np.stack([1 - proba, proba], axis=1)
    classes = np.unique(np.asarray(y_true)) if classes is None else np.asarray(classes)
    if proba.ndim != 2 or proba.shape[1] != len(classes):
        raise DataError(
            f"y_proba has shape {proba.shape}, and there are {len(classes)} classes",
            hint="Give classes=..., the labels in the order of the columns of y_proba.",
        )
    labels = lookup_labels(y_true, classes)
    if len(labels) != len(proba):
        raise DataError(f"y_true has {len(labels)} labels and y_proba {len(proba)} rows")
    return labels, proba, classes
