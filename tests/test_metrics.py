"""Metrics against closed forms, scikit-learn, and what a perfect model reads."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from softmaxnet import metrics as m
from softmaxnet.errors import DataError, UsageError
from softmaxnet.softmax import log_softmax, softmax

# The three-row table of votes: outputs, and the class that was right.
VOTES = np.array([[0.3, 0.3, 0.4], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
VOTE_LABELS = np.array([2, 1, 0])


@pytest.fixture(name="rows")
def _rows() -> dict[str, np.ndarray]:
    """200 rows of 7 classes with labels and weights."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(200, 7)) * 2
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return {"logits": logits, "labels": labels, "sample_weight": rng.uniform(size=200)}


# --- losses and accuracies ----------------------------------------------------------------------------------


def test_table_of_votes() -> None:
    """The table of votes has log loss 1.3783889, accuracy 2/3 and Brier score (.54 + .54 + 1.34) / 3."""
    assert_allclose(m.log_loss(np.log(VOTES), VOTE_LABELS), -np.log([0.4, 0.4, 0.1]).mean(), rtol=1e-14)
    assert m.accuracy(VOTES, VOTE_LABELS) == pytest.approx(2 / 3)
    # .3^2 + .3^2 + .6^2 twice, and .9^2 + .2^2 + .7^2
    assert_allclose(m.brier_score(VOTES, VOTE_LABELS), (0.54 + 0.54 + 1.34) / 3, rtol=1e-14)


@pytest.mark.parametrize("weighted", [False, True])
def test_agrees_with_sklearn(rows: dict[str, np.ndarray], weighted: bool) -> None:
    """Log loss and the accuracies are scikit-learn's, with and without weights."""
    from sklearn import metrics as reference

    logits, labels, proba = rows["logits"], rows["labels"], softmax(rows["logits"])
    kwargs = {"sample_weight": rows["sample_weight"]} if weighted else {}
    predicted = logits.argmax(axis=1)
    assert_allclose(
        m.log_loss(log_softmax(logits), labels, **kwargs),
        reference.log_loss(labels, proba, labels=range(7), **kwargs),
        rtol=1e-12,
    )
    assert_allclose(
        m.accuracy(logits, labels, **kwargs), reference.accuracy_score(labels, predicted, **kwargs)
    )
    assert_allclose(
        m.balanced_accuracy(logits, labels, **kwargs),
        reference.balanced_accuracy_score(labels, predicted, **kwargs),
    )
    for k in (1, 3, 6):
        expected = reference.top_k_accuracy_score(labels, logits, k=k, labels=range(7), **kwargs)
        assert_allclose(m.top_k_accuracy(logits, labels, k, **kwargs), expected)
    squares = ((proba - np.eye(7)[labels]) ** 2).sum(axis=1)
    expected = np.average(squares, weights=kwargs.get("sample_weight"))
    assert_allclose(m.brier_score(proba, labels, **kwargs), expected)


def test_ties_go_to_the_first_class() -> None:
    """Of equal scores the lower class number is the prediction, as argmax has it."""
    scores = np.zeros((3, 3))
    assert m.accuracy(scores, [0, 1, 2]) == pytest.approx(1 / 3)
    assert m.top_k_accuracy(scores, [0, 1, 2], 2) == pytest.approx(2 / 3)


def test_classes_without_rows_are_no_special_case() -> None:
    """A class that no row has changes neither losses nor balanced accuracy."""
    log_proba = np.log([[0.5, 0.25, 0.25]] * 4)
    assert_allclose(m.log_loss(log_proba, [0, 0, 1, 1]), 1.5 * np.log(2))
    assert m.balanced_accuracy(log_proba, [0, 0, 1, 1]) == 0.5


def test_impossible_label_is_an_infinite_loss() -> None:
    """A label of probability 0 makes the log loss infinite, unless its row has no weight."""
    log_proba = np.array([[0.0, -np.inf], [0.0, -np.inf]])
    assert m.log_loss(log_proba, [0, 1]) == np.inf
    assert m.log_loss(log_proba, [0, 1], sample_weight=[1.0, 0.0]) == 0


