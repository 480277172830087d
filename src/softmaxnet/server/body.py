"""Reading the body of a request: to a deadline, to a size, unpacked to a size, and all bodies together to a size."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from softmaxnet.server.problem import Problem

__all__ = ["BodyReader", "Receive", "Scope", "header"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]

CLOSE = ((b"connection", b"close"),)
RETRY = ((b"retry-after", b"1"),)
BODIES_AT_ONCE = 32
"""Full bodies that may be held at one time, over all connections."""
MOST_DISCARDED = 2**28
COMPLETE = "softmaxnet.body_complete"
"""In the scope of a request whose body has been read to its end."""
WINDOW_BITS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return a header of a request, whose name is given in lower case; None where it is absent."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


class BodyReader:
    """Reads bodies within limits.

    Parameters
    ----------
    limit : int
        Bytes of one body, packed and unpacked.
    seconds : float
        From the end of the headers to the end of the body.

    Attributes
    ----------
    waiting : int
        Requests whose body is not complete.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self.waiting = 0
        self.held = 0

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the body, unpacked where its encoding says so.

        Raises
        ------
        Problem
            408 where it is slow, 413 where it is too long, 415 for other encodings, 400 where it is cut off or damaged,
            503 where too many bytes are being held already.
        """
        length = header(scope, b"content-length")
        if length is not None and (not length.isdigit() or len(length) > 15):
            raise Problem(400, "the header Content-Length is not a number", headers=CLOSE)
        if length is not None and int(length) > self.limit:
            raise self._too_large()
        self.waiting += 1
        try:
            async with asyncio.timeout(self.seconds):
                message = await receive()
                if not message.get("more_body") and message["type"] == "http.request":
                    body: bytes = message.get("body", b"")
                else:
                    body = await self._rest(message, receive)
        except TimeoutError:
            raise Problem(408, f"the body did not arrive within {self.seconds:g} seconds", headers=CLOSE) from None
        finally:
            self.waiting -= 1
        scope[COMPLETE] = True
        if len(body) > self.limit:
            raise self._too_large()
        encoding = header(scope, b"content-encoding")
        return body if encoding is None else self._unpacked(body, encoding.strip().lower())

    async def _rest(self, message: MutableMapping[str, Any], receive: Receive) -> bytes:
        """Return the body of which a part has come."""
        chunks: list[bytes] = []
        size = 0
        try:
            while True:
                if message["type"] != "http.request":
                    raise Problem(400, "the connection was closed before the body was complete", headers=CLOSE)
                chunk = message.get("body", b"")
                size += len(chunk)
                self.held += len(chunk)
                if size > self.limit:
                    raise self._too_large()
                if self.held > BODIES_AT_ONCE * self.limit:
                    raise Problem(503, "too many large requests at once; try again", headers=CLOSE + RETRY)
                chunks.append(chunk)
                if not message.get("more_body"):
                    return b"".join(chunks)
                message = await receive()
        finally:
            self.held -= size

    def _unpacked(self, body: bytes, encoding: bytes) -> bytes:
        """Return a body without its content encoding, never more than the limit."""
        if encoding in (b"", b"identity"):
            return body
        if encoding not in WINDOW_BITS:
            raise Problem(
                415, "the content encoding must be gzip or deflate", headers=((b"accept-encoding", b"gzip, deflate"),)
            )
        unpacker = zlib.decompressobj(WINDOW_BITS[encoding])
        try:
            plain = unpacker.decompress(body, self.limit + 1)
        except zlib.error:
            raise Problem(400, f"the body is not valid {encoding.decode()}") from None
        if len(plain) > self.limit:
            raise self._too_large()
        if not unpacker.eof or unpacker.unused_data:
            raise Problem(400, f"the body is not one whole {encoding.decode()} stream")
        return plain

    async def discard(self, receive: Receive, seconds: float = 2.0) -> None:
        """Read on for a moment and forget it, so that a client that is still sending gets to read the answer."""
        left = MOST_DISCARDED
        self.waiting += 1
        try:
            async with asyncio.timeout(seconds):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body"):
                        return
        except TimeoutError:
            return
        finally:
            self.waiting -= 1

    def _too_large(self) -> Problem:
        return Problem(413, f"the body has more than {self.limit:,} bytes", headers=CLOSE)
