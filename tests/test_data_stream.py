"""Rows that are never all in memory: blocks of text, the cache, the epoch plan, windows."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import softmaxnet.data.blocks as blocks_module
import softmaxnet.data.delimited_blocks as delimited_blocks_module
import softmaxnet.data.row_cache as row_cache
from softmaxnet.data.blocks import Block, dataset_blocks
from softmaxnet.data.dataset import BadRowLog
from softmaxnet.data.delimited import read_delimited
from softmaxnet.data.delimited_blocks import delimited_blocks
from softmaxnet.data.files import read_dataset
from softmaxnet.data.row_groups import open_row_groups
from softmaxnet.data.stream import open_source
from softmaxnet.data.table_source import TableSource
from softmaxnet.data.window_plan import (
    Window,
    epoch_windows,
    label_entropy,
    label_mixing,
    stream_memory,
    window_order,
    window_rows_within,
)
from softmaxnet.errors import DataError, ResourceError, SoftmaxError, UsageError
from softmaxnet.features import FeatureEncoder

SIZES = st.lists(st.integers(0, 50), max_size=40)

# The plan


@given(st.integers(0, 2**63), st.integers(0, 1000), SIZES, st.integers(1, 120))
def test_every_row_is_in_one_window(seed: int, epoch: int, sizes: list[int], window_rows: int) -> None:
    """Windows hold every row group with rows once, within the budget, and count their rows through."""
    windows = epoch_windows(seed, epoch, sizes, window_rows)
    groups = [group for window in windows for group in window.groups]
    assert sorted(groups) == [group for group, size in enumerate(sizes) if size]
    assert [window.index for window in windows] == list(range(len(windows)))
    first = 0
    for window in windows:
        assert (window.first_row, window.n_rows) == (first, sum(sizes[group] for group in window.groups))
        assert window.n_rows <= window_rows or len(window.groups) == 1
        assert sorted(window_order(seed, epoch, window).tolist()) == list(range(window.n_rows))
        first += window.n_rows
    assert windows == epoch_windows(seed, epoch, sizes, window_rows)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """Another epoch, another seed and another window have another order."""
    sizes = [10] * 30
    plans = {tuple(w.groups for w in epoch_windows(seed, epoch, sizes, 50)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(plans) == 4
    a, b = Window(0, (0,), 0, 100), Window(1, (1,), 100, 100)
    orders = {tuple(window_order(seed, epoch, w)) for seed in (0, 1) for epoch in (0, 1) for w in (a, b)}
    assert len(orders) == 8


def test_row_groups_meet_others_in_every_epoch() -> None:
    """Over epochs each row group shares a window with every other one about equally often: no group is stuck."""
    n_groups, n_epochs = 12, 600
    together = np.zeros((n_groups, n_groups))
    for epoch in range(n_epochs):
        for window in epoch_windows(3, epoch, [5] * n_groups, 20):
            for i in window.groups:
                together[i, list(window.groups)] += 1
    # each of the 11 others is in the same window of 4 with probability 3/11; 5 standard errors of 600 draws
    off = together[~np.eye(n_groups, dtype=bool)] / n_epochs
    assert np.abs(off - 3 / 11).max() < 5 * np.sqrt(3 / 11 * 8 / 11 / n_epochs)


@given(st.integers(1, 1 << 32), st.floats(1, 1e5), st.integers(1, 1 << 20))
def test_the_budget_is_kept_where_a_row_group_fits(budget: int, per_row: float, largest: int) -> None:
    """Windows are as large as the budget allows, and hold at least one row group."""
    rows = window_rows_within(budget, per_row, largest)
    assert rows >= largest
    if rows > largest:
        assert stream_memory(rows, per_row, largest) <= budget
        assert stream_memory(rows + 2, per_row, largest) > budget


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 30))
@settings(deadline=None)
def test_random_order_is_well_mixed(seed: int, n_classes: int, n_groups: int) -> None:
    """Labels in random order are never taken for sorted ones, sorted ones always are."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, 200 * n_groups)

    def mixing(ordered: Any) -> float:
        parts = np.array_split(ordered, n_groups)
        entropies = [label_entropy(np.bincount(part)) for part in parts]
        return label_mixing(np.bincount(labels), [len(part) for part in parts], entropies)

    assert mixing(labels) > 0.97
    assert mixing(np.sort(labels)) < 0.9


# Delimited text in blocks


def whole_and_blocks(path: Path, data: bytes, mode: Any, block_bytes: int, reader: Any = None) -> tuple[Any, Any]:
    """Return what reading as a whole and reading in blocks give: rows and faults, or the error."""
    results = []
    path.write_bytes(data)
    for blockwise in (False, True):
        log = BadRowLog(mode)
        try:
            if blockwise:
                parts = list(delimited_blocks(path, log, reader=reader, block_bytes=block_bytes))
            else:
                parts = [read_delimited(data, str(path), log, reader=reader)]
            table = pa.concat_tables([part.table for part in parts])
            rows = np.concatenate([part.rows for part in parts]).tolist()
            lines = np.concatenate([part.lines for part in parts]).tolist()
            results.append((table.to_pydict(), rows, lines, log.sorted(), parts[0].reader))
        except SoftmaxError as error:
            results.append((type(error), str(error)))
    return results[0], results[1]


PIECES = st.sampled_from(
    ["a", "1", "2.5", "1,5", ",", ",", ";", "\n", "\n", "\r\n", '"', '""', "NA", "é", "\udce9", "\0", " ", '"x\n,y"']
)
HEADERS = st.sampled_from(["a,b\n", "a\n", "a;b;c\r\n", '"x\ny",b\n', "a,b", "", "\n", "\ufeffa,b\n"])


