"""Are drawn digits as good as scanned ones? Test digits are traced, drawn anew in many ways, and scored.

``python benchmarks/drawings.py --data DIR [-o benchmarks/results/drawings.json]``; DIR holds ``mnist/``.

Each of some MNIST test digits, none of which the models have seen, is enlarged and thinned to the line along which
its pen went. That line is drawn on a canvas of 280 x 280 pixels with a round pen: thin, thick, small, large, into a
corner, slanted, turned, black on white, as a photograph of paper; and by chance. ``softmaxnet.drawing`` makes the
model's picture of each canvas. Two models: MNIST's 28 x 28 pixels (4 epochs), and that of ``demo --serve``, of
scikit-learn's digits of 8 x 8, which come from a few other writers. Beside each score stands what it would be without
the preparation: the canvas resized.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_in_words, describe_machine
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom

SIDE = 280
PEN = 10.0  # half the width of an ordinary stroke on the canvas, as 2 pixels of 28


def thinned(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the lines of pictures (n, height, width): the thinning of Zhang and Suen (1984), all pictures at once."""
    line = np.pad(masks, ((0, 0), (1, 1), (1, 1)))
    for _ in range(200):
        before = int(line.sum())
        for first in (True, False):
            line[:, 1:-1, 1:-1] &= ~_removable(line, first)
        if int(line.sum()) == before:
            break
    return line[:, 1:-1, 1:-1]


