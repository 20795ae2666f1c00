"""The formulas that have a faster kernel, under the same names and signatures; the rest falls through to `formulas`.

Of one layer's formulas; which sweep over the layers runs is chosen in `dispatch`. The tests hold every kernel to its
formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchann import formulas, onednn, transforms
from torchann.activations import TABLE, Activation

aten = torch.ops.aten


class Fused(NamedTuple):
    """Few passes over memory each."""

    activate_: Callable[[Tensor], Tensor]  # f in place
    delta: Callable[[Tensor, Any], Tensor]  # (ē, o) → ē ⊙ f′(z)
    delta_: Callable[[Tensor, Any], Tensor]  # the same, over ē
    zeta: Callable[[Tensor, Tensor], Tensor] | None  # (t ⊙ f′(z) ⊙ ē, o) → t ⊙ ē ⊙ f″(z); None where f″ = 0


FUSED: dict[Activation, Fused] = {
    TABLE["sigmoid"]: Fused(
        torch.sigmoid_,
        aten.sigmoid_backward.default,
        lambda error, o: aten.sigmoid_backward.grad_input(error, o, grad_input=error),
        lambda a, o: torch.addcmul(a, a, o, value=-2),  # f″ = f′ (1 − 2o)
    ),
    TABLE["tanh"]: Fused(
        torch.tanh_,
        aten.tanh_backward.default,
        lambda error, o: aten.tanh_backward.grad_input(error, o, grad_input=error),
        lambda a, o: (a * o).mul_(-2),  # f″ = −2 f′ o
    ),
    TABLE["relu"]: Fused(
        torch.relu_,
        lambda error, o: aten.threshold_backward.default(error, o, 0),
        lambda error, o: aten.threshold_backward.grad_input(error, o, 0, grad_input=error),
        None,
    ),
    TABLE["identity"]: Fused(lambda z: z, lambda error, o: error, lambda error, o: error, None),
}


def layer(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    """o = f(x Wᵀ + b), f in place: only where nothing looks at single operations."""
    if onednn.suits(x.shape[0] * weight.numel(), x, weight):
        if activation in FUSED and activation.name in onednn.ACTIVATIONS:
            return onednn.linear(x, weight, bias, activation.name)
        return activate_(onednn.linear(x, weight, bias), activation)
    return activate_(formulas.pre_activation(x, weight, bias), activation)


def pre_activation(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """z = x Wᵀ + b"""
    linear = onednn.linear if onednn.suits(x.shape[0] * weight.numel(), x, weight) else formulas.pre_activation
    return linear(x, weight, bias)


def input_gradient(delta: Tensor, weight: Tensor) -> Tensor:
    """∂E/∂x = δ W"""
    if onednn.suits(delta.shape[0] * weight.numel(), delta, weight):
        return onednn.linear(delta, weight.t())
    return formulas.input_gradient(delta, weight)


def weight_gradient(delta: Tensor, x: Tensor) -> Tensor:
    """∂E/∂W = δᵀ x"""
    if onednn.suits_weight_gradient(delta.numel() * x.shape[1], delta, x):
        return onednn.weight_gradient(delta, x)
    return formulas.weight_gradient(delta, x)


def tangent(
    x: Tensor | None,
    weight: Tensor | None,
    x_dot: Tensor | None,
    weight_dot: Tensor | None,
    bias_dot: Tensor | None,
) -> Tensor | None:
    """t = ẋ Wᵀ + x Ẇᵀ + ḃ"""
    return formulas.tangent(x, weight, x_dot, weight_dot, bias_dot, pre_activation)


def activate_(z: Tensor, activation: Activation) -> Tensor:
    """o = f(z), written over z where there is a kernel for it."""
    fused = FUSED.get(activation)
    return fused.activate_(z) if fused else formulas.activate(z, activation)


def delta(grad_output: Tensor, s: Tensor | None, activation: Activation) -> Tensor:
    """δ = ē ⊙ f′(z); for the identity it is ē itself, so what comes back is not to be written over.

    s is None where f′ is a constant (`formulas.slope_is_constant`).
    """
    fused = FUSED.get(activation)
    if fused:
        return fused.delta(grad_output, s)
    assert s is not None
    return formulas.delta(grad_output, s, activation)


def is_straight(activation: Activation) -> bool:
    """Whether f″ is known to be zero everywhere, so that ζ is."""
    fused = FUSED.get(activation)
    return fused is not None and fused.zeta is None


def zeta(t: Tensor, t_through_f: Tensor, grad_output: Tensor, s: Tensor, activation: Activation) -> Tensor:
    """ζ = t ⊙ ē ⊙ f″(z), where f′ is not a constant; t ⊙ f′(z), which the caller has, saves a pass or two."""
    if is_straight(activation):
        return transforms.zeros_like(t)
    fused = FUSED.get(activation)
    if fused and fused.zeta:
        return fused.zeta(t_through_f * grad_output, s)
    return formulas.zeta(t, grad_output, s, activation)
