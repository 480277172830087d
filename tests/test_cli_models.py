"""The command line on fitted models: calibrate, explain, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from command_line import only_error
from softmaxnet import load_model
from softmaxnet.cli import main
from softmaxnet.data.files import read_dataset

CITIES = ("oslo", "paris", "rome")


def write_rows(path: Path, n_rows: int, seed: int, wrong: float = 0.0) -> Path:
    """Write people who tend to say yes with age and in oslo; a share of the answers is turned around."""
    rng = np.random.default_rng(seed)
    lines = ["age,city,note,answer"]
    for _ in range(n_rows):
        age, city = int(rng.integers(18, 80)), str(rng.choice(CITIES))
        yes = (age - 50) / 15 + (city == "oslo") + rng.normal() / 2 > 0
        yes ^= rng.random() < wrong
        lines.append(f"{age},{city},{rng.normal():.3f},{'yes' if yes else 'no'}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with train.csv, noisy.csv, whose answers are less sure than in training, and a fitted model."""
    folder = tmp_path_factory.mktemp("models")
    write_rows(folder / "train.csv", 200, 0)
    write_rows(folder / "noisy.csv", 300, 1, wrong=0.3)
    told = ["--hidden-layer-sizes", "none", "--weight-decay", "0.01", "--seed", "0", "--quiet"]
    out = str(folder / "model.safetensors")
    assert main(["fit", str(folder / "train.csv"), "--target", "answer", "-o", out, *told]) == 0
    return folder


@pytest.fixture
def model(folder):
    """The model of the folder."""
    return folder / "model.safetensors"


def head(path: Path, n_rows: int, to: Path) -> Path:
    """Write the first rows of a file to another one."""
    to.write_text("".join(path.read_text().splitlines(keepends=True)[: n_rows + 1]))
    return to


# --- calibrate ----------------------------------------------------------------------------------------------------


def test_calibrate_lowers_the_log_loss_and_changes_only_the_calibration(folder, model, sm, tmp_path):
    """On rows that are less sure the temperature rises and the log loss falls; the network stays as it is."""
    out = tmp_path / "new.safetensors"
    result = sm("calibrate", model, folder / "noisy.csv", "-o", out, "--json")
    assert result.code == 0, result.err
    report, old, new = result.json, load_model(model), load_model(out, verify=True)
    assert report["log_loss"] < report["log_loss_before"]
    assert report["temperature"] > report["temperature_before"]
    assert new.calibration.temperature == report["temperature"]
    assert all(np.array_equal(new.params[name], old.params[name]) for name in old.params)
    scores = sm("evaluate", out, folder / "noisy.csv", "--json").json
    assert scores["log_loss"] == pytest.approx(report["log_loss"], rel=1e-9)
    assert new.metrics["log_loss"] == report["log_loss"]


def test_calibrate_starts_from_the_uncalibrated_logits(folder, model, sm, tmp_path):
    """Calibrating a calibrated model again on the same rows gives the same file: nothing is stacked."""
    assert sm("calibrate", model, folder / "noisy.csv", "-o", tmp_path / "a").code == 0
    assert sm("calibrate", tmp_path / "a", folder / "noisy.csv", "-o", tmp_path / "b").code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("method", ["temperature", "matrix", "none"])
def test_calibrate_by_the_method_told(method, folder, model, sm, tmp_path):
    """--calibration names the method; none takes a calibration away."""
    result = sm("calibrate", model, folder / "noisy.csv", "-o", tmp_path / "m", "--calibration", method)
    assert result.code == 0
    assert load_model(tmp_path / "m").calibration.method == method
    assert f"-> {method}, temperature" in result.out


def test_calibrate_prepares_sets_that_cover(folder, model, sm, tmp_path):
    """--sets alone leaves the probabilities, and the sets of predict hold the true label often enough."""
    write_rows(tmp_path / "new.csv", 1000, 7, wrong=0.3)
    result = sm("calibrate", model, folder / "noisy.csv", "-o", tmp_path / "m", "--sets", "--json")
    assert result.json["sets"] == {
        "method": "lac",
        "per_class": False,
        "n_rows": 300,
        "n_rows_of_rarest_class": None,
        "max_coverage": 300 / 301,
    }
    assert "log_loss" not in result.json
    assert load_model(tmp_path / "m").calibration == load_model(model).calibration
    rows = sm("predict", tmp_path / "m", tmp_path / "new.csv", "--sets", "0.9", "--keep", "answer").rows()
    covered = np.mean([row["answer"] in json.loads(row["set"]) for row in rows])
    assert 0.86 < covered < 0.97
    expected = load_model(model).calibrate_sets(*labelled(folder / "noisy.csv")).conformal
    assert np.array_equal(expected.scores, load_model(tmp_path / "m").conformal.scores)


