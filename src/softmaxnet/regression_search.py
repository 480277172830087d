"""Softmax regression on little data: its penalty, and whether it may leave columns out, by cross-validation.

Of hundreds of inputs often a few matter. A penalty on the squares of the weights shrinks those as much as the many that
fit noise; one on the sizes of the weights, ``sum_j |W_j|`` over the inputs j, leaves inputs out. The latter is had from
the former by fits in turn, each on inputs multiplied by a power of the size that their weights had in the fit before:
input j, times ``s_j``, costs ``|W_j|^2 / s_j^2``, and with ``s_j = |W_j|^(1/2)`` that is ``|W_j|`` (Grandvalet 1998; of
one input's weights for all classes together, the group lasso of Yuan and Lin 2006). Larger powers leave out more and
shrink what stays less (Zou 2006, the adaptive lasso).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.calibration import held_out_log_loss_after_temperature
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
from softmaxnet.full_batch import FullBatchResult, minimise
from softmaxnet.little_data import Clock
from softmaxnet.means import standard_error
from softmaxnet.mixture import Candidate
from softmaxnet.recipe import Plan
from softmaxnet.row_space import RowSpace
from softmaxnet.softmax import cross_entropy, log_softmax
from softmaxnet.validation import network_logits
from softmaxnet.whole_fit import fit_full_batch, regression_plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxnet.batches import Rows
    from softmaxnet.parameters import Parameters

__all__ = ["cross_validated_regression", "minimise_selecting", "without_cross_validation"]

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00001)
"""Weight decays of softmax regression that little data chooses from by cross-validation."""
SELECTING_PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03)
SELECTING_FITS, SELECTING_POWER = 5, 2 / 3
LEAST_SCALE = 1e-6
"""Of the largest scale: what an input that is left out keeps, so that quotients stay defined."""

Minimise = Callable[..., FullBatchResult]


def minimise_selecting(
    parameters: Parameters, rows: Rows, *, max_seconds: float | None = None, **options: Any
) -> FullBatchResult:
    """Minimise with a penalty that leaves inputs of the dense block out, in place; else as :func:`minimise`.

    The penalty of a fit is ``weight_decay / 2 sum_j |W_j|^2 / s_j^2`` with scales whose mean square is 1.

    Examples
    --------
    >>> import torch
    >>> from softmaxnet.batches import Rows
    >>> from softmaxnet.network import NetworkSpec
    >>> from softmaxnet.parameters import Parameters, scaled_spec
    >>> X = np.random.default_rng(0).normal(size=(60, 40))
    >>> y = torch.from_numpy((X[:, 0] > 0).astype(np.int64))
    >>> parameters = Parameters(scaled_spec(NetworkSpec(40, 0, 2), "standard"), dtype=torch.float64)
    >>> found = minimise_selecting(parameters, Rows(torch.from_numpy(X), y, torch.ones(60).double()), weight_decay=1.0)
    >>> sizes = parameters.views["layers.0.weight"].square().sum((0, 2)).sqrt()
    >>> int(sizes.argmax()), int((sizes > 0.01 * sizes.max()).sum()) < 10
    (0, True)
    """
    clock, weight = Clock(max_seconds), parameters.views["layers.0.weight"]
    found = minimise(parameters, rows, max_seconds=max_seconds, **options)
    for _ in range(SELECTING_FITS - 1):
        size = weight.square().sum((0, 2)).sqrt()
        if clock.is_out() or found.stopped_by == "interrupt" or not size.any():
            break
        scale = (size / size.max()).clamp_(min=LEAST_SCALE).pow_(SELECTING_POWER)
        scale /= scale.square().mean().sqrt()
        weight.div_(scale[:, None])
        found = minimise(parameters, replace(rows, dense=rows.dense * scale), max_seconds=clock.left(), **options)
        weight.mul_(scale[:, None])
    return found


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


def cross_validated_regression(
    examples: Examples,
    n_classes: int,
    plan: Plan,
    folds: NDArray[np.int64],
    clock: Clock,
    on_epoch: OnEpoch | None,
    *,
    selecting: bool = False,
) -> Candidate:
    """Choose the weight decay of softmax regression by cross-validation and fit all rows with it.

    Parameters
    ----------
    examples : Examples
    n_classes : int
    plan : Plan
    folds : ndarray of shape (n_rows,), int64; -1 in rows that are never held out
    clock : Clock
    on_epoch : callable, optional
    selecting : bool
        With a penalty that leaves inputs out.
    """
    linear = regression_plan(plan, plan.weight_decay)
    penalties: tuple[float, ...] = SELECTING_PENALTIES if selecting else PENALTIES
    if plan.solver == "lbfgs" and plan.weight_decay is not None:
        penalties = (plan.weight_decay,)
    descend: Minimise = minimise_selecting if selecting else minimise
    spec = spec_of(examples, n_classes, linear)
    space = None if selecting else RowSpace.of(examples)
    examples = examples if space is None else space.rows
    held_out = folds >= 0
    logits = _out_of_fold_logits(examples, n_classes, linear, folds, penalties, clock, descend)
    best = _strongest_as_good([_judged(z[held_out], examples.take(held_out)) for z in logits], examples, held_out)
    chosen = replace(linear, weight_decay=penalties[best])
    fitted = fit_full_batch(examples, n_classes, clock.rest_of(chosen), None, on_epoch, descend=descend)
    if space is not None:
        params = fitted.params | space.weights(fitted.params["layers.0.weight"][0])
        fitted = replace(fitted, spec=spec, params=params, state=None)
    fitted = replace(fitted, plan=chosen)
    rows = examples.take(held_out)
    calibration = calibrated_on(logits[best][held_out], rows, plan)
    metrics = metrics_on(calibration.transform(logits[best][held_out]), rows)
    log_proba = np.full((len(examples), n_classes), np.nan)
    log_proba[held_out] = log_softmax(calibration.transform(logits[best][held_out]))
    return Candidate(replace(fitted, calibration=calibration, metrics=metrics), log_proba, selects_inputs=selecting)


def _judged(logits: NDArray[Any], rows: Examples) -> NDArray[np.float64]:
    """Return the log loss of each held-out row after the temperature that is best for them."""
    _, inverse_temperature = held_out_log_loss_after_temperature(logits, rows.target, rows.weight)
    return np.asarray(cross_entropy(inverse_temperature * logits, rows.target, reduction="none"))


def _strongest_as_good(losses: list[NDArray[np.float64]], examples: Examples, held_out: NDArray[np.bool_]) -> int:
    """Return the place of the strongest penalty that is no worse than the best by more than a standard error.

    On separable rows weak penalties differ by little but how far the weights run away, which a few hundred rows cannot
    tell: the one-standard-error rule of Breiman et al. (1984), on the paired differences.
    """
    weight = examples.weight[held_out]
    means = [float(np.average(loss, weights=weight)) for loss in losses]
    best = int(np.argmin(means))
    for place in range(best):
        if means[place] - means[best] <= standard_error(losses[place] - losses[best], weight):
            return place
    return best


def _out_of_fold_logits(
    examples: Examples,
    n_classes: int,
    plan: Plan,
    folds: NDArray[np.int64],
    penalties: tuple[float, ...],
    clock: Clock,
    descend: Minimise,
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
            descend(
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
