"""Rows of named columns as a reader hands them on, before the target is set apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["TableRows"]


@dataclass(frozen=True)
class TableRows:
    """What one or more files of named columns hold.

    Parameters
    ----------
    table : pyarrow.Table
    rows : numpy.ndarray of int64, (table.num_rows,)
        0-based position of each row among the data rows as found, bad ones included.
    lines : numpy.ndarray of int64 or None, (table.num_rows,)
        1-based line of each row in its file.
    n_found : int
        Data rows that were found, bad ones included.
    reader : dict
        Settings, plain JSON data.
    parts : tuple of (str, int)
        Each file with its number of rows in the table.
    """

    table: Any
    rows: np.ndarray
    lines: np.ndarray | None
    n_found: int
    reader: dict[str, object]
    parts: tuple[tuple[str, int], ...]
