"""Using a trained network: `train.py predict` and `train.py evaluate`."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch

from torchann.modules import MLP
from torchann.training import checkpoint
from torchann.training.checkpoint import CheckpointError
from torchann.training.choices import LOSSES
from torchann.training.config import Config
from torchann.training.data import DataError, NewRows, Preparation
from torchann.training.data.dataset import Batch
from torchann.training.data.preparation import Rows
from torchann.training.meter import Meter
from torchann.training.network import make_network
from torchann.training.record import BEST


class Model(NamedTuple):
    """The network of a run's best epoch, with its options and the preparation of its data.

    Example:
        >>> model = Model.load(Path("runs/20250102-030405-iris"))  # doctest: +SKIP
        >>> model.preparation.decode(model.network(x))  # doctest: +SKIP
        ['setosa']
    """

    network: MLP
    config: Config
    preparation: Preparation

    @classmethod
    def load(cls, run: Path) -> Model:
        """The network of the run in that folder.

        Raises:
            CheckpointError: the run has no such file, or it is damaged. No code in the file is executed.
        """
        found: list[Model] = []
        best = run / "checkpoints" / BEST
        begun, ended = (os.path.exists(path) for path in (best.with_name(checkpoint.LAST), run / "summary.json"))
        if begun and not ended and not os.path.exists(best):
            raise CheckpointError(f"{best}: expected a run that has ended an epoch, got one to --resume first")
        checkpoint.read(best, lambda state: found.append(cls.from_state(state)))
        return found[0]

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Model:
        config = Config(**{**state["config"], "device": "auto"})  # this machine may have other devices
        preparation = Preparation.from_dict(state["preparation"])
        network = make_network(config, preparation.inputs, preparation.outputs, preparation.task)
        network.load_state_dict(state["network"])
        return cls(network.to(config.torch_device), config, preparation)

    def new_rows(self, file: str, with_targets: bool) -> NewRows:
        return NewRows(file, self.preparation, self.config.missing, with_targets)

    @torch.no_grad()
    def predict(self, rows: Rows) -> list[list[Any]]:
        """For each row the name of its class, or its numbers; "" for a row that lacks a value if `missing` is drop."""
        x = self.preparation.encode(rows, self.config.torch_dtype).to(self.config.torch_device)
        predicted = [[each] if isinstance(each, str) else each for each in self.preparation.decode(self.network(x))]
        if self.config.missing == "drop":
            for row in self.preparation.rows_lacking_values(rows):
                predicted[row] = [""] * len(predicted[row])
        return predicted

    @torch.no_grad()
    def score(self, batches: Iterator[Batch]) -> tuple[dict[str, float], int]:
        """The loss, with the accuracy or the error; and the number of samples."""
        meter = Meter(self.preparation, LOSSES[self.config.loss], self.config.torch_device)
        for x, y in batches:
            meter.add(self.network(x), y)
            meter.add_up()
        return meter.read(), meter.samples

    def encoded(self, rows: NewRows) -> Iterator[Batch]:
        """The encoded inputs and targets of the rows."""
        for x, y in rows:
            yield self.preparation.encode_batch(x, y, self.config.torch_dtype, self.config.torch_device)


def predict(run: Path, file: str, out: Path | None = None) -> None:
    """Write predictions as CSV to `out`, or to stdout: one for each row of the file, in order.

    Raises:
        DataError, CheckpointError: the file or the run can't be used, or `out` can't be written; nothing is written.
    """
    model = Model.load(run)
    rows = model.new_rows(file, with_targets=False)
    lines = as_csv(model, rows)
    if out is None:
        sys.stdout.writelines(lines)
    else:
        checkpoint.write(out, lambda file: file.writelines(line.encode() for line in lines))


def as_csv(model: Model, rows: NewRows) -> Iterator[str]:
    """The names of the targets, then one line for each row."""
    yield as_lines([[column.name for column in model.preparation.target_columns]])
    for x, _ in rows:
        yield as_lines(model.predict(x))


def as_lines(cells: list[list[Any]]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(cells)
    return text.getvalue()


def evaluate(run: Path, file: str | None = None) -> None:
    """Print the loss, and the accuracy or error, on the rows of a file, or on the run's own test data.

    Raises:
        DataError, CheckpointError: the file or the run can't be used.
    """
    model = Model.load(run)
    if file is None:
        dataset = model.config.load_data(model.config.torch_device)
        if not dataset.preparation.is_close_to(model.preparation):
            raise DataError(f"{model.config.data}: expected the data that {run} was trained with, got other ones")
        batches = dataset.test_batches()
    else:
        batches = model.encoded(model.new_rows(file, with_targets=True))
    figures, samples = model.score(batches)
    shown = "  ".join(f"{name} {value:.6g}" for name, value in figures.items())
    print(f"{shown}  ({samples} samples)")
