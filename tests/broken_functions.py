"""Functions with one mistake each, all seen in real code, and correct ones: what `test_verification` runs `verify` on.

Every check of `torchann.verification.CHECKS` is the row of at least one defect.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass(frozen=True)
class Subject:
    """A Function (or function) with the inputs that it is checked at."""

    fn: Any
    shapes: tuple[tuple[int, ...], ...] = ((4, 3),)
    reference: Callable[..., Any] | None = None
    row: str = ""  # the row that names the defect
    also: set[str] = field(default_factory=set)  # the rows that the same defect fails as well
    require: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return getattr(self.fn, "__name__", None) or self.fn._name

    def inputs(self, seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in self.shapes)


LAYER = ((4, 3), (3, 3), (3,))  # square weights: a transposed gradient fits


class Linear(Function):
    """A correct layer, to be broken."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t() + bias

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        return grad_output @ weight, grad_output.t() @ x, grad_output.sum(0)


class GradientTransposed(Linear):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        return grad_output @ weight, x.t() @ grad_output, grad_output.sum(0)


class BiasSumMissing(Linear):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        return grad_output @ weight, grad_output.t() @ x, grad_output[:1].sum(0)


class GradientsInTheWrongOrder(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x * y

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, ...]:
        x, y = ctx.saved_tensors
        return grad_output * x, grad_output * y


class ForgetsTheIncomingGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin().sum()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return ctx.saved_tensors[0].cos()


class Exp(Function):
    """As in PyTorch's documentation; correct, to be broken."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.exp()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return grad_output * result


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


class OpaqueKernel(Exp):
    """Autograd sees nothing of what happens in a kernel, and nobody told it."""

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.from_numpy(grad_output.detach().numpy() * result.detach().numpy())


class OpaqueForOneInput(Linear):
    """gradgradcheck passes this: it differentiates those gradients that require grad."""

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        return grad_output @ weight, (grad_output.t() @ x).detach(), grad_output.sum(0)


class Cube(Function):
    """x³ by a backward that is itself a Function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return CubeBackward.apply(grad_output, *ctx.saved_tensors)


class CubeBackward(Function):
    @staticmethod
    def forward(ctx: Any, grad_output: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(grad_output, x)
        return 3 * x * x * grad_output

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, ...]:
        grad_output, x = ctx.saved_tensors
        return 3 * x * x * cotangent, 6 * x * grad_output * cotangent


class WrongSecondDerivative(Cube):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return WrongCubeBackward.apply(grad_output, *ctx.saved_tensors)


class WrongCubeBackward(CubeBackward):
    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, ...]:
        grad_output, x = ctx.saved_tensors
        return 3 * x * x * cotangent, 3 * x * grad_output * cotangent


class WrongThirdDerivative(Cube):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return OpaqueCubeBackward.apply(grad_output, *ctx.saved_tensors)


class OpaqueCubeBackward(CubeBackward):
    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, ...]:
        return tuple(gradient.detach() for gradient in CubeBackward.backward(ctx, cotangent))


class Sine(Function):
    """With all that functorch and forward mode ask for; correct, to be broken."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_output * x.cos()

    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x_dot * x.cos()


class WrongJvp(Sine):
    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return -x_dot * x.cos()


class LosesTangents(Sine):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return Scaled.apply(grad_output, x.cos())


class Scaled(Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return x * y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return grad_output * y, grad_output * x

    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor, y_dot: Tensor) -> Tensor:
        _, y = ctx.saved_tensors
        return x_dot * y  # and x * y_dot


class NoJvp(Exp):
    pass


class WrongVmap(Sine):
    generate_vmap_rule = False

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None], x: Tensor) -> tuple[Tensor, int]:
        return WrongVmap.apply(x.flip(0)), 0


class NoVmap(Exp):
    pass


class ReadsAValueInBackward(Exp):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return grad_output * result if grad_output.abs().sum().item() > 0 else torch.zeros_like(result)


class SinCos(Function):
    """Two outputs; correct, to be broken."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        sin, cos = x.sin(), x.cos()
        ctx.save_for_backward(sin, cos)
        return sin, cos

    @staticmethod
    def backward(ctx: Any, grad_sin: Tensor, grad_cos: Tensor) -> Tensor:
        sin, cos = ctx.saved_tensors
        return grad_sin * cos - grad_cos * sin


class DoesNotExpectNone(Exp):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        return Exp.forward(ctx, x)


class GivesUpAtNone(SinCos):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return SinCos.forward(ctx, x)

    @staticmethod
    def backward(ctx: Any, grad_sin: Tensor | None, grad_cos: Tensor | None) -> Tensor | None:
        sin, cos = ctx.saved_tensors
        if grad_sin is None or grad_cos is None:
            return None
        return grad_sin * cos - grad_cos * sin


class DividesByTheBatchSize(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square() / max(1, len(x))

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * grad_output * x * (1 / len(x))


class LeavesMemoryOfAnEmptyBatchUnfilled(Linear):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, ...]:
        x, weight = ctx.saved_tensors
        if len(x) == 0:  # no block of the kernel runs
            return grad_output @ weight, torch.full_like(weight, torch.nan), grad_output.sum(0)
        return Linear.backward(ctx, grad_output)


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


