"""Scores of held-out rows where their logits would not fit into memory: log loss, temperature, accuracy (torch).

The log loss of a row is a smooth function of the inverse temperature b. One pass over the tiles of classes gives it,
and its derivative, at several b at once; between them it is a cubic in ``ln b``::

    L(b) = ln sum_k exp(b z_k) - b z_y          L'(b) = sum_k p_k z_k - z_y

A first pass looks at b from 1/8 to 8, a second one close by the best: from then on any temperature of any subset of
the rows costs nothing. Bounded buffers, whatever the number of rows and classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from softmaxnet.calibration import Calibration, best_inverse_temperature, fixed_folds
from softmaxnet.class_tiles import class_logits
from softmaxnet.errors import TrainingDivergedError
from softmaxnet.network import NetworkSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Block", "HeldOutScores", "scored_rows"]

COARSE = tuple(2.0**step for step in range(-3, 4))
FINE = (1 / 1.05, 1.0, 1.05)
TILE_BYTES = 8 * 2**20
MOST_LOGITS = 2**30
"""Logits of all scored rows together; more rows than that takes are left out, evenly."""


class Block(NamedTuple):
    """Some rows: what the last layer takes, (n_members or 1, n_rows, width), and their labels."""

    x: Tensor
    labels: Tensor


def scored_rows(n_rows: int, n_classes: int) -> npt.NDArray[np.int64]:
    """Return which rows are scored: all, or evenly spread ones of so many that 2^30 logits are not exceeded.

    Examples
    --------
    >>> len(scored_rows(5000, 1586)), len(scored_rows(50_000, 1_000_000))
    (5000, 1073)
    """
    most = min(n_rows, max(MOST_LOGITS // n_classes, 256))
    return np.arange(most) * n_rows // max(most, 1)


@dataclass
class HeldOutScores:
    """The log loss of each row as a function of the inverse temperature, and whether its label is the most probable.

    Attributes
    ----------
    betas : ndarray of shape (n_points,), ascending
    loss, slope : ndarray of shape (n_points, n_rows)
        In nats, and its derivative by the inverse temperature.
    is_correct : ndarray of shape (n_rows,), bool
    spread : ndarray of shape (n_rows,)
        ``max_k z_k - mean_k z_k``.
    labels : ndarray of shape (n_rows,), int64
    weight : ndarray of shape (n_rows,)
    """

    betas: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    slope: npt.NDArray[np.float64]
    is_correct: npt.NDArray[np.bool_]
    spread: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, spec: NetworkSpec, head: tuple[Tensor, Tensor], blocks: Sequence[Block], weight: npt.NDArray[np.float64]
    ) -> HeldOutScores:
        """Return the scores of rows that come in blocks.

        Parameters
        ----------
        spec : NetworkSpec
        head : (weight, bias) of the last layer, (n_members, width, n_classes) and (n_members, n_classes)
        blocks : sequence of Block
        weight : ndarray of shape (n_rows,), of all blocks' rows

        Raises
        ------
        TrainingDivergedError
            Where logits are not finite.
        """
        coarse = _pass(spec, head, blocks, weight, COARSE)
        best = coarse.inverse_temperature()
        fine = _pass(spec, head, blocks, weight, [best * factor for factor in FINE])
        betas = np.concatenate([coarse.betas, fine.betas])
        order = np.argsort(betas)
        keep = order[np.concatenate([[True], np.diff(betas[order]) > 1e-6])]
        loss, slope = np.concatenate([coarse.loss, fine.loss]), np.concatenate([coarse.slope, fine.slope])
        return cls(betas[keep], loss[keep], slope[keep], *coarse._by_row())

    def _by_row(self) -> tuple[Any, ...]:
        return self.is_correct, self.spread, self.labels, self.weight

    def losses(self, beta: float) -> npt.NDArray[np.float64]:
        """Return the log loss of each row at an inverse temperature."""
        return np.asarray(self._curve(self.loss, self.slope)(np.log(beta)))

    def inverse_temperature(self, rows: npt.NDArray[np.bool_] | None = None) -> float:
        """Return the best inverse temperature, as :func:`softmaxnet.calibration.fit_temperature` defines it."""
        weight = self.weight if rows is None else np.where(rows, self.weight, 0.0)
        if not weight.any():
            return 1.0
        weight = weight / weight.sum()
        rate = self._curve(self.loss @ weight, self.slope @ weight).derivative()
        # beyond the points that were looked at the slope stays what it is there
        bounds = np.log(self.betas[0]), np.log(self.betas[-1])

        def slope(beta: float) -> float:
            place = float(np.clip(np.log(beta), *bounds))
            return float(rate(place)) / float(np.exp(place))

        found = best_inverse_temperature(slope, 1 / float(weight @ weight), float(weight @ self.spread), 1e-6)
        return float(np.clip(found, self.betas[0], self.betas[-1]))

    def summary(self, beta: float) -> dict[str, float]:
        """Return log loss and accuracy at an inverse temperature."""
        weight = self.weight / self.weight.sum()
        return {"log_loss": float(weight @ self.losses(beta)), "accuracy": float(weight @ self.is_correct)}

    def calibration(self, method: str | None) -> Calibration:
        """Return what :func:`softmaxnet.calibration.fit_calibration` would; matrices are for few classes."""
        if method in (None, "none"):
            return Calibration()
        if method == "auto":
            folds = fixed_folds(self.labels)
            gain = self.losses(1.0)
            if len(self.labels) < 2 * (folds.max(initial=0) + 1):
                return Calibration()
            for fold in range(folds.max() + 1):
                held = folds == fold
                gain[held] -= self.losses(self.inverse_temperature(~held))[held]
            if not self.weight @ gain > 0.0:
                return Calibration()
        return Calibration("temperature", self.inverse_temperature())

    def _curve(self, loss: npt.NDArray[np.float64], slope: npt.NDArray[np.float64]) -> Any:
        from scipy.interpolate import CubicHermiteSpline

        by_log = slope * (self.betas[:, None] if slope.ndim == 2 else self.betas)
        return CubicHermiteSpline(np.log(self.betas), loss, by_log)


def _pass(
    spec: NetworkSpec,
    head: tuple[Tensor, Tensor],
    blocks: Sequence[Block],
    weight: npt.NDArray[np.float64],
    betas: Sequence[float],
) -> HeldOutScores:
    """Return the scores at some inverse temperatures, by one pass over the classes for each block of rows."""
    import torch

    parts = list(_scored(spec, head, blocks, betas))
    loss, slope, correct, spread = (torch.cat(column, -1).cpu().numpy() for column in zip(*parts, strict=True))
    labels = torch.cat([block.labels for block in blocks]).cpu().numpy()
    if not np.isfinite(loss).all():
        raise TrainingDivergedError(
            "the logits of the validation rows are not finite",
            hint="Look for huge numbers among the features (features='auto' scales them) or lower learning_rate.",
        )
    return HeldOutScores(np.array(betas), loss, slope, correct, spread, labels, weight)


def _scored(
    spec: NetworkSpec, head: tuple[Tensor, Tensor], blocks: Sequence[Block], betas: Sequence[float]
) -> Iterator[tuple[Tensor, ...]]:
    """Yield (loss, slope, is_correct, spread) of each block."""
    for block in blocks:
        n = len(block.labels)
        tile = max(TILE_BYTES // (4 * n * spec.n_members), 64)
        sums = _Sums(block.labels, betas)
        for start, z in class_logits(spec, *head, block.x, tile):
            sums.add(start, z)
        yield sums.result(spec.n_classes)


class _Sums:
    """Running sums of the exponentials of a block's logits at several inverse temperatures."""

    def __init__(self, labels: Tensor, betas: Sequence[float]) -> None:
        import torch

        n_rows, device = len(labels), labels.device
        wide: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.labels = labels
        self.betas = list(betas)
        self.top = torch.full((n_rows,), -torch.inf, **wide)
        self.sum, self.moment = torch.zeros(len(betas), n_rows, **wide), torch.zeros(len(betas), n_rows, **wide)
        self.at_label, self.total = torch.zeros(n_rows, **wide), torch.zeros(n_rows, **wide)
        self.best = torch.full((n_rows,), -1, dtype=torch.int64, device=device)

    def add(self, start: int, z: Tensor) -> None:
        """Take in one tile of logits, which is overwritten."""
        import torch

        local = self.labels - start
        inside = (local >= 0) & (local < z.shape[1])
        at_label = z.gather(1, local.clamp_(0, z.shape[1] - 1).unsqueeze(1)).squeeze(1).double()
        self.at_label += torch.where(inside, at_label, 0.0)
        self.total += z.sum(1, dtype=torch.float64)
        highest, place = z.max(1)
        higher = highest > self.top
        self.best = torch.where(higher, place + start, self.best)
        top = torch.where(higher, highest.double(), self.top)
        drop = torch.where(self.sum[0] > 0, self.top - top, 0.0)
        z.sub_(top.unsqueeze(1))
        for j, beta in enumerate(self.betas):
            exps = torch.exp(z * beta) if beta != 1.0 else torch.exp(z)
            shrink = torch.exp(beta * drop)
            self.moment[j] += drop * self.sum[j]
            self.moment[j] *= shrink
            self.sum[j] *= shrink
            self.sum[j] += exps.sum(1, dtype=torch.float64)
            self.moment[j] += torch.linalg.vecdot(exps, z)
        self.top = top

    def result(self, n_classes: int) -> tuple[Tensor, ...]:
        """Return (loss, slope, is_correct, spread)."""
        import torch

        betas = torch.tensor(self.betas, dtype=torch.float64, device=self.top.device).unsqueeze(1)
        below = self.at_label - self.top
        loss = torch.log(self.sum) - betas * below
        return loss, self.moment / self.sum - below, self.best == self.labels, self.top - self.total / n_classes
