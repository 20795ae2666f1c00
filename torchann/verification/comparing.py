"""Two ways of computing the same: what they may differ by, and where they differ by more.

A mismatch names the tensor, the entry and both values. At the end stands what a lower precision may change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchann.verification.cases import COMPLEX, Case, Run, eps, forward, precise, random_like
from torchann.verification.report import Comparisons, Finding, Mismatch, Unsupported, first_line, merged


def ordering(*tensors: Tensor) -> float:
    """What another order of operations may change in the coarsest of these tensors: ε^⅔."""
    return eps(*tensors) ** (2 / 3)


def agree_in_all(
    got: Run, expected: Run, case: Case, words: tuple[str, str], tolerance: float | None = None
) -> Comparisons:
    """Hold a run's outputs and gradients against another's."""
    yield agree(got.outputs, expected.outputs, names_of(got.outputs), words, tolerance)
    yield agree_in_gradients(got, expected, case, words, tolerance)


def agree_in_gradients(
    got: Run, expected: Run, case: Case, words: tuple[str, str], tolerance: float | None = None
) -> Finding:
    check_count(got.differentiable, expected.differentiable)
    return agree(got.backward(), expected.backward(), case.gradient_names, words, tolerance)


def agree(
    got: Sequence[Tensor],
    expected: Sequence[Tensor],
    names: Sequence[str],
    words: tuple[str, str],
    tolerance: float | None = None,
) -> Finding:
    """Hold tensors against others by `assert_close`; without a tolerance, by that of their dtype.

    Raises:
        Mismatch: names the tensor, the entry and both values.
    """
    check_count(got, expected)
    found = []
    for name, a, b in zip(names, got, expected, strict=True):
        if a.shape != b.shape:
            raise Mismatch(f"{name}: shape {list(a.shape)} {words[0]}, {list(b.shape)} {words[1]}")
        allowed = ordering(a, b) if tolerance is None else tolerance
        a, b = precise(a), precise(b)
        if a.is_complex() != b.is_complex():
            raise Mismatch(f"{name}: {kind(a)} {words[0]}, {kind(b)} {words[1]}")
        errors = error_in_all(a, b)
        error = max(errors.flatten().tolist(), default=0.0)
        try:
            torch.testing.assert_close(a, b, rtol=0, atol=allowed * (1 + largest(b)), equal_nan=True)
        except AssertionError:
            at = errors.argmax()
            values = both(words, a.flatten()[at].item(), b.flatten()[at].item())
            raise Mismatch(f"{name}{place(at, errors.shape)}: {values}", error, allowed) from None
        found.append(Finding(error, allowed))
    return merged(found)


def error_in_all(a: Tensor, b: Tensor) -> Tensor:
    """|a − b| beside the largest entry of b; NaN agrees with NaN."""
    errors = (a - b).abs() / (1 + largest(b))
    return torch.where((a == b) | (a.isnan() & b.isnan()), 0, errors).nan_to_num(nan=math.inf)


def kind(tensor: Tensor) -> str:
    return "complex" if tensor.is_complex() else "real"


def check_count(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    if len(outputs) != len(expected):
        raise Mismatch(f"{len(outputs)} outputs, expected {len(expected)}")


def check_dtypes(outputs: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Hold real outputs to a dtype, and complex ones to the complex dtype of its precision."""
    for name, output in zip(names_of(outputs), outputs, strict=True):
        expected = COMPLEX.get(dtype, torch.complex64) if output.is_complex() else dtype
        if eps(output) and output.dtype != expected:
            raise Mismatch(f"{name}: {output.dtype} from inputs of {dtype}")


