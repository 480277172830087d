"""``softmaxnet predict``: a model file and rows -> labels and probabilities, one output row for each input row."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.cli.files import (
    bad_cell_text,
    bad_row_text,
    checked_output,
    decimal_remedy,
    feature_columns,
    known_columns,
    located,
    moved_cell,
    require_data,
)
from softmaxnet.cli.progress import RowProgress
from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, counted, require_stdout
from softmaxnet.data.dataset import Dataset
from softmaxnet.data.frames import take_rows
from softmaxnet.errors import DataError, UsageError
from softmaxnet.memory import allocate_result

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxnet.data.blocks import Block
    from softmaxnet.data.output import ColumnWriter
    from softmaxnet.decisions import CostMatrix
    from softmaxnet.features.columns import BadCell
    from softmaxnet.model import SoftmaxModel

__all__ = ["run"]

PIECE_BYTES = 64 << 20
"""Of probabilities that are held at once."""
MAX_TEXTS = 1000
MOSTLY = 0.5
"""From this share of rows on a fault is told apart from the odd bad cell."""


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Predict and write, block by block; always 0, errors are raised."""
    from softmaxnet.data.output import column_writer, output_format
    from softmaxnet.decisions import read_costs
    from softmaxnet.model_file import load_model

    as_text = output_format(args.out, args.format) == "csv"
    if args.out == "-":
        require_stdout()
    else:
        checked_output(args.out, force=args.force, inputs=[args.model, args.data])
    require_data(args.data)
    model = load_model(args.model)
    _check_sets(args, model)
    costs = None if args.costs is None else read_costs(args.costs, model.classes)
    source = _Blocks(args, model, terminal)
    with column_writer(args.out, format=args.format, force=args.force) as writer:
        tally = _written(writer, source, _Predictor(model, args, costs, as_text=as_text))
        if tally is None:  # the first bad row came late, and its column is there from the first row on
            writer.restart()
            tally = _written(writer, source, _Predictor(model, args, costs, as_text=as_text, with_errors=True))
            assert tally is not None
    _report(tally, args.out, terminal)
    return 0


def _written(writer: ColumnWriter, source: _Blocks, predictor: _Predictor) -> _Tally | None:
    """Write a row for every row; None where one has an error and those before it went without that column."""
    for block in source:
        for columns in predictor.pieces(block):
            if columns is None:
                return None
            writer.write(columns)
    return predictor.tally


def _report(tally: _Tally, out: str, terminal: Terminal) -> None:
    """Tell what there is to know besides the rows; raise where none could be read."""
    terminal.say(tally.summary(out))
    if tally.n_guarded:
        terminal.note(
            f"{counted(tally.n_guarded, 'kept cell')} that a spreadsheet could take for a formula begin with an added "
            "' (--no-csv-guard leaves them as they are)"
        )
    for text in tally.doubts():
        terminal.warn(text)
    tally.refuse_if_none_was_read()


class _Blocks:
    """The rows of DATA, block by block, as often as they are asked for; what is read whole is kept.

    Parameters
    ----------
    args : argparse.Namespace
    model : SoftmaxModel
    terminal : Terminal
    """

    def __init__(self, args: argparse.Namespace, model: SoftmaxModel, terminal: Terminal) -> None:
        from softmaxnet.data.stream import streamable_files

        self.args, self.reader, self.terminal = args, {**model.reader, **dict(args.reader)}, terminal
        self.model = model
        found = None if args.data == "-" else streamable_files(Path(os.path.expanduser(args.data)))
        self.unit = "bytes" if found is not None and found[1] == "text" else "rows"
        self.is_whole = found is None
        self.held: list[Block] = []

    def __iter__(self) -> Iterator[Block]:
        if self.held:
            yield from self.held
            return
        from softmaxnet.data.blocks import Block, dataset_blocks
        from softmaxnet.drawing import read_drawing

        drawing = read_drawing(self.args.data, self.model)
        if drawing is not None:
            self.held.append(Block(0, 1, drawing))
            yield from self.held
            return
        with RowProgress(self.terminal, "predicting", self.unit) as progress:
            blocks = dataset_blocks(
                self.args.data,
                part="test",
                reader=self.reader,
                on_bad_row="keep",
                need_target=False,
                on_progress=progress,
            )
            for block in blocks:
                if self.is_whole:
                    self.held.append(block)
                progress.note_rows(block.first_row)
                yield block


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


