"""The course of a training as a small table that a model file can keep: losses by epoch, and nothing of the clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["history_rows", "history_table"]

COLUMNS = ("epoch", "loss", "validation_log_loss", "validation_accuracy")
MOST_POINTS = 200
DIGITS = 6


def history_table(history: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Return the lines of a history as columns, without seconds, so that the same fit gives the same table.

    Of more than 200 epochs, 200 are kept: the first, the last, the one with the lowest held-out log loss, and others
    at equal distances. Numbers have six significant digits; a number that is not there is None.

    Examples
    --------
    >>> history_table([{"epoch": 1, "loss": 0.61234567, "seconds": 0.1}, {"epoch": 2, "loss": 0.4, "seconds": 0.2}])
    {'epoch': [1, 2], 'loss': [0.612346, 0.4]}
    """
    lines = [history[place] for place in _kept(history)]
    columns = [name for name in COLUMNS if any(name in line for line in lines)]
    return {name: [_short(line.get(name)) for line in lines] for name in columns}


def history_rows(table: Any) -> list[dict[str, float]]:
    """Return the lines of a table that :func:`history_table` made; none of anything else.

    Examples
    --------
    >>> history_rows({"epoch": [1, 2], "loss": [0.6, None]})
    [{'epoch': 1, 'loss': 0.6}, {'epoch': 2}]
    >>> history_rows("nothing of the kind")
    []
    """
    if not isinstance(table, Mapping) or not all(isinstance(table.get(name, []), list) for name in COLUMNS):
        return []
    columns = {name: table[name] for name in COLUMNS if name in table}
    if len({len(values) for values in columns.values()}) != 1:
        return []
    lines = [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
    return [
        {name: value for name, value in line.items() if isinstance(value, int | float) and np.isfinite(value)}
        for line in lines
    ]


def _kept(history: Sequence[Mapping[str, float]]) -> list[int]:
    n = len(history)
    if n <= MOST_POINTS:
        return list(range(n))
    scores = [line.get("validation_log_loss", np.inf) for line in history]
    places = {0, n - 1, int(np.argmin(scores))}
    places |= set(np.linspace(0, n - 1, MOST_POINTS - 1).round().astype(int).tolist())
    return sorted(places)


def _short(value: Any) -> float | None:
    if value is None or not np.isfinite(value):
        return None
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(f"{float(value):.{DIGITS}g}")
