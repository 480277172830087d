"""A whole fit with a head in parts: the same model as with a dense one, and what large heads do without."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import softmaxnet.head_plan as head_plan_module
import softmaxnet.validation as validation_module
from softmaxnet.features.encoded import Encoded
from softmaxnet.fitting import Examples, fit_network, new_state
from softmaxnet.kept_weights import BestWeights
from softmaxnet.network import NetworkSpec, forward
from softmaxnet.recipe import DEFAULTS, DataShape, resolve

K = 300
GIVEN = DEFAULTS | {"hidden_layer_sizes": (24,), "max_epochs": 4, "batch_size": 64, "dropout": 0.1, "n_members": 1}


def examples(n: int = 1800, seed: int = 0) -> Examples:
    """Return rows near one of K random points, six rows a class."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(K, 12))
    labels = np.arange(n) % K
    X = centres[labels] + 0.3 * rng.normal(size=(n, 12))
    return Examples(Encoded(X.astype(np.float32), 1.0, None), labels, rng.uniform(0.5, 1.5, n))


def fitted(monkeypatch, kind: str, *, copies: bool = True, whole: bool = True, given=GIVEN, **arguments):
    """Return what a fit leaves whose head goes the given way."""
    plan = replace(resolve(DataShape(1800, 12, 0, K), given), precision="float64")
    if kind == "rows":
        monkeypatch.setattr(head_plan_module, "DENSE_BYTES", 1000)
        monkeypatch.setattr(head_plan_module, "LEAST_ROWS", 8)
    monkeypatch.setattr(head_plan_module, "COPY_BYTES", 2**28 if copies else 0)
    monkeypatch.setattr(validation_module, "WHOLE_LOGITS", 2**24 if whole else 0)
    plan = replace(plan, head_bytes={"dense": 2**29, "rows": 250_000, "classes": 20_000}[kind])
    result = fit_network(arguments.pop("rows", examples()), K, plan, seed=0, **arguments)
    head = result.state.parameters.head
    assert (head.kind if head else "dense") == kind
    return result


def logits_of(result) -> np.ndarray:
    """Return the logits of new rows."""
    return forward(result.spec, result.params, examples(seed=1).encoded.dense.astype(np.float64))


@pytest.mark.parametrize("kind", ["rows", "classes"])
def test_a_fit_in_parts_is_the_dense_fit(kind, monkeypatch):
    """History, calibration, scores and logits of new rows are those of the dense head to 1e-6."""
    dense = fitted(monkeypatch, "dense")
    found = fitted(monkeypatch, kind)
    assert found.metrics == pytest.approx(dense.metrics, rel=1e-6)
    assert [line["loss"] for line in found.history] == pytest.approx([line["loss"] for line in dense.history])
    assert found.calibration.inverse_temperature == pytest.approx(dense.calibration.inverse_temperature, rel=1e-6)
    np.testing.assert_allclose(logits_of(found), logits_of(dense), rtol=1e-6, atol=1e-6)


def test_streamed_validation_chooses_as_whole_logits_do(monkeypatch):
    """Scored tile by tile: the same epochs to 1e-5, the same temperature to 1e-3 and the same accuracy."""
    whole = fitted(monkeypatch, "classes")
    found = fitted(monkeypatch, "classes", whole=False)
    for name in ("validation_log_loss", "validation_accuracy"):
        assert [line[name] for line in found.history] == pytest.approx(
            [line[name] for line in whole.history], rel=1e-5
        )
    assert found.metrics["log_loss"] == pytest.approx(whole.metrics["log_loss"], rel=1e-4)
    assert found.metrics["accuracy"] == pytest.approx(whole.metrics["accuracy"], rel=1e-12)
    assert found.calibration.inverse_temperature == pytest.approx(whole.calibration.inverse_temperature, rel=1e-3)


def test_a_large_head_is_never_copied_and_its_best_epoch_is_kept(monkeypatch):
    """Without copies the fitted weights are the trained buffer, and those of the best epoch, read back from a file."""
    given = GIVEN | {"max_epochs": 6, "learning_rate": 0.1, "n_iter_no_change": 6}
    given |= {"learning_rate_schedule": "constant"}  # no running average either way
    copied = fitted(monkeypatch, "classes", given=given)
    found = fitted(monkeypatch, "classes", copies=False, given=given)
    losses = [line["validation_log_loss"] for line in found.history]
    assert np.argmin(losses) < len(losses) - 1, "the last epoch is the best: nothing is read back"
    np.testing.assert_allclose(logits_of(found), logits_of(copied), rtol=1e-6, atol=1e-6)
    weight = found.state.parameters.views["layers.1.weight"].numpy()
    assert np.shares_memory(found.params["layers.1.weight"], weight)


def test_going_on_leaves_the_model_as_it_was(monkeypatch):
    """A second fit from the state of a first one that shares its buffer does not change the first one's weights."""
    first = fitted(monkeypatch, "classes", copies=False)
    before = first.params["layers.1.weight"].copy()
    second = fitted(monkeypatch, "classes", copies=False, state=first.state)
    assert np.array_equal(first.params["layers.1.weight"], before)
    assert not np.array_equal(second.params["layers.1.weight"], before)


def test_large_heads_train_without_a_running_average():
    """A million classes: a falling rate in place of the average of the weights, both as the plan says."""
    large, small = (resolve(DataShape(2_000_000, 64, 0, k), DEFAULTS) for k in (1_000_000, 1000))
    assert (large.average_power, large.learning_rate_schedule) == (None, "cosine")
    assert (small.average_power, small.learning_rate_schedule) == (10.0, "flat")


def test_a_full_disk_ends_no_training(monkeypatch):
    """Where the best weights cannot be written there is a warning and the last ones are kept."""
    plan = resolve(DataShape(1800, 12, 0, K), GIVEN)
    state = new_state(NetworkSpec(12, 0, K, (24,)), replace(plan, head_bytes=0), 0)
    monkeypatch.setattr(head_plan_module, "COPY_BYTES", 0)

    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("softmaxnet.kept_weights.tempfile.TemporaryFile", lambda **_: Full())
    kept = BestWeights(state.parameters)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert kept.keep(state.parameters.flat) is state.parameters.flat
    kept.changed()
    kept.put_back()


def test_the_best_weights_come_back_from_the_file(monkeypatch):
    """What is kept is what is read back, to the bit, whatever has happened to the parameters since."""
    plan = resolve(DataShape(1800, 12, 0, K), GIVEN)
    state = new_state(NetworkSpec(12, 0, K, (24,)), replace(plan, head_bytes=0), 0)
    monkeypatch.setattr(head_plan_module, "COPY_BYTES", 0)
    monkeypatch.setattr("softmaxnet.kept_weights.BLOCK_NUMBERS", 1000)
    kept, before = BestWeights(state.parameters), state.parameters.flat.clone()
    kept.keep(state.parameters.flat)
    kept.changed()
    state.parameters.flat.mul_(3.0)
    kept.put_back()
    assert torch.equal(state.parameters.flat, before)
