"""Prediction sets: the classes that cannot be ruled out, with a coverage that holds for any model.

Split conformal prediction: give every (row, class) a score that says how strange the class would be there,
keep the scores of the true labels of ``n`` calibration rows, and answer with all classes whose score is not
above the ``ceil((n + 1) coverage)``-th smallest of these. If the calibration rows and the new row are
exchangeable, and no label of theirs was used before (for training, early stopping or calibration), the set
holds the true label with at least that probability.

That guarantee is *marginal*: on average over rows, not for each row and not for each class. With
``per_class=True`` it holds within each class, at the price of larger sets and of more calibration rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import DataError, ModelFileError, UsageError
from softmaxnet.logit_arguments import Array, checked_labels, checked_logits

__all__ = ["PredictionSets", "fit_sets", "rows_needed"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

METHODS = ("lac", "aps", "raps")

_HASH_STEPS = 4096  # probabilities are hashed to 1/4096: what differs less between machines is the same row
_CHUNK_ELEMENTS = 2**20


@dataclass(frozen=True, eq=False)
class PredictionSets:
    """Sorted calibration scores, from which the sets of any coverage can be made; immutable plain data.

    Made by :func:`fit_sets`.

    Parameters
    ----------
    method : "lac", "aps" or "raps"
    n_classes : int
    scores : float64 array of shape (n_samples,)
        Sorted; with ``per_class`` class after class, each sorted.
    counts : int64 array of shape (n_classes,), or None
        With ``per_class`` the number of scores of each class.
    penalty, free_rank :
        Of "raps".
    randomized : bool
        Of "aps" and "raps".
    """

    method: str
    n_classes: int
    scores: Floats
    counts: Ints | None = None
    penalty: float = 0.0
    free_rank: int = 0
    randomized: bool = True

    def __post_init__(self) -> None:
        for name, dtype in (("scores", np.float64), ("counts", np.int64)):
            values = getattr(self, name)
            if values is not None:
                copy = np.array(values, dtype=dtype)
                copy.flags.writeable = False
                object.__setattr__(self, name, copy)

    def threshold(self, coverage: float) -> Floats:
        """Return the highest score that a class in the set may have.

        ``q = the ceil((n + 1) coverage)-th smallest of the n calibration scores``

        Parameters
        ----------
        coverage : float in (0, 1)

        Returns
        -------
        array of shape (1,), or with ``per_class`` (n_classes,)

        Raises
        ------
        DataError
            Where there are too few calibration rows for this coverage: the only valid set would be all
            classes.
        """
        if not 0.0 < coverage < 1.0:
            raise UsageError(f"coverage must be a number in (0, 1). Got {coverage!r} instead")
        counts = np.array([len(self.scores)]) if self.counts is None else self.counts
        needed = rows_needed(coverage)
        if counts.min() < needed:
            raise DataError(self._too_few(coverage, counts, needed))
        starts = np.cumsum(counts) - counts
        ranks = np.array([_rank_of(coverage, int(n)) for n in counts])
        threshold: Floats = self.scores[starts + ranks - 1]
        return threshold

    def predict(self, proba: Array, coverage: float, *, allow_empty: bool = False) -> Bools:
        """Return the prediction set of every row.

        All classes whose score is at most :meth:`threshold`, and the most probable class in any case: an empty set
        says nothing, and adding a class can only raise the coverage. A model that is right more often than the coverage
        asked for then covers more than that: never less than its accuracy. The same probabilities give the same set,
        whatever the other rows are.

        Parameters
        ----------
        proba : array of shape (n_samples, n_classes)
        coverage : float in (0, 1)
        allow_empty : bool
            Leave the most probable class out where its score is too high: the sets of the theory, whose coverage is no
            more than what was asked for by ``1 / (n + 1)``, with ``n`` calibration rows.

        Returns
        -------
        bool array of shape (n_samples, n_classes)

        Raises
        ------
        DataError
            Another number of classes, probabilities that are none, or too few calibration rows for this
            coverage.

        Examples
        --------
        >>> proba = np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]] * 10)
        >>> sets = fit_sets(proba, [0, 1] * 10)
        >>> print(sets.predict([[0.77, 0.17, 0.06], [0.41, 0.40, 0.19]], coverage=0.9))
        [[ True False False]
         [ True  True False]]
        """
        proba = _checked_proba(proba)
        if proba.shape[1] != self.n_classes:
            raise DataError(f"proba has {proba.shape[1]} classes, but the sets were fitted for {self.n_classes}")
        threshold = self.threshold(coverage)
        sets = np.empty(proba.shape, dtype=bool)
        for rows in _chunks(proba):
            sets[rows] = self._all_scores(proba[rows]) <= threshold
        if not allow_empty:
            np.put_along_axis(sets, proba.argmax(axis=1)[:, None], True, axis=1)
        return sets

    def to_state(self) -> tuple[dict[str, object], dict[str, npt.NDArray[Any]]]:
        """Return JSON-able settings and tensors, named ``conformal.*``.

        Examples
        --------
        >>> meta, tensors = fit_sets([[0.7, 0.3]] * 3, [0, 1, 0]).to_state()
        >>> meta["method"], tensors["conformal.scores"].round(2).tolist()
        ('lac', [0.3, 0.3, 0.7])
        """
        meta: dict[str, object] = {
            "free_rank": self.free_rank,
            "method": self.method,
            "n_classes": self.n_classes,
            "penalty": self.penalty,
            "per_class": self.counts is not None,
            "randomized": self.randomized,
        }
        tensors: dict[str, npt.NDArray[Any]] = {"conformal.scores": self.scores}
        if self.counts is not None:
            tensors["conformal.counts"] = self.counts
        return meta, tensors

    @classmethod
    def from_state(cls, meta: Mapping[str, object], tensors: Mapping[str, Any]) -> PredictionSets:
        """Return the sets that :meth:`to_state` described.

        Raises
        ------
        ModelFileError
            Where anything is missing, of another type or shape, not finite or not sorted.
        """
        names = {"free_rank", "method", "n_classes", "penalty", "per_class", "randomized"}
        if not isinstance(meta, Mapping) or set(meta) != names:
            raise ModelFileError(f"conformal: expected exactly {', '.join(sorted(names))}")
        method, n_classes, penalty, free_rank = (meta[name] for name in ("method", "n_classes", "penalty", "free_rank"))
        if not isinstance(method, str) or method not in METHODS:
            raise ModelFileError(f"conformal: {method!r} is not one of the methods {', '.join(METHODS)}")
        if type(n_classes) is not int or type(free_rank) is not int or n_classes < 1 or free_rank < 0:
            raise ModelFileError("conformal: n_classes and free_rank must be whole numbers")
        if isinstance(penalty, bool) or not isinstance(penalty, int | float) or not 0 <= penalty < math.inf:
            raise ModelFileError(f"conformal: penalty {penalty!r} is not a number from 0")
        if type(meta["per_class"]) is not bool or type(meta["randomized"]) is not bool:
            raise ModelFileError("conformal: per_class and randomized must be true or false")
        scores, counts = _checked_tensors(tensors, n_classes if meta["per_class"] else None)
        return cls(method, n_classes, scores, counts, float(penalty), free_rank, meta["randomized"])

    def _all_scores(self, proba: Floats) -> Floats:
        return _scores(proba, self.method, self.penalty, self.free_rank, self.randomized)

    def _too_few(self, coverage: float, counts: Ints, needed: int) -> str:
        if self.counts is None:
            return (
                f"a coverage of {coverage:g} needs at least {needed} calibration rows, but there are "
                f"{counts[0]}: give more rows, or ask for at most {_highest_coverage(int(counts[0])):g}"
            )
        short = np.flatnonzero(counts < needed)
        named = ", ".join(f"{k} ({counts[k]})" for k in short[:5]) + (", ..." if len(short) > 5 else "")
        return (
            f"a coverage of {coverage:g} per class needs at least {needed} calibration rows of every class, "
            f"but {len(short)} of {self.n_classes} have fewer: class {named}"
        )


def fit_sets(
    proba: Array,
    labels: Array,
    *,
    method: str = "lac",
    per_class: bool = False,
    penalty: float = 0.01,
    free_rank: int = 5,
    randomized: bool = True,
) -> PredictionSets:
    """Return prediction sets fitted to calibration rows that were used for nothing else.

    The score of class ``k`` in a row with probabilities ``p``, of which ``k`` is the ``r_k``-th highest:

    * "lac": ``1 - p_k``. The smallest sets for a marginal coverage.
    * "aps": ``sum_{j before k} p_j + u p_k``. Sets grow with the difficulty of the row.
    * "raps": that plus ``penalty * max(0, r_k - free_rank)``, which keeps long tails of classes out.

    ``u`` is uniform in [0, 1) and a hash of the row's probabilities, so that the same row always gets the
    same set; ``randomized=False`` takes ``u = 1``, whose sets are far larger than they need to be.

    Parameters
    ----------
    proba : array of shape (n_samples, n_classes)
    labels : integer array of shape (n_samples,), values in 0..n_classes-1
    method : "lac", "aps" or "raps"
    per_class : bool
        A threshold for each class, from the rows of that class (Mondrian).
    penalty, free_rank : float >= 0, int >= 0
        Of "raps"; fixed before the calibration rows are seen.
    randomized : bool
        Of "aps" and "raps".

    Returns
    -------
    PredictionSets

    Raises
    ------
    DataError
        No rows, labels out of range, shapes that differ, probabilities that are none.
    UsageError
        A method or a setting that does not exist.

    References
    ----------
    Vovk, Gammerman, Shafer (2005), "Algorithmic learning in a random world"; Sadinle, Lei, Wasserman (2019),
    arXiv:1609.00451 (LAC); Romano, Sesia, Candès (2020), arXiv:2006.02544 (APS); Angelopoulos et al. (2021),
    arXiv:2009.14193 (RAPS).

    Examples
    --------
    The ceil((9 + 1) 0.8) = 8th smallest of nine scores:

    >>> proba = np.array([[k / 10, 1 - k / 10] for k in range(1, 10)])
    >>> print(fit_sets(proba, [0] * 9).threshold(0.8).round(2))
    [0.8]
    """
    if method not in METHODS:
        raise UsageError(f"method of the sets must be one of {', '.join(METHODS)}. Got {method!r} instead")
    if not (0 <= penalty < math.inf and free_rank >= 0):
        raise UsageError(f"penalty and free_rank must not be negative. Got {penalty!r} and {free_rank!r} instead")
    proba = _checked_proba(proba)
    labels = checked_labels(np, labels, proba)
    n, n_classes = proba.shape
    if n == 0:
        raise DataError("there are no calibration rows for prediction sets")
    if method != "raps":
        penalty, free_rank = 0.0, 0
    scores = np.empty(n)
    for rows in _chunks(proba):
        of_all = _scores(proba[rows], method, penalty, free_rank, randomized)
        scores[rows] = np.take_along_axis(of_all, labels[rows][:, None], axis=1)[:, 0]
    if not per_class:
        return PredictionSets(method, n_classes, np.sort(scores), None, penalty, free_rank, randomized)
    order = np.lexsort((scores, labels))
    counts = np.bincount(labels, minlength=n_classes)
    return PredictionSets(method, n_classes, scores[order], counts, penalty, free_rank, randomized)


def rows_needed(coverage: float) -> int:
    """Return how many calibration rows a coverage needs: ``ceil(1 / (1 - coverage)) - 1``.

    With fewer, the only set with that guarantee is the one of all classes.

    Examples
    --------
    >>> rows_needed(0.9), rows_needed(0.95), rows_needed(0.99)
    (9, 19, 99)
    """
    if not 0.0 < coverage < 1.0:
        raise UsageError(f"coverage must be a number in (0, 1). Got {coverage!r} instead")
    return math.ceil(1.0 / (1.0 - coverage) - 1e-9) - 1


def _rank_of(coverage: float, n: int) -> int:
    # 0.9 * 10 must be 9, not 9 and a rounding error
    return max(1, min(n, math.ceil((n + 1) * coverage - 1e-9)))


def _highest_coverage(n: int) -> float:
    return math.floor(1e4 * n / (n + 1)) / 1e4


# --- scores -------------------------------------------------------------------------------------------------


def _scores(proba: Floats, method: str, penalty: float, free_rank: int, randomized: bool) -> Floats:
    """Return the score of every class of every row."""
    if method == "lac":
        return 1.0 - proba
    order = np.argsort(-proba, axis=1, kind="stable")
    ordered = np.take_along_axis(proba, order, axis=1)
    share = _row_uniform(proba)[:, None] if randomized else 1.0
    score = np.cumsum(ordered, axis=1) - (1.0 - share) * ordered
    if penalty:
        score += penalty * np.maximum(0, np.arange(1, proba.shape[1] + 1) - free_rank)
    scores = np.empty_like(score)
    np.put_along_axis(scores, order, score, axis=1)
    return scores


def _row_uniform(proba: Floats) -> Floats:
    """Return a number in [0, 1) for every row, a hash of its probabilities.

    The guarantee needs no randomness here, only that a score is a function of the row: the hash may be any.
    """
    steps = np.rint(proba * _HASH_STEPS).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (_scramble(np.arange(1, proba.shape[1] + 1, dtype=np.uint64)) * (steps + np.uint64(1))).sum(axis=1)
    uniform: Floats = (_scramble(mixed) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform


def _scramble(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return splitmix64 of each number (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


# --- checks -------------------------------------------------------------------------------------------------


def _chunks(proba: Floats) -> list[slice]:
    step = max(1, _CHUNK_ELEMENTS // proba.shape[1])
    return [slice(start, start + step) for start in range(0, len(proba), step)]


def _checked_proba(proba: Array) -> Floats:
    xp, proba = checked_logits(proba)
    if xp is not np:
        proba = proba.detach().cpu().numpy()
    if proba.ndim != 2:
        raise DataError(f"proba must have shape (n_samples, n_classes), but has shape {proba.shape}")
    bad = ~((proba.min(axis=1) >= 0) & (np.abs(proba.sum(axis=1) - 1) <= 1e-3))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(f"row {row}: probabilities must not be negative and must sum to 1")
    return np.asarray(proba, dtype=np.float64)


def _checked_tensors(tensors: Mapping[str, Any], n_classes: int | None) -> tuple[Floats, Ints | None]:
    scores = tensors.get("conformal.scores")
    if not isinstance(scores, np.ndarray) or scores.dtype != np.float64 or scores.ndim != 1 or not scores.size:
        raise ModelFileError("conformal: the tensor 'conformal.scores' is missing or no float64 vector")
    if not np.isfinite(scores).all():
        raise ModelFileError("conformal: the tensor 'conformal.scores' holds numbers that are not finite")
    counts = None
    if n_classes is not None:
        counts = tensors.get("conformal.counts")
        if not isinstance(counts, np.ndarray) or counts.dtype != np.int64 or counts.shape != (n_classes,):
            raise ModelFileError(f"conformal: the tensor 'conformal.counts' is no int64 vector of {n_classes}")
        if counts.min() < 0 or counts.max() > len(scores) or int(counts.sum()) != len(scores):
            raise ModelFileError("conformal: 'conformal.counts' does not add up to the scores")
    falls = np.flatnonzero(np.diff(scores) < 0) + 1
    starts = np.zeros(0, dtype=np.int64) if counts is None else np.cumsum(counts)
    if not np.isin(falls, starts).all():
        raise ModelFileError("conformal: the tensor 'conformal.scores' is not sorted")
    return scores, counts
