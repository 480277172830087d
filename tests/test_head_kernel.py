"""The output layer by PyTorch's fused kernel: the same loss and gradients, and taken only where it is faster."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
    pytest.skip("the kernel came with PyTorch 2.13", allow_module_level=True)

from softmaxnet import SoftmaxClassifier, head_kernel, head_plan
from softmaxnet.head_kernel import TorchHead, faster_head
from softmaxnet.head_pass import HeadPass
from softmaxnet.head_plan import HeadPlan

N_ROWS, WIDTH, N_CLASSES, N_MEMBERS = 23, 6, 41, 2


def ways(*, budget: int = 2**30, smoothing: float = 0.0, output: str = "softmax"):
    """Return the chunks of rows and the kernel, each with a gradient of its own, over the same weights."""
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.normal(size=(N_MEMBERS, N_CLASSES, WIDTH)))
    bias = torch.from_numpy(rng.normal(size=(N_MEMBERS, N_CLASSES)))
    plan = HeadPlan("rows", 7, 16, 10_000, budget)
    heads = [
        HeadPass(
            weight,
            bias,
            plan,
            output=output,
            label_smoothing=smoothing,
            gradient=(torch.full_like(weight, np.nan), torch.full_like(bias, np.nan)),
        )
        for _ in range(2)
    ]
    return heads[0], TorchHead(heads[1], weight, bias)


def batch(*, soft: bool = False):
    """Return (x, target, weight), made as a step makes them."""
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(N_MEMBERS, N_ROWS, WIDTH)))
    target = torch.from_numpy(rng.integers(0, N_CLASSES, N_ROWS))
    if soft:
        target = torch.from_numpy(rng.dirichlet(np.ones(N_CLASSES), N_ROWS))
    weight = torch.from_numpy(rng.uniform(0, 2, N_ROWS))
    weight[3] = 0.0
    return x, target, weight


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("below", [False, True])
def test_loss_and_gradients_are_those_of_our_chunks(soft, below):
    """With row weights, a bias, two members, labels or soft targets, inside inference mode: to 1e-12."""
    own, kernel = ways()
    found = []
    with torch.inference_mode():
        x, target, weight = batch(soft=soft)
        for head, gradient in ((own, own.gradient), (kernel, kernel.own.gradient)):
            d_x = torch.full_like(x, np.nan) if below else None
            loss = head(x, target, weight, d_x)
            found.append([loss, *gradient, *([d_x] if below else [])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-12)


def test_the_faster_one_is_taken_where_devices_are_probed(monkeypatch):
    """Whichever takes fewer seconds; without a probe, and so on every CPU, the chunks."""
    own, kernel = ways()
    about = (own, kernel.weight, kernel.bias, N_ROWS)

    def with_kernel_at(seconds: float):
        monkeypatch.setattr(head_kernel, "_seconds", lambda head, *_: seconds if isinstance(head, TorchHead) else 1.0)
        return faster_head(*about)

    assert with_kernel_at(0.5) is own
    monkeypatch.setattr(head_kernel, "PROBED_DEVICES", ("cpu",))
    assert isinstance(with_kernel_at(0.5), TorchHead)
    assert with_kernel_at(2.0) is own


@pytest.mark.parametrize("unlike", [{"smoothing": 0.1}, {"output": "sigmoid"}, {"budget": 10_000}])
def test_what_the_kernel_cannot_do_is_not_asked_of_it(unlike):
    """Label smoothing, sigmoid outputs, and a budget without room for a second gradient."""
    assert TorchHead.does(ways()[0])
    assert not TorchHead.does(ways(**unlike)[0])


def test_tiles_of_classes_are_not_the_kernels_business():
    """A head that never has the whole gradient has nowhere for the kernel to put it."""
    own, kernel = ways()
    tiles = HeadPass(kernel.weight, kernel.bias, HeadPlan("classes", N_ROWS, 16, 10_000))
    assert TorchHead.does(own)
    assert not TorchHead.does(tiles)


def test_a_fit_by_the_kernel_says_so_and_is_the_same(monkeypatch):
    """A whole fit in float64: the settings name the kernel, and the probabilities agree to 1e-8."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(1200, 4))
    y = (np.arange(1200) + (X[:, 0] > 0)) % 600
    monkeypatch.setattr(head_plan, "DENSE_BYTES", 2**19)
    assert head_plan.plan_head(256, 8, 600, itemsize=8).kind == "rows"

    def fitted():
        return SoftmaxClassifier(
            hidden_layer_sizes=(8,), n_members=1, max_epochs=3, batch_size=256, precision="float64", random_state=0
        ).fit(X, y)

    ours = fitted()
    monkeypatch.setattr(head_kernel, "PROBED_DEVICES", ("cpu",))
    monkeypatch.setattr(head_kernel, "_seconds", lambda head, *_: -float(isinstance(head, TorchHead)))
    theirs = fitted()
    assert (ours.model_.settings["head_kernel"], theirs.model_.settings["head_kernel"]) == ("own", "torch")
    np.testing.assert_allclose(theirs.predict_proba(X), ours.predict_proba(X), rtol=0, atol=1e-8)
