"""Which classes are taken for which."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from softmaxnet.plots.inputs import labelled, new_axes, predictions_of

__all__ = ["ConfusionDisplay"]

MOST_NAMES = 40
"""Classes of which a confusion matrix names every one."""
MOST_NUMBERS = 15
"""Classes of which it writes the counts."""


@dataclass
class ConfusionDisplay:
    """Which classes are taken for which; classes that are confused with each other stand side by side.

    Up to 15 classes it writes the counts and up to 40 the names; beyond, only the mistakes can be seen, and the most
    frequent ones are in :attr:`top`. For a few classes scikit-learn's ``ConfusionMatrixDisplay`` does as well.

    Attributes
    ----------
    counts : int array of shape (n_classes, n_classes)
        Rows of class i that were called j, in the order of ``names``.
    names : tuple of str
    ax_, figure_, im_ :
        What was drawn last.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> y, proba = ["a", "b", "b"], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]
    >>> ConfusionDisplay.from_predictions(y, proba, ax=Figure().subplots()).top(1)
    [('b', 'a', 1)]
    """

    counts: npt.NDArray[np.int64]
    names: tuple[str, ...]
    ax_: Any = field(default=None, repr=False)
    figure_: Any = field(default=None, repr=False)
    im_: Any = field(default=None, repr=False)

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, y: Any, **settings: Any) -> ConfusionDisplay:
        """Predict rows and draw; settings are those of :meth:`from_predictions`."""
        proba, classes = predictions_of(estimator, X)
        return cls.from_predictions(y, proba, classes=classes, **settings)

    @classmethod
    def from_predictions(
        cls, y_true: Any, y_proba: Any, *, classes: Any = None, sort: bool = True, ax: Any = None
    ) -> ConfusionDisplay:
        """Draw which labels were called what.

        Parameters
        ----------
        y_true : labels, (n_samples,)
            Those that are no class are left out.
        y_proba : array of shape (n_samples, n_classes)
        classes : labels in the order of the columns, optional
        sort : bool
            Whether confused classes are to be neighbours where there are more than 15 of them.
        ax : matplotlib axes, optional
        """
        labels, proba, classes = labelled(y_true, y_proba, classes)
        known = labels >= 0
        k = len(classes)
        flat = labels[known] * k + proba.argmax(axis=1)[known]
        counts = np.bincount(flat, minlength=k * k).reshape(k, k)
        order = _neighbours(counts) if sort and k > MOST_NUMBERS else np.arange(k)
        names = tuple(str(classes[place]) for place in order)
        return cls(counts[np.ix_(order, order)], names).plot(ax=ax)

    def top(self, n: int = 10) -> list[tuple[str, str, int]]:
        """Return the most frequent confusions: what it was, what it was called, rows."""
        wrong = self.counts * ~np.eye(len(self.names), dtype=bool)
        places = np.argsort(-wrong, axis=None, kind="stable")[:n]
        pairs = [divmod(int(place), len(self.names)) for place in places]
        return [(self.names[i], self.names[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]]

    def plot(self, ax: Any = None, *, cmap: str = "Blues") -> ConfusionDisplay:
        """Draw shares of each row's class."""
        ax = new_axes(ax)
        k, totals = len(self.names), self.counts.sum(axis=1, keepdims=True)
        share = self.counts / np.maximum(totals, 1)
        if k > MOST_NUMBERS:  # one cell in a thousand: only the mistakes, and strong enough to be seen
            share = np.where(np.eye(k, dtype=bool), 0.0, np.sqrt(share))
        self.im_ = ax.imshow(share, cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
        if k <= MOST_NUMBERS:
            for i, j in np.ndindex(k, k):
                tone = "white" if share[i, j] > 0.6 else "black"
                ax.text(j, i, f"{self.counts[i, j]:,}", ha="center", va="center", color=tone, fontsize=9)
        named = range(k) if k <= MOST_NAMES else ()
        ax.set_xticks(list(named), [self.names[place] for place in named], rotation=90, fontsize=8)
        ax.set_yticks(list(named), [self.names[place] for place in named], fontsize=8)
        ax.set(xlabel="called", ylabel="was")
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _neighbours(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return an order of the classes in which those that are confused stand side by side: by the Fiedler vector.

    Atkins, Boman, Hendrickson (1998), "A spectral algorithm for seriation and the consecutive ones problem".
    """
    from scipy.sparse.csgraph import connected_components

    both = (counts + counts.T).astype(np.float64)
    np.fill_diagonal(both, 0.0)
    n_parts, part = connected_components(both, directed=False)
    order: list[int] = []
    for number in sorted(range(n_parts), key=lambda place: (-int((part == place).sum()), place)):
        members = np.flatnonzero(part == number)
        if len(members) > 2:
            inside = both[np.ix_(members, members)]
            _, vectors = np.linalg.eigh(np.diag(inside.sum(axis=1)) - inside)
            fiedler = vectors[:, 1] * np.sign(vectors[np.abs(vectors[:, 1]).argmax(), 1])
            members = members[np.argsort(fiedler, kind="stable")]
        order += members.tolist()
    return np.array(order, dtype=np.int64)
