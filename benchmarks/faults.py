"""What a server does under attack, overload and loss: the rows S1 to S6 in full, each with its figures.

``python benchmarks/faults.py``; see ``benchmarks/README.md``. Every part starts a server of its own on the loopback
address, sends what is wrong, and says what came back. ``--parts S1,S4`` runs some; ``--short`` a tenth of the amounts.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import load
import numpy as np
from machine import describe_in_words, describe_machine, thread_environment

HERE = Path(__file__).resolve().parent
ENVIRONMENT = thread_environment(1)
ROWS = json.dumps({"rows": [[5.1, 3.5, 1.4, 0.2]]}).encode()
GOOD = load.request_bytes("/predict", ROWS)
HEAD = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n"
TOKEN = "a-token-of-the-benchmark-0123456789"
MIB = 2**20


def model(folder: Path) -> Path:
    """Write a model of iris."""
    from sklearn.datasets import load_iris

    from softmaxnet.estimator import SoftmaxClassifier

    path = folder / "iris.safetensors"
    SoftmaxClassifier(random_state=0).fit(*load_iris(return_X_y=True)).save(path)
    return path


def slow_model(folder: Path) -> Path:
    """Write a model that takes milliseconds for a request of some rows: two layers of 1,000 units, not fitted."""
    from softmaxnet import SoftmaxModel, save_model
    from softmaxnet.calibration import Calibration
    from softmaxnet.features.encoder import FeatureEncoder
    from softmaxnet.network import NetworkSpec, parameter_shapes

    rng = np.random.default_rng(0)
    spec = NetworkSpec(4, 0, 3, (1000, 1000), "relu")
    params = {name: (rng.normal(size=s) / 30).astype(np.float32) for name, s in parameter_shapes(spec).items()}
    encoder = FeatureEncoder.fit(rng.normal(size=(50, 4)))
    path = folder / "slow.safetensors"
    save_model(SoftmaxModel(encoder, spec, params, Calibration(), np.arange(3)), path)
    return path


def serving(path: Path, *options: str) -> Any:
    """Return a context in which a model is served, and its port."""
    port = load.free_port()
    return load.running(load.softmaxnet(str(path), port, *options), port, environment=ENVIRONMENT), port


# --- S1 to S6 ---------------------------------------------------------------------------------------------------


def s1_slow_clients(path: Path, scale: float) -> dict[str, Any]:
    """Idle sockets, slow headers, slow bodies, a byte every 5 s; good clients beside them."""
    clients = max(20, int(200 * scale))
    seconds = 25.0 if scale == 1 else 6.0
    deadlines = () if scale == 1 else ("--header-seconds", "3", "--body-seconds", "4")
    every = 5.0 if scale == 1 else 1.0
    context, port = serving(path, *deadlines)
    good: dict[str, Any] = {"connections": 4, "pause": 0.005}
    figures: dict[str, Any] = {"clients": clients, "byte_every_s": every}

    async def beside(head: bytes, byte: bytes) -> dict[str, Any]:
        slow = asyncio.create_task(
            load.trickle(port, head, clients=clients, every=every, seconds=seconds + 10, byte=byte)
        )
        await asyncio.sleep(0.5)
        measured = await load.closed_loop(port, GOOD, seconds=seconds, **good)
        return {"good": measured.figures(), "slow": await slow}

    with context:
        alone = load.run(load.closed_loop(port, GOOD, seconds=seconds / 3, **good)).figures()
        figures["alone"] = alone
        for name, head, byte in (
            ("idle", b"", b""),
            ("slow headers", HEAD + b"X-Slow: ", b"a"),
            ("slow bodies", HEAD + b"\r\n{", b" "),
        ):
            found = load.run(beside(head, byte))
            figures[name] = found | {"p99_ratio": round(found["good"]["p99_ms"] / alone["p99_ms"], 2)}
    kinds = ("idle", "slow headers", "slow bodies")
    figures["held"] = all("still open" not in figures[kind]["slow"]["answers"] for kind in kinds)
    return figures


def s2_large_bodies(path: Path, scale: float) -> dict[str, Any]:
    """Bodies of 1, 1.01 and 100 times the limit, in chunks without a length, and a gzip bomb of 1000 to 1."""
    import http.client

    limit = 8 * MIB if scale == 1 else MIB
    context, port = serving(path, "--max-body", str(limit))
    json_type = {"Content-Type": "application/json"}
    figures: dict[str, Any] = {"limit_bytes": limit}

    def ask(body: Any, headers: dict[str, str] | None = None, *, chunked: bool = False) -> int | str:
        connection = http.client.HTTPConnection(load.HOST, port, timeout=60)
        try:
            connection.request("POST", "/predict", body, json_type | (headers or {}), encode_chunked=chunked)
            return connection.getresponse().status
        except OSError as error:
            return type(error).__name__
        finally:
            connection.close()

    def padded(size: int) -> bytes:
        return ROWS + b" " * (size - len(ROWS))

    with context as process:
        load.run(load.closed_loop(port, GOOD, connections=4, seconds=1))
        before = load.resident_mib(process.pid)
        cases: dict[str, Callable[[], int | str]] = {
            "1 x": lambda: ask(padded(limit)),
            "1.01 x": lambda: ask(padded(int(1.01 * limit))),
            "100 x": lambda: ask(iter([b" " * MIB] * (100 * limit // MIB)), {"Content-Length": str(100 * limit)}),
            "chunked without a length": lambda: ask(iter([b" " * 65536] * (2 * limit // 65536)), chunked=True),
            "gzip, 1000 : 1": lambda: ask(gzip.compress(b" " * (1000 * limit // 8)), {"Content-Encoding": "gzip"}),
        }
        peak = before
        for name, send in cases.items():
            figures[name] = send()
            peak = max(peak, load.resident_mib(process.pid))
        figures["good afterwards"] = ask(ROWS)
    figures["resident_growth_mib"] = round(peak - before, 1)
    figures["allowed_growth_mib"] = 2 * limit / MIB
    # who goes on sending for long after the answer may find the connection closed before he has read it
    cut_off = (413, "ConnectionResetError", "BrokenPipeError")
    refused = [figures[name] for name in cases if name not in ("1 x", "100 x")]
    figures["held"] = figures["1 x"] == 200 and set(refused) == {413} and figures["100 x"] in cut_off
    figures["held"] = figures["held"] and peak - before < 2 * limit / MIB
    return figures


def s3_bad_requests(path: Path, scale: float) -> dict[str, Any]:
    """2,000 requests that are mutations of good ones, at random but the same in every run."""
    rng = random.Random(0)
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
    raw = np.array([[5.1, 3.5, 1.4, 0.2]], dtype="<f4").tobytes()
    described = {key: value for key, value in tensor.items() if key != "data"} | {
        "parameters": {"binary_data_size": 16}
    }
    head = json.dumps({"inputs": [described]}).encode()
    seeds = [
        ("/predict", ROWS, ""),
        ("/v2/models/iris/infer", json.dumps({"inputs": [tensor], "id": "a"}).encode(), ""),
        ("/v2/models/iris/infer", head + raw, f"Inference-Header-Content-Length: {len(head)}\r\n"),
    ]
    pieces = [
        b"NaN",
        b"1e999",
        b"-1",
        b"9" * 400,
        b"[" * 2000,
        b'"rows":1,',
        b"null",
        b"\xff",
        b"\x00",
        b"{}",
        b"4294967295",
    ]
    context, port = serving(path)
    answers: Counter[str] = Counter()

    def mutated(body: bytes) -> bytes:
        for _ in range(rng.randint(1, 4)):
            at, kind = rng.randrange(len(body) + 1), rng.randrange(3)
            if kind == 0:
                body = body[:at] + rng.choice(pieces) + body[at:]
            elif kind == 1:
                body = body[:at] + body[at + rng.randint(1, 8) :]
            else:
                body = body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
        return body

    async def work() -> None:
        client = await load.connect(port)
        for _ in range(int(2000 * scale)):
            route, body, extra = rng.choice(seeds)
            if client.closed:
                client = await load.connect(port)
            status = await asyncio.wait_for(client.ask(load.request_bytes(route, mutated(body), extra=extra)), 30)
            answers[str(status)] += 1

    with context as process:
        load.run(work())
        alive = process.poll() is None
    return {"answers": dict(answers), "held": alive and not any(status.startswith("5") for status in answers)}


def s4_overload(path: Path, scale: float) -> dict[str, Any]:
    """Ten times as many requests as the server can answer, at a fixed rate whatever it says."""
    seconds = 60.0 * scale
    rows = json.dumps({"rows": [[5.1, 3.5, 1.4, 0.2]] * 200}).encode()
    request = load.request_bytes("/predict", rows)
    context, port = serving(path)
    with context as process:
        usual = load.run(load.closed_loop(port, request, connections=2, seconds=3.0))
        capacity = len(usual.seconds) / usual.duration
        before = load.resident_mib(process.pid)
        over = load.run(load.open_loop(port, request, rate=10 * capacity, seconds=seconds, connections=200)).figures()
        growth = load.resident_mib(process.pid) - before
        started = time.perf_counter()
        while load.run(load.closed_loop(port, request, connections=1, seconds=0.05)).answers.get("200", 0) == 0:
            if time.perf_counter() - started > 30:
                break
        recovered = time.perf_counter() - started
    figures = usual.figures()
    ratio = round(over["p99_ms"] / figures["p99_ms"], 2)
    held = "503" in over["answers"] and recovered < 2 and set(over["answers"]) <= {"200", "503", "not sent"}
    return {
        "capacity_per_second": round(capacity, 1),
        "offered_per_second": round(10 * capacity, 1),
        "usual": figures,
        "overloaded": over,
        "p99_ratio": ratio,
        "recovered_after_s": round(recovered, 2),
        "resident_growth_mib": round(growth, 1),
        "held": held and ratio < 5,
    }


def s5_loss(path: Path, scale: float) -> dict[str, Any]:
    """SIGTERM under load, kill -9 of one of two workers, the model file replaced and deleted."""
    rounds = max(2, int(20 * scale))
    lost: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    served = 0

    async def until_closed(port: int, process: Any) -> None:
        nonlocal served

        async def one() -> None:
            nonlocal served
            client = await load.connect(port)
            while not client.closed:
                try:
                    status = await asyncio.wait_for(client.ask(GOOD), 30)
                except (OSError, TimeoutError) as error:
                    lost[type(error).__name__] += 1
                    return
                served += status == 200
                if status != 200:
                    lost[str(status)] += 1

        tasks = [asyncio.create_task(one()) for _ in range(16)]
        await asyncio.sleep(0.5 + random.random() / 2)
        process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)

    for _ in range(rounds):
        context, port = serving(path)
        with context as process:
            load.run(until_closed(port, process))
            codes[str(process.wait(40))] += 1
    figures: dict[str, Any] = {
        "SIGTERM": {"rounds": rounds, "served": served, "lost": dict(lost), "codes": dict(codes)}
    }
    figures["kill -9"] = killed_worker(path)
    copy = path.with_name("copy.safetensors")
    shutil.copy(path, copy)
    context, port = serving(copy)
    with context:
        copy.write_bytes(b"something else")
        replaced = load.run(load.closed_loop(port, GOOD, connections=2, seconds=1)).figures()["answers"]
        copy.unlink()
        deleted = load.run(load.closed_loop(port, GOOD, connections=2, seconds=1)).figures()["answers"]
    figures["model file replaced"], figures["model file deleted"] = replaced, deleted
    figures["held"] = not lost and set(codes) == {"0"} and set(replaced) == set(deleted) == {"200"}
    figures["held"] = figures["held"] and figures["kill -9"]["workers_again_after_s"] is not None
    return figures


def killed_worker(path: Path) -> dict[str, Any]:
    """Kill one of two workers and see how long it takes until there are two again."""
    context, port = serving(path, "--workers", "2")
    with context as process:

        def workers() -> list[int]:
            text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            return [pid for pid in map(int, text.split()) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

        load.run(load.closed_loop(port, GOOD, connections=4, seconds=3))
        first = workers()
        os.kill(first[0], signal.SIGKILL)
        started = time.perf_counter()
        answers: Counter[str] = Counter()
        again = None
        while time.perf_counter() - started < 30:
            answers += load.run(load.closed_loop(port, GOOD, connections=2, seconds=0.3)).answers
            if len(set(workers()) - {first[0]}) == 2:
                again = round(time.perf_counter() - started, 1)
                break
    return {"answers_meanwhile": dict(answers), "workers_again_after_s": again}


def s6_strangers(path: Path, scale: float) -> dict[str, Any]:
    """No token, a wrong and a long one, other hosts, other sites, paths that climb; and the time a comparison takes."""
    import http.client

    token = path.with_name("token")
    token.write_text(TOKEN)
    context, port = serving(path, "--token-file", str(token), "--allow-host", load.HOST)
    own = {"Authorization": f"Bearer {TOKEN}"}
    cases = {
        "no token": ("GET", "/schema", {}, 401),
        "wrong token": ("GET", "/schema", {"Authorization": "Bearer wrong"}, 401),
        "long token": ("GET", "/schema", {"Authorization": "Bearer " + "a" * 12_000}, 401),
        "longer than headers may be": ("GET", "/schema", {"Authorization": "Bearer " + "a" * 60_000}, 431),
        "the token": ("GET", "/schema", own, 200),
        "Host: evil.example": ("GET", "/schema", own | {"Host": "evil.example"}, 400),
        "no Host": ("GET", "/schema", own | {"Host": ""}, 400),
        "/v2/models/..%2f..%2fetc": ("GET", "/v2/models/..%2f..%2fetc", own, 404),
        "/page/../app.py": ("GET", "/page/../app.py", own, 404),
        "preflight": ("OPTIONS", "/predict", own | {"Origin": "https://evil.example"}, 405),
        "another site": ("POST", "/predict", own | {"Sec-Fetch-Site": "cross-site"}, 403),
        "a form": ("POST", "/predict", own | {"Content-Type": "text/plain"}, 415),
    }
    figures: dict[str, Any] = {}
    with context:

        def ask(method: str, route: str, headers: dict[str, str]) -> int:
            connection = http.client.HTTPConnection(load.HOST, port, timeout=30)
            try:
                connection.request(method, route, b"{}" if method == "POST" else None, headers)
                return connection.getresponse().status
            finally:
                connection.close()

        for name, (method, route, headers, expected) in cases.items():
            status = ask(method, route, headers)
            figures[name] = {"status": status, "expected": expected}
        wrong = {"first character wrong": "x" + TOKEN[1:], "last character wrong": TOKEN[:-1] + "x"}
        taken: dict[str, list[float]] = {name: [] for name in wrong}
        for _ in range(int(300 * scale) + 30):
            for name, given in wrong.items():
                started = time.perf_counter()
                ask("GET", "/schema", {"Authorization": f"Bearer {given}"})
                taken[name].append(time.perf_counter() - started)
        times = {name: round(float(np.median(seconds)) * 1000, 4) for name, seconds in taken.items()}
    held = all(found["status"] == found["expected"] for found in figures.values())
    return figures | {"median_ms": times, "held": held}


PARTS: dict[str, tuple[str, Callable[[Path, float], dict[str, Any]], bool]] = {
    "S1": ("slow clients", s1_slow_clients, False),
    "S2": ("large bodies", s2_large_bodies, False),
    "S3": ("bad requests", s3_bad_requests, False),
    "S4": ("overload", s4_overload, True),
    "S5": ("loss", s5_loss, False),
    "S6": ("strangers", s6_strangers, False),
}


def as_markdown(figures: dict[str, Any]) -> str:
    """Return the figures as a page."""
    lines = ["# Serving under faults", "", f"Scale {figures['scale']:g} of the full amounts.", ""]
    lines += ["| part | what | held |", "|---|---|---|"]
    for name, found in figures["parts"].items():
        lines.append(f"| {name} | {PARTS[name][0]} | {'yes' if found['held'] else 'NO'} |")
    for name, found in figures["parts"].items():
        lines += ["", f"## {name}: {PARTS[name][0]}", "", (PARTS[name][1].__doc__ or "").strip(), "", "```json"]
        lines += [json.dumps(found, indent=1), "```"]
    return "\n".join([*lines, "", describe_in_words(figures["machine"]), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--short", action="store_true", help="a tenth of the amounts")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results" / "faults")
    args = parser.parse_args()
    scale = 0.1 if args.short else 1.0
    figures: dict[str, Any] = {"scale": scale, "parts": {}, "machine": describe_machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quick, slow = model(folder), slow_model(folder)
        for part in args.parts.split(","):
            _, run, on_slow_model = PARTS[part]
            started = time.perf_counter()
            figures["parts"][part] = run(slow if on_slow_model else quick, scale)
            figures["parts"][part]["seconds"] = round(time.perf_counter() - started, 1)
            print(part, json.dumps(figures["parts"][part]), file=sys.stderr, flush=True)
    load.write_results(args.output, figures, as_markdown(figures))


if __name__ == "__main__":
    main()
