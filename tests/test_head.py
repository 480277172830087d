"""The output layer: loss and gradient at the logits, against PyTorch and against the worked values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from softmaxnet.head import loss_and_gradient

F = torch.nn.functional


def draw(shape: tuple[int, ...], seed: int = 0, scale: float = 3.0):
    """Return float64 logits."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) * scale)


def with_autograd(z, target, weight, output: str, smoothing: float):
    """Return loss and gradient as PyTorch's own loss functions have them."""
    z = z.clone().requires_grad_()
    n_members, n_rows, n_classes = z.shape
    weight = weight.expand(n_members, n_rows)
    q = F.one_hot(target, n_classes).to(z.dtype) if target.ndim == 1 else target
    if output == "sigmoid":
        q = (1 - smoothing) * q + smoothing / n_classes
        rows = F.binary_cross_entropy_with_logits(z, q.expand_as(z), reduction="none").sum(-1)
    else:
        flat = z.reshape(-1, n_classes)
        repeated = q.repeat(n_members, 1)
        rows = F.cross_entropy(flat, repeated, reduction="none", label_smoothing=smoothing).view(n_members, -1)
    loss = (weight * rows).sum()
    loss.backward()
    return loss.detach(), z.grad


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("by_member", [False, True])
def test_loss_and_gradient_are_those_of_torch_loss_functions(output, smoothing, soft, by_member):
    """Loss and gradient are those of cross_entropy and binary_cross_entropy_with_logits, to 1e-12."""
    z = draw((3, 11, 5))
    target = torch.from_numpy(np.random.default_rng(1).integers(0, 5, 11))
    if soft:
        target = torch.softmax(draw((11, 5), 2), -1)
    weight = torch.from_numpy(np.random.default_rng(3).uniform(0, 2, (3, 11) if by_member else 11))
    expected_loss, expected = with_autograd(z, target, weight, output, smoothing)
    loss = loss_and_gradient(z, target, weight, output=output, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-12)


def test_worked_example_of_three_logits():
    """Logits 1.6, 3.1, 0.5 with the second class true: loss -ln 0.77077009, gradient p - y."""
    z = torch.tensor([[[1.6, 3.1, 0.5]]], dtype=torch.float64)
    loss = loss_and_gradient(z, torch.tensor([1]), torch.ones(1, dtype=torch.float64))
    assert loss.item() == pytest.approx(-math.log(0.77077009), abs=1e-8)
    assert z[0, 0].tolist() == pytest.approx([0.17198205, 0.77077009 - 1, 0.05724785], abs=1e-8)


def test_worked_example_of_three_votes():
    """The table of votes has the cross-entropies -ln .4, -ln .4, -ln .1, of mean 1.3783889."""
    proba = torch.tensor([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]], dtype=torch.float64)
    z = proba.log().unsqueeze(0)
    loss = loss_and_gradient(z, torch.tensor([2, 1, 0]), torch.full((3,), 1 / 3, dtype=torch.float64))
    assert loss.item() == pytest.approx((2 * -math.log(0.4) - math.log(0.1)) / 3, abs=1e-12)
    assert loss.item() == pytest.approx(1.3783889, abs=1e-7)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_ten_thousand_neither_overflow_nor_underflow(output, dtype):
    """At +-1e4 the loss is the logit difference itself and the gradient is exactly p - y."""
    z = torch.tensor([[[1e4, -1e4], [-1e4, 1e4]]], dtype=dtype)
    loss = loss_and_gradient(z, torch.tensor([0, 0]), torch.ones(2, dtype=dtype), output=output)
    assert loss.item() == pytest.approx(2e4)
    assert z.tolist() == [[[0.0, 0.0], [-1.0, 1.0]]]


def test_minus_infinity_forbids_a_class():
    """A logit of -inf has probability 0 and no gradient, also under a soft target without mass there."""
    for target in (torch.tensor([1]), torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)):
        z = torch.tensor([[[-math.inf, 0.0, 0.0]]], dtype=torch.float64)
        loss = loss_and_gradient(z, target, torch.ones(1, dtype=torch.float64))
        assert loss.item() == pytest.approx(math.log(2))
        assert z[0, 0].tolist() == pytest.approx([0.0, -0.5, 0.5])


