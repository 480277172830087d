"""How much memory there is, is free and is taken, and the one array of rows x classes that a user may ask for."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import ResourceError

__all__ = ["allocate_result", "available_bytes", "installed_bytes", "peak_resident_bytes", "resident_bytes"]

UNCHECKED_BYTES = 256 * 2**20
"""Results up to this size are allocated without asking how much memory is free."""


def allocate_result(shape: tuple[int, int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an empty array of rows x classes, unless it would take more than half of the free memory.

    Raises
    ------
    ResourceError
        With the number of bytes and what to do instead.
    """
    n_bytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
    free = available_bytes() if n_bytes > UNCHECKED_BYTES else None
    if free is None or n_bytes <= free // 2:
        try:
            return np.empty(shape, dtype)
        except (MemoryError, ValueError):  # ValueError: more elements than an index can count
            pass
    compared = "which are not free" if free is None else f"more than half of the {free:,} bytes that are free"
    raise ResourceError(
        f"an array of {shape[0]:,} rows x {shape[1]:,} classes takes {n_bytes:,} bytes, {compared}.",
        hint="Use predict_topk (--top K) for the most probable classes, or pass fewer rows at a time.",
    )


def available_bytes() -> int | None:
    """Return the bytes of memory that this process may still take, or None where the system does not say.

    The least of what the kernel calls available (the physical memory, where there is no ``/proc``) and what
    the control group, a container's limit, has left.
    """
    limits = [limit for limit in (_kernel_available(), _group_left()) if limit is not None]
    return min(limits) if limits else None


def installed_bytes() -> int | None:
    """Return the bytes of memory that this machine, or a container's limit, has; None where the system does not say.

    Unlike what is free it is the same at any time.
    """
    try:
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, OSError, ValueError):  # AttributeError: Windows
        return None
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as limit:
            limits.append(int(limit.read()))  # "max" is no number: no limit
    except (OSError, ValueError):
        pass
    return min(limits)


def resident_bytes() -> int | None:
    """Return the bytes of memory that this process holds now, or None where the system does not say."""
    return _status_bytes("VmRSS:")


def peak_resident_bytes() -> int | None:
    """Return the most bytes of memory that this process has held at once, or None where the system does not say."""
    found = _status_bytes("VmHWM:")
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(name: str) -> int | None:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
    except (OSError, ValueError, StopIteration):
        return None


def _kernel_available() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # AttributeError: Windows
        return None


def _group_left() -> int | None:
    """Return what the control group leaves; file pages that it can drop count as free."""
    root = "/sys/fs/cgroup/memory."
    try:
        with open(root + "max", encoding="ascii") as limit, open(root + "current", encoding="ascii") as used:
            left = int(limit.read()) - int(used.read())  # "max" is no number: no limit
        with open(root + "stat", encoding="ascii") as stat:
            droppable = next((int(line.split()[1]) for line in stat if line.startswith("inactive_file ")), 0)
    except (OSError, ValueError):
        return None
    return max(0, left + droppable)
