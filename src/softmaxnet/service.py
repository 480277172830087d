"""A model as a service, without sockets: request dict -> response dict.

::

    {"rows": [{"age": 31}]} --RowReader--> X --SoftmaxModel--> logits --> {"predictions": [{"label": ...}]}

The server, and whoever embeds a model in a program of his own, call the same functions; the protocol v2 is in
``protocol_v2``. Faults are raised as errors of this package: ``UsageError`` for a request that is not well formed,
``DataError`` (``RowsError`` where cells are at fault) for rows that the model cannot take.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from softmaxnet.calibration import Calibration
from softmaxnet.errors import DataError, ModelFileError, ResourceError, SoftmaxError, UsageError
from softmaxnet.features.columns import BadCell, nearest
from softmaxnet.model import SoftmaxModel, _softmax_rows, top_classes
from softmaxnet.model_file import inspect_model, load_model
from softmaxnet.model_schema import image_of, model_schema
from softmaxnet.request_rows import InputRows, RowReader, RowsError

__all__ = ["Answers", "DeadlineError", "Limits", "Options", "Service"]

ALL_CLASSES = 1000
"""Up to so many classes every probability is given unless the request says otherwise."""
INPUTS = ("rows", "columns", "texts", "images")
CHEAP_OPERATIONS = 2_000_000
"""Multiplications of a request below which it takes less time than handing it to another thread is worth."""


class DeadlineError(ResourceError):
    """A request took longer than it may."""

    http_status = 504


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes
    ----------
    rows : int
    body : int, in bytes
    image_pixels : int
        Of a picture before it is scaled down.
    explained_rows : int
        Rows of a request with ``explain``.
    answer_numbers : int
        Numbers (rows x classes) in an answer.
    """

    rows: int = 10_000
    body: int = 8 * 2**20
    image_pixels: int = 4_000_000
    explained_rows: int = 16
    answer_numbers: int = 2_000_000


@dataclass(frozen=True)
class Options:
    """What an answer is to hold; the names are those of the request."""

    top: int | None = None
    probabilities: bool | None = None
    logits: bool = False
    coverage: float | None = None
    explain: bool | Mapping[str, object] = False
    seen: bool = False
    drawing: bool | None = None

    @classmethod
    def of(cls, request: Mapping[str, object]) -> Options:
        """Return the options of a request after checking them.

        Examples
        --------
        >>> Options.of({"rows": [[1]], "top": 3}).top
        3
        >>> Options.of({"logit": True})
        Traceback (most recent call last):
        softmaxnet.errors.UsageError: a request has no field 'logit'. Did you mean 'logits'?
        """
        told = {name: value for name, value in request.items() if name not in INPUTS}
        if not told:
            return _NO_OPTIONS
        known = [part.name for part in fields(cls)]
        for name, value in told.items():
            if name not in known:
                meant = nearest(name, [*INPUTS, *known])
                hint = f"Did you mean {meant!r}?" if meant else f"Fields: {', '.join((*INPUTS, *known))}."
                raise UsageError(f"a request has no field {name[:40]!r}.", hint=hint)
            _check_option(name, value)
        return cls(**told)  # type: ignore[arg-type]


_NO_OPTIONS = Options()


def _check_option(name: str, value: object) -> None:
    if name == "top":
        good, accepted = type(value) is int and value >= 1, "a whole number of at least 1"
    elif name == "coverage":
        good, accepted = type(value) in (int, float) and 0 < value < 1, "a number in (0, 1)"  # type: ignore[operator]
    elif name == "explain" and isinstance(value, dict):
        good, accepted = _is_explain(value), "true, or an object with 'label', 'versus' and 'top' at most"
    else:
        good, accepted = type(value) is bool, "true or false"
    if not good and not (value is None and name in ("top", "probabilities", "coverage", "drawing")):
        raise UsageError(f"{name!r} must be {accepted}")


