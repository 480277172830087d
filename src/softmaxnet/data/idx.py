"""A folder in IDX format (that of MNIST) -> pixels and labels.

An IDX file is two zero bytes, a type byte (8 for unsigned bytes), the number of dimensions, each dimension as
a big-endian 32-bit integer, then the values (http://yann.lecun.com/exdb/mnist, "The IDX file format").
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np

from softmaxnet.data.opening import stored_bytes
from softmaxnet.errors import DataError

__all__ = ["find_idx", "read_idx", "read_idx_folder"]

_UNSIGNED_BYTE = 8
_MAX_RATIO = 1100  # DEFLATE cannot shrink more than about 1032 times


def find_idx(folder: Path, part: Literal["train", "test"], kind: Literal["images", "labels"]) -> Path | None:
    """Return ``train-images-idx3-ubyte`` or its like, with ``-`` or ``.`` before idx, plain or .gz."""
    prefix = {"train": "train", "test": "t10k"}[part]
    suffix = {"images": "idx3-ubyte", "labels": "idx1-ubyte"}[kind]
    for separator in "-.":
        for ending in ("", ".gz"):
            path = folder / f"{prefix}-{kind}{separator}{suffix}{ending}"
            if path.is_file():
                return path
    return None


def read_idx_folder(
    folder: Path, part: Literal["train", "test"], *, need_labels: bool = True
) -> tuple[np.ndarray, np.ndarray | None, tuple[int, int], str]:
    """Return the images and labels of one part.

    Returns
    -------
    X : numpy.ndarray of shape (n, height * width), uint8
    y : numpy.ndarray of shape (n,), int64, or None where there is no label file and none is needed
    image_shape : (height, width)
    source : str
        The path of the image file.

    Raises
    ------
    DataError
        For a missing file, or one that is not whole.
    """
    images, labels = find_idx(folder, part, "images"), find_idx(folder, part, "labels")
    if images is None or (labels is None and need_labels):
        prefix = {"train": "train", "test": "t10k"}[part]
        kind, dims = ("images", 3) if images is None else ("labels", 1)
        raise DataError(
            f"the folder has no {prefix}-{kind}-idx{dims}-ubyte (or .gz), needed for its {part} part",
            file=str(folder),
        )
    pixels = read_idx(images, 3)
    n, height, width = pixels.shape
    if n == 0 or height * width == 0:
        raise DataError(f"there is no image: the shape is {pixels.shape}", file=str(images))
    X = pixels.reshape(n, height * width)
    if labels is None:
        return X, None, (height, width), str(images)
    y = read_idx(labels, 1).astype(np.int64)
    if len(y) != n:
        raise DataError(f"{len(y)} labels for the {n} images of {images.name}", file=str(labels))
    return X, y, (height, width), str(images)


def read_idx(path: Path, n_dimensions: int) -> np.ndarray:
    """Return the values of one IDX file of unsigned bytes, after its sizes are checked against its length.

    Raises
    ------
    DataError
        For another magic number, other dimensions, or a length that is not the one that the header says.
    """
    stored = stored_bytes(path)
    try:
        with _plain(stored) as stream:
            return _read_values(stream, len(stored), n_dimensions, str(path))
    except EOFError:
        raise DataError("the gzip data end early: the file is truncated", file=str(path)) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"damaged gzip data: {error}", file=str(path)) from None


def _plain(stored: bytes) -> BinaryIO:
    stream = io.BytesIO(stored)
    return cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if stored.startswith(b"\x1f\x8b") else stream


def _read_values(stream: BinaryIO, n_stored: int, n_dimensions: int, source: str) -> np.ndarray:
    n_header = 4 + 4 * n_dimensions
    header = stream.read(n_header)
    expected = bytes((0, 0, _UNSIGNED_BYTE, n_dimensions))
    if header[:4] != expected:
        raise DataError(
            f"not an IDX file of {n_dimensions} dimensions: it begins with {header[:4].hex() or 'nothing'}, "
            f"not {expected.hex()}",
            file=source,
        )
    if len(header) < n_header:
        raise DataError(f"the header is cut off: {len(header)} of {n_header} bytes", file=source)
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4", n_dimensions, 4))
    n_values = math.prod(shape)
    says = f"the header says {'x'.join(map(str, shape))}, {n_values:,} bytes"
    if n_values > n_stored * _MAX_RATIO:
        raise DataError(f"{says}; the file has only {n_stored:,}", file=source)
    values = np.empty(n_values, np.uint8)
    n_read = 0
    while n_read < n_values:
        count = stream.readinto(values[n_read:].data)  # type: ignore[attr-defined]
        if not count:
            raise DataError(f"{says}; only {n_read:,} are there", file=source)
        n_read += count
    if stream.read(1):
        raise DataError(f"{says}; there are more", file=source)
    return values.reshape(shape)
