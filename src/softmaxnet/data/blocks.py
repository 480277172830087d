"""The rows of a file of any length, a block at a time and in order: for predicting and for scoring."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from softmaxnet.data.columns import Roles, dataset_from_rows
from softmaxnet.data.dataset import BadRowLog, Dataset, OnBadRow
from softmaxnet.data.delimited_blocks import delimited_blocks
from softmaxnet.data.files import Part, read_dataset
from softmaxnet.data.opening import STDIN
from softmaxnet.data.row_cache import GROUP_BYTES, GROUP_ROWS, OnProgress, good_rows
from softmaxnet.data.row_groups import open_row_groups
from softmaxnet.data.stream import streamable_files
from softmaxnet.data.table import TableRows
from softmaxnet.errors import DataError, ResourceError

__all__ = ["Block", "dataset_blocks"]


class Block(NamedTuple):
    """Some rows of a file.

    Attributes
    ----------
    first_row : int
        Rows found before the block, bad ones included.
    n_found : int
        Rows found in it, bad ones included.
    data : Dataset
        Its good rows, or all with ``on_bad_row="keep"``. ``bad_rows`` are those of the block; their ``row``
        counts from the beginning: with "keep", ``bad.row - first_row`` is the row of ``X``.
    """

    first_row: int
    n_found: int
    data: Dataset


def dataset_blocks(
    path: str | Path,
    *,
    target: str | None = None,
    weights: str | None = None,
    group: str | None = None,
    part: Part = "train",
    reader: Mapping[str, object] | None = None,
    on_bad_row: OnBadRow = "fail",
    need_target: bool = True,
    on_progress: OnProgress | None = None,
) -> Generator[Block, None, None]:
    """Yield what ``read_dataset`` reads, block by block: CSV, TSV and Parquet; anything else is one block.

    Labels have the type that those of their block have: ``lookup_labels`` matches ``3`` and ``"3"``.

    Parameters
    ----------
    path, target, weights, group, part, reader, on_bad_row, need_target
        As for ``read_dataset``.
    on_progress : callable, optional
        Told bytes (of text) or rows (of Parquet) read, and in all.

    Raises
    ------
    DataError, UsageError, ResourceError
        As ``read_dataset``, at the block that has the fault.
    """
    roles = Roles(target, weights, group, need_target)
    log = BadRowLog(on_bad_row)
    try:
        found = None if str(path) == "-" else streamable_files(Path(os.path.expanduser(path)))
        if found is None:
            data = read_dataset(
                path,
                target=target,
                weights=weights,
                group=group,
                part=part,
                reader=reader,
                on_bad_row=on_bad_row,
                need_target=need_target,
            )
            bad = 0 if log.keeps else len(data.bad_rows)
            yield Block(0, data.n_rows + bad, data)
            return
        paths, kind, folder = found
        if kind == "text":
            rows = _text_rows(paths, log, reader, on_progress)
        else:
            rows = _parquet_rows(paths, folder, on_progress)
        yield from _blocks(rows, str(path), roles, log)
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(f"cannot be read: {error.strerror or error}", file=str(path) or STDIN) from error


def _text_rows(
    paths: list[Path], log: BadRowLog, reader: Mapping[str, object] | None, on_progress: OnProgress | None
) -> Iterator[TableRows]:
    """Yield blocks of delimited files; ``rows`` count through all of them."""
    total, before = sum(path.stat().st_size for path in paths), 0
    for path in paths:
        suffixes = [suffix.lower() for suffix in path.suffixes]
        base = log.offset

        def told(n_bytes: int, before: int = before) -> None:
            if on_progress is not None:
                on_progress(before + n_bytes, total)

        tabs = ".tsv" in suffixes or ".tab" in suffixes
        for block in delimited_blocks(path, log, reader=reader, tabs=tabs, on_bytes=told):
            yield replace(block, rows=block.rows + base)
        before += path.stat().st_size


def _parquet_rows(paths: list[Path], folder: Path | None, on_progress: OnProgress | None) -> Iterator[TableRows]:
    """Yield row groups, in pieces where they are large."""
    groups = open_row_groups(paths, folder)
    n = int(np.clip(GROUP_BYTES / groups.bytes_per_row(), 256, GROUP_ROWS))
    first = 0
    for group in range(len(groups)):
        file = str(groups.paths[groups.file[group]])
        for table in groups.batches(group, n):
            table.validate(full=True)
            rows = np.arange(first, first + table.num_rows)
            yield TableRows(table, rows, None, len(rows), {"format": "parquet"}, ((file, len(rows)),))
            first += len(rows)
            if on_progress is not None:
                on_progress(first, groups.n_rows)


def _blocks(blocks: Iterator[TableRows], source: str, roles: Roles, log: BadRowLog) -> Iterator[Block]:
    """Set the columns with a role apart in every block."""
    first = told = n_good = 0
    for block in blocks:
        kept = block if log.keeps or not roles.need_target else good_rows(block, roles, log)
        if kept.table.num_rows:
            offset, log.offset = log.offset, 0
            data = dataset_from_rows(kept, source, roles, log)
            log.offset = offset
            bad = tuple(sorted(log.rows[told:], key=lambda one: one.row))
            told, n_good = len(log.rows), n_good + kept.table.num_rows
            yield Block(first, block.n_found, replace(data, bad_rows=bad))
        first += block.n_found
    if not n_good:
        raise DataError("no row is left: all are bad", file=source)
