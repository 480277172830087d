"""Delimited text: values, exact lines, every way in which a file can be bad."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import softmaxnet.data.csv_scan as csv_scan
from softmaxnet.data.csv_scan import line_of, scan_records
from softmaxnet.data.dataset import Dataset
from softmaxnet.data.delimited import MAX_RECORD_BYTES, MISSING_TOKENS
from softmaxnet.data.files import read_dataset
from softmaxnet.data.labels import labels_of
from softmaxnet.errors import DataError, ResourceError, UsageError


@pytest.fixture
def write(tmp_path: Path):
    """Return a function that writes bytes to a file and gives its path."""

    def put(data: bytes | str, name: str = "data.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return put


def failing(path: Path, **options: object) -> DataError:
    """Return the DataError that reading raises."""
    options.setdefault("target", "y")
    with pytest.raises(DataError) as caught:
        read_dataset(path, **options)  # type: ignore[arg-type]
    assert caught.value.file == str(path)
    assert "\n" not in str(caught.value)
    return caught.value


def test_columns_are_strings_and_missing_tokens_are_null(write) -> None:
    """Numbers stay text, each missing token is null, quoted or not, and lines count from the header."""
    cells = [token for token in MISSING_TOKENS if token] + ["1.50", "007"]
    path = write("a,b,y\n" + "".join(f'{cell},"{cell}",u\n' for cell in cells) + ',"",v\n')
    data = read_dataset(path, target="y")
    expected = [None] * 9 + ["1.50", "007", None]
    assert data.X.to_pydict() == {"a": expected, "b": expected}
    assert data.X.schema.types == [pa.string(), pa.string()]
    assert data.row_lines is not None
    assert data.row_lines.tolist() == list(range(2, 14))
    assert data.source == str(path)


def test_missing_tokens_can_be_told(write) -> None:
    """The reader setting ``missing`` replaces the tokens, so that None can be a class."""
    data = read_dataset(write("a,y\n1,None\n-,b\n"), target="y", reader={"missing": ["-"]})
    assert data.y is not None
    assert (data.X.to_pydict(), data.y.tolist()) == ({"a": ["1", None]}, ["None", "b"])


@pytest.mark.parametrize(
    ("labels", "dtype", "expected"),
    [
        (["3", "-1", "0"], np.int64, [3, -1, 0]),
        (["3", "03"], object, ["3", "03"]),
        (["3", "-0"], object, ["3", "-0"]),
        (["1.0", "2"], object, ["1.0", "2"]),
        (["9" * 25, "1"], object, ["9" * 25, "1"]),
        (["True", "False"], object, ["True", "False"]),
        (['"a,b"', '"c\nd"', "\U0001f600"], object, ["a,b", "c\nd", "\U0001f600"]),
    ],
)
def test_label_types(write, labels: list[str], dtype: object, expected: list[object]) -> None:
    """Labels that are all canonical integers are int64; all others are kept to the character."""
    data = read_dataset(write("a,y\n" + "".join(f"1,{label}\n" for label in labels)), target="y")
    assert data.y is not None
    assert data.y.dtype == dtype
    assert data.y.tolist() == expected


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_line_endings_and_bom(write, ending: str, last: bool) -> None:
    """LF, CR LF and CR, with and without one at the end, with a byte order mark: the same rows."""
    text = ending.join(["a,y", "1,u", '"x', 'z",v', "3,w"]) + (ending if last else "")
    data = read_dataset(write(b"\xef\xbb\xbf" + text.encode()), target="y")
    assert data.X.to_pydict() == {"a": ["1", f"x{ending}z", "3"]}
    assert data.row_lines is not None
    assert data.row_lines.tolist() == [2, 3, 5]


def test_mixed_line_endings(write) -> None:
    """A file that mixes line endings has one row for each of them."""
    data = read_dataset(write("a,y\r\n1,u\n2,v\r3,w"), target="y")
    assert data.X["a"].to_pylist() == ["1", "2", "3"]
    assert data.row_lines is not None
    assert data.row_lines.tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("", None, "the file is empty"),
        (" \n\n", None, "the file is empty"),
        ("a,y\n", 1, "no row below"),
        ("a,y\n1,u\n2\n3,v\n", 3, "expected 2 cells, found 1 cell"),
        ("a,y\n1,u\n2,v,w\n", 3, "expected 2 cells, found 3 cells"),
        ("a,y\n1,u\n\n3,v\n", 3, "a blank line"),
        ('a,y\n1,u\n"2,v\n3,w\n', 3, "a quote that opens here is never closed"),
        ('a,y\n1,u\n"x\nx","2\n3,w\n', 4, "a quote that opens here is never closed"),
        ('a,"y\n1,u\n', 1, "header is never closed"),
        ('a,y\n1,u\n"2,v\n3,w\n4",5,6\n', 3, "reaches to line 5"),
        ("a,y\n1,u\n2\0,v\n", 3, "NUL byte"),
        ("a\0,y\n1,u\n", 1, "NUL byte"),
        ("a,a,y\n1,2,u\n", 1, "columns 1 and 2 are both named 'a'"),
        (",a,y\n0,1,u\n", 1, "column 1 of 3 has no name"),
        (b"a,y\n1,u\n2,\xe9\n", 3, "not UTF-8: byte 0xE9 at byte 3"),
        (b"a,y\xe9\n1,u\n", 1, "the header is not UTF-8: byte 0xE9"),
        ("a,y\n1,u\n2,\n", 3, "the label is missing"),
        ("a,y\n1,u\n2,NA\n", 3, "the label is missing"),
        ("y\nu\nv\n", None, "no column left"),
        ("a,label\n1,u\n", None, "there is no column 'y'"),
    ],
)
def test_bad_files(write, content: str | bytes, line: int | None, words: str) -> None:
    """Every fault is a DataError that names the file and the line."""
    error = failing(write(content))
    assert error.line == line
    assert words in error.message
    assert error.exit_code == 3


@pytest.mark.parametrize(
    ("bad", "line"), [("2\n", 3), ("2,v,w\n", 3), ("\n", 3), ("2\0,v\n", 3), ('"2,v\n', 3), ("2,\xe9\n", 3)]
)
def test_skip_keep_and_count(write, bad: str, line: int) -> None:
    """A bad row is dropped, or keeps its place with nulls; both account for it; a number allows so many."""
    path = write(("a,y\n1,u\n" + bad + "3,v\n").encode("latin-1"))
    skipped = read_dataset(path, target="y", on_bad_row="skip")
    assert skipped.X.to_pydict() == {"a": ["1", "3"]}
    assert [(one.row, one.line, one.file) for one in skipped.bad_rows] == [(1, line, str(path))]
    kept = read_dataset(path, target="y", on_bad_row="keep")
    assert kept.X.to_pydict() == {"a": ["1", None, "3"]}
    assert kept.y is not None
    assert kept.y.tolist() == ["u", None, "v"]
    assert [(one.row, one.line) for one in kept.bad_rows] == [(1, line)]
    assert read_dataset(path, target="y", on_bad_row=1).n_rows == 2
    assert failing(path, on_bad_row=0).line == line


def test_counts_are_exact(write) -> None:
    """Of 1,000 rows with 37 short ones, 31 long ones and 13 without a label, exactly 81 are reported."""
    rows = ["1,2,u"] * 1000
    for i in range(37):
        rows[i * 20] = "1,2"
    for i in range(31):
        rows[i * 20 + 1] = "1,2,u,3"
    for i in range(13):
        rows[i * 20 + 2] = "1,2,"
    path = write("a,b,y\n" + "\n".join(rows) + "\n")
    data = read_dataset(path, target="y", on_bad_row="skip")
    assert (data.n_rows, len(data.bad_rows)) == (919, 81)
    assert [bad.line for bad in data.bad_rows] == [
        i + 2 for i, row in enumerate(rows) if row.count(",") != 2 or row.endswith(",")
    ]
    assert read_dataset(path, target="y", on_bad_row=81).n_rows == 919
    assert "bad row number 81; at most 80" in str(failing(path, on_bad_row=80))
    kept = read_dataset(path, target="y", on_bad_row="keep")
    assert (kept.n_rows, len(kept.bad_rows)) == (1000, 81)


def test_several_quotes_that_never_close(write) -> None:
    """After a quote that never closes, reading goes on with the next line."""
    path = write('a,y\n1,u\n2,"v\n3,w\n')
    data = read_dataset(path, target="y", on_bad_row="skip")
    assert data.X["a"].to_pylist() == ["1", "3"]
    assert [bad.line for bad in data.bad_rows] == [3]


def test_bad_rows_only(write) -> None:
    """A file of bad rows only is an error, and keeps its rows where they are to be kept."""
    path = write("a,y\n1\n2\n")
    assert "none of the 2 rows" in failing(path, on_bad_row="skip").message
    kept = read_dataset(path, target="y", on_bad_row="keep")
    assert kept.X.to_pydict() == {"a": [None, None]}


def test_blank_lines(write) -> None:
    """A blank line at the end is nothing in a file of several columns, and a row in a file of one."""
    assert read_dataset(write("a,y\n1,u\n\n\n"), target="y").n_rows == 1
    data = read_dataset(write("text\nhello\n\nthere\n\n"), need_target=False)
    assert data.X.to_pydict() == {"text": ["hello", None, "there", None]}
    assert data.row_lines is not None
    assert data.row_lines.tolist() == [2, 3, 4, 5]


def test_oversized_cell_is_refused(write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row above the limit is refused with its line, whether its quote is closed or not."""
    monkeypatch.setattr("softmaxnet.data.delimited.MAX_RECORD_BYTES", 10_000)
    assert MAX_RECORD_BYTES == 64 << 20
    for tail in ('",u\n2,v\n', "\n2,v\n"):
        error = failing(write('a,y\n1,u\n"' + "x" * 20_000 + tail))
        assert error.line == 3
        assert "20,00" in error.message


