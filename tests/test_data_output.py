"""Results written out: atomically into files, plainly to a pipe."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import softmaxnet.data.atomic as atomic
from softmaxnet.data.atomic import atomic_output, check_output
from softmaxnet.data.files import read_dataset
from softmaxnet.data.output import output_format, write_columns
from softmaxnet.errors import DataError, ResourceError, UsageError


def test_a_new_file_is_written_whole(tmp_path: Path) -> None:
    """The block's bytes are the file's, and nothing else is left in the folder."""
    path = tmp_path / "out.bin"
    with atomic_output(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.bin"]


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    """Without force the file stays; with force it is replaced and keeps its permissions."""
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match="--force"), atomic_output(path):
        pytest.fail("the block must not run")
    assert path.read_bytes() == b"old"
    path.chmod(0o640)
    with atomic_output(path, force=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_an_error_in_the_block_changes_nothing(tmp_path: Path) -> None:
    """The caller's own error passes through, the old file is intact, no temporary file is left."""
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), atomic_output(path, force=True) as file:
        file.write(b"half")
        raise KeyError("x")
    with pytest.raises(KeyboardInterrupt), atomic_output(path, force=True):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_a_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """A disk that gives out is a ResourceError with the path and the bytes; the old file is intact."""
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, call, fail)
    with pytest.raises(ResourceError) as caught, atomic_output(path, force=True) as file:
        file.write(b"12345")
    monkeypatch.undo()
    assert caught.value.file == str(path)
    assert "5 bytes" in caught.value.message
    assert caught.value.exit_code == 6
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.bin"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC in the middle of a write is a ResourceError too."""
    path = tmp_path / "out.bin"
    path.write_bytes(b"old")
    made = []

    def full(**options: object) -> tuple[int, str]:
        made.append(str(tmp_path / "made.tmp"))
        Path(made[0]).touch()
        return os.open("/dev/full", os.O_WRONLY), made[0]

    monkeypatch.setattr(atomic.tempfile, "mkstemp", full)
    with pytest.raises(ResourceError, match="No space left"), atomic_output(path, force=True) as file:
        file.write(b"x" * 1_000_000)
    assert path.read_bytes() == b"old"
    assert not Path(made[0]).exists()


def test_where_no_file_can_be(tmp_path: Path) -> None:
    """A folder as output is a usage error; a folder that is missing is said to be so."""
    with pytest.raises(UsageError, match="folder"):
        check_output(tmp_path)
    with pytest.raises(ResourceError, match="does not exist"):
        check_output(tmp_path / "no" / "out.bin")
    assert check_output(tmp_path / "out.bin") == tmp_path / "out.bin"


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_a_link_is_followed(tmp_path: Path) -> None:
    """What a link points to is replaced, and the link stays a link."""
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "a", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with atomic_output(link, force=True) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


COLUMNS = {
    "label": np.array(["a", 'b"c', None, "d,e\nf", "g\rh", "", "=1+1"], dtype=object),
    "probability": np.array([0.1, 1 / 3, np.nan, 1e-300, 1.0, 0.0, -2.5]),
    "count": np.arange(7),
    "short": np.array([0.1] * 7, dtype=np.float32),
    "flag": [True, None, False, True, True, True, True],
}


def test_csv_can_be_read_by_others(tmp_path: Path) -> None:
    """Python's csv module finds the same strings, and floats with all their digits."""
    write_columns(tmp_path / "o.csv", COLUMNS)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "o.csv").read_bytes().decode(), newline="")))
    assert [row["label"] for row in rows] == ["a", 'b"c', "", "d,e\nf", "g\rh", "", "=1+1"]
    assert [row["probability"] for row in rows][:4] == ["0.1", "0.3333333333333333", "", "1e-300"]
    assert {row["short"] for row in rows} == {"0.1"}
    assert [row["flag"] for row in rows][:3] == ["true", "", "false"]
    assert (tmp_path / "o.csv").read_text(encoding="utf-8").count('\n"",') == 1


def test_json_lines(tmp_path: Path) -> None:
    """Each line is one object; what is missing or not finite is null."""
    write_columns(tmp_path / "o.jsonl", COLUMNS)
    lines = (tmp_path / "o.jsonl").read_bytes().decode().split("\n")
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines if line]
    assert [row["label"] for row in rows] == COLUMNS["label"].tolist()
    assert [row["probability"] for row in rows] == [0.1, 1 / 3, None, 1e-300, 1.0, 0.0, -2.5]
    assert rows[0]["short"] == 0.1


def test_parquet(tmp_path: Path) -> None:
    """Types are kept."""
    write_columns(tmp_path / "o.parquet", COLUMNS)
    table = pyarrow.parquet.read_table(tmp_path / "o.parquet")
    assert table.schema.types == [pa.string(), pa.float64(), pa.int64(), pa.float32(), pa.bool_()]
    assert table["label"].to_pylist() == COLUMNS["label"].tolist()


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_standard_output(monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    """A dash writes the same bytes to the standard output."""
    held = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(held, write_through=True))
    write_columns("-", {"label": ["a"]}, format=format)
    written = held.getvalue()
    monkeypatch.undo()
    if format == "parquet":
        assert pyarrow.parquet.read_table(io.BytesIO(written)).num_rows == 1
    else:
        assert written == {"csv": b"label\na\n", "jsonl": b'{"label": "a"}\n'}[format]


def test_formats_and_lengths(tmp_path: Path) -> None:
    """The ending says the format, the argument wins; unlike lengths and unknown formats are refused."""
    assert [output_format(name) for name in ("a.csv", "a.ndjson", "a.pq", "a", "-")] == [
        "csv",
        "jsonl",
        "parquet",
        "csv",
        "csv",
    ]
    with pytest.raises(UsageError, match="csv, jsonl or parquet"):
        output_format("a.csv", "xlsx")
    with pytest.raises(DataError, match="different lengths"):
        write_columns(tmp_path / "a.csv", {"a": [1], "b": [1, 2]})
    assert not (tmp_path / "a.csv").exists()


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, st.floats(allow_nan=False)), min_size=1, max_size=10))
def test_round_trip_through_our_reader(tmp_path: Path, rows: list[tuple[str, float]]) -> None:
    """Any strings and floats that are written as CSV are read back as they were."""
    texts, numbers = [text for text, _ in rows], np.array([number for _, number in rows])
    write_columns(tmp_path / "r.csv", {"t": texts, "x": numbers}, force=True)
    data = read_dataset(tmp_path / "r.csv", need_target=False, reader={"missing": [], "delimiter": ","})
    assert data.X["t"].to_pylist() == texts
    assert [float(cell) for cell in data.X["x"].to_pylist()] == numbers.tolist()
