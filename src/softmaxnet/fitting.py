"""From encoded rows and a plan to a trained, calibrated network: the one place where the parts of a fit meet.

::

    Encoded + labels --split--> Rows, Validator --train / minimise--> parameters --held-out logits--> Calibration
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.batches import Feed, Rows
from softmaxnet.calibration import Calibration
from softmaxnet.checkpoint import Checkpoints, arrays_digest
from softmaxnet.communicator import ALONE, Communicator
from softmaxnet.comparison import fit_compared
from softmaxnet.data.split import stratified_holdout
from softmaxnet.data_parallel import holding_signals, noting_interrupts
from softmaxnet.errors import DataError
from softmaxnet.fitted import (
    Examples,
    Fitted,
    OnEpoch,
    TrainingState,
    calibrated_on,
    counted,
    metrics_on,
    new_state,
    no_metrics,
    numpy_params,
    one_history,
    rows_of,
    schedule_of,
    spec_of,
)
from softmaxnet.network import NetworkSpec
from softmaxnet.parameters import Parameters
from softmaxnet.recipe import Plan
from softmaxnet.training import TrainingResult, train
from softmaxnet.validation import Validator
from softmaxnet.whole_fit import fit_full_batch, fit_then_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["fit_batches", "fit_network", "keeps_checkpoints", "operations_per_step", "run_fingerprint"]



def fit_network(
    examples: Examples,
    n_classes: int,
    plan: Plan,
    *,
    seed: int,
    validation: Examples | None = None,
    on_epoch: OnEpoch | None = None,
    state: TrainingState | None = None,
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
    communicator: Communicator = ALONE,
) -> Fitted:
    """Train as the plan says and calibrate on the rows that were held out.

    Parameters
    ----------
    examples : Examples
    n_classes : int
    plan : Plan
    seed : int
    validation : Examples, optional
        The user's own; where given nothing is held out of ``examples``.
    on_epoch : callable, optional
    state : TrainingState, optional
        Where to go on from.
    device : str
    checkpoints : Checkpoints, optional
        For training in batches; all rows at once and little data are done before long and start again.
    communicator : Communicator, optional
        The processes that train in batches together. What is not trained in batches each of them does by itself, with
        the same outcome.

    Raises
    ------
    DataError
        For a label beyond the classes.
    TrainingDivergedError
    """
    _check_labels(examples, n_classes)
    if plan.validation == "folds":
        return fit_compared(
            examples,
            n_classes,
            plan,
            seed,
            on_epoch,
            device=device,
            checkpoints=checkpoints,
            communicator=communicator,
        )
    training = examples
    if plan.validation == "holdout":
        labels = examples.target if examples.target.ndim == 1 else examples.target.argmax(1)
        held_out = stratified_holdout(labels, plan.validation_fraction, seed, examples.groups)
        if held_out.any() and not held_out.all():
            training, validation = examples.take(~held_out), examples.take(held_out)
    if plan.solver == "lbfgs":
        if training is not examples and not plan.hidden_layer_sizes:
            return fit_then_all(examples, training, n_classes, plan, validation, on_epoch, seed=seed, state=state)
        given = validation if training is examples else None
        return fit_full_batch(examples, n_classes, plan, given, on_epoch, seed=seed, state=state)
    fitted = _fit_minibatch(
        training, n_classes, plan, seed, validation, on_epoch, state, device, checkpoints, communicator
    )
    if training is examples or not plan.continuation:
        return fitted
    return _gone_on(fitted, examples, on_epoch, device, communicator)


def _check_labels(examples: Examples, n_classes: int) -> None:
    """Refuse labels that the output layer has no place for."""
    labels = examples.target
    if labels.ndim == 1 and len(labels) and not 0 <= labels.min() <= labels.max() < n_classes:
        row = int(np.flatnonzero((labels < 0) | (labels >= n_classes))[0])
        raise DataError(f"row {row} has the label {labels[row]}; the output layer has {n_classes} classes, from 0 on")


def operations_per_step(examples: Examples, n_classes: int, plan: Plan) -> float:
    """Return the floating-point operations of one step: six for each weight and row (forward, two products back)."""
    sizes = spec_of(examples, n_classes, plan).layer_sizes
    weights = plan.n_members * sum(a * b for a, b in pairwise(sizes))
    rows = len(examples) if plan.solver == "lbfgs" else min(plan.batch_size, len(examples))
    return 6.0 * rows * weights


def keeps_checkpoints(plan: Plan) -> bool:
    """Return whether a fit by this plan goes on from checkpoints."""
    return plan.solver != "lbfgs" and not plan.canonical_rows


def run_fingerprint(
    examples: Examples, classes: NDArray[Any], plan: Plan, seed: int, validation: Examples | None
) -> dict[str, Any]:
    """Return what a run is a run of, by name: digests of the rows, the seed and every setting."""
    import softmaxnet

    return {
        "training rows": arrays_digest([classes, *_arrays(examples)]),
        "validation rows": None if validation is None else arrays_digest(_arrays(validation)),
        "version": softmaxnet.__version__,
        "random_state": seed,
        **plan.to_dict(),
    }


def _arrays(examples: Examples) -> list[NDArray[Any] | None]:
    encoded, sparse = examples.encoded, examples.encoded.sparse
    parts = [] if sparse is None else [sparse.data, sparse.indices, sparse.indptr]
    scale = np.float64(encoded.dense_scale).reshape(1)
    return [encoded.dense, scale, *parts, examples.target, examples.weight, examples.groups]


def _fit_minibatch(
    training: Examples,
    n_classes: int,
    plan: Plan,
    seed: int,
    validation: Examples | None,
    on_epoch: OnEpoch | None,
    state: TrainingState | None = None,
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
    communicator: Communicator = ALONE,
) -> Fitted:
    spec = spec_of(training, n_classes, plan)
    state = state or new_state(spec, plan, seed, device)
    rows = rows_of(training, state.parameters.flat.dtype, device)
    return fit_batches(rows, spec, plan, state, validation, on_epoch, device, checkpoints, communicator=communicator)


def _gone_on(
    first: Fitted, examples: Examples, on_epoch: OnEpoch | None, device: str, communicator: Communicator
) -> Fitted:
    """Train a network on with all rows for a share of its epochs; metrics and calibration are those of before.

    Where classes are many each has few rows, and the rows held out are worth more than what they could say of going on.
    """
    plan, state, history = first.plan, first.state, first.history
    epochs = max(round(plan.continuation * first.best_epoch), 1)
    spent = history[-1]["seconds"]
    too_late = plan.max_seconds is not None and spent * (1 + 2 * epochs / len(history)) > plan.max_seconds
    if communicator.broadcast_json(first.stopped_by == "interrupt" or too_late):
        return first
    assert state is not None
    rows = rows_of(examples, state.parameters.flat.dtype, device)
    later = replace(plan, max_epochs=epochs, validation="none")
    on_epoch = counted(on_epoch, epochs, anew=True)
    whole = fit_batches(rows, first.spec, later, state, None, on_epoch, device, communicator=communicator)
    return replace(
        whole,
        plan=replace(plan, continuation=epochs / first.best_epoch),
        history=one_history(history, whole.history),
        calibration=first.calibration,
        metrics=first.metrics,
    )


def fit_batches(
    rows: Rows | Feed,
    spec: NetworkSpec,
    plan: Plan,
    state: TrainingState,
    validation: Examples | None,
    on_epoch: OnEpoch | None = None,
    device: str = "cpu",
    checkpoints: Checkpoints | None = None,
    *,
    rounds: int = 1,
    communicator: Communicator = ALONE,
) -> Fitted:
    """Train in batches from wherever they come and calibrate on the held-out rows; an epoch has so many rounds."""
    import torch

    parameters = state.parameters
    if state.n_epochs and not parameters.keeps_copies:  # a model that was made of them before is not to change
        parameters.detach()
    dtype = parameters.flat.dtype
    validator = None
    if validation is not None:
        validator = Validator(spec, rows_of(validation, dtype, device), communicator=communicator)
    with holding_signals(communicator):
        result = train(
            parameters,
            rows,
            replace(schedule_of(plan), rounds=rounds),
            seed=state.seed,
            validator=None if plan.validation == "none" else validator,  # else for calibration alone
            compute_dtype=torch.bfloat16 if plan.precision == "bfloat16" else None,
            on_epoch=noting_interrupts(on_epoch, communicator),
            optimizer=state.optimizer,
            first_epoch=state.n_epochs,
            checkpoints=checkpoints,
            communicator=communicator,
        )
    state.n_epochs += math.ceil(len(result.history) / rounds)
    calibration, metrics = Calibration(), no_metrics()
    if validator is not None and validation is not None:
        calibration, metrics = _held_out(validator, parameters, result, validation, plan)
        state.rewind(result.flat, result.table)  # what a later fit starts from is what this one keeps
    params = numpy_params(parameters, result.flat, result.table)
    plan = replace(plan, head_kernel=result.head_kernel)
    return Fitted(spec, params, calibration, plan, result.history, metrics, state.n_epochs, result.stopped_by, state)


def _held_out(
    validator: Validator, parameters: Parameters, result: TrainingResult, validation: Examples, plan: Plan
) -> tuple[Calibration, dict[str, float | None]]:
    """Return the calibration that the held-out rows ask for, and their scores after it."""
    if not validator.is_streamed:
        logits = validator.logits(parameters, result.flat, result.table)
        calibration = calibrated_on(logits, validation, plan)
        return calibration, metrics_on(calibration.transform(logits), validation)
    scores = validator.streamed(parameters, result.flat, result.table)
    calibration = Calibration() if plan.output == "sigmoid" else scores.calibration(plan.calibration)
    found = scores.summary(calibration.inverse_temperature)
    return calibration, {**found, "n_held_out": len(scores.labels)}
