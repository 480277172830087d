"""Act on probabilities: call a doctor's attention to the scans for which guessing wrong would cost most.

Run it with ``python examples/calibrated_decisions.py``; the data come with scikit-learn.
"""

from __future__ import annotations

from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from softmaxnet import SoftmaxClassifier

COST_OF_MISSING = 20.0
"""A malignant tumour that is sent home costs this many times what a needless second look costs."""


def main() -> None:
    """Fit, then decide by expected cost rather than by the most probable class."""
    data = load_breast_cancer(as_frame=True)
    diagnosis = data.target.map({0: "malignant", 1: "benign"})
    X_train, X_test, y_train, y_test = train_test_split(data.data, diagnosis, random_state=0, stratify=diagnosis)

    clf = SoftmaxClassifier(random_state=0).fit(X_train, y_train)
    malignant = clf.predict_proba(X_test)[:, list(clf.classes_).index("malignant")]

    # Looking again costs 1, sending home costs 20 times the probability of being wrong: look where p > 1 / 20.
    look_again = malignant * COST_OF_MISSING > 1
    truth = (y_test == "malignant").to_numpy()
    print(f"test accuracy {clf.score(X_test, y_test):.1%}")
    print(f"expected number of malignant scans {malignant.sum():.1f}, true number {truth.sum()}")
    for name, chosen in (("most probable class", malignant > 0.5), ("lowest expected cost", look_again)):
        cost = (chosen & ~truth).sum() + COST_OF_MISSING * (~chosen & truth).sum()
        print(f"{name:<22} looks again at {chosen.sum():3d}, misses {(~chosen & truth).sum()}, costs {cost:.0f}")


if __name__ == "__main__":
    main()
