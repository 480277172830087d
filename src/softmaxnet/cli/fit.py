"""``softmaxnet fit``: rows -> SoftmaxClassifier -> a model file."""

from __future__ import annotations

import argparse
import dataclasses
import glob
import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmaxnet.cli.files import checked_output, feature_columns, located, require_data
from softmaxnet.cli.fit_stream import (
    StreamedRun,
    fit_source,
    memory_budget,
    open_train,
    sampled_findings,
    streams,
    valid_rows,
)
from softmaxnet.cli.options import PARAMETERS
from softmaxnet.cli.progress import Progress
from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.tables import column_table, findings_text, mixture_text, plan_text
from softmaxnet.cli.terminal import Terminal, counted, duration
from softmaxnet.errors import DataError, SoftmaxError, UsageError

if TYPE_CHECKING:
    from softmaxnet.communicator import Communicator
    from softmaxnet.data.dataset import BadRow, Dataset
    from softmaxnet.data.table_source import TableSource
    from softmaxnet.estimator import SoftmaxClassifier
    from softmaxnet.features.encoder import FeatureEncoder
    from softmaxnet.precheck import Finding
    from softmaxnet.recipe import Plan
    from softmaxnet.streamed_fit import StreamedStart

__all__ = ["run"]

USELESS_GAIN = 0.01
"""Share of the log loss of no columns at all by which a model that is worth anything is better."""
KINDS = ("number", "category", "text", "date")


class _DryRun(Exception):
    """Training would begin here."""


