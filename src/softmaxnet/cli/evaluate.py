"""``softmaxnet evaluate``: a model file and labelled rows -> how good its probabilities are, and gates on that."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.cli.files import feature_columns, located, require_data
from softmaxnet.cli.labelled import read_labelled, readable_rows, refuse_all_unseen, warn_of_rows
from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, aligned
from softmaxnet.errors import DataError, GateError

if TYPE_CHECKING:
    from softmaxnet.data.dataset import Dataset
    from softmaxnet.features.columns import BadCell
    from softmaxnet.model import SoftmaxModel

__all__ = ["run"]


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Score, print, and only then look at the gates."""
    from softmaxnet.model_file import load_model

    require_data(args.data)
    model = load_model(args.model)
    data = read_labelled(args, model)
    result = _evaluate(model, data, args.on_bad_row)
    failed = _failed_gates(args, result)
    if args.max_log_loss is not None or args.min_accuracy is not None:
        result["failed_gates"] = failed
    terminal.answer(_text(result), {"model": args.model, "data": data.source, **result})
    unseen = "they count as wrong and have no log loss"
    warn_of_rows(terminal, model, data, result["n_unseen"], result["n_bad_rows"], unseen)
    if failed:
        raise GateError("; ".join(failed))
    return 0


def _evaluate(model: SoftmaxModel, data: Dataset, on_bad_row: str | int) -> dict[str, Any]:
    """Return the metrics of all rows that can be read."""
    from softmaxnet.data.labels import lookup_labels
    from softmaxnet.metrics import RowScores, evaluate_rows, score_rows
    from softmaxnet.softmax import log_softmax

    labels = lookup_labels(data.y, model.classes)
    counts: dict[str, int] = {}
    cells: list[BadCell] = []
    parts = []
    X = feature_columns(data.X, model.feature_names_in, model.reader)
    try:
        for start, logits in model.iter_logits(X, counts=counts, bad=cells):
            log_proba = log_softmax(logits.astype(np.float64))
            parts.append(score_rows(log_proba, labels[start : start + len(logits)]))
    except DataError as error:
        raise located(error, data) from None
    good = readable_rows(cells, data, on_bad_row)
    scores = RowScores.concatenate(parts)
    weight = data.sample_weight
    if good is not None:
        scores = RowScores(
            *(getattr(scores, name)[good] for name in ("labels", "log_proba", "distance", "confidence", "rank"))
        )
        weight = None if weight is None else weight[good]
    refuse_all_unseen(model, data, scores.labels)
    result = evaluate_rows(scores, model.n_classes, sample_weight=weight)
    n_bad = len(data.bad_rows) + (0 if good is None else int((~good).sum()))
    return {**result, "n_classes": model.n_classes, "n_bad_rows": n_bad, "unseen_categories": counts}


def _failed_gates(args: argparse.Namespace, result: dict[str, Any]) -> list[str]:
    """Return what is not met, one sentence each."""
    failed = []
    if args.max_log_loss is not None and not result["log_loss"] <= args.max_log_loss:
        failed.append(f"log loss {result['log_loss']:.6g} is above {args.max_log_loss:g}")
    if args.min_accuracy is not None and not result["accuracy"] >= args.min_accuracy:
        failed.append(f"accuracy {result['accuracy']:.6g} is below {args.min_accuracy:g}")
    return failed


def _text(result: dict[str, Any]) -> str:
    """Return the metrics for a person, the proper scores first."""

    def interval(name: str) -> str:
        bounds = result.get(f"{name}_interval")
        return f"95 % interval {bounds[0]:.4f} .. {bounds[1]:.4f}" if bounds else ""

    rows = [
        ("log loss", f"{result['log_loss']:.4f}", interval("log_loss") + ", in nats"),
        ("Brier score", f"{result['brier']:.4f}", ""),
        ("accuracy", f"{result['accuracy']:.4f}", interval("accuracy")),
        ("balanced accuracy", f"{result['balanced_accuracy']:.4f}", ""),
        ("top-5 accuracy", f"{result['top_5_accuracy']:.4f}", "") if "top_5_accuracy" in result else (),
        ("calibration error", f"{result['calibration_error']:.4f}", "smooth, of the most probable class"),
        ("rows", f"{result['n_rows']}", f"{result['n_unseen']} with labels that the model never saw"),
    ]
    unseen = result["unseen_categories"]
    if unseen:
        named = ", ".join(f"{name} {count}" for name, count in unseen.items())
        rows.append(("unseen values", f"{sum(unseen.values())}", named))
    return aligned([row for row in rows if row])
