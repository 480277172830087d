"""Every ``"auto"`` resolved, before the first step, from the data's shape and the machine's capabilities alone.

========================  =======================================================================================
data                      what is trained
========================  =======================================================================================
up to 1,000 rows          penalised softmax regression (full-batch L-BFGS, float64) against a small ensemble of
                          networks, by cross-validated log loss: see ``fitting.py``
tables                    an ensemble of networks with three hidden layers, in neural tangent parametrisation, under
                          Adam at a constant rate, the running average of whose weights is what is validated and kept
pixels                    the same with wider layers
text                      one hidden layer on hashed n-grams; Adagrad on the touched rows of its weights
``hidden_layer_sizes=()`` softmax regression by full-batch L-BFGS
========================  =======================================================================================

What was measured for each choice stands in ``benchmarks/NOTES.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from softmaxnet.network import NetworkSpec

__all__ = ["DEFAULTS", "DataShape", "Plan", "plan_of_network", "resolve", "stream_plan"]

SIGMOID_RATE = 3.0
"""Times the learning rate for sigmoid layers, whose slope is a quarter at most."""
WIDE_LAYER = 256
"""Units from which on a layer's products are faster in bfloat16, casts included."""
SMALL_ROWS = 1000
"""Up to this many rows nothing is held out: folds are."""


@dataclass(frozen=True)
class DataShape:
    """All that a recipe may look at.

    Attributes
    ----------
    n_rows : int
        Rows trained on or held out.
    n_dense, n_sparse, n_classes : int
    active : float
        Mean number of non-zero entries of a row of the sparse block.
    picture : bool
        Rows are pictures.
    has_validation : bool
        The user brought a validation set.
    soft_targets : bool
    bfloat16 : bool
        The processor multiplies bfloat16 matrices by itself.
    """

    n_rows: int
    n_dense: int
    n_sparse: int
    n_classes: int
    active: float = 0.0
    picture: bool = False
    has_validation: bool = False
    soft_targets: bool = False
    bfloat16: bool = False


@dataclass(frozen=True)
class Plan:
    """A recipe without any ``"auto"``: what ``fit`` shows and the model file stores."""

    hidden_layer_sizes: tuple[int, ...]
    activation: str
    output: str
    n_members: int
    n_frequencies: int
    embedding_size: int
    solver: str
    parametrization: str
    learning_rate: float
    table_rate: float
    betas: tuple[float, float]
    weight_decay: float | None
    dropout: float
    batch_size: int
    max_epochs: int
    n_iter_no_change: int
    learning_rate_schedule: str
    average_power: float | None
    shift: int
    token_dropout: float
    label_smoothing: float
    initial_gain: float
    zero_head: bool
    validation: str
    validation_fraction: float
    n_folds: int
    race_regression: bool
    calibration: str | None
    precision: str
    max_seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain JSON data."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def resolve(shape: DataShape, given: Mapping[str, Any]) -> Plan:
    """Return the plan for data of a shape, with the user's own settings in place of the recipe's.

    Parameters
    ----------
    shape : DataShape
    given : mapping
        The constructor's parameters; a value of ``"auto"`` is resolved, any other kept.

    Examples
    --------
    >>> given = dict.fromkeys(DEFAULTS, "auto") | DEFAULTS
    >>> plan = resolve(DataShape(16_000, 16, 0, 26), given)
    >>> plan.hidden_layer_sizes, plan.n_members, plan.batch_size
    ((128, 128, 128), 4, 256)
    """

    def told(name: str, auto: Any) -> Any:
        value = given[name]
        return auto if isinstance(value, str) and value == "auto" else value

    small = shape.n_rows <= SMALL_ROWS
    text = shape.n_sparse > 0 and shape.active > 3 * max(shape.n_dense, 1)
    hidden = tuple(told("hidden_layer_sizes", _hidden(shape, text)))
    solver = told("solver", "adam" if hidden else "lbfgs")
    custom_rate = given["learning_rate"] != "auto"
    # Under L-BFGS the penalty is on the weights themselves, not on scaled ones.
    ntk = solver == "adam" and not custom_rate and not text
    constant = given["learning_rate_schedule"] == "constant"
    sigmoid = given["activation"] == "sigmoid"
    dropout = told("dropout", 0.0 if sigmoid else _dropout(shape, text))
    own_layers = given["hidden_layer_sizes"] == "auto"
    max_epochs = told("max_epochs", 1000 if solver == "lbfgs" else _epochs(shape, text, own_layers))
    validation = _validation(shape, given, solver)
    return Plan(
        hidden_layer_sizes=hidden,
        activation=told("activation", "relu" if text or shape.picture else "silu"),
        output=given["output"],
        n_members=_members(shape, hidden, text, validation) if given["n_members"] == "auto" else given["n_members"],
        n_frequencies=0,
        embedding_size=0,
        solver=solver,
        parametrization="ntk" if ntk else "standard",
        learning_rate=told("learning_rate", _rate(shape, text) * (SIGMOID_RATE if sigmoid else 1)),
        table_rate=100.0 if text else 1.0,
        betas=(0.9, 0.95) if ntk else (0.9, 0.999),
        weight_decay=told("weight_decay", _weight_decay(shape, solver)),
        dropout=float(dropout),
        batch_size=told("batch_size", _batch_size(shape, text)),
        max_epochs=max_epochs,
        n_iter_no_change=told("n_iter_no_change", _patience(max_epochs)),
        learning_rate_schedule=told("learning_rate_schedule", "flat"),
        average_power=None if constant else 10.0,
        shift=1 if shape.picture else 0,
        token_dropout=0.7 if text else 0.0,
        label_smoothing=float(given["label_smoothing"]),
        initial_gain=0.5 if text else 1.0,
        zero_head=bool(hidden) and not text,
        validation=validation,
        validation_fraction=float(given["validation_fraction"]),
        race_regression=small and given["hidden_layer_sizes"] == given["solver"] == "auto",
        n_folds=5 if small else max(round(1 / given["validation_fraction"]), 2),
        calibration=given["calibration"],
        precision=told("precision", _precision(shape, hidden, solver, small)),
        max_seconds=given["max_seconds"],
    )