def test_long_cells_are_read(write) -> None:
    """A cell of several MB, larger than the parser's blocks, is read whole."""
    text = "word " * 1_000_000
    data = read_dataset(write(f"a,y\n{text},u\nb,v\n"), target="y")
    assert data.X["a"].to_pylist() == [text, "b"]


def test_many_columns(write) -> None:
    """A file of 20,000 columns is read, and a short row in it is found."""
    names = ",".join(f"c{i}" for i in range(20_000))
    row = ",".join(["1"] * 20_000)
    assert read_dataset(write(f"{names},y\n{row},u\n"), target="y").X.num_columns == 20_000
    assert failing(write(f"{names},y\n{row},u\n{row}\n")).line == 3


@pytest.mark.parametrize(
    ("content", "delimiter"),
    [
        ("a,y\n1,u\n", ","),
        ("a\ty\n1,5\tu\n", "\t"),
        ("a;y\n1,5;u\n", ";"),
        ("a|y\n1,5|u\n", "|"),
        ("name, first;y\nA;u\nB;v\n", ";"),
        ('"a;b",y\n1,u\n', ","),
        ("a b,c d;y,z\n1,2,3\n4,5,6\n", ","),
    ],
)
def test_delimiter_is_found(write, content: str, delimiter: str) -> None:
    """The delimiter is the one that the header shows outside quotes and the first rows agree with."""
    data = read_dataset(write(content), need_target=False)
    assert data.reader["delimiter"] == delimiter
    assert data.X.num_columns > 1
    assert read_dataset(write(content), need_target=False, reader=data.reader).X.equals(data.X)


