"""Every ``"auto"`` resolved, before the first step, from the data's shape and the machine's capabilities alone.

========================  =======================================================================================
data                      what is trained
========================  =======================================================================================
up to 1,000 rows          the same with ten small members each and penalised softmax regression (full-batch L-BFGS)
                          besides, all in float64: the mixture with the lowest cross-validated log loss
tables                    ensembles of networks with three hidden layers, in neural tangent parametrisation, under Adam
                          at a constant rate, the running average of whose weights is what is validated and kept: one
                          sees numbers only, one their piecewise-linear bins as well, one is trained with columns
                          dropped at random besides; each member holds out a tenth of its own, and the best mixture
                          is kept: see ``comparison.py``
pixels                    the same with wider layers
text                      one hidden layer on hashed n-grams; Adagrad on the touched rows of its weights; three members
                          that each hold out a tenth of their own, five on little data
``hidden_layer_sizes=()`` softmax regression by full-batch L-BFGS
========================  =======================================================================================

What was measured for each choice stands in ``benchmarks/NOTES.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from softmaxnet.head_plan import DEFAULT_BUDGET, keeps_copies
from softmaxnet.network import NetworkSpec

__all__ = [
    "DEFAULTS",
    "DataShape",
    "Plan",
    "compares_bins",
    "file_plan",
    "file_rounds",
    "plan_of_network",
    "resolve",
    "stream_plan",
    "uncompared",
]

SIGMOID_RATE = 3.0
"""Times the learning rate for sigmoid layers, whose slope is a quarter at most."""
WIDE_LAYER = 256
"""Units from which on a layer's products are faster in bfloat16, casts included."""
MANY_CLASSES = 20_000
"""From so many classes on, softmax regression too goes by batches."""
SMALL_ROWS = 1000
"""Up to this many rows fits look at all of them at once, in float64."""
FEW_GROUPS, FEW_GROUPS_ROWS = 100, 10_000
"""Rows of up to so many groups tell as little as that many rows do, as long as they are not very many."""
FULL_ENSEMBLE_ROWS = 10_000
"""Of more rows two members with and two without bins take the time that there is."""
MOST_CLASSES, MOST_CLASSES_OF_TEXTS = 500, 5_000
"""Up to so many there is more than one network, of texts two narrow ones up to the second number."""
TEXT_WEIGHTS = 25_000_000
"""Weights of n-grams in all members together: 100 MB of a model file."""
COLUMN_DROPOUT, DROPPED_MIN_COLUMNS = 0.2, 4
"""Share of the columns that an ensemble drops, and from how many columns on there is one."""
SELECTION_MIN_INPUTS = 32
"""From so many inputs on little data may be described best by a few of them."""
WIDE_ROWS_AN_INPUT, WIDE_LOGIT_TERMS = 20, 5_000_000
"""Rows for each input up to which more than little data may be so too, and rows x inputs x classes (a pass's work)."""
FILE_VISITS = 20_000_000
"""Rows of a file that are trained on in all its epochs, about; one epoch is the least."""
FILE_BATCH = 1024
"""Rows of a batch where there are so many that even then it takes no fewer steps than little data does."""
MIN_STEPS = 12_000
ROUND_OPERATIONS, ROW_OPERATIONS = 3e11, 3e5
"""Floating-point operations of a round, and what reading a row costs in such operations: a minute on one slow core."""
ROUND_TO_HELD_OUT = 16
"""Rows trained on in a round for each held-out row, at least: to validate takes a small part of the time."""


