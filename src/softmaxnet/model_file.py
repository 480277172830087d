"""save_model / load_model: one data-only safetensors file; specified in ``docs/model-file.md``.

A file names no types and no functions: nothing that is loaded can run, whatever it contains. Everything that
is read is checked, and the whole file against the SHA-256 that it carries. That finds accidents; whoever can
write a file can also write its digest.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

import softmaxnet
from softmaxnet.calibration import Calibration
from softmaxnet.conformal import PredictionSets
from softmaxnet.data.atomic import atomic_output
from softmaxnet.errors import ModelFileError, ResourceError, UsageError
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.golden import TOLERANCE, Golden, check_golden, make_golden
from softmaxnet.model import SoftmaxModel
from softmaxnet.network import ACTIVATIONS, NetworkSpec, parameter_shapes
from softmaxnet.tensor_file import (
    DIGEST_ZEROS,
    Container,
    canonical_json,
    encode,
    is_damaged,
    read_container,
    strict_json,
)

__all__ = ["FORMAT_VERSION", "inspect_model", "load_model", "model_bytes", "save_model", "verify_model"]

Source: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
Tensors: TypeAlias = dict[str, npt.NDArray[Any]]

FORMAT_VERSION = 1
"""The newest version of the format that this package reads, and the one that it writes."""
MIN_READER_VERSION = "0.1.0"
"""The first version of the package that reads what this one writes."""
TOP_LEVEL = {
    "calibration",
    "classes",
    "conformal",
    "created_by",
    "digest",
    "features",
    "format",
    "format_version",
    "golden",
    "metrics",
    "min_reader_version",
    "network",
    "reader",
    "settings",
}
FORMAT = "softmaxnet-model"
MOST_LAYERS = 64
MOST_UNITS = 2**31 - 1
SHOWN_CLASSES = 100


# --- saving -------------------------------------------------------------------------------------------------


def save_model(model: SoftmaxModel, path: str | os.PathLike[str], *, force: bool = True) -> str:
    """Write a model file, whole or not at all; the same model gives the same bytes.

    Parameters
    ----------
    model : SoftmaxModel
    path : str or path
    force : bool
        Whether a file that is there may be replaced.

    Returns
    -------
    str
        The digest: 64 hexadecimal digits.

    Raises
    ------
    ModelFileError
        Where a parameter is not finite: such a model is never saved.
    UsageError
        Where the file is there and ``force`` is False.
    ResourceError
        Where the disk is full or the folder cannot be written to.
    """
    buffers, digest = _encode_model(model)
    with atomic_output(Path(path), force=force) as file:
        for buffer in buffers:
            file.write(buffer)
    return digest


def model_bytes(model: SoftmaxModel) -> bytes:
    """Return what :func:`save_model` writes."""
    return b"".join(_encode_model(model)[0])


def _encode_model(model: SoftmaxModel) -> tuple[list[bytes | memoryview], str]:
    features, feature_tensors = model.encoder.to_state()
    calibration, calibration_tensors = model.calibration.to_state()
    classes, class_tensors = _encode_classes(model.classes)
    conformal, conformal_tensors = (None, {}) if model.conformal is None else model.conformal.to_state()
    golden, golden_tensors = make_golden(model).to_state()
    tensors: Tensors = {
        **model.params,
        **class_tensors,
        **calibration_tensors,
        **conformal_tensors,
        **feature_tensors,
        **golden_tensors,
    }
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelFileError(f"the model is not saved: {name!r} has values that are not finite")
    spec = {part.name: getattr(model.spec, part.name) for part in fields(model.spec)}
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "min_reader_version": MIN_READER_VERSION,
        "created_by": {"package": "softmaxnet", "version": softmaxnet.__version__},
        "digest": DIGEST_ZEROS,
        "classes": classes,
        "features": features,
        "network": spec,
        "calibration": calibration,
        "conformal": conformal,
        "golden": golden,
        "settings": model.settings,
        "metrics": model.metrics,
        "reader": model.reader,
    }
    return encode(tensors, canonical_json(_plain(description)))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: tuples and arrays as lists, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise UsageError(f"a model file holds numbers, texts, lists and mappings; it cannot hold a {type(value).__name__}")


# --- class labels -------------------------------------------------------------------------------------------

LABEL_DTYPES = {"int": np.dtype(np.int64), "float": np.dtype(np.float64), "bool": np.dtype(np.bool_)}


def _encode_classes(classes: npt.NDArray[Any]) -> tuple[dict[str, object], Tensors]:
    """Return labels as JSON data (their kind and number) and tensors ``classes.*``.

    Examples
    --------
    >>> meta, tensors = _encode_classes(np.array(["ab", "", "c"]))
    >>> meta["kind"], bytes(tensors["classes.bytes"]), tensors["classes.offsets"].tolist()
    ('str', b'abc', [0, 2, 2, 3])
    """
    kind = {"i": "int", "u": "int", "f": "float", "b": "bool", "U": "str", "O": "object"}.get(classes.dtype.kind, "")
    meta: dict[str, object] = {"kind": kind, "count": int(classes.size)}
    if kind in LABEL_DTYPES:
        return meta, {"classes.values": classes.astype(LABEL_DTYPES[kind])}
    names = classes.tolist()
    if not kind or not all(type(name) is str for name in names):
        raise UsageError(f"class labels must be integers, floats, bools or strings; got the dtype {classes.dtype}")
    encoded = [name.encode("utf-8", "surrogatepass") for name in names]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in encoded], out=offsets[1:])
    return meta, {"classes.bytes": np.frombuffer(b"".join(encoded), np.uint8), "classes.offsets": offsets}


def _decode_classes(kind: str, tensors: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return the labels as the array that they were."""
    if kind in LABEL_DTYPES:
        values = tensors["classes.values"]
        if values.size > 1 and not bool((values[1:] > values[:-1]).all()):
            raise ModelFileError("the class labels are not ascending")
        return values
    names = _decode_names(tensors["classes.bytes"], tensors["classes.offsets"])
    if len(set(names)) != len(names):
        raise ModelFileError("two classes have the same name")
    longest = max(map(len, names), default=0)
    # NumPy's string arrays give every name the length of the longest and drop NULs at the end
    wasteful = longest * len(names) > 4 * sum(map(len, names)) + 2**20
    if kind == "object" or wasteful or any(name.endswith("\0") for name in names):
        array = np.empty(len(names), dtype=object)
        array[:] = names
        return array
    return np.array(names, dtype=f"<U{max(1, longest)}")


