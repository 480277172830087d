"""Checkpoints: a fit that was killed and gone on with ends as one that was not; damage, other data, full disks."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

torch = pytest.importorskip("torch")

import softmaxnet.checkpoint
import softmaxnet.training
from softmaxnet.checkpoint import Checkpoints, arrays_digest, generations, newest, remove
from softmaxnet.cli import main
from softmaxnet.cli.progress import Progress
from softmaxnet.errors import ModelFileError, UsageError
from softmaxnet.estimator import SoftmaxClassifier
from softmaxnet.model_file import load_model, model_bytes

N_ROWS = 1500
SETTINGS = {"hidden_layer_sizes": (16,), "n_members": 2, "max_epochs": 8, "dropout": 0.1, "n_jobs": 1}
COMMAND = (
    "import softmaxnet.checkpoint as checkpoint, sys; checkpoint.EVERY_SECONDS = 0.0; "
    "from softmaxnet.cli import main; sys.exit(main(sys.argv[1:]))"
)
"""The command line with a checkpoint at the end of every epoch."""


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch):
    monkeypatch.setattr(softmaxnet.checkpoint, "EVERY_SECONDS", 0.0)


@pytest.fixture(scope="module")
def numbers() -> tuple[np.ndarray, np.ndarray]:
    """Rows of three overlapping classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, N_ROWS)
    return (rng.normal(size=(N_ROWS, 5)) + np.eye(3, 5)[y]).astype(np.float32), y


def kill_after(epoch: int):
    """Return a function for ``on_epoch`` that ends the fit once an epoch is over."""

    def on_epoch(line: dict[str, float]) -> None:
        if line["epoch"] == epoch:
            raise Killed

    return on_epoch


def killed(clf: SoftmaxClassifier, X, y, folder: Path, epoch: int = 4, **fit) -> None:
    """Fit until the end of an epoch."""
    with pytest.raises(Killed):
        clf.fit(X, y, checkpoint_folder=folder, on_epoch=kill_after(epoch), **fit)


def small_store(folder: Path, **fingerprint) -> Checkpoints:
    """Return where a tiny run keeps its checkpoints."""
    return Checkpoints(folder, fingerprint or {"batch_size": 8}, found=newest(folder), every_seconds=0)


def save_small(store: Checkpoints, value: float) -> bool:
    """Write a checkpoint of one tensor."""
    return store.save({"flat": np.full(1000, value)}, {"n_steps": 1}, [{"epoch": 1, "loss": value}])


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


# --- the folder -------------------------------------------------------------------------------------------------


def test_what_is_saved_is_found_again(tmp_path):
    """Tensors, counters and history come back bit for bit, and the two files are written in turns."""
    store = small_store(tmp_path / "c")
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    history = [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "loss": 1 / 3}]
    assert store.save({"flat": values, "count": np.float32(3).reshape(())}, {"rate_factor": 0.1}, history)
    found = newest(tmp_path / "c")
    assert found.tensors["flat"].tobytes() == values.tobytes()
    assert found.tensors["count"].shape == ()
    assert found.state == {"rate_factor": 0.1}
    assert found.history == history
    assert [path.name for path in generations(tmp_path / "c")] == ["a.safetensors"]
    for value in range(3):
        save_small(store, value)
        assert newest(tmp_path / "c").tensors["flat"][0] == value
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["a.safetensors", "b.safetensors"]


def test_a_store_that_goes_on_replaces_the_older_file(tmp_path):
    """The checkpoint that a run goes on from is not the one that it writes over first."""
    for value in range(5):
        save_small(small_store(tmp_path), value)
        assert newest(tmp_path).serial == value + 1
    assert len(generations(tmp_path)) == 2


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "text", "model"])
def test_a_damaged_newest_one_is_skipped_and_named(tmp_path, numbers, how):
    """The older one is taken, and a warning names the other."""
    store = small_store(tmp_path)
    save_small(store, 1.0)
    save_small(store, 2.0)
    path = newest(tmp_path).path
    data = path.read_bytes()
    if how == "flipped":
        damage(path)
    elif how == "model":
        SoftmaxClassifier(hidden_layer_sizes=(), weight_decay=0.01).fit(numbers[0][:99], numbers[1][:99]).save(path)
    else:
        path.write_bytes({"cut": data[:-100], "empty": b"", "text": b"x" * 200}[how])
    with pytest.warns(UserWarning, match=re.escape(f"{path} is skipped")):
        found = newest(tmp_path)
    assert found.tensors["flat"][0] == 1.0


