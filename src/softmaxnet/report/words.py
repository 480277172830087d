"""Names, numbers and shares as text of the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from softmaxnet.report.charts import percent
from softmaxnet.report.confusion import short_name
from softmaxnet.report.svg import escaped

__all__ = ["counted", "interval_text", "name_of", "number_text", "plain_table", "row_of", "share_text"]


def name_of(name: object) -> str:
    """Return a name of the data, shortened where it is long, whatever direction it is written in."""
    shown = re.sub(r"([_/.-]+)", r"\1<wbr>", escaped(short_name(name, 40)))  # where a long one may be broken
    return f'<bdi title="{escaped(name)}">{shown}</bdi>'


def counted(n: int, one: str, many: str | None = None) -> str:
    """Return a number of things in words."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def share_text(value: float | None) -> str:
    """Return a share as a percentage, "unknown" where it is None."""
    return "unknown" if value is None else percent(value, 1)


def number_text(value: float | None) -> str:
    """Return a number of nats or the like with three or four decimals."""
    if value is None:
        return "unknown"
    return "infinite" if np.isinf(value) else f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.4f}"


def interval_text(bounds: Sequence[float | None], shown: Callable[[float | None], str]) -> str:
    """Return an interval in words."""
    return f"{shown(bounds[0])} to {shown(bounds[1])}"


def plain_table(heads: Sequence[str], rows: Sequence[str], caption: str = "") -> str:
    """Return a table that scrolls where it is too wide; a head that begins with > is that of a column of numbers.

    Examples
    --------
    >>> plain_table(["class", ">rows"], ["<tr><td>a</td><td>1</td></tr>"]).count("<th")
    3
    """
    cells = "".join(
        f'<th class="num">{head[1:]}</th>' if head.startswith(">") else f"<th>{head}</th>" for head in heads
    )
    above = f"<caption>{caption}</caption>" if caption else ""
    body = "".join(rows)
    inside = f"{above}<thead><tr>{cells}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="plain">{inside}</table></div>'


def row_of(name: str, *cells: str) -> str:
    """Return a row of such a table; a cell that begins with > is a number.

    Examples
    --------
    >>> row_of("a", ">1")
    '<tr><th scope="row">a</th><td class="num">1</td></tr>'
    """
    shown = "".join(
        f'<td class="num">{cell[1:]}</td>' if cell.startswith(">") else f"<td>{cell}</td>" for cell in cells
    )
    return f'<tr><th scope="row">{name}</th>{shown}</tr>'
