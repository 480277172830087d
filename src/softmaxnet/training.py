"""The training loop: batches, learning rate, validation, early stopping, divergence, progress.

::

    Feed: rows in memory, or a stream of them --> batches --> BackwardPass --> Optimizer
                                                                                |
    Validator <-- averaged parameters at the end of each round <----------------+
        |
        `--> history, best parameters so far, stop?
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.backward import BackwardPass
from softmaxnet.batches import Batch, Feed, MemoryFeed, Rows, shifted
from softmaxnet.checkpoint import Checkpoint, Checkpoints
from softmaxnet.communicator import ALONE, Communicator
from softmaxnet.data.epoch_plan import batch_bounds
from softmaxnet.data_parallel import Exchange, spreads_classes
from softmaxnet.dropout import drop_columns, drop_tokens
from softmaxnet.errors import TrainingDivergedError, UsageError
from softmaxnet.head_pass import Update
from softmaxnet.kept_weights import BestWeights
from softmaxnet.optimizer import Optimizer, learning_rate_factor
from softmaxnet.parameters import Parameters
from softmaxnet.validation import Validator

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Backup", "Schedule", "TrainingResult", "train"]


MAX_RATE_CUTS = 3
FINITE_NUMBERS = 2**24
"""Numbers that are looked at together for infinities: a byte each."""


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
    input_dropout : float
        Share of the columns that is left out of each row of a batch: all inputs of theirs in the dense block are 0.
    token_dropout : float
        Share of the sparse block's entries left out of each batch.
    shift : int
        Pictures are moved by up to this many pixels in each direction, anew in every batch.
    n_iter_no_change : int
        Epochs without improvement after which a validated run stops.
    max_seconds : float or None
    rounds : int
        Equal parts of an epoch, after each of which the run is validated, shown and kept: more than one where an epoch
        is long.
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
    input_dropout: float = 0.0
    token_dropout: float = 0.0
    shift: int = 0
    n_iter_no_change: int = 10
    max_seconds: float | None = None
    rounds: int = 1


@dataclass
class TrainingResult:
    """What a run leaves: the parameters to keep, and how it went.

    ``best_epoch`` counts rounds, which are epochs where an epoch has one, those of the runs before included; 0 while
    nothing was validated.
    """

    flat: Tensor
    table: Tensor | None
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    stopped_by: str = "max_epochs"
    rounds_before: int = 0
    head_kernel: str = "own"

    @property
    def n_rounds(self) -> int:
        """Rounds behind it, those of the runs before included."""
        return self.rounds_before + len(self.history)

    def note(self, line: dict[str, float]) -> bool:
        """Add a round to the history and return whether its held-out log loss is the lowest so far."""
        best = math.inf
        if self.best_epoch:
            best = self.history[self.best_epoch - self.rounds_before - 1]["validation_log_loss"]
        self.history.append(line)
        if not line.get("validation_log_loss", math.inf) < best:
            return False
        self.best_epoch = self.n_rounds
        return True

    def take(self, flat: Tensor, table: Tensor | None) -> None:
        """Keep these parameters; the table, which goes on being trained, as a copy."""
        self.flat, self.table = flat, None if table is None else table.clone()


def train(
    parameters: Parameters,
    rows: Rows | Feed,
    schedule: Schedule,
    *,
    seed: int,
    validator: Validator | None = None,
    compute_dtype: Any = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    optimizer: Optimizer | None = None,
    first_epoch: int = 0,
    checkpoints: Checkpoints | None = None,
    communicator: Communicator = ALONE,
) -> TrainingResult:
    """Train in place and return the parameters of the best epoch (of the last one where nothing is validated).

    Parameters
    ----------
    parameters : Parameters, initialised
    rows : Rows or Feed
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
        Where the run is kept from time to time at the end of a round. One that was found there is gone on with, and
        the run ends as if it had never stopped: to the bit where one thread computes. Of several processes the first
        one has them, and the others None.
    communicator : Communicator, optional
        The processes that train together, each on its part of every batch; a feed must have been given the same one.

    Raises
    ------
    UsageError
        Where the checkpoint found is of another network.
    TrainingDivergedError
        Where the loss is not finite at the learning rate asked for and at three halvings of it.
    """
    state = optimizer or _new_optimizer(parameters, schedule)
    feed = MemoryFeed(rows, seed, communicator) if isinstance(rows, Rows) else rows
    run = _Run(parameters, feed, schedule, state, seed, compute_dtype, communicator)
    result = run.result(first_epoch)
    if checkpoints is not None and (found := checkpoints.take()) is not None:
        _go_on(found, run, result)
    if run.exchange is not None:
        _go_on_alike(run, result, communicator, is_kept=checkpoints is not None)
    kept = BestWeights(parameters, None if checkpoints is None else checkpoints.folder)
    if result.best_epoch and not parameters.keeps_copies:  # checkpoints hold the last weights only: best from there on
        result.best_epoch, result.flat = result.n_rounds, kept.keep(parameters.flat)
    started = time.monotonic() - (result.history[-1]["seconds"] if result.history else 0.0)
    limit = communicator.broadcast_json(schedule.max_seconds)  # one clock for all
    if limit is not None:
        run.deadline = started + limit
    reason = _reason_to_stop(result, schedule, limit)
    try:
        while reason is None:
            kept.changed()
            line = run.round_with_retries(len(result.history), first_epoch)
            if validator is not None:
                line |= validator.score(parameters, state.averaged(), parameters.table)
            line["seconds"] = time.monotonic() - started
            line = communicator.broadcast_json(line)
            if result.note(line):
                result.take(kept.keep(state.averaged()), parameters.table)
            reason = _reason_to_stop(result, schedule, limit)
            if checkpoints is not None and checkpoints.is_due():
                checkpoints.save(*_kept(run, result, validator is not None))
            communicator.barrier()  # writing may take longer than a step
            if on_epoch is not None:
                on_epoch(line)
        result.stopped_by = reason
    except KeyboardInterrupt:
        result.stopped_by = "interrupt"
        warnings.warn(
            f"interrupted in epoch {len(result.history) // schedule.rounds + 1}: the best parameters so far are kept",
            stacklevel=2,
        )
    kept.put_back()
    if not result.best_epoch:  # nothing was validated
        result.best_epoch = result.n_rounds
        result.take(state.averaged().clone() if parameters.keeps_copies else state.averaged(), parameters.table)
    return result


def _new_optimizer(parameters: Parameters, schedule: Schedule) -> Optimizer:
    return Optimizer(
        parameters,
        betas=schedule.betas,
        weight_decay=schedule.weight_decay,
        average_power=schedule.average_power,
        table_rate=schedule.table_rate,
    )


def _reason_to_stop(result: TrainingResult, schedule: Schedule, limit: float | None) -> str | None:
    """Return why a run has no round left, None where it has one: of what has been, the same after a resume."""
    if result.history and limit is not None and result.history[-1]["seconds"] >= limit:
        return "max_seconds"
    if result.best_epoch and result.n_rounds - result.best_epoch >= schedule.n_iter_no_change * schedule.rounds:
        return "early_stopping"
    return "max_epochs" if len(result.history) >= schedule.max_epochs * schedule.rounds else None


class _Run:
    """The steps of one run, round by round."""

    def __init__(
        self,
        parameters: Parameters,
        feed: Feed,
        schedule: Schedule,
        optimizer: Optimizer,
        seed: int,
        compute_dtype: Any,
        communicator: Communicator,
    ) -> None:
        import torch

        self.parameters, self.feed, self.schedule = parameters, feed, schedule
        self.optimizer, self.seed = optimizer, seed
        self.bounds = batch_bounds(feed.n_rows, schedule.batch_size)
        largest = -(-max(stop - start for start, stop in self.bounds) // communicator.size)
        self.backward = BackwardPass(
            parameters,
            largest,
            dropout=schedule.dropout,
            label_smoothing=schedule.label_smoothing,
            compute_dtype=compute_dtype,
            communicator=communicator if spreads_classes(parameters, self.bounds, communicator) else None,
        )
        self.rate_factor = 1.0
        self.deadline: float | None = None
        n_dense, device = parameters.spec.network.n_dense, parameters.flat.device
        self.input = torch.empty(largest, n_dense, dtype=self.backward.dtype, device=device)
        self.exchange: Exchange | None = None
        if communicator.size > 1:
            smallest = min(stop - start for start, stop in self.bounds)
            self.exchange = Exchange(communicator, self.backward, smallest)

    def round_with_retries(self, place: int, first_epoch: int) -> dict[str, float]:
        """Run one round; where a step is not finite go back to its start with half the learning rate.

        Parameters
        ----------
        place : int
            Rounds of this run before it.
        first_epoch : int
        """
        rounds = self.schedule.rounds
        number = first_epoch + place // rounds + 1
        shown = number if rounds == 1 else first_epoch + (place + 1) / rounds
        backup = Backup(self.parameters, self.optimizer)
        for cut in range(MAX_RATE_CUTS + 1):
            loss = self.round(place, first_epoch)
            if self.exchange is not None:
                self.exchange.share_head(self.optimizer)
            if math.isfinite(loss):
                return {"epoch": shown, "loss": loss, "learning_rate": self.last_rate}
            backup.restore(self.parameters, self.optimizer)
            if cut < MAX_RATE_CUTS:
                self.rate_factor *= 0.5
                rate = self.rate_factor * self.schedule.learning_rate
                warnings.warn(
                    f"the loss was not finite in epoch {number}: back to its start, learning rate {rate:.3g}",
                    stacklevel=4,
                )
        raise TrainingDivergedError(
            f"the loss was not finite in epoch {number} at learning rates from {self.schedule.learning_rate:.3g} "
            f"down to {self.rate_factor * self.schedule.learning_rate:.3g}",
            hint="Look for huge numbers among the features (features='auto' scales them) or lower learning_rate.",
        )

    def result(self, first_epoch: int) -> TrainingResult:
        """Return what the run leaves, before its first round."""
        return TrainingResult(
            self.parameters.flat,
            self.parameters.table,
            rounds_before=first_epoch * self.schedule.rounds,
            head_kernel=self.backward.head_kernel,
        )

    def round(self, place: int, first_epoch: int) -> float:
        """Take every step of a round and return the mean loss; not finite as soon as one step is not."""
        import torch

        passed, part = divmod(place, self.schedule.rounds)
        n_batches = len(self.bounds)
        first, last = (n_batches * i // self.schedule.rounds for i in (part, part + 1))
        loss_sum = 0.0
        coming = self.feed.batches(first_epoch + passed, self.bounds[first:last], self.input)
        # Without the bookkeeping for automatic differentiation an operation costs a third less; what is made in here
        # does not leave.
        with torch.inference_mode(), contextlib.closing(coming) as batches:
            for i, batch in enumerate(batches, first):
                loss = self._step(batch, passed * n_batches + i, (first_epoch + passed) * n_batches + i)
                if not math.isfinite(loss):
                    return math.nan
                loss_sum += loss
                if self.deadline is not None and (
                    time.monotonic() >= self.deadline if self.exchange is None else self.exchange.is_late
                ):
                    last = i + 1
                    break
        mean = loss_sum / max(last - first, 1) / self.parameters.spec.network.n_members
        return mean if self._weights_are_finite() else math.nan

    def _step(self, batch: Batch, step: int, drawn: int) -> float:
        """Take one step of this run and return its loss, with no update where that is not finite.

        What is drawn at random for the batch is a function of the seed and ``drawn``, the steps of all runs before it.
        """
        dense, sparse, target, weight = batch
        schedule, key = self.schedule, (self.seed, drawn)
        part = None if self.exchange is None else self.exchange.part(*self.bounds[drawn % len(self.bounds)])
        if schedule.shift and self.feed.picture:
            dense = shifted(dense, self.feed.picture, schedule.shift, key)
        if schedule.input_dropout and self.feed.columns is not None:
            dense = drop_columns(dense, self.feed.columns, schedule.input_dropout, key, part)
        if schedule.token_dropout and sparse is not None:
            sparse = drop_tokens(sparse, schedule.token_dropout, key)
        total = len(self.bounds) * schedule.max_epochs
        warmup = max(round(schedule.warmup_fraction * total), 1)
        factor = learning_rate_factor(step, total, warmup, schedule.shape)
        rate = self.rate_factor * schedule.learning_rate * factor
        loss = self.backward(dense, target, weight, sparse, key, part, self._head_update(rate))
        if self.exchange is not None:
            loss = self.exchange.sum(loss, self.deadline is not None and time.monotonic() >= self.deadline)
        lost = float(loss.item())
        if not (math.isfinite(lost) and _is_finite(self.backward.gradient)):
            return math.nan
        self.last_rate = rate
        self.optimizer.step(rate, self.backward.gradient, self.backward.table_gradient)
        return lost

    def _head_update(self, rate: float) -> Update:
        """Return what uses up the gradients of a head by classes, tile by tile."""

        def update(member: int, start: int, stop: int, d_weight: Tensor, d_bias: Tensor) -> None:
            self.optimizer.update_classes(rate, member, start, stop, d_weight, d_bias)

        return update

    def _weights_are_finite(self) -> bool:
        """Whether the last update, which no later loss has seen, left numbers."""
        kept = (self.parameters.flat, self.parameters.table, self.optimizer.average)
        return all(_is_finite(tensor.view(-1)) for tensor in kept if tensor is not None)


def _is_finite(numbers: Tensor) -> bool:
    """Whether all numbers of a vector are finite: of a gradient before the update, so that the weights stay so."""
    import torch

    # A sum of squares is one quick pass, but it may overflow where no number does.
    parts = torch.split(numbers, FINITE_NUMBERS) if numbers.numel() > FINITE_NUMBERS else (numbers,)
    return all(math.isfinite(torch.dot(part, part).item()) or bool(torch.isfinite(part).all()) for part in parts)


class Backup:
    """The state of a run at some moment, to go back to; nothing of it where the weights are too large to be copied.

    They are finite all the same, for a step that is not is never taken.
    """

    def __init__(self, parameters: Parameters, optimizer: Optimizer) -> None:
        state = _state(parameters, optimizer) if parameters.keeps_copies else {}
        self.tensors = {name: tensor.clone() for name, tensor in state.items()}
        self.n_steps = optimizer.n_steps

    def restore(self, parameters: Parameters, optimizer: Optimizer) -> None:
        """Copy the state back."""
        if not self.tensors:
            return
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
    if is_validated and run.parameters.keeps_copies:  # otherwise the last parameters are, which are there already
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


def _go_on_alike(run: _Run, result: TrainingResult, communicator: Communicator, *, is_kept: bool) -> None:
    """Give every process the state of the first one: as it was initialised, or as its checkpoint has it."""
    import torch

    about = communicator.broadcast_json(
        {
            "history": result.history,
            "best_epoch": result.best_epoch,
            "n_steps": run.optimizer.n_steps,
            "rate_factor": run.rate_factor,
            "has_best": result.flat is not run.parameters.flat,
            "is_kept": is_kept,
        }
    )
    assert run.exchange is not None
    run.exchange.is_kept = about["is_kept"]
    into = _state(run.parameters, run.optimizer)
    if not about["n_steps"]:  # moments are zeros everywhere, whose memory is taken when they are written to
        into = {name: tensor for name, tensor in into.items() if name not in ("first", "second", "table_squares")}
    if about["has_best"]:
        if not communicator.is_root:
            result.flat = torch.empty_like(run.parameters.flat)
            result.table = None if run.parameters.table is None else torch.empty_like(run.parameters.table)
        into |= {"best.flat": result.flat} | ({} if result.table is None else {"best.table": result.table})
    for tensor in into.values():
        communicator.broadcast(tensor)
    result.history[:] = about["history"]
    result.best_epoch = about["best_epoch"]
    run.optimizer.n_steps, run.rate_factor = about["n_steps"], about["rate_factor"]
