"""Charts as SVG text: scales, axes, lines, bands. Colours are classes of the page's style sheet, so that they follow
the reader's light or dark mode; nothing is loaded from anywhere.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Chart", "Scale", "escaped", "ticks"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Format: TypeAlias = Callable[[float], str]


def escaped(text: object) -> str:
    """Return any text as text of a page: markup is shown, control characters are not let through.

    Examples
    --------
    >>> escaped('<b>&"')
    '&lt;b&gt;&amp;&quot;'
    """
    shown = "".join(
        c if c in "\n\N{NO-BREAK SPACE}" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text)
    )
    return html.escape(shown)


@dataclass(frozen=True)
class Scale:
    """Numbers of the data -> places on the page, straight or logarithmic."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a number."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(max(value, 1e-300))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, -0.02), 1.02) * (self.stop - self.start)


def ticks(low: float, high: float, n: int = 5, *, log: bool = False) -> list[float]:
    """Return round numbers between two others, about ``n`` of them.

    Examples
    --------
    >>> ticks(0, 1), ticks(1, 150, log=True)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0])
    """
    if not high > low:
        return [low]
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        many = math.log10(high / low) > 3
        found = [m * 10.0**p for p in powers for m in ((1,) if many else (1, 2, 5))]
    else:
        raw = (high - low) / n
        size = 10.0 ** math.floor(math.log10(raw))
        step = min((m * size for m in (1, 2, 5, 10)), key=lambda width: abs(math.log(width / raw)))
        first = math.ceil(low / step - 1e-9)
        found = [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]
    return [value for value in found if low * (1 - 1e-9) - 1e-12 <= value <= high * (1 + 1e-9)]


@dataclass
class Chart:
    """One drawing: a frame with two scales, and what is drawn in it, in order.

    Attributes
    ----------
    label : str
        What a screen reader says of it.
    """

    label: str
    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 480
    height: int = 360
    margins: tuple[int, int, int, int] = (12, 14, 46, 52)
    log_x: bool = False
    log_y: bool = False
    parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        top, right, bottom, left = self.margins
        self.to_x = Scale(*self.x, left, self.width - right, self.log_x)
        self.to_y = Scale(*self.y, self.height - bottom, top, self.log_y)

    def add(self, part: str) -> None:
        """Add SVG text."""
        self.parts.append(part)

    def line(self, xs: Iterable[float], ys: Iterable[float], kind: str) -> None:
        """Draw a line that stops where a number is missing."""
        for run in _runs(xs, ys):
            if len(run[0]) > 1:
                self.add(f'<path class="{kind}" d="M{self._path(*run)}"/>')
            else:
                self.dot(run[0][0], run[1][0], 2.0, kind)

    def band(self, xs: Floats, low: Floats, high: Floats, kind: str) -> None:
        """Fill what is between two lines."""
        for along, lower, upper in _runs(xs, low, high):
            there, back = self._path(along, upper), self._path(along[::-1], lower[::-1])
            self.add(f'<path class="{kind}" d="M{there}L{back}Z"/>')

    def dot(self, x: float, y: float, radius: float, kind: str, title: str = "") -> None:
        """Draw a point; the title is shown where the mouse rests on it."""
        inside = f"<title>{escaped(title)}</title>" if title else ""
        self.add(
            f'<circle class="{kind}" cx="{self.to_x(x):.1f}" cy="{self.to_y(y):.1f}" r="{radius:.1f}">{inside}</circle>'
        )

    def whisker(self, x: float, low: float, high: float, kind: str) -> None:
        """Draw an upright interval."""
        at = self.to_x(x)
        self.add(f'<path class="{kind}" d="M{at:.1f},{self.to_y(low):.1f}V{self.to_y(high):.1f}"/>')

    def box(self, x: tuple[float, float], y: tuple[float, float], kind: str, title: str = "") -> None:
        """Fill a rectangle between numbers of the data."""
        left, right, top, bottom = self.to_x(x[0]), self.to_x(x[1]), self.to_y(y[1]), self.to_y(y[0])
        inside = f"<title>{escaped(title)}</title>" if title else ""
        self.add(
            f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 0.1):.1f}" '
            f'height="{max(bottom - top, 0):.1f}">{inside}</rect>'
        )

    def text(self, x: float, y: float, text: str, kind: str = "label", anchor: str = "start") -> None:
        """Write at numbers of the data."""
        self.add(
            f'<text class="{kind}" x="{self.to_x(x):.1f}" y="{self.to_y(y):.1f}" text-anchor="{anchor}">'
            f"{escaped(text)}</text>"
        )

    def axes(
        self, x_title: str, y_title: str, *, x_format: Format, y_format: Format, n_x: int = 5, n_y: int = 5
    ) -> None:
        """Draw grid lines, numbers and titles; call it first, so that they lie below the rest."""
        top, right, bottom, left = self.margins
        floor, wall = self.height - bottom, self.width - right
        for value in ticks(*self.x, n_x, log=self.log_x):
            at = self.to_x(value)
            self.add(f'<path class="grid" d="M{at:.1f},{top}V{floor}"/>')
            self.add(f'<text class="tick" x="{at:.1f}" y="{floor + 16}" text-anchor="middle">{x_format(value)}</text>')
        for value in ticks(*self.y, n_y, log=self.log_y):
            at = self.to_y(value)
            self.add(f'<path class="grid" d="M{left},{at:.1f}H{wall}"/>')
            self.add(f'<text class="tick" x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{y_format(value)}</text>')
        if x_title:
            middle = (left + wall) / 2
            title = escaped(x_title)
            self.add(f'<text class="axis" x="{middle:.0f}" y="{self.height - 8}" text-anchor="middle">{title}</text>')
        if y_title:
            middle = (top + floor) / 2
            self.add(
                f'<text class="axis" x="14" y="{middle:.0f}" text-anchor="middle" '
                f'transform="rotate(-90 14 {middle:.0f})">{escaped(y_title)}</text>'
            )

    def _path(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        return "L".join(f"{self.to_x(x):.1f},{self.to_y(y):.1f}" for x, y in zip(xs, ys, strict=True))

    def render(self) -> str:
        """Return the drawing."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escaped(self.label)}">'
            + "".join(self.parts)
            + "</svg>"
        )


def _runs(*columns: Iterable[float]) -> Iterable[tuple[list[float], ...]]:
    """Yield the stretches in which every number is there."""
    run: list[tuple[float, ...]] = []
    for values in zip(*columns, strict=True):
        if all(math.isfinite(value) for value in values):
            run.append(values)
        elif run:
            yield tuple(map(list, zip(*run, strict=True)))
            run = []
    if run:
        yield tuple(map(list, zip(*run, strict=True)))
