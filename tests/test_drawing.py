"""A drawing becomes a picture like those of the training, however it was drawn."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace

import numpy as np
import pytest

from softmaxnet.calibration import Calibration
from softmaxnet.drawing import area_average, ink_of, picture_style, prepare_drawing, prepare_picture, read_drawing
from softmaxnet.errors import DataError, ModelFileError, UsageError
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.features.ink import ink_box, slant, stroke_width
from softmaxnet.features.picture_style import PictureStyle, measure_style
from softmaxnet.model import SoftmaxModel
from softmaxnet.network import NetworkSpec


def stroke(pen: float = 10, side: int = 280, scale: float = 1.0, at: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """Return a figure like a 7, ink 1 on 0: a bar across and a leg down, drawn with a round pen."""
    from scipy.ndimage import distance_transform_edt

    across = np.stack([np.full(200, -1.0), np.linspace(-0.7, 0.7, 200)], axis=1)
    down = np.stack([np.linspace(-1, 1, 200), np.linspace(0.7, -0.2, 200)], axis=1)
    points = np.concatenate([across, down]) * 90 * scale
    room = side - 2 * (pen + 2) - np.ptp(points, axis=0)
    cells = np.rint(points - points.min(axis=0) + pen + 2 + room * np.array(at)).astype(int)
    empty = np.ones((side, side), dtype=bool)
    empty[cells[:, 0], cells[:, 1]] = False
    return np.clip(pen + 0.5 - distance_transform_edt(empty), 0, 1)


def pictures_like_mnist(n: int = 24) -> np.ndarray:
    """Return pictures (n, 784) with a 20-pixel box in the middle by mass."""
    rng = np.random.default_rng(0)
    made = [prepare_drawing(stroke(rng.uniform(9, 12)), (28, 28)) for _ in range(n)]
    return np.stack([one.ravel() for one in made])


def model_of(encoder: FeatureEncoder, **more: object) -> SoftmaxModel:
    """Return a model that says nothing, around an encoder."""
    params = {"layers.0.weight": np.zeros((1, encoder.n_dense, 2)), "layers.0.bias": np.zeros((1, 2))}
    spec = NetworkSpec(encoder.n_dense, 0, 2)
    return SoftmaxModel(encoder, spec, params, Calibration(), np.array([0, 1]), **more)


@pytest.fixture(scope="module")
def model() -> SoftmaxModel:
    """Return a model of pictures like MNIST's."""
    return model_of(FeatureEncoder.fit(pictures_like_mnist()))


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    """Return pixels as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, "PNG")
    return file.getvalue()


def as_bytes(ink: np.ndarray) -> np.ndarray:
    """Return ink as bytes, 255 where it is full."""
    return np.rint(255 * ink).astype(np.uint8)


# --- the same figure, drawn in many ways ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [
        {"pen": 4},
        {"pen": 20},
        {"scale": 0.4, "pen": 5},
        {"scale": 0.6, "at": (0, 0)},
        {"scale": 0.6, "at": (1, 1)},
        {"side": 600, "scale": 2.5, "pen": 25},
    ],
    ids=str,
)
def test_place_size_and_pen_do_not_matter(model, way):
    """Thin, thick, small, large or in a corner: the model sees nearly the same picture."""
    usual = prepare_picture(model, as_bytes(stroke())).astype(float).ravel()
    other = prepare_picture(model, as_bytes(stroke(**way))).astype(float).ravel()
    assert np.corrcoef(usual, other)[0, 1] > 0.93


def test_polarity_does_not_matter(model):
    """Black on white gives the same bytes as white on black."""
    ink = as_bytes(stroke())
    np.testing.assert_array_equal(prepare_picture(model, ink), prepare_picture(model, 255 - ink))


def test_transparency_is_ground(model):
    """Ink of any colour on a transparent ground is the same drawing: white ink too, which a white page would hide."""
    ink = as_bytes(stroke())
    expected = prepare_picture(model, ink)
    for shade in (0, 255):
        layer = np.full((*ink.shape, 4), shade, dtype=np.uint8)
        layer[:, :, 3] = ink
        np.testing.assert_array_equal(prepare_picture(model, png(layer)), expected)


def test_a_photograph_of_paper(model):
    """Uneven light and noise change little."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:280, 0:280] / 280
    paper = (0.6 + 0.3 * x + 0.1 * y) * (1 - 0.7 * stroke()) + rng.normal(0, 0.02, (280, 280))
    seen = prepare_picture(model, as_bytes(np.clip(paper, 0, 1))).astype(float)
    assert np.corrcoef(seen.ravel(), prepare_picture(model, stroke()).ravel())[0, 1] > 0.95


