"""``softmaxnet predict``: a model file and rows -> labels and probabilities, one output row for each input row."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.cli.files import (
    bad_cell_text,
    bad_row_text,
    checked_output,
    feature_columns,
    located,
    require_data,
)
from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, counted, require_stdout
from softmaxnet.errors import DataError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxnet.data.dataset import Dataset
    from softmaxnet.features.columns import BadCell
    from softmaxnet.model import SoftmaxModel

__all__ = ["run"]


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Predict and write; always 0, errors are raised."""
    from softmaxnet.data.files import read_dataset
    from softmaxnet.data.output import output_format, write_columns
    from softmaxnet.model_file import load_model

    as_text = output_format(args.out, args.format) == "csv"
    if args.out == "-":
        require_stdout()
    else:
        checked_output(args.out, force=args.force, inputs=[args.model, args.data])
    require_data(args.data)
    model = load_model(args.model)
    _check_sets(args, model)
    data = read_dataset(
        args.data, part="test", reader={**model.reader, **dict(args.reader)}, on_bad_row="keep", need_target=False
    )
    kept = _kept(data, args.keep)
    n_guarded = _guard(kept) if as_text and not args.no_csv_guard else 0
    predictions = _Predictions(model, data, proba=args.proba, top=args.top, coverage=args.sets)
    columns = predictions.columns(as_text=as_text)
    clash = [name for name in kept if name in columns]
    if clash:
        raise UsageError(f"--keep {clash[0]}: the output has a column of that name itself; rename it in the data.")
    write_columns(args.out, {**kept, **columns}, format=args.format, force=args.force)
    terminal.say(predictions.summary(args.out))
    if n_guarded:
        terminal.note(
            f"{counted(n_guarded, 'kept cell')} that a spreadsheet could take for a formula begin with an added ' "
            "(--no-csv-guard leaves them as they are)"
        )
    return 0


def _check_sets(args: argparse.Namespace, model: SoftmaxModel) -> None:
    """Raise before any work where sets are asked for that the model cannot make."""
    if args.sets is None:
        return
    if model.conformal is None:
        raise UsageError(
            "this model was not prepared for prediction sets.",
            file=args.model,
            hint="Prepare it with labelled rows that it was not trained on: `softmaxnet calibrate MODEL DATA --sets -o "
            "NEW`, or in Python calibrate_sets(X, y); or fit it with --conformal-fraction 0.1.",
        )
    model.conformal.threshold(args.sets)


def _kept(data: Dataset, names: list[str]) -> dict[str, Any]:
    """Return the columns of the data that are copied to the output."""
    if not names:
        return {}
    from softmaxnet.data.opening import nearest

    known = getattr(data.X, "column_names", None)
    if known is None:
        raise UsageError("--keep: these data have no named columns.", hint=f"They are read from {data.source}.")
    for name in names:
        if name not in known:
            raise UsageError(f"--keep: the data have no column {name!r}.", hint=nearest(name, known) or None)
    return {name: data.X.column(name) for name in names}


def _guard(kept: dict[str, Any]) -> int:
    """Put a ' in front of texts that a spreadsheet would run as formulas; return how many there were.

    Those that begin with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return, and are no numbers.
    """
    import pyarrow.compute as pc

    from softmaxnet.features.arrow import NUMBER, decoded, is_text, whole

    n_guarded = 0
    for name, column in kept.items():
        texts = decoded(whole(column))
        if not is_text(texts.type):
            continue
        begins = pc.match_substring_regex(texts, r"^[=+\-@\t\r]").to_pylist()
        number = pc.match_substring_regex(pc.utf8_trim_whitespace(texts), NUMBER).to_pylist()
        risky = [a and not b for a, b in zip(begins, number, strict=True)]
        if any(risky):
            cells = zip(texts.to_pylist(), risky, strict=True)
            kept[name] = [f"'{text}" if is_risky else text for text, is_risky in cells]
            n_guarded += sum(map(bool, risky))
    return n_guarded


