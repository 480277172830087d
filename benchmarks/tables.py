"""Markdown tables of the results of ``quality.py``."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_in_words

OURS = "softmaxnet"
SCIKIT_LEARN = ("logistic", "mlp", "mlp_early", "boosting", "tfidf_logistic", "tfidf_mlp", "tfidf_svm")
WORST_RATIO, WORST_NATS = 1.05, 0.005
"""A disaster: more than 5 % and more than 0.005 nats above the best peer."""

Line = dict[str, Any]
Results = dict[str, dict[str, list[Line]]]


def read_results(path: Path) -> list[Line]:
    """Return the measurements of a file of JSON lines, the latest of each kept, in the order of first appearance."""
    kept: dict[tuple[Any, ...], Line] = {}
    for line in _all_lines(path):
        if "set" in line:
            kept[(line["set"], line["method"], line["seed"], line["mode"], line["threads"])] = line
    return list(kept.values())


def _all_lines(path: Path) -> list[Line]:
    if not path.exists():
        return []
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]


def write_tables(path: Path) -> str:
    """Write the Markdown beside the results and return it."""
    lines = read_results(path)
    results: Results = defaultdict(lambda: defaultdict(list))
    for line in lines:
        if line["status"] != "absent":
            results[line["set"]][line["method"]].append(line)
    methods = list(dict.fromkeys(line["method"] for line in lines if line["status"] != "absent"))
    absent = sorted({line["method"] for line in lines if line["status"] == "absent"})
    machines = [line["machine"] for line in _all_lines(path) if "machine" in line]
    modes = sorted({f"{line['mode']}, {line['threads']} threads" for line in lines})
    parts = [f"# Results of {path.stem}", f"Mode: {'; '.join(modes)}. Means over the seeds run."]
    if machines:
        parts.append("Measured on: " + describe_in_words(machines[-1]))
    ours = sorted({line["code"] for line in lines if line["method"].startswith(OURS) and "code" in line})
    if len(ours) > 1:
        parts.append(f"The lines of {OURS} are from different states of its source: {', '.join(ours)}.")
    if absent:
        parts.append(f"Not installed: {', '.join(absent)}.")
    parts += [
        "## Log loss [nats]\nThe lowest in bold; ! marks more than 5 % and more than 0.005 nats above the best other "
        f"method.\n\n{_loss_table(results, methods)}",
        f"## softmaxnet against each\n\n{_duels(results, methods)}",
        f"## Accuracy [%]\n\n{_table(results, methods, 'accuracy', lambda v: f'{100 * v:.2f}')}",
        f"## Brier score\n\n{_table(results, methods, 'brier', lambda v: f'{v:.4f}')}",
        "## Smooth calibration error\nIn parentheses: the share of seeds inside the 95 % band of a perfectly "
        f"calibrated model.\n\n{_calibration_table(results, methods)}",
        f"## Fit [s]\n\n{_table(results, methods, 'fit_seconds', _short)}",
        f"## Predict [s]\n\n{_table(results, methods, 'predict_seconds', _short)}",
        f"## Peak memory [MiB]\n\n{_table(results, methods, 'peak_rss_mib', lambda v: f'{v:.0f}')}",
        f"## Warnings and failures\n\n{_troubles(lines)}",
    ]
    text = "\n\n".join(parts) + "\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return text


def _mean(lines: list[Line], key: str) -> float:
    """Return a mean over the seeds; infinite where any of them failed."""
    if not lines:
        return float("nan")
    if any(line["status"] != "ok" or line.get(key) is None for line in lines):
        return float("inf")
    return float(np.mean([line[key] for line in lines]))


def _common_seeds(methods: dict[str, list[Line]]) -> dict[str, list[Line]]:
    """Keep, for each method, the seeds that every method of the data set was run with."""
    common = set.intersection(*({line["seed"] for line in lines} for lines in methods.values()))
    return {name: [line for line in lines if line["seed"] in common] for name, lines in methods.items()}


def _losses(results: Results) -> dict[str, dict[str, float]]:
    return {
        name: {method: _mean(lines, "log_loss") for method, lines in _common_seeds(by_method).items()}
        for name, by_method in results.items()
    }


def _loss_table(results: Results, methods: list[str]) -> str:
    losses = _losses(results)
    rows = []
    for name, found in losses.items():
        best = min(found.values())
        truths = [
            line["log_loss_of_truth"]
            for lines in results[name].values()
            for line in lines
            if "log_loss_of_truth" in line
        ]
        cells = [name, f"{np.mean(truths):.4f}" if truths else ""]
        for method in methods:
            loss = found.get(method, float("nan"))
            others = min((value for other, value in found.items() if other != method), default=float("nan"))
            mark = " !" if loss > others * WORST_RATIO and loss > others + WORST_NATS else ""
            shown = "" if np.isnan(loss) else "failed" if np.isinf(loss) else f"{loss:.4f}{mark}"
            cells.append(f"**{shown}**" if loss == best and shown != "failed" else shown)
        rows.append(cells)
    ranks = _mean_ranks(losses, methods)
    rows.append(["mean rank", "", *(f"{ranks[method][0]:.2f}" for method in methods)])
    rows.append(["on sets", "", *(str(ranks[method][1]) for method in methods)])
    return _markdown(["data", "truth", *methods], rows)


def _mean_ranks(losses: dict[str, dict[str, float]], methods: list[str]) -> dict[str, tuple[float, int]]:
    """Return each method's mean rank in log loss among those run on a data set, and on how many; failures come last."""
    ranks: dict[str, list[float]] = {method: [] for method in methods}
    for found in losses.values():
        if len(found) < 2:
            continue
        values = np.array(list(found.values()))
        for method, loss in found.items():
            ranks[method].append(1 + np.sum(values < loss) + 0.5 * (np.sum(values == loss) - 1))
    return {method: (float(np.mean(r)) if r else float("nan"), len(r)) for method, r in ranks.items()}


