"""What can be measured of ink on a plain ground: where it is, how wide its strokes are, how they slant.

Ink is an array (height, width) from 0 (ground) to 1 (full ink). Places are counted from the picture's edge: the centre
of the first pixel is at 0.5.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "centre_of_mass", "ink_box", "slant", "stroke_width"]

VISIBLE = 0.2
"""Less ink than this does not count for the box."""


class Box(NamedTuple):
    """The rows ``top:bottom`` and columns ``left:right`` that have ink."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left

    @property
    def centre(self) -> tuple[float, float]:
        """Half-way down and across."""
        return (self.top + self.bottom) / 2, (self.left + self.right) / 2


def ink_box(ink: NDArray[Any]) -> Box | None:
    """Return the smallest box with all visible ink; None where there is none.

    Examples
    --------
    >>> ink = np.zeros((4, 5))
    >>> ink[1:3, 2] = 1.0
    >>> ink_box(ink)
    Box(top=1, bottom=3, left=2, right=3)
    """
    visible = ink > VISIBLE
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    if rows.size == 0:
        return None
    return Box(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


def centre_of_mass(ink: NDArray[Any]) -> tuple[float, float]:
    """Return the mean place (down, across) of the ink; the picture must have some.

    Examples
    --------
    >>> centre_of_mass(np.eye(4))
    (2.0, 2.0)
    """
    total = float(ink.sum())
    down = float(ink.sum(axis=1) @ (np.arange(ink.shape[0]) + 0.5)) / total
    across = float(ink.sum(axis=0) @ (np.arange(ink.shape[1]) + 0.5)) / total
    return down, across


def stroke_width(ink: NDArray[Any]) -> float:
    """Return the mean width of the strokes in pixels: four times the mean distance of ink from its edge.

    Across a stroke of width w the distance from the nearer edge runs from 0 to w/2 and back, so that its mean is w/4.

    Examples
    --------
    >>> ink = np.zeros((40, 40))
    >>> ink[5:35, 16:24] = 1.0
    >>> 7 < stroke_width(ink) < 9
    True
    """
    from scipy.ndimage import distance_transform_edt

    solid = np.pad(ink > 0.5, 1)
    if not solid.any():
        return 0.0
    # The distance goes to the centre of the nearest pixel of the ground, half a pixel beyond the edge.
    return float(4 * (distance_transform_edt(solid)[solid].mean() - 0.5))


def slant(ink: NDArray[Any]) -> float:
    """Return by how many columns the ink moves to the right for each row up: the slope of its main axis.

    Examples
    --------
    >>> round(slant(np.eye(5)[::-1]), 6)
    1.0
    """
    down, across = centre_of_mass(ink)
    y = np.arange(ink.shape[0]) + 0.5 - down
    x = np.arange(ink.shape[1]) + 0.5 - across
    spread = float(ink.sum(axis=1) @ y**2)
    return -float(y @ ink @ x) / spread if spread > 0 else 0.0
