"""The findings of a report as sentences: what stands in front, for somebody who reads nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.metrics import RowScores, proportion_interval
from softmaxnet.report.charts import percent
from softmaxnet.report.confusion import Confusions, short_name
from softmaxnet.report.svg import escaped

__all__ = ["Band", "base_rate_loss", "confidence_bands", "sentences", "verdict"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]

EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
WANTED = 0.77
"""The promise that the first sentence is about, where there are rows enough near it."""
LEAST_ROWS = 20
NEAR = 0.02
"""By how much a calibration error may pass what chance explains and still be called small."""


@dataclass(frozen=True)
class Band:
    """Rows of about one confidence: what was promised and what happened."""

    low: float
    high: float
    n_rows: int
    confidence: float
    accuracy: float
    bounds: tuple[float, float]

    @property
    def name(self) -> str:
        """Such as 70 to 80 %."""
        return f"{self.low * 100:g} to {self.high * 100:g}\N{NO-BREAK SPACE}%"


def confidence_bands(confidence: Floats, correct: npt.NDArray[np.bool_]) -> list[Band]:
    """Return what happened in each band of confidence that has any rows.

    Examples
    --------
    >>> confidence_bands(np.array([0.75, 0.75, 1.0]), np.array([True, False, True]))[0].accuracy
    0.5
    """
    which = np.clip(np.searchsorted(EDGES, confidence, side="right") - 1, 0, len(EDGES) - 2)
    bands = []
    for place in range(len(EDGES) - 1):
        inside = which == place
        n = int(inside.sum())
        if n:
            share = float(correct[inside].mean())
            bounds = proportion_interval(share, n)
            bands.append(Band(EDGES[place], EDGES[place + 1], n, float(confidence[inside].mean()), share, bounds))
    return bands


def base_rate_loss(labels: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return log loss [nats] and accuracy of somebody who knows how frequent the classes are here, and nothing else."""
    counts = np.bincount(labels[labels >= 0])
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(share * np.log(share)).sum()), float(share.max(initial=0))


def verdict(result: Mapping[str, Any]) -> tuple[str, str]:
    """Return a word on the calibration ("good", "fair", "poor") and what it means."""
    error, null = result["calibration_error"], result.get("calibration_error_null")
    if error is None or not null or null["high"] is None:
        return "fair", "There are too few rows to judge the probabilities."
    if error <= null["high"]:
        return "good", "Its probabilities mean what they say, as far as these rows can tell."
    gap, near = result["confidence"] - result["accuracy_of_known"], error < null["high"] + NEAR
    turned = "it claims too much" if gap > error / 3 else "it claims too little" if gap < -error / 3 else "both ways"
    call = "Its probabilities are close to what they say" if near else "Its probabilities are not what they say"
    digits = 1 if percent(error, 1) != percent(null["high"], 1) else 2
    said, chance = percent(error, digits), percent(null["high"], digits)
    off = f"off by {said} on average ({turned}), where chance alone gives at most {chance}"
    return ("fair" if near else "poor"), f"{call}: {off}."


def sentences(
    result: Mapping[str, Any],
    scores: RowScores,
    confusions: Confusions,
    names: Sequence[Any],
    bands: Sequence[Band],
) -> list[str]:
    """Return the summary, one sentence each, as text of the page."""
    found = [_promise(bands), _right(result, scores)]
    top = confusions.top(1)
    if top:
        i, j, n = top[0]
        found.append(
            f"What it confuses most: <b>{_name(names[i])}</b> called <b>{_name(names[j])}</b>, {_rows(n)} of "
            f"{confusions.totals[i]:,}."
        )
    unseen = result["n_unseen"]
    if unseen:
        verb = "has a label" if unseen == 1 else "have labels"
        found.append(
            f"{_rows(unseen)} {verb} that the model never saw in training: they count as wrong, and the log loss does "
            "not know them."
        )
    return [sentence for sentence in found if sentence]


def _promise(bands: Sequence[Band]) -> str:
    enough = [band for band in bands if band.n_rows >= LEAST_ROWS]
    if not enough:
        return ""
    band = min(enough, key=lambda band: (abs(band.confidence - WANTED), -band.n_rows))
    return (
        f"Of the {band.n_rows:,} cases that it calls {band.name} likely (on average {percent(band.confidence)}), "
        f"<b>{percent(band.accuracy)} were right</b>."
    )


def _right(result: Mapping[str, Any], scores: RowScores) -> str:
    loss, share = base_rate_loss(scores.labels)
    low, high = result["accuracy_interval"]
    text = (
        f"It is right in <b>{percent(result['accuracy'], 1)}</b> of {_rows(result['n_rows'])} (95 % interval "
        f"{percent(low, 1)} to {percent(high, 1)}); always naming the most frequent class would be {percent(share, 1)}."
    )
    if result["log_loss"] is not None and np.isfinite(result["log_loss"]):
        told = 1 - result["log_loss"] / loss if loss > 0 else 0.0
        text += f" It takes away {percent(told)} of the uncertainty about the label." if told > 0 else (
            " Its log loss is <b>no better than knowing how frequent the classes are</b>."
        )  # fmt: skip
    return text


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n:,} rows"


def _name(name: object) -> str:
    return f"<bdi>{escaped(short_name(name, 40))}</bdi>"
