"""One of the processes of test_distributed.py: goes through scenarios and writes down what it saw.

python distributed_worker.py FOLDER SCENARIO...
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

import softmaxnet.checkpoint
from softmaxnet.cli import main
from softmaxnet.communicator import Alone
from softmaxnet.errors import SoftmaxError
from softmaxnet.estimator import SoftmaxClassifier
from softmaxnet.features.encoded import Encoded
from softmaxnet.fitted import Examples
from softmaxnet.fitting import fit_network
from softmaxnet.processes import joined
from softmaxnet.recipe import DataShape, resolve

RANK = int(os.environ.get("RANK", "0"))
SETTINGS = {
    "hidden_layer_sizes": (16, 8),
    "n_members": 2,
    "dropout": 0.2,
    "precision": "float64",
    "max_epochs": 8,
    "batch_size": 64,
    "n_jobs": 1,
    "random_state": 3,
}


def numbers(n_rows: int = 1501) -> tuple[np.ndarray, np.ndarray]:
    """Rows of five overlapping classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, n_rows)
    return rng.normal(size=(n_rows, 6)) + 1.5 * np.eye(5, 6)[y], y


def texts() -> tuple[list[str], np.ndarray]:
    """Rows of words, of which some tell the class."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 1200)
    words = np.array([f"word{i}" for i in range(200)])
    return [" ".join([*rng.choice(words, 6), f"class{label}" if i % 2 else ""]) for i, label in enumerate(y)], y


def table(X: np.ndarray, *, names: str = "abcdef") -> pa.Table:
    """The numbers with names."""
    return pa.table(dict(zip(names, X.T, strict=True)))


def outcome(clf: SoftmaxClassifier) -> dict[str, object]:
    """What a fit ended with."""
    probe = numbers(7)[0] if clf.n_features_in_ == 6 else texts()[0][:7]
    if hasattr(clf, "feature_names_in_") and clf.n_features_in_ == 6:
        probe = table(probe)
    probe = clf.predict_proba(probe)
    return {"history": clf.history_, "metrics": clf.metrics_, "probe": probe.tolist(), "stopped_by": clf.stopped_by_}


# --- scenarios ------------------------------------------------------------------------------------------------------


def fit(folder: Path) -> dict[str, object]:
    """Numbers, and what is left behind afterwards."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    environment, threads = dict(os.environ), torch.get_num_threads()
    clf = SoftmaxClassifier(**SETTINGS).fit(*numbers())
    again = pickle.loads(pickle.dumps(clf))
    return outcome(again) | {
        "group": dist.is_initialized(),
        "handlers": handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "environment": environment == dict(os.environ),
        "threads": threads == torch.get_num_threads(),
        "kept": [name for name, value in vars(clf).items() if "distributed" in type(value).__module__],
    }


def text(folder: Path) -> dict[str, object]:
    """A sparse table, whose gradient travels by rows."""
    settings = SETTINGS | {"hidden_layer_sizes": (8,), "max_epochs": 3}
    return outcome(SoftmaxClassifier(**settings).fit(*texts()))


def unseeded(folder: Path) -> dict[str, object]:
    """Each process would draw another seed."""
    return outcome(SoftmaxClassifier(**SETTINGS | {"random_state": None, "max_epochs": 2}).fit(*numbers()))


def lbfgs(folder: Path) -> dict[str, object]:
    """What is not trained in batches each process does by itself."""
    settings = {"hidden_layer_sizes": (), "solver": "lbfgs", "weight_decay": 0.01, "n_jobs": 1, "random_state": 0}
    return outcome(SoftmaxClassifier(**settings).fit(*numbers(300)))


def partial(folder: Path) -> dict[str, object]:
    """Batches that are given one by one."""
    X, y = numbers()
    clf = SoftmaxClassifier(**SETTINGS).partial_fit(X[:700], y[:700], classes=np.arange(5))
    return outcome(clf.partial_fit(X[700:], y[700:]))


def streamed(folder: Path) -> dict[str, object]:
    """A file that is read window by window."""
    import pyarrow.parquet as pq

    from softmaxnet.data.stream import open_source

    X, y = numbers()
    path = folder / f"rows-{os.environ.get('WORLD_SIZE', '1')}-{RANK}.parquet"
    pq.write_table(table(X).append_column("y", pa.array(y)), path, row_group_size=100)
    source = open_source(path, target="y", stream_bytes=30_000)
    return outcome(SoftmaxClassifier(**SETTINGS | {"max_epochs": 3}).fit_stream(source))


def alone_inside(folder: Path) -> dict[str, object]:
    """One process fits something of its own while it has a place among others."""
    if RANK == 1:
        return {}
    return outcome(SoftmaxClassifier(**SETTINGS | {"max_epochs": 2}).fit(*numbers(), communicator=Alone()))


