"""What rounding does to a function: the noise in its float64, and what a lower precision of the inputs makes of it."""

from __future__ import annotations

import torch
from torch import Tensor

from torchann.verification.cases import Case
from torchann.verification.comparing import check_dtypes, error_in_all, largest, names_of, ordering, place
from torchann.verification.findings import Comparisons, Finding, Mismatch
from torchann.verification.runs import forward, random_like, random_sign


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
    bent = [(before - 2 * here + after).abs() / (largest(here) or 1) for before, here, after in zip(*line, strict=True)]
    return [*names_of(run.outputs), *case.gradient_names], bent


def straight(name: str, bend: Tensor, bend_of_longer_steps: float) -> Finding:
    noise, tolerance = largest(bend), ordering(torch.float64)
    if noise > tolerance and noise > bend_of_longer_steps / 8:
        at = place(bend.argmax(), bend.shape)
        raise Mismatch(f"{name}{at}: noise of {noise:.1g} in float64: a lower precision inside", noise, tolerance)
    return Finding(min(noise, tolerance), tolerance)


def sensitivity(case: Case, size: float) -> float:
    """How much of an error inputs make that are off by this size, relative to them: large beside a kink."""
    expected, worst = forward(case.fn, case).numbers(), 0.0
    for seed in range(16):
        generator = torch.Generator().manual_seed(seed)
        moved = case.moved_to([x + size * (1 + x.abs()) * random_sign(x, generator) for x in case.tensors])
        for a, b in zip(forward(case.fn, moved).numbers(), expected, strict=True):
            worst = max(worst, largest(error_in_all(a, b)))
    return worst