def _decode_names(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> list[str]:
    if offsets[0] != 0 or offsets[-1] != data.size or bool((offsets[1:] < offsets[:-1]).any()):
        raise ModelFileError("the offsets of the class names do not ascend from 0 to the number of their bytes")
    raw, bounds = data.tobytes(), offsets.tolist()
    try:
        return [raw[begin:end].decode("utf-8", "surrogatepass") for begin, end in pairwise(bounds)]
    except UnicodeDecodeError:
        raise ModelFileError("a class name is not valid UTF-8") from None


# --- loading ------------------------------------------------------------------------------------------------


def load_model(source: Source, *, verify: bool = False) -> SoftmaxModel:
    """Read a model from a file, from its bytes or from an open file; imports neither torch nor scikit-learn.

    The structure is checked before anything large is allocated; the tensors then take the file's size, once.

    Parameters
    ----------
    source : str, path, bytes or binary file
    verify : bool
        Also compute the golden rows again, as :func:`verify_model` does.

    Raises
    ------
    ModelFileError
        Where there is no such file, or it is not a sound model file of a version that this package reads.
    ResourceError
        Where it may not be read, or memory gave out.
    """
    with _opened(source) as (file, n_bytes):
        model, golden, _ = _load(file, n_bytes)
        if verify:
            check_golden(model, golden)
        return model


def verify_model(source: Source) -> dict[str, object]:
    """Load a model and compute its golden rows again; return a report.

    Returns
    -------
    dict
        ``path, format_version, digest, n_classes, golden_rows, max_error, tolerance``; errors in nats,
        relative beyond 1.

    Raises
    ------
    ModelFileError
        As :func:`load_model`, and where a golden row gives other probabilities.
    """
    with _opened(source) as (file, n_bytes):
        model, golden, digest = _load(file, n_bytes)
        error = check_golden(model, golden)
    return {
        "path": _name(source),
        "format_version": FORMAT_VERSION,
        "digest": digest,
        "n_classes": model.n_classes,
        "golden_rows": golden.n_rows,
        "max_error": error,
        "tolerance": TOLERANCE,
    }


def inspect_model(source: Source) -> dict[str, object]:
    """Return what a model file says of itself, as plain data; reads no weights and checks no digest."""
    with _opened(source) as (file, n_bytes):
        container = read_container(file, n_bytes)
        about = _Description.of(container)
        about.check_tensors(container)
        names = [name for name in container.tensors if name.startswith(("features.", "classes."))]
        tensors = container.read_some(file, names)
        encoder = _decode_features(about.data["features"], tensors)
        classes = _decode_classes(about.class_kind, tensors)
    spec = about.spec
    data = about.data
    return {
        "path": _name(source),
        "file_bytes": n_bytes,
        "format_version": data["format_version"],
        "min_reader_version": data["min_reader_version"],
        "created_by": data["created_by"],
        "digest": about.digest,
        "n_classes": spec.n_classes,
        "classes_kind": about.class_kind,
        "classes": classes[:SHOWN_CLASSES].tolist(),
        "n_features_in": encoder.n_features_in,
        "columns": encoder.describe(),
        "layers": [*spec.layer_sizes],
        "network": data["network"],
        "n_parameters": sum(math.prod(shape) for shape in parameter_shapes(spec).values()),
        "calibration": data["calibration"],
        "conformal": data["conformal"],
        "metrics": data["metrics"],
        "settings": data["settings"],
        "reader": data["reader"],
    }


def _load(file: BinaryIO, n_bytes: int) -> tuple[SoftmaxModel, Golden, str]:
    """Return the model, its golden rows and its digest."""
    container = read_container(file, n_bytes)
    about = _Description.of(container)
    about.check_tensors(container)
    tensors = container.read(file, about.digest)
    spec, data = about.spec, about.data
    encoder = _decode_features(data["features"], tensors)
    if (encoder.n_dense, encoder.n_sparse) != (spec.n_dense, spec.n_sparse):
        raise ModelFileError(
            f"the features give {encoder.n_dense} dense and {encoder.n_sparse} sparse inputs; "
            f"the network takes {spec.n_dense} and {spec.n_sparse}"
        )
    calibration = Calibration.from_state(data["calibration"], tensors, n_classes=spec.n_classes)
    conformal = _decode_sets(data["conformal"], tensors, spec.n_classes)
    golden = Golden.from_state(data["golden"], tensors, n_features=encoder.n_features_in, n_classes=spec.n_classes)
    params = {name: tensors[name] for name in parameter_shapes(spec)}
    explained = {*params, *about.class_tensors, *calibration.to_state()[1], *golden.tensors}
    explained |= set(conformal.to_state()[1]) if conformal else set()
    _refuse_unexplained({name for name in tensors if not name.startswith("features.")} - explained)
    model = SoftmaxModel(
        encoder,
        spec,
        params,
        calibration,
        _decode_classes(about.class_kind, tensors),
        settings=data["settings"],
        metrics=data["metrics"],
        reader=data["reader"],
        conformal=conformal,
    )
    return model, golden, about.digest


def _decode_sets(
    meta: Mapping[str, object] | None, tensors: Mapping[str, npt.NDArray[Any]], n_classes: int
) -> PredictionSets | None:
    if meta is None:
        return None
    sets = PredictionSets.from_state(meta, tensors)
    if sets.n_classes != n_classes:
        raise ModelFileError(f"the prediction sets have {sets.n_classes} classes; the network has {n_classes}")
    return sets


def _refuse_unexplained(names: set[str]) -> None:
    if names:
        raise ModelFileError(f"it has the tensor {min(names)[:80]!r}, which its description does not explain")


def _decode_features(meta: Mapping[str, object], tensors: Mapping[str, npt.NDArray[Any]]) -> FeatureEncoder:
    """Return the encoder after checking that the file holds its tensors and no others."""
    own = {name: array for name, array in tensors.items() if name.startswith("features.")}
    try:
        encoder = FeatureEncoder.from_state(meta, own)
    except ModelFileError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise ModelFileError(f"the features of the model file do not fit together: {error}") from None
    _refuse_unexplained(set(own) - set(encoder.to_state()[1]))
    return encoder


@dataclass(frozen=True)
class _Description:
    """The JSON text of a model file after its checks."""

    data: dict[str, Any]
    spec: NetworkSpec
    class_kind: str

    @property
    def digest(self) -> str:
        return str(self.data["digest"])

    @property
    def class_tensors(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...] | None]]:
        """The tensors of the class labels: their dtype and shape, None where the shape is not known."""
        count = self.spec.n_classes
        if self.class_kind in LABEL_DTYPES:
            return {"classes.values": (LABEL_DTYPES[self.class_kind], (count,))}
        return {
            "classes.bytes": (np.dtype(np.uint8), None),
            "classes.offsets": (np.dtype(np.int64), (count + 1,)),
        }

    @classmethod
    def of(cls, container: Container) -> _Description:
        """Check the description of a model as far as it goes without tensors."""
        data = strict_json(container.text.encode("utf-8"), "the description")
        if not isinstance(data, dict):
            raise ModelFileError("the description of the model is not a JSON object")
        _check_version(data)
        if set(data) != TOP_LEVEL:
            odd = sorted(set(data) ^ TOP_LEVEL)[0]
            raise ModelFileError(f"the description {'lacks' if odd in TOP_LEVEL else 'has an unknown'} {odd[:80]!r}")
        for name in (
            "calibration",
            "classes",
            "created_by",
            "features",
            "metrics",
            "network",
            "reader",
            "settings",
        ):
            if not isinstance(data[name], dict):
                raise ModelFileError(f"{name!r} in the description is not a JSON object")
        if data["format"] != FORMAT or not isinstance(data["digest"], str):
            raise ModelFileError(f"the description is not that of a {FORMAT!r}")
        if data["conformal"] is not None and not isinstance(data["conformal"], dict):
            raise ModelFileError("'conformal' in the description is neither null nor a JSON object")
        spec = _decode_spec(data["network"])
        classes = data["classes"]
        if set(classes) != {"kind", "count"} or classes["kind"] not in (*LABEL_DTYPES, "str", "object"):
            raise ModelFileError("'classes' in the description must be a known kind and a count")
        if type(classes["count"]) is not int or classes["count"] != spec.n_classes:
            raise ModelFileError(f"there are {classes['count']!r} classes for {spec.n_classes} logits")
        return cls(data, spec, classes["kind"])

    def check_tensors(self, container: Container) -> None:
        """Check the types and shapes of weights and labels before they are read."""
        for name, shape in parameter_shapes(self.spec).items():
            info = container.tensors.get(name)
            if info is None or info.shape != shape or info.dtype.kind != "f":
                given = "is missing" if info is None else f"has dtype {info.dtype} and shape {info.shape}"
                raise ModelFileError(f"tensor {name!r} {given}; expected float32 or float64 of shape {shape}")
        for name, (dtype, expected) in self.class_tensors.items():
            info = container.tensors.get(name)
            if info is None or info.dtype != dtype or len(info.shape) != 1 or expected not in (None, info.shape):
                given = "is missing" if info is None else f"has dtype {info.dtype} and shape {info.shape}"
                raise ModelFileError(f"tensor {name!r} {given}, which does not fit {self.spec.n_classes} classes")


