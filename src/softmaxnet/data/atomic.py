"""Write a file so that its path holds the old content whole or the new content whole, never a part."""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from softmaxnet.errors import ResourceError, UsageError

__all__ = ["atomic_output", "check_output", "is_device"]


def check_output(path: str | Path, *, force: bool = False) -> Path:
    """Return the path where a file may be written there; for a check before long work.

    Raises
    ------
    UsageError
        Where it is a folder, or a file is there and ``force`` is not given.
    ResourceError
        Where its folder does not exist.
    """
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        raise UsageError("the output is a folder; name a file in it", file=str(path))
    if is_device(path):
        return path  # it is written to, and never replaced by a file
    if not force and os.path.lexists(path):
        raise UsageError("the output exists", file=str(path), hint="Use --force to replace it.")
    folder = path.parent
    if not folder.is_dir():
        raise ResourceError(
            f"the output's folder does not exist{_nearest_folder(folder)}",
            file=str(path),
            hint=f"Make it: mkdir -p {shlex.quote(str(folder))}.",
        )
    return path


def is_device(path: str | Path) -> bool:
    """Whether something is there that is neither a file nor a folder: /dev/null, /dev/stdout, a pipe."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _nearest_folder(folder: Path) -> str:
    """Return, for a message, the folder that was probably meant, or the deepest one on the way that is there."""
    there = next((parent for parent in folder.parents if parent.is_dir()), None)
    if there is None:
        return ""
    missing = folder.relative_to(there).parts[0]
    with contextlib.suppress(OSError):
        near = difflib.get_close_matches(missing, [entry.name for entry in there.iterdir() if entry.is_dir()], n=1)
        if near:
            return f"; did you mean {there / near[0] / Path(*folder.relative_to(there).parts[1:])}?"
    return "" if there in (Path(), folder.parent) else f"; there is {there}"


@contextlib.contextmanager
def atomic_output(path: str | Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place when the block ends without an error.

    The bytes are flushed to the disk before the name is changed, and the folder after it. On any error the
    temporary file is removed and what was at ``path`` is untouched.

    Parameters
    ----------
    path : str or Path
    force : bool
        True: a file that is there is replaced. A link is followed: what it points to is replaced.

    Raises
    ------
    UsageError
        Where a file is there and ``force`` is not given.
    ResourceError
        Where the disk is full, or the folder cannot be written to, with the path and the bytes written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_output(Path(folder) / "a") as file:
    ...         _ = file.write(b"new")
    ...     (Path(folder) / "a").read_bytes()
    b'new'
    """
    given = check_output(path, force=force)
    if is_device(given):
        with open(given, "wb") as device:
            yield device
        return
    target = Path(os.path.realpath(given))
    temporary: str | None = None
    n_bytes = 0
    try:
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent
        )
        with os.fdopen(descriptor, "wb") as file:
            try:
                yield cast(BinaryIO, file)
            finally:
                with contextlib.suppress(OSError, ValueError):
                    n_bytes = file.tell()
            file.flush()
            n_bytes = file.tell()
            os.fsync(file.fileno())
        _take_mode(temporary, target)
        if not force and os.path.lexists(target):
            raise UsageError("the output has come to exist meanwhile", file=str(path), hint="Use --force.")
        os.replace(temporary, target)
        temporary = None
        _sync_folder(target.parent)
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(
            f"cannot be written ({n_bytes:,} bytes so far): {error.strerror or error}", file=str(given)
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _take_mode(temporary: str, target: Path) -> None:
    """Give the new file the permissions of the old one, or those that a plain open would give."""
    with contextlib.suppress(OSError):
        if target.exists():
            os.chmod(temporary, target.stat().st_mode & 0o7777)
        elif os.name == "posix":
            os.chmod(temporary, 0o644)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows cannot open a folder
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        import errno

        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)
