"""What a user passes to ``fit``: kinds of X, weights of rows and classes, groups, soft targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from softmaxnet.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LabelledRows",
    "check_no_infinity",
    "checked_groups",
    "checked_target_proba",
    "class_weights",
    "is_for_as_input",
    "is_object_matrix",
    "is_object_rows",
    "is_text",
    "take",
    "tamed",
]


@dataclass(frozen=True)
class LabelledRows:
    """Rows with their labels, as the package takes them.

    Attributes
    ----------
    X : ndarray, csr_array or Arrow table
    labels : ndarray of shape (n_rows,), int64; or (n_rows, n_classes), rows of probabilities
    weight : ndarray of shape (n_rows,), float64
        Of the row times that of its class.
    groups : ndarray of shape (n_rows,), int64, optional
    class_weight : ndarray of shape (n_classes,), float64, optional
    """

    X: Any
    labels: NDArray[Any]
    weight: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None
    class_weight: NDArray[np.float64] | None = None

    def take(self, keep: NDArray[np.bool_]) -> LabelledRows:
        """Return the rows for which ``keep`` is true."""
        if keep.all():
            return self
        groups = None if self.groups is None else self.groups[keep]
        return replace(self, X=take(self.X, keep), labels=self.labels[keep], weight=self.weight[keep], groups=groups)


def take(X: Any, keep: NDArray[np.bool_]) -> Any:
    """Return the rows of X for which ``keep`` is true."""
    if keep.all():
        return X
    return X.filter(keep) if hasattr(X, "column_names") else X[keep]


# --- kinds of X that scikit-learn's checks do not know ---------------------------------------------------------


def is_text(X: Any) -> bool:
    """Whether X is a list, array or Series of strings: one text a row."""
    if isinstance(X, list | tuple):
        return any(isinstance(value, str) for value in X) and all(isinstance(value, str | None) for value in X)
    if isinstance(X, np.ndarray):
        return X.ndim == 1 and (X.dtype.kind in "UT" or (X.dtype == object and len(X) > 0 and isinstance(X[0], str)))
    if hasattr(X, "columns") or getattr(X, "ndim", None) != 1 or not hasattr(X, "dtype"):
        return type(X).__module__.startswith("polars") and type(X).__name__ == "Series"
    return str(X.dtype) in ("object", "str", "string", "category") or "string" in str(X.dtype)


def is_for_as_input(X: Any) -> bool:
    """Whether X is of a kind that scikit-learn's checks do not know: mappings, lazy frames, tensors, images."""
    if isinstance(X, Mapping) or (isinstance(X, list | tuple) and len(X) and all(isinstance(r, Mapping) for r in X)):
        return True
    if type(X).__module__.startswith("torch") or (type(X).__name__, hasattr(X, "collect")) == ("LazyFrame", True):
        return True
    if type(X).__name__ == "RecordBatch" and hasattr(X, "to_pydict"):
        return True
    return isinstance(X, np.ndarray) and X.dtype == np.uint8 and X.ndim in (3, 4)


def is_object_rows(X: Any) -> bool:
    """Whether X is a list of rows with strings among their cells."""
    return isinstance(X, list | tuple) and any(
        isinstance(row, list | tuple) and any(isinstance(cell, str) for cell in row) for row in X
    )


def is_object_matrix(X: Any) -> bool:
    """Whether X is an object array with strings among its cells, which is a table and not a matrix of numbers."""
    return (
        isinstance(X, np.ndarray)
        and X.ndim == 2
        and X.dtype.kind in "OUT"
        and any(isinstance(cell, str) for cell in X.flat)
    )


def check_no_infinity(X: Any) -> None:
    """Refuse a matrix with an infinite entry, and say where it is."""
    data = X.data if scipy.sparse.issparse(X) else X
    if data.dtype.kind != "f" or not np.isinf(data).any():
        return
    place = "" if scipy.sparse.issparse(X) else " (row {}, column {}, from 0)".format(*np.argwhere(np.isinf(X))[0])
    raise DataError(f"Input X contains infinity{place}. Missing values are written as NaN; a number must be finite.")


# --- beside X --------------------------------------------------------------------------------------------------


def checked_groups(groups: ArrayLike, n_samples: int) -> NDArray[np.int64]:
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


def checked_target_proba(target_proba: ArrayLike, n_samples: int) -> NDArray[np.float64]:
    """Return a distribution over the classes for each row, each summing to 1."""
    target = np.array(target_proba, dtype=np.float64)
    if target.ndim != 2 or target.shape[0] != n_samples or target.shape[1] < 2:
        raise DataError(
            f"target_proba must have the shape ({n_samples}, n_classes) with two or more classes. "
            f"Got {target.shape} instead"
        )
    bad = ~(np.isfinite(target).all(1) & (target >= 0).all(1) & (np.abs(target.sum(1) - 1) < 1e-4))
    if bad.any():
        raise DataError(f"target_proba: row {int(bad.argmax())} is not a distribution (sums to 1, none negative)")
    return np.asarray(target / target.sum(1, keepdims=True))


def class_weights(
    given: Mapping[Any, float] | str | None,
    classes: NDArray[Any],
    labels: NDArray[np.int64],
    weight: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return a weight for each class; "balanced" gives every class the same total, row weights counted."""
    n_classes = len(classes)
    if isinstance(given, str):
        totals = np.bincount(labels, weights=weight, minlength=n_classes)
        return np.where(totals > 0, weight.sum() / (n_classes * np.maximum(totals, 1e-300)), 0.0)
    out = np.ones(n_classes)
    known = {label: k for k, label in enumerate(classes.tolist())}
    for label, value in dict(given or {}).items():
        if label not in known:
            raise UsageError(f"class_weight names the class {label!r}, which y does not have")
        if not (isinstance(value, int | float | np.number) and np.isfinite(value) and value >= 0):
            raise UsageError(f"class_weight of {label!r} must be a finite number >= 0. Got {value!r} instead")
        out[known[label]] = value
    return tamed(out)


def tamed(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights beyond any reason, whose squares would overflow or vanish, divided by a power of two.

    Their proportions stay as they are, to the bit; the largest is then in [1, 2). Others are left alone: a weight of
    k is k copies of a row.

    Examples
    --------
    >>> tamed(np.array([1e300, 5e299])).round(4), tamed(np.array([3.0, 1.0]))
    (array([1.4932, 0.7466]), array([3., 1.]))
    """
    largest = float(weight.max(initial=0.0))
    if largest == 0 or 2.0**-60 < largest < 2.0**60:
        return weight
    return np.asarray(np.ldexp(weight, -int(np.floor(np.log2(largest)))))
