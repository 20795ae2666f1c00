"""The curves on the page about differential equations: two examples, run as the site is built, and a saved benchmark.

python docs/equations.py prints the figures that the page states.
"""

from __future__ import annotations

import json
import runpy
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
from charts import COLOURS, as_svg, legend, machine, panels, style
from torch import nn

import torchann

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
burgers = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "burgers.py")))
poisson = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "poisson.py")))

TIMES = (0.0, 0.25, 0.5, 1.0)
STEPS, TURN = 600, 20  # of Poisson's equation: steps of each method, and how many it makes in a turn


def macro(what):
    if what not in SHOWN:
        raise LookupError(f"equation({what!r}): there is no such thing; known: {', '.join(SHOWN)}")
    return SHOWN[what]()


# --- Burgers' equation ------------------------------------------------------------------------------------------------


def solution():
    figure, (axes,) = panels(1)
    with torch.random.fork_rng(devices=[]):
        net, _ = burgers.solve()
    x = torch.linspace(-1, 1, 401, dtype=torch.float64)
    for colour, t in zip(COLOURS, TIMES, strict=True):
        points = torch.stack([x, torch.full_like(x, t or 1e-9)], dim=1)  # at t = 0 the exact solution is a limit
        with torch.no_grad():
            axes.plot(x, burgers.velocity(net, points)[0], color=colour, label=f"t = {t:g}")
        axes.plot(x[::16], burgers.solution(points)[::16], "o", color=colour, markersize=3)
    style(axes, "x", "u")
    legend(axes)
    return as_svg(figure, "Solution of Burgers equation at four times: lines by the network, dots exact")


# --- Poisson's equation, by two methods -------------------------------------------------------------------------------


class Training(NamedTuple):
    seconds: list[float]  # spent on steps, up to the end of each turn
    errors: list[float]  # of u, at the end of each turn: relative L2


@cache
def trainings():
    """Both methods, from the same start and on the same points.

    They take turns, so that whatever else the machine does slows down both.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torchann.MLP([poisson.D, 64, 64, 1], torch.sin, "identity")
        batches = [poisson.in_the_ball(256) for _ in range(STEPS)]
        points = poisson.in_the_ball(5000)
    methods = {
        "nested autograd": turns(plain(net), by_autograd, batches),
        "torchann.laplacian": turns(net, torchann.laplacian, batches),
    }
    found = {name: Training([0.0], [error_of(next(steps), points)]) for name, steps in methods.items()}
    for _ in range(0, STEPS, TURN):
        for name, (seconds, errors) in found.items():
            start = time.perf_counter()
            net = next(methods[name])
            seconds.append(time.perf_counter() - start + seconds[-1])
            errors.append(error_of(net, points))
    return found


def plain(net):
    """The same network in PyTorch's own modules."""
    (first, second, third) = (nn.Linear(*layer.weight.shape[::-1]) for layer in net.layers)
    found = nn.Sequential(first, Sine(), second, Sine(), third)
    found.load_state_dict(dict(zip(found.state_dict(), net.state_dict().values(), strict=True)))
    return found


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(x)


def by_autograd(net, x):
    """N, ∇N and ΔN: a backward pass for ∇N, and one for each dimension."""
    x = x.clone().requires_grad_()
    n = net(x)
    (gradient,) = torch.autograd.grad(n.sum(), x, create_graph=True)
    second = [torch.autograd.grad(gradient[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(poisson.D)]
    return n, gradient.unsqueeze(1), torch.stack(second, dim=1).sum(1, keepdim=True)


def turns(net, laplacian, batches):
    """Trains as `examples/poisson.py` does. Yields the network before the first turn and after each."""
    sum(term.sum() for term in laplacian(net, batches[0])).backward()  # a first call takes longer than later ones
    yield net
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step, x in enumerate(batches, start=1):
        n, gradient, second = laplacian(net, x)
        residual = poisson.laplacian_of_u(x, n, gradient[:, 0], second) - poisson.source(x)
        optimizer.zero_grad()
        residual.square().mean().backward()
        optimizer.step()
        schedule.step()
        if step % TURN == 0:
            yield net


@torch.no_grad()
def error_of(net, x):
    inside = 1 - x.square().sum(1, keepdim=True)
    true = inside * torch.sin(torch.pi * x).sum(1, keepdim=True)
    return ((inside * net(x) - true).norm() / true.norm()).item()


def error_by_time():
    figure, (axes,) = panels(1)
    for colour, (name, training) in zip(COLOURS, trainings().items(), strict=False):
        axes.semilogy(training.seconds, training.errors, color=colour, label=name)
    style(axes, "seconds", "relative error of u")
    legend(axes)
    return as_svg(figure, "Error of u over the time of training: nested autograd, and torchann.laplacian")


def ratio_of_times():
    nested, ours = (training.seconds[-1] for training in trainings().values())
    return f"{ours / nested:.2f}"


# --- The saved benchmark ----------------------------------------------------------------------------------------------


def growth():
    figure, (left, right) = panels(2)
    sweep = sweep_of_benchmark()
    for colour, name in zip(COLOURS, ("nested", "torchann"), strict=False):
        entries = {d: row["competitors"][name] for d, row in sweep["points"]}
        left.loglog([*entries], [each["seconds"]["median"] * 1e3 for each in entries.values()], ".-", color=colour)
        right.loglog(
            [*entries], [each["peak_bytes"] / 2**20 for each in entries.values()], ".-", color=colour, label=name
        )
    style(left, sweep["label"], "ms, forward and backward")
    style(right, sweep["label"], "MiB, peak")
    legend(right)
    return as_svg(figure, "Time and peak memory over the number of dimensions: nested autograd, and torchann")


def sweep_of_benchmark():
    saved, *_ = sorted((ROOT / "benchmarks" / "results").glob("input-derivatives-*.json"))
    (sweep,) = json.loads(saved.read_text("utf-8"))["growth"].values()
    return sweep


# --- What the page shows ----------------------------------------------------------------------------------------------

SHOWN = {
    "solution": solution,
    "error by time": error_by_time,
    "ratio of times": ratio_of_times,
    "steps": lambda: str(STEPS),
    "growth": growth,
    "machine": machine,
}


if __name__ == "__main__":
    for name, training in trainings().items():
        print(f"{name}: {training.seconds[-1]:.1f} s, relative error of u {training.errors[-1]:.1e}")
    print(f"ratio of times {ratio_of_times()}; {machine()}")
