"""The order of training rows: a pure function of (seed, epoch, rows), the same on any machine and after any restart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

__all__ = ["batch_bounds", "epoch_order"]


def epoch_order(seed: int, epoch: int, n_rows: int) -> np.ndarray:
    """Return the order in which an epoch visits the rows, every row exactly once.

    Parameters
    ----------
    seed, epoch : int
    n_rows : int

    Returns
    -------
    ndarray of shape (n_rows,), int64

    Examples
    --------
    >>> epoch_order(0, 0, 5).tolist() == epoch_order(0, 0, 5).tolist()
    True
    >>> sorted(epoch_order(0, 1, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, epoch, 1]))
    return generator.permutation(n_rows)


def batch_bounds(n_rows: int, batch_size: int) -> list[tuple[int, int]]:
    """Return the (start, stop) of an epoch's batches: as few as need be, of equal size to one row.

    A short last batch would take a full step on the noise of a few rows.

    Examples
    --------
    >>> batch_bounds(10, 4)
    [(0, 3), (3, 6), (6, 10)]
    """
    n_batches = max(-(-n_rows // batch_size), 1)
    edges = [n_rows * i // n_batches for i in range(n_batches + 1)]
    return list(pairwise(edges))
