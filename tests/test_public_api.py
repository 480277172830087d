"""What the package promises to the outside, no more and no less."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import softmaxnet
from softmaxnet import errors

PUBLIC = [
    "DataError",
    "GateError",
    "ModelFileError",
    "NotTrainedError",
    "ResourceError",
    "SoftmaxClassifier",
    "SoftmaxError",
    "SoftmaxModel",
    "TrainingDivergedError",
    "UsageError",
    "__version__",
    "load_model",
    "save_model",
]


def test_all_is_exactly_the_public_names():
    """``__all__`` is the list above: a name is public when somebody decided so."""
    assert softmaxnet.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(softmaxnet))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name):
    """Each name can be imported, and has a docstring."""
    value = getattr(softmaxnet, name)
    assert name == "__version__" or value.__doc__


def test_other_names_are_not_there():
    """A name that does not exist is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = softmaxnet.nothing


def test_every_error_of_the_tree_is_public():
    """Whoever catches an error can import it from the package."""
    assert set(errors.__all__) <= set(PUBLIC)


def test_each_error_has_its_own_exit_code():
    """Exit codes tell the errors apart, and are those that are documented."""
    codes = {name: getattr(errors, name).exit_code for name in errors.__all__}
    assert codes == {
        "SoftmaxError": 1,
        "UsageError": 2,
        "DataError": 3,
        "ModelFileError": 4,
        "TrainingDivergedError": 5,
        "ResourceError": 6,
        "GateError": 7,
    }


def test_version_is_that_of_the_package():
    """``__version__``, pyproject.toml and the newest entry of the changelog agree."""
    root = Path(__file__).parents[1]
    project = re.search(r'^version = "(.+)"$', (root / "pyproject.toml").read_text(), re.MULTILINE)
    changes = re.search(r"^## \[(\d.+?)\]", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert project is not None
    assert changes is not None
    assert softmaxnet.__version__ == project.group(1) == changes.group(1)


@pytest.mark.parametrize("path", sorted((Path(softmaxnet.__file__).parent).rglob("*.py")), ids=lambda path: path.name)
def test_all_of_every_module_exists(path):
    """What a module lists in ``__all__`` is there."""
    parts = path.relative_to(Path(softmaxnet.__file__).parent).with_suffix("").parts
    name = ".".join(("softmaxnet", *(parts[:-1] if parts[-1] == "__init__" else parts)))
    if name.endswith("__main__"):
        return
    module = importlib.import_module(name)
    assert all(hasattr(module, public) for public in getattr(module, "__all__", []))
