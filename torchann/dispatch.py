"""Which implementation of the sweeps runs: the readable one, `sweeps`, or a faster one with the same results.

This is the one place that chooses. An implementation is whatever has `forward` and `backward` as in `sweeps`: the
module itself, `blocks.Blocks`, … The readable one runs wherever a transform watches each operation, and for activations
that have no kernel; the tests hold the others to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from torchann import blocks, sweeps
from torchann.activations import Activation
from torchann.kernels import FUSED
from torchann.sweeps import Optionals, Signals, Wanted


class Implementation(Protocol):
    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Optionals,
        activations: Sequence[Activation],
        keep: bool = True,
    ) -> tuple[Tensor, list[Tensor]]: ...

    def backward(
        self,
        grad_output: Tensor | None,
        zetas: Optionals,
        x: Tensor,
        weights: Sequence[Tensor],
        kept: list[Tensor],  # may be emptied
        activations: Sequence[Activation],
        wanted: Wanted,
    ) -> Signals: ...


def choose(x: Tensor, weights: Sequence[Tensor], activations: Sequence[Activation]) -> Implementation:
    """For a network in plain autograd."""
    for activation in activations:
        if activation not in FUSED:
            return sweeps
    return blocks.for_network(x, weights)
