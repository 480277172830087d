"""Looking before training: what is found, and what is left in peace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn import datasets

from softmaxnet.data.files import read_dataset
from softmaxnet.data.labels import encode_labels
from softmaxnet.data.row_hash import hash_rows
from softmaxnet.data.similar_labels import similar_labels
from softmaxnet.features import FeatureEncoder
from softmaxnet.precheck import Finding, look

SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared(name: str) -> tuple[Any, Any, Any]:
    """Return X, labels and classes of a data set beside the project."""
    if not (SHARED / name).is_dir():
        pytest.skip(f"the data set {name} is not beside the project")
    target = json.loads((SHARED / name / "meta.json").read_text())["target"]
    data = read_dataset(SHARED / name / "train.csv.gz", target=target)
    return data.X, *encode_labels(data.y)


def kinds(found: list[Finding], severity: str = "warning") -> list[str]:
    """Return the kinds of the findings of one severity."""
    return [finding.kind for finding in found if finding.severity == severity]


def only(found: list[Finding], kind: str) -> Finding:
    """Return the one finding of a kind, after checking that it is well made."""
    (finding,) = (finding for finding in found if finding.kind == kind)
    assert "\n" not in finding.message
    assert finding.message.endswith(".")
    assert json.loads(json.dumps(finding.to_dict()))["kind"] == kind
    return finding


# Leaks


def test_a_row_number_in_class_order_gives_the_target_away() -> None:
    """The leak that was put into drybean is found, and nothing else; detail has both accuracies."""
    X, labels, classes = shared("drybean_leaky")
    for encoder in (None, FeatureEncoder.fit(X)):
        found = look(X, labels, classes, encoder=encoder)
        assert kinds(found) == ["target_leak"]
        finding = only(found, "target_leak")
        assert finding.column == "Bean ID"
        assert "'Bean ID'" in finding.message
        assert finding.detail["accuracy"] > 0.99
        assert finding.detail["accuracy_without"] < 0.94
        assert finding.detail["row_identifier"]


@pytest.mark.parametrize("name", ["drybean", "adult", "letter", "satimage", "diabetes130", "banking77", "icd10cm"])
def test_no_warning_for_data_without_a_fault(name: str) -> None:
    """Ordinary data, strong features among them, give no warning."""
    X, labels, classes = shared(name)
    assert kinds(look(X, labels, classes, encoder=FeatureEncoder.fit(X))) == []


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits"])
def test_strong_features_are_no_leaks(name: str) -> None:
    """Petal length tells irises apart nearly as well as all columns do; that is no leak, in one class or all."""
    data = getattr(datasets, f"load_{name}")()
    for target in [data.target, *(data.target == k for k in range(len(data.target_names)))]:
        labels, classes = encode_labels(target)
        assert kinds(look(data.data, labels, classes)) == []


def leaky(rng: np.random.Generator, n: int = 600) -> tuple[dict[str, Any], Any]:
    """Return two columns that know a little of three classes."""
    labels = rng.integers(0, 3, n)
    return {"a": rng.normal(size=n) + labels, "b": rng.normal(size=n)}, labels


def test_leaks_of_every_kind_at_once(rng: np.random.Generator) -> None:
    """A copy, a number by class and an identifier by class are each found although the others are there."""
    columns, labels = leaky(rng)
    columns["code"] = np.array(["x", "yy", "zz"])[labels].tolist()
    columns["case"] = [f"{label}-{i}" for label, i in zip(labels, rng.integers(0, 40, 600), strict=True)]
    columns["score"] = labels * 10.5 + rng.random(600)
    found = look(pa.table(columns), labels, ["u", "v", "w"])
    assert [(f.kind, f.column) for f in found] == [
        ("target_copy", "code"),
        ("target_leak", "case"),
        ("target_leak", "score"),
    ]
    assert "--group" in found[1].message  # 120 values in 600 rows may be cases


def test_a_leak_by_being_missing(rng: np.random.Generator) -> None:
    """A column that has values for one class only gives the target away."""
    columns, labels = leaky(rng)
    labels = (labels > 0).astype(int)
    columns["paid"] = pa.array(rng.random(600), mask=labels == 0)
    finding = only(look(pa.table(columns), labels, [False, True]), "target_leak")
    assert finding.column == "paid"


def test_a_small_file_in_class_order(rng: np.random.Generator) -> None:
    """214 rows of 6 classes, as in the glass data, are enough to find the number in class order, shuffled or not."""
    labels = np.repeat(np.arange(6), [70, 76, 17, 13, 9, 29])
    X = np.column_stack([np.arange(1, 215), rng.normal(size=(214, 9)) + 0.3 * labels[:, None]])
    shuffled = rng.permutation(214)
    for rows in (slice(None), shuffled):
        assert only(look(X[rows], labels[rows], list("abcdef")), "target_leak").column == "0"


def test_a_patient_in_several_rows_is_no_leak_with_groups(rng: np.random.Generator) -> None:
    """What only tells patients apart predicts nothing for a patient in the other half."""
    patient = rng.integers(0, 60, 1500)
    X = np.column_stack([rng.normal(size=60)[patient], rng.normal(size=(1500, 3))])
    labels = rng.integers(0, 2, 60)[patient]
    assert kinds(look(X, labels, ["a", "b"], groups=patient.astype(str))) == []
    assert "--group" in only(look(X, labels, ["a", "b"]), "target_leak").message


def test_copies_of_rows_make_no_column_a_leak(rng: np.random.Generator) -> None:
    """With every row five times each column knows the label of its copies: the copies are told, no leak."""
    X, labels = np.repeat(rng.normal(size=(200, 4)), 5, axis=0), np.repeat(rng.integers(0, 2, 200), 5)
    assert kinds(look(X, labels, ["a", "b"])) == ["duplicate_rows"]


def test_dropped_columns_are_not_tried(rng: np.random.Generator) -> None:
    """A leak that the user has dropped is no finding."""
    columns, labels = leaky(rng)
    table = pa.table(columns | {"code": labels})
    encoder = FeatureEncoder.fit(table, kinds={"code": "drop"})
    assert look(table, labels, [0, 1, 2], encoder=encoder) == []


@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(30, 300))
@settings(max_examples=30, deadline=None)
def test_noise_is_no_leak(seed: int, n_classes: int, n_rows: int) -> None:
    """Whatever the number of classes and rows, columns of noise give no warning of a leak."""
    rng = np.random.default_rng(seed)
    table = pa.table(
        {
            "number": rng.normal(size=n_rows),
            "level": rng.integers(0, 5, n_rows).astype(str).tolist(),
            "name": [f"n{i}" for i in rng.integers(0, n_rows, n_rows)],
        }
    )
    labels = np.sort(rng.integers(0, n_classes, n_rows))
    found = look(table, labels, list(range(n_classes)))
    assert not {"target_leak", "target_copy", "row_identifier"} & set(kinds(found))


# Row identifiers and empty columns


def test_numbers_of_rows(rng: np.random.Generator) -> None:
    """A dense number, in any order, and a rising one are identifiers; counts, codes and sorted measures are not."""
    columns, labels = leaky(rng)
    columns |= {
        "shuffled": rng.permutation(600) + 17,
        "rising": np.cumsum(rng.integers(1, 50, 600)),
        "as text": [f"{i}.0" for i in range(600)],
        "count": np.sort(rng.integers(0, 300, 600)),
        "wide": rng.integers(0, 10**9, 600),
        "sorted": np.sort(rng.normal(size=600)),
        "half": np.arange(600) / 2,
    }
    found = look(pa.table(columns), labels, [0, 1, 2])
    assert [(f.kind, f.column) for f in found] == [
        ("row_identifier", name) for name in ("shuffled", "rising", "as text")
    ]
    assert "--drop 'as text'" in found[2].message


def test_an_identifier_is_found_beyond_the_sample(rng: np.random.Generator) -> None:
    """With more rows than the sample all rows are looked at before a column is called an identifier."""
    n = 30_000
    numbers, once_more = np.arange(n), np.arange(n)
    once_more[[17, 20_001]] = 5
    labels = rng.integers(0, 2, n)
    table = pa.table({"id": numbers, "nearly": once_more, "x": rng.normal(size=n)})
    assert [f.column for f in look(table, labels, [0, 1])] == ["id"]


def test_the_only_column_is_no_identifier(rng: np.random.Generator) -> None:
    """There is nothing else to learn from, so that nothing is said."""
    assert look(np.arange(100)[:, None], rng.integers(0, 2, 100), [0, 1]) == []
    table = pa.table({"text": [f"w{i}" for i in range(100)]})
    assert look(table, rng.integers(0, 2, 100), [0, 1], encoder=FeatureEncoder.fit(table)) == []


def test_what_the_encoder_leaves_out(rng: np.random.Generator) -> None:
    """Constant and empty columns and identifiers of text are notes, one for each reason."""
    columns, labels = leaky(rng)
    columns |= {"one": ["k"] * 600, "none": pa.nulls(600, pa.string()), "two": [2.0] * 600}
    columns["uuid"] = [f"{i * 7919 % 600:06x}" for i in range(600)]
    table = pa.table(columns)
    found = look(table, labels, [0, 1, 2], encoder=FeatureEncoder.fit(table))
    assert kinds(found) == []
    assert {(f.kind, f.column) for f in found} == {
        ("empty_column", None),
        ("empty_column", "none"),
        ("row_identifier", "uuid"),
    }
    (constant,) = (f for f in found if f.detail["reason"] == "constant in training")
    assert constant.detail["columns"] == ["one", "two"]


# Labels


def test_labels_written_in_two_ways() -> None:
    """The labels of a crawl that were cut short are found beside the whole ones, and nothing is changed."""
    names = ["cours", "course", "facult", "faculty", "project", "student"]
    counts = np.array([4, 930, 8, 1124, 504, 1641])
    X = np.random.default_rng(0).normal(size=(counts.sum(), 2))
    found = look(X, np.repeat(np.arange(6), counts), np.array(names, dtype=object))
    assert [f.detail["labels"] for f in found if f.kind == "similar_labels"] == [
        ["cours", "course"],
        ["facult", "faculty"],
    ]
    assert "(4 rows) may be the label 'course' (930 rows)" in found[0].message


@pytest.mark.parametrize(
    ("labels", "counts", "reasons"),
    [
        (["yes", "yes ", "no"], [50, 50, 50], ["white space"]),
        (["A", "A ", "B"], [9, 2, 9], ["white space"]),
        (["Yes", "yes", "NO"], [40, 50, 50], ["case"]),
        (["café", "cafe"], [40, 50], ["accents"]),
        (["caf\u00e9", "cafe\u0301"], [40, 50], ["accents"]),
        (["card-arrival", "card_arrival", "card arrival"], [9, 50, 3], ["separators", "separators"]),
        (["1", "01", "2"], [50, 3, 50], ["the same number"]),
        (["corse", "course"], [1, 20], ["a letter"]),
        (["coruse", "course"], [1, 20], ["a letter"]),
        (["coursee", "course"], [1, 20], ["a letter"]),
        (["corse", "course"], [2, 20], []),  # a tenth of the rows is no slip
        (["A", "B", "a"], [9, 900, 900], []),
        (["0", "1", "-1", "10"], [1, 900, 900, 900], []),
        (["D68", "D69", "D680"], [500, 1, 500], []),
        (["step 1", "step 2", "step 12"], [500, 1, 500], []),
        (["nmap", "imap"], [1493, 11], []),
        (["cat", "bat", "rat"], [500, 1, 500], []),
        (["C", "C++", "C#"], [500, 1, 500], []),
        (["male", "female"], [500, 1], []),
        (["<=50K", ">50K"], [500, 20], []),
        (["increase", "decrease"], [500, 1], []),
        ([1, 2, 3], [500, 1, 500], []),
        ([True, False], [500, 1], []),
    ],
)
def test_similar_labels(labels: list[object], counts: list[int], reasons: list[str]) -> None:
    """What is one label twice, and what are two."""
    assert [pair.reason for pair in similar_labels(labels, np.array(counts))] == reasons


@given(st.text("abcde", min_size=5, max_size=9), st.integers(0, 8), st.sampled_from("abcdefx"), st.booleans())
def test_every_single_slip_is_found(word: str, place: int, letter: str, insert: bool) -> None:
    """Any label of five letters or more with one letter put in or replaced is found beside the right one."""
    place %= len(word)
    slip = word[:place] + letter + word[place + (not insert) :]
    found = similar_labels([word, slip], np.array([100, 1])) if slip != word else [(1, 0)]
    assert [pair[:2] for pair in found] == [(1, 0)]


def test_many_labels_have_a_bound() -> None:
    """100,000 long labels are compared for case and spaces alone."""
    labels = [f"label number {i:06d} of a long list" for i in range(100_000)]
    labels[7] += " "
    labels[9] = labels[8] + " "
    assert [pair[:2] for pair in similar_labels(labels, np.full(100_000, 3))] == [(9, 8)]


def test_classes_with_one_row_and_imbalance(rng: np.random.Generator) -> None:
    """Single rows are named; a class that is nearly everything is a warning, 1 : 100 a note, 1 : 1000 a warning."""
    X = rng.normal(size=(3000, 2))

    def of(*counts: int) -> list[Finding]:
        return look(X[: sum(counts)], np.repeat(np.arange(len(counts)), counts), list("abcdefgh")[: len(counts)])

    assert of(60, 40) == []
    single = only(of(60, 1, 1), "single_row_class")
    assert (single.detail["labels"], "'b', 'c'" in single.message) == (["b", "c"], True)
    assert kinds(of(960, 40)) == ["imbalance"]
    assert kinds(of(500, 400, 4), "note") == ["imbalance"]
    assert kinds(of(1100, 1000, 1)) == ["single_row_class", "imbalance"]


def test_weights_count(rng: np.random.Generator) -> None:
    """Rows of weight 0 are not there, and imbalance is that of the weights."""
    X = rng.normal(size=(1000, 2))
    labels = np.repeat([0, 1, 2], [500, 499, 1])
    assert kinds(look(X, labels, list("abc"), sample_weight=np.repeat([1.0, 1.0, 0.0], [500, 499, 1]))) == []
    weights = np.repeat([100.0, 1.0, 0.0], [500, 499, 1])
    assert kinds(look(X, labels, list("abc"), sample_weight=weights)) == ["imbalance"]


def test_a_class_of_one_group(rng: np.random.Generator) -> None:
    """A class whose rows are one group cannot be on both sides of a split by group."""
    labels = np.repeat([0, 1, 2], 30)
    groups = np.arange(90) // 5
    groups[60:] = 99
    finding = only(look(rng.normal(size=(90, 2)), labels, list("abc"), groups=groups), "class_in_one_group")
    assert finding.detail["labels"] == ["c"]


# Duplicate rows


def test_contradicting_rows(rng: np.random.Generator) -> None:
    """Rows equal but for the label are counted and shown, in a matrix, a table and a sparse matrix alike."""
    X = rng.normal(size=(400, 3))
    labels = rng.integers(0, 2, 400)
    X[210], labels[[10, 210]] = X[10], [0, 1]
    X[310], X[311], labels[310:312] = X[20], X[20], labels[20]
    table = pa.table({f"c{j}": [f"{x:.9f}" for x in X[:, j]] for j in range(3)})
    for given_X in (X, table, csr_array(X)):
        finding = only(look(given_X, labels, ["no", "yes"]), "contradicting_rows")
        assert (finding.detail["n_rows"], finding.detail["rows"]) == (2, [10, 210])
        assert "rows 10 ('no') and 210 ('yes')" in finding.message
        assert finding.severity == "note"  # 0.5 %
    labels[:20], X[380:] = 0, X[:20]
    labels[380:] = 1
    assert kinds(look(X, labels, ["no", "yes"])) == ["contradicting_rows"]


def test_a_coarse_table_has_equal_rows_anyway(rng: np.random.Generator) -> None:
    """Three columns of few levels: equal rows with other labels are a note, copies are nothing."""
    table = pa.table({name: rng.integers(0, k, 2000) for name, k in (("class", 4), ("sex", 2), ("age", 2))})
    labels = rng.integers(0, 2, 2000)
    found = look(table, labels, ["no", "yes"], X_val=table.slice(0, 100), y_val=labels[:100])
    assert kinds(found) == []
    assert set(kinds(found, "note")) == {"contradicting_rows", "rows_in_validation"}


def test_training_rows_among_validation_rows(rng: np.random.Generator) -> None:
    """The share is that of the validation rows, columns are matched by name, and the first pair is shown."""
    X, labels = rng.normal(size=(300, 3)), rng.integers(0, 2, 300)
    val = rng.normal(size=(50, 3))
    val[[7, 8]] = X[[100, 200]]
    y_val = np.concatenate([np.zeros(7, dtype=int), labels[[100]], 1 - labels[[200]], np.zeros(41, dtype=int)])
    table = pa.table({name: X[:, j] for j, name in enumerate("abc")})
    val_table = pa.table({name: val[:, j] for j, name in reversed(list(enumerate("abc")))})
    for train, other in ((X, val), (table, val_table)):
        finding = only(look(train, labels, [0, 1], X_val=other, y_val=y_val), "rows_in_validation")
        assert finding.severity == "warning"
        assert finding.detail["rows"] == [100, 7]
        assert finding.detail["share"] == 0.04
        assert finding.detail["share_same_label"] == 0.02
    identified = table.append_column("id", pa.array(np.arange(300)))
    other = val_table.append_column("id", pa.array(np.arange(1000, 1050)))
    assert "rows_in_validation" in kinds(look(identified, labels, [0, 1], X_val=other))
    assert "rows_in_validation" not in kinds(look(table, labels, [0, 1], X_val=val_table.drop_columns("a")))


def test_many_cells_are_looked_at_in_part(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound a part of the rows is chosen by content, so that copies are in it together."""
    monkeypatch.setattr("softmaxnet.precheck.HASHED_CELLS", 3000)
    X, labels = rng.normal(size=(2000, 3)), rng.integers(0, 2, 2000)
    X[1000:] = X[:1000]
    labels[1000:] = labels[:1000]
    found = look(X, labels, [0, 1], X_val=X[:1000], y_val=labels[:1000])
    assert abs(only(found, "duplicate_rows").detail["share"] - 0.5) < 1e-9
    assert only(found, "rows_in_validation").detail["share"] == 1.0
    assert "one row in 3" in found[0].message


