"""Prediction sets: the coverage they promise, the edges where others fail, and their plain data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from softmaxnet.conformal import PredictionSets, fit_sets, rows_needed
from softmaxnet.errors import DataError, ModelFileError, UsageError
from softmaxnet.metrics import set_coverage
from softmaxnet.softmax import softmax

METHODS = ("lac", "aps", "raps")


def _sample(n: int, k: int = 6, *, seed: int = 0, stated: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels; ``stated`` other than 1 makes the probabilities wrong."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 1.5
    labels = (logits + rng.gumbel(size=(n, k))).argmax(axis=1)
    return softmax(stated * logits), labels


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stated", [1.0, 4.0])
def test_coverage_holds_for_any_model(method: str, per_class: bool, stated: float) -> None:
    """At 80, 90 and 95 % fresh rows are covered as promised, for a calibrated and an overconfident model."""
    fitted = fit_sets(*_sample(4000, stated=stated), method=method, per_class=per_class)
    proba, labels = _sample(20_000, seed=1, stated=stated)
    for coverage in (0.8, 0.9, 0.95):
        result = set_coverage(fitted.predict(proba, coverage), labels)
        assert result["coverage"] > coverage - 0.015
        if per_class:
            assert min(result["class_coverage"]) > coverage - 0.04


def test_coverage_of_small_samples_is_exact_on_average() -> None:
    """With 19 calibration rows the mean coverage at 90 % is that of the 18th of 19 scores, 18 / 20."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(600):
        p = rng.uniform(0.5, 1, 60)
        proba = np.column_stack([p, 1 - p])
        labels = (rng.random(60) > p).astype(int)
        fitted = fit_sets(proba[:19], labels[:19])
        scores = 1 - proba[np.arange(60), labels]
        held.append((scores[19:] <= fitted.threshold(0.9)).mean())
    assert_allclose(np.mean(held), 18 / 20, atol=0.01)


def test_threshold_is_the_corrected_quantile() -> None:
    """The threshold is the ceil((n + 1) coverage)-th smallest score, without an error of rounding."""
    proba = np.column_stack([1 - np.arange(1, 100) / 100, np.arange(1, 100) / 100])
    fitted = fit_sets(proba, np.zeros(99, int))  # scores 0.01 .. 0.99
    for coverage, rank in ((0.9, 90), (0.95, 95), (0.5, 50), (0.901, 91), (0.99, 99)):
        assert_allclose(fitted.threshold(coverage), [rank / 100])


def test_too_few_rows_are_refused_with_the_number_needed() -> None:
    """18 rows cannot give 95 %: the error says that 19 can; per class it names the classes."""
    proba, labels = _sample(19)
    with pytest.raises(
        DataError, match=r"95 needs at least 19 calibration rows, but there are 18: .* at most 0\.9473"
    ):
        fit_sets(proba[:18], labels[:18]).predict(proba, 0.95)
    fit_sets(proba, labels).predict(proba, 0.95)
    fit_sets(proba[:18], labels[:18]).predict(proba, 0.9473)
    proba, labels = _sample(600)
    short = labels != 2
    with pytest.raises(
        DataError, match=r"at least 9 calibration rows of every class, but 1 of 6 have fewer: class 2 \(0\)"
    ):
        fit_sets(proba[short], labels[short], per_class=True).predict(proba, 0.9)


def test_rows_needed() -> None:
    """80, 90, 95 and 99 % need 4, 9, 19 and 99 rows."""
    assert [rows_needed(c) for c in (0.8, 0.9, 0.95, 0.99)] == [4, 9, 19, 99]
    with pytest.raises(UsageError, match="coverage"):
        rows_needed(1.0)


@pytest.mark.parametrize("method", METHODS)
def test_most_probable_class_is_always_in(method: str) -> None:
    """No set is empty: the most probable class is in it even at a coverage of 10 %."""
    proba, labels = _sample(500)
    sets = fit_sets(proba, labels, method=method).predict(proba, 0.1)
    assert sets[np.arange(500), proba.argmax(axis=1)].all()


