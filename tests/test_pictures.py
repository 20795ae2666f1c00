"""The monitor's drawings hold the data."""

import numpy as np
import pytest
import torch
from monitored import XOR, loss, with_weights
from torch import nn

import torchann
from torchann.monitor import Monitor, pictures
from torchann.monitor.history import History
from torchann.monitor.sample import classes_of


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
