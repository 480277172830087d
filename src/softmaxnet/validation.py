"""Held-out rows: their logits, and the score by which training stops and the best epoch is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from softmaxnet.batches import Rows
from softmaxnet.calibration import held_out_log_loss_after_temperature
from softmaxnet.communicator import ALONE, Communicator
from softmaxnet.errors import TrainingDivergedError
from softmaxnet.held_out import Block, HeldOutScores, scored_rows
from softmaxnet.network import NetworkSpec, forward, head_inputs
from softmaxnet.parameters import Parameters
from softmaxnet.softmax import soft_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Validator", "member_subset", "network_logits"]


WHOLE_LOGITS = 2**24
"""Held-out logits up to this many are kept whole; more of them are scored tile by tile of the classes."""


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
