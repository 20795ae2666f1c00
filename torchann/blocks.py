"""The sweeps of `sweeps` for the CPU: in blocks of rows that stay in the cache, on buffers of their own.

All layers of a block come before the next block, forward and backward, so that what one layer writes is still in the
cache when the next reads it. Same arguments and results as `sweeps`, for tensors that no transform watches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchann import sweeps
from torchann.activations import Activation
from torchann.kernels import FUSED
from torchann.sweeps import Optionals, Signals, Wanted, blank

BLOCK_BYTES = 1 << 20  # of the widest layer's output: about what a core's cache holds beside the weights
LEAST_ROWS = 512  # of a block: below, the products slow down
LEAST_BLOCKS = 2  # fewer gain nothing


def suit(x: Tensor, weights: Sequence[Tensor], activations: Sequence[Activation]) -> bool:
    """Whether blocks are possible and pay."""
    return (
        x.shape[0] >= LEAST_BLOCKS * LEAST_ROWS  # most calls end here
        and x.shape[0] >= LEAST_BLOCKS * rows_of_block(x, weights)
        and x.dtype in (torch.float32, torch.float64)  # a sum over blocks in a short dtype would lose digits
        and x.device.type == "cpu"
        and all(activation in FUSED for activation in activations)
    )


def rows_of_block(x: Tensor, weights: Sequence[Tensor]) -> int:
    widest = max(weight.shape[0] for weight in weights)
    return max(BLOCK_BYTES // (widest * x.element_size()), LEAST_ROWS)


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Optionals,
    activations: Sequence[Activation],
    keep: bool = True,
    *,
    rows: int,
) -> tuple[Tensor, list[Tensor]]:
    """As `sweeps.forward`, `rows` at a time."""
    samples, widths = x.shape[0], [weight.shape[0] for weight in weights]
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
    grad_output: Tensor | None,
    zetas: Optionals,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    activations: Sequence[Activation],
    wanted: Wanted,
    *,
    rows: int,
) -> Signals:
    """As `sweeps.backward`, `rows` at a time. δ is written over ē of the same layer, but never over `grad_output`."""
    if grad_output is None or any(zeta is not None for zeta in zetas):
        return sweeps.backward(grad_output, zetas, x, weights, kept, activations, wanted)
    depth, lowest = len(weights), wanted.lowest
    inputs = [x, *kept[:-1]]
    buffers = [x.new_empty(rows, weight.shape[0]) for weight in weights]
    ones = x.new_ones(rows)
    x_grad = x.new_empty(x.shape) if wanted.x else None
    weight_grads, bias_grads = blank(depth), blank(depth)
    for layer, weight in enumerate(weights):
        if wanted.weights[layer]:
            weight_grads[layer] = weight.new_zeros(weight.shape)
        if wanted.biases[layer]:
            bias_grads[layer] = weight.new_zeros(weight.shape[0])
    for start in range(0, x.shape[0], rows):
        block = slice(start, start + rows)
        error = grad_output[block]
        for layer in range(depth - 1, lowest - 1, -1):
            delta = FUSED[activations[layer]].delta_out(error, kept[layer][block], buffers[layer][: len(error)])
            weight_grad, bias_grad = weight_grads[layer], bias_grads[layer]
            if weight_grad is not None:
                weight_grad.addmm_(delta.t(), inputs[layer][block])
            if bias_grad is not None:
                bias_grad.addmv_(delta.t(), ones[: len(delta)])
            if layer > lowest:
                error = torch.mm(delta, weights[layer], out=buffers[layer - 1][: len(delta)])
            elif x_grad is not None:
                torch.mm(delta, weights[layer], out=x_grad[block])
    return Signals(x_grad, weight_grads, bias_grads, blank(depth), blank(depth))
