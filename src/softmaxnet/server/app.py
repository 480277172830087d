"""The application: who may ask, in what order things are checked, and how every answer leaves.

::

    request -> Front: host, token, site, load -> hot paths, or FastAPI -> reply + security headers -> metrics, log

The hot paths are answered before FastAPI is asked: its routing and middleware take longer than a small model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from softmaxnet.errors import SoftmaxError
from softmaxnet.machine import available_threads
from softmaxnet.server.access_log import AccessLog
from softmaxnet.server.body import CLOSE, COMPLETE, RETRY, BodyReader, Receive, Scope, header
from softmaxnet.server.handlers import CROSS_SITE, Handlers, Route
from softmaxnet.server.metrics import Metrics
from softmaxnet.server.openapi import details
from softmaxnet.server.problem import Headers, Problem, Reply
from softmaxnet.server.settings import Settings, Token
from softmaxnet.server.work import Workroom
from softmaxnet.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

__all__ = ["Front"]

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MOST_THREADS = 4
SECURITY_HEADERS = ((b"x-content-type-options", b"nosniff"),)
ANSWER_HEADERS = (
    *SECURITY_HEADERS,
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
logger = logging.getLogger("softmaxnet.server")


class Front:
    """The ASGI application around a service.

    Parameters
    ----------
    service : Service
    settings : Settings
    """

    def __init__(self, service: Service, settings: Settings) -> None:
        self.settings = settings
        self.draining = False
        self.tasks: set[Any] | None = None
        """Of the server below: the requests whose headers have come; without it they are counted here."""
        self._counted = 0
        self.bodies = BodyReader(settings.max_body, settings.body_seconds)
        self.room = Workroom(min(available_threads(), MOST_THREADS), settings.compute_seconds)
        self.metrics = Metrics(service.name, service.digest, self.in_flight)
        self.log = AccessLog(settings.log)
        self.token = None if settings.token_file is None else Token.read(settings.token_file)
        self.hosts = settings.hosts()
        self.service = service
        handlers = Handlers(service, self.bodies, self.room, self.metrics, lambda: self.draining)
        self.routes = {(method, route.path): route for route in handlers.routes() for method in route.methods}
        self.paths = {route.path for route in self.routes.values()}
        self.at_once = {route.path.encode(): route for route in self.routes.values() if route.at_once is not None}
        """Paths, as they come over the wire, of requests that may be answered without a task of their own."""
        self._this_turn = 0
        self.api = make_api(service, list({id(route): route for route in self.routes.values()}.values()))

    def in_flight(self) -> int:
        """Return how many requests are complete and not yet answered."""
        return (self._counted if self.tasks is None else len(self.tasks)) - self.bodies.waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        self._counted += 1
        route = self.routes.get((scope["method"], scope["path"]))
        try:
            reply = await self._answer(scope, receive, route)
            await self._send(scope, receive, send, reply)
        finally:
            self._counted -= 1
        seconds = time.perf_counter() - started
        path = scope["path"] if scope["path"] in self.paths else "other"
        self.metrics.count(path, reply.status, seconds, reply.rows)
        if self.log.enabled:
            self.log.request(scope, reply.status, reply.rows, seconds)

    def answer_at_once(self, scope: Scope, body: bytes, route: Route) -> Reply | None:
        """Return the answer to a small request whose body is there, or None where it needs a task of its own.

        Such requests are answered as they are read, so they never wait here. What waits is in the sockets; of the
        requests that one turn of the event loop finds there, those beyond ``concurrency`` are refused.
        """
        started = time.perf_counter()
        if not self._this_turn:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._this_turn += 1
        try:
            self._guard(scope, route)
            if self._this_turn > self.settings.concurrency:
                raise Problem(503, "too many requests at once; try again", headers=RETRY)
            assert route.at_once is not None
            reply = route.at_once(scope, body)
            if reply is None:
                return None
        except Exception as error:
            reply = self._reply_to(error, scope)
        seconds = time.perf_counter() - started
        self.metrics.count(route.path, reply.status, seconds, reply.rows)
        if self.log.enabled:
            self.log.request(scope, reply.status, reply.rows, seconds)
        return reply

    def _next_turn(self) -> None:
        self._this_turn = 0

    async def _answer(self, scope: Scope, receive: Receive, route: Route | None) -> Reply:
        """Return the answer; whatever goes wrong becomes one."""
        try:
            self._guard(scope, route)
            if route is not None and route.hot:
                return await route.handler(scope, receive)
            return await self._ask_fastapi(scope, receive)
        except Exception as error:
            return self._reply_to(error, scope)

    @staticmethod
    def _reply_to(error: Exception, scope: Scope) -> Reply:
        """Return the answer for whatever went wrong."""
        if isinstance(error, Problem):
            problem = error
        elif isinstance(error, SoftmaxError):
            problem = Problem.of(error)
        elif isinstance(error, MemoryError):
            problem = Problem(507, "not enough memory for this request")
        else:
            where = (scope["method"], scope["path"])
            logger.error("an error that nobody foresaw, in the answer to %s %a", *where, exc_info=error)
            problem = Problem(500, "an error of the server; its log says more")
        return problem.reply(scope["path"])

    def _guard(self, scope: Scope, route: Route | None) -> None:
        """Raise for a request that is not to be answered: wrong host, no token, another site, too much to do."""
        public = route is not None and route.public
        is_health = public and route is not None and route.hot  # who looks after a process asks by its address
        if self.hosts is not None and not is_health:
            self._check_host(scope)
        if self.token is not None and not public and not self.token.matches(header(scope, b"authorization")):
            raise Problem(
                401,
                "a token is needed: Authorization: Bearer TOKEN",
                headers=((b"www-authenticate", b'Bearer realm="softmaxnet"'), *CLOSE),
            )
        if scope["method"] == "POST" and header(scope, b"sec-fetch-site") in CROSS_SITE:
            raise Problem(403, "pages of other sites may not ask this server", headers=CLOSE)
        if self.in_flight() > self.settings.concurrency and not public:
            raise Problem(503, "too many requests at once; try again", headers=RETRY)

    def _check_host(self, scope: Scope) -> None:
        """Raise where the header Host, which a rebound name of another site would be in, is not one of ours."""
        given = [value for key, value in scope["headers"] if key == b"host"]
        name = given[0].decode("latin-1").strip().lower() if len(given) == 1 else ""
        if not name.endswith("]"):
            before, colon, port = name.rpartition(":")
            name = before if colon and port.isdigit() else name
        assert self.hosts is not None
        if name not in self.hosts:
            raise Problem(400, "the header Host is not a name of this server (--allow-host NAME)", headers=CLOSE)

    async def _ask_fastapi(self, scope: Scope, receive: Receive) -> Reply:
        """Return FastAPI's answer as one of ours."""
        start: MutableMapping[str, Any] = {}
        chunks: list[bytes] = []

        async def keep(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                chunks.append(message.get("body", b""))

        await self.api(scope, receive, keep)
        headers = tuple((key, value) for key, value in start["headers"] if key != b"content-length")
        return Reply(start["status"], headers, b"".join(chunks))

    async def _send(self, scope: Scope, receive: Receive, send: Send, reply: Reply) -> None:
        """Send an answer; one that refuses a body is followed by a moment in which the body may run out."""
        headers = [*reply.headers, *security_headers(reply)]
        if reply.status not in (204, 304):
            headers.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        linger = reply.status in (401, 403, 413, 415) and scope["method"] == "POST" and COMPLETE not in scope
        await send({"type": "http.response.body", "body": reply.body, "more_body": linger})
        if linger:
            await self.bodies.discard(receive)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def security_headers(reply: Reply) -> Headers:
    """Return the headers that every answer has: those of the page bring a policy of their own."""
    page = any(key == b"content-security-policy" for key, _ in reply.headers)
    return SECURITY_HEADERS if page else ANSWER_HEADERS


def make_api(service: Service, routes: list[Route]) -> FastAPI:
    """Return the FastAPI application with every path, its OpenAPI document and our body for its errors."""
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException

    import softmaxnet

    api = FastAPI(
        title=f"softmaxnet: {service.name}",
        version=softmaxnet.__version__,
        description="Class probabilities of one model. Errors are problem details (RFC 9457).",
        docs_url=None,  # it would load its scripts from another site
        redoc_url=None,
    )
    for route in routes:
        # HEAD is answered and not listed: it is GET without a body
        methods = [method for method in route.methods if method != "HEAD"]
        listed = not route.path.startswith(("/page/", "/favicon"))
        endpoint = _endpoint(route)
        api.add_api_route(route.path, endpoint, methods=methods, include_in_schema=listed, **details(route))
        if "HEAD" in route.methods:
            api.add_api_route(route.path, endpoint, methods=["HEAD"], include_in_schema=False)

    async def refuse(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        given = getattr(error, "headers", None) or {}
        headers = tuple((name.lower().encode(), value.encode()) for name, value in given.items())
        return _response(_http_problem(service, request.url.path, status, headers).reply(request.url.path))

    api.add_exception_handler(HTTPException, refuse)
    return api


def _http_problem(service: Service, path: str, status: int, headers: tuple[tuple[bytes, bytes], ...]) -> Problem:
    if status == 404 and path.startswith("/v2/models/") and not path.startswith(f"/v2/models/{service.name}/"):
        return Problem(404, f"there is no such model; this server has {service.name!r}, version 1")
    texts = {404: "there is nothing at this path; see /openapi.json", 405: "this path does not take that method"}
    return Problem(status, texts.get(status, "the request cannot be answered"), headers=headers)


def _endpoint(route: Route) -> Callable[..., Awaitable[Response]]:
    """Return a handler as FastAPI calls it."""
    from fastapi import Request, Response

    async def endpoint(request: Request) -> Response:
        return _response(await route.handler(request.scope, request.receive))

    endpoint.__annotations__ = {"request": Request, "return": Response}  # FastAPI looks names up where it cannot see
    endpoint.__name__ = f"{route.handler.__name__}"
    return endpoint


def _response(reply: Reply) -> Response:
    from fastapi import Response

    response = Response(reply.body, reply.status)
    response.raw_headers = [*reply.headers, (b"content-length", str(len(reply.body)).encode())]
    return response
