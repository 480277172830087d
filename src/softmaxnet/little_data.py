"""Little data: rows in canonical order, softmax regression with a penalty found by cross-validation."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.calibration import held_out_log_loss_after_temperature
from softmaxnet.features.encoded import Encoded
from softmaxnet.fitted import (
    Examples,
    Fitted,
    OnEpoch,
    calibrated_on,
    metrics_on,
    new_parameters,
    rows_of,
    spec_of,
)
from softmaxnet.full_batch import minimise
from softmaxnet.mixture import Candidate
from softmaxnet.recipe import SMALL_ROWS, Plan
from softmaxnet.softmax import log_softmax
from softmaxnet.validation import network_logits
from softmaxnet.whole_fit import fit_full_batch, regression_plan

if TYPE_CHECKING:
    import scipy.sparse
    from numpy.typing import NDArray

__all__ = [
    "Clock",
    "OutOfTime",
    "canonical",
    "copies_to_deal",
    "cross_validated_regression",
    "merged_where_few",
    "without_cross_validation",
]

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00001)
"""Weight decays of softmax regression that little data chooses from by cross-validation."""
LOOKED_AT = 4096
"""Of many rows, to see whether there are few distinct ones."""


class OutOfTime(Exception):
    """The time for a search is over."""


class Clock:
    """The time that a fit on little data may take, of which a search may use four fifths."""

    def __init__(self, max_seconds: float | None) -> None:
        self.max_seconds = max_seconds
        self.started = time.monotonic()

    def left(self, share: float = 1.0) -> float | None:
        """Return the seconds that are left of a share of all; None for no limit."""
        if self.max_seconds is None:
            return None
        return max(share * self.max_seconds - (time.monotonic() - self.started), 0.0)

    def left_for_search(self) -> float | None:
        """Return the seconds that a search may still take, or raise where there are none."""
        left = self.left(0.8)
        if left == 0:
            raise OutOfTime
        return left

    def is_out(self) -> bool:
        """Whether no time is left."""
        return self.left() == 0

    def rest_of(self, plan: Plan, share: float = 1.0) -> Plan:
        """Return the plan with a share of what is left of its time, a millisecond at least, in which a step is made."""
        left = self.left()
        return plan if left is None else replace(plan, max_seconds=max(share * left, 1e-3))


def without_cross_validation(
    examples: Examples, n_classes: int, plan: Plan, clock: Clock, stop: BaseException
) -> Fitted:
    """Return softmax regression with the usual penalty, where a signal or the time limit ended the search for one."""
    interrupted = isinstance(stop, KeyboardInterrupt)
    why = "interrupted" if interrupted else f"max_seconds={plan.max_seconds:g} was over"
    warnings.warn(f"{why}: softmax regression without cross-validation is kept", stacklevel=2)
    regression = regression_plan(plan, 1 / examples.weight.sum())
    fitted = fit_full_batch(examples, n_classes, clock.rest_of(regression), None)
    return replace(fitted, plan=regression, stopped_by="interrupt" if interrupted else "max_seconds")


def canonical(examples: Examples) -> Examples:
    """Return the rows in sorted order, equal ones merged into one that has their weight.

    A row of weight 2 and the same row twice are then one and the same input, and so is any order of the rows: what is
    fitted does not depend on how the data was written down, to the last bit.
    """
    encoded = examples.encoded
    dense = np.asarray(encoded.dense, dtype=np.float64) * encoded.dense_scale
    keys = [dense]
    if encoded.sparse is not None:
        keys.append(_row_ranks(encoded.sparse)[:, None])
    if examples.groups is not None:
        keys.append(np.unique(examples.groups, return_inverse=True)[1][:, None].astype(np.float64))
    keys.append(examples.target[:, None].astype(np.float64))
    _, first, inverse = np.unique(np.hstack(keys) + 0.0, axis=0, return_index=True, return_inverse=True)
    weight = np.bincount(inverse.ravel(), weights=examples.weight).astype(np.float64)
    merged = examples.take(first)
    return replace(merged, encoded=Encoded(dense[first], 1.0, merged.encoded.sparse), weight=weight)


def merged_where_few(examples: Examples) -> Examples:
    """Return many rows of few distinct values as those few, with summed weights; any others as they are.

    A million rows of three distinct values tell no more than three rows for each class with the weights of all.
    """
    dense, n_rows = examples.encoded.dense, len(examples)
    plain = examples.target.ndim == 1 and examples.groups is None and examples.encoded.sparse is None
    if n_rows <= SMALL_ROWS or not plain:
        return examples
    some = np.linspace(0, n_rows - 1, LOOKED_AT).astype(np.int64)
    if len(np.unique(_as_bytes(dense[some]))) > SMALL_ROWS // 2:
        return examples
    _, inverse = np.unique(_as_bytes(dense), return_inverse=True)
    n_classes = int(examples.target.max()) + 1
    cells, rows, cell = np.unique(inverse * n_classes + examples.target, return_index=True, return_inverse=True)
    if len(cells) > SMALL_ROWS:
        return examples
    return replace(examples.take(rows), weight=np.bincount(cell, weights=examples.weight).astype(np.float64))


def _as_bytes(dense: NDArray[Any]) -> NDArray[np.void]:
    """Return each row as one value that can be compared and sorted."""
    rows = np.ascontiguousarray(dense + dense.dtype.type(0))  # -0.0 is 0.0
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


def copies_to_deal(examples: Examples, n_folds: int) -> NDArray[np.int64]:
    """Return into how many parts each of the canonical rows is to be cut for cross-validation.

    A row stands for all copies of itself. Where the same inputs have other labels too, to hold all copies of one label
    out would leave the others without any counterpart: the copies are dealt to the folds, as they would be if they were
    rows of their own. Elsewhere to hold out all copies is the stricter test.
    """
    keys = [examples.encoded.dense]
    if examples.encoded.sparse is not None:
        keys.append(_row_ranks(examples.encoded.sparse)[:, None])
    _, inputs = np.unique(np.hstack(keys), axis=0, return_inverse=True)
    inputs = inputs.ravel()
    contradicted = np.bincount(inputs)[inputs] > 1
    copies = np.clip(np.floor(examples.weight + 1e-9), 1, n_folds).astype(np.int64)
    return np.where(contradicted & (examples.groups is None), copies, 1)


def _row_ranks(block: scipy.sparse.csr_array) -> NDArray[np.float64]:
    """Return a number for each row of a sparse block, the same for equal rows, in the order of their bytes."""
    data = block.data + 0.0  # -0.0 is 0.0
    bounds = list(zip(block.indptr[:-1], block.indptr[1:], strict=True))
    rows = [block.indices[i:j].tobytes() + data[i:j].tobytes() for i, j in bounds]
    rank = {row: float(i) for i, row in enumerate(sorted(set(rows)))}
    return np.array([rank[row] for row in rows])


def cross_validated_regression(
    examples: Examples,
    n_classes: int,
    plan: Plan,
    folds: NDArray[np.int64],
    clock: Clock,
    on_epoch: OnEpoch | None,
) -> Candidate:
    """Choose the weight decay of softmax regression by cross-validation and fit all rows with it."""
    linear = regression_plan(plan, plan.weight_decay)
    penalties = PENALTIES if plan.weight_decay is None or plan.solver != "lbfgs" else (plan.weight_decay,)
    held_out = folds >= 0
    logits = _out_of_fold_logits(examples, n_classes, linear, folds, penalties, clock)
    best = _strongest_as_good([_row_losses(z[held_out], examples.take(held_out)) for z in logits], examples, held_out)
    chosen = replace(linear, weight_decay=penalties[best])
    fitted = replace(fit_full_batch(examples, n_classes, clock.rest_of(chosen), None, on_epoch), plan=chosen)
    rows = examples.take(held_out)
    calibration = calibrated_on(logits[best][held_out], rows, plan)
    metrics = metrics_on(calibration.transform(logits[best][held_out]), rows)
    log_proba = np.full((len(examples), n_classes), np.nan)
    log_proba[held_out] = log_softmax(calibration.transform(logits[best][held_out]))
    return Candidate(replace(fitted, calibration=calibration, metrics=metrics), log_proba)


def _row_losses(logits: NDArray[Any], rows: Examples) -> NDArray[np.float64]:
    """Return the log loss of each held-out row after the temperature that is best for them."""
    _, inverse_temperature = held_out_log_loss_after_temperature(logits, rows.target, rows.weight)
    log_proba = log_softmax(inverse_temperature * logits)
    return np.asarray(-log_proba[np.arange(len(rows)), rows.target])


def _strongest_as_good(losses: list[NDArray[np.float64]], examples: Examples, held_out: NDArray[np.bool_]) -> int:
    """Return the place of the strongest penalty that is no worse than the best by more than a standard error.

    On separable rows weak penalties differ by little but how far the weights run away, which a few hundred rows cannot
    tell: the one-standard-error rule of Breiman et al. (1984), on the paired differences.
    """
    weight = examples.weight[held_out]
    means = [float(np.average(loss, weights=weight)) for loss in losses]
    best = int(np.argmin(means))
    for place in range(best):
        if means[place] - means[best] <= _standard_error(losses[place] - losses[best], weight):
            return place
    return best


def _standard_error(difference: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    mean = np.average(difference, weights=weight)
    return float(np.sqrt((weight**2) @ (difference - mean) ** 2) / weight.sum())


def _out_of_fold_logits(
    examples: Examples,
    n_classes: int,
    plan: Plan,
    folds: NDArray[np.int64],
    penalties: tuple[float, ...],
    clock: Clock,
) -> list[NDArray[np.float64]]:
    """Return, for every penalty, the logits of each row from the model that did not see its fold."""
    import torch

    spec = spec_of(examples, n_classes, plan)
    out = [np.zeros((len(examples), n_classes)) for _ in penalties]
    for fold in np.unique(folds[folds >= 0]):
        inside, outside = folds != fold, folds == fold
        parameters = new_parameters(spec, plan, 0, torch.float64)
        rows, held_out = rows_of(examples.take(inside), torch.float64), rows_of(examples.take(outside), torch.float64)
        # From strong penalties to weak ones, each from where the one before ended.
        for logits, penalty in zip(out, penalties, strict=True):
            minimise(
                parameters,
                rows,
                weight_decay=penalty,
                tolerance=1e-5,
                max_iter=200,
                label_smoothing=plan.label_smoothing,
                max_seconds=clock.left_for_search(),
                final=False,
            )
            logits[outside] = network_logits(spec, parameters.effective(), held_out)
    return out