def test_a_checkpoint_is_no_model(tmp_path):
    """A checkpoint given as a model is refused as any foreign file is."""
    save_small(small_store(tmp_path), 1.0)
    with pytest.raises(ModelFileError):
        load_model(tmp_path / "a.safetensors")


def test_a_run_of_something_else_is_refused_by_name(tmp_path):
    """What differs is said: settings with both values, rows and seeds without their digests."""
    fingerprint = {"training rows": "ab", "random_state": 5, "batch_size": 8, "betas": (0.9, 0.999)}
    save_small(small_store(tmp_path, **fingerprint), 1.0)
    small_store(tmp_path, **fingerprint)
    for other, text in [
        ({"training rows": "cd"}, "other training rows"),
        ({"random_state": 6}, "other random_state"),
        ({"batch_size": 16}, "batch_size was 8, now 16"),
        ({"new": 1}, "new was None, now 1"),
    ]:
        with pytest.raises(UsageError, match=text):
            small_store(tmp_path, **(fingerprint | other))


def test_removing_takes_what_is_ours_only(tmp_path):
    """Both files and what a killed run left half-written go; a file of the user's and its folder stay."""
    folder = tmp_path / "c"
    store = small_store(folder)
    save_small(store, 1.0)
    (folder / ".b.safetensors.abcdefgh.tmp").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    store.remove()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    remove(folder)
    assert not folder.exists()


def test_removing_takes_the_checkpoints_of_every_network_that_was_compared(tmp_path, monkeypatch):
    """Networks with bins, without, and with columns dropped leave nothing behind."""
    monkeypatch.setattr("softmaxnet.checkpoint.EVERY_SECONDS", 0.0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(1200, 5)), rng.integers(0, 2, 1200)
    folder = tmp_path / "c"
    SoftmaxClassifier(random_state=0, max_epochs=2).fit(X, y, checkpoint_folder=folder)
    assert {path.name.rpartition("-")[0] for path in folder.iterdir()} == {"", "bins", "dropped"}
    remove(folder)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_full_disk_is_one_warning_and_leaves_the_last_good_one(tmp_path, monkeypatch, name):
    """Neither a failing fsync nor a failing rename ends the training or costs what was kept."""
    store = small_store(tmp_path)
    save_small(store, 1.0)

    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.warns(UserWarning, match="No space left"):
            assert not save_small(store, 2.0)
        assert not save_small(store, 3.0)  # a second warning would be an error here
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert newest(tmp_path).tensors["flat"][0] == 1.0
    assert save_small(store, 4.0)  # there is room again
    assert newest(tmp_path).tensors["flat"][0] == 4.0


