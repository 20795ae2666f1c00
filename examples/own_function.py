"""Check your own autograd.Function with a backward derived by hand; then a mistake, and the checks that find it.

log cosh z is a loss that is robust to outliers: its derivative is tanh z, between −1 and 1, and its second derivative
is 1 − tanh² z. The Function has no jvp, so PyTorch refuses forward mode; `verify` reports that as unsupported, not as
wrong.

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

    generate_vmap_rule = True  # so that torch.func accepts it

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
    """The mistake: forward saves tanh z, so that backward need not compute it.

    The gradients are right. But autograd treats the saved tensor as a constant, so the second derivative is 0. Newton's
    method, gradient penalties and physics-informed networks then give wrong results without an error.
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