def test_one_class_has_no_loss():
    """K = 1: the loss is 0 and so is the gradient."""
    z = draw((2, 4, 1))
    loss = loss_and_gradient(z, torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.float64))
    assert loss.item() == 0.0
    assert (z == 0).all()


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_rows_of_weight_zero_leave_loss_and_gradient(output):
    """A weight of 0 makes a row's gradient 0 and takes its loss out."""
    z, target = draw((1, 6, 3)), torch.tensor([0, 1, 2, 0, 1, 2])
    weight = torch.tensor([1.0, 0, 2, 0, 1, 0], dtype=torch.float64)
    alone = z[:, weight > 0].clone()
    loss = loss_and_gradient(z, target, weight, output=output)
    kept = loss_and_gradient(alone, target[weight > 0], weight[weight > 0], output=output)
    assert loss.item() == pytest.approx(kept.item(), rel=1e-14)
    assert (z[:, weight == 0] == 0).all()
    assert torch.equal(z[:, weight > 0], alone)


@given(
    st.integers(1, 6).flatmap(
        lambda k: st.lists(st.lists(st.floats(-50, 50), min_size=k, max_size=k), min_size=1, max_size=5)
    ),
    st.floats(0, 0.9),
    st.integers(0, 2**31),
)
def test_softmax_gradient_sums_to_zero_over_the_classes(logits, smoothing, seed):
    """Adding a constant to a row's logits changes nothing: its gradient sums to 0; p - y stays within (-1, 1)."""
    z = torch.tensor([logits], dtype=torch.float64)
    target = torch.from_numpy(np.random.default_rng(seed).integers(0, z.shape[-1], z.shape[1]))
    weight = torch.ones(z.shape[1], dtype=torch.float64)
    loss = loss_and_gradient(z, target, weight, label_smoothing=smoothing)
    assert loss.item() >= -1e-12
    assert z.sum(-1).abs().max().item() < 1e-12
    assert z.abs().max().item() <= 1 + 1e-12


def test_one_hot_targets_are_labels():
    """Rows of a soft target that are one-hot give the loss and gradient of the labels."""
    for output in ("softmax", "sigmoid"):
        a, b, labels = draw((2, 7, 4)), draw((2, 7, 4)), torch.tensor([0, 1, 2, 3, 0, 1, 2])
        weight = torch.linspace(0.1, 2, 7, dtype=torch.float64)
        first = loss_and_gradient(a, labels, weight, output=output, label_smoothing=0.1)
        second = loss_and_gradient(b, F.one_hot(labels, 4).double(), weight, output=output, label_smoothing=0.1)
        torch.testing.assert_close(first, second, rtol=1e-13, atol=0)
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_per_class_form_is_not_the_softmax_loss_for_three_classes():
    """The sum over classes of the binary form differs from -ln s_y; the numbers side by side.

    At the worked probabilities p: -ln p_1 = 0.26036 and
    -[ln(1 - p_0) + ln p_1 + ln(1 - p_2)] = 0.18872 + 0.26036 + 0.05895 = 0.50803.
    """
    p = np.array([0.17198205, 0.77077009, 0.05724785])
    odds = torch.from_numpy(np.log(p / (1 - p)))[None, None]
    one, row = torch.tensor([1]), torch.ones(1, dtype=torch.float64)
    binary = loss_and_gradient(odds, one, row, output="sigmoid").item()
    softmax = loss_and_gradient(torch.from_numpy(np.log(p))[None, None], one, row).item()
    assert softmax == pytest.approx(0.26036, abs=1e-5)
    assert binary == pytest.approx(-math.log(1 - p[0]) - math.log(p[1]) - math.log(1 - p[2]), rel=1e-12)
    assert binary == pytest.approx(0.50803, abs=1e-5)