@dataclasses.dataclass(frozen=True)
class _Rows:
    """What is learned from: the file as it was read, its columns without dropped ones, the rows of --valid."""

    data: Dataset
    X: Any
    valid: Dataset | None


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Fit, save and report, in one process or several; 130 or 143 where a signal ended the training early."""
    from softmaxnet.cli.together import in_processes

    return in_processes(args, terminal, interrupts, lambda communicator: _run(args, terminal, interrupts, communicator))


def _run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts, communicator: Communicator) -> int:
    kinds = _kinds(args)
    force = args.force or _is_resumable(args)
    out = _output(args, force=force) if communicator.is_root else None
    if args.train == args.valid == "-":
        raise UsageError("TRAIN and --valid cannot both be standard input.")
    for path in (args.train, args.valid):
        require_data(path)
    if streams(args, kinds):
        return _run_streamed(args, kinds, out, force, terminal, interrupts, communicator)
    rows = _rows(args, kinds, terminal)
    clf = _classifier(args, rows.data.y)
    interrupts.check()
    findings: list[Finding] = []
    started = time.monotonic()
    with Progress(terminal) as progress:
        try:
            announce = _announcement(args, terminal, progress, rows, findings, clf)
            _fit(clf, args, rows, kinds, progress, announce, interrupts, communicator)
        except _DryRun:
            return 0
    if not communicator.is_root:
        return interrupts.exit_code
    _save(clf, args, out, force, interrupts)
    seconds = time.monotonic() - started
    _report(clf, rows.data.n_rows, rows.data.bad_rows, len(rows.data.bad_rows), str(out), seconds, findings, terminal)
    _say_what_is_kept(clf, args, terminal)
    _warn_if_useless(clf, rows.data, terminal)
    return interrupts.exit_code


def _run_streamed(
    args: argparse.Namespace,
    kinds: dict[str, str],
    out: Path | None,
    force: bool,
    terminal: Terminal,
    interrupts: Interrupts,
    communicator: Communicator,
) -> int:
    """Fit a table that does not fit in memory, save and report."""
    started = time.monotonic()
    source = open_train(args, kinds, terminal)
    valid = None
    if args.valid:
        valid = valid_rows(args, source, terminal) or _read_valid(args, *_like(source), terminal)
    clf = _classifier(args, source.classes)
    interrupts.check()
    findings: list[Finding] = []
    shown = StreamedRun(terminal, interrupts, memory_budget(args))
    try:
        fit_source(
            clf,
            source,
            valid,
            shown,
            on_start=_streamed_announcement(args, terminal, source, shown, findings, clf),
            kinds={name: kind for name, kind in kinds.items() if kind != "drop"},
            reader=source.about,
            folder=_checkpoint_folder(args),
            resume=args.resume,
            communicator=communicator,
        )
    except _DryRun:
        return 0
    if not communicator.is_root:
        return interrupts.exit_code
    _save(clf, args, out, force, interrupts)
    seconds, memory = time.monotonic() - started, {"streamed": True, "memory": shown.memory()}
    assert shown.start is not None
    read = shown.start.source  # without rows that hold what cannot be learned from
    n_rows = source.n_rows - (read.n_bad_rows - source.n_bad_rows)
    _report(clf, n_rows, read.bad_rows, read.n_bad_rows, str(out), seconds, findings, terminal, memory)
    _say_what_is_kept(clf, args, terminal)
    return interrupts.exit_code


def _like(source: TableSource) -> tuple[Dataset, Any]:
    """Return a data set with the labels and the columns of a source, and none of its rows."""
    import pyarrow as pa

    from softmaxnet.data.dataset import Dataset

    empty = pa.table({name: pa.array([], pa.null()) for name in source.columns})
    return Dataset(empty, source.classes, source=source.name, reader=source.reader), empty


def _save(
    clf: SoftmaxClassifier, args: argparse.Namespace, out: Path | None, force: bool, interrupts: Interrupts
) -> None:
    """Write the model, and only then remove the checkpoints."""
    with interrupts.deferred():
        from softmaxnet.model_file import save_model

        assert out is not None
        save_model(clf.model_, out, force=force)
        _clean_up(args, out, done=clf.stopped_by_ != "interrupt")


def _checkpoint_folder(args: argparse.Namespace) -> Path | None:
    """Return ``OUT.ckpt``; nothing is kept beside a device such as /dev/null."""
    from softmaxnet.data.atomic import is_device

    out = None if args.out is None else os.path.expanduser(args.out)
    return None if out is None or is_device(out) else Path(out + ".ckpt")


def _is_resumable(args: argparse.Namespace) -> bool:
    """Whether a run is to be gone on with that was allowed to write OUT, and may have come as far as that."""
    from softmaxnet.checkpoint import generations

    folder = _checkpoint_folder(args)
    return bool(args.resume and folder is not None and generations(folder))


def _clean_up(args: argparse.Namespace, out: Path, *, done: bool) -> None:
    """Remove the checkpoints of a run that is done, and the half-written model of one that was killed and gone on with.

    A run that was interrupted is not done: ``--resume`` goes on with it.
    """
    from softmaxnet.checkpoint import remove

    folder = _checkpoint_folder(args)
    if folder is not None and done:
        remove(folder)
    if args.resume:
        for path in out.parent.glob(f".{glob.escape(out.name[:100])}.????????.tmp"):
            path.unlink(missing_ok=True)


# --- before training --------------------------------------------------------------------------------------------


def _output(args: argparse.Namespace, *, force: bool) -> Path | None:
    if args.out is None:
        if args.dry_run:
            return None
        raise UsageError("the model file to write must be named.", hint="For instance: -o model.safetensors.")
    if args.out == "-":
        raise UsageError("a model is not written to standard output; name a file with -o.")
    inputs = [args.train] + ([args.valid] if args.valid else [])
    return checked_output(args.out, force=force, inputs=inputs)


def _kinds(args: argparse.Namespace) -> dict[str, str]:
    """Return the kind of each column that was told; a column has one kind and one role."""
    kinds: dict[str, str] = {}
    for kind in (*KINDS, "drop"):
        for name in getattr(args, kind):
            if kinds.get(name, kind) != kind:
                raise UsageError(f"column {name!r} cannot be both --{kinds[name]} and --{kind}.")
            kinds[name] = kind
    if kinds.get(args.target) == "category":  # what a target is, said of one that looks like amounts
        del kinds[args.target]
    for role in ("target", "weights", "group"):
        name = getattr(args, role)
        if name in kinds:
            raise UsageError(f"column {name!r} cannot be both --{role} and --{kinds[name]}.")
    return kinds


def _read(args: argparse.Namespace) -> Dataset:
    from softmaxnet.data.files import read_dataset
    from softmaxnet.data.labels import labels_of

    try:
        data = read_dataset(
            args.train,
            target=args.target,
            weights=args.weights,
            group=args.group,
            reader=dict(args.reader),
            on_bad_row=args.on_bad_row,
        )
    except DataError as error:
        if args.target is not None and "," in args.target and error.column == args.target:
            error.hint = f"The target is one column. {error.hint or ''}".rstrip()
        raise
    labels_of(data)  # says so, with file and line, where one is missing
    _refuse_amounts(args, data)
    return data


def _refuse_amounts(args: argparse.Namespace, data: Dataset) -> None:
    """Refuse a target of many different decimal numbers, unless they were said to be classes."""
    from softmaxnet.data.labels import are_amounts, encode_labels

    if args.target is None or args.target in args.category:
        return
    classes = encode_labels(data.y)[1].tolist()
    if are_amounts(classes):
        raise DataError(
            f"the {len(classes):,} different values of column {args.target!r} are decimal numbers "
            f"({', '.join(map(str, classes[:3]))}, ...), which looks like the target of a regression; softmaxnet "
            "predicts classes.",
            file=data.source,
            column=args.target,
            hint=f"Cut the amounts into a few classes first; or, where each number is a class, --category "
            f"{shlex.quote(args.target)}.",
        )


def _rows(args: argparse.Namespace, kinds: dict[str, str], terminal: Terminal) -> _Rows:
    """Read the rows to learn from, and those of --valid."""
    from softmaxnet.features.columns import check_kinds

    data = _readable(_read(args), kinds, args.on_bad_row)
    X = data.X
    check_kinds(kinds, getattr(X, "column_names", None))
    dropped = list(dict.fromkeys(args.drop))
    if dropped:
        X = X.drop_columns(dropped)
        if not X.num_columns:
            raise UsageError("--drop leaves no column to learn from.")
    return _Rows(data, X, _read_valid(args, data, X, terminal) if args.valid else None)


def _readable(data: Dataset, kinds: dict[str, str], on_bad_row: str | int) -> Dataset:
    """Return the rows without those that hold an infinite number or no date, where rows may be left out."""
    if on_bad_row == "fail" or not hasattr(data.X, "column_names"):
        return data  # the encoder says what is wrong, with file and line
    import numpy as np

    from softmaxnet.cli.labelled import readable_rows
    from softmaxnet.data.dataset import BadRow
    from softmaxnet.data.frames import take_rows
    from softmaxnet.features.unreadable import unreadable_cells

    cells = unreadable_cells(data.X, kinds)
    good = readable_rows(cells, data, on_bad_row)
    if good is None:
        return data
    first = {cell.row: cell for cell in reversed(cells)}
    bad = [BadRow(row, data.place(row)[1], first[row].column, first[row].message) for row in sorted(first)]
    rows = np.flatnonzero(good)
    ends = np.cumsum([0, *(n for _, n in data.parts)])
    parts = tuple((name, int(good[ends[i] : ends[i + 1]].sum())) for i, (name, _) in enumerate(data.parts))
    y, weight, groups, lines = (
        None if values is None else values[rows]
        for values in (data.y, data.sample_weight, data.groups, data.row_lines)
    )
    return dataclasses.replace(
        data,
        X=take_rows(data.X, rows),
        y=y,
        sample_weight=weight,
        groups=groups,
        row_lines=lines,
        bad_rows=(*data.bad_rows, *bad),
        parts=parts,
    )


def _read_valid(args: argparse.Namespace, data: Dataset, X: Any, terminal: Terminal) -> Dataset:
    """Read the rows of --valid, with the columns of the training rows in their order."""
    import numpy as np

    from softmaxnet.data.files import read_dataset
    from softmaxnet.data.frames import take_rows
    from softmaxnet.data.labels import encode_labels, labels_of, lookup_labels
    from softmaxnet.features.columns import align_names

    valid = read_dataset(
        args.valid,
        target=args.target,
        weights=args.weights,
        part="test",
        reader=data.reader,
        on_bad_row=args.on_bad_row,
    )
    known = lookup_labels(labels_of(valid), encode_labels(data.y)[1]) >= 0
    if not known.all():
        n = int((~known).sum())
        terminal.warn(f"{args.valid}: {n} of {known.size} rows have labels that {args.train} lacks; they are left out")
    if valid.sample_weight is not None:
        known &= valid.sample_weight > 0
    keep = np.flatnonzero(known)
    if not keep.size:
        raise DataError(f"no row has a label of {args.train}", file=args.valid)
    rows = valid.X
    if hasattr(X, "column_names") and hasattr(rows, "column_names"):
        rows = feature_columns(rows, tuple(X.column_names), {"group": args.group, "drop": args.drop})
        try:
            order, extra = align_names(rows.column_names, X.column_names)
        except DataError as error:
            raise located(error, valid) from None
        if extra:
            terminal.warn(
                f"{args.valid}: {counted(len(extra), 'column')} that {args.train} lacks, left out: {', '.join(extra)}"
            )
        rows = rows.select(order)
    lines = None if valid.row_lines is None else valid.row_lines[keep]
    weight = None if valid.sample_weight is None else valid.sample_weight[keep]
    assert valid.y is not None
    return dataclasses.replace(
        valid, X=take_rows(rows, keep), y=valid.y[keep], sample_weight=weight, row_lines=lines, parts=()
    )


def _classifier(args: argparse.Namespace, y: Any) -> SoftmaxClassifier:
    """Return an unfitted classifier with the parameters of the command line."""
    from softmaxnet.estimator import SoftmaxClassifier

    given = {p.name: getattr(args, p.name) for p in PARAMETERS if hasattr(args, p.name)}
    if isinstance(given.get("class_weight"), dict):
        given["class_weight"] = _typed_labels(given["class_weight"], y)
    return SoftmaxClassifier(**given)


def _typed_labels(weights: dict[str, float], y: Any) -> dict[Any, float]:
    """Return weights by label, the labels in the type that the data have."""
    from softmaxnet.data.labels import encode_labels

    by_text = {str(label): label for label in encode_labels(y)[1].tolist()}
    for label in weights:
        if label not in by_text:
            shown = ", ".join(list(by_text)[:10])
            raise UsageError(
                f"--class-weight names the label {label!r}, which the data lack.", hint=f"Labels: {shown}."
            )
    return {by_text[label]: weight for label, weight in weights.items()}


def _announcement(
    args: argparse.Namespace,
    terminal: Terminal,
    progress: Progress,
    rows: _Rows,
    findings: list[Finding],
    clf: SoftmaxClassifier,
) -> Callable[[FeatureEncoder, Plan], None]:
    """Return what is called just before training: it shows the columns, what was found in the data, and the plan."""

    def announce(encoder: FeatureEncoder, plan: Plan) -> None:
        if terminal.is_muted:  # what follows is said by another process
            if args.dry_run:
                raise _DryRun
            return
        columns = encoder.describe()
        if not args.dry_run:
            terminal.say(f"{counted(rows.data.n_rows, 'row')} of {rows.data.source}\n{column_table(columns)}")
        findings.extend(_findings(rows, encoder, terminal))
        _tell(args, terminal, findings, columns, plan, rows.data.n_rows, clf)
        progress.begin(plan.max_epochs if plan.solver == "adam" else None, plan.max_seconds)

    return announce


def _streamed_announcement(
    args: argparse.Namespace,
    terminal: Terminal,
    source: TableSource,
    shown: StreamedRun,
    findings: list[Finding],
    clf: SoftmaxClassifier,
) -> Callable[[StreamedStart], None]:
    """Return what is called just before a streamed training: it also states how much memory that takes."""

    def announce(start: StreamedStart) -> None:
        if terminal.is_muted:  # what follows is said by another process
            if args.dry_run:
                raise _DryRun
            return
        columns = start.encoder.describe()
        if not args.dry_run:
            terminal.say(f"{counted(source.n_rows, 'row')} of {source.name}\n{column_table(columns)}")
        findings.extend(sampled_findings(start, source, terminal))
        shown.say_memory(start)
        memory = {"streamed": True, "memory": shown.memory()}
        _tell(args, terminal, findings, columns, start.plan, source.n_rows, clf, memory)

    return announce


def _tell(
    args: argparse.Namespace,
    terminal: Terminal,
    findings: list[Finding],
    columns: list[dict[str, object]],
    plan: Plan,
    n_rows: int,
    clf: SoftmaxClassifier,
    more: dict[str, Any] | None = None,
) -> None:
    """Tell what was found in the data and where training goes on from; with --dry-run answer and stop."""
    if args.dry_run:
        settings, found = plan.to_dict(), [finding.to_dict() for finding in findings]
        text = f"{column_table(columns, all_rows=True)}\n\n{findings_text(findings)}{plan_text(settings)}"
        about = {"n_rows": n_rows, "columns": columns, "findings": found, "training": settings}
        terminal.answer(text, about | (more or {}))
        raise _DryRun
    for finding in findings:
        (terminal.warn if finding.severity == "warning" else terminal.note)(finding.message)
    if args.resume:
        terminal.say(
            f"going on after epoch {round(clf.resumed_epochs_, 3)}"
            if clf.resumed_epochs_
            else f"no checkpoint to go on from in {_checkpoint_folder(args)}: training starts from the beginning"
        )


def _findings(rows: _Rows, encoder: FeatureEncoder, terminal: Terminal) -> list[Finding]:
    """Return what is wrong with the data as far as it can be seen; that is never a reason not to train."""
    from softmaxnet.data.labels import encode_labels, lookup_labels
    from softmaxnet.precheck import look

    data, valid = rows.data, rows.valid
    try:
        labels, classes = encode_labels(data.y)
        return look(
            rows.X,
            labels,
            classes,
            sample_weight=data.sample_weight,
            groups=data.groups,
            X_val=None if valid is None else valid.X,
            y_val=None if valid is None else lookup_labels(valid.y, classes),
            encoder=encoder,
            place=_place(data),
        )
    except Exception as error:  # whatever it is, the training itself may well succeed
        terminal.warn(f"the data could not be checked before training ({type(error).__name__}: {error})")
        return []


def _place(data: Dataset) -> Callable[[int], str]:
    """Return what names a row by its line, where the file has lines."""

    def place(row: int) -> str:
        line = data.place(row)[1]
        return f"row {row} (counted from 0)" if line is None else f"line {line}"

    return place


# --- training and after -----------------------------------------------------------------------------------------


def _fit(
    clf: SoftmaxClassifier,
    args: argparse.Namespace,
    rows: _Rows,
    kinds: dict[str, str],
    progress: Progress,
    announce: Callable[[FeatureEncoder, Plan], None],
    interrupts: Interrupts,
    communicator: Communicator,
) -> None:
    """Fit; errors about rows are told with file and line."""
    import numpy as np

    def on_epoch(line: dict[str, float]) -> None:
        progress.epoch(line)
        interrupts.check()  # a signal that an import has swallowed stops the run at its first epoch

    data, valid = rows.data, rows.valid
    folder = _checkpoint_folder(args)
    dropped = list(dict.fromkeys(args.drop))
    reader = {**data.reader, "target": args.target, "weights": args.weights, "group": args.group, "drop": dropped}
    given = None if data.sample_weight is None else np.flatnonzero(data.sample_weight > 0)
    try:
        clf.fit(
            rows.X,
            data.y,
            data.sample_weight,
            None if valid is None else valid.X,
            None if valid is None else valid.y,
            None if valid is None else valid.sample_weight,
            kinds={name: kind for name, kind in kinds.items() if kind != "drop"} or None,
            groups=data.groups,
            reader={name: value for name, value in reader.items() if value not in (None, [])},
            on_epoch=on_epoch,
            on_plan=announce,
            checkpoint_folder=folder,
            resume=args.resume and folder is not None,
            communicator=communicator,
        )
    except DataError as error:
        if valid is not None and any("X_val" in note for note in getattr(error, "__notes__", ())):
            raise located(error, valid) from None
        raise located(error, data, given) from None
    except ValueError as error:
        if isinstance(error, SoftmaxError) or not _of_sklearn(error):
            raise
        raise DataError(str(error), file=data.source) from None


def _of_sklearn(error: BaseException) -> bool:
    """Whether scikit-learn's own checks of the input raised it."""
    trace = error.__traceback__
    module = ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return module.startswith("sklearn.")


