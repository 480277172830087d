"""The training loop: batches, learning rate, validation, early stopping, divergence, progress.

::

    epoch_order --> gather a window of rows --> batches --> BackwardPass --> Optimizer
                                                                                |
    Validator <-- averaged parameters at the end of each epoch <----------------+
        |
        `--> history, best parameters so far, stop?
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.backward import BackwardPass, Parameters, ScaledSpec, SparseBatch, drop_tokens
from softmaxnet.calibration import held_out_log_loss_after_temperature
from softmaxnet.checkpoint import Checkpoint, Checkpoints
from softmaxnet.data.epoch_plan import batch_bounds, epoch_order
from softmaxnet.errors import TrainingDivergedError, UsageError
from softmaxnet.network import NetworkSpec, forward
from softmaxnet.optimizer import Optimizer, learning_rate_factor
from softmaxnet.softmax import soft_cross_entropy

if TYPE_CHECKING:
    import scipy.sparse
    from torch import Tensor

__all__ = ["Rows", "Schedule", "TrainingResult", "Validator", "scaled_spec", "train", "window_batches"]

WINDOW_BYTES = 64 << 20
MAX_RATE_CUTS = 3


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: all that a run needs besides the network and the rows.

    Attributes
    ----------
    learning_rate : float
    batch_size, max_epochs : int
    shape : {"cosine", "flat", "constant"}
    warmup_fraction : float
        Share of all steps in which the rate rises.
    betas : (float, float)
    weight_decay, dropout, label_smoothing : float
    table_rate : float
        Adagrad's rate of the sparse table, relative to ``learning_rate``.
    average_power : float or None
    token_dropout : float
        Share of the sparse block's entries left out of each batch.
    shift : int
        Pictures are moved by up to this many pixels in each direction, anew in every batch.
    n_iter_no_change : int
        Epochs without improvement after which a validated run stops.
    max_seconds : float or None
    """

    learning_rate: float
    batch_size: int
    max_epochs: int
    shape: str = "cosine"
    warmup_fraction: float = 0.03
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    dropout: float = 0.0
    label_smoothing: float = 0.0
    table_rate: float = 1.0
    average_power: float | None = None
    token_dropout: float = 0.0
    shift: int = 0
    n_iter_no_change: int = 10
    max_seconds: float | None = None


@dataclass
class Rows:
    """Encoded training rows as tensors.

    Attributes
    ----------
    dense : Tensor of shape (n_rows, n_dense), floating or uint8; the value of an input is ``dense * scale``
    scale : float
    sparse : scipy.sparse.csr_array of shape (n_rows, n_sparse), or None
    target : Tensor of shape (n_rows,), int64; or (n_rows, n_classes), rows of probabilities
    weight : Tensor of shape (n_rows,), mean 1, so that a step's size does not depend on the unit of the weights
    fold : Tensor of shape (n_rows,), int64, or None
        The part of the rows that a row belongs to; -1 for rows that every member trains on.
    member_fold : Tensor of shape (n_members,), int64, or None
        The part that each member does not train on and is validated by.
    picture : (height, width, channels) or None
        The shape of a row of pixels.
    """

    dense: Tensor
    target: Tensor
    weight: Tensor
    scale: float = 1.0
    sparse: scipy.sparse.csr_array | None = None
    fold: Tensor | None = None
    member_fold: Tensor | None = None
    picture: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.dense.shape[0])


@dataclass
class TrainingResult:
    """What a run leaves: the parameters to keep, and how it went."""

    flat: Tensor
    table: Tensor | None
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    stopped_by: str = "max_epochs"