class _Predictor:
    """What a model says of rows, as columns of the output, in pieces of bounded size.

    Parameters
    ----------
    model : SoftmaxModel
    args : argparse.Namespace
    costs : CostMatrix or None
        Of the decisions that are to be written.
    as_text : bool
        Sets are written as the JSON of a list, and texts that look like formulas are guarded.
    with_errors : bool
        Whether there is a column of errors; where it is not said, if a row of the first piece has one.
    """

    def __init__(
        self,
        model: SoftmaxModel,
        args: argparse.Namespace,
        costs: CostMatrix | None,
        *,
        as_text: bool,
        with_errors: bool | None = None,
    ) -> None:
        import pyarrow as pa

        self.model, self.args, self.costs = model, args, costs
        self.as_text, self.with_errors = as_text, with_errors
        self.tally = _Tally()
        self.classes = pa.array(model.classes.tolist())
        self.width = min(args.top or 1, model.n_classes)
        wide = model.n_classes if args.proba else self.width
        self.piece_rows = max(PIECE_BYTES // (16 * wide), 1)

    def pieces(self, block: Block) -> Iterator[dict[str, Any] | None]:
        """Yield the columns for the rows of a block; None where a row has an error and there is no column for it."""
        data = block.data
        self.tally.begin(data)
        known = {bad.row - block.first_row: bad_row_text(bad) for bad in data.bad_rows}
        for low in range(0, max(data.n_rows, 1), self.piece_rows):
            high = min(low + self.piece_rows, data.n_rows)
            columns, errors = self._columns(block, low, high)
            errors |= {row - low: text for row, text in known.items() if low <= row < high}
            if self.with_errors is None:
                self.with_errors = bool(errors)
            if errors and not self.with_errors:
                yield None
                return
            yield self._finished(block, low, high, columns, errors)

    def _columns(self, block: Block, low: int, high: int) -> tuple[dict[str, Any], dict[int, str]]:
        """Return numbers for each row of a piece, and what is wrong with some of them."""
        data = block.data
        X = feature_columns(data.X, self.model.feature_names_in, self.model.reader)
        X = take_rows(X, slice(low, high))
        if self.tally.n_rows:  # the first piece has warned of the other columns
            X = known_columns(X, self.model.feature_names_in)
        n, cells = high - low, []  # type: tuple[int, list[BadCell]]
        labels, probability = np.zeros((n, self.width), dtype=np.int64), np.empty((n, self.width))
        found: dict[str, Any] = {"labels": labels, "probability": probability}
        if self.args.proba:
            found["proba"] = allocate_result((n, self.model.n_classes), np.float64)
        if self.costs is not None:
            found["decision"], found["cost"] = np.zeros(n, dtype=np.int64), np.zeros(n)
        try:
            if self.args.proba or self.costs is not None:
                for start, logits in self.model.iter_logits(X, counts=self.tally.counts, bad=cells):
                    self._take(start, logits, found)
            else:  # no row's probabilities of all classes are needed
                for start, best, proba in self.model.iter_top(X, self.width, counts=self.tally.counts, bad=cells):
                    rows = slice(start, start + len(best))
                    labels[rows], probability[rows] = best, proba
            if self.args.sets is not None:
                found["sets"] = self._sets(X, {cell.row for cell in cells})
        except DataError as error:
            raise located(error, data, np.arange(low, high)) from None
        return found, {cell.row: self._cell_text(cell, block, low) for cell in cells}

    def _cell_text(self, cell: BadCell, block: Block, low: int) -> str:
        """Return what is wrong with a cell, with its line, or its row in the file."""
        text = bad_cell_text(moved_cell(cell, low), block.data)
        there = cell.row + low
        return text.replace(f", row {there}: ", f", row {there + block.first_row}: ", 1)

    def _take(self, start: int, logits: NDArray[Any], found: dict[str, Any]) -> None:
        """Keep what is asked for of one chunk of rows."""
        from softmaxnet.softmax import softmax

        proba = softmax(logits.astype(np.float64))
        rows = slice(start, start + len(proba))
        if self.width == 1:
            best = proba.argmax(axis=1)[:, None]
        else:
            best = np.argsort(-proba, axis=1, kind="stable")[:, : self.width]
        found["labels"][rows] = best
        found["probability"][rows] = np.take_along_axis(proba, best, axis=1)
        if "proba" in found:
            found["proba"][rows] = proba
        if self.costs is not None:
            found["decision"][rows], found["cost"][rows] = self.costs.decide(proba)

    def _sets(self, X: Any, bad: set[int]) -> list[list[Any]]:
        """Return the labels of each row's set; rows that cannot be read get none."""
        n_rows = X.shape[0]
        good = np.array([row for row in range(n_rows) if row not in bad], dtype=np.int64)
        sets: list[list[Any]] = [[] for _ in range(n_rows)]
        if good.size == 0:
            return sets
        found = self.model.predict_set(take_rows(X, good), self.args.sets)
        for row, labels in zip(good.tolist(), found, strict=True):
            sets[row] = labels.tolist()
        return sets

    def _finished(
        self, block: Block, low: int, high: int, found: dict[str, Any], errors: dict[int, str]
    ) -> dict[str, Any]:
        """Return the output, column by column; rows that could not be read are empty and have an ``error``."""
        import pyarrow as pa

        bad = np.zeros(high - low, dtype=bool)
        bad[list(errors)] = True
        columns: dict[str, Any] = {}
        for place in range(self.width):
            suffix = f"_{place + 1}" if self.args.top is not None else ""
            columns[f"label{suffix}"] = self.classes.take(pa.array(found["labels"][:, place], mask=bad))
            columns[f"probability{suffix}"] = pa.array(found["probability"][:, place], mask=bad)
        if self.costs is not None:
            decisions = pa.array(np.asarray(self.costs.decisions).tolist())
            columns["decision"] = decisions.take(pa.array(found["decision"], mask=bad))
            columns["expected_cost"] = pa.array(found["cost"], mask=bad)
            self.tally.cost = (self.tally.cost or 0.0) + float(found["cost"][~bad].sum())
        for index, label in enumerate(self.model.classes.tolist() if "proba" in found else []):
            columns[f"proba_{label}"] = pa.array(found["proba"][:, index], mask=bad)
        if "sets" in found:
            columns["set"] = self._set_column(found["sets"], errors)
        if self.with_errors:
            columns["error"] = pa.array([errors.get(row) for row in range(high - low)], pa.string())
        kept = _kept(block.data, self.args.keep)
        clash = [name for name in kept if name in columns or name == "error"]
        if clash:
            raise UsageError(f"--keep {clash[0]}: the output has a column of that name itself; rename it in the data.")
        kept = {name: column.slice(low, high - low) for name, column in kept.items()}
        n_guarded = _guard(kept) if self.as_text and not self.args.no_csv_guard else 0
        self.tally.add(high - low, block.first_row + low, errors, n_guarded)
        return {**kept, **columns}

    def _set_column(self, sets: list[list[Any]], errors: dict[int, str]) -> Any:
        """Return a column of lists of labels, as text the JSON of them."""
        import pyarrow as pa

        known = [None if row in errors else labels for row, labels in enumerate(sets)]
        if not self.as_text:
            return pa.array(known, pa.list_(self.classes.type))
        return pa.array([labels and json.dumps(labels, ensure_ascii=False) for labels in known], pa.string())


class _Tally:
    """What was predicted, counted."""

    def __init__(self) -> None:
        self.n_rows = self.n_bad = self.n_guarded = 0
        self.counts: dict[str, int] = {}
        self.cost: float | None = None
        self.first = ""
        self.texts: list[str] = []
        """Of the first errors."""
        self.data: Dataset | None = None

    def begin(self, data: Dataset) -> None:
        """Note where rows come from: the first block says it for all."""
        if self.data is None:
            self.data = Dataset(data.X[:0], None, source=data.source, reader=data.reader)

    def add(self, n_rows: int, first_row: int, errors: dict[int, str], n_guarded: int) -> None:
        """Count a piece."""
        if errors and not self.n_bad:
            self.first = errors[min(errors)]
        self.texts += list(errors.values())[: MAX_TEXTS - len(self.texts)]
        self.n_rows += n_rows
        self.n_bad += len(errors)
        self.n_guarded += n_guarded

    def remedy(self) -> str:
        """Return what may help against the errors."""
        assert self.data is not None
        return decimal_remedy(self.texts, self.data)

    def summary(self, out: str) -> str:
        """Return what there is to know besides the rows, in a line or two."""
        text = f"{counted(self.n_rows, 'row')} predicted" + ("" if out == "-" else f", written: {out}")
        if 0 < self.n_bad < self.n_rows:
            text += f"\n{self.n_bad:,} of them could not be read and are empty, the first: {self.first}"
        if self.counts:
            seen = ", ".join(f"{name} {count:,}" for name, count in self.counts.items())
            text += f"\nvalues never seen (or too rare) in training: {seen}"
        if self.cost is not None:
            n_good = self.n_rows - self.n_bad
            cost = self.cost / n_good if n_good else float("nan")
            text += f"\nexpected cost of the decisions: {cost:.6g} a row"
        return text

    def doubts(self) -> list[str]:
        """Return what makes it unlikely that these are the rows that the model is for."""
        n_rows, n_bad = self.n_rows, self.n_bad
        found = []
        if MOSTLY * n_rows < n_bad < n_rows:
            found.append(f"{n_bad:,} of {n_rows:,} rows could not be read. {self.remedy()}".rstrip())
        for name, count in self.counts.items():
            if count > MOSTLY * n_rows and n_rows > 1:
                found.append(
                    f"column {name!r}: {count:,} of {n_rows:,} values were never seen in training. Is it the same "
                    "column, written in the same way? The probabilities do without it."
                )
        return found

    def refuse_if_none_was_read(self) -> None:
        """Raise where every row has an error: there is a result, and nothing in it."""
        if self.n_rows and self.n_bad == self.n_rows:
            source = None if self.data is None else self.data.source
            raise DataError(f"no row could be read; the first: {self.first}", file=source, hint=self.remedy() or None)