@pytest.mark.parametrize("method", METHODS)
def test_same_row_same_set(method: str) -> None:
    """A row's set depends on that row only: not on its neighbours, its place, the call, or the last bit."""
    proba, labels = _sample(300)
    fitted = fit_sets(proba, labels, method=method)
    together = fitted.predict(proba, 0.9)
    assert_array_equal(fitted.predict(proba[::-1], 0.9)[::-1], together)
    assert_array_equal(
        np.concatenate([fitted.predict(proba[i : i + 1], 0.9) for i in range(30)]), together[:30]
    )
    fresh, _ = _sample(300, seed=1)
    assert_array_equal(fitted.predict(fresh * (1 + 1e-15), 0.9), fitted.predict(fresh, 0.9))


def test_sets_grow_with_the_coverage() -> None:
    """A set of a higher coverage contains that of a lower one."""
    proba, labels = _sample(500)
    for method in METHODS:
        fitted = fit_sets(proba, labels, method=method)
        small, large = fitted.predict(proba, 0.8), fitted.predict(proba, 0.95)
        assert np.all(large[small])
        assert large.sum() > small.sum()


def test_randomisation_makes_the_sets_smaller() -> None:
    """APS without randomisation is too careful; with it sets shrink, and RAPS shrinks the largest."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6000, 200)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    proba = softmax(logits)
    size, largest = {}, {}
    for name, kwargs in {
        "careful": {"method": "aps", "randomized": False},
        "aps": {"method": "aps"},
        "raps": {"method": "raps", "penalty": 0.05, "free_rank": 20},
        "lac": {"method": "lac"},
    }.items():
        result = set_coverage(
            fit_sets(proba[:3000], labels[:3000], **kwargs).predict(proba[3000:], 0.9), labels[3000:]
        )
        assert result["coverage"] > 0.88
        size[name], largest[name] = result["mean_size"], len(result["sizes"]) - 1
    assert size["lac"] < size["aps"] < size["careful"]
    assert largest["raps"] < 0.8 * largest["aps"]


def test_hash_is_uniform() -> None:
    """The number drawn from a row's probabilities is uniform over rows, and the same for the same row."""
    from softmaxnet.conformal import _row_uniform

    uniform = _row_uniform(_sample(20_000)[0])
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert_allclose(
        np.quantile(uniform, [0.1, 0.25, 0.5, 0.75, 0.9]), [0.1, 0.25, 0.5, 0.75, 0.9], atol=0.012
    )
    # pinned: models saved by one version must give the same sets in the next
    assert_allclose(_row_uniform(np.array([[0.77, 0.17, 0.06]])), HASH_OF_THE_EXAMPLE, rtol=1e-15)


# splitmix64(sum_k splitmix64(k + 1) * (round(4096 p_k) + 1) mod 2^64) / 2^64 with Python's integers
HASH_OF_THE_EXAMPLE = 0.8050206584318149


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6), k=st.integers(1, 6), per_class=st.booleans(), method=st.sampled_from(METHODS)
)
def test_state_round_trip(seed: int, k: int, per_class: bool, method: str) -> None:
    """What to_state writes, from_state reads, and the sets are the same."""
    proba, labels = _sample(60 * k, k, seed=seed)
    labels[: 10 * k] = np.arange(10 * k) % k
    fitted = fit_sets(proba, labels, method=method, per_class=per_class)
    again = PredictionSets.from_state(*fitted.to_state())
    assert_array_equal(again.predict(proba, 0.9), fitted.predict(proba, 0.9))


