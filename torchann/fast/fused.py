"""The formulas of one layer with PyTorch's kernels for f, f′ and f″, under the same names and signatures.

Autograd can differentiate them, so higher derivatives use them. The tests compare each with its formula. For an
activation without kernels, `formulas` is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchann import formulas
from torchann.activations import TABLE, Activation
from torchann.formulas import bias_gradient, input_gradient, pre_activation, tangent, weight_gradient
from torchann.transforms import is_zero, zeros_like

__all__ = [
    "KERNELS", "ZETA", "activate", "bias_gradient", "delta", "has_zero_second_derivative", "input_gradient", "plus",
    "pre_activation", "tangent", "weight_gradient", "zeta",
]  # fmt: skip

aten = torch.ops.aten


class Kernels(NamedTuple):
    """The kernels of one activation, which pass over memory fewer times than its formulas."""

    activate_: Callable[[Tensor], Tensor]  # f in place
    delta: Callable[[Tensor, Any], Tensor]  # (ē, o) → ē ⊙ f′(z)
    delta_: Callable[[Tensor, Any], Tensor]  # the same, over ē


def kernels_by_name(activate_: str, backward: str, *number: float) -> Kernels:
    """PyTorch's kernels, by the names in `Activation.aten`."""
    delta, delta_into = getattr(aten, backward).default, getattr(aten, backward).grad_input
    return Kernels(
        getattr(torch, activate_),
        (lambda grad_output, o: delta(grad_output, o, *number)) if number else delta,
        lambda grad_output, o: delta_into(grad_output, o, *number, grad_input=grad_output),
    )


KERNELS: dict[Activation, Kernels] = {
    **{row: kernels_by_name(*row.aten) for row in TABLE.values() if row.aten},
    TABLE["identity"]: Kernels(lambda z: z, lambda delta, o: delta, lambda delta, o: delta),  # δ = ē
}

# ζ from t ⊙ f′(z) ⊙ ē and o, in fewer passes over memory than its formula takes.
ZETA: dict[Activation, Callable[[Tensor, Tensor], Tensor]] = {
    TABLE["sigmoid"]: lambda a, o: torch.addcmul(a, a, o, value=-2),  # f″ = f′ (1 − 2o)
    TABLE["tanh"]: lambda a, o: (a * o).mul_(-2),  # f″ = −2 f′ o
}


def activate(z: Tensor, activation: Activation) -> Tensor:
    """o = f(z), written over z where the derivatives don't read z."""
    kernels = KERNELS.get(activation)
    return kernels.activate_(z) if kernels else activation.f(z)


def delta(grad_output: Tensor, s: Tensor | None, activation: Activation) -> Tensor:
    """δ = ē ⊙ f′(z); for the identity it is ē itself, so the caller must not write over the result."""
    kernels = KERNELS.get(activation)
    return kernels.delta(grad_output, s) if kernels else formulas.delta(grad_output, s, activation)


def has_zero_second_derivative(activation: Activation) -> bool:
    """Whether f″ is known to be zero everywhere, so that ζ is."""
    return activation in KERNELS and activation.d2f is torch.zeros_like


def zeta(t: Tensor, t_slope: Tensor, grad_output: Tensor, s: Tensor, activation: Activation) -> Tensor:
    """ζ = t ⊙ ē ⊙ f″(z) for an f′ that is not constant; starting from t ⊙ f′(z) saves a pass or two."""
    if has_zero_second_derivative(activation):
        return zeros_like(t)  # as in PyTorch, whose relu gives zeros; these take no memory
    if activation in ZETA:
        return ZETA[activation](t_slope * grad_output, s)
    return formulas.zeta(t, t_slope, grad_output, s, activation)


def plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b; None stands for zero"""
    return b if is_zero(a) and b is not None else formulas.plus(a, b)
