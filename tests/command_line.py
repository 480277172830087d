"""What the tests of the command line share: what a run left. The fixture ``sm`` of conftest makes runs."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass

__all__ = ["Result", "only_error"]


@dataclass(frozen=True)
class Result:
    """What one run of the command line left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)

    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.out)))


def only_error(result: Result) -> str:
    """Return the one line of an error, after checking that it is one line and the only output."""
    assert result.out == ""
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("softmaxnet: error: ")
    return lines[0].removeprefix("softmaxnet: error: ")
