"""``softmaxnet calibrate``: a model file and new labelled rows -> the same model with probabilities fitted to them.

The network stays as it is: only what comes after its logits is fitted anew, and prediction sets are prepared.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.cli.files import checked_output, feature_columns, located, require_data
from softmaxnet.cli.labelled import read_labelled, readable_rows, refuse_all_unseen, warn_of_rows
from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, aligned, counted
from softmaxnet.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxnet.conformal import PredictionSets
    from softmaxnet.data.dataset import Dataset
    from softmaxnet.features.columns import BadCell
    from softmaxnet.model import SoftmaxModel

__all__ = ["run"]

LEAST_ROWS = 10
"""Rows that a calibration is fitted to at least; with fewer, chance decides."""
MATRIX_ROWS, MATRIX_ROWS_PER_CLASS = 300, 20
"""Rows from which a calibration matrix is worth trying."""
USUAL_COVERAGE = 0.9
"""Sets that cannot reach this coverage are worth a warning."""


@dataclass(frozen=True)
class _Rows:
    """Rows that count: logits before any calibration, class numbers, weights."""

    logits: NDArray[Any]
    labels: NDArray[np.int64]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[Any]) -> _Rows:
        return _Rows(self.logits[rows], self.labels[rows], self.weight[rows])


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Calibrate, prepare sets, write, and say what became better."""
    from softmaxnet.model_file import load_model, save_model

    _check_options(args)
    require_data(args.data)
    out = checked_output(args.out, force=args.force, inputs=[args.model, args.data])
    model = load_model(args.model)
    data = read_labelled(args, model)
    rows, n_unseen, n_bad_rows = _rows(model, data, args.on_bad_row)
    for_calibration, for_sets = _shares(args, rows, data)
    new = model
    result: dict[str, Any] = {"model": str(out), "from": args.model, "data": data.source}
    if for_calibration is not None:
        new, scores = _recalibrated(model, for_calibration, args.calibration or "auto")
        result |= scores
    if for_sets is not None:
        sets = _sets(new, for_sets, args.sets, args.per_class)
        new = replace(new, conformal=sets)
        result["sets"] = _about_sets(sets, len(for_sets))
    result |= {"n_rows": data.n_rows, "n_unseen": n_unseen, "n_bad_rows": n_bad_rows}
    with interrupts.deferred():
        save_model(new, out, force=args.force)
    terminal.answer(_text(result), result)
    warn_of_rows(terminal, model, data, n_unseen, n_bad_rows, "they are left out")
    _warn(terminal, args, model, new, rows, result)
    return interrupts.exit_code


def _check_options(args: argparse.Namespace) -> None:
    if args.out is None:
        raise UsageError("the model file to write must be named.", hint="For instance: -o calibrated.safetensors.")
    if args.out == "-":
        raise UsageError("a model is not written to standard output; name a file with -o.")
    if args.per_class and args.sets is None:
        raise UsageError("--per-class speaks of prediction sets; add --sets.")


def _rows(model: SoftmaxModel, data: Dataset, on_bad_row: str | int) -> tuple[_Rows, int, int]:
    """Return the rows that count, how many labels are unknown, and how many rows could not be read."""
    from softmaxnet.calibration import Calibration
    from softmaxnet.data.labels import lookup_labels
    from softmaxnet.memory import allocate_result

    plain = replace(model, calibration=Calibration(), conformal=None)
    labels = lookup_labels(data.y, model.classes)
    refuse_all_unseen(model, data, labels)
    logits = allocate_result((data.n_rows, model.n_classes), model.dtype)
    cells: list[BadCell] = []
    try:
        for start, part in plain.iter_logits(feature_columns(data.X, model.feature_names_in, model.reader), bad=cells):
            logits[start : start + len(part)] = part
    except DataError as error:
        raise located(error, data) from None
    good = readable_rows(cells, data, on_bad_row)
    good = np.ones(data.n_rows, dtype=bool) if good is None else good
    weight = np.ones(data.n_rows) if data.sample_weight is None else np.asarray(data.sample_weight, dtype=np.float64)
    n_unseen, n_bad = int((good & (labels < 0)).sum()), len(data.bad_rows) + int((~good).sum())
    return _Rows(logits, labels, weight).take(good & (labels >= 0) & (weight > 0)), n_unseen, n_bad


def _shares(args: argparse.Namespace, rows: _Rows, data: Dataset) -> tuple[_Rows | None, _Rows | None]:
    """Return the rows to calibrate by and those for the sets: where both are asked for, a random half each.

    The coverage of a set is guaranteed only by rows that were used for nothing before.
    """
    calibrates = args.calibration is not None or args.sets is None
    both = calibrates and args.sets is not None
    needed = (LEAST_ROWS if calibrates and args.calibration != "none" else 1) * (2 if both else 1)
    if len(rows) < needed:
        parts = ", half of them for the sets" if both else ""
        raise DataError(
            f"{counted(len(rows), 'row')} can be used; at least {needed} are needed{parts}.",
            file=data.source,
            hint="Rows count whose label is one of the model's classes and whose weight is not 0.",
        )
    if not both:
        return (rows, None) if calibrates else (None, rows)
    order = np.random.default_rng(0).permutation(len(rows))
    half = (len(rows) + 1) // 2
    return rows.take(np.sort(order[:half])), rows.take(np.sort(order[half:]))