@dataclass(frozen=True)
class DataShape:
    """All that a recipe may look at.

    Attributes
    ----------
    n_rows : int
        Rows trained on or held out.
    n_dense, n_sparse, n_classes : int
    n_columns : int
        Columns of the table that have inputs in the dense block.
    active : float
        Mean number of non-zero entries of a row of the sparse block.
    picture : bool
        Rows are pictures.
    has_validation : bool
        The user brought a validation set.
    soft_targets : bool
    bfloat16 : bool
        The processor multiplies bfloat16 matrices by itself.
    n_groups : int
        Groups that the rows come in; 0 where every row is by itself.
    """

    n_rows: int
    n_dense: int
    n_sparse: int
    n_classes: int
    n_columns: int = 0
    active: float = 0.0
    picture: bool = False
    has_validation: bool = False
    soft_targets: bool = False
    bfloat16: bool = False
    n_groups: int = 0

    @property
    def is_little(self) -> bool:
        """Whether the rows are few, or many of few people: every one of them is held out once, by all that is tried."""
        if self.n_rows <= SMALL_ROWS:
            return True
        return 0 < self.n_groups <= FEW_GROUPS and self.n_rows <= FEW_GROUPS_ROWS and self.is_light_table

    @property
    def is_light_table(self) -> bool:
        """Whether softmax regression can be searched for by cross-validation in little time."""
        is_table = not (self.picture or self.n_sparse)
        return is_table and self.n_rows * self.n_dense * self.n_classes <= WIDE_LOGIT_TERMS


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
    input_dropout: float
    """Share of the columns that members of one ensemble more leave out of each row; 0: there is no such ensemble."""
    token_dropout: float
    label_smoothing: float
    initial_gain: float
    zero_head: bool
    validation: str
    validation_fraction: float
    n_folds: int
    canonical_rows: bool
    compare_regression: bool
    compare_selection: bool
    """Softmax regression that leaves inputs out is compared as well."""
    compare_bins: bool
    continuation: float
    """Epochs, as a share of those so far, for which members may go on with the rows that they held out; 0: none."""
    calibration: str | None
    precision: str
    max_seconds: float | None
    head_bytes: int = DEFAULT_BUDGET
    head_kernel: str = "own"
    """Whose code took batches through the output layer, known once they were."""
    mixture: tuple[str, ...] = ()
    """What a comparison kept, in words."""

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
    ((128, 128, 128), 2, 256)
    """

    def told(name: str, auto: Any) -> Any:
        value = given[name]
        return auto if isinstance(value, str) and value == "auto" else value

    small = shape.is_little
    text = shape.n_sparse > 0 and shape.active > 3 * max(shape.n_dense, 1)
    hidden = tuple(told("hidden_layer_sizes", _hidden(shape, text)))
    solver = told("solver", "adam" if hidden or shape.n_classes >= MANY_CLASSES else "lbfgs")
    copies = keeps_copies((*hidden, shape.n_dense)[len(hidden) - 1], shape.n_classes)
    custom_rate = given["learning_rate"] != "auto"
    # Under L-BFGS the penalty is on the weights themselves, not on scaled ones.
    ntk = solver == "adam" and not custom_rate and not text
    constant = given["learning_rate_schedule"] == "constant"
    sigmoid = given["activation"] == "sigmoid"
    dropout = told("dropout", 0.0 if sigmoid else _dropout(shape, text))
    own_layers = given["hidden_layer_sizes"] == "auto"
    max_epochs = told("max_epochs", 1000 if solver == "lbfgs" else _epochs(shape, text, own_layers))
    compared = _compared(shape, given, text, copies)
    return Plan(
        hidden_layer_sizes=hidden,
        activation=told("activation", "relu" if text or shape.picture else "silu"),
        output=given["output"],
        n_members=told("n_members", _members(shape, hidden, text, compared["validation"])),
        n_frequencies=0,
        embedding_size=0,
        solver=solver,
        parametrization="ntk" if ntk else "standard",
        learning_rate=told("learning_rate", _rate(shape, text) * (SIGMOID_RATE if sigmoid else 1)),
        table_rate=100.0 if text else 1.0,
        betas=(0.9, 0.95) if ntk else (0.9, 0.999),
        weight_decay=told("weight_decay", _weight_decay(shape, solver, sigmoid)),
        dropout=float(dropout),
        batch_size=told("batch_size", _batch_size(shape, text)),
        max_epochs=max_epochs,
        n_iter_no_change=told("n_iter_no_change", _patience(max_epochs)),
        learning_rate_schedule=told("learning_rate_schedule", "flat" if copies else "cosine"),
        average_power=10.0 if copies and not constant else None,
        shift=1 if shape.picture else 0,
        token_dropout=0.7 if text else 0.0,
        label_smoothing=float(given["label_smoothing"]),
        initial_gain=0.5 if text else 1.0,
        zero_head=bool(hidden) and not text,
        validation_fraction=float(given["validation_fraction"]),
        calibration=given["calibration"],
        precision=told("precision", _precision(shape, hidden, solver, small)),
        max_seconds=given["max_seconds"],
        head_bytes=_head_bytes(given.get("head_bytes", "auto")),
        **compared,
    )


def _compared(shape: DataShape, given: Mapping[str, Any], text: bool, copies: bool) -> dict[str, Any]:
    """Return the settings that say which networks are compared, and by which rows."""
    small = shape.is_little
    left_open = given["hidden_layer_sizes"] == given["solver"] == "auto"
    ensemble = left_open and given["n_members"] == "auto" and given["output"] == "softmax"
    own_folds = ensemble and not _is_large_picture(shape)
    validation = _validation(shape, given, own_folds)
    by_folds = own_folds and validation == "folds"
    regression = left_open and (small or (by_folds and _is_wide(shape)))
    # a wide category is one entry of the sparse block
    n_columns = 0.0 if shape.picture or text else shape.n_columns + shape.active
    return {
        "validation": validation,
        "n_folds": 5 if small else max(round(1 / given["validation_fraction"]), 2),
        "canonical_rows": small and validation == "folds",
        "compare_regression": regression,
        "compare_selection": regression and shape.n_dense >= SELECTION_MIN_INPUTS,
        "compare_bins": compares_bins(given) and by_folds and not text,
        "continuation": _continuation(shape, given, text, validation) if own_folds and copies else 0.0,
        "input_dropout": COLUMN_DROPOUT if by_folds and n_columns >= DROPPED_MIN_COLUMNS else 0.0,
    }


def _head_bytes(given: int | str) -> int:
    return DEFAULT_BUDGET if isinstance(given, str) else int(given)


def stream_plan(plan: Plan) -> Plan:
    """Return the plan for batches that come one by one: a constant rate, nothing held out, nothing calibrated."""
    return replace(
        uncompared(plan, "none"),
        calibration=None,
        solver="adam",
        max_epochs=1,
        learning_rate_schedule="constant",
        precision="float32" if plan.precision == "bfloat16" else plan.precision,
    )


def file_plan(plan: Plan, shape: DataShape, given: Mapping[str, Any]) -> Plan:
    """Return the plan for rows that are streamed from a file: fewer epochs the more rows there are.

    About 20 million rows are trained on in all, as 20 epochs of a million rows or 1 of 20 million; of more rows each is
    seen once. Whole-data steps (L-BFGS) are not for such data.

    Examples
    --------
    >>> given = dict.fromkeys(DEFAULTS, "auto") | DEFAULTS
    >>> for n_rows in (500_000, 5_000_000, 500_000_000):
    ...     shape = DataShape(n_rows, 25, 0, 2)
    ...     plan = file_plan(resolve(shape, given), shape, given)
    ...     print(plan.max_epochs, plan.batch_size)
    20 256
    4 1024
    1 1024
    """
    epochs, batch = plan.max_epochs, plan.batch_size
    if given["max_epochs"] == "auto":
        epochs = int(min(max(round(FILE_VISITS / shape.n_rows), 1), 20))
    if given["batch_size"] == "auto" and not plan.token_dropout and shape.n_rows * epochs >= MIN_STEPS * FILE_BATCH:
        batch = FILE_BATCH
    patience = plan.n_iter_no_change if given["n_iter_no_change"] != "auto" else _patience(epochs)
    return replace(plan, max_epochs=epochs, batch_size=batch, n_iter_no_change=patience)


def file_rounds(plan: Plan, n_rows: int, n_held_out: int, operations_per_row: float) -> int:
    """Return in how many rounds an epoch of streamed rows is cut, each of a minute or two.

    Examples
    --------
    >>> given = dict.fromkeys(DEFAULTS, "auto") | DEFAULTS
    >>> plan = resolve(DataShape(10_000_000, 25, 0, 2), given)
    >>> file_rounds(plan, 10_000_000, 50_000, 2e6), file_rounds(plan, 10_000_000, 50_000, 2e7)
    (12, 12)
    >>> file_rounds(plan, 1_000_000, 1000, 2e6)
    8
    """
    wanted = math.ceil(n_rows * (operations_per_row + ROW_OPERATIONS) / ROUND_OPERATIONS)
    most = min(n_rows // max(ROUND_TO_HELD_OUT * n_held_out, 1), n_rows // plan.batch_size)
    return max(min(wanted, most), 1)


def uncompared(plan: Plan, validation: str) -> Plan:
    """Return the plan of one network where a comparison was planned."""
    return replace(
        plan,
        validation=validation,
        compare_regression=False,
        compare_selection=False,
        compare_bins=False,
        continuation=0.0,
        input_dropout=0.0,
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
    "head_bytes": "auto",
    "precision": "auto",
}
"""The parameters of the constructor that a plan is made from, with their defaults."""


def _hidden(shape: DataShape, text: bool) -> tuple[int, ...]:
    if text:
        return (128,) if MOST_CLASSES < shape.n_classes <= MOST_CLASSES_OF_TEXTS else (256,)
    if shape.is_little:
        return (64, 64)
    if shape.picture:
        return (512, 512) if _is_large_picture(shape) else (256, 128)
    return (128, 128, 128)


def _is_large_picture(shape: DataShape) -> bool:
    return shape.picture and shape.n_dense > 256


def _is_wide(shape: DataShape) -> bool:
    """Whether rows are so few for their inputs, though many in number, that softmax regression may read them best."""
    is_wide = shape.n_dense >= SELECTION_MIN_INPUTS and shape.n_rows <= WIDE_ROWS_AN_INPUT * shape.n_dense
    return is_wide and shape.is_light_table


def _members(shape: DataShape, hidden: tuple[int, ...], text: bool, validation: str) -> int:
    if text and hidden:
        most = max(TEXT_WEIGHTS // (shape.n_sparse * hidden[0]), 1)
        if MOST_CLASSES < shape.n_classes <= MOST_CLASSES_OF_TEXTS:
            return min(most, 2)
        return min(most, 5 if shape.is_little else 3) if validation == "folds" else 1
    if not hidden or shape.n_classes > MOST_CLASSES:
        return 1
    if validation == "folds" and shape.is_little:
        return 10
    if shape.picture:
        return 1 if _is_large_picture(shape) else 2
    return 4 if shape.n_rows <= FULL_ENSEMBLE_ROWS or validation != "folds" else 2


def _dropout(shape: DataShape, text: bool) -> float:
    if text:
        return 0.5 if shape.n_classes <= MOST_CLASSES else 0.3
    return 0.05 if shape.picture else 0.15


def _rate(shape: DataShape, text: bool) -> float:
    return 0.003 if text else 0.04


def _weight_decay(shape: DataShape, solver: str, sigmoid: bool) -> float | None:
    """Return the recipe's decay; none for pictures, which are moved instead, nor for sigmoids, which saturate."""
    if solver == "lbfgs":
        # None: chosen by cross-validation on little data, 1 / n (scikit-learn's C = 1) on more.
        return None if shape.is_little else 1 / shape.n_rows
    return 0.0 if sigmoid or shape.picture else 0.005


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
    widths = (shape.n_dense, *hidden) if shape.n_dense else hidden  # a sparse block is no matrix product
    return "bfloat16" if shape.bfloat16 and hidden and min(widths) >= WIDE_LAYER else "float32"


