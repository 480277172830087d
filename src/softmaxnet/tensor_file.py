"""The container of a model file: named tensors and one text, as safetensors, read strictly.

::

    8 bytes   N, little-endian unsigned: the length of the header
    N bytes   {"__metadata__": {KEY: text}, NAME: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, ...}
    the rest  the tensors, little-endian and row-major, without gaps

The text contains the SHA-256 of the whole file, computed with its own 64 hexadecimal digits taken as zeros.
Nothing in the file is executed or names anything that could be.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import ModelFileError

__all__ = [
    "DIGEST_ZEROS",
    "KEY",
    "Container",
    "TensorInfo",
    "canonical_json",
    "encode",
    "is_damaged",
    "read_container",
    "strict_json",
]

Tensors: TypeAlias = Mapping[str, npt.NDArray[Any]]

KEY = "softmaxnet"
"""The one key of the metadata."""
MARK = b"softmaxnet"
"""What the header of every model file has in it."""
DIGEST_ZEROS = "0" * 64
MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 4096
MAX_DEPTH = 32
MAX_DIMENSIONS = 8
BLOCK_BYTES = 2**20
"""Read, hashed and checked at once: stays in the processor's cache."""

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
DTYPE_NAMES = {dtype.newbyteorder("="): name for name, dtype in DTYPES.items()}

FOREIGN = (
    (rb"\x80[\x02-\x05]", "a pickle (never opened)"),
    (rb"PK\x03\x04|PK\x05\x06", "a zip archive, such as a .pt, .npz or .keras file (never opened)"),
    (rb"\x1f\x8b|x[\x01\x5e\x9c\xda]|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|ZF0x", "a compressed file (never opened)"),
    (rb"\x89HDF\r\n", "an HDF5 file"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"PAR1", "a Parquet file"),
    (rb"GGUF", "a GGUF file"),
    (rb"version https://git-lfs", "a Git LFS pointer, whose file was not fetched (run git lfs pull)"),
    (rb"\x08[\x01-\x20][\x12\x1a:]", "an ONNX model"),
    (rb"(?s)[(\]}c].*\.\s*$", "a pickle (never opened)"),
    (rb"\s*[{\[]", "JSON text"),
    (rb"\s*<", "HTML or XML text"),
    (rb"[\t\n\r -~]{16}", "a text file"),
)
"""First bytes of what is taken for a model by mistake, most specific first."""


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in the data and what it is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Container:
    """A header that has been checked: names, types and places of all tensors, and the text.

    Attributes
    ----------
    tensors : dict of str to TensorInfo
        In the order of the file, without gaps or overlaps.
    text : str
        The value of the metadata key.
    header : bytes
        The length and the header as they are in the file.
    n_bytes : int
        Size of the whole file.
    """

    tensors: dict[str, TensorInfo]
    text: str
    header: bytes
    n_bytes: int

    def read(self, file: BinaryIO, digest: str) -> dict[str, npt.NDArray[Any]]:
        """Return all tensors after comparing the digest of the whole file; takes its size in memory, once.

        Raises
        ------
        ModelFileError
            Where any bit differs from what was written, or a floating-point number is not finite.
        """
        hasher = hashlib.sha256(_without_digest(self.header, digest))
        file.seek(len(self.header))
        data = np.empty(self.n_bytes - len(self.header), dtype=np.uint8)
        for block in _filled(file, data.data):
            hasher.update(block)
        if file.read(1):
            raise ModelFileError("the file has grown while it was read")
        if hasher.hexdigest() != digest:
            raise ModelFileError(
                "the file is damaged: its SHA-256 is not the one that it was written with.",
                hint="Copy it again from where it was made.",
            )
        return {name: _finite(name, _view(data, info, 0)) for name, info in self.tensors.items()}

    def read_some(self, file: BinaryIO, names: Collection[str]) -> dict[str, npt.NDArray[Any]]:
        """Return some tensors, unverified."""
        found = {}
        for name in names:
            info = self.tensors[name]
            file.seek(len(self.header) + info.begin)
            data = np.empty(info.end - info.begin, dtype=np.uint8)
            for _ in _filled(file, data.data):
                pass
            found[name] = _finite(name, _view(data, info, info.begin))
        return found


def _filled(file: BinaryIO, data: memoryview) -> Iterator[memoryview]:
    """Fill ``data`` from the file, yielding one block after the other."""
    done = 0
    while done < len(data):
        count = file.readinto(data[done : done + BLOCK_BYTES])  # type: ignore[attr-defined]
        if not count:
            raise ModelFileError("the file has become shorter while it was read")
        yield data[done : done + count]
        done += count


