"""More rows than memory: peak memory, time against rows, streaming against memory, encoding against scikit-learn.

``softmaxnet fit`` runs as its own process, whose peak of resident memory the operating system tells. Tables of 20
numeric and 5 categorical columns are made from a seed; files are removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_in_words, describe_machine, thread_environment

N_NUMBERS, N_CATEGORIES, N_LEVELS, CHUNK_ROWS = 20, 5, 50, 100_000
CLASSES = ("no", "maybe", "yes")
MEMORY_GOAL, LINEAR_GOAL, RATE_GOAL = 1 << 30, 0.15, 0.7
PARTS = ("memory", "linear", "rate", "encode")
TIGHT, HUGE = "600MiB", "1000GiB"
"""Budgets in which the tables of the parts linear and rate do not fit, and in which they do."""
SAME = ("--hidden-layer-sizes", "128,128,128", "--n-members", "4", "--batch-size", "256")
"""In memory the recipe may choose among networks; what is compared is one and the same."""


def tables(n_rows: int, seed: int) -> Iterator[Any]:
    """Yield a table of ``n_rows`` rows in chunks: its labels depend on numbers, on their sines and on levels."""
    import pyarrow as pa

    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=(N_NUMBERS, len(CLASSES)))
    effects = rng.normal(size=(N_CATEGORIES, N_LEVELS, len(CLASSES)))
    levels = [f"level {i}" for i in range(N_LEVELS)]
    for first in range(0, n_rows, CHUNK_ROWS):
        n = min(CHUNK_ROWS, n_rows - first)
        numbers = rng.normal(size=(n, N_NUMBERS))
        codes = rng.integers(0, N_LEVELS, (n, N_CATEGORIES)).astype(np.int32)
        z = 0.5 * numbers @ slopes + np.sin(2 * numbers[:, : len(CLASSES)])
        z += 0.5 * sum(effects[j, codes[:, j]] for j in range(N_CATEGORIES))
        y = (z + rng.gumbel(size=z.shape)).argmax(1).astype(np.int32)
        columns: dict[str, Any] = {f"x{j}": numbers[:, j] for j in range(N_NUMBERS)}
        for j in range(N_CATEGORIES):
            columns[f"c{j}"] = pa.DictionaryArray.from_arrays(codes[:, j], levels).cast(pa.string())
        columns["y"] = pa.DictionaryArray.from_arrays(y, list(CLASSES)).cast(pa.string())
        yield pa.table(columns)


def write_table(path: Path, n_rows: int, seed: int = 0) -> Path:
    """Write a table as CSV or Parquet, by the ending of its name."""
    import pyarrow.csv
    import pyarrow.parquet

    writer: Any = None
    for table in tables(n_rows, seed):
        if writer is None:
            make = pyarrow.parquet.ParquetWriter if path.suffix == ".parquet" else pyarrow.csv.CSVWriter
            writer = make(str(path), table.schema)
        writer.write_table(table)
    writer.close()
    return path


def fit(path: Path, *options: str, threads: int, cache: Path) -> dict[str, Any]:
    """Run ``softmaxnet fit`` and return what it prints, with its peak of memory as the operating system counts it."""
    model = cache / "model.safetensors"
    command = [sys.executable, "-m", "softmaxnet", "fit", str(path), "--target", "y", "-o", str(model), "--force"]
    command += ["--json", "--seed", "0", *options]
    environment = thread_environment(threads) | {"SOFTMAXNET_CACHE": str(cache)}
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {printed.decode()[-2000:]}")
    found = json.loads(printed)
    found |= {"peak_bytes": usage.ru_maxrss * 1024, "wall_seconds": time.monotonic() - started}
    model.unlink()
    return found


def rows_a_second(found: dict[str, Any]) -> float:
    """Return the rows trained on in a second of training, validation included."""
    return float((found["n_rows"] - found["n_held_out"]) * found["epochs"] / found["training_seconds"])


# --- the parts --------------------------------------------------------------------------------------------------


def memory(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Fit a table of ``--gb`` gigabytes of CSV, and the same rows as Parquet, within 1 GiB."""
    lines = []
    probe = write_table(folder / "probe.csv", CHUNK_ROWS)
    n_rows = int(args.gb * 1e9 / (probe.stat().st_size / CHUNK_ROWS))
    probe.unlink()
    options = ["--memory", "1GiB", "--max-epochs", "1", *args.option]
    for suffix in args.suffix.split(","):
        path = write_table(folder / f"table.{suffix}", n_rows)
        found = fit(path, *options, threads=args.threads, cache=folder)
        line = {
            "part": "memory",
            "file": suffix,
            "file_bytes": path.stat().st_size,
            "n_rows": n_rows,
            "options": options,
            "peak_bytes": found["peak_bytes"],
            "stated_bytes": found["memory"]["stated_bytes"],
            "wall_seconds": found["wall_seconds"],
            "training_seconds": found["training_seconds"],
            "rows_a_second": rows_a_second(found),
            "log_loss": found["log_loss"],
            "reached": found["peak_bytes"] <= MEMORY_GOAL,
        }
        lines.append(line)
        path.unlink()
        for cached in folder.glob("table*"):
            shutil.rmtree(cached, ignore_errors=True)
    return lines