@given(HEADERS, st.lists(PIECES, max_size=60), st.sampled_from(["fail", "skip", "keep", 1]), st.integers(1, 40))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_give_what_the_whole_gives(
    tmp_path: Path, header: str, pieces: list[str], mode: Any, block_bytes: int
) -> None:
    """Rows, lines, faults, settings and errors of any text are the same, wherever the blocks end."""
    data = (header + "".join(pieces)).encode("utf-8", "surrogateescape")
    whole, blocks = whole_and_blocks(tmp_path / "a.csv", data, mode, block_bytes)
    assert whole == blocks


ROWS = "".join(f'{i},"a {i}\nb",{"x" * (i % 50)}é\r\n' for i in range(9000))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("pack", ["plain", "gz", "zst"])
def test_packed_and_encoded_blocks(tmp_path: Path, encoding: str, pack: str) -> None:
    """Compressed text in any encoding is read in blocks, with the lines of the whole."""
    data = ("id,note,text\n" + ROWS).encode(encoding)
    reader = {"encoding": encoding} if encoding == "latin-1" else None
    path = tmp_path / "a.csv"
    whole = read_delimited(data, str(path), BadRowLog(), reader=reader)
    if pack == "zst":
        with pa.CompressedOutputStream(str(path), "zstd") as out:
            out.write(data)
    else:
        path.write_bytes(gzip.compress(data) if pack == "gz" else data)
    read: list[int] = []
    blocks = list(delimited_blocks(path, BadRowLog(), reader=reader, block_bytes=1 << 17, on_bytes=read.append))
    assert len(blocks) > 2
    assert pa.concat_tables([block.table for block in blocks]).equals(whole.table)
    np.testing.assert_array_equal(np.concatenate([block.lines for block in blocks]), whole.lines)
    assert read == sorted(read)
    assert read[-1] == path.stat().st_size


def test_damaged_packed_text(tmp_path: Path) -> None:
    """A truncated file is an error, not an early end; so is text that is not in its encoding."""
    path = tmp_path / "a.csv"
    packed = gzip.compress(("id,note,text\n" + ROWS).encode())
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="truncated"):
        list(delimited_blocks(path, BadRowLog()))
    path.write_bytes(b"a,b\n" + b"1,2\n" * 40_000 + b"1,\x81\n")
    with pytest.raises(DataError, match="not cp1252 text") as caught:
        list(delimited_blocks(path, BadRowLog(), reader={"encoding": "cp1252"}))
    assert caught.value.line == 40_002


def test_decimal_commas_are_found_in_the_first_thousand_rows(tmp_path: Path) -> None:
    """The mark is settled as in a file that is read whole, even if the first blocks have none."""
    data = b"a;b\n" + b"1;x\n" * 900 + b"1,5;y\n" * 2000
    whole, blocks = whole_and_blocks(tmp_path / "a.csv", data, "fail", 500)
    assert whole == blocks
    assert blocks[0]["a"][-1] == "1.5"


