"""Functions whose derivatives are wrong, by one mistake each, all seen in real code: `verify` must name the row."""

from __future__ import annotations

from typing import Any

import torch
from correct_functions import ComplexSquare, Cube, CubeBackward, Exp, Linear, Phase, Relu, SinCos, Sine
from subjects import LAYER, Subject
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


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


class ReturnsNoneForAConstant(Function):
    """The target is a constant to it; the caller has not said so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(x, target)
        return (x - target).square()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        x, target = ctx.saved_tensors
        return 2 * grad_output * (x - target), None


class WrongInOneEntry(Linear):
    """Of a weight with 16,384 entries, which are not compared one by one."""

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, ...]:
        to_x, to_weight, to_bias = Linear.backward(ctx, grad_output)
        to_weight = to_weight.clone()
        to_weight[5, 7] *= 2
        return to_x, to_weight, to_bias


class DropsAnotherMaskInBackward(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) > 0.5)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * (torch.rand_like(grad_output) > 0.5)


class ClipsTheGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output.clamp(-1, 1)


class LowerBound(Function):
    """Lets a gradient through that would push x up again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0.1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_output * ((x >= 0.1) | (grad_output < 0))


class GuidedRelu(Relu):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return Relu.backward(ctx, grad_output.clamp(min=0))


class NormalizesTheGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output / grad_output.norm().clamp(min=1)


class BackwardOnlyOnce(Exp):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return Exp.backward(ctx, grad_output)


class DropsTheImaginaryPart(Phase):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return -grad_output.real * x.sin()


class ForgetsToConjugate(ComplexSquare):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grad_output * 2 * z


class WrongOrderUnlessAllAreNeeded(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x * y.square()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        to_x, to_y = grad_output * y.square(), 2 * grad_output * x * y
        return (to_x, to_y) if all(ctx.needs_input_grad) else (to_y, to_x)


class LeavesOutTheBiasUnlessTheWeightIsNeeded(Linear):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        to_x, to_weight, to_bias = Linear.backward(ctx, grad_output)
        return to_x, to_weight, to_bias if ctx.needs_input_grad[1] else torch.zeros_like(to_bias)


class WrongComplexJvp(ComplexSquare):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_forward(z)
        return ComplexSquare.forward(ctx, z)

    @staticmethod
    def jvp(ctx: Any, z_dot: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return z_dot * (2 * z).conj()


GRADIENTS = (
    Subject(GradientTransposed, LAYER, row="reverse"),
    Subject(BiasSumMissing, LAYER, row="reverse"),
    Subject(GradientsInTheWrongOrder, ((4, 3), (4, 3)), row="reverse"),
    Subject(ForgetsTheIncomingGradient, row="linearity"),
    Subject(ReturnsNoneForAConstant, ((4, 3), (4, 3)), row="reverse"),
    Subject(WrongInOneEntry, ((2, 128), (128, 128), (128,)), row="reverse"),
    Subject(DropsAnotherMaskInBackward, row="reverse", advised={"determinism"}),
    Subject(ClipsTheGradient, row="linearity"),
    Subject(LowerBound, row="linearity"),
    Subject(GuidedRelu, row="linearity"),
    Subject(NormalizesTheGradient, row="linearity"),
    Subject(DropsTheImaginaryPart, row="reverse"),
    Subject(ForgetsToConjugate, dtype=torch.complex128, row="reverse"),
    Subject(WrongOrderUnlessAllAreNeeded, ((4, 3), (4, 3)), row="needs-input-grad"),
    Subject(LeavesOutTheBiasUnlessTheWeightIsNeeded, LAYER, row="needs-input-grad"),
    Subject(OpaqueKernel, row="double-backward"),
    Subject(OpaqueForOneInput, LAYER, row="double-backward"),
    Subject(WrongSecondDerivative, row="double-backward"),
    Subject(WrongThirdDerivative, row="third-order"),
    Subject(BackwardOnlyOnce, row="third-order", require=("third-order",)),
    Subject(WrongJvp, row="forward"),
    Subject(WrongComplexJvp, dtype=torch.complex128, row="forward"),
    Subject(NoJvp, row="forward", require=("forward",)),
    Subject(LosesTangents, row="forward-over-reverse"),
    Subject(WrongVmap, row="vmap"),
    Subject(NoVmap, row="vmap", require=("vmap",)),
    Subject(ReadsAValueInBackward, row="batched", require=("batched",)),
    Subject(DoesNotExpectNone, row="undefined-gradient"),
    Subject(GivesUpAtNone, row="undefined-gradient"),
    Subject(DividesByTheBatchSize, row="empty-batch"),
    Subject(LeavesMemoryOfAnEmptyBatchUnfilled, LAYER, row="empty-batch"),
    Subject(AnotherFunction, reference=F.gelu, row="reference-value", also={"reference-gradient"}),
    Subject(
        detaches_a_factor,
        reference=torch.square,
        row="reference-gradient",
        also={"reverse", "forward", "double-backward", "forward-over-reverse", "third-order"},
    ),
)
