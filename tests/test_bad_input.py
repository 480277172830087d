"""Bad input from end to end: what a person does to a file between fitting and predicting, and what the program says."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from softmaxnet.cli import main
from softmaxnet.model_file import load_model

QUICK = ("--hidden-layer-sizes", "none", "--weight-decay", "0.01", "--seed", "0", "--quiet")
TEXTS = ["good film", "bad film", "really good", "really bad", "very good indeed", "very bad indeed"]


def people(n_rows: int, seed: int = 0) -> list[list[str]]:
    """Return rows of age, Income, town and answer, which depends on age and town."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n_rows):
        age, town = int(rng.integers(18, 80)), str(rng.choice(["oslo", "rome"]))
        yes = (age - 50) / 15 + (town == "oslo") + rng.normal() / 2 > 0
        rows.append([str(age), f"{rng.normal(3000, 800):.1f}", town, "yes" if yes else "no"])
    return rows


def write(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return path


HEADER = ["age", "Income", "town", "answer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a table and a model of it, and a file of texts and a model of these."""
    path = tmp_path_factory.mktemp("bad")
    write(path / "train.csv", HEADER, people(400))
    fit = ["fit", str(path / "train.csv"), "--target", "answer", "-o", str(path / "m.safetensors"), *QUICK]
    assert main(fit) == 0
    rng = np.random.default_rng(0)
    rows = [[TEXTS[i], "good" if i % 2 == 0 else "bad"] for i in rng.integers(0, 6, 300)]
    write(path / "texts.csv", ["text", "label"], rows)
    fit = ["fit", str(path / "texts.csv"), "--target", "label", "-o", str(path / "t.safetensors"), *QUICK]
    assert main([*fit, "--text", "text"]) == 0
    return path


# --- columns ----------------------------------------------------------------------------------------------------


def test_columns_in_another_order_are_the_same(folder: Path, tmp_path: Path, sm: Any) -> None:
    """Reordered columns give the same probabilities to the last digit."""
    rows = people(50, seed=1)
    straight = write(tmp_path / "a.csv", HEADER, rows)
    order = [2, 3, 0, 1]
    turned = write(tmp_path / "b.csv", [HEADER[i] for i in order], [[row[i] for i in order] for row in rows])
    results = [sm("predict", folder / "m.safetensors", path, "--proba").out for path in (straight, turned)]
    assert results[0] == results[1]


def test_an_extra_column_is_warned_of(folder: Path, tmp_path: Path, sm: Any) -> None:
    """One more column changes nothing, and is named once."""
    rows = people(50, seed=1)
    straight = write(tmp_path / "a.csv", HEADER, rows)
    more = write(tmp_path / "b.csv", [*HEADER, "shoe"], [[*row, "43"] for row in rows])
    plain, extra = (sm("predict", folder / "m.safetensors", path) for path in (straight, more))
    assert plain.out == extra.out
    assert extra.err.count("'shoe'") == 1
    assert "'shoe'" not in plain.err


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (["age", "town"], "a column of training is missing: 'Income'"),
        (["age", "income", "town"], "did you mean 'Income'"),
        (["Age", "Income", "town"], "did you mean 'age'"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_missing_and_renamed_columns(
    folder: Path, tmp_path: Path, sm: Any, header: list[str], words: str, command: str
) -> None:
    """They are named, with the nearest name where one differs by its case, and nothing is written."""
    cells = {"age": "40", "Age": "40", "Income": "3000", "income": "3000", "town": "oslo"}
    path = write(tmp_path / "a.csv", [*header, "answer"], [[*(cells[name] for name in header), "yes"]] * 3)
    done = sm(command, folder / "m.safetensors", path)
    assert done.code == 3
    assert words in done.err
    assert done.out == ""


def test_columns_that_say_nothing(tmp_path: Path, sm: Any) -> None:
    """A constant column, a copy of a column and one without values do not stop a fit or a prediction."""
    rows = [[*row[:3], "7", row[0], "", row[3]] for row in people(400)]
    header = ["age", "Income", "town", "constant", "copy", "empty", "answer"]
    path = write(tmp_path / "a.csv", header, rows)
    assert sm("fit", path, "--target", "answer", "-o", tmp_path / "m", *QUICK).code == 0
    result = json.loads(sm("evaluate", tmp_path / "m", path, "--json").out)
    assert result["accuracy"] > 0.8


def test_a_column_without_values_when_predicting(folder: Path, tmp_path: Path, sm: Any) -> None:
    """All ages missing: every row gets finite probabilities that sum to 1."""
    path = write(tmp_path / "a.csv", HEADER, [["", *row[1:]] for row in people(50)])
    for row in sm("predict", folder / "m.safetensors", path, "--proba").rows():
        assert abs(float(row["proba_no"]) + float(row["proba_yes"]) - 1) < 1e-6


# --- numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_missing_at_random(tmp_path: Path, sm: Any, share: float) -> None:
    """Whatever part of the cells is missing, all rows are predicted, finite and summing to 1."""
    rng = np.random.default_rng(0)
    rows = [[cell if rng.random() > share else "" for cell in row[:3]] + row[3:] for row in people(400)]
    path = write(tmp_path / "a.csv", HEADER, rows)
    assert sm("fit", path, "--target", "answer", "-o", tmp_path / "m", *QUICK).code == 0
    found = sm("predict", tmp_path / "m", path, "--proba").rows()
    assert len(found) == 400
    for row in found:
        assert abs(float(row["proba_no"]) + float(row["proba_yes"]) - 1) < 1e-6


@pytest.mark.parametrize(
    "cell", ["1e308", "-1e308", "5e-324", "1e400", "inf", "-inf", "1,5", "0x1f", "2024-02-30", "²"]
)
def test_odd_numbers_when_predicting(folder: Path, tmp_path: Path, sm: Any, cell: str) -> None:
    """A huge or tiny number is a number; what is none is an error of its row, and the rows beside it are untouched."""
    rows = people(20)
    plain = write(tmp_path / "a.csv", HEADER, rows)
    rows[7][0] = cell
    odd = write(tmp_path / "b.csv", HEADER, rows)
    before = sm("predict", folder / "m.safetensors", plain, "--proba").rows()
    after = sm("predict", folder / "m.safetensors", odd, "--proba").rows()
    assert len(after) == 20
    for i, row in enumerate(after):
        if i == 7 and row.get("error"):
            assert row["label"] == ""
            assert "line 9" in row["error"]
        else:
            assert abs(float(row["proba_no"]) + float(row["proba_yes"]) - 1) < 1e-6
            assert i == 7 or row["probability"] == before[i]["probability"]
    is_number = cell in ("1e308", "-1e308", "5e-324")
    assert is_number == (after[7].get("error", "") == "")


# --- labels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["1", "2"], "i"),
        (["1.0", "2.0"], "U"),
        (["01", "02"], "U"),
        (["True", "False"], "U"),
        (["a,b", "two\nlines"], "U"),
        (["😀", "ß"], "U"),
    ],
)
def test_labels_come_back_as_they_were_written(tmp_path: Path, sm: Any, labels: list[str], kind: str) -> None:
    """Integers are integers, and everything else is the text that it was; predict writes what the file had."""
    rows = [[row[0], row[1], row[2], labels[row[3] == "yes"]] for row in people(300)]
    path = write(tmp_path / "a.csv", HEADER, rows)
    assert sm("fit", path, "--target", "answer", "-o", tmp_path / "m", *QUICK).code == 0
    classes = load_model(tmp_path / "m").classes
    assert {str(label) for label in classes.tolist()} == set(labels)
    assert (classes.dtype.kind == "i") == (kind == "i")
    assert {row["label"] for row in sm("predict", tmp_path / "m", path).rows()} == set(labels)


@pytest.mark.parametrize("label", ["", "nan", "NA"])
def test_a_label_that_is_missing(tmp_path: Path, sm: Any, label: str) -> None:
    """It is told with its line, and can be left out."""
    rows = people(100)
    rows[41][3] = label
    path = write(tmp_path / "a.csv", HEADER, rows)
    done = sm("fit", path, "--target", "answer", "-o", tmp_path / "m", *QUICK, "--json")
    assert (done.code, json.loads(done.out)["error"]["line"]) == (3, 43)
    done = sm("fit", path, "--target", "answer", "-o", tmp_path / "m", *QUICK, "--json", "--on-bad-row", "skip")
    assert json.loads(done.out)["n_bad_rows"] == 1


@pytest.mark.parametrize("n_rows", [2, 3])
def test_very_few_rows(tmp_path: Path, sm: Any, n_rows: int) -> None:
    """Two rows of two classes can be learned from, one of which has a single row."""
    path = write(tmp_path / "a.csv", ["a", "answer"], [["1", "x"], ["2", "y"], ["3", "y"]][:n_rows])
    assert sm("fit", path, "--target", "answer", "-o", tmp_path / "m", *QUICK).code == 0
    for row in sm("predict", tmp_path / "m", path, "--proba").rows():
        assert abs(float(row["proba_x"]) + float(row["proba_y"]) - 1) < 1e-6


# --- texts ------------------------------------------------------------------------------------------------------


def test_odd_texts_have_a_row_each(folder: Path, tmp_path: Path, sm: Any) -> None:
    """Empty lines, a megabyte in one, unknown words, invisible and right-to-left letters: one row out for each line."""
    lines = ["good film", "", "x" * 1_000_000, "zzz qqq", "go\u200bod", "\u202eמצוין", "😀", "good " * 10, "  "]
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "\n".join(lines) + "\n", encoding="utf-8")
    found = sm("predict", folder / "t.safetensors", path, "--proba").rows()
    assert len(found) == len(lines)
    for row in found:
        assert abs(float(row["proba_bad"]) + float(row["proba_good"]) - 1) < 1e-6
    assert found[0]["label"] == found[7]["label"] == "good"


