"""A line a request on standard error: no header, no query, no body is ever in it."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from softmaxnet.server.body import Scope

__all__ = ["AccessLog"]


class AccessLog:
    """Writes a line for each request, as text or as JSON.

    Parameters
    ----------
    form : "none", "text" or "json"
    """

    def __init__(self, form: str) -> None:
        self.form = form
        self.enabled = form != "none"

    def request(self, scope: Scope, status: int, rows: int, seconds: float) -> None:
        """Write the line of one request."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        client = scope["client"][0] if scope.get("client") else "-"
        path = ascii(scope["path"])[1:-1][:200]
        if self.form == "json":
            line = json.dumps(
                {
                    "time": now,
                    "client": client,
                    "method": scope["method"],
                    "path": path,
                    "status": status,
                    "rows": rows,
                    "seconds": round(seconds, 6),
                }
            )
        else:
            counted = f" {rows} row{'' if rows == 1 else 's'}" if rows else ""
            line = f"{now} {client} {scope['method']} {path} {status}{counted} {seconds * 1000:.1f} ms"
        sys.stderr.write(line + "\n")
