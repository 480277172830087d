"""An .npz with X and y -> arrays, never through pickle, with sizes checked before anything is allocated."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from typing import Any

import numpy as np

from softmaxnet.data.frames import as_input
from softmaxnet.errors import DataError, ResourceError

__all__ = ["read_npz"]

MAX_RATIO = 1100  # DEFLATE cannot shrink more than about 1032 times
_HEADER_LIMIT = 1 << 16


def read_npz(data: bytes, source: str) -> dict[str, Any]:
    """Return the arrays X and, where they are there, y and sample_weight.

    Parameters
    ----------
    data : bytes
    source : str
        The path, for messages.

    Returns
    -------
    dict
        ``X`` as `softmaxnet.data.frames.as_input` returns it, ``y`` of shape (n_rows,) or absent,
        ``sample_weight`` float64 or absent.

    Raises
    ------
    DataError
        For an archive without X, arrays of objects, wrong shapes, or sizes that the file cannot hold.
    """
    arrays = _arrays(data, source)
    try:
        X = as_input(arrays["X"])
    except DataError as error:
        raise DataError(error.message, file=source, column="X", hint=error.hint) from None
    if X.shape[0] == 0:
        raise DataError("X has no rows", file=source, column="X")
    rows: dict[str, Any] = {"X": X}
    for name in ("y", "sample_weight"):
        if name in arrays:
            rows[name] = _one_a_row(arrays[name], X.shape[0], name, source)
    return rows


def _one_a_row(array: np.ndarray, n_rows: int, name: str, source: str) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (n_rows,):
        raise DataError(
            f"{name} must have the shape ({n_rows},), one value for each row of X; it has {array.shape}",
            file=source,
            column=name,
        )
    return array


def _arrays(data: bytes, source: str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
            if "X" not in names:
                found = ", ".join(names) or "nothing"
                raise DataError(f"an .npz holds the arrays X and y; this one holds {found}", file=source)
            for name, info in zip(names, archive.infolist(), strict=True):
                if names.count(name) > 1:
                    raise DataError(f"the archive holds two arrays {name}", file=source, column=name)
                if name in ("X", "y", "sample_weight"):
                    arrays[name] = _array(archive, info, len(data), name, source)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"a damaged .npz: {error}", file=source) from None
    return arrays


def _array(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, n_stored: int, name: str, source: str
) -> np.ndarray:
    """Read one array after its header, its size in the archive and the file's size agree."""
    if info.file_size > MAX_RATIO * max(info.compress_size, 1) + 1024 or info.compress_size > n_stored:
        raise DataError(
            f"the array {name} claims {info.file_size:,} bytes from {info.compress_size:,} compressed ones",
            file=source,
            column=name,
        )
    with archive.open(info) as stream:
        shape, dtype, n_header = _header(stream.read(_HEADER_LIMIT), name, source)
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_header + n_bytes != info.file_size:
        raise DataError(
            f"the array {name} of shape {shape} is {n_bytes:,} bytes; it has {info.file_size - n_header:,}",
            file=source,
            column=name,
        )
    with archive.open(info) as stream:
        try:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
        except MemoryError:
            raise ResourceError(
                f"not enough memory for the array {name}, {n_bytes:,} bytes", file=source
            ) from None
        except ValueError as error:
            raise DataError(f"the array {name} cannot be read: {error}", file=source, column=name) from None


def _header(head: bytes, name: str, source: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape, dtype and length of a .npy header."""
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    except (ValueError, SyntaxError, TypeError, EOFError) as error:
        raise DataError(
            f"the array {name} is not in .npy format: {error}", file=source, column=name
        ) from None
    if dtype.hasobject:
        raise DataError(
            f"the array {name} holds Python objects, which only pickle can read, and pickle can run code",
            file=source,
            column=name,
            hint=f"Save it as numbers or strings: {name}.astype(str).",
        )
    if any(size < 0 for size in shape):
        raise DataError(f"the array {name} has the shape {shape}", file=source, column=name)
    return tuple(shape), dtype, stream.tell()
