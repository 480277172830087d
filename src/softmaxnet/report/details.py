"""The sections with the details: the most confident mistakes, sets, the training, what the columns became."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softmaxnet.explain import image_shape
from softmaxnet.history import history_rows
from softmaxnet.report.charts import coverage_chart, percent, training_chart
from softmaxnet.report.confusion import short_name
from softmaxnet.report.findings import Findings
from softmaxnet.report.mistakes import mistake_cards
from softmaxnet.report.svg import escaped
from softmaxnet.report.words import counted, name_of, plain_table, row_of

__all__ = ["columns_section", "mistakes_section", "sets_section", "training_section"]

SHOWN_COLUMNS = 12
SETTINGS = {
    "solver": "solver",
    "hidden_layer_sizes": "hidden layers",
    "activation": "activation",
    "n_members": "members",
    "learning_rate": "learning rate",
    "batch_size": "batch size",
    "dropout": "dropout",
}
NO_SETS = (
    "<div><p>This model was not prepared for prediction sets: the curve is what sets by a threshold <i>would have</i> "
    "done on these rows. For a guarantee: <code>softmaxnet calibrate --sets</code>, <code>calibrate_sets(X, y)</code> "
    "or <code>conformal_fraction=0.1</code>.</p></div>"
)


def mistakes_section(found: Findings) -> str:
    """Return the most confident mistakes."""
    mistakes = found.rows.mistakes()
    head = "<section><h2>Sure, and wrong</h2>"
    if not mistakes:
        return f"{head}<p>No row is wrong.</p></section>"
    width = "220px" if image_shape(found.model) is not None else "300px"
    n = "The mistake" if len(mistakes) == 1 else f"The {len(mistakes)} mistakes"
    text = (
        f"{n} that the model was most sure of. Blue spoke for what was said, orange for what it was. Look at the "
        "labels too: some of these may be mistakes in the data."
    )
    cards = "".join(mistake_cards(found.model, mistakes))
    return f'{head}<p>{text}</p><div class="cards" style="--card-width:{width}">{cards}</div></section>'


def sets_section(found: Findings) -> str:
    """Return coverage against set size."""
    if found.model.n_classes < 2 or not found.rows.sets.n_rows:
        return ""
    curve, prepared = found.rows.sets.curve(), found.rows.prepared
    chart, rows = coverage_chart(curve, found.scores.rank, found.model.n_classes, prepared)
    key = '<span class="key dot"></span>prepared sets, with the coverage asked for' if rows else ""
    caption = '<span class="key"></span>all classes above a threshold <span class="key other"></span>the k likeliest '
    figure = f"<figure>{chart}<figcaption>{caption}{key}</figcaption></figure>"
    return (
        "<section><h2>How many classes must one keep in mind?</h2><p>A set of classes in place of one: the larger it "
        'may be, the more often it holds the label.</p><div class="two">'
        f"{figure}{_prepared_sets(found, rows) if rows else NO_SETS}</div></section>"
    )


def _prepared_sets(found: Findings, rows: list[dict[str, float]]) -> str:
    body = [
        row_of(
            f'<span class="nw">{percent(row["stated"])}</span>',
            f"><b>{percent(row['coverage'], 1)}</b>",
            f">{percent(row['low'], 1)} .. {percent(row['high'], 1)}",
            f">{row['size']:.2f}",
            f">{percent(row['single'])}",
            _worst_class(found, row),
        )
        for row in rows
    ]
    heads = ["asked", ">held the label", ">95&nbsp;% interval", ">mean size", ">of one class", "worst class"]
    return (
        f"<div>{plain_table(heads, body)}"
        '<p class="note">The promise is about all rows together, not about each class. The most probable class is in '
        "every set, so that the share is never below the accuracy.</p></div>"
    )


def _worst_class(found: Findings, row: Mapping[str, float]) -> str:
    if row["worst"] < 0:
        return ""
    return f"{name_of(found.names[int(row['worst'])])} {percent(row['worst_coverage'])}"


def training_section(found: Findings) -> str:
    """Return the course of the training, from the model file."""
    history = [line for line in history_rows(found.model.metrics.get("history")) if {"epoch", "loss"} <= set(line)]
    settings = found.model.settings
    said = ", ".join(f"{word} {_setting(settings[name])}" for name, word in SETTINGS.items() if name in settings)
    note = f'<p class="note">{escaped(said)}</p>' if said else ""
    if len(history) < 2:
        steps = found.model.metrics.get("n_iter")
        how = f"<p>Fitted to all rows at once, in {steps} steps.</p>" if isinstance(steps, int) and history else ""
        return f"<section><h2>The training</h2>{how}{note}</section>" if how or note else ""
    held_out = any("validation_log_loss" in line for line in history)
    text = (
        "Dotted: the loss of the training rows, with whatever the training adds to it. Solid: the log loss of rows "
        "held out, after the best temperature. The point is what was kept."
        if held_out
        else "The loss of the training rows; none were held out."
    )
    figure = f"<figure>{training_chart(history)}<figcaption>{text}</figcaption></figure>"
    return f'<section><h2>The training</h2><div class="two">{figure}<div>{note}</div></div></section>'


def _setting(value: object) -> str:
    if isinstance(value, list | tuple):
        return " x ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def columns_section(found: Findings) -> str:
    """Return what every column became; runs of like unnamed columns, such as pixels, are one row."""
    groups: list[tuple[dict[str, Any], dict[str, Any], int]] = []
    for column in found.model.encoder.describe():
        like = (column["kind"], column["becomes"])
        unnamed = str(column["name"]).startswith("column ")
        if groups and unnamed and like == (groups[-1][0]["kind"], groups[-1][0]["becomes"]):
            groups[-1] = (groups[-1][0], column, groups[-1][2] + 1)
        else:
            groups.append((column, column, 1))
    rows = [_column_row(*group) for group in groups]
    heads = ["column", "kind", ">missing", ">distinct", "becomes"]
    table = plain_table(heads, rows[:SHOWN_COLUMNS])
    if len(rows) > SHOWN_COLUMNS:
        more = counted(len(rows) - SHOWN_COLUMNS, "more column")
        table += f"<details><summary>{more}</summary>{plain_table(heads, rows[SHOWN_COLUMNS:])}</details>"
    return f"<section><h2>What the columns became</h2>{table}</section>"


def _column_row(first: Mapping[str, Any], last: Mapping[str, Any], n: int) -> str:
    name = escaped(short_name(first["name"], 60))
    name += f" .. {escaped(short_name(last['name'], 60))} ({n:,})" if n > 1 else ""
    distinct = "" if first["n_distinct"] is None or n > 1 else f"{first['n_distinct']:,}"
    missing = percent(first["share_missing"], 1) if n == 1 else ""
    kind, becomes = escaped(first["kind"]), escaped(first["becomes"])
    return row_of(f"<bdi>{name}</bdi>", kind, f">{missing}", f">{distinct}", f"{becomes} each" if n > 1 else becomes)
