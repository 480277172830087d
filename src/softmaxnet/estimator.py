"""SoftmaxClassifier: scikit-learn's conventions around a fit; the only file that imports scikit-learn.

::

    X, y --scikit-learn's checks--> as_input, encode_labels --FeatureEncoder--> Examples --fit_network--> SoftmaxModel
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    _num_samples,
    column_or_1d,
    validate_data,
)

from softmaxnet.checkpoint import Checkpoint, Checkpoints, newest
from softmaxnet.data.frames import as_input
from softmaxnet.data.labels import encode_labels, lookup_labels
from softmaxnet.data.split import stratified_holdout
from softmaxnet.errors import DataError, SoftmaxError, UsageError
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.pictures import picture_shape
from softmaxnet.fitting import (
    Examples,
    Fitted,
    TrainingState,
    fit_network,
    keeps_checkpoints,
    operations_per_step,
    run_fingerprint,
    state_of,
)
from softmaxnet.machine import has_bfloat16_products, limited_threads, resolve_device, worthwhile_threads
from softmaxnet.model import SoftmaxModel
from softmaxnet.model_file import save_model
from softmaxnet.network import ACTIVATIONS
from softmaxnet.recipe import DataShape, Plan, plan_of_network, resolve, stream_plan

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["NotTrainedError", "SoftmaxClassifier"]


class NotTrainedError(SoftmaxError, NotFittedError):  # type: ignore[misc]
    """A method that needs a fitted model was called before ``fit``."""

    exit_code = 2
    http_status = 400


class SoftmaxClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
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
        Passes over the rows; iterations under "lbfgs".
    early_stopping : bool, default=True
        Hold rows out, keep the epoch with the lowest log loss on them, calibrate on them.
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
        ``log_loss`` and ``accuracy`` on held-out rows, None where none were held out.

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
        self.precision = precision
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        return tags

    # --- fitting -------------------------------------------------------------------------------------------

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

        Returns
        -------
        self

        Raises
        ------
        DataError
            For rows, labels or weights that cannot be used.
        UsageError
            For parameters that cannot be.
        TrainingDivergedError
            Where no learning rate tried gave a finite loss.
        """
        self._check_parameters()
        X, n_samples = self._checked_input(X, reset=True)
        _check_lengths(n_samples, y)
        labels, classes = _checked_labels(y)
        going_on = self.warm_start and self._state is not None
        if going_on and checkpoint_folder is not None:
            raise UsageError("checkpoint_folder is for a fit from the beginning, and warm_start goes on with another")
        if resume and checkpoint_folder is None:
            raise UsageError("resume needs the checkpoint_folder of the fit that is to go on")
        if going_on and not np.array_equal(classes, self.model_.classes):
            raise UsageError(
                "warm_start goes on with the classes of the fit before it, and y has others. "
                "Use partial_fit with every class in classes, or warm_start=False."
            )
        self.classes_ = classes
        weight = self._weights(sample_weight, labels)
        keep = weight > 0
        if len(np.unique(labels[keep])) < 2:
            raise DataError(
                f"y has one class only ({self.classes_[labels[keep][:1]].tolist()[0]!r}) among rows of positive "
                "weight; a classifier needs two or more classes"
            )
        groups = None if groups is None else _checked_groups(groups, n_samples)
        if not keep.all():
            X, labels, weight = _take(X, keep), labels[keep], weight[keep]
            groups = None if groups is None else groups[keep]
        encoder = (
            self.model_.encoder
            if going_on
            else FeatureEncoder.fit(X, features=self.features, sample_weight=weight, kinds=kinds)
        )
        found = newest(checkpoint_folder) if resume and checkpoint_folder is not None else None
        seed = self._seed() if found is None or self.random_state is not None else _seed_of(found)
        examples = self._examples(encoder, X, labels, weight, groups)
        for_sets = None
        if self.conformal_fraction:
            aside = stratified_holdout(labels, self.conformal_fraction, seed + 1, groups)
            for_sets = _take(X, aside), labels[aside]
            examples = examples.take(~aside)
        validation = None
        if X_val is None and not (y_val is None and sample_weight_val is None):
            raise UsageError("y_val or sample_weight_val was given without X_val; pass X_val and y_val")
        if X_val is not None:
            try:
                validation = self._validation_examples(encoder, X_val, y_val, sample_weight_val)
            except DataError as error:
                error.add_note("in the validation rows X_val, y_val")
                raise
        self._fit(encoder, examples, validation, seed, dict(reader or {}), on_epoch, on_plan, checkpoint_folder, found)
        if for_sets is not None:
            self.model_ = self.model_.calibrate_sets(for_sets[0], self.classes_[for_sets[1]])
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> SoftmaxClassifier:
        """Learn from one more batch of rows: a pass over it in minibatches, without validation or calibration.

        The first call settles the features (scales, categories, words) and the network; later rows are seen through
        them. Its batch should look like the data to come.

        Parameters
        ----------
        X, y, sample_weight : as in :meth:`fit`
        classes : array-like, needed in the first call
            Every class that will ever be met.
        """
        self._check_parameters()
        fitted = hasattr(self, "model_")
        X, n_samples = self._checked_input(X, reset=not fitted)
        _check_lengths(n_samples, y)
        if not fitted:
            if classes is None:
                raise UsageError("classes must be passed on the first call to partial_fit.")
            self.classes_ = _checked_labels(classes)[1]
        elif classes is not None and not np.array_equal(_checked_labels(classes)[1], self.classes_):
            raise UsageError("classes is not the same as in the first call to partial_fit.")
        labels = lookup_labels(_plain_labels(y), self.classes_)
        if (labels < 0).any():
            raise DataError(f"y has a label that classes does not have, first in row {int((labels < 0).argmax())}")
        weight = self._weights(sample_weight, labels)
        if fitted:
            encoder = self.model_.encoder
        else:
            encoder = FeatureEncoder.fit(X, features=self.features, sample_weight=weight)
        examples = self._examples(encoder, X, labels, weight, None).take(weight > 0)
        if self._stream_plan is None:
            plan = stream_plan(self._plan(examples, None))
            if fitted:  # go on from what fit has found: its layers, its weights, its calibration
                self._state = state_of(self.model_.spec, self.model_.params, plan, self._seed())
                plan = plan_of_network(plan, self.model_.spec)
            self._stream_plan = plan
        calibration = self.model_.calibration if fitted else None
        self._run(encoder, examples, None, self._stream_plan, self._seed(), {}, None)
        if calibration is not None:
            self.model_ = replace(self.model_, calibration=calibration)
            self.temperature_ = calibration.temperature
        return self

    def fit_soft(self, X: Any, target_proba: ArrayLike, sample_weight: ArrayLike | None = None) -> SoftmaxClassifier:
        """Learn from rows that have a probability for each class in place of a label.

        Parameters
        ----------
        X : as in :meth:`fit`
        target_proba : array-like of shape (n_samples, n_classes)
            Rows that sum to 1. The classes are 0..n_classes-1.
        sample_weight : array-like of shape (n_samples,), optional
        """
        self._check_parameters()
        X, n_samples = self._checked_input(X, reset=True)
        target = np.array(target_proba, dtype=np.float64)
        if target.ndim != 2 or target.shape[0] != n_samples or target.shape[1] < 2:
            raise DataError(
                f"target_proba must have the shape ({n_samples}, n_classes) with two or more classes. "
                f"Got {target.shape} instead"
            )
        bad = ~(np.isfinite(target).all(1) & (target >= 0).all(1) & (np.abs(target.sum(1) - 1) < 1e-4))
        if bad.any():
            raise DataError(f"target_proba: row {int(bad.argmax())} is not a distribution (sums to 1, none negative)")
        self.classes_ = np.arange(target.shape[1])
        target /= target.sum(1, keepdims=True)
        weight = _checked_weights(sample_weight, n_samples)
        if self.class_weight is not None:
            weight = weight * (target @ self._class_weights(target.argmax(1), weight))
        keep = weight > 0
        encoder = FeatureEncoder.fit(X, features=self.features, sample_weight=weight)
        examples = self._examples(encoder, X, target, weight, None).take(keep)
        self._state = None  # the classes and the features are new
        self._fit(encoder, examples, None, self._seed(), {}, None)
        return self

    def calibrate_sets(
        self, X: Any, y: Any, *, method: str = "lac", per_class: bool = False
    ) -> SoftmaxClassifier:
        """Prepare prediction sets on rows that neither training nor calibration has seen.

        Parameters
        ----------
        X, y : as in :meth:`fit`
        method : {"lac", "aps", "raps"}
            "lac" gives the smallest sets; the other two adapt them to the row.
        per_class : bool
            Whether the coverage is to hold within each class.
        """
        self.model_ = self._fitted_model.calibrate_sets(
            self._checked_input(X, reset=False)[0], _plain_labels(y), method=method, per_class=per_class
        )
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

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 2))

    def _fit(
        self,
        encoder: FeatureEncoder,
        examples: Examples,
        validation: Examples | None,
        seed: int,
        reader: dict[str, object],
        on_epoch: Callable[[dict[str, float]], None] | None,
        on_plan: Callable[[FeatureEncoder, Plan], None] | None = None,
        checkpoint_folder: str | Path | None = None,
        found: Checkpoint | None = None,
    ) -> None:
        plan = self._plan(examples, validation)
        if self.warm_start and plan.validation == "folds":
            # One network that a later fit can go on from, in place of members with a fold each.
            plan = replace(plan, validation="holdout", solver="adam", hidden_layer_sizes=plan.hidden_layer_sizes)
        if self.warm_start and self._state is not None:
            plan = self._same_network(plan)
        checkpoints = None
        if checkpoint_folder is not None:
            about = run_fingerprint(examples, self.classes_, plan, seed, validation)
            checkpoints = Checkpoints(checkpoint_folder, about, found=found)
        self.resumed_epochs_ = len(found.history) if found is not None and keeps_checkpoints(plan) else 0
        if on_plan is not None:
            on_plan(encoder, plan)
        if checkpoints is not None and not self.resumed_epochs_:
            checkpoints.remove()
        self._stream_plan = None
        if not self.warm_start:
            self._state = None
        self._run(encoder, examples, validation, plan, seed, reader, on_epoch, checkpoints)
        if not self.warm_start:
            self._state = None

    def _same_network(self, plan: Plan) -> Plan:
        """Return the plan with the network that is there; refuse what asks for another one."""
        there = plan_of_network(plan, self.model_.spec)
        for name in ("hidden_layer_sizes", "activation", "output", "n_members"):
            if getattr(self, name) != "auto" and getattr(there, name) != getattr(plan, name):
                raise UsageError(
                    f"warm_start goes on with the network of the fit before it, whose {name} is "
                    f"{getattr(there, name)!r}. Got {getattr(plan, name)!r} instead; use warm_start=False."
                )
        return there

    def _run(
        self,
        encoder: FeatureEncoder,
        examples: Examples,
        validation: Examples | None,
        plan: Plan,
        seed: int,
        reader: dict[str, object],
        on_epoch: Callable[[dict[str, float]], None] | None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        n_classes = len(self.classes_)
        threads = worthwhile_threads(self.n_jobs, operations_per_step(examples, n_classes, plan))
        with limited_threads(threads):
            fitted = fit_network(
                examples,
                n_classes,
                plan,
                seed=seed,
                validation=validation,
                on_epoch=_progress(plan.max_epochs, on_epoch) if self.verbose else on_epoch,
                state=self._state,
                device=resolve_device(self.device),
                checkpoints=checkpoints,
            )
        self._state = fitted.state
        self._finish(encoder, fitted, reader)

    model_: SoftmaxModel
    classes_: NDArray[Any]
    _state: TrainingState | None = None
    """What ``partial_fit`` and ``warm_start`` go on from."""
    _stream_plan: Plan | None = None
    """What ``partial_fit`` trains by, once it has been called."""

    @property
    def _fitted_model(self) -> SoftmaxModel:
        if not hasattr(self, "model_"):
            raise NotTrainedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before "
                "using this estimator."
            )
        model: SoftmaxModel = self.model_
        return model

    def _plan(self, examples: Examples, validation: Examples | None) -> Plan:
        encoded = examples.encoded
        sparse = encoded.sparse
        shape = DataShape(
            n_rows=len(examples),
            n_dense=encoded.dense.shape[1],
            n_sparse=0 if sparse is None else sparse.shape[1],
            n_classes=len(self.classes_),
            active=0.0 if sparse is None else sparse.nnz / max(sparse.shape[0], 1),
            picture=picture_shape(encoded.dense) is not None,
            bfloat16=has_bfloat16_products(),
            has_validation=validation is not None,
            soft_targets=examples.target.ndim == 2,
        )
        return resolve(shape, self.get_params(deep=False))

    def _finish(self, encoder: FeatureEncoder, fitted: Fitted, reader: dict[str, object]) -> None:
        self.model_ = SoftmaxModel(
            encoder=encoder,
            spec=fitted.spec,
            params=fitted.params,
            calibration=fitted.calibration,
            classes=self.classes_,
            settings=fitted.plan.to_dict() | {"features": self.features},
            metrics={**fitted.metrics, "n_iter": fitted.n_iter},
            reader=reader,
        )
        self.history_ = fitted.history
        self.n_iter_ = fitted.n_iter
        self.metrics_ = fitted.metrics
        self.stopped_by_ = fitted.stopped_by
        self.temperature_ = fitted.calibration.temperature

    # --- input ---------------------------------------------------------------------------------------------

    def _checked_input(self, X: Any, *, reset: bool) -> tuple[Any, int]:
        """Return X as the package takes it, after scikit-learn's own checks of names, shape and type."""
        with _as_data_errors():
            if _is_for_as_input(X) or _is_text(X):
                X = as_input(X)
            elif _is_object_rows(X):
                X = np.array(X, dtype=object)
            if hasattr(X, "columns") or _is_object_matrix(X):  # a frame or an Arrow table has columns
                validate_data(self, X, skip_check_array=True, reset=reset)
                table = as_input(X)
                if table.shape[0] == 0:
                    raise DataError("Found array with 0 sample(s) while a minimum of 1 is required.")
                return table, table.shape[0]
            X = validate_data(
                self, X, reset=reset, accept_sparse="csr", dtype=None, ensure_all_finite=False, ensure_min_features=1
            )
            if not scipy.sparse.issparse(X) and X.dtype.kind not in "fiub":
                X = check_array(X, dtype=np.float64, ensure_all_finite=False)
            _check_no_infinity(X)
            return as_input(X), X.shape[0]

    def _examples(
        self,
        encoder: FeatureEncoder,
        X: Any,
        target: NDArray[Any],
        weight: NDArray[np.float64],
        groups: NDArray[Any] | None,
    ) -> Examples:
        from softmaxnet.recipe import SMALL_ROWS

        small = len(target) <= SMALL_ROWS or self.precision == "float64" or self.solver == "lbfgs"
        dtype = np.float64 if small else np.float32
        return Examples(encoder.transform(X, dtype=dtype), target, weight, groups)

    def _validation_examples(
        self, encoder: FeatureEncoder, X_val: Any, y_val: Any, sample_weight_val: ArrayLike | None
    ) -> Examples:
        if y_val is None:
            raise UsageError("X_val was given without y_val; pass both")
        X, n_samples = self._checked_input(X_val, reset=False)
        _check_lengths(n_samples, y_val)
        labels = lookup_labels(_plain_labels(y_val), self.classes_)
        weight = _checked_weights(sample_weight_val, n_samples)
        if self.class_weight is not None:
            weight = weight * self._class_weights_last[np.maximum(labels, 0)]
        keep = (labels >= 0) & (weight > 0)
        if not keep.any():
            raise DataError("y_val has no label that y has; validation needs rows of the classes that are trained")
        return self._examples(encoder, _take(X, keep), labels[keep], weight[keep], None)

    def _weights(self, sample_weight: ArrayLike | None, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        weight = _checked_weights(sample_weight, len(labels))
        if self.class_weight is not None:
            self._class_weights_last = self._class_weights(labels, weight)
            weight = weight * self._class_weights_last[labels]
        return np.asarray(weight, dtype=np.float64)

    def _class_weights(self, labels: NDArray[np.int64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a weight for each class; "balanced" gives every class the same total, row weights counted."""
        n_classes = len(self.classes_)
        if isinstance(self.class_weight, str):
            totals = np.bincount(labels, weights=weight, minlength=n_classes)
            return np.where(totals > 0, weight.sum() / (n_classes * np.maximum(totals, 1e-300)), 0.0)
        out = np.ones(n_classes)
        known = {label: k for k, label in enumerate(self.classes_.tolist())}
        given: dict[Any, Any] = dict(self.class_weight or {})
        for label, value in given.items():
            if label not in known:
                raise UsageError(f"class_weight names the class {label!r}, which y does not have")
            if not (isinstance(value, int | float | np.number) and np.isfinite(value) and value >= 0):
                raise UsageError(f"class_weight of {label!r} must be a finite number >= 0. Got {value!r} instead")
            out[known[label]] = value
        return out

    # --- predicting ----------------------------------------------------------------------------------------

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the calibrated logits, (n_samples, n_classes); for two classes their difference, (n_samples,).

        With ensemble members they are ``logsumexp_m(log_softmax(z_m)) - ln M``.
        """
        logits = np.asarray(self._fitted_model.decision_function(self._checked_input(X, reset=False)[0]))
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class, (n_samples, n_classes), rows summing to 1."""
        return np.asarray(self._fitted_model.predict_proba(self._checked_input(X, reset=False)[0]))

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the log-softmax of the logits [nats]; it never underflows."""
        return np.asarray(self._fitted_model.predict_log_proba(self._checked_input(X, reset=False)[0]))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each row, (n_samples,)."""
        return np.asarray(self._fitted_model.predict(self._checked_input(X, reset=False)[0]))

    def predict_topk(self, X: Any, k: int = 5) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return the k most probable classes of each row, highest first, and their probabilities, (n_samples, k)."""
        return self._fitted_model.predict_topk(self._checked_input(X, reset=False)[0], k)

    def predict_set(self, X: Any, coverage: float = 0.9) -> list[NDArray[Any]]:
        """Return for each row the labels that together hold the true one with probability ``coverage``.

        The guarantee is marginal and finite-sample; it needs :meth:`calibrate_sets` or ``conformal_fraction``.
        """
        return self._fitted_model.predict_set(self._checked_input(X, reset=False)[0], coverage)

    def save(self, path: Any, *, force: bool = True) -> None:
        """Write ``model_`` to one data-only safetensors file, atomically.

        Parameters
        ----------
        path : str or path
        force : bool, default=True
            Replace a file that is there.
        """
        save_model(self._fitted_model, path, force=force)


def _seed_of(found: Checkpoint) -> int:
    seed = found.fingerprint.get("random_state")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise UsageError("the checkpoint has no seed", file=str(found.path))
    return seed


def _progress(
    max_epochs: int, then: Callable[[dict[str, float]], None] | None
) -> Callable[[dict[str, float]], None]:
    """Return what prints a line for each epoch, with the time that all epochs would take, and calls ``then``."""
    count = 0

    def on_epoch(line: dict[str, float]) -> None:
        nonlocal count
        count += 1
        left = line["seconds"] / count * (max_epochs - count)
        scores = [f"loss {line['loss']:.4f}"]
        if "validation_log_loss" in line:
            scores.append(f"held-out log loss {line['validation_log_loss']:.4f}")
        print(f"epoch {count}/{max_epochs}  {'  '.join(scores)}  at most {left:.0f} s left", file=sys.stderr)
        if then is not None:
            then(line)

    return on_epoch


def _take(X: Any, keep: NDArray[np.bool_]) -> Any:
    if keep.all():
        return X
    return X.filter(keep) if hasattr(X, "column_names") else X[keep]


def _is_text(X: Any) -> bool:
    """Whether X is a list, array or Series of strings: one text a row."""
    if isinstance(X, list | tuple):
        return any(isinstance(value, str) for value in X) and all(isinstance(value, str | None) for value in X)
    if isinstance(X, np.ndarray):
        return X.ndim == 1 and (X.dtype.kind in "UT" or (X.dtype == object and len(X) > 0 and isinstance(X[0], str)))
    if hasattr(X, "columns") or getattr(X, "ndim", None) != 1 or not hasattr(X, "dtype"):
        return type(X).__module__.startswith("polars") and type(X).__name__ == "Series"
    return str(X.dtype) in ("object", "str", "string", "category") or "string" in str(X.dtype)


def _is_for_as_input(X: Any) -> bool:
    """Whether X is of a kind that scikit-learn's checks do not know: mappings, lazy frames, tensors, images."""
    if isinstance(X, Mapping) or (isinstance(X, list | tuple) and len(X) and all(isinstance(r, Mapping) for r in X)):
        return True
    if type(X).__module__.startswith("torch") or (type(X).__name__, hasattr(X, "collect")) == ("LazyFrame", True):
        return True
    if type(X).__name__ == "RecordBatch" and hasattr(X, "to_pydict"):
        return True
    return isinstance(X, np.ndarray) and X.dtype == np.uint8 and X.ndim in (3, 4)


def _is_object_rows(X: Any) -> bool:
    """Whether X is a list of rows with strings among their cells."""
    return isinstance(X, list | tuple) and any(
        isinstance(row, list | tuple) and any(isinstance(cell, str) for cell in row) for row in X
    )


def _is_object_matrix(X: Any) -> bool:
    """Whether X is an object array with strings among its cells, which is a table and not a matrix of numbers."""
    return (
        isinstance(X, np.ndarray)
        and X.ndim == 2
        and X.dtype.kind in "OUT"
        and any(isinstance(cell, str) for cell in X.flat)
    )


def _check_no_infinity(X: Any) -> None:
    data = X.data if scipy.sparse.issparse(X) else X
    if data.dtype.kind != "f" or not np.isinf(data).any():
        return
    place = "" if scipy.sparse.issparse(X) else " (row {}, column {}, from 0)".format(*np.argwhere(np.isinf(X))[0])
    raise DataError(f"Input X contains infinity{place}. Missing values are written as NaN; a number must be finite.")


def _check_lengths(n_samples: int, y: Any) -> None:
    if y is None:
        raise DataError("This SoftmaxClassifier requires y to be passed, but the target y is None")
    n_labels = _num_samples(y)
    if n_labels != n_samples:
        raise DataError(f"Found input variables with inconsistent numbers of samples: [{n_samples}, {n_labels}]")


def _checked_weights(sample_weight: ArrayLike | None, n_samples: int) -> NDArray[np.float64]:
    with _as_data_errors():
        weight = _check_sample_weight(
            sample_weight, np.empty((n_samples, 1)), dtype=np.float64, ensure_non_negative=True
        )
    if not (weight > 0).any():
        raise DataError("sample_weight: every weight is zero; at least one row needs a positive sample weight")
    return np.asarray(weight)


def _checked_groups(groups: ArrayLike, n_samples: int) -> NDArray[np.int64]:
    """Return a number for each row's group."""
    values = np.asarray(groups)
    if values.shape != (n_samples,):
        raise DataError(f"groups must have one entry for each of the {n_samples} rows. Got the shape {values.shape}")
    try:
        unique, numbers = np.unique(values, return_inverse=True)
    except TypeError:
        raise DataError("groups must be all numbers or all strings, with none missing") from None
    if unique.dtype.kind == "f" and np.isnan(unique).any():
        raise DataError("groups has NaN; every row needs a group")
    return numbers.astype(np.int64)


@contextmanager
def _as_data_errors() -> Iterator[None]:
    """Raise what scikit-learn's own checks refuse as an error of ours, in their words."""
    try:
        yield
    except SoftmaxError:
        raise
    except ValueError as error:
        raise DataError(str(error)) from None


def _checked_labels(y: Any) -> tuple[NDArray[np.int64], NDArray[Any]]:
    return encode_labels(_plain_labels(y))


def _plain_labels(y: Any) -> NDArray[Any]:
    """Return y as one column, after scikit-learn's own checks."""
    if type(y).__module__.startswith("pyarrow"):
        y = np.asarray(y)
    elif hasattr(y, "to_numpy") and not hasattr(y, "columns"):
        y = y.to_numpy()
    with _as_data_errors():
        if not isinstance(y, np.ndarray) or y.ndim != 1:
            y = column_or_1d(y, warn=True)
        if y.dtype.kind in "fc":
            if not np.isfinite(y).all():
                raise DataError("Input y contains NaN or infinity; every row needs a label")
            check_classification_targets(y)
    return np.asarray(y)
