"""kill -9 of one of two processes at random moments: is there a clear error, does the fit go on, does nothing hang?

::

    python benchmarks/kill_workers.py                    # 20 kills, some minutes; writes results/kill_workers.{json,md}

Half of the fits are started by ``softmaxnet fit --processes 2``, and a process is killed at any moment of its life,
its imports included. The other half are two processes that find each other by environment variables, as two machines
without a launcher would, and one is killed at any moment after both have come. Each fit is then gone on with in one,
two or three processes, and must end with the loss of a fit that was never killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIMIT_SECONDS = 60.0
SETTINGS = (
    "--target y --seed 0 --precision float64 --hidden-layer-sizes 32 --dropout 0.1 --max-epochs 40 "
    "--n-iter-no-change 40 --batch-size 256 --jobs 1 --json --force"
)


def write_rows(path: Path, n_rows: int = 6000) -> None:
    """Write rows of five overlapping classes."""
    import numpy as np

    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, n_rows)
    X = rng.normal(size=(n_rows, 8)) + np.eye(5, 8)[y]
    np.savetxt(path, np.c_[X, y], delimiter=",", header="a,b,c,d,e,f,g,h,y", comments="", fmt="%.6g")


def command(folder: Path, *more: str) -> list[str]:
    """Return the command of a fit."""
    files = [str(folder / "rows.csv"), "-o", str(folder / "m.safetensors")]
    return [sys.executable, "-m", "softmaxnet", "fit", *files, *SETTINGS.split(), *more]


def alone(folder: Path, *more: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Fit to the end and return how that went and how long it took [s]."""
    started = time.monotonic()
    done = subprocess.run(
        command(folder, *more), capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return done, time.monotonic() - started


class Fit:
    """Two processes of a fit, with a launcher or without, whose messages go to files."""

    def __init__(self, folder: Path, launcher: bool) -> None:
        self.logs = [(folder / f"log{i}.txt").open("w+") for i in range(1 if launcher else 2)]
        self.started = time.monotonic()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        if launcher:
            commands = [(command(folder, "--processes", "2"), environment)]
        else:
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))
                port = str(sock.getsockname()[1])
            common = environment | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            commands = [(command(folder), common | {"RANK": str(rank)}) for rank in range(2)]
        self.processes = [
            subprocess.Popen(arguments, env=more, stderr=log, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            for (arguments, more), log in zip(commands, self.logs, strict=True)
        ]

    def messages(self, which: int) -> str:
        """Return what a process has said so far."""
        log = self.logs[which]
        log.flush()
        return Path(log.name).read_text()

    def workers(self) -> list[int]:
        """Return the numbers of the two processes that train: of a launcher, its children that were spawned."""
        if len(self.processes) == 2:
            return [process.pid for process in self.processes]
        pid = self.processes[0].pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return []
        found = []
        for child in map(int, children):
            try:
                line = Path(f"/proc/{child}/cmdline").read_bytes()
            except OSError:
                continue
            if b"spawn_main" in line:
                found.append(child)
        return found

    def wait(self, seconds: float) -> list[int | None]:
        """Return the exit codes within some seconds; None for a process that hangs, which is then ended."""
        deadline = time.monotonic() + seconds
        codes: list[int | None] = []
        for process in self.processes:
            try:
                codes.append(process.wait(max(deadline - time.monotonic(), 0.01)))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(None)
        return codes


def one_kill(folder: Path, launcher: bool, moment: float, rank: int) -> dict[str, Any] | None:
    """Kill one process so many seconds after both have started, or have come; None where the fit was over before."""
    fit = Fit(folder, launcher)
    while len(fit.workers()) < 2 or (not launcher and "rows of" not in fit.messages(0)):
        if fit.processes[0].poll() is not None:
            return None
        time.sleep(0.02)
    time.sleep(moment)
    workers = fit.workers()
    if len(workers) < 2 or any(process.poll() is not None for process in fit.processes):
        fit.wait(LIMIT_SECONDS)
        return None
    os.kill(workers[rank], signal.SIGKILL)
    killed_at = time.monotonic()
    codes = fit.wait(LIMIT_SECONDS)
    seconds = time.monotonic() - killed_at
    survivor = 0 if launcher else 1 - rank
    if codes[survivor] == 0:  # it was over: what was killed had nothing left to do
        return None
    text = fit.messages(survivor).strip().splitlines()
    errors = [line for line in text if line.startswith("softmaxnet: error:")]
    return {
        "launcher": launcher,
        "killed": rank,
        "after_seconds": round(killed_at - fit.started, 2),
        "seconds_to_end": round(seconds, 2),
        "exit_code": codes[survivor],
        "error": errors[-1] if errors else "",
        "is_clear": codes[survivor] == 6 and bool(errors) and ("was lost" in errors[-1] or "was killed" in errors[-1]),
        "hangs": None in codes,
    }


def goes_on(folder: Path, n_processes: int, expected: float) -> dict[str, Any]:
    """Go on with a fit and compare its held-out loss with that of one that was never killed."""
    done, _ = alone(folder, "--resume", "--processes", str(n_processes))
    epochs = next((line for line in done.stderr.splitlines() if "going on after epoch" in line), "from the beginning")
    loss = json.loads(done.stdout)["log_loss"] if done.returncode == 0 else float("nan")
    return {
        "resumed_on": n_processes,
        "resumed": epochs.strip(),
        "relative_difference": abs(loss / expected - 1),
        "is_same": abs(loss / expected - 1) < 1e-6,
        "resume_error": "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "kill_workers.json")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.csv")
        never, _ = alone(folder)
        expected = json.loads(never.stdout)["log_loss"]
        _, duration = alone(folder, "--processes", "2")
        training = json.loads(never.stdout)["seconds"]
        print(f"never killed: held-out log loss {expected:.9f}; two processes take {duration:.1f} s")
        while len(found) < args.times:
            launcher, rank = len(found) % 2 == 0, draw.randrange(2)
            killed = one_kill(folder, launcher, draw.uniform(0, duration if launcher else training), rank)
            if killed is None:  # too late: other work on the machine may have slowed the fits that were measured
                duration, training = 0.9 * duration, 0.9 * training
                continue
            killed |= goes_on(folder, draw.choice([1, 2, 3]), expected)
            found.append(killed)
            print(json.dumps(killed), flush=True)
            write(args.output, found)
    print(json.dumps(write(args.output, found)))


def write(path: Path, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Write down what there is so far, and return the sums."""
    summary = {
        "kills": len(found),
        "clear_errors": sum(kill["is_clear"] for kill in found),
        "successful_resumes": sum(kill["is_same"] for kill in found),
        "hangs": sum(kill["hangs"] for kill in found),
        "longest_seconds_to_end": max(kill["seconds_to_end"] for kill in found),
    }
    path.write_text(json.dumps({"summary": summary, "kills": found}, indent=2) + "\n")
    path.with_suffix(".md").write_text(markdown(summary, found))
    return summary


def markdown(summary: dict[str, Any], found: list[dict[str, Any]]) -> str:
    """Return the table."""
    lines = [
        "# kill -9 of one of two processes",
        "",
        f"{summary['kills']} kills: {summary['clear_errors']} clear errors, {summary['successful_resumes']} successful "
        f"resumes, {summary['hangs']} hangs; the longest end took {summary['longest_seconds_to_end']} s.",
        "",
        "| started by | killed | after [s] | ended after [s] | exit code | gone on in | from | change of the loss |",
        "|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    lines += [
        f"| {'--processes 2' if kill['launcher'] else 'environment'} | {kill['killed']} | {kill['after_seconds']} "
        f"| {kill['seconds_to_end']} | {kill['exit_code']} | {kill['resumed_on']} | {kill['resumed']} "
        f"| {kill['relative_difference']:.1e} |"
        for kill in found
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
