"""How much memory a fit of a file takes: whether it is read whole or streamed, and the peak that is told beforehand.

::

    reading whole   448 MiB + 2 decoded table + 3 encoded table
    streaming       what is held when training begins + windows + slices being encoded + the network's tensors

448 MiB is what Python and its libraries take. Of a budget of B bytes a stream's windows get a quarter of B - 448 MiB,
16 MiB at least and 192 MiB at most: a function of the budget alone, so that the order of rows is one too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softmaxnet.data.stream import streamable_files
from softmaxnet.data.table_source import STREAM_BYTES, TableSource
from softmaxnet.memory import installed_bytes, peak_resident_bytes, resident_bytes

if TYPE_CHECKING:
    from softmaxnet.features.encoded import Encoded
    from softmaxnet.features.encoder import FeatureEncoder
    from softmaxnet.network import NetworkSpec

__all__ = ["MemoryNeed", "default_memory", "encoded_row_bytes", "is_streamed", "slice_rows", "stream_bytes"]

BASE_BYTES = 448 << 20
"""What Python and its libraries take once PyTorch, scikit-learn and Arrow are loaded."""
LEAST_STREAM_BYTES = 16 << 20
FALLBACK_BYTES = 4 << 30
"""The memory that is assumed where the system does not say how much there is."""
SLICE_BYTES = 8 << 20
SLICE_ROWS = 1 << 15
SLICES = 8
"""Slices at once: waiting, being encoded (whose numbers are float64 for a while), in use, and being joined."""
NETWORK_COPIES = 12
"""Tensors as large as the network: weights, gradient, moments, average, the best so far, the last round's start, ..."""
PROBED_ROWS = 2000


def default_memory() -> int:
    """Return the bytes that a fit may take where the user does not say: half of what the machine has."""
    installed = installed_bytes()
    return FALLBACK_BYTES if installed is None else installed // 2


