"""Requests a second and 99th percentiles of one worker: softmaxnet beside bare FastAPI and MLServer, in one run.

``python benchmarks/serving.py``; see ``benchmarks/README.md``. Every server runs all the time; they are asked in turns,
so that what the machine does besides meets all of them. A peer that is not installed is reported as absent.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import load
from machine import describe_in_words, describe_machine, thread_environment

HERE = Path(__file__).resolve().parent
ROW = [5.1, 3.5, 1.4, 0.2]
SLOW_CLIENTS = 100

APPLICATION = """
import pickle
from pathlib import Path

from fastapi import FastAPI
from pydantic import BaseModel

classifier = pickle.loads(Path({path!r}).read_bytes())
app = FastAPI()


class Rows(BaseModel):
    rows: list[list[float]]


@app.post("/predict")
{kind} predict(request: Rows):
    return {{"probabilities": classifier.predict_proba(request.rows).tolist()}}
"""
MLSERVER = {
    "name": "iris",
    "implementation": "mlserver_sklearn.SKLearnModel",
    "parameters": {"uri": "./model.joblib", "version": "v1"},
}


@dataclass
class Server:
    """A server under test and the request that it is asked."""

    name: str
    command: list[str]
    port: int
    request: bytes
    process_id: int = 0


def models(folder: Path) -> None:
    """Write the models: the same network of 100 units for all, and softmax regression of a data frame."""
    import pickle

    from sklearn.datasets import load_iris
    from sklearn.neural_network import MLPClassifier

    from softmaxnet.estimator import SoftmaxClassifier

    iris = load_iris(as_frame=True)
    X, y = iris.data.to_numpy(), iris.target.to_numpy()
    (folder / "mlp.pickle").write_bytes(pickle.dumps(MLPClassifier(max_iter=500, random_state=0).fit(X, y)))
    SoftmaxClassifier((100,), "relu", n_members=1, random_state=0).fit(X, y).save(folder / "network.safetensors")
    frame = iris.data.rename(columns=lambda name: name.removesuffix(" (cm)"))
    SoftmaxClassifier(random_state=0).fit(frame, iris.target_names[y]).save(folder / "table.safetensors")


def servers(folder: Path) -> list[Server]:
    """Return ours and those peers that are installed."""
    matrix = json.dumps({"rows": [ROW]}).encode()
    names = ("sepal length", "sepal width", "petal length", "petal width")
    table = json.dumps({"rows": [dict(zip(names, ROW, strict=True))]}).encode()
    tensor = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 4], "data": ROW}]}
    infer = json.dumps(tensor).encode()
    ours, table_port = load.free_port(), load.free_port()
    found = [
        Server(
            "softmaxnet /predict",
            load.softmaxnet(str(folder / "network.safetensors"), ours),
            ours,
            load.request_bytes("/predict", matrix),
        ),
        Server("softmaxnet /v2", [], ours, load.request_bytes("/v2/models/network/infer", infer)),
        Server(
            "softmaxnet, named columns",
            load.softmaxnet(str(folder / "table.safetensors"), table_port),
            table_port,
            load.request_bytes("/predict", table),
        ),
    ]
    for kind in ("def", "async def"):
        port = load.free_port()
        module = f"bare_{kind.replace(' ', '_')}"
        (folder / f"{module}.py").write_text(APPLICATION.format(path=str(folder / "mlp.pickle"), kind=kind))
        command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", str(port), "--no-access-log"]
        found.append(
            Server(
                f"FastAPI, {kind}", [*command, "--app-dir", str(folder)], port, load.request_bytes("/predict", matrix)
            )
        )
    if importlib.util.find_spec("mlserver_sklearn") is not None:
        found.append(mlserver(folder, infer))
    return found


def mlserver(folder: Path, infer: bytes) -> Server:
    """Return MLServer with its scikit-learn runtime, its inference in its own process as ours is."""
    import joblib

    home = folder / "mlserver"
    home.mkdir()
    port = load.free_port()
    joblib.dump(__import__("pickle").loads((folder / "mlp.pickle").read_bytes()), home / "model.joblib")
    (home / "model-settings.json").write_text(json.dumps(MLSERVER))
    settings = {
        "http_port": port,
        "host": load.HOST,
        "grpc_port": load.free_port(),
        "metrics_port": load.free_port(),
        "parallel_workers": 0,
        "debug": False,
    }
    (home / "settings.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "mlserver.cli.main", "start", str(home)]
    request = json.loads(infer)
    request["outputs"] = [{"name": "predict_proba"}]
    return Server("MLServer", command, port, load.request_bytes("/v2/models/iris/infer", json.dumps(request).encode()))


def measure(found: list[Server], rounds: int, seconds: float, connections: int) -> dict[str, Any]:
    """Ask every server in turns; return the rounds and their medians."""
    figures: dict[str, Any] = {server.name: {"rounds": []} for server in found}
    for _ in range(rounds):
        for server in found:
            before = load.processor_seconds(server.process_id)
            found_here = load.run(
                load.closed_loop(server.port, server.request, connections=connections, seconds=seconds)
            )
            taken = load.processor_seconds(server.process_id) - before
            run = found_here.figures() | {"cpu_us": round(taken / max(1, len(found_here.seconds)) * 1e6, 1)}
            figures[server.name]["rounds"].append(run)
    for of_server in figures.values():
        for name in ("requests_per_second", "p50_ms", "p99_ms", "cpu_us"):
            values = [run[name] for run in of_server["rounds"] if run[name] is not None]
            of_server[name] = round(statistics.median(values), 3) if values else None
    return figures


async def beside_slow_bodies(server: Server, seconds: float, clients: int) -> dict[str, Any]:
    """Return the figures of a few good clients while others send the bodies of their requests byte by byte."""
    import asyncio

    head = (
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{"
    )
    slow = asyncio.create_task(load.trickle(server.port, head, clients=clients, every=0.5, seconds=seconds + 1))
    await asyncio.sleep(0.5)
    good = await load.closed_loop(server.port, server.request, connections=4, seconds=seconds, pause=0.005)
    return good.figures() | {"slow": await slow}


def slow_bodies(server: Server, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure good clients with and without slow ones beside them, in turns."""
    alone, beside = [], []
    for _ in range(rounds):
        run = load.closed_loop(server.port, server.request, connections=4, seconds=seconds, pause=0.005)
        alone.append(load.run(run).figures())
        beside.append(load.run(beside_slow_bodies(server, seconds, SLOW_CLIENTS)))
    p99 = [statistics.median(run["p99_ms"] for run in runs) for runs in (alone, beside)]
    return {"alone": alone, "beside": beside, "p99_ms": p99, "ratio": round(p99[1] / p99[0], 3)}


