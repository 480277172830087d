"""Looking before training: what in the data would make a model worse, or its score better than it is.

``look`` changes nothing. It returns plain findings, each with what was seen, where, and what to do; the rules
and their thresholds are in ``docs/precheck.md``.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softmaxnet.data.frames import column_names, take_rows
from softmaxnet.data.row_hash import hash_rows
from softmaxnet.data.similar_labels import similar_labels
from softmaxnet.errors import DataError
from softmaxnet.features.arrow import is_text, read_numbers, try_numbers, whole
from softmaxnet.features.columns import Cells, Kind, matrix_name, table_name
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.inspect import Inspected, inspect_column
from softmaxnet.features.matrix import PIXELS_MIN_COLUMNS
from softmaxnet.features.quantiles import Floats
from softmaxnet.findings import Finding
from softmaxnet.leaks import Leak, SampledColumn, find_leaks
from softmaxnet.sanity import Place, glance

__all__ = ["Finding", "look"]

Ints = NDArray[np.int64]

SAMPLE_ROWS, SAMPLE_CELLS = 10_000, 20_000_000
"""Rows of the sample in which single columns are tried; fewer where the table is wide, but at least 1,000."""
MAX_COLUMNS = 5000
HASHED_CELLS = 10_000_000
"""Cells that are hashed to find duplicate rows; above it, one part of the rows, chosen by their content."""
MIN_IDENTIFIERS = 20
MOSTLY_DISTINCT, SAMPLE_DISTINCT = 0.5, 200
"""With fewer distinct rows than this share, duplicates may be what a coarse table has anyway."""
DUPLICATES, CONTRADICTIONS, OVERLAP = 0.2, 0.01, 0.01
"""Shares of rows from which duplicates, contradictions and overlap are warnings."""
CASES = 0.2
"""A leak with at most this share of different values may be a case (a patient) that has several rows."""
MAJORITY, RATIO_NOTE, RATIO_WARNING = 0.95, 100, 1000
SHOWN = 5


class _Data(NamedTuple):
    """Rows that count, with what is known about their columns."""

    X: Any
    labels: Ints
    classes: list[object]
    groups: Ints | None
    names: tuple[str, ...]  # as messages call the columns
    kinds: tuple[Kind | None, ...]  # None: to be found out

    @property
    def n_rows(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> str:
        return repr(self.classes[index])


def look(
    X: Any,
    y_labels: NDArray[np.integer],
    classes: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    X_val: Any = None,
    y_val: NDArray[np.integer] | None = None,
    encoder: FeatureEncoder | None = None,
    place: Place | None = None,
) -> list[Finding]:
    """Return what should be known about training data before a model is trained on them, the gravest first.

    Time and memory are bounded: single columns are tried on a sample of at most 10,000 rows, and duplicates
    are looked for among at most 10 million cells. The same data give the same findings.

    Parameters
    ----------
    X : ndarray (n_rows, n_columns), csr_array or pyarrow.Table
    y_labels : integers (n_rows,), in 0..K-1
    classes : array (K,)
        The user's labels, for messages.
    sample_weight : (n_rows,), optional
        Rows of weight 0 are not looked at.
    groups : (n_rows,), optional
        Rows of one group stay on one side of every split.
    X_val, y_val : optional
        Validation rows; y_val in -1..K-1, -1 for a label that training does not have.
    encoder : FeatureEncoder, optional
        Fitted on X: its kinds are used, and the columns that it drops are told.
    place : callable, optional
        From a row of X to what it is called, such as "line 17".

    Returns
    -------
    list of Finding

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 100)
    >>> X = np.column_stack([np.arange(200), rng.normal(size=(200, 2)) + labels[:, None]])
    >>> for finding in look(X, labels, ["no", "yes"]):
    ...     print(finding.severity, finding.kind, finding.message, sep=": ")
    warning: target_leak: column 0 (it numbers the rows) alone has 100 % of held-out rows right, all others
    together 72.5 %: it gives the target away. Unless it is known before the label is, leave it out.
    """
    data = _prepared(X, y_labels, classes, sample_weight, groups, encoder)
    rows = np.arange(data.n_rows)
    wide = X.dtype == np.uint8 and X.shape[1] >= PIXELS_MIN_COLUMNS if isinstance(X, np.ndarray) else False
    found: list[Finding] = []
    identifiers: dict[int, str] = {}
    if not wide and not hasattr(X, "indptr"):
        limit = min(SAMPLE_ROWS, max(1000, SAMPLE_CELLS // X.shape[1]))
        rows = _sampled(data.n_rows, limit)
        sample, columns = _read_sample(data, rows)
        identifiers = {c.index: seen for c in columns if (seen := _identifier(data, c, rows))}
        leaks = _leaks(data, sample, columns, rows, identifiers)
        found += [_leak_finding(data, leak, identifiers) for leak in leaks]
        leaky = {leak.index for leak in leaks}
        found += [_identifier_finding(data, i, seen) for i, seen in identifiers.items() if i not in leaky]
        found += _not_looked_at(data)
    compared = [i for i in range(X.shape[1]) if data.kinds[i] != "drop" and i not in identifiers]
    found += _row_findings(data, compared, X_val, y_val, _sampled(data.n_rows, 1000))
    found += _label_findings(data, sample_weight if sample_weight is None else np.asarray(sample_weight))
    if encoder is not None:
        found += glance(X, y_labels, data.classes, encoder, place)
    found += _encoder_findings(encoder, {finding.column for finding in found if finding.kind == "stray_words"})
    if any(finding.kind in ("amounts", "many_classes") for finding in found):
        found = [finding for finding in found if finding.kind not in ("single_row_class", "imbalance")]
    return sorted(found, key=lambda finding: finding.severity != "warning")


def _prepared(
    X: Any,
    y_labels: NDArray[np.integer],
    classes: ArrayLike,
    sample_weight: ArrayLike | None,
    groups: ArrayLike | None,
    encoder: FeatureEncoder | None,
) -> _Data:
    """Return the rows of positive weight, and the names and kinds of the columns."""
    labels = np.asarray(y_labels, dtype=np.int64)
    codes = None
    if groups is not None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)
    if sample_weight is not None:
        keep = np.flatnonzero(np.asarray(sample_weight) > 0)
        if len(keep) < len(labels):
            X, labels = take_rows(X, keep), labels[keep]
            codes = None if codes is None else codes[keep]
    given = column_names(X)
    names = [table_name(name) for name in given] if given else [matrix_name(i) for i in range(X.shape[1])]
    kinds: list[Kind | None] = [None] * X.shape[1]
    if given:
        from pyarrow import types

        # what is no kind of feature is an error of the encoder's, not ours
        kinds = ["drop" if types.is_nested(f.type) or types.is_binary(f.type) else None for f in X.schema]
    if encoder is not None and given:
        known = {column.name: column.kind for column in encoder.columns}
        kinds = [known.get(name, "drop") for name in given]
    return _Data(X, labels, np.asarray(classes).tolist(), codes, tuple(names), tuple(kinds))


def _sampled(n_rows: int, n: int) -> Ints:
    """Return at most n rows, drawn without replacement, in ascending order."""
    if n_rows <= n:
        return np.arange(n_rows)
    generator = np.random.Generator(np.random.Philox(key=0, counter=[0, 0, 0, 6]))
    return np.sort(generator.choice(n_rows, n, replace=False, shuffle=False))


# Columns


def _read_sample(data: _Data, rows: Ints) -> tuple[Any, list[SampledColumn]]:
    """Return the sampled rows, and those of their columns that can be tried one by one."""
    sample = take_rows(data.X, rows)
    columns: list[SampledColumn] = []
    alone = data.X.shape[1] == 1
    for index in range(min(data.X.shape[1], MAX_COLUMNS)):
        if isinstance(sample, np.ndarray):
            columns.append(SampledColumn(index, sample[:, index].astype(np.float64), True))
            continue
        name = sample.column_names[index]
        try:
            seen = inspect_column(sample.column(index), name, None, data.kinds[index], alone=alone)
        except DataError:
            continue  # the encoder says it, with the row
        columns += _as_numbers(index, seen)
    return sample, columns


def _as_numbers(index: int, seen: Inspected) -> list[SampledColumn]:
    """Return a column as one of numbers or codes; texts and dropped columns cannot be tried."""
    if seen.kind in ("number", "boolean", "date") and seen.values is not None:
        values = seen.values[:, 0] if seen.kind == "date" else seen.values  # of a date, the elapsed days
        return [SampledColumn(index, values, seen.kind != "boolean")]
    if seen.kind == "category" and seen.coded is not None:
        codes = seen.coded.codes.astype(np.float64)
        codes[codes < 0] = np.nan
        return [SampledColumn(index, codes, False)]
    return []


def _identifier(data: _Data, column: SampledColumn, rows: Ints) -> str:
    """Return why a column is a number of the row, or nothing.

    Whole numbers, all different, that either fill at least half of their range or rise (or fall) with every
    row. The sample is looked at first; what holds for all rows holds for it.
    """
    kind = data.kinds[column.index]
    if not column.ordered or data.X.shape[1] == 1 or data.n_rows < MIN_IDENTIFIERS or kind == "date":
        return ""
    if not _numbers_rows(column.values, data.n_rows):
        return ""
    if len(rows) == data.n_rows:
        return _numbers_rows(column.values, data.n_rows)
    if isinstance(data.X, np.ndarray):
        return _numbers_rows(data.X[:, column.index].astype(np.float64), data.n_rows)
    array = whole(data.X.column(column.index))
    values = try_numbers(array) if is_text(array.type) else read_numbers(array, "", Cells([]))
    return "" if values is None else _numbers_rows(values, data.n_rows)


def _numbers_rows(values: Floats, n_rows: int) -> str:
    """Return how values number rows; ``n_rows`` are all rows that there are, of which these are some.

    Examples
    --------
    >>> _numbers_rows(np.array([3.0, 1.0, 2.0]), 3), _numbers_rows(np.array([10.0, 25.0, 30.0]), 3)
    ('dense', 'rising')
    >>> _numbers_rows(np.array([3.0, 1.0, 30.0]), 3), _numbers_rows(np.array([1.0, 1.5, 2.0]), 3)
    ('', '')
    """
    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        return ""
    steps = np.diff(values)
    rises = bool((steps > 0).all() or (steps < 0).all())
    dense = bool(values.max() - values.min() + 1 <= 2 * n_rows)
    if not (rises or dense) or not (rises or np.unique(values).size == values.size):
        return ""
    return "dense" if dense else "rising"


def _identifier_finding(data: _Data, index: int, seen: str) -> Finding:
    how = {
        "dense": "has another whole number in every row, nearly without gaps",
        "rising": "is a whole number that goes on in one direction from row to row",
    }
    message = (
        f"{data.names[index]} {how[seen]}: it numbers the rows. It says nothing about new rows; "
        f"leave it out{_option(data, index)}."
    )
    return Finding("row_identifier", _bare(data, index), message, detail={"pattern": seen})


def _bare(data: _Data, index: int) -> str:
    names = column_names(data.X)
    return names[index] if names else str(index)


def _option(data: _Data, index: int) -> str:
    """Return how the command line leaves a column out, for a column with a name."""
    return f" (--drop {shlex.quote(_bare(data, index))})" if column_names(data.X) else ""


def _not_looked_at(data: _Data) -> list[Finding]:
    n_columns = data.X.shape[1]
    if n_columns <= MAX_COLUMNS:
        return []
    message = (
        f"of {n_columns:,} columns the first {MAX_COLUMNS:,} were tried alone as predictors of the target; "
        "the others were not, for time."
    )
    detail = {"n_columns": n_columns, "n_tried": MAX_COLUMNS}
    return [Finding("not_looked_at", None, message, "note", detail)]


def _leaks(
    data: _Data, sample: Any, columns: Sequence[SampledColumn], rows: Ints, identifiers: Mapping[int, str]
) -> list[Leak]:
    """Return the leaks, tried on one row of each content: a copy of a row would give itself away."""
    n_columns = sample.shape[1]
    content = [i for i in range(n_columns) if data.kinds[i] != "drop" and i not in identifiers]
    once = np.sort(np.unique(hash_rows(sample, content), return_index=True)[1])
    out = {i for i in range(n_columns) if data.kinds[i] == "drop"}

    def without(gone: list[int]) -> Any:
        left = [i for i in range(n_columns) if i not in out and i not in gone]
        if not left:
            return None
        return take_rows(sample[:, left] if isinstance(sample, np.ndarray) else sample.select(left), once)

    return find_leaks(
        [replace(column, values=column.values[once]) for column in columns],
        data.labels[rows[once]],
        len(data.classes),
        without,
        None if data.groups is None else data.groups[rows[once]],
    )


def _leak_finding(data: _Data, leak: Leak, identifiers: Mapping[int, str]) -> Finding:
    name, bare = data.names[leak.index], _bare(data, leak.index)
    advice = f"Unless it is known before the label is, leave it out{_option(data, leak.index)}."
    if leak.n_values <= CASES * min(data.n_rows, SAMPLE_ROWS) and not leak.is_copy and data.groups is None:
        advice += " If its values stand for cases with several rows each, name those as the group (--group)."
    detail: dict[str, object] = {"accuracy": leak.accuracy, "row_identifier": leak.index in identifiers}
    if leak.is_copy or leak.accuracy_without is None:
        message = f"{name} stands for the target: each of its values goes with one label. {advice}"
        return Finding("target_copy", bare, message, detail=detail)
    detail["accuracy_without"] = leak.accuracy_without
    number = " (it numbers the rows)" if leak.index in identifiers else ""
    message = (
        f"{name}{number} alone has {_percent(leak.accuracy)} of held-out rows right, all others together "
        f"{_percent(leak.accuracy_without)}: it gives the target away. {advice}"
    )
    return Finding("target_leak", bare, message, detail=detail)


def _percent(share: float) -> str:
    """Return a share in percent; 100 and 0 are said only where they are exact.

    Examples
    --------
    >>> _percent(0.5), _percent(0.99996), _percent(1.0), _percent(0.00004)
    ('50.0 %', '99.9 %', '100 %', '0.1 %')
    """
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    return f"{min(max(100 * share, 0.1), 99.9):.1f} %"


# Rows


class _Hashed(NamedTuple):
    """Hashes of training rows, and of validation rows; of a part of each where there are too many."""

    rows: Ints
    hashes: NDArray[np.uint64]
    val_rows: Ints
    val_hashes: NDArray[np.uint64]
    one_in: int


def _row_findings(
    data: _Data, columns: list[int], X_val: Any, y_val: NDArray[np.integer] | None, sample: Ints
) -> list[Finding]:
    """Return what duplicate rows there are: with each other, contradicting, and in the validation rows."""
    if not columns or data.n_rows < 2:
        return []
    hashed = _hashed(data, columns, X_val, sample)
    if len(hashed.rows) < 2:
        return []
    kinds, first, inverse = np.unique(hashed.hashes, return_index=True, return_inverse=True)
    n, n_distinct = len(hashed.rows), len(kinds)
    coarse = n_distinct < MOSTLY_DISTINCT * n and _coarse(data, columns, hashed.rows[first])
    part = "" if hashed.one_in == 1 else f" (looked at: one row in {hashed.one_in})"
    found = _contradictions(data, hashed, inverse, n_distinct, coarse=coarse, part=part)
    found += _duplicates(data, hashed, inverse, first, coarse=coarse, part=part)
    if X_val is not None and len(hashed.val_rows):
        found += _overlap(data, hashed, kinds, inverse, y_val, coarse=coarse, part=part)
    return found


def _coarse(data: _Data, columns: list[int], distinct: Ints) -> bool:
    """Say whether equal rows come about by chance: no column tells half of the distinct rows apart."""
    if len(distinct) < SAMPLE_DISTINCT:
        return True
    rows = take_rows(data.X, distinct[_sampled(len(distinct), SAMPLE_DISTINCT)])
    return all(len(np.unique(hash_rows(rows, [c]))) < SAMPLE_DISTINCT / 2 for c in columns)


def _hashed(data: _Data, columns: list[int], X_val: Any, sample: Ints) -> _Hashed:
    """Hash rows; where there are too many, those whose most telling columns have a hash below a bound.

    Rows of equal content are then all looked at or none of them, in training and in validation.
    """
    val_columns = _same_columns(data.X, X_val, columns)
    n_val = 0 if val_columns is None else int(X_val.shape[0])
    one_in = max(1, -(-(data.n_rows + n_val) * len(columns) // HASHED_CELLS))
    empty = np.empty(0, dtype=np.int64)
    if one_in == 1:
        hashes = hash_rows(data.X, columns)
        val = hash_rows(X_val, val_columns) if n_val else np.empty(0, dtype=np.uint64)
        return _Hashed(np.arange(data.n_rows), hashes, np.arange(n_val), val, 1)
    head = take_rows(data.X, sample)
    telling = [len(np.unique(hash_rows(head, [column]))) for column in columns]
    key = sorted(np.argsort(telling, kind="stable")[::-1][:4].tolist())
    bound = np.uint64((1 << 64) // one_in)
    rows = np.flatnonzero(hash_rows(data.X, [columns[i] for i in key]) < bound)
    hashes = hash_rows(take_rows(data.X, rows), columns)
    if not n_val or val_columns is None:
        return _Hashed(rows, hashes, empty, np.empty(0, dtype=np.uint64), one_in)
    val_rows = np.flatnonzero(hash_rows(X_val, [val_columns[i] for i in key]) < bound)
    return _Hashed(rows, hashes, val_rows, hash_rows(take_rows(X_val, val_rows), val_columns), one_in)


def _same_columns(X: Any, X_val: Any, columns: list[int]) -> list[int] | None:
    """Return the places of the columns in the validation table, or None where it lacks one."""
    if X_val is None:
        return None
    names, val_names = column_names(X), column_names(X_val)
    if names is None or val_names is None:
        return columns if X.shape[1] == X_val.shape[1] else None
    place = {name: index for index, name in enumerate(val_names)}
    found = [place.get(names[column], -1) for column in columns]
    return None if -1 in found else found


def _contradictions(
    data: _Data, hashed: _Hashed, inverse: Ints, n_distinct: int, *, coarse: bool, part: str
) -> list[Finding]:
    """Return the rows that are equal but for the label."""
    labels = data.labels[hashed.rows]
    low, high = np.full(n_distinct, len(data.classes)), np.full(n_distinct, -1)
    np.minimum.at(low, inverse, labels)
    np.maximum.at(high, inverse, labels)
    mixed = (low < high)[inverse]
    n = int(mixed.sum())
    if not n:
        return []
    one = inverse[np.flatnonzero(mixed)[0]]
    alike = np.flatnonzero(inverse == one)
    a = int(hashed.rows[alike[0]])
    b = int(hashed.rows[alike[labels[alike] != labels[alike[0]]][0]])
    share = n / len(labels)
    serious = share >= CONTRADICTIONS and not coarse
    advice = (
        "Look whether the labels are right, or whether a column is missing that tells such rows apart."
        if serious
        else "No model can have all of them right."
    )
    message = (
        f"{n:,} rows ({_percent(share)}) are equal to a row with another label, such as rows {a} "
        f"({data.label(int(data.labels[a]))}) and {b} ({data.label(int(data.labels[b]))}), counted from 0"
        f"{part}. {advice}"
    )
    detail = {"n_rows": n, "share": share, "rows": [a, b], "one_in": hashed.one_in}
    return [Finding("contradicting_rows", None, message, "warning" if serious else "note", detail)]


def _duplicates(data: _Data, hashed: _Hashed, inverse: Ints, first: Ints, *, coarse: bool, part: str) -> list[Finding]:
    """Return how many rows are copies of others."""
    n, n_copies = len(hashed.rows), len(hashed.rows) - len(first)
    share = n_copies / n
    if coarse or share < DUPLICATES / 20:
        return []
    copy = np.ones(n, dtype=bool)
    copy[first] = False
    b = int(np.flatnonzero(copy)[0])
    a = int(first[inverse[b]])
    serious = share >= DUPLICATES and data.groups is None
    advice = (
        "Copies on both sides of a split make the score better than it is: remove them, or name a column "
        "that copies share as the group (--group)."
        if serious
        else "Where they are copies of one case, remove them."
    )
    rows = [int(hashed.rows[a]), int(hashed.rows[b])]
    message = (
        f"{n_copies:,} rows ({_percent(share)}) are copies of others, such as rows {rows[0]} and {rows[1]}, "
        f"counted from 0{part}. {advice}"
    )
    detail = {"n_rows": n_copies, "share": share, "rows": rows, "one_in": hashed.one_in}
    return [Finding("duplicate_rows", None, message, "warning" if serious else "note", detail)]


def _overlap(
    data: _Data,
    hashed: _Hashed,
    kinds: NDArray[np.uint64],
    inverse: Ints,
    y_val: NDArray[np.integer] | None,
    *,
    coarse: bool,
    part: str,
) -> list[Finding]:
    """Return how many validation rows are training rows too."""
    place = np.minimum(np.searchsorted(kinds, hashed.val_hashes), len(kinds) - 1)
    both = kinds[place] == hashed.val_hashes
    n = int(both.sum())
    if not n:
        return []
    share = n / len(both)
    b = int(np.flatnonzero(both)[0])
    a = int(hashed.rows[np.flatnonzero(inverse == place[b])[0]])
    b = int(hashed.val_rows[b])
    detail: dict[str, object] = {"n_rows": n, "share": share, "rows": [a, b], "one_in": hashed.one_in}
    if y_val is not None:
        pairs = set(zip(inverse.tolist(), data.labels[hashed.rows].tolist(), strict=True))
        given = np.asarray(y_val)[hashed.val_rows[both]].tolist()
        same = sum(pair in pairs for pair in zip(place[both].tolist(), given, strict=True))
        detail["share_same_label"] = same / len(both)
    serious = share >= OVERLAP and not coarse
    message = (
        f"{n:,} validation rows ({_percent(share)}) are training rows too, such as row {b}, which is training "
        f"row {a} (counted from 0){part}: their score is better than it is for new rows. Remove them from one "
        "of the two."
    )
    return [Finding("rows_in_validation", None, message, "warning" if serious else "note", detail)]


# Labels


def _label_findings(data: _Data, sample_weight: NDArray[Any] | None) -> list[Finding]:
    """Return what the labels alone show."""
    counts = np.bincount(data.labels, minlength=len(data.classes))
    found: list[Finding] = []
    pairs = similar_labels(data.classes, counts)
    for number, pair in enumerate(pairs[:SHOWN], 1):
        rare, frequent = data.label(pair.rare), data.label(pair.frequent)
        more = f" There are {len(pairs) - SHOWN:,} more such pairs." if number == SHOWN < len(pairs) else ""
        message = (
            f"the label {rare} ({_rows(counts[pair.rare])}) may be the label {frequent} "
            f"({_rows(counts[pair.frequent])}): they differ in {pair.reason}. If they mean the same, write them "
            f"the same.{more}"
        )
        detail = {
            "labels": [str(data.classes[pair.rare]), str(data.classes[pair.frequent])],
            "counts": [int(counts[pair.rare]), int(counts[pair.frequent])],
            "difference": pair.reason,
        }
        found.append(Finding("similar_labels", None, message, detail=detail))
    found += _single_rows(data, counts)
    found += _single_groups(data, counts)
    weights = sample_weight
    if weights is not None and len(weights) != data.n_rows:
        weights = weights[weights > 0]
    return found + _imbalance(data, counts, weights)


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _listed(data: _Data, indices: Ints) -> str:
    shown = ", ".join(data.label(int(index)) for index in indices[:SHOWN])
    return shown + (", ..." if len(indices) > SHOWN else "")


def _single_rows(data: _Data, counts: Ints) -> list[Finding]:
    single = np.flatnonzero(counts == 1)
    if not len(single):
        return []
    which = f"{len(single):,} classes have one row each" if len(single) > 1 else "a class has only one row"
    message = (
        f"{which}: {_listed(data, single)}. Such a row is learned from and never held out, so that no score "
        "knows the class. Add rows, join classes, or leave them out."
    )
    detail = {"n_classes": len(single), "labels": [str(data.classes[int(i)]) for i in single[:100]]}
    return [Finding("single_row_class", None, message, detail=detail)]


def _single_groups(data: _Data, counts: Ints) -> list[Finding]:
    """Return the classes whose rows are all of one group, which no split can have on both sides."""
    if data.groups is None:
        return []
    low = np.full(len(counts), np.iinfo(np.int64).max)
    high = np.full(len(counts), -1)
    np.minimum.at(low, data.labels, data.groups)
    np.maximum.at(high, data.labels, data.groups)
    one = np.flatnonzero((low == high) & (counts > 1))
    if not len(one):
        return []
    which = f"{len(one):,} classes have" if len(one) > 1 else "a class has"
    message = (
        f"{which} rows of one group only: {_listed(data, one)}. A split by group cannot have such a class on "
        "both sides. Add groups, or split without them if rows of a group are not alike."
    )
    detail = {"n_classes": len(one), "labels": [str(data.classes[int(i)]) for i in one[:100]]}
    return [Finding("class_in_one_group", None, message, detail=detail)]


def _imbalance(data: _Data, counts: Ints, weights: NDArray[Any] | None) -> list[Finding]:
    """Return a finding where one class is nearly everything, or some are a thousand times rarer than others."""
    present = np.flatnonzero(counts)
    if len(present) < 2:
        return []
    mass = counts if weights is None else np.bincount(data.labels, weights=weights, minlength=len(counts))
    most, least = int(mass.argmax()), int(present[mass[present].argmin()])
    share, ratio = float(mass[most] / mass.sum()), float(mass[most] / mass[least])
    detail: dict[str, object] = {
        "majority": str(data.classes[most]),
        "majority_share": share,
        "rarest": str(data.classes[least]),
        "ratio": ratio,
    }
    if share >= MAJORITY:
        message = (
            f"{_percent(share)} of the rows are {data.label(most)}: always saying so is that accurate. Judge the "
            "model by its log loss, and choose from what probability to act on; class_weight='balanced' "
            "would shift the probabilities."
        )
        return [Finding("imbalance", None, message, detail=detail)]
    if ratio < RATIO_NOTE:
        return []
    message = (
        f"the class {data.label(least)} has {_rows(counts[least])} and {data.label(most)} "
        f"{_rows(counts[most])}: what is said of rare classes is hardly tested. Look at scores by class, and "
        "add rows of rare classes or join them."
    )
    return [Finding("imbalance", None, message, "warning" if ratio >= RATIO_WARNING else "note", detail)]


# What the encoder found


def _encoder_findings(encoder: FeatureEncoder | None, told: set[str | None]) -> list[Finding]:
    """Return the columns that become nothing, one finding for each reason, but for those that were told of before."""
    if encoder is None:
        return []
    by_reason: dict[str, list[str]] = {}
    for row in encoder.describe():
        nothing, _, reason = str(row["becomes"]).partition("nothing: ")
        if not nothing and reason and reason != "dropped as asked for" and row["name"] not in told:
            by_reason.setdefault(reason, []).append(str(row["name"]))
    return [_empty_finding(reason, names) for reason, names in by_reason.items()]


def _empty_finding(reason: str, names: list[str]) -> Finding:
    shown = ", ".join(repr(name) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    one = len(names) == 1
    what = f"column {shown} is" if one else f"{len(names):,} columns are"
    identifier = "identifier" in reason
    advice = (
        "To use it nonetheless, name its kind (--category, --text)."
        if identifier
        else "If there should be values, look at the source."
    )
    message = f"{what} left out, {reason}{'' if one else ': ' + shown}. {advice}"
    kind = "row_identifier" if identifier else "empty_column"
    detail = {"reason": reason, "n_columns": len(names), "columns": names[:100]}
    return Finding(kind, names[0] if one else None, message, "note", detail)
