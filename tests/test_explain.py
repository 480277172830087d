"""Explanations of fitted models: contributions that add up, words, pixels, and permutation importance."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, load_iris

from softmaxnet.calibration import Calibration
from softmaxnet.cli.explain import _text
from softmaxnet.errors import DataError, UsageError
from softmaxnet.estimator import SoftmaxClassifier
from softmaxnet.explain import explain, permutation_importance
from softmaxnet.explain.words import _occurrences
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.ngrams import tokenise
from softmaxnet.model import SoftmaxModel
from softmaxnet.network import NetworkSpec, parameter_shapes
from softmaxnet.softmax import softmax

WORDS = {"card": "my card was lost in the shop", "cash": "the machine gave no cash", "loan": "I want a loan, soon"}


def make_texts(n: int) -> tuple[list[str], list[str]]:
    """Return texts that name their class among words that do not."""
    rng = np.random.default_rng(0)
    filler = ["hello", "please", "today", "again", "I don't know", "why is it so", "thanks"]
    names = [str(name) for name in rng.choice(list(WORDS), n)]
    return [f"{rng.choice(filler)} {WORDS[name]} {rng.choice(filler)}" for name in names], names


def make_table(n: int = 400) -> tuple[pa.Table, np.ndarray]:
    """Return a table with a column of each kind, of which all but ``noise`` bear on the label."""
    rng = np.random.default_rng(1)
    age = rng.normal(40, 12, n).round(1)
    city = rng.choice(["Rome", "Oslo", "Bonn"], n)
    street = rng.integers(0, 60, n)
    member = rng.random(n) < 0.5
    day = rng.integers(0, 2000, n)
    texts, names = make_texts(n)
    score = (age > 40) * 1.0 + (city == "Rome") + (street % 2) + member + (day > 1000)
    score += np.array([name == "loan" for name in names]) * 1.5 + rng.normal(0, 0.3, n)
    columns = {
        "age": pa.array(np.where(rng.random(n) < 0.1, np.nan, age), from_pandas=True),
        "city": pa.array(city),
        "street": pa.array([f"s{value:02d}" for value in street]),
        "member": pa.array(member),
        "since": pa.array([datetime.date(2015, 1, 1) + datetime.timedelta(int(days)) for days in day]),
        "note": pa.array(texts),
        "noise": pa.array(rng.normal(size=n)),
    }
    return pa.table(columns), np.array(["low", "middle", "high"])[np.digitize(score, [2.0, 3.5])]


def fit(X, y, kinds=None, **settings) -> SoftmaxModel:
    """Return a model fitted in a moment."""
    return SoftmaxClassifier(random_state=0, **({"max_epochs": 5} | settings)).fit(X, y, kinds=kinds).model_


@pytest.fixture(scope="module")
def iris():
    """Return the rows of iris and softmax regression fitted to them."""
    X, y = load_iris(return_X_y=True)
    return X, y, fit(X, y, hidden_layer_sizes=(), max_epochs=200)


@pytest.fixture(scope="module")
def digits():
    """Return pictures of digits as bytes and a ReLU network of several members fitted to them."""
    X, y = load_digits(return_X_y=True)
    return X.astype(np.uint8), y, fit(X.astype(np.uint8), y)


@pytest.fixture(scope="module")
def mixed():
    """Return a table with every kind of column and a model of it."""
    table, y = make_table()
    return table, y, fit(table, y, {"note": "text"}, max_epochs=30, hidden_layer_sizes=(16,), activation="silu")


@pytest.fixture(scope="module")
def texts():
    """Return texts, their classes and a model of them."""
    X, y = make_texts(200)
    return X, y, fit(X, y)


def check_sums(model: SoftmaxModel, X, explained, tolerance: float = 1e-3) -> None:
    """Check logits against the model's own, and that all contributions add up."""
    logits = np.asarray(model.decision_function(X), dtype=np.float64)
    places = {label: place for place, label in enumerate(model.classes.tolist())}
    for found, row in zip(explained, logits, strict=True):
        expected = row[places[found.label]] - (0 if found.versus is None else row[places[found.versus]])
        assert found.logit == pytest.approx(expected, abs=1e-4 if model.dtype == np.float32 else 1e-10)
        change = found.logit - found.baseline_logit
        assert found.contributions.sum() == pytest.approx(change, rel=1e-9, abs=1e-9)
        assert found.completeness_error <= tolerance * abs(change) + 1e-9
        assert found.probability == pytest.approx(softmax(row)[places[found.label]], abs=1e-5)
        assert found.predicted == model.classes[row.argmax()]


