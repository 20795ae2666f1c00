"""The pictures on the page about TensorBoard: those that `Monitor` draws of the network on that page."""

from __future__ import annotations

import base64
import io
from functools import cache

import torch

import torchann
from torchann.monitor import Monitor


@cache
def figures():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.rand(200, 2) * 2 - 1
        net = torchann.MLP([2, 8, 1])
    y = (x.norm(dim=1, keepdim=True) < 0.7).float()
    loss, optimizer = torchann.HalfSquaredErrorLoss(), torch.optim.Adam(net.parameters(), lr=0.05)
    sample = x[:64], y[:64]
    monitor = Monitor(net, None, sample=sample, loss=loss)  # it draws without a writer, too
    for step in range(301):
        if step % 10 == 0:
            monitor.history.add(step, torchann.trace(net, *sample, loss))
        optimizer.zero_grad()
        loss(net(x), y).backward()
        optimizer.step()
    return dict(monitor.figures(torchann.trace(net, *sample, loss)))


def macro(name):
    if name not in figures():
        raise LookupError(f"monitor({name!r}): no such picture; known: {', '.join(figures())}")
    image = io.BytesIO()
    figures()[name].savefig(image, format="png", dpi=110)
    data = base64.b64encode(image.getvalue()).decode()
    return f'<img class="picture" alt="monitor/{name}" src="data:image/png;base64,{data}">'
