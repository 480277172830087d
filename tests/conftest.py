"""One thread and a fixed seed for every test, so that results are the same on every machine."""

from __future__ import annotations

import os

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, so that a change is judged by itself; HYPOTHESIS_PROFILE=search looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture
def rng():
    """Return a seeded generator."""
    import numpy as np

    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_seeds():
    """Seed the generator that estimators without a random_state draw from, so that a test has one outcome."""
    import numpy as np

    np.random.seed(0)  # noqa: NPY002


@pytest.fixture(autouse=True)
def _printing_as_before():
    """Put NumPy's print options back: an example in the documentation may change them for the ones that follow."""
    import numpy as np

    with np.printoptions():
        yield


@pytest.fixture
def sm(capsys):
    """Return a function that runs the command line in this process."""
    from command_line import Result
    from softmaxnet.cli import main

    def run(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run