def test_delimiter_is_told(write) -> None:
    """A told delimiter wins where the header has it, and gives way to one that the header has instead."""
    path = write("a;b,y\n1;2,u\n")
    assert read_dataset(path, need_target=False, reader={"delimiter": ";"}).X.column_names == ["a", "b,y"]
    assert read_dataset(path, need_target=False, reader={"delimiter": "tab"}).reader["delimiter"] in (
        ",",
        ";",
    )
    assert read_dataset(write("a y\n1 u\n"), need_target=False, reader={"delimiter": " "}).X.num_columns == 2
    tsv = write("a\ty,z\n1\tu\n", "data.tsv")
    assert read_dataset(tsv, need_target=False).X.column_names == ["a", "y,z"]
    with pytest.raises(UsageError, match="one ASCII character"):
        read_dataset(path, need_target=False, reader={"delimiter": "ab"})
    with pytest.raises(UsageError, match="must be a string"):
        read_dataset(path, need_target=False, reader={"delimiter": 3})


def test_decimal_comma(write) -> None:
    """With semicolons, numbers such as 1,5 are found and written with points; text is untouched."""
    text = "a;b;y\n1,5;x,y;u\n-2,25e3;1,2,3;v\n3;;w\n"
    data = read_dataset(write(text), target="y")
    assert data.X.to_pydict() == {"a": ["1.5", "-2.25e3", "3"], "b": ["x,y", "1,2,3", None]}
    assert data.reader["decimal"] == ","
    one = read_dataset(write("a;b;y\n7;0,5;u\n"), target="y", reader={**data.reader, "decimal": "."})
    assert one.X.to_pydict() == {"a": ["7"], "b": ["0,5"]}
    commas = read_dataset(write('a,y\n"1,5",u\n'), target="y")
    assert commas.X.to_pydict() == {"a": ["1,5"]}