def test_a_speck_is_no_ink(model):
    """A dot far from the figure does not shrink it."""
    dirty = stroke(scale=0.6)
    dirty[3:6, 3:6] = 1.0
    expected = prepare_picture(model, stroke(scale=0.6)).astype(float)
    assert np.abs(prepare_picture(model, dirty) - expected).mean() < 1.0


def test_the_files_of_a_picture_agree_with_its_pixels(model, tmp_path):
    """Bytes, a path, a Pillow image and an array are the same picture."""
    from PIL import Image

    pixels = as_bytes(stroke())
    path = tmp_path / "drawn.png"
    path.write_bytes(png(pixels))
    expected = prepare_picture(model, pixels)
    for given in (png(pixels), path, str(path), Image.open(path), pixels / 255.0):
        np.testing.assert_array_equal(prepare_picture(model, given), expected)


def test_a_picture_of_the_models_size_is_as_it_is(model):
    """What has the size of a training picture is taken for one."""
    pixels = pictures_like_mnist(1).reshape(28, 28)[::-1]
    np.testing.assert_array_equal(prepare_picture(model, pixels), pixels)


def test_the_box_and_the_centre_are_those_of_mnist(model):
    """The longer side is 20 pixels, the centre of mass in the middle."""
    seen = prepare_picture(model, stroke(scale=0.5, at=(0, 1))) / 255
    box = ink_box(seen)
    assert box is not None
    assert max(box.height, box.width) in (20, 21)
    mass = seen.sum()
    assert abs((seen.sum(axis=1) @ (np.arange(28) + 0.5)) / mass - 14) < 0.3
    assert abs((seen.sum(axis=0) @ (np.arange(28) + 0.5)) / mass - 14) < 0.3


def test_small_pictures_are_filled():
    """Digits of 8 x 8 have their ink from the first row to the last, in 16 shades."""
    seen = prepare_drawing(stroke(), (8, 8), largest=16)
    assert seen.shape == (8, 8)
    assert seen.dtype == np.uint8
    assert 12 <= seen.max() <= 16
    assert seen[0].max() > 4
    assert seen[-1].max() > 4


# --- what cannot be drawn ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_blank_picture_is_refused(model, shade):
    """Nothing drawn is no prediction."""
    with pytest.raises(DataError, match="blank"):
        prepare_picture(model, np.full((280, 280), shade, dtype=np.uint8))


def test_noise_alone_is_blank(model):
    """A photograph of an empty page has no ink."""
    noise = np.random.default_rng(0).normal(0.8, 0.005, (200, 200))
    with pytest.raises(DataError, match="blank"):
        prepare_picture(model, noise)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros(10),
        np.zeros((0, 5)),
        np.zeros((5, 5, 7)),
        np.full((9, 9), np.nan),
        np.full((9, 9), 2.0),
        np.full((9, 9), "a"),
    ],
    ids=["one dimension", "empty", "seven channels", "NaN", "too large", "text"],
)
def test_what_is_no_picture_is_refused(model, pixels):
    """Shapes and values that are not those of a picture raise, and say what is accepted."""
    with pytest.raises(DataError):
        prepare_picture(model, pixels)


