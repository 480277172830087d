"""What a fit takes and gives, and the steps between arrays and tensors that every way of fitting shares.

::

    Examples --rows_of--> Rows          NetworkSpec, Plan --new_parameters--> Parameters --numpy_params--> Fitted
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.batches import Columns, Rows
from softmaxnet.calibration import Calibration, fit_calibration
from softmaxnet.features.encoded import Encoded
from softmaxnet.features.pictures import picture_shape
from softmaxnet.head_plan import HeadPlan, plan_head
from softmaxnet.network import NetworkSpec
from softmaxnet.optimizer import Optimizer
from softmaxnet.parameters import Parameters, scaled_spec
from softmaxnet.recipe import Plan
from softmaxnet.softmax import log_softmax
from softmaxnet.training import Schedule

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = [
    "Examples",
    "Fitted",
    "OnEpoch",
    "TrainingState",
    "calibrated_on",
    "counted",
    "dtype_of",
    "metrics_on",
    "new_parameters",
    "new_state",
    "no_metrics",
    "numpy_params",
    "one_history",
    "rows_of",
    "schedule_of",
    "spec_of",
    "state_of",
]


@dataclass(frozen=True)
class Examples:
    """Encoded rows with their targets and weights.

    Attributes
    ----------
    encoded : Encoded
    target : ndarray of shape (n_rows,), int64 labels; or (n_rows, n_classes), rows of probabilities
    weight : ndarray of shape (n_rows,), float64, positive
    groups : ndarray of shape (n_rows,), optional
    bins : slice, optional
        The columns of the dense block that are piecewise-linear bins, where members may do without them.
    sources : ndarray of shape (n_dense,), int64, optional
        The column of the table that each column of the dense block comes from.
    """

    encoded: Encoded
    target: NDArray[Any]
    weight: NDArray[np.float64]
    groups: NDArray[Any] | None = None
    bins: slice | None = None
    sources: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.target)

    def take(self, rows: NDArray[Any]) -> Examples:
        """Return some of the rows."""
        encoded = self.encoded
        sparse = None if encoded.sparse is None else encoded.sparse[rows]
        return replace(
            self,
            encoded=replace(encoded, dense=encoded.dense[rows], sparse=sparse),
            target=self.target[rows],
            weight=self.weight[rows],
            groups=None if self.groups is None else self.groups[rows],
        )

    def blind(self) -> Examples:
        """Return the rows without the columns that are bins."""
        if self.bins is None:
            return self
        dense = np.delete(self.encoded.dense, self.bins, axis=1)
        sources = None if self.sources is None else np.delete(self.sources, self.bins)
        return replace(self, encoded=replace(self.encoded, dense=dense), bins=None, sources=sources)


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
    sees_bins: bool = False
    """Whether the piecewise-linear bins among the inputs, where there are any, are inputs of the network."""

    @property
    def best_epoch(self) -> int:
        """How many epochs had been when the held-out log loss was lowest."""
        return int(np.argmin([line.get("validation_log_loss", np.inf) for line in self.history])) + 1


@dataclass
class TrainingState:
    """What a later fit goes on from: parameters, the optimizer's moments, the seed, the epochs behind it."""

    parameters: Parameters
    optimizer: Optimizer
    seed: int
    n_epochs: int = 0

    def rewind(self, flat: Tensor, table: Tensor | None, share: float = 1.0) -> None:
        """Take up parameters of an earlier moment, before which a share of the steps was made.

        The running average goes on from them, over a window that is as long as it was then.
        """
        self.parameters.flat.copy_(flat)
        if self.parameters.table is not None and table is not None:
            self.parameters.table.copy_(table)
        if self.optimizer.average is not None:
            self.optimizer.average.copy_(flat)
        self.optimizer.n_steps = round(share * self.optimizer.n_steps)


OnEpoch = Callable[[dict[str, float]], None]


def spec_of(examples: Examples, n_classes: int, plan: Plan) -> NetworkSpec:
    """Return the network that the plan means for rows of this shape."""
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


def dtype_of(precision: str) -> Any:
    """Return the type of the parameters."""
    import torch

    return torch.float64 if precision == "float64" else torch.float32


def rows_of(examples: Examples, dtype: Any, device: str = "cpu") -> Rows:
    """Return encoded rows as tensors, their weights divided by the mean weight."""
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
        columns=None if examples.sources is None else _columns(examples.sources, device),
    )


