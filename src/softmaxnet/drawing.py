"""A drawn or photographed picture -> the picture that a model of small pictures was trained on.

::

    picture -> ink on plain ground -> specks out -> crop -> slant and strokes as in training -> scale -> centre

Small pictures such as MNIST's were all made in the same way: cut out, scaled to a box, put into the middle by their
centre of mass, drawn with strokes of one width. A drawing that has not gone the same way is a picture of another kind,
and the model's probabilities say nothing about it. What the training pictures have in common is measured in the fit
(:class:`softmaxnet.features.picture_style.PictureStyle`); here a drawing is given it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from softmaxnet.data.dataset import Dataset
from softmaxnet.errors import DataError, UsageError
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.ink import Box, centre_of_mass, ink_box, slant, stroke_width
from softmaxnet.features.matrix import NumberMatrix, PixelMatrix
from softmaxnet.features.picture_style import PictureStyle, classic_style

if TYPE_CHECKING:
    from softmaxnet.model import SoftmaxModel

__all__ = ["area_average", "ink_of", "picture_style", "prepare_drawing", "prepare_picture", "read_drawing"]

Floats: TypeAlias = NDArray[np.float64]

LONGEST_SIDE = 320
"""Larger pictures are averaged down to this before anything is measured."""
FAINTEST = 0.06
"""Ink that differs from its ground by less than this share of the range from black to white is none."""
SPECK = 0.02
"""A piece with less than this share of all the ink is dirt."""
WORK_SIDE = 160
"""Pixels of the longer side of the ink while its strokes are changed."""


def picture_style(model: SoftmaxModel) -> PictureStyle | None:
    """Return what the model's training pictures have in common; None where its rows are not pictures.

    Where the fit did not store it (models of earlier versions, pictures that are not square), only shape and unit are
    known, and grey pictures are taken for the classic sort: see
    :func:`softmaxnet.features.picture_style.classic_style`.
    """
    encoder = model.encoder
    known = encoder.pictures
    told = model.reader.get("image_shape")
    shape = _whole_shape(told) if isinstance(told, list | tuple) else None
    if shape is not None and math.prod(shape) == encoder.n_features_in:
        if known is not None and (known.height, known.width, known.channels) == shape:
            return known
        return _unmeasured(shape, _full(encoder))
    if known is not None:
        return known
    side = math.isqrt(encoder.n_features_in)
    if isinstance(encoder.parts, PixelMatrix) and side * side == encoder.n_features_in:
        return _unmeasured((side, side, 1), _full(encoder))
    return None


def prepare_picture(model: SoftmaxModel, picture: Any) -> NDArray[Any]:
    """Return a picture as the model would have seen it in training.

    A picture of exactly the model's size is taken as it is. Any other is a drawing or a photograph: where the
    training pictures were cut to their ink, so is this one; else it is only resized.

    Parameters
    ----------
    model : SoftmaxModel
        Of pictures.
    picture : bytes, path, Pillow image, or array
        A PNG or JPEG, or pixels (height, width), (height, width, 2) with alpha, (height, width, 3) or
        (height, width, 4) with alpha: uint8, bool, or floats from 0 to 1.

    Returns
    -------
    array of shape (height, width) or (height, width, 3)
        In the model's unit, uint8 where that is a whole number up to 255, else float64. ``.reshape(1, -1)`` of it is
        a row for ``predict_proba``.

    Raises
    ------
    UsageError
        Where the model is not one of pictures.
    DataError
        Where the picture cannot be read, or is blank.

    Examples
    --------
    >>> from softmaxnet.calibration import Calibration
    >>> from softmaxnet.features.encoder import FeatureEncoder
    >>> from softmaxnet.model import SoftmaxModel
    >>> from softmaxnet.network import NetworkSpec
    >>> encoder = FeatureEncoder.fit(np.eye(784, dtype=np.uint8) * 255)
    >>> params = {"layers.0.weight": np.zeros((1, 784, 2)), "layers.0.bias": np.zeros((1, 2))}
    >>> model = SoftmaxModel(encoder, NetworkSpec(784, 0, 2), params, Calibration(), np.array([0, 1]))
    >>> canvas = np.full((280, 280), 255, dtype=np.uint8)          # black on white, off the middle
    >>> canvas[20:140, 30:50] = 0
    >>> seen = prepare_picture(model, canvas)
    >>> seen.shape, seen.dtype, int(seen[14, 14]), int(seen[0, 0])
    ((28, 28), dtype('uint8'), 255, 0)
    """
    style = picture_style(model)
    if style is None:
        raise UsageError("this model is not one of pictures.", hint="It takes rows; see `softmaxnet inspect`.")
    return _prepared(_decoded(picture), style)


def prepare_drawing(
    pixels: NDArray[Any], shape: tuple[int, ...], *, largest: float = 255, style: PictureStyle | None = None
) -> NDArray[Any]:
    """Return a drawing in a picture shape, without a model.

    Parameters
    ----------
    pixels : array
        As in :func:`prepare_picture`.
    shape : (height, width) or (height, width, channels)
    largest : float
        The value of full ink.
    style : PictureStyle, optional
        What the pictures are to have in common; by default that of the classic sets of this size.

    Returns
    -------
    array of that shape, ink bright on a ground of 0

    Raises
    ------
    DataError
        Where the picture is blank.

    Examples
    --------
    >>> stroke = np.zeros((100, 60))
    >>> stroke[20:80, 25:35] = 1.0
    >>> small = prepare_drawing(stroke, (8, 8), largest=16)
    >>> small.shape, int(small.max()), int(small[:, 0].max())
    ((8, 8), 16, 0)
    """
    known = style or _unmeasured(_whole_shape(shape) or (0, 0, 0), float(largest))
    if math.prod(shape) == 0 or (known.height, known.width) != tuple(shape[:2]):
        raise UsageError(f"shape must be (height, width) or (height, width, 3). Got {shape!r}.")
    return _prepared(pixels, known)


def read_drawing(path: str | Path, model: SoftmaxModel) -> Dataset | None:
    """Return a PNG or JPEG of another size than the model's pictures as one row; None for anything else.

    Raises
    ------
    DataError
        Where the image cannot be read, or is blank.
    """
    style, where = picture_style(model), Path(path).expanduser()
    if style is None or str(path) == "-" or not where.is_file():
        return None
    with open(where, "rb") as file:
        if not file.read(8).startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
            return None
    pixels = _decoded(where)
    if pixels.shape[:2] == (style.height, style.width):
        return None
    try:
        row = _prepared(pixels, style).reshape(1, -1)
    except DataError as error:
        raise DataError(error.message, file=str(path), hint=error.hint) from None
    return Dataset(row, None, source=str(path), reader=dict(model.reader), parts=((str(path), 1),))


def _whole_shape(shape: Any) -> tuple[int, int, int] | None:
    """Return (height, width, channels) of a told shape; None where it is none."""
    sizes = [int(size) for size in shape if isinstance(size, int | np.integer)]
    if len(sizes) != len(shape) or len(sizes) not in (2, 3) or (len(sizes) == 3 and sizes[2] not in (1, 3)):
        return None
    return sizes[0], sizes[1], sizes[2] if len(sizes) == 3 else 1


def _unmeasured(shape: tuple[int, int, int], full: float) -> PictureStyle:
    height, width, channels = shape
    return classic_style(height, width, full) if channels == 1 else PictureStyle(height, width, channels, full)


def _full(encoder: FeatureEncoder) -> float:
    """Return the value of the brightest pixel, as the encoder's scale tells it."""
    parts = encoder.parts
    if isinstance(parts, PixelMatrix):
        return 255.0 if parts.dense_scale == 1.0 else float(round(1 / parts.dense_scale))
    return float(parts.block.scale.max(initial=1.0)) if isinstance(parts, NumberMatrix) else 255.0


