"""What the options choose from by name: the tables of losses and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchann.modules import HalfSquaredErrorLoss
from torchann.training.data import Task


class Loss(NamedTuple):
    """A loss E, and the outputs that it suits.

    Args:
        value: of outputs and targets, [N, outputs] each: E of each sample, [N].
        total: of the same: the sum over the samples, whose derivative (case 1) `backpropagate` knows by hand.
        output: the output layer's activation for each task that the loss is for.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    total: nn.Module
    output: dict[Task, str]


LOSSES: dict[str, Loss] = {
    "half_squared_error": Loss(
        HalfSquaredErrorLoss("none"),
        HalfSquaredErrorLoss("sum"),
        # One-hot targets are 0 or 1, which is where a sigmoid ends.
        {"classification": "sigmoid", "regression": "identity"},
    ),
    "cross_entropy": Loss(
        nn.CrossEntropyLoss(reduction="none"),
        nn.CrossEntropyLoss(reduction="sum"),
        {"classification": "identity"},
    ),
}

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
}
