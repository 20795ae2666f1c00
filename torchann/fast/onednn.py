"""Products of matrices by oneDNN, which PyTorch includes but does not use for float32 unless it is called by name.

The table in `products` says where its products are faster than those that PyTorch chooses (MKL's on most x86 CPUs).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchann.activations import Activation
from torchann.transforms import ORDINARY, onednn_is_enabled

# By their names in `Activation.aten`. Not relu, hardtanh and hardsigmoid: oneDNN's turn NaN into a number. Not gelu and
# silu: training needs z as well, and oneDNN's are less accurate.
ACTIVATIONS = ("sigmoid", "tanh", "leaky_relu")

IS_HERE = torch.backends.mkldnn.is_available()


def supports(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN is available and supports the two tensors."""
    return (
        IS_HERE
        and a.is_cpu
        and a.dtype is torch.float32
        and b.dtype is torch.float32
        and type(a) in ORDINARY
        and type(b) in ORDINARY
        and onednn_is_enabled()
    )


def attributes(activation: Activation) -> tuple[str, list[float]] | None:
    """The name and the numbers of an f that oneDNN computes while the product is still in registers; None of others."""
    if not activation.aten:
        return None
    name, _, *numbers = activation.aten[0]
    return (name, numbers) if name in ACTIVATIONS else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, name: str = "none", numbers: Any = ()) -> Tensor:
    """f(x Wᵀ + b)  [N, O], with the `attributes` of f."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, numbers, "")


def weight_gradient(delta: Tensor, x: Tensor) -> Tensor:
    """∂E/∂W = δᵀ x  [O, I], as a product of the transposed matrices."""
    return linear(delta.t(), x.t())


def weight_gradient_by_convolution(delta: Tensor, x: Tensor) -> Tensor:
    """∂E/∂W = δᵀ x  [O, I] of many rows, as the gradient of a convolution with a kernel of one pixel.

    Its samples and pixels are our rows, its channels our columns. It reads δ and x in the order in which they are
    stored; a product would have to transpose them first. (It could return ∂E/∂b as well, but adds that up inaccurately:
    for 10⁶ equal rows, 1 % is lost.)
    """
    outputs, inputs = delta.shape[1], x.shape[1]
    _, gradient, _ = torch.ops.aten.convolution_backward.default(
        as_pixels(delta), as_pixels(x), delta.new_empty(outputs, inputs, 1, 1), None,
        [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False],
    )  # fmt: skip
    return gradient.view(outputs, inputs)


def as_pixels(rows: Tensor) -> Tensor:
    """[N, C] → [samples, C, pixels, 1], the same memory. A single thread uses oneDNN only from 16 samples on."""
    samples = 16 if rows.shape[0] % 16 == 0 else 1
    return rows.contiguous().view(samples, -1, 1, rows.shape[1]).permute(0, 3, 1, 2)
