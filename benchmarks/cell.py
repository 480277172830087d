"""One measurement, in a process of its own: fit one method on one data set with one seed and score it.

``python cell.py REQUEST.json RESULT.json``: the request has ``set``, ``method``, ``seed``, ``mode``, ``threads`` and
``data``; the result is one JSON object. Started by ``quality.py``.
"""

from __future__ import annotations

import importlib
import json
import re
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from data_sets import Split, load_split
from peers import Method, Task, method_named

FLOOR = np.finfo(np.float64).eps
"""Probabilities are clipped here before the logarithm, as scikit-learn's ``log_loss`` does."""
N_RESAMPLES = 200


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a request: its ``status`` is "ok", "absent" (not installed) or "failed"."""
    method, settings = method_named(request["method"])
    split = load_split(request["set"], request["data"] and Path(request["data"]), request["mode"], request["seed"])
    started = time.perf_counter()
    try:
        for name in method.imports:
            importlib.import_module(name)
    except ImportError as error:
        return {"status": "absent", "error": str(error)}
    result: dict[str, Any] = {"import_seconds": time.perf_counter() - started, "rss_before_mib": _peak_rss()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            result |= {"status": "ok"} | _fit_and_score(method, settings, split, request)
        except Exception as error:  # whatever a method dies of is a result
            result |= {"status": "failed", "error": f"{type(error).__name__}: {error}"[:500]}
            trace = "".join(traceback.format_exception(error)[-3:])[-1500:]
            result["traceback"] = re.sub(r'File ".*/', 'File "', trace)
    result["warnings"] = sorted({f"{w.category.__name__}: {str(w.message).strip()}"[:240] for w in caught})[:8]
    return result | {"peak_rss_mib": _peak_rss()}


def _fit_and_score(method: Method, settings: dict[str, Any], split: Split, request: dict[str, Any]) -> dict[str, Any]:
    estimator = method.build(Task(split.kind, request["seed"], request["threads"]), **settings)
    started = time.perf_counter()
    estimator.fit(split.X_train, split.y_train)
    fitted = time.perf_counter()
    proba = np.asarray(estimator.predict_proba(split.X_test))
    predicted = time.perf_counter()
    result = {
        "fit_seconds": fitted - started,
        "predict_seconds": predicted - fitted,
        "n_train": len(split.y_train),
        "n_classes": len(estimator.classes_),
        **score(proba, np.asarray(estimator.classes_), split.y_test),
    }
    if split.truth is not None:
        result["log_loss_of_truth"] = score(split.truth, np.arange(split.truth.shape[1]), split.y_test)["log_loss"]
    return result | _how_it_went(estimator)


def score(proba: np.ndarray, classes: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Return the metrics of probabilities; rows of classes that the method never saw count as wrong, no more."""
    from softmaxnet.metrics import evaluate_log_proba

    if proba.shape != (len(y), len(classes)) or not np.isfinite(proba).all():
        raise ValueError(f"predict_proba gave {proba.shape} with {np.sum(~np.isfinite(proba))} values not finite")
    proba = proba.astype(np.float64)
    proba /= proba.sum(1, keepdims=True)
    place = {label: k for k, label in enumerate(classes.tolist())}
    labels = np.array([place.get(label, -1) for label in y.tolist()])
    known = labels >= 0
    log_proba = np.log(np.clip(proba, FLOOR, 1.0))
    n_unseen = int((~known).sum())
    found = evaluate_log_proba(log_proba[known], labels[known], n_unseen=n_unseen, n_resamples=N_RESAMPLES)
    null = found.pop("calibration_error_null")
    found["calibration_inside_band"] = bool(found["calibration_error"] <= null["high"])
    return found | {"calibration_error_null": null}


def _how_it_went(estimator: Any) -> dict[str, Any]:
    """Return what a fitted softmaxnet says of itself."""
    model = getattr(estimator, "model_", None)
    if not hasattr(model, "settings"):
        return {}
    kept = (
        "hidden_layer_sizes",
        "n_members",
        "solver",
        "max_epochs",
        "learning_rate",
        "batch_size",
        "validation",
    )
    return {
        "n_iter": estimator.n_iter_,
        "temperature": estimator.temperature_,
        "settings": {key: model.settings[key] for key in kept if key in model.settings},
        "held_out": estimator.metrics_,
    }


def _peak_rss() -> float:
    """Return the most memory this process has held so far [MiB]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


if __name__ == "__main__":
    request_path, result_path = map(Path, sys.argv[1:3])
    answer = measure(json.loads(request_path.read_text()))
    result_path.write_text(json.dumps(answer, default=float))
