"""Training, against plain PyTorch: seeds, optimizers, activations and losses."""

from itertools import product

import pytest
import torch
from cases import REPRESENTATIVES
from command_line import call_main, read_metrics, unmonitored
from safetensors.torch import load_file
from torch import nn

from torchann.training import Config, train
from torchann.training.choices import OPTIMIZERS
from torchann.training.data import SOURCES, load
from torchann.training.network import make_network


@pytest.mark.parametrize(("loss", "optimizer"), [("half_squared_error", "sgd"), ("cross_entropy", "adam")])
def test_training_is_that_of_plain_pytorch(loss, optimizer, tmp_path):
    config = unmonitored(
        data="wine",
        hidden=(9, 5),
        activation="tanh",
        loss=loss,
        optimizer=optimizer,
        lr=0.02,
        epochs=2,
        batch_size=50,
        seed=4,
        device="cpu",
        logdir=str(tmp_path),
    )
    result = train(config)

    dataset = load("wine", seed=4, device="cpu")
    ours = make_network(config, dataset.inputs, dataset.outputs, dataset.task)
    linears = [nn.Linear(13, 9), nn.Linear(9, 5), nn.Linear(5, 3)]
    for linear, layer in zip(linears, ours.layers, strict=True):
        linear.load_state_dict(layer.state_dict())
    last = nn.Sigmoid() if loss == "half_squared_error" else nn.Identity()
    plain = nn.Sequential(linears[0], nn.Tanh(), linears[1], nn.Tanh(), linears[2], last)
    step = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](plain.parameters(), lr=0.02)
    for epoch in (1, 2):
        total, correct = 0.0, 0
        for x, y in dataset.batches(epoch, 50):
            output = plain(x)
            error = (
                0.5 * (output - y).square().sum() / len(x)
                if loss == "half_squared_error"
                else nn.functional.cross_entropy(output, y.argmax(1))
            )
            step.zero_grad()
            error.backward()
            step.step()
            total += error.item() * len(x)
            correct += (output.argmax(1) == y.argmax(1)).sum().item()
    assert result.summary["train_loss"] == pytest.approx(total / dataset.train_samples, rel=1e-4)
    assert result.summary["train_accuracy"] == pytest.approx(correct / dataset.train_samples)
    for linear, layer in zip(linears, result.network.layers, strict=True):
        torch.testing.assert_close(layer.weight, linear.weight, rtol=1e-4, atol=1e-5)


def test_the_seed_fixes_the_run(tmp_path):
    def figures(seed):
        result = train(unmonitored(data="moons", epochs=2, seed=seed, device="cpu", logdir=str(tmp_path)))
        return (result.folder / "metrics.csv").read_text()

    assert figures(1) == figures(1)
    assert figures(1) != figures(2)


def test_the_seed_fixes_more_than_the_split():
    first, other = (make_network(Config(data="iris", seed=seed), 4, 3, "classification") for seed in (0, 1))
    assert not torch.equal(first.weights[0], other.weights[0])


def test_the_random_numbers_of_the_caller_are_left_alone(tmp_path):
    state = torch.random.get_rng_state()
    train(Config(data="iris", epochs=1, logdir=str(tmp_path)))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("data", "loss", "output"),
    [
        ("iris", "half_squared_error", "sigmoid"),
        ("iris", "cross_entropy", "identity"),
        ("diabetes", "half_squared_error", "identity"),
    ],
)
def test_the_output_suits_the_loss_and_the_data(data, loss, output):
    config = Config(data=data, hidden=(6, 5), activation="relu", loss=loss)
    network = make_network(config, 4, 3, SOURCES[data].task)
    assert [layer.activation.name for layer in network.layers] == ["relu", "relu", output]
    assert [layer.out_features for layer in network.layers[:-1]] == [6, 5]


@pytest.mark.parametrize(
    ("optimizer", "activation"),
    dict.fromkeys([*product(OPTIMIZERS, ["sigmoid"]), *product([Config.optimizer], [*REPRESENTATIVES, "elu:0.5"])]),
)
def test_every_optimizer_and_activation_learns(optimizer, activation, tmp_path):
    options = Config if optimizer == Config.optimizer else unmonitored  # the monitor looks at each activation once
    result = train(
        options(data="iris", activation=activation, optimizer=optimizer, lr=0.02, epochs=2, logdir=str(tmp_path))
    )
    first, last = read_metrics(result)
    assert last["train_loss"] < first["train_loss"]


def test_without_hidden_layers_it_is_one_layer(tmp_path):
    assert call_main("--data", "iris", "--hidden", "", "--epochs", 1, "--logdir", tmp_path) == 0
    (folder,) = tmp_path.iterdir()
    assert set(load_file(folder / "model.safetensors")) == {"layers.0.weight", "layers.0.bias"}
