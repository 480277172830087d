"""``softmaxnet explain``: why one row got its probabilities, or which columns a model lives on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.cli.files import bad_row_text, feature_columns, located, require_data
from softmaxnet.cli.labelled import read_labelled, readable_rows, refuse_all_unseen, warn_of_rows
from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, aligned, counted, shortened
from softmaxnet.errors import DataError, UsageError

if TYPE_CHECKING:
    from softmaxnet.data.dataset import Dataset
    from softmaxnet.explain import Explanation, Word
    from softmaxnet.features.columns import BadCell
    from softmaxnet.importance import Importances
    from softmaxnet.model import SoftmaxModel

__all__ = ["run"]

SHOWN = 10
"""Columns, or words of a column, that are listed where --top is not given."""
WIDEST_VALUE = 40
WIDEST_PICTURE = 64
STRONG, WEAK = 0.4, 0.08
"""Shares of the largest contribution of a pixel."""


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Explain one row, or the columns over all rows."""
    from softmaxnet.model_file import load_model

    for option in ("label", "versus"):
        if args.row is None and getattr(args, option) is not None:
            raise UsageError(f"--{option} speaks of one row; add --row N.")
    require_data(args.data)
    model = load_model(args.model)
    if args.row is None:
        _columns(args, model, terminal)
    else:
        _row(args, model, terminal)
    return 0


# --- one row ----------------------------------------------------------------------------------------------------


def _row(args: argparse.Namespace, model: SoftmaxModel, terminal: Terminal) -> None:
    from softmaxnet.data.files import read_dataset
    from softmaxnet.data.frames import take_rows
    from softmaxnet.explain import explain

    reader = {**model.reader, **dict(args.reader)}
    data = read_dataset(args.data, part="test", reader=reader, on_bad_row="keep", need_target=False)
    _check_row(args.row, data)
    place = np.array([args.row])
    X = take_rows(feature_columns(data.X, model.feature_names_in, model.reader), place)
    try:
        found = explain(model, X, args.label, versus=_versus(args, model))[0]
    except DataError as error:
        raise located(error, data, place) from None
    found = replace(found, row=args.row)
    terminal.answer(
        _text(found, args.top or SHOWN), {"model": args.model, "data": data.source, **found.to_dict(args.top)}
    )


def _check_row(row: int, data: Dataset) -> None:
    if row >= data.n_rows:
        raise UsageError(
            f"--row {row}: there is no such row.",
            file=data.source,
            hint=f"It has {counted(data.n_rows, 'row')}, and they are counted from 0.",
        )
    for bad in data.bad_rows:
        if bad.row == row:
            file, line = data.place(row)
            raise DataError(bad_row_text(bad).removeprefix(f"line {line}: "), file=file, line=line)


def _versus(args: argparse.Namespace, model: SoftmaxModel) -> str | None:
    """Return the class to compare with, by default the runner-up; None for none, where no class is called so."""
    if args.versus == "none" and "none" not in map(str, model.classes.tolist()):
        return None
    if args.versus is None:
        return "runner-up" if model.n_classes > 1 else None
    return str(args.versus)


def _text(found: Explanation, top: int) -> str:
    """Return an explanation for a person: what was compared, the sum and its largest terms."""
    against = f" rather than {found.versus}" if found.versus is not None else ""
    of = f"logit of {found.label}" + (f" less that of {found.versus}" if found.versus is not None else "")
    head = f"row {found.row}: {found.label}{against}, probability {found.probability:.4f}"
    if found.predicted != found.label:
        head += f" (predicted: {found.predicted})"
    rows: list[tuple[str, str]] = [("baseline", f"{found.baseline_logit:+.4f}")]
    drawn = _drawn(found)
    if drawn:
        rows += [("pixels", f"{found.contributions.sum():+.4f}"), (of, f"{found.logit:+.4f}")]
        width = max(len(name) for name, _ in rows)
        return "\n".join([head, *drawn, *(f"  {name.ljust(width)}  {part:>9}" for name, part in rows), "  in nats"])
    shown = found.top(top)
    for name, value, contribution in shown:
        rows.append((_cell(name, value), f"{contribution:+.4f}"))
        rows += _words([word for word in found.words if word.column == name], top)
    others = int(np.count_nonzero(found.contributions)) - len(shown)
    if others:
        rest = float(found.contributions.sum()) - sum(part for _, _, part in shown)
        rows.append((counted(others, "other column"), f"{rest:+.4f}"))
    rows.append((of, f"{found.logit:+.4f}"))
    width = max(len(name) for name, _ in rows)
    return "\n".join([head, *(f"  {name.ljust(width)}  {part:>9}" for name, part in rows), "  in nats"])


