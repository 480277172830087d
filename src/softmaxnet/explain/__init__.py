"""Why this probability: a logit split into the contributions of the inputs.

A row stands at the end of a straight line from a *baseline*, in the space of the encoded inputs. The difference of a
logit between the two ends is the integral of its gradient along the line, and the gradient has a part for each input::

    logit(x) - logit(b) = sum_j c_j,     c_j = (x_j - b_j) * integral_0^1 d logit / d x_j (b + t (x - b)) dt

(integrated gradients; Sundararajan, Taly and Yan 2017, arXiv:1703.01365, section 3). Without hidden layers the
gradient is the weight ``w_j``, and ``c_j = w_j (x_j - b_j)`` exactly. The logits are those of
``model.decision_function``: members combined, calibrated.
"""

from __future__ import annotations

from softmaxnet.explain.explanation import Explanation, Word
from softmaxnet.explain.rows import explain, image_shape
from softmaxnet.importance import ColumnImportance, Importances, permutation_importance

__all__ = [
    "ColumnImportance",
    "Explanation",
    "Importances",
    "Word",
    "explain",
    "image_shape",
    "permutation_importance",
]
