"""The competitors of a row. All get the same x and ē and, but for the floor and some peers, the same `Parameter`s."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import floor
from benchmarks.rows import Row, Task
from torchann import MLP, convert, fast, native

Net = Callable[[Tensor], Tensor]
Run = Callable[[Tensor, Tensor], tuple[Tensor, ...]]  # (x, ē) → the gradients, or () if they are in the leaves' `grad`
Gradients = dict[str, Tensor]


class Sine(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.sin(z)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": partial(nn.ReLU, inplace=True),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
    "sine": Sine,
}
VISCOSITY = 0.01 / torch.pi


@dataclass(frozen=True)
class Problem:
    """The tensors and the network of a row, which every competitor gets."""

    row: Row
    eager: nn.Sequential
    x: Tensor  # [N, I]
    error: Tensor  # ē of the last layer, [N, O]

    @property
    def leaves(self) -> Gradients:
        return {**({"x": self.x} if self.x.requires_grad else {}), **dict(self.eager.named_parameters())}

    def mlp(self) -> MLP:
        """An `MLP` of the same parameters; not by `from_sequential`, which does not know `Sine`."""
        net = MLP(self.row.widths, self.row.activation, self.row.output_activation)
        linears = (module for module in self.eager if isinstance(module, nn.Linear))
        for layer, linear in zip(net.layers, linears, strict=True):
            layer.weight, layer.bias = linear.weight, linear.bias
        return net

    def clear(self) -> None:
        self.x.grad = None
        for parameter in self.eager.parameters():
            parameter.grad = None


class Competitor(NamedTuple):
    call: Callable[[], Any]  # what is timed: gradients set to None, forward, backward
    gradients: Callable[[], Gradients]  # the same call, returning the gradients
    expected: Callable[[], Gradients] | None = None  # the right gradients; None if they are those of eager


class TaskForms(NamedTuple):
    """A task: what to compute with a network, and the same in the form that torch.compile handles best."""

    run: Callable[[Net], Run]
    compiled: Callable[..., Run]  # (net, **options of torch.compile)


def make_problem(row: Row, device: str) -> Problem:
    """Random tensors, the same in every run."""
    torch.manual_seed(0)
    eager = nn.Sequential()
    for fan_in, fan_out, activation in zip(row.widths[:-1], row.widths[1:], row.activations, strict=True):
        linear = nn.Linear(fan_in, fan_out)
        if activation == "relu":
            nn.init.kaiming_normal_(linear.weight)  # else a deep network's last neurons may be dead
        eager.extend([linear, MODULES[activation]()] if activation in MODULES else [linear])
    x = torch.randn(row.samples, row.widths[0]).to(device, row.dtype)
    error = (0.5 + torch.rand(row.samples, row.widths[-1])).to(device, row.dtype)  # positive: sums don't cancel
    return Problem(row, eager.to(device, row.dtype), x.requires_grad_(row.x_needs_gradient), error)


def enter(name: str, problem: Problem) -> Competitor:
    """The competitor of that name, ready for the row."""
    if name == "floor":
        call = floor.make(problem.row, problem.x.device)
        competitor = Competitor(call, gradients=lambda: call() or {}, expected=dict)
    else:
        competitor = on_leaves(problem, RUNS[name](TASKS[problem.row.task], problem))
    return captured(competitor) if problem.row.captured else competitor


def on_leaves(problem: Problem, run: Run) -> Competitor:
    def call() -> tuple[Tensor, ...]:
        problem.clear()
        return run(problem.x, problem.error)

    def find() -> Gradients:
        returned = call()
        if returned:
            return {f"gradient {index}": gradient for index, gradient in enumerate(returned)}
        leaves = problem.leaves.items()
        return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves}

    return Competitor(call, find)


def captured(competitor: Competitor) -> Competitor:
    """The competitor captured as a CUDA graph, which each call replays."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            competitor.call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        gradients = competitor.gradients()

    def find() -> Gradients:
        graph.replay()
        return gradients

    return competitor._replace(call=graph.replay, gradients=find)


# --- The nets ---------------------------------------------------------------------------------------------------------