def test_looking_changes_nothing_and_repeats(rng: np.random.Generator) -> None:
    """The same data give the same findings, and the data are as they were."""
    columns, labels = leaky(rng)
    columns["score"] = labels * 10.5 + rng.random(600)
    X = np.column_stack(list(columns.values()))
    before = X.copy()
    assert look(X, labels, [0, 1, 2]) == look(X, labels, [0, 1, 2])
    np.testing.assert_array_equal(X, before)


def test_pictures_and_sparse_matrices_have_no_column_by_column_look(rng: np.random.Generator) -> None:
    """A pixel that is on in one class alone is no leak, and there are too many to try."""
    pixels = rng.integers(0, 255, (200, 64), dtype=np.uint8)
    labels = np.repeat([0, 1], 100)
    pixels[:, 5] = labels
    assert look(pixels, labels, [0, 1]) == []
    assert look(csr_array((pixels > 128).astype(float)), labels, [0, 1]) == []


def test_cells_that_are_errors_elsewhere_are_none_here(rng: np.random.Generator) -> None:
    """Infinite numbers, words among numbers and lists are the encoder's to report; looking goes on without them."""
    columns, labels = leaky(rng)
    columns["score"] = labels * 10.5 + rng.random(600)
    assert kinds(look(pa.table(columns), labels, [0, 1, 2])) == ["target_leak"]
    columns |= {"list": [[1]] * 600, "bytes": [b"x"] * 600, "odd": ["1"] * 599 + ["one"]}
    assert kinds(look(pa.table(columns), labels, [0, 1, 2])) == ["target_leak"]
    X = np.column_stack([columns["a"], columns["b"], columns["score"]])
    X[5] = [np.inf, -np.inf, np.nan]
    look(X, labels, [0, 1, 2])


