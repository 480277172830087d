"""Fit through Ray Train and predict through Ray Data: a thin adapter, for a cluster that runs Ray already.

::

    fit      TorchTrainer --> in each worker: SoftmaxClassifier.fit, which joins the workers' process group
    predict  Dataset.map_batches --> in each actor: a model loaded once, without PyTorch

Ray is imported when a function is called. Rows that are given are put into Ray's object store once; every worker sees
all of them and takes its part of each batch. For a table that does not fit in memory, give the path of a file that
every worker can open.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.errors import SoftmaxError, UsageError
from softmaxnet.model import SoftmaxModel
from softmaxnet.model_file import load_model, save_model

if TYPE_CHECKING:
    import pyarrow as pa

    from softmaxnet.estimator import SoftmaxClassifier

__all__ = ["fit", "predict"]

MODEL_NAME = "model.safetensors"


def fit(
    clf: SoftmaxClassifier,
    data: Any,
    y: Any = None,
    *,
    target: str | None = None,
    workers: Any = 2,
    run_config: Any = None,
    **options: Any,
) -> SoftmaxModel:
    """Fit a classifier in several Ray workers and return the model.

    Parameters
    ----------
    clf : SoftmaxClassifier
        Not fitted; it is not changed.
    data : frame, array, ray.data.Dataset, or the path of a file that every worker can open
    y : array-like of shape (n_samples,), where data has no column for it
    target : str, where data is a Dataset or a path
        The column that holds the labels.
    workers : int or ray.train.ScalingConfig, default=2
    run_config : ray.train.RunConfig, optional
        With a ``storage_path`` that all nodes see where there are several. With a ``failure_config`` give also
        ``checkpoint_folder`` and ``resume=True``: workers that Ray starts again then go on from the last checkpoint.
    **options
        As in :meth:`SoftmaxClassifier.fit`; with a path as in :meth:`SoftmaxClassifier.fit_file`. Each line of the
        history is reported to Ray Train.

    Raises
    ------
    UsageError
        For data without labels.
    SoftmaxError
        What a worker failed with.
    """
    import ray
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    rows = _rows(data, y, target)
    trainer = TorchTrainer(
        _in_worker,
        train_loop_config={"clf": clf, "rows": ray.put(rows), "options": options},
        scaling_config=ScalingConfig(num_workers=workers) if isinstance(workers, int) else workers,
        torch_config=TorchConfig(backend="gloo"),
        run_config=run_config,
    )
    try:
        result = trainer.fit()
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, SoftmaxError):
                raise cause from None
        raise
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        return load_model(Path(folder, MODEL_NAME))


def _rows(data: Any, y: Any, target: str | None) -> dict[str, Any]:
    """Return what a worker calls ``fit`` or ``fit_file`` with."""
    if isinstance(data, str | Path):
        if target is None:
            raise UsageError(f"the column of {data} that holds the labels must be named with target")
        return {"path": str(data), "target": target}
    if hasattr(data, "to_arrow_refs"):  # a Dataset of Ray
        import pyarrow as pa
        import ray

        if target is None:
            raise UsageError("the column of the Dataset that holds the labels must be named with target")
        table = pa.concat_tables(ray.get(data.to_arrow_refs()), promote_options="permissive")
        if target not in table.column_names:
            raise UsageError(f"the Dataset has no column {target!r}; its columns are {', '.join(table.column_names)}")
        return {"X": table.drop_columns([target]), "y": np.asarray(table[target])}
    if y is None:
        raise UsageError("y is missing: the labels of the rows")
    return {"X": data, "y": y}


def _in_worker(config: Mapping[str, Any]) -> None:
    """Fit in one of Ray Train's workers, whose process group is there already; the first one keeps the model."""
    import ray
    from ray import train

    clf, rows, options = config["clf"], ray.get(config["rows"]), dict(config["options"])
    then = options.pop("on_epoch", None)

    def on_epoch(line: dict[str, float]) -> None:
        train.report(dict(line))
        if then is not None and train.get_context().get_world_rank() == 0:
            then(line)

    (clf.fit_file if "path" in rows else clf.fit)(**rows, on_epoch=on_epoch, **options)
    about = {name: value for name, value in clf.metrics_.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if train.get_context().get_world_rank() == 0:
            save_model(clf.model_, Path(folder, MODEL_NAME))
            checkpoint = train.Checkpoint.from_directory(folder)
        train.report(about, checkpoint=checkpoint)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it stands for: Ray wraps the errors of workers, several times over."""
    waiting, seen = [error], set[int]()
    while waiting:
        error = waiting.pop(0)
        if id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        inner = [getattr(error, "cause", None), error.__cause__, error.__context__, getattr(error, "_base_exc", None)]
        inner += getattr(error, "worker_failures", {}).values()
        waiting += [cause for cause in inner if isinstance(cause, BaseException)]


def predict(
    dataset: Any,
    model: SoftmaxModel | str | Path,
    *,
    proba: bool = False,
    keep: tuple[str, ...] | None = None,
    concurrency: int | tuple[int, int] | None = None,
    batch_size: int = 4096,
) -> Any:
    """Return a Dataset with a row of ``label`` and ``probability`` for each row of a Dataset.

    Parameters
    ----------
    dataset : ray.data.Dataset
        Columns are found by name.
    model : SoftmaxModel, or the path of a model file that every node can open
    proba : bool, default=False
        Add ``proba_CLASS`` for every class.
    keep : tuple of str, optional
        Columns of the dataset to copy in front; none by default.
    concurrency : int or (int, int), optional
        Actors, as in ``map_batches``; one by default.
    batch_size : int
        Rows that an actor is given at a time.
    """
    import ray

    given = str(model) if isinstance(model, str | Path) else ray.put(model)
    return dataset.map_batches(
        _Predictor,
        fn_constructor_args=(given, proba, tuple(keep or ())),
        batch_format="pyarrow",
        batch_size=batch_size,
        concurrency=concurrency or 1,
        zero_copy_batch=True,
    )


class _Predictor:
    """An actor that has a model."""

    def __init__(self, model: Any, proba: bool, keep: tuple[str, ...]) -> None:
        import ray

        self.model: SoftmaxModel = load_model(model) if isinstance(model, str) else ray.get(model)
        self.proba, self.keep = proba, keep

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the answers for some rows."""
        import pyarrow as pa

        wanted = self.model.encoder.feature_names_in
        columns = rows.column_names if wanted is None else [name for name in rows.column_names if name in wanted]
        probabilities = self.model.predict_proba(rows.select(columns))
        best = probabilities.argmax(1)
        answer = rows.select(list(self.keep))
        answer = answer.append_column("label", pa.array(self.model.classes[best].tolist()))
        answer = answer.append_column("probability", pa.array(probabilities[np.arange(len(best)), best]))
        if self.proba:
            for name, column in zip(self.model.classes.tolist(), probabilities.T, strict=True):
                answer = answer.append_column(f"proba_{name}", pa.array(np.ascontiguousarray(column)))
        return answer