def test_a_model_explains_its_rows(iris) -> None:
    """model.explain is explain with the model in front, for one row or several."""
    X, _, model = iris
    found = model.explain(X[70], versus="runner-up")
    assert len(found) == 1
    assert found[0].to_dict() == explain(model, X[70:71], versus="runner-up")[0].to_dict()
    assert [row.label for row in model.explain(X[:3], 2)] == [2, 2, 2]


def test_softmax_regression_is_exact(iris) -> None:
    """Without hidden layers a contribution is w_j (x_j - baseline_j), of the encoded inputs."""
    X, _, model = iris
    dense = model.encoder.transform(X[50:53], dtype=np.float64).dense
    weight = model.params["layers.0.weight"][0].astype(np.float64) * model.calibration.inverse_temperature
    for found, row in zip(explain(model, X[50:53], target=1), dense, strict=True):
        assert found.method == "exact"
        assert found.n_nodes == 1
        np.testing.assert_allclose(found.contributions, weight[:, 1] * row, rtol=1e-10, atol=1e-12)
        bias = model.params["layers.0.bias"][0, 1] * model.calibration.inverse_temperature
        np.testing.assert_allclose(found.baseline_logit, bias, rtol=1e-6)
    check_sums(model, X[50:53], explain(model, X[50:53], target=1))


def test_difference_of_two_classes(iris) -> None:
    """The split of a difference is the difference of the splits, and a class against the other its negative."""
    X, _, model = iris
    one, two = explain(model, X[70], target=1)[0], explain(model, X[70], target=2)[0]
    both = explain(model, X[70], target=1, versus=2)[0]
    np.testing.assert_allclose(both.contributions, one.contributions - two.contributions, atol=1e-12)
    assert both.logit == pytest.approx(one.logit - two.logit)
    back = explain(model, X[70], target=2, versus=1)[0]
    np.testing.assert_allclose(back.contributions, -both.contributions, atol=1e-12)
    check_sums(model, X[70:71], [both])


def test_runner_up(iris) -> None:
    """versus="runner-up" is the most probable other class, unless a class is called so."""
    X, _, model = iris
    labels, _ = model.predict_topk(X[:3], 2)
    found = explain(model, X[:3], versus="runner-up")
    assert [[row.label, row.versus] for row in found] == labels.tolist()
    named = replace(model, classes=np.array(["a", "b", "runner-up"]))
    assert explain(named, X[0], target="a", versus="runner-up")[0].versus == "runner-up"


def test_hidden_layers_are_complete(digits) -> None:
    """Integrated gradients of a ReLU network miss the logit's change by less than 1e-3 of it, for any class."""
    X, _, model = digits
    assert model.spec.hidden_layer_sizes
    assert model.spec.n_members > 1
    for target in (None, 3):
        explained = explain(model, X[:12], target)
        assert explained[0].method == "integrated gradients"
        check_sums(model, X[:12], explained)
    check_sums(model, X[:12], explain(model, X[:12], versus="runner-up"))


def test_contributions_converge(digits) -> None:
    """With a tolerance a thousand times smaller the contributions hardly move: they are the integral's."""
    X, _, model = digits
    smooth = replace(model, spec=replace(model.spec, activation="silu"))
    rough, fine = (explain(smooth, X[:3], 2, tolerance=tolerance) for tolerance in (1e-3, 1e-6))
    for a, b in zip(rough, fine, strict=True):
        assert b.n_nodes >= a.n_nodes
        assert b.completeness_error < 1e-6 * abs(b.logit - b.baseline_logit)
        assert np.abs(a.contributions - b.contributions).max() < 2e-3 * np.abs(b.contributions).sum()


def test_integral_of_a_known_function() -> None:
    """A unit silu(x_0 + x_1) on the way from 0 to (1, 3) gives a quarter of its value to x_0, the rest to x_1."""
    encoder = FeatureEncoder.fit(np.eye(2), features="raw")
    spec = NetworkSpec(2, 0, 2, (1,), "silu")
    params = {
        "layers.0.weight": np.ones((1, 2, 1)),
        "layers.0.bias": np.zeros((1, 1)),
        "layers.1.weight": np.array([[[1.0, 0.0]]]),
        "layers.1.bias": np.zeros((1, 2)),
    }
    model = SoftmaxModel(encoder, spec, params, Calibration("temperature", 0.5), np.array([0, 1]))
    found = explain(model, np.array([1.0, 3.0]), 0, baseline=np.zeros(2))[0]
    value = 0.5 * 4 / (1 + np.exp(-4))
    np.testing.assert_allclose(found.contributions, [value / 4, value * 3 / 4], rtol=1e-6)


