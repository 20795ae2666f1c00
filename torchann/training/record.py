"""What a run leaves in its folder: `config.json`, `metrics.csv`, `summary.json`, `model.pt`, TensorBoard's events."""

from __future__ import annotations

import csv
import itertools
import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from torchann.modules import MLP
from torchann.training.config import Config, ConfigError
from torchann.training.data import Dataset

Row: TypeAlias = dict[str, int | float]  # epoch, train_loss, test_loss, and train_ and test_accuracy or _error


class Record:
    """A run's folder, which no other run shares; use it in a `with` statement.

    Raises:
        ConfigError: the folder can't be made.
    """

    def __init__(self, config: Config, dataset: Dataset) -> None:
        self.config, self.dataset = config, dataset
        self.rows: list[Row] = []
        self.folder = make_folder(config)
        write_json(self.folder / "config.json", config.as_dict())
        self.metrics = (self.folder / "metrics.csv").open("w", newline="")
        self.writer = SummaryWriter(self.folder)
        self.writer.add_text("config", as_table(config.as_text()))
        self.score = "accuracy" if dataset.task == "classification" else "error"
        *self.start, self.end = hparams(as_hparams(config), dict.fromkeys((f"{self.score}/test", "loss/test")))
        self.add_summaries(self.start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.metrics.close()
        self.writer.close()

    def write(self, row: Row, network: MLP) -> None:
        """Add an epoch's figures, weights, and gradients, which are those of its last batch."""
        self.write_metrics(row)
        epoch = int(row["epoch"])
        for key, value in row.items():
            if key != "epoch":
                split, figure = key.split("_")
                self.writer.add_scalar(f"{figure}/{split}", value, epoch)
        for tag, values in tensors_of(network).items():
            self.write_histogram(tag, values, epoch)

    def write_metrics(self, row: Row) -> None:
        table = csv.DictWriter(self.metrics, row)
        if not self.rows:
            table.writeheader()
        table.writerow(row)
        self.metrics.flush()
        self.rows.append(row)

    def write_histogram(self, tag: str, values: Tensor, epoch: int) -> None:
        shown = values[values.abs() < 1e20]  # the others, NaN among them, are outside TensorBoard's last bucket
        if shown.numel():
            self.writer.add_histogram(tag, shown, epoch)

    def finish(self, network: MLP, seconds: float) -> dict[str, Any]:
        """Write the summary and the network; returns the summary."""
        summary = self.summarise(seconds)
        write_json(self.folder / "summary.json", summary)
        torch.save(self.checkpoint(network), self.folder / "model.pt")
        self.add_summaries([self.end])
        return summary

    def summarise(self, seconds: float) -> dict[str, Any]:
        """The figures of the last epoch, and of the best, by the accuracy or error on the test data."""
        key, sign = f"test_{self.score}", -1 if self.score == "accuracy" else 1
        final = {name: value for name, value in self.rows[-1].items() if name != "epoch"}
        return {
            **final,
            "best": min(self.rows, key=lambda row: sign * row[key]),
            "epochs": len(self.rows),
            "seconds": round(seconds, 3),
            "device": str(self.dataset.x_train.device),
            "torch": torch.__version__,
        }

    def checkpoint(self, network: MLP) -> dict[str, Any]:
        """What it takes to use the network on new data, in types that `torch.load(weights_only=True)` takes."""
        return {
            "model": {name: tensor.cpu() for name, tensor in network.state_dict().items()},
            "config": self.config.as_dict(),
            "classes": list(self.dataset.classes),
            "x_standard": as_plain(self.dataset.x_standard),
            "y_standard": as_plain(self.dataset.y_standard),
        }

    def add_summaries(self, summaries: list[Any]) -> None:
        # Not `SummaryWriter.add_hparams`, which puts them into a run of their own, below this one.
        for summary in summaries:
            self.writer._get_file_writer().add_summary(summary)


def make_folder(config: Config) -> Path:
    """A new folder, <logdir>/<date-time>-<name>, with a number behind it where another run has that already."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.run_name}"
    for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(2))):
        folder = Path(config.logdir, name + suffix)
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"--logdir: expected a folder that can be written, got {config.logdir!r} ({error.strerror})"
            ) from error
    return folder


def tensors_of(network: MLP) -> dict[str, Tensor]:
    """Weights, biases and their gradients, by TensorBoard's tag."""
    tensors = {}
    for index, layer in enumerate(network.layers):
        for name, parameter in layer.named_parameters(recurse=False):
            group = {"weight": "weights", "bias": "biases"}[name]
            tensors[f"{group}/layer{index}"] = parameter.detach()
            if parameter.grad is not None:
                tensors[f"gradients/layer{index}.{name}"] = parameter.grad
    return tensors


def as_hparams(config: Config) -> dict[str, Any]:
    return {
        name: getattr(config, name) if isinstance(getattr(config, name), int | float) else text
        for name, text in config.as_text().items()
    }


def as_table(options: dict[str, str]) -> str:
    """A table in Markdown, which TensorBoard renders."""
    return "\n".join(["| option | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in options.items())])


def as_plain(standard: Any) -> dict[str, Tensor] | None:
    return None if standard is None else {name: tensor.cpu() for name, tensor in standard._asdict().items()}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