def stream_plan(plan: Plan) -> Plan:
    """Return the plan for batches that come one by one: a constant rate, nothing held out, nothing calibrated."""
    return replace(
        plan,
        validation="none",
        calibration=None,
        solver="adam",
        max_epochs=1,
        learning_rate_schedule="constant",
        precision="float32" if plan.precision == "bfloat16" else plan.precision,
    )


def plan_of_network(plan: Plan, spec: NetworkSpec) -> Plan:
    """Return the plan with the layers of a network that is there already."""
    return replace(
        plan,
        hidden_layer_sizes=spec.hidden_layer_sizes,
        activation=spec.activation,
        output=spec.output,
        n_members=spec.n_members,
        n_frequencies=spec.n_frequencies,
        embedding_size=spec.embedding_size,
    )


DEFAULTS: dict[str, Any] = {
    "hidden_layer_sizes": "auto",
    "activation": "auto",
    "output": "softmax",
    "n_members": "auto",
    "dropout": "auto",
    "solver": "auto",
    "learning_rate": "auto",
    "weight_decay": "auto",
    "batch_size": "auto",
    "max_epochs": "auto",
    "early_stopping": True,
    "validation_fraction": 0.1,
    "n_iter_no_change": "auto",
    "learning_rate_schedule": "auto",
    "label_smoothing": 0.0,
    "calibration": "auto",
    "max_seconds": None,
    "precision": "auto",
}
"""The parameters of the constructor that a plan is made from, with their defaults."""


def _hidden(shape: DataShape, text: bool) -> tuple[int, ...]:
    if text:
        return (256,)
    if shape.n_rows <= SMALL_ROWS:
        return (64, 64)
    if shape.picture:
        return (512, 512) if _is_large_picture(shape) else (256, 128)
    return (128, 128, 128)


def _is_large_picture(shape: DataShape) -> bool:
    return shape.picture and shape.n_dense > 256


def _members(shape: DataShape, hidden: tuple[int, ...], text: bool, validation: str) -> int:
    if not hidden or text or shape.n_classes > 500:
        return 1
    if validation == "folds":
        return 10
    if shape.picture:
        return 1 if _is_large_picture(shape) else 2
    return 4


def _dropout(shape: DataShape, text: bool) -> float:
    if text:
        return 0.5
    return 0.05 if shape.picture else 0.15


def _rate(shape: DataShape, text: bool) -> float:
    return 0.003 if text else 0.04


def _weight_decay(shape: DataShape, solver: str) -> float | None:
    if solver == "lbfgs":
        # None: chosen by cross-validation on little data, 1 / n (scikit-learn's C = 1) on more.
        return None if shape.n_rows <= SMALL_ROWS else 1 / shape.n_rows
    return 0.02


def _batch_size(shape: DataShape, text: bool) -> int:
    if text:
        return 128 if shape.n_rows < 20_000 else 256
    return int(min(max(2.0 ** round(math.log2(max(shape.n_rows, 1) / 50)), 32), 256))


def _epochs(shape: DataShape, text: bool, own_layers: bool) -> int:
    if text:
        return 20
    steps_an_epoch = max(shape.n_rows / _batch_size(shape, text), 1)
    if _is_large_picture(shape):
        # Moved pictures are ever new: a smaller network than the recipe's own goes on learning for longer.
        return int(min(max(3_500 / steps_an_epoch, 18 if own_layers else 90), 250))
    return int(min(max(12_000 / steps_an_epoch, 20), 250))


def _precision(shape: DataShape, hidden: tuple[int, ...], solver: str, small: bool) -> str:
    """float64 on little data; bfloat16 products where the processor has them and the layers are wide enough to pay."""
    if small or solver == "lbfgs":
        return "float64"
    widths = (shape.n_dense, *hidden)
    return "bfloat16" if shape.bfloat16 and hidden and min(widths) >= WIDE_LAYER else "float32"


def _patience(max_epochs: int) -> int:
    return max(round(max_epochs / 16), 10)


def _validation(shape: DataShape, given: Mapping[str, Any], solver: str) -> str:
    """Where the validation rows come from: the user, folds (each member holds out its own), one part, or nowhere."""
    if not given["early_stopping"]:
        return "none"
    if shape.has_validation:
        return "given"
    if shape.n_rows <= SMALL_ROWS:
        return "folds" if not shape.soft_targets else "none"
    return "holdout"
