"""Products of matrices by oneDNN, which PyTorch carries but does not take for float32 unless it is asked by name.

What it takes instead, MKL, leaves half of the vector unit idle on some CPUs that have AVX-512. oneDNN does not; it
computes sigmoid and tanh while the product is still in registers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchann import transforms
from torchann.transforms import ORDINARY

LEAST = 1 << 22  # multiplications in a product: for fewer, setting it up takes longer than it saves
LEAST_IN_WEIGHT_GRADIENT = 1 << 24
MANY_ROWS = 4  # times the widest side of a weight: what a convolution allocates is then less than what it spares

# Its relu turns NaN into 0, so that stays PyTorch's.
ACTIVATIONS = ("sigmoid", "tanh")

IS_HERE = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def suits(multiplications: int, a: Tensor, b: Tensor) -> bool:
    """Whether `linear` is the faster one for a product of so many multiplications."""
    # Dynamo is asked after first: sizes that were compared would be part of what it compiled.
    return not torch.compiler.is_compiling() and multiplications >= LEAST and may_take(a, b)


def suits_weight_gradient(multiplications: int, delta: Tensor, x: Tensor) -> bool:
    """Whether `weight_gradient` is."""
    return not torch.compiler.is_compiling() and multiplications >= LEAST_IN_WEIGHT_GRADIENT and may_take(delta, x)


def may_take(a: Tensor, b: Tensor) -> bool:
    return (
        IS_HERE
        and a.is_cpu
        and a.dtype is torch.float32
        and b.dtype is torch.float32
        and type(a) in ORDINARY
        and type(b) in ORDINARY
        and transforms.onednn_is_enabled()
        and transforms.no_transform_or_mode(a, b)
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """f(x Wᵀ + b)  [N, O], f one of `ACTIVATIONS` or "none"."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "")


def weight_gradient(delta: Tensor, x: Tensor) -> Tensor:
    """∂E/∂W = δᵀ x  [O, I].

    Of many rows, as the gradient of a convolution with a kernel of one pixel: its samples and pixels are our rows, its
    channels our columns. That reads δ and x as they lie, where a product would have to transpose them first. (It would
    give ∂E/∂b as well, but adds that up without care: for 10⁶ like rows, 1 % is lost.)
    """
    outputs, inputs = delta.shape[1], x.shape[1]
    if delta.shape[0] < MANY_ROWS * max(outputs, inputs):
        return linear(delta.t(), x.t())
    _, gradient, _ = torch.ops.aten.convolution_backward.default(
        as_pixels(delta), as_pixels(x), delta.new_empty(outputs, inputs, 1, 1), None,
        [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False],
    )  # fmt: skip
    return gradient.view(outputs, inputs)


def as_pixels(rows: Tensor) -> Tensor:
    """[N, C] → [samples, C, pixels, 1], the same memory. A single thread takes oneDNN for 16 samples or more alone."""
    samples = 16 if rows.shape[0] % 16 == 0 else 1
    return rows.contiguous().view(samples, -1, 1, rows.shape[1]).permute(0, 3, 1, 2)
