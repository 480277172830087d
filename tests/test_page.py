"""The page as a person uses it: in Debian's Chromium, against a real server."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

EIGHT = [(66, 22), (48, 11), (31, 22), (36, 38), (62, 54), (72, 72), (52, 88), (30, 74), (37, 56), (62, 40), (66, 22)]
MARKUP = ["<b>bold</b>", "<img src=x onerror=alert(1)>", "plain & simple"]


SEEN = """[...document.querySelector(".seen").getContext("2d").getImageData(0, 0, 8, 8).data]
    .filter((_, place) => place % 4 == 0)"""


pytestmark = pytest.mark.slow

# --- a browser and a server -------------------------------------------------------------------------------------


def missing() -> str | None:
    """Return what is not there for these tests."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    if chromium() is None:
        return "there is no Chromium (Debian: apt-get install chromium)"
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        return "the extra serve is not installed"
    return None


def chromium() -> str | None:
    """Return the path of the browser."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the browser; skip where there is none, unless it is required."""
    reason = missing()
    if reason and os.environ.get("SOFTMAXNET_REQUIRE_BROWSER"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    root = hasattr(os, "geteuid") and os.geteuid() == 0  # as which the sandbox does not start
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"] if root else [])
        yield started
        started.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Fit a small model of each kind."""
    import pandas as pd
    from sklearn.datasets import load_digits

    from softmaxnet import SoftmaxClassifier

    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    X, y = load_digits(return_X_y=True)
    quick: dict[str, Any] = {"random_state": 0, "max_epochs": 12, "early_stopping": False, "hidden_layer_sizes": (64,)}
    digits = SoftmaxClassifier(**quick).fit(X[:1500].astype(np.uint8), y[:1500])
    digits.calibrate_sets(X[1500:].astype(np.uint8), y[1500:])
    n = 240
    table = pd.DataFrame(
        {
            "age": rng.integers(18, 90, n).astype(float),
            "city": rng.choice(["oslo", "paris", "rome"], n),
            "member": rng.random(n) < 0.5,
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D"),
        }
    )
    bought = np.where(table["age"] + 20 * (table["city"] == "rome") > 60, "yes", "no")
    verbs = ["cancel", "send", "change"] * 24
    texts = [
        f"please {verb} my {thing}" for verb, thing in zip(verbs, ["card", "order", "name", "limit"] * 18, strict=True)
    ]
    marked = rng.normal(size=(n, 3))
    tags = [MARKUP[k] for k in marked.argmax(axis=1)]
    fitted = {
        "digits": digits,
        "table": SoftmaxClassifier(random_state=0, hidden_layer_sizes=()).fit(table, bought),
        "text": SoftmaxClassifier(random_state=0, hidden_layer_sizes=()).fit(texts, verbs),
        "markup": SoftmaxClassifier(random_state=0, hidden_layer_sizes=()).fit(marked, tags),
    }
    for name, one in fitted.items():
        one.save(folder / f"{name}.safetensors")
    return {name: folder / f"{name}.safetensors" for name in fitted}


@contextmanager
def served(model: Path, *options: str) -> Iterator[str]:
    """Serve a model in a process of its own and yield its address."""
    command = [sys.executable, "-m", "softmaxnet", "serve", str(model), "--port", "0", "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if line.startswith("}") or (line.startswith("{") and line.rstrip().endswith("}")):
                break
        try:
            yield json.loads(text)["url"]
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def addresses(browser, models) -> Iterator[dict[str, str]]:
    """Serve all models."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield {name: stack.enter_context(served(path)) for name, path in models.items()}


@pytest.fixture
def visit(browser, addresses) -> Iterator[Any]:
    """Return a function that opens a page; afterwards nothing must have gone wrong or been asked of another machine."""
    contexts, faults, hosts = [], [], set()

    def open_page(name: str, *, url: str | None = None, **options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: faults.append(message.text) if is_fault(message) else None)
        page.on("response", lambda answer: faults.append(answer.text()) if answer.status >= 500 else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or "data"))
        # What arrives late moves what is below it: a click that was aimed before lands elsewhere.
        page.goto(url or addresses[name], wait_until="networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []
    assert hosts <= {"127.0.0.1", "data"}


def is_fault(message: Any) -> bool:
    """Return whether a line of the console is a fault; Chromium writes one for each row that the server refuses too."""
    return message.type in ("error", "warning") and "422" not in message.text


def draw(page: Any, points: list[tuple[int, int]]) -> None:
    """Draw a stroke with the mouse, in hundredths of the canvas."""
    box = page.locator(".canvas").bounding_box()
    places = [(box["x"] + x * box["width"] / 100, box["y"] + y * box["height"] / 100) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def headline(page: Any, pattern: str) -> str:
    """Wait for a headline and return it."""
    from playwright.sync_api import expect

    expect(page.locator("#headline")).to_have_text(re.compile(pattern))
    return str(page.locator("#headline").inner_text())


def until(page: Any, expression: str) -> None:
    """Wait until an expression is true. The page's policy forbids what Playwright's own way of waiting does."""
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def numbers(page: Any) -> dict[str, float]:
    """Return what the bars say, class by class."""
    until(page, "document.querySelectorAll('.bar .number').length > 0")
    rows = page.evaluate(
        """[...document.querySelectorAll(".bar")].map((bar) =>
            [bar.querySelector(".label").textContent, bar.querySelector(".number").textContent])"""
    )
    return {label: number(text) for label, text in rows}


def number(text: str) -> float:
    """Return a percentage as a share."""
    return float(text.replace("\u00a0", " ").strip("<>% ")) / 100


# --- pictures ---------------------------------------------------------------------------------------------------


def test_a_drawn_digit_is_read(visit):
    """Strokes with the mouse give bars for all ten digits that add up to one, and the picture as the model sees it."""
    page = visit("digits")
    headline(page, "Nothing drawn yet")
    draw(page, EIGHT)
    headline(page, "It is|Not sure")
    assert len(numbers(page)) == 10
    assert abs(sum(numbers(page).values()) - 1) < 0.02
    assert max(page.evaluate(SEEN)) > 150


def test_the_page_says_what_python_says(visit, models):
    """The bars are the probabilities of the model for the picture that the page shows."""
    from softmaxnet import load_model

    page = visit("digits")
    page.select_option("#written", "3")
    headline(page, "It is|Not sure")
    page.wait_for_timeout(200)
    row = np.rint(np.array(page.evaluate(SEEN)) * 16 / 255).astype(np.uint8).reshape(1, -1)
    model = load_model(models["digits"])
    expected = dict(zip(map(str, model.classes.tolist()), model.predict_proba(row)[0], strict=True))
    assert {label: pytest.approx(p, abs=1.1e-3) for label, p in expected.items()} == numbers(page)


def test_drawing_with_the_keyboard(visit):
    """Arrow keys and space draw; Backspace takes the stroke back."""
    page = visit("digits")
    page.locator(".canvas").focus()
    for key in ["ArrowUp"] * 6 + [" "] + ["ArrowDown"] * 12 + [" "]:
        page.keyboard.press(key)
    headline(page, "It is|Not sure")
    page.keyboard.press("Backspace")
    headline(page, "Nothing drawn yet")


def test_undo_and_clear(visit):
    """Undo takes one stroke back, Clear all; with nothing drawn there is no prediction."""
    page = visit("digits")
    draw(page, [(20, 20), (80, 20)])
    draw(page, [(80, 20), (50, 80)])
    headline(page, "It is|Not sure")
    page.click("#undo")
    headline(page, "It is|Not sure")
    page.click("#clear")
    headline(page, "Nothing drawn yet")
    assert page.locator(".bar").count() == 0


def test_a_chosen_file_is_read(visit, tmp_path):
    """A PNG of any size is taken; a file that is none is refused in words."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (300, 400), 255)
    ImageDraw.Draw(image).line([(150, 60), (150, 340)], fill=0, width=24)
    image.save(tmp_path / "one.png")
    (tmp_path / "no.png").write_bytes(b"not a picture")
    page = visit("digits")
    page.set_input_files("#picture-file", tmp_path / "one.png")
    headline(page, "It is|Not sure")
    page.set_input_files("#picture-file", tmp_path / "no.png")
    until(page, "document.getElementById('problem').textContent.includes('not a picture')")


def test_the_set_grows_with_the_coverage(visit):
    """At a high coverage the page may say "3 or 8"; at a low one a single class; the number is told."""
    page = visit("digits")
    draw(page, [(30, 25), (70, 25), (35, 60), (65, 75), (30, 85)])
    headline(page, "It is|Not sure")
    sizes = []
    for coverage in ("50", "98"):
        page.locator("#coverage-choice").fill(coverage)
        until(page, f"document.getElementById('set').textContent.includes('{coverage}')")
        sizes.append(page.locator(".bar.member").count())
    assert 1 <= sizes[0] <= sizes[1]
    assert page.locator("#headline").inner_text().startswith("Not sure" if sizes[1] > 1 else "It is")


def test_why_as_a_picture(visit):
    """The explanation of a drawing is a picture with a description for those who do not see it."""
    page = visit("digits")
    page.select_option("#written", "4")
    heat = page.locator("#why-body canvas").nth(1)
    heat.wait_for()
    said = heat.get_attribute("aria-label")
    assert re.search(r"Which pixels speak for .+ rather than .+: upper left [+\u2212]?\d", said)
    page.select_option("#why-versus", "baseline")
    until(page, "!document.querySelectorAll('#why-body canvas')[1].getAttribute('aria-label').includes('rather than')")


SLOW_FETCH = """
(() => {
  const fetched = window.fetch;
  window.asked = window.underWay = window.most = 0;
  window.fetch = async (...given) => {
    window.asked += 1;
    window.underWay += 1;
    window.most = Math.max(window.most, window.underWay);
    await new Promise((resolve) => setTimeout(resolve, 300));
    try { return await fetched(...given); } finally { window.underWay -= 1; }
  };
})()
"""


def test_one_question_at_a_time_and_the_latest_wins(visit):
    """While an answer is slow, what is drawn meanwhile waits, and only the newest of it is asked and shown."""
    page = visit("digits")
    until(page, "document.getElementById('about').textContent.includes('Reads')")
    page.select_option("#written", "9")
    headline(page, "It is|Not sure")
    until(page, "document.getElementById('why-sum').textContent.includes('nats')")
    nine = numbers(page)
    page.click("#clear")
    page.evaluate(SLOW_FETCH)
    page.evaluate(
        """() => [..."0123456789"].forEach((digit) => {
            const choice = document.getElementById("written");
            choice.value = digit;
            choice.dispatchEvent(new Event("change"));
        })"""
    )
    until(page, "window.asked >= 3 && window.underWay == 0")
    assert page.evaluate("window.asked") <= 4  # the first, the last, and why
    assert page.evaluate("window.most") == 1
    assert numbers(page) == nine


# --- tables and texts -------------------------------------------------------------------------------------------


def test_a_form_has_the_controls_of_its_columns(visit, models):
    """Number with a range, category to choose, date, checkbox; the example row is predicted at once."""
    page = visit("table")
    headline(page, "It is|Not sure")
    assert page.get_by_label("age", exact=True).get_attribute("type") == "text"
    assert page.get_by_label("age, slider").get_attribute("type") == "range"
    assert page.get_by_label("city").evaluate("field => field.tagName") == "SELECT"
    assert page.get_by_label("member").get_attribute("type") == "checkbox"
    assert page.get_by_label("since").get_attribute("type") == "date"
    page.get_by_label("age", exact=True).fill("20")
    page.select_option("select[id^=field]", label="oslo")
    headline(page, "It is no")
    page.get_by_label("age", exact=True).fill("88")
    headline(page, "yes")


def test_the_form_says_what_python_says(visit, models):
    """The bars are those of the row in the form; an empty field is a missing value."""
    import pandas as pd

    from softmaxnet import load_model

    page = visit("table")
    headline(page, "It is|Not sure")
    page.click("#clear")
    page.get_by_label("age", exact=True).fill("61")
    page.get_by_label("since").fill("2021-05-01")
    page.wait_for_timeout(500)
    row = {"age": [61.0], "city": [None], "member": [False], "since": [pd.Timestamp("2021-05-01")]}
    model = load_model(models["table"])
    expected = dict(zip(model.classes.tolist(), model.predict_proba(pd.DataFrame(row))[0], strict=True))
    assert numbers(page) == {label: pytest.approx(p, abs=1.1e-3) for label, p in expected.items()}


def test_a_field_that_is_no_number_is_said(visit):
    """What cannot be read is marked at its field, and the server's sentence is shown."""
    page = visit("table")
    headline(page, "It is|Not sure")
    with page.expect_response("**/predict") as answer:
        page.get_by_label("age", exact=True).fill("old")
    assert page.get_by_label("age", exact=True).get_attribute("aria-invalid") == "true"
    if answer.value.status == 200:  # a cell that cannot be read may also count as missing
        return
    page.locator("#problem").wait_for()
    assert "age" in page.locator("#problem").inner_text()


def test_a_text_is_read_and_explained(visit):
    """Typing changes the answer; the words that speak for it are marked with their numbers."""
    page = visit("text")
    page.get_by_label("Text").fill("please cancel my order")
    headline(page, "cancel")
    until(page, "[...document.querySelectorAll('.word')].some((word) => word.textContent == 'cancel')")
    assert re.match(r"cancel: \+\d", page.locator(".word", has_text="cancel").get_attribute("aria-label"))
    page.get_by_label("Text").fill("")
    headline(page, "Nothing written yet")


def test_class_names_with_markup_are_text(visit):
    """Tags in class names are shown, not made; no script in them runs."""
    page = visit("markup")
    headline(page, "It is|Not sure")
    assert set(numbers(page)) == set(MARKUP)
    page.click("#how-present")
    page.wait_for_timeout(400)
    assert page.locator("main img, main b").count() == 0


# --- how it works -----------------------------------------------------------------------------------------------


def how(page: Any) -> list[list[str]]:
    """Return the numbers of the table, row by row."""
    found: list[list[str]] = page.evaluate(
        """[...document.querySelectorAll(".softmax tbody tr")].map((row) =>
            [...row.querySelectorAll(".number")].map((cell) => cell.textContent))"""
    )
    return found


def test_the_worked_example(visit):
    """Logits 1.6, 3.1, 0.5 give the probabilities, the loss and the gradient that anybody can check."""
    page = visit("markup")
    assert [row[1] for row in how(page)] == ["0.17198205", "0.77077009", "0.05724785"]
    # exp(1.6), exp(3.1), exp(0.5); p - y for the second class; -ln 0.77077009
    assert [row[0] for row in how(page)] == ["4.9530", "22.1980", "1.6487"]
    assert [row[2] for row in how(page)] == ["+0.1720", "\u22120.2292", "+0.0572"]
    assert "0.2604 nats" in page.locator("#how-loss").inner_text()


def test_moving_a_logit_moves_every_number(visit):
    """A slider, a typed logit, the temperature and the target all count at once."""
    page = visit("markup")
    page.get_by_label("Logit of a", exact=True).fill("3.1")
    page.get_by_label("Logit of c", exact=True).fill("3.1")
    assert [row[1] for row in how(page)] == ["0.33333333"] * 3
    page.get_by_label("c is the true class").check()
    assert how(page)[2][2] == "\u22120.6667"
    page.get_by_label("Temperature").fill("1")
    assert page.locator("output[for=how-temperature]").inner_text() == "10.00"
    page.click("#how-reset")
    assert [row[1] for row in how(page)] == ["0.17198205", "0.77077009", "0.05724785"]


def test_the_present_prediction_in_the_table(visit):
    """The button puts the present logits and temperature there: the same probabilities come out."""
    page = visit("digits")
    page.select_option("#written", "5")
    headline(page, "It is|Not sure")
    page.click("#how-present")
    shown = numbers(page)
    assert [0.0 if "\u00d7" in row[1] else float(row[1]) for row in how(page)] == [
        pytest.approx(shown[str(digit)], abs=1.1e-3) for digit in range(10)
    ]


def test_the_formula_does_not_overflow(visit):
    """Logits of a thousand give probabilities, not NaN."""
    page = visit("markup")
    found = page.evaluate(
        """import("/page/maths.js").then(({ softmax, crossEntropy }) =>
            [softmax([1000, 0]), crossEntropy([-1000, 1000], 0)])"""
    )
    assert found == [[1, 0], 2000]


# --- for everybody ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "table", "text"])
def test_every_control_has_a_name(visit, name):
    """Each control has a label or text; there is one h1, no heading level is left out, and the language is told."""
    page = visit(name)
    until(page, "document.getElementById('about').textContent.includes('Reads')")
    nameless = page.evaluate(
        """[...document.querySelectorAll("main :is(button, input, select, textarea, canvas)")].filter((e) =>
            !(e.textContent.trim() && e.tagName == "BUTTON") && !e.getAttribute("aria-label") && !e.labels?.length
        ).map((e) => e.outerHTML)"""
    )
    assert nameless == []
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_the_keyboard_reaches_everything_in_order(visit):
    """Tab goes to the skip link, the menu, the drawing and its tools, the answer, and on downwards."""
    page = visit("digits")
    until(page, "document.getElementById('about').textContent.includes('Reads')")
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(({ id, className, textContent }) => id || className || textContent)(document.activeElement)"
            )
        )
    assert reached[:4] == ["skip", "Try it", "Why", "How it works"]
    wanted = ["canvas", "clear", "undo", "pen", "written", "picture-file", "coverage-choice", "why-label", "why-versus"]
    assert [name for name in reached[4:] if name in wanted] == wanted


