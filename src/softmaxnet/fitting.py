"""From encoded rows and a plan to a trained, calibrated network: the one place where the parts of a fit meet.

::

    Encoded + labels --split--> Rows, Validator --train / minimise--> parameters --held-out logits--> Calibration
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.backward import Parameters
from softmaxnet.calibration import Calibration, fit_calibration, held_out_log_loss_after_temperature
from softmaxnet.checkpoint import Checkpoints, arrays_digest
from softmaxnet.data.split import stratified_folds, stratified_holdout
from softmaxnet.features.encoded import Encoded
from softmaxnet.features.pictures import picture_shape
from softmaxnet.full_batch import minimise
from softmaxnet.network import NetworkSpec
from softmaxnet.optimizer import Optimizer
from softmaxnet.recipe import Plan
from softmaxnet.softmax import log_softmax
from softmaxnet.training import Rows, Schedule, Validator, network_logits, scaled_spec, train

if TYPE_CHECKING:
    import scipy.sparse
    from numpy.typing import NDArray

__all__ = [
    "Examples",
    "Fitted",
    "TrainingState",
    "fit_network",
    "keeps_checkpoints",
    "operations_per_step",
    "run_fingerprint",
]

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00001)
"""Weight decays of softmax regression that little data chooses from by cross-validation."""
NETWORK_MARGIN = 2.0
"""On little data a network must beat softmax regression by this many standard errors: it has more ways to be wrong."""


@dataclass(frozen=True)
class Examples:
    """Encoded rows with their targets and weights.

    Attributes
    ----------
    encoded : Encoded
    target : ndarray of shape (n_rows,), int64 labels; or (n_rows, n_classes), rows of probabilities
    weight : ndarray of shape (n_rows,), float64, positive
    groups : ndarray of shape (n_rows,), optional
    """

    encoded: Encoded
    target: NDArray[Any]
    weight: NDArray[np.float64]
    groups: NDArray[Any] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.target)

    def take(self, rows: NDArray[Any]) -> Examples:
        """Return some of the rows."""
        encoded = self.encoded
        sparse = None if encoded.sparse is None else encoded.sparse[rows]
        return Examples(
            replace(encoded, dense=encoded.dense[rows], sparse=sparse),
            self.target[rows],
            self.weight[rows],
            None if self.groups is None else self.groups[rows],
        )


@dataclass(frozen=True)
class Fitted:
    """A trained network in NumPy, its calibration, and how it went."""

    spec: NetworkSpec
    params: dict[str, NDArray[Any]]
    calibration: Calibration
    plan: Plan
    history: list[dict[str, float]]
    metrics: dict[str, float | None]
    n_iter: int
    stopped_by: str
    state: TrainingState | None = None
    row_losses: NDArray[np.float64] | None = None
    """Of each row in cross-validation, after the best temperature [nats]; NaN where a row was not held out."""


@dataclass
class TrainingState:
    """What a later fit goes on from: parameters, the optimizer's moments, the seed, the epochs behind it."""

    parameters: Parameters
    optimizer: Optimizer
    seed: int
    n_epochs: int = 0


