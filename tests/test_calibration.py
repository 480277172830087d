"""Calibration against closed-form optima, brute force, and the ways in which others' searches fail."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import approx_fprime, minimize_scalar

from softmaxnet.calibration import (
    Calibration,
    fit_calibration,
    fit_temperature,
    held_out_log_loss_after_temperature,
    log_loss_parts,
)
from softmaxnet.errors import DataError, ModelFileError, UsageError
from softmaxnet.softmax import cross_entropy, softmax


def _sample(n: int, k: int, *, scale: float = 1.0, spread: float = 2.0, seed: int = 0) -> tuple:
    """Logits z and labels drawn from softmax(z); the logits are then multiplied by ``scale``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * spread
    labels = (logits + rng.gumbel(size=(n, k))).argmax(axis=1)
    return logits * scale, labels


def _right_rows(n: int, k: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n) % k
    return np.eye(k)[labels] * margin, labels


# --- temperature --------------------------------------------------------------------------------------------


def test_temperature_has_the_closed_form_optimum() -> None:
    """Two classes with one margin m and accuracy a have the optimum ln(a / (1 - a)) / m, up to half a row."""
    margin, n = 2.0, 40_000
    logits = np.tile([0.0, margin], (n, 1))
    labels = (np.arange(n) % 4 > 0).astype(int)  # 3 of 4 are right
    assert_allclose(fit_temperature(logits, labels), np.log(3) / margin, rtol=1e-3)


def test_temperature_minimises_the_documented_objective() -> None:
    """The result is the minimum of J(b) = loss + R(b) / n that a search without derivatives finds."""
    for scale in (0.3, 3.0):
        logits, labels = _sample(200, 4, scale=scale)
        weight = np.random.default_rng(1).uniform(0, 2, 200)
        n = weight.sum() ** 2 / (weight**2).sum()
        spread = np.average(logits.max(1) - logits.mean(1), weights=weight)

        def objective(log_b: float, *rest: object, z=logits, y=labels, w=weight, n=n, s=spread) -> float:
            b = np.exp(log_b)
            prior = 0.5 * (s if b > 1 else 1.0) * (b - 1 - np.log(b))
            return float(cross_entropy(b * z, y, sample_weight=w)) + prior / n

        expected = minimize_scalar(objective, bounds=(-4, 4), method="bounded", options={"xatol": 1e-9}).x
        assert_allclose(fit_temperature(logits, labels, weight), np.exp(expected), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.1, 1.0, 30.0, 1e3, 1e6])
def test_temperature_undoes_any_scale(scale: float) -> None:
    """Logits multiplied by 1e-6 to 1e6 come back to their own scale, within the sampling error."""
    logits, labels = _sample(3000, 10, scale=scale)
    assert_allclose(fit_temperature(logits, labels) * scale, 1.0, atol=0.06)


def test_all_right_states_an_error_of_about_half_a_row() -> None:
    """Where all n rows are right the temperature is finite and the stated error near (1 - 1/k) / (2 n)."""
    stated = []
    for n in (20, 200, 2000):
        logits, labels = _right_rows(n, 5, margin=0.5)
        beta = fit_temperature(logits, labels)
        stated.append(float((1 - softmax(beta * logits).max(axis=1)).mean()))
        assert 0.5 < stated[-1] / ((1 - 1 / 5) / (2 * n)) < 1.2
    assert stated[0] > stated[1] > stated[2]


def test_all_right_and_already_certain_is_left_alone() -> None:
    """Where no row is wrong and all are certain already, nothing is known and the temperature stays 1."""
    logits, labels = _right_rows(100, 5, margin=1000.0)
    assert fit_temperature(logits, labels) == 1.0


def test_logits_that_say_the_opposite() -> None:
    """Logits against the truth are flattened to almost uniform; the order of the classes stays."""
    logits, labels = _sample(500, 5)
    beta = fit_temperature(-logits, labels)
    assert 0 < beta < 0.02
    assert_array_equal((-beta * logits).argmax(axis=1), (-logits).argmax(axis=1))
    assert_allclose(cross_entropy(-beta * logits, labels), np.log(5), rtol=0.01)


