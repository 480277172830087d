"""JSON lines, Parquet, .npz, IDX and images: what they give, and every way in which they can be bad."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import softmaxnet.data.images as images
from softmaxnet.data.dataset import BadRowLog
from softmaxnet.data.files import read_dataset
from softmaxnet.data.jsonlines import _careful, _quick
from softmaxnet.errors import DataError, UsageError

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"


def failing(path: Path, **options: Any) -> DataError:
    """Return the DataError that reading raises."""
    with pytest.raises(DataError) as caught:
        read_dataset(path, **options)
    assert caught.value.file is not None
    assert "\n" not in str(caught.value)
    return caught.value


# JSON lines


@pytest.mark.parametrize("name", ["d.jsonl", "d.ndjson", "d.txt", "d.jsonl.gz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    """Types are those of the values, absent and null are missing, a string that looks like a date is one."""
    text = b'{"a": 1, "t": "2024-01-01", "y": "u"}\n{"a": 2.5, "y": "v", "b": true, "t": null}\n\n'
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    data = read_dataset(tmp_path / name, target="y")
    assert data.X.to_pydict() == {"a": [1.0, 2.5], "t": ["2024-01-01", None], "b": [None, True]}
    assert data.y is not None
    assert data.row_lines is not None
    assert (data.y.tolist(), data.row_lines.tolist()) == (["u", "v"], [1, 2])
    assert data.reader == {"format": "jsonl"}


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (b"", None, "empty"),
        (b'{"a": 1, "y": 1}\n{"a": 2\n', 2, "not JSON"),
        (b'{"a": 1, "y": 1}\n\n{"a": 2, "y": 1}\n', 2, "blank line"),
        (b'{"a": 1, "y": 1}\n[1]\n', 2, "found a list"),
        (b'{"a": 1, "y": 1}\n{"a": [1], "y": 1}\n', 2, "'a' holds a list"),
        (b'{"a": {"b": 1}, "y": 1}\n', 1, "'a' holds an object"),
        (b'{"a": 1, "y": 1}\n{"a": 1, "a": 2, "y": 1}\n', 2, "'a' is there twice"),
        (b'{"a": 1, "y": 1}\n{"a": "\xe9", "y": 1}\n', 2, "not UTF-8: byte 0xE9"),
        (b'{"a": 1, "y": 1} {"a": 1, "y": 1}\n', 1, "Extra data"),
        (b'{"a": 1,\n"y": 1}\n', 1, "not JSON"),
        (b'{"a": 1, "y": 1}\n{"a": ' + b"[" * 100_000 + b"\n", 2, "not JSON"),
        (b'{"a": 1, "y": 1}\n{"a": 2, "y": null}\n', 2, "the label is missing"),
        (b"{}\n", 1, "no names"),
    ],
)
def test_bad_json_lines(tmp_path: Path, content: bytes, line: int | None, words: str) -> None:
    """Every fault names its line."""
    (tmp_path / "d.jsonl").write_bytes(content)
    error = failing(tmp_path / "d.jsonl", target="y")
    assert error.line == line
    assert words in error.message


def test_bad_json_rows_are_skipped_or_kept(tmp_path: Path) -> None:
    """A line that cannot be read is dropped, or keeps its place with nulls."""
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"a": 1, "y": 1}\nx\n{"a": 3, "y": 2}\n')
    skipped = read_dataset(path, target="y", on_bad_row="skip")
    assert skipped.X["a"].to_pylist() == [1, 3]
    assert skipped.row_lines is not None
    assert skipped.row_lines.tolist() == [1, 3]
    kept = read_dataset(path, target="y", on_bad_row="keep")
    assert kept.X["a"].to_pylist() == [1, None, 3]
    assert [(bad.row, bad.line) for bad in kept.bad_rows] == [(1, 2)]


def test_mixed_types_become_strings(tmp_path: Path) -> None:
    """A column of numbers and strings, or of bools and numbers, is one of strings."""
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"a": 1, "b": true, "y": 1}\n{"a": "x", "b": 2, "y": 2}\n')
    assert read_dataset(path, target="y").X.to_pydict() == {"a": ["1", "x"], "b": ["true", "2"]}


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries({"a": VALUES}, optional={"b": st.text('ab-0\u00e9"\\,1:T', max_size=10)}),
        min_size=1,
    )
)
def test_both_readers_agree(records: list[dict[str, Any]]) -> None:
    """What Arrow reads at once and what Python reads line by line are the same table."""
    lines = [json.dumps(record).encode() for record in records]
    quick = _quick(b"\n".join(lines), len(lines))
    if quick is None:
        return
    data = b"".join(lines)
    stops = np.cumsum([len(line) for line in lines]).tolist()
    careful, _ = _careful(data, [0, *stops[:-1]], stops, "x", BadRowLog())
    assert quick.to_pydict() == careful.to_pydict()


# Parquet


def test_parquet_file_and_folder(tmp_path: Path) -> None:
    """Types are kept; a folder is read in the order of its paths, with its partition keys as columns."""
    table = pa.table({"a": [1, None], "s": ["x", "y"], "y": pa.array(["u", "v"]).dictionary_encode()})
    pyarrow.parquet.write_table(table, tmp_path / "one.parquet")
    data = read_dataset(tmp_path / "one.parquet", target="y")
    assert data.X.to_pydict() == {"a": [1, None], "s": ["x", "y"]}
    assert data.y is not None
    assert data.y.tolist() == ["u", "v"]
    for k in ("2", "1"):
        (tmp_path / "set" / f"k={k}").mkdir(parents=True)
        pyarrow.parquet.write_table(table, tmp_path / "set" / f"k={k}" / "part.parquet")
    (tmp_path / "set" / "_SUCCESS").touch()
    folder = read_dataset(tmp_path / "set", target="y")
    assert folder.X["k"].to_pylist() == ["1", "1", "2", "2"]
    assert folder.place(3)[0].endswith(str(Path("k=2") / "part.parquet"))
    assert folder.reader == {"format": "parquet"}


def test_parquet_parts_must_agree(tmp_path: Path) -> None:
    """Integers beside floats are floats; another column or an unlike type is refused with the file."""
    pyarrow.parquet.write_table(pa.table({"a": [1], "y": [1]}), tmp_path / "1.parquet")
    pyarrow.parquet.write_table(pa.table({"y": [2], "a": [2.5]}), tmp_path / "2.parquet")
    assert read_dataset(tmp_path, target="y").X.to_pydict() == {"a": [1.0, 2.5]}
    pyarrow.parquet.write_table(pa.table({"a": ["x"], "y": [1]}), tmp_path / "3.parquet")
    assert "do not fit" in failing(tmp_path, target="y").message
    pyarrow.parquet.write_table(pa.table({"b": [1], "y": [1]}), tmp_path / "3.parquet")
    assert "lacks the column 'a'" in failing(tmp_path, target="y").message


def test_bad_parquet(tmp_path: Path) -> None:
    """Cut, damaged, empty files and strings that are not UTF-8 are DataErrors."""
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(pa.table({"a": list(range(1000)), "y": [1] * 1000}), path)
    whole = path.read_bytes()
    for data in (whole[:-20], whole[:50], b"PAR1", b"no parquet", whole[:8] + b"\xff" * 40 + whole[48:]):
        path.write_bytes(data)
        failing(path, target="y")
    pyarrow.parquet.write_table(pa.table({"a": pa.array([], pa.int64())}), path)
    assert "no rows" in failing(path, target="a").message
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    pyarrow.parquet.write_table(pa.table({"a": bad, "y": [1]}), path)
    failing(path, target="y")


# npz


def test_npz(tmp_path: Path) -> None:
    """X, y and sample_weight are read; text is a table; predicting needs no y."""
    path = tmp_path / "d.npz"
    X = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez_compressed(path, X=X, y=np.array(["a", "b", "a"]), sample_weight=[1, 2, 3], other=np.zeros(9))
    data = read_dataset(path)
    assert data.X.dtype == np.float32
    assert data.X.tolist() == X.tolist()
    assert data.y is not None
    assert data.sample_weight is not None
    assert (data.y.tolist(), data.sample_weight.tolist()) == (["a", "b", "a"], [1.0, 2.0, 3.0])
    np.savez(path, X=np.zeros((2, 3, 3), np.uint8))
    assert read_dataset(path, need_target=False).X.shape == (2, 9)
    assert "no array y" in failing(path).message
    np.savez(path, X=np.array(["a text", "b"]), y=[0, 1])
    assert read_dataset(path).X.to_pydict() == {"text": ["a text", "b"]}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"Z": np.zeros(2)}, "this one holds Z"),
        ({"X": np.zeros((2, 2)), "y": np.zeros(3)}, "y must have the shape (2,)"),
        ({"X": np.zeros(2), "y": np.zeros(2)}, "Expected 2D"),
        ({"X": np.zeros((0, 2)), "y": np.zeros(0)}, "no rows"),
        ({"X": np.array([[object()]]), "y": [1]}, "Python objects"),
        ({"X": np.zeros((2, 2)), "y": np.array(["a", 1], dtype=object)}, "Python objects"),
        ({"X": np.zeros((2, 2)), "y": [1.0, np.nan]}, "is missing"),
        ({"X": np.zeros((2, 2)), "y": [1, 2], "sample_weight": [1, -1]}, "sample_weight[1] is -1.0"),
        ({"X": np.zeros((2, 2)), "y": [1, 2], "sample_weight": ["a", "b"]}, "must be numbers"),
    ],
)
def test_bad_npz(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    """Objects are never unpickled; wrong names and shapes are named."""
    np.savez(tmp_path / "d.npz", **arrays)
    assert words in failing(tmp_path / "d.npz").message


def npy(header: str, body: bytes = b"") -> bytes:
    """Return a .npy file with any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