def _damaged() -> list[tuple[dict, dict]]:
    meta, tensors = fit_sets(*_sample(100), method="raps", per_class=True).to_state()
    changes: list[tuple[str, object]] = [
        ("method", "magic"),
        ("method", None),
        ("n_classes", 0),
        ("n_classes", 6.0),
        ("n_classes", 7),
        ("free_rank", -1),
        ("penalty", -1.0),
        ("penalty", float("nan")),
        ("penalty", True),
        ("per_class", 1),
        ("per_class", False),
        ("randomized", None),
        ("unknown", 1),
    ]
    states = [({**meta, name: value}, tensors) for name, value in changes]
    scores, counts = tensors["conformal.scores"], tensors["conformal.counts"]
    states += [({}, tensors), (meta, {}), (meta, {"conformal.scores": scores})]
    for name, value in (
        ("conformal.scores", scores[:-1]),
        ("conformal.scores", scores[::-1]),
        ("conformal.scores", scores.astype(np.float32)),
        ("conformal.scores", np.where(np.arange(len(scores)) == 3, np.nan, scores)),
        ("conformal.scores", scores[:, None]),
        ("conformal.scores", scores[:0]),
        ("conformal.counts", counts[:-1]),
        ("conformal.counts", counts.astype(np.float64)),
        ("conformal.counts", np.array([2**62, 2**62, 2**62, 2**62, 50, 50])),
        ("conformal.counts", counts * [1, 1, 1, 1, 1, -1]),
    ):
        states.append((meta, {**tensors, name: value}))
    return states


@pytest.mark.parametrize(("meta", "tensors"), _damaged())
def test_damaged_state_is_refused(meta: dict, tensors: dict) -> None:
    """A state with anything missing, of another type, shape, order or value is a ModelFileError."""
    with pytest.raises(ModelFileError, match="conformal"):
        PredictionSets.from_state(meta, tensors)


def test_bad_input() -> None:
    """Methods, settings, rows and numbers of classes that cannot be are named."""
    proba, labels = _sample(50)
    fitted = fit_sets(proba, labels)
    with pytest.raises(UsageError, match="lac, aps, raps"):
        fit_sets(proba, labels, method="topk")
    with pytest.raises(UsageError, match="penalty"):
        fit_sets(proba, labels, method="raps", penalty=-1)
    with pytest.raises(DataError, match="no calibration rows"):
        fit_sets(proba[:0], labels[:0])
    with pytest.raises(DataError, match="row 0: label 9"):
        fit_sets(proba, labels * 0 + 9)
    with pytest.raises(DataError, match="row 1: probabilities"):
        fit_sets([[0.5, 0.5], [0.9, 0.3]], [0, 1])
    with pytest.raises(DataError, match="row 0: probabilities"):
        fit_sets([[np.nan, 0.5], [0.9, 0.1]], [0, 1])
    with pytest.raises(DataError, match="fitted for 6"):
        fitted.predict(softmax(np.zeros((1, 5))), 0.9)
    for coverage in (0.0, 1.0, 90, float("nan")):
        with pytest.raises(UsageError, match="coverage"):
            fitted.predict(proba, coverage)


def test_one_class_and_no_rows() -> None:
    """With one class the set is that class; no rows give no sets."""
    fitted = fit_sets(np.ones((20, 1)), np.zeros(20, int))
    assert fitted.predict(np.ones((2, 1)), 0.9).all()
    assert fitted.predict(np.ones((0, 1)), 0.9).shape == (0, 1)


def test_sets_cannot_be_changed() -> None:
    """The scores are read-only."""
    fitted = fit_sets(*_sample(50))
    with pytest.raises(ValueError, match="read-only"):
        fitted.scores[0] = 0


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_sets_that_may_be_empty_cover_what_was_asked(method: str) -> None:
    """A model that is right in 96 % covers 80 % where sets may be empty, and its accuracy where they may not."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 40_000)
    logits = rng.normal(size=(40_000, 4)) + 5 * np.eye(4)[labels]
    proba = softmax(logits)
    sets = fit_sets(proba[:20_000], labels[:20_000], method=method)
    rest = np.arange(20_000), labels[20_000:]
    plain = sets.predict(proba[20_000:], 0.8, allow_empty=True)
    returned = sets.predict(proba[20_000:], 0.8)
    assert abs(plain[rest].mean() - 0.8) < 0.01
    assert (~plain.any(axis=1)).any()
    assert returned.any(axis=1).all()
    assert returned[rest].mean() >= (proba[20_000:].argmax(axis=1) == labels[20_000:]).mean()
