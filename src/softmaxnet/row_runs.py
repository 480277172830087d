"""Rows that follow each other because they belong together: the frames of a speaker, the visits of a patient.

A network that has seen most frames of a speaker knows the rest by heart. Held out at random they look like new rows and
are none: the log loss is too low, the probabilities are too sure, training goes on too long. Where rows come in runs of
near copies, whole runs are what is to be held out.

Three things are asked of them. Of the three nearest rows of its class, by its measurements, nearly all are within a few
places of a row, far more often than by chance. Hardly any such pair lies across the end of a run, which tells runs from
rows that are sorted by some of them. And there are enough runs, none too large a part of all rows, to hold some out. A
series that drifts is cut into stretches by the same rule: its rows are near copies of those before and after as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Runs", "find_runs"]

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]

N_NEAREST = 3
PLACES = (5, 10, 20, 50, 100)
"""How far apart, counted in rows of their class, rows of one run may be: the first that suffices."""
BAND = 500
"""Rows of a class on either side among which a row's nearest are looked for."""
MOST_BY_CHANCE = 0.35
"""Where this share of all pairs lies within the places anyhow, nothing can be told."""
LEAST_EXCESS = 0.8
"""Of the pairs that chance does not put there, the share that must lie within the places."""
CROSSED = 0.25
"""Fewer pairs than this share of the median lie across the end of a run."""
LEAST_INPUTS, LEAST_VALUES = 2, 20
"""What makes rows alike are so many inputs at least, of so many different values each: a file sorted by a place and a
year has their rows together as well."""
IN_ORDER = 0.95
"""A rank correlation with the number of the row beyond this is a time, a row number, or what the file is sorted by."""
LEAST_RUNS = 6
LARGEST_RUN = 1 / 4
THINNEST = 64
"""The fewest rows that are looked at are every so many-th: runs of some thousand rows of each class are found."""
FIRST_LOOK = 1500
"""Rows that are looked at first: most data are done with."""
BLOCK = 256


@dataclass(frozen=True)
class Runs:
    """The run that each row belongs to, and how alike the rows of a run are.

    Attributes
    ----------
    of_row : ndarray of shape (n_rows,), int64
        0..n_runs-1, in the order of the rows.
    share : float
        Of the pairs of a row and one of its three nearest rows of the same class, those that lie close together.
    """

    of_row: Ints
    share: float

    def __len__(self) -> int:
        """Return the number of runs."""
        return int(self.of_row[-1]) + 1


def find_runs(rows: Floats, labels: Ints, inputs: Ints | None = None) -> Runs | None:
    """Return the runs of near copies that the rows come in, or None where they do not.

    Rows that are equal say nothing of each other: copies may be weights written out. Runs of thousands of rows, where
    the nearest rows may be anywhere in the run, are found among every fourth row, every sixteenth and so on.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_inputs)
        Of like scales.
    labels : ndarray of shape (n_rows,), int64
    inputs : ndarray of int64, optional
        Those of the inputs that are looked at; all by default.

    Examples
    --------
    Thirty people of two classes with ten measurements each, one after the other, and in any order:

    >>> rng = np.random.default_rng(0)
    >>> people = rng.normal(size=(30, 8)).repeat(10, axis=0)
    >>> rows, labels = people + 0.3 * rng.normal(size=people.shape), np.arange(30).repeat(10) % 2
    >>> runs = find_runs(rows, labels)
    >>> len(runs), runs.of_row[:12].tolist()
    (30, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
    >>> order = rng.permutation(300)
    >>> find_runs(rows[order], labels[order]) is None
    True
    """
    if len(labels) < LEAST_RUNS * N_NEAREST:
        return None
    inputs = _measurements(rows, np.arange(rows.shape[1]) if inputs is None else inputs)
    if len(inputs) < LEAST_INPUTS:
        return None
    step = 1
    while len(labels) >= step * LEAST_RUNS * N_NEAREST and step <= THINNEST:
        found = _find(rows[::step], labels[::step], inputs)
        if found is not None:
            return Runs(np.repeat(found.of_row, step)[: len(labels)], found.share)
        step *= 4
    return None


