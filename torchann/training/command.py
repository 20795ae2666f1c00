"""The command `train.py`. An error is printed as one line, and sets the exit status."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from torchann.console import speak_utf8
from torchann.training.checkpoint import CheckpointError
from torchann.training.config import Parser, parse
from torchann.training.data import DataError
from torchann.training.distributed import is_first_process
from torchann.training.errors import ConfigError, Interrupted, TrainingError, printable
from torchann.training.loop import train
from torchann.training.prediction import evaluate, predict


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit status."""
    speak_utf8()
    try:
        COMMANDS.get(arguments[0] if arguments else "", train_with)(arguments)
    except (ConfigError, DataError, CheckpointError) as error:
        return complain(f"error: {error}", status=2)
    except TrainingError as error:
        return complain(f"error: {error}", status=1)
    except Interrupted as stop:
        return complain(f"{stop}; go on with: python train.py --resume {shlex.quote(str(stop.folder))}", stop.status)
    except KeyboardInterrupt:
        return complain("interrupted", status=130)
    except BrokenPipeError:  # the reader of our output has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def complain(message: str, status: int) -> int:
    """Print one line, from the first process only; returns the status."""
    if is_first_process():
        print(f"train.py: {printable(message)}", file=sys.stderr)
    return status


def train_with(arguments: Sequence[str]) -> None:
    asked = parse(arguments)
    train(asked.config, asked.resume)


def predict_with(arguments: Sequence[str]) -> None:
    parser = parser_of("predict", "Predict the rows of a file, as CSV: one line for each, in order.")
    parser.add_argument("file", metavar="FILE", help="the rows: a table with the columns of the training data, or x")
    parser.add_argument("--out", metavar="FILE", type=Path, help="where to write (default: to the screen)")
    given = parser.parse_args(arguments[1:])
    predict(given.run, given.file, given.out)


def evaluate_with(arguments: Sequence[str]) -> None:
    parser = parser_of("evaluate", "The loss, and the accuracy or the error, of rows whose targets are known.")
    parser.add_argument("file", metavar="FILE", nargs="?", help="the rows (default: the run's own test data)")
    given = parser.parse_args(arguments[1:])
    evaluate(given.run, given.file)


def parser_of(name: str, description: str) -> argparse.ArgumentParser:
    parser = Parser(prog=f"train.py {name}", description=description, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's folder")
    return parser


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"predict": predict_with, "evaluate": evaluate_with}