def _check_version(data: Mapping[str, object]) -> None:
    version, created = data.get("format_version"), data.get("created_by")
    if type(version) is not int or version < 1:
        raise ModelFileError(f"its format_version is {str(version)[:40]!r}, not a whole number of at least 1")
    if version > FORMAT_VERSION:
        by = created.get("version") if isinstance(created, dict) else None
        raise ModelFileError(
            f"written by softmaxnet {str(by)[:40]}, format {version}; "
            f"this version reads up to {FORMAT_VERSION}: upgrade"
        )


def _decode_spec(meta: Mapping[str, object]) -> NetworkSpec:
    """Return the network's shape, every size within bounds."""
    names = {part.name for part in fields(NetworkSpec)}
    if set(meta) != names:
        raise ModelFileError(f"'network' must have exactly {', '.join(sorted(names))}")
    hidden = meta["hidden_layer_sizes"]
    if not isinstance(hidden, list) or len(hidden) > MOST_LAYERS:
        raise ModelFileError(f"'hidden_layer_sizes' must be a list of at most {MOST_LAYERS} sizes")
    sizes = {name: meta[name] for name in names - {"hidden_layer_sizes", "activation", "output"}}
    least = {"n_classes": 1, "n_members": 1}
    for name, size in [*sizes.items(), *(("hidden_layer_sizes", size) for size in hidden)]:
        low = least.get(name, int(name == "hidden_layer_sizes"))
        if type(size) is not int or not low <= size <= MOST_UNITS:
            raise ModelFileError(f"{name!r} in the description must be a whole number from {low}. Got {size!r:.40}")
    if not isinstance(meta["activation"], str) or meta["activation"] not in ACTIVATIONS:
        raise ModelFileError(f"the activation {meta['activation']!r:.40} is not one of {', '.join(ACTIVATIONS)}")
    if meta["output"] not in ("softmax", "sigmoid"):
        raise ModelFileError(f"the output {meta['output']!r:.40} is neither 'softmax' nor 'sigmoid'")
    if (sizes["n_frequencies"] == 0) != (sizes["embedding_size"] == 0):
        raise ModelFileError("'n_frequencies' and 'embedding_size' must both be 0, or neither")
    return NetworkSpec(**{**meta, "hidden_layer_sizes": tuple(hidden)})  # type: ignore[arg-type]


