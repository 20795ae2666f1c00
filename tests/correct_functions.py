"""Correct functions, on which `verify` must find nothing: some to be broken elsewhere, some that it once called wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from subjects import LAYER, Subject
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


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


@torch.library.custom_op("torchann_tests::sine", mutates_args=())
def sine(x: Tensor) -> Tensor:
    return x.sin()


def register(op: Any) -> None:
    op.register_fake(torch.empty_like)
    op.register_autograd(
        lambda ctx, grad_output: grad_output * ctx.saved_tensors[0].cos(),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )


register(sine)


class DropsAtRandom(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        mask = (torch.rand_like(x) > 0.5).to(x.dtype)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output * ctx.saved_tensors[0]


class OpaqueKernelThatSaysSo(Exp):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.from_numpy(grad_output.detach().numpy() * result.detach().numpy())


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


# --- Those that were once called wrong ---------------------------------------------------------------------------------


class RunsItselfAgain(nn.Module):
    """By checkpointing, in backward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.net, x, use_reentrant=False)


class Adjoint(Function):
    """Runs a module again in backward, as adjoint solvers of differential equations do."""

    @staticmethod
    def forward(ctx: Any, module: nn.Module, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(x)
        return module(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            output = ctx.module(x)
        return None, *torch.autograd.grad(output, (x, *ctx.module.parameters()), grad_output)


class AdjointModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 2), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return Adjoint.apply(self.net, x, *self.net.parameters())


def checkpointed_by_reentrance(x: Tensor, weight: Tensor) -> Tensor:
    """Works under `backward()` alone, not under `grad()`."""
    return checkpoint(lambda *given: torch.tanh(given[0] @ given[1]), x, weight, use_reentrant=True)


class MatrixProduct(Function):
    """Plain: under autocast its backward meets two dtypes and raises, which is no wrong gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad_output @ weight.t(), x.t() @ grad_output


def refuses_bfloat16(x: Tensor, weight: Tensor) -> Tensor:
    """As an iteration whose tolerance is out of reach in bfloat16."""
    result = x @ weight
    if result.dtype == torch.bfloat16:
        raise ValueError("no convergence")
    return result.tanh()


def arc_sine(x: Tensor) -> Tensor:
    """Close to the end of its domain, which bfloat16 would leave."""
    if (x.abs() > 1).any():
        raise ValueError("expected numbers from -1 to 1")
    return x.asin()


class WritesIntoOut(Exp):
    """PyTorch refuses to differentiate its backward, as that computes into a tensor it has made."""

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.mul(grad_output, result, out=torch.empty_like(result))


class Float64Alone(Exp):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        assert x.dtype == torch.float64, "expected float64"
        return Exp.forward(ctx, x)


class Float32Alone(Exp):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError(f"expected float32, got {x.dtype}")
        return Exp.forward(ctx, x)


class BFloat16Alone(Exp):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if x.dtype != torch.bfloat16:
            raise TypeError(f"expected bfloat16, got {x.dtype}")
        return Exp.forward(ctx, x)


class ComplexSquare(Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z * z

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grad_output * (2 * z).conj()


class Phase(Function):
    """x ↦ cos x + i sin x, real in and complex out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.complex(x.cos(), x.sin())

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad_output.imag * x.cos() - grad_output.real * x.sin()


def magnitudes(z: Tensor, w: Tensor) -> Tensor:
    """Complex in and real out."""
    return (z @ w).abs() + z.real.sum()


class StraightThrough(Function):
    """Rounds, and gives the gradient of the identity on purpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return grad_output


class GradientReversal(StraightThrough):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        return -grad_output


@dataclass
class Parts:
    sine: Tensor
    others: list[Tensor]


def in_a_dataclass(x: Tensor, scale: float = 1.0) -> Parts:
    return Parts(scale * x.sin(), [x.cos()])


def gram_plus_identity(factor: Tensor) -> Tensor:
    """Positive definite for any square matrix."""
    return factor @ factor.mT + torch.eye(factor.shape[-1]).to(factor)


class SharesScratch(nn.Module):
    """A buffer that every forward pass writes over."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.weight * self.calls


STEEP = {
    "sin 1000x": lambda x: torch.sin(1000 * x),
    "positional encoding": lambda x: torch.sin(2**9 * math.pi * x),
    "acos at 0.999": lambda x: torch.acos(0.999 * torch.sigmoid(1000 * x + 1e5)),
    "sin 20x": lambda x: torch.sin(20 * x),
    "a cube": lambda x: (100 * x) ** 3,
}
JUMPS = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "frac": torch.frac,
    "trunc": torch.trunc,
    "remainder": lambda x: x % 1.0,
    "fmod": lambda x: torch.fmod(x, 0.5),
    "sign": torch.sign,
    "greater": lambda x: x * (x > 0),
}


