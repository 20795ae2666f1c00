"""A data set that is in memory, on the device, as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from torchann.training.data.dataset import Batch, Dataset, shuffled
from torchann.training.data.preparation import Preparation

GATHERED = 2**20  # numbers that are gathered at once: a gather for each batch would cost more than a small step


class InMemory(Dataset):
    """Args:
    train, test: x and y of each, prepared.
    """

    def __init__(self, preparation: Preparation, seed: int, train: Batch, test: Batch) -> None:
        super().__init__(preparation, seed, train[0].device, train[0].dtype)
        self.train, self.test = train, test
        self.train_samples, self.test_samples = len(train[0]), len(test[0])

    def batches(self, epoch: int, size: int, start: int = 0) -> Iterator[Batch]:
        batches_at_once = max(1, GATHERED // (size * (self.inputs + self.outputs)))
        # A batch is gathered with the same ones wherever it starts: products may round by where x lies in memory.
        skipped = start % batches_at_once
        order = torch.from_numpy(shuffled(self.train_samples, self.seed, epoch)[(start - skipped) * size :])
        for rows in order.to(self.device).split(batches_at_once * size):
            yield from islice(zip(*self.gather(rows, size), strict=True), skipped, None)
            skipped = 0

    def gather(self, rows: Tensor, size: int) -> list[tuple[Tensor, ...]]:
        return [part.index_select(0, rows).split(size) for part in self.train]

    def test_batches(self, size: int = 8192) -> Iterator[Batch]:
        yield from zip(*(part.split(size) for part in self.test), strict=True)