# --- opening ------------------------------------------------------------------------------------------------


@contextmanager
def _opened(source: Source) -> Iterator[tuple[BinaryIO, int]]:
    """Open what may be a model and say how long it is; errors get its name."""
    try:
        with _open(source) as file:
            n_bytes = file.seek(0, io.SEEK_END)
            try:
                yield file, n_bytes
            except MemoryError:
                raise ResourceError(f"not enough memory for a model of {n_bytes:,} bytes") from None
            except ModelFileError as error:
                told = "damaged" in error.message or "upgrade" in error.message
                if not told and is_damaged(file, n_bytes):
                    raise ModelFileError(
                        f"the file is damaged ({error.message.rstrip('.')}).",
                        hint="Copy it again from where it was made.",
                    ) from None
                raise
    except (ModelFileError, ResourceError) as error:
        if error.file is None:
            error.file = _name(source)
        raise
    except FileNotFoundError:
        raise ModelFileError("no such file", file=_name(source)) from None
    except OSError as error:
        raise ResourceError(f"cannot be read: {error.strerror or error}", file=_name(source)) from None


@contextmanager
def _open(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, bytes | bytearray | memoryview):
        yield io.BytesIO(source)
    elif not isinstance(source, str | os.PathLike):
        if not hasattr(source, "read"):
            raise UsageError(f"a model is read from a path, bytes or a binary file. Got {type(source).__name__}.")
        yield source if source.seekable() and hasattr(source, "readinto") else io.BytesIO(source.read())
    else:
        try:
            path = Path(source).expanduser()
            mode = path.stat().st_mode
        except ValueError as error:  # a NUL in the name
            raise ModelFileError(f"not a usable path: {error}") from None
        if not stat.S_ISREG(mode):  # opening a pipe could wait for ever
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise ModelFileError(f"not a softmaxnet model: it is {kind}")
        with open(path, "rb") as file:
            yield file


def _name(source: Source) -> str | None:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else None
