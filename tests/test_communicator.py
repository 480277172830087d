"""The five operations: alone, on a simulated ring of ranks, and (in test_distributed.py) between real processes."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from simulated_ranks import Simulated, on_ranks
from softmaxnet.batches import Columns, Rows
from softmaxnet.communicator import Alone, bytes_sent
from softmaxnet.data_parallel import step_bytes
from softmaxnet.errors import DataError, UsageError
from softmaxnet.head_plan import HeadPlan
from softmaxnet.head_shards import shard_bytes
from softmaxnet.network import NetworkSpec
from softmaxnet.parameters import Parameters, scaled_spec
from softmaxnet.processes import Place, joined, place_of
from softmaxnet.training import Schedule, train
from softmaxnet.validation import Validator

SIZES = [2, 3, 5, 8]


# --- the operations ---------------------------------------------------------------------------------------------


def test_alone_changes_nothing():
    """One process has everything already, and no tensor is copied."""
    alone, tensor = Alone(), torch.arange(6.0).view(3, 2)
    alone.all_reduce(tensor)
    alone.broadcast(tensor)
    assert alone.all_gather(tensor) is tensor
    assert alone.reduce_scatter(tensor) is tensor
    alone.barrier()
    assert (tensor == torch.arange(6.0).view(3, 2)).all()
    assert alone.part(7) == slice(0, 7)
    assert not alone.sent


@pytest.mark.parametrize("size", SIZES)
def test_parts_are_disjoint_and_cover_all_rows(size):
    """Every row belongs to one rank, in order, and parts differ by a row at most."""
    for n_rows in (size, size + 1, 3 * size - 1, 100):
        parts = on_ranks(size, lambda rank, n_rows=n_rows: rank.part(n_rows))
        assert np.concatenate([np.arange(n_rows)[part] for part in parts]).tolist() == list(range(n_rows))
        lengths = [part.stop - part.start for part in parts]
        assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("size", SIZES)
def test_operations_on_a_ring(size):
    """Sums, maxima, rows and broadcasts are as by hand, the same bits on every rank."""
    values = np.random.default_rng(0).normal(size=(size, 11, 3))

    def work(rank: Simulated):
        mine = torch.from_numpy(values[rank.rank].copy())
        total, largest, rows = mine.clone(), mine.clone(), mine[: rank.rank + 1]
        rank.all_reduce(total)
        rank.all_reduce(largest, largest=True)
        gathered = rank.all_gather(rows)
        part = rank.reduce_scatter(mine.clone())
        root = mine.clone()
        rank.broadcast(root, size - 1)
        return total.numpy(), largest.numpy(), gathered.numpy(), part.numpy(), root.numpy()

    results = on_ranks(size, work)
    for total, largest, gathered, _, root in results:
        np.testing.assert_allclose(total, values.sum(0), rtol=0, atol=1e-14)
        assert total.tobytes() == results[0][0].tobytes()
        assert (largest == values.max(0)).all()
        assert (gathered == np.concatenate([values[r, : r + 1] for r in range(size)])).all()
        assert (root == values[-1]).all()
    np.testing.assert_allclose(np.concatenate([result[3] for result in results]), values.sum(0), atol=1e-14)


@pytest.mark.parametrize("size", SIZES)
def test_bytes_on_a_ring_are_those_of_the_formula(size):
    """What goes through the queues adds up to bytes_sent, averaged over the ranks."""

    def work(rank: Simulated):
        tensor = torch.ones(size * 6, 2)
        rank.all_reduce(tensor)
        rank.broadcast(tensor)
        rank.all_gather(tensor, [len(tensor)] * size)
        rank.reduce_scatter(tensor)
        return rank.sent

    counted = on_ranks(size, work)
    for operation in ("all_reduce", "broadcast", "all_gather", "reduce_scatter"):
        mean = sum(sent[operation] for sent in counted) / size
        assert mean == pytest.approx(bytes_sent(operation, size * 6 * 2 * 4, size)), operation


# --- agreeing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "other", "text"),
    [
        ({"rows": 3}, {"rows": 4}, "rows is 3 on process 0 and 4 on process 1"),
        ({"the list": ["a", "b"]}, {"the list": ["a", "c"]}, "the list of process 1 lacks b and has c besides"),
        ({"the list": ["a", "b"]}, {"the list": ["b", "a"]}, "the list of process 1 is in another order"),
        ({"rows": "0" * 64}, {"rows": "1" * 64}, "rows of process 1 differ from those of process 0"),
    ],
)
def test_a_rank_that_sees_something_else_is_named(first, other, text):
    """Every rank raises the same error, with what differs."""

    def work(rank: Simulated):
        with pytest.raises(DataError) as caught:
            rank.agree(other if rank.rank == 1 else first, "data")
        return str(caught.value)

    for message in on_ranks(3, work):
        assert text in message


def test_agreeing_ranks_go_on():
    """Equal values raise nothing, whatever their order."""
    on_ranks(3, lambda rank: rank.agree({"a": 1, "b": (1.5, None)}, "settings"))


# --- where ranks come from ------------------------------------------------------------------------------------------


def test_nothing_to_join():
    """Without a launcher there is one process, and a launcher's world of one is one process as well."""
    assert place_of({}) is None
    assert place_of({"RANK": "0", "WORLD_SIZE": "1"}) is None
    with joined() as communicator:
        assert communicator.size == 1


