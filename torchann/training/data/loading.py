"""Make a `Dataset` from a name or a file, and read new rows for a trained network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch

from torchann.training.data import arrays as files_of_arrays
from torchann.training.data import tables
from torchann.training.data.arrays import Arrays, reject
from torchann.training.data.bundled import SOURCES
from torchann.training.data.dataset import Dataset, test_mask
from torchann.training.data.errors import DataError
from torchann.training.data.learning import ColumnStatistics, Moments
from torchann.training.data.memory import InMemory
from torchann.training.data.preparation import Categorical, Column, Numeric, Preparation, Rows, numeric
from torchann.training.data.streamed import ShuffledParquet, Streamed
from torchann.training.data.tables import ColumnProfile, Kind, Table, check, kind_of, profile_columns, typed

TASKS = ("auto", "classification", "regression")  # auto: decided by the type of the target
MISSING = ("error", "drop", "mean")  # what to do with a row that lacks a value

MOST_CLASS_NUMBERS = 20  # a target of whole numbers with more different values is regression
STREAMED_FROM = 2**30  # bytes; a table's file larger than this is not loaded into memory
CHUNK = 8192  # rows of arrays that `NewRows` yields at once


def load(
    data: str,
    *,
    seed: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    target: str | None = None,
    task: str = "auto",
    missing: str = "error",
    stream: bool = False,
) -> Dataset:
    """A data set. The seed fixes the split and, for a generated set, the samples.

    Args:
        data: a name from `SOURCES`, or a file: a table (CSV, TSV, Parquet) or arrays (.npz, .pt, .safetensors, IDX).
        target: the column of a table that is to be predicted.
        task: one of `TASKS`; auto decides by the target's type.
        missing: one of `MISSING`: a missing value is an error, drops its row, or is replaced by the column's mean.
        stream: leave the table on the disk. Files of more than a GiB always stay there.

    Raises:
        DataError: names the file, the row and the column if known, what was expected and what was found.

    Example:
        >>> iris = load("iris", seed=0, device="cpu")
        >>> iris.train_samples, iris.test_samples, iris.classes
        (120, 30, ('setosa', 'versicolor', 'virginica'))
    """
    place = Target(seed, device, dtype)
    if data in SOURCES:
        refuse_table_options(data, target, stream)
        return from_arrays(data, SOURCES[data].make(seed)._replace(task=SOURCES[data].task), task, missing, place)
    if not os.path.exists(data):  # Path.exists raises where the name is too long
        raise DataError(f"--data: expected a file, or one of {', '.join(SOURCES)}, got {data!r}")
    path = find(data)
    if tables.is_table(path):
        return from_table(path, target, task, missing, stream or path.stat().st_size > STREAMED_FROM, place)
    refuse_table_options(path, target, stream)
    return from_arrays(path, files_of_arrays.read(path), task, missing, place)


def find(data: str) -> Path:
    """The path of the file; raises DataError if there is no such file, or its type is unknown."""
    path = Path(data)
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file")
    if not path.is_file():
        raise DataError(f"{path}: expected a file, got a folder")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: expected data, got an empty file")
    if not tables.is_table(path) and not files_of_arrays.is_arrays(path):
        known = ".csv, .tsv, .parquet, .npz, .pt, .safetensors, or a name that ends in idx3-ubyte or idx3-ubyte.gz"
        raise DataError(f"{path}: expected a file of the type {known}")
    return path


def refuse_table_options(data: object, target: str | None, stream: bool) -> None:
    for option, value in (("--target", target), ("--stream", stream)):
        if value:
            raise DataError(f"{option}: expected a table as --data, got {data}")


class Target:
    """How a data set is split, and where its numbers go.

    Args:
        seed, device, dtype: as for `load`.
    """

    def __init__(self, seed: int, device: torch.device | str, dtype: torch.dtype) -> None:
        self.seed, self.device, self.dtype = seed, device, dtype

    def in_memory(self, preparation: Preparation, train: tuple[Rows, Rows], test: tuple[Rows, Rows]) -> InMemory:
        encoded = (preparation.encode_batch(*rows, self.dtype, self.device) for rows in (train, test))
        return InMemory(preparation, self.seed, *encoded)


# --- Arrays -----------------------------------------------------------------------------------------------------------


def from_arrays(source: object, arrays: Arrays, task: str, missing: str, place: Target) -> InMemory:
    arrays = without_missing(source, arrays, missing)
    y = arrays.y
    if y is None:
        raise DataError(f"{source}: expected y, the targets, beside x, got none")
    if task == "auto":
        task = arrays.task or ("regression" if y.dtype.kind == "f" or y.ndim == 2 else "classification")
    classes = classes_of(source, arrays, y) if task == "classification" else ()
    if classes:
        y = class_numbers(source, y, classes)
    elif y.dtype.kind == "U":
        raise DataError(f"{source}: y: expected numbers for regression, got names")
    is_test = test_mask(source, len(y), place.seed, y if classes else None)
    train, test = arrays.take(~is_test), arrays.take(is_test)
    features = learn_numbers(source, train.x, arrays.feature_names)
    target = Categorical("y", classes) if classes else learn_numbers(source, y[~is_test], names_of_outputs(y))
    preparation = Preparation(features, target, arrays.shape)
    return place.in_memory(preparation, (train.x, y[~is_test]), (test.x, y[is_test]))


def without_missing(source: object, arrays: Arrays, missing: str) -> Arrays:
    """Drop rows with NaN, or raise a DataError for the first NaN that is not allowed; a target is never NaN."""
    x, y = arrays.x, arrays.y
    if missing == "drop":
        lacks = np.isnan(x).any(axis=1)
        if y is not None and y.dtype.kind == "f":
            lacks |= np.isnan(y).reshape(len(y), -1).any(axis=1)
        if lacks.all():
            raise DataError(f"{source}: expected rows without missing values, got none")
        return arrays.take(~lacks) if lacks.any() else arrays
    if missing == "error":
        reject(source, "x", x, np.isnan(x), "a number")
    if y is not None and y.dtype.kind == "f":
        reject(source, "y", y, np.isnan(y), "a number")
    return arrays


def classes_of(source: object, arrays: Arrays, y: np.ndarray) -> tuple[str, ...]:
    """The names of the classes: from the file, else the names in y, else 0, 1, …, one for each distinct number in y."""
    found = arrays.classes or tuple(np.unique(y))
    if len(found) < 2:
        raise DataError(f"{source}: y: expected at least two classes, got one: {found[0]}")
    for name in arrays.classes:
        if arrays.classes.count(name) > 1:
            raise DataError(f"{source}: classes: expected different names, got {name!r} twice")
    if arrays.classes:
        return arrays.classes
    return tuple(map(str, found)) if y.dtype.kind == "U" else tuple(map(str, range(len(found))))


def class_numbers(source: object, y: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """y as indices of the classes, [N]; numbers in y are indices already.

    Raises:
        DataError: names the first row whose value is none of the classes.
    """
    if y.ndim != 1:
        raise DataError(f"{source}: y: expected class numbers of shape [N], got shape {list(y.shape)}")
    if y.dtype.kind == "U":
        reject(source, "y", y, ~np.isin(y, classes), f"one of the classes {', '.join(classes)}")
        order = np.argsort(classes)
        return order[np.searchsorted(classes, y, sorter=order)]
    outside = (y < 0) | (y >= len(classes)) | (y != np.floor(y))
    reject(source, "y", y, outside, f"a class number from 0 to {len(classes) - 1}, as there are {len(classes)} classes")
    return y.astype(np.int64)


def learn_numbers(source: object, values: np.ndarray, names: tuple[str, ...]) -> tuple[Numeric, ...]:
    moments = Moments(len(names))
    moments.add(values.reshape(len(values), len(names)).astype(np.float64))
    return moments.columns(source, names)


def names_of_outputs(y: np.ndarray) -> tuple[str, ...]:
    return ("y",) if y.ndim == 1 else tuple(f"y{index}" for index in range(y.shape[1]))


# --- Tables -----------------------------------------------------------------------------------------------------------


def from_table(path: Path, target: str | None, task: str, missing: str, stream: bool, place: Target) -> Dataset:
    table = Table(path)
    if target is None:
        raise DataError(f"{path}: expected --target, one of the columns {', '.join(table.columns)}, got none")
    table.require([target])
    if len(table.columns) == 1:
        raise DataError(f"{path}: expected columns beside the target {target!r}, got none")
    kinds = kinds_of(table, profile_columns(table, table.columns), target, task, missing)
    frame = table.scan(table.columns).select(typed(kinds))
    if missing == "drop":
        frame = frame.drop_nulls()
    with table.reading():
        if stream:
            return stream_table(path, frame, kinds, target, place)
        return load_table(path, frame.collect(), kinds, target, place)


def kinds_of(table: Table, found: dict[str, ColumnProfile], target: str, task: str, missing: str) -> dict[str, Kind]:
    """The kind of each column; raises a DataError if a column's values don't fit it."""
    kinds: dict[str, Kind] = {}
    for name, column in found.items():
        kinds[name] = kind_of_target(table, column, task) if name == target else kind_of(table, column)
        check(table, column, kinds[name], may_be_missing=missing == "drop" or (missing == "mean" and name != target))
    return kinds


def kind_of_target(table: Table, column: ColumnProfile, task: str) -> Kind:
    """Names and booleans are classes, and so are whole numbers with few different values."""
    if task == "regression":
        return "number"
    is_whole = 0 < column.integers == column.values
    if task == "classification" or (is_whole and len(column.distinct) <= MOST_CLASS_NUMBERS):
        return "whole" if is_whole else "name"
    return kind_of(table, column)


def load_table(path: Path, rows: pl.DataFrame, kinds: dict[str, Kind], target: str, place: Target) -> InMemory:
    labels = None if kinds[target] == "number" else rows[target].to_numpy()
    mask = pl.Series(test_mask(path, len(rows), place.seed, labels))
    train, test = rows.filter(~mask), rows.filter(mask)
    learner = ColumnStatistics({name: kind == "number" for name, kind in kinds.items()})
    learner.add(train, test)
    preparation = preparation_of(path, learner.columns(path), kinds, target)
    return place.in_memory(preparation, (train, train), (test, test))


def stream_table(path: Path, frame: pl.LazyFrame, kinds: dict[str, Kind], target: str, place: Target) -> Streamed:
    groups = ShuffledParquet(path, frame, len(kinds), place.seed)
    learner = ColumnStatistics({name: kind == "number" for name, kind in kinds.items()})
    for group in range(groups.groups):
        learner.add(groups.read(group, test=False), groups.read(group, test=True))
    preparation = preparation_of(path, learner.columns(path), kinds, target)
    return Streamed(preparation, place.seed, groups, place.device, place.dtype)


def preparation_of(path: Path, columns: dict[str, Column], kinds: dict[str, Kind], target: str) -> Preparation:
    predicted = columns[target]
    if isinstance(predicted, Categorical) and len(predicted.categories) < 2:
        raise DataError(
            f"{path}: column {target!r}: expected at least two classes, got one: {predicted.categories[0]!r}"
        )
    features = tuple(columns[name] for name in kinds if name != target)
    return Preparation(features, predicted if isinstance(predicted, Categorical) else (predicted,))


# --- Rows for a trained network ---------------------------------------------------------------------------------------


class NewRows:
    """The rows of a file for a trained network. All rows are checked before the first is yielded.

    Args:
        data: the file.
        preparation: what was learned from the training data.
        missing: the option `missing` of the training run.
        with_targets: whether the rows need targets.

    Raises:
        DataError: names the file, row and column of a value that the network was not trained for.
    """

    def __init__(self, data: str, preparation: Preparation, missing: str, with_targets: bool) -> None:
        self.path = find(data)
        self.preparation, self.missing, self.with_targets = preparation, missing, with_targets
        if tables.is_table(self.path):
            self.table = Table(self.path)
            self.kinds = self.check_table()
        else:
            self.arrays = self.check_arrays()

    def __iter__(self) -> Iterator[tuple[Rows, Rows]]:
        """Inputs and targets, in pieces and in the order of the file.

        Without targets, rows that lack a value are kept, so that there is one prediction for each row.
        """
        if tables.is_table(self.path):
            count = 0
            for piece in self.table.pieces(list(self.kinds)):
                rows = piece.select(typed(self.kinds))
                if self.with_targets and self.missing == "drop":
                    rows = rows.drop_nulls()
                count += len(rows)
                yield rows, rows
            if count == 0:
                raise DataError(f"{self.path}: expected rows without missing values, got none")
        else:
            x, y = self.arrays.x, self.arrays.x if self.arrays.y is None else self.arrays.y
            for start in range(0, len(x), CHUNK):
                yield x[start : start + CHUNK], y[start : start + CHUNK]

    def check_table(self) -> dict[str, Kind]:
        columns = [*self.preparation.features, *(self.preparation.target_columns if self.with_targets else ())]
        names = [column.name for column in columns]
        self.table.require(names)
        found = profile_columns(self.table, names)
        kinds: dict[str, Kind] = {}
        for column in columns:
            kinds[column.name] = kind_of_known(column, found[column.name])
            is_target = column in self.preparation.target_columns
            may_be_missing = self.missing == "drop" or (self.missing == "mean" and not is_target)
            check(self.table, found[column.name], kinds[column.name], may_be_missing)
        self.check_names([column for column in columns if isinstance(column, Categorical)], kinds)
        return kinds

    def check_names(self, columns: list[Categorical], kinds: dict[str, Kind]) -> None:
        if not columns:
            return
        for piece in self.table.pieces(list(kinds)):
            rows = piece.select(tables.ROW, *typed(kinds))
            for column in columns:
                found = tables.first(rows[column.name], rows[tables.ROW], ~rows[column.name].is_in(column.categories))
                if found:
                    expected = f"one of {first_few(column.categories)}, as in the data it was trained with"
                    raise self.table.bad(found[0], column.name, expected, repr(found[1]))

    def check_arrays(self) -> Arrays:
        preparation, path = self.preparation, self.path
        arrays = files_of_arrays.read(path)
        if len(numeric(preparation.features)) != len(preparation.features):
            names = first_few(tuple(column.name for column in preparation.features))
            raise DataError(
                f"{path}: expected a table with the columns {names}, some of which are of names, got arrays"
            )
        if arrays.x.shape[1] != preparation.inputs:
            names = first_few(preparation.feature_names)
            raise DataError(
                f"{path}: x: expected {preparation.inputs} numbers a sample ({names}), got {arrays.x.shape[1]}"
            )
        if self.missing == "error":
            reject(path, "x", arrays.x, np.isnan(arrays.x), "a number")
        if not self.with_targets:
            return arrays._replace(y=None)
        arrays = without_missing(path, arrays, self.missing)
        if arrays.y is None:
            raise DataError(f"{path}: expected y, the targets, beside x, got none")
        if preparation.task == "classification":
            return arrays._replace(y=class_numbers(path, arrays.y, preparation.classes))
        if arrays.y.dtype.kind == "U" or arrays.y.reshape(len(arrays.y), -1).shape[1] != preparation.outputs:
            expected = f"{preparation.outputs} number{'s' if preparation.outputs > 1 else ''} a sample"
            raise DataError(f"{path}: y: expected {expected}, got {files_of_arrays.described(arrays.y)}")
        return arrays


def kind_of_known(column: Column, found: ColumnProfile) -> Kind:
    if isinstance(column, Numeric):
        return "number"
    are_whole = all(name.lstrip("-").isdecimal() for name in column.categories)
    return "whole" if are_whole and found.integers == found.values else "name"


def first_few(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown}, …" if len(names) > 10 else shown
