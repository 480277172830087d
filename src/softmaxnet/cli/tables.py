"""Tables for a person: the columns of the data, and the settings of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from softmaxnet.cli.terminal import aligned, one_line

if TYPE_CHECKING:
    from softmaxnet.precheck import Finding

__all__ = ["column_table", "findings_text", "mixture_text", "plan_text"]

SHOWN_COLUMNS = 30


def column_table(columns: list[dict[str, object]], *, all_rows: bool = False) -> str:
    """Return what each column was found to be and what it becomes; runs of like unnamed columns are one line."""
    rows: list[tuple[str, ...]] = [("column", "kind", "missing", "distinct", "becomes")]
    for first, last, column in _runs(columns):
        name = str(column["name"]) if first == last else f"{columns[first]['name']} .. {columns[last]['name']}"
        missing = column["share_missing"]
        assert isinstance(missing, float)
        distinct = "" if column["n_distinct"] is None else f"{column['n_distinct']}"
        rows.append((name, str(column["kind"]), f"{missing:.1%}", distinct, str(column["becomes"])))
    hidden = 0 if all_rows else len(rows) - 1 - SHOWN_COLUMNS
    if hidden > 1:
        rows = rows[: SHOWN_COLUMNS + 1]
    text = aligned(rows, indent="  ", widest=48)
    return text + (f"\n  ... and {hidden} more (--dry-run shows all)" if hidden > 1 else "")


def _runs(columns: list[dict[str, object]]) -> list[tuple[int, int, dict[str, object]]]:
    """Return (first, last, column) for each run of columns that differ only in their number, such as pixels."""
    runs: list[tuple[int, int, dict[str, object]]] = []
    for index, column in enumerate(columns):
        same = (
            runs
            and str(column["name"]) == f"column {index}"
            and all(column[key] == runs[-1][2][key] for key in column if key != "name")
        )
        if same:
            runs[-1] = (runs[-1][0], index, runs[-1][2])
        else:
            runs.append((index, index, column))
    return runs


def plan_text(plan: Mapping[str, Any]) -> str:
    """Return the resolved settings, one a line, under the names of the parameters."""
    rows = [(name, _setting(value)) for name, value in plan.items() if name != "mixture"]
    text = "would be trained:\n" + aligned(rows, indent="  ")
    tried = ["softmax regression"] if plan.get("compare_regression") else []
    tried += ["the same on few of many inputs"] if plan.get("compare_selection") else []
    tried += ["these networks", "as many that see numbers in bins"] if plan.get("compare_bins") else ["these networks"]
    if plan.get("input_dropout"):
        tried.append("as many trained with columns dropped at random")
    if len(tried) == 1:
        return text
    longer = " and may go on with the rows held out" if plan.get("continuation") else ""
    return f"{text}\n\ncompared by held-out log loss: {', '.join(tried)}; the best mixture of them is kept{longer}."


def mixture_text(settings: Mapping[str, Any]) -> str:
    """Return a line that says what was kept of the models that were compared; nothing where none were."""
    if not settings.get("mixture"):
        return ""
    share = settings.get("continuation") or 0.0
    longer = f"; gone on with the rows held out for {share:.0%} more epochs" if share else ""
    return f"kept: {', '.join(settings['mixture'])}{longer}\n"


def findings_text(findings: Sequence[Finding]) -> str:
    """Return what was found in the data, one a line, and an empty line; nothing for no findings."""
    if not findings:
        return ""
    lines = [f"  {finding.severity}: {one_line(finding.message)}" for finding in findings]
    return "\n".join(["found in the data:", *lines]) + "\n\n"


def _setting(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)
