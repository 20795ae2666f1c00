"""A training step, and everything that it changes: network, optimizer, gradient scaler, and counters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from torchann.backpropagation import backpropagate
from torchann.modules import MLP
from torchann.training.choices import LOSSES, OPTIMIZERS
from torchann.training.config import Config
from torchann.training.data import Dataset
from torchann.training.distributed import ProcessGroup
from torchann.training.errors import ConfigError
from torchann.training.meter import Meter
from torchann.training.network import make_network

AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """A network in training, with its optimizer. `state_dict` holds what a resumed run needs to be bitwise the same.

    Attributes:
        network: the `MLP`.
        forward: the network, or a wrapper around it (DDP, torch.compile, a CUDA graph).
        epoch, batch: the numbers of the next batch and its epoch. Epochs count from 1, batches from 0.
        steps: how many steps the optimizer has taken.
        meter: the figures of the epoch so far.
    """

    def __init__(self, config: Config, dataset: Dataset, processes: ProcessGroup) -> None:
        self.config, self.dataset, self.processes = config, dataset, processes
        self.network: MLP = make_network(config, dataset.inputs, dataset.outputs, dataset.task).to(processes.device)
        self.loss = LOSSES[config.loss]
        self.optimizer = OPTIMIZERS[config.optimizer](self.network.parameters(), config.lr)
        self.parameters = list(self.network.parameters())
        self.amp_dtype = AMP_DTYPES[config.amp]
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=config.amp == "fp16")
        self.forward = self.wrap()
        self.meter = Meter(dataset.preparation, self.loss, processes.device)
        self.epoch, self.batch, self.steps = 1, 0, 0
        self.batches_in_epoch = math.ceil(dataset.train_samples / config.batch_size)
        # Every epoch has the same number of batches.
        self.last_step = config.epochs * math.ceil(self.batches_in_epoch / config.accumulate)

    def wrap(self) -> Any:
        """The network in the wrappers that the options ask for, if any."""
        forward: Any = self.network
        if self.amp_dtype is not None:
            if self.config.dtype == "float64":
                raise ConfigError(f"--amp: expected off where --dtype is float64, got {self.config.amp!r}")
            forward = Wrapped(forward)
        if self.config.compile:
            forward = torch.compile(forward)
        if self.processes.size > 1:
            devices = [self.processes.device] if self.processes.device.type == "cuda" else None
            forward = DistributedDataParallel(forward, devices)
        if self.config.cuda_graph:
            if self.processes.device.type != "cuda":
                raise ConfigError(f"--cuda-graph: expected a CUDA device, got {self.processes.device}")
            forward = Graphed(forward, self.config.batch_size, self.dataset, self.autocast)
        return forward

    def autocast(self) -> Any:
        if self.amp_dtype is None:
            return nullcontext()
        return torch.autocast(self.processes.device.type, self.amp_dtype)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The remaining batches of this epoch; none if the run was saved after the epoch's last step."""
        if self.batch == self.batches_in_epoch:
            return iter(())
        return self.dataset.batches(self.epoch, self.config.batch_size, start=self.batch)

    def step(self, x: Tensor, y: Tensor) -> None:
        """Forward, backward and, after the last batch of a group, a step of the optimizer.

        The gradient is that of the mean loss over all samples of the group (`accumulate` batches, on all processes), so
        it does not depend on how they are split. Nothing is read back from the device here: the meter computes the
        losses of many batches at a time.
        """
        begins, ends = self.place_in_group()
        if begins:
            for parameter in self.parameters:
                parameter.grad = None
        x, y = self.processes.share(x), self.processes.share(y)
        scale = self.processes.size / self.samples_in_group()  # DDP averages gradients over processes
        with nullcontext() if ends else self.no_sync(), self.autocast():
            _, output = backpropagate(self.forward, x, y, self.loss.total, self.scaled(scale))
        if ends:
            self.update()
        self.meter.add(output, y)
        self.batch += 1

    def scaled(self, gradient: float) -> float | Tensor:
        """The gradient times the scaler's factor, which prevents underflow in float16."""
        if not self.scaler.is_enabled():
            return gradient
        return self.scaler.scale(torch.tensor(gradient, device=self.processes.device))

    def next_epoch(self) -> None:
        self.meter.clear()
        self.epoch, self.batch = self.epoch + 1, 0

    def update(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        if self.config.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.steps += 1

    def learning_rate(self) -> float:
        """For the next step: rising from 0 over `warmup` steps, then constant, or falling to 0 by half a cosine."""
        config = self.config
        if self.steps < config.warmup:
            return config.lr * (self.steps + 1) / config.warmup
        if config.schedule == "constant":
            return config.lr
        progress = (self.steps - config.warmup) / max(1, self.last_step - config.warmup)
        return config.lr * (1 + math.cos(math.pi * progress)) / 2

    def place_in_group(self) -> tuple[bool, bool]:
        """Whether the batch is the first, and whether it is the last, of the batches whose gradients make one step."""
        k = self.config.accumulate
        return self.batch % k == 0, self.batch % k == k - 1 or self.batch == self.batches_in_epoch - 1

    def samples_in_group(self) -> int:
        start = self.batch // self.config.accumulate * self.config.accumulate * self.config.batch_size
        return min(self.config.accumulate * self.config.batch_size, self.dataset.train_samples - start)

    def no_sync(self) -> Any:
        return self.forward.no_sync() if isinstance(self.forward, DistributedDataParallel) else nullcontext()

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "meter": self.meter.state_dict(self.processes),
            "epoch": self.epoch,
            "batch": self.batch,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.meter.load_state_dict(state["meter"], self.processes)
        self.epoch, self.batch, self.steps = state["epoch"], state["batch"], state["steps"]


class Graphed(nn.Module):
    """Runs forward and backward of full batches as CUDA graphs; smaller batches and evaluation run without them."""

    def __init__(self, forward: nn.Module, batch_size: int, dataset: Dataset, autocast: Any) -> None:
        super().__init__()
        self.ordinary = forward
        self.batch_size = batch_size
        example = torch.zeros(batch_size, dataset.inputs, device=dataset.device, dtype=dataset.dtype)
        with autocast():
            self.graphed: Any = torch.cuda.make_graphed_callables(Wrapped(forward), (example,))

    def forward(self, x: Tensor) -> Tensor:
        is_whole = len(x) == self.batch_size and torch.is_grad_enabled()
        return self.graphed(x) if is_whole else self.ordinary(x)


class Wrapped(nn.Module):
    """A module that calls another, so that a wrapper changes this one and not the network."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)
