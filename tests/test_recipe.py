"""Every "auto" resolved: from shapes alone, keeping what the user asked for."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softmaxnet.network import ACTIVATIONS, NetworkSpec
from softmaxnet.recipe import DEFAULTS, MANY_CLASSES, DataShape, plan_of_network, resolve, stream_plan

shapes = st.builds(
    DataShape,
    n_rows=st.integers(1, 10**8),
    n_dense=st.integers(0, 5000),
    n_sparse=st.integers(0, 10**6),
    n_classes=st.integers(2, 10**6),
    active=st.floats(0, 500),
    picture=st.booleans(),
    has_validation=st.booleans(),
    soft_targets=st.booleans(),
    bfloat16=st.booleans(),
)
SHAPES = {
    "small table": DataShape(150, 4, 0, 3),
    "table": DataShape(16_000, 16, 0, 26),
    "wide table": DataShape(40_000, 14, 90, 2, active=8.0),
    "pictures": DataShape(60_000, 784, 0, 10, picture=True),
    "text": DataShape(10_000, 0, 40_000, 77, active=60.0),
    "many classes": DataShape(500_000, 0, 40_000, 50_000, active=60.0),
}


@given(shapes)
def test_no_auto_is_left(shape):
    """A plan is plain JSON data without "auto", with settings that a training can run by, for data of any shape."""
    plan = resolve(shape, DEFAULTS)
    data = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert "auto" not in {k: v for k, v in data.items() if k != "calibration"}.values()
    assert all(size >= 1 for size in plan.hidden_layer_sizes)
    assert plan.activation in ACTIVATIONS
    assert plan.solver in ("adam", "lbfgs")
    assert plan.precision in ("float64", "float32", "bfloat16")
    assert plan.validation in ("none", "given", "folds", "holdout")
    assert min(plan.n_members, plan.batch_size, plan.max_epochs, plan.n_iter_no_change) >= 1
    assert plan.learning_rate > 0
    assert 0 <= plan.dropout < 1
    assert plan.n_folds >= 2


@given(shapes)
def test_a_plan_is_a_pure_function_of_the_shape(shape):
    """The same shape gives the same plan."""
    assert resolve(shape, DEFAULTS) == resolve(shape, DEFAULTS)


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("hidden_layer_sizes", (7, 5)),
        ("hidden_layer_sizes", ()),
        ("activation", "tanh"),
        ("output", "sigmoid"),
        ("n_members", 3),
        ("dropout", 0.25),
        ("dropout", 0.0),
        ("solver", "adam"),
        ("solver", "lbfgs"),
        ("learning_rate", 0.123),
        ("weight_decay", 0.0),
        ("weight_decay", 0.5),
        ("batch_size", 33),
        ("max_epochs", 17),
        ("n_iter_no_change", 9),
        ("learning_rate_schedule", "cosine"),
        ("learning_rate_schedule", "constant"),
        ("label_smoothing", 0.1),
        ("calibration", None),
        ("calibration", "temperature"),
        ("max_seconds", 12.5),
        ("precision", "float64"),
        ("validation_fraction", 0.3),
    ],
)
def test_what_the_user_asks_for_is_kept(name, parameter, value):
    """No recipe overrides a parameter that was given, a zero included."""
    plan = resolve(SHAPES[name], DEFAULTS | {parameter: value})
    assert getattr(plan, parameter) == value


def test_softmax_regression_goes_full_batch_and_networks_by_minibatch():
    """Without hidden layers the solver is L-BFGS, with them Adam."""
    for shape in SHAPES.values():
        expected = "adam" if shape.n_classes >= MANY_CLASSES else "lbfgs"  # all rows x classes at once, or not
        assert resolve(shape, DEFAULTS | {"hidden_layer_sizes": ()}).solver == expected
        assert resolve(shape, DEFAULTS | {"hidden_layer_sizes": (9,)}).solver == "adam"


def test_where_validation_rows_come_from():
    """The user's come first; members of tables hold out folds, one network a part; or nothing is held out at all."""
    assert resolve(DataShape(150, 4, 0, 3), DEFAULTS).validation == "folds"
    assert resolve(DataShape(10_000, 4, 0, 3), DEFAULTS).validation == "folds"
    assert resolve(DataShape(10_000, 4, 0, 3), DEFAULTS | {"n_members": 1}).validation == "holdout"
    assert resolve(DataShape(10_000, 784, 0, 10, picture=True), DEFAULTS).validation == "holdout"
    assert resolve(DataShape(150, 4, 0, 3, has_validation=True), DEFAULTS).validation == "given"
    assert resolve(DataShape(10_000, 4, 0, 3, has_validation=True), DEFAULTS).validation == "given"
    for n_rows in (150, 10_000):
        assert resolve(DataShape(n_rows, 4, 0, 3), DEFAULTS | {"early_stopping": False}).validation == "none"


def test_columns_are_dropped_where_the_network_is_left_to_the_recipe_and_there_are_some():
    """Tables of four columns and more, wide categories included; not streams, nor networks of the user's own."""
    table = DataShape(3000, 8, 0, 3, n_columns=8)
    assert resolve(table, DEFAULTS).input_dropout == 0.2
    assert resolve(replace(table, n_columns=2, n_sparse=500, active=2.0), DEFAULTS).input_dropout == 0.2
    assert resolve(replace(table, n_columns=3), DEFAULTS).input_dropout == 0.0
    assert resolve(table, DEFAULTS | {"hidden_layer_sizes": (32,)}).input_dropout == 0.0
    assert resolve(replace(table, has_validation=True), DEFAULTS).input_dropout == 0.0
    assert stream_plan(resolve(table, DEFAULTS)).input_dropout == 0.0


