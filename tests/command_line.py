"""`train.py`, called from a test, and what a run leaves."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from torchann.training import Config, command

ROOT = Path(__file__).parents[1]


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


def call(capsys, *arguments):
    """`train.py`'s exit status, and what it printed."""
    capsys.readouterr()  # what was printed before
    status = command.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def unmonitored(**options):
    """The options of a run that draws nothing: pictures take ten times as long as training on few samples."""
    return Config(monitor_every=0, **options)


def read_json(path):
    return json.loads(path.read_text("utf-8"), parse_constant=lambda name: pytest.fail(f"{name} is no number of JSON"))


def read_metrics(run):
    with (run.folder / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
