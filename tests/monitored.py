"""A monitored model, and what the monitor wrote of it."""

import torch
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import torchann
from torchann.monitor import Monitor

loss = torchann.HalfSquaredErrorLoss()
XOR = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0], [1.0], [1.0], [0.0]])

PICTURES = ("network/weights", "network/error", "neurons/error", "neurons/saturation")  # of every model


def read(writer):
    """All that was written."""
    writer.flush()
    return EventAccumulator(
        str(writer.log_dir), size_guidance=dict.fromkeys(("scalars", "images", "histograms", "tensors"), 0)
    ).Reload()


def tags(writer):
    found = read(writer).Tags()
    return {*found["scalars"], *found["images"], *found["histograms"], *found["tensors"]}


def text(writer, tag):
    """As it was last written."""
    return read(writer).Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()


def fit(net, x, y, steps, monitor=None, rate=0.01, batch=32):
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for step in range(steps):
        chosen = torch.arange(step * batch, (step + 1) * batch) % len(x)
        optimizer.zero_grad()
        loss(net(x[chosen]), y[chosen]).backward()
        optimizer.step()
        if monitor:
            monitor.step(step)


def unlimited(net, writer, sample, **kwargs):
    """Looks as often as it is asked to, whatever it costs; pictures at the end alone."""
    monitor = Monitor(net, writer, sample=sample, loss=kwargs.pop("loss", loss), **{"every": 1, **kwargs})
    monitor.budget.affords = lambda kind: kind != "pictures"
    return monitor


def digits():
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.eye(10)[torch.tensor(data.target)]


@torch.no_grad()
def with_weights(net, factor=1.0, bias=0.0):
    for layer in net.layers:
        layer.weight *= factor
        layer.bias += bias
    return net
