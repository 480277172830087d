"""The report as one page of HTML: what is in front, the sections below, and nothing that is loaded from anywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import softmaxnet
from softmaxnet.data.atomic import atomic_output
from softmaxnet.report.details import columns_section, mistakes_section, sets_section, training_section
from softmaxnet.report.findings import Findings, gather
from softmaxnet.report.quality import confusion_section, reliability_section
from softmaxnet.report.rows import ReportRows
from softmaxnet.report.style import STYLE
from softmaxnet.report.summary import sentences, verdict
from softmaxnet.report.svg import escaped
from softmaxnet.report.words import counted, interval_text, number_text, share_text

__all__ = ["render_report", "write_report"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_report(path: str | Path, rows: ReportRows, *, force: bool = False, **about: Any) -> None:
    """Write the report as one HTML file, whole or not at all.

    Parameters
    ----------
    path : str or path
    rows : ReportRows
    force : bool
        Whether a file that is there may be replaced.
    **about :
        ``model_name``, ``data_name``, ``digest`` and ``notes`` of :func:`render_report`.

    Raises
    ------
    UsageError, ResourceError
        As :func:`softmaxnet.data.atomic.atomic_output`.
    DataError
        Where there are no rows.
    """
    page = render_report(rows, **about).encode("utf-8", "replace")
    with atomic_output(path, force=force) as file:
        file.write(page)


def render_report(
    rows: ReportRows,
    *,
    model_name: str = "model",
    data_name: str = "data",
    digest: str | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the report as HTML; the same model and rows give the same page.

    Parameters
    ----------
    rows : ReportRows
        With all rows added.
    model_name, data_name : str
        As they are to be called.
    digest : str, optional
        SHA-256 of the model file.
    notes : sequence of str
        Said below the summary, such as rows that could not be read.

    Raises
    ------
    DataError
        Where there are no rows.
    """
    found = gather(rows)
    parts = [
        _head(found, model_name, data_name),
        _lead(found, notes),
        _tiles(found),
        reliability_section(found),
        confusion_section(found),
        mistakes_section(found),
        sets_section(found),
        training_section(found),
        columns_section(found),
        _footer(found, digest),
    ]
    title = f"{os.path.basename(model_name)} on {os.path.basename(data_name.rstrip('/'))}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escaped(title)}: report</title><style>{STYLE}</style></head>\n<body><main>"
        + "\n".join(part for part in parts if part)
        + "</main></body></html>\n"
    )


def _head(found: Findings, model_name: str, data_name: str) -> str:
    target = found.model.reader.get("target")
    what = f" for <b>{escaped(target)}</b>" if isinstance(target, str) else ""
    return (
        f"<header><h1>How good is this model{what}?</h1>"
        f'<p class="from">{escaped(model_name)} on {counted(len(found.scores.labels), "row")} of {escaped(data_name)}, '
        f"{counted(found.model.n_classes, 'class', 'classes')}</p></header>"
    )


def _lead(found: Findings, notes: Sequence[str]) -> str:
    tone, call = verdict(found.result)
    said = sentences(found.result, found.scores, found.confusions, found.names, found.bands)
    body = "".join(f"<p>{sentence}</p>" for sentence in said)
    extra = "".join(f'<p class="note">{escaped(note)}</p>' for note in notes)
    return f'<section class="lead"><p class="call {tone}">{escaped(call)}</p>{body}{extra}</section>'


def _tiles(found: Findings) -> str:
    result = found.result
    null = result.get("calibration_error_null") or {}
    tiles = [
        ("accuracy", share_text(result["accuracy"]), interval_text(result["accuracy_interval"], share_text)),
        (
            "log loss",
            number_text(result["log_loss"]),
            interval_text(result["log_loss_interval"], number_text) + " nats",
        ),
        (
            "Brier score",
            number_text(result["brier"]),
            interval_text(result["brier_interval"], number_text) + ", 0 to 2",
        ),
        ("calibration error", share_text(result["calibration_error"]), _null_text(null)),
        ("balanced accuracy", share_text(result["balanced_accuracy"]), "mean over the classes"),
    ]
    if "top_5_accuracy" in result:
        tiles.append(("top-5 accuracy", share_text(result["top_5_accuracy"]), "label among the 5 most probable"))
    if result.get("part_refinement") is not None and np.isfinite(result.get("part_refinement", np.nan)):
        gain = max(result["part_calibration"], 0.0)
        rest = number_text(result["part_refinement"])
        tiles.append(("calibration part", number_text(gain), f"of the log loss; {rest} no temperature can mend"))
    made = "".join(
        f'<div class="tile"><span class="what">{name}</span><b>{value}</b><span>{detail}</span></div>'
        for name, value, detail in tiles
    )
    note = '<p class="note">Ranges are 95&nbsp;% intervals.</p>'
    return f'<section class="tiles" aria-label="metrics">{made}</section>{note}'


def _null_text(null: Mapping[str, float]) -> str:
    if null.get("median") is None:
        return "too few rows"
    return f"a perfect model of this size reads {share_text(null['low'])} to {share_text(null['high'])}"


def _footer(found: Findings, digest: str | None) -> str:
    model = found.model
    layers = " x ".join(map(str, model.spec.hidden_layer_sizes)) or "none (softmax regression)"
    members = f", {model.spec.n_members} members" if model.spec.n_members > 1 else ""
    lines = [
        f"hidden layers {layers}{members}, {model.n_parameters:,} parameters; calibration {model.calibration.method}, "
        f"temperature {model.calibration.temperature:.3g}",
        f"sha256 {digest}" if digest else "",
        f"softmaxnet {softmaxnet.__version__}. This page loads nothing from anywhere.",
    ]
    return f"<footer>{'<br>'.join(escaped(line) for line in lines if line)}</footer>"
