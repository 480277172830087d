"""``main``: from a command line to an exit code; every error is one line."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from softmaxnet.cli.parser import as_flags, build_parser, parse
from softmaxnet.cli.signals import Interrupts
from softmaxnet.cli.terminal import Terminal, print_json, require_stdout
from softmaxnet.errors import GateError, ResourceError, SoftmaxError, UsageError
from softmaxnet.findings import DataWarning

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; those of the process by default.

    Examples
    --------
    >>> main(["verify", "no-such-file.safetensors"])
    4
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # the process is ours alone
        sys.meta_path.insert(0, _NoPandas())
    terminal = Terminal(json="--json" in given, quiet="--quiet" in given)
    interrupts = Interrupts()
    with interrupts:
        try:
            code = _guarded(given, terminal, interrupts)
            _flush()
        except BrokenPipeError:
            _forget_stdout()  # whoever read it has enough
            code = 0
        except OSError as error:
            _forget_stdout()
            terminal.fail(f"standard output cannot be written: {error.strerror or error}")
            code = ResourceError.exit_code
    return code


class _NoPandas:
    """An import finder that says that pandas is not installed.

    pyarrow imports pandas, where it is there, to see whether an argument is one of its objects. No command has any,
    and for a few rows that import would take longer than all the rest.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse pandas and leave everything else to the finders that follow."""
        if name == "pandas":
            raise ModuleNotFoundError("the command line does without pandas", name=name)


def _guarded(given: list[str], terminal: Terminal, interrupts: Interrupts) -> int:
    """Run the command; its errors become messages and exit codes."""
    debug = "--debug" in given
    try:
        with _warnings_as_lines(terminal):
            return _run(given, terminal, interrupts)
    except SystemExit as stop:  # argparse has printed its help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        if not terminal.is_muted:
            terminal.fail("terminated" if interrupts.exit_code == 143 else "interrupted")
        return interrupts.exit_code or 130
    except Exception as error:
        if interrupts.received:  # it came in the middle of an import, which turned it into an error of its own
            terminal.fail("terminated" if interrupts.exit_code == 143 else "interrupted")
            return interrupts.exit_code
        if debug:
            traceback.print_exc()
        known = _known(error)
        if isinstance(known, UsageError):
            known.message, known.hint = as_flags(known.message), known.hint and as_flags(known.hint)
        if not getattr(error, "is_told", False):  # by another process of the same fit
            terminal.fail(str(known))
        if terminal.json and not isinstance(known, GateError):
            with contextlib.suppress(ResourceError):
                require_stdout()
                print_json({"error": known.to_dict() | {"exit_code": known.exit_code}})
        return known.exit_code


def _known(error: Exception) -> SoftmaxError:
    """Return an error as one of ours; one that nobody foresaw is a bug, and says how to see more of it."""
    if isinstance(error, SoftmaxError):
        return error
    if isinstance(error, MemoryError) or _out_of_gpu_memory(error):
        return ResourceError("out of memory.", hint="Fewer rows at a time, smaller batches or a smaller network help.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE):
        what = str(error.filename) if error.filename else "an output"
        return ResourceError(f"{what} cannot be read or written: {error.strerror or error}")
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "matplotlib"):
        extra = "train" if error.name == "torch" else "plot"
        return ResourceError(f"{error.name} is not installed.", hint=f"Install it: pip install 'softmaxnet[{extra}]'.")
    return SoftmaxError(
        f"unexpected {type(error).__name__}: {error}. This is a bug of softmaxnet; --debug shows where."
    )


def _out_of_gpu_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )


def _run(given: list[str], terminal: Terminal, interrupts: Interrupts) -> int:
    args = parse(given)
    args.program, args.arguments = main, given
    if args.version:
        from softmaxnet import __version__

        require_stdout()
        print(f"softmaxnet {__version__}")
        return 0
    if args.command is None:
        if given:
            raise UsageError("no command given.", hint="See 'softmaxnet --help'.")
        require_stdout()
        build_parser()[0].print_help()
        return UsageError.exit_code
    if terminal.json:
        require_stdout()
    return _command(args, terminal, interrupts)


def _command(args: argparse.Namespace, terminal: Terminal, interrupts: Interrupts) -> int:
    """Import the module of the command and run it."""
    run: Any
    if args.command == "fit":
        from softmaxnet.cli.fit import run
    elif args.command == "predict":
        from softmaxnet.cli.predict import run
    elif args.command == "evaluate":
        from softmaxnet.cli.evaluate import run
    elif args.command == "calibrate":
        from softmaxnet.cli.calibrate import run
    elif args.command == "explain":
        from softmaxnet.cli.explain import run
    elif args.command == "export":
        from softmaxnet.cli.export import run
    elif args.command == "serve":
        from softmaxnet.cli.serve import run
    elif args.command == "inspect":
        from softmaxnet.cli.models import run_inspect as run
    elif args.command == "verify":
        from softmaxnet.cli.models import run_verify as run
    elif args.command == "doctor":
        from softmaxnet.cli.doctor import run
    else:
        from softmaxnet.cli.show import run
    code: int = run(args, terminal, interrupts)
    return code


@contextlib.contextmanager
def _warnings_as_lines(terminal: Terminal) -> Iterator[None]:
    """Show our warnings as one line each, without the source line; those of libraries to their callers are dropped."""

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if "Triggered internally at" not in str(message):  # PyTorch, to programmers
            terminal.warn(as_flags(str(message)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", DataWarning)  # told among the findings, with the line
        warnings.showwarning = show
        yield


def _flush() -> None:
    """Write out what is buffered, while an error can still be told."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def _forget_stdout() -> None:
    """Let what is still buffered go nowhere, so that Python does not complain of it at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, sys.stdout.fileno())
        finally:
            os.close(nowhere)
