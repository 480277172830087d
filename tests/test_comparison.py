"""Fits whose members hold out folds of their own, and the mixture that comes out of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

from softmaxnet import SoftmaxClassifier
from softmaxnet.calibration import Calibration
from softmaxnet.features.encoded import Encoded
from softmaxnet.fitted import Examples, Fitted, no_metrics
from softmaxnet.little_data import merged_where_few
from softmaxnet.mixture import Candidate, best_mixture, joined, regression_as_member
from softmaxnet.network import NetworkSpec, forward, parameter_shapes
from softmaxnet.recipe import DEFAULTS, DataShape, resolve
from softmaxnet.softmax import log_softmax

PLAN = resolve(DataShape(300, 5, 0, 3), DEFAULTS)


def fitted(spec: NetworkSpec, rng: np.random.Generator, beta: float = 1.0) -> Fitted:
    """Return a network with random parameters."""
    params = {name: rng.normal(size=shape) * 0.5 for name, shape in parameter_shapes(spec).items()}
    return Fitted(spec, params, Calibration("temperature", beta), PLAN, [], no_metrics(), 1, "max_epochs")


def network(rng: np.random.Generator, n_dense: int = 5, **settings) -> Fitted:
    """Return a network of four members with two hidden layers of eight units."""
    spec = NetworkSpec(n_dense, 0, 3, hidden_layer_sizes=(8, 8), activation="silu", n_members=4)
    return fitted(replace(spec, **settings), rng)


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
@pytest.mark.parametrize("n_sparse", [0, 6])
def test_softmax_regression_is_a_member_without_loss(rng, activation, n_sparse):
    """As a member with hidden layers it says what it says by itself at its temperature."""
    regression = fitted(NetworkSpec(5, n_sparse, 3), rng, beta=0.7)
    spec = NetworkSpec(5, n_sparse, 3, hidden_layer_sizes=(9, 4), activation=activation)
    X, sparse = rng.normal(size=(20, 5)) * 10, rng.normal(size=(20, n_sparse)) if n_sparse else None
    expected = log_softmax(0.7 * forward(regression.spec, regression.params, X, sparse))
    found = forward(spec, regression_as_member(regression, spec), X, sparse)
    np.testing.assert_allclose(log_softmax(found), expected, atol=1e-12)


def test_a_mixture_is_the_mean_of_what_its_parts_say(rng):
    """Networks with and without bins and half a share of regression, as one network."""
    blind, seeing, regression = network(rng), network(rng, n_dense=7), fitted(NetworkSpec(5, 0, 3), rng, 1.3)
    X = rng.normal(size=(30, 7))
    without = np.delete(X, slice(3, 5), axis=1)
    says = [
        log_softmax(forward(blind.spec, blind.params, without)),
        log_softmax(forward(seeing.spec, seeing.params, X)),
        log_softmax(1.3 * forward(regression.spec, regression.params, without)),
    ]
    mean = (np.exp(says[0]) + np.exp(says[1]) + 0.5 * np.exp(says[2])) / 2.5
    labels = mean.argmax(1)
    parts = [Candidate(blind, says[0]), Candidate(seeing, says[1], sees_bins=True), Candidate(regression, says[2])]
    mixture = best_mixture(parts, labels, np.ones(30))
    mixture = replace(mixture, parts=((parts[0], 1.0), (parts[1], 1.0), (parts[2], 0.5)))
    spec, params, sees_bins = joined(mixture, slice(3, 5))
    assert (spec.n_members, spec.n_dense, sees_bins) == (10, 7, True)
    np.testing.assert_allclose(np.exp(log_softmax(forward(spec, params, X))), mean, atol=1e-12)


def test_the_mixture_with_the_lowest_loss_is_taken(rng):
    """A candidate that knows the labels is alone; two that are wrong in different rows are mixed."""
    labels = rng.integers(3, size=200)
    right = np.log(np.full((200, 3), 0.05) + 0.85 * np.eye(3)[labels])
    vague = np.log(np.full((200, 3), 1 / 3))
    parts = [Candidate(network(rng), right), Candidate(network(rng), vague)]
    assert best_mixture(parts, labels, np.ones(200)).parts == ((parts[0], 1.0),)
    half = rng.random(200) < 0.5
    wrong = np.log(np.full((200, 3), 0.05) + 0.85 * np.eye(3)[(labels + 1) % 3])
    parts = [
        Candidate(network(rng), np.where(half[:, None], right, wrong)),
        Candidate(network(rng), np.where(half[:, None], wrong, right)),
    ]
    assert len(best_mixture(parts, labels, np.ones(200)).parts) == 2


def test_regression_on_few_inputs_is_taken_where_it_gains_more_than_chance(rng):
    """A little better on each row is taken; better by less than a standard error is not, for other candidates."""
    labels = rng.integers(3, size=400)
    base = rng.normal(size=(400, 3)) * 0.5 + np.eye(3)[labels]
    regression = fitted(NetworkSpec(5, 0, 3), rng)
    for logits, is_taken in ((base + 0.5 * np.eye(3)[labels], True), (base + rng.normal(size=(400, 3)) * 0.01, False)):
        few = Candidate(regression, log_softmax(logits), selects_inputs=True)
        parts = [Candidate(regression, log_softmax(base)), few]
        taken = best_mixture(parts, labels, np.ones(400)).parts[0][0]
        assert taken.selects_inputs == is_taken


def test_rows_that_a_part_trained_on_do_not_count(rng):
    """Only rows that every part of a mixture holds out are in its loss."""
    labels = rng.integers(3, size=50)
    known = np.log(np.full((50, 3), 0.05) + 0.85 * np.eye(3)[labels])
    known[:20] = np.nan
    mixture = best_mixture([Candidate(network(rng), known)], labels, np.ones(50))
    np.testing.assert_array_equal(mixture.held_out, np.arange(50) >= 20)


def fields(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a board of four by four fields of two colours."""
    X = np.random.default_rng(seed).uniform(0, 4, size=(n, 2))
    return X, np.floor(X).astype(int).sum(1) % 2


