"""How the output layer goes through a batch: which of its arrays exist whole, and which only in part.

========  ===================================  ==============================  ======================================
kind      logits in memory                     gradient of the weights         matrix products of a step
========  ===================================  ==============================  ======================================
dense     rows x classes                       whole                           3
rows      a chunk of the rows x classes        whole, added to chunk by chunk  3
classes   rows x a tile of the classes         of one tile, used at once       4: the logits are computed a second time
========  ===================================  ==============================  ======================================

The plan is a pure function of four numbers and a byte budget, never of a clock or of the memory that happens to be
free, so that the same fit goes the same way everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["DEFAULT_BUDGET", "HeadPlan", "keeps_copies", "plan_head"]

DEFAULT_BUDGET = 512 * 2**20
"""Bytes that a step may take for logits and the gradient of the output layer, besides weights and optimizer state."""
DENSE_BYTES = 64 * 2**20
"""Logits up to this size are computed whole: several passes over them stay close to the caches."""
TILE_BYTES = 16 * 2**20
"""Logits of one tile of classes and the gradient of its weights, together."""
LEAST_ROWS = 64
"""Each chunk of rows reads and writes the whole gradient once: with fewer rows a chunk costs more than a product."""
LEAST_CLASSES = 64
ROWS_TILE = 2048
"""Classes of a tile within a chunk of rows: what is exponentiated is still in the cache that the product left it in."""
COPY_BYTES = 256 * 2**20
"""Output layers up to this size are copied: a running average, the best epoch so far, a way back from divergence."""


@dataclass(frozen=True)
class HeadPlan:
    """The way through a batch.

    Attributes
    ----------
    kind : {"dense", "rows", "classes"}
    n_rows : int
        Rows whose logits are in memory at a time.
    n_classes : int
        Classes whose logits are computed at a time.
    n_bytes : int
        What a step takes besides weights and optimizer state: logits, and the gradient of the output layer.
    budget : int
        What it may take.
    """

    kind: str
    n_rows: int
    n_classes: int
    n_bytes: int
    budget: int = DEFAULT_BUDGET

    def for_rows(self, n_rows: int) -> HeadPlan:
        """Return the plan for batches of up to ``n_rows`` rows, of the same kind."""
        return replace(self, n_rows=n_rows if self.kind == "classes" else min(self.n_rows, n_rows))


def plan_head(
    n_rows: int,
    width: int,
    n_classes: int,
    *,
    n_members: int = 1,
    itemsize: int = 4,
    budget: int = DEFAULT_BUDGET,
) -> HeadPlan:
    """Return how to go through batches of ``n_rows`` rows, the fastest way that keeps to the budget.

    Dense where the logits take at most 64 MiB and the budget has room for them and the gradient. Otherwise chunks of
    rows, of as many as the weights are wide (the logits of a chunk are then as large as the weights, and reading and
    writing the gradient for each chunk costs little beside its products), fewer where the budget says so. Where not
    even the gradient and 64 rows fit: tiles of classes, whose size depends on nothing but the rows and the width, so
    a million classes take no more memory than a thousand.

    Parameters
    ----------
    n_rows : int
        Rows of the largest batch.
    width : int
        Inputs of the output layer.
    n_classes : int
    n_members : int
        Networks trained together; chunked they take turns, so that only their gradients add up.
    itemsize : int
        Bytes of a number: 4 or 8.
    budget : int
        Bytes. What cannot be kept to (not even the smallest tile fits) is gone over by the smallest tile.

    Examples
    --------
    >>> plan_head(256, 128, 1000).kind
    'dense'
    >>> plan = plan_head(1024, 256, 200_000)
    >>> plan.kind, plan.n_rows, round(plan.n_bytes / 1e6)
    ('rows', 256, 411)
    >>> plan = plan_head(1024, 256, 200_000, budget=64 * 2**20)
    >>> plan.kind, plan.n_classes, round(plan.n_bytes / 1e6)
    ('classes', 3232, 19)
    """
    logits_of_row = n_classes * itemsize
    gradient = n_members * n_classes * (width + 1) * itemsize
    logits = n_members * n_rows * logits_of_row
    if logits <= DENSE_BYTES and logits + gradient <= budget:
        return HeadPlan("dense", n_rows, n_classes, logits + gradient, budget)
    chunk = min(n_rows, max(width, DENSE_BYTES // logits_of_row), max(budget - gradient, 0) // logits_of_row)
    if chunk >= min(LEAST_ROWS, n_rows):
        chunk = -(-n_rows // -(-n_rows // chunk))  # as many chunks, of equal size
        n_bytes = gradient + chunk * (logits_of_row + 2 * width * itemsize)
        return HeadPlan("rows", chunk, min(ROWS_TILE, n_classes), n_bytes, budget)
    # a tile has its logits and the gradient of its weights; each row its input, scaled, and its gradient's parts
    of_class = (n_rows + width + 1) * itemsize
    tile = min(n_classes, max(min(TILE_BYTES, budget) // of_class, LEAST_CLASSES))
    tile = min(n_classes, -(-n_classes // -(-n_classes // tile) // 16) * 16)
    return HeadPlan("classes", n_rows, tile, tile * of_class + 2 * n_rows * width * itemsize, budget)


def keeps_copies(width: int, n_classes: int, *, n_members: int = 1, itemsize: int = 4) -> bool:
    """Return whether the weights of the output layer are small enough (256 MiB) to be copied.

    Beyond that there is no running average of the weights, the best epoch so far is kept in a file, and there is no
    copy to go back to where an epoch diverges.

    Examples
    --------
    >>> keeps_copies(256, 200_000), keeps_copies(128, 1_000_000)
    (True, False)
    """
    return n_members * n_classes * (width + 1) * itemsize <= COPY_BYTES
