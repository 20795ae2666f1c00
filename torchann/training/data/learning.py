"""Learn from rows, piece by piece: means and deviations from the training rows, the categories from all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from torchann.training.data.errors import DataError
from torchann.training.data.preparation import Categorical, Column, Numeric, numbers_in


class Moments:
    """The count, mean and sum of squared deviations of each column, over all pieces so far; NaN values are ignored.

    Two pieces are combined by the formula of Chan, Golub and LeVeque (1979): a plain sum of squares would lose digits.
    scikit-learn's `StandardScaler.partial_fit` uses the same formula, but it refuses a piece without rows, and from the
    first piece on in which a column has no values, that column's mean or deviation is NaN.
    """

    def __init__(self, columns: int) -> None:
        self.count, self.mean, self.squares = (np.zeros(columns) for _ in range(3))
        self.low, self.high = np.full(columns, np.inf), np.full(columns, -np.inf)

    def add(self, values: np.ndarray) -> None:
        """[n, columns]."""
        with np.errstate(all="ignore"):  # `columns` raises for columns without values or with too large ones
            there = ~np.isnan(values)
            count = there.sum(axis=0)
            mean = np.where(there, values, 0).sum(axis=0) / np.maximum(count, 1)
            squares = np.where(there, values - mean, 0)
            squares = np.square(squares, out=squares).sum(axis=0)
            total = np.maximum(self.count + count, 1)
            step = mean - self.mean
            self.mean = self.mean + step * (count / total)
            self.squares = self.squares + squares + step**2 * (self.count * count / total)
            self.count = self.count + count
            self.low = np.minimum(self.low, np.where(there, values, np.inf).min(axis=0, initial=np.inf))
            self.high = np.maximum(self.high, np.where(there, values, -np.inf).max(axis=0, initial=-np.inf))

    def columns(self, source: object, names: Sequence[str]) -> tuple[Numeric, ...]:
        """The mean and the standard deviation of each column; 1 for the deviation of a constant column.

        Raises:
            DataError: a column has no values, or values too large to be squared.
        """
        with np.errstate(all="ignore"):
            scale = np.sqrt(self.squares / self.count)
        scale = np.where((self.low == self.high) | (scale == 0), 1.0, scale)
        for name, count, deviation in zip(names, self.count, scale, strict=True):
            if count == 0:
                raise DataError(f"{source}: column {name!r}: expected values in the training rows, got none")
            if not np.isfinite(deviation):
                raise DataError(f"{source}: column {name!r}: expected numbers that can be squared, got larger ones")
        return tuple(map(Numeric, names, self.mean.tolist(), scale.tolist()))


class ColumnStatistics:
    """What is learned of a table's columns.

    Args:
        are_numbers: for each column, whether it holds numbers; otherwise it holds names.
    """

    def __init__(self, are_numbers: Mapping[str, bool]) -> None:
        self.numbers = [name for name, are in are_numbers.items() if are]
        self.moments = Moments(len(self.numbers))
        self.names: dict[str, set[str]] = {name: set() for name, are in are_numbers.items() if not are}

    def add(self, train: pl.DataFrame, test: pl.DataFrame) -> None:
        self.moments.add(numbers_in(train, self.numbers))
        for name, known in self.names.items():
            for rows in (train, test):
                known.update(rows[name].drop_nulls().unique())

    def columns(self, source: object) -> dict[str, Column]:
        """Raises:
        DataError: a column has no values in the training rows.
        """
        found: dict[str, Column] = {each.name: each for each in self.moments.columns(source, self.numbers)}
        for name, known in self.names.items():
            found[name] = Categorical(name, in_order(known))
        return found


def in_order(names: set[str]) -> tuple[str, ...]:
    """Sorted by value if all are numbers, else as text.

    The inner `sorted` puts equal numbers such as 1.5 and 1.50 into the same order in every process.
    """
    try:
        return tuple(sorted(sorted(names), key=float))
    except ValueError:
        return tuple(sorted(names))
