"""Full-batch L-BFGS: softmax regression, and any network on data small enough to look at whole in every step.

It minimises, over all rows, in float64::

    F(theta) = sum_i w_i loss_i / sum_i w_i  +  weight_decay / 2 |W|^2      (biases free)

to a gradient of ``tolerance`` (L-BFGS-B of Byrd et al. 1995, in SciPy), or, where so much is not asked for, until what
is left to gain is small. Softmax regression on many rows goes through :mod:`softmaxnet.regression`: a few iterations on
a quarter of the rows, then on all of them in the coordinates that these have made round.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.backward import BackwardPass
from softmaxnet.batches import Rows, window_batches
from softmaxnet.errors import TrainingDivergedError
from softmaxnet.parameters import Parameters
from softmaxnet.regression import Coordinates, DenseRegression, sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FullBatchResult", "minimise"]

CHUNK_ROWS = 8192
CURVATURE_PAIRS = 20
EVALUATIONS_PER_ITERATION = 4
GAP_WINDOW = 4
"""Iterations whose gain is compared with that of as many before them."""
FIRST_ITERATIONS = 12
"""On a part of the rows; more would fit what is particular to them."""


@dataclass(frozen=True)
class FullBatchResult:
    """Where the minimiser ended: objective [nats], largest entry of the gradient, iterations, evaluations.

    The gradient is that in the coordinates of the descent.

    ``stopped_by`` is "converged", "max_epochs", "max_seconds", "interrupt" or "no_descent".
    """

    objective: float
    gradient_norm: float
    n_iter: int
    n_evaluations: int
    stopped_by: str

    @property
    def converged(self) -> bool:
        """Whether the gradient has vanished, up to the tolerance or to rounding, or the gap is small enough."""
        return self.stopped_by == "converged"


def minimise(
    parameters: Parameters,
    rows: Rows,
    *,
    weight_decay: float,
    tolerance: float = 1e-10,
    max_iter: int = 1000,
    label_smoothing: float = 0.0,
    compute_dtype: Any = None,
    max_seconds: float | None = None,
    final: bool = True,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    gap: float | None = None,
) -> FullBatchResult:
    """Minimise the objective in place, from the parameters as they are.

    Parameters
    ----------
    parameters : Parameters, float64
    rows : Rows
        All of them are looked at in every evaluation, in chunks of 8,192.
    weight_decay : float
    tolerance : float
        Largest entry of the gradient at which to stop.
    max_iter : int
    label_smoothing : float
    compute_dtype : torch dtype of the matrix products, optional
        float32 makes large problems twice as fast; sums over chunks stay float64.
    max_seconds : float, optional
        After which to stop with the best parameters so far, as on Ctrl-C.
    final : bool
        False for one fit of many, of a search: it does not warn, and Ctrl-C ends the search.
    gap : float, optional
        Stop also where the gain of all iterations to come is estimated to be below this share of the objective.
    on_epoch : callable, optional
        Given a line after every iteration: ``epoch`` (its number), ``loss`` (the objective) and ``seconds``.

    Raises
    ------
    TrainingDivergedError
        Where objective or gradient is not finite.
    """
    started = time.monotonic()
    if gap is not None and DenseRegression.fits(parameters, rows):
        return _minimise_regression(
            parameters,
            rows,
            gap=gap,
            weight_decay=weight_decay,
            tolerance=tolerance,
            max_iter=max_iter,
            label_smoothing=label_smoothing,
            compute_dtype=compute_dtype,
            max_seconds=max_seconds,
            final=final,
            on_epoch=on_epoch,
            started=started,
        )
    objective = _Objective(parameters, rows, weight_decay, label_smoothing, compute_dtype)
    watch = _Watch(objective, max_seconds, on_epoch, started, gap, 3 * GAP_WINDOW)
    return _descend(watch, tolerance, max_iter, final=final)


def _minimise_regression(
    parameters: Parameters,
    rows: Rows,
    *,
    gap: float,
    weight_decay: float,
    tolerance: float,
    max_iter: int,
    label_smoothing: float,
    compute_dtype: Any,
    max_seconds: float | None,
    final: bool,
    on_epoch: Callable[[dict[str, float]], None] | None,
    started: float,
) -> FullBatchResult:
    """Minimise the objective of softmax regression on dense rows; a fit that begins begins on some of the rows."""
    network = parameters.spec.network
    regression = DenseRegression(
        rows,
        network.n_classes,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        output=network.output,
        dtype=compute_dtype or parameters.flat.dtype,
    )
    whole = _InCoordinates(parameters, regression)
    theta = whole.theta()
    if not theta.any():
        count = max(len(rows) // 4, 10 * theta.shape[1])
        few = regression if 2 * count > len(rows) else regression.some(sample(len(rows), count))
        start = _InCoordinates(parameters, few, Coordinates.before_fitting(theta, few))
        watch = _Watch(start, max_seconds, None, started)
        found = _descend(watch, tolerance, min(FIRST_ITERATIONS, max_iter), final=final, quiet=True)
        if found.stopped_by in ("interrupt", "max_seconds") or max_iter <= FIRST_ITERATIONS:
            if final:
                _warn(found.stopped_by, found.n_iter, found.gradient_norm)
            return found
    whole.coordinates = Coordinates.at(whole.theta(), regression)
    return _descend(_Watch(whole, max_seconds, on_epoch, started, gap), tolerance, max_iter, final=final)


def _descend(watch: _Watch, tolerance: float, max_iter: int, *, final: bool, quiet: bool = False) -> FullBatchResult:
    """Run L-BFGS on an objective and leave the parameters where it ended; arguments as :func:`minimise`."""
    from scipy.optimize import OptimizeResult, minimize

    stopped_by = None
    try:
        found = minimize(
            watch,
            watch.objective.vector(),
            method="L-BFGS-B",
            jac=True,
            callback=watch.after_iteration,
            options={
                "maxiter": max_iter,
                "maxfun": EVALUATIONS_PER_ITERATION * max_iter,
                "ftol": 0.0,
                "gtol": tolerance,
                "maxcor": CURVATURE_PAIRS,
                "maxls": 50,
            },
        )
    except KeyboardInterrupt:
        if not final or watch.best is None:
            raise
        stopped_by = "interrupt"
        found = OptimizeResult(**watch.best, nit=watch.n_iter, nfev=watch.n_evaluations)
    watch.objective.assign(found.x)
    gradient_norm = float(np.abs(found.jac).max(initial=0.0))
    if not (np.isfinite(found.fun) and np.isfinite(gradient_norm)):
        raise TrainingDivergedError(
            "the training objective is not finite",
            hint="Look for huge numbers among the features (features='auto' scales them).",
        )
    if gradient_norm <= max(tolerance, 1e-6) or watch.gap_is_closed:
        stopped_by = "converged"
    elif stopped_by is None:
        stopped_by = watch.why_stopped(gradient_norm, max_iter)
    if final and not quiet:
        _warn(stopped_by, int(found.nit), gradient_norm)
    return FullBatchResult(float(found.fun), gradient_norm, int(found.nit), int(found.nfev), stopped_by)


def _warn(stopped_by: str, n_iter: int, gradient_norm: float) -> None:
    """Say it where the minimum was not reached."""
    advice = {
        "max_epochs": "raise max_epochs",
        "no_descent": "look for huge numbers among the features (features='auto' scales them)",
        "interrupt": "interrupted: the best parameters so far are kept",
    }
    if stopped_by in advice:
        message = f"L-BFGS stopped after {n_iter} iterations with a gradient of {gradient_norm:.1e}; "
        warnings.warn(message + advice[stopped_by], stacklevel=3)


class _Watch:
    """The objective, with the best point so far and an eye on the clock."""

    def __init__(
        self,
        objective: _Objective | _InCoordinates,
        max_seconds: float | None,
        on_epoch: Callable[[dict[str, float]], None] | None,
        started: float,
        gap: float | None = None,
        window: int = GAP_WINDOW,
    ) -> None:
        self.objective, self.on_epoch, self.started = objective, on_epoch, started
        self.gap, self.window = gap, window
        self.gap_is_closed = False
        self.losses: list[float] = []
        self.deadline = None if max_seconds is None else self.started + max_seconds
        self.out_of_time = False
        self.n_iter = self.n_evaluations = 0
        self.first_gradient_norm = 0.0
        self.best: dict[str, Any] | None = None

    def __call__(self, vector: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, gradient = self.objective(vector)
        self.n_evaluations += 1
        if self.n_evaluations == 1:
            self.first_gradient_norm = float(np.abs(gradient).max(initial=0.0))
        if self.best is None or loss < self.best["fun"]:
            self.best = {"x": vector.copy(), "fun": loss, "jac": gradient}
        return loss, gradient

    def after_iteration(self, intermediate_result: Any) -> None:
        """Count an iteration; raise ``StopIteration``, which SciPy takes as a wish to stop, when it is time to."""
        self.n_iter += 1
        self.losses.append(float(intermediate_result.fun))
        if self.on_epoch is not None:
            loss, seconds = float(intermediate_result.fun), time.monotonic() - self.started
            self.on_epoch({"epoch": self.n_iter, "loss": loss, "seconds": seconds})
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self.out_of_time = True
            raise StopIteration
        if self.gap is not None and remaining_gain(self.losses, self.window) <= self.gap * abs(self.losses[-1]):
            self.gap_is_closed = True
            raise StopIteration

    def why_stopped(self, gradient_norm: float, max_iter: int) -> str:
        """Return why SciPy came back with a gradient that has not vanished."""
        if self.out_of_time:
            return "max_seconds"
        if self.n_iter >= max_iter or self.n_evaluations >= EVALUATIONS_PER_ITERATION * max_iter:
            return "max_epochs"
        # A line search that can no longer descend, far below where it began, has met rounding: convergence too.
        return "converged" if gradient_norm <= 1e-3 * self.first_gradient_norm else "no_descent"


def remaining_gain(losses: list[float], window: int) -> float:
    """Return about how far the losses of iterations are above their limit, were they to fall at the rate they do.

    With the gains ``a`` of the last ``window`` iterations and ``b`` of those before: ``a / (1 - a / b)``, the sum of
    the geometric series that begins with ``a``, the last gain made (Aitken 1926); infinite where they fall no slower.

    Examples
    --------
    >>> remaining_gain([1 + 0.5**i for i in range(5)], 2)
    0.25
    """
    if len(losses) <= 2 * window:
        return float("inf")
    before = losses[-1 - 2 * window] - losses[-1 - window]
    last = losses[-1 - window] - losses[-1]
    if last <= 0:  # all that is left is rounding
        return 0.0
    return last / (1 - last / before) if last < before else float("inf")


class _InCoordinates:
    """The objective of softmax regression as a function of one float64 vector, in coordinates of its own."""

    def __init__(
        self, parameters: Parameters, regression: DenseRegression, coordinates: Coordinates | None = None
    ) -> None:
        self.parameters, self.regression = parameters, regression
        self.coordinates = coordinates

    def theta(self) -> NDArray[np.float64]:
        """Return the parameters, (n_classes, n_dense + 1)."""
        weight, bias = (self.parameters.views[f"layers.0.{name}"][0].double().numpy() for name in ("weight", "bias"))
        return np.concatenate([weight.T, bias[:, None]], axis=1)

    def vector(self) -> NDArray[np.float64]:
        """Return the origin of the coordinates: where the parameters are."""
        return np.zeros(self.parameters.flat.numel())

    def assign(self, vector: NDArray[np.float64]) -> None:
        """Set the parameters from a vector."""
        import torch

        theta = torch.from_numpy(self._at(vector))
        self.parameters.views["layers.0.weight"][0].copy_(theta[:, :-1].T)
        self.parameters.views["layers.0.bias"][0].copy_(theta[:, -1])

    def __call__(self, vector: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        assert self.coordinates is not None
        loss, gradient = self.regression(self._at(vector))
        return loss, self.coordinates.gradient(gradient).ravel()

    def _at(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        assert self.coordinates is not None
        return self.coordinates.theta(vector.reshape(self.coordinates.origin.shape))


class _Objective:
    """Objective and gradient as functions of one float64 vector."""

    def __init__(
        self, parameters: Parameters, rows: Rows, weight_decay: float, label_smoothing: float, compute_dtype: Any
    ) -> None:
        import torch

        self.parameters, self.rows, self.weight_decay = parameters, rows, weight_decay
        n = len(rows)
        self.bounds = [(start, min(start + CHUNK_ROWS, n)) for start in range(0, n, CHUNK_ROWS)]
        largest = min(n, CHUNK_ROWS)
        self.work = parameters if compute_dtype is None else Parameters(parameters.spec, dtype=compute_dtype)
        self.backward = BackwardPass(self.work, largest, label_smoothing=label_smoothing)
        self.input = torch.empty(largest, rows.dense.shape[1], dtype=self.backward.dtype)
        self.order = np.arange(n)
        self.total_weight = float(rows.weight.double().sum())
        self.n_flat = parameters.flat.numel()

    def vector(self) -> NDArray[np.float64]:
        """Return all parameters as one vector, the table's after the flat ones."""
        parts = [self.parameters.flat.double().numpy()]
        if self.parameters.table is not None:
            parts.append(self.parameters.table.double().numpy().ravel())
        return np.concatenate(parts)

    def assign(self, vector: NDArray[np.float64]) -> None:
        """Set the parameters from a vector."""
        import torch

        whole = torch.from_numpy(vector)
        for target in {id(p): p for p in (self.parameters, self.work)}.values():
            target.flat.copy_(whole[: self.n_flat])
            if target.table is not None:
                target.table.copy_(whole[self.n_flat :].view(target.table.shape))

    def __call__(self, vector: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        self.assign(vector)
        loss = 0.0
        gradient = np.zeros_like(vector)
        table = None if self.work.table is None else gradient[self.n_flat :].reshape(self.work.table.shape)
        for bound in self.bounds:
            for dense, sparse, target, weight in window_batches(self.rows, None, [bound], self.input, divisor=1.0):
                loss += float(self.backward(dense, target, weight, sparse))
                gradient[: self.n_flat] += self.backward.gradient.numpy()
                if table is not None and self.backward.table_gradient is not None:
                    # The rows of a batch's gradient are distinct, so plain indexing adds each of them once.
                    table[self.backward.table_gradient.rows.numpy()] += self.backward.table_gradient.values.numpy()
        loss /= self.total_weight
        gradient /= self.total_weight
        decayed = [slice(0, self.parameters.n_decayed)]
        if table is not None:
            decayed.append(slice(self.n_flat, None))
        for part in decayed:
            loss += 0.5 * self.weight_decay * float(vector[part] @ vector[part])
            gradient[part] += self.weight_decay * vector[part]
        return loss, gradient
