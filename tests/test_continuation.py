"""Networks that go on with the rows that they held out: when, for how long, and what they told before."""

from __future__ import annotations

import numpy as np
import pytest

import softmaxnet.continuation as continuation
from softmaxnet import SoftmaxClassifier
from softmaxnet.calibration import Calibration
from softmaxnet.data.split import stratified_folds, stratified_halves
from softmaxnet.fitted import counted
from softmaxnet.recipe import DEFAULTS, DataShape, resolve


def copies(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows near forty points, each of one of three classes: a row is worth much to those near it."""
    points = np.random.default_rng(99).normal(size=(40, 5))
    rng = np.random.default_rng(seed)
    place = rng.integers(0, 40, n)
    return points[place] + 0.3 * rng.normal(size=(n, 5)), np.arange(40)[place] % 3


def loss(clf: SoftmaxClassifier, X: np.ndarray, y: np.ndarray) -> float:
    """Return the mean log loss [nats]."""
    return float(-clf.predict_log_proba(X)[np.arange(len(y)), y].mean())


def share(clf: SoftmaxClassifier) -> float:
    """Return the share of the epochs for which a classifier's networks went on."""
    return clf.model_.settings["continuation"]


def test_rows_held_out_are_learnt_in_the_end_where_that_helps(monkeypatch):
    """New rows are predicted better than by members that held a part out for good; what was told stays honest."""
    X, y = copies(300, 0)
    longer = SoftmaxClassifier(random_state=0).fit(X, y)
    monkeypatch.setattr(continuation, "LEAST_GAIN", 1.0)
    as_they_are = SoftmaxClassifier(random_state=0).fit(X, y)
    assert (share(longer) > 0, share(as_they_are)) == (True, 0.0)
    new = loss(longer, *copies(4000, 1))
    assert new < 0.95 * loss(as_they_are, *copies(4000, 1))
    # of rows that it was trained on it says what it knows; of its held-out rows it told what it did not know then
    assert loss(longer, X, y) < 0.3 * new
    assert longer.metrics_["log_loss"] > 0.7 * new


def test_networks_stay_as_they_are_where_going_on_does_not_help():
    """Labels that were drawn are not learnt by heart."""
    rng = np.random.default_rng(0)
    clf = SoftmaxClassifier(random_state=0).fit(rng.normal(size=(1200, 3)), rng.integers(0, 2, 1200))
    assert share(clf) == 0.0
    assert all("validation_log_loss" in line for line in clf.history_)


def test_where_nothing_is_left_to_gain_no_time_is_spent(monkeypatch):
    """Networks that are sure and right of all rows held out do not go on."""
    monkeypatch.setattr(continuation._Network, "go_on", lambda *_: pytest.fail("went on"))
    X = np.random.default_rng(0).integers(0, 3, (400, 6)).astype(float)
    clf = SoftmaxClassifier(random_state=0).fit(X, (X[:, 0] == 0).astype(int))
    assert clf.metrics_["log_loss"] < 1e-3


def test_each_half_of_a_fold_is_held_out_by_members_of_that_fold():
    """Of two members of a fold each goes on with the half that the other one still holds out."""
    import torch

    from softmaxnet.batches import Rows

    labels = np.repeat([0, 1, 2], 40)
    folds, halves = stratified_folds(labels, 5, 0), stratified_halves(labels, 5, 0)
    ones = torch.ones(120)
    rows = Rows(torch.zeros(120, 2), torch.from_numpy(labels), ones)
    rows.fold, rows.member_fold = torch.from_numpy(folds), torch.arange(10) * 5 // 10
    trial = continuation._half_held_out(rows, halves)
    before = rows.fold[None] == rows.member_fold[:, None]
    after = trial.fold[None] == trial.member_fold[:, None]
    assert (after <= before).all()
    assert after.sum(1).tolist() == [12] * 10
    assert after.sum(0).tolist() == [1] * 120


def test_groups_are_not_cut_in_halves():
    """Rows of a group are in one half of one fold."""
    groups = np.repeat(np.arange(30), 7)
    halves = stratified_halves(np.arange(210) % 3, 5, 0, groups)
    assert all(len(set(halves[groups == group])) == 1 for group in range(30))
    assert 0 < halves.mean() < 1


@pytest.mark.parametrize(
    ("given", "shape", "expected"),
    [
        ({}, DataShape(500, 8, 0, 3), 1.0),
        ({}, DataShape(5_000, 8, 0, 3), 0.5),
        ({}, DataShape(40_000, 0, 60_000, 1_500, active=60.0), 0.25),
        ({"max_epochs": 30}, DataShape(500, 8, 0, 3), 0.0),
        ({"learning_rate_schedule": "cosine"}, DataShape(500, 8, 0, 3), 0.0),
        ({"hidden_layer_sizes": (32,)}, DataShape(5_000, 8, 0, 3), 0.0),
        ({"early_stopping": False}, DataShape(500, 8, 0, 3), 0.0),
        ({}, DataShape(5_000, 8, 0, 3, has_validation=True), 0.0),
        ({}, DataShape(5_000, 8, 0, 3, soft_targets=True), 0.0),
        ({}, DataShape(60_000, 784, 0, 10, picture=True), 0.0),
    ],
)
def test_only_what_is_left_to_the_recipe_goes_on(given, shape, expected):
    """Epochs, rates, layers and validation rows of the user's own are kept to."""
    assert resolve(shape, DEFAULTS | given).continuation == expected


def test_a_text_of_many_classes_goes_on_with_all_rows():
    """Of 520 classes with four rows each, the network has seen every row in the end and knows the words in it."""
    words = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "prstvwxyzhjqc"]
    rng = np.random.default_rng(0)
    X = [f"{words[k]} {words[rng.integers(520)][:2]}{i}" for k in range(520) for i in range(4)]
    y = np.repeat(words, 4)
    clf = SoftmaxClassifier(random_state=0, n_jobs=1).fit(X, y)
    lines = clf.history_
    gone_on = [line for line in lines if "validation_log_loss" not in line]
    assert len(gone_on) == max(round(0.25 * (len(lines) - len(gone_on))), 1)
    assert lines[-1] is gone_on[-1]
    assert [line["epoch"] for line in lines] == list(range(1, len(lines) + 1))
    assert clf.n_iter_ == len(lines)
    assert clf.metrics_["n_held_out"] == 208


