"""Displays for notebooks: scikit-learn's conventions, and the numbers that they draw."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from softmaxnet.conformal import fit_sets
from softmaxnet.errors import DataError, ResourceError, UsageError
from softmaxnet.estimator import SoftmaxClassifier
from softmaxnet.metrics import reliability_curve
from softmaxnet.model_file import load_model, save_model
from softmaxnet.softmax import softmax

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from softmaxnet.plots import (
    ConfusionDisplay,
    CoverageDisplay,
    ReliabilityDisplay,
    TrainingCurveDisplay,
    save_reliability_diagram,
)


@pytest.fixture(autouse=True)
def _no_figures_left():
    """Close what a test drew with pyplot."""
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    """Return rows of three classes, a small network of them with sets, and scikit-learn's regression."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    y = np.array(["a", "b", "c"])[(X + rng.gumbel(size=X.shape)).argmax(axis=1)]
    clf = SoftmaxClassifier(
        hidden_layer_sizes=(8,), max_epochs=3, solver="adam", random_state=0, conformal_fraction=0.2
    )
    return X, y, clf.fit(X, y), LogisticRegression().fit(X, y)


@pytest.mark.parametrize("display", [ReliabilityDisplay, ConfusionDisplay, CoverageDisplay])
def test_from_estimator_takes_any_classifier(fitted, display) -> None:
    """Our estimator, its model and scikit-learn's classifier draw into the axes given, and the display has them."""
    X, y, ours, theirs = fitted
    for estimator in (ours, ours.model_, theirs):
        ax = Figure().subplots()
        drawn = display.from_estimator(estimator, X, y, ax=ax)
        assert drawn.ax_ is ax
        assert drawn.figure_ is ax.figure
        other = Figure().subplots()
        assert drawn.plot(ax=other).ax_ is other


def test_new_axes_are_pyplots(fitted) -> None:
    """Without axes a new figure of pyplot is made, which a notebook shows."""
    X, y, ours, _ = fitted
    assert ReliabilityDisplay.from_estimator(ours, X, y).figure_ is plt.gcf()


def test_reliability_is_that_of_the_metrics(fitted) -> None:
    """The curve is that of the most probable class, or with pos_label of one; labels never seen are left out."""
    X, y, ours, _ = fitted
    proba = ours.predict_proba(X)
    y = np.append(y[:-1], "z")
    drawn = ReliabilityDisplay.from_predictions(y, proba, classes=ours.classes_, ax=Figure().subplots())
    expected = reliability_curve(proba.max(axis=1)[:-1], (ours.classes_[proba.argmax(axis=1)] == y)[:-1])
    np.testing.assert_array_equal(drawn.curve.accuracy, expected.accuracy)
    line = drawn.line_.get_ydata()
    np.testing.assert_array_equal(line[np.isfinite(line)], drawn.curve.where_known().accuracy[np.isfinite(line)])
    one = ReliabilityDisplay.from_predictions(y, proba, classes=ours.classes_, pos_label="b", ax=Figure().subplots())
    np.testing.assert_array_equal(one.curve.accuracy, reliability_curve(proba[:, 1], y == "b").accuracy)


def test_two_curves_share_their_axes(fitted) -> None:
    """Several displays in one picture have one diagonal and a legend entry each."""
    X, y, ours, theirs = fitted
    ax = Figure().subplots()
    for name, estimator, color in (("ours", ours, "C0"), ("theirs", theirs, "C1")):
        ReliabilityDisplay.from_estimator(estimator, X, y, name=name, ax=ax).plot(ax=ax, color=color, show_bins=False)
    assert sum(line.get_label() == "what it says is what happens" for line in ax.lines) == 1
    assert {text.get_text().split(" (")[0] for text in ax.get_legend().get_texts()} >= {"ours", "theirs"}


def test_binary_probabilities_of_one_column() -> None:
    """For two classes the probability of the second is enough, as in scikit-learn."""
    y, p = np.array([0, 1] * 50), np.linspace(0.01, 0.99, 100)
    one, two = (
        ReliabilityDisplay.from_predictions(y, proba, ax=Figure().subplots())
        for proba in (p, np.stack([1 - p, p], axis=1))
    )
    np.testing.assert_array_equal(one.curve.accuracy, two.curve.accuracy)


