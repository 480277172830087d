"""One body for every error: problem details (RFC 9457) with the ``error`` that the protocol v2 demands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, TypeAlias

from softmaxnet.errors import SoftmaxError
from softmaxnet.request_rows import RowsError

__all__ = ["Headers", "Problem", "Reply"]

Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]

JSON = (b"content-type", b"application/json")
PROBLEM_JSON = (b"content-type", b"application/problem+json")
TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
"""Those of RFC 9110, which older Pythons name otherwise."""


class Reply:
    """An answer: status, headers without the length, body."""

    __slots__ = ("body", "headers", "rows", "status")

    def __init__(self, status: int, headers: Headers, body: bytes, rows: int = 0) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.rows = rows

    @classmethod
    def json(cls, value: Any, status: int = 200, rows: int = 0) -> Reply:
        """Return a value as JSON; one that is not finite is a bug of ours and raises."""
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return cls(status, (JSON,), text.encode("utf-8", "replace"), rows)


class Problem(Exception):
    """An error as it is answered.

    Parameters
    ----------
    status : int
    detail : str
        One sentence, without anything that the request held but names of fields.
    errors : sequence of dict
        ``row``, ``column``, ``message`` of cells at fault.
    headers : tuple of pairs of bytes
    """

    def __init__(
        self, status: int, detail: str, *, errors: Sequence[dict[str, Any]] = (), headers: Headers = ()
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = list(errors)
        self.headers = headers

    @classmethod
    def of(cls, error: SoftmaxError) -> Problem:
        """Return an error of the package as one.

        Examples
        --------
        >>> from softmaxnet.errors import DataError
        >>> Problem.of(DataError("row 3, column 'age': not a number", hint="Leave it empty.")).detail
        "row 3, column 'age': not a number. Leave it empty."
        """
        text = error.message.rstrip(".")
        detail = f"{text}. {error.hint}" if error.hint else text
        return cls(error.http_status, detail, errors=error.errors if isinstance(error, RowsError) else ())

    def reply(self, path: str) -> Reply:
        """Return the answer."""
        title = TITLES.get(self.status) or HTTPStatus(self.status).phrase
        body = {
            "type": "about:blank",
            "title": title,
            "status": self.status,
            "detail": self.detail,
            "instance": path[:200],
            "errors": self.errors,
            "error": self.detail,
        }
        text = json.dumps(body, separators=(",", ":"))  # ASCII: whatever a name holds, it is a text of JSON
        return Reply(self.status, (PROBLEM_JSON, *self.headers), text.encode())
