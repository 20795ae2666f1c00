"""The files of a run, in its folder.

config.json          the options; `train.py --config` reads it to repeat the run
preparation.json     what was learned from the data: columns, means, classes
checkpoints/last.pt  what a resumed run needs; previous.pt: the one before; damaged.pt: a damaged one, set aside
checkpoints/best.pt  the network with the best test figure
metrics.csv          one row for each epoch
summary.json         the figures of the last and of the best epoch
model.safetensors    the network
events.out.tfevents… for TensorBoard
"""

from __future__ import annotations

import csv
import itertools
import json
import time
from pathlib import Path
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from torchann.modules import MLP
from torchann.training import checkpoint
from torchann.training.config import Config
from torchann.training.data import Dataset
from torchann.training.distributed import ProcessGroup
from torchann.training.errors import ConfigError
from torchann.training.files import in_one_line

BEST = "best.pt"

Row: TypeAlias = dict[str, int | float]  # epoch, train_loss, test_loss, and train_ and test_accuracy or _error


class Record:
    """A run's folder: a new one, or that of a run to resume. Use it in a `with` statement.

    Only the first process writes; the others know the folder's name.

    Raises:
        ConfigError: the folder can't be made or written to.
    """

    def __init__(self, config: Config, dataset: Dataset, processes: ProcessGroup, resume: Path | None = None) -> None:
        self.config, self.dataset, self.processes = config, dataset, processes
        self.folder = resume or make_folder_for_all(config, processes)
        self.checkpoints = self.folder / "checkpoints"
        self.writer: SummaryWriter | None = None
        self.saved_best: dict[str, Any] | None = None
        score = "accuracy" if dataset.task == "classification" else "error"
        *start, self.end = hparams(as_hparams(config), dict.fromkeys((f"{score}/test", "loss/test")))
        if processes.is_first and resume is None:
            self.checkpoints.mkdir()
            write_json(self.folder / "config.json", config.as_dict())
            write_json(self.folder / "preparation.json", dataset.preparation.to_dict())
            self.writer = SummaryWriter(self.folder)
            self.writer.add_text("config", as_table(config.as_text()))
            add_summaries(self.writer, start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def rewrite(self, rows: list[Row], step: int) -> None:
        """Restore the records to the step of the checkpoint, as the resumed run writes everything after it again."""
        if self.processes.is_first:
            self.write_metrics(rows)
            self.writer = SummaryWriter(self.folder, purge_step=step + 1)

    def save(self, state: dict[str, Any], best: dict[str, Any] | None) -> None:
        """Write a checkpoint to resume from, and the best network so far."""
        checkpoint.save(self.checkpoints, state)
        if best is not None and best is not self.saved_best:
            checkpoint.write_state(self.checkpoints / BEST, self.as_model(best["network"]))
            self.saved_best = best

    def as_model(self, network: dict[str, Tensor]) -> dict[str, Any]:
        """The content of `best.pt`, which `prediction.Model` reads to use the network on new data."""
        return {"network": network, "config": self.config.as_dict(), "preparation": self.dataset.preparation.to_dict()}

    def write(self, rows: list[Row], step: int) -> None:
        """Add the figures of the last epoch, which ended with step `step`."""
        if self.writer is None:
            return
        self.write_metrics(rows[-1:], append=len(rows) > 1)
        for key, value in rows[-1].items():
            split, _, figure = key.rpartition("_")
            self.writer.add_scalar(f"{figure}/{split}" if split else figure, value, step)

    def write_metrics(self, rows: list[Row], append: bool = False) -> None:
        with (self.folder / "metrics.csv").open("a" if append else "w", newline="") as file:
            if rows:
                table = csv.DictWriter(file, rows[0])
                if not append:
                    table.writeheader()
                table.writerows(rows)

    def finish(self, network: MLP, rows: list[Row], best: Row, seconds: float) -> dict[str, Any]:
        """Write the network and the summary; returns the summary."""
        summary = {
            **{name: value for name, value in rows[-1].items() if name != "epoch"},
            "best": best,
            "epochs": len(rows),
            "seconds": round(seconds, 3),
            "device": str(self.dataset.device),
            "torch": torch.__version__,
        }
        if self.writer is not None:
            checkpoint.save_weights(self.folder / "model.safetensors", network.state_dict())
            add_summaries(self.writer, [self.end])
            write_json(self.folder / "summary.json", summary)
        return summary

    @property
    def is_complete(self) -> bool:
        return (self.folder / "summary.json").exists()

    def read_summary(self) -> dict[str, Any]:
        """The content of `summary.json`.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = self.folder / "summary.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise checkpoint.CheckpointError(f"{path}: expected JSON, got {in_one_line(error)}") from error


def make_folder_for_all(config: Config, processes: ProcessGroup) -> Path:
    """The first process makes the folder and sends its path, or the error, to all others."""
    folder: Path | None = None
    reason: ConfigError | None = None
    if processes.is_first:
        try:
            folder = make_folder(config)
        except ConfigError as error:
            reason = error
    folder, reason = processes.from_first((folder, reason))
    if folder is None:
        raise reason or ConfigError(f"--logdir: no folder could be made in {config.logdir!r}")
    return folder


def add_summaries(writer: SummaryWriter, summaries: list[Any]) -> None:
    """Add summaries to this run. `SummaryWriter.add_hparams` would put them into a new run in a subfolder."""
    for summary in summaries:
        writer._get_file_writer().add_summary(summary)


def make_folder(config: Config) -> Path:
    """A new folder, <logdir>/<date-time>-<name>, with a number at the end if that name is taken."""
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


def as_hparams(config: Config) -> dict[str, Any]:
    return {
        name: getattr(config, name) if isinstance(getattr(config, name), int | float) else text
        for name, text in config.as_text().items()
    }


def as_table(options: dict[str, str]) -> str:
    """The options as a Markdown table, which TensorBoard renders."""
    return "\n".join(["| option | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in options.items())])


def write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    checkpoint.write(path, lambda file: file.write(text.encode()))