def test_digests_tell_arrays_apart():
    """Values, type, shape and place count."""
    a = np.arange(6, dtype=np.int64)
    others = [a.astype(np.float64), a.reshape(2, 3), a + 1, np.array(["a", "b"]), np.array(["a", 1], dtype=object)]
    digests = [arrays_digest([a]), *(arrays_digest([b]) for b in others), arrays_digest([None, a]), arrays_digest([])]
    assert len(set(digests)) == len(digests)
    assert arrays_digest([a]) == arrays_digest([np.arange(12)[::2] // 2])


# --- fits -------------------------------------------------------------------------------------------------------

CASES = {
    "members": {},
    "early stopping": {"max_epochs": 30, "n_iter_no_change": 3, "learning_rate": 0.3},
    "no validation": {"early_stopping": False},
    "average": {"learning_rate_schedule": "constant", "weight_decay": 0.1},
    "sets": {"conformal_fraction": 0.2, "class_weight": "balanced"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, None])
def test_a_resumed_fit_ends_as_one_that_never_stopped(tmp_path, numbers, case, seed):
    """Model and history are the same to the bit, also where the seed was drawn; a second kill changes nothing."""
    X, y = numbers
    settings = SETTINGS | CASES[case] | {"random_state": seed}
    killed(SoftmaxClassifier(**settings), X, y, tmp_path, 3)
    seed_drawn = newest(tmp_path).fingerprint["random_state"]
    killed(SoftmaxClassifier(**settings), X, y, tmp_path, 5, resume=True)
    resumed = SoftmaxClassifier(**settings).fit(X, y, checkpoint_folder=tmp_path, resume=True)
    assert resumed.resumed_epochs_ == 5
    whole = SoftmaxClassifier(**settings)
    whole._seed = lambda: seed_drawn
    whole.fit(X, y)
    assert model_bytes(resumed.model_) == model_bytes(whole.model_)
    assert resumed.predict_proba(X).tobytes() == whole.predict_proba(X).tobytes()
    assert [(line["epoch"], line["loss"]) for line in resumed.history_] == [
        (line["epoch"], line["loss"]) for line in whole.history_
    ]
    assert (resumed.n_iter_, resumed.stopped_by_) == (whole.n_iter_, whole.stopped_by_)


@pytest.mark.parametrize("kind", ["text", "pictures"])
def test_every_kind_of_input_is_gone_on_with(tmp_path, kind):
    """The table of a sparse block with its sums of squares, and pixels that are shifted about, come back too."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 1200)
    words = np.array(["red", "green", "blue", "cyan", "dark", "pale"])
    if kind == "text":
        X = [f"{words[k]} {words[rng.integers(6)]} {words[rng.integers(6)]}" for k in y]
    else:
        X = rng.integers(0, 99, (1200, 8, 8), dtype=np.uint8)
        X[:, 0] += (y * 50)[:, None].astype(np.uint8)
    settings = {"max_epochs": 5, "random_state": 0, "n_jobs": 1, "hidden_layer_sizes": (8,)}
    killed(SoftmaxClassifier(**settings), X, y, tmp_path, 2)
    assert ("table" in newest(tmp_path).tensors) == (kind == "text")
    resumed = SoftmaxClassifier(**settings).fit(X, y, checkpoint_folder=tmp_path, resume=True)
    assert resumed.resumed_epochs_ == 2
    assert model_bytes(resumed.model_) == model_bytes(SoftmaxClassifier(**settings).fit(X, y).model_)


def test_a_sparse_matrix_and_the_last_epoch(tmp_path, numbers):
    """A run that was killed after its last epoch only has to be finished."""
    X, y = scipy.sparse.csr_array(numbers[0]), numbers[1]
    settings = SETTINGS | {"random_state": 0, "early_stopping": False}
    killed(SoftmaxClassifier(**settings), X, y, tmp_path, 8)
    resumed = SoftmaxClassifier(**settings).fit(X, y, checkpoint_folder=tmp_path, resume=True)
    assert (resumed.resumed_epochs_, resumed.n_iter_) == (8, 8)
    assert model_bytes(resumed.model_) == model_bytes(SoftmaxClassifier(**settings).fit(X, y).model_)


def test_the_learning_rate_that_was_cut_stays_cut(tmp_path, numbers, monkeypatch):
    """A halved learning rate is part of the run."""
    X, y = numbers
    settings = SETTINGS | {"random_state": 0}
    is_finite = softmaxnet.training._is_finite

    def fit_with_one_bad_step(**fit):
        answers = iter([False])
        monkeypatch.setattr(softmaxnet.training, "_is_finite", lambda *args: next(answers, True) and is_finite(*args))
        return SoftmaxClassifier(**settings).fit(X, y, **fit)

    with pytest.warns(UserWarning, match="not finite"):
        whole = fit_with_one_bad_step()
    with pytest.warns(UserWarning, match="not finite"), pytest.raises(Killed):
        fit_with_one_bad_step(checkpoint_folder=tmp_path, on_epoch=kill_after(3))
    assert newest(tmp_path).state["rate_factor"] == 0.5
    resumed = SoftmaxClassifier(**settings).fit(X, y, checkpoint_folder=tmp_path, resume=True)
    assert model_bytes(resumed.model_) == model_bytes(whole.model_)


def test_other_rows_or_settings_are_refused(tmp_path, numbers):
    """A checkpoint is gone on with only by the fit that wrote it."""
    X, y = numbers
    killed(SoftmaxClassifier(**SETTINGS, random_state=0), X, y, tmp_path)
    other_rows = X.copy()
    other_rows[7, 1] += 0.5
    for settings, rows, labels, text in [
        ({}, other_rows, y, "other training rows"),
        ({}, X, np.array(["a", "b", "c"])[y], "other training rows"),
        ({"learning_rate": 0.5}, X, y, "learning_rate was .*, now 0.5"),
        ({"random_state": 1}, X, y, "other random_state"),
        ({"max_epochs": 9}, X, y, "max_epochs was 8, now 9"),
        ({"hidden_layer_sizes": (), "solver": "lbfgs"}, X, y, "hidden_layer_sizes"),
    ]:
        clf = SoftmaxClassifier(**({**SETTINGS, "random_state": 0} | settings))
        with pytest.raises(UsageError, match=text):
            clf.fit(rows, labels, checkpoint_folder=tmp_path, resume=True)
    assert newest(tmp_path).history[-1]["epoch"] == 4  # and what was there is untouched


def test_a_fit_that_was_killed_as_it_stopped_trains_no_further(tmp_path, numbers):
    """Resumed after its last epoch, a fit that stopped early is that fit."""
    X, y = numbers
    settings = SETTINGS | {"max_epochs": 60, "n_iter_no_change": 2, "random_state": 0}
    whole = SoftmaxClassifier(**settings).fit(X, y)
    assert whole.n_iter_ < 60
    killed(SoftmaxClassifier(**settings), X, y, tmp_path, whole.n_iter_)
    resumed = SoftmaxClassifier(**settings).fit(X, y, checkpoint_folder=tmp_path, resume=True)
    assert resumed.resumed_epochs_ == whole.n_iter_
    assert model_bytes(resumed.model_) == model_bytes(whole.model_)


def test_without_resume_old_checkpoints_are_replaced(tmp_path, numbers):
    """A fit from the beginning leaves nothing of the one before it to be gone on with."""
    X, y = numbers
    killed(SoftmaxClassifier(**SETTINGS, random_state=0), X, y, tmp_path / "c")
    killed(SoftmaxClassifier(**SETTINGS, random_state=1), X, y, tmp_path / "c", 1)
    assert len(newest(tmp_path / "c").history) == 1
    assert len(generations(tmp_path / "c")) == 1
    SoftmaxClassifier(random_state=0).fit(X[:200], y[:200], checkpoint_folder=tmp_path / "c")
    assert not (tmp_path / "c").exists()  # little data keeps none


def test_nothing_to_go_on_from_is_a_fit_from_the_beginning(tmp_path, numbers):
    """Neither an empty folder nor two damaged checkpoints are in the way."""
    X, y = numbers
    clf = SoftmaxClassifier(**SETTINGS, random_state=0)
    killed(clf, X, y, tmp_path, resume=True)
    assert clf.resumed_epochs_ == 0
    for path in generations(tmp_path):
        damage(path)
    with pytest.warns(UserWarning, match="is skipped") as caught:
        clf.fit(X, y, checkpoint_folder=tmp_path, resume=True)
    assert (len(caught), clf.resumed_epochs_, clf.n_iter_) == (2, 0, 8)


def test_misuse_is_told(tmp_path, numbers):
    """Resuming needs a folder; a warm start has another fit to go on from."""
    X, y = numbers
    with pytest.raises(UsageError, match="checkpoint_folder"):
        SoftmaxClassifier().fit(X, y, resume=True)
    clf = SoftmaxClassifier(**SETTINGS, warm_start=True).fit(X, y)
    with pytest.raises(UsageError, match="warm_start"):
        clf.fit(X, y, checkpoint_folder=tmp_path)


def test_short_fits_write_nothing(tmp_path, numbers, monkeypatch):
    """The first checkpoint comes when the fit has lasted long enough to be worth it."""
    monkeypatch.setattr(softmaxnet.checkpoint, "EVERY_SECONDS", 1000.0)
    SoftmaxClassifier(**SETTINGS).fit(*numbers, checkpoint_folder=tmp_path / "c")
    assert not (tmp_path / "c").exists()


# --- the command line -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory, numbers) -> Path:
    """The same rows as a CSV file."""
    path = tmp_path_factory.mktemp("data") / "train.csv"
    lines = [",".join(f"{v:.4f}" for v in row) + f",c{label}" for row, label in zip(*numbers, strict=True)]
    path.write_text("a,b,c,d,e,label\n" + "\n".join(lines) + "\n")
    return path


def arguments(table: Path, out: Path, *more: str) -> list[str]:
    """Return a command line that trains for about a second."""
    fit = ["fit", str(table), "--target", "label", "-o", str(out), "--seed", "3", "--hidden-layer-sizes", "32"]
    return [*fit, "--max-epochs", "60", "--n-iter-no-change", "60", "--jobs", "1", *more]


def test_kill_9_at_random_moments_and_resume(tmp_path, table):
    """However often and whenever it is killed, the model file is the same byte for byte, and nothing else is left."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    reference, out = tmp_path / "reference.safetensors", tmp_path / "model.safetensors"
    command = [sys.executable, "-c", COMMAND]
    subprocess.run([*command, *arguments(table, reference)], env=environment, check=True, capture_output=True)
    moments = random.Random(7)
    for attempt in range(2):
        line = [*command, *arguments(table, out, *(["--resume"] if attempt else []))]
        process = subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None and not generations(f"{out}.ckpt"):  # until it trains
            time.sleep(0.01)
        if attempt:  # its imports and the reading of the rows, too
            time.sleep(moments.uniform(1, 2))
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.wait()
    if generations(f"{out}.ckpt"):  # it had not come to its end by itself
        line = [*command, *arguments(table, out, "--resume")]
        last = subprocess.run(line, env=environment, check=True, capture_output=True, text=True)
        assert "going on after epoch" in last.stderr
    assert out.read_bytes() == reference.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "reference.safetensors"]


def test_the_command_goes_on_refuses_and_cleans_up(tmp_path, table, capsys, monkeypatch):
    """``--resume`` without checkpoints says so, of another run exits with 2, and a fit that is done leaves none."""
    out = tmp_path / "model.safetensors"
    short = ("--max-epochs", "6")
    assert main(arguments(table, out, "--resume", *short)) == 0
    assert "no checkpoint to go on from" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    whole = out.read_bytes()
    out.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "epoch", lambda self, line: kill_after(4)(line))
        assert main(arguments(table, out, *short)) == 1
    assert generations(f"{out}.ckpt")
    capsys.readouterr()
    assert main(arguments(table, out, "--resume", "--max-epochs", "7")) == 2
    assert "max-epochs was 6, now 7" in capsys.readouterr().err
    (tmp_path / f".{out.name}.abcdefgh.tmp").write_bytes(b"half a model")
    assert main(arguments(table, out, "--resume", *short)) == 0
    assert "going on after epoch 4" in capsys.readouterr().err
    assert out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_run_killed_after_its_model_was_written_is_finished(tmp_path, table, capsys, monkeypatch):
    """Where the model is there and so are the checkpoints, --resume needs no --force; without checkpoints it does."""
    out = tmp_path / "model.safetensors"
    short = ("--max-epochs", "4")
    monkeypatch.setattr(softmaxnet.checkpoint, "remove", lambda folder: None)
    assert main(arguments(table, out, *short)) == 0
    whole = out.read_bytes()
    monkeypatch.undo()
    assert generations(f"{out}.ckpt")
    assert main(arguments(table, out, "--resume", *short)) == 0
    assert out.read_bytes() == whole
    assert not Path(f"{out}.ckpt").exists()
    assert main(arguments(table, out, "--resume", *short)) == 2
    assert "--force" in capsys.readouterr().err


def test_a_disk_that_fills_up_costs_a_warning(tmp_path, table):
    """Where files may not grow beyond what a model takes, checkpoints fail, training does not."""
    out = tmp_path / "model.safetensors"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    wide = ("--max-epochs", "3", "--n-members", "1", "--hidden-layer-sizes", "200,20")
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments(table, out, *wide)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no checkpoint could be written") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
