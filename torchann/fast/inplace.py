"""The sweeps in place, and on the CPU in blocks of rows that stay in the cache; for use where nothing watches.

f is written over z, and δ over ē of the same layer, but never over the ē that autograd passed in. Forward and backward,
a block goes through all layers before the next block starts, so each layer finds in the cache what the last one wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import linear

from torchann import formulas
from torchann.activations import Activation
from torchann.fast import products
from torchann.fast.fused import activate_and_keep, kernels_of
from torchann.sweeps import Gradients, NeedsGrad, Optionals, Sweeps, layer_input, there

BLOCK_BYTES = 2 << 20  # of the widest layer's output: about what stays in the caches beside the weights
MIN_ROWS = 2048  # of a block: with fewer, the products slow down
MIN_BLOCKS = 4  # of a backward sweep: with fewer, a block's own memory adds too much to all that is kept
MAX_WIDTH = 1024  # of a layer: beyond, adding up ∂E/∂W over the blocks takes longer than blocks save


class InPlace(Sweeps):
    """First derivatives in place, all rows at once. Higher ones as in `Sweeps`.

    Args:
        of: the module that has `weight_gradient` and `input_gradient`.
    """

    def __init__(self, of: ModuleType = products) -> None:
        super().__init__(products)
        self.products = of

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Optionals,
        activations: Sequence[Activation],
        keep: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        kept: list[Tensor | None] = []
        for weight, bias, activation, keeps in zip(weights, biases, activations, keep, strict=True):
            x, s = products.layer(x, weight, bias, activation, keeps)
            kept.append(s)
        return x, kept

    def gradients(
        self,
        grad_output: Tensor,
        x: Tensor | None,
        weights: Optionals,
        kept: list[Tensor | None],
        activations: Sequence[Activation],
        needs: NeedsGrad,
    ) -> Gradients:
        """Writes δ over an ē that was made here. Empties `kept`, which frees the memory of layers already passed."""
        depth, lowest = len(weights), needs.lowest
        weight_grads: list[Tensor | None] = [None] * depth
        bias_grads: list[Tensor | None] = [None] * depth
        is_ours = False  # never write over the ē that autograd passed in
        for layer in range(depth - 1, lowest - 1, -1):
            s = kept.pop()
            kernels = kernels_of(activations[layer])
            delta = (kernels.delta_ if is_ours else kernels.delta)(grad_output, s)
            del s
            if needs.weights[layer]:
                weight_grads[layer] = self.products.weight_gradient(delta, layer_input(layer, x, kept, activations))
            if needs.biases[layer]:
                bias_grads[layer] = formulas.bias_gradient(delta)
            if layer > lowest or needs.x:
                grad_output = self.products.input_gradient(delta, weights[layer])
                is_ours = True
        return Gradients(grad_output if needs.x else None, weight_grads, bias_grads)


class Small(InPlace):
    """For products so small that choosing a faster one would take as long."""

    def __init__(self) -> None:
        super().__init__(formulas)
        self.is_small = True

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Optionals,
        activations: Sequence[Activation],
        keep: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        kept: list[Tensor | None] = []
        for weight, bias, activation, keeps in zip(weights, biases, activations, keep, strict=True):
            x, s = activate_and_keep(linear(x, weight, bias), activation, keeps)
            kept.append(s)
        return x, kept


class InBlocks(InPlace):
    """The same, `forward_rows` and `backward_rows` at a time; None for all rows at once."""

    def __init__(self, forward_rows: int | None, backward_rows: int) -> None:
        super().__init__()
        self.forward_rows = forward_rows
        self.backward_rows = backward_rows

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Optionals,
        activations: Sequence[Activation],
        keep: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        samples, rows = x.shape[0], self.forward_rows
        if rows is None:
            return super().forward(x, weights, biases, activations, keep)
        output = x.new_empty(samples, weights[-1].shape[0])
        keeps_output = keep[-1] and activations[-1].reads_output
        kept: list[Tensor | None] = [
            x.new_empty(samples, weight.shape[0]) if keeps else None
            for weight, keeps in zip(weights[:-1], keep[:-1], strict=True)
        ]
        kept.append(output if keeps_output else torch.empty_like(output) if keep[-1] else None)
        for start in range(0, samples, rows):
            block = slice(start, start + rows)
            o = x[block]
            for weight, bias, activation, store in zip(weights, biases, activations, kept, strict=True):
                o, s = products.layer(o, weight, bias, activation, keeps=store is not None)
                if store is not None and s is not None:
                    store[block] = s
                    o = store[block] if s is o else o
            if not keeps_output:
                output[block] = o
        return output, kept

    def gradients(
        self,
        grad_output: Tensor,
        x: Tensor | None,
        weights: Optionals,
        kept: list[Tensor | None],
        activations: Sequence[Activation],
        needs: NeedsGrad,
    ) -> Gradients:
        """The gradients of the parameters are added up over the blocks."""
        samples = grad_output.shape[0]
        x_grad = grad_output.new_empty(samples, there(weights[0]).shape[1]) if needs.x else None
        sums: list[Tensor | None] = []
        for start in range(0, samples or 1, self.backward_rows):
            block = slice(start, start + self.backward_rows)
            x_block, *kept_block = (None if each is None else each[block] for each in (x, *kept))
            found = super().gradients(grad_output[block], x_block, weights, kept_block, activations, needs)
            if x_grad is not None and found.x is not None:
                x_grad[block] = found.x
            shares = [*found.weights, *found.biases]
            sums = [add_(*pair) for pair in zip(sums, shares, strict=True)] if sums else shares
        return Gradients(x_grad, sums[: len(weights)], sums[len(weights) :])


def add_(total: Tensor | None, share: Tensor | None) -> Tensor | None:
    return share if total is None or share is None else total.add_(share)


SMALL = Small()
WHOLE = InPlace()


def for_network(x: Tensor, weights: Sequence[Tensor]) -> InPlace:
    """`InBlocks` with blocks that suit the network, or `WHOLE` if blocks would not make it faster."""
    samples = x.shape[0]
    if samples < MIN_BLOCKS * MIN_ROWS or x.device.type != "cpu":
        return WHOLE
    if x.dtype not in (torch.float32, torch.float64):  # a sum over blocks in a short dtype would lose digits
        return WHOLE
    widest = max(weight.shape[0] for weight in weights)
    if widest > MAX_WIDTH:
        return WHOLE
    rows = max(BLOCK_BYTES // (widest * x.element_size()), MIN_ROWS)
    return InBlocks(rows if rows < samples else None, min(rows, samples // MIN_BLOCKS))