class _Predictions:
    """What a model says of every row, filled chunk by chunk so that no more than what is written is ever held."""

    def __init__(
        self, model: SoftmaxModel, data: Dataset, *, proba: bool, top: int | None, coverage: float | None
    ) -> None:
        self.model, self.data = model, data
        self.counts: dict[str, int] = {}
        n, n_classes = data.n_rows, model.n_classes
        width = min(top or 1, n_classes)
        self.named = top is not None
        self.labels = np.zeros((n, width), dtype=np.int64)
        self.probability = np.empty((n, width))
        self.proba = self._room_for_proba(n, n_classes) if proba else None
        self.errors: dict[int, str] = {bad.row: bad_row_text(bad) for bad in data.bad_rows}
        self.sets: list[list[Any]] | None = None
        X = feature_columns(data.X, model.feature_names_in, model.reader)
        cells: list[BadCell] = []
        try:
            for start, logits in model.iter_logits(X, counts=self.counts, bad=cells):
                self._take(start, logits)
            if coverage is not None:
                self.sets = self._sets(X, coverage, {cell.row for cell in cells})
        except DataError as error:
            raise located(error, data) from None
        for cell in cells:
            self.errors.setdefault(cell.row, bad_cell_text(cell, data))

    @staticmethod
    def _room_for_proba(n_rows: int, n_classes: int) -> NDArray[np.float64]:
        from softmaxnet.memory import allocate_result

        return allocate_result((n_rows, n_classes), np.float64)

    def _take(self, start: int, logits: NDArray[Any]) -> None:
        """Keep what is asked for of one chunk of rows."""
        from softmaxnet.softmax import softmax

        proba = softmax(logits.astype(np.float64))
        rows = slice(start, start + len(proba))
        width = self.labels.shape[1]
        if width == 1:
            best = proba.argmax(axis=1)[:, None]
        else:
            best = np.argsort(-proba, axis=1, kind="stable")[:, :width]
        self.labels[rows] = best
        self.probability[rows] = np.take_along_axis(proba, best, axis=1)
        if self.proba is not None:
            self.proba[rows] = proba

    def _sets(self, X: Any, coverage: float, bad: set[int]) -> list[list[Any]]:
        """Return the labels of each row's set; rows that cannot be read get none."""
        from softmaxnet.data.frames import take_rows

        good = np.array([row for row in range(self.data.n_rows) if row not in bad], dtype=np.int64)
        sets: list[list[Any]] = [[] for _ in range(self.data.n_rows)]
        if good.size == 0:
            return sets
        found = self.model.predict_set(take_rows(X, good), coverage)
        for row, labels in zip(good.tolist(), found, strict=True):
            sets[row] = labels.tolist()
        return sets

    def columns(self, *, as_text: bool) -> dict[str, Any]:
        """Return the output, column by column; rows that could not be read are empty and have an ``error``.

        A set is a list of labels, and as text the JSON of that list.
        """
        bad = np.array(sorted(self.errors), dtype=np.int64)
        columns: dict[str, Any] = {}
        for place in range(self.labels.shape[1]):
            suffix = f"_{place + 1}" if self.named else ""
            columns[f"label{suffix}"] = _emptied(self.model.classes[self.labels[:, place]], bad)
            columns[f"probability{suffix}"] = _emptied(self.probability[:, place], bad)
        if self.proba is not None:
            for index, label in enumerate(self.model.classes.tolist()):
                columns[f"proba_{label}"] = _emptied(self.proba[:, index], bad)
        if self.sets is not None:
            sets = [None if row in self.errors else labels for row, labels in enumerate(self.sets)]
            columns["set"] = [labels and json.dumps(labels, ensure_ascii=False) for labels in sets] if as_text else sets
        if bad.size:
            columns["error"] = [self.errors.get(row) for row in range(self.data.n_rows)]
        return columns

    def summary(self, out: str) -> str:
        """Return what there is to know besides the rows, in a line or two."""
        text = f"{counted(self.data.n_rows, 'row')} predicted" + ("" if out == "-" else f", written: {out}")
        if self.errors:
            first = self.errors[min(self.errors)]
            text += f"\n{len(self.errors):,} of them could not be read and are empty, the first: {first}"
        if self.counts:
            seen = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
            text += f"\nvalues never seen (or too rare) in training: {seen}"
        return text


def _emptied(values: NDArray[Any], bad: NDArray[np.int64]) -> Any:
    """Return a column with nothing in the rows that could not be read."""
    if not bad.size:
        return values
    if values.dtype.kind == "f":
        values = values.copy()
        values[bad] = np.nan
        return values
    cells = values.astype(object)
    cells[bad] = None
    return cells.tolist()
