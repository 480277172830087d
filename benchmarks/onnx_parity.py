"""Does an exported model answer as the model does? ONNX against Python on data sets of numbers, strings and pixels.

For each data set a model is fitted briefly, exported by ``export_onnx`` and run by onnxruntime on held-out rows, fed
as a stranger would who knows only the session's inputs: numbers in the input's type with NaN for missing ones, texts as
they are in the frame with the empty string for missing ones. The largest difference of a probability is to stay below
1e-5. Text models are exported as the network alone, after the export of the whole has refused with the reason.

    python benchmarks/onnx_parity.py --data DIR
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from data_sets import data_set_names, load_split
from hard_sets import HARD_SETS
from machine import describe_in_words, describe_machine

from softmaxnet import SoftmaxClassifier
from softmaxnet.errors import UsageError
from softmaxnet.onnx_export import export_onnx, onnx_inputs

TOLERANCE = 1e-5
TYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
RESULTS = Path(__file__).parent / "results"
EPOCHS = 3


def main() -> None:
    """Measure every data set, write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of data sets")
    parser.add_argument("--sets", default="data,sklearn,made", help="names, or data, sklearn, hard, made")
    parser.add_argument("--rows", type=int, default=3000, help="training rows, and held-out rows, at most")
    parser.add_argument("-o", type=Path, default=RESULTS / "onnx_parity.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    wanted = [word for word in args.sets.split(",") if word != "made"]
    results = [measure(name, *some_rows(name, args)) for name in data_set_names(args.data, ",".join(wanted))]
    if "made" in args.sets.split(","):
        results += [measure(f"made: {name}", kind, *rows) for name, kind, rows in made_sets()]
    document = {"machine": describe_machine(), "onnxruntime": onnxruntime.__version__, "results": results}
    args.o.write_text(json.dumps(document, indent=1) + "\n")
    args.o.with_suffix(".md").write_text(table(document))
    print(table(document))


def some_rows(name: str, args: argparse.Namespace) -> tuple[str, Any, Any, Any]:
    """Return the kind, training rows with labels, and held-out rows of a data set; no more than asked for."""
    split = load_split(name, args.data, "cv" if name in HARD_SETS else "test", 0)
    rng = np.random.default_rng(0)
    train, test = (np.sort(rng.permutation(len(y))[: args.rows]) for y in (split.y_train, split.y_test))
    return split.kind, taken(split.X_train, train), split.y_train[train], taken(split.X_test, test)


def taken(X: Any, rows: np.ndarray) -> Any:
    if isinstance(X, list):
        return [X[row] for row in rows]
    return X.iloc[rows].reset_index(drop=True) if isinstance(X, pd.DataFrame) else X[rows]


def made_sets() -> list[tuple[str, str, tuple[Any, Any, Any]]]:
    """Return frames with what the public sets lack: dates, truth values, codes, empty strings, nullable types."""
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(2):
        n = 2000
        when = pd.Timestamp("2015-01-01") + pd.to_timedelta(rng.integers(0, 3_000_000, n) * 60, unit="s")
        frames.append(
            pd.DataFrame(
                {
                    "amount": np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(3, 2, n)),
                    "rooms": rng.integers(1, 7, n),
                    "big": 10_000_000.0 + rng.integers(0, 100, n) / 10,
                    "owner": rng.random(n) < 0.5,
                    "since": pd.Series(when).where(rng.random(n) > 0.1),
                    "day": [str(moment)[:10] for moment in when],
                    "city": rng.choice(["Oslo", "Rome", "", "Köln", " Bonn"], n),
                    "street": [f"street {k}" for k in rng.integers(0, 300, n)],
                    "grade": pd.Categorical(rng.choice(["a", "b", "c"], n)),
                    "children": pd.array(np.where(rng.random(n) < 0.2, None, rng.integers(0, 4, n)), dtype="Int64"),
                }
            )
        )
    train, test = frames

    def label(frame: pd.DataFrame) -> np.ndarray:
        parts = (frame["amount"].fillna(20) > 20, frame["city"] == "Rome", frame["owner"], frame["rooms"] > 3)
        score = sum(part.astype(float) for part in parts) + frame["big"].mod(10).gt(5)
        return np.array(["low", "mid", "high"])[np.digitize(score + rng.normal(0, 0.4, len(frame)), [1.5, 2.5])]

    mixed = (train, label(train), test)
    numbers = (train[["amount", "rooms"]], label(train), test[["amount", "rooms"]])
    return [("every kind of column", "table", mixed), ("two numbers", "table", numbers)]