@pytest.mark.parametrize(("n_rows", "most"), [(300, 0.5), (1200, 0.2)])
def test_steps_are_learnt_on_few_rows_and_on_more(n_rows, most):
    """A board of fields, of which smooth networks see nothing, is learnt by the members that see bins."""
    clf = SoftmaxClassifier(random_state=0, max_epochs=80).fit(*fields(n_rows, 0))
    X, y = fields(2000, 1)
    assert -clf.predict_log_proba(X)[np.arange(2000), y].mean() < most
    assert clf.model_.encoder.bins is not None


def test_bins_that_do_not_help_are_not_in_the_model(rng):
    """Where softmax regression alone predicts best the model reads each number once."""
    X = rng.normal(size=(120, 3))
    y = (X @ np.array([1.0, -2.0, 0.5]) + rng.logistic(size=120) > 0).astype(int)
    clf = SoftmaxClassifier(random_state=0).fit(X, y)
    if not clf.model_.spec.hidden_layer_sizes:
        assert clf.model_.encoder.bins is None
    assert clf.model_.encoder.n_dense == clf.model_.spec.n_dense


def test_two_ensembles_say_how_many_members_they_have():
    """The history has the epochs of all networks that are kept, one after the other."""
    clf = SoftmaxClassifier(random_state=0, max_epochs=3).fit(*fields(1200, 0))
    assert clf.model_.spec.n_members in (4, 8)
    assert [line["epoch"] for line in clf.history_] == list(range(1, len(clf.history_) + 1))
    assert clf.model_.metrics["n_held_out"] == pytest.approx(0.4 * 1200, abs=4)


def endgames() -> tuple[np.ndarray, np.ndarray]:
    """All 958 boards on which a game of noughts and crosses ends, and whether the crosses, which began, have won."""
    lines = [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6)]
    found: dict[str, bool] = {}

    def play(board: str, turn: str) -> None:
        won = next((board[a] for a, b, c in lines if board[a] == board[b] == board[c] != "b"), None)
        if won or "b" not in board:
            found[board] = won == "x"
            return
        for place in range(9):
            if board[place] == "b":
                play(board[:place] + turn + board[place + 1 :], "o" if turn == "x" else "x")

    play("b" * 9, "x")
    return np.array([list(board) for board in found], dtype=object), np.array(list(found.values()))


def test_columns_are_dropped_where_what_they_say_is_said_by_others_too():
    """Endgames of noughts and crosses: training with columns dropped is kept, and new boards are read better."""
    X, y = endgames()
    assert len(X) == 958
    assert y.sum() == 626
    order = np.random.default_rng(0).permutation(958)
    train, test = order[:700], order[700:]
    clf = SoftmaxClassifier(random_state=0).fit(pd.DataFrame(X[train]), y[train])
    assert any("columns dropped" in words for words in clf.model_.settings["mixture"])
    fixed = SoftmaxClassifier(random_state=0, n_members=10, hidden_layer_sizes=(64, 64)).fit(
        pd.DataFrame(X[train]), y[train]
    )
    losses = [log_loss(y[test], model.predict_proba(pd.DataFrame(X[test]))) for model in (clf, fixed)]
    assert losses[0] < losses[1]


def test_copies_of_rows_with_several_labels_are_dealt_to_the_folds(rng):
    """Three inputs with their label shares, each copied many times: the shares are what is predicted."""
    x = rng.integers(3, size=600)
    share = np.array([0.2, 0.5, 0.9])
    y = (rng.random(600) < share[x]).astype(int)
    clf = SoftmaxClassifier(random_state=0).fit(x[:, None] * 1.0, y)
    seen = [y[x == value].mean() for value in range(3)]
    np.testing.assert_allclose(clf.predict_proba([[0.0], [1.0], [2.0]])[:, 1], seen, atol=0.06)


def test_many_rows_of_few_values_are_little_data(rng):
    """A hundred thousand rows of three values are fitted as six rows, with their weights."""
    x = rng.integers(3, size=100_000)
    y = (rng.random(100_000) < np.array([0.2, 0.5, 0.9])[x]).astype(int)
    clf = SoftmaxClassifier(random_state=0).fit(x[:, None] * 1.0, y)
    assert clf.model_.settings["canonical_rows"]
    np.testing.assert_allclose(clf.predict_proba([[0.0], [1.0], [2.0]])[:, 1], [0.2, 0.5, 0.9], atol=0.02)


def test_many_distinct_rows_are_not_merged(rng):
    """Rows that differ stay as they are, and so do rows that go by groups."""
    encoded = Encoded(rng.normal(size=(2000, 2)).astype(np.float32), 1.0, None)
    examples = Examples(encoded, rng.integers(2, size=2000), np.ones(2000))
    assert merged_where_few(examples) is examples
    same = replace(examples, encoded=Encoded(np.ones((2000, 2), np.float32), 1.0, None))
    assert len(merged_where_few(same)) == 2
    assert len(merged_where_few(replace(same, groups=np.arange(2000)))) == 2000
