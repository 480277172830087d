"""What a report says, as numbers: computed once, used by all its sections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.calibration import log_loss_parts
from softmaxnet.errors import DataError
from softmaxnet.metrics import RowScores, evaluate_rows
from softmaxnet.report.confusion import Confusions, count_confusions
from softmaxnet.report.rows import ReportRows
from softmaxnet.report.summary import Band, confidence_bands

if TYPE_CHECKING:
    from softmaxnet.model import SoftmaxModel

__all__ = ["Findings", "gather"]

N_RESAMPLES = 200


@dataclass(frozen=True)
class Findings:
    """Everything that the sections are made of."""

    model: SoftmaxModel
    rows: ReportRows
    scores: RowScores
    confusions: Confusions
    result: dict[str, Any]
    bands: list[Band]

    @property
    def names(self) -> Any:
        """The labels."""
        return self.model.classes


def gather(rows: ReportRows) -> Findings:
    """Return the metrics, intervals, null values and counts of all rows.

    Raises
    ------
    DataError
        Where there are no rows.
    """
    scores, weight = rows.scores(), rows.weights()
    if not len(weight):
        raise DataError("there are no rows to report on")
    k = rows.model.n_classes
    result = evaluate_rows(scores, k, sample_weight=weight, n_resamples=N_RESAMPLES)
    known = scores.labels >= 0
    if known.any() and weight[known].any():
        result["confidence"] = float(np.average(scores.confidence[known], weights=weight[known]))
        result["accuracy_of_known"] = float(np.average(scores.correct[known], weights=weight[known]))
    log_proba, labels, of_sample = rows.sample()
    if len(labels) >= 10:
        result |= {f"part_{name}": value for name, value in log_loss_parts(log_proba, labels, of_sample).items()}
    confusions = count_confusions(scores.labels, rows.predicted(), k)
    bands = confidence_bands(scores.confidence, scores.correct)
    return Findings(rows.model, rows, scores, confusions, result, bands)
