"""Several processes against one: the loss, the bytes of a step, and 2 to 64 simulated ranks.

::

    python benchmarks/distributed.py            # about two minutes on two cores; writes results/distributed.{json,md}

1. Two real processes over gloo train 100 steps in float64 on a table, and on a table with a sparse block (text). The
   loss is compared with one process; the bytes that the kernel has sent over the sockets of a process (TCP_INFO) with
   the formula of ``softmaxnet.data_parallel.step_bytes``, which for a sparse block is applied to the rows of its table
   that were touched, step by step.
2. The same code on simulated ranks: threads that pass messages around a ring and count them (tests/simulated_ranks.py).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

N_STEPS = 100
N_CLASSES = 2000
RANKS = (2, 3, 4, 8, 16, 32, 64)
TCP_INFO, BYTES_SENT = 11, 200
"""Of Linux: the option of a socket, and the place of a number in what it returns."""


def rows_of(kind: str, n_rows: int) -> Any:
    """Return random rows of 10 classes: dense ones, or dense ones and a sparse block."""
    import numpy as np
    import scipy.sparse
    import torch

    from softmaxnet.batches import Rows

    rng = np.random.default_rng(0)
    labels = rng.integers(0, N_CLASSES if kind == "classes" else 10, n_rows)
    dense = rng.normal(size=(n_rows, 30)) + np.eye(10, 30)[labels % 10]
    sparse = None
    if kind == "sparse":
        sparse = scipy.sparse.random_array((n_rows, 5000), density=0.004, format="csr", rng=rng)
        sparse.indices = sparse.indices.astype(np.int32)
    weight = rng.uniform(0.5, 2, n_rows)
    return Rows(
        dense=torch.from_numpy(dense),
        target=torch.from_numpy(labels),
        weight=torch.from_numpy(weight / weight.mean()),
        sparse=sparse,
    )


def network_of(kind: str, widths: tuple[int, ...], rows: Any) -> Any:
    """Return the parameters of a network; of the kind "classes" it has 2,000 of them, updated in tiles."""
    import numpy as np
    import torch

    from softmaxnet.head_plan import HeadPlan
    from softmaxnet.network import NetworkSpec
    from softmaxnet.parameters import Parameters, scaled_spec

    spec = NetworkSpec(
        n_dense=30,
        n_sparse=0 if rows.sparse is None else rows.sparse.shape[1],
        n_classes=N_CLASSES if kind == "classes" else 10,
        hidden_layer_sizes=widths,
        activation="relu",
    )
    head = HeadPlan("classes", len(rows), 512, 0) if kind == "classes" else None
    parameters = Parameters(scaled_spec(spec, "ntk"), dtype=torch.float64, head=head)
    parameters.initialise(np.random.default_rng(1), zero_head=False)
    return parameters


def train(communicator: Any, kind: str, widths: tuple[int, ...], batch_size: int, n_steps: int) -> dict[str, Any]:
    """Train in float64 with dropout and return the loss of the last epoch, and the bytes sent in it."""
    import torch

    from softmaxnet.training import Schedule
    from softmaxnet.training import train as train_network

    torch.set_num_threads(1)
    rows = rows_of(kind, batch_size * n_steps // 2)
    parameters = network_of(kind, widths, rows)
    marks: list[tuple[int, float]] = []

    def on_epoch(line: dict[str, float]) -> None:
        of_steps = communicator.sent["all_reduce"] + communicator.sent["all_gather"]
        marks.append((kernel_bytes(), of_steps))

    result = train_network(
        parameters,
        rows,
        Schedule(0.003, batch_size, 2, dropout=0.2),
        seed=5,
        on_epoch=on_epoch,
        communicator=communicator,
    )
    kernel, counted = (after - before for before, after in zip(*marks, strict=True))
    return {
        "losses": [line["loss"] for line in result.history],
        "kernel_bytes": kernel / (n_steps // 2),
        "counted_bytes": counted / (n_steps // 2),
        "n_parameters": parameters.flat.numel(),
    }


def kernel_bytes() -> int:
    """Return the bytes that this process has sent over its TCP connections, by the kernel's own account."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as sock:
                info = sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 256)
        except OSError:  # closed meanwhile, or not of TCP
            continue
        total += struct.unpack_from("Q", info, BYTES_SENT)[0]
    return total