def test_composed_and_decomposed_letters_are_the_same(folder: Path, tmp_path: Path, sm: Any) -> None:
    """A text in NFC and in NFD gets the same probabilities."""
    texts = ["très bon café", "Ünïcödé gøod"]
    results = []
    for form in ("NFC", "NFD"):
        path = tmp_path / f"{form}.csv"
        path.write_text("text\n" + "\n".join(unicodedata.normalize(form, t) for t in texts) + "\n", encoding="utf-8")
        results.append(sm("predict", folder / "t.safetensors", path, "--proba").out)
    assert results[0] == results[1]


def test_bytes_that_are_no_utf8_keep_their_place(folder: Path, tmp_path: Path, sm: Any) -> None:
    """A line of invalid bytes, surrogates among them, is an error of its row; evaluate counts it."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\ngood film,good\nb\xff\xfed,bad\n\xed\xa0\x80,bad\nbad film,bad\n")
    found = sm("predict", folder / "t.safetensors", path).rows()
    assert [bool(row["error"]) for row in found] == [False, True, True, False]
    done = sm("evaluate", folder / "t.safetensors", path, "--json", "--on-bad-row", "skip")
    result = json.loads(done.out)
    assert (result["n_bad_rows"], result["n_rows"]) == (2, 2)


# --- wide and long ----------------------------------------------------------------------------------------------


def test_a_hundred_thousand_columns(tmp_path: Path, sm: Any) -> None:
    """They are read; a row that lacks one is told with its line."""
    n = 100_000
    lines = [",".join([*(f"c{i}" for i in range(n)), "y"]), ",".join(["1"] * n + ["a"]), ",".join(["1"] * n)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    done = sm("fit", tmp_path / "a.csv", "--target", "y", "-o", tmp_path / "m", "--json", *QUICK)
    error = json.loads(done.out)["error"]
    assert (done.code, error["line"]) == (3, 3)
    assert "expected 100001 cells, found 100000" in error["message"]


def test_a_long_cell(tmp_path: Path, sm: Any) -> None:
    """A cell of two megabytes in a file of texts is a row like any other."""
    rows = [[TEXTS[i % 6], "good" if i % 2 == 0 else "bad"] for i in range(60)]
    rows[30][0] = "good " * 400_000
    path = write(tmp_path / "a.csv", ["text", "label"], rows)
    assert sm("fit", path, "--target", "label", "-o", tmp_path / "m", *QUICK, "--text", "text").code == 0
    assert len(sm("predict", tmp_path / "m", path).rows()) == 60