def test_encodings(write) -> None:
    """Latin-1 is read where it is told; UTF-16 says what it is; a codec that is none is a usage error."""
    latin = write("a,y\n\xe9,u\n".encode("latin-1"))
    data = read_dataset(latin, target="y", reader={"encoding": "latin-1"})
    assert data.X.to_pydict() == {"a": ["\xe9"]}
    assert read_dataset(latin, target="y", reader=data.reader).X.equals(data.X)
    assert "encoding" in (failing(latin).hint or "")
    assert read_dataset(write("a,y\n\xe9,u\n".encode("utf-16"), "wide.csv"), target="y").X.to_pydict() == {
        "a": ["\xe9"]
    }
    with pytest.raises(UsageError, match="not known"):
        read_dataset(latin, target="y", reader={"encoding": "klingon"})
    assert failing(latin, reader={"encoding": "shift_jis"}).line == 2


def test_quotes_within_cells(write) -> None:
    """A quote that does not begin its cell is a character; without quoting, every quote is."""
    data = read_dataset(write('a,y\n5" pipe,u\n"6"" pipe",v\n7" and 8",w\n'), target="y")
    assert data.X["a"].to_pylist() == ['5" pipe', '6" pipe', '7" and 8"']
    free = read_dataset(write('a\ty\n"She said\tu\nno\tv\n'), target="y", reader={"quote": ""})
    assert free.X["a"].to_pylist() == ['"She said', "no"]


def test_target_weights_and_group(write) -> None:
    """Columns with a role are set apart and are no inputs; weights must be finite and not negative."""
    path = write("a,y,w,g\n1,u,2,p1\n2,v,0.5,p2\n")
    data = read_dataset(path, target="y", weights="w", group="g")
    assert data.X.column_names == ["a"]
    assert data.sample_weight is not None
    assert data.groups is not None
    assert (data.sample_weight.tolist(), data.groups.tolist()) == ([2.0, 0.5], ["p1", "p2"])
    for weight in ("-1", "inf", "x", ""):
        bad = write(f"a,y,w\n1,u,2\n2,v,{weight}\n")
        error = failing(bad, weights="w")
        assert (error.line, error.column) == (3, "w")
        assert read_dataset(bad, target="y", weights="w", on_bad_row="skip").n_rows == 1
    with pytest.raises(UsageError, match="different columns"):
        read_dataset(path, target="y", weights="y")


def test_target_that_is_not_there(write) -> None:
    """The nearest name and the list of columns are given."""
    error = failing(write("age,Label\n1,u\n"), target="label")
    assert "Did you mean 'Label'?" in str(error)
    assert "age, Label" in str(error)
    with pytest.raises(UsageError, match="--target"):
        read_dataset(write("age,Label\n1,u\n"))


def test_predicting_needs_no_target(write) -> None:
    """Without need_target the target may be absent, present with missing labels, and is no input."""
    assert read_dataset(write("a\n1\n2\n"), target="y", need_target=False).y is None
    data = read_dataset(write("a,y\n1,3\n2,\n"), target="y", need_target=False)
    assert data.y is not None
    assert (data.X.column_names, data.y.tolist()) == (["a"], [3, None])
    with pytest.raises(DataError, match="missing in 1 of 2 rows") as caught:
        labels_of(data)
    assert caught.value.line == 3