def _columns(sources: NDArray[np.int64], device: str) -> Columns:
    """Return the columns of the table that have inputs, numbered without gaps."""
    import torch

    there, of_input = np.unique(sources, return_inverse=True)
    return Columns(torch.from_numpy(of_input).to(device), len(there))


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
        input_dropout=plan.input_dropout,
        token_dropout=plan.token_dropout,
        n_iter_no_change=plan.n_iter_no_change,
        max_seconds=plan.max_seconds,
    )


def new_parameters(spec: NetworkSpec, plan: Plan, seed: int, dtype: Any, device: str = "cpu") -> Parameters:
    """Return initialised parameters in the plan's parametrisation, laid out for its way through the output layer."""
    head = _head_plan(spec, plan, dtype.itemsize)
    parameters = Parameters(scaled_spec(spec, plan.parametrization), dtype=dtype, device=device, head=head)
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, 3]))
    parameters.initialise(generator, plan.initial_gain, plan.zero_head)
    return parameters


def _head_plan(spec: NetworkSpec, plan: Plan, itemsize: int) -> HeadPlan | None:
    """Return how steps go through the output layer; None, dense, where it has inputs of its own or all rows at once."""
    if spec.n_layers == 1 and (spec.n_sparse or spec.embedding_size):
        return None
    if plan.solver == "lbfgs" or plan.validation == "folds":
        return None
    return plan_head(
        plan.batch_size,
        spec.layer_sizes[-2],
        spec.n_classes,
        n_members=spec.n_members,
        itemsize=itemsize,
        budget=plan.head_bytes,
    )


def numpy_params(parameters: Parameters, flat: Any = None, table: Any = None) -> dict[str, NDArray[Any]]:
    """Return the parameters as the forward pass takes them, in NumPy: copies, but of a head too large for that."""
    head = () if parameters.keeps_copies else parameters.head_names
    arrays = {name: value.cpu().numpy() for name, value in parameters.effective(flat, table).items()}
    return {name: array if name in head else array.copy() for name, array in arrays.items()}


def new_state(spec: NetworkSpec, plan: Plan, seed: int, device: str = "cpu") -> TrainingState:
    """Return initialised parameters with a new optimizer."""
    parameters = new_parameters(spec, plan, seed, dtype_of(plan.precision), device)
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
        scale = parameters.spec.scale(name) if name == "sparse.weight" else parameters.scale(name)
        target.copy_(torch.from_numpy(np.array(value)))
        if scale != 1.0:
            target.div_(scale)
    if state.optimizer.average is not None:
        state.optimizer.average.copy_(parameters.flat)
    return state


def counted(on_epoch: OnEpoch | None, most_epochs: int, *, anew: bool = False) -> OnEpoch | None:
    """Return what hands on the lines of several runs with epochs and seconds counted through, and how many may come.

    Counting goes on from the epoch of the first line, or begins at 1 again where it is to be ``anew``.
    """
    if on_epoch is None:
        return None
    epoch, began = 0, 0.0

    def note(line: dict[str, float]) -> None:
        nonlocal epoch, began
        if not epoch:
            epoch = 0 if anew else int(line["epoch"]) - 1
            began = time.monotonic() - line["seconds"]
        epoch += 1
        on_epoch(line | {"epoch": epoch, "seconds": time.monotonic() - began, "most_epochs": most_epochs})

    return note


def one_history(*histories: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return the lines of runs one after the other, epochs and seconds counted through.

    Examples
    --------
    >>> one_history([{"epoch": 1, "loss": 2.0, "seconds": 3.0}], [{"epoch": 9, "loss": 1.0, "seconds": 0.5}])[1]
    {'epoch': 2, 'loss': 1.0, 'seconds': 3.5}
    """
    lines: list[dict[str, float]] = []
    for history in histories:
        before, seconds = len(lines), lines[-1]["seconds"] if lines else 0.0
        lines += [
            {**line, "epoch": before + i, "seconds": seconds + line["seconds"]} for i, line in enumerate(history, 1)
        ]
    return lines


def calibrated_on(logits: NDArray[Any], held_out: Examples, plan: Plan) -> Calibration:
    """Return the calibration that held-out rows ask for; none where targets are not labels."""
    if plan.calibration is None or held_out.target.ndim > 1 or plan.output == "sigmoid":
        return Calibration()
    return fit_calibration(logits, held_out.target, held_out.weight, method=plan.calibration)


def no_metrics() -> dict[str, float | None]:
    """Return the scores where nothing was held out."""
    return {"log_loss": None, "accuracy": None, "n_held_out": 0}


def metrics_on(logits: NDArray[Any], held_out: Examples) -> dict[str, float | None]:
    """Return mean log loss [nats] and accuracy of calibrated logits on held-out rows."""
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
