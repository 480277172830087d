"""A model over HTTP until a signal comes: in this process, or in several that it looks after."""

from __future__ import annotations

from collections.abc import Callable

from softmaxnet.server.run import listen, open_front, require_libraries, serve_on, url
from softmaxnet.server.settings import Settings
from softmaxnet.server.workers import serve_with_workers

__all__ = ["serve"]


def serve(settings: Settings, on_ready: Callable[[str], None] | None = None) -> int:
    """Serve a model until SIGINT or SIGTERM comes, and return the exit code.

    Parameters
    ----------
    settings : Settings
    on_ready : function, optional
        Given the server's address, such as ``"http://127.0.0.1:8000/"``, when it answers.

    Returns
    -------
    int
        0 where every request that had been taken was answered; 130 or 143, for the signal, where some were cut off.

    Raises
    ------
    UsageError
        For settings that cannot be, such as an open port without a token.
    ModelFileError
        Where the model file is not sound.
    ResourceError
        Where the port is taken, or the extra ``serve`` is not installed.
    """
    settings.check()
    require_libraries()
    if settings.workers > 1:
        return serve_with_workers(settings, on_ready)
    front = open_front(settings)
    with listen(settings) as listener:
        address = url(settings, listener)
        return serve_on(listener, front, settings, None if on_ready is None else lambda: on_ready(address))
