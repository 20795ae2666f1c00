"""Builds the network for a data set by the options."""

from __future__ import annotations

import torch

from torchann.modules import MLP
from torchann.training.choices import LOSSES
from torchann.training.config import Config
from torchann.training.data import Task
from torchann.training.errors import ConfigError


def make_network(config: Config, inputs: int, outputs: int, task: Task) -> MLP:
    """The network; its initial weights depend only on the seed.

    Raises:
        ConfigError: the loss can't be used for the task, or there is not enough memory for the widths.
    """
    suited = [name for name, loss in LOSSES.items() if task in loss.output]
    if config.loss not in suited:
        raise ConfigError(f"--loss: expected one for {task} ({', '.join(suited)}), got {config.loss!r}")
    last = LOSSES[config.loss].output[task]
    try:
        with torch.random.fork_rng(devices=[]):  # restores the caller's random number generator
            torch.default_generator.manual_seed(config.seed)
            return MLP([inputs, *config.hidden, outputs], config.activation, last).to(config.torch_dtype)
    except (RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--hidden: expected widths that fit in memory, got {','.join(map(str, config.hidden))!r} ({reason})"
        ) from error
