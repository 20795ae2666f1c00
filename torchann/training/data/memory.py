"""A data set whose samples are all in memory, on the device."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from torchann.training.data.dataset import Batch, Dataset, shuffled
from torchann.training.data.preparation import Preparation

GATHERED = 2**20  # numbers gathered at once: one gather for each batch would take longer than a small training step


class InMemory(Dataset):
    """A data set in memory.

    Args:
        train, test: the encoded x and y of the training and of the test samples.
    """

    def __init__(self, preparation: Preparation, seed: int, train: Batch, test: Batch) -> None:
        super().__init__(preparation, seed, train[0].device, train[0].dtype)
        self.train, self.test = train, test
        self.train_samples, self.test_samples = len(train[0]), len(test[0])

    def batches(self, epoch: int, size: int, start: int = 0) -> Iterator[Batch]:
        batches_at_once = max(1, GATHERED // (size * (self.inputs + self.outputs)))
        # A batch is always gathered together with the same neighbours, also when training resumes in mid-epoch:
        # the rounding of a matrix product can depend on the memory alignment of x.
        skipped = start % batches_at_once
        order = torch.from_numpy(shuffled(self.train_samples, self.seed, epoch)[(start - skipped) * size :])
        for rows in order.to(self.device).split(batches_at_once * size):
            yield from islice(zip(*self.gather(rows, size), strict=True), skipped, None)
            skipped = 0

    def gather(self, rows: Tensor, size: int) -> list[tuple[Tensor, ...]]:
        return [part.index_select(0, rows).split(size) for part in self.train]

    def test_batches(self, size: int = 8192) -> Iterator[Batch]:
        yield from zip(*(part.split(size) for part in self.test), strict=True)
