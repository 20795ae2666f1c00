"""The numbers of one traced layer, and what is derived from them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from torchann.activations import Activation


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """One use of a `Dense` layer, in the symbols of `torchann.formulas`; leading dimensions are folded into N.

    Attributes:
        name: of the layer in the model, such as `layers.0`; `layers.0-2` for its second use in the same forward pass.
        activation: a row of the activations' table, or an `Activation` around a callable.
        follows: whether x is the output of the preceding layer of the trace.
        x: [N, I], the inputs.
        weight: W [O, I].
        bias: b [O], or None.
        z: [N, O], the pre-activations.
        o: [N, O], the outputs.
        slope: f′(z) [N, O].
        grad_output: ē = ∂E/∂o [N, O].
        delta: δ = ∂E/∂z [N, O], a neuron's error signal.
        weight_gradient: ∂E/∂W [O, I], from this use of the layer only.
        bias_gradient: ∂E/∂b [O], from this use of the layer only.
    """

    name: str
    activation: Activation
    follows: bool
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    z: Tensor
    o: Tensor
    slope: Tensor
    grad_output: Tensor
    delta: Tensor
    weight_gradient: Tensor
    bias_gradient: Tensor

    @property
    def mean_delta(self) -> Tensor:
        """Mean |δ| of each neuron over the samples  [O]: how much it contributed to the error."""
        return self.delta.abs().mean(0)

    @property
    def share(self) -> Tensor:
        """Each neuron's share of the layer's mean |δ|  [O]; they add up to 1, or are 0 if all δ are 0."""
        mean = self.mean_delta
        return (mean / mean.sum()).where(mean != 0, 0)

    @cached_property  # because finding max |f′| of a callable takes longer than the trace
    def flatness(self) -> Tensor:
        """1 − mean |f′| / max |f′| of each neuron  [O]: 0 where f is steepest for every sample, 1 where it is flat."""
        return 1 - self.slope.abs().mean(0) / steepest(self)


def steepest(layer: LayerTrace) -> Tensor:
    """max |f′| for z from −20 to 20  [O], or [1] if f is the same for all neurons."""
    z = torch.linspace(-20, 20, 2001, dtype=layer.z.dtype, device=layer.z.device).unsqueeze(1)
    if layer.activation.df is None:  # a callable, which may have a parameter for each neuron
        z = z.expand(-1, len(layer.weight))
    return derivative(layer.activation, z, layer.activation.f(z)).abs().amax(0)


def derivative(activation: Activation, z: Tensor, o: Tensor) -> Tensor:
    """f′(z), by autograd if the activation has no df."""
    if activation.df is not None:
        return activation.df(o if activation.reads_output else z)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        return torch.autograd.grad(activation.f(z).sum(), z)[0]


def as_dict(layer: LayerTrace) -> dict[str, Any]:
    shares = {"mean_delta": layer.mean_delta, "share": layer.share}
    own = {field.name: getattr(layer, field.name) for field in fields(layer)}
    values = {**own, "activation": layer.activation.name, **shares}
    return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in values.items()}
