"""Softmax regression, or a network, fitted on all rows at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from softmaxnet.calibration import Calibration
from softmaxnet.fitted import (
    Examples,
    Fitted,
    OnEpoch,
    TrainingState,
    calibrated_on,
    metrics_on,
    new_state,
    no_metrics,
    numpy_params,
    rows_of,
    spec_of,
)
from softmaxnet.full_batch import FullBatchResult, minimise
from softmaxnet.recipe import Plan
from softmaxnet.validation import network_logits

__all__ = ["fit_full_batch", "fit_then_all", "regression_plan"]

LARGE_GAP = 2e-4
"""Of softmax regression on many rows: the share of its objective that may be left to gain."""
CALIBRATION_GAP = 1e-3
"""The same of a fit whose held-out rows calibrate the one after it: a temperature needs no more."""


def fit_full_batch(
    examples: Examples,
    n_classes: int,
    plan: Plan,
    validation: Examples | None,
    on_epoch: OnEpoch | None = None,
    *,
    seed: int = 0,
    state: TrainingState | None = None,
    gap: float = LARGE_GAP,
    descend: Callable[..., FullBatchResult] = minimise,
) -> Fitted:
    """Fit all rows by L-BFGS; the user's validation rows, where there are any, calibrate.

    The seed is that of hidden layers; softmax regression always begins at the same place, or at that of ``state``.
    ``descend`` finds the minimum as :func:`softmaxnet.full_batch.minimise` does.
    """
    import torch

    if plan.weight_decay is None:  # nothing to choose it by: scikit-learn's C = 1
        plan = replace(plan, weight_decay=float(1 / examples.weight.sum()))
    spec = spec_of(examples, n_classes, plan)
    state = state or new_state(spec, replace(plan, precision="float64"), seed)
    parameters = state.parameters
    large = examples.encoded.dense.size * n_classes > 50_000_000
    rows = rows_of(examples, torch.float32 if large else torch.float64)
    history: list[dict[str, float]] = []
    found = descend(
        parameters,
        rows,
        weight_decay=plan.weight_decay or 0.0,
        tolerance=1e-6 if large else 1e-10,
        max_iter=plan.max_epochs,
        label_smoothing=plan.label_smoothing,
        compute_dtype=torch.float32 if large else None,
        max_seconds=plan.max_seconds,
        gap=gap if large else None,
        on_epoch=_noted(history, on_epoch),
    )
    calibration, metrics = Calibration(), no_metrics()
    if validation is not None:
        logits = network_logits(spec, parameters.effective(), rows_of(validation, torch.float64))
        calibration = calibrated_on(logits, validation, plan)
        metrics = metrics_on(calibration.transform(logits), validation)
    if not history or history[-1]["loss"] != found.objective:  # it began at the minimum, or ended before the last line
        history.append({"epoch": found.n_iter, "loss": found.objective})
    state.n_epochs += max(found.n_iter, 1)
    params = numpy_params(parameters)
    return Fitted(spec, params, calibration, plan, history, metrics, state.n_epochs, found.stopped_by, state)


def fit_then_all(
    examples: Examples,
    training: Examples,
    n_classes: int,
    plan: Plan,
    held_out: Examples | None,
    on_epoch: OnEpoch | None = None,
    *,
    seed: int = 0,
    state: TrainingState | None = None,
) -> Fitted:
    """Fit softmax regression on the training rows, calibrate it on the rows held out, then go on with all rows.

    The weights are those of all rows: their objective has one minimum, and the first fit ends next to it, so that going
    on costs little. Metrics and calibration are those of the weights that had not seen the rows held out.
    """
    if plan.weight_decay is None:
        plan = replace(plan, weight_decay=float(1 / examples.weight.sum()))
    first = fit_full_batch(training, n_classes, plan, held_out, on_epoch, seed=seed, state=state, gap=CALIBRATION_GAP)
    if first.stopped_by in ("interrupt", "max_seconds"):
        return first
    if plan.max_seconds is not None:
        plan = replace(plan, max_seconds=max(plan.max_seconds - _seconds(first), 0.01))
    n_before, seconds = len(first.history), _seconds(first)
    history = list(first.history)

    def later(line: dict[str, float]) -> None:
        line |= {"epoch": line["epoch"] + n_before, "seconds": line["seconds"] + seconds}
        history.append(line)
        if on_epoch is not None:
            on_epoch(line)

    whole = fit_full_batch(examples, n_classes, plan, None, later, seed=seed, state=first.state)
    return replace(whole, calibration=first.calibration, metrics=first.metrics, history=history)


def _seconds(fitted: Fitted) -> float:
    return fitted.history[-1].get("seconds", 0.0)


def _noted(history: list[dict[str, float]], on_epoch: OnEpoch | None) -> OnEpoch:
    """Return what adds a line to the history and hands it on."""

    def note(line: dict[str, float]) -> None:
        history.append(line)
        if on_epoch is not None:
            on_epoch(line)

    return note


def regression_plan(plan: Plan, weight_decay: float | None) -> Plan:
    """Return the plan of a softmax regression on the same rows."""
    return replace(
        plan,
        hidden_layer_sizes=(),
        n_members=1,
        solver="lbfgs",
        parametrization="standard",
        dropout=0.0,
        precision="float64",
        max_epochs=1000,
        continuation=0.0,
        weight_decay=weight_decay,
    )
