"""The report of evaluate: one page that loads nothing, shows everything as text, and says what the numbers say."""

from __future__ import annotations

import html.parser
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from softmaxnet.calibration import Calibration
from softmaxnet.cli import main
from softmaxnet.conformal import fit_sets
from softmaxnet.errors import DataError, UsageError
from softmaxnet.estimator import SoftmaxClassifier
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.history import MOST_POINTS, history_rows, history_table
from softmaxnet.metrics import classwise_calibration_error
from softmaxnet.model import SoftmaxModel
from softmaxnet.model_file import load_model, model_bytes, save_model
from softmaxnet.network import NetworkSpec
from softmaxnet.report import ReportRows, render_report, write_report
from softmaxnet.report.charts import class_panels, classwise_error
from softmaxnet.report.confusion import count_confusions, groups_of_classes, seriation
from softmaxnet.report.mistakes import png_data
from softmaxnet.report.summary import verdict
from softmaxnet.report.svg import escaped, ticks
from softmaxnet.softmax import log_softmax

VOID = {"meta", "img", "br", "path", "rect", "circle"}


class Page(html.parser.HTMLParser):
    """A page read strictly: every element is closed, and what could be loaded is collected."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a person reads."""
        return " ".join(" ".join(self.words).split())


def logit_model(classes, **parts) -> SoftmaxModel:
    """Return a model whose inputs are its logits."""
    k = len(classes)
    encoder = FeatureEncoder.fit(np.eye(k), features="raw")
    params = {"layers.0.weight": np.eye(k)[None], "layers.0.bias": np.zeros((1, k))}
    return SoftmaxModel(encoder, NetworkSpec(k, 0, k), params, Calibration(), np.asarray(classes), **parts)


def calibrated_rows(k: int, n: int, seed: int = 0, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * sharpness
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)


def collected(model: SoftmaxModel, X, labels, step: int = 10**9, **about) -> ReportRows:
    """Return the rows of a report, added in chunks."""
    rows = ReportRows(model)
    for start in range(0, len(labels), step):
        part = slice(start, start + step)
        own = {name: values[part] for name, values in about.items()}
        rows.add(X[part], model.predict_log_proba(X[part]), labels[part], **own)
    return rows