@pytest.mark.parametrize("shape", [(50, 3), (0, 3), (50, 1)])
def test_no_information_is_temperature_one(shape: tuple[int, int]) -> None:
    """Constant logits, no rows and a single class leave the temperature at exactly 1."""
    labels = np.arange(shape[0]) % shape[1]
    assert fit_temperature(np.full(shape, 7.0), labels) == 1.0


def test_eleven_classes_with_large_logits_do_not_collapse() -> None:
    """At 99.6 % accuracy with logits in the hundreds the fit keeps the information.

    A search over the temperature that stops at a bound flattens such rows to 1/11 each, 2.4 nats.
    """
    rng = np.random.default_rng(0)
    n, k = 1000, 11
    labels = rng.integers(0, k, n)
    shown = labels.copy()
    shown[:4] = (labels[:4] + 1) % k  # 4 of 1,000 wrong
    logits = np.eye(k)[shown] * 800 + rng.normal(size=(n, k)) * 60
    before = cross_entropy(logits, labels)
    beta = fit_temperature(logits, labels)
    after = cross_entropy(beta * logits, labels)
    assert before > 2.0
    assert after < 0.06
    assert softmax(beta * logits).max(axis=1).mean() > 0.95


def test_impossible_classes() -> None:
    """Logits of -inf take no part; an impossible label is left out, and makes the loss infinite."""
    logits, labels = _sample(2000, 3, scale=2.0)
    wide = np.column_stack([logits, np.full(2000, -np.inf)])
    assert_allclose(fit_temperature(wide, labels), fit_temperature(logits, labels), rtol=1e-9)
    tiny = fit_temperature(wide * 1e-5, labels)
    assert_allclose(tiny * 1e-5, fit_temperature(logits * 1e-5, labels) * 1e-5, rtol=1e-6)
    some = labels.copy()
    some[0] = 3
    assert_allclose(fit_temperature(wide, some), fit_temperature(logits[1:], labels[1:]), rtol=1e-9)
    assert held_out_log_loss_after_temperature(wide, some)[0] == np.inf


def test_weights_are_counts() -> None:
    """A row of weight 0 is as good as absent, and the scale of the weights does not matter."""
    logits, labels = _sample(300, 4, scale=2.0)
    weight = np.repeat([1.0, 0.0], 150)
    expected = fit_temperature(logits[:150], labels[:150])
    assert_allclose(fit_temperature(logits, labels, weight), expected, rtol=1e-8)
    assert_allclose(fit_temperature(logits, labels, weight * 1e-6), expected, rtol=1e-8)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    k=st.integers(1, 6),
    scale=st.floats(-6, 6).map(lambda e: 10.0**e),
    informative=st.booleans(),
)
def test_never_worse_than_leaving_the_logits(
    seed: int, n: int, k: int, scale: float, informative: bool
) -> None:
    """On the rows given the log loss never rises above that of the logits as they are, whatever they are."""
    logits, labels = _sample(n, k, scale=scale, seed=seed)
    if not informative:
        labels = np.random.default_rng(seed + 1).integers(0, k, n)
    beta = fit_temperature(logits, labels)
    assert 0 < beta < np.inf
    before = float(cross_entropy(logits, labels))
    assert cross_entropy(beta * logits, labels) <= before + 1e-9 * (1 + before)
    loss, fast = held_out_log_loss_after_temperature(logits, labels)
    assert_allclose(fast, beta, rtol=1e-3)
    assert_allclose(loss, cross_entropy(fast * logits, labels), rtol=1e-9, atol=1e-12)


def test_float32_helper_agrees() -> None:
    """The helper of the training loop gives, from float32 logits, the loss and temperature of float64."""
    logits, labels = _sample(6000, 10, scale=3.0)
    loss, beta = held_out_log_loss_after_temperature(logits, labels)
    loss32, beta32 = held_out_log_loss_after_temperature(logits.astype(np.float32), labels)
    assert_allclose([loss32, beta32], [loss, beta], rtol=1e-5)
    assert_allclose(beta, fit_temperature(logits, labels), rtol=1e-4)