def test_no_rows_is_nan() -> None:
    """Without rows every metric is NaN, not 0, and the table of bins is empty."""
    scores, labels, none = np.empty((0, 3)), np.empty(0, int), np.empty(0)
    for function in (m.log_loss, m.brier_score, m.accuracy, m.balanced_accuracy):
        assert np.isnan(function(scores, labels)), function.__name__
    for function in (m.smooth_calibration_error, m.binned_calibration_error):
        assert np.isnan(function(none, none)), function.__name__
    assert np.isnan(m.classwise_calibration_error(scores, labels)).all()
    assert np.isnan(list(m.calibration_error_null(none).values())).all()
    assert np.isnan(m.mean_interval(none)).all()
    assert np.isnan(m.proportion_interval(float("nan"), 0)).all()
    assert np.isnan(m.bootstrap_interval(np.mean, none)).all()
    assert m.reliability_bins(none, none) == []
    assert m.reliability_curve(none, none).n_rows == 0
    assert m.evaluate_log_proba(scores, labels)["log_loss"] is None


# --- intervals ----------------------------------------------------------------------------------------------


def test_intervals_hold_what_they_should() -> None:
    """In 400 repetitions the 95 % intervals of a mean and of a share hold the truth in about 95 %."""
    rng = np.random.default_rng(0)
    inside = np.zeros(2)
    for _ in range(400):
        low, high = m.mean_interval(rng.exponential(size=300))
        inside[0] += low < 1 < high
        low, high = m.proportion_interval(rng.binomial(60, 0.9) / 60, 60)
        inside[1] += low < 0.9 < high
    assert np.all((inside / 400 > 0.91) & (inside / 400 < 0.985))


def test_intervals_at_the_edges() -> None:
    """All right is no certainty; one row says nothing of a mean; a level outside (0, 1) is refused."""
    assert m.proportion_interval(1.0, 10)[0] < 0.75
    assert m.proportion_interval(0.0, 10)[0] == 0.0
    assert m.mean_interval([1.0]) == (-np.inf, np.inf)
    with pytest.raises(UsageError, match="level"):
        m.mean_interval([1.0, 2.0], level=95)


def test_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    """For a mean of many rows the percentile bootstrap is close to the normal interval."""
    values = np.random.default_rng(1).normal(size=2000)
    boot = m.bootstrap_interval(lambda v: float(v.mean()), values, n_resamples=1000)
    assert_allclose(boot, m.mean_interval(values), atol=0.008)
    assert boot == m.bootstrap_interval(lambda v: float(v.mean()), values, n_resamples=1000)


# --- calibration errors -------------------------------------------------------------------------------------


def _smooth_by_quadrature(confidence: np.ndarray, correct: np.ndarray) -> float:
    """The definition, with a sum over reflections and a fine grid, and bisection for the fixed point."""
    grid = (np.arange(4000) + 0.5) / 4000

    def smoothed(width: float) -> float:
        total = np.zeros_like(grid)
        for c, r in zip(confidence, correct - confidence, strict=True):
            for centre in np.concatenate([c + 2.0 * np.arange(-3, 4), -c + 2.0 * np.arange(-3, 4)]):
                total += r * np.exp(-0.5 * ((grid - centre) / width) ** 2) / (width * np.sqrt(2 * np.pi))
        return float(np.abs(total / len(confidence)).mean())

    low, high = 1e-3, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if smoothed(middle) > middle else (low, middle)
    return low


@pytest.mark.parametrize("n", [3, 40])
def test_smooth_error_is_its_definition(n: int) -> None:
    """The cosine transform gives what quadrature of the reflected Gaussians gives."""
    rng = np.random.default_rng(n)
    confidence = rng.uniform(size=n)
    correct = (rng.random(n) < confidence**2).astype(float)
    assert_allclose(
        m.smooth_calibration_error(confidence, correct), _smooth_by_quadrature(confidence, correct), atol=5e-4
    )


def test_smooth_error_of_a_constant_gap() -> None:
    """Confidence .8 and 60 % right is an error of .2, one of 1.0 with nothing right is 1."""
    assert_allclose(m.smooth_calibration_error(np.full(100, 0.8), np.arange(100) < 60), 0.2, atol=1e-6)
    assert_allclose(m.smooth_calibration_error(np.ones(10), np.zeros(10)), 1.0, atol=1e-6)


def test_certain_and_right_is_no_error() -> None:
    """Confidences of exactly 1 that are right, and of 0 that are wrong, read exactly 0."""
    confidence = np.array([1.0, 1.0, 0.0])
    assert m.smooth_calibration_error(confidence, [1, 1, 0]) == 0
    assert m.binned_calibration_error(confidence, [1, 1, 0]) == 0


