"""The command line on data that can hardly be what was meant: what it says, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from command_line import only_error
from softmaxnet import load_model
from softmaxnet.cli.parser import as_flags

QUICK = ("--hidden-layer-sizes", "none", "--weight-decay", "0.01", "--seed", "0")


def table(path: Path, header: str, rows: list[str]) -> Path:
    """Write a file of a header and lines."""
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def numbers(path: Path, n: int = 60, *, seed: int = 0, comma: bool = False, labels: bool = True) -> Path:
    """Write two columns of numbers, separated by semicolons, and what their sum says."""
    rng = np.random.default_rng(seed)
    rows = []
    for x, z in rng.normal(size=(n, 2)):
        cells = f"{x:.3f};{z:.3f}".replace(".", "," if comma else ".")
        rows.append(cells + (f";{'up' if x + z > 0 else 'down'}" if labels else ""))
    return table(path, "x;z;y" if labels else "x;z", rows)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of numbers with decimal points."""
    from softmaxnet.cli import main

    folder = tmp_path_factory.mktemp("doubts")
    told = ["fit", numbers(folder / "t.csv"), "--target", "y", "-o", folder / "m.safetensors", *QUICK, "--quiet"]
    assert main([str(a) for a in told]) == 0
    return folder / "m.safetensors"


# --- the target -------------------------------------------------------------------------------------------------


def amounts(path: Path) -> Path:
    """Write sixty rows with sixty prices."""
    return table(path, "x,price", [f"{i % 7},{1 + 0.37 * i:.2f}" for i in range(60)])


def test_a_target_of_amounts_is_refused_with_the_way_out(sm, tmp_path):
    """Sixty different decimals look like a regression: exit 3, and how to say that they are classes."""
    data = amounts(tmp_path / "t.csv")
    result = sm("fit", data, "--target", "price", "-o", tmp_path / "m")
    assert result.code == 3
    error = only_error(result)
    assert all(text in error for text in ("60 different values", "regression", "--category price"))
    assert not (tmp_path / "m").exists()


def test_amounts_can_be_said_to_be_classes(sm, tmp_path):
    """--category with the target's name takes decimals as names of classes, and warns once."""
    result = sm("fit", amounts(tmp_path / "t.csv"), "--target", "price", "--category", "price", "--dry-run", "--json")
    assert result.code == 0
    assert [f["kind"] for f in result.json["findings"]].count("amounts") == 1


@pytest.mark.parametrize(
    "labels", [[f"{1 + i % 9 / 2}" for i in range(60)], [f"{i % 3}.0" for i in range(60)]], ids=["ratings", "whole"]
)
def test_few_decimals_and_whole_numbers_are_classes(labels, sm, tmp_path):
    """Ratings by halves and 0.0, 1.0, 2.0 are names of classes like any other."""
    data = table(tmp_path / "t.csv", "x,y", [f"{i % 5},{label}" for i, label in enumerate(labels)])
    assert sm("fit", data, "--target", "y", "--dry-run").code == 0


def test_spellings_of_one_label_are_told(sm, tmp_path):
    """Yes, yes and "yes " are three classes, and probably one: each is named."""
    rows = [f"{i * 7 % 11},{['yes', 'no', 'Yes', 'yes ', 'no'][i % 5]}" for i in range(60)]
    result = sm("fit", table(tmp_path / "t.csv", "x,y", rows), "--target", "y", "--dry-run", "--json")
    pairs = [f["detail"]["labels"] for f in result.json["findings"] if f["kind"] == "similar_labels"]
    assert sorted(sorted(pair) for pair in pairs) == [["Yes", "yes"], ["Yes", "yes "]]


# --- columns ----------------------------------------------------------------------------------------------------


def incomes(path: Path) -> Path:
    """Write sixty incomes, one of them a word."""
    income = np.random.default_rng(0).normal(50_000, 10_000, 60).round().astype(int)
    rows = [f"{'n.a.' if i == 15 else v},{'yes' if v > 5e4 else 'no'}" for i, v in enumerate(income)]
    return table(path, "income,y", rows)


def test_a_stray_word_among_numbers_is_told_with_its_line(sm, tmp_path):
    """The warning counts, quotes, names the line and the option that helps."""
    result = sm("fit", incomes(tmp_path / "t.csv"), "--target", "y", "--dry-run", "--json")
    (finding,) = [f for f in result.json["findings"] if f["kind"] == "stray_words"]
    assert finding["message"].startswith("column 'income': 59 of 60 values read as numbers, 'n.a.' (line 17) does not")
    assert "--number income" in finding["message"]


def test_number_takes_words_as_missing_and_counts_them(sm, tmp_path):
    """With --number the words of training and of new rows are missing cells, and both are counted."""
    told = ("--number", "income", "-o", tmp_path / "m", "--json", *QUICK)
    result = sm("fit", incomes(tmp_path / "t.csv"), "--target", "y", *told)
    (finding,) = [f for f in result.json["findings"] if f["kind"] == "words_as_missing"]
    assert finding["detail"] == {"n_words": 1, "n_values": 60, "row": 15}
    new = table(tmp_path / "new.csv", "income", ["unknown", "60000", ""])
    found = sm("predict", tmp_path / "m", new)
    rows = found.rows()
    assert rows[0] == rows[2] != rows[1]
    assert "income (no numbers) 1" in found.err