def test_texts_are_learned_by_as_many_networks_as_their_weights_allow():
    """Five of little data, three of more, fewer of 100,000 n-grams; two narrow ones of many classes."""
    text = DataShape(8000, 0, 20_000, 77, active=30.0)
    shapes = (
        text,
        replace(text, n_rows=800, n_sparse=9000),
        replace(text, n_sparse=45_000),
        replace(text, n_sparse=2**18),
    )
    plans = [resolve(shape, DEFAULTS) for shape in shapes]
    assert [plan.n_members for plan in plans] == [3, 5, 2, 1]
    assert {(plan.validation, plan.input_dropout, plan.compare_bins) for plan in plans} == {("folds", 0.0, False)}
    for n_classes, n_members, units in ((1586, 2, 128), (6000, 1, 256)):
        many = resolve(replace(text, n_classes=n_classes), DEFAULTS)
        assert (many.n_members, many.hidden_layer_sizes, many.validation) == (n_members, (units,), "holdout")
    assert resolve(replace(text, has_validation=True), DEFAULTS).n_members == 1


def test_inputs_are_selected_where_there_are_many_for_the_rows():
    """From 32 inputs on: of little data always, of more where there are up to 20 rows an input and little work."""
    assert resolve(DataShape(500, 32, 0, 3), DEFAULTS).compare_selection
    assert not resolve(DataShape(500, 31, 0, 3), DEFAULTS).compare_selection
    wide, long, heavy = (
        resolve(DataShape(*shape), DEFAULTS) for shape in ((4000, 200, 0, 3), (4001, 200, 0, 3), (4000, 2000, 0, 3))
    )
    assert (wide.compare_regression, wide.compare_selection) == (True, True)
    assert (long.compare_regression, heavy.compare_regression) == (False, False)
    assert not resolve(DataShape(4000, 200, 9000, 3, active=2.0), DEFAULTS).compare_regression
    assert not resolve(DataShape(500, 300, 0, 3), DEFAULTS | {"hidden_layer_sizes": ()}).compare_selection


def test_a_constant_rate_keeps_no_average():
    """With a constant rate, for warm starts, what is validated are the parameters themselves."""
    assert resolve(SHAPES["table"], DEFAULTS | {"learning_rate_schedule": "constant"}).average_power is None
    assert resolve(SHAPES["table"], DEFAULTS).average_power is not None


def test_a_rate_that_is_given_is_adams_as_in_pytorch():
    """A learning rate of the user is in PyTorch's parametrisation, the recipe's own may be in another."""
    assert resolve(SHAPES["table"], DEFAULTS | {"learning_rate": 1e-3}).parametrization == "standard"


def test_small_data_computes_in_float64():
    """Up to a thousand rows, and under L-BFGS, numbers are float64."""
    assert resolve(DataShape(1000, 4, 0, 3), DEFAULTS).precision == "float64"
    assert resolve(DataShape(50_000, 4, 0, 3), DEFAULTS | {"solver": "lbfgs"}).precision == "float64"


def test_stream_plan_holds_nothing_out():
    """Batches that come one by one: one pass, a constant rate, no validation, no calibration, Adam."""
    for shape in SHAPES.values():
        plan = stream_plan(resolve(shape, DEFAULTS))
        assert (plan.validation, plan.calibration, plan.solver, plan.max_epochs) == ("none", None, "adam", 1)
        assert plan.learning_rate_schedule == "constant"


def test_plan_of_a_network_has_its_layers():
    """Layers, activation, output and members are those of the network; everything else is the plan's."""
    plan = resolve(SHAPES["table"], DEFAULTS)
    spec = NetworkSpec(16, 0, 26, (9,), "tanh", 2, "sigmoid", 3, 4)
    there = plan_of_network(plan, spec)
    kept = {"hidden_layer_sizes", "activation", "output", "n_members", "n_frequencies", "embedding_size"}
    assert all(getattr(there, name) == getattr(spec, name) for name in kept)
    before, after = plan.to_dict(), there.to_dict()
    assert {k: v for k, v in before.items() if k not in kept} == {k: v for k, v in after.items() if k not in kept}


def test_defaults_are_those_of_the_constructor():
    """DEFAULTS has parameters of SoftmaxClassifier with their defaults."""
    from softmaxnet.estimator import SoftmaxClassifier

    constructor = inspect.signature(SoftmaxClassifier).parameters
    assert {name: constructor[name].default for name in DEFAULTS} == DEFAULTS


def test_many_rows_of_few_groups_are_little_data():
    """5,000 rows of 30 people are held out person by person, every row once; those of 300 people are not."""
    of_few, of_many, by_row = (resolve(DataShape(5000, 12, 0, 4, n_groups=n), DEFAULTS) for n in (30, 300, 0))
    assert (of_few.n_folds, of_few.n_members, of_few.compare_regression) == (5, 10, True)
    assert of_many == by_row
    assert of_many.n_members == 4
