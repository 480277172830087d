"""The numbers of the main job: MNIST, digits and iris, beside scikit-learn's in the same run.

``python benchmarks/basic.py --data DIR``; see ``benchmarks/README.md``. Each part runs in a process of its own, so
that "fresh" means it: ``python basic.py --part NAME`` prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from data_sets import load_split
from machine import describe_in_words, describe_machine, thread_environment

HERE = Path(__file__).resolve().parent
WEIGHT_DECAY = 1e-4


def judged(estimator: Any, X_test: Any, y_test: np.ndarray) -> dict[str, float]:
    """Return accuracy and log loss on test rows."""
    from sklearn.metrics import log_loss

    proba = np.asarray(estimator.predict_proba(X_test), dtype=np.float64)
    best = estimator.classes_[proba.argmax(1)]
    loss = log_loss(y_test, proba / proba.sum(1, keepdims=True), labels=estimator.classes_)
    return {"accuracy": float(np.mean(best == y_test)), "log_loss": float(loss)}


def timed_fit(estimator: Any, X: Any, y: np.ndarray) -> float:
    """Return the seconds that a fit takes, imports it makes included."""
    started = time.perf_counter()
    estimator.fit(X, y)
    return time.perf_counter() - started


def mnist_ours(data: Path) -> dict[str, float]:
    """Fit MNIST's bytes with default settings."""
    from softmaxnet.estimator import SoftmaxClassifier

    split = load_split("mnist", data, "test", 0)
    classifier = SoftmaxClassifier(random_state=0)
    seconds = timed_fit(classifier, split.X_train, split.y_train)
    return {"seconds": seconds, **judged(classifier, split.X_test, split.y_test)}


def mnist_mlp(data: Path) -> dict[str, float]:
    """Fit MNIST with scikit-learn's ``MLPClassifier()``, given float32 pixels in 0 to 1."""
    from sklearn.neural_network import MLPClassifier

    split = load_split("mnist", data, "test", 0)
    X_train, X_test = (X.astype(np.float32) / 255 for X in (split.X_train, split.X_test))
    classifier = MLPClassifier(random_state=0)
    seconds = timed_fit(classifier, X_train, split.y_train)
    return {"seconds": seconds, **judged(classifier, X_test, split.y_test)}


def mnist_classic(data: Path) -> dict[str, float]:
    """Fit the classic network: one sigmoid hidden layer of 200."""
    from softmaxnet.estimator import SoftmaxClassifier

    split = load_split("mnist", data, "test", 0)
    classifier = SoftmaxClassifier((200,), "sigmoid", random_state=0)
    seconds = timed_fit(classifier, split.X_train, split.y_train)
    return {"seconds": seconds, **judged(classifier, split.X_test, split.y_test)}


def objective(classifier: Any, X: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Return mean cross-entropy plus ``WEIGHT_DECAY / 2 |W|^2`` [nats]."""
    log_proba = np.asarray(classifier.predict_log_proba(X), dtype=np.float64)
    return float(-log_proba[np.arange(len(labels)), labels].mean() + WEIGHT_DECAY / 2 * np.sum(weights**2))


def regression_ours(data: Path) -> dict[str, float]:
    """Fit softmax regression on raw pixels in 0 to 1."""
    from softmaxnet.estimator import SoftmaxClassifier

    split = load_split("mnist", data, "test", 0)
    X = split.X_train.astype(np.float32) / 255
    classifier = SoftmaxClassifier(
        (),
        features="raw",
        weight_decay=WEIGHT_DECAY,
        early_stopping=False,
        calibration=None,
        random_state=0,
    )
    seconds = timed_fit(classifier, X, split.y_train)
    weights = np.concatenate([value.ravel() for value in weight_matrices(classifier.model_.params)])
    found = {"seconds": seconds, "objective": objective(classifier, X, split.y_train, weights)}
    return found | judged(classifier, split.X_test.astype(np.float32) / 255, split.y_test)


def weight_matrices(params: Any) -> list[np.ndarray]:
    """Return the parameters that the penalty is on: all but vectors of intercepts."""
    return [np.asarray(value, dtype=np.float64) for name, value in params.items() if "bias" not in name]


def regression_logistic(data: Path) -> dict[str, float]:
    """Fit scikit-learn's ``LogisticRegression`` to convergence with the same objective."""
    from sklearn.linear_model import LogisticRegression

    split = load_split("mnist", data, "test", 0)
    X = split.X_train.astype(np.float64) / 255
    classifier = LogisticRegression(C=1 / (len(X) * WEIGHT_DECAY), tol=1e-8, max_iter=5000)
    seconds = timed_fit(classifier, X, split.y_train)
    found = {"seconds": seconds, "objective": objective(classifier, X, split.y_train, classifier.coef_)}
    found["iterations"] = float(classifier.n_iter_[0])
    return found | judged(classifier, split.X_test / 255.0, split.y_test)


def regression_logistic_default(data: Path) -> dict[str, float]:
    """Fit ``LogisticRegression`` with its default tolerance and as many iterations as it takes: for the time."""
    from sklearn.linear_model import LogisticRegression

    split = load_split("mnist", data, "test", 0)
    X = split.X_train.astype(np.float32) / 255
    classifier = LogisticRegression(C=1 / (len(X) * WEIGHT_DECAY), max_iter=5000)
    seconds = timed_fit(classifier, X, split.y_train)
    return {"seconds": seconds, "objective": objective(classifier, X, split.y_train, classifier.coef_)}


def small_after_warm_up(data: Path) -> dict[str, float]:
    """Fit digits (80/20, seed 0) and iris after a warm-up fit in the same process."""
    from sklearn.datasets import load_digits, load_iris
    from sklearn.model_selection import train_test_split

    from softmaxnet.estimator import SoftmaxClassifier

    rng = np.random.default_rng(0)
    SoftmaxClassifier(random_state=0, max_epochs=2).fit(rng.normal(size=(3000, 4)), rng.integers(2, size=3000))
    found: dict[str, float] = {}
    for stratified in (False, True):
        X, y = load_digits(return_X_y=True)
        stratify = y if stratified else None
        parts = train_test_split(X, y, test_size=0.2, random_state=0, stratify=stratify)
        X_train, X_test, y_train, y_test = parts
        name = "digits_stratified" if stratified else "digits"
        classifier = SoftmaxClassifier(random_state=0)
        found[f"{name}_seconds"] = timed_fit(classifier, X_train, y_train)
        found |= {f"{name}_{key}": value for key, value in judged(classifier, X_test, y_test).items()}
    classifier = SoftmaxClassifier(random_state=0)
    found["iris_seconds"] = timed_fit(classifier, *load_iris(return_X_y=True))
    return found


PARTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "mnist_mlp": mnist_mlp,
    "mnist_ours": mnist_ours,
    "mnist_classic": mnist_classic,
    "regression_logistic": regression_logistic,
    "regression_logistic_default": regression_logistic_default,
    "regression_ours": regression_ours,
    "small": small_after_warm_up,
}


