"""The sweeps of `sweeps` where nothing looks on: in place, and on the CPU in blocks of rows that stay in the cache.

All layers of a block come before the next block, forward and backward, so that what one layer writes is still in the
cache when the next reads it. δ is written over ē of the same layer, but never over what autograd handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from torchann import formulas, kernels, sweeps
from torchann.activations import Activation
from torchann.kernels import FUSED
from torchann.sweeps import Optionals, Signals, Wanted, blank, every, there

BLOCK_BYTES = 2 << 20  # of the widest layer's output: about what stays in the caches beside the weights
LEAST_ROWS = 2048  # of a block: below, the products slow down
LEAST_BLOCKS = 4  # of a backward sweep: what a block needs is allocated beside all that is kept
WIDEST = 1024  # beyond, adding up ∂E/∂W takes longer than is saved


class Blocks:
    """The sweeps, so many rows at a time; None for all at once."""

    def __init__(self, forward_rows: int | None, backward_rows: int | None) -> None:
        self.forward_rows = forward_rows
        self.backward_rows = backward_rows

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Optionals,
        activations: Sequence[Activation],
        keep: Sequence[bool] | None = None,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """As `sweeps.forward`."""
        samples, rows = x.shape[0], self.forward_rows
        if rows is None:
            return whole_forward(x, weights, biases, activations, keep)
        keep = keep or every(weights)
        output = x.new_empty(samples, weights[-1].shape[0])
        kept: list[Tensor | None] = [
            x.new_empty(samples, weight.shape[0]) if keeps else None
            for weight, keeps in zip(weights[:-1], keep[:-1], strict=True)
        ]
        kept.append(output if keep[-1] else None)
        for start in range(0, samples, rows):
            block = slice(start, start + rows)
            o = x[block]
            for weight, bias, activation, store in zip(weights, biases, activations, kept, strict=True):
                o = kernels.layer(o, weight, bias, activation)
                if store is not None:
                    store[block] = o
                    o = store[block]
            if kept[-1] is None:
                output[block] = o
        return output, kept

    def backward(
        self,
        grad_output: Tensor | None,
        zetas: Optionals,
        x: Tensor | None,
        weights: Optionals,
        kept: list[Tensor | None],
        activations: Sequence[Activation],
        wanted: Wanted,
    ) -> Signals:
        """As `sweeps.backward`; all at once, it empties `kept` on the way, so that what it has passed is freed."""
        if grad_output is None or not all(zeta is None for zeta in zetas):
            return sweeps.backward(grad_output, zetas, x, weights, kept, activations, wanted)
        if self.backward_rows is None:
            return in_place(grad_output, x, weights, kept, activations, wanted)
        samples = grad_output.shape[0]
        x_grad = grad_output.new_empty(samples, there(weights[0]).shape[1]) if wanted.x else None
        sums: list[Tensor | None] = []
        for start in range(0, samples, self.backward_rows):
            block = slice(start, start + self.backward_rows)
            x_block, *kept_block = (None if each is None else each[block] for each in (x, *kept))
            signals = in_place(grad_output[block], x_block, weights, kept_block, activations, wanted)
            if x_grad is not None and signals.x is not None:
                x_grad[block] = signals.x
            shares = [*signals.weights, *signals.biases]
            sums = [accumulate(*pair) for pair in zip(sums, shares, strict=True)] if sums else shares
        return Signals(x_grad, sums[: len(weights)], sums[len(weights) :])


WHOLE = Blocks(None, None)


def for_network(x: Tensor, weights: Sequence[Tensor]) -> Blocks:
    """With the rows that suit a network, if blocks are any use to it."""
    samples = x.shape[0]
    if samples < LEAST_BLOCKS * LEAST_ROWS or x.device.type != "cpu":
        return WHOLE
    if x.dtype not in (torch.float32, torch.float64):  # a sum over blocks in a short dtype would lose digits
        return WHOLE
    widest = max(weight.shape[0] for weight in weights)
    if widest > WIDEST:
        return WHOLE
    rows = max(BLOCK_BYTES // (widest * x.element_size()), LEAST_ROWS)
    return Blocks(rows if rows < samples else None, min(rows, samples // LEAST_BLOCKS))


def whole_forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    keep: Sequence[bool] | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """`sweeps.forward` with f over z."""
    kept: list[Tensor | None] = []
    for weight, bias, activation, keeps in zip(weights, biases, activations, keep or every(weights), strict=True):
        x = kernels.layer(x, weight, bias, activation)
        kept.append(x if keeps else None)
    return x, kept


def in_place(
    grad_output: Tensor,
    x: Tensor | None,
    weights: Optionals,
    kept: list[Tensor | None],
    activations: Sequence[Activation],
    wanted: Wanted,
    products: ModuleType = kernels,
) -> Signals:
    """`sweeps.backward` with δ over ē, where ē is its own; it empties `kept`. `products` may be the bare `formulas`."""
    depth, lowest = len(weights), wanted.lowest
    weight_grads, bias_grads = blank(depth), blank(depth)
    error: Tensor = grad_output
    for layer in range(depth - 1, lowest - 1, -1):
        o = kept.pop()
        fused = FUSED[activations[layer]]
        delta = fused.delta(error, o) if error is grad_output else fused.delta_(error, o)
        del o
        if wanted.weights[layer]:
            weight_grads[layer] = products.weight_gradient(delta, kept[-1] if layer else x)
        if wanted.biases[layer]:
            bias_grads[layer] = formulas.bias_gradient(delta)
        if layer > lowest or wanted.x:
            error = products.input_gradient(delta, weights[layer])
    return Signals(error if wanted.x else None, weight_grads, bias_grads)


def accumulate(total: Tensor | None, share: Tensor | None) -> Tensor | None:
    return share if total is None or share is None else total.add_(share)
