"""Decisions from probabilities: the one whose expected cost is lowest.

``costs[k, d]`` is what decision d costs where the true class is k. With the probabilities p of a row, decision d is
expected to cost ``sum_k p_k costs[k, d]``, and the best one is the smallest of these (Elkan 2001, "The foundations of
cost-sensitive learning", equation 1). A decision need not be a class: one more column is what it costs to abstain, such
as to ask a person (Chow 1970, "On optimum recognition error and reject tradeoff"). That is right only where the
probabilities are: see calibration.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import DataError, UsageError

__all__ = ["ABSTAIN", "CostMatrix", "expected_costs", "read_costs"]

Floats: TypeAlias = npt.NDArray[np.float64]

ABSTAIN = "abstain"
"""The name of one more column than there are classes, where it has no other."""


def expected_costs(proba: npt.ArrayLike, costs: npt.ArrayLike) -> Floats:
    """Return what each decision is expected to cost in each row, (n_rows, n_decisions): ``proba @ costs``.

    Parameters
    ----------
    proba : array of shape (n_rows, n_classes)
    costs : array of shape (n_classes, n_decisions)
        In any unit; a gain is a negative cost.

    Examples
    --------
    Softmax outputs of 17 %, 77 % and 6 %, where taking the third class for another one costs ten times as much:

    >>> costs = [[0, 1, 1], [1, 0, 1], [10, 10, 0]]
    >>> expected_costs([[0.17198205, 0.77077009, 0.05724785]], costs).round(4)
    array([[1.3432, 0.7445, 0.9428]])
    """
    return np.asarray(proba, dtype=np.float64) @ np.asarray(costs, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class CostMatrix:
    """What every decision costs for every true class; made by :meth:`of`.

    Attributes
    ----------
    costs : float64 array of shape (n_classes, n_decisions)
        A row for each true class, in the order of the model's classes.
    decisions : array of shape (n_decisions,)
        What is answered: labels, of the classes' type, or of type object where some are no classes.
    """

    costs: Floats
    decisions: npt.NDArray[Any]

    @classmethod
    def of(cls, costs: Any, classes: npt.NDArray[Any], decisions: Sequence[Any] | None = None) -> CostMatrix:
        """Return a cost matrix for these classes from whatever it was given as.

        Parameters
        ----------
        costs : array-like of shape (n_classes, n_decisions), mapping, data frame, or CostMatrix
            An array has its rows in the order of ``classes``; so have its columns, and one more is what it costs to
            abstain. A mapping ``{true class: {decision: cost}}``, or a frame with the true classes as its index, is
            matched by name.
        classes : array of shape (n_classes,)
        decisions : sequence of length n_decisions, optional
            What the columns of an array stand for, where they are not the classes.

        Raises
        ------
        UsageError
            For another shape, a class or a cost that is missing, one that is unknown, or a cost that is not finite.

        Examples
        --------
        >>> CostMatrix.of([[0, 5, 1], [1, 0, 1]], np.array(["ham", "spam"])).decisions.tolist()
        ['ham', 'spam', 'abstain']
        >>> by_name = {"spam": {"keep": 1, "delete": 0}, "ham": {"keep": 0, "delete": 5}}
        >>> CostMatrix.of(by_name, np.array(["ham", "spam"])).costs.tolist()
        [[0.0, 5.0], [1.0, 0.0]]
        """
        if isinstance(costs, CostMatrix):
            costs, decisions = costs.costs, costs.decisions.tolist()
        elif hasattr(costs, "columns") and hasattr(costs, "index"):
            costs, decisions = _by_name(
                {row: dict(zip(costs.columns, costs.loc[row], strict=True)) for row in costs.index}, classes, decisions
            )
        elif isinstance(costs, Mapping):
            costs, decisions = _by_name(costs, classes, decisions)
        matrix = _checked_matrix(costs, len(classes))
        return cls(matrix, _names(decisions, matrix.shape[1], classes))

    def decide(self, proba: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], Floats]:
        """Return the number of the best decision of each row, (n_rows,), and what it is expected to cost, (n_rows,).

        Of decisions that cost the same the first one is taken.

        Examples
        --------
        >>> costs = CostMatrix.of([[0, 5, 1], [1, 0, 1]], np.array(["ham", "spam"]))
        >>> best, cost = costs.decide(np.array([[0.95, 0.05], [0.5, 0.5], [0.1, 0.9]]))
        >>> costs.decisions[best].tolist(), cost.round(2).tolist()
        (['ham', 'ham', 'spam'], [0.05, 0.5, 0.5])
        """
        expected = expected_costs(proba, self.costs)
        best = expected.argmin(axis=1)
        return best.astype(np.int64), np.take_along_axis(expected, best[:, None], axis=1)[:, 0]


def _by_name(
    costs: Mapping[Any, Any], classes: npt.NDArray[Any], decisions: Sequence[Any] | None
) -> tuple[list[list[Any]], list[Any]]:
    """Return the rows in the order of the classes, and what the columns stand for."""
    if decisions is not None:
        raise UsageError("decisions are named by the costs themselves where these are a mapping or a frame")
    known = classes.tolist()
    texts = {str(label): label for label in known}
    rows: dict[Any, Mapping[Any, Any]] = {}
    for given, row in costs.items():
        label = given if given in known else texts.get(str(given))
        if label is None:
            raise UsageError(f"costs: {given!r} is no class of the model.", hint=f"Its classes: {_shown(known)}.")
        if not isinstance(row, Mapping):
            raise UsageError(f"costs of {given!r} must be a mapping of decisions to numbers. Got {row!r} instead")
        rows[label] = row
    missing = [label for label in known if label not in rows]
    if missing:
        raise UsageError(f"costs: there are none for the true class {_shown(missing)}; every class needs them")
    names = list(rows[known[0]])
    for label in known:
        odd = sorted(map(str, set(names).symmetric_difference(rows[label])))
        if odd:
            raise UsageError(f"costs: the decision {odd[0]!r} has a cost for some true classes only")
    return [[rows[label][name] for name in names] for label in known], [texts.get(str(name), name) for name in names]


def _checked_matrix(costs: Any, n_classes: int) -> Floats:
    try:
        matrix = np.array(costs, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError("costs must be numbers, a row for each true class and a column for each decision") from None
    if matrix.ndim != 2 or matrix.shape[0] != n_classes or matrix.shape[1] < 1:
        raise UsageError(
            f"costs must have the shape ({n_classes}, n_decisions): a row for each true class, a column for each "
            f"decision, such as the {n_classes} classes and one more to abstain. Got the shape {matrix.shape} instead"
        )
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise UsageError(f"costs must be finite. Got {matrix[row, column]} in row {row}, column {column} (from 0)")
    return matrix


def _names(decisions: Sequence[Any] | None, n_decisions: int, classes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what is answered for every column."""
    known = classes.tolist()
    if decisions is None:
        if n_decisions not in (len(known), len(known) + 1):
            raise UsageError(
                f"costs has {n_decisions} columns for {len(known)} classes; say what they stand for: decisions=[...]"
            )
        if n_decisions == len(known):
            return classes
        decisions = [*known, ABSTAIN]
    if len(decisions) != n_decisions or len(set(map(str, decisions))) != n_decisions:
        raise UsageError(
            f"decisions must be {n_decisions} different names, one for each column of costs. Got {_shown(decisions)}"
        )
    if all(name in known for name in decisions):
        return np.array([*decisions], dtype=classes.dtype)
    names = np.empty(n_decisions, dtype=object)
    names[:] = list(decisions)
    return names