def test_a_model_of_rows_takes_no_pictures(rng):
    """A table's model says that it is none of pictures."""
    other = model_of(FeatureEncoder.fit(rng.normal(size=(50, 3))))
    assert picture_style(other) is None
    with pytest.raises(UsageError, match="not one of pictures"):
        prepare_picture(other, stroke())


def test_a_shape_that_is_none_is_refused():
    """A shape has two or three sizes."""
    with pytest.raises(UsageError, match="shape"):
        prepare_drawing(stroke(), (8, 8, 2))


def test_thin_and_tiny_pictures_pass():
    """A dot, a line of one pixel and a picture of a few pixels give a picture, and no warning."""
    dot, line, tiny = np.zeros((50, 50)), np.zeros((50, 50)), np.eye(3)
    dot[20, 30] = line[:, 7] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one in (dot, line, line.T, tiny, np.eye(3)[:, :1]):
            assert prepare_drawing(one, (28, 28)).max() > 0


# --- the style of a training ------------------------------------------------------------------------------------


def test_the_fit_measures_its_pictures(model):
    """The encoder knows unit, polarity, box, centre and strokes of what it was fitted on."""
    style = model.encoder.pictures
    assert style is not None
    assert (style.height, style.width, style.channels, style.full) == (28, 28, 1, 255.0)
    assert not style.dark_ink
    assert style.box in (20.0, 21.0)
    assert style.by_mass
    assert style.stroke is not None
    assert 1 < style.stroke[0] <= style.stroke[1] < 4


def test_training_on_dark_ink_gives_dark_ink():
    """Where the training pictures are black on white, so is what the model sees."""
    dark = model_of(FeatureEncoder.fit(255 - pictures_like_mnist()))
    style = picture_style(dark)
    assert style is not None
    assert style.dark_ink
    seen = prepare_picture(dark, stroke())
    assert seen[0, 0] == 255
    assert seen.min() < 20


def test_photographs_are_only_resized(rng):
    """Pictures without a plain ground have no ink to cut out."""
    from scipy.ndimage import gaussian_filter

    photos = gaussian_filter(rng.random((40, 16, 16)), (0, 3, 3))
    photos = as_bytes((photos - photos.min()) / np.ptp(photos)).reshape(40, -1)
    other = model_of(FeatureEncoder.fit(photos))
    style = picture_style(other)
    assert style is not None
    assert style.box is None
    large = rng.random((64, 64))
    expected = np.rint(area_average(large, (16, 16)) * 255)
    np.testing.assert_array_equal(prepare_picture(other, large), expected)


def test_the_style_survives_the_model_file(model):
    """What the fit measured is plain data and comes back."""
    again = FeatureEncoder.from_state(*model.encoder.to_state())
    assert again.pictures == model.encoder.pictures


def test_a_model_without_a_style_is_taken_for_the_classic_sort(model):
    """A file of an earlier version has no style: its shape and unit are enough for a drawing."""
    meta, tensors = model.encoder.to_state()
    del meta["pictures"]
    old = model_of(FeatureEncoder.from_state(meta, tensors))
    new, was = (prepare_picture(one, stroke()).astype(float).ravel() for one in (model, old))
    assert np.corrcoef(new, was)[0, 1] > 0.95


def test_a_told_shape_that_is_not_square(rng):
    """Pictures of a folder have the shape of its files."""
    encoder = FeatureEncoder.fit(rng.integers(0, 256, (30, 20 * 30)).astype(np.uint8))
    other = model_of(encoder, reader={"format": "images", "image_shape": [20, 30]})
    assert prepare_picture(other, stroke()).shape == (20, 30)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height", 27),
        ("box", 99.0),
        ("stroke", [3.0, 1.0]),
        ("centre", [1.0]),
        ("full", 0),
        ("dark_ink", 1),
        ("slant", None),
    ],
)
def test_a_forged_style_is_refused(model, name, value):
    """A style that does not fit the model's columns is a fault of its file."""
    assert model.encoder.pictures is not None
    meta = model.encoder.pictures.to_state() | {name: value}
    with pytest.raises(ModelFileError):
        PictureStyle.from_state(meta, 784)


