"""The sweeps for CUDA in Triton kernels: same arguments and results. They can't run under a torch.func transform.

A network of narrow layers runs in one kernel forward and one backward; wider layers run one by one, with cuBLAS for
their products. Sums over rows are computed in float32 for every dtype, and in a fixed order, so that a repeated run
gives the same bits.

This module imports Triton, so check that Triton is installed before importing it. With TRITON_INTERPRET=1 in the
environment Triton interprets the kernels on the CPU, which is how they are tested without a GPU.
"""
# mypy: allow-untyped-defs
# (what a kernel takes and returns is typed by Triton)

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple, TypeVar

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from torchann import formulas
from torchann.activations import Activation, by_key
from torchann.fast import fused
from torchann.sweeps import Gradients, NeedsGrad, Optionals, Sweeps, blank
from torchann.transforms import ORDINARY

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")  # Triton reads it where it meets a kernel

# Sizes with which the compiled kernels fit in a GPU's registers and shared memory. None has been tuned on a GPU yet.
NARROW = 128  # the widest layer, input included, of a network that runs in one kernel
NARROW_IEEE_BACKWARD = 64  # the same for backward in float32 without tensor cores: beyond, registers spill
DEEPEST = 8  # the most layers in one kernel
TILE = 4096  # entries of a block of rows in its widest layer
TILE_IEEE = 2048  # the same without tensor cores
WARPS = 8
FUSED_INPUTS = 256  # up to here, product + bias + f in one kernel is bound by memory, and should beat cuBLAS + a pass
FUSED_INPUTS_IEEE = 32  # the same without tensor cores
PROGRAMS = 128  # the most parts of a sum over rows: the same on every GPU, and so is the order of summation

RECENT = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 5)  # so `add_product` can call itself
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def supports(x: Tensor, weights: Sequence[Tensor], activations: Sequence[Activation]) -> bool:
    """Whether the kernels cover this network."""
    return (
        RECENT
        and runs_on(x.device)
        and x.dtype in DTYPES
        and type(x) in ORDINARY
        and x.numel() > 0
        and all(type(weight) in ORDINARY and weight.shape[0] > 0 for weight in weights)
        and all(code_of(activation) != NO_KERNEL for activation in activations)
    )


@torch.compiler.assume_constant_result  # Dynamo cannot look into it
def runs_on(device: torch.device) -> bool:
    if INTERPRETED.value:
        return device.type == "cpu"
    is_nvidia = device.type == "cuda" and torch.version.hip is None
    return is_nvidia and torch.cuda.get_device_properties(device).major >= 8  # tf32 and bfloat16 from there


class Triton(Sweeps):
    """First derivatives in Triton's kernels, the others by PyTorch's."""

    def forward(
        self,
        x: Tensor,
        weights: Sequence[Tensor],
        biases: Optionals,
        activations: Sequence[Activation],
        keep: Sequence[bool],
    ) -> tuple[Tensor, list[Tensor | None]]:
        codes = [code_of(activation) for activation in activations]
        outputs = (narrow_forward if is_narrow(weights) else layered_forward)(x, weights, biases, codes, any(keep))
        kept = outputs if any(keep) else [None] * len(weights)
        return outputs[-1], [o if keeps else None for o, keeps in zip(kept, keep, strict=True)]

    def gradients(
        self,
        grad_output: Tensor,
        x: Tensor | None,
        weights: Optionals,
        kept: list[Tensor | None],
        activations: Sequence[Activation],
        needs: NeedsGrad,
    ) -> Gradients:
        codes = [code_of(activation) for activation in activations]
        tensors = with_placeholders(grad_output, x, weights, kept)
        narrow = is_narrow(tensors[1], NARROW_IEEE_BACKWARD if is_ieee(grad_output.dtype) else NARROW)
        return (narrow_backward_sweep if narrow else layered_backward)(grad_output, *tensors, codes, needs)


TRITON = Triton(fused)


