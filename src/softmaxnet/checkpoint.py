"""Checkpoints of a training run: all that it needs to go on as if it had never stopped, in a folder of two files.

::

    FOLDER/a.safetensors    written in turns, each atomically and with the SHA-256 of itself inside,
    FOLDER/b.safetensors    so that whatever happens to the one being written the other is whole

Each holds the tensors of the run (weights, moments, average, the best so far), its history and counters, and what it
is a run of: the rows' digest, the seed and every setting. A run of anything else is not gone on with.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softmaxnet.data.atomic import atomic_output
from softmaxnet.errors import ModelFileError, UsageError
from softmaxnet.tensor_file import DIGEST_ZEROS, canonical_json, encode, read_container, strict_json

__all__ = ["Checkpoint", "Checkpoints", "arrays_digest", "generations", "newest", "remove"]

FORMAT = "softmaxnet-checkpoint"
FORMAT_VERSION = 1
NAMES = ("a.safetensors", "b.safetensors")
PARTS = ("", "bins-", "dropped-")
"""What the names of the files begin with: a run may have parts, each with checkpoints of its own."""
HISTORY = "history"
"""The tensor that holds the history, a row for each epoch; no parameter is called so."""
DESCRIPTION = {
    "format": str,
    "format_version": int,
    "digest": str,
    "serial": int,
    "fingerprint": dict,
    "state": dict,
    "history_columns": list,
}
EVERY_SECONDS = 1.0
COST_RATIO = 20
"""Training lasts at least this many times as long as writing, so that large networks are not slowed either."""


@dataclass(frozen=True)
class Checkpoint:
    """One generation as it was read.

    Attributes
    ----------
    path : Path
    serial : int
        Counts the checkpoints of a run; the higher one is the newer one.
    fingerprint : dict
        What it is a run of, by name.
    state : dict
        Plain JSON data: counters.
    tensors : dict of str to ndarray
    history : list of dict
    """

    path: Path
    serial: int
    fingerprint: dict[str, Any]
    state: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    history: list[dict[str, float]]


def generations(folder: str | Path, part: str = "") -> list[Path]:
    """Return the files of a folder that are checkpoints by their names, whole or not."""
    return [path for path in (Path(folder) / (part + name) for name in NAMES) if path.is_file()]


def newest(folder: str | Path, part: str = "") -> Checkpoint | None:
    """Return the newest checkpoint that is as it was written, or None where there is none.

    A file that is not is named in a warning, with what is wrong with it.
    """
    found: Checkpoint | None = None
    for path in generations(folder, part):
        try:
            checkpoint = _read(path)
        except ModelFileError as error:
            warnings.warn(f"checkpoint {path} is skipped: {error.message.rstrip('.')}", stacklevel=2)
        except OSError as error:
            warnings.warn(f"checkpoint {path} is skipped: {error.strerror or error}", stacklevel=2)
        else:
            if found is None or checkpoint.serial > found.serial:
                found = checkpoint
    return found


def remove(folder: str | Path) -> None:
    """Remove the checkpoints of a folder, what a killed run left half-written, and the folder if that empties it."""
    folder = Path(folder)
    if not folder.is_dir() or folder.is_symlink():
        return
    for name in (part + name for part in PARTS for name in NAMES):
        for path in (folder / name, *folder.glob(f".{name}.*.tmp")):
            with contextlib.suppress(OSError):
                path.unlink()
    with contextlib.suppress(OSError):  # holds something that is not ours
        folder.rmdir()


def arrays_digest(arrays: Iterable[NDArray[Any] | None]) -> str:
    """Return the SHA-256 of arrays: their values, types and shapes, in order.

    Examples
    --------
    >>> import numpy as np
    >>> arrays_digest([np.arange(3), None])[:8] == arrays_digest([np.arange(3), np.arange(0)])[:8]
    False
    """
    hasher = sha256()
    for array in arrays:
        if array is None:
            hasher.update(b"none;")
            continue
        hasher.update(f"{array.dtype.str}{array.shape};".encode())
        if array.dtype.hasobject:
            hasher.update("".join(f"{len(text)}:{text}" for text in map(repr, array.ravel())).encode())
        elif array.size:
            hasher.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


class Checkpoints:
    """Where a run keeps its checkpoints.

    Parameters
    ----------
    folder : str or Path
        Made when the first checkpoint is written.
    fingerprint : mapping
        What it is a run of, by name: plain JSON data.
    found : Checkpoint, optional
        What :func:`newest` returned, to go on from.
    every_seconds : float, optional
        Training between two checkpoints [s], at least; more where writing one takes longer than a 20th of it.

    Raises
    ------
    UsageError
        Where ``found`` is of a run of something else, with what differs.
    """

    def __init__(
        self,
        folder: str | Path,
        fingerprint: Mapping[str, Any],
        *,
        found: Checkpoint | None = None,
        every_seconds: float | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._part = ""
        self._goes_on = found is not None
        # Through JSON and back, as what it is compared with: tuples are lists there.
        self.fingerprint = strict_json(canonical_json(dict(fingerprint)).encode("utf-8"), "the fingerprint")
        if found is not None:
            _refuse_other(found, self.fingerprint)
        self.every_seconds = EVERY_SECONDS if every_seconds is None else every_seconds
        self._found = found
        self._serial = 0 if found is None else found.serial
        self._next = 1 if found is not None and found.path.name.endswith(NAMES[0]) else 0
        self._due_at = time.monotonic() + self.every_seconds
        self._has_failed = False

    def part(self, name: str) -> Checkpoints:
        """Return the checkpoints of a part of the run, which begins when the parts before it are done.

        A run that goes on does so with the newest checkpoint of each of its parts.
        """
        if not name:
            return self
        about = {**self.fingerprint, "part": name}
        found = newest(self.folder, f"{name}-") if self._goes_on else None
        part = Checkpoints(self.folder, about, found=found, every_seconds=self.every_seconds)
        part._part = f"{name}-"
        return part

    def take(self) -> Checkpoint | None:
        """Return what the run goes on from, once: its tensors need not stay in memory."""
        found, self._found = self._found, None
        self._due_at = time.monotonic() + self.every_seconds
        return found

    def is_due(self) -> bool:
        """Whether it is time for another checkpoint."""
        return time.monotonic() >= self._due_at

    def save(
        self,
        tensors: Mapping[str, NDArray[Any]],
        state: Mapping[str, Any],
        history: Sequence[Mapping[str, float]],
    ) -> bool:
        """Write a checkpoint in place of the older one; return whether that went well.

        Training does not end because a disk is full: the first failure is a warning, and the last checkpoint that was
        written whole stays.
        """
        started = time.monotonic()
        written = False
        try:
            self._write(tensors, state, history)
        except (OSError, ModelFileError) as error:
            if not self._has_failed:
                warnings.warn(f"no checkpoint could be written, training goes on: {error}", stacklevel=3)
            self._has_failed = True
        else:
            written = True
            self._serial += 1
            self._next = 1 - self._next
        ended = time.monotonic()
        self._due_at = ended + max(self.every_seconds, COST_RATIO * (ended - started) if self.every_seconds else 0)
        return written

    def remove(self) -> None:
        """Remove every checkpoint, and the folder if that empties it."""
        remove(self.folder)

    def _write(
        self,
        tensors: Mapping[str, NDArray[Any]],
        state: Mapping[str, Any],
        history: Sequence[Mapping[str, float]],
    ) -> None:
        columns = list(history[0]) if history else []
        table = np.array([[line[name] for name in columns] for line in history], dtype=np.float64)
        description = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "digest": DIGEST_ZEROS,
            "serial": self._serial + 1,
            "fingerprint": self.fingerprint,
            "state": dict(state),
            "history_columns": columns,
        }
        table = table.reshape(len(history), len(columns))
        buffers, _ = encode({**tensors, HISTORY: table}, canonical_json(description))
        self.folder.mkdir(exist_ok=True)
        with atomic_output(self.folder / (self._part + NAMES[self._next]), force=True) as file:
            for buffer in buffers:
                file.write(buffer)


def _read(path: Path) -> Checkpoint:
    with path.open("rb") as file:
        container = read_container(file, os.fstat(file.fileno()).st_size)
        about = strict_json(container.text.encode("utf-8"), "the description")
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise ModelFileError("it is not a checkpoint")
        if about.get("format_version") != FORMAT_VERSION:
            raise ModelFileError("another version of softmaxnet wrote it")
        if set(about) != set(DESCRIPTION) or any(type(about[name]) is not kind for name, kind in DESCRIPTION.items()):
            raise ModelFileError("its description lacks something or has it twice")
        tensors = container.read(file, about["digest"])
    table, columns = tensors.pop(HISTORY, None), about["history_columns"]
    if table is None or table.ndim != 2 or table.shape[1] != len(columns):
        raise ModelFileError("it has no history")
    history = [dict(zip(columns, line, strict=True)) for line in table.tolist()]
    for line in history:
        if line["epoch"].is_integer():  # a part of an epoch is shown after each round of a long one
            line["epoch"] = int(line["epoch"])
    return Checkpoint(path, about["serial"], about["fingerprint"], about["state"], tensors, history)


def _refuse_other(found: Checkpoint, fingerprint: Mapping[str, Any]) -> None:
    """Raise where a checkpoint is of a run of something else, naming what differs."""
    then = found.fingerprint
    differing = [name for name in fingerprint if then.get(name) != fingerprint[name]]
    differing += [name for name in then if name not in fingerprint]
    if not differing:
        return
    shown = [_difference(name, then.get(name), fingerprint.get(name)) for name in differing[:5]]
    raise UsageError(
        f"the checkpoints are of another run: {'; '.join(shown)}{'; ...' if len(differing) > 5 else ''}",
        file=str(found.path.parent),
        hint="Give the data and settings of that run, or start again without resuming.",
    )


def _difference(name: str, then: object, now: object) -> str:
    if name.endswith("rows") or name == "random_state":  # digests and drawn seeds tell a person nothing
        return f"other {name}"
    return f"{name} was {then}, now {now}"