@pytest.mark.parametrize("k", [2, 20, 120])
def test_confusion_matrix_of_many_classes(k) -> None:
    """Counts add up in any order of the classes; names and numbers are written only where they can be read."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, k, 2000)
    proba = np.eye(k)[np.where(rng.random(2000) < 0.3, (y + k // 2) % k, y)]
    drawn = ConfusionDisplay.from_predictions(y, proba, classes=np.arange(k), ax=Figure().subplots())
    assert drawn.counts.sum() == 2000
    assert len(drawn.ax_.texts) == (k * k if k <= 15 else 0)
    assert len(drawn.ax_.get_xticks()) == (k if k <= 40 else 0)
    if k > 15:
        order = [int(name) for name in drawn.names]
        assert sorted(order) == list(range(k))
        assert all(abs(order.index(j) - order.index(j + k // 2)) == 1 for j in range(k // 2))


def test_coverage_is_counted(fitted) -> None:
    """The curve ends where every set holds its label; top_k is top-k accuracy; prepared sets are points."""
    X, y, ours, _ = fitted
    drawn = CoverageDisplay.from_estimator(ours, X, y, coverages=(0.8, 0.9), ax=Figure().subplots())
    proba = ours.predict_proba(X)
    assert drawn.top_k[0] == (ours.classes_[proba.argmax(axis=1)] == y).mean()
    assert (drawn.top_k[-1], drawn.coverage[-1]) == (1.0, 1.0)
    assert (np.diff(drawn.coverage) >= 0).all()
    assert (np.diff(drawn.size) >= 0).all()
    members = ours.model_.conformal.predict(proba, 0.9)
    assert drawn.stated[1] == (
        0.9,
        members[np.arange(400), np.searchsorted(ours.classes_, y)].mean(),
        members.sum(1).mean(),
    )


def test_sets_may_be_given(fitted) -> None:
    """Sets fitted apart are drawn with predictions."""
    X, y, ours, _ = fitted
    logits = np.random.default_rng(0).normal(size=(100, 3))
    sets = fit_sets(softmax(logits), logits.argmax(axis=1))
    proba = ours.predict_proba(X)
    drawn = CoverageDisplay.from_predictions(y, proba, sets=sets, coverages=[0.5], ax=Figure().subplots())
    assert len(drawn.stated) == 1


def test_training_curve_of_an_estimator_and_of_its_file(fitted, tmp_path) -> None:
    """The curve comes from history_ or, of a loaded model, from the file: the same epochs and the same best one."""
    _, _, ours, theirs = fitted
    save_model(ours.model_, tmp_path / "m")
    drawn = [
        TrainingCurveDisplay.from_estimator(estimator, ax=Figure().subplots())
        for estimator in (ours, load_model(tmp_path / "m"))
    ]
    assert [line["epoch"] for line in drawn[0].history] == [line["epoch"] for line in drawn[1].history] == [1, 2, 3]
    assert drawn[0].best_epoch == drawn[1].best_epoch
    with pytest.raises(DataError, match="no history"):
        TrainingCurveDisplay.from_estimator(theirs, ax=Figure().subplots())


def test_what_cannot_be_drawn_is_said(fitted) -> None:
    """Estimators without probabilities, shapes that differ and unknown labels are named."""
    X, y, ours, _ = fitted
    proba = ours.predict_proba(X)
    with pytest.raises(UsageError, match="a fitted classifier with predict_proba"):
        ReliabilityDisplay.from_estimator(object(), X, y)
    with pytest.raises(DataError, match="there are 2 classes"):
        ReliabilityDisplay.from_predictions(["a", "b"] * 200, proba)
    with pytest.raises(DataError, match="399 labels"):
        ReliabilityDisplay.from_predictions(y[1:], proba)
    with pytest.raises(UsageError, match="'z' is not one of the classes"):
        ReliabilityDisplay.from_predictions(y, proba, pos_label="z")


def test_missing_matplotlib(fitted, monkeypatch) -> None:
    """Without the extra the error names what to install."""
    X, y, ours, _ = fitted
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ResourceError, match=r"matplotlib is not installed.* pip install 'softmaxnet\[plot\]'"):
        ReliabilityDisplay.from_estimator(ours, X, y)


def test_importing_the_plots_loads_no_matplotlib() -> None:
    """Neither the plots nor the report load matplotlib before something is drawn."""
    code = "import sys, softmaxnet.plots, softmaxnet.report; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_saved_diagram_is_the_same_file_again(tmp_path) -> None:
    """The PNG depends on the rows only."""
    confidence = np.linspace(0.4, 1, 200)
    correct = np.random.default_rng(0).random(200) < confidence
    for name in ("a.png", "b.png"):
        save_reliability_diagram(tmp_path / name, confidence, correct)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