def same_dtypes(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for name, output, of_reference in zip(names_of(outputs), outputs, expected, strict=True):
        if output.dtype != of_reference.dtype:
            raise Mismatch(f"{name}: got {output.dtype}, reference {of_reference.dtype}")


def names_of(tensors: Sequence[Tensor], what: str = "output") -> list[str]:
    return [f"{what} {index}" for index in range(len(tensors))]


def place(flat: Tensor, shape: Sequence[int]) -> str:
    """An entry by its index in the flattened tensor."""
    return f", entry {[int(index) for index in torch.unravel_index(flat, tuple(shape))]}" if len(shape) else ""


def both(words: tuple[str, str], a: complex, b: complex) -> str:
    """Two values, with as many digits as it takes to tell them apart."""
    digits = ".6g" if f"{a:.6g}" != f"{b:.6g}" else ".17g"
    return f"{words[0]} {a:{digits}}, {words[1]} {b:{digits}}"


def largest(tensor: Tensor) -> float:
    """The largest magnitude of what is finite."""
    return max(tensor.detach().abs()[tensor.isfinite()].flatten().tolist(), default=0.0)


# --- A lower precision ------------------------------------------------------------------------------------------------


def precision(dtype: torch.dtype) -> float:
    """How far a dtype may be off from a higher precision: ε^½."""
    return torch.finfo(dtype).eps ** (1 / 2)


def roundoff(case: Case) -> Comparisons:
    """The noise of outputs and gradients in float64: how far three points on a tiny straight line are off a line.

    Of a smooth function that is its curvature, which is 64 times as much over steps 8 times as long. A float32 inside
    makes it a staircase, which is as rough over any.
    """
    step = torch.finfo(torch.float32).eps
    for seed in (1, 2):
        names, near = bends(case, step, seed)
        _, far = bends(case, 8 * step, seed)
        for name, here, there in zip(names, near, far, strict=True):
            yield straight(name, here, largest(there))


def bends(case: Case, step: float, seed: int) -> tuple[list[str], list[Tensor]]:
    """Second differences of outputs and gradients in a random direction, over the largest entry of each."""
    line = []
    for side in (-step, 0, step):
        directions = zip(case.tensors, random_like(case.tensors, seed), strict=True)
        run = forward(case.fn, case.moved_to([x + side * x.abs().clamp(min=1) * d for x, d in directions]))
        check_dtypes(run.outputs, torch.float64)
        line.append(run.numbers())
    names = [*names_of(run.outputs), *case.gradient_names]
    all_over = max(map(largest, line[1]))  # a gradient of zero, as of a bias before batch norm, is noise alone
    bent = []
    for before, here, after in zip(*line, strict=True):
        bent.append((before - 2 * here + after).abs() / (max(largest(here), 1e-4 * all_over) or 1))
    return names, bent


def straight(name: str, bend: Tensor, bend_of_longer_steps: float) -> Finding:
    noise, tolerance = largest(bend), ordering(bend)
    if noise > tolerance and noise > bend_of_longer_steps / 8:
        at = place(bend.argmax(), bend.shape)
        raise Mismatch(f"{name}{at}: noise of {noise:.1g} in float64: a lower precision inside", noise, tolerance)
    return Finding(min(noise, tolerance), tolerance)


def sensitivity(case: Case, size: float) -> float:
    """How much the results change where inputs are off by this size, relative to them: much beside a kink.

    Raises:
        Unsupported: fn raises an error there.
    """
    expected, worst = forward(case.fn, case).numbers(), 0.0
    few = sum(x.numel() for x in case.tensors) <= 256
    for seed in range(16 if few else 4):
        signs = zip(case.tensors, signs_like(case.tensors, seed), strict=True)
        moved = case.moved_to([x + size * (1 + x.abs()) * sign for x, sign in signs])
        try:
            found = forward(case.fn, moved).numbers()
        except Exception as error:
            raise Unsupported(f"where the inputs are off by {size:.1g}: {first_line(error)}") from error
        for a, b in zip(found, expected, strict=True):
            worst = max(worst, largest(error_in_all(a, b)))
    return worst


def signs_like(tensors: Sequence[Tensor], seed: int) -> tuple[Tensor, ...]:
    """1 or −1 at random; of a complex tensor ±1 ± i."""
    drawn = random_like(tensors, seed)
    return tuple(torch.complex(x.real.sign(), x.imag.sign()) if x.is_complex() else x.sign() for x in drawn)
