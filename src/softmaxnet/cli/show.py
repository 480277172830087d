"""``softmaxnet demo``: the whole way once, on data that come with the installed packages."""

from __future__ import annotations

import argparse
from pathlib import Path

from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, require_stdout

__all__ = ["run"]


def run(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Fit, show, write, verify."""
    from softmaxnet.demo import run_demo

    require_stdout()
    run_demo(Path(args.out), print_line=lambda text: terminal.answer(text, {}))
    return interrupts.exit_code
