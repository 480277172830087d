"""Which mixture of fitted networks predicts held-out rows best, and the one network that it is.

A mixture is the mean of probabilities, and so is an ensemble of members: networks with the same hidden layers are put
side by side as members of one. Softmax regression becomes such a member too, without any loss: for an activation f with
f(z) - f(-z) = z (ReLU, SiLU, GELU) two units carry a logit through a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.calibration import held_out_log_loss_after_temperature
from softmaxnet.fitted import Fitted
from softmaxnet.means import standard_error
from softmaxnet.network import NetworkSpec
from softmaxnet.softmax import cross_entropy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from softmaxnet.batches import Rows

__all__ = ["Candidate", "Mixture", "best_mixture", "joined", "mixed", "regression_as_member"]

CARRIES_LOGITS = ("relu", "silu", "gelu")
"""Activations f with f(z) - f(-z) = z."""
REGRESSION_SHARES = (0.5, 1.0)
"""What softmax regression may weigh beside networks, each of which weighs 1."""


@dataclass(frozen=True)
class Candidate:
    """A fitted network with what it says of rows that it was not trained on.

    Attributes
    ----------
    fitted : Fitted
    log_proba : ndarray of shape (n_rows, n_classes), NaN in rows that it was trained on
    sees_bins : bool
        Whether its inputs include the piecewise-linear bins.
    selects_inputs : bool
        Whether it is a softmax regression that leaves inputs out.
    rows : Rows, optional
        What an ensemble was trained on, with the fold that each member holds out: to go on from.
    """

    fitted: Fitted
    log_proba: NDArray[np.float64]
    sees_bins: bool = False
    selects_inputs: bool = False
    rows: Rows | None = None

    @property
    def is_regression(self) -> bool:
        """Whether it has no hidden layer."""
        return not self.fitted.spec.hidden_layer_sizes


@dataclass(frozen=True)
class Mixture:
    """Candidates with their shares, none of them 0, and what they say together.

    Attributes
    ----------
    parts : tuple of (Candidate, float)
    log_proba : ndarray of shape (n_held_out, n_classes)
        Of the rows that all of them hold out.
    held_out : ndarray of shape (n_rows,), bool
    loss : float
        Their mean log loss at the best temperature [nats].
    inverse_temperature : float
    """

    parts: tuple[tuple[Candidate, float], ...]
    log_proba: NDArray[np.float64]
    held_out: NDArray[np.bool_]
    loss: float
    inverse_temperature: float

    def row_losses(self, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the log loss of each row at the best temperature [nats], NaN in rows that are not held out."""
        losses = np.full(len(labels), np.nan)
        logits = self.inverse_temperature * self.log_proba
        losses[self.held_out] = cross_entropy(logits, labels[self.held_out], reduction="none")
        return losses

    @property
    def words(self) -> tuple[str, ...]:
        """Each part in words."""
        return tuple(_words(part, share, is_alone=len(self.parts) == 1) for part, share in self.parts)


def _words(part: Candidate, share: float, *, is_alone: bool) -> str:
    if part.is_regression:
        name = "softmax regression" + (" on few of many inputs" if part.selects_inputs else "")
        return name if is_alone else f"{name} with a share of {share:g}"
    n = part.fitted.spec.n_members
    dropping = ", columns dropped" if part.fitted.plan.input_dropout else ""
    return f"{n} network{'s' if n > 1 else ''} {'with' if part.sees_bins else 'without'} bins{dropping}"


def best_mixture(candidates: Sequence[Candidate], labels: NDArray[np.int64], weight: NDArray[np.float64]) -> Mixture:
    """Return the mixture with the lowest held-out log loss, the first of those that are equal.

    Networks are in it in equal shares or not at all, softmax regression with half a share or a whole one or alone:
    few choices, so that the rows that choose hardly overrate what is chosen. Softmax regression on few of many inputs,
    of which the rows have chosen much already, is in it where it gains more than a standard error.
    """
    plain = [candidate for candidate in candidates if not candidate.selects_inputs]
    without = _lowest(plain, labels, weight)
    if len(plain) == len(candidates):
        return without
    best = _lowest(candidates, labels, weight)
    return best if _is_clearly_better(best, without, labels, weight) else without


def _lowest(candidates: Sequence[Candidate], labels: NDArray[np.int64], weight: NDArray[np.float64]) -> Mixture:
    return min((mixed(parts, labels, weight) for parts in _combinations(candidates)), key=lambda mixture: mixture.loss)


def _is_clearly_better(one: Mixture, other: Mixture, labels: NDArray[np.int64], weight: NDArray[np.float64]) -> bool:
    """Whether the losses of rows that both hold out are lower by more than a standard error of the difference."""
    both = one.held_out & other.held_out
    gains, weight = other.row_losses(labels)[both] - one.row_losses(labels)[both], weight[both]
    return float(np.average(gains, weights=weight)) > standard_error(gains, weight)