@pytest.mark.parametrize(
    "member",
    [
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2)}", b"\0" * 16),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2)}", b"\0" * 16),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2)}", b"\0" * 16),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1)}", b"cos\nsystem\n(S'x'\ntR."),
        npy("__import__('os')", b""),
        npy("{'descr': 'zz', 'fortran_order': False, 'shape': (1, 1)}", b""),
        b"\x93NUMPY",
        b"",
    ],
)
def test_hostile_npz(tmp_path: Path, member: bytes) -> None:
    """Headers that lie about sizes or types are refused before anything is allocated."""
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("X.npy", member)
        archive.writestr("y.npy", member)
    failing(tmp_path / "d.npz")


def test_npz_damage(tmp_path: Path) -> None:
    """A cut archive, a flipped bit and two arrays of one name are DataErrors."""
    path = tmp_path / "d.npz"
    np.savez_compressed(path, X=np.random.default_rng(0).random((50, 4)), y=np.arange(50) % 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    failing(path)
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    failing(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("X.npy", b"")
    assert "two arrays" in failing(path).message


# IDX


def idx(array: np.ndarray) -> bytes:
    """Return an array of bytes in IDX format."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
LABELS = np.array([7, 0, 7, 9], dtype=np.uint8)


def write_idx(
    folder: Path, part: str = "train", dot: str = "-", pack: Callable[[bytes], bytes] | None = None
) -> None:
    """Write images and labels of one part."""
    ending = ".gz" if pack else ""
    for kind, array, n in (("images", PIXELS, 3), ("labels", LABELS, 1)):
        data = idx(array)
        (folder / f"{part}-{kind}{dot}idx{n}-ubyte{ending}").write_bytes(pack(data) if pack else data)


@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("pack", [None, gzip.compress])
def test_idx(tmp_path: Path, dot: str, pack: Callable[[bytes], bytes] | None) -> None:
    """Images are rows of bytes, labels int64; part picks the files; the arrays may be written to."""
    write_idx(tmp_path, "train", dot, pack)
    write_idx(tmp_path, "t10k", dot, pack)
    for part in ("train", "test"):
        data = read_dataset(tmp_path, part=part)
        assert data.X.dtype == np.uint8
        assert data.X.tolist() == PIXELS.reshape(4, 6).tolist()
        assert data.X.flags.writeable
        assert data.y is not None
        assert (data.y.tolist(), data.y.dtype) == ([7, 0, 7, 9], np.int64)
        assert data.reader == {"format": "idx", "image_shape": [2, 3]}


def test_idx_parts_that_are_missing(tmp_path: Path) -> None:
    """A missing file is named; predicting needs no labels."""
    write_idx(tmp_path)
    assert "t10k-images-idx3-ubyte" in failing(tmp_path, part="test").message
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert "train-labels-idx1-ubyte" in failing(tmp_path).message
    assert read_dataset(tmp_path, need_target=False).y is None
    with pytest.raises(UsageError, match="no named columns"):
        write_idx(tmp_path)
        read_dataset(tmp_path, target="digit")


def packed(data: bytes) -> bytes:
    """Gzip without the time of day, which would be part of the test's name and differ between test processes."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "begins with nothing"),
        (idx(LABELS), "not an IDX file of 3 dimensions"),
        (idx(PIXELS)[:10], "header is cut off"),
        (idx(PIXELS)[:-1], "only 23 are there"),
        (idx(PIXELS) + b"x", "there are more"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "has only 16"),
        (b"\0\0\x08\x03" + struct.pack(">3I", 0, 2, 3), "no image"),
        (packed(idx(PIXELS))[:-12], "truncated"),
        (packed(idx(PIXELS))[:-4] + b"\0\0\0\0", "damaged"),
        (packed(b"\0\0\x08\x03" + struct.pack(">3I", 60000, 28, 28) + b"\0" * 10**6), "60000x28x28"),
        (idx(PIXELS[:3]), "4 labels for the 3 images"),
    ],
)
def test_bad_idx(tmp_path: Path, data: bytes, words: str) -> None:
    """Another magic number, a size that is not the header's, other counts: each is said."""
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    assert words in failing(tmp_path).message