def test_number_of_a_column_without_any_is_refused(sm, tmp_path):
    """--number cannot make numbers of a column of words."""
    data = table(tmp_path / "t.csv", "city,y", [f"{'ab'[i % 2]},{i % 3 % 2}" for i in range(30)])
    result = sm("fit", data, "--target", "y", "--number", "city", "-o", tmp_path / "m")
    assert result.code == 3
    assert "none of its 30 values is one" in only_error(result)


def test_dates_with_slashes_are_told(sm, tmp_path):
    """02/01/2023 may be January or February: it is a category, and that is said."""
    rows = [f"{i % 12 + 1:02d}/{i % 28 + 1:02d}/2023,{i % 5},{i % 3 % 2}" for i in range(90)]
    result = sm("fit", table(tmp_path / "t.csv", "day,x,y", rows), "--target", "y", "--dry-run", "--json")
    assert "slash_dates" in [f["kind"] for f in result.json["findings"]]


def test_nothing_to_learn_gives_the_shares(sm, tmp_path):
    """Constant columns alone: a warning, and every row gets the shares of the classes."""
    data = table(tmp_path / "t.csv", "x,z,y", [f"1,k,{'yes' if i % 4 == 0 else 'no'}" for i in range(80)])
    result = sm("fit", data, "--target", "y", "-o", tmp_path / "m", "--seed", 0)
    assert result.code == 0
    assert "no column has anything to learn from" in result.err
    proba = load_model(tmp_path / "m").predict_proba({"x": [1], "z": ["k"]})
    np.testing.assert_allclose(proba, [[0.75, 0.25]], atol=1e-6)


def test_labels_that_have_nothing_to_do_with_the_columns(sm, tmp_path):
    """A model that is no better than the shares of the classes says so."""
    rng = np.random.default_rng(0)
    rows = [f"{x:.3f},{y}" for x, y in zip(rng.normal(size=200), rng.integers(0, 2, 200), strict=True)]
    data = table(tmp_path / "t.csv", "x,y", rows)
    result = sm("fit", data, "--target", "y", "-o", tmp_path / "m", "--hidden-layer-sizes", "none")
    assert "hardly better than the shares of the classes alone" in result.err


# --- the plan ---------------------------------------------------------------------------------------------------


def test_dry_run_says_what_will_be_compared(sm, tmp_path):
    """The layers shown are those of networks that are compared with softmax regression and with bins."""
    result = sm("fit", numbers(tmp_path / "t.csv"), "--target", "y", "--dry-run")
    assert (
        "compared by held-out log loss: softmax regression, these networks, as many that see numbers in bins"
    ) in result.out


def test_fit_says_what_was_kept_of_what_was_compared(sm, tmp_path):
    """The line after the scores says what the model file says: networks, with or without bins, softmax regression."""
    told = ("--target", "y", "-o", tmp_path / "m", "--max-epochs", 3, "--seed", 0)
    result = sm("fit", numbers(tmp_path / "t.csv"), *told)
    model = load_model(tmp_path / "m")
    kept = model.settings["mixture"]
    assert f"kept: {', '.join(kept)}\n" in result.err
    assert any("network" in words for words in kept) == bool(model.spec.hidden_layer_sizes)
    assert any(words.endswith("with bins") for words in kept) == (model.encoder.bins is not None)


def test_a_calibration_without_rows_to_fit_it_to_is_told(sm, tmp_path):
    """--calibration temperature with nothing held out is a warning, in the words of the command line."""
    told = ("--calibration", "temperature", "--no-early-stopping", "--max-epochs", 3, "--hidden-layer-sizes", 4)
    result = sm("fit", numbers(tmp_path / "t.csv"), "--target", "y", "-o", tmp_path / "m", *told)
    assert result.code == 0
    assert "warning: --calibration 'temperature' needs held-out rows" in result.err


def test_messages_speak_of_flags():
    """Names of Python's parameters become those of options; other words stay."""
    assert as_flags("max_seconds=2 was over") == "--max-seconds 2 was over"
    assert as_flags("random_state is a seed; output stays") == "--seed is a seed; output stays"


# --- predict ----------------------------------------------------------------------------------------------------


def test_decimal_commas_at_predict_name_the_reader_setting(model, sm, tmp_path):
    """No row can be read: a row of output for each all the same, exit 3, and the setting that reads them."""
    data = numbers(tmp_path / "new.csv", 5, comma=True, labels=False)
    result = sm("predict", model, data, "-o", tmp_path / "out.csv")
    assert result.code == 3
    assert "no row could be read" in result.err
    assert "--reader decimal=," in result.err
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 6
    assert sm("predict", model, data, "--reader", "decimal=,").code == 0


