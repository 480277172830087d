"""The adapter to Ray, on a real local Ray: a fit in two workers is that of one process, predictions are those of it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch")
ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'softmaxnet[ray]'")
train = pytest.importorskip("ray.train", reason="Ray Train is not installed: pip install 'softmaxnet[ray]'")
pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install 'softmaxnet[ray]'")

import softmaxnet.ray
from softmaxnet.errors import DataError, UsageError
from softmaxnet.estimator import SoftmaxClassifier
from softmaxnet.model_file import save_model

pytestmark = [
    pytest.mark.slow,
    # Ray leaves sockets and processes to the collector when it stops.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SETTINGS = {"hidden_layer_sizes": (8,), "precision": "float64", "max_epochs": 3, "random_state": 0, "n_jobs": 1}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray of three processors in this machine, which is shut down at the end."""
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield train.RunConfig(storage_path=str(tmp_path_factory.mktemp("ray")))
    ray.shutdown()


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Rows of three classes with names."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 1500)
    X = rng.normal(size=(1500, 4)) + 1.5 * np.eye(3, 4)[y]
    columns = {name: column for name, column in zip("abcd", X.T, strict=True)}  # noqa: C416 (mypy)
    return pa.table(columns | {"kind": np.array(["low", "middle", "high"])[y]})


@pytest.fixture(scope="module")
def expected(table):
    """The fit of one process."""
    return SoftmaxClassifier(**SETTINGS).fit(table.drop_columns(["kind"]), np.asarray(table["kind"])).model_


def test_two_workers_fit_as_one_process(cluster, table, expected):
    """A Dataset of Ray in two workers of Ray Train gives the model of one process, to rounding."""
    dataset = ray.data.from_arrow(table)
    model = softmaxnet.ray.fit(
        SoftmaxClassifier(**SETTINGS), dataset, target="kind", workers=2, run_config=cluster
    )
    rows = table.drop_columns(["kind"])
    np.testing.assert_allclose(model.predict_proba(rows), expected.predict_proba(rows), rtol=1e-7)


def test_what_a_worker_fails_with_is_raised(cluster, table):
    """Not Ray's error about a worker group, but ours about the rows."""
    rows, labels = table.drop_columns(["kind"]), np.full(table.num_rows, "low")
    with pytest.raises(DataError, match="one class only"):
        softmaxnet.ray.fit(SoftmaxClassifier(**SETTINGS), rows, labels, workers=2, run_config=cluster)


def test_predictions_of_a_dataset_are_those_of_the_model(cluster, table, expected, tmp_path):
    """Label, probability and every class for each row, with the columns asked for in front."""
    path = tmp_path / "m.safetensors"
    save_model(expected, path)
    numbered = table.append_column("number", pa.array(range(table.num_rows)))
    answers = softmaxnet.ray.predict(
        ray.data.from_arrow(numbered), path, proba=True, keep=("number",), batch_size=400
    )
    found = pa.concat_tables(ray.get(answers.to_arrow_refs())).sort_by("number")
    rows = table.drop_columns(["kind"])
    proba = expected.predict_proba(rows)
    assert found.column_names == ["number", "label", "probability", "proba_high", "proba_low", "proba_middle"]
    assert found["label"].to_pylist() == expected.predict(rows).tolist()
    np.testing.assert_array_equal(np.asarray(found["probability"]), proba.max(1))
    np.testing.assert_array_equal(np.asarray(found["proba_low"]), proba[:, 1])


def test_data_without_labels_is_refused(cluster, table):
    """Before any worker is started, with what is missing."""
    clf = SoftmaxClassifier(**SETTINGS)
    with pytest.raises(UsageError, match="y is missing"):
        softmaxnet.ray.fit(clf, table)
    with pytest.raises(UsageError, match="must be named with target"):
        softmaxnet.ray.fit(clf, "rows.csv")
    with pytest.raises(UsageError, match="has no column 'sort'"):
        softmaxnet.ray.fit(clf, ray.data.from_arrow(table), target="sort")
