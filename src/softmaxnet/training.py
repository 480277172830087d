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
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from softmaxnet.backward import BackwardPass, Parameters, ScaledSpec, SparseBatch, drop_tokens
from softmaxnet.calibration import held_out_log_loss_after_temperature
from softmaxnet.checkpoint import Checkpoint, Checkpoints
from softmaxnet.communicator import Alone, Communicator
from softmaxnet.data.epoch_plan import batch_bounds, epoch_order
from softmaxnet.data_parallel import Exchange, spreads_classes
from softmaxnet.errors import TrainingDivergedError, UsageError
from softmaxnet.head_pass import Update
from softmaxnet.held_out import Block, HeldOutScores, scored_rows
from softmaxnet.kept_weights import BestWeights
from softmaxnet.network import NetworkSpec, forward, head_inputs
from softmaxnet.optimizer import Optimizer, learning_rate_factor
from softmaxnet.softmax import soft_cross_entropy

if TYPE_CHECKING:
    import scipy.sparse
    from torch import Tensor

__all__ = [
    "Feed",
    "MemoryFeed",
    "Rows",
    "Schedule",
    "TrainingResult",
    "Validator",
    "batch_of",
    "scaled_spec",
    "train",
    "window_batches",
]

Batch: TypeAlias = "tuple[Tensor, SparseBatch | None, Tensor, Tensor]"
"""(dense, sparse, target, weight), as ``BackwardPass`` takes them."""

WINDOW_BYTES = 64 << 20
MAX_RATE_CUTS = 3
FINITE_NUMBERS = 2**24
"""Numbers that are looked at together for infinities: a byte each."""
WHOLE_LOGITS = 2**24
"""Held-out logits up to this many are kept whole; more of them are scored tile by tile of the classes."""
ALONE = Alone()


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
    token_dropout: float = 0.0
    shift: int = 0
    n_iter_no_change: int = 10
    max_seconds: float | None = None
    rounds: int = 1


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

    def take(self, which: slice | np.ndarray) -> Rows:
        """Return some of the rows: views of them for a slice, where they are not sparse."""
        import torch

        place: Any = which if isinstance(which, slice) else torch.from_numpy(which).to(self.dense.device)
        return replace(
            self,
            dense=self.dense[place],
            target=self.target[place],
            weight=self.weight[place],
            sparse=None if self.sparse is None else self.sparse[which],
            fold=None if self.fold is None else self.fold[place],
        )


class Feed(Protocol):
    """Where the batches of an epoch come from."""

    @property
    def n_rows(self) -> int:
        """Rows of an epoch."""

    @property
    def picture(self) -> tuple[int, int, int] | None:
        """The shape of a row of pixels."""

    def batches(self, epoch: int, bounds: Sequence[tuple[int, int]], buffer: Tensor) -> Generator[Batch, None, None]:
        """Yield the rows (start, stop) of an epoch's order for each of ``bounds``, which ascend; see ``batch_of``.

        Of several processes each yields its part of every batch.
        """