def test_what_is_too_long_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quote never closed and a line too long are each one bad row, and reading goes on after them."""
    monkeypatch.setattr(delimited_blocks_module, "MAX_RECORD_BYTES", 1000)
    path = tmp_path / "a.csv"
    good = b"1,2\n" * 2000
    path.write_bytes(b"a,b\n" + good + b'3,"4\n' + good + b"5," + b"x" * 200_000 + b"\n" + good)
    log = BadRowLog("skip")
    blocks = list(delimited_blocks(path, log, block_bytes=700))
    assert sum(block.table.num_rows for block in blocks) == 6000
    assert [(bad.row, bad.line) for bad in log.sorted()] == [(2000, 2002), (4001, 4003)]
    assert "never closed" in log.rows[0].message
    assert "200,002 bytes" in log.rows[1].message
    assert blocks[-1].lines[-1] == 6003


# Data sets in blocks


def joined(blocks: list[Block]) -> tuple[Any, ...]:
    """Return blocks as one data set would have them."""
    bad = [one for block in blocks for one in block.data.bad_rows]
    parts = [block.data for block in blocks]
    lines = [data.row_lines for data in parts if data.row_lines is not None]
    return (
        pa.concat_tables([data.X for data in parts]).to_pydict(),
        [str(label) for data in parts for label in data.y],
        np.concatenate(lines).tolist() if lines else None,
        None if parts[0].sample_weight is None else np.concatenate([d.sample_weight for d in parts]).tolist(),
        bad,
    )


@pytest.mark.parametrize("mode", ["skip", "keep", 6])
@pytest.mark.parametrize("name", ["a.csv", "*.csv", "a.parquet"])
def test_blocks_of_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, name: str) -> None:
    """Blocks have the rows, labels, weights, lines and bad rows of the file that is read whole."""
    monkeypatch.setattr(delimited_blocks_module, "BLOCK_BYTES", 1 << 11)
    whole_blocks = blocks_module.delimited_blocks
    monkeypatch.setattr(blocks_module, "delimited_blocks", lambda *a, **o: whole_blocks(*a, block_bytes=1 << 11, **o))
    monkeypatch.setattr(blocks_module, "GROUP_ROWS", 256)
    good = "".join(f"{i},{i % 7}.5,{'ab'[i % 2]}\n" for i in range(1200))
    for file in ("a.csv", "b.csv"):
        (tmp_path / file).write_text("x,w,y\n" + good + "1,2\n2,1,\n,,\n" * (file == "a.csv") + good)
    table = {"x": np.arange(900), "w": np.arange(900.0), "y": pa.array(["a"] * 900, mask=np.arange(900) == 300)}
    pq.write_table(pa.table(table), tmp_path / "a.parquet", row_group_size=500)
    options = {"target": "y", "weights": "w", "on_bad_row": mode}
    whole = read_dataset(tmp_path / name, **options)
    blocks = list(dataset_blocks(tmp_path / name, **options))
    assert len(blocks) > 3
    lines = None if whole.row_lines is None else whole.row_lines.tolist()
    X, y, row_lines, weights, bad = joined(blocks)
    assert whole.X.to_pydict() == X
    assert y == [str(label) for label in whole.y]
    assert row_lines == lines
    np.testing.assert_array_equal(weights, whole.sample_weight)
    assert [(one.row, one.line, one.file) for one in bad] == [(b.row, b.line, b.file) for b in whole.bad_rows]
    assert [block.first_row for block in blocks] == np.cumsum([0, *(b.n_found for b in blocks[:-1])]).tolist()
    if mode == "keep":
        for block in blocks:
            for one in block.data.bad_rows:
                assert block.data.y[one.row - block.first_row] is None


def test_what_has_no_blocks_is_one(tmp_path: Path) -> None:
    """JSON lines come as a whole; a fault far below is raised when its block is reached."""
    (tmp_path / "a.jsonl").write_text('{"x": 1, "y": "a"}\n{"x": 2, "y": "b"}\n')
    (block,) = dataset_blocks(tmp_path / "a.jsonl", target="y")
    assert block.data.X.to_pydict() == {"x": [1, 2]}
    (tmp_path / "a.csv").write_text("x,y\n" + "1,a\n" * 2_500_000 + "1\n")
    blocks = dataset_blocks(tmp_path / "a.csv", target=None, need_target=False)
    assert next(blocks).data.X.column_names == ["x", "y"]
    with pytest.raises(DataError) as caught:
        list(dataset_blocks(tmp_path / "a.csv", target="y"))
    assert caught.value.line == 2_500_002
    blocks.close()
    with pytest.raises(DataError, match="no row is left"):
        (tmp_path / "b.csv").write_text("x,y\n1,\n2,\n")
        list(dataset_blocks(tmp_path / "b.csv", target="y", on_bad_row="skip"))


# The cache


def write_csv(path: Path, columns: dict[str, list[str]]) -> Path:
    """Write columns of cells as they are."""
    lines = [",".join(columns), *(",".join(cells) for cells in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def opened(path: Path, **options: Any) -> TableSource:
    """Open with a cache beside the file."""
    return open_source(path, **{"target": "y", "cache": Path(path).parent / "cache"} | options)


def small_groups(monkeypatch: pytest.MonkeyPatch, rows: int = 300) -> None:
    """Make row groups and blocks small."""
    monkeypatch.setattr(row_cache, "GROUP_ROWS", rows)
    monkeypatch.setattr(delimited_blocks_module, "BLOCK_BYTES", 1 << 12)
    whole = row_cache.delimited_blocks

    def short(*args: Any, **options: Any) -> Any:
        return whole(*args, block_bytes=1 << 12, **options)

    monkeypatch.setattr(row_cache, "delimited_blocks", short)


def mixed_columns(n: int = 4000) -> dict[str, list[str]]:
    """Return columns of every kind, with holes, as they are written in a file."""
    rng = np.random.default_rng(0)
    hole = rng.random(n) < 0.1
    return {
        "count": ["" if gone else str(k) for k, gone in zip(rng.integers(-5, 900, n), hole, strict=True)],
        "size": [f"{x:.4f}" for x in rng.normal(size=n)],
        "zip": [f"{k:05d}" for k in rng.integers(0, 99999, n)],
        "grade": [f"{k}.0" if k else "NA" for k in rng.integers(0, 5, n)],
        "city": [("Oslo", "Rome", "", "null")[k] for k in rng.integers(0, 4, n)],
        "day": [f"2024-{1 + k % 12:02d}-{1 + k % 28:02d}" for k in rng.integers(0, 999, n)],
        "big": [str(2**53 + k) for k in rng.integers(0, 9, n)],
        "y": [("no", "yes")[k] for k in rng.integers(0, 2, n)],
    }


def test_a_converted_file_encodes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types in the cache change nothing: the encoder of the stream and of the file read whole are one."""
    small_groups(monkeypatch)
    path = write_csv(tmp_path / "a.csv", mixed_columns())
    source = opened(path)
    kinds = dict(zip(source.rows.schema.names, map(str, source.rows.schema.types), strict=True))
    assert kinds == {
        **dict.fromkeys(("zip", "grade", "city", "day", "y"), "string"),  # "1.0" is whole: it stays a text
        "count": "int64",
        "size": "double",
        "big": "int64",
    }
    assert len(source.rows) > 10
    whole = read_dataset(path, target="y")
    sample = source.sample(10**6)
    mine, theirs = FeatureEncoder.fit(sample.X), FeatureEncoder.fit(whole.X)
    assert json.dumps(mine.to_state()[0]) == json.dumps(theirs.to_state()[0])
    np.testing.assert_array_equal(mine.transform(sample.X).dense, theirs.transform(whole.X).dense)
    assert source.classes[sample.y].tolist() == whole.y.tolist()
    assert source.reader == whole.reader


