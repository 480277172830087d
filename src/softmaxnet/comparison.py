"""Fits in which every row trains and is held out: members with a fold of their own, compared with one another.

::

    rows --folds--> softmax regression (little data)  --+
                    the same on few of many inputs     --+
                    members that see numbers only      --+--held-out log loss--> the best mixture, as one network
                    members that see their bins too    --+
                    the same with columns dropped      --+           |
                                                             go on with all rows, if that helps

Nothing is set apart: each member holds out one fold, trains on the rest, and says of its fold what counts for early
stopping, for the choice among the networks and for the temperature.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from softmaxnet.calibration import Calibration
from softmaxnet.checkpoint import Checkpoints
from softmaxnet.communicator import ALONE, Communicator
from softmaxnet.continuation import Continued, continued, held_out_log_proba
from softmaxnet.data.split import stratified_folds, stratified_halves
from softmaxnet.data_parallel import holding_signals, noting_interrupts
from softmaxnet.fitted import (
    Examples,
    Fitted,
    OnEpoch,
    calibrated_on,
    counted,
    dtype_of,
    metrics_on,
    new_parameters,
    new_state,
    no_metrics,
    numpy_params,
    one_history,
    rows_of,
    schedule_of,
    spec_of,
)
from softmaxnet.little_data import (
    Clock,
    OutOfTime,
    canonical,
    copies_to_deal,
)
from softmaxnet.mixture import Candidate, Mixture, best_mixture, joined
from softmaxnet.recipe import Plan
from softmaxnet.regression_search import cross_validated_regression, without_cross_validation
from softmaxnet.training import train
from softmaxnet.validation import Validator
from softmaxnet.whole_fit import fit_full_batch, regression_plan

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fit_compared"]

TINY_ROWS = 200
"""Below, members that see the bins stand for those that do not as well: there are too few rows to tell them apart."""
LONE_ROWS_PENALTY = 0.1
"""Over the rows: the weight decay of softmax regression where every class is one row and nothing can be held out."""
INTERRUPTED = ("interrupt", "max_seconds")


def fit_compared(
    examples: Examples,
    n_classes: int,
    plan: Plan,
    seed: int,
    on_epoch: OnEpoch | None = None,
    *,
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
    communicator: Communicator = ALONE,
) -> Fitted:
    """Fit what the plan compares, each model with rows held out in turn, and return the best mixture of them.

    Parameters
    ----------
    examples : Examples
        With labels as targets; ``examples.bins`` are the columns that not every member sees.
    n_classes : int
    plan : Plan
        With ``validation="folds"``.
    seed : int
    on_epoch : callable, optional
    device : str
    checkpoints : Checkpoints, optional
    communicator : Communicator, optional
        The processes that train in batches together; little data each of them fits by itself, with the same outcome.

    Raises
    ------
    TrainingDivergedError
    """
    clock = Clock(plan.max_seconds)
    if plan.canonical_rows:
        examples, checkpoints, communicator = canonical(examples), None, ALONE
    if plan.solver == "lbfgs" and plan.hidden_layer_sizes:  # asked for: nothing else is tried in its place
        return fit_full_batch(examples, n_classes, plan, None, on_epoch, seed=seed)
    examples, folds, halves = _dealt(examples, plan, seed)
    if (folds < 0).all():
        return _fit_lone_rows(examples, n_classes, plan, seed, on_epoch)
    candidates: list[Candidate] = []
    # Each of several processes searches by itself: with a time limit they might end differently.
    in_step = communicator.size == 1 or plan.max_seconds is None
    if plan.solver == "lbfgs" or (plan.compare_regression and in_step):
        judged = folds if plan.canonical_rows else np.where(folds < plan.n_members, folds, -1)
        ended = _add_regressions(candidates, examples.blind(), n_classes, plan, judged, clock, on_epoch)
        if ended is not None:
            return ended

    views = _views(examples, plan)
    n_fits = len(views) + (plan.input_dropout > 0)
    in_all = counted(on_epoch, n_fits * plan.max_epochs)

    def fit(name: str, seen: Examples, dropping: float, share: float) -> bool:
        """Add one ensemble to the candidates and return whether there is time for more."""
        part = None if checkpoints is None else checkpoints.part(name)
        own = clock.rest_of(_dropping(plan, dropping), share)
        fitted = _fit_members(seen, n_classes, own, seed, folds, in_all, device, part, communicator)
        candidates.append(fitted)
        return not communicator.broadcast_json(fitted.fitted.stopped_by == "interrupt" or clock.is_out())

    goes_on = all(fit("bins" if i else "", seen, 0.0, 1 / (n_fits - i)) for i, seen in enumerate(views))
    if goes_on and plan.input_dropout:
        fit("dropped", views[-1], plan.input_dropout, 1.0)
    mixture = best_mixture(candidates, examples.target, examples.weight)
    stopped_by = candidates[-1].fitted.stopped_by
    if len(mixture.parts) == 1 and mixture.parts[0][0].is_regression:
        return _regression_alone(mixture, stopped_by)
    calibration, later = _calibrated(mixture, examples, plan), Continued(mixture)
    if stopped_by not in INTERRUPTED and communicator.broadcast_json(clock.has_time_for(2 * plan.continuation)):
        later = continued(mixture, examples.target, examples.weight, halves, on_epoch, communicator)
        if plan.calibration is not None:
            calibration = calibration.sharpened(later.sharpening)
    return _merged(later, calibration, examples, plan, "interrupt" if later.interrupted else stopped_by)


def _calibrated(mixture: Mixture, examples: Examples, plan: Plan) -> Calibration:
    """Return the calibration that the rows ask for which all of a mixture holds out."""
    return calibrated_on(mixture.log_proba, examples.take(mixture.held_out), plan)


def _add_regressions(
    candidates: list[Candidate],
    examples: Examples,
    n_classes: int,
    plan: Plan,
    folds: NDArray[np.int64],
    clock: Clock,
    on_epoch: OnEpoch | None,
) -> Fitted | None:
    """Add softmax regression to the candidates; return it where the fit is to end with it."""
    alone = on_epoch if plan.solver == "lbfgs" else None
    try:
        for selecting in (False, True) if plan.compare_selection else (False,):
            found = cross_validated_regression(examples, n_classes, plan, folds, clock, alone, selecting=selecting)
            candidates.append(found)
    except (KeyboardInterrupt, OutOfTime) as stop:
        if not candidates:
            return without_cross_validation(examples, n_classes, plan, clock, stop)
        if isinstance(stop, KeyboardInterrupt):
            return replace(candidates[0].fitted, stopped_by="interrupt")
    if plan.solver == "lbfgs":
        return candidates[0].fitted
    return replace(candidates[0].fitted, stopped_by="max_seconds") if clock.is_out() else None


def _dropping(plan: Plan, rate: float) -> Plan:
    """Return the plan of members that drop a share of the columns, those in the sparse block too, or none."""
    return replace(plan, input_dropout=rate, token_dropout=rate or plan.token_dropout)


def _dealt(
    examples: Examples, plan: Plan, seed: int
) -> tuple[Examples, NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows, the fold of each (-1 in rows that are the only one of their class) and its half of the fold."""
    labels = examples.target
    copies = copies_to_deal(examples, plan.n_folds) if plan.canonical_rows else np.ones(len(labels), dtype=np.int64)
    most = int(np.bincount(labels, weights=copies).max())
    n_folds = min(plan.n_folds, max(most, 2))
    folds = stratified_folds(labels, n_folds, seed, examples.groups)
    halves = stratified_halves(labels, n_folds, seed, examples.groups)
    if (copies == 1).all():
        return examples, folds, halves
    rows = np.repeat(np.arange(len(labels)), copies)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(copies) - copies, copies)
    whole = copies[rows] == 1
    dealt = replace(examples.take(rows), weight=examples.weight[rows] / copies[rows])
    return dealt, np.where(whole, folds[rows], (np.maximum(folds[rows], 0) + nth) % n_folds), halves[rows]


