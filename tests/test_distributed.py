"""Two real processes over gloo: the same fit as one; what one of them cannot do is an error on both; none hangs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import distributed_worker
from softmaxnet.cli import main
from softmaxnet.communicator import ProcessLostError
from softmaxnet.estimator import SoftmaxClassifier
from softmaxnet.model_file import load_model
from softmaxnet.processes import run

WORKER = Path(distributed_worker.__file__)
SAME = ["fit", "text", "lbfgs", "partial", "streamed"]
ERRORS = {
    "other_classes": ("DataError", "the list of classes of process 1 has 1", None),
    "other_columns": ("DataError", "the list of columns of process 1 lacks f and has g besides", None),
    "other_rows": ("DataError", "training rows of process 1 differ from those of process 0", None),
    "other_settings": ("DataError", "learning_rate is 0.01 on process 0 and 0.02 on process 1", None),
    "bad_on_one": ("DataError", "Input X contains infinity (row 5, column 2, from 0)", 1),
    "small_batches": ("UsageError", "2 processes cannot share batches of 1 rows", None),
    "beyond_the_head": ("DataError", "row 17 has the label 5; the output layer has 5 classes", 1),
    "keep": ("SoftmaxError", "enough", 1),
    "other_model": ("UsageError", "the checkpoints are of another run: hidden_layer_sizes was [16, 8], now [5]", 0),
}
"""The class, a part of the message, and whose error it is: the others' message names the process."""
ORDER = [*SAME, "unseeded", "alone_inside", *ERRORS, "go_on", "interrupted", "full_disk"]


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def start(n: int, arguments: list[str], **more: object) -> list[subprocess.Popen[str]]:
    """Start processes that are to find each other, with no launcher that would end one for the other."""
    common = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            text=True,
            **more,
        )
        for rank in range(n)
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> list[dict[str, dict[str, object]]]:
    """What each of two processes saw in every scenario, one after the other."""
    folder = tmp_path_factory.mktemp("pair")
    processes = start(2, [str(WORKER), str(folder), *ORDER], stderr=subprocess.PIPE)
    try:
        for process in processes:
            assert process.wait(240) == 0, process.stderr.read()
    finally:
        for process in processes:
            process.kill()
            process.stderr.close()
    saw = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    saw[0]["folder"] = str(folder)
    return saw


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> dict[str, dict[str, object]]:
    """The same scenarios in this process alone."""
    folder = tmp_path_factory.mktemp("one")
    return {name: getattr(distributed_worker, name)(folder) for name in SAME}


# --- the same fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAME)
def test_two_processes_fit_as_one(pair, one, name):
    """Loss, held-out scores and probabilities of two processes are those of one, and both have them."""
    for saw in pair:
        result = saw[name]["result"]
        for line, expected in zip(result["history"], one[name]["history"], strict=True):
            assert line["loss"] == pytest.approx(expected["loss"], rel=1e-9)
            scores = [found.get("validation_log_loss") or 0.0 for found in (line, expected)]
            assert scores[0] == pytest.approx(scores[1], rel=1e-7)
        scores = [found["metrics"]["log_loss"] or 0.0 for found in (result, one[name])]
        assert scores[0] == pytest.approx(scores[1], rel=1e-6)
        np.testing.assert_allclose(result["probe"], one[name]["probe"], rtol=1e-5, atol=1e-8)


def test_a_hundred_steps_lose_as_much(pair, one):
    """After more than 100 steps in float64 the loss agrees to 1e-6."""
    n_steps = 8 * 21
    assert n_steps > 100
    assert pair[0]["fit"]["result"]["history"][-1]["loss"] == pytest.approx(one["fit"]["history"][-1]["loss"], rel=1e-6)


def test_nothing_is_left_behind(pair):
    """No process group, handler, variable or thread number is other than before, and the estimator can be pickled."""
    for saw in pair:
        result = saw["fit"]["result"]
        assert result["group"] is False
        assert all(result[name] for name in ("handlers", "environment", "threads"))
        assert result["kept"] == []


def test_without_a_seed_the_first_process_draws_it(pair):
    """Processes that would draw different seeds fit the same network."""
    first, second = (saw["unseeded"]["result"] for saw in pair)
    assert first["probe"] == second["probe"]


def test_a_process_may_fit_alone(pair):
    """With communicator=Alone() a process waits for nobody."""
    assert pair[0]["alone_inside"]["result"]["stopped_by"] == "max_epochs"


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_one_is_an_error_on_both(pair, name):
    """Both raise the same class and message; the one whose error it is not names the process."""
    kind, message, of = ERRORS[name]
    for rank, saw in enumerate(pair):
        assert saw[name]["error"] == kind
        assert message in saw[name]["message"]
        assert (f"process {of}: " in saw[name]["message"]) == (of is not None and of != rank)
        assert not saw[name]["group"]


def test_a_fit_goes_on_from_the_checkpoint_of_the_first_process(pair, one):
    """Two processes go on where two stopped, of which only one sees the folder, and end as if they had not."""
    for saw in pair:
        result = saw["go_on"]["result"]
        assert (result["resumed"], result["elsewhere"]) == (4, False)
        assert result["history"][-1]["loss"] == pytest.approx(one["fit"]["history"][-1]["loss"], rel=1e-9)