def test_types_that_later_rows_refute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word among integers far below makes the column text, a fraction makes it float, in all rows."""
    small_groups(monkeypatch)
    n = 5000
    columns = {name: [str(i) for i in range(n)] for name in ("word", "fraction", "zeros", "fine", "late")}
    columns["word"][n - 2] = "none of these"
    columns["fraction"][n - 1] = " 2.5"
    columns["zeros"][n - 3] = "007"
    columns["late"][:4000] = [""] * 4000
    columns["y"] = ["a", "b"] * (n // 2)
    source = opened(write_csv(tmp_path / "a.csv", columns))
    kinds = dict(zip(source.rows.schema.names, map(str, source.rows.schema.types), strict=True))
    assert kinds == {
        "word": "string",
        "fraction": "double",
        "zeros": "string",
        "fine": "int64",
        "late": "string",
        "y": "string",
    }
    X = pa.concat_tables([rows.X for rows in source.in_order()])
    assert X["word"].to_pylist() == columns["word"]
    assert X["zeros"].to_pylist() == columns["zeros"]
    assert X["fraction"].to_pylist()[-2:] == [4998.0, 2.5]


def test_columns_kept_as_they_are_written(tmp_path: Path) -> None:
    """What the user reads as a category keeps its text; labels that are integers are integers."""
    path = write_csv(tmp_path / "a.csv", {"code": ["1.50", "2.25"] * 20, "y": ["3", "-1"] * 20})
    source = opened(path, text=["code"])
    assert source.sample(5).X["code"].type == pa.string()
    assert source.classes.dtype == np.int64
    assert source.classes.tolist() == [-1, 3]
    assert opened(path).sample(5).X["code"].type == pa.float64()


def test_bad_rows_of_a_converted_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad rows have exact rows and lines in any block and file; what was skipped is told again, or is an error."""
    small_groups(monkeypatch)
    good = "".join(f"{i},{i % 7}.5,{'ab'[i % 2]}\n" for i in range(2000))
    for name in ("a.csv", "b.csv"):
        bad = "1,2\n,,\n" + good + "3,-1,a\n4,x,b\n\n5,1,a\n"
        (tmp_path / name).write_text("x,w,y\n" + good + bad)
    path = tmp_path / "*.csv"
    for _ in range(2):
        source = open_source(path, target="y", weights="w", on_bad_row="skip", cache=tmp_path / "cache")
        assert (source.n_rows, source.n_bad_rows) == (8002, 10)
        expected = [(2000, 2002), (2001, 2003), (4002, 4004), (4003, 4005), (4004, 4006)]
        assert [(bad.row, bad.line) for bad in source.bad_rows[:5]] == expected
        assert [(bad.row - 4006, bad.line) for bad in source.bad_rows[5:]] == expected
        assert "b.csv" in str(source.bad_rows[9].file)
        assert "weight 'x' is not" in source.bad_rows[3].message
        for mode, line in (("fail", 2002), (2, 4004)):
            with pytest.raises(DataError) as caught:
                open_source(path, target="y", weights="w", on_bad_row=mode, cache=tmp_path / "cache")
            assert caught.value.line == line


def test_the_cache_is_used_while_nothing_changes(tmp_path: Path) -> None:
    """The place is told, the second time nothing is converted; another target or another file is another cache."""
    path = write_csv(tmp_path / "a.csv", {"x": ["1", "2"], "z": ["p", "q"], "y": ["a", "b"]})
    told: list[str] = []
    progress: list[tuple[int, int]] = []
    opened(path, say=told.append, on_progress=lambda *done: progress.append(done))
    size = path.stat().st_size
    assert progress[-1] == (size, size)
    opened(path, say=told.append)
    opened(path, target="z", say=told.append)
    with path.open("a") as file:
        file.write("3,r,a\n")
    assert opened(path, say=told.append).n_rows == 3
    words = [text.split()[0] for text in told]
    assert words == ["converting", "using", "converting", "converting"]
    assert str(tmp_path / "cache") in told[0]
    assert not list((tmp_path / "cache").glob(".*"))


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """A temporary folder of the same cache goes when its process is gone or it is a day old; others may be in use."""
    path = write_csv(tmp_path / "a.csv", {"x": ["1", "2"], "y": ["a", "b"]})
    opened(path)
    (cache,) = (tmp_path / "cache").iterdir()
    shutil.rmtree(cache)
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    host = row_cache._host()
    makers = (
        f"elsewhere.{os.getpid()}",
        f"elsewhere.{finished.pid}",
        f"{host}.{os.getpid()}",
        f"{host}.{finished.pid}",
    )
    left = [tmp_path / "cache" / f".{cache.name}.{maker}.abc.tmp" for maker in makers]
    for folder in left:
        folder.mkdir()
    long_ago = time.time() - 10 * row_cache.STALE_SECONDS
    os.utime(left[0], (long_ago, long_ago))
    opened(path)
    assert [folder.exists() for folder in left] == [False, True, True, os.name != "posix"]


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    """Without its description a folder is no cache."""
    path = write_csv(tmp_path / "a.csv", {"x": ["1", "2"], "y": ["a", "b"]})
    opened(path)
    (cache,) = (tmp_path / "cache").iterdir()
    (cache / "about.json").write_text("{")
    assert opened(path).n_rows == 2


