"""The training loop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchann.modules import MLP
from torchann.training import checkpoint
from torchann.training.config import Config
from torchann.training.distributed import ProcessGroup
from torchann.training.errors import Interrupted, TrainingError
from torchann.training.interruption import Interruption
from torchann.training.meter import Meter
from torchann.training.monitoring import monitored
from torchann.training.progress import Progress, report
from torchann.training.record import Record, Row
from torchann.training.step import Trainer

# Options that the user may change in config.json before the run is resumed.
CHANGEABLE = {
    "epochs", "patience", "save_every", "monitor_every", "monitor_budget", "device", "logdir", "name", "compile",
    "cuda_graph",
}  # fmt: skip
PENDING = 64  # the meter sums up after so many batches
SMALL_PRODUCT = 1 << 22  # multiplications: below that, waking a second thread takes longer than it saves


class Result(NamedTuple):
    """The result of a run: its folder, the content of its `summary.json`, and the trained network."""

    folder: Path
    summary: dict[str, Any]
    network: MLP


def train(config: Config, resume: Path | None = None) -> Result:
    """Train a network by the options in `config`, show the progress, and record the run in a new folder.

    A resumed run ends with bitwise the same results as if it had never been stopped.

    Args:
        config: the options.
        resume: the folder of a run to resume; None for a new run.

    Returns:
        The run's folder, its summary and the trained network.

    Raises:
        ConfigError, DataError, CheckpointError: invalid options, bad data, or a run that can't be resumed.
        TrainingError: the loss is no longer finite.
        Interrupted: a signal stopped the run; it is saved.
    """
    with ProcessGroup(config.torch_device) as processes:
        return train_in(processes, config, resume)


def train_in(processes: ProcessGroup, config: Config, resume: Path | None) -> Result:
    """The work of each process. On return, nothing refers to the process group, so that its threads can end."""
    trainer = Trainer(config, config.load_data(processes.device), processes)
    with Record(config, trainer.dataset, processes, resume) as record, Interruption() as interruption:
        run = Run(trainer, record, interruption)
        if resume is None:
            run.save()  # so that a folder that can't be written to raises before training
        else:
            checkpoint.load(record.checkpoints, check=run.load_state_dict)
            if run.is_finished and record.is_complete:
                return run.say_that_it_has_ended()
            record.rewrite(run.rows, trainer.steps)
        with few_threads(trainer):
            return run.train()


@contextmanager
def few_threads(trainer: Trainer) -> Iterator[None]:
    """Use one thread if the matrix products are small: waking other threads would take longer than such a product."""
    before = torch.get_num_threads()
    largest = max(weight.numel() for weight in trainer.network.weights)
    if trainer.config.batch_size * largest < SMALL_PRODUCT and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Run:
    """A training run: epochs, checkpoints, and when to stop."""

    def __init__(self, trainer: Trainer, record: Record, interruption: Interruption) -> None:
        self.trainer, self.record, self.interruption = trainer, record, interruption
        self.config, self.processes = trainer.config, trainer.processes
        self.rows: list[Row] = []
        self.best: dict[str, Any] | None = None  # that epoch's row, and the network's state_dict
        self.seconds = 0.0  # training time before the run was resumed
        self.start = self.saved_at = time.monotonic()
        self.losses: list[Tensor] = []  # of the batches since the last check that they are finite
        self.look: Callable[[int], None] = lambda step: None  # the monitor, called after each step

    @property
    def is_finished(self) -> bool:
        return self.trainer.epoch > self.config.epochs or self.is_out_of_patience

    @property
    def is_out_of_patience(self) -> bool:
        patience = self.config.patience
        return patience is not None and self.best is not None and len(self.rows) - self.best["row"]["epoch"] >= patience

    def train(self) -> Result:
        with (
            Progress(self.config.epochs, start=len(self.rows), shown=self.processes.is_first) as progress,
            monitored(self.trainer, self.record.writer) as self.look,
        ):
            while not self.is_finished:
                self.train_epoch()
                row = self.end_epoch()
                self.record.write(self.rows, self.trainer.steps)
                progress.show(row)
                self.save_if_due()
        return self.finish()

    def train_epoch(self) -> None:
        trainer = self.trainer
        for x, y in trainer.batches():
            trainer.step(x, y)
            self.look(trainer.steps)
            is_between_steps = trainer.batch % self.config.accumulate == 0
            if trainer.batch % PENDING == 0:
                self.losses.append(trainer.meter.add_up())
                if is_between_steps:
                    self.save_if_due()
            elif self.interruption.requested and is_between_steps and self.processes.size == 1:
                self.save_if_due()

    def save_if_due(self) -> None:
        """Save after `save_every` seconds or a signal in any process. All processes take the same decision."""
        asked = self.interruption.requested is not None
        due = time.monotonic() - self.saved_at >= self.config.save_every
        if self.processes.min(0 if asked or due else 1) == 0:
            self.save()
            self.stop_if_asked()

    def end_epoch(self) -> Row:
        trainer = self.trainer
        self.losses.append(trainer.meter.add_up())
        self.check_finite()
        self.processes.sum(trainer.meter.sums)
        training, test = trainer.meter.read(), evaluate(trainer)
        row: Row = {"epoch": trainer.epoch}
        for figure in training:
            row[f"train_{figure}"], row[f"test_{figure}"] = training[figure], test[figure]
        self.rows.append(row)
        if self.best is None or is_better(row, self.best["row"]):
            self.best = {"row": row, "network": copy_of(trainer.network)}
        trainer.next_epoch()
        return row

    def finish(self) -> Result:
        """Save, and write the results of the whole run."""
        assert self.best is not None  # there is at least one epoch
        self.save()
        if self.config.patience is not None:
            self.trainer.network.load_state_dict(self.best["network"])
        summary = self.record.finish(self.trainer.network, self.rows, self.best["row"], self.elapsed())
        if self.processes.is_first:
            report(self.config, self.record.folder, summary)
        return Result(self.record.folder, summary, self.trainer.network)

    def say_that_it_has_ended(self) -> Result:
        summary = self.record.read_summary()
        if self.processes.is_first:
            print("the run had ended already; nothing was changed")
            report(self.config, self.record.folder, summary)
        return Result(self.record.folder, summary, self.trainer.network)

    # --- Checkpoints --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write `checkpoints/last.pt` and `best.pt`; raises instead if the network is no longer finite."""
        self.check_finite()
        state = self.state_dict()  # on all processes, as it gathers from them
        if self.processes.is_first:
            self.record.save(state, self.best)
        self.saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {
            "config": self.config.as_dict(),
            "data": self.trainer.dataset.as_dict(),
            "trainer": self.trainer.state_dict(),
            "rows": self.rows,
            "best": self.best,
            "seconds": self.elapsed(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint; raises ValueError if it was trained with other options or data."""
        for name, value in self.config.as_dict().items():
            if name not in CHANGEABLE and state["config"][name] != value:
                raise ValueError(f"one of a run with {name} = {state['config'][name]}, not {value} as in config.json")
        if not self.trainer.dataset.is_like(state["data"]):
            raise ValueError(f"one of a run with other data than {self.config.data} is now")
        self.trainer.load_state_dict(state["trainer"])
        self.rows, self.best, self.seconds = state["rows"], state["best"], state["seconds"]

    def elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.start

    # --- When to stop -------------------------------------------------------------------------------------------------

    def stop_if_asked(self) -> None:
        signal = self.interruption.requested
        if self.processes.min(0 if signal else 1) == 0:
            raise Interrupted(f"stopped by {signal or 'a signal'}; the run is saved", self.record.folder, signal)

    def check_finite(self) -> None:
        """Check that losses and weights are finite. Saved checkpoints are not touched.

        Raises:
            TrainingError: names the epoch, the batch and the layer of the first value that is not.
        """
        losses = torch.cat(self.losses) if self.losses else torch.zeros(0)
        self.losses.clear()
        bad = (~losses.isfinite()).nonzero().flatten().tolist()
        first = self.processes.min(self.trainer.batch - len(losses) + bad[0] if bad else self.trainer.batch)
        if first < self.trainer.batch or not all(p.isfinite().all() for p in self.trainer.network.parameters()):
            raise TrainingError(self.explain_not_finite(first))

    def explain_not_finite(self, batch: int) -> str:
        """Train again from the last checkpoint up to the batch, and check each layer."""
        epoch = self.trainer.epoch
        again = Trainer(self.config, self.trainer.dataset, self.processes)
        again.load_state_dict(checkpoint.load(self.record.checkpoints)["trainer"])
        layer = replay(again, epoch, batch)
        return (
            f"no longer finite in epoch {epoch}, batch {batch + 1}, first in {layer}; a lower --lr or --clip may help. "
            f"The last good checkpoint is {self.record.checkpoints / checkpoint.LAST}"
        )


def replay(trainer: Trainer, epoch: int, batch: int) -> str:
    """Train up to that batch; returns where its first value that is not finite appears."""
    while trainer.epoch < epoch:
        for x, y in trainer.batches():
            trainer.step(x, y)
        trainer.next_epoch()
    for x, y in trainer.batches():
        if trainer.batch == batch:
            return first_not_finite(trainer, x, y)
        trainer.step(x, y)
    return first_not_finite(trainer, *next(iter(trainer.dataset.batches(epoch, trainer.config.batch_size))))


@torch.no_grad()
def evaluate(trainer: Trainer) -> dict[str, float]:
    """The loss, and the accuracy or error, of the test data. Each process evaluates its part."""
    processes, meter = trainer.processes, Meter(trainer.dataset.preparation, trainer.loss, trainer.processes.device)
    for x, y in trainer.dataset.test_batches():
        with trainer.autocast():
            meter.add(trainer.network(processes.share(x)), processes.share(y))
        meter.add_up()
    processes.sum(meter.sums)
    return meter.read()


@torch.no_grad()
def first_not_finite(trainer: Trainer, x: Tensor, y: Tensor) -> str:
    """Where the first value that is not finite appears in a batch: a layer's parameters, its output, or the loss."""
    for index, layer in enumerate(trainer.network.layers):
        if not all(parameter.isfinite().all() for parameter in layer.parameters()):
            return f"the parameters of layer {index}"
        with trainer.autocast():
            x = layer(x)
        if not x.isfinite().all():
            return f"the output of layer {index}"
    return f"the loss, after layer {index}" if not trainer.loss.value(x, y).isfinite().all() else "a gradient"


def is_better(row: Row, best: Row) -> bool:
    """By the accuracy or the error of the test data."""
    if "test_accuracy" in row:
        return row["test_accuracy"] > best["test_accuracy"]
    return row["test_error"] < best["test_error"]


def copy_of(network: MLP) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
