"""What the network reads: a dense block and a sparse block of the same rows."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from softmaxnet.errors import ResourceError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True, eq=False)
class Encoded:
    """Rows as the network's first layer takes them.

    Attributes
    ----------
    dense : array (n_rows, n_dense), C-contiguous float32 (float64 where asked for), or uint8 pixels
    dense_scale : float
        An input's value is ``dense * dense_scale``: 1.0 unless ``dense`` is pixels.
    sparse : csr_array (n_rows, n_sparse) or None
        float32 (float64 where asked for), int32 indices, sorted within a row.
    """

    dense: NDArray[Any]
    dense_scale: float
    sparse: csr_array | None

    @property
    def n_rows(self) -> int:
        """Rows, the same in both blocks."""
        return int(self.dense.shape[0])


def is_sparse(X: Any) -> bool:
    """Return whether X is a SciPy sparse matrix, without importing SciPy: where it is not imported nothing is one."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(X))


def narrow(block: csr_array, dtype: DTypeLike) -> csr_array:
    """Return a sparse block with values of ``dtype`` and int32 indices."""
    if block.nnz > np.iinfo(np.int32).max:
        raise ResourceError(
            f"the sparse block of {block.shape[0]} rows has {block.nnz} entries, more than 2^31 - 1",
            hint="Encode fewer rows at a time.",
        )
    from scipy.sparse import csr_array

    arrays = (block.data.astype(dtype), block.indices.astype(np.int32), block.indptr.astype(np.int32))
    return csr_array(arrays, shape=block.shape)
