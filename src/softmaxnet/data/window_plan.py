"""The order of training rows that do not fit in memory: windows of row groups, a pure function of (seed, epoch, sizes).

::

    row groups of the file   0 1 2 3 4 5 6 7
    permuted                 5 2 | 7 0 | 3 6 | 1 4       a bar ends a window
    rows of a window         shuffled among each other

Row groups in random order, and rows shuffled within several of them, train about as well as a full shuffle where
row groups are alike (CorgiPile, Xu et al. 2022, arXiv 2206.05830); ``label_mixing`` says whether they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Window",
    "epoch_windows",
    "label_entropy",
    "label_mixing",
    "stream_memory",
    "window_order",
    "window_rows_within",
]

Ints = NDArray[np.int64]

COLUMN_BATCHES = 8
"""A window is read in so many batches of columns, so that its rows are there twice for an eighth of it only."""


@dataclass(frozen=True)
class Window:
    """Row groups whose rows are in memory together.

    Attributes
    ----------
    index : int
        Its place in the epoch.
    groups : tuple of int
        Row groups, in the order in which they are read.
    first_row : int
        Rows of the epoch before it.
    n_rows : int
    """

    index: int
    groups: tuple[int, ...]
    first_row: int
    n_rows: int


def epoch_windows(seed: int, epoch: int, row_group_sizes: Sequence[int], window_rows: int) -> list[Window]:
    """Return the windows of an epoch: every row group that has rows, once, in random order.

    A window has at most ``window_rows`` rows, except that a row group is never cut: a larger one is a window
    of its own. Where to go on after a stop is a number, the index of a window: nothing before it is read.

    Parameters
    ----------
    seed, epoch : int
    row_group_sizes : sequence of int
        Rows of every row group.
    window_rows : int, at least 1

    Examples
    --------
    >>> for window in epoch_windows(0, 0, [4, 4, 4, 4, 2], 8):
    ...     print(window.index, window.groups, window.first_row, window.n_rows)
    0 (4, 2) 0 6
    1 (3, 1) 6 8
    2 (0,) 14 4
    """
    sizes = np.asarray(row_group_sizes, dtype=np.int64)
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, epoch, 7]))
    windows: list[Window] = []
    groups: list[int] = []
    first = held = 0
    for group in generator.permutation(len(sizes)).tolist():
        size = int(sizes[group])
        if size and held and held + size > window_rows:
            windows.append(Window(len(windows), tuple(groups), first, held))
            first, held, groups = first + held, 0, []
        if size:
            groups.append(group)
            held += size
    return [*windows, Window(len(windows), tuple(groups), first, held)] if held else windows


def window_order(seed: int, epoch: int, window: Window) -> Ints:
    """Return the order of a window's rows, counted through its row groups one after the other.

    Examples
    --------
    >>> order = window_order(0, 0, Window(0, (2, 1), 0, 8))
    >>> sorted(order.tolist())
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, window.index, epoch, 8]))
    return np.asarray(generator.permutation(window.n_rows))


# Memory


def stream_memory(window_rows: int, bytes_per_row: float, largest_group: int) -> int:
    """Return the bytes of rows that a stream holds at most, before they are encoded.

    ``(2 W + 2 W / 8 + G) b``, with windows of W rows, row groups of G and rows of b bytes: the window that is
    trained on, the next one, which is read meanwhile, one batch of its columns as it was read and being
    joined, and one row group that is being decoded. W is not less than G.

    Parameters
    ----------
    window_rows : int
    bytes_per_row : float
        Of decoded rows.
    largest_group : int
        Rows of the largest row group.

    Examples
    --------
    >>> stream_memory(100_000, 200, 65_536)
    58107200
    """
    rows = max(window_rows, largest_group)
    return int((2 * rows + 2 * rows / COLUMN_BATCHES + largest_group) * bytes_per_row)


def window_rows_within(budget: int, bytes_per_row: float, largest_group: int) -> int:
    """Return the rows of a window with which a stream stays within ``budget`` bytes, at least one row group.

    Examples
    --------
    >>> window_rows_within(64 << 20, 200, 65_536)
    120003
    >>> stream_memory(120_003, 200, 65_536) <= 64 << 20
    True
    """
    rows = (budget / bytes_per_row - largest_group) / (2 + 2 / COLUMN_BATCHES)
    return max(int(rows), largest_group, 1)


# Files in the order of their labels


def label_entropy(counts: ArrayLike) -> float:
    """Return the entropy of labels in nats, from the rows of every class.

    Examples
    --------
    >>> round(label_entropy([50, 0, 50]), 6)
    0.693147
    """
    some = np.asarray(counts, dtype=np.float64)
    share = some[some > 0] / some.sum()
    return float(-(share * np.log(share)).sum())


def label_mixing(class_counts: ArrayLike, group_rows: ArrayLike, group_entropies: ArrayLike) -> float:
    """Return how much alike the labels of row groups are: near 1 in random order, 0 in the order of the classes.

    ``1 - max(0, I - I0) / H`` with the entropy H of all labels, their mutual information with the row group
    ``I = H - sum_g (n_g / N) H_g``, and its mean under independence ``I0 = (G - 1)(K - 1) / 2N`` (Miller 1955),
    for G groups of n_g rows, K classes and N rows.

    Parameters
    ----------
    class_counts : (K,)
        Rows of every class.
    group_rows, group_entropies : (G,)
        Rows of every row group, and the entropy of its labels in nats.

    Examples
    --------
    >>> label_mixing([98, 102], [100, 100], [label_entropy([50, 50]), label_entropy([48, 52])])
    1.0
    >>> round(label_mixing([100, 100], [100, 100], [0.0, 0.0]), 3)
    0.004
    """
    rows = np.asarray(group_rows, dtype=np.float64)
    overall = label_entropy(class_counts)
    if overall == 0.0 or np.count_nonzero(rows) < 2:
        return 1.0
    within = float(np.asarray(group_entropies) @ rows / rows.sum())
    n_classes = np.count_nonzero(class_counts)
    by_chance = (np.count_nonzero(rows) - 1) * (n_classes - 1) / (2 * rows.sum())
    return float(np.clip(1 - (overall - within - by_chance) / overall, 0.0, 1.0))
