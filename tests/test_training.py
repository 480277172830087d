"""The training loop: PyTorch's own steps, the order of rows, early stopping, divergence, interruption."""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse

torch = pytest.importorskip("torch")

import softmaxnet.batches
from softmaxnet.batches import Rows, window_batches
from softmaxnet.data.epoch_plan import batch_bounds, epoch_order
from softmaxnet.errors import TrainingDivergedError
from softmaxnet.network import NetworkSpec
from softmaxnet.optimizer import Optimizer, learning_rate_factor
from softmaxnet.parameters import Parameters, ScaledSpec, scaled_spec
from softmaxnet.softmax import cross_entropy
from softmaxnet.training import Schedule, train
from softmaxnet.validation import Validator, network_logits

TORCH_ACTIVATIONS = {
    "identity": torch.nn.Identity(),
    "sigmoid": torch.nn.Sigmoid(),
    "relu": torch.nn.ReLU(),
    "tanh": torch.nn.Tanh(),
    "gelu": torch.nn.GELU(approximate="tanh"),
    "silu": torch.nn.SiLU(),
    "mish": torch.nn.Mish(),
}


def make_rows(n: int = 60, n_dense: int = 4, n_classes: int = 3, seed: int = 0, dtype=torch.float64) -> Rows:
    """Return rows of overlapping classes, with weights of mean 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    dense = rng.normal(size=(n, n_dense)) + np.eye(n_classes, n_dense)[labels]
    weight = rng.uniform(0.5, 1.5, n)
    return Rows(
        torch.from_numpy(dense).to(dtype),
        torch.from_numpy(labels),
        torch.from_numpy(weight / weight.mean()).to(dtype),
    )


def make_parameters(spec: NetworkSpec, dtype=torch.float64, parametrization: str = "standard", seed: int = 0):
    """Return initialised parameters, the last layer too."""
    parameters = Parameters(scaled_spec(spec, parametrization), dtype=dtype)
    parameters.initialise(np.random.default_rng(seed), zero_head=False)
    return parameters


def torch_twin(parameters: Parameters) -> torch.nn.Sequential:
    """Return the same network as a stack of nn.Linear."""
    spec = parameters.spec.network
    sizes = spec.layer_sizes
    modules = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layer = torch.nn.Linear(inputs, outputs, dtype=parameters.flat.dtype)
        with torch.no_grad():
            layer.weight.copy_(parameters.views[f"layers.{i}.weight"][0].T)
            layer.bias.copy_(parameters.views[f"layers.{i}.bias"][0])
        modules += [layer, TORCH_ACTIVATIONS[spec.activation]]
    return torch.nn.Sequential(*modules[:-1])


def torch_training(model, rows: Rows, schedule: Schedule, seed: int, scheduled_rate) -> None:
    """Train as a user of PyTorch would: autograd, cross_entropy, AdamW, in the order of rows of the epoch plan.

    Batches differ by a row; each is divided by the mean size, so that every row counts alike.
    """
    mean_size = len(rows) / len(batch_bounds(len(rows), schedule.batch_size))
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": schedule.weight_decay}, {"params": biases, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
        betas=schedule.betas,
        eps=1e-8,
    )
    step = 0
    for epoch in range(schedule.max_epochs):
        order = torch.from_numpy(epoch_order(seed, epoch, len(rows)))
        for start, stop in batch_bounds(len(rows), schedule.batch_size):
            part = order[start:stop]
            for group in optimizer.param_groups:
                group["lr"] = scheduled_rate(step)
            loss = torch.nn.functional.cross_entropy(
                model(rows.dense[part]),
                rows.target[part],
                reduction="none",
                label_smoothing=schedule.label_smoothing,
            )
            optimizer.zero_grad()
            ((loss * rows.weight[part]).sum() / mean_size).backward()
            optimizer.step()
            step += 1


@pytest.mark.parametrize("activation", sorted(TORCH_ACTIVATIONS))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("epochs", [1, 20])
def test_steps_equal_those_of_pytorch(activation, dtype, tolerance, epochs):
    """One step, and twenty, of weighted and smoothed cross-entropy end where nn.Linear, autograd and AdamW end."""
    rows = make_rows(dtype=dtype)
    parameters = make_parameters(NetworkSpec(4, 0, 3, (8, 5), activation), dtype)
    twin = torch_twin(parameters)
    schedule = Schedule(0.01, 60, epochs, shape="constant", weight_decay=0.1, label_smoothing=0.1)
    train(parameters, rows, schedule, seed=0)
    torch_training(twin, rows, schedule, 0, lambda step: 0.01)
    for i, layer in enumerate(m for m in twin if isinstance(m, torch.nn.Linear)):
        got = parameters.views[f"layers.{i}.weight"][0].T, parameters.views[f"layers.{i}.bias"][0]
        torch.testing.assert_close(got[0], layer.weight.detach(), rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(got[1], layer.bias.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", ["cosine", "flat", "constant"])
def test_minibatches_and_schedule_equal_those_of_pytorch(shape):
    """Twelve epochs of unequal batches under a schedule with a warm-up are PyTorch's, step by step."""
    rows = make_rows(50)
    parameters = make_parameters(NetworkSpec(4, 0, 3, (6,), "tanh"))
    twin = torch_twin(parameters)
    schedule = Schedule(0.02, 16, 12, shape=shape, warmup_fraction=0.25, betas=(0.8, 0.9), weight_decay=0.05)
    result = train(parameters, rows, schedule, seed=9)
    total = 12 * len(batch_bounds(50, 16))
    torch_training(twin, rows, schedule, 9, lambda s: 0.02 * learning_rate_factor(s, total, round(total / 4), shape))
    torch.testing.assert_close(parameters.views["layers.0.weight"][0].T, twin[0].weight.detach(), rtol=0, atol=1e-12)
    assert result.history[-1]["epoch"] == 12
    assert [line["loss"] for line in result.history] == sorted((x["loss"] for x in result.history), reverse=True)