def _recalibrated(model: SoftmaxModel, rows: _Rows, method: str) -> tuple[SoftmaxModel, dict[str, Any]]:
    """Return the model with its calibration fitted to the rows, and the scores of these rows before and after."""
    from softmaxnet.calibration import fit_calibration

    calibration = fit_calibration(rows.logits, rows.labels, rows.weight, method)
    before, after = (
        _scores(model.calibration.transform(rows.logits), rows),
        _scores(calibration.transform(rows.logits), rows),
    )
    metrics = {**model.metrics, "log_loss": after[0], "accuracy": after[1], "n_held_out": len(rows)}
    new = replace(model, calibration=calibration, metrics=metrics, conformal=None)
    return new, {
        "calibration": calibration.method,
        "temperature": calibration.temperature,
        "calibration_before": model.calibration.method,
        "temperature_before": model.calibration.temperature,
        "log_loss_before": before[0],
        "log_loss": after[0],
        "accuracy_before": before[1],
        "accuracy": after[1],
        "n_calibration_rows": len(rows),
    }


def _scores(logits: NDArray[Any], rows: _Rows) -> tuple[float, float]:
    """Return log loss [nats] and accuracy."""
    from softmaxnet.metrics import accuracy
    from softmaxnet.softmax import cross_entropy

    loss = cross_entropy(logits.astype(np.float64), rows.labels, sample_weight=rows.weight)
    return float(loss), float(accuracy(logits, rows.labels, sample_weight=rows.weight))


def _sets(model: SoftmaxModel, rows: _Rows, method: str, per_class: bool) -> PredictionSets:
    from softmaxnet.conformal import fit_sets
    from softmaxnet.softmax import softmax

    if per_class:
        counts = np.bincount(rows.labels, minlength=model.n_classes)
        if not counts.all():
            lacking = model.classes[counts == 0].tolist()
            named = ", ".join(map(repr, lacking[:5])) + (", ..." if len(lacking) > 5 else "")
            raise DataError(
                f"--per-class needs rows of every class; {len(lacking):,} of {model.n_classes:,} classes have none: "
                f"{named}.",
                hint=f"For a coverage of {USUAL_COVERAGE:g} every class needs {_needed(USUAL_COVERAGE)}.",
            )
    proba = softmax(model.calibration.transform(rows.logits).astype(np.float64))
    return fit_sets(proba, rows.labels, method=method, per_class=per_class)


def _needed(coverage: float) -> int:
    from softmaxnet.conformal import rows_needed

    return rows_needed(coverage)


def _about_sets(sets: PredictionSets, n_rows: int) -> dict[str, Any]:
    fewest = n_rows if sets.counts is None else int(sets.counts.min())
    return {
        "method": sets.method,
        "per_class": sets.counts is not None,
        "n_rows": n_rows,
        "n_rows_of_rarest_class": None if sets.counts is None else fewest,
        "max_coverage": fewest / (fewest + 1),
    }


# --- what is said -----------------------------------------------------------------------------------------------


def _text(result: dict[str, Any]) -> str:
    lines: list[tuple[str, str]] = []
    if "calibration" in result:
        rows = f"on {counted(result['n_calibration_rows'], 'row')}"
        before, after = (
            f"{result[f'calibration{part}']}, temperature {result[f'temperature{part}']:.4g}"
            for part in ("_before", "")
        )
        lines += [
            ("log loss", f"{result['log_loss_before']:.4f} -> {result['log_loss']:.4f}, in nats, {rows}"),
            ("accuracy", f"{result['accuracy_before']:.4f} -> {result['accuracy']:.4f}"),
            ("calibration", f"{before} -> {after}"),
        ]
    if "sets" in result:
        sets = result["sets"]
        kind = f"{sets['method']}, per class" if sets["per_class"] else sets["method"]
        lines.append(("prediction sets", f"{kind}, up to a coverage of {_floor(sets['max_coverage'])}"))
    return aligned(lines, widest=100) + f"\nwritten: {result['model']}"


def _floor(coverage: float) -> str:
    return f"{int(coverage * 10_000) / 10_000:g}"


def _warn(
    terminal: Terminal,
    args: argparse.Namespace,
    model: SoftmaxModel,
    new: SoftmaxModel,
    rows: _Rows,
    result: dict[str, Any],
) -> None:
    """Say what should be known before the new model is used."""
    if model.conformal is not None and new.conformal is None:
        terminal.warn(
            "the model's prediction sets were made for its old probabilities and are gone; make new ones with --sets, "
            "on rows that were not used here"
        )
    if "log_loss" in result and result["log_loss"] > result["log_loss_before"]:
        terminal.warn("the log loss of these rows is higher than before; consider keeping the old model")
    least = max(MATRIX_ROWS, MATRIX_ROWS_PER_CLASS * model.n_classes)
    n_rows = result.get("n_calibration_rows", 0)
    if args.calibration == "matrix" and n_rows < least:
        terminal.warn(
            f"a calibration matrix for {model.n_classes:,} classes wants {least:,} rows; there are {n_rows:,}"
        )
    sets = result.get("sets")
    if sets is not None and args.weights is not None and (rows.weight != rows.weight[0]).any():
        terminal.warn("prediction sets count every row once, whatever its weight")
    if sets is not None and sets["max_coverage"] < USUAL_COVERAGE - 1e-9:
        there = sets["n_rows"] if sets["n_rows_of_rarest_class"] is None else sets["n_rows_of_rarest_class"]
        of = " of every class" if sets["per_class"] else ""
        terminal.warn(
            f"a coverage of {USUAL_COVERAGE:g} needs {_needed(USUAL_COVERAGE)} rows{of}, 0.99 needs {_needed(0.99)}; "
            f"there are {there}{' of the rarest' if sets['per_class'] else ''}"
        )
