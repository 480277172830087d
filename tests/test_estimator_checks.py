"""scikit-learn's own estimator checks, none of them expected to fail."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from softmaxnet.estimator import SoftmaxClassifier


@pytest.mark.filterwarnings("default")
@parametrize_with_checks([SoftmaxClassifier()])
def test_scikit_learn_check(estimator, check):
    """The estimator passes a check of the installed scikit-learn."""
    check(estimator)