def _drawn(found: Explanation) -> list[str]:
    """Return a picture's contributions as lines of text: + speaks for the label, - against it; ++ and -- strongly."""
    if found.image_shape is None or found.image_shape[1] > WIDEST_PICTURE:
        return []
    parts = found.picture()
    strength = parts / (np.abs(parts).max(initial=0) or 1.0)
    marks = np.select(
        [strength > STRONG, strength > WEAK, strength < -STRONG, strength < -WEAK], ["++", " +", "--", " -"], "  "
    )
    used = np.flatnonzero((marks != "  ").any(axis=1))
    inside = marks[used[0] : used[-1] + 1] if used.size else marks[:0]
    lines = [("  " + "".join(line)).rstrip() for line in inside]
    return [*lines, "  + speaks for it, - against it; ++ and -- strongly"]


def _cell(name: str, value: Any) -> str:
    text = "missing" if value is None or value != value else f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name} = {shortened(' '.join(text.split()), WIDEST_VALUE)}"


def _words(words: Sequence[Word], top: int) -> list[tuple[str, str]]:
    """Return the words of one text that contribute most."""
    largest = sorted(words, key=lambda word: -abs(word.contribution))[:top]
    return [
        (f"  {shortened(word.text, WIDEST_VALUE) or '(the texts of the baseline)'}", f"{word.contribution:+.4f}")
        for word in largest
        if word.contribution
    ]


# --- all columns ------------------------------------------------------------------------------------------------


def _columns(args: argparse.Namespace, model: SoftmaxModel, terminal: Terminal) -> None:
    from softmaxnet.data.frames import take_rows
    from softmaxnet.data.labels import lookup_labels
    from softmaxnet.explain import permutation_importance

    try:
        data = read_labelled(args, model)
    except (DataError, UsageError) as error:
        if error.column is not None or isinstance(error, UsageError):
            error.hint = f"{error.hint or ''} Without labels, single rows can be explained: --row N.".strip()
        raise
    assert data.y is not None
    refuse_all_unseen(model, data, lookup_labels(data.y, model.classes))
    X = feature_columns(data.X, model.feature_names_in, model.reader)
    rows = _readable(model, X, data, args.on_bad_row)
    weight = None if data.sample_weight is None else data.sample_weight[rows]
    try:
        found = permutation_importance(model, take_rows(X, rows), data.y[rows], sample_weight=weight)
    except DataError as error:
        raise located(error, data, rows) from None
    plain = found.to_dict()
    plain["columns"] = plain["columns"][: args.top]
    n_bad_rows = len(data.bad_rows) + data.n_rows - len(rows)
    terminal.answer(
        _table(found, args.top or SHOWN),
        {"model": args.model, "data": data.source, **plain, "n_bad_rows": n_bad_rows},
    )
    warn_of_rows(terminal, model, data, found.n_unseen, n_bad_rows, "they are left out")


def _readable(model: SoftmaxModel, X: Any, data: Dataset, on_bad_row: str | int) -> Any:
    """Return the numbers of the rows that can be read; where none may be skipped, the others raise later."""
    rows = np.arange(data.n_rows)
    if on_bad_row == "fail":
        return rows
    cells: list[BadCell] = []
    try:
        model.encoder.transform(X, dtype=model.dtype, bad=cells)
    except DataError as error:
        raise located(error, data) from None
    good = readable_rows(cells, data, on_bad_row)
    return rows if good is None else rows[good]


def _table(found: Importances, top: int) -> str:
    rows: list[tuple[str, ...]] = [
        ("column", "log loss rises by", f"{found.level * 100:g} % interval", "accuracy falls by")
    ]
    for column in found.columns[:top]:
        interval = f"{column.low:+.4f} .. {column.high:+.4f}"
        rows.append((column.name, f"{column.log_loss_increase:+.4f}", interval, f"{column.accuracy_decrease:+.4f}"))
    head = f"{counted(found.n_rows, 'row')} as they are: log loss {found.log_loss:.4f}, accuracy {found.accuracy:.4f}"
    done = f"where the cells of one column are shuffled ({counted(found.n_repeats, 'time')}):"
    text = f"{head}\n{done}\n{aligned(rows, indent='  ')}"
    hidden = len(found.columns) - top
    return text + (f"\n  ... and {counted(hidden, 'more column')} (--top {len(found.columns)})" if hidden > 0 else "")
