"""What the monitor writes is what the trace says, what it draws holds the data, and it costs no more than it may."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

import torchann
from torchann import tracing
from torchann.monitor import Monitor, health, pictures
from torchann.monitor.budget import Budget
from torchann.monitor.history import MOST_STEPS, History
from torchann.monitor.sample import classes_of

loss = torchann.HalfSquaredErrorLoss()
XOR = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0], [1.0], [1.0], [0.0]])


@pytest.fixture
def writer(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        yield writer


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


# --- What is written --------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_trace(writer):
    net, (x, y) = torchann.MLP([2, 4, 1]), XOR
    with unlimited(net, writer, XOR) as monitor:
        fit(net, x, y, 3, monitor)
    seen, events = torchann.trace(net, x, y, loss), read(writer)

    def last(tag):
        return pytest.approx(events.Scalars(f"monitor/{tag}")[-1].value, rel=1e-5)

    assert seen.error == last("error")
    assert [event.step for event in events.Scalars("monitor/error")] == [0, 1, 2]
    for layer, module in zip(seen.layers, net.layers, strict=True):
        assert layer.delta.abs().mean().item() == last(f"mean_delta/{layer.name}")
        assert (module.weight.grad.norm() / module.weight.norm()).item() == last(f"update_ratio/{layer.name}")
        assert last(f"saturated/{layer.name}") == 0
        assert last(f"dead/{layer.name}") == 0
        for name, values in (
            ("o", layer.o),
            ("delta", layer.delta),
            ("weights", layer.weight),
            ("biases", layer.bias),
            ("gradients", layer.weight_gradient),
        ):
            histogram = events.Histograms(f"monitor/{name}/{layer.name}")[-1].histogram_value
            assert (histogram.num, histogram.max) == (values.numel(), pytest.approx(values.max().item()))


PICTURES = ("network/weights", "network/error", "neurons/error", "neurons/saturation")


@pytest.mark.parametrize(
    ("sample", "options", "more"),
    [
        ((torch.rand(9, 2), torch.eye(3)[torch.arange(9) % 3]), {}, {"confusion", "decision_surface"}),
        ((torch.rand(9, 2), torch.rand(9, 1)), {}, {"predicted_against_true", "surface"}),
        ((torch.rand(9, 2), torch.rand(9, 3)), {}, {"predicted_against_true"}),
        ((torch.rand(9, 6), torch.eye(2)[torch.arange(9) % 2]), {"image_shape": (2, 3)}, {"confusion", "first_layer"}),
        ((torch.rand(9, 6), torch.ones(9, 1)), {"task": "regression"}, {"predicted_against_true"}),
    ],
)
def test_pictures_suit_the_data(writer, sample, options, more):
    x, y = sample
    with unlimited(torchann.MLP([x.shape[1], 4, y.shape[1]]), writer, sample, **options) as monitor:
        monitor.step(0)
    images = read(writer).Tags()["images"]
    assert set(images) == {f"monitor/{name}" for name in {*PICTURES, *more}}


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


def test_worked_example_is_of_one_sample_with_the_update(writer):
    net = torchann.MLP([2, 2, 1])
    with unlimited(net, writer, XOR, rate=0.5) as monitor:
        monitor.step(7)
    alone = torchann.trace(net, XOR[0][:1], XOR[1][:1], loss)
    shown = text(writer, "monitor/worked_example")
    o = f"{alone.layers[1].o.item():.4g}"
    assert f"`∂E/∂o_1 = o_1 − y_1 = {o} − 0 = {o}`" in shown
    assert "− 0.5·" in shown.split("**Update of layers.0")[1]


def test_layout_has_a_chart_over_all_layers(writer):
    Monitor(torchann.MLP([2, 4, 1]), writer, sample=XOR, loss=loss)
    layout = layout_pb2.Layout.FromString(
        read(writer).Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    (category,) = layout.category
    charts = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    assert charts["mean |δ| by layer"] == ["monitor/mean_delta/.*"]


def test_a_batch_norm_that_needs_several_samples(writer):
    net = nn.Sequential(torchann.Dense(2, 4), nn.BatchNorm1d(4), torchann.Dense(4, 1))
    with unlimited(net, writer, XOR) as monitor:
        monitor.step(0)
    assert "of 4 samples" in text(writer, "monitor/worked_example")


def test_an_activation_with_a_parameter_for_each_neuron(writer):
    net = torchann.MLP.from_sequential(nn.Sequential(nn.Linear(2, 3), nn.PReLU(3), nn.Linear(3, 1)))
    with torch.no_grad():
        net.activations[0].weight.copy_(torch.tensor([0.25, 1.0, 3.0]))
    with Monitor(net, writer, sample=XOR, loss=loss) as monitor:
        monitor.step(0)
    hidden = torchann.trace(net, *XOR, loss).layers[0]
    torch.testing.assert_close(tracing.steepest(hidden), torch.tensor([1.0, 1.0, 3.0]))


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


# --- When it looks ----------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_budget_is_never_exceeded():
    clock = Clock()
    budget = Budget(0.05, {"numbers": 0.0, "pictures": 0.5}, clock)
    done = {"numbers": 0, "pictures": 0}
    for _ in range(20_000):
        clock.now += 0.01
        for kind, seconds in (("numbers", 0.02), ("pictures", 1.0)):
            if budget.affords(kind):
                with budget.spend(kind):
                    clock.now += seconds
                done[kind] += 1
        spent = sum(budget.spent.values())
        # One look that takes longer than the last is unforeseen; the next ones wait until it is paid for.
        assert spent <= 0.05 * (clock.now - spent) + 0.52
    assert budget.spent["numbers"] == pytest.approx(0.025 * 200, rel=0.02)
    assert 4 <= done["pictures"] <= 5


def fail_after_a_second(clock):
    clock.now += 1
    raise ZeroDivisionError


def test_work_that_fails_is_paid_for():
    clock = Clock()
    budget = Budget(0.5, {"work": 0.0}, clock)
    with pytest.raises(ZeroDivisionError), budget.spend("work"):
        fail_after_a_second(clock)
    assert not budget.affords("work")


def test_the_first_look_is_not_charged():
    clock = Clock()
    budget = Budget(0.05, {"numbers": 0.0}, clock)
    with budget.spend("numbers"):
        clock.now += 1
    budget.restart()
    assert budget.affords("numbers")
    with budget.spend("numbers"):
        clock.now += 1
    clock.now += 39
    assert not budget.affords("numbers")
    clock.now += 1
    assert budget.affords("numbers")


def test_looks_between_first_and_last_are_as_the_budget_allows(writer, monkeypatch):
    net, (x, y) = torchann.MLP([2, 4, 1]), XOR
    monitor = Monitor(net, writer, sample=XOR, loss=loss, every=1)
    asked = []
    monkeypatch.setattr(
        monitor.budget, "affords", lambda kind: asked.append(kind) or (kind == "numbers" and len(asked) > 3)
    )
    with monitor:
        fit(net, x, y, 6, monitor)
    events = read(writer)
    looks = [event.step for event in events.Scalars("monitor/error")]
    assert looks[0] == 0
    assert looks[-1] == 5
    assert 2 < len(looks) < 6
    distributions = [event.step for event in events.Histograms("monitor/delta/layers.0")]
    assert distributions == [0, 5]


def test_nothing_happens_between_intervals(writer, monkeypatch):
    net = torchann.MLP([2, 4, 1])
    with unlimited(net, writer, XOR, every=10) as monitor:
        looks = []
        monkeypatch.setattr(monitor, "look", lambda step, **kwargs: looks.append(step))
        for step in range(5, 36):
            monitor.step(step)
            assert not any(module._forward_hooks for module in net.modules())
    assert looks == [5, 15, 25, 35, 35]  # the last with pictures


def test_a_short_run_has_one_set_of_pictures_at_its_end(writer):
    net, (x, y) = torchann.MLP([2, 4, 1]), XOR
    with Monitor(net, writer, sample=XOR, loss=loss) as monitor:
        fit(net, x, y, 30, monitor)
    monitor.step(1000)  # is over
    events = read(writer)
    assert [image.step for image in events.Images("monitor/network/weights")] == [29]
    assert [event.step for event in events.Scalars("monitor/error")] == [0, 29]


def test_training_is_not_changed(writer):
    nets = []
    for watched in (False, True):
        torch.manual_seed(3)
        net = nn.Sequential(torchann.MLP([2, 6, 4]), nn.BatchNorm1d(4), nn.Dropout(0.5), torchann.Dense(4, 1))
        fit(net, *XOR, 20, unlimited(net, writer, XOR) if watched else None)
        nets.append(net)
    torch.testing.assert_close(nets[0].state_dict(), nets[1].state_dict(), rtol=0, atol=0)


def test_an_error_in_the_loop_gets_out(writer):
    with pytest.raises(KeyError), unlimited(torchann.MLP([2, 4, 1]), writer, XOR):
        raise KeyError


def test_history_gets_thinner():
    history, seen = History(), torchann.trace(torchann.MLP([2, 4, 1]), *XOR, loss)
    for step in range(3 * MOST_STEPS):
        history.add(step, seen)
    assert MOST_STEPS / 2 < len(history.steps) <= MOST_STEPS
    assert history.steps == sorted(set(history.steps))
    assert len(history.error["layers.0"]) == len(history.flatness["layers.1"]) == len(history.steps)


# --- Where it works ---------------------------------------------------------------------------------------------------


def test_compiled_model_is_not_compiled_again(writer):
    torch._dynamo.reset()  # what other tests compiled of the same forward counts as well
    net, (x, y) = torchann.MLP([2, 4, 1]), XOR
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True), unlimited(compiled, writer, XOR) as monitor:
        fit(compiled, x, y, 3, monitor, batch=4)
    assert len(read(writer).Scalars("monitor/mean_delta/layers.0")) == 3


def test_ddp_on_the_first_process_alone(writer, tmp_path, monkeypatch):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net, (x, y) = DistributedDataParallel(torchann.MLP([2, 4, 1])), XOR
        with unlimited(net, writer, XOR) as monitor:
            fit(net, x, y, 2, monitor)
        assert "monitor/mean_delta/layers.0" in tags(writer)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
        with Monitor(net, None, sample=XOR, loss=loss) as monitor:
            fit(net, x, y, 2, monitor)
        assert monitor.history.steps == []
    finally:
        torch.distributed.destroy_process_group()


def test_says_that_it_cannot(writer):
    said = []
    net = nn.Sequential(torchann.Dense(2, 4), nn.SyncBatchNorm(4), torchann.Dense(4, 1))
    with Monitor(net, writer, sample=XOR, loss=loss, say=said.append) as monitor:
        monitor.step(0)
    assert said == [
        "monitor: expected layers that work in one process, got SyncBatchNorm, which waits for the others; "
        "nothing is monitored"
    ]
    assert tags(writer) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every: expected a positive integer, got 0"),
        ({"budget": 0}, "budget: expected a number above 0 and at most 1, got 0"),
        ({"task": "guessing"}, "task: expected 'classification', 'regression' or None, got 'guessing'"),
        ({"image_shape": (8, 8)}, "image_shape: expected height · width = 2, as x has, got \\(8, 8\\)"),
        (
            {"sample": (XOR[0], XOR[1][:3])},
            "sample: expected x \\[N, …\\] and y \\[N, …\\], got \\[4, 2\\] and \\[3, 1\\]",
        ),
        ({"sample": XOR[0]}, "sample: expected two Tensors, x and y, got Tensor"),
    ],
)
def test_bad_arguments(writer, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Monitor(torchann.MLP([2, 4, 1]), writer, **{"sample": XOR, "loss": loss, **options})


def test_no_state_of_matplotlib_is_touched(tmp_path):
    code = (
        "import sys, torch, torchann, torchann.monitor\n"
        "from torch.utils.tensorboard import SummaryWriter\n"
        "x = torch.rand(8, 2)\n"
        "loss = torchann.HalfSquaredErrorLoss()\n"
        f"with torchann.monitor.Monitor(torchann.MLP([2, 3, 2]), SummaryWriter({str(tmp_path)!r}), sample=(x, x), loss=loss) as m:\n"
        "    m.step(0)\n"
        "assert m.drawn == 0\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- Warnings ---------------------------------------------------------------------------------------------------------


def warnings_of(net, sample, writer, steps=1):
    said = []
    with unlimited(net, writer, sample, say=said.append) as monitor:
        for step in range(steps):
            monitor.step(step)
    return said


@torch.no_grad()
def with_weights(net, factor=1.0, bias=0.0):
    for layer in net.layers:
        layer.weight *= factor
        layer.bias += bias
    return net


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


def test_a_perfect_fit_is_no_disagreement():
    x, y = torch.rand(16, 3), torch.rand(16, 1)
    net = torchann.MLP([3, 1], "identity")
    target = net(x).detach() + 1e-7 * y  # what is left of the error is rounding
    seen = torchann.trace(net, x, target, loss)
    assert list(health.disagreeing(seen, {"layers.0.weight": 1.0})) == []


# --- The drawings hold the data ---------------------------------------------------------------------------------------


def traced(sizes, samples=9, **kwargs):
    net = torchann.MLP(sizes, **kwargs)
    return torchann.trace(net, torch.randn(samples, sizes[0]), torch.rand(samples, sizes[-1]), loss)


def assert_close(drawn, data):
    np.testing.assert_allclose(np.ma.filled(drawn), data, rtol=1e-5, atol=1e-7)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_edges_are_the_weights():
    seen = traced([3, 4, 2])
    first, second, *_ = pictures.network_by_weight(seen).axes[0].collections
    for lines, layer in ((first, seen.layers[0]), (second, seen.layers[1])):
        assert sorted(lines.get_array()) == pytest.approx(sorted(layer.weight.flatten().tolist()))
    # Each edge ends at the neurons that its weight connects: the heaviest is drawn last.
    neuron, feature = divmod(int(seen.layers[0].weight.abs().argmax()), 3)
    (start_x, start_y), (end_x, end_y) = first.get_segments()[-1]
    inputs, neurons = pictures.columns_of(seen.layers)[0]
    assert (start_x, end_x) == (0, 1)
    assert (start_y, end_y) == (inputs.heights[feature], neurons.heights[neuron])


def test_nodes_are_the_neurons_share_of_the_error():
    seen = traced([3, 4, 2])
    first, second, _, hidden, output = pictures.network_by_error(seen).axes[0].collections
    assert_close(hidden.get_array(), seen.layers[0].mean_delta)
    assert_close(output.get_array(), seen.layers[1].mean_delta)
    largest = max(layer.weight_gradient.abs().max().item() for layer in seen.layers)
    for lines, layer in ((first, seen.layers[0]), (second, seen.layers[1])):
        gradients = layer.weight_gradient.abs().flatten().numpy()
        assert_close(lines.get_linewidths(), 3 * gradients / largest)


def test_wide_layers_show_the_busiest_and_say_how_many_are_left_out():
    seen = traced([20, 30, 2])
    figure = pictures.network_by_weight(seen)
    assert texts(figure) == ["x\n20\n10 left out", "layers.0\n30\n20 left out", "layers.1\n2"]
    _, hidden = pictures.columns_of(seen.layers)[0]
    assert set(hidden.shown) == set(seen.layers[0].mean_delta.topk(10).indices.tolist())
    assert len(figure.axes[0].collections[0].get_array()) == 100


def test_layers_that_do_not_follow_have_inputs_of_their_own():
    net = nn.Sequential(torchann.Dense(3, 4), nn.LayerNorm(4), torchann.Dense(4, 2))
    seen = torchann.trace(net, torch.randn(9, 3), torch.rand(9, 2), loss)
    assert texts(pictures.network_by_weight(seen)) == ["x\n3", "0\n4", "x\n4", "2\n2"]


def test_deep_networks_say_how_many_layers_are_left_out():
    figure = pictures.network_by_weight(traced([2] * 10))
    assert figure.get_suptitle() == "Network: weights; 3 layers left out"


def test_heat_map_is_neurons_by_time():
    history = History()
    net = torchann.MLP([2, 4, 1])
    seen = []
    for step in (0, 100, 250):
        seen.append(torchann.trace(with_weights(net, 1.5), *XOR, loss))
        history.add(step, seen[-1])
    hidden, output, _ = pictures.error_over_time(history.steps, history.error).axes
    assert_close(hidden.images[0].get_array(), torch.stack([trace.layers[0].mean_delta for trace in seen], dim=1))
    assert [label.get_text() for label in output.get_xticklabels()] == ["0", "100", "250"]
    hidden, *_ = pictures.flatness_over_time(history.steps, history.flatness).axes
    slope = seen[2].layers[0].slope.mean(0) / 0.25
    assert_close(hidden.images[0].get_array()[:, 2], 1 - slope)


def test_first_weights_are_images():
    seen = traced([6, 20, 2])
    figure = pictures.first_weights(seen.layers[0], (2, 3))
    sheet = figure.axes[0].images[0].get_array()
    busiest = sorted(seen.layers[0].mean_delta.topk(16).indices.tolist())
    assert sheet.shape == (4 * 3 - 1, 4 * 4 - 1)
    assert_close(sheet[:2, :3], seen.layers[0].weight[busiest[0]].reshape(2, 3))
    assert_close(sheet[3:5, 4:7], seen.layers[0].weight[busiest[5]].reshape(2, 3))
    assert figure.get_suptitle().endswith("4 neurons left out")


def figures(net, sample, **kwargs):
    monitor = Monitor(net, None, sample=sample, loss=loss, **kwargs)
    seen = torchann.trace(net, *sample, loss)
    monitor.history.add(0, seen)
    return dict(monitor.figures(seen))


def test_decision_surface_is_what_the_model_says():
    net, x = torchann.MLP([2, 8, 3]), torch.randn(30, 2)
    figure = figures(net, (x, torch.eye(3)[torch.arange(30) % 3]), classes=("a", "b", "c"))["decision_surface"]
    image, (left, right, bottom, top) = figure.axes[0].images[0].get_array(), figure.axes[0].images[0].get_extent()
    assert left < x[:, 0].min() < x[:, 0].max() < right
    for row, column in ((0, 0), (10, 70), (79, 79)):
        point = torch.tensor([left + (right - left) * column / 79, bottom + (top - bottom) * row / 79])
        (expected,) = classes_of(net(point.unsqueeze(0)).detach())
        colour = 1 - 0.4 * (1 - np.array(pictures.to_rgb(pictures.CLASSES[expected])))
        assert_close(image[row, column], colour)
    points = [collection.get_offsets() for collection in figure.axes[0].collections]
    for index, mine in enumerate(points):
        assert_close(mine, x[index::3])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b", "c"]


def test_names_of_classes_stand_as_they_are():
    names = ["$\\foo$", "_hidden", "漢字"]
    net, sample = torchann.MLP([2, 3]), (torch.randn(30, 2), torch.eye(3)[torch.arange(30) % 3])
    drawn = figures(net, sample, classes=names)
    for figure in drawn.values():
        pictures.as_image(figure)
    legend = drawn["decision_surface"].axes[0].get_legend().get_texts()
    ticks = drawn["confusion"].axes[0].get_yticklabels()
    for shown in (legend, ticks):
        assert [each._preprocess_math(each.get_text()) for each in shown] == [(name, False) for name in names]


def test_confusion_counts_the_sample():
    net, x = torchann.MLP([5, 3]), torch.randn(40, 5)
    true = torch.arange(40) % 3
    figure = figures(net, (x, torch.eye(3)[true]))["confusion"]
    counts, predicted = figure.axes[0].images[0].get_array(), net(x).argmax(1)
    for row in range(3):
        assert counts[row].tolist() == torch.bincount(predicted[true == row], minlength=3).tolist()
    assert figure.get_suptitle() == f"Confusion: {int((predicted == true).sum())} of 40 right"
    assert sum(map(int, texts(figure))) == 40


def test_predicted_against_true():
    net, x, y = torchann.MLP([5, 1]), torch.randn(40, 5), torch.rand(40, 1)
    figure = figures(net, (x, y))["predicted_against_true"]
    assert_close(figure.axes[0].collections[0].get_offsets(), torch.cat([y, net(x).detach()], dim=1))


def test_learned_function_over_the_plane():
    net, x, y = torchann.MLP([2, 4, 1], "tanh", "identity"), torch.randn(40, 2), torch.rand(40, 1)
    image = figures(net, (x, y))["surface"].axes[0].images[0]
    left, right, bottom, top = image.get_extent()
    corner = net(torch.tensor([[right, bottom]])).item()
    assert image.get_array()[0, -1] == pytest.approx(corner, abs=1e-5)
    assert image.get_array().shape == (80, 80)
    assert bottom < x[:, 1].min() < x[:, 1].max() < top
    assert left < x[:, 0].min()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
def test_pictures_of_numbers_that_cannot_be_shown(value):
    net = torchann.MLP([2, 4, 1], "identity")
    with torch.no_grad():
        net.layers[0].weight[0] = value
        net.layers[1].weight.fill_(value)
    for figure in figures(net, (torch.rand(9, 2), torch.rand(9, 1)), image_shape=(1, 2)).values():
        assert pictures.as_image(figure).shape == (380, 500, 3)
