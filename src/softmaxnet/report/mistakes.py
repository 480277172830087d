"""The most confident mistakes as a person sees them: a picture, a text with its words, or the cells of a row.

What is marked is why: the contributions to the logit of the class that was named, less that of the one that it was.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from softmaxnet.errors import SoftmaxError
from softmaxnet.explain import Explanation, explain, image_shape
from softmaxnet.report.charts import percent
from softmaxnet.report.rows import Mistake
from softmaxnet.report.svg import escaped

if TYPE_CHECKING:
    from softmaxnet.model import SoftmaxModel

__all__ = ["mistake_cards", "png_data", "shown_cell"]

SHOWN_COLUMNS = 6
LONGEST_TEXT = 700
LONGEST_CELL = 60
LARGEST_MODEL = 50_000_000
"""Parameters up to which a handful of rows are explained in a moment."""
MOST_PIXELS = 65_536


def mistake_cards(model: SoftmaxModel, mistakes: list[Mistake]) -> list[str]:
    """Return a piece of the page for each mistake."""
    return [_card(model, mistake) for mistake in mistakes]


def _card(model: SoftmaxModel, mistake: Mistake) -> str:
    found = _explained(model, mistake)
    said = escaped(model.classes[mistake.predicted])
    was = escaped(mistake.named)
    sure = percent(mistake.confidence, 1)
    if mistake.proba is None:
        instead = "a label that the model never saw"
    else:
        instead = f"given {_share(mistake.proba)}"
    place = f"row {mistake.row}" + (f", line {mistake.line}" if mistake.line is not None else "")
    head = (
        f'<p class="verdict"><span class="said">said <b><bdi>{said}</bdi></b> <span class="num">{sure}</span></span> '
        f'<span class="was">was <b><bdi>{was}</bdi></b> <span class="num">{instead}</span></span></p>'
    )
    return f'<article class="card">{_body(model, mistake, found)}{head}<p class="place">{place}</p></article>'


def _share(proba: float) -> str:
    return percent(proba, 1) if proba >= 0.001 else f"{proba * 100:.1g}\N{NO-BREAK SPACE}%"


def _explained(model: SoftmaxModel, mistake: Mistake) -> Explanation | None:
    """Return why it was this class rather than the right one; None where that would take long or cannot be."""
    if model.n_parameters > LARGEST_MODEL or model.n_classes < 2:
        return None
    versus = "runner-up" if mistake.label < 0 else model.classes[mistake.label]
    try:
        return explain(model, mistake.X, model.classes[mistake.predicted], versus=versus, max_nodes=2000)[0]
    except SoftmaxError:
        return None


def _body(model: SoftmaxModel, mistake: Mistake, found: Explanation | None) -> str:
    shape = image_shape(model)
    if shape is not None and isinstance(mistake.X, np.ndarray):
        return _picture(mistake.X[0], shape, found)
    texts = [column.name for column in model.encoder.columns if column.kind == "text"]
    names = getattr(mistake.X, "column_names", None)
    if texts and names is not None:
        parts = [_text(mistake.X.column(name)[0].as_py(), name, found) for name in texts if name in names]
        rest = _cells(found, set(texts)) if model.n_features_in > len(texts) else ""
        return "".join(parts) + rest
    return _cells(found, set()) if found is not None else ""


# --- pictures -----------------------------------------------------------------------------------------------


def _picture(pixels: npt.NDArray[Any], shape: tuple[int, ...], found: Explanation | None) -> str:
    """Return a picture as the model gets it and, beside it, which pixels spoke for what it said."""
    if int(np.prod(shape)) > MOST_PIXELS:
        return ""
    values = np.nan_to_num(np.asarray(pixels, dtype=np.float64)).reshape(shape)
    full = 255.0 if values.max(initial=0) > 16 else 16.0 if values.max(initial=0) > 1 else 1.0
    grey = np.clip(values / full * 255, 0, 255).astype(np.uint8)
    images = [f'<img class="pixels" alt="the picture" src="{png_data(grey)}">']
    if found is not None:
        images.append(
            f'<img class="pixels" alt="what spoke for it (blue) and against it (orange)" src="{_why(found, shape)}">'
        )
    return f'<div class="pair">{"".join(images)}</div>'


def _why(found: Explanation, shape: tuple[int, ...]) -> str:
    """Return the contributions of pixels as a picture: blue for what was said, orange for what it was."""
    parts = found.picture(shape)
    strength = np.clip(np.abs(parts) / (np.quantile(np.abs(parts), 0.995) or 1.0), 0, 1)[..., None]
    ink = np.where((parts > 0)[..., None], np.array([31, 95, 168]), np.array([214, 96, 32]))
    return png_data((255 + (ink - 255) * strength).round().astype(np.uint8))


def png_data(pixels: npt.NDArray[np.uint8]) -> str:
    """Return a picture, (height, width) or (height, width, 1 or 3), as a PNG in a data address.

    Examples
    --------
    >>> png_data(np.zeros((2, 2), np.uint8))[:35]
    'data:image/png;base64,iVBORw0KGgoAA'
    """
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    height, width = pixels.shape[:2]
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # no filter

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + content).decode("ascii")


# --- texts --------------------------------------------------------------------------------------------------


def _text(cell: object, name: str, found: Explanation | None) -> str:
    """Return a text whose words are shaded by what they contributed."""
    text = "" if cell is None else str(cell)
    if not text.strip():
        return '<blockquote class="text"><i>no text</i></blockquote>'
    words = [word for word in found.words if word.column == name and word.start is not None] if found else []
    most = max((abs(word.contribution) for word in words), default=0.0)
    parts, at = [], 0
    for word in words:
        assert word.start is not None
        assert word.end is not None
        if word.end > LONGEST_TEXT:
            break
        parts.append(escaped(text[at : word.start]))
        parts.append(_marked(text[word.start : word.end], word.contribution, most))
        at = word.end
    parts.append(escaped(text[at:LONGEST_TEXT]))
    more = "\N{HORIZONTAL ELLIPSIS}" if len(text) > LONGEST_TEXT else ""
    return f'<blockquote class="text"><bdi>{"".join(parts)}{more}</bdi></blockquote>'


def _marked(word: str, contribution: float, most: float) -> str:
    share = abs(contribution) / most if most else 0.0
    if share < 0.08:
        return escaped(word)
    kind = "for" if contribution > 0 else "against"
    return (
        f'<mark class="{kind}" style="--v:{round(8 + 62 * share)}%" title="{contribution:+.2f} nats">'
        f"{escaped(word)}</mark>"
    )


# --- rows of a table ----------------------------------------------------------------------------------------


def _cells(found: Explanation | None, left_out: set[str]) -> str:
    """Return the cells that contributed most, each with a bar."""
    if found is None:
        return ""
    top = [entry for entry in found.top() if entry[0] not in left_out]
    shown, rest = top[:SHOWN_COLUMNS], top[SHOWN_COLUMNS:]
    most = max((abs(part) for _, _, part in shown), default=1.0)
    rows = [_bar_row(escaped(name), shown_cell(value), part, most) for name, value, part in shown]
    if rest:
        total = sum(part for _, _, part in rest)
        rows.append(_bar_row(f"<i>{len(rest)} more</i>", "", total, most))
    return f'<table class="cells">{"".join(rows)}</table>'


def _bar_row(name: str, value: str, part: float, most: float) -> str:
    kind = "for" if part > 0 else "against"
    width = min(100.0, 100 * abs(part) / most)
    bar = f'<span class="bar {kind}" style="--w:{width:.0f}%"></span>'
    cells = f'<td>{value}</td><td class="bars">{bar}</td><td class="num">{part:+.1f}</td>'
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'


def shown_cell(value: object) -> str:
    """Return a cell as text of the page.

    Examples
    --------
    >>> shown_cell(None), shown_cell(0.30000001), shown_cell("<i>")
    ('<i>missing</i>', '0.3', '&lt;i&gt;')
    """
    if value is None or value != value:
        return "<i>missing</i>"
    if isinstance(value, float):
        return escaped(f"{value:.5g}" if not value.is_integer() or abs(value) > 1e9 else f"{value:.0f}")
    text = " ".join(str(value).split())
    return escaped(text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "\N{HORIZONTAL ELLIPSIS}")
