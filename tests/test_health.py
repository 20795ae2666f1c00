"""The monitor's warnings: each once where something is wrong, and none where nothing is."""

import re

import pytest
import torch
from monitored import XOR, digits, fit, loss, read, text, unlimited, with_weights

import torchann
from torchann.monitor import health
from torchann.tracing import Disagreement


def test_a_neuron_without_gradient_for_an_interval_is_dead(writer):
    net = torchann.MLP([2, 4, 1], "relu", "sigmoid")
    with torch.no_grad():
        net.layers[0].bias[:3] = -100
    with unlimited(net, writer, XOR, say=lambda line: None) as monitor:
        monitor.step(0)
        with torch.no_grad():
            net.layers[0].bias[0] = 1  # comes to life
        monitor.step(1)
    assert [event.value for event in read(writer).Scalars("monitor/dead/layers.0")] == [0.75, 0.5]


def warnings_of(net, sample, writer, steps=1):
    said = []
    with unlimited(net, writer, sample, say=said.append) as monitor:
        for step in range(steps):
            monitor.step(step)
    return said


@torch.no_grad()
def with_output_bias(net, bias):
    net.layers[-1].bias += bias
    return net


def wrong_derivative():
    return torchann.Activation("wrong", torch.tanh, lambda o: 1 - o, reads="output")


SICK = {
    "saturated": (lambda: with_weights(torchann.MLP([4, 8, 2]), 60.0), r"layers.0: \d+% of units saturated: smaller"),
    "stuck": (lambda: with_output_bias(torchann.MLP([4, 8, 2]), -9.0), "layers.1: 100% of the output units stuck"),
    "dead": (lambda: with_weights(torchann.MLP([4, 8, 2], "relu", "sigmoid"), bias=-9.0), "layers.0: 100% of units dead"),
    "vanishing": (lambda: with_weights(torchann.MLP([4, *[8] * 6, 2]), 0.5), "layers.0: vanishing error signal, mean"),
    "exploding": (lambda: with_weights(torchann.MLP([4, *[8] * 6, 2], "identity"), 9.0), "layers.0: exploding error"),
    "not finite": (lambda: with_weights(torchann.MLP([4, 8, 2]), torch.nan), "layers.0: weights are no longer finite"),
    "not finite outputs": (
        lambda: with_weights(torchann.MLP([4, 8, 2], "identity"), 1e30),
        "layers.1: outputs are no longer finite",
    ),
    "disagreement": (
        lambda: torchann.MLP([4, 8, 2], wrong_derivative()),
        r"layers.0.weight: the hand-derived gradient is [\d.]+% off autograd's",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SICK)
def test_what_is_wrong_is_said_once(writer, name):
    make, words = SICK[name]
    sample = torch.rand(16, 4), torch.eye(2)[torch.arange(16) % 2]
    said = warnings_of(make(), sample, writer, steps=3)
    assert sum(1 for line in said if line.startswith("monitor: step 0: ") and says(words, line)) == 1
    assert len(said) == len(set(said))
    if name in ("saturated", "stuck", "vanishing", "exploding", "not finite", "not finite outputs"):
        assert len(said) == 1  # one cause, one warning
    assert says(words, text(writer, "monitor/warnings"))


def says(pattern, line):
    return re.search(pattern, line) is not None


HEALTHY = {
    "xor": lambda: (torchann.MLP([2, 8, 1]), *XOR),
    "xor, tanh": lambda: (torchann.MLP([2, 8, 1], "tanh", "sigmoid"), *XOR),
    "digits": lambda: (torchann.MLP([64, 128, 10]), *digits()),
    "digits, relu": lambda: (torchann.MLP([64, 64, 32, 10], "relu", "sigmoid"), *digits()),
    "regression": lambda: (torchann.MLP([64, 32, 1], "tanh", "identity"), digits()[0], digits()[0].mean(1, keepdim=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_draws_no_warning(writer, name):
    net, x, y = HEALTHY[name]()
    said = []
    with unlimited(net, writer, (x[:64], y[:64]), every=50, say=said.append) as monitor:
        before = loss(net(x), y).item()
        fit(net, x, y, 600, monitor, rate=0.02 if name.startswith("xor") else 0.005)
    assert loss(net(x), y).item() < 0.5 * before  # it did learn
    assert said == []


def test_a_forward_pass_that_changes_is_not_blamed_on_a_formula(writer):
    class Counting(torchann.MLP):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x * self.calls)

    said = warnings_of(Counting([2, 4, 1]), XOR, writer)
    assert [line.partition(",")[0] for line in said] == [
        "monitor: step 0: the forward pass gives other values each time for the same samples"
    ]


def test_a_perfect_fit_is_no_disagreement():
    x, y = torch.rand(16, 3), torch.rand(16, 1)
    net = torchann.MLP([3, 1], "identity")
    target = net(x).detach() + 1e-7 * y  # what is left of the error is rounding
    seen = torchann.trace(net, x, target, loss)
    assert list(health.disagreeing(seen, Disagreement({"layers.0.weight": 1.0}, is_repeatable=True))) == []