def _find(rows: Floats, labels: Ints, inputs: Ints) -> Runs | None:
    """Return the runs that these rows come in, none left out."""
    some = max(1, len(labels) // FIRST_LOOK)
    if some > 1 and _places(*_pairs(rows, labels, inputs, some)[2:]) is None:
        return None
    first, second, apart, reach = _pairs(rows, labels, inputs)
    found = _places(apart, reach)
    if found is None:
        return None
    places, share = found
    close = apart <= places
    low, high = np.minimum(first, second)[close], np.maximum(first, second)[close]
    n_rows = len(labels)
    across = np.cumsum(np.bincount(low, minlength=n_rows) - np.bincount(high, minlength=n_rows))[:-1]
    of_row = _cut_where_low(across)
    sizes = np.bincount(of_row)
    if len(sizes) < LEAST_RUNS or sizes.max() > LARGEST_RUN * n_rows:
        return None
    return Runs(of_row, share)


def _measurements(rows: Floats, inputs: Ints) -> Ints:
    """Return the inputs that may make rows alike: of many values, and not in the order of the rows."""
    some = rows[np.linspace(0, len(rows) - 1, min(len(rows), FIRST_LOOK)).astype(np.int64)]
    kept = []
    for j, values in zip(inputs, np.ascontiguousarray(some[:, inputs].T), strict=True):
        different, rank = np.unique(values, return_inverse=True)
        if len(different) >= LEAST_VALUES and abs(np.corrcoef(rank, np.arange(len(rank)))[0, 1]) <= IN_ORDER:
            kept.append(j)
    return np.array(kept, dtype=np.int64)


def _places(apart: Ints, reach: Ints) -> tuple[int, float] | None:
    """Return the fewest places within which nearly all pairs lie, and the share of them that does."""
    for places in PLACES:
        chance = np.minimum(1.0, 2 * places / reach).mean() if len(reach) else 1.0
        if chance > MOST_BY_CHANCE:
            return None
        share = float((apart <= places).mean())
        if share - chance >= LEAST_EXCESS * (1 - chance):
            return places, share
    return None


def _cut_where_low(across: Ints) -> Ints:
    """Return the run of each row, cut at the lowest place of each stretch where hardly any pair lies across."""
    low = np.concatenate([[False], across <= CROSSED * np.median(across), [False]])
    starts, stops = np.flatnonzero(np.diff(low)).reshape(-1, 2).T
    ends = [
        start + int(across[start:stop].argmin())
        for start, stop in zip(starts, stops, strict=True)
        if start > 0 and stop < len(across)  # few pairs lie across the first and the last places anyhow
    ]
    return np.searchsorted(ends, np.arange(len(across) + 1), side="left").astype(np.int64)


def _pairs(rows: Floats, labels: Ints, inputs: Ints, step: int = 1) -> tuple[Ints, Ints, Ints, Ints]:
    """Return (row, one of its nearest, places between them, rows looked at), of every ``step``-th block of a class."""
    found = [part for mine in _by_class(labels) for part in _of_class(rows, mine, inputs, step)]
    if not found:
        none = np.zeros(0, dtype=np.int64)
        return none, none, none, none
    first, second, apart, reach = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return first, second, apart, reach


def _by_class(labels: Ints) -> list[Ints]:
    order = np.argsort(labels, kind="stable")
    return [mine for mine in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if len(mine) > 2 * N_NEAREST]


def _of_class(rows: Floats, mine: Ints, inputs: Ints, step: int) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
    """Yield the pairs of one class, block after block."""
    for start in range(0, len(mine), BLOCK * step):
        block = np.arange(start, min(start + BLOCK, len(mine)))
        near = np.arange(max(0, start - BAND), min(start + BLOCK + BAND, len(mine)))
        around = rows[np.ix_(mine[near], inputs)].astype(np.float64)
        around -= around[len(around) // 2]  # large numbers of little spread would all look equal
        nearest, real = _nearest(around[block - near[0]], around)
        place = np.repeat(block, N_NEAREST)[real]
        other = near[nearest.ravel()[real]]
        yield mine[place], mine[other], np.abs(place - other), np.full(len(place), len(near))


def _nearest(block: Floats, near: Floats) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the nearest rows that are not equal, (n_block, N_NEAREST), and which of these there are, flat."""
    with np.errstate(over="ignore", invalid="ignore"):  # raw numbers have any size: what is not finite is not near
        lengths = (near * near).sum(1)
        own = (block * block).sum(1)[:, None]
        distance = own + lengths - 2 * block @ near.T
        distance[distance <= 1e-9 * (own + lengths)] = np.inf
    nearest = np.argpartition(distance, N_NEAREST, axis=1)[:, :N_NEAREST]
    return nearest, np.isfinite(np.take_along_axis(distance, nearest, axis=1)).ravel()
