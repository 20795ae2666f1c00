"""What a run leaves in its folder, on every data set."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from command_line import read_json, read_metrics, unmonitored
from safetensors.torch import load_file
from sklearn.model_selection import train_test_split
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

from torchann.training import Config, Result, train
from torchann.training.config import read_config
from torchann.training.data import SOURCES, Preparation, load
from torchann.training.network import make_network

EPOCHS = 3


@pytest.fixture(scope="module", params=SOURCES)
def run(request, tmp_path_factory) -> Result:
    """A short run on each data set; the seed and the batch size are such that nothing divides evenly."""
    folder = tmp_path_factory.mktemp(request.param)
    return train(Config(data=request.param, hidden=(16,), epochs=EPOCHS, batch_size=19, seed=3, logdir=str(folder)))


def split_raw(name, seed):
    """The raw data, split by the seed: x_train, x_test, y_train, y_test as arrays."""
    task, make = SOURCES[name]
    raw = make(seed)
    stratify = raw.y if task == "classification" else None
    return train_test_split(raw.x, raw.y, test_size=0.2, random_state=seed, stratify=stratify)


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
    result = train(unmonitored(data="iris", epochs=1, logdir=str(tmp_path)))
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
    config = unmonitored(data="iris", epochs=1, name="mine", logdir=str(tmp_path / "new" / "runs"))
    names = [train(config).folder.name for _ in range(3)]
    assert names == ["20250102-030405-mine", "20250102-030405-mine-2", "20250102-030405-mine-3"]
