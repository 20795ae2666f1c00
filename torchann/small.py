"""The sweeps for networks so small that a call in Python takes as long as a product: those of `sweeps`, written out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import linear

from torchann import sweeps
from torchann.activations import Activation
from torchann.kernels import FUSED
from torchann.sweeps import Optionals, Signals, Wanted, blank

LEAST = 1 << 22  # multiplications in a product: with so many, a call is next to nothing


def forward(
    x: Tensor, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation], keep: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """As `sweeps.forward`."""
    kept = []
    for weight, bias, activation in zip(weights, biases, activations, strict=True):
        x = FUSED[activation].activate_(linear(x, weight, bias))
        if keep:
            kept.append(x)
    return x, kept


def backward(
    grad_output: Tensor | None,
    zetas: Optionals,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: list[Tensor],
    activations: Sequence[Activation],
    wanted: Wanted,
) -> Signals:
    """As `sweeps.backward`; δ is written over ē where that is ours, and `kept` emptied on the way."""
    if grad_output is None or any(zeta is not None for zeta in zetas):
        return sweeps.backward(grad_output, zetas, x, weights, kept, activations, wanted)
    x_wanted, weights_wanted, biases_wanted = wanted
    depth, lowest = len(weights), wanted.lowest
    weight_grads, bias_grads = blank(depth), blank(depth)
    error: Tensor = grad_output
    for layer in range(depth - 1, lowest - 1, -1):
        fused = FUSED[activations[layer]]
        delta = (fused.delta if error is grad_output else fused.delta_)(error, kept.pop())
        if weights_wanted[layer]:
            weight_grads[layer] = delta.t().mm(kept[-1] if layer else x)
        if biases_wanted[layer]:
            bias_grads[layer] = delta.sum(0)
        if layer > lowest or x_wanted:
            error = delta.mm(weights[layer])
    return Signals(error if x_wanted else None, weight_grads, bias_grads)
