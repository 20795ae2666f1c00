"""The options of a run: from the command line, from a file and in code; what is wrong with them is one line."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from command_line import call_main, unmonitored

import torchann
from torchann.training import Config, ConfigError, parse, train
from torchann.training.choices import LOSSES, OPTIMIZERS
from torchann.training.config import read_config
from torchann.training.data import SOURCES

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
    first = train(unmonitored(data="iris", hidden=(5,), epochs=2, seed=3, device="cpu", logdir=str(tmp_path)))
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
    ("--activation", "leaky_relu:steep", "such as leaky_relu:0.2"),
    ("--activation", "softplus:0", "such as leaky_relu:0.2"),
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
