"""Which implementation of the sweeps runs: the readable one, `sweeps`, or a faster one with the same results.

This is the one place that chooses. An implementation is whatever has `forward` and `backward` as in `sweeps`: the
module itself, `small`, `blocks.Blocks`, `triton_kernels`. The readable one, which writes over nothing, runs wherever
something looks at single operations (transforms, modes, subclasses of Tensor), and for activations that have no kernel;
the tests hold the others to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol

from torch import Tensor

from torchann import blocks, small, sweeps, transforms
from torchann.activations import Activation
from torchann.kernels import FUSED
from torchann.sweeps import Optionals, Signals, Wanted
from torchann.transforms import ORDINARY

HAS_TRITON = find_spec("triton") is not None  # imported with the first network on a GPU


class Implementation(Protocol):
    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Optionals,
        activations: Sequence[Activation],
        keep: Sequence[bool] | None = None,
    ) -> tuple[Tensor, list[Tensor | None]]: ...

    def backward(
        self,
        grad_output: Tensor | None,
        zetas: Optionals,
        x: Tensor | None,
        weights: Optionals,
        kept: list[Tensor | None],  # may be emptied
        activations: Sequence[Activation],
        wanted: Wanted,
    ) -> Signals: ...


def choose(
    x: Tensor, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation]
) -> Implementation:
    """Where neither torch.func nor forward mode nor torch.compile is at work."""
    if not transforms.no_mode() or type(x) not in ORDINARY:
        return sweeps
    samples, is_small = x.shape[0], True
    for weight, bias, activation in zip(weights, biases, activations, strict=True):
        if activation not in FUSED or type(weight) not in ORDINARY or not (bias is None or type(bias) in ORDINARY):
            return sweeps
        is_small = is_small and samples * weight.numel() < small.LEAST
    if kernels := kernels_for(x, weights, activations):
        return kernels
    return small if is_small else blocks.for_network(x, weights)


def choose_compiled(x: Tensor, weights: Sequence[Tensor], activations: Sequence[Activation]) -> Implementation:
    """Under torch.compile, which fuses what it sees: the readable sweeps, or operators made of Triton kernels."""
    return kernels_for(x, weights, activations) or sweeps


def kernels_for(x: Tensor, weights: Sequence[Tensor], activations: Sequence[Activation]) -> Implementation | None:
    """The Triton kernels, if they are there and suit."""
    if not (HAS_TRITON and x.is_cuda):
        return None
    from torchann import triton_kernels

    return triton_kernels if triton_kernels.suit(x, weights, activations) else None
