"""What a report keeps of scored rows while they pass by in chunks: a few numbers a row and a class, and the worst rows.

No array of rows x classes is kept, so that a file of any length can be reported on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.data.frames import take_rows
from softmaxnet.metrics import RowScores, score_rows

if TYPE_CHECKING:
    from softmaxnet.model import SoftmaxModel

__all__ = ["COVERAGES", "Mistake", "ReportRows"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]

COVERAGES = (0.8, 0.9, 0.95)
N_MISTAKES = 12
N_CELLS = 20
"""Cells of the unit interval in which the probabilities of each class are counted."""
MOST_CLASSES = 20_000
"""Of more classes, nothing is counted one by one."""
STEPS, STEPS_PER_NAT = 600, 40
"""Thresholds for sets: ``exp(-g / 40)`` for g = 0 .. 599, down to 3e-7."""
SAMPLE_ELEMENTS = 2**22
"""Logits that are kept of rows drawn by their number, to split the log loss."""


@dataclass(frozen=True, order=True)
class Mistake:
    """A row that the model was sure of and wrong about.

    Attributes
    ----------
    confidence : float
        Of the class predicted.
    order : int
        Decides between equals: earlier rows first.
    row : int
        Its number in the data, from 0.
    line : int or None
        In the file.
    predicted, label : int
        -1 for a label that the model never saw.
    named : object
        The label as the data have it.
    proba : float or None
        Of the label.
    X : a single row, as the model takes it
    """

    confidence: float
    order: int
    row: int = field(compare=False)
    line: int | None = field(compare=False)
    predicted: int = field(compare=False)
    label: int = field(compare=False)
    named: object = field(compare=False)
    proba: float | None = field(compare=False)
    X: Any = field(compare=False)


@dataclass
class _ClassCells:
    """For every class and cell of its probability: rows, sums of p and p (1 - p), and rows of that class."""

    n_classes: int
    rows: Floats = field(init=False)
    proba: Floats = field(init=False)
    variance: Floats = field(init=False)
    hits: Floats = field(init=False)

    def __post_init__(self) -> None:
        for name in ("rows", "proba", "variance", "hits"):
            setattr(self, name, np.zeros((self.n_classes, N_CELLS)))

    def add(self, proba: Floats, labels: Ints) -> None:
        """Count rows of known labels."""
        k, cells = self.n_classes, N_CELLS
        row, column = np.nonzero(proba >= 1 / cells)  # at most 20 of a row; the rest is the first cell
        p = proba[row, column]
        at = column * cells + np.minimum((p * cells).astype(np.int64), cells - 1)
        size = k * cells
        counts = np.bincount(at, minlength=size).reshape(k, cells).astype(np.float64)
        sums = np.bincount(at, weights=p, minlength=size).reshape(k, cells)
        spread = np.bincount(at, weights=p * (1 - p), minlength=size).reshape(k, cells)
        counts[:, 0] += len(proba) - counts.sum(axis=1)
        sums[:, 0] += proba.sum(axis=0) - sums.sum(axis=1)
        spread[:, 0] += (proba.sum(axis=0) - np.einsum("nk,nk->k", proba, proba)) - spread.sum(axis=1)
        own = proba[np.arange(len(labels)), labels]
        of_label = labels * cells + np.minimum((own * cells).astype(np.int64), cells - 1)
        self.rows += counts
        self.proba += np.maximum(sums, 0)
        self.variance += np.maximum(spread, 0)
        self.hits += np.bincount(of_label, minlength=size).reshape(k, cells)


@dataclass
class _SetCounts:
    """How large sets of all classes above a threshold would be, and how often they would hold the label."""

    larger: Floats = field(default_factory=lambda: np.zeros(STEPS + 1))  # classes by the threshold that lets them in
    covered: Floats = field(default_factory=lambda: np.zeros(STEPS + 1))
    n_rows: int = 0

    def add(self, log_proba: Floats, scores: RowScores) -> None:
        """Count rows, those of unseen labels included: no set holds these."""
        n = len(log_proba)
        step = _steps(log_proba)
        counts = np.bincount(step.ravel(), minlength=STEPS + 1).astype(np.float64)
        best = log_proba.argmax(axis=1)
        counts -= np.bincount(step[np.arange(n), best], minlength=STEPS + 1)  # the best is in every set
        known = scores.labels >= 0
        of_label = np.where(scores.rank == 0, 0, _steps(scores.log_proba))[known]
        self.larger += counts
        self.covered += np.bincount(of_label, minlength=STEPS + 1)
        self.n_rows += n

    def curve(self) -> tuple[Floats, Floats]:
        """Return mean size and coverage at every threshold, from the strictest."""
        n = max(self.n_rows, 1)
        return 1 + np.cumsum(self.larger)[:STEPS] / n, np.cumsum(self.covered)[:STEPS] / n


def _steps(log_proba: Floats) -> Ints:
    """Return the number of the threshold that lets each probability into a set; those of no label count as the last."""
    nats = np.nan_to_num(-log_proba, nan=np.inf, posinf=STEPS)
    return np.minimum(nats * STEPS_PER_NAT, STEPS).astype(np.int64)


@dataclass
class _Prepared:
    """What the sets that the model was prepared for did at some coverages."""

    n_classes: int
    rows: int = 0
    covered: dict[float, int] = field(default_factory=dict)
    sizes: dict[float, Ints] = field(default_factory=dict)
    of_class: dict[float, Ints] = field(default_factory=dict)
    class_rows: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.class_rows = np.zeros(self.n_classes, dtype=np.int64)

    def add(self, conformal: Any, proba: Floats, labels: Ints) -> None:
        """Count the rows of one chunk; -1 is a label that no set holds."""
        self.rows += len(proba)
        known = np.flatnonzero(labels >= 0)
        self.class_rows += np.bincount(labels[known], minlength=self.n_classes)
        for coverage in COVERAGES:
            if not _possible(conformal, coverage):
                continue
            sets = conformal.predict(proba, coverage)
            inside = known[sets[known, labels[known]]]
            sizes = np.bincount(sets.sum(axis=1), minlength=self.n_classes + 1)
            of_class = np.bincount(labels[inside], minlength=self.n_classes)
            self.covered[coverage] = self.covered.get(coverage, 0) + len(inside)
            self.sizes[coverage] = self.sizes.get(coverage, np.zeros_like(sizes)) + sizes
            self.of_class[coverage] = self.of_class.get(coverage, np.zeros_like(of_class)) + of_class


def _possible(conformal: Any, coverage: float) -> bool:
    from softmaxnet.errors import DataError

    try:
        conformal.threshold(coverage)
    except DataError:
        return False
    return True


class ReportRows:
    """Collects scored rows, chunk after chunk, for :func:`softmaxnet.report.write_report`.

    Parameters
    ----------
    model : SoftmaxModel
    n_mistakes : int
        The most confident mistakes that are kept with their inputs.

    Examples
    --------
    >>> from softmaxnet.calibration import Calibration
    >>> from softmaxnet.features.encoder import FeatureEncoder
    >>> from softmaxnet.model import SoftmaxModel
    >>> from softmaxnet.network import NetworkSpec
    >>> encoder = FeatureEncoder.fit(np.eye(2), features="raw")
    >>> params = {"layers.0.weight": np.eye(2)[None], "layers.0.bias": np.zeros((1, 2))}
    >>> model = SoftmaxModel(encoder, NetworkSpec(2, 0, 2), params, Calibration(), np.array(["no", "yes"]))
    >>> rows = ReportRows(model)
    >>> X, labels = np.array([[3.0, 0.0], [0.0, 2.0], [0.0, 1.0]]), np.array([0, 0, 1])
    >>> rows.add(X, model.predict_log_proba(X), labels)
    >>> [(wrong.row, round(wrong.confidence, 2)) for wrong in rows.mistakes()]
    [(1, 0.88)]
    """

    def __init__(self, model: SoftmaxModel, *, n_mistakes: int = N_MISTAKES) -> None:
        self.model = model
        self.n_rows = 0
        self.cells = _ClassCells(model.n_classes) if model.n_classes <= MOST_CLASSES else None
        self.sets = _SetCounts()
        self.prepared = _Prepared(model.n_classes) if model.conformal is not None else None
        self._n_mistakes = n_mistakes
        self._worst: list[Mistake] = []
        self._scores: list[RowScores] = []
        self._predicted: list[Ints] = []
        self._weights: list[Floats] = []
        self._sample: list[tuple[Ints, Floats, Ints, Floats]] = []
        self._stride = 1

    def add(
        self,
        X: Any,
        log_proba: Floats,
        labels: Ints,
        *,
        sample_weight: Floats | None = None,
        y: Any = None,
        lines: Any = None,
        first_row: int | None = None,
        keep: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Count the rows of one chunk.

        Parameters
        ----------
        X : the rows, as the model takes them
        log_proba : float array of shape (n_rows, n_classes)
        labels : int64 array of shape (n_rows,)
            -1 for a label that the model never saw.
        sample_weight : array of shape (n_rows,), optional
        y : array of shape (n_rows,), optional
            The labels as the data have them, for those that the model never saw.
        lines : array of shape (n_rows,), optional
            Of the file.
        first_row : int, optional
            The number of the first row; by default that after the last one counted.
        keep : bool array of shape (n_rows,), optional
            Rows that count; the others could not be read.
        """
        first = self.n_rows if first_row is None else first_row
        places = np.arange(len(labels)) if keep is None else np.flatnonzero(keep)
        self.n_rows = first + len(labels)
        log_proba = np.asarray(log_proba, dtype=np.float64)[places] if keep is not None else np.asarray(log_proba)
        labels = np.asarray(labels, dtype=np.int64)[places]
        weight = np.ones(len(places)) if sample_weight is None else np.asarray(sample_weight, np.float64)[places]
        scores = score_rows(log_proba, labels)
        self._scores.append(scores)
        self._weights.append(weight)
        predicted = log_proba.argmax(axis=1) if len(log_proba) else np.zeros(0, np.int64)
        self._predicted.append(predicted)
        self._count(log_proba, labels, scores)
        self._keep_sample(log_proba, labels, weight, first + places)
        self._keep_mistakes(X, scores, predicted, places, first, y, lines)

    def _count(self, log_proba: Floats, labels: Ints, scores: RowScores) -> None:
        if not len(labels):
            return
        proba = np.exp(log_proba)
        known = labels >= 0
        if self.cells is not None and known.any():
            self.cells.add(proba if known.all() else proba[known], labels[known])
        self.sets.add(log_proba, scores)
        if self.prepared is not None:
            self.prepared.add(self.model.conformal, proba, labels)

    def _keep_sample(self, log_proba: Floats, labels: Ints, weight: Floats, numbers: Ints) -> None:
        """Keep the rows whose scrambled number is divisible by the stride; double it where these become too many."""
        chosen = (labels >= 0) & (_scrambled(numbers) % self._stride == 0)
        self._sample.append((numbers[chosen], log_proba[chosen].astype(np.float32), labels[chosen], weight[chosen]))
        while sum(part[1].size for part in self._sample) > SAMPLE_ELEMENTS and self._stride < 2**40:
            self._stride *= 2
            self._sample = [
                tuple(column[_scrambled(part[0]) % self._stride == 0] for column in part) for part in self._sample
            ]

    def _keep_mistakes(
        self, X: Any, scores: RowScores, predicted: Ints, places: Ints, first: int, y: Any, lines: Any
    ) -> None:
        wrong = np.flatnonzero(scores.rank > 0)
        wrong = wrong[np.argsort(-scores.confidence[wrong], kind="stable")[: self._n_mistakes]]
        if len(self._worst) == self._n_mistakes:
            wrong = wrong[scores.confidence[wrong] > self._worst[-1].confidence]
        if not len(wrong):
            return
        rows = take_rows(X, places[wrong])
        for at, number in enumerate(wrong.tolist()):
            row, label = int(places[number]), int(scores.labels[number])
            named = self.model.classes[label] if label >= 0 else "unseen" if y is None else y[row]
            mistake = Mistake(
                confidence=float(scores.confidence[number]),
                order=-(first + row),
                row=first + row,
                line=None if lines is None else int(lines[row]),
                predicted=int(predicted[number]),
                label=label,
                named=named,
                proba=float(np.exp(scores.log_proba[number])) if label >= 0 else None,
                X=take_rows(rows, np.array([at])),
            )
            self._worst.append(mistake)
        self._worst = sorted(self._worst, reverse=True)[: self._n_mistakes]

    def mistakes(self) -> list[Mistake]:
        """Return the most confident mistakes, the most confident first."""
        return list(self._worst)

    def scores(self) -> RowScores:
        """Return the scores of all rows."""
        return RowScores.concatenate(self._scores)

    def predicted(self) -> Ints:
        """Return the most probable class of every row."""
        return np.concatenate(self._predicted)

    def weights(self) -> Floats:
        """Return the weight of every row."""
        return np.concatenate(self._weights)

    def sample(self) -> tuple[Floats, Ints, Floats]:
        """Return log-probabilities, labels and weights of rows of known labels: all, or a part of many."""
        _, log_proba, labels, weight = (np.concatenate(part) for part in zip(*self._sample, strict=True))
        return log_proba, labels, weight


def _scrambled(numbers: Ints) -> npt.NDArray[np.uint64]:
    """Return a fixed permutation of numbers: rows of one kind often come at equal distances."""
    with np.errstate(over="ignore"):
        x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(20)
