"""Who takes part in a row. All but the floor work on the same `Parameter` objects, the same x and the same ē."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.rows import Row
from torchann import MLP, Dense

Net = Callable[[Tensor], Tensor]
Gradients = dict[str, Tensor]

MODULES: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": partial(nn.ReLU, inplace=True),
    "identity": nn.Identity,
}
VISCOSITY = 0.01 / torch.pi


@dataclass(frozen=True)
class Problem:
    """A row, made: what every competitor is given."""

    row: Row
    eager: nn.Sequential
    x: Tensor  # [N, I]
    error: Tensor  # ē of the last layer, [N, O]

    def clear(self) -> None:
        self.x.grad = None
        for parameter in self.eager.parameters():
            parameter.grad = None

    def gradients(self, returned: tuple[Tensor, ...]) -> Gradients:
        """What a task left in the leaves' `grad`, or returned. None is zero."""
        leaves = {"x": self.x} if self.x.requires_grad else {}
        leaves.update(self.eager.named_parameters())
        if self.row.task == "input gradient":
            return {"x": returned[0]}
        return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}


def make_problem(row: Row, device: str) -> Problem:
    """Random, and the same in every run."""
    torch.manual_seed(0)
    eager = nn.Sequential()
    for fan_in, fan_out, activation in zip(row.widths[:-1], row.widths[1:], row.activations, strict=True):
        linear = nn.Linear(fan_in, fan_out)
        if activation == "relu":
            nn.init.kaiming_normal_(linear.weight)  # a default start leaves the neurons of a last layer dead
        eager.extend([linear, MODULES[activation]()])
    x = torch.randn(row.samples, row.widths[0]).to(device, row.dtype)
    error = torch.randn(row.samples, row.widths[-1]).to(device, row.dtype)
    return Problem(row, eager.to(device, row.dtype), x.requires_grad_(row.x_needs_gradient), error)


class Competitor(NamedTuple):
    name: str
    call: Callable[[], object]  # what is timed
    found: Callable[[], Gradients] | None = None  # a call and what it found; None where there is nothing to check
    expected: Callable[[], Gradients] | None = None  # None for eager's


def competitors(problem: Problem) -> Iterator[Callable[[], Competitor]]:
    """Makers of the competitors: one that cannot be made says so in its own place."""
    eager, task = problem.eager, TASKS[problem.row.task]
    is_cuda = problem.x.is_cuda
    for name, make in (
        ("eager", lambda: partial(task.run, eager)),
        ("compiled", lambda: task.compiled(eager)),
        ("compiled max-autotune", lambda: task.compiled(eager, mode=autotune_mode(problem.row))),
        ("dense", lambda: partial(task.run, dense_stack(eager))),
        ("mlp", lambda: partial(task.run, MLP.from_sequential(pairs_only(eager)))),
        ("compiled mlp", lambda: task.compiled(MLP.from_sequential(pairs_only(eager)))),
    ):
        pass


def names(device: str) -> list[str]:
    ...
