"""A path, a folder, a glob or a pipe -> a Dataset. This file only finds out what it is and who reads it."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from softmaxnet.data.columns import Roles, concatenated, dataset_from_rows
from softmaxnet.data.dataset import BadRowLog, Dataset, OnBadRow
from softmaxnet.data.delimited import read_delimited
from softmaxnet.data.idx import find_idx, read_idx_folder
from softmaxnet.data.images import find_images, read_image_file, read_image_folder
from softmaxnet.data.jsonlines import read_jsonlines
from softmaxnet.data.labels import label_array
from softmaxnet.data.npz import read_npz
from softmaxnet.data.opening import STDIN, read_bytes, require_exists, what_it_is
from softmaxnet.data.parquet import find_parquet, read_parquet, read_parquet_folder
from softmaxnet.data.table import TableRows
from softmaxnet.errors import DataError, ResourceError, UsageError

__all__ = ["read_dataset"]

Part = Literal["train", "test"]

ACCEPTED = (
    "CSV or TSV (also .gz, .zst), JSON lines, Parquet, .npz, an IDX folder, an image folder CLASS/FILE.png"
)

_FOREIGN = {
    "zip": "a zip archive (an Excel file is one)",
    "npy": "a single NumPy array; X and y go into one .npz",
    "arrow": "an Arrow IPC file",
    "pdf": "a PDF",
    "sqlite": "an SQLite database",
    "ole": "an old Office file",
}


def read_dataset(
    path: str | Path,
    *,
    target: str | None = None,
    weights: str | None = None,
    group: str | None = None,
    part: Part = "train",
    reader: Mapping[str, object] | None = None,
    on_bad_row: OnBadRow = "fail",
    need_target: bool = True,
) -> Dataset:
    r"""Read rows, and their labels where they are there, from a file, a folder, a glob or a pipe.

    Parameters
    ----------
    path : str or Path
        ``"-"`` is the standard input. What a file is, is told by its first bytes; see docs/data-files.md.
    target, weights, group : str, optional
        Columns that are not inputs: the labels, the weight of each row (at least 0), the group of each row.
    part : {"train", "test"}
        Which half of an IDX folder, or of an image folder that has ``train`` and ``test``.
    reader : mapping, optional
        Settings of the format, as `Dataset.reader` gives them back: what is not given is found.
    on_bad_row : {"fail", "skip", "keep"} or int
        Raise at the first bad row, drop all, keep each in its place with nulls, or drop at most so many.
    need_target : bool
        False: the columns with a role may be absent, and a missing label is no fault.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        With file, line and column, for anything that cannot be read.
    UsageError
        For settings that cannot be, or a target that is needed and not named.
    ResourceError
        For a file that may not be read, or does not fit into memory.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "a.csv"
    ...     _ = path.write_text("age,label\n31,yes\n,no\n")
    ...     data = read_dataset(path, target="label")
    >>> data.X.to_pydict(), data.y.tolist(), data.row_lines.tolist()
    ({'age': ['31', None]}, ['yes', 'no'], [2, 3])
    """
    if part not in ("train", "test"):
        raise UsageError(f"part must be 'train' or 'test'. Got {part!r}.")
    roles = Roles(target, weights, group, need_target)
    log = BadRowLog(on_bad_row)
    try:
        if str(path) == "-":
            return _from_file(None, roles, reader, log)
        where = Path(os.path.expanduser(path))
        if glob.has_magic(str(where)) and not os.path.lexists(where):
            return _from_glob(str(where), roles, reader, log)
        require_exists(where)
        if where.is_dir():
            return _from_folder(where, part, roles, reader, log)
        return _from_file(where, roles, reader, log)
    except MemoryError:
        raise ResourceError("not enough memory to hold the data", file=str(path)) from None
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(f"cannot be read: {error.strerror or error}", file=str(path)) from error


def _from_file(
    path: Path | None, roles: Roles, reader: Mapping[str, object] | None, log: BadRowLog
) -> Dataset:
    source = STDIN if path is None else str(path)
    data = read_bytes(path)
    kind = what_it_is(data)
    if kind == "image":
        return _from_images(read_image_file(data, source, reader), source, roles, log)
    if kind == "zip" and _is_npz(data, path):
        return _from_npz(data, source, roles)
    return dataset_from_rows(_table_rows(data, path, source, kind, reader, log), source, roles, log)


def _is_npz(data: bytes, path: Path | None) -> bool:
    return (path is not None and path.suffix == ".npz") or b".npy" in data[30:400]


def _table_rows(
    data: bytes,
    path: Path | None,
    source: str,
    kind: str,
    reader: Mapping[str, object] | None,
    log: BadRowLog,
) -> TableRows:
    """Read one file of named columns."""
    if kind in _FOREIGN:
        raise DataError(f"this is {_FOREIGN[kind]}", file=source, hint=f"Accepted: {ACCEPTED}.")
    if kind == "parquet":
        return read_parquet(data, source)
    names = [suffix.lower() for suffix in path.suffixes] if path is not None else []
    if kind == "jsonl" or ".jsonl" in names or ".ndjson" in names:
        return read_jsonlines(data, source, log)
    for suffix, name in ((".parquet", "a Parquet file"), (".npz", "an .npz")):
        if names[-1:] == [suffix]:
            raise DataError(f"not {name}: it does not begin as one", file=source)
    return read_delimited(data, source, log, reader=reader, tabs=".tsv" in names or ".tab" in names)


def _from_glob(pattern: str, roles: Roles, reader: Mapping[str, object] | None, log: BadRowLog) -> Dataset:
    """Read the files that a pattern matches, in the order of their names, as one table."""
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True)) if Path(name).is_file()]
    if not paths:
        raise DataError("no file matches the pattern", file=pattern)
    parts: list[TableRows] = []
    for path in paths:
        data = read_bytes(path)
        kind = what_it_is(data)
        if kind in ("image", "zip"):
            hint = "Give the folder itself." if kind == "image" else None
            raise DataError(
                "a pattern matches files of rows, not images or arrays", file=str(path), hint=hint
            )
        part = _table_rows(data, path, str(path), kind, reader, log)
        if parts and part.reader.get("format") != parts[0].reader.get("format"):
            raise DataError(f"not the same kind of file as {paths[0]}", file=str(path))
        parts.append(part)
        log.offset += part.n_found
    log.offset = 0
    return dataset_from_rows(concatenated(parts), pattern, roles, log)


def _from_folder(
    folder: Path, part: Part, roles: Roles, reader: Mapping[str, object] | None, log: BadRowLog
) -> Dataset:
    if any(find_idx(folder, one, "images") or find_idx(folder, one, "labels") for one in ("train", "test")):
        X, y, shape, source = read_idx_folder(folder, part, need_labels=roles.need_target)
        _no_columns(roles, str(folder))
        settings: dict[str, object] = {"format": "idx", "image_shape": list(shape)}
        return Dataset(X=X, y=y, source=source, reader=settings, parts=((source, len(X)),))
    if find_parquet(folder):
        return dataset_from_rows(read_parquet_folder(folder), str(folder), roles, log)
    images = find_images(folder, part)
    if images:
        return _from_images(read_image_folder(folder, images, reader, log), str(folder), roles, log)
    raise _unknown_folder(folder)


def _unknown_folder(folder: Path) -> DataError:
    names = sorted(entry.name for entry in folder.iterdir())
    endings = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".csv.gz", ".csv.zst", ".tsv.gz", ".jsonl.gz")
    for ending in endings:
        if any(name.lower().endswith(ending) for name in names):
            hint = f"To read its files as one: {folder / ('*' + ending)}."
            return DataError(
                "a folder is read as IDX, Parquet or images, and it has none", file=str(folder), hint=hint
            )
    found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
    return DataError(
        f"a folder is read as IDX, Parquet or images CLASS/FILE.png, and it has none: it holds {found}",
        file=str(folder),
    )


def _no_columns(roles: Roles, source: str) -> None:
    """Raise where a column is named for data that have none."""
    for role, name in (("target", roles.target), ("weights", roles.weights), ("group", roles.group)):
        if name is not None and roles.need_target and not (role == "target" and name in ("y", "label")):
            raise UsageError(f"{role} {name!r}: these data have no named columns", file=source)


def _from_npz(data: bytes, source: str, roles: Roles) -> Dataset:
    arrays = read_npz(data, source)
    y = arrays.get("y")
    _no_columns(roles, source)
    if y is None and roles.need_target:
        raise DataError("the archive has no array y, the labels", file=source, column="y")
    if y is not None and roles.need_target:
        try:
            y = label_array(y)
        except DataError as error:
            raise DataError(error.message, file=source, column="y", hint=error.hint) from None
    weights = arrays.get("sample_weight")
    if weights is not None:
        weights = _checked_weights(weights, source)
    X = arrays["X"]
    return Dataset(
        X=X,
        y=y,
        sample_weight=weights,
        source=source,
        reader={"format": "npz"},
        parts=((source, X.shape[0]),),
    )


def _checked_weights(weights: np.ndarray, source: str) -> np.ndarray:
    if weights.dtype.kind not in "fiub":
        raise DataError(
            f"sample_weight must be numbers; it is {weights.dtype}", file=source, column="sample_weight"
        )
    weights = weights.astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise DataError(
            f"sample_weight[{bad[0]}] is {weights[bad[0]]}; weights are finite and at least 0",
            file=source,
            column="sample_weight",
        )
    return weights


def _from_images(images: Any, source: str, roles: Roles, log: BadRowLog) -> Dataset:
    _no_columns(roles, source)
    if images.y is None and roles.need_target:
        raise DataError("the images have no labels; put them into one folder for each class", file=source)
    return Dataset(
        X=images.X,
        y=images.y,
        source=source,
        bad_rows=log.sorted(),
        reader=images.reader,
        parts=tuple((name, 1) for name in images.files),
    )