def _report(
    clf: SoftmaxClassifier,
    n_rows: int,
    bad_rows: Sequence[BadRow],
    n_bad_rows: int,
    out: str,
    seconds: float,
    findings: list[Finding],
    terminal: Terminal,
    more: dict[str, Any] | None = None,
) -> None:
    metrics = clf.metrics_
    loss, accuracy = metrics.get("log_loss"), metrics.get("accuracy")
    result = {
        "model": out,
        "log_loss": loss,
        "accuracy": accuracy,
        "n_held_out": metrics.get("n_held_out"),
        "epochs": clf.n_iter_,
        "seconds": round(seconds, 3),
        "training_seconds": clf.history_[-1].get("seconds") if clf.history_ else None,
        "stopped_by": clf.stopped_by_,
        "temperature": clf.temperature_,
        "n_rows": n_rows,
        "n_bad_rows": n_bad_rows,
        "n_classes": len(clf.classes_),
        "findings": [finding.to_dict() for finding in findings],
        "settings": clf.model_.settings,
        **(more or {"streamed": False}),
    }
    if bad_rows:
        first = f"first line {bad_rows[0].line}" if bad_rows[0].line else f"first row {bad_rows[0].row}"
        terminal.warn(f"{counted(n_bad_rows, 'row')} could not be read and left out, {first}")
    if terminal.json:
        terminal.answer("", result)
    scores = (
        f"held-out log loss {loss:.4f}, accuracy {accuracy:.2%}"
        if loss is not None and accuracy is not None
        else "nothing was held out, so that there is no score"
    )
    settings = clf.model_.settings
    passes = "iterations" if settings.get("solver") == "lbfgs" else "epochs"
    ended = {"interrupt": ", interrupted: the best so far", "max_seconds": ", stopped by the time limit"}
    how = f"{clf.n_iter_} {passes}, {duration(seconds)}{ended.get(clf.stopped_by_, '')}"
    terminal.say(f"{scores} ({how})\n{mixture_text(settings)}written: {out}")


