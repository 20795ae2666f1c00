"""The losses and optimizers that options choose by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchann.modules import HalfSquaredErrorLoss
from torchann.training.data import Task


class Loss(NamedTuple):
    """A loss E, and the activation of the output layer that goes with it.

    Args:
        value: maps outputs and targets, [N, outputs] each, to E of each sample, [N].
        total: the same, summed over the samples; `backpropagate` has a formula for its derivative.
        output: the output layer's activation for each task that the loss can be used for.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    total: nn.Module
    output: dict[Task, str]


LOSSES: dict[str, Loss] = {
    "half_squared_error": Loss(
        HalfSquaredErrorLoss("none"),
        HalfSquaredErrorLoss("sum"),
        # One-hot targets are 0 or 1, the limits of a sigmoid.
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
