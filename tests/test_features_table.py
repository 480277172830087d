"""Tables: kinds of columns, names, categories, unreadable cells."""

from __future__ import annotations

import decimal
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from softmaxnet.data.files import read_dataset
from softmaxnet.errors import DataError, ModelFileError, UsageError
from softmaxnet.features import BadCell, FeatureEncoder
from softmaxnet.features.arrow import Coded
from softmaxnet.features.categories import CategoryColumn, place_columns
from softmaxnet.features.inspect import text_kind
from softmaxnet.features.numbers import BY_SIZE


def kinds_of(table, **options):
    """Return the kind of each column."""
    return {row["name"]: row["kind"] for row in FeatureEncoder.fit(pa.table(table), **options).describe()}


def same(a, b):
    """Say whether two encoded batches are equal bit for bit."""
    np.testing.assert_array_equal(a.dense, b.dense)
    assert (a.sparse is None) == (b.sparse is None)
    if a.sparse is not None:
        np.testing.assert_array_equal(a.sparse.toarray(), b.sparse.toarray())


@pytest.fixture
def mixed(rng):
    """Return 300 rows of every kind of column, with gaps."""
    n = 300
    gap = rng.random(n) < 0.1
    return pa.table(
        {
            "age": pa.array(rng.integers(18, 80, n), mask=gap),
            "income": [f" {x:.2f}" for x in rng.lognormal(8, 1, n)],
            "city": pa.array([["Oslo", "Rome", "Lima"][i] for i in rng.integers(0, 3, n)], mask=gap),
            "code": [f"C{i}" for i in rng.integers(0, 50, n)],
            "member": pa.array(rng.random(n) < 0.5, mask=gap),
            "since": pa.array((rng.integers(0, 20000, n)).astype("M8[D]"), mask=gap),
            "note": [" ".join(f"w{j}" for j in rng.integers(0, 99, 6)) for _ in range(n)],
        }
    )


def test_every_kind_of_column_finds_its_part(mixed):
    """Numbers, texts of numbers, categories, truth values, dates and texts are told apart."""
    encoder = FeatureEncoder.fit(mixed)
    assert [(column.name, column.kind) for column in encoder.columns] == [
        ("age", "number"),
        ("income", "number"),
        ("city", "category"),
        ("code", "category"),
        ("member", "boolean"),
        ("since", "date"),
        ("note", "text"),
    ]
    encoded = encoder.transform(mixed)
    assert encoded.dense.shape == (300, encoder.n_dense)
    assert encoded.sparse.shape == (300, encoder.n_sparse)
    assert np.isfinite(encoded.dense).all()
    assert encoder.dense_sources().shape == (encoder.n_dense,)
    assert encoder.sparse_sources().shape == (encoder.n_sparse,)
    assert set(encoder.sparse_sources()) == {3, 6}


def test_rows_in_batches_are_the_same_bits(mixed):
    """Encoding row by row, in chunks or as a whole gives the same bits, whatever the chunks of the table."""
    encoder = FeatureEncoder.fit(mixed)
    whole = encoder.transform(mixed)
    parts = [encoder.transform(mixed.slice(i, 23)) for i in range(0, 300, 23)]
    np.testing.assert_array_equal(whole.dense, np.concatenate([part.dense for part in parts]))
    np.testing.assert_array_equal(
        whole.sparse.toarray(), np.concatenate([part.sparse.toarray() for part in parts])
    )
    same(encoder.transform(pa.concat_tables([mixed.slice(0, 7), mixed.slice(7)])), whole)
    assert encoder.transform(mixed.slice(0, 0)).dense.shape == (0, encoder.n_dense)


def test_whole_weights_are_copies_for_every_kind(mixed, rng):
    """An encoder fitted with whole weights equals one fitted on the rows repeated, for all kinds."""
    weights = rng.integers(0, 4, mixed.num_rows)
    a = FeatureEncoder.fit(mixed, sample_weight=weights)
    b = FeatureEncoder.fit(mixed.take(np.repeat(np.arange(mixed.num_rows), weights)))
    (meta_a, tensors_a), (meta_b, tensors_b) = a.to_state(), b.to_state()
    assert meta_a == meta_b
    for name, tensor in tensors_a.items():
        np.testing.assert_array_equal(tensor, tensors_b[name], err_msg=name)


