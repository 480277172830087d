"""``softmaxnet serve``: a model over HTTP until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import os

from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, print_json, require_stdout

__all__ = ["run"]


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Serve; 0 where all that was taken was answered, 130 or 143 where some was cut off."""
    from softmaxnet.server.serve import serve
    from softmaxnet.server.settings import Settings

    settings = Settings(
        model=args.model,
        host=args.host,
        port=args.port,
        token_file=args.token_file,
        no_auth=args.insecure_no_auth,
        allowed_hosts=tuple(args.allow_host),
        max_body=args.max_body,
        max_rows=args.max_rows,
        concurrency=args.max_requests,
        header_seconds=args.header_seconds,
        body_seconds=args.body_seconds,
        compute_seconds=args.compute_seconds,
        drain_delay=args.drain_delay,
        workers=args.workers,
        log="json" if args.log_json else "text" if args.verbose else "none",
    )
    if settings.token_file is None and settings.no_auth:
        terminal.warn("anybody who reaches this server may ask it: --insecure-no-auth")

    def on_ready(url: str) -> None:
        if terminal.json:
            require_stdout()
            port = int(url.rstrip("/").rpartition(":")[2])
            print_json({"url": url, "port": port, "pid": os.getpid(), "model": args.model})
        terminal.say(f"serving {args.model} at {url}  (Ctrl-C stops)")

    code = serve(settings, on_ready)
    terminal.say("stopped" if code == 0 else "stopped; some requests were cut off")
    return code
