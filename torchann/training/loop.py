"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchann.modules import MLP
from torchann.training.config import Config, ConfigError, to_text
from torchann.training.data import Dataset, load
from torchann.training.network import LOSSES, OPTIMIZERS, make_network
from torchann.training.progress import Progress, report
from torchann.training.record import Record, Row


class TrainingError(RuntimeError):
    """Training can't go on."""


class Result(NamedTuple):
    """What a run leaves: its folder, what its `summary.json` holds, and the trained network."""

    folder: Path
    summary: dict[str, Any]
    network: MLP


def train(config: Config) -> Result:
    """Train a network as the config says, show the progress and record the run in a folder of its own.

    Raises:
        ConfigError: the folder can't be written, or there is no memory for a network of that size.
        TrainingError: the loss is no longer a finite number.
    """
    start = time.perf_counter()
    dataset = load(config.data, config.seed, config.torch_device)
    network = build(config, dataset)
    loss = LOSSES[config.loss].function
    optimizer = OPTIMIZERS[config.optimizer](network.parameters(), config.lr)
    shuffler = torch.Generator().manual_seed(config.seed)
    with Record(config, dataset) as record, Progress(config.epochs) as progress:
        for epoch in range(1, config.epochs + 1):
            order = torch.randperm(len(dataset.x_train), generator=shuffler).to(config.torch_device)
            training = train_epoch(network, loss, optimizer, dataset, order.split(config.batch_size))
            row = as_row(epoch, training, evaluate(network, loss, dataset))
            record.write(row, network)
            progress.show(row)
        summary = record.finish(network, seconds=time.perf_counter() - start)
    report(config, record.folder, summary)
    return Result(record.folder, summary, network)


def build(config: Config, dataset: Dataset) -> MLP:
    try:
        return make_network(dataset, config.hidden, config.activation, config.loss, config.seed)
    except (RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--hidden: expected widths that fit in memory, got {to_text(config.hidden)!r} ({reason})"
        ) from error


def train_epoch(
    network: MLP,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    batches: tuple[Tensor, ...],
) -> dict[str, float]:
    """One pass over the training data; the figures are those of each batch before its step.

    Nothing is read back from the device before the last batch.
    """
    meter = Meter(dataset)
    for batch in batches:
        x, y = dataset.x_train[batch], dataset.y_train[batch]
        optimizer.zero_grad(set_to_none=True)
        output = network(x)
        error = loss(output, y)
        error.backward()
        optimizer.step()
        meter.add(error.detach(), output.detach(), y)
    return meter.read()


@torch.no_grad()
def evaluate(network: MLP, loss: Callable[[Tensor, Tensor], Tensor], dataset: Dataset) -> dict[str, float]:
    """The figures of the test data."""
    meter = Meter(dataset)
    output = network(dataset.x_test)
    meter.add(loss(output, dataset.y_test), output, dataset.y_test)
    return meter.read()


class Meter:
    """The mean loss, and the accuracy or the error, of batches; the sums stay on the device until they are read."""

    def __init__(self, dataset: Dataset) -> None:
        self.y_standard = dataset.y_standard
        self.sums = torch.zeros(2, device=dataset.x_train.device)
        self.samples = 0

    def add(self, loss: Tensor, output: Tensor, y: Tensor) -> None:
        if self.y_standard is None:
            score = (output.argmax(dim=1) == y.argmax(dim=1)).sum()
        else:
            score = ((output - y) * self.y_standard.scale).square().mean(dim=1).sum()
        self.sums += torch.stack([loss * len(y), score])
        self.samples += len(y)

    def read(self) -> dict[str, float]:
        """`loss`, and `accuracy` or `error`: the root mean square error in the target's own units."""
        loss, score = (total / self.samples for total in self.sums.tolist())
        return {"loss": loss, "accuracy": score} if self.y_standard is None else {"loss": loss, "error": score**0.5}


def as_row(epoch: int, training: dict[str, float], test: dict[str, float]) -> Row:
    row: Row = {"epoch": epoch}
    for figure in training:
        row[f"train_{figure}"], row[f"test_{figure}"] = training[figure], test[figure]
    if not all(map(math.isfinite, row.values())):
        raise TrainingError(f"the loss is no longer finite in epoch {epoch}; a lower --lr may help")
    return row