def test_columns_in_another_order_are_found_by_name(mixed):
    """Reordered columns give the same encoding; extra ones are warned of and ignored."""
    encoder = FeatureEncoder.fit(mixed)
    expected = encoder.transform(mixed)
    names = mixed.column_names[::-1]
    same(encoder.transform(mixed.select(names)), expected)
    with pytest.warns(UserWarning, match="columns that were not there in training are ignored: 'extra'"):
        same(encoder.transform(mixed.append_column("extra", pa.array(range(300)))), expected)


def test_missing_and_renamed_columns_are_named(mixed):
    """A missing column is named, with the one that was probably meant."""
    encoder = FeatureEncoder.fit(mixed)
    with pytest.raises(
        DataError, match=r"a column of training is missing: 'age'\. The data has 'Age': did you mean 'age'"
    ):
        encoder.transform(mixed.rename_columns(["Age", *mixed.column_names[1:]]))
    with pytest.raises(DataError, match="columns that were there in training are missing: 'age', 'income'"):
        encoder.transform(mixed.drop_columns(["age", "income"]))
    twice = pa.Table.from_arrays([pa.array([1, 2])] * 2, names=["a", "a"])
    with pytest.raises(DataError, match="'a' occur more than once"):
        FeatureEncoder.fit(twice)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "2", " 3 ", "4"], "number"),
        (["1e5", "-3.2", "+7", ".5"], "number"),
        (["1", None, "", "4"], "number"),
        (["0x1f", "2", "3", "4"], "category"),
        (["1_000", "2", "3", "4"], "category"),
        (["1,5", "2", "3", "4"], "category"),
        (["yes", "no", "yes", "no"], "category"),
        (["2020-01-01", "2021-05-06", None, "1999-12-31T23:59"], "date"),
        (["2020-01-01", "2021-05-06", "soon", "later"], "category"),
        ([None, None, None, None], "drop"),
        (["", " ", None, ""], "drop"),
    ],
)
def test_kinds_of_texts(texts, kind):
    """Texts that all read as numbers or dates are numbers or dates, in the notations that the page lists."""
    table = {"x": pa.array(texts, pa.string()), "y": [1, 2, 3, 4]}
    assert kinds_of(table)["x"] == kind


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([1.5, None, 2.0]), "number"),
        (pa.array([decimal.Decimal("1.5"), None, decimal.Decimal("2.5")]), "number"),
        (pa.array([1, 2, 3], pa.duration("s")), "number"),
        (pa.array([1, 2, 3], pa.time32("s")), "number"),
        (pa.array([1, 2, 3], pa.timestamp("ns", "UTC")), "date"),
        (pa.array([1, 2, 3], pa.date32()), "date"),
        (pa.array([True, None, False]), "boolean"),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "category"),
        (pa.array([1, 2, 1]).dictionary_encode(), "category"),
        (pa.array(["1", "2", "1"], pa.large_string()), "number"),
        (pa.array(["a", "b", "a"], pa.string_view()), "category"),
        (pa.nulls(3), "drop"),
    ],
)
def test_kinds_of_arrow_types(array, kind):
    """Every scalar Arrow type is a kind of feature, and encodes."""
    table = pa.table({"x": array, "y": [1, 2, 3]})
    encoder = FeatureEncoder.fit(table)
    assert encoder.columns[0].kind == kind
    assert np.isfinite(encoder.transform(table).dense).all()


def test_types_that_are_no_features_are_refused():
    """A column of lists is an error that names the column, whatever kind is asked for."""
    table = pa.table({"x": [[1], [2, 3]], "y": [1, 2]})
    for kinds in (None, {"x": "category"}, {"x": "number"}, {"x": "date"}):
        with pytest.raises(DataError, match="column 'x' holds list"):
            FeatureEncoder.fit(table, kinds=kinds)
    assert FeatureEncoder.fit(table, kinds={"x": "drop"}).n_dense == 1


