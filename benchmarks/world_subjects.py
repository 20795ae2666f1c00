"""The functions of public packages that `benchmarks.verify_world` runs `verify` on: one `Subject` each.

A package is imported only when its subject is made, so that this file can be read without any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from torchann.verification.judging import Inputs

DESIGN, DEFECT = "The package's design", "A defect"


@dataclass(frozen=True)
class Subject:
    """A function of a package, the inputs that it is checked at, and why rows of it fail."""

    path: str  # from where it is imported, such as entmax.sparsemax
    inputs: Inputs
    build: Callable[[Any], Any] = lambda found: found  # from what is at the path to what is verified
    options: Mapping[str, Any] = field(default_factory=dict)  # of `verify`
    fails: Mapping[str, str] = field(default_factory=dict)  # a sentence for each row that fails, analysed by hand
    package: str = ""  # its name on PyPI, where that is not how it is imported
    variant: str = ""  # tells subjects of one path apart

    @property
    def distribution(self) -> str:
        return self.package or self.path.partition(".")[0]

    @property
    def name(self) -> str:
        return f"{self.path} ({self.variant})" if self.variant else self.path

    def made(self) -> Any:
        """What is verified. Modules start from the same parameters each time.

        Raises:
            ImportError: the package or a package that it needs isn't installed.
        """
        torch.manual_seed(0)
        return self.build(find(self.path))


def because(kind: str, why: str, *rows: str) -> dict[str, str]:
    """The same sentence for several rows."""
    return dict.fromkeys(rows, f"{kind}: {why}.")


def find(path: str) -> Any:
    """What is at a dotted path: modules first, then attributes of the last module."""
    parts = path.split(".")
    found = import_module(parts[0])
    for number, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            found = import_module(".".join(parts[:number]))
    return found


# --- Inputs -----------------------------------------------------------------------------------------------------------


def normal(*shapes: Sequence[int], others: Sequence[Any] = ()) -> Callable[[int], tuple[Any, ...]]:
    """Standard normal tensors of these shapes in float32, and others as they are after them."""
    return lambda seed: (*drawn(torch.randn, shapes, seed), *others)


def uniform(low: float, high: float, *shapes: Sequence[int], others: Sequence[Any] = ()) -> Callable[[int], tuple]:
    return lambda seed: (*(low + (high - low) * each for each in drawn(torch.rand, shapes, seed)), *others)


def drawn(draw: Callable[..., Tensor], shapes: Sequence[Sequence[int]], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [draw(tuple(shape), generator=generator) for shape in shapes]


def positive_definite(root: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """A positive definite matrix, its eigenvalues apart, from any square one."""
    diagonal = torch.arange(1, root.shape[-1] + 1).to(root)
    return (root @ root.mT + diagonal.diag(), *others)


def distributions(a: Tensor, b: Tensor, costs: Tensor) -> tuple[Tensor, ...]:
    """Two distributions from any two vectors; the costs of transport between them as they are."""
    return (a.softmax(0), b.softmax(0), costs)


def symmetric(matrix: Tensor) -> Tensor:
    """A symmetric matrix, its eigenvalues apart."""
    return matrix + matrix.mT + 4 * torch.arange(matrix.shape[-1]).to(matrix).diag()


# --- Functions that packages take as arguments ------------------------------------------------------------------------


def tolerance(like: Tensor) -> float:
    """What a solver that iterates can reach in this dtype: 4e-10 in float64, 7e-5 in float32."""
    return torch.finfo(like.dtype).eps ** 0.6


def grid(seed: int) -> tuple[Tensor, ...]:
    """An image and the places where `grid_sample` reads it."""
    return (*normal((1, 2, 4, 4))(seed), *uniform(-0.9, 0.9, (1, 3, 3, 2))(seed))


def xitorch_matrix(matrix: Tensor, is_hermitian: bool = True) -> Any:
    return find("xitorch.LinearOperator").m(matrix, is_hermitian=is_hermitian)


def projector(basis: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """B Bᵀ of an orthonormal basis B, which is the same for every basis of the space."""
    return lambda x: (lambda b: b @ b.mT)(basis(x))


class ODE(nn.Module):
    """ẏ = tanh(W y), solved from 0 to 1 by a function of a field and y."""

    def __init__(self, solve: Callable[..., Tensor]) -> None:
        super().__init__()
        self.solve, self.field = solve, Field()

    def forward(self, y: Tensor) -> Tensor:
        return self.solve(self.field, y, torch.tensor([0.0, 1.0]).to(y))


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layer(y).tanh()


class SDE(nn.Module):
    """dy = tanh(W y) dt + 0.1 y dB, solved from 0 to 1 with always the same noise."""

    noise_type, sde_type = "diagonal", "stratonovich"

    def __init__(self, solve: Callable[..., Tensor]) -> None:
        super().__init__()
        self.solve, self.layer = solve, nn.Linear(2, 2)

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layer(y).tanh()

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return 0.1 * y

    def forward(self, y: Tensor) -> Tensor:
        times = torch.tensor([0.0, 1.0]).to(y)
        noise = find("torchsde.BrownianInterval")(0.0, 1.0, y.shape, dtype=y.dtype, entropy=0)
        return self.solve(self, y, times, bm=noise, dt=0.1, method="midpoint")


class CDE(nn.Module):
    """dz = tanh(W z) dX along a path X through given points."""

    def __init__(self, solve: Callable[..., Tensor]) -> None:
        super().__init__()
        self.solve, self.layer = solve, nn.Linear(3, 6)

    def forward(self, points: Tensor, z: Tensor) -> Tensor:
        path = find("torchcde.CubicSpline")(
            find("torchcde.hermite_cubic_coefficients_with_backward_differences")(points)
        )
        return self.solve(
            path, lambda t, z: self.layer(z).tanh().view(-1, 3, 2), z, path.interval, adjoint=False, method="rk4"
        )


# --- Why several functions fail ---------------------------------------------------------------------------------------

HIGHER = ("double-backward", "third-order")
DERIVATIVES = ("reverse", "forward", "double-backward", "forward-over-reverse", "third-order")

HELD = "PyTorch differentiates its second derivative with mean and deviation held constant; the plain formula agrees with the differences"
POWER_OF_ZERO = (
    "backward raises outputs that are 0 to a power below 1; its derivative is infinite there, and times 0 it makes NaN"
)
ROOT_OF_ZERO = "backward takes the root of outputs that are 0; the derivative of the root is infinite there, and times 0 it makes NaN"
SAVED_PROBABILITIES = "backward reads probabilities that forward saved; they are constants to autograd, so the second derivative misses how they depend on X"
SAVED_DERIVATIVE = "backward multiplies by a derivative that forward saved; it is a constant to autograd, and no `once_differentiable` says so"
WAITS = "tensors of a run wait for the garbage collector; counting them without `verify` shows the same"
HOLDS_ITS_OUTPUT = "ctx holds the output as an attribute, and the output holds ctx"
FREES_ITS_INPUT = "forward frees the memory of its input, and backward computes it again"
TANGENT_SPACE = "the gradients of Lie group elements are in the tangent space, and autograd takes them for plain tensors when it differentiates again: the second derivative is wrong without an error"
VIEWS = "the second derivative raises an error about views changed in place, by accident"
A_LEAF = "the second derivative raises an error about a leaf changed in place, by accident"
ALWAYS_FLOAT32 = "forward ends in `.float()`: float64 comes out as float32, and the gradient with its precision"


# --- The functions ----------------------------------------------------------------------------------------------------

SUBJECTS: tuple[Subject, ...] = (
    # PyTorch itself
    Subject(
        "torch.nn.functional.layer_norm", normal((4, 3), others=([3],)), fails=because(DEFECT, HELD, "third-order")
    ),
    Subject(
        "torch.nn.BatchNorm1d",
        normal((6, 3)),
        lambda BatchNorm1d: BatchNorm1d(3),
        variant="training",
        fails=because(DEFECT, HELD, "third-order"),
    ),
    Subject(
        "torch.nn.functional.instance_norm",
        normal((2, 3, 5)),
        fails=because(
            DEFECT,
            "it runs the code of batch norm, whose third derivative holds mean and deviation constant",
            "third-order",
        ),
    ),
    Subject("torch.nn.functional.group_norm", normal((2, 4, 3), others=(2,))),
    Subject(
        "torch.nn.utils.parametrizations.weight_norm",
        normal((4, 3)),
        lambda norm: norm(nn.Linear(3, 2)),
        fails=because(
            DEFECT,
            "PyTorch differentiates the gradient with the norms of the rows held constant; g v / |v| in plain operations agrees with the differences",
            *HIGHER,
        ),
    ),
    Subject("torch.nn.utils.parametrizations.spectral_norm", normal((4, 3)), lambda norm: norm(nn.Linear(3, 2)).eval()),
    Subject(
        "torch.nn.functional.pdist",
        normal((4, 3)),
        fails=because(
            DEFECT,
            "backward for no rows ends the process with a segmentation fault, outside of `verify`, too",
            "empty-batch",
        ),
    ),
    Subject("torch.cdist", normal((4, 3), (5, 3))),
    Subject("torch.nn.LSTM", normal((5, 2, 3)), lambda LSTM: LSTM(3, 2)),
    Subject("torch.nn.GRU", normal((5, 2, 3)), lambda GRU: GRU(3, 2)),
    Subject(
        "torch.nn.TransformerEncoderLayer",
        normal((2, 3, 4)),
        lambda Layer: Layer(4, 2, 8, dropout=0.0, batch_first=True),
    ),
    Subject("torch.nn.MultiheadAttention", normal((3, 2, 4), (3, 2, 4), (3, 2, 4)), lambda Attention: Attention(4, 2)),
    Subject(
        "torch.nn.functional.scaled_dot_product_attention",
        normal((2, 2, 3, 4), (2, 2, 3, 4), (2, 2, 3, 4)),
        options={"kwargs": {"is_causal": True}},
    ),
    Subject(
        "torch.nn.Embedding", lambda seed: (torch.tensor([0, 2, 1]),), lambda Embedding: Embedding(4, 3, sparse=True)
    ),
    Subject("torch.nn.functional.conv_transpose2d", normal((2, 3, 4, 4), (3, 2, 3, 3))),
    Subject("torch.nn.functional.grid_sample", lambda seed: grid(seed), partial(partial, align_corners=False)),
    Subject(
        "torch.nn.functional.ctc_loss",
        lambda seed: (*normal((6, 2, 4))(seed), torch.tensor([[1, 2], [3, 3]]), (6, 5), (2, 2)),
        lambda ctc_loss: lambda logits, *others: ctc_loss(logits.log_softmax(-1), *others),
    ),
    Subject("torch.linalg.cholesky", normal((3, 3)), options={"domain": positive_definite}),
    Subject("torch.linalg.eigh", normal((3, 3)), lambda eigh: lambda a: eigh(symmetric(a))[0], variant="eigenvalues"),
    Subject("torch.linalg.eigh", normal((3, 3)), options={"domain": symmetric}, variant="eigenvectors, too"),
    Subject("torch.linalg.svdvals", normal((4, 3))),
    Subject("torch.linalg.svd", normal((4, 3)), lambda svd: partial(svd, full_matrices=False)),
    Subject("torch.linalg.qr", normal((4, 3))),
    Subject("torch.linalg.solve", normal((3, 3), (3, 2)), options={"domain": positive_definite}),
    Subject("torch.linalg.slogdet", normal((3, 3)), options={"domain": positive_definite}),
    Subject("torch.linalg.matrix_exp", normal((3, 3))),
    Subject("torch.fft.rfft", normal((3, 8))),
    Subject(
        "torch.stft",
        normal((2, 32)),
        lambda stft: lambda x: stft(x, 8, window=torch.ones(8).to(x), return_complex=True),
    ),
    Subject("torch.special.erfcx", normal((4, 3))),
    Subject("torch.special.log_ndtr", normal((4, 3))),
    Subject("torch.special.i0e", normal((4, 3))),
    Subject("torch.special.multigammaln", uniform(2.0, 4.0, (4, 3), others=(2,))),
    Subject("torch.special.xlog1py", uniform(0.1, 2.0, (4, 3), (4, 3))),
    Subject(
        "torch.nn.functional.hardsigmoid",
        normal((4, 3)),
        fails=because(
            DEFECT, "backward on the CPU multiplies by 1/6 rounded to float32, which is off by 3e-8", "dtype"
        ),
    ),
    Subject("torch.nn.functional.hardswish", normal((4, 3))),
    Subject("torch.nn.functional.softplus", normal((4, 3))),
    Subject(
        "torch.logcumsumexp",
        normal((4, 3), others=(0,)),
        fails=because(
            DEFECT, "the third derivative is NaN, where the differences settle at a finite number", "third-order"
        ),
    ),
    Subject("torch.nn.functional.gumbel_softmax", normal((4, 3))),
    Subject(
        "torch.utils.checkpoint.checkpoint",
        normal((4, 3)),
        lambda checkpoint: lambda x: checkpoint(torch.tanh, x, use_reentrant=False),
    ),
    Subject(
        "torch.fake_quantize_per_tensor_affine",
        normal((4, 3)),
        lambda f: lambda x: f(x, 0.25, 0, -64, 64),
        {"gradient": lambda x: x},
    ),
    # Sparse relatives of softmax
    Subject("entmax.sparsemax", normal((4, 5))),
    Subject("entmax.entmax15", normal((4, 5)), fails=because(DEFECT, ROOT_OF_ZERO, *HIGHER)),
    Subject("entmax.entmax_bisect", normal((4, 5)), fails=because(DEFECT, POWER_OF_ZERO, *HIGHER)),
    Subject(
        "entmax.entmax_bisect",
        lambda seed: (*normal((3, 5))(seed), torch.full((3, 1), 1.4)),
        variant="alpha, too",
        fails=because(DEFECT, POWER_OF_ZERO, *HIGHER),
    ),
    Subject("entmax.sparsemax_bisect", normal((4, 5))),
    Subject(
        "entmax.normmax_bisect",
        normal((4, 5)),
        fails=because(
            DEFECT,
            "`torch.where` hides powers of outputs that are 0 from the first two derivatives; in the third, infinity times 0 makes NaN",
            "third-order",
        ),
    ),
    Subject(
        "entmax.budget_bisect",
        normal((4, 5)),
        fails=because(
            DEFECT,
            "where every output is 0 or 1, backward divides 0 by 0; `torch.where` hides that NaN from the gradient, but not from its derivative",
            "double-backward",
        ),
    ),
    Subject(
        "entmax.sparsemax_loss",
        normal((4, 5), others=(torch.tensor([0, 3, 1, 4]),)),
        fails=because(DEFECT, SAVED_PROBABILITIES, *HIGHER),
    ),
    Subject(
        "entmax.entmax15_loss",
        normal((4, 5), others=(torch.tensor([0, 3, 1, 4]),)),
        fails=because(DEFECT, SAVED_PROBABILITIES, *HIGHER),
    ),
    Subject("sparsemax.Sparsemax", normal((4, 5)), lambda Sparsemax: Sparsemax(-1)),
    Subject(
        "pytorch_tabnet.sparsemax.sparsemax",
        normal((4, 5)),
        package="pytorch-tabnet",
        fails=because(DEFECT, "`input -= max_val` writes over the tensor that the caller passed", "inputs-untouched"),
    ),
    Subject(
        "pytorch_tabnet.sparsemax.entmax15",
        normal((4, 5)),
        package="pytorch-tabnet",
        fails=because(DEFECT, ROOT_OF_ZERO, *HIGHER),
    ),
    Subject(
        "pytorch_tabnet.sparsemax.entmoid15",
        normal((4, 5)),
        package="pytorch-tabnet",
        fails=because(
            DEFECT,
            "`grad_input -= …` writes over a tensor that the second derivative needs, so it raises an error",
            *HIGHER,
        ),
    ),
    # Structured prediction
    Subject("torch_struct.LogSemiring", normal((3, 4)), lambda semiring: semiring.sum, package="torch-struct"),
    Subject(
        "torch_struct.SparseMaxSemiring",
        normal((3, 4)),
        lambda semiring: semiring.sum,
        package="torch-struct",
        fails=because(
            DEFECT, "forward returns ⟨w, x⟩ − |w|; its backward, w, is the gradient of ⟨w, x⟩ − ½|w|²", "reverse"
        )
        | because(
            DEFECT, "w is a copy cut from the graph, so the second derivative misses how it depends on x", *HIGHER
        ),
    ),
    Subject(
        "torch_struct.LinearChainCRF",
        normal((2, 4, 3, 3)),
        lambda CRF: lambda potentials: CRF(potentials).partition,
        package="torch-struct",
    ),
    Subject(
        "torchcrf.CRF",
        normal((4, 2, 3), others=(torch.tensor([[0, 1], [2, 1], [1, 1], [0, 2]]),)),
        lambda CRF: CRF(3),
        package="pytorch-crf",
    ),
    # Gaussian processes and linear algebra
    Subject(
        "gpytorch.functions.log_normal_cdf",
        normal((4, 3)),
        fails=because(
            DEFECT,
            "below −1 the value is approximated: at −1.0845 it is off by 1.4e-3, its slope is 1.5879, log Φ has 1.5932, and backward gives 1.5954",
            "reverse",
        )
        | because(
            DEFECT,
            "below −1 backward reads two tensors that forward kept in ctx; they are constants to autograd, so the second derivative is 0",
            *HIGHER,
        ),
    ),
    Subject(
        "gpytorch.functions.RBFCovariance",
        lambda seed: (*normal((3, 2), (4, 2))(seed), torch.tensor([[0.8]], requires_grad=True)),
        lambda f: lambda x, y, length: f.apply(x, y, length, lambda a, b: torch.cdist(a, b).square()),
        fails=because(DEFECT, SAVED_DERIVATIVE, *HIGHER),
    ),
    Subject(
        "gpytorch.functions.MaternCovariance",
        lambda seed: (*normal((3, 2), (4, 2))(seed), torch.tensor([[0.8]], requires_grad=True)),
        lambda f: lambda x, y, length: f.apply(x, y, length, 2.5, torch.cdist),
        fails=because(DEFECT, SAVED_DERIVATIVE, *HIGHER),
    ),
    Subject("linear_operator.solve", normal((3, 3), (3, 2)), options={"domain": positive_definite}),
    Subject(
        "linear_operator.inv_quad_logdet",
        normal((3, 3), (3, 2)),
        lambda f: lambda a, b: f(a, b, logdet=True),
        {"domain": positive_definite},
    ),
    Subject(
        "linear_operator.inv_quad",
        normal((3, 3), (3, 2)),
        options={"domain": positive_definite},
        fails=because(
            DEFECT,
            "backward reads A⁻¹ b that forward saved; it is a constant to autograd, so the second derivative misses it",
            *HIGHER,
        ),
    ),
    Subject(
        "linear_operator.sqrt_inv_matmul",
        normal((3, 3), (3, 2)),
        options={"domain": positive_definite},
        fails=because(
            DEFECT,
            "backward reads solutions that forward saved; they are constants to autograd, so the second derivative misses them",
            *HIGHER,
        ),
    ),
    Subject(
        "linear_operator.pivoted_cholesky",
        normal((3, 3)),
        lambda f: lambda a: f(a, rank=3),
        {"domain": positive_definite},
        fails=because(
            DEFECT,
            "backward computes forward again on detached tensors and differentiates that without a graph, so the second derivative misses it",
            *HIGHER,
        ),
    ),
    Subject(
        "linear_operator.operators.KernelLinearOperator",
        normal((3, 2), (4, 2), (4, 2)),
        lambda Operator: lambda x, y, v: Operator(x, y, covar_func=lambda a, b: (a @ b.mT).tanh()) @ v,
        fails=because(
            DEFECT,
            "backward differentiates the kernel on detached tensors without a graph, so the second derivative misses it",
            "double-backward",
        ),
    ),
    Subject(
        "xitorch.linalg.solve",
        normal((3, 3), (3, 2)),
        lambda f: lambda a, b: f(xitorch_matrix(a), b),
        {"domain": positive_definite},
    ),
    Subject(
        "xitorch.linalg.symeig", normal((3, 3)), lambda f: lambda a: f(xitorch_matrix(symmetric(a), True), neig=2)[0]
    ),
    Subject(
        "xitorch.optimize.rootfinder",
        uniform(0.5, 2.0, (3,)),
        lambda f: lambda a: f(lambda y, a: y**3 + a * y - 1, torch.ones(3).to(a), (a,), f_tol=tolerance(a) / 100),
    ),
    Subject(
        "xitorch.integrate.quad",
        uniform(0.5, 2.0, (), (2,)),
        lambda f: lambda to, a: f(lambda x, a: (a * x).sin(), torch.zeros(()).to(to), to, (a,), n=16),
    ),
    Subject(
        "xitorch.integrate.solve_ivp",
        normal((2,), (2, 2)),
        lambda f: lambda y, a: f(lambda t, y, a: (a @ y).tanh(), torch.linspace(0, 1, 4).to(y), y, (a,), method="rk4"),
        fails=because(
            DESIGN,
            "backward solves the adjoint equation in the same few steps: it has the gradient of the exact solution, not of the steps. The gap shrinks with the fourth power of the step, from 3e-4 to 2e-8 between 4 and 32 points",
            "reverse",
            "double-backward",
            "third-order",
            "dtype",
        )
        | because(DEFECT, WAITS, "leaks"),
    ),
    # Differential equations
    Subject(
        "torchdiffeq.odeint",
        normal((2, 2)),
        lambda f: lambda y: f(lambda t, y: (t + y).sin(), y, torch.linspace(0, 1, 3).to(y), method="rk4"),
    ),
    Subject(
        "torchdiffeq.odeint_adjoint",
        normal((2, 2)),
        lambda f: ODE(lambda field, y, times: f(field, y, times, rtol=tolerance(y), atol=tolerance(y))),
        fails=because(
            DESIGN,
            "backward solves the adjoint equation with adaptive steps, which depend on the incoming gradient and on what requires grad. The differences are those of its tolerance",
            "linearity",
            "needs-input-grad",
            "dtype",
        )
        | because(
            DEFECT,
            "backward solves it under `no_grad`, and no `once_differentiable` says so: the second derivative is 0",
            "double-backward",
        ),
    ),
    Subject(
        "torchsde.sdeint_adjoint",
        normal((2, 2)),
        lambda f: SDE(f),
        fails=because(
            DESIGN,
            "backward solves the adjoint equation in steps of 0.1: it has the gradient of the exact solution, not of the steps. The gap shrinks with the square of the step, from 4e-4 at 0.1 to 7e-6 at 0.0125",
            "reverse",
            "double-backward",
            "dtype",
        )
        | because(DEFECT, "it raises `Internal error: please report a bug to torchsde`", "third-order")
        | because(DEFECT, WAITS, "leaks"),
    ),
    Subject(
        "torchsde.sdeint",
        normal((2, 2)),
        lambda f: SDE(f),
        fails=because(
            DEFECT,
            "the nodes of the Brownian tree hold each other; counting tensors without `verify` shows that they wait for the garbage collector",
            "leaks",
        ),
    ),
    Subject("torchcde.cdeint", normal((2, 4, 2), (2, 3)), lambda f: CDE(f)),
    Subject("torchcde.natural_cubic_coeffs", normal((2, 5, 2))),
    # Reversible blocks, which compute their inputs again in backward
    Subject(
        "memcnn.InvertibleModuleWrapper",
        normal((2, 4)),
        lambda Wrapper: Wrapper(
            find("memcnn.AdditiveCoupling")(nn.Sequential(nn.Linear(2, 2), nn.Tanh())), num_bwd_passes=1000
        ),
        fails=because(DESIGN, FREES_ITS_INPUT, "inputs-untouched")
        | because(
            DEFECT,
            "backward writes `input.grad` and returns the gradient as well, so an input that is a leaf of the graph gets twice its gradient",
            "needs-input-grad",
        )
        | because(DEFECT, HOLDS_ITS_OUTPUT, "leaks"),
    ),
    Subject(
        "revtorch.ReversibleSequence",
        normal((2, 4)),
        lambda Sequence: Sequence(
            nn.ModuleList(
                [
                    find("revtorch.ReversibleBlock")(nn.Sequential(nn.Linear(2, 2), nn.Tanh()), nn.Linear(2, 2))
                    for _ in range(2)
                ]
            )
        ),
        fails=because(
            DESIGN,
            "the first backward deletes the output from ctx, so a graph can be used once. The error that a second use raises does not say so",
            "determinism",
            "reverse",
            "linearity",
            "batched",
            "undefined-gradient",
            "expanded-gradient",
            "autocast",
        )
        | because(DESIGN, "an assertion refuses a second derivative, with words of its own", *HIGHER),
    ),
    Subject(
        "fairscale.nn.checkpoint_wrapper", normal((2, 4)), lambda wrap: wrap(nn.Sequential(nn.Linear(4, 3), nn.Tanh()))
    ),
    Subject(
        "torch_geometric.nn.GroupAddRev",
        normal((4, 4), others=(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]),)),
        lambda Rev: Rev(find("torch_geometric.nn.GraphConv")(2, 2), num_groups=2, num_bwd_passes=1000),
        package="torch-geometric",
        fails=because(DESIGN, FREES_ITS_INPUT, "inputs-untouched")
        | because(
            DEFECT,
            "backward differentiates without a graph, and no `once_differentiable` says so: the second derivative is 0",
            "double-backward",
        )
        | because(DEFECT, HOLDS_ITS_OUTPUT, "leaks"),
    ),
    # Flows, rotations, manifolds
    Subject(
        "zuko.utils.bisection",
        uniform(-1.0, 1.0, (4,)),
        lambda f: lambda y: f(lambda x: x + x.tanh(), y, -4.0, 4.0, n=60),
    ),
    Subject(
        "zuko.utils.gauss_legendre",
        uniform(0.5, 2.0, (4,), (4,), (4,)),
        lambda f: lambda a, b, phi: f(lambda x: (phi * x).sin(), a, b, n=8, phi=(phi,)),
    ),
    Subject(
        "zuko.utils.odeint",
        uniform(0.1, 1.0, (3,), (3,)),
        lambda f: (
            lambda x, phi: f(
                lambda t, x: (phi * x).sin(),
                x,
                torch.zeros(()).to(x),
                torch.ones(()).to(x),
                phi=(phi,),
                atol=tolerance(x),
                rtol=tolerance(x),
            )
        ),
        fails=because(
            DESIGN,
            "the solution has adaptive steps, and backward takes no derivative of their length. The difference is that of its tolerance",
            "dtype",
        )
        | because(DEFECT, WAITS, "leaks"),
    ),
    Subject(
        "roma.procrustes",
        normal((2, 3, 3)),
        fails=because(
            DEFECT,
            "backward reads U and V of the decomposition, which are marked as not differentiable, so the second derivative misses how they depend on M",
            "double-backward",
            "forward-over-reverse",
            "third-order",
        ),
    ),
    Subject("roma.special_procrustes", normal((2, 3, 3))),
    Subject("roma.rotvec_to_rotmat", normal((4, 3))),
    Subject("roma.symmatrixvec_to_unitquat", normal((2, 10))),
    Subject(
        "pypose.so3",
        normal((4, 3)),
        lambda so3: lambda x: so3(x).Exp().tensor(),
        variant="Exp",
        fails=because(
            DESIGN,
            "the gradient of a Lie group element lives in the tangent space, padded with a 0. Compositions that end in plain vectors pass `reverse`",
            "reverse",
        ),
    ),
    Subject(
        "pypose.so3",
        normal((4, 3), (4, 3)),
        lambda so3: lambda x, points: so3(x).Exp() @ points,
        variant="Exp, Act",
        fails=because(DEFECT, TANGENT_SPACE, *HIGHER),
    ),
    Subject(
        "pypose.se3",
        normal((2, 6), (2, 3)),
        lambda se3: lambda x, points: se3(x).Exp() @ points,
        variant="Exp, Act",
        fails=because(DEFECT, TANGENT_SPACE, *HIGHER),
    ),
    Subject(
        "pypose.so3",
        normal((4, 3), (4, 3)),
        lambda so3: lambda x, y: (so3(x).Exp() * so3(y).Exp()).Log().tensor(),
        variant="Exp, Mul, Log",
        fails=because(DEFECT, TANGENT_SPACE, *HIGHER),
    ),
    Subject(
        "pypose.so3",
        normal((4, 3), (4, 3)),
        lambda so3: lambda x, y: (so3(x).Exp().Inv().Adj(so3(y))).tensor(),
        variant="Exp, Inv, Adj",
        fails=because(DEFECT, TANGENT_SPACE, *HIGHER),
    ),
    Subject(
        "geoopt.manifolds.stereographic.math.expmap0",
        uniform(-0.5, 0.5, (4, 3)),
        lambda f: lambda u: f(u, k=torch.tensor(-1.0).to(u)),
    ),
    Subject("geoopt.PoincareBall", uniform(-0.4, 0.4, (4, 3), (4, 3)), lambda Ball: lambda x, y: Ball().dist(x, y)),
    Subject(
        "geoopt.Lorentz", normal((4, 3)), lambda Lorentz: lambda u: Lorentz().expmap0(nn.functional.pad(u, (1, 0)))
    ),
    Subject("e3nn.math.soft_unit_step", normal((4, 3))),
    Subject("e3nn.o3.spherical_harmonics", normal((4, 3)), lambda f: lambda x: f([0, 1, 2], x, normalize=True)),
    Subject("e3nn.o3.wigner_D", uniform(-1.0, 1.0, (2,), (2,), (2,)), lambda f: partial(f, 2)),
    Subject(
        "e3nn.o3.FullyConnectedTensorProduct",
        normal((2, 4), (2, 4)),
        lambda Product: Product("0e+1o", "0e+1o", "0e+1o"),
        {"seeds": (0,)},
    ),
    # Images
    Subject(
        "kornia.losses.focal_loss", normal((3, 4), others=(torch.tensor([0, 3, 1]),)), lambda f: partial(f, alpha=0.5)
    ),
    Subject("kornia.losses.lovasz_softmax_loss", normal((1, 3, 2, 2), others=(torch.tensor([[[0, 1], [2, 1]]]),))),
    Subject(
        "kornia.losses.ssim_loss", uniform(0.0, 1.0, (1, 1, 6, 6), (1, 1, 6, 6)), lambda f: partial(f, window_size=3)
    ),
    Subject(
        "kornia.geometry.epipolar.essential._NullSpaceBasis",
        normal((1, 5, 9)),
        lambda f: projector(lambda x: f.apply(x)[0]),
        variant="the projector",
        fails=because(
            DEFECT,
            "backward reads singular values and vectors that are marked as not differentiable, so the second derivative misses them",
            *HIGHER,
        ),
    ),
    Subject("kornia.geometry.axis_angle_to_rotation_matrix", normal((4, 3))),
    Subject("kornia.filters.bilateral_blur", normal((1, 1, 5, 5)), lambda f: lambda x: f(x, (3, 3), 0.5, (1.0, 1.0))),
    Subject("kornia.color.rgb_to_lab", uniform(0.1, 0.9, (1, 3, 2, 2))),
    Subject(
        "interpol.grid_pull",
        lambda seed: (*normal((1, 5, 5))(seed), *uniform(0.5, 3.5, (3, 3, 2))(seed)),
        package="torch-interpol",
    ),
    Subject(
        "interpol.grid_pull",
        lambda seed: (*normal((1, 5, 5))(seed), *uniform(0.5, 3.5, (3, 3, 2))(seed)),
        lambda f: partial(f, interpolation=3),
        package="torch-interpol",
        variant="cubic",
        fails=because(DEFECT, VIEWS, *HIGHER),
    ),
    Subject(
        "interpol.grid_push",
        lambda seed: (*normal((1, 3, 3))(seed), *uniform(0.5, 3.5, (3, 3, 2))(seed)),
        lambda f: partial(f, shape=(5, 5)),
        package="torch-interpol",
    ),
    Subject(
        "interpol.grid_grad",
        lambda seed: (*normal((1, 5, 5))(seed), *uniform(0.5, 3.5, (3, 3, 2))(seed)),
        lambda f: partial(f, interpolation=2),
        package="torch-interpol",
        fails=because(DEFECT, VIEWS, *HIGHER),
    ),
    Subject(
        "interpol.spline_coeff",
        normal((2, 6)),
        lambda f: partial(f, interpolation=3),
        package="torch-interpol",
        fails=because(
            DEFECT, "backward returns one gradient for five arguments, so it always raises an error", "reverse"
        ),
    ),
    Subject("monai.networks.blocks.activation.MemoryEfficientSwish", normal((4, 3)), lambda Swish: Swish()),
    Subject("monai.networks.blocks.activation.Mish", normal((4, 3)), lambda Mish: Mish()),
    Subject("monai.losses.DiceLoss", normal((1, 2, 3, 3), (1, 2, 3, 3)), lambda Loss: Loss(sigmoid=True)),
    # Signals
    Subject(
        "pytorch_wavelets.DWTForward",
        normal((1, 1, 8, 8)),
        lambda DWT: DWT(J=2, wave="db2"),
        package="pytorch-wavelets",
    ),
    Subject(
        "pytorch_wavelets.DTCWTForward",
        normal((1, 1, 8, 8)),
        lambda DTCWT: DTCWT(J=2),
        package="pytorch-wavelets",
        fails=because(DEFECT, A_LEAF, *HIGHER),
    ),
    Subject(
        "pytorch_wavelets.ScatLayer",
        normal((1, 1, 8, 8)),
        lambda ScatLayer: ScatLayer(),
        package="pytorch-wavelets",
        fails=because(DEFECT, A_LEAF, *HIGHER),
    ),
    Subject("ptwt.wavedec", normal((2, 16)), lambda f: lambda x: f(x, "db2", level=2)),
    Subject(
        "nnAudio.features.STFT",
        normal((1, 64)),
        lambda STFT: STFT(n_fft=16, hop_length=8, trainable=True, output_format="Complex", verbose=False),
    ),
    Subject("torch_dct.dct", normal((2, 6)), package="torch-dct"),
    Subject("torch_dct.idct_2d", normal((3, 4)), package="torch-dct"),
    Subject(
        "torchlpc.sample_wise_lpc",
        lambda seed: (*normal((1, 4))(seed), *uniform(-0.4, 0.4, (1, 4, 2))(seed)),
        options={"seeds": (0,)},
    ),
    Subject(
        "ot.emd2",
        normal((3,), (4,), (3, 4)),
        options={"domain": distributions},
        package="POT",
        fails=because(
            DEFECT,
            "the gradients are the optimal plan and the prices that forward saved; they are constants to autograd, so the second derivative misses how the plan depends on the distributions",
            *HIGHER,
        ),
    ),
    Subject(
        "ot.sinkhorn2",
        normal((3,), (4,), (3, 4)),
        lambda f: partial(f, reg=1.0, numItermax=10, warn=False),
        {"domain": distributions},
        package="POT",
    ),
    Subject(
        "geomloss.SamplesLoss",
        normal((4, 2), (3, 2)),
        lambda Loss: Loss("sinkhorn", p=2, blur=0.5),
        variant="sinkhorn",
        fails=because(
            DESIGN,
            "backward assumes that the iterations have converged, which by default they have not. With `scaling=0.999` the gradient and the slope of the values differ by 1 %, by default by 15 %",
            *DERIVATIVES,
        ),
    ),
    Subject(
        "geomloss.SamplesLoss",
        normal((4, 2), (3, 2)),
        lambda Loss: Loss("gaussian", blur=0.5),
        variant="gaussian",
        fails=because(
            DEFECT,
            "one of two equal arguments of the kernel is detached and the gradient doubled, which is right for the first derivative alone",
            *HIGHER,
        ),
    ),
    # Surrogate gradients and straight-through estimators
    Subject(
        "snntorch.surrogate.fast_sigmoid",
        normal((4, 3)),
        lambda f: f(slope=5),
        {"gradient": lambda x: x / (1 + 5 * x.abs())},
        fails=because(DEFECT, ALWAYS_FLOAT32, *DERIVATIVES, "dtype", "reference-gradient"),
    ),
    Subject(
        "snntorch.surrogate.atan",
        normal((4, 3)),
        lambda f: f(alpha=2.0),
        {"gradient": lambda x: (torch.pi * x).atan() / torch.pi},
        fails=because(DEFECT, ALWAYS_FLOAT32, *DERIVATIVES, "dtype", "reference-gradient"),
    ),
    Subject(
        "snntorch.surrogate.straight_through_estimator",
        normal((4, 3)),
        lambda f: f(),
        {"gradient": lambda x: x},
        fails=because(DEFECT, ALWAYS_FLOAT32, *DERIVATIVES, "dtype", "reference-gradient"),
    ),
    Subject(
        "snntorch.functional.quant.state_quant",
        normal((4, 3)),
        lambda f: f(num_bits=4),
        {"gradient": lambda x: x},
        fails=because(
            DEFECT,
            "the levels are float32, whatever comes in: float64 comes out as float32, and the gradient with its precision",
            *DERIVATIVES,
            "dtype",
            "reference-gradient",
        ),
    ),
    Subject(
        "spikingjelly.activation_based.surrogate.Sigmoid",
        normal((4, 3)),
        lambda Layer: Layer(alpha=4.0),
        {"gradient": lambda x: (4 * x).sigmoid()},
    ),
    Subject(
        "spikingjelly.activation_based.surrogate.ATan",
        normal((4, 3)),
        lambda Layer: Layer(alpha=2.0),
        {"gradient": lambda x: (torch.pi * x).atan() / torch.pi},
    ),
    Subject(
        "spikingjelly.activation_based.surrogate.SoftSign",
        normal((4, 3)),
        lambda Layer: Layer(alpha=2.0),
        {"gradient": lambda x: x / (1 + 2 * x.abs())},
    ),
    Subject(
        "spikingjelly.activation_based.surrogate.Erf",
        normal((4, 3)),
        lambda Layer: Layer(alpha=2.0),
        {"gradient": lambda x: (2 * x).erf() / 2},
    ),
    Subject("spikingjelly.activation_based.quantize.round", normal((4, 3)), options={"gradient": lambda x: x}),
    Subject(
        "pytorch_revgrad.RevGrad",
        normal((4, 3)),
        lambda RevGrad: RevGrad(alpha=0.5),
        {"gradient": lambda x: -0.5 * x},
        package="pytorch-revgrad",
    ),
    Subject("sinabs.activation.quantize.Quantize", normal((4, 3)), options={"gradient": lambda x: x}),
    Subject("brevitas.ops.autograd_ste_ops.RoundSteFn", normal((4, 3)), options={"gradient": lambda x: x}),
    Subject(
        "brevitas.ops.autograd_ste_ops.ScalarClampSteFn",
        normal((4, 3)),
        lambda f: lambda x: f.apply(x, -0.5, 0.5),
        {"gradient": lambda x: x},
    ),
    Subject("brevitas.ops.autograd_ste_ops.BinarySignSteFn", normal((4, 3)), options={"gradient": lambda x: x}),
    Subject(
        "norse.torch.functional.threshold.HeaviErfc",
        normal((4, 3)),
        lambda f: lambda x: f.apply(x, torch.tensor(2.0).to(x)),
        {"gradient": lambda x: (2 * x).erf() / 2},
        fails=because(
            DEFECT,
            "backward divides by √π in float32, as `torch.as_tensor(np.pi)` makes it, which is off by 3e-8",
            "dtype",
            "reference-gradient",
        ),
    ),
    Subject(
        "norse.torch.functional.threshold.HeaviTanh",
        normal((4, 3)),
        lambda f: lambda x: f.apply(x, torch.tensor(2.0).to(x)),
        {"gradient": lambda x: (2 * x).tanh() / 2},
    ),
    Subject("pyro.ops.special.safe_log", uniform(0.5, 2.0, (4, 3)), package="pyro-ppl"),
    Subject("pyro.ops.special.log_beta", uniform(0.5, 2.0, (4,), (4,)), package="pyro-ppl"),
    Subject("pyro.ops.special.log_I1", uniform(0.5, 2.0, (4,)), lambda f: partial(f, 2), package="pyro-ppl"),
    # Graphs, metric learning, rearranging
    Subject(
        "torch_geometric.utils.cross_entropy.sparse_cross_entropy",
        normal((3, 4), others=(torch.tensor([[0, 1, 2, 2], [1, 0, 3, 2]]),)),
        package="torch-geometric",
    ),
    Subject(
        "torch_geometric.utils.softmax",
        normal((6, 2), others=(torch.tensor([0, 0, 1, 1, 1, 2]),)),
        package="torch-geometric",
    ),
    Subject(
        "torch_geometric.nn.GATConv",
        normal((4, 3), others=(torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]),)),
        lambda Layer: Layer(3, 2),
        package="torch-geometric",
    ),
    Subject(
        "torch_geometric.nn.PNAConv",
        normal((4, 2), others=(torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 0, 2]]),)),
        lambda Layer: Layer(2, 2, ["mean", "std", "max"], ["identity"], torch.tensor([0, 3, 1])),
        package="torch-geometric",
    ),
    Subject(
        "pytorch_metric_learning.losses.NTXentLoss",
        normal((6, 3), others=(torch.tensor([0, 0, 1, 1, 2, 2]),)),
        lambda Loss: Loss(),
        package="pytorch-metric-learning",
    ),
    Subject(
        "pytorch_metric_learning.losses.MultiSimilarityLoss",
        normal((6, 3), others=(torch.tensor([0, 0, 1, 1, 2, 2]),)),
        lambda Loss: Loss(),
        package="pytorch-metric-learning",
    ),
    Subject("einops.layers.torch.Rearrange", normal((4, 3)), lambda Rearrange: Rearrange("a b -> b a")),
    Subject(
        "einops.layers.torch.EinMix",
        normal((4, 3)),
        lambda EinMix: EinMix("a b -> a c", weight_shape="b c", bias_shape="c", b=3, c=2),
    ),
)