def on_the_jump() -> tuple[Tensor]:
    return (torch.tensor([0.0, 1.0, -2.0, 0.5, 2.5]),)


CORRECT = (
    Subject(Exp, reference=torch.exp),
    Subject(Gelu, reference=F.gelu),
    Subject(Relu, reference=torch.relu),
    Subject(SinCos, reference=lambda x: (x.sin(), x.cos()), advised={"saved-bytes"}),
    Subject(Linear, LAYER, reference=lambda x, weight, bias: x @ weight.t() + bias),
    Subject(Cube),
    Subject(Sine, reference=torch.sin, require=("forward", "forward-over-reverse", "batched", "vmap", "third-order")),
    Subject(SineOnce, reference=torch.sin),
    Subject(OpaqueKernelThatSaysSo, reference=torch.exp),
    Subject(MaxWithIndices),
    Subject(sine, reference=torch.sin, require=("opcheck",)),
    Subject(F.huber_loss, ((4, 3), (4, 3))),
    Subject(RunsItselfAgain(), require=("double-backward", "third-order"), dtype=torch.float32),
    Subject(AdjointModule(), dtype=torch.float32),
    # AOTAutograd of PyTorch 2.13 computes the buffer once more in backward, from its changed value.
    Subject(SharesScratch(), dtype=torch.float32, options={"skip": ["compile"]}),
    Subject(checkpointed_by_reentrance, ((4, 3), (3, 2))),
    Subject(MatrixProduct, ((4, 3), (3, 2)), dtype=torch.float32),
    Subject(refuses_bfloat16, ((4, 3), (3, 2)), dtype=torch.float32),
    Subject(arc_sine, make=lambda: (torch.tensor([0.5, 0.99, -0.2]),)),
    Subject(WritesIntoOut),
    Subject(Float64Alone, dtype=torch.float32),
    Subject(Float32Alone, dtype=torch.float32, reference=torch.exp),
    Subject(BFloat16Alone, dtype=torch.bfloat16),
    Subject(ComplexSquare, dtype=torch.complex128, reference=torch.square),
    Subject(Phase, reference=lambda x: torch.polar(torch.ones_like(x), x)),
    Subject(magnitudes, ((3, 2), (2, 2)), dtype=torch.complex128),
    Subject(torch.fft.rfft),
    Subject(DropsAtRandom, advised={"determinism"}),
    Subject(
        nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2)), dtype=torch.float32, advised={"determinism"}
    ),
    Subject(StraightThrough, options={"gradient": lambda x: x}),
    Subject(GradientReversal, options={"gradient": lambda x: -x}),
    Subject(in_a_dataclass, options={"kwargs": {"scale": 2.0}}),
    Subject(torch.linalg.cholesky, ((3, 3),), options={"domain": gram_plus_identity}),
    Subject(nn.Embedding(5, 3, sparse=True), make=lambda: (torch.tensor([1, 4, 1]),), called="sparse embedding"),
    Subject(nn.LSTM(2, 1), ((2, 1, 2),), dtype=torch.float32),
    *(Subject(fn, called=name) for name, fn in STEEP.items()),
    *(Subject(fn, called=name, make=on_the_jump) for name, fn in JUMPS.items()),
)