NETWORKS = [{}, {"output": "sigmoid"}, {"n_members": 2}, {"n_frequencies": 3, "embedding_size": 2}]


@pytest.mark.parametrize("extra", NETWORKS)
@pytest.mark.parametrize("method", ["none", "temperature", "matrix"])
def test_every_network_and_calibration(extra: dict, method: str) -> None:
    """Members, sigmoid outputs, embeddings and every calibration: the logits explained are decision_function's."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3))
    spec = NetworkSpec(3, 0, 4, (6,), "tanh", **extra)
    params = {name: rng.normal(size=shape) for name, shape in parameter_shapes(spec).items()}
    calibration = {
        "none": Calibration(),
        "temperature": Calibration("temperature", 0.6),
        "matrix": Calibration("matrix", 0.6, rng.normal(size=(4, 4)), rng.normal(size=4)),
    }[method]
    model = SoftmaxModel(FeatureEncoder.fit(X), spec, params, calibration, np.arange(4))
    check_sums(model, X[:5], explain(model, X[:5], 2))
    check_sums(model, X[:5], explain(model, X[:5], 2, versus=0, baseline=X))


def test_mixed_table(mixed) -> None:
    """Every kind of column gets its part; a column that the label does not depend on gets little of it."""
    table, _, model = mixed
    found = explain(model, table.slice(0, 20), versus="runner-up")
    check_sums(model, table.slice(0, 20), found)
    assert found[0].names == tuple(table.column_names)
    assert found[0].values[4] == table["since"][0].as_py()
    size = np.mean([np.abs(row.contributions) for row in found], axis=0)
    assert (size > 0).all()
    assert size[table.column_names.index("noise")] == size.min()
    json.dumps([row.to_dict() for row in found], allow_nan=False)


def test_baseline_says_nothing(mixed) -> None:
    """The baseline has the medians of numbers and no words: a median and an empty text contribute nothing."""
    table, _, model = mixed
    age = float(np.nanmedian(table["age"].to_numpy(zero_copy_only=False)))
    row = {name: table[name][0].as_py() for name in table.column_names} | {"age": age, "note": ""}
    found = explain(model, row)[0]
    assert found.contributions[0] == 0
    assert found.contributions[5] == 0
    assert found.words == ()


def test_baseline_of_the_users_rows(mixed) -> None:
    """A row explained against itself has nothing to explain, and a mean of rows is accepted."""
    table, _, model = mixed
    same = explain(model, table.slice(3, 1), "high", baseline=table.slice(3, 1))[0]
    np.testing.assert_allclose(same.contributions, 0, atol=1e-9)
    assert same.logit == pytest.approx(same.baseline_logit)
    check_sums(model, table.slice(0, 4), explain(model, table.slice(0, 4), baseline=table))


def test_mean_baseline_of_softmax_regression(iris) -> None:
    """Against all training rows, contributions of softmax regression average to 0 over those rows."""
    X, _, model = iris
    found = explain(model, X, 0, baseline=X)
    np.testing.assert_allclose(np.mean([row.contributions for row in found], axis=0), 0, atol=1e-9)


def test_words_of_a_text(texts) -> None:
    """The words' contributions sum to the text's, their spans are the words, and the telling word leads."""
    _, _, model = texts
    cell = f"Hello  there, {WORDS['loan']}"
    found = explain(model, cell, "loan", versus="card")[0]
    check_sums(model, [cell], [found])
    assert [word.text for word in found.words] == cell.split()
    assert all(cell[word.start : word.end] == word.text for word in found.words)
    assert sum(word.contribution for word in found.words) == pytest.approx(found.contributions[0])
    assert max(found.words, key=lambda word: word.contribution).text == "loan,"


def test_words_of_the_baseline(texts) -> None:
    """What the baseline's texts contribute stands apart as a word without a place; all words still add up."""
    X, _, model = texts
    found = explain(model, X[0], baseline=X[:50])[0]
    assert [word.start is None for word in found.words] == [False] * len(X[0].split()) + [True]
    assert sum(word.contribution for word in found.words) == pytest.approx(found.contributions[0])
    check_sums(model, X[:1], [found])


