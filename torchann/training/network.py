"""What is trained and how: the tables of losses and optimizers, and the network for a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchann.modules import MLP, HalfSquaredErrorLoss
from torchann.training.data import Dataset, Task


class Loss(NamedTuple):
    """A loss and the outputs that it suits.

    Args:
        function: of outputs and targets, [N, outputs] each; the mean over the samples.
        output: the output layer's activation for each task that the loss is for.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    output: dict[Task, str]


LOSSES: dict[str, Loss] = {
    # One-hot targets are 0 or 1, which is where a sigmoid ends.
    "half_squared_error": Loss(HalfSquaredErrorLoss(), {"classification": "sigmoid", "regression": "identity"}),
    "cross_entropy": Loss(F.cross_entropy, {"classification": "identity"}),
}

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
}


def make_network(dataset: Dataset, hidden: Sequence[int], activation: str, loss: str, seed: int) -> MLP:
    """The network for a data set, on its device; its first weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.default_generator.manual_seed(seed)
        network = MLP([dataset.inputs, *hidden, dataset.outputs], activation, LOSSES[loss].output[dataset.task])
    return network.to(dataset.x_train.device)
