"""What the numbers were measured on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

LIBRARIES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "torch",
    "pandas",
    "lightgbm",
    "pytabkit",
    "fasttext",
    "softmaxnet",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def describe_machine() -> dict[str, Any]:
    """Return the processor, its cores and instructions, memory, system and versions, as plain data."""
    lines = _lines(Path("/proc/cpuinfo"))
    flags = set(lines.get("flags", "").split())
    return {
        "processor": lines.get("model name", platform.processor()),
        "family_model": f"{lines.get('cpu family', '?')}/{lines.get('model', '?')}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.system() + " " + platform.release().split("-")[0],
        "python": platform.python_version(),
        "versions": {name: version for name in LIBRARIES if (version := _version(name))},
        "softmaxnet_code": code_digest(),
    }


def describe_in_words(machine: dict[str, Any]) -> str:
    """Return :func:`describe_machine` as a sentence for Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']} (family/model {machine['family_model']}), {machine['cores']} cores "
        f"({', '.join(machine['instructions'])}), {machine['memory_gib']} GiB, {machine['system']}, "
        f"Python {machine['python']}; {versions}; code of softmaxnet {machine['softmaxnet_code']}."
    )


def code_digest() -> str:
    """Return eight hexadecimal digits that change with any source file of the softmaxnet that is imported."""
    spec = importlib.util.find_spec("softmaxnet")
    if spec is None or spec.origin is None:
        return "absent"
    folder = Path(spec.origin).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def thread_environment(threads: int) -> dict[str, str]:
    """Return this process's environment with every library held to that many threads."""
    count = str(threads)
    return os.environ | dict.fromkeys(THREAD_VARIABLES, count) | {"LOKY_MAX_CPU_COUNT": count}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lines(path: Path) -> dict[str, str]:
    """Return the first value of each "key : value" line."""
    found: dict[str, str] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    return found
