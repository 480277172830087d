"""Do explanations add up? The completeness error of integrated gradients on every kind of data.

For each data set a network with hidden layers is fitted briefly by the default recipe, and rows that it has not seen
are explained against the runner-up. The completeness error is what the contributions miss of the difference of the
logits between row and baseline, before that rest is spread over them; it is to stay below 1e-3 of the difference. The
logits explained are compared with ``decision_function``. Softmax regression on the same rows must be exact.

    python benchmarks/explanations.py --data DIR
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from data_sets import load_split
from machine import describe_in_words, describe_machine
from onnx_parity import made_sets, taken

from softmaxnet import SoftmaxClassifier
from softmaxnet.explain import explain

RESULTS = Path(__file__).parent / "results"
LIMIT = 1e-3
DEFAULT_SETS = "iris,wine,breast_cancer,digits,satimage,letter,adult,diabetes130,banking77,icd10cm,mnist"


def main() -> None:
    """Measure every data set, write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of data sets")
    parser.add_argument("--sets", default=DEFAULT_SETS)
    parser.add_argument("--train-rows", type=int, default=3000)
    parser.add_argument("--rows", type=int, default=50, help="rows that are explained")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("-o", type=Path, default=RESULTS / "explanations.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    results = []
    for name, kind, X, y, X_test in data(args):
        for settings in ({}, {"hidden_layer_sizes": ()}, {"hidden_layer_sizes": (64, 64), "activation": "relu"}):
            results.append({"data": name, "kind": kind} | measure(X, y, X_test, args.epochs, settings))
            print(results[-1], flush=True)
    document = {"machine": describe_machine(), "limit": LIMIT, "results": results}
    args.o.write_text(json.dumps(document, indent=1) + "\n")
    args.o.with_suffix(".md").write_text(table(document))
    print(table(document))


def data(args: argparse.Namespace) -> Any:
    """Yield name, kind, training rows, labels and rows to explain."""
    rng = np.random.default_rng(0)
    for name in args.sets.split(","):
        split = load_split(name, args.data, "test", 0)
        train, test = (
            np.sort(rng.permutation(len(y))[:n])
            for y, n in ((split.y_train, args.train_rows), (split.y_test, args.rows))
        )
        X, y, X_test = taken(split.X_train, train), split.y_train[train], taken(split.X_test, test)
        yield name, split.kind, X, y, X_test
        if name == "digits":
            yield (
                "digits, sparse",
                "sparse",
                *(part if part is y else scipy.sparse.csr_array(np.asarray(part, float)) for part in (X, y, X_test)),
            )
    for name, kind, (X, y, X_test) in made_sets()[:1]:
        yield f"made: {name}", kind, X, y, X_test.iloc[: args.rows]


def measure(X: Any, y: Any, X_test: Any, epochs: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Return how well the explanations of some rows add up."""
    model = SoftmaxClassifier(random_state=0, max_epochs=epochs, **settings).fit(X, y).model_
    started = time.monotonic()
    explained = explain(model, X_test, versus="runner-up")
    seconds = (time.monotonic() - started) / len(explained)
    logits = np.asarray(model.decision_function(X_test), dtype=np.float64)
    ordered = np.sort(logits, axis=1)
    change = np.array([abs(found.logit - found.baseline_logit) for found in explained])
    error = np.array([found.completeness_error for found in explained])
    # where row and baseline have practically the same logits, a share of nothing says nothing
    share = error / np.maximum(change, 1e-6)
    sums = [found.baseline_logit + found.contributions.sum() - found.logit for found in explained]
    margins = [found.logit for found in explained] - (ordered[:, -1] - ordered[:, -2])
    return {
        "layers": "x".join(map(str, model.spec.hidden_layer_sizes)) or "none",
        "activation": model.spec.activation,
        "members": model.spec.n_members,
        "method": explained[0].method,
        "rows": len(explained),
        "largest_error": float(share.max()),
        "median_error": float(np.median(share)),
        "rows_above_limit": int((share > LIMIT).sum()),
        "largest_gap_of_sums": float(np.abs(sums).max()),
        "largest_gap_to_decision_function": float(np.abs(margins).max()),
        "median_nodes": int(np.median([found.n_nodes for found in explained])),
        "most_nodes": max(found.n_nodes for found in explained),
        "seconds_a_row": round(seconds, 4),
    }


def table(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Explanations: completeness",
        "",
        "What the contributions miss of the difference of the logits between row and baseline, as a share of it, "
        "before the rest is spread; 1e-3 is accepted. 'Gap' is the largest difference between the logits explained and "
        "those of `decision_function`, in nats.",
        "",
        "| data | network | method | rows | largest error | median | above 1e-3 | gap | nodes (most) | s a row |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for found in document["results"]:
        network = f"{found['layers']} {found['activation']}" if found["layers"] != "none" else "softmax regression"
        network += f", {found['members']} members" if found["members"] > 1 else ""
        lines.append(
            f"| {found['data']} | {network} | {found['method']} | {found['rows']} | {found['largest_error']:.1e} | "
            f"{found['median_error']:.1e} | {found['rows_above_limit']} | "
            f"{found['largest_gap_to_decision_function']:.1e} | {found['median_nodes']}, {found['most_nodes']} | "
            f"{found['seconds_a_row']:.3f} |"
        )
    worst = max(found["largest_error"] for found in document["results"])
    return "\n".join([*lines, "", f"Largest of all: {worst:.2e}.", "", describe_in_words(document["machine"]), ""])


if __name__ == "__main__":
    main()