@dataclass(frozen=True)
class MemoryFeed:
    """Rows in memory, gathered in the order of the epoch, a window at a time."""

    rows: Rows
    seed: int
    communicator: Communicator = ALONE

    @property
    def n_rows(self) -> int:
        """Rows of an epoch."""
        return len(self.rows)

    @property
    def picture(self) -> tuple[int, int, int] | None:
        """The shape of a row of pixels."""
        return self.rows.picture

    def batches(self, epoch: int, bounds: Sequence[tuple[int, int]], buffer: Tensor) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch."""
        dense = self.rows.dense
        order = epoch_order(self.seed, epoch, len(self.rows))
        row_bytes = max(dense.shape[1] * dense.element_size(), 1)
        per_window = max(WINDOW_BYTES // (row_bytes * max(stop - start for start, stop in bounds)), 1)
        for first in range(0, len(bounds), per_window):
            window = list(bounds[first : first + per_window])
            yield from window_batches(self.rows, order, window, buffer, communicator=self.communicator)


@dataclass
class TrainingResult:
    """What a run leaves: the parameters to keep, and how it went.

    ``best_epoch`` counts rounds, which are epochs where an epoch has one.
    """

    flat: Tensor
    table: Tensor | None
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    stopped_by: str = "max_epochs"


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
    state = optimizer or Optimizer(
        parameters,
        betas=schedule.betas,
        weight_decay=schedule.weight_decay,
        average_power=schedule.average_power,
        table_rate=schedule.table_rate,
    )
    feed = MemoryFeed(rows, seed, communicator) if isinstance(rows, Rows) else rows
    run = _Run(parameters, feed, schedule, state, seed, compute_dtype, communicator)
    result = TrainingResult(parameters.flat, parameters.table)
    if checkpoints is not None and (found := checkpoints.take()) is not None:
        _go_on(found, run, result)
    if run.exchange is not None:
        _go_on_alike(run, result, communicator, is_kept=checkpoints is not None)
    scores = [line["validation_log_loss"] for line in result.history if "validation_log_loss" in line]
    best = min(scores, default=math.inf)
    kept = BestWeights(parameters, None if checkpoints is None else checkpoints.folder)
    if scores and not parameters.keeps_copies:  # checkpoints hold the last weights only: the best are sought from there
        best, result.best_epoch, result.flat = scores[-1], first_epoch + len(result.history), kept.keep(parameters.flat)
    started = time.monotonic() - (result.history[-1]["seconds"] if result.history else 0.0)
    limit = communicator.broadcast_json(schedule.max_seconds)  # one clock for all
    if limit is not None:
        run.deadline = started + limit
    try:
        for place in range(len(result.history), _end(result, schedule, first_epoch, validator is not None)):
            count = first_epoch * schedule.rounds + place + 1
            kept.changed()
            line = run.round_with_retries(place, first_epoch)
            if validator is not None:
                line |= validator.score(parameters, state.averaged(), parameters.table)
            line["seconds"] = time.monotonic() - started
            line = communicator.broadcast_json(line)
            result.history.append(line)
            if validator is None:
                result.best_epoch = count
            elif line["validation_log_loss"] < best:
                best = line["validation_log_loss"]
                result.best_epoch = count
                result.flat = kept.keep(state.averaged())
                result.table = None if parameters.table is None else parameters.table.clone()
            elif count - result.best_epoch >= schedule.n_iter_no_change * schedule.rounds:
                result.stopped_by = "early_stopping"
            if limit is not None and line["seconds"] >= limit:
                result.stopped_by = "max_seconds"
            if checkpoints is not None and checkpoints.is_due():
                checkpoints.save(*_kept(run, result, validator is not None))
            communicator.barrier()  # writing may take longer than a step
            if on_epoch is not None:
                on_epoch(line)
            if result.stopped_by != "max_epochs":
                break
    except KeyboardInterrupt:
        result.stopped_by = "interrupt"
        warnings.warn(
            f"interrupted in epoch {len(result.history) // schedule.rounds + 1}: the best parameters so far are kept",
            stacklevel=2,
        )
    kept.put_back()
    if not result.best_epoch or validator is None:
        result.flat = state.averaged().clone() if parameters.keeps_copies else state.averaged()
        result.table = None if parameters.table is None else parameters.table.clone()
    return result


def _end(result: TrainingResult, schedule: Schedule, first_epoch: int, is_validated: bool) -> int:
    """Return the place after the last round; a run that was cut off when it had just stopped has none left."""
    done = first_epoch * schedule.rounds + len(result.history)
    patience = schedule.n_iter_no_change * schedule.rounds
    if is_validated and result.history and result.best_epoch and done - result.best_epoch >= patience:
        result.stopped_by = "early_stopping"
        return len(result.history)
    return schedule.max_epochs * schedule.rounds


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
        backup = _Backup(self.parameters, self.optimizer)
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
        if schedule.shift and self.feed.picture:
            dense = shifted(dense, self.feed.picture, schedule.shift, key)
        if schedule.token_dropout and sparse is not None:
            sparse = drop_tokens(sparse, schedule.token_dropout, key)
        total = len(self.bounds) * schedule.max_epochs
        warmup = max(round(schedule.warmup_fraction * total), 1)
        factor = learning_rate_factor(step, total, warmup, schedule.shape)
        rate = self.rate_factor * schedule.learning_rate * factor
        if self.exchange is None:
            loss = self.backward(dense, target, weight, sparse, key, update=self._head_update(rate))
        else:
            part = self.exchange.part(*self.bounds[drawn % len(self.bounds)])
            loss = self.backward(dense, target, weight, sparse, key, part, self._head_update(rate))
            loss = self.exchange.sum(loss, self.deadline is not None and time.monotonic() >= self.deadline)
        if not _is_finite(loss, self.backward):
            return math.nan
        self.last_rate = rate
        self.optimizer.step(rate, self.backward.gradient, self.backward.table_gradient)
        return float(loss.item())

    def _head_update(self, rate: float) -> Update:
        """Return what uses up the gradients of a head by classes, tile by tile."""

        def update(member: int, start: int, stop: int, d_weight: Tensor, d_bias: Tensor) -> None:
            self.optimizer.update_classes(rate, member, start, stop, d_weight, d_bias)

        return update

    def _weights_are_finite(self) -> bool:
        """Whether the last update, which no later loss has seen, left numbers."""
        import torch

        kept = (self.parameters.flat, self.parameters.table, self.optimizer.average)
        parts = (part for tensor in kept if tensor is not None for part in torch.split(tensor.view(-1), FINITE_NUMBERS))
        return all(bool(torch.isfinite(part).all()) for part in parts)


def _is_finite(loss: Tensor, backward: BackwardPass) -> bool:
    """Whether loss and gradient are finite: looked at before the update, so that the weights stay so."""
    import torch

    gradient = backward.gradient
    if math.isfinite(torch.dot(gradient, gradient).add_(loss).item()):
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
    communicator: Communicator = ALONE,
) -> Iterator[tuple[Tensor, SparseBatch | None, Tensor, Tensor]]:
    """Gather the rows of a window once and yield its batches as views: (dense, sparse, target, weight).

    Weights come divided by ``divisor``, by default the rows of a batch, so that a step follows the mean loss; rows come
    in the given order, or as they are. Of several processes each gets its part of every batch.
    """
    start, stop = window[0][0], window[-1][1]
    if order is None:
        gathered = rows.take(slice(start, stop))
    else:
        gathered = rows.take(order[start:stop])
    share = 1 / divisor if divisor is not None else len(window) / (stop - start)
    for lower, upper in window:
        yield batch_of(gathered, slice(lower - start, upper - start), buffer, share, communicator)


def batch_of(rows: Rows, part: slice, buffer: Tensor, share: float, communicator: Communicator = ALONE) -> Batch:
    """Return some rows as a batch, in views where nothing has to be converted, their weights times ``share``.

    Of several processes each gets its part of the batch.
    """
    first = part.start
    if communicator.size > 1:
        mine = communicator.part(part.stop - first)
        part = slice(first + mine.start, first + mine.stop)
    x = rows.dense[part]
    if x.dtype != buffer.dtype or rows.scale != 1.0:
        x = buffer[: part.stop - part.start].copy_(x)
        if rows.scale != 1.0:
            x.mul_(rows.scale)
    w = rows.weight[part] * share
    if rows.fold is not None and rows.member_fold is not None:
        w = _member_weights(w, rows.fold[part], rows.member_fold)
    sparse = None if rows.sparse is None else _sparse_batch(rows.sparse, first, part, rows.weight.dtype)
    return x, sparse, rows.target[part], w


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


def _sparse_batch(sparse: scipy.sparse.csr_array, first: int, part: slice, dtype: Any) -> SparseBatch:
    """Return some rows of a block, of a batch that begins at the row ``first``."""
    import torch

    offsets = sparse.indptr[part.start : part.stop + 1].astype(np.int64)
    span = slice(int(offsets[0]), int(offsets[-1]))
    return SparseBatch(
        torch.from_numpy(offsets - offsets[0]),
        torch.from_numpy(sparse.indices[span].astype(np.int64)),
        torch.from_numpy(sparse.data[span]).to(dtype),
        int(offsets[0]) - int(sparse.indptr[first]),
    )


class _Backup:
    """The state at the start of an epoch, to go back to; nothing of it where the weights are too large to be copied.

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


