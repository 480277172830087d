"""A folder of images CLASS/FILE.png -> pixels and labels.

Only PNG and JPEG are opened, by Pillow with the formats named; the size is read from the header and checked
before any pixel is decoded, so that a small file cannot claim a large memory.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from softmaxnet.data.dataset import BadRow, BadRowLog, reader_settings
from softmaxnet.data.labels import column_labels
from softmaxnet.data.opening import stored_bytes
from softmaxnet.errors import DataError, UsageError

__all__ = ["ImageRows", "decode_image", "find_images", "read_image_file", "read_image_folder"]

MAX_IMAGE_PIXELS = 1 << 26
MAX_SIDE = 128  # larger images are scaled down to this where no size is told: every pixel is an input
FORMATS = ("PNG", "JPEG")
_ENDINGS = (".png", ".jpg", ".jpeg")
# fmt: off
_OTHER_IMAGES = (
    ".gif", ".bmp", ".webp", ".tif", ".tiff", ".svg", ".heic", ".avif", ".fits", ".jp2", ".ico", ".ppm",
)
# fmt: on

Shape = tuple[int, ...]  # (height, width) for grey, (height, width, 3) for colour


@dataclass(frozen=True)
class ImageRows:
    """Images of one size, a row each.

    Parameters
    ----------
    X : numpy.ndarray of shape (n, height * width * channels), uint8
    y : numpy.ndarray of shape (n,) or None
    files : tuple of str
    reader : dict
        ``{"format": "images", "image_shape": [height, width] or [height, width, 3]}``
    """

    X: np.ndarray
    y: np.ndarray | None
    files: tuple[str, ...]
    reader: dict[str, object]


@dataclass(frozen=True)
class ImageFile:
    """One image to read: where it is, and its class or None."""

    path: Path
    label: str | None


def find_images(folder: Path, part: Literal["train", "test"]) -> list[ImageFile]:
    """Return the images of CLASS/FILE.png, or of the folder itself, in the order of their paths.

    Where the folder holds ``train`` and ``test``, ``part`` picks one. Files with an ending of another image
    format are listed too, so that reading them fails rather than that they are silently left out.
    """
    classes = _folders(folder)
    if {path.name for path in classes} == {"train", "test"}:
        folder = folder / part
        classes = _folders(folder)
    found = [ImageFile(path, one.name) for one in classes for path in _image_paths(one)]
    if found:
        return found
    return [ImageFile(path, None) for path in _image_paths(folder)]


def read_image_folder(
    folder: Path, images: Sequence[ImageFile], reader: Mapping[str, object] | None, log: BadRowLog
) -> ImageRows:
    """Return all images at one size.

    Parameters
    ----------
    folder : Path
        For messages.
    images : sequence of ImageFile
    reader : mapping, optional
        ``image_shape`` as told; otherwise the most frequent size found, in colour where any image has colour,
        scaled down to fit 128 x 128 where it is larger.
    log : BadRowLog

    Raises
    ------
    DataError
        For an image that cannot be read, with its path, unless the log lets it pass.
    """
    opened: list[Any] = []
    shape = _told_shape(reader)
    for row, image in enumerate(images):
        try:
            # at most the told or the largest useful size stays in memory
            opened.append(_small(decode_image(stored_bytes(image.path), str(image.path)), shape))
        except DataError as error:
            log.add(BadRow(row, None, None, error.message, str(image.path)), hint=error.hint)
            opened.append(None)
    kept = [i for i, one in enumerate(opened) if one is not None or log.keeps]
    readable = [one for one in opened if one is not None]
    if not readable and not (log.keeps and shape):
        raise DataError("no image can be read", file=str(folder))
    shape = shape or _common_shape(readable)
    blank = np.zeros(int(np.prod(shape)), dtype=np.uint8)
    X = np.stack([blank if opened[i] is None else _pixels(opened[i], shape) for i in kept])
    labels = [images[i].label for i in kept]
    return ImageRows(X, _labels(labels), tuple(str(images[i].path) for i in kept), _settings(shape))


def read_image_file(data: bytes, source: str, reader: Mapping[str, object] | None) -> ImageRows:
    """Return one image as a data set of one row without a label."""
    shape = _told_shape(reader)
    image = _small(decode_image(data, source), shape)
    shape = shape or _common_shape([image])
    return ImageRows(_pixels(image, shape)[np.newaxis], None, (source,), _settings(shape))


def decode_image(
    data: bytes, source: str = "<image>", *, keep_alpha: bool = False, max_pixels: int = MAX_IMAGE_PIXELS
) -> Any:
    """Return a PNG or JPEG as a Pillow image of mode L or RGB, turned as its EXIF orientation says.

    Transparent pixels are laid over white, or, with ``keep_alpha``, the image is returned in mode RGBA where it has
    any; 16-bit grey becomes 8-bit.

    Raises
    ------
    DataError
        For another format, a damaged or truncated file, an animation, or more than ``max_pixels`` (67,108,864) pixels.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UsageError("reading images needs Pillow: pip install pillow") from None
    _check_sign(data, source)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, source, max_pixels)
            image.load()
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGBA") if keep_alpha and _has_alpha(upright) else _grey_or_colour(upright)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(source, "too many", max_pixels) from None
    except Exception as error:  # Pillow raises nearly any type for a damaged file
        detail = str(error) or type(error).__name__
        raise DataError(f"a damaged image: {detail.splitlines()[0][:200]}", file=source) from None


