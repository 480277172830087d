"""The sections on how good the probabilities are: reliability, the classes that are farthest off, confusions."""

from __future__ import annotations

from typing import Any

import numpy as np

from softmaxnet.metrics import reliability_bins, reliability_curve
from softmaxnet.report.charts import class_panels, classwise_error, percent, reliability_chart
from softmaxnet.report.confusion import READABLE, Confusions, groups_of_classes, matrix_table, overview, short_name
from softmaxnet.report.findings import Findings
from softmaxnet.report.svg import escaped
from softmaxnet.report.words import counted, name_of, plain_table, row_of

__all__ = ["confusion_section", "reliability_section"]

N_PANELS = 6
N_GROUPS = 6
N_CONFUSIONS = 15
CHANCE = 1.1
"""Up to this multiple of what chance gives, the mean class-wise error is called chance."""


def reliability_section(found: Findings) -> str:
    """Return how the probabilities compare with what happened: over all rows, and class by class."""
    scores, weight = found.scores, found.rows.weights()
    known = scores.labels >= 0
    if not known.any():
        return ""
    confidence, correct, weight = scores.confidence[known], scores.correct[known], weight[known]
    curve = reliability_curve(confidence, correct, sample_weight=weight)
    bins = reliability_bins(confidence, correct, sample_weight=weight, n_bins=min(15, max(3, len(weight) // 20)))
    chart = reliability_chart(curve, bins, confidence, binary=found.model.n_classes == 2)
    figure = (
        f'<figure>{chart}<figcaption><span class="key"></span>accuracy, smoothed '
        '<span class="key area"></span>95 % band <span class="key dash"></span>what it says is what happens; points: '
        "equally many rows, with 95&nbsp;% intervals</figcaption></figure>"
    )
    text = (
        "On the dashed line, of the cases called 77&nbsp;%, 77&nbsp;% are right. Below it the model is overconfident, "
        "above it underconfident."
    )
    side = f'<div class="two">{figure}{_band_table(found)}</div>'
    return f"<section><h2>Does it mean what it says?</h2><p>{text}</p>{side}{_classes(found)}</section>"


def _band_table(found: Findings) -> str:
    rows = [
        row_of(
            f'<span class="nw">{band.name}</span>',
            f">{band.n_rows:,}",
            f">{percent(band.confidence, 1)}",
            f"><b>{percent(band.accuracy, 1)}</b>",
            f">{percent(band.bounds[0], 1)} .. {percent(band.bounds[1], 1)}",
        )
        for band in reversed(found.bands)
    ]
    error, null = found.result["calibration_error"], found.result.get("calibration_error_null") or {}
    binned = found.result.get("binned_calibration_error_null") or {}
    said = ""
    if error is not None and null.get("median") is not None:
        said = (
            f"<p>Calibration error <b>{percent(error, 1)}</b> (smooth). A perfectly calibrated model with these "
            f"confidences and this many rows reads {percent(null['median'], 1)}, and in 95 of 100 cases between "
            f"{percent(null['low'], 1)} and {percent(null['high'], 1)}: only more than that is evidence.</p>"
            f'<p class="note">In 15 bins of equally many rows: '
            f"{percent(found.result['binned_calibration_error'], 1)}, of which chance alone gives "
            f"{percent(binned['low'], 1)} to {percent(binned['high'], 1)}.</p>"
        )
    table = plain_table(["it says", ">rows", ">mean", ">right", ">95&nbsp;% interval"], rows)
    return f"<div>{table}{said}</div>"


def _classes(found: Findings) -> str:
    """Return the classes whose probabilities are farthest from what happened, as small diagrams."""
    cells = found.rows.cells
    if cells is None:
        return ""
    panels = class_panels(cells, N_PANELS)
    off = [panel for panel in panels if panel.excess > 0]
    shown = off or panels[:1]
    gap, chance = classwise_error(cells)
    figures = "".join(
        f"<figure>{panel.svg}<figcaption><b><bdi>{escaped(short_name(found.names[panel.label], 40))}</bdi></b><br>"
        f"{counted(panel.n_rows, 'row')}, its probabilities add up to {panel.expected:,.1f}</figcaption></figure>"
        for panel in shown
    )
    if found.model.n_classes == 2:
        title, text = (
            "The second class against the first",
            "Across: the probability of the class. Up: how often it was.",
        )
    elif off:
        title = "The classes that are farthest off"
        text = (
            "One class against all others. Across: the probability that it was given. Up: how often it was the label."
        )
        if gap.mean() < CHANCE * chance.mean():
            text += " All classes together are no farther off than chance explains, and some are always the farthest."
    else:
        title = "Class by class"
        text = "No class is farther off than chance explains. As an example, the one that is nearest to it:"
    return (
        f'<h3>{title}</h3><p>{text}</p><div class="panels">{figures}</div>'
        f'<p class="note">Class-wise calibration error, mean over the classes: {percent(float(gap.mean()), 2)}; chance '
        f"alone gives {percent(float(chance.mean()), 2)}.</p>"
    )


def confusion_section(found: Findings) -> str:
    """Return which classes are taken for which."""
    confusions, names = found.confusions, found.names
    if not confusions.totals.any():
        return ""
    k = confusions.n_classes
    head = "<section><h2>What is taken for what</h2>"
    if k <= READABLE:
        return f"{head}{matrix_table(confusions, range(k), names)}{_worst_classes(found)}</section>"
    wrong = int(confusions.totals.sum()) - int(confusions.counts.diagonal().sum())
    if not wrong:
        return f"{head}<p>Nothing: every row of a known class is right.</p></section>"
    groups = groups_of_classes(confusions, N_GROUPS)
    matrices = "".join(f"<figure>{matrix_table(confusions, members, names)}</figure>" for members in groups)
    n_pairs = int(np.count_nonzero(confusions.counts.tocoo().row != confusions.counts.tocoo().col))
    text = (
        f"<p>{counted(wrong, 'row')} of {int(confusions.totals.sum()):,} are called something else, in "
        f"{counted(n_pairs, 'different pair')} of classes.</p>"
    )
    return (
        f'{head}{text}<div class="two">{_confusion_list(confusions, names)}{_overview(confusions, names)}</div>'
        f"<h3>Classes that are confused with each other</h3>"
        f'<div class="two">{matrices}</div>{_worst_classes(found)}</section>'
    )


def _confusion_list(confusions: Confusions, names: Any) -> str:
    top = confusions.top(N_CONFUSIONS)
    most = max(n / confusions.totals[i] for i, _, n in top)
    rows = []
    for i, j, n in top:
        share = n / confusions.totals[i]
        bar = f'<span class="share" style="--w:{60 * share / most:.0f}px"></span>'
        rows.append(row_of(name_of(names[i]), name_of(names[j]), f">{n:,}", f">{percent(share)}", bar))
    return plain_table(["it was", "called", ">rows", ">of its class", ""], rows, "the most frequent confusions")


def _overview(confusions: Confusions, names: Any) -> str:
    picture = overview(confusions, names)
    if not picture:
        return ""
    return (
        f"<figure>{picture}<figcaption>All mistakes: down, what it was; across, what it was called. Classes that are "
        "confused stand side by side; the stronger the colour, the larger the share of the class.</figcaption></figure>"
    )


def _worst_classes(found: Findings) -> str:
    confusions, names = found.confusions, found.names
    recall, precision = confusions.recall(), confusions.precision()
    seen = np.flatnonzero(confusions.totals > 0)
    order = seen[np.argsort(recall[seen], kind="stable")]
    shown = order if len(order) <= READABLE else order[:10]
    rows = [
        row_of(
            name_of(names[k]),
            f">{confusions.totals[k]:,}",
            f">{percent(recall[k])}",
            f">{percent(precision[k])}" if np.isfinite(precision[k]) else ">never called",
        )
        for k in shown
    ]
    table = plain_table(["class", ">rows", ">found (recall)", ">right when called (precision)"], rows)
    title = "class by class, the worst first"
    if len(shown) < len(order):
        title = f"the {len(shown)} classes that are found least, of {len(order):,}"
    absent = confusions.n_classes - len(seen)
    have = "has" if absent == 1 else "have"
    more = (
        f'<p class="note">{counted(absent, "class", "classes")} of the model {have} no row here.</p>' if absent else ""
    )
    return f"<details{' open' if len(order) <= 6 else ''}><summary>{title}</summary>{table}</details>{more}"
