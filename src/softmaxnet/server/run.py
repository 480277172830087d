"""From settings to an exit code: load, listen, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from softmaxnet.errors import ResourceError
from softmaxnet.server.settings import Settings

__all__ = ["listen", "open_front", "serve_on", "url"]

BACKLOG = 1024
SWITCH_SECONDS = 0.001
"""How long a computing thread may keep the event loop from going on; Python's own default is five times as long."""


def listen(settings: Settings) -> socket.socket:
    """Return a socket that is bound to the address of the settings; it listens when the server runs.

    Raises
    ------
    ResourceError
        Where that cannot be.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # elsewhere it would let two servers share a port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or error
        raise ResourceError(
            f"{settings.host} port {settings.port}: {reason}.", hint="--port 0 takes a port that is free."
        ) from None
    return listener


def url(settings: Settings, listener: socket.socket) -> str:
    """Return the address of a server that listens."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}/"


def serve_on(listener: socket.socket, front: Any, settings: Settings, on_ready: Callable[[], None] | None) -> int:
    """Serve on a socket that is bound already, in this process, and return the exit code."""
    import uvicorn

    from softmaxnet.server.protocol import protocol_for

    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what matters is answered, counted and logged by us
    config = uvicorn.Config(
        front,
        http=protocol_for(front),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    server = _server(config, front, settings, on_ready)
    front.tasks = server.server_state.tasks
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with _single_threaded_blas():
            server.run(sockets=[listener])
    finally:
        sys.setswitchinterval(interval)
        front.room.close()
    received: int = server.received or 0
    return 128 + received if server.was_cut else 0


def _server(config: Any, front: Any, settings: Settings, on_ready: Callable[[], None] | None) -> Any:
    """Return uvicorn's server with our way of stopping."""
    import uvicorn

    class Server(uvicorn.Server):
        """Stops when told, after what it has taken is answered; a second signal cuts it short."""

        received: int | None = None
        was_cut = False

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if on_ready is not None:
                on_ready()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            signals = [signal.SIGINT, signal.SIGTERM]
            before = {number: signal.signal(number, self.handle_exit) for number in signals}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if front.draining:
                self.should_exit = self.force_exit = True
            front.draining = True
            self.received = self.received or int(sig)
            if not settings.drain_delay:
                self.should_exit = True

        async def on_tick(self, counter: int) -> bool:
            if front.draining and not self.should_exit:
                await asyncio.sleep(settings.drain_delay)
                self.should_exit = True
            return await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets)
            self.was_cut = bool(self.server_state.tasks)

    return Server(config)


def open_front(settings: Settings) -> Any:
    """Return the application with the model loaded, verified and warm."""
    from softmaxnet.server.app import Front
    from softmaxnet.service import Limits, Service

    limits = Limits(rows=settings.max_rows, body=settings.max_body)
    return Front(Service.open(settings.model, limits=limits), settings)


def require_libraries() -> None:
    for name in ("fastapi", "uvicorn", "httptools", "prometheus_client"):
        try:
            __import__(name)
        except ModuleNotFoundError:
            raise ResourceError(
                f"{name} is not installed.", hint="Install it: pip install 'softmaxnet[serve]'."
            ) from None


@contextlib.contextmanager
def _single_threaded_blas() -> Iterator[None]:
    """Let each of our threads compute alone: several requests at a time are the parallelism."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