def test_few_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit takes about a dozen passes over the rows, on any scale at most 40."""
    from softmaxnet import calibration

    passes = []
    inner = calibration._loss_and_slope
    monkeypatch.setattr(calibration, "_loss_and_slope", lambda *args: passes.append(0) or inner(*args))
    for scale, most in ((3.0, 15), (1e6, 40), (1e-6, 40)):
        passes.clear()
        fit_temperature(*_sample(1000, 10, scale=scale))
        assert len(passes) <= most


def test_many_classes_in_blocks() -> None:
    """2,000 classes and more rows than a block give the same as the blocks' sum would."""
    logits, labels = _sample(700, 2000, scale=2.0)
    assert_allclose(fit_temperature(logits, labels), 0.5, atol=0.03)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.0, np.nan], [0, 0]], [0, 1], "row 0: the logits are NaN"),
        ([[0.0, 0.0], [np.inf, 0]], [0, 1], "row 1"),
        ([[0.0, 0.0], [-np.inf, -np.inf]], [0, 1], "row 1"),
        ([[0.0, 0.0], [0.0, 0.0]], [0, 2], "row 1: label 2"),
        ([0.0, 0.0], 0, "must have shape"),
    ],
)
def test_bad_rows_are_named(logits: list, labels: object, message: str) -> None:
    """NaN, +inf, rows without a distribution and labels out of range are errors with their row."""
    for function in (fit_temperature, fit_calibration, held_out_log_loss_after_temperature):
        with pytest.raises(DataError, match=message):
            function(np.array(logits), np.array(labels))


# --- matrix -------------------------------------------------------------------------------------------------


