"""What is learned from the training samples, to prepare new ones the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

Task: TypeAlias = Literal["classification", "regression"]


@dataclass(frozen=True)
class Numeric:
    """A column of numbers, and what they are standardised with; 1 stands for the scale of a constant column."""

    name: str
    mean: float
    scale: float


@dataclass(frozen=True)
class Categorical:
    """A column of names, each of which is one number of a one-hot encoding, in this order."""

    name: str
    categories: tuple[str, ...]


Column: TypeAlias = Numeric | Categorical


@dataclass(frozen=True)
class Preparation:
    """How rows become inputs, and outputs become predictions.

    Args:
        features: the columns of the input, in order.
        target: the column of the classes, or those of the numbers that are predicted.
        shape: height and width, where the input is an image.
    """

    features: tuple[Column, ...]
    target: Categorical | tuple[Numeric, ...]
    shape: tuple[int, int] | None = None

    @property
    def task(self) -> Task:
        return "classification" if isinstance(self.target, Categorical) else "regression"

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the outputs; none in regression."""
        return self.target.categories if isinstance(self.target, Categorical) else ()

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """One for each input; a category's is column=category."""
        return tuple(
            name
            for column in self.features
            for name in (
                [f"{column.name}={category}" for category in column.categories]
                if isinstance(column, Categorical)
                else [column.name]
            )
        )

    @property
    def inputs(self) -> int:
        return len(self.feature_names)

    @property
    def outputs(self) -> int:
        return len(self.target.categories if isinstance(self.target, Categorical) else self.target)

    @cached_property
    def target_mean(self) -> Tensor:
        """Of the numbers that are predicted: [outputs], float64."""
        return torch.tensor([column.mean for column in self.numbers], dtype=torch.float64)

    @cached_property
    def target_scale(self) -> Tensor:
        """Of the numbers that are predicted: [outputs], float64."""
        return torch.tensor([column.scale for column in self.numbers], dtype=torch.float64)

    @property
    def numbers(self) -> tuple[Numeric, ...]:
        return () if isinstance(self.target, Categorical) else self.target

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` makes the same again."""
        targets = (self.target,) if isinstance(self.target, Categorical) else self.target
        return {
            "task": self.task,
            "features": [asdict(column) for column in self.features],
            "target": [asdict(column) for column in targets],
            "shape": self.shape,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Preparation:
        features = [column_from(each) for each in content["features"]]
        target: Any = tuple(column_from(each) for each in content["target"])
        if content["task"] == "classification":
            (target,) = target
        return cls(tuple(features), target, content["shape"] and tuple(content["shape"]))


def column_from(content: dict[str, Any]) -> Column:
    if "categories" in content:
        return Categorical(content["name"], tuple(content["categories"]))
    return Numeric(**content)


def standardise(values: np.ndarray, columns: Sequence[Numeric]) -> np.ndarray:
    return (values - [column.mean for column in columns]) / [column.scale for column in columns]


def learn_numeric(values: np.ndarray, names: Sequence[str]) -> tuple[Numeric, ...]:
    """From the training samples, [N, K]."""
    constant = values.min(axis=0) == values.max(axis=0)
    scale = np.where(constant, 1.0, values.std(axis=0))
    return tuple(map(Numeric, names, values.mean(axis=0).tolist(), scale.tolist()))
