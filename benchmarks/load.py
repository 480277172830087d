"""A load generator for HTTP servers on this machine: closed loop, open loop, and clients that misbehave.

It only ever connects to the loopback address, and every run has an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HOST = "127.0.0.1"


@dataclass
class Measured:
    """What a run of requests gave: seconds of those that were answered with 200, and how all were answered."""

    seconds: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    duration: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Return requests a second and quantiles in milliseconds."""
        taken = np.array(self.seconds) * 1000
        quantile = (lambda q: round(float(np.quantile(taken, q)), 3)) if taken.size else lambda q: None
        return {
            "requests_per_second": round(len(self.seconds) / self.duration, 1) if self.duration else None,
            "p50_ms": quantile(0.5),
            "p99_ms": quantile(0.99),
            "max_ms": quantile(1.0),
            "answers": dict(self.answers),
        }


def request_bytes(
    path: str, body: bytes = b"", *, content_type: str = "application/json", method: str = "POST", extra: str = ""
) -> bytes:
    """Return a request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n{extra}"
    if method == "POST":
        head += f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Client(asyncio.Protocol):
    """One connection that has at most one request under way."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.buffer = b""
        self.answer: asyncio.Future[int] | None = None
        self.closed = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(body) >= length:
            self.buffer = body[length:]
            if b"connection: close" in lower:
                self.closed = True
                self.transport.close()
            if self.answer is not None and not self.answer.done():
                self.answer.set_result(int(head[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionResetError("closed"))

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Send a request; the future has its status."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer


async def connect(port: int) -> Client:
    """Return an open connection."""
    _, client = await asyncio.get_running_loop().create_connection(Client, HOST, port)
    return client


async def closed_loop(port: int, request: bytes, *, connections: int, seconds: float, pause: float = 0.0) -> Measured:
    """Ask again as soon as an answer is there (or after a pause), on so many connections."""
    found = Measured()
    end = time.perf_counter() + seconds

    async def one() -> None:
        client = await connect(port)
        while time.perf_counter() < end:
            started = time.perf_counter()
            try:
                if client.closed:
                    client = await connect(port)
                status = await asyncio.wait_for(client.ask(request), 30)
            except (OSError, TimeoutError) as error:
                found.answers[type(error).__name__] += 1
                continue
            found.answers[str(status)] += 1
            if status == 200:
                found.seconds.append(time.perf_counter() - started)
            if pause:
                await asyncio.sleep(pause)
        client.transport.close()

    begun = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    found.duration = time.perf_counter() - begun
    return found


async def open_loop(port: int, request: bytes, *, rate: float, seconds: float, connections: int) -> Measured:
    """Ask at a rate whatever the answers; a request that finds no free connection is counted as not sent."""
    found = Measured()
    free = [await connect(port) for _ in range(connections)]
    waiting: set[asyncio.Task[None]] = set()

    async def one(client: Client, due: float) -> None:
        try:
            status = await asyncio.wait_for(client.ask(request), 30)
            found.answers[str(status)] += 1
            if status == 200:
                found.seconds.append(time.perf_counter() - due)
        except (OSError, TimeoutError) as error:
            found.answers[type(error).__name__] += 1
        free.append(await connect(port) if client.closed else client)

    begun = time.perf_counter()
    sent = 0
    while (now := time.perf_counter()) < begun + seconds:
        due = int((now - begun) * rate)
        while sent < due:
            sent += 1
            if not free:
                found.answers["not sent"] += 1
                continue
            task = asyncio.create_task(one(free.pop(), now))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        await asyncio.sleep(0.001)
    if waiting:
        await asyncio.wait(waiting, timeout=35)
    found.duration = time.perf_counter() - begun
    for client in free:
        client.transport.close()
    return found


async def trickle(
    port: int, head: bytes, *, clients: int, every: float, seconds: float, byte: bytes = b" "
) -> dict[str, Any]:
    """Open connections that send ``head`` and then a byte now and then; return when and how they were closed."""
    closed: list[float] = []
    statuses: Counter[str] = Counter()
    begun = time.perf_counter()

    async def one() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        answer = asyncio.create_task(reader.read(65536))
        try:
            writer.write(head)
            while not answer.done() and time.perf_counter() - begun < seconds:
                await asyncio.wait({answer}, timeout=every)
                if not answer.done() and byte:
                    writer.write(byte)
            if answer.done():
                data = answer.result()
                statuses[data[9:12].decode() if data.startswith(b"HTTP/1.1") else "closed"] += 1
                closed.append(time.perf_counter() - begun)
            else:
                statuses["still open"] += 1
        except OSError:
            statuses["reset"] += 1
            closed.append(time.perf_counter() - begun)
        finally:
            answer.cancel()
            writer.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    return {
        "clients": clients,
        "answers": dict(statuses),
        "first_closed_s": round(min(closed), 2) if closed else None,
        "last_closed_s": round(max(closed), 2) if closed else None,
    }


@contextlib.contextmanager
def running(command: Sequence[str], port: int, *, environment: dict[str, str] | None = None) -> Iterator[Any]:
    """Run a server until it answers on its port, and stop it at the end."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection((HOST, port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    error = process.stderr.read().decode() if process.stderr else ""
                    raise SystemExit(f"{' '.join(command)} did not start:\n{error}") from None
                time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def softmaxnet(model: str, port: int, *options: str) -> list[str]:
    """Return the command that serves a model."""
    return [sys.executable, "-m", "softmaxnet", "serve", model, "--port", str(port), *options]


def resident_mib(process_id: int) -> float:
    """Return the resident memory of a process [MiB]."""
    with open(f"/proc/{process_id}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def processor_seconds(process_id: int) -> float:
    """Return the processor time that a process has taken, of its threads together [s]."""
    with open(f"/proc/{process_id}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(process_id: int) -> int:
    """Return the number of open files of a process."""
    return len(os.listdir(f"/proc/{process_id}/fd"))


def run(work: Any) -> Any:
    """Run a coroutine, on uvloop where it is installed: the generator must be quicker than what it measures."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def write_results(stem: Any, figures: dict[str, Any], text: str) -> None:
    """Write figures as JSON and as Markdown."""
    stem.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
