"""A million classes on one machine: a synthetic set that is learned in one pass, exactly, within a memory budget.

``python benchmarks/many_classes.py [--classes 1000000] [--width 48] [--rows-per-class 1]``

Each class is a random point of signs in ``width`` dimensions; a row is its class's point with normal noise of standard
deviation 0.5. The nearest point is all but always the right one, so what is missing from an accuracy of 1 is what one
pass over one row of each class has not taught. The time grows with rows x classes: at a million of each a pass has
10^12 logits, each computed twice.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from machine import describe_in_words, describe_machine

from softmaxnet import SoftmaxClassifier
from softmaxnet.memory import peak_resident_bytes

TEST_ROWS = 512
NOISE = 0.5


def draw(codes: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a noisy row for each label, a block at a time."""
    X = np.empty((len(labels), codes.shape[1]), dtype=np.float32)
    for start in range(0, len(labels), 100_000):
        part = slice(start, start + 100_000)
        X[part] = rng.standard_normal(X[part].shape, dtype=np.float32)
        X[part] *= NOISE
        X[part] += codes[labels[part]]
    return X


def main() -> None:
    """Fit, score and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--rows-per-class", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--max-seconds", type=float)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    codes = np.where(rng.random((args.classes, args.width), dtype=np.float32) < 0.5, np.float32(-1), np.float32(1))
    labels = rng.permutation(np.repeat(np.arange(args.classes), args.rows_per_class))
    X = draw(codes, labels, rng)
    classifier = SoftmaxClassifier(
        (),
        max_epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        learning_rate_schedule="constant" if args.epochs == 1 else "cosine",
        weight_decay=0.0,
        early_stopping=False,  # one row of each class: none can be held out
        max_seconds=args.max_seconds,
        features="raw",
        dropout=0.0,
        random_state=0,
    )
    started, busy = time.perf_counter(), time.process_time()
    classifier.fit(X, labels)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    seen = labels[:TEST_ROWS] if args.max_seconds is None else rng.choice(labels, TEST_ROWS)
    started = time.perf_counter()
    top, proba = classifier.predict_topk(draw(codes, seen, rng), 5)
    result: dict[str, Any] = {
        "classes": args.classes,
        "width": args.width,
        "rows": len(labels),
        "fit_seconds": seconds,
        "fit_cpu_seconds": busy,
        "loss": classifier.history_[-1]["loss"],
        "top_1_accuracy": float(np.mean(top[:, 0] == seen)),
        "top_5_accuracy": float(np.mean((top == seen[:, None]).any(1))),
        "mean_probability": float(proba[:, 0].mean()),
        "predict_seconds_per_row": (time.perf_counter() - started) / TEST_ROWS,
        "peak_megabytes": (peak_resident_bytes() or 0) / 1e6,
    }
    print(describe_in_words(describe_machine()))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