def _continuation(shape: DataShape, given: Mapping[str, Any], text: bool, validation: str) -> float:
    """Where epochs and rate are left to the recipe: as many epochs again of little data, half as many of more rows.

    Of texts a quarter; without a trial where each of many classes has few rows, which are worth more as rows.
    """
    if given["max_epochs"] != "auto" or given["learning_rate_schedule"] != "auto":
        return 0.0
    if validation == "folds":
        return 0.25 if text else 1.0 if shape.is_little else 0.5
    return 0.25 if validation == "holdout" and shape.n_classes > MOST_CLASSES else 0.0


def _patience(max_epochs: int) -> int:
    return max(round(max_epochs / 16), 10)


def compares_bins(given: Mapping[str, Any]) -> bool:
    """Return whether members with piecewise-linear bins are compared with members without, where there are numbers.

    That is where the network and the rows to choose by are left to the recipe.
    """
    left = all(given.get(name, "auto") == "auto" for name in ("hidden_layer_sizes", "solver", "n_members", "features"))
    return left and bool(given["early_stopping"]) and given["output"] == "softmax" and not given.get("warm_start")


def _validation(shape: DataShape, given: Mapping[str, Any], own_folds: bool) -> str:
    """Where the validation rows come from: the user, folds (each member holds out its own), one part, or nowhere."""
    if not given["early_stopping"]:
        return "none"
    if shape.has_validation:
        return "given"
    if shape.is_little:
        return "folds" if not shape.soft_targets else "none"
    return "folds" if own_folds and not shape.soft_targets and shape.n_classes <= MOST_CLASSES else "holdout"
