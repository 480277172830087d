"""From labelled examples to class probabilities that people can act on.

>>> from softmaxnet import SoftmaxClassifier, load_model

What is named here is loaded when it is first used: ``import softmaxnet`` itself loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from softmaxnet.errors import (
        DataError,
        GateError,
        ModelFileError,
        ResourceError,
        SoftmaxError,
        TrainingDivergedError,
        UsageError,
    )
    from softmaxnet.estimator import NotTrainedError, SoftmaxClassifier
    from softmaxnet.model import SoftmaxModel
    from softmaxnet.model_file import load_model, save_model

__all__ = [
    "DataError",
    "GateError",
    "ModelFileError",
    "NotTrainedError",
    "ResourceError",
    "SoftmaxClassifier",
    "SoftmaxError",
    "SoftmaxModel",
    "TrainingDivergedError",
    "UsageError",
    "__version__",
    "load_model",
    "save_model",
]

__version__ = "0.1.0"

_MODULE_OF = {
    "DataError": "errors",
    "GateError": "errors",
    "ModelFileError": "errors",
    "NotTrainedError": "estimator",
    "ResourceError": "errors",
    "SoftmaxClassifier": "estimator",
    "SoftmaxError": "errors",
    "SoftmaxModel": "model",
    "TrainingDivergedError": "errors",
    "UsageError": "errors",
    "load_model": "model_file",
    "save_model": "model_file",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'softmaxnet' has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f"softmaxnet.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