OnEpoch = Callable[[dict[str, float]], None]


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

    Raises
    ------
    TrainingDivergedError
    """
    if plan.solver == "lbfgs" or plan.validation == "folds":
        return _fit_whole(examples, n_classes, plan, seed, validation, on_epoch)
    training = examples
    if plan.validation == "holdout":
        labels = examples.target if examples.target.ndim == 1 else examples.target.argmax(1)
        held_out = stratified_holdout(labels, plan.validation_fraction, seed, examples.groups)
        if held_out.any() and not held_out.all():
            training, validation = examples.take(~held_out), examples.take(held_out)
    return _fit_minibatch(training, n_classes, plan, seed, validation, on_epoch, state, device, checkpoints)


def operations_per_step(examples: Examples, n_classes: int, plan: Plan) -> float:
    """Return the floating-point operations of one step: six for each weight and row (forward, two products back)."""
    sizes = _spec(examples, n_classes, plan).layer_sizes
    weights = plan.n_members * sum(a * b for a, b in pairwise(sizes))
    rows = len(examples) if plan.solver == "lbfgs" else min(plan.batch_size, len(examples))
    return 6.0 * rows * weights


def keeps_checkpoints(plan: Plan) -> bool:
    """Return whether a fit by this plan goes on from checkpoints."""
    return plan.solver != "lbfgs" and plan.validation != "folds"


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


def _spec(examples: Examples, n_classes: int, plan: Plan) -> NetworkSpec:
    encoded = examples.encoded
    return NetworkSpec(
        n_dense=encoded.dense.shape[1],
        n_sparse=0 if encoded.sparse is None else encoded.sparse.shape[1],
        n_classes=n_classes,
        hidden_layer_sizes=plan.hidden_layer_sizes,
        activation=plan.activation,
        n_members=plan.n_members,
        output=plan.output,
        n_frequencies=plan.n_frequencies,
        embedding_size=plan.embedding_size,
    )


def _dtype(precision: str) -> Any:
    import torch

    return torch.float64 if precision == "float64" else torch.float32


def _rows(examples: Examples, dtype: Any, device: str = "cpu") -> Rows:
    import torch

    dense = torch.from_numpy(np.require(examples.encoded.dense, requirements=["C", "W"]))
    target = torch.from_numpy(np.require(examples.target, requirements=["C", "W"]))
    weight = torch.from_numpy(examples.weight / examples.weight.mean())
    return Rows(
        dense=dense.to(device) if dense.dtype == torch.uint8 else dense.to(device, dtype),
        target=target.to(device) if target.ndim == 1 else target.to(device, dtype),
        weight=weight.to(device, dtype),
        scale=examples.encoded.dense_scale,
        sparse=examples.encoded.sparse,
        picture=picture_shape(examples.encoded.dense),
    )


def schedule_of(plan: Plan) -> Schedule:
    """Return what the training loop needs of a plan."""
    return Schedule(
        learning_rate=plan.learning_rate,
        batch_size=plan.batch_size,
        max_epochs=plan.max_epochs,
        shape=plan.learning_rate_schedule,
        betas=plan.betas,
        weight_decay=plan.weight_decay or 0.0,
        dropout=plan.dropout,
        label_smoothing=plan.label_smoothing,
        table_rate=plan.table_rate,
        average_power=plan.average_power,
        shift=plan.shift,
        token_dropout=plan.token_dropout,
        n_iter_no_change=plan.n_iter_no_change,
        max_seconds=plan.max_seconds,
    )


def new_parameters(spec: NetworkSpec, plan: Plan, seed: int, dtype: Any, device: str = "cpu") -> Parameters:
    """Return initialised parameters in the plan's parametrisation."""
    parameters = Parameters(scaled_spec(spec, plan.parametrization), dtype=dtype, device=device)
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, 3]))
    parameters.initialise(generator, plan.initial_gain, plan.zero_head)
    return parameters


def numpy_params(parameters: Parameters, flat: Any = None, table: Any = None) -> dict[str, NDArray[Any]]:
    """Return the parameters as the forward pass takes them, in NumPy."""
    return {name: value.cpu().numpy().copy() for name, value in parameters.effective(flat, table).items()}


def new_state(spec: NetworkSpec, plan: Plan, seed: int, device: str = "cpu") -> TrainingState:
    """Return initialised parameters with a new optimizer."""
    parameters = new_parameters(spec, plan, seed, _dtype(plan.precision), device)
    optimizer = Optimizer(
        parameters,
        betas=plan.betas,
        weight_decay=plan.weight_decay or 0.0,
        average_power=plan.average_power,
        table_rate=plan.table_rate,
    )
    return TrainingState(parameters, optimizer, seed)


