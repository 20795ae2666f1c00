"""The 3-4-1 network of the derivation, worked through in numbers by torchann itself."""

from __future__ import annotations

import copy

import torch

import torchann
from torchann.tracing import worked

X, Y, RATE = [0.5, -1.2, 0.8], [0.9], 0.5
PARAMETERS = (
    [[0.1, -0.4, 0.7], [0.9, 0.3, -0.2], [-0.6, 0.8, 0.05], [0.25, -0.35, 0.45]],  # W₁, a row for each neuron
    [0.1, -0.2, 0.3, -0.4],  # b₁
    [[0.6, -0.5, 0.4, 0.3]],  # W₂
    [0.05],  # b₂
)
LOSS = torchann.HalfSquaredErrorLoss()


def network():
    net = torchann.MLP([3, 4, 1], dtype=torch.float64)
    net.load_state_dict(
        {
            name: torch.tensor(values, dtype=torch.float64)
            for name, values in zip(net.state_dict(), PARAMETERS, strict=True)
        }
    )
    return net


def samples():
    return torch.tensor([X], dtype=torch.float64), torch.tensor([Y], dtype=torch.float64)


def macro(what, *also):
    """The sections of the worked example whose headings begin so; or what else the page asks for."""
    net, (x, y) = network(), samples()
    trace = torchann.trace(net, x, y, LOSS)
    if what == "given":
        return given()
    if what == "error after":
        return worked.number(after_a_step(net, x, y))
    if what == "error before":
        return worked.number(trace.error)
    sections = [
        section
        for section in worked.example(trace.layers, trace.error, trace.target, worked.Scope(rate=RATE))
        if section.heading.startswith((what, *also))
    ]
    if not sections:
        raise LookupError(f"worked({what!r}): no section of the worked example begins so")
    return "```text\n" + worked.as_text(sections) + "\n```"


def given():
    (w1, b1, w2, b2) = PARAMETERS
    lines = [f"x = {X}    y = {Y}    η = {RATE}", "", "hidden layer, layers.0"]
    lines += [f"  w_{j},· = {row}    b_{j} = {b}" for j, (row, b) in enumerate(zip(w1, b1, strict=True), 1)]
    lines += ["output layer, layers.1"]
    lines += [f"  w_{j},· = {row}    b_{j} = {b}" for j, (row, b) in enumerate(zip(w2, b2, strict=True), 1)]
    return "```text\n" + "\n".join(lines).replace("-", "−") + "\n```"


def after_a_step(net, x, y):
    """E where each parameter has gone one step down its gradient."""
    net = copy.deepcopy(net)
    LOSS(net(x), y).backward()
    torch.optim.SGD(net.parameters(), lr=RATE).step()
    return LOSS(net(x), y).item()
