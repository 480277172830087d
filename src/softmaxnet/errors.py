"""Every error that softmaxnet raises on purpose, each with the exit code and the HTTP status it stands for.

::

    SoftmaxError                        exit 1, HTTP 500   our base class
    |-- UsageError(ValueError)          exit 2, HTTP 400   a parameter or an option that cannot be
    |-- DataError(ValueError)           exit 3, HTTP 422   rows, columns or labels that cannot be used
    |-- ModelFileError(ValueError)      exit 4, HTTP 500   a model file that is damaged, foreign or newer
    |-- TrainingDivergedError(ArithmeticError)  exit 5, HTTP 500   no finite weights at any rate tried
    |-- ResourceError(OSError)          exit 6, HTTP 507   memory, disk or permissions gave out
    `-- GateError                       exit 7, HTTP 200   it ran; a threshold that was asked for is not met

Each class is also the field's own (``ValueError``, ``OSError``), so that code written for others keeps working.
"""

from __future__ import annotations

__all__ = [
    "DataError",
    "GateError",
    "ModelFileError",
    "ResourceError",
    "SoftmaxError",
    "TrainingDivergedError",
    "UsageError",
]


class SoftmaxError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    message : str
        One line: what was given, where, what is accepted, what to do.
    file, line, column :
        Where in the user's data, where that is known; ``line`` counts from 1, ``column`` is a name.
    hint : str, optional
        What to try next.
    """

    exit_code = 1
    http_status = 500

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line
        self.column = column
        self.hint = hint

    def __str__(self) -> str:
        """Return ``file:line: message. hint`` with the parts that are known."""
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        text = f"{place}: {self.message}" if place else self.message
        if not self.hint:
            return text
        return f"{text} {self.hint}" if text.endswith((".", "!", "?")) else f"{text}. {self.hint}"

    def to_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints and the server sends.

        Examples
        --------
        >>> DataError("'n/a' is not a number", file="a.csv", line=3, column="age").to_dict()["line"]
        3
        """
        return {
            "code": type(self).__name__,
            "message": self.message,
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "hint": self.hint,
        }


class UsageError(SoftmaxError, ValueError):
    """A parameter or an option that cannot be."""

    exit_code = 2
    http_status = 400


class DataError(SoftmaxError, ValueError):
    """Rows, columns or labels that cannot be used."""

    exit_code = 3
    http_status = 422


class ModelFileError(SoftmaxError, ValueError):
    """A model file that is damaged, foreign or newer than this version."""

    exit_code = 4


class TrainingDivergedError(SoftmaxError, ArithmeticError):
    """The loss was not finite at any learning rate that was tried."""

    exit_code = 5


class ResourceError(SoftmaxError, OSError):
    """Memory, disk space or permissions gave out."""

    exit_code = 6
    http_status = 507


class GateError(SoftmaxError):
    """The command ran, and a threshold that was asked for is not met."""

    exit_code = 7
    http_status = 200
