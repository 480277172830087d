"""Named data sets for the benchmarks: a folder of files, those that come with scikit-learn, and generated hard ones.

A folder DIR holds a sub-folder for each data set: ``train.csv.gz``, ``test.csv.gz`` and ``meta.json`` (``target``,
``kind``: "table" or "text"), or the four IDX files of MNIST with a ``meta.json`` of the kind "image".
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hard_sets
import keel_sets
import numpy as np
import pandas as pd
import sklearn.datasets
from sklearn.model_selection import train_test_split

SKLEARN_SETS: dict[str, Callable[..., Any]] = {
    "digits": sklearn.datasets.load_digits,
    "iris": sklearn.datasets.load_iris,
    "wine": sklearn.datasets.load_wine,
    "breast_cancer": sklearn.datasets.load_breast_cancer,
}
LEAKY = "leaky"
"""Data sets with this in their name give the label away in a column: only run where they are named."""
HELD_OUT = 0.2


@dataclass(frozen=True)
class Split:
    """Rows to learn from and rows to be judged on.

    ``truth``, where the data are generated and it is known, holds the true probabilities of the rows of ``X_test``,
    classes in sorted order.
    """

    name: str
    kind: str
    X_train: Any
    y_train: np.ndarray
    X_test: Any
    y_test: np.ndarray
    truth: np.ndarray | None = None


def data_set_names(folder: Path | None, wanted: str) -> list[str]:
    """Return the data sets that a list of names and groups stands for: data, sklearn, hard, keel, imbalanced, all."""
    groups = {
        "data": _folder_sets(folder),
        "sklearn": list(SKLEARN_SETS),
        "hard": list(hard_sets.DEFAULT_SETS),
        "keel": keel_sets.keel_names("balanced"),
        "imbalanced": keel_sets.keel_names("imbalanced"),
    }
    groups["all"] = [name for group in list(groups.values()) for name in group]
    names: list[str] = []
    for word in filter(None, wanted.split(",")):
        names += groups.get(word, [word])
    known = {
        *groups["all"],
        *hard_sets.HARD_SETS,
        *([] if folder is None else (p.name for p in folder.iterdir())),
    }
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no data set {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return list(dict.fromkeys(names))


def load_split(name: str, folder: Path | None, mode: str, seed: int) -> Split:
    """Return a data set's rows: ``mode`` "cv" holds a fifth of the training rows out, "test" takes the test rows."""
    if name in hard_sets.HARD_SETS:
        return Split(name, "table", *hard_sets.generate(name, seed if mode == "cv" else 1000 + seed))
    if name in SKLEARN_SETS:
        bunch = SKLEARN_SETS[name](as_frame=True)
        parts = ("table", *_halves(bunch.data, bunch.target.to_numpy(), seed))
    elif name.startswith("keel:"):
        parts = ("table", *_halves(*keel_sets.read_keel(name), seed))
    else:
        if folder is None:
            raise SystemExit(f"the data set {name!r} needs --data DIR")
        parts = _read_folder(folder / name)
    kind, X_train, y_train, X_test, y_test = parts
    if mode == "cv" and not name.startswith("keel:"):  # of those nothing is kept for a last look
        X_train, y_train, X_test, y_test = _halves(X_train, y_train, seed)
    return Split(name, kind, X_train, y_train, X_test, y_test)


def _folder_sets(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    return sorted((p.parent.name for p in folder.glob("*/meta.json") if LEAKY not in p.parent.name), key=_size(folder))


def _size(folder: Path) -> Callable[[str], int]:
    return lambda name: int(json.loads((folder / name / "meta.json").read_text()).get("rows_train", 0))


def _halves(X: Any, y: np.ndarray, seed: int) -> tuple[Any, np.ndarray, Any, np.ndarray]:
    """Split 80/20, stratified as far as classes have the rows for it."""
    values, labels, counts = np.unique(y, return_inverse=True, return_counts=True)
    strata = np.where(counts[labels] < 2, len(values), labels)
    if np.bincount(strata)[-1] == 1:  # one lone row cannot be a stratum of its own
        strata[strata == len(values)] = 0
    train, test = train_test_split(np.arange(len(y)), test_size=HELD_OUT, stratify=strata, random_state=seed)
    if isinstance(X, pd.DataFrame):
        return X.iloc[train].reset_index(drop=True), y[train], X.iloc[test].reset_index(drop=True), y[test]
    if isinstance(X, list):
        return [X[i] for i in train], y[train], [X[i] for i in test], y[test]
    return X[train], y[train], X[test], y[test]


def _read_folder(folder: Path) -> tuple[str, Any, np.ndarray, Any, np.ndarray]:
    meta = json.loads((folder / "meta.json").read_text())
    if meta["kind"] == "image":
        train, test = (_read_idx(folder, part) for part in ("train", "t10k"))
        return ("image", *train, *test)
    train, test = (_read_csv(folder / f"{part}.csv.gz", meta) for part in ("train", "test"))
    return (meta["kind"], *train, *test)


def _read_csv(path: Path, meta: dict[str, Any]) -> tuple[Any, np.ndarray]:
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""], low_memory=False)
    y = frame.pop(meta["target"]).to_numpy()
    y = y.astype(str).astype(object) if y.dtype.kind not in "iub" else y
    if meta["kind"] == "text":
        return frame.iloc[:, 0].fillna("").tolist(), y
    return frame, y


def _read_idx(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels, uint8 of shape (n, rows * columns), and labels."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        n, rows, columns = np.frombuffer(file.read(16), ">i4")[1:]
        X = np.frombuffer(file.read(), np.uint8).reshape(n, rows * columns)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        file.read(8)
        y = np.frombuffer(file.read(), np.uint8).astype(np.int64)
    return X, y
