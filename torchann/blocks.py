"""The sweeps of `sweeps` where no transform watches: on the CPU in blocks of rows that stay in the cache, and in place.

All layers of a block come before the next block, forward and backward, so that what one layer writes is still in the
cache when the next reads it. δ is written over ē of the same layer, but never over what autograd handed in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchann import formulas, sweeps
from torchann.activations import Activation
from torchann.kernels import FUSED
from torchann.sweeps import Optionals, Signals, Wanted, blank

BLOCK_BYTES = 1 << 20  # of the widest layer's output: about what a core's cache holds beside the weights
WIDEST = 128  # beyond, products take nearly all of the time, and larger ones are faster
LEAST_ROWS = 512  # of a block: below, the products slow down
LEAST_BLOCKS = 3  # fewer gain nothing


class Blocks:
    """The sweeps, `rows` at a time; None for all at once."""

    def __init__(self, rows: int | None) -> None:
        self.rows = rows

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Optionals,
        activations: Sequence[Activation],
        keep: bool = True,
    ) -> tuple[Tensor, list[Tensor]]:
        """As `sweeps.forward`."""
        if self.rows is None:
            return sweeps.forward(x, weights, biases, activations, keep)
        samples, rows, widths = x.shape[0], self.rows, [weight.shape[0] for weight in weights]
        # Where nothing is kept, one block's worth of each layer but the last serves all blocks.
        outputs = [x.new_empty(samples if keep else rows, width) for width in widths[:-1]]
        output = x.new_empty(samples, widths[-1])
        for start in range(0, samples, rows):
            block = slice(start, min(start + rows, samples))
            kept_block = block if keep else slice(block.stop - start)
            below = x[block]
            buffers = [*(layer[kept_block] for layer in outputs), output[block]]
            for weight, bias, activation, o in zip(weights, biases, activations, buffers, strict=True):
                if bias is None:
                    torch.mm(below, weight.t(), out=o)
                else:
                    torch.addmm(bias, below, weight.t(), out=o)
                below = FUSED[activation].activate_(o)
        return output, [*outputs, output] if keep else []

    def backward(
        self,
        grad_output: Tensor | None,
        zetas: Optionals,
        x: Tensor,
        weights: Sequence[Tensor],
        kept: list[Tensor],
        activations: Sequence[Activation],
        wanted: Wanted,
    ) -> Signals:
        """As `sweeps.backward`; all at once, it empties `kept` on the way, so that what it has passed is freed."""
        if grad_output is None or not all(zeta is None for zeta in zetas):
            return sweeps.backward(grad_output, zetas, x, weights, kept, activations, wanted)
        depth, samples = len(weights), x.shape[0]
        weight_grads, bias_grads = blank(depth), blank(depth)
        if self.rows is None:
            x_grad = block_backward(grad_output, x, weights, kept, activations, wanted, weight_grads, bias_grads)
            return Signals(x_grad, weight_grads, bias_grads)
        x_grad = x.new_empty(x.shape) if wanted.x else None
        for start in range(0, samples, self.rows):
            block = slice(start, start + self.rows)
            kept_block = [o[block] for o in kept]
            grads = weight_grads, bias_grads
            block_grad = block_backward(grad_output[block], x[block], weights, kept_block, activations, wanted, *grads)
            if x_grad is not None and block_grad is not None:
                x_grad[block] = block_grad
        return Signals(x_grad, weight_grads, bias_grads)


WHOLE = Blocks(None)


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
    return Blocks(rows) if samples >= LEAST_BLOCKS * rows else WHOLE


def block_backward(
    grad_output: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: list[Tensor],
    activations: Sequence[Activation],
    wanted: Wanted,
    weight_grads: list[Tensor | None],
    bias_grads: list[Tensor | None],
) -> Tensor | None:
    """Returns ∂E/∂x of the block, and adds its share to ∂E/∂W and ∂E/∂b."""
    lowest = wanted.lowest
    error: Tensor = grad_output
    for layer in range(len(weights) - 1, lowest - 1, -1):
        o = kept.pop()
        fused = FUSED[activations[layer]]
        delta = fused.delta(error, o) if error is grad_output else fused.delta_(error, o)
        del o
        if wanted.weights[layer]:
            weight_grads[layer] = plus_weight_gradient(weight_grads[layer], delta, kept[-1] if layer else x)
        if wanted.biases[layer]:
            bias_grads[layer] = plus_bias_gradient(bias_grads[layer], delta)
        if layer > lowest or wanted.x:
            error = formulas.input_gradient(delta, weights[layer])
    return error if wanted.x else None


def plus_weight_gradient(total: Tensor | None, delta: Tensor, x: Tensor) -> Tensor:
    return formulas.weight_gradient(delta, x) if total is None else total.addmm_(delta.t(), x)


def plus_bias_gradient(total: Tensor | None, delta: Tensor) -> Tensor:
    gradient = formulas.bias_gradient(delta)
    return gradient if total is None else total.add_(gradient)
