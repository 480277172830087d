"""SoftmaxClassifier: scikit-learn's conventions around a fit.

::

    X, y --scikit-learn's checks--> as_input, encode_labels --FeatureEncoder--> Examples --fit_network--> SoftmaxModel
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.validation import _check_sample_weight, _num_samples

from softmaxnet.checkpoint import Checkpoints
from softmaxnet.communicator import ALONE, Communicator
from softmaxnet.data.dataset import OnBadRow
from softmaxnet.data.files import read_dataset
from softmaxnet.data.labels import encode_labels, lookup_labels
from softmaxnet.data.split import stratified_holdout
from softmaxnet.data.stream import open_source
from softmaxnet.data.table_source import TableSource
from softmaxnet.errors import DataError, UsageError
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.numbers import BY_SIZE
from softmaxnet.findings import DataWarning
from softmaxnet.fit_job import (
    Extras,
    FitJob,
    examples_of,
    kept_in_runs,
    same_network,
    train_model,
    without_folds,
)
from softmaxnet.fitted import Examples, Fitted, TrainingState, state_of
from softmaxnet.inputs import LabelledRows, checked_groups, checked_target_proba, class_weights, tamed
from softmaxnet.little_data import merged_where_few
from softmaxnet.model import SoftmaxModel
from softmaxnet.network import ACTIVATIONS
from softmaxnet.predictor import NotTrainedError, Predictor, as_data_errors, plain_labels
from softmaxnet.processes import in_step
from softmaxnet.recipe import Plan, compares_bins, plan_of_network, stream_plan
from softmaxnet.sanity import glance
from softmaxnet.stream_memory import default_memory, is_streamed, stream_bytes
from softmaxnet.streamed_fit import StreamedStart, prepare

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["NotTrainedError", "SoftmaxClassifier"]


class SoftmaxClassifier(Predictor):
    """A neural network classifier whose probabilities mean what they say.

    It minimises the mean cross-entropy ``-ln softmax(z)_y`` [nats] by closed-form gradients, holds rows out to stop in
    time, and calibrates the logits on them. Inputs are taken as they come: numbers of any scale, missing values,
    categories, dates, text, pixels.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int or "auto", default="auto"
        Units of each hidden layer; ``()`` is softmax regression.
    activation : {"auto", "sigmoid", "relu", "tanh", "gelu", "silu", "mish", "identity"}, default="auto"
        "gelu" is its tanh form.
    output : {"softmax", "sigmoid"}, default="softmax"
        "sigmoid": K independent confidences, each trained by binary cross-entropy; ``predict_proba`` divides them by
        their sum, ``decision_function`` is their logarithm.
    n_members : int or "auto", default="auto"
        Independent networks trained together and averaged as probabilities.
    dropout : float in [0, 1) or "auto", default="auto"
    solver : {"auto", "adam", "lbfgs"}, default="auto"
        "lbfgs": full-batch, for softmax regression and tiny data.
    learning_rate : float or "auto", default="auto"
        Adam's step size, as in PyTorch. "auto" scales it with each layer's inputs.
    weight_decay : float or "auto", default="auto"
        The penalty ``weight_decay / 2 |W|^2`` under "lbfgs" (intercepts free), decoupled under "adam".
    batch_size : int or "auto", default="auto"
    max_epochs : int or "auto", default="auto"
        Passes over the rows; iterations under "lbfgs". With "auto", networks may in the end go on with the rows
        held out (docs/recipe.md); a number is kept to.
    early_stopping : bool, default=True
        Hold rows out, keep the epoch with the lowest log loss on them, calibrate on them. False: train to the last
        epoch; rows passed as X_val then calibrate and score, and stop nothing.
    validation_fraction : float in (0, 1), default=0.1
    n_iter_no_change : int or "auto", default="auto"
        Epochs without improvement after which to stop.
    features : {"auto", "raw"}, default="auto"
        "raw": numbers as they are, unscaled.
    learning_rate_schedule : {"auto", "constant", "cosine", "flat"}, default="auto"
    class_weight : dict, "balanced" or None, default=None
        Shifts the probabilities on purpose: they then speak of the reweighted population.
    label_smoothing : float in [0, 1), default=0.0
    calibration : {"auto", "temperature", "matrix", None}, default="auto"
    conformal_fraction : float in [0, 1), default=0.0
        Share of the rows kept out of everything else, for prediction sets with a coverage guarantee.
    max_seconds : float or None, default=None
    head_bytes : int or "auto", default="auto"
        Bytes that a training step may take for the logits and the gradient of the output layer; 512 MiB.
    precision : {"auto", "float64", "float32", "bfloat16"}, default="auto"
    device : str, default="auto"
    n_jobs : int or None, default=None
        Threads; None is as many as the work is worth, within the cgroup's quota and OMP_NUM_THREADS.
    random_state : int, RandomState or None, default=None
    warm_start : bool, default=False
        ``fit`` goes on from the present weights.
    verbose : int, default=0
        1: a line on standard error for each epoch, with the time left.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str, where X had names
    model_ : SoftmaxModel
        Immutable, free of PyTorch and scikit-learn; what ``save`` writes.
    history_ : list of dict
        A line for each epoch.
    temperature_ : float
        T of the calibration; 1 where it has none.
    n_iter_ : int
    resumed_epochs_ : int
        How many of them were taken from a checkpoint.
    metrics_ : dict
        ``log_loss`` and ``accuracy`` on rows held out, by networks that did not train on them; None where none were.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = SoftmaxClassifier(random_state=0).fit(X, y)
    >>> clf.predict(X[:2]).tolist(), bool(clf.predict_proba(X[:2])[0, 0] > 0.95)
    ([0, 0], True)
    """

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's own way to say it)
        "hidden_layer_sizes": [StrOptions({"auto"}), tuple, list],
        "activation": [StrOptions({"auto", *ACTIVATIONS})],
        "output": [StrOptions({"softmax", "sigmoid"})],
        "n_members": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "dropout": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "solver": [StrOptions({"auto", "adam", "lbfgs"})],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_epochs": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "features": [StrOptions({"auto", "raw"})],
        "learning_rate_schedule": [StrOptions({"auto", "constant", "cosine", "flat"})],
        "class_weight": [StrOptions({"balanced"}), Mapping, None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "calibration": [StrOptions({"auto", "temperature", "matrix"}), None],
        "conformal_fraction": [Interval(Real, 0, 1, closed="left")],
        "max_seconds": [Interval(Real, 0, None, closed="neither"), None],
        "head_bytes": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "precision": [StrOptions({"auto", "float64", "float32", "bfloat16"})],
        "device": [str],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] | str = "auto",
        activation: str = "auto",
        *,
        output: str = "softmax",
        n_members: int | str = "auto",
        dropout: float | str = "auto",
        solver: str = "auto",
        learning_rate: float | str = "auto",
        weight_decay: float | str = "auto",
        batch_size: int | str = "auto",
        max_epochs: int | str = "auto",
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int | str = "auto",
        features: str = "auto",
        learning_rate_schedule: str = "auto",
        class_weight: Mapping[Any, float] | str | None = None,
        label_smoothing: float = 0.0,
        calibration: str | None = "auto",
        conformal_fraction: float = 0.0,
        max_seconds: float | None = None,
        head_bytes: int | str = "auto",
        precision: str = "auto",
        device: str = "auto",
        n_jobs: int | None = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.output = output
        self.n_members = n_members
        self.dropout = dropout
        self.solver = solver
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.features = features
        self.learning_rate_schedule = learning_rate_schedule
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.calibration = calibration
        self.conformal_fraction = conformal_fraction
        self.max_seconds = max_seconds
        self.head_bytes = head_bytes
        self.precision = precision
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    # --- fitting -------------------------------------------------------------------------------------------

    @in_step
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        kinds: Mapping[str, str] | None = None,
        reader: Mapping[str, object] | None = None,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
        on_plan: Callable[[FeatureEncoder, Plan], None] | None = None,
        checkpoint_folder: str | Path | None = None,
        resume: bool = False,
        communicator: Communicator = ALONE,
    ) -> SoftmaxClassifier:
        """Learn from labelled rows.

        Parameters
        ----------
        X : frame, array, sparse matrix or list of texts, of n_samples rows
        y : array-like of shape (n_samples,)
            Integers, strings, bools or floats that stand for classes.
        sample_weight : array-like of shape (n_samples,), optional
            A row of weight k counts as k copies of it, a row of weight 0 as none.
        X_val, y_val, sample_weight_val : optional
            The user's own validation rows: nothing is then held out of X.
        groups : array-like of shape (n_samples,), optional
            Rows of one group stay on one side of every split.
        kinds : mapping of column name to "number", "category", "text", "date" or "drop", optional
        reader : mapping, optional
            How the file was read, to be stored in the model.
        on_epoch : callable, optional
            Given each line of the history as it is made.
        on_plan : callable, optional
            Given the encoder, which describes every column, and the plan, with every setting resolved, just before
            training begins. What it raises ends the fit.
        checkpoint_folder : str or path, optional
            Where training in batches is kept from time to time (every second at most), to be gone on with by
            ``resume``. What is there before is removed; what is there at the end is left, to be removed once the model
            is saved.
        resume : bool, default=False
            Go on from the newest checkpoint that is whole, with its seed where ``random_state`` is None; ``fit`` then
            ends as if it had never stopped, to the bit on one thread. It begins anew where there is none
            (``resumed_epochs_`` is 0), and refuses one of other rows or settings. Small data and "lbfgs" begin anew.

        communicator : Communicator, optional
            The processes that fit together. By default those that torchrun, SLURM, Ray Train or another launcher has
            started with this one, each of which is given the same rows; ``Alone()`` fits alone nevertheless.

        Returns
        -------
        self

        Raises
        ------
        ProcessLostError
            Where another process of the same fit has ended.
        DataError
            For rows, labels or weights that cannot be used.
        UsageError
            For parameters that cannot be.
        TrainingDivergedError
            Where no learning rate tried gave a finite loss.
        """
        self._check_parameters()
        X, n_samples = self._checked_input(X, reset=True)
        labels, classes = encode_labels(_checked_y(y, n_samples))
        going_on = self.warm_start and self._state is not None
        extras = Extras.checked(
            reader=reader,
            on_epoch=on_epoch,
            on_plan=on_plan,
            checkpoint_folder=checkpoint_folder,
            resume=resume,
            going_on=going_on,
            communicator=communicator,
        )
        if going_on and not np.array_equal(classes, self.model_.classes):
            raise UsageError(
                "warm_start goes on with the classes of the fit before it, and y has others. "
                "Use partial_fit with every class in classes, or warm_start=False."
            )
        self.classes_ = classes
        rows = self._labelled_rows(X, labels, sample_weight, groups)
        settings = self.get_params(deep=False)
        compare = not going_on and X_val is None and compares_bins(settings)
        encoder = self.model_.encoder if going_on else self._new_encoder(rows, kinds, compare=compare)
        for finding in glance(rows.X, rows.labels, classes.tolist(), encoder):
            warnings.warn(finding.message, DataWarning, stacklevel=3)
        seed = self._agreed_seed(extras)
        validation = self._validation_examples(encoder, X_val, y_val, sample_weight_val, rows.class_weight)
        examples = examples_of(encoder, rows, settings)
        job = kept_in_runs(FitJob(encoder, examples, classes, settings, seed, validation, extras))
        for_sets = None
        if self.conformal_fraction:
            aside = stratified_holdout(rows.labels, self.conformal_fraction, seed + 1, job.examples.groups)
            job, for_sets = replace(job, examples=job.examples.take(~aside)), rows.take(aside)
        if compare:
            job = replace(job, examples=merged_where_few(job.examples)).comparing_bins()
        self._fit(job)
        if for_sets is not None:
            self.model_ = self.model_.calibrate_sets(for_sets.X, self.classes_[for_sets.labels])
        return self

    @in_step
    def fit_file(
        self,
        path: str | Path,
        target: str,
        *,
        weights: str | None = None,
        group: str | None = None,
        kinds: Mapping[str, str] | None = None,
        reader: Mapping[str, object] | None = None,
        on_bad_row: OnBadRow = "fail",
        memory: int | None = None,
        communicator: Communicator = ALONE,
        **options: Any,
    ) -> SoftmaxClassifier:
        """Learn from a table on disk, of any size: read whole where that fits the memory, streamed where it does not.

        Parameters
        ----------
        path : str or path
            A CSV, TSV or Parquet file, a folder of Parquet files, or a pattern such as ``"part-*.csv"``. Other files
            are read whole.
        target, weights, group : str
            Columns that are no inputs: the labels, the weight of each row, what is never split.
        kinds : mapping of column name to "number", "category", "text", "date" or "drop", optional
        reader : mapping, optional
            How a text file is written (delimiter, encoding, ...), where that is not to be found out.
        on_bad_row : "fail", "skip" or int, default="fail"
        memory : int, optional
            Bytes that this process may take; half of what the machine has by default.
        communicator : as in :meth:`fit`
        **options
            As in :meth:`fit`: X_val, y_val, sample_weight_val, on_epoch, on_plan, checkpoint_folder, resume.

        Returns
        -------
        self
        """
        budget = communicator.broadcast_json(default_memory() if memory is None else memory)
        options["communicator"] = communicator
        if is_streamed(path, budget, reader=reader, kinds=kinds):
            source = open_source(
                path,
                target=target,
                weights=weights,
                group=group,
                drop=[name for name, kind in (kinds or {}).items() if kind == "drop"],
                text=[name for name, kind in (kinds or {}).items() if kind in ("category", "text", "date")],
                reader=reader,
                on_bad_row=on_bad_row,
                stream_bytes=stream_bytes(budget),
            )
            return self.fit_stream(source, kinds=kinds, memory=budget, **options)
        data = read_dataset(
            path, target=target, weights=weights, group=group, reader=reader, on_bad_row=on_bad_row
        )
        roles = {"target": target, "weights": weights, "group": group}
        about = data.reader | {name: column for name, column in roles.items() if column is not None}
        return self.fit(
            data.X, data.y, data.sample_weight, groups=data.groups, kinds=kinds, reader=about, **options
        )

    @in_step
    def fit_stream(
        self,
        source: TableSource,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: ArrayLike | None = None,
        *,
        kinds: Mapping[str, str] | None = None,
        memory: int | None = None,
        reader: Mapping[str, object] | None = None,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
        on_plan: Callable[[FeatureEncoder, Plan], None] | None = None,
        on_start: Callable[[StreamedStart], None] | None = None,
        on_rows: Callable[[int, int], None] | None = None,
        checkpoint_folder: str | Path | None = None,
        resume: bool = False,
        communicator: Communicator = ALONE,
    ) -> SoftmaxClassifier:
        """Learn from rows that stay in their file, window by window; see ``docs/streaming.md``.

        The encoder is fitted on a sample of at most 100,000 rows, and at most 50,000 rows are held out, in memory; an
        epoch is cut into rounds of about a minute, after each of which they are scored.

        Parameters
        ----------
        source : TableSource
            What :func:`softmaxnet.data.stream.open_source` returned.
        X_val, y_val, sample_weight_val, kinds, on_epoch, on_plan, checkpoint_folder, resume, communicator
            As in :meth:`fit`; ``on_epoch`` is given a line for each round.
        memory : int, optional
            Bytes that this process may take; half of what the machine has by default.
        reader : mapping, optional
            To be stored in the model; by default that of the source and its columns with a role.
        on_start : callable, optional
            Given a :class:`softmaxnet.streamed_fit.StreamedStart`, which states the peak of the memory.
        on_rows : callable, optional
            Told the epoch, from 0, and the rows of it that are behind, batch by batch.

        Returns
        -------
        self
        """
        self._check_parameters()
        extras = Extras.checked(
            reader=source.about if reader is None else reader,
            on_epoch=on_epoch,
            on_plan=on_plan,
            checkpoint_folder=checkpoint_folder,
            resume=resume,
            going_on=False,
            communicator=communicator,
        )
        kinds = {name: kind for name, kind in (kinds or {}).items() if name in source.columns}
        self.classes_, self.n_features_in_ = source.classes, len(source.columns)
        self.feature_names_in_ = np.array(source.columns, dtype=object)

        def validation(encoder: FeatureEncoder, of_class: NDArray[np.float64]) -> Examples | None:
            return self._validation_examples(encoder, X_val, y_val, sample_weight_val, of_class)

        job = prepare(
            source,
            self.get_params(deep=False),
            self._agreed_seed(extras),
            memory=communicator.broadcast_json(default_memory() if memory is None else memory),
            kinds=kinds,
            validation=validation,
            extras=extras,
        )
        checkpoints = job.checkpoints()
        job.agree()
        behind = 0 if extras.found is None else len(extras.found.history) / job.rounds
        self.resumed_epochs_ = communicator.broadcast_json(behind)
        if on_start is not None:
            on_start(job.start())
        if on_plan is not None:
            on_plan(job.encoder, job.plan)
        if checkpoints is not None and not self.resumed_epochs_:
            checkpoints.remove()
        self._stream_plan = None
        fitted, model = job.run(checkpoints=checkpoints, on_rows=on_rows)
        self._keep(fitted, model)
        if not self.warm_start:
            self._state = None
        return self

    @in_step
    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        communicator: Communicator = ALONE,
    ) -> SoftmaxClassifier:
        """Learn from one more batch of rows: a pass over it in minibatches, without validation or calibration.

        The first call settles the features (scales, categories, words) and the network; later rows are seen through
        them. Its batch should look like the data to come.

        Parameters
        ----------
        X, y, sample_weight : as in :meth:`fit`
        classes : array-like, needed in the first call
            Every class that will ever be met.
        communicator : as in :meth:`fit`
        """
        self._check_parameters()
        fitted = hasattr(self, "model_")
        X, n_samples = self._checked_input(X, reset=not fitted)
        y = _checked_y(y, n_samples)
        if not fitted:
            if classes is None:
                raise UsageError("classes must be passed on the first call to partial_fit.")
            self.classes_ = encode_labels(plain_labels(classes))[1]
        elif classes is not None and not np.array_equal(encode_labels(plain_labels(classes))[1], self.classes_):
            raise UsageError("classes is not the same as in the first call to partial_fit.")
        labels = lookup_labels(y, self.classes_)
        if (labels < 0).any():
            raise DataError(f"y has a label that classes does not have, first in row {int((labels < 0).argmax())}")
        rows = self._weighted_rows(X, labels, sample_weight)
        rows = rows.take(rows.weight > 0)
        if fitted:
            encoder = self.model_.encoder
        else:
            encoder = FeatureEncoder.fit(rows.X, features=self.features, sample_weight=rows.weight)
        settings = self.get_params(deep=False)
        examples, seed = examples_of(encoder, rows, settings), communicator.broadcast_json(self._seed())
        job = FitJob(encoder, examples, self.classes_, settings, seed, extras=Extras(communicator=communicator))
        if self._stream_plan is None:
            plan = stream_plan(job.plan())
            if fitted:  # go on from what fit has found: its layers, its weights, its calibration
                self._state = state_of(self.model_.spec, self.model_.params, plan, self._seed())
                plan = plan_of_network(plan, self.model_.spec)
            self._stream_plan = plan
        calibration = self.model_.calibration if fitted else None
        self._run(job, self._stream_plan)
        if calibration is not None:
            self.model_ = replace(self.model_, calibration=calibration)
            self.temperature_ = calibration.temperature
        return self

    @in_step
    def fit_soft(
        self,
        X: Any,
        target_proba: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        communicator: Communicator = ALONE,
    ) -> SoftmaxClassifier:
        """Learn from rows that have a probability for each class in place of a label.

        Parameters
        ----------
        X : as in :meth:`fit`
        target_proba : array-like of shape (n_samples, n_classes)
            Rows that sum to 1. The classes are 0..n_classes-1.
        sample_weight : array-like of shape (n_samples,), optional
        communicator : as in :meth:`fit`
        """
        self._check_parameters()
        X, n_samples = self._checked_input(X, reset=True)
        target = checked_target_proba(target_proba, n_samples)
        self.classes_ = np.arange(target.shape[1])
        weight = _checked_weights(sample_weight, n_samples)
        if self.class_weight is not None:
            of_class = class_weights(self.class_weight, self.classes_, target.argmax(1), weight)
            weight = tamed(weight * (target @ of_class))
        encoder = FeatureEncoder.fit(X, features=self.features, sample_weight=weight)
        settings = self.get_params(deep=False)
        rows = LabelledRows(X, target, weight)
        self._state = None  # the classes and the features are new
        examples = examples_of(encoder, rows.take(weight > 0), settings)
        seed = communicator.broadcast_json(self._seed())
        self._fit(FitJob(encoder, examples, self.classes_, settings, seed, extras=Extras(communicator=communicator)))
        return self

    def _check_parameters(self) -> None:
        """Refuse values that cannot be, in scikit-learn's own words."""
        try:
            self._validate_params()
        except InvalidParameterError as error:
            raise UsageError(str(error)) from None
        sizes = self.hidden_layer_sizes
        if not isinstance(sizes, str) and not all(np.issubdtype(type(size), np.integer) and size > 0 for size in sizes):
            raise UsageError(
                "The 'hidden_layer_sizes' parameter of SoftmaxClassifier must be 'auto' or a tuple of positive ints, "
                f"() for none. Got {sizes!r} instead."
            )
        if self.n_jobs == 0:
            raise UsageError("The 'n_jobs' parameter of SoftmaxClassifier must be None or an int other than 0.")

    def _new_encoder(
        self, rows: LabelledRows, kinds: Mapping[str, str] | None, *, compare: bool
    ) -> FeatureEncoder:
        """Return an encoder of these rows, with bins where networks with and without them are compared."""
        return FeatureEncoder.fit(
            rows.X,
            features=self.features,
            sample_weight=rows.weight,
            kinds=kinds,
            n_bins=BY_SIZE if compare else None,
        )

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 2))

    def _agreed_seed(self, extras: Extras) -> int:
        """Return the seed of all processes: that of the checkpoint to go on from, where the user gave none."""
        found = extras.found_seed()
        seed: int = extras.communicator.broadcast_json(
            self._seed() if found is None or self.random_state is not None else found
        )
        return seed

    def _fit(self, job: FitJob) -> None:
        plan = job.plan()
        if self.warm_start:
            plan = without_folds(plan)
            if self._state is not None:
                plan = same_network(plan, self.model_.spec, job.settings)
        checkpoints = job.checkpoints(plan)
        job.agree(plan)
        self.resumed_epochs_ = job.extras.communicator.broadcast_json(job.resumed_epochs(plan))
        if job.extras.on_plan is not None:
            job.extras.on_plan(job.encoder, plan)
        if checkpoints is not None and not self.resumed_epochs_:
            checkpoints.remove()
        self._stream_plan = None
        if not self.warm_start:
            self._state = None
        self._run(job, plan, checkpoints)
        if not self.warm_start:
            self._state = None

    def _run(self, job: FitJob, plan: Plan, checkpoints: Checkpoints | None = None) -> None:
        self._keep(*train_model(job, plan, self._state, checkpoints))

    def _keep(self, fitted: Fitted, model: SoftmaxModel) -> None:
        self.model_ = model
        self._state = fitted.state
        self.history_ = fitted.history
        self.n_iter_ = fitted.n_iter
        self.metrics_ = fitted.metrics
        self.stopped_by_ = fitted.stopped_by
        self.temperature_ = fitted.calibration.temperature

    _state: TrainingState | None = None
    """What ``partial_fit`` and ``warm_start`` go on from."""
    _stream_plan: Plan | None = None
    """What ``partial_fit`` trains by, once it has been called."""

    # --- input ---------------------------------------------------------------------------------------------

    def _labelled_rows(
        self, X: Any, labels: NDArray[np.int64], sample_weight: ArrayLike | None, groups: ArrayLike | None
    ) -> LabelledRows:
        """Return the rows of positive weight, of two or more classes."""
        rows = self._weighted_rows(X, labels, sample_weight)
        keep = rows.weight > 0
        if len(np.unique(labels[keep])) < 2:
            raise DataError(
                f"y has one class only ({self.classes_[labels[keep][:1]].tolist()[0]!r}) among rows of positive "
                "weight; a classifier needs two or more classes"
            )
        if groups is not None:
            rows = replace(rows, groups=checked_groups(groups, len(labels)))
        return rows.take(keep)

    def _weighted_rows(
        self, X: Any, labels: NDArray[np.int64], sample_weight: ArrayLike | None
    ) -> LabelledRows:
        weight = _checked_weights(sample_weight, len(labels))
        if self.class_weight is None:
            return LabelledRows(X, labels, weight)
        of_class = class_weights(self.class_weight, self.classes_, labels, weight)
        return LabelledRows(X, labels, tamed(weight * of_class[labels]), class_weight=of_class)

    def _validation_examples(
        self,
        encoder: FeatureEncoder,
        X_val: Any,
        y_val: Any,
        sample_weight_val: ArrayLike | None,
        class_weight: NDArray[np.float64] | None,
    ) -> Examples | None:
        if X_val is None:
            if y_val is not None or sample_weight_val is not None:
                raise UsageError("y_val or sample_weight_val was given without X_val; pass X_val and y_val")
            return None
        if y_val is None:
            raise UsageError("X_val was given without y_val; pass both")
        try:
            X, n_samples = self._checked_input(X_val, reset=False)
            labels = lookup_labels(_checked_y(y_val, n_samples), self.classes_)
            weight = _checked_weights(sample_weight_val, n_samples)
            if class_weight is not None:
                weight = weight * class_weight[np.maximum(labels, 0)]
            keep = (labels >= 0) & (weight > 0)
            if not keep.any():
                raise DataError("y_val has no label that y has; validation needs rows of the classes that are trained")
            return examples_of(encoder, LabelledRows(X, labels, weight).take(keep), self.get_params(deep=False))
        except DataError as error:
            error.add_note("in the validation rows X_val, y_val")
            raise


def _checked_y(y: Any, n_samples: int) -> NDArray[Any]:
    """Return y as one column with an entry for each row."""
    if y is None:
        raise DataError("This SoftmaxClassifier requires y to be passed, but the target y is None")
    n_labels = _num_samples(y)
    if n_labels != n_samples:
        raise DataError(f"Found input variables with inconsistent numbers of samples: [{n_samples}, {n_labels}]")
    return plain_labels(y)


def _checked_weights(sample_weight: ArrayLike | None, n_samples: int) -> NDArray[np.float64]:
    with as_data_errors():
        weight = _check_sample_weight(
            sample_weight, np.empty((n_samples, 1)), dtype=np.float64, ensure_non_negative=True
        )
    if not (weight > 0).any():
        raise DataError("sample_weight: every weight is zero; at least one row needs a positive sample weight")
    return tamed(np.asarray(weight))
