"""What each path answers: from the parts of an HTTP request to calls of the service and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from softmaxnet.errors import ModelFileError
from softmaxnet.protocol_v2 import VERSION, infer, model_metadata, server_metadata
from softmaxnet.server.body import BodyReader, Receive, Scope, header
from softmaxnet.server.metrics import CONTENT_TYPE, Metrics
from softmaxnet.server.page_files import page_files
from softmaxnet.server.problem import JSON, Problem, Reply
from softmaxnet.server.work import Workroom
from softmaxnet.service import Service
from softmaxnet.tensor_file import strict_json

__all__ = ["Handler", "Handlers", "Route"]

Handler: TypeAlias = Callable[[Scope, Receive], Awaitable[Reply]]
AtOnce: TypeAlias = Callable[[Scope, bytes], Reply | None]
"""Answers a request whose body is there, or returns None where that would take too long on the event loop."""

SMALL_BODY = 4096
"""Bytes of a body that may be answered on the event loop, where the model is quick enough."""
JSON_TYPE = b"application/json"
CONTENT_TYPES = (JSON_TYPE, b"text/csv", b"image/png", b"image/jpeg")
BINARY = (b"content-type", b"application/octet-stream")
FLAGS = {"true": True, "1": True, "": True, "false": False, "0": False}
CROSS_SITE = (b"cross-site", b"same-site")


@dataclass(frozen=True)
class Route:
    """A path and who answers it.

    Attributes
    ----------
    methods : tuple of str
    path : str
    handler : Handler
    summary : str
    public : bool
        No token is needed.
    hot : bool
        Answered before FastAPI is asked.
    at_once : AtOnce or None
        For requests that are small.
    """

    methods: tuple[str, ...]
    path: str
    handler: Handler
    summary: str
    public: bool = False
    hot: bool = False
    at_once: AtOnce | None = None


class Handlers:
    """The answers of one server.

    Parameters
    ----------
    service : Service
    bodies : BodyReader
    room : Workroom
    metrics : Metrics
    is_draining : function
        Whether the server is about to stop.
    """

    def __init__(
        self,
        service: Service,
        bodies: BodyReader,
        room: Workroom,
        metrics: Metrics,
        is_draining: Callable[[], bool],
    ) -> None:
        self.service = service
        self.bodies = bodies
        self.room = room
        self.metrics = metrics
        self.is_draining = is_draining
        self.files = page_files()
        self._schema = Reply.json(service.schema)
        self._metadata = Reply.json(model_metadata(service))
        self._server = Reply.json(server_metadata())
        self._is_quick = service.is_cheap(1)

    def routes(self) -> list[Route]:
        """Return every path; the model's name is the only one that there is."""
        get = ("GET", "HEAD")
        model = f"/v2/models/{self.service.name}"
        version = f"{model}/versions/{VERSION}"
        routes = [
            Route(
                ("POST",),
                "/predict",
                self.predict,
                "Predict rows, a CSV text or a picture",
                hot=True,
                at_once=self.predict_at_once,
            ),
            Route(get, "/schema", self.schema, "What the model takes and gives"),
            Route(get, "/healthz", self.live, "Whether the process is alive", public=True, hot=True),
            Route(get, "/readyz", self.ready, "Whether requests are welcome", public=True, hot=True),
            Route(get, "/metrics", self.prometheus, "Counts and times for Prometheus"),
            Route(get, "/v2", self.server, "The server (Open Inference Protocol)"),
            Route(get, "/v2/health/live", self.live, "Whether the process is alive", public=True, hot=True),
            Route(get, "/v2/health/ready", self.ready, "Whether requests are welcome", public=True, hot=True),
        ]
        for path in (model, version):
            routes += [
                Route(get, path, self.metadata, "The model's tensors"),
                Route(get, f"{path}/ready", self.ready, "Whether requests are welcome", hot=True),
                Route(
                    ("POST",),
                    f"{path}/infer",
                    self.infer,
                    "Predict tensors, also binary ones",
                    hot=True,
                    at_once=self.infer_at_once,
                ),
            ]
        routes += [Route(get, f"/page/{name}", self.page, "A file of the page", public=True) for name in self.files]
        if "index.html" in self.files:
            routes.append(Route(get, "/", self.page, "The page", public=True))
        return [*routes, Route(get, "/favicon.ico", self.favicon, "The page's icon", public=True)]

    # --- predicting ---------------------------------------------------------------------------------------

    async def predict(self, scope: Scope, receive: Receive) -> Reply:
        """Answer ``POST /predict``."""
        kind = _content_type(scope)
        if kind not in CONTENT_TYPES:
            raise Problem(415, f"the content type must be one of {', '.join(t.decode() for t in CONTENT_TYPES)}")
        options: dict[str, object] = _options(scope["query_string"]) if scope["query_string"] else {}
        if kind == JSON_TYPE and options:
            raise Problem(400, "options of a JSON request are fields of its body, not of the query")
        body = await self.bodies.read(scope, receive)
        service = self.service
        if kind == JSON_TYPE:
            reply = self.predict_at_once(scope, body)
            if reply is not None:
                return reply
            return await self.room.run(lambda expired: _predicted(service.predict(_json(body), expired)))
        answer = service.predict_image if kind.startswith(b"image/") else service.predict_csv
        return await self.room.run(lambda expired: _predicted(answer(body, options, expired)))

    def predict_at_once(self, scope: Scope, body: bytes) -> Reply | None:
        """Answer a small request: few bytes, few rows, a quick model, no explanation."""
        small = (
            self._is_quick
            and len(body) <= SMALL_BODY
            and self.service.is_cheap(body.count(b"{") + body.count(b"["))
            and b"explain" not in body
            and b"images" not in body
            and _content_type(scope) == JSON_TYPE
        )
        return _predicted(self.service.predict(_json(body))) if small else None

    async def infer(self, scope: Scope, receive: Receive) -> Reply:
        """Answer ``POST /v2/models/NAME/infer``."""
        length = _json_length(scope)
        body = await self.bodies.read(scope, receive)
        reply = self.infer_at_once(scope, body)
        if reply is not None:
            return reply
        return await self.room.run(lambda expired: _inferred(*infer(self.service, body, length, expired)))

    def infer_at_once(self, scope: Scope, body: bytes) -> Reply | None:
        """Answer a small request."""
        if not (self._is_quick and len(body) <= SMALL_BODY and self.service.is_cheap(len(body) // 64)):
            return None
        return _inferred(*infer(self.service, body, _json_length(scope)))

    # --- telling ------------------------------------------------------------------------------------------

    async def schema(self, scope: Scope, receive: Receive) -> Reply:
        """Answer ``GET /schema``."""
        return self._schema

    async def metadata(self, scope: Scope, receive: Receive) -> Reply:
        """Answer ``GET /v2/models/NAME``."""
        return self._metadata

    async def server(self, scope: Scope, receive: Receive) -> Reply:
        """Answer ``GET /v2``."""
        return self._server

    async def live(self, scope: Scope, receive: Receive) -> Reply:
        """Answer ``GET /healthz``."""
        return Reply(200, (), b"")

    async def ready(self, scope: Scope, receive: Receive) -> Reply:
        """Answer ``GET /readyz``: the model is loaded and verified before the first connection is taken."""
        if self.is_draining():
            raise Problem(503, "the server is about to stop", headers=((b"retry-after", b"5"),))
        return Reply(200, (), b"")

    async def prometheus(self, scope: Scope, receive: Receive) -> Reply:
        """Answer ``GET /metrics``."""
        return Reply(200, ((b"content-type", CONTENT_TYPE),), self.metrics.text())

    async def page(self, scope: Scope, receive: Receive) -> Reply:
        """Answer ``GET /`` and ``GET /page/FILE``."""
        name = scope["path"].removeprefix("/page/") if scope["path"] != "/" else "index.html"
        return self.files[name].reply(header(scope, b"if-none-match"))

    async def favicon(self, scope: Scope, receive: Receive) -> Reply:
        """Answer ``GET /favicon.ico``."""
        for name in ("favicon.ico", "favicon.svg"):
            if name in self.files:
                return self.files[name].reply(header(scope, b"if-none-match"))
        return Reply(204, (), b"")


def _content_type(scope: Scope) -> bytes:
    found = header(scope, b"content-type") or b""
    return found if found == JSON_TYPE else found.partition(b";")[0].strip().lower()


def _json_length(scope: Scope) -> int | None:
    """Return how many bytes of the body are JSON, where the rest is tensors."""
    told = header(scope, b"inference-header-content-length")
    if told is not None and not (told.isdigit() and len(told) < 12):
        raise Problem(400, "the header Inference-Header-Content-Length is not a number")
    return None if told is None else int(told)


def _predicted(answer: dict[str, Any]) -> Reply:
    return Reply.json(answer, rows=len(answer["predictions"]))


def _inferred(buffers: list[bytes], length: int | None, n_rows: int) -> Reply:
    if length is None:
        return Reply(200, (JSON,), buffers[0], n_rows)
    headers = (BINARY, (b"inference-header-content-length", str(length).encode()))
    return Reply(200, headers, b"".join(buffers), n_rows)


def _json(body: bytes) -> Any:
    """Return the JSON of a body, which takes no liberties."""
    try:
        return strict_json(body, "the body")
    except ModelFileError as error:
        raise Problem(400, error.message) from None


def _options(query: bytes) -> dict[str, object]:
    """Return the options of a query string, as JSON has them: ``top=3&logits=true``.

    Examples
    --------
    >>> _options(b"top=3&coverage=0.9&logits=true")
    {'top': 3, 'coverage': 0.9, 'logits': True}
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=20)
    except (ValueError, UnicodeDecodeError):
        raise Problem(400, "the query cannot be read; options are NAME=VALUE&NAME=VALUE") from None
    found: dict[str, object] = {}
    for name, text in pairs:
        if name in found:
            raise Problem(400, f"the option {name[:40]!r} is given twice")
        found[name] = _value(text) if name in ("top", "coverage") else FLAGS.get(text.lower(), text)
    return found


def _value(text: str) -> object:
    try:
        return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else float(text)
    except ValueError:
        return text
