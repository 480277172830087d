"""Search settings with scikit-learn's GridSearchCV, by the log loss of cross-validated probabilities.

The defaults are rarely far from the best; this is how to find out. Run it with ``python examples/grid_search.py``; the
data come with scikit-learn.
"""

from __future__ import annotations

from sklearn.datasets import load_wine
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, train_test_split

from softmaxnet import SoftmaxClassifier


def main() -> None:
    """Compare softmax regression with a network, and penalties on its weights."""
    X, y = load_wine(return_X_y=True, as_frame=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)

    # early_stopping=False: each candidate is fitted as told, and GridSearchCV alone holds rows out.
    clf = SoftmaxClassifier(random_state=0, early_stopping=False, max_epochs=300)
    grid = {"hidden_layer_sizes": [(), (16,)], "weight_decay": [0.1, 0.01, 0.001]}
    search = GridSearchCV(clf, grid, scoring="neg_log_loss", cv=3).fit(X_train, y_train)

    results = zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True)
    for settings, score in sorted(results, key=lambda result: -result[1]):
        print(f"log loss {-score:.4f}  {settings}")
    proba = search.predict_proba(X_test)
    accuracy = search.best_estimator_.score(X_test, y_test)
    print(f"best on the test rows: {log_loss(y_test, proba):.4f}, accuracy {accuracy:.1%}")

    default = SoftmaxClassifier(random_state=0).fit(X_train, y_train)
    print(f"default settings:      {log_loss(y_test, default.predict_proba(X_test)):.4f}")


if __name__ == "__main__":
    main()