def _shown(labels: Sequence[Any]) -> str:
    return ", ".join(map(repr, labels[:5])) + (", ..." if len(labels) > 5 else "")


def read_costs(path: str | Path, classes: npt.NDArray[Any]) -> CostMatrix:
    r"""Return the cost matrix of a CSV file: a line for each true class, a column for each decision.

    The first line names the decisions (its first cell is not looked at), the first cell of every other line the true
    class.

    Raises
    ------
    DataError
        Where it cannot be read, with the line; or where it does not fit the classes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "costs.csv")
    ...     _ = path.write_text("true,keep,delete,ask\nham,0,5,1\nspam,1,0,1\n")
    ...     read_costs(path, np.array(["ham", "spam"])).costs.tolist()
    [[0.0, 5.0, 1.0], [1.0, 0.0, 1.0]]
    """
    name = str(path)
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError("no such file", file=name) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as a table of costs: {error}", file=name) from None
    lines = [(number, cells) for number, cells in enumerate(csv.reader(text.splitlines()), 1) if any(cells)]
    if len(lines) < 2 or len(lines[0][1]) < 2:
        raise DataError("a table of costs has a line of decisions, and one for each true class", file=name)
    decisions = [cell.strip() for cell in lines[0][1][1:]]
    costs: dict[str, dict[str, float]] = {}
    for number, (label, *cells) in lines[1:]:
        if len(cells) != len(decisions) or label.strip() in costs:
            what = f"{len(cells)} costs" if len(cells) != len(decisions) else f"the class {label.strip()!r} again"
            expected = f"{len(decisions)} costs, one for each decision" if "costs" in what else "another true class"
            raise DataError(f"{what}; expected {expected}", file=name, line=number)
        costs[label.strip()] = dict(zip(decisions, (_cost(cell, name, number) for cell in cells), strict=True))
    try:
        return CostMatrix.of(costs, classes)
    except UsageError as error:
        raise DataError(error.message, file=name, hint=error.hint) from None


def _cost(cell: str, file: str, line: int) -> float:
    try:
        return float(cell)
    except ValueError:
        raise DataError(f"{cell!r} is not a number", file=file, line=line) from None
