"""A fit of rows that stay in their file: encoder from a sample, held-out rows in memory, all others streamed.

::

    TableSource --sample--> FeatureEncoder --+
         |                                   |
         +------hold_out--> Examples --------+--> Plan, MemoryNeed --> StreamFeed --> fit_batches --> SoftmaxModel
         |                                   |
         +------rest-------------------------+
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.checkpoint import Checkpoints, arrays_digest
from softmaxnet.data.row_cache import all_numbers
from softmaxnet.data.table_source import StreamedRows, TableSource
from softmaxnet.errors import DataError, UsageError
from softmaxnet.features.arrow import whole
from softmaxnet.features.dates import try_dates
from softmaxnet.features.encoded import Encoded
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.fit_job import SAME_ROWS, Extras, agree_on_data
from softmaxnet.fitted import Examples, Fitted, new_state, rows_of
from softmaxnet.fitting import fit_batches
from softmaxnet.inputs import class_weights
from softmaxnet.machine import has_bfloat16_products, limited_threads, resolve_device, worthwhile_threads
from softmaxnet.model import SoftmaxModel
from softmaxnet.network import NetworkSpec
from softmaxnet.readable_source import readable_source
from softmaxnet.recipe import DataShape, Plan, file_plan, file_rounds, resolve, uncompared
from softmaxnet.stream_feed import OnRows, StreamFeed
from softmaxnet.stream_memory import MemoryNeed, encoded_row_bytes, slice_rows, stream_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxnet.batches import Rows

__all__ = ["StreamedFit", "StreamedStart", "prepare"]

SAMPLE_ROWS = 100_000
"""Rows that the encoder is fitted on, at most."""
HELD_OUT_ROWS = 50_000
"""Rows that are held out, at most: the standard error of their mean log loss is then a few thousandths."""
LEAST_HELD_OUT = 1000
SAMPLE_SHARE, HELD_OUT_SHARE, LOGITS_SHARE = 4, 2, 4
"""The sample as it was read, the held-out rows as encoded and their logits get such a part of the stream's bytes."""


@dataclass(frozen=True)
class StreamedStart:
    """What is known just before training begins.

    Attributes
    ----------
    source : TableSource
        The rows to train on.
    encoder : FeatureEncoder
    plan : Plan
    sample : StreamedRows
        The rows that the encoder was fitted on.
    n_rows : int
        Rows of an epoch.
    n_held_out, rounds : int
    memory : MemoryNeed
    """

    source: TableSource
    encoder: FeatureEncoder
    plan: Plan
    sample: StreamedRows
    n_rows: int
    n_held_out: int
    rounds: int
    memory: MemoryNeed


