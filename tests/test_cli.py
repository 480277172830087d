"""The command line: every command on real files, every way that an input can be bad, exit codes, streams, signals."""

from __future__ import annotations

import csv
import gzip
import inspect
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from command_line import Result, only_error
from softmaxnet import load_model
from softmaxnet.cli import main
from softmaxnet.cli.options import COMMANDS, PARAMETERS
from softmaxnet.cli.progress import Progress
from softmaxnet.cli.tables import column_table
from softmaxnet.cli.terminal import Terminal
from softmaxnet.estimator import SoftmaxClassifier

PYTHON = [sys.executable, "-m", "softmaxnet"]
QUICK = ("--hidden-layer-sizes", "none", "--weight-decay", "0.01", "--seed", "0")


def write_rows(path: Path, n_rows: int, seed: int = 0) -> Path:
    """Write people: age (some missing), city, income and whether they said yes; they tend to with age and in oslo."""
    rng = np.random.default_rng(seed)
    lines = ["age,city,income,answer"]
    for _ in range(n_rows):
        age, city = int(rng.integers(18, 80)), str(rng.choice(["oslo", "paris", "rome"]))
        yes = (age - 50) / 15 + (city == "oslo") + rng.normal() / 2 > 0
        shown = "" if rng.random() < 0.05 else age
        lines.append(f"{shown},{city},{rng.normal(3000, 800):.1f},{'yes' if yes else 'no'}")
    path.write_text("\n".join(lines) + "\n")
    return path


def given_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(path.read_text())))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with train.csv, test.csv and a model that was fitted on the command line."""
    folder = tmp_path_factory.mktemp("cli")
    write_rows(folder / "train.csv", 200)
    write_rows(folder / "test.csv", 100, seed=1)
    arguments = ["fit", folder / "train.csv", "--target", "answer", "-o", folder / "model.safetensors", *QUICK]
    assert main([str(a) for a in [*arguments, "--quiet"]]) == 0
    return folder


@pytest.fixture
def model(folder):
    """The model of the folder."""
    return folder / "model.safetensors"


# --- the parser and its tables ----------------------------------------------------------------------------------


def test_every_parameter_of_the_classifier_is_an_option_with_the_same_default():
    """Options of fit are the constructor's parameters, their defaults too, but for warm_start and verbose."""
    signature = inspect.signature(SoftmaxClassifier).parameters
    expected = {name: p.default for name, p in signature.items() if name not in ("warm_start", "verbose")}
    assert {p.name: p.default for p in PARAMETERS} == expected


def test_flags_are_the_names_of_the_parameters_but_for_the_agreed_exceptions():
    """A flag is the parameter's name with hyphens; seed, jobs and no-early-stopping are the exceptions."""
    odd = {p.name: p.option for p in PARAMETERS if p.option != "--" + p.name.replace("_", "-")}
    expected = {"random_state": "--seed", "n_jobs": "--jobs", "early_stopping": "--no-early-stopping"}
    assert odd == expected


def test_parameters_reach_the_model(folder, sm, tmp_path):
    """What is told on the command line is what the model file says was trained."""
    out = tmp_path / "m.safetensors"
    told = ("--hidden-layer-sizes", "3,2", "--activation", "tanh", "--n-members", 1, "--max-epochs", 2)
    more = ("--batch-size", 50, "--dropout", 0, "--calibration", "none", "--no-early-stopping", "--features", "raw")
    result = sm("fit", folder / "train.csv", "--target", "answer", "-o", out, "--drop", "age", *told, *more)
    assert result.code == 0, result.err
    settings = load_model(out).settings
    expected = {
        "hidden_layer_sizes": [3, 2],
        "activation": "tanh",
        "n_members": 1,
        "max_epochs": 2,
        "batch_size": 50,
        "dropout": 0.0,
        "calibration": None,
        "validation": "none",
        "features": "raw",
    }
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize("command", ["", *(command.name for command in COMMANDS)])
def test_help_of_every_command_goes_to_standard_output(command, sm):
    """--help prints the help, and is no error."""
    result = sm(*filter(None, [command]), "--help")
    assert result.code == 0
    assert result.out.startswith("usage: softmaxnet")
    assert result.err == ""