def with_placeholders(
    grad_output: Tensor, x: Tensor | None, weights: Optionals, kept: Optionals
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Empty tensors for what was not kept: kernels take them as arguments, but no needed gradient reads them."""
    rows = grad_output.shape[0]
    outputs = [*(1 if weight is None else weight.shape[1] for weight in weights[1:]), grad_output.shape[1]]
    first = weights[0]
    inputs = first.shape[1] if first is not None else 1 if x is None else x.shape[1]
    widths = [inputs, *outputs]
    return (
        empty(grad_output, rows, inputs) if x is None else x,
        [empty(grad_output, o, i) if w is None else w for w, i, o in zip(weights, widths, outputs, strict=False)],
        [empty(grad_output, rows, o) if s is None else s for s, o in zip(kept, outputs, strict=True)],
    )


def is_narrow(weights: Sequence[Tensor], widest: int = NARROW) -> bool:
    """Whether the whole network goes through one kernel."""
    return len(weights) <= DEEPEST and max(widths_of(weights)) <= widest


def widths_of(weights: Sequence[Tensor]) -> list[int]:
    """The widths of x, o₁, …, o_L."""
    return [int(weights[0].shape[1]), *(int(weight.shape[0]) for weight in weights)]


def is_fused(inputs: int, dtype: torch.dtype) -> bool:
    """Whether product + bias + f of a layer go through one kernel."""
    return inputs <= (FUSED_INPUTS_IEEE if is_ieee(dtype) else FUSED_INPUTS)


def is_ieee(dtype: torch.dtype) -> bool:
    """Whether products are computed without tensor cores."""
    return dtype == torch.float32 and precision() == "ieee"


@torch.compiler.assume_constant_result  # Dynamo cannot look into it
def precision() -> str:
    """The precision of products in float32, as set for cuBLAS."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # from PyTorch 2.9 on; allow_tf32 raises where this has been set
        return "tf32" if matmul.fp32_precision == "tf32" else "ieee"
    return "tf32" if matmul.allow_tf32 else "ieee"


def empty(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """All memory that the kernels write to comes from here."""
    return like.new_empty(shape, dtype=dtype)


# --- The activations: f and f′ restated for the kernels; the tests compare them with the table -----------------------

NAMES = (  # of f in `Activation.aten`; the kernels read f′ from o
    "sigmoid", "tanh", "relu", "identity", "leaky_relu", "elu", "hardtanh", "softplus", "softshrink", "hardshrink",
    "threshold", "log_sigmoid", "exp",
)  # fmt: skip
(
    SIGMOID, TANH, RELU, IDENTITY, LEAKY_RELU, ELU, HARDTANH, SOFTPLUS, SOFTSHRINK, HARDSHRINK,
    THRESHOLD, LOG_SIGMOID, EXP,
) = (tl.constexpr(kind) for kind in range(len(NAMES)))  # fmt: skip
# What a code stands for: the kind and the numbers of an activation. A graph of torch.compile holds codes.
DESCRIPTIONS: list[tuple[int, tuple[float, ...]]] = []
NO_KERNEL = -1


def described(activation: Activation) -> tuple[int, tuple[float, ...]] | None:
    """The kind and the three numbers of an activation; None if there is no kernel."""
    if activation is formulas.IDENTITY:
        return IDENTITY.value, (0.0, 0.0, 0.0)
    if not (activation.aten and activation.reads_output):
        return None
    name, _, *numbers = activation.aten[0]
    return (NAMES.index(name), (*map(float, numbers), 0.0, 0.0, 0.0)[:3]) if name in NAMES else None


@torch.compiler.assume_constant_result  # Dynamo cannot look into it
def code_by_key(key: str) -> int:
    """The code of an activation by its key, or `NO_KERNEL`."""
    description = described(by_key(key))
    if description is None:
        return NO_KERNEL
    if description not in DESCRIPTIONS:
        DESCRIPTIONS.append(description)
    return DESCRIPTIONS.index(description)


def code_of(activation: Activation) -> int:
    return code_by_key(activation.key)


def described_by(codes: Sequence[int]) -> dict[str, tuple[Any, ...]]:
    """The kinds and the numbers of a network's activations, as arguments of a kernel."""
    kinds, numbers = zip(*(DESCRIPTIONS[code] for code in codes), strict=True)
    return {"KINDS": kinds, "NUMBERS": tuple(chain.from_iterable(numbers))}


IDENTITY_CODE = code_of(formulas.IDENTITY)


@triton.jit
def activate(z, KIND: tl.constexpr, A: tl.constexpr = 0.0, B: tl.constexpr = 0.0, C: tl.constexpr = 0.0):
    """o = f(z), in float32 or float64"""
    if KIND == SIGMOID:
        e = tl.exp(-tl.abs(z))  # ≤ 1, so nothing overflows
        o = tl.where(z < 0, e, 1.0) / (1 + e)
    elif KIND == TANH:
        o = tanh(z)
    elif KIND == RELU:
        o = tl.where(z < 0, 0.0, z)  # NaN stays NaN
    elif KIND == LEAKY_RELU:
        o = tl.where(z > 0, z, z * A)
    elif KIND == ELU:
        below = A * B * exp_minus_1(tl.where(z > 0, 0.0, z * C))
        o = tl.where(z > 0, z * B, below)
    elif KIND == HARDTANH:
        o = tl.where(z < A, A, tl.where(z > B, B, z))
    elif KIND == SOFTPLUS:
        o = tl.where(z * A > B, z, log_of_1_plus_exp(z * A) / A)
    elif KIND == SOFTSHRINK:
        o = tl.where(tl.abs(z) <= A, 0.0, tl.where(z > 0, z - A, z + A))
    elif KIND == HARDSHRINK:
        o = tl.where(tl.abs(z) <= A, 0.0, z)
    elif KIND == THRESHOLD:
        o = tl.where(z <= A, B, z)
    elif KIND == LOG_SIGMOID:
        o = -log_of_1_plus_exp(-z)
    elif KIND == EXP:
        o = tl.exp(z)
    else:
        o = z
    return o


@triton.jit
def delta_of(grad_output, o, KIND: tl.constexpr, A: tl.constexpr = 0.0, B: tl.constexpr = 0.0, C: tl.constexpr = 0.0):
    """δ = ē ⊙ f′(z), in float32, with f′ read from o; NaN of o lets ē through where f′ is not computed"""
    if KIND == SIGMOID:
        delta = grad_output * o * (1 - o)
    elif KIND == TANH:
        delta = grad_output * (1 - o * o)
    elif KIND == RELU:
        delta = tl.where(o <= 0, 0.0, grad_output)
    elif KIND == LEAKY_RELU:
        delta = tl.where(o > 0, grad_output, grad_output * A)
    elif KIND == ELU:
        delta = grad_output * tl.where(o <= 0, C * (o + A * B), B)
    elif KIND == HARDTANH:
        delta = tl.where((o <= A) | (o >= B), 0.0, grad_output)
    elif KIND == SOFTPLUS:
        slope = tl.where(o * A > B, 1.0, -exp_minus_1(-o * A))
        delta = grad_output * slope
    elif KIND == SOFTSHRINK or KIND == HARDSHRINK:  # noqa: SIM109, as Triton knows no `in`
        delta = tl.where(o == 0, 0.0, grad_output)
    elif KIND == THRESHOLD:
        delta = tl.where(o <= A, 0.0, grad_output)
    elif KIND == LOG_SIGMOID:
        delta = -grad_output * exp_minus_1(o)
    elif KIND == EXP:
        delta = grad_output * o
    else:
        delta = grad_output
    return delta


@triton.jit
def tanh(z):
    e = tl.exp(-2 * tl.abs(z))
    far = (1 - e) / (1 + e)
    square = z * z
    # Near 0, 1 − e would lose digits. The polynomial is exact to float32's rounding, the fraction to float64's.
    if z.dtype == tl.float64:
        near = z * (945 + square * (105 + square)) / (945 + square * (420 + 15 * square))
    else:
        near = z * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    return tl.where(tl.abs(z) < 0.125, near, tl.where(z < 0, -far, far))


@triton.jit
def exp_minus_1(z):
    """e^z − 1 for z ≤ 0; near 0 by 2t / (1 − t) with t = tanh(z / 2), as e^z − 1 would lose digits"""
    t = tanh(z / 2)
    return tl.where(z > -0.25, 2 * t / (1 - t), tl.exp(z) - 1)


@triton.jit
def log_of_1_plus_exp(z):
    """log(1 + e^z), where 1 + e is 1 for a small e = e^{−|z|}, and rounded for others: log(1 + e) e / ((1 + e) − 1)"""
    e = tl.exp(-tl.abs(z))
    sum = 1 + e
    small = tl.where(sum == 1, e, tl.log(sum) * (e / tl.where(sum == 1, 1.0, sum - 1)))
    return tl.where(z < 0, 0.0, z) + small


# --- What the kernels share ------------------------------------------------------------------------------------------


@triton.jit
def places(pointer, row, column, row_stride, column_stride):
    """Pointers [rows, columns]; in 64 bits, as large tensors need."""
    return pointer + row.to(tl.int64)[:, None] * row_stride + column.to(tl.int64)[None, :] * column_stride


@triton.jit
def entries(matrix, row, column, columns):
    """Pointers [rows, columns] into a small contiguous matrix; 32 bits leave a thread more registers."""
    return matrix + (row[:, None] * columns + column[None, :])


@triton.jit
def inside(row, column, rows, columns):
    return (row < rows)[:, None] & (column < columns)[None, :]


@triton.jit
def add_product(total, a, b, PRECISION: tl.constexpr):
    """total + a b, in float32; a total of None is zero"""
    ROWS: tl.constexpr = a.shape[0]
    INNER: tl.constexpr = a.shape[1]
    COLUMNS: tl.constexpr = b.shape[1]
    if INTERPRETED:  # the interpreter would multiply the bits of bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    HALVES: tl.constexpr = PRECISION == "ieee" and a.dtype == tl.float32 and INNER > 16
    if HALVES:
        # Without tensor cores, a thread holds all its factors in registers. Half of the sum needs half as many.
        a_left, a_right = tl.split(tl.permute(tl.reshape(a, (ROWS, 2, INNER // 2)), (0, 2, 1)))
        b_upper, b_lower = tl.split(tl.permute(tl.reshape(b, (2, INNER // 2, COLUMNS)), (1, 2, 0)))
        total = add_product(total, a_left, b_upper, PRECISION)
        total = add_product(total, a_right, b_lower, PRECISION)
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


Launcher = TypeVar("Launcher", bound=Callable[..., Any])


def registered(launcher: Launcher) -> Launcher:
    """A function that launches kernels, and under torch.compile the op `torchann::…` that stands for it in a graph."""
    op = triton_op(f"torchann::{launcher.__name__}", launcher, mutates_args=())

    @functools.wraps(launcher)
    def call(x: Tensor, *others: Any) -> Any:
        if torch.compiler.is_compiling():
            return op(x, *others)  # slower, so only where torch.compile needs it
        with torch.cuda.device_of(x):
            return launcher(x, *others)

    return call  # type: ignore[return-value]


def is_traced(tensor: Tensor) -> bool:
    """Whether torch.compile is tracing: then the tensors are of a subclass of its own."""
    return type(tensor) not in ORDINARY


def blocks_of(size: int, block: int) -> int:
    return -(-size // block)


def shares(rows: int, block: int) -> tuple[int, int]:
    """Blocks of rows for each program, and how many programs that makes."""
    blocks = blocks_of(rows, block)
    share = blocks_of(blocks, PROGRAMS)
    return share, blocks_of(blocks, share)


# --- Layer by layer --------------------------------------------------------------------------------------------------


def layered_forward(
    x: Tensor, weights: Sequence[Tensor], biases: Optionals, codes: Sequence[int], keep: bool
) -> list[Tensor]:
    """o of each layer, or of the last alone"""
    outputs = []
    for weight, bias, code in zip(weights, biases, codes, strict=True):
        x = linear_activate(x, weight, bias, code)
        if keep:
            outputs.append(x)
    return outputs if keep else [x]


def layered_backward(
    grad_output: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    codes: Sequence[int],
    needs: NeedsGrad,
) -> Gradients:
    """Case 1 and case 2, as in `sweeps`"""
    depth, lowest = len(weights), needs.lowest
    inputs = [x, *kept[:-1]]
    weight_grads, bias_grads = blank(depth), blank(depth)
    for layer in range(depth - 1, lowest - 1, -1):
        if codes[layer] != IDENTITY_CODE:
            delta, *sums = delta_and_sum(grad_output, kept[layer], codes[layer], needs.biases[layer])
        else:
            delta, sums = grad_output, [formulas.bias_gradient(grad_output)] if needs.biases[layer] else []
        if needs.biases[layer]:
            bias_grads[layer] = sums[0]
        if needs.weights[layer]:
            weight_grads[layer] = formulas.weight_gradient(delta, inputs[layer])
        if layer > lowest or needs.x:
            grad_output = formulas.input_gradient(delta, weights[layer])
    return Gradients(grad_output if needs.x else None, weight_grads, bias_grads, blank(depth), blank(depth))


@registered
def linear_activate(x: Tensor, weight: Tensor, bias: Tensor | None, code: int) -> Tensor:
    """o = f(x Wᵀ + b)  [N, O], in one kernel or by cuBLAS and one pass in place"""
    (rows, inputs), outputs = x.shape, weight.shape[0]
    kind, numbers = DESCRIPTIONS[code]
    bias = None if bias is None else bias.contiguous()
    if is_fused(inputs, x.dtype):
        output = empty(x, rows, outputs)
        block_rows, block_outputs, block_inputs = 64, 64, 32
        kernel = wrap_triton(linear_activate_kernel) if is_traced(x) else linear_activate_kernel
        kernel[(blocks_of(rows, block_rows), blocks_of(outputs, block_outputs))](
            x, weight, bias, output, rows, inputs, outputs, *x.stride(), *weight.stride(),
            KIND=kind, NUMBERS=numbers, ROWS=block_rows, OUTPUTS=block_outputs, INPUTS=block_inputs,
            PRECISION=precision(),
        )  # fmt: skip
        return output
    z = x @ weight.t()
    if bias is not None or code != IDENTITY_CODE:
        block = 1024
        kernel = wrap_triton(bias_activate_kernel) if is_traced(x) else bias_activate_kernel
        kernel[(blocks_of(z.numel(), block),)](z, bias, z.numel(), outputs, KIND=kind, NUMBERS=numbers, BLOCK=block)
    return z


@triton.jit(do_not_specialize=["rows"])
def linear_activate_kernel(
    x, weight, bias, output, rows, inputs, outputs, x_row, x_column, weight_row, weight_column,
    KIND: tl.constexpr, NUMBERS: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    z = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, inputs, INPUTS):
        i = start + tl.arange(0, INPUTS)
        x_part = tl.load(places(x, n, i, x_row, x_column), inside(n, i, rows, inputs), other=0.0)
        weight_part = tl.load(places(weight, j, i, weight_row, weight_column), inside(j, i, outputs, inputs), other=0.0)
        z = add_product(z, x_part, tl.trans(weight_part), PRECISION)
    if bias is not None:
        z += tl.load(bias + j, j < outputs, other=0.0).to(tl.float32)[None, :]
    o = activate(z, KIND, NUMBERS[0], NUMBERS[1], NUMBERS[2]).to(output.dtype.element_ty)
    tl.store(places(output, n, j, outputs, 1), o, inside(n, j, rows, outputs))


@triton.jit
def bias_activate_kernel(z, bias, size, outputs, KIND: tl.constexpr, NUMBERS: tl.constexpr, BLOCK: tl.constexpr):
    """o = f(z + b)  [N, O], written over z"""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(z + index, index < size, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + index % outputs, index < size, other=0.0).to(tl.float32)
    tl.store(z + index, activate(value, KIND, NUMBERS[0], NUMBERS[1], NUMBERS[2]).to(z.dtype.element_ty), index < size)


@registered
def delta_and_sum(grad_output: Tensor, o: Tensor, code: int, sums: bool) -> list[Tensor]:
    """δ = ē ⊙ f′(z)  [N, O] and, if asked, ∂E/∂b = Σₙ δₙ  [O], from one read of ē and o"""
    rows, outputs = o.shape
    kind, numbers = DESCRIPTIONS[code]
    block_rows, block_outputs = 32, 64
    share, programs = shares(rows, block_rows)
    delta = empty(o, rows, outputs)
    partial_sums = empty(o, programs, outputs, dtype=torch.float32) if sums else None
    kernel = wrap_triton(delta_and_sum_kernel) if is_traced(o) else delta_and_sum_kernel
    kernel[(programs, blocks_of(outputs, block_outputs))](
        grad_output, o, delta, partial_sums, rows, outputs, share, *grad_output.stride(), *o.stride(),
        KIND=kind, NUMBERS=numbers, ROWS=block_rows, OUTPUTS=block_outputs,
    )  # fmt: skip
    return [delta] if partial_sums is None else [delta, partial_sums.sum(0).to(o.dtype)]


@triton.jit(do_not_specialize=["rows"])
def delta_and_sum_kernel(
    grad_output, o, delta, partial_sums, rows, outputs, share, grad_row, grad_column, o_row, o_column,
    KIND: tl.constexpr, NUMBERS: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    j = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    total = tl.zeros((OUTPUTS,), tl.float32)
    for block in range(program * share, program * share + share):
        n = block * ROWS + tl.arange(0, ROWS)
        here = inside(n, j, rows, outputs)
        grad_part = tl.load(places(grad_output, n, j, grad_row, grad_column), here, other=0.0).to(tl.float32)
        o_part = tl.load(places(o, n, j, o_row, o_column), here, other=0.0).to(tl.float32)
        delta_part = delta_of(grad_part, o_part, KIND, NUMBERS[0], NUMBERS[1], NUMBERS[2])
        tl.store(places(delta, n, j, outputs, 1), delta_part.to(delta.dtype.element_ty), here)
        total += tl.sum(delta_part, 0)
    if partial_sums is not None:
        tl.store(partial_sums + program * outputs + j, total, j < outputs)


# --- A narrow network in one kernel ----------------------------------------------------------------------------------
#
# Under torch.compile a kernel takes no tuple of tensors. So the layers' tensors are separate arguments, as many as the
# deepest network has; those without a layer are None. Widths are padded to powers of two for tl.dot. The padding is
# kept at 0, since 0 times an infinity would be NaN.


def one_by_one(tensors: Optionals) -> list[Tensor | None]:
    contiguous = [None if tensor is None else tensor.contiguous() for tensor in tensors]
    return contiguous + blank(DEEPEST - len(tensors))


def padded(widths: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(16, 1 << (width - 1).bit_length()) for width in widths)


def rows_of_block(widths: Sequence[int], dtype: torch.dtype) -> int:
    tile = TILE_IEEE if is_ieee(dtype) else TILE
    return max(16, min(64, tile // max(padded(widths))))  # tl.dot asks for 16


@registered
def narrow_forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], codes: Sequence[int], keep: bool
) -> list[Tensor]:
    """o of each layer, or of the last alone"""
    rows, depth, widths = x.shape[0], len(weights), widths_of(weights)
    kept = [empty(x, rows, width) for width in (widths[1:] if keep else widths[-1:])]
    block = rows_of_block(widths, x.dtype)
    kernel = wrap_triton(narrow_forward_kernel) if is_traced(x) else narrow_forward_kernel
    kernel[(blocks_of(rows, block),)](
        x, rows, *x.stride(),
        *one_by_one(weights), *one_by_one(biases), *one_by_one([*blank(depth - len(kept)), *kept]),
        DEPTH=depth, WIDTHS=tuple(widths), PADDED=padded(widths), **described_by(codes),
        ROWS=block, PRECISION=precision(), num_warps=WARPS,
    )  # fmt: skip
    return kept


@triton.jit(do_not_specialize=["rows"])
def narrow_forward_kernel(
    x, rows, x_row, x_column,
    weight_1, weight_2, weight_3, weight_4, weight_5, weight_6, weight_7, weight_8,
    bias_1, bias_2, bias_3, bias_4, bias_5, bias_6, bias_7, bias_8,
    output_1, output_2, output_3, output_4, output_5, output_6, output_7, output_8,
    DEPTH: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr, KINDS: tl.constexpr, NUMBERS: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    weights = (weight_1, weight_2, weight_3, weight_4, weight_5, weight_6, weight_7, weight_8)
    biases = (bias_1, bias_2, bias_3, bias_4, bias_5, bias_6, bias_7, bias_8)
    outputs = (output_1, output_2, output_3, output_4, output_5, output_6, output_7, output_8)
    n = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    i = tl.arange(0, PADDED[0])
    o = tl.load(places(x, n, i, x_row, x_column), inside(n, i, rows, WIDTHS[0]), other=0.0)
    for layer in tl.static_range(DEPTH):
        i = tl.arange(0, PADDED[layer])
        j = tl.arange(0, PADDED[layer + 1])
        of_weight = inside(j, i, WIDTHS[layer + 1], WIDTHS[layer])
        weight = tl.load(entries(weights[layer], j, i, WIDTHS[layer]), of_weight, other=0.0)
        z = add_product(None, o, tl.trans(weight), PRECISION)
        if biases[layer] is not None:
            z += tl.load(biases[layer] + j, j < WIDTHS[layer + 1], other=0.0).to(tl.float32)[None, :]
        here = inside(n, j, rows, WIDTHS[layer + 1])
        o = activate(z, KINDS[layer], NUMBERS[3 * layer], NUMBERS[3 * layer + 1], NUMBERS[3 * layer + 2])
        o = tl.where(here, o, 0.0).to(x.dtype.element_ty)
        if outputs[layer] is not None:
            tl.store(places(outputs[layer], n, j, WIDTHS[layer + 1], 1), o, here)


class Slab(NamedTuple):
    """Where each parameter's gradient starts in a row of float32; −1 for a gradient that is not needed."""

    weights: tuple[int, ...]
    biases: tuple[int, ...]
    size: int


def slab_of(widths: Sequence[int], needs: NeedsGrad) -> Slab:
    starts: list[int] = []
    size = 0
    weight_sizes = [inputs * outputs for inputs, outputs in pairwise(widths)]
    for is_needed, entries in zip((*needs.weights, *needs.biases), (*weight_sizes, *widths[1:]), strict=True):
        starts.append(size if is_needed else -1)
        size += 16 * blocks_of(entries, 16) if is_needed else 0  # aligned for vector instructions
    return Slab(tuple(starts[: len(weight_sizes)]), tuple(starts[len(weight_sizes) :]), size)


def narrow_backward_sweep(
    grad_output: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    codes: Sequence[int],
    needs: NeedsGrad,
) -> Gradients:
    """`narrow_backward`, its result split into the gradients of the single parameters."""
    depth, slab = len(weights), slab_of(widths_of(weights), needs)
    weight_grads, bias_grads = blank(depth), blank(depth)
    if needs.lowest == depth:
        return Gradients(None, weight_grads, bias_grads, blank(depth), blank(depth))
    gradients = narrow_backward(grad_output, x, weights, kept, codes, needs.x, needs.weights, needs.biases)
    of_parameters = gradients[-1]
    for layer, weight in enumerate(weights):
        outputs, inputs = weight.shape
        if needs.weights[layer]:
            weight_grads[layer] = of_parameters.narrow(0, slab.weights[layer], outputs * inputs).view(outputs, inputs)
        if needs.biases[layer]:
            bias_grads[layer] = of_parameters.narrow(0, slab.biases[layer], outputs)
    return Gradients(gradients[0] if needs.x else None, weight_grads, bias_grads, blank(depth), blank(depth))


@registered
def narrow_backward(
    grad_output: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    codes: Sequence[int],
    needs_x: bool,
    needs_weights: Sequence[bool],
    needs_biases: Sequence[bool],
) -> list[Tensor]:
    """∂E/∂x if needed, and the gradients of the parameters, if any, one behind the other as in `Slab`

    Each program sums over its share of the rows, in a slab of its own; the slabs are added up afterwards.
    """
    needs = NeedsGrad(needs_x, needs_weights, needs_biases)
    rows, widths = x.shape[0], widths_of(weights)
    block = rows_of_block(widths, x.dtype)
    share, programs = shares(rows, block)
    slab = slab_of(widths, needs)
    slabs = empty(x, programs, slab.size, dtype=torch.float32) if slab.size else None
    x_grad = empty(x, *x.shape) if needs_x else None
    kernel = wrap_triton(narrow_backward_kernel) if is_traced(x) else narrow_backward_kernel
    kernel[(programs,)](
        grad_output, x, x_grad, slabs, rows, share, *grad_output.stride(), *x.stride(),
        *one_by_one(weights), *one_by_one(kept),
        DEPTH=len(weights), LOWEST=needs.lowest, WIDTHS=tuple(widths), PADDED=padded(widths),
        **described_by(codes), WEIGHTS_AT=slab.weights, BIASES_AT=slab.biases, SLAB=slab.size,
        ROWS=block, PRECISION=precision(), num_warps=WARPS,
    )  # fmt: skip
    parameter_grads = None if slabs is None else slabs.sum(0).to(x.dtype)
    return [gradient for gradient in (x_grad, parameter_grads) if gradient is not None]


@triton.jit(do_not_specialize=["rows"])
def narrow_backward_kernel(
    grad_output, x, x_grad, slabs, rows, share, grad_row, grad_column, x_row, x_column,
    weight_1, weight_2, weight_3, weight_4, weight_5, weight_6, weight_7, weight_8,
    output_1, output_2, output_3, output_4, output_5, output_6, output_7, output_8,
    DEPTH: tl.constexpr, LOWEST: tl.constexpr, WIDTHS: tl.constexpr, PADDED: tl.constexpr,
    KINDS: tl.constexpr, NUMBERS: tl.constexpr, WEIGHTS_AT: tl.constexpr, BIASES_AT: tl.constexpr, SLAB: tl.constexpr,
    ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    weights = (weight_1, weight_2, weight_3, weight_4, weight_5, weight_6, weight_7, weight_8)
    outputs = (output_1, output_2, output_3, output_4, output_5, output_6, output_7, output_8)
    program = tl.program_id(0)
    first = program * share
    for block in tl.range(first, first + share, num_stages=1):  # no loads ahead: it writes sums below
        begun = (block > first).to(tl.int32)  # 0 in the first block, when there are no sums yet
        n = block * ROWS + tl.arange(0, ROWS)
        j = tl.arange(0, PADDED[DEPTH])
        here = inside(n, j, rows, WIDTHS[DEPTH])
        o_grad = tl.load(places(grad_output, n, j, grad_row, grad_column), here, other=0.0).to(tl.float32)
        o = tl.load(places(outputs[DEPTH - 1], n, j, WIDTHS[DEPTH], 1), here, other=0.0)
        for layer in tl.static_range(DEPTH - 1, LOWEST - 1, -1):
            i = tl.arange(0, PADDED[layer])
            j = tl.arange(0, PADDED[layer + 1])
            here = inside(n, j, rows, WIDTHS[layer + 1])
            delta = delta_of(
                o_grad, o.to(tl.float32), KINDS[layer],
                NUMBERS[3 * layer], NUMBERS[3 * layer + 1], NUMBERS[3 * layer + 2],
            )  # fmt: skip
            delta = tl.where(here, delta, 0.0)
            if BIASES_AT[layer] >= 0:
                bias_sum = slabs + program * SLAB + BIASES_AT[layer] + j
                so_far = tl.load(bias_sum, j < WIDTHS[layer + 1] * begun, other=0.0)
                tl.store(bias_sum, so_far + tl.sum(delta, 0), j < WIDTHS[layer + 1])
            delta = delta.to(x.dtype.element_ty)
            if layer > 0:  # from here on o is what the layer received
                o = tl.load(
                    places(outputs[layer - 1], n, i, WIDTHS[layer], 1), inside(n, i, rows, WIDTHS[layer]), other=0.0
                )
            elif WEIGHTS_AT[layer] >= 0:
                o = tl.load(places(x, n, i, x_row, x_column), inside(n, i, rows, WIDTHS[layer]), other=0.0)
            of_weight = inside(j, i, WIDTHS[layer + 1], WIDTHS[layer])
            if WEIGHTS_AT[layer] >= 0:
                weight_sum = entries(slabs + program * SLAB + WEIGHTS_AT[layer], j, i, WIDTHS[layer])
                so_far = tl.load(weight_sum, inside(j, i, WIDTHS[layer + 1] * begun, WIDTHS[layer]), other=0.0)
                tl.store(weight_sum, so_far + add_product(None, tl.trans(delta), o, PRECISION), of_weight)
            if layer > LOWEST or x_grad is not None:
                weight = tl.load(entries(weights[layer], j, i, WIDTHS[layer]), of_weight, other=0.0)
                o_grad = add_product(None, delta, weight, PRECISION)
        if x_grad is not None:
            i = tl.arange(0, PADDED[0])
            here = inside(n, i, rows, WIDTHS[0])
            tl.store(places(x_grad, n, i, WIDTHS[0], 1), o_grad.to(x_grad.dtype.element_ty), here)
        tl.debug_barrier()  # in the next block, a thread may read sums that another has written