def test_measuring_blank_pictures():
    """Pictures without ink have a shape and no box."""
    assert measure_style(np.zeros((5, 64), dtype=np.uint8), (8, 8, 1)).box is None


# --- measures ---------------------------------------------------------------------------------------------------


def test_strokes_are_brought_to_the_width_of_training(model):
    """Thin and thick pens give strokes as wide as those of training, give or take a third."""
    for pen in (3, 22):
        seen = prepare_picture(model, stroke(pen)) / 255
        enlarged = area_average(seen, (224, 224))
        style = picture_style(model)
        assert style is not None
        assert style.stroke is not None
        assert style.stroke[0] / 1.34 < stroke_width(enlarged) / 8 < style.stroke[1] * 1.34


def test_a_slant_beyond_training_is_taken_back():
    """Ink that slants more than the style's pictures is sheared to its limit."""
    from scipy.ndimage import affine_transform

    upright = np.zeros((120, 120))
    upright[20:100, 55:65] = 1
    leaning = affine_transform(upright, [[1, 0], [0.6, 1]], (0, -36), order=1)
    assert slant(leaning) > 0.5
    style = measure_style(pictures_like_mnist(), (28, 28, 1))
    style = replace(style, slant=(-0.1, 0.1), box_widths=(2.0, 20.0))
    assert abs(slant(prepare_drawing(leaning, (28, 28), style=style) / 255)) < 0.2


def test_area_average_keeps_the_mean(rng):
    """Averaging down by any factor keeps the mean of all pixels."""
    picture = rng.random((37, 53))
    np.testing.assert_allclose(area_average(picture, (8, 10)).mean(), picture.mean(), rtol=1e-12)


def test_ink_of_a_gradient_is_not_its_ground():
    """The darker side of a lit page is ground, not ink."""
    lit = np.linspace(0.4, 0.9, 200) + np.zeros((200, 1)) + np.random.default_rng(0).normal(0, 0.01, (200, 200))
    lit[80:120, 95:105] -= 0.3
    ink = ink_of(np.clip(lit, 0, 1))
    assert ink[100, 100] > 0.8
    assert ink[:, :40].max() < 0.3


# --- the command line -------------------------------------------------------------------------------------------


def test_a_drawing_is_read_as_a_row(model, tmp_path):
    """A PNG of another size is prepared; one of the model's size, another file or a folder is left to the readers."""
    path = tmp_path / "drawn.png"
    path.write_bytes(png(as_bytes(stroke())))
    data = read_drawing(path, model)
    assert data is not None
    np.testing.assert_array_equal(data.X[0], prepare_picture(model, stroke()).ravel())
    (tmp_path / "same.png").write_bytes(png(pictures_like_mnist(1).reshape(28, 28)))
    (tmp_path / "rows.csv").write_text("a\n1\n")
    for name in ("same.png", "rows.csv", ".", "absent.png", "-"):
        assert read_drawing(tmp_path / name if name != "-" else "-", model) is None


def test_predict_takes_a_drawing(model, tmp_path, capsys):
    """`softmaxnet predict MODEL drawn.png` writes one row; a blank picture is bad data."""
    from softmaxnet.cli import main
    from softmaxnet.model_file import save_model

    save_model(model, tmp_path / "m.safetensors")
    (tmp_path / "drawn.png").write_bytes(png(as_bytes(stroke())))
    (tmp_path / "blank.png").write_bytes(png(np.zeros((90, 90), dtype=np.uint8)))
    assert main(["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "drawn.png")]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("0,0.5")
    assert main(["predict", str(tmp_path / "m.safetensors"), str(tmp_path / "blank.png")]) == 3
    assert "blank.png" in capsys.readouterr().err
