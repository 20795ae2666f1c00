"""An autograd.Function of one's own, with its backward derived by hand and proven; then a mistake, and what finds it.

log cosh z is a loss that outliers pull at with no more than ±1: its derivative is tanh z, and that one's 1 − tanh² z.
Forward mode, which would want a jvp, is refused; that is honest, so that verify calls it unsupported and not wrong.

python examples/own_function.py
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import softplus

import torchann


class LogCosh(Function):
    """E = log cosh z, elementwise; ∂E/∂z = tanh z."""

    generate_vmap_rule = True  # so that torch.func takes it

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return z.abs() + softplus(-2 * z.abs()) - math.log(2)  # cosh itself overflows

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        (z,) = inputs
        ctx.save_for_backward(z)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grad_output * torch.tanh(z)


class LogCoshOfSlope(LogCosh):
    """The mistake: tanh z is saved, to save the time of computing it in backward.

    Gradients are right. But autograd takes what was saved for a constant, so that the second derivative is 0: Newton's
    method, gradient penalties and physics-informed networks go wrong without a word.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        (z,) = inputs
        ctx.save_for_backward(torch.tanh(z))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return grad_output * slope


def log_cosh(z: Tensor) -> Tensor:
    """The same in plain PyTorch, whose derivatives are autograd's."""
    return torch.log(torch.cosh(z))


def main() -> dict[str, bool | list[str]]:
    torch.manual_seed(0)
    inputs = (torch.randn(4, 3),)
    right = torchann.verify(LogCosh, inputs, reference=log_cosh, require={"vmap", "compile", "third-order"})
    print(right)

    wrong = torchann.verify(LogCoshOfSlope, inputs, reference=log_cosh)
    print(f"\n{wrong.name}: ok is {wrong.ok}")
    for row in wrong.failures:
        print(f"  {row.check}: {row.message}")
    return {"right": right.ok, "wrong": wrong.ok, "failures": [row.check for row in wrong.failures]}


if __name__ == "__main__":
    main()