def _view(data: npt.NDArray[np.uint8], info: TensorInfo, origin: int) -> npt.NDArray[Any]:
    raw = data[info.begin - origin : info.end - origin]
    array = raw.view(info.dtype).reshape(info.shape) if raw.size else np.empty(info.shape, info.dtype)
    if raw.size and (not array.flags.aligned or not array.dtype.isnative):
        array = array.astype(array.dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


def _finite(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array after checking, a block at a time, that it has no NaN and no infinity."""
    if array.dtype.kind == "f":
        flat = array.reshape(-1)
        for start in range(0, flat.size, BLOCK_BYTES):
            if not np.isfinite(flat[start : start + BLOCK_BYTES]).all():
                raise ModelFileError(f"tensor {name!r} has values that are not finite")
    elif array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise ModelFileError(f"tensor {name!r} has truth values other than 0 and 1")
    return array


# --- reading the header -------------------------------------------------------------------------------------


def read_container(file: BinaryIO, n_bytes: int) -> Container:
    """Read and check the header of a file of ``n_bytes`` bytes; the tensors are not read.

    Raises
    ------
    ModelFileError
        Where it is anything but what :func:`encode` writes, up to the order of names and white space.
    """
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    first = file.read(24)
    if len(start) < 8 or not first.startswith(b"{") or not 2 <= length <= n_bytes - 8:
        _refuse_foreign(file, start + first, length, n_bytes)
    if length > MAX_HEADER_BYTES:
        raise ModelFileError(f"its header has {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    file.seek(8)
    raw = file.read(length)
    if raw.count(b'"data_offsets"') > MAX_TENSORS:
        raise ModelFileError(f"its header names more than {MAX_TENSORS} tensors")
    header = strict_json(raw, "the header")
    if not isinstance(header, dict):
        raise ModelFileError("the header is not a JSON object")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        raise ModelFileError("not a softmaxnet model: a safetensors file that another program wrote")
    if len(metadata) != 1:
        raise ModelFileError(f"its metadata has other keys than {KEY!r}: {_shown(set(metadata) - {KEY})}")
    tensors = _tensor_table(header, n_bytes - 8 - length)
    return Container(tensors, metadata[KEY], start + raw, n_bytes)


def _refuse_foreign(file: BinaryIO, start: bytes, length: int, n_bytes: int) -> NoReturn:
    if n_bytes == 0:
        raise ModelFileError("not a softmaxnet model: the file is empty")
    if start[8:9] == b"{" and length > n_bytes - 8:
        raise ModelFileError(
            f"the file is cut short or its first bytes are damaged: its header would have {length:,} bytes, "
            f"and {n_bytes - 8:,} follow",
            hint="Copy it again from where it was made.",
        )
    file.seek(max(0, n_bytes - 8))
    sample = start + file.read(8)  # text pickles end with a full stop
    for pattern, what in FOREIGN:
        if re.match(pattern, sample):
            raise ModelFileError(f"not a softmaxnet model: looks like {what}")
    raise ModelFileError("not a softmaxnet model: its first bytes are not those of a safetensors file")


def _tensor_table(header: Mapping[str, object], n_data: int) -> dict[str, TensorInfo]:
    """Return the tensors in the order of the file after checking that they fill the data exactly."""
    infos = {name: _tensor_info(name, entry) for name, entry in header.items()}
    place = 0
    ordered = dict(sorted(infos.items(), key=lambda item: (item[1].begin, item[1].end, item[0])))
    for name, info in ordered.items():
        if info.begin != place:
            raise ModelFileError(f"tensor {name[:80]!r} begins at byte {info.begin}; expected {place}")
        place = info.end
    if place != n_data:
        raise ModelFileError(f"the tensors have {place:,} bytes, and {n_data:,} follow the header")
    return ordered


def _tensor_info(name: str, entry: object) -> TensorInfo:
    shown = name[:80]
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"tensor {shown!r} must have exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise ModelFileError(f"tensor {shown!r} has an unknown dtype; known are {', '.join(DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _whole(shape) or len(shape) > MAX_DIMENSIONS:
        raise ModelFileError(f"tensor {shown!r} has no list of at most {MAX_DIMENSIONS} sizes as its shape")
    if not _whole(offsets) or len(offsets) != 2:
        raise ModelFileError(f"tensor {shown!r} has data_offsets that are not two numbers")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:  # Python's integers: nothing overflows
        raise ModelFileError(f"tensor {shown!r} of shape {shape} does not fit its bytes {begin}..{end}")
    return TensorInfo(dtype, tuple(shape), begin, end)


def _whole(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _shown(names: Collection[str]) -> str:
    return ", ".join(repr(name[:80]) for name in sorted(names)[:5])


# --- strict JSON --------------------------------------------------------------------------------------------


_MAY_OVERFLOW = re.compile(rb"[0-9][eE]\+?[0-9]{3}|[0-9]{200}")
"""What every number beyond the largest float64 contains."""


def strict_json(raw: bytes, what: str) -> Any:
    """Return JSON that takes no liberties: no duplicate key, NaN or infinity, at most 32 deep, valid UTF-8.

    Examples
    --------
    >>> strict_json(b'{"a": [1, 2.5]}', "the header")
    {'a': [1, 2.5]}
    >>> strict_json(b'{"a": 1, "a": 2}', "the header")
    Traceback (most recent call last):
    softmaxnet.errors.ModelFileError: the header has the key 'a' twice
    """
    shallow = raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH  # a look that spares small texts the exact count
    if not shallow and _depth(raw) > MAX_DEPTH:
        raise ModelFileError(f"{what} is nested deeper than {MAX_DEPTH}")

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(items)
        if len(found) != len(items):
            seen: set[str] = set()
            for name, _ in items:
                if name in seen:
                    raise ModelFileError(f"{what} has the key {name[:80]!r} twice")
                seen.add(name)
        return found

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ModelFileError(f"{what} has the number {digits[:40]}, which is not finite")
        return value

    try:
        text = raw.decode("utf-8")
        parse_float = number if _MAY_OVERFLOW.search(raw) else None  # a function call for each number takes its time
        value = json.loads(text, object_pairs_hook=pairs, parse_float=parse_float, parse_constant=number)
        if r"\ud" in text or r"\uD" in text:  # half a surrogate pair is no text
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ModelFileError:
        raise
    except (ValueError, RecursionError) as error:  # UnicodeError is a ValueError
        raise ModelFileError(f"{what} is not valid JSON: {str(error)[:200]}") from None
    return value


def _depth(raw: bytes) -> int:
    """Return how deep brackets are nested outside of strings; counted before any recursive parser sees them.

    In one pass whatever the bytes are. A backslash outside of strings misleads it, and stops every parser.

    Examples
    --------
    >>> _depth(b'{"a[[": [1, [2]]}')
    3
    """
    plain = np.frombuffer(raw.replace(b"\\\\", b"").replace(b"\\" + b'"', b""), dtype=np.uint8)
    n_quotes = depth = deepest = 0
    for start in range(0, plain.size, BLOCK_BYTES):
        block = plain[start : start + BLOCK_BYTES]
        quotes = np.cumsum(block == ord('"'), dtype=np.int32)
        opens = (block == ord("{")) | (block == ord("["))
        closes = (block == ord("}")) | (block == ord("]"))
        step = (opens.astype(np.int8) - closes.astype(np.int8)) * ((quotes + n_quotes) % 2 == 0)
        run = np.cumsum(step, dtype=np.int32)
        deepest = max(deepest, depth + int(run.max()))
        depth += int(run[-1])
        n_quotes += int(quotes[-1])
    return deepest


def canonical_json(value: object) -> str:
    """Return the one text of a JSON value: sorted keys, no white space, shortest numbers, finite.

    Examples
    --------
    >>> canonical_json({"b": 0.1, "a": ["é", None]})
    '{"a":["é",null],"b":0.1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


# --- writing ------------------------------------------------------------------------------------------------


def encode(tensors: Tensors, text: str) -> tuple[list[bytes | memoryview], str]:
    """Return the file as a list of buffers, and its digest; the same tensors and text give the same bytes.

    Tensors are ordered by the size of their elements, largest first, then by name, so that each is aligned.

    Parameters
    ----------
    tensors : mapping of str to array, of float64, float32, int64, int32, uint32, uint8 or bool
    text : str
        Contains ``"digest":"`` followed by 64 zeros, once; the digest takes their place.
    """
    ordered = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": {KEY: text}}
    buffers: list[bytes | memoryview] = []
    place = 0
    for name in ordered:
        array = np.asarray(tensors[name])
        dtype = DTYPE_NAMES[array.dtype.newbyteorder("=")]
        data = np.ascontiguousarray(array, DTYPES[dtype])
        end = place + data.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [place, end]}
        buffers.append(data.reshape(-1).view(np.uint8).data if data.size else b"")
        place = end
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")
    raw += b" " * (-len(raw) % 8)
    if len(raw) > MAX_HEADER_BYTES:
        raise ModelFileError(f"the model's description has {len(raw):,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    raw = len(raw).to_bytes(8, "little") + raw
    marker = b'\\"digest\\":\\"'
    if raw.count(marker + DIGEST_ZEROS.encode()) != 1:
        raise ModelFileError("the description of the model must have exactly one place for the digest")
    hasher = hashlib.sha256(raw)
    for buffer in buffers:
        hasher.update(buffer)
    digest = hasher.hexdigest()
    return [raw.replace(marker + DIGEST_ZEROS.encode(), marker + digest.encode()), *buffers], digest


def _without_digest(header: bytes, digest: str) -> bytes:
    """Return the header with the digits of its digest as zeros."""
    if not re.fullmatch("[0-9a-f]{64}", digest) or header.count(digest.encode()) != 1:
        raise ModelFileError("its digest is not 64 hexadecimal digits that occur once")
    return header.replace(digest.encode(), DIGEST_ZEROS.encode())


def is_damaged(file: BinaryIO, n_bytes: int) -> bool:
    """Whether a file that cannot be read was a model once: it has the marks of one, and not the digest it tells of."""
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(n_bytes - 8, MAX_HEADER_BYTES):
        return False
    header = file.read(length)
    if MARK not in header:
        return False
    found = re.search(rb'digest\\":\\"([0-9a-f]{64})\\"', header)
    if found is None:
        return True
    told = found.group(1)
    hasher = hashlib.sha256((start + header).replace(told, DIGEST_ZEROS.encode()))
    for block in iter(lambda: file.read(1 << 20), b""):
        hasher.update(block)
    return hasher.hexdigest() != told.decode()
