"""The files of the page, read once when the server starts: nothing that a path says reaches the file system."""

from __future__ import annotations

import hashlib
from importlib import resources

from softmaxnet.server.problem import Headers, Reply

__all__ = ["PAGE_HEADERS", "PageFile", "page_files"]

TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
    "png": b"image/png",
    "ico": b"image/x-icon",
    "json": b"application/json",
    "woff2": b"font/woff2",
    "webmanifest": b"application/manifest+json",
}
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS: Headers = (
    (b"content-security-policy", POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-cache"),
)


class PageFile:
    """A file of the page, ready to be sent."""

    def __init__(self, name: str, data: bytes) -> None:
        self.etag = b'"' + hashlib.sha256(data).hexdigest()[:32].encode() + b'"'
        kind = TYPES[name.rpartition(".")[2]]
        self.found = Reply(200, ((b"content-type", kind), (b"etag", self.etag), *PAGE_HEADERS), data)
        self.unchanged = Reply(304, ((b"etag", self.etag), *PAGE_HEADERS), b"")

    def reply(self, known: bytes | None) -> Reply:
        """Return the file, or that the copy with the tag ``known`` is still good."""
        return self.unchanged if known is not None and self.etag in known else self.found


def page_files() -> dict[str, PageFile]:
    """Return the files of the page by name."""
    folder = resources.files("softmaxnet.server").joinpath("page")
    if not folder.is_dir():
        return {}
    return {
        entry.name: PageFile(entry.name, entry.read_bytes())
        for entry in folder.iterdir()
        if entry.is_file() and entry.name.rpartition(".")[2] in TYPES
    }
