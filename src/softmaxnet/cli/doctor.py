"""``softmaxnet doctor``: what this machine and this installation offer, for a report of a problem."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import tempfile
from typing import Any

from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, aligned

__all__ = ["run"]

REQUIRED = ("numpy", "scipy", "scikit-learn", "safetensors", "pyarrow", "narwhals")
OPTIONAL = ("torch", "rich", "matplotlib", "pandas", "polars")


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Look at everything, fail at nothing."""
    report = examine()
    rows = []
    for name, value in report.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item if item is not None else 'not installed'}" for key, item in value.items())
        elif isinstance(value, list):
            value = "; ".join(value) or "none"
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        rows.append((name.replace("_", " "), "unknown" if value is None else value))
    terminal.answer(aligned(rows, widest=300), report)
    return 0


def examine() -> dict[str, Any]:
    """Return the findings as plain data; what cannot be found out is None."""
    from softmaxnet import __version__
    from softmaxnet.machine import available_threads
    from softmaxnet.memory import available_bytes

    packages = {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}
    report: dict[str, Any] = {
        "softmaxnet": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "cpus": os.cpu_count(),
        "threads": available_threads(),
        "cgroup_cpus": _cgroup_cpus(),
        "free_memory_bytes": available_bytes(),
        **_torch(packages["torch"]),
        "temporary_folder": _writable(tempfile.gettempdir()),
        "working_folder": _writable(os.getcwd()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
    }
    report["problems"] = _problems(report)
    return report


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cgroup_cpus() -> float | None:
    """Return how many CPUs the control group, a container's limit, grants; None where it sets no limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
            return int(quota) / int(period)  # "max" is no number: no limit
    except (OSError, ValueError):
        return None


def _torch(installed: str | None) -> dict[str, Any]:
    """Return what PyTorch says; an installation that does not load is a finding."""
    if installed is None:
        text = "not installed: predicting works, training does not"
        return {"torch": text, "device": None, "bfloat16_products": None}
    try:
        import torch

        from softmaxnet.machine import has_bfloat16_products, resolve_device

        found = {"device": resolve_device("auto"), "bfloat16_products": has_bfloat16_products()}
    except Exception as error:  # a broken installation raises anything
        return {"torch": f"does not load: {type(error).__name__}: {error}", "device": None, "bfloat16_products": None}
    return {"torch": f"loads, CPU capability {torch.backends.cpu.get_cpu_capability()}", **found}


def _writable(folder: str) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 65_536)
            file.flush()
    except OSError as error:
        return f"{folder}: cannot be written: {error.strerror or error}"
    return f"{folder}: can be written"


def _problems(report: dict[str, Any]) -> list[str]:
    problems = [f"{name} is not installed" for name in REQUIRED if report["packages"][name] is None]
    if report["packages"]["torch"] is None:
        problems.append("torch is not installed: pip install 'softmaxnet[train]' to train")
    elif report["torch"].startswith("does not load"):
        problems.append("torch does not load")
    problems += [report[name] for name in ("temporary_folder", "working_folder") if "cannot" in report[name]]
    return problems