def state_of(spec: NetworkSpec, params: Mapping[str, NDArray[Any]], plan: Plan, seed: int) -> TrainingState:
    """Return a fitted network's parameters with a new optimizer, to go on from."""
    import torch

    state = new_state(spec, plan, seed)
    parameters = state.parameters
    for name, value in params.items():
        target = parameters.table if name == "sparse.weight" else parameters.views[name]
        assert target is not None
        target.copy_(torch.from_numpy(np.array(value)) / parameters.spec.scale(name))
    if state.optimizer.average is not None:
        state.optimizer.average.copy_(parameters.flat)
    return state


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
) -> Fitted:
    import torch

    spec = _spec(training, n_classes, plan)
    state = state or new_state(spec, plan, seed, device)
    parameters = state.parameters
    dtype = parameters.flat.dtype
    validator = None if validation is None else Validator(spec, _rows(validation, dtype, device))
    result = train(
        parameters,
        _rows(training, dtype, device),
        schedule_of(plan),
        seed=state.seed,
        validator=validator,
        compute_dtype=torch.bfloat16 if plan.precision == "bfloat16" else None,
        on_epoch=on_epoch,
        optimizer=state.optimizer,
        first_epoch=state.n_epochs,
        checkpoints=checkpoints,
    )
    state.n_epochs += len(result.history)
    calibration, metrics = Calibration(), _no_metrics()
    if validator is not None and validation is not None:
        logits = validator.logits(parameters, result.flat, result.table)
        calibration = _calibrate(logits, validation, plan)
        metrics = _metrics(calibration.transform(logits), validation)
        # What a later fit starts from is what this one keeps.
        parameters.flat.copy_(result.flat)
        if parameters.table is not None and result.table is not None:
            parameters.table.copy_(result.table)
    params = numpy_params(parameters, result.flat, result.table)
    return Fitted(
        spec, params, calibration, plan, result.history, metrics, state.n_epochs, result.stopped_by, state
    )


def _calibrate(logits: NDArray[Any], held_out: Examples, plan: Plan) -> Calibration:
    """Return the calibration that held-out rows ask for; none where targets are not labels."""
    if plan.calibration is None or held_out.target.ndim > 1 or plan.output == "sigmoid":
        return Calibration()
    return fit_calibration(logits, held_out.target, held_out.weight, method=plan.calibration)


def _no_metrics() -> dict[str, float | None]:
    return {"log_loss": None, "accuracy": None, "n_held_out": 0}


def _metrics(logits: NDArray[Any], held_out: Examples) -> dict[str, float | None]:
    log_proba, target = log_softmax(logits), held_out.target
    if target.ndim == 1:
        losses = -log_proba[np.arange(len(target)), target]
        correct = logits.argmax(1) == target
    else:
        losses = -np.where(target > 0, target * log_proba, 0.0).sum(1)
        correct = logits.argmax(1) == target.argmax(1)
    return {
        "log_loss": float(np.average(losses, weights=held_out.weight)),
        "accuracy": float(np.average(correct, weights=held_out.weight)),
        "n_held_out": len(target),
    }


# --- rows looked at whole: softmax regression and little data --------------------------------------------------


def _fit_whole(
    examples: Examples,
    n_classes: int,
    plan: Plan,
    seed: int,
    validation: Examples | None,
    on_epoch: OnEpoch | None,
) -> Fitted:
    """Fit softmax regression, a network by full-batch steps, or, on little data, whichever validates better."""
    if plan.validation != "folds":
        return _fit_full_batch(examples, n_classes, plan, seed, validation)
    examples = canonical(examples)
    if plan.solver == "lbfgs" and plan.hidden_layer_sizes:  # asked for: nothing else is tried in its place
        return _fit_full_batch(examples, n_classes, plan, seed, None)
    labels = examples.target
    n_folds = min(plan.n_folds, max(int(np.bincount(labels).max()), 2))
    folds = stratified_folds(labels, n_folds, seed, examples.groups)
    if (folds < 0).all():  # every class is one distinct row: nothing can be held out
        if plan.solver == "adam" and not plan.race_regression:
            return _fit_minibatch(examples, n_classes, replace(plan, validation="none"), seed, None, on_epoch)
        regression = _regression_plan(plan, plan.weight_decay if plan.solver == "lbfgs" else None)
        return _fit_full_batch(examples, n_classes, regression, seed, None)
    linear = None
    if plan.solver == "lbfgs" or plan.race_regression:
        try:
            linear = _cross_validated_regression(examples, n_classes, plan, seed, folds)
        except KeyboardInterrupt:
            warnings.warn("interrupted: softmax regression without cross-validation is kept", stacklevel=2)
            regression = _regression_plan(plan, 1 / examples.weight.sum())
            return replace(_fit_full_batch(examples, n_classes, regression, seed, None), stopped_by="interrupt")
        if plan.solver == "lbfgs":
            return linear
    network = _fit_folds(examples, n_classes, plan, seed, folds, on_epoch)
    return network if linear is None or _beats(network, linear, examples) else linear


