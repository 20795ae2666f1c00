"""The floor: only the matrix products that a row needs, into preallocated buffers.

A product computes out = left · right. Buffers are named by a letter and the layer: o for outputs, e for ē, W for
weights, g for ∂E/∂W; ᵀ transposes. As in a network, each product reads the result of the one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.rows import Row


class Product(NamedTuple):
    left: str
    right: str
    out: str


def make(row: Row, device: torch.device | str) -> Callable[[], None]:
    """All products of the row, one after the other."""
    chain = products(row)
    buffers = {
        name: random_start(shape_of(name, row)).to(device, row.dtype)
        for name in sorted({operand.removesuffix("ᵀ") for product in chain for operand in product})
    }
    operands = [tuple(look_up(buffers, name) for name in product) for product in chain]

    def call() -> None:
        for left, right, out in operands:
            torch.mm(left, right, out=out)

    return call


def products(row: Row) -> list[Product]:
    layers = range(1, row.depth + 1)
    if row.task == "physics":
        return physics_products(row.depth)
    if row.task == "input gradient":
        return [*up("o", layers), *down("e", layers)]
    lowest = 1 if row.x_needs_gradient else 2
    backward = []
    for layer in reversed(layers):
        backward.append(weight_gradient("e", "o", layer))
        if layer >= lowest:
            backward += down("e", [layer])
    return [*up("o", layers), *backward]


def physics_products(depth: int) -> list[Product]:
    """u, then ∂u/∂x (e), then ∂²u/∂x² (h up, z for ζ down), then the derivatives of these products by their factors.

    The last layer is linear: its δ is constant and its f″ is 0. So h and ζ end at the layer below it, and neither u nor
    the last δ is differentiated.
    """
    every, hidden = range(1, depth + 1), range(1, depth)
    return [
        *up("o", every),
        *down("e", every),
        *up("h", hidden),
        *down("z", hidden),
        # of ζ W: with respect to ζ and W
        *up("z'", hidden),
        *(weight_gradient("z", "z'", layer) for layer in hidden),
        # of h Wᵀ; the lowest h is constant
        *(weight_gradient("h'", "h", layer) for layer in hidden),
        *down("h'", hidden[1:]),
        # of δ W
        *up("e'", hidden),
        *(weight_gradient("e", "e'", layer) for layer in every),
        # of o Wᵀ
        *(weight_gradient("o'", "o", layer) for layer in hidden),
        *down("o'", hidden),
    ]


def up(chain: str, layers: Iterable[int]) -> list[Product]:
    """[N, I] [O, I]ᵀ → [N, O]"""
    return [Product(f"{chain}{layer - 1}", f"W{layer}ᵀ", f"{chain}{layer}") for layer in layers]


def down(chain: str, layers: Iterable[int]) -> list[Product]:
    """[N, O] [O, I] → [N, I]"""
    return [Product(f"{chain}{layer}", f"W{layer}", f"{chain}{layer - 1}") for layer in sorted(layers, reverse=True)]


def weight_gradient(of_output: str, of_input: str, layer: int) -> Product:
    """[N, O]ᵀ [N, I] → [O, I]"""
    return Product(f"{of_output}{layer}ᵀ", f"{of_input}{layer - 1}", f"g{layer}")


def shape_of(name: str, row: Row) -> tuple[int, int]:
    """The shape of an operand, transposed if its name ends in ᵀ."""
    transposed = name.endswith("ᵀ")
    chain, layer = name.rstrip("ᵀ0123456789"), int(name.strip("ᵀWgoehz'"))
    rows, columns = (row.widths[layer], row.widths[layer - 1]) if chain in "Wg" else (row.samples, row.widths[layer])
    return (columns, rows) if transposed else (rows, columns)


def random_start(shape: tuple[int, int]) -> Tensor:
    """Scaled so that long chains of products neither overflow nor become denormal numbers, which are slow."""
    return torch.randn(shape) / shape[-1] ** 0.5


def look_up(buffers: dict[str, Tensor], name: str) -> Tensor:
    return buffers[name.removesuffix("ᵀ")].t() if name.endswith("ᵀ") else buffers[name]
