"""The formulas of one layer, once, as pure functions of tensors: no autograd, no state.

Symbols, for N samples, I inputs and O outputs:

    symbol            shape         meaning
    x                 [N, I]        what the layer receives
    W, b              [O, I], [O]   weights and biases
    z = x Wᵀ + b      [N, O]        pre-activation
    o = f(z)          [N, O]        the neurons' outputs
    s                 [N, O]        what f′ and f″ read: o or z, as `Activation.reads` says
    ē = ∂E/∂o         [N, O]        how the error changes with the output
    δ = ∂E/∂z         [N, O]        a neuron's error signal
    ẋ, Ẇ, ḃ           as x, W, b    tangents; in the double backward, cotangents of ∂E/∂x, ∂E/∂W, ∂E/∂b
    t = ż             [N, O]        the tangent of z along them
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from torchann.activations import TABLE, Activation

IDENTITY = TABLE["identity"]


def pre_activation(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """z = x Wᵀ + b  [N, O]"""
    return F.linear(x, weight, bias)


def activate(z: Tensor, activation: Activation) -> Tensor:
    """o = f(z)  [N, O]"""
    return activation.f(z)


def slope_is_constant(activation: Activation) -> bool:
    """Whether f′ is a constant, so that δ needs no s: true of the identity, whose f′ is 1"""
    return activation is IDENTITY


def delta(grad_output: Tensor, s: Tensor | None, activation: Activation) -> Tensor:
    """δ = ē ⊙ f′(z)  [N, O]; with a tangent in ē's place, ȯ = ż ⊙ f′(z). s may be None where f′ is a constant."""
    if slope_is_constant(activation):
        return grad_output
    assert activation.df is not None
    assert s is not None
    return grad_output * activation.df(s)


def weight_gradient(delta: Tensor, x: Tensor) -> Tensor:
    """∂E/∂W = δᵀ x  [O, I]"""
    return delta.t().mm(x)


def bias_gradient(delta: Tensor) -> Tensor:
    """∂E/∂b = Σₙ δₙ  [O]"""
    return delta.sum(0)


def input_gradient(delta: Tensor, weight: Tensor) -> Tensor:
    """∂E/∂x = δ W  [N, I], which is ē of the layer below (case 2)"""
    return delta.mm(weight)


def tangent(
    x: Tensor | None,
    weight: Tensor | None,
    x_dot: Tensor | None,
    weight_dot: Tensor | None,
    bias_dot: Tensor | None,
    linear: Callable[..., Tensor] = F.linear,
) -> Tensor | None:
    """t = ẋ Wᵀ + x Ẇᵀ + ḃ  [N, O]; a tangent of None is zero. `linear` computes the products.

    If ẋ is None, W is not read. If Ẇ is None, only the number of rows of x is read: any tensor of N rows will do.
    """
    t = None if x_dot is None else linear(x_dot, weight)
    if weight_dot is not None:
        t = linear(x, weight_dot) if t is None else t + linear(x, weight_dot)
    if bias_dot is not None:
        t = t + bias_dot if t is not None else None if x is None else bias_dot.expand(x.shape[0], -1)
    return t


def zeta(t: Tensor, t_slope: Tensor, grad_output: Tensor, s: Tensor, activation: Activation) -> Tensor:
    """ζ = t ⊙ ē ⊙ f″(z)  [N, O], the gradient of ⟨t, δ⟩ with respect to z.

    `t_slope` is t ⊙ f′(z), unused here: faster implementations with the same signature start from it.
    """
    assert activation.d2f is not None
    return t * grad_output * activation.d2f(s)


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b; None stands for zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def half_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """E = ½ Σₖ (oₖ − yₖ)²  [N], one value a sample"""
    return (output - target).square().sum(-1) / 2


def half_squared_error_gradient(output: Tensor, target: Tensor) -> Tensor:
    """ē = ∂E/∂o = o − y  [N, K] (case 1)"""
    return output - target


def half_squared_error_tangent(output: Tensor, target: Tensor, output_dot: Tensor, target_dot: Tensor) -> Tensor:
    """Ė = Σₖ (oₖ − yₖ)(ȯₖ − ẏₖ)  [N]"""
    return ((output - target) * (output_dot - target_dot)).sum(-1)
