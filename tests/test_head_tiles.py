"""The output layer in chunks of rows and tiles of classes, against float64 autograd and against the dense head."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from softmaxnet.head import loss_and_gradient
from softmaxnet.head_tiles import ClassBlock, RowSums, TiledHead, row_losses

F = torch.nn.functional


def draw(*shape: int, seed: int = 0, scale: float = 1.0, dtype=torch.float64):
    """Return normal numbers."""
    return (torch.from_numpy(np.random.default_rng(seed).normal(size=shape)) * scale).to(dtype)


def problem(n: int = 13, width: int = 5, n_classes: int = 37, *, soft: bool = False, dtype=torch.float64):
    """Return (x, W with a row a class, b, target, weight)."""
    target = torch.from_numpy(np.random.default_rng(1).integers(0, n_classes, n))
    if soft:
        target = torch.softmax(draw(n, n_classes, seed=2, dtype=dtype), 1)
    weight = torch.from_numpy(np.random.default_rng(3).uniform(0, 2, n)).to(dtype)
    weight[2:3] = 0.0
    return (
        draw(n, width, dtype=dtype),
        draw(n_classes, width, seed=4, dtype=dtype),
        draw(n_classes, seed=5, dtype=dtype),
        target,
        weight,
    )


def with_autograd(x, W, b, target, weight, output="softmax", smoothing=0.0):
    """Return loss, dx, dW, db of PyTorch's own loss functions in float64."""
    x, W, b = (t.double().clone().requires_grad_() for t in (x, W, b))
    z = x @ W.T + b
    q = F.one_hot(target, len(W)).double() if target.ndim == 1 else target.double()
    if output == "sigmoid":
        q = (1 - smoothing) * q + smoothing / len(W)
        rows = F.binary_cross_entropy_with_logits(z, q, reduction="none").sum(1)
    else:
        rows = F.cross_entropy(z, q, reduction="none", label_smoothing=smoothing)
    loss = (weight.double() * rows).sum()
    loss.backward()
    return loss.detach(), x.grad, W.grad, b.grad


def by_classes(blocks, x, target, weight, tile, output="softmax", smoothing=0.0):
    """Return loss, dx, dW, db by two passes over the tiles of one or more blocks of classes."""
    heads = [TiledHead(block, len(x), tile, output=output, label_smoothing=smoothing) for block in blocks]
    targets = [t_of(block, target) for block in blocks]
    parts = [head.first_pass(x, t) for head, t in zip(heads, targets, strict=True)]
    sums = parts[0]
    for part in parts[1:]:
        sums = sums.merge(part, output)
    loss = (weight.double() * row_losses(sums, smoothing, blocks[0].n_classes)).sum()
    d_x, d_weight, d_bias = torch.zeros_like(x), [], []
    for head, t in zip(heads, targets, strict=True):
        head.second_pass(
            x, t, weight, sums, d_x, lambda a, b, dW, db: (d_weight.append(dW.clone()), d_bias.append(db.clone()))
        )
    return loss, d_x, torch.cat(d_weight), torch.cat(d_bias)


def t_of(block, target):
    """Return the target as a block takes it: labels whole, probabilities of its own classes."""
    return target if target.ndim == 1 else target[:, block.first : block.first + len(block)]


def by_rows(x, W, b, target, weight, chunk, tile, output="softmax", smoothing=0.0):
    """Return loss, dx, dW, db by chunks of rows whose tiles are kept."""
    head = TiledHead(ClassBlock(W, b, 0, len(W)), chunk, tile, keep=True, output=output, label_smoothing=smoothing)
    loss, d_x, d_weight, d_bias = 0.0, torch.zeros_like(x), torch.zeros_like(W), torch.zeros_like(b)
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        sums = head.first_pass(x[part], target[part])
        loss += (weight[part].double() * row_losses(sums, smoothing, len(W))).sum()
        head.add_gradient(x[part], target[part], weight[part], sums, d_x[part], d_weight, d_bias)
    return loss, d_x, d_weight, d_bias


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("chunk", "tile"), [(13, 37), (4, 10), (1, 1)])
def test_chunks_of_rows_are_autograd_in_float64(output, smoothing, soft, chunk, tile):
    """Loss and all three gradients are autograd's to 1e-12, with weights, bias, smoothing, labels or soft targets."""
    x, W, b, target, weight = problem(soft=soft)
    expected = with_autograd(x, W, b, target, weight, output, smoothing)
    found = by_rows(x, W, b, target, weight, chunk, tile, output, smoothing)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("tile", [37, 10, 1])
def test_tiles_of_classes_are_autograd_in_float64(output, smoothing, soft, tile):
    """The same for two passes over tiles of classes, none of whose gradients exists whole."""
    x, W, b, target, weight = problem(soft=soft)
    expected = with_autograd(x, W, b, target, weight, output, smoothing)
    found = by_classes([ClassBlock(W, b, 0, 37)], x, target, weight, tile, output, smoothing)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("bounds", [(0, 37), (0, 20, 37), (0, 1, 5, 36, 37), (0, 7, 14, 21, 28, 37)])