def linear(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Time an epoch at 1, 2 and 4 times the rows, in turns; the ratio of seconds a row to that of the first."""
    sizes = [args.rows, 2 * args.rows, 4 * args.rows]
    paths = [write_table(folder / f"rows-{n}.parquet", n) for n in sizes]
    options = ["--memory", TIGHT, "--max-epochs", "1", *SAME, *args.option]
    seconds: list[list[float]] = [[] for _ in sizes]
    for _ in range(args.repeats):
        for times, path in zip(seconds, paths, strict=True):
            result = fit(path, *options, threads=args.threads, cache=folder)
            assert result["streamed"]
            times.append(result["training_seconds"])
    best = [min(times) for times in seconds]
    per_row = [t / n for t, n in zip(best, sizes, strict=True)]
    ratios = [value / per_row[0] for value in per_row]
    for path in paths:
        path.unlink()
    reached = all(abs(ratio - 1) <= LINEAR_GOAL for ratio in ratios)
    return [
        {"part": "linear", "n_rows": sizes, "epoch_seconds": best, "seconds_a_row_ratio": ratios, "reached": reached}
    ]


def rate(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Compare rows a second streamed and in memory, the same fit in turns."""
    path = write_table(folder / "rate.parquet", args.rows)
    options = ["--max-epochs", "2", *SAME, *args.option]
    found: dict[str, list[float]] = {TIGHT: [], HUGE: []}
    for _ in range(args.repeats):
        for size, rates in found.items():
            result = fit(path, *options, "--memory", size, threads=args.threads, cache=folder)
            assert result["streamed"] == (size != HUGE)
            rates.append(rows_a_second(result))
    path.unlink()
    streamed, whole = max(found[TIGHT]), max(found[HUGE])
    line = {"part": "rate", "n_rows": args.rows, "streamed": streamed, "in_memory": whole, "share": streamed / whole}
    return [line | {"reached": streamed >= RATE_GOAL * whole}]


def encode(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Time fit and transform on 100,000 x 50 mixed columns against scikit-learn's ColumnTransformer, in turns."""
    frame = _mixed_frame(100_000)
    jobs: dict[str, Callable[[], Any]] = {
        "softmaxnet": lambda: _encode(frame, None),
        "softmaxnet, no bins": lambda: _encode(frame, 0),
        "scikit-learn": lambda: _column_transformer(frame).fit_transform(frame),
    }
    for job in jobs.values():
        job()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(max(args.repeats, 3)):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - started)
    found = {name: statistics.median(times) for name, times in seconds.items()}
    reached = found["softmaxnet"] < found["scikit-learn"]
    return [{"part": "encode", "n_rows": len(frame), "n_columns": frame.shape[1], "seconds": found, "reached": reached}]


def _mixed_frame(n_rows: int) -> Any:
    """Return 30 numbers, a third with missing values, 15 columns of words and 5 of whole numbers."""
    import pandas as pd

    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    for j in range(30):
        values = np.exp(rng.normal(size=n_rows)) if j % 2 else rng.normal(size=n_rows)
        columns[f"x{j}"] = np.where(rng.random(n_rows) < 0.1, np.nan, values) if j % 3 == 0 else values
    for j in range(15):
        levels = np.array([f"level {i}" for i in range(4 + 4 * j)], dtype=object)
        columns[f"c{j}"] = levels[rng.integers(0, len(levels), n_rows)]
    for j in range(5):
        columns[f"n{j}"] = rng.poisson(3 + 10 * j, n_rows)
    return pd.DataFrame(columns)


def _encode(frame: Any, n_bins: int | None) -> Any:
    from softmaxnet.data.frames import as_input
    from softmaxnet.features import FeatureEncoder

    table = as_input(frame)
    return FeatureEncoder.fit(table, n_bins=n_bins).transform(table)


def _column_transformer(frame: Any) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, RobustScaler

    words = [name for name in frame.columns if name.startswith("c")]
    numbers = [name for name in frame.columns if name not in words]
    scaled = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), RobustScaler())
    one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=10)
    return ColumnTransformer([("numbers", scaled, numbers), ("words", one_hot, words)])


