"""What Prometheus is told: counts and times of requests, rows, what is being worked on, and which model it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import softmaxnet

__all__ = ["Metrics"]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
ROWS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one server; with several processes their sum.

    Parameters
    ----------
    name, digest : str
        Of the model.
    in_flight : function
        The number of requests that are being answered.
    """

    def __init__(self, name: str, digest: str, in_flight: Callable[[], int]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        registry = CollectorRegistry()
        self.registry = registry
        prefix = "softmaxnet"
        self._requests = Counter(f"{prefix}_requests", "Requests answered.", ["route", "code"], registry=registry)
        self._seconds = Histogram(
            f"{prefix}_request_duration_seconds",
            "From the end of the headers to the answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._rows = Counter(f"{prefix}_rows", "Rows predicted.", registry=registry)
        self._batch = Histogram(f"{prefix}_batch_size", "Rows of a request.", buckets=ROWS, registry=registry)
        if not self.shared:  # a function cannot be asked by another process
            Gauge(f"{prefix}_inflight", "Requests being answered.", registry=registry).set_function(in_flight)
        info = Gauge(
            f"{prefix}_model_info",
            "1, for the model that is served.",
            ["name", "sha256", "version"],
            registry=registry,
            multiprocess_mode="max",
        )
        info.labels(name, digest, softmaxnet.__version__).set(1)
        self._counter_of: dict[tuple[str, int], Any] = {}
        self._seconds_of: dict[str, Any] = {}

    def count(self, route: str, status: int, seconds: float, rows: int) -> None:
        """Count one request."""
        counter = self._counter_of.get((route, status))
        if counter is None:
            counter = self._counter_of[route, status] = self._requests.labels(route, str(status))
        counter.inc()
        timer = self._seconds_of.get(route)
        if timer is None:
            timer = self._seconds_of[route] = self._seconds.labels(route)
        timer.observe(seconds)
        if rows:
            self._rows.inc(rows)
            self._batch.observe(rows)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        if not self.shared:
            return generate_latest(self.registry)
        from prometheus_client.multiprocess import MultiProcessCollector

        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)