def test_kinds_can_be_overridden():
    """A user's kind wins; names and kinds that do not exist are refused with the nearest one."""
    table = {"zip": ["1", "2", "1", "3"], "word": ["a", "b", "a", "c"], "y": [1, 2, 3, 4]}
    kinds = {"zip": "category", "word": "text", "y": "drop"}
    assert kinds_of(table, kinds=kinds) == kinds
    with pytest.raises(UsageError, match="Did you mean 'zip'"):
        FeatureEncoder.fit(pa.table(table), kinds={"Zip": "category"})
    with pytest.raises(UsageError, match="cannot be of kind 'integer'"):
        FeatureEncoder.fit(pa.table(table), kinds={"zip": "integer"})
    with pytest.raises(DataError, match="none of its 4 values is one, such as 'a'"):
        FeatureEncoder.fit(pa.table(table), kinds={"word": "number"})


def test_a_cell_that_is_no_number_is_named():
    """A word among numbers at predict names column and row; collected, the row is encoded as missing."""
    encoder = FeatureEncoder.fit(pa.table({"age": ["31", "22", "43", "54"]}))
    test = pa.table({"age": ["31", "n/a", "43"]})
    with pytest.raises(DataError) as caught:
        encoder.transform(test)
    assert str(caught.value) == (
        "column 'age', row 1: 'n/a' is not a number. Missing values are written as empty cells."
    )
    assert (caught.value.row, caught.value.column) == (1, "age")
    cells: list[BadCell] = []
    dense = encoder.transform(test, bad=cells).dense
    assert [(cell.row, cell.column) for cell in cells] == [(1, "age")]
    np.testing.assert_array_equal(dense[1], 0)


def test_infinite_texts_are_infinite_numbers():
    """'inf' and '1e999' in a column of numbers are errors with their place, not words."""
    for text in ("inf", "-Infinity", "1e999"):
        with pytest.raises(DataError, match=r"column 'x', row 1: -?inf is not a finite number"):
            FeatureEncoder.fit(pa.table({"x": ["1", text, "3"]}))


def test_the_same_values_in_other_types_encode_alike():
    """A file's texts and a frame's numbers of the same values give the same bits."""
    encoder = FeatureEncoder.fit(
        pa.table({"a": ["1", "2", "3", "4", None], "c": ["1", "2", "1", "2", "1"]}), kinds={"c": "category"}
    )
    expected = encoder.transform(pa.table({"a": ["1", "2", "3", "4", None], "c": ["1", "2", "1", "2", "1"]}))
    for a in ([1, 2, 3, 4, None], [1.0, 2.0, 3.0, 4.0, None], [1.0, 2.0, 3.0, 4.0, np.nan]):
        for c in ([1, 2, 1, 2, 1], [1.0, 2.0, 1.0, 2.0, 1.0]):
            same(encoder.transform(pa.table({"a": a, "c": c})), expected)


def test_categories_have_slots_for_rare_and_missing_levels():
    """Common levels get a slot each; rare and unseen ones share one; missing cells have their own."""
    city = ["Rome"] * 150 + ["Oslo"] * 40 + ["Lima"] * 3 + ["Bonn", "Bern"] + [None] * 5
    encoder = FeatureEncoder.fit(pa.table({"city": city, "x": range(200)}))
    column = encoder.parts.categories[0]
    assert column.labels() == ["Lima", "Oslo", "Rome", "(other)", "(missing)"]
    counts: dict[str, int] = {}
    test = pa.table({"city": ["Oslo", "Bonn", "Paris", None, " Rome "], "x": [1] * 5})
    dense = encoder.transform(test, counts=counts).dense
    np.testing.assert_array_equal(dense[:, 1:].argmax(axis=1), [1, 3, 3, 4, 2])
    np.testing.assert_array_equal(dense[:, 1:].sum(axis=1), 1)
    assert counts == {"city": 2}


def test_unseen_levels_are_zeros_where_training_pooled_none():
    """Without rare levels in training an unseen one is all zeros: no untrained weight is used."""
    encoder = FeatureEncoder.fit(pa.table({"c": ["a", "b"] * 5, "x": range(10)}))
    dense = encoder.transform(pa.table({"c": ["z", None, "b"], "x": [0, 0, 0]})).dense
    np.testing.assert_array_equal(dense[:, 1:], [[0, 0], [0, 0], [0, 1]])


def test_levels_are_compared_in_one_normal_form():
    """A level written with combining accents is the same level."""
    encoder = FeatureEncoder.fit(pa.table({"c": ["caf\u00e9", "bar"] * 5, "x": range(10)}))
    dense = encoder.transform(pa.table({"c": ["cafe\u0301"], "x": [0]})).dense
    np.testing.assert_array_equal(dense[0, 1:], [0, 1])


