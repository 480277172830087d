"""The whole way once: handwritten digits that come with scikit-learn, from pixels to probabilities to files."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softmaxnet.data.atomic import atomic_output
from softmaxnet.errors import ResourceError, SoftmaxError

__all__ = ["draw_digit", "run_demo"]

SHADES, PLAIN_SHADES = " ░▒▓█", " .:+#"
BAR_WIDTH = 30
SHOWN = 3

Print = Callable[[str], None]


@dataclass(frozen=True)
class _Digits:
    """1,797 images of 8 x 8 pixels from 0 to 16, a fifth of them held out."""

    X_train: Any
    X_test: Any
    y_train: Any
    y_test: Any


def run_demo(folder: Path, print_line: Print = print) -> None:
    """Fit, show, write and verify.

    Parameters
    ----------
    folder : path
        Made where it is not there; the demo's own three files in it are replaced.
    print_line : function
        Given each piece of text.

    Raises
    ------
    ResourceError
        Where the folder cannot be made or written to.
    """
    _make(folder)
    digits = _load()
    print_line(
        f"Handwritten digits: {len(digits.X_train):,} images to learn from, {len(digits.X_test)} to test with, "
        "8 x 8 pixels each."
    )
    clf = _fit(digits, print_line)
    log_proba = clf.predict_log_proba(digits.X_test)
    _show_scores(log_proba, digits.y_test, print_line)
    _show_digits(digits, np.exp(log_proba), print_line)
    _write(folder, clf, digits, np.exp(log_proba), print_line)
    print_line(_next_steps(folder))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"the folder cannot be made: {error.strerror or error}", file=str(folder)) from None


def _load() -> _Digits:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    X, y = load_digits(return_X_y=True)
    return _Digits(*train_test_split(X, y, test_size=0.2, random_state=0))


def _fit(digits: _Digits, print_line: Print) -> Any:
    from softmaxnet.estimator import SoftmaxClassifier

    started = time.monotonic()
    clf = SoftmaxClassifier(random_state=0).fit(digits.X_train, digits.y_train)
    print_line(f"SoftmaxClassifier(random_state=0).fit(X, y): {time.monotonic() - started:.1f} s\n")
    return clf


def _show_scores(log_proba: np.ndarray, labels: np.ndarray, print_line: Print) -> None:
    from softmaxnet.metrics import evaluate_log_proba

    scores = evaluate_log_proba(log_proba, labels)
    print_line(
        "On the images that it has never seen:\n"
        f"  accuracy           {scores['accuracy']:.2%}\n"
        f"  log loss           {scores['log_loss']:.4f} nats (guessing: {np.log(10):.4f})\n"
        f"  calibration error  {scores['calibration_error']:.4f} (0: of what it calls 90 %, 90 % are right)\n"
    )


def _show_digits(digits: _Digits, proba: np.ndarray, print_line: Print) -> None:
    """Draw the first image, one in the middle, and the least certain one."""
    order = np.argsort(proba.max(axis=1))
    for row in (0, int(order[len(order) // 10]), int(order[0])):
        pixels = draw_digit(digits.X_test[row].reshape(8, 8), _shades())
        bars = _bars(proba[row], int(digits.y_test[row]))
        lines = [*bars, *[""] * (len(pixels) - len(bars))]
        print_line("\n".join(f"  {image}   {line}".rstrip() for image, line in zip(pixels, lines, strict=True)) + "\n")


def draw_digit(image: np.ndarray, shades: str = SHADES) -> list[str]:
    """Return an image as lines of text, two characters a pixel.

    Parameters
    ----------
    image : array of shape (height, width), not negative
    shades : str
        From empty to full.

    Examples
    --------
    >>> draw_digit(np.array([[0, 16], [8, 4]]), " .:+#")
    ['  ##', '::..']
    """
    levels = np.rint(image / max(float(image.max()), 1e-12) * (len(shades) - 1)).astype(int)
    return ["".join(shades[level] * 2 for level in row) for row in levels]


def _bars(proba: np.ndarray, truth: int) -> list[str]:
    """Return the most probable digits with bars, and what it was."""
    full = _shades()[-1]
    best = np.argsort(-proba)[:SHOWN]
    lines = [f"{digit}  {proba[digit]:6.1%}  {full * round(BAR_WIDTH * proba[digit])}" for digit in best]
    said = "" if best[0] == truth else ", not what the model says"
    article = "an" if truth == 8 else "a"
    return ["", *lines, "", f"it is {article} {truth}{said}"]


def _shades() -> str:
    """Return shades that the terminal can show."""
    try:
        SHADES.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return PLAIN_SHADES
    return SHADES


def _write(folder: Path, clf: Any, digits: _Digits, proba: np.ndarray, print_line: Print) -> None:
    """Write the model, the test images and the plot; verify the model by loading it."""
    from softmaxnet.model_file import load_model, verify_model

    model_file, test_file, plot_file = (
        folder / name for name in ("digits.safetensors", "digits-test.npz", "reliability.png")
    )
    clf.save(model_file)
    verify_model(model_file)
    if not np.array_equal(load_model(model_file).predict_proba(digits.X_test), clf.predict_proba(digits.X_test)):
        raise SoftmaxError(f"the model read back from {model_file} gives other probabilities")
    with atomic_output(test_file, force=True) as file:
        np.savez_compressed(file, X=digits.X_test, y=digits.y_test)
    written = [
        (model_file, "the model: one file, data only, verified by loading it"),
        (test_file, "the test images"),
    ]
    try:
        from softmaxnet.plots import save_reliability_diagram

        correct = proba.argmax(axis=1) == digits.y_test
        save_reliability_diagram(plot_file, proba.max(axis=1), correct, title="Digits: reliability")
        written.append((plot_file, "how often it is right at each confidence"))
    except ModuleNotFoundError:
        print_line("No plot: matplotlib is not installed (pip install 'softmaxnet[plot]').\n")
    width = max(len(str(path)) for path, _ in written)
    print_line("Written:\n" + "\n".join(f"  {path!s:<{width}}  {what}" for path, what in written) + "\n")


def _next_steps(folder: Path) -> str:
    program = _program()
    steps: Sequence[tuple[str, str]] = (
        (f"{program} evaluate {folder}/digits.safetensors {folder}/digits-test.npz", "the scores above, and more"),
        (f"{program} predict {folder}/digits.safetensors {folder}/digits-test.npz --top 3", "a row for each image"),
        (f"{program} inspect {folder}/digits.safetensors", "what is in the file"),
        (f"{program} fit train.csv --target COLUMN -o model.safetensors", "the same with your data"),
    )
    width = max(len(command) for command, _ in steps)
    return "Next:\n" + "\n".join(f"  {command:<{width}}  # {what}" for command, what in steps)


def _program() -> str:
    """Return what to type for the command line where the environment is not activated."""
    if shutil.which("softmaxnet"):
        return "softmaxnet"
    beside = Path(sys.executable).with_name("softmaxnet")
    if not beside.exists():
        return f"{sys.executable} -m softmaxnet"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)
