"""Samples, which the checks are given: a case for each seed, in the dtypes given and in float64, away from kinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch

from torchann.verification.cases import Case, is_floating, make_case
from torchann.verification.comparing import agree_in_all, check_dtypes
from torchann.verification.derivatives import Derivative
from torchann.verification.findings import Finding, Mismatch, first_line
from torchann.verification.kinks import away_from_kinks
from torchann.verification.runs import forward, quiet

Inputs: TypeAlias = Sequence[Any] | Callable[[int], Sequence[Any]]


@dataclass
class Sample:
    """A case in the dtypes given and in float64, away from kinks."""

    own: Case
    double: Case
    seed: int | None = None
    note: str = ""  # on kinks
    derivatives: dict[int, Derivative] = field(default_factory=dict)

    @property
    def precisions(self) -> list[Case]:
        in_double = all(tensor.dtype == torch.float64 for tensor in self.own.tensors)
        return [self.double] if in_double else [self.own, self.double]

    def derivative(self, order: int) -> Derivative:
        """The function whose first derivative is fn's derivative of this order."""
        if order not in self.derivatives:
            self.derivatives[order] = self.derivative(order - 1).gradient() if order > 1 else Derivative.of(self.double)
        return self.derivatives[order]

    def check_derivative(self, order: int, forward_mode: bool = False) -> Finding:
        """The derivative of this order against central differences of the one below."""
        fn = self.derivative(1)
        check_dtypes(fn.outputs(), torch.float64)
        if forward_mode:
            fn.hear_tangents()
        derivative = self.derivative(order)
        if order > 1:
            derivative.hear_refusal()
        try:
            return replace(derivative.compare(forward_mode), message=self.note)
        except Mismatch as mismatch:
            silently = "silently wrong: " if order > 1 else ""
            note = f" ({self.note})" if self.note else ""
            message = f"{silently}{mismatch}{note}"
            raise Mismatch(message, mismatch.finding.error, mismatch.finding.tolerance) from None

    @cached_property
    def trouble(self) -> str:
        """Why fn can't be run forward and backward at all."""
        try:
            with quiet():
                forward(self.double.fn, self.double).backward()
        except Exception as error:
            return f"in float64, in which gradients are checked: {first_line(error)}"
        return ""

    @cached_property
    def is_deterministic(self) -> bool:
        first, second = (forward(self.double.fn, self.double) for _ in range(2))
        try:
            list(agree_in_all(second, first, self.double, ("", ""), tolerance=0))
        except Mismatch:
            return False
        return True


def make_samples(
    fn: Callable[..., Any], inputs: Inputs, reference: Callable[..., Any] | None, seeds: Sequence[int]
) -> Iterator[Sample]:
    if not callable(inputs):
        yield make_sample(make_case(fn, inputs, reference), None)
        return
    if not seeds:
        raise ValueError("seeds: expected at least one, got none")
    for seed in seeds:
        torch.manual_seed(seed)  # for inputs that forget to
        yield make_sample(make_case(fn, inputs(seed), reference), seed)


def make_sample(own: Case, seed: int | None) -> Sample:
    with quiet():
        double, note = away_from_kinks(own.to(torch.float64))
    moved = tuple(a.to(b) if is_floating(b) else b for a, b in zip(double.arguments, own.arguments, strict=True))
    return Sample(replace(own, arguments=moved), double, seed, note)
