"""The sweeps of `sweeps` for CUDA, in Triton kernels: same arguments and results, for tensors that no transform watches.

A network of narrow layers runs in one kernel forward and one backward; wider layers run one by one, their products on
cuBLAS. Sums are taken in float32 and in a fixed order, whatever the dtype, so that a run can be repeated bit by bit.

This module imports Triton: whoever names it asks first whether Triton is there. With TRITON_INTERPRET=1 in the
environment Triton interprets its kernels on the CPU, which is how they are tested without a GPU.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton
from torch.nn import Parameter

from torchann import formulas
from torchann.activations import TABLE, Activation
from torchann.sweeps import Optionals, Signals, Wanted, blank

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")  # Triton, too, looks when its kernels are defined

# Sizes, chosen so that the kernels fit a GPU's registers and shared memory; none has been tuned on one yet.
NARROW = 128  # the widest layer, input included, of a network that runs in one kernel
DEEPEST = 8  # the most layers in one kernel
FUSED_INPUTS = 256  # up to which product + bias + f in one kernel should beat cuBLAS + one pass: it is bound by memory
FUSED_INPUTS_IEEE = 32  # the same in float32 without tensor cores
PROGRAMS = 128  # shares of the rows in a sum over rows, at most: fixed, so that the order of the sum is

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def suit(x: Tensor, weights: Sequence[Tensor], activations: Sequence[Activation]) -> bool:
    """Whether the kernels cover this network."""
    return (
        x.numel() > 0  # a kernel needs a program
        and x.dtype in DTYPES
        and runs_on(x.device)
        and type(x) is Tensor  # a subclass has operations of its own
        and all(weight.shape[0] > 0 and type(weight) in (Tensor, Parameter) for weight in weights)
        and all(activation in CODES for activation in activations)
    )


def runs_on(device: torch.device) -> bool:
    if INTERPRETED:
        return device.type == "cpu"
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)  # bfloat16 and tf32 from there


def forward(
    x: Tensor, weights: Sequence[Tensor], biases: Optionals, activations: Sequence[Activation]
) -> tuple[Tensor, list[Tensor]]:
    """As `sweeps.forward`."""
    codes = [CODES[activation] for activation in activations]
    outputs = (narrow_forward if narrow(weights) else layered_forward)(x, weights, biases, codes)
    return outputs[-1], outputs


def backward(
    grad_output: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    activations: Sequence[Activation],
    wanted: Wanted,
) -> Signals:
    """As `sweeps.backward`, without ζ."""
    codes = [CODES[activation] for activation in activations]
    return (narrow_signals if narrow(weights) else layered_backward)(grad_output, x, weights, kept, codes, wanted)


def narrow(weights: Sequence[Tensor]) -> bool:
    """Whether the whole network goes through one kernel."""
    return len(weights) <= DEEPEST and max(widths_of(weights)) <= NARROW


def widths_of(weights: Sequence[Tensor]) -> list[int]:
    """The widths of x, o₁, …, o_L."""
    return [weights[0].shape[1], *(weight.shape[0] for weight in weights)]


def fuses(inputs: int, dtype: torch.dtype) -> bool:
    """Whether product + bias + f in one kernel should beat cuBLAS + one pass."""
    return inputs <= (FUSED_INPUTS_IEEE if dtype == torch.float32 and precision() == "ieee" else FUSED_INPUTS)


def precision() -> str:
    """Of the products in float32."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """All memory that the kernels write to comes from here."""
    return like.new_empty(shape, dtype=dtype)


# --- The activations: f and f′ restated for the kernels, and held to the table by the tests -----------------------------

SIGMOID, TANH, RELU, IDENTITY = (tl.constexpr(code) for code in range(4))
CODES: dict[Activation, int] = {
    TABLE["sigmoid"]: SIGMOID.value,
    TABLE["tanh"]: TANH.value,
    TABLE["relu"]: RELU.value,
    TABLE["identity"]: IDENTITY.value,
}


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """o = f(z), in float32"""
    if ACTIVATION == SIGMOID:
        e = tl.exp(-tl.abs(z))  # ≤ 1, so nothing overflows
        o = tl.where(z < 0, e, 1.0) / (1 + e)
    elif ACTIVATION == TANH:
        e = tl.exp(-2 * tl.abs(z))
        far = (1 - e) / (1 + e)
        square = z * z
        near = z * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))  # where 1 − e would lose digits
        o = tl.where(tl.abs(z) < 0.125, near, tl.where(z < 0, -far, far))
    elif ACTIVATION == RELU:
        o = tl.where(z < 0, 0.0, z)  # NaN stays NaN
    else:
        o = z
    return o


@triton.jit
def delta_of(error, o, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """δ = ē ⊙ f′(z), in float32, with f′ read from o"""
    if ACTIVATION == SIGMOID:
        delta = error * o * (1 - o)
    elif ACTIVATION == TANH:
        delta = error * (1 - o * o)
    elif ACTIVATION == RELU:
        delta = tl.where(o > 0, error, 0.0)
    else:
        delta = error
    return delta


# --- What the kernels share ---------------------------------------------------------------------------------------------


@triton.jit
def places(pointer, row, column, row_stride, column_stride):  # type: ignore[no-untyped-def]
    """Pointers [rows, columns]; in 64 bits, as large tensors need."""
    return pointer + row.to(tl.int64)[:, None] * row_stride + column.to(tl.int64)[None, :] * column_stride


@triton.jit
def inside(row, column, rows, columns):  # type: ignore[no-untyped-def]
    return (row < rows)[:, None] & (column < columns)[None, :]


@triton.jit
def add_product(total, a, b, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """total + a b, in float32"""
    if INTERPRETED:  # it would multiply the bits of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


Launcher = TypeVar("Launcher", bound=Callable[..., Any])


def registered(mutates: tuple[str, ...] = ()) -> Callable[[Launcher], Launcher]:
    """Makes of a function that launches a kernel the op `torchann::…`, by which torch.compile keeps it in its graph."""

    def register(launcher: Launcher) -> Launcher:
        op = triton_op(f"torchann::{launcher.__name__}", launcher, mutates_args=mutates)

        @functools.wraps(launcher)
        def call(*arguments: Any) -> Any:
            return (op if torch.compiler.is_compiling() else launcher)(*arguments)  # an op's call takes its time

        return call  # type: ignore[return-value]

    return register


def traced(tensor: Tensor) -> bool:
    """Whether torch.compile looks on, which it does with tensors of its own."""
    return type(tensor) not in (Tensor, Parameter)


def shares(rows: int, block: int) -> tuple[int, int]:
    """Blocks of rows for each program, and how many programs that makes."""
    blocks = triton.cdiv(rows, block)
    share = triton.cdiv(blocks, PROGRAMS)
    return share, triton.cdiv(blocks, share)


# --- Layer by layer -----------------------------------------------------------------------------------------------------


def layered_forward(x: Tensor, weights: Sequence[Tensor], biases: Optionals, codes: Sequence[int]) -> list[Tensor]:
    """o of each layer."""
    outputs = []
    for weight, bias, code in zip(weights, biases, codes, strict=True):
        if fuses(weight.shape[1], x.dtype):
            x = linear_activate(x, weight, bias, code)
        else:
            x = x @ weight.t()
            if bias is not None or code != IDENTITY.value:
                bias_activate_(x, bias, code)
        outputs.append(x)
    return outputs


def layered_backward(
    grad_output: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    codes: Sequence[int],
    wanted: Wanted,
) -> Signals:
    depth, lowest = len(weights), wanted.lowest
    inputs = [x, *kept[:-1]]
    weight_grads, bias_grads = blank(depth), blank(depth)
    error = grad_output
    for layer in range(depth - 1, lowest - 1, -1):
        delta, bias_grad = error, None
        if codes[layer] != IDENTITY.value:
            delta, *sums = delta_and_sum(error, kept[layer], codes[layer], wanted.biases[layer])
            bias_grad = sums[0] if sums else None
        elif wanted.biases[layer]:
            bias_grad = formulas.bias_gradient(delta)
        bias_grads[layer] = bias_grad
        if wanted.weights[layer]:
            weight_grads[layer] = formulas.weight_gradient(delta, inputs[layer])
        if layer > lowest or wanted.x:
            error = formulas.input_gradient(delta, weights[layer])
    return Signals(error if wanted.x else None, weight_grads, bias_grads, blank(depth), blank(depth))


@registered()
def linear_activate(x: Tensor, weight: Tensor, bias: Tensor | None, code: int) -> Tensor:
    """o = f(x Wᵀ + b)  [N, O]"""
    (rows, inputs), outputs = x.shape, weight.shape[0]
    output = empty(x, rows, outputs)
    block_rows, block_outputs, block_inputs = 64, 64, 32
    grid = (triton.cdiv(rows, block_rows), triton.cdiv(outputs, block_outputs))
    kernel = wrap_triton(linear_activate_kernel) if traced(x) else linear_activate_kernel
    kernel[grid](
        x, weight, bias, output, rows, inputs, outputs, *x.stride(), *weight.stride(),
        ACTIVATION=code, ROWS=block_rows, OUTPUTS=block_outputs, INPUTS=block_inputs, PRECISION=precision(),
    )  # fmt: skip
    return output


@triton.jit
def linear_activate_kernel(  # type: ignore[no-untyped-def]
    x, weight, bias, output, rows, inputs, outputs, x_row, x_column, weight_row, weight_column,
    ACTIVATION: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    z = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, inputs, INPUTS):
        i = start + tl.arange(0, INPUTS)
        x_part = tl.load(places(x, n, i, x_row, x_column), inside(n, i, rows, inputs), other=0.0)
        weight_part = tl.load(
            places(weight, j, i, weight_row, weight_column), inside(j, i, outputs, inputs), other=0.0
        )
        z = add_product(z, x_part, tl.trans(weight_part), PRECISION)
    if bias is not None:
        z += tl.load(bias + j, j < outputs, other=0.0).to(tl.float32)[None, :]
    o = activate(z, ACTIVATION).to(output.dtype.element_ty)
    tl.store(places(output, n, j, outputs, 1), o, inside(n, j, rows, outputs))


@registered(mutates=("z",))
def bias_activate_(z: Tensor, bias: Tensor | None, code: int) -> None:
    """o = f(z + b)  [N, O], written over z"""
    block = 1024
    kernel = wrap_triton(bias_activate_kernel) if traced(z) else bias_activate_kernel
    kernel[(triton.cdiv(z.numel(), block),)](z, bias, z.numel(), z.shape[1], ACTIVATION=code, BLOCK=block)


@triton.jit
def bias_activate_kernel(z, bias, size, outputs, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(z + index, index < size, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + index % outputs, index < size, other=0.0).to(tl.float32)
    tl.store(z + index, activate(value, ACTIVATION).to(z.dtype.element_ty), index < size)


@registered()
def delta_and_sum(error: Tensor, o: Tensor, code: int, sums: bool) -> list[Tensor]:
    """δ = ē ⊙ f′(z)  [N, O] and, if asked, ∂E/∂b = Σₙ δₙ  [O], from one read of ē and o"""
    rows, outputs = o.shape
    block_rows, block_outputs = 32, 64
    share, programs = shares(rows, block_rows)
    delta = empty(o, rows, outputs)
    partial_sums = empty(o, programs, outputs, dtype=torch.float32) if sums else None
    kernel = wrap_triton(delta_and_sum_kernel) if traced(o) else delta_and_sum_kernel
    kernel[(programs, triton.cdiv(outputs, block_outputs))](
        error, o, delta, partial_sums, rows, outputs, share, *error.stride(), *o.stride(),
        ACTIVATION=code, ROWS=block_rows, OUTPUTS=block_outputs,
    )  # fmt: skip
    return [delta] if partial_sums is None else [delta, partial_sums.sum(0).to(o.dtype)]


@triton.jit
def delta_and_sum_kernel(  # type: ignore[no-untyped-def]
    error, o, delta, partial_sums, rows, outputs, share, error_row, error_column, o_row, o_column,
    ACTIVATION: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    j = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((OUTPUTS,), tl.float32)
    for block in range(program * share, program * share + share):
        n = block * ROWS + tl.arange(0, ROWS)
        here = inside(n, j, rows, outputs)
        error_part = tl.load(places(error, n, j, error_row, error_column), here, other=0.0).to(tl.float32)
        o_part = tl.load(places(o, n, j, o_row, o_column), here, other=0.0).to(tl.float32)
        delta_part = delta_of(error_part, o_part, ACTIVATION)
        tl.store(places(delta, n, j, outputs, 1), delta_part.to(delta.dtype.element_ty), here)
        total += tl.sum(delta_part, 0)
    if partial_sums is not None:
        tl.store(partial_sums + program * outputs + j, total, j < outputs)


# --- A narrow network in one kernel -------------------------------------------------------------------------------------
#
# Under torch.compile a kernel takes no tuple of tensors. So the layers' tensors come one by one, as many as the deepest
# network has, and None where there is no layer. Widths are padded to powers of two, as tl.dot asks; what stands in the
# padding is kept at 0, since 0 times an infinity would be NaN.


def one_by_one(tensors: Optionals) -> list[Tensor | None]:
    contiguous = [None if tensor is None else tensor.contiguous() for tensor in tensors]
    return contiguous + blank(DEEPEST - len(tensors))


def padded(widths: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(16, triton.next_power_of_2(width)) for width in widths)


def rows_of_block(widths: Sequence[int]) -> int:
    return 64 if max(widths) <= 32 else 32


@registered()
def narrow_forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], codes: Sequence[int]
) -> list[Tensor]:
    """o of each layer"""
    rows, widths = x.shape[0], widths_of(weights)
    outputs = [empty(x, rows, width) for width in widths[1:]]
    block = rows_of_block(widths)
    kernel = wrap_triton(narrow_forward_kernel) if traced(x) else narrow_forward_kernel
    kernel[(triton.cdiv(rows, block),)](
        x, rows, *x.stride(), *one_by_one(weights), *one_by_one(biases), *one_by_one(outputs),
        DEPTH=len(weights), WIDTHS=tuple(widths), PADDED=padded(widths), ACTIVATIONS=tuple(codes),
        ROWS=block, PRECISION=precision(),
    )  # fmt: skip
    return outputs


@triton.jit
def narrow_forward_kernel(  # type: ignore[no-untyped-def]
    x, rows, x_row, x_column,
    weight_1, weight_2, weight_3, weight_4, weight_5, weight_6, weight_7, weight_8,
    bias_1, bias_2, bias_3, bias_4, bias_5, bias_6, bias_7, bias_8,
    output_1, output_2, output_3, output_4, output_5, output_6, output_7, output_8,
    DEPTH: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr, ACTIVATIONS: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    weights = (weight_1, weight_2, weight_3, weight_4, weight_5, weight_6, weight_7, weight_8)
    biases = (bias_1, bias_2, bias_3, bias_4, bias_5, bias_6, bias_7, bias_8)
    outputs = (output_1, output_2, output_3, output_4, output_5, output_6, output_7, output_8)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    i = tl.arange(0, PADDED[0])
    below = tl.load(places(x, n, i, x_row, x_column), inside(n, i, rows, WIDTHS[0]), other=0.0)
    for layer in tl.static_range(DEPTH):
        i = tl.arange(0, PADDED[layer])
        j = tl.arange(0, PADDED[layer + 1])
        here = inside(n, j, rows, WIDTHS[layer + 1])
        weight = tl.load(
            places(weights[layer], j, i, WIDTHS[layer], 1), inside(j, i, WIDTHS[layer + 1], WIDTHS[layer]), other=0.0
        )
        z = add_product(None, below, tl.trans(weight), PRECISION)
        if biases[layer] is not None:
            z += tl.load(biases[layer] + j, j < WIDTHS[layer + 1], other=0.0).to(tl.float32)[None, :]
        below = tl.where(here, activate(z, ACTIVATIONS[layer]), 0.0).to(x.dtype.element_ty)
        tl.store(places(outputs[layer], n, j, WIDTHS[layer + 1], 1), below, here)


class Slab(NamedTuple):
    """Where in a row of float32 the gradients of the parameters stand; −1 for one that nobody wants."""

    weights: tuple[int, ...]
    biases: tuple[int, ...]
    size: int


def slab_of(widths: Sequence[int], wanted: Wanted) -> Slab:
    size = 0

    def place(is_wanted: bool, entries: int) -> int:
        nonlocal size
        start = size
        size += triton.cdiv(entries, 16) * 16 if is_wanted else 0  # aligned, as vector instructions like it
        return start if is_wanted else -1

    layers = range(len(widths) - 1)
    weights = tuple(place(wanted.weights[layer], widths[layer] * widths[layer + 1]) for layer in layers)
    biases = tuple(place(wanted.biases[layer], widths[layer + 1]) for layer in layers)
    return Slab(weights, biases, size)


def narrow_signals(
    grad_output: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    codes: Sequence[int],
    wanted: Wanted,
) -> Signals:
    """`narrow_backward`, its gradients told apart."""
    depth, slab = len(weights), slab_of(widths_of(weights), wanted)
    weight_grads, bias_grads = blank(depth), blank(depth)
    if wanted.lowest == depth:
        return Signals(None, weight_grads, bias_grads, blank(depth), blank(depth))
    gradients = narrow_backward(grad_output, x, weights, kept, codes, wanted.x, wanted.weights, wanted.biases)
    x_grad = gradients.pop(0) if wanted.x else None
    for layer, weight in enumerate(weights):
        if wanted.weights[layer]:
            weight_grads[layer] = gradients[0][slab.weights[layer] :][: weight.numel()].view(weight.shape)
        if wanted.biases[layer]:
            bias_grads[layer] = gradients[0][slab.biases[layer] :][: weight.shape[0]]
    return Signals(x_grad, weight_grads, bias_grads, blank(depth), blank(depth))


@registered()
def narrow_backward(
    grad_output: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    codes: Sequence[int],
    wants_x: bool,
    wants_weights: Sequence[bool],
    wants_biases: Sequence[bool],
) -> list[Tensor]:
    """∂E/∂x if wanted, and the gradients of the parameters, if any, one behind the other as in `Slab`

    Each program sums over its share of the rows, in a slab of its own; the slabs are added up afterwards.
    """
    wanted = Wanted(wants_x, wants_weights, wants_biases)
    rows, widths = x.shape[0], widths_of(weights)
    block = rows_of_block(widths)
    share, programs = shares(rows, block)
    slab = slab_of(widths, wanted)
    slabs = empty(x, programs, slab.size, dtype=torch.float32) if slab.size else None
    x_grad = empty(x, *x.shape) if wants_x else None
    kernel = wrap_triton(narrow_backward_kernel) if traced(x) else narrow_backward_kernel
    kernel[(programs,)](
        grad_output, x, x_grad, slabs, rows, share, *grad_output.stride(), *x.stride(),
        *one_by_one(weights), *one_by_one(kept),
        DEPTH=len(weights), LOWEST=wanted.lowest, WIDTHS=tuple(widths), PADDED=padded(widths),
        ACTIVATIONS=tuple(codes), WEIGHTS_AT=slab.weights, BIASES_AT=slab.biases, SLAB=slab.size,
        ROWS=block, PRECISION=precision(),
    )  # fmt: skip
    parameter_grads = None if slabs is None else slabs.sum(0).to(x.dtype)
    return [gradient for gradient in (x_grad, parameter_grads) if gradient is not None]


@triton.jit
def narrow_backward_kernel(  # type: ignore[no-untyped-def]
    grad_output, x, x_grad, slabs, rows, share, grad_row, grad_column, x_row, x_column,
    weight_1, weight_2, weight_3, weight_4, weight_5, weight_6, weight_7, weight_8,
    output_1, output_2, output_3, output_4, output_5, output_6, output_7, output_8,
    DEPTH: tl.constexpr, LOWEST: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr,
    ACTIVATIONS: tl.constexpr, WEIGHTS_AT: tl.constexpr, BIASES_AT: tl.constexpr, SLAB: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    weights = (weight_1, weight_2, weight_3, weight_4, weight_5, weight_6, weight_7, weight_8)
    outputs = (output_1, output_2, output_3, output_4, output_5, output_6, output_7, output_8)
    program = tl.program_id(0)
    first = program * share
    for block in range(first, first + share):
        n = block * ROWS + tl.arange(0, ROWS)
        j = tl.arange(0, PADDED[DEPTH])
        here = inside(n, j, rows, WIDTHS[DEPTH])
        error = tl.load(places(grad_output, n, j, grad_row, grad_column), here, other=0.0).to(tl.float32)
        o = tl.load(places(outputs[DEPTH - 1], n, j, WIDTHS[DEPTH], 1), here, other=0.0)
        for layer in tl.static_range(DEPTH - 1, LOWEST - 1, -1):
            i = tl.arange(0, PADDED[layer])
            j = tl.arange(0, PADDED[layer + 1])
            here = inside(n, j, rows, WIDTHS[layer + 1])
            delta = tl.where(here, delta_of(error, o.to(tl.float32), ACTIVATIONS[layer]), 0.0)
            if BIASES_AT[layer] >= 0:
                bias_sum = slabs + program * SLAB + BIASES_AT[layer] + j
                so_far = tl.load(bias_sum, (j < WIDTHS[layer + 1]) & (block > first), other=0.0)
                tl.store(bias_sum, so_far + tl.sum(delta, 0), j < WIDTHS[layer + 1])
            delta = delta.to(x.dtype.element_ty)
            if layer > 0:
                o = tl.load(places(outputs[layer - 1], n, i, WIDTHS[layer], 1), inside(n, i, rows, WIDTHS[layer]), other=0.0)
            elif WEIGHTS_AT[layer] >= 0:
                o = tl.load(places(x, n, i, x_row, x_column), inside(n, i, rows, WIDTHS[layer]), other=0.0)
            of_weight = inside(j, i, WIDTHS[layer + 1], WIDTHS[layer])
            if WEIGHTS_AT[layer] >= 0:
                weight_sum = places(slabs + program * SLAB + WEIGHTS_AT[layer], j, i, WIDTHS[layer], 1)
                so_far = tl.load(weight_sum, of_weight & (block > first), other=0.0)
                tl.store(weight_sum, add_product(so_far, tl.trans(delta), o, PRECISION), of_weight)
            if layer > LOWEST or x_grad is not None:
                weight = tl.load(places(weights[layer], j, i, WIDTHS[layer], 1), of_weight, other=0.0)
                error = add_product(None, delta, weight, PRECISION)
        if x_grad is not None:
            i = tl.arange(0, PADDED[0])
            here = inside(n, i, rows, WIDTHS[0])
            tl.store(places(x_grad, n, i, WIDTHS[0], 1), error.to(x_grad.dtype.element_ty), here)
        tl.debug_barrier()  # the next block's threads read sums that other threads may have written
