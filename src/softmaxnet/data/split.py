"""Which rows are held out: by class, by group, and never the only row of a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["stratified_folds", "stratified_holdout"]

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
        In 0..n_folds-1; -1 for the only row of a class, which no model may do without.

    Examples
    --------
    >>> folds = stratified_folds(np.array([0, 0, 0, 0, 1, 1, 2]), 2, seed=0)
    >>> [sorted(folds[:4].tolist()), sorted(folds[4:6].tolist()), folds[6].item()]
    [[0, 0, 1, 1], [0, 1], -1]
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, 2]))
    if groups is not None:
        _, unit = np.unique(groups, return_inverse=True)
        n_units = int(unit.max()) + 1
        # A group is dealt by the class of its first row; groups, not rows, are what can move.
        first = np.full(n_units, len(labels))
        np.minimum.at(first, unit, np.arange(len(labels)))
        return _deal(labels[first], n_folds, generator)[unit]
    folds = _deal(labels, n_folds, generator)
    counts = np.bincount(labels)
    folds[counts[labels] == 1] = -1
    return folds


def _deal(labels: Ints, n_folds: int, generator: np.random.Generator) -> Ints:
    """Deal rows like cards, class after class, in random order within each."""
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    folds = np.empty(len(labels), dtype=np.int64)
    folds[by_class] = np.arange(len(labels)) % n_folds
    return folds


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
    # Folds of a fine grid, so that any fraction is met to a hundredth.
    n_parts = max(round(1 / fraction), 2) if abs(1 / fraction - round(1 / fraction)) < 1e-9 else 100
    folds = stratified_folds(labels, n_parts, seed, groups)
    held_out = (folds >= 0) & (folds < max(round(fraction * n_parts), 1))
    _return_whole_classes(held_out, labels, groups)
    return held_out


def _return_whole_classes(
    held_out: NDArray[np.bool_], labels: Ints, groups: NDArray[np.generic] | None
) -> None:
    """Give a class back to training where all of its rows were held out (the whole group where rows go by groups)."""
    left = np.bincount(labels[~held_out], minlength=int(labels.max()) + 1)
    for label in np.unique(labels[held_out]):
        if left[label] == 0:
            row = np.flatnonzero(held_out & (labels == label))[0]
            held_out[row if groups is None else groups == groups[row]] = False
