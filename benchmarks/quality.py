"""Probabilities of softmaxnet and its peers over many data sets: log loss, accuracy, calibration, time, memory.

``python benchmarks/quality.py --data DIR -o benchmarks/results/quality-cv.jsonl``; see ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_sets import SKLEARN_SETS, data_set_names
from hard_sets import HARD_SETS
from machine import code_digest, describe_machine, thread_environment
from peers import METHODS, method_named
from tables import read_results, write_tables

HERE = Path(__file__).resolve().parent
RUNNING: set[subprocess.Popen[bytes]] = set()
KEY = ("set", "method", "seed", "mode", "threads")


def main() -> None:
    """Run every cell that the results file does not have yet, then write the tables beside it."""
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a process under way is ended as well
    output: Path = options.output
    output.parent.mkdir(parents=True, exist_ok=True)
    cells = [] if options.tables_only else wanted_cells(options)
    done = {tuple(line[key] for key in KEY): line for line in read_results(output)}
    code = code_digest()
    todo = [cell for cell in cells if not is_done(cell, done, code, options.fresh)]
    print(f"{len(todo)} of {len(cells)} measurements to make", file=sys.stderr)
    if todo:
        append(output, {"machine": describe_machine()})
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            for cell, result in zip(todo, pool.map(lambda cell: run_cell(cell, options), todo), strict=True):
                append(output, cell | result)
                tell(cell, result)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(RUNNING):
                end(process)
            raise
    print(write_tables(output).partition("## Accuracy")[0] + f"The other tables are in {output.with_suffix('.md')}.")


def parse_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, help="folder of data sets")
    add(
        "--sets",
        default="data,sklearn",
        help="names or groups: data, sklearn, hard, keel, imbalanced, all (default: data,sklearn)",
    )
    add(
        "--methods",
        default=",".join(METHODS),
        help="as in peers.py; softmaxnet:dropout=0.1:n_members=4 is a variant",
    )
    add("--seeds", type=int, default=1, help="seeds 0 to N-1 (default: 1)")
    add("--time-limit", type=float, default=600, help="seconds for each process (default: 600)")
    add("--max-rows", type=int, help="leave slow methods (realmlp, tabm) out above this many training rows")
    mode = parser.add_mutually_exclusive_group()
    add_mode = mode.add_argument
    add_mode(
        "--cv",
        dest="mode",
        action="store_const",
        const="cv",
        default="cv",
        help="hold a fifth of the training rows out",
    )
    add_mode(
        "--test",
        dest="mode",
        action="store_const",
        const="test",
        help="the test files: for the last look only",
    )
    add("--threads", type=int, default=2, help="threads of each process (default: 2)")
    add("--jobs", type=int, default=1, help="processes at a time; times are only true with 1")
    add("--nice", type=int, default=0, help="lower the priority of the processes")
    add("--fresh", action="store_true", help="measure softmaxnet again where its code has changed")
    add("--tables-only", action="store_true", help="measure nothing; write the tables of what is there")
    add(
        "-o",
        "--output",
        type=Path,
        default=HERE / "results" / "quality.jsonl",
        help="JSON lines, appended to",
    )
    return parser.parse_args()


SLOW = ("realmlp", "tabm")


def wanted_cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what to measure: methods for each data set, all data sets of a seed before the next seed."""
    cells = []
    for seed in range(options.seeds):
        for name in data_set_names(options.data, options.sets):
            kind, rows = about(name, options.data)
            for method in options.methods.split(","):
                too_large = method in SLOW and options.max_rows is not None and rows > options.max_rows
                if kind in method_named(method)[0].kinds and not too_large:
                    cells.append(dict(zip(KEY, (name, method, seed, options.mode, options.threads), strict=True)))
    return cells


def about(name: str, folder: Path | None) -> tuple[str, int]:
    """Return a data set's kind and rough number of training rows."""
    if name in HARD_SETS:
        return "table", HARD_SETS[name][0]
    if name in SKLEARN_SETS or name.startswith("keel:") or folder is None:
        return "table", 0
    meta = json.loads((folder / name / "meta.json").read_text())
    return meta["kind"], int(meta.get("rows_train", 0))


def is_done(cell: dict[str, Any], done: dict[tuple[Any, ...], dict[str, Any]], code: str, fresh: bool) -> bool:
    """Whether the results have this cell; an absent peer is tried again."""
    line = done.get(tuple(cell[key] for key in KEY))
    if line is None or line["status"] == "absent":
        return False
    return not (fresh and cell["method"].startswith("softmaxnet") and line["code"] != code)


def run_cell(cell: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Measure one cell in a new process, killed with its children at the time limit."""
    code = code_digest()
    with tempfile.TemporaryDirectory() as folder:
        request, result = Path(folder, "request.json"), Path(folder, "result.json")
        request.write_text(json.dumps(cell | {"data": options.data and str(options.data)}))
        command = [sys.executable, str(HERE / "cell.py"), str(request), str(result)]
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=thread_environment(cell["threads"]),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=lambda: os.nice(options.nice),
        )
        RUNNING.add(process)
        try:
            errors = process.communicate(timeout=options.time_limit)[1]
        except subprocess.TimeoutExpired:
            end(process)
            process.communicate()
            return {"status": "timeout", "error": f"over {options.time_limit:.0f} s", "code": code}
        finally:
            RUNNING.discard(process)
        seconds = time.perf_counter() - started
        if result.exists():
            return json.loads(result.read_text()) | {"process_seconds": seconds, "code": code}
        last_words = errors.decode(errors="replace").strip()[-500:]
        return {"status": "failed", "error": f"exit status {process.returncode}: {last_words}", "code": code}


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one JSON line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(_rounded(record)) + "\n")


def _rounded(value: Any) -> Any:
    """Return plain data with floats to seven significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def tell(cell: dict[str, Any], result: dict[str, Any]) -> None:
    """Print a line about a measurement."""
    if result["status"] == "ok":
        told = f"{result['log_loss']:8.4f}  {result['accuracy']:.4f}  {result['fit_seconds']:7.2f} s"
    else:
        told = f"{result['status']}: {result.get('error', '')[:120]}"
    print(f"{cell['set']:24} {cell['method']:28} {cell['seed']}  {told}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