def test_missing_file(tmp_path: Path, write) -> None:
    """A path that is not there names the near one; a folder that is not there is said to be so."""
    write("a,y\n", "train.csv")
    assert "Did you mean 'train.csv'?" in str(failing(tmp_path / "trian.csv"))
    assert "train.csv" in str(failing(tmp_path / "zzz"))
    assert "no folder" in str(failing(tmp_path / "no" / "train.csv"))


def test_other_files_are_named(write, tmp_path: Path) -> None:
    """A zip, a PDF or a NumPy array with the ending .csv is called what it is."""
    for data, word in ((b"PK\x03\x04..", "zip"), (b"%PDF-1.7", "PDF"), (b"\x93NUMPY\x01", "NumPy")):
        assert word in failing(write(data)).message
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.csv").write_text("a,y\n")
    assert "*.csv" in str(failing(tmp_path / "folder"))
    assert "holds nothing" in str(failing_empty(tmp_path))


def failing_empty(tmp_path: Path) -> DataError:
    """Return the error for a folder with nothing in it."""
    folder = tmp_path / "nothing"
    folder.mkdir()
    return failing(folder)


@pytest.mark.skipif(not hasattr(__import__("os"), "geteuid"), reason="permissions are those of POSIX")
def test_unreadable_file(write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be read is a ResourceError with its path."""
    path = write("a,y\n1,u\n")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ResourceError, match="Permission denied") as caught:
        read_dataset(path, target="y")
    assert caught.value.file == str(path)


def test_compressed(write) -> None:
    """Gzip and Zstandard are told by their bytes, whatever the name; damaged ones are DataErrors."""
    text = b"a,y\n" + b"1,u\n" * 1000
    packed = {"d.csv.gz": gzip.compress(text), "d.csv.zst": pa.compress(text, "zstd", asbytes=True)}
    for name, data in packed.items():
        assert read_dataset(write(data, name), target="y").n_rows == 1000
        assert read_dataset(write(data, "plain.csv"), target="y").n_rows == 1000
        failing(write(data[:-9], name))
    damaged = bytearray(packed["d.csv.gz"])
    damaged[15] ^= 0xFF
    failing(write(bytes(damaged), "d.csv.gz"))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash reads the standard input, whatever is in it."""
    contents = (b"a,y\n1,u\n", gzip.compress(b"a,y\n1,u\n"), b'{"a": "1", "y": "u"}\n')
    for content in contents:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        data = read_dataset("-", target="y")
        assert data.X.to_pydict() == {"a": ["1"]}
        assert data.source == "<stdin>"


def test_glob(write, tmp_path: Path) -> None:
    """A pattern reads its files in order, by column names; lines and bad rows are those of each file."""
    first, second = write("a,y\n1,u\n2,v\n", "p1.csv"), write("y,a\nw,3\nx\nu,4\n", "p2.csv")
    data = read_dataset(str(tmp_path / "p*.csv"), target="y", on_bad_row="skip")
    assert data.X.to_pydict() == {"a": ["1", "2", "3", "4"]}
    assert data.parts == ((str(first), 2), (str(second), 2))
    assert [data.place(row) for row in range(4)] == [
        (str(first), 2),
        (str(first), 3),
        (str(second), 2),
        (str(second), 4),
    ]
    assert [(bad.row, bad.line, bad.file) for bad in data.bad_rows] == [(3, 3, str(second))]
    kept = read_dataset(str(tmp_path / "p*.csv"), target="y", on_bad_row="keep")
    assert kept.X["a"].to_pylist() == ["1", "2", "3", None, "4"]
    assert [bad.row for bad in kept.bad_rows] == [3]
    write("b,y\n1,u\n", "p3.csv")
    with pytest.raises(DataError, match="lacks the column 'a'"):
        read_dataset(str(tmp_path / "p*.csv"), target="y", on_bad_row="skip")
    with pytest.raises(DataError, match="no file matches"):
        read_dataset(str(tmp_path / "q*.csv"), target="y")


def test_reader_is_json(write) -> None:
    """The settings that come back are plain JSON data."""
    reader = read_dataset(write("a;y\n1,5;u\n"), target="y").reader
    assert json.loads(json.dumps(reader)) == reader


@pytest.mark.parametrize("on_bad_row", ["ignore", -1, True, 1.5, None])
def test_on_bad_row_is_checked(write, on_bad_row: object) -> None:
    """A policy that is none is a usage error."""
    with pytest.raises(UsageError, match="on_bad_row"):
        read_dataset(write("a,y\n1,u\n"), target="y", on_bad_row=on_bad_row)  # type: ignore[arg-type]


# Any strings, through Python's own writer and back

CELLS = st.text(st.sampled_from('ab",;|\t\r\n \u00e9\U0001f600x1'), max_size=6) | st.text(max_size=5)


def usable(text: str) -> bool:
    """Return whether text is a cell that means itself: no NUL, no lone surrogate."""
    return "\0" not in text and all(not 0xD800 <= ord(char) <= 0xDFFF for char in text)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CELLS.filter(usable), CELLS.filter(usable)), min_size=1, max_size=8),
    delimiter=st.sampled_from(",;\t|"),
    # with LF endings, Python before 3.13 leaves a lone CR without quotes
    style=st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]),
    block=st.sampled_from([4, 16, 1 << 20]),
)
def test_round_trip(tmp_path, monkeypatch, rows, delimiter, style, block) -> None:
    """What Python's csv module writes is read back to the character, in blocks of any size."""
    monkeypatch.setattr(csv_scan, "BLOCK_BYTES", block)
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=style[0], quoting=style[1])
    writer.writerows([("a", "b"), *rows])
    path = tmp_path / "round.csv"
    path.write_bytes(text.getvalue().encode())
    data = read_dataset(
        path, need_target=False, reader={"delimiter": delimiter, "missing": [], "decimal": "."}
    )
    assert list(zip(*data.X.to_pydict().values(), strict=True)) == rows


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from('aé",\r\n'), max_size=30), block=st.sampled_from([3, 1 << 20]))
def test_scan_agrees_with_a_plain_machine(monkeypatch, text: str, block: int) -> None:
    """The vectorised scan finds the same records, lines and cells as one character after another."""
    monkeypatch.setattr(csv_scan, "BLOCK_BYTES", block)
    data = text.encode()
    records = scan_records(data, ord(","))
    expected, unclosed = plain_scan(data)
    found = zip(records.start.tolist(), records.line.tolist(), records.n_cells.tolist(), strict=True)
    assert list(found) == expected
    assert records.unclosed == unclosed
    assert all(line_of(data, start) == line for start, line, _ in expected)


