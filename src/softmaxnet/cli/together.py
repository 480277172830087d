"""A command in several processes: those that a launcher has started, or ``--processes`` of our own; one speaks."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal
from softmaxnet.errors import UsageError
from softmaxnet.processes import joined, place_of, run

if TYPE_CHECKING:
    from softmaxnet.communicator import Communicator

__all__ = ["in_processes"]

Work = Callable[["Communicator"], int]


def in_processes(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts, work: Work) -> int:
    """Return the exit code of some work, done by this process together with the others that there are to be.

    Parameters
    ----------
    args : Namespace
        With ``processes``, how many to start, and what each of them runs: ``program`` with ``arguments``.
    terminal : Terminal
        Is made silent in all processes but the first.
    interrupts : Interrupts
    work : callable of the communicator
    """
    place = place_of(os.environ)
    if args.processes is not None and place is not None and place.size != args.processes:
        raise UsageError(f"--processes is {args.processes}, and a launcher has started {place.size} processes.")
    if (place is not None or (args.processes or 1) > 1) and "-" in (args.train, args.valid):
        raise UsageError(
            "several processes cannot read the same standard input.", hint="Name a file, which each of them opens."
        )
    if place is None and (args.processes or 1) > 1:
        code: int = run(args.processes, _in_worker, args.program, args.arguments)
        return code
    with joined() as communicator:
        if not communicator.is_root:
            terminal.mute(f"process {communicator.rank}: ")
        try:
            return work(communicator)
        except Exception:
            if communicator.size > 1:
                interrupts.close()  # launchers terminate the rest when one has failed, and the reason is yet to be told
            raise


def _in_worker(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Run a command line in one of the processes; a SIGTERM that had to wait for its last word ends it then."""
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    code = main(arguments)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if came:
        os.kill(os.getpid(), signal.SIGTERM)
    return code