@pytest.mark.parametrize("k", [2, 3, 10, 26, 150, 1586])
def test_a_page_for_any_number_of_classes(k) -> None:
    """The page is well-formed, loads nothing, has no script, and stays small for 2 to 1,586 classes."""
    X, labels = calibrated_rows(k, 600, sharpness=3.0)
    text = render_report(collected(logit_model([f"c{j}" for j in range(k)]), X, labels))
    page = Page(text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not [address for address in page.addresses if not address.startswith("data:")]
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert len(text) < 400_000
    assert "calibration error" in page.text
    assert "What is taken for what" in page.text


def test_class_names_and_cells_with_markup_are_text() -> None:
    """Markup in labels, column names, cells, file names and notes is shown, never run."""
    evil = "<img src=x onerror=alert(1)>\"'&"
    table = pa.table({f"a {evil}": [f"{evil} {k % 2}" for k in range(40)], "b": np.arange(40.0)})
    y = np.array([evil, f"b{evil}"], dtype=object)[np.arange(40) % 2]
    model = SoftmaxClassifier(random_state=0, max_epochs=2).fit(table, y, kinds={f"a {evil}": "text"}).model_
    rows = ReportRows(model)
    wrong = 1 - np.arange(40) % 2
    rows.add(table, model.predict_log_proba(table), wrong, y=y[wrong])
    text = render_report(rows, model_name=evil, data_name=evil, notes=[evil])
    page = Page(text)
    assert "onerror=alert(1)" in page.text
    assert not [address for address in page.addresses if not address.startswith("data:")]
    assert "<img src=x" not in text


def test_the_same_rows_give_the_same_page() -> None:
    """The page depends on model and rows only, not on the chunks in which these came."""
    X, labels = calibrated_rows(4, 300)
    model = logit_model(list("abcd"))
    whole = render_report(collected(model, X, labels))
    assert whole == render_report(collected(model, X, labels, step=7))


def test_verdict_on_a_calibrated_and_an_overconfident_model() -> None:
    """Labels drawn from the probabilities get the good word; logits times three claim too much."""
    X, labels = calibrated_rows(3, 3000)
    model = logit_model(list("abc"))
    assert "mean what they say" in Page(render_report(collected(model, X, labels))).text
    said = Page(render_report(collected(model, 3 * X, labels))).text
    assert "are not what they say: off by" in said
    assert "(it claims too much)" in said


def test_verdict_without_rows_to_judge_by() -> None:
    """Where no row has a known label nothing is said of calibration."""
    assert verdict({"calibration_error": None}) == ("fair", "There are too few rows to judge the probabilities.")


def test_promise_in_front() -> None:
    """Of 100 rows that are called 77 %, with 77 right, the page says just that."""
    X = np.tile(np.log([[0.77, 0.23]]), (100, 1))
    labels = (np.arange(100) >= 77).astype(np.int64)
    said = Page(render_report(collected(logit_model(["yes", "no"]), X, labels))).text
    assert "Of the 100 cases that it calls 70 to 80 % likely (on average 77 %), 77 % were right" in said


def test_unseen_labels_and_bad_rows_are_said() -> None:
    """A label that the model never saw is named among the mistakes; rows left out are not counted."""
    X, labels = calibrated_rows(3, 50)
    labels[0] = -1
    X[0] = [9.0, 0, 0]
    names = np.array(list("abc"), dtype=object)[labels]
    names[0] = "zebra"
    keep = np.arange(50) != 7
    rows = collected(logit_model(list("abc")), X, labels, y=names, keep=keep, lines=np.arange(50) + 2)
    assert len(rows.scores().labels) == 49
    assert rows.mistakes()[0].named == "zebra"
    said = Page(render_report(rows, notes=["1 row could not be read"])).text
    assert "1 row has a label that the model never saw" in said
    assert "said a 100.0 % was zebra a label that the model never saw row 0, line 2" in said
    assert "1 row could not be read" in said


def test_only_unseen_labels() -> None:
    """Where every label is unknown the page says so and does not fail."""
    X, labels = calibrated_rows(3, 20)
    said = Page(render_report(collected(logit_model(list("abc")), X, np.full(20, -1)))).text
    assert "20 rows have labels that the model never saw" in said
    assert labels.shape == (20,)


def test_no_rows_is_an_error() -> None:
    """A report of no rows is refused."""
    X, labels = calibrated_rows(3, 0)
    with pytest.raises(DataError, match="no rows"):
        render_report(collected(logit_model(list("abc")), X, labels, step=1) if len(X) else _empty(X, labels))


def _empty(X, labels) -> ReportRows:
    rows = ReportRows(logit_model(list("abc")))
    rows.add(X, np.zeros((0, 3)), labels)
    return rows


def test_one_row() -> None:
    """One row is reported without a warning."""
    rows = collected(logit_model(list("abc")), np.array([[1.0, 0, 0]]), np.array([0]))
    assert "1 row" in Page(render_report(rows)).text


def test_certain_and_right() -> None:
    """Log-probabilities of minus infinity for all other classes are no problem."""
    rows = ReportRows(logit_model(list("ab")))
    log_proba = np.log(
        np.eye(2)[np.arange(40) % 2], where=np.eye(2)[np.arange(40) % 2] > 0, out=np.full((40, 2), -np.inf)
    )
    rows.add(np.zeros((40, 2)), log_proba, np.arange(40) % 2)
    said = Page(render_report(rows)).text
    assert "No row is wrong" in said


# --- mistakes -----------------------------------------------------------------------------------------------


def test_mistakes_are_the_most_confident_ones() -> None:
    """Over all chunks the twelve wrong rows of the highest confidence are kept, of equals the first."""
    X, labels = calibrated_rows(5, 500)
    model = logit_model(list("abcde"))
    proba = model.predict_proba(X)
    wrong = np.flatnonzero(proba.argmax(axis=1) != labels)
    expected = wrong[np.argsort(-proba[wrong].max(axis=1), kind="stable")][:12]
    for step in (13, 500):
        found = collected(model, X, labels, step=step).mistakes()
        assert [mistake.row for mistake in found] == expected.tolist()
        np.testing.assert_array_equal(found[0].X, X[expected[:1]])


def test_pictures_are_shown_as_pictures() -> None:
    """Mistakes of a model of pixels are PNG files in the page, with what spoke for the class beside them."""
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.uint8)
    model = SoftmaxClassifier(hidden_layer_sizes=(), random_state=0, max_epochs=30).fit(X[:200], y[:200]).model_
    page = Page(render_report(collected(model, X[200:600], y[200:600])))
    images = [address for address in page.addresses if address.startswith("data:image/png;base64,iVBOR")]
    assert len(images) >= 2
    assert len(images) % 2 == 0


