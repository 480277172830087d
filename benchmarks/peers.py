"""The methods that are compared: softmaxnet and what a person would use in its place, each at its own defaults.

Every method is told the same thing, a frame, matrix, list of texts or matrix of pixels, and has a ``predict_proba``.
What a peer cannot take as it is (missing values, strings, scales) is prepared for it in the usual way.
"""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, clone


@dataclass(frozen=True)
class Task:
    """What a method may know before it sees rows."""

    kind: str
    seed: int
    threads: int


@dataclass(frozen=True)
class Method:
    """``build(task)`` gives an estimator; ``imports`` are loaded before the clock starts."""

    build: Callable[..., Any]
    kinds: tuple[str, ...]
    imports: tuple[str, ...] = ()


def method_named(name: str) -> tuple[Method, dict[str, Any]]:
    """Return a method and its settings: "softmaxnet:n_members=4:dropout=0.1" is softmaxnet with two of them."""
    base, *settings = name.split(":")
    if base not in METHODS:
        raise SystemExit(f"no method {base!r}; there are {', '.join(METHODS)}")
    return METHODS[base], {key: _literal(value) for key, _, value in (text.partition("=") for text in settings)}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


# --- preparing inputs -----------------------------------------------------------------------------------------


def _is_category(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]


def _is_number(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name])]


def _named(X: Any) -> pd.DataFrame:
    """Return X as a frame with plain column names, strings as objects with NaN for missing."""
    frame = X.copy() if isinstance(X, pd.DataFrame) else pd.DataFrame(X)
    frame.columns = [f"c{i}" for i in range(frame.shape[1])]
    for name in _is_category(frame):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), np.nan)
    return frame


def _scaled(task: Task, *final: Any) -> Any:
    """Return the usual pipeline: impute, scale, one-hot; pixels to 0..1."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    if task.kind == "image":
        return make_pipeline(FunctionTransformer(_unit_pixels), *final)
    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
    )
    columns = make_column_transformer((numbers, _is_number), (OneHotEncoder(handle_unknown="ignore"), _is_category))
    return make_pipeline(FunctionTransformer(_named), columns, *final)


def _unit_pixels(X: np.ndarray) -> np.ndarray:
    return X.astype(np.float32) / 255


class FramePeer(ClassifierMixin, BaseEstimator):
    """A peer that wants a frame with pandas categories: the training levels are remembered for predicting.

    Levels beyond the ``max_levels`` most frequent, and those not seen in training, become missing.
    """

    def __init__(self, estimator: Any, impute: bool = False, max_levels: int | None = None) -> None:
        self.estimator = estimator
        self.impute = impute
        self.max_levels = max_levels

    def fit(self, X: Any, y: np.ndarray) -> FramePeer:
        frame = _named(X)
        self.levels_ = {
            name: pd.CategoricalDtype(sorted(frame[name].value_counts().index[: self.max_levels], key=str))
            for name in _is_category(frame)
        }
        self.medians_ = frame[_is_number(frame)].median().fillna(0.0)
        self.indicated_ = [name for name in self.medians_.index if frame[name].isna().any()]
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.estimator_ = clone(self.estimator).fit(self._prepared(frame), labels)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        return np.asarray(self.estimator_.predict_proba(self._prepared(_named(X))))

    def _prepared(self, frame: pd.DataFrame) -> pd.DataFrame:
        for name, levels in self.levels_.items():
            frame[name] = frame[name].where(frame[name].isin(levels.categories)).astype(levels)
        if self.impute:
            indicators = {f"{name}_missing": frame[name].isna().astype(float) for name in self.indicated_}
            frame = frame.fillna(self.medians_.to_dict()).assign(**indicators)
        return frame


# --- scikit-learn ---------------------------------------------------------------------------------------------


def _prior(task: Task) -> Any:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


def _logistic(task: Task, **settings: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return _scaled(task, LogisticRegression(max_iter=1000, random_state=task.seed, **settings))


def _mlp(task: Task, **settings: Any) -> Any:
    from sklearn.neural_network import MLPClassifier

    return _scaled(task, MLPClassifier(random_state=task.seed, **settings))


def _mlp_early(task: Task) -> Any:
    return _mlp(task, early_stopping=True)


def _boosting(task: Task, **settings: Any) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    boosting = HistGradientBoostingClassifier(random_state=task.seed, **settings)
    return boosting if task.kind == "image" else FramePeer(boosting, max_levels=254)


def _calibrated(base: Callable[[Task], Any]) -> Callable[[Task], Any]:
    def build(task: Task) -> Any:
        from sklearn.calibration import CalibratedClassifierCV

        return CalibratedClassifierCV(base(task), method="temperature")

    return build


def _tfidf(task: Task, *final: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    return make_pipeline(TfidfVectorizer(), *final)


def _tfidf_logistic(task: Task) -> Any:
    from sklearn.linear_model import LogisticRegression

    return _tfidf(task, LogisticRegression(max_iter=1000, random_state=task.seed))


def _tfidf_mlp(task: Task) -> Any:
    from sklearn.neural_network import MLPClassifier

    return _tfidf(task, MLPClassifier(early_stopping=True, random_state=task.seed))


def _tfidf_svm(task: Task) -> Any:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import LinearSVC

    return _tfidf(task, CalibratedClassifierCV(LinearSVC(random_state=task.seed), method="temperature"))


# --- others ---------------------------------------------------------------------------------------------------


def _lightgbm(task: Task) -> Any:
    from lightgbm import LGBMClassifier

    return FramePeer(LGBMClassifier(n_jobs=task.threads, random_state=task.seed, verbose=-1))


def _realmlp(task: Task) -> Any:
    from pytabkit import RealMLP_TD_Classifier

    settings = {"device": "cpu", "n_threads": task.threads, "random_state": task.seed}
    return FramePeer(RealMLP_TD_Classifier(val_metric_name="cross_entropy", use_ls=False, **settings), impute=True)


def _tabm(task: Task) -> Any:
    from pytabkit import TabM_D_Classifier

    settings = {"device": "cpu", "n_threads": task.threads, "random_state": task.seed}
    return FramePeer(TabM_D_Classifier(val_metric_name="cross_entropy", **settings), impute=True)


class FastText:
    """fastText's supervised mode as it is commonly used: 25 epochs, rate 0.5, word bigrams, rows shuffled."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def fit(self, X: list[str], y: np.ndarray) -> FastText:
        import fasttext

        self.classes_, labels = np.unique(y, return_inverse=True)
        order = np.random.default_rng(self.task.seed).permutation(len(X))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "train.txt")
            path.write_text("".join(f"__label__{labels[i]} {self._words(X[i])}\n" for i in order), encoding="utf-8")
            settings = {"epoch": 25, "lr": 0.5, "wordNgrams": 2, "thread": self.task.threads, "verbose": 0}
            self.model = fasttext.train_supervised(str(path), seed=self.task.seed, **settings)
        return self

    def predict_proba(self, X: list[str]) -> np.ndarray:
        proba = np.zeros((len(X), len(self.classes_)))
        for row, text in zip(proba, X, strict=True):
            for share, label in self.model.f.predict(self._words(text) + "\n", -1, 0.0, "strict"):
                row[int(label.removeprefix("__label__"))] = share
        return proba

    @staticmethod
    def _words(text: str) -> str:
        return " ".join(re.findall(r"\w+|[^\w\s]", text.lower()))