# Hashes of rows

CELLS = {
    "number": [None, 0.0, -0.0, 1.0, 1.5, float("inf"), 2.0**60],
    "count": [None, 0, 1, -1, 2**53, 2**53 + 1, 2**62],
    "text": [None, "", "a", "a\0", "\0", "abcdefgh", "abcdefghi", "é", "x" * 255, "x" * 256, "x" * 257, "x" * 999],
    "flag": [None, True, False],
}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_hashes_are_equal_where_rows_are(data: st.DataObject) -> None:
    """Two rows have one hash exactly where all cells are equal; chunks, encodings and neighbours do not matter."""
    rows = data.draw(st.lists(st.tuples(*(st.sampled_from(cells) for cells in CELLS.values())), min_size=1))
    types = {"number": pa.float64(), "count": pa.int64(), "text": pa.string(), "flag": pa.bool_()}
    columns = {name: pa.array([row[j] for row in rows], kind) for j, (name, kind) in enumerate(types.items())}
    table = pa.table(columns)
    hashes = hash_rows(table)
    ids = {row: i for i, row in enumerate(dict.fromkeys(rows))}
    np.testing.assert_array_equal(
        np.unique(hashes, return_inverse=True)[1][:, None] == np.unique(hashes, return_inverse=True)[1],
        np.array([ids[row] for row in rows])[:, None] == np.array([ids[row] for row in rows]),
    )
    cut = data.draw(st.integers(0, len(rows)))
    pieces = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    encoded = pieces.set_column(2, "text", pieces["text"].dictionary_encode())
    np.testing.assert_array_equal(hash_rows(encoded), hashes)
    np.testing.assert_array_equal(hash_rows(table.slice(cut)), hashes[cut:])


def test_hashes_of_matrices(rng: np.random.Generator) -> None:
    """Integers and floats of one value, and a sparse matrix with stored zeros, hash alike; NaN equals NaN."""
    X = rng.integers(0, 3, (500, 4))
    np.testing.assert_array_equal(hash_rows(X), hash_rows(X.astype(np.float32)))
    sparse = csr_array(X.astype(float))
    stored = sparse.copy()
    stored.data[sparse.data == 2] = 0
    np.testing.assert_array_equal(hash_rows(stored), hash_rows(csr_array(stored.toarray())))
    n_distinct = len(np.unique(X, axis=0))
    assert len(np.unique(hash_rows(X))) == len(np.unique(hash_rows(sparse))) == n_distinct
    pixels = np.tile(X, (1, 5)).astype(np.uint8)[:, :19]
    assert len(np.unique(hash_rows(pixels))) == n_distinct
    assert len(np.unique(hash_rows(np.full((3, 2), np.nan)))) == 1
