"""Generated data on which classifiers go wrong; where the true probabilities are known they come along.

Each generator takes a NumPy random generator and a number of rows and returns ``(X, labels, proba or None)``. Test
rows, 4,000 or more and as many as training rows, come from the same process, unless the data set is about that.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

N_TEST = 4000
Drawn = tuple[Any, np.ndarray, np.ndarray | None]


def generate(name: str, seed: int) -> tuple[Any, np.ndarray, Any, np.ndarray, np.ndarray | None]:
    """Return ``(X_train, y_train, X_test, y_test, truth)`` of one of :data:`HARD_SETS`."""
    n_train, draw = HARD_SETS[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    world = np.random.default_rng([zlib.crc32(name.encode()), seed])  # what train and test rows share
    state = int(world.integers(2**31))
    X_train, y_train, _ = draw(rng, n_train, np.random.default_rng(state), True)
    X_test, y_test, truth = draw(rng, max(n_train, N_TEST), np.random.default_rng(state), False)
    if truth is not None and len(np.unique(y_train)) != truth.shape[1]:
        truth = None
    return X_train, y_train, X_test, y_test, truth


def _draw_labels(rng: np.random.Generator, proba: np.ndarray) -> np.ndarray:
    uniform = rng.random((len(proba), 1))
    return np.minimum((proba.cumsum(1) < uniform).sum(1), proba.shape[1] - 1)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def _labelled(rng: np.random.Generator, X: Any, proba: np.ndarray) -> Drawn:
    return X, _draw_labels(rng, proba), proba


def shuffled_labels(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """Labels that have nothing to do with the inputs."""
    return _labelled(rng, rng.normal(size=(n, 10)), np.tile([0.5, 0.3, 0.2], (n, 1)))


def noisy_labels(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """40 % of the labels replaced by one of four at random."""
    weight = world.normal(size=(10, 4))
    X = rng.normal(size=(n, 10))
    best = (X @ weight + (X**2) @ world.normal(size=(10, 4)) * 0.3).argmax(1)
    return _labelled(rng, X, 0.6 * np.eye(4)[best] + 0.1)


def mostly_missing(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """95 % of the cells missing."""
    X = rng.normal(size=(n, 30))
    labels = _draw_labels(rng, _softmax(X @ world.normal(size=(30, 3))))
    X[rng.random(X.shape) < 0.95] = np.nan
    return X, labels, None


def fewer_rows_than_classes(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """30 rows for 40 classes, so that each row is alone in its class."""
    centres = world.normal(size=(40, 8)) * 3
    labels = rng.permutation(40)[:n] if train else rng.integers(40, size=n)
    return centres[labels] + rng.normal(size=(n, 8)), labels, None


def classes_of_one_row(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """Five classes with one row each beside three with many."""
    centres = world.normal(size=(8, 6)) * 1.5
    labels = _draw_labels(rng, np.tile(np.r_[0.4, 0.35, 0.2375, np.full(5, 0.0025)], (n, 1)))
    if train:
        labels[labels > 2] = 0
        labels[:5] = np.arange(3, 8)
    return centres[labels] + rng.normal(size=(n, 6)), labels, None


def imbalanced(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """One row in a thousand is of the second class."""
    X = rng.normal(size=(n, 5))
    logit = 1.5 * X[:, :2].sum(1) - 9.5
    return _labelled(rng, X, _softmax(np.c_[np.zeros(n), logit]))


def constant_features(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """Columns that never change, are never there, or change only after training."""
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"])
    proba = _softmax(X.to_numpy() @ world.normal(size=(3, 3)) * 1.5)
    X["zero"], X["large"], X["empty"], X["word"] = 0.0, 1e6, np.nan, "same"
    X["later"] = 1.0 if train else rng.normal(size=n) * 100
    return _labelled(rng, X, proba)


def xor(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """The sign of a product of two inputs among four."""
    X = rng.uniform(-1, 1, size=(n, 4))
    return X, (X[:, 0] * X[:, 1] > 0).astype(np.int64), None


def checkerboard(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """Four by four fields of two colours."""
    X = rng.uniform(0, 4, size=(n, 2))
    return X, np.floor(X).astype(np.int64).sum(1) % 2, None


def spirals(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """Two arms, one and a half turns each."""
    labels = rng.integers(2, size=n)
    angle = np.sqrt(rng.random(n)) * 3 * np.pi
    turned = angle + np.pi * labels
    X = np.c_[np.cos(turned), np.sin(turned)] * angle[:, None]
    return X + rng.normal(size=(n, 2)) * 0.3, labels, None


def wide(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """200 rows of 500 columns, five of which matter."""
    X = rng.normal(size=(n, 500))
    logit = 1.5 * X[:, :5].sum(1)
    return _labelled(rng, X, _softmax(np.c_[np.zeros(n), logit]))


def other_speakers(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """Test rows come from other speakers than training rows, and speakers differ nearly as much as classes do."""
    return _spoken(rng, n, world, train, in_order=False)


def speakers_in_order(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """Other speakers again, each of whom has all of their rows one after the other."""
    return _spoken(rng, n, world, train, in_order=True)


def _spoken(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool, *, in_order: bool) -> Drawn:
    centres = world.normal(size=(8, 10)) * 1.2
    speakers = np.random.default_rng(world.integers(2**31) + (0 if train else 1)).normal(size=(10, 10))
    labels, speaker = rng.integers(8, size=n), rng.integers(10, size=n)
    speaker = np.sort(speaker) if in_order else speaker
    return centres[labels] + speakers[speaker] + rng.normal(size=(n, 10)) * 0.3, labels, None


def row_ids(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """A category and a number that are different in every row, beside two inputs that matter."""
    X = pd.DataFrame(rng.normal(size=(n, 2)), columns=["a", "b"])
    proba = _softmax(X.to_numpy() @ np.array([[1.5, 0.0, -1.5], [0.0, 1.5, -1.0]]))
    ids = rng.permutation(10 * n)[:n] + (0 if train else 10**7)
    X["code"] = [f"id-{i:08d}" for i in ids]
    X["number"] = ids
    return _labelled(rng, X, proba)


def heavy_tails(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """Inputs over thirty powers of ten, zeros among them, of either sign."""
    Z = rng.normal(size=(n, 6))
    X = np.sign(Z) * np.exp(np.abs(Z) * np.array([1, 3, 6, 10, 2, 4]))
    X[:, 4] *= rng.random(n) < 0.1
    X[:, 5] *= 1e-12
    return _labelled(rng, X, _softmax(Z @ world.normal(size=(6, 3)) * 1.2))


def hundred_rows(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """A hundred rows, eight inputs, three overlapping classes."""
    X = rng.normal(size=(n, 8))
    return _labelled(rng, X, _softmax(X @ world.normal(size=(8, 3)) * 0.7))


def three_values(rng: np.random.Generator, n: int, world: np.random.Generator, train: bool) -> Drawn:
    """A million rows of three distinct values."""
    X = rng.integers(3, size=(n, 1)).astype(float)
    share = np.array([0.1, 0.5, 0.9])[X[:, 0].astype(int)]
    return _labelled(rng, X, np.c_[1 - share, share])


HARD_SETS: dict[str, tuple[int, Callable[[np.random.Generator, int, np.random.Generator, bool], Drawn]]] = {
    "shuffled_labels": (2000, shuffled_labels),
    "noisy_labels": (3000, noisy_labels),
    "mostly_missing": (3000, mostly_missing),
    "fewer_rows_than_classes": (30, fewer_rows_than_classes),
    "classes_of_one_row": (500, classes_of_one_row),
    "imbalanced": (20000, imbalanced),
    "constant_features": (1000, constant_features),
    "xor": (300, xor),
    "checkerboard": (300, checkerboard),
    "spirals": (400, spirals),
    "wide": (200, wide),
    "other_speakers": (1500, other_speakers),
    "speakers_in_order": (1500, speakers_in_order),
    "row_ids": (2000, row_ids),
    "heavy_tails": (3000, heavy_tails),
    "hundred_rows": (100, hundred_rows),
    "three_values": (1_000_000, three_values),
}
DEFAULT_SETS = tuple(name for name in HARD_SETS if name != "three_values")
"""All but the one that takes long; name it to run it."""
