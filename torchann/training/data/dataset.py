"""What a data set is for training, and how it is split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from torchann.training.data.preparation import Preparation, Task

TEST_SHARE = 0.2

Batch = tuple[Tensor, Tensor]  # x [n, inputs], y [n, outputs]


class Dataset(ABC):
    """Samples split into training and test ones, prepared, on the device.

    Args:
        preparation: what was learned from the training samples.
        seed: what the split and the order of the training samples depend on.
        device, dtype: of the batches.
    """

    train_samples: int
    test_samples: int

    def __init__(self, preparation: Preparation, seed: int, device: torch.device | str, dtype: torch.dtype) -> None:
        self.preparation = preparation
        self.seed = seed
        self.device = torch.device(device)
        self.dtype = dtype

    @property
    def task(self) -> Task:
        return self.preparation.task

    @property
    def inputs(self) -> int:
        return self.preparation.inputs

    @property
    def outputs(self) -> int:
        return self.preparation.outputs

    @property
    def classes(self) -> tuple[str, ...]:
        return self.preparation.classes

    @abstractmethod
    def batches(self, epoch: int, size: int, start: int = 0) -> Iterator[Batch]:
        """The training batches from number `start` on, in an order that depends on the seed and the epoch alone.

        The last one may be smaller.
        """

    @abstractmethod
    def test_batches(self, size: int = 8192) -> Iterator[Batch]:
        """The test samples, in the order of the file."""

    def sample(self, count: int) -> Batch:
        """The first `count` test samples."""
        return next(self.test_batches(count))


def shuffled(rows: int, *seed: int) -> np.ndarray:
    """The numbers below `rows` in an order that depends on the seed alone."""
    return np.random.default_rng(seed).permutation(rows)
