"""Which classes are taken for which: a matrix where it can be read, else groups of confused classes, and lists.

A matrix of 150 classes has 22,500 cells, nearly all of them empty. What a person wants of it are the pairs that are
confused most, and the small matrices of the classes that are confused with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array

from softmaxnet.report.svg import escaped

__all__ = ["Confusions", "count_confusions", "groups_of_classes", "matrix_table", "overview", "seriation", "short_name"]

Ints: TypeAlias = npt.NDArray[np.int64]

READABLE = 15
"""Classes of which a matrix with names and numbers can be read."""
MOST_IN_OVERVIEW = 400
LARGEST_GROUP = 7
WIDEST_NAME = 18


@dataclass(frozen=True)
class Confusions:
    """Rows by class and class predicted.

    Attributes
    ----------
    counts : sparse array of shape (n_classes, n_classes)
        Rows of class i that were called j.
    totals : int64 array of shape (n_classes,)
        Rows of each class.
    called : int64 array of shape (n_classes,)
        Rows that were called so, those of labels never seen not among them.
    """

    counts: csr_array
    totals: Ints
    called: Ints

    @property
    def n_classes(self) -> int:
        """K."""
        return int(self.counts.shape[0])

    def top(self, n: int) -> list[tuple[int, int, int]]:
        """Return the n most frequent confusions as (class, class predicted, rows)."""
        entries = self.counts.tocoo()
        row, column = entries.coords
        wrong = np.flatnonzero(row != column)
        order = wrong[np.lexsort((column[wrong], row[wrong], -entries.data[wrong]))][:n]
        return [(int(row[at]), int(column[at]), int(entries.data[at])) for at in order]

    def recall(self) -> npt.NDArray[np.float64]:
        """Return the share of each class's rows that are called so; NaN without rows."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.counts.diagonal() / self.totals)

    def precision(self) -> npt.NDArray[np.float64]:
        """Return the share of rows called so that are of the class; NaN where none were."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.counts.diagonal() / self.called)


def count_confusions(labels: Ints, predicted: Ints, n_classes: int) -> Confusions:
    """Return how many rows of each class were called what; labels of -1, never seen, are left out.

    Examples
    --------
    >>> found = count_confusions(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 1]), 2)
    >>> print(found.counts.toarray(), found.top(3))
    [[1 1]
     [0 1]] [(0, 1, 1)]
    """
    known = labels >= 0
    labels, predicted = labels[known], predicted[known]
    ones = np.ones(len(labels), dtype=np.int64)
    counts = csr_array(coo_array((ones, (labels, predicted)), shape=(n_classes, n_classes)))
    counts.sum_duplicates()
    totals, called = (np.bincount(which, minlength=n_classes) for which in (labels, predicted))
    return Confusions(counts, totals, called)


def seriation(confusions: Confusions) -> list[list[int]]:
    """Return classes in lists such that those confused with each other are neighbours, the most confused list first.

    Pairs are joined in the order of how often they are confused, each list growing at its ends (single linkage).
    """
    return _joined(confusions, largest=confusions.n_classes)


def groups_of_classes(confusions: Confusions, n_groups: int) -> list[list[int]]:
    """Return small groups of classes with the most confusions within."""
    return _joined(confusions, largest=LARGEST_GROUP)[:n_groups]


def _joined(confusions: Confusions, largest: int) -> list[list[int]]:
    both = csr_array(confusions.counts + confusions.counts.T).tocoo()
    row, column = both.coords
    upper = np.flatnonzero(row < column)
    order = upper[np.lexsort((column[upper], row[upper], -both.data[upper]))]
    group = {k: [k] for k in range(confusions.n_classes)}
    weight = dict.fromkeys(range(confusions.n_classes), 0)
    for at in order.tolist():
        first, second = group[int(row[at])], group[int(column[at])]
        if first is second:
            weight[first[0]] += int(both.data[at])
            continue
        if len(first) + len(second) > largest:
            continue
        total = weight[first[0]] + weight[second[0]] + int(both.data[at])
        joined = _end_to_end(first, second, int(row[at]), int(column[at]))
        weight[joined[0]] = total
        for member in joined:
            group[member] = joined
    lists = list({id(members): members for members in group.values()}.values())
    return sorted((members for members in lists if len(members) > 1), key=lambda members: -weight[members[0]])


def _end_to_end(first: list[int], second: list[int], a: int, b: int) -> list[int]:
    """Return two lists as one, turned so that the joined classes come as close as their places allow."""
    if first.index(a) < len(first) / 2:
        first = first[::-1]
    if second.index(b) >= len(second) / 2:
        second = second[::-1]
    return first + second


def short_name(name: object, widest: int = WIDEST_NAME) -> str:
    """Return a name on one line that is not too wide."""
    text = " ".join(str(name).split())
    return text if len(text) <= widest else text[: widest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def matrix_table(confusions: Confusions, members: Sequence[int], names: Sequence[Any]) -> str:
    """Return a matrix of some classes as a table: rows are what it was, columns what it was called.

    A cell's shade is its share of the row's class; where not all classes are shown, a column counts the others.
    """
    counts = confusions.counts[list(members), :][:, list(members)].toarray()
    whole = len(members) == confusions.n_classes
    head = "".join(f'<th scope="col" class="up">{_name(names[k])}</th>' for k in members)
    long = " long" if any(len(short_name(names[k])) > 5 for k in members) else ""
    head += "" if whole else '<th scope="col" class="up"><bdi>others</bdi></th>'
    body = []
    for place, k in enumerate(members):
        total = int(confusions.totals[k])
        cells = [_cell(int(count), total, place == j) for j, count in enumerate(counts[place])]
        if not whole:
            cells.append(_cell(total - int(counts[place].sum()), total, False))
        body.append(f'<tr><th scope="row">{_name(names[k])}</th>{"".join(cells)}<td class="n">{total:,}</td></tr>')
    caption = "<caption>rows: what it was; columns: what it was called</caption>"
    return (
        f'<div class="scroll"><table class="matrix{long}">{caption}'
        f'<thead><tr><td></td>{head}<th scope="col" class="n">rows</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _name(name: object) -> str:
    return f'<bdi title="{escaped(name)}">{escaped(short_name(name))}</bdi>'


def _cell(count: int, total: int, right: bool) -> str:
    share = count / total if total else 0.0
    kind = "right" if right else "wrong"
    if not count:
        return '<td class="none">0</td>' if right else '<td class="none">·</td>'
    shade = round(100 * share**0.5) if not right else round(100 * share)
    title = f"{share * 100:.1f} % of the row's class"
    return f'<td class="{kind}" style="--v:{min(max(shade, 6), 100)}%" title="{title}">{count:,}</td>'


def overview(confusions: Confusions, names: Sequence[Any]) -> str:
    """Return the matrix as a picture without numbers, classes that are confused side by side; mistakes stand out.

    Of more than 400 classes only those are drawn that are confused most.
    """
    order = [k for members in seriation(confusions) for k in members][:MOST_IN_OVERVIEW]
    if len(order) < MOST_IN_OVERVIEW and confusions.n_classes <= MOST_IN_OVERVIEW:
        order += sorted(set(range(confusions.n_classes)) - set(order))
    n = len(order)
    if n < 2:
        return ""
    place = {k: at for at, k in enumerate(order)}
    size = 480 / n
    parts = ['<rect class="paper" width="480" height="480"/><path class="diagonal" d="M0,0L480,480"/>']
    entries = confusions.counts.tocoo()
    row, column = entries.coords
    for i, j, count in zip(row.tolist(), column.tolist(), entries.data.tolist(), strict=True):
        if i == j or i not in place or j not in place:
            continue
        share = count / confusions.totals[i]
        opacity = 0.3 + 0.7 * min(1.0, share * 4)
        grown = max(size, 2.4)
        title = f"{short_name(names[i])} called {short_name(names[j])}: {count:,} ({share * 100:.0f} %)"
        parts.append(
            f'<rect class="miss" x="{place[j] * size:.1f}" y="{place[i] * size:.1f}" width="{grown:.1f}" '
            f'height="{grown:.1f}" opacity="{opacity:.2f}"><title>{escaped(title)}</title></rect>'
        )
    label = f"Confusion matrix of {n} classes, mistakes only"
    return f'<svg viewBox="0 0 480 480" role="img" aria-label="{label}">{"".join(parts)}</svg>'