@pytest.mark.parametrize("shape", [(3, 5), (4, 4, 3), (2, 2, 1)])
def test_png_is_read_back(shape) -> None:
    """A picture written into the page is the same picture read by Pillow."""
    image = pytest.importorskip("PIL.Image")
    import base64
    import io

    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    data = base64.b64decode(png_data(pixels).partition(",")[2])
    np.testing.assert_array_equal(
        np.asarray(image.open(io.BytesIO(data))), pixels.squeeze(axis=2) if shape[-1] == 1 else pixels
    )


def test_texts_are_shown_with_their_words_marked() -> None:
    """The words of a mistaken text are marked by what they contributed, in their place."""
    texts = ["my card was stolen", "the card did not work", "send my money back", "I want the money"] * 10
    topics = np.array([0, 0, 1, 1] * 10)
    model = SoftmaxClassifier(random_state=0, max_epochs=20).fit(texts, np.array(["card", "money"])[topics]).model_
    table = pa.table({"text": ["where is my card now"]})
    rows = ReportRows(model)
    rows.add(table, model.predict_log_proba(table), np.array([1]))
    text = render_report(rows)
    assert re.search(r'<mark class="for"[^>]*>card</mark>', text)
    assert "where is my card now" in Page(text).text.replace("  ", " ")


def test_rows_of_a_table_are_shown_with_their_cells() -> None:
    """A mistaken row of a table shows its cells, missing ones as such, with contributions."""
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    X = X.iloc[:, :3].copy()
    X.iloc[5, 0] = np.nan
    model = SoftmaxClassifier(hidden_layer_sizes=(), random_state=0, max_epochs=50).fit(X, y).model_
    table = pa.Table.from_pandas(X.iloc[:60], preserve_index=False)
    rows = ReportRows(model)
    rows.add(table, model.predict_log_proba(table), 1 - model.predict(table)[:60])
    said = Page(render_report(rows)).text
    assert "mean radius" in said
    assert re.search(r"[+-]\d\.\d", said)


# --- counts -------------------------------------------------------------------------------------------------


def test_confusions_agree_with_sklearn() -> None:
    """Counts are scikit-learn's confusion matrix, and the list is its largest entries off the diagonal."""
    from sklearn.metrics import confusion_matrix

    X, labels = calibrated_rows(6, 400)
    found = count_confusions(labels, X.argmax(axis=1), 6)
    expected = confusion_matrix(labels, X.argmax(axis=1), labels=range(6))
    np.testing.assert_array_equal(found.counts.toarray(), expected)
    off = expected - np.diag(np.diag(expected))
    assert [n for _, _, n in found.top(5)] == sorted(off.ravel().tolist(), reverse=True)[:5]


def test_confused_classes_stand_side_by_side() -> None:
    """Of 30 classes in pairs that are taken for each other, partners are neighbours, and groups hold whole pairs."""
    labels = np.repeat(np.arange(30), 10)
    partner = (labels + 15) % 30
    predicted = np.where(np.arange(300) % 10 < 3, partner, labels)
    found = count_confusions(labels, predicted, 30)
    lists = seriation(found)
    assert sorted(map(tuple, map(sorted, lists))) == [(k, k + 15) for k in range(15)]
    assert all({k % 15 for k in members} and len(members) == 2 for members in groups_of_classes(found, 5))