def _is_explain(value: Mapping[str, object]) -> bool:
    labels = all(isinstance(value.get(key), str | int | float | None) for key in ("label", "versus"))
    top = value.get("top")
    return labels and set(value) <= {"label", "versus", "top"} and (top is None or (type(top) is int and top >= 1))


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says of rows.

    Attributes
    ----------
    winners : int64 (n_rows,)
    probability : float64 (n_rows,)
    proba, logits : float64 (n_rows, n_classes), or None where neither was asked for
    top : int64 (n_rows, k) or None
    top_proba : float64 (n_rows, k) or None
    unseen : dict
        How many cells of each column hold categories that training did not have.
    """

    winners: NDArray[np.int64]
    probability: NDArray[np.float64]
    proba: NDArray[np.float64] | None
    logits: NDArray[np.float64] | None
    top: NDArray[np.int64] | None
    top_proba: NDArray[np.float64] | None
    unseen: dict[str, int]


def _never() -> bool:
    return False


@dataclass(frozen=True, eq=False)
class Service:
    """A model with a name, ready to answer; immutable, for any number of threads.

    Parameters
    ----------
    model : SoftmaxModel
    name : str
    limits : Limits
    digest : str
        SHA-256 of the model file; empty for a model that is in no file.

    Examples
    --------
    >>> from softmaxnet.features.encoder import FeatureEncoder
    >>> from softmaxnet.network import NetworkSpec
    >>> encoder = FeatureEncoder.fit(np.eye(3), features="raw")
    >>> params = {"layers.0.weight": np.eye(3)[None], "layers.0.bias": np.zeros((1, 3))}
    >>> model = SoftmaxModel(encoder, NetworkSpec(3, 0, 3), params, Calibration(), np.array(["cat", "cow", "dog"]))
    >>> answer = Service(model, "animals").predict({"rows": [[1.6, 3.1, 0.5]], "probabilities": False})
    >>> answer["predictions"]
    [{'label': 'cow', 'probability': 0.77077009...}]
    """

    model: SoftmaxModel
    name: str
    limits: Limits = Limits()
    digest: str = ""

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, name: str | None = None, limits: Limits | None = None) -> Service:
        """Load a model file, compute its golden rows again and answer once, so that the first request is as quick.

        Raises
        ------
        ModelFileError
            Where the file is not sound, or this installation computes other probabilities than it holds.
        """
        try:
            with Path(path).open("rb") as file:  # one file, also where it is replaced meanwhile
                model = load_model(file, verify=True)
                file.seek(0)
                digest = str(inspect_model(file)["digest"])
        except FileNotFoundError:
            raise ModelFileError("there is no such file", file=str(path)) from None
        except IsADirectoryError:
            raise ModelFileError("it is a folder, not a model file", file=str(path)) from None
        except PermissionError as error:
            raise ResourceError(f"cannot be read: {error.strerror}", file=str(path)) from None
        except ModelFileError as error:
            if error.file is not None and error.file != str(path):
                error.file = str(path)
            raise
        service = cls(model, name or Path(path).stem, limits or Limits(), digest)
        service.warm_up()
        return service

    @cached_property
    def rows(self) -> RowReader:
        """What reads the rows of requests."""
        return RowReader(self.model.encoder, self.model.reader, self.limits.rows)

    @cached_property
    def labels(self) -> list[Any]:
        """All classes as plain values."""
        labels: list[Any] = self.model.classes.tolist()
        return labels

    @cached_property
    def image(self) -> dict[str, Any] | None:
        """Height, width, channels and largest pixel value of a model of pictures."""
        return image_of(self.model)

    @cached_property
    def schema(self) -> dict[str, object]:
        """What clients need to know of the model, as JSON data."""
        import softmaxnet

        limits = {
            "rows": self.limits.rows,
            "bytes": self.limits.body,
            "image_pixels": self.limits.image_pixels,
            "explained_rows": self.limits.explained_rows,
        }
        about = model_schema(self.model, self.rows)
        return (
            {"name": self.name}
            | about
            | {
                "limits": limits,
                "version": softmaxnet.__version__,
                "sha256": self.digest,
            }
        )

    @cached_property
    def operations(self) -> int:
        """Multiplications for a row, roughly."""
        sparse = self.model.params.get("sparse.weight")
        dense = self.model.n_parameters - (0 if sparse is None else int(sparse.size))
        kinds = list(self.rows.kinds.values()) if self.rows.is_table else []
        return dense + 20_000 * len(kinds) + 1_000_000 * kinds.count("text")

    def warm_up(self) -> None:
        """Answer once, and load what explanations and pictures need."""
        import softmaxnet.explain  # noqa: F401

        example: Any = self.schema["example"]
        if example is None:
            example = [0.0] * self.model.n_features_in
        self.predict({"rows": [example]})
        if self.image is not None:
            with contextlib.suppress(ImportError, SoftmaxError):  # without Pillow a request with a picture will say so
                self.predict_image(_stroke(), {})

    def is_cheap(self, n_rows: int) -> bool:
        """Say whether rows take so little time that handing them to another thread would take longer."""
        return n_rows * self.operations <= CHEAP_OPERATIONS

    # --- requests -----------------------------------------------------------------------------------------

    def predict(self, request: object, expired: Callable[[], bool] = _never) -> dict[str, Any]:
        """Answer a request: an object with ``rows``, ``columns``, ``texts`` or ``images``, and options.

        Parameters
        ----------
        request : object
            As JSON has it; see ``docs/serving.md``.
        expired : function
            Asked between two pieces of work whether the answer is still wanted.

        Raises
        ------
        UsageError
            For a request that is not well formed.
        DataError
            For rows that the model cannot take.
        DeadlineError
            Where it expired.
        """
        if not isinstance(request, Mapping):
            raise UsageError('a request must be an object such as {"rows": [...]}')
        options = Options.of(request)
        given = [name for name in INPUTS if name in request]
        if len(given) != 1:
            raise UsageError(f"a request must have exactly one of {', '.join(INPUTS)}; it has {len(given)} of them")
        return self.answer(self._read(given[0], request[given[0]], options), options, expired)

    def predict_csv(
        self, data: bytes, request: Mapping[str, object], expired: Callable[[], bool] = _never
    ) -> dict[str, Any]:
        """Answer rows given as a CSV text with a header; ``request`` has the options."""
        return self.answer(self.rows.from_csv(data), Options.of(request), expired)

    def predict_image(
        self, data: bytes, request: Mapping[str, object], expired: Callable[[], bool] = _never
    ) -> dict[str, Any]:
        """Answer one picture, a PNG or JPEG; ``request`` has the options."""
        options = Options.of(request)
        return self.answer(self._pictures([data], options), options, expired)

    def _read(self, name: str, given: object, options: Options) -> InputRows:
        if name == "rows":
            return self.rows.from_rows(given)
        if name == "columns":
            return self.rows.from_columns(given)
        if name == "texts":
            return self.rows.from_texts(given)
        if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
            raise UsageError("'images' must be an array of texts: PNG or JPEG files in base64")
        if len(given) > self.limits.rows:
            raise RowsError(f"{len(given):,} images; at most {self.limits.rows:,} are taken in one request", [])
        return self._pictures([_from_base64(text, place) for place, text in enumerate(given)], options)

    def _pictures(self, files: list[bytes], options: Options) -> InputRows:
        """Return pictures as the model sees them."""
        if self.image is None:
            raise UsageError("this model is not one of pictures; give it 'rows'")
        pixels = []
        for place, data in enumerate(files):
            try:
                pixels.append(self._pixels(data, resize_only=options.drawing is False))
            except DataError as error:
                text = f"{error.message}. {error.hint}" if error.hint else error.message
                fault: dict[str, object] = {"row": place, "column": None, "message": text}
                raise RowsError(f"image {place}: {text}", [fault]) from None
        X = np.stack(pixels)
        return InputRows(X, seen=X)

    def _pixels(self, data: bytes, *, resize_only: bool) -> NDArray[Any]:
        """Return one picture, (n_pixels,), in the model's unit."""
        from softmaxnet.data.images import decode_image
        from softmaxnet.drawing import area_average, prepare_picture

        pixels = np.asarray(decode_image(data, "<image>", keep_alpha=True, max_pixels=self.limits.image_pixels))
        if resize_only and self.image is not None:
            shape = (self.image["height"], self.image["width"])
            if pixels.shape[:2] != shape:
                pixels = np.clip(area_average(pixels / 255, shape), 0.0, 1.0)
        return prepare_picture(self.model, pixels).reshape(-1)

    # --- answers ------------------------------------------------------------------------------------------

    def compute(
        self, rows: InputRows, *, everything: bool, top: int | None = None, expired: Callable[[], bool] = _never
    ) -> Answers:
        """Return what the model says of rows; with ``everything`` all probabilities and logits."""
        model = self.model
        if everything and rows.n_rows * model.n_classes > self.limits.answer_numbers:
            most = max(1, self.limits.answer_numbers // model.n_classes)
            raise RowsError(
                f"{rows.n_rows:,} rows x {model.n_classes:,} classes are too many numbers for one answer; "
                f'at most {most:,} rows, or "probabilities": false with "top"',
                [],
            )
        k = None if top is None else min(top, model.n_classes)
        unseen: dict[str, int] = {}
        bad: list[BadCell] = []
        parts = []
        for _, logits in model.iter_logits(rows.X, counts=unseen, bad=bad):
            parts.append(_part(logits, everything=everything, k=k))
            if expired():
                raise DeadlineError("the answer took longer than a request may take")
        if bad:
            raise self.rows.faults(bad, rows)
        columns = parts[0] if len(parts) == 1 else tuple(_joined(column) for column in zip(*parts, strict=True))
        winners, chances, proba, logits_of_all, top_places, top_proba = columns
        return Answers(winners, chances, proba, logits_of_all, top_places, top_proba, unseen)

    def answer(self, rows: InputRows, options: Options, expired: Callable[[], bool] = _never) -> dict[str, Any]:
        """Return the answer to rows as plain JSON data."""
        n_classes, listed = self.model.n_classes, options.probabilities
        if listed is None:
            listed = n_classes <= ALL_CLASSES
        everything = listed or options.logits or options.coverage is not None
        if options.explain and rows.n_rows > self.limits.explained_rows:
            raise RowsError(f"{rows.n_rows:,} rows; at most {self.limits.explained_rows} are explained at a time", [])
        found = self.compute(rows, everything=everything, top=options.top, expired=expired)
        labels = self.labels
        chances = found.probability.tolist()
        predictions: list[dict[str, Any]] = [
            {"label": labels[winner], "probability": chance}
            for winner, chance in zip(found.winners.tolist(), chances, strict=True)
        ]
        answer: dict[str, Any] = {"model": self.name}
        if listed or options.logits:
            answer["classes"] = labels
        if listed and found.proba is not None:
            _put(predictions, "probabilities", found.proba.tolist())
        if options is not _NO_OPTIONS:
            self._add_options(answer, predictions, rows, options, found)
        if options.explain:
            _put(predictions, "explanation", self._explanations(rows, options.explain, expired))
        answer["predictions"] = predictions
        if found.unseen:
            answer["unseen"] = found.unseen
        if rows.warnings:
            answer["warnings"] = rows.warnings
        return answer

    def _add_options(
        self,
        answer: dict[str, Any],
        predictions: list[dict[str, Any]],
        rows: InputRows,
        options: Options,
        found: Answers,
    ) -> None:
        """Add what was asked for beyond label and probabilities."""
        if found.top is not None and found.top_proba is not None:
            pairs = zip(found.top.tolist(), found.top_proba.tolist(), strict=True)
            _put(
                predictions,
                "top",
                [
                    [{"label": self.labels[j], "probability": p} for j, p in zip(places, chances, strict=True)]
                    for places, chances in pairs
                ],
            )
        if options.logits and found.logits is not None:
            answer["temperature"] = self.model.calibration.temperature
            _put(predictions, "logits", found.logits.tolist())
            _put(predictions, "raw_logits", self._raw_logits(rows, found.logits).tolist())
        if options.coverage is not None and found.proba is not None:
            answer["coverage"] = options.coverage
            _put(predictions, "set", self.sets(found.proba, options.coverage))
        if options.seen:
            if rows.seen is None or self.image is None:
                raise UsageError("'seen' is for requests with images")
            image = self.image
            shape = (-1, image["height"], image["width"], *((3,) if image["channels"] == 3 else ()))
            _put(predictions, "seen", rows.seen.reshape(shape).tolist())

    def sets(self, proba: NDArray[np.float64], coverage: float) -> list[list[Any]]:
        """Return the prediction set of every row, most probable label first.

        Raises
        ------
        UsageError
            Where the model has not been prepared for sets.
        DataError
            Where there were too few calibration rows for this coverage.
        """
        if self.model.conformal is None:
            raise UsageError("this model was not prepared for prediction sets; `softmaxnet calibrate --sets` does that")
        sets = []
        for members, chances in zip(self.model.conformal.predict(proba, coverage), proba, strict=True):
            inside = np.flatnonzero(members)
            order = inside[np.argsort(-chances[inside], kind="stable")].tolist()
            sets.append([self.labels[j] for j in order])
        return sets

    def _raw_logits(self, rows: InputRows, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logits before calibration."""
        calibration = self.model.calibration
        if calibration.matrix is None:
            return logits / calibration.inverse_temperature
        parts = [part.astype(np.float64) for _, part in self._uncalibrated.iter_logits(rows.X)]
        return np.concatenate(parts)

    @cached_property
    def _uncalibrated(self) -> SoftmaxModel:
        return replace(self.model, calibration=Calibration())

    def _explanations(
        self, rows: InputRows, told: Mapping[str, object] | Literal[True] | bool, expired: Callable[[], bool]
    ) -> list[dict[str, Any]]:
        """Return why, for every row."""
        from softmaxnet.data.frames import take_rows
        from softmaxnet.explain import explain

        settings = told if isinstance(told, Mapping) else {}
        versus = settings.get("versus", "runner-up")
        top: Any = settings.get("top")
        explanations = []
        for row in range(rows.n_rows):
            X = take_rows(rows.X, slice(row, row + 1))
            try:
                found = explain(self.model, X, settings.get("label"), versus=versus)[0]
            except UsageError:
                raise UsageError("'label' and 'versus' must be two classes of this model") from None
            explanations.append(found.to_dict(top) | {"row": row})
            if self.image is not None:
                shape = (self.image["height"], self.image["width"], self.image["channels"])
                explanations[-1]["picture"] = found.picture(shape).tolist()
            if expired():
                raise DeadlineError("the explanation took longer than a request may take")
        return explanations


def _put(predictions: list[dict[str, Any]], name: str, values: list[Any]) -> None:
    for prediction, value in zip(predictions, values, strict=True):
        prediction[name] = value


def _part(logits: NDArray[Any], *, everything: bool, k: int | None) -> tuple[Any, ...]:
    """Return the fields of ``Answers`` for one chunk of rows."""
    proba = _softmax_rows(logits)
    winners = logits.argmax(axis=1)
    chances = proba[np.arange(len(winners)), winners]
    top, top_proba = (None, None) if k is None else top_classes(logits, k)
    kept = (proba, logits.astype(np.float64, copy=False)) if everything else (None, None)
    return (winners, chances, *kept, top, top_proba)


def _joined(parts: tuple[Any, ...]) -> Any:
    return None if parts[0] is None else np.concatenate(parts)


def _stroke() -> bytes:
    """Return a picture of a stroke, a PNG of 64 x 64 pixels."""
    import io

    from PIL import Image

    pixels = np.full((64, 64), 255, dtype=np.uint8)
    pixels[12:52, 28:34] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# --- pictures -----------------------------------------------------------------------------------------------


def _from_base64(text: str, place: int) -> bytes:
    head, comma, rest = text.partition(",")
    try:
        return base64.b64decode(rest if comma and head.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise RowsError(
            f"image {place}: not base64", [{"row": place, "column": None, "message": "not base64"}]
        ) from None
