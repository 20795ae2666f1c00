"""Products of matrices by oneDNN, which PyTorch carries but does not take for float32 unless it is asked by name.

What it takes instead, MKL, leaves half of the vector unit idle on some CPUs that have AVX-512. oneDNN does not; it
computes sigmoid and tanh while the product is still in registers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchann.transforms import ORDINARY, onednn_is_enabled

MIN_FLOPS = 1 << 22  # multiplications in a product: for fewer, setting it up takes longer than it saves
MIN_FLOPS_WEIGHT_GRADIENT = 1 << 24
MANY_ROWS = 4  # times the widest side of a weight: what a convolution allocates is then less than what it spares

# Its relu turns NaN into 0, so that stays PyTorch's.
ACTIVATIONS = ("sigmoid", "tanh")

IS_HERE = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"


def is_faster(multiplications: int, a: Tensor, b: Tensor) -> bool:
    """Whether `linear` is, for a product of so many multiplications."""
    return multiplications >= MIN_FLOPS and supports(a, b)


def is_faster_for_weight_gradient(multiplications: int, delta: Tensor, x: Tensor) -> bool:
    """Whether `weight_gradient` is."""
    return multiplications >= MIN_FLOPS_WEIGHT_GRADIENT and supports(delta, x)


def supports(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN is there and takes the two tensors."""
    return (
        IS_HERE
        and a.is_cpu
        and a.dtype is torch.float32
        and b.dtype is torch.float32
        and type(a) in ORDINARY
        and type(b) in ORDINARY
        and onednn_is_enabled()
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