def test_smooth_error_falls_with_the_rows_of_a_perfect_model() -> None:
    """A perfect model reads less the more rows there are, and a wrong one keeps its error."""
    rng = np.random.default_rng(0)
    perfect, wrong = [], []
    for n in (100, 1000, 10_000):
        confidence = rng.uniform(0.5, 1, n)
        perfect.append(m.smooth_calibration_error(confidence, rng.random(n) < confidence))
        wrong.append(m.smooth_calibration_error(confidence, rng.random(n) < confidence - 0.2))
    assert perfect[0] > perfect[1] > perfect[2]
    assert_allclose(wrong[1:], 0.2, atol=0.03)


def test_perfect_model_reads_its_noise_floor() -> None:
    """A perfect model at n = 100 and 15 bins reads about 0.087, which is the noise of its bins.

    Each bin holds n / 15 rows, whose sum of (y - p) is about normal with variance sum p (1 - p), so that the
    error is near sqrt(2 / pi) * mean sqrt(p (1 - p)) * sqrt(15 / n).
    """
    confidence = np.linspace(0.78, 1.0, 100)
    null = m.calibration_error_null(confidence, n_resamples=1000)
    expected = np.sqrt(2 / np.pi) * np.sqrt(confidence * (1 - confidence)).mean() * np.sqrt(15 / 100)
    assert_allclose(null["median"], 0.087, atol=0.005)
    assert_allclose(null["median"], expected, rtol=0.08)
    assert null["low"] < null["median"] < null["high"]
    assert m.calibration_error_null(confidence, n_bins=None)["median"] < null["median"]


def test_null_interval_holds_a_perfect_model() -> None:
    """Of 100 perfect models, about 95 lie inside their own null interval; an overconfident one does not."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        confidence = rng.uniform(0.3, 1, 200)
        null = m.calibration_error_null(confidence, n_resamples=100)
        inside += (
            null["low"]
            <= m.binned_calibration_error(confidence, rng.random(200) < confidence)
            <= null["high"]
        )
    assert inside >= 85
    error = m.binned_calibration_error(confidence, rng.random(200) < confidence - 0.25)
    assert error > null["high"]


def test_bins_have_equal_mass_and_do_not_split_ties() -> None:
    """150 distinct confidences fill 15 bins of 10; rows of one confidence share a bin, in any order."""
    confidence = np.random.default_rng(0).permutation(np.linspace(0, 1, 150))
    assert [row["n_rows"] for row in m.reliability_bins(confidence, confidence)] == [10] * 15
    tied = np.array([0.2] * 50 + [0.9] * 100)
    correct = np.random.default_rng(0).random(150) < tied
    table = m.reliability_bins(tied, correct)
    assert [row["n_rows"] for row in table] == [50, 100]
    assert_allclose([row["accuracy"] for row in table], [correct[:50].mean(), correct[50:].mean()])
    order = np.random.default_rng(1).permutation(150)
    assert_allclose(
        m.binned_calibration_error(tied[order], correct[order]), m.binned_calibration_error(tied, correct)
    )


@settings(deadline=None, max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
    n_bins=st.integers(1, 20),
)
def test_binned_error_lies_between_its_bounds(pairs: list[tuple[float, bool]], n_bins: int) -> None:
    """Both errors are at least the gap of the means (one bin) and at most the mean distance."""
    confidence, correct = np.array([c for c, _ in pairs]), np.array([y for _, y in pairs])
    gap = abs((correct - confidence).mean())
    most = np.abs(correct - confidence).mean()
    assert gap - 1e-12 <= m.binned_calibration_error(confidence, correct, n_bins=n_bins) <= most + 1e-12
    assert gap - 1e-9 <= m.smooth_calibration_error(confidence, correct) + 1 / 4096
    assert m.smooth_calibration_error(confidence, correct) <= most + 1 / 4096  # it is read off a grid of that width


def test_weights_are_counts() -> None:
    """A weight of 2 is the row twice, in every calibration metric."""
    rng = np.random.default_rng(2)
    confidence, weight = rng.uniform(size=60), rng.integers(0, 3, 60)
    correct = rng.random(60) < confidence
    twice = np.repeat(np.arange(60), weight)
    for function in (m.binned_calibration_error, m.smooth_calibration_error):
        assert_allclose(
            function(confidence, correct, sample_weight=weight),
            function(confidence[twice], correct[twice]),
            atol=1e-9,
        )


def test_classwise_error_finds_the_bad_class() -> None:
    """A model that overstates one class only has its largest classwise error there."""
    rng = np.random.default_rng(0)
    truth = rng.dirichlet([2, 2, 2], 5000)
    labels = (truth.cumsum(axis=1) < rng.random(5000)[:, None]).sum(axis=1)
    stated = truth * [1, 1, 2]
    stated /= stated.sum(axis=1, keepdims=True)
    assert m.classwise_calibration_error(truth, labels).max() < 0.03
    assert m.classwise_calibration_error(stated, labels).argmax() == 2


def test_bad_confidences() -> None:
    """Confidences outside [0, 1], shapes that differ and impossible numbers of bins are refused."""
    with pytest.raises(DataError, match=r"row 1: the confidence 1\.2"):
        m.smooth_calibration_error([0.5, 1.2], [1, 1])
    with pytest.raises(DataError, match="row 0"):
        m.binned_calibration_error([np.nan], [1])
    with pytest.raises(DataError, match="one shape"):
        m.binned_calibration_error([0.5], [1, 0])
    with pytest.raises(UsageError, match="n_bins"):
        m.binned_calibration_error([0.5], [1], n_bins=0)
    with pytest.raises(UsageError, match="k must"):
        m.top_k_accuracy(VOTES, VOTE_LABELS, 0)
    with pytest.raises(DataError, match="row 1: sample_weight is -1"):
        m.binned_calibration_error([0.5, 0.5], [1, 0], sample_weight=[1, -1])


# --- the reliability curve ----------------------------------------------------------------------------------


def test_reliability_curve_follows_the_truth() -> None:
    """Where rows of confidence c are right with probability c - 0.1, so says the curve, in its band."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.4, 0.9, 20_000)
    curve = m.reliability_curve(confidence, rng.random(20_000) < confidence - 0.1, n_resamples=50)
    inner = (curve.confidence > 0.6) & (curve.confidence < 0.7)
    assert_allclose(curve.accuracy[inner], curve.confidence[inner] - 0.1, atol=0.02)
    assert np.all(curve.low[inner] <= curve.accuracy[inner])
    assert np.all(curve.high[inner] >= curve.accuracy[inner])
    assert_allclose(np.trapezoid(curve.density, curve.confidence), 1, atol=0.01)


