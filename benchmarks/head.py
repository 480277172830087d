"""Time and memory of the output layer with very many classes, beside PyTorch's own ways, in one run.

``python benchmarks/head.py [--classes 200000] [--rows 1024] [--width 256] [--repeats 3] [--slow]``

Each way runs in a process of its own. Memory is the operating system's: the highest resident size of the process
during steps (VmHWM, reset before them) less its resident size before the first, with weights, optimizer state and rows
in place and every library warm. Time is CPU time of one step, the least of all repeats; ways take turns.
``--part NAME`` runs one of them and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_in_words, describe_machine

HERE = Path(__file__).resolve().parent
CHUNKS = (128, 256, 512)
MEGABYTE = 1e6


def status_bytes(name: str) -> int:
    """Return a number of /proc/self/status in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measured(step: Callable[[], float], repeats: int) -> dict[str, float]:
    """Return CPU seconds, wall seconds and added megabytes of a step, and what it returned last."""
    before = status_bytes("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts again from here
    cpu, wall, result = [], [], 0.0
    for _ in range(repeats):
        started = time.process_time(), time.perf_counter()
        result = step()
        cpu.append(time.process_time() - started[0])
        wall.append(time.perf_counter() - started[1])
    added = (status_bytes("VmHWM:") - before) / MEGABYTE
    return {"cpu_s": min(cpu), "wall_s": min(wall), "added_mb": added, "result": result}


class Problem:
    """A batch and an output layer, drawn from a seed, with a row of weights for each class."""

    def __init__(self, rows: int, width: int, classes: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(rows, width, generator=generator)
        self.weight = torch.randn(classes, width, generator=generator).mul_(width**-0.5)
        self.bias = torch.randn(classes, generator=generator).mul_(0.1)
        self.target = torch.randint(classes, (rows,), generator=generator)
        self.row_weight = torch.full((rows,), 1 / rows)
        a = torch.randn(512, 512)
        for _ in range(3):  # the product library makes its buffers at the first call
            torch.softmax(a @ a.T, 1)
            torch.addmm(a[0], self.x, self.weight[:512].T)


def dense_step(problem: Problem, loss_of: Callable[..., Any]) -> Callable[[], float]:
    """Return a step of automatic differentiation."""
    leaves = [tensor.requires_grad_() for tensor in (problem.x, problem.weight, problem.bias)]

    def step() -> float:
        for leaf in leaves:
            leaf.grad = None
        loss = loss_of(*leaves, problem.target)
        loss.backward()
        return float(loss.item())

    return step


def cross_entropy(x: Any, weight: Any, bias: Any, target: Any) -> Any:
    """Return the loss as everyone writes it."""
    import torch

    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, weight, bias), target)


def linear_cross_entropy(**options: Any) -> Callable[..., Any]:
    """Return PyTorch's fused loss with some options."""
    import torch

    chosen = torch.nn.LinearCrossEntropyOptions(**options)

    def loss_of(x: Any, weight: Any, bias: Any, target: Any) -> Any:
        return torch.nn.functional.linear_cross_entropy(x, weight, target, linear_bias=bias, options=chosen)

    return loss_of