def test_neural_tangent_scales_change_the_step_and_not_the_function():
    """Both parametrisations start from the same network; the scales only change what a step does to it."""
    spec = NetworkSpec(4, 0, 3, (8, 5), "silu", 2)
    rows = make_rows()
    standard = make_parameters(spec)
    scaled = make_parameters(spec, parametrization="ntk")
    before = [network_logits(spec, p.effective(), rows) for p in (standard, scaled)]
    np.testing.assert_allclose(before[0], before[1], rtol=1e-12, atol=1e-12)
    schedule = Schedule(0.01, 16, 1)
    train(standard, rows, schedule, seed=0)
    train(scaled, rows, schedule, seed=0)
    after = [network_logits(spec, p.effective(), rows) for p in (standard, scaled)]
    assert abs(after[0] - after[1]).max() > 1e-4


def test_same_seed_same_bits():
    """On one thread two runs of one seed, dropout and averages included, agree to the last bit; another differs."""
    schedule = Schedule(0.02, 16, 3, weight_decay=0.05, dropout=0.2, average_power=5.0)
    flats = []
    for seed in (3, 3, 4):
        parameters = make_parameters(NetworkSpec(4, 0, 3, (16,), "silu", 3), torch.float32)
        flats.append(train(parameters, make_rows(dtype=torch.float32), schedule, seed=seed).flat)
    assert torch.equal(flats[0], flats[1])
    assert not torch.equal(flats[0], flats[2])


def test_every_row_goes_once_into_an_epoch():
    """The batches of an epoch hold every row once, with its own target and weight, divided by the rows of a batch."""
    rows = make_rows(47)
    rows.dense[:, 0] = torch.arange(47)
    order = epoch_order(1, 0, 47)
    bounds = batch_bounds(47, 10)
    buffer = torch.empty(10, 4, dtype=torch.float64)
    seen = []
    for window in (bounds[:2], bounds[2:]):
        for (start, stop), (dense, sparse, target, weight) in zip(
            window, window_batches(rows, order, window, buffer), strict=True
        ):
            at = dense[:, 0].long()
            assert at.tolist() == order[start:stop].tolist()
            assert sparse is None
            assert torch.equal(target, rows.target[at])
            mean_size = sum(b - a for a, b in window) / len(window)
            torch.testing.assert_close(weight, rows.weight[at] / mean_size, rtol=1e-14, atol=0)
            seen += at.tolist()
    assert sorted(seen) == list(range(47))


