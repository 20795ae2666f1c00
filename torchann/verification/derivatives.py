"""Derivatives against central differences, by gradcheck, whose Jacobians are overheard.

gradcheck takes the first derivative of a function. A gradient is a function, too, and so is the gradient of that: by
the same way it reaches every order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck
from torch.autograd.gradcheck import GradcheckError
from torch.overrides import TorchFunctionMode

from torchann.verification.cases import Case
from torchann.verification.comparing import both, largest, names_of, place
from torchann.verification.findings import Finding, Mismatch, Unsupported, first_line
from torchann.verification.runs import leaves, random_like

# The step of a central difference for which truncation, step², and roundoff, ε / step, are alike: some 4e-11 at the
# scale of the function. The tolerance leaves room for functions of a far larger third derivative.
STEP = TOLERANCE = torch.finfo(torch.float64).eps ** (1 / 3)


@dataclass(frozen=True)
class Derivative:
    """A function of tensors, each of whose outputs is connected to them, to be differentiated at one place."""

    call: Callable[..., tuple[Tensor, ...]]
    at: tuple[Tensor, ...]
    names: tuple[str, ...]  # of its arguments
    output_names: tuple[str, ...]

    def outputs(self) -> tuple[Tensor, ...]:
        return self.call(*leaves(self.at))

    @classmethod
    def of(cls, case: Case) -> Derivative:
        """fn itself: its outputs that require grad, the others being constants by its own word."""
        outputs = case.function(*leaves(case.tensors))
        kept = [output.requires_grad for output in outputs]
        names = tuple(compress(names_of(outputs), kept))
        return cls(case.function_to(kept), case.tensors, case.tensor_names, names)

    def gradient(self) -> Derivative:
        """Its gradients, as a function of its arguments and of the incoming gradients.

        This is what `gradgradcheck` differentiates, but for one thing: that leaves out gradients that don't require
        grad, and so a backward that is cut from the graph for some of its inputs. Here they stay.
        """
        count = len(self.at)

        def call(*tensors: Tensor) -> tuple[Tensor, ...]:
            for tensor in tensors:
                if not tensor.requires_grad:  # a dual number, in forward mode
                    tensor.requires_grad_()
            given, incoming = tensors[:count], [tensor.clone() for tensor in tensors[count:]]
            found = torch.autograd.grad(self.call(*given), given, incoming, create_graph=True, allow_unused=True)
            nothing = sum(tensor.flatten()[:0].sum() for tensor in tensors)  # zero, as a function of them all
            gradients = [torch.zeros_like(x) if g is None else g for x, g in zip(given, found, strict=True)]
            return tuple(gradient if gradient.requires_grad else gradient + nothing for gradient in gradients)

        return Derivative(
            call,
            (*self.at, *random_like(self.outputs())),
            (*self.names, *(f"the incoming gradient of {name}" for name in self.output_names)),
            tuple(f"the gradient of {name}" for name in self.names),
        )

    def hear_refusal(self) -> None:
        """Let what can't be differentiated further say so.

        `once_differentiable` raises in a node that only `backward()` runs: `grad(inputs=…)`, and so gradcheck, finds
        no way through it to the inputs and takes the derivative for zero.
        """
        outputs = self.outputs()
        torch.autograd.backward(outputs, random_like(outputs))

    def hear_tangents(self) -> None:
        """Forward mode that stops at an operator of `torch.library` does so in silence, at the primal values."""
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(x.clone(), torch.ones_like(x)) for x in self.at]
            tangents = [forward_ad.unpack_dual(output).tangent for output in self.call(*duals)]
        if all(tangent is None for tangent in tangents):
            raise Unsupported("no tangent comes out, nor an error from PyTorch")

    def take_undefined_gradients(self) -> None:
        """With infinite tolerances, all that is left of gradcheck is its check of undefined gradients."""
        try:
            gradcheck(self.call, leaves(self.at), atol=math.inf, nondet_tol=math.inf, fast_mode=True)
        except GradcheckError as error:
            if "undefined" in str(error):
                raise Mismatch(first_line(error)) from error

    def compare(self, forward_mode: bool) -> Finding:
        """gradcheck, and the largest error.

        Raises:
            Mismatch: names the argument, the output, their entries and both values.
        """
        overheard = Overheard()
        try:
            with overheard:
                gradcheck(
                    self.call,
                    leaves(self.at),
                    eps=STEP,
                    atol=TOLERANCE,
                    rtol=TOLERANCE,
                    nondet_tol=TOLERANCE,
                    check_undefined_grad=False,
                    check_forward_ad=forward_mode,
                    check_backward_ad=not forward_mode,
                )
        except GradcheckError as failure:
            if overheard.jacobians and str(failure).startswith("Jacobian"):
                raise self.mismatch(overheard.jacobians) from None
            raise Mismatch(first_line(failure)) from None
        return Finding(max((largest(error_of(*pair)) for pair in overheard.jacobians), default=math.nan), TOLERANCE)

    def mismatch(self, jacobians: Sequence[tuple[Tensor, Tensor]]) -> Mismatch:
        """What was wrong in the last pair; Jacobians are [entries of the argument, entries of the output]."""
        output, argument = divmod(len(jacobians) - 1, len(self.at))  # gradcheck's order
        analytical, numerical = jacobians[-1]
        errors = error_of(analytical, numerical)
        row, column = torch.unravel_index(errors.argmax(), errors.shape)
        shape = self.outputs()[output].shape
        return Mismatch(
            f"{self.names[argument]}{place(row, self.at[argument].shape)}, "
            f"to {self.output_names[output]}{place(column, shape)}: "
            + both(("analytical", "numerical"), analytical[row, column].item(), numerical[row, column].item()),
            errors.max().item(),
            TOLERANCE,
        )


class Overheard(TorchFunctionMode):
    """The Jacobians that gradcheck compares, analytical and numerical, which it reports in prose alone."""

    def __init__(self) -> None:
        super().__init__()
        self.jacobians: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.allclose:
            self.jacobians.append(args[:2])
        return func(*args, **(kwargs or {}))


def error_of(analytical: Tensor, numerical: Tensor) -> Tensor:
    return ((analytical - numerical).abs() / (1 + numerical.abs())).nan_to_num(nan=math.inf)
