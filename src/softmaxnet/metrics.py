"""How good probabilities are: proper losses, accuracies, and everything at once.

``log_loss`` and ``brier_score`` are proper: only the true probabilities minimise them. Calibration errors and
reliability curves are those of :mod:`softmaxnet.reliability`, intervals those of :mod:`softmaxnet.means`; all of them
can be imported from here.

Rows of labels are integers ``0..n_classes-1``; a class that the labels lack is no special case. Where there
are no rows the answer is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import UsageError
from softmaxnet.logit_arguments import Array, checked_labels
from softmaxnet.means import (
    bootstrap_interval,
    checked_scores,
    mean_interval,
    proportion_interval,
    vector_weight,
    weighted_mean,
)
from softmaxnet.reliability import (
    ReliabilityCurve,
    binned_calibration_error,
    calibration_error_null,
    classwise_calibration_error,
    reliability_bins,
    reliability_curve,
    smooth_calibration_error,
)

__all__ = [
    "ReliabilityCurve",
    "RowScores",
    "accuracy",
    "balanced_accuracy",
    "binned_calibration_error",
    "bootstrap_interval",
    "brier_score",
    "calibration_error_null",
    "classwise_calibration_error",
    "evaluate_log_proba",
    "evaluate_rows",
    "log_loss",
    "mean_interval",
    "proportion_interval",
    "reliability_bins",
    "reliability_curve",
    "score_rows",
    "set_coverage",
    "smooth_calibration_error",
    "top_k_accuracy",
]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

UNSEEN = -1
"""The label of a row whose class the model never saw."""

_CHUNK_ELEMENTS = 2**20


# --- losses and accuracies ----------------------------------------------------------------------------------


def log_loss(log_proba: Array, labels: Array, *, sample_weight: Array | None = None) -> float:
    """Return the mean negative log-probability of the labels.

    ``-sum_i w_i ln p_{i,y_i} / sum_i w_i``; taken from log-probabilities, so that nothing is clipped.

    Parameters
    ----------
    log_proba : array of shape (n_samples, n_classes), in nats
    labels : integer array of shape (n_samples,)
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    float, in nats
        Infinite where a label has probability 0; NaN without rows.

    Raises
    ------
    DataError
        Labels out of range, shapes that differ, weights that cannot be.

    References
    ----------
    Good (1952), "Rational decisions", J. R. Stat. Soc. B 14.

    Examples
    --------
    >>> votes = np.log([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    >>> round(log_loss(votes, [2, 1, 0]), 7)
    1.3783889
    """
    log_proba, labels, weight = checked_scores(log_proba, labels, sample_weight)
    return weighted_mean(-_at(log_proba, labels), weight)


def brier_score(proba: Array, labels: Array, *, sample_weight: Array | None = None) -> float:
    """Return the mean squared distance between the probabilities and the labels as 0 and 1.

    ``mean_i sum_k (p_ik - [k = y_i])^2``, from 0 to 2: Brier's own form, for two classes twice the form that
    looks at one of them only.

    Parameters
    ----------
    proba : array of shape (n_samples, n_classes)
    labels : integer array of shape (n_samples,)
    sample_weight : array of shape (n_samples,), optional

    Returns
    -------
    float
        NaN without rows.

    References
    ----------
    Brier (1950), "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78.

    Examples
    --------
    >>> round(brier_score([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]], [2, 1, 0]), 4)
    0.8067
    """
    proba, labels, weight = checked_scores(proba, labels, sample_weight)
    squares = np.einsum("nk,nk->n", proba, proba, dtype=np.float64)
    return weighted_mean(squares - 2 * _at(proba, labels) + 1, weight)


def accuracy(scores: Array, labels: Array, *, sample_weight: Array | None = None) -> float:
    """Return the share of rows whose highest score is the label's; of equal scores the first counts.

    Parameters
    ----------
    scores : array of shape (n_samples, n_classes)
        Logits, log-probabilities or probabilities: only their order matters.
    labels : integer array of shape (n_samples,)
    sample_weight : array of shape (n_samples,), optional

    Examples
    --------
    >>> round(accuracy([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]], [2, 1, 0]), 4)
    0.6667
    """
    return top_k_accuracy(scores, labels, 1, sample_weight=sample_weight)


def top_k_accuracy(scores: Array, labels: Array, k: int, *, sample_weight: Array | None = None) -> float:
    """Return the share of rows whose label is among the ``k`` highest scores; of equal ones the first count.

    Examples
    --------
    >>> top_k_accuracy([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]], [2, 1, 1], 2)
    1.0
    """
    if k < 1:
        raise UsageError(f"k must be a whole number from 1. Got {k!r} instead")
    scores, labels, weight = checked_scores(scores, labels, sample_weight)
    return weighted_mean(_rank(scores, labels) < k, weight)


def balanced_accuracy(scores: Array, labels: Array, *, sample_weight: Array | None = None) -> float:
    """Return the mean, over the classes that occur, of the share of their rows that are right.

    Examples
    --------
    >>> balanced_accuracy([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]], [0, 0, 0, 1])
    0.5
    """
    scores, labels, weight = checked_scores(scores, labels, sample_weight)
    return _balanced(_rank(scores, labels) == 0, labels, weight)


def _balanced(correct: Bools, labels: Ints, weight: Floats) -> float:
    if not weight.any():
        return float("nan")
    total = np.bincount(labels, weights=weight)
    right = np.bincount(labels, weights=weight * correct)
    return float(np.mean(right[total > 0] / total[total > 0]))


# --- everything at once -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowScores:
    """What the metrics need to know of each row: a few numbers, however many classes there are.

    All arrays have shape (n_samples,). For a row whose label the model never saw (-1), ``log_proba`` and
    ``distance`` are NaN and ``rank`` is the number of classes.
    """

    labels: Ints
    log_proba: Floats  # of the label, in nats
    distance: Floats  # sum_k (p_k - y_k)^2
    confidence: Floats  # the highest probability
    rank: Ints  # of the label, 0 for the highest

    @property
    def correct(self) -> Bools:
        """Whether the label has the highest probability."""
        correct: Bools = self.rank == 0
        return correct

    @classmethod
    def concatenate(cls, parts: Sequence[RowScores]) -> RowScores:
        """Return the rows of all parts, in order."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def score_rows(log_proba: Array, labels: Array) -> RowScores:
    """Return the :class:`RowScores` of one chunk of rows, for :func:`evaluate_rows`.

    Parameters
    ----------
    log_proba : array of shape (n_samples, n_classes), in nats
    labels : integer array of shape (n_samples,)
        In 0..n_classes-1, or -1 for a class that the model never saw.

    Examples
    --------
    >>> scores = score_rows(np.log([[0.3, 0.3, 0.4], [0.1, 0.2, 0.7]]), [2, -1])
    >>> print(scores.confidence, scores.rank)
    [0.4 0.7] [0 3]
    """
    labels = np.asarray(labels)
    unseen = labels == UNSEEN
    log_proba, known, _ = checked_scores(log_proba, np.where(unseen, 0, labels), None)
    n, n_classes = log_proba.shape
    step = max(1, _CHUNK_ELEMENTS // n_classes)
    squares, highest, rank = np.empty(n), np.empty(n), np.empty(n, dtype=np.int64)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        proba = np.exp(log_proba[rows])
        squares[rows] = np.einsum("nk,nk->n", proba, proba, dtype=np.float64)
        highest[rows] = proba.max(axis=1)
        rank[rows] = _rank(log_proba[rows], known[rows])
    of_label = _at(log_proba, known)
    distance = squares - 2 * np.exp(of_label) + 1
    return RowScores(
        labels=np.where(unseen, UNSEEN, known),
        log_proba=np.where(unseen, np.nan, of_label),
        distance=np.where(unseen, np.nan, np.maximum(distance, 0.0)),
        # a float32 softmax may sum to a little more than 1
        confidence=np.minimum(highest, 1.0),
        rank=np.where(unseen, n_classes, rank),
    )


def evaluate_rows(
    scores: RowScores,
    n_classes: int,
    *,
    sample_weight: Array | None = None,
    n_unseen: int = 0,
    n_resamples: int = 0,
) -> dict[str, Any]:
    """Return all metrics of scored rows, as plain numbers.

    Rows whose label the model never saw are wrong in the accuracies; they are left out of the log loss, the
    Brier score, the balanced accuracy and the calibration errors, which no prediction over the known classes
    could improve.

    Parameters
    ----------
    scores : RowScores
    n_classes : int
    sample_weight : array of shape (n_samples,), optional
    n_unseen : int
        Further rows with unseen labels that are not among the rows; each weighs what the mean row does.
    n_resamples : int
        Where above 0, intervals and null values of the calibration errors are added, from that many
        resamples.

    Returns
    -------
    dict
        ``log_loss`` (nats), ``accuracy``, ``balanced_accuracy``, ``brier``, ``calibration_error`` (smooth, of
        the highest probability), ``binned_calibration_error`` (15 bins of equal mass), ``n_rows``,
        ``n_unseen``; with more than 5 classes ``top_5_accuracy``; ``log_loss_interval``, ``brier_interval`` and
        ``accuracy_interval`` (95 %). With ``n_resamples`` ``calibration_error_interval``,
        ``calibration_error_null``, ``binned_calibration_error_null``. None where there are no rows to tell.

    Examples
    --------
    >>> votes = np.log([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    >>> result = evaluate_rows(score_rows(votes, [2, 1, 0]), 3)
    >>> round(result["log_loss"], 7), round(result["accuracy"], 4), result["n_rows"], result["n_unseen"]
    (1.3783889, 0.6667, 3, 0)
    """
    weight = vector_weight(scores.confidence, sample_weight)
    seen = scores.labels != UNSEEN
    known = weight[seen]
    losses, confidence, correct = -scores.log_proba[seen], scores.confidence[seen], scores.correct[seen]
    absent = n_unseen * (float(weight.mean()) if len(weight) else 1.0)
    total = float(weight.sum()) + absent
    right = float(weight @ scores.correct) / total if total else float("nan")
    n_effective = total**2 / (float(weight @ weight) + absent**2 / max(n_unseen, 1)) if total else 0.0
    pairs = {"sample_weight": known}
    result: dict[str, Any] = {
        "log_loss": weighted_mean(losses, known),
        "accuracy": right,
        "balanced_accuracy": _balanced(correct, scores.labels[seen], known),
        "brier": weighted_mean(scores.distance[seen], known),
        "calibration_error": smooth_calibration_error(confidence, correct, **pairs),
        "binned_calibration_error": binned_calibration_error(confidence, correct, **pairs),
        "n_rows": len(weight) + n_unseen,
        "n_unseen": int((~seen).sum()) + n_unseen,
        "log_loss_interval": _not_below_zero(mean_interval(losses, sample_weight=known)),
        "brier_interval": _not_below_zero(mean_interval(scores.distance[seen], sample_weight=known)),
        "accuracy_interval": proportion_interval(right, n_effective),
    }
    if n_classes > 5:
        result["top_5_accuracy"] = float(weight @ (scores.rank < 5)) / total if total else float("nan")
    if n_resamples:
        result["calibration_error_interval"] = bootstrap_interval(
            lambda c, y, w: smooth_calibration_error(c, y, sample_weight=w),
            confidence,
            correct,
            known,
            n_resamples=n_resamples,
        )
        for name, n_bins in (("calibration_error_null", None), ("binned_calibration_error_null", 15)):
            result[name] = calibration_error_null(confidence, n_bins=n_bins, n_resamples=n_resamples, **pairs)
    return {name: _plain(value) for name, value in result.items()}


def _not_below_zero(interval: tuple[float, float]) -> tuple[float, float]:
    """Return an interval of a mean of losses, none of which can be negative."""
    return max(interval[0], 0.0), interval[1]


def evaluate_log_proba(
    log_proba: Array,
    labels: Array,
    n_unseen: int = 0,
    *,
    sample_weight: Array | None = None,
    n_resamples: int = 0,
) -> dict[str, Any]:
    """Return all metrics of log-probabilities: :func:`score_rows`, then :func:`evaluate_rows`.

    Parameters
    ----------
    log_proba : array of shape (n_samples, n_classes), in nats
    labels : integer array of shape (n_samples,)
        In 0..n_classes-1, or -1 for a class that the model never saw.
    n_unseen, sample_weight, n_resamples :
        As in :func:`evaluate_rows`.

    Raises
    ------
    DataError
        Labels below -1 or too high (with the row), shapes that differ, weights that cannot be.

    Examples
    --------
    >>> votes = np.log([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    >>> result = evaluate_log_proba(votes, [2, 1, -1])  # a class that the model never saw
    >>> round(result["log_loss"], 8), round(result["accuracy"], 4), result["n_unseen"]
    (0.91629073, 0.6667, 1)
    """
    scores = score_rows(log_proba, labels)
    return evaluate_rows(
        scores,
        int(np.shape(log_proba)[-1]),
        sample_weight=sample_weight,
        n_unseen=n_unseen,
        n_resamples=n_resamples,
    )


def set_coverage(
    sets: Array, labels: Array, *, sample_weight: Array | None = None, level: float = 0.95
) -> dict[str, Any]:
    """Return how often prediction sets hold the label, and how large they are.

    Parameters
    ----------
    sets : bool array of shape (n_samples, n_classes)
    labels : integer array of shape (n_samples,); -1 is covered by no set
    sample_weight : array of shape (n_samples,), optional
    level : float in (0, 1)
        Of the interval of the coverage.

    Returns
    -------
    dict
        ``coverage``, ``coverage_interval``, ``mean_size``, ``sizes`` (rows with 0, 1, 2, ... classes),
        ``class_coverage`` (one a class, None for a class without rows), ``n_rows``.

    Examples
    --------
    >>> result = set_coverage([[True, False], [True, True], [False, True]], [0, 1, 0])
    >>> round(result["coverage"], 4), result["sizes"], result["class_coverage"]
    (0.6667, [0, 2, 1], [0.5, 1.0])
    """
    sets, labels = np.asarray(sets, dtype=bool), np.asarray(labels)
    unseen = labels == UNSEEN
    known = checked_labels(np, np.where(unseen, 0, labels), sets)
    weight = vector_weight(known, sample_weight)
    covered = np.take_along_axis(sets, known[:, None], axis=1)[:, 0] & ~unseen
    sizes = sets.sum(axis=1)
    coverage = weighted_mean(covered, weight)
    n_effective = float(weight.sum()) ** 2 / float(weight @ weight) if weight.any() else 0.0
    per_class = [weighted_mean(covered[rows], weight[rows]) for rows in (labels == k for k in range(sets.shape[1]))]
    return {
        "coverage": _plain(coverage),
        "coverage_interval": _plain(proportion_interval(coverage, n_effective, level=level)),
        "mean_size": _plain(weighted_mean(sizes, weight)),
        "sizes": np.bincount(sizes, minlength=1).tolist(),
        "class_coverage": [_plain(value) for value in per_class],
        "n_rows": len(labels),
    }


# --- single values ------------------------------------------------------------------------------------------


def _at(scores: Floats, labels: Ints) -> Floats:
    return np.take_along_axis(scores, labels[:, None], axis=1)[:, 0].astype(np.float64)


def _rank(scores: Floats, labels: Ints) -> Ints:
    """Return how many classes come before the label: higher scores, and equal ones of a lower number."""
    of_label = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    rank: Ints = np.count_nonzero((scores > of_label) | ((scores == of_label) & before), axis=1)
    return rank


def _plain(value: Any) -> Any:
    """Return JSON-able data: NaN, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and np.isnan(value) else value
