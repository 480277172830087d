"""Act on probabilities: call a doctor's attention to the scans for which guessing wrong would cost most.

Run it with ``python examples/calibrated_decisions.py``; the data come with scikit-learn.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from softmaxnet import SoftmaxClassifier

COSTS = {
    "benign": {"send home": 0.0, "treat": 50.0, "second scan": 1.0},
    "malignant": {"send home": 200.0, "treat": 0.0, "second scan": 5.0},
}
"""What each decision costs for each true class; a second scan is the way to abstain, dearer where it delays help."""


def main() -> None:
    """Fit, then decide by expected cost rather than by the most probable class."""
    data = load_breast_cancer(as_frame=True)
    diagnosis = data.target.map({0: "malignant", 1: "benign"})
    X_train, X_test, y_train, y_test = train_test_split(data.data, diagnosis, random_state=0, stratify=diagnosis)

    clf = SoftmaxClassifier(random_state=0).fit(X_train, y_train)
    decisions, expected = clf.decide(X_test, COSTS)
    naive = np.where(clf.predict(X_test) == "malignant", "treat", "send home")

    print(f"test accuracy {clf.score(X_test, y_test):.1%}")
    print(f"expected cost of the decisions {expected.sum():.0f}")
    for name, chosen in (("most probable class", naive), ("lowest expected cost", decisions)):
        cost = sum(COSTS[truth][decision] for truth, decision in zip(y_test, chosen, strict=True))
        counts = ", ".join(f"{decision} {int((chosen == decision).sum())}" for decision in COSTS["benign"])
        print(f"{name:<22} {counts}; it cost {cost:.0f}")


if __name__ == "__main__":
    main()