def other_classes(folder: Path) -> None:
    """A label more on one of them."""
    X, y = numbers()
    y[0] += 10 * (RANK == 1)
    SoftmaxClassifier(**SETTINGS).fit(X, y)


def other_columns(folder: Path) -> None:
    """A column of another name on one of them."""
    X, y = numbers()
    SoftmaxClassifier(**SETTINGS).fit(table(X, names="abcdeg" if RANK == 1 else "abcdef"), y)


def other_rows(folder: Path) -> None:
    """One number differs."""
    X, y = numbers()
    X[3, 3] += RANK
    SoftmaxClassifier(**SETTINGS).fit(X, y)


def other_settings(folder: Path) -> None:
    """Another learning rate on one of them."""
    SoftmaxClassifier(**SETTINGS, learning_rate=0.01 * (RANK + 1)).fit(*numbers())


def bad_on_one(folder: Path) -> None:
    """A number that cannot be used, on one of them."""
    X, y = numbers()
    X[5, 2] = np.inf if RANK == 1 else 0
    SoftmaxClassifier(**SETTINGS).fit(X, y)


def small_batches(folder: Path) -> None:
    """One row for two processes."""
    SoftmaxClassifier(**SETTINGS | {"batch_size": 1}).fit(*numbers())


def beyond_the_head(folder: Path) -> None:
    """A label that the output layer has no place for, on one of them."""
    X, y = numbers()
    shape = DataShape(n_rows=len(y), n_dense=6, n_sparse=0, n_classes=5)
    plan = resolve(shape, SoftmaxClassifier(**SETTINGS, early_stopping=False).get_params(deep=False))
    y[17] = 5 if RANK == 1 else 0
    with joined() as communicator:
        examples = Examples(Encoded(X, 1.0, None), y, np.ones(len(y)))
        fit_network(examples, 5, plan, seed=0, communicator=communicator)


def keep(folder: Path) -> None:
    """One process fails in the middle of training that keeps checkpoints."""

    def on_epoch(line: dict[str, float]) -> None:
        if line["epoch"] == 4 and RANK == 1:
            raise SoftmaxError("enough")

    SoftmaxClassifier(**SETTINGS).fit(*numbers(), checkpoint_folder=folder / "kept", on_epoch=on_epoch)


def other_model(folder: Path) -> None:
    """Going on from the checkpoints of another network."""
    settings = SETTINGS | {"hidden_layer_sizes": (5,)}
    SoftmaxClassifier(**settings).fit(*numbers(), checkpoint_folder=folder / "kept", resume=True)


def go_on(folder: Path) -> dict[str, object]:
    """Going on; only the first process can see the folder."""
    where = folder / "kept" if RANK == 0 else folder / "elsewhere"
    clf = SoftmaxClassifier(**SETTINGS).fit(*numbers(), checkpoint_folder=where, resume=True)
    return outcome(clf) | {"resumed": clf.resumed_epochs_, "elsewhere": (folder / "elsewhere").exists()}


def interrupted(folder: Path) -> dict[str, object]:
    """Ctrl-C comes to one of them."""

    def on_epoch(line: dict[str, float]) -> None:
        if line["epoch"] == 3 and RANK == 1:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        clf = SoftmaxClassifier(**SETTINGS).fit(*numbers(), on_epoch=on_epoch)
    except KeyboardInterrupt:
        return {"stopped_by": "KeyboardInterrupt"}
    return outcome(clf)


def full_disk(folder: Path) -> int:
    """The command line, where the first process has no room for its files."""
    X, y = numbers()
    path = folder / f"rows{RANK}.csv"
    np.savetxt(path, np.c_[X, y], delimiter=",", header="a,b,c,d,e,f,y", comments="", fmt="%.5g")
    options = ["--target", "y", "-o", str(folder / "full.safetensors"), "--max-epochs", "3", "--seed", "0", "--force"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    sys.stderr = (folder / f"full{RANK}.txt").open("w")
    if RANK == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        return main(["fit", str(path), *options, "--hidden-layer-sizes", "64", "--jobs", "1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.stderr.close()
        sys.stderr = sys.__stderr__


def end_of_one() -> None:
    """One process is killed by the system."""
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)


def told(folder: Path, name: str) -> dict[str, object]:
    """Return what a scenario gives, or the error that it ends with."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = {"result": globals()[name](folder)}
    except Exception as error:
        result = {"error": type(error).__name__, "message": str(error), "group": dist.is_initialized()}
    return result | {"warnings": [str(warning.message) for warning in caught]}


if __name__ == "__main__":
    softmaxnet.checkpoint.EVERY_SECONDS = 0.0
    where = Path(sys.argv[1])
    results = {name: told(where, name) for name in sys.argv[2:]}
    (where / f"rank{RANK}.json").write_text(json.dumps(results))