def test_reliability_curve_of_perfect_certainty() -> None:
    """With all confidences at 1 and right the curve is 1 there, and nothing is said about the rest."""
    curve = m.reliability_curve(np.ones(50), np.ones(50), n_resamples=10)
    assert curve.accuracy[-1] == pytest.approx(1.0)
    assert np.isnan(curve.accuracy[0])
    assert curve.calibration_error == 0


# --- everything at once -------------------------------------------------------------------------------------


def test_evaluate_has_everything_in_plain_numbers(rows: dict[str, np.ndarray]) -> None:
    """The result is JSON without NaN, agrees with the single functions, and is the same in chunks."""
    log_proba, labels, weight = log_softmax(rows["logits"]), rows["labels"], rows["sample_weight"]
    result = m.evaluate_log_proba(log_proba, labels, sample_weight=weight, n_resamples=20)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert_allclose(result["log_loss"], m.log_loss(log_proba, labels, sample_weight=weight))
    assert_allclose(result["brier"], m.brier_score(np.exp(log_proba), labels, sample_weight=weight))
    assert_allclose(result["accuracy"], m.accuracy(log_proba, labels, sample_weight=weight))
    assert_allclose(result["balanced_accuracy"], m.balanced_accuracy(log_proba, labels, sample_weight=weight))
    assert_allclose(result["top_5_accuracy"], m.top_k_accuracy(log_proba, labels, 5, sample_weight=weight))
    assert (result["n_rows"], result["n_unseen"]) == (200, 0)
    assert result["calibration_error_null"]["low"] < result["calibration_error_null"]["median"]
    assert result["calibration_error_interval"][0] < result["calibration_error_interval"][1]
    parts = m.RowScores.concatenate(
        [m.score_rows(log_proba[:70], labels[:70]), m.score_rows(log_proba[70:], labels[70:])]
    )
    assert m.evaluate_rows(parts, 7, sample_weight=weight, n_resamples=20) == result


