"""What the monitor writes is what the trace says, and when and where it looks."""

import subprocess
import sys

import pytest
import torch
from monitored import PICTURES, XOR, fit, loss, read, tags, text, unlimited
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import torchann
from torchann import tracing
from torchann.monitor import Monitor
from torchann.monitor.history import MOST_STEPS, History

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


# --- When it looks ----------------------------------------------------------------------------------------------------


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
