"""Predictions tile by tile of the classes against those of whole logits."""

from __future__ import annotations

import numpy as np
import pytest

import softmaxnet.model as model_module
from softmaxnet.calibration import Calibration
from softmaxnet.class_tiles import TopClasses, class_logits, tile_width
from softmaxnet.errors import DataError
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.model import SoftmaxModel, top_classes
from softmaxnet.network import NetworkSpec, forward, head_inputs, parameter_shapes
from softmaxnet.softmax import logsumexp

CASES = [(1, "softmax"), (3, "softmax"), (1, "sigmoid"), (2, "sigmoid")]


def network(n_members: int = 1, output: str = "softmax", n_classes: int = 50, hidden=(7,)):
    """Return (spec, params) with random numbers."""
    spec = NetworkSpec(4, 0, n_classes, hidden, "tanh", n_members, output)
    rng = np.random.default_rng(0)
    return spec, {name: rng.normal(size=shape) * 2 for name, shape in parameter_shapes(spec).items()}


def model_of(n_members: int = 1, output: str = "softmax", n_classes: int = 50, **settings) -> SoftmaxModel:
    """Return a model with a temperature."""
    spec, params = network(n_members, output, n_classes, **settings)
    encoder = FeatureEncoder.fit(np.random.default_rng(1).normal(size=(20, 4)), features="raw")
    classes = np.array([f"class {i:03d}" for i in range(n_classes)])
    return SoftmaxModel(encoder, spec, params, Calibration("temperature", 0.7), classes)


@pytest.fixture
def tiled(monkeypatch):
    """Make models of more than 10 classes go by tiles of 16 classes and chunks of 6 rows."""
    monkeypatch.setattr(model_module, "MOST_WHOLE_CLASSES", 10)
    monkeypatch.setattr(model_module, "TILED_ROWS", 6)
    monkeypatch.setattr("softmaxnet.class_tiles.tile_width", lambda *_: 16)


@pytest.mark.parametrize(("n_members", "output"), CASES)
@pytest.mark.parametrize("hidden", [(7,), ()])
@pytest.mark.parametrize("tile", [1, 16, 50, 64])
def test_tiles_are_the_columns_of_the_logits(n_members, output, hidden, tile):
    """The tiles side by side are what forward returns, to 1e-12."""
    spec, params = network(n_members, output, hidden=hidden)
    dense = np.random.default_rng(2).normal(size=(9, 4))
    last = f"layers.{spec.n_layers - 1}"
    x = head_inputs(spec, params, dense)
    parts = list(class_logits(spec, params[f"{last}.weight"], params[f"{last}.bias"], x, tile))
    assert [start for start, _ in parts] == list(range(0, 50, tile))
    expected = forward(spec, params, dense)
    np.testing.assert_allclose(np.hstack([part for _, part in parts]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("n_members", "output"), CASES)
def test_predictions_by_tiles_are_those_of_whole_logits(n_members, output, monkeypatch):
    """Labels and top 5 are the same ones, probabilities to 1e-12; several chunks of rows, and none."""
    model, X = model_of(n_members, output), np.random.default_rng(3).normal(size=(20, 4))
    labels, (top, proba) = model.predict(X), model.predict_topk(X, 5)
    assert not model._is_tiled
    monkeypatch.setattr(model_module, "MOST_WHOLE_CLASSES", 10)
    monkeypatch.setattr(model_module, "TILED_ROWS", 6)
    monkeypatch.setattr("softmaxnet.class_tiles.tile_width", lambda *_: 16)
    model = model_of(n_members, output)
    assert model._is_tiled
    assert model.predict(X).tolist() == labels.tolist()
    found_top, found = model.predict_topk(X, 5)
    assert found_top.tolist() == top.tolist()
    np.testing.assert_allclose(found, proba, rtol=1e-12)
    assert model.predict_topk(X[:0], 5)[0].shape == (0, 5)
    assert model.predict(X[:0]).shape == (0,)


def test_weights_by_class_are_not_copied():
    """A float32 head whose rows are the classes, as training leaves it, is used where it lies."""
    spec = NetworkSpec(4, 0, 30_000, (7,), "relu")
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in parameter_shapes(spec).items()}
    by_class = np.ascontiguousarray(params["layers.1.weight"].swapaxes(1, 2))
    X = rng.normal(size=(3, 4)).astype(np.float32)
    encoder = FeatureEncoder.fit(X, features="raw")
    models = [
        SoftmaxModel(encoder, spec, params | {"layers.1.weight": weight}, Calibration(), np.arange(30_000))
        for weight in (params["layers.1.weight"], by_class.swapaxes(1, 2))
    ]
    assert np.shares_memory(models[1]._prepared["layers.1.weight"], by_class)
    top, proba = zip(*(model.predict_topk(X, 3) for model in models), strict=True)
    assert top[0].tolist() == top[1].tolist()
    np.testing.assert_allclose(proba[0], proba[1], rtol=1e-5)


def test_rows_whose_numbers_overflow_are_named(tiled):
    """A row that gives infinite logits is refused by its number, as with whole logits."""
    model = model_of(hidden=())
    X = np.zeros((20, 4))
    X[13] = 1e308
    with pytest.raises(DataError, match="row 13"):
        model.predict_topk(X, 2)


@pytest.mark.parametrize("k", [1, 3, 40])
def test_the_top_of_tiles_is_the_top_of_the_whole(k):
    """Many equal logits among them: of equals the earlier class comes first, across tiles as within one."""
    logits = np.random.default_rng(0).integers(0, 6, (30, 40)).astype(np.float64)
    top = TopClasses(30, k)
    for start in range(0, 40, 7):
        top.add(start, logits[:, start : start + 7])
    labels, proba = top.result()
    expected, expected_proba = top_classes(logits, k)
    assert labels.tolist() == expected.tolist()
    np.testing.assert_allclose(proba, expected_proba, rtol=1e-13)
    np.testing.assert_allclose(top.log_sum_exp(), logsumexp(logits), rtol=1e-13)


def test_logits_that_rise_by_thousands_neither_overflow_nor_vanish():
    """Each tile 1,000 nats above the one before: the log-sum-exp is that of the last."""
    top = TopClasses(1, 1)
    for tile in range(5):
        top.add(2 * tile, np.array([[1000.0 * tile, -1e5]]))
    assert top.log_sum_exp()[0] == pytest.approx(4000.0)
    assert top.result()[0].item() == 8


def test_a_tile_takes_eight_mebibytes():
    """The logits of one tile, of all members, take 8 MiB at most, and 256 classes at least."""
    spec = NetworkSpec(8, 0, 1_000_000, n_members=2)
    assert tile_width(spec, 256, 4) == 4096
    assert tile_width(spec, 10**6, 4) == 256
    assert tile_width(NetworkSpec(8, 0, 100), 256, 4) == 100
