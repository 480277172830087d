"""From labelled examples to class probabilities that people can act on."""

from __future__ import annotations

__version__ = "0.1.0"
