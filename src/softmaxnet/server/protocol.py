"""HTTP/1.1 on a socket: uvicorn's protocol with deadlines and limits for what never reaches an application.

A connection that sends no whole set of headers in time, that sends too many, that is one too many, or that does not
read its answer, is closed. uvicorn itself only times the pause between two requests.

Small requests whose body comes with their headers are answered here, as they are parsed: the scope, the task and the
messages of ASGI take longer than a small model. All others go the way of every ASGI application.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from softmaxnet.server.app import ANSWER_HEADERS, Front
from softmaxnet.server.handlers import SMALL_BODY, Route
from softmaxnet.server.problem import TITLES, Headers, Problem, Reply

__all__ = ["HTTPProtocol", "protocol_for"]

MOST_HEADER_BYTES = 16 * 1024
MOST_HEADERS = 100
UNREAD_SECONDS = 30.0
"""An answer that the other side does not read for so long is given up."""
LAST_SECONDS = 0.25
"""When the server stops, an idle connection is kept so long: a request may be on its way."""


def protocol_for(front: Front) -> type[HTTPProtocol]:
    """Return the protocol of an application, with its limits."""
    return type("HTTPProtocol", (HTTPProtocol,), {"front": front})


def _lines(headers: Headers) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)


FIXED = _lines(ANSWER_HEADERS) + b"content-length: "


class HTTPProtocol(HttpToolsProtocol):
    """One connection."""

    front: Front

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._begun = False
        self._complete = False
        self._closing = False
        self._route: Route | None = None
        self._body = b""
        self.header_seconds = self.front.settings.header_seconds

    # --- connections --------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Take a connection, or say that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.front.settings.connections:
            self._refuse(503, "too many connections; try again", b"retry-after: 1\r\n")
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._stop_waiting()
        self._stop_write_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection: at once where it is answering, after a moment where a request may be on its way."""
        self._closing = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LAST_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def _close_if_idle(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()

    # --- headers ------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of headers are counted and have a deadline."""
        if self.transport.is_closing():
            return
        self._header_bytes += len(data)
        self._complete = False
        super().data_received(data)
        if self._route is not None and self.parser is not None:
            self._to_application(complete=False)  # the rest of the body is to come, and has a deadline there
        if self.parser is None or self.transport.is_closing():
            return
        if self._complete or (self.cycle is not None and not self.cycle.response_complete):
            return  # a request is being read or answered
        if self._header_bytes > MOST_HEADER_BYTES:
            self._refuse(431, f"the headers have more than {MOST_HEADER_BYTES:,} bytes")
        elif self._header_timer is None:
            self._await_headers()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._begun = True
        self._complete = False
        self._header_bytes = 0

    def on_headers_complete(self) -> None:
        """Hand the request to the application, unless its headers are too long."""
        self._stop_waiting()
        self._begun = False
        self._complete = True
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MOST_HEADER_BYTES or len(self.headers) > MOST_HEADERS:
            self._refuse(431, f"the headers have more than {MOST_HEADER_BYTES:,} bytes")
            return
        self._route = self._quick_route()
        if self._route is None:
            self._begin()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, unless the request was refused."""
        if self._route is not None:
            self._body += body
        elif self.cycle is not None and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request, unless it was refused."""
        if self._route is not None:
            self._answer_at_once(self._route)
        elif self.cycle is not None and not self.transport.is_closing():
            super().on_message_complete()

    # --- requests that are answered at once ---------------------------------------------------------------

    def _quick_route(self) -> Route | None:
        """Return the route of a request that may be small enough; None for one that goes to the application."""
        route = self.front.at_once.get(self.url)
        if route is None or self.parser.get_method() != b"POST" or self.expect_100_continue:
            return None
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # the answer to an earlier one comes first
        length = None
        for name, value in self.headers:
            if name == b"content-length":
                length = value
            elif name in (b"content-encoding", b"transfer-encoding", b"upgrade"):
                return None
        return route if length is not None and length.isdigit() and int(length) <= SMALL_BODY else None

    def _answer_at_once(self, route: Route) -> None:
        """Answer from here, or hand the request to the application where it takes longer."""
        scope: Any = self.scope
        scope["method"], scope["path"], scope["query_string"] = "POST", route.path, b""
        reply = self.front.answer_at_once(scope, self._body, route)
        if reply is None:
            self._to_application(complete=True)
            return
        self._route, self._body = None, b""
        self._reply(reply, keep=self.parser.should_keep_alive() and not self._closing)

    def _to_application(self, *, complete: bool) -> None:
        """Begin the ordinary way of a request, with what has come of its body."""
        body, self._route, self._body = self._body, None, b""
        self._begin()
        if body:
            super().on_body(body)
        if complete:
            super().on_message_complete()

    def _begin(self) -> None:
        super().on_headers_complete()
        if self._closing and self.cycle is not None:
            self.cycle.keep_alive = False

    def _reply(self, reply: Reply, *, keep: bool) -> None:
        """Write an answer."""
        keep = keep and not any(name == b"connection" for name, _ in reply.headers)
        parts = [STATUS_LINE[reply.status]]
        for name, value in self.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        for name, value in reply.headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (FIXED, str(len(reply.body)).encode(), b"\r\n\r\n" if keep else b"\r\nconnection: close\r\n\r\n")
        parts.append(reply.body)
        self.transport.write(b"".join(parts))
        if keep:
            self.on_response_complete()
        else:
            self.transport.close()

    # --- deadlines ----------------------------------------------------------------------------------------

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(self.header_seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        if self._begun:
            self._refuse(408, f"the headers did not arrive within {self.header_seconds:g} seconds")
        else:
            self.transport.close()

    # --- answers ------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Give the other side some time to read."""
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        self._stop_write_timer()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(400, "this is not an HTTP request")

    def _refuse(self, status: int, detail: str, extra: bytes = b"") -> None:
        """Answer without the application, and close the connection."""
        if self.transport.is_closing():
            return
        reply = Problem(status, detail).reply("")
        title = TITLES.get(status, "") or _phrase(status)
        head = (
            f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(reply.body)}\r\nx-content-type-options: nosniff\r\nconnection: close\r\n"
        )
        self.transport.write(head.encode() + extra + b"\r\n" + reply.body)
        self.transport.close()


def _phrase(status: int) -> str:
    from http import HTTPStatus

    return HTTPStatus(status).phrase