@dataclass(frozen=True)
class StreamedFit:
    """A fit that is ready to begin; made by :func:`prepare`.

    Attributes
    ----------
    source : TableSource
        The rows to train on: without those held out.
    encoder : FeatureEncoder
    settings : mapping
        The classifier's parameters.
    seed, memory : int
    of_class : float64 (n_classes,)
        The weight of every class.
    validation : Examples or None
    for_sets : StreamedRows or None
        Rows for prediction sets, which nothing else has seen.
    sample : StreamedRows
    extras : Extras
    """

    source: TableSource
    encoder: FeatureEncoder
    settings: Mapping[str, Any]
    seed: int
    memory: int
    of_class: NDArray[np.float64]
    validation: Examples | None
    for_sets: StreamedRows | None
    sample: StreamedRows
    extras: Extras = field(default_factory=Extras)

    @cached_property
    def shape(self) -> DataShape:
        """What the recipe looks at."""
        encoded = self._some_encoded
        sparse = encoded.sparse
        return DataShape(
            n_rows=self.source.n_rows + (0 if self.validation is None else len(self.validation)),
            n_dense=self.encoder.n_dense,
            n_sparse=self.encoder.n_sparse,
            n_classes=len(self.source.classes),
            active=0.0 if sparse is None else sparse.nnz / max(sparse.shape[0], 1),
            bfloat16=has_bfloat16_products(),
            has_validation=self.validation is not None,
        )

    @cached_property
    def _some_encoded(self) -> Encoded:
        return self.encoder.transform(self.sample.X.slice(0, 2000))

    @cached_property
    def plan(self) -> Plan:
        """The recipe for so many rows, with every ``"auto"`` resolved."""
        given = dict(self.settings)
        if given["solver"] == "lbfgs":
            raise UsageError(
                "solver='lbfgs' takes all rows in each step, and these do not fit in the memory that there may be.",
                hint="Leave the solver to 'auto', or allow more memory (--memory).",
            )
        plan = file_plan(resolve(self.shape, given | {"solver": "adam"}), self.shape, given)
        validation = "none" if self.validation is None else plan.validation
        return uncompared(plan, "given" if validation == "folds" else validation)

    @cached_property
    def spec(self) -> NetworkSpec:
        """The network."""
        plan, shape = self.plan, self.shape
        return NetworkSpec(
            n_dense=shape.n_dense,
            n_sparse=shape.n_sparse,
            n_classes=shape.n_classes,
            hidden_layer_sizes=plan.hidden_layer_sizes,
            activation=plan.activation,
            n_members=plan.n_members,
            output=plan.output,
            n_frequencies=plan.n_frequencies,
            embedding_size=plan.embedding_size,
        )

    @cached_property
    def operations_per_row(self) -> float:
        """Floating-point operations of training on a row."""
        sizes = self.spec.layer_sizes
        return 6.0 * self.plan.n_members * sum(a * b for a, b in pairwise(sizes))

    @cached_property
    def rounds(self) -> int:
        """Parts of an epoch after which the network is validated, kept and shown."""
        n_held = 0 if self.validation is None else len(self.validation)
        return file_rounds(self.plan, self.source.n_rows, n_held, self.operations_per_row)

    @cached_property
    def slice_rows(self) -> int:
        """Rows that are encoded at a time."""
        return slice_rows(encoded_row_bytes(self._some_encoded), stream_bytes(self.memory))

    def start(self) -> StreamedStart:
        """Return what is known before training, the peak of the memory among it."""
        n_held = 0 if self.validation is None else len(self.validation)
        need = MemoryNeed.of(
            self.source,
            self.spec,
            row_bytes=encoded_row_bytes(self._some_encoded),
            n_slice=self.slice_rows,
            batch_size=self.plan.batch_size,
            n_held=n_held,
        )
        n_rows = self.source.n_rows
        return StreamedStart(self.source, self.encoder, self.plan, self.sample, n_rows, n_held, self.rounds, need)

    def checkpoints(self) -> Checkpoints | None:
        """Return where the run is kept; None where the user named no folder."""
        if self.extras.checkpoint_folder is None:
            return None
        return Checkpoints(self.extras.checkpoint_folder, self._fingerprint(), found=self.extras.found)

    def agree(self) -> None:
        """Raise on every process, where they do not all have the same columns, classes, rows and settings."""
        communicator = self.extras.communicator
        if communicator.size > 1:
            agree_on_data(communicator, self.encoder, self.source.classes, self.source.n_rows)
            communicator.agree(self._fingerprint(), "data or settings", SAME_ROWS)

    def _fingerprint(self) -> dict[str, Any]:
        """Return what the run is a run of: the rows by what was drawn from them, the seed, every setting."""
        import softmaxnet

        source = self.source
        drawn = [self.sample.y, source.classes, source.class_counts, source.class_weights, source.sizes]
        tensors = self.encoder.to_state()[1]
        held = self.validation
        return {
            "training rows": arrays_digest([*drawn, *(tensors[name] for name in sorted(tensors))]),
            "validation rows": None if held is None else arrays_digest([held.encoded.dense, held.target, held.weight]),
            "version": softmaxnet.__version__,
            "random_state": self.seed,
            "rows in a window": source.window_rows,
            "rounds of an epoch": self.rounds,
            **self.plan.to_dict(),
        }

    def run(
        self, *, checkpoints: Checkpoints | None = None, on_rows: OnRows | None = None
    ) -> tuple[Fitted, SoftmaxModel]:
        """Train, calibrate on the held-out rows, and make a model."""
        settings, plan = self.settings, self.plan
        communicator = self.extras.communicator
        device = resolve_device(settings["device"], communicator.local_rank)
        threads = worthwhile_threads(settings["n_jobs"], self.operations_per_row * plan.batch_size)
        with limited_threads(threads):
            state = new_state(self.spec, plan, self.seed, device)
            encode = _Encode(self, state.parameters.flat.dtype, device)
            feed = StreamFeed(
                self.source,
                encode,
                seed=self.seed,
                slice_rows=self.slice_rows,
                on_rows=on_rows,
                communicator=communicator,
            )
            try:
                fitted = fit_batches(
                    feed,
                    self.spec,
                    plan,
                    state,
                    self.validation,
                    self.extras.on_epoch,
                    device,
                    checkpoints,
                    rounds=self.rounds,
                    communicator=communicator,
                )
            finally:
                feed.close()
        return fitted, self._model(fitted)

    def _model(self, fitted: Fitted) -> SoftmaxModel:
        model = SoftmaxModel(
            encoder=self.encoder,
            spec=fitted.spec,
            params=fitted.params,
            calibration=fitted.calibration,
            classes=self.source.classes,
            settings=fitted.plan.to_dict() | {"features": self.settings["features"]},
            metrics={**fitted.metrics, "n_iter": fitted.n_iter},
            reader=dict(self.extras.reader),
        )
        if self.for_sets is None:
            return model
        return model.calibrate_sets(self.for_sets.X, self.source.classes[self.for_sets.y])


class _Encode:
    """Streamed rows -> tensors, in the thread that reads."""

    def __init__(self, fit: StreamedFit, dtype: Any, device: str) -> None:
        self.encoder, self.of_class, self.dtype, self.device = fit.encoder, fit.of_class, dtype, device
        source = fit.source
        # Weights have a mean of 1 over all rows, as those of rows in memory do.
        self.mean_weight = float(source.class_weights @ fit.of_class) / source.n_rows

    def __call__(self, rows: StreamedRows) -> Rows:
        import torch

        encoded = self.encoder.transform(rows.X, dtype=np.float64 if self.dtype == torch.float64 else np.float32)
        weight = _row_weights(rows, self.of_class)
        made = rows_of(Examples(encoded, rows.y, weight), self.dtype, self.device)
        made.weight = torch.from_numpy(weight / self.mean_weight).to(self.device, self.dtype)
        return made


