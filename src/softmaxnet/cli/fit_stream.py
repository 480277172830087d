"""``softmaxnet fit`` of a table that is streamed, because read whole it would take more memory than there may be."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmaxnet.cli.progress import RowProgress, byte_text
from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, counted
from softmaxnet.errors import DataError

if TYPE_CHECKING:
    from softmaxnet.communicator import Communicator
    from softmaxnet.data.dataset import Dataset
    from softmaxnet.data.table_source import TableSource
    from softmaxnet.findings import Finding
    from softmaxnet.streamed_fit import StreamedStart

__all__ = ["StreamedRun", "fit_source", "memory_budget", "open_train", "sampled_findings", "streams", "valid_rows"]

OF_A_SAMPLE = {"target_leak", "target_copy", "row_identifier", "similar_labels", "empty_column", "not_looked_at"}
"""Findings that a sample tells as well as all rows do; others count rows."""
VALID_ROWS = 50_000


def memory_budget(args: argparse.Namespace) -> int:
    """Return the bytes that the fit may take."""
    from softmaxnet.stream_memory import default_memory

    return default_memory() if args.memory in (None, "auto") else int(args.memory)


def streams(args: argparse.Namespace, kinds: Mapping[str, str]) -> bool:
    """Return whether TRAIN is streamed; a path that is not there is told of when it is read."""
    from softmaxnet.stream_memory import is_streamed

    if args.target is None or args.train == "-":
        return False
    known = {name: kind for name, kind in kinds.items() if kind != "drop"}
    return is_streamed(args.train, memory_budget(args), reader=dict(args.reader), kinds=known)


def open_train(args: argparse.Namespace, kinds: Mapping[str, str], terminal: Terminal) -> TableSource:
    """Open TRAIN; delimited text is converted first, and says so."""
    from softmaxnet.data.stream import open_source
    from softmaxnet.stream_memory import stream_bytes

    with RowProgress(terminal, "converting", "bytes") as converting:
        return open_source(
            args.train,
            target=args.target,
            weights=args.weights,
            group=args.group,
            drop=list(dict.fromkeys(args.drop)),
            text=[name for name, kind in kinds.items() if kind in ("category", "text", "date")],
            reader=dict(args.reader),
            on_bad_row=args.on_bad_row,
            stream_bytes=stream_bytes(memory_budget(args)),
            say=terminal.say,
            on_progress=converting,
        )


def valid_rows(args: argparse.Namespace, source: TableSource, terminal: Terminal) -> Dataset | None:
    """Return the rows of --valid where they are too many to be read whole: some of them, drawn at random."""
    from softmaxnet.data.dataset import Dataset
    from softmaxnet.data.stream import open_source
    from softmaxnet.stream_memory import is_streamed, stream_bytes

    memory = memory_budget(args)
    if not is_streamed(args.valid, memory, reader=source.reader):
        return None
    valid = open_source(
        args.valid,
        target=args.target,
        weights=args.weights,
        drop=[name for name in (args.group, *args.drop) if name in _names(args.valid, source)],
        reader=source.reader,
        on_bad_row=args.on_bad_row,
        stream_bytes=stream_bytes(memory),
        shuffle=False,
        say=terminal.say,
    )
    rows = valid.sample(VALID_ROWS)
    if valid.n_rows > VALID_ROWS:
        terminal.note(f"{args.valid}: {VALID_ROWS:,} of its {valid.n_rows:,} rows, drawn at random, are used")
    y = valid.classes[rows.y]
    return Dataset(rows.X, y, rows.sample_weight, source=args.valid, reader=valid.reader)


def _names(path: str, source: TableSource) -> set[str]:
    """Return the columns of a file."""
    import contextlib

    from softmaxnet.data.blocks import dataset_blocks

    with contextlib.closing(dataset_blocks(path, reader=source.reader, on_bad_row="keep", need_target=False)) as blocks:
        return set(next(blocks).data.X.column_names)


def sampled_findings(start: StreamedStart, source: TableSource, terminal: Terminal) -> list[Finding]:
    """Return what is wrong with the data as far as a sample of its rows shows; never a reason not to train."""
    from softmaxnet.precheck import look

    sample = start.sample
    try:
        found = look(sample.X, sample.y, source.classes, sample_weight=sample.sample_weight, encoder=start.encoder)
    except Exception as error:  # whatever it is, the training itself may well succeed
        terminal.warn(f"the data could not be checked before training ({type(error).__name__}: {error})")
        return []
    of = f"of {len(sample.y):,} rows drawn at random: "
    return [
        dataclasses.replace(finding, message=of + finding.message) for finding in found if finding.kind in OF_A_SAMPLE
    ]


class StreamedRun:
    """What a streamed training shows, and what it took.

    Parameters
    ----------
    terminal : Terminal
    interrupts : Interrupts
    budget : int
        The bytes that were allowed.
    """

    def __init__(self, terminal: Terminal, interrupts: Interrupts, budget: int) -> None:
        self.terminal, self.interrupts, self.budget = terminal, interrupts, budget
        self.progress = RowProgress(terminal, "training")
        self.start: StreamedStart | None = None

    def say_memory(self, start: StreamedStart) -> None:
        """State the peak before training begins."""
        self.start = start
        need = start.memory
        self.terminal.say(
            f"streamed: at most {byte_text(need.peak)} of memory ({byte_text(need.held)} held now, windows "
            f"{byte_text(need.rows)}, slices {byte_text(need.slices)}, network {byte_text(need.network)}); "
            f"allowed are {byte_text(self.budget)}"
        )
        if need.peak > self.budget:
            self.terminal.warn(
                f"this needs up to {byte_text(need.peak)} of memory, more than the {byte_text(self.budget)} that are "
                "allowed: smaller row groups or fewer columns take less"
            )
        epochs = start.plan.max_epochs
        rounds = f" in {counted(start.rounds, 'round')}" if start.rounds > 1 else ""
        self.terminal.say(
            f"{counted(start.n_rows, 'row')} to train on{rounds}, {start.n_held_out:,} held out, at most "
            f"{counted(epochs, 'epoch')}"
        )
        self.progress.most = "at most " if epochs > 1 else ""

    def on_rows(self, epoch: int, rows: int) -> None:
        """Show how far training is."""
        if self.start is None:  # another process says so
            return
        n_rows = self.start.n_rows
        self.progress(epoch * n_rows + rows, self.start.plan.max_epochs * n_rows)

    def on_epoch(self, line: Mapping[str, float]) -> None:
        """Take the scores of a round on."""
        note = f"loss {line['loss']:.4f}"
        if "validation_log_loss" in line:
            note += f"  held-out log loss {line['validation_log_loss']:.4f}"
        if "validation_accuracy" in line:
            note += f"  accuracy {line['validation_accuracy']:.4f}"
        self.progress.note = note
        self.interrupts.check()

    def memory(self) -> dict[str, Any]:
        """Return what was allowed, stated and, in the end, taken, in bytes."""
        from softmaxnet.memory import peak_resident_bytes

        stated = None if self.start is None else self.start.memory.peak
        return {"allowed_bytes": self.budget, "stated_bytes": stated, "peak_bytes": peak_resident_bytes()}


def fit_source(
    clf: Any,
    source: TableSource,
    valid: Dataset | None,
    run: StreamedRun,
    *,
    on_start: Any,
    kinds: Mapping[str, str],
    reader: Mapping[str, object],
    folder: Path | None,
    resume: bool,
    communicator: Communicator,
) -> None:
    """Train; errors about rows of --valid are told with file and line."""
    from softmaxnet.cli.files import located

    try:
        with run.progress:
            clf.fit_stream(
                source,
                None if valid is None else valid.X,
                None if valid is None else valid.y,
                None if valid is None else valid.sample_weight,
                kinds=kinds or None,
                memory=run.budget,
                reader=reader,
                on_epoch=run.on_epoch,
                on_start=on_start,
                on_rows=run.on_rows,
                checkpoint_folder=folder,
                resume=resume and folder is not None,
                communicator=communicator,
            )
    except DataError as error:
        if valid is not None and any("X_val" in note for note in getattr(error, "__notes__", ())):
            raise located(error, valid) from None
        if error.file is None:
            error.file = source.name
        raise