def test_an_interrupt_of_one_stops_both(pair):
    """Ctrl-C in one process ends the training of both after the same step, with the same network."""
    first, second = (saw["interrupted"]["result"] for saw in pair)
    assert first["stopped_by"] == second["stopped_by"] == "interrupt"
    assert len(first["history"]) == 3
    assert first["probe"] == second["probe"]


def test_a_full_disk_is_an_error_on_both(pair):
    """No checkpoint is a warning, no model an exit code of both; one process speaks."""
    assert [saw["full_disk"]["result"] for saw in pair] == [6, 6]
    first, second = (Path(pair[0]["folder"], f"full{rank}.txt").read_text() for rank in range(2))
    assert "no checkpoint could be written, training goes on" in first
    assert "full.safetensors" in first.splitlines()[-1]
    assert second == ""


# --- lost processes -------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path) -> Path:
    """A file that takes some seconds to learn."""
    X, y = distributed_worker.numbers(6000)
    path = tmp_path / "rows.csv"
    np.savetxt(path, np.c_[X, y], delimiter=",", header="a,b,c,d,e,f,y", comments="", fmt="%.6g")
    return path


def command(rows: Path, out: Path, *more: str) -> list[str]:
    """Return a fit that keeps a checkpoint at the end of every epoch."""
    program = (
        "import softmaxnet.checkpoint as checkpoint, sys; checkpoint.EVERY_SECONDS = 0.0; "
        "from softmaxnet.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    settings = "--precision float64 --max-epochs 40 --n-iter-no-change 40 --seed 0 --hidden-layer-sizes 24 --jobs 1"
    return ["-c", program, "fit", str(rows), "--target", "y", "-o", str(out), *settings.split(), *more]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_is_named_and_the_fit_goes_on(tmp_path, rows, lost):
    """The other process ends within a minute with a clear error; one process goes on to the same loss."""
    out = tmp_path / "m.safetensors"
    processes = start(2, command(rows, out), stderr=subprocess.PIPE)
    folder = Path(f"{out}.ckpt")
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[lost].send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    _, told = processes[1 - lost].communicate(timeout=60)
    assert time.monotonic() - killed_at < 60
    processes[lost].communicate()
    assert processes[1 - lost].returncode == 6
    assert f"process {lost} of 2 was lost" in told.splitlines()[-1]
    assert not out.exists()

    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    settings = {"env": alone, "capture_output": True, "text": True, "timeout": 120}
    again = subprocess.run([sys.executable, *command(rows, out, "--resume", "--json")], **settings)
    assert "going on after epoch" in again.stderr
    whole = tmp_path / "whole.safetensors"
    never = subprocess.run([sys.executable, *command(rows, whole, "--json")], **settings)
    losses = [json.loads(done.stdout)["log_loss"] for done in (again, never)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert len(load_model(out).classes) == 5


@pytest.mark.slow
def test_the_command_line_starts_processes_of_which_one_speaks(tmp_path, rows):
    """--processes 2 writes one JSON object and the model of one process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    settings = {"env": environment, "capture_output": True, "text": True, "timeout": 300}
    results = []
    for number in ("1", "2"):
        out = tmp_path / f"m{number}.safetensors"
        more = ("--processes", number, "--json", "--max-epochs", "3")
        done = subprocess.run([sys.executable, "-m", "softmaxnet", *command(rows, out, *more)[2:]], **settings)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("6,000 rows of") == 1
        results.append(json.loads(done.stdout))
        assert len(load_model(out).classes) == 5
    assert results[0]["log_loss"] == pytest.approx(results[1]["log_loss"], rel=1e-9)
    absent = command(tmp_path / "absent.csv", tmp_path / "x.safetensors", "--processes", "2")[2:]
    absent = subprocess.run([sys.executable, "-m", "softmaxnet", *absent], **settings)
    assert absent.returncode == 3
    assert absent.stderr.count("absent.csv: no such file") == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "text"),
    [
        (["-", "--processes", "2"], {}, "cannot read the same standard input"),
        (["rows.csv", "--processes", "0"], {}, "at least 1. Got '0'"),
        (
            ["rows.csv", "--processes", "2"],
            {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
            "--processes is 2, and a launcher has started 3 processes",
        ),
        (["rows.csv"], {"RANK": "4", "WORLD_SIZE": "3"}, "RANK is 4 and WORLD_SIZE is 3, which do not fit"),
    ],
    ids=["stdin", "none", "another", "rank"],
)
def test_processes_that_cannot_be_are_a_usage_error(monkeypatch, capsys, arguments, environment, text):
    """Before anything is read or anybody is waited for."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["fit", *arguments, "--target", "y", "-o", "m.safetensors"]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.slow
def test_run_starts_processes_and_returns_what_the_first_returns():
    """A classifier is fitted in two processes of torch's own launcher and comes back; errors keep their class."""
    X, y = distributed_worker.numbers(400)
    clf = SoftmaxClassifier(**distributed_worker.SETTINGS | {"max_epochs": 2})
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    environment = dict(os.environ)
    fitted = run(2, clf.fit, X, y)
    assert not hasattr(clf, "model_")
    expected = clf.fit(X, y)
    np.testing.assert_allclose(fitted.predict_proba(X), expected.predict_proba(X), rtol=1e-9)
    with pytest.raises(ProcessLostError, match=r"process [01] of 2 was killed by signal 9 \(SIGKILL\)"):
        run(2, distributed_worker.end_of_one)
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert environment == dict(os.environ)
