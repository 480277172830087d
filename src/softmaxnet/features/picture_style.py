"""What the pictures of a training have in common, so that a drawing can be made to look like one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxnet.errors import ModelFileError
from softmaxnet.features import ink as measures
from softmaxnet.features import state

__all__ = ["PictureStyle", "measure_style"]

ROWS_LOOKED_AT = 256
PLAIN_BORDER = 0.6
"""Pictures have a plain ground where this share of their outermost pixels is of one shade, black or white."""
SAME_SHADE = 0.1
SAME_BOX = 0.15
"""Pictures were cut to a box where the longer side of their ink differs by no more than this share of itself."""
STROKE_SIDE = 128
"""Strokes are measured on pictures enlarged to this many pixels: of two pixels' width they have no inside."""
WIDEST_STROKE = 0.4
"""Ink wider than this share of its box is a shape, not a stroke."""

MIDDLE = 0.6
"""Slant and strokes of a drawing are brought to where this share of the training's are: the middle is easy to read."""

Range = tuple[float, float]


@dataclass(frozen=True)
class PictureStyle:
    """Shape, unit and habits of the training pictures.

    Attributes
    ----------
    height, width, channels : int
    full : float
        The value of the brightest pixel: 255, or 16 for pictures of 16 shades.
    dark_ink : bool
        Ink is dark on a light ground.
    box : float or None
        The longer side of the ink in pixels, where it is always about the same; None for pictures that were not cut
        and scaled to their ink (photographs, drawings at any place), and the following have no meaning then.
    box_heights, box_widths : (low, high) in pixels
        Those of nine tenths of the pictures.
    centre : (down, across) in pixels from the edge
        Where the middle of the ink is.
    by_mass : bool
        That middle is the centre of mass; else it is the middle of the box.
    stroke : (low, high) in pixels, or None where the ink does not consist of strokes
        The width of the strokes of the middle three fifths of the pictures.
    slant : (low, high)
        Columns to the right for each row up, of the middle three fifths.

    Examples
    --------
    >>> classic_style(28, 28).box, classic_style(8, 8).box
    (20.0, 8.0)
    """

    height: int
    width: int
    channels: int
    full: float
    dark_ink: bool = False
    box: float | None = None
    box_heights: Range = (0.0, 0.0)
    box_widths: Range = (0.0, 0.0)
    centre: Range = (0.0, 0.0)
    by_mass: bool = True
    stroke: Range | None = None
    slant: Range = (0.0, 0.0)

    def to_state(self) -> state.Meta:
        """Return it as plain data."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_state(cls, meta: Mapping[str, object], n_columns: int) -> PictureStyle:
        """Return what ``to_state`` wrote; ``ModelFileError`` where anything does not fit."""
        height, width = (state.integer(meta, name, 1, n_columns) for name in ("height", "width"))
        channels = state.integer(meta, "channels", 1, 3)
        if height * width * channels != n_columns:
            raise ModelFileError(f"the pictures of the model file are {height} x {width} x {channels}, not {n_columns}")
        side = float(max(height, width))
        return cls(
            height,
            width,
            channels,
            state.number(meta, "full", 1e-6, 1e12),
            state.flag(meta, "dark_ink"),
            None if meta.get("box") is None else state.number(meta, "box", 1.0, side),
            _range(meta, "box_heights", 0.0, side),
            _range(meta, "box_widths", 0.0, side),
            _range(meta, "centre", 0.0, side, ordered=False),
            state.flag(meta, "by_mass"),
            None if meta.get("stroke") is None else _range(meta, "stroke", 0.0, side),
            _range(meta, "slant", -10.0, 10.0),
        )


def _range(meta: Mapping[str, object], name: str, low: float, high: float, *, ordered: bool = True) -> Range:
    """Return two finite numbers of a model file."""
    value = meta.get(name)
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ModelFileError(f"the model file's {name!r} must be two numbers. Got {value!r} instead")
    first, second = (state.number({name: part}, name, low, high) for part in value)
    if ordered and first > second:
        raise ModelFileError(f"the model file's {name!r} must not decrease. Got {value!r} instead")
    return first, second


def classic_style(height: int, width: int, full: float = 255.0) -> PictureStyle:
    """Return the habits of the classic sets for grey pictures of which nothing is known but their size.

    28 x 28 and larger as in MNIST: the longer side of the ink is 20/28 of the picture's, its centre of mass in the
    middle. Smaller ones, as the 8 x 8 digits, are filled.
    """
    side = min(height, width)
    box = side * 20 / 28 if side >= 20 else float(side)
    middle = (height / 2, width / 2)
    return PictureStyle(
        height,
        width,
        1,
        full,
        box=box,
        box_heights=(box / 2, box),
        box_widths=(box / 4, box),
        centre=middle,
        by_mass=side >= 20,
        stroke=(box * 0.1, box * 0.2),
        slant=(-0.2, 0.2),
    )


def measure_style(pixels: NDArray[Any], shape: tuple[int, int, int]) -> PictureStyle:
    """Look at some training pictures and return what they have in common.

    Parameters
    ----------
    pixels : array (n_rows, height * width * channels), not negative
    shape : (height, width, channels)

    Examples
    --------
    >>> pictures = np.zeros((9, 28, 28), dtype=np.uint8)
    >>> for k, one in enumerate(pictures):
    ...     one[4:24, 10 + k // 3 : 14 + k // 3] = 255
    >>> style = measure_style(pictures.reshape(9, -1), (28, 28, 1))
    >>> style.box, style.box_widths, style.dark_ink
    (20.0, (4.0, 4.0), False)
    """
    height, width, channels = shape
    step = max(len(pixels) // ROWS_LOOKED_AT, 1)
    some = pixels[::step][:ROWS_LOOKED_AT].astype(np.float64)
    largest = float(some.max(initial=0.0))
    # The same units as features.matrix.pixel_scale for bytes.
    full = 255.0 if pixels.dtype == np.uint8 and largest >= 128 else max(largest, 1e-6)
    plain = PictureStyle(height, width, channels, full)
    if channels != 1 or len(some) == 0:
        return plain
    shades = some.reshape(-1, height, width) / full
    border = np.concatenate([shades[:, [0, -1]].ravel(), shades[:, :, [0, -1]].ravel()])
    ground = float(np.median(border))
    dark_ink = ground > 0.5
    level = 1.0 if dark_ink else 0.0
    if (np.abs(border - level) <= SAME_SHADE).mean() < PLAIN_BORDER:
        return plain
    return _measured(plain, np.abs(shades - level), dark_ink)


def _measured(plain: PictureStyle, pictures: NDArray[np.float64], dark_ink: bool) -> PictureStyle:
    """Return the style of pictures of ink (n, height, width)."""
    known = [(one, box) for one in pictures if (box := measures.ink_box(one)) is not None]
    heights, widths = (np.array([getattr(box, side) for _, box in known]) for side in ("height", "width"))
    longest = np.maximum(heights, widths)
    if len(known) == 0 or np.subtract(*np.percentile(longest, (95, 5))) > max(SAME_BOX * np.median(longest), 1.0):
        return PictureStyle(plain.height, plain.width, 1, plain.full, dark_ink)
    mass = np.array([measures.centre_of_mass(one) for one, _ in known])
    middle = np.array([box.centre for _, box in known])
    by_mass = bool(mass.std(axis=0).sum() < middle.std(axis=0).sum())
    centre = np.median(mass if by_mass else middle, axis=0)
    return PictureStyle(
        plain.height,
        plain.width,
        1,
        plain.full,
        dark_ink,
        box=float(np.median(longest)),
        box_heights=_most(heights),
        box_widths=_most(widths),
        centre=(round(float(centre[0]), 3), round(float(centre[1]), 3)),
        by_mass=by_mass,
        stroke=_strokes([one for one, _ in known], float(np.median(longest))),
        slant=_most(np.array([measures.slant(one) for one, _ in known]).clip(-10, 10), MIDDLE),
    )


def _most(values: NDArray[Any], share: float = 0.9) -> Range:
    """Return the range of nine tenths of the values, or of another share in the middle."""
    low, high = np.percentile(values, (50 - 50 * share, 50 + 50 * share))
    return round(float(low), 3), round(float(high), 3)


def _strokes(pictures: list[NDArray[np.float64]], box: float) -> Range | None:
    """Return how wide most strokes are; None where the ink is too wide for strokes."""
    from scipy.ndimage import zoom

    factor = max(1, STROKE_SIDE // max(pictures[0].shape))
    some = pictures[:: max(1, len(pictures) // 64)]
    widths = [measures.stroke_width(zoom(one, factor, order=1, grid_mode=True, mode="nearest")) for one in some]
    low, high = _most(np.array(widths) / factor, MIDDLE)
    return (low, high) if 0 < high <= WIDEST_STROKE * box else None