def test_wide_categories_go_to_the_sparse_block(rng):
    """More than 32 slots: one active index a row; at most 32: ones in the dense block."""
    code = [f"c{i:02d}" for i in rng.permutation(np.arange(400) % 40)]
    encoder = FeatureEncoder.fit(pa.table({"code": code, "x": range(400)}))
    encoded = encoder.transform(pa.table({"code": ["c07", "nope"], "x": [0, 1]}))
    assert (encoder.n_dense, encoder.n_sparse) == (1, 40)
    np.testing.assert_array_equal(encoded.sparse.toarray()[0], np.arange(40) == 7)
    assert encoded.sparse[[1]].nnz == 0


def test_the_dense_block_of_categories_is_bounded():
    """Narrow columns go to the dense block until it holds 1,024 slots, the narrowest first."""
    columns = [CategoryColumn(i, tuple(map(str, range(30))), False, False) for i in range(40)]
    placed = place_columns([*columns, CategoryColumn(40, ("a", "b"), False, False)])
    assert sum(placed) == 35
    assert placed[40]
    assert not any(placed[34:40])


def test_identifiers_of_rows_are_dropped_with_the_reason():
    """Texts of one word that are nearly all different say nothing about other rows."""
    table = {"id": [f"u{i}" for i in range(200)], "x": range(200)}
    row = FeatureEncoder.fit(pa.table(table)).describe()[0]
    assert (row["kind"], row["becomes"]) == ("drop", "nothing: looks like a row identifier")
    assert kinds_of({"id": table["id"]}) == {"id": "text"}  # alone it is all there is


@pytest.mark.parametrize(
    ("values", "rows_each", "kind"),
    [
        ([f"some words number {i}" for i in range(300)], 1, "text"),
        ([f"a long level name {i}" for i in range(10)], 30, "category"),
        ([f"First{i} Last{i}" for i in range(300)], 1, "text"),
        ([f"w{i}" for i in range(300)], 1, "drop"),
        ([f"w{i}" for i in range(100)], 3, "category"),
        ([f"w{i}" for i in range(3)], 1, "category"),
    ],
)
def test_text_category_or_identifier(values, rows_each, kind):
    """The rule on words, different values and repeated levels, case by case."""
    coded = Coded(np.repeat(np.arange(len(values)), rows_each), tuple(values))
    assert text_kind(coded, None) == kind


def test_integer_codes_are_numbers_and_levels(rng):
    """Whole numbers with few levels, or a jagged histogram, get a slot for each level as well."""
    n = 3000
    p = np.array([9, 1, 7, 1, 8, 1, 5, 1, 9, 1, 6, 1, 4, 1, 5]) / 60
    table = pa.table(
        {
            "stars": rng.integers(1, 6, n),
            "code": rng.choice(np.arange(1, 16), n, p=p),
            "count": np.minimum(rng.poisson(5.0, n), 20),
            "flag": rng.integers(0, 2, n),
            "grade": rng.integers(1, 6, n).astype(float),
        }
    )
    becomes = [row["becomes"] for row in FeatureEncoder.fit(table).describe()]
    assert becomes == [
        "1 scaled number, 5 dense levels",
        "1 scaled number, 15 dense levels",
        "1 scaled number",
        "1 scaled number",
        "1 scaled number",
    ]
    encoder = FeatureEncoder.fit(table)
    texts = pa.table({name: [str(v) for v in table[name].to_pylist()] for name in table.column_names})
    same(encoder.transform(texts), encoder.transform(table))


@pytest.mark.parametrize("empty", [np.nan, np.inf])
def test_a_column_without_a_finite_number_has_no_levels(empty):
    """It is left out where all is missing, and refused where all is infinite, as in a table of any other columns."""
    table = pa.table({"x": np.arange(1500.0), "nothing": np.full(1500, empty)})
    if np.isnan(empty):
        assert FeatureEncoder.fit(table).n_dense == 1
    else:
        with pytest.raises(DataError, match="inf"):
            FeatureEncoder.fit(table)