def test_version(sm):
    """--version prints the version."""
    from softmaxnet import __version__

    assert sm("--version") == Result(0, f"softmaxnet {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["fitt"], "there is no command 'fitt'. Did you mean 'fit'?"),
        (["--quiet", "fit", "a.csv"], "--quiet stands before the command. softmaxnet fit --quiet ..."),
        (["fit", "a.csv", "--number", '"a'], "names separated by commas"),
        (["fit", "a.csv", "--class-weight", '"u'], "names separated by commas"),
        (["fit", "a.csv", "--class-weight", "u=5,u=1"], "'u' has two"),
        (["fit", "a.csv", "--jobs", "x"], "or 'none'"),
        (["fit", "a.csv", "--hiden", "3"], "fit has no option '--hiden'. Did you mean '--hidden-layer-sizes'?"),
        (["fit", "a.csv", "b.csv", "-o", "m"], "one argument too many: 'b.csv'."),
        (["fit", "-o", "m"], "the following arguments are required: TRAIN."),
        (["fit", "a.csv", "--dropout", "x", "-o", "m"], "--dropout: must be 'auto' or a number. Got 'x' instead."),
        (["fit", "a.csv", "--learning-rate", "nan", "-o", "m"], "must be 'auto' or a finite number"),
        (["fit", "a.csv", "--hidden-layer-sizes", "0", "-o", "m"], "must be widths such as 256,128"),
        (["fit", "a.csv", "--solver", "sgd", "-o", "m"], "must be one of auto, adam, lbfgs"),
        (["fit", "a.csv", "--output", "m.safetensors"], "the model file is named with -o"),
        (["fit", "a.csv", "--seed", "1.5", "-o", "m"], "must be a whole number"),
        (["fit", "a.csv", "--number", "x", "--text", "x", "-o", "m"], "column 'x' cannot be both --number and --text"),
        (["fit", "a.csv", "--target", "x", "--drop", "x", "-o", "m"], "column 'x' cannot be both --target and --drop"),
        (["fit", "a.csv", "--target", "x", "--target", "y", "-o", "m"], "--target: given twice"),
        (["fit", "a.csv"], "the model file to write must be named. For instance: -o model.safetensors."),
        (["fit", "a.csv", "-o", "-"], "a model is not written to standard output"),
        (["fit", "a.csv", "--on-bad-row", "keep", "-o", "m"], "must be 'fail', 'skip' or the number"),
        (["predict", "m", "a.csv", "--top", "0"], "--top: must be a whole number of at least 1"),
        (["predict", "m", "a.csv", "--sets", "1"], "--sets: must be a number in (0, 1)"),
        (["predict", "m", "a.csv", "--format", "xml"], "must be one of csv, jsonl, parquet"),
        (["evaluate", "m", "a.csv", "--min-accuracy", "90"], "must be a number in [0, 1]"),
        (["--jason"], "softmaxnet has no option '--jason'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_remedy(arguments, text, sm, tmp_path, monkeypatch):
    """A command line that cannot be meant ends with 2 and one line, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    result = sm(*arguments)
    assert result.code == 2
    assert text in only_error(result)
    assert list(tmp_path.iterdir()) == []


def test_no_command_prints_the_help(sm):
    """The bare program shows what it can do, and that something is missing."""
    result = sm()
    assert result.code == 2
    assert "commands:" in result.out


# --- fit ----------------------------------------------------------------------------------------------------------


def test_fit_shows_columns_and_scores_and_writes_a_model(folder, sm, tmp_path):
    """The table of columns and the held-out scores are messages; the file is a model that knows its target."""
    out = tmp_path / "m.safetensors"
    result = sm("fit", folder / "train.csv", "--target", "answer", "-o", out, *QUICK)
    assert result.code == 0
    assert result.out == ""
    assert "age     number    " in result.err
    assert "city    category  0.0%     3         3 dense levels" in result.err
    assert "held-out log loss 0." in result.err
    assert load_model(out).reader["target"] == "answer"


def test_fit_json_is_one_object_and_nothing_else(folder, sm, tmp_path):
    """--json prints one object with the promised names on standard output."""
    out = tmp_path / "m.safetensors"
    result = sm("fit", folder / "train.csv", "--target", "answer", "-o", out, "--json", *QUICK)
    assert {"log_loss", "accuracy", "epochs", "seconds", "model"} <= set(result.json)
    assert result.json["model"] == str(out)
    assert 0 < result.json["log_loss"] < np.log(2)


def test_nothing_held_out_is_null_and_not_a_number(folder, sm, tmp_path):
    """Without held-out rows the scores are null."""
    told = ("--hidden-layer-sizes", "4", "--max-epochs", "2", "--no-early-stopping", "--json")
    result = sm("fit", folder / "train.csv", "--target", "answer", "-o", tmp_path / "m", *told)
    assert result.json["log_loss"] is None
    assert result.json["accuracy"] is None


def test_same_seed_same_file(folder, sm, tmp_path):
    """Two fits with one seed write the same bytes."""
    for name in ("a", "b"):
        assert sm("fit", folder / "train.csv", "--target", "answer", "-o", tmp_path / name, *QUICK).code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_dry_run_prints_what_would_be_done_and_writes_nothing(folder, sm, tmp_path):
    """--dry-run shows every column and every resolved setting, and stops before training."""
    result = sm("fit", folder / "train.csv", "--target", "answer", "-o", tmp_path / "m", "--dry-run")
    assert result.code == 0
    assert "hidden_layer_sizes" in result.out
    assert "auto" not in result.out.replace("calibration", "").split("would be trained:")[1].replace("  auto", "")
    assert list(tmp_path.iterdir()) == []
    plain = sm("fit", folder / "train.csv", "--target", "answer", "--dry-run", "--json").json
    assert [column["name"] for column in plain["columns"]] == ["age", "city", "income"]
    assert plain["n_rows"] == 200


def test_python_can_look_at_the_plan_before_training(rng):
    """fit(on_plan=...) gets the columns and the resolved settings; what it raises ends the fit untrained."""
    seen = []

    def on_plan(encoder, plan) -> None:
        seen.append((encoder.describe()[0]["kind"], plan.solver))
        raise StopIteration

    clf = SoftmaxClassifier(hidden_layer_sizes=(4,), solver="adam", random_state=0)
    with pytest.raises(StopIteration):
        clf.fit(rng.normal(size=(40, 2)), np.arange(40) % 2, on_plan=on_plan)
    assert seen == [("number", "adam")]
    assert not hasattr(clf, "model_")


def test_columns_can_be_told(folder, sm):
    """--category, --text and --drop override what a column would be; several names at once or one by one."""
    told = ("--category", "age,income", "--text", "city")
    result = sm("fit", folder / "train.csv", "--target", "answer", "--dry-run", "--json", *told)
    assert [c["kind"] for c in result.json["columns"]] == ["category", "text", "category"]
    told = ("--drop", "age", "--drop", "city")
    result = sm("fit", folder / "train.csv", "--target", "answer", "--dry-run", "--json", *told)
    assert [c["name"] for c in result.json["columns"]] == ["income"]


def leaky_rows(path: Path, n_rows: int = 200) -> Path:
    """Write people with a number for each row, a column that gives the answer away, and one label slip."""
    rows = [line.split(",") for line in write_rows(path, n_rows).read_text().splitlines()]
    told = [[*row[:3], str(i), "a" if row[3] == "yes" else "b", row[3]] for i, row in enumerate(rows[1:])]
    path.write_text(
        "\n".join(",".join(row) for row in [["age", "city", "income", "id", "paid", "answer"], *told]) + "\n"
    )
    return path


def test_fit_warns_of_what_it_sees_in_the_data(sm, tmp_path):
    """Each finding is one line on standard error, also with --quiet, and in --json; the model is made all the same."""
    data = leaky_rows(tmp_path / "t.csv")
    told = ("fit", data, "--target", "answer", "-o", tmp_path / "m", *QUICK)
    result = sm(*told, "--json", "--quiet")
    assert result.code == 0
    kinds = {finding["kind"]: finding["column"] for finding in result.json["findings"]}
    assert kinds["target_copy"] == "paid"
    assert kinds["row_identifier"] == "id"
    assert all(line.startswith("softmaxnet: warning: ") for line in result.err.splitlines())
    assert "(--drop id)" in result.err
    assert load_model(tmp_path / "m").n_classes == 2
    clean = sm(*told, "--force", "--drop", "id,paid", "--json", "--quiet")
    assert clean.json["findings"] == []
    assert clean.err == ""


def test_dry_run_lists_what_it_sees_in_the_data(sm, tmp_path):
    """--dry-run prints the findings between the columns and the settings, and as JSON."""
    data = leaky_rows(tmp_path / "t.csv")
    result = sm("fit", data, "--target", "answer", "--dry-run")
    assert result.out.index("found in the data:\n  warning: ") < result.out.index("would be trained:")
    assert "numbers the rows" in result.out
    assert result.err == ""
    found = sm("fit", data, "--target", "answer", "--dry-run", "--json").json["findings"]
    assert {"row_identifier", "target_copy"} <= {finding["kind"] for finding in found}


def test_rows_of_valid_are_looked_at_too(folder, sm, tmp_path):
    """Validation rows that are training rows are found."""
    told = ("--valid", folder / "train.csv", "--dry-run", "--json")
    found = sm("fit", folder / "train.csv", "--target", "answer", *told).json["findings"]
    assert "rows_in_validation" in {finding["kind"] for finding in found}


def test_a_check_that_fails_does_not_stop_the_fit(folder, sm, tmp_path, monkeypatch):
    """Looking at the data is a service: where it breaks, that is a warning."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("softmaxnet.precheck.look", broken)
    result = sm("fit", folder / "train.csv", "--target", "answer", "-o", tmp_path / "m", "--quiet", *QUICK)
    assert result.code == 0
    assert "warning: the data could not be checked before training (RuntimeError: no)" in result.err


def test_faults_of_the_valid_file_are_told_with_its_lines(folder, sm, tmp_path):
    """A cell of --valid that cannot be read is one of its file, not of TRAIN."""
    (tmp_path / "v.csv").write_text("age,city,income,answer\n30,oslo,1,yes\n31,oslo,x,no\n")
    told = ("--valid", tmp_path / "v.csv", "-o", tmp_path / "m")
    result = sm("fit", folder / "train.csv", "--target", "answer", *told)
    assert result.code == 3
    assert "v.csv:3: column 'income': 'x' is not a number" in only_error(result)


@pytest.mark.parametrize("flag", ["--number", "--drop"])
def test_a_column_that_is_told_and_not_there(flag, folder, sm, tmp_path):
    """A kind for a column that is not there is a mistake in the command, with the nearest name."""
    result = sm("fit", folder / "train.csv", "--target", "answer", "-o", tmp_path / "m", flag, "agee")
    assert result.code == 2
    assert "Did you mean 'age'?" in only_error(result)


def test_dropped_weight_and_group_columns_are_not_asked_for_again(folder, sm, tmp_path):
    """What fit left out on purpose, predict neither needs nor warns of."""
    rows = [line.split(",") for line in (folder / "train.csv").read_text().splitlines()]
    extra = [["id", "w", "g"]] + [[str(i), str(1 + i % 2), str(i % 9)] for i in range(len(rows) - 1)]
    (tmp_path / "t.csv").write_text("\n".join(",".join(a + b) for a, b in zip(rows, extra, strict=True)) + "\n")
    told = ("--drop", "id", "--weights", "w", "--group", "g")
    out = tmp_path / "m"
    assert sm("fit", tmp_path / "t.csv", "--target", "answer", "-o", out, *told, *QUICK).code == 0
    assert load_model(out).feature_names_in == ("age", "city", "income")
    for data in (tmp_path / "t.csv", folder / "test.csv"):
        result = sm("predict", out, data)
        assert result.code == 0
        assert "warning" not in result.err
    assert sm("evaluate", out, tmp_path / "t.csv", "--weights", "w").code == 0


def test_valid_takes_the_place_of_held_out_rows(folder, sm, tmp_path):
    """--valid is matched by name and scored; labels that training lacks are left out with a warning."""
    rows = given_rows(folder / "test.csv")
    rows[0]["answer"] = "perhaps"
    with (tmp_path / "v.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["income", "answer", "city", "age"])
        writer.writeheader()
        writer.writerows(rows)
    told = ("--valid", tmp_path / "v.csv", "--hidden-layer-sizes", "4", "--max-epochs", "3", "--json")
    result = sm("fit", folder / "train.csv", "--target", "answer", "-o", tmp_path / "m", *told)
    assert result.json["n_held_out"] == 99
    assert "1 of 100 rows have labels that" in result.err
    (tmp_path / "w.csv").write_text("age,answer\n3,yes\n")
    told = ("--valid", tmp_path / "w.csv")
    result = sm("fit", folder / "train.csv", "--target", "answer", "-o", tmp_path / "n", *told)
    assert result.code == 3
    assert "w.csv" in only_error(result)
    assert "'city', 'income'" in result.err


def test_class_weight_by_label(sm, tmp_path):
    """--class-weight takes LABEL=WEIGHT for labels of the type that the data have, and refuses others."""
    rows = "\n".join(f"{i % 7},{i % 2}" for i in range(60))
    (tmp_path / "t.csv").write_text(f"a,y\n{rows}\n")
    told = ("fit", tmp_path / "t.csv", "--target", "y", "-o", tmp_path / "m", *QUICK)
    assert sm(*told, "--class-weight", "1=5,0=1").code == 0
    result = sm(*told, "--force", "--class-weight", "2=5")
    assert result.code == 2
    assert "names the label '2', which the data lack. Labels: 0, 1." in only_error(result)


def test_bad_rows_can_be_skipped(folder, sm, tmp_path):
    """--on-bad-row skip leaves them out and says how many; a number is the most that may be."""
    lines = (folder / "train.csv").read_text().splitlines()
    lines[5] += ",too,many"
    lines[9] = "1"
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    told = ("fit", tmp_path / "t.csv", "--target", "answer", "-o", tmp_path / "m", "--json", *QUICK)
    result = sm(*told, "--on-bad-row", "1")
    assert result.code == 3
    assert "t.csv:10" in result.err
    result = sm(*told, "--on-bad-row", "skip")
    assert result.json["n_bad_rows"] == 2
    assert result.json["n_rows"] == 198
    assert "warning: 2 rows could not be read" in result.err


def test_npz_and_idx(sm, tmp_path, rng):
    """Arrays and IDX folders carry their labels; an IDX folder is trained on one half and scored on the other."""
    y = np.arange(120) % 2
    X = rng.normal(size=(120, 3)) + y[:, None]
    np.savez(tmp_path / "a.npz", X=X, y=y)
    assert sm("fit", tmp_path / "a.npz", "-o", tmp_path / "m", *QUICK).code == 0
    assert sm("evaluate", tmp_path / "m", tmp_path / "a.npz", "--json").json["accuracy"] > 0.7
    idx = tmp_path / "idx"
    idx.mkdir()
    for part, n_rows in (("train", 80), ("t10k", 40)):
        labels = (np.arange(n_rows) % 2).astype(np.uint8)
        images = np.zeros((n_rows, 4, 4), np.uint8)
        images[:, :, 0] = 200 * labels[:, None]
        images[:, 0, 1] = rng.integers(0, 255, n_rows)
        header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (idx / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        content = bytes([0, 0, 8, 1]) + n_rows.to_bytes(4, "big") + labels.tobytes()
        (idx / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content))
    result = sm("fit", idx, "-o", tmp_path / "i", "--seed", 0, "--hidden-layer-sizes", "none")
    assert result.code == 0
    assert "column 0" in result.err
    scores = sm("evaluate", tmp_path / "i", idx, "--json").json
    assert (scores["n_rows"], scores["accuracy"]) == (40, 1.0)
    assert len(sm("predict", tmp_path / "i", idx).rows()) == 40


def test_out_that_exists_is_refused_before_anything_is_read(folder, sm, tmp_path):
    """An output that is there is refused, even before the missing data file is noticed; --force replaces it."""
    out = tmp_path / "m"
    out.write_text("mine")
    result = sm("fit", tmp_path / "nothing.csv", "--target", "answer", "-o", out)
    assert result.code == 2
    assert "the output exists" in only_error(result)
    assert out.read_text() == "mine"
    assert sm("fit", folder / "train.csv", "--target", "answer", "-o", out, "--force", *QUICK).code == 0
    assert load_model(out).n_classes == 2


def test_outputs_that_cannot_be_written_are_found_first(folder, model, sm, tmp_path):
    """A folder that is not there ends with 6, one given as the output with 2, before any training."""
    for command in (("fit", folder / "train.csv", "--target", "answer"), ("predict", model, folder / "test.csv")):
        result = sm(*command, "-o", tmp_path / "no" / "m")
        assert result.code == 6
        assert "the output's folder does not exist" in only_error(result)
        assert sm(*command, "-o", tmp_path).code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_never_an_input(folder, model, sm, tmp_path):
    """Not even --force replaces the data or the model that a command reads."""
    data = shutil.copy(folder / "test.csv", tmp_path / "t.csv")
    before = Path(data).read_bytes()
    for arguments in (("fit", data, "--target", "answer"), ("predict", model, data)):
        result = sm(*arguments, "-o", data, "--force")
        assert result.code == 2
        assert "the output is one of the inputs" in only_error(result)
    assert Path(data).read_bytes() == before


# --- bad input ----------------------------------------------------------------------------------------------------

BAD_FILES = {
    "empty": ("", "the file is empty"),
    "header only": ("a,answer\n", "there is a header and no row below it"),
    "ragged row": ("a,answer\n1,x\n2,y,z\n", "t.csv:3: expected 2 cells, found 3"),
    "unclosed quote": ('a,answer\n1,x\n"2,y\n3,x\n', "t.csv:3: a quote that opens here is never closed"),
    "target not there": ("a,anser\n1,x\n2,y\n", "Did you mean 'anser'?"),
    "one class": ("a,answer\n1,x\n2,x\n3,x\n", "one class only ('x')"),
    "label missing": ("a,answer\n1,x\n2,NaN\n3,y\n", "t.csv:3: the label is missing"),
    "infinite number": ("a,answer\n1,x\n2,y\n-inf,x\n4,y\n", "t.csv:4: column 'a': -inf is not a finite number"),
    "only the target": ("answer\nx\ny\n", "there is no column left to learn from"),
    "same name twice": ("a,a,answer\n1,2,x\n3,4,y\n", "'a'"),
    "a NUL": ("a,answer\n1,x\n\0,y\n", "t.csv:3"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_training_files(name, sm, tmp_path):
    """Each fault of a training file ends with 3 and one line that says where, and nothing is written."""
    content, text = BAD_FILES[name]
    path = tmp_path / "t.csv"
    path.write_text(content)
    result = sm("fit", path, "--target", "answer", "-o", tmp_path / "m")
    assert result.code == 3
    assert text in only_error(result)
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file(sm, tmp_path):
    """A file that is not there ends with 3 and the nearest name."""
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    result = sm("fit", tmp_path / "trian.csv", "--target", "b", "-o", tmp_path / "m")
    assert result.code == 3
    assert "Did you mean 'train.csv'?" in only_error(result)


def test_a_target_of_two_columns(folder, sm, tmp_path):
    """Two names as the target are refused, and so are labels of two columns in an .npz."""
    result = sm("fit", folder / "train.csv", "--target", "age,answer", "-o", tmp_path / "m")
    assert result.code == 3
    assert "The target is one column." in only_error(result)
    np.savez(tmp_path / "a.npz", X=np.eye(4), y=np.eye(4)[:, :2])
    result = sm("fit", tmp_path / "a.npz", "-o", tmp_path / "m")
    assert result.code == 3
    only_error(result)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_no_target(folder, sm, tmp_path):
    """A table needs its target named; the columns are listed."""
    result = sm("fit", folder / "train.csv", "-o", tmp_path / "m")
    assert result.code == 2
    assert "The columns are: age, city, income, answer." in only_error(result)


def test_faults_of_arrays(sm, tmp_path):
    """NaN among the labels and infinity among the numbers of an .npz end with 3."""
    y = np.array([0.0, 1.0, np.nan, 1.0])
    np.savez(tmp_path / "a.npz", X=np.eye(4), y=y)
    assert sm("fit", tmp_path / "a.npz", "-o", tmp_path / "m").code == 3
    X = np.eye(4)
    X[2, 1] = np.inf
    np.savez(tmp_path / "b.npz", X=X, y=[0, 1, 0, 1])
    result = sm("fit", tmp_path / "b.npz", "-o", tmp_path / "m")
    assert result.code == 3
    assert "infinity" in only_error(result) or "inf" in result.err


def test_errors_as_json(sm, tmp_path):
    """With --json an error is an object on standard output and still one line on standard error."""
    (tmp_path / "t.csv").write_text("a,answer\n1,x\n2,y,z\n")
    result = sm("fit", tmp_path / "t.csv", "--target", "answer", "-o", tmp_path / "m", "--json")
    error = result.json["error"]
    assert (error["code"], error["line"], error["exit_code"]) == ("DataError", 3, 3)
    assert error["file"].endswith("t.csv")
    assert len(result.err.splitlines()) == 1
    result = sm("fit", tmp_path / "t.csv", "--no-such-option", "--json")
    assert result.json["error"]["code"] == "UsageError"


# --- predict ------------------------------------------------------------------------------------------------------


def test_one_row_out_for_each_row_in_order(folder, model, sm):
    """Rows come back in order with the probabilities that Python gives."""
    result = sm("predict", model, folder / "test.csv", "--proba")
    rows = result.rows()
    loaded = load_model(model)
    table = csv_table(folder / "test.csv")
    proba = loaded.predict_proba(table)
    assert list(rows[0]) == ["label", "probability", "proba_no", "proba_yes"]
    assert [row["label"] for row in rows] == loaded.predict(table).tolist()
    np.testing.assert_allclose([float(row["proba_yes"]) for row in rows], proba[:, 1], rtol=1e-12)
    np.testing.assert_allclose([float(row["probability"]) for row in rows], proba.max(axis=1), rtol=1e-12)
    assert result.err == "100 rows predicted\n"


def csv_table(path: Path):
    """Return the features of one of the test files as the model's reader gives them."""
    from softmaxnet.data.files import read_dataset

    return read_dataset(path, target="answer").X


def test_top_k(folder, model, sm):
    """--top K gives labels and probabilities by rank, as predict_topk does; more than there are classes is all."""
    rows = sm("predict", model, folder / "test.csv", "--top", 5).rows()
    labels, proba = load_model(model).predict_topk(csv_table(folder / "test.csv"), 5)
    assert list(rows[0]) == ["label_1", "probability_1", "label_2", "probability_2"]
    assert [[row["label_1"], row["label_2"]] for row in rows] == labels.tolist()
    np.testing.assert_allclose([float(row["probability_2"]) for row in rows], proba[:, 1], rtol=1e-12)


def test_keep_copies_columns_in_front(folder, model, sm):
    """--keep copies cells as they are, the target's too; names that are not there or are taken are refused."""
    rows = sm("predict", model, folder / "test.csv", "--keep", "answer,age").rows()
    given = given_rows(folder / "test.csv")
    assert list(rows[0]) == ["answer", "age", "label", "probability"]
    assert [(row["answer"], row["age"]) for row in rows] == [(row["answer"], row["age"]) for row in given]
    result = sm("predict", model, folder / "test.csv", "--keep", "agee")
    assert result.code == 2
    assert "Did you mean 'age'?" in only_error(result)


def test_kept_cells_are_no_formulas(model, sm, tmp_path):
    """In CSV a text that begins like a formula gets a ' in front, a number does not; the rest is exact."""
    cells = ['=cmd("x")', "+1", "-2.5e3", "-x", "@SUM(A1)", "\tx", "plain", "", "a=b", "+49 30"]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "city", "income", "note"])
        writer.writerows(["30", "oslo", "1", cell] for cell in cells)
    told = ("predict", model, tmp_path / "t.csv", "--keep", "note,age")
    result = sm(*told)
    expected = ['\'=cmd("x")', "+1", "-2.5e3", "'-x", "'@SUM(A1)", "'\tx", "plain", "", "a=b", "'+49 30"]
    assert [row["note"] for row in result.rows()] == expected
    assert {row["age"] for row in result.rows()} == {"30"}
    assert "note: 5 kept cells that a spreadsheet could take for a formula" in result.err
    assert [row["note"] for row in sm(*told, "--no-csv-guard").rows()] == cells
    lines = sm(*told, "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["note"] or "" for line in lines] == cells


def test_keep_refuses_a_name_of_the_output(model, sm, tmp_path):
    """A kept column called like one of the output's is refused rather than lost."""
    (tmp_path / "t.csv").write_text("age,city,income,label\n3,oslo,1,x\n")
    result = sm("predict", model, tmp_path / "t.csv", "--keep", "label")
    assert result.code == 2
    assert "the output has a column of that name itself" in result.err


def test_bad_rows_keep_their_place(model, sm, tmp_path):
    """A ragged row and an unreadable cell are empty rows with an error; the others are predicted."""
    (tmp_path / "t.csv").write_text("age,city,income\n30,oslo,1\nx,oslo,1\n1,2\n60,rome,2\n")
    result = sm("predict", model, tmp_path / "t.csv", "--proba")
    rows = result.rows()
    assert result.code == 0
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert rows[1]["error"].startswith("line 3: column 'age': 'x' is not a number")
    assert rows[2]["error"].startswith("line 4: expected 3 cells, found 2")
    assert {rows[1][name] for name in ("label", "probability", "proba_no", "proba_yes")} == {""}
    assert "2 of them could not be read" in result.err
    lines = sm("predict", model, tmp_path / "t.csv", "--format", "jsonl").out.splitlines()
    assert json.loads(lines[1])["label"] is None
    assert json.loads(lines[0])["error"] is None


def test_columns_are_matched_by_name(model, sm, tmp_path):
    """Reordered columns give the same; extra ones are warned of; a missing one ends with 3 and its name."""
    (tmp_path / "a.csv").write_text("age,city,income\n30,oslo,1000\n")
    (tmp_path / "b.csv").write_text("income,answer,city,extra,age\n1000,yes,oslo,1,30\n")
    (tmp_path / "c.csv").write_text("Age,city,income\n30,oslo,1000\n")
    plain, reordered = sm("predict", model, tmp_path / "a.csv"), sm("predict", model, tmp_path / "b.csv")
    assert plain.out == reordered.out
    assert plain.err == "1 row predicted\n"
    assert "softmaxnet: warning: " in reordered.err
    assert "'extra'" in reordered.err
    assert "'answer'" not in reordered.err
    result = sm("predict", model, tmp_path / "c.csv", "-o", tmp_path / "out.csv")
    assert result.code == 3
    assert "did you mean 'age'?" in only_error(result)
    assert not (tmp_path / "out.csv").exists()


def test_unseen_categories_are_predicted_and_counted(model, sm, tmp_path):
    """A category that training never had is no error; the summary counts it by column."""
    (tmp_path / "t.csv").write_text("age,city,income\n30,berlin,1000\n31,bonn,1000\n32,oslo,1000\n")
    result = sm("predict", model, tmp_path / "t.csv")
    assert len(result.rows()) == 3
    assert "never seen (or too rare) in training: city 2" in result.err


def test_formats(folder, model, sm, tmp_path):
    """The ending of the output decides the format, --format over it; all hold the same numbers."""
    import pyarrow.parquet

    expected = [row["label"] for row in sm("predict", model, folder / "test.csv").rows()]
    for name in ("o.csv", "o.jsonl", "o.parquet"):
        assert sm("predict", model, folder / "test.csv", "-o", tmp_path / name).code == 0
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    assert [json.loads(line)["label"] for line in lines] == expected
    assert pyarrow.parquet.read_table(tmp_path / "o.parquet")["label"].to_pylist() == expected
    result = sm("predict", model, folder / "test.csv", "-o", tmp_path / "p.csv", "--format", "jsonl")
    assert (tmp_path / "p.csv").read_text() == (tmp_path / "o.jsonl").read_text()
    assert result.out == ""


def test_sets(folder, model, sm, tmp_path):
    """--sets writes the set of each row for a model that was prepared; for another it says what to do."""
    result = sm("predict", model, folder / "test.csv", "--sets", "0.9")
    assert result.code == 2
    assert "not prepared for prediction sets" in only_error(result)
    from softmaxnet import save_model
    from softmaxnet.data.files import read_dataset

    data = read_dataset(folder / "test.csv", target="answer")
    prepared = load_model(model).calibrate_sets(data.X, data.y)
    save_model(prepared, tmp_path / "m")
    (tmp_path / "t.csv").write_text("age,city,income\n78,oslo,1000\nx,oslo,1000\n50,paris,1000\n")
    rows = sm("predict", tmp_path / "m", tmp_path / "t.csv", "--sets", "0.9").rows()
    assert json.loads(rows[0]["set"]) == ["yes"]
    assert rows[1]["set"] == ""
    lines = sm("predict", tmp_path / "m", tmp_path / "t.csv", "--sets", "0.9", "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["set"] for line in lines] == [["yes"], None, json.loads(rows[2]["set"])]


def test_labels_of_every_kind_come_back(sm, tmp_path):
    """Labels with commas, line ends, quotes and emoji survive the way into the model and out again."""
    labels = ["a,b", "two\nlines", 'say "no"', "🙂", "0x1f"]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "y"])
        writer.writerows([5 * (i % 5) + i / 100, labels[i % 5]] for i in range(100))
    assert sm("fit", tmp_path / "t.csv", "--target", "y", "-o", tmp_path / "m", *QUICK[:2], "--seed", 0).code == 0
    assert set(load_model(tmp_path / "m").classes.tolist()) == set(labels)
    rows = sm("predict", tmp_path / "m", tmp_path / "t.csv", "--proba").rows()
    assert {row["label"] for row in rows} <= set(labels)
    assert {f"proba_{label}" for label in labels} <= set(rows[0])


# --- evaluate -----------------------------------------------------------------------------------------------------


def test_evaluate_agrees_with_scikit_learn(folder, model, sm):
    """The scores are those that scikit-learn computes from the model's probabilities."""
    from sklearn.metrics import accuracy_score, log_loss

    scores = sm("evaluate", model, folder / "test.csv", "--json").json
    names = {"log_loss", "accuracy", "brier", "calibration_error", "n_rows", "n_unseen"}
    assert names <= set(scores)
    loaded = load_model(model)
    truth = [row["answer"] for row in given_rows(folder / "test.csv")]
    proba = loaded.predict_proba(csv_table(folder / "test.csv"))
    assert scores["log_loss"] == pytest.approx(log_loss(truth, proba, labels=loaded.classes), rel=1e-9)
    assert scores["accuracy"] == pytest.approx(accuracy_score(truth, loaded.classes[proba.argmax(axis=1)]))
    assert (scores["n_rows"], scores["n_unseen"]) == (100, 0)


def test_evaluate_for_a_person(folder, model, sm):
    """Without --json the scores are lines of text."""
    result = sm("evaluate", model, folder / "test.csv")
    assert result.code == 0
    assert result.out.startswith("log loss")


def test_labels_that_training_lacked(folder, model, sm, tmp_path):
    """They are counted, wrong in the accuracy and left out of the log loss; none known at all is an error."""
    lines = (folder / "test.csv").read_text().splitlines()
    known = sm("evaluate", model, folder / "test.csv", "--json").json
    (tmp_path / "t.csv").write_text("\n".join([*lines, "30,oslo,1000,perhaps", "30,oslo,1000,never"]) + "\n")
    result = sm("evaluate", model, tmp_path / "t.csv", "--json")
    assert result.json["n_unseen"] == 2
    assert result.json["n_rows"] == 102
    assert result.json["log_loss"] == pytest.approx(known["log_loss"])
    assert result.json["accuracy"] == pytest.approx(known["accuracy"] * 100 / 102)
    assert "'perhaps', 'never'" in result.err
    (tmp_path / "u.csv").write_text(f"{lines[0]}\n30,oslo,1000,perhaps\n")
    result = sm("evaluate", model, tmp_path / "u.csv")
    assert result.code == 3
    assert "none of the 1 labels is one of the model's 2 classes" in only_error(result)


def test_gates(folder, model, sm):
    """A gate that is not met ends with 7 after the scores are printed; one that is met changes nothing."""
    result = sm("evaluate", model, folder / "test.csv", "--max-log-loss", "0.01", "--min-accuracy", "1", "--json")
    assert result.code == 7
    assert len(result.json["failed_gates"]) == 2
    assert "is above 0.01" in result.err
    result = sm("evaluate", model, folder / "test.csv", "--max-log-loss", "1", "--min-accuracy", "0.5", "--json")
    assert result.code == 0
    assert result.json["failed_gates"] == []


def test_evaluate_asks_for_a_target_that_it_cannot_know(folder, model, sm, tmp_path):
    """The target is the model's own; a renamed one is told, and one that is not there is an error."""
    renamed = (folder / "test.csv").read_text().replace("answer", "truth", 1)
    (tmp_path / "t.csv").write_text(renamed)
    assert sm("evaluate", model, tmp_path / "t.csv").code == 3
    assert sm("evaluate", model, tmp_path / "t.csv", "--target", "truth").code == 0


def test_evaluate_stops_at_bad_rows_or_skips_them(folder, model, sm, tmp_path):
    """An unreadable cell ends with 3, file and line; --on-bad-row skip leaves it out and counts it."""
    text = (folder / "test.csv").read_text() + "x,oslo,1000,yes\n1,2\n"
    (tmp_path / "t.csv").write_text(text)
    result = sm("evaluate", model, tmp_path / "t.csv", "--on-bad-row", "1")
    assert result.code == 3
    assert "t.csv:102: column 'age': 'x' is not a number" in only_error(result)
    result = sm("evaluate", model, tmp_path / "t.csv", "--on-bad-row", "skip", "--json")
    assert (result.json["n_rows"], result.json["n_bad_rows"]) == (100, 2)


# --- inspect, verify, doctor, demo --------------------------------------------------------------------------------


def test_inspect_and_verify(model, sm):
    """Both tell about a sound file, as text and as one JSON object."""
    assert "target             answer" in sm("inspect", model).out
    assert sm("inspect", model, "--json").json["n_classes"] == 2
    assert "sound" in sm("verify", model).out
    assert sm("verify", model, "--json").json["golden_rows"] > 0


def damaged(model: Path, how: str) -> bytes:
    """Return the bytes of a file that is no sound model of this version."""
    content = bytearray(model.read_bytes())
    if how == "truncated":
        return bytes(content[: len(content) // 2])
    if how == "flipped":
        content[-9] ^= 1
        return bytes(content)
    if how == "newer":
        return bytes(content).replace(b'\\"format_version\\":1', b'\\"format_version\\":9')
    return {"pickle": pickle.dumps({"a": 1}), "text": b"age,city\n1,2\n", "empty": b""}[how]


@pytest.mark.parametrize("command", ["predict", "evaluate", "verify", "inspect"])
@pytest.mark.parametrize("how", ["truncated", "flipped", "newer", "pickle", "text", "empty"])
def test_files_that_are_no_sound_model(how, command, folder, model, sm, tmp_path):
    """A damaged, newer or foreign file ends with 4 and one line, and no output is written."""
    path = tmp_path / "bad.safetensors"
    path.write_bytes(damaged(model, how))
    data = [folder / "test.csv"] if command in ("predict", "evaluate") else []
    out = ["-o", tmp_path / "out.csv"] if command == "predict" else []
    result = sm(command, path, *data, *out)
    if (how, command) == ("flipped", "inspect"):
        assert result.code == 0  # it reads no weights, so that it is quick on any size
        return
    assert result.code == 4
    assert "bad.safetensors: " in only_error(result)
    assert not (tmp_path / "out.csv").exists()


def test_a_model_that_is_not_there(sm, tmp_path):
    """A path without a file ends with 4."""
    result = sm("predict", tmp_path / "none", tmp_path / "none.csv")
    assert result.code == 4
    assert "no such file" in only_error(result)


def test_doctor(sm):
    """It tells versions, threads and what can be written to, and ends well."""
    report = sm("doctor", "--json").json
    assert report["packages"]["numpy"] == np.__version__
    assert report["threads"] >= 1
    assert "can be written" in report["temporary_folder"]
    assert sm("doctor").code == 0


def test_demo(sm, tmp_path):
    """The demo learns digits, draws some, and leaves a model and a plot."""
    result = sm("demo", "-o", tmp_path / "d")
    assert result.code == 0, result.err
    accuracy = next(line.split()[1] for line in result.out.splitlines() if line.strip().startswith("accuracy"))
    assert float(accuracy.rstrip("%")) > 96
    assert "█" in result.out
    assert load_model(tmp_path / "d" / "digits.safetensors", verify=True).n_classes == 10
    assert (tmp_path / "d" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    scores = sm("evaluate", tmp_path / "d" / "digits.safetensors", tmp_path / "d" / "digits-test.npz", "--json").json
    assert scores["n_rows"] == 360


# --- messages -----------------------------------------------------------------------------------------------------


def test_an_unforeseen_error_is_one_line(folder, model, sm, monkeypatch):
    """A bug ends with 1 and one line that says how to see more; --debug shows the traceback."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("softmaxnet.model_file.load_model", broken)
    result = sm("predict", model, folder / "test.csv")
    assert result.code == 1
    assert "unexpected RuntimeError: two lines" in only_error(result)
    assert "Traceback" in sm("predict", model, folder / "test.csv", "--debug").err


@pytest.mark.parametrize(
    ("error", "code"),
    [(MemoryError(), 6), (OSError(28, "No space left on device"), 6), (ModuleNotFoundError("no", name="torch"), 6)],
)
def test_what_the_machine_lacks_ends_with_6(error, code, folder, model, sm, monkeypatch):
    """Memory, disk space and packages that are not there are no bugs of ours."""

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("softmaxnet.model_file.load_model", broken)
    result = sm("predict", model, folder / "test.csv")
    assert result.code == code
    only_error(result)


def test_quiet_leaves_warnings(model, sm, tmp_path):
    """--quiet drops the summary and keeps what should worry."""
    (tmp_path / "t.csv").write_text("age,city,income,extra\n30,oslo,1,1\n")
    result = sm("predict", model, tmp_path / "t.csv", "--quiet")
    assert [line.startswith("softmaxnet: warning: ") for line in result.err.splitlines()] == [True]


def test_long_tables_of_columns_are_cut_and_pixels_are_one_line():
    """At most 30 columns are listed; like columns without names are one line."""
    column = {"kind": "number", "share_missing": 0.0, "n_distinct": 5, "becomes": "1 scaled number"}
    table = column_table([{"name": f"c{i}", **column} for i in range(100)])
    assert len(table.splitlines()) == 32
    assert "and 70 more" in table
    pixels = column_table([{"name": f"column {i}", **column} for i in range(784)])
    assert len(pixels.splitlines()) == 2
    assert "column 0 .. column 783" in pixels


def test_progress_without_a_terminal_is_a_line_every_few_seconds(capsys):
    """The first epochs say nothing; after five seconds there is a line with the time left."""
    now = [0.0]
    progress = Progress(Terminal(), clock=lambda: now[0])
    progress.begin(max_epochs=10, max_seconds=None)
    for epoch in range(1, 5):
        now[0] = 2.0 * epoch
        progress.epoch({"epoch": epoch, "loss": 0.5, "validation_log_loss": 0.25, "validation_accuracy": 0.9})
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["epoch 3/10  loss 0.5000  held-out log loss 0.2500  accuracy 0.9000  at most 14 s left"]


# --- the process: pipes, streams, signals, start-up ---------------------------------------------------------------


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a pipeline in bash; ``sm`` is the command line."""
    command = f'set -o pipefail; sm() {{ "{sys.executable}" -m softmaxnet "$@"; }}; {command}'
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=120)


bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@bash
def test_standard_input_and_output(folder):
    """``-`` is standard input and output, and they are the defaults of predict."""
    expected = shell("sm predict model.safetensors test.csv 2>/dev/null", folder).stdout
    assert len(expected.splitlines()) == 101
    for command in ("sm predict model.safetensors - -o -", "sm predict model.safetensors"):
        done = shell(f"cat test.csv | {command} 2>/dev/null", folder)
        assert (done.returncode, done.stdout) == (0, expected)
    done = shell("gzip -c test.csv | sm evaluate model.safetensors - --json --quiet", folder)
    assert json.loads(done.stdout)["n_rows"] == 100


@bash
def test_a_reader_that_has_enough_is_no_error(folder):
    """A closed pipe ends quietly with 0."""
    many = "(cat test.csv; for i in $(seq 400); do tail -n +2 test.csv; done)"
    done = shell(f"{many} | sm predict model.safetensors | head -1", folder)
    assert (done.returncode, done.stdout) == (0, "label,probability\n")
    assert "Traceback" not in done.stderr
    assert "Broken" not in done.stderr
    assert shell("sm inspect model.safetensors | true", folder).stderr == ""


@bash
def test_a_closed_or_full_standard_output(folder):
    """Results that cannot be printed end with 6 and one line."""
    for command in ("predict MODEL test.csv", "inspect MODEL", "verify MODEL --json"):
        done = shell(f"sm {command.replace('MODEL', 'model.safetensors')} >&-", folder)
        assert done.returncode == 6
        assert done.stderr == "softmaxnet: error: the standard output is closed\n"
    if os.path.exists("/dev/full"):
        done = shell("sm predict model.safetensors test.csv --quiet >/dev/full", folder)
        assert done.returncode == 6
        assert len(done.stderr.splitlines()) == 1
    assert shell("sm predict model.safetensors none.csv 2>&-", folder).returncode == 3


@bash
def test_no_data_and_a_keyboard(folder):
    """With nothing piped in there is nothing to wait for: the command says so."""
    done = shell("sm predict model.safetensors <&-", folder)
    assert done.returncode == 2
    assert "name a file, or pipe rows into the command" in done.stderr


@bash
def test_other_locales_change_nothing(folder):
    """Language and encoding of the environment leave the bytes as they are."""
    expected = shell("sm predict model.safetensors test.csv", folder).stdout
    latin = "LC_ALL=POSIX PYTHONUTF8=0 PYTHONIOENCODING=latin-1"
    for settings in ("LC_ALL=C", latin, "LC_NUMERIC=de_DE TZ=Asia/Tokyo"):
        done = shell(f"export {settings}; sm predict model.safetensors test.csv", folder)
        assert (done.returncode, done.stdout) == (0, expected)


@pytest.fixture(scope="module")
def long_fit(tmp_path_factory):
    """The arguments of a fit that goes on until it is stopped, without its output."""
    folder = tmp_path_factory.mktemp("long")
    write_rows(folder / "t.csv", 2000)
    told = ["--hidden-layer-sizes", "8", "--n-members", "1", "--max-epochs", "100000", "--n-iter-no-change", "100000"]
    return ["fit", str(folder / "t.csv"), "--target", "answer", "--json", *told]


def stopped(arguments: list[str], number: int) -> subprocess.CompletedProcess[str]:
    """Run until the first line of progress, some seconds into training, send a signal, and return what is left."""
    process = subprocess.Popen([*PYTHON, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    shown = ""
    while "epoch " not in shown:
        line = process.stderr.readline()
        assert line, shown
        shown += line
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_fit_that_is_stopped_saves_the_best_so_far(number, code, long_fit, tmp_path):
    """Ctrl-C and SIGTERM end a fit with 130 and 143, a sound model and the result; what can be resumed is kept."""
    out = tmp_path / "m.safetensors"
    done = stopped([*long_fit, "-o", str(out)], number)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "warning: interrupted in epoch" in done.stderr
    assert json.loads(done.stdout)["stopped_by"] == "interrupt"
    assert load_model(out, verify=True).n_classes == 2
    left = {path.name for path in tmp_path.iterdir()}
    assert left - {"m.safetensors.ckpt"} == {"m.safetensors"}
    assert ("the same command with --resume goes on" in done.stderr) == ("m.safetensors.ckpt" in left)


@pytest.mark.parametrize("command", ["predict", "evaluate", "explain"])
def test_a_command_does_without_pandas(command, folder):
    """Where pandas is installed, a process of ours does not spend its time on importing it."""
    told = [sys.executable, "-X", "importtime", "-m", "softmaxnet", command, "model.safetensors", "test.csv"]
    done = subprocess.run(told, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pyarrow.lib" in loaded
    assert not {name for name in loaded if name.startswith("pandas.")}


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import softmaxnet", {"numpy", "torch", "sklearn", "pyarrow", "matplotlib", "rich"}),
        ("main(['--help'])", {"numpy", "torch", "sklearn", "pyarrow", "matplotlib", "rich"}),
        ("main(['fit', '--help'])", {"numpy", "torch", "sklearn", "pyarrow", "matplotlib", "rich"}),
        ("main(['inspect', 'model.safetensors'])", {"torch", "sklearn", "matplotlib", "rich"}),
        ("main(['predict', 'model.safetensors', 'test.csv'])", {"torch", "sklearn", "matplotlib", "rich"}),
        ("main(['evaluate', 'model.safetensors', 'test.csv'])", {"torch", "sklearn", "matplotlib", "rich"}),
    ],
)
def test_what_a_command_loads(code, forbidden, folder):
    """Help is instant because it loads nothing; predicting loads neither PyTorch nor scikit-learn."""
    program = f"import sys\nfrom softmaxnet.cli import main\n{code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & forbidden
