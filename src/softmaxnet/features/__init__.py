"""From columns to the two blocks that the network reads: dense numbers and sparse indicators.

``FeatureEncoder`` puts the parts together; what each kind of column becomes is specified
in ``docs/features.md``.
"""

from __future__ import annotations

from softmaxnet.features.columns import BadCell, ColumnSpec
from softmaxnet.features.encoder import Encoded, FeatureEncoder

__all__ = ["BadCell", "ColumnSpec", "Encoded", "FeatureEncoder"]
