"""Every command with every option, as tables: the parser, its help and ``docs/cli.md`` are made from them.

The options of ``fit`` that are parameters of ``SoftmaxClassifier`` carry its names and its defaults, so that the
command line and Python cannot drift apart. Nothing here imports more than ``argparse``: ``--help`` is instant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from softmaxnet.cli.values import (
    auto_or,
    bad_rows,
    byte_count,
    choice,
    class_weights,
    columns,
    counting,
    host_name,
    integer,
    layer_sizes,
    none_or,
    number,
    output_layer,
    port,
    positive,
    proportion,
    reader_setting,
    seconds,
    seed,
    share,
    word,
)

__all__ = ["COMMANDS", "PARAMETERS", "PROGRAM", "Option", "Parameter"]

PROGRAM = "softmaxnet"
DESCRIPTION = "From labelled examples to class probabilities that people can act on."
EPILOG = (
    "exit codes: 0 done, 1 a bug of ours, 2 usage, 3 bad data, 4 bad model file, 5 training diverged, "
    "6 out of memory, disk or permission, 7 ran but a gate failed, 130 interrupted, 143 terminated"
)


@dataclass(frozen=True)
class Parameter:
    """A parameter of ``SoftmaxClassifier`` as an option of ``fit``.

    ``flag`` is given only where it is not the parameter's name with hyphens.
    """

    name: str
    default: object
    parse: Callable[[str], Any] | None
    metavar: str
    help: str
    flag: str = ""

    @property
    def option(self) -> str:
        """The flag: ``--hidden-layer-sizes``."""
        return self.flag or "--" + self.name.replace("_", "-")

    @property
    def shown_default(self) -> str:
        """The default as it is written on the command line; empty for a switch."""
        if self.parse is None:
            return ""
        return "none" if self.default is None else str(self.default)


PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "hidden_layer_sizes", "auto", layer_sizes, "N,N,...", "widths of the hidden layers; 'none': softmax regression"
    ),
    Parameter(
        "activation",
        "auto",
        choice("auto", "sigmoid", "relu", "tanh", "gelu", "silu", "mish", "identity"),
        "NAME",
        "sigmoid, relu, tanh, gelu, silu, mish or identity, after each hidden layer",
    ),
    Parameter("output", "softmax", output_layer, "NAME", "softmax, or sigmoid: an independent yes or no a class"),
    Parameter("n_members", "auto", auto_or(integer), "N", "networks trained side by side and averaged"),
    Parameter("dropout", "auto", auto_or(number), "SHARE", "of the hidden units left out in each step"),
    Parameter("solver", "auto", choice("auto", "adam", "lbfgs"), "NAME", "adam: batches; lbfgs: all rows in each step"),
    Parameter("learning_rate", "auto", auto_or(number), "RATE", "of adam"),
    Parameter("weight_decay", "auto", auto_or(number), "RATE", "penalty on large weights"),
    Parameter("batch_size", "auto", auto_or(integer), "ROWS", "rows in each step of adam"),
    Parameter("max_epochs", "auto", auto_or(integer), "N", "passes over the rows; iterations of lbfgs"),
    Parameter(
        "early_stopping",
        True,
        None,
        "",
        "hold no rows out: train to the last epoch, with no calibration",
        flag="--no-early-stopping",
    ),
    Parameter("validation_fraction", 0.1, number, "SHARE", "of the rows held out where --valid is not given"),
    Parameter("n_iter_no_change", "auto", auto_or(integer), "EPOCHS", "with no improvement before training stops"),
    Parameter("features", "auto", choice("auto", "raw"), "NAME", "raw: numbers as they are, not scaled"),
    Parameter(
        "learning_rate_schedule",
        "auto",
        choice("auto", "constant", "cosine", "flat"),
        "NAME",
        "constant, cosine or flat: how the rate changes over the epochs",
    ),
    Parameter(
        "class_weight",
        None,
        class_weights,
        "WEIGHTS",
        "balanced, or LABEL=WEIGHT,...; it shifts probabilities on purpose",
    ),
    Parameter("label_smoothing", 0.0, number, "SHARE", "of each label spread over all classes in training"),
    Parameter(
        "calibration",
        "auto",
        choice("auto", "temperature", "matrix", "none"),
        "NAME",
        "temperature, matrix or none; auto: whichever has the lowest held-out log loss",
    ),
    Parameter("conformal_fraction", 0.0, number, "SHARE", "of the rows kept for prediction sets, see predict --sets"),
    Parameter("max_seconds", None, none_or(number), "SECONDS", "of training, after which the best so far is taken"),
    Parameter(
        "head_bytes",
        "auto",
        auto_or(integer),
        "BYTES",
        "that a training step may take for the logits and the gradient of the output layer; 512 MiB",
    ),
    Parameter(
        "precision",
        "auto",
        choice("auto", "float64", "float32", "bfloat16"),
        "NAME",
        "float64, float32 or bfloat16: the numbers that training computes with",
    ),
    Parameter("device", "auto", str, "NAME", "cpu, cuda, cuda:1, ..."),
    Parameter("n_jobs", None, none_or(integer), "N", "threads; none: as many as are worth it", flag="--jobs"),
    Parameter("random_state", None, none_or(seed), "N", "the same number gives the same model", flag="--seed"),
)
"""All parameters of ``SoftmaxClassifier`` but those that make no sense in a command: warm_start and verbose."""


@dataclass(frozen=True)
class Option:
    """One argument of a command: ``names`` are ``-o, --output`` or, for one without hyphens, its place.

    ``bare`` is the value where the option is given without one.
    """

    names: tuple[str, ...]
    help: str
    metavar: str = ""
    parse: Callable[[str], Any] | None = None
    default: object = None
    adds: bool = False
    once: bool = False
    bare: str = ""

    @property
    def shown_metavar(self) -> str:
        """The value as the help shows it; in brackets where it may be left out."""
        return f"[{self.metavar}]" if self.bare else self.metavar


@dataclass(frozen=True)
class Command:
    """A verb: what it does in one line, its arguments, and an example or two."""

    name: str
    help: str
    options: tuple[Option, ...]
    examples: tuple[str, ...]
    usage: str = "[options]"
    parameters: tuple[Parameter, ...] = ()


DATA_HELP = "CSV, TSV, JSON lines, Parquet, .npz, an IDX or image folder, a 'pattern*.csv', or - (standard input)"
MODEL = Option(("MODEL",), "a model file written by fit")
JSON = Option(("--json",), "print one JSON object on standard output, and nothing else there")
FORCE = Option(("--force",), "replace the output where it exists")
ON_BAD_ROW = Option(
    ("--on-bad-row",),
    "rows that cannot be read: fail, skip, or how many may be skipped",
    "WHAT",
    bad_rows,
    default="fail",
)
READER = Option(
    ("--reader",),
    "how a text file is written, where that is not found out: encoding=latin-1, delimiter=tab, quote=, decimal=, ...",
    "NAME=VALUE",
    reader_setting,
    adds=True,
)
TARGET = Option(("--target",), "the column that holds the labels; by default that of the fit", "COL")
COMMON = (
    Option(("--quiet",), "no progress and no messages on standard error but warnings and errors"),
    Option(("--debug",), "show the traceback of an error"),
)

COMMANDS: tuple[Command, ...] = (
    Command(
        "fit",
        "learn from labelled rows and write a model file",
        (
            Option(("TRAIN",), DATA_HELP),
            Option(("--target",), "the column that holds the labels; not for data that carry them", "COL", once=True),
            Option(("-o",), "the model file to write, such as model.safetensors", "MODEL"),
            FORCE,
            Option(("--resume",), "go on with a fit that was cut off, from its checkpoints in MODEL.ckpt"),
            Option(
                ("--processes",),
                "train in so many processes on this machine, each on its part of a batch",
                "N",
                positive,
            ),
            Option(("--valid",), "rows to stop and calibrate by, in place of some of TRAIN", "FILE"),
            Option(("--number",), "columns to be read as numbers", "COL,...", columns, adds=True),
            Option(("--category",), "columns to be read as categories", "COL,...", columns, adds=True),
            Option(("--text",), "columns to be read as text", "COL,...", columns, adds=True),
            Option(("--date",), "columns to be read as dates", "COL,...", columns, adds=True),
            Option(("--drop",), "columns to leave out", "COL,...", columns, adds=True),
            Option(("--weights",), "column with the weight of each row", "COL"),
            Option(("--group",), "column whose equal values are never split between training and held-out rows", "COL"),
            READER,
            ON_BAD_ROW,
            Option(
                ("--memory",),
                "that the fit may take, such as 1GiB; a larger table is streamed; auto: half of what the machine has",
                "SIZE",
                auto_or(byte_count),
            ),
            Option(("--dry-run",), "print what each column becomes and what would be trained, and stop"),
            JSON,
        ),
        (
            "softmaxnet fit train.csv --target species -o species.safetensors --seed 0",
            "softmaxnet fit mnist/ -o mnist.safetensors --hidden-layer-sizes 200 --activation sigmoid",
        ),
        "TRAIN [--target COL] -o MODEL [options]",
        PARAMETERS,
    ),
    Command(
        "predict",
        "write one row of probabilities for each row of data, in order",
        (
            MODEL,
            Option(("DATA",), DATA_HELP + "; by default -", default="-"),
            Option(("-o", "--output"), "file to write, or - for standard output", "OUT", default="-"),
            FORCE,
            Option(("--proba",), "also write proba_CLASS for every class"),
            Option(("--top",), "write the K most probable labels: label_1, probability_1, ...", "K", positive),
            Option(("--sets",), "also write the set of labels that holds the true one this often", "COVERAGE", share),
            Option(
                ("--costs",),
                "also write the decision with the lowest expected cost, and that cost; a CSV file with a line for each "
                "true class and a column for each decision, one to abstain among them if you like",
                "FILE",
            ),
            Option(("--keep",), "columns of the data to copy in front", "COL,...", columns, adds=True),
            Option(("--no-csv-guard",), "copy texts that begin like a formula to CSV as they are, with no ' in front"),
            Option(
                ("--format",),
                "csv, jsonl or parquet; by default from the ending of OUT, else csv",
                "NAME",
                choice("csv", "jsonl", "parquet"),
            ),
            READER,
        ),
        (
            "softmaxnet predict species.safetensors new.csv -o predictions.csv --proba",
            "zcat new.csv.gz | softmaxnet predict species.safetensors --top 3 --format jsonl",
        ),
        "MODEL [DATA] [-o OUT] [options]",
    ),
    Command(
        "evaluate",
        "score a model on labelled rows",
        (
            MODEL,
            Option(("DATA",), DATA_HELP + "; by default -", default="-"),
            TARGET,
            Option(("--weights",), "column with the weight of each row", "COL"),
            READER,
            ON_BAD_ROW,
            Option(("--max-log-loss",), "exit with 7 where the log loss is higher", "NATS", number),
            Option(("--min-accuracy",), "exit with 7 where the accuracy is lower", "SHARE", proportion),
            Option(("--report",), "also write what was found as one HTML file, to look at or to hand on", "REPORT"),
            FORCE,
            JSON,
        ),
        (
            "softmaxnet evaluate species.safetensors test.csv --max-log-loss 0.3 --min-accuracy 0.9",
            "softmaxnet evaluate species.safetensors test.csv --report report.html",
        ),
        "MODEL [DATA] [options]",
    ),
    Command(
        "calibrate",
        "fit the probabilities of a model to new labelled rows, and prepare prediction sets",
        (
            MODEL,
            Option(("DATA",), DATA_HELP + "; rows that the model was not trained on; by default -", default="-"),
            Option(("-o",), "the model file to write", "NEW"),
            FORCE,
            Option(
                ("--calibration",),
                "auto, temperature, matrix or none; auto by default, and with --sets only where it is given",
                "METHOD",
                word("auto", "temperature", "matrix", "none"),
            ),
            Option(
                ("--sets",),
                "prepare predict --sets: lac (by default, the smallest sets), aps or raps; with --calibration "
                "each gets half of the rows",
                "METHOD",
                word("lac", "aps", "raps"),
                bare="lac",
            ),
            Option(("--per-class",), "the coverage of the sets is to hold within each class"),
            TARGET,
            Option(("--weights",), "column with the weight of each row", "COL"),
            READER,
            ON_BAD_ROW,
            JSON,
        ),
        (
            "softmaxnet calibrate species.safetensors recent.csv -o recalibrated.safetensors",
            "softmaxnet calibrate species.safetensors held-out.csv --sets -o with-sets.safetensors",
        ),
        "MODEL [DATA] -o NEW [options]",
    ),
    Command(
        "explain",
        "tell which columns a model lives on, or with --row why one row got its probabilities",
        (
            MODEL,
            Option(("DATA",), DATA_HELP + "; with labels where --row is not given; by default -", default="-"),
            Option(("--row",), "the row to explain, counted from 0", "N", counting),
            Option(("--label",), "with --row: the label in question; by default the most probable one", "LABEL"),
            Option(
                ("--versus",),
                "with --row: the label to compare with, or none; by default the most probable other one",
                "LABEL",
            ),
            Option(("--top",), "list only so many columns, and words of each; in text 10 by default", "K", positive),
            TARGET,
            Option(("--weights",), "column with the weight of each row", "COL"),
            READER,
            ON_BAD_ROW,
            JSON,
        ),
        (
            "softmaxnet explain species.safetensors test.csv",
            "softmaxnet explain species.safetensors test.csv --row 17 --top 5",
        ),
        "MODEL [DATA] [options]",
    ),
    Command(
        "export",
        "write a model for programs that do not know this one",
        (
            MODEL,
            Option(("-o",), "the file to write, such as model.onnx", "FILE"),
            Option(("--to",), "onnx", "FORMAT", word("onnx"), default="onnx"),
            Option(
                ("--part",),
                "model: from raw columns on; network: rows are encoded outside, as they must be where there is text",
                "NAME",
                word("model", "network"),
                default="model",
            ),
            Option(("--opset",), "operator set, 13 or more; 18 by default, 20 with dates", "N", positive),
            Option(
                ("--input-dtype",),
                "of numbers: auto, float32 or float64",
                "NAME",
                word("auto", "float32", "float64"),
                default="auto",
            ),
            FORCE,
            JSON,
        ),
        ("softmaxnet export species.safetensors --to onnx -o species.onnx",),
        "MODEL -o FILE [options]",
    ),
    Command(
        "serve",
        "answer requests over HTTP, with a page to try the model",
        (
            MODEL,
            Option(
                ("--host",),
                "address to listen on; one that others reach needs --token-file",
                "ADDRESS",
                default="127.0.0.1",
            ),
            Option(("--port",), "port to listen on; 0 takes one that is free", "N", port, default=8000),
            Option(
                ("--token-file",), "file with the token that requests must carry: Authorization: Bearer TOKEN", "FILE"
            ),
            Option(("--insecure-no-auth",), "let anybody ask who reaches the address"),
            Option(
                ("--allow-host",),
                "a name that requests may be addressed to, beside localhost and the address; may be given again",
                "NAME",
                host_name,
                adds=True,
            ),
            Option(("--workers",), "processes", "N", positive, default=1),
            Option(("--max-body",), "bytes of a request, also unpacked", "BYTES", byte_count, default="8MiB"),
            Option(("--max-rows",), "rows of a request", "N", positive, default=10_000),
            Option(("--max-requests",), "requests at a time; more are answered with 503", "N", positive, default=64),
            Option(("--header-seconds",), "for the headers of a request to arrive", "SECONDS", seconds, default=10.0),
            Option(("--body-seconds",), "for its body to arrive", "SECONDS", seconds, default=20.0),
            Option(("--compute-seconds",), "for its answer to be computed", "SECONDS", seconds, default=30.0),
            Option(
                ("--drain-delay",),
                "after SIGTERM: still take requests for so long, while /readyz says 503",
                "SECONDS",
                seconds,
                default=0.0,
            ),
            Option(("--verbose",), "a line on standard error for each request"),
            Option(("--log-json",), "the same as JSON"),
            Option(("--json",), "print one JSON object with the address on standard output when the server is ready"),
        ),
        (
            "softmaxnet serve species.safetensors",
            "softmaxnet serve species.safetensors --host 0.0.0.0 --token-file token.txt --workers 2",
        ),
        "MODEL [options]",
    ),
    Command(
        "inspect",
        "tell what is in a model file without running it",
        (MODEL, JSON),
        ("softmaxnet inspect species.safetensors",),
        "MODEL [options]",
    ),
    Command(
        "verify",
        "check that a model file is whole and still gives the probabilities stored in it",
        (MODEL, JSON),
        ("softmaxnet verify species.safetensors",),
        "MODEL [options]",
    ),
    Command(
        "demo",
        "fit handwritten digits that come with scikit-learn, and show what comes out",
        (
            Option(
                ("-o", "--output"),
                "folder for the model file and the reliability plot, whose files are replaced",
                "DIR",
                default="demo-output",
            ),
            Option(("--serve",), "fit digits that people draw, and show a page to draw them on, until Ctrl-C"),
            Option(("--no-browser",), "with --serve: print the page's address only"),
            Option(("--port",), "with --serve: port to listen on; 0 takes one that is free", "N", port, default=0),
        ),
        ("softmaxnet demo", "softmaxnet demo --serve"),
    ),
    Command(
        "doctor",
        "tell what this machine and this installation offer, for a report of a problem",
        (JSON,),
        ("softmaxnet doctor --json",),
    ),
)