def plain_scan(data: bytes) -> tuple[list[tuple[int, int, int]], int | None]:
    """Return (start, line, cells) of each record by a state machine, and where a quote never closes."""
    records, start, line, record_line, cells = [], 0, 1, 1, 1
    opened: int | None = None
    i, at_cell_start = 0, True
    while i < len(data):
        char = data[i : i + 1]
        two = data[i : i + 2]
        ends_line = two == b"\r\n" or char in (b"\n", b"\r")
        width = 2 if two == b"\r\n" else 1
        if opened is not None:
            if two == b'""':
                width = 2
            elif char == b'"':
                opened = None
            line += ends_line
        elif char == b'"' and at_cell_start:
            opened, at_cell_start = i, False
        elif ends_line:
            records.append((start, record_line, cells))
            line += 1
            start, record_line, cells, at_cell_start = i + width, line, 1, True
        else:
            cells += char == b","
            at_cell_start = char == b","
        i += width
    if start < len(data):
        records.append((start, record_line, cells))
    return records, opened


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60) | st.text(st.sampled_from('a1",\r\n{:}'), max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path, data: bytes) -> None:
    """Whatever the bytes, the answer is a data set or a DataError, never another exception."""
    path = tmp_path / "any.csv"
    path.write_bytes(data)
    for policy in ("fail", "skip", "keep"):
        try:
            found = read_dataset(path, need_target=False, on_bad_row=policy)
        except DataError:
            continue
        assert isinstance(found, Dataset)
        assert found.row_lines is None or len(found.row_lines) == found.n_rows


def test_the_page_lists_the_missing_tokens() -> None:
    """Each missing token is on the page about data files."""
    page = (Path(__file__).parents[1] / "docs" / "data-files.md").read_text(encoding="utf-8")
    assert all(f"`{token}`" in page for token in MISSING_TOKENS if token)