def test_numbers_that_are_names_are_numbers_and_levels(rng):
    """Numbers of schools get a slot each, for neighbours have unrelated numbers of rows; ages and pixels do not."""
    n = 5000
    sizes = rng.uniform(0.2, 1.8, 80)
    table = pa.table(
        {
            "school": rng.choice(np.arange(1, 81), n, p=sizes / sizes.sum()),
            "age": np.clip(np.round(rng.normal(40, 12, n)), 17, 90).astype(int),
            "drawn": rng.integers(1, 81, n),
        }
    )
    found = ["level" in row["becomes"] for row in FeatureEncoder.fit(table).describe()]
    assert found == [True, False, False]


def test_numbers_on_spikes_are_numbers_and_levels(rng):
    """Price points, and amounts that are mostly zero and follow a tariff, get a slot for each level; others none."""
    n = 4000
    points = np.array([0.69, 0.75, 0.79, 0.99, 1.19, 1.29, 1.49, 1.99])
    price = np.where(rng.random(n) < 0.9, rng.choice(points, n), rng.integers(50, 220, n) / 100)
    some = np.where(rng.random(n) < 0.6, rng.choice([1055.0, 3103.0, 7298.0, 7688.0], n), rng.integers(100, 9000, n))
    table = pa.table(
        {
            "price": price,
            "gain": np.where(rng.random(n) < 0.9, 0.0, some),
            "age": np.clip(np.round(rng.normal(40, 12, n)), 17, 90),
            "counts, mostly 0": rng.poisson(rng.gamma(0.3, 6.0, n)).astype(float),
            "pixel": np.minimum(rng.integers(0, 40, n) + rng.integers(0, 40, n), 70).astype(float),
        }
    )
    encoder = FeatureEncoder.fit(table)
    found = dict(zip(table.column_names, ("level" in row["becomes"] for row in encoder.describe()), strict=True))
    assert found == {"price": True, "gain": True, "age": False, "counts, mostly 0": False, "pixel": False}
    as_float32 = table.set_column(0, "price", pa.array(price.astype(np.float32)))
    as_text = table.set_column(0, "price", pa.array([f"{value:.2f}" for value in price]))
    for other in (as_float32, as_text):
        assert (encoder.transform(other).sparse != encoder.transform(table).sparse).nnz == 0
    few = FeatureEncoder.fit(table.slice(0, 900))
    assert not any("level" in row["becomes"] for row in few.describe())


def test_truth_values_read_from_words_and_numbers():
    """A bool column is 0/1 with an indicator; later it may come as true/false, 1/0 or numbers."""
    encoder = FeatureEncoder.fit(pa.table({"b": [True, False, None, True], "x": [1, 2, 3, 4]}))
    expected = encoder.transform(pa.table({"b": [True, False, None], "x": [1, 2, 3]})).dense
    for b in (["True", "false", ""], ["1", "0", None], [1, 0, None], [1.0, 0.0, np.nan]):
        np.testing.assert_array_equal(encoder.transform(pa.table({"b": b, "x": [1, 2, 3]})).dense, expected)
    with pytest.raises(DataError, match="column 'b', row 1: 'maybe' is neither true nor false"):
        encoder.transform(pa.table({"b": ["true", "maybe"], "x": [1, 2]}))


def test_a_matrix_can_be_read_by_a_model_of_a_table():
    """Columns of a matrix are taken by position, with NaN missing and numbers as levels."""
    train = pa.table({"x": [1.0, 2.0, 3.0, 4.0], "c": ["1", "2", "1", "2"]})
    encoder = FeatureEncoder.fit(train, kinds={"c": "category"})
    same(
        encoder.transform(np.array([[1.0, 1], [np.nan, 2]])),
        encoder.transform(pa.table({"x": [1.0, None], "c": ["1", "2"]})),
    )
    with pytest.raises(DataError, match="3 columns"):
        encoder.transform(np.ones((1, 3)))


def test_raw_applies_to_numbers_only():
    """features='raw' in a table leaves numbers as they are; categories still get slots."""
    table = pa.table({"x": [100.0, 200.0, 300.0], "c": ["a", "b", "a"]})
    dense = FeatureEncoder.fit(table, features="raw").transform(table).dense
    np.testing.assert_array_equal(dense, [[100, 1, 0], [200, 0, 1], [300, 1, 0]])
    with pytest.raises(DataError, match="column 'x', row 1: a value is missing"):
        FeatureEncoder.fit(pa.table({"x": [1.0, None, 2.0]}), features="raw")