def our_step(problem: Problem, kind: str) -> Callable[[], float]:
    """Return a step of ``head_pass``: chunks of rows, or tiles of classes with Adam's update fused into each."""
    import torch

    from softmaxnet.head_pass import HeadPass
    from softmaxnet.head_plan import plan_head

    rows, width = problem.x.shape
    budget = {"rows": 512 * 2**20, "classes": 64 * 2**20}[kind]
    plan = plan_head(rows, width, len(problem.weight), budget=budget)
    assert plan.kind == kind, plan
    weight, bias = problem.weight.unsqueeze(0), problem.bias.unsqueeze(0)
    moments = [torch.zeros_like(tensor).add_(0.0) for tensor in (problem.weight, problem.bias) for _ in range(2)]
    count = torch.ones(())

    def update(_: int, start: int, stop: int, d_weight: Any, d_bias: Any) -> None:
        part = slice(start, stop)
        torch._fused_adam_(
            [problem.weight[part], problem.bias[part]],
            [d_weight, d_bias],
            [moments[0][part], moments[2][part]],
            [moments[1][part], moments[3][part]],
            [],
            [count, count],
            lr=1e-6,
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    made: list[Any] = []

    def step() -> float:
        if not made:  # what a step needs is made within it, to be counted
            gradient = (torch.empty_like(weight), torch.empty_like(bias)) if kind == "rows" else None
            made.append((HeadPass(weight, bias, plan, gradient=gradient), torch.empty_like(problem.x).unsqueeze(0)))
        head, d_x = made[0]
        return float(head(problem.x.unsqueeze(0), problem.target, problem.row_weight, d_x, update).item())

    return step


def top_step(rows: int, width: int, classes: int, *, dense: bool) -> Callable[[], float]:
    """Return the prediction of the 5 most probable classes of some rows."""
    import softmaxnet.model as models
    from softmaxnet.calibration import Calibration
    from softmaxnet.features.encoder import FeatureEncoder
    from softmaxnet.model import SoftmaxModel, top_classes
    from softmaxnet.network import NetworkSpec

    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, width), dtype=np.float32)
    weight = rng.standard_normal((1, width, classes), dtype=np.float32)
    params = {"layers.0.weight": weight, "layers.0.bias": np.zeros((1, classes), np.float32)}
    encoder = FeatureEncoder.fit(X, features="raw")
    model = SoftmaxModel(encoder, NetworkSpec(width, 0, classes), params, Calibration(), np.arange(classes))
    model.predict_topk(X[:1], 5)

    def step() -> float:
        if not dense:
            return float(model.predict_topk(X, 5)[1].sum())
        return float(top_classes(X @ weight[0], 5)[1].sum())

    assert classes > models.MOST_WHOLE_CLASSES
    return step


def run_part(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Measure one way in this process."""
    sizes = (args.rows, args.width, args.classes)
    if name.startswith("top"):
        return measured(top_step(256, 128, 1_000_000, dense=name == "top-dense"), args.repeats)
    if name == "million":
        return measured(our_step(Problem(256, 128, 1_000_000), "classes"), args.repeats)
    problem = Problem(*sizes)
    if name in ("rows", "classes"):
        return measured(our_step(problem, name), args.repeats)
    losses: dict[str, Callable[[], Callable[..., Any]]] = {
        "dense": lambda: cross_entropy,
        "torch-default": linear_cross_entropy,
        **{f"torch-{n}": lambda n=n: linear_cross_entropy(batch_chunk_size=n) for n in CHUNKS},
    }
    return measured(dense_step(problem, losses[name]()), 1 if name == "torch-default" else args.repeats)


def run_apart(name: str, args: argparse.Namespace) -> dict[str, float]:
    """Measure one way in a process of its own."""
    sizes = [f"--{key}={getattr(args, key)}" for key in ("rows", "width", "classes", "repeats")]
    command = [sys.executable, str(HERE / "head.py"), "--part", name, *sizes]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Run every way in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--classes", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=2, help="steps in each process")
    parser.add_argument("--turns", type=int, default=2, help="processes of each way")
    parser.add_argument("--slow", action="store_true", help="with PyTorch's default options, which take minutes")
    parser.add_argument("--only", default="", help="names of ways, with commas")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--out", type=Path, help="write the results as JSON")
    args = parser.parse_args()
    if args.part:
        print(json.dumps(run_part(args.part, args)))
        return
    names = ["dense", *(f"torch-{n}" for n in CHUNKS), "rows", "classes", "million", "top-dense", "top"]
    names += ["torch-default"] if args.slow else []
    if args.only:
        names = args.only.split(",")
    found: dict[str, dict[str, float]] = {}
    for turn in range(args.turns):
        for name in names:
            if turn and name == "torch-default":
                continue
            result = run_apart(name, args)
            best = found.setdefault(name, result)
            found[name] = {key: min(best[key], result[key]) for key in result}
    machine = describe_machine()
    print(describe_in_words(machine))
    print(f"{'way':14} {'CPU s':>8} {'wall s':>8} {'added MB':>9} {'result':>12}")
    for name, result in found.items():
        print("{:14} {cpu_s:8.2f} {wall_s:8.2f} {added_mb:9.0f} {result:12.6f}".format(name, **result))
    if args.out:
        args.out.write_text(json.dumps({"machine": machine, "results": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