def test_groups_of_classes_stay_small() -> None:
    """Where everything is confused with everything no group has more than seven classes."""
    rng = np.random.default_rng(0)
    found = count_confusions(rng.integers(0, 40, 4000), rng.integers(0, 40, 4000), 40)
    groups = groups_of_classes(found, 99)
    assert max(map(len, groups)) <= 7
    assert len({k for members in groups for k in members}) == sum(map(len, groups))


def test_class_cells_are_sums_of_the_probabilities() -> None:
    """Cells of a class add up to its rows, its hits and its probabilities; the error is near the exact one."""
    X, labels = calibrated_rows(5, 2000)
    model = logit_model(list("abcde"))
    cells = collected(model, X, labels, step=300).cells
    proba = model.predict_proba(X)
    np.testing.assert_allclose(cells.rows.sum(axis=1), 2000)
    np.testing.assert_array_equal(cells.hits.sum(axis=1), np.bincount(labels, minlength=5))
    np.testing.assert_allclose(cells.proba.sum(axis=1), proba.sum(axis=0))
    np.testing.assert_allclose(cells.variance.sum(axis=1), (proba * (1 - proba)).sum(axis=0), rtol=1e-9)
    gap, chance = classwise_error(cells)
    assert abs(gap.mean() - classwise_calibration_error(proba, labels, n_bins=20).mean()) < 0.01
    assert abs(gap.mean() / chance.mean() - 1) < 0.35


def test_the_worst_class_comes_first() -> None:
    """A class whose probability is overstated is the first panel; a calibrated one is within chance."""
    X, labels = calibrated_rows(6, 4000)
    X = X.copy()
    X[:, 3] += 1.2
    panels = class_panels(collected(logit_model(list("abcdef")), X, labels).cells, 6)
    assert panels[0].label == 3
    assert panels[0].expected > panels[0].n_rows * 1.2


def test_coverage_curve_is_that_of_the_thresholds() -> None:
    """Mean size and coverage at a threshold are counted directly, the most probable class being in every set."""
    X, labels = calibrated_rows(7, 800)
    model = logit_model(list("abcdefg"))
    size, covered = collected(model, X, labels, step=100).sets.curve()
    log_proba = log_softmax(X)
    for step in (0, 20, 60, 150):
        sets = -log_proba * 40 < step + 1
        sets[np.arange(800), log_proba.argmax(axis=1)] = True
        assert size[step] == pytest.approx(sets.sum(axis=1).mean())
        assert covered[step] == pytest.approx(sets[np.arange(800), labels].mean())


def test_prepared_sets_are_counted() -> None:
    """The table of prepared sets has their coverage and size on these rows; too few rows for 95 % leave that out."""
    X, labels = calibrated_rows(4, 600)
    model = logit_model(list("abcd"))
    sets = fit_sets(model.predict_proba(X[:300]), labels[:300])
    rows = collected(replace(model, conformal=sets), X[300:], labels[300:])
    members = sets.predict(model.predict_proba(X[300:]), 0.9)
    assert rows.prepared.covered[0.9] == members[np.arange(300), labels[300:]].sum()
    assert rows.prepared.sizes[0.9] @ np.arange(5) == members.sum()
    assert "held the label" in Page(render_report(rows)).text
    few = fit_sets(model.predict_proba(X[:12]), labels[:12])
    assert 0.95 not in collected(replace(model, conformal=few), X, labels).prepared.covered


def test_sample_is_bounded_and_the_same(monkeypatch) -> None:
    """The rows kept to split the log loss stay within their bound, and are the same in any chunks."""
    monkeypatch.setattr("softmaxnet.report.rows.SAMPLE_ELEMENTS", 400)
    X, labels = calibrated_rows(4, 3000)
    model = logit_model(list("abcd"))
    whole, parts = (collected(model, X, labels, step=step).sample() for step in (3000, 111))
    assert 0 < whole[0].size <= 400
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)


# --- the training -------------------------------------------------------------------------------------------