def dense_stack(problem: Problem) -> nn.Sequential:
    return nn.Sequential(*problem.mlp().layers)


def natively(run: Callable[..., Any]) -> Callable[..., Any]:
    """Run with the parts in C++ enabled, where torchann would choose them; other competitors run without them."""
    before = fast.native
    native.enable()
    enabled, fast.native = fast.native, before

    def run_natively(*arguments: Any) -> Any:
        fast.native = enabled
        try:
            return run(*arguments)
        finally:
            fast.native = before

    return run_natively


def autotune_mode(row: Row) -> str:
    """`max-autotune` captures CUDA graphs itself, which is not possible while another is captured."""
    return "max-autotune-no-cudagraphs" if row.captured else "max-autotune"


RUNS: dict[str, Callable[[TaskForms, Problem], Run]] = {
    "eager": lambda task, problem: task.run(problem.eager),
    "compiled": lambda task, problem: task.compiled(problem.eager),
    "compiled max-autotune": lambda task, problem: task.compiled(problem.eager, mode=autotune_mode(problem.row)),
    "convert": lambda task, problem: task.run(convert(problem.eager)),
    "dense": lambda task, problem: task.run(dense_stack(problem)),
    "mlp": lambda task, problem: task.run(problem.mlp()),
    "native dense": lambda task, problem: natively(task.run(dense_stack(problem))),
    "native mlp": lambda task, problem: natively(task.run(problem.mlp())),
    "compiled mlp": lambda task, problem: task.compiled(problem.mlp()),
}


def names(device: str) -> list[str]:
    """The competitors that need no other package, in the order of the tables."""
    return [*(name for name in RUNS if name != "compiled max-autotune" or device == "cuda"), "floor"]


# --- The tasks --------------------------------------------------------------------------------------------------------


def gradients(net: Net) -> Run:
    """The gradients of all parameters, and of x if it needs one."""

    def run(x: Tensor, error: Tensor) -> tuple[Tensor, ...]:
        net(x).backward(error)
        return ()

    return run


def compiled_gradients(net: Net, **options: Any) -> Run:
    return gradients(torch.compile(net, dynamic=False, **options))


def input_gradient(net: Net) -> Run:
    return lambda x, error: torch.autograd.grad(net(x).sum(), x)


def compiled_input_gradient(net: Net, **options: Any) -> Run:
    """Compile torch.func.grad of the network: a compiled network alone would also compute the parameters' gradients."""
    gradient = torch.compile(torch.func.grad(lambda x: net(x).sum()), dynamic=False, **options)

    def run(x: Tensor, error: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():  # the gradient is not differentiated further
            return (gradient(x),)

    return run


def physics(net: Net) -> Run:
    """A physics-informed network's step: the mean of (u_t − ν u_xx)², from points (t, x) = `x`, then backward."""

    def run(x: Tensor, error: Tensor) -> tuple[Tensor, ...]:
        (du,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        (du_x,) = torch.autograd.grad(du[:, 1].sum(), x, create_graph=True)
        (du[:, 0] - VISCOSITY * du_x[:, 1]).square().mean().backward()
        return ()

    return run


def compiled_physics(net: Net, **options: Any) -> Run:
    """Written with torch.func, the only form of a double backward that torch.compile supports."""

    def u_x(x: Tensor) -> tuple[Tensor, Tensor]:
        du = torch.func.grad(lambda x: net(x).sum())(x)
        return du[:, 1].sum(), du

    def loss(x: Tensor) -> Tensor:
        du_x, du = torch.func.grad(u_x, has_aux=True)(x)
        return (du[:, 0] - VISCOSITY * du_x[:, 1]).square().mean()

    compiled = torch.compile(loss, dynamic=False, **options)

    def run(x: Tensor, error: Tensor) -> tuple[Tensor, ...]:
        compiled(x).backward()
        return ()

    return run


TASKS: dict[Task, TaskForms] = {
    "gradients": TaskForms(gradients, compiled_gradients),
    "input gradient": TaskForms(input_gradient, compiled_input_gradient),
    "physics": TaskForms(physics, compiled_physics),
}
