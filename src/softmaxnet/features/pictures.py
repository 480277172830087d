"""Whether rows of numbers are pictures, and of what shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["picture_shape"]

SMOOTHNESS = 0.85
"""Neighbours in a picture differ by less than this share of what two pixels of any place differ by."""
ROWS_LOOKED_AT = 512


def picture_shape(pixels: NDArray[Any]) -> tuple[int, int, int] | None:
    """Return (height, width, channels) where rows are square pictures, None where they are not.

    The number of columns must be a square, or three times one (colour, channels last), no number may be negative (0 is
    the background), and pixels must resemble their neighbours in both directions more than they do others.

    Parameters
    ----------
    pixels : ndarray of shape (n_rows, n_pixels)

    Examples
    --------
    >>> ramp = np.add.outer(np.arange(8), np.arange(8)).astype(np.uint8) * 10
    >>> pictures = np.stack([np.roll(ramp, k, 0).ravel() for k in range(8)])
    >>> picture_shape(pictures)
    (8, 8, 1)
    >>> picture_shape(np.random.default_rng(0).integers(0, 256, (50, 64)).astype(np.uint8)) is None
    True
    """
    n_pixels = pixels.shape[1]
    if n_pixels < 25:
        return None
    step = max(len(pixels) // ROWS_LOOKED_AT, 1)
    with np.errstate(over="ignore"):
        some = pixels[::step][:ROWS_LOOKED_AT].astype(np.float32)
    if some.min(initial=0) < 0 or not np.isfinite(some.sum(dtype=np.float64)):
        return None
    for channels in (1, 3):
        side = math.isqrt(n_pixels // channels)
        if side >= 5 and side * side * channels == n_pixels and _is_smooth(some.reshape(-1, side, side, channels)):
            return side, side, channels
    return None


def _is_smooth(pictures: NDArray[np.float32]) -> bool:
    flat = pictures.reshape(len(pictures), -1)
    order = np.random.default_rng(0).permutation(flat.shape[1])
    anywhere = float(np.abs(flat - flat[:, order]).mean())
    down = float(np.abs(np.diff(pictures, axis=1)).mean())
    across = float(np.abs(np.diff(pictures, axis=2)).mean())
    return anywhere > 0 and max(down, across) < SMOOTHNESS * anywhere