def test_history_has_nothing_of_the_clock() -> None:
    """The table of a history is JSON without seconds, of at most 200 epochs with the best one among them."""
    lines = [
        {"epoch": k + 1, "loss": 1 / (k + 1), "validation_log_loss": abs(k - 777) + 0.5, "seconds": k}
        for k in range(1000)
    ]
    table = history_table(lines)
    assert "seconds" not in json.dumps(table)
    assert len(table["epoch"]) <= MOST_POINTS
    assert 778 in table["epoch"]
    assert table["epoch"][-1] == 1000
    assert history_rows(json.loads(json.dumps(table)))[0] == {"epoch": 1, "loss": 1, "validation_log_loss": 777.5}


def test_history_with_missing_numbers() -> None:
    """A number that is not finite is null in the file and absent when read."""
    table = history_table([{"epoch": 1, "loss": float("nan")}, {"epoch": 2, "loss": 0.5}])
    assert table == {"epoch": [1, 2], "loss": [None, 0.5]}
    assert history_rows(table) == [{"epoch": 1}, {"epoch": 2, "loss": 0.5}]
    assert history_rows({"epoch": [1], "loss": [1, 2]}) == []


def test_a_model_file_has_its_training_curve(tmp_path) -> None:
    """The history is in the file, the same fit gives the same file, and the report draws it."""
    X, y = load_digits(return_X_y=True)
    settings = {"hidden_layer_sizes": (8,), "max_epochs": 4, "random_state": 0, "solver": "adam"}
    models = [SoftmaxClassifier(**settings).fit(X[:1200], y[:1200]).model_ for _ in range(2)]
    assert model_bytes(models[0]) == model_bytes(models[1])
    save_model(models[0], tmp_path / "m")
    model = load_model(tmp_path / "m")
    assert [line["epoch"] for line in history_rows(model.metrics["history"])] == [1, 2, 3, 4]
    assert "The training" in Page(render_report(collected(model, X[1200:], y[1200:]))).text


# --- text and files -----------------------------------------------------------------------------------------


def test_control_characters_do_not_reach_the_page() -> None:
    """Characters that turn text around or end it are replaced, others kept."""
    assert escaped("a\u202eb\x00\u00e9\u00a0%") == "a\ufffdb\ufffd\u00e9\u00a0%"


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0, 1, False), (0.5, 1, False), (3, 3, False), (1, 1586, True), (0.001, 70, True)]
)
def test_ticks_are_within_bounds(low, high, log) -> None:
    """Ticks are a few numbers within the bounds, in order."""
    found = ticks(low, high, log=log)
    assert 1 <= len(found) <= 12
    assert found == sorted(found)
    assert all(low <= value <= high for value in found)


def test_report_is_whole_and_not_overwritten(tmp_path) -> None:
    """A file that is there stays unless force is given."""
    X, labels = calibrated_rows(3, 30)
    rows = collected(logit_model(list("abc")), X, labels)
    path = tmp_path / "r.html"
    path.write_text("old")
    with pytest.raises(UsageError, match="exists"):
        write_report(path, rows)
    assert path.read_text() == "old"
    write_report(path, rows, force=True)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")


def test_evaluate_writes_the_report(tmp_path, capsys) -> None:
    """The command writes the page beside its answer, refuses an existing file with 2, and takes --force."""
    rng = np.random.default_rng(0)
    lines = ["a,b,y"] + [
        f"{a:.3f},{'uv'[k]},{'no' if a + k > 0.5 else 'yes'}"
        for a, k in zip(rng.normal(size=80), rng.integers(0, 2, 80), strict=True)
    ]
    data, model, report = tmp_path / "d.csv", tmp_path / "m.safetensors", tmp_path / "r.html"
    data.write_text("\n".join(lines) + "\n")
    assert main(["fit", str(data), "--target", "y", "-o", str(model), "--quiet", "--max-epochs", "3"]) == 0
    capsys.readouterr()
    command = ["evaluate", str(model), str(data), "--report", str(report), "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    said = Page(report.read_text(encoding="utf-8")).text
    assert "How good is this model for y ?" in said
    assert f"{told['accuracy'] * 100:.1f} %" in said
    assert main(command) == 2
    assert main([*command, "--force"]) == 0
    assert main([*command[:-2], str(model), "--force"]) == 2
