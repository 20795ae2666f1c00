"""Kinks, as of relu at 0, where central differences tell nothing: how they are told, and how inputs are moved away."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from torchann.verification.cases import Case
from torchann.verification.derivatives import STEP, TOLERANCE, Derivative
from torchann.verification.runs import leaves, random_like, random_sign


def away_from_kinks(double: Case, tries: int = 5) -> tuple[Case, str]:
    """The case, moved a little at random where a derivative of fn jumps within reach of the central differences."""
    if not has_kink(double):
        return double, ""
    generator = torch.Generator().manual_seed(0)
    for _ in range(tries):
        moved = double.moved_to([x + nudge(x, generator) for x in double.tensors])
        with suppress(Exception):  # out of fn's domain
            outputs = moved.function(*moved.tensors)
            if all(output.isfinite().all() for output in outputs) and not has_kink(moved):
                return moved, "the inputs were moved away from a kink"
    return double, "the inputs lie near a kink, where no derivative is right"


def has_kink(case: Case, orders: int = 3) -> bool:
    """Whether a derivative up to this order jumps nearby, as far as fn has them."""
    with suppress(Exception):  # what fn does not have is for the checks to report
        derivative = Derivative.of(case)
        for _ in range(orders):
            if jumps(derivative):
                return True
            derivative = derivative.gradient()
    return False


def jumps(derivative: Derivative) -> bool:
    """Whether the gradients on two sides differ, and by as much when the sides come ten times closer."""
    outputs = derivative.outputs()
    generator = torch.Generator().manual_seed(0)

    def gradients(directions: Sequence[Tensor], step: float) -> Tensor:
        at = leaves(x + step * direction for x, direction in zip(derivative.at, directions, strict=True))
        found = torch.autograd.grad(derivative.call(*at), at, random_like(outputs), allow_unused=True)
        return torch.cat([gradient.flatten() for gradient in found if gradient is not None])

    for _ in range(4):  # kinks behind sums of inputs may lie along one direction, hardly along four
        directions = [random_sign(x, generator) for x in derivative.at]
        far, near = (gradients(directions, step) - gradients(directions, -step) for step in (20 * STEP, 2 * STEP))
        floor = TOLERANCE * (1 + gradients(directions, 0).abs())
        if ((near.abs() > floor) & (near.abs() > far.abs() / 2)).any():
            return True
    return False


def nudge(like: Tensor, generator: torch.Generator) -> Tensor:
    """0.01 to 0.1, either way."""
    size = torch.rand(like.shape, generator=generator, dtype=torch.float64) * 0.09 + 0.01
    return size.to(like) * random_sign(like, generator)