def _say_what_is_kept(clf: SoftmaxClassifier, args: argparse.Namespace, terminal: Terminal) -> None:
    """Say that an interrupted run can be gone on with, where it can."""
    from softmaxnet.checkpoint import generations

    folder = _checkpoint_folder(args)
    if clf.stopped_by_ == "interrupt" and folder is not None and generations(folder):
        terminal.say(f"kept: {folder}; the same command with --resume goes on from there")


def _warn_if_useless(clf: SoftmaxClassifier, data: Dataset, terminal: Terminal) -> None:
    """Warn where the held-out log loss is that of always answering with the shares of the classes."""
    import numpy as np

    from softmaxnet.data.labels import lookup_labels

    loss = clf.metrics_.get("log_loss")
    if loss is None or clf.class_weight is not None:
        return
    labels = lookup_labels(data.y, clf.classes_)
    shares = np.bincount(labels[labels >= 0], weights=data.sample_weight, minlength=len(clf.classes_))
    shares = shares[shares > 0] / shares.sum()
    prior = float(-(shares @ np.log(shares)))
    if loss > (1 - USELESS_GAIN) * prior:
        terminal.warn(
            f"the model is hardly better than the shares of the classes alone (log loss {loss:.4f}, theirs "
            f"{prior:.4f}): the columns say next to nothing about the target. Do labels and rows belong "
            "together, and is there a column that would tell more?"
        )
