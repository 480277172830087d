"""A head by class within the network: the same training as with the dense head, in parts."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from softmaxnet.backward import BackwardPass
from softmaxnet.head_plan import HeadPlan
from softmaxnet.network import NetworkSpec
from softmaxnet.optimizer import Optimizer
from softmaxnet.parameters import Parameters, scaled_spec

N, D, K = 24, 6, 41


def parameters_of(spec: NetworkSpec, parametrization: str, plan: HeadPlan | None) -> Parameters:
    """Return random parameters, the same numbers in either layout."""
    scaled = scaled_spec(spec, parametrization)
    parameters = Parameters(scaled, dtype=torch.float64, head=plan)
    rng = np.random.default_rng(0)
    for name in sorted(parameters.views):
        view = parameters.views[name]
        drawn = torch.from_numpy(rng.normal(size=tuple(view.shape)))
        view.copy_(drawn * scaled.scale(name) / parameters.scale(name))
    return parameters


def batches(n_batches: int):
    """Yield batches of rows with labels and weights."""
    rng = np.random.default_rng(1)
    for _ in range(n_batches):
        target = torch.from_numpy(rng.integers(0, K, N))
        yield torch.from_numpy(rng.normal(size=(N, D))), target, torch.from_numpy(rng.uniform(0, 2 / N, N))


def run(spec, parametrization, plan, *, steps=5, **settings):
    """Return the losses of some steps and the parameters after them, by name."""
    parameters = parameters_of(spec, parametrization, plan)
    optimizer = Optimizer(parameters, weight_decay=0.1, average_power=3.0)
    backward = BackwardPass(parameters, N, dropout=0.2, **settings)
    losses = []
    for step, (x, y, w) in enumerate(batches(steps)):

        def update(member, start, stop, d_weight, d_bias):
            optimizer.update_classes(0.01, member, start, stop, d_weight, d_bias)

        losses.append(backward(x, y, w, mask_key=(0, step), update=update).item())
        optimizer.step(0.01, backward.gradient, None)
    return losses, parameters.effective(), parameters.effective(optimizer.averaged())


PLANS = {"rows": HeadPlan("rows", 7, 16, 0), "classes": HeadPlan("classes", N, 10, 0)}


@pytest.mark.parametrize("kind", PLANS)
@pytest.mark.parametrize("parametrization", ["ntk", "standard"])
@pytest.mark.parametrize("hidden", [(8,), (7, 5), ()])
@pytest.mark.parametrize("n_members", [1, 3])
def test_training_in_parts_is_dense_training(kind, parametrization, hidden, n_members):
    """Losses, parameters and their running average after 5 steps of Adam are those of the dense head to 1e-10."""
    spec = NetworkSpec(D, 0, K, hidden, "silu", n_members)
    expected = run(spec, parametrization, None, label_smoothing=0.1)
    found = run(spec, parametrization, PLANS[kind], label_smoothing=0.1)
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    for got, want in zip(found[1:], expected[1:], strict=True):
        for name, value in want.items():
            torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", PLANS)
def test_sigmoid_outputs_train_in_parts(kind):
    """The same with K independent confidences."""
    spec = NetworkSpec(D, 0, K, (8,), "relu", output="sigmoid")
    expected, found = run(spec, "ntk", None), run(spec, "ntk", PLANS[kind])
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-10, atol=1e-10)


def test_nothing_changes_where_the_loss_is_not_finite():
    """Tiles of classes: a batch that overflows is known after the first pass and updates nothing."""
    parameters = parameters_of(NetworkSpec(D, 0, K, (8,), "relu"), "standard", PLANS["classes"])
    backward = BackwardPass(parameters, N)
    before = parameters.flat.clone()

    def update(*_):
        raise AssertionError("an update before the loss is known to be finite")

    x = torch.full((N, D), 1e300, dtype=torch.float64)
    loss = backward(x * 1e300, torch.zeros(N, dtype=torch.int64), torch.ones(N, dtype=torch.float64), update=update)
    assert not torch.isfinite(loss)
    assert torch.equal(parameters.flat, before)


def test_the_gradient_of_a_head_by_classes_never_exists_whole():
    """The gradient buffer holds the layers below the head and nothing of its 41 x 8 weights."""
    sizes = {}
    for kind, plan in PLANS.items():
        parameters = parameters_of(NetworkSpec(D, 0, K, (8,), "relu"), "standard", plan)
        sizes[kind] = BackwardPass(parameters, N).gradient.numel()
    assert sizes == {"classes": D * 8 + 8, "rows": D * 8 + 8 + K * 8 + K}


def test_a_head_by_class_lies_last_with_a_row_for_each_class():
    """The view by name is the transpose of contiguous rows; the fitted weights are views of the flat vector."""
    parameters = parameters_of(NetworkSpec(D, 0, K, (8,), "relu"), "ntk", PLANS["rows"])
    weight, bias = parameters.head_of(parameters.flat)
    assert weight.is_contiguous()
    assert (weight.shape, bias.shape) == ((1, K, 8), (1, K))
    assert torch.equal(weight.transpose(1, 2), parameters.views["layers.1.weight"])
    shared = parameters.effective()["layers.1.weight"]
    assert shared.data_ptr() == weight.data_ptr()


def test_bfloat16_layers_feed_a_float32_head():
    """With bfloat16 products below, the head by class stays float32 and its loss is near that of float64."""
    spec = NetworkSpec(D, 0, K, (8,), "relu")
    x, y, w = next(batches(1))
    losses = {}
    for dtype, compute in ((torch.float64, None), (torch.float32, torch.bfloat16)):
        parameters = Parameters(scaled_spec(spec, "ntk"), dtype=dtype, head=PLANS["rows"])
        parameters.initialise(np.random.default_rng(0), zero_head=False)
        backward = BackwardPass(parameters, N, compute_dtype=compute)
        losses[dtype] = backward(x.to(compute or dtype), y, w.to(dtype)).item()
        assert torch.isfinite(backward.gradient).all()
    assert losses[torch.float32] == pytest.approx(losses[torch.float64], rel=0.01)


def test_text_trains_with_bfloat16_products():
    """A sparse block and bfloat16 layers: the table stays float32, and the log loss is near that of float32."""
    from softmaxnet.estimator import SoftmaxClassifier

    words = np.array(["red", "green", "blue", "round", "flat", "long", "old", "new"])
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 1200)
    texts = [" ".join([*rng.choice(words, 4), words[label]]) for label in labels]
    losses = {}
    for precision in ("float32", "bfloat16"):
        classifier = SoftmaxClassifier(max_epochs=2, precision=precision, random_state=0).fit(texts, labels)
        losses[precision] = classifier.metrics_["log_loss"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_the_user_sets_the_budget():
    """head_bytes reaches the plan and the model's settings; 1 byte is the smallest tiles, with the same result."""
    from softmaxnet.estimator import SoftmaxClassifier

    rng = np.random.default_rng(0)
    labels = np.arange(1500) % 60
    X = rng.normal(size=(60, 5))[labels] + 0.2 * rng.normal(size=(1500, 5))
    given = {"hidden_layer_sizes": (8,), "max_epochs": 2, "n_members": 1, "random_state": 0, "precision": "float64"}
    models = [SoftmaxClassifier(head_bytes=size, **given).fit(X, labels) for size in ("auto", 1)]
    assert [clf.model_.settings["head_bytes"] for clf in models] == [512 * 2**20, 1]
    np.testing.assert_allclose(*(clf.predict_proba(X[:50]) for clf in models), rtol=1e-6, atol=1e-9)
