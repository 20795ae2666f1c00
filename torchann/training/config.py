"""The options of a training run. Each is one field of `Config`, with its default, its help text and its valid values.

The command line, config files, `config.json` and the table in TensorBoard are all derived from these fields.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Collection, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch

from torchann import activations
from torchann.training.choices import LOSSES, OPTIMIZERS
from torchann.training.data import MISSING, SOURCES, TASKS, Dataset, load
from torchann.training.errors import ConfigError, printable

LARGEST = 2**31 - 1
LONGEST_NAME = 100


class Kind(NamedTuple):
    """The valid values of an option.

    Args:
        expected: describes them, for error messages.
        read: converts the text of the command line to a value; raises ValueError if it can't.
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
    return (is_integer(value) or isinstance(value, float)) and 0 < value <= sys.float_info.max


def is_widths(value: Any) -> bool:
    return isinstance(value, tuple) and all(is_integer(width) and 1 <= width <= LARGEST for width in value)


def or_none(kind: Kind) -> Kind:
    return kind._replace(valid=lambda value: value is None or kind.valid(value))


def read_widths(text: str) -> tuple[int, ...]:
    return tuple(int(width) for width in text.split(",")) if text.strip() else ()


def is_device(value: Any) -> bool:
    """Whether PyTorch can compute on the device. Parsing the name is not enough: the hardware may be missing."""
    if not isinstance(value, str):
        return False
    try:
        return value == "auto" or torch.zeros(1, device=value).item() == 0
    except (RuntimeError, AssertionError, ImportError):
        return False


def is_file_name(value: Any) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_NAME
        and value.isprintable()
        and not set(value) & set("/\\:")
    )


def is_activation(value: Any) -> bool:
    """Whether it is a name of the table, or that of a family with valid parameters."""
    try:
        return isinstance(value, str) and bool(activations.get(value))
    except ValueError:
        return False


FLAG = Kind("true or false", bool, lambda value: isinstance(value, bool))
POSITIVE_NUMBER = Kind("a positive number", float, is_positive_number)
SHARE = Kind("a number above 0, at most 1", float, lambda value: is_positive_number(value) and value <= 1)
WIDTHS = Kind(f"integers from 1 to {LARGEST} with commas between them, or '' for none", read_widths, is_widths)
ACTIVATION = Kind(
    f"one of {listed(activations.TABLE)}, or one with parameters, such as leaky_relu:0.2", str, is_activation
)
DEVICE = Kind("auto, or a device that PyTorch finds here, such as cpu or cuda:0", str, is_device)
FOLDER = Kind("a folder that can be written", str, lambda value: isinstance(value, str) and value != "")
DATA = Kind("a data set's name, or a file", str, lambda value: isinstance(value, str) and value != "")
COLUMN = Kind("the name of a column", str, lambda value: value is None or (isinstance(value, str) and value != ""))
FILE_NAME = Kind(
    f"part of a file name: at most {LONGEST_NAME} printable characters, none of / \\ :",
    str,
    lambda value: value is None or is_file_name(value),
)


def option(default: Any, kind: Kind, help: str) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help})


