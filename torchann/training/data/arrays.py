"""Readers for files of arrays x and y: `.npz`, `.pt`, `.safetensors`, and MNIST's IDX. No file can run code."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from torchann.training.data.errors import DataError
from torchann.training.data.preparation import Task
from torchann.training.files import in_one_line, load_plain

IDX_NAME = re.compile(r"idx\d-ubyte(\.gz)?$")
IDX_UNSIGNED_BYTES = 8


class Arrays(NamedTuple):
    """Samples as arrays.

    Args:
        x: [N, inputs] numbers, NaN where one is missing.
        y: [N] class numbers, class names or values, or [N, outputs] values; None if the file has no targets.
        classes: the names of the classes, if they are known.
        shape: height and width, where x are images.
        features: the names of the inputs, if they are known.
        task: if the format determines it.
    """

    x: np.ndarray
    y: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    shape: tuple[int, int] | None = None
    features: tuple[str, ...] = ()
    task: Task | None = None

    @property
    def feature_names(self) -> tuple[str, ...]:
        return self.features or tuple(f"x{index}" for index in range(self.x.shape[1]))

    def take(self, rows: np.ndarray) -> Arrays:
        return self._replace(x=self.x[rows], y=None if self.y is None else self.y[rows])


def is_arrays(path: Path) -> bool:
    return path.suffix.lower() in READERS or IDX_NAME.search(path.name) is not None


def read(path: Path) -> Arrays:
    """The arrays in a file.

    Raises:
        DataError: the file can't be read, or its x and y have a wrong type, shape or value.
    """
    reader = READERS.get(path.suffix.lower(), read_idx)
    try:
        arrays = reader(path)
    except DataError:
        raise
    except Exception as error:  # a damaged file can make a reader raise any exception
        raise DataError(f"{path}: expected {reader.__doc__}, got {in_one_line(error)}") from error
    return checked(path, arrays)


def checked(path: Path, arrays: Arrays) -> Arrays:
    """Check the arrays, and reshape x to [N, inputs], and y of shape [N, 1] to [N].

    Raises:
        DataError: names what is wrong; for an infinite number also its row and column.
    """
    x, y = arrays.x, arrays.y
    if x.dtype.kind not in "buif" or x.ndim == 0:
        raise DataError(f"{path}: x: expected numbers of shape [N, …], got {described(x)}")
    if x.size == 0:
        raise DataError(f"{path}: x: expected samples, got an array of shape {list(x.shape)}")
    if y is not None and not is_target(y):
        raise DataError(f"{path}: y: expected shape [N] or [N, outputs], got {described(y)}")
    if y is not None and len(y) != len(x):
        raise DataError(f"{path}: expected as many samples in x as in y, got {len(x)} and {len(y)}")
    if y is not None and y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    shape = (x.shape[1], x.shape[2]) if x.ndim == 3 else arrays.shape
    for name, values in (("x", x.reshape(len(x), -1)), ("y", y)):
        if values is not None and values.dtype.kind == "f":
            reject(path, name, values, np.isinf(values), "a finite number")
    return arrays._replace(x=x.reshape(len(x), -1), y=y, shape=shape)


def is_target(y: np.ndarray) -> bool:
    return (y.ndim == 1 and y.dtype.kind in "buifU") or (y.ndim == 2 and y.dtype.kind in "buif" and y.shape[1] > 0)


def reject(source: object, name: str, values: np.ndarray, bad: np.ndarray, expected: str) -> None:
    """Raise a `DataError` for the first element that `bad` marks. Rows and columns count from 1."""
    if bad.any():
        place = tuple(np.argwhere(bad)[0])
        where = f"row {place[0] + 1}" + (f", column {place[1] + 1}" if len(place) > 1 else "")
        raise DataError(f"{source}: {name}: {where}: expected {expected}, got {values[place]}")


def described(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {list(array.shape)}"


# --- A reader for each format; its docstring completes "expected …" ---------------------------------------------------


def read_npz(path: Path) -> Arrays:
    """an .npz file with x and y"""
    # np.load treats a file that is no archive as a pickle, and its error tells the user how to allow executing it.
    with path.open("rb") as file, NpzFile(file, allow_pickle=False) as content:
        return from_named(path, content)


def read_pt(path: Path) -> Arrays:
    """a .pt file with the tensors x and y, by name or as a pair, and nothing to execute"""
    with path.open("rb") as file:
        content = load_plain(file)
    if isinstance(content, Tensor):
        content = {"x": content}
    elif isinstance(content, tuple | list) and len(content) == 2:
        content = dict(zip("xy", content, strict=True))
    return from_named(path, content)


def read_safetensors(path: Path) -> Arrays:
    """a .safetensors file with x and y"""
    return from_named(path, safetensors.torch.load_file(path))


def from_named(path: Path, content: Any) -> Arrays:
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: expected x and y by their names, got {type(content).__name__}")
    if "x" not in content:
        raise DataError(f"{path}: expected x and y, got {', '.join(map(str, content)) or 'nothing'}")
    y = as_array(content["y"]) if "y" in content else None
    return Arrays(as_array(content["x"]), y, tuple(map(str, content["classes"])) if "classes" in content else ())


def as_array(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def read_idx(path: Path) -> Arrays:
    """IDX images"""
    images = read_idx_file(path, dimensions=3)
    labels = labels_of(path)
    return Arrays(images, None if labels is None else read_idx_file(labels, dimensions=1), task="classification")


def labels_of(images: Path) -> Path | None:
    """The file of labels beside the images, gzipped or not; None if there is none."""
    name = images.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    candidates = [images.with_name(name), images.with_name(f"{name}.gz")]
    return next((each for each in candidates if each != images and each.is_file()), None)


def read_idx_file(path: Path, dimensions: int) -> np.ndarray:
    """Two zero bytes, the type, the number of dimensions, each dimension (4 bytes, big-endian), then the values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected IDX, got {in_one_line(error)}") from error
    magic = bytes([0, 0, IDX_UNSIGNED_BYTES, dimensions])
    start = 4 + 4 * dimensions
    if content[:4] != magic:
        raise DataError(f"{path}: expected IDX that begins with {magic.hex()}, got {content[:4].hex() or 'nothing'}")
    if len(content) < start:
        raise DataError(f"{path}: expected a header of {start} bytes, got {len(content)}")
    shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
    size = start + int(np.prod(shape, dtype=object))
    if len(content) != size:
        raise DataError(f"{path}: expected {size} bytes, as its header says, got {len(content)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


READERS: dict[str, Callable[[Path], Arrays]] = {
    ".npz": read_npz,
    ".pt": read_pt,
    ".pth": read_pt,
    ".safetensors": read_safetensors,
}