def test_decimal_commas_at_evaluate_name_the_reader_setting(model, sm, tmp_path):
    """The command evaluate stops at the first of them with the same hint."""
    result = sm("evaluate", model, numbers(tmp_path / "new.csv", 5, comma=True))
    assert result.code == 3
    assert "--reader decimal=," in result.err


def test_mostly_unreadable_rows_are_a_warning(model, sm, tmp_path):
    """Three of four rows: they keep their place, the command ends well, and says it loudly."""
    data = table(tmp_path / "new.csv", "x;z", ["a;1", "b;1", "c;1", "0.5;1"])
    result = sm("predict", model, data)
    assert result.code == 0
    assert "softmaxnet: warning: 3 of 4 rows could not be read" in result.err


def test_mostly_unseen_levels_are_a_warning(sm, tmp_path):
    """A category column in which nearly nothing is known is probably another column."""
    rows = [f"{'oslo' if i % 3 else 'rome'},{i % 5},{'yes' if i % 3 else 'no'}" for i in range(60)]
    train = table(tmp_path / "t.csv", "city,x,y", rows)
    assert sm("fit", train, "--target", "y", "-o", tmp_path / "m", "--quiet", *QUICK).code == 0
    result = sm("predict", tmp_path / "m", table(tmp_path / "n.csv", "city,x", ["OSLO,1", "ROME,2", "oslo,3"]))
    assert result.code == 0
    assert "column 'city': 2 of 3 values were never seen in training" in result.err


def test_costs_decide(model, sm, tmp_path):
    """--costs adds the decision with the lowest expected cost and that cost: sum_k p_k costs[k, d]."""
    costs = table(tmp_path / "costs.csv", "true,down,up,ask", ["up,10,0,1", "down,0,10,1"])
    rows = sm("predict", model, numbers(tmp_path / "n.csv", 30, seed=3), "--costs", costs, "--proba").rows()
    assert {row["decision"] for row in rows} == {"down", "up", "ask"}
    for row in rows:
        down, up = float(row["proba_down"]), float(row["proba_up"])
        expected = {"down": 10 * up, "up": 10 * down, "ask": 1.0}
        assert row["decision"] == min(expected, key=expected.__getitem__)
        assert float(row["expected_cost"]) == pytest.approx(min(expected.values()), abs=1e-12)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["up,1,0"], "there are none for the true class 'down'"),
        (["up,1,0", "sideways,1,1"], "'sideways' is no class of the model"),
        (["up,1", "down,0,1"], "costs.csv:2: 1 costs; expected 2 costs"),
        (["up,1,x", "down,0,1"], "costs.csv:2: 'x' is not a number"),
        (["up,1,0", "up,0,1"], "costs.csv:3: the class 'up' again"),
        ([], "a line of decisions, and one for each true class"),
    ],
    ids=["missing", "unknown", "ragged", "word", "twice", "empty"],
)
def test_costs_that_do_not_fit(lines, text, model, sm, tmp_path):
    """A table of costs that does not fit the classes is bad data: one line, exit 3."""
    costs = table(tmp_path / "costs.csv", "true,down,up", lines)
    result = sm("predict", model, numbers(tmp_path / "n.csv", 3), "--costs", costs)
    assert result.code == 3
    assert text in only_error(result)


# --- outputs ----------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_names_the_nearest(sm, tmp_path):
    """The message has the folder that was probably meant, and the command that makes the other one."""
    (tmp_path / "models").mkdir()
    result = sm("fit", numbers(tmp_path / "t.csv"), "--target", "y", "-o", tmp_path / "model" / "m.safetensors")
    assert result.code == 6
    assert f"did you mean {tmp_path / 'models'}?" in (error := only_error(result))
    assert "mkdir -p" in error


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs /dev/null")
def test_a_device_is_written_to_and_stays_one(model, sm, tmp_path):
    """-o /dev/null needs no --force, and is no file afterwards."""
    data = numbers(tmp_path / "t.csv")
    assert sm("predict", model, data, "-o", os.devnull).code == 0
    assert sm("fit", data, "--target", "y", "-o", os.devnull, *QUICK).code == 0
    assert not os.path.isfile(os.devnull)
    assert not os.path.exists(os.devnull + ".ckpt")


def test_a_flipped_byte_anywhere_is_called_damage(model, sm, tmp_path):
    """In the header too a flipped bit says damaged, and not that something is no JSON."""
    whole = model.read_bytes()
    for place in np.linspace(9, len(whole) - 1, 40).astype(int):
        damaged = bytearray(whole)
        damaged[place] ^= 0x11
        (tmp_path / "m").write_bytes(damaged)
        result = sm("verify", tmp_path / "m")
        assert result.code == 4
        assert "damaged" in result.err, (place, result.err)


def test_export_without_its_package_ends_as_documented(model, tmp_path):
    """A package that is not installed is exit code 6, as docs/cli.md has it."""
    program = (
        "import sys; sys.modules['onnx'] = None; from softmaxnet.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    told = [sys.executable, "-c", program, "export", str(model), "-o", str(tmp_path / "m.onnx")]
    done = subprocess.run(told, capture_output=True, text=True, timeout=120)
    assert done.returncode == 6
    assert "onnx is not installed" in done.stderr
