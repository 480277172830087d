"""A classifier that has a model: scikit-learn's checks of what comes in, its methods of prediction, and ours.

::

    X --scikit-learn's checks--> as_input --SoftmaxModel--> logits, probabilities, classes, sets, decisions
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from softmaxnet.data.frames import as_input
from softmaxnet.errors import DataError, SoftmaxError
from softmaxnet.features.matrix import are_surely_finite
from softmaxnet.inputs import check_no_infinity, is_for_as_input, is_object_matrix, is_object_rows, is_text
from softmaxnet.model import SoftmaxModel
from softmaxnet.model_file import save_model

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import NDArray

__all__ = ["NotTrainedError", "Predictor", "as_data_errors", "plain_labels"]


class NotTrainedError(SoftmaxError, NotFittedError):  # type: ignore[misc]
    """A method that needs a fitted model was called before ``fit``."""

    exit_code = 2
    http_status = 400


class Predictor(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What a fitted classifier does with new rows; ``model_`` does the work.

    Attributes
    ----------
    model_ : SoftmaxModel
    classes_ : ndarray of shape (n_classes,)
    """

    model_: SoftmaxModel
    classes_: NDArray[Any]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        return tags

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

    def decide(
        self, X: Any, costs: Any, decisions: Sequence[Any] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return for each row the decision with the lowest expected cost, and that cost.

        Parameters
        ----------
        X : as in :meth:`predict_proba`
        costs : array-like of shape (n_classes, n_decisions), mapping or data frame
            What each decision costs for each true class, in the order of ``classes_``, or by name:
            ``{true class: {decision: cost}}``. With one column more than classes, the last one is to abstain.
        decisions : sequence, optional
            What the columns of an array stand for, where they are not the classes.
        """
        return self._fitted_model.decide(self._checked_input(X, reset=False)[0], costs, decisions)

    def save(self, path: Any, *, force: bool = True) -> None:
        """Write ``model_`` to one data-only safetensors file, atomically.

        Parameters
        ----------
        path : str or path
        force : bool, default=True
            Replace a file that is there.
        """
        save_model(self._fitted_model, path, force=force)

    def calibrate_sets(self, X: Any, y: Any, *, method: str = "lac", per_class: bool = False) -> Self:
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
            self._checked_input(X, reset=False)[0], plain_labels(y), method=method, per_class=per_class
        )
        return self

    @property
    def _fitted_model(self) -> SoftmaxModel:
        if not hasattr(self, "model_"):
            raise NotTrainedError(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before "
                "using this estimator."
            )
        model: SoftmaxModel = self.model_
        return model

    def _checked_input(self, X: Any, *, reset: bool) -> tuple[Any, int]:
        """Return X as the package takes it, after scikit-learn's own checks of names, shape and type."""
        if not reset and self._is_plain_matrix(X):
            return X, X.shape[0]
        with as_data_errors():
            if is_for_as_input(X) or is_text(X):
                X = as_input(X)
            elif is_object_rows(X):
                X = np.array(X, dtype=object)
            if hasattr(X, "columns") or is_object_matrix(X):  # a frame or an Arrow table has columns
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
            check_no_infinity(X)
            return as_input(X), X.shape[0]

    def _is_plain_matrix(self, X: Any) -> bool:
        """Whether X is a float matrix with nothing that those checks could find: they take longer than a prediction."""
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype.char in "fd"
            and X.shape[0] > 0
            and X.shape[1] == getattr(self, "n_features_in_", -1)
            and X.flags.c_contiguous
            and not hasattr(self, "feature_names_in_")
            and are_surely_finite(X)
        )


@contextmanager
def as_data_errors() -> Iterator[None]:
    """Raise what scikit-learn's own checks refuse as an error of ours, in their words."""
    try:
        yield
    except SoftmaxError:
        raise
    except ValueError as error:
        raise DataError(str(error)) from None


def plain_labels(y: Any) -> NDArray[Any]:
    """Return y as one column, after scikit-learn's own checks."""
    if type(y).__module__.startswith("pyarrow"):
        y = np.asarray(y)
    elif hasattr(y, "to_numpy") and not hasattr(y, "columns"):
        y = y.to_numpy()
    with as_data_errors():
        if not isinstance(y, np.ndarray) or y.ndim != 1:
            y = column_or_1d(y, warn=True)
        if y.dtype.kind in "fc":
            if not np.isfinite(y).all():
                raise DataError("Input y contains NaN or infinity; every row needs a label")
            check_classification_targets(y)
    return np.asarray(y)
