"""Functions that go wrong around their formula, by one mistake each: memory, state, dtypes, modes, leaks, tracing."""

from __future__ import annotations

import os
import signal
from itertools import count
from typing import Any

import torch
from correct_functions import Exp, register
from subjects import Subject
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class WritesOverWhatItSaved(Exp):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return result.mul_(grad_output)


class WritesOverTheIncomingGradient(Exp):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return grad_output.mul_(result)


class SavesTheInputAfterChangingIt(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        doubled = x.mul_(2)
        ctx.save_for_backward(doubled)
        return doubled.square()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (doubled,) = ctx.saved_tensors
        return 4 * grad_output * doubled


class ReadsTheGradientAsContiguous(Exp):
    """As a kernel does that is given a pointer and a size."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return as_a_kernel_reads(grad_output) * result


class ReadsInputsAsContiguous(Exp):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = as_a_kernel_reads(x).exp()
        ctx.save_for_backward(result)
        return result


class ViewsItsInput(Exp):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.view(-1).exp().view(x.shape)
        ctx.save_for_backward(result)
        return result


def as_a_kernel_reads(tensor: Tensor) -> Tensor:
    memory = torch.cat((tensor.new_empty(0).set_(tensor.untyped_storage()), tensor.new_zeros(tensor.numel())))
    start = tensor.storage_offset()
    return memory[start : start + tensor.numel()].view(tensor.shape)


class Float32Inside(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_output * x.float().cos().to(x.dtype)


class Float32Out(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin().float()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_output * x.cos()


class ConstantPromotes(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * torch.full((1,), 2.0, dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return 2 * grad_output


class NoisyBackward(Exp):
    runs = count()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return Exp.backward(ctx, grad_output) * (1 + 1e-12 * next(NoisyBackward.runs))


class KeepsStateOutsideCtx(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        KeepsStateOutsideCtx.x = x.detach()
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * KeepsStateOutsideCtx.x.cos()


class NotTraceable(Exp):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.exp() if x.sum().item() < 1e9 else x
        ctx.save_for_backward(result)
        return result


class MeetsTwoDtypesUnderAutocast(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad_output @ weight, grad_output.t() @ x


class SavesTooMuch(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.tanh()
        ctx.save_for_backward(result, 1 - result * result)
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * (1 - ctx.saved_tensors[0] ** 2)


class Float32ConstantInBackward(Function):
    """1/6, as a kernel has it that divides float by float."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2 / 12

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_output * x * (torch.ones((), dtype=torch.float32) / 6).item()


class Float32ConstantInOneTerm(Function):
    """GELU's density with 1/√(2π) from a float32 tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        scale = torch.tensor(0.3989422804014327, dtype=torch.float32).item()
        return grad_output * ((1 + torch.erf(x / 2**0.5)) / 2 + x * scale * torch.exp(-x.square() / 2))


class AnotherValueUnderAutocast(Function):
    """Scales the gradient down in a lower precision, and forgets to scale it up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        result = x @ weight
        ctx.save_for_backward(x, weight)
        ctx.scale = 0.25 if result.dtype == torch.bfloat16 else 1.0
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_output = grad_output.to(x.dtype) * ctx.scale
        return grad_output @ weight.t(), x.t() @ grad_output


def another_value_without_gradients(x: Tensor) -> Tensor:
    """An approximation, for speed."""
    return torch.tanh(x) if torch.is_grad_enabled() else x.clamp(-1, 1)


def another_value_in_inference_mode(x: Tensor) -> Tensor:
    return x.clamp(-1, 1) if torch.is_inference_mode_enabled() else torch.tanh(x)


class KeepsTheInputAsAnAttribute(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * ctx.x.cos()


class KeepsTheOutputAsAnAttribute(Function):
    """A cycle: the output holds its node, and that holds the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.result = x.exp()
        return ctx.result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * ctx.result


class KeepsEveryInput(Exp):
    inputs: list[Tensor] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        KeepsEveryInput.inputs.append(x)
        return Exp.forward(ctx, x)


class KeepsEveryGradient(Exp):
    gradients: list[Tensor] = []  # noqa: RUF012

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        gradient = Exp.backward(ctx, grad_output)
        KeepsEveryGradient.gradients.append(gradient.detach() * 2)
        return gradient


class FreesItsInput(Exp):
    """As reversible networks do, to save memory: backward computes the input again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = Exp.forward(ctx, x)
        x.untyped_storage().resize_(0)
        return result


class FreesItsOutput(Function):
    """As reversible networks do in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.exp()
        ctx.save_for_backward(x, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        x, result = ctx.saved_tensors
        result.untyped_storage().resize_(0)
        return grad_output * x.exp()


class KillsTheProcessAtAnEmptyBatch(Exp):
    """As a kernel in C++ does that reads before its memory."""

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        if len(grad_output) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return Exp.backward(ctx, grad_output)


@torch.library.custom_op("torchann_tests::sine_in_place", mutates_args=())
def sine_in_place(x: Tensor) -> Tensor:
    """Its schema says that it changes nothing."""
    return x.sin_().clone()


register(sine_in_place)

MANNERS = (
    Subject(
        WritesOverWhatItSaved,
        row="inputs-untouched",
        also={
            *("determinism", "reverse", "linearity", "double-backward", "third-order", "undefined-gradient"),
            *("expanded-gradient", "autocast"),
        },
    ),
    Subject(SavesTheInputAfterChangingIt, row="inputs-untouched", also={"double-backward", "third-order"}),
    Subject(FreesItsInput, row="inputs-untouched"),
    Subject(FreesItsOutput, row="reverse"),
    Subject(WritesOverTheIncomingGradient, row="gradient-untouched", also={"expanded-gradient"}),
    Subject(ReadsTheGradientAsContiguous, row="expanded-gradient"),
    Subject(ReadsInputsAsContiguous, row="non-contiguous"),
    Subject(ViewsItsInput, row="non-contiguous"),
    Subject(Float32Inside, row="dtype"),
    Subject(
        Float32Out, row="dtype", also={"reverse", "forward", "double-backward", "forward-over-reverse", "third-order"}
    ),
    Subject(ConstantPromotes, row="dtype"),
    Subject(Float32ConstantInBackward, row="dtype"),
    Subject(Float32ConstantInOneTerm, row="dtype"),
    Subject(F.hardsigmoid, row="dtype"),
    Subject(NoisyBackward, row="determinism"),
    Subject(KeepsStateOutsideCtx, row="determinism", also={"double-backward", "third-order"}),
    Subject(MeetsTwoDtypesUnderAutocast, ((4, 3), (2, 3)), row="autocast", require=("autocast",)),
    Subject(AnotherValueUnderAutocast, ((4, 3), (3, 2)), row="autocast"),
    Subject(another_value_without_gradients, row="no-grad"),
    Subject(another_value_in_inference_mode, row="no-grad"),
    Subject(NotTraceable, row="compile", require=("compile",)),
    Subject(KeepsTheInputAsAnAttribute, row="saved-tensors", require=("saved-tensors",)),
    Subject(KeepsTheOutputAsAnAttribute, row="leaks", advised={"saved-tensors"}),
    Subject(KeepsEveryInput, row="leaks"),
    Subject(KeepsEveryGradient, row="leaks"),
    Subject(KillsTheProcessAtAnEmptyBatch, row="empty-batch"),
    Subject(SavesTooMuch, reference=torch.tanh, row="saved-bytes", require=("saved-bytes",)),
    Subject(sine_in_place, row="opcheck", also={"inputs-untouched", "reverse", "double-backward", "third-order"}),
)
