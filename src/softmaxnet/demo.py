"""The whole way once: handwritten digits that come with scikit-learn, from pixels to probabilities to files."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from softmaxnet.data.atomic import atomic_output
from softmaxnet.errors import ResourceError, SoftmaxError

__all__ = ["draw_digit", "fit_digits", "fit_drawn_digits", "load_digits", "run_demo", "warped", "write_drawn_digits"]

SHADES, PLAIN_SHADES = " ░▒▓█", " .:+#"
BAR_WIDTH = 30
SHOWN = 3
WARPED_COPIES = 4
WARPED_EPOCHS = 25

Print = Callable[[str], None]


@dataclass(frozen=True)
class Digits:
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
    digits = load_digits()
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


def load_digits() -> Digits:
    """Return the digits that come with scikit-learn, as bytes."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    X, y = datasets.load_digits(return_X_y=True)
    X = X.astype(np.uint8)
    return Digits(*train_test_split(X, y, test_size=0.2, random_state=0))


def fit_digits(digits: Digits) -> Any:
    """Return a classifier fitted with default settings."""
    from softmaxnet.estimator import SoftmaxClassifier

    return SoftmaxClassifier(random_state=0).fit(digits.X_train, digits.y_train)


def _fit(digits: Digits, print_line: Print) -> Any:
    started = time.monotonic()
    clf = fit_digits(digits)
    print_line(f"SoftmaxClassifier(random_state=0).fit(X, y): {time.monotonic() - started:.1f} s\n")
    return clf


# --- digits for people to draw ----------------------------------------------------------------------------------


def write_drawn_digits(folder: Path, print_line: Print = print) -> Path:
    """Fit a model that reads digits drawn by anybody, write it and return its file.

    Raises
    ------
    ResourceError
        Where the folder cannot be made or written to.
    """
    _make(folder)
    digits = load_digits()
    started = time.monotonic()
    model = fit_drawn_digits(digits)
    accuracy = float(np.mean(model.predict(digits.X_test) == digits.y_test))
    print_line(
        f"Handwritten digits, {len(digits.X_train):,} images and {WARPED_COPIES} bent copies of each: fitted in "
        f"{time.monotonic() - started:.1f} s, {accuracy:.1%} of {len(digits.X_test)} held-out images right."
    )
    from softmaxnet.model_file import save_model

    path = folder / "drawn-digits.safetensors"
    save_model(model, path)
    return path


def fit_drawn_digits(digits: Digits) -> Any:
    """Return a model fitted on the digits and bent copies of them, prepared for prediction sets.

    Few people wrote these digits; the copies are for all others. Its sets are calibrated on the
    held-out images.
    """
    from softmaxnet.estimator import SoftmaxClassifier
    from softmaxnet.features.picture_style import measure_style

    copies = [warped(digits.X_train, seed) for seed in range(WARPED_COPIES)]
    X = np.concatenate([digits.X_train, *copies])
    y = np.tile(digits.y_train, WARPED_COPIES + 1)
    model = SoftmaxClassifier(random_state=0, max_epochs=WARPED_EPOCHS).fit(X, y).model_
    # A drawing is to look like the images, not like their copies.
    encoder = replace(model.encoder, pictures=measure_style(digits.X_train, (8, 8, 1)))
    return replace(model, encoder=encoder).calibrate_sets(digits.X_test, digits.y_test)


def warped(X: np.ndarray, seed: int) -> np.ndarray:
    """Return 8 x 8 pictures of 16 shades, each turned, slanted, stretched and bent a little, by chance.

    Examples
    --------
    >>> pictures = np.zeros((2, 64), dtype=np.uint8)
    >>> pictures[:, 24:40] = 16
    >>> warped(pictures, 0).shape, bool((warped(pictures, 0) == warped(pictures, 0)).all())
    ((2, 64), True)
    """
    from scipy.ndimage import map_coordinates, zoom

    rng = np.random.default_rng(seed)
    n, fine = len(X), 4
    turn, slant, stretch = (rng.uniform(-limit, limit, (n, 1, 1)) for limit in (0.25, 0.35, 0.25))
    place = (np.arange(8 * fine) + 0.5) / fine - 4
    down, across = np.meshgrid(place, place, indexing="ij")
    y = across * np.sin(turn) + down * np.cos(turn)
    x = (across * np.cos(turn) - down * np.sin(turn) + slant * y) * np.exp(stretch)
    bend = zoom(rng.normal(0, 0.5, (2, n, 4, 4)), (1, 1, 2 * fine, 2 * fine), order=1, grid_mode=True, mode="nearest")
    number = np.broadcast_to(np.arange(n)[:, None, None], x.shape)
    pictures = X.reshape(-1, 8, 8).astype(np.float64)
    bent = map_coordinates(pictures, [number, y + bend[0] + 3.5, x + bend[1] + 3.5], order=1, mode="constant")
    small = bent.reshape(n, 8, fine, 8, fine).mean(axis=(2, 4))
    return np.asarray(np.rint(small).clip(0, 16).astype(np.uint8).reshape(n, 64))


def _show_scores(log_proba: np.ndarray, labels: np.ndarray, print_line: Print) -> None:
    from softmaxnet.metrics import evaluate_log_proba

    scores = evaluate_log_proba(log_proba, labels)
    print_line(
        "On the images that it has never seen:\n"
        f"  accuracy           {scores['accuracy']:.2%}\n"
        f"  log loss           {scores['log_loss']:.4f} nats (guessing: {np.log(10):.4f})\n"
        f"  calibration error  {scores['calibration_error']:.4f} (0: of what it calls 90 %, 90 % are right)\n"
    )


def _show_digits(digits: Digits, proba: np.ndarray, print_line: Print) -> None:
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


def _write(folder: Path, clf: Any, digits: Digits, proba: np.ndarray, print_line: Print) -> None:
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
        (f"{program} demo --serve", "a page to draw digits on, and to see how it works"),
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