def test_nowhere_to_put_the_cache(tmp_path: Path) -> None:
    """The error names the folder and how to name another one."""
    path = write_csv(tmp_path / "a.csv", {"x": ["1", "2"], "y": ["a", "b"]})
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="SOFTMAXNET_CACHE") as caught:
        opened(path, cache=tmp_path / "file" / "cache")
    assert caught.value.file == str(tmp_path / "file" / "cache")


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable wins; else it is the system's folder for caches."""
    monkeypatch.setenv("SOFTMAXNET_CACHE", str(tmp_path / "c"))
    assert row_cache.default_cache_folder() == tmp_path / "c"
    monkeypatch.delenv("SOFTMAXNET_CACHE")
    assert row_cache.default_cache_folder().name == "softmaxnet"


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("x,z\n1,2\n", None, "no column 'y'"),
        ("x,y\n", 1, "no row below"),
        ("x,y\n1,\n2,\n", 2, "label is missing"),
        ("x,y\n1,a\n2\n", 3, "expected 2 cells"),
        ("y\na\nb\n", None, "no column left"),
        ("", None, "empty"),
        ('{"x": 1}\n', None, "CSV, TSV or Parquet"),
        ("PK\x03\x04", None, "CSV, TSV or Parquet"),
    ],
)
def test_what_cannot_be_streamed(tmp_path: Path, content: str, line: int | None, words: str) -> None:
    """Each is an error with its place, and leaves no cache."""
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        opened(tmp_path / "a.csv")
    assert caught.value.line == line
    assert not list((tmp_path / "cache").glob("*"))
    with pytest.raises(DataError):
        opened(tmp_path / "missing.csv")
    with pytest.raises(UsageError, match="cannot be learned from"):
        opened(tmp_path / "a.csv", on_bad_row="keep")


# Windows


def numbered(path: Path, n: int = 5000, group_rows: int = 300, **columns: Any) -> Path:
    """Write a Parquet file whose rows know their number."""
    rng = np.random.default_rng(1)
    table = {
        "row": np.arange(n),
        "x": rng.normal(size=n),
        "city": [("Oslo", "Rome", None)[k] for k in rng.integers(0, 3, n)],
        "y": [("no", "yes", "who")[k] for k in rng.integers(0, 3, n)],
        **columns,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, row_group_size=group_rows)
    return path


def rows_of(source: TableSource, *place: int) -> list[int]:
    """Return the numbers of the rows of an epoch."""
    return [row for rows in source.windows(*place) for row in rows.X["row"].to_pylist()]


def test_an_epoch_has_every_row_once(tmp_path: Path) -> None:
    """Windows are within the budget, columns of a row stay together, and another epoch has another order."""
    path = numbered(tmp_path / "a.parquet")
    table = pq.read_table(path)
    source = opened(path, stream_bytes=80_000)
    assert 300 <= source.window_rows < 1500
    assert source.n_rows == 5000
    epoch = list(source.windows(0, 0))
    assert len(epoch) > 4
    assert [rows.first_row for rows in epoch] == np.cumsum([0, *(len(rows.y) for rows in epoch[:-1])]).tolist()
    seen = pa.concat_tables([rows.X for rows in epoch])
    assert seen.equals(table.drop_columns("y").take(seen["row"]))
    assert (
        source.classes[np.concatenate([rows.y for rows in epoch])].tolist() == table["y"].take(seen["row"]).to_pylist()
    )
    assert sorted(seen["row"].to_pylist()) == list(range(5000))
    assert rows_of(source, 0, 0) == seen["row"].to_pylist()
    assert rows_of(source, 0, 1) != rows_of(source, 0, 0) != rows_of(source, 1, 0)
    assert [row for rows in source.in_order() for row in rows.X["row"].to_pylist()] == list(range(5000))
    assert Counter(source.classes.tolist()) == Counter({"no", "yes", "who"})
    assert source.class_counts.sum() == 5000


