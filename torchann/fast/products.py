"""The formulas of one layer with the fastest product of matrices for this CPU and the size of the matrices.

They run where nothing watches single operations. The names and signatures are those of `formulas`; functions without a
product come from `fused`. Which product is faster depends on the kind of CPU: `python -m benchmarks.products` measures
it, and the table `BY_CPU` holds the results. A CPU that is not in the table uses PyTorch's products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from torchann import formulas
from torchann.activations import Activation
from torchann.fast import onednn
from torchann.fast.fused import activate, activate_and_keep, bias_gradient, delta, plus, zeta

__all__ = [
    "activate", "bias_gradient", "delta", "input_gradient", "layer", "plus", "pre_activation", "tangent",
    "weight_gradient", "zeta",
]  # fmt: skip

PARTS = 16  # of the rows, in `weight_gradient_in_parts`


def weight_gradient_in_parts(delta: Tensor, x: Tensor) -> Tensor:
    """∂E/∂W = δᵀ x  [O, I] of many rows: the products of 16 parts of them in one batch, then added up."""
    rows = delta.shape[0] // PARTS * PARTS
    parts = [tensor[:rows].reshape(PARTS, -1, tensor.shape[1]) for tensor in (delta, x)]
    gradient = torch.bmm(parts[0].transpose(1, 2), parts[1]).sum(0)
    return gradient if rows == delta.shape[0] else gradient.addmm_(delta[rows:].t(), x[rows:])


class From(NamedTuple):
    """The size from which on one way to compute a product is faster."""

    multiplications: int
    rows_for_column: int  # rows for each column of the wider side of W

    def reached(self, rows: Tensor, inputs: int, outputs: int) -> bool:
        count = rows.shape[0]
        return count * inputs * outputs >= self.multiplications and count >= self.rows_for_column * max(inputs, outputs)


class Faster(NamedTuple):
    """The sizes from which on other products than PyTorch's are faster on a kind of CPU."""

    linear: tuple[From, ...]  # oneDNN computes x Wᵀ and δ W where any of these is reached
    weight_gradients: tuple[tuple[From, Callable[[Tensor, Tensor], Tensor]], ...]  # the first that is reached is used


ZEN_2_OR_3 = Faster((From(20_000_000, 2),), ((From(1 << 26, 64), weight_gradient_in_parts),))

BY_CPU: dict[tuple[str, int, str], Faster] = {  # vendor, family, instructions
    ("AuthenticAMD", 23, "AVX2"): ZEN_2_OR_3,
    ("AuthenticAMD", 25, "AVX2"): ZEN_2_OR_3,
    # Zen 4
    ("AuthenticAMD", 25, "AVX512"): Faster(
        (From(1 << 23, 16), From(1 << 25, 1)), ((From(1 << 23, 256), onednn.weight_gradient_by_convolution),)
    ),
    # Zen 5, where MKL leaves half of the vector unit idle. The convolution runs only if there are at least 4 rows for
    # each column of the wider side of W; below, its scratch memory costs more than it saves.
    ("AuthenticAMD", 26, "AVX512"): Faster(
        (From(1 << 22, 0),),
        (
            (From(1 << 24, 4), onednn.weight_gradient_by_convolution),
            (From(1 << 24, 0), onednn.weight_gradient),
        ),
    ),
}
NEVER = Faster((), ())


def this_cpu() -> tuple[str, int, str]:
    """Vendor, family and instructions, as Linux and PyTorch say; ("", 0, …) where they don't."""
    found = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file.read(1000).splitlines():
                name, _, value = line.partition(":")
                found[name.strip()] = value.strip()
    except OSError:
        pass
    family = found.get("cpu family", "0")
    instructions = torch.backends.cpu.get_cpu_capability()
    return found.get("vendor_id", ""), int(family) if family.isdigit() else 0, instructions


faster = BY_CPU.get(this_cpu(), NEVER)


def layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation, keeps: bool
) -> tuple[Tensor, Tensor | None]:
    """o = f(x Wᵀ + b), and s if it is to be kept; f is written over z, unless that is s."""
    if not onednn_is_faster(x, weight):
        return activate_and_keep(formulas.pre_activation(x, weight, bias), activation, keeps)
    attributes = onednn.attributes(activation)
    if attributes is None or (keeps and not activation.reads_output):
        return activate_and_keep(onednn.linear(x, weight, bias), activation, keeps)
    o = onednn.linear(x, weight, bias, *attributes)
    return o, o if keeps else None


def pre_activation(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """z = x Wᵀ + b"""
    return (onednn.linear if onednn_is_faster(x, weight) else formulas.pre_activation)(x, weight, bias)


def input_gradient(delta: Tensor, weight: Tensor) -> Tensor:
    """∂E/∂x = δ W"""
    if onednn_is_faster(delta, weight):
        return onednn.linear(delta, weight.t())
    return formulas.input_gradient(delta, weight)


def weight_gradient(delta: Tensor, x: Tensor) -> Tensor:
    """∂E/∂W = δᵀ x"""
    for start, compute in faster.weight_gradients:
        if start.reached(delta, x.shape[1], delta.shape[1]) and onednn.supports(delta, x):
            return compute(delta, x)
    return formulas.weight_gradient(delta, x)


def tangent(
    x: Tensor | None,
    weight: Tensor | None,
    x_dot: Tensor | None,
    weight_dot: Tensor | None,
    bias_dot: Tensor | None,
) -> Tensor | None:
    """t = ẋ Wᵀ + x Ẇᵀ + ḃ"""
    return formulas.tangent(x, weight, x_dot, weight_dot, bias_dot, pre_activation)


def onednn_is_faster(rows: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is faster for the product of `rows` [N, …] and a weight."""
    outputs, inputs = weight.shape
    for start in faster.linear:
        if start.reached(rows, inputs, outputs):
            return onednn.supports(rows, weight)
    return False
