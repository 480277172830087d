"""The rows of ``bench.py``: softmaxnet and its peers in turn, what they took, and what is asked."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from basic import WEIGHT_DECAY, judged, objective, timed_fit, weight_matrices
from data_sets import load_split

OPERATIONS_PER_ROW = 4 * 784 * 512 + 6 * 512 * 10
"""Of a training step of 784-512-10: forward and weight gradients; the first layer needs no gradient at its input."""


@dataclass(frozen=True)
class Request:
    """What to run a row with."""

    data: Path | None
    threads: int
    quick: bool
    peak: dict[str, float]
    """Floating-point operations a second of matrix products, by dtype."""

    def rounds(self, full: int) -> int:
        """Return how often to go through the contestants."""
        return 1 if self.quick else full


@dataclass
class Outcome:
    """What a row found: ``measured`` by contestant, ``goals`` as (what, number, ">=" or "<=", what is asked)."""

    measured: dict[str, Any] = field(default_factory=dict)
    goals: list[tuple[str, float, str, float]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


SHORT = "softmaxnet:max_epochs=3:n_members=1"
"""Of banking77: a fit that is better than fastText's in both figures."""


class Skipped(Exception):
    """A row that cannot be run here, with the reason."""


def in_turn(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Run A B C A B C ... and return the median of what each returned [s]."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            found[name].append(run())
    return {name: statistics.median(values) for name, values in found.items()}


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """Return what runs something and returns its seconds."""

    def call() -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    return call


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings: of peers stopped before they converged, say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def mnist(request: Request) -> Any:
    """Return MNIST's rows, or skip."""
    if request.data is None or not (request.data / "mnist").is_dir():
        raise Skipped("needs --data DIR with mnist/ in it")
    return load_split("mnist", request.data, "test", 0)


# --- training -----------------------------------------------------------------------------------------------------


def _epochs(request: Request, X: np.ndarray, floats: np.ndarray, y: np.ndarray, hidden: int, batch: int) -> Outcome:
    """Measure seconds an epoch of the same network, batch and Adam, each contestant given what it is fastest with."""
    from sklearn.neural_network import MLPClassifier
    from torch_loops import CarefulLoop, UsualLoop

    from softmaxnet.estimator import SoftmaxClassifier

    ours_settings: dict[str, Any] = {
        "hidden_layer_sizes": (hidden,),
        "activation": "relu",
        "n_members": 1,
        "batch_size": batch,
        "features": "raw",
        "solver": "adam",
        "dropout": 0.0,
        "early_stopping": False,
        "calibration": None,
        "random_state": 0,
    }

    def ours() -> float:
        lines = SoftmaxClassifier(max_epochs=3, **ours_settings).fit(X, y).history_
        return (lines[-1]["seconds"] - lines[0]["seconds"]) / 2

    mlp = MLPClassifier((hidden,), batch_size=batch, random_state=0)
    mlp.partial_fit(floats, y, classes=np.unique(y))
    usual, careful = UsualLoop(floats, y, hidden, batch), CarefulLoop(floats, y, hidden, batch)
    contestants = {
        "softmaxnet": ours,
        "MLPClassifier": timed(lambda: mlp.partial_fit(floats, y)),
        "usual PyTorch loop": timed(usual.epoch),
        "careful PyTorch loop": timed(careful.epoch),
    }
    seconds = in_turn(contestants, request.rounds(5))
    return Outcome({f"{name} [rows/s]": len(y) / value for name, value in seconds.items()})


def train_mnist(request: Request) -> Outcome:
    """784-512-10, ReLU, Adam, batch 256: rows a second."""
    from softmaxnet.machine import has_bfloat16_products

    split = mnist(request)
    y = split.y_train.astype(np.int64)
    n = 12_000 if request.quick else len(y)
    X = split.X_train[:n]
    out = _epochs(request, X, X.astype(np.float32) / 255, y[:n], 512, 256)
    rate = out.measured["softmaxnet [rows/s]"]
    wide = has_bfloat16_products()
    share = rate * OPERATIONS_PER_ROW / request.peak["float32"]
    out.goals = [
        ("rows/s over MLPClassifier's", rate / out.measured["MLPClassifier [rows/s]"], ">=", 3.5 if wide else 2.0),
        (
            "rows/s over the usual PyTorch loop's",
            rate / out.measured["usual PyTorch loop [rows/s]"],
            ">=",
            4.0 if wide else 2.5,
        ),
        ("operations/s over the float32 matrix-product peak", share, ">=", 1.0 if wide else 0.8),
    ]
    out.measured["rows/s over the careful PyTorch loop's"] = rate / out.measured["careful PyTorch loop [rows/s]"]
    return out


def train_small(request: Request) -> Outcome:
    """64-100-10, batch 32: the overhead of a step."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X, y = np.tile(X.astype(np.float32) / 16, (8, 1)), np.tile(y.astype(np.int64), 8)
    out = _epochs(request, X, X, y, 100, 32)
    rate = out.measured["softmaxnet [rows/s]"]
    out.goals = [("rows/s over MLPClassifier's", rate / out.measured["MLPClassifier [rows/s]"], ">=", 4.0)]
    return out


def time_to_quality(request: Request) -> Outcome:
    """MNIST, ``n_members=1, max_epochs=8``, all else default, against ``MLPClassifier()``: accuracy and time."""
    from sklearn.neural_network import MLPClassifier

    from softmaxnet.estimator import SoftmaxClassifier

    split = mnist(request)
    scaled, scaled_test = (X.astype(np.float32) / 255 for X in (split.X_train, split.X_test))
    found: dict[str, Any] = {}

    def ours() -> float:
        found["softmaxnet"] = SoftmaxClassifier(n_members=1, max_epochs=8, random_state=0)
        return timed_fit(found["softmaxnet"], split.X_train, split.y_train)

    def mlp() -> float:
        found["MLPClassifier"] = MLPClassifier(random_state=0)
        return timed_fit(found["MLPClassifier"], scaled, split.y_train)

    SoftmaxClassifier(n_members=1, max_epochs=1, random_state=0).fit(split.X_train[:2000], split.y_train[:2000])  # warm
    seconds = in_turn({"softmaxnet": ours, "MLPClassifier": mlp}, request.rounds(2))
    scores = {
        name: judged(model, split.X_test if name == "softmaxnet" else scaled_test, split.y_test)
        for name, model in found.items()
    }
    goals = [
        ("seconds over MLPClassifier()'s", seconds["softmaxnet"] / seconds["MLPClassifier"], "<=", 0.25),
        ("test accuracy", scores["softmaxnet"]["accuracy"], ">=", 0.986),
    ]
    return Outcome({"seconds": seconds, "test": scores}, goals)


def epochs_linear(request: Request) -> Outcome:
    """Seconds an epoch against rows, 10,000 to 1,000,000: how far from proportional."""
    from softmaxnet.estimator import SoftmaxClassifier

    rng = np.random.default_rng(0)
    sizes = [10_000, 30_000, 100_000] if request.quick else [10_000, 30_000, 100_000, 300_000, 1_000_000]
    X = rng.standard_normal((sizes[-1], 20), dtype=np.float32)
    y = (X[:, :3].argmax(1)).astype(np.int64)

    def epoch(n: int) -> Callable[[], float]:
        def run() -> float:
            count = 5 if n <= 100_000 else 3
            lines = SoftmaxClassifier(
                (64,),
                n_members=1,
                batch_size=256,
                max_epochs=count,
                early_stopping=False,
                calibration=None,
                random_state=0,
            )
            history = lines.fit(X[:n], y[:n]).history_
            return (history[-1]["seconds"] - history[0]["seconds"]) / (count - 1)

        return run

    seconds = in_turn({str(n): epoch(n) for n in sizes}, request.rounds(3))
    rates = np.array([seconds[str(n)] / n for n in sizes])
    away = float(np.abs(rates / np.median(rates) - 1).max())
    return Outcome({"seconds an epoch": seconds}, [("largest distance from a straight line", away, "<=", 0.10)])


# --- whole fits -----------------------------------------------------------------------------------------------------


def regression(request: Request) -> Outcome:
    """MNIST softmax regression to the same objective as ``LogisticRegression``, float32 pixels for both."""
    from sklearn.linear_model import LogisticRegression

    from softmaxnet.estimator import SoftmaxClassifier

    split = mnist(request)
    n = 15_000 if request.quick else len(split.y_train)
    X, y = split.X_train[:n].astype(np.float32) / 255, split.y_train[:n].astype(np.int64)
    found: dict[str, float] = {}

    def ours() -> float:
        model = SoftmaxClassifier(
            (), features="raw", weight_decay=WEIGHT_DECAY, early_stopping=False, calibration=None, random_state=0
        )
        seconds = timed_fit(model, X, y)
        weights = np.concatenate([value.ravel() for value in weight_matrices(model.model_.params)])
        found["softmaxnet objective"] = objective(model, X, y, weights)
        found["softmaxnet iterations"] = float(model.n_iter_)
        return seconds

    def logistic(name: str, tolerance: float) -> Callable[[], float]:
        def run() -> float:
            model = LogisticRegression(C=1 / (n * WEIGHT_DECAY), tol=tolerance, max_iter=5000)
            seconds = timed_fit(model, X, y)
            found[f"{name} objective"] = objective(model, X, y, model.coef_)
            found[f"{name} iterations"] = float(model.n_iter_[0])
            return seconds

        return run

    contestants = {"softmaxnet": ours, "LogisticRegression()": logistic("LogisticRegression()", 1e-4)}
    SoftmaxClassifier((), features="raw", weight_decay=1.0).fit(X[:2000], y[:2000])  # so that its imports are not timed
    with quiet():
        seconds = in_turn(contestants, request.rounds(3))
        seconds["LogisticRegression(tol=1e-6)"] = logistic("LogisticRegression(tol=1e-6)", 1e-6)()
    best = min(value for key, value in found.items() if key.endswith("objective"))
    goals = [
        (
            "LogisticRegression()'s seconds over ours",
            seconds["LogisticRegression()"] / seconds["softmaxnet"],
            ">=",
            8.0,
        ),
        ("objective above the best found [nats]", found["softmaxnet objective"] - best, "<=", 1e-4),
    ]
    return Outcome({"seconds": seconds, **found}, goals)


def banking77(request: Request) -> Outcome:
    """banking77: seconds of a fit that is as good as fastText's, or as TF-IDF with LogisticRegression.

    A fit with the default epochs and members goes far beyond both; what is timed against them is ``SHORT``.
    """
    from peers import Task, method_named

    if request.data is None or not (request.data / "banking77").is_dir():
        raise Skipped("needs --data DIR with banking77/ in it")
    split = load_split("banking77", request.data, "test", 0)
    task, out = Task(split.kind, 0, request.threads), Outcome()
    built: dict[str, Any] = {}

    def fit(name: str) -> Callable[[], float]:
        method, settings = method_named(name)

        def run() -> float:
            built[name] = method.build(task, **settings)
            return timed_fit(built[name], split.X_train, split.y_train)

        return run

    names = []
    for name in ("softmaxnet", SHORT, "fasttext", "tfidf_logistic"):
        try:
            for module in method_named(name)[0].imports:
                __import__(module)
            names.append(name)
        except ImportError as error:
            out.skipped[name] = str(error)
    with quiet():
        seconds = in_turn({name: fit(name) for name in names}, request.rounds(2))
        scores = {name: judged(built[name], split.X_test, split.y_test) for name in names}
    out.measured = {"seconds": seconds, "test": scores}
    peer, least = ("fasttext", 1.0) if "fasttext" in seconds else ("tfidf_logistic", 5.0)
    out.goals.append((f"{peer}'s seconds over those of {SHORT}", seconds[peer] / seconds[SHORT], ">=", least))
    for key, sign in (("log_loss", "<="), ("accuracy", ">=")):
        out.goals.append((f"test {key} of {SHORT} against {peer}'s", scores[SHORT][key], sign, scores[peer][key]))
    return out


# --- predicting -----------------------------------------------------------------------------------------------------


def _pair(n_inputs: int, hidden: int, features: str) -> tuple[Any, Any, np.ndarray]:
    """Return a fitted softmaxnet and MLPClassifier of one shape, and the rows (random numbers)."""
    from sklearn.neural_network import MLPClassifier

    from softmaxnet.estimator import SoftmaxClassifier

    rng = np.random.default_rng(0)
    X = rng.random((3000, n_inputs), dtype=np.float32)
    y = rng.integers(0, 10, len(X))
    ours = SoftmaxClassifier(
        (hidden,), "relu", n_members=1, max_epochs=1, early_stopping=False, features=features, random_state=0
    ).fit(X, y)
    with quiet():
        return ours, MLPClassifier((hidden,), max_iter=1, random_state=0).fit(X, y), X


def single_row(request: Request) -> Outcome:
    """``predict_proba`` of one float32 row: median microseconds, and ratios to ``MLPClassifier``'s."""
    from softmaxnet import load_model

    out = Outcome()
    for n_inputs, hidden in ((64, 100), (784, 512)):
        contestants: dict[str, Callable[[], float]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for features in ("raw", "auto"):
                ours, mlp, X = _pair(n_inputs, hidden, features)
                row, path = X[:1].copy(), Path(folder, f"{features}.safetensors")
                ours.save(path)
                loaded = load_model(path)
                contestants[f"load_model, {features}"] = timed(lambda model=loaded, x=row: model.predict_proba(x))
                contestants[f"SoftmaxClassifier, {features}"] = timed(lambda model=ours, x=row: model.predict_proba(x))
        contestants["MLPClassifier"] = timed(lambda model=mlp, x=row: model.predict_proba(x))
        in_turn(contestants, 200)
        seconds = in_turn(contestants, 400 if request.quick else 3000)
        shape = f"{n_inputs}-{hidden}-10"
        out.measured[f"{shape} [us]"] = {name: value * 1e6 for name, value in seconds.items()}
        for name, least in (("load_model, raw", 6.0), ("load_model, auto", 2.0), ("SoftmaxClassifier, auto", 1.0)):
            ratio = seconds["MLPClassifier"] / seconds[name]
            out.goals.append((f"{shape}: MLPClassifier's microseconds over {name}'s", ratio, ">=", least))
    return out


def many_rows(request: Request) -> Outcome:
    """``predict_proba`` of 100,000 float32 rows, 784-512-10."""
    n = 10_000 if request.quick else 100_000
    out = Outcome()
    for features, asked in (("raw", 2.0), ("auto", None)):
        ours, mlp, X = _pair(784, 512, features)
        rows = np.tile(X, (n // len(X) + 1, 1))[:n]
        contestants = {
            "softmaxnet": timed(lambda model=ours.model_, x=rows: model.predict_proba(x)),
            "MLPClassifier": timed(lambda model=mlp, x=rows: model.predict_proba(x)),
        }
        seconds = in_turn(contestants, request.rounds(5))
        out.measured[f"{features} [s]"] = seconds
        if asked:
            ratio = seconds["MLPClassifier"] / seconds["softmaxnet"]
            out.goals.append(("MLPClassifier's seconds over ours, raw", ratio, ">=", asked))
    return out


# --- starting up ----------------------------------------------------------------------------------------------------


def _process(*arguments: str) -> Callable[[], float]:
    """Return what runs this Python with arguments and returns its seconds."""
    command = [sys.executable, *arguments]
    return timed(lambda: subprocess.run(command, check=True, capture_output=True, env=os.environ))


def help_text(request: Request) -> Outcome:
    """Seconds of ``softmaxnet --help`` beyond those of ``python -c pass``."""
    contestants = {"--help": _process("-m", "softmaxnet", "--help"), "pass": _process("-c", "pass")}
    seconds = in_turn(contestants, 3 if request.quick else 15)
    return Outcome(
        {"seconds": seconds}, [("seconds beyond python -c pass", seconds["--help"] - seconds["pass"], "<=", 0.15)]
    )


def predict_process(request: Request) -> Outcome:
    """Seconds of ``softmaxnet predict`` of ten rows of a CSV file, whole process."""
    from sklearn.datasets import load_digits

    from softmaxnet.estimator import SoftmaxClassifier

    frame = load_digits(as_frame=True)
    with tempfile.TemporaryDirectory() as folder:
        model, data = str(Path(folder, "digits.safetensors")), str(Path(folder, "ten.csv"))
        SoftmaxClassifier(max_epochs=2, random_state=0).fit(frame.data, frame.target).save(model)
        frame.data.head(10).to_csv(data, index=False)
        run = _process("-m", "softmaxnet", "predict", model, data)
        seconds = in_turn({"predict": run, "pass": _process("-c", "pass")}, 3 if request.quick else 15)
        loaded = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "softmaxnet", "predict", model, data],
            check=True,
            capture_output=True,
            text=True,
        ).stderr
    heavy = sum(any(line.endswith(f"| {name}") for line in loaded.splitlines()) for name in ("torch", "sklearn"))
    goals = [
        ("seconds", seconds["predict"], "<=", 0.4),
        ("of torch and sklearn imported", float(heavy), "<=", 0.0),
    ]
    return Outcome({"seconds": seconds}, goals)


ROWS: dict[str, Callable[[Request], Outcome]] = {
    "train_mnist": train_mnist,
    "train_small": train_small,
    "time_to_quality": time_to_quality,
    "regression": regression,
    "banking77": banking77,
    "single_row": single_row,
    "many_rows": many_rows,
    "epochs_linear": epochs_linear,
    "help": help_text,
    "predict_process": predict_process,
}
