"""The interface of a data set, and how samples are split and shuffled."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
from torch import Tensor

from torchann.training.data.errors import DataError
from torchann.training.data.preparation import Preparation, Task

TEST_SHARE = 0.2

Batch = tuple[Tensor, Tensor]  # x [n, inputs], y [n, outputs]


class Dataset(ABC):
    """Samples split into training and test samples, prepared, on the device.

    Args:
        preparation: the means, deviations and categories that were learned from the data.
        seed: fixes the split and the order of the training samples.
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

    def as_dict(self) -> dict[str, Any]:
        """What `is_like` needs to recognise the data, as JSON values."""
        return {
            "preparation": self.preparation.to_dict(),
            "train_samples": self.train_samples,
            "test_samples": self.test_samples,
        }

    def is_like(self, known: dict[str, Any]) -> bool:
        """Whether `known`, from `as_dict`, describes the same data. Means may differ by rounding, as on another CPU."""
        return (self.train_samples, self.test_samples) == (known["train_samples"], known["test_samples"]) and (
            self.preparation.is_close_to(Preparation.from_dict(known["preparation"]))
        )

    @abstractmethod
    def batches(self, epoch: int, size: int, start: int = 0) -> Iterator[Batch]:
        """The training batches from number `start` on, in an order that depends only on the seed and the epoch.

        The last one may be smaller.
        """

    @abstractmethod
    def test_batches(self, size: int = 8192) -> Iterator[Batch]:
        """The test samples, in the order of the file."""

    def sample(self, count: int) -> Batch:
        """The first `count` test samples."""
        return next(self.test_batches(count))


def shuffled(rows: int, *seed: int) -> np.ndarray:
    """The numbers from 0 to rows − 1 in an order that depends only on the seed."""
    return np.random.default_rng(seed).permutation(rows)


def test_mask(source: object, rows: int, seed: int, labels: np.ndarray | None) -> np.ndarray:
    """Which rows are test samples, [rows]. Each class has the same share of them, if every class has enough rows.

    Raises:
        DataError: there are too few rows.
    """
    check_rows(source, rows)
    mask = np.zeros(rows, dtype=bool)
    stratify = labels if labels is not None and can_stratify(labels) else None
    mask[train_test_split(np.arange(rows), test_size=TEST_SHARE, random_state=seed, stratify=stratify)[1]] = True
    return mask


def check_rows(source: object, rows: int) -> None:
    if rows < 2:
        raise DataError(f"{source}: expected at least 2 rows, one to train on and one to test on, got {rows}")


def can_stratify(labels: np.ndarray) -> bool:
    counts = np.unique(labels, return_counts=True)[1]
    test_rows = math.ceil(TEST_SHARE * len(labels))
    return counts.min() >= 2 and min(test_rows, len(labels) - test_rows) >= len(counts)