def _removable(line: NDArray[np.bool_], first: bool) -> NDArray[np.bool_]:
    height, width = line.shape[1] - 2, line.shape[2] - 2
    around = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
    p = [line[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in around]
    n_neighbours = np.sum(p, axis=0, dtype=np.int8)
    n_rises = np.sum([~p[i] & p[(i + 1) % 8] for i in range(8)], axis=0, dtype=np.int8)
    north, east, south, west = p[0], p[2], p[4], p[6]
    gone = (n_neighbours >= 2) & (n_neighbours <= 6) & (n_rises == 1)
    if first:
        return gone & ~(north & east & south) & ~(east & south & west)
    return gone & ~(north & east & west) & ~(north & south & west)


def traced(pictures: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
    """Return the points of each digit's line, (n_points, 2), down and across from its middle, in pixels of 28."""
    factor = 5
    large = np.stack([zoom(one / 255.0, factor, order=1, grid_mode=True, mode="nearest") for one in pictures])
    lines = [np.argwhere(line) / factor for line in thinned(large > 0.5)]
    return [points - (points.min(0) + points.max(0)) / 2 for points in lines]


def drawn(
    points: NDArray[np.float64],
    *,
    pen: float = PEN,
    scale: float = 1.0,
    slant: float = 0.0,
    turn: float = 0.0,
    corner: tuple[float, float] = (0.5, 0.5),
) -> NDArray[np.float64]:
    """Return a canvas, ink 1 on 0: the line scaled, slanted, turned [radians], placed, drawn with a round pen."""
    sheared = points @ np.array([[1.0, -slant], [0.0, 1.0]])
    turned = sheared @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    placed = turned * scale * SIDE / 28
    span = np.ptp(placed, axis=0)
    room = np.maximum(SIDE - 2 * pen - 4 - span, 0)
    placed = placed - placed.min(axis=0) + pen + 2 + room * np.array(corner)
    # Points between neighbours, so that an enlarged line has no gaps.
    cells = np.clip(np.rint(placed), 0, SIDE - 1).astype(int)
    empty = np.ones((SIDE, SIDE), dtype=bool)
    empty[cells[:, 0], cells[:, 1]] = False
    return np.clip(pen + 0.5 - distance_transform_edt(empty), 0.0, 1.0)


def photographed(canvas: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return dark ink on paper, lit from one side, a little out of focus, with noise."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    light = 0.55 + 0.4 * (x * rng.uniform(0.2, 1) + y * rng.uniform(0, 0.5))
    paper = light * (1 - 0.7 * gaussian_filter(canvas, 1.5)) + rng.normal(0, 0.02, canvas.shape)
    return np.clip(paper, 0.0, 1.0)


Way = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]

WAYS: dict[str, Way] = {
    "ordinary pen": lambda p, rng: drawn(p),
    "thin": lambda p, rng: drawn(p, pen=2.5),
    "thick": lambda p, rng: drawn(p, pen=18),
    "small": lambda p, rng: drawn(p, pen=4, scale=0.35),
    "small and thick": lambda p, rng: drawn(p, pen=9, scale=0.5),
    "large": lambda p, rng: drawn(p, scale=1.25),
    "in a corner": lambda p, rng: drawn(p, scale=0.6, pen=7, corner=tuple(rng.integers(0, 2, 2))),
    "slanted right": lambda p, rng: drawn(p, slant=0.4),
    "slanted left": lambda p, rng: drawn(p, slant=-0.4),
    "turned by up to 15 degrees": lambda p, rng: drawn(p, turn=float(rng.uniform(-0.26, 0.26))),
    "black on white": lambda p, rng: 1.0 - drawn(p),
    "photograph of paper": lambda p, rng: photographed(drawn(p, pen=7, scale=0.8), rng),
    "all by chance": lambda p, rng: drawn(
        p,
        pen=float(rng.uniform(3, 16)),
        scale=float(rng.uniform(0.4, 1.2)),
        slant=float(rng.uniform(-0.3, 0.3)),
        turn=float(rng.uniform(-0.15, 0.15)),
        corner=tuple(rng.uniform(0, 1, 2)),
    ),
}


def canvases(lines: list[NDArray[np.float64]], way: Way) -> Iterator[NDArray[np.uint8]]:
    """Yield each line drawn in a way, as bytes."""
    rng = np.random.default_rng(0)
    for points in lines:
        yield np.rint(way(points, rng) * 255).astype(np.uint8)


def scores(model: Any, lines: list[NDArray[np.float64]], labels: NDArray[Any]) -> dict[str, dict[str, float]]:
    """Return for each way the accuracy with the preparation, and with a mere resizing."""
    from softmaxnet.drawing import area_average, picture_style, prepare_picture

    style = picture_style(model)
    assert style is not None
    found = {}
    for name, way in WAYS.items():
        prepared, resized = [], []
        for canvas in canvases(lines, way):
            prepared.append(prepare_picture(model, canvas).ravel())
            plain = area_average(canvas / 255.0, (style.height, style.width)) * style.full
            resized.append(np.rint(plain).astype(np.uint8).ravel())
        found[name] = {
            "prepared": float(np.mean(model.predict(np.stack(prepared)) == labels)),
            "resized": float(np.mean(model.predict(np.stack(resized)) == labels)),
        }
        print(f"  {name:<28} {found[name]['prepared']:.4f}   resized only {found[name]['resized']:.4f}", flush=True)
    return found


def mnist_model(data: Path, epochs: int) -> tuple[Any, float]:
    """Return a model of MNIST and its accuracy on all test rows."""
    from softmaxnet.data.files import read_dataset
    from softmaxnet.estimator import SoftmaxClassifier

    train, test = (read_dataset(data / "mnist", part=part) for part in ("train", "test"))
    model = SoftmaxClassifier(max_epochs=epochs, random_state=0, n_jobs=1).fit(train.X, train.y).model_
    return model, float(np.mean(model.predict(test.X) == test.y))


def digits_model() -> tuple[Any, float]:
    """Return the model of ``demo --serve`` and its accuracy on its own test rows."""
    from softmaxnet.demo import fit_drawn_digits, load_digits

    digits = load_digits()
    model = fit_drawn_digits(digits)
    return model, float(np.mean(model.predict(digits.X_test) == digits.y_test))


def main() -> None:
    """Trace, train, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--drawings", type=int, default=1000, help="digits that are traced, of 10,000")
    parser.add_argument("--epochs", type=int, default=4, help="of the fit on MNIST")
    parser.add_argument("-o", "--out", type=Path, help="a .json; a table of the same name .md goes beside it")
    args = parser.parse_args()
    from softmaxnet.data.files import read_dataset

    test = read_dataset(args.data / "mnist", part="test")
    step = max(1, len(test.X) // args.drawings)
    pictures, labels = test.X[::step][: args.drawings].reshape(-1, 28, 28), test.y[::step][: args.drawings]
    lines = traced(pictures)
    result: dict[str, Any] = {"machine": describe_machine(), "drawings": len(lines), "models": {}}
    flat = pictures.reshape(len(pictures), -1)
    for name, (model, accuracy) in {
        "MNIST, 28 x 28": mnist_model(args.data, args.epochs),
        "digits, 8 x 8": digits_model(),
    }.items():
        print(f"{name}: {accuracy:.4f} on its scanned test digits")
        result["models"][name] = {"scanned": accuracy, "drawn": scores(model, lines, labels)}
        if model.n_features_in == flat.shape[1]:  # the very digits that were traced
            result["models"][name]["these_scanned"] = float(np.mean(model.predict(flat) == labels))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table(result))


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    models = result["models"]
    lines = [
        "# Drawn digits beside scanned ones",
        "",
        f"{result['drawings']:,} MNIST test digits, traced and drawn anew: accuracy with `softmaxnet.drawing`, in "
        "brackets that of the canvas merely resized. `python benchmarks/drawings.py --data DIR`.",
        "",
        "| drawn | " + " | ".join(models) + " |",
        "| --- |" + " ---: |" * len(models),
        "| *scanned test digits* | " + " | ".join(f"{one['scanned']:.2%}" for one in models.values()) + " |",
    ]
    these = [f"{one['these_scanned']:.2%}" if "these_scanned" in one else "" for one in models.values()]
    lines.append("| *the scans that were traced* | " + " | ".join(these) + " |")
    for way in WAYS:
        cells = [f"{one['drawn'][way]['prepared']:.1%} ({one['drawn'][way]['resized']:.1%})" for one in models.values()]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", describe_in_words(result["machine"]), ""])


if __name__ == "__main__":
    main()
