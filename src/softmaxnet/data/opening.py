"""Paths and pipes -> bytes: missing files, compression, and what a file is by its first bytes."""

from __future__ import annotations

import codecs
import difflib
import gzip
import sys
import zlib
from pathlib import Path

from softmaxnet.errors import DataError, ResourceError

__all__ = ["decompressed", "is_utf8", "nearest", "read_bytes", "require_exists", "stored_bytes", "what_it_is"]

STDIN = "<stdin>"

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


def nearest(word: str, known: list[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known word, or nothing.

    Examples
    --------
    >>> nearest("lable", ["age", "label"])
    "Did you mean 'label'?"
    """
    lower = {name.lower(): name for name in reversed(known)}
    close = difflib.get_close_matches(word.lower(), list(lower), n=1, cutoff=0.6)
    return f"Did you mean {lower[close[0]]!r}?" if close else ""


def require_exists(path: Path) -> None:
    """Raise DataError, with the near names of the folder, where there is no such file or folder."""
    try:
        if path.exists():
            return
    except (OSError, ValueError) as error:  # a name that is too long, or that holds a NUL
        raise DataError(f"not a usable path: {error}", file=str(path)) from None
    folder = path.parent
    if not folder.is_dir():
        raise DataError(f"no such file, and no folder {str(folder)!r}", file=str(path))
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        names = []
    hint = nearest(path.name, names)
    if not hint and names:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        hint = f"The folder {str(folder)!r} has: {shown}."
    raise DataError("no such file", file=str(path), hint=hint or None)


def stored_bytes(path: Path) -> bytes:
    """Return a file's bytes as they are stored."""
    try:
        return path.read_bytes()
    except MemoryError:
        raise ResourceError(
            f"not enough memory to read {path.stat().st_size:,} bytes", file=str(path)
        ) from None
    except OSError as error:
        raise ResourceError(f"cannot be read: {error.strerror or error}", file=str(path)) from error


def read_bytes(path: Path | None) -> bytes:
    """Return the content of a file, or of stdin for None, decompressed."""
    if path is None:
        if sys.stdin is None:
            raise DataError("there is no standard input", file=STDIN)
        return decompressed(sys.stdin.buffer.read(), STDIN)
    return decompressed(stored_bytes(path), str(path))


def decompressed(data: bytes, source: str) -> bytes:
    """Return the bytes behind gzip or Zstandard, told by their first bytes; others as they are."""
    try:
        if data.startswith(_GZIP):
            return gzip.decompress(data)
        if data.startswith(_ZSTD):
            return _unzstd(data, source)
    except EOFError:
        raise DataError("the gzip data end early: the file is truncated", file=source) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"damaged gzip data: {error}", file=source) from None
    except MemoryError:
        raise ResourceError(f"not enough memory to decompress {len(data):,} bytes", file=source) from None
    return data


def _unzstd(data: bytes, source: str) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        try:
            return bytes(stream.read())
        except OSError as error:
            raise DataError(f"damaged or truncated Zstandard data: {error}", file=source) from None


def is_utf8(data: bytes) -> bool:
    """Return whether the bytes are UTF-8, decoded piece by piece so that no second copy is made."""
    if data.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(data)
    step = 1 << 23
    try:
        for low in range(0, len(data), step):
            decoder.decode(view[low : low + step], final=low + step >= len(data))
    except UnicodeDecodeError:
        return False
    return True


def what_it_is(data: bytes) -> str:
    """Return what the first bytes say: parquet, npz or zip, idx, png, ..., jsonl or text."""
    signs = (
        (b"PAR1", "parquet"),
        (b"PK\x03\x04", "zip"),
        (b"\x89PNG", "image"),
        (b"\xff\xd8\xff", "image"),
        (b"\x93NUMPY", "npy"),
        (b"ARROW1", "arrow"),
        (b"%PDF", "pdf"),
        (b"SQLite format 3\x00", "sqlite"),
        (b"\xd0\xcf\x11\xe0", "ole"),
    )
    for sign, name in signs:
        if data.startswith(sign):
            return name
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    return "jsonl" if head.startswith(b"{") else "text"
