"""Data for training: sets that scikit-learn carries or that are generated, split, prepared, handed out in batches."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

from torchann.training.data.bundled import SOURCES
from torchann.training.data.dataset import TEST_SHARE, Batch, Dataset
from torchann.training.data.errors import DataError
from torchann.training.data.memory import InMemory
from torchann.training.data.preparation import Categorical, Preparation, Task, learn_numeric, standardise

__all__ = ["SOURCES", "DataError", "Dataset", "Preparation", "Task", "load"]


def load(
    data: str,
    *,
    seed: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """The data set of that name, split (and, where it is generated, generated) by the seed.

    Raises:
        DataError: there is none of that name.

    Example:
        >>> iris = load("iris", seed=0, device="cpu")
        >>> iris.train_samples, iris.test_samples, iris.classes
        (120, 30, ('setosa', 'versicolor', 'virginica'))
    """
    if data not in SOURCES:
        raise DataError(f"{data}: expected one of {', '.join(SOURCES)}")
    its_task, make = SOURCES[data]
    raw = make(seed)
    names = raw.features or tuple(f"x{i}" for i in range(raw.x.shape[1]))
    train, test = train_test_split(
        np.arange(len(raw.x)), test_size=TEST_SHARE, random_state=seed, stratify=raw.y if raw.classes else None
    )
    train, test = np.sort(train), np.sort(test)
    features = learn_numeric(raw.x[train], names)
    x = standardise(raw.x, features)
    if its_task == "classification":
        preparation = Preparation(features, Categorical("y", raw.classes), raw.shape)
        y = np.eye(len(raw.classes))[raw.y]
    else:
        numbers = learn_numeric(raw.y[train, None], ("y",))
        preparation = Preparation(features, numbers, raw.shape)
        y = standardise(raw.y[:, None], numbers)

    def place(rows: np.ndarray) -> Batch:
        return torch.from_numpy(x[rows]).to(device, dtype), torch.from_numpy(y[rows]).to(device, dtype)

    return InMemory(preparation, seed, place(train), place(test))
