"""The elementwise part of `series` on CUDA: one Triton kernel for a layer's forward pass, and one for its backward.

The kernels cover collapsed series with weights c [R], through an activation whose f′ is a polynomial p(o) of degree 2.
A program computes a block of the n · O entries of a stack [T, n, O] for all directions, one after the other: it reads
and writes each entry once, and keeps the sums over the directions in registers. Short dtypes are computed in float32.

This module imports Triton, so check that Triton is installed before importing it. As for `fast.triton`, its kernels are
tested in Triton's interpreter; the size of a block has not been tuned on a GPU.
"""
# mypy: allow-untyped-defs
# (what a kernel takes and returns is typed by Triton)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from torchann.activations import Activation
from torchann.fast import triton as sweeps_triton
from torchann.fast.series import is_quadratic
from torchann.fast.triton import activate, blocks_of, runs_on
from torchann.jets import Collapsed, Kind

BLOCK = 1024
DTYPES = (*sweeps_triton.DTYPES, torch.float64)
CODES = {activation: code for activation, code in sweeps_triton.CODES.items() if is_quadratic(activation)}


def supports(x: Tensor, kind: Kind) -> bool:
    """Whether the kernels cover this kind of series; they run where, besides, the activation is in `CODES`."""
    return isinstance(kind, Collapsed) and kind.coefficients.dim() == 1 and x.dtype in DTYPES and runs_on(x.device)


def activate_(stack: Tensor, bias: Tensor | None, kind: Collapsed, activation: Activation) -> None:
    """Write o = f(z) and its terms over the stack of z − b  [T, n, O]."""
    launch(activate_kernel, kind, activation, stack, bias, stack.shape[2], VALUE_IS_OUTPUT=False)


def activate_terms_(stack: Tensor, kind: Collapsed, activation: Activation) -> None:
    """Write the terms of f(z) over those of z, in a stack [T, n, O] whose value is o already."""
    launch(activate_kernel, kind, activation, stack, None, stack.shape[2], VALUE_IS_OUTPUT=True)


def delta_(grads: Tensor, outputs: Tensor, kind: Collapsed, activation: Activation) -> None:
    """Write δ of the value and of the terms over the stack of their ē  [T, n, O]. outputs: the stack of o."""
    launch(delta_kernel, kind, activation, grads, outputs)


def launch(kernel: Any, kind: Collapsed, activation: Activation, stack: Tensor, *others: Any, **constants: Any) -> None:
    coefficients = None if kind.is_laplacian else kind.coefficients.contiguous()
    size, directions = stack[0].numel(), stack.shape[0] - 2
    constants |= {"ACTIVATION": CODES[activation], "SLOPE": activation.slope, "BLOCK": BLOCK}
    with torch.cuda.device_of(stack):
        kernel[(blocks_of(size, BLOCK),)](stack, *others, coefficients, size, directions, **constants)


@triton.jit
def activate_kernel(
    stack, bias, width, coefficients, size, directions,
    VALUE_IS_OUTPUT: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ȯ_r = p ż_r,  s_o = p s_z + p′ Σ c_r ż_r ȯ_r"""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = index < size
    place = stack + index
    o = read(place, here)
    if not VALUE_IS_OUTPUT:
        if bias is not None:
            o += read(bias + index % width, here)
        o = activate(o, ACTIVATION)
        write(place, o, here)
    p, dp = slope(o, SLOPE)
    squares = tl.zeros_like(o)
    for r in range(directions):
        place += size
        z_r = read(place, here)
        o_r = p * z_r
        write(place, o_r, here)
        squares += weighted(z_r * o_r, coefficients, r)
    place += size
    write(place, p * read(place, here) + dp * squares, here)


@triton.jit
def delta_kernel(
    grads, outputs, coefficients, size, directions,
    ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """δ = p ē + p′ (Σ ȯ_r ē_r + s ē_s) + p″ Σ c_r ȯ_r² ē_s,  δ_r = p ē_r + 2 c_r p′ ȯ_r ē_s,  δ_s = p ē_s"""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = index < size
    place = tl.cast(size, tl.int64) * (directions + 1) + index  # of the last term
    grad_s = read(grads + place, here)
    cross = read(outputs + place, here) * grad_s
    p, dp = slope(read(outputs + index, here), SLOPE)
    write(grads + place, p * grad_s, here)
    squares = tl.zeros_like(p)
    place = index
    for r in range(directions):
        place += size
        o_r = read(outputs + place, here)
        grad_r = read(grads + place, here)
        write(grads + place, p * grad_r + 2 * dp * grad_s * weighted(o_r, coefficients, r), here)
        cross += o_r * grad_r
        squares += weighted(o_r * o_r, coefficients, r)
    grad = read(grads + index, here)
    write(grads + index, p * grad + dp * cross + 2 * SLOPE[2] * squares * grad_s, here)


@triton.jit
def slope(o, SLOPE: tl.constexpr):
    """p(o) = f′(z) and p′(o), of the coefficients of p"""
    return SLOPE[0] + o * (SLOPE[1] + SLOPE[2] * o), SLOPE[1] + 2 * SLOPE[2] * o


@triton.jit
def weighted(value, coefficients, r):
    """c_r times a value; coefficients of None are ones"""
    if coefficients is not None:
        value *= tl.load(coefficients + r).to(value.dtype)
    return value


@triton.jit
def read(pointer, here):
    value = tl.load(pointer, here, other=0.0)
    if value.dtype != tl.float64:
        value = value.to(tl.float32)
    return value


@triton.jit
def write(pointer, value, here):
    tl.store(pointer, value.to(pointer.dtype.element_ty), here)
