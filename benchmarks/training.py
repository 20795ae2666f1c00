"""Steps per second of `train.py`'s loop and of a textbook loop: python -m benchmarks.training

The textbook loop: `DataLoader` over a `TensorDataset`, `nn.Sequential` of the same layers, the same loss and optimizer.
The loop of `train.py`: batches, forward, backward, step, the epoch's figures, evaluation, and all default logging. Both
take turns in one process, on digits, from the same weights.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as train.py does

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.report import as_time, circumstances, machine, new_results, parser_of, table, write
from benchmarks.timing import Call, alternate, ratio, spread
from torchann.console import speak_utf8
from torchann.training.choices import OPTIMIZERS
from torchann.training.config import Config
from torchann.training.data import Dataset, load
from torchann.training.distributed import ProcessGroup
from torchann.training.interruption import Interruption
from torchann.training.loop import Run, few_threads
from torchann.training.network import make_network
from torchann.training.record import Record
from torchann.training.step import Trainer


def main(argv: Sequence[str] | None = None) -> int:
    speak_utf8()
    parser = parser_of("training", __doc__)
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        config = Config(epochs=10**6, device="cpu", logdir=folder)
        results = measure(config, arguments.rounds)
    print(markdown(results))
    write(results, markdown(results), arguments.out, "training-cpu")
    return 0


def measure(config: Config, rounds: int) -> dict[str, Any]:
    dataset = load(config.data, seed=config.seed, device="cpu")
    steps = math.ceil(dataset.train_samples / config.batch_size)
    with (
        ProcessGroup(torch.device("cpu")) as processes,
        Record(config, dataset, processes) as record,
        Interruption() as interruption,
    ):
        ours = Run(Trainer(config, dataset, processes), record, interruption)
        calls = {"textbook": textbook(config, dataset), "train.py": lambda: epoch(ours)}
        with few_threads(ours.trainer):  # makes both faster
            seconds = alternate(calls, "cpu", rounds, block_seconds=0.1)
    per_step = {name: [value / steps for value in values] for name, values in seconds.items()}
    return {
        **new_results(machine("cpu"), {"rounds": rounds}, {}),
        "steps": {name: spread(values)._asdict() for name, values in per_step.items()},
        "times_as_many_steps": ratio(per_step["textbook"], per_step["train.py"])._asdict(),
        "config": config.as_dict() | {"logdir": "", "epochs": None},
    }


def epoch(run: Run) -> None:
    run.train_epoch()
    run.record.write([run.end_epoch()], run.trainer.steps)


def textbook(config: Config, dataset: Dataset) -> Call:
    x, y = (torch.cat(parts) for parts in zip(*dataset.batches(1, config.batch_size), strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=config.batch_size, shuffle=True)
    net = nn.Sequential()
    for layer in make_network(config, dataset.inputs, dataset.outputs, dataset.task).layers:
        linear = nn.Linear(layer.in_features, layer.out_features)
        linear.load_state_dict(layer.state_dict())
        net.extend([linear, nn.Sigmoid()])
    optimizer = OPTIMIZERS[config.optimizer](net.parameters(), config.lr)

    def epoch() -> None:
        for x, y in loader:
            optimizer.zero_grad()
            loss = (net(x) - y).square().sum(dim=1).mean() / 2
            loss.backward()
            optimizer.step()

    return epoch


def markdown(results: dict[str, Any]) -> str:
    more = results["times_as_many_steps"]
    rows = [[name, as_time(step["median"]), as_time(step["iqr"])] for name, step in results["steps"].items()]
    return "\n".join(
        [
            "# The training loop",
            "",
            circumstances(results),
            "",
            f"Digits, batch size {results['config']['batch_size']}, {results['config']['optimizer']}; medians over "
            f"{results['settings']['rounds']} rounds in which both took turns; "
            "± is the distance between the quartiles.",
            "",
            *table(["", "a step", "±"], rows),
            "",
            f"`train.py` makes {more['median']:.2f} times as many steps a second (± {more['iqr']:.2f}).",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