def _beats(network: Fitted, linear: Fitted, examples: Examples) -> bool:
    """Whether a network's held-out losses are lower than softmax regression's beyond what chance would explain."""
    assert network.row_losses is not None
    assert linear.row_losses is not None
    both = np.isfinite(network.row_losses) & np.isfinite(linear.row_losses)
    weight, gain = examples.weight[both], (linear.row_losses - network.row_losses)[both]
    return float(np.average(gain, weights=weight)) > NETWORK_MARGIN * _standard_error(gain, weight)


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
    return Examples(Encoded(dense[first], 1.0, merged.encoded.sparse), merged.target, weight, merged.groups)


def _row_ranks(block: scipy.sparse.csr_array) -> NDArray[np.float64]:
    """Return a number for each row of a sparse block, the same for equal rows, in the order of their bytes."""
    data = block.data + 0.0  # -0.0 is 0.0
    bounds = list(zip(block.indptr[:-1], block.indptr[1:], strict=True))
    rows = [block.indices[i:j].tobytes() + data[i:j].tobytes() for i, j in bounds]
    rank = {row: float(i) for i, row in enumerate(sorted(set(rows)))}
    return np.array([rank[row] for row in rows])


def _fit_full_batch(
    examples: Examples, n_classes: int, plan: Plan, seed: int, validation: Examples | None
) -> Fitted:
    """Fit all rows by L-BFGS; the user's validation rows, where there are any, calibrate."""
    import torch

    if plan.weight_decay is None:  # nothing to choose it by: scikit-learn's C = 1
        plan = replace(plan, weight_decay=float(1 / examples.weight.sum()))
    spec = _spec(examples, n_classes, plan)
    parameters = new_parameters(spec, plan, seed, torch.float64)
    large = examples.encoded.dense.size * n_classes > 50_000_000
    rows = _rows(examples, torch.float32 if large else torch.float64)
    found = minimise(
        parameters,
        rows,
        weight_decay=plan.weight_decay or 0.0,
        tolerance=1e-6 if large else 1e-10,
        max_iter=plan.max_epochs,
        label_smoothing=plan.label_smoothing,
        compute_dtype=torch.float32 if large else None,
        max_seconds=plan.max_seconds,
    )
    calibration, metrics = Calibration(), _no_metrics()
    if validation is not None:
        logits = network_logits(spec, parameters.effective(), _rows(validation, torch.float64))
        calibration = _calibrate(logits, validation, plan)
        metrics = _metrics(calibration.transform(logits), validation)
    history = [{"epoch": found.n_iter, "loss": found.objective}]
    return Fitted(
        spec, numpy_params(parameters), calibration, plan, history, metrics, max(found.n_iter, 1), found.stopped_by
    )