def test_unseen_labels_are_wrong_and_cost_nothing() -> None:
    """A label of -1 is wrong in the accuracy and left out of the log loss, given as a row or a number."""
    log_proba = np.log(VOTES)
    seen = m.evaluate_log_proba(log_proba[:2], VOTE_LABELS[:2])
    for result in (
        m.evaluate_log_proba(log_proba, np.array([2, 1, -1])),
        m.evaluate_log_proba(log_proba[:2], VOTE_LABELS[:2], n_unseen=1),
    ):
        assert result["accuracy"] == pytest.approx(2 / 3)
        assert (result["n_rows"], result["n_unseen"]) == (3, 1)
        for name in ("log_loss", "brier", "balanced_accuracy", "calibration_error"):
            assert result[name] == seen[name], name
        assert_allclose(result["accuracy_interval"], m.proportion_interval(2 / 3, 3))


def test_only_unseen_labels() -> None:
    """With nothing but unseen labels the accuracy is 0 and the losses are None."""
    result = m.evaluate_log_proba(np.log(VOTES), [-1, -1, -1])
    assert result["accuracy"] == 0
    assert result["log_loss"] is None
    assert result["calibration_error"] is None


def test_labels_below_unseen_are_refused() -> None:
    """A label of -2, or one too high, is an error with its row."""
    for bad in (-2, 3):
        with pytest.raises(DataError, match=f"row 1: label {bad}"):
            m.evaluate_log_proba(np.log(VOTES), [0, bad, 0])


def test_float32_confidence_above_one() -> None:
    """A float32 softmax whose highest value rounds above 1 is no error."""
    log_proba = np.array([[1e-7, -16.0]], np.float32)
    assert m.score_rows(log_proba, [0]).confidence[0] == 1.0
    assert m.evaluate_log_proba(log_proba, [0])["calibration_error"] < 1e-3


def test_set_coverage() -> None:
    """Coverage, per class and overall, and the sizes of the sets; an unseen label is covered by none."""
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]], bool)
    result = m.set_coverage(sets, [0, 1, 0, -1])
    assert result["coverage"] == 0.5
    assert result["sizes"] == [0, 2, 1, 1]
    assert result["class_coverage"] == [0.5, 1.0, None]
    assert result["mean_size"] == 1.75
    assert json.dumps(result, allow_nan=False)
    weighted = m.set_coverage(sets, [0, 1, 0, -1], sample_weight=[1, 1, 0, 0])
    assert weighted["coverage"] == 1.0


def test_inputs_are_left_alone(rows: dict[str, np.ndarray]) -> None:
    """No metric writes into what it was given."""
    log_proba = log_softmax(rows["logits"])
    before = log_proba.copy()
    m.evaluate_log_proba(log_proba, rows["labels"], n_resamples=2)
    assert_array_equal(log_proba, before)


def test_brier_score_has_its_interval(rows: dict[str, np.ndarray]) -> None:
    """The interval of the Brier score is that of the mean of its rows, around the score."""
    logits, labels = rows["logits"], rows["labels"]
    result = m.evaluate_log_proba(log_softmax(logits), labels)
    distance = ((softmax(logits) - np.eye(7)[labels]) ** 2).sum(axis=1)
    assert_allclose(result["brier_interval"], m.mean_interval(distance), rtol=1e-9)
    assert result["brier_interval"][0] < result["brier"] < result["brier_interval"][1]


def test_curve_of_a_perfect_model_is_the_diagonal_at_any_bandwidth() -> None:
    """With rows right as often as they say the curve is the diagonal, where the density is steep as well."""
    confidence = np.repeat(np.array([0.3, 0.5, 0.9, 0.95, 0.99, 1.0]), 100)
    share = np.tile(np.arange(100) / 100, 6)
    curve = m.reliability_curve(confidence, share < confidence - 1e-9, n_resamples=0).where_known()
    known = np.isfinite(curve.accuracy)
    assert known.any()
    assert not known.all()
    assert_allclose(curve.accuracy[known], curve.confidence[known], atol=1e-9)


def test_names_are_where_they_were() -> None:
    """What moved to other modules can still be imported from metrics."""
    from softmaxnet import means, reliability

    for module in (means, reliability):
        for name in set(module.__all__) & set(m.__all__):
            assert getattr(m, name) is getattr(module, name)
    assert set(reliability.__all__) <= set(m.__all__)