class DropsAtRandom(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        mask = (torch.rand_like(x) > 0.5).to(x.dtype)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * ctx.saved_tensors[0]


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


class MeetsTwoDtypesUnderAutocast(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad_output @ weight, grad_output.t() @ x


class NotTraceable(Exp):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.exp() if x.sum().item() < 1e9 else x
        ctx.save_for_backward(result)
        return result


class AnotherFunction(Function):
    """A correct derivative of something else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.gelu(x, approximate="tanh")

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(F.gelu(x, approximate="tanh"), x, grad_output, create_graph=True)[0]


def detaches_a_factor(x: Tensor) -> Tensor:
    return x * x.detach()


class SavesTooMuch(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.tanh()
        ctx.save_for_backward(result, 1 - result * result)
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * (1 - ctx.saved_tensors[0] ** 2)


@torch.library.custom_op("torchann_tests::sine", mutates_args=())
def sine(x: Tensor) -> Tensor:
    return x.sin()


@torch.library.custom_op("torchann_tests::sine_in_place", mutates_args=())
def sine_in_place(x: Tensor) -> Tensor:
    """Its schema says that it changes nothing."""
    return x.sin_().clone()


for op in (sine, sine_in_place):
    op.register_fake(torch.empty_like)
    op.register_autograd(
        lambda ctx, grad_output: grad_output * ctx.saved_tensors[0].cos(),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )


class Gelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
        return grad_output * ((1 + torch.erf(x / math.sqrt(2))) / 2 + x * density)


class Relu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.clamp(min=0)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * (ctx.saved_tensors[0] > 0)


class OpaqueKernelThatSaysSo(OpaqueKernel):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return OpaqueKernel.backward(ctx, grad_output)


class SineOnce(Sine):
    """Has a jvp, and a backward that refuses to be differentiated."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return Sine.backward(ctx, grad_output)


class MaxWithIndices(Function):
    """An output that is not differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = x.max(-1)
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(indices)
        ctx.shape = x.shape
        return values, indices

    @staticmethod
    def backward(ctx: Any, grad_values: Tensor, _: Tensor) -> Tensor:
        (indices,) = ctx.saved_tensors
        return grad_values.new_zeros(ctx.shape).scatter(-1, indices.unsqueeze(-1), grad_values.unsqueeze(-1))


CORRECT = (
    Subject(Exp, reference=torch.exp),
    Subject(Gelu, reference=F.gelu),
    Subject(Relu, reference=torch.relu),
    Subject(SinCos, reference=lambda x: (x.sin(), x.cos())),
    Subject(Linear, LAYER, reference=lambda x, weight, bias: x @ weight.t() + bias),
    Subject(Cube),
    Subject(Sine, reference=torch.sin, require=("forward", "forward-over-reverse", "batched", "vmap", "third-order")),
    Subject(SineOnce, reference=torch.sin),
    Subject(OpaqueKernelThatSaysSo, reference=torch.exp),
    Subject(MaxWithIndices),
    Subject(sine, reference=torch.sin, require=("opcheck",)),
    Subject(F.huber_loss, ((4, 3), (4, 3))),
)

BROKEN = (
    Subject(GradientTransposed, LAYER, row="reverse"),
    Subject(BiasSumMissing, LAYER, row="reverse"),
    Subject(GradientsInTheWrongOrder, ((4, 3), (4, 3)), row="reverse"),
    Subject(ForgetsTheIncomingGradient, row="reverse"),
    Subject(
        WritesOverWhatItSaved,
        row="inputs-untouched",
        also={"determinism", "reverse", "double-backward", "third-order", "undefined-gradient", "expanded-gradient"},
    ),
    Subject(SavesTheInputAfterChangingIt, row="inputs-untouched", also={"double-backward", "third-order"}),
    Subject(WritesOverTheIncomingGradient, row="gradient-untouched", also={"expanded-gradient"}),
    Subject(ReadsTheGradientAsContiguous, row="expanded-gradient"),
    Subject(ReadsInputsAsContiguous, row="non-contiguous"),
    Subject(ViewsItsInput, row="non-contiguous"),
    Subject(OpaqueKernel, row="double-backward"),
    Subject(OpaqueForOneInput, LAYER, row="double-backward"),
    Subject(WrongSecondDerivative, row="double-backward"),
    Subject(WrongThirdDerivative, row="third-order"),
    Subject(WrongJvp, row="forward"),
    Subject(NoJvp, row="forward", require=("forward",)),
    Subject(LosesTangents, row="forward-over-reverse"),
    Subject(WrongVmap, row="vmap"),
    Subject(NoVmap, row="vmap", require=("vmap",)),
    Subject(ReadsAValueInBackward, row="batched", require=("batched",)),
    Subject(DoesNotExpectNone, row="undefined-gradient"),
    Subject(GivesUpAtNone, row="undefined-gradient", also={"reverse", "third-order"}),
    Subject(DividesByTheBatchSize, row="empty-batch"),
    Subject(LeavesMemoryOfAnEmptyBatchUnfilled, LAYER, row="empty-batch"),
    Subject(Float32Inside, row="dtype"),
    Subject(
        Float32Out, row="dtype", also={"reverse", "forward", "double-backward", "forward-over-reverse", "third-order"}
    ),
    Subject(ConstantPromotes, row="dtype"),
    Subject(DropsAtRandom, row="determinism"),
    Subject(NoisyBackward, row="determinism"),
    Subject(KeepsStateOutsideCtx, row="determinism", also={"double-backward", "third-order"}),
    Subject(MeetsTwoDtypesUnderAutocast, ((4, 3), (2, 3)), row="autocast"),
    Subject(NotTraceable, row="compile", require=("compile",)),
    Subject(AnotherFunction, reference=F.gelu, row="reference-value", also={"reference-gradient"}),
    Subject(
        detaches_a_factor,
        reference=torch.square,
        row="reference-gradient",
        also={"reverse", "forward", "double-backward", "forward-over-reverse", "third-order"},
    ),
    Subject(SavesTooMuch, reference=torch.tanh, row="saved-bytes", require=("saved-bytes",)),
    Subject(sine_in_place, row="opcheck", also={"inputs-untouched", "reverse", "double-backward", "third-order"}),
)