def _check_sign(data: bytes, source: str) -> None:
    if data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return
    kinds = ((b"GIF8", "GIF"), (b"BM", "BMP"), (b"RIFF", "WebP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF"))
    found = next((name for sign, name in kinds if data.startswith(sign)), None)
    if found is None:
        found = "SVG or other text" if data[:200].lstrip().startswith(b"<") else "another format"
    what = "an empty file" if not data else f"it is {found}"
    raise DataError(f"only PNG and JPEG images are read; {what}", file=source, hint="Convert it to PNG.")


def _check_size(image: Any, source: str, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise DataError(f"an image of {width} x {height} pixels", file=source)
    if width * height > max_pixels:
        raise _too_large(source, f"{width} x {height}", max_pixels)
    if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
        raise DataError("an animated image; give one frame", file=source)


def _too_large(source: str, size: str, max_pixels: int) -> DataError:
    return DataError(f"the image has {size} pixels; at most {max_pixels:,} are accepted", file=source)


def _grey_or_colour(image: Any) -> Any:
    """Return the image in mode L or RGB."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey, which convert would clip at 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if _has_alpha(image):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        flat = Image.alpha_composite(white, layer).convert("RGB")
        return flat.convert("L") if image.mode in ("LA", "La", "L", "1") else flat
    if image.mode in ("1", "L"):
        return image.convert("L")
    colour = image.convert("RGB")
    if image.mode == "P" and _is_grey(colour):
        return colour.convert("L")
    return colour


def _has_alpha(image: Any) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _is_grey(image: Any) -> bool:
    pixels = np.asarray(image)
    return bool((pixels == pixels[:, :, :1]).all())


def _small(image: Any, shape: Shape | None) -> Any:
    """Return the image at the told shape, or at most at the largest size that is read."""
    if shape is not None:
        return _fitted(image, shape)
    longest = max(image.size)
    if longest <= MAX_SIDE:
        return image
    width, height = (max(1, round(side * MAX_SIDE / longest)) for side in image.size)
    return _fitted(image, (height, width, 3) if image.mode == "RGB" else (height, width))


def _fitted(image: Any, shape: Shape) -> Any:
    from PIL import Image

    mode = "RGB" if len(shape) == 3 else "L"
    if image.mode != mode:
        image = image.convert(mode)
    size = (shape[1], shape[0])
    return image if image.size == size else image.resize(size, Image.Resampling.BOX)


def _pixels(image: Any, shape: Shape) -> np.ndarray:
    return np.asarray(_fitted(image, shape), dtype=np.uint8).reshape(-1)


def _common_shape(images: Sequence[Any]) -> Shape:
    """Return the most frequent size (the smaller of equals), with 3 channels where any image has colour."""
    counts = Counter(image.size for image in images)
    width, height = min(counts, key=lambda size: (-counts[size], size[0] * size[1], size))
    return (height, width, 3) if any(image.mode == "RGB" for image in images) else (height, width)


def _told_shape(reader: Mapping[str, object] | None) -> Shape | None:
    shape = reader_settings(reader, {"image_shape": list}).get("image_shape")
    if shape is None:
        return None
    whole = all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape)
    if not whole or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise UsageError(f"image_shape must be [height, width] or [height, width, 3]. Got {shape!r}.")
    if shape[0] * shape[1] > MAX_IMAGE_PIXELS:
        raise UsageError(f"image_shape {shape!r} has more than {MAX_IMAGE_PIXELS:,} pixels")
    return tuple(shape[:2]) if len(shape) == 3 and shape[2] == 1 else tuple(shape)


def _settings(shape: Shape) -> dict[str, object]:
    return {"format": "images", "image_shape": list(shape)}


def _labels(labels: Sequence[str | None]) -> np.ndarray | None:
    import pyarrow as pa

    if any(label is None for label in labels):
        return None
    return column_labels(pa.chunked_array([pa.array(labels, pa.string())]), text=True)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))
    )


def _image_paths(folder: Path) -> list[Path]:
    endings = (*_ENDINGS, *_OTHER_IMAGES)
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.suffix.lower() in endings and not path.name.startswith(".")
    )
