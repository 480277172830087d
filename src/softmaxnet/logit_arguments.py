"""What the functions of the output layer are given: arrays of NumPy or tensors of torch, checked and made alike."""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np

from softmaxnet.errors import DataError, UsageError

__all__ = [
    "Array",
    "as_labels",
    "as_numbers",
    "cast_like",
    "checked_class_weight",
    "checked_labels",
    "checked_logits",
    "checked_smoothing",
    "checked_target_proba",
    "checked_unit_targets",
    "checked_weight",
    "first_row",
    "namespace",
    "require_in_range",
    "require_same_shape",
    "require_weights",
    "to_numpy",
    "weight_of_labels",
    "weight_of_targets",
]

Array: TypeAlias = Any
"""A ``numpy.ndarray`` or a ``torch.Tensor``."""

TARGET_SUM_TOLERANCE = 1e-4  # float32 rows of a million classes still sum to 1 within this


def namespace(x: Array) -> Any:
    """Return the module whose functions take ``x``: torch (loaded, as ``x`` is a tensor) or numpy."""
    return sys.modules["torch"] if type(x).__module__.partition(".")[0] == "torch" else np


def as_numbers(x: Array, name: str) -> tuple[Any, Array]:
    """Return the namespace and ``x`` as float32 or float64."""
    xp = namespace(x)
    if xp is np:
        x = np.asarray(x)
        if x.dtype.kind not in "fiub":
            raise DataError(f"{name} must be numbers, but are of dtype {x.dtype}")
        if x.dtype in (np.float32, np.float64):
            return xp, x
        return xp, x.astype(np.float32 if x.dtype == np.float16 else np.float64)
    if x.is_complex():
        raise DataError(f"{name} must be real numbers, but are of dtype {x.dtype}")
    if x.dtype in (xp.float32, xp.float64):
        return xp, x
    return xp, x.to(xp.float32 if x.is_floating_point() else xp.float64)


def checked_logits(logits: Array) -> tuple[Any, Array]:
    """Return the namespace and the logits as float32 or float64, of at least one class."""
    xp, logits = as_numbers(logits, "logits")
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise DataError(
            f"logits need a last axis with at least one class, but have shape {tuple(logits.shape)}"
        )
    return xp, logits


def cast_like(xp: Any, x: Array, like: Array, name: str) -> Array:
    """Return ``x`` in the library, dtype and device of ``like``."""
    if xp is np:
        _, x = as_numbers(to_numpy(x), name)
        return x.astype(like.dtype, copy=False)
    if namespace(x) is np:
        x = np.asarray(x)
        if x.dtype.kind not in "fiub":
            raise DataError(f"{name} must be numbers, but are of dtype {x.dtype}")
    return xp.as_tensor(x, dtype=like.dtype, device=like.device)


def to_numpy(x: Array) -> Array:
    """Return the array as one of NumPy."""
    return x if namespace(x) is np else x.detach().cpu().numpy()


def require_same_shape(x: Array, reference: Array, name: str, reference_name: str) -> None:
    """Raise where two arrays differ in shape."""
    if tuple(x.shape) != tuple(reference.shape):
        raise DataError(
            f"{name} have shape {tuple(x.shape)}, but must have the shape {tuple(reference.shape)} "
            f"of {reference_name}"
        )


def as_labels(xp: Any, labels: Array, like: Array) -> Array:
    """Return labels as int64 in the library and on the device of ``like``."""
    if xp is np:
        labels = np.asarray(to_numpy(labels))
        if labels.dtype.kind not in "iub" and labels.size:
            raise DataError(f"labels must be whole numbers from 0, but are of dtype {labels.dtype}")
        return labels.astype(np.int64, copy=False)
    labels = xp.as_tensor(labels if namespace(labels) is xp else np.asarray(labels), device=like.device)
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"labels must be whole numbers from 0, but are of dtype {labels.dtype}")
    return labels.to(xp.int64)


def checked_labels(xp: Any, labels: Array, logits: Array) -> Array:
    """Return labels as int64 beside the logits, one a row, in 0..n_classes-1."""
    labels = as_labels(xp, labels, logits)
    if tuple(labels.shape) != tuple(logits.shape[:-1]):
        raise DataError(
            f"labels have shape {tuple(labels.shape)}, but logits of shape {tuple(logits.shape)} "
            f"need labels of shape {tuple(logits.shape[:-1])}"
        )
    require_in_range(labels, int(logits.shape[-1]))
    return labels


def require_in_range(labels: Array, n_classes: int) -> None:
    """Raise for a label beyond the classes, naming its row."""
    if 0 in labels.shape or (int(labels.min()) >= 0 and int(labels.max()) < n_classes):
        return
    flat = to_numpy(labels).reshape(-1)
    row = int(np.flatnonzero((flat < 0) | (flat >= n_classes))[0])
    raise DataError(f"row {row}: label {int(flat[row])} is not one of the classes 0..{n_classes - 1}")