def goals(found: dict[str, dict[str, float]]) -> list[tuple[str, float, str, float]]:
    """Return what is promised: what, measured, the comparison, the number to reach."""

    def value(part: str, key: str) -> float:
        return found.get(part, {}).get(key, math.nan)

    gap = value("regression_ours", "objective") - value("regression_logistic", "objective")
    return [
        ("MNIST, defaults: accuracy", value("mnist_ours", "accuracy"), ">=", 0.985),
        ("MNIST, defaults: log loss [nats]", value("mnist_ours", "log_loss"), "<=", 0.050),
        (
            "MNIST, defaults: seconds over MLPClassifier()'s",
            value("mnist_ours", "seconds") / value("mnist_mlp", "seconds"),
            "<=",
            1.0,
        ),
        ("MNIST, (200,) sigmoid: accuracy", value("mnist_classic", "accuracy"), ">=", 0.980),
        ("MNIST, softmax regression: objective above LogisticRegression's [nats]", gap, "<=", 1e-4),
        (
            "MNIST, softmax regression: LogisticRegression's seconds (default tolerance) over ours",
            value("regression_logistic_default", "seconds") / value("regression_ours", "seconds"),
            ">=",
            8.0,
        ),
        ("digits: accuracy", value("small", "digits_accuracy"), ">=", 0.98),
        ("digits: seconds", value("small", "digits_seconds"), "<=", 3.0),
        ("digits, stratified split: accuracy", value("small", "digits_stratified_accuracy"), ">=", 0.98),
        ("iris: seconds", value("small", "iris_seconds"), "<=", 0.5),
    ]


def write_table(found: dict[str, Any], path: Path) -> str:
    """Write the Markdown beside the JSON and return it."""
    lines = ["# The main job in numbers", "", describe_in_words(found["machine"]) + f" {found['threads']} threads.", ""]
    lines += ["| what | measured | to reach | |", "|---|---|---|---|"]
    for what, measured, comparison, goal in goals(found["parts"]):
        reached = measured >= goal if comparison == ">=" else measured <= goal
        mark = "not run" if math.isnan(measured) else "reached" if reached else "MISSED"
        lines.append(f"| {what} | {measured:.5g} | {comparison} {goal:g} | {mark} |")
    lines += ["", "| part | results |", "|---|---|"]
    for name, results in found["parts"].items():
        shown = ", ".join(
            f"{key} {value:.5g}" if isinstance(value, float) else str(value) for key, value in results.items()
        )
        lines.append(f"| {name} | {shown} |")
    text = "\n".join(lines) + "\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return text


def run_part(name: str, data: Path, threads: int, limit: float) -> dict[str, Any]:
    """Run one part in a fresh process and return what it found."""
    command = [sys.executable, str(HERE / "basic.py"), "--part", name, "--data", str(data.resolve())]
    try:
        done = subprocess.run(
            command, env=thread_environment(threads), capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"over {limit:.0f} s"}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else str(done.returncode)}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Run the parts one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets with mnist/ in it")
    parser.add_argument("--parts", default=",".join(PARTS), help="which to run (default: all)")
    parser.add_argument("--part", choices=PARTS, help="run this one here and print JSON")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process (default: 2)")
    parser.add_argument("--time-limit", type=float, default=900, help="seconds for each part (default: 900)")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "basic.json")
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](options.data)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part under way is ended as well
    found: dict[str, Any] = {"machine": describe_machine(), "threads": options.threads, "parts": {}}
    for name in options.parts.split(","):
        found["parts"][name] = run_part(name, options.data, options.threads, options.time_limit)
        print(f"{name:28} {found['parts'][name]}", file=sys.stderr, flush=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    print(write_table(found, options.output))


if __name__ == "__main__":
    main()
