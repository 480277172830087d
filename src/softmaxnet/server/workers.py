"""Several processes that listen on one socket, and one that starts them again where they die."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from softmaxnet.errors import ResourceError, SoftmaxError
from softmaxnet.server.run import listen, open_front, serve_on, url
from softmaxnet.server.settings import Settings

__all__ = ["serve_with_workers"]

RESTARTS = 10
"""Deaths within a minute after which the server gives up."""


def serve_with_workers(settings: Settings, on_ready: Callable[[str], None] | None) -> int:
    """Serve with several processes, as :func:`softmaxnet.server.serve.serve` does with one."""
    if os.name != "posix":
        raise ResourceError("several processes share a socket only on POSIX systems; run one")
    folder = tempfile.mkdtemp(prefix="softmaxnet-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    try:
        open_front(settings)  # whatever is wrong is said here, once
        with listen(settings) as listener:
            return _Supervisor(settings, listener).run(on_ready)
    finally:
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
        shutil.rmtree(folder, ignore_errors=True)


class _Supervisor:
    """Starts processes, waits for them to be ready, replaces those that die, and stops all."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.settings = settings
        self.listener = listener
        self.address = url(settings, listener)
        self.context = multiprocessing.get_context("spawn")
        self.processes: list[Any] = []
        self.pipes: dict[int | None, Any] = {}
        self.deaths: list[float] = []
        self.received: int | None = None

    def run(self, on_ready: Callable[[str], None] | None) -> int:
        """Return the exit code."""
        before = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            started = [self._start() for _ in range(self.settings.workers)]
            ready = all(self._is_ready(process) for process in started)
            if ready and on_ready is not None and self.received is None:
                on_ready(self.address)
            while ready and self.received is None:
                connection.wait([process.sentinel for process in self.processes], timeout=0.5)
                ready = self._replace_the_dead()
            code = self._stop()
            return code if ready or self.received is not None else ResourceError.exit_code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: object) -> None:
        self.received = self.received or number

    def _start(self) -> Any:
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_work, args=(self.settings, self.listener, theirs), daemon=False)
        process.start()
        theirs.close()
        self.processes.append(process)
        self.pipes[process.pid] = ours
        return process

    def _is_ready(self, process: Any) -> bool:
        """Wait until a process takes requests; False where it ends before."""
        while self.received is None:
            if self.pipes[process.pid].poll(0.2):
                return self._has_served(process)
            if not process.is_alive():
                return False
        return True

    def _has_served(self, process: Any) -> bool:
        """Say whether a process has come to the point of taking requests."""
        pipe = self.pipes[process.pid]
        try:
            return pipe is None or (pipe.poll(0) and bool(pipe.recv()) and self._remember(process))
        except EOFError:
            return False

    def _remember(self, process: Any) -> bool:
        self.pipes[process.pid].close()
        self.pipes[process.pid] = None
        return True

    def _replace_the_dead(self) -> bool:
        """Start processes anew; False where they die too fast for that to be of use."""
        dead = [process for process in self.processes if not process.is_alive()]
        for process in dead:
            if self.received is not None:
                break
            process.join()
            self.processes.remove(process)
            sys.stderr.write(
                f"softmaxnet: warning: a worker ended with {process.exitcode}; another one takes its place\n"
            )
            _forget_metrics(process.pid)
            now = time.monotonic()
            self.deaths = [death for death in self.deaths if now - death < 60] + [now]
            if len(self.deaths) > RESTARTS:
                sys.stderr.write("softmaxnet: error: the workers die as fast as they are started\n")
                return False
            self._start()
        return True

    def _stop(self) -> int:
        """Tell every process to stop, wait for it, and return the worst exit code."""
        for process in self.processes:
            if process.is_alive():
                process.terminate()
        deadline = time.monotonic() + self.settings.drain_seconds + self.settings.drain_delay + 5
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        cut = any(process.exitcode and self._has_served(process) for process in self.processes)
        return 128 + (self.received or 0) if cut else 0


def _forget_metrics(pid: int) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _work(settings: Settings, listener: socket.socket, ready: Any) -> None:
    """Run one process."""
    try:
        front = open_front(settings)
        code = serve_on(listener, front, settings, lambda: ready.send(True))
    except SoftmaxError as error:
        sys.stderr.write(f"softmaxnet: error: {error}\n")
        code = error.exit_code
    sys.exit(code)
