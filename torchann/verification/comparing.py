"""Two ways of computing the same: what they may differ by, and where they differ by more.

A mismatch names the tensor, the entry and both values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchann.verification.cases import Case
from torchann.verification.findings import Comparisons, Finding, Mismatch, merged
from torchann.verification.runs import Run


def ordering(dtype: torch.dtype) -> float:
    """What another order of operations may change: ε^⅔."""
    return torch.finfo(dtype).eps ** (2 / 3)


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
        allowed = coarser(a.dtype, b.dtype) if tolerance is None else tolerance
        a, b = a.detach().double(), b.detach().double()
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


def coarser(*dtypes: torch.dtype) -> float:
    return max((ordering(dtype) for dtype in dtypes if dtype.is_floating_point), default=0.0)


def check_count(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    if len(outputs) != len(expected):
        raise Mismatch(f"{len(outputs)} outputs, expected {len(expected)}")


def check_dtypes(outputs: Sequence[Tensor], dtype: torch.dtype) -> None:
    for name, output in zip(names_of(outputs), outputs, strict=True):
        if output.is_floating_point() and output.dtype != dtype:
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


def both(words: tuple[str, str], a: float, b: float) -> str:
    """Two values, with as many digits as it takes to tell them apart."""
    digits = ".6g" if f"{a:.6g}" != f"{b:.6g}" else ".17g"
    return f"{words[0]} {a:{digits}}, {words[1]} {b:{digits}}"


def largest(tensor: Tensor) -> float:
    """The largest magnitude of what is finite."""
    return max(tensor.detach().abs()[tensor.isfinite()].flatten().tolist(), default=0.0)
