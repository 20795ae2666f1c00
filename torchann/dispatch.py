"""Which implementation of a sweep runs: the readable one of `sweeps`, or a faster one with the same results.

This is the one place that chooses. The readable sweeps run wherever a transform watches each operation; the tests hold
the others to them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchann import blocks, modes, sweeps
from torchann.activations import Activation
from torchann.sweeps import Optionals, Signals, Wanted


def forward(
    x: Tensor, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation]
) -> tuple[Tensor, list[Tensor]]:
    """As `sweeps.forward`."""
    if blocks.suit(x, weights, activations) and modes.plain():
        return blocks.forward(x, weights, biases, activations)
    return sweeps.forward(x, weights, biases, activations)


def backward(
    grad_output: Tensor | None,
    zetas: Optionals,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    activations: Sequence[Activation],
    wanted: Wanted,
) -> Signals:
    """As `sweeps.backward`, in plain autograd without a graph."""
    if grad_output is not None and blocks.suit(x, weights, activations) and not any_tensor(zetas):
        return blocks.backward(grad_output, x, weights, kept, activations, wanted)
    return sweeps.backward(grad_output, zetas, x, weights, kept, activations, wanted)


def any_tensor(tensors: Optionals) -> bool:
    return any(tensor is not None for tensor in tensors)