@pytest.mark.skipif(not MNIST.is_dir(), reason="the MNIST folder is not there")
def test_mnist() -> None:
    """MNIST has 60,000 and 10,000 images of 28 x 28; the first digits are 5 0 4 and 7 2 1."""
    train, test = read_dataset(MNIST), read_dataset(MNIST, part="test")
    assert (train.X.shape, test.X.shape) == ((60_000, 784), (10_000, 784))
    assert train.y is not None
    assert test.y is not None
    assert (train.y[:3].tolist(), test.y[:3].tolist()) == ([5, 0, 4], [7, 2, 1])


# Images

pillow = pytest.importorskip("PIL.Image")


def save(path: Path, image: Any, **options: Any) -> Path:
    """Write an image given as an array or a Pillow image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, np.ndarray):
        image = pillow.fromarray(image)
    image.save(path, **options)
    return path


GREY = np.arange(20, dtype=np.uint8).reshape(4, 5) * 10


def test_image_folder(tmp_path: Path) -> None:
    """Images are rows of pixels in the order of their paths, the folder is the label, digits are integers."""
    save(tmp_path / "b" / "1.png", GREY)
    save(tmp_path / "a" / "2.PNG", GREY.T[:4, :4].repeat(2, 1)[:, :5])
    (tmp_path / "a" / ".DS_Store").touch()
    (tmp_path / "README.txt").touch()
    data = read_dataset(tmp_path)
    assert data.y is not None
    assert (data.X.shape, data.X.dtype, data.y.tolist()) == ((2, 20), np.uint8, ["a", "b"])
    assert data.X[1].tolist() == GREY.ravel().tolist()
    assert data.reader == {"format": "images", "image_shape": [4, 5]}
    assert data.place(0)[0].endswith("2.PNG")
    save(tmp_path / "digits" / "3" / "x.png", GREY)
    save(tmp_path / "digits" / "10" / "x.png", GREY)
    digits = read_dataset(tmp_path / "digits").y
    assert digits is not None
    assert digits.tolist() == [10, 3]


def test_image_parts(tmp_path: Path) -> None:
    """Folders train and test are the two parts."""
    save(tmp_path / "train" / "a" / "1.png", GREY)
    save(tmp_path / "test" / "b" / "1.png", GREY)
    for part, label in (("train", "a"), ("test", "b")):
        y = read_dataset(tmp_path, part=part).y
        assert y is not None
        assert y.tolist() == [label]


def test_images_without_classes(tmp_path: Path) -> None:
    """A flat folder and a single image have no labels: for predicting, not for learning."""
    path = save(tmp_path / "x.png", GREY)
    for place in (tmp_path, path):
        data = read_dataset(place, need_target=False)
        assert data.y is None
        assert data.X.tolist() == [GREY.ravel().tolist()]
        assert "no labels" in failing(place).message


def test_sizes_and_colours(tmp_path: Path) -> None:
    """The most frequent size, colour where any image has it, at most 128 pixels a side; or as told."""
    save(tmp_path / "a" / "1.png", np.full((4, 5), 100, np.uint8))
    save(tmp_path / "a" / "2.png", np.full((4, 5), 100, np.uint8))
    save(tmp_path / "a" / "3.png", np.full((8, 10), 100, np.uint8))
    grey = read_dataset(tmp_path)
    assert grey.reader["image_shape"] == [4, 5]
    assert np.all(grey.X == 100)
    save(tmp_path / "a" / "4.png", np.full((4, 5, 3), (255, 0, 0), np.uint8))
    colour = read_dataset(tmp_path)
    assert colour.reader["image_shape"] == [4, 5, 3]
    assert colour.X[3].reshape(4, 5, 3)[0, 0].tolist() == [255, 0, 0]
    told = read_dataset(tmp_path, reader={"image_shape": [2, 2]})
    assert told.X.shape == (4, 4)
    big = save(tmp_path / "big.png", np.zeros((512, 256), np.uint8))
    assert read_dataset(big, need_target=False).reader["image_shape"] == [128, 64]
    for shape in ([0, 2], [2], [2, 2, 4], ["2", 2], [10**6, 10**6]):
        with pytest.raises(UsageError, match="image_shape"):
            read_dataset(tmp_path, reader={"image_shape": shape})


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (np.full((2, 2), 40_000, np.uint16), "x.png", [40_000 >> 8] * 4),
        (pillow.new("1", (2, 2), 1), "x.png", [255] * 4),
        (pillow.new("LA", (2, 2), (10, 0)), "x.png", [255] * 4),
        (pillow.new("LA", (2, 2), (10, 255)), "x.png", [10] * 4),
        (pillow.new("RGBA", (1, 1), (9, 9, 9, 0)), "x.png", [255] * 3),
        (pillow.new("L", (2, 2), 77).convert("P"), "x.png", [77] * 4),
        (pillow.new("CMYK", (2, 2), (0, 0, 0, 0)), "x.jpg", [255] * 12),
    ],
    ids=["16-bit", "1-bit", "clear", "opaque", "clear-colour", "palette", "cmyk"],
)
def test_modes(tmp_path: Path, image: Any, name: str, expected: list[int]) -> None:
    """Every mode becomes 8-bit grey or colour; what is transparent is white."""
    path = save(tmp_path / name, image)
    assert read_dataset(path, need_target=False).X[0].tolist() == expected


def test_orientation(tmp_path: Path) -> None:
    """A photograph with an EXIF orientation is turned upright."""
    exif = pillow.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    path = save(tmp_path / "x.png", GREY, exif=exif)
    data = read_dataset(path, need_target=False)
    assert data.reader["image_shape"] == [5, 4]
    assert data.X[0].reshape(5, 4).tolist() == np.rot90(GREY, -1).tolist()


def png_of(width: int, height: int) -> bytes:
    """Return a small PNG whose header claims any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def encoded(image: Any, kind: str, **options: Any) -> bytes:
    """Return an image's file."""
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