def test_window_size_changes_nothing(monkeypatch):
    """Rows gathered batch by batch or all at once give the same parameters where batches are of equal size."""
    flats = []
    for size in (1, 1 << 26):
        monkeypatch.setattr(softmaxnet.batches, "WINDOW_BYTES", size)
        parameters = make_parameters(NetworkSpec(4, 0, 3, (8,), "relu"), torch.float32)
        train(parameters, make_rows(64, dtype=torch.float32), Schedule(0.02, 16, 3, dropout=0.1), seed=0)
        flats.append(parameters.flat.clone())
    assert torch.equal(flats[0], flats[1])


def test_pixels_are_scaled_in_the_batch():
    """Bytes with a scale train the network that their values in floating point train, to the last bit."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6)).astype(np.uint8)
    labels = torch.from_numpy(np.arange(40) % 3)
    weight = torch.ones(40, dtype=torch.float32)
    as_bytes = Rows(torch.from_numpy(pixels), labels, weight, scale=1 / 255)
    as_floats = Rows(torch.from_numpy(pixels).float().mul_(1 / 255), labels, weight)
    flats = []
    for rows in (as_bytes, as_floats):
        parameters = make_parameters(NetworkSpec(6, 0, 3, (8,), "relu"), torch.float32)
        train(parameters, rows, Schedule(0.02, 16, 3), seed=0)
        flats.append(parameters.flat.clone())
    assert torch.equal(flats[0], flats[1])


def test_sparse_rows_train_as_their_dense_twin():
    """A table under a sparse block has the loss and the gradient of a dense first layer, and it trains."""
    rng = np.random.default_rng(0)
    block = scipy.sparse.random(40, 12, 0.3, "csr", rng=rng)
    labels, weight = torch.from_numpy(np.arange(40) % 3), torch.ones(40, dtype=torch.float64)
    spec = NetworkSpec(0, 12, 3, (5,), "tanh")
    sparse = make_parameters(spec)
    dense = make_parameters(NetworkSpec(12, 0, 3, (5,), "tanh"))
    for name, view in dense.views.items():
        view.copy_(sparse.table.view(1, 12, 5) if name == "layers.0.weight" else sparse.views[name])
    rows = Rows(torch.zeros(40, 0, dtype=torch.float64), labels, weight, sparse=scipy.sparse.csr_array(block))
    twin_rows = Rows(torch.from_numpy(block.toarray()), labels, weight)
    np.testing.assert_allclose(
        network_logits(spec, sparse.effective(), rows),
        network_logits(NetworkSpec(12, 0, 3, (5,), "tanh"), dense.effective(), twin_rows),
        rtol=1e-12,
    )
    first = train(sparse, rows, Schedule(0.01, 40, 3), seed=0).history
    second = train(dense, twin_rows, Schedule(0.01, 40, 3), seed=0).history
    assert first[0]["loss"] == pytest.approx(second[0]["loss"], rel=1e-12)
    assert first[2]["loss"] < first[0]["loss"]


def overfitting_run(n_iter_no_change: int = 8, **more):
    """Return a run that overfits: few training rows, noisy labels, a wide network."""
    rows, held_out = make_rows(30, seed=1), make_rows(90, seed=2)
    spec = NetworkSpec(4, 0, 3, (32,), "silu")
    parameters = make_parameters(spec)
    validator = Validator(spec, held_out)
    schedule = Schedule(0.03, 10, 200, shape="constant", n_iter_no_change=n_iter_no_change)
    return train(parameters, rows, schedule, seed=0, validator=validator, **more), validator, parameters


def test_early_stopping_restores_the_best_weights():
    """The log loss of the returned parameters, scored anew, is the least of the history; the run stopped in time."""
    result, validator, parameters = overfitting_run()
    losses = [line["validation_log_loss"] for line in result.history]
    best = int(np.argmin(losses))
    assert result.stopped_by == "early_stopping"
    assert result.best_epoch == best + 1
    assert len(losses) == best + 1 + 8
    assert validator.score(parameters, result.flat, result.table)["validation_log_loss"] == min(losses)
    assert validator.score(parameters, parameters.flat, None)["validation_log_loss"] > min(losses)


def test_validation_log_loss_is_that_after_the_best_temperature():
    """A line's loss is the weighted cross-entropy at the line's own temperature, which is the best but for a prior.

    The prior of the temperature weighs half a row of ninety: it moves the loss by less than a thousandth.
    """
    result, validator, parameters = overfitting_run()
    logits = validator.logits(parameters, result.flat, result.table)
    labels, weight = validator.rows.target.numpy(), validator.rows.weight.numpy()
    line = validator.score(parameters, result.flat, result.table)

    def loss(beta: float) -> float:
        return cross_entropy(beta * logits, labels, sample_weight=weight)

    beta = line["inverse_temperature"]
    assert line["validation_log_loss"] == pytest.approx(loss(beta), rel=1e-9)
    assert loss(beta) <= min(loss(b) for b in np.linspace(0.1, 3, 100)) + 1e-3
    assert loss(beta) <= loss(1.0)
    assert line["validation_accuracy"] == pytest.approx(np.average(logits.argmax(1) == labels, weights=weight))


def test_without_validation_the_last_epoch_is_kept():
    """Without a validator the averaged parameters after the last epoch come back, a copy of them."""
    parameters = make_parameters(NetworkSpec(4, 0, 3, (8,), "relu"))
    optimizer = Optimizer(parameters, average_power=3.0)
    schedule = Schedule(0.01, 16, 4, average_power=3.0)
    result = train(parameters, make_rows(), schedule, seed=0, optimizer=optimizer)
    assert (result.best_epoch, result.stopped_by, len(result.history)) == (4, "max_epochs", 4)
    assert torch.equal(result.flat, optimizer.average)
    assert result.flat.data_ptr() != optimizer.average.data_ptr()


def test_max_seconds_stops_after_the_epoch():
    """Time that is up ends the run at the end of an epoch, and it says so."""
    parameters = make_parameters(NetworkSpec(4, 0, 3, (8,), "relu"))
    result = train(parameters, make_rows(), Schedule(0.01, 16, 50, max_seconds=1e-9), seed=0)
    assert (len(result.history), result.stopped_by) == (1, "max_seconds")


@pytest.mark.parametrize("interrupted_at", [1, 5])
def test_interrupt_keeps_the_best_so_far(interrupted_at):
    """Ctrl-C warns, and the parameters that come back are the best of the epochs that there were."""

    def on_epoch(line: dict[str, float]) -> None:
        if line["epoch"] == interrupted_at:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted in epoch"):
        result, validator, parameters = overfitting_run(on_epoch=on_epoch)
    assert result.stopped_by == "interrupt"
    assert len(result.history) == interrupted_at
    score = validator.score(parameters, result.flat, result.table)["validation_log_loss"]
    assert score == min(line["validation_log_loss"] for line in result.history)


def test_going_on_is_the_same_as_one_long_run():
    """Three epochs and then five more, with the optimizer handed on, are eight, to the last bit."""
    schedule = Schedule(0.02, 16, 8, shape="constant", dropout=0.2, average_power=2.0, weight_decay=0.1)
    whole = make_parameters(NetworkSpec(4, 3, 3, (8,), "silu"), torch.float32)
    rows = make_rows(dtype=torch.float32)
    rows.sparse = scipy.sparse.random(60, 3, 0.5, "csr", dtype=np.float32, rng=np.random.default_rng(0))
    expected = train(whole, rows, schedule, seed=5)
    parts = make_parameters(NetworkSpec(4, 3, 3, (8,), "silu"), torch.float32)
    optimizer = Optimizer(parts, weight_decay=0.1, average_power=2.0)
    train(parts, rows, replace(schedule, max_epochs=3), seed=5, optimizer=optimizer)
    got = train(parts, rows, replace(schedule, max_epochs=5), seed=5, optimizer=optimizer, first_epoch=3)
    assert torch.equal(got.flat, expected.flat)
    assert torch.equal(got.table, expected.table)
    assert [line["epoch"] for line in got.history] == [4, 5, 6, 7, 8]


def run_at(rate: float, epochs: int = 1, **more):
    """Return a float32 run of two-layer steps at a learning rate, its warnings and its parameters."""
    parameters = make_parameters(NetworkSpec(4, 0, 3, (8, 8), "relu"), torch.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            schedule = Schedule(rate, 20, epochs, shape="constant", **more)
            result = train(parameters, make_rows(dtype=torch.float32), schedule, seed=0)
        except TrainingDivergedError as error:
            result = error
    return result, [str(w.message) for w in caught], parameters


def test_a_step_that_is_not_finite_halves_the_rate():
    """At the least power of ten that overflows, the epoch is taken anew at smaller rates, with a warning for each."""
    rate = next(10.0**k for k in range(3, 40) if run_at(10.0**k)[1])
    result, messages, parameters = run_at(rate)
    assert not isinstance(result, TrainingDivergedError)
    halvings = len(messages)
    assert 1 <= halvings <= 3
    assert all("the loss was not finite in epoch 1" in message for message in messages)
    assert result.history[0]["learning_rate"] == pytest.approx(rate / 2**halvings)
    assert math.isfinite(result.history[0]["loss"])
    assert torch.isfinite(result.flat).all()
    plain, nothing, other = run_at(rate / 2**halvings)
    assert not nothing
    assert torch.equal(plain.flat, result.flat)
    assert torch.equal(parameters.flat, other.flat)


def test_no_rate_left_is_an_error_and_the_weights_stay_finite():
    """Where three halvings do not help the error says the rates and what to do, its exit code is 5, no weight NaN."""
    result, messages, parameters = run_at(1e30)
    assert isinstance(result, TrainingDivergedError)
    assert result.exit_code == 5
    assert len(messages) == 3
    assert "from 1e+30 down to 1.25e+29" in str(result)
    assert "lower learning_rate" in str(result)
    assert torch.isfinite(parameters.flat).all()


def test_the_last_update_is_looked_at_too():
    """An update that overflows after the last loss was seen is caught: no run returns weights that are not finite."""
    for rate in (1e36, 1e38, 1e39, 1e200):
        parameters = make_parameters(NetworkSpec(4, 0, 3, (8,), "relu"), torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = train(parameters, make_rows(dtype=torch.float32), Schedule(rate, 60, 1), seed=0)
            except TrainingDivergedError:
                pass
            else:
                assert torch.isfinite(result.flat).all()
        assert torch.isfinite(parameters.flat).all()


@pytest.mark.parametrize("poison", [math.nan, math.inf, 3e38])
def test_a_poisoned_cell_stops_the_run_within_its_step(poison):
    """A cell that makes loss or gradient infinite leads to the error, with the weights as they were before."""
    rows = make_rows(dtype=torch.float32)
    rows.dense[7] = poison
    parameters = make_parameters(NetworkSpec(4, 0, 3, (8,), "identity"), torch.float32)
    before = parameters.flat.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TrainingDivergedError):
            train(parameters, rows, Schedule(0.01, 20, 2), seed=0)
    assert torch.equal(parameters.flat, before)


def test_gradients_whose_squares_overflow_are_not_divergence():
    """Finite gradients of 1e25 in float32, whose squares are infinite, are no reason to stop."""
    rows = make_rows(dtype=torch.float32)
    rows.weight *= 1e25
    parameters = make_parameters(NetworkSpec(4, 0, 3, (8,), "tanh"), torch.float32)
    result = train(parameters, rows, Schedule(0.01, 20, 2), seed=0)
    assert torch.isfinite(result.flat).all()


def test_members_do_not_see_the_rows_that_they_hold_out():
    """Other labels in a member's own fold change that member's weights by no bit, and every other member's."""
    spec = NetworkSpec(4, 0, 3, (6,), "tanh", 3)
    flats = []
    for changed in (False, True):
        rows = make_rows()
        rows.fold = torch.arange(60) % 3
        rows.member_fold = torch.arange(3)
        if changed:
            rows.target = torch.where(rows.fold == 1, (rows.target + 1) % 3, rows.target)
        parameters = make_parameters(spec)
        train(parameters, rows, Schedule(0.02, 20, 3, dropout=0.1), seed=0)
        flats.append(parameters)
    for name in ("layers.0.weight", "layers.1.weight", "layers.1.bias"):
        same = [torch.equal(flats[0].views[name][m], flats[1].views[name][m]) for m in range(3)]
        assert same == [False, True, False], name