def _views(examples: Examples, plan: Plan) -> list[Examples]:
    """Return the rows as the members see them, once for each set of members."""
    if not examples.bins or not plan.compare_bins:
        return [examples]
    return [examples] if len(examples) < TINY_ROWS else [examples.blind(), examples]


def _fit_lone_rows(examples: Examples, n_classes: int, plan: Plan, seed: int, on_epoch: OnEpoch | None) -> Fitted:
    """Fit rows each of which is a class of its own: nothing can be held out."""
    plan = replace(plan, continuation=0.0)
    if plan.solver == "lbfgs" or plan.compare_regression:
        decay = plan.weight_decay if plan.solver == "lbfgs" else None
        regression = regression_plan(plan, decay or LONE_ROWS_PENALTY / float(examples.weight.sum()))
        return fit_full_batch(examples.blind(), n_classes, regression, None, on_epoch, seed=seed)
    spec = spec_of(examples, n_classes, plan)
    parameters = new_parameters(spec, plan, seed, dtype_of(plan.precision))
    rows = rows_of(examples, parameters.flat.dtype)
    result = train(parameters, rows, schedule_of(_dropping(plan, 0.0)), seed=seed, on_epoch=on_epoch)
    params = numpy_params(parameters, result.flat, result.table)
    n_epochs, stopped_by = len(result.history), result.stopped_by
    return Fitted(spec, params, Calibration(), plan, result.history, no_metrics(), n_epochs, stopped_by)


