"""All parameters of a network in one flat tensor, and the scales of a parametrisation (torch).

The scales lie between what is stored and what the forward pass uses, ``W = s_w theta_w`` and ``b = s_b theta_b``: with
``s_w = 1 / sqrt(inputs)`` and weights drawn from N(0, 1) one learning rate suits layers of every width (the neural
tangent parametrisation); with all of them 1 it is PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from softmaxnet.head_plan import HeadPlan, keeps_copies
from softmaxnet.network import NetworkSpec, parameter_shapes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Parameters", "ScaledSpec", "scaled_spec"]


@dataclass(frozen=True)
class ScaledSpec:
    """A network and the factor between each of its stored parameters and the number that the forward pass uses."""

    network: NetworkSpec
    scales: Mapping[str, float] = field(default_factory=dict)

    def scale(self, name: str) -> float:
        """Return the factor of one parameter; 1 where none is given."""
        return self.scales.get(name, 1.0)


def scaled_spec(spec: NetworkSpec, parametrization: str) -> ScaledSpec:
    """Return the scales of a parametrisation: ``"ntk"`` (a rate for every width) or ``"standard"`` (PyTorch's)."""
    if parametrization == "standard":
        return ScaledSpec(spec)
    scales = {}
    for i, inputs in enumerate(spec.layer_sizes[:-1]):
        scales[f"layers.{i}.weight"] = 1 / math.sqrt(max(inputs, 1))
        scales[f"layers.{i}.bias"] = 0.1
    for name in ("frequency", "phase", "weight"):
        scales[f"embedding.{name}"] = 0.1
    return ScaledSpec(spec, scales)


class Parameters:
    """All parameters of a network in one flat tensor, with a view for each name.

    Weights come first and everything that is never decayed (biases, embedding) after them, so that weight decay is one
    operation on a prefix. The sparse block's table stands apart: a batch touches few of its rows.

    Attributes
    ----------
    flat : Tensor of shape (n_parameters,)
    n_decayed : int
        Length of the prefix that weight decay applies to.
    views : dict of str to Tensor
    table : Tensor of shape (n_sparse, n_members * first layer) or None
    head : HeadPlan or None
        How steps go through the output layer; None where it is dense.
    by_class : bool
        There is such a plan: the output layer comes last, its weights with a row for each class (the view by name is
        the transpose), and as the forward pass takes them: its scale is a factor on its learning rate instead, so that
        a fitted model can share the memory.
    n_body : int
        Numbers before the output layer where it is by class, all of them otherwise.
    """

    def __init__(self, spec: ScaledSpec, *, dtype: Any, device: Any = "cpu", head: HeadPlan | None = None) -> None:
        import torch

        self.head = None if head is None or head.kind == "dense" else head
        self.by_class = by_class = self.head is not None
        shapes = parameter_shapes(spec.network)
        table = shapes.pop("sparse.weight", None)
        self.head_names = tuple(f"layers.{spec.network.n_layers - 1}.{part}" for part in ("weight", "bias"))
        last = self.head_names if by_class else ()
        # stable: file order within each part
        order = sorted(shapes, key=lambda name: (name in last, not _is_decayed(name)))
        sizes = {name: math.prod(shapes[name]) for name in order}
        self.spec = spec
        self.flat = torch.zeros(sum(sizes.values()), dtype=dtype, device=device)
        self.n_body = sum(size for name, size in sizes.items() if name not in last)
        self.n_decayed = sum(size for name, size in sizes.items() if _is_decayed(name) and name not in last)
        self._layout = {name: shapes[name] for name in order}
        self.views = self.views_of(self.flat)
        self.table = None if table is None else torch.zeros(table, dtype=dtype, device=device)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the views, which a pickle would cut off from the flat tensor."""
        return {name: value for name, value in vars(self).items() if name != "views"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.views = self.views_of(self.flat)

    def detach(self) -> None:
        """Go on in memory of its own: what shares the present numbers keeps them."""
        self.flat = self.flat.clone()
        self.views = self.views_of(self.flat)

    def views_of(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the views by name of another flat tensor of the same layout, or of its first ``n_body`` numbers."""
        views, start = {}, 0
        for name, shape in self._layout.items():
            stop = start + math.prod(shape)
            if stop > flat.numel():
                break
            if self.by_class and name == self.head_names[0]:
                views[name] = flat[start:stop].view(shape[0], shape[2], shape[1]).transpose(1, 2)
            else:
                views[name] = flat[start:stop].view(shape)
            start = stop
        return views

    def head_of(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output layer of a flat tensor: (n_members, n_classes, width) and (n_members, n_classes)."""
        weight, bias = (self.views_of(flat)[name] for name in self.head_names)
        return weight.transpose(1, 2), bias

    def scale(self, name: str) -> float:
        """Return the factor between a stored parameter and the number that the forward pass uses."""
        return 1.0 if self.by_class and name in self.head_names else self.spec.scale(name)

    @property
    def keeps_copies(self) -> bool:
        """Whether the weights are small enough to be copied: see :func:`softmaxnet.head_plan.keeps_copies`."""
        network = self.spec.network
        width = network.layer_sizes[-2]
        return not self.by_class or keeps_copies(
            width, network.n_classes, n_members=network.n_members, itemsize=self.flat.element_size()
        )

    def effective(self, flat: Tensor | None = None, table: Tensor | None = None) -> dict[str, Tensor]:
        """Return the parameters as the forward pass of ``network.py`` takes them, scales multiplied in.

        Those with a scale of 1 are views.
        """
        views = self.views if flat is None else self.views_of(flat)
        table = self.table if table is None else table
        scales = {name: self.scale(name) for name in views}
        out = {name: view if scales[name] == 1.0 else view * scales[name] for name, view in views.items()}
        if table is not None:
            out["sparse.weight"] = table * self.spec.scale("sparse.weight")
        return out

    def initialise(self, rng: np.random.Generator, gain: float = 1.0, zero_head: bool = True) -> None:
        """Draw new weights: N(0, gain^2 / inputs) as the forward pass sees them; biases 0, the last layer 0 if asked.

        The sparse table is drawn as if a row had one active input, so that a category level weighs as much as a number.
        """
        import torch

        network = self.spec.network
        last = f"layers.{network.n_layers - 1}.weight"
        for name, view in self.views.items():
            if name.endswith(".bias") or (name == last and zero_head and network.n_layers > 1):
                view.zero_()
                continue
            if name == last and self.by_class:
                _draw_by_class(rng, view, gain / math.sqrt(max(view.shape[1], 1)))
                continue
            draw = rng.standard_normal(tuple(view.shape))
            if name == "embedding.phase":
                draw = rng.uniform(-np.pi, np.pi, tuple(view.shape))
            elif name == "embedding.frequency":
                draw *= 0.1
            elif name == "embedding.weight":
                draw /= math.sqrt(network.n_frequencies)
            else:
                draw *= gain / math.sqrt(max(view.shape[1], 1))
            view.copy_(torch.from_numpy(draw / self.spec.scale(name)))
        if network.n_layers == 1:
            self.views["layers.0.weight"].zero_()
        if self.table is not None:
            draw32 = rng.standard_normal(tuple(self.table.shape), dtype=np.float32)
            width = max(network.n_inputs, 1)
            factor = 0.0 if network.n_layers == 1 else gain / math.sqrt(width) / self.spec.scale("sparse.weight")
            self.table.copy_(torch.from_numpy(draw32)).mul_(factor)


def _draw_by_class(rng: np.random.Generator, weight: Tensor, factor: float) -> None:
    """Fill the weights of an output layer with a row for each class, a block of classes at a time."""
    import torch

    for rows in weight.transpose(1, 2):
        for part in rows.split(max(2**20 // rows.shape[1], 1)):
            draw = rng.standard_normal(tuple(part.shape), dtype=np.float32)
            part.copy_(torch.from_numpy(draw)).mul_(factor)


def _is_decayed(name: str) -> bool:
    return name.startswith("layers.") and name.endswith(".weight")
