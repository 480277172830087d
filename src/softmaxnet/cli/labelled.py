"""What the commands that read labelled rows share: reading them, and telling of those that cannot be used."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.cli.files import bad_cell_text, decimal_remedy, role
from softmaxnet.cli.progress import RowProgress
from softmaxnet.cli.terminal import counted
from softmaxnet.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxnet.cli.terminal import Terminal
    from softmaxnet.data.blocks import Block
    from softmaxnet.data.dataset import Dataset
    from softmaxnet.features.columns import BadCell
    from softmaxnet.model import SoftmaxModel

__all__ = [
    "examples_of_unseen",
    "labelled_blocks",
    "read_labelled",
    "readable_rows",
    "refuse_all_unseen",
    "warn_of_rows",
]


def read_labelled(args: argparse.Namespace, model: SoftmaxModel) -> Dataset:
    """Read rows that must all have a label, in the way that the model's training file was read."""
    from softmaxnet.data.files import read_dataset
    from softmaxnet.data.labels import labels_of

    data = read_dataset(args.data, **_as_in_training(args, model))
    labels_of(data)
    return data


def _as_in_training(args: argparse.Namespace, model: SoftmaxModel) -> dict[str, Any]:
    """Return how to read the rows: as the training file was, but for what the command line says."""
    return {
        "target": args.target or role(model.reader, "target"),
        "weights": args.weights,
        "part": "test",
        "reader": {**model.reader, **dict(args.reader)},
        "on_bad_row": args.on_bad_row,
    }


@contextlib.contextmanager
def labelled_blocks(args: argparse.Namespace, model: SoftmaxModel, terminal: Terminal) -> Iterator[Iterator[Block]]:
    """Open rows as ``read_labelled`` reads them, block by block, with a display of how far they are."""
    from softmaxnet.data.blocks import dataset_blocks
    from softmaxnet.data.stream import streamable_files

    found = None if args.data == "-" else streamable_files(Path(os.path.expanduser(args.data)))
    is_text = found is not None and found[1] == "text"
    with RowProgress(terminal, "evaluating", "bytes" if is_text else "rows") as progress:
        blocks = dataset_blocks(args.data, **_as_in_training(args, model), on_progress=progress)
        with contextlib.closing(blocks):
            yield _counted(blocks, progress)


def _counted(blocks: Iterator[Block], progress: RowProgress) -> Iterator[Block]:
    for block in blocks:
        progress.note_rows(block.first_row)
        yield block


def readable_rows(
    cells: list[BadCell], data: Dataset, on_bad_row: str | int, n_bad: int | None = None
) -> NDArray[np.bool_] | None:
    """Return the rows without unreadable cells, None for all, or raise where there are more than allowed.

    ``n_bad`` are the rows that were left out before; by default those of ``data``.
    """
    if not cells:
        return None
    rows = sorted({cell.row for cell in cells})
    allowed = {"fail": 0, "skip": len(rows)}.get(str(on_bad_row))
    if allowed is None:
        allowed = int(on_bad_row) - (len(data.bad_rows) if n_bad is None else n_bad)
    if len(rows) > allowed:
        cell = next(cell for cell in cells if cell.row == rows[max(allowed, 0)])
        file, line = data.place(cell.row)
        text = bad_cell_text(cell, data).removeprefix(f"line {line}: ")
        remedy = decimal_remedy([text], data) or "To leave such rows out: --on-bad-row skip."
        raise DataError(text, file=file, line=line, hint=remedy)
    good = np.ones(data.n_rows, dtype=bool)
    good[rows] = False
    return good


def refuse_all_unseen(model: SoftmaxModel, data: Dataset, labels: NDArray[np.int64]) -> None:
    """Raise where no row at all has a label of the model's."""
    if not (labels >= 0).any():
        raise DataError(
            f"none of the {len(labels):,} labels is one of the model's {model.n_classes} classes "
            f"({examples_of_unseen(model, data)}).",
            file=data.source,
            hint="Is the target column the right one? Name it with --target.",
        )


def examples_of_unseen(model: SoftmaxModel, data: Dataset) -> str:
    """Return a few labels that the model never saw."""
    from softmaxnet.data.labels import lookup_labels

    assert data.y is not None
    unseen = data.y[lookup_labels(data.y, model.classes) < 0]
    names = list(dict.fromkeys(map(repr, unseen[:1000].tolist())))
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def warn_of_rows(
    terminal: Terminal, model: SoftmaxModel, data: Dataset, n_unseen: int, n_bad_rows: int, consequence: str
) -> None:
    """Warn of rows whose label the model never saw, with what follows for them, and of rows that were skipped."""
    if n_unseen:
        terminal.warn(
            f"{n_unseen:,} of {data.n_rows:,} rows have labels that the model never saw "
            f"({examples_of_unseen(model, data)}): {consequence}"
        )
    if n_bad_rows:
        terminal.warn(f"skipped, as they cannot be read: {counted(n_bad_rows, 'row')}")
