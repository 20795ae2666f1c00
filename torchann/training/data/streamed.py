"""A table larger than memory: row groups of a temporary Parquet file, read in a shuffled order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from weakref import finalize

import numpy as np
import polars as pl
import torch

from torchann.training.data.dataset import TEST_SHARE, Batch, Dataset, check_rows, shuffled
from torchann.training.data.errors import DataError
from torchann.training.data.preparation import Preparation
from torchann.training.files import in_one_line

GROUP = 2**19  # values in a row group
MIXED = 16  # how many row groups are shuffled together
ENCODED = 2**20  # numbers encoded at once


class ShuffledParquet:
    """A table's rows in a temporary Parquet file; a fifth of each row group are test rows.

    The file is deleted with this object.

    Raises:
        DataError: the file can't be written, because the disk is full, for example; or there are too few rows.
    """

    def __init__(self, source: Path, frame: pl.LazyFrame, columns: int, seed: int) -> None:
        self.seed = seed
        self.group_rows = max(2, GROUP // columns)
        folder = mkdtemp(prefix="torchann-")
        finalize(self, rmtree, folder)
        self.path = Path(folder, "rows.parquet")
        try:
            frame.sink_parquet(self.path, row_group_size=self.group_rows)
        except OSError as error:
            raise DataError(f"{self.path}: expected to write {source} as Parquet, got {in_one_line(error)}") from error
        self.rows = pl.scan_parquet(self.path).select(pl.len()).collect().item()
        check_rows(source, self.rows)
        self.groups = math.ceil(self.rows / self.group_rows)

    def read(self, group: int, test: bool) -> pl.DataFrame:
        """The training or the test rows of a group, in the order of the file."""
        rows = pl.scan_parquet(self.path).slice(group * self.group_rows, self.group_rows).collect()
        chosen = shuffled(self.size(group), self.seed, group)
        tests = self.test_size(group)
        return rows[np.sort(chosen[:tests] if test else chosen[tests:])]

    def size(self, group: int) -> int:
        return min(self.group_rows, self.rows - group * self.group_rows)

    def test_size(self, group: int) -> int:
        # A last group of one row rounds to no test rows; a table of one small group gets one.
        return round(TEST_SHARE * self.size(group)) or int(self.groups == 1)

    def train_size(self, group: int) -> int:
        return self.size(group) - self.test_size(group)


class Streamed(Dataset):
    """A data set on disk.

    Args:
        groups: the rows.
    """

    def __init__(
        self,
        preparation: Preparation,
        seed: int,
        groups: ShuffledParquet,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(preparation, seed, device, dtype)
        self.groups = groups
        self.train_samples = sum(map(groups.train_size, range(groups.groups)))
        self.test_samples = groups.rows - self.train_samples

    def batches(self, epoch: int, size: int, start: int = 0) -> Iterator[Batch]:
        return cut(self.encoded(self.mixed(epoch, skip=start * size)), size)

    def test_batches(self, size: int = 8192) -> Iterator[Batch]:
        return cut(self.encoded(map(partial(self.groups.read, test=True), range(self.groups.groups))), size)

    def mixed(self, epoch: int, skip: int) -> Iterator[pl.DataFrame]:
        """The training rows without the first `skip`, shuffled within `MIXED` row groups at a time."""
        order = shuffled(self.groups.groups, self.seed, epoch).tolist()
        for first in range(0, len(order), MIXED):
            groups = order[first : first + MIXED]
            rows = sum(map(self.groups.train_size, groups))
            if skip < rows:
                places = shuffled(rows, self.seed, epoch, first + 1)[skip:]
                yield pl.concat([self.groups.read(group, test=False) for group in groups])[places]
            skip = max(0, skip - rows)

    def encoded(self, frames: Iterator[pl.DataFrame]) -> Iterator[Batch]:
        rows = max(1, ENCODED // (self.inputs + self.outputs))
        for frame in frames:
            for piece in frame.iter_slices(rows):
                yield self.preparation.encode_batch(piece, piece, self.dtype, self.device)


def cut(pieces: Iterator[Batch], size: int) -> Iterator[Batch]:
    """Cut pieces of any size into batches of one size; the last batch holds the rest.

    Each x is cloned into memory of its own: the rounding of a matrix product can depend on the memory alignment of x,
    and the pieces of a resumed run begin elsewhere.
    """
    rest: Batch | None = None
    for piece in pieces:
        x, y = piece if rest is None else (torch.cat(pair) for pair in zip(rest, piece, strict=True))
        whole = len(x) // size * size
        if whole:
            for batch in zip(x[:whole].split(size), y[:whole].split(size), strict=True):
                yield batch[0].clone(), batch[1]
        rest = x[whole:], y[whole:]
    if rest is not None and len(rest[0]):
        yield rest[0].clone(), rest[1]