@pytest.mark.parametrize("at", ["trial", "all rows"])
def test_an_interrupt_leaves_the_networks_as_they_were(at, monkeypatch):
    """Ctrl-C while networks go on gives the model of before, said to be interrupted."""
    X, y = copies(300, 0)
    go_on = continuation._Network.go_on

    def stopped(network, rows):
        if (rows.fold is None) == (at == "all rows"):
            return False
        return go_on(network, rows)

    monkeypatch.setattr(continuation._Network, "go_on", stopped)
    clf = SoftmaxClassifier(random_state=0).fit(X, y)
    assert (clf.stopped_by_, share(clf)) == ("interrupt", 0.0)
    monkeypatch.setattr(continuation._Network, "go_on", go_on)
    monkeypatch.setattr(continuation, "LEAST_GAIN", 1.0)
    before = SoftmaxClassifier(random_state=0).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), before.predict_proba(X))


def test_a_fit_that_was_killed_while_going_on_ends_as_one_that_never_stopped(tmp_path):
    """What was compared is there in checkpoints; the rest is done again, to the bit."""
    X, y = copies(1200, 4)
    settings = {"random_state": 0, "n_jobs": 1}
    whole = SoftmaxClassifier(**settings).fit(X, y)

    class Killed(Exception):
        pass

    lines = []

    def kill(line):
        lines.append(line)
        if "validation_log_loss" not in line:
            raise Killed

    with pytest.raises(Killed):
        SoftmaxClassifier(**settings).fit(X, y, checkpoint_folder=tmp_path, on_epoch=kill)
    resumed = SoftmaxClassifier(**settings).fit(X, y, checkpoint_folder=tmp_path, resume=True)
    assert share(resumed) == share(whole)
    assert resumed.predict_proba(X).tobytes() == whole.predict_proba(X).tobytes()


def test_a_time_limit_that_is_nearly_over_leaves_no_time_to_go_on():
    """Going on may take twice as long as all before it, and is not begun where the limit leaves less."""
    from softmaxnet.little_data import Clock

    clock = Clock(10.0)
    assert clock.has_time_for(2.0)
    clock.started -= 4.0
    assert not clock.has_time_for(2.0)
    assert Clock(None).has_time_for(1e9)


@pytest.mark.parametrize("method", ["none", "temperature", "matrix"])
def test_sharpened_calibration_is_that_of_the_logits_times_the_factor(rng, method):
    """Every method maps z after sharpening by f as it mapped f z before."""
    more = (rng.normal(size=(3, 3)), rng.normal(size=3)) if method == "matrix" else ()
    calibration = Calibration(method, 1.0 if method == "none" else 0.7, *more)
    z = rng.normal(size=(20, 3))
    np.testing.assert_allclose(calibration.sharpened(1.3).transform(z), calibration.transform(1.3 * z), rtol=1e-12)
    assert calibration.sharpened(1.0) is calibration


def test_lines_of_several_runs_are_counted_through():
    """Epochs go on where a run begins at 1 again; a resumed run counts from where it was, another one anew."""
    lines = []
    note = counted(lines.append, 30)
    for epoch in (5, 6, 1, 2):
        note({"epoch": epoch, "loss": 1.0, "seconds": 0.5})
    again = counted(lines.append, 40, anew=True)
    again({"epoch": 7, "loss": 1.0, "seconds": 0.5})
    assert [(line["epoch"], line["most_epochs"]) for line in lines] == [(5, 30), (6, 30), (7, 30), (8, 30), (1, 40)]
    assert all(line["seconds"] >= 0.5 for line in lines)
    assert counted(None, 3) is None


def test_the_epochs_shown_stay_within_those_that_may_come():
    """While networks are compared and go on, no line has more epochs than it says there may be."""
    lines = []
    clf = SoftmaxClassifier(random_state=0).fit(*copies(300, 0), on_epoch=lines.append)
    assert share(clf) > 0
    assert all(line["epoch"] <= line["most_epochs"] for line in lines)
    assert len({line["most_epochs"] for line in lines}) == 2
    assert "most_epochs" not in clf.history_[0]


def test_what_did_not_go_on_says_so():
    """Softmax regression alone, and rows each of which is its own class, have gone on for no epochs."""
    X = np.random.default_rng(0).normal(size=(60, 2))
    with pytest.warns(UserWarning, match="no column has anything to learn from"):
        alone = SoftmaxClassifier(random_state=0).fit(np.ones((60, 2)), np.arange(60) % 3)
    assert alone.model_.settings["mixture"] == ["softmax regression"]
    assert share(alone) == 0.0
    assert share(SoftmaxClassifier(random_state=0).fit(X[:8], np.arange(8))) == 0.0