def test_folds_are_validated_by_the_members_that_hold_them_out():
    """The logits of a row are the combined logits of exactly the members that did not train on it."""
    spec = NetworkSpec(4, 0, 3, (6,), "tanh", 4)
    rows = make_rows()
    rows.fold = torch.arange(60) % 3 - 1  # fold -1 is trained on by all
    rows.member_fold = torch.tensor([0, 1, 0, 1])
    parameters = make_parameters(spec)
    validator = Validator(spec, rows)
    logits = validator.logits(parameters, parameters.flat, None)
    effective = parameters.effective()
    chosen = {k: {n: v[[k, k + 2]] for n, v in effective.items()} for k in (0, 1)}
    for k in (0, 1):
        at = (rows.fold == k).numpy()
        expected = network_logits(replace(spec, n_members=2), chosen[k], rows)
        np.testing.assert_allclose(logits[at], expected[at], rtol=1e-12)
    line = validator.score(parameters, parameters.flat, None)
    known = (rows.fold >= 0).numpy()
    beta = line["inverse_temperature"]
    expected = cross_entropy(
        beta * logits[known], rows.target.numpy()[known], sample_weight=rows.weight.numpy()[known]
    )
    assert line["validation_log_loss"] == pytest.approx(expected, rel=1e-9)


