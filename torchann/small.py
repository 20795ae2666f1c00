"""The sweeps for networks so small that a call in Python takes as long as a product: no checks for each layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import linear

from torchann import formulas, sweeps
from torchann.activations import Activation
from torchann.blocks import in_place
from torchann.kernels import FUSED
from torchann.sweeps import Optionals, Signals, Wanted, every

LEAST = 1 << 22  # multiplications in a product: with so many, a call is next to nothing


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    keep: Sequence[bool] | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """As `sweeps.forward`."""
    kept: list[Tensor | None] = []
    for weight, bias, activation, keeps in zip(weights, biases, activations, keep or every(weights), strict=True):
        x = FUSED[activation].activate_(linear(x, weight, bias))
        kept.append(x if keeps else None)
    return x, kept


def backward(
    grad_output: Tensor | None,
    zetas: Optionals,
    x: Tensor | None,
    weights: Optionals,
    kept: list[Tensor | None],
    activations: Sequence[Activation],
    wanted: Wanted,
) -> Signals:
    """As `sweeps.backward`; δ is written over ē where that is ours, and `kept` emptied on the way."""
    if grad_output is None or any(zeta is not None for zeta in zetas):
        return sweeps.backward(grad_output, zetas, x, weights, kept, activations, wanted)
    return in_place(grad_output, x, weights, kept, activations, wanted, products=formulas)
