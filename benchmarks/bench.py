"""Speed: softmaxnet beside what a person would use instead, in one run.

``python benchmarks/bench.py --data DIR``; see ``benchmarks/README.md``. Each row runs in a process of its own, its
contestants in turn (A B A B ...); what is compared are the medians of that process. Writes JSON and a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench_rows import ROWS, Request, Skipped
from machine import describe_in_words, describe_machine, thread_environment

HERE = Path(__file__).resolve().parent


def matrix_product_peak(threads: int) -> dict[str, float]:
    """Return the floating-point operations a second of square matrix products by dtype, the best of several."""
    import torch

    torch.set_num_threads(threads)
    size, found = 2048, {}
    for name in ("float32", "bfloat16"):
        a = torch.randn(size, size).to(getattr(torch, name))
        b = torch.randn(size, size).to(getattr(torch, name))
        torch.mm(a, b)
        best = float("inf")
        for _ in range(7):
            started = time.perf_counter()
            torch.mm(a, b)
            best = min(best, time.perf_counter() - started)
        found[name] = 2 * size**3 / best
    return found


def run_row(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one row in a fresh process, the machine's peak measured first in it, and return what it found."""
    command = [sys.executable, str(HERE / "bench.py"), "--row", name, "--threads", str(options.threads)]
    command += ["--data", str(options.data.resolve())] if options.data else []
    command += ["--quick"] if options.quick else []
    try:
        done = subprocess.run(
            command,
            env=thread_environment(options.threads),
            capture_output=True,
            text=True,
            timeout=options.time_limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"over {options.time_limit:.0f} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit code {done.returncode}"}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def row_here(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one row in this process."""
    peak = matrix_product_peak(options.threads)
    request = Request(options.data, options.threads, options.quick, peak)
    started = time.perf_counter()
    try:
        outcome = asdict(ROWS[name](request))
    except Skipped as reason:
        return {"skipped_row": str(reason)}
    return outcome | {"peak": peak, "took_seconds": time.perf_counter() - started}


def table(found: dict[str, Any]) -> str:
    """Return the Markdown table: what is asked, what was measured, and whether it was reached."""
    peaks = [row["peak"] for row in found["rows"].values() if "peak" in row]
    lines = ["# Speed", "", describe_in_words(found["machine"]) + f" {found['threads']} threads."]
    if found["quick"]:
        lines += ["", "**Quick mode: fewer rows and one round; not for quoting.**"]
    if peaks:
        words = ", ".join(
            f"{name} {statistics.median(peak[name] for peak in peaks) / 1e9:.0f}" for name in ("float32", "bfloat16")
        )
        lines += ["", f"Matrix products of 2,048 x 2,048 at their best, median over the rows [GFLOP/s]: {words}."]
    lines += ["", "| row | what | measured | to reach | |", "|---|---|---|---|---|"]
    for name, row in found["rows"].items():
        reason = row.get("failed") or row.get("skipped_row")
        if reason:
            lines.append(f"| {name} | | | | {'FAILED' if 'failed' in row else 'skipped'}: {reason} |")
        for what, measured, comparison, goal in row.get("goals", ()):
            reached = measured >= goal if comparison == ">=" else measured <= goal
            lines.append(
                f"| {name} | {what} | {measured:.4g} | {comparison} {goal:.4g} | {'reached' if reached else 'MISSED'} |"
            )
    lines += ["", "| row | measurements |", "|---|---|"]
    for name, row in found["rows"].items():
        if "measured" in row:
            skipped = "".join(f"; {peer} skipped: {reason}" for peer, reason in row["skipped"].items())
            lines.append(f"| {name} | {in_words(row['measured'])}{skipped} |")
    return "\n".join(lines) + "\n"


def in_words(value: Any) -> str:
    """Return nested measurements in one line."""
    if isinstance(value, dict):
        parts = [
            f"{key}: ({in_words(v)})" if isinstance(v, dict) else f"{key} {in_words(v)}" for key, v in value.items()
        ]
        return ", ".join(parts)
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run the rows one after the other; after each the JSON and the table are written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of data sets with mnist/ and banking77/ in it")
    parser.add_argument(
        "--only", action="append", choices=ROWS, metavar="ROW", help=f"one of {', '.join(ROWS)}; again for more"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rows, one round: whether it runs, not how fast")
    parser.add_argument("--row", choices=ROWS, help="run this one here and print JSON")
    parser.add_argument("--threads", type=int, default=2, help="threads of each contestant (default: 2)")
    parser.add_argument("--time-limit", type=float, default=1200, help="seconds for each row (default: 1200)")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "bench.json")
    options = parser.parse_args()
    if options.row:
        print(json.dumps(row_here(options.row, options), default=float))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the row under way is ended as well
    machine = describe_machine()
    found: dict[str, Any] = {"machine": machine, "threads": options.threads, "quick": options.quick, "rows": {}}
    if options.only and options.output.exists():  # the other rows stay where they are of the same code and machine
        before = json.loads(options.output.read_text())
        if {key: before.get(key) for key in ("machine", "threads", "quick")} == {
            key: found[key] for key in ("machine", "threads", "quick")
        }:
            found["rows"] = before["rows"]
    for name in options.only or ROWS:
        found["rows"][name] = run_row(name, options)
        print(f"{name:16} {json.dumps(found['rows'][name])[:300]}", file=sys.stderr, flush=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(table(found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