def train(
    parameters: Parameters,
    rows: Rows,
    schedule: Schedule,
    *,
    seed: int,
    validator: Validator | None = None,
    compute_dtype: Any = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    optimizer: Optimizer | None = None,
    first_epoch: int = 0,
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Train in place and return the parameters of the best epoch (of the last one where nothing is validated).

    Parameters
    ----------
    parameters : Parameters, initialised
    rows : Rows
    schedule : Schedule
    seed : int
        Of the order of rows and the dropout masks.
    validator : Validator, optional
    compute_dtype : torch dtype of the matrix products, optional
    on_epoch : callable, optional
        Given each line of the history.
    optimizer : Optimizer, optional
        To go on from (warm start); a new one otherwise.
    first_epoch : int
        Where to go on in the order of rows.
    checkpoints : Checkpoints, optional
        Where the run is kept from time to time at the end of an epoch. One that was found there is gone on with, and
        the run ends as if it had never stopped: to the bit where one thread computes.

    Raises
    ------
    UsageError
        Where the checkpoint found is of another network.
    TrainingDivergedError
        Where the loss is not finite at the learning rate asked for and at three halvings of it.
    """
    state = optimizer or Optimizer(
        parameters,
        betas=schedule.betas,
        weight_decay=schedule.weight_decay,
        average_power=schedule.average_power,
        table_rate=schedule.table_rate,
    )
    run = _Run(parameters, rows, schedule, state, seed, compute_dtype)
    result = TrainingResult(parameters.flat, parameters.table)
    if checkpoints is not None and (found := checkpoints.take()) is not None:
        _go_on(found, run, result)
    scores = [line["validation_log_loss"] for line in result.history if "validation_log_loss" in line]
    best = min(scores, default=math.inf)
    started = time.monotonic() - (result.history[-1]["seconds"] if result.history else 0.0)
    if schedule.max_seconds is not None:
        run.deadline = started + schedule.max_seconds
    try:
        for epoch in range(first_epoch + len(result.history), first_epoch + schedule.max_epochs):
            line = run.epoch_with_retries(epoch, first_epoch)
            if validator is not None:
                line |= validator.score(parameters, state.averaged(), parameters.table)
            line["seconds"] = time.monotonic() - started
            result.history.append(line)
            if validator is None:
                result.best_epoch = epoch + 1
            elif line["validation_log_loss"] < best:
                best = line["validation_log_loss"]
                result.best_epoch = epoch + 1
                result.flat = state.averaged().clone()
                result.table = None if parameters.table is None else parameters.table.clone()
            elif epoch + 1 - result.best_epoch >= schedule.n_iter_no_change:
                result.stopped_by = "early_stopping"
            if schedule.max_seconds is not None and line["seconds"] >= schedule.max_seconds:
                result.stopped_by = "max_seconds"
            if checkpoints is not None and checkpoints.is_due():
                checkpoints.save(*_kept(run, result, validator is not None))
            if on_epoch is not None:
                on_epoch(line)
            if result.stopped_by != "max_epochs":
                break
    except KeyboardInterrupt:
        result.stopped_by = "interrupt"
        warnings.warn(
            f"interrupted in epoch {len(result.history) + 1}: the best parameters so far are kept", stacklevel=2
        )
    if not result.best_epoch or validator is None:
        result.flat = state.averaged().clone()
        result.table = None if parameters.table is None else parameters.table.clone()
    return result


class _Run:
    """The steps of one run, epoch by epoch."""

    def __init__(
        self,
        parameters: Parameters,
        rows: Rows,
        schedule: Schedule,
        optimizer: Optimizer,
        seed: int,
        compute_dtype: Any,
    ) -> None:
        import torch

        self.parameters, self.rows, self.schedule = parameters, rows, schedule
        self.optimizer, self.seed = optimizer, seed
        self.bounds = batch_bounds(len(rows), schedule.batch_size)
        largest = max(stop - start for start, stop in self.bounds)
        self.backward = BackwardPass(
            parameters,
            largest,
            dropout=schedule.dropout,
            label_smoothing=schedule.label_smoothing,
            compute_dtype=compute_dtype,
        )
        self.rate_factor = 1.0
        self.deadline: float | None = None
        n_dense = rows.dense.shape[1]
        self.input = torch.empty(largest, n_dense, dtype=self.backward.dtype, device=rows.dense.device)
        row_bytes = max(n_dense * rows.dense.element_size(), 1)
        self.batches_per_window = max(WINDOW_BYTES // (row_bytes * largest), 1)

    def epoch_with_retries(self, epoch: int, first_epoch: int) -> dict[str, float]:
        """Run one epoch; where a step is not finite go back to its start with half the learning rate."""
        backup = _Backup(self.parameters, self.optimizer)
        for cut in range(MAX_RATE_CUTS + 1):
            loss = self.epoch(epoch, first_epoch)
            if math.isfinite(loss):
                return {"epoch": epoch + 1, "loss": loss, "learning_rate": self.last_rate}
            backup.restore(self.parameters, self.optimizer)
            if cut < MAX_RATE_CUTS:
                self.rate_factor *= 0.5
                rate = self.rate_factor * self.schedule.learning_rate
                warnings.warn(
                    f"the loss was not finite in epoch {epoch + 1}: back to its start, learning rate {rate:.3g}",
                    stacklevel=4,
                )
        raise TrainingDivergedError(
            f"the loss was not finite in epoch {epoch + 1} at learning rates from {self.schedule.learning_rate:.3g} "
            f"down to {self.rate_factor * self.schedule.learning_rate:.3g}",
            hint="Look for huge numbers among the features (features='auto' scales them) or lower learning_rate.",
        )

    def epoch(self, epoch: int, first_epoch: int) -> float:
        """Take every step of an epoch and return the mean loss; not finite as soon as one step is not."""
        n_batches = len(self.bounds)
        total = n_batches * self.schedule.max_epochs
        warmup = max(round(self.schedule.warmup_fraction * total), 1)
        order = epoch_order(self.seed, epoch, len(self.rows))
        loss_sum = 0.0
        for first in range(0, n_batches, self.batches_per_window):
            window = self.bounds[first : first + self.batches_per_window]
            batches = window_batches(self.rows, order, window, self.input)
            for i, (dense, sparse, target, weight) in enumerate(batches):
                step = (epoch - first_epoch) * n_batches + first + i
                key = (self.seed, epoch * n_batches + first + i)
                if self.schedule.shift and self.rows.picture:
                    dense = shifted(dense, self.rows.picture, self.schedule.shift, key)
                if self.schedule.token_dropout and sparse is not None:
                    sparse = drop_tokens(sparse, self.schedule.token_dropout, key)
                loss = self.backward(dense, target, weight, sparse, key)
                if not _is_finite(loss, self.backward):
                    return math.nan
                loss_sum += loss.item()
                factor = learning_rate_factor(step, total, warmup, self.schedule.shape)
                self.last_rate = self.rate_factor * self.schedule.learning_rate * factor
                self.optimizer.step(self.last_rate, self.backward.gradient, self.backward.table_gradient)
                if self.deadline is not None and time.monotonic() >= self.deadline:
                    mean = loss_sum / (first + i + 1) / self.parameters.spec.network.n_members
                    return mean if self._weights_are_finite() else math.nan
        mean = loss_sum / n_batches / self.parameters.spec.network.n_members
        return mean if self._weights_are_finite() else math.nan

    def _weights_are_finite(self) -> bool:
        """Whether the last update, which no later loss has seen, left numbers."""
        import torch

        kept = (self.parameters.flat, self.parameters.table, self.optimizer.average)
        return all(bool(torch.isfinite(tensor).all()) for tensor in kept if tensor is not None)


def _is_finite(loss: Tensor, backward: BackwardPass) -> bool:
    """Whether loss and gradient are finite: looked at before the update, so that the weights stay so."""
    import torch

    gradient = backward.gradient
    square = torch.dot(gradient, gradient) + loss
    if torch.isfinite(square):
        return True
    # A sum of squares may overflow where no gradient does.
    return bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient).all())


def window_batches(
    rows: Rows,
    order: np.ndarray | None,
    window: list[tuple[int, int]],
    buffer: Tensor,
    *,
    divisor: float | None = None,
) -> Iterator[tuple[Tensor, SparseBatch | None, Tensor, Tensor]]:
    """Gather the rows of a window once and yield its batches as views: (dense, sparse, target, weight).

    Weights come divided by ``divisor``, by default the rows of a batch, so that a step follows the mean loss; rows come
    in the given order, or as they are.
    """
    import torch

    start, stop = window[0][0], window[-1][1]
    if order is None:
        take: Any = slice(start, stop)
        sparse = None if rows.sparse is None else rows.sparse[take]
    else:
        take = torch.from_numpy(order[start:stop]).to(rows.dense.device)
        sparse = None if rows.sparse is None else rows.sparse[order[start:stop]]
    dense, target, weight = rows.dense[take], rows.target[take], rows.weight[take]
    fold = None if rows.fold is None else rows.fold[take]
    share = 1 / divisor if divisor is not None else len(window) / (stop - start)
    for lower, upper in window:
        part = slice(lower - start, upper - start)
        x = dense[part]
        if x.dtype != buffer.dtype or rows.scale != 1.0:
            x = buffer[: upper - lower].copy_(x)
            if rows.scale != 1.0:
                x.mul_(rows.scale)
        w = weight[part] * share
        if fold is not None and rows.member_fold is not None:
            w = _member_weights(w, fold[part], rows.member_fold)
        yield x, None if sparse is None else _sparse_batch(sparse, part, buffer.dtype), target[part], w


def shifted(dense: Tensor, picture: tuple[int, int, int], most: int, key: tuple[int, int]) -> Tensor:
    """Return a batch of pictures moved by one random number of rows and of columns; what moves in is 0.

    A picture of a thing is still of that thing a pixel further on. One shift a batch costs a copy, and over an epoch
    all shifts occur.
    """
    import torch

    height, width, channels = picture
    generator = np.random.Generator(np.random.Philox(key=key[0], counter=[0, 0, key[1], 4]))
    down, right = (int(v) for v in generator.integers(-most, most + 1, 2))
    if not down and not right:
        return dense
    source = dense.view(-1, height, width, channels)
    moved = torch.zeros_like(source)
    to_rows, from_rows = _overlap(down, height)
    to_columns, from_columns = _overlap(right, width)
    moved[:, to_rows, to_columns] = source[:, from_rows, from_columns]
    return moved.view(dense.shape)


def _overlap(by: int, size: int) -> tuple[slice, slice]:
    """Return where a line of a size goes and comes from when moved by some places."""
    return slice(max(by, 0), size + min(by, 0)), slice(max(-by, 0), size - max(by, 0))


def _member_weights(weight: Tensor, fold: Tensor, member_fold: Tensor) -> Tensor:
    """Return a weight for each member and row: 0 where the member holds the row out."""
    return weight * (fold.unsqueeze(0) != member_fold.unsqueeze(1))


def _sparse_batch(sparse: scipy.sparse.csr_array, part: slice, dtype: Any) -> SparseBatch:
    import torch

    offsets = sparse.indptr[part.start : part.stop + 1].astype(np.int64)
    span = slice(int(offsets[0]), int(offsets[-1]))
    return SparseBatch(
        torch.from_numpy(offsets - offsets[0]),
        torch.from_numpy(sparse.indices[span].astype(np.int64)),
        torch.from_numpy(sparse.data[span]).to(dtype),
    )


class _Backup:
    """The state at the start of an epoch, to go back to."""

    def __init__(self, parameters: Parameters, optimizer: Optimizer) -> None:
        self.tensors = {name: tensor.clone() for name, tensor in _state(parameters, optimizer).items()}
        self.n_steps = optimizer.n_steps

    def restore(self, parameters: Parameters, optimizer: Optimizer) -> None:
        """Copy the state back."""
        for name, tensor in _state(parameters, optimizer).items():
            tensor.copy_(self.tensors[name])
        optimizer.n_steps = self.n_steps


def _state(parameters: Parameters, optimizer: Optimizer) -> dict[str, Tensor]:
    every = {
        "flat": parameters.flat,
        "table": parameters.table,
        "first": optimizer.first,
        "second": optimizer.second,
        "count": optimizer.count,
        "average": optimizer.average,
        "table_squares": optimizer.table_squares,
    }
    return {name: tensor for name, tensor in every.items() if tensor is not None}


def _kept(
    run: _Run, result: TrainingResult, is_validated: bool
) -> tuple[dict[str, np.ndarray], dict[str, float], list[dict[str, float]]]:
    """Return what :meth:`Checkpoints.save` takes: all that the epochs to come depend on."""
    tensors = _state(run.parameters, run.optimizer)
    if is_validated:  # otherwise the last parameters are kept, which are there already
        tensors |= {"best.flat": result.flat} | ({} if result.table is None else {"best.table": result.table})
    state = {
        "best_epoch": result.best_epoch,
        "n_steps": run.optimizer.n_steps,
        "rate_factor": run.rate_factor,
    }
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}, state, result.history


def _go_on(found: Checkpoint, run: _Run, result: TrainingResult) -> None:
    """Put everything back as it was when the checkpoint was written."""
    import torch

    into = _state(run.parameters, run.optimizer)
    best = {name: tensor for name, tensor in found.tensors.items() if name.startswith("best.")}
    if best:
        result.flat = torch.empty_like(run.parameters.flat)
        into["best.flat"] = result.flat
        if run.parameters.table is not None:
            into["best.table"] = result.table = torch.empty_like(run.parameters.table)
    if {name: tuple(tensor.shape) for name, tensor in into.items()} != {
        name: array.shape for name, array in found.tensors.items()
    } or not {"best_epoch", "n_steps", "rate_factor"} <= set(found.state):
        raise UsageError("the checkpoint is of another network", file=str(found.path))
    for name, tensor in into.items():
        tensor.copy_(torch.from_numpy(np.array(found.tensors[name])))
    found.tensors.clear()  # they are as large as the run itself
    result.history.extend(found.history)
    result.best_epoch = int(found.state["best_epoch"])
    run.optimizer.n_steps = int(found.state["n_steps"])
    run.rate_factor = float(found.state["rate_factor"])


@dataclass
class Validator:
    """Held-out rows and their score: the log loss after the best temperature for them.

    A loss is refinement plus calibration, and the two are best at different epochs; a temperature mends calibration
    afterwards for free, so the epoch is chosen by what it cannot mend (Berta et al. 2025, "Rethinking early stopping").
    """

    spec: NetworkSpec
    rows: Rows
    chunk_rows: int = 4096

    def logits(self, parameters: Parameters, flat: Tensor, table: Tensor | None) -> np.ndarray:
        """Return the logits of the held-out rows, of members that did not train on them."""
        effective = parameters.effective(flat, table)
        rows = self.rows
        if rows.fold is None or rows.member_fold is None:
            return network_logits(self.spec, effective, rows, None, self.chunk_rows)
        out = np.empty((len(rows), self.spec.n_classes))
        fold = rows.fold.cpu().numpy()
        member_fold = rows.member_fold.cpu().numpy()
        for k in np.unique(member_fold):
            spec, params = member_subset(self.spec, effective, np.flatnonzero(member_fold == k).tolist())
            chosen = np.flatnonzero(fold == k)
            out[chosen] = network_logits(spec, params, rows, chosen, self.chunk_rows)
        return out

    def score(self, parameters: Parameters, flat: Tensor, table: Tensor | None) -> dict[str, float]:
        """Return the scores of one epoch, as the history names them."""
        logits = self.logits(parameters, flat, table)
        labels, weight = self.rows.target.cpu().numpy(), self.rows.weight.cpu().numpy()
        known = _known_rows(self.rows)
        if known is not None:
            logits, labels, weight = logits[known], labels[known], weight[known]
        if not np.isfinite(logits).all():
            raise TrainingDivergedError(
                "the logits of the validation rows are not finite",
                hint="Look for huge numbers among the features (features='auto' scales them) or lower learning_rate.",
            )
        if labels.ndim == 2:
            return {
                "validation_log_loss": float(soft_cross_entropy(logits, labels, sample_weight=weight)),
                "validation_accuracy": float(np.average(logits.argmax(1) == labels.argmax(1), weights=weight)),
            }
        loss, inverse_temperature = held_out_log_loss_after_temperature(logits, labels, weight)
        accuracy = float(np.average(logits.argmax(1) == labels, weights=weight))
        return {
            "validation_log_loss": loss,
            "inverse_temperature": inverse_temperature,
            "validation_accuracy": accuracy,
        }


def _known_rows(rows: Rows) -> np.ndarray | None:
    """Rows that no member holds out (of a class with one row, say) are not validated; None where all are."""
    if rows.fold is None or rows.member_fold is None:
        return None
    known = np.isin(rows.fold.cpu().numpy(), rows.member_fold.cpu().numpy())
    return None if known.all() else known


def member_subset(
    spec: NetworkSpec, params: dict[str, Tensor], members: list[int]
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """Return the network of some of the members."""
    from dataclasses import replace

    out: dict[str, Tensor] = {}
    for name, value in params.items():
        if name.startswith("layers."):
            out[name] = value[members]
        elif name == "sparse.weight":
            out[name] = value.view(value.shape[0], spec.n_members, -1)[:, members].flatten(1)
        else:
            out[name] = value
    return replace(spec, n_members=len(members)), out


def network_logits(
    spec: NetworkSpec,
    params: dict[str, Tensor],
    rows: Rows,
    chosen: np.ndarray | None = None,
    chunk_rows: int = 4096,
) -> np.ndarray:
    """Return the logits of some rows (of all where none are chosen), members combined, float64."""
    import torch

    if chosen is None:
        chosen = np.arange(len(rows))

    out = np.empty((len(chosen), spec.n_classes))
    arrays = {name: value.cpu().numpy() for name, value in params.items()} if rows.sparse is not None else {}
    dtype = params["layers.0.weight"].dtype
    for start in range(0, len(chosen), chunk_rows):
        part = chosen[start : start + chunk_rows]
        dense = rows.dense.index_select(0, torch.from_numpy(part).to(rows.dense.device)).to(dtype)
        if rows.scale != 1.0:
            dense = dense.mul_(rows.scale)
        if rows.sparse is None:
            out[start : start + len(part)] = forward(spec, params, dense).cpu().numpy()
        else:  # SciPy multiplies sparse rows as they are; torch's CSR tensors are in beta and say so
            out[start : start + len(part)] = forward(spec, arrays, dense.cpu().numpy(), rows.sparse[part])
    return out


def scaled_spec(spec: NetworkSpec, parametrization: str) -> ScaledSpec:
    """Return the scales of a parametrisation: ``"ntk"`` (a rate for every width) or ``"standard"`` (PyTorch's)."""
    if parametrization == "standard":
        return ScaledSpec(spec)
    scales = {}
    for i, inputs in enumerate(spec.layer_sizes[:-1]):
        scales[f"layers.{i}.weight"] = 1 / math.sqrt(max(inputs, 1))
        scales[f"layers.{i}.bias"] = 0.1
    for name in ("frequency", "phase", "weight"):
        scales[f"embedding.{name}"] = 0.1
    return ScaledSpec(spec, scales)