def checked_smoothing(label_smoothing: float) -> float:
    """Return the share of a target that is spread over all classes, in [0, 1]."""
    if not 0.0 <= label_smoothing <= 1.0:
        raise UsageError(f"label_smoothing must be a number in [0, 1]. Got {label_smoothing!r} instead")
    return float(label_smoothing)


def first_row(bad: Array) -> int:
    """Return the number of the first row that is bad, of a boolean array whose rows are its last axis."""
    flat = to_numpy(bad)
    return int(np.flatnonzero(flat.reshape(-1, flat.shape[-1]).any(axis=-1))[0])


def checked_target_proba(xp: Any, target_proba: Array, logits: Array) -> Array:
    """Return rows of probabilities beside the logits, each of which sums to 1."""
    target = checked_unit_targets(xp, target_proba, logits, "target_proba")
    error = xp.abs(xp.sum(target, axis=-1) - 1)
    if error.shape and 0 in error.shape:
        return target
    if float(error.max()) > TARGET_SUM_TOLERANCE:
        row = first_row((error > TARGET_SUM_TOLERANCE).reshape(-1, 1))
        total = float(to_numpy(xp.sum(target, axis=-1)).reshape(-1)[row])
        raise DataError(f"row {row}: the target probabilities sum to {total:.6g}, but must sum to 1")
    return target


def checked_unit_targets(xp: Any, targets: Array, logits: Array, name: str = "targets") -> Array:
    """Return targets in [0, 1] beside the logits."""
    targets = cast_like(xp, targets, logits, name)
    require_same_shape(targets, logits, name, "logits")
    if 0 in targets.shape:
        return targets
    if not (float(targets.min()) >= 0.0 and float(targets.max()) <= 1.0 + TARGET_SUM_TOLERANCE):
        bad = ~((targets >= 0.0) & (targets <= 1.0 + TARGET_SUM_TOLERANCE))
        raise DataError(f"row {first_row(bad)}: {name} must lie in [0, 1]")
    return targets


# --- weights ------------------------------------------------------------------------------------------------


def checked_class_weight(xp: Any, logits: Array, class_weight: Array) -> Array:
    """Return the weight of each class."""
    class_weight = cast_like(xp, class_weight, logits, "class_weight")
    if tuple(class_weight.shape) != (logits.shape[-1],):
        raise DataError(
            f"class_weight has shape {tuple(class_weight.shape)}, but must hold one weight for each of the "
            f"{logits.shape[-1]} classes"
        )
    require_weights(xp, class_weight, "class_weight", "class")
    return class_weight


def weight_of_labels(xp: Any, logits: Array, labels: Array, class_weight: Array | None) -> Array | None:
    """Return the weight that its label gives each row; None for none."""
    return None if class_weight is None else checked_class_weight(xp, logits, class_weight)[labels]


def weight_of_targets(xp: Any, logits: Array, target: Array, class_weight: Array | None) -> Array | None:
    """Return the mean weight of the classes of each row's target; None for none."""
    return None if class_weight is None else target @ checked_class_weight(xp, logits, class_weight)


def checked_weight(
    xp: Any, logits: Array, sample_weight: Array | None, from_classes: Array | None
) -> Array | None:
    """Return the weight of every row, or None where all are 1."""
    weight = from_classes
    if sample_weight is not None:
        sample_weight = cast_like(xp, sample_weight, logits, "sample_weight")
        if tuple(sample_weight.shape) != tuple(logits.shape[:-1]):
            raise DataError(
                f"sample_weight has shape {tuple(sample_weight.shape)}, but logits of shape "
                f"{tuple(logits.shape)} need weights of shape {tuple(logits.shape[:-1])}"
            )
        require_weights(xp, sample_weight, "sample_weight", "row")
        weight = sample_weight if weight is None else weight * sample_weight
    if weight is not None and 0 not in weight.shape and not float(weight.max()) > 0.0:
        raise DataError("the weights of all rows are 0; at least one must be positive")
    return weight


def require_weights(xp: Any, weight: Array, name: str, unit: str) -> None:
    """Raise for a weight that is negative or not finite, naming its place."""
    if 0 in weight.shape:
        return
    if not (float(weight.min()) >= 0.0 and float(weight.max()) < float("inf")):
        flat = to_numpy(weight).reshape(-1)
        position = int(np.flatnonzero(~((flat >= 0) & np.isfinite(flat)))[0])
        raise DataError(
            f"{unit} {position}: {name} is {flat[position]:g}, but weights must be finite and not negative"
        )