# --- what comes out ---------------------------------------------------------------------------------------------


def in_words(line: dict[str, Any]) -> str:
    """Return a line of results as a row of a table."""
    goal = "reached" if line["reached"] else "NOT reached"
    if line["part"] == "memory":
        options = " ".join(line["options"])
        what = f"{line['file_bytes'] / 1e9:.2f} GB of {line['file']}, {line['n_rows']:,} rows, `{options}`"
        got = (
            f"peak {line['peak_bytes'] / 2**20:,.0f} MiB (stated {line['stated_bytes'] / 2**20:,.0f}); "
            f"{line['wall_seconds']:,.0f} s in all, {line['training_seconds']:,.0f} s of training, "
            f"{line['rows_a_second']:,.0f} rows/s"
        )
        return f"| {what} | at most 1,024 MiB | {got} | {goal} |"
    if line["part"] == "linear":
        times = ", ".join(f"{n:,} rows {t:.1f} s" for n, t in zip(line["n_rows"], line["epoch_seconds"], strict=True))
        ratios = " : ".join(f"{ratio:.2f}" for ratio in line["seconds_a_row_ratio"])
        return f"| an epoch: {times} | seconds a row alike within 15 % | {ratios} | {goal} |"
    if line["part"] == "rate":
        got = f"{line['streamed']:,.0f} of {line['in_memory']:,.0f} rows/s = {line['share']:.0%}"
        return f"| {line['n_rows']:,} rows of Parquet, streamed against in memory | at least 70 % | {got} | {goal} |"
    got = ", ".join(f"{name} {t:.2f} s" for name, t in line["seconds"].items())
    what = f"encoding {line['n_rows']:,} x {line['n_columns']} mixed columns, fit and transform"
    return f"| {what} | less time than ColumnTransformer | {got} | {goal} |"


def main() -> None:
    """Measure what is asked for, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--gb", type=float, default=4.0, help="size of the CSV file of the part memory")
    parser.add_argument("--suffix", default="csv,parquet", help="kinds of files of the part memory")
    parser.add_argument("--rows", type=int, default=250_000, help="rows of the parts linear and rate")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--option", action="append", default=[], help="further option of fit, such as --option=--n-members=1"
    )
    parser.add_argument("--folder", type=Path, help="where the tables are written; a temporary folder by default")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "streaming.json")
    args = parser.parse_args()
    measure = {"memory": memory, "linear": linear, "rate": rate, "encode": encode}
    known = json.loads(args.output.read_text()) if args.output.exists() else {"lines": []}
    lines = known["lines"]
    for part in args.parts.split(","):
        with tempfile.TemporaryDirectory(prefix="softmaxnet-", dir=args.folder) as folder:
            made = measure[part](args, Path(folder))
        lines = [
            line for line in lines if line["part"] != part or line.get("file") not in {m.get("file") for m in made}
        ]
        lines += made
        for line in made:
            print(in_words(line), flush=True)
        lines.sort(key=lambda line: PARTS.index(line["part"]))
        machine = describe_machine()
        args.output.write_text(json.dumps({"machine": machine, "lines": lines}, indent=1) + "\n")
        head = "# Streaming\n\nWritten by `benchmarks/streaming.py`. Measured on: " + describe_in_words(machine)
        table = "| what | goal | measured | |\n|---|---|---|---|\n" + "\n".join(map(in_words, lines))
        args.output.with_suffix(".md").write_text(f"{head}\n\n{table}\n")


if __name__ == "__main__":
    main()