@dataclass
class Validator:
    """Held-out rows and their score: the log loss after the best temperature for them.

    A loss is refinement plus calibration, and the two are best at different epochs; a temperature mends calibration
    afterwards for free, so the epoch is chosen by what it cannot mend (Berta et al. 2025, "Rethinking early stopping").
    """

    spec: NetworkSpec
    rows: Rows
    chunk_rows: int = 4096
    communicator: Communicator = ALONE

    @property
    def is_streamed(self) -> bool:
        """Whether the logits are too many to be kept: then :meth:`streamed` takes the place of :meth:`logits`."""
        labels = self.rows.target.ndim == 1 and self.rows.fold is None
        return labels and len(self.rows) * self.spec.n_classes > WHOLE_LOGITS and _is_head_alone(self.spec)

    def streamed(self, parameters: Parameters, flat: Tensor, table: Tensor | None) -> HeldOutScores:
        """Return the scores of the held-out rows at any temperature, with bounded memory."""
        effective = parameters.effective(flat, table)
        which = scored_rows(len(self.rows), self.spec.n_classes)
        rows = self.rows if len(which) == len(self.rows) else self.rows.take(which)
        inputs = head_input_blocks(self.spec, effective, rows)
        blocks = [Block(x, rows.target[start : start + x.shape[1]]) for start, x in inputs]
        last = f"layers.{self.spec.n_layers - 1}"
        head = effective[f"{last}.weight"], effective[f"{last}.bias"]
        return HeldOutScores.of(self.spec, head, blocks, rows.weight.cpu().numpy().astype(np.float64))

    def logits(self, parameters: Parameters, flat: Tensor, table: Tensor | None) -> np.ndarray:
        """Return the logits of the held-out rows, of members that did not train on them."""
        effective = parameters.effective(flat, table)
        rows = self.rows
        if rows.fold is None or rows.member_fold is None:
            mine = np.arange(len(rows))[self.communicator.part(len(rows))]
            found = network_logits(self.spec, effective, rows, mine, self.chunk_rows)
            return self.communicator.all_gather_array(found)
        out = np.empty((len(rows), self.spec.n_classes))
        fold = rows.fold.cpu().numpy()
        member_fold = rows.member_fold.cpu().numpy()
        for k in np.unique(member_fold):
            members = np.flatnonzero(member_fold == k)
            beside = len(members) == members[-1] - members[0] + 1  # then no copy is made
            which = slice(int(members[0]), int(members[-1]) + 1) if beside else members.tolist()
            spec, params = member_subset(self.spec, effective, which)
            chosen = np.flatnonzero(fold == k)
            out[chosen] = network_logits(spec, params, rows, chosen, self.chunk_rows)
        return out

    def score(self, parameters: Parameters, flat: Tensor, table: Tensor | None) -> dict[str, float]:
        """Return the scores of one epoch, as the history names them."""
        if self.is_streamed:
            scores = self.streamed(parameters, flat, table)
            beta = scores.inverse_temperature()
            found = scores.summary(beta)
            return {
                "validation_log_loss": found["log_loss"],
                "inverse_temperature": beta,
                "validation_accuracy": found["accuracy"],
            }
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