def stream_bytes(memory: int) -> int:
    """Return the bytes of rows that a stream may hold within a budget.

    Examples
    --------
    >>> stream_bytes(1 << 30) >> 20, stream_bytes(16 << 30) >> 20
    (144, 192)
    """
    return int(min(max((memory - BASE_BYTES) // 4, LEAST_STREAM_BYTES), STREAM_BYTES))


def encoded_row_bytes(encoded: Encoded) -> float:
    """Return the bytes of a row as the network reads it, with its label and weight."""
    sparse = encoded.sparse
    n_bytes = encoded.dense.nbytes
    if sparse is not None:
        n_bytes += sparse.data.nbytes + sparse.indices.nbytes + sparse.indptr.nbytes
    return float(n_bytes / max(encoded.n_rows, 1) + 12)


def slice_rows(row_bytes: float, stream_bytes: int) -> int:
    """Return the rows that are encoded at a time, of so many bytes each.

    Examples
    --------
    >>> slice_rows(200, 192 << 20), slice_rows(1500, 192 << 20)
    (32768, 5592)
    """
    return int(min(max(min(SLICE_BYTES, stream_bytes // 16) / row_bytes, 256), SLICE_ROWS))


@dataclass(frozen=True)
class MemoryNeed:
    """The peak of a streamed fit, in bytes, and what it is the sum of.

    Attributes
    ----------
    held : int
        Held when training begins: the libraries, the encoder, the held-out rows.
    rows : int
        Windows of rows as they are read.
    slices : int
        Rows that are being encoded, or wait to be trained on.
    network : int
        Weights, their gradients and moments, the values of a batch and of the validation.
    peak_before : int
        The most that was held before training.
    """

    held: int
    rows: int
    slices: int
    network: int
    peak_before: int

    @property
    def peak(self) -> int:
        """The most that is held at once."""
        return max(self.held + self.rows + self.slices + self.network, self.peak_before)

    @classmethod
    def of(
        cls, source: TableSource, spec: NetworkSpec, *, row_bytes: float, n_slice: int, batch_size: int, n_held: int
    ) -> MemoryNeed:
        """Return it for a network that is about to be trained on a source."""
        held = resident_bytes() or BASE_BYTES
        return cls(
            held=held,
            rows=source.memory_bytes,
            slices=int(SLICES * n_slice * row_bytes),
            network=network_bytes(spec, batch_size, n_held),
            peak_before=peak_resident_bytes() or held,
        )


def network_bytes(spec: NetworkSpec, batch_size: int, n_held: int) -> int:
    """Return the bytes that training a network takes beside the rows.

    A batch has outputs, inputs and gradients of every layer; 4,096 rows are validated at a time, whose logits, in
    float64, are there four times while a temperature is fitted.
    """
    sizes = spec.layer_sizes
    weights = spec.n_members * sum((a + 1) * b for a, b in pairwise(sizes))
    weights += spec.n_sparse * spec.n_members * sizes[1]
    values = spec.n_members * sum(sizes[1:]) + spec.n_dense
    return 4 * (NETWORK_COPIES * weights + 3 * (batch_size + min(n_held, 4096)) * values) + 32 * n_held * spec.n_classes


# Whether to stream


def is_streamed(
    path: str | Path, memory: int, *, reader: Mapping[str, object] | None = None, kinds: Mapping[str, str] | None = None
) -> bool:
    """Return whether the rows of a path would take more memory than there may be, were they read whole.

    Only what :func:`softmaxnet.data.stream.streamable_files` knows is ever streamed. The first rows are encoded to see
    how large they become, where that could matter.
    """
    found = None if str(path) == "-" else streamable_files(Path(path).expanduser())
    if found is None:
        return False
    paths, kind, folder = found
    n_bytes = sum(file.stat().st_size for file in paths)
    if kind == "text" and not _is_packed(paths[0]) and BASE_BYTES + 60 * n_bytes < memory:
        return False  # a cell takes two characters or more in the file, and less than 120 bytes encoded
    decoded, encoded = _sizes(path, kind, paths, folder, dict(reader or {}), kinds)
    return BASE_BYTES + 2 * decoded + 3 * encoded > memory


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in (b"\x1f\x8b", b"\x28\xb5")


def _sizes(
    path: str | Path,
    kind: str,
    paths: list[Path],
    folder: Path | None,
    reader: dict[str, object],
    kinds: Mapping[str, str] | None,
) -> tuple[float, float]:
    """Return the bytes of all rows, as a table and encoded, judged by the first of them."""
    from softmaxnet.data.row_groups import open_row_groups

    if kind == "parquet":
        groups = open_row_groups(paths, folder)
        n_rows: float = groups.n_rows
        head = next(groups.batches(0, PROBED_ROWS))
        per_row = groups.bytes_per_row()
    else:
        head, n_rows, per_row = _text_head(path, reader)
    return n_rows * per_row, n_rows * _encoded_bytes(head, kinds)


def _text_head(path: str | Path, reader: dict[str, object]) -> tuple[Any, float, float]:
    """Return the first rows of delimited files, the number of rows that all have, and the bytes of one."""
    from softmaxnet.data.blocks import dataset_blocks

    progress = [(1, 1)]
    blocks = dataset_blocks(
        path,
        reader=reader,
        on_bad_row="keep",
        need_target=False,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    with contextlib.closing(blocks):
        block = next(blocks)
    done, total = progress[-1]
    table, n = block.data.X, max(block.n_found, 1)
    return table.slice(0, PROBED_ROWS), n * total / max(done, 1), table.nbytes / n


def _encoded_bytes(head: Any, kinds: Mapping[str, str] | None) -> float:
    from softmaxnet.errors import SoftmaxError
    from softmaxnet.features.encoder import FeatureEncoder

    known = {name: kind for name, kind in (kinds or {}).items() if name in head.column_names}
    try:
        encoder: FeatureEncoder = FeatureEncoder.fit(head, kinds=known)
        return float(encoded_row_bytes(encoder.transform(head)))
    except SoftmaxError:  # whatever is wrong with the rows is told when they are read
        return float(100 * head.num_columns)
