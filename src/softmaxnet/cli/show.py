"""``softmaxnet demo``: the whole way once, on data that come with the installed packages; or a page to draw on."""

from __future__ import annotations

import argparse
from pathlib import Path

from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, require_stdout

__all__ = ["run"]


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Fit, show, write, verify; or fit and serve."""
    require_stdout()
    if args.serve:
        return _serve(args, terminal)
    from softmaxnet.demo import run_demo

    run_demo(Path(args.out), print_line=lambda text: terminal.answer(text, {}))
    return interrupts.exit_code


def _serve(args: argparse.Namespace, terminal: Terminal) -> int:
    """Fit digits for people to draw, and show the page until Ctrl-C."""
    from softmaxnet.server.run import listen, url
    from softmaxnet.server.serve import serve
    from softmaxnet.server.settings import Settings

    with listen(Settings(model="", port=args.port)) as taken:  # a port that is taken is told before the fit
        port = int(url(Settings(model="", port=args.port), taken).rstrip("/").rpartition(":")[2])
    from softmaxnet.demo import write_drawn_digits

    path = write_drawn_digits(Path(args.out), print_line=terminal.say)

    def on_ready(address: str) -> None:
        terminal.answer(f"Draw digits at {address}  (Ctrl-C stops)", {})
        if not args.no_browser:
            _open(address, terminal)

    return serve(Settings(model=str(path), port=port), on_ready)


def _open(address: str, terminal: Terminal) -> None:
    """Show the page in the person's browser, where there is one; never wait for it."""
    import threading
    import webbrowser

    def show() -> None:
        try:
            shown = webbrowser.open(address)
        except (webbrowser.Error, OSError):
            shown = False
        if not shown:
            terminal.say("No browser could be opened here; type the address into one.")

    threading.Thread(target=show, daemon=True).start()