def _decoded(picture: Any) -> NDArray[Any]:
    """Return the pixels of whatever the picture was given as."""
    if isinstance(picture, str | Path):
        from softmaxnet.data.opening import stored_bytes

        return _decoded_file(stored_bytes(Path(picture)), str(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        return _decoded_file(bytes(picture), "<image>")
    return np.asarray(picture)


def _decoded_file(data: bytes, source: str) -> NDArray[Any]:
    from softmaxnet.data.images import decode_image

    return np.asarray(decode_image(data, source, keep_alpha=True))


def _prepared(pixels: NDArray[Any], style: PictureStyle) -> NDArray[Any]:
    """Return the pixels in the style, in its unit."""
    shades = _unit(pixels)
    if shades.shape[:2] == (style.height, style.width):
        seen = _coloured(shades, style.channels)
    elif style.box is None:
        seen = area_average(_coloured(shades, style.channels), (style.height, style.width))
    else:
        drawn = _placed(_like_training(_cropped(ink_of(shades)), style), style)
        seen = 1.0 - drawn if style.dark_ink else drawn
    shape = (style.height, style.width) if style.channels == 1 else (style.height, style.width, style.channels)
    values = np.clip(seen, 0.0, 1.0).reshape(shape) * style.full
    if style.full == int(style.full) and 2 <= style.full <= 255:
        return np.rint(values).astype(np.uint8)
    return values


def _unit(pixels: NDArray[Any]) -> Floats:
    """Return pixels as numbers from 0 to 1, (height, width) or (height, width, channels)."""
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or (pixels.ndim == 3 and pixels.shape[2] > 4):
        raise DataError(f"a picture has the shape (height, width) or (height, width, 1 to 4). Got {pixels.shape}.")
    if pixels.dtype.kind not in "buif":
        raise DataError(f"a picture has numbers as pixels. Got {pixels.dtype}.")
    scale = {"b": 1.0, "f": 1.0}.get(pixels.dtype.kind, 255.0)
    shades = pixels.astype(np.float64) / scale
    if not np.isfinite(shades).all() or shades.min() < 0 or shades.max() > 1:
        raise DataError("pixels must be whole numbers from 0 to 255 or numbers from 0 to 1.")
    return shades[:, :, 0] if shades.ndim == 3 and shades.shape[2] == 1 else shades


def _coloured(shades: Floats, channels: int) -> Floats:
    """Return pixels (height, width) or (height, width, 3) without alpha, which is laid over white."""
    if shades.ndim == 3 and shades.shape[2] in (2, 4):
        alpha = shades[:, :, -1:]
        shades = shades[:, :, :-1] * alpha + 1.0 - alpha
    grey = shades.ndim == 2 or shades.shape[2] == 1
    if channels == 3:
        return np.repeat(shades.reshape(*shades.shape[:2], 1), 3, axis=2) if grey else shades
    return shades.reshape(shades.shape[:2]) if grey else shades @ np.array([0.299, 0.587, 0.114])


# --- ink ----------------------------------------------------------------------------------------------------


def ink_of(shades: Floats) -> Floats:
    """Return how much ink every pixel has, from 0 to 1, of a picture of either polarity, at most 320 pixels long.

    Opaque on a transparent ground; else what differs from the shade of the border, in the direction in which most of
    it differs. On an uneven ground (a photograph of paper) that shade is taken for each place from its surroundings,
    and what is ink is told by Otsu's threshold (1979).

    Raises
    ------
    DataError
        Where nothing differs.

    Examples
    --------
    >>> paper = np.full((50, 50), 0.9)
    >>> paper[10:40, 20:25] = 0.3
    >>> ink = ink_of(paper)
    >>> float(ink[20, 22]), float(ink[0, 0]), float(ink_of(1 - paper)[20, 22])
    (1.0, 0.0, 1.0)
    """
    longest = max(shades.shape[:2])
    if longest > LONGEST_SIDE:
        height, width = (max(1, round(side * LONGEST_SIDE / longest)) for side in shades.shape[:2])
        shades = area_average(shades, (height, width))
    grey = _opacity(shades)
    if grey is None:
        grey = _coloured(shades, 1)
    ground = float(np.median(_border(grey)))
    away = grey - ground
    beyond = np.abs(away) > 0.4 * np.abs(away).max()
    dark = float(away[beyond].sum()) < 0
    ink = np.maximum(-away if dark else away, 0.0)
    if (np.abs(away) < 1 / 512).mean() < 0.4:
        ink = _on_uneven_ground(-grey if dark else grey)
    strongest = float(ink.max(initial=0.0))
    if strongest < FAINTEST:
        raise DataError("the picture is blank", hint="Draw something, or choose a picture with more contrast.")
    return _without_specks(ink / strongest)


def _opacity(shades: Floats) -> Floats | None:
    """Return the opacity as the picture where it alone is the drawing: one colour on a transparent ground."""
    if shades.ndim != 3 or shades.shape[2] not in (2, 4):
        return None
    alpha = shades[:, :, -1]
    if np.median(_border(alpha)) > 0.5 or alpha.max() < FAINTEST:
        return None
    inside = _coloured(shades[:, :, :-1] if shades.shape[2] == 4 else shades[:, :, 0], 1)[alpha > 0.5]
    return alpha if inside.size == 0 or inside.std() < 0.1 else None


def _border(grey: Floats) -> Floats:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _on_uneven_ground(bright: Floats) -> Floats:
    """Return bright ink less the ground around it, with a soft threshold; the picture may be noisy."""
    from scipy.ndimage import gaussian_filter, grey_opening, uniform_filter

    smooth = gaussian_filter(bright, 1.0)
    window = max(3, max(bright.shape) // 4)
    raised = np.maximum(smooth - uniform_filter(grey_opening(smooth, size=(window, window)), window), 0.0)
    threshold = _otsu(raised)
    above = raised[raised > threshold]
    if above.size == 0 or np.median(above) < FAINTEST:
        return np.zeros_like(raised)
    full = max(float(np.median(above)) - 0.5 * threshold, 1e-9)
    return np.asarray(np.clip((raised - 0.5 * threshold) / full, 0.0, 1.0))


def _otsu(values: Floats) -> float:
    """Return the threshold that leaves the least variance within its two sides (Otsu 1979, equation 18)."""
    counts, edges = np.histogram(values, bins=128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    sums = np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(between[:-1])]) if len(values) else 0.0


def _without_specks(ink: Floats) -> Floats:
    """Return the ink without pieces that are too small to be meant."""
    from scipy.ndimage import label

    pieces, n_pieces = label(ink > 0.2, structure=np.ones((3, 3)))
    if n_pieces <= 1:
        return ink
    sizes = np.bincount(pieces.ravel(), weights=ink.ravel(), minlength=n_pieces + 1)
    small = np.flatnonzero(sizes[1:] < SPECK * sizes[1:].sum()) + 1
    return np.asarray(np.where(np.isin(pieces, small), 0.0, ink) if small.size else ink)


# --- size, slant, strokes, place ----------------------------------------------------------------------------


def _cropped(ink: Floats) -> Floats:
    """Return the box of the ink, enlarged or reduced to the size at which strokes are changed."""
    part = _cut(ink, ink_box(ink))
    factor = WORK_SIDE / max(part.shape)
    return area_average(part, (max(1, round(part.shape[0] * factor)), max(1, round(part.shape[1] * factor))))


def _cut(ink: Floats, box: Box | None) -> Floats:
    if box is None:
        raise DataError("the picture is blank", hint="Draw something, or choose a picture with more contrast.")
    return ink[box.top : box.bottom, box.left : box.right]


def _like_training(ink: Floats, style: PictureStyle) -> Floats:
    """Return the ink with a slant and strokes that training pictures have, where it has others."""
    if style.stroke is None or style.box is None:
        return ink
    now = slant(ink)
    wanted = min(max(now, style.slant[0]), style.slant[1])
    if abs(now - wanted) > 0.02:
        ink = _sheared(ink, now - wanted)
    side = max(ink.shape)
    width = stroke_width(ink)
    low, high = (limit / style.box for limit in style.stroke)
    if width <= 0 or low * side <= width <= high * side:
        return ink
    share = low if width < low * side else high
    # Growing by r on all sides changes both: (width + 2 r) / (side + 2 r) = share.
    return _grown(ink, max((share * side - width) / (2 * (1 - share)), -0.35 * width))


def _sheared(ink: Floats, slope: float) -> Floats:
    """Return the ink with each row moved to the left in proportion to its height, cut to its box."""
    from scipy.ndimage import affine_transform

    height, width = ink.shape
    wide = width + 2 * math.ceil(abs(slope) * height / 2)
    shift = (width - wide) / 2 + slope * (height - 1) / 2
    moved = affine_transform(ink, np.array([[1.0, 0.0], [-slope, 1.0]]), (0.0, shift), (height, wide), order=1)
    return _cut(moved, ink_box(moved))


def _grown(ink: Floats, by: float) -> Floats:
    """Return the ink with its edge moved outwards by so many pixels (inwards where negative), cut to its box."""
    from scipy.ndimage import distance_transform_edt

    padded = np.pad(ink, math.ceil(max(by, 0)) + 2)
    solid = padded > 0.5
    outside = distance_transform_edt(~solid) - distance_transform_edt(solid)
    outside += np.where(solid, 0.5, -0.5)
    moved = np.clip(0.5 + by - outside, 0.0, 1.0)
    return _cut(moved, ink_box(moved)) if moved.max() > 0.5 else ink


def _placed(ink: Floats, style: PictureStyle) -> Floats:
    """Return the ink averaged into the model's picture, its middle where those of training are.

    Each pixel of the result is the mean over a whole number of pixels of a fine grid, on which the ink is moved.
    """
    box = style.box or max(style.height, style.width)
    fine = max(4, round(WORK_SIDE / box))
    scale = box * fine / max(ink.shape)
    limits = (style.box_heights, style.box_widths)
    size = [_between(length * scale, limit, fine) for length, limit in zip(ink.shape, limits, strict=True)]
    ink = area_average(ink, (size[0], size[1]))
    middle = centre_of_mass(ink) if style.by_mass else (size[0] / 2, size[1] / 2)
    room = (style.height * fine, style.width * fine)
    canvas = np.zeros(room)
    starts = [round(style.centre[axis] * fine - middle[axis]) for axis in (0, 1)]
    # What would stick out is moved in: the whole of the ink matters more than its middle.
    starts = [max(0, min(start, room[axis] - size[axis])) for axis, start in enumerate(starts)]
    part = ink[: room[0], : room[1]]
    canvas[starts[0] : starts[0] + part.shape[0], starts[1] : starts[1] + part.shape[1]] = part
    return np.asarray(canvas.reshape(style.height, fine, style.width, fine).mean(axis=(1, 3)))


def _between(length: float, limits: tuple[float, float], fine: int) -> int:
    """Return a length on the fine grid within the limits, which are in pixels of the picture."""
    return max(1, round(min(max(length, limits[0] * fine), limits[1] * fine)))


def area_average(picture: Floats, size: tuple[int, int]) -> Floats:
    """Return a picture of another size whose pixels are the means of the areas that they cover.

    Enlarged, it is interpolated between the centres of the pixels.

    Examples
    --------
    >>> area_average(np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]), (1, 2))
    array([[1.83333333, 3.16666667]])
    >>> area_average(np.array([[0.0, 1.0]]), (1, 4))
    array([[0.  , 0.25, 0.75, 1.  ]])
    """
    down, across = (_weights(picture.shape[axis], size[axis]) for axis in (0, 1))
    return np.asarray(np.einsum("ij,jk...,lk->il...", down, picture, across, optimize=True))


def _weights(n_old: int, n_new: int) -> Floats:
    """Return the matrix (n_new, n_old) of the shares of old pixels in new ones; rows sum to 1."""
    if n_new >= n_old:
        at = np.clip((np.arange(n_new) + 0.5) * n_old / n_new - 0.5, 0, n_old - 1)
        return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(n_old)))
    edges = np.arange(n_new + 1) * (n_old / n_new)
    low, high = np.maximum(edges[:-1, None], np.arange(n_old)), np.minimum(edges[1:, None], np.arange(1, n_old + 1))
    return np.asarray(np.maximum(0.0, high - low) * (n_new / n_old))