NOISE = pillow.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (png_of(30_000, 30_000), "pixels; at most 67,108,864"),
        (png_of(10_000, 9_500), "pixels; at most 67,108,864"),
        (png_of(9_000, 9_000), "9000 x 9000 pixels; at most"),
        (png_of(0, 0), "damaged"),
        (encoded(NOISE, "PNG")[:1000], "damaged"),
        (encoded(NOISE, "JPEG")[:800], "damaged"),
        (encoded(NOISE, "GIF"), "it is GIF"),
        (encoded(NOISE, "BMP"), "it is BMP"),
        (encoded(NOISE, "TIFF"), "it is TIFF"),
        (encoded(NOISE, "PNG", save_all=True, append_images=[NOISE.rotate(90)]), "animated"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"SIMPLE  =                    T", "another format"),
        (b"", "an empty file"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"\xff\xd8\xff", "damaged"),
    ],
)
def test_bad_images(tmp_path: Path, data: bytes, words: str) -> None:
    """What is no whole PNG or JPEG of a sane size is refused with its path, and can be skipped or kept."""
    save(tmp_path / "a" / "1.png", GREY)
    bad = tmp_path / "a" / "2.png"
    bad.write_bytes(data)
    save(tmp_path / "b" / "3.png", GREY)
    error = failing(tmp_path)
    assert words in error.message
    assert error.file == str(bad)
    skipped = read_dataset(tmp_path, on_bad_row="skip")
    assert skipped.y is not None
    assert (skipped.y.tolist(), [one.file for one in skipped.bad_rows]) == (["a", "b"], [str(bad)])
    kept = read_dataset(tmp_path, on_bad_row="keep")
    assert (kept.X.shape, [one.row for one in kept.bad_rows]) == ((3, 20), [1])
    assert kept.X[1].tolist() == [0] * 20


def test_other_images_are_not_left_out(tmp_path: Path) -> None:
    """An image of another format among the classes is an error, never silently passed over."""
    save(tmp_path / "a" / "1.png", GREY)
    (tmp_path / "a" / "2.gif").write_bytes(encoded(NOISE, "GIF"))
    assert "it is GIF" in failing(tmp_path).message


def test_pillow_limits_are_untouched(tmp_path: Path) -> None:
    """Reading changes no setting of Pillow."""
    before = pillow.MAX_IMAGE_PIXELS
    read_dataset(save(tmp_path / "x.png", GREY), need_target=False)
    assert before == pillow.MAX_IMAGE_PIXELS
    assert before > images.MAX_IMAGE_PIXELS


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from(
        [b"PAR1", b"PK\x03\x04", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x89PNG\r\n\x1a\n", b"{"]
    ),
    rest=st.binary(max_size=80),
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, start: bytes, rest: bytes) -> None:
    """Whatever follows a known beginning, the answer is a data set or a DataError."""
    path = tmp_path / "any"
    path.write_bytes(start + rest)
    for policy in ("fail", "keep"):
        try:
            read_dataset(path, need_target=False, on_bad_row=policy)  # type: ignore[arg-type]
        except DataError:
            continue