def test_going_on_at_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From window k on the rows are those of the whole epoch, and no row group before it is read."""
    source = opened(numbered(tmp_path / "a.parquet"), stream_bytes=80_000)
    plan = source.plan(7, 3)
    assert rows_of(source, 7, 3, 2) == rows_of(source, 7, 3)[plan[2].first_row :]
    read: list[int] = []
    whole = type(source.rows).read_many

    def noting(self: Any, groups: Any, *args: Any, **options: Any) -> Any:
        read.extend(groups)
        return whole(self, groups, *args, **options)

    monkeypatch.setattr(type(source.rows), "read_many", noting)
    rows_of(source, 7, 3, len(plan) - 1)
    assert set(read) == set(plan[-1].groups)
    assert rows_of(source, 7, 3, len(plan)) == []


def test_reading_ahead(tmp_path: Path) -> None:
    """One window is read while another is in use, not more; what is prepared is prepared in that thread; it ends."""
    source = opened(numbered(tmp_path / "a.parquet"), stream_bytes=80_000)
    begun: list[str] = []
    second = threading.Event()

    def prepare(rows: Any) -> int:
        begun.append(threading.current_thread().name)
        if len(begun) == 2:
            second.set()
        return len(rows.y)

    windows = source.windows(0, 0, prepare=prepare)
    total = next(windows)
    assert second.wait(60)
    assert len(begun) == 2
    assert all(name.startswith("softmaxnet-read") for name in begun)
    total += sum(windows)
    assert total == 5000
    windows = source.windows(0, 0)
    next(windows)
    windows.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("softmaxnet-read")]


def test_slices_are_the_rows_of_the_windows(tmp_path: Path) -> None:
    """Slices have the rows of the epoch in its order, from any row on; errors arrive, and the thread ends."""
    source = opened(numbered(tmp_path / "a.parquet", w=np.arange(5000.0)), weights="w", stream_bytes=80_000)
    order = rows_of(source, 4, 2)

    def prepare(rows: Any) -> tuple[int, list[int], list[float]]:
        assert threading.current_thread().name == "softmaxnet-read"
        assert source.classes[rows.y[0]] in ("no", "yes", "who")
        return rows.first_row, rows.X["row"].to_pylist(), rows.sample_weight.tolist()

    for first in (0, 1, 1234, 4999, 5000):
        parts = list(source.slices(4, 2, prepare, first_row=first, slice_rows=70))
        assert [row for _, rows, _ in parts for row in rows] == order[first:]
        assert all(rows == weights for _, rows, weights in parts)
        assert [place for place, _, _ in parts] == [
            first + n for n in np.cumsum([0, *(len(rows) for _, rows, _ in parts[:-1])]) if parts
        ]
        assert all(len(rows) <= 70 for _, rows, _ in parts)

    def broken(rows: Any) -> int:
        if rows.first_row > 1000:
            raise DataError("a cell that cannot be read")
        return 1

    with pytest.raises(DataError, match="cannot be read"):
        list(source.slices(4, 2, broken, slice_rows=70))
    some = source.slices(4, 2, prepare, slice_rows=70)
    next(some)
    some.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("softmaxnet-read")]


def test_the_stated_memory_is_kept(tmp_path: Path) -> None:
    """Arrow never holds more than was said, as its own account has it, with windows in use one after the other."""
    rng = np.random.default_rng(0)
    columns = {f"n{i}": rng.normal(size=60_000) for i in range(16)}
    path = numbered(tmp_path / "a.parquet", 60_000, 2000, **columns)
    source = opened(path, stream_bytes=4 << 20)
    assert source.memory_bytes <= 4 << 20
    assert len(source.plan(0, 0)) > 4
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        for rows in source.windows(0, 0):
            time.sleep(0.02)
            del rows
        n = sum(source.slices(0, 1, lambda rows: len(rows.y), slice_rows=500))
        assert n == 60_000
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() <= source.memory_bytes


def test_a_file_that_breaks_later(tmp_path: Path) -> None:
    """Damage that shows in the middle of an epoch is an error that names the file."""
    path = numbered(tmp_path / "a.parquet")
    source = opened(path, stream_bytes=80_000)
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = bytes(len(data) // 2 - 4)
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged Parquet file") as caught:
        rows_of(source, 0, 0)
    assert caught.value.file == str(path)
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match="damaged Parquet file"):
        opened(path)
    path.unlink()
    with pytest.raises((DataError, ResourceError)):
        rows_of(source, 0, 0)


def test_folders_and_their_columns(tmp_path: Path) -> None:
    """Files of a folder are one table: names by path are columns, columns may be in another order, types meet."""
    numbered(tmp_path / "d" / "year=2023" / "a.parquet", 1000)
    numbered(tmp_path / "d" / "year=2024" / "b.parquet", 700)
    second = pq.read_table(tmp_path / "d" / "year=2024" / "b.parquet", partitioning=None)
    second = second.set_column(0, "row", pa.array(np.arange(1000, 1700), pa.int32()))
    pq.write_table(
        second.select(["y", "city", "x", "row"]), tmp_path / "d" / "year=2024" / "b.parquet", row_group_size=100
    )
    source = opened(tmp_path / "d", stream_bytes=40_000)
    assert source.columns == ("row", "x", "city", "year")
    rows = pa.concat_tables([rows.X for rows in source.windows(0, 0)])
    assert sorted(rows["row"].to_pylist()) == list(range(1700))
    by_year = {year: sum(1 for other in rows["year"].to_pylist() if other == year) for year in ("2023", "2024")}
    assert by_year == {"2023": 1000, "2024": 700}
    assert opened(tmp_path / "d", target="year").classes.tolist() == ["2023", "2024"]
    with pytest.raises(DataError, match="CSV, TSV or Parquet"):
        (tmp_path / "empty").mkdir()
        opened(tmp_path / "empty")
    pq.write_table(second.drop_columns("x"), tmp_path / "d" / "c.parquet")
    with pytest.raises(DataError, match=r"lacks the column|has the column"):
        opened(tmp_path / "d")


def test_labels_weights_and_holes(tmp_path: Path) -> None:
    """Rows without a label or with an impossible weight are bad rows with their number; the others have weights."""
    n = 2000
    y = pa.array(np.arange(n) % 3, mask=np.isin(np.arange(n), [5, 1500]))
    w = np.arange(n) / 2
    w[[7, 1999]] = [np.nan, -1]
    path = numbered(tmp_path / "a.parquet", n, 300, y=y, w=w)
    with pytest.raises(DataError, match="label is missing in row 5"):
        opened(path, weights="w")
    with pytest.raises(DataError, match=r"row 1500.*at most 2"):
        opened(path, weights="w", on_bad_row=2)
    source = opened(path, weights="w", on_bad_row="skip", stream_bytes=40_000)
    assert [bad.row for bad in source.bad_rows] == [5, 7, 1500, 1999]
    assert (source.n_rows, source.n_bad_rows, source.classes.tolist()) == (1996, 4, [0, 1, 2])
    for rows in source.windows(0, 0):
        assert rows.sample_weight is not None
        np.testing.assert_array_equal(rows.sample_weight, np.array(rows.X["row"]) / 2)
        np.testing.assert_array_equal(rows.y, np.array(rows.X["row"]) % 3)
    assert sorted(rows_of(source, 0, 0)) == [row for row in range(n) if row not in (5, 7, 1500, 1999)]
    assert "w" not in source.columns


@pytest.mark.parametrize("kind", ["bool", "float", "dictionary", "date", "int8", "large"])
def test_labels_of_every_type(tmp_path: Path, kind: str) -> None:
    """Classes are those of the file that is read whole."""
    codes = np.arange(600) % 3
    y = {
        "bool": pa.array(codes > 0),
        "float": pa.array(codes / 2),
        "dictionary": pa.array(["a", "b", "c"]).take(pa.array(codes)).dictionary_encode(),
        "date": pa.array(codes.astype("M8[D]")),
        "int8": pa.array(codes, pa.int8()),
        "large": pa.array(["a", "b", "c"], pa.large_string()).take(pa.array(codes)),
    }[kind]
    path = numbered(tmp_path / "a.parquet", 600, 100, y=y)
    source, whole = opened(path), read_dataset(path, target="y")
    sample = source.sample(10**6)
    assert source.classes.dtype.kind in "biufO"
    assert source.classes[sample.y].tolist() == whole.y.tolist()


def test_many_bad_rows_are_counted_not_kept(tmp_path: Path) -> None:
    """Of 4,000 rows without a label the first 1,000 are described and all are counted."""
    y = pa.array(["a", "b"] * 2500, mask=np.arange(5000) >= 1000)
    source = opened(numbered(tmp_path / "a.parquet", y=y), on_bad_row="skip")
    assert (source.n_rows, source.n_bad_rows, len(source.bad_rows)) == (1000, 4000, 1000)


# Files in the order of their labels


def test_sorted_files_are_shuffled_once(tmp_path: Path) -> None:
    """A file in the order of its labels is seen as such; the shuffled cache has all rows, in an order like any."""
    n = 6000
    path = numbered(tmp_path / "a.parquet", n, 300, y=np.repeat(["a", "b", "c"], n // 3), w=np.arange(n) / n)
    told: list[str] = []
    plain = opened(path, weights="w", stream_bytes=80_000, shuffle=False)
    assert plain.labels.mixing < 0.1
    assert "order of their labels" in plain.why_shuffle
    assert opened(path, weights="w", stream_bytes=100 << 20).rows.paths == plain.rows.paths  # one window: no need
    for _ in range(2):
        source = opened(path, weights="w", stream_bytes=80_000, say=told.append)
        assert source.why_shuffle == ""
        assert source.labels.mixing > 0.95
        assert source.class_counts.tolist() == [2000] * 3
    assert ["shuffling it once" in text for text in told] == [True, False]
    stored = np.array([row for rows in source.in_order() for row in rows.X["row"].to_pylist()])
    assert sorted(stored) == list(range(n))
    # of a random order the rank correlation with the old one is 0 within 4 / sqrt(n - 1)
    assert abs(np.corrcoef(stored, np.arange(n))[0, 1]) < 4 / np.sqrt(n - 1)
    for rows in source.windows(0, 0):
        np.testing.assert_array_equal(rows.sample_weight, np.array(rows.X["row"]) / n)
        assert abs((rows.y == 0).mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / len(rows.y))
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [source.rows.paths[0].parent.name]


def test_one_large_row_group_is_cut_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group as large as the file, as frames write it, is shuffled into small ones; bad rows stay out."""
    monkeypatch.setattr("softmaxnet.data.table_source.GROUP_BYTES", 1 << 14)
    y = pa.array(["a", "b"] * 2500, mask=np.arange(5000) == 77)
    path = numbered(tmp_path / "a.parquet", 5000, 5000, y=y)
    monkeypatch.setattr(row_cache, "GROUP_ROWS", 300)
    source = opened(path, stream_bytes=80_000, on_bad_row="skip")
    assert len(source.rows) == 17
    assert sorted(rows_of(source, 0, 0)) == [row for row in range(5000) if row != 77]
    assert [bad.row for bad in source.bad_rows] == [77]