def labelled(path: Path):
    """Return the features and labels of a file."""
    data = read_dataset(path, target="answer")
    return data.X, data.y


def test_sets_and_calibration_take_half_of_the_rows_each(folder, model, sm, tmp_path):
    """No row serves both, so that the coverage stays guaranteed."""
    told = ("--sets", "aps", "--per-class", "--calibration", "temperature", "--json")
    result = sm("calibrate", model, folder / "noisy.csv", "-o", tmp_path / "m", *told)
    report = result.json
    assert (report["n_calibration_rows"], report["sets"]["n_rows"]) == (150, 150)
    assert report["sets"]["method"] == "aps"
    assert load_model(tmp_path / "m").conformal.counts.sum() == 150


def test_calibrate_says_how_many_rows_it_takes(folder, model, sm, tmp_path):
    """Too few rows are refused with the number needed; sets that cannot reach 90 % are made with a warning."""
    few = head(folder / "noisy.csv", 7, tmp_path / "few.csv")
    result = sm("calibrate", model, few, "-o", tmp_path / "m")
    assert result.code == 3
    assert "7 rows can be used; at least 10 are needed." in only_error(result)
    result = sm("calibrate", model, few, "-o", tmp_path / "m", "--sets", "--calibration", "auto")
    assert "at least 20 are needed, half of them for the sets." in only_error(result)
    assert not (tmp_path / "m").exists()
    result = sm("calibrate", model, few, "-o", tmp_path / "m", "--sets")
    assert "warning: a coverage of 0.9 needs 9 rows, 0.99 needs 99; there are 7" in result.err
    result = sm("predict", tmp_path / "m", few, "--sets", "0.9")
    assert result.code == 3
    assert "needs at least 9 calibration rows, but there are 7" in only_error(result)
    result = sm("calibrate", model, few, "-o", tmp_path / "n", "--calibration", "matrix")
    assert result.code == 3
    twelve = head(folder / "noisy.csv", 12, tmp_path / "twelve.csv")
    result = sm("calibrate", model, twelve, "-o", tmp_path / "n", "--calibration", "matrix")
    assert "a calibration matrix for 2 classes wants 300 rows; there are 12" in result.err


def test_sets_per_class_need_rows_of_every_class(model, sm, tmp_path):
    """A class without rows is named."""
    rows = "".join(f"{30 + i},rome,1.0,no\n" for i in range(20))
    (tmp_path / "no.csv").write_text("age,city,note,answer\n" + rows)
    result = sm("calibrate", model, tmp_path / "no.csv", "-o", tmp_path / "m", "--sets", "--per-class")
    assert result.code == 3
    assert "1 of 2 classes have none: 'yes'. For a coverage of 0.9 every class needs 9." in only_error(result)


def test_old_sets_do_not_outlive_their_probabilities(folder, model, sm, tmp_path):
    """A new calibration without new sets drops the old ones, and says so."""
    assert sm("calibrate", model, folder / "noisy.csv", "-o", tmp_path / "a", "--sets").code == 0
    result = sm("calibrate", tmp_path / "a", folder / "noisy.csv", "-o", tmp_path / "b")
    assert load_model(tmp_path / "b").conformal is None
    assert "prediction sets were made for its old probabilities and are gone" in result.err


