"""The maths of the output layer, on logits: probabilities, losses and their gradients, as pure functions.

Every function works on the last axis (the classes) of a NumPy array or of a torch tensor, with one text for
both: the two libraries agree on the names used here, and ``namespace`` finds out which one an array
belongs to without importing torch. ``float32`` and ``float64`` are kept, half precision is computed and
returned in ``float32``, whole numbers in ``float64``.

Two rules hold everywhere:

* *stay on logits*: the highest logit of a row is subtracted before anything is exponentiated, and the sum
  over the other classes is kept apart from the 1 that the highest one contributes, so that neither +-10,000
  nor a loss of 1e-30 is lost;
* a logit of ``-inf`` is a class with probability 0, and 0 times ``-inf`` is 0. A row that is ``-inf``
  throughout, or that holds ``+inf`` or NaN, has no distribution: its probabilities, losses and gradients are
  NaN, without a warning.

Losses are in nats (natural logarithm). See ``docs/maths.md`` for the same formulas as a walk through worked
numbers.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

from softmaxnet.errors import DataError, UsageError
from softmaxnet.logit_arguments import (
    Array,
    as_labels,
    as_numbers,
    cast_like,
    checked_labels,
    checked_logits,
    checked_smoothing,
    checked_target_proba,
    checked_unit_targets,
    checked_weight,
    namespace,
    require_in_range,
    require_same_shape,
    weight_of_labels,
    weight_of_targets,
)

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_gradient",
    "cross_entropy",
    "cross_entropy_gradient",
    "log_complement_softmax",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "one_hot",
    "per_class_cross_entropy",
    "per_class_cross_entropy_gradient",
    "sigmoid",
    "soft_cross_entropy",
    "soft_cross_entropy_gradient",
    "softmax",
    "softmax_jacobian",
    "softmax_jacobian_product",
    "squared_error",
    "squared_error_gradient",
]

Reduction: TypeAlias = Literal["mean", "sum", "none"]


# --- from logits to probabilities ---------------------------------------------------------------------------


def softmax(logits: Array) -> Array:
    """Return the probability of every class.

    ``p_j = exp(z_j) / sum_k exp(z_k)``

    Parameters
    ----------
    logits : array of shape (..., n_classes)

    Returns
    -------
    array of the same shape
        Numbers in [0, 1] whose rows sum to 1.

    Raises
    ------
    DataError
        Where there is no class axis, no class, or no number.

    References
    ----------
    Bridle (1990), "Probabilistic interpretation of feedforward classification network outputs"; Bishop, PRML,
    eq. 4.62.

    Examples
    --------
    >>> print(softmax([1.6, 3.1, 0.5]).round(8))
    [0.17198205 0.77077009 0.05724785]
    >>> print(softmax([0.0, -np.inf, 0.0]))
    [0.5 0.  0.5]
    """
    xp, logits = checked_logits(logits)
    _, _, shifted, rest = _shift(xp, logits)
    with np.errstate(all="ignore"):
        return xp.exp(shifted) / (1 + rest)


def log_softmax(logits: Array) -> Array:
    """Return the natural logarithm of every class's probability, which never underflows.

    ``ln p_j = z_j - ln sum_k exp(z_k)``

    Parameters
    ----------
    logits : array of shape (..., n_classes)

    Returns
    -------
    array of the same shape, in nats
        At most 0; ``-inf`` only where the logit is.

    References
    ----------
    Bishop, PRML, section 4.3.4; Blanchard, Higham, Higham (2021), "Accurately computing the log-sum-exp and
    softmax functions", IMA J. Numer. Anal. 41, for the sum that leaves the largest term out.

    Examples
    --------
    >>> print(log_softmax([1.6, 3.1, 0.5]).round(8))
    [-1.76036514 -0.26036514 -2.86036514]
    >>> print(log_softmax([0.0, 1000.0]))
    [-1000.     0.]
    """
    xp, logits = checked_logits(logits)
    _, _, shifted, rest = _shift(xp, logits)
    with np.errstate(all="ignore"):
        return shifted - xp.log1p(rest)


def logsumexp(logits: Array) -> Array:
    """Return ``ln sum_k exp(z_k)`` of every row, the smooth maximum that normalises the softmax.

    Parameters
    ----------
    logits : array of shape (..., n_classes)

    Returns
    -------
    array of shape (...), in nats
        ``-inf`` for a row that is ``-inf`` throughout (the logarithm of an empty sum).

    References
    ----------
    Blanchard, Higham, Higham (2021), IMA J. Numer. Anal. 41.

    Examples
    --------
    >>> round(float(logsumexp([1.6, 3.1, 0.5])), 8)
    3.36036514
    """
    xp, logits = checked_logits(logits)
    highest, _, _, rest = _shift(xp, logits)
    with np.errstate(all="ignore"):
        return xp.where(xp.isfinite(highest), highest + xp.log1p(rest), highest)[..., 0]


def log_complement_softmax(logits: Array) -> Array:
    """Return ``ln(1 - p_j)``: how likely it is that the class is another one.

    ``ln(1 - p_j) = ln sum_{k != j} exp(z_k) - ln sum_k exp(z_k)``

    For every class but the highest, ``p_j <= 1/2`` and ``log1p(-p_j)`` is accurate; for the highest one the
    sum over the others is taken on its own, so that a certainty of ``1 - exp(-1000)`` still has a complement.

    Parameters
    ----------
    logits : array of shape (..., n_classes)

    Returns
    -------
    array of the same shape, in nats

    Examples
    --------
    >>> print(log_complement_softmax([1.6, 3.1, 0.5]).round(8))
    [-0.18872045 -1.47302982 -0.05895187]
    >>> float(log_complement_softmax([0.0, 1000.0])[1])
    -1000.0
    """
    xp, logits = checked_logits(logits)
    _, top, shifted, rest = _shift(xp, logits)
    return _log_complement(xp, top, shifted, rest)


def sigmoid(logits: Array) -> Array:
    """Return ``1 / (1 + exp(-z))``, element by element: the softmax of the two logits ``z`` and 0.

    Parameters
    ----------
    logits : array of any shape

    Returns
    -------
    array of the same shape

    References
    ----------
    Bishop, PRML, eq. 4.59.

    Examples
    --------
    >>> print(sigmoid([1.6, 3.1, 0.5]).round(8))
    [0.83201839 0.95689275 0.62245933]
    """
    xp, logits = as_numbers(logits, "logits")
    with np.errstate(all="ignore"):
        small = xp.exp(-xp.abs(logits))
        return xp.where(logits < 0, small, 1.0) / (1 + small)


def log_sigmoid(logits: Array) -> Array:
    """Return ``ln sigmoid(z) = -ln(1 + exp(-z))``, element by element, in nats.

    Parameters
    ----------
    logits : array of any shape

    Returns
    -------
    array of the same shape

    Examples
    --------
    >>> log_sigmoid([-1000.0, -1.0, 0.0, 1.0]).round(8).tolist()
    [-1000.0, -1.31326169, -0.69314718, -0.31326169]
    """
    xp, logits = as_numbers(logits, "logits")
    with np.errstate(all="ignore"):
        return xp.where(logits < 0, logits, 0.0) - xp.log1p(xp.exp(-xp.abs(logits)))


def softmax_jacobian(logits: Array) -> Array:
    """Return the derivative of every probability by every logit.

    ``J_ij = d p_i / d z_j = p_i (delta_ij - p_j)``, that is ``diag(p) - p p^T``: symmetric, its rows sum to
    0.

    Parameters
    ----------
    logits : array of shape (..., n_classes)

    Returns
    -------
    array of shape (..., n_classes, n_classes)
        n_classes^2 numbers a row; :func:`softmax_jacobian_product` needs none of them.

    References
    ----------
    Bishop, PRML, eq. 4.106.

    Examples
    --------
    >>> print(softmax_jacobian([1.6, 3.1, 0.5]).round(4))
    [[ 0.1424 -0.1326 -0.0098]
     [-0.1326  0.1767 -0.0441]
     [-0.0098 -0.0441  0.054 ]]
    """
    proba = softmax(logits)
    xp = namespace(proba)
    return proba[..., :, None] * (_eye_like(xp, proba) - proba[..., None, :])


def softmax_jacobian_product(logits: Array, vector: Array) -> Array:
    """Return the Jacobian of the softmax times a vector, without building the Jacobian.

    ``(J v)_i = p_i (v_i - sum_k p_k v_k)``; as ``J`` is symmetric this is the vector-Jacobian product as
    well.

    Parameters
    ----------
    logits : array of shape (..., n_classes)
    vector : array of shape (..., n_classes)

    Returns
    -------
    array of shape (..., n_classes)

    Examples
    --------
    >>> print(softmax_jacobian_product([1.6, 3.1, 0.5], [0.0, 1.0, 0.0]).round(4))
    [-0.1326  0.1767 -0.0441]
    """
    proba = softmax(logits)
    xp = namespace(proba)
    vector = cast_like(xp, vector, proba, "vector")
    require_same_shape(vector, proba, "vector", "logits")
    return proba * (vector - xp.sum(proba * vector, axis=-1, keepdims=True))


# --- softmax with cross-entropy -----------------------------------------------------------------------------


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    sample_weight: Array | None = None,
    class_weight: Array | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Array:
    """Return the cross-entropy of integer labels, computed from the logits.

    ``loss_i = -ln p_{i,y_i} = ln sum_k exp(z_ik) - z_{i,y_i}``, and with label smoothing ``e``
    ``loss_i = -sum_k t_ik ln p_ik`` for ``t_ik = (1 - e) [k = y_i] + e / n_classes``.

    The weight of a row is ``w_i = sample_weight_i * class_weight[y_i]``: a class weight counts a *row* more
    often, smoothing or not. (``torch.nn.functional.cross_entropy`` weighs each smoothed term by the weight of
    its own class instead; without smoothing the two agree.) The mean is ``sum_i w_i loss_i / sum_i w_i``, the
    sum is ``sum_i w_i loss_i`` and "none" gives ``w_i loss_i``. A row of weight 0 adds 0, whatever its loss.

    Parameters
    ----------
    logits : array of shape (..., n_classes)
    labels : integer array of shape (...), values in 0..n_classes-1
    sample_weight : array of shape (...), optional, at least 0
    class_weight : array of shape (n_classes,), optional, at least 0
    label_smoothing : float in [0, 1]
    reduction : "mean", "sum" or "none"

    Returns
    -------
    array of shape () or, for "none", (...), in nats

    Raises
    ------
    DataError
        A label out of range (with its row), shapes that differ, weights that are negative, not finite or all
        0.
    UsageError
        A smoothing or a reduction that does not exist.

    References
    ----------
    Bishop, PRML, eq. 4.108; Szegedy et al. (2016), arXiv:1512.00567, section 7, for the smoothing.

    Examples
    --------
    >>> round(float(cross_entropy([[1.6, 3.1, 0.5]], [1])), 8)
    0.26036514
    >>> votes = np.log([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    >>> print(cross_entropy(votes, [2, 1, 0], reduction="none").round(8))
    [0.91629073 0.91629073 2.30258509]
    >>> round(float(cross_entropy(votes, [2, 1, 0])), 7)
    1.3783889
    """
    xp, logits = checked_logits(logits)
    labels = checked_labels(xp, labels, logits)
    smoothing = checked_smoothing(label_smoothing)
    weight = checked_weight(xp, logits, sample_weight, weight_of_labels(xp, logits, labels, class_weight))
    _, _, shifted, rest = _shift(xp, logits)
    with np.errstate(all="ignore"):
        log_sum = xp.log1p(rest)[..., 0]
        loss = log_sum - _at(xp, shifted, labels)
        if smoothing:
            loss = (1 - smoothing) * loss + smoothing * (log_sum - xp.mean(shifted, axis=-1))
    return _reduce(xp, loss, weight, reduction)


def cross_entropy_gradient(
    logits: Array,
    labels: Array,
    *,
    sample_weight: Array | None = None,
    class_weight: Array | None = None,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Array:
    """Return the gradient of :func:`cross_entropy` at the logits: prediction minus target.

    ``d loss / d z_ik = w_i (p_ik - t_ik) / W`` with ``W = sum_i w_i`` for the mean and 1 for the sum, and
    ``t_ik = (1 - e) [k = y_i] + e / n_classes``.

    Parameters, errors and references are those of :func:`cross_entropy`.

    Returns
    -------
    array of the shape of ``logits``
        Every row sums to 0.

    Examples
    --------
    >>> print(cross_entropy_gradient([[1.6, 3.1, 0.5]], [1]).round(8))
    [[ 0.17198205 -0.22922991  0.05724785]]
    """
    xp, logits = checked_logits(logits)
    labels = checked_labels(xp, labels, logits)
    smoothing = checked_smoothing(label_smoothing)
    weight = checked_weight(xp, logits, sample_weight, weight_of_labels(xp, logits, labels, class_weight))
    error = _subtract_at(xp, softmax(logits), labels, 1 - smoothing)
    if smoothing:
        error = error - smoothing / logits.shape[-1]
    return _scale_rows(xp, error, weight, reduction)


def soft_cross_entropy(
    logits: Array,
    target_proba: Array,
    *,
    sample_weight: Array | None = None,
    class_weight: Array | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Array:
    """Return the cross-entropy of target probabilities (one-hot or soft), computed from the logits.

    ``loss_i = -sum_k t_ik ln p_ik``, where a term with ``t_ik = 0`` is 0 even if ``ln p_ik`` is ``-inf``.
    Smoothing replaces ``t_ik`` by ``(1 - e) t_ik + e / n_classes``.

    The weight of a row is ``w_i = sample_weight_i * sum_k t_ik class_weight_k`` with the unsmoothed targets,
    so that a one-hot row weighs exactly what :func:`cross_entropy` gives it. The entropy of the targets is
    not subtracted: the loss of a perfect prediction is that entropy, not 0.

    Parameters
    ----------
    logits : array of shape (..., n_classes)
    target_proba : array of the same shape
        At least 0; every row sums to 1 (within 1e-4).
    sample_weight, class_weight, label_smoothing, reduction :
        As in :func:`cross_entropy`.

    Returns
    -------
    array of shape () or, for "none", (...), in nats

    Raises
    ------
    DataError
        Shapes that differ, or a row of targets that is no distribution (with its number).

    References
    ----------
    Bishop, PRML, eq. 4.108.

    Examples
    --------
    >>> round(float(soft_cross_entropy([[1.6, 3.1, 0.5]], [[0.0, 1.0, 0.0]])), 8)
    0.26036514
    >>> round(float(soft_cross_entropy([[1.6, 3.1, 0.5]], [[0.2, 0.7, 0.1]])), 8)
    0.82036514
    """
    xp, logits = checked_logits(logits)
    target = checked_target_proba(xp, target_proba, logits)
    smoothing = checked_smoothing(label_smoothing)
    weight = checked_weight(xp, logits, sample_weight, weight_of_targets(xp, logits, target, class_weight))
    if smoothing:
        target = (1 - smoothing) * target + smoothing / logits.shape[-1]
    loss = -xp.sum(_zero_times(xp, target, log_softmax(logits)), axis=-1)
    return _reduce(xp, loss, weight, reduction)


def soft_cross_entropy_gradient(
    logits: Array,
    target_proba: Array,
    *,
    sample_weight: Array | None = None,
    class_weight: Array | None = None,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Array:
    """Return the gradient of :func:`soft_cross_entropy` at the logits: ``w_i (p_ik - t_ik) / W``.

    Parameters, errors and references are those of :func:`soft_cross_entropy`.

    Returns
    -------
    array of the shape of ``logits``

    Examples
    --------
    >>> print(soft_cross_entropy_gradient([[1.6, 3.1, 0.5]], [[0.2, 0.7, 0.1]]).round(8))
    [[-0.02801795  0.07077009 -0.04275215]]
    """
    xp, logits = checked_logits(logits)
    target = checked_target_proba(xp, target_proba, logits)
    smoothing = checked_smoothing(label_smoothing)
    weight = checked_weight(xp, logits, sample_weight, weight_of_targets(xp, logits, target, class_weight))
    if smoothing:
        target = (1 - smoothing) * target + smoothing / logits.shape[-1]
    return _scale_rows(xp, softmax(logits) - target, weight, reduction)


# --- the other pairs of output and loss ---------------------------------------------------------------------


def per_class_cross_entropy(
    logits: Array, labels: Array, *, sample_weight: Array | None = None, reduction: Reduction = "mean"
) -> Array:
    """Return the per-class binary form of the cross-entropy of a softmax.

    ``C_i = -(1 / n_classes) sum_k [y_ik ln p_ik + (1 - y_ik) ln(1 - p_ik)]``

    This is *not* ``-ln p_{i,y_i}``, although the two are often written as if they were the same: for more
    than two classes the terms ``ln(1 - p_ik)`` of the other classes do not vanish. For two classes ``C_i =
    -ln p_{i,y_i}``. It is a proper loss as well, but its gradient is not prediction minus target.

    Parameters
    ----------
    logits : array of shape (..., n_classes)
    labels : integer array of shape (...), values in 0..n_classes-1
    sample_weight : array of shape (...), optional
    reduction : "mean", "sum" or "none"

    Returns
    -------
    array of shape () or, for "none", (...), in nats

    Raises
    ------
    DataError
        As :func:`cross_entropy`.

    Examples
    --------
    >>> round(float(per_class_cross_entropy([[1.6, 3.1, 0.5]], [1])), 8)
    0.16934582
    >>> round(float(cross_entropy([[1.6, 3.1, 0.5]], [1])), 8)
    0.26036514
    """
    xp, logits = checked_logits(logits)
    labels = checked_labels(xp, labels, logits)
    weight = checked_weight(xp, logits, sample_weight, None)
    _, top, shifted, rest = _shift(xp, logits)
    with np.errstate(all="ignore"):
        log_proba_of_label = _at(xp, shifted - xp.log1p(rest), labels)
        others = _replace_at(xp, _log_complement(xp, top, shifted, rest), labels[..., None], 0.0)
        loss = -(log_proba_of_label + xp.sum(others, axis=-1)) / logits.shape[-1]
    return _reduce(xp, loss, weight, reduction)


def per_class_cross_entropy_gradient(
    logits: Array,
    labels: Array,
    *,
    sample_weight: Array | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Array:
    """Return the gradient of :func:`per_class_cross_entropy` at the logits.

    ``d C_i / d z_ij = (1 / n_classes) [p_ij - y_ij + sum_{k != y_i} (p_ik / (1 - p_ik)) (delta_jk - p_ij)]``

    The odds ``p_k / (1 - p_k)`` of a class that is almost certain, and wrong, overflow; its term is therefore
    taken as ``p_k`` for ``j = k`` and ``-p_k (p_j / (1 - p_k))`` for the others, a fraction of at most 1.

    Parameters and errors are those of :func:`per_class_cross_entropy`.

    Returns
    -------
    array of the shape of ``logits``
        Every row sums to 0.

    Examples
    --------
    >>> print(per_class_cross_entropy_gradient([[1.6, 3.1, 0.5]], [1]).round(8))
    [[ 0.11117355 -0.14537526  0.03420171]]
    """
    xp, logits = checked_logits(logits)
    labels = checked_labels(xp, labels, logits)
    weight = checked_weight(xp, logits, sample_weight, None)
    _, top, shifted, rest = _shift(xp, logits)
    with np.errstate(all="ignore"):
        log_proba = shifted - xp.log1p(rest)
        proba = xp.exp(shifted) / (1 + rest)
        log_complement = _log_complement(xp, top, shifted, rest)
        odds = xp.exp(log_proba - log_complement)
        odds = _replace_at(xp, _replace_at(xp, odds, top, 0.0), labels[..., None], 0.0)
        gradient = _subtract_at(xp, proba, labels, 1.0)
        gradient = gradient + odds - proba * xp.sum(odds, axis=-1, keepdims=True)
        # the highest class, where it is not the label
        proba_top = _take(xp, proba, top)
        share = xp.exp(log_proba - _take(xp, log_complement, top))
        share = xp.where(log_proba == -np.inf, 0.0, share)
        term = _replace_at(xp, -proba_top * share, top, proba_top)
        gradient = gradient + xp.where(top == labels[..., None], 0.0, term)
    return _scale_rows(xp, gradient / logits.shape[-1], weight, reduction)


def binary_cross_entropy(
    logits: Array, targets: Array, *, sample_weight: Array | None = None, reduction: Reduction = "mean"
) -> Array:
    """Return the binary cross-entropy of independent sigmoid outputs, summed over the classes of a row.

    ``loss_i = -sum_k [t_ik ln s(z_ik) + (1 - t_ik) ln s(-z_ik)]`` with ``s`` the sigmoid

    Parameters
    ----------
    logits : array of shape (..., n_classes)
    targets : array of the same shape, values in [0, 1] (see :func:`one_hot` for labels)
    sample_weight : array of shape (...), optional
    reduction : "mean" (over rows, divided by the sum of the weights), "sum" or "none"

    Returns
    -------
    array of shape () or, for "none", (...), in nats

    Raises
    ------
    DataError
        Targets of another shape or outside [0, 1] (with their row), and bad weights.

    References
    ----------
    Bishop, PRML, eq. 4.90.

    Examples
    --------
    >>> round(float(binary_cross_entropy([[1.6, 3.1, 0.5]], [[0.0, 1.0, 0.0]])), 8)
    2.80204169
    """
    xp, logits = checked_logits(logits)
    targets = checked_unit_targets(xp, targets, logits)
    weight = checked_weight(xp, logits, sample_weight, None)
    positive = _zero_times(xp, targets, log_sigmoid(logits))
    negative = _zero_times(xp, 1 - targets, log_sigmoid(-logits))
    return _reduce(xp, -xp.sum(positive + negative, axis=-1), weight, reduction)


def binary_cross_entropy_gradient(
    logits: Array,
    targets: Array,
    *,
    sample_weight: Array | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Array:
    """Return the gradient of :func:`binary_cross_entropy` at the logits: ``w_i (s(z_ik) - t_ik) / W``.

    Examples
    --------
    >>> print(binary_cross_entropy_gradient([[1.6, 3.1, 0.5]], [[0.0, 1.0, 0.0]]).round(8))
    [[ 0.83201839 -0.04310725  0.62245933]]
    """
    xp, logits = checked_logits(logits)
    targets = checked_unit_targets(xp, targets, logits)
    weight = checked_weight(xp, logits, sample_weight, None)
    return _scale_rows(xp, sigmoid(logits) - targets, weight, reduction)


def squared_error(
    logits: Array, targets: Array, *, sample_weight: Array | None = None, reduction: Reduction = "mean"
) -> Array:
    """Return half the squared error of the logits taken as they are, summed over the outputs of a row.

    ``loss_i = 1/2 sum_k (z_ik - t_ik)^2``: the half is there so that the gradient is ``z - t``.

    Parameters
    ----------
    logits : array of shape (..., n_outputs)
    targets : array of the same shape
    sample_weight : array of shape (...), optional
    reduction : "mean" (over rows, divided by the sum of the weights), "sum" or "none"

    Returns
    -------
    array of shape () or, for "none", (...), in squared units of the targets

    References
    ----------
    Bishop, PRML, eq. 3.12.

    Examples
    --------
    >>> round(float(squared_error([[1.6, 3.1, 0.5]], [[0.0, 1.0, 0.0]])), 8)
    3.61
    """
    xp, logits = checked_logits(logits)
    targets = cast_like(xp, targets, logits, "targets")
    require_same_shape(targets, logits, "targets", "logits")
    weight = checked_weight(xp, logits, sample_weight, None)
    return _reduce(xp, 0.5 * xp.sum((logits - targets) ** 2, axis=-1), weight, reduction)


def squared_error_gradient(
    logits: Array,
    targets: Array,
    *,
    sample_weight: Array | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Array:
    """Return the gradient of :func:`squared_error` at the logits: ``w_i (z_ik - t_ik) / W``.

    Examples
    --------
    >>> print(squared_error_gradient([[1.6, 3.1, 0.5]], [[0.0, 1.0, 0.0]]).round(8))
    [[1.6 2.1 0.5]]
    """
    xp, logits = checked_logits(logits)
    targets = cast_like(xp, targets, logits, "targets")
    require_same_shape(targets, logits, "targets", "logits")
    weight = checked_weight(xp, logits, sample_weight, None)
    return _scale_rows(xp, logits - targets, weight, reduction)


def one_hot(labels: Array, n_classes: int, *, like: Array | None = None) -> Array:
    """Return labels as rows of 0 and 1, for the losses above that take targets.

    Parameters
    ----------
    labels : integer array of shape (...), values in 0..n_classes-1
    n_classes : int
    like : array, optional
        Its library, dtype and device are taken; NumPy float64 by default.

    Returns
    -------
    array of shape (..., n_classes)

    Examples
    --------
    >>> print(one_hot([2, 0], 3))
    [[0. 0. 1.]
     [1. 0. 0.]]
    """
    xp, like = as_numbers(np.zeros(()) if like is None else like, "like")
    labels = as_labels(xp, labels, like)
    eye = _eye_like(xp, like, n_classes)
    require_in_range(labels, n_classes)
    return eye[labels]


# --- sums over rows ----------------------------------------------------------------------------------------


def _reduce(xp: Any, loss: Array, weight: Array | None, reduction: str) -> Array:
    if reduction not in ("mean", "sum", "none"):
        raise UsageError(f"reduction must be 'mean', 'sum' or 'none'. Got {reduction!r} instead")
    if weight is not None:
        loss = _zero_times(xp, weight, loss)
    if reduction == "none":
        return loss
    if reduction == "sum":
        return xp.sum(loss)
    if 0 in loss.shape:
        raise DataError("there are no rows to take the mean of")
    return xp.mean(loss) if weight is None else xp.sum(loss) / xp.sum(weight)


def _scale_rows(xp: Any, error: Array, weight: Array | None, reduction: str) -> Array:
    """Return the rows of prediction minus target, times their weights, over the sum of these for the mean."""
    if reduction not in ("mean", "sum"):
        raise UsageError(f"reduction must be 'mean' or 'sum'. Got {reduction!r} instead")
    if reduction == "mean" and 0 in error.shape:
        raise DataError("there are no rows to take the mean of")
    if weight is None:
        n_rows = int(np.prod(error.shape[:-1]))
        return error / n_rows if reduction == "mean" else error
    if reduction == "mean":
        weight = weight / xp.sum(weight)
    return _zero_times(xp, weight[..., None], error)


# --- arithmetic that both libraries spell differently, or get wrong at the edges ----------------------------


def _shift(xp: Any, logits: Array) -> tuple[Array, Array, Array, Array]:
    """Return the highest logit, where it is, the logits less it, and the sum of exp over the other classes.

    ``sum_k exp(z_k) = exp(highest) (1 + rest)``. Where the highest logit is not finite, ``rest`` is NaN: that
    is what makes the whole row NaN.
    """
    with np.errstate(all="ignore"):
        top = xp.argmax(logits, axis=-1, keepdims=True)
        highest = _take(xp, logits, top)
        shifted = logits - highest
        rest = xp.sum(_replace_at(xp, xp.exp(shifted), top, 0.0), axis=-1, keepdims=True)
        return highest, top, shifted, rest + (highest - highest)


def _log_complement(xp: Any, top: Array, shifted: Array, rest: Array) -> Array:
    """Return ``ln(1 - p)`` from the parts of :func:`_shift`."""
    with np.errstate(all="ignore"):
        log_complement = xp.log1p(-xp.exp(shifted) / (1 + rest))
        of_top = logsumexp(_replace_at(xp, shifted, top, -np.inf))[..., None] - xp.log1p(rest)
        return _replace_at(xp, log_complement, top, of_top)


def _take(xp: Any, x: Array, index: Array) -> Array:
    return np.take_along_axis(x, index, axis=-1) if xp is np else xp.take_along_dim(x, index, dim=-1)


def _at(xp: Any, x: Array, labels: Array) -> Array:
    return _take(xp, x, labels[..., None])[..., 0]


def _replace_at(xp: Any, x: Array, index: Array, value: Array | float) -> Array:
    """Return a copy of ``x`` with one entry a row, at ``index`` of shape (..., 1), replaced."""
    if xp is np:
        x = np.array(x)
        np.put_along_axis(x, index, value, axis=-1)
        return x
    return x.scatter(-1, index, value)


def _subtract_at(xp: Any, x: Array, labels: Array, value: float) -> Array:
    return _replace_at(xp, x, labels[..., None], _take(xp, x, labels[..., None]) - value)


def _zero_times(xp: Any, factor: Array, x: Array) -> Array:
    """Return ``factor * x``, with 0 times infinity or NaN being 0."""
    with np.errstate(all="ignore"):
        return xp.where(factor == 0, xp.zeros_like(x), factor * x)


def _eye_like(xp: Any, like: Array, n: int | None = None) -> Array:
    n = int(like.shape[-1]) if n is None else n
    return np.eye(n, dtype=like.dtype) if xp is np else xp.eye(n, dtype=like.dtype, device=like.device)