def test_duplicated_columns_and_wide_tables_encode(rng):
    """A column twice under two names, and a table of 2,000 columns, are nothing special."""
    x = rng.normal(size=50)
    table = pa.table({f"x{i}": x for i in range(2000)})
    assert FeatureEncoder.fit(table).transform(table).dense.shape == (50, 2000)


def test_encoding_warns_of_nothing(mixed):
    """No warning leaves the encoder on ordinary data."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FeatureEncoder.fit(mixed, n_bins=8).transform(mixed)


DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "target", "n_dense", "n_sparse"),
    [("adult", "income", 153, 293), ("diabetes130", "readmitted", 319, 1713), ("letter", "lettr", 16, 0)],
)
def test_tables_with_unseen_levels_and_gaps_encode(name, target, n_dense, n_sparse):
    """Real tables: the test file encodes to finite numbers; levels never seen are counted by column."""
    if not (DATA / name).is_dir():
        pytest.skip(f"needs the data set {name} in {DATA}")
    train = read_dataset(DATA / name / "train.csv.gz", target=target).X
    test = read_dataset(DATA / name / "test.csv.gz", target=target).X
    encoder = FeatureEncoder.fit(train)
    counts: dict[str, int] = {}
    encoded = encoder.transform(test, counts=counts)
    assert (encoder.n_dense, encoder.n_sparse) == (n_dense, n_sparse)
    assert np.isfinite(encoded.dense).all()
    assert ("diag_1" in counts) == (name == "diabetes130")


def test_pixels_in_columns_are_a_picture_and_no_codes():
    """Whole numbers from 0 to 16 in 64 columns that resemble their neighbours are encoded as those of an array are."""
    from sklearn.datasets import load_digits

    from softmaxnet.features.pictures import picture_shape

    X = load_digits().data
    table = pa.table({f"pixel_{i}": X[:, i].astype(np.int64) for i in range(64)})
    encoder = FeatureEncoder.fit(table, n_bins=BY_SIZE)
    encoded = encoder.transform(table).dense
    np.testing.assert_allclose(encoded, FeatureEncoder.fit(X).transform(X).dense)
    assert picture_shape(encoded) == (8, 8, 1)
    assert encoder.bins is None


def test_an_encoder_without_its_bins_gives_the_other_columns(rng):
    """What is left is what is there without the bins, category slots behind them included."""
    names = ["a", "b", "c"]
    table = pa.table({"x": rng.normal(size=300), "z": rng.gamma(1, size=300), "w": rng.choice(names, size=300)})
    encoder = FeatureEncoder.fit(table, n_bins=BY_SIZE)
    assert encoder.bins == slice(2, 10)
    rest = np.delete(encoder.transform(table).dense, encoder.bins, axis=1)
    np.testing.assert_array_equal(encoder.without_bins().transform(table).dense, rest)
    assert encoder.without_bins().bins is None


def test_columns_told_to_be_numbers_take_words_as_missing_for_good():
    """A word is a missing cell in training and later, is counted, and the saved encoder does the same."""
    table = pa.table({"income": ["1", "n.a.", "3", "4"] * 5, "x": list(range(20))})
    encoder = FeatureEncoder.fit(table, kinds={"income": "number"})
    blank = pa.table({"income": ["1", None, "3", "4"] * 5, "x": list(range(20))})
    expected = FeatureEncoder.fit(blank).transform(blank).dense
    np.testing.assert_array_equal(encoder.transform(table).dense, expected)
    again = FeatureEncoder.from_state(*encoder.to_state())
    counts: dict[str, int] = {}
    np.testing.assert_array_equal(again.transform(table, counts=counts).dense, expected)
    assert counts == {"income (no numbers)": 5}


@pytest.mark.parametrize("told", [[7], [-1], "0", [True], [1]])
def test_a_damaged_list_of_told_columns_is_refused(told):
    """Columns that are not there, or of another kind, cannot have been told to be numbers."""
    table = pa.table({"income": ["1", "n.a.", "3"] * 5, "city": ["a", "b", "a"] * 5})
    meta, tensors = FeatureEncoder.fit(table, kinds={"income": "number"}).to_state()
    with pytest.raises(ModelFileError, match="told to be numbers"):
        FeatureEncoder.from_state({**meta, "told_numbers": told}, tensors)