def test_logits_in_chunks_are_the_logits():
    """The rows of a block, sparse or dense, give the same logits in chunks of 7 as at once, to 1e-12."""
    spec = NetworkSpec(4, 9, 3, (6,), "gelu", 2)
    rows = make_rows()
    rows.sparse = scipy.sparse.random(60, 9, 0.4, "csr", rng=np.random.default_rng(3))
    parameters = make_parameters(spec)
    whole = network_logits(spec, parameters.effective(), rows)
    parts = network_logits(spec, parameters.effective(), rows, chunk_rows=7)
    np.testing.assert_allclose(whole, parts, rtol=1e-12, atol=1e-13)


def test_mixed_precision_follows_float32():
    """Products in bfloat16 leave the parameters in float32, and the first epoch's loss within a hundredth of it."""
    losses = []
    for compute in (None, torch.bfloat16):
        parameters = make_parameters(NetworkSpec(4, 0, 3, (16,), "relu"), torch.float32)
        result = train(
            parameters, make_rows(dtype=torch.float32), Schedule(0.01, 20, 5), seed=0, compute_dtype=compute
        )
        assert result.flat.dtype == torch.float32
        losses.append(result.history[-1]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_scales_of_parametrizations():
    """Standard has no scales; the neural tangent parametrisation has 1/sqrt(inputs) for weights and 0.1 for biases."""
    spec = NetworkSpec(4, 0, 3, (9,), "relu")
    assert scaled_spec(spec, "standard") == ScaledSpec(spec)
    scaled = scaled_spec(spec, "ntk")
    assert scaled.scale("layers.0.weight") == 0.5
    assert scaled.scale("layers.1.weight") == pytest.approx(1 / 3)
    assert scaled.scale("layers.0.bias") == 0.1
    assert scaled.scale("sparse.weight") == 1.0
