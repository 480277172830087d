"""Fits of tables that stay in their file: the same batches however read, memory, resume, predict and evaluate."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")

import softmaxnet.checkpoint
import softmaxnet.data.blocks as blocks_module
import softmaxnet.recipe
from softmaxnet.batches import Rows
from softmaxnet.cli import main
from softmaxnet.cli.progress import RowProgress
from softmaxnet.cli.terminal import Terminal
from softmaxnet.cli.values import byte_count
from softmaxnet.data.stream import open_source
from softmaxnet.data.table_source import StreamedRows, TableSource
from softmaxnet.errors import DataError, UsageError
from softmaxnet.estimator import SoftmaxClassifier
from softmaxnet.memory import installed_bytes, peak_resident_bytes, resident_bytes
from softmaxnet.model_file import load_model, model_bytes
from softmaxnet.recipe import DEFAULTS, DataShape, file_plan, file_rounds, resolve
from softmaxnet.stream_feed import StreamFeed
from softmaxnet.stream_memory import BASE_BYTES, default_memory, is_streamed, stream_bytes

N_ROWS = 6000
SMALL = {"hidden_layer_sizes": (8,), "n_members": 2, "max_epochs": 2, "n_jobs": 1, "random_state": 0}
OPTIONS = ("--hidden-layer-sizes", "8", "--n-members", "2", "--max-epochs", "3", "--jobs", "1", "--seed", "0")
TIGHT = f"{(BASE_BYTES >> 20) + 1}MiB"
"""A budget in which no table fits."""
FEW_HELD_OUT = {"validation_fraction": 0.01}
"""So that an epoch of so few rows can have rounds."""
COMMAND = (
    "import softmaxnet.checkpoint as checkpoint, softmaxnet.recipe as recipe, sys; checkpoint.EVERY_SECONDS = 0.0; "
    "recipe.ROUND_OPERATIONS = 2e6; from softmaxnet.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""The command line with short rounds and a checkpoint after each of them."""


