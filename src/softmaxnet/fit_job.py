"""From prepared rows and a classifier's parameters to a model: the glue between the estimator and ``fitting``.

::

    LabelledRows --examples_of--> Examples --plan_of--> Plan --train_model--> Fitted, SoftmaxModel
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.checkpoint import Checkpoint, Checkpoints, arrays_digest, newest
from softmaxnet.communicator import Alone, Communicator
from softmaxnet.errors import UsageError
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.pictures import picture_shape
from softmaxnet.fitted import Examples, Fitted, TrainingState
from softmaxnet.fitting import fit_network, keeps_checkpoints, operations_per_step, run_fingerprint
from softmaxnet.history import history_table
from softmaxnet.inputs import LabelledRows
from softmaxnet.machine import has_bfloat16_products, limited_threads, resolve_device, worthwhile_threads
from softmaxnet.model import SoftmaxModel
from softmaxnet.network import NetworkSpec
from softmaxnet.recipe import SMALL_ROWS, DataShape, Plan, plan_of_network, resolve, uncompared
from softmaxnet.row_runs import find_runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Extras", "FitJob", "examples_of", "kept_in_runs", "plan_of", "same_network", "train_model", "without_folds"]

LISTED_CLASSES = 1000
"""Up to so many are named where processes disagree about them."""
SAME_ROWS = "Every process is given all rows in the same order, and takes its part of each batch."
OnEpoch = Callable[[dict[str, float]], None]
OnPlan = Callable[[FeatureEncoder, Plan], None]


@dataclass(frozen=True)
class Extras:
    """What ``fit`` may be given beyond the rows: how to show and keep a run, and what to go on from."""

    reader: Mapping[str, object] = field(default_factory=dict)
    on_epoch: OnEpoch | None = None
    on_plan: OnPlan | None = None
    checkpoint_folder: str | Path | None = None
    found: Checkpoint | None = None
    communicator: Communicator = field(default_factory=Alone)

    @classmethod
    def checked(
        cls,
        *,
        reader: Mapping[str, object] | None,
        on_epoch: OnEpoch | None,
        on_plan: OnPlan | None,
        checkpoint_folder: str | Path | None,
        resume: bool,
        going_on: bool,
        communicator: Communicator | None = None,
    ) -> Extras:
        """Return them where they fit together, with the checkpoint that ``resume`` asks for where there is one.

        Of several processes the first one has the checkpoints.
        """
        if going_on and checkpoint_folder is not None:
            raise UsageError("checkpoint_folder is for a fit from the beginning, and warm_start goes on with another")
        if resume and checkpoint_folder is None:
            raise UsageError("resume needs the checkpoint_folder of the fit that is to go on")
        communicator = communicator or Alone()
        if not communicator.is_root:
            checkpoint_folder = None
        found = newest(checkpoint_folder) if resume and checkpoint_folder is not None else None
        return cls(dict(reader or {}), on_epoch, on_plan, checkpoint_folder, found, communicator)

    def found_seed(self) -> int | None:
        """Return the seed of the checkpoint to go on from; None where there is no checkpoint."""
        if self.found is None:
            return None
        seed = self.found.fingerprint.get("random_state")
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise UsageError("the checkpoint has no seed", file=str(self.found.path))
        return seed


@dataclass(frozen=True)
class FitJob:
    """All that one training run is made from.

    Attributes
    ----------
    encoder : FeatureEncoder
    examples : Examples
    classes : ndarray of shape (n_classes,)
    settings : mapping
        The classifier's parameters.
    seed : int
    validation : Examples, optional
        The user's own.
    extras : Extras
    n_runs : int
        Runs of near copies that were found and are held out whole; 0 where the groups are the user's or there are none.
    """

    encoder: FeatureEncoder
    examples: Examples
    classes: NDArray[Any]
    settings: Mapping[str, Any]
    seed: int
    validation: Examples | None = None
    extras: Extras = field(default_factory=Extras)
    n_runs: int = 0

    def plan(self) -> Plan:
        """Return the plan, with every ``"auto"`` resolved."""
        return plan_of(self.examples, len(self.classes), self.settings, has_validation=self.validation is not None)

    def comparing_bins(self) -> FitJob:
        """Return the job with its bins as what a part of the members sees, or without them where all see the same."""
        if self.encoder.bins is None:
            return self
        job = replace(self, examples=replace(self.examples, bins=self.encoder.bins))
        if job.plan().compare_bins:
            return job
        return replace(job, encoder=self.encoder.without_bins(), examples=job.examples.blind())

    def agree(self, plan: Plan) -> None:
        """Raise on every process, where they do not all have the same columns, classes, rows and settings."""
        communicator = self.extras.communicator
        if communicator.size > 1:
            agree_on_data(communicator, self.encoder, self.classes, len(self.examples))
            about = run_fingerprint(self.examples, self.classes, plan, self.seed, self.validation)
            communicator.agree(about, "data or settings", SAME_ROWS)

    def checkpoints(self, plan: Plan) -> Checkpoints | None:
        """Return where the run is kept; None where the user named no folder."""
        folder, found = self.extras.checkpoint_folder, self.extras.found
        if folder is None:
            return None
        about = run_fingerprint(self.examples, self.classes, plan, self.seed, self.validation)
        return Checkpoints(folder, about, found=found)

    def resumed_epochs(self, plan: Plan) -> int:
        """Return the number of epochs that a checkpoint has behind it."""
        found = self.extras.found
        return len(found.history) if found is not None and keeps_checkpoints(plan) else 0


def agree_on_data(communicator: Communicator, encoder: FeatureEncoder, classes: NDArray[Any], n_rows: int) -> None:
    """Raise on every process, naming what differs, where they do not see the same columns, classes and rows."""
    names = encoder.feature_names_in
    about: dict[str, object] = {
        "the list of columns": None if names is None else list(names),
        "the number of columns": encoder.n_features_in,
        "the list of classes": classes.tolist() if len(classes) <= LISTED_CLASSES else arrays_digest([classes]),
        "the number of classes": len(classes),
        "the number of rows": n_rows,
    }
    communicator.agree(about, "data", SAME_ROWS)


def examples_of(encoder: FeatureEncoder, rows: LabelledRows, settings: Mapping[str, Any]) -> Examples:
    """Return the rows encoded: in float64 where there are few, or where the settings need it."""
    small = len(rows.labels) <= SMALL_ROWS or settings["precision"] == "float64" or settings["solver"] == "lbfgs"
    encoded = encoder.transform(rows.X, dtype=np.float64 if small else np.float32)
    return Examples(encoded, rows.labels, rows.weight, rows.groups, sources=encoder.dense_sources())


def kept_in_runs(job: FitJob) -> FitJob:
    """Return the job with the runs of near copies that its rows come in as groups, and say so, where they do."""
    examples = job.examples
    dense = examples.encoded.dense
    if examples.groups is not None or examples.target.ndim > 1 or dense.dtype == np.uint8:
        return job
    plan = job.plan()
    all_at_once = plan.solver == "lbfgs" and plan.hidden_layer_sizes
    if not job.settings["conformal_fraction"] and (plan.validation not in ("folds", "holdout") or all_at_once):
        return job
    bins = job.encoder.bins
    inputs = np.arange(dense.shape[1])
    runs = find_runs(dense, examples.target, inputs if bins is None else np.delete(inputs, bins))
    if runs is None:
        return job
    warnings.warn(
        f"rows stand next to near copies of themselves: of each row's three nearest of its class {runs.share:.0%} are "
        "a few rows away, as where several rows are of one person or machine. Held out at random they would not be "
        f"new: the {len(runs)} runs that they come in are held out whole. Pass groups to say which rows belong "
        "together (groups=range(n_rows): none do).",
        stacklevel=4,
    )
    return replace(job, examples=replace(examples, groups=runs.of_row), n_runs=len(runs))


def plan_of(examples: Examples, n_classes: int, settings: Mapping[str, Any], *, has_validation: bool) -> Plan:
    """Return the plan for rows of this shape and these parameters."""
    encoded = examples.encoded
    sparse = encoded.sparse
    n_bins = 0 if examples.bins is None else examples.bins.stop - examples.bins.start
    shape = DataShape(
        n_rows=len(examples),
        n_dense=encoded.dense.shape[1] - n_bins,
        n_sparse=0 if sparse is None else sparse.shape[1],
        n_classes=n_classes,
        n_columns=0 if examples.sources is None else len(np.unique(examples.sources)),
        active=0.0 if sparse is None else sparse.nnz / max(sparse.shape[0], 1),
        picture=picture_shape(encoded.dense) is not None,
        bfloat16=has_bfloat16_products(),
        has_validation=has_validation,
        soft_targets=examples.target.ndim == 2,
        n_groups=0 if examples.groups is None else len(np.unique(examples.groups)),
    )
    return resolve(shape, settings)


def same_network(plan: Plan, spec: NetworkSpec, settings: Mapping[str, Any]) -> Plan:
    """Return the plan with the network that is there; refuse settings that ask for another one."""
    there = plan_of_network(plan, spec)
    for name in ("hidden_layer_sizes", "activation", "output", "n_members"):
        if settings[name] != "auto" and getattr(there, name) != getattr(plan, name):
            raise UsageError(
                f"warm_start goes on with the network of the fit before it, whose {name} is "
                f"{getattr(there, name)!r}. Got {getattr(plan, name)!r} instead; use warm_start=False."
            )
    return there


def train_model(
    job: FitJob, plan: Plan, state: TrainingState | None = None, checkpoints: Checkpoints | None = None
) -> tuple[Fitted, SoftmaxModel]:
    """Train as the plan says, with as many threads as the work is worth, and make a model of what comes out."""
    settings, n_classes, on_epoch = job.settings, len(job.classes), job.extras.on_epoch
    communicator = job.extras.communicator
    if settings["verbose"] and communicator.is_root:
        on_epoch = progress(plan.max_epochs, on_epoch)
    threads = worthwhile_threads(settings["n_jobs"], operations_per_step(job.examples, n_classes, plan))
    with limited_threads(threads):
        fitted = fit_network(
            job.examples,
            n_classes,
            plan,
            seed=job.seed,
            validation=job.validation,
            on_epoch=on_epoch,
            state=state,
            device=resolve_device(settings["device"], communicator.local_rank),
            checkpoints=checkpoints,
            communicator=communicator,
        )
    _warn_of_no_calibration(plan, fitted, job.examples)
    model = SoftmaxModel(
        encoder=job.encoder if job.examples.bins is None or fitted.sees_bins else job.encoder.without_bins(),
        spec=fitted.spec,
        params=fitted.params,
        calibration=fitted.calibration,
        classes=job.classes,
        settings=fitted.plan.to_dict() | {"features": settings["features"]},
        metrics={
            **fitted.metrics,
            **({"n_runs": job.n_runs} if job.n_runs else {}),
            "n_iter": fitted.n_iter,
            "history": history_table(fitted.history),
        },
        reader=dict(job.extras.reader),
    )
    return fitted, model


def _warn_of_no_calibration(plan: Plan, fitted: Fitted, examples: Examples) -> None:
    """Say it where a calibration was asked for by name and nothing was there to fit it to."""
    if examples.groups is not None and len(np.unique(examples.groups)) == 1 and plan.validation in ("folds", "holdout"):
        warnings.warn("all rows are of one group: none can be held out, and nothing is calibrated", stacklevel=4)
        return
    if plan.calibration not in ("temperature", "matrix"):
        return
    if plan.output == "sigmoid":
        why = "is for output='softmax'"
    elif examples.target.ndim > 1:
        why = "needs labels, and soft targets are none"
    elif not fitted.metrics.get("n_held_out"):
        why = "needs held-out rows, and there were none (pass X_val and y_val, or calibrate the model on new rows)"
    else:
        return
    warnings.warn(f"calibration={plan.calibration!r} {why}: the probabilities are not calibrated", stacklevel=4)


def without_folds(plan: Plan) -> Plan:
    """Return the plan with one network that a later fit can go on from, in place of members with a fold each."""
    if plan.validation != "folds":
        return plan
    validation = "none" if plan.solver == "lbfgs" else "holdout"
    return uncompared(plan, validation)


def progress(max_epochs: int, then: OnEpoch | None) -> OnEpoch:
    """Return what prints a line for each epoch, with the time that all epochs would take, and calls ``then``."""
    def on_epoch(line: dict[str, float]) -> None:
        epoch, most = line["epoch"], line.get("most_epochs", max_epochs)
        left = max(line["seconds"] / epoch * (most - epoch), 0.0)
        scores = [f"loss {line['loss']:.4f}"]
        if "validation_log_loss" in line:
            scores.append(f"held-out log loss {line['validation_log_loss']:.4f}")
        print(f"epoch {epoch:g}/{most:g}  {'  '.join(scores)}  at most {left:.0f} s left", file=sys.stderr)
        if then is not None:
            then(line)

    return on_epoch