@dataclass(frozen=True)
class Config:
    """The options of a run, all of them valid.

    Raises:
        ConfigError: a value is not valid for its option.
    """

    data: str = option(
        "digits",
        DATA,
        f"the data set, {listed(SOURCES)}; or a file: .csv, .tsv, .parquet, .npz, .pt, .safetensors, IDX (see "
        "docs/data.md)",
    )
    target: str | None = option(None, COLUMN, "the column of a table that is predicted")
    task: str = option("auto", choice(TASKS), "auto goes by the target's type")
    missing: str = option("error", choice(MISSING), "what becomes of rows that lack a value; mean puts the column's")
    stream: bool = option(False, FLAG, "leave a table on disk; one of more than a GiB is left there anyway")
    hidden: tuple[int, ...] = option((128,), WIDTHS, "widths of the hidden layers, such as 64,32; '' for none")
    activation: str = option(
        "sigmoid",
        ACTIVATION,
        f"activation of the hidden layers, also with parameters, such as leaky_relu:0.2: {listed(activations.TABLE)}",
    )
    loss: str = option("half_squared_error", choice(LOSSES), f"the loss: {listed(LOSSES)}")
    optimizer: str = option("adam", choice(OPTIMIZERS), f"the optimizer: {listed(OPTIMIZERS)}")
    lr: float = option(0.005, POSITIVE_NUMBER, "learning rate")
    epochs: int = option(60, integer(1, LARGEST), "passes over the training data")
    batch_size: int = option(32, integer(1, LARGEST), "samples a batch, on all processes together")
    seed: int = option(
        0, integer(0, 2**32 - 1), "what the split, generated data, first weights and order of samples depend on"
    )
    dtype: str = option("float32", choice(("float32", "float64")), "of the parameters")
    schedule: str = option(
        "constant", choice(("constant", "cosine")), "how the learning rate goes on after the warm-up"
    )
    warmup: int = option(0, integer(0, LARGEST), "steps over which the learning rate rises from 0")
    clip: float | None = option(None, or_none(POSITIVE_NUMBER), "largest norm of all gradients together")
    accumulate: int = option(1, integer(1, LARGEST), "batches whose gradients make a step")
    patience: int | None = option(None, or_none(integer(1, LARGEST)), "epochs without a better test figure, then stop")
    amp: str = option("off", choice(("off", "bf16", "fp16")), "mixed precision, for a dtype of float32")
    compile: bool = option(False, FLAG, "run the network through torch.compile")
    cuda_graph: bool = option(False, FLAG, "capture the training step as a CUDA graph")
    save_every: float = option(
        10.0, POSITIVE_NUMBER, "least seconds between two checkpoints; one comes at the end anyway"
    )
    monitor_every: int = option(
        100, integer(0, LARGEST), "fewest steps between two looks at the backward pass, for TensorBoard; 0: none"
    )
    monitor_budget: float = option(0.03, SHARE, "the most that these looks may take, as a part of the training time")
    device: str = option("auto", DEVICE, "where to compute; auto is cuda where there is one, else cpu")
    logdir: str = option("runs", FOLDER, "folder of the runs")
    name: str | None = option(None, FILE_NAME, "what the run's folder is called, after its date and time")

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", as_tuple(self.hidden))
        for spec in fields(self):
            if not spec.metadata["kind"].valid(getattr(self, spec.name)):
                raise bad_value(spec, getattr(self, spec.name))

    @property
    def torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def load_data(self, device: torch.device) -> Dataset:
        """Load the data set that the options describe, onto the device.

        Raises:
            DataError: bad data.
        """
        return load(
            self.data,
            seed=self.seed,
            device=device,
            dtype=self.torch_dtype,
            target=self.target,
            task=self.task,
            missing=self.missing,
            stream=self.stream,
        )

    @property
    def run_name(self) -> str:
        return self.name or Path(self.data).name.split(".")[0][:LONGEST_NAME] or "data"

    def as_dict(self) -> dict[str, Any]:
        """The options as JSON values; `Config(**config.as_dict())` is the same config."""
        return {**asdict(self), "hidden": list(self.hidden)}

    def as_text(self) -> dict[str, str]:
        """Each option as text for the command line; options that are None are left out."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return {name: to_text(value) for name, value in values.items() if value is not None}


class Command(NamedTuple):
    """A parsed command line: the options, and the folder of the run to resume; None for a new run."""

    config: Config
    resume: Path | None = None


def parse(arguments: Sequence[str] | None = None) -> Command:
    """Parse the command line. Its options override those of the file `--config`.

    Raises:
        ConfigError: a value on the command line or in the config file is not valid.

    Example:
        >>> parse(["--data", "iris", "--hidden", "64,32"]).config.hidden
        (64, 32)
    """
    given = vars(make_parser().parse_args(arguments))
    config_file, resume = given.pop("config", None), given.pop("resume", None)
    by_name = {spec.name: spec for spec in fields(Config)}
    options = {name: read(by_name[name], value) for name, value in given.items()}
    if resume is not None:
        if options or config_file:
            raise ConfigError(
                f"--resume: expected no other options, as the run has its own, got {next(iter(given), 'config')}"
            )
        return Command(read_config(Path(resume, "config.json")), Path(resume))
    return Command(read_config(Path(config_file), options) if config_file else Config(**options))


def read_config(path: Path, options: dict[str, Any] | None = None) -> Config:
    """The `Config` in a TOML file or in a run's `config.json`; `options` override the file.

    Raises:
        ConfigError: names the file and, if a value is not valid, the option.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        if not isinstance(content, dict):
            raise ValueError("no table of options")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected {'JSON' if path.suffix == '.json' else 'TOML'} ({error})") from error
    Config(**(options or {}))  # an invalid option of the command line raises here, without the file's name
    content = {name.replace("-", "_"): value for name, value in content.items()}
    known = [spec.name for spec in fields(Config)]
    for name in content:
        if name not in known:
            raise ConfigError(f"{path}: {name}: unknown option; known: {listed(known)}")
    try:
        return Config(**{**content, **(options or {})})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")  # one line, without the usage


def make_parser() -> Parser:
    parser = Parser(
        prog="train.py",
        description="Train an MLP whose gradients were derived by hand, and record the run for TensorBoard. "
        "To use one: train.py predict RUN FILE, train.py evaluate RUN [FILE].",
        epilog="Each run gets a folder <logdir>/<date-time>-<name> with config.json, metrics.csv, summary.json, "
        "checkpoints, model.safetensors and TensorBoard's event files.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS, help="options from a TOML file, or a run's config.json"
    )
    parser.add_argument("--resume", metavar="RUN", default=argparse.SUPPRESS, help="go on with the run in that folder")
    for spec in fields(Config):
        flag = f"--{spec.name.replace('_', '-')}"
        if spec.metadata["kind"] is FLAG:
            parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=spec.metadata["help"])
        else:
            metavar = spec.name.split("_")[-1].upper()
            parser.add_argument(flag, metavar=metavar, default=argparse.SUPPRESS, help=describe(spec))
    return parser


def describe(spec: Field[Any]) -> str:
    default = {"name": "that of the data"}.get(spec.name, "none") if spec.default is None else to_text(spec.default)
    return f"{spec.metadata['help']} (default: {default})"


def read(spec: Field[Any], text: Any) -> Any:
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