def table(n_rows: int = N_ROWS, seed: int = 0) -> Any:
    """Return numbers, one with holes, and a category, on all of which a label of three values depends."""
    rng = np.random.default_rng(seed)
    a, b, city = rng.normal(size=n_rows), rng.normal(size=n_rows), rng.integers(0, 4, n_rows)
    y = np.stack([a + rng.gumbel(size=n_rows), b + rng.gumbel(size=n_rows), (city == 1) + rng.gumbel(size=n_rows)], 1)
    holes = rng.random(n_rows) < 0.05
    return pa.table(
        {
            "a": a.round(4),
            "b": pa.array(b.round(4), mask=holes),
            "city": np.array(["oslo", "rome", "bern", "riga"])[city],
            "y": np.array(["no", "maybe", "yes"])[y.argmax(1)],
            "w": rng.integers(1, 4, n_rows).astype(float),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the same rows as CSV and as Parquet, and others."""
    path = tmp_path_factory.mktemp("tables")
    rows = table()
    pq.write_table(rows, path / "a.parquet", row_group_size=400)
    pa.csv.write_csv(rows, path / "a.csv")
    pa.csv.write_csv(table(4000, seed=1), path / "new.csv")
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTMAXNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut every epoch into several rounds, and keep a checkpoint after each."""
    monkeypatch.setattr(softmaxnet.recipe, "ROUND_OPERATIONS", 2e6)
    monkeypatch.setattr(softmaxnet.checkpoint, "EVERY_SECONDS", 0.0)


def source_of(folder: Path, **options: Any) -> TableSource:
    """Open the Parquet file with windows of two row groups."""
    return open_source(folder / "a.parquet", **{"target": "y", "drop": ["w"], "stream_bytes": 150_000, **options})


def fitted(folder: Path, given: dict[str, Any] | None = None, source: Any = None, **options: Any) -> SoftmaxClassifier:
    """Return a classifier fitted on the streamed table."""
    clf = SoftmaxClassifier(**(SMALL | (given or {})))
    return clf.fit_stream(source or source_of(folder), **options)


# --- batches ----------------------------------------------------------------------------------------------------


def row_numbers(rows: StreamedRows) -> Rows:
    """Encode rows as their numbers alone."""
    dense = torch.from_numpy(np.stack([rows.X.column("a").to_numpy()], 1))
    return Rows(dense, torch.from_numpy(rows.y), torch.ones(len(rows.y), dtype=torch.float64))


def read_batches(source: TableSource, bounds: list[tuple[int, int]], slice_rows: int, feed: Any = None) -> list[Any]:
    """Return the batches of epoch 1."""
    feed = feed or StreamFeed(source, row_numbers, seed=5, slice_rows=slice_rows)
    buffer = torch.empty(1000, 1, dtype=torch.float64)
    return [(dense.clone(), target.clone()) for dense, _, target, _ in feed.batches(1, bounds, buffer)]


def test_batches_do_not_depend_on_slices(folder: Path) -> None:
    """Whatever the size of a slice is, an epoch has the same batches, and every row once."""
    source = source_of(folder)
    bounds = [(low, min(low + 350, N_ROWS)) for low in range(0, N_ROWS, 350)]
    runs = [read_batches(source, bounds, slice_rows) for slice_rows in (37, 350, 10_000)]
    for other in runs[1:]:
        for (x, y), (x2, y2) in zip(runs[0], other, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)
    seen = np.sort(torch.cat([x for x, _ in runs[0]]).numpy().ravel())
    np.testing.assert_array_equal(seen, np.sort(table().column("a").to_numpy()))


def test_a_part_of_an_epoch_is_the_same_from_wherever_it_is_read(folder: Path) -> None:
    """Going on after the part before it, beginning with it, and every other of its batches give the same rows."""
    source = source_of(folder)
    bounds = [(low, low + 100) for low in range(0, N_ROWS, 100)]
    whole = read_batches(source, bounds, 64)
    feed = StreamFeed(source, row_numbers, seed=5, slice_rows=64)
    parts = read_batches(source, bounds[:23], 64, feed) + read_batches(source, bounds[23:], 64, feed)
    alone = read_batches(source, bounds[40:], 64)
    some = read_batches(source, bounds[10::2], 64)
    for got, expected in ((parts, whole), (alone, whole[40:]), (some, whole[10::2])):
        assert len(got) == len(expected)
        assert all(torch.equal(x, x2) and torch.equal(y, y2) for (x, y), (x2, y2) in zip(got, expected, strict=True))


def test_a_feed_that_is_left_stops_reading(folder: Path) -> None:
    """The thread that reads ends with the iterator that it reads for."""
    import threading

    before = threading.active_count()
    feed = StreamFeed(source_of(folder), row_numbers, seed=5, slice_rows=16)
    batches = feed.batches(0, [(0, 100), (100, 200)], torch.empty(100, 1, dtype=torch.float64))
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


# --- fitting ----------------------------------------------------------------------------------------------------


def test_a_streamed_fit_learns_what_one_in_memory_learns(folder: Path) -> None:
    """The held-out log loss is that of a fit in memory of the same network, up to what chance explains."""
    rows = table()
    settings = {"max_epochs": 12, "hidden_layer_sizes": (16,)}
    streamed = fitted(folder, settings)
    whole = SoftmaxClassifier(**(SMALL | settings)).fit(rows.select(["a", "b", "city"]), rows.column("y"))
    new = table(4000, seed=1)
    losses = []
    for clf in (streamed, whole):
        log_proba = clf.model_.predict_log_proba(new.select(["a", "b", "city"]))
        labels = np.searchsorted(clf.classes_, np.asarray(new.column("y")))
        losses.append(-log_proba[np.arange(len(labels)), labels].mean())
    assert abs(losses[0] - losses[1]) < 0.01
    assert streamed.metrics_["n_held_out"] == 600
    assert abs(streamed.metrics_["log_loss"] - losses[0]) < 0.1


def test_the_same_seed_gives_the_same_bits(folder: Path, short_rounds: None) -> None:
    """Two fits give the same file, with one line of the history for each round."""
    first, second = fitted(folder, FEW_HELD_OUT), fitted(folder, FEW_HELD_OUT)
    assert model_bytes(first.model_) == model_bytes(second.model_)
    epochs = [line["epoch"] for line in first.history_]
    assert epochs[-1] == 2
    assert len(epochs) > 2
    np.testing.assert_allclose(np.diff(epochs), epochs[0])
    assert first.n_iter_ == 2


def test_csv_and_parquet_are_the_same_fit(folder: Path) -> None:
    """A converted CSV file has the rows of the table that it was written from; the model says how to read it."""
    clf = SoftmaxClassifier(**SMALL).fit_file(
        folder / "a.csv", "y", kinds={"w": "drop"}, memory=byte_count(TIGHT), reader={"delimiter": ","}
    )
    assert clf.metrics_["n_held_out"] == 600
    assert clf.model_.reader["target"] == "y"
    assert clf.model_.reader["drop"] == ["w"]
    assert clf.model_.feature_names_in == ("a", "b", "city")
    assert clf.predict(table(10).select(["a", "b", "city"])).shape == (10,)


def test_a_file_that_fits_is_read_whole(folder: Path) -> None:
    """``fit_file`` is then ``fit``."""
    clf = SoftmaxClassifier(**SMALL).fit_file(folder / "a.parquet", "y", weights="w")
    rows = table()
    X, y, w = rows.select(["a", "b", "city"]), rows.column("y"), rows.column("w").to_numpy()
    other = SoftmaxClassifier(**SMALL).fit(X, y, w)
    assert clf.metrics_ == other.metrics_


def test_weights_of_rows_and_classes(folder: Path) -> None:
    """Balanced classes and weighted rows count as they do in memory: a class of thrice the weight is predicted more."""
    source = source_of(folder, drop=[], weights="w")
    rows = table()
    labels = np.searchsorted(source.classes, np.asarray(rows.column("y")))
    np.testing.assert_allclose(
        source.class_weights, np.bincount(labels, weights=rows.column("w").to_numpy()), rtol=1e-12
    )
    X = rows.select(["a", "b", "city"])
    shares = []
    for given in ({"no": 3.0}, None, "balanced"):
        clf = fitted(folder, {"class_weight": given, "max_epochs": 6}, source)
        shares.append(clf.predict_proba(X)[:, 1].mean())
    assert shares[0] > shares[1] + 0.1
    assert abs(shares[2] - shares[1]) < 0.1


def test_a_weight_of_zero_for_all_but_one_class_is_refused(folder: Path) -> None:
    """There is nothing to learn then."""
    with pytest.raises(DataError, match="one class only"):
        fitted(folder, {"class_weight": {"no": 0.0, "yes": 0.0}})


def test_own_validation_rows_and_none(folder: Path) -> None:
    """Rows that the user gives are scored instead; without early stopping nothing is held out."""
    new = table(500, seed=3)
    clf = fitted(folder, X_val=new.select(["a", "b", "city"]), y_val=new.column("y"))
    assert clf.metrics_["n_held_out"] == 500
    clf = fitted(folder, {"early_stopping": False})
    assert clf.metrics_["log_loss"] is None


def test_sets_of_a_streamed_fit_cover(folder: Path) -> None:
    """Rows are kept for prediction sets, which nothing else has seen."""
    clf = fitted(folder, {"conformal_fraction": 0.2})
    new = table(4000, seed=1)
    sets = clf.predict_set(new.select(["a", "b", "city"]), 0.8)
    covered = np.mean([label in found for label, found in zip(new.column("y").to_pylist(), sets, strict=True)])
    assert abs(covered - 0.8) < 0.04


def test_full_batch_steps_are_refused(folder: Path) -> None:
    """L-BFGS needs all rows at once; softmax regression itself is trained in batches."""
    with pytest.raises(UsageError, match="lbfgs"):
        fitted(folder, {"solver": "lbfgs"})
    assert fitted(folder, {"hidden_layer_sizes": ()}).model_.spec.hidden_layer_sizes == ()


def test_a_word_among_numbers_is_seen(tmp_path: Path) -> None:
    """A column that has one word in a million numbers is a column of texts; none is lost in training."""
    rows = table().set_column(0, "a", pa.array([*(f"{v}" for v in range(N_ROWS - 1)), "none yet"]))
    pq.write_table(rows, tmp_path / "w.parquet", row_group_size=400)
    source = open_source(tmp_path / "w.parquet", target="y", stream_bytes=150_000)
    clf = fitted(tmp_path, {}, source)
    kinds = {column.name: column.kind for column in clf.model_.encoder.columns}
    assert kinds["a"] != "number"


# --- the recipe -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_rows", "epochs"), [(1_000_000, 20), (7_000_000, 3), (10**9, 1)])
def test_more_rows_have_fewer_epochs(n_rows: int, epochs: int) -> None:
    """About twenty million rows are trained on, and every row once at least; what the user says holds."""
    given = dict.fromkeys(DEFAULTS, "auto") | DEFAULTS
    shape = DataShape(n_rows, 25, 0, 3)
    assert file_plan(resolve(shape, given), shape, given).max_epochs == epochs
    told = given | {"max_epochs": 7, "batch_size": 64, "n_iter_no_change": 2}
    plan = file_plan(resolve(shape, told), shape, told)
    assert (plan.max_epochs, plan.batch_size, plan.n_iter_no_change) == (7, 64, 2)


def test_rounds_are_not_too_short() -> None:
    """A round has many rows for each held-out one, and a batch at least."""
    given = dict.fromkeys(DEFAULTS, "auto") | DEFAULTS
    plan = resolve(DataShape(100_000, 25, 0, 3), given)
    assert file_rounds(plan, 100_000, 10_000, 1e12) == 1
    assert file_rounds(plan, 1000, 0, 1e12) == 1000 // plan.batch_size


# --- memory -----------------------------------------------------------------------------------------------------


def test_what_is_streamed(folder: Path, tmp_path: Path) -> None:
    """A table is streamed where read whole it would not fit; what cannot be streamed never is."""
    for name in ("a.csv", "a.parquet"):
        assert not is_streamed(folder / name, 4 << 30)
        assert is_streamed(folder / name, byte_count(TIGHT))
    (tmp_path / "a.jsonl").write_text('{"a": 1, "y": "no"}\n')
    assert not is_streamed(tmp_path / "a.jsonl", 1)
    assert not is_streamed("-", 1)


def test_windows_depend_on_the_budget_alone() -> None:
    """The order of rows is a function of what was allowed, never of what is free."""
    assert stream_bytes(1) == 16 << 20
    assert stream_bytes(1 << 40) == 192 << 20
    installed = installed_bytes()
    assert installed is None or default_memory() == installed // 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_what_the_process_holds() -> None:
    """The peak is never below what is held now."""
    held, peak = resident_bytes(), peak_resident_bytes()
    assert held is not None
    assert peak is not None
    assert 10 << 20 < held <= peak


def test_the_stated_peak_is_kept(folder: Path, tmp_path: Path) -> None:
    """A process of its own holds no more than it said before training, as the system counts it."""
    pq.write_table(table(60_000), tmp_path / "b.parquet", row_group_size=20_000)
    found = run_fit(tmp_path / "b.parquet", tmp_path / "m.safetensors", "--memory", TIGHT, "--max-epochs", "1")
    assert found["streamed"]
    memory = found["memory"]
    assert memory["allowed_bytes"] == byte_count(TIGHT)
    assert memory["peak_bytes"] <= memory["stated_bytes"]


def run_fit(path: Path, out: Path, *options: str, program: tuple[str, ...] = ("-m", "softmaxnet")) -> dict[str, Any]:
    """Run a fit as a process of its own and return what it prints."""
    command = [sys.executable, *program, "fit", str(path), "--target", "y", "-o", str(out), "--json"]
    command += [*OPTIONS, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=True)
    return json.loads(done.stdout)


# --- resume -----------------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for the end of the process."""


def test_going_on_within_an_epoch(folder: Path, tmp_path: Path, short_rounds: None) -> None:
    """A fit that ended in the middle of an epoch ends as one that did not, and says from where it went on."""
    whole = fitted(folder, FEW_HELD_OUT)
    rounds = round(1 / whole.history_[0]["epoch"])
    assert rounds > 2

    def stop(line: dict[str, float]) -> None:
        if line["epoch"] == whole.history_[rounds]["epoch"]:
            raise Killed

    with pytest.raises(Killed):
        fitted(folder, FEW_HELD_OUT, checkpoint_folder=tmp_path / "c", on_epoch=stop)
    read: list[tuple[int, int]] = []
    clf = fitted(
        folder,
        FEW_HELD_OUT,
        checkpoint_folder=tmp_path / "c",
        resume=True,
        on_rows=lambda epoch, rows: read.append((epoch, rows)),
    )
    assert clf.resumed_epochs_ == pytest.approx((rounds + 1) / rounds)
    assert read[0][0] == 1
    assert read[0][1] > N_ROWS / rounds / 2
    assert model_bytes(clf.model_) == model_bytes(whole.model_)
    timeless = [[{k: v for k, v in line.items() if k != "seconds"} for line in c.history_] for c in (clf, whole)]
    assert timeless[0] == timeless[1]


def test_other_rows_or_windows_are_not_gone_on_with(folder: Path, tmp_path: Path, short_rounds: None) -> None:
    """A checkpoint is of a table and of windows."""
    fitted(folder, checkpoint_folder=tmp_path / "c")
    with pytest.raises(UsageError, match="rows in a window"):
        fitted(folder, {}, source_of(folder, stream_bytes=400_000), checkpoint_folder=tmp_path / "c", resume=True)
    pq.write_table(table(seed=7), tmp_path / "o.parquet", row_group_size=400)
    other = open_source(tmp_path / "o.parquet", target="y", drop=["w"], stream_bytes=150_000)
    with pytest.raises(UsageError, match="training rows"):
        fitted(folder, {}, other, checkpoint_folder=tmp_path / "c", resume=True)


def test_an_interrupt_keeps_the_best_so_far(folder: Path, short_rounds: None) -> None:
    """Ctrl-C within an epoch warns and returns."""

    def stop(line: dict[str, float]) -> None:
        if line["epoch"] > 1:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted in epoch 2"):
        clf = fitted(folder, FEW_HELD_OUT, on_epoch=stop)
    assert clf.stopped_by_ == "interrupt"
    assert np.isfinite(clf.metrics_["log_loss"])


@pytest.mark.slow
def test_kill_9_at_random_moments_of_a_streamed_fit(folder: Path, tmp_path: Path) -> None:
    """However often and whenever it is killed, the model file is the same byte for byte, and nothing else is left."""
    options = ("--memory", TIGHT, "--max-epochs", "30", "--drop", "w", "--validation-fraction", "0.01", "--force")
    program = ("-c", COMMAND)
    started = time.monotonic()
    run_fit(folder / "a.parquet", tmp_path / "whole.safetensors", *options, program=program)
    seconds = time.monotonic() - started
    generator = np.random.default_rng(0)
    out = tmp_path / "killed.safetensors"
    command = [sys.executable, *program, "fit", str(folder / "a.parquet"), "--target", "y", "-o", str(out), *OPTIONS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for kill in range(5):
        with subprocess.Popen(
            [*command, *options, "--quiet", *(["--resume"] if kill else [])], env=environment, stderr=subprocess.PIPE
        ) as process:
            time.sleep(seconds * (0.4 + 0.5 * generator.random()))
            process.kill()
    found = run_fit(folder / "a.parquet", out, *options, "--resume", program=program)
    assert found["n_rows"] == N_ROWS
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"killed.safetensors", "whole.safetensors"}


# --- the command line -------------------------------------------------------------------------------------------


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files in blocks of 8 KiB and of 300 rows."""
    whole_blocks = blocks_module.delimited_blocks
    monkeypatch.setattr(blocks_module, "delimited_blocks", lambda *a, **o: whole_blocks(*a, block_bytes=1 << 13, **o))
    monkeypatch.setattr(blocks_module, "GROUP_ROWS", 300)


def test_fit_streams_what_does_not_fit(folder: Path, tmp_path: Path, sm: Any) -> None:
    """The command says that it converts, how much memory it takes, and how many rows it trains on; predict works."""
    out = tmp_path / "m.safetensors"
    done = sm("fit", folder / "a.csv", "--target", "y", "--weights", "w", "-o", out, "--memory", TIGHT, *OPTIONS)
    assert done.code == 0, done.err
    assert "converting" in done.err
    assert "streamed: at most" in done.err
    assert "5,400 rows to train on" in done.err
    assert load_model(out).reader["weights"] == "w"
    assert not (tmp_path / "m.safetensors.ckpt").exists()
    assert len(sm("predict", out, folder / "new.csv").rows()) == 4000
    again = sm("fit", folder / "a.csv", "--target", "y", "-o", out, "--memory", TIGHT, "--force", "--json", *OPTIONS)
    found = json.loads(again.out)
    assert found["streamed"] is True
    assert set(found["memory"]) == {"allowed_bytes", "stated_bytes", "peak_bytes"}
    assert found["n_held_out"] == 600


def test_a_dry_run_states_the_memory(folder: Path, sm: Any) -> None:
    """Columns, settings and the peak are told, and nothing is trained."""
    done = sm("fit", folder / "a.parquet", "--target", "y", "--memory", TIGHT, "--dry-run", "--json")
    found = json.loads(done.out)
    assert done.code == 0
    assert found["memory"]["stated_bytes"] > 0
    assert found["training"]["solver"] == "adam"
    assert [column["name"] for column in found["columns"]] == ["a", "b", "city", "w"]


def test_valid_rows_of_a_streamed_fit(folder: Path, tmp_path: Path, sm: Any) -> None:
    """--valid is read whole where it fits, else drawn from; nothing is held out of TRAIN then."""
    fit = ("fit", folder / "a.csv", "--target", "y", "-o", tmp_path / "m", "--memory", TIGHT, "--force", *OPTIONS)
    for name in ("new.csv", "a.parquet"):
        done = sm(*fit, "--valid", folder / name, "--json")
        assert done.code == 0, done.err
        assert json.loads(done.out)["n_held_out"] == (4000 if name == "new.csv" else N_ROWS)


@pytest.mark.parametrize("what", ["skip", "3", "2", "fail"])
def test_bad_rows_of_a_streamed_fit_are_counted(tmp_path: Path, sm: Any, what: str) -> None:
    """Rows that cannot be read are left out and counted exactly, or refused with their line where they are too many."""
    lines = ["a,b,y", *(f"{i % 13},{i % 7}.5,{'no' if i % 3 else 'yes'}" for i in range(3000))]
    lines[100], lines[2000], lines[2500] = "1,2", "1,2,", "1,2,3,4"
    (tmp_path / "bad.csv").write_text("\n".join(lines) + "\n")
    fit = ("fit", tmp_path / "bad.csv", "--target", "y", "-o", tmp_path / "m", "--memory", TIGHT, *OPTIONS)
    done = sm(*fit, "--on-bad-row", what, "--json")
    if what in ("2", "fail"):
        assert done.code == 3
        assert json.loads(done.out)["error"]["line"] == (101 if what == "fail" else 2001)
    else:
        found = json.loads(done.out)
        assert (found["n_bad_rows"], found["n_rows"]) == (3, 2997)
        assert "3 rows could not be read and left out, first line 101" in done.err


@pytest.mark.parametrize("memory", [TIGHT, "auto"])
@pytest.mark.parametrize("what", ["skip", "3", "2", "fail"])
def test_infinite_numbers_are_bad_rows(tmp_path: Path, sm: Any, what: str, memory: str) -> None:
    """Streamed or not, a row with an infinite number is left out and counted with the others, or told with its line."""
    lines = ["a,b,y", *(f"{i % 13}.5,{i % 7},{'no' if i % 3 else 'yes'}" for i in range(3000))]
    lines[100], lines[2000], lines[2500] = "1,2", "-inf,2,no", "inf,4,yes"
    (tmp_path / "bad.csv").write_text("\n".join(lines) + "\n")
    fit = ("fit", tmp_path / "bad.csv", "--target", "y", "-o", tmp_path / "m", "--memory", memory, *OPTIONS)
    done = sm(*fit, "--on-bad-row", what, "--json")
    found = json.loads(done.out)
    if what in ("2", "fail"):
        assert done.code == 3
        assert found["error"]["line"] == (101 if what == "fail" else 2501)
    else:
        assert (found["n_bad_rows"], found["n_rows"]) == (3, 2997)
        assert found["streamed"] == (memory == TIGHT)


def test_infinite_numbers_of_parquet(folder: Path, tmp_path: Path) -> None:
    """They are told by their row, left out where that is allowed, and every other row is trained on once."""
    values = table().column("a").to_numpy().copy()
    values[[7, 4321]] = np.inf
    pq.write_table(table().set_column(0, "a", pa.array(values)), tmp_path / "i.parquet", row_group_size=400)
    options = {"target": "y", "drop": ["w"], "stream_bytes": 150_000}
    with pytest.raises(DataError, match="row 7: inf is not a finite number"):
        fitted(folder, {}, open_source(tmp_path / "i.parquet", **options))
    starts: list[Any] = []
    fitted(folder, {}, open_source(tmp_path / "i.parquet", on_bad_row="skip", **options), on_start=starts.append)
    source = starts[0].source
    assert source.n_bad_rows == 2
    assert source.n_rows + starts[0].n_held_out == N_ROWS - 2
    assert source.class_counts.sum() == source.n_rows


def test_sizes_of_memory(sm: Any, folder: Path) -> None:
    """A size that is none is refused."""
    done = sm("fit", folder / "a.csv", "--target", "y", "-o", "m", "--memory", "much")
    assert done.code == 2
    assert "--memory" in done.err


# --- predict and evaluate ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    """Return a model file."""
    out = folder / "model.safetensors"
    code = main(["fit", str(folder / "a.csv"), "--target", "y", "--drop", "w", "-o", str(out), "--quiet", *OPTIONS])
    assert code == 0
    return out


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_predicting_in_blocks_gives_the_same_file(
    folder: Path, model: Path, tmp_path: Path, sm: Any, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """However the rows are cut, there is one output row for each, in order, with the same numbers."""
    options = ("--proba", "--top", "2", "--keep", "city,a", "--format", form)
    whole = tmp_path / f"whole.{form}"
    assert sm("predict", model, folder / "new.csv", "-o", whole, *options).code == 0
    blocks = blocks_module.delimited_blocks
    monkeypatch.setattr(blocks_module, "delimited_blocks", lambda *a, **o: blocks(*a, block_bytes=1 << 13, **o))
    cut = tmp_path / f"cut.{form}"
    done = sm("predict", model, folder / "new.csv", "-o", cut, *options)
    assert done.code == 0
    assert "4,000 rows predicted" in done.err
    if form == "parquet":
        one, two = pq.read_table(whole), pq.read_table(cut)
        assert one.schema == two.schema
        assert one.select(["city", "a", "label_1"]).equals(two.select(["city", "a", "label_1"]))
        np.testing.assert_allclose(one.column("proba_no").to_numpy(), two.column("proba_no").to_numpy(), rtol=1e-9)
    else:
        lines = whole.read_text().splitlines(), cut.read_text().splitlines()
        assert len(lines[0]) == len(lines[1]) == 4000 + (form == "csv")
        assert [line[:20] for line in lines[0]] == [line[:20] for line in lines[1]]


@pytest.mark.parametrize("out", ["-", "p.csv"])
def test_a_bad_row_that_comes_late_has_its_column(
    model: Path, tmp_path: Path, sm: Any, small_blocks: None, out: str
) -> None:
    """The error of row 3,000 is told in a column that the rows before it have too; nothing is written twice."""
    rows = [f"{i % 5}.25,{i % 3},oslo" for i in range(3500)]
    rows[3000], rows[3200] = "1,2", "1,two,oslo"
    (tmp_path / "late.csv").write_text("a,b,city\n" + "\n".join(rows) + "\n")
    place = out if out == "-" else str(tmp_path / out)
    done = sm("predict", model, tmp_path / "late.csv", "-o", place)
    assert done.code == 0
    text = done.out if out == "-" else (tmp_path / out).read_text()
    found = list(csv.DictReader(io.StringIO(text)))
    assert len(found) == 3500
    assert [i for i, row in enumerate(found) if row["error"]] == [3000, 3200]
    assert "line 3002" in found[3000]["error"]
    assert "line 3202" in found[3200]["error"]
    assert found[3000]["label"] == ""
    assert "2 of them could not be read and are empty, the first: line 3002" in done.err


def test_rows_of_parquet_are_counted_through(model: Path, tmp_path: Path, sm: Any, small_blocks: None) -> None:
    """A cell of a later row group is told by its row in the file."""
    texts = ["1.5"] * 2000
    texts[1700] = "one"
    rows = pa.table({"a": texts, "b": np.arange(2000.0), "city": ["oslo"] * 2000})
    pq.write_table(rows, tmp_path / "p.parquet", row_group_size=500)
    found = sm("predict", model, tmp_path / "p.parquet").rows()
    assert [i for i, row in enumerate(found) if row["error"]] == [1700]
    assert "row 1700" in found[1700]["error"]


@pytest.mark.parametrize("name", ["new.csv", "a.parquet"])
def test_evaluating_in_blocks_gives_the_same_metrics(
    folder: Path, model: Path, sm: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """All rows are scored together, whatever the blocks are."""
    whole = json.loads(sm("evaluate", model, folder / name, "--weights", "w", "--json").out)
    blocks = blocks_module.delimited_blocks
    monkeypatch.setattr(blocks_module, "delimited_blocks", lambda *a, **o: blocks(*a, block_bytes=1 << 13, **o))
    monkeypatch.setattr(blocks_module, "GROUP_ROWS", 300)
    cut = json.loads(sm("evaluate", model, folder / name, "--weights", "w", "--json").out)
    assert cut.keys() == whole.keys()
    for key, value in whole.items():
        if isinstance(value, float):
            assert cut[key] == pytest.approx(value, rel=1e-12), key
        elif key != "log_loss_interval" and key != "accuracy_interval":
            assert cut[key] == value, key


@pytest.mark.parametrize("what", ["skip", "4", "3", "fail"])
def test_bad_rows_in_blocks_are_counted(model: Path, tmp_path: Path, sm: Any, small_blocks: None, what: str) -> None:
    """Rows of too few cells, without a label and with words for numbers are counted over all blocks."""
    rows = [f"{i % 5}.25,{i % 3},oslo,{'no' if i % 2 else 'yes'}" for i in range(3000)]
    rows[10], rows[1000], rows[2000], rows[2900] = "1,2", "1,2,oslo,", "x,2,oslo,no", "1,y,oslo,no"
    (tmp_path / "bad.csv").write_text("a,b,city,y\n" + "\n".join(rows) + "\n")
    done = sm("evaluate", model, tmp_path / "bad.csv", "--on-bad-row", what, "--json")
    found = json.loads(done.out)
    if what in ("3", "fail"):
        assert done.code == 3
        assert found["error"]["line"] == (12 if what == "fail" else 2902)
    else:
        assert (found["n_bad_rows"], found["n_rows"]) == (4, 2996)


def test_labels_never_seen_are_named_from_any_block(model: Path, tmp_path: Path, sm: Any, small_blocks: None) -> None:
    """They count as wrong, and are examples in the warning."""
    rows = [f"{i % 5}.25,{i % 3},oslo,{'no' if i != 2500 else 'never'}" for i in range(3000)]
    (tmp_path / "u.csv").write_text("a,b,city,y\n" + "\n".join(rows) + "\n")
    done = sm("evaluate", model, tmp_path / "u.csv", "--json")
    assert json.loads(done.out)["n_unseen"] == 1
    assert "1 of 3,000 rows have labels that the model never saw ('never')" in done.err


# --- what is shown ----------------------------------------------------------------------------------------------


def test_progress_in_words() -> None:
    """How much of how much, how fast, and how long still; what was behind at the beginning took no time."""
    now = [0.0]
    shown = RowProgress(Terminal(quiet=True), "predicting", clock=lambda: now[0])
    shown(1000, 5000)
    assert shown.text(1000, 5000, 0.0) == "predicting: 1,000 of 5,000 rows"
    assert shown.text(3000, 5000, 10.0) == "predicting: 3,000 of 5,000 rows, 200 rows/s, 10 s left"
    size = RowProgress(Terminal(quiet=True), "converting", "bytes", clock=lambda: now[0])
    size(0, 1 << 30)
    assert size.text(1 << 29, 1 << 30, 64.0) == "converting: 512.0 MiB of 1.0 GiB, 8.0 MiB/s, 1 min 4 s left"
