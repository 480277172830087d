"""What an explanation is: one row's logit as a sum, with its words and its picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import UsageError

__all__ = ["Explanation", "Word", "square"]


@dataclass(frozen=True)
class Word:
    """A word of a text and what it contributed.

    Attributes
    ----------
    column : str
    text : str
        What stands between two white spaces, as it was written; empty for what the baseline's texts contribute.
    start, end : int or None
        ``cell[start:end]`` is the word; None where the cell's characters cannot be told apart so.
    contribution : float, in nats
        Of its own tokens, of the runs of characters in it, and half of each pair of words that it is in.
    """

    column: str
    text: str
    start: int | None
    end: int | None
    contribution: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """One row's logit as a sum: ``logit = baseline_logit + contributions.sum()``, exact up to rounding.

    Attributes
    ----------
    row : int
        Its place among the rows given.
    label, versus : a class, or None
        The class in question, and the one that it is compared with: ``logit`` is then the difference of their logits.
    predicted : a class
        The most probable one.
    probability : float
        Of ``label``.
    logit, baseline_logit : float, in nats
        At the row and at the baseline.
    names : tuple of str, (n_features_in,)
    values : tuple, (n_features_in,)
        The row's cells as they were given; None is a missing one.
    contributions : float64 (n_features_in,), in nats
        Positive ones speak for ``label``.
    words : tuple of Word
        Of every text column; those of one column sum to its contribution.
    method : "exact" or "integrated gradients"
    n_nodes : int
        Points on the line where the gradient was taken.
    completeness_error : float, in nats
        By how much the integral missed the difference of the logits, before that rest was spread over the
        contributions in proportion to their size.
    image_shape : tuple of int or None
        ``(height, width)`` or ``(height, width, channels)`` of a row that is a picture.
    """

    row: int
    label: Any
    versus: Any
    predicted: Any
    probability: float
    logit: float
    baseline_logit: float
    names: tuple[str, ...]
    values: tuple[Any, ...]
    contributions: npt.NDArray[np.float64]
    words: tuple[Word, ...]
    method: str
    n_nodes: int
    completeness_error: float
    image_shape: tuple[int, ...] | None = None

    def top(self, n: int | None = None) -> list[tuple[str, Any, float]]:
        """Return ``(name, value, contribution)`` of the n largest contributions, those that are not 0."""
        size = np.abs(self.contributions)
        order = [int(j) for j in np.argsort(-size, kind="stable")[: size.size if n is None else n] if size[j] > 0]
        return [(self.names[j], self.values[j], float(self.contributions[j])) for j in order]

    def picture(self, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.float64]:
        """Return the contribution of every pixel, (height, width); the channels of a pixel are summed.

        Parameters
        ----------
        shape : (height, width) or (height, width, channels), optional
            By default the shape that the training pictures had, where the model knows it, or a square.

        Raises
        ------
        UsageError
            Where the row has another number of inputs.
        """
        shape = shape or self.image_shape or square(self.contributions.size)
        if shape is None or math.prod(shape) != self.contributions.size or len(shape) not in (2, 3):
            raise UsageError(
                f"{self.contributions.size} inputs are not a picture of shape {shape}.",
                hint="Give picture(shape=(height, width)).",
            )
        pixels = self.contributions.reshape(shape)
        return pixels if len(shape) == 2 else pixels.sum(axis=2)

    def to_dict(self, n: int | None = None) -> dict[str, Any]:
        """Return plain data for JSON: the n largest contributions, the words and, of a picture, all pixels."""
        rows = [{"name": name, "value": _plain(value), "contribution": part} for name, value, part in self.top(n)]
        return {
            "row": self.row,
            "label": _plain(self.label),
            "versus": _plain(self.versus),
            "predicted": _plain(self.predicted),
            "probability": self.probability,
            "logit": self.logit,
            "baseline_logit": self.baseline_logit,
            "contributions": rows,
            "words": [dict(vars(word)) for word in self.words],
            "picture": None if self.image_shape is None else self.picture().tolist(),
            "method": self.method,
            "n_nodes": self.n_nodes,
            "completeness_error": self.completeness_error,
        }


def _plain(value: Any) -> Any:
    """Return a cell or a label as JSON has it.

    Examples
    --------
    >>> import datetime
    >>> [_plain(value) for value in (np.int64(3), float("nan"), datetime.date(2024, 2, 29), None)]
    [3, None, '2024-02-29', None]
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def square(n: int) -> tuple[int, ...] | None:
    """Return the shape of a square of so many pixels, None where there is none.

    Examples
    --------
    >>> square(784), square(10)
    ((28, 28), None)
    """
    side = math.isqrt(n)
    return (side, side) if side * side == n else None
