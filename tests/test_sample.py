"""The sample that the monitor looks at: classes in every form in which they come."""

import numpy as np
import pytest
import torch
from monitored import PICTURES, loss, read, tags, unlimited
from torch import nn

import torchann
from torchann.monitor import Monitor


def test_classes_as_numbers(writer):
    x, y = torch.rand(9, 2), torch.arange(9) % 3
    cross_entropy = nn.CrossEntropyLoss()
    with unlimited(torchann.MLP([2, 4, 3], "tanh", "identity"), writer, (x, y), loss=cross_entropy) as monitor:
        monitor.step(0)
    assert {"monitor/confusion", "monitor/decision_surface"} <= tags(writer)


def test_names_of_classes_in_an_array(writer):
    sample = torch.rand(9, 2), torch.eye(3)[torch.arange(9) % 3]
    monitor = Monitor(torchann.MLP([2, 3]), writer, sample=sample, loss=loss, classes=np.array(["a", "b", "c"]))
    figure = dict(monitor.figures_of_outputs(sample[1]))["confusion"]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("outputs", "y", "counts"),
    [
        (1, torch.tensor([True, False, True]), [[1, 0], [0, 2]]),
        (1, torch.tensor([[True], [False], [True]]), [[1, 0], [0, 2]]),
        (1, torch.tensor([1, -1, 1]), [[1, 0], [0, 2]]),
        (2, torch.tensor([True, False, True]), [[1, 0], [0, 2]]),
        (2, torch.tensor([[0, 1], [1, 0], [0, 1]]), [[1, 0], [0, 2]]),
        (2, torch.tensor([1, 0, -100]), [[1, 0], [0, 1]]),
    ],
)
def test_classes_as_booleans_as_integers_and_left_out(writer, outputs, y, counts):
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    net = torchann.MLP([2, outputs], "identity")
    with torch.no_grad():
        net.layers[0].weight.copy_(torch.tensor([[1.0, 0.0]] if outputs == 1 else [[0.0, 1.0], [1.0, 0.0]]))
        net.layers[0].bias.zero_()
    with unlimited(net, writer, (x, y), loss=lambda output, y: output.square().mean()) as monitor:
        monitor.step(0)
        figure = dict(monitor.figures(torchann.trace(net, x, y, monitor.loss)))["confusion"]
    assert figure.axes[0].images[0].get_array().tolist() == counts
    assert {"monitor/confusion", "monitor/decision_surface"} <= tags(writer)


def test_classes_along_another_dimension_are_not_drawn(writer):
    sample = torch.rand(4, 7, 5), torch.zeros(4, 7).long()
    net = nn.Sequential(torchann.MLP([5, 3]), Transposed())
    with unlimited(net, writer, sample, loss=nn.CrossEntropyLoss()) as monitor:
        monitor.step(0)
    assert set(read(writer).Tags()["images"]) == {f"monitor/{name}" for name in PICTURES}


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)
