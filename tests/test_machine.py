"""Threads and devices: what the machine has, and everything put back after use."""

from __future__ import annotations

import os

import pytest
from threadpoolctl import threadpool_info

torch = pytest.importorskip("torch")

import softmaxnet.machine
from softmaxnet.errors import UsageError
from softmaxnet.machine import (
    SERIAL_OPERATIONS,
    available_threads,
    has_bfloat16_products,
    limited_threads,
    resolve_device,
    worthwhile_threads,
)


def pools() -> list[tuple[str, int]]:
    """Return the threads of every pool of the process."""
    return sorted((pool["filepath"], pool["num_threads"]) for pool in threadpool_info())


@pytest.mark.parametrize(
    ("told", "expected"), [("1", 1), ("1,2", 1), ("100000", None), ("0", None), ("x", None), ("", None)]
)
def test_omp_num_threads_bounds_the_threads(monkeypatch, told, expected):
    """OMP_NUM_THREADS is an upper bound where it is a positive number, and nothing else."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    unbounded = available_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert available_threads() == (unbounded if expected is None else expected)
    assert 1 <= unbounded <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("quota", "expected"), [(0.5, 1), (1.0, 1), (1.5, 2), (1e6, 64), (None, 64)])
def test_quota_of_the_control_group_bounds_the_threads(monkeypatch, quota, expected):
    """A quota of 1.5 CPUs is worth two threads; one of half a CPU still one."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(softmaxnet.machine, "_cgroup_quota", lambda: quota)
    assert available_threads() == expected


def test_small_steps_take_one_thread(monkeypatch):
    """Without n_jobs the size of a step decides; n_jobs counts as in scikit-learn."""
    monkeypatch.setattr(softmaxnet.machine, "available_threads", lambda: 8)
    assert worthwhile_threads(None, SERIAL_OPERATIONS / 2) == 1
    assert worthwhile_threads(None, SERIAL_OPERATIONS * 10) == 8
    assert [worthwhile_threads(n, 1.0) for n in (1, 3, -1, -2, -8, -20)] == [1, 3, 8, 7, 1, 1]


def test_n_jobs_of_zero_is_refused():
    """n_jobs=0 is a UsageError."""
    with pytest.raises(UsageError, match="n_jobs"):
        worthwhile_threads(0, 1.0)


def test_threads_are_put_back():
    """Inside, PyTorch has as many threads as told and BLAS one; afterwards, also after an error, as before."""
    before, torch_before = pools(), torch.get_num_threads()
    with limited_threads(2):
        assert torch.get_num_threads() == 2
        assert all(n == 1 for path, n in pools() if "blas" in path)
    assert (pools(), torch.get_num_threads()) == (before, torch_before)
    with pytest.raises(RuntimeError, match="inside"), limited_threads(2):
        raise RuntimeError("inside")
    assert (pools(), torch.get_num_threads()) == (before, torch_before)


def test_devices():
    """The CPU is always there; "auto" is the CPU without CUDA; what is not there is refused with what is accepted."""
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    for device in ("no such device", "cuda:99"):
        with pytest.raises(UsageError, match="accepted are 'auto', 'cpu'") as caught:
            resolve_device(device)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)


def test_bfloat16_products_are_a_fact_of_the_processor():
    """The answer is a bool, and the same one twice."""
    assert has_bfloat16_products() in (True, False)
    assert has_bfloat16_products() == has_bfloat16_products()
