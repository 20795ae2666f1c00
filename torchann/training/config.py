"""The options of a training run: each is one field of `Config`, with its default, its help and what it may be.

The command line, `config.json` and what TensorBoard shows are all derived from these fields.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, NamedTuple, NoReturn

import torch

from torchann import activations
from torchann.training.data import SOURCES
from torchann.training.network import LOSSES, OPTIMIZERS

LARGEST = 2**31 - 1


class ConfigError(ValueError):
    """A bad value of an option: the message names the option, what was expected and what came."""


class Kind(NamedTuple):
    """What an option's value may be.

    Args:
        expected: what is valid, in words.
        read: makes the value from the text of the command line; raises ValueError where it can't.
        valid: whether a value is valid.
    """

    expected: str
    read: Callable[[str], Any]
    valid: Callable[[Any], bool]


def choice(names: Collection[str]) -> Kind:
    return Kind(f"one of {listed(names)}", str, lambda value: isinstance(value, str) and value in names)


def listed(names: Collection[str]) -> str:
    return ", ".join(names)


def integer(low: int, high: int) -> Kind:
    return Kind(f"an integer from {low} to {high}", int, lambda value: is_integer(value) and low <= value <= high)


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_positive_number(value: Any) -> bool:
    return (is_integer(value) or isinstance(value, float)) and value > 0 and math.isfinite(value)


def is_widths(value: Any) -> bool:
    return isinstance(value, tuple) and all(is_integer(width) and 1 <= width <= LARGEST for width in value)


def read_widths(text: str) -> tuple[int, ...]:
    return tuple(int(width) for width in text.split(",")) if text.strip() else ()


def is_device(value: Any) -> bool:
    """Whether PyTorch can compute on the device here: a name that parses may be of hardware that is not there."""
    if not isinstance(value, str):
        return False
    try:
        return value == "auto" or torch.zeros(1, device=value).item() == 0
    except (RuntimeError, AssertionError, ImportError):
        return False


def is_file_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 100 and value.isprintable() and not set(value) & set("/\\:")


POSITIVE_NUMBER = Kind("a positive number", float, is_positive_number)
WIDTHS = Kind(f"integers from 1 to {LARGEST} with commas between them, or '' for none", read_widths, is_widths)
DEVICE = Kind("auto, or a device that PyTorch finds here, such as cpu or cuda:0", str, is_device)
FOLDER = Kind("a folder that can be written", str, lambda value: isinstance(value, str) and value != "")
FILE_NAME = Kind(
    "part of a file name: at most 100 printable characters, none of / \\ :",
    str,
    lambda value: value is None or is_file_name(value),
)


def option(default: Any, kind: Kind, help: str) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help})


@dataclass(frozen=True)
class Config:
    """The options of a run; a `Config` that exists is valid.

    Raises:
        ConfigError: a value is not what the option may be.
    """

    data: str = option("digits", choice(SOURCES), f"the data set: {listed(SOURCES)}")
    hidden: tuple[int, ...] = option((128,), WIDTHS, "widths of the hidden layers, such as 64,32; '' for none")
    activation: str = option(
        "sigmoid", choice(activations.TABLE), f"activation of the hidden layers: {listed(activations.TABLE)}"
    )
    loss: str = option("half_squared_error", choice(LOSSES), f"the loss: {listed(LOSSES)}")
    optimizer: str = option("adam", choice(OPTIMIZERS), f"the optimizer: {listed(OPTIMIZERS)}")
    lr: float = option(0.005, POSITIVE_NUMBER, "learning rate")
    epochs: int = option(60, integer(1, LARGEST), "passes over the training data")
    batch_size: int = option(32, integer(1, LARGEST), "samples a step")
    seed: int = option(
        0, integer(0, 2**32 - 1), "what the split, generated data, first weights and order of samples depend on"
    )
    device: str = option("auto", DEVICE, "where to compute; auto is cuda where there is one, else cpu")
    logdir: str = option("runs", FOLDER, "folder of the runs")
    name: str | None = option(None, FILE_NAME, "what the run's folder is called, after its date and time")

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", as_tuple(self.hidden))
        for spec in fields(self):
            if not spec.metadata["kind"].valid(getattr(self, spec.name)):
                raise bad_value(spec, getattr(self, spec.name))
        task = SOURCES[self.data].task
        if task not in LOSSES[self.loss].output:
            suited = ", ".join(name for name, loss in LOSSES.items() if task in loss.output)
            raise ConfigError(f"--loss: expected one for the {task} data of {self.data} ({suited}), got {self.loss!r}")

    @property
    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def run_name(self) -> str:
        return self.name or self.data

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold; `Config(**config.as_dict())` is the same config."""
        return {**asdict(self), "hidden": list(self.hidden)}

    def as_text(self) -> dict[str, str]:
        """Each option as it is written on the command line; those that are None are left out."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return {name: to_text(value) for name, value in values.items() if value is not None}


def parse(arguments: Sequence[str] | None = None) -> Config:
    """The `Config` that a command line asks for.

    Raises:
        ConfigError: a value is bad.

    Example:
        >>> parse(["--data", "iris", "--hidden", "64,32"]).hidden
        (64, 32)
    """
    given = vars(make_parser().parse_args(arguments))
    return Config(**{spec.name: read(spec, given[spec.name]) for spec in fields(Config) if spec.name in given})


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")  # one line, without the usage


def make_parser() -> Parser:
    parser = Parser(
        prog="train.py",
        description="Train an MLP whose gradients were derived by hand, and record the run for TensorBoard.",
        epilog="Each run gets a folder <logdir>/<date-time>-<name> with config.json, metrics.csv, summary.json, "
        "model.pt and TensorBoard's event files.",
        allow_abbrev=False,
    )
    for spec in fields(Config):
        parser.add_argument(
            f"--{spec.name.replace('_', '-')}",
            metavar=spec.name.split("_")[-1].upper(),
            default=argparse.SUPPRESS,
            help=describe(spec),
        )
    return parser


def describe(spec: Field[Any]) -> str:
    default = "that of the data" if spec.default is None else to_text(spec.default)
    return f"{spec.metadata['help']} (default: {default})"


def read(spec: Field[Any], text: str) -> Any:
    try:
        return spec.metadata["kind"].read(text)
    except ValueError:
        raise bad_value(spec, text) from None


def bad_value(spec: Field[Any], value: Any) -> ConfigError:
    shown = to_text(value) if isinstance(value, tuple) else value
    return ConfigError(f"--{spec.name.replace('_', '-')}: expected {spec.metadata['kind'].expected}, got {shown!r}")


def as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def to_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
