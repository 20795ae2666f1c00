"""`train.py` and `torchann.training`: short runs on every data set, and what each leaves behind."""

import csv
import importlib.util
import io
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.model_selection import train_test_split
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray
from torch import nn

import torchann
from torchann.training import Config, ConfigError, Result, parse, train
from torchann.training.choices import LOSSES, OPTIMIZERS
from torchann.training.config import read_config
from torchann.training.data import SOURCES, Preparation, load
from torchann.training.network import make_network

ROOT = Path(__file__).parents[1]
EPOCHS = 3


def load_script():
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def call_main(*arguments):
    """The exit status of `train.py` called with these arguments."""
    try:
        return load_script().main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


@pytest.fixture(scope="module", params=SOURCES)
def run(request, tmp_path_factory) -> Result:
    """A short run on each data set; the seed and the batch size are such that nothing divides evenly."""
    folder = tmp_path_factory.mktemp(request.param)
    return train(Config(data=request.param, hidden=(16,), epochs=EPOCHS, batch_size=19, seed=3, logdir=str(folder)))


def read_json(path):
    return json.loads(path.read_text("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is no number of JSON"))


def read_metrics(run):
    with (run.folder / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def split_raw(name, seed):
    """The raw data, split by the seed: x_train, x_test, y_train, y_test as arrays."""
    task, make = SOURCES[name]
    raw = make(seed)
    stratify = raw.y if task == "classification" else None
    return train_test_split(raw.x, raw.y, test_size=0.2, random_state=seed, stratify=stratify)


# What a run leaves.


def test_the_folder_holds_the_files(run):
    names = sorted(path.name for path in run.folder.iterdir())
    events = [name for name in names if name.startswith("events.out.tfevents.")]
    assert len(events) == 1
    files = {"config.json", "preparation.json", "metrics.csv", "model.safetensors", "summary.json", "checkpoints"}
    assert set(names) - set(events) == files
    assert {"last.pt", "best.pt"} <= {path.name for path in (run.folder / "checkpoints").iterdir()}


def test_training_lowers_the_loss(run):
    losses = [row["train_loss"] for row in read_metrics(run)]
    assert losses[-1] < losses[0]


def test_summary_agrees_with_metrics(run):
    rows, summary = read_metrics(run), read_json(run.folder / "summary.json")
    assert summary == run.summary
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert {key: summary[key] for key in rows[-1] if key != "epoch"} == {
        key: value for key, value in rows[-1].items() if key != "epoch"
    }
    key, best_of = ("test_accuracy", max) if "test_accuracy" in summary else ("test_error", min)
    assert summary["best"] in rows
    assert summary["best"][key] == best_of(row[key] for row in rows)
    assert (summary["epochs"], summary["device"], summary["torch"]) == (EPOCHS, expected_device(), torch.__version__)
    assert summary["seconds"] > 0


def expected_device():
    return "cuda:0" if torch.cuda.is_available() else "cpu"


def test_config_json_is_the_config(run):
    config = read_json(run.folder / "config.json")
    again = Config(**config)
    assert again.as_dict() == config
    assert (again.hidden, again.epochs, again.seed) == ((16,), EPOCHS, 3)
    assert list(config) == [field.name for field in fields(Config)]


def test_model_reproduces_the_figures_from_raw_data(run):
    """From the folder alone, in plain PyTorch and in the target's own units."""
    config = read_config(run.folder / "config.json")
    learned = Preparation.from_dict(read_json(run.folder / "preparation.json"))
    state = list(load_file(run.folder / "model.safetensors").values())
    biases, weights = ([tensor for tensor in state if tensor.dim() == dim] for dim in (1, 2))
    x_train, x, y_train, y = split_raw(config.data, config.seed)
    mean, std = x_train.mean(axis=0), x_train.std(axis=0)
    std[x_train.min(axis=0) == x_train.max(axis=0)] = 1
    x = torch.from_numpy((x - mean) / std).float()
    output = torch.sigmoid(x @ weights[0].T + biases[0]) @ weights[1].T + biases[1]  # a sigmoid has the same argmax
    if SOURCES[config.data].task == "classification":
        assert len(learned.classes) == output.shape[1]
        assert (output.argmax(1).numpy() == y).mean() == pytest.approx(run.summary["test_accuracy"], abs=1e-9)
    else:
        values = output[:, 0].numpy() * y_train.std() + y_train.mean()
        assert np.sqrt(np.mean((values - y) ** 2)) == pytest.approx(run.summary["test_error"], rel=1e-4)
        assert run.summary["test_error"] < y.std() * 1.1


def test_the_best_network_is_that_of_the_best_epoch(run):
    best = torch.load(run.folder / "checkpoints" / "best.pt", weights_only=True)
    config, dataset = Config(**best["config"]), load_for(Config(**best["config"]))
    network = make_network(config, dataset.inputs, dataset.outputs, dataset.task)
    network.load_state_dict(best["network"])
    if dataset.task == "classification":
        correct = sum(int((network(x).argmax(1) == y.argmax(1)).sum()) for x, y in dataset.test_batches())
        assert correct / dataset.test_samples == pytest.approx(run.summary["best"]["test_accuracy"])


def load_for(config):
    return load(config.data, seed=config.seed, device="cpu")


def test_tensorboard_reads_the_events(run):
    events = EventMultiplexer().AddRunsFromDirectory(str(run.folder.parent)).Reload()
    assert list(events.Runs()) == [run.folder.name]  # no run of its own for the hyperparameters
    figure = "accuracy" if "test_accuracy" in run.summary else "error"
    tags = {f"{figure}/train", f"{figure}/test", "loss/train", "loss/test"}
    assert tags <= set(events.Runs()[run.folder.name]["tensors"])
    rows = read_metrics(run)
    for tag in tags:
        name, split = tag.split("/")
        shown = [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors(run.folder.name, tag)]
        assert [step for step, _ in shown] == [row["epoch"] * steps_per_epoch(run) for row in rows]
        np.testing.assert_allclose([value for _, value in shown], [row[f"{split}_{name}"] for row in rows], rtol=1e-6)


def steps_per_epoch(run):
    config = read_config(run.folder / "config.json")
    return math.ceil(load_for(config).train_samples / config.batch_size)


def test_tensorboard_reads_what_the_monitor_saw(run):
    """Its own tests say that it is right; here, that it saw this network's first step and its last."""
    events = EventMultiplexer().AddRunsFromDirectory(str(run.folder.parent)).Reload()
    name, last = run.folder.name, EPOCHS * steps_per_epoch(run)
    for tag in ("monitor/error", "monitor/mean_delta/layers.0", "monitor/weights/layers.1", "monitor/delta/layers.0"):
        steps = [event.step for event in events.Tensors(name, tag)]
        assert (steps[0], steps[-1]) == (1, last)
    for layer, parameters in enumerate(run.network.layers):
        for tag, parameter in (("weights", parameters.weight), ("biases", parameters.bias)):
            # From, to and count of each bucket.
            buckets = make_ndarray(events.Tensors(name, f"monitor/{tag}/layers.{layer}")[-1].tensor_proto)
            assert buckets[:, 2].sum() == pytest.approx(parameter.numel())
            assert buckets[0, 0] <= parameter.min() <= buckets[0, 1]
            assert buckets[-1, 0] <= parameter.max() <= buckets[-1, 1]
    pictures = {"network/weights", "network/error", "neurons/error", "neurons/saturation"}
    data = read_json(run.folder / "config.json")["data"]
    pictures |= {"confusion"} if SOURCES[data].task == "classification" else {"predicted_against_true"}
    pictures |= {"first_layer"} if data == "digits" else set()
    pictures |= {"decision_surface"} if data in ("moons", "circles", "spirals", "xor") else set()
    shown = {tag.removeprefix("monitor/") for tag in events.PluginRunToTagToContent("images")[name]}
    assert shown == pictures
    assert "monitor/worked_example/text_summary" in events.PluginRunToTagToContent("text")[name]


def test_a_run_that_is_not_monitored(tmp_path):
    result = train(Config(data="iris", epochs=1, monitor_every=0, logdir=str(tmp_path)))
    events = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    assert not [tag for tag in events.Runs()[result.folder.name]["tensors"] if "monitor" in tag]


def test_tensorboard_reads_the_config_and_the_hyperparameters(run):
    events = EventMultiplexer().AddRunsFromDirectory(str(run.folder.parent)).Reload()
    data = read_json(run.folder / "config.json")["data"]
    (text,) = events.Tensors(run.folder.name, "config/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert f"| data | {data} |" in shown
    assert "| hidden | 16 |" in shown
    contents = events.PluginRunToTagToContent(metadata.PLUGIN_NAME)[run.folder.name]
    started = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    assert started.hparams["data"].string_value == data
    assert started.hparams["lr"].number_value == Config.lr
    experiment = metadata.parse_experiment_plugin_data(contents[metadata.EXPERIMENT_TAG])
    metrics = {metric.name.tag for metric in experiment.metric_infos}
    assert metrics & {"accuracy/test", "error/test"}
    assert metrics <= set(events.Runs()[run.folder.name]["tensors"])
    assert metadata.SESSION_END_INFO_TAG in contents


def test_weights_too_large_for_a_histogram_are_no_obstacle(tmp_path):
    # The loss stays finite, as the sigmoid saturates.
    result = train(Config(data="iris", optimizer="sgd", lr=1e25, epochs=2, logdir=str(tmp_path)))
    assert result.network.weights[0].abs().max() > 1e20
    assert (result.folder / "summary.json").exists()


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("torchann.training.record.time.strftime", lambda form: "20250102-030405")
    config = Config(data="iris", epochs=1, name="mine", logdir=str(tmp_path / "new" / "runs"))
    names = [train(config).folder.name for _ in range(3)]
    assert names == ["20250102-030405-mine", "20250102-030405-mine-2", "20250102-030405-mine-3"]


# Training.


@pytest.mark.parametrize(("loss", "optimizer"), [("half_squared_error", "sgd"), ("cross_entropy", "adam")])
def test_training_is_that_of_plain_pytorch(loss, optimizer, tmp_path):
    config = Config(
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
        result = train(Config(data="moons", epochs=2, seed=seed, device="cpu", logdir=str(tmp_path)))
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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", torchann.activations.TABLE)
def test_every_optimizer_and_activation_learns(optimizer, activation, tmp_path):
    result = train(
        Config(data="iris", activation=activation, optimizer=optimizer, lr=0.02, epochs=2, logdir=str(tmp_path))
    )
    first, last = read_metrics(result)
    assert last["train_loss"] < first["train_loss"]


def test_without_hidden_layers_it_is_one_layer(tmp_path):
    assert call_main("--data", "iris", "--hidden", "", "--epochs", 1, "--logdir", tmp_path) == 0
    (folder,) = tmp_path.iterdir()
    assert set(load_file(folder / "model.safetensors")) == {"layers.0.weight", "layers.0.bias"}


# The command line.


EVERY_OPTION = Config(
    data="wine.csv", target="kind", task="classification", missing="mean", stream=True, hidden=(64, 32), activation="tanh",
    loss="cross_entropy", optimizer="sgd", lr=0.1, epochs=2, batch_size=8, seed=7, dtype="float64", schedule="cosine",
    warmup=5, clip=1.5, accumulate=3, patience=4, amp="bf16", compile=True, cuda_graph=True, save_every=2.5, monitor_every=7, monitor_budget=0.5, device="cpu",
    logdir="there", name="mine",
)  # fmt: skip


def test_each_option_reaches_the_config():
    differing = [
        field.name for field in fields(Config) if getattr(EVERY_OPTION, field.name) == getattr(Config(), field.name)
    ]
    assert differing == []  # an option that keeps its default would prove nothing
    arguments = []
    for name, text in EVERY_OPTION.as_text().items():
        flag = f"--{name.replace('_', '-')}"
        arguments += [flag] if text == "True" else [flag, text]
    assert parse(arguments) == (EVERY_OPTION, None)
    assert parse([]) == (Config(), None)


def test_a_config_file_holds_every_option(tmp_path):
    as_toml, as_json = tmp_path / "run.toml", tmp_path / "config.json"
    as_json.write_text(json.dumps(EVERY_OPTION.as_dict()))
    as_toml.write_text(
        "\n".join(f"{name.replace('_', '-')} = {json.dumps(value)}" for name, value in EVERY_OPTION.as_dict().items())
    )
    for path in (as_toml, as_json):
        assert read_config(path) == EVERY_OPTION
        assert parse(["--config", str(path)]).config == EVERY_OPTION
    over = parse(["--lr", "0.25", "--config", str(as_toml), "--hidden", "3"]).config
    assert over.as_dict() == {**EVERY_OPTION.as_dict(), "lr": 0.25, "hidden": [3]}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("lr = ", "expected TOML"),
        ("lr = 0", "--lr: expected a positive number, got 0"),
        ("lr = 1" + 400 * "0", "--lr: expected a positive number, got 1" + 400 * "0"),
        ("learning_rate = 0.1", "learning_rate: unknown option; known: data, target, task, missing, stream, hidden"),
        ("lr = 'fast'", "--lr: expected a positive number, got 'fast'"),
        ("compile = 1", "--compile: expected true or false, got 1"),
        (None, "No such file"),
    ],
)
def test_a_bad_config_file_is_one_line_that_names_it(content, expected, tmp_path, capsys):
    path = tmp_path / "bad.toml"
    if content is not None:
        path.write_text(content)
    assert call_main("--config", path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"train.py: error: {path}: ")
    assert expected in line


def test_what_the_command_line_gets_wrong_is_not_the_files(tmp_path, capsys):
    path = tmp_path / "good.toml"
    path.write_text("lr = 1")
    assert call_main("--config", path, "--lr", "-1") == 2
    assert capsys.readouterr().err == "train.py: error: --lr: expected a positive number, got -1.0\n"


def test_a_runs_config_repeats_it(tmp_path):
    first = train(Config(data="iris", hidden=(5,), epochs=2, seed=3, device="cpu", logdir=str(tmp_path)))
    again = train(read_config(first.folder / "config.json"))
    assert again.folder != first.folder
    assert (again.folder / "metrics.csv").read_text() == (first.folder / "metrics.csv").read_text()


def test_help_shows_each_option_with_its_default(capsys):
    assert call_main("--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, default in Config().as_text().items():
        if default == "False":
            continue  # a flag
        section = shown[shown.index(f"--{name.replace('_', '-')} ", shown.index("options:")) :]
        assert section[section.index("(default: ") :].startswith(f"(default: {default})")
    for name in (*SOURCES, *LOSSES, *OPTIMIZERS, *torchann.activations.TABLE):
        assert name in shown


BAD_VALUES = [
    ("--data", "mnist", "digits"),
    ("--activation", "swish", "sigmoid"),
    ("--loss", "hinge", "half_squared_error"),
    ("--optimizer", "lion", "adam"),
    ("--device", "abacus", "cpu"),
    ("--device", "meta", "cpu"),
    ("--device", "cuda:99", "cpu"),
    ("--lr", "0", "positive"),
    ("--lr", "-0.1", "positive"),
    ("--lr", "nan", "positive"),
    ("--lr", "inf", "positive"),
    ("--lr", "fast", "positive"),
    ("--monitor-every", "-1", "integer"),
    ("--monitor-budget", "0", "at most 1"),
    ("--monitor-budget", "1.5", "at most 1"),
    ("--epochs", "0", "integer"),
    ("--epochs", "1.5", "integer"),
    ("--batch-size", "0", "integer"),
    ("--batch-size", "-4", "integer"),
    ("--batch-size", "1" + "0" * 30, "integer"),
    ("--seed", "-1", "integer"),
    ("--seed", "4294967296", "integer"),
    ("--hidden", "64,,32", "commas"),
    ("--hidden", "64,a", "commas"),
    ("--hidden", "64,0", "commas"),
    ("--hidden", "-3", "commas"),
    ("--hidden", "1" + "0" * 30, "commas"),
    ("--hidden", "2000000000,2000000000", "memory"),
    ("--name", "a/b", "file name"),
    ("--name", "a\\b", "file name"),
    ("--name", "a\nb", "file name"),
    ("--name", "", "file name"),
    ("--name", "x" * 101, "file name"),
    ("--logdir", "", "folder"),
    ("--logdir", str(Path(__file__) / "runs"), "folder"),  # below a file
]


@pytest.mark.parametrize(("option", "value", "expected"), BAD_VALUES)
def test_a_bad_value_is_one_line_and_status_2(option, value, expected, tmp_path, capsys):
    logdir = [] if option == "--logdir" else ["--logdir", tmp_path]
    assert call_main("--data", "iris", "--epochs", 1, *logdir, option, value) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith(f"train.py: error: {option}: expected")
    assert expected in line.split(", got ")[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data", "diabetes", "--loss", "cross_entropy"], "--loss"),
        (["--lr"], "--lr"),
        (["--learning-rate", "1"], "--learning-rate"),
        (["digits"], "digits"),
    ],
)
def test_a_bad_command_line_is_one_line_and_status_2(arguments, named, capsys):
    assert call_main(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: error: ")
    assert named in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_is_refused_where_there_is_none(capsys):
    assert call_main("--device", "cuda") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: error: --device: ")


def test_a_config_in_code_is_checked_as_well():
    for bad in (
        {"lr": "0.1"},
        {"epochs": True},
        {"hidden": "64"},
        {"hidden": (2.0,)},
        {"data": ["iris"]},
        {"compile": "yes"},
        {"seed": None},
    ):
        (name,) = bad
        with pytest.raises(ConfigError, match=f"--{name}: expected"):
            Config(**bad)


def test_a_loss_that_is_not_finite_stops_the_run_with_one_line(tmp_path, capsys):
    arguments = ("--data", "diabetes", "--optimizer", "sgd", "--lr", "1e30", "--logdir", tmp_path)
    assert call_main(*arguments) == 1
    *warnings, line = capsys.readouterr().err.splitlines()
    assert all(warning.startswith("monitor: step 1: ") for warning in warnings)
    assert "finite" in line
    assert "--lr" in line


def test_the_output_ends_with_where_everything_is(tmp_path, capsys):
    logdir = tmp_path / "my runs"
    assert call_main("--data", "iris", "--epochs", 2, "--logdir", logdir) == 0
    lines = capsys.readouterr().out.splitlines()
    (folder,) = logdir.iterdir()
    summary = read_json(folder / "summary.json")
    assert [line.split("  ")[0] for line in lines[:2]] == ["epoch 1/2", "epoch 2/2"]
    assert lines[1].split("  ", 1)[1] == lines[2].split(maxsplit=1)[1]  # the final figures are those of the last epoch
    assert f"test {summary['test_accuracy']:.1%}" in lines[2]
    assert lines[-2].split(maxsplit=1) == ["run", str(folder)]
    assert lines[-1] == f"tensorboard --logdir '{logdir}'"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_no_lines(tmp_path, monkeypatch):
    out, err = Terminal(), Terminal()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    train(Config(data="iris", epochs=2, logdir=str(tmp_path)))
    assert "epoch 1/2" not in out.getvalue()
    assert "2/2" in err.getvalue()
    assert "loss" in err.getvalue()


# The command itself, in a process of its own.


def command(*arguments):
    return [sys.executable, str(ROOT / "train.py"), *map(str, arguments)]


def test_a_bad_value_leaves_no_traceback():
    done = subprocess.run(command("--lr", "-1"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "train.py: error: --lr: expected a positive number, got -1.0\n"


def test_an_interrupt_is_one_line_and_status_130(tmp_path):
    arguments = command("--data", "iris", "--epochs", 10**6, "--logdir", tmp_path)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("epoch")  # it trains
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    (folder,) = tmp_path.iterdir()
    assert process.returncode == 130
    assert errors.splitlines()[-1].endswith(f"go on with: python train.py --resume {folder}")


@pytest.mark.parametrize("package", ["sklearn", "tensorboard", "tqdm", "safetensors"])
def test_a_missing_package_is_one_line(package):
    program = f"import runpy, sys; sys.modules[{package!r}] = None; runpy.run_path('train.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert {"sklearn": "scikit-learn"}.get(package, package) in line
    assert "pip install 'torchann[train]'" in line


@pytest.mark.slow
def test_the_defaults_reach_96_percent_within_a_minute(tmp_path):
    before = os.times()
    done = subprocess.run(command(), cwd=tmp_path, capture_output=True, text=True)
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "tensorboard --logdir runs"
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-digits")
    assert read_json(folder / "summary.json")["test_accuracy"] >= 0.96
    # Processor time, which others on the machine don't lengthen much.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 60
