"""Which rows are held out: by class, by group, and never the only row of a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["stratified_folds", "stratified_halves", "stratified_holdout"]

Ints = NDArray[np.int64]


def stratified_folds(
    labels: Ints, n_folds: int, seed: int, groups: NDArray[np.generic] | None = None
) -> Ints:
    """Return the fold of each row: folds of equal size in which every class is as evenly spread as it can be.

    Parameters
    ----------
    labels : ndarray of shape (n_rows,), int64
    n_folds : int
    seed : int
    groups : ndarray of shape (n_rows,), optional
        Rows of one group share a fold; classes are then only as even as the groups allow.

    Returns
    -------
    ndarray of shape (n_rows,), int64
        In 0..n_folds-1; -1 for the only row (or group) of a class, which no model may do without.

    Examples
    --------
    >>> folds = stratified_folds(np.array([0, 0, 0, 0, 1, 1, 2]), 2, seed=0)
    >>> [sorted(folds[:4].tolist()), sorted(folds[4:6].tolist()), folds[6].item()]
    [[0, 0, 1, 1], [0, 1], -1]
    """
    unit, rank = _dealing_ranks(labels, seed, groups)
    folds = (rank % n_folds)[unit]
    folds[_is_in_lonely_unit(labels, unit)] = -1
    if groups is not None:  # all groups of a class may have met in one fold
        for fold in range(n_folds):
            held_out = folds == fold
            _return_whole_classes(held_out, labels, groups)
            folds[(folds == fold) & ~held_out] = -1
    return folds


def stratified_halves(
    labels: Ints, n_folds: int, seed: int, groups: NDArray[np.generic] | None = None
) -> Ints:
    """Return the half, 0 or 1, of its fold by :func:`stratified_folds` that each row is in, groups whole.

    Examples
    --------
    >>> labels = np.repeat([0, 1], 8)
    >>> folds, halves = stratified_folds(labels, 2, seed=0), stratified_halves(labels, 2, seed=0)
    >>> np.bincount(4 * labels + 2 * folds + halves).tolist()
    [2, 2, 2, 2, 2, 2, 2, 2]
    """
    unit, rank = _dealing_ranks(labels, seed, groups)
    return np.asarray((rank // n_folds % 2)[unit])


def _dealing_ranks(labels: Ints, seed: int, groups: NDArray[np.generic] | None) -> tuple[Ints, Ints]:
    """Return the unit that each row belongs to (itself, or its group) and each unit's place in the dealing.

    Units are dealt like cards, class after class, in random order within each.
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, 2]))
    unit = np.arange(len(labels))
    if groups is not None:
        unit = np.unique(groups, return_inverse=True)[1]
        # A group is dealt by the class of its first row; groups, not rows, are what can move.
        first = np.full(int(unit.max()) + 1, len(labels))
        np.minimum.at(first, unit, np.arange(len(labels)))
        labels = labels[first]
    shuffled = generator.permutation(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)
    rank[shuffled[np.argsort(labels[shuffled], kind="stable")]] = np.arange(len(labels))
    return unit, rank


def _is_in_lonely_unit(labels: Ints, unit: Ints) -> NDArray[np.bool_]:
    """Whether a row is of a unit that is the only one of some class."""
    if len(unit) == int(unit.max()) + 1:  # every row is a unit
        return np.asarray(np.bincount(labels)[labels] == 1)
    n_units = int(unit.max()) + 1
    classes, units = np.divmod(np.unique(labels * n_units + unit), n_units)
    lonely = np.zeros(n_units, dtype=np.bool_)
    lonely[units[np.bincount(classes)[classes] == 1]] = True
    return lonely[unit]


def stratified_holdout(
    labels: Ints, fraction: float, seed: int, groups: NDArray[np.generic] | None = None
) -> NDArray[np.bool_]:
    """Return which rows are held out: ``fraction`` of them, of each class its share, of no class all rows.

    Parameters
    ----------
    labels : ndarray of shape (n_rows,), int64
    fraction : float in (0, 1)
    seed : int
    groups : ndarray of shape (n_rows,), optional

    Returns
    -------
    ndarray of shape (n_rows,), bool

    Examples
    --------
    >>> held_out = stratified_holdout(np.repeat([0, 1], 50), 0.1, seed=0)
    >>> int(held_out[:50].sum()), int(held_out[50:].sum())
    (5, 5)
    """
    unit, rank = _dealing_ranks(labels, seed, groups)
    # Every (1 / fraction)-th card, so that each class loses its share to within one row; rounded, for 30 * 0.1 > 3.
    taken = np.ceil(np.round(fraction * np.arange(len(rank) + 1), 9))
    held_out = (taken[1:] > taken[:-1])[rank][unit]
    held_out &= ~_is_in_lonely_unit(labels, unit)
    _return_whole_classes(held_out, labels, groups)
    return held_out


def _return_whole_classes(
    held_out: NDArray[np.bool_], labels: Ints, groups: NDArray[np.generic] | None
) -> None:
    """Give a class back to training where all of its rows were held out (the whole group where rows go by groups)."""
    left = np.bincount(labels[~held_out], minlength=int(labels.max()) + 1)
    for label in np.unique(labels[held_out]):
        if left[label] == 0:
            rows = np.flatnonzero(labels == label)
            if held_out[rows].all():  # no group that came back before has brought some of them
                held_out[rows[0] if groups is None else groups == groups[rows[0]]] = False
