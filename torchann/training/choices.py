"""What the options choose from by name: the tables of losses and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchann import formulas
from torchann.training.data import Task


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