def _fit_members(
    examples: Examples,
    n_classes: int,
    plan: Plan,
    seed: int,
    folds: NDArray[np.int64],
    on_epoch: OnEpoch | None,
    device: str,
    checkpoints: Checkpoints | None,
    communicator: Communicator,
) -> Candidate:
    """Train members that each hold out a fold of their own: every row trains most members and validates the others."""
    import torch

    dtype = dtype_of(plan.precision)
    spec = spec_of(examples, n_classes, plan)
    n_folds = min(int(folds.max()) + 1, plan.n_members)
    rows = rows_of(examples, dtype, device)
    rows.fold = torch.from_numpy(folds)
    # Members of a fold lie side by side, so that they are validated without a copy.
    rows.member_fold = torch.arange(spec.n_members) * n_folds // spec.n_members
    state = new_state(spec, plan, seed, device)
    parameters, optimizer = state.parameters, state.optimizer
    validator = Validator(spec, rows)
    with holding_signals(communicator):
        result = train(
            parameters,
            rows,
            schedule_of(plan),
            seed=seed,
            validator=validator,
            compute_dtype=torch.bfloat16 if plan.precision == "bfloat16" else None,
            on_epoch=noting_interrupts(on_epoch, communicator),
            optimizer=optimizer,
            checkpoints=checkpoints,
            communicator=communicator,
        )
    log_proba = held_out_log_proba(validator, parameters, result)
    params = numpy_params(parameters, result.flat, result.table)
    n_epochs = len(result.history)
    state.rewind(result.flat, result.table, result.best_epoch / n_epochs)
    state.n_epochs = n_epochs
    fitted = Fitted(
        spec, params, Calibration(), plan, result.history, no_metrics(), n_epochs, result.stopped_by, state
    )
    return Candidate(fitted, log_proba, sees_bins=examples.bins is not None, rows=rows)


def _regression_alone(mixture: Mixture, stopped_by: str) -> Fitted:
    """Return the softmax regression that a mixture is, which was fitted to all rows and is calibrated."""
    regression = mixture.parts[0][0].fitted
    stopped = stopped_by if stopped_by in INTERRUPTED else regression.stopped_by
    return replace(regression, plan=replace(regression.plan, mixture=mixture.words), stopped_by=stopped)


def _merged(later: Continued, calibration: Calibration, examples: Examples, plan: Plan, stopped_by: str) -> Fitted:
    """Return a mixture with networks in it as one network."""
    mixture = later.mixture
    spec, params, sees_bins = joined(mixture, examples.bins or slice(0, 0))
    rows = examples.take(mixture.held_out)
    history = one_history(*(part.fitted.history for part, _ in mixture.parts if not part.is_regression))
    return Fitted(
        spec,
        params,
        calibration,
        replace(plan, n_members=spec.n_members, mixture=mixture.words, continuation=later.share),
        history,
        metrics_on(calibration.transform(mixture.log_proba), rows),
        len(history),
        stopped_by,
        sees_bins=sees_bins,
    )
