"""What this machine can do: threads, bfloat16 products, an accelerator; threads are put back after use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from softmaxnet.errors import UsageError

__all__ = ["available_threads", "has_bfloat16_products", "limited_threads", "resolve_device", "worthwhile_threads"]

SERIAL_OPERATIONS = 200_000_000
"""Floating-point operations of a step below which a second thread costs more in waiting than it gives in work."""


def available_threads() -> int:
    """Return the number of threads this process may use: its CPUs, the cgroup's quota and ``OMP_NUM_THREADS``.

    Examples
    --------
    >>> available_threads() >= 1
    True
    """
    bounds = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if told.isdigit() and int(told) > 0:
        bounds.append(int(told))
    quota = _cgroup_quota()
    if quota is not None:
        bounds.append(max(math.ceil(quota), 1))
    return max(min(bounds), 1)


def _cgroup_quota() -> float | None:
    """Return the CPUs that the cgroup (version 2 or 1) grants, None where it sets no bound."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not (quota.isdigit() and period.isdigit() and int(period) > 0):
        return None
    return int(quota) / int(period)


def worthwhile_threads(n_jobs: int | None, operations_per_step: float) -> int:
    """Return the number of threads for steps of a size.

    Parameters
    ----------
    n_jobs : int or None
        As in scikit-learn: None lets the size of the work decide, -1 is every thread, -2 every one but one.
    operations_per_step : float
        Floating-point operations.

    Examples
    --------
    >>> worthwhile_threads(None, 1e6), worthwhile_threads(3, 1e6)
    (1, 3)
    """
    available = available_threads()
    if n_jobs is None:
        return 1 if operations_per_step < SERIAL_OPERATIONS else available
    if n_jobs == 0:
        raise UsageError("n_jobs must be None or an int other than 0. Got 0 instead.")
    return n_jobs if n_jobs > 0 else max(available + 1 + n_jobs, 1)


@contextmanager
def limited_threads(n_threads: int) -> Iterator[None]:
    """Run with ``n_threads`` threads in PyTorch and one in the BLAS of NumPy and SciPy; put the former numbers back.

    What is large goes through PyTorch. OpenBLAS's threads spin on for a tenth of a second after each product, and take
    the cores from PyTorch's: softmax regression by SciPy's L-BFGS took twice as long for it.
    """
    import torch
    from threadpoolctl import ThreadpoolController

    before = torch.get_num_threads()
    pools = ThreadpoolController()
    files = [pool.filepath for pool in pools.lib_controllers]
    own = [file for file in files if {"numpy.libs", "scipy.libs"} & set(Path(file).parts)]
    with pools.limit(limits=n_threads), pools.select(filepath=own).limit(limits=1):
        torch.set_num_threads(n_threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def has_bfloat16_products() -> bool:
    """Return whether the processor multiplies bfloat16 matrices by itself (AVX512-BF16 or AMX)."""
    import torch

    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def resolve_device(device: str, local_rank: int = 0) -> str:
    """Return the PyTorch device that ``"auto"`` stands for: CUDA where there is one, else the CPU.

    Of several processes on a machine, counted by ``local_rank``, each gets a GPU of its own as far as there are any.

    Raises
    ------
    UsageError
        Where the device that was asked for is not there.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and local_rank and torch.cuda.device_count() > 1:
        device = f"cuda:{local_rank % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]}); accepted are 'auto', 'cpu' and, "
            "with a GPU and a CUDA build of PyTorch, 'cuda' or 'cuda:N'"
        ) from None
    return device
