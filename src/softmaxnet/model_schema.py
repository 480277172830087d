"""What a model takes and gives, as plain JSON data: for clients, and for a page that builds its form from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from softmaxnet.conformal import PredictionSets
from softmaxnet.drawing import picture_style
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.matrix import NumberMatrix
from softmaxnet.features.numbers import NumberBlock
from softmaxnet.features.table import TableParts, block_sources
from softmaxnet.model import SoftmaxModel
from softmaxnet.request_rows import RowReader

__all__ = ["image_of", "model_schema", "shown_classes"]

MOST_LEVELS = 500
MOST_CLASSES = 1000
COVERAGES = (0.8, 0.9, 0.95, 0.99)
EXAMPLES = {"text": "How do I change my order?", "date": "2024-07-01", "boolean": True}
DIGITS = 3


def model_schema(model: SoftmaxModel, rows: RowReader) -> dict[str, object]:
    """Return columns, classes, picture shape, calibration and prediction sets as plain data.

    Examples
    --------
    >>> from softmaxnet.calibration import Calibration
    >>> from softmaxnet.network import NetworkSpec
    >>> encoder = FeatureEncoder.fit(np.eye(3), features="raw")
    >>> params = {"layers.0.weight": np.eye(3)[None], "layers.0.bias": np.zeros((1, 3))}
    >>> model = SoftmaxModel(encoder, NetworkSpec(3, 0, 3), params, Calibration(), np.array(["cat", "cow", "dog"]))
    >>> schema = model_schema(model, RowReader(encoder, {}, 10))
    >>> schema["kind"], schema["classes"], [column["name"] for column in schema["columns"]]
    ('table', ['cat', 'cow', 'dog'], ['column 0', 'column 1', 'column 2'])
    """
    image = image_of(model)
    columns = [] if image else list(_columns(model.encoder, rows))
    calibration = model.calibration
    return {
        "kind": "image" if image else "text" if rows.is_text else "table",
        "named": rows.is_table,
        "columns": columns,
        "example": None if image else _example(columns, named=rows.is_table),
        "image": image,
        "classes": shown_classes(model),
        "n_classes": model.n_classes,
        "calibration": {"method": calibration.method, "temperature": calibration.temperature},
        "sets": None if model.conformal is None else _sets(model.conformal),
    }


def shown_classes(model: SoftmaxModel) -> list[Any]:
    """Return the first 1,000 classes as plain values."""
    labels: list[Any] = model.classes[:MOST_CLASSES].tolist()
    return labels


def image_of(model: SoftmaxModel) -> dict[str, Any] | None:
    """Return height, width, channels and the largest pixel value where the rows are pictures."""
    style = picture_style(model)
    if style is None:
        return None
    largest = int(style.full) if style.full == int(style.full) else style.full
    return {
        "height": style.height,
        "width": style.width,
        "channels": style.channels,
        "largest": largest,
        "drawn": style.box is not None,
        "dark_ink": style.dark_ink,
    }


def _columns(encoder: FeatureEncoder, rows: RowReader) -> Iterator[dict[str, object]]:
    """Yield the columns that a model uses."""
    parts = encoder.parts
    categories = {c.source: c for c in parts.categories} if isinstance(parts, TableParts) else {}
    for index, column in enumerate(encoder.columns):
        if column.name not in rows.kinds:
            continue
        kind = rows.kinds[column.name]
        about: dict[str, object] = {"name": column.name, "kind": kind}
        if kind == "number":
            about |= _range(encoder, index)
        elif kind == "category":
            levels = categories[index].levels if index in categories else ()
            about |= {"levels": list(levels[:MOST_LEVELS]), "n_levels": len(levels)}
        yield about | {"share_missing": column.share_missing}


def _range(encoder: FeatureEncoder, index: int) -> dict[str, object]:
    """Return where the values of a number column typically lie, as far as its scaling tells."""
    parts = encoder.parts
    if isinstance(parts, TableParts):
        block = parts.block
        index = int(np.searchsorted(block_sources(parts.kinds), index))
    elif isinstance(parts, NumberMatrix):
        block = parts.block
    else:
        return {"low": None, "center": None, "high": None}
    place = np.flatnonzero(block.take == index)
    if not place.size:
        return {"low": None, "center": None, "high": None}
    return dict(zip(("low", "center", "high"), _typical(block, int(place[0]), index), strict=True))


def _typical(block: NumberBlock, place: int, index: int) -> tuple[float, float, float]:
    """Return low, centre and high of a scaled number: its bins' ends, or one and a half scales around the median."""
    bins = block.bin_column == index
    if place >= block.n_curved:
        return 0.0, float(block.scale[place] / 2), float(block.scale[place])
    center, scale = float(block.center[place]), float(block.scale[place])
    if bins.any():
        high = block.bin_low[bins] + block.bin_width[bins]
        return float(block.bin_low[bins].min()), center, float(high.max())
    return tuple(_rounded(value, scale) for value in (center - 1.5 * scale, center, center + 1.5 * scale))  # type: ignore[return-value]


def _rounded(value: float, scale: float) -> float:
    """Return a number to as many digits as its scale deserves.

    Examples
    --------
    >>> _rounded(45.123456, 20.0), _rounded(0.0123456, 0.001)
    (45.1, 0.01235)
    """
    if not 0 < scale < math.inf or not math.isfinite(value):
        return 0.0
    return round(value, DIGITS - 1 - math.floor(math.log10(scale)))


def _example(columns: list[dict[str, Any]], *, named: bool) -> dict[str, object] | list[object]:
    """Return a row that the model takes."""
    cells: dict[str, object] = {}
    for column in columns:
        kind = column["kind"]
        if kind == "number":
            cells[column["name"]] = column["center"] if column["center"] is not None else 0.0
        elif kind == "category":
            cells[column["name"]] = column["levels"][0] if column["levels"] else None
        else:
            cells[column["name"]] = EXAMPLES[kind]
    return cells if named else list(cells.values())


def _sets(sets: PredictionSets) -> dict[str, object]:
    """Return the method of prediction sets and the coverages that there are enough calibration rows for."""
    fewest = len(sets.scores) if sets.counts is None else int(sets.counts.min())
    highest = math.floor(1e4 * fewest / (fewest + 1)) / 1e4
    coverages = [coverage for coverage in COVERAGES if coverage <= highest]
    return {"method": sets.method, "coverages": coverages or [highest], "highest": highest}