def test_calibrate_leaves_out_what_it_cannot_use(folder, model, sm, tmp_path):
    """Unknown labels are left out with a warning; unreadable cells stop it unless they may be skipped."""
    text = (folder / "noisy.csv").read_text() + "30,oslo,1,perhaps\n"
    (tmp_path / "a.csv").write_text(text)
    result = sm("calibrate", model, tmp_path / "a.csv", "-o", tmp_path / "a", "--json")
    assert (result.json["n_unseen"], result.json["n_calibration_rows"]) == (1, 300)
    assert "('perhaps'): they are left out" in result.err
    (tmp_path / "b.csv").write_text(text + "x,oslo,1,yes\n")
    result = sm("calibrate", model, tmp_path / "b.csv", "-o", tmp_path / "b")
    assert "b.csv:303: column 'age': 'x' is not a number" in only_error(result)
    result = sm("calibrate", model, tmp_path / "b.csv", "-o", tmp_path / "b", "--on-bad-row", "skip", "--json")
    assert (result.json["n_bad_rows"], result.json["log_loss"]) == (1, load_model(tmp_path / "a").metrics["log_loss"])


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ((), "the model file to write must be named"),
        (("-o", "-"), "a model is not written to standard output"),
        (("-o", "new", "--per-class"), "add --sets"),
        (("-o", "new", "--sets", "lab"), "must be one of lac, aps, raps. Got 'lab' instead"),
        (("-o", "MODEL", "--force"), "the output is one of the inputs"),
        (("-o", "there"), "the output exists"),
    ],
)
def test_calibrate_refuses_what_cannot_be_meant(told, text, folder, model, sm, tmp_path, monkeypatch):
    """What cannot be meant ends with 2 before anything is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("mine")
    told = [str(model) if word == "MODEL" else word for word in told]
    result = sm("calibrate", model, folder / "noisy.csv", *told)
    assert result.code == 2
    assert text in only_error(result)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_predict_sets_names_all_the_ways_to_prepare_a_model(folder, model, sm):
    """Without sets the error names calibrate, Python and fit, with the file."""
    error = only_error(sm("predict", model, folder / "noisy.csv", "--sets", "0.9"))
    for way in ("softmaxnet calibrate MODEL DATA --sets", "calibrate_sets(X, y)", "--conformal-fraction 0.1"):
        assert way in error


# --- explain ------------------------------------------------------------------------------------------------------


def test_explain_a_row_is_the_sum_that_python_gives(folder, model, sm):
    """Baseline and contributions sum to the difference of the logits, and are those of softmaxnet.explain."""
    from softmaxnet.data.frames import take_rows
    from softmaxnet.explain import explain

    X, _ = labelled(folder / "noisy.csv")
    expected = explain(load_model(model), take_rows(X, np.array([17])), versus="runner-up")[0]
    found = sm("explain", model, folder / "noisy.csv", "--row", 17, "--json").json
    assert (found["row"], found["label"], found["versus"]) == (17, expected.label, expected.versus)
    parts = {part["name"]: part["contribution"] for part in found["contributions"]}
    assert parts == pytest.approx({name: part for name, _, part in expected.top()})
    assert found["baseline_logit"] + sum(parts.values()) == pytest.approx(found["logit"])
    text = sm("explain", model, folder / "noisy.csv", "--row", 17).out
    assert text.startswith(f"row 17: {expected.label} rather than {expected.versus}, probability ")
    assert "age = " in text


def test_explain_asks_for_labels_by_name(folder, model, sm):
    """--label and --versus name classes; none compares with nothing; --top cuts the list and sums the rest."""
    result = sm("explain", model, folder / "noisy.csv", "--row", 3, "--label", "no", "--versus", "none", "--json").json
    assert (result["label"], result["versus"]) == ("no", None)
    text = sm("explain", model, folder / "noisy.csv", "--row", 3, "--top", 1).out
    assert "2 other columns" in text
    result = sm("explain", model, folder / "noisy.csv", "--row", 3, "--label", "perhaps")
    assert result.code == 2
    assert "'perhaps' is not a class of this model. Its classes are 'no', 'yes'." in only_error(result)


def test_explain_lists_words(sm, tmp_path):
    """Of a text the words that count most stand below its column."""
    texts = ["my card was stolen", "the card did not work", "please send money back", "I want my money back"]
    lines = [f"{text},{topic}" for text, topic in zip(texts, ["card", "card", "money", "money"], strict=True)] * 8
    (tmp_path / "t.csv").write_text("\n".join(["message,topic", *lines]) + "\n")
    told = ("--target", "topic", "--text", "message", "--seed", 0, "--max-epochs", 10, "--quiet")
    assert sm("fit", tmp_path / "t.csv", "-o", tmp_path / "m", *told).code == 0
    result = sm("explain", tmp_path / "m", tmp_path / "t.csv", "--row", 0, "--top", 2)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[2].startswith("  message = my card was stolen  ")
    assert {lines[3].split()[0], lines[4].split()[0]} == {"card", "stolen"}


def test_explain_columns_by_permutation(folder, model, sm):
    """Without --row the columns are ranked on labelled rows, with intervals; what is noise is about 0."""
    found = sm("explain", model, folder / "noisy.csv", "--json").json
    names = [column["name"] for column in found["columns"]]
    assert names[:2] == ["age", "city"]
    assert found["columns"][0]["low"] > 0
    assert found["columns"][2]["low"] < 0.01
    assert found["n_rows"] == 300
    text = sm("explain", model, folder / "noisy.csv", "--top", 2).out
    assert "... and 1 more column (--top 3)" in text
    assert text.splitlines()[3].startswith("  age ")


def test_explain_says_what_is_missing(folder, model, sm, tmp_path):
    """Rows that are not there or cannot be read, and data without labels, end with one line."""
    result = sm("explain", model, folder / "noisy.csv", "--row", 300)
    assert result.code == 2
    assert "It has 300 rows, and they are counted from 0." in only_error(result)
    (tmp_path / "t.csv").write_text("age,city,note\n30,oslo,1\nx,oslo,1\n1,2\n")
    assert "t.csv:3: column 'age': 'x' is not a number" in only_error(
        sm("explain", model, tmp_path / "t.csv", "--row", 1)
    )
    assert "t.csv:4: expected 3 cells" in only_error(sm("explain", model, tmp_path / "t.csv", "--row", 2))
    (tmp_path / "u.csv").write_text("age,city,note\n30,oslo,1\n")
    error = only_error(sm("explain", model, tmp_path / "u.csv"))
    assert "'answer'" in error
    assert "single rows can be explained: --row N" in error
    assert "add --row N" in only_error(sm("explain", model, tmp_path / "u.csv", "--label", "yes"))
    text = (folder / "noisy.csv").read_text() + "x,oslo,1,yes\n3,rome,2,perhaps\n"
    (tmp_path / "v.csv").write_text(text)
    assert "v.csv:302: column 'age'" in only_error(sm("explain", model, tmp_path / "v.csv"))
    found = sm("explain", model, tmp_path / "v.csv", "--on-bad-row", "skip", "--json").json
    assert (found["n_rows"], found["n_bad_rows"], found["n_unseen"]) == (300, 1, 1)


# --- export -------------------------------------------------------------------------------------------------------


def test_export_gives_the_same_probabilities(folder, model, sm, tmp_path):
    """The file answers as predict does, and the report says what goes in."""
    runtime = pytest.importorskip("onnxruntime")
    out = tmp_path / "m.onnx"
    report = sm("export", model, "--to", "onnx", "-o", out, "--opset", 17, "--input-dtype", "float64", "--json").json
    assert (report["opset"], report["inputs"]["age"]["type"]) == (17, "double")
    assert report["max_difference"] < 1e-5
    rows = sm("predict", model, folder / "noisy.csv", "--keep", "age,city,note").rows()[:5]
    feeds = {name: np.array([[float(row[name])] for row in rows]) for name in ("age", "note")}
    feeds["city"] = np.array([[row["city"]] for row in rows], dtype=object)
    session = runtime.InferenceSession(str(out))
    labels, proba = session.run(["label", "probabilities"], feeds)
    assert labels.tolist() == [row["label"] for row in rows]
    np.testing.assert_allclose(proba.max(axis=1), [float(row["probability"]) for row in rows], atol=1e-5)
    text = sm("export", model, "-o", out, "--force", "--part", "network").out
    assert text.startswith("inputs        dense ")
    assert "written: " in text


@pytest.mark.parametrize(
    ("told", "code", "text"),
    [
        ((), 2, "the file to write must be named. For instance: -o model.onnx."),
        (("-o", "-"), 2, "not written to standard output"),
        (("-o", "there"), 2, "the output exists"),
        (("-o", "m.onnx", "--to", "pickle"), 2, "must be one of onnx. Got 'pickle' instead"),
        (("-o", "m.onnx", "--opset", "5"), 2, "opset"),
        (("-o", "no/m.onnx"), 6, "the output's folder does not exist"),
    ],
)
def test_export_refuses_what_cannot_be_meant(told, code, text, model, sm, tmp_path, monkeypatch):
    """What cannot be meant ends with one line, and nothing is written."""
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("mine")
    result = sm("export", model, *told)
    assert result.code == code
    assert text in only_error(result)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
