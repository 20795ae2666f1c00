"""The elementwise part of `series` on CUDA: one Triton kernel for a layer's forward pass, and one for its backward.

The kernels cover collapsed series with weights c [R] and Taylor series, through an activation whose f′ is a polynomial
p(o) of degree 2. A program computes a block of the n · O entries of a stack [T, n, O] for all directions, one after the
other: it reads and writes each entry once, and keeps the sums over the directions in registers, and the terms of one
direction of a Taylor series. Short dtypes are computed in float32.

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

from torchann.activations import TABLE, Activation
from torchann.fast import triton as sweeps_triton
from torchann.fast.series import is_quadratic
from torchann.fast.triton import activate, blocks_of, runs_on
from torchann.jets import Collapsed, Kind

BLOCK = 1024
HIGHEST_ORDER = 8  # of Taylor series: a kernel has about order³ / 3 products, written out one by one
DTYPES = (*sweeps_triton.DTYPES, torch.float64)
CODES = {
    activation: description[0]
    for activation in TABLE.values()
    if is_quadratic(activation) and (description := sweeps_triton.described(activation))
}


def supports(x: Tensor, kind: Kind) -> bool:
    """Whether the kernels cover this kind of series; they run where, besides, the activation is in `CODES`."""
    is_covered = kind.coefficients.dim() == 1 if isinstance(kind, Collapsed) else kind.order <= HIGHEST_ORDER
    return is_covered and x.dtype in DTYPES and runs_on(x.device)


def activate_(stack: Tensor, bias: Tensor | None, kind: Kind, activation: Activation) -> None:
    """Write o = f(z) and its terms over the stack of z − b  [T, n, O]."""
    kernel = activate_collapsed_kernel if isinstance(kind, Collapsed) else activate_taylor_kernel
    launch(kernel, kind, activation, stack, bias, stack.shape[2], VALUE_IS_OUTPUT=False)


def activate_terms_(stack: Tensor, kind: Kind, activation: Activation) -> None:
    """Write the terms of f(z) over those of z, in a stack [T, n, O] whose value is o already."""
    kernel = activate_collapsed_kernel if isinstance(kind, Collapsed) else activate_taylor_kernel
    launch(kernel, kind, activation, stack, None, stack.shape[2], VALUE_IS_OUTPUT=True)


def delta_(grads: Tensor, outputs: Tensor, kind: Kind, activation: Activation) -> None:
    """Write δ of the value and of the terms over the stack of their ē  [T, n, O]. outputs: the stack of o."""
    kernel = delta_collapsed_kernel if isinstance(kind, Collapsed) else delta_taylor_kernel
    launch(kernel, kind, activation, grads, outputs)


def launch(kernel: Any, kind: Kind, activation: Activation, stack: Tensor, *others: Any, **constants: Any) -> None:
    size, constants = stack[0].numel(), {**constants, "ACTIVATION": CODES[activation], "SLOPE": activation.slope}
    if isinstance(kind, Collapsed):
        directions = stack.shape[0] - 2
        constants["coefficients"] = None if kind.is_laplacian else kind.coefficients.contiguous()
    else:
        directions = (stack.shape[0] - 1) // kind.order
        constants["ORDER"] = kind.order
    with torch.cuda.device_of(stack):
        kernel[(blocks_of(size, BLOCK),)](stack, *others, size, directions, BLOCK=BLOCK, **constants)


# --- Collapsed series -------------------------------------------------------------------------------------------------


@triton.jit
def activate_collapsed_kernel(
    stack, bias, width, size, directions, coefficients,
    VALUE_IS_OUTPUT: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ȯ_r = p ż_r,  s_o = p s_z + p′ Σ c_r ż_r ȯ_r"""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = index < size
    place = stack + index
    o = activated(place, bias, index % width, here, VALUE_IS_OUTPUT, ACTIVATION)
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
def delta_collapsed_kernel(
    grads, outputs, size, directions, coefficients,
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
def weighted(value, coefficients, r):
    """c_r times a value; coefficients of None are ones"""
    if coefficients is not None:
        value *= tl.load(coefficients + r).to(value.dtype)
    return value


# --- Taylor series ----------------------------------------------------------------------------------------------------


@triton.jit
def activate_taylor_kernel(
    stack, bias, width, size, directions,
    VALUE_IS_OUTPUT: tl.constexpr,
    ORDER: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """o_k = Σⱼ j z_j w_{k−j} / k  (j = 1 … k)"""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = index < size
    o = activated(stack + index, bias, index % width, here, VALUE_IS_OUTPUT, ACTIVATION)
    p, dp = slope(o, SLOPE)
    for r in range(directions):
        place = stack + index + tl.cast(size, tl.int64) * (r + 1)  # of o_k along this direction
        scaled, outputs, w = (), (), (p,)  # j z_j, o_j and w_j
        for k in tl.static_range(1, ORDER + 1):
            scaled = appended(scaled, k * read(place, here))
            total = scaled[0] * w[k - 1]
            for j in tl.static_range(2, k + 1):
                total += scaled[j - 1] * w[k - j]
            outputs = appended(outputs, total / k)
            write(place, outputs[k - 1], here)
            w = appended(w, slope_term(outputs, dp, k, SLOPE))
            place += tl.cast(size, tl.int64) * directions


@triton.jit
def delta_taylor_kernel(
    grads, outputs, size, directions,
    ORDER: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """δ = p ē + Σ_r Σ_k w_k ē_k,  δ_j = Σ_k w_{k−j} ē_k  (k = j … K)"""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = index < size
    p, dp = slope(read(outputs + index, here), SLOPE)
    delta = p * read(grads + index, here)
    for r in range(directions):
        first = index + tl.cast(size, tl.int64) * (r + 1)
        of_outputs, of_grads, w = (), (), (p,)  # o_k, ē_k and w_k
        for k in tl.static_range(1, ORDER + 1):
            place = first + tl.cast(size, tl.int64) * directions * (k - 1)
            of_outputs = appended(of_outputs, read(outputs + place, here))
            of_grads = appended(of_grads, read(grads + place, here))
            w = appended(w, slope_term(of_outputs, dp, k, SLOPE))
            delta += w[k] * of_grads[k - 1]
        for j in tl.static_range(1, ORDER + 1):
            total = p * of_grads[j - 1]
            for k in tl.static_range(j + 1, ORDER + 1):
                total += w[k - j] * of_grads[k - 1]
            write(grads + first + tl.cast(size, tl.int64) * directions * (j - 1), total, here)
    write(grads + index, delta, here)


@triton.jit
def slope_term(outputs, dp, k: tl.constexpr, SLOPE: tl.constexpr):
    """w_k = p′ o_k + ½ p″ Σᵢ o_i o_{k−i}  (i = 1 … k − 1)"""
    found = dp * outputs[k - 1]
    for i in tl.static_range(1, k):
        found += SLOPE[2] * outputs[i - 1] * outputs[k - i - 1]
    return found


@triton.jit
def appended(values, value):
    return values + (value,)  # noqa: RUF005 (Triton doesn't know `*values`)


# --- What the kernels share -------------------------------------------------------------------------------------------


@triton.jit
def activated(place, bias, column, here, VALUE_IS_OUTPUT: tl.constexpr, ACTIVATION: tl.constexpr):
    """o, read from its place; or computed from z − b, and written there"""
    o = read(place, here)
    if not VALUE_IS_OUTPUT:
        if bias is not None:
            o += read(bias + column, here)
        o = activate(o, ACTIVATION)
        write(place, o, here)
    return o


@triton.jit
def slope(o, SLOPE: tl.constexpr):
    """p(o) = f′(z) and p′(o), of the coefficients of p"""
    return SLOPE[0] + o * (SLOPE[1] + SLOPE[2] * o), SLOPE[1] + 2 * SLOPE[2] * o


@triton.jit
def read(pointer, here):
    value = tl.load(pointer, here, other=0.0)
    if value.dtype != tl.float64:
        value = value.to(tl.float32)
    return value


@triton.jit
def write(pointer, value, here):
    tl.store(pointer, value.to(pointer.dtype.element_ty), here)