def in_worker(kind: str, widths: tuple[int, ...], batch_size: int) -> list[dict[str, Any]]:
    """Train in one of two processes and return what both have measured."""
    from softmaxnet.processes import joined

    with joined() as communicator:
        return communicator.gather_json(train(communicator, kind, widths, batch_size, N_STEPS))


def two_processes(kind: str, widths: tuple[int, ...]) -> dict[str, Any]:
    """Compare two processes with one."""
    from softmaxnet.communicator import Alone
    from softmaxnet.data_parallel import step_bytes
    from softmaxnet.processes import run

    one = train(Alone(), kind, widths, 128, N_STEPS)
    both = run(2, in_worker, kind, widths, 128)
    formula = both[0]["counted_bytes"] if kind == "sparse" else step_bytes(one["n_parameters"], 2, itemsize=8)
    measured = sum(found["kernel_bytes"] for found in both) / 2
    return {
        "kind": kind,
        "parameters": one["n_parameters"],
        "loss_of_one": one["losses"][-1],
        "relative_difference": max(abs(found["losses"][-1] / one["losses"][-1] - 1) for found in both),
        "formula_bytes": formula,
        "kernel_bytes": measured,
        "kernel_over_formula": measured / formula,
    }


def simulated(kind: str, size: int) -> dict[str, Any]:
    """Compare simulated ranks with one process."""
    from simulated_ranks import on_ranks
    from softmaxnet.communicator import Alone
    from softmaxnet.data_parallel import step_bytes
    from softmaxnet.head_shards import shard_bytes

    one = train(Alone(), kind, (32,), 256, 8)
    many = on_ranks(size, lambda rank: train(rank, kind, (32,), 256, 8))
    spread = kind == "classes"
    formula = step_bytes(one["n_parameters"] - 33 * N_CLASSES * spread, size, itemsize=8)
    formula += shard_bytes(256, 32, size, itemsize=8) * spread
    counted = sum(found["counted_bytes"] for found in many) / size
    return {
        "kind": kind,
        "ranks": size,
        "relative_difference": max(abs(found["losses"][-1] / one["losses"][-1] - 1) for found in many),
        "formula_bytes": formula,
        "counted_bytes": counted,
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the tables."""
    lines = [
        "# Several processes against one",
        "",
        found["machine"],
        "",
        f"## Two processes over gloo, {N_STEPS} steps in float64",
        "",
        "| rows | parameters | loss of one process | relative difference | bytes a step: formula | kernel | ratio |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {line['kind']} | {line['parameters']:,} | {line['loss_of_one']:.6f} | {line['relative_difference']:.1e} "
        f"| {line['formula_bytes']:,.0f} | {line['kernel_bytes']:,.0f} | {line['kernel_over_formula']:.4f} |"
        for line in found["two_processes"]
    ]
    lines += [
        "",
        "What the kernel has sent beyond the formula is the frames of gloo and the line of each epoch.",
        "",
        "## Simulated ranks",
        "",
        f"Of the kind \"classes\" the network has {N_CLASSES:,} classes, which are spread over the ranks. "
        "Where 256 rows do not divide evenly, each rank sends as many as the one that has most.",
        "",
        "| rows | ranks | relative difference of the loss | bytes a step and rank: formula | counted |",
        "|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {line['kind']} | {line['ranks']} | {line['relative_difference']:.1e} | {line['formula_bytes']:,.1f} "
        f"| {line['counted_bytes']:,.1f} |"
        for line in found["simulated"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    from machine import describe_in_words, describe_machine

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "distributed.json")
    parser.add_argument("--ranks", type=int, nargs="*", default=RANKS, help="how many to simulate")
    args = parser.parse_args()
    found = {
        "machine": describe_in_words(describe_machine()),
        "two_processes": [two_processes(kind, widths) for kind, widths in (("dense", (256, 256)), ("sparse", (64,)))],
        "simulated": [simulated(kind, size) for kind in ("dense", "classes") for size in args.ranks],
    }
    args.output.write_text(json.dumps(found, indent=2) + "\n")
    args.output.with_suffix(".md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