def _softmaxnet(task: Task, **settings: Any) -> Any:
    from softmaxnet.estimator import SoftmaxClassifier

    return SoftmaxClassifier(random_state=task.seed, **settings)


ROWS = ("table", "image")
METHODS: dict[str, Method] = {
    "prior": Method(_prior, ("table", "image", "text"), ("sklearn.dummy",)),
    "softmaxnet": Method(_softmaxnet, ("table", "image", "text"), ("softmaxnet.estimator", "torch")),
    "logistic": Method(_logistic, ROWS, ("sklearn.linear_model",)),
    "mlp": Method(_mlp, ROWS, ("sklearn.neural_network",)),
    "mlp_early": Method(_mlp_early, ROWS, ("sklearn.neural_network",)),
    "boosting": Method(_boosting, ROWS, ("sklearn.ensemble",)),
    "logistic_temperature": Method(_calibrated(_logistic), ROWS, ("sklearn.calibration",)),
    "mlp_temperature": Method(_calibrated(_mlp), ROWS, ("sklearn.calibration", "sklearn.neural_network")),
    "boosting_temperature": Method(_calibrated(_boosting), ROWS, ("sklearn.calibration", "sklearn.ensemble")),
    "lightgbm": Method(_lightgbm, ROWS, ("lightgbm",)),
    "realmlp": Method(_realmlp, ROWS, ("pytabkit",)),
    "tabm": Method(_tabm, ROWS, ("pytabkit",)),
    "fasttext": Method(FastText, ("text",), ("fasttext",)),
    "tfidf_logistic": Method(_tfidf_logistic, ("text",), ("sklearn.linear_model",)),
    "tfidf_mlp": Method(_tfidf_mlp, ("text",), ("sklearn.neural_network",)),
    "tfidf_svm": Method(_tfidf_svm, ("text",), ("sklearn.svm",)),
}