def _combinations(candidates: Sequence[Candidate]) -> Iterator[tuple[tuple[Candidate, float], ...]]:
    networks = [candidate for candidate in candidates if not candidate.is_regression]
    regressions = [candidate for candidate in candidates if candidate.is_regression]
    for regression in regressions:
        yield ((regression, 1.0),)
    for size in range(1, len(networks) + 1):
        for chosen in combinations(networks, size):
            yield tuple((network, 1.0) for network in chosen)
            for regression in regressions:
                if can_join(regression.fitted, chosen[0].fitted.spec):
                    for share in REGRESSION_SHARES:
                        yield (*((network, 1.0) for network in chosen), (regression, share))


def mixed(
    parts: tuple[tuple[Candidate, float], ...], labels: NDArray[np.int64], weight: NDArray[np.float64]
) -> Mixture:
    """Return what candidates with shares say together of the rows that all of them hold out."""
    held_out = ~np.any([np.isnan(part.log_proba[:, 0]) for part, _ in parts], axis=0)
    total = sum(share for _, share in parts)
    terms = [part.log_proba[held_out] + np.log(share / total) for part, share in parts]
    log_proba = np.logaddexp.reduce(terms, axis=0)
    loss, beta = held_out_log_loss_after_temperature(log_proba, labels[held_out], weight[held_out])
    return Mixture(parts, log_proba, held_out, loss, beta)


def can_join(regression: Fitted, network: NetworkSpec) -> bool:
    """Whether a softmax regression, at its temperature, can be a member of a network with hidden layers."""
    units = 2 * (network.n_classes - 1)
    return (
        network.n_members > 1
        and regression.calibration.method != "matrix"
        and network.activation in CARRIES_LOGITS
        and network.output == regression.spec.output == "softmax"
        and not network.embedding_size
        and all(size >= units for size in network.hidden_layer_sizes)
    )


def joined(mixture: Mixture, bins: slice) -> tuple[NetworkSpec, dict[str, NDArray[Any]], bool]:
    """Return a mixture as one network, and whether it reads the piecewise-linear bins.

    Parameters
    ----------
    mixture : Mixture
    bins : slice
        Where the bins lie in the dense block, for those parts that see them.
    """
    with_bins = any(part.sees_bins for part, _ in mixture.parts)
    if len(mixture.parts) == 1:
        fitted = mixture.parts[0][0].fitted
        return fitted.spec, fitted.params, with_bins
    network = next(part.fitted for part, _ in mixture.parts if not part.is_regression)
    members = []
    for part, share in mixture.parts:
        params: Mapping[str, NDArray[Any]] = part.fitted.params
        copies = 1
        if part.is_regression:
            params = regression_as_member(part.fitted, network.spec)
            copies = max(round(share * network.spec.n_members), 1)
        if with_bins and not part.sees_bins:
            params = _blind_to(params, bins)
        members += [params] * copies
    n_dense = members[0]["layers.0.weight"].shape[1]
    n_members = sum(len(params["layers.0.weight"]) for params in members)
    out = {
        name: np.concatenate([params[name] for params in members], axis=1 if name == "sparse.weight" else 0)
        for name in network.params
    }
    return replace(network.spec, n_dense=n_dense, n_members=n_members), out, with_bins


def _blind_to(params: Mapping[str, NDArray[Any]], bins: slice) -> dict[str, NDArray[Any]]:
    """Return the parameters with weights of 0 for inputs that they were trained without."""
    weight = params["layers.0.weight"]
    zeros = np.zeros((len(weight), bins.stop - bins.start, weight.shape[2]), weight.dtype)
    wide = np.concatenate([weight[:, : bins.start], zeros, weight[:, bins.start :]], axis=1)
    return {**params, "layers.0.weight": wide}


def regression_as_member(regression: Fitted, network: NetworkSpec) -> dict[str, NDArray[Any]]:
    """Return softmax regression, at its temperature, as the parameters of one member with hidden layers.

    Of K logits K - 1 differences from the first one are carried, each by two units: f(z) - f(-z) = z.
    """
    beta = regression.calibration.inverse_temperature
    n = network.n_classes - 1
    sizes = (*network.hidden_layer_sizes, network.n_classes)

    def differences(of: NDArray[Any]) -> NDArray[Any]:
        return np.asarray((of[..., 1:] - of[..., :1]) * beta)

    def placed(block: NDArray[Any], width: int) -> NDArray[Any]:
        out = np.zeros((*block.shape[:-1], width))
        out[..., :n], out[..., n : 2 * n] = block, -block
        return out

    params = {
        "layers.0.weight": placed(differences(regression.params["layers.0.weight"]), sizes[0]),
        "layers.0.bias": placed(differences(regression.params["layers.0.bias"]), sizes[0]),
    }
    if "sparse.weight" in regression.params:
        params["sparse.weight"] = placed(differences(regression.params["sparse.weight"]), sizes[0])
    for i, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        is_head = i == len(sizes) - 1
        carried = np.zeros((inputs, n))
        carried[:n], carried[n : 2 * n] = np.eye(n), -np.eye(n)
        weight = np.zeros((inputs, outputs))
        weight[:, slice(1, None) if is_head else slice(0, 2 * n)] = (
            carried if is_head else np.concatenate([carried, -carried], axis=1)
        )
        params[f"layers.{i}.weight"] = weight[None]
        params[f"layers.{i}.bias"] = np.zeros((1, outputs))
    return params