def _cross_validated_regression(
    examples: Examples, n_classes: int, plan: Plan, seed: int, folds: NDArray[np.int64]
) -> Fitted:
    """Choose the weight decay of softmax regression by cross-validation and fit all rows with it."""
    linear = _regression_plan(plan, plan.weight_decay)
    penalties = PENALTIES if plan.weight_decay is None or plan.solver != "lbfgs" else (plan.weight_decay,)
    held_out = folds >= 0
    logits = _out_of_fold_logits(examples, n_classes, linear, folds, penalties)
    best = _strongest_as_good([_row_losses(z[held_out], examples.take(held_out)) for z in logits], examples, held_out)
    chosen = replace(linear, weight_decay=penalties[best])
    fitted = _fit_full_batch(examples, n_classes, chosen, seed, None)
    rows = examples.take(held_out)
    calibration = _calibrate(logits[best][held_out], rows, plan)
    metrics = _metrics(calibration.transform(logits[best][held_out]), rows)
    losses = _spread(_row_losses(logits[best][held_out], rows), held_out)
    return replace(fitted, calibration=calibration, metrics=metrics, row_losses=losses)


def _regression_plan(plan: Plan, weight_decay: float | None) -> Plan:
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
        weight_decay=weight_decay,
    )


def _row_losses(logits: NDArray[Any], rows: Examples) -> NDArray[np.float64]:
    """Return the log loss of each held-out row after the temperature that is best for them."""
    _, inverse_temperature = held_out_log_loss_after_temperature(logits, rows.target, rows.weight)
    log_proba = log_softmax(inverse_temperature * logits)
    return np.asarray(-log_proba[np.arange(len(rows)), rows.target])


def _spread(values: NDArray[np.float64], rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    out = np.full(len(rows), np.nan)
    out[rows] = values
    return out


def _strongest_as_good(
    losses: list[NDArray[np.float64]], examples: Examples, held_out: NDArray[np.bool_]
) -> int:
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
    examples: Examples, n_classes: int, plan: Plan, folds: NDArray[np.int64], penalties: tuple[float, ...]
) -> list[NDArray[np.float64]]:
    """Return, for every penalty, the logits of each row from the model that did not see its fold."""
    import torch

    spec = _spec(examples, n_classes, plan)
    out = [np.zeros((len(examples), n_classes)) for _ in penalties]
    for fold in np.unique(folds[folds >= 0]):
        inside, outside = folds != fold, folds == fold
        parameters = new_parameters(spec, plan, 0, torch.float64)
        rows, held_out = _rows(examples.take(inside), torch.float64), _rows(examples.take(outside), torch.float64)
        # From strong penalties to weak ones, each from where the one before ended.
        for logits, penalty in zip(out, penalties, strict=True):
            minimise(
                parameters,
                rows,
                weight_decay=penalty,
                tolerance=1e-5,
                max_iter=200,
                label_smoothing=plan.label_smoothing,
                final=False,
            )
            logits[outside] = network_logits(spec, parameters.effective(), held_out)
    return out


def _fit_folds(
    examples: Examples,
    n_classes: int,
    plan: Plan,
    seed: int,
    folds: NDArray[np.int64],
    on_epoch: OnEpoch | None,
) -> Fitted:
    """Train members that each hold out a fold of their own: every row trains most members and validates the others."""
    import torch

    dtype = _dtype(plan.precision)
    spec = _spec(examples, n_classes, plan)
    n_folds = int(folds.max()) + 1
    rows = _rows(examples, dtype)
    rows.fold = torch.from_numpy(folds)
    rows.member_fold = torch.arange(spec.n_members) % n_folds
    parameters = new_parameters(spec, plan, seed, dtype)
    validator = Validator(spec, rows)
    result = train(parameters, rows, schedule_of(plan), seed=seed, validator=validator, on_epoch=on_epoch)
    logits = validator.logits(parameters, result.flat, result.table)
    known = np.isin(folds, rows.member_fold.numpy())
    held_out = examples.take(known)
    calibration = _calibrate(logits[known], held_out, plan)
    return Fitted(
        spec,
        numpy_params(parameters, result.flat, result.table),
        calibration,
        plan,
        result.history,
        _metrics(calibration.transform(logits[known]), held_out),
        len(result.history),
        result.stopped_by,
        row_losses=_spread(_row_losses(logits[known], held_out), known),
    )