def _skewed(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are wrong by more than a temperature: each class is shifted and stretched."""
    rng = np.random.default_rng(99)
    shift, stretch = rng.normal(size=k) * 1.5, rng.uniform(0.5, 3, k)
    logits, labels = _sample(n, k, seed=seed)
    return logits * stretch + shift, labels


def test_matrix_mends_what_a_temperature_cannot() -> None:
    """Where classes are shifted and stretched, the matrix wins, and lowers the loss of fresh rows."""
    logits, labels = _skewed(3000, 4)
    fitted = fit_calibration(logits, labels)
    assert fitted.method == "matrix"
    fresh, fresh_labels = _skewed(5000, 4, seed=1)
    temperature = fit_calibration(logits, labels, method="temperature")
    gain = cross_entropy(temperature.transform(fresh), fresh_labels) - cross_entropy(
        fitted.transform(fresh), fresh_labels
    )
    assert gain > 0.02


def test_matrix_is_the_minimum_of_its_objective() -> None:
    """The gradient of the documented objective, by finite differences, is 0 at the matrix that was fitted."""
    logits, labels = _skewed(400, 3)
    fitted = fit_calibration(logits, labels, method="matrix")
    k, n = 3, 400
    centred = fitted.inverse_temperature * (logits - logits.mean(axis=1, keepdims=True))

    def objective(parameters: np.ndarray) -> float:
        delta, intercept = parameters[:9].reshape(3, 3), parameters[9:]
        diagonal = np.diag(delta)
        off = (delta**2).sum() - diagonal @ diagonal
        penalty = k / n * (intercept @ intercept + diagonal @ diagonal + (k - 1) * off)
        return float(cross_entropy(centred @ (np.eye(3) + delta).T + intercept, labels)) + penalty

    assert fitted.matrix is not None
    assert fitted.intercept is not None
    solution = np.concatenate([(fitted.matrix - np.eye(3)).ravel(), fitted.intercept])
    assert_allclose(approx_fprime(solution, objective, 1e-6), 0, atol=1e-4)
    temperature = fit_calibration(logits, labels, method="temperature")
    assert cross_entropy(fitted.transform(logits), labels) <= cross_entropy(
        temperature.transform(logits), labels
    )


def test_matrix_keeps_impossible_classes_and_dtype() -> None:
    """The matrix leaves -inf where it is, ignores it elsewhere, and keeps float32."""
    calibration = Calibration("matrix", 2.0, np.eye(3) + 0.1, np.array([0.5, 0.0, -0.5]))
    logits = np.array([[1.0, -np.inf, 2.0]], np.float32)
    out = calibration.transform(logits)
    assert out.dtype == np.float32
    # possible classes centred: (-0.5, 0.5) * 2 = (-1, 1); the matrix adds 0.1 * their sum, 0
    assert_allclose(out, [[-1 + 0.5, -np.inf, 1 - 0.5]])
    with pytest.raises(DataError, match="fitted for 3"):
        calibration.transform(np.zeros((1, 4)))


def test_matrix_is_shift_invariant() -> None:
    """A number added to all logits of a row changes nothing after the matrix."""
    calibration = Calibration("matrix", 0.5, np.eye(3) + 0.1, np.array([0.5, 0.0, -0.5]))
    logits = np.random.default_rng(0).normal(size=(4, 3))
    assert_allclose(calibration.transform(logits + 100), calibration.transform(logits), atol=1e-12)


def test_class_never_seen_stays_finite() -> None:
    """A class without a single held-out row keeps a positive probability under every method."""
    logits, labels = _sample(600, 4)
    keep = labels != 3
    for method in ("none", "temperature", "matrix"):
        fitted = fit_calibration(logits[keep], labels[keep], method=method)
        assert softmax(fitted.transform(logits))[:, 3].min() > 1e-9


# --- the race -----------------------------------------------------------------------------------------------


def test_calibrated_logits_are_left_alone() -> None:
    """Logits whose labels were drawn from them are left nearly as they are: never a matrix, T within 0.1 of 1."""
    fitted = [fit_calibration(*_sample(1000, 5, seed=seed)) for seed in range(10)]
    assert "matrix" not in [calibration.method for calibration in fitted]
    assert_allclose([calibration.temperature for calibration in fitted], 1, atol=0.1)


def test_overconfident_logits_get_a_temperature() -> None:
    """Logits three times too large get a temperature near 3, and the race is the same on every call."""
    logits, labels = _sample(1000, 5, scale=3.0)
    fitted = fit_calibration(logits, labels)
    assert fitted.method == "temperature"
    assert_allclose(fitted.temperature, 3.0, rtol=0.1)
    assert fitted == fit_calibration(logits, labels)


def test_few_rows_many_classes_and_none() -> None:
    """Nine rows are "none", more than 100 classes never a matrix, and None means none."""
    logits, labels = _sample(9, 3, scale=10)
    assert fit_calibration(logits, labels) == Calibration()
    logits, labels = _sample(2100, 101, scale=3.0)
    assert fit_calibration(logits, labels).method == "temperature"
    assert fit_calibration(logits, labels, method=None) == Calibration()
    assert fit_calibration(np.zeros((0, 3)), np.zeros(0, int), method="matrix") == Calibration()


def test_unknown_method() -> None:
    """A method that does not exist is a usage error that lists those that do."""
    with pytest.raises(UsageError, match="'auto', 'temperature', 'matrix' or None"):
        fit_calibration(np.zeros((2, 2)), [0, 1], method="isotonic")


def test_log_loss_parts() -> None:
    """The calibration part is what a temperature gains: much for logits three times too large."""
    logits, labels = _sample(4000, 5)
    true, sharp = log_loss_parts(logits, labels), log_loss_parts(3 * logits, labels)
    assert_allclose(true["calibration"], 0, atol=0.005)
    assert_allclose(sharp["refinement"], true["refinement"], atol=0.005)
    assert_allclose(sharp["calibration"], sharp["log_loss"] - true["log_loss"], atol=0.01)
    assert_allclose(sharp["refinement"] + sharp["calibration"], cross_entropy(3 * logits, labels))
    assert np.isnan(log_loss_parts(logits[:9], labels[:9])["refinement"])


# --- plain data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "calibration",
    [
        Calibration(),
        Calibration("temperature", 0.3),
        Calibration("matrix", 1.5, np.eye(2) * 2, np.array([0.1, -0.1])),
    ],
)
def test_state_round_trip(calibration: Calibration) -> None:
    """What to_state writes, from_state reads, and the map is the same."""
    meta, tensors = calibration.to_state()
    again = Calibration.from_state(meta, tensors, n_classes=2)
    assert again == calibration
    assert hash(again) == hash(calibration)
    logits = np.array([[0.3, -0.2]])
    assert_array_equal(again.transform(logits), calibration.transform(logits))


def test_calibration_cannot_be_changed() -> None:
    """Fields and arrays are read-only, and the arrays are copies."""
    matrix = np.eye(2)
    calibration = Calibration("matrix", 1.0, matrix, np.zeros(2))
    matrix[0, 0] = 5
    assert calibration.matrix is not None
    assert calibration.matrix[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        calibration.matrix[0, 0] = 5
    with pytest.raises(AttributeError):
        calibration.method = "none"  # type: ignore[misc]


_MATRIX = {"method": "matrix", "inverse_temperature": 1.0}


def _tensors(matrix: np.ndarray, intercept: np.ndarray) -> dict[str, np.ndarray]:
    return {"calibration.matrix": matrix, "calibration.intercept": intercept}


@pytest.mark.parametrize(
    ("meta", "tensors"),
    [
        ({}, {}),
        ({"method": "none"}, {}),
        ({"method": "pickle", "inverse_temperature": 1.0}, {}),
        ({"method": ["none"], "inverse_temperature": 1.0}, {}),
        ({"method": "none", "inverse_temperature": 2.0}, {}),
        ({"method": "temperature", "inverse_temperature": 0.0}, {}),
        ({"method": "temperature", "inverse_temperature": float("inf")}, {}),
        ({"method": "temperature", "inverse_temperature": float("nan")}, {}),
        ({"method": "temperature", "inverse_temperature": True}, {}),
        ({"method": "temperature", "inverse_temperature": "1"}, {}),
        (_MATRIX, {}),
        (_MATRIX, {"calibration.intercept": np.zeros(2)}),
        (_MATRIX, _tensors(np.eye(3), np.zeros(2))),
        (_MATRIX, _tensors(np.eye(3), np.zeros(3))),
        (_MATRIX, _tensors(np.eye(2) * np.nan, np.zeros(2))),
        (_MATRIX, _tensors(np.eye(2).astype(int), np.zeros(2))),
    ],
)
def test_damaged_state_is_refused(meta: dict, tensors: dict) -> None:
    """A state with anything missing, of another type, shape or value is a ModelFileError."""
    with pytest.raises(ModelFileError, match="calibration"):
        Calibration.from_state(meta, tensors, n_classes=2)


@pytest.mark.parametrize(
    "arguments",
    [("isotonic",), ("temperature", -1.0), ("temperature", float("nan")), ("none", 2.0), ("matrix", 1.0)],
)
def test_impossible_calibrations(arguments: tuple) -> None:
    """A calibration that cannot be is refused where it is made."""
    with pytest.raises(UsageError):
        Calibration(*arguments)


def test_temperature_transforms_torch_tensors() -> None:
    """The temperature also takes torch tensors, and keeps their dtype."""
    torch = pytest.importorskip("torch")
    out = Calibration("temperature", 0.5).transform(torch.ones(2, 3))
    assert out.dtype == torch.float32
    assert_allclose(out.numpy(), 0.5)


def test_transform_is_light() -> None:
    """Importing the module and transforming logits loads neither scipy nor torch nor scikit-learn."""
    code = (
        "import sys, numpy as np; from softmaxnet.calibration import Calibration;"
        "Calibration('temperature', 2.0).transform(np.ones((1, 2)));"
        "print([m for m in ('torch', 'scipy', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