def test_blocks_of_classes_add_up(output, smoothing, bounds):
    """1, 2, 4 and 5 blocks of unequal size give the gradients of the whole; smoothing spreads over all K classes.

    Vocabulary-parallel heads elsewhere smoothed over the classes of their own part.
    """
    x, W, b, target, weight = problem()
    blocks = [ClassBlock(W[i:j], b[i:j], i, 37) for i, j in itertools.pairwise(bounds)]
    expected = with_autograd(x, W, b, target, weight, output, smoothing)
    for got, want in zip(by_classes(blocks, x, target, weight, 6, output, smoothing), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("soft", [False, True])
def test_without_a_layer_below_the_weights_gradient_is_the_same(soft):
    """No gradient at the rows asked for: those of the weights are what they are with it, bit by bit."""
    x, W, b, target, weight = problem(soft=soft)
    found = []
    for d_x in (torch.zeros_like(x), None):
        head = TiledHead(ClassBlock(W, b, 0, len(W)), len(x), 10, label_smoothing=0.1)
        parts = []

        def visit(start: int, stop: int, d_weight, d_bias, parts=parts) -> None:
            parts.append(torch.cat([d_weight, d_bias.unsqueeze(1)], 1))

        head.second_pass(x, target, weight, head.first_pass(x, target), d_x, visit)
        found.append(torch.cat(parts))
    assert torch.equal(*found)


@pytest.mark.parametrize("way", ["rows", "classes"])
def test_float32_agrees_with_float64_to_rounding(way):
    """2,000 classes in float32: loss to 1e-6, gradients to 1e-6 of their largest number."""
    x, W, b, target, weight = problem(64, 32, 2000, dtype=torch.float32)
    expected = with_autograd(x, W, b, target, weight, smoothing=0.1)
    if way == "rows":
        found = by_rows(x, W, b, target, weight, 16, 256, smoothing=0.1)
    else:
        found = by_classes([ClassBlock(W, b, 0, 2000)], x, target, weight, 256, smoothing=0.1)
    for got, want in zip(found, expected, strict=True):
        assert ((got.double() - want).abs().max() / want.abs().max()).item() < 1e-6


@pytest.mark.parametrize("way", ["rows", "classes"])
def test_a_confident_row_keeps_its_small_gradient(way):
    """At p = 1 - 1e-5 in float32 the gradient at the label is within 1 % of -1e-5; half precision gives 0.

    Logits 11.5129 and 0 of two classes: p - 1 = -1 / (1 + e^11.5129) = -1.0000e-5.
    """
    x, W = torch.ones(1, 1), torch.tensor([[11.512925], [0.0]])
    b, target, weight = torch.zeros(2), torch.tensor([0]), torch.ones(1)
    if way == "rows":
        _, _, d_weight, _ = by_rows(x, W, b, target, weight, 1, 1)
    else:
        _, _, d_weight, _ = by_classes([ClassBlock(W, b, 0, 2)], x, target, weight, 1)
    assert d_weight[0].item() == pytest.approx(-1e-5, rel=0.01)
    assert d_weight[1].item() == pytest.approx(1e-5, rel=0.01)


def test_many_chunks_do_not_drift():
    """512 chunks of one row give the weights' gradient of one chunk to 2e-6: sums are float32, never less."""
    x, W, b, target, weight = problem(512, 8, 50, dtype=torch.float32)
    _, _, whole, _ = by_rows(x, W, b, target, weight, 512, 50)
    _, _, parts, _ = by_rows(x, W, b, target, weight, 1, 50)
    assert ((whole - parts).abs().max() / whole.abs().max()).item() < 2e-6


def test_row_weights_enter_before_the_sum_over_rows():
    """Weights 0 and 3 give the gradient of the second row three times; nothing can be multiplied afterwards."""
    x, W, b, target, _ = problem(2)
    weight = torch.tensor([0.0, 3.0], dtype=torch.float64)
    _, d_x, d_weight, d_bias = by_classes([ClassBlock(W, b, 0, 37)], x, target, weight, 10)
    one = torch.ones(1, dtype=torch.float64)
    _, only_x, only_weight, only_bias = by_classes([ClassBlock(W, b, 0, 37)], x[1:], target[1:], one, 10)
    torch.testing.assert_close(d_weight, 3 * only_weight, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(d_bias, 3 * only_bias, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(d_x[1:], 3 * only_x, rtol=1e-13, atol=1e-15)
    assert (d_x[0] == 0).all()


def test_small_probabilities_are_not_dropped():
    """100,000 classes of about 1e-5 each all get their gradient: nothing is filtered.

    All logits 0: every class but the label's gets exactly 1 / K.
    """
    n_classes = 100_000
    W, b = torch.zeros(n_classes, 1), torch.zeros(n_classes)
    _, _, _, d_bias = by_classes(
        [ClassBlock(W, b, 0, n_classes)], torch.ones(1, 1), torch.tensor([7]), torch.ones(1), 8192
    )
    others = torch.cat([d_bias[:7], d_bias[8:]])
    assert others.min().item() == pytest.approx(1e-5, rel=1e-5)
    assert others.max().item() == pytest.approx(1e-5, rel=1e-5)


def test_a_class_weight_times_smoothing_weighs_the_whole_row():
    """A row's weight w_y multiplies its smoothed loss, as in the dense head: the mean divides by the sum of w_y."""
    x, W, b, target, _ = problem()
    class_weight = torch.linspace(0.5, 2.0, 37, dtype=torch.float64)
    weight = class_weight[target]
    z = (x @ W.T + b).unsqueeze(0)
    dense = loss_and_gradient(z, target, weight, label_smoothing=0.3)
    loss, _, _, d_bias = by_classes([ClassBlock(W, b, 0, 37)], x, target, weight, 8, smoothing=0.3)
    assert loss.item() == pytest.approx(dense.item(), rel=1e-12)
    torch.testing.assert_close(d_bias, z[0].sum(0), rtol=1e-11, atol=1e-13)


def test_repeated_steps_give_the_same_gradients():
    """Calling twice gives the same bits: no buffer of the first call is left in the second."""
    x, W, b, target, weight = problem()
    head = TiledHead(ClassBlock(W, b, 0, 37), len(x), 10)
    results = []
    for _ in range(2):
        sums, d_x, parts = head.first_pass(x, target), torch.zeros_like(x), []
        head.second_pass(x, target, weight, sums, d_x, lambda a, b, dW, db, parts=parts: parts.append(dW.clone()))
        results.append((d_x, torch.cat(parts)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_logits_far_apart_neither_overflow_nor_underflow(scale):
    """Logits of +-1e4 or 1e30 give a finite loss and gradients within the rows' weights."""
    x, W, b, target, weight = problem(dtype=torch.float32)
    loss, _, _, d_bias = by_classes([ClassBlock(W * scale, b, 0, 37)], x, target, weight, 10)
    assert torch.isfinite(loss)
    assert d_bias.abs().max().item() <= weight.sum().item() + 1e-4


def test_overflow_is_known_after_the_first_pass():
    """Infinite logits give a loss that is not finite before any gradient is computed."""
    x, W, b, target, weight = problem(dtype=torch.float32)
    head = TiledHead(ClassBlock(W * 1e38, b, 0, 37), len(x), 10)
    sums = head.first_pass(x * 1e3, target)
    assert not torch.isfinite((weight * row_losses(sums, 0.0, 37)).sum())


def test_the_loss_is_never_negative():
    """A row that is all but certain has a loss of 0, not of minus a rounding error."""
    x, W, b, _, _ = problem(200, 30, 50, dtype=torch.float32)
    target = (x @ (20 * W).T + b).argmax(1)
    sums = TiledHead(ClassBlock(20 * W, b, 0, 50), 200, 7).first_pass(x, target)
    assert row_losses(sums, 0.0, 50).min().item() >= -1e-6


def test_the_update_of_a_tile_does_not_reach_the_others():
    """Weights changed at a visit, as a fused optimizer does, leave every other tile's gradient as it was."""
    x, W, b, target, weight = problem()
    expected = with_autograd(x, W, b, target, weight)
    W = W.clone()
    head, d_x, parts = TiledHead(ClassBlock(W, b, 0, 37), len(x), 10), torch.zeros_like(x), []

    def visit(start, stop, dW, db):
        parts.append(dW.clone())
        W[start:stop] += 100.0

    head.second_pass(x, target, weight, head.first_pass(x, target), d_x, visit)
    torch.testing.assert_close(torch.cat(parts), expected[2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(d_x, expected[1], rtol=1e-12, atol=1e-12)


def test_sums_of_blocks_merge_in_any_order():
    """RowSums.merge is commutative and what one pass over both blocks gives."""
    x, W, b, target, _ = problem()
    one = TiledHead(ClassBlock(W[:20], b[:20], 0, 37), 13, 8, label_smoothing=0.1).first_pass(x, target)
    two = TiledHead(ClassBlock(W[20:], b[20:], 20, 37), 13, 8, label_smoothing=0.1).first_pass(x, target)
    both = TiledHead(ClassBlock(W, b, 0, 37), 13, 8, label_smoothing=0.1).first_pass(x, target)
    for merged in (one.merge(two), two.merge(one)):
        for name in RowSums.__dataclass_fields__:
            torch.testing.assert_close(getattr(merged, name), getattr(both, name), rtol=1e-13, atol=1e-13)
