"""The experiment behind the page on saturation: a few networks and a few hundred steps each, run as the site is built.

python docs/saturation.py prints what the page shows.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from charts import COLOURS, as_svg, legend, machine, panels, style, table
from sklearn.datasets import make_moons
from torch.nn import functional as F

import torchann
from torchann.activations import TABLE
from torchann.monitor import health
from torchann.tracing import worked

STEPS, EVERY = 400, 50
DEEP = [2, *[16] * 7, 1]


class Setting(NamedTuple):
    """One network and how it is trained."""

    name: str
    sizes: list[int]
    activation: str = "sigmoid"
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD
    rate: float = 0.5
    widened: float = 1.0  # what the initial weights are multiplied by
    output_bias: float = 0.0
    cross_entropy: bool = False


SETTINGS = {
    "depth": [
        Setting("7 hidden layers of sigmoids", DEEP),
        Setting("the same with Adam", DEEP, optimizer=torch.optim.Adam, rate=0.005),
        Setting("tanh", DEEP, "tanh"),
        Setting("relu", DEEP, "relu", rate=0.1),
    ],
    "rate": [
        Setting("2 hidden layers of sigmoids, Adam, η = 0.02", [2, 16, 16, 1], optimizer=torch.optim.Adam, rate=0.02),
        Setting("the same, η = 1", [2, 16, 16, 1], optimizer=torch.optim.Adam, rate=1.0),
    ],
    "weights": [
        Setting("2 hidden layers of tanh", [2, 16, 16, 1], "tanh", rate=0.2),
        Setting("the same, initial weights 30 times as large", [2, 16, 16, 1], "tanh", rate=0.2, widened=30.0),
    ],
    "loss": [
        Setting("output starts at the wrong end, half squared error", [2, 16, 1], output_bias=8.0),
        Setting("the same, cross-entropy", [2, 16, 1], output_bias=8.0, cross_entropy=True),
    ],
}


class Outcome(NamedTuple):
    errors: list[float]  # of each step, by the half squared error
    accuracy: float
    said: list[str]  # what the monitor says, with the step


def make(setting):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torchann.MLP(setting.sizes, setting.activation, "identity" if setting.cross_entropy else "sigmoid")
    with torch.no_grad():
        for weight in net.weights:
            weight.mul_(setting.widened)
        net.biases[-1].fill_(setting.output_bias)
    return net


def moons():
    x, y = make_moons(400, noise=0.15, random_state=0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32).unsqueeze(1)


@cache
def train(name):
    (setting,) = (each for group in SETTINGS.values() for each in group if each.name == name)
    net, (x, y) = make(setting), moons()
    half_squared = torchann.HalfSquaredErrorLoss()
    loss = F.binary_cross_entropy_with_logits if setting.cross_entropy else half_squared
    optimizer = setting.optimizer(net.parameters(), lr=setting.rate)
    errors, said = [], {}
    for step in range(STEPS):
        if step % EVERY == 0:
            for problem in health.problems(torchann.trace(net, x, y, loss)):
                said.setdefault(problem.cause, f"step {step}: {problem.words}")
        optimizer.zero_grad()
        output = net(x)
        loss(output, y).backward()
        optimizer.step()
        with torch.no_grad():
            probability = output.sigmoid() if setting.cross_entropy else output
            errors.append(half_squared(probability, y).item())
    accuracy = ((probability > 0.5) == (y > 0.5)).float().mean().item()
    return Outcome(errors, accuracy, list(said.values()))


# --- At the start -----------------------------------------------------------------------------------------------------


@cache
def signals():
    """Mean |δ| of each layer, from the first to the last, before anything is learned."""
    found = {}
    for name, activation, widened in (
        ("sigmoid", "sigmoid", 1.0),
        ("sigmoid, weights × 8", "sigmoid", 8.0),
        ("tanh", "tanh", 1.0),
        ("relu", "relu", 1.0),
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = torchann.MLP([32] * 9, activation, dtype=torch.float64)
            x, y = torch.randn(256, 32, dtype=torch.float64), torch.rand(256, 32, dtype=torch.float64)
        with torch.no_grad():
            for weight in net.weights:
                weight.mul_(widened)
        found[name] = torchann.trace(net, x, y, torchann.HalfSquaredErrorLoss())
    return found


# --- What the page shows ----------------------------------------------------------------------------------------------


def macro(what, *arguments):
    if what not in SHOWN:
        raise LookupError(f"saturation({what!r}): the experiment shows no such thing; known: {', '.join(SHOWN)}")
    return SHOWN[what](*arguments)


def slopes():
    figure, (left, right) = panels(2)
    z = torch.linspace(-6, 6, 241, dtype=torch.float64)
    for colour, name in zip(COLOURS, ("sigmoid", "tanh", "relu"), strict=False):
        row = TABLE[name]
        o = row.f(z)
        left.plot(z, o.clamp(max=1.5).where(o <= 1.5, torch.nan), color=colour, label=name)
        right.plot(z, row.df(o), color=colour, label=name)
    style(left, "z", "f(z)")
    style(right, "z", "f′(z)")
    legend(right)
    return as_svg(figure, "f and its derivative for sigmoid, tanh and relu")


def by_layer():
    figure, (axes,) = panels(1)
    for colour, (name, trace) in zip(COLOURS, signals().items(), strict=True):
        means = [layer.mean_delta.mean().item() for layer in trace.layers]
        axes.semilogy(range(1, len(means) + 1), means, "o-", color=colour, label=name)
    style(axes, "layer, from the input", "mean |δ|")
    legend(axes)
    return as_svg(figure, "mean error signal of each layer of four networks before training")


def by_layer_table():
    rows = []
    for name, trace in signals().items():
        first, last = trace.layers[0].mean_delta.mean().item(), trace.layers[-1].mean_delta.mean().item()
        slope = sum(layer.slope.mean().item() for layer in trace.layers) / len(trace.layers)
        said = "; ".join(problem.words for problem in health.problems(trace)) or "nothing"
        rows.append((name, worked.number(slope), f"{first / last:.1g}", said))
    return table(("network", "mean f′", "mean |δ|, first layer / last", "what the monitor says"), rows)


def curves(group):
    figure, (axes,) = panels(1)
    for colour, setting in zip(COLOURS, SETTINGS[group], strict=False):
        axes.semilogy(train(setting.name).errors, color=colour, label=setting.name)
    style(axes, "step", "E")
    legend(axes)
    return as_svg(figure, f"the error over the steps of training: {group}")


def outcomes(group):
    rows = []
    for setting in SETTINGS[group]:
        found = train(setting.name)
        how = f"{setting.optimizer.__name__}, η = {setting.rate:g}"
        numbers = worked.number(found.errors[0]), worked.number(found.errors[-1]), f"{found.accuracy:.0%}"
        rows.append((setting.name, how, *numbers, "<br>".join(found.said) or "nothing"))
    head = ("network", "optimizer", "E at first", f"E after {STEPS} steps", "right", "what the monitor says")
    return table(head, rows)


def at_the_wrong_end():
    """δ of an output neuron whose target is 1, by both losses."""
    rows = []
    for z in (0.0, -2.0, -4.0, -6.0, -8.0, -10.0):
        o = torch.tensor(z, dtype=torch.float64).sigmoid().item()
        cells = (worked.number(z), worked.number(o), worked.number((o - 1) * o * (1 - o)), worked.number(o - 1))
        rows.append(cells)
    return table(("z", "o", "δ, half squared error: (o − y) o (1 − o)", "δ, cross-entropy: o − y"), rows)


SHOWN = {
    "slopes": slopes,
    "by layer": by_layer,
    "by layer, table": by_layer_table,
    "curves": curves,
    "outcomes": outcomes,
    "at the wrong end": at_the_wrong_end,
    "machine": machine,
    "steps": lambda: str(STEPS),
}


if __name__ == "__main__":
    for line in (by_layer_table(), *(outcomes(group) for group in SETTINGS), at_the_wrong_end(), machine()):
        print(line, end="\n\n")