def as_markdown(figures: dict[str, Any]) -> str:
    """Return the tables."""
    lines = [
        "# Serving: one worker, one row a request",
        "",
        f"{figures['connections']} connections that ask again as soon as they have their answer; "
        f"{figures['rounds']} rounds of {figures['seconds']:g} s, all servers in turns; medians of the rounds.",
        "",
        "| server | requests/s | p50 [ms] | p99 [ms] | processor time of a request [us] | against the quickest peer |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    best = figures["best_peer"]
    for name, of_server in figures["servers"].items():
        speed = of_server["requests_per_second"] or 0.0
        ratio = f"{speed / best:.2f} x" if name.startswith("softmaxnet") else ""
        cells = [name, f"{speed:,.0f}", of_server["p50_ms"], of_server["p99_ms"], of_server["cpu_us"], ratio]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    slow = figures["slow_bodies"]
    lines += [
        "",
        f"To reach: at least 2 x. Absent peers: {', '.join(figures['absent']) or 'none'}.",
        "",
        f"## Beside {SLOW_CLIENTS} clients with slow bodies",
        "",
        "Four good clients that pause for 5 ms between two requests, 99th percentile [ms]: "
        f"alone {slow['p99_ms'][0]}, beside them {slow['p99_ms'][1]}: {slow['ratio']} x (to reach: under 2 x).",
        "",
        describe_in_words(figures["machine"]),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "serving")
    args = parser.parse_args()
    environment = thread_environment(1)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        models(folder)
        found = servers(folder)
        for server in found:
            if server.command:
                process = stack.enter_context(load.running(server.command, server.port, environment=environment))
            server.process_id = process.pid
        figures: dict[str, Any] = {
            "rounds": args.rounds,
            "seconds": args.seconds,
            "connections": args.connections,
            "servers": measure(found, args.rounds, args.seconds, args.connections),
            "slow_bodies": slow_bodies(found[0], max(2, args.rounds // 2), args.seconds),
            "absent": [] if found[-1].name == "MLServer" else ["MLServer"],
            "machine": describe_machine(),
        }
    peers = [of for server, of in figures["servers"].items() if not server.startswith("softmaxnet")]
    figures["best_peer"] = max(of["requests_per_second"] for of in peers)
    load.write_results(args.output, figures, as_markdown(figures))
    print(as_markdown(figures))


if __name__ == "__main__":
    main()