def measure(name: str, kind: str, X: Any, y: Any, X_test: Any) -> dict[str, Any]:
    """Return how an exported model compares with its original."""
    started = time.monotonic()
    model = SoftmaxClassifier(random_state=0, max_epochs=EPOCHS).fit(X, y).model_
    # the sets of scikit-learn have arrays of pixels in frames; both ways are users' ways
    found: dict[str, Any] = {
        "data": name,
        "kind": kind,
        "classes": model.n_classes,
        "rows": len(X_test),
        "part": "model",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            report = export_onnx(model, path)
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            feed = raw_feed(session, X_test)
        except UsageError as error:
            found |= {"part": "network", "refused": error.message}
            report = export_onnx(model, path, part="network")
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            feed = onnx_inputs(model, X_test, part="network")
        label, proba = session.run(["label", "probabilities"], feed)
    expected = model.predict_proba(X_test)
    labels = model.classes[expected.argmax(axis=1)]
    tied = np.partition(expected, -2, axis=1)[:, -1] - np.partition(expected, -2, axis=1)[:, -2] < TOLERANCE
    found |= {
        "inputs": len(report.inputs),
        "strings": sum(type_ == "string" for type_, _ in report.inputs.values()),
        "doubles": sum(type_ == "double" for type_, _ in report.inputs.values()),
        "opset": report.opset,
        "max_difference": float(np.abs(proba - expected).max()),
        "labels_that_differ": int(((np.asarray(label, labels.dtype) != labels) & ~tied).sum()),
        "max_difference_at_export": report.max_difference,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(f"{name:24} {found['max_difference']:.2g}", flush=True)
    return found


def raw_feed(session: Any, X: Any) -> dict[str, np.ndarray]:
    """Return rows as the session's inputs want them, made without this package's help."""
    feed = {}
    for about in session.get_inputs():
        if about.name == "X" and not isinstance(X, pd.DataFrame):
            return {"X": np.asarray(X).astype(TYPES[about.type])}
        column = X[about.name]
        if about.type == "tensor(string)":
            values = column.astype(object).where(column.notna(), "").map(str).to_numpy(dtype=object)
        else:
            values = pd.to_numeric(column).astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
            values = values.astype(TYPES[about.type])
        feed[about.name] = values[:, None]
    return feed


def table(document: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    rows = [
        "# ONNX parity",
        "",
        "Largest difference of a probability between onnxruntime and the model on held-out rows; 1e-5 is accepted.",
        "",
        "| data | classes | rows | part | inputs (texts, doubles) | opset | largest difference | other labels |",
        "|---|---:|---:|---|---|---:|---:|---:|",
    ]
    for found in document["results"]:
        inputs = f"{found['inputs']} ({found['strings']}, {found['doubles']})"
        rows.append(
            f"| {found['data']} | {found['classes']:,} | {found['rows']:,} | {found['part']} | {inputs} | "
            f"{found['opset']} | {found['max_difference']:.1e} | {found['labels_that_differ']} |"
        )
    worst = max(found["max_difference"] for found in document["results"])
    rows += ["", f"Largest of all: {worst:.1e}.", "", describe_in_words(document["machine"])]
    return "\n".join(rows) + f" onnxruntime {document['onnxruntime']}.\n"


if __name__ == "__main__":
    main()
