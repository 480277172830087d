"""``softmaxnet evaluate``: a model file and labelled rows -> how good its probabilities are, and gates on that."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.cli.files import checked_output, feature_columns, known_columns, located, require_data
from softmaxnet.cli.labelled import labelled_blocks, readable_rows, refuse_all_unseen, warn_of_rows
from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, aligned, counted
from softmaxnet.errors import DataError, GateError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxnet.data.blocks import Block
    from softmaxnet.data.dataset import Dataset
    from softmaxnet.features.columns import BadCell
    from softmaxnet.metrics import RowScores
    from softmaxnet.model import SoftmaxModel
    from softmaxnet.report import ReportRows

__all__ = ["run"]

MAX_UNSEEN = 1000


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Score, print, and only then look at the gates."""
    from softmaxnet.model_file import load_model

    if args.report is not None:
        checked_output(args.report, force=args.force, inputs=[args.model, args.data])
    require_data(args.data)
    model = load_model(args.model)
    rows = _report_rows(args, model)
    scored = _Scored(model, args.on_bad_row, rows)
    with labelled_blocks(args, model, terminal) as blocks:
        for block in blocks:
            scored.add(block)
    data, result = scored.told(), scored.result()
    if rows is not None:
        _write_report(args, data, rows, result["n_bad_rows"])
    failed = _failed_gates(args, result)
    if args.max_log_loss is not None or args.min_accuracy is not None:
        result["failed_gates"] = failed
    terminal.answer(_text(result), {"model": args.model, "data": data.source, **result})
    unseen = "they count as wrong and have no log loss"
    warn_of_rows(terminal, model, data, result["n_unseen"], result["n_bad_rows"], unseen)
    if failed:
        raise GateError("; ".join(failed))
    return 0


def _report_rows(args: argparse.Namespace, model: SoftmaxModel) -> ReportRows | None:
    """Return what collects the rows of a report, where one is asked for."""
    if args.report is None:
        return None
    from softmaxnet.report import ReportRows

    return ReportRows(model)


def _write_report(args: argparse.Namespace, data: Dataset, rows: ReportRows, n_bad_rows: int) -> None:
    from softmaxnet.model_file import inspect_model
    from softmaxnet.report import write_report

    notes = [f"{counted(n_bad_rows, 'row')} could not be read and are left out."] if n_bad_rows else []
    write_report(
        args.report,
        rows,
        force=args.force,
        model_name=args.model,
        data_name=data.source,
        digest=str(inspect_model(args.model)["digest"]),
        notes=notes,
    )


class _Scored:
    """The rows that were scored, block by block: a few numbers of each, and what else is told of them.

    Parameters
    ----------
    model : SoftmaxModel
    on_bad_row : "fail", "skip" or int
    report : ReportRows, optional
    """

    def __init__(self, model: SoftmaxModel, on_bad_row: str | int, report: ReportRows | None = None) -> None:
        self.model, self.on_bad_row, self.report = model, on_bad_row, report
        self.counts: dict[str, int] = {}
        self.parts: list[RowScores] = []
        self.weights: list[NDArray[np.float64]] = []
        self.n_rows = self.n_bad = 0
        self.unseen: list[Any] = []
        """Labels that the model never saw, the first of them."""
        self.source = ""

    def add(self, block: Block) -> None:
        """Score the rows of a block that can be read."""
        from softmaxnet.data.labels import labels_of, lookup_labels
        from softmaxnet.metrics import RowScores

        data = block.data
        labels_of(data)  # says so, with file and line, where one is missing
        labels = lookup_labels(data.y, self.model.classes)
        self.n_bad += len(data.bad_rows)
        cells: list[BadCell] = []
        scores = RowScores.concatenate(self._chunks(block, labels, cells))
        weight = data.sample_weight
        good = readable_rows(cells, data, self.on_bad_row, self.n_bad)
        if good is not None:
            scores = RowScores(*(getattr(scores, field.name)[good] for field in dataclasses.fields(scores)))
            weight = None if weight is None else weight[good]
            self.n_bad += int((~good).sum())
        self.parts.append(scores)
        if weight is not None:
            self.weights.append(weight)
        assert data.y is not None
        self.unseen += data.y[labels < 0][: MAX_UNSEEN - len(self.unseen)].tolist()
        self.source, self.n_rows = data.source, self.n_rows + data.n_rows

    def _chunks(self, block: Block, labels: NDArray[np.int64], cells: list[BadCell]) -> list[RowScores]:
        """Return the scores of all rows of a block, those that cannot be read included."""
        from softmaxnet.metrics import score_rows
        from softmaxnet.softmax import log_softmax

        data, model, parts = block.data, self.model, []
        X = feature_columns(data.X, model.feature_names_in, model.reader)
        if self.n_rows:  # the first block has warned of the other columns
            X = known_columns(X, model.feature_names_in)
        try:
            for start, logits in model.iter_logits(X, counts=self.counts, bad=cells):
                log_proba = log_softmax(logits.astype(np.float64))
                part = slice(start, start + len(logits))
                parts.append(score_rows(log_proba, labels[part]))
                if self.report is not None:
                    bad = {cell.row for cell in cells}
                    _add_to_report(self.report, X, block, part, log_proba, labels[part], bad)
        except DataError as error:
            raise located(error, data) from None
        return parts

    def told(self) -> Dataset:
        """Return a data set that stands for all blocks in messages: with their number of rows and unseen labels."""
        from softmaxnet.data.dataset import Dataset

        y = np.empty(len(self.unseen), dtype=object)
        y[:] = self.unseen
        return Dataset(np.empty((self.n_rows, 0)), y, source=self.source)

    def result(self) -> dict[str, Any]:
        """Return the metrics of all rows that can be read."""
        from softmaxnet.metrics import RowScores, evaluate_rows

        scores = RowScores.concatenate(self.parts)
        self.parts = []
        refuse_all_unseen(self.model, self.told(), scores.labels)
        weight = np.concatenate(self.weights) if self.weights else None
        result = evaluate_rows(scores, self.model.n_classes, sample_weight=weight)
        more = {"n_classes": self.model.n_classes, "n_bad_rows": self.n_bad, "unseen_categories": self.counts}
        return {**result, **more}


def _add_to_report(
    rows: ReportRows, X: Any, block: Block, part: slice, log_proba: Any, labels: Any, bad: set[int]
) -> None:
    """Add the rows of one chunk that could be read."""
    from softmaxnet.data.frames import take_rows

    data = block.data
    assert data.y is not None
    numbers = np.arange(part.start, part.stop)
    rows.add(
        take_rows(X, part),
        log_proba,
        labels,
        sample_weight=None if data.sample_weight is None else data.sample_weight[part],
        y=data.y[part],
        lines=None if data.row_lines is None else data.row_lines[part],
        first_row=block.first_row + part.start,
        keep=~np.isin(numbers, list(bad)) if bad else None,
    )


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