def test_words_in_a_table(mixed) -> None:
    """The words of a text column sum to that column's part of the logit."""
    table, _, model = mixed
    for found in explain(model, table.slice(0, 10)):
        assert {word.column for word in found.words} == {"note"}
        assert sum(word.contribution for word in found.words) == pytest.approx(found.contributions[5], abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Zs", "Zl", "Zp", "Cc"]), min_size=1), max_size=6))
def test_occurrences_are_the_tokens(pieces: list[str]) -> None:
    """The tokens shared out among words are exactly the tokens that the encoder counts."""
    tokens = tokenise([" ".join(pieces)])
    pieces = [piece.lower() for piece in pieces]
    if tokenise([" ".join(pieces)]).hashes.tolist() != tokens.hashes.tolist():
        return  # normal forms that change with the neighbours
    hashes, left, right = _occurrences([piece for text in pieces for piece in _prepared(text)])
    assert sorted(hashes.tolist()) == sorted(tokens.hashes[tokens.ids].tolist())
    assert ((left == right) | (left < right)).all()


def _prepared(text: str) -> list[str]:
    from softmaxnet.features.ngrams import prepare

    return prepare(text).split()


def test_picture_of_pixels(digits) -> None:
    """Pixels come back as a picture: the ink of the row, none where the picture is black as the baseline."""
    X, _, model = digits
    found = explain(model, X[0])[0]
    assert found.image_shape == (8, 8)
    assert found.picture().shape == (8, 8)
    assert found.picture().sum() == pytest.approx(found.logit - found.baseline_logit)
    np.testing.assert_array_equal(found.picture()[X[0].reshape(8, 8) == 0], 0)
    assert found.to_dict()["picture"] == found.picture().tolist()
    colour = replace(found, image_shape=(4, 4, 4)).picture()
    np.testing.assert_allclose(colour, found.contributions.reshape(4, 4, 4).sum(axis=2))
    with pytest.raises(UsageError, match="not a picture of shape"):
        found.picture((5, 5))


def test_sparse_matrix() -> None:
    """Columns of a wide sparse matrix get the parts of their own entries, the empty ones nothing."""
    rng = np.random.default_rng(0)
    X = scipy.sparse.random_array((120, 200), density=0.1, format="csr", rng=rng)
    y = (X[:, [0, 1, 2, 3, 4]].sum(axis=1) > 0.5).astype(int)
    model = fit(X, y)
    found = explain(model, X[:5])
    check_sums(model, X[:5], found)
    assert all((row.contributions[X[[i]].toarray()[0] == 0] == 0).all() for i, row in enumerate(found))
    check_sums(model, X[:5], explain(model, X[:5], baseline=X[5:50]))


def test_forms_of_a_single_row(mixed) -> None:
    """A mapping, a Series, a frame and a table of one row, and the estimator itself, all mean the same."""
    table, _, model = mixed
    row = table.slice(7, 1)
    frame = row.to_pandas()
    mapping = {name: row[name][0].as_py() for name in row.column_names}
    expected = explain(model, row)[0].contributions
    for form in (mapping, frame, frame.iloc[0]):
        np.testing.assert_allclose(explain(model, form)[0].contributions, expected, rtol=1e-9, atol=1e-12)
    clf = SoftmaxClassifier()
    clf.model_ = model
    np.testing.assert_array_equal(explain(clf, row)[0].contributions, expected)


def test_top_and_to_dict(iris) -> None:
    """The largest contributions come first, and the dict is plain data, labels of other kinds included."""
    _, _, model = iris
    found = explain(model, np.array([5.0, np.nan, 1.4, 0.2]))[0]
    assert found.values[1] is None
    sizes = [abs(part) for _, _, part in found.top()]
    assert sizes == sorted(sizes, reverse=True)
    assert len(found.top(2)) == 2
    data = json.loads(json.dumps(found.to_dict(1), allow_nan=False))
    assert data["label"] == 0
    assert data["versus"] is None
    assert len(data["contributions"]) == 1


def test_bad_requests(iris) -> None:
    """Unknown classes, a class against itself, bad rows and foreign objects are told plainly."""
    X, _, model = iris
    with pytest.raises(UsageError, match=r"7 is not a class of this model\. Its classes are 0, 1, 2"):
        explain(model, X[0], 7)
    with pytest.raises(UsageError, match="'a' is not a class"):
        explain(model, X[0], versus="a")
    with pytest.raises(UsageError, match="target and versus are both 1"):
        explain(model, X[0], 1, versus=1)
    with pytest.raises(DataError, match="5 columns"):
        explain(model, np.zeros((1, 5)))
    with pytest.raises(DataError, match="the baseline has no rows"):
        explain(model, X[0], baseline=X[:0])
    with pytest.raises(UsageError, match="Got a int"):
        explain(3, X[0])
    assert explain(model, X[:0]) == []


def test_most_nodes(digits) -> None:
    """Where the nodes run out the best integral is returned with its error, and the parts still add up."""
    X, _, model = digits
    found = explain(model, X[0], tolerance=1e-9, max_nodes=100)[0]
    assert found.n_nodes <= 100
    assert found.contributions.sum() == pytest.approx(found.logit - found.baseline_logit)


def test_permutation_importance(mixed) -> None:
    """Columns that matter have intervals above 0, the one of noise includes it; the losses are the model's."""
    table, _, model = mixed
    held, labels = make_table(300)
    found = permutation_importance(model, held, labels, n_repeats=3)
    by_name = {column.name: column for column in found.columns}
    assert set(by_name) == set(table.column_names)
    assert all(by_name[name].low > 0 for name in ("age", "city", "note"))
    assert by_name["noise"].low < 0.02
    assert all(column.low <= column.log_loss_increase <= column.high for column in found.columns)
    assert found.columns[0].log_loss_increase == max(column.log_loss_increase for column in found.columns)
    log_proba = model.predict_log_proba(held)
    own = log_proba[np.arange(len(labels)), np.searchsorted(model.classes, labels)]
    assert found.log_loss == pytest.approx(-own.mean())
    assert found.accuracy == pytest.approx((model.predict(held) == labels).mean())
    json.dumps(found.to_dict(), allow_nan=False)


def test_permutation_importance_is_that_of_shuffled_cells(iris) -> None:
    """Shuffling encoded inputs is shuffling cells: with the same order both give the same log loss."""
    X, y, model = iris
    found = permutation_importance(model, X, y, n_repeats=1, columns=["column 2"], random_state=3)
    order = np.random.default_rng(3).permutation(len(X))
    shuffled = X.copy()
    shuffled[:, 2] = X[order, 2]
    loss = -model.predict_log_proba(shuffled)[np.arange(len(y)), y].mean()
    assert found.columns[0].log_loss_increase == pytest.approx(loss - found.log_loss)


def test_permutation_importance_of_sparse_columns(texts) -> None:
    """The tokens of a text move together, and a text that all depends on is all important."""
    X, y, model = texts
    found = permutation_importance(model, X, y, n_repeats=2)
    assert found.columns[0].accuracy_decrease > 0.4
    assert found.n_rows == 200


def test_permutation_importance_settings(iris) -> None:
    """Rows are drawn where there are many, unknown labels left out, weights heeded, unknown columns refused."""
    X, y, model = iris
    assert permutation_importance(model, X, y, max_rows=50, n_repeats=1).n_rows == 50
    odd = y.copy()
    odd[:5] = 9
    found = permutation_importance(model, X, odd, n_repeats=1)
    assert (found.n_rows, found.n_unseen) == (145, 5)
    weight = (y == 0).astype(float)
    assert permutation_importance(model, X, y, sample_weight=weight, n_repeats=1).n_rows == 50
    frame = pd.DataFrame(X)
    assert permutation_importance(model, frame, y, n_repeats=1).n_rows == 150
    with pytest.raises(UsageError, match="there is no column 'x'"):
        permutation_importance(model, X, y, columns=["x"])
    with pytest.raises(UsageError, match="n_repeats"):
        permutation_importance(model, X, y, n_repeats=0)
    with pytest.raises(DataError, match="fewer than two rows"):
        permutation_importance(model, X[:3], [9, 9, 9])
    with pytest.raises(DataError, match="a label for each row"):
        permutation_importance(model, X, y[:5])


def test_a_constant_column_has_no_importance(digits) -> None:
    """A pixel that is black in every row can be shuffled without any effect."""
    X, y, model = digits
    found = permutation_importance(model, X, y, columns=["column 0", "column 28"], max_rows=300, n_repeats=2)
    by_name = {column.name: column.log_loss_increase for column in found.columns}
    assert by_name["column 0"] == 0
    assert by_name["column 28"] > 0


def test_a_picture_is_drawn_in_the_terminal(digits) -> None:
    """The command draws what spoke for and against a picture's class, and the sum beneath it adds up."""
    X, _, model = digits
    found = explain(model, X[3], versus="runner-up")[0]
    text = _text(found, 10)
    marks = "".join(text.split("\n")[1:-5])
    assert "++" in marks
    assert "-" in marks
    numbers = dict(line.strip().rsplit(None, 1) for line in text.split("\n")[-4:-1])
    baseline, pixels, logit = map(float, numbers.values())
    assert baseline + pixels == pytest.approx(logit, abs=2e-4)
