"""One thread and a fixed seed for every test, so that results are the same on every machine."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def rng():
    """Return a seeded generator."""
    import numpy as np

    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _printing_as_before():
    """Put NumPy's print options back: an example in the documentation may change them for the ones that follow."""
    import numpy as np

    with np.printoptions():
        yield
