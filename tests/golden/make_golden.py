"""Write the golden model files of the current format version, and what they are expected to answer.

Run once for each new format version, never for an old one: ``python tests/golden/make_golden.py``. The files
of a version that was released are never written again; every later version of the package has to read them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from softmaxnet.calibration import Calibration
from softmaxnet.features.encoder import FeatureEncoder
from softmaxnet.model import SoftmaxModel
from softmaxnet.model_file import FORMAT_VERSION, save_model
from softmaxnet.network import NetworkSpec, parameter_shapes

FOLDER = Path(__file__).parent


def with_random_parameters(
    encoder: FeatureEncoder, spec: NetworkSpec, classes: np.ndarray, calibration: Calibration
) -> SoftmaxModel:
    """Return a model whose parameters are drawn, not learned: a file does not know the difference."""
    rng = np.random.default_rng(FORMAT_VERSION)
    shapes = parameter_shapes(spec).items()
    params = {name: rng.normal(scale=0.4, size=shape).astype(np.float32) for name, shape in shapes}
    settings: dict[str, object] = {"hidden_layer_sizes": list(spec.hidden_layer_sizes), "random_state": 0}
    return SoftmaxModel(
        encoder, spec, params, calibration, classes, settings=settings, metrics={"log_loss": 0.5, "n": 40}
    )


def matrix_model() -> tuple[SoftmaxModel, np.ndarray]:
    """Return a model of four numbers, two members, with missing values, and rows for it."""
    rng = np.random.default_rng(10)
    X = rng.normal(size=(200, 4)) * [1, 10, 100, 0.1] + [0, 5, -50, 1]
    X[rng.random(X.shape) < 0.1] = np.nan
    encoder = FeatureEncoder.fit(X)
    spec = NetworkSpec(encoder.n_dense, 0, 3, (6, 5), "mish", n_members=2)
    classes = np.array([-1, 0, 7])
    model = with_random_parameters(encoder, spec, classes, Calibration("temperature", 0.8))
    return model.calibrate_sets(X[:40], rng.choice(classes, 40)), X[40:50]


def table_model() -> tuple[SoftmaxModel, pa.Table]:
    """Return a model of a table with a column of each kind, with an embedding, and rows for it."""
    n_rows = 40
    words = ("late", "lost", "early", "refund please", "where is it")
    table = pa.table(
        {
            "amount": [None if i % 7 == 0 else i * 1.5 for i in range(n_rows)],
            "city": [(None, "Oslo", "Köln", "Rome")[i % 4] for i in range(n_rows)],
            "member": [("true", "false")[i % 2] for i in range(n_rows)],
            "since": [f"20{10 + i % 9}-0{1 + i % 9}-1{i % 9}" for i in range(n_rows)],
            "note": [f"{words[i % 5]} {words[(i * i) % 5]}" for i in range(n_rows)],
        }
    )
    encoder = FeatureEncoder.fit(table, kinds={"note": "text", "city": "category"})
    spec = NetworkSpec(
        encoder.n_dense,
        encoder.n_sparse,
        2,
        (4,),
        "gelu",
        n_frequencies=3,
        embedding_size=2,
        output="sigmoid",
    )
    matrix = Calibration("matrix", 1.2, np.array([[1.1, -0.2], [0.0, 0.9]]), np.array([0.1, -0.1]))
    classes = np.array(["no", "yes, früh"], dtype=object)
    return with_random_parameters(encoder, spec, classes, matrix), table.slice(0, 8)


def main() -> int:
    """Write both files and the expected answers of this format version."""
    expected: dict[str, object] = {}
    for name, (model, X) in {"matrix": matrix_model(), "table": table_model()}.items():
        save_model(model, FOLDER / f"{name}-v{FORMAT_VERSION}.safetensors")
        rows = X.to_pydict() if isinstance(X, pa.Table) else np.where(np.isnan(X), None, X).tolist()
        expected[name] = {
            "X": rows,
            "classes": model.classes.tolist(),
            "proba": model.predict_proba(X).tolist(),
        }
    text = json.dumps(expected, ensure_ascii=False, indent=1) + "\n"
    (FOLDER / f"expected-v{FORMAT_VERSION}.json").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
