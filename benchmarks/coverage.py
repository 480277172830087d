"""Do prediction sets hold the true label as often as they say? 500 splits into calibration and test rows.

For each data set a model is fitted to training rows; its held-out rows are split in halves at random 500 times, one
half to calibrate the sets and one to count how often they hold the label. The mean coverage is to lie within one point
of 80, 90 and 95 %.

Two numbers are given. The guarantee speaks of the sets by threshold ("by threshold"), which may be empty where a model
is right more often than is asked for. Those that ``predict_set`` returns ("returned") always have the most probable
class in them, so that their coverage is never below the accuracy.

    python benchmarks/coverage.py --data DIR
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from data_sets import load_split
from machine import describe_in_words, describe_machine
from onnx_parity import taken

from softmaxnet import SoftmaxClassifier
from softmaxnet.conformal import fit_sets, rows_needed
from softmaxnet.data.labels import lookup_labels

RESULTS = Path(__file__).parent / "results"
STATED = (0.8, 0.9, 0.95)
METHODS = ("lac", "aps", "raps")
POOL_ELEMENTS = 400_000
POOL_ROWS = 1000
"""Held-out rows that are split, and rows times classes at most: 500 splits are to take minutes, not hours."""


def main() -> None:
    """Measure every data set, write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of data sets")
    parser.add_argument("--sets", default="digits,breast_cancer,satimage,letter,adult,diabetes130,banking77,icd10cm")
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--train-rows", type=int, default=3000)
    parser.add_argument("-o", type=Path, default=RESULTS / "coverage.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    results = []
    for name in args.sets.split(","):
        proba, labels = held_out(name, args)
        accuracy = float((proba.argmax(axis=1) == labels).mean())
        for method in METHODS:
            started = time.monotonic()
            rows = measure(proba, labels, method, args.splits)
            seconds = round(time.monotonic() - started, 1)
            about = {
                "data": name,
                "classes": proba.shape[1],
                "rows": len(labels),
                "accuracy": accuracy,
                "seconds": seconds,
            }
            results += [about | row for row in rows]
            print(name, method, [(row["stated"], round(row["by_threshold"], 4)) for row in rows], seconds, flush=True)
    document = {"machine": describe_machine(), "splits": args.splits, "results": results}
    args.o.write_text(json.dumps(document, indent=1) + "\n")
    args.o.with_suffix(".md").write_text(table(document))
    print(table(document))


def held_out(name: str, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities and the labels of rows that a model has not seen."""
    split = load_split(name, args.data, "test", 0)
    rng = np.random.default_rng(0)
    train = np.sort(rng.permutation(len(split.y_train))[: args.train_rows])
    model = (
        SoftmaxClassifier(random_state=0, max_epochs=10).fit(taken(split.X_train, train), split.y_train[train]).model_
    )
    labels = lookup_labels(split.y_test, model.classes)
    pool = rng.permutation(np.flatnonzero(labels >= 0))
    pool = np.sort(pool[: min(POOL_ROWS, max(200, POOL_ELEMENTS // model.n_classes))])
    return model.predict_proba(taken(split.X_test, pool)), labels[pool]


def measure(proba: np.ndarray, labels: np.ndarray, method: str, n_splits: int) -> list[dict[str, Any]]:
    """Return the mean coverage and size over random halves, for every coverage stated."""
    rng = np.random.default_rng(1)
    n = len(labels)
    found = np.zeros((n_splits, len(STATED), 5))
    for split in range(n_splits):
        order = rng.permutation(n)
        inside, outside = order[: n // 2], order[n // 2 :]
        sets = fit_sets(proba[inside], labels[inside], method=method)
        for place, stated in enumerate(STATED):
            if len(inside) < rows_needed(stated):
                raise SystemExit("too few calibration rows")
            plain = sets.predict(proba[outside], stated, allow_empty=True)
            returned = plain.copy()
            np.put_along_axis(returned, proba[outside].argmax(axis=1)[:, None], True, axis=1)
            at = np.arange(len(outside)), labels[outside]
            coverages = plain[at].mean(), returned[at].mean()
            sizes = plain.sum(axis=1), returned.sum(axis=1)
            found[split, place] = *coverages, sizes[0].mean(), sizes[1].mean(), (sizes[0] == 0).mean()
    mean, spread = found.mean(axis=0), found.std(axis=0)
    names = ("by_threshold", "returned", "size_by_threshold", "size_returned", "empty")
    return [
        {"method": method, "stated": stated, "calibration_rows": n // 2}
        | {"theory": math.ceil((n // 2 + 1) * stated - 1e-9) / (n // 2 + 1)}
        | dict(zip(names, mean[place].tolist(), strict=True))
        | {"standard_error": float(spread[place, 0] / np.sqrt(n_splits))}
        for place, stated in enumerate(STATED)
    ]


HEADS = ("data", "classes", "calibration rows", "accuracy", "sets", "stated", "by theory", "by threshold", "returned")
HEADS += ("mean size", "empty")


def table(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Coverage of prediction sets",
        "",
        f"Means over {document['splits']} random splits of held-out rows into a calibration and a test half. The "
        "guarantee is about 'by threshold'; the sets that are returned also hold the most probable class in any case, "
        "so that their coverage is at least the accuracy.",
        "",
        f"| {' | '.join(HEADS)} |",
        "|---|---:|---:|---:|---|" + "---:|" * 6,
    ]
    for row in document["results"]:
        cells = (
            row["data"],
            f"{row['classes']:,}",
            str(row["calibration_rows"]),
            f"{row['accuracy']:.1%}",
            row["method"],
            f"{row['stated']:.0%}",
            f"{row['theory']:.2%}",
            f"{row['by_threshold']:.2%}",
            f"{row['returned']:.2%}",
            f"{row['size_returned']:.2f}",
            f"{row['empty']:.1%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *in_words(document)]) + "\n"


def in_words(document: dict[str, Any]) -> list[str]:
    """Return the farthest from what was stated, and the machine."""
    rows = document["results"]
    worst = max(abs(row["by_threshold"] - row["stated"]) for row in rows if row["calibration_rows"] >= 100)
    of_theory = max(abs(row["by_threshold"] - row["theory"]) for row in rows)
    low = min(row["returned"] - row["stated"] for row in rows)
    return [
        f"Farthest from the stated coverage by threshold, with at least 100 calibration rows: {worst * 100:.2f} "
        "points; from `ceil((n + 1) stated) / (n + 1)`, which n calibration rows give in theory, over all: "
        f"{of_theory * 100:.2f}. The sets returned: never more than {max(0.0, -low) * 100:.2f} points below it.",
        "",
        describe_in_words(document["machine"]),
    ]


if __name__ == "__main__":
    main()
