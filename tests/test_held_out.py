"""Streamed scores of held-out rows against those of whole logits."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from softmaxnet.calibration import fit_calibration, fit_temperature, held_out_log_loss_after_temperature
from softmaxnet.errors import TrainingDivergedError
from softmaxnet.held_out import Block, HeldOutScores, scored_rows
from softmaxnet.metrics import log_loss
from softmaxnet.network import NetworkSpec, forward
from softmaxnet.softmax import log_softmax


def problem(n_members: int = 1, output: str = "softmax", scale: float = 3.0, n: int = 300, n_classes: int = 60):
    """Return (spec, params, x, labels, weight) of a head that is right for two rows of three."""
    rng = np.random.default_rng(0)
    spec = NetworkSpec(8, 0, n_classes, (), "relu", n_members, output)
    x = rng.normal(size=(n, 8))
    weight = rng.normal(size=(n_members, 8, n_classes)) * scale
    params = {"layers.0.weight": weight, "layers.0.bias": rng.normal(size=(n_members, n_classes))}
    labels = np.where(rng.random(n) < 0.66, forward(spec, params, x).argmax(1), rng.integers(0, n_classes, n))
    return spec, params, x, labels, rng.uniform(0.2, 2, n)


def scores_of(spec, params, x, labels, weight, n_blocks: int = 2) -> HeldOutScores:
    """Return the streamed scores."""
    head = torch.from_numpy(params["layers.0.weight"]), torch.from_numpy(params["layers.0.bias"])
    parts = np.array_split(np.arange(len(x)), n_blocks)
    blocks = [Block(torch.from_numpy(x[part])[None], torch.from_numpy(labels[part])) for part in parts]
    return HeldOutScores.of(spec, head, blocks, weight)


@pytest.mark.parametrize(("n_members", "output"), [(1, "softmax"), (3, "softmax"), (1, "sigmoid"), (2, "sigmoid")])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_streamed_scores_are_those_of_whole_logits(n_members, output, scale):
    """Temperature to 1e-3, log loss at it to 1e-5 and at other temperatures to 1 %, accuracy exactly."""
    spec, params, x, labels, weight = problem(n_members, output, scale)
    logits = forward(spec, params, x)
    loss, beta = held_out_log_loss_after_temperature(logits, labels, weight)
    scores = scores_of(spec, params, x, labels, weight)
    assert scores.inverse_temperature() == pytest.approx(beta, rel=1e-3)
    found = scores.summary(beta)
    assert found["log_loss"] == pytest.approx(loss, rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.average(logits.argmax(1) == labels, weights=weight), rel=1e-12)
    for other in (0.3, 1.0, 2.5):
        exact = log_loss(log_softmax(other * logits), labels, sample_weight=weight)
        assert scores.summary(other)["log_loss"] == pytest.approx(exact, rel=0.01)


def test_the_loss_at_one_is_exact():
    """At b = 1, a point of the first pass, every row's loss is that of its logits to 1e-12."""
    spec, params, x, labels, weight = problem()
    exact = -log_softmax(forward(spec, params, x))[np.arange(len(x)), labels]
    np.testing.assert_allclose(scores_of(spec, params, x, labels, weight).losses(1.0), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["auto", "temperature", None])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_the_calibration_is_that_of_whole_logits(method, scale):
    """The race between none and temperature ends as with whole logits, with the same temperature to 1e-3."""
    spec, params, x, labels, weight = problem(scale=scale, n_classes=120)
    expected = fit_calibration(forward(spec, params, x), labels, weight, method=method)
    found = scores_of(spec, params, x, labels, weight).calibration(method)
    assert found.method == expected.method
    assert found.inverse_temperature == pytest.approx(expected.inverse_temperature, rel=1e-3)


def test_a_subset_of_rows_has_its_own_temperature():
    """Temperatures of parts of the rows, as cross-validation needs them, need no further pass."""
    spec, params, x, labels, weight = problem()
    some = np.arange(len(x)) % 3 > 0
    exact = fit_temperature(forward(spec, params, x)[some], labels[some], weight[some])
    assert scores_of(spec, params, x, labels, weight).inverse_temperature(some) == pytest.approx(exact, rel=0.01)


def test_logits_that_are_not_finite_are_divergence():
    """An infinite logit raises what diverged training raises."""
    spec, params, x, labels, weight = problem()
    params["layers.0.bias"][0, 5] = np.inf
    with pytest.raises(TrainingDivergedError, match="not finite"):
        scores_of(spec, params, x, labels, weight)


def test_rows_left_out_are_evenly_spread():
    """A million classes: 1,073 of 10,000 rows, from the first to near the last, each once."""
    rows = scored_rows(10_000, 1_000_000)
    assert len(rows) == len(set(rows.tolist())) == 1073
    assert rows[0] == 0
    assert rows[-1] >= 9_990
    assert np.diff(rows).max() <= 10
