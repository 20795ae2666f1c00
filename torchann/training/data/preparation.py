"""Turns rows into inputs and targets, and outputs into predictions, by what was learned from the training samples."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl
import torch
from torch import Tensor

Task: TypeAlias = Literal["classification", "regression"]

# A table's rows (numbers as float64, names as text, null for a missing value), or an array's (NaN for a missing value).
Rows: TypeAlias = pl.DataFrame | np.ndarray


@dataclass(frozen=True)
class Numeric:
    """A column of numbers, standardised as (x − mean) / scale. The scale is the standard deviation; 1 if that is 0."""

    name: str
    mean: float
    scale: float


@dataclass(frozen=True)
class Categorical:
    """A column of names, encoded as one-hot in the order of `categories`."""

    name: str
    categories: tuple[str, ...]


Column: TypeAlias = Numeric | Categorical


@dataclass(frozen=True)
class Preparation:
    """How rows become inputs and targets, and outputs become predictions.

    Args:
        features: the columns of the input, in order.
        target: the column of the classes, or the columns of the numbers to predict.
        shape: height and width, where the input is an image.

    Example:
        >>> size = Preparation((Numeric("size", mean=5.0, scale=2.0),), Categorical("kind", ("cat", "dog")))
        >>> size.encode(np.array([[9.0]]))
        tensor([[2.]], dtype=torch.float64)
        >>> size.decode(torch.tensor([[0.1, 0.9]]))
        ['dog']
    """

    features: tuple[Column, ...]
    target: Categorical | tuple[Numeric, ...]
    shape: tuple[int, int] | None = None

    @property
    def task(self) -> Task:
        return "classification" if isinstance(self.target, Categorical) else "regression"

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of the outputs; empty in regression."""
        return self.target.categories if isinstance(self.target, Categorical) else ()

    @property
    def target_columns(self) -> tuple[Column, ...]:
        return (self.target,) if isinstance(self.target, Categorical) else self.target

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """One name for each input; that of a category is column=category."""
        return tuple(name for column in self.features for name in input_names(column))

    @property
    def inputs(self) -> int:
        return len(self.feature_names)

    @property
    def outputs(self) -> int:
        return len(self.classes or self.target_columns)

    @cached_property
    def target_mean(self) -> Tensor:
        """The mean of each number to predict, [outputs], float64; empty in classification."""
        return torch.tensor([each.mean for each in numeric(self.target_columns)], dtype=torch.float64)

    @cached_property
    def target_scale(self) -> Tensor:
        """The scale of each number to predict, [outputs], float64; empty in classification."""
        return torch.tensor([each.scale for each in numeric(self.target_columns)], dtype=torch.float64)

    def encode(self, rows: Rows, dtype: torch.dtype = torch.float64) -> Tensor:
        """The inputs, [N, inputs]: standardised numbers, and one-hot names.

        A missing number becomes its column's mean, which is 0; a missing or unknown name is encoded as all zeros.
        """
        return torch.from_numpy(encode(rows, self.features, self.inputs)).to(dtype)

    def rows_lacking_values(self, rows: Rows) -> list[int]:
        """The indices of the rows in which an input is missing."""
        if isinstance(rows, np.ndarray):
            lacking = np.isnan(rows).any(axis=1)
        else:
            inputs = pl.col([column.name for column in self.features])
            lacking = rows.select(pl.any_horizontal(inputs.is_null())).to_series().to_numpy()
        return np.flatnonzero(lacking).tolist()

    def encode_target(self, rows: Rows, dtype: torch.dtype = torch.float64) -> Tensor:
        """The targets, [N, outputs]. An array holds class numbers [N] or values [N, outputs]."""
        if isinstance(rows, np.ndarray) and self.task == "classification":
            encoded = one_hot(rows, self.outputs)
        else:
            encoded = encode(rows, self.target_columns, self.outputs)
        return torch.from_numpy(encoded).to(dtype)

    def encode_batch(self, x: Rows, y: Rows, dtype: torch.dtype, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """The encoded inputs and targets, on the device."""
        return self.encode(x, dtype).to(device), self.encode_target(y, dtype).to(device)

    def decode(self, output: Tensor) -> list[Any]:
        """What a network's outputs, [N, outputs], predict.

        Returns:
            For each row the name of its class, or a list of numbers in the units of the target.
        """
        if self.task == "classification":
            return [self.classes[number] for number in output.argmax(dim=1).tolist()]
        return (output.double().cpu() * self.target_scale + self.target_mean).tolist()

    def is_close_to(self, other: Preparation) -> bool:
        """Whether the two are the same up to rounding."""
        columns, others = ((*each.features, *each.target_columns) for each in (self, other))
        return len(columns) == len(others) and all(map(are_close, columns, others))

    def to_dict(self) -> dict[str, Any]:
        """The preparation as JSON values; `from_dict` reverses it."""
        return {
            "task": self.task,
            "features": [asdict(column) for column in self.features],
            "target": [asdict(column) for column in self.target_columns],
            "shape": self.shape,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Preparation:
        """The preparation that `to_dict` wrote.

        Raises:
            KeyError, TypeError: `content` was not made by `to_dict`.
        """
        features, targets = (tuple(map(column_from, content[key])) for key in ("features", "target"))
        target = targets[0] if content["task"] == "classification" else targets
        return cls(features, target, content["shape"] and tuple(content["shape"]))


def are_close(column: Column, other: Column) -> bool:
    if isinstance(column, Numeric) and isinstance(other, Numeric):
        are_numbers_close = math.isclose(column.scale, other.scale, rel_tol=1e-9) and math.isclose(
            column.mean, other.mean, rel_tol=1e-9, abs_tol=1e-9 * column.scale
        )
        return column.name == other.name and are_numbers_close
    return column == other


def column_from(content: dict[str, Any]) -> Any:
    if "categories" in content:
        return Categorical(content["name"], tuple(content["categories"]))
    return Numeric(**content)


def numeric(columns: Iterable[Column]) -> list[Numeric]:
    return [column for column in columns if isinstance(column, Numeric)]


def input_names(column: Column) -> list[str]:
    if isinstance(column, Categorical):
        return [f"{column.name}={category}" for category in column.categories]
    return [column.name]


# --- Encoding ---------------------------------------------------------------------------------------------------------


def encode(rows: Rows, columns: tuple[Column, ...], width: int) -> np.ndarray:
    numbers = numeric(columns)
    values = numbers_in(rows, [column.name for column in numbers])
    standardised = (values - [column.mean for column in numbers]) / [column.scale for column in numbers]
    np.nan_to_num(standardised, copy=False, nan=0.0)
    if isinstance(rows, np.ndarray) or len(numbers) == len(columns):
        return standardised
    encoded, place, number = np.empty((len(rows), width)), 0, 0
    for column in columns:
        if isinstance(column, Categorical):
            size = len(column.categories)
            encoded[:, place : place + size] = one_hot(codes(rows, column), size)
        else:
            size = 1
            encoded[:, place] = standardised[:, number]
            number += 1
        place += size
    return encoded


def numbers_in(rows: Rows, names: list[str]) -> np.ndarray:
    """The columns of these names, [N, names], float64, NaN for a missing value."""
    if isinstance(rows, np.ndarray):
        return rows.reshape(len(rows), len(names)).astype(np.float64)
    if not names:  # polars before version 2 makes no array of zero columns
        return np.empty((len(rows), 0))
    return rows.select(names).to_numpy()


def codes(rows: pl.DataFrame, column: Categorical) -> np.ndarray:
    """The index of each row's category; -1 if it is missing or unknown."""
    known = rows[column.name].cast(pl.Enum(column.categories), strict=False)
    return known.to_physical().cast(pl.Int64).fill_null(-1).to_numpy()


def one_hot(numbers: np.ndarray, size: int) -> np.ndarray:
    """[N, size] for [N] numbers; a row of zeros for -1."""
    return (numbers[:, None] == np.arange(size)).astype(np.float64)