def test_a_slurm_step_is_joined_and_a_batch_script_is_not():
    """A step of srun has a place of its own; the script around it, which has SLURM_NTASKS, has none."""
    step = {
        "SLURM_PROCID": "3",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NODELIST": "gpu[007-009,12],cpu1",
        "SLURM_JOB_ID": "123456",
        "SLURM_NTASKS": "4",
    }
    assert place_of(step) == Place(3, 4, 1, "tcp://gpu007:23456")
    assert place_of(step | {"SLURM_STEP_NODELIST": "node-a.example"}).meeting == "tcp://node-a.example:23456"
    del step["SLURM_STEP_NUM_TASKS"]
    assert place_of(step) is None


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK is 0 and WORLD_SIZE is 0"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK must be a whole number. Got 'one'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here"}, "MASTER_PORT is not set"),
    ],
)
def test_a_place_that_cannot_be_is_refused(environment, text):
    """Numbers that do not fit are named, and nobody is waited for."""
    with pytest.raises(UsageError, match=text):
        place_of(environment)


# --- training on simulated ranks ------------------------------------------------------------------------------------

SPEC = NetworkSpec(n_dense=6, n_sparse=40, n_classes=5, hidden_layer_sizes=(16, 8), activation="tanh", n_members=2)
SCHEDULE = Schedule(
    learning_rate=0.02,
    batch_size=64,
    max_epochs=3,
    dropout=0.3,
    input_dropout=0.2,
    token_dropout=0.2,
    weight_decay=0.01,
)


def some_rows(n: int, seed: int) -> Rows:
    """Rows with both blocks and uneven weights."""
    import scipy.sparse

    rng = np.random.default_rng(seed)
    sparse = scipy.sparse.random_array((n, 40), density=0.1, format="csr", rng=rng)
    sparse.indices = sparse.indices.astype(np.int32)
    weight = rng.uniform(0.5, 2, n)
    return Rows(
        dense=torch.from_numpy(rng.normal(size=(n, 6))),
        target=torch.from_numpy(rng.integers(0, 5, n)),
        weight=torch.from_numpy(weight / weight.mean()),
        sparse=sparse,
        columns=Columns(torch.tensor([0, 1, 1, 2, 2, 2]), 3),
    )


def trained(communicator) -> tuple[list[dict[str, float]], np.ndarray, np.ndarray, dict[str, float]]:
    """Train in float64 with everything that is drawn at random."""
    parameters = Parameters(scaled_spec(SPEC, "ntk"), dtype=torch.float64)
    # Every rank begins elsewhere: the first one's parameters are to be everybody's.
    parameters.initialise(np.random.default_rng(communicator.rank), zero_head=False)
    validator = Validator(SPEC, some_rows(31, 1), communicator=communicator)
    result = train(parameters, some_rows(1003, 0), SCHEDULE, seed=7, validator=validator, communicator=communicator)
    return result.history, result.flat.numpy().copy(), result.table.numpy().copy(), dict(communicator.sent)


