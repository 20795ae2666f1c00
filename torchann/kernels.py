"""The formulas that have a faster kernel, under the same names and signatures; the rest falls through to `formulas`.

Which implementation runs is chosen here and nowhere else. The tests hold every kernel to its formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from torchann import formulas
from torchann.activations import TABLE, Activation

aten = torch.ops.aten


@dataclass(frozen=True)
class Fused:
    """One pass over memory each; `delta_out` writes into its last argument, which may be ē itself."""

    activate_: Callable[[Tensor], Tensor]  # f in place
    delta: Callable[[Tensor, Tensor], Tensor]  # (ē, o) → ē ⊙ f′(z)
    delta_out: Callable[[Tensor, Tensor, Tensor], Tensor]
    straight: bool = False  # f″ = 0


FUSED: dict[Activation, Fused] = {
    TABLE["sigmoid"]: Fused(
        torch.sigmoid_,
        aten.sigmoid_backward.default,
        lambda error, o, out: aten.sigmoid_backward.grad_input(error, o, grad_input=out),
    ),
    TABLE["tanh"]: Fused(
        torch.tanh_,
        aten.tanh_backward.default,
        lambda error, o, out: aten.tanh_backward.grad_input(error, o, grad_input=out),
    ),
    TABLE["relu"]: Fused(
        torch.relu_,
        lambda error, o: aten.threshold_backward.default(error, o, 0),
        lambda error, o, out: aten.threshold_backward.grad_input(error, o, 0, grad_input=out),
        straight=True,
    ),
    TABLE["identity"]: Fused(lambda z: z, lambda error, o: error, lambda error, o, out: error, straight=True),
}


def activate_(z: Tensor, activation: Activation) -> Tensor:
    """o = f(z), written over z where there is a kernel for it."""
    fused = FUSED.get(activation)
    return fused.activate_(z) if fused else formulas.activate(z, activation)


def delta(grad_output: Tensor, s: Tensor, activation: Activation) -> Tensor:
    """δ = ē ⊙ f′(z); for the identity it is ē itself, so what comes back is not to be written over."""
    fused = FUSED.get(activation)
    return fused.delta(grad_output, s) if fused else formulas.delta(grad_output, s, activation)


def zeta(t: Tensor, grad_output: Tensor, s: Tensor, activation: Activation) -> Tensor | None:
    """ζ = t ⊙ ē ⊙ f″(z); None where f″ is zero everywhere."""
    fused = FUSED.get(activation)
    return None if fused and fused.straight else formulas.zeta(t, grad_output, s, activation)