def all_dates(column: Any) -> bool:
    """Say whether every text of a column that is not missing is an ISO 8601 date or time."""
    return try_dates(whole(column)) is not None


def _row_weights(rows: StreamedRows, of_class: NDArray[np.float64]) -> NDArray[np.float64]:
    weight = of_class[rows.y]
    return weight if rows.sample_weight is None else weight * rows.sample_weight


# What comes before training


def prepare(
    source: TableSource,
    settings: Mapping[str, Any],
    seed: int,
    *,
    memory: int,
    kinds: Mapping[str, str] | None = None,
    validation: Callable[[FeatureEncoder, NDArray[np.float64]], Examples | None] | None = None,
    extras: Extras | None = None,
) -> StreamedFit:
    """Fit the encoder on a sample, set rows aside, and return the fit that can then begin.

    Parameters
    ----------
    source : TableSource
    settings : mapping
        The classifier's parameters.
    seed : int
    memory : int
        Bytes that the process may take.
    kinds : mapping of column name to kind, optional
    validation : callable, optional
        Makes the user's own validation rows, given the encoder and the weight of every class; where there are none
        rows are held out, unless ``early_stopping`` is off.
    extras : Extras, optional

    Raises
    ------
    DataError
        For rows that cannot be used; with one class only.
    UsageError
        For settings that cannot be.
    """
    source = readable_source(source, kinds)
    of_class = class_weights(
        settings["class_weight"], source.classes, np.arange(len(source.classes)), source.class_weights
    )
    _require_two_classes(source, of_class)
    held_bytes = stream_bytes(memory)
    n_sample = int(min(SAMPLE_ROWS, max(held_bytes / SAMPLE_SHARE / source.bytes_per_row, 1000)))
    sample = source.sample(n_sample, seed, reads_as=(all_numbers, all_dates))
    encoder = FeatureEncoder.fit(
        sample.X, features=settings["features"], sample_weight=_row_weights(sample, of_class), kinds=kinds
    )
    rest, for_sets = source, None
    if settings["conformal_fraction"]:
        rest, for_sets = rest.hold_out(settings["conformal_fraction"], seed + 1, max_rows=HELD_OUT_ROWS)
    held = None if validation is None else validation(encoder, of_class)
    if held is None and settings["early_stopping"]:
        limit = _most_held_out(encoder, sample, len(source.classes), held_bytes)
        rest, rows = rest.hold_out(settings["validation_fraction"], seed, max_rows=limit)
        held = _examples(encoder, rows, of_class, settings["precision"] == "float64", held_bytes)
    return StreamedFit(rest, encoder, settings, seed, memory, of_class, held, for_sets, sample, extras or Extras())


def _require_two_classes(source: TableSource, of_class: NDArray[np.float64]) -> None:
    there = np.flatnonzero(source.class_weights * of_class > 0)
    if len(there) < 2:
        what = source.classes[there].tolist()[:1]
        raise DataError(
            f"y has one class only ({what[0]!r}) among rows of positive weight; a classifier needs two or more classes"
            if what
            else "every row has the weight 0; at least one of each class needs a positive weight",
            file=source.name,
        )


def _most_held_out(encoder: FeatureEncoder, sample: StreamedRows, n_classes: int, held_bytes: int) -> int:
    """Return the rows that can be held out: encoded, and their float64 logits, which are there four times."""
    row_bytes = encoded_row_bytes(encoder.transform(sample.X.slice(0, 2000)))
    within = min(held_bytes / HELD_OUT_SHARE / row_bytes, held_bytes / LOGITS_SHARE / (32 * n_classes))
    return int(min(max(within, LEAST_HELD_OUT), HELD_OUT_ROWS))


def _examples(
    encoder: FeatureEncoder, rows: StreamedRows, of_class: NDArray[np.float64], double: bool, held_bytes: int
) -> Examples:
    """Encode rows, a slice at a time."""
    dtype = np.float64 if double else np.float32
    n = slice_rows(encoded_row_bytes(encoder.transform(rows.X.slice(0, 2000))), held_bytes)
    parts = [encoder.transform(rows.X.slice(low, n), dtype=dtype) for low in range(0, len(rows.y), n)]
    weight = _row_weights(rows, of_class)
    keep = weight > 0
    made = Examples(_joined(parts), rows.y, weight)
    return made if keep.all() else made.take(keep)


def _joined(parts: list[Encoded]) -> Encoded:
    from scipy.sparse import vstack

    if len(parts) == 1:
        return parts[0]
    sparse = None if parts[0].sparse is None else vstack([part.sparse for part in parts], format="csr")
    return Encoded(np.concatenate([part.dense for part in parts]), parts[0].dense_scale, sparse)
