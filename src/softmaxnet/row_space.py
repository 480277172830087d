"""More inputs than rows, without loss: as many coordinates as there are rows (NumPy).

What softmax regression with a penalty on the squares of its weights learns is a sum of the rows, ``W = X^T A``: a
direction that no row has would cost and change nothing. So with ``X X^T = Q L Q^T`` the rows can be replaced by
``Z = Q L^(1/2)``, whose products with one another are the same; weights V for them cost as much as
``W = X^T Q L^(-1/2) V`` does, and give the same logits. Any subset of the rows may be fitted in these coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.features.encoded import Encoded
from softmaxnet.fitted import Examples

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RowSpace"]

NEGLIGIBLE = 1e-12
"""Of the largest eigenvalue: directions that only rounding has put there."""


@dataclass(frozen=True)
class RowSpace:
    """Rows in coordinates of their own.

    Attributes
    ----------
    rows : Examples
        Z as a dense block (n_rows, rank), no sparse block.
    back : ndarray of shape (n_rows, rank)
        ``Q L^(-1/2)``: X^T times it brings weights back.
    encoded : Encoded
        The rows as they were.
    """

    rows: Examples
    back: NDArray[np.float64]
    encoded: Encoded

    @classmethod
    def of(cls, examples: Examples) -> RowSpace | None:
        """Return rows in their own coordinates, or None where there are no fewer rows than inputs.

        Examples
        --------
        >>> X = np.array([[1.0, 0, 2, 0], [0, 3, 0, 1]])
        >>> space = RowSpace.of(Examples(Encoded(X, 1.0, None), np.array([0, 1]), np.ones(2)))
        >>> Z = space.rows.encoded.dense
        >>> Z.shape, bool(np.allclose(Z @ Z.T, X @ X.T))
        ((2, 2), True)
        >>> V = np.array([[0.5], [-1.0]])
        >>> bool(np.allclose(X @ space.weights(V)["layers.0.weight"][0], Z @ V))
        True
        """
        encoded = examples.encoded
        dense, sparse = encoded.dense, encoded.sparse
        if dense.shape[1] + (0 if sparse is None else sparse.shape[1]) <= len(examples):
            return None
        values = dense.astype(np.float64) * encoded.dense_scale
        gram = values @ values.T
        if sparse is not None:
            wide = sparse.astype(np.float64)
            gram += (wide @ wide.T).toarray()
        size, direction = np.linalg.eigh(gram)
        kept = size > NEGLIGIBLE * max(float(size[-1]), 1e-300)
        root = np.sqrt(size[kept])
        rows = replace(examples, encoded=Encoded(direction[:, kept] * root, 1.0, None), bins=None, sources=None)
        return cls(rows, direction[:, kept] / root, encoded)

    def weights(self, own: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Return weights (rank, n_classes) as those of the inputs, ``layers.0.weight`` and ``sparse.weight``."""
        sums = self.back @ own
        out = {"layers.0.weight": (self.encoded.dense.T.astype(np.float64) @ (self.encoded.dense_scale * sums))[None]}
        if self.encoded.sparse is not None:
            out["sparse.weight"] = np.asarray(self.encoded.sparse.T.astype(np.float64) @ sums)
        return out