def _is_head_alone(spec: NetworkSpec) -> bool:
    """Whether the last layer takes nothing but the outputs of the one below: no sparse block of its own."""
    return spec.n_layers > 1 or not spec.n_sparse


def head_input_blocks(
    spec: NetworkSpec, params: dict[str, Tensor], rows: Rows, n_rows: int = 512
) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, what the last layer takes) of blocks of rows."""
    import torch

    below = {name: value for name, value in params.items() if not name.startswith(f"layers.{spec.n_layers - 1}.")}
    dtype = params["layers.0.bias"].dtype
    arrays = {name: value.cpu().numpy() for name, value in below.items()} if rows.sparse is not None else {}
    for start in range(0, len(rows), n_rows):
        dense = rows.dense[start : start + n_rows].to(dtype)
        if rows.scale != 1.0:
            dense = dense * rows.scale
        if rows.sparse is None:
            yield start, head_inputs(spec, below, dense)
        else:  # SciPy multiplies sparse rows as they are
            x = head_inputs(spec, arrays, dense.cpu().numpy(), rows.sparse[start : start + n_rows])
            yield start, torch.from_numpy(x).to(rows.dense.device)


def _known_rows(rows: Rows) -> np.ndarray | None:
    """Rows that no member holds out (of a class with one row, say) are not validated; None where all are."""
    if rows.fold is None or rows.member_fold is None:
        return None
    known = np.isin(rows.fold.cpu().numpy(), rows.member_fold.cpu().numpy())
    return None if known.all() else known


def member_subset(
    spec: NetworkSpec, params: dict[str, Tensor], members: list[int] | slice
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """Return the network of some of the members."""
    out: dict[str, Tensor] = {}
    for name, value in params.items():
        if name.startswith("layers."):
            out[name] = value[members]
        elif name == "sparse.weight":
            out[name] = value.view(value.shape[0], spec.n_members, -1)[:, members].flatten(1)
        else:
            out[name] = value
    return replace(spec, n_members=len(out["layers.0.weight"])), out


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