def _duels(results: Results, methods: list[str]) -> str:
    """Return, for each peer and for the best of them: how often softmaxnet's loss is lower, and the ratios."""
    losses = _losses(results)
    rows = []
    groups = {method: (method,) for method in methods if method != OURS}
    groups["best of scikit-learn"] = SCIKIT_LEARN
    groups["best of all"] = tuple(method for method in methods if not method.startswith(OURS))
    for label, group in groups.items():
        ratios, times = [], []
        for name, found in losses.items():
            against = {method: found[method] for method in group if np.isfinite(found.get(method, np.nan))}
            if not against or not np.isfinite(found.get(OURS, np.nan)):
                continue
            best = min(against, key=lambda method: against[method])
            ratios.append(found[OURS] / max(against[best], 1e-12))
            seconds = _mean(results[name][OURS], "fit_seconds"), _mean(results[name][best], "fit_seconds")
            times.append(seconds[0] / max(seconds[1], 1e-9))
        if ratios:
            wins = int(np.sum(np.array(ratios) < 1))
            cells = [f"{wins} of {len(ratios)}", f"{np.median(ratios):.3f}", f"{max(ratios):.3f}"]
            rows.append([label, *cells, f"{np.exp(np.mean(np.log(times))):.2f}"])
    header = [
        "against",
        "lower log loss",
        "median ratio of log loss",
        "worst ratio",
        "geometric mean ratio of fit time",
    ]
    return _markdown(header, rows)


def _table(results: Results, methods: list[str], key: str, show: Any) -> str:
    rows = []
    for name, found in results.items():
        values = [_mean(found[method], key) if method in found else float("nan") for method in methods]
        rows.append([name, *("" if not np.isfinite(value) else show(value) for value in values)])
    return _markdown(["data", *methods], rows)


def _calibration_table(results: Results, methods: list[str]) -> str:
    rows, inside = [], {method: [0.0, 0] for method in methods}
    for name, found in results.items():
        cells = [name]
        for method in methods:
            lines = [line for line in found.get(method, []) if line["status"] == "ok"]
            if not lines:
                cells.append("")
                continue
            share = float(np.mean([line["calibration_inside_band"] for line in lines]))
            inside[method][0] += share
            inside[method][1] += 1
            cells.append(f"{_mean(lines, 'calibration_error'):.4f} ({share:.0%})")
        rows.append(cells)
    rows.append(["inside", *(f"{total / max(count, 1):.0%}" for total, count in inside.values())])
    return _markdown(["data", *methods], rows)


def _troubles(lines: list[Line]) -> str:
    told: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        where = f"{line['set']} seed {line['seed']}"
        if line["status"] in ("failed", "timeout"):
            told[f"{line['method']}, {line['status']}: {_one_line(line['error'])}"].append(where)
        for warning in line.get("warnings", []):
            told[f"{line['method']}, {_one_line(warning)}"].append(where)
    if not told:
        return "None."
    return "\n".join(
        f"- {trouble} ({', '.join(where[:4])}{', ...' if len(where) > 4 else ''})" for trouble, where in told.items()
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200].replace("|", "/")


def _short(seconds: float) -> str:
    return f"{seconds:.3f}" if seconds < 1 else f"{seconds:.1f}"


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
