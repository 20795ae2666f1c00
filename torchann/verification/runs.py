"""Runs: fn or its reference forward at the arguments of a case, then backward, in plain autograd."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchann.verification.cases import Case
from torchann.verification.findings import Mismatch


@dataclass(frozen=True)
class Run:
    leaves: tuple[Tensor, ...]
    given: tuple[Any, ...]  # the very arguments that fn was called with
    outputs: tuple[Tensor, ...]

    @property
    def differentiable(self) -> tuple[Tensor, ...]:
        outputs = tuple(output for output in self.outputs if output.requires_grad)
        if not outputs:
            raise Mismatch("no output requires grad: fn is cut from the graph")
        return outputs

    def backward(
        self, incoming: Sequence[Tensor] | None = None, outputs: Sequence[Tensor] | None = None, **options: bool
    ) -> list[Tensor]:
        """The gradient of each leaf. Unless given, the incoming gradients are random, and always the same."""
        outputs = self.differentiable if outputs is None else outputs
        incoming = random_like(outputs) if incoming is None else incoming
        gradients = torch.autograd.grad(outputs, self.leaves, incoming, allow_unused=True, **options)
        batch = incoming[0].shape[:1] if options.get("is_grads_batched") else ()
        return [
            leaf.new_zeros((*batch, *leaf.shape)) if gradient is None else gradient
            for leaf, gradient in zip(self.leaves, gradients, strict=True)
        ]

    def numbers(self) -> list[Tensor]:
        """Outputs and gradients, in float64."""
        return [tensor.detach().double() for tensor in (*self.outputs, *self.backward())]


def forward(fn: Callable[..., Any], case: Case, layout: Callable[[Tensor], Tensor] = torch.clone) -> Run:
    """fn, or another function of the same arguments, at copies of them, laid out in memory as asked."""
    at = leaves(case.tensors)
    given = tuple(layout(argument) if isinstance(argument, Tensor) else argument for argument in case.at(at))
    return Run(at, given, fn(*given))


def leaves(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)


def random_like(tensors: Iterable[Tensor], seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor) for tensor in tensors)


def random_sign(like: Tensor, generator: torch.Generator) -> Tensor:
    return (2 * torch.randint(2, like.shape, generator=generator) - 1).to(like)


def stacked(rows: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(tensors) for tensors in zip(*rows, strict=True)]


@contextmanager
def quiet(altogether: bool = False) -> Iterator[None]:
    """Without the warnings that the checks themselves bring about, or without any."""
    with warnings.catch_warnings():
        if altogether:
            warnings.simplefilter("ignore")
        for message in (
            "Backwards compatibility: New undefined gradient support",  # gradcheck, before it raises
            "`torch.jit.script` is deprecated",  # forward mode loads decompositions that are written with it
        ):
            warnings.filterwarnings("ignore", message)
        yield
