"""Networks that go on with the rows that they held out, for as long as that helps.

::

    members, each without its fold --half of the fold back, a few epochs at a time--> held-out log loss
                                                                                        | how long?
    the same members --all rows, for so long--> the networks to keep, calibrated by the other half of the fold

Members that hold out a fold know that much less of the rows. Where these are near copies of one another, or a rule
decides, the rows held out are worth a good part of the log loss; where they are noisy, to train on makes it worse.
Which it is shows where half of each fold is given back first and the other half goes on judging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.batches import Rows
from softmaxnet.communicator import ALONE, Communicator
from softmaxnet.data_parallel import holding_signals, noting_interrupts
from softmaxnet.fitted import Fitted, OnEpoch, TrainingState, counted, numpy_params, one_history, schedule_of
from softmaxnet.mixture import Candidate, Mixture, mixed
from softmaxnet.recipe import Plan
from softmaxnet.softmax import log_softmax
from softmaxnet.training import Backup, TrainingResult, train
from softmaxnet.validation import Validator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Continued", "continued", "held_out_log_proba"]

STRETCHES = 4
"""Parts of the epochs that networks may go on for, after each of which they are judged."""
PATIENCE = 2
"""Stretches without a lower loss that end the trial."""
LEAST_GAIN = 0.005
"""Of the held-out log loss: networks that gain less stay as they are."""
LITTLE_LOSS = 1e-4
"""Held-out log loss [nats] below which there is nothing to gain that anyone would notice."""
MOST_SHARPENED = 2.0
"""Times that the inverse temperature may change by, for it is known by half of the rows."""


@dataclass(frozen=True)
class Continued:
    """A mixture, and what going on has changed.

    Attributes
    ----------
    mixture : Mixture
        What it says of held-out rows, and its loss, are those of networks that did not see these rows.
    share : float
        Epochs that its networks went on for, as a share of those before; 0: they stayed as they were.
    sharpening : float
        The best inverse temperature after going on, divided by that before, both on the same rows.
    interrupted : bool
        Whether the user stopped it: then the mixture is as it was.
    """

    mixture: Mixture
    share: float = 0.0
    sharpening: float = 1.0
    interrupted: bool = False


def continued(
    mixture: Mixture,
    labels: NDArray[np.int64],
    weight: NDArray[np.float64],
    halves: NDArray[np.int64],
    on_epoch: OnEpoch | None = None,
    communicator: Communicator = ALONE,
) -> Continued:
    """Train the networks of a mixture on with all rows, or leave them as they are where that does not help.

    Parameters
    ----------
    mixture : Mixture
        Its networks with their states at the end of their best epochs.
    labels : ndarray of shape (n_rows,), int64
    weight : ndarray of shape (n_rows,), float64
    halves : ndarray of shape (n_rows,), int64
        The half of its fold, 0 or 1, that a row is in.
    on_epoch : callable, optional
    communicator : Communicator, optional
    """
    parts = [part for part, _ in mixture.parts if part.rows is not None]
    if mixture.loss < LITTLE_LOSS or not parts or not all(part.fitted.plan.continuation for part in parts):
        return Continued(mixture)
    most_epochs = 2 * STRETCHES * sum(_epochs_of_a_stretch(part.fitted) for part in parts)
    on_epoch = counted(on_epoch, most_epochs, anew=True)
    networks = [_Network.of(part, halves, on_epoch, communicator) for part in parts]

    def judged() -> Mixture:
        return mixed(_with(mixture, [network.judged() for network in networks]), labels, weight)

    tried = [judged()]
    losses, best = [communicator.broadcast_json(tried[0].loss)], 0
    while len(tried) <= STRETCHES and len(tried) - best <= PATIENCE:
        if not all(network.go_on(network.trial) for network in networks):
            return Continued(mixture, interrupted=True)
        tried.append(judged())
        losses.append(communicator.broadcast_json(tried[-1].loss))  # one decision for all
        best = int(np.argmin(losses))
    for network in networks:
        network.back()
    if not losses[best] < (1 - LEAST_GAIN) * losses[0]:
        return Continued(mixture)
    if not all(network.go_on(network.all_rows) for network in networks for _ in range(best)):
        return Continued(mixture, interrupted=True)
    kept = replace(tried[best], parts=_with(mixture, [network.kept() for network in networks]))
    sharpening = tried[best].inverse_temperature / tried[0].inverse_temperature
    share = best / STRETCHES * networks[0].plan.continuation
    return Continued(kept, share, float(np.clip(sharpening, 1 / MOST_SHARPENED, MOST_SHARPENED)))


def _with(mixture: Mixture, networks: Sequence[Candidate]) -> tuple[tuple[Candidate, float], ...]:
    """Return the parts of a mixture with others in place of its networks."""
    found = iter(networks)
    return tuple((part if part.rows is None else next(found), share) for part, share in mixture.parts)


def held_out_log_proba(validator: Validator, parameters: Any, result: TrainingResult) -> NDArray[np.float64]:
    """Return what members say of the rows that they hold out, NaN in rows that none does."""
    rows = validator.rows
    assert rows.fold is not None
    assert rows.member_fold is not None
    log_proba = np.full((len(rows), validator.spec.n_classes), np.nan)
    known = np.isin(rows.fold.cpu().numpy(), rows.member_fold.cpu().numpy())
    log_proba[known] = log_softmax(validator.logits(parameters, result.flat, result.table)[known])
    return log_proba


def _epochs_of_a_stretch(fitted: Fitted) -> int:
    return max(round(fitted.plan.continuation * fitted.best_epoch / STRETCHES), 1)


@dataclass
class _Network:
    """An ensemble that goes on, stretch by stretch, and back to where it began."""

    candidate: Candidate
    state: TrainingState
    trial: Rows
    all_rows: Rows
    before: Backup
    result: TrainingResult
    on_epoch: OnEpoch | None
    communicator: Communicator

    @classmethod
    def of(
        cls, candidate: Candidate, halves: NDArray[np.int64], on_epoch: OnEpoch | None, communicator: Communicator
    ) -> _Network:
        """Return it at the end of its best epoch."""
        state, rows = candidate.fitted.state, candidate.rows
        assert state is not None
        assert rows is not None
        parameters = state.parameters
        return cls(
            candidate,
            state,
            _half_held_out(rows, halves),
            replace(rows, fold=None, member_fold=None),
            Backup(parameters, state.optimizer),
            TrainingResult(parameters.flat, parameters.table),
            on_epoch,
            communicator,
        )

    @property
    def plan(self) -> Plan:
        """The plan that it was trained by."""
        return self.candidate.fitted.plan

    def go_on(self, rows: Rows) -> bool:
        """Train one stretch further and return whether it came to its end."""
        import torch

        epochs = _epochs_of_a_stretch(self.candidate.fitted)
        state, before = self.state, self.result.history
        with holding_signals(self.communicator):
            self.result = train(
                state.parameters,
                rows,
                replace(schedule_of(self.plan), max_epochs=epochs, warmup_fraction=0.0),
                seed=state.seed,
                compute_dtype=torch.bfloat16 if self.plan.precision == "bfloat16" else None,
                on_epoch=noting_interrupts(self.on_epoch, self.communicator),
                optimizer=state.optimizer,
                first_epoch=state.n_epochs,
                communicator=self.communicator,
            )
        state.n_epochs += epochs
        self.result.history[:] = one_history(before, self.result.history)
        return self.result.stopped_by != "interrupt"

    def back(self) -> None:
        """Go back to where it began."""
        self.before.restore(self.state.parameters, self.state.optimizer)
        self.state.n_epochs = len(self.candidate.fitted.history)
        self.result = TrainingResult(self.state.parameters.flat, self.state.parameters.table)

    def judged(self) -> Candidate:
        """Return it with what it says of the half folds that it still holds out."""
        validator = Validator(self.candidate.fitted.spec, self.trial)
        return replace(self.candidate, log_proba=held_out_log_proba(validator, self.state.parameters, self.result))

    def kept(self) -> Candidate:
        """Return it with the parameters and the epochs that it has now."""
        fitted: Fitted = self.candidate.fitted
        history = one_history(fitted.history, self.result.history)
        params = numpy_params(self.state.parameters, self.result.flat, self.result.table)
        return replace(self.candidate, fitted=replace(fitted, params=params, history=history, n_iter=len(history)))


def _half_held_out(rows: Rows, halves: NDArray[np.int64]) -> Rows:
    """Return the rows with each member holding out a half of its fold, members of one fold the halves in turns."""
    import torch

    assert rows.fold is not None
    assert rows.member_fold is not None
    fold, member_fold = rows.fold.cpu().numpy(), rows.member_fold.cpu().numpy()
    nth = np.array([(member_fold[:i] == k).sum() for i, k in enumerate(member_fold)], dtype=np.int64)
    halved = np.where(fold >= 0, 2 * fold + halves, -1)
    return replace(rows, fold=torch.from_numpy(halved), member_fold=torch.from_numpy(2 * member_fold + nth % 2))
