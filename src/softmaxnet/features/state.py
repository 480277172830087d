"""Fitted parts as plain data: reading them back checks everything, for a file may be damaged or forged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from softmaxnet.errors import ModelFileError

Meta: TypeAlias = dict[str, object]
Tensors: TypeAlias = dict[str, NDArray[Any]]

PREFIX = "features."


def tensor(
    tensors: Mapping[str, NDArray[Any]], name: str, dtype: DTypeLike, length: int | None = None
) -> NDArray[Any]:
    """Return the one-dimensional tensor ``features.<name>``, its dtype, length and finiteness checked.

    Raises
    ------
    ModelFileError
        Where it is missing or anything but what was written.
    """
    full = PREFIX + name
    array = tensors.get(full)
    if array is None:
        raise ModelFileError(f"the model file has no tensor {full!r}")
    if array.dtype != np.dtype(dtype) or array.ndim != 1:
        raise ModelFileError(
            f"tensor {full!r} has dtype {array.dtype} and {array.ndim} dimensions; "
            f"expected {np.dtype(dtype)} and 1 dimension"
        )
    if length is not None and array.shape[0] != length:
        raise ModelFileError(f"tensor {full!r} has {array.shape[0]} elements; expected {length}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ModelFileError(f"tensor {full!r} has values that are not finite")
    return array


def integer(meta: Mapping[str, object], name: str, low: int = 0, high: int = 2**31 - 1) -> int:
    """Return the whole number ``meta[name]`` in ``low..high``.

    Examples
    --------
    >>> integer({"n": 3}, "n")
    3
    """
    value = meta.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ModelFileError(
            f"the model file's {name!r} must be a whole number in {low}..{high}. Got {value!r} instead"
        )
    return value


def number(meta: Mapping[str, object], name: str, low: float, high: float) -> float:
    """Return the finite number ``meta[name]`` in ``low..high``."""
    value = meta.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ModelFileError(
            f"the model file's {name!r} must be a number in [{low}, {high}]. Got {value!r} instead"
        )
    return float(value)


def flag(meta: Mapping[str, object], name: str) -> bool:
    """Return the truth value ``meta[name]``."""
    value = meta.get(name)
    if not isinstance(value, bool):
        raise ModelFileError(f"the model file's {name!r} must be true or false. Got {value!r} instead")
    return value


def strings(meta: Mapping[str, object], name: str) -> tuple[str, ...]:
    """Return the list of texts ``meta[name]``."""
    value = meta.get(name)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ModelFileError(f"the model file's {name!r} must be a list of texts")
    return tuple(value)


def mapping(meta: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return the JSON object ``meta[name]``."""
    value = meta.get(name)
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ModelFileError(f"the model file's {name!r} must be a JSON object")
    return value


def indices_below(array: NDArray[Any], bound: int, name: str, *, increasing: bool = False) -> None:
    """Check that whole numbers are in ``0..bound-1`` and, where asked, strictly increasing."""
    if array.size and (int(array.min()) < 0 or int(array.max()) >= bound):
        raise ModelFileError(f"tensor {PREFIX + name!r} has values outside 0..{bound - 1}")
    if increasing and array.size > 1 and not bool((array[1:] > array[:-1]).all()):
        raise ModelFileError(f"tensor {PREFIX + name!r} must be strictly increasing")


def pack_strings(values: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the UTF-8 bytes of all texts, one after the other, and the n + 1 offsets where each begins.

    Examples
    --------
    >>> data, offsets = pack_strings(["ab", "", "c"])
    >>> bytes(data), offsets.tolist()
    (b'abc', [0, 2, 2, 3])
    """
    encoded = [value.encode("utf-8", "surrogatepass") for value in values]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), dtype=np.uint8).copy(), offsets


def unpack_strings(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> list[str]:
    """Return the texts that ``pack_strings`` was given; ``ModelFileError`` where offsets or bytes lie."""
    ends = offsets
    if ends.size == 0 or ends[0] != 0 or ends[-1] != data.size or bool((ends[1:] < ends[:-1]).any()):
        raise ModelFileError("the offsets of the category levels do not fit their bytes")
    raw = data.tobytes()
    bounds = ends.tolist()
    try:
        return [raw[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise ModelFileError("the category levels are not valid UTF-8") from error