def test_a_sorted_csv_goes_through_both_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Converted, then shuffled; labels that are integers stay integers, and the settings are those of the CSV."""
    small_groups(monkeypatch, 100)
    n = 4000
    columns = {"row": [str(i) for i in range(n)], "y": ["1"] * 2000 + ["2"] * 2000}
    source = opened(write_csv(tmp_path / "a.csv", columns), stream_bytes=20_000)
    assert source.labels.mixing > 0.9
    assert source.classes.tolist() == [1, 2]
    assert source.reader["format"] == "csv"
    assert sorted(rows_of(source, 0, 0)) == list(range(n))


# Samples and validation rows


def test_a_sample_is_uniform(tmp_path: Path) -> None:
    """Each row group gives its share of rows, the same for the same seed."""
    source = opened(numbered(tmp_path / "a.parquet", 20_000, 1000))
    sample = source.sample(4000, 3)
    rows = np.array(sample.X["row"])
    assert len(rows) == len(np.unique(rows)) == len(sample.y) == 4000
    per_group = np.bincount(rows // 1000, minlength=20)
    # hypergeometric: 1000 of 20,000 drawn 4000 times: mean 200, variance 200 * .95 * .8 = 152
    assert np.abs(per_group - 200).max() < 4.5 * np.sqrt(152)
    assert sample.X.equals(source.sample(4000, 3).X)
    assert not sample.X.equals(source.sample(4000, 4).X)
    assert source.sample(10**9).X.num_rows == 20_000


def test_a_sample_has_a_witness_of_what_a_column_is_not(tmp_path: Path) -> None:
    """A word among texts of numbers is in every sample, so that the column is not taken for numbers."""
    n = 5000
    code = [str(i) for i in range(n)]
    code[4321] = "unknown"
    holes = [None] * n
    path = numbered(tmp_path / "a.parquet", n, 300, code=code, holes=pa.array(holes, pa.string()))
    source = opened(path)
    sample = source.sample(50)
    assert "unknown" in sample.X["code"].to_pylist()
    assert sample.X.num_rows == len(sample.y) == 51
    kinds = {row["name"]: row["kind"] for row in FeatureEncoder.fit(sample.X).describe()}
    assert kinds["code"] != "number"

    def short(column: Any) -> bool:
        return max(len(text) for text in column.drop_null().to_pylist()) < 5

    assert source.sample(50, reads_as=(short,)).X["row"].to_pylist()[-1] == 4321
    assert source.sample(50, reads_as=()).X.num_rows == 50


def test_rows_held_out(tmp_path: Path) -> None:
    """They are drawn at random, are in no window afterwards, and no class loses its last row."""
    y = np.array(["a", "b"] * 2500, dtype=object)
    y[[17, 4000]] = ["one", "two"]
    path = numbered(tmp_path / "a.parquet", y=y)
    source = opened(path, stream_bytes=80_000)
    rest, held = source.hold_out(0.2, 5)
    out = held.X["row"].to_pylist()
    assert 998 <= len(out) == len(set(out)) <= 1000
    assert sorted([*out, *rows_of(rest, 0, 0)]) == list(range(5000))
    assert rest.n_rows == 5000 - len(out)
    assert source.n_rows == 5000
    assert rest.class_counts.tolist() == np.bincount(np.concatenate([w.y for w in rest.windows(0, 0)])).tolist()
    assert {"one", "two"} <= {source.classes[k] for rows in rest.windows(0, 0) for k in rows.y}
    assert held.X.equals(source.hold_out(0.2, 5)[1].X)
    assert source.hold_out(0.2, 5, max_rows=100)[1].X.num_rows <= 100
    assert not set(rest.sample(10**9).X["row"].to_pylist()) & set(out)
    again, more = rest.hold_out(0.1, 6)
    assert not set(more.X["row"].to_pylist()) & set(out)
    assert again.n_rows + len(more.y) == rest.n_rows


def test_groups_are_held_out_whole(tmp_path: Path) -> None:
    """No group is on both sides; the share is about what was asked for."""
    group = [f"g{k}" for k in np.random.default_rng(0).integers(0, 400, 5000)]
    source = opened(numbered(tmp_path / "a.parquet", g=group), group="g", stream_bytes=80_000)
    assert "g" not in source.columns
    rest, held = source.hold_out(0.2, 1)
    groups = np.array(group)
    inside, outside = set(groups[rows_of(rest, 0, 0)]), set(groups[held.X["row"].to_pylist()])
    assert not inside & outside
    assert inside | outside == set(group)
    assert 0.1 < len(held.y) / 5000 < 0.3  # 400 groups: a standard error of 2 %
    one = opened(numbered(tmp_path / "b.parquet", g=["same"] * 5000), group="g")
    with pytest.raises(DataError, match="groups cannot be split"):
        one.hold_out(0.99, 1)


def test_a_class_of_one_group_stays_in_training(tmp_path: Path) -> None:
    """Where all groups of a class would be held out, one of them goes back, whole."""
    group = np.arange(5000) // 10
    y = np.where(group == 3, "rare", "often")
    source = opened(numbered(tmp_path / "a.parquet", g=group, y=y), group="g", stream_bytes=80_000)
    for seed in range(12):
        rest, held = source.hold_out(0.4, seed)
        assert rest.class_counts.min() == 10
        assert len(held.y) + rest.n_rows == 5000


def test_columns_left_out(tmp_path: Path) -> None:
    """Columns that are dropped are not read; a name that is not there is an error with the nearest one."""
    path = numbered(tmp_path / "a.parquet")
    assert opened(path, drop=["city"]).sample(3).X.column_names == ["row", "x"]
    with pytest.raises(UsageError, match="Did you mean 'city'"):
        opened(path, drop=["cty"])
    with pytest.raises(DataError, match="no column left"):
        opened(path, drop=["city", "row", "x"])


def test_a_process_that_dies_leaves_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stops the conversion, nothing is at the place of the cache, and the next run makes it."""
    path = write_csv(tmp_path / "a.csv", mixed_columns(500))

    class Stopped(BaseException):
        pass

    def stop(*args: Any) -> None:
        raise Stopped

    with pytest.raises(Stopped), contextlib.ExitStack():
        opened(path, on_progress=stop)
    assert not [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")]
    assert opened(path).n_rows == 500


def test_open_row_groups_looks_at_footers_alone(tmp_path: Path) -> None:
    """Sizes and places are numbered through the files."""
    paths = [numbered(tmp_path / f"{name}.parquet", n, 300) for name, n in (("a", 700), ("b", 300))]
    rows = open_row_groups(paths)
    assert rows.sizes.tolist() == [300, 300, 100, 300]
    assert (rows.file.tolist(), rows.place.tolist()) == ([0, 0, 0, 1], [0, 1, 2, 0])
    assert rows.read_many([3, 0], ["row"])["row"].to_pylist() == [*range(300), *range(300)]
    assert sum(table.num_rows for table in rows.batches(0, 77)) == 300
    assert 20 < rows.bytes_per_row() < 60
