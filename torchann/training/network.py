"""What is trained and how: the tables of losses and optimizers, and the network for a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchann import formulas
from torchann.modules import MLP
from torchann.training.data import Task
from torchann.training.errors import ConfigError

if TYPE_CHECKING:
    from torchann.training.config import Config


class Loss(NamedTuple):
    """A loss E, its derivative by hand (case 1), and the outputs that it suits.

    Args:
        value: of outputs and targets, [N, outputs] each: E of each sample, [N].
        gradient: of the same: ∂E/∂o of each sample, [N, outputs].
        output: the output layer's activation for each task that the loss is for.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]
    output: dict[Task, str]


LOSSES: dict[str, Loss] = {
    "half_squared_error": Loss(
        formulas.half_squared_error,
        formulas.half_squared_error_gradient,
        # One-hot targets are 0 or 1, which is where a sigmoid ends.
        {"classification": "sigmoid", "regression": "identity"},
    ),
    "cross_entropy": Loss(
        partial(F.cross_entropy, reduction="none"),
        lambda output, y: output.softmax(dim=1) - y,
        {"classification": "identity"},
    ),
}

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
}


def make_network(config: Config, inputs: int, outputs: int, task: Task) -> MLP:
    """The network for data of that kind; its first weights depend on the seed alone.

    Raises:
        ConfigError: the loss is not for the task, or there is no memory for the widths.
    """
    suited = [name for name, loss in LOSSES.items() if task in loss.output]
    if config.loss not in suited:
        raise ConfigError(f"--loss: expected one for {task} ({', '.join(suited)}), got {config.loss!r}")
    last = LOSSES[config.loss].output[task]
    try:
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            torch.default_generator.manual_seed(config.seed)
            return MLP([inputs, *config.hidden, outputs], config.activation, last).to(config.torch_dtype)
    except (RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--hidden: expected widths that fit in memory, got {','.join(map(str, config.hidden))!r} ({reason})"
        ) from error
