"""The formulas of one layer with the faster product of matrices, PyTorch's own or oneDNN's, by size.

For where nothing looks on. The names and signatures are those of `formulas`; what is no product comes from `fused`.
"""

from __future__ import annotations

from torch import Tensor

from torchann import formulas
from torchann.activations import Activation
from torchann.fast import onednn
from torchann.fast.fused import KERNELS, activate, bias_gradient, delta, plus, zeta

__all__ = [
    "activate", "bias_gradient", "delta", "input_gradient", "layer", "plus", "pre_activation",
    "tangent", "weight_gradient", "zeta",
]  # fmt: skip


def layer(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    """o = f(x Wᵀ + b), f written over z."""
    is_large = onednn.is_faster(x.shape[0] * weight.numel(), x, weight)
    if is_large and activation in KERNELS and activation.name in onednn.ACTIVATIONS:
        return onednn.linear(x, weight, bias, activation.name)
    linear = onednn.linear if is_large else formulas.pre_activation
    return activate(linear(x, weight, bias), activation)


def pre_activation(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """z = x Wᵀ + b"""
    is_large = onednn.is_faster(x.shape[0] * weight.numel(), x, weight)
    return (onednn.linear if is_large else formulas.pre_activation)(x, weight, bias)


def weight_gradient(delta: Tensor, x: Tensor) -> Tensor:
    """∂E/∂W = δᵀ x"""
    is_large = onednn.is_faster_for_weight_gradient(delta.numel() * x.shape[1], delta, x)
    return (onednn if is_large else formulas).weight_gradient(delta, x)


def input_gradient(delta: Tensor, weight: Tensor) -> Tensor:
    """∂E/∂x = δ W"""
    if onednn.is_faster(delta.shape[0] * weight.numel(), delta, weight):
        return onednn.linear(delta, weight.t())
    return formulas.input_gradient(delta, weight)


def tangent(
    x: Tensor | None,
    weight: Tensor | None,
    x_dot: Tensor | None,
    weight_dot: Tensor | None,
    bias_dot: Tensor | None,
) -> Tensor | None:
    """t = ẋ Wᵀ + x Ẇᵀ + ḃ"""
    return formulas.tangent(x, weight, x_dot, weight_dot, bias_dot, pre_activation)
