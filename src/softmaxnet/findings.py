"""One thing that was seen in the data, as plain data: what, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["DataWarning", "Finding"]


class DataWarning(UserWarning):
    """Something in the training data that can be used, and was hardly meant."""


@dataclass(frozen=True)
class Finding:
    """One thing that was seen in the data.

    Attributes
    ----------
    kind : str
        ``target_leak``, ``target_copy``, ``row_identifier``, ``similar_labels``, ``contradicting_rows``,
        ``duplicate_rows``, ``rows_in_validation``, ``single_row_class``, ``class_in_one_group``, ``imbalance``,
        ``empty_column``, ``not_looked_at``, ``stray_words``, ``words_as_missing``, ``slash_dates``,
        ``nothing_to_learn``, ``amounts`` or ``many_classes``.
    column : str or None
        The input column, where it is one.
    message : str
        One line: what was seen, where, and what to do.
    severity : "warning" or "note"
        A warning asks for a decision; a note is worth knowing.
    detail : mapping
        The numbers behind the message, as JSON data.
    """

    kind: str
    column: str | None
    message: str
    severity: Literal["warning", "note"] = "warning"
    detail: Mapping[str, object] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON data."""
        return {
            "kind": self.kind,
            "column": self.column,
            "message": self.message,
            "severity": self.severity,
            "detail": dict(self.detail),
        }