@pytest.fixture(scope="module")
def one() -> tuple[list[dict[str, float]], np.ndarray, np.ndarray, dict[str, float]]:
    """The run of one process."""
    return trained(Alone())


@pytest.mark.parametrize("size", [2, 3, 7])
def test_many_ranks_train_as_one(one, size):
    """All that is dropped, weights, a sparse table and uneven parts: the same run to rounding on every rank."""
    runs = on_ranks(size, trained)
    for history, flat, table, _ in runs:
        for line, expected in zip(history, one[0], strict=True):
            assert line["loss"] == pytest.approx(expected["loss"], rel=1e-10)
            assert line["validation_log_loss"] == pytest.approx(expected["validation_log_loss"], rel=1e-8)
        np.testing.assert_allclose(flat, one[1], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(table, one[2], rtol=1e-8, atol=1e-10)
        assert flat.tobytes() == runs[0][1].tobytes()


@pytest.mark.parametrize("size", [2, 4, 16])
def test_a_step_sends_what_the_formula_says(size):
    """Without a table a step is one all_reduce of the parameters and three numbers."""
    spec = NetworkSpec(n_dense=6, n_sparse=0, n_classes=4, hidden_layer_sizes=(9,), activation="relu")

    def sent_in(communicator: Simulated, n_epochs: int) -> float:
        rows = some_rows(256, 0)
        rows.sparse, rows.target = None, rows.target % 4
        parameters = Parameters(scaled_spec(spec, "ntk"), dtype=torch.float64)
        train(parameters, rows, Schedule(0.01, 64, n_epochs), seed=0, communicator=communicator)
        return communicator.sent["all_reduce"]

    n_parameters = 6 * 9 + 9 + 9 * 4 + 4
    longer, shorter = (np.mean(on_ranks(size, lambda rank, n=n: sent_in(rank, n))) for n in (3, 1))
    assert (longer - shorter) / (2 * 4) == pytest.approx(step_bytes(n_parameters, size, itemsize=8))


def test_more_ranks_than_rows_are_refused():
    """A batch that some rank would have no row of is a usage error on every rank."""

    def work(communicator: Simulated):
        with pytest.raises(UsageError, match="5 processes cannot share batches of 4 rows"):
            train(
                Parameters(scaled_spec(SPEC, "ntk"), dtype=torch.float64),
                some_rows(40, 0),
                Schedule(0.01, 4, 1),
                seed=0,
                communicator=communicator,
            )

    on_ranks(5, work)


def test_an_interrupt_of_one_rank_stops_all_after_the_same_step():
    """Every rank keeps what it has, and all have the same."""

    def work(communicator: Simulated):
        parameters = Parameters(scaled_spec(SPEC, "ntk"), dtype=torch.float64)
        parameters.initialise(np.random.default_rng(0), zero_head=False)

        def on_epoch(line: dict[str, float]) -> None:
            communicator.interrupts = int(line["epoch"] == 2 and communicator.rank == 1)

        result = train(parameters, some_rows(200, 0), SCHEDULE, seed=0, on_epoch=on_epoch, communicator=communicator)
        return result.stopped_by, len(result.history), result.flat.numpy().tobytes()

    with pytest.warns(UserWarning, match="interrupted in epoch 3"):
        results = on_ranks(3, work)
    assert len(set(results)) == 1
    assert results[0][:2] == ("interrupt", 2)


def test_all_ranks_stop_when_one_is_out_of_time():
    """The time is up on the ranks' clocks together: no rank takes a step that the others do not take."""
    from dataclasses import replace

    def work(communicator: Simulated):
        parameters = Parameters(scaled_spec(SPEC, "ntk"), dtype=torch.float64)
        schedule = replace(SCHEDULE, max_seconds=1e-9, max_epochs=50)
        result = train(parameters, some_rows(200, 0), schedule, seed=0, communicator=communicator)
        return result.stopped_by, len(result.history), result.history[0]["loss"]

    results = on_ranks(3, work)
    assert len(set(results)) == 1
    assert results[0][:2] == ("max_seconds", 1)


# --- classes spread over ranks --------------------------------------------------------------------------------------

MANY = NetworkSpec(n_dense=6, n_sparse=0, n_classes=300, hidden_layer_sizes=(8,), activation="tanh", n_members=2)


def trained_by_class(communicator, output: str, kind: str, average: float | None = None):
    """Train an output layer by class, of which most classes have no row in a batch."""
    from dataclasses import replace

    spec = replace(MANY, output=output)
    parameters = Parameters(scaled_spec(spec, "ntk"), dtype=torch.float64, head=HeadPlan(kind, 64, 32, 0))
    parameters.initialise(np.random.default_rng(communicator.rank), zero_head=False)
    rng = np.random.default_rng(3)
    rows = some_rows(301, 0)
    rows.sparse, rows.target = None, torch.from_numpy(rng.integers(0, 300, 301))
    schedule = replace(SCHEDULE, batch_size=40, token_dropout=0.0, label_smoothing=0.1, average_power=average)
    result = train(parameters, rows, schedule, seed=7, communicator=communicator)
    return [line["loss"] for line in result.history], result.flat.numpy().copy(), dict(communicator.sent)


@pytest.mark.parametrize(
    ("size", "output", "kind", "average"),
    [
        (2, "softmax", "classes", None),
        (5, "softmax", "classes", 3.0),
        (3, "sigmoid", "classes", None),
        (2, "softmax", "rows", None),
        (7, "softmax", "rows", 3.0),
    ],
)
def test_classes_spread_over_ranks_train_as_one(size, output, kind, average):
    """Label smoothing, members, weights and uneven shares of classes and rows: the same weights to rounding."""
    losses, flat, _ = trained_by_class(Alone(), output, kind, average)
    for found in on_ranks(size, lambda rank: trained_by_class(rank, output, kind, average)):
        np.testing.assert_allclose(found[0], losses, rtol=1e-10)
        np.testing.assert_allclose(found[1], flat, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_spread_classes_send_what_the_formula_says(size):
    """Rows, sums and gradients at the rows, and the gradient of the body: nothing that grows with the classes."""
    spec = NetworkSpec(n_dense=6, n_sparse=0, n_classes=256, hidden_layer_sizes=(8,), activation="relu")

    def sent_in(communicator: Simulated, n_epochs: int) -> tuple[float, float]:
        rows = some_rows(256, 0)
        rows.sparse, rows.target = None, torch.arange(256)
        parameters = Parameters(scaled_spec(spec, "ntk"), dtype=torch.float64, head=HeadPlan("classes", 64, 100, 0))
        train(parameters, rows, Schedule(0.01, 64, n_epochs), seed=0, communicator=communicator)
        return communicator.sent["all_reduce"] + communicator.sent["all_gather"]

    longer, shorter = (np.mean(on_ranks(size, lambda rank, n=n: sent_in(rank, n))) for n in (3, 1))
    expected = step_bytes(6 * 8 + 8, size, itemsize=8) + shard_bytes(64, 8, size, itemsize=8)
    assert (longer - shorter) / (2 * 4) == pytest.approx(expected)


def test_more_ranks_than_classes_are_refused():
    """Each rank needs a class at least."""

    def work(communicator: Simulated):
        parameters = Parameters(scaled_spec(SPEC, "ntk"), dtype=torch.float64, head=HeadPlan("classes", 64, 32, 0))
        with pytest.raises(UsageError, match="7 processes cannot share the 5 classes"):
            train(parameters, some_rows(70, 0), Schedule(0.01, 35, 1), seed=0, communicator=communicator)

    on_ranks(7, work)