def test_the_answer_is_spoken(visit):
    """A live region holds the answer as a sentence once the drawing rests."""
    page = visit("digits")
    page.select_option("#written", "7")
    until(page, "/probable/.test(document.getElementById('said').textContent)")
    assert page.locator("#said").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("name", ["digits", "table", "text", "markup"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(visit, name, scheme):
    """At 360 pixels nothing sticks out to the side, with an answer and its explanation shown."""
    page = visit(name, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    if name == "digits":
        page.select_option("#written", "2")
    headline(page, "It is|Not sure")
    until(page, "document.getElementById('why-sum').textContent.includes('nats')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def luminance(text: str) -> float:
    """Return the relative luminance of a CSS colour rgb(r, g, b) (WCAG 2, relative luminance)."""
    shares = np.array([int(part) for part in re.findall(r"\d+", text)[:3]]) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(visit, scheme):
    """All text stands out from its card by 4.5 : 1 at least (WCAG 2.1, 1.4.3)."""
    page = visit("digits", color_scheme=scheme)
    page.select_option("#written", "2")
    headline(page, "It is|Not sure")
    card = luminance(page.evaluate("getComputedStyle(document.querySelector('.card')).backgroundColor"))
    for selector in ("strong", ".note", ".bar .label", ".verdict", "figcaption", "td.number", ".choice label"):
        text = luminance(page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color"))
        ratio = (max(card, text) + 0.05) / (min(card, text) + 0.05)
        assert ratio >= 4.5, selector


def test_a_token_is_asked_for(visit, models, tmp_path, browser):
    """Where the server wants a token, a dialog asks for it, says when it is wrong, and goes on when it is right."""
    (tmp_path / "token").write_text("a-long-enough-token\n")
    with served(models["text"], "--token-file", str(tmp_path / "token")) as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        page.get_by_role("textbox", name="Token").fill("wrong-wrong-wrong-wrong")
        page.keyboard.press("Enter")
        page.locator("#token-problem").wait_for()
        page.get_by_role("textbox", name="Token").fill("a-long-enough-token")
        page.keyboard.press("Enter")
        headline(page, "It is|Not sure")
        context.close()
